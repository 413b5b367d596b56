//! Local stores as sled keeps them: deltas gathered for a second, written mark last, flushed every few
//! seconds; spilled ids at once. A crash loses what was not flushed, or tears it; a disk can come back stale,
//! empty, foreign, or with another mark.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use processor::fold::{BucketKey, Delta, Entity, EntityKey, EventId, Head, IdBlock, Run, RunKey, State};
use processor::journal::{Entry, JournalRecord, Mark};
use processor::store::{Store, StoreError, Stores};

use crate::defects::Planted;
use crate::env::Env;
use crate::world::{Inner, WALL_START_MS};

const WRITE_INTERVAL_MS: i64 = 1_000;
const FLUSH_INTERVAL_MS: i64 = 5_000;

/// What a directory holds.
#[derive(Clone, Debug, Default)]
struct Image {
    /// Whose it is: pipeline and partition.
    sentinel: Option<(usize, i32)>,
    head: Option<(Head, Mark)>,
    ids: BTreeMap<BucketKey, BTreeSet<EventId>>,
    /// Spilled ids.
    runs: Vec<Run>,
    entities: BTreeMap<EntityKey, Entity>,
}

impl Image {
    fn take_contents(&mut self, delta: &Delta) {
        for block in &delta.ids {
            self.ids.entry(block.bucket).or_default().extend(block.ids.iter().copied());
        }
        for (key, entity) in &delta.entities {
            self.entities.insert(key.clone(), entity.clone());
        }
        self.ids.retain(|bucket, _| !bucket.is_expired(delta.head.ids_from_ms));
        self.runs.retain(|run| !run.key.bucket.is_expired(delta.head.ids_from_ms));
    }

    fn part(&self, key: RunKey, range: &RangeInclusive<u16>) -> Vec<EventId> {
        let run = self.runs.iter().filter(|run| run.key == key).flat_map(|run| &run.ids);
        run.copied().filter(|id| range.contains(&id.first_two())).collect()
    }

    fn state(&self) -> Option<(State, Mark)> {
        let (head, mark) = self.head.clone()?;
        let block = |(bucket, ids): (&BucketKey, &BTreeSet<EventId>)| IdBlock {
            bucket: *bucket,
            ids: ids.iter().copied().collect(),
        };
        let ids = self.ids.iter().map(block).collect();
        let entities = self.entities.iter().map(|(k, e)| (k.clone(), e.clone())).collect();
        let mut state = State::new(0);
        self.runs.iter().for_each(|run| state.add_run(run.clone()));
        state.apply(Delta { head, ids, entities });
        Some((state, mark))
    }
}

/// A partition's directory: as the process sees it, and as it is on the medium.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    written: Image,
    flushed: Image,
}

impl Disk {
    /// What would be loaded, with all ids in memory.
    #[must_use]
    pub fn state(&self) -> Option<(State, Mark)> {
        let (mut state, mark) = self.written.state()?;
        state.unspill(|run| Ok::<_, StoreError>(self.written.part(run, &(0..=u16::MAX)))).ok()?;
        Some((state, mark))
    }
}

/// Opens a lane's stores.
pub struct SimStores {
    env: Env,
}

impl SimStores {
    /// A lane's stores.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self { env }
    }
}

/// The store of one partition.
pub struct SimStore {
    env: Env,
    partition: i32,
    gathered: Vec<(Delta, Mark)>,
    written_ms: i64,
    flushed_ms: i64,
}

fn broken(what: &str) -> StoreError {
    StoreError::Damaged(format!("simulated: {what}"))
}

impl Stores for SimStores {
    type Store = SimStore;

    fn open(&mut self, partition: i32) -> Result<SimStore, StoreError> {
        self.env.enter("store.open", false);
        let mut w = self.env.lock();
        let rate = w.plan.rates.store;
        if w.fault(rate) {
            return Err(broken("open"));
        }
        let now = w.now_ms;
        let own = Some((self.env.pipeline, partition));
        let p = w.processes.get_mut(self.env.process).ok_or_else(|| broken("process"))?;
        let disk = p.disks.entry(partition).or_default();
        if disk.written.sentinel != own {
            *disk = Disk::default();
            disk.written.sentinel = own;
        }
        let (env, gathered) = (self.env.clone(), Vec::new());
        Ok(SimStore { env, partition, gathered, written_ms: now, flushed_ms: now })
    }

