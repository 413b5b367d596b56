//! `processor verify`: the books of a pipeline, proved from outside, read-only, beside a running one.
//!
//! Per partition, as of the journal's last checkpoint: every event record of the log below it is in exactly
//! one verdict's total; the journal's state is, byte for byte, what a fresh fold of the log gives; the local
//! sled state, where there is one, leads to the same; the sink has as many events as were applied, and its
//! fence is not behind; dead letters and a Kafka sink's outputs are there once each.
//!
//! Over a log with retention, the fold starts at the oldest checkpoint of the journal whose log is still
//! there, and the report says from which offset on the books are proved.

use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use shared::config::{Config, PipelineConfig, SinkConfig};

use crate::broker::{BrokerError, Refusals};
use crate::fold::{Action, Delta, FoldError, State, decide};
use crate::frame::Frame;
use crate::inspect::{self, InspectError, Kept};
use crate::journal::{Mark, Replay};
use crate::kafka::{KafkaContext, Reader, position_of, refusal_of};
use crate::lane::first_config;
use crate::position::Position;
use crate::sink::{Sink, SinkError};
use crate::store::{SledStores, Store, StoreError, Stores, unspill};

/// Records between two looks at the clock.
const PACE_EVERY: u64 = 500;

/// How often the local state is copied until it agrees, and how long between.
const COPIES_MAX: u32 = 3;
const COPY_AGAIN: Duration = Duration::from_millis(700);

/// Why the books cannot be looked at. Not a difference in them.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// Kafka, or the journal.
    #[error("{0}")]
    Inspect(#[from] InspectError),
    /// Kafka.
    #[error("kafka: {0}")]
    Broker(#[from] BrokerError),
    /// The fold.
    #[error("partition {0}: {1}")]
    Fold(i32, FoldError),
    /// The sink.
    #[error("sink: {0}")]
    Sink(#[from] SinkError),
}

/// What was found of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Proof {
    /// The event log's partition.
    pub partition: i32,
    /// The books are proved from this offset on.
    pub from: i64,
    /// Up to (not including) this offset: the last checkpoint's.
    pub to: i64,
    /// Event records in between, counted in the log.
    pub events: u64,
    /// Verdicts in the last journal record; `held` is a gauge.
    pub applied: u64,
    #[allow(missing_docs, reason = "named as the verdict")]
    pub duplicate: u64,
    #[allow(missing_docs, reason = "named as the verdict")]
    pub stale: u64,
    #[allow(missing_docs, reason = "named as the verdict")]
    pub held: u64,
    #[allow(missing_docs, reason = "named as the verdict")]
    pub dead_lettered: u64,
    #[allow(missing_docs, reason = "named as the verdict")]
    pub ignored: u64,
    /// Events in the sink up to the checkpoint; `None` where the books do not start at the log's start.
    pub in_sink: Option<u64>,
    /// Dead letters in their topic up to the checkpoint.
    pub in_dead_letters: u64,
    /// What was compared with the local sled state: `same`, or why not.
    pub local_state: String,
    /// What does not agree, in words; empty when all agrees.
    pub differences: Vec<String>,
}

/// What a proof works with.
pub struct Verifier<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// The pipeline's part of it.
    pub pipeline: &'a PipelineConfig,
    /// Topics and group.
    pub context: &'a KafkaContext,
    /// The sink, where it has a fence.
    pub sink: Option<Box<dyn Sink>>,
    /// Opens copies of the local state; `None` where this machine has none.
    pub stores: Option<SledStores>,
    /// Records read a second, at most.
    pub rate: u64,
}

