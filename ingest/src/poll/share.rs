//! Who polls what: the partitions of the progress topic that the group gives this instance, the progress that stands
//! in them, and the requests of all. Threads of librdkafka's consumers; what they hear goes to the supervisor.
//!
//! Two instances that poll one connection for a while, as the group moves it, do no harm: what both find has one id.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::bindings::rd_kafka_resp_err_t as RespErr;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use shared::config::{Config, KafkaConfig};
use shared::poll::{Entities, PollRequest, Progress, entities_topic, progress_topic, requests_topic};
use tokio::sync::mpsc;

/// How soon a member that says nothing loses its partitions.
const SESSION_TIMEOUT_MS: &str = "15000";
/// How long one look for a message takes, and so how soon a thread ends.
const LOOK: Duration = Duration::from_millis(200);
/// How long Kafka may take to answer.
const REQUEST: Duration = Duration::from_secs(10);
/// How long reading a partition's progress may take without a record.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// After trouble with a client, how long until the next.
const AGAIN: Duration = Duration::from_secs(2);

/// The topics of polling, and how to reach them.
#[derive(Clone)]
pub(super) struct Shared {
    kafka: KafkaConfig,
    pub(super) progress: String,
    pub(super) entities: String,
    requests: String,
    /// The pollers' group: as the log's topics, one for each log.
    group: String,
    pub(super) partitions: u32,
}

impl Shared {
    pub(super) fn new(config: &Config) -> Self {
        let log = &config.log.topic;
        Self {
            kafka: config.kafka.clone(),
            progress: progress_topic(log),
            entities: entities_topic(log),
            requests: requests_topic(log),
            group: format!("{log}.poll"),
            partitions: config.log.partitions,
        }
    }

    fn consumer(&self) -> ClientConfig {
        shared::kafka::consumer(&self.kafka, "hookline-poll", &self.group)
    }
}

/// What the threads tell.
#[derive(Debug)]
pub(super) enum Heard {
    Assigned(Vec<i32>),
    Revoked(Vec<i32>),
    Request(Box<PollRequest>),
}

/// Sends what the rebalance callback hears.
struct Context {
    heard: mpsc::Sender<Heard>,
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
        let done = if error == RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            tracing::info!(?partitions, "connections of these partitions are polled here");
            let _ = self.heard.blocking_send(Heard::Assigned(partitions.clone()));
            assign(consumer, list)
        } else {
            tracing::info!(?partitions, "connections of these partitions are polled elsewhere");
            let _ = self.heard.blocking_send(Heard::Revoked(partitions));
            consumer.incremental_unassign(list)
        };
        if let Err(error) = done {
            tracing::error!(%error, "the pollers' group could not be followed");
        }
    }
}

/// The member reads nothing: the progress is read by another consumer, from its start.
fn assign<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    list: &mut TopicPartitionList,
) -> Result<(), KafkaError> {
    list.set_all_offsets(Offset::End)?;
    consumer.incremental_assign(list)?;
    if list.count() > 0 {
        consumer.pause(list)?;
    }
    Ok(())
}

/// Is a member of the group until `stop`.
pub(super) fn be_member(shared: &Shared, heard: &mpsc::Sender<Heard>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if let Err(error) = member(shared, heard, stop) {
            tracing::error!(%error, "the pollers' group was left; joining it anew");
            let all = 0..i32::try_from(shared.partitions).unwrap_or(i32::MAX);
            let _ = heard.blocking_send(Heard::Revoked(all.collect()));
            std::thread::sleep(AGAIN);
        }
    }
}

fn member(shared: &Shared, heard: &mpsc::Sender<Heard>, stop: &AtomicBool) -> Result<(), KafkaError> {
    let mut settings = shared.consumer();
    settings
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", SESSION_TIMEOUT_MS);
    let consumer: BaseConsumer<Context> = settings.create_with_context(Context { heard: heard.clone() })?;
    consumer.subscribe(&[&shared.progress])?;
    while !stop.load(Ordering::Acquire) {
        match consumer.poll(LOOK) {
            Some(Err(error)) if is_fatal(&consumer) => return Err(error),
            Some(Err(error)) => tracing::debug!(%error, "the pollers' group"),
            Some(Ok(_)) | None => {}
        }
    }
    Ok(())
}

fn is_fatal<C: ConsumerContext>(consumer: &BaseConsumer<C>) -> bool {
    consumer.client().fatal_error().is_some()
}

