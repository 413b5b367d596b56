//! The journal: one record per partition and checkpoint with the whole delta, and one per claim and refusal.
//! It is the durable form of the state; sled is its cache. Steps P3, P6, P7 and P9 of the protocol.
//!
//! Format of a record's value: `HKJ`, one byte of format version, then [`JournalRecord`] in postcard's
//! encoding. Written only inside transactions, read only with `read_committed`.

use serde::{Deserialize, Serialize};

use crate::defect::{Defect, planted};
use crate::fold::{Delta, State};
use crate::position::{Digest, Epoch, Fence, Position};

const MAGIC: &[u8; 3] = b"HKJ";
/// The version of the format. A program reads the versions up to its own.
///
/// 2 is 1 with what the second version of the fold may have in its configuration: it is written where that is in force,
/// so that earlier programs say that they are too old, and not that the record is damaged.
const FORMAT: u8 = 2;

/// One record of the journal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalRecord {
    /// Whose: the owner's epoch. A claim's own offset is not known when it is written: its `claim` is -1.
    pub epoch: Epoch,
    /// The owner's instance, for people.
    pub instance: String,
    /// The digest of the counted record before this one (not of claims); zero for the first.
    pub previous: Digest,
    /// What it says.
    pub entry: Entry,
}

/// What a record of the journal says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// The partition has a new owner; what earlier owners write from here on does not count.
    Claim,
    /// A batch is final.
    Checkpoint {
        /// The offset of the first input record of the batch.
        from: i64,
        /// What changed, with the state's head after the batch.
        delta: Box<Delta>,
        /// The sink's fence just before; `None` where the sink has none.
        fence: Option<Fence>,
    },
    /// The sink refused an effect for good.
    Refusal {
        /// Which.
        position: Position,
        /// Why, in the sink's words without data.
        reason: String,
    },
}

impl Entry {
    /// The format that the record needs.
    fn format(&self) -> u8 {
        match self {
            Self::Checkpoint { delta, .. } if delta.knows_snapshots() => FORMAT,
            Self::Checkpoint { .. } | Self::Claim | Self::Refusal { .. } => 1,
        }
    }

    /// The sink's fence in a checkpoint.
    fn fence(&self) -> Option<Fence> {
        match self {
            Self::Checkpoint { fence, .. } => *fence,
            Self::Claim | Self::Refusal { .. } => None,
        }
    }
}

/// Why the journal cannot be followed. The partition stops: going on would lose or double.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// A record that counts does not follow the one before it: a transaction was torn or lost.
    #[error(
        "journal offset {offset}: this record does not follow the counted one before it, so a checkpoint is \
         missing; fold the event log anew: processor rebuild"
    )]
    Chain {
        /// Where.
        offset: i64,
    },
    /// The format is newer than this program.
    #[error("journal offset {offset} has format {found}, this program knows {FORMAT}; run the newer program")]
    Format {
        /// Where.
        offset: i64,
        /// The version found.
        found: u8,
    },
    /// The journal was trimmed, and what it continues is not there.
    #[error(
        "the journal starts at offset {offset}, and the snapshot that it continues {what}; fold the event log \
         anew: processor rebuild"
    )]
    Snapshot {
        /// Where the journal starts.
        offset: i64,
        /// What is wrong.
        what: String,
    },
    /// The record is damaged.
    #[error("journal offset {offset}: {error}; fold the event log anew: processor rebuild")]
    Damaged {
        /// Where.
        offset: i64,
        /// What the decoder says.
        error: postcard::Error,
    },
    /// The record cannot be written.
    #[error("a journal record cannot be encoded: {0}")]
    Encode(postcard::Error),
}

impl JournalRecord {
    /// The record's value.
    ///
    /// # Errors
    /// Out of memory, in practice.
    pub fn encode(&self) -> Result<Vec<u8>, JournalError> {
        let mut out = Vec::with_capacity(1024);
        out.extend(MAGIC);
        out.push(self.entry.format());
        postcard::to_extend(self, out).map_err(JournalError::Encode)
    }

