//! The lane's log and journal in Kafka.
//!
//! The lane polls a consumer of its own, with partitions assigned by hand: so a record that is read is folded
//! at once, nothing is queued between threads, and nothing must be paused. Group membership is another
//! consumer's ([`crate::membership`]); the transactions of a [`KafkaJournal`] commit in its name.

#[cfg(feature = "alerts")]
mod appender;
mod call;
mod exclusive;
mod journal;
mod log;
mod producer;
mod reader;

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use shared::config::KafkaConfig;

#[cfg(feature = "alerts")]
pub(crate) use self::appender::Appender;
pub(crate) use self::exclusive::{Exclusive, Record as ExclusiveRecord, WriteError};
pub use self::journal::KafkaJournal;
pub(crate) use self::journal::{delete_records, position_of, refusal_of};
pub use self::log::KafkaLog;
pub use self::reader::{Read, Reader};
use crate::broker::BrokerError;
use crate::fold::Record;
use crate::frame::Frame;

/// How long one request that is answered at once may take.
const REQUEST: Duration = Duration::from_secs(10);

/// What the lane's clients have in common.
#[derive(Clone, Debug)]
pub struct KafkaContext {
    /// The cluster.
    pub config: KafkaConfig,
    /// The pipeline's consumer group.
    pub group: String,
    /// For logs of the broker.
    pub client_id: String,
    /// The event log's topic.
    pub topic: String,
    /// The journal's topic.
    pub journal: String,
    /// The snapshots' topic.
    pub snapshots: String,
    /// The dead letters' topic.
    pub dead_letters: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// `{pipeline}-{instance}-{lane}`, stable over restarts; a lane's second producer has `.second` after it.
    pub transactional_id: String,
    /// The largest record of the event log, in bytes.
    pub log_record_bytes_max: u64,
}

pub(crate) fn retry(error: &KafkaError) -> BrokerError {
    BrokerError::Retry(error.to_string())
}

/// Lets go of a client in a thread of its own: to close one that has lost Kafka can take for ever.
pub(crate) fn let_go(client: impl Send + 'static) {
    let closed = std::thread::Builder::new().name("closing".to_owned()).spawn(move || drop(client));
    if let Err(error) = closed {
        tracing::warn!(%error, "a Kafka client was closed in place");
    }
}

/// The first offset of a partition and the one after the last that is visible.
fn bounds(consumer: &BaseConsumer, topic: &str, partition: i32) -> Result<(i64, i64), BrokerError> {
    let ask = || consumer.fetch_watermarks(topic, partition, REQUEST);
    let answer = match ask() {
        // A broker that has just started may tell some of a topic's partitions only. librdkafka then takes the
        // others for non-existent, for minutes: it has to be told to look again.
        Err(error) if is_unknown(&error) => {
            consumer.fetch_metadata(Some(topic), REQUEST).map_err(|e| retry(&e))?;
            ask()
        }
        answer => answer,
    };
    answer.map_err(|e| retry(&e))
}

fn is_unknown(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::UnknownPartition
                | RDKafkaErrorCode::UnknownTopic
                | RDKafkaErrorCode::UnknownTopicOrPartition
                | RDKafkaErrorCode::LeaderNotAvailable
        )
    )
}

fn list(topic: &str, partition: i32, offset: i64) -> Result<TopicPartitionList, BrokerError> {
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, Offset::Offset(offset)).map_err(|e| retry(&e))?;
    Ok(list)
}

fn record_of<M: Message>(message: &M) -> Record {
    Record {
        offset: message.offset(),
        time_ms: message.timestamp().to_millis().unwrap_or(0),
        frame: frame_of(message),
    }
}

fn frame_of<M: Message>(message: &M) -> Frame {
    let headers = message.headers().into_iter().flat_map(|headers| headers.iter().map(|h| (h.key, h.value)));
    Frame::pack(message.key(), headers, message.payload())
}

/// Errors that librdkafka reports while it reconnects by itself.
pub(crate) fn is_passing(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
        )
    )
}
