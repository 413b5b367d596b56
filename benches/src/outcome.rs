//! What is in a sink after a run: how many events, and whether each entity's are 1, 2, 3 … in this order. Read
//! by plain clients; no code of the product.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hookline_tests::kafka::client_config;
use hookline_tests::kafka_read::end_offsets;
use hookline_tests::postgres;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers as _, Message};
use rdkafka::{Offset, TopicPartitionList};
use rusqlite::Connection;

use crate::webhook;

/// How long a topic may give nothing before its end.
const SILENCE_MAX: Duration = Duration::from_secs(60);

/// `hookline_events`' rows against their places in their entity.
const SQL: &str = "SELECT count(*), count(CASE WHEN CAST(sequence AS bigint) <> place THEN 1 END) FROM \
    (SELECT sequence, row_number() OVER (PARTITION BY source, connection, entity \
     ORDER BY log_partition, effect_offset, effect_ordinal) AS place FROM hookline_events) AS numbered";

/// What is in a sink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Applied events.
    pub(crate) rows: u64,
    /// Those that do not have the number of their place in their entity: missing, double or swapped ones.
    pub(crate) out_of_order: u64,
}

/// Reads an output topic as its consumers should: committed records only.
pub(crate) fn of_topic(bootstrap: &str, topic: &str, entities: u32) -> anyhow::Result<Outcome> {
    let mut outcome = Outcome { rows: 0, out_of_order: 0 };
    let mut last = vec![0_u64; entities as usize];
    for_each(bootstrap, topic, |message| {
        outcome.rows += 1;
        let place = entity_and_sequence(message)
            .and_then(|(entity, sequence)| Some((last.get_mut(entity as usize)?, sequence)));
        let in_order = place.is_some_and(|(last, sequence)| {
            *last += 1;
            *last == sequence
        });
        outcome.out_of_order += u64::from(!in_order);
        Ok(())
    })?;
    Ok(outcome)
}

/// Gives `take` each committed record that the topic has now.
pub(crate) fn for_each(
    bootstrap: &str,
    topic: &str,
    mut take: impl FnMut(&BorrowedMessage<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let consumer: BaseConsumer = client_config(bootstrap)
        .set("group.id", "bench-reader")
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .create()?;
    let mut assignment = TopicPartitionList::new();
    let partitions = end_offsets(bootstrap, topic);
    for partition in partitions.keys() {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning)?;
    }
    consumer.assign(&assignment)?;
    let mut unread: BTreeSet<i32> = partitions.into_keys().collect();
    let mut heard = Instant::now();
    while !unread.is_empty() {
        ensure!(heard.elapsed() < SILENCE_MAX, "{topic} cannot be read to its end");
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => return Err(error).context("the output cannot be read"),
            Some(Ok(message)) => {
                heard = Instant::now();
                take(&message)?;
            }
        }
    }
    Ok(())
}

/// What an event says of itself in its headers.
pub(crate) fn entity_and_sequence(message: &impl Message) -> Option<(u32, u64)> {
    let headers = message.headers()?;
    let text = |name: &str| {
        let header = headers.iter().find(|header| header.key == name)?;
        std::str::from_utf8(header.value?).ok()
    };
    Some((webhook::entity_number(text("ce_subject")?)?, text("ce_sequence")?.parse().ok()?))
}

/// Asks the tables of a PostgreSQL sink.
pub(crate) fn of_postgres(url: &str) -> Outcome {
    let rows = postgres::query(url, SQL);
    let number = |column: usize| rows[0][column].as_ref().and_then(|n| n.parse().ok()).expect("a count");
    Outcome { rows: number(0), out_of_order: number(1) }
}

/// Asks the tables of an SQLite sink.
pub(crate) fn of_sqlite(path: &Path) -> anyhow::Result<Outcome> {
    let counts: (u32, u32) =
        Connection::open(path)?.query_row(SQL, [], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Outcome { rows: counts.0.into(), out_of_order: counts.1.into() })
}
