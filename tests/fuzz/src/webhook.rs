//! Webhooks: signatures and bodies that anybody may send.

use bolero::check;
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderValue};
use ingest::TraceContext;
use ingest::extract::{Plan, extract};
use ingest::signature::{Unverified, Verifier};
use sha2::Sha256;
use shared::config::{Secret, SourceConfig};

/// In the form of Standard Webhooks; the other schemes take it as it is.
const KEY: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const SOURCE: &str = "verify.hmac = { header = 'x-s' }\nid = '/id'\ntype = '/type'\nentity = '/data/number'\n\
                      order.sequence.at = '/seq'\narray_body = 'split'\n";
const BODY: &[u8] = br#"[{"id":"e1","type":"t","seq":1,"data":{"number":"4711"}},{"id":"e2","seq":2}]"#;

/// Schemes, and the headers that they look at.
const SCHEMES: &[(&str, &[&str])] = &[
    ("verify.hmac = { header = 'x-s' }", &["x-s"]),
    ("verify.github = {}", &["x-hub-signature-256"]),
    ("verify.standard = {}", &["webhook-id", "webhook-timestamp", "webhook-signature"]),
];

fn source(toml: &str) -> SourceConfig {
    let mut source: SourceConfig = toml::from_str(toml).unwrap();
    source.secret_values.push(Secret { key_id: "env:KEY".to_owned(), value: KEY.to_owned().into() });
    source
}

fn request(headers: HeaderMap, body: &[u8]) -> Unverified {
    Unverified { headers, body: Bytes::copy_from_slice(body), path_connection: None, received_at_ms: 1 }
}

#[test]
fn signatures() {
    let verifiers: Vec<_> = SCHEMES
        .iter()
        .map(|(toml, headers)| (Verifier::new("shop", &source(toml)).unwrap(), *headers))
        .collect();
    check!().with_type::<(Vec<Vec<u8>>, Vec<u8>)>().for_each(|(values, body)| {
        for (verifier, names) in &verifiers {
            let mut headers = HeaderMap::new();
            for (name, value) in names.iter().zip(values) {
                if let Ok(value) = HeaderValue::from_bytes(value) {
                    headers.append(*name, value);
                }
            }
            assert!(verifier.verify(request(headers, body)).is_err(), "a random signature is wrong");
        }
    });
}

#[test]
fn bodies() {
    let source = source(SOURCE);
    let (verifier, plan) = (Verifier::new("shop", &source).unwrap(), Plan::new("shop", &source).unwrap());
    let trace = TraceContext { parent: "00-1-2-00".to_owned(), state: None };
    check!().with_type::<(u8, u8, Vec<u8>)>().for_each(|(from, to, drawn)| {
        // A good one, in which something stands for something else.
        let (from, to) = (usize::from(*from) % BODY.len(), usize::from(*to) % BODY.len());
        let body = [&BODY[..from.min(to)], drawn, &BODY[from.max(to)..]].concat();
        let tag = Hmac::<Sha256>::new_from_slice(KEY.as_bytes()).unwrap().chain_update(&body).finalize();
        let mut headers = HeaderMap::new();
        headers.insert("x-s", hex::encode(tag.into_bytes()).parse().unwrap());
        let verified = verifier.verify(request(headers, &body)).unwrap();
        let extracted = extract(&plan, &verified, &trace).unwrap();
        // Nothing that was signed is dropped: it becomes events, or one with the reason.
        let is_empty_array = body.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"[]");
        assert!(!extracted.events().is_empty() || is_empty_array);
        for (event, _) in extracted.events() {
            assert!(!event.id.is_empty());
        }
    });
}
