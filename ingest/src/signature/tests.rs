//! What is signed is accepted, and nothing else: the schemes' published vectors, every changed byte, rotation,
//! tolerance, and headers that a hostile sender may write.

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD, Engine as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::HeaderValue;
use proptest::prelude::*;
use sha1::Sha1;
use sha2::{Sha256, Sha512};

use super::*;

/// A source with `verify`, and with secrets: for the source (`""`) or for connections.
fn verifier(toml: &str, secrets: &[(&str, &str)]) -> Verifier {
    try_verifier(toml, secrets).unwrap()
}

fn try_verifier(toml: &str, secrets: &[(&str, &str)]) -> Result<Verifier, SetupError> {
    let mut source: SourceConfig = toml::from_str(toml).unwrap();
    for (n, (connection, value)) in secrets.iter().enumerate() {
        let secret = Secret { key_id: format!("env:S{n}"), value: (*value).to_owned().into() };
        if connection.is_empty() {
            source.secret_values.push(secret);
        } else {
            source.connections.entry((*connection).to_owned()).or_default().secret_values.push(secret);
        }
    }
    Verifier::new("s", &source)
}

fn request(headers: &[(&str, &str)], body: &[u8], now_s: i64) -> Unverified {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    Unverified {
        headers: map,
        body: Bytes::copy_from_slice(body),
        path_connection: None,
        received_at_ms: now_s * 1000,
    }
}

fn refusal(verifier: &Verifier, request: Unverified) -> Refusal {
    verifier.verify(request).unwrap_err()
}

const STANDARD: &str = "verify.standard = {}";
const GITHUB: &str = "verify.github = {}";

