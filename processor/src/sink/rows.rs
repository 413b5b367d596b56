//! A batch as rows: what every sink stores, and the checks that need no server.
//!
//! Reads headers and bodies, never writes. Called by the sinks.

use std::collections::HashSet;

use shared::event::EventView;

use super::{Batch, Context, SinkError};
use crate::fold::{Action, Effect};
use crate::position::{Digest, Epoch, Fence, Position};

/// One effect as a row.
pub(super) struct Row<'a> {
    pub(super) position: Position,
    /// The ordinal as the tables hold it.
    pub(super) ordinal: i32,
    pub(super) event_offset: i64,
    pub(super) appended_at_ms: i64,
    pub(super) event: EventView<'a>,
    pub(super) body: &'a [u8],
}

/// The batch's effects as rows, in their order.
///
/// # Errors
/// Refused: an effect is not an event, or has text that a table cannot hold. Halt: the batch is not one.
pub(super) fn of<'a>(batch: &Batch<'a>) -> Result<Vec<Row<'a>>, SinkError> {
    check(batch)?;
    batch.effects.iter().map(row).collect()
}

/// What the fence's arithmetic rests on. A batch that breaks it comes from a defect, not from the data.
fn check(batch: &Batch<'_>) -> Result<(), SinkError> {
    let mut last = batch.from.position;
    let mut in_order = batch.from.epoch == batch.to.epoch;
    for effect in batch.effects {
        in_order &= effect.position > last && effect.action == Action::Apply;
        last = effect.position;
    }
    if in_order && batch.to.position >= last {
        return Ok(());
    }
    Err(SinkError::Halt(format!(
        "a batch of partition {} from {} to {} is out of order; nothing of it was applied. This is a \
         defect of Hookline: please report it",
        batch.partition, batch.from.position, batch.to.position
    )))
}

fn row(effect: &Effect) -> Result<Row<'_>, SinkError> {
    let refused =
        |what: &str| SinkError::Refused(format!("the event at offset {} {what}", effect.event_offset));
    let event = effect.frame.event().map_err(|e| refused(&format!("cannot be read: {e}")))?;
    // PostgreSQL's text cannot hold U+0000, and SQLite's functions stop at it. ingest lets none through; a
    // record from elsewhere may have one.
    if let Some(field) = field_with_nul(&event) {
        return Err(refused(&format!("has U+0000 in its {field}, which a text column cannot hold")));
    }
    let ordinal = i32::try_from(effect.position.ordinal)
        .map_err(|_| refused("released more events at once than the tables can number"))?;
    Ok(Row {
        position: effect.position,
        ordinal,
        event_offset: effect.event_offset,
        appended_at_ms: effect.event_time_ms,
        event,
        body: effect.frame.body(),
    })
}

fn field_with_nul(event: &EventView<'_>) -> Option<&'static str> {
    [
        ("id", Some(event.id)),
        ("source", Some(event.source)),
        ("connection", Some(&*event.connection)),
        ("type", Some(event.kind)),
        ("time", Some(event.time)),
        ("entity", event.entity),
        ("sequence", event.sequence),
        ("content type", event.content_type),
        ("traceparent", event.traceparent),
    ]
    .into_iter()
    .find_map(|(name, text)| text.is_some_and(|text| text.contains('\0')).then_some(name))
}

/// Each entity's last row: what `hookline_entities` is to show after the batch.
pub(super) fn last_of_entities<'r>(rows: &'r [Row<'_>]) -> Vec<&'r Row<'r>> {
    let mut seen = HashSet::new();
    let mut last: Vec<_> = rows
        .iter()
        .rev()
        .filter(|row| {
            let event = &row.event;
            event.entity.is_some_and(|entity| seen.insert((event.source, &*event.connection, entity)))
        })
        .collect();
    last.reverse();
    last
}

/// The sender's time, as given; some give none.
pub(super) fn event_time<'a>(row: &Row<'a>) -> Option<&'a str> {
    (!row.event.time.is_empty()).then_some(row.event.time)
}

