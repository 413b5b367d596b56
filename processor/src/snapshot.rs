//! Snapshots: a partition's whole state in chunks, so that the journal before it can be removed. Steps P8 and
//! P9 of the protocol.
//!
//! A snapshot belongs to one checkpoint, the one that it covers. Its chunks are written in the transactions of
//! the partition's owner. Once all are committed, the journal is trimmed so that it starts with the covered
//! checkpoint's record: that start is what makes the snapshot count, and names it. Only then are older chunks
//! removed. So whatever a restore finds as the journal's start, the snapshot that it continues is there.
//!
//! Head and entities are those of the covered checkpoint. Ids are cut when their chunk is written: among them are some
//! of later checkpoints, and those that have expired meanwhile are not. That does no harm: a chunk is committed with a
//! checkpoint, so a restore that finds it finds the journal up to there, and with it all that was added or expired.
//!
//! Format of a chunk: `HKS`, one byte of format version, then [`Chunk`] in postcard's encoding.

use std::collections::VecDeque;
use std::ops::{Range, RangeInclusive};

use serde::{Deserialize, Serialize};

use crate::broker::BrokerError;
use crate::defect::{Defect, planted};
use crate::fold::{Delta, Entity, EntityKey, EventId, Head, IdBlock, RunKey, State};
use crate::journal::{Entry, JournalError, JournalRecord, Mark};
use crate::position::Epoch;
use crate::store::StoreError;

const MAGIC: &[u8; 3] = b"HKS";
/// The version of the format. 2 is to 1 what it is in the journal.
const FORMAT: u8 = 2;
/// A chunk is closed when its contents exceed this. One entity is never cut.
pub const CHUNK_BYTES: usize = 1024 * 1024;

/// A part of a snapshot.
#[derive(Debug, Serialize, Deserialize)]
struct Chunk {
    /// The checkpoint that the snapshot covers.
    mark: Mark,
    /// Which part, from 0.
    index: u32,
    /// Of how many.
    count: u32,
    /// Its contents; the head is the same in all.
    delta: Delta,
}

