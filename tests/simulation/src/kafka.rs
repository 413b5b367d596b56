//! A Kafka cluster: partitions with last stable offset, markers and aborted records; transactions as in
//! protocol version 1, where the end of a transaction names the producer and its epoch, but not which of its
//! transactions. Group membership is [`crate::group`]'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use processor::broker::Commit;
use processor::control::Control;
use processor::frame::Frame;
use processor::position::Position;

use crate::events::SimEvent;

/// A topic; the number is the pipeline's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// The event log.
    Log,
    /// A pipeline's journal.
    Journal(usize),
    /// A pipeline's snapshots.
    Snapshots(usize),
    /// The output topic of a Kafka sink.
    Output(usize),
    /// Dead letters.
    Dead(usize),
    /// The group's committed offsets: a topic like any other, so that they obey transactions as in Kafka.
    Offsets(usize),
}

/// A partition of a topic.
pub type Tp = (Topic, i32);

/// A record of the event log, with what the oracle knows of it.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// As the processor reads it.
    pub frame: Frame,
    /// The event that was sent; `None` where the record is none.
    pub event: Option<SimEvent>,
    /// The control record that was appended.
    pub control: Option<Control>,
}

/// An output or a dead letter.
#[derive(Clone, Debug)]
pub struct EffectRecord {
    /// The effect's position.
    pub position: Position,
    /// The event's own offset.
    pub event_offset: i64,
    /// The event.
    pub frame: Frame,
    /// Why the sink refused it, if it did.
    pub refused: Option<String>,
}

/// A record's content.
#[derive(Clone, Debug)]
pub enum Body {
    /// In the event log.
    Log(Arc<LogRecord>),
    /// In a journal.
    Journal(Arc<[u8]>),
    /// In the snapshots.
    Chunk(Arc<[u8]>),
    /// In an output or dead-letter topic.
    Effect(EffectRecord),
    /// Committed offsets.
    Offsets(Vec<Commit>),
    /// The end of a transaction.
    Marker,
}

/// A record.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The broker's clock when it was appended.
    pub time_ms: i64,
    /// The transaction that it belongs to.
    pub txn: Option<usize>,
    /// Its content.
    pub body: Body,
}

/// A partition's records; the index is the offset.
#[derive(Clone, Debug, Default)]
pub struct Partition {
    /// All records ever, the deleted ones too.
    pub entries: Vec<Entry>,
    /// The first offset that is still there.
    pub low: usize,
    /// What a rebuild deleted, below this offset, is nobody's any more.
    pub rebuilt: usize,
    open: BTreeMap<usize, usize>,
    /// Transactions that were aborted.
    pub aborted: BTreeSet<usize>,
}

impl Partition {
    /// The last stable offset: readers see nothing from here on.
    #[must_use]
    pub fn stable(&self) -> usize {
        self.open.values().copied().min().unwrap_or(self.entries.len())
    }

    fn is_visible(&self, entry: &Entry) -> bool {
        !matches!(entry.body, Body::Marker) && entry.txn.is_none_or(|txn| !self.aborted.contains(&txn))
    }

    /// Offsets and records that a `read_committed` reader sees from an offset on.
    pub fn visible(&self, from: usize) -> impl Iterator<Item = (usize, &Entry)> {
        let from = from.max(self.low);
        let until = self.stable();
        let slice = if from < until { self.entries.get(from..until) } else { None };
        slice
            .unwrap_or_default()
            .iter()
            .enumerate()
            .map(move |(n, e)| (from + n, e))
            .filter(|(_, e)| self.is_visible(e))
    }

    /// As [`Partition::visible`], with the records that were deleted since, but for those that a rebuild deleted.
    pub fn ever_visible(&self) -> impl Iterator<Item = (usize, &Entry)> {
        let until = self.stable();
        let all = self.entries.iter().take(until).enumerate().skip(self.rebuilt);
        all.filter(|(_, e)| self.is_visible(e))
    }

    /// Whether a transaction is open here.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        !self.open.is_empty()
    }

    fn append(&mut self, time_ms: i64, txn: Option<usize>, body: Body) -> usize {
        let offset = self.entries.len();
        if let Some(txn) = txn {
            self.open.entry(txn).or_insert(offset);
        }
        self.entries.push(Entry { time_ms, txn, body });
        offset
    }

    fn end(&mut self, txn: usize, commit: bool, time_ms: i64) {
        self.append(time_ms, None, Body::Marker);
        self.open.remove(&txn);
        if !commit {
            self.aborted.insert(txn);
        }
    }
}

