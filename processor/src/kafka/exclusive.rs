//! Transactions on one partition of a topic, by one owner at a time: who begins last is the only one that can write.
//!
//! The transactional id is the partition's and not the instance's, so that to begin fences every former owner off, and
//! ends what it left open. Called by sinks that keep their fence in a topic.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use shared::config::KafkaConfig;

use super::call::{TRANSACTION, in_time};
use super::producer::{Deliveries, JOURNAL, settle};
use super::{let_go, retry};
use crate::broker::BrokerError;

/// After a slower transaction the producer is to be replaced: a delayed end of it could hit the next one.
const SLOW: Duration = Duration::from_secs(2);

/// One owner's producer. After an error it must not be used again: what was written is not known.
pub(crate) struct Exclusive {
    producer: Option<Arc<BaseProducer<Deliveries>>>,
    topic: String,
    partition: i32,
}

/// Why records were not written, or are not known to be.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// The producer is of no use any more: mostly, a later owner has begun.
    Fenced(String),
    /// Kafka failed.
    Failed(String),
}

/// A transaction that is committed.
pub(crate) struct Written {
    /// The offset after it, its marker included.
    pub(crate) end: i64,
    /// It took so long that the producer must be replaced before the next one.
    pub(crate) was_slow: bool,
}

/// A record's key and value.
pub(crate) type Record = (String, Vec<u8>);

impl Exclusive {
    /// Becomes the owner: fences former ones off and ends their transactions.
    pub(crate) fn begin(
        config: &KafkaConfig,
        transactional_id: &str,
        topic: &str,
        partition: i32,
    ) -> Result<Self, BrokerError> {
        let bytes_max = shared::topics::STATUS_RECORD_BYTES_MAX;
        let mut config =
            shared::kafka::transactional_producer(config, transactional_id, transactional_id, bytes_max);
        config.set("linger.ms", "0").set("queue.buffering.max.kbytes", "65536");
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).map_err(|e| retry(&e))?;
        let producer = Arc::new(producer);
        in_time(&producer, |producer| producer.init_transactions(TRANSACTION))?;
        Ok(Self { producer: Some(producer), topic: topic.to_owned(), partition })
    }

    /// Writes records in one transaction.
    pub(crate) fn write(&self, records: &[Record]) -> Result<Written, WriteError> {
        let started = Instant::now();
        let Some(producer) = &self.producer else { return Err(WriteError::Failed("no producer".to_owned())) };
        let written =
            self.transact(producer, records).map_err(|error| match producer.client().fatal_error() {
                Some((code, _)) => WriteError::Fenced(format!("{error} ({code})")),
                None => WriteError::Failed(error.to_string()),
            })?;
        let last = written.iter().map(|(_, offset)| *offset).max();
        let last = last.ok_or_else(|| WriteError::Failed("nothing was acknowledged".to_owned()))?;
        // The transaction's marker takes one offset.
        Ok(Written { end: last + 2, was_slow: started.elapsed() > SLOW })
    }

    fn transact(
        &self,
        producer: &Arc<BaseProducer<Deliveries>>,
        records: &[Record],
    ) -> Result<Vec<(i32, i64)>, BrokerError> {
        producer.begin_transaction().map_err(|e| retry(&e))?;
        for (key, value) in records {
            let record = BaseRecord::with_opaque_to(&self.topic, JOURNAL).partition(self.partition);
            producer.send(record.key(key).payload(value)).map_err(|(e, _)| retry(&e))?;
        }
        // Drained here: the commit's own flush would wait in steps of 100 ms.
        let written = settle(producer)?;
        in_time(producer, |producer| producer.commit_transaction(TRANSACTION))?;
        Ok(written)
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        if let Some(producer) = self.producer.take() {
            let_go(producer);
        }
    }
}
