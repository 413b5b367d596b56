//! The store in sled. Measured traps that shape it: a key costs about 10 µs, and the memory that changing it takes
//! comes back more slowly than a batch of many keys takes it, so ids and entities are stored in packed blocks, once a
//! second; what is in its cache stays there (`sled/pages.rs`); batches are atomic within a tree only, so the mark is written last; a zeroed file opens as an empty
//! database, so a sentinel says whose it is; a crash while opening leaves a `snap.*.generating` that must go; expiry
//! drops whole trees.

mod blocks;
mod ids;
mod pages;

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sled::{Batch, Db};

use self::blocks::Blocks;
use self::ids::{Ids, Part};
use super::{Store, StoreError, Stores};
use crate::failpoint::{self, Point};
use crate::fold::EntityKey;
use crate::fold::{BucketKey, Delta, Entity, EventId, Head, Run, RunKey, State};
use crate::journal::Mark;

/// The version of what is stored. Another one is wiped and restored from the journal.
const FORMAT: u32 = 4;
/// How long deltas are gathered before they are written.
const WRITE_INTERVAL: Duration = Duration::from_secs(1);
/// How often what was written is brought to the disk.
const FLUSH_INTERVAL: Duration = Duration::from_secs(5);
/// sled's page cache, per partition; a page in each of its 256 parts stays besides, 8 MiB at most.
const CACHE_BYTES: u64 = 1024 * 1024;
/// Gathered deltas are written early when they exceed this.
const GATHERED_BYTES_MAX: usize = 8 * 1024 * 1024;

const SENTINEL: &[u8] = b"sentinel";
const HEAD: &[u8] = b"head";
const MARK: &[u8] = b"mark";
const ENTITIES: &[u8] = b"entities";

/// Whose state a directory holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Sentinel {
    format: u32,
    cluster_id: String,
    topic: String,
    pipeline: String,
    partition: i32,
}

/// Opens one sled database a partition below a directory.
#[derive(Clone, Debug)]
pub struct SledStores {
    dir: PathBuf,
    cluster_id: String,
    topic: String,
    pipeline: String,
}

impl SledStores {
    /// Stores below `dir`, for one pipeline on one topic of one cluster.
    #[must_use]
    pub fn new(dir: &Path, cluster_id: &str, topic: &str, pipeline: &str) -> Self {
        Self {
            dir: dir.to_owned(),
            cluster_id: cluster_id.to_owned(),
            topic: topic.to_owned(),
            pipeline: pipeline.to_owned(),
        }
    }

    /// The same stores below another directory.
    #[must_use]
    pub fn at(&self, dir: &Path) -> Self {
        Self { dir: dir.to_owned(), ..self.clone() }
    }

    /// Where the state of a partition is.
    #[must_use]
    pub fn directory(&self, partition: i32) -> PathBuf {
        self.dir.join(format!("partition-{partition}"))
    }

    fn try_open(&self, partition: i32) -> Result<SledStore, StoreError> {
        let path = self.directory(partition);
        std::fs::create_dir_all(&path)?;
        remove_half_made_snapshots(&path)?;
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(CACHE_BYTES)
            .flush_every_ms(None)
            .mode(sled::Mode::HighThroughput);
        let db = said(|| Ok(config.open()?))?;
        failpoint::pass(Point::StoreOpened);
        let own = Sentinel {
            format: FORMAT,
            cluster_id: self.cluster_id.clone(),
            topic: self.topic.clone(),
            pipeline: self.pipeline.clone(),
            partition,
        };
        match db.get(SENTINEL)? {
            Some(bytes) if postcard::from_bytes::<Sentinel>(&bytes).ok().as_ref() == Some(&own) => {}
            Some(_) => return Err(StoreError::Damaged("the directory holds another log's state".to_owned())),
            None if db.is_empty() && db.tree_names().len() == 1 => {
                db.insert(SENTINEL, postcard::to_allocvec(&own)?)?;
            }
            None => {
                return Err(StoreError::Damaged(
                    "the directory does not say whose state it holds".to_owned(),
                ));
            }
        }
        let now = Instant::now();
        let (ids, entities) = (Ids::of(db.clone()), Blocks::of(db.open_tree(ENTITIES)?));
        Ok(SledStore { db, ids, entities, gathered: Gathered::default(), written_at: now, flushed_at: now })
    }
}

/// sled panics on some damaged files instead of saying so.
fn said<T>(f: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    std::panic::catch_unwind(AssertUnwindSafe(f))
        .unwrap_or_else(|_| Err(StoreError::Damaged("sled cannot use its files".to_owned())))
}