    /// Reads a record's value; `None` where it is not one of the journal's (somebody else wrote it).
    ///
    /// # Errors
    /// It is the journal's, but cannot be read.
    pub fn decode(offset: i64, value: &[u8]) -> Result<Option<Self>, JournalError> {
        let Some((format, rest)) = value.strip_prefix(MAGIC).and_then(<[u8]>::split_first) else {
            return Ok(None);
        };
        if !(1..=FORMAT).contains(format) {
            return Err(JournalError::Format { offset, found: *format });
        }
        postcard::from_bytes(rest).map(Some).map_err(|error| JournalError::Damaged { offset, error })
    }
}

/// A place in the journal that a state corresponds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The epoch of a counted record.
    pub epoch: Epoch,
    /// Its offset.
    pub offset: i64,
    /// That record's digest.
    pub digest: Digest,
    /// How many bytes the counted records up to this one have, since the snapshot before it: about, and only for
    /// the decision to write the next one.
    pub journal_bytes: u64,
}

impl Mark {
    /// Before the journal's first record.
    pub const START: Self = Self {
        epoch: Epoch { lineage: 0, claim: -1 },
        offset: -1,
        digest: Digest([0; 16]),
        journal_bytes: 0,
    };

    /// The place after this one, of a record with this value.
    #[must_use]
    pub fn next(self, epoch: Epoch, offset: i64, value: &[u8]) -> Self {
        let journal_bytes = self.journal_bytes + value.len() as u64;
        Self { epoch, offset, digest: Digest::of(value), journal_bytes }
    }

    /// Whether both are the same record of the same journal.
    #[must_use]
    pub fn is_at(self, other: Self) -> bool {
        (self.epoch, self.offset, self.digest) == (other.epoch, other.offset, other.digest)
    }
}

/// Follows the journal of one partition and brings a state up to date.
#[derive(Debug)]
pub struct Replay {
    /// The state, as of the last counted record, once `met`.
    pub state: State,
    /// The last counted record.
    pub mark: Mark,
    /// The sink's fence in the last counted checkpoint.
    pub fence: Option<Fence>,
    /// The newest claim.
    pub owner: Epoch,
    from: Mark,
    met: bool,
}

impl Replay {
    /// Starts with a state that corresponds to `from`: the first record to take is the one at its offset. A
    /// new state corresponds to [`Mark::START`], before the journal's first record.
    #[must_use]
    pub fn new(state: State, from: Mark) -> Self {
        let met = from == Mark::START || planted(Defect::MarkUnchecked);
        let mark = if met { from } else { Mark::START };
        Self { state, mark, fence: None, owner: from.epoch, from, met }
    }

    /// Takes the next record. A record counts only under the epoch of the newest claim before it.
    ///
    /// # Errors
    /// The journal cannot be followed.
    pub fn take(&mut self, offset: i64, value: &[u8]) -> Result<(), JournalError> {
        self.take_noting(offset, value, &mut |_, _| {})
    }

    /// As [`Replay::take`]; `note` is told each delta that brings the state further.
    ///
    /// # Errors
    /// The journal cannot be followed.
    pub fn take_noting(
        &mut self,
        offset: i64,
        value: &[u8],
        note: &mut dyn FnMut(&Delta, Mark),
    ) -> Result<(), JournalError> {
        let Some(record) = JournalRecord::decode(offset, value)? else {
            tracing::warn!(offset, "passed over a record of the journal that is not Hookline's");
            return Ok(());
        };
        if record.entry == Entry::Claim {
            let epoch = Epoch { claim: offset, ..record.epoch };
            self.owner = self.owner.max(epoch);
            return Ok(());
        }
        if record.epoch != self.owner && !planted(Defect::OldEpochObeyed) {
            return Ok(());
        }
        let mark = self.mark.next(record.epoch, offset, value);
        if !self.met {
            self.met = mark.is_at(self.from);
            if self.met {
                self.mark = self.from;
                self.fence = record.entry.fence();
            }
            return Ok(());
        }
        if record.previous != self.mark.digest && !planted(Defect::ChainUnchecked) {
            return Err(JournalError::Chain { offset });
        }
        self.mark = mark;
        self.fence = record.entry.fence().or(self.fence);
        match record.entry {
            Entry::Checkpoint { delta, .. } => {
                note(&delta, mark);
                self.state.apply(*delta);
            }
            Entry::Refusal { position, reason } => self.state.refuse(position, reason),
            Entry::Claim => {}
        }
        Ok(())
    }

