//! What a program wrote to its output topic: each entity's events in their order, to be compared with another
//! program's. Read by a plain client, `read_committed`.

use std::collections::BTreeMap;

use anyhow::{Context as _, ensure};
use hookline_tests::kafka::Kafka;
use rdkafka::message::{Headers as _, Message};
use sha2::{Digest as _, Sha256};

use crate::outcome::{entity_and_sequence, for_each};

/// The header that Hookline adds to what it writes.
const ADDED: &str = "hookline-position";

/// One event as it stands in the output: its number, and a digest of key, headers and body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Written {
    sequence: u64,
    digest: [u8; 16],
}

/// A topic's records.
#[derive(Debug, Default)]
pub(crate) struct Output {
    by_entity: BTreeMap<u32, Vec<Written>>,
    /// By partition, where they stand.
    offsets: BTreeMap<i32, Vec<i64>>,
}

impl Output {
    /// Reads the topic.
    pub(crate) fn read(kafka: &Kafka, topic: &str) -> anyhow::Result<Self> {
        let mut output = Self::default();
        for_each(&kafka.bootstrap(), topic, |message| {
            let (entity, sequence) =
                entity_and_sequence(message).context("an output without entity and sequence")?;
            let written = Written { sequence, digest: digest(message) };
            output.by_entity.entry(entity).or_default().push(written);
            output.offsets.entry(message.partition()).or_default().push(message.offset());
            Ok(())
        })?;
        Ok(output)
    }

    #[cfg(test)]
    pub(crate) fn with_offsets(offsets: Vec<Vec<i64>>) -> Self {
        Self { by_entity: BTreeMap::new(), offsets: (0..).zip(offsets).collect() }
    }

    /// How many records there are.
    pub(crate) fn records(&self) -> u64 {
        self.offsets.values().map(|offsets| offsets.len() as u64).sum()
    }

    /// How many of them stand before these offsets, by partition.
    pub(crate) fn records_before(&self, ends: &[i64]) -> u64 {
        let before = |(partition, end): (i32, &i64)| {
            let offsets = self.offsets.get(&partition)?;
            Some(offsets.partition_point(|offset| offset < end) as u64)
        };
        (0..).zip(ends).filter_map(before).sum()
    }

    /// Each event once, each entity's in the order 1, 2, 3 ….
    pub(crate) fn check(&self, distinct: u64) -> anyhow::Result<()> {
        let found = self.records();
        ensure!(found == distinct, "the output has {found} records, but should have {distinct}");
        for (entity, events) in &self.by_entity {
            let misplaced = (1..).zip(events).find(|(place, event)| event.sequence != *place);
            if let Some((place, event)) = misplaced {
                anyhow::bail!("event {} of entity {entity} stands in place {place}", event.sequence);
            }
        }
        Ok(())
    }

    /// Both have the same events of each entity in the same order, with the same key, headers and body.
    pub(crate) fn check_same(&self, other: &Self) -> anyhow::Result<()> {
        ensure!(self.by_entity.len() == other.by_entity.len(), "the outputs have not the same entities");
        for ((entity, own), (its, theirs)) in self.by_entity.iter().zip(&other.by_entity) {
            ensure!(entity == its, "the outputs have not the same entities: {entity} and {its}");
            let differs = own.iter().zip(theirs).find(|(own, theirs)| own != theirs);
            if let Some((own, theirs)) = differs {
                anyhow::bail!(
                    "the outputs differ in events {} and {} of entity {entity}",
                    own.sequence,
                    theirs.sequence
                );
            }
            ensure!(own.len() == theirs.len(), "the outputs have not the same events of entity {entity}");
        }
        Ok(())
    }
}

/// Of key, headers but the added one, and body, each behind its length.
fn digest(message: &impl Message) -> [u8; 16] {
    let mut hash = Sha256::new();
    let mut put = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    put(message.key().unwrap_or_default());
    for header in message.headers().into_iter().flat_map(|headers| headers.iter()) {
        if header.key != ADDED {
            put(header.key.as_bytes());
            put(header.value.unwrap_or_default());
        }
    }
    put(message.payload().unwrap_or_default());
    let mut short = [0; 16];
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(events: &[(u32, u64, u8)]) -> Output {
        let mut output = Output::default();
        for (n, (entity, sequence, digest)) in (0..).zip(events) {
            let written = Written { sequence: *sequence, digest: [*digest; 16] };
            output.by_entity.entry(*entity).or_default().push(written);
            output.offsets.entry(0).or_default().push(n);
        }
        output
    }

    #[test]
    fn a_missing_a_double_and_a_swapped_event_are_seen() {
        output(&[(1, 1, 0), (2, 1, 0), (1, 2, 0)]).check(3).unwrap();
        for wrong in [&[(1, 1, 0), (1, 3, 0)][..], &[(1, 1, 0), (1, 1, 0)], &[(1, 2, 0), (1, 1, 0)]] {
            output(wrong).check(2).unwrap_err();
        }
        output(&[(1, 1, 0)]).check(2).unwrap_err();
    }

    #[test]
    fn outputs_are_the_same_whatever_stands_between_an_entitys_events() {
        let one = output(&[(1, 1, 7), (2, 1, 8), (1, 2, 9)]);
        one.check_same(&output(&[(2, 1, 8), (1, 1, 7), (1, 2, 9)])).unwrap();
        one.check_same(&output(&[(2, 1, 8), (1, 1, 7), (1, 2, 0)])).unwrap_err();
        one.check_same(&output(&[(1, 1, 7), (2, 1, 8)])).unwrap_err();
        one.check_same(&output(&[(1, 1, 7), (3, 1, 8), (1, 2, 9)])).unwrap_err();
    }
}
