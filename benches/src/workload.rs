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
            plan,
        }
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

    /// The next webhook of a stream that is `total` long: towards its end, what is delayed comes at once.
    pub(crate) fn next_of(&mut self, total: u64) -> Option<Item> {
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
        let entity = u32::try_from(self.random.next() % u64::from(self.plan.entities)).unwrap();
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
    fn an_endless_stream_ends_with_what_is_delayed() {
        let mut workload = Workload::new(PLAN);
        let mut items: Vec<Item> = (0..1_000).map_while(|_| workload.next_item()).collect();
        items.extend(std::iter::from_fn(|| workload.next_delayed()));
        assert_eq!(items.len() as u64, workload.distinct() + workload.duplicates());
    }
}
