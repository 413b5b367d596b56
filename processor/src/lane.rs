//! A lane: one thread, some partitions, two transactional producers in turn. It claims, folds, delivers and
//! checkpoints; each step in a file of its own, in that order.
//!
//! While a checkpoint is committed, it goes on to fold and deliver: what is beyond it is the next one's.
//!
//! There is one way back from every failure: drop what was folded since the last checkpoint, take fresh
//! producers, claim again. A lane never waits for another one and shares nothing with it but the tickets.

mod checkpoint;
mod claim;
mod deliver;
mod fold;
mod gaps;
mod snapshots;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use shared::admin::Health;
use shared::config::KafkaSinkConfig;

pub(crate) use self::claim::first_config;
use crate::broker::{BrokerError, Journal, Log};
use crate::clock::Clock;
use crate::failpoint::{self, Point};
use crate::fold::{Effect, FoldConfig, FoldError, State};
use crate::journal::{JournalError, Mark};
use crate::position::{Epoch, Fence, Position};
use crate::sink::{Sink, SinkError};
use crate::store::{Store, StoreError, Stores};
use crate::tickets::{Ticket, Tickets};

/// A checkpoint is cut before its delta exceeds this, so that it fits into a journal record together with
/// one more entity at its largest.
const DELTA_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long the lane waits when there is nothing to do.
const IDLE_WAIT: Duration = Duration::from_millis(50);
/// The first and the longest wait before another claim.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(15));

/// How long a partition stands still that cannot go on until somebody acts.
const STUCK_WAIT: Duration = Duration::from_secs(15);

/// What a lane is told.
#[derive(Debug)]
pub enum Command {
    /// A partition is the lane's now.
    Assign(i32, Ticket),
    /// A partition is not the lane's any more; its ticket is invalid already.
    Revoke(i32),
    /// Finish: a last checkpoint, then end.
    Stop,
}

/// Settings of a lane.
#[derive(Clone, Debug)]
pub struct LaneConfig {
    /// The pipeline's name.
    pub pipeline: String,
    /// The instance's name.
    pub instance: String,
    /// The fold's configuration as it is in the file.
    pub fold: FoldConfig,
    /// A checkpoint is made at the latest so long after the first record of a batch.
    pub checkpoint_interval: Duration,
    /// A checkpoint is made at the latest after so many records.
    pub checkpoint_records_max: usize,
    /// How effects are gathered into batches for the sink.
    pub batch: BatchLimits,
    /// A snapshot is due when a journal has grown by so many bytes, and by twice the state.
    pub snapshot_after: u64,
    /// A snapshot's chunk is closed when it exceeds this.
    pub snapshot_chunk_bytes: usize,
    /// Ids of one partition in memory: when they are more, they are spilled to its store.
    pub ids_in_memory_max: usize,
    /// A Kafka sink: its topics, and what deletes.
    pub outputs: Option<KafkaSinkConfig>,
    /// What spans are called.
    pub names: crate::traces::Names,
}

/// How effects are gathered into batches for the sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Effects wait for the checkpoint, which is made when a batch is full; else they are delivered as soon as they are
    /// folded, or where they go into topics, as soon as a batch is full.
    pub waits: bool,
    /// Effects in one transaction of the sink.
    pub effects_max: usize,
    /// Bytes of effects in one batch.
    pub bytes_max: usize,
}

impl BatchLimits {
    /// Effects that waited are as many as one batch may have.
    fn is_full(self, running: &Running) -> bool {
        running.effects.len() >= self.effects_max || running.effect_bytes >= self.bytes_max
    }
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { waits: false, effects_max: 1_000, bytes_max: 4 * 1024 * 1024 }
    }
}