/// Why the cluster refuses a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A later producer has its transactional id.
    Fenced,
    /// The former transaction is still being ended.
    Concurrent,
    /// There is no transaction to end.
    Invalid,
    /// The group has another generation, or does not know the member.
    Generation,
}

/// A transactional id.
pub type Tid = (usize, usize, usize);

#[derive(Clone, Debug)]
enum State {
    Idle { last: Option<bool> },
    Ongoing { txn: usize, since_ms: i64, parts: BTreeSet<Tp> },
    Ending { txn: usize, commit: bool, pending: Vec<Tp> },
}

#[derive(Clone, Debug)]
struct Producer {
    epoch: i32,
    state: State,
}

/// How long a transaction may be open.
pub const TRANSACTION_TIMEOUT_MS: i64 = 15_000;

/// The cluster.
#[derive(Clone, Debug, Default)]
pub struct Kafka {
    partitions: BTreeMap<Tp, Partition>,
    producers: BTreeMap<Tid, Producer>,
    transactions: usize,
    /// Requests to end a transaction that are still on their way: when they arrive, whose, whether to commit.
    pub delayed: Vec<(i64, Tid, i32, bool)>,
}

impl Kafka {
    /// A partition; made when first asked for.
    pub fn partition(&mut self, tp: Tp) -> &mut Partition {
        self.partitions.entry(tp).or_default()
    }

    /// Whether a transaction is open anywhere, or its markers are not all written.
    #[must_use]
    pub fn is_held_up(&self) -> bool {
        self.partitions.values().any(Partition::is_held_up)
    }

    /// Appends outside of any transaction.
    pub fn append(&mut self, tp: Tp, time_ms: i64, body: Body) -> usize {
        self.partition(tp).append(time_ms, None, body)
    }

    /// A transaction of somebody else's, ended at once: its marker leaves a hole.
    pub fn append_foreign(&mut self, tp: Tp, time_ms: i64, body: Body, commit: bool) -> usize {
        self.transactions += 1;
        let txn = self.transactions;
        let partition = self.partition(tp);
        let offset = partition.append(time_ms, Some(txn), body);
        partition.end(txn, commit, time_ms);
        offset
    }

    /// Deletes a partition and makes it anew.
    pub fn recreate(&mut self, tp: Tp) {
        self.partitions.remove(&tp);
    }

    /// `DeleteRecords`.
    pub fn delete_below(&mut self, tp: Tp, offset: i64) {
        let partition = self.partition(tp);
        // The offset -1 means the end.
        let offset = usize::try_from(offset).unwrap_or(partition.entries.len());
        partition.low = partition.low.max(offset.min(partition.entries.len()));
    }

    /// `InitProducerId`: fences the former producer and aborts what it left open.
    ///
    /// # Errors
    /// Concurrent, until the former transaction has ended.
    pub fn init(&mut self, tid: Tid) -> Result<i32, Refusal> {
        let idle = State::Idle { last: None };
        let producer = self.producers.entry(tid).or_insert(Producer { epoch: -1, state: idle });
        match &mut producer.state {
            State::Idle { last } => {
                *last = None;
                producer.epoch += 1;
                Ok(producer.epoch)
            }
            State::Ongoing { txn, parts, .. } => {
                let pending = parts.iter().copied().collect();
                producer.state = State::Ending { txn: *txn, commit: false, pending };
                producer.epoch += 1;
                Err(Refusal::Concurrent)
            }
            State::Ending { .. } => Err(Refusal::Concurrent),
        }
    }

    /// A record of a transaction, which it starts where there is none.
    ///
    /// # Errors
    /// Fenced, or concurrent.
    pub fn produce(&mut self, tid: Tid, epoch: i32, tp: Tp, now: i64, body: Body) -> Result<usize, Refusal> {
        let producer = self.producers.get_mut(&tid).ok_or(Refusal::Fenced)?;
        if producer.epoch != epoch {
            return Err(Refusal::Fenced);
        }
        if matches!(producer.state, State::Idle { .. }) {
            self.transactions += 1;
            producer.state = State::Ongoing { txn: self.transactions, since_ms: now, parts: BTreeSet::new() };
        }
        let State::Ongoing { txn, parts, .. } = &mut producer.state else {
            return Err(Refusal::Concurrent);
        };
        parts.insert(tp);
        let txn = *txn;
        Ok(self.partition(tp).append(now, Some(txn), body))
    }

