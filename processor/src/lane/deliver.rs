//! Deliver: effects beyond the sink's fence, in their order, in small batches; dead letters and a Kafka
//! sink's outputs into the open transaction. Steps P5 and P7 of the protocol.

use super::{Lane, Running, Stuck, Trouble};
use crate::broker::{Commit, End, Journal, Log};
use crate::clock::Clock;
use crate::defect::{Defect, planted};
use crate::failpoint::{self, Point};
use crate::fold::{Action, Effect};
use crate::journal::{Entry, JournalRecord};
use crate::position::Fence;
use crate::sink::{Batch, SinkError, is_beyond};
use crate::store::Stores;

/// What a lane gathers for topics; with more, all of it is written.
const GATHERED_BYTES_MAX: usize = 16 * 1024 * 1024;

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    /// Delivers what need not wait for the checkpoint. What goes into topics is seen with the checkpoint, however early
    /// it is written: it is written in whole batches, since a request costs the broker as much as hundreds of records,
    /// and librdkafka makes one for each partition.
    pub(super) fn deliver_early(&mut self) -> Result<(), Trouble> {
        let limits = self.config.batch;
        if limits.waits {
            return Ok(());
        }
        let running = self.parts.values().filter_map(|part| part.running.as_ref());
        if self.config.outputs.is_none()
            || running.map(|r| r.effect_bytes).sum::<usize>() >= GATHERED_BYTES_MAX
        {
            return self.deliver();
        }
        self.deliver_where(|running| limits.is_full(running))
    }

    /// Delivers all effects that were folded.
    pub(super) fn deliver(&mut self) -> Result<(), Trouble> {
        self.deliver_where(|_| true)
    }

    fn deliver_where(&mut self, is_due: impl Fn(&Running) -> bool) -> Result<(), Trouble> {
        let partitions: Vec<i32> = self.parts.keys().copied().collect();
        for partition in partitions {
            let Some((_, _, running)) = self.parts.get_mut(&partition).and_then(super::Part::work) else {
                continue;
            };
            if running.effects.is_empty() || !is_due(running) {
                continue;
            }
            let effects = std::mem::take(&mut running.effects);
            running.effect_bytes = 0;
            self.deliver_to_log(partition, &effects)?;
            if self.sink.is_some() {
                self.deliver_to_sink(partition, effects)?;
            }
        }
        Ok(())
    }

    /// Dead letters, and the outputs of a Kafka sink: final with the checkpoint.
    fn deliver_to_log(&mut self, partition: i32, effects: &[Effect]) -> Result<(), Trouble> {
        let silent_below =
            self.parts.get(&partition).and_then(|p| p.running.as_ref()).map_or(0, |r| r.silent_below);
        let silent_below = if planted(Defect::NotSilent) { 0 } else { silent_below };
        for effect in effects.iter().filter(|effect| effect.position.offset >= silent_below) {
            match (&effect.action, &self.config.outputs) {
                (Action::DeadLetter(reason), _) => self.journal.dead_letter(partition, effect, reason)?,
                (Action::Apply, Some(sink)) if sink.is_plain() => {
                    self.journal.output(&sink.topic, partition, effect, false)?;
                }
                (Action::Apply, Some(sink)) => {
                    // What is applied was read before, as an event.
                    let Ok(event) = effect.frame.event() else { continue };
                    let (topic, deletes) = (sink.topic_of(event.source), sink.deletes(event.kind));
                    self.journal.output(&topic, partition, effect, deletes)?;
                }
                (Action::Apply, None) | (Action::Refused, _) => {}
            }
        }
        Ok(())
    }

    fn deliver_to_sink(&mut self, partition: i32, effects: Vec<Effect>) -> Result<(), Trouble> {
        let Some(mut fence) = self.fence_of(partition) else { return Ok(()) };
        let mut pending = effects;
        pending.retain(|effect| effect.action == Action::Apply && is_beyond(effect, fence.position));
        for batch in pending.chunks(self.config.batch.effects_max.max(1)) {
            fence = match self.deliver_batch(partition, fence, batch) {
                Ok(fence) => fence,
                Err(SinkError::Refused(_) | SinkError::Waits(_)) => {
                    self.deliver_one_by_one(partition, fence, batch)?
                }
                Err(error) => return Err(error.into()),
            };
        }
        Ok(())
    }

    /// A batch was refused, or waits: alone, by the data, each event shows whether it is the one.
    fn deliver_one_by_one(
        &mut self,
        partition: i32,
        mut fence: Fence,
        effects: &[Effect],
    ) -> Result<Fence, Trouble> {
        for effect in effects {
            if planted(Defect::BatchRefusalBlamesFirst) {
                self.refuse(partition, effect, "untried")?;
                return Err(Trouble::Refolded);
            }
            fence = match self.deliver_batch(partition, fence, std::slice::from_ref(effect)) {
                Ok(fence) => fence,
                Err(SinkError::Refused(reason)) => {
                    self.refuse(partition, effect, &reason)?;
                    // Folded again from the last checkpoint, with the refusal as an input.
                    return Err(Trouble::Refolded);
                }
                Err(SinkError::Waits(why)) => return Err(Trouble::Stuck(partition, Stuck::Waits(why))),
                Err(error) => return Err(error.into()),
            };
        }
        Ok(fence)
    }

    fn deliver_batch(&mut self, partition: i32, from: Fence, effects: &[Effect]) -> Result<Fence, SinkError> {
        let (Some(sink), Some(last)) = (&mut self.sink, effects.last()) else { return Ok(from) };
        let to = Fence { position: last.position, digest: last.cause.digest(), epoch: from.epoch };
        let (started, started_ms) = (self.clock.now(), self.clock.wall_ms());
        sink.deliver(&Batch { partition, from, to, effects })?;
        failpoint::pass(Point::SinkApplied);
        let seconds = self.clock.now().saturating_sub(started).as_secs_f64();
        metrics::histogram!(crate::metrics::DELIVER_SECONDS).record(seconds);
        self.traces.delivered(partition, effects, started_ms, self.clock.wall_ms());
        if let Some(running) = self.parts.get_mut(&partition).and_then(|part| part.running.as_mut()) {
            running.fence = Some(to);
        }
        Ok(to)
    }

    fn fence_of(&self, partition: i32) -> Option<Fence> {
        self.parts.get(&partition)?.running.as_ref()?.fence
    }

    /// Refusal: one transaction with a journal record, the dead letter and the unchanged offset, before
    /// anything later is delivered.
    fn refuse(&mut self, partition: i32, effect: &Effect, reason: &str) -> Result<(), Trouble> {
        self.await_checkpoint()?;
        // What was folded so far is dropped with its transaction: the refusal stands in one of its own.
        if self.journal.is_open() {
            self.journal.renew()?;
        }
        let Some(part) = self.parts.get_mut(&partition) else { return Err(Trouble::Ticket) };
        let held = self.tickets.hold(&[(partition, part.ticket)]).ok_or(Trouble::Ticket)?;
        let Some((state, mark, running)) = part.work() else { return Err(Trouble::Ticket) };
        if planted(Defect::RefusalInMemory) {
            state.refuse(effect.position, reason.to_owned());
            return Ok(());
        }
        let moves = planted(Defect::RefusalMovesCheckpoint).then(|| state.delta());
        let record = JournalRecord {
            epoch: running.epoch,
            instance: self.config.instance.clone(),
            previous: mark.digest,
            entry: match &moves {
                Some(delta) => {
                    Entry::Checkpoint { from: 0, delta: Box::new(delta.clone()), fence: running.fence }
                }
                None => Entry::Refusal { position: effect.position, reason: reason.to_owned() },
            },
        }
        .encode()
        .map_err(|e| Trouble::Stuck(partition, e.into()))?;
        self.journal.dead_letter(partition, effect, reason)?;
        let epoch = running.epoch;
        let offset = state.checkpointed().next_offset.max(running.silent_below);
        let offsets = vec![Commit { partition, offset, lineage: epoch.lineage }];
        let marks = self.commit(End { records: vec![(partition, record.clone())], offsets, held })?;
        let Some((state, mark, _)) = self.parts.get_mut(&partition).and_then(super::Part::work) else {
            return Err(Trouble::Ticket);
        };
        for offset in marks {
            *mark = mark.next(epoch, offset, &record);
        }
        match moves {
            Some(delta) => state.apply(delta),
            None => state.refuse(effect.position, reason.to_owned()),
        }
        metrics::counter!(crate::metrics::REFUSALS).increment(1);
        tracing::warn!(
            trace_id = effect.frame.trace_id(),
            partition,
            position = %effect.position,
            reason,
            "the sink refused an event; dead-lettered"
        );
        Ok(())
    }
}
