//! The bodies of the webhooks: purchase orders and connection events as a unified API for industrial systems
//! sends them, and repository events as GitHub does. At most 600 bytes each.
//!
//! They are written as text, not through a serializer: numbers such as `12.000`, the order of keys and
//! white space must reach the table byte for byte.

use jiff::Timestamp;

use crate::rng::Rng;

/// The time of a plan's first event: 2026-01-05T08:00:00Z. Fixed, so that a seed gives the same bytes always.
const START_MS: i64 = 1_767_600_000_000;

pub(crate) const VENDORS: [(&str, &str); 6] = [
    ("0000100012", "Müller & Söhne GmbH"),
    ("0000100047", "Hansen Hydraulik A/S"),
    ("0000100205", "Łukasz Stal Sp. z o.o."),
    ("0000101330", "東京ベアリング株式会社"),
    ("0000102001", "Aciéries du Rhône \\\"AdR\\\""),
    ("0000104711", "Fasteners & More, Inc."),
];
pub(crate) const MATERIALS: [&str; 6] =
    ["MAT-10023", "6204-2RS", "HEX-M8X40-A2", "PUMP/CR-32", "SEAL 40x62x8", "V-BELT_SPZ-1250"];
pub(crate) const UNITS: [&str; 4] = ["EA", "KG", "M", "BOX"];
pub(crate) const CURRENCIES: [&str; 4] = ["EUR", "USD", "PLN", "JPY"];

/// A purchase order event. `sequence` is the JSON text of the number, so that it may be wrong on purpose.
pub(crate) fn purchase_order(
    rng: &mut Rng,
    id: &str,
    kind: &str,
    connection: &str,
    number: &str,
    sequence: &str,
) -> Vec<u8> {
    let (vendor, name) = *rng.pick(&VENDORS);
    let currency = rng.pick(&CURRENCIES);
    let items: Vec<String> = (1..=1 + rng.below(2))
        .map(|line| {
            let material = rng.pick(&MATERIALS);
            let unit = rng.pick(&UNITS);
            let (quantity, price) = (rng.below(900) + 1, rng.below(90_000) + 100);
            format!(
                r#"{{"line":"{:05}","material":"{material}","quantity":{quantity}.000,"unit":"{unit}","net_price":"{}.{:02}"}}"#,
                line * 10,
                price / 100,
                price % 100,
            )
        })
        .collect();
    let time = rfc3339(at_ms(rng.below(86_400_000)));
    format!(
        r#"{{"id":"{id}","type":"purchase_order.{kind}","connection_id":"{connection}","sequence":{sequence},"timestamp":"{time}","data":{{"number":"{number}","vendor":{{"id":"{vendor}","name":"{name}"}},"currency":"{currency}","items":[{}]}}}}"#,
        items.join(",")
    )
    .into_bytes()
}

/// A connection event at a time, written as `time`.
pub(crate) fn connection_event(id: &str, kind: &str, connection: &str, time: &str) -> Vec<u8> {
    let system = if connection == "acme" { "SAP S/4HANA" } else { "Maximo" };
    format!(
        "{{\n  \"id\": \"{id}\",\n  \"type\": \"connection.{kind}\",\n  \"connection_id\": \"{connection}\",\n  \
         \"timestamp\": \"{time}\",\n  \"data\": {{ \"system\": \"{system}\" }}\n}}\n"
    )
    .into_bytes()
}

