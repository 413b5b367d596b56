//! On the wire: whatever bytes come, there is an answer or a closed connection, nothing is appended, ingest
//! lives on, and its log repeats nothing of them.

use std::time::Duration;

use hookline_tests::http::{Client, raw};
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::end_offsets;
use sandbox::sign::{Signer, hmac_sha256_hex};
use sandbox::sources::{CONNECTIONS, GITHUB_SECRET};

use crate::common::{BODY_LIMIT, Site, assert_nothing_leaked, now_s, order};

const TIME_LIMIT: Duration = Duration::from_secs(20);
/// Stands in every body and in a header of every request.
const MARKER: &str = "confidential-8c21";

#[test]
fn whatever_bytes_come_nothing_is_appended_and_nothing_leaks() {
    let site = Site::new("wire", Kafka::shared(), 1);
    let mut ingest = site.ingest().started();
    let body = format!(r#"{{"zen":"{MARKER}","repository":{{"full_name":"a/b"}}}}"#);
    let signature = format!("sha256={}", hmac_sha256_hex(GITHUB_SECRET.value, &[body.as_bytes()]));
    let signed = format!("x-hub-signature-256: {signature}\r\n");
    let length = format!("content-length: {}\r\n", body.len());
    let post = |headers: &str, body: &str| {
        format!(
            "POST /webhooks/github HTTP/1.1\r\nhost: h\r\nx-github-event: push\r\nx-github-delivery: d\r\n\
             x-marker: {MARKER}\r\nconnection: close\r\n{headers}\r\n{body}"
        )
        .into_bytes()
    };
    let long = format!("x-long: {}\r\n", "x".repeat(100 * 1024));
    // What is sent, and what may come back: statuses, or 0 for a closed connection.
    let cases: Vec<(&str, Vec<u8>, &[u16])> = vec![
        ("garbage", (0..4096_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect(), &[0, 400]),
        ("zeros", vec![0; 4096], &[0, 400]),
        ("nothing", Vec::new(), &[0]),
        ("a TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec(), &[0, 400, 505]),
        ("half a head", post("", "")[..60].to_vec(), &[0, 400]),
        ("a body cut off", post(&format!("{signed}{length}"), &body[..20]), &[0, 400]),
        (
            "a chunked body cut off",
            post(&format!("{signed}transfer-encoding: chunked\r\n"), "20\r\n{"),
            &[0, 400],
        ),
        (
            "a chunk of no size",
            post(&format!("{signed}transfer-encoding: chunked\r\n"), "zz\r\n{}\r\n0\r\n\r\n"),
            &[0, 400],
        ),
        ("two lengths", post(&format!("{signed}{length}content-length: 3\r\n"), &body), &[0, 400]),
        ("a negative length", post(&format!("{signed}content-length: -1\r\n"), &body), &[0, 400]),
        (
            "a length beyond the limit",
            post(&format!("{signed}content-length: 9999999999\r\n"), &body),
            &[413],
        ),
        (
            "a body beyond the limit",
            post(&format!("{signed}content-length: {}\r\n", BODY_LIMIT + 1), &"x".repeat(BODY_LIMIT + 1)),
            &[413],
        ),
        ("a head beyond the limit", post(&format!("{signed}{length}{long}"), &body), &[0, 431]),
        ("a gzip body", post(&format!("{signed}{length}content-encoding: gzip\r\n"), &body), &[415]),
        ("two signatures", post(&format!("{signed}{signed}{length}"), &body), &[401]),
        (
            "two signatures, the first wrong",
            post(&format!("x-hub-signature-256: sha256={MARKER}\r\n{signed}{length}"), &body),
            &[401],
        ),
        ("no signature", post(&length, &body), &[401]),
        (
            "a signature that is not text",
            {
                let mut bytes = post(&format!("x-hub-signature-256: sha256=@\r\n{length}"), &body);
                let at = bytes.iter().position(|byte| *byte == b'@').unwrap();
                bytes[at] = 0xff;
                bytes
            },
            &[400, 401],
        ),
        ("another method", post(&format!("{signed}{length}"), &body).replace_start("POST", "PUT"), &[405]),
        (
            "another path",
            post(&format!("{signed}{length}"), &body)
                .replace_start("POST /webhooks/github", "POST /webhooks/%2e%2e"),
            &[404],
        ),
    ];
    for (what, bytes, allowed) in cases {
        let answer = String::from_utf8_lossy(&raw(site.webhooks, &bytes, TIME_LIMIT)).into_owned();
        let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        assert!(allowed.contains(&status), "{what}: {answer:?}");
        for leaked in [MARKER, &signature, GITHUB_SECRET.value] {
            assert!(!answer.contains(leaked), "{what}: {answer:?}");
        }
    }
    assert_eq!(end_offsets(site.bootstrap(), &site.topic()).values().sum::<i64>(), 0, "nothing was appended");

    // It lives, and takes what is right.
    assert_eq!(ingest.ended(), None);
    let order = order(&format!("evt_{MARKER}"), MARKER, "1");
    let client = Client::new();
    assert_eq!(site.post_order(&client, CONNECTIONS[0], &order).status, 200);
    let stale = Signer::Makini { secret: CONNECTIONS[0].secret.value, age_s: 3_600 }.headers(&order, now_s());
    let stale: Vec<_> = stale.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let url = format!("{}/webhooks/makini/acme", site.base_url());
    assert_eq!(client.post(&url, &stale, &order).unwrap().status, 401);
    assert_eq!(end_offsets(site.bootstrap(), &site.topic()).values().sum::<i64>(), 1);
    assert_nothing_leaked(&[ingest.log_text()], &[MARKER, &signature, "x-marker"]);
}

trait ReplaceStart {
    fn replace_start(self, from: &str, to: &str) -> Self;
}

impl ReplaceStart for Vec<u8> {
    fn replace_start(self, from: &str, to: &str) -> Self {
        let rest = self.strip_prefix(from.as_bytes()).unwrap();
        [to.as_bytes(), rest].concat()
    }
}