    /// Whether the state that the replay started with was found in the journal. If not, it belongs to another
    /// journal and must not be used.
    #[must_use]
    pub fn met(&self) -> bool {
        self.met
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(epoch: Epoch, previous: Digest, next_offset: i64) -> Vec<u8> {
        let mut delta = State::new(0).delta();
        delta.head.next_offset = next_offset;
        let entry = Entry::Checkpoint { from: 0, delta: Box::new(delta), fence: None };
        JournalRecord { epoch, instance: "a".into(), previous, entry }.encode().unwrap()
    }

    fn claim(lineage: u64) -> Vec<u8> {
        let epoch = Epoch { lineage, claim: -1 };
        JournalRecord { epoch, instance: "a".into(), previous: Digest::default(), entry: Entry::Claim }
            .encode()
            .unwrap()
    }

    #[test]
    fn a_record_of_an_old_epoch_does_not_count_behind_a_new_claim() {
        let mut replay = Replay::new(State::new(0), Mark::START);
        let (old, new) = (Epoch { lineage: 1, claim: 0 }, Epoch { lineage: 1, claim: 2 });
        replay.take(0, &claim(1)).unwrap();
        let first = checkpoint(old, Digest::default(), 10);
        replay.take(1, &first).unwrap();
        replay.take(2, &claim(1)).unwrap();
        replay.take(3, &checkpoint(old, Digest::of(&first), 99)).unwrap();
        replay.take(4, &checkpoint(new, Digest::of(&first), 20)).unwrap();
        assert_eq!(replay.state.head().next_offset, 20);
        assert_eq!(replay.owner, new);
        assert_eq!(replay.mark.offset, 4);
    }

    #[test]
    fn a_missing_checkpoint_breaks_the_chain() {
        let mut replay = Replay::new(State::new(0), Mark::START);
        let epoch = Epoch { lineage: 1, claim: 0 };
        replay.take(0, &claim(1)).unwrap();
        let lost = checkpoint(epoch, Digest::default(), 10);
        let error = replay.take(2, &checkpoint(epoch, Digest::of(&lost), 20)).unwrap_err();
        assert!(error.to_string().contains("processor rebuild"), "{error}");
    }

    #[test]
    fn a_state_of_another_journal_is_not_met() {
        let epoch = Epoch { lineage: 1, claim: 0 };
        let (first, second) =
            (checkpoint(epoch, Digest::default(), 10), |previous| checkpoint(epoch, previous, 20));
        let own = Mark { epoch, offset: 1, digest: Digest::of(&first), journal_bytes: 0 };
        for (from, met) in [(Mark { digest: Digest::of(b"other"), ..own }, false), (own, true)] {
            let mut replay = Replay::new(State::new(10), from);
            replay.take(1, &first).unwrap();
            replay.take(2, &second(Digest::of(&first))).unwrap();
            assert_eq!(replay.met(), met);
            assert_eq!(replay.state.head().next_offset, if met { 20 } else { 10 });
        }
    }

    #[test]
    fn foreign_and_damaged_records_are_told_apart() {
        assert_eq!(JournalRecord::decode(0, b"hello").unwrap(), None);
        assert!(matches!(JournalRecord::decode(0, b"HKJ\x09x"), Err(JournalError::Format { found: 9, .. })));
        assert!(matches!(JournalRecord::decode(0, b"HKJ\x01\xff"), Err(JournalError::Damaged { .. })));
    }
}
