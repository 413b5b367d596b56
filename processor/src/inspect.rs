//! What Kafka tells of a pipeline without touching it: the journal of a partition replayed as an owner would,
//! but without a claim. `status` and `verify` stand on it.

use std::collections::BTreeMap;

use crate::broker::BrokerError;
use crate::fold::State;
use crate::journal::{Entry, JournalError, JournalRecord, Mark, Replay};
use crate::kafka::{KafkaContext, Reader};
use crate::position::Position;

/// Why a pipeline cannot be looked at.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// Kafka does not answer.
    #[error("kafka: {0}")]
    Broker(#[from] BrokerError),
    /// The journal cannot be followed.
    #[error("partition {0}: {1}")]
    Journal(i32, JournalError),
}

/// What the journal of a partition says.
pub struct Kept {
    /// The state as of the last checkpoint, the sink's fence in it, the newest claim.
    pub replay: Replay,
    /// The instance that claimed last; empty where nobody did.
    pub owner: String,
    /// When the last checkpoint was written, milliseconds since 1970.
    pub checkpoint_ms: Option<i64>,
    /// Everything that the sink ever refused.
    pub refusals: BTreeMap<Position, String>,
    /// The first offset of the event log.
    pub low: i64,
    /// The offset after the event log's last record.
    pub high: i64,
}

/// Replays the journal of a partition up to its end, or until `enough` says so.
///
/// # Errors
/// Kafka does not answer, or the journal cannot be followed.
pub fn partition(
    reader: &Reader,
    context: &KafkaContext,
    partition: i32,
    enough: &dyn Fn(&Replay) -> bool,
) -> Result<Kept, InspectError> {
    let (low, high) = reader.bounds(&context.topic, partition)?;
    let mut kept = Kept {
        replay: Replay::new(State::new(low), Mark::START),
        owner: String::new(),
        checkpoint_ms: None,
        refusals: BTreeMap::new(),
        low,
        high,
    };
    let (first, end) = reader.bounds(&context.journal, partition)?;
    let mut failed = None;
    if first < end {
        reader.read(&context.journal, partition, first, false, &mut |read| {
            let offset = read.offset();
            failed = kept.take(offset, read.time_ms(), read.value()).err();
            failed.is_none() && !enough(&kept.replay) && offset + 1 < end
        })?;
    }
    failed.map_or(Ok(kept), |error| Err(InspectError::Journal(partition, error)))
}

impl Kept {
    fn take(&mut self, offset: i64, time_ms: i64, value: &[u8]) -> Result<(), JournalError> {
        let before = self.replay.mark;
        self.replay.take(offset, value)?;
        let Some(record) = JournalRecord::decode(offset, value)? else { return Ok(()) };
        match record.entry {
            Entry::Claim => self.owner = record.instance,
            Entry::Checkpoint { .. } if self.replay.mark != before => self.checkpoint_ms = Some(time_ms),
            Entry::Refusal { position, reason } if self.replay.mark != before => {
                self.refusals.insert(position, reason);
            }
            Entry::Checkpoint { .. } | Entry::Refusal { .. } => {}
        }
        Ok(())
    }
}
