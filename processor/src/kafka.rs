//! The lane's log and journal in Kafka.
//!
//! The lane polls a consumer of its own, with partitions assigned by hand: so a record that is read is folded
//! at once, nothing is queued between threads, and nothing must be paused. Group membership is another
//! consumer's ([`crate::membership`]); the transactions of a [`KafkaJournal`] commit in its name.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};
use shared::config::KafkaConfig;

use crate::broker::{BrokerError, Commit, Committed, Journal, Log};
use crate::clock::{Clock, SystemClock};
use crate::control::Control;
use crate::fold::{Effect, Record};
use crate::frame::Frame;

/// How long one request that is answered at once may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long a transactional call may take: longer than the transaction's own time-out, after which its outcome
/// is decided.
const TRANSACTION: Duration = Duration::from_secs(20);
/// How long a replay may stand still: an open transaction of a former owner holds readers up for its time-out.
const REPLAY_STALL: Duration = Duration::from_secs(30);

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
    /// The dead letters' topic.
    pub dead_letters: String,
    /// The pipeline's name.
    pub pipeline: String,
    /// `{pipeline}-{instance}-{lane}`, stable over restarts.
    pub transactional_id: String,
    /// The largest record of the event log, in bytes.
    pub log_record_bytes_max: u64,
}

fn retry(error: &KafkaError) -> BrokerError {
    BrokerError::Retry(error.to_string())
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
        frame: Frame::of_message(message),
    }
}

/// Reads a stretch of one partition, apart from the lane's own reading.
struct Reader(BaseConsumer);

impl Reader {
    fn new(context: &KafkaContext) -> Result<Self, BrokerError> {
        let mut config = shared::kafka::consumer(&context.config, &context.client_id, &context.group);
        config.set("enable.partition.eof", "true").set("fetch.wait.max.ms", "50");
        config.create().map(Self).map_err(|e| retry(&e))
    }

