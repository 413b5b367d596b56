//! Appends events to the log, and says so only once all in-sync replicas have them.
//!
//! It takes what `extract.rs` made, hands it to librdkafka's idempotent producer and waits for the broker's
//! acknowledgement. It never retries by itself (librdkafka does, until the deadline) and never answers a
//! sender. A record whose wait is over may still land: its repeat carries the same id.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::ToBytes;
use rdkafka::producer::{
    BaseRecord, DeliveryResult, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer,
};
use shared::config::Config;
use shared::event::Event;
use shared::poll::PollRequest;
use tokio::sync::oneshot;

use crate::error::SetupError;
use crate::extract::Extracted;
use crate::metrics::LogMetrics;
use crate::reach::Reach;
use crate::room::{Held, Room};

/// How the producer names itself to Kafka.
pub(crate) const CLIENT_ID: &str = "hookline-ingest";

/// What a record takes in memory besides its body, about.
const RECORD_OVERHEAD: u64 = 1024;

/// Properties that are ours unless the configuration says otherwise.
const PROPERTIES: &[(&str, &str)] = &[
    // Half a millisecond gathers enough records for a batch at load and is not felt without.
    ("linger.ms", "0.5"),
    ("queue.buffering.max.messages", "500000"),
    ("queue.buffering.max.kbytes", "1048576"),
    ("compression.type", "none"),
];

/// Checks what librdkafka thinks of the configured properties, without starting it.
///
/// # Errors
/// It does not know one, or not its value.
pub(crate) fn check(config: &Config) -> Result<(), SetupError> {
    let Err(error) = settings(config).create_native_config() else { return Ok(()) };
    let KafkaError::ClientConfig(_, why, name, _) = error else {
        return Err(SetupError::new("kafka", error.to_string()));
    };
    let error = SetupError::new(format!("kafka.properties.{name}"), why);
    Err(match config.kafka.properties.get(&name) {
        Some(value) => error.at(value.span()),
        None => error,
    })
}

fn settings(config: &Config) -> ClientConfig {
    let record_bytes_max = shared::topics::log_record_bytes_max(config.ingest.body_limit);
    let mut settings = shared::kafka::log_producer(&config.kafka, CLIENT_ID, record_bytes_max);
    let deadline_ms = config.sources.values().map(|source| source.deadline.as_ms()).max().unwrap_or(5_000);
    // Beyond the longest deadline nobody waits, so the record is not kept either.
    let timeout_ms = deadline_ms.clamp(1_000, 300_000).to_string();
    for (key, value) in PROPERTIES.iter().copied().chain([("message.timeout.ms", timeout_ms.as_str())]) {
        if !config.kafka.properties.contains_key(key) {
            settings.set(key, value);
        }
    }
    settings
}

/// Why a webhook is not known to be in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AppendError {
    /// Too much is waiting already.
    #[error("too many webhooks are waiting for the log")]
    Full,
    /// The log was not reached yet, or the program is about to end.
    #[error("the log is not ready")]
    NotReady,
    /// No acknowledgement within the source's deadline.
    #[error("the log did not acknowledge in time")]
    Deadline,
    /// The broker or librdkafka refused the record.
    #[error("the log refused the record: {0}")]
    Refused(RDKafkaErrorCode),
}

/// The event log, to append to.
pub(crate) struct Log {
    /// Replaced when librdkafka declares one dead (an idempotent producer's fatal error).
    producer: RwLock<Arc<Producer>>,
    make: Box<dyn Fn() -> Result<Producer, KafkaError> + Send + Sync>,
    topic: String,
    requests_topic: String,
    room: Room,
    metrics: LogMetrics,
    open: AtomicBool,
    pub(crate) reach: Arc<Reach>,
}

type Producer = ThreadedProducer<Deliveries>;

/// What librdkafka calls back, on its poll thread.
pub(crate) struct Deliveries {
    reach: Arc<Reach>,
    append_seconds: metrics::Histogram,
}

/// Travels with a record through librdkafka, and comes back with its fate.
pub(crate) struct Ticket {
    done: oneshot::Sender<Result<(), RDKafkaErrorCode>>,
    since: Instant,
    /// The record's memory is librdkafka's until its fate is known, whether or not anybody still waits.
    held: Held,
}

/// What hears of a record's fate.
type Fate = oneshot::Receiver<Result<(), RDKafkaErrorCode>>;