    fn wipe(&mut self, partition: i32) -> Result<(), StoreError> {
        self.env.enter("store.wipe", false);
        let mut w = self.env.lock();
        let process = self.env.process;
        w.note(|| format!("process {process} wipes its store of {partition}"));
        if let Some(p) = w.processes.get_mut(process) {
            p.disks.remove(&partition);
        }
        Ok(())
    }
}

impl SimStore {
    fn write(&mut self, w: &mut Inner) {
        self.written_ms = w.now_ms;
        let p = w.processes.get_mut(self.env.process);
        let Some(disk) = p.and_then(|p| p.disks.get_mut(&self.partition)) else { return };
        for (delta, mark) in self.gathered.drain(..) {
            disk.written.take_contents(&delta);
            disk.written.head = Some((delta.head, mark));
        }
        if w.now_ms - self.flushed_ms >= FLUSH_INTERVAL_MS {
            self.flushed_ms = w.now_ms;
            disk.flushed = disk.written.clone();
        }
    }
}

impl Store for SimStore {
    fn load(&mut self) -> Result<Option<(State, Mark)>, StoreError> {
        self.env.enter("store.load", false);
        let mut w = self.env.lock();
        let rate = w.plan.rates.store;
        if w.fault(rate) {
            return Err(broken("load"));
        }
        let now = w.now_ms;
        let (by_wall, held_lost) = (w.plan.has(Planted::IdsByWallClock), w.plan.has(Planted::HeldLost));
        let p = w.processes.get(self.env.process);
        let Some(disk) = p.and_then(|p| p.disks.get(&self.partition)) else { return Ok(None) };
        let mut image = disk.written.clone();
        if by_wall && let Some((Head { config: Some(in_force), .. }, _)) = &image.head {
            let from = WALL_START_MS + now - in_force.config.window_ms;
            image.ids.retain(|bucket, _| !bucket.is_expired(from));
            image.runs.retain(|run| !run.key.bucket.is_expired(from));
        }
        if held_lost {
            for entity in image.entities.values_mut() {
                if let Entity::Sequence { held, gap, .. } = entity {
                    held.clear();
                    *gap = None;
                }
            }
        }
        let found = image.state();
        let (process, partition) = (self.env.process, self.partition);
        let at = found.as_ref().map(|(state, mark)| (state.head().next_offset, *mark));
        w.note(|| format!("process {process} loads {partition}: {at:?}"));
        Ok(found)
    }

    fn save(&mut self, delta: &Delta, mark: Mark) -> Result<(), StoreError> {
        self.env.enter("store.save", false);
        let env = self.env.clone();
        let mut w = env.lock();
        let rate = w.plan.rates.store;
        if w.fault(rate) {
            return Err(broken("save"));
        }
        self.gathered.push((delta.clone(), mark));
        if w.now_ms - self.written_ms >= WRITE_INTERVAL_MS {
            self.write(&mut w);
        }
        Ok(())
    }

    fn spill(&mut self, runs: &[Run]) -> Result<(), StoreError> {
        self.env.enter("store.spill", false);
        let env = self.env.clone();
        let mut w = env.lock();
        let rate = w.plan.rates.store;
        let fails = w.fault(rate);
        let cut = if fails { w.random.below(4) } else { usize::MAX };
        w.note(|| format!("process {} spills {} runs of {}", env.process, runs.len(), self.partition));
        let p = w.processes.get_mut(env.process);
        let Some(disk) = p.and_then(|p| p.disks.get_mut(&self.partition)) else {
            return Err(broken("spill"));
        };
        // A spill that fails leaves what it has written by then.
        disk.written
            .runs
            .extend(runs.iter().map(|run| Run { ids: run.ids.iter().copied().take(cut).collect(), ..*run }));
        if fails {
            return Err(broken("spill"));
        }
        disk.flushed = disk.written.clone();
        disk.written.ids.clear();
        self.gathered.iter_mut().for_each(|(delta, _)| delta.ids.clear());
        Ok(())
    }