impl Verifier<'_> {
    /// Proves every partition.
    ///
    /// # Errors
    /// Something that the proof needs does not answer.
    pub fn verify(&mut self) -> Result<Vec<Proof>, VerifyError> {
        let reader = Reader::new(self.context)?;
        let partitions = i32::try_from(self.config.log.partitions).unwrap_or(i32::MAX);
        (0..partitions).map(|partition| self.partition(&reader, partition)).collect()
    }

    fn partition(&mut self, reader: &Reader, partition: i32) -> Result<Proof, VerifyError> {
        let kept = inspect::partition(reader, self.context, partition, &|_| false)?;
        let head = kept.replay.state.checkpointed().clone();
        let totals = head.totals;
        let mut proof = Proof {
            partition,
            to: head.next_offset,
            applied: totals.applied,
            duplicate: totals.duplicate,
            stale: totals.stale,
            held: totals.held,
            dead_lettered: totals.dead_lettered,
            ignored: totals.ignored,
            ..Proof::default()
        };
        if kept.replay.mark == Mark::START {
            proof.from = kept.low;
            proof.to = kept.low;
            "no checkpoint yet".clone_into(&mut proof.local_state);
            return Ok(proof);
        }
        let refusals = self.compare_dead_letters(reader, partition, &mut proof)?;
        let last = self.fold_again(reader, &kept, refusals, &mut proof)?;
        self.compare_sink(partition, &kept, last, &mut proof)?;
        self.compare_outputs(reader, partition, &kept, &mut proof)?;
        self.compare_store(reader, &mut proof)?;
        Ok(proof)
    }

    /// A fresh fold of the log; returns the position of the last effect that was applied.
    fn fold_again(
        &self,
        reader: &Reader,
        kept: &Kept,
        refusals: Refusals,
        proof: &mut Proof,
    ) -> Result<Position, VerifyError> {
        let partition = proof.partition;
        let mut state = self.oldest_state(reader, kept, partition)?;
        let start = state.checkpointed().next_offset;
        let totals_before = state.checkpointed().totals;
        for (position, reason) in refusals {
            if position.offset >= start {
                state.refuse(position, reason);
            }
        }
        proof.from = start;
        let pipeline = &self.context.pipeline;
        let (mut effects, mut last, mut failed) = (Vec::new(), Position::START, None);
        let (mut records, started) = (0_u64, Instant::now());
        if start < proof.to {
            reader.read(&self.context.topic, partition, start, false, &mut |read| {
                if read.offset() >= proof.to {
                    return false;
                }
                let record = read.record();
                proof.events += u64::from(!is_control(&record));
                effects.clear();
                if let Err(error) = decide(&mut state, &record, pipeline, &mut effects) {
                    failed = Some(error);
                    return false;
                }
                for effect in effects.iter().filter(|effect| effect.action == Action::Apply) {
                    last = effect.position;
                }
                records += 1;
                if records.is_multiple_of(PACE_EVERY) {
                    self.pace(records, started);
                    let delta = state.delta();
                    state.apply(delta);
                }
                record.offset + 1 < proof.to
            })?;
        }
        if let Some(error) = failed {
            return Err(VerifyError::Fold(partition, error));
        }
        let delta = state.delta();
        state.apply(delta);
        let counted = kept.replay.state.checkpointed().totals.events() - totals_before.events();
        if proof.events != counted {
            let events = proof.events;
            proof.differences.push(format!("the log has {events} events there, the verdicts are {counted}"));
        }
        let (fresh, journal) = (state.whole(), kept.replay.state.whole());
        if let Some(difference) = first_difference(&fresh, &journal) {
            proof
                .differences
                .push(format!("a fresh fold of the log is not the journal's state: {difference}"));
        }
        Ok(last)
    }

    /// The state to fold from: empty at the log's start or, where retention removed that, the journal's
    /// oldest one whose log is still there.
    fn oldest_state(&self, reader: &Reader, kept: &Kept, partition: i32) -> Result<State, VerifyError> {
        let low = kept.low;
        if low > 0 {
            let oldest = inspect::partition(reader, self.context, partition, &|replay| {
                let head = replay.state.checkpointed();
                head.config.is_some() && head.next_offset >= low
            })?;
            return Ok(oldest.replay.state);
        }
        let mut state = State::new(0);
        let mut first = None;
        reader.read(&self.context.topic, partition, 0, false, &mut |read| {
            first = first_config(&read.record(), &self.context.pipeline);
            first.is_none()
        })?;
        if let Some(in_force) = first {
            state.start_with(in_force);
        }
        Ok(state)
    }

    fn compare_sink(
        &mut self,
        partition: i32,
        kept: &Kept,
        last: Position,
        proof: &mut Proof,
    ) -> Result<(), VerifyError> {
        let Some(sink) = &mut self.sink else { return Ok(()) };
        let fence = sink.fence(partition)?;
        if fence.position < last {
            let found = fence.position;
            proof
                .differences
                .push(format!("the sink's fence stands at {found}, behind the last applied effect {last}"));
        }
        if let Some(written) = kept.replay.fence
            && fence.position < written.position
        {
            let (found, written) = (fence.position, written.position);
            proof
                .differences
                .push(format!("the sink's fence stands at {found}, behind {written} in the journal"));
        }
        if kept.low == 0 {
            let rows = sink.count(partition, last)?;
            proof.in_sink = Some(rows);
            if rows != proof.applied {
                let applied = proof.applied;
                proof
                    .differences
                    .push(format!("the sink has {rows} events up to {last}, but {applied} were applied"));
            }
        }
        Ok(())
    }

    /// Counts the dead letters up to the checkpoint; returns the refusals among them.
    fn compare_dead_letters(
        &self,
        reader: &Reader,
        partition: i32,
        proof: &mut Proof,
    ) -> Result<Refusals, VerifyError> {
        let mut refusals = Refusals::new();
        proof.in_dead_letters =
            self.count_outputs(reader, &self.context.dead_letters, partition, proof.to, &mut |frame| {
                refusals.extend(refusal_of(frame));
            })?;
        if proof.in_dead_letters != proof.dead_lettered {
            let (found, expected) = (proof.in_dead_letters, proof.dead_lettered);
            let text = format!(
                "the dead-letter topic has {found} of this pipeline, but {expected} were dead-lettered"
            );
            proof.differences.push(text);
        }
        Ok(refusals)
    }

    /// Counts a Kafka sink's outputs up to the checkpoint.
    fn compare_outputs(
        &self,
        reader: &Reader,
        partition: i32,
        kept: &Kept,
        proof: &mut Proof,
    ) -> Result<(), VerifyError> {
        let SinkConfig::Kafka(sink) = &self.pipeline.sink else { return Ok(()) };
        // A topic that may be compacted keeps the last of each entity only.
        if kept.low > 0 || !sink.deleted.is_empty() {
            return Ok(());
        }
        let mut rows = 0;
        for topic in self.pipeline.output_topics(&self.config.sources) {
            rows += self.count_outputs(reader, &topic, partition, proof.to, &mut |_| {})?;
        }
        proof.in_sink = Some(rows);
        if rows != proof.applied {
            let (topic, applied) = (&sink.topic, proof.applied);
            proof.differences.push(format!("topic {topic} has {rows} events, but {applied} were applied"));
        }
        Ok(())
    }

    /// Counts the committed records of an output topic whose position is below an offset of the log, and shows
    /// them to `each`.
    fn count_outputs(
        &self,
        reader: &Reader,
        topic: &str,
        partition: i32,
        below: i64,
        each: &mut dyn FnMut(&Frame),
    ) -> Result<u64, VerifyError> {
        let (mut count, mut records, started) = (0, 0_u64, Instant::now());
        reader.all(topic, partition, &mut |read| {
            let record = read.record();
            if position_of(&record.frame).is_some_and(|position| position.offset < below) {
                count += 1;
                each(&record.frame);
            }
            records += 1;
            if records.is_multiple_of(PACE_EVERY) {
                self.pace(records, started);
            }
        })?;
        Ok(count)
    }

    /// The local state must lead to where the journal leads.
    fn compare_store(&self, reader: &Reader, proof: &mut Proof) -> Result<(), VerifyError> {
        let Some(stores) = &self.stores else {
            "not on this machine".clone_into(&mut proof.local_state);
            return Ok(());
        };
        for attempt in 1.. {
            let (said, difference) = self.compare_copy(reader, stores, proof.partition)?;
            said.clone_into(&mut proof.local_state);
            // Files that a running processor wrote to while they were copied differ once, not again and again.
            let Some(difference) = difference else { break };
            if attempt == COPIES_MAX {
                proof.differences.push(format!("the local state is not the journal's: {difference}"));
                break;
            }
            std::thread::sleep(COPY_AGAIN);
        }
        Ok(())
    }

    /// Compares a copy, since the running processor has the original locked. Says what was found, and the first
    /// difference. The store's mark is written last, so parts of the state may be newer than it; the journal
    /// had all of it before, so that both lead to the same once the journal is replayed from the mark on.
    fn compare_copy(
        &self,
        reader: &Reader,
        stores: &SledStores,
        partition: i32,
    ) -> Result<(String, Option<String>), VerifyError> {
        let dir = stores.directory(partition);
        if !dir.is_dir() {
            return Ok(("not on this machine".to_owned(), None));
        }
        let (state, mark) = match load_copy(stores, &dir, partition) {
            Ok(Some(loaded)) => loaded,
            Ok(None) => return Ok(("empty".to_owned(), None)),
            Err(error) => return Ok((format!("changed while it was copied ({error}); try again"), None)),
        };
        let journal = &self.context.journal;
        let (first, end) = reader.bounds(journal, partition)?;
        let mut local = Replay::new(state, mark);
        let mut whole = inspect::begin(reader, self.context, partition)?;
        let mut failed = None;
        if first < end {
            reader.read(journal, partition, first, false, &mut |read| {
                let (offset, value) = (read.offset(), read.value());
                failed = whole.take(offset, value).and_then(|()| local.take(offset, value)).err();
                failed.is_none() && offset + 1 < end
            })?;
        }
        if let Some(error) = failed {
            return Err(InspectError::Journal(partition, error).into());
        }
        if !whole.met() {
            return Ok(("not compared, since the journal was trimmed meanwhile; try again".to_owned(), None));
        }
        if !local.met() {
            return Ok(("another journal's, or older; it is wiped at the next start".to_owned(), None));
        }
        let difference = first_difference(&local.state.whole(), &whole.state.whole());
        Ok((if difference.is_none() { "same" } else { "different" }.to_owned(), difference))
    }

    /// Sleeps as long as the rate asks for.
    fn pace(&self, records: u64, started: Instant) {
        #[allow(clippy::cast_precision_loss, reason = "a pace, not a count")]
        let due = Duration::from_secs_f64(records as f64 / self.rate.max(1) as f64);
        std::thread::sleep(due.saturating_sub(started.elapsed()));
    }
}