/// A record of polling, for another topic than the log.
pub(crate) struct Note<'n> {
    pub(crate) topic: &'n str,
    /// `None`: the key decides.
    pub(crate) partition: Option<i32>,
    pub(crate) key: &'n str,
    pub(crate) value: &'n [u8],
}

/// A record's fate, for people.
fn settled(fate: Result<Result<(), RDKafkaErrorCode>, oneshot::error::RecvError>) -> Result<(), AppendError> {
    match fate {
        Ok(Ok(())) => Ok(()),
        Ok(Err(RDKafkaErrorCode::MessageTimedOut)) => Err(AppendError::Deadline),
        Ok(Err(code)) => Err(AppendError::Refused(code)),
        // The producer was replaced while it held the record.
        Err(_) => Err(AppendError::NotReady),
    }
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(target: "librdkafka", ?level, facility, message, "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(why) = shared::kafka::kept_out(&error, reason) {
            self.reach.kept_out(why);
        }
        match error.rdkafka_error_code() {
            // Not yet a verdict: an idle connection that a broker closes looks like this, too.
            Some(RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::Fatal) => self.reach.look_again(),
            _ => tracing::debug!(%error, reason, "kafka client error"),
        }
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Ticket>;

    fn delivery(&self, result: &DeliveryResult<'_>, ticket: Self::DeliveryOpaque) {
        let Ticket { done, since, held } = *ticket;
        self.append_seconds.record(since.elapsed());
        let fate = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail)),
        };
        // First the room, then the answer: who was answered finds the room that it gave back.
        drop(held);
        // Nobody waits any more if the deadline passed first.
        let _ = done.send(fate);
    }
}

impl Log {
    /// Makes the producer. It connects by itself, now or later.
    pub(crate) fn new(config: &Config, metrics: LogMetrics, reach: Arc<Reach>) -> Result<Self, KafkaError> {
        let settings = settings(config);
        let (callbacks_reach, append_seconds) = (Arc::clone(&reach), metrics.append_seconds.clone());
        let make = move || {
            let context =
                Deliveries { reach: Arc::clone(&callbacks_reach), append_seconds: append_seconds.clone() };
            Producer::from_config_and_context(&settings, context)
        };
        Ok(Self {
            producer: RwLock::new(Arc::new(make()?)),
            make: Box::new(make),
            topic: config.log.topic.clone(),
            requests_topic: shared::poll::requests_topic(&config.log.topic),
            room: Room::new(config.ingest.in_flight_limit.0, metrics.in_flight_bytes.clone()),
            metrics,
            open: AtomicBool::new(false),
            reach,
        })
    }

    /// Appends a webhook's events and waits until the log has all of them, or `deadline`.
    ///
    /// # Errors
    /// Some are not known to be in the log.
    pub(crate) async fn append(&self, webhook: &Extracted, deadline: Duration) -> Result<(), AppendError> {
        if !self.open.load(Ordering::Acquire) {
            return Err(AppendError::NotReady);
        }
        let result = self.append_now(webhook, deadline).await;
        if let Err(error) = result {
            self.reach.trouble(error);
        }
        result
    }

    async fn append_now(&self, webhook: &Extracted, deadline: Duration) -> Result<(), AppendError> {
        let since = Instant::now();
        let mut fates = Vec::with_capacity(webhook.events().len());
        for (event, body) in webhook.events() {
            fates.push(self.hand_over(event, body, since)?);
        }
        let all = async {
            for fate in fates {
                settled(fate.await)?;
            }
            Ok(())
        };
        tokio::time::timeout(deadline, all).await.unwrap_or(Err(AppendError::Deadline))
    }

    /// Writes a record of polling, which is no event, and waits until the topic has it, or `deadline`.
    ///
    /// # Errors
    /// It is not known to be there.
    pub(crate) async fn put(&self, note: &Note<'_>, deadline: Duration) -> Result<(), AppendError> {
        if !self.open.load(Ordering::Acquire) {
            return Err(AppendError::NotReady);
        }
        let fate = self.hand_over_note(note)?;
        let fate = tokio::time::timeout(deadline, fate).await;
        settled(fate.map_err(|_| AppendError::Deadline)?)
    }

