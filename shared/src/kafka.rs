//! Settings of every Kafka client that Hookline starts, in one place.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use secrecy::ExposeSecret;

use crate::config::{KafkaConfig, SaslMechanism, SecurityProtocol};

/// How long Kafka may be out of a client's reach before a fresh one tries.
const DOUBT: Duration = Duration::from_secs(8);

/// What every client has: addresses, protection, the user's own properties, bounded reconnects.
#[must_use]
pub fn client(config: &KafkaConfig, client_id: &str) -> ClientConfig {
    let mut c = ClientConfig::new();
    c.set("client.id", client_id)
        .set("bootstrap.servers", &config.bootstrap_servers)
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "2000")
        .set("socket.nagle.disable", "true")
        .set("log.connection.close", "false");
    c.set(
        "security.protocol",
        match config.security_protocol {
            SecurityProtocol::Plaintext => "plaintext",
            SecurityProtocol::Ssl => "ssl",
            SecurityProtocol::SaslPlaintext => "sasl_plaintext",
            SecurityProtocol::SaslSsl => "sasl_ssl",
        },
    );
    if let Some(tls) = &config.tls {
        for (key, path) in [
            ("ssl.ca.location", &tls.ca),
            ("ssl.certificate.location", &tls.certificate),
            ("ssl.key.location", &tls.key),
        ] {
            if let Some(path) = path {
                c.set(key, path.display().to_string());
            }
        }
    }
    if let Some(sasl) = &config.sasl {
        let mechanism = match sasl.mechanism {
            SaslMechanism::Plain => "PLAIN",
            SaslMechanism::ScramSha256 => "SCRAM-SHA-256",
            SaslMechanism::ScramSha512 => "SCRAM-SHA-512",
        };
        c.set("sasl.mechanism", mechanism).set("sasl.username", &sasl.username);
        if let Some(password) = &sasl.password_value {
            c.set("sasl.password", password.expose_secret());
        }
    }
    for (key, value) in &config.properties {
        c.set(key, value.get_ref());
    }
    c
}

/// What keeps a client out, in librdkafka's words, where waiting is not enough: somebody has to change something.
/// The same words every time, without the numbers that librdkafka adds.
#[must_use]
pub fn kept_out(error: &KafkaError, reason: &str) -> Option<String> {
    let code = error.rdkafka_error_code()?;
    let codes = [RDKafkaErrorCode::Authentication, RDKafkaErrorCode::SSL, RDKafkaErrorCode::Resolve];
    let words = reason.split(" (after ").next().unwrap_or(reason);
    codes.contains(&code).then(|| words.to_owned())
}

/// What keeps a client of this configuration out, if that is what is wrong: asked with a client of its own, for at
/// most `timeout`. Blocking.
#[must_use]
pub fn what_keeps_out(config: &KafkaConfig, timeout: Duration) -> Option<String> {
    let told = Told::default();
    let asker: BaseProducer<Told> = client(config, "hookline").create_with_context(told.clone()).ok()?;
    let until = Instant::now() + timeout;
    while Instant::now() < until {
        asker.poll(Duration::from_millis(50));
        let found = told.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if found.is_some() {
            return found;
        }
    }
    None
}

/// A client's context that keeps what it was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Option<String>>>);

impl ClientContext for Told {
    fn error(&self, error: KafkaError, reason: &str) {
        if let Some(why) = kept_out(&error, reason) {
            *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        }
    }
}

impl ProducerContext for Told {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {}
}

/// Doubts a client that does not reach Kafka, by asking with a fresh one.
///
/// librdkafka (2.10 to 2.13 at least) forgets every broker when it is told of none, as by brokers that were just
/// fenced, and never connects again (librdkafka#5301). Such a client is to be replaced.
#[derive(Debug, Default)]
pub struct Doubt {
    /// Since when the client does not reach Kafka, or when a fresh one last tried.
    out_of_reach: Option<Instant>,
}

impl Doubt {
    /// The client reached Kafka. True if it had not before.
    pub fn reached(&mut self) -> bool {
        self.out_of_reach.take().is_some()
    }

    /// Whether the client did not reach Kafka when it last tried.
    #[must_use]
    pub const fn is_out_of_reach(&self) -> bool {
        self.out_of_reach.is_some()
    }

    /// The client did not reach Kafka: whether that is so for a while, and a fresh one reaches it. Blocking, for
    /// at most `timeout`.
    pub fn client_is_lost(
        &mut self,
        config: &KafkaConfig,
        client_id: &str,
        topic: &str,
        timeout: Duration,
    ) -> bool {
        let since = self.out_of_reach.get_or_insert_with(Instant::now);
        if since.elapsed() < DOUBT {
            return false;
        }
        *since = Instant::now();
        ask(config, client_id, topic, timeout).is_ok()
    }
}

/// Asks Kafka for a topic with a client of its own, for at most `timeout`. Blocking.
fn ask(config: &KafkaConfig, client_id: &str, topic: &str, timeout: Duration) -> Result<(), KafkaError> {
    let asker: BaseProducer = client(config, client_id).create()?;
    let answer = asker.client().fetch_metadata(Some(topic), timeout)?;
    match answer.brokers() {
        [] => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerNotAvailable)),
        [..] => Ok(()),
    }
}

/// An idempotent producer to the event log: acknowledged by all in-sync replicas, partitioned as Java's
/// default partitioner does, so that other languages' producers agree about where an entity is.
#[must_use]
pub fn log_producer(config: &KafkaConfig, client_id: &str, message_bytes_max: u64) -> ClientConfig {
    let mut c = client(config, client_id);
    c.set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", message_bytes_max.to_string());
    c
}

/// A transactional producer. The time-outs bound how long a killed one holds readers up.
#[must_use]
pub fn transactional_producer(
    config: &KafkaConfig,
    client_id: &str,
    transactional_id: &str,
    message_bytes_max: u64,
) -> ClientConfig {
    let mut c = log_producer(config, client_id, message_bytes_max);
    c.set("transactional.id", transactional_id)
        .set("transaction.timeout.ms", "15000")
        .set("message.timeout.ms", "10000")
        // What is written comes in batches already.
        .set("linger.ms", "1")
        .set("compression.type", "lz4")
        .set("queue.buffering.max.messages", "500000")
        .set("queue.buffering.max.kbytes", "262144");
    c
}

/// A consumer that sees committed records only, takes no offset by itself, and never skips in silence.
#[must_use]
pub fn consumer(config: &KafkaConfig, client_id: &str, group: &str) -> ClientConfig {
    let mut c = client(config, client_id);
    c.set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "false")
        .set("check.crcs", "true")
        .set("allow.auto.create.topics", "false");
    c
}