fn load_copy(stores: &SledStores, dir: &Path, partition: i32) -> Result<Option<(State, Mark)>, StoreError> {
    let copy = tempfile::tempdir()?;
    let mut stores = stores.at(copy.path());
    copy_files(dir, &stores.directory(partition))?;
    let mut store = stores.open(partition)?;
    let Some((mut state, mark)) = store.load()? else { return Ok(None) };
    unspill(&mut state, &mut store)?;
    Ok(Some((state, mark)))
}

/// A directory and all that is below it.
pub(crate) fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_files(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

fn is_control(record: &crate::fold::Record) -> bool {
    record.frame.event().is_ok_and(|event| event.is_control())
}

/// The first thing in which two whole states differ, in words.
fn first_difference(a: &Delta, b: &Delta) -> Option<String> {
    if a.head != b.head {
        return Some(format!("head {:?} instead of {:?}", a.head, b.head));
    }
    let entity = a.entities.iter().zip(&b.entities).find(|(a, b)| a != b).map(|(a, _)| a);
    let longer = a.entities.get(b.entities.len()).or_else(|| b.entities.get(a.entities.len()));
    if let Some((key, _)) = entity.or(longer) {
        return Some(format!("entity {}", String::from_utf8_lossy(key)));
    }
    let count = |d: &Delta| d.ids.iter().map(|block| block.ids.len()).sum::<usize>();
    (a.ids != b.ids).then(|| format!("{} remembered ids instead of {}", count(a), count(b)))
}

/// A table for people: what was proved, then what differs.
#[must_use]
pub fn table(proofs: &[Proof]) -> String {
    let mut out = format!(
        "{:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>6} {:>8} {:>9} {:>7}  {}\n",
        "partition",
        "from",
        "to",
        "events",
        "applied",
        "duplicate",
        "stale",
        "held",
        "dead",
        "ignored",
        "in sink",
        "in dlq",
        "local state"
    );
    for p in proofs {
        let in_sink = p.in_sink.map_or_else(|| "-".to_owned(), |n| n.to_string());
        out.push_str(&format!(
            "{:>9} {:>9} {:>9} {:>9} {:>9} {:>9} {:>8} {:>6} {:>6} {:>8} {:>9} {:>7}  {}\n",
            p.partition,
            p.from,
            p.to,
            p.events,
            p.applied,
            p.duplicate,
            p.stale,
            p.held,
            p.dead_lettered,
            p.ignored,
            in_sink,
            p.in_dead_letters,
            p.local_state
        ));
    }
    for p in proofs {
        for difference in &p.differences {
            out.push_str(&format!("partition {}: {difference}\n", p.partition));
        }
    }
    if proofs.iter().all(|p| p.differences.is_empty()) {
        out.push_str("all agrees\n");
    }
    out
}
