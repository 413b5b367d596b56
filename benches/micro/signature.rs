//! Signature check of a request, as ingest does it: GitHub's and the Standard Webhooks' schemes, over two sizes of
//! bodies.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use http::{HeaderMap, HeaderName, HeaderValue};
use ingest::signature::{Unverified, Verified, Verifier};
use sha2::Sha256;
use shared::config::{Secret, SourceConfig};

use crate::case::{Case, Round};
use crate::webhook;
use crate::workload::Item;

/// Webhooks in a round.
const WEBHOOKS: u64 = 1_000;
/// When they are received, and when those of Standard Webhooks were signed.
const NOW_S: i64 = 1_700_000_000;
/// The secret of Standard Webhooks is the base64 of what signs.
const STANDARD_PREFIX: &str = "whsec_";

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for scheme in [Scheme::Github, Scheme::Standard] {
        for bytes in [500, 5_000] {
            let name = format!("signature/{}/{bytes}_bytes", scheme.name());
            cases.push(Case::new(name, WEBHOOKS, move || Verification::new(scheme, bytes)));
        }
    }
    cases
}

/// The schemes that are measured.
#[derive(Clone, Copy)]
enum Scheme {
    Github,
    Standard,
}

impl Scheme {
    const fn name(self) -> &'static str {
        match self {
            Self::Github => "github",
            Self::Standard => "standard",
        }
    }

    fn secret(self) -> String {
        match self {
            Self::Github => webhook::SECRET.to_owned(),
            Self::Standard => format!("{STANDARD_PREFIX}{}", BASE64_STANDARD.encode(webhook::SECRET)),
        }
    }

    /// The headers of a signed request.
    fn sign(self, item: Item, body: &[u8]) -> Vec<(&'static str, String)> {
        match self {
            Self::Github => vec![
                ("x-github-delivery", webhook::id(item)),
                ("x-github-event", webhook::KIND.to_owned()),
                ("x-hub-signature-256", webhook::signature(body)),
            ],
            Self::Standard => {
                let id = webhook::id(item);
                let mut mac = Hmac::<Sha256>::new_from_slice(webhook::SECRET.as_bytes()).unwrap();
                mac.update(format!("{id}.{NOW_S}.").as_bytes());
                mac.update(body);
                let tag = BASE64_STANDARD.encode(mac.finalize().into_bytes());
                vec![
                    ("webhook-id", id),
                    ("webhook-timestamp", NOW_S.to_string()),
                    ("webhook-signature", format!("v1,{tag}")),
                ]
            }
        }
    }
}

/// A source's configuration, with the secret.
fn source(scheme: Scheme, toml: &str) -> SourceConfig {
    let mut source: SourceConfig = toml::from_str(toml).unwrap();
    let key_id = format!("env:{}", webhook::SECRET_ENV);
    source.secret_values.push(Secret { key_id, value: scheme.secret().into() });
    source
}

/// A request with the headers that every sender's client adds.
fn request(signed: Vec<(&'static str, String)>, body: Vec<u8>) -> Unverified {
    let mut headers = HeaderMap::new();
    let common = [
        ("host", "hooks.example.com"),
        ("user-agent", "Hookshot/044aadd"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
    ];
    let common = common.map(|(name, value)| (name, value.to_owned()));
    for (name, value) in common.into_iter().chain(signed) {
        headers.append(HeaderName::from_static(name), HeaderValue::try_from(value).unwrap());
    }
    Unverified { headers, body: Bytes::from(body), path_connection: None, received_at_ms: NOW_S * 1_000 }
}

/// GitHub's source with this configuration, and a verified webhook of it.
pub(crate) fn verified(toml: &str, item: Item, bytes: usize) -> (SourceConfig, Verified) {
    let source = source(Scheme::Github, toml);
    let body = webhook::body(item, bytes);
    let request = request(Scheme::Github.sign(item, &body), body);
    let verified = Verifier::new(webhook::SOURCE, &source).unwrap().verify(request).unwrap();
    (source, verified)
}

struct Verification {
    verifier: Verifier,
    signed: Vec<Unverified>,
    requests: Vec<Unverified>,
    verified: u64,
}

impl Verification {
    fn new(scheme: Scheme, bytes: usize) -> Self {
        let source = source(scheme, &format!("verify.{} = {{}}", scheme.name()));
        let signed = (1..=WEBHOOKS).map(|sequence| {
            let item = Item { entity: 1, sequence };
            let body = webhook::body(item, bytes);
            request(scheme.sign(item, &body), body)
        });
        Self {
            verifier: Verifier::new(webhook::SOURCE, &source).unwrap(),
            signed: signed.collect(),
            requests: Vec::new(),
            verified: 0,
        }
    }
}

impl Round for Verification {
    fn prepare(&mut self) {
        self.verified = 0;
        self.requests = self
            .signed
            .iter()
            .map(|signed| Unverified {
                headers: signed.headers.clone(),
                body: signed.body.clone(),
                path_connection: None,
                received_at_ms: signed.received_at_ms,
            })
            .collect();
    }

    fn run(&mut self) {
        for request in self.requests.drain(..) {
            self.verified += u64::from(self.verifier.verify(request).is_ok());
        }
    }

    fn check(&mut self) {
        assert_eq!(self.verified, WEBHOOKS, "so many requests are verified");
    }
}
