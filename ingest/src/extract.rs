//! Reads id, type, entity, order and connection out of a verified webhook, as its source's configuration says.
//!
//! It takes a [`Verified`] webhook and gives [`Extracted`] events, which `append.rs` puts into the log. A
//! webhook that cannot be read still becomes an event, with the reason in `problem`: the processor
//! dead-letters it. Values are taken as the sender wrote them; nothing is parsed as a number here. It reads no
//! clock, does no I/O, and never repeats a body's content in a message.

mod field;
mod plan;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::Bytes;
use http::HeaderMap;
use shared::event::{ATTRIBUTE_LEN_MAX, Event, sha256_hex};
use shared::json::{self, Elements, Found};

use self::field::Reader;
pub use self::plan::Plan;
use self::plan::RuleInForce;
use crate::signature::Verified;
use crate::trace::TraceContext;

/// The most events that one body may hold; a longer array is one event with a problem.
pub const ELEMENTS_MAX: usize = 4096;

/// The longest content type that is kept.
const CONTENT_TYPE_LEN_MAX: usize = 256;

/// The type of an event whose source has no types, or whose type cannot be read.
const KIND_DEFAULT: &str = "event";

/// The events of one verified webhook, for the log. Only [`extract`] makes it.
#[derive(Debug)]
pub struct Extracted {
    events: Vec<(Event, Bytes)>,
}

/// What else than the body values are read from.
#[derive(Clone, Copy, Default)]
struct Request<'w> {
    headers: Option<&'w HeaderMap>,
    signed_id: Option<&'w str>,
    path_connection: Option<&'w str>,
}

impl Extracted {
    /// What polling found or has to tell: no webhook, and signed by nobody.
    pub(crate) const fn polled(events: Vec<(Event, Bytes)>) -> Self {
        Self { events }
    }

    /// The events, each with its record's body.
    #[must_use]
    pub fn events(&self) -> &[(Event, Bytes)] {
        &self.events
    }

    /// Moves them to another span of their trace.
    pub(crate) fn set_traceparent(&mut self, traceparent: &str) {
        for (event, _) in &mut self.events {
            event.traceparent = Some(traceparent.to_owned());
        }
    }

    /// Whether one of them could not be read.
    #[must_use]
    pub fn has_problem(&self) -> bool {
        self.events.iter().any(|(event, _)| event.problem.is_some())
    }
}

/// Why a verified webhook is refused as a whole; nothing of it is appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The body is an array, and the source does not split arrays.
    #[error("the body is an array of events, which this source does not take")]
    Array,
    /// The secret that matched is another connection's.
    #[error("no signature matches")]
    Connection,
}

/// Reads a webhook's events.
///
/// # Errors
/// The webhook is refused as a whole.
pub fn extract(plan: &Plan, webhook: &Verified, trace: &TraceContext) -> Result<Extracted, Unfit> {
    let body = webhook.body();
    let one = |document| Ok(vec![(event(plan, webhook, trace, body, None, document)?, body.clone())]);
    let events = if !plan.reads_body() {
        one(Ok(Vec::new()))?
    } else if !json::is_array(body) {
        one(json::read(body, plan.pointers()))?
    } else if !plan.splits_arrays() {
        return Err(Unfit::Array);
    } else {
        match json::elements(body, ELEMENTS_MAX) {
            Elements::Unreadable(problem) => one(Err(problem))?,
            Elements::Each(elements) => elements
                .into_iter()
                .enumerate()
                .map(|(index, element)| {
                    let document = json::read(&element, plan.pointers());
                    Ok((event(plan, webhook, trace, &element, Some(index), document)?, element.clone()))
                })
                .collect::<Result<_, Unfit>>()?,
        }
    };
    Ok(Extracted { events })
}

/// One event. `document` is what the body's pointers point at, or why the body is not JSON.
fn event(
    plan: &Plan,
    webhook: &Verified,
    trace: &TraceContext,
    body: &Bytes,
    index: Option<usize>,
    document: Result<Vec<Found<'_>>, String>,
) -> Result<Event, Unfit> {
    let request = Request {
        headers: Some(webhook.headers()),
        signed_id: webhook.signed_id(),
        path_connection: webhook.path_connection(),
    };
    let mut reader = Reader::new(request, body, index, document);
    let connection = plan.connection().and_then(|field| reader.take("connection", field));
    let (connection, key_id) = connection_and_key(webhook, connection)?;
    let kind = reader.kind(plan.kind());
    let rule = plan.rule(kind.as_deref());
    let id = reader.id(plan.id());
    let (entity, sequence) = entity_and_sequence(&mut reader, &rule, true);
    let id = id.map_or_else(|| fallback_id(body), Cow::into_owned);
    Ok(Event {
        id,
        source: plan.source().to_owned(),
        connection,
        kind: kind.map_or_else(|| KIND_DEFAULT.to_owned(), Cow::into_owned),
        time: time(webhook),
        entity,
        sequence,
        content_type: content_type(webhook),
        traceparent: Some(trace.parent.clone()),
        tracestate: trace.state.clone(),
        received_at_ms: webhook.received_at_ms(),
        scheme: webhook.scheme().to_owned(),
        key_id,
        problem: reader.into_problem(),
        snapshot: None,
        signature_headers: webhook.signature_headers().to_vec(),
    })
}

