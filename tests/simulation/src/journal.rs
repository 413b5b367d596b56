//! A lane's transactions: a client that buffers, a coordinator that fences, commits whose outcome is unknown,
//! ends of transactions that come late.

use std::sync::Arc;
use std::time::Duration;

use processor::broker::{
    BrokerError, Commit, Committed, End, Ended, Journal, Refusals, Transaction, conclude,
};
use processor::fold::{Action, Effect};
use processor::journal::{Entry, JournalRecord};

use crate::defects::Planted;
use crate::env::Env;
use crate::group::Generation;
use crate::kafka::{Body, EffectRecord, Refusal, Tid, Topic, Tp};
use crate::log::failed;
use crate::world::Inner;

/// How long a reader waits for the last stable offset.
const STALL_MS: i64 = 30_000;

/// A lane's transactions: two producers, in turn.
pub struct SimJournal {
    env: Env,
    current: SimProducer,
    /// While no transaction is being ended.
    idle: Option<SimProducer>,
    ending: Option<Ending>,
}

/// A transaction that is being concluded, in a thread of its own: it may be done at once and told of late, or late.
enum Ending {
    Begun(SimProducer, End<Generation>),
    Done(SimProducer, Result<Ended, BrokerError>),
}

/// A transactional producer.
struct SimProducer {
    env: Env,
    tid: Tid,
    epoch: Option<i32>,
    open: bool,
    /// Sent by the lane, not by the client yet.
    buffer: Vec<(Tp, Body)>,
    /// The journal records that were acknowledged since they were last asked for.
    acknowledged: Vec<(i32, i64)>,
    /// A record was refused.
    broken: bool,
    /// The transaction is a claim's.
    claims: bool,
    /// The group took a commit that it should have refused.
    doomed: bool,
}

impl SimJournal {
    /// Without producers.
    #[must_use]
    pub fn new(env: Env) -> Self {
        let (current, idle) = (SimProducer::new(&env, 0), SimProducer::new(&env, 1));
        Self { env, current, idle: Some(idle), ending: None }
    }

    /// The producer to write with, once what was written before is acknowledged.
    fn next(&mut self) -> &mut SimProducer {
        let overtakes = self.env.lock().plan.has(Planted::OutputsOvertake);
        self.ending = match self.ending.take() {
            Some(Ending::Begun(mut producer, end)) if !overtakes => match producer.settle() {
                Ok(_) => Some(Ending::Begun(producer, end)),
                Err(error) => {
                    drop(end);
                    self.block(false);
                    Some(Ending::Done(producer, Err(error)))
                }
            },
            ending => ending,
        };
        &mut self.current
    }

    /// The process's callbacks wait for what holds tickets.
    fn block(&self, on: bool) {
        let mut w = self.env.lock();
        if let Some(p) = w.processes.get_mut(self.env.process) {
            p.blocked = if on { p.blocked + 1 } else { p.blocked.saturating_sub(1) };
        }
    }

    /// Waits until a reader sees what is below an offset.
    fn await_stable(&self, tp: Tp, end: usize, what: &str) -> Result<(), BrokerError> {
        let mut waited = 0;
        loop {
            let mut w = self.env.lock();
            let rates = w.plan.rates;
            if w.fault(rates.kafka) {
                return Err(failed(what));
            }
            if w.kafka.partition(tp).stable() >= end {
                return Ok(());
            }
            if waited > STALL_MS {
                return Err(failed(&format!("{what}: nothing read for 30 s")));
            }
            w.pass(500);
            waited += 500;
            drop(w);
            self.env.enter(&format!("journal.{what}, waiting"), false);
        }
    }

    fn conclude(&self, producer: &mut SimProducer, end: End<Generation>) -> Result<Ended, BrokerError> {
        let ended = conclude(producer, &end, || {});
        drop(end);
        self.block(false);
        ended
    }
}

impl SimProducer {
    fn new(env: &Env, number: usize) -> Self {
        let tid = (env.pipeline, env.process, 2 * env.lane + number);
        let (buffer, acknowledged) = (Vec::new(), Vec::new());
        Self {
            env: env.clone(),
            tid,
            epoch: None,
            open: false,
            buffer,
            acknowledged,
            broken: false,
            claims: false,
            doomed: false,
        }
    }

