//! Snapshots and the trimming of the journal. Step P8 of the protocol; the formats are in [`crate::snapshot`].
//!
//! A snapshot is begun right after the checkpoint that it covers. Its chunks go along with the checkpoints that follow,
//! some in each, so that the work on events goes on meanwhile. Ids are spilled between two snapshots only: none moves
//! past the one that looks at them all.

use super::{Lane, Part, Trouble};
use crate::broker::{Journal, Log};
use crate::clock::Clock;
use crate::defect::{Defect, planted};
use crate::failpoint::{self, Point};
use crate::journal::Mark;
use crate::snapshot::{CutError, Cutting};
use crate::store::{Store, StoreError, Stores};

/// Chunks in one checkpoint: bounds its transaction.
const PORTION_CHUNKS: usize = 8;

/// A snapshot that is being written.
pub(super) struct Writing {
    /// The checkpoint that it covers.
    covered: Mark,
    cutting: Cutting,
    /// An offset of the snapshots' partition at or below that of the first chunk.
    begins: i64,
}

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    /// After a checkpoint: begins a snapshot of a partition whose journal has grown enough. One at a time, since its
    /// entities are in memory twice.
    pub(super) fn begin_snapshot(&mut self) {
        if self.parts.values().any(|part| part.snapshot.is_some()) {
            return;
        }
        let after = self.config.snapshot_after;
        for (partition, part) in &mut self.parts {
            let (Some((state, mark)), Some(running)) = (&part.memory, &part.running) else { continue };
            // Of an own checkpoint only: a former owner may still be writing chunks of its last one.
            if mark.epoch != running.epoch || mark.journal_bytes <= after.max(2 * state.stored_bytes() as u64)
            {
                continue;
            }
            match self.journal.snapshots_end(*partition) {
                Ok(begins) => {
                    let cutting = Cutting::begin(state, *mark, self.config.snapshot_chunk_bytes);
                    let writing = Writing { covered: *mark, cutting, begins };
                    tracing::debug!(partition, covered = writing.covered.offset, "snapshot begun");
                    if planted(Defect::TrimmedEarly) {
                        let _ = self.journal.trim(*partition, writing.covered.offset, writing.begins);
                    } else if planted(Defect::OldSnapshotFirst) {
                        let _ = self.journal.trim(*partition, 0, writing.begins);
                    }
                    part.snapshot = Some(writing);
                    return;
                }
                Err(error) => {
                    tracing::warn!(partition, %error, "no snapshot; trying again after the next batch")
                }
            }
        }
    }

    /// In a checkpoint, before its journal records: the next chunks.
    pub(super) fn write_chunks(&mut self) -> Result<(), Trouble> {
        for (partition, part) in &mut self.parts {
            let Part { snapshot: Some(writing), memory: Some((state, _)), store, .. } = part else {
                continue;
            };
            let mut bytes = 0;
            while bytes < PORTION_CHUNKS * self.config.snapshot_chunk_bytes {
                let cut = writing.cutting.next(state, |run, range| match store {
                    Some(store) => store.part(run, range),
                    None => Err(StoreError::Damaged("given up".to_owned())),
                });
                let chunk = match cut {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => break,
                    Err(CutError::Store(error)) => return Err(Trouble::Store(*partition, error)),
                    Err(CutError::Encode(error)) => return Err(Trouble::Stuck(*partition, error.into())),
                };
                bytes += chunk.len();
                self.journal.chunk(*partition, &chunk)?;
                failpoint::pass(Point::ChunkWritten);
            }
        }
        Ok(())
    }

    /// After a checkpoint's commit: a snapshot that is there as a whole takes the place of the journal before it.
    pub(super) fn finish_snapshots(&mut self) {
        for (partition, part) in &mut self.parts {
            let Some(Writing { covered, begins, .. }) =
                part.snapshot.take_if(|writing| writing.cutting.is_done())
            else {
                continue;
            };
            if let Some((_, mark)) = &mut part.memory {
                mark.journal_bytes = mark.journal_bytes.saturating_sub(covered.journal_bytes);
            }
            let covered = match &part.memory {
                Some((_, mark)) if planted(Defect::CoveredLate) => *mark,
                Some(_) | None => covered,
            };
            metrics::counter!(crate::metrics::SNAPSHOTS).increment(1);
            match self.journal.trim(*partition, covered.offset, begins) {
                Ok(()) => {
                    tracing::info!(partition, covered = covered.offset, "snapshot written, journal trimmed")
                }
                Err(error) => tracing::warn!(
                    partition,
                    %error,
                    "snapshot written, but the journal is not trimmed, which the next snapshot tries again; the \
                     processor needs the right to delete records of its journal and snapshots"
                ),
            }
        }
    }
}