    fn holds(&mut self, run: RunKey, id: EventId) -> Result<bool, StoreError> {
        Ok(self.part(run, 0..=u16::MAX)?.contains(&id))
    }

    fn part(&mut self, run: RunKey, range: RangeInclusive<u16>) -> Result<Vec<EventId>, StoreError> {
        self.env.enter("store.read", false);
        let mut w = self.env.lock();
        let rate = w.plan.rates.store;
        if w.fault(rate) {
            return Err(broken("read"));
        }
        let disk = w.processes.get(self.env.process).and_then(|p| p.disks.get(&self.partition));
        Ok(disk.map(|disk| disk.written.part(run, &range)).unwrap_or_default())
    }

    fn tick(&mut self) -> Result<(), StoreError> {
        let env = self.env.clone();
        let mut w = env.lock();
        if w.now_ms - self.written_ms >= WRITE_INTERVAL_MS {
            self.write(&mut w);
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), StoreError> {
        let env = self.env.clone();
        let mut w = env.lock();
        let rate = w.plan.rates.store;
        if w.fault(rate) {
            return Err(broken("close"));
        }
        self.flushed_ms = i64::MIN / 2;
        self.write(&mut w);
        Ok(())
    }
}

/// A process died: what its disks hold now.
pub fn crash(w: &mut Inner, process: usize) {
    let Some(p) = w.processes.get_mut(process) else { return };
    let pipeline = p.pipeline;
    for (partition, disk) in &mut p.disks {
        match w.random.below(3) {
            0 => disk.written = disk.flushed.clone(),
            1 => {
                // Torn: the contents are newer than the head and its mark.
                disk.written.head = disk.flushed.head.clone();
            }
            _ => {}
        }
        disk.written.sentinel = disk.written.sentinel.or(disk.flushed.sentinel);
        disk.flushed = disk.written.clone();
        if w.old_disks.len() < 40 {
            w.old_disks.push((pipeline, *partition, disk.clone()));
        }
    }
}

/// A process starts again: perhaps on another disk than it had.
pub fn come_back(w: &mut Inner, process: usize) {
    if !w.faults {
        return;
    }
    let rate = w.plan.rates.store;
    let Some(p) = w.processes.get_mut(process) else { return };
    for (partition, disk) in &mut p.disks {
        if !w.random.chance(rate * 20) {
            continue;
        }
        let old = w.random.below(w.old_disks.len());
        let roll = w.random.below(3);
        if let Some(trace) = &mut w.trace {
            trace.push(format!("         disk {partition} of process {process} comes back changed: {roll}"));
        }
        match (roll, w.old_disks.get(old)) {
            // Another partition's, another instance's, or an old one of its own.
            (0, Some((_, _, other))) => *disk = other.clone(),
            (1, _) => *disk = Disk::default(),
            _ => {
                let image = &mut disk.written;
                image.sentinel = Some((p.pipeline, *partition));
                if let Some((_, mark)) = &mut image.head {
                    mark.digest.0[0] = mark.digest.0[0].wrapping_add(1);
                    image.entities.clear();
                }
            }
        }
        disk.flushed = disk.written.clone();
    }
}

/// Planted: ids and entities of a journal record that is being written are taken into the store.
pub fn take_early(w: &mut Inner, process: usize, partition: i32, record: &[u8]) {
    let disk = w.processes.get_mut(process).and_then(|p| p.disks.get_mut(&partition));
    if let (Some(disk), Ok(Some(record))) = (disk, JournalRecord::decode(0, record))
        && let Entry::Checkpoint { delta, .. } = record.entry
    {
        disk.written.take_contents(&delta);
    }
}
