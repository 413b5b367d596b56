//! The event as it travels through the log: a CloudEvents 1.0 event in Kafka's binary content mode.
//!
//! The record's value is the webhook's body, byte for byte. Its headers carry the CloudEvents attributes
//! (`ce_*`), W3C trace context, and Hookline's own headers (`hookline-*`). Its key decides the partition and
//! is the entity's identity. Formats: CloudEvents 1.0.2, its Kafka Protocol Binding, and W3C Trace Context.
//!
//! Nothing here reads a clock, Kafka or the body.

use std::borrow::Cow;
use std::fmt::Write as _;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use rdkafka::message::{Header, Headers, OwnedHeaders};
use sha2::{Digest, Sha256};

/// The source name under which Hookline's own control records stand.
pub const CONTROL_SOURCE: &str = "hookline";
/// Control records have types that start so.
pub const CONTROL_PREFIX: &str = "hookline.control.";

/// The longest id, type, entity, connection or sequence, in bytes. What is longer is a problem of the event.
pub const ATTRIBUTE_LEN_MAX: usize = 1024;

/// The names of the headers.
pub mod header {
    /// CloudEvents version, always `1.0`.
    pub const SPECVERSION: &str = "ce_specversion";
    /// The event's id.
    pub const ID: &str = "ce_id";
    /// Source and connection, see [`super::encode_source`].
    pub const SOURCE: &str = "ce_source";
    /// The event's type.
    pub const TYPE: &str = "ce_type";
    /// When it happened or, where the sender does not say, was received; RFC 3339.
    pub const TIME: &str = "ce_time";
    /// The entity's id.
    pub const SUBJECT: &str = "ce_subject";
    /// The sequence or version, as the sender wrote it.
    pub const SEQUENCE: &str = "ce_sequence";
    /// The body's media type.
    pub const CONTENT_TYPE: &str = "content-type";
    /// W3C trace context.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace context, vendors' part.
    pub const TRACESTATE: &str = "tracestate";
    /// When ingest received the webhook, milliseconds since 1970.
    pub const RECEIVED_AT: &str = "hookline-received-at";
    /// The signature scheme that verified it.
    pub const SCHEME: &str = "hookline-scheme";
    /// The reference of the secret that verified it.
    pub const KEY_ID: &str = "hookline-key-id";
    /// Why the webhook could not be read; such an event is dead-lettered.
    pub const PROBLEM: &str = "hookline-problem";
    /// The version of the entity, where the record is no event of the sender's but what polling found.
    pub const SNAPSHOT: &str = "hookline-snapshot";
    /// The request's signature headers, each under this prefix.
    pub const SIGNATURE_PREFIX: &str = "hookline-sig-";
}

/// One verified webhook, or what polling found of an entity, as ingest appends it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Event {
    /// Identifies it together with source and connection.
    pub id: String,
    /// The configured source.
    pub source: String,
    /// The customer's connection at that source; empty where there is none.
    pub connection: String,
    /// The event's type.
    pub kind: String,
    /// RFC 3339.
    pub time: String,
    /// What the event is ordered by.
    pub entity: Option<String>,
    /// Sequence or version, as the sender wrote it.
    pub sequence: Option<String>,
    /// The body's media type.
    pub content_type: Option<String>,
    /// W3C `traceparent`.
    pub traceparent: Option<String>,
    /// W3C `tracestate`.
    pub tracestate: Option<String>,
    /// Milliseconds since 1970.
    pub received_at_ms: i64,
    /// The scheme that verified it.
    pub scheme: String,
    /// The reference of the secret that verified it.
    pub key_id: String,
    /// Why it could not be read.
    pub problem: Option<String>,
    /// Where this is no webhook but what polling found: the version of the entity that the body is.
    pub snapshot: Option<String>,
    /// The signature headers of the request: lower-case name, value.
    pub signature_headers: Vec<(String, String)>,
}