    /// `init_transactions`.
    fn renew(&mut self) -> Result<(), BrokerError> {
        let was_open = std::mem::take(&mut self.open);
        self.buffer.clear();
        self.acknowledged.clear();
        (self.broken, self.doomed) = (false, false);
        self.env.enter("journal.renew", false);
        let env = self.env.clone();
        let mut w = env.lock();
        let rates = w.plan.rates;
        if let Some(epoch) = self.epoch
            && w.plan.has(Planted::AbortInsteadOfInit)
        {
            let now = w.now_ms;
            if was_open && w.random.chance(500) {
                w.kafka.delayed.push((now + 500, self.tid, epoch, false));
            } else if was_open {
                let _ = w.kafka.end(self.tid, epoch, false);
            }
            return Ok(());
        }
        self.epoch = None;
        if w.fault(rates.kafka) {
            let _ = w.kafka.init(self.tid);
            return Err(failed("init_transactions"));
        }
        for _ in 0..3 {
            match w.kafka.init(self.tid) {
                Ok(epoch) => {
                    self.epoch = Some(epoch);
                    break;
                }
                Err(_) => w.write_all_markers(self.tid),
            }
        }
        let epoch = self.epoch;
        w.note(|| format!("producer {:?} has epoch {epoch:?}", self.tid));
        self.epoch.map(|_| ()).ok_or_else(|| failed("init_transactions"))
    }

    fn send(&mut self, tp: Tp, body: Body) -> Result<(), BrokerError> {
        if self.epoch.is_none() {
            return Err(failed("no producer"));
        }
        self.open = true;
        self.buffer.push((tp, body));
        let env = self.env.clone();
        let mut w = env.lock();
        if w.random.chance(500) {
            let count = w.random.below(self.buffer.len() + 1);
            self.flush(&mut w, count);
        }
        Ok(())
    }

    /// Brings the first `count` buffered records to the brokers.
    fn flush(&mut self, w: &mut Inner, count: usize) {
        let held = |(topic, _): Tp| match topic {
            Topic::Output(_) | Topic::Dead(_) => w.plan.has(Planted::JournalBeforeOutputs),
            Topic::Journal(_) => w.plan.has(Planted::OffsetsBeforeJournal),
            Topic::Log | Topic::Offsets(_) | Topic::Snapshots(_) => false,
        };
        let mut sent: Vec<(Tp, Body)> = self.buffer.drain(..count.min(self.buffer.len())).collect();
        let kept: Vec<(Tp, Body)> = sent.extract_if(.., |(tp, _)| held(*tp)).collect();
        for (tp, body) in sent {
            self.produce(w, tp, body);
        }
        for (n, kept) in kept.into_iter().enumerate() {
            self.buffer.insert(n, kept);
        }
    }

    fn produce(&mut self, w: &mut Inner, tp: Tp, body: Body) {
        let Some(epoch) = self.epoch else { return };
        let now = w.now_ms;
        let mut result = w.kafka.produce(self.tid, epoch, tp, now, body.clone());
        if result == Err(Refusal::Concurrent) {
            // The client tries again until the former transaction has ended.
            w.write_all_markers(self.tid);
            result = w.kafka.produce(self.tid, epoch, tp, now, body);
        }
        match result {
            Ok(offset) if matches!(tp.0, Topic::Journal(_)) => {
                self.acknowledged.push((tp.1, i64::try_from(offset).unwrap_or(-1)));
            }
            Ok(_) => {}
            Err(_) => self.broken = true,
        }
    }

    fn effect(
        &mut self,
        topic: Topic,
        partition: i32,
        effect: &Effect,
        refused: Option<String>,
    ) -> Result<(), BrokerError> {
        let record = EffectRecord {
            position: effect.position,
            event_offset: effect.event_offset,
            frame: effect.frame.clone(),
            refused,
        };
        self.send((topic, partition), Body::Effect(record))
    }

    /// `TxnOffsetCommit`: the group's coordinator checks member and generation.
    fn send_offsets(
        &mut self,
        w: &mut Inner,
        offsets: &[Commit],
        generation: &Generation,
    ) -> Result<(), BrokerError> {
        let pipeline = self.env.pipeline;
        let accepts = w.groups.get(pipeline).is_some_and(|group| group.accepts(generation));
        if !accepts && w.plan.unfenced_group && w.faults && !self.claims {
            w.note(|| format!("commit by the zombie {generation:?} taken"));
            self.doomed = true;
        } else if !accepts {
            w.note(|| format!("commit by {generation:?} refused: {:?}", Refusal::Generation));
            return Err(failed("ILLEGAL_GENERATION"));
        }
        self.produce(w, (Topic::Offsets(pipeline), 0), Body::Offsets(offsets.to_vec()));
        if self.broken { Err(failed("fenced")) } else { Ok(()) }
    }

