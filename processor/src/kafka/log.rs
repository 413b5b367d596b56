//! The event log, read by one lane.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, ThreadedProducer};
use shared::poll::{PollRequest, requests_topic};

use super::producer::{Deliveries, JOURNAL, Unheard, settle};
use super::reader::Reader;
use super::{KafkaContext, is_passing, let_go, list, record_of, retry};
use crate::broker::{BrokerError, Log, acknowledged};
use crate::clock::{Clock, SystemClock};
use crate::control::Control;
use crate::fold::Record;

/// The event log, read by one lane.
pub struct KafkaLog {
    context: KafkaContext,
    clients: Clients,
    started: BTreeSet<i32>,
}

struct Clients {
    /// Reads the partitions that are started.
    consumer: BaseConsumer,
    /// Reads stretches.
    reader: Reader,
    /// Appends control records.
    controls: BaseProducer<Deliveries>,
    /// Sends wishes to the poller; made with the first.
    wishes: Option<ThreadedProducer<Unheard>>,
}

/// Wishes that may wait for Kafka; further ones are not sent.
const WISHES_MAX: usize = 1_000;

impl KafkaLog {
    /// Clients without partitions.
    ///
    /// # Errors
    /// The configuration is not one that the client takes.
    pub fn new(context: KafkaContext) -> Result<Self, BrokerError> {
        Ok(Self { clients: Clients::new(&context)?, context, started: BTreeSet::new() })
    }
}

impl Clients {
    fn new(context: &KafkaContext) -> Result<Self, BrokerError> {
        let mut config = shared::kafka::consumer(&context.config, &context.client_id, &context.group);
        config
            .set("fetch.wait.max.ms", "100")
            .set("fetch.message.max.bytes", "1048576")
            .set("queued.min.messages", "20000")
            // A partition whose queue was full is left alone so long; a lane takes half a second for all of it.
            .set("fetch.queue.backoff.ms", "10")
            .set("queued.max.messages.kbytes", "32768");
        let mut controls =
            shared::kafka::log_producer(&context.config, &context.client_id, context.log_record_bytes_max);
        controls.set("linger.ms", "0").set("message.timeout.ms", "10000");
        Ok(Self {
            consumer: config.create().map_err(|e| retry(&e))?,
            reader: Reader::new(context)?,
            controls: controls.create_with_context(Deliveries::default()).map_err(|e| retry(&e))?,
            wishes: None,
        })
    }

    /// A producer of its own: a topic that is away must not hold up the control records.
    fn wishes(&mut self, context: &KafkaContext) -> Result<&ThreadedProducer<Unheard>, BrokerError> {
        match &mut self.wishes {
            Some(producer) => Ok(producer),
            none @ None => {
                let bytes_max = context.log_record_bytes_max;
                let mut config = shared::kafka::log_producer(&context.config, &context.client_id, bytes_max);
                config
                    .set("message.timeout.ms", "10000")
                    .set("queue.buffering.max.messages", WISHES_MAX.to_string());
                Ok(none.insert(config.create_with_context(Unheard::default()).map_err(|e| retry(&e))?))
            }
        }
    }
}

impl Log for KafkaLog {
    fn renew(&mut self) -> Result<(), BrokerError> {
        let_go(std::mem::replace(&mut self.clients, Clients::new(&self.context)?));
        self.started.clear();
        Ok(())
    }

    fn start(&mut self, partition: i32, offset: i64) -> Result<(), BrokerError> {
        self.stop(partition);
        let list = list(&self.context.topic, partition, offset)?;
        self.clients.consumer.incremental_assign(&list).map_err(|e| retry(&e))?;
        self.started.insert(partition);
        Ok(())
    }

    fn stop(&mut self, partition: i32) {
        if self.started.remove(&partition)
            && let Ok(list) = list(&self.context.topic, partition, 0)
            && let Err(error) = self.clients.consumer.incremental_unassign(&list)
        {
            tracing::warn!(partition, %error, "partition not unassigned");
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<(i32, Record)>, BrokerError> {
        match self.clients.consumer.poll(wait) {
            Some(Ok(message)) => Ok(Some((message.partition(), record_of(&message)))),
            Some(Err(error)) if is_passing(&error) => Ok(None),
            Some(Err(error)) => Err(retry(&error)),
            None => Ok(None),
        }
    }

    /// By the reader: where all is read, the consumer's requests wait until its fetch has ended.
    fn bounds(&mut self, partition: i32) -> Result<(i64, i64), BrokerError> {
        self.clients.reader.bounds(&self.context.topic, partition)
    }

    fn reach(&mut self, partition: i32) -> Result<(), BrokerError> {
        super::bounds(&self.clients.consumer, &self.context.topic, partition).map(drop)
    }

    fn scan(
        &mut self,
        partition: i32,
        from: i64,
        high: i64,
        each: &mut dyn FnMut(Record) -> bool,
    ) -> Result<(), BrokerError> {
        self.clients.reader.read(&self.context.topic, partition, from, false, &mut |read| {
            read.offset() < high && each(read.record()) && read.offset() + 1 < high
        })
    }

    fn append(&mut self, partition: i32, key: &[u8], control: &Control) -> Result<i64, BrokerError> {
        let unwritable = |e: serde_json::Error| BrokerError::Retry(format!("control record: {e}"));
        let now = jiff::Timestamp::from_millisecond(SystemClock::default().wall_ms()).unwrap_or_default();
        let (event, body) = control.to_event(now).map_err(unwritable)?;
        let record = BaseRecord::with_opaque_to(&self.context.topic, JOURNAL)
            .partition(partition)
            .key(key)
            .payload(&body)
            .headers(event.to_headers());
        self.clients.controls.send(record).map_err(|(e, _)| retry(&e))?;
        acknowledged(&settle(&self.clients.controls)?, partition)
    }
    fn ask(&mut self, request: &PollRequest) -> Result<(), BrokerError> {
        let value = serde_json::to_vec(request)
            .map_err(|e| BrokerError::Retry(format!("a request of the poller: {e}")))?;
        let key = request.key();
        let topic = requests_topic(&self.context.topic);
        let record = BaseRecord::to(&topic).key(&key).payload(&value);
        self.clients.wishes(&self.context)?.send(record).map_err(|(e, _)| retry(&e))
    }
}
