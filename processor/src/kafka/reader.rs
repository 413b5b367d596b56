//! Reads a stretch of one partition from one offset to another.

use std::cell::OnceCell;
use std::time::{Duration, Instant};

use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};

use shared::config::KafkaConfig;

use super::{KafkaContext, is_passing, list, record_of, retry};
use crate::broker::BrokerError;
use crate::fold::Record;

/// How long a reading may stand still: an open transaction of a former owner holds readers up for its time-out.
const STALL: Duration = Duration::from_secs(30);

/// How often it is looked whether a transaction has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Reads stretches of partitions, apart from a lane's own reading.
pub struct Reader {
    consumer: BaseConsumer,
    config: ClientConfig,
    /// Sees also what is not committed; made with the first question.
    uncommitted: OnceCell<BaseConsumer>,
}

/// A record that was read: decoded only as far as somebody asks.
pub struct Read<'a>(BorrowedMessage<'a>);

impl Read<'_> {
    /// Its offset.
    #[must_use]
    pub fn offset(&self) -> i64 {
        self.0.offset()
    }

    /// When it was written, milliseconds since 1970.
    #[must_use]
    pub fn time_ms(&self) -> i64 {
        self.0.timestamp().to_millis().unwrap_or(0)
    }

    /// Its key; empty where there is none.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.0.key().unwrap_or_default()
    }

    /// Its value.
    #[must_use]
    pub fn value(&self) -> &[u8] {
        self.0.payload().unwrap_or_default()
    }

    /// The whole of it, as the fold takes it.
    #[must_use]
    pub fn record(&self) -> Record {
        record_of(&self.0)
    }
}

impl Reader {
    /// A reader without a partition.
    ///
    /// # Errors
    /// The configuration is not one that the client takes.
    pub fn new(context: &KafkaContext) -> Result<Self, BrokerError> {
        Self::of(&context.config, &context.client_id, &context.group)
    }

    /// The same, outside of a lane; `group` names the reader to the broker, and is never joined.
    ///
    /// # Errors
    /// The configuration is not one that the client takes.
    pub fn of(kafka: &KafkaConfig, client_id: &str, group: &str) -> Result<Self, BrokerError> {
        let mut config = shared::kafka::consumer(kafka, client_id, group);
        // Beyond the end of a stretch the client fetches on: the broker answers nothing else until that has waited.
        config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "5");
        let consumer = config.create().map_err(|e| retry(&e))?;
        Ok(Self { consumer, config, uncommitted: OnceCell::new() })
    }

    /// The client, for requests.
    pub(crate) fn client(&self) -> &BaseConsumer {
        &self.consumer
    }

    /// The first offset of a partition and the one after the last that is visible.
    ///
    /// # Errors
    /// The cluster does not answer.
    pub fn bounds(&self, topic: &str, partition: i32) -> Result<(i64, i64), BrokerError> {
        super::bounds(&self.consumer, topic, partition)
    }

    /// The offset after the last record, visible or not.
    fn end(&self, topic: &str, partition: i32) -> Result<i64, BrokerError> {
        let consumer = match self.uncommitted.get() {
            Some(made) => made,
            None => {
                let mut config = self.config.clone();
                config.set("isolation.level", "read_uncommitted");
                let made = config.create().map_err(|e| retry(&e))?;
                self.uncommitted.get_or_init(|| made)
            }
        };
        super::bounds(consumer, topic, partition).map(|(_, end)| end)
    }

    /// First offset and end of a partition, once no open transaction hides what is there now.
    fn settled(&self, topic: &str, partition: i32) -> Result<(i64, i64), BrokerError> {
        let end = self.end(topic, partition)?;
        let asked = Instant::now();
        loop {
            let (low, high) = self.bounds(topic, partition)?;
            if high >= end {
                return Ok((low, high));
            }
            if asked.elapsed() > STALL {
                let stall = STALL.as_secs();
                return Err(BrokerError::Retry(format!(
                    "{topic} partition {partition}: a transaction has been open for {stall} s"
                )));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Offset and value of a partition's first committed record. An open transaction may hide it, also one that
    /// began in records that were deleted since: it is waited for.
    ///
    /// # Errors
    /// The partition cannot be read, or an open transaction holds it up.
    pub fn first(&self, topic: &str, partition: i32) -> Result<Option<(i64, Vec<u8>)>, BrokerError> {
        let first_of = |(low, high): (i64, i64)| {
            let mut first = None;
            if low < high {
                self.read(topic, partition, low, false, &mut |read| {
                    first = Some((read.offset(), read.value().to_vec()));
                    false
                })?;
            }
            Ok(first)
        };
        match first_of(self.bounds(topic, partition)?)? {
            Some(first) => Ok(Some(first)),
            None => first_of(self.settled(topic, partition)?),
        }
    }

    /// Calls `each` for all committed records of a partition. An open transaction hides what others committed
    /// behind it: it is waited for.
    ///
    /// # Errors
    /// The partition cannot be read, or an open transaction holds it up.
    pub fn all(
        &self,
        topic: &str,
        partition: i32,
        each: &mut dyn FnMut(Read<'_>),
    ) -> Result<(), BrokerError> {
        self.rest(topic, partition, 0, each).map(drop)
    }

    /// As [`Self::all`], from an offset on. Returns the offset after the last record that there is.
    ///
    /// # Errors
    /// The partition cannot be read, or an open transaction holds it up.
    pub fn rest(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        each: &mut dyn FnMut(Read<'_>),
    ) -> Result<i64, BrokerError> {
        let (low, high) = self.settled(topic, partition)?;
        if from.max(low) < high {
            self.read(topic, partition, from.max(low), false, &mut |read| {
                let offset = read.offset();
                each(read);
                offset + 1 < high
            })?;
        }
        Ok(high)
    }

    /// Calls `each` for the records from `from` on, until it returns false. At the end of what is visible it
    /// goes on waiting if `wait_at_end`, else it returns.
    ///
    /// # Errors
    /// The partition cannot be read, or stands still.
    pub fn read(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        wait_at_end: bool,
        each: &mut dyn FnMut(Read<'_>) -> bool,
    ) -> Result<(), BrokerError> {
        self.consumer.assign(&list(topic, partition, from)?).map_err(|e| retry(&e))?;
        let mut moved = Instant::now();
        let done = loop {
            match self.consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.partition() == partition && message.offset() >= from => {
                    if !each(Read(message)) {
                        break Ok(());
                    }
                    moved = Instant::now();
                }
                Some(Err(KafkaError::PartitionEOF(_))) if !wait_at_end => break Ok(()),
                Some(Err(error)) if !matches!(error, KafkaError::PartitionEOF(_)) && !is_passing(&error) => {
                    break Err(retry(&error));
                }
                Some(Ok(_) | Err(_)) | None => {}
            }
            if moved.elapsed() > STALL {
                let stall = STALL.as_secs();
                break Err(BrokerError::Retry(format!(
                    "{topic} partition {partition}: nothing read for {stall} s"
                )));
            }
        };
        let unassigned = self.consumer.unassign().map_err(|e| retry(&e));
        done.and(unassigned)
    }
}