/// Why a record of the log is not an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAnEvent {
    /// A header that every event has is missing.
    #[error("header {0} is missing")]
    Missing(&'static str),
    /// A header is not UTF-8, or not of its form.
    #[error("header {0} is malformed")]
    Malformed(&'static str),
    /// Another CloudEvents version.
    #[error("ce_specversion is not 1.0")]
    Version,
}

impl Event {
    /// The headers of the record.
    #[must_use]
    pub fn to_headers(&self) -> OwnedHeaders {
        // By value: `mem::take` would make and free an empty set of headers for each one.
        let put = |out: OwnedHeaders, key: &str, value: &str| out.insert(Header { key, value: Some(value) });
        let mut out = OwnedHeaders::new_with_capacity(16 + self.signature_headers.len());
        out = put(out, header::SPECVERSION, "1.0");
        out = put(out, header::ID, &self.id);
        out = put(out, header::SOURCE, &encode_source(&self.source, &self.connection));
        out = put(out, header::TYPE, &self.kind);
        out = put(out, header::TIME, &self.time);
        let optional = [
            (header::SUBJECT, &self.entity),
            (header::SEQUENCE, &self.sequence),
            (header::CONTENT_TYPE, &self.content_type),
            (header::TRACEPARENT, &self.traceparent),
            (header::TRACESTATE, &self.tracestate),
            (header::PROBLEM, &self.problem),
            (header::SNAPSHOT, &self.snapshot),
        ];
        for (key, value) in optional {
            if let Some(value) = value {
                out = put(out, key, value);
            }
        }
        out = put(out, header::RECEIVED_AT, &self.received_at_ms.to_string());
        out = put(out, header::SCHEME, &self.scheme);
        out = put(out, header::KEY_ID, &self.key_id);
        let mut name = String::from(header::SIGNATURE_PREFIX);
        for (key, value) in &self.signature_headers {
            name.truncate(header::SIGNATURE_PREFIX.len());
            name.push_str(key);
            out = put(out, &name, value);
        }
        out
    }

    /// Reads the headers of a record, see [`EventView::parse`].
    ///
    /// # Errors
    /// The record is not an event of Hookline's.
    pub fn from_headers<H: Headers>(headers: &H) -> Result<Self, NotAnEvent> {
        let view = EventView::parse(headers.iter().map(|h| (h.key.as_bytes(), h.value.unwrap_or_default())))?;
        let mut signature_headers = Vec::new();
        for h in headers.iter() {
            if let Some(name) = h.key.strip_prefix(header::SIGNATURE_PREFIX) {
                signature_headers
                    .push((name.to_owned(), utf8(h.value.unwrap_or_default(), "hookline-sig-*")?.to_owned()));
            }
        }
        let owned = |value: Option<&str>| value.map(str::to_owned);
        Ok(Self {
            id: view.id.to_owned(),
            source: view.source.to_owned(),
            connection: view.connection.into_owned(),
            kind: view.kind.to_owned(),
            time: view.time.to_owned(),
            entity: owned(view.entity),
            sequence: owned(view.sequence),
            content_type: owned(view.content_type),
            traceparent: owned(view.traceparent),
            tracestate: owned(view.tracestate),
            received_at_ms: view.received_at_ms,
            scheme: view.scheme.to_owned(),
            key_id: view.key_id.to_owned(),
            problem: owned(view.problem),
            snapshot: owned(view.snapshot),
            signature_headers,
        })
    }

    /// The record's key: see [`entity_key`] and [`body_key`].
    #[must_use]
    pub fn key(&self, body: &[u8]) -> String {
        self.entity.as_ref().map_or_else(
            || body_key(&self.source, &self.connection, body),
            |entity| entity_key(&self.source, &self.connection, entity),
        )
    }
}

/// An event's headers, borrowed from a record: what the fold and the sinks read. No field is copied.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "each field is documented at `Event`")]
pub struct EventView<'a> {
    pub id: &'a str,
    pub source: &'a str,
    pub connection: Cow<'a, str>,
    pub kind: &'a str,
    pub time: &'a str,
    pub entity: Option<&'a str>,
    pub sequence: Option<&'a str>,
    pub content_type: Option<&'a str>,
    pub traceparent: Option<&'a str>,
    pub tracestate: Option<&'a str>,
    pub received_at_ms: i64,
    pub scheme: &'a str,
    pub key_id: &'a str,
    pub problem: Option<&'a str>,
    pub snapshot: Option<&'a str>,
}

