//! The ids that a partition remembers in memory: 16 bytes for each, and 6 to 11 for where it stands. One table for all
//! buckets, so that a new id is looked for once, not in each bucket.
//!
//! Ids stand in chunks in the order in which they came, each chunk's of one bucket: the chunks of an expired one are
//! freed whole. The table holds places and doubles when it is full; the chunks, which are most of it, never move.

use std::collections::BTreeMap;
use std::ops::Range;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::ids::{BucketKey, EventId, IdBlock};

/// Ids of a chunk that is full, 16 KiB.
pub(super) const CHUNK_IDS: usize = 1024;

/// Ids, each in the bucket in which it was last seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    places: HashTable<Place>,
    chunks: Chunks,
}

/// Where an id stands, counted through all chunks: enough for 4 billion ids of a partition.
type Place = u32;

#[derive(Debug, Default)]
struct Chunks {
    chunks: Vec<Chunk>,
    /// Those that are empty.
    free: Vec<usize>,
    /// Of each bucket, the one that is filled next.
    open: BTreeMap<BucketKey, usize>,
}

#[derive(Debug)]
struct Chunk {
    bucket: BucketKey,
    /// [`EventId::SNAPSHOT`] where the id has moved to a later bucket.
    ids: Vec<EventId>,
}

impl Seen {
    /// Whether an id is in a bucket that has not expired.
    pub(super) fn contains(&self, id: EventId, ids_from_ms: i64) -> bool {
        let place = self.places.find(id.hash(), |place| self.chunks.id(*place) == id);
        place.is_some_and(|place| !self.chunks.bucket(*place).is_expired(ids_from_ms))
    }

    /// Remembers an id until its bucket expires. One that is there already stays in the bucket that expires later.
    pub(super) fn insert(&mut self, id: EventId, bucket: BucketKey) {
        let Self { places, chunks } = self;
        match places.entry(id.hash(), |place| chunks.id(*place) == id, |place| chunks.id(*place).hash()) {
            Entry::Vacant(vacant) => {
                vacant.insert(chunks.push(id, bucket));
            }
            Entry::Occupied(mut occupied) => {
                let old = *occupied.get();
                if expiry(chunks.bucket(old)) < expiry(bucket) {
                    chunks.forget(old);
                    *occupied.get_mut() = chunks.push(id, bucket);
                }
            }
        }
    }

    /// Remembers the ids of a block.
    pub(super) fn add(&mut self, block: &IdBlock) {
        for id in &block.ids {
            self.insert(*id, block.bucket);
        }
    }

