//! The event log, as a lane reads it: in order within a partition, with holes, with records from a queue of
//! before the last seek, and now and then with a record left out by the client, which a second reading finds.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use processor::broker::{BrokerError, Log};
use processor::control::Control;
use processor::fold::Record;
use shared::poll::PollRequest;

use crate::defects::Planted;
use crate::env::Env;
use crate::events::control_record;
use crate::kafka::{Body, Entry, Topic};
use crate::rules::Rule;
use crate::world::Inner;

/// A lane's reader.
pub struct SimLog {
    env: Env,
    /// The next offset, by partition.
    started: BTreeMap<i32, usize>,
    /// Fetched before the last seek.
    queue: VecDeque<(i32, Record)>,
    /// Offsets that were queued or left out once: a hole that is met twice is the log's.
    tricked: BTreeSet<(i32, usize)>,
    /// Nothing comes before this time.
    quiet_until_ms: i64,
}

/// A request that failed.
pub fn failed(what: &str) -> BrokerError {
    BrokerError::Retry(format!("simulated: {what}"))
}

impl SimLog {
    /// A reader without partitions.
    #[must_use]
    pub fn new(env: Env) -> Self {
        let (started, queue, tricked) = (BTreeMap::new(), VecDeque::new(), BTreeSet::new());
        Self { env, started, queue, tricked, quiet_until_ms: 0 }
    }

    fn next(&mut self, w: &mut Inner) -> Option<(i32, Record)> {
        if w.random.chance(300)
            && let Some(old) = self.queue.pop_front()
        {
            return Some(old);
        }
        let started: Vec<(i32, usize)> = self.started.iter().map(|(p, o)| (*p, *o)).collect();
        let mut ready = Vec::new();
        for (partition, from) in started {
            let log = w.kafka.partition((Topic::Log, partition));
            if log.is_held_up() {
                w.violation(
                    Rule::OpenLog,
                    format!("an open transaction holds up every reader of log {partition}"),
                );
                return None;
            }
            let found: Vec<(usize, Record)> =
                log.visible(from).take(2).filter_map(|(n, e)| Some((n, record(n, e)?))).collect();
            if !found.is_empty() {
                ready.push((partition, found));
            }
        }
        let pick = w.random.below(ready.len());
        let (partition, mut found) = ready.into_iter().nth(pick)?;
        let first = found.first().map(|(n, _)| *n)?;
        if let Some((second, _)) = found.get(1)
            && w.fault(10)
            && self.tricked.insert((partition, first))
            && self.tricked.insert((partition, *second))
        {
            found.remove(0);
        }
        let (offset, record) = found.into_iter().next()?;
        self.started.insert(partition, offset + 1);
        Some((partition, record))
    }
}

fn record(offset: usize, entry: &Entry) -> Option<Record> {
    match &entry.body {
        Body::Log(record) => Some(Record {
            offset: i64::try_from(offset).ok()?,
            time_ms: entry.time_ms,
            frame: record.frame.clone(),
        }),
        Body::Journal(_) | Body::Chunk(_) | Body::Effect(_) | Body::Offsets(_) | Body::Marker => None,
    }
}

impl Log for SimLog {
    fn renew(&mut self) -> Result<(), BrokerError> {
        self.env.enter("log.renew", false);
        self.started.clear();
        self.queue.clear();
        Ok(())
    }

    fn start(&mut self, partition: i32, offset: i64) -> Result<(), BrokerError> {
        self.env.enter("log.start", false);
        self.stop(partition);
        self.started.insert(partition, usize::try_from(offset).unwrap_or(0));
        Ok(())
    }

