//! The state of one partition: what was final at the last checkpoint, and an overlay of what was decided
//! since. Dropping the overlay takes everything back to the checkpoint; sealing it gives the next checkpoint's delta,
//! and another overlay takes what is decided until that one is final.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};

use super::Verdict;
use super::config::FoldConfig;
use super::entity::{Entity, Gap, Held};
use super::ids::{BucketKey, EventId, IdBlock};
use super::seen::{CHUNK_IDS, Seen};
use super::spilled::{Run, RunKey, Spilled};
use crate::defect::{Defect, planted};
use crate::frame::Frame;
use crate::position::{Digest, Epoch, Position};

/// An entity's key: the key of its records.
pub type EntityKey = Box<[u8]>;

/// Everything of the state that is not an id or an entity: small, and written whole with every checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// The offset of the next record to fold.
    pub next_offset: i64,
    /// The digest of the record before it; `None` before the first.
    pub last_digest: Option<Digest>,
    /// The running maximum of the broker's append times, milliseconds since 1970.
    pub stream_time_ms: i64,
    /// Ids from this stream time on are remembered. It only rises, also where the window is configured anew:
    /// an id that was forgotten once stays so, wherever checkpoints fell.
    pub ids_from_ms: i64,
    /// The fold's configuration in force.
    pub config: Option<InForce>,
    /// What became of all records so far.
    pub totals: Totals,
    /// What the sink refused for good at or after `next_offset`, with its reason.
    pub refusals: BTreeMap<Position, String>,
}

/// The fold's configuration in force, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InForce {
    /// The configuration.
    pub config: FoldConfig,
    /// The owner that appended it.
    pub epoch: Epoch,
}

/// How many records came to which end. `events()` of them are events: the books balance.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "named as the verdicts")]
pub struct Totals {
    pub applied: u64,
    pub duplicate: u64,
    pub stale: u64,
    pub held: u64,
    pub dead_lettered: u64,
    pub ignored: u64,
    /// Hookline's own control records; not events.
    pub control: u64,
}

impl Totals {
    /// All events: the sum of the verdicts.
    #[must_use]
    pub fn events(&self) -> u64 {
        self.applied + self.duplicate + self.stale + self.held + self.dead_lettered + self.ignored
    }

    pub(super) fn count(&mut self, verdict: Verdict) {
        *self.of(verdict) += 1;
    }

    /// A held event came to its end.
    pub(super) fn release(&mut self, verdict: Verdict) {
        self.held = self.held.saturating_sub(1);
        self.count(verdict);
    }

    fn of(&mut self, verdict: Verdict) -> &mut u64 {
        match verdict {
            Verdict::Applied => &mut self.applied,
            Verdict::Duplicate => &mut self.duplicate,
            Verdict::Stale => &mut self.stale,
            Verdict::Held => &mut self.held,
            Verdict::DeadLettered => &mut self.dead_lettered,
            Verdict::Ignored => &mut self.ignored,
        }
    }
}

/// What changed from one checkpoint to the next. Applying it twice, or over a later state, does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    /// The head as of the later checkpoint, whole.
    pub head: Head,
    /// Ids seen, by bucket.
    pub ids: Vec<IdBlock>,
    /// Entities that changed, whole, by key; rising.
    pub entities: Vec<(EntityKey, Entity)>,
}

impl Delta {
    /// Whether the configuration in force is for a fold with snapshots.
    #[must_use]
    pub fn knows_snapshots(&self) -> bool {
        self.head.config.as_ref().is_some_and(|in_force| in_force.config.knows_snapshots())
    }
}

/// An entity that waits for an event.
#[derive(Clone, Copy, Debug)]
pub struct OpenGap<'a> {
    /// The entity's key.
    pub key: &'a [u8],
    /// The number that is missing; `None` while the first is looked for.
    pub next: Option<u64>,
    /// Since when, and until when.
    pub gap: Gap,
    /// What waits, by number; never empty.
    pub held: &'a BTreeMap<u64, Held>,
}

/// The state of one partition.
#[derive(Debug)]
pub struct State {
    seen: Seen,
    /// Ids that are on the disk only.
    spilled: Spilled,
    entities: HashMap<EntityKey, Entity>,
    /// About how many bytes `entities` take when stored.
    entity_bytes: usize,
    /// Gaps of `entities` by deadline: derived, for whoever watches the clock.
    gaps: BTreeSet<(i64, EntityKey)>,
    base: Head,
    /// What the checkpoint under way makes final.
    sealed: Option<Box<Overlay>>,
    overlay: Overlay,
}