/// Left over by a crash while opening; sled refuses to open beside them.
fn remove_half_made_snapshots(path: &Path) -> Result<(), StoreError> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(".generating") {
            tracing::warn!(file = %entry.path().display(), "removed a half-made snapshot of the local state");
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

impl Stores for SledStores {
    type Store = SledStore;

    fn open(&mut self, partition: i32) -> Result<SledStore, StoreError> {
        match self.try_open(partition) {
            Ok(store) => Ok(store),
            Err(error @ StoreError::Io(_)) => Err(error),
            Err(error) => {
                tracing::warn!(partition, %error, "local state wiped; it is restored from the journal");
                metrics::counter!(crate::metrics::STORE_WIPED).increment(1);
                self.wipe(partition)?;
                self.try_open(partition)
            }
        }
    }

    fn wipe(&mut self, partition: i32) -> Result<(), StoreError> {
        match std::fs::remove_dir_all(self.directory(partition)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Deltas that are not written yet, as one.
#[derive(Debug, Default)]
struct Gathered {
    ids: BTreeMap<BucketKey, Vec<EventId>>,
    entities: HashMap<EntityKey, Entity>,
    /// About how many bytes they are.
    bytes: usize,
    latest: Option<(Head, Mark)>,
}

/// The state of one partition in sled.
#[derive(Debug)]
pub struct SledStore {
    db: Db,
    ids: Ids,
    entities: Blocks,
    gathered: Gathered,
    written_at: Instant,
    flushed_at: Instant,
}

impl Store for SledStore {
    fn load(&mut self) -> Result<Option<(State, Mark)>, StoreError> {
        said(|| self.read())
    }

    fn save(&mut self, delta: &Delta, mark: Mark) -> Result<(), StoreError> {
        let gathered = &mut self.gathered;
        for block in &delta.ids {
            gathered.bytes += size_of_val(block.ids.as_slice());
            gathered.ids.entry(block.bucket).or_default().extend(&block.ids);
        }
        for (key, entity) in &delta.entities {
            gathered.bytes += key.len() + entity.stored_len();
            gathered.entities.insert(key.clone(), entity.clone());
        }
        gathered.latest = Some((delta.head.clone(), mark));
        if gathered.bytes >= GATHERED_BYTES_MAX {
            return said(|| self.write());
        }
        self.tick()
    }

    fn tick(&mut self) -> Result<(), StoreError> {
        if self.written_at.elapsed() >= WRITE_INTERVAL {
            said(|| self.write())?;
        }
        if self.flushed_at.elapsed() >= FLUSH_INTERVAL {
            self.flushed_at = Instant::now();
            said(|| self.flush())?;
        }
        Ok(())
    }

    fn spill(&mut self, runs: &[Run]) -> Result<(), StoreError> {
        said(|| self.ids.spill(runs))?;
        // They are among what was spilled.
        self.gathered.ids.clear();
        Ok(())
    }

    fn holds(&mut self, run: RunKey, id: EventId) -> Result<bool, StoreError> {
        said(|| self.ids.holds(run, id))
    }

    fn part(&mut self, run: RunKey, range: RangeInclusive<u16>) -> Result<Vec<EventId>, StoreError> {
        said(|| self.ids.part(run, range))
    }

    fn close(&mut self) -> Result<(), StoreError> {
        said(|| {
            self.write()?;
            self.flush()
        })
    }
}

impl SledStore {
    fn read(&mut self) -> Result<Option<(State, Mark)>, StoreError> {
        let (Some(head), Some(mark)) = (self.db.get(HEAD)?, self.db.get(MARK)?) else {
            return Ok(None);
        };
        let head: Head = postcard::from_bytes(&head)?;
        let mark: Mark = postcard::from_bytes(&mark)?;
        let mut state = State::new(0);
        let add = |state: &mut State, ids, entities| {
            state.apply(Delta { head: head.clone(), ids, entities });
        };
        self.ids.read(|part| match part {
            Part::InMemory(ids) => add(&mut state, vec![ids], Vec::new()),
            Part::Spilled(run) => state.add_run(run),
        })?;
        self.entities.read(|entities| add(&mut state, Vec::new(), entities))?;
        // The head, also where there is nothing else; and what has expired goes.
        add(&mut state, Vec::new(), Vec::new());
        Ok(Some((state, mark)))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.db.flush()?;
        Ok(())
    }

    fn write(&mut self) -> Result<(), StoreError> {
        self.written_at = Instant::now();
        let gathered = std::mem::take(&mut self.gathered);
        let Some((head, mark)) = gathered.latest else { return Ok(()) };
        for (bucket, ids) in &gathered.ids {
            self.ids.append(*bucket, ids, mark.offset)?;
        }
        self.entities.write(gathered.entities, mark.offset)?;
        failpoint::pass(Point::StoreHalfWritten);
        self.ids.expire(head.ids_from_ms)?;
        // The mark last, with its head: all before it can be written again without harm.
        let mut batch = Batch::default();
        batch.insert(HEAD, postcard::to_allocvec(&head)?);
        batch.insert(MARK, postcard::to_allocvec(&mark)?);
        self.db.apply_batch(batch)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