    fn stop(&mut self, partition: i32) {
        let mut w = self.env.lock();
        if let Some(from) = self.started.remove(&partition)
            && w.fault(100)
        {
            let log = w.kafka.partition((Topic::Log, partition));
            for (n, entry) in log.visible(from).take(3) {
                if self.tricked.insert((partition, n)) {
                    self.queue.extend(record(n, entry).map(|record| (partition, record)));
                }
            }
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<(i32, Record)>, BrokerError> {
        self.env.enter("log.poll", false);
        let env = self.env.clone();
        let mut w = env.lock();
        let rate = w.plan.rates.kafka;
        if w.fault(rate / 4) {
            return Err(failed("poll"));
        }
        if w.fault(25) {
            self.quiet_until_ms = w.now_ms + w.random.between(50, 1_000);
        }
        if w.now_ms < self.quiet_until_ms {
            w.pass(i64::try_from(wait.as_millis()).unwrap_or(0));
            return Ok(None);
        }
        if w.fault(150) {
            return Ok(None);
        }
        let next = self.next(&mut w);
        if let Some((partition, record)) = &next {
            let (process, offset) = (env.process, record.offset);
            w.note(|| format!("process {process} reads log {partition}:{offset}"));
        }
        if next.is_none() {
            w.pass(i64::try_from(wait.as_millis()).unwrap_or(0));
        }
        Ok(next)
    }

    fn bounds(&mut self, partition: i32) -> Result<(i64, i64), BrokerError> {
        self.env.enter("log.bounds", false);
        let mut w = self.env.lock();
        let rate = w.plan.rates.kafka;
        if w.fault(rate / 2) {
            return Err(failed("bounds"));
        }
        let log = w.kafka.partition((Topic::Log, partition));
        Ok((i64::try_from(log.low).unwrap_or(0), i64::try_from(log.stable()).unwrap_or(0)))
    }

    fn reach(&mut self, partition: i32) -> Result<(), BrokerError> {
        self.bounds(partition).map(drop)
    }

    fn scan(
        &mut self,
        partition: i32,
        from: i64,
        high: i64,
        each: &mut dyn FnMut(Record) -> bool,
    ) -> Result<(), BrokerError> {
        self.env.enter("log.scan", false);
        let (from, high) = (usize::try_from(from).unwrap_or(0), usize::try_from(high).unwrap_or(0));
        let found: Vec<Record> = {
            let mut w = self.env.lock();
            let rate = w.plan.rates.kafka;
            if w.fault(rate / 2) {
                return Err(failed("scan"));
            }
            let log = w.kafka.partition((Topic::Log, partition));
            log.visible(from).take_while(|(n, _)| *n < high).filter_map(|(n, e)| record(n, e)).collect()
        };
        for record in found {
            if !each(record) {
                break;
            }
        }
        Ok(())
    }

    fn append(&mut self, partition: i32, key: &[u8], control: &Control) -> Result<i64, BrokerError> {
        self.env.enter("log.append", false);
        let offset = {
            let mut w = self.env.lock();
            let rate = w.plan.rates.kafka;
            if w.fault(rate) {
                return Err(failed("append, not done"));
            }
            let now = w.now_ms;
            let under_way = w.fault(rate);
            let due_ms = now + w.random.between(0, 10_000);
            let Some(record) = control_record(key, control, crate::world::WALL_START_MS + now) else {
                return Err(failed("control record"));
            };
            let time = w.broker_ms(partition);
            w.note(|| format!("appends to log {partition}: {control:?}"));
            let body = Body::Log(std::sync::Arc::new(record));
            let tp = (Topic::Log, partition);
            if under_way {
                w.delayed_appends.push((due_ms, tp, body));
                return Err(failed("append, under way"));
            }
            if w.plan.has(Planted::ControlInTransaction) {
                let tid = (self.env.pipeline, 1_000 + self.env.process, self.env.lane);
                while w.kafka.init(tid).is_err() {
                    w.write_all_markers(tid);
                }
                let epoch = w.kafka.init(tid).unwrap_or(0);
                let offset = w.kafka.produce(tid, epoch, tp, time, body).unwrap_or(0);
                drop(w);
                self.env.enter("log.append, open transaction", false);
                let mut w = self.env.lock();
                let _ = w.kafka.end(tid, epoch, true);
                w.write_all_markers(tid);
                offset
            } else {
                w.kafka.append(tp, time, body)
            }
        };
        self.env.enter("log.append, done", false);
        let rate = self.env.lock().plan.rates.kafka;
        if self.env.lock().fault(rate) {
            return Err(failed("append, done"));
        }
        i64::try_from(offset).map_err(|_| failed("offset"))
    }
    fn ask(&mut self, request: &PollRequest) -> Result<(), BrokerError> {
        let (pipeline, process) = (self.env.pipeline, self.env.process);
        {
            let mut w = self.env.lock();
            w.note(|| format!("process {process} asks: {request:?}"));
            let PollRequest { source, connection, entity, .. } = request.clone();
            w.asked.insert((pipeline, source, connection, entity));
        }
        self.env.enter("log.ask", false);
        let mut w = self.env.lock();
        let rate = w.plan.rates.kafka;
        if w.fault(rate) {
            return Err(failed("ask"));
        }
        // Asked, and perhaps nothing is found.
        if w.random.chance(700) {
            w.senders.poll(&request.source, &request.connection, request.entity.as_deref());
        }
        Ok(())
    }
}