/// What stops a lane's work for a moment or for good; each kind has one way to go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// Kafka failed: claim again.
    #[error("kafka: {0}")]
    Broker(#[from] BrokerError),
    /// The sink failed, fenced or halted: claim again.
    #[error("sink: {0}")]
    Sink(#[from] SinkError),
    /// The local state of a partition failed, and had ids that are nowhere else but in the journal: wipe it, and claim
    /// again.
    #[error("local state of partition {0}: {1}")]
    Store(i32, StoreError),
    /// The group took the partition back while a commit was prepared.
    #[error("a partition was taken back by the group")]
    Ticket,
    /// An event was refused; the batch is folded again with the refusal as an input.
    #[error("the sink refused an event; folding again from the last checkpoint")]
    Refolded,
    /// One partition cannot go on until somebody acts; the others can.
    #[error("partition {0}: {1}")]
    Stuck(i32, Stuck),
}

/// Why a partition stands still until somebody acts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Stuck {
    #[error("{0}")]
    Journal(#[from] JournalError),
    #[error("{0}")]
    Fold(#[from] FoldError),
    #[error(
        "the sink stands at {found}, behind {expected} in the journal: it was restored from an older backup; \
         restore a newer one, or apply what it lacks: processor rebuild"
    )]
    OlderSink { found: Position, expected: Position },
    #[error(
        "the record at offset {offset} of the event log is not the one that {whose} was made from: the log was \
         deleted and made anew, or truncated; start a new pipeline with a sink of its own, or restore the log"
    )]
    OtherLog { offset: i64, whose: &'static str },
    #[error("{0}")]
    Waits(String),
    #[error(
        "the event log starts at offset {low}, but was folded up to {next} only: what is between was deleted \
         unread; lengthen log.retention, and start a new pipeline with a sink of its own, or restore the log"
    )]
    Unread { next: i64, low: i64 },
    #[error(
        "the journal is gone, and so is the event log below offset {low}: with it, what was seen of ids and \
         entities; restore one of both, or start a new pipeline with a sink of its own"
    )]
    JournalGone { low: i64 },
}

/// What `/readyz` calls a partition.
pub(crate) fn part(partition: i32) -> String {
    format!("partition {partition}")
}

/// What `/readyz` says of a partition until its claim is done.
pub const NOT_CLAIMED: &str = "assigned, not claimed yet";

/// One partition of a lane.
struct Part<S> {
    ticket: Ticket,
    /// It cannot go on until somebody acts; not before this time is it tried again.
    stuck_until: Duration,
    /// Kept over failures, so that only what was folded since the last checkpoint is done again.
    memory: Option<(State, Mark)>,
    store: Option<S>,
    /// There while one is being written.
    snapshot: Option<snapshots::Writing>,
    /// There while the partition is being worked on.
    running: Option<Running>,
}

/// What a claim gave.
struct Running {
    epoch: Epoch,
    /// The sink's fence; `None` where the sink has none of its own.
    fence: Option<Fence>,
    /// Below this offset, outputs were committed before the journal was lost: they are not repeated.
    silent_below: i64,
    /// Folded, not delivered.
    effects: Vec<Effect>,
    effect_bytes: usize,
    /// A hole in the log that was met once, from the offset expected to the one found; the next reading from
    /// there confirms it.
    hole: Option<(i64, i64)>,
    /// When a gap's expiry was last appended, by the offset that opened it.
    gaps_appended: BTreeMap<i64, Duration>,
    /// When the poller was last asked for what is missing, by the offset that opened the gap.
    gaps_asked: BTreeMap<i64, Duration>,
    /// Snapshots that were applied since the last checkpoint; not those that were before the journal was lost.
    snapshots_applied: u64,
}

/// One lane. See the module.
pub struct Lane<L, J: Journal, S: Stores, C> {
    config: LaneConfig,
    log: L,
    journal: J,
    stores: S,
    sink: Option<Box<dyn Sink>>,
    open_sink: OpenSink,
    clock: C,
    tickets: Arc<Tickets<J::Generation>>,
    progress: Arc<crate::progress::Progress>,
    health: Health,
    parts: BTreeMap<i32, Part<S::Store>>,
    /// The checkpoint that is being committed.
    under_way: Option<checkpoint::UnderWay>,
    /// Kafka would not know the producers as sound: renew them before the next transaction.
    stale_producer: bool,
    /// There was trouble with Kafka: the log's clients are renewed before the next claim.
    stale_log: bool,
    /// When the log last gave a record or answered a question.
    log_heard: Duration,
    /// Not before this time is anything claimed.
    retry_at: Duration,
    backoff: Duration,
    /// The first record since the last checkpoint was folded at this time.
    batch_since: Option<Duration>,
    batch_records: usize,
    /// Since the last checkpoint, the log had no more records for a moment.
    caught_up: bool,
    gaps_looked_at: Duration,
    stores_ticked: Duration,
    traces: crate::traces::Traces,
    /// What was last reported, so that a trouble is said once.
    last_trouble: Option<String>,
}

