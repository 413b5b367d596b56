//! The fold: what each record of a partition means, decided from the state and the record alone.
//!
//! `decide(state, record) -> verdict, effects`. No clock, no randomness, no I/O, no order of a hash map: a
//! replay of the same log gives the same verdicts and the same effects, byte for byte. What else can change
//! an outcome comes in as a record ([`crate::control`]) or is part of the state (a sink's refusals).

mod config;
mod decide;
mod entity;
mod ids;
mod seen;
mod sequence;
mod spilled;
mod state;
#[cfg(test)]
pub(crate) mod tests;

pub use config::{FoldConfig, Order, RuleFold, SourceFold, fold_version};
pub(crate) use decide::check_version;
pub use decide::{FoldError, decide};
pub use entity::{Entity, Gap, Held, Version};
pub use ids::{BucketKey, EventId, IdBlock};
pub use spilled::{Run, RunKey};
pub use state::{Delta, EntityKey, Head, InForce, OpenGap, State, Totals};

use crate::frame::Frame;
use crate::position::Position;

/// A record of the event log, as the fold takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its offset in the partition.
    pub offset: i64,
    /// When the broker appended it, milliseconds since 1970.
    pub time_ms: i64,
    /// Key, headers, body.
    pub frame: Frame,
}

/// What became of an event. Every event of the log ends in exactly one of these; `Held` is not an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Verdict {
    /// Its effect is applied to the sink.
    Applied,
    /// Its id was seen within the window; or one of a webhook and a snapshot tells what the other did.
    Duplicate,
    /// A newer event or snapshot of its entity was already applied.
    Stale,
    /// It waits for an event that comes before it.
    Held,
    /// It cannot be applied; it stands in the dead-letter topic with the reason.
    DeadLettered,
    /// The configuration says that it is not for this pipeline.
    Ignored,
}

/// What must happen outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// Its place in the order of effects of its partition.
    pub position: Position,
    /// The offset of the event itself: lower than `position.offset` where the event was held.
    pub event_offset: i64,
    /// When the broker appended the event, milliseconds since 1970.
    pub event_time_ms: i64,
    /// The event.
    pub frame: Frame,
    /// The record at `position.offset`: another than the event where that was held.
    pub cause: Frame,
    /// What to do with it.
    pub action: Action,
}

/// What an effect does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Apply the event to the sink.
    Apply,
    /// Write the event to the dead-letter topic, with the reason.
    DeadLetter(String),
    /// The sink refused this event for good, and the journal says so: its dead letter is already written.
    Refused,
}