    fn end(&mut self, w: &mut Inner, commit: bool) -> Result<(), BrokerError> {
        let epoch = self.epoch.ok_or_else(|| failed("no producer"))?;
        w.kafka.end(self.tid, epoch, commit).map_err(|refusal| failed(&format!("end: {refusal:?}")))
    }

    /// The second half of a commit, with what can happen to its request.
    fn commit_transaction(&mut self) -> Result<(), BrokerError> {
        let env = self.env.clone();
        let mut w = env.lock();
        let rates = w.plan.rates;
        let epoch = self.epoch.ok_or_else(|| failed("no producer"))?;
        let later = w.now_ms + w.random.between(0, 12_000);
        if w.fault(rates.kafka) {
            match w.random.below(3) {
                0 => return Err(failed("commit: not done")),
                1 => {
                    w.note(|| format!("commit of {:?} is delayed, outcome unknown", self.tid));
                    w.kafka.delayed.push((later, self.tid, epoch, true));
                    return Err(failed("commit: under way"));
                }
                _ => {
                    let _ = self.end(&mut w, true);
                    w.note(|| format!("commit of {:?} is done, outcome unknown", self.tid));
                    return Err(failed("commit: done"));
                }
            }
        }
        self.end(&mut w, true)?;
        if w.fault(rates.slow_commit) {
            // The first request is stuck in the network; a second one was answered.
            w.kafka.delayed.push((later, self.tid, epoch, true));
            let ms = w.random.between(2_050, 5_000);
            w.note(|| format!("commit of {:?} is slow; a copy of its end is under way", self.tid));
            w.pass(ms);
        }
        w.note(|| format!("commit of {:?} is done", self.tid));
        Ok(())
    }
}

impl Transaction for SimProducer {
    type Generation = Generation;

    fn settle(&mut self) -> Result<Vec<(i32, i64)>, BrokerError> {
        self.env.enter("journal.settle", true);
        let env = self.env.clone();
        let mut w = env.lock();
        let rates = w.plan.rates;
        if w.fault(rates.kafka) {
            let count = w.random.below(self.buffer.len() + 1);
            self.flush(&mut w, count);
            return Err(failed("produce"));
        }
        let count = self.buffer.len();
        self.flush(&mut w, count);
        if self.broken {
            return Err(failed("produce: fenced"));
        }
        let mut acknowledged = std::mem::take(&mut self.acknowledged);
        for (tp, body) in &self.buffer {
            // Planted: said to be acknowledged, though only later sent.
            if matches!(body, Body::Journal(_)) {
                let end = w.kafka.partition(*tp).entries.len();
                acknowledged.push((tp.1, i64::try_from(end).unwrap_or(-1)));
            }
        }
        Ok(acknowledged)
    }

    fn commit(&mut self, offsets: &[Commit], generation: &Generation) -> Result<Duration, BrokerError> {
        let started_ms = self.env.lock().now_ms;
        self.env.enter("journal.commit", true);
        {
            let env = self.env.clone();
            let mut w = env.lock();
            let rates = w.plan.rates;
            if w.fault(rates.kafka) {
                return Err(failed("send_offsets: not done"));
            }
            self.send_offsets(&mut w, offsets, generation)?;
            w.note(|| format!("offsets {offsets:?} sent by {generation:?}"));
            if w.fault(rates.kafka) {
                return Err(failed("send_offsets: done"));
            }
        }
        self.env.enter("journal.commit, offsets sent", true);
        let late = std::mem::take(&mut self.buffer);
        let (outputs, journal): (Vec<_>, Vec<_>) =
            late.into_iter().partition(|(tp, _)| !matches!(tp.0, Topic::Journal(_)));
        for (tp, body) in journal {
            let env = self.env.clone();
            self.produce(&mut env.lock(), tp, body);
        }
        let done = self.commit_transaction();
        if self.doomed {
            self.env.perish();
        }
        done?;
        if !outputs.is_empty() {
            self.env.enter("journal.commit, outputs after", true);
            let env = self.env.clone();
            for (tp, body) in outputs {
                self.produce(&mut env.lock(), tp, body);
            }
            self.end(&mut env.lock(), true)?;
        }
        self.open = false;
        let took_ms = self.env.lock().now_ms - started_ms;
        self.env.enter("journal.commit, done", true);
        Ok(Duration::from_millis(u64::try_from(took_ms).unwrap_or(0)))
    }

