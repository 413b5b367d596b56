//! The fold of a connection's status: (how it stood, what an event tells) → how it stands. And what an event tells, by
//! the source's configuration.
//!
//! Pure: no clock, no network. Called by the sink, and by whoever reads the topic.

use serde::{Deserialize, Serialize};
use shared::config::{ConnectionStatus, StatusConfig};
use shared::event::{EventView, encode_source};
use shared::json::{self, Found, Pointers};
use shared::selector::Selector;

use crate::position::Position;

/// The most of a reason that is kept, in bytes.
pub const REASON_BYTES_MAX: usize = 1024;

/// How a connection stands: the value of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// The source.
    pub source: String,
    /// The connection.
    pub connection: String,
    /// The status.
    pub status: ConnectionStatus,
    /// The time of the event with which the status began, RFC 3339.
    pub since: String,
    /// The status before; none where this is the first.
    pub previous: Option<ConnectionStatus>,
    /// The last event that told the status.
    pub event_id: String,
    /// Its type.
    pub event_type: String,
    /// Why, as it said; at most 1 KiB.
    pub reason: Option<String>,
    /// Its time, RFC 3339.
    pub time: String,
    /// Where its effect stands in the event log's partition.
    pub position: Position,
}

/// What one event tells of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// The status.
    pub status: ConnectionStatus,
    /// Why.
    pub reason: Option<String>,
    /// When, RFC 3339.
    pub time: String,
}

impl Standing {
    /// The key of the connection's record.
    #[must_use]
    pub fn key(&self) -> String {
        encode_source(&self.source, &self.connection)
    }

    /// When the event was that told it; none where its time is not one of RFC 3339.
    #[must_use]
    pub fn instant(&self) -> Option<jiff::Timestamp> {
        self.time.parse().ok()
    }

    /// How the connection stands after an event: another status begins with it; the same one goes on, for the reason
    /// that the event has.
    #[must_use]
    pub fn after(before: Option<&Self>, event: &EventView<'_>, told: Told, position: Position) -> Self {
        let (since, previous) = match before {
            Some(before) if before.status == told.status => (before.since.clone(), before.previous),
            Some(before) => (told.time.clone(), Some(before.status)),
            None => (told.time.clone(), None),
        };
        Self {
            source: event.source.to_owned(),
            connection: event.connection.clone().into_owned(),
            status: told.status,
            since,
            previous,
            event_id: event.id.to_owned(),
            event_type: event.kind.to_owned(),
            reason: told.reason,
            time: told.time,
            position,
        }
    }
}

/// Reads what a source's events tell.
#[derive(Debug)]
pub struct Teller {
    config: StatusConfig,
    pointers: Pointers,
    at: Option<usize>,
    reason: Option<usize>,
    time: Option<usize>,
}

impl Teller {
    /// By a source's configuration.
    #[must_use]
    pub fn new(config: &StatusConfig) -> Self {
        let mut pointers = Pointers::default();
        let mut slot = |selector: &Option<Selector>| match selector {
            Some(Selector::Pointer(tokens)) => Some(pointers.add(tokens)),
            Some(Selector::Header(_) | Selector::BodySha256 | Selector::Path) | None => None,
        };
        let (at, reason, time) = (slot(&config.at), slot(&config.reason), slot(&config.time));
        Self { config: config.clone(), pointers, at, reason, time }
    }

    /// What an event tells; `None` where it tells nothing.
    ///
    /// # Errors
    /// It should tell something and cannot be read, or has a value that the configuration does not know. The message
    /// says where, and does not repeat the value.
    pub fn tell(&self, event: &EventView<'_>, body: &[u8]) -> Result<Option<Told>, String> {
        if !self.config.is_told_by(event.kind) {
            return Ok(None);
        }
        let found = match json::read(body, &self.pointers) {
            Ok(found) => found,
            // The type alone tells the status.
            Err(_) if self.at.is_none() => Vec::new(),
            Err(problem) => return Err(problem),
        };
        let text = |slot: Option<usize>| slot.and_then(|slot| found.get(slot)).and_then(text);
        let told = match &self.config.at {
            None => self.config.of(event.kind),
            Some(at) => {
                let value = text(self.at).ok_or_else(|| format!("tells no status at {at}"))?;
                let known = self.config.of(value);
                Some(known.ok_or_else(|| {
                    format!("has at {at} a value that no list of [sources.{}.status] has", event.source)
                })?)
            }
        };
        let Some(status) = told.flatten() else { return Ok(None) };
        let given = text(self.time).filter(|time| is_time(time)).unwrap_or(event.time);
        Ok(Some(Told { status, reason: text(self.reason).map(shortened), time: given.to_owned() }))
    }
}

fn is_time(text: &str) -> bool {
    text.parse::<jiff::Timestamp>().is_ok()
}

fn text<'f>(found: &'f Found<'_>) -> Option<&'f str> {
    match found {
        Found::Text { text, .. } => Some(text),
        Found::Literal(raw) | Found::Object(raw) | Found::Array(raw) => Some(raw),
        Found::Missing | Found::Null => None,
    }
}

/// The beginning of a reason, on one line: it goes into tables, subjects and messages.
fn shortened(text: &str) -> String {
    let fits = |(at, c): &(usize, char)| at + c.len_utf8() <= REASON_BYTES_MAX;
    text.char_indices().take_while(fits).map(|(_, c)| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]
mod tests;