    /// `EndTxn`, version 1: ends whatever transaction of that producer is open.
    ///
    /// # Errors
    /// Fenced, concurrent, or there is none.
    pub fn end(&mut self, tid: Tid, epoch: i32, commit: bool) -> Result<(), Refusal> {
        let producer = self.producers.get_mut(&tid).ok_or(Refusal::Fenced)?;
        if producer.epoch != epoch {
            return Err(Refusal::Fenced);
        }
        match &producer.state {
            State::Idle { last } if *last == Some(commit) => Ok(()),
            State::Idle { .. } => Err(Refusal::Invalid),
            State::Ending { commit: decided, .. } if *decided == commit => Ok(()),
            State::Ending { .. } => Err(Refusal::Concurrent),
            State::Ongoing { txn, parts, .. } => {
                let pending = parts.iter().copied().collect();
                producer.state = State::Ending { txn: *txn, commit, pending };
                Ok(())
            }
        }
    }

    /// Writes the next marker of a transaction that is being ended; false where there is none.
    pub fn write_marker(&mut self, tid: Tid, pick: usize, now: i64) -> bool {
        let Some(producer) = self.producers.get_mut(&tid) else { return false };
        let State::Ending { txn, commit, pending } = &mut producer.state else { return false };
        let (txn, commit) = (*txn, *commit);
        let marked = (!pending.is_empty()).then(|| pending.remove(pick % pending.len()));
        if pending.is_empty() {
            producer.state = State::Idle { last: Some(commit) };
        }
        if let Some(tp) = marked {
            self.partition(tp).end(txn, commit, now);
        }
        true
    }

    /// Producers whose transaction is being ended.
    #[must_use]
    pub fn ending(&self) -> Vec<Tid> {
        let is_ending = |producer: &Producer| matches!(producer.state, State::Ending { .. });
        self.producers.iter().filter(|(_, p)| is_ending(p)).map(|(tid, _)| *tid).collect()
    }

    /// Aborts transactions that are open for too long, and fences their producers.
    pub fn time_out(&mut self, now: i64) {
        for producer in self.producers.values_mut() {
            if let State::Ongoing { txn, since_ms, parts } = &producer.state
                && now - since_ms > TRANSACTION_TIMEOUT_MS
            {
                let pending = parts.iter().copied().collect();
                producer.state = State::Ending { txn: *txn, commit: false, pending };
                producer.epoch += 1;
            }
        }
    }

    /// Delivers the delayed ends that are due. What the cluster says to them, nobody hears.
    pub fn deliver_delayed(&mut self, now: i64) -> Vec<(Tid, bool, bool)> {
        let due: Vec<_> = self.delayed.extract_if(.., |(at, ..)| *at <= now).collect();
        due.into_iter()
            .map(|(_, tid, epoch, commit)| {
                let hits = self
                    .producers
                    .get(&tid)
                    .is_some_and(|p| p.epoch == epoch && matches!(p.state, State::Ongoing { .. }));
                let _ = self.end(tid, epoch, commit);
                (tid, commit, hits)
            })
            .collect()
    }

    /// A pipeline's committed offset; `None` while a transaction that changes it is open.
    pub fn committed(&mut self, pipeline: usize, partition: i32) -> Option<Option<Commit>> {
        let offsets = self.partition((Topic::Offsets(pipeline), 0));
        let of = |entry: &Entry| match &entry.body {
            Body::Offsets(commits) => commits.iter().find(|c| c.partition == partition).copied(),
            Body::Log(_) | Body::Journal(_) | Body::Chunk(_) | Body::Effect(_) | Body::Marker => None,
        };
        let open: BTreeSet<usize> = offsets.open.keys().copied().collect();
        let unstable =
            offsets.entries.iter().any(|e| e.txn.is_some_and(|txn| open.contains(&txn)) && of(e).is_some());
        if unstable {
            return None;
        }
        Some(offsets.entries.iter().rev().filter(|e| offsets.is_visible(e)).find_map(of))
    }
}
