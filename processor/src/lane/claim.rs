//! Claim: become the owner of partitions, restore their state, fence the sink, find where to go on.
//! Steps P3, P4, P9 and P11 of the protocol.

use std::collections::BTreeMap;

use super::{Lane, Part, Running, Stuck, Trouble};
use crate::broker::{BrokerError, Commit, Committed, End, Journal, Log};
use crate::clock::Clock;
use crate::control::{ConfigRecord, Control};
use crate::defect::{Defect, planted};
use crate::failpoint::{self, Point};
use crate::fold::{InForce, Record, State, check_version};
use crate::journal::{Entry, JournalError, JournalRecord, Mark, Replay};
use crate::position::{Digest, Epoch, Fence};
use crate::snapshot::{self, BeginningError};
use crate::store::{Store, StoreError, Stores};

/// A claim under way.
struct Claim {
    partition: i32,
    committed: Committed,
    lineage: u64,
    /// Where the log starts.
    low: i64,
}

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    /// Claims all partitions that are not being worked on: one transaction for all, then each in turn.
    pub(super) fn claim(&mut self) -> Result<(), Trouble> {
        let started = self.clock.now();
        // A checkpoint first: the claim's transaction is its own.
        if self.is_running() {
            self.checkpoint()?;
        }
        self.await_checkpoint()?;
        if self.sink.is_none() {
            self.sink = (self.open_sink)()?;
        }
        // Nothing is being read then: trouble stops all partitions.
        if self.stale_log {
            self.log.renew()?;
            self.stale_log = false;
        }
        if self.stale_producer || self.journal.is_open() {
            self.journal.renew()?;
            self.stale_producer = false;
        }
        let wanted: Vec<i32> =
            self.parts.iter().filter(|(_, part)| self.wants_claim(part)).map(|(p, _)| *p).collect();
        let mut claims = Vec::with_capacity(wanted.len());
        for partition in wanted {
            claims.push(self.prepare(partition)?);
        }
        let epochs = self.write_claims(&claims)?;
        for (claim, epoch) in claims.iter().zip(epochs) {
            self.take_over(claim, epoch)?;
        }
        let seconds = (self.clock.now().saturating_sub(started)).as_secs_f64();
        metrics::histogram!(crate::metrics::CLAIM_SECONDS).record(seconds);
        self.recovered();
        Ok(())
    }

    /// Finds the lineage: the journal's own, or one above all that are known where the journal is empty.
    fn prepare(&mut self, partition: i32) -> Result<Claim, Trouble> {
        let committed = self.journal.committed(partition)?;
        let (low, _) = self.log.bounds(partition)?;
        let first = match self.journal.first(partition)? {
            Some((offset, value)) => {
                JournalRecord::decode(offset, &value).map_err(|e| Trouble::Stuck(partition, e.into()))?
            }
            None => None,
        };
        let lineage = match first {
            Some(record) => record.epoch.lineage,
            None => {
                let fenced = match &mut self.sink {
                    Some(sink) => sink.fence(partition)?.epoch.lineage,
                    None => 0,
                };
                let has_run = committed.offset.is_some() || fenced > 0;
                if has_run && low > 0 && !planted(Defect::TrimmedLogFolded) {
                    return Err(Trouble::Stuck(partition, Stuck::JournalGone { low }));
                }
                let lineage = match planted(Defect::LineageRestarts) {
                    true => 1,
                    false => committed.lineage.max(fenced) + 1,
                };
                if lineage > 1 {
                    tracing::warn!(
                        partition,
                        lineage,
                        "the journal is gone; folding the event log from its start"
                    );
                }
                lineage
            }
        };
        Ok(Claim { partition, committed, lineage, low })
    }

    /// The claim records and, unchanged, the committed offsets, in one transaction.
    fn write_claims(&mut self, claims: &[Claim]) -> Result<Vec<Epoch>, Trouble> {
        let wanted = claims.iter().filter_map(|c| Some((c.partition, self.parts.get(&c.partition)?.ticket)));
        let held = self.tickets.hold(&wanted.collect::<Vec<_>>()).ok_or(Trouble::Ticket)?;
        let mut records = Vec::with_capacity(claims.len());
        for claim in claims {
            let record = JournalRecord {
                epoch: Epoch { lineage: claim.lineage, claim: -1 },
                instance: self.config.instance.clone(),
                previous: Digest::default(),
                entry: Entry::Claim,
            };
            let record = record.encode().map_err(|e| Trouble::Stuck(claim.partition, e.into()))?;
            records.push((claim.partition, record));
        }
        let offsets: Vec<Commit> = claims
            .iter()
            .map(|c| Commit {
                partition: c.partition,
                offset: c.committed.offset.unwrap_or(c.low),
                lineage: c.lineage,
            })
            .collect();
        let marks = self.commit(End { records, offsets, held })?;
        let epoch_of = |(claim, mark): (&Claim, i64)| Epoch { lineage: claim.lineage, claim: mark };
        Ok(claims.iter().zip(marks).map(epoch_of).collect())
    }

    /// Restores, fences the sink, and starts to read.
    fn take_over(&mut self, claim: &Claim, epoch: Epoch) -> Result<(), Trouble> {
        let partition = claim.partition;
        let replay = self.restore(claim, epoch)?;
        let (mut state, mark, journal_fence) = (replay.state, replay.mark, replay.fence);
        let fence = match &mut self.sink {
            Some(sink) => {
                sink.resume(partition, journal_fence, claim.committed.offset.unwrap_or(0));
                Some(sink.claim(partition, epoch)?)
            }
            None => None,
        };
        if let (Some(found), Some(expected)) = (fence, journal_fence)
            && found.position < expected.position
            && !planted(Defect::OlderSinkUnchecked)
        {
            let (found, expected) = (found.position, expected.position);
            return Err(Trouble::Stuck(partition, Stuck::OlderSink { found, expected }));
        }
        self.check_log(claim, &state, fence)?;
        self.configure(partition, &mut state, epoch)?;
        self.log.start(partition, state.head().next_offset)?;
        let Some(part) = self.parts.get_mut(&partition) else { return Ok(()) };
        self.progress.checkpointed(partition, &state, 0);
        tracing::info!(partition, %epoch, offset = state.head().next_offset, "partition claimed");
        self.health.ready(&super::part(partition));
        part.memory = Some((state, mark));
        part.running = Some(Running {
            epoch,
            fence,
            silent_below: claim.committed.offset.unwrap_or(0),
            effects: Vec::new(),
            effect_bytes: 0,
            hole: None,
            gaps_appended: BTreeMap::new(),
            gaps_asked: BTreeMap::new(),
            snapshots_applied: 0,
        });
        Ok(())
    }

    /// The state as of the last counted record before the own claim: from memory, else from the store, else
    /// from the journal alone.
    fn restore(&mut self, claim: &Claim, epoch: Epoch) -> Result<Replay, Trouble> {
        let partition = claim.partition;
        let Some(part) = self.parts.get_mut(&partition) else { return Err(Trouble::Ticket) };
        let memory = part.memory.take().filter(|(_, mark)| *mark != Mark::START);
        // A store that was given up and is opened again is behind the memory: it is made anew from it.
        let is_behind = memory.is_some() && part.store.is_none();
        if part.store.is_none() {
            part.store = self
                .stores
                .open(partition)
                .inspect_err(|error| tracing::error!(partition, %error, "local state cannot be used"))
                .ok();
        }
        let stored = match (&memory, &mut part.store) {
            (None, Some(store)) => store.load().unwrap_or_else(|error| {
                tracing::warn!(partition, %error, "local state is damaged; restoring from the journal");
                None
            }),
            (Some(_), _) | (None, None) => None,
        };
        // A mark at or above the own claim is another journal's: that one was lost.
        let may_be_met = |mark: &Mark| mark.offset < epoch.claim || planted(Defect::MarkAboveClaim);
        if let Some((mut state, mark)) = memory.or(stored).filter(|(_, mark)| may_be_met(mark)) {
            state.drop_overlay();
            let replay = self.replay(claim, epoch, state, mark, true)?;
            if replay.met() {
                if is_behind && !planted(Defect::ReplayNotStored) {
                    self.refill(partition, &replay);
                }
                return Ok(replay);
            }
            tracing::warn!(
                partition,
                "local state is not in the journal (another one's, or older); wiped, restoring from the journal"
            );
            metrics::counter!(crate::metrics::STORE_WIPED).increment(1);
        }
        let first = self.journal.first(partition)?;
        let begun = snapshot::beginning(first.clone(), |each| self.journal.chunks(partition, each));
        let (mut state, mark) = match begun {
            Ok(found) => found,
            Err(BeginningError::Broker(error)) => return Err(error.into()),
            // A former owner trimmed it further meanwhile, and the older snapshot is gone.
            Err(BeginningError::Journal(_)) if self.journal.first(partition)? != first => {
                return Err(Trouble::Ticket);
            }
            Err(BeginningError::Journal(error)) => return Err(Trouble::Stuck(partition, error.into())),
        };
        if mark == Mark::START {
            state = State::new(claim.low);
            // Perhaps a journal was lost: the refusals that it had are among the dead letters, too.
            if claim.committed.offset.is_some() && !planted(Defect::RefusalsNotRead) {
                for (position, reason) in self.journal.refusals(partition)? {
                    state.refuse(position, reason);
                }
            }
        }
        let replay = self.replay(claim, epoch, state, mark, false)?;
        if !replay.met() {
            // Trimmed further since it was looked at.
            return Err(Trouble::Ticket);
        }
        self.refill(partition, &replay);
        Ok(replay)
    }

    /// Makes the store anew from a state that did not come from it.
    fn refill(&mut self, partition: i32, replay: &Replay) {
        let Some(part) = self.parts.get_mut(&partition) else { return };
        part.store = None;
        let filled =
            self.stores.wipe(partition).and_then(|()| self.stores.open(partition)).and_then(|mut store| {
                if replay.mark != Mark::START {
                    store.save(&replay.state.whole(), replay.mark)?;
                }
                Ok(store)
            });
        match filled {
            Ok(store) => part.store = Some(store),
            Err(error) => {
                tracing::error!(partition, %error, "local state cannot be used; going on without it")
            }
        }
    }

    /// Follows the journal up to the own claim. `stored` says that the store is at `from` too: what the journal
    /// adds to the state, it then adds to the store.
    fn replay(
        &mut self,
        claim: &Claim,
        epoch: Epoch,
        state: State,
        from: Mark,
        stored: bool,
    ) -> Result<Replay, Trouble> {
        let mut replay = Replay::new(state, from);
        let mut failed: Option<JournalError> = None;
        let mut store_failed: Option<StoreError> = None;
        let part = self.parts.get_mut(&claim.partition);
        let mut store = part.filter(|_| stored).and_then(|part| part.store.as_mut());
        self.journal.replay(claim.partition, from.offset.max(0), epoch.claim, &mut |offset, value| {
            failpoint::pass(Point::Restoring);
            if failed.is_none() {
                let taken = replay.take_noting(offset, value, &mut |delta, mark| {
                    if let Some(store) = &mut store
                        && store_failed.is_none()
                        && !planted(Defect::ReplayNotStored)
                    {
                        store_failed = store.save(delta, mark).err();
                    }
                });
                failed = taken.err();
            }
        })?;
        if let Some(error) = store_failed
            && let Some(part) = self.parts.get_mut(&claim.partition)
        {
            if replay.state.has_spilled() {
                return Err(Trouble::Store(claim.partition, error));
            }
            part.give_store_up(claim.partition, error)?;
        }
        match failed {
            Some(error) => Err(Trouble::Stuck(claim.partition, error.into())),
            // A later claim of another owner stands before the own one in lineage: superseded.
            None if replay.owner != epoch && (replay.met() || planted(Defect::MarkAboveClaim)) => {
                Err(Trouble::Ticket)
            }
            None => Ok(replay),
        }
    }

    /// The log must be the one that the state and the sink were made from.
    fn check_log(&mut self, claim: &Claim, state: &State, fence: Option<Fence>) -> Result<(), Trouble> {
        let (partition, low, head) = (claim.partition, claim.low, state.head());
        if head.next_offset < low && !planted(Defect::UnreadPassedOver) {
            return Err(Trouble::Stuck(partition, Stuck::Unread { next: head.next_offset, low }));
        }
        if let Some(digest) = head.last_digest {
            self.check_record(partition, head.next_offset - 1, digest, "the state")?;
        }
        match fence {
            Some(fence) if fence.position.offset >= 0 => {
                self.check_record(partition, fence.position.offset, fence.digest, "the sink")
            }
            Some(_) | None => Ok(()),
        }
    }

    fn check_record(
        &mut self,
        partition: i32,
        offset: i64,
        digest: Digest,
        whose: &'static str,
    ) -> Result<(), Trouble> {
        let (low, high) = self.log.bounds(partition)?;
        if offset < low || planted(Defect::OtherLogUnchecked) {
            // Deleted by retention: nothing to compare with.
            return Ok(());
        }
        let mut found = None;
        if offset < high {
            self.log.scan(partition, offset, offset + 1, &mut |record: Record| {
                found = (record.offset == offset).then(|| record.frame.digest());
                false
            })?;
        }
        // Retention may have taken it since the log was asked for its bounds.
        if found == Some(digest) || (found.is_none() && offset < self.log.bounds(partition)?.0) {
            Ok(())
        } else {
            Err(Trouble::Stuck(partition, Stuck::OtherLog { offset, whose }))
        }
    }

    /// The fold's configuration must be in force: the first one of this pipeline in the partition counts from
    /// its start, a changed one from where it is appended.
    fn configure(&mut self, partition: i32, state: &mut State, epoch: Epoch) -> Result<(), Trouble> {
        let known = state.head().config.as_ref().map(|in_force| &in_force.config);
        if let Some(known) = known {
            let offset = state.head().next_offset;
            check_version(known, offset).map_err(|e| Trouble::Stuck(partition, e.into()))?;
        }
        if known == Some(&self.config.fold) {
            return Ok(());
        }
        let first = known.is_none();
        let control = Control::Config(ConfigRecord {
            pipeline: self.config.pipeline.clone(),
            epoch,
            fold: self.config.fold.clone(),
            by: self.config.instance.clone(),
            why: if first { "the pipeline starts" } else { "the configuration changed" }.to_owned(),
        });
        let key = self.config.pipeline.clone();
        let appended = self.log.append(partition, key.as_bytes(), &control)?;
        if first {
            let pipeline = self.config.pipeline.clone();
            let mut found = None;
            self.log.scan(partition, state.head().next_offset, appended + 1, &mut |record| {
                found = first_config(&record, &pipeline);
                found.is_none()
            })?;
            match found {
                Some(in_force) if planted(Defect::OwnConfigFirst) => {
                    state.start_with(InForce { config: self.config.fold.clone(), ..in_force });
                }
                Some(in_force) => state.start_with(in_force),
                None => {
                    return Err(Trouble::Broker(BrokerError::Retry(
                        "the fold's configuration is not in the log yet".to_owned(),
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The configuration in a control record of this pipeline.
pub(crate) fn first_config(record: &Record, pipeline: &str) -> Option<InForce> {
    let event = record.frame.event().ok().filter(shared::event::EventView::is_control)?;
    match Control::parse(&event, record.frame.body()).ok()? {
        Control::Config(config) if config.pipeline == pipeline => {
            Some(InForce { config: config.fold, epoch: config.epoch })
        }
        Control::Config(_) | Control::GapExpired(_) | Control::GapSkip(_) => None,
    }
}

impl<S> Part<S> {
    /// The state, and what the claim gave, while the partition is being worked on.
    pub(super) fn work(&mut self) -> Option<(&mut State, &mut Mark, &mut Running)> {
        match (&mut self.memory, &mut self.running) {
            (Some((state, mark)), Some(running)) => Some((state, mark, running)),
            (None | Some(_), None | Some(_)) => None,
        }
    }
}
