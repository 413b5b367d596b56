//! Ids in sled. A bucket has two trees: ids that are in memory too, in the order in which they came; and runs of those
//! that were spilled, sorted, in which a single one can be looked for. An expired bucket's trees are dropped whole.
//!
//! Values are ids of 16 bytes, one after the other. The key of those in memory is the offset of the mark with which
//! they were written, and a number among those; of a run's, the run's number and the first id.
//!
//! A crash between any two steps of a spill leaves ids twice, in a run and beside it, which does no harm.

use std::ops::RangeInclusive;

use sled::Db;

use super::super::StoreError;
use super::pages;
use crate::fold::{BucketKey, EventId, IdBlock, Run, RunKey};

const IDS_PREFIX: &[u8] = b"ids/";
const RUNS_PREFIX: &[u8] = b"runs/";
/// Ids in a value.
const VALUE_IDS: usize = pages::VALUE_BYTES / size_of::<EventId>();

/// The ids of one partition.
#[derive(Debug)]
pub(super) struct Ids {
    db: Db,
}

/// What there is.
pub(super) enum Part {
    /// Ids that are in memory, too.
    InMemory(IdBlock),
    /// Ids that are not.
    Spilled(Run),
}

impl Ids {
    pub(super) fn of(db: Db) -> Self {
        Self { db }
    }

    /// Reads those in memory, in portions, and each run whole.
    pub(super) fn read(&self, mut each: impl FnMut(Part)) -> Result<(), StoreError> {
        for (name, bucket) in self.trees(IDS_PREFIX)? {
            let tree = self.db.open_tree(name)?;
            for entry in tree.iter() {
                let (key, ids) = entry?;
                pages::passed(&tree, &key)?;
                each(Part::InMemory(IdBlock { bucket, ids: unpack(&ids)? }));
            }
        }
        for (name, bucket) in self.trees(RUNS_PREFIX)? {
            let tree = self.db.open_tree(name)?;
            let mut run: Option<Run> = None;
            for entry in tree.iter() {
                let (key, ids) = entry?;
                pages::passed(&tree, &key)?;
                let key = RunKey { number: number_of(&key)?, bucket };
                match &mut run {
                    Some(run) if run.key == key => run.ids.extend(unpack(&ids)?),
                    Some(_) | None => {
                        let before = run.replace(Run { key, ids: unpack(&ids)? });
                        before.into_iter().for_each(|run| each(Part::Spilled(run)));
                    }
                }
            }
            run.into_iter().for_each(|run| each(Part::Spilled(run)));
        }
        Ok(())
    }

    /// Adds ids of a bucket that came up to the mark at `offset`.
    pub(super) fn append(&self, bucket: BucketKey, ids: &[EventId], offset: i64) -> Result<(), StoreError> {
        let tree = self.db.open_tree(name(IDS_PREFIX, bucket))?;
        for (number, ids) in (0_u32..).zip(ids.chunks(VALUE_IDS)) {
            let key = [&offset.to_be_bytes()[..], &number.to_be_bytes()].concat();
            pages::insert(&tree, &key, EventId::pack(ids))?;
        }
        Ok(())
    }

    /// Writes runs in place of all ids that are in memory.
    pub(super) fn spill(&self, runs: &[Run]) -> Result<(), StoreError> {
        for run in runs {
            let tree = self.db.open_tree(name(RUNS_PREFIX, run.key.bucket))?;
            for ids in run.ids.chunks(VALUE_IDS) {
                let Some(first) = ids.first() else { continue };
                pages::insert(&tree, &run_key(run.key.number, first.0), EventId::pack(ids))?;
            }
        }
        self.db.flush()?;
        for (name, _) in self.trees(IDS_PREFIX)? {
            self.db.drop_tree(name)?;
        }
        Ok(())
    }

    /// Whether a run holds an id.
    pub(super) fn holds(&self, run: RunKey, id: EventId) -> Result<bool, StoreError> {
        let tree = self.db.open_tree(name(RUNS_PREFIX, run.bucket))?;
        let range = run_key(run.number, [0; 16])..=run_key(run.number, id.0);
        let Some(entry) = tree.range(range).next_back() else { return Ok(false) };
        let (key, ids) = entry?;
        pages::visited(&tree, &key)?;
        Ok(EventId::packed(&ids).ok_or_else(torn)?.binary_search(&id.0).is_ok())
    }

    /// The ids of a run whose first two bytes are in a range.
    pub(super) fn part(&self, run: RunKey, range: RangeInclusive<u16>) -> Result<Vec<EventId>, StoreError> {
        let tree = self.db.open_tree(name(RUNS_PREFIX, run.bucket))?;
        let (mut low, mut high) = ([0; 16], [u8::MAX; 16]);
        low[..2].copy_from_slice(&range.start().to_be_bytes());
        high[..2].copy_from_slice(&range.end().to_be_bytes());
        // The value before may reach into the range.
        let before =
            tree.range(run_key(run.number, [0; 16])..run_key(run.number, low)).next_back().transpose()?;
        let within = tree.range(run_key(run.number, low)..=run_key(run.number, high));
        let mut part = Vec::new();
        for entry in before.into_iter().map(Ok).chain(within) {
            let (key, ids) = entry?;
            pages::passed(&tree, &key)?;
            part.extend(unpack(&ids)?.into_iter().filter(|id| (low..=high).contains(&id.0)));
        }
        Ok(part)
    }

    /// Drops the buckets that have expired.
    pub(super) fn expire(&self, ids_from_ms: i64) -> Result<(), StoreError> {
        for prefix in [IDS_PREFIX, RUNS_PREFIX] {
            for (name, bucket) in self.trees(prefix)? {
                if bucket.is_expired(ids_from_ms) {
                    self.db.drop_tree(name)?;
                }
            }
        }
        Ok(())
    }

    fn trees(&self, prefix: &[u8]) -> Result<Vec<(sled::IVec, BucketKey)>, StoreError> {
        let names = self.db.tree_names().into_iter();
        let own = names.filter_map(|name| {
            let bucket = name.strip_prefix(prefix).map(parse_bucket)?;
            Some(bucket.map(|bucket| (name.clone(), bucket)))
        });
        own.collect()
    }
}

fn unpack(packed: &[u8]) -> Result<Vec<EventId>, StoreError> {
    EventId::unpack(packed).ok_or_else(torn)
}

fn torn() -> StoreError {
    StoreError::Damaged("a value of ids is torn".to_owned())
}

fn run_key(number: u32, first: [u8; 16]) -> [u8; 20] {
    let mut key = [0; 20];
    key[..4].copy_from_slice(&number.to_be_bytes());
    key[4..].copy_from_slice(&first);
    key
}

fn number_of(key: &[u8]) -> Result<u32, StoreError> {
    let number = key.first_chunk::<4>().map(|number| u32::from_be_bytes(*number));
    number.ok_or_else(|| StoreError::Damaged("a run of ids has a strange key".to_owned()))
}

fn name(prefix: &[u8], bucket: BucketKey) -> Vec<u8> {
    [prefix, format!("{}/{}", bucket.start_ms, bucket.span_ms).as_bytes()].concat()
}

fn parse_bucket(name: &[u8]) -> Result<BucketKey, StoreError> {
    let parse = || {
        let (start, span) = std::str::from_utf8(name).ok()?.split_once('/')?;
        Some(BucketKey { start_ms: start.parse().ok()?, span_ms: span.parse().ok()? })
    };
    parse().ok_or_else(|| StoreError::Damaged("a tree of ids has a strange name".to_owned()))
}
