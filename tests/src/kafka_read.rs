//! What is in a topic, read by a plain consumer: no code of the product.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::client_config;

/// How long a whole topic may take.
const READ_TIME_LIMIT: Duration = Duration::from_secs(120);
const CALL_TIME_LIMIT: Duration = Duration::from_secs(30);

/// Which records of transactions are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Only those of committed transactions, up to the first open one.
    ReadCommitted,
    /// All.
    ReadUncommitted,
}

/// One record as it is in the topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The broker's or producer's time, in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The headers, in their order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The value.
    pub value: Option<Vec<u8>>,
}

impl Record {
    /// The first header of this name, as text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        let (_, value) = self.headers.iter().find(|(n, _)| n == name)?;
        value.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// All records that `topic` holds now, by partition and offset.
///
/// # Panics
/// When the topic does not exist or cannot be read to its end in time.
#[must_use]
pub fn read_all(bootstrap: &str, topic: &str, isolation: Isolation) -> Vec<Record> {
    let consumer = consumer(bootstrap, isolation);
    let partitions = partitions(&consumer, topic);
    let mut assignment = TopicPartitionList::new();
    for partition in &partitions {
        assignment.add_partition_offset(topic, *partition, Offset::Beginning).expect("an offset");
    }
    consumer.assign(&assignment).expect("an assignment");

    let end = Instant::now() + READ_TIME_LIMIT;
    let mut unread: BTreeSet<i32> = partitions.into_iter().collect();
    let mut records = Vec::new();
    while !unread.is_empty() {
        assert!(Instant::now() < end, "{topic} is not read to its end; partitions left: {unread:?}");
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => records.push(copy(&message)),
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                unread.remove(&partition);
            }
            Some(Err(error)) => panic!("{topic} cannot be read: {error}"),
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

/// The offset after the last record of each partition.
///
/// # Panics
/// When the topic does not exist or the broker does not answer.
#[must_use]
pub fn end_offsets(bootstrap: &str, topic: &str) -> BTreeMap<i32, i64> {
    bounds(bootstrap, topic).into_iter().map(|(partition, (_, end))| (partition, end)).collect()
}

/// The first offset of each partition: above 0 where records were deleted.
///
/// # Panics
/// When the topic does not exist or the broker does not answer.
#[must_use]
pub fn start_offsets(bootstrap: &str, topic: &str) -> BTreeMap<i32, i64> {
    bounds(bootstrap, topic).into_iter().map(|(partition, (start, _))| (partition, start)).collect()
}

fn bounds(bootstrap: &str, topic: &str) -> BTreeMap<i32, (i64, i64)> {
    let consumer = consumer(bootstrap, Isolation::ReadUncommitted);
    let of = |partition| consumer.fetch_watermarks(topic, partition, CALL_TIME_LIMIT).expect("watermarks");
    partitions(&consumer, topic).into_iter().map(|partition| (partition, of(partition))).collect()
}

/// The offsets that consumer group `group` has committed; partitions without one are left out.
///
/// # Panics
/// When the topic does not exist or the broker does not answer.
#[must_use]
pub fn committed_offsets(bootstrap: &str, topic: &str, group: &str) -> BTreeMap<i32, i64> {
    let consumer: BaseConsumer =
        client_config(bootstrap).set("group.id", group).create().expect("a consumer");
    let mut wanted = TopicPartitionList::new();
    for partition in partitions(&consumer, topic) {
        wanted.add_partition(topic, partition);
    }
    let committed = consumer.committed_offsets(wanted, CALL_TIME_LIMIT).expect("committed offsets");
    committed
        .elements()
        .iter()
        .filter_map(|element| element.offset().to_raw().map(|offset| (element.partition(), offset)))
        .filter(|(_, offset)| *offset >= 0)
        .collect()
}

fn consumer(bootstrap: &str, isolation: Isolation) -> BaseConsumer {
    let isolation = match isolation {
        Isolation::ReadCommitted => "read_committed",
        Isolation::ReadUncommitted => "read_uncommitted",
    };
    client_config(bootstrap)
        // Required by librdkafka, never joined: partitions are assigned by hand.
        .set("group.id", "hookline-tests-reader")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", isolation)
        .create()
        .expect("a consumer")
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Vec<i32> {
    let metadata = consumer.fetch_metadata(Some(topic), CALL_TIME_LIMIT).expect("metadata");
    let found = &metadata.topics()[0];
    assert!(found.error().is_none() && !found.partitions().is_empty(), "there is no topic {topic}");
    found.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect()
}

fn copy(message: &impl Message) -> Record {
    let headers = message.headers().map_or_else(Vec::new, |headers| {
        headers.iter().map(|h| (h.key.to_owned(), h.value.map(<[u8]>::to_vec))).collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        headers,
        value: message.payload().map(<[u8]>::to_vec),
    }
}