#[derive(Debug)]
struct Overlay {
    head: Head,
    /// The record before `head.next_offset`; its digest is taken only when a checkpoint needs it.
    last: Option<Frame>,
    seen: Seen,
    blocks: Vec<IdBlock>,
    entities: HashMap<EntityKey, Entity>,
    /// What was held and became stale: no part of the delta.
    passed: Vec<Held>,
    /// About how many bytes the delta would take.
    bytes: usize,
}

impl Overlay {
    fn over(head: &Head) -> Self {
        Self {
            head: head.clone(),
            last: None,
            seen: Seen::default(),
            blocks: Vec::new(),
            entities: HashMap::new(),
            passed: Vec::new(),
            bytes: 0,
        }
    }
}

impl State {
    /// The state before the first record, at `start` in the log.
    #[must_use]
    pub fn new(start: i64) -> Self {
        let base = Head {
            next_offset: start,
            last_digest: None,
            stream_time_ms: i64::MIN,
            ids_from_ms: i64::MIN,
            config: None,
            totals: Totals::default(),
            refusals: BTreeMap::new(),
        };
        let overlay = Overlay::over(&base);
        let (seen, entities, gaps) = (Seen::default(), HashMap::new(), BTreeSet::new());
        let spilled = Spilled::default();
        Self { seen, spilled, entities, entity_bytes: 0, gaps, base, sealed: None, overlay }
    }

    /// The head with everything that was folded.
    #[must_use]
    pub fn head(&self) -> &Head {
        &self.overlay.head
    }

    /// The head as of the last checkpoint.
    #[must_use]
    pub fn checkpointed(&self) -> &Head {
        &self.base
    }

    /// About how many bytes the next delta takes.
    #[must_use]
    pub fn delta_bytes(&self) -> usize {
        self.overlay.bytes
    }

    /// Ids and entities, as of the last checkpoint.
    #[must_use]
    pub fn sizes(&self) -> (usize, usize) {
        (self.seen.len() + self.spilled.len(), self.entities.len())
    }

    /// About how many bytes the state takes when stored, as of the last checkpoint.
    #[must_use]
    pub fn stored_bytes(&self) -> usize {
        self.sizes().0 * size_of::<EventId>() + self.entity_bytes
    }

    /// Ids in memory, as of the last checkpoint.
    #[must_use]
    pub fn ids_in_memory(&self) -> usize {
        self.seen.len()
    }

    /// Whether there are ids that only a store has.
    #[must_use]
    pub fn has_spilled(&self) -> bool {
        !self.spilled.is_empty()
    }

    /// Has a store write all ids that are in memory, as of the last checkpoint, and forgets them.
    ///
    /// # Errors
    /// The store's; nothing is forgotten.
    pub fn spill<E>(&mut self, write: impl FnOnce(&[Run]) -> Result<(), E>) -> Result<(), E> {
        let blocks = self.seen.sorted();
        if self.spilled.room() < blocks.len() {
            // They stay in memory until some runs expire.
            return Ok(());
        }
        let run = |IdBlock { bucket, ids }| Run { key: self.spilled.next_key(bucket), ids };
        let runs: Vec<Run> = blocks.into_iter().map(run).collect();
        write(&runs)?;
        self.seen = Seen::default();
        runs.iter().for_each(|run| self.spilled.add(run));
        self.spilled.forget_told();
        Ok(())
    }

    /// A run that a store has.
    pub fn add_run(&mut self, run: Run) {
        match self.spilled.room() {
            0 => self.seen.add(&IdBlock { bucket: run.key.bucket, ids: run.ids }),
            _ => self.spilled.add(&run),
        }
    }

    /// Brings all ids into memory.
    ///
    /// # Errors
    /// The store's.
    pub fn unspill<E>(&mut self, mut read: impl FnMut(RunKey) -> Result<Vec<EventId>, E>) -> Result<(), E> {
        for (run, _) in std::mem::take(&mut self.spilled).runs() {
            self.seen.add(&IdBlock { bucket: run.bucket, ids: read(run)? });
        }
        Ok(())
    }

    /// The runs that may hold an id: what a store is asked.
    #[must_use]
    pub fn runs_that_may_hold(&self, id: EventId) -> Vec<RunKey> {
        self.spilled.candidates(id).collect()
    }

    /// The latest bucket in which a store has an id; `None`: it has it not. Known until the next checkpoint is final.
    pub fn tell(&mut self, id: EventId, bucket: Option<BucketKey>) {
        self.spilled.tell(id, bucket);
    }