    /// Forgets the buckets that have expired.
    pub(super) fn expire(&mut self, ids_from_ms: i64) {
        let Self { places, chunks } = self;
        if !chunks.open.keys().any(|bucket| bucket.is_expired(ids_from_ms)) {
            return;
        }
        for (place, id) in chunks.of_buckets(|bucket| bucket.is_expired(ids_from_ms)) {
            if let Ok(entry) = places.find_entry(id.hash(), |other| *other == place) {
                entry.remove();
            }
        }
        chunks.free(|bucket| bucket.is_expired(ids_from_ms));
        if places.len() < places.capacity() / 4 {
            places.shrink_to(2 * places.len(), |place| chunks.id(*place).hash());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// How many chunks there are, with empty ones.
    pub(super) fn chunks(&self) -> usize {
        self.chunks.chunks.len()
    }

    /// The ids of some chunks, as they are now.
    pub(super) fn of_chunks(&self, range: Range<usize>) -> Vec<IdBlock> {
        let block = |chunk: &Chunk| IdBlock {
            bucket: chunk.bucket,
            ids: chunk.ids.iter().copied().filter(|id| *id != EventId::SNAPSHOT).collect(),
        };
        self.chunks.chunks.get(range).unwrap_or_default().iter().map(block).collect()
    }

    /// All ids, sorted: the same for equal contents.
    pub(super) fn sorted(&self) -> Vec<IdBlock> {
        let mut buckets: Vec<BucketKey> = self.chunks.open.keys().copied().collect();
        buckets.sort_unstable();
        let of = |bucket: BucketKey| {
            let mut ids: Vec<_> = self.chunks.of_buckets(|other| other == bucket).map(|(_, id)| id).collect();
            ids.sort_unstable();
            IdBlock { bucket, ids }
        };
        buckets.into_iter().map(of).filter(|block| !block.ids.is_empty()).collect()
    }
}

/// Of two buckets, the one that expires later is greater; no two are equal.
fn expiry(bucket: BucketKey) -> (i64, BucketKey) {
    (bucket.end_ms(), bucket)
}

impl Chunks {
    fn id(&self, place: Place) -> EventId {
        let place = place as usize;
        self.chunks[place / CHUNK_IDS].ids[place % CHUNK_IDS]
    }

    fn bucket(&self, place: Place) -> BucketKey {
        self.chunks[place as usize / CHUNK_IDS].bucket
    }

    fn push(&mut self, id: EventId, bucket: BucketKey) -> Place {
        let open = self.open.get(&bucket).copied();
        let number = match open.filter(|number| self.chunks[*number].ids.len() < CHUNK_IDS) {
            Some(number) => number,
            None => self.open_another(bucket),
        };
        let ids = &mut self.chunks[number].ids;
        ids.push(id);
        let place = number * CHUNK_IDS + ids.len() - 1;
        Place::try_from(place).unwrap_or_else(|_| panic!("a partition remembers at most 2^32 ids"))
    }

    fn open_another(&mut self, bucket: BucketKey) -> usize {
        let chunk = Chunk { bucket, ids: Vec::new() };
        let number = match self.free.pop() {
            Some(number) => {
                self.chunks[number] = chunk;
                number
            }
            None => {
                self.chunks.push(chunk);
                self.chunks.len() - 1
            }
        };
        self.open.insert(bucket, number);
        number
    }

    /// The id has moved.
    fn forget(&mut self, place: Place) {
        let place = place as usize;
        self.chunks[place / CHUNK_IDS].ids[place % CHUNK_IDS] = EventId::SNAPSHOT;
    }

    /// The ids of some buckets, and where they stand.
    fn of_buckets(&self, which: impl Fn(BucketKey) -> bool) -> impl Iterator<Item = (Place, EventId)> {
        let chunks = self.chunks.iter().enumerate().filter(move |(_, chunk)| which(chunk.bucket));
        chunks.flat_map(|(number, chunk)| {
            let first = number * CHUNK_IDS;
            let ids = chunk.ids.iter().enumerate().filter(|(_, id)| **id != EventId::SNAPSHOT);
            ids.map(move |(n, id)| ((first + n) as Place, *id))
        })
    }

    fn free(&mut self, which: impl Fn(BucketKey) -> bool) {
        self.open.retain(|bucket, _| !which(*bucket));
        for (number, chunk) in self.chunks.iter_mut().enumerate() {
            if which(chunk.bucket) && !chunk.ids.is_empty() {
                chunk.ids = Vec::new();
                self.free.push(number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const SPAN_MS: i64 = 10;

    fn id(n: u32) -> EventId {
        EventId::new("source", "", &n.to_string())
    }

    fn bucket(n: i64) -> BucketKey {
        BucketKey { start_ms: n * SPAN_MS, span_ms: SPAN_MS }
    }

    #[derive(Clone, Debug)]
    enum Step {
        /// Ids from one number on, so many of them, in a bucket.
        Add(u32, u32, i64),
        /// Up to a bucket.
        Expire(i64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (0_u32..3000, 1_u32..1500, 0_i64..6).prop_map(|(from, n, bucket)| Step::Add(from, n, bucket)),
            1 => (0_i64..6).prop_map(Step::Expire),
        ];
        proptest::collection::vec(step, 1..12)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Against a map from each id to the last bucket that it was seen in.
        #[test]
        fn it_remembers_what_a_map_would(steps in steps()) {
            let (mut seen, mut model) = (Seen::default(), BTreeMap::<EventId, BucketKey>::new());
            for step in steps {
                match step {
                    Step::Add(from, n, into) => {
                        let ids: Vec<_> = (from..from + n).map(id).collect();
                        for id in &ids {
                            let last = model.entry(*id).or_insert(bucket(into));
                            *last = (*last).max(bucket(into));
                        }
                        seen.add(&IdBlock { bucket: bucket(into), ids });
                    }
                    Step::Expire(before) => {
                        let from_ms = bucket(before).start_ms;
                        seen.expire(from_ms);
                        model.retain(|_, bucket| !bucket.is_expired(from_ms));
                    }
                }
                prop_assert_eq!(seen.len(), model.len());
                let mut sorted = BTreeMap::new();
                for block in seen.sorted() {
                    prop_assert!(block.ids.is_sorted());
                    sorted.extend(block.ids.iter().map(|id| (*id, block.bucket)));
                }
                prop_assert_eq!(&sorted, &model);
                for n in (0..4500).step_by(97) {
                    for from_ms in [0, bucket(3).start_ms, bucket(6).start_ms] {
                        let remembered = model.get(&id(n)).is_some_and(|bucket| !bucket.is_expired(from_ms));
                        prop_assert_eq!(seen.contains(id(n), from_ms), remembered);
                    }
                }
            }
        }
    }

    /// What a storm took is given back.
    #[test]
    fn expiry_frees_chunks_and_places() {
        let mut seen = Seen::default();
        for n in 0..20 {
            let ids = (n * 10_000..(n + 1) * 10_000).map(id).collect();
            seen.add(&IdBlock { bucket: bucket(n.into()), ids });
            seen.expire(bucket(i64::from(n) - 1).start_ms);
        }
        assert_eq!(seen.len(), 20_000);
        assert!(seen.chunks.chunks.len() <= 3 * 10, "{} chunks", seen.chunks.chunks.len());
        seen.expire(i64::MAX);
        assert_eq!((seen.len(), seen.places.capacity()), (0, 0));
        assert!(seen.chunks.chunks.iter().all(|chunk| chunk.ids.capacity() == 0));
    }
}
