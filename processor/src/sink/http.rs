//! The HTTP sink: one POST per event to the user's service, in order per entity, many entities at once.
//!
//! At least once: where an answer is lost, or the process ends before the next checkpoint, the same event is sent
//! again, perhaps after later ones. There is no fence that a receiver is bound to keep: a former owner may still
//! send. Each request names the event (Idempotency-Key), its position and the owner's epoch; with these, a receiver
//! can have exactly once. Progress is the checkpoint's. Called by a lane's thread.

mod receiver;
pub(crate) mod request;

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use shared::config::HttpSinkConfig;

use self::receiver::Receiver;
use self::request::{Answer, Client};
use super::rows::{self, Row};
use super::{Batch, Context, Sink, SinkError};
use crate::position::{Epoch, Fence, Position};

/// How often an event is sent before the batch is given up for now.
const TRIES_MAX: u32 = 4;
/// Between the tries: so long, twice so long and so on; and the longest that a receiver's Retry-After is waited for
/// here. A longer one opens the circuit.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// A service that takes events by POST.
pub(super) struct Http {
    client: Client,
    /// Shared by all lanes, and outlives this sink.
    receiver: Arc<Receiver>,
    concurrency: usize,
    partitions: BTreeMap<i32, Progress>,
}

/// What the lane knows of a partition.
#[derive(Clone, Copy)]
struct Progress {
    fence: Fence,
    /// Effects of records below were applied before the journal was lost.
    applied_below: i64,
}

impl Http {
    /// Makes no connection: whether the receiver is there shows when there is something to send.
    pub(super) fn open(config: &HttpSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let client = Client::new(config, "sink.http")?;
        let receiver = Receiver::of(context, client.url());
        let concurrency = usize::try_from(config.concurrency).unwrap_or(1).clamp(1, 256);
        Ok(Self { client, receiver, concurrency, partitions: BTreeMap::new() })
    }

    /// Sends what was not acknowledged yet: the entities' events each in their order, and several entities at once.
    fn send(&self, batch: &Batch<'_>, rows: &[Row<'_>], applied_below: i64) -> Result<(), SinkError> {
        let mut chains = chains(rows.iter().filter(|row| {
            row.position.offset >= applied_below && !self.receiver.has(batch.partition, row.position)
        }));
        if chains.is_empty() {
            return Ok(());
        }
        let Some(is_probe) = self.receiver.admit().map_err(|left| self.circuit_open(left))? else {
            return Err(SinkError::Retry(format!(
                "{}: another lane tries whether it answers again",
                self.client
            )));
        };
        if is_probe && let Some(first) = chains.front_mut().and_then(VecDeque::pop_front) {
            self.post(batch, first)?;
        }
        let threads = self.concurrency.min(chains.len());
        let work = Work { chains: Mutex::new(chains), worst: Mutex::new(None) };
        thread::scope(|scope| {
            // This thread is one of them.
            for _ in 1..threads {
                scope.spawn(|| self.work(batch, &work));
            }
            self.work(batch, &work);
        });
        work.worst.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
    }

    /// Sends entity after entity, until there are none or one of the threads met what concerns all.
    fn work(&self, batch: &Batch<'_>, work: &Work<'_, '_>) {
        while let Some(chain) = work.next() {
            for row in chain {
                if let Err(error) = self.post(batch, row) {
                    work.note(error);
                    // What comes after it in its entity waits for what becomes of it.
                    break;
                }
            }
        }
    }

    /// Sends one event until it is acknowledged, refused, or has failed often enough.
    fn post(&self, batch: &Batch<'_>, row: &Row<'_>) -> Result<(), SinkError> {
        let mut wait = BACKOFF.0;
        for attempt in 1.. {
            let asked = match self.client.post(batch, row) {
                Answer::Taken => {
                    self.receiver.took(batch.partition, row.position);
                    return Ok(());
                }
                Answer::Refused(error) => {
                    self.receiver.answered();
                    return Err(error);
                }
                Answer::Again { error, after } => {
                    let asked = after.unwrap_or(wait);
                    if asked > BACKOFF.1 || attempt >= TRIES_MAX {
                        self.receiver.failed(after);
                        return Err(error);
                    }
                    asked
                }
            };
            thread::sleep(asked);
            wait = (wait * 2).min(BACKOFF.1);
        }
        Ok(())
    }

    fn circuit_open(&self, left: Duration) -> SinkError {
        SinkError::Retry(format!("{}: no request for another {} s", self.client, left.as_secs().max(1)))
    }
}