impl<'a> EventView<'a> {
    /// Reads names and values of a record's headers. Unknown headers are passed over; of a repeated one the
    /// last counts.
    ///
    /// # Errors
    /// The record is not an event of Hookline's.
    pub fn parse(headers: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<Self, NotAnEvent> {
        let mut view = Self::default();
        let (mut version, mut source, mut kind) = (None, None, None);
        for (name, value) in headers {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            match name {
                header::SPECVERSION => version = Some(value),
                header::ID => view.id = utf8(value, header::ID)?,
                header::SOURCE => source = Some(utf8(value, header::SOURCE)?),
                header::TYPE => kind = Some(utf8(value, header::TYPE)?),
                header::TIME => view.time = utf8(value, header::TIME)?,
                header::SUBJECT => view.entity = Some(utf8(value, header::SUBJECT)?),
                header::SEQUENCE => view.sequence = Some(utf8(value, header::SEQUENCE)?),
                header::CONTENT_TYPE => view.content_type = Some(utf8(value, header::CONTENT_TYPE)?),
                header::TRACEPARENT => view.traceparent = Some(utf8(value, header::TRACEPARENT)?),
                header::TRACESTATE => view.tracestate = Some(utf8(value, header::TRACESTATE)?),
                header::PROBLEM => view.problem = Some(utf8(value, header::PROBLEM)?),
                header::SNAPSHOT => view.snapshot = Some(utf8(value, header::SNAPSHOT)?),
                header::RECEIVED_AT => {
                    view.received_at_ms = utf8(value, header::RECEIVED_AT)?
                        .parse()
                        .map_err(|_| NotAnEvent::Malformed(header::RECEIVED_AT))?;
                }
                header::SCHEME => view.scheme = utf8(value, header::SCHEME)?,
                header::KEY_ID => view.key_id = utf8(value, header::KEY_ID)?,
                _ => {}
            }
        }
        if version.ok_or(NotAnEvent::Missing(header::SPECVERSION))? != b"1.0" {
            return Err(NotAnEvent::Version);
        }
        if view.id.is_empty() {
            return Err(NotAnEvent::Missing(header::ID));
        }
        view.kind = kind.ok_or(NotAnEvent::Missing(header::TYPE))?;
        let source = source.ok_or(NotAnEvent::Missing(header::SOURCE))?;
        (view.source, view.connection) =
            decode_source(source).ok_or(NotAnEvent::Malformed(header::SOURCE))?;
        Ok(view)
    }

    /// Whether this is one of Hookline's own control records.
    #[must_use]
    pub fn is_control(&self) -> bool {
        self.source == CONTROL_SOURCE && self.kind.starts_with(CONTROL_PREFIX)
    }
}

fn utf8<'a>(value: &'a [u8], name: &'static str) -> Result<&'a str, NotAnEvent> {
    std::str::from_utf8(value).map_err(|_| NotAnEvent::Malformed(name))
}

/// What is escaped in a part of a key or source: all but unreserved characters (RFC 3986).
const ESCAPED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// `ce_source`: the source's name and, where there is a connection, `/` and the connection, percent-encoded.
/// So source and id identify an event, as CloudEvents asks.
#[must_use]
pub fn encode_source(source: &str, connection: &str) -> String {
    let mut out = String::with_capacity(source.len() + connection.len() + 1);
    out.push_str(source);
    if !connection.is_empty() {
        let _ = write!(out, "/{}", utf8_percent_encode(connection, ESCAPED));
    }
    out
}

/// The reverse of [`encode_source`]: source and connection; `None` where it is malformed.
#[must_use]
pub fn decode_source(text: &str) -> Option<(&str, Cow<'_, str>)> {
    let (source, connection) = text.split_once('/').unwrap_or((text, ""));
    if source.is_empty() || connection.contains('/') {
        return None;
    }
    Some((source, percent_decode_str(connection).decode_utf8().ok()?))
}

/// The key of an event with an entity: source, connection and entity, each percent-encoded, joined by `/`.
/// No two different triples give the same key.
#[must_use]
pub fn entity_key(source: &str, connection: &str, entity: &str) -> String {
    joined(&[source, connection, entity])
}

/// Texts, each percent-encoded, joined by `/`. No two different lists of one length give the same one.
#[must_use]
pub fn joined(parts: &[impl AsRef<str>]) -> String {
    let length: usize = parts.iter().map(|part| part.as_ref().len() + 1).sum();
    let mut out = String::with_capacity(length);
    for (n, part) in parts.iter().enumerate() {
        if n > 0 {
            out.push('/');
        }
        out.extend(utf8_percent_encode(part.as_ref(), ESCAPED));
    }
    out
}

/// The key of an event without an entity: as [`entity_key`] with `/sha256:` and the body's hash in hex, so
/// that a repeat meets its first. The colon keeps it apart from every entity's key.
#[must_use]
pub fn body_key(source: &str, connection: &str, body: &[u8]) -> String {
    let mut out = entity_key(source, connection, "sha256");
    out.push(':');
    out.push_str(&sha256_hex(body));
    out
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256_hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(64);
    for b in Sha256::digest(bytes) {
        let _ = write!(out, "{b:02x}");
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event() -> impl Strategy<Value = Event> {
        let text = "\\PC{1,20}";
        let opt = || proptest::option::of(text);
        (
            (text, "[a-z0-9_-]{1,8}", ".{0,12}", text, opt(), opt(), opt()),
            (opt(), opt(), opt(), opt(), any::<i64>(), text, text),
            proptest::collection::vec(("[a-z0-9-]{1,12}", text), 0..4),
        )
            .prop_map(
                |((id, source, connection, kind, entity, sequence, content_type), b, signature_headers)| {
                    let (traceparent, tracestate, problem, snapshot, received_at_ms, scheme, key_id) = b;
                    Event {
                        id,
                        source,
                        connection,
                        kind,
                        time: "2026-01-01T00:00:00Z".into(),
                        entity,
                        sequence,
                        content_type,
                        traceparent,
                        tracestate,
                        received_at_ms,
                        scheme,
                        key_id,
                        problem,
                        snapshot,
                        signature_headers,
                    }
                },
            )
    }

    proptest! {
        #[test]
        fn headers_carry_every_event_there_and_back(event in event()) {
            prop_assert_eq!(Event::from_headers(&event.to_headers()), Ok(event));
        }

        #[test]
        fn keys_are_equal_only_for_equal_entities(
            a in (".{0,5}", ".{0,5}", ".{0,5}"), b in (".{0,5}", ".{0,5}", ".{0,5}")
        ) {
            let key = |t: &(String, String, String)| entity_key(&t.0, &t.1, &t.2);
            prop_assert_eq!(key(&a) == key(&b), a == b);
        }

        #[test]
        fn arbitrary_headers_never_panic(list in proptest::collection::vec(("[a-z_-]{1,14}", proptest::collection::vec(any::<u8>(), 0..8)), 0..8)) {
            let mut headers = OwnedHeaders::new();
            for (key, value) in &list {
                headers = headers.insert(Header { key, value: Some(value) });
            }
            let _ = Event::from_headers(&headers);
        }
    }

    #[test]
    fn a_slash_in_an_id_cannot_make_two_customers_one() {
        assert_ne!(entity_key("s", "a/b", "c"), entity_key("s", "a", "b/c"));
        assert_ne!(body_key("s", "c", b"x"), entity_key("s", "c", &format!("sha256:{}", sha256_hex(b"x"))));
    }

    #[test]
    fn another_producers_record_is_not_an_event() {
        assert_eq!(Event::from_headers(&OwnedHeaders::new()), Err(NotAnEvent::Missing(header::SPECVERSION)));
    }
}
