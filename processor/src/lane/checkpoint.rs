//! Checkpoint: one transaction makes a batch final, then the state is applied. Step P6 of the protocol.

use std::time::Duration;

use super::{DELTA_BYTES_MAX, Lane, Part, Trouble};
use crate::broker::{Commit, End, Journal, Log};
use crate::clock::Clock;
use crate::defect::{Defect, planted};
use crate::failpoint::{self, Point};
use crate::fold::Delta;
use crate::journal::{Entry, JournalRecord, Mark};
use crate::position::Position;
use crate::sink::SinkError;
use crate::store::{Store, StoreError, Stores};

/// After a slower commit the producer is replaced: a delayed end of that transaction could hit the next one.
const SLOW_COMMIT: Duration = Duration::from_secs(2);

/// A lane that is behind makes a checkpoint no more often, unless one is due by its size.
const INTERVAL_BEHIND: Duration = Duration::from_secs(1);

/// How often the stores may write what they gathered.
const STORE_TICK: Duration = Duration::from_millis(500);

/// How long the lane waits at once for a commit's end, where it has to.
const END_WAIT: Duration = Duration::from_secs(1);

/// A checkpoint that is being committed.
pub(super) struct UnderWay {
    prepared: Vec<Prepared>,
    started: Duration,
}