impl Sink for Http {
    fn keeps_fence(&self) -> bool {
        false
    }

    fn resume(&mut self, partition: i32, checkpointed: Option<Fence>, applied_below: i64) {
        let fence = checkpointed.unwrap_or(Fence::EMPTY);
        self.partitions.insert(partition, Progress { fence, applied_below });
    }

    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        let unknown = Progress { fence: Fence::EMPTY, applied_below: 0 };
        let progress = self.partitions.entry(partition).or_insert(unknown);
        progress.fence.epoch = epoch;
        Ok(progress.fence)
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        Ok(self.partitions.get(&partition).map_or(Fence::EMPTY, |progress| progress.fence))
    }

    /// Never called: see [`Sink::keeps_fence`].
    fn count(&mut self, _: i32, _: Position) -> Result<u64, SinkError> {
        Err(SinkError::Halt(format!("{}: what it was sent cannot be counted", self.client)))
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let rows = rows::of(batch)?;
        let partition = batch.partition;
        let unclaimed = Progress { fence: Fence::EMPTY, applied_below: 0 };
        let progress = self.partitions.get(&partition).copied().unwrap_or(unclaimed);
        if (progress.fence.position, progress.fence.epoch) != (batch.from.position, batch.from.epoch) {
            return Err(SinkError::Fenced { partition, found: progress.fence.epoch, own: batch.from.epoch });
        }
        self.send(batch, &rows, progress.applied_below)?;
        self.receiver.reached(partition, batch.to.position);
        self.partitions.insert(partition, Progress { fence: batch.to, ..progress });
        Ok(())
    }
}

/// What the threads of a delivery share.
struct Work<'r, 'e> {
    chains: Mutex<VecDeque<VecDeque<&'r Row<'e>>>>,
    worst: Mutex<Option<SinkError>>,
}

impl<'r, 'e> Work<'r, 'e> {
    fn next(&self) -> Option<VecDeque<&'r Row<'e>>> {
        // A refusal is one event's; all else concerns every one.
        let goes_on = matches!(
            *self.worst.lock().unwrap_or_else(PoisonError::into_inner),
            None | Some(SinkError::Refused(_))
        );
        goes_on.then(|| self.chains.lock().unwrap_or_else(PoisonError::into_inner).pop_front())?
    }

    fn note(&self, error: SinkError) {
        let mut worst = self.worst.lock().unwrap_or_else(PoisonError::into_inner);
        if rank(Some(&error)) > rank(worst.as_ref()) {
            *worst = Some(error);
        }
    }
}

fn rank(error: Option<&SinkError>) -> u8 {
    match error {
        None => 0,
        Some(SinkError::Refused(_)) => 1,
        Some(SinkError::Retry(_) | SinkError::Waits(_)) => 2,
        Some(SinkError::Fenced { .. } | SinkError::Halt(_)) => 3,
    }
}

/// The events of each entity, in their order; one without an entity waits for nobody.
fn chains<'r, 'e>(rows: impl Iterator<Item = &'r Row<'e>>) -> VecDeque<VecDeque<&'r Row<'e>>> {
    let mut chains: VecDeque<VecDeque<&Row<'_>>> = VecDeque::new();
    let mut of = BTreeMap::new();
    for row in rows {
        let Some(entity) = row.event.entity else {
            chains.push_back([row].into());
            continue;
        };
        let n = *of.entry((row.event.source, &*row.event.connection, entity)).or_insert(chains.len());
        match chains.get_mut(n) {
            Some(chain) => chain.push_back(row),
            None => chains.push_back([row].into()),
        }
    }
    chains
}

/// For tests of what passes with time.
fn now() -> Instant {
    Instant::now()
}