    fn write(&mut self, partition: i32, record: &[u8]) -> Result<(), BrokerError> {
        self.env.enter("journal.write", true);
        self.claims =
            matches!(JournalRecord::decode(0, record), Ok(Some(JournalRecord { entry: Entry::Claim, .. })));
        if self.env.lock().plan.has(Planted::StoredBeforeCommit) {
            crate::disk::take_early(&mut self.env.lock(), self.env.process, partition, record);
        }
        self.send((Topic::Journal(self.env.pipeline), partition), Body::Journal(Arc::from(record)))
    }
}

impl Journal for SimJournal {
    type Generation = Generation;

    fn renew(&mut self) -> Result<(), BrokerError> {
        let ending = match self.ending.take() {
            Some(Ending::Begun(producer, _)) => {
                self.block(false);
                Some(producer)
            }
            Some(Ending::Done(producer, _)) => Some(producer),
            None => None,
        };
        self.idle = self.idle.take().or(ending);
        self.current.renew()?;
        self.renew_ended()
    }

    fn renew_ended(&mut self) -> Result<(), BrokerError> {
        self.idle.as_mut().map_or(Ok(()), SimProducer::renew)
    }

    fn is_open(&self) -> bool {
        self.current.open || self.ending.is_some()
    }

    fn committed(&mut self, partition: i32) -> Result<Committed, BrokerError> {
        self.env.enter("journal.committed", false);
        let mut w = self.env.lock();
        let rate = w.plan.rates.kafka;
        if w.fault(rate / 2) {
            return Err(failed("committed"));
        }
        let Some(found) = w.kafka.committed(self.env.pipeline, partition) else {
            return Err(failed("UNSTABLE_OFFSET_COMMIT"));
        };
        Ok(found
            .map_or_else(Committed::default, |c| Committed { offset: Some(c.offset), lineage: c.lineage }))
    }

    fn output(&mut self, _: &str, partition: i32, effect: &Effect, _: bool) -> Result<(), BrokerError> {
        self.env.enter("journal.output", false);
        let topic = Topic::Output(self.env.pipeline);
        self.next().effect(topic, partition, effect, None)
    }

    fn dead_letter(&mut self, partition: i32, effect: &Effect, reason: &str) -> Result<(), BrokerError> {
        self.env.enter("journal.dead_letter", true);
        let at = effect.position;
        self.env.lock().note(|| format!("dead letter {partition} {at}: {reason}"));
        let refused = (!matches!(effect.action, Action::DeadLetter(_))).then(|| reason.to_owned());
        let topic = Topic::Dead(self.env.pipeline);
        self.next().effect(topic, partition, effect, refused)
    }

    fn end(&mut self, end: End<Generation>) -> Result<(), BrokerError> {
        let Some(idle) = self.idle.take() else { return Err(failed("a transaction is being ended")) };
        let mut producer = std::mem::replace(&mut self.current, idle);
        self.block(true);
        let at_once = self.env.lock().random.chance(500);
        self.ending = Some(if at_once {
            let ended = self.conclude(&mut producer, end);
            Ending::Done(producer, ended)
        } else {
            Ending::Begun(producer, end)
        });
        Ok(())
    }

    fn ended(&mut self, wait: Duration) -> Result<Option<Ended>, BrokerError> {
        self.env.enter("journal.ended", false);
        if wait.is_zero() && self.env.lock().random.chance(500) {
            return Ok(None);
        }
        let (producer, ended) = match self.ending.take() {
            Some(Ending::Begun(mut producer, end)) => {
                let ended = self.conclude(&mut producer, end);
                (producer, ended)
            }
            Some(Ending::Done(producer, ended)) => (producer, ended),
            None => return Err(failed("no transaction is being ended")),
        };
        self.idle = Some(producer);
        ended.map(Some)
    }

    fn replay(
        &mut self,
        partition: i32,
        from: i64,
        until: i64,
        each: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), BrokerError> {
        self.env.enter("journal.replay", false);
        let tp = (Topic::Journal(self.env.pipeline), partition);
        let (from, until) = (usize::try_from(from).unwrap_or(0), usize::try_from(until).unwrap_or(0));
        self.await_stable(tp, until + 1, "replay")?;
        let found: Vec<(usize, Arc<[u8]>)> = {
            let mut w = self.env.lock();
            let journal = w.kafka.partition(tp);
            let of = |(n, entry): (usize, &crate::kafka::Entry)| match &entry.body {
                Body::Journal(value) => Some((n, value.clone())),
                Body::Log(_) | Body::Chunk(_) | Body::Effect(_) | Body::Offsets(_) | Body::Marker => None,
            };
            journal.visible(from).take_while(|(n, _)| *n <= until).filter_map(of).collect()
        };
        for (offset, value) in found {
            each(i64::try_from(offset).unwrap_or(-1), &value);
        }
        Ok(())
    }