    /// The ids in memory in portions, each of at most `ids` and at least 1,024: what [`State::portion`] takes.
    pub fn portions(&self, ids: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let (chunks, step) = (self.seen.chunks(), (ids / CHUNK_IDS).max(1));
        (0..chunks).step_by(step).map(move |begin| begin..(begin + step).min(chunks))
    }

    /// The ids of a portion as they are now, as of the last checkpoint: since the portions were made others may have
    /// come, and expired ones gone.
    #[must_use]
    pub fn portion(&self, portion: Range<usize>) -> Vec<IdBlock> {
        self.seen.of_chunks(portion)
    }

    /// All runs of spilled ids, each with how many they are.
    pub fn runs(&self) -> impl Iterator<Item = (RunKey, usize)> {
        self.spilled.runs()
    }

    /// All entities, as of the last checkpoint; sorted.
    #[must_use]
    pub fn entities(&self) -> Vec<(EntityKey, Entity)> {
        let mut entities: Vec<_> = self.entities.iter().map(|(k, e)| (k.clone(), e.clone())).collect();
        entities.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        entities
    }

    /// Open gaps, as of the last checkpoint: the first to expire first, then the parked ones.
    pub fn gaps(&self) -> impl Iterator<Item = OpenGap<'_>> {
        self.gaps.iter().filter_map(|(_, key)| match self.entities.get(key)? {
            Entity::Sequence { next, held, gap: Some(gap), .. } => {
                Some(OpenGap { key, next: *next, gap: *gap, held })
            }
            Entity::Sequence { gap: None, .. } | Entity::Version { .. } => None,
        })
    }

    /// Gaps whose wait is over at `time_ms`, as of the last checkpoint, the oldest first. Never a parked one.
    pub fn gaps_due(&self, time_ms: i64) -> impl Iterator<Item = OpenGap<'_>> {
        self.gaps().take_while(move |open| open.gap.deadline_ms < time_ms)
    }

    /// How many gaps are open as of the last checkpoint, with the parked ones.
    #[must_use]
    pub fn gaps_open(&self) -> usize {
        self.gaps.len()
    }

    /// How many of the open gaps are parked.
    #[must_use]
    pub fn gaps_parked(&self) -> usize {
        self.gaps.range((Gap::NEVER_MS, EntityKey::default())..).count()
    }

    /// Events that were held and became stale, without an effect, since this was last asked or the last checkpoint: for
    /// those who tell of events.
    #[must_use]
    pub fn take_passed(&mut self) -> Vec<Held> {
        std::mem::take(&mut self.overlay.passed)
    }

    /// Forgets what was folded since the last checkpoint, sealed or not.
    pub fn drop_overlay(&mut self) {
        self.sealed = None;
        self.overlay = Overlay::over(&self.base);
    }

    /// A sink refused this effect for good, and the journal says so. Only between checkpoints.
    pub fn refuse(&mut self, position: Position, reason: String) {
        self.base.refusals.insert(position, reason);
        self.drop_overlay();
    }

    /// The configuration that the first record is to be decided with: from the log's first configuration
    /// record, wherever it stands.
    pub fn start_with(&mut self, config: InForce) {
        if self.base.config.is_none() {
            self.base.config = Some(config);
            self.drop_overlay();
        }
    }

    /// As [`State::delta`], which the checkpoint that now begins makes final. What is folded from here on is no part
    /// of it.
    ///
    /// # Panics
    /// The delta before is not applied or dropped.
    #[must_use]
    pub fn seal(&mut self) -> Delta {
        assert!(self.sealed.is_none(), "one checkpoint at a time");
        let delta = self.delta();
        let next = Overlay::over(&delta.head);
        self.sealed = Some(Box::new(std::mem::replace(&mut self.overlay, next)));
        delta
    }

    /// What changed since the last checkpoint, or since what is sealed. The state stays as it is until
    /// [`State::apply`].
    #[must_use]
    pub fn delta(&self) -> Delta {
        let mut entities: Vec<_> =
            self.overlay.entities.iter().map(|(k, e)| (k.clone(), e.clone())).collect();
        entities.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut head = self.overlay.head.clone();
        if let Some(last) = &self.overlay.last {
            head.last_digest = Some(last.digest());
        }
        head.refusals = head.refusals.split_off(&Position { offset: head.next_offset, ordinal: 0 });
        Delta { head, ids: self.overlay.blocks.clone(), entities }
    }

    /// Makes a delta final: the sealed one after its commit, or one read from the journal, over which nothing is
    /// folded.
    pub fn apply(&mut self, delta: Delta) {
        for block in &delta.ids {
            self.seen.add(block);
        }
        for (key, entity) in delta.entities {
            if let Some(old) = gap_of(self.entities.get(&key)) {
                self.gaps.remove(&(old.deadline_ms, key.clone()));
            }
            if let Some(new) = gap_of(Some(&entity)) {
                self.gaps.insert((new.deadline_ms, key.clone()));
            }
            self.entity_bytes += key.len() + entity.stored_len();
            let key_len = key.len();
            if let Some(old) = self.entities.insert(key, entity) {
                self.entity_bytes -= key_len + old.stored_len();
            }
        }
        self.base = delta.head;
        self.seen.expire(self.base.ids_from_ms);
        self.spilled.expire(self.base.ids_from_ms);
        self.spilled.forget_told();
        if self.sealed.take().is_none() {
            self.drop_overlay();
        }
    }

    /// The whole state as of the last checkpoint, in one order: equal states give equal bytes.
    ///
    /// # Panics
    /// There are ids that only a store has.
    #[must_use]
    pub fn whole(&self) -> Delta {
        assert!(!self.has_spilled(), "a store has the rest");
        Delta { head: self.base.clone(), ids: self.seen.sorted(), entities: self.entities() }
    }

    pub(super) fn head_mut(&mut self) -> &mut Head {
        &mut self.overlay.head
    }

    /// A held event is stale.
    pub(super) fn pass(&mut self, held: Held) {
        self.overlay.head.totals.release(Verdict::Stale);
        self.overlay.passed.push(held);
    }

    /// Moves past a record.
    pub(super) fn advance(&mut self, offset: i64, time_ms: i64, frame: &Frame) {
        let head = &mut self.overlay.head;
        head.next_offset = offset + 1;
        let falls = planted(Defect::StreamTimeFalls);
        head.stream_time_ms = if falls { time_ms } else { head.stream_time_ms.max(time_ms) };
        if let Some(in_force) = &head.config {
            let from = head.stream_time_ms.saturating_sub(in_force.config.window_ms);
            head.ids_from_ms = if planted(Defect::IdsComeBack) { from } else { head.ids_from_ms.max(from) };
        }
        self.overlay.last = Some(frame.clone());
    }

    pub(super) fn seen(&self, id: EventId) -> bool {
        // Expiry is by bucket here as in the base: where a checkpoint falls must not change an outcome.
        let from = self.overlay.head.ids_from_ms;
        self.overlay.seen.contains(id, from)
            || self.sealed.as_ref().is_some_and(|sealed| sealed.seen.contains(id, from))
            || self.seen.contains(id, from)
            || self.spilled.contains(id, from)
    }

    /// Whether only the store can say if an id was seen.
    pub(super) fn is_unsure(&self, id: EventId) -> bool {
        self.spilled.is_unsure(id)
    }

    pub(super) fn remember(&mut self, id: EventId, window_ms: i64) {
        let bucket = BucketKey::at(self.overlay.head.stream_time_ms, window_ms);
        self.overlay.seen.insert(id, bucket);
        self.overlay.bytes += 16;
        match self.overlay.blocks.last_mut() {
            Some(block) if block.bucket == bucket => block.ids.push(id),
            _ => self.overlay.blocks.push(IdBlock { bucket, ids: vec![id] }),
        }
    }

    pub(super) fn entity(&self, key: &[u8]) -> Option<&Entity> {
        self.overlay.entities.get(key).or_else(|| self.unfolded(key))
    }

    /// As it was before the overlay.
    fn unfolded(&self, key: &[u8]) -> Option<&Entity> {
        let sealed = self.sealed.as_ref().and_then(|sealed| sealed.entities.get(key));
        sealed.or_else(|| self.entities.get(key))
    }

    /// Takes an entity out to change it; [`State::put`] brings it back.
    pub(super) fn take(&mut self, key: &[u8]) -> Option<Entity> {
        if let Some((_, entity)) = self.overlay.entities.remove_entry(key) {
            self.overlay.bytes = self.overlay.bytes.saturating_sub(key.len() + entity.stored_len());
            return Some(entity);
        }
        self.unfolded(key).cloned()
    }

    pub(super) fn put(&mut self, key: &[u8], entity: Entity) {
        self.overlay.bytes += key.len() + entity.stored_len();
        if let Some(old) = self.overlay.entities.insert(key.into(), entity) {
            self.overlay.bytes = self.overlay.bytes.saturating_sub(key.len() + old.stored_len());
        }
    }
}

fn gap_of(entity: Option<&Entity>) -> Option<Gap> {
    match entity {
        Some(Entity::Sequence { gap, .. }) => *gap,
        Some(Entity::Version { .. }) | None => None,
    }
}
