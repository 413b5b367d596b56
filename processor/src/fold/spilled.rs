//! Ids that are on the disk only, in runs. In memory there are four bytes of each: enough to say of nearly every new id
//! that it is none of them. Of the others the store knows; nothing here reads it.
//!
//! A run is what was spilled at once of one bucket, sorted. The first two bytes of an id (they are evenly spread) say
//! in which of 65,536 slots it is; a slot has, of each of its ids, the next two bytes and the run's place. So of `n`
//! spilled ids one in `2^32 / n` new ones looks as if it were there, and is asked for in vain.

use std::collections::BTreeMap;
use std::ops::Range;

use super::ids::{BucketKey, EventId};

/// Which run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunKey {
    /// The bucket of all its ids.
    pub bucket: BucketKey,
    /// Unique among the bucket's runs.
    pub number: u32,
}

/// Ids that are spilled at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// Which.
    pub key: RunKey,
    /// Sorted.
    pub ids: Vec<EventId>,
}

/// The spilled ids of one partition.
#[derive(Debug, Default)]
pub(super) struct Spilled {
    /// By place, each with how many ids. A place is taken again when its run has expired.
    runs: BTreeMap<u16, (RunKey, usize)>,
    /// Of each slot, where it begins in the other two; and their end. Empty where there is no run.
    begins: Vec<u32>,
    /// The third and fourth byte of each id.
    bytes: Vec<u16>,
    /// Its run's place.
    places: Vec<u16>,
    /// What the store said since it was last changed.
    told: BTreeMap<EventId, Option<BucketKey>>,
}

impl Spilled {
    pub(super) fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// How many they are.
    pub(super) fn len(&self) -> usize {
        self.runs.values().map(|(_, ids)| ids).sum()
    }

    /// All runs.
    pub(super) fn runs(&self) -> impl Iterator<Item = (RunKey, usize)> {
        self.runs.values().copied()
    }

    /// How many more runs there may be.
    pub(super) fn room(&self) -> usize {
        (1 << 16) - self.runs.len()
    }

    /// A bucket's next run.
    pub(super) fn next_key(&self, bucket: BucketKey) -> RunKey {
        let of_bucket = self.runs.values().filter(|(run, _)| run.bucket == bucket);
        let number = of_bucket.map(|(run, _)| run.number + 1).max().unwrap_or(0);
        RunKey { bucket, number }
    }

    /// The runs that may hold an id.
    pub(super) fn candidates(&self, id: EventId) -> impl Iterator<Item = RunKey> {
        let (slot, bytes) = parts(id);
        let range = self.range(slot);
        let places = self.places.get(range.clone()).unwrap_or_default();
        let of_slot = self.bytes.get(range).unwrap_or_default();
        let alike = of_slot.iter().zip(places).filter(move |(other, _)| **other == bytes);
        alike.filter_map(|(_, place)| self.runs.get(place).map(|(run, _)| *run))
    }

    fn range(&self, slot: usize) -> Range<usize> {
        match self.begins.get(slot..=slot + 1) {
            Some([begin, end]) => *begin as usize..*end as usize,
            Some(_) | None => 0..0,
        }
    }

    /// Whether only the store can say of an id whether it is there.
    pub(super) fn is_unsure(&self, id: EventId) -> bool {
        let (slot, bytes) = parts(id);
        self.bytes.get(self.range(slot)).is_some_and(|of_slot| of_slot.contains(&bytes))
            && self.candidates(id).next().is_some()
            && !self.told.contains_key(&id)
    }

    /// The store said in which bucket an id is; `None`: in no run.
    pub(super) fn tell(&mut self, id: EventId, bucket: Option<BucketKey>) {
        self.told.insert(id, bucket);
    }

    /// Whether the store said that an id is in a bucket that has not expired.
    pub(super) fn contains(&self, id: EventId, ids_from_ms: i64) -> bool {
        let bucket = self.told.get(&id).copied().flatten();
        bucket.is_some_and(|bucket| !bucket.is_expired(ids_from_ms))
    }

    /// Forgets what the store said.
    pub(super) fn forget_told(&mut self) {
        self.told.clear();
    }