    fn first(&mut self, partition: i32) -> Result<Option<(i64, Vec<u8>)>, BrokerError> {
        self.env.enter("journal.first", false);
        let tp = (Topic::Journal(self.env.pipeline), partition);
        let (is_empty, end) = {
            let mut w = self.env.lock();
            let rates = w.plan.rates;
            if w.fault(rates.kafka / 2) {
                return Err(failed("first"));
            }
            let hasty = w.plan.has(Planted::StartNotAwaited);
            let journal = w.kafka.partition(tp);
            (journal.visible(0).next().is_none() && !hasty, journal.entries.len())
        };
        if is_empty {
            self.await_stable(tp, end, "first")?;
        }
        let mut w = self.env.lock();
        let journal = w.kafka.partition(tp);
        let of = |(n, entry): (usize, &crate::kafka::Entry)| match &entry.body {
            Body::Journal(value) => Some((i64::try_from(n).ok()?, value.to_vec())),
            Body::Log(_) | Body::Chunk(_) | Body::Effect(_) | Body::Offsets(_) | Body::Marker => None,
        };
        Ok(journal.visible(0).find_map(of))
    }

    fn chunk(&mut self, partition: i32, chunk: &[u8]) -> Result<(), BrokerError> {
        self.env.enter("journal.chunk", true);
        self.env.lock().note(|| format!("chunk of a snapshot of {partition}, {} B", chunk.len()));
        let tp = (Topic::Snapshots(self.env.pipeline), partition);
        self.next().send(tp, Body::Chunk(Arc::from(chunk)))
    }

    fn snapshots_end(&mut self, partition: i32) -> Result<i64, BrokerError> {
        let mut w = self.env.lock();
        let rate = w.plan.rates.kafka;
        if w.fault(rate / 2) {
            return Err(failed("snapshots' end"));
        }
        let end = w.kafka.partition((Topic::Snapshots(self.env.pipeline), partition)).stable();
        Ok(i64::try_from(end).unwrap_or(-1))
    }

    fn chunks(&mut self, partition: i32, each: &mut dyn FnMut(i64, &[u8])) -> Result<(), BrokerError> {
        self.env.enter("journal.chunks", false);
        let tp = (Topic::Snapshots(self.env.pipeline), partition);
        let hasty = self.env.lock().plan.has(Planted::OpenNotAwaited);
        let end = if hasty { 0 } else { self.env.lock().kafka.partition(tp).entries.len() };
        self.await_stable(tp, end, "chunks")?;
        for (n, entry) in self.env.lock().kafka.partition(tp).visible(0) {
            if let Body::Chunk(value) = &entry.body {
                each(i64::try_from(n).unwrap_or(-1), value);
            }
        }
        Ok(())
    }

    fn trim(&mut self, partition: i32, journal: i64, snapshots: i64) -> Result<(), BrokerError> {
        let pipeline = self.env.pipeline;
        for (topic, below) in [(Topic::Journal(pipeline), journal), (Topic::Snapshots(pipeline), snapshots)] {
            self.env.enter("journal.trim", false);
            let mut w = self.env.lock();
            let rate = w.plan.rates.kafka;
            if w.fault(rate / 2) {
                return Err(failed("trim: not done"));
            }
            w.note(|| format!("{topic:?} {partition} trimmed to {below}"));
            w.kafka.delete_below((topic, partition), below);
        }
        Ok(())
    }

    fn refusals(&mut self, partition: i32) -> Result<Refusals, BrokerError> {
        self.env.enter("journal.refusals", false);
        let tp = (Topic::Dead(self.env.pipeline), partition);
        let end = self.env.lock().kafka.partition(tp).entries.len();
        self.await_stable(tp, end, "refusals")?;
        let mut w = self.env.lock();
        let dead = w.kafka.partition(tp);
        let of = |(_, entry): (usize, &crate::kafka::Entry)| match &entry.body {
            Body::Effect(record) => Some((record.position, record.refused.clone()?)),
            Body::Log(_) | Body::Journal(_) | Body::Chunk(_) | Body::Offsets(_) | Body::Marker => None,
        };
        Ok(dead.visible(0).filter_map(of).collect())
    }
}
