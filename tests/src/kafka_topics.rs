//! What topics there are, and how they are set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::metadata::MetadataPartition;
use rdkafka::{Offset, TopicPartitionList};

use crate::kafka::{block_on, client_config};
use crate::kafka_read::end_offsets;
use crate::wait;

const CALL_TIME_LIMIT: Duration = Duration::from_secs(30);

/// The names of all topics.
///
/// # Panics
/// When the broker does not answer.
#[must_use]
pub fn names(bootstrap: &str) -> BTreeSet<String> {
    let metadata = admin(bootstrap).inner().fetch_metadata(None, CALL_TIME_LIMIT).expect("metadata");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

/// The settings of a topic.
///
/// # Panics
/// When the topic does not exist or the broker does not answer.
#[must_use]
pub fn settings(bootstrap: &str, topic: &str) -> BTreeMap<String, String> {
    let options = AdminOptions::new().request_timeout(Some(CALL_TIME_LIMIT));
    let client = admin(bootstrap);
    let described = block_on(client.describe_configs([&ResourceSpecifier::Topic(topic)], &options));
    let resource = described.expect("an answer from Kafka").remove(0);
    let resource = resource.unwrap_or_else(|code| panic!("topic {topic} cannot be described: {code}"));
    resource.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
}

/// Deletes all records of a topic.
///
/// # Panics
/// When the topic does not exist or the broker refuses.
pub fn delete_all_records(bootstrap: &str, topic: &str) {
    let mut all = TopicPartitionList::new();
    for partition in end_offsets(bootstrap, topic).into_keys() {
        all.add_partition_offset(topic, partition, Offset::End).expect("an offset");
    }
    let options = AdminOptions::new().operation_timeout(Some(CALL_TIME_LIMIT));
    let deleted = block_on(admin(bootstrap).delete_records(&all, &options)).expect("an answer from Kafka");
    for element in deleted.elements() {
        element.error().unwrap_or_else(|e| panic!("records of {topic} are not deleted: {e}"));
    }
}

/// Deletes a topic, and waits until it is gone.
///
/// # Panics
/// When the broker refuses, or keeps it.
pub fn delete(bootstrap: &str, topic: &str) {
    let options = AdminOptions::new().operation_timeout(Some(CALL_TIME_LIMIT));
    let deleted = block_on(admin(bootstrap).delete_topics(&[topic], &options)).expect("an answer from Kafka");
    for result in deleted {
        result.unwrap_or_else(|(name, code)| panic!("topic {name} is not deleted: {code}"));
    }
    wait::until("a deleted topic gone", CALL_TIME_LIMIT, || {
        (!names(bootstrap).contains(topic)).then_some(())
    });
}

/// The id of the broker that leads a partition; none where there is no leader now.
///
/// # Panics
/// When no broker answers.
#[must_use]
pub fn leader(bootstrap: &str, topic: &str, partition: i32) -> Option<i32> {
    let metadata = admin(bootstrap).inner().fetch_metadata(Some(topic), CALL_TIME_LIMIT).expect("metadata");
    let partitions = metadata.topics().first()?.partitions();
    partitions.iter().find(|p| p.id() == partition).map(MetadataPartition::leader).filter(|id| *id > 0)
}

/// The id of the broker that coordinates a consumer group: it leads the partition of `__consumer_offsets` that the
/// group's name falls on (Kafka's `GroupMetadataManager.partitionFor`).
///
/// # Panics
/// When no broker answers.
#[must_use]
pub fn coordinator(bootstrap: &str, group: &str) -> Option<i32> {
    const TOPIC: &str = "__consumer_offsets";
    let partitions = i32::try_from(end_offsets(bootstrap, TOPIC).len()).ok().filter(|n| *n > 0)?;
    // Java's String.hashCode, of ASCII.
    let hash = group.bytes().fold(0_i32, |hash, byte| hash.wrapping_mul(31).wrapping_add(i32::from(byte)));
    leader(bootstrap, TOPIC, (hash & i32::MAX) % partitions)
}

fn admin(bootstrap: &str) -> AdminClient<DefaultClientContext> {
    client_config(bootstrap).create().expect("an admin client")
}
