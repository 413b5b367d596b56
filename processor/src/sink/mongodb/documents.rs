//! A batch as documents, and the writes that may be made again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use mongodb::Collection;
use mongodb::bson::{Binary, Bson, DateTime, Document, doc, spec::BinarySubtype};
use mongodb::error::{Error, ErrorKind};
use shared::event::entity_key;

use super::classify::DUPLICATE;
use super::connect::Server;
use super::guarded::{Guarded, find};
use crate::position::Position;
use crate::sink::SinkError;
use crate::sink::rows::{self, Row};

/// A document may have 16 MiB, as may a command with the one entity in it.
pub(super) const DOCUMENT_BYTES_MAX: usize = 15 * 1024 * 1024;

/// The key of an event's document: as text, in the order of application within a partition.
pub(super) fn id(partition: i32, position: Position) -> String {
    format!("{partition:010}:{:019}:{:010}", position.offset, position.ordinal)
}

/// The first and the last key of a partition's events up to a position; none where there can be no such event.
pub(super) fn ids_up_to(partition: i32, up_to: Position) -> Option<(String, String)> {
    let first = Position { offset: 0, ordinal: 0 };
    (up_to >= first).then(|| (id(partition, first), id(partition, up_to)))
}

/// The documents of hookline_events, in their order.
pub(super) fn events(partition: i32, rows: &[Row<'_>]) -> Result<Vec<Document>, SinkError> {
    rows.iter().map(|row| event(partition, row)).collect()
}

fn event(partition: i32, row: &Row<'_>) -> Result<Document, SinkError> {
    let event = &row.event;
    let document = doc! {
        "_id": id(partition, row.position),
        "log_partition": partition,
        "effect_offset": row.position.offset,
        "effect_ordinal": row.ordinal,
        "source": event.source,
        "connection": &*event.connection,
        "event_id": event.id,
        "type": event.kind,
        "entity": event.entity,
        "sequence": event.sequence,
        "event_time": rows::event_time(row),
        "content_type": event.content_type,
        "received_at": time(event.received_at_ms, row)?,
        "log_offset": row.event_offset,
        "appended_at": time(row.appended_at_ms, row)?,
        "traceparent": event.traceparent,
        "body": body(row.body),
    };
    if bytes(&document) > DOCUMENT_BYTES_MAX {
        return Err(SinkError::Refused(format!(
            "the event at offset {} is larger than a MongoDB document can be",
            row.event_offset
        )));
    }
    Ok(document)
}

/// What hookline_entities is to show after the batch.
pub(super) fn entities(partition: i32, rows: &[Row<'_>], events: &[Document]) -> Vec<Guarded> {
    let by_id: BTreeMap<&str, &Document> =
        events.iter().filter_map(|event| Some((event.get_str("_id").ok()?, event))).collect();
    let last = rows::last_of_entities(rows).into_iter();
    last.filter_map(|row| {
        let position = id(partition, row.position);
        let key = entity_key(row.event.source, &row.event.connection, row.event.entity?);
        let mut fields = (*by_id.get(position.as_str())?).clone();
        let updated = fields.remove("appended_at");
        for name in ["_id", "event_time", "content_type", "received_at", "log_offset", "traceparent"] {
            fields.remove(name);
        }
        fields.extend(doc! { "updated": updated, "position": &position });
        Some(Guarded::new(key, position, doc! { "$set": fields }))
    })
    .collect()
}

/// Inserts events in their order, up to the first that is refused. Those that are there already, from a delivery
/// that was cut off or from a former owner, are passed over.
pub(super) async fn insert(
    collection: &Collection<Document>,
    server: &Server,
    mut events: Vec<Document>,
) -> Result<(), SinkError> {
    while !events.is_empty() {
        let Err(error) = collection.insert_many(&events).ordered(true).await else { return Ok(()) };
        let Some(first) = first_duplicate(&error) else { return Err(server.failed(&error)) };
        events.drain(..first.min(events.len()));
        let there = find_there(collection, server, &events).await?;
        if events.first().is_some_and(|event| event.get_str("_id").is_ok_and(|id| !there.contains(id))) {
            return Err(SinkError::Refused(format!(
                "{server}: a unique index on hookline_events forbids the event"
            )));
        }
        events.retain(|event| event.get_str("_id").is_ok_and(|id| !there.contains(id)));
    }
    Ok(())
}

/// The index of the first document, in order, whose key, or another unique index's, is taken.
fn first_duplicate(error: &Error) -> Option<usize> {
    let ErrorKind::InsertMany(failed) = &*error.kind else { return None };
    if failed.write_concern_error.is_some() {
        return None;
    }
    let first = failed.write_errors.as_ref()?.iter().min_by_key(|error| error.index)?;
    (first.code == DUPLICATE).then_some(first.index)
}

/// The keys of the events that are there already.
async fn find_there(
    collection: &Collection<Document>,
    server: &Server,
    events: &[Document],
) -> Result<BTreeSet<String>, SinkError> {
    const SAME: [&str; 4] = ["log_offset", "source", "connection", "event_id"];
    let ids: Vec<&Bson> = events.iter().filter_map(|event| event.get("_id")).collect();
    let projection = doc! { "log_offset": 1, "source": 1, "connection": 1, "event_id": 1 };
    let there = find(collection, server, ids.into_iter().cloned().collect(), projection).await?;
    for event in events {
        let found = event.get_str("_id").ok().and_then(|id| there.get(id));
        if found.is_some_and(|found| SAME.iter().any(|name| found.get(name) != event.get(name))) {
            return Err(rows::occupied(&server.to_string()));
        }
    }
    Ok(there.into_keys().collect())
}

/// Text where the body is text, so that MongoDB's operators for strings work on it; else bytes.
fn body(body: &[u8]) -> Bson {
    match std::str::from_utf8(body) {
        Ok(text) => text.into(),
        Err(_) => Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: body.to_vec() }),
    }
}

fn time(ms: i64, row: &Row<'_>) -> Result<DateTime, SinkError> {
    Timestamp::from_millisecond(ms).map_err(|_| rows::no_such_time(row))?;
    Ok(DateTime::from_millis(ms))
}

/// How long a document is.
pub(super) fn bytes(document: &Document) -> usize {
    document.to_vec().map_or(usize::MAX, |bytes| bytes.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_the_order_of_positions() {
        let at = |offset, ordinal| Position { offset, ordinal };
        let rising = [at(0, 0), at(0, 9), at(0, 10), at(9, 0), at(10, 0), at(i64::MAX, u32::MAX)];
        for pair in rising.windows(2) {
            assert!(id(3, pair[0]) < id(3, pair[1]), "{pair:?}");
        }
        assert_eq!(ids_up_to(0, Position::START), None);
    }

    #[test]
    fn a_body_is_text_where_it_is_text_and_bytes_where_it_is_not() {
        assert_eq!(body("\u{1F980}\0".as_bytes()).as_str(), Some("\u{1F980}\0"));
        assert!(matches!(body(b"\xff"), Bson::Binary(_)));
    }
}