/// A time of the event's is beyond every calendar.
pub(super) fn no_such_time(row: &Row<'_>) -> SinkError {
    SinkError::Refused(format!("the event at offset {} has a time that no calendar has", row.event_offset))
}

/// A fence as the tables hold it.
pub(super) struct StoredFence {
    pub(super) offset: i64,
    pub(super) ordinal: i32,
    pub(super) digest: Vec<u8>,
    pub(super) lineage: i64,
    pub(super) claim: i64,
}

impl StoredFence {
    pub(super) fn of(fence: &Fence) -> Result<Self, SinkError> {
        let too_large = |_| SinkError::Halt(format!("the fence {fence:?} has numbers too large for a table"));
        Ok(Self {
            offset: fence.position.offset,
            ordinal: i32::try_from(fence.position.ordinal).map_err(too_large)?,
            digest: fence.digest.0.to_vec(),
            lineage: i64::try_from(fence.epoch.lineage).map_err(too_large)?,
            claim: fence.epoch.claim,
        })
    }

    pub(super) fn read(self) -> Result<Fence, SinkError> {
        let (Ok(ordinal), Ok(digest), Ok(lineage)) =
            (self.ordinal.try_into(), self.digest.try_into(), self.lineage.try_into())
        else {
            return Err(SinkError::Halt(
                "hookline_fence holds what Hookline never writes: somebody changed it. Restore the database \
                 from a backup, or start on empty tables and rebuild"
                    .to_owned(),
            ));
        };
        Ok(Fence {
            position: Position { offset: self.offset, ordinal },
            digest: Digest(digest),
            epoch: Epoch { lineage, claim: self.claim },
        })
    }
}

/// An owner's epoch as the tables hold it: lineage, claim.
pub(super) fn stored_epoch(epoch: Epoch) -> Result<(i64, i64), SinkError> {
    let stored = StoredFence::of(&Fence { epoch, ..Fence::EMPTY })?;
    Ok((stored.lineage, stored.claim))
}

/// The tables belong to another pipeline, cluster or topic.
pub(super) fn foreign(place: &str, way_out: &str, found: [&str; 3], own: &Context) -> SinkError {
    let [pipeline, cluster, topic] = found;
    SinkError::Halt(format!(
        "the tables in {place} belong to pipeline `{pipeline}` (cluster {cluster}, topic {topic}); this is \
         pipeline `{}` (cluster {}, topic {}): {way_out}",
        own.pipeline, own.cluster_id, own.topic
    ))
}

/// The tables were made by a later version of this program.
pub(super) fn too_new(place: &str, found: i64, known: i64) -> SinkError {
    SinkError::Halt(format!(
        "the tables in {place} have version {found}; this program knows versions up to {known}: run the \
         version that made them, or a later one"
    ))
}

/// Somebody else's row stands where this batch belongs, although the fence says that nothing does.
pub(super) fn occupied(place: &str) -> SinkError {
    SinkError::Halt(format!(
        "hookline_events in {place} already has a row at a position beyond the fence: something other than \
         Hookline wrote there, or hookline_fence was set back. Nothing was applied; restore both tables \
         together, or start on empty ones and rebuild"
    ))
}

/// The database took fewer rows than it was given, and said nothing.
pub(super) fn swallowed(place: &str) -> SinkError {
    SinkError::Halt(format!(
        "a trigger or rule on hookline_events in {place} drops rows. Nothing was applied; drop it, or let it \
         raise an error, which dead-letters the event"
    ))
}

/// A refusal of a statement that carries no event's data is nobody's dead letter.
pub(super) fn not_by_data(error: SinkError) -> SinkError {
    match error {
        SinkError::Refused(message) => SinkError::Halt(message),
        SinkError::Retry(_) | SinkError::Waits(_) | SinkError::Fenced { .. } | SinkError::Halt(_) => error,
    }
}
