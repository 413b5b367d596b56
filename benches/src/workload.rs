//! What is sent: webhooks of many entities, each entity's numbered 1, 2, 3 …, some twice, some late. The same
//! on every machine, and it knows by its construction what must come out.

use std::collections::BTreeMap;

/// How the stream is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    /// Entities, each as likely as any other.
    pub(crate) entities: u32,
    /// So many of a hundred webhooks are sent again later.
    pub(crate) duplicate_percent: u32,
    /// So many of a hundred webhooks change places with the next one of their entity.
    pub(crate) disorder_percent: u32,
    /// Repeats and late ones come at most so many webhooks later.
    pub(crate) delay_max: u32,
}

/// One webhook to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Item {
    pub(crate) entity: u32,
    /// Its number in its entity, from 1.
    pub(crate) sequence: u64,
}

/// The stream.
#[derive(Debug)]
pub(crate) struct Workload {
    plan: Plan,
    random: Random,
    next_sequence: Vec<u64>,
    /// What is sent later, by its place in the stream.
    delayed: BTreeMap<(u64, u64), Item>,
    sent: u64,
    /// Different webhooks so far, the delayed ones included.
    distinct: u64,
    duplicates: u64,
    disordered: u64,
    /// Parts of a repeat and of a swap that are due.
    duplicates_due: u32,
    disorder_due: u32,
    /// Where some entities are likelier than others: the sums of the weights up to each.
    weights: Vec<u64>,
    /// Further entities, of which only the second webhook is sent, before all others.
    held: u32,
    held_sent: u32,
}

impl Workload {
    pub(crate) fn new(plan: Plan) -> Self {
        Self {
            random: Random(0x484f_4f4b_4c49_4e45),
            next_sequence: vec![1; plan.entities as usize],
            delayed: BTreeMap::new(),
            sent: 0,
            distinct: 0,
            duplicates: 0,
            disordered: 0,
            duplicates_due: 0,
            disorder_due: 0,
            weights: Vec::new(),
            held: 0,
            held_sent: 0,
            plan,
        }
    }

    /// Entities as likely as Zipf's law says, with exponent 1: the second half as likely as the first, the third a third.
    /// In whole numbers, so that no machine rounds otherwise.
    pub(crate) fn zipf(mut self) -> Self {
        let weights = (1..=u64::from(self.plan.entities)).map(|rank| (1 << 40) / rank);
        self.weights = weights
            .scan(0, |sum, weight| {
                *sum += weight;
                Some(*sum)
            })
            .collect();
        self
    }

    /// Besides, so many webhooks that wait for one before them, which never comes: each of another entity, and sent before
    /// all others.
    pub(crate) fn holding(mut self, held: u32) -> Self {
        self.held = held;
        self
    }

    /// Webhooks that must be held in the end.
    pub(crate) fn held(&self) -> u64 {
        self.held.into()
    }

    /// Different webhooks so far: so many must be applied.
    pub(crate) fn distinct(&self) -> u64 {
        self.distinct
    }

    /// Repeats so far.
    pub(crate) fn duplicates(&self) -> u64 {
        self.duplicates
    }

    /// Webhooks so far that were sent before the one that comes before them.
    pub(crate) fn disordered(&self) -> u64 {
        self.disordered
    }

    /// The next webhook of a stream that is `total` long, besides what is held: towards its end, what is delayed comes at
    /// once.
    pub(crate) fn next_of(&mut self, total: u64) -> Option<Item> {
        if self.held_sent < self.held {
            self.held_sent += 1;
            return Some(Item { entity: self.plan.entities + self.held_sent, sequence: 2 });
        }
        let left = total.checked_sub(self.sent + self.delayed.len() as u64)?;
        self.sent += 1;
        let due = self.delayed.first_key_value().map(|((place, _), _)| *place);
        if due.is_some_and(|place| place <= self.sent || left == 0) {
            return self.delayed.pop_first().map(|(_, item)| item);
        }
        if left == 0 {
            return None;
        }
        Some(self.fresh(left))
    }

    /// The next webhook of an endless stream.
    pub(crate) fn next_item(&mut self) -> Option<Item> {
        self.next_of(u64::MAX)
    }

    /// What is still delayed, at once.
    pub(crate) fn next_delayed(&mut self) -> Option<Item> {
        self.delayed.pop_first().map(|(_, item)| item)
    }

    fn fresh(&mut self, left: u64) -> Item {
        let entity = self.entity();
        let mut item = self.number(entity);
        self.duplicates_due += self.plan.duplicate_percent;
        self.disorder_due += self.plan.disorder_percent;
        // The shares are those of the whole stream, of which this webhook is one and delayed ones are the rest.
        let per_cent = 100 - self.plan.duplicate_percent - self.plan.disorder_percent;
        let mut left = left - 1;
        if self.disorder_due >= per_cent && left > 0 {
            self.disorder_due -= per_cent;
            self.disordered += 1;
            left -= 1;
            self.delay(item);
            item = self.number(entity);
        }
        if self.duplicates_due >= per_cent && left > 0 {
            self.duplicates_due -= per_cent;
            self.duplicates += 1;
            self.delay(item);
        }
        item
    }

