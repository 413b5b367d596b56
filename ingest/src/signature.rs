//! Decides whether a request was signed by someone who knows one of the source's secrets.
//!
//! It sees raw bytes and header values, never parsed JSON; it reads no clock and does no I/O. `http.rs` hands
//! it an [`Unverified`] request; only [`Verifier::verify`] makes a [`Verified`] one, and only that can be
//! extracted and appended, so that an unverified body cannot reach the log.
//!
//! Every secret that may sign is tried, and tags are compared in constant time: how long a refusal takes says
//! nothing about which secret was near.

mod mac;
mod scheme;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};
use shared::config::{Secret, SourceConfig};
use shared::selector::Selector;
use subtle::{Choice, ConstantTimeEq};

use self::mac::{Mac, Tag};
pub use self::scheme::{SIGNATURE_HEADERS_BYTES_MAX, Scheme};
use crate::error::SetupError;

/// A request as it came in. Nobody vouches for it yet.
#[derive(Debug)]
pub struct Unverified {
    /// The request's headers.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
    /// The connection that the path names.
    pub path_connection: Option<String>,
    /// When it was received, milliseconds since 1970.
    pub received_at_ms: i64,
}

/// A request that a known secret has signed. Only [`Verifier::verify`] makes one.
#[derive(Debug)]
pub struct Verified {
    request: Unverified,
    scheme: &'static str,
    matched: Vec<Signer>,
    signed_id: Option<String>,
    signed_at_s: Option<i64>,
    signature_headers: Vec<(String, String)>,
}

/// Whose secret it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// The secret's reference, such as `env:GITHUB_SECRET`.
    pub key_id: Arc<str>,
    /// The connection whose own the secret is; `None` for a source's.
    pub connection: Option<Arc<str>>,
}

/// Why a request is not verified. Every one of them is answered with 401.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No signature, or not what goes with it.
    #[error("header {0} is missing")]
    Missing(HeaderName),
    /// Two headers of a name: which one counts would be a guess.
    #[error("header {0} stands more than once")]
    Repeated(HeaderName),
    /// Not UTF-8.
    #[error("header {0} is not text")]
    NotText(HeaderName),
    /// More than [`SIGNATURE_HEADERS_BYTES_MAX`].
    #[error("the signature's headers are longer than {SIGNATURE_HEADERS_BYTES_MAX} bytes")]
    TooLong,
    /// Not a Unix time in seconds.
    #[error("header {0} is not a Unix time in seconds")]
    Timestamp(HeaderName),
    /// Too old, or from the future.
    #[error("the signed time is outside the tolerance of {0} s; check the sender's clock")]
    Tolerance(u64),
    /// No secret that may sign gives this signature.
    #[error("no signature matches")]
    Wrong,
}

/// How a source's requests are verified: its scheme and the keys of its secrets, ready for use.
#[derive(Debug)]
pub struct Verifier {
    scheme: Scheme,
    keys: Vec<Key>,
    scope: Scope,
    /// Tried in place of an unknown connection's keys, so that it takes the same work to refuse.
    dummy: [Key; 1],
}

#[derive(Debug)]
struct Key {
    mac: Mac,
    signer: Signer,
}

/// Which of the keys may sign a request.
#[derive(Debug)]
enum Scope {
    /// All: the secrets are the source's, or the connection stands in the body, which is not read before it
    /// is verified. (`extract.rs` then asks for the connection that it finds: [`Verified::signer`].)
    All,
    /// Those of the connection that the path names.
    Path(HashMap<String, Range<usize>>),
    /// Those of the connection that this header names.
    Header(HeaderName, HashMap<String, Range<usize>>),
}

impl Verifier {
    /// Prepares the keys of a source's secrets.
    ///
    /// # Errors
    /// A secret or a header's name does not have its form. The message names the key, never the value.
    pub fn new(name: &str, source: &SourceConfig) -> Result<Self, SetupError> {
        let key = format!("sources.{name}");
        let scheme = Scheme::new(&key, &source.verify)?;
        let mut keys = Vec::new();
        let mut add =
            |key: &str, secret: &Secret, span: Option<Range<usize>>, connection: Option<&Arc<str>>| {
                let mac = scheme.key(secret).map_err(|message| {
                    let error = SetupError::new(key, format!("{} {message}", secret.key_id));
                    span.map_or_else(|| error.clone(), |span| error.clone().at(span))
                })?;
                let signer =
                    Signer { key_id: secret.key_id.as_str().into(), connection: connection.cloned() };
                keys.push(Key { mac, signer });
                Ok::<_, SetupError>(keys.len())
            };
        for (n, secret) in source.secret_values.iter().enumerate() {
            add(&format!("{key}.secrets"), secret, source.secrets.get(n).map(|s| s.span()), None)?;
        }
        let mut ranges = HashMap::new();
        for (id, connection) in &source.connections {
            let key = format!("{key}.connections.{id}.secrets");
            let shared_id: Arc<str> = id.as_str().into();
            let mut range: Option<Range<usize>> = None;
            for (n, secret) in connection.secret_values.iter().enumerate() {
                let end = add(&key, secret, connection.secrets.get(n).map(|s| s.span()), Some(&shared_id))?;
                range = Some(range.map_or(end - 1, |r| r.start)..end);
            }
            ranges.extend(range.map(|range| (id.clone(), range)));
        }
        let scope = match &source.connection {
            Some(Selector::Path) if !ranges.is_empty() => Scope::Path(ranges),
            Some(Selector::Header(header)) if !ranges.is_empty() => {
                Scope::Header(scheme::header_name(&format!("{key}.connection"), header)?, ranges)
            }
            Some(Selector::Path | Selector::Header(_) | Selector::Pointer(_) | Selector::BodySha256)
            | None => Scope::All,
        };
        let dummy = [Key { mac: scheme.dummy(), signer: Signer { key_id: "".into(), connection: None } }];
        Ok(Self { scheme, keys, scope, dummy })
    }