const STANDARD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
const STANDARD_BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
const STANDARD_HEADERS: [(&str, &str); 3] = [
    ("webhook-id", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"),
    ("webhook-timestamp", "1649367553"),
    ("webhook-signature", "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="),
];
const STANDARD_TIME: i64 = 1_649_367_553;

const GITHUB_SECRET: &str = "It's a Secret to Everybody";
const GITHUB_SIGNATURE: &str = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

#[test]
fn the_vector_of_standard_webhooks_is_accepted() {
    let verifier = verifier(STANDARD, &[("", STANDARD_SECRET)]);
    let verified = verifier.verify(request(&STANDARD_HEADERS, STANDARD_BODY, STANDARD_TIME)).unwrap();
    assert_eq!(verified.signed_id(), Some("msg_27UH4WbU6Z5A5EzD8u03UvzRbpk"));
    assert_eq!(verified.signed_at_s(), Some(STANDARD_TIME));
    assert_eq!(verified.signer("").unwrap().key_id.as_ref(), "env:S0");
    let mut recorded = verified.signature_headers().to_vec();
    recorded.sort();
    let sent: Vec<_> = STANDARD_HEADERS.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    assert_eq!(recorded, [sent[0].clone(), sent[2].clone(), sent[1].clone()]);
}

#[test]
fn the_vector_of_svix_is_accepted_under_its_own_header_names() {
    let headers = [
        ("svix-id", "msg_p5jXN8AQM9LWM0D4loKWxJek"),
        ("svix-timestamp", "1614265330"),
        ("svix-signature", "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
    ];
    let verifier = verifier(STANDARD, &[("", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]);
    let verified = verifier.verify(request(&headers, br#"{"test": 2432232314}"#, 1_614_265_330)).unwrap();
    assert_eq!(verified.signed_id(), Some("msg_p5jXN8AQM9LWM0D4loKWxJek"));
}

#[test]
fn the_vector_of_github_is_accepted_whatever_the_old_sha1_header_says() {
    let headers = [("x-hub-signature-256", GITHUB_SIGNATURE), ("x-hub-signature", "sha1=00")];
    let verifier = verifier(GITHUB, &[("", GITHUB_SECRET)]);
    let verified = verifier.verify(request(&headers, b"Hello, World!", 0)).unwrap();
    assert_eq!(verified.signed_at_s(), None);
    let only_sha1 = request(&[("x-hub-signature", "sha1=00")], b"Hello, World!", 0);
    assert!(matches!(refusal(&verifier, only_sha1), Refusal::Missing(name) if name == "x-hub-signature-256"));
}

/// Slack's scheme, written as the generic one, with Slack's published vector.
#[test]
fn the_generic_scheme_reproduces_slacks_vector() {
    let toml = "id = '/event_id'\n[verify.hmac]\nheader = 'X-Slack-Signature'\nprefix = 'v0='\n\
                template = 'v0:{timestamp}:{body}'\ntimestamp_header = 'X-Slack-Request-Timestamp'\n";
    let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A\
%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.\
47445629121.803a0bc887a14d10d2c447fce8b6703c";
    let headers = [
        ("x-slack-request-timestamp", "1531420618"),
        ("x-slack-signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"),
    ];
    let verifier = verifier(toml, &[("", "8f742231b10e8888abcd99yyyzzz85a5")]);
    verifier.verify(request(&headers, body, 1_531_420_618)).unwrap();
}

#[test]
fn the_generic_scheme_has_three_hashes_three_encodings_and_lists() {
    let (secret, body) = (b"key".as_slice(), b"body".as_slice());
    let sha1 = Hmac::<Sha1>::new_from_slice(secret).unwrap().chain_update(body).finalize().into_bytes();
    let sha256 = Hmac::<Sha256>::new_from_slice(secret).unwrap().chain_update(body).finalize().into_bytes();
    let sha512 = Hmac::<Sha512>::new_from_slice(secret).unwrap().chain_update(body).finalize().into_bytes();
    let cases = [
        ("hash = 'sha1'\nencoding = 'hex'", hex::encode_upper(sha1)),
        ("encoding = 'base64'", BASE64_STANDARD.encode(sha256)),
        ("hash = 'sha512'\nencoding = 'base64url'", BASE64_URL_SAFE_NO_PAD.encode(sha512)),
        ("hash = 'sha512'\nencoding = 'base64'", BASE64_STANDARD.encode(sha512)),
        ("separator = ','\nprefix = 'v1='", format!("t=5, v0=00, v1=00, v1={}", hex::encode(sha256))),
    ];
    for (more, signature) in cases {
        let verifier =
            verifier(&format!("id = 'body-sha256'\n[verify.hmac]\nheader = 'x-s'\n{more}"), &[("", "key")]);
        verifier.verify(request(&[("x-s", &signature)], body, 0)).unwrap();
        assert_eq!(refusal(&verifier, request(&[("x-s", &signature)], b"Body", 0)), Refusal::Wrong);
    }
}

#[test]
fn a_template_signs_headers_too() {
    let toml = "id = 'header:x-id'\n[verify.hmac]\nheader = 'x-s'\nid_header = 'x-id'\n\
                template = '{id}|{header:x-tenant}|{body}'";
    let verifier = verifier(toml, &[("", "key")]);
    let tag = Hmac::<Sha256>::new_from_slice(b"key").unwrap().chain_update(b"7|acme|body").finalize();
    let signature = hex::encode(tag.into_bytes());
    let headers =
        |tenant| [("x-id", "7"), ("x-tenant", tenant), ("x-s", signature.as_str())].map(|(n, v)| (n, v));
    assert_eq!(verifier.verify(request(&headers("acme"), b"body", 0)).unwrap().signed_id(), Some("7"));
    assert_eq!(refusal(&verifier, request(&headers("globex"), b"body", 0)), Refusal::Wrong);
    assert!(matches!(refusal(&verifier, request(&headers("acme")[..1], b"body", 0)), Refusal::Missing(_)));
}

proptest! {
    /// Of everything that is signed, and of the signature: no byte may differ.
    #[test]
    fn any_changed_byte_is_refused(
        body in proptest::collection::vec(any::<u8>(), 1..64), place in any::<prop::sample::Index>(), flip in 1_u8..=255
    ) {
        let (id, now) = ("msg_1", "1700000000");
        let sign = |body: &[u8]| {
            let key = BASE64_STANDARD.decode(&STANDARD_SECRET["whsec_".len()..]).unwrap();
            let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(format!("{id}.{now}."));
            format!("v1,{}", BASE64_STANDARD.encode(mac.chain_update(body).finalize().into_bytes()))
        };
        let verifier = verifier(STANDARD, &[("", STANDARD_SECRET)]);
        let signature = sign(&body);
        let send = |id: &[u8], now: &[u8], signature: &[u8], body: &[u8]| {
            let mut request = request(&[], body, 1_700_000_000);
            for (name, value) in [("webhook-id", id), ("webhook-timestamp", now), ("webhook-signature", signature)] {
                // What no header can hold never arrives.
                request.headers.insert(name, HeaderValue::from_bytes(value).ok()?);
            }
            Some(verifier.verify(request).is_ok())
        };
        prop_assert_eq!(send(id.as_bytes(), now.as_bytes(), signature.as_bytes(), &body), Some(true));
        let changed = |bytes: &[u8]| {
            let mut bytes = bytes.to_vec();
            let at = place.index(bytes.len());
            bytes[at] ^= flip;
            bytes
        };
        let (id, now, signature) = (id.as_bytes(), now.as_bytes(), signature.as_bytes());
        prop_assert_ne!(send(&changed(id), now, signature, &body), Some(true));
        prop_assert_ne!(send(id, &changed(now), signature, &body), Some(true));
        prop_assert_ne!(send(id, now, &changed(signature), &body), Some(true));
        prop_assert_ne!(send(id, now, signature, &changed(&body)), Some(true));
    }

    #[test]
    fn garbage_in_the_headers_never_panics(
        id in proptest::collection::vec(any::<u8>(), 0..20),
        time in proptest::collection::vec(any::<u8>(), 0..20),
        signature in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut request = request(&[], b"x", 1_700_000_000);
        for (name, value) in [("webhook-id", id), ("webhook-timestamp", time), ("webhook-signature", signature)] {
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                request.headers.insert(name, value);
            }
        }
        prop_assert!(verifier(STANDARD, &[("", STANDARD_SECRET)]).verify(request).is_err());
    }
}

#[test]
fn while_secrets_rotate_either_signs_and_the_record_says_which() {
    let verifier = verifier(GITHUB, &[("", "old"), ("", GITHUB_SECRET)]);
    let verified =
        verifier.verify(request(&[("x-hub-signature-256", GITHUB_SIGNATURE)], b"Hello, World!", 0)).unwrap();
    assert_eq!(verified.signer("").unwrap().key_id.as_ref(), "env:S1");
}

#[test]
fn one_of_several_signatures_is_enough_and_other_versions_are_passed_over() {
    let verifier = verifier(STANDARD, &[("", STANDARD_SECRET)]);
    let good = STANDARD_HEADERS[2].1;
    let with = |signature: &str| {
        let headers = [STANDARD_HEADERS[0], STANDARD_HEADERS[1], ("webhook-signature", signature)];
        verifier.verify(request(&headers, STANDARD_BODY, STANDARD_TIME)).map(drop)
    };
    assert_eq!(with(&format!("v1a,AAAA v1,AAAA {good}")), Ok(()));
    assert_eq!(with(&good.replace("v1,", "v2,")), Err(Refusal::Wrong));
    assert_eq!(with(&good.replace("v1,", "")), Err(Refusal::Wrong));
    assert_eq!(with(""), Err(Refusal::Wrong));
    assert_eq!(with(&good[..good.len() - 1]), Err(Refusal::Wrong), "base64 is padded");
}

#[test]
fn a_time_beyond_the_tolerance_is_refused_either_way() {
    let verifier = verifier("verify.standard = { tolerance = '10s' }", &[("", STANDARD_SECRET)]);
    let at = |now| verifier.verify(request(&STANDARD_HEADERS, STANDARD_BODY, now)).map(drop);
    assert_eq!(at(STANDARD_TIME + 10), Ok(()));
    assert_eq!(at(STANDARD_TIME - 10), Ok(()));
    assert_eq!(at(STANDARD_TIME + 11), Err(Refusal::Tolerance(10)));
    assert_eq!(at(STANDARD_TIME - 11), Err(Refusal::Tolerance(10)));
}

#[test]
fn a_time_that_is_no_time_is_refused() {
    let verifier = verifier(STANDARD, &[("", STANDARD_SECRET)]);
    for time in [
        "",
        "now",
        "-1649367553",
        "+1649367553",
        "1649367553.0",
        "99999999999999999999",
        "１６４９３６７５５３",
    ] {
        let headers = [STANDARD_HEADERS[0], ("webhook-timestamp", time), STANDARD_HEADERS[2]];
        let refused = refusal(&verifier, request(&headers, STANDARD_BODY, STANDARD_TIME));
        assert!(matches!(refused, Refusal::Timestamp(_)), "{time}: {refused}");
    }
}

#[test]
fn missing_repeated_and_overlong_headers_are_refused_by_name() {
    let verifier = verifier(STANDARD, &[("", STANDARD_SECRET)]);
    for (n, (name, value)) in STANDARD_HEADERS.iter().enumerate() {
        let mut headers = STANDARD_HEADERS.to_vec();
        headers.push((name, value));
        let repeated = refusal(&verifier, request(&headers, STANDARD_BODY, STANDARD_TIME));
        assert!(matches!(repeated, Refusal::Repeated(n) if n == *name), "{name}");
        headers.truncate(3);
        headers.remove(n);
        let missing = refusal(&verifier, request(&headers, STANDARD_BODY, STANDARD_TIME));
        assert!(matches!(missing, Refusal::Missing(n) if n == *name), "{name}");
    }
    let long = "x".repeat(SIGNATURE_HEADERS_BYTES_MAX);
    let headers = [("webhook-id", long.as_str()), STANDARD_HEADERS[1], STANDARD_HEADERS[2]];
    assert_eq!(refusal(&verifier, request(&headers, STANDARD_BODY, STANDARD_TIME)), Refusal::TooLong);
    let mut latin = request(&STANDARD_HEADERS, STANDARD_BODY, STANDARD_TIME);
    latin.headers.insert("webhook-id", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    assert!(matches!(refusal(&verifier, latin), Refusal::NotText(_)));
}

#[test]
fn one_connections_secret_never_signs_for_another() {
    let toml = "connection = 'path'\nverify.github = {}";
    let verifier = verifier(toml, &[("acme", GITHUB_SECRET), ("globex", "other"), ("globex", "another")]);
    let to = |connection: &str| {
        let mut request = request(&[("x-hub-signature-256", GITHUB_SIGNATURE)], b"Hello, World!", 0);
        request.path_connection = Some(connection.to_owned());
        verifier.verify(request).map(|verified| verified.signer(connection).unwrap().key_id.to_string())
    };
    assert_eq!(to("acme"), Ok("env:S0".to_owned()));
    assert_eq!(to("globex"), Err(Refusal::Wrong));
    assert_eq!(to("unknown"), Err(Refusal::Wrong));
}

#[test]
fn a_connection_in_a_header_is_held_to_its_own_secrets() {
    let verifier =
        verifier("connection = 'header:x-c'\nverify.github = {}", &[("acme", GITHUB_SECRET), ("b", "b")]);
    let with = |connections: &[&str]| {
        let mut headers = vec![("x-hub-signature-256", GITHUB_SIGNATURE)];
        headers.extend(connections.iter().map(|c| ("x-c", *c)));
        verifier.verify(request(&headers, b"Hello, World!", 0)).map(drop)
    };
    assert_eq!(with(&["acme"]), Ok(()));
    assert_eq!(with(&["b"]), Err(Refusal::Wrong));
    assert!(matches!(with(&[]), Err(Refusal::Missing(_))));
    assert!(matches!(with(&["acme", "b"]), Err(Refusal::Repeated(_))));
}

#[test]
fn an_unknown_connection_is_refused_even_where_the_dummy_key_signed() {
    let verifier = verifier("connection = 'path'\nverify.github = {}", &[("acme", "a")]);
    let tag = Hmac::<Sha256>::new_from_slice(&[0; 32]).unwrap().chain_update(b"x").finalize().into_bytes();
    let mut request = request(&[("x-hub-signature-256", &format!("sha256={}", hex::encode(tag)))], b"x", 0);
    request.path_connection = Some("unknown".to_owned());
    assert_eq!(refusal(&verifier, request), Refusal::Wrong);
}

#[test]
fn a_connection_in_the_body_is_bound_to_the_secret_that_matched() {
    let verifier = verifier("connection = '/c'\nverify.github = {}", &[("acme", GITHUB_SECRET), ("b", "b")]);
    let verified =
        verifier.verify(request(&[("x-hub-signature-256", GITHUB_SIGNATURE)], b"Hello, World!", 0)).unwrap();
    assert_eq!(verified.only_connection(), Some("acme"));
    assert!(verified.signer("acme").is_some() && verified.signer("b").is_none());
}

#[test]
fn a_secret_of_the_wrong_form_is_a_configuration_error_that_does_not_tell_it() {
    for secret in ["whsec_not base64!", "whsec_", "whsk_c2VjcmV0"] {
        let error = try_verifier(STANDARD, &[("", secret)]).unwrap_err().to_string();
        assert!(error.starts_with("sources.s.secrets: env:S0 is"), "{error}");
        assert!(!error.contains(secret) || secret == "whsec_", "{error}");
    }
}

#[test]
fn settings_that_would_do_nothing_are_configuration_errors() {
    for toml in [
        "verify.github = { tolerance = '5m' }",
        "verify.hmac = { header = 'x-s', tolerance = '5m' }",
        "verify.hmac = { header = 'x s' }",
        "verify.hmac = { header = 'x-s', template = '{body}{header:x y}' }",
        "verify.hmac = { header = 'x-s', separator = '' }",
    ] {
        assert!(try_verifier(toml, &[("", "s")]).unwrap_err().key.starts_with("sources.s.verify."), "{toml}");
    }
}

#[test]
fn debug_output_has_no_key_material() {
    let text = format!("{:?}", verifier(GITHUB, &[("", "hunter2hunter2")]));
    assert!(!text.contains("hunter2") && !text.contains("104, 117"), "{text}");
}