/// Connects to the sink; `None` for a sink without a fence of its own.
pub type OpenSink = Box<dyn FnMut() -> Result<Option<Box<dyn Sink>>, SinkError> + Send>;

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    /// A lane without partitions.
    #[allow(clippy::too_many_arguments, reason = "the parts of a lane, each once")]
    pub fn new(
        config: LaneConfig,
        log: L,
        journal: J,
        stores: S,
        open_sink: OpenSink,
        clock: C,
        tickets: Arc<Tickets<J::Generation>>,
        progress: Arc<crate::progress::Progress>,
        health: Health,
    ) -> Self {
        Self {
            traces: crate::traces::Traces::new(config.names.clone()),
            config,
            log,
            journal,
            stores,
            sink: None,
            open_sink,
            clock,
            tickets,
            progress,
            health,
            parts: BTreeMap::new(),
            under_way: None,
            stale_producer: true,
            stale_log: false,
            log_heard: Duration::ZERO,
            retry_at: Duration::ZERO,
            backoff: BACKOFF.0,
            batch_since: None,
            batch_records: 0,
            caught_up: false,
            gaps_looked_at: Duration::ZERO,
            stores_ticked: Duration::ZERO,
            last_trouble: None,
        }
    }

    /// Works until it is told to stop, then makes a last checkpoint.
    pub fn run(mut self, commands: &Receiver<Command>) {
        loop {
            // With nothing to read there is nothing to wait for but commands.
            let wait = if self.is_running() { Duration::ZERO } else { IDLE_WAIT };
            match commands.recv_timeout(wait) {
                Ok(Command::Stop) | Err(RecvTimeoutError::Disconnected) => break,
                Ok(command) => {
                    self.obey(command);
                    continue;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.step();
        }
        self.finish();
    }

    /// One turn: claim what is not claimed, fold some records, deliver, checkpoint if it is time.
    pub fn step(&mut self) {
        let done = self.turn();
        if let Err(trouble) = done {
            self.recover(trouble);
        }
    }

    /// Takes note of an assignment or revocation.
    pub fn obey(&mut self, command: Command) {
        // A revocation has waited for it: it has ended.
        if let Err(trouble) = self.await_checkpoint() {
            self.recover(trouble);
        }
        match command {
            Command::Assign(partition, ticket) => {
                // The same partition again, after a loss: the memory of the former assignment is not kept,
                // since another instance may have had it meanwhile. It would not be met in the journal, or
                // be met and continued; a fresh restore is the simple way.
                self.leave(partition);
                self.health.not_ready(part(partition), NOT_CLAIMED);
                let part = Part {
                    ticket,
                    stuck_until: Duration::ZERO,
                    memory: None,
                    store: None,
                    snapshot: None,
                    running: None,
                };
                self.parts.insert(partition, part);
                self.progress.owned(partition, true);
            }
            Command::Revoke(partition) => {
                self.leave(partition);
                self.progress.owned(partition, false);
                if self.parts.is_empty() && !self.stale_producer {
                    self.recovered();
                }
            }
            Command::Stop => {}
        }
    }

    fn leave(&mut self, partition: i32) {
        self.log.stop(partition);
        if let Some(sink) = &mut self.sink {
            sink.release(partition);
        }
        self.health.ready(&part(partition));
        let Some(mut part) = self.parts.remove(&partition) else { return };
        let unfinished = part.memory.as_ref().is_some_and(|(state, _)| state.head() != state.checkpointed());
        if let Some(store) = &mut part.store
            && let Err(error) = store.close()
        {
            tracing::warn!(partition, %error, "local state not written; it will be restored from the journal");
        }
        // What was written for it in the open transaction must not be committed.
        if unfinished && self.journal.is_open() {
            self.recover(Trouble::Ticket);
        }
    }

    fn is_running(&self) -> bool {
        self.parts.values().any(|part| part.running.is_some())
    }

    fn turn(&mut self) -> Result<(), Trouble> {
        if self.parts.is_empty() && self.stale_producer && self.clock.now() >= self.retry_at {
            // Also without a partition: a transaction that this lane's killed forerunner left open holds up every
            // reader of the topics that it wrote to.
            self.renew_if_stale()?;
            self.recovered();
        }
        if self.clock.now() >= self.retry_at && self.parts.values().any(|part| self.wants_claim(part)) {
            self.claim()?;
        }
        if !self.is_running() {
            return Ok(());
        }
        self.fold()?;
        if self.batch_records > 0 {
            failpoint::pass(Point::Folded);
        }
        self.hear_of_checkpoint(Duration::ZERO)?;
        self.deliver_early()?;
        if self.checkpoint_is_due() {
            self.checkpoint()?;
        }
        self.tick_stores()?;
        self.watch_gaps()
    }

    /// The one way back: what was folded since the last checkpoint is dropped, the producers are replaced, and
    /// the partitions are claimed again after a while.
    fn recover(&mut self, trouble: Trouble) {
        // What is final by then need not be done again. A second trouble has the same remedy as the first.
        if let Err(also) = self.await_checkpoint() {
            tracing::debug!(error = %also, "the checkpoint under way is lost, too");
        }
        let text = trouble.to_string();
        let (reason, not_ready) = match &trouble {
            Trouble::Broker(error) => ("kafka", Some(("kafka".to_owned(), error.to_string()))),
            Trouble::Sink(SinkError::Fenced { .. }) => ("fenced", None),
            Trouble::Sink(error) => ("sink", Some(("sink".to_owned(), error.to_string()))),
            Trouble::Store(..) => ("store", None),
            Trouble::Ticket => ("rebalance", None),
            Trouble::Refolded => ("refused", None),
            Trouble::Stuck(partition, why) => ("stuck", Some((part(*partition), why.to_string()))),
        };
        debug_assert!(crate::metrics::RECOVERY_REASONS.contains(&reason), "{reason} starts at 0");
        metrics::counter!(crate::metrics::RECOVERIES, "reason" => reason).increment(1);
        let refolded = matches!(trouble, Trouble::Refolded);
        if self.last_trouble.as_ref() != Some(&text) {
            if not_ready.is_none() {
                tracing::info!(reason = %text, "back to the last checkpoint");
            } else {
                tracing::error!(error = %text, "stopped at the last checkpoint; trying again until it works");
            }
            self.last_trouble = Some(text);
        }
        if let Some((part, why)) = not_ready {
            self.health.not_ready(part, why);
        }
        match trouble {
            Trouble::Sink(_) => self.sink = None,
            Trouble::Stuck(partition, _) => {
                if let Some(part) = self.parts.get_mut(&partition) {
                    part.stuck_until = self.clock.now() + STUCK_WAIT;
                }
            }
            Trouble::Store(partition, _) => {
                if let Some(part) = self.parts.get_mut(&partition) {
                    (part.memory, part.store) = (None, None);
                }
                // What is there cannot be relied on, and may fill the disk.
                if let Err(error) = self.stores.wipe(partition) {
                    tracing::error!(partition, %error, "local state cannot be removed");
                }
            }
            Trouble::Broker(_) => self.stale_log = true,
            Trouble::Ticket | Trouble::Refolded => {}
        }
        self.stale_producer = true;
        self.traces.forget();
        self.batch_since = None;
        self.batch_records = 0;
        for (partition, part) in &mut self.parts {
            if part.running.take().is_some() {
                self.log.stop(*partition);
            }
            part.snapshot = None;
            if let Some((state, _)) = &mut part.memory {
                state.drop_overlay();
            }
        }
        if !refolded {
            self.retry_at = self.clock.now() + self.backoff;
            self.backoff = (self.backoff * 2).min(BACKOFF.1);
        }
    }

    /// A partition's claim is due.
    fn wants_claim(&self, part: &Part<S::Store>) -> bool {
        part.running.is_none() && self.clock.now() >= part.stuck_until
    }

    /// All is well again: said once.
    fn recovered(&mut self) {
        self.backoff = BACKOFF.0;
        if self.parts.values().any(|part| part.running.is_none()) {
            return;
        }
        for part in ["kafka", "sink"] {
            self.health.ready(part);
        }
        if self.last_trouble.take().is_some() {
            tracing::info!("working again");
        }
    }

    /// SIGTERM: a last checkpoint, and the local state on the disk.
    fn finish(mut self) {
        if self.is_running()
            && let Err(error) = self.checkpoint().and_then(|()| self.await_checkpoint())
        {
            tracing::warn!(%error, "no last checkpoint; the next start goes on from the one before");
        }
        let partitions: BTreeSet<i32> = self.parts.keys().copied().collect();
        for partition in partitions {
            self.leave(partition);
        }
    }
}
