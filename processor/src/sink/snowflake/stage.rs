//! A batch's rows as JSON: arrays of rows, each array a text that one statement takes as its only value.
//!
//! As one value, since a statement with a value for each column of each row takes Snowflake longer to compile than to
//! run. Bodies in Base64: they are bytes, and JSON's numbers are not touched on the way.

use std::ptr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Serialize;

use super::connect::Server;
use crate::sink::SinkError;
use crate::sink::rows::{self, Row};

/// What one text holds at most: Snowflake's own limit was this for long, and is no smaller anywhere.
const TEXT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// A text is closed when it exceeds this.
const TEXT_BYTES: usize = 8 * 1024 * 1024;

/// The names are the columns' of `hookline_batch`.
#[derive(Serialize)]
struct StagedRow<'a> {
    effect_offset: i64,
    effect_ordinal: i32,
    source: &'a str,
    connection: &'a str,
    event_id: &'a str,
    r#type: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    entity: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_time: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    received_at: String,
    log_offset: i64,
    appended_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    body: String,
    /// The last one of its entity, which `hookline_entities` is to show.
    is_last: bool,
}

/// Texts of JSON arrays, filled one after the other.
#[derive(Default)]
pub(super) struct Arrays(Vec<String>);

impl Arrays {
    /// Adds an element.
    ///
    /// # Errors
    /// It is too large for any text: why.
    pub(super) fn push(&mut self, element: &impl Serialize) -> Result<(), Unfit> {
        let element = serde_json::to_string(element).map_err(Unfit::NoJson)?;
        if element.len() + 2 > TEXT_BYTES_MAX {
            return Err(Unfit::TooLarge(format!(
                "has {} bytes as JSON, more than the {TEXT_BYTES_MAX} that Hookline hands to Snowflake",
                element.len()
            )));
        }
        match self.0.last_mut() {
            Some(open) if open.len() + element.len() < TEXT_BYTES => {
                open.push(',');
                open.push_str(&element);
            }
            _ => self.0.push(format!("[{element}")),
        }
        Ok(())
    }

    /// The arrays, each within Snowflake's limit.
    pub(super) fn texts(mut self) -> Vec<String> {
        self.0.iter_mut().for_each(|text| text.push(']'));
        self.0
    }
}

/// Why an element is in no array.
pub(super) enum Unfit {
    TooLarge(String),
    NoJson(serde_json::Error),
}

impl Unfit {
    /// The error, with that for an element that is too large.
    pub(super) fn error(self, refused: impl FnOnce(&str) -> SinkError) -> SinkError {
        match self {
            Self::TooLarge(problem) => refused(&problem),
            Self::NoJson(error) => {
                SinkError::Halt(format!("an event as JSON: {error}: a defect of Hookline, please report it"))
            }
        }
    }
}

/// The rows as texts, each within Snowflake's limit.
///
/// # Errors
/// Refused: an event is too large, or has a time that no calendar has.
pub(super) fn texts(server: &Server, rows: &[Row<'_>]) -> Result<Vec<String>, SinkError> {
    let mut last = rows::last_of_entities(rows).into_iter().peekable();
    let mut arrays = Arrays::default();
    for row in rows {
        let is_last = last.next_if(|last| ptr::eq(*last, row)).is_some();
        arrays.push(&staged(row, is_last)?).map_err(|unfit| {
            unfit.error(|problem| {
                SinkError::Refused(format!(
                    "{server}: the event at offset {}, its body in Base64, {problem}",
                    row.event_offset
                ))
            })
        })?;
    }
    Ok(arrays.texts())
}

fn staged<'a>(row: &'a Row<'_>, is_last: bool) -> Result<StagedRow<'a>, SinkError> {
    let event = &row.event;
    Ok(StagedRow {
        effect_offset: row.position.offset,
        effect_ordinal: row.ordinal,
        source: event.source,
        connection: &event.connection,
        event_id: event.id,
        r#type: event.kind,
        entity: event.entity,
        sequence: event.sequence,
        event_time: rows::event_time(row),
        content_type: event.content_type,
        received_at: time(event.received_at_ms, row)?,
        log_offset: row.event_offset,
        appended_at: time(row.appended_at_ms, row)?,
        traceparent: event.traceparent,
        body: STANDARD.encode(row.body),
        is_last,
    })
}

/// A time as Snowflake's calendar has it: the years 1 to 9999, UTC.
fn time(ms: i64, row: &Row<'_>) -> Result<String, SinkError> {
    let time = Timestamp::from_millisecond(ms).map_err(|_| rows::no_such_time(row))?;
    let time = time.to_zoned(TimeZone::UTC).datetime();
    if time.year() < 1 {
        return Err(rows::no_such_time(row));
    }
    Ok(time.strftime("%Y-%m-%dT%H:%M:%S%.3f").to_string())
}