    /// The scheme's name, as records carry it.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.scheme.name()
    }

    /// Verifies a request against every secret that may sign it.
    ///
    /// # Errors
    /// It is not signed, not well signed, or not signed now.
    pub fn verify(&self, request: Unverified) -> Result<Verified, Refusal> {
        let signed = self.scheme.read(&request.headers)?;
        let signed_at_s = self.scheme.signed_at(&signed, request.received_at_ms)?;
        let candidates: Vec<Tag> = self.scheme.candidates(&signed).collect();
        let (keys, known) = self.keys_for(&request)?;
        let hits: Vec<Choice> = keys
            .iter()
            .map(|key| {
                let tag = self.scheme.sign(&key.mac, &signed, &request.body);
                candidates.iter().fold(Choice::from(0), |hit, candidate| hit | tag.ct_eq(candidate)) & known
            })
            .collect();
        let matched: Vec<Signer> = keys
            .iter()
            .zip(hits)
            .filter(|(_, hit)| bool::from(*hit))
            .map(|(key, _)| key.signer.clone())
            .collect();
        if matched.is_empty() {
            return Err(Refusal::Wrong);
        }
        let signed_id = signed.id().map(str::to_owned);
        let signature_headers = signed.into_headers();
        Ok(Verified {
            request,
            scheme: self.scheme.name(),
            matched,
            signed_id,
            signed_at_s,
            signature_headers,
        })
    }

    /// The keys that may sign a request; with 0 where they are only tried to take as long.
    fn keys_for(&self, request: &Unverified) -> Result<(&[Key], Choice), Refusal> {
        let (ranges, connection) = match &self.scope {
            Scope::All => return Ok((&self.keys, Choice::from(1))),
            Scope::Path(ranges) => (ranges, request.path_connection.as_deref()),
            Scope::Header(name, ranges) => (ranges, Some(scheme::single(&request.headers, name)?)),
        };
        let keys = connection.and_then(|id| ranges.get(id)).and_then(|range| self.keys.get(range.clone()));
        Ok(keys.map_or((&self.dummy, Choice::from(0)), |keys| (keys, Choice::from(1))))
    }
}

impl Verified {
    /// The request's headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.request.headers
    }

    /// The body, byte for byte.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.request.body
    }

    /// The connection that the path names.
    #[must_use]
    pub fn path_connection(&self) -> Option<&str> {
        self.request.path_connection.as_deref()
    }

    /// When it was received, milliseconds since 1970.
    #[must_use]
    pub fn received_at_ms(&self) -> i64 {
        self.request.received_at_ms
    }

    /// The scheme's name.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }

    /// The id that is part of what was signed.
    #[must_use]
    pub fn signed_id(&self) -> Option<&str> {
        self.signed_id.as_deref()
    }

    /// The time that is part of what was signed, Unix seconds.
    #[must_use]
    pub fn signed_at_s(&self) -> Option<i64> {
        self.signed_at_s
    }

    /// The headers that the signature was verified with: lower-case name, value.
    #[must_use]
    pub fn signature_headers(&self) -> &[(String, String)] {
        &self.signature_headers
    }

    /// Who signed for a connection: `None` where the secret that matched is another connection's.
    #[must_use]
    pub fn signer(&self, connection: &str) -> Option<&Signer> {
        self.matched.iter().find(|signer| signer.connection.as_deref().is_none_or(|own| own == connection))
    }

    /// The one connection whose secret matched; `None` where it is not one, or the secret is the source's.
    #[must_use]
    pub fn only_connection(&self) -> Option<&str> {
        let first = self.matched.first()?.connection.as_deref()?;
        self.matched.iter().all(|signer| signer.connection.as_deref() == Some(first)).then_some(first)
    }

    /// Some secret that matched.
    #[must_use]
    pub fn any_signer(&self) -> Option<&Signer> {
        self.matched.first()
    }
}
