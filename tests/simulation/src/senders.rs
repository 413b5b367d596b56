//! The senders and ingest: each event is sent until it is acknowledged, some again after that; an append can
//! fail, done or not.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::defects::Planted;
use crate::events::{SimEvent, rubbish};
use crate::kafka::{Body, LogRecord, Topic};
use crate::plan::Plan;
use crate::random::Random;
use crate::world::Inner;

/// Where all senders are.
#[derive(Clone, Debug)]
pub struct Senders {
    traffic: Vec<SimEvent>,
    /// What is to be sent, in this order.
    queue: Vec<usize>,
    /// Acknowledged with 200.
    pub acknowledged: BTreeSet<usize>,
    /// Planted: ids that ingest remembers.
    remembered: BTreeSet<usize>,
    random: Random,
    extra: usize,
}

impl Senders {
    /// With everything still to be sent.
    #[must_use]
    pub fn new(plan: &Plan, random: Random) -> Self {
        let traffic = plan.traffic.clone();
        let queue = (0..traffic.len()).collect();
        let (acknowledged, remembered) = (BTreeSet::new(), BTreeSet::new());
        Self { traffic, queue, acknowledged, remembered, random, extra: 0 }
    }

    /// Whether everything was sent.
    #[must_use]
    pub fn are_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// More is sent: events that nobody has sent before.
    pub fn more(&mut self, count: usize) {
        for _ in 0..count {
            self.extra += 1;
            self.queue.push(self.traffic.len());
            self.traffic.push(SimEvent {
                source: "plain".to_owned(),
                connection: String::new(),
                id: format!("more-{}", self.extra),
                kind: "order.changed".to_owned(),
                entity: Some(format!("more-{}", self.extra % 7)),
                sequence: None,
                problem: false,
                poison: false,
                snapshot: false,
            });
        }
    }

    /// The poller was asked for an entity: what it finds is appended before long.
    pub fn poll(&mut self, source: &str, connection: &str, entity: Option<&str>) {
        let of = |event: &&SimEvent| {
            (event.source.as_str(), event.connection.as_str(), event.entity.as_deref())
                == (source, connection, entity)
                && event.sequence.is_some()
                && !event.snapshot
        };
        let mut known: Vec<SimEvent> = self.traffic.iter().filter(of).map(SimEvent::found).collect();
        if !known.is_empty() {
            // The provider's own copy may lag, too.
            let found = known.swap_remove(self.random.below(known.len()));
            let n = self.traffic.len();
            self.traffic.push(found);
            self.again(n);
        }
    }

    /// The event of a number.
    #[must_use]
    pub fn event(&self, n: usize) -> Option<&SimEvent> {
        self.traffic.get(n)
    }

    fn again(&mut self, n: usize) {
        // Soon, or much later.
        let far = self.random.below(self.queue.len() + 1);
        let at = if self.random.chance(500) { far.min(3) } else { far };
        self.queue.insert(at, n);
    }
}

/// The partition that a key goes to.
#[must_use]
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    let hash = key.iter().fold(0xcbf2_9ce4_u32, |h, b| (h ^ u32::from(*b)).wrapping_mul(0x0100_0193));
    let partitions = u32::try_from(partitions).unwrap_or(1).max(1);
    i32::try_from((hash >> 8) % partitions).unwrap_or(0)
}

/// Appends a record; false where it is in an aborted transaction of somebody else's.
fn append(w: &mut Inner, record: LogRecord) -> bool {
    let partition = partition_of(record.frame.key(), w.plan.partitions);
    let time = w.broker_ms(partition);
    let tp = (Topic::Log, partition);
    let event = record.event.clone();
    let body = Body::Log(Arc::new(record));
    let foreign = w.fault(15);
    let commit = !foreign || w.random.chance(500);
    let offset =
        if foreign { w.kafka.append_foreign(tp, time, body, commit) } else { w.kafka.append(tp, time, body) };
    w.note(|| match &event {
        Some(e) => {
            format!(
                "log {partition}:{offset} = {} {} {:?} {:?} {}",
                e.source, e.id, e.entity, e.sequence, e.kind
            )
        }
        None => format!("log {partition}:{offset} = no event"),
    });
    commit
}

/// Sends a few events.
pub fn send(w: &mut Inner) {
    let most = if w.plan.long_stalls && w.faults { 1 } else { 5 };
    let count = 1 + w.random.below(most);
    for _ in 0..count {
        if w.plan.traffic.len().is_multiple_of(3) && w.fault(10) {
            let n = w.random.below(1_000);
            if !w.plan.unfenced_group {
                append(w, rubbish(n));
            }
        }
        if w.senders.queue.is_empty() {
            return;
        }
        let n = w.senders.queue.remove(0);
        let Some(event) = w.senders.event(n).cloned() else { continue };
        let rate = w.plan.rates.kafka;
        if w.plan.has(Planted::DeduplicatedBeforeAppend) && !w.senders.remembered.insert(n) {
            w.senders.acknowledged.insert(n);
            continue;
        }
        if w.fault(rate) {
            w.senders.again(n);
            continue;
        }
        if !append(w, event.to_record()) || w.fault(rate) {
            // Done, but the sender does not hear of it.
            w.senders.again(n);
            continue;
        }
        let first = w.senders.acknowledged.insert(n);
        if first && w.faults && w.random.chance(150) {
            w.senders.again(n);
        }
    }
}