/// What an event is ordered by, and its place in that order.
fn entity_and_sequence(
    reader: &mut Reader<'_>,
    rule: &RuleInForce<'_>,
    needs_sequence: bool,
) -> (Option<String>, Option<String>) {
    let entity = match rule.entity {
        Some(field) if !rule.ignored => reader.take("entity", field),
        field => reader.attempt(field),
    };
    let sequence = match rule.sequence {
        Some(field) if !rule.ignored && needs_sequence => reader.take(rule.order, field),
        field => reader.attempt(field),
    };
    let entity = entity.and_then(|id| reader.prefixed(rule.entity_prefix, &id));
    (entity, sequence.map(Cow::into_owned))
}

/// What polling found, or has to tell of a connection.
#[derive(Clone, Copy, Debug)]
pub struct Polled<'p> {
    /// Whose API was asked.
    pub connection: &'p str,
    /// The record's resource; `None` where this is no record of a list, but what the poller tells of the connection.
    pub resource: Option<&'p str>,
    /// A body like that of the sender's webhooks.
    pub body: &'p Bytes,
    /// When it was found, milliseconds since 1970.
    pub at_ms: i64,
}

/// Reads the event of what polling found: as that of a webhook with this body, but for its id. A record's id follows
/// from what it is, so that finding it again is a repeat: resource, entity and version, which without an order is
/// the body's hash.
#[must_use]
pub fn polled(plan: &Plan, polled: &Polled<'_>) -> Event {
    let Polled { connection, resource, body, at_ms } = *polled;
    let request = Request { path_connection: Some(connection), ..Request::default() };
    let mut reader = Reader::new(request, body, None, json::read(body, plan.pointers()));
    let kind = reader.kind(plan.kind());
    let rule = plan.rule(kind.as_deref());
    // A snapshot may lack the number: then it closes no gap.
    let needs_sequence = resource.is_none() || rule.order != "sequence";
    let (entity, sequence) = entity_and_sequence(&mut reader, &rule, needs_sequence);
    let version = sequence.clone().unwrap_or_else(|| fallback_id(body));
    let id =
        format!("poll:{}:{}:{version}", resource.unwrap_or_default(), entity.as_deref().unwrap_or_default());
    Event {
        id: if fit(&id).is_ok() { id } else { format!("poll:{}", fallback_id(id.as_bytes())) },
        source: plan.source().to_owned(),
        connection: connection.to_owned(),
        kind: kind.map_or_else(|| KIND_DEFAULT.to_owned(), Cow::into_owned),
        time: jiff::Timestamp::from_millisecond(at_ms).unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string(),
        entity,
        sequence,
        content_type: Some("application/json".to_owned()),
        received_at_ms: at_ms,
        scheme: "poll".to_owned(),
        problem: reader.into_problem(),
        snapshot: resource.map(|_| version),
        ..Event::default()
    }
}

/// The connection, and the secret that signed for it. Where the connection cannot be read, the secret says
/// whose webhook it is, if it is one connection's alone.
fn connection_and_key(
    webhook: &Verified,
    connection: Option<Cow<'_, str>>,
) -> Result<(String, String), Unfit> {
    let connection = match connection {
        Some(connection) => connection.into_owned(),
        None => {
            let only = webhook.only_connection().unwrap_or_default().to_owned();
            let key_id = webhook.any_signer().map_or_else(String::new, |signer| signer.key_id.to_string());
            return Ok((only, key_id));
        }
    };
    let signer = webhook.signer(&connection).ok_or(Unfit::Connection)?;
    Ok((connection, signer.key_id.to_string()))
}

/// The id of an event whose own cannot be read: a repeat of the same body gets the same.
fn fallback_id(body: &[u8]) -> String {
    format!("sha256:{}", sha256_hex(body))
}

/// When the sender says that it sent it, else when it was received; RFC 3339.
fn time(webhook: &Verified) -> String {
    let signed = webhook.signed_at_s().and_then(|s| jiff::Timestamp::from_second(s).ok());
    let time = signed.or_else(|| jiff::Timestamp::from_millisecond(webhook.received_at_ms()).ok());
    time.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_string()
}

fn content_type(webhook: &Verified) -> Option<String> {
    let value = webhook.headers().get(http::header::CONTENT_TYPE)?;
    let text = std::str::from_utf8(value.as_bytes()).ok()?;
    (1..=CONTENT_TYPE_LEN_MAX).contains(&text.len()).then(|| text.to_owned())
}

/// What every attribute of an event must be.
fn fit(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > ATTRIBUTE_LEN_MAX {
        return Err("is longer than 1024 bytes");
    }
    // PostgreSQL's text, among others, has no U+0000.
    if text.contains('\0') {
        return Err("contains U+0000");
    }
    Ok(())
}