/// What one partition's journal record makes final.
struct Prepared {
    partition: i32,
    delta: Box<Delta>,
    /// The record's, whose offset is known when it is acknowledged.
    mark: Mark,
    /// Snapshots that were applied since the checkpoint before.
    snapshots: u64,
}

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    pub(super) fn checkpoint_is_due(&self) -> bool {
        let large = || {
            self.parts
                .values()
                .any(|p| p.memory.as_ref().is_some_and(|(s, _)| s.delta_bytes() >= DELTA_BYTES_MAX))
        };
        match self.batch_since {
            Some(since) => {
                (self.under_way.is_none()
                    && self.clock.now().saturating_sub(since) >= self.checkpoint_interval())
                    || self.batch_records >= self.config.checkpoint_records_max
                    || large()
                    || self.batch_is_full()
            }
            // With no events, only a snapshot goes on.
            None => self.under_way.is_none() && self.parts.values().any(|part| part.snapshot.is_some()),
        }
    }

    /// A checkpoint's price is hardly that of its events: a lane that is behind makes fewer. Not where a crash repeats
    /// what was delivered since the last one.
    fn checkpoint_interval(&self) -> Duration {
        match self.caught_up || self.sink.as_ref().is_some_and(|sink| !sink.keeps_fence()) {
            true => self.config.checkpoint_interval,
            false => self.config.checkpoint_interval.max(INTERVAL_BEHIND),
        }
    }

    fn batch_is_full(&self) -> bool {
        let limits = self.config.batch;
        let mut running = self.parts.values().filter_map(|part| part.running.as_ref());
        limits.waits && running.any(|running| limits.is_full(running))
    }

    /// Delivers what was folded, and begins to make it final; the lane goes on meanwhile.
    pub(super) fn checkpoint(&mut self) -> Result<(), Trouble> {
        self.await_checkpoint()?;
        if !planted(Defect::CheckpointFirst) {
            self.deliver()?;
        }
        let started = self.clock.now();
        let mut wanted = Vec::new();
        for (partition, part) in &mut self.parts {
            let (ticket, more) = (part.ticket, part.snapshot.is_some());
            if part.work().is_some_and(|(state, _, _)| more || state.head() != state.checkpointed()) {
                wanted.push((*partition, ticket));
            }
        }
        self.batch_since = None;
        self.batch_records = 0;
        if wanted.is_empty() {
            return Ok(());
        }
        if planted(Defect::RenewedLate) {
            self.renew_if_stale()?;
        }
        let held = self.tickets.hold(&wanted).ok_or(Trouble::Ticket)?;
        self.write_chunks()?;
        let (mut prepared, mut records, mut offsets) = (Vec::new(), Vec::new(), Vec::new());
        for (partition, _) in wanted {
            offsets.extend(self.commit_of(partition));
            if let Some((of_partition, record)) = self.prepare_checkpoint(partition)? {
                prepared.push(of_partition);
                records.push((partition, record));
            }
        }
        self.traces.seal();
        self.journal.end(End { records, offsets, held })?;
        self.under_way = Some(UnderWay { prepared, started });
        self.caught_up = false;
        Ok(())
    }

    /// Waits for the end of the checkpoint under way, if there is one.
    pub(super) fn await_checkpoint(&mut self) -> Result<(), Trouble> {
        while self.under_way.is_some() {
            self.hear_of_checkpoint(END_WAIT)?;
        }
        Ok(())
    }

    /// Makes the checkpoint under way final, if it has ended.
    pub(super) fn hear_of_checkpoint(&mut self, wait: Duration) -> Result<(), Trouble> {
        let Some(under_way) = self.under_way.take() else { return Ok(()) };
        let Some(ended) = self.journal.ended(wait)? else {
            self.under_way = Some(under_way);
            return Ok(());
        };
        failpoint::pass(Point::Committed);
        let mut applied = Ok(());
        for (p, journal_offset) in under_way.prepared.into_iter().zip(ended.marks) {
            applied = self.apply(p, journal_offset).and(applied);
        }
        applied?;
        self.finish_snapshots();
        self.begin_snapshot();
        self.spill_ids()?;
        self.traces.tell(self.clock.wall_ms());
        let seconds = self.clock.now().saturating_sub(under_way.started).as_secs_f64();
        metrics::histogram!(crate::metrics::CHECKPOINT_SECONDS).record(seconds);
        self.renew_if_slow(ended.took)
    }

    /// Ends a transaction that is no checkpoint's, and waits for that.
    pub(super) fn commit(&mut self, end: End<J::Generation>) -> Result<Vec<i64>, Trouble> {
        self.journal.end(end)?;
        loop {
            if let Some(ended) = self.journal.ended(END_WAIT)? {
                self.renew_if_slow(ended.took)?;
                return Ok(ended.marks);
            }
        }
    }

    /// Replaces the producers, if they must not be used again.
    pub(super) fn renew_if_stale(&mut self) -> Result<(), Trouble> {
        if std::mem::take(&mut self.stale_producer) {
            self.journal.renew()?;
        }
        Ok(())
    }

    /// Replaces the producer whose commit was slow, before its next transaction.
    fn renew_if_slow(&mut self, took: Duration) -> Result<(), Trouble> {
        if took <= SLOW_COMMIT || planted(Defect::NotRenewed) {
            return Ok(());
        }
        if planted(Defect::RenewedLate) {
            self.stale_producer = true;
            return Ok(());
        }
        Ok(self.journal.renew_ended()?)
    }

    /// The offset to commit: of the next record to fold, once all that was folded is in the journal.
    fn commit_of(&mut self, partition: i32) -> Option<Commit> {
        let (state, _, running) = self.parts.get_mut(&partition)?.work()?;
        let offset = state.head().next_offset.max(running.silent_below);
        Some(Commit { partition, offset, lineage: running.epoch.lineage })
    }

    /// Reads the sink's fence, seals the state, and makes the journal record. `None` where nothing was folded.
    fn prepare_checkpoint(&mut self, partition: i32) -> Result<Option<(Prepared, Vec<u8>)>, Trouble> {
        let Some((state, mark, running)) = self.parts.get_mut(&partition).and_then(super::Part::work) else {
            return Ok(None);
        };
        if state.head() == state.checkpointed() {
            return Ok(None);
        }
        let fence = match &mut self.sink {
            Some(sink) => Some(sink.fence(partition)?),
            None => None,
        };
        if let (Some(found), Some(own)) = (fence, running.fence)
            && found != own
        {
            let (found, own) = (found.epoch, own.epoch);
            return Err(SinkError::Fenced { partition, found, own }.into());
        }
        let delta = state.seal();
        let fence = fence.map(|fence| match planted(Defect::FenceIsHead) {
            true => {
                let position = Position { offset: delta.head.next_offset - 1, ordinal: 0 };
                crate::position::Fence { position, ..fence }
            }
            false => fence,
        });
        assert!(
            delta.head.next_offset > state.checkpointed().next_offset,
            "a checkpoint moves forward: {} after {}",
            delta.head.next_offset,
            state.checkpointed().next_offset
        );
        let from = state.checkpointed().next_offset;
        let delta = Box::new(delta);
        let entry = Entry::Checkpoint { from, delta, fence };
        let (epoch, instance) = (running.epoch, self.config.instance.clone());
        let record = JournalRecord { epoch, instance, previous: mark.digest, entry };
        let encoded = record.encode().map_err(|e| Trouble::Stuck(partition, e.into()))?;
        let Entry::Checkpoint { delta, .. } = record.entry else { unreachable!("it was made a checkpoint") };
        let snapshots = std::mem::take(&mut running.snapshots_applied);
        let mark = mark.next(epoch, Mark::START.offset, &encoded);
        Ok(Some((Prepared { partition, delta, mark, snapshots }, encoded)))
    }

    /// Lets the stores write what they gathered, also when no events come.
    pub(super) fn tick_stores(&mut self) -> Result<(), Trouble> {
        let now = self.clock.now();
        if now.saturating_sub(self.stores_ticked) < STORE_TICK {
            return Ok(());
        }
        self.stores_ticked = now;
        for (partition, part) in &mut self.parts {
            if let Some(store) = &mut part.store
                && let Err(error) = store.tick()
            {
                part.give_store_up(*partition, error)?;
            }
        }
        Ok(())
    }

    /// Ids for which there is no room in memory go to the store. Not while a snapshot looks at them.
    fn spill_ids(&mut self) -> Result<(), Trouble> {
        for (partition, part) in &mut self.parts {
            let is_cut = part.snapshot.is_some() && !planted(Defect::SpilledMeanwhile);
            let Part { memory: Some((state, _)), store: Some(store), .. } = part else { continue };
            if is_cut || state.ids_in_memory() <= self.config.ids_in_memory_max {
                continue;
            }
            if let Err(error) = state.spill(|runs| store.spill(runs)) {
                part.give_store_up(*partition, error)?;
            }
        }
        Ok(())
    }

    /// After the commit, and only then: the state, and the store with its mark last.
    fn apply(&mut self, p: Prepared, journal_offset: i64) -> Result<(), Trouble> {
        let Some(part) = self.parts.get_mut(&p.partition) else { return Ok(()) };
        let mark = Mark { offset: journal_offset, ..p.mark };
        if let Some(store) = &mut part.store
            && let Err(error) = store.save(&p.delta, mark)
        {
            part.give_store_up(p.partition, error)?;
        }
        let Some((state, own_mark)) = &mut part.memory else { return Ok(()) };
        let later = planted(Defect::OverlayCovered).then(|| state.delta());
        state.apply(*p.delta);
        later.into_iter().for_each(|later| state.apply(later));
        *own_mark = mark;
        self.progress.checkpointed(p.partition, state, p.snapshots);
        Ok(())
    }
}

impl<S> Part<S> {
    /// Goes on without the store; where ids are in there only, without the memory too, from the journal.
    pub(super) fn give_store_up(&mut self, partition: i32, error: StoreError) -> Result<(), Trouble> {
        self.store = None;
        if self.memory.take_if(|(state, _)| state.has_spilled()).is_some() {
            return Err(Trouble::Store(partition, error));
        }
        tracing::error!(partition, %error, "local state cannot be written; going on without it");
        Ok(())
    }
}