/// A sign of life that configuration says to ignore.
pub(crate) fn ping(id: &str, connection: &str) -> Vec<u8> {
    format!(r#"{{"id":"{id}","type":"ping","connection_id":"{connection}"}}"#).into_bytes()
}

/// A repository event of one of three kinds: its name for `X-GitHub-Event`, and its body.
pub(crate) fn repository_event(rng: &mut Rng, repository: &str) -> (&'static str, Vec<u8>) {
    let number = rng.below(4_000) + 1;
    let repo = format!(
        r#""repository":{{"id":{},"full_name":"{repository}","private":true}}"#,
        7_000 + repository.len()
    );
    match rng.below(3) {
        0 => {
            let (before, after) = (sha(rng), sha(rng));
            let body = format!(
                r#"{{"ref":"refs/heads/main","before":"{before}","after":"{after}",{repo},"pusher":{{"name":"mona"}},"commits":[{{"id":"{after}","message":"Tighten the tolerance of axis {}","modified":["plc/axis.st"]}}]}}"#,
                rng.below(6) + 1,
            );
            ("push", body.into_bytes())
        }
        1 => {
            let action = rng.pick(&["opened", "closed", "reopened", "labeled"]);
            let body = format!(
                r#"{{"action":"{action}","issue":{{"number":{number},"title":"Conveyor stops at 40 °C 🔥","state":"open"}},{repo},"sender":{{"login":"mona"}}}}"#
            );
            ("issues", body.into_bytes())
        }
        _ => {
            let action = rng.pick(&["opened", "synchronize", "closed"]);
            let head = sha(rng);
            let body = format!(
                r#"{{"action":"{action}","number":{number},"pull_request":{{"title":"Ramp down slowly","head":{{"ref":"ramp","sha":"{head}"}},"merged":false}},{repo},"sender":{{"login":"hubot"}}}}"#
            );
            ("pull_request", body.into_bytes())
        }
    }
}

/// The same event with other bytes, as a sender writes it whose serializer changed: still valid JSON.
pub(crate) fn rewritten(body: &[u8]) -> Vec<u8> {
    let mut out = body.to_vec();
    out.splice(1..1, *b"  ");
    out
}

/// A time of the plan's calendar.
pub(crate) fn at_ms(after_start_ms: usize) -> i64 {
    START_MS + i64::try_from(after_start_ms).unwrap_or(0)
}

/// RFC 3339 in UTC, milliseconds only where there are some.
pub(crate) fn rfc3339(ms: i64) -> String {
    Timestamp::from_millisecond(ms).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

/// RFC 3339 with an offset of `hours` from UTC: the same instant, other text.
pub(crate) fn rfc3339_at_offset(ms: i64, hours: i8) -> String {
    let local = rfc3339(ms + i64::from(hours) * 3_600_000);
    let sign = if hours < 0 { '-' } else { '+' };
    format!("{}{sign}{:02}:00", local.trim_end_matches('Z'), hours.unsigned_abs())
}

/// A random id in the form of a UUID of version 4, as GitHub's deliveries have.
pub(crate) fn guid(rng: &mut Rng) -> String {
    let (a, b) = (rng.bits(), rng.bits());
    let variant = 0x8000 | (b >> 48 & 0x3fff);
    format!(
        "{:08x}-{:04x}-4{:03x}-{variant:04x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b & 0xffff_ffff_ffff
    )
}

fn sha(rng: &mut Rng) -> String {
    format!("{:016x}{:016x}{:08x}", rng.bits(), rng.bits(), rng.bits() >> 32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_are_json_of_at_most_600_bytes() {
        let mut rng = Rng::new(1);
        for n in 0..500 {
            let mut bodies = vec![
                purchase_order(&mut rng, "evt_00000001", "created", "globex", "4500000001", "12"),
                connection_event(
                    "evt_00000001",
                    "reauthorization_needed",
                    "globex",
                    &rfc3339_at_offset(at_ms(n), 2),
                ),
                ping("evt_00000001", "acme"),
                repository_event(&mut rng, "globex-industries/line-4").1,
            ];
            bodies.push(rewritten(&bodies[n % 4]));
            for body in bodies {
                assert!(body.len() <= 600, "{} bytes", body.len());
                serde_json::from_slice::<serde_json::Value>(&body).unwrap();
            }
        }
    }

    #[test]
    fn an_offset_changes_the_text_and_not_the_instant() {
        let ms = at_ms(5_400_000);
        assert_eq!(rfc3339(ms), "2026-01-05T09:30:00Z");
        assert_eq!(rfc3339_at_offset(ms, -5), "2026-01-05T04:30:00-05:00");
        assert_eq!(rfc3339_at_offset(ms, 2).parse::<Timestamp>().unwrap().as_millisecond(), ms);
    }
}