    fn entity(&mut self) -> u32 {
        let random = self.random.next();
        let entity = match self.weights.last() {
            Some(sum) => self.weights.partition_point(|up_to| *up_to <= random % sum) as u64,
            None => random % u64::from(self.plan.entities),
        };
        u32::try_from(entity).unwrap()
    }

    fn number(&mut self, entity: u32) -> Item {
        let next = &mut self.next_sequence[entity as usize];
        let sequence = *next;
        *next += 1;
        self.distinct += 1;
        Item { entity, sequence }
    }

    fn delay(&mut self, item: Item) {
        let place = self.sent + 1 + self.random.next() % u64::from(self.plan.delay_max);
        self.delayed.insert((place, self.distinct + self.duplicates), item);
    }
}

/// `SplitMix64` (Steele, Lea and Flood 2014): the same numbers on every machine and in every version.
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    const PLAN: Plan = Plan { entities: 50, duplicate_percent: 2, disorder_percent: 2, delay_max: 100 };

    #[test]
    fn a_stream_has_the_length_and_the_shares_that_were_asked_for() {
        let mut workload = Workload::new(PLAN);
        let items: Vec<Item> = std::iter::from_fn(|| workload.next_of(10_000)).collect();
        let distinct: BTreeSet<Item> = items.iter().copied().collect();
        assert_eq!(items.len(), 10_000);
        assert_eq!(distinct.len() as u64, workload.distinct());
        assert_eq!(workload.distinct() + workload.duplicates(), 10_000);
        assert!((190..=210).contains(&workload.duplicates()), "{workload:?}");
        assert!((190..=210).contains(&workload.disordered()), "{workload:?}");
        let mut newest = HashMap::new();
        let overtaken = items
            .iter()
            .filter(|item| {
                let newest = newest.entry(item.entity).or_insert(0);
                *newest = item.sequence.max(*newest);
                item.sequence < *newest
            })
            .count();
        assert!(overtaken >= 190, "{overtaken} of the webhooks come after a later one");
    }

    #[test]
    fn every_entity_is_numbered_without_a_gap() {
        let mut workload = Workload::new(PLAN);
        let items: BTreeSet<Item> = std::iter::from_fn(|| workload.next_of(3_000)).collect();
        let mut counts: HashMap<u32, (u64, u64)> = HashMap::new();
        for item in items {
            let (count, last) = counts.entry(item.entity).or_default();
            *count += 1;
            *last = item.sequence.max(*last);
        }
        assert!(counts.values().all(|(count, last)| count == last));
    }

    #[test]
    fn by_zipfs_law_the_second_comes_half_as_often_as_the_first() {
        let mut workload = Workload::new(PLAN).zipf();
        let mut counts = HashMap::new();
        for item in std::iter::from_fn(|| workload.next_of(100_000)) {
            *counts.entry(item.entity).or_insert(0_u32) += 1;
        }
        let of = |entity: u32| f64::from(counts[&entity]);
        assert!((of(0) / of(1) - 2.0).abs() < 0.1, "{} and {}", of(0), of(1));
        assert!((of(0) / of(9) - 10.0).abs() < 1.0, "{} and {}", of(0), of(9));
        assert_eq!(counts.len(), 50);
        // The same on every machine.
        let mut again = Workload::new(PLAN).zipf();
        let first: Vec<u32> = (0..8).map_while(|_| again.next_of(100)).map(|item| item.entity).collect();
        assert_eq!(first, [39, 15, 5, 1, 2, 36, 1, 1]);
    }

    #[test]
    fn what_is_held_comes_first_and_is_of_entities_of_its_own() {
        let mut workload = Workload::new(PLAN).holding(3);
        let items: Vec<Item> = std::iter::from_fn(|| workload.next_of(1_000)).collect();
        assert_eq!((items.len() as u64, workload.held()), (1_000 + 3, 3));
        let (held, rest) = items.split_at(3);
        assert!(held.iter().all(|item| item.entity > PLAN.entities && item.sequence == 2), "{held:?}");
        assert!(rest.iter().all(|item| item.entity < PLAN.entities));
        assert_eq!(workload.distinct() + workload.duplicates(), 1_000);
    }

    #[test]
    fn an_endless_stream_ends_with_what_is_delayed() {
        let mut workload = Workload::new(PLAN);
        let mut items: Vec<Item> = (0..1_000).map_while(|_| workload.next_item()).collect();
        items.extend(std::iter::from_fn(|| workload.next_delayed()));
        assert_eq!(items.len() as u64, workload.distinct() + workload.duplicates());
    }
}
