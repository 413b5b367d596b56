//! Checkpoint: one transaction makes a batch final, then the state is applied. Step P6 of the protocol.

use std::time::Duration;

use super::{DELTA_BYTES_MAX, Lane, Trouble};
use crate::broker::{BrokerError, Commit, Journal, Log, acknowledged};
use crate::clock::Clock;
use crate::defect::{Defect, planted};
use crate::failpoint::{self, Point};
use crate::fold::Delta;
use crate::journal::{Entry, JournalRecord};
use crate::position::{Epoch, Position};
use crate::sink::SinkError;
use crate::store::{Store, Stores};

/// After a slower commit the producer is replaced: a delayed end of that transaction could hit the next one.
const SLOW_COMMIT: Duration = Duration::from_secs(2);

/// A lane that is behind makes a checkpoint no more often, unless one is due by its size.
const INTERVAL_BEHIND: Duration = Duration::from_secs(1);

/// How often the stores may write what they gathered.
const STORE_TICK: Duration = Duration::from_millis(500);

/// What one partition's journal record holds.
struct Prepared {
    partition: i32,
    delta: Box<Delta>,
    epoch: Epoch,
    record: Vec<u8>,
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
                self.clock.now().saturating_sub(since) >= self.checkpoint_interval()
                    || self.batch_records >= self.config.checkpoint_records_max
                    || large()
                    || self.batch_is_full()
            }
            // With no events, only a snapshot goes on.
            None => self.parts.values().any(|part| part.snapshot.is_some()),
        }
    }

    /// A checkpoint's price is hardly that of its events: a lane that is behind makes fewer.
    fn checkpoint_interval(&self) -> Duration {
        match self.caught_up {
            true => self.config.checkpoint_interval,
            false => self.config.checkpoint_interval.max(INTERVAL_BEHIND),
        }
    }

    /// Effects that waited are as many as one batch may have.
    fn batch_is_full(&self) -> bool {
        let limits = self.config.batch;
        let mut running = self.parts.values().filter_map(|part| part.running.as_ref());
        limits.waits
            && running.any(|r| r.effects.len() >= limits.effects_max || r.effect_bytes >= limits.bytes_max)
    }

    /// Makes all that was folded and delivered final. Everything that was folded is delivered before.
    pub(super) fn checkpoint(&mut self) -> Result<(), Trouble> {
        if self.config.batch.waits {
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
        if wanted.is_empty() {
            self.batch_since = None;
            self.batch_records = 0;
            return Ok(());
        }
        if planted(Defect::RenewedLate) {
            self.renew_if_stale()?;
        }
        let tickets = self.tickets.clone();
        let held = tickets.hold(wanted.iter().copied()).ok_or(Trouble::Ticket)?;
        let generation = held.generation().ok_or(Trouble::Ticket)?;
        // Outputs, dead letters and chunks of a snapshot first, then the journal, then the offsets.
        self.write_chunks()?;
        self.journal.settle()?;
        let (mut prepared, mut offsets) = (Vec::new(), Vec::new());
        for (partition, _) in wanted {
            prepared.extend(self.prepare_checkpoint(partition)?);
            offsets.extend(self.commit_of(partition));
        }
        let written = self.journal.settle()?;
        let marks = prepared.iter().map(|p| acknowledged(&written, p.partition));
        let marks = marks.collect::<Result<Vec<i64>, BrokerError>>()?;
        failpoint::pass(Point::JournalWritten);
        let commit_started = self.clock.now();
        self.journal.commit(&offsets, generation)?;
        drop(held);
        failpoint::pass(Point::Committed);
        self.note_commit(commit_started);
        for (p, journal_offset) in prepared.into_iter().zip(marks) {
            self.apply(p, journal_offset);
        }
        self.finish_snapshots();
        self.begin_snapshot();
        self.traces.tell(self.clock.wall_ms());
        self.caught_up = false;
        self.batch_since = None;
        self.batch_records = 0;
        let seconds = self.clock.now().saturating_sub(started).as_secs_f64();
        metrics::histogram!(crate::metrics::CHECKPOINT_SECONDS).record(seconds);
        if planted(Defect::RenewedLate) {
            return Ok(());
        }
        self.renew_if_stale()
    }

    /// Replaces a producer that must not be used again. At once, since the next transaction starts with the
    /// next output or dead letter: a later replacement would abort them.
    pub(super) fn renew_if_stale(&mut self) -> Result<(), Trouble> {
        if std::mem::take(&mut self.stale_producer) {
            self.journal.renew()?;
        }
        Ok(())
    }

    /// Notes whether a commit was so slow that the producer must be replaced.
    pub(super) fn note_commit(&mut self, started: Duration) {
        let slow = self.clock.now().saturating_sub(started) > SLOW_COMMIT;
        self.stale_producer = slow && !planted(Defect::NotRenewed);
    }

    /// The offset to commit: of the next record to fold, once all that was folded is in the journal.
    fn commit_of(&mut self, partition: i32) -> Option<Commit> {
        let (state, _, running) = self.parts.get_mut(&partition)?.work()?;
        let offset = state.head().next_offset.max(running.silent_below);
        Some(Commit { partition, offset, lineage: running.epoch.lineage })
    }

    /// Reads the sink's fence, and writes the journal record. `None` where nothing was folded.
    fn prepare_checkpoint(&mut self, partition: i32) -> Result<Option<Prepared>, Trouble> {
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
        let delta = state.delta();
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
        self.journal.write(partition, &encoded)?;
        let Entry::Checkpoint { delta, .. } = record.entry else { unreachable!("it was made a checkpoint") };
        Ok(Some(Prepared { partition, delta, epoch, record: encoded }))
    }

    /// Lets the stores write what they gathered, also when no events come.
    pub(super) fn tick_stores(&mut self) {
        let now = self.clock.now();
        if now.saturating_sub(self.stores_ticked) < STORE_TICK {
            return;
        }
        self.stores_ticked = now;
        for (partition, part) in &mut self.parts {
            if let Some(store) = &mut part.store
                && let Err(error) = store.tick()
            {
                tracing::error!(partition, %error, "local state cannot be written; going on without it");
                part.store = None;
            }
        }
    }

    /// After the commit, and only then: the state, and the store with its mark last.
    fn apply(&mut self, p: Prepared, journal_offset: i64) {
        let Some(part) = self.parts.get_mut(&p.partition) else { return };
        let Some((state, own_mark)) = &mut part.memory else { return };
        let mark = own_mark.next(p.epoch, journal_offset, &p.record);
        if let Some(store) = &mut part.store
            && let Err(error) = store.save(&p.delta, mark)
        {
            tracing::error!(partition = p.partition, %error, "local state cannot be written; going on without it");
            part.store = None;
        }
        state.apply(*p.delta);
        *own_mark = mark;
        let running = part.running.as_mut();
        let snapshots = running.map_or(0, |running| std::mem::take(&mut running.snapshots_applied));
        self.progress.checkpointed(p.partition, state, snapshots);
    }
}
