//! Who may send: what senders' own libraries sign is accepted, and refused once a byte is changed; one
//! customer's secret never signs for another.

use std::process::Command;

use hookline_tests::http::Client;
use hookline_tests::{octokit, setup};
use sandbox::sign::hmac_sha256_hex;
use sandbox::sources::{CONNECTIONS, GITHUB, GITHUB_SECRET};
use serde::Deserialize;

use crate::common::{BILLING_SECRET, order, post_signed, shared};

/// Signs as senders do, with their libraries. Arguments: the secret, the body. One JSON line a library.
const SIGN: &str = r#"
import datetime, json, sys
import standardwebhooks, svix.webhooks
secret, body = sys.argv[1:]
now = datetime.datetime.now(datetime.timezone.utc)
for prefix, library in ("webhook", standardwebhooks), ("svix", svix.webhooks):
    id = f"msg_{prefix}"
    headers = {
        f"{prefix}-id": id,
        f"{prefix}-timestamp": str(int(now.timestamp())),
        f"{prefix}-signature": library.Webhook(secret).sign(id, now, body),
    }
    print(json.dumps({"id": id, "headers": list(headers.items())}))
"#;

#[derive(Deserialize)]
struct Signed {
    id: String,
    headers: Vec<(String, String)>,
}

#[test]
fn what_standard_webhooks_and_svix_sign_is_accepted_and_refused_after_any_changed_byte() {
    let shared = shared();
    let body = r#"{"type":"invoice.paid","customer":"c-17","note":"Grüße"}"#;
    let output = Command::new(setup::tool("python"))
        .args(["-c", SIGN, BILLING_SECRET.value, body])
        .output()
        .expect("python (tests/run installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let signed: Vec<Signed> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(signed.len(), 2);
    let (client, url) = (Client::new(), format!("{}/webhooks/billing", shared.site.base_url()));
    for Signed { id, headers } in signed {
        let post = |headers: &[(String, String)], body: &[u8]| {
            let headers: Vec<_> =
                headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            client.post(&url, &headers, body).unwrap().status
        };
        for at in 0..body.len() {
            assert_eq!(post(&headers, &changed(body.as_bytes(), at)), 401, "{id}: byte {at} of the body");
        }
        for n in 0..headers.len() {
            let value = &headers[n].1;
            for at in 0..value.len() {
                let mut headers = headers.clone();
                headers[n].1 = String::from_utf8(changed(value.as_bytes(), at)).unwrap();
                let (name, status) = (&headers[n].0, post(&headers, body.as_bytes()));
                assert_eq!(status, 401, "{id}: byte {at} of {name}");
            }
        }
        assert_eq!(post(&headers, body.as_bytes()), 200, "{id}");
        let records = shared.site.events();
        let own: Vec<_> =
            records.iter().filter(|record| record.header("ce_id").as_ref() == Some(&id)).collect();
        assert_eq!(own.len(), 1, "{id}: the true one is in the log, and nothing else");
        assert_eq!(own[0].value.as_deref(), Some(body.as_bytes()));
    }
}

#[test]
fn what_githubs_library_signs_is_accepted_and_refused_after_any_changed_byte() {
    let shared = shared();
    let (client, url) = (Client::new(), format!("{}/webhooks/{GITHUB}", shared.site.base_url()));
    let github = octokit::deliveries(GITHUB_SECRET.value).into_iter().min_by_key(|d| d.body.len()).unwrap();
    let post = |signature: &str, body: &[u8]| {
        let headers = [
            ("x-github-event", github.event.as_str()),
            ("x-github-delivery", "octokit-changed"),
            ("x-hub-signature-256", signature),
        ];
        client.post(&url, &headers, body).unwrap().status
    };
    let body = github.body.as_bytes();
    for at in (0..body.len()).step_by(body.len().div_ceil(100)) {
        assert_eq!(post(&github.signature, &changed(body, at)), 401, "byte {at} of the body");
    }
    for at in 0..github.signature.len() {
        let signature = String::from_utf8(changed(github.signature.as_bytes(), at)).unwrap();
        assert_eq!(post(&signature, body), 401, "byte {at} of the signature");
    }
    assert_eq!(post(&github.signature, body), 200);
}

#[test]
fn a_connections_secret_never_signs_for_another() {
    let shared = shared();
    let (client, base, [acme, globex]) = (Client::new(), shared.site.base_url(), CONNECTIONS);
    // The path says whose it is.
    let body = order("evt_not_yours", "not-yours", "1");
    let url = format!("{base}/webhooks/makini/{}", acme.id);
    assert_eq!(post_signed(&client, &url, globex.secret.value, &body).unwrap().status, 401);
    // A connection that nobody configured has no secret at all.
    let url = format!("{base}/webhooks/makini/initech");
    assert_eq!(post_signed(&client, &url, acme.secret.value, &body).unwrap().status, 401);
    // The body says whose it is.
    let url = format!("{base}/webhooks/fleet");
    for (connection, secret, status) in [
        (acme.id, globex.secret.value, 401),
        (globex.id, acme.secret.value, 401),
        ("initech", acme.secret.value, 401),
        (acme.id, acme.secret.value, 200),
        (globex.id, globex.secret.value, 200),
    ] {
        let body = format!(r#"{{"id":"evt_fleet_{connection}_{status}","connection_id":"{connection}"}}"#);
        let signature = hmac_sha256_hex(secret, &[body.as_bytes()]);
        let answer = client.post(&url, &[("x-fleet-signature", &signature)], body.as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{connection}: {}", answer.text());
        assert!(status == 200 || answer.header("content-type") == Some("application/problem+json"));
    }
    let ids: Vec<_> = shared.site.events().iter().filter_map(|record| record.header("ce_id")).collect();
    assert!(
        !ids.iter().any(|id| id == "evt_not_yours" || id.starts_with("evt_fleet_") && id.ends_with("401"))
    );
    assert!(ids.iter().any(|id| id == "evt_fleet_acme_200"));
}

/// The bytes with one of them changed; text stays text.
fn changed(bytes: &[u8], at: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[at] = if bytes[at] == b'1' { b'2' } else { b'1' };
    bytes
}