    /// Takes note of a run.
    ///
    /// # Panics
    /// There is no room.
    pub(super) fn add(&mut self, run: &Run) {
        let free = (0..=u16::MAX).find(|place| !self.runs.contains_key(place));
        let place = free.unwrap_or_else(|| panic!("at most 65,536 runs"));
        self.runs.insert(place, (run.key, run.ids.len()));
        self.begins.resize(SLOTS + 1, 0);
        let len = self.bytes.len() + run.ids.len();
        assert!(u32::try_from(len).is_ok(), "a partition remembers at most 2^32 ids");
        let (mut bytes, mut places) = (Vec::with_capacity(len), Vec::with_capacity(len));
        // What there is, with each new id behind the others of its slot.
        let (mut taken, mut moved) = (0, 0);
        for ((slot, of_id), added) in run.ids.iter().map(|id| parts(*id)).zip(0_u32..) {
            self.begins[moved..=slot].iter_mut().for_each(|begin| *begin += added);
            moved = slot + 1;
            let end = self.begins[moved] as usize;
            bytes.extend_from_slice(&self.bytes[taken..end]);
            places.extend_from_slice(&self.places[taken..end]);
            taken = end;
            bytes.push(of_id);
            places.push(place);
        }
        bytes.extend_from_slice(&self.bytes[taken..]);
        places.extend_from_slice(&self.places[taken..]);
        let added = run.ids.len() as u32;
        self.begins[moved..].iter_mut().for_each(|begin| *begin += added);
        (self.bytes, self.places) = (bytes, places);
    }

    /// Forgets the buckets that have expired.
    pub(super) fn expire(&mut self, ids_from_ms: i64) {
        let before = self.runs.len();
        self.runs.retain(|_, (run, _)| !run.bucket.is_expired(ids_from_ms));
        if self.runs.len() == before {
            return;
        }
        let old = std::mem::take(self);
        self.told = old.told;
        self.runs = old.runs;
        if self.runs.is_empty() {
            return;
        }
        // A place must not stand for another run.
        let mut there = vec![false; 1 << 16];
        self.runs.keys().for_each(|place| there[usize::from(*place)] = true);
        self.begins.push(0);
        for ends in old.begins.windows(2) {
            let &[begin, end] = ends else { continue };
            for at in begin as usize..end as usize {
                if there[usize::from(old.places[at])] {
                    self.bytes.push(old.bytes[at]);
                    self.places.push(old.places[at]);
                }
            }
            self.begins.push(self.bytes.len() as u32);
        }
        self.bytes.shrink_to_fit();
        self.places.shrink_to_fit();
    }
}

const SLOTS: usize = 1 << 16;

/// An id's slot, and its bytes in there.
fn parts(id: EventId) -> (usize, u16) {
    let [_, _, c, d, ..] = id.0;
    (id.first_two().into(), u16::from_be_bytes([c, d]))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(n: u32) -> EventId {
        EventId::new("source", "", &n.to_string())
    }

    fn bucket(n: i64) -> BucketKey {
        BucketKey { start_ms: n * 10, span_ms: 10 }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Against the runs themselves: whoever holds an id is among those to ask; hardly anyone else is.
        #[test]
        fn every_run_that_holds_an_id_is_asked(
            steps in proptest::collection::vec((0_u32..2_000, 1_u32..500, 0_i64..6, 0_i64..8), 1..10)
        ) {
            let (mut spilled, mut model) = (Spilled::default(), Vec::<Run>::new());
            for (from, n, into, expired) in steps {
                let mut ids: Vec<_> = (from..from + n).map(id).collect();
                ids.sort_unstable();
                let key = spilled.next_key(bucket(into));
                prop_assert!(model.iter().all(|run| run.key != key));
                let run = Run { key, ids };
                spilled.add(&run);
                model.push(run);
                // Mostly nothing.
                let from_ms = bucket(expired - 4).start_ms;
                spilled.expire(from_ms);
                model.retain(|run| !run.key.bucket.is_expired(from_ms));
                prop_assert_eq!(spilled.len(), model.iter().map(|run| run.ids.len()).sum::<usize>());
                let mut in_vain = 0;
                for id in (0..3_000).map(id) {
                    let asked: Vec<_> = spilled.candidates(id).collect();
                    for run in &model {
                        let held = run.ids.binary_search(&id).is_ok();
                        prop_assert!(!held || asked.contains(&run.key));
                        in_vain += usize::from(!held && asked.contains(&run.key));
                    }
                    prop_assert_eq!(spilled.is_unsure(id), !asked.is_empty());
                }
                prop_assert!(in_vain < 5, "{in_vain}");
            }
        }
    }

    #[test]
    fn what_the_store_said_holds_until_it_is_changed() {
        let mut spilled = Spilled::default();
        assert!(!spilled.is_unsure(id(1)));
        let run = Run { key: RunKey { number: 0, bucket: bucket(3) }, ids: vec![id(1)] };
        spilled.add(&run);
        assert!(spilled.is_unsure(id(1)) && !spilled.contains(id(1), 0));
        spilled.tell(id(1), Some(bucket(3)));
        assert!(!spilled.is_unsure(id(1)) && spilled.contains(id(1), 0));
        assert!(!spilled.contains(id(1), bucket(4).start_ms));
        spilled.forget_told();
        assert!(spilled.is_unsure(id(1)));
    }
}
