//! Rows into hookline_events and hookline_entities, many in one statement.
//!
//! The numbers of rows are powers of two, so that a few prepared statements serve every batch.

use std::iter;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Value};
use shared::event::{entity_key, sha256_hex};

use super::connect::Server;
use crate::sink::SinkError;
use crate::sink::rows::{self, Row};

/// Rows in one statement: 16 values each, and a statement has at most 65,535.
const ROWS_MAX: usize = 1024;
/// What a row's values without text and body, and its share of the statement, take at most.
const ROW_OVERHEAD: usize = 256;

const INSERT_EVENTS: &str = "INSERT INTO hookline_events (log_partition, effect_offset, effect_ordinal, \
    source, connection, event_id, type, entity, sequence, event_time, content_type, received_at, log_offset, \
    appended_at, traceparent, body) VALUES ";
const EVENT: &str = "(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// The body is copied inside the server. STRAIGHT_JOIN: a look-up per row by the primary key, whatever the
/// statistics say.
const UPSERT_ENTITIES: (&str, &str) = (
    "INSERT INTO hookline_entities (entity_key, source, connection, entity, event_id, type, sequence, body, \
     log_partition, effect_offset, effect_ordinal, updated) \
     SELECT last.entity_key, e.source, e.connection, e.entity, e.event_id, e.type, e.sequence, e.body, \
     e.log_partition, e.effect_offset, e.effect_ordinal, e.appended_at FROM (",
    ") AS last STRAIGHT_JOIN hookline_events AS e ON e.log_partition = last.log_partition \
     AND e.effect_offset = last.effect_offset AND e.effect_ordinal = last.effect_ordinal \
     ON DUPLICATE KEY UPDATE event_id = e.event_id, type = e.type, sequence = e.sequence, body = e.body, \
     log_partition = e.log_partition, effect_offset = e.effect_offset, effect_ordinal = e.effect_ordinal, \
     updated = e.appended_at",
);
const LAST: &str =
    "SELECT UNHEX(?) AS entity_key, ? AS log_partition, ? AS effect_offset, ? AS effect_ordinal";

/// Inserts a batch's events, in their order.
pub(super) async fn events(
    conn: &mut Conn,
    server: &Server,
    packet_bytes_max: usize,
    partition: i32,
    rows: &[Row<'_>],
) -> Result<(), SinkError> {
    let mut rest = rows;
    while let Some(row) = rest.first() {
        if size(row) > packet_bytes_max {
            return Err(SinkError::Refused(format!(
                "{server}: the event at offset {} has {} bytes, more than the server's max_allowed_packet",
                row.event_offset,
                size(row)
            )));
        }
        let (now, later) = rest.split_at(chunk(rest, packet_bytes_max));
        let sql = format!("{INSERT_EVENTS}{}", vec![EVENT; now.len()].join(", "));
        let mut values = Vec::with_capacity(now.len() * 16);
        for row in now {
            values.extend(event(partition, row)?);
        }
        conn.exec_drop(sql, values).await.map_err(|e| server.failed(&e))?;
        if usize::try_from(conn.affected_rows()) != Ok(now.len()) {
            return Err(rows::swallowed(&server.to_string()));
        }
        rest = later;
    }
    Ok(())
}

/// Shows in hookline_entities each entity's last event, from hookline_events.
pub(super) async fn entities(
    conn: &mut Conn,
    server: &Server,
    partition: i32,
    rows: &[Row<'_>],
) -> Result<(), SinkError> {
    let last = rows::last_of_entities(rows);
    for now in portions(&last, ROWS_MAX) {
        let (before, after) = UPSERT_ENTITIES;
        let sql = format!("{before}{}{after}", vec![LAST; now.len()].join(" UNION ALL "));
        let values = now.iter().flat_map(|row| -> [Value; 4] {
            [entity_digest(row).into(), partition.into(), row.position.offset.into(), row.ordinal.into()]
        });
        conn.exec_drop(sql, values.collect::<Vec<_>>()).await.map_err(|e| server.failed(&e))?;
    }
    Ok(())
}

/// How many of the rows go into the next statement: as many as fit into a packet.
fn chunk(rows: &[Row<'_>], packet_bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fitting = rows.iter().take_while(|row| {
        bytes += size(row);
        bytes <= packet_bytes_max
    });
    power_of_two(fitting.count())
}

/// Rows in portions of powers of two, each of `max` at most.
pub(super) fn portions<T>(mut rows: &[T], max: usize) -> impl Iterator<Item = &[T]> {
    iter::from_fn(move || {
        let (now, later) = rows.split_at(power_of_two(rows.len().min(max)));
        rows = later;
        (!now.is_empty()).then_some(now)
    })
}

/// The largest power of two up to a number of rows; 0 for 0.
pub(super) fn power_of_two(rows: usize) -> usize {
    rows.min(ROWS_MAX).checked_ilog2().map_or(0, |exponent| 1 << exponent)
}

fn size(row: &Row<'_>) -> usize {
    let event = &row.event;
    let text = [event.source, &*event.connection, event.id, event.kind, event.time];
    let optional = [event.entity, event.sequence, event.content_type, event.traceparent];
    let text = text.iter().copied().chain(optional.into_iter().flatten()).map(str::len).sum::<usize>();
    row.body.len() + text + ROW_OVERHEAD
}

fn event(partition: i32, row: &Row<'_>) -> Result<[Value; 16], SinkError> {
    let event = &row.event;
    Ok([
        partition.into(),
        row.position.offset.into(),
        row.ordinal.into(),
        event.source.into(),
        (&*event.connection).into(),
        event.id.into(),
        event.kind.into(),
        event.entity.into(),
        event.sequence.into(),
        rows::event_time(row).into(),
        event.content_type.into(),
        time(event.received_at_ms, row)?,
        row.event_offset.into(),
        time(row.appended_at_ms, row)?,
        event.traceparent.into(),
        row.body.into(),
    ])
}

/// A time as MySQL's calendar has it: the years 0 to 9999, UTC.
fn time(ms: i64, row: &Row<'_>) -> Result<Value, SinkError> {
    let no_such_time = || rows::no_such_time(row);
    let time = Timestamp::from_millisecond(ms).map_err(|_| no_such_time())?;
    datetime(time).ok_or_else(no_such_time)
}

/// In UTC; none where MySQL's calendar does not have it.
pub(super) fn datetime(time: Timestamp) -> Option<Value> {
    let time = time.to_zoned(TimeZone::UTC).datetime();
    let part = |part: i8| u8::try_from(part).ok();
    let year = u16::try_from(time.year()).ok()?;
    let micros = u32::try_from(time.subsec_nanosecond() / 1000).ok()?;
    let (month, day) = (part(time.month())?, part(time.day())?);
    let (hour, minute, second) = (part(time.hour())?, part(time.minute())?, part(time.second())?);
    Some(Value::Date(year, month, day, hour, minute, second, micros))
}

/// In hexadecimal, since a parameter is text to the server.
fn entity_digest(row: &Row<'_>) -> String {
    let event = &row.event;
    let key = entity_key(event.source, &event.connection, event.entity.unwrap_or_default());
    sha256_hex(key.as_bytes())
}
