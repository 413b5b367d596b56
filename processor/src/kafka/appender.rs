//! Appends single records, each acknowledged by all in-sync replicas before it is done.

use rdkafka::producer::{BaseProducer, BaseRecord};
use shared::config::KafkaConfig;

use super::producer::{Deliveries, JOURNAL, settle};
use super::retry;
use crate::broker::BrokerError;

/// An idempotent producer for single records.
pub(crate) struct Appender(BaseProducer<Deliveries>);

impl Appender {
    pub(crate) fn new(kafka: &KafkaConfig, client_id: &str) -> Result<Self, BrokerError> {
        let bytes_max = shared::topics::STATUS_RECORD_BYTES_MAX;
        let mut config = shared::kafka::log_producer(kafka, client_id, bytes_max);
        config.set("linger.ms", "0").set("message.timeout.ms", "10000");
        config.create_with_context(Deliveries::default()).map(Self).map_err(|e| retry(&e))
    }

    pub(crate) fn append(
        &self,
        topic: &str,
        partition: i32,
        key: &str,
        value: &[u8],
    ) -> Result<(), BrokerError> {
        let record = BaseRecord::with_opaque_to(topic, JOURNAL).partition(partition).key(key).payload(value);
        self.0.send(record).map_err(|(e, _)| retry(&e))?;
        settle(&self.0).map(drop)
    }
}