    /// Calls `each` for the records from `from` on, until it returns false. At the end of what is visible it
    /// goes on waiting while `wait_on` says so.
    fn read(
        &self,
        topic: &str,
        partition: i32,
        from: i64,
        wait_at_end: bool,
        each: &mut dyn FnMut(&dyn Fn() -> Record, i64, &[u8]) -> bool,
    ) -> Result<(), BrokerError> {
        self.0.assign(&list(topic, partition, from)?).map_err(|e| retry(&e))?;
        let mut moved = Instant::now();
        let done = loop {
            match self.0.poll(Duration::from_millis(100)) {
                Some(Ok(message)) if message.partition() == partition && message.offset() >= from => {
                    moved = Instant::now();
                    let record = || record_of(&message);
                    if !each(&record, message.offset(), message.payload().unwrap_or_default()) {
                        break Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) if !wait_at_end => break Ok(()),
                Some(Err(error)) if !matches!(error, KafkaError::PartitionEOF(_)) && !is_passing(&error) => {
                    break Err(retry(&error));
                }
                Some(Ok(_) | Err(_)) | None => {}
            }
            if moved.elapsed() > REPLAY_STALL {
                let stall = REPLAY_STALL.as_secs();
                break Err(BrokerError::Retry(format!(
                    "{topic} partition {partition}: nothing read for {stall} s"
                )));
            }
        };
        let unassigned = self.0.unassign().map_err(|e| retry(&e));
        done.and(unassigned)
    }
}

/// Errors that librdkafka reports while it reconnects by itself.
fn is_passing(error: &KafkaError) -> bool {
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

/// The event log, read by one lane.
pub struct KafkaLog {
    context: KafkaContext,
    consumer: BaseConsumer,
    reader: Reader,
    controls: BaseProducer<Deliveries>,
    started: std::collections::BTreeSet<i32>,
}

impl KafkaLog {
    /// Clients without partitions.
    ///
    /// # Errors
    /// The configuration is not one that the client takes.
    pub fn new(context: KafkaContext) -> Result<Self, BrokerError> {
        let mut config = shared::kafka::consumer(&context.config, &context.client_id, &context.group);
        config
            .set("fetch.wait.max.ms", "100")
            .set("fetch.message.max.bytes", "1048576")
            .set("queued.min.messages", "50000")
            .set("queued.max.messages.kbytes", "65536");
        let mut controls =
            shared::kafka::log_producer(&context.config, &context.client_id, context.log_record_bytes_max);
        controls.set("linger.ms", "0").set("message.timeout.ms", "10000");
        Ok(Self {
            consumer: config.create().map_err(|e| retry(&e))?,
            reader: Reader::new(&context)?,
            controls: controls.create_with_context(Deliveries::default()).map_err(|e| retry(&e))?,
            context,
            started: std::collections::BTreeSet::new(),
        })
    }
}

impl Log for KafkaLog {
    fn start(&mut self, partition: i32, offset: i64) -> Result<(), BrokerError> {
        self.stop(partition);
        let list = list(&self.context.topic, partition, offset)?;
        self.consumer.incremental_assign(&list).map_err(|e| retry(&e))?;
        self.started.insert(partition);
        Ok(())
    }

    fn stop(&mut self, partition: i32) {
        if self.started.remove(&partition)
            && let Ok(list) = list(&self.context.topic, partition, 0)
            && let Err(error) = self.consumer.incremental_unassign(&list)
        {
            tracing::warn!(partition, %error, "partition not unassigned");
        }
    }

    fn poll(&mut self, wait: Duration) -> Result<Option<(i32, Record)>, BrokerError> {
        match self.consumer.poll(wait) {
            Some(Ok(message)) => Ok(Some((message.partition(), record_of(&message)))),
            Some(Err(error)) if is_passing(&error) => Ok(None),
            Some(Err(error)) => Err(retry(&error)),
            None => Ok(None),
        }
    }

    fn bounds(&mut self, partition: i32) -> Result<(i64, i64), BrokerError> {
        self.consumer.fetch_watermarks(&self.context.topic, partition, REQUEST).map_err(|e| retry(&e))
    }

    fn scan(
        &mut self,
        partition: i32,
        from: i64,
        high: i64,
        each: &mut dyn FnMut(Record) -> bool,
    ) -> Result<(), BrokerError> {
        self.reader.read(&self.context.topic, partition, from, false, &mut |record, offset, _| {
            offset < high && each(record()) && offset + 1 < high
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
        self.controls.send(record).map_err(|(e, _)| retry(&e))?;
        let acknowledged = settle(&self.controls)?;
        let offset = acknowledged.iter().find(|(p, _)| *p == partition).map(|(_, offset)| *offset);
        offset.ok_or_else(|| BrokerError::Retry("a control record was not acknowledged".to_owned()))
    }
}

/// What a record's acknowledgement is for.
const OUTPUT: usize = 0;
const JOURNAL: usize = 1;

/// Collects acknowledgements.
#[derive(Clone, Default)]
struct Deliveries(Arc<Mutex<Delivered>>);

#[derive(Default)]
struct Delivered {
    journal: Vec<(i32, i64)>,
    failed: Option<KafkaError>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Delivered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        match result {
            Ok(message) if opaque == JOURNAL => {
                self.lock().journal.push((message.partition(), message.offset()));
            }
            Ok(_) => {}
            Err((error, _)) => self.lock().failed = Some(error.clone()),
        }
    }
}

/// Waits until nothing is in flight. `flush` would wait in steps of 100 ms.
fn settle(producer: &BaseProducer<Deliveries>) -> Result<Vec<(i32, i64)>, BrokerError> {
    while producer.in_flight_count() > 0 {
        producer.poll(Duration::from_millis(1));
    }
    let mut delivered = producer.context().lock();
    match delivered.failed.take() {
        Some(error) => Err(retry(&error)),
        None => Ok(std::mem::take(&mut delivered.journal)),
    }
}

/// The transactions of one lane.
pub struct KafkaJournal {
    context: KafkaContext,
    producer: Option<BaseProducer<Deliveries>>,
    reader: Reader,
    open: bool,
}

impl KafkaJournal {
    /// Clients without a transaction.
    ///
    /// # Errors
    /// The configuration is not one that the client takes.
    pub fn new(context: KafkaContext) -> Result<Self, BrokerError> {
        Ok(Self { reader: Reader::new(&context)?, context, producer: None, open: false })
    }

    fn send(
        &mut self,
        topic: &str,
        partition: i32,
        opaque: usize,
        key: Option<&[u8]>,
        value: &[u8],
        headers: Option<OwnedHeaders>,
    ) -> Result<(), BrokerError> {
        let producer = self.producer.as_ref().ok_or_else(|| BrokerError::Retry("no producer".to_owned()))?;
        if !self.open {
            producer.begin_transaction().map_err(|e| retry(&e))?;
            self.open = true;
        }
        let mut record = BaseRecord::with_opaque_to(topic, opaque).partition(partition).payload(value);
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(headers) = headers {
            record = record.headers(headers);
        }
        let waited = Instant::now();
        loop {
            match producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if waited.elapsed() < REQUEST =>
                {
                    producer.poll(Duration::from_millis(1));
                    record = back;
                }
                Err((error, _)) => return Err(retry(&error)),
            }
        }
    }

    fn send_effect(
        &mut self,
        topic: &str,
        partition: i32,
        effect: &Effect,
        more: &[(&str, &str)],
    ) -> Result<(), BrokerError> {
        let mut headers = OwnedHeaders::new_with_capacity(20);
        for (name, value) in effect.frame.headers() {
            // Names that are not UTF-8 cannot be written by this client; no event of Hookline's has one.
            if let Ok(key) = std::str::from_utf8(name) {
                headers = headers.insert(Header { key, value });
            }
        }
        for (key, value) in more {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let key = Some(effect.frame.key()).filter(|key| !key.is_empty());
        self.send(topic, partition, OUTPUT, key, effect.frame.body(), Some(headers))
    }
}

impl Journal for KafkaJournal {
    type Generation = ConsumerGroupMetadata;

    fn renew(&mut self) -> Result<(), BrokerError> {
        self.open = false;
        self.producer = None;
        let c = &self.context;
        let bytes_max = shared::topics::journal_record_bytes_max();
        let config =
            shared::kafka::transactional_producer(&c.config, &c.client_id, &c.transactional_id, bytes_max);
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).map_err(|e| retry(&e))?;
        producer.init_transactions(TRANSACTION).map_err(|e| retry(&e))?;
        self.producer = Some(producer);
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn committed(&mut self, partition: i32) -> Result<Committed, BrokerError> {
        let asked = list(&self.context.topic, partition, 0)?;
        let answer = self.reader.0.committed_offsets(asked, REQUEST).map_err(|e| retry(&e))?;
        let Some(element) = answer.find_partition(&self.context.topic, partition) else {
            return Ok(Committed::default());
        };
        element.error().map_err(|e| retry(&e))?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => {
                None
            }
        };
        let lineage = element.metadata().strip_prefix(LINEAGE).and_then(|n| n.parse().ok()).unwrap_or(0);
        Ok(Committed { offset, lineage })
    }

    fn write(&mut self, partition: i32, record: &[u8]) -> Result<(), BrokerError> {
        let topic = self.context.journal.clone();
        self.send(&topic, partition, JOURNAL, None, record, None)
    }

    fn output(&mut self, topic: &str, partition: i32, effect: &Effect) -> Result<(), BrokerError> {
        self.send_effect(topic, partition, effect, &[("hookline-position", &effect.position.to_string())])
    }

    fn dead_letter(&mut self, partition: i32, effect: &Effect, reason: &str) -> Result<(), BrokerError> {
        let topic = self.context.dead_letters.clone();
        let pipeline = self.context.pipeline.clone();
        let (position, offset) = (effect.position.to_string(), effect.event_offset.to_string());
        let more = [
            ("hookline-dead-letter-reason", reason),
            ("hookline-pipeline", &*pipeline),
            ("hookline-position", &*position),
            ("hookline-log-offset", &*offset),
        ];
        self.send_effect(&topic, partition, effect, &more)
    }

    fn settle(&mut self) -> Result<Vec<(i32, i64)>, BrokerError> {
        self.producer.as_ref().map_or_else(|| Ok(Vec::new()), settle)
    }

    fn commit(&mut self, offsets: &[Commit], generation: &ConsumerGroupMetadata) -> Result<(), BrokerError> {
        let producer = self.producer.as_ref().ok_or_else(|| BrokerError::Retry("no producer".to_owned()))?;
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for commit in offsets {
            let mut element = list.add_partition(&self.context.topic, commit.partition);
            element.set_offset(Offset::Offset(commit.offset)).map_err(|e| retry(&e))?;
            element.set_metadata(format!("{LINEAGE}{}", commit.lineage));
        }
        producer.send_offsets_to_transaction(&list, generation, TRANSACTION).map_err(|e| retry(&e))?;
        producer.commit_transaction(TRANSACTION).map_err(|e| retry(&e))?;
        self.open = false;
        Ok(())
    }

    fn replay(
        &mut self,
        partition: i32,
        from: i64,
        until: i64,
        each: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), BrokerError> {
        let (low, _) = self
            .reader
            .0
            .fetch_watermarks(&self.context.journal, partition, REQUEST)
            .map_err(|e| retry(&e))?;
        self.reader.read(&self.context.journal, partition, from.max(low), true, &mut |_, offset, value| {
            if offset <= until {
                each(offset, value);
            }
            offset < until
        })
    }

    fn first(&mut self, partition: i32) -> Result<Option<(i64, Vec<u8>)>, BrokerError> {
        let (low, high) = self
            .reader
            .0
            .fetch_watermarks(&self.context.journal, partition, REQUEST)
            .map_err(|e| retry(&e))?;
        let mut first = None;
        if low < high {
            self.reader.read(&self.context.journal, partition, low, false, &mut |_, offset, value| {
                first = Some((offset, value.to_vec()));
                false
            })?;
        }
        Ok(first)
    }
}

/// Stands before the lineage in a committed offset's metadata.
const LINEAGE: &str = "hookline-lineage=";
