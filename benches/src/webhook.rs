//! A webhook of the workload: its body of a fixed length, its id, GitHub's signature, and the record that
//! ingest makes of it.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use shared::event::Event;

use crate::workload::{Item, Random};

/// The source that sends them.
pub(crate) const SOURCE: &str = "orders";
/// Their type: GitHub's header `X-GitHub-Event`.
pub(crate) const KIND: &str = "purchase_order";
/// The environment variable that holds the secret, and the secret.
pub(crate) const SECRET_ENV: &str = "HOOKLINE_BENCH_SECRET";
pub(crate) const SECRET: &str = "a secret of this benchmark alone";

const WORDS: [&str; 32] = [
    "order",
    "supplier",
    "delivery",
    "quantity",
    "plant",
    "material",
    "price",
    "currency",
    "approved",
    "pending",
    "invoice",
    "shipment",
    "warehouse",
    "contract",
    "line",
    "item",
    "buyer",
    "terms",
    "net",
    "gross",
    "pallet",
    "carton",
    "freight",
    "customs",
    "export",
    "import",
    "batch",
    "serial",
    "quality",
    "return",
    "credit",
    "debit",
];

/// The id of a webhook: a UUID, as GitHub's `X-GitHub-Delivery`. The same for a repeat.
pub(crate) fn id(item: Item) -> String {
    let mut random = Random(u64::from(item.entity) << 40 ^ item.sequence);
    let (a, b) = (random.next(), random.next());
    let hex = format!("{a:016x}{b:016x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

/// The entity's id in the body.
pub(crate) fn entity(item: Item) -> String {
    format!("{}", 4_500_000_000_u64 + u64::from(item.entity))
}

/// The entity's number, from its id.
pub(crate) fn entity_number(id: &str) -> Option<u32> {
    id.parse::<u64>().ok()?.checked_sub(4_500_000_000)?.try_into().ok()
}

/// The body: JSON of `bytes` bytes, or as short as it can be. The same for a repeat.
pub(crate) fn body(item: Item, bytes: usize) -> Vec<u8> {
    let mut random = Random(item.sequence << 32 ^ u64::from(item.entity));
    let (price, quantity) = (random.next() % 1_000_000, random.next() % 500);
    let mut text = format!(
        "{{\"number\":\"{}\",\"sequence\":{},\"status\":\"{}\",\"supplier\":{{\"id\":{},\"country\":\"DE\"}},\
         \"total\":\"{}.{:02}\",\"currency\":\"EUR\",\"quantity\":{quantity},\"text\":\"",
        entity(item),
        item.sequence,
        WORDS[(random.next() % 32) as usize],
        random.next() % 100_000,
        price / 100,
        price % 100,
    );
    while text.len() + 2 < bytes {
        text.push_str(WORDS[(random.next() % 32) as usize]);
        text.push(' ');
    }
    text.truncate(text.len().min(bytes.saturating_sub(2)));
    text.push_str("\"}");
    text.into_bytes()
}

/// Signs as GitHub does: the header `X-Hub-Signature-256`.
pub(crate) fn signature(body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(SECRET.as_bytes()).unwrap();
    mac.update(body);
    format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
}

/// The event that ingest makes of it. The signature is not a real one: nobody verifies it again, and it is as
/// long.
pub(crate) fn event(item: Item) -> Event {
    let id = id(item);
    let digits: String = id.bytes().filter(u8::is_ascii_hexdigit).map(char::from).collect();
    Event {
        source: SOURCE.to_owned(),
        connection: String::new(),
        kind: KIND.to_owned(),
        time: "2026-01-01T00:00:00.123Z".to_owned(),
        entity: Some(entity(item)),
        sequence: Some(item.sequence.to_string()),
        content_type: Some("application/json".to_owned()),
        traceparent: Some(format!("00-{digits}-{}-00", &digits[..16])),
        tracestate: None,
        received_at_ms: now_ms(),
        scheme: "github".to_owned(),
        key_id: format!("env:{SECRET_ENV}"),
        problem: None,
        snapshot: None,
        signature_headers: vec![("x-hub-signature-256".to_owned(), format!("sha256={digits}{digits}"))],
        id,
    }
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(0)
}

/// The source's part of the configuration: GitHub's signature, order by the body's number.
pub(crate) fn source_config(gap_wait: &str) -> String {
    format!(
        "[sources.{SOURCE}]\nverify.github = {{}}\nsecrets = [\"env:{SECRET_ENV}\"]\nentity = \"/number\"\n\
         [sources.{SOURCE}.order.sequence]\nat = \"/sequence\"\nstart = 1\ngap_wait = \"{gap_wait}\"\n\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: Item = Item { entity: 17, sequence: 3 };

    #[test]
    fn a_body_is_json_of_the_wanted_length_and_says_what_it_is_about() {
        for bytes in [500, 501, 5_000] {
            let body = body(ITEM, bytes);
            assert_eq!(body.len(), bytes);
            let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(json["number"].as_str().and_then(entity_number), Some(17));
            assert_eq!(json["sequence"], 3);
        }
    }

    #[test]
    fn a_repeat_is_the_same_and_another_webhook_is_not() {
        let other = Item { sequence: 4, ..ITEM };
        assert_eq!((id(ITEM), body(ITEM, 500)), (id(ITEM), body(ITEM, 500)));
        assert_ne!(id(ITEM), id(other));
        assert_eq!(id(ITEM).len(), 36);
        assert_eq!(signature(b"x").len(), "sha256=".len() + 64);
    }
}
