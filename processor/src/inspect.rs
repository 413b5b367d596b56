//! What Kafka tells of a pipeline without touching it: the journal of a partition replayed as an owner would,
//! but without a claim. `status` and `verify` stand on it.

use std::time::Duration;

use crate::broker::BrokerError;
use crate::journal::{Entry, JournalError, JournalRecord, Replay};
use crate::kafka::{KafkaContext, Reader};
use crate::snapshot::{self, BeginningError};

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
    /// The first offset of the event log.
    pub low: i64,
    /// The offset after the event log's last record.
    pub high: i64,
}

/// How often a journal is tried that is trimmed while it is read, and how long between.
const TRIES_MAX: u32 = 5;
const TRY_AGAIN: Duration = Duration::from_millis(300);

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
    let mut tries = 1;
    loop {
        match try_partition(reader, context, partition, enough) {
            Ok(kept) if kept.replay.met() => return Ok(kept),
            Err(error) if tries == TRIES_MAX => return Err(error),
            Ok(_) if tries == TRIES_MAX => {
                let why = "the journal is trimmed faster than it is read".to_owned();
                return Err(BrokerError::Retry(why).into());
            }
            Ok(_) | Err(_) => tries += 1,
        }
        std::thread::sleep(TRY_AGAIN);
    }
}

fn try_partition(
    reader: &Reader,
    context: &KafkaContext,
    partition: i32,
    enough: &dyn Fn(&Replay) -> bool,
) -> Result<Kept, InspectError> {
    let (low, high) = reader.bounds(&context.topic, partition)?;
    let replay = begin(reader, context, partition)?;
    let mut kept = Kept { replay, owner: String::new(), checkpoint_ms: None, low, high };
    let (first, end) = reader.bounds(&context.journal, partition)?;
    let mut failed = None;
    if first < end {
        reader.read(&context.journal, partition, first, false, &mut |read| {
            let offset = read.offset();
            failed = kept.take(offset, read.time_ms(), read.value()).err();
            let met = kept.replay.met();
            failed.is_none() && !(met && enough(&kept.replay)) && offset + 1 < end
        })?;
    }
    failed.map_or(Ok(kept), |error| Err(InspectError::Journal(partition, error)))
}

/// A replay from the journal's start: from nothing, or from the snapshot that the start continues.
///
/// # Errors
/// Kafka does not answer, or the snapshot is not there.
pub fn begin(reader: &Reader, context: &KafkaContext, partition: i32) -> Result<Replay, InspectError> {
    let first = reader.first(&context.journal, partition)?;
    let begun = snapshot::beginning(first, |each| {
        reader.all(&context.snapshots, partition, &mut |read| each(read.offset(), read.value()))
    });
    match begun {
        Ok((state, mark)) => Ok(Replay::new(state, mark)),
        Err(BeginningError::Broker(error)) => Err(error.into()),
        Err(BeginningError::Journal(error)) => Err(InspectError::Journal(partition, error)),
    }
}

impl Kept {
    fn take(&mut self, offset: i64, time_ms: i64, value: &[u8]) -> Result<(), JournalError> {
        let before = self.replay.mark;
        self.replay.take(offset, value)?;
        let Some(record) = JournalRecord::decode(offset, value)? else { return Ok(()) };
        let counts = self.replay.mark != before;
        if counts || record.entry == Entry::Claim {
            self.owner = record.instance;
        }
        if counts && matches!(record.entry, Entry::Checkpoint { .. }) {
            self.checkpoint_ms = Some(time_ms);
        }
        Ok(())
    }
}