/// Why a chunk cannot be cut.
#[derive(Debug, thiserror::Error)]
pub enum CutError {
    /// Out of memory, in practice.
    #[error("{0}")]
    Encode(#[from] JournalError),
    /// The spilled ids cannot be read.
    #[error("{0}")]
    Store(#[from] StoreError),
}

/// A snapshot that is being cut.
#[derive(Debug)]
pub struct Cutting {
    mark: Mark,
    head: Head,
    pieces: VecDeque<Piece>,
    /// The number of the next chunk, of how many.
    next: u32,
    count: u32,
}

/// What a chunk holds.
#[derive(Debug)]
enum Piece {
    Entities(Vec<(EntityKey, Entity)>),
    /// A portion of the ids in memory.
    Ids(Range<usize>),
    /// Those of a run whose first two bytes are in a range.
    Run(RunKey, RangeInclusive<u16>),
}

impl Cutting {
    /// Begins with the state as of the checkpoint at `mark`, each chunk closed when it exceeds `chunk_bytes`. The
    /// entities are in memory once more until they are cut.
    #[must_use]
    pub fn begin(state: &State, mark: Mark, chunk_bytes: usize) -> Self {
        let mut head = state.checkpointed().clone();
        if planted(Defect::RefusalsLeftOut) {
            head.refusals.clear();
        }
        let mut pieces = VecDeque::new();
        let (mut entities, mut bytes) = (Vec::new(), 0);
        for (key, entity) in state.entities() {
            let own = key.len() + entity.stored_len();
            if bytes > 0 && bytes + own > chunk_bytes {
                pieces.push_back(Piece::Entities(std::mem::take(&mut entities)));
                bytes = 0;
            }
            bytes += own;
            entities.push((key, entity));
        }
        // The last one is there also where it is empty: an empty state is a chunk.
        pieces.push_back(Piece::Entities(entities));
        let chunk_ids = (chunk_bytes / size_of::<EventId>()).max(1);
        pieces.extend(state.portions(chunk_ids).map(Piece::Ids));
        for (run, ids) in state.runs() {
            // Ids are spread evenly.
            let parts = u32::try_from(ids.div_ceil(chunk_ids)).unwrap_or(u32::MAX).clamp(1, 1 << 16);
            let begin = |part: u32| (part << 16) / parts;
            pieces.extend((0..parts).map(|part| {
                let (first, last) = (begin(part) as u16, (begin(part + 1) - 1) as u16);
                Piece::Run(run, first..=last)
            }));
        }
        let count = u32::try_from(pieces.len()).unwrap_or(u32::MAX);
        Self { mark: Mark { journal_bytes: 0, ..mark }, head, pieces, next: 0, count }
    }

    /// Cuts the next chunk, from the state as of the checkpoint before the one that it is committed with. `read` gives
    /// a part of a run that was spilled. `None`: that was all.
    ///
    /// # Errors
    /// The chunk cannot be cut.
    pub fn next(
        &mut self,
        state: &State,
        read: impl FnOnce(RunKey, RangeInclusive<u16>) -> Result<Vec<EventId>, StoreError>,
    ) -> Result<Option<Vec<u8>>, CutError> {
        let Some(piece) = self.pieces.pop_front() else { return Ok(None) };
        let (mut ids, mut entities) = (Vec::new(), Vec::new());
        match piece {
            Piece::Entities(all) => entities = all,
            Piece::Ids(portion) => ids = state.portion(portion),
            Piece::Run(run, range) if state.runs().any(|(there, _)| there == run) => {
                ids = vec![IdBlock { bucket: run.bucket, ids: read(run, range)? }];
            }
            // It has expired.
            Piece::Run(..) => {}
        }
        let delta = Delta { head: self.head.clone(), ids, entities };
        let mut out = Vec::with_capacity(64 * 1024);
        out.extend(MAGIC);
        out.push(if delta.knows_snapshots() { FORMAT } else { 1 });
        let (index, count) = (self.next, self.count);
        self.next += 1;
        let chunk = Chunk { mark: self.mark, index, count, delta };
        Ok(Some(postcard::to_extend(&chunk, out).map_err(JournalError::Encode)?))
    }

    /// Whether all is cut.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.pieces.is_empty()
    }
}

/// Why there is nothing to start a replay from.
#[derive(Debug, thiserror::Error)]
pub enum BeginningError {
    /// Kafka does not answer.
    #[error("{0}")]
    Broker(#[from] BrokerError),
    /// The journal or its snapshot cannot be read.
    #[error("{0}")]
    Journal(#[from] JournalError),
}

/// What the journal's first record continues: nothing or, where the journal was trimmed, the snapshot that it
/// names. `chunks` reads all chunks of the partition.
///
/// # Errors
/// The snapshot is not there, or cannot be read.
pub fn beginning(
    first: Option<(i64, Vec<u8>)>,
    chunks: impl FnOnce(&mut dyn FnMut(i64, &[u8])) -> Result<(), BrokerError>,
) -> Result<(State, Mark), BeginningError> {
    let nothing = (State::new(0), Mark::START);
    let Some((offset, value)) = first else { return Ok(nothing) };
    let Some(record) = JournalRecord::decode(offset, &value)? else { return Ok(nothing) };
    // An untrimmed journal starts with a claim.
    if record.entry == Entry::Claim {
        return Ok(nothing);
    }
    let mut gathering = Gathering::new(record.epoch, offset);
    let mut failed = None;
    chunks(&mut |_, value| {
        if failed.is_none() {
            failed = gathering.take(value).err();
        }
    })?;
    let what = match (failed, gathering.whole()) {
        (Some(what), _) => what,
        (None, None) => "is not there, or not all of it".to_owned(),
        (None, Some(found)) => return Ok(found),
    };
    Err(JournalError::Snapshot { offset, what }.into())
}

/// Puts a snapshot together again.
struct Gathering {
    epoch: Epoch,
    offset: i64,
    state: State,
    mark: Option<Mark>,
    next: u32,
    count: u32,
}

impl Gathering {
    fn new(epoch: Epoch, offset: i64) -> Self {
        Self { epoch, offset, state: State::new(0), mark: None, next: 0, count: 0 }
    }

    /// Takes the next chunk of any snapshot.
    fn take(&mut self, value: &[u8]) -> Result<(), String> {
        let Some((format, rest)) = value.strip_prefix(MAGIC).and_then(<[u8]>::split_first) else {
            tracing::warn!("passed over a record of the snapshots that is not Hookline's");
            return Ok(());
        };
        if !(1..=FORMAT).contains(format) {
            return Err(format!("has format {format}, this program knows {FORMAT}; run the newer program"));
        }
        let chunk: Chunk = postcard::from_bytes(rest).map_err(|e| format!("is damaged ({e})"))?;
        if (chunk.mark.epoch, chunk.mark.offset) != (self.epoch, self.offset) {
            return Ok(());
        }
        // Written once more, after a restore from it: the second attempt may be half there.
        if self.is_whole() {
            return Ok(());
        }
        if chunk.index == 0 {
            (self.state, self.next) = (State::new(0), 0);
        }
        if chunk.index == self.next {
            self.state.apply(chunk.delta);
            (self.mark, self.next, self.count) = (Some(chunk.mark), chunk.index + 1, chunk.count);
        }
        Ok(())
    }

    fn is_whole(&self) -> bool {
        self.mark.is_some() && self.next == self.count
    }

    fn whole(self) -> Option<(State, Mark)> {
        let whole = self.is_whole() || planted(Defect::HalfSnapshot);
        let mark = self.mark.filter(|_| whole)?;
        Some((self.state, mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fold::{BucketKey, Run, Version};
    use crate::position::Digest;

    const MARK: Mark = Mark {
        epoch: Epoch { lineage: 1, claim: 3 },
        offset: 9,
        digest: Digest([7; 16]),
        journal_bytes: 1 << 40,
    };

    /// A state of several chunks.
    fn large() -> State {
        let mut state = State::new(0);
        let Delta { mut head, .. } = state.whole();
        head.next_offset = 77;
        head.totals.applied = 5;
        let id = |n: u32| EventId::new("source", "", &n.to_string());
        let bucket = |start_ms| BucketKey { start_ms, span_ms: 1000 };
        let ids = vec![
            IdBlock { bucket: bucket(1000), ids: (0..150_000).map(id).collect() },
            IdBlock { bucket: bucket(2000), ids: (150_000..150_003).map(id).collect() },
        ];
        let entity = |n: u32| {
            (n.to_be_bytes().as_slice().into(), Entity::Version { newest: Version::Integer(n.into()) })
        };
        state.apply(Delta { head, ids, entities: (0..60_000).map(entity).collect() });
        state
    }

    /// All chunks at once, those of spilled ids from where they were spilled to.
    fn cut_with(state: &State, mark: Mark, chunk_bytes: usize, runs: &[Run]) -> Vec<Vec<u8>> {
        let mut cutting = Cutting::begin(state, mark, chunk_bytes);
        let mut chunks = Vec::new();
        let read = |key, range: RangeInclusive<u16>| {
            let run = runs.iter().find(|run| run.key == key).unwrap();
            Ok(run.ids.iter().copied().filter(|id| range.contains(&id.first_two())).collect())
        };
        while let Some(chunk) = cutting.next(state, read).unwrap() {
            chunks.push(chunk);
        }
        assert!(cutting.is_done());
        chunks
    }

    fn cut(state: &State, mark: Mark, chunk_bytes: usize) -> Vec<Vec<u8>> {
        cut_with(state, mark, chunk_bytes, &[])
    }

    fn first_record() -> Option<(i64, Vec<u8>)> {
        let entry = Entry::Checkpoint { from: 0, delta: Box::new(State::new(0).delta()), fence: None };
        let record =
            JournalRecord { epoch: MARK.epoch, instance: "a".into(), previous: Digest::default(), entry };
        Some((MARK.offset, record.encode().unwrap()))
    }

    fn found(chunks: &[Vec<u8>]) -> Result<(State, Mark), BeginningError> {
        beginning(first_record(), |each| {
            chunks.iter().zip(0..).for_each(|(chunk, n)| each(n, chunk));
            Ok(())
        })
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let state = large();
        let chunks = cut(&state, MARK, CHUNK_BYTES);
        assert!(chunks.len() > 3, "{}", chunks.len());
        assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 64 * 1024));
        let (back, mark) = found(&chunks).unwrap();
        assert_eq!(back.whole(), state.whole());
        assert!(mark.is_at(MARK));
        assert_eq!(mark.journal_bytes, 0);
    }

    #[test]
    fn spilled_ids_are_in_it() {
        let (mut state, mut runs) = (large(), Vec::new());
        let whole = state.whole();
        let written: Result<(), StoreError> = state.spill(|spilled| {
            runs = spilled.to_vec();
            Ok(())
        });
        written.unwrap();
        assert!(state.has_spilled() && state.ids_in_memory() == 0);
        let chunks = cut_with(&state, MARK, CHUNK_BYTES, &runs);
        assert!(chunks.iter().all(|chunk| chunk.len() < CHUNK_BYTES + 64 * 1024));
        assert_eq!(found(&chunks).unwrap().0.whole(), whole);
    }

    /// Ids that come between two chunks may be in the snapshot or not; none that was there is missing.
    #[test]
    fn what_comes_meanwhile_does_no_harm() {
        let mut state = large();
        let before = state.whole();
        let mut cutting = Cutting::begin(&state, MARK, CHUNK_BYTES);
        let (mut chunks, mut n) = (Vec::new(), 1_000_000);
        while let Some(chunk) = cutting.next(&state, |_, _| panic!("nothing is spilled")).unwrap() {
            chunks.push(chunk);
            let ids = (n..n + 50_000).map(|n: u32| EventId::new("source", "", &n.to_string())).collect();
            n += 50_000;
            let bucket = BucketKey { start_ms: 2000, span_ms: 1000 };
            let delta =
                Delta { head: before.head.clone(), ids: vec![IdBlock { bucket, ids }], entities: vec![] };
            state.apply(delta);
        }
        let after = state.whole();
        let (mut back, _) = found(&chunks).unwrap();
        assert_eq!(back.checkpointed(), &before.head);
        // What the journal adds.
        back.apply(after.clone());
        assert_eq!(back.whole(), after);
        back = found(&chunks).unwrap().0;
        back.apply(before);
        assert_eq!(back.whole().entities, after.entities);
        let (found, all) = (back.sizes().0, after.ids.iter().map(|block| block.ids.len()).sum::<usize>());
        assert!((150_003..all).contains(&found), "{found} of {all}");
    }

    #[test]
    fn an_empty_state_is_one_chunk() {
        let state = State::new(12);
        let chunks = cut(&state, MARK, CHUNK_BYTES);
        assert_eq!(chunks.len(), 1);
        assert_eq!(found(&chunks).unwrap().0.whole(), state.whole());
    }

    #[test]
    fn a_snapshot_with_a_missing_chunk_does_not_count() {
        let chunks = cut(&large(), MARK, CHUNK_BYTES);
        for missing in 0..chunks.len() {
            let mut torn = chunks.clone();
            torn.remove(missing);
            let error = found(&torn).unwrap_err().to_string();
            assert!(error.contains("starts at offset 9") && error.contains("not all of it"), "{error}");
        }
    }

    #[test]
    fn chunks_of_other_snapshots_and_of_other_attempts_do_no_harm() {
        let state = large();
        let chunks = cut(&state, MARK, CHUNK_BYTES);
        let other = cut(&State::new(5), Mark { offset: 8, ..MARK }, CHUNK_BYTES);
        let mixed = [&other[..], &chunks[..2], &other[..], &chunks[..]].concat();
        assert_eq!(found(&mixed).unwrap().0.whole(), state.whole());
        let half = [&chunks[..], &chunks[..2]].concat();
        assert_eq!(found(&half).unwrap().0.whole(), state.whole());
    }

    #[test]
    fn a_journal_that_was_never_trimmed_continues_nothing() {
        let record = JournalRecord {
            epoch: MARK.epoch,
            instance: "a".into(),
            previous: Digest::default(),
            entry: Entry::Claim,
        };
        for first in [None, Some((4, record.encode().unwrap())), Some((0, b"foreign".to_vec()))] {
            let (state, mark) = beginning(first, |_| panic!("nothing to read")).unwrap();
            assert_eq!((state.whole(), mark), (State::new(0).whole(), Mark::START));
        }
    }

    #[test]
    fn a_newer_format_and_damage_are_said() {
        let error = found(&[b"HKS\x09x".to_vec()]).unwrap_err().to_string();
        assert!(error.contains("format 9"), "{error}");
        let error = found(&[b"HKS\x01\xff".to_vec()]).unwrap_err().to_string();
        assert!(error.contains("damaged"), "{error}");
        assert!(found(&[b"foreign".to_vec()]).unwrap_err().to_string().contains("not there"));
    }
}
