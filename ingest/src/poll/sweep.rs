//! Finds what a list does not have any more: which entities it had is kept beside the progress, and compared with
//! what it has now. A list that was not read whole, or with an error, says nothing.

use std::collections::BTreeSet;

use bytes::Bytes;
use jiff::Timestamp;
use shared::config::SweepConfig;
use shared::event::Event;
use shared::poll::{Entities, Progress};

use super::link::{APPEND_TIMEOUT, Link};
use super::page::{fill, quoted};
use super::share;
use crate::append::{AppendError, Note};

/// Entities of one list; of a longer one deletions are not found.
pub(super) const ENTITIES_MAX: usize = 1_000_000;
/// Bytes of ids in one record.
const PART_BYTES: usize = 256 * 1024;

/// Whether the list is to be read whole now.
pub(super) fn is_due(config: Option<&SweepConfig>, progress: &Progress) -> bool {
    let Some(config) = config else { return false };
    let last: Option<Timestamp> = progress.swept.as_ref().and_then(|time| time.parse().ok());
    last.is_none_or(|last| Timestamp::now().duration_since(last).unsigned_abs() >= config.interval.0)
}

/// The entities that the list had when it was last read whole.
///
/// # Errors
/// They cannot be read.
pub(super) async fn before(link: &Link, list: &str) -> Result<BTreeSet<String>, String> {
    let (shared, partition, list) = (link.source.shared.clone(), link.partition, list.to_owned());
    let read = tokio::task::spawn_blocking(move || share::entities(&shared, partition, &list));
    read.await.map_err(|_| "the program is ending".to_owned())?
}

/// Keeps the entities that the list has now: part by part, an empty one behind the last.
///
/// # Errors
/// They are not known to be kept.
pub(super) async fn keep(link: &Link, list: &str, ids: &BTreeSet<String>) -> Result<(), AppendError> {
    let (mut part, mut bytes) = (Entities { list: list.to_owned(), ..Entities::default() }, 0);
    for id in ids {
        bytes += id.len();
        part.ids.push(id.clone());
        if bytes > PART_BYTES {
            put(link, &part).await?;
            (part.part, bytes) = (part.part + 1, 0);
            part.ids.clear();
        }
    }
    put(link, &part).await?;
    if !part.ids.is_empty() {
        part.part += 1;
        part.ids.clear();
        put(link, &part).await?;
    }
    Ok(())
}

async fn put(link: &Link, part: &Entities) -> Result<(), AppendError> {
    let value = serde_json::to_vec(part).unwrap_or_default();
    let key = part.key();
    let topic = &link.source.shared.entities;
    let note = Note { topic, partition: Some(link.partition), key: &key, value: &value };
    link.source.log.put(&note, APPEND_TIMEOUT).await
}

/// The event of a deletion.
pub(super) fn deletion(
    link: &Link,
    resource: &str,
    config: &SweepConfig,
    entity: &str,
    now: Timestamp,
) -> (Event, Bytes) {
    let body = fill(config.body.get_ref(), |name| {
        Some(match name {
            "type" => quoted(&config.kind),
            "connection" => quoted(&link.connection),
            "entity" => quoted(entity),
            _ => quoted(&format!("{now:.3}")),
        })
    });
    (link.event(Some(resource), &body, Timestamp::now().as_millisecond()), body)
}