/// Hears the requests of everybody from now on, until `stop`. One that is made while nobody listens is lost, and what
/// it wished for comes with the next poll.
pub(super) fn hear_requests(shared: &Shared, heard: &mpsc::Sender<Heard>, stop: &AtomicBool) {
    while !stop.load(Ordering::Acquire) {
        if let Err(error) = requests(shared, heard, stop) {
            tracing::error!(%error, "requests to poll cannot be read; trying again");
            std::thread::sleep(AGAIN);
        }
    }
}

fn requests(shared: &Shared, heard: &mpsc::Sender<Heard>, stop: &AtomicBool) -> Result<(), KafkaError> {
    let mut settings = shared.consumer();
    // Requests that retention took are too old to be of use.
    settings.set("auto.offset.reset", "latest");
    let consumer: BaseConsumer = settings.create()?;
    consumer.assign(&all(&shared.requests, shared.partitions, Offset::End)?)?;
    while !stop.load(Ordering::Acquire) {
        let message = match consumer.poll(LOOK) {
            Some(Ok(message)) => message,
            Some(Err(error)) if is_fatal(&consumer) => return Err(error),
            Some(Err(_)) | None => continue,
        };
        match serde_json::from_slice(message.payload().unwrap_or_default()) {
            // What finds no place is lost: whoever floods the topic does not fill the memory.
            Ok(request) => drop(heard.try_send(Heard::Request(Box::new(request)))),
            Err(_) => tracing::warn!(offset = message.offset(), "a record of the requests to poll is none"),
        }
    }
    Ok(())
}

fn all(topic: &str, partitions: u32, offset: Offset) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for partition in 0..i32::try_from(partitions).unwrap_or(i32::MAX) {
        list.add_partition_offset(topic, partition, offset)?;
    }
    Ok(list)
}

/// Reads the progress of every list of a partition, by key. Tries until it can; `None` once `stop` is set.
pub(super) fn progress(
    shared: &Shared,
    partition: i32,
    stop: &Arc<AtomicBool>,
) -> Option<HashMap<String, Progress>> {
    while !stop.load(Ordering::Acquire) {
        match read(shared, partition) {
            Ok(progress) => return Some(progress),
            Err(error) => {
                tracing::error!(partition, error, "the progress of polls cannot be read; trying again");
                std::thread::sleep(AGAIN);
            }
        }
    }
    None
}

fn read(shared: &Shared, partition: i32) -> Result<HashMap<String, Progress>, String> {
    let mut found = HashMap::new();
    read_all(shared, &shared.progress, partition, |value| match serde_json::from_slice::<Progress>(value) {
        Ok(progress) => drop(found.insert(progress.key(), progress)),
        Err(_) => tracing::warn!(partition, "a record of the progress of polls is none"),
    })?;
    Ok(found)
}

/// Reads the entities of a list: its parts from 0 to the first that is empty or not there.
pub(super) fn entities(shared: &Shared, partition: i32, list: &str) -> Result<BTreeSet<String>, String> {
    let mut parts = BTreeMap::new();
    read_all(shared, &shared.entities, partition, |value| {
        if let Ok(part) = serde_json::from_slice::<Entities>(value)
            && part.list == list
        {
            parts.insert(part.part, part.ids);
        }
    })?;
    let whole = parts
        .into_iter()
        .enumerate()
        .take_while(|(n, (part, ids))| u32::try_from(*n).is_ok_and(|n| n == *part) && !ids.is_empty());
    Ok(whole.flat_map(|(_, (_, ids))| ids).collect())
}

/// Reads a partition to its present end.
fn read_all(shared: &Shared, topic: &str, partition: i32, mut each: impl FnMut(&[u8])) -> Result<(), String> {
    let text = |error: KafkaError| error.to_string();
    let consumer: BaseConsumer = shared.consumer().create().map_err(text)?;
    let (low, high) = consumer.fetch_watermarks(topic, partition, REQUEST).map_err(text)?;
    if low >= high {
        return Ok(());
    }
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(low)).map_err(text)?;
    consumer.assign(&list).map_err(text)?;
    let mut heard = Instant::now();
    loop {
        // The position moves past what compaction removed, too.
        let position = consumer.position().map_err(text)?;
        let position = position.find_partition(topic, partition).map(|p| p.offset());
        if matches!(position, Some(Offset::Offset(next)) if next >= high) {
            return Ok(());
        }
        match consumer.poll(LOOK) {
            Some(Ok(message)) => {
                heard = Instant::now();
                each(message.payload().unwrap_or_default());
                if message.offset() + 1 >= high {
                    return Ok(());
                }
            }
            Some(Err(error)) => return Err(text(error)),
            None if heard.elapsed() > SILENCE_MAX => return Err("Kafka does not send its records".to_owned()),
            None => {}
        }
    }
}