    /// Asks for a poll, as best it can: what is lost costs the time until the next poll.
    pub(crate) fn ask(&self, request: &PollRequest) {
        let Ok(value) = serde_json::to_vec(request) else { return };
        let key = request.key();
        let note = Note { topic: &self.requests_topic, partition: None, key: &key, value: &value };
        if let Err(error) = self.hand_over_note(&note) {
            tracing::debug!(%error, key, "a poll could not be asked for");
        }
    }

    /// Hands an event's record to librdkafka; what is returned hears of its fate.
    fn hand_over(&self, event: &Event, body: &Bytes, since: Instant) -> Result<Fate, AppendError> {
        let (ticket, fate) = self.ticket(body.len(), since)?;
        let key = event.key(body);
        let record = BaseRecord::with_opaque_to(&self.topic, ticket)
            .key(key.as_str())
            .payload(body.as_ref())
            .headers(event.to_headers());
        self.send(record).map(|()| fate)
    }

    fn hand_over_note(&self, note: &Note<'_>) -> Result<Fate, AppendError> {
        let (ticket, fate) = self.ticket(note.value.len(), Instant::now())?;
        let mut record = BaseRecord::with_opaque_to(note.topic, ticket).key(note.key).payload(note.value);
        record.partition = note.partition;
        self.send(record).map(|()| fate)
    }

    /// Room for a record, and what travels with it.
    fn ticket(&self, bytes: usize, since: Instant) -> Result<(Box<Ticket>, Fate), AppendError> {
        let held = self.room.take(bytes as u64 + RECORD_OVERHEAD).ok_or(AppendError::Full)?;
        let (done, fate) = oneshot::channel();
        Ok((Box::new(Ticket { done, since, held }), fate))
    }

    fn send<'r, P: ToBytes + ?Sized>(
        &self,
        record: BaseRecord<'r, str, P, Box<Ticket>>,
    ) -> Result<(), AppendError> {
        self.producer().send(record).map_err(|(error, _)| match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => AppendError::Full,
            Some(RDKafkaErrorCode::Fatal) => {
                self.reach.look_again();
                AppendError::NotReady
            }
            Some(code) => AppendError::Refused(code),
            None => AppendError::NotReady,
        })
    }

    /// The topic that is appended to.
    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    fn producer(&self) -> Arc<Producer> {
        Arc::clone(&self.producer.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether records are taken.
    pub(crate) fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    /// From now on records are taken: the topic is known to be right.
    pub(crate) fn open(&self) {
        self.open.store(true, Ordering::Release);
    }

    /// Makes a new producer in place of one that will not work again. Blocking, for at most `timeout`.
    pub(crate) fn replace(&self, timeout: Duration) -> Result<(), String> {
        let fresh = Arc::new((self.make)().map_err(|e| e.to_string())?);
        let dead =
            std::mem::replace(&mut *self.producer.write().unwrap_or_else(PoisonError::into_inner), fresh);
        // Whoever waits for the dead one hears so, and its records' room is given back.
        dead.purge(PurgeConfig::default().queue().inflight());
        emptied(&dead, timeout);
        Ok(())
    }

    /// Asks a broker for the topic, for at most `timeout`; a producer that is dead is replaced first.
    /// Blocking.
    pub(crate) fn look(&self, timeout: Duration) -> Result<(), String> {
        if let Some((code, _)) = self.producer().client().fatal_error() {
            tracing::warn!(%code, "the producer is dead and is replaced");
            self.replace(timeout)?;
        }
        let metadata = self.producer().client().fetch_metadata(Some(&self.topic), timeout).map_err(|e| {
            let code = |e: KafkaError| e.rdkafka_error_code().map_or(e.to_string(), |code| code.to_string());
            let why = self.reach.take_kept_out().unwrap_or_else(|| code(e));
            format!("no answer from Kafka: {why}")
        })?;
        match metadata.topics().first().map(|topic| (topic.error(), topic.partitions().len())) {
            Some((None, 1..)) => Ok(()),
            _ => Err(format!("topic {} is not there", self.topic)),
        }
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.metrics.kafka_up.set(if up { 1.0 } else { 0.0 });
    }

    /// Waits until librdkafka holds no record any more. Blocking.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        emptied(&self.producer(), timeout)
    }
}

/// Waits until the producer holds no record any more; its poll thread settles them. (`flush` would wait in
/// steps of 100 ms.)
fn emptied(producer: &Producer, timeout: Duration) -> bool {
    let end = Instant::now() + timeout;
    while producer.in_flight_count() > 0 {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    true
}
