//! Fold: the log's records, one after the other, into the overlay of each partition's state. Step P4 of the protocol.

use std::time::Duration;

use super::{DELTA_BYTES_MAX, IDLE_WAIT, Lane, Part, Trouble};
use crate::broker::{Journal, Log};
use crate::clock::Clock;
use crate::defect::{Defect, planted};
use crate::fold::{Effect, FoldError, Held, Record, Verdict, decide};
use crate::store::{Stores, look_up};

/// How long the lane waits for a record while a checkpoint is under way, whose end is to be heard of soon.
const COMMIT_WAIT: Duration = Duration::from_millis(2);
/// How long the log may give nothing before it is asked whether it is there.
const SILENCE_MAX: Duration = Duration::from_secs(10);

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    /// Folds what comes, up to a batch.
    pub(super) fn fold(&mut self) -> Result<(), Trouble> {
        let mut wait = match self.batch_since {
            _ if self.under_way.is_some() => COMMIT_WAIT,
            None => IDLE_WAIT,
            Some(since) => {
                (since + self.config.checkpoint_interval).saturating_sub(self.clock.now()).min(IDLE_WAIT)
            }
        };
        for n in 0..self.config.batch.effects_max {
            let Some((partition, record)) = self.log.poll(wait)? else {
                self.caught_up = true;
                return if n == 0 { self.check_silence() } else { Ok(()) };
            };
            wait = Duration::ZERO;
            self.log_heard = self.clock.now();
            if self.fold_one(partition, &record)? {
                break;
            }
        }
        Ok(())
    }

    /// A log that gives nothing for a while is asked whether it is there: a client may have lost Kafka without
    /// a word (librdkafka forgets every broker when it is told of none, as by brokers that were just fenced, and
    /// never connects again: librdkafka#5301).
    fn check_silence(&mut self) -> Result<(), Trouble> {
        if self.clock.now().saturating_sub(self.log_heard) < SILENCE_MAX {
            return Ok(());
        }
        if let Some((partition, _)) = self.parts.iter().find(|(_, part)| part.running.is_some()) {
            self.log.reach(*partition)?;
        }
        self.log_heard = self.clock.now();
        Ok(())
    }

    /// Folds one record; true when the batch is large enough.
    fn fold_one(&mut self, partition: i32, record: &Record) -> Result<bool, Trouble> {
        let Some(Part { memory: Some((state, _)), running: Some(running), store, .. }) =
            self.parts.get_mut(&partition)
        else {
            return Ok(false);
        };
        let any = planted(Defect::AnyOffsetFolded);
        let expected = if any { record.offset } else { state.head().next_offset };
        if record.offset < expected {
            return Ok(false);
        }
        let known = running.hole == Some((expected, record.offset)) || planted(Defect::HoleTaken);
        if record.offset > expected && !known {
            // Retention or a foreign transaction leaves holes in a log; so does a client's error. Reading
            // again tells: the same hole twice is the log's.
            tracing::warn!(
                partition,
                expected,
                found = record.offset,
                "a hole in the event log; reading again"
            );
            running.hole = Some((expected, record.offset));
            self.log.start(partition, expected)?;
            return Ok(false);
        }
        let before = running.effects.len();
        let verdict = loop {
            match (decide(state, record, &self.config.pipeline, &mut running.effects), store.as_mut()) {
                (Ok(verdict), _) => break verdict,
                (Err(FoldError::Unsure(id)), Some(store)) => {
                    look_up(state, store, id).map_err(|error| Trouble::Store(partition, error))?;
                }
                (Err(error), _) => return Err(Trouble::Stuck(partition, error.into())),
            }
        };
        let effects = running.effects.get(before..).unwrap_or_default();
        let passed = state.take_passed();
        say_decided(partition, record, verdict, effects, &passed);
        if shared::spans::is_on() {
            self.traces.decided(partition, record, verdict, effects, &passed, self.clock.wall_ms());
        }
        self.batch_records += 1;
        if self.batch_since.is_none() {
            self.batch_since = Some(self.clock.now());
        }
        if verdict == Some(Verdict::Applied)
            && record.offset >= running.silent_below
            && record.frame.is_snapshot()
        {
            running.snapshots_applied += 1;
        }
        running.effect_bytes += effects.iter().map(|e| e.frame.len()).sum::<usize>();
        Ok(running.effect_bytes >= self.config.batch.bytes_max || state.delta_bytes() >= DELTA_BYTES_MAX)
    }
}

/// Tells the log, where that is wanted, what became of an event, and of those that it released or made stale.
fn say_decided(
    partition: i32,
    record: &Record,
    verdict: Option<Verdict>,
    effects: &[Effect],
    passed: &[Held],
) {
    if !tracing::enabled!(tracing::Level::DEBUG) {
        return;
    }
    if let Some(verdict) = verdict {
        let (trace_id, verdict) = (record.frame.trace_id(), crate::traces::name(verdict));
        tracing::debug!(trace_id, partition, offset = record.offset, verdict, "event decided");
    }
    for effect in effects.iter().filter(|effect| effect.event_offset != record.offset) {
        let (trace_id, offset) = (effect.frame.trace_id(), effect.event_offset);
        tracing::debug!(trace_id, partition, offset, position = %effect.position, "event released");
    }
    for held in passed {
        let (trace_id, offset) = (held.frame.trace_id(), held.offset);
        tracing::debug!(trace_id, partition, offset, snapshot = record.offset, "held event stale");
    }
}
