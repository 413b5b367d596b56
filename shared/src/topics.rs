//! The topics: their names, their settings, and that they are so. Created on first start, checked on every
//! other; a setting that a guarantee rests on and that differs is an error that names the way out.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaErrorCode;

use crate::config::{Broker, Config, KafkaConfig, PipelineConfig, SinkConfig};
use crate::units::Size;

/// What a record may be larger than the body: headers, key, framing.
pub const OVERHEAD_BYTES: u64 = 64 * 1024;

/// How long one request to the cluster may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How long a fresh client looks for why it is not let in.
const ASK: Duration = Duration::from_secs(2);

/// How long a segment of a topic that is trimmed is written to.
const SEGMENT_MS: i64 = 5 * 60 * 1000;

/// How long a wish to poll is kept.
const REQUESTS_RETENTION_MS: i64 = 24 * 60 * 60 * 1000;

/// The largest record of a topic of statuses, in bytes: most is the fence's of a large batch.
pub const STATUS_RECORD_BYTES_MAX: u64 = 1024 * 1024;

/// How long a topic of statuses keeps every record; later the newest of each key stays.
const STATUS_HISTORY_MS: i64 = 60 * 60 * 1000;

/// How often a topic that exists is looked for, and how long between.
const LOOKS_MAX: u32 = 50;
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// A topic as Hookline needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: u32,
    /// Copies of each record.
    pub replication_factor: u16,
    /// Settings that must be exactly so.
    pub exact: Vec<(&'static str, String)>,
    /// Settings that must be at least so (`-1` counts as unlimited).
    pub at_least: Vec<(&'static str, i64)>,
    /// Settings that it is created with, and that may be changed.
    pub usual: Vec<(&'static str, i64)>,
}

/// What is wrong with the topics.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// The cluster cannot be reached, or refuses. Worth another try.
    #[error("topics cannot be checked: {0}")]
    Kafka(#[from] KafkaError),
    /// The cluster does not let this program in.
    #[error("topics cannot be checked: {0}")]
    KeptOut(String),
    /// The cluster refused to create the topic.
    #[error("topic {0} cannot be created: {1}; create it by hand as `--dry-run` prints it, or allow Create")]
    Create(String, RDKafkaErrorCode),
    /// Another instance has created the topic, and the broker that was asked has not heard of it.
    #[error("topic {0} exists, but the brokers do not tell its partitions and settings yet")]
    NotYet(String),
    /// The topic's settings cannot be read.
    #[error("topic {0}: its settings cannot be read: {1}; allow DescribeConfigs")]
    Describe(String, RDKafkaErrorCode),
    /// The partition count was changed: entities would change their partition.
    #[error(
        "topic {topic} has {found} partitions, but {wanted} are configured; the count decides where an entity's \
         events are and cannot change: set log.partitions = {found}, or move to a new topic"
    )]
    Partitions {
        /// The topic.
        topic: String,
        /// Partitions that it has.
        found: usize,
        /// Partitions that are configured.
        wanted: u32,
    },
    /// A setting is not as it must be.
    #[error("topic {topic}: {key} is {found}, but must be {wanted}; change it with kafka-configs --alter")]
    Setting {
        /// The topic.
        topic: String,
        /// The setting.
        key: &'static str,
        /// Its value.
        found: String,
        /// What it must be.
        wanted: String,
    },
}

impl TopicError {
    /// Whether the cluster may answer otherwise later, without anybody's doing.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Kafka(_) | Self::KeptOut(_) | Self::NotYet(_) => true,
            Self::Create(_, code) | Self::Describe(_, code) => matches!(
                code,
                RDKafkaErrorCode::RequestTimedOut
                    | RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::NotController
                    | RDKafkaErrorCode::InvalidReplicationFactor
                    | RDKafkaErrorCode::UnknownTopicOrPartition
            ),
            Self::Partitions { .. } | Self::Setting { .. } => false,
        }
    }
}

/// The journal's topic of a pipeline.
#[must_use]
pub fn journal_name(pipeline: &str) -> String {
    format!("hookline.{pipeline}.journal")
}

/// The snapshots' topic of a pipeline.
#[must_use]
pub fn snapshots_name(pipeline: &str) -> String {
    format!("hookline.{pipeline}.snapshots")
}

/// The dead-letter topic of a pipeline.
#[must_use]
pub fn dead_letters_name(pipeline: &str) -> String {
    format!("hookline.{pipeline}.dead-letters")
}

/// The largest record of the event log, in bytes.
#[must_use]
pub const fn log_record_bytes_max(body_limit: Size) -> u64 {
    body_limit.0 + OVERHEAD_BYTES
}

/// The largest record of a journal or of the snapshots, in bytes: an entity's held events take at most half of
/// it.
#[must_use]
pub const fn journal_record_bytes_max() -> u64 {
    16 * 1024 * 1024
}

/// The event log's topic.
#[must_use]
pub fn event_log(config: &Config) -> Topic {
    let mut topic = base(config, config.log.topic.clone(), log_record_bytes_max(config.ingest.body_limit));
    let retention = config.log.retention.map_or(-1, |r| r.as_ms());
    topic.at_least.push(("retention.ms", retention));
    topic.exact.push(("message.timestamp.type", "LogAppendTime".to_owned()));
    topic
}

/// The topics that a pipeline writes to.
#[must_use]
pub fn of_pipeline(config: &Config, name: &str, pipeline: &PipelineConfig) -> Vec<Topic> {
    let log_max = log_record_bytes_max(config.ingest.body_limit);
    let mut topics = vec![
        trimmed(base(config, journal_name(name), journal_record_bytes_max())),
        trimmed(base(config, snapshots_name(name), journal_record_bytes_max())),
        base(config, dead_letters_name(name), log_max + OVERHEAD_BYTES),
    ];
    for topic in &mut topics {
        topic.at_least.push(("retention.ms", -1));
        topic.at_least.push(("retention.bytes", -1));
    }
    if let SinkConfig::Kafka(sink) = &pipeline.sink {
        for name in pipeline.output_topics(&config.sources) {
            let mut topic = base(config, name, log_max);
            if !sink.deleted.is_empty() {
                topic.exact.retain(|(key, _)| *key != "cleanup.policy");
            }
            topics.push(topic);
        }
    }
    if let Some(sink) = pipeline.sink.connections() {
        topics.push(of_statuses(config, &sink.topic));
    }
    topics
}

/// The topics of polling: requests, which are of use for a short time, and how far each list is, of which the newest
/// counts.
#[must_use]
pub fn of_polling(config: &Config) -> Vec<Topic> {
    let bytes_max = log_record_bytes_max(config.ingest.body_limit);
    let mut requests = base(config, crate::poll::requests_topic(&config.log.topic), bytes_max);
    requests.usual.push(("retention.ms", REQUESTS_RETENTION_MS));
    let progress = compacted(base(config, crate::poll::progress_topic(&config.log.topic), bytes_max));
    let mut topics = vec![requests, progress];
    let mut resources =
        config.sources.values().filter_map(|s| s.poll.as_ref()).flat_map(|p| p.resources.values());
    if resources.any(|resource| resource.sweep.is_some()) {
        topics.push(compacted(base(config, crate::poll::entities_topic(&config.log.topic), bytes_max)));
    }
    topics
}

/// A topic of connections' statuses.
#[must_use]
pub fn of_statuses(config: &Config, name: &str) -> Topic {
    let mut topic = compacted(base(config, name.to_owned(), STATUS_RECORD_BYTES_MAX));
    topic.usual.push(("min.compaction.lag.ms", STATUS_HISTORY_MS));
    topic
}

/// The topic of what was told of connections.
#[must_use]
pub fn of_alerts(config: &Config, name: &str) -> Topic {
    compacted(base(config, name.to_owned(), STATUS_RECORD_BYTES_MAX))
}

/// Of each key, the newest record counts.
fn compacted(mut topic: Topic) -> Topic {
    topic.exact.retain(|(key, _)| *key != "cleanup.policy");
    topic.exact.push(("cleanup.policy", "compact".to_owned()));
    topic
}

/// Brokers delete records by whole segments only: these are small, and not kept open for long.
fn trimmed(topic: Topic) -> Topic {
    let segment_bytes = i64::try_from(2 * journal_record_bytes_max()).unwrap_or(i64::MAX);
    Topic { usual: vec![("segment.bytes", segment_bytes), ("segment.ms", SEGMENT_MS)], ..topic }
}

fn base(config: &Config, name: String, bytes_max: u64) -> Topic {
    Topic {
        name,
        partitions: config.log.partitions,
        replication_factor: config.log.replication_factor,
        exact: vec![
            ("cleanup.policy", "delete".to_owned()),
            ("unclean.leader.election.enable", "false".to_owned()),
        ],
        at_least: vec![
            ("max.message.bytes", i64::try_from(bytes_max).unwrap_or(i64::MAX)),
            ("min.insync.replicas", i64::from(config.log.min_insync_replicas)),
        ],
        usual: Vec::new(),
    }
}

impl std::fmt::Display for Topic {
    /// The command that creates the topic, for `--dry-run`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "kafka-topics.sh --create --topic {} --partitions {} --replication-factor {}",
            self.name, self.partitions, self.replication_factor
        )?;
        for (key, value) in self.settings() {
            write!(f, " --config {key}={value}")?;
        }
        Ok(())
    }
}

impl Topic {
    fn settings(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        let others = self.at_least.iter().chain(&self.usual).map(|(key, value)| (*key, value.to_string()));
        self.exact.iter().cloned().chain(others)
    }
}

/// Creates the topics that are missing and checks the others.
///
/// # Errors
/// The first that is not as it must be.
pub async fn ensure(kafka: &KafkaConfig, topics: &[Topic]) -> Result<(), TopicError> {
    if kafka.broker == Broker::Embedded {
        return Ok(());
    }
    let admin: AdminClient<DefaultClientContext> = crate::kafka::client(kafka, "hookline-admin").create()?;
    let options = AdminOptions::new().request_timeout(Some(TIMEOUT)).operation_timeout(Some(TIMEOUT));
    for topic in topics {
        ensure_one(&admin, &options, topic).await.map_err(|error| {
            let ask = || crate::kafka::what_keeps_out(kafka, ASK);
            let kept_out = matches!(error, TopicError::Kafka(_)).then(|| tokio::task::block_in_place(ask));
            kept_out.flatten().map_or(error, TopicError::KeptOut)
        })?;
    }
    Ok(())
}

async fn ensure_one(
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    topic: &Topic,
) -> Result<(), TopicError> {
    if create(admin, options, topic).await? {
        tracing::info!(topic = topic.name, partitions = topic.partitions, "topic created");
        return Ok(());
    }
    check(admin, options, topic).await
}

/// Whether the topic was missing and is now there.
async fn create(
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    topic: &Topic,
) -> Result<bool, TopicError> {
    if partitions(admin, &topic.name).await?.is_some() {
        return Ok(false);
    }
    let settings: Vec<(&str, String)> = topic.settings().collect();
    let mut new = NewTopic::new(
        &topic.name,
        i32::try_from(topic.partitions).unwrap_or(i32::MAX),
        TopicReplication::Fixed(i32::from(topic.replication_factor)),
    );
    for (key, value) in &settings {
        new = new.set(key, value);
    }
    match admin.create_topics([&new], options).await?.into_iter().next() {
        // Another instance was quicker.
        Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(false),
        Some(Err((name, code))) => Err(TopicError::Create(name, code)),
        Some(Ok(_)) | None => Ok(true),
    }
}

async fn check(
    admin: &AdminClient<DefaultClientContext>,
    options: &AdminOptions,
    topic: &Topic,
) -> Result<(), TopicError> {
    let found = partitions_soon(admin, &topic.name).await?;
    if u32::try_from(found).ok() != Some(topic.partitions) {
        return Err(TopicError::Partitions { topic: topic.name.clone(), found, wanted: topic.partitions });
    }
    let described = admin.describe_configs([&ResourceSpecifier::Topic(&topic.name)], options).await?;
    for resource in described {
        let resource = resource.map_err(|code| TopicError::Describe(topic.name.clone(), code))?;
        let values = resource.entry_map();
        // Every broker tells a topic's settings, those by default too, once it has heard of it.
        if values.is_empty() {
            return Err(TopicError::NotYet(topic.name.clone()));
        }
        let value = |key: &str| values.get(key).and_then(|e| e.value.clone()).unwrap_or_default();
        for (key, wanted) in &topic.exact {
            let found = value(key);
            if found != *wanted {
                return Err(setting(topic, key, found, wanted.clone()));
            }
        }
        for (key, wanted) in &topic.at_least {
            let found = value(key);
            let enough = |n: i64| n == -1 || (*wanted != -1 && n >= *wanted);
            if !found.parse().is_ok_and(enough) {
                let wanted =
                    if *wanted == -1 { "-1 (unlimited)".to_owned() } else { format!("at least {wanted}") };
                return Err(setting(topic, key, found, wanted));
            }
        }
    }
    Ok(())
}

fn setting(topic: &Topic, key: &'static str, found: String, wanted: String) -> TopicError {
    let found = if found.is_empty() { "not set".to_owned() } else { found };
    TopicError::Setting { topic: topic.name.clone(), key, found, wanted }
}

/// How many partitions a topic has that was there a moment ago, or that another instance has just created:
/// brokers hear of it one after the other.
async fn partitions_soon(admin: &AdminClient<DefaultClientContext>, name: &str) -> Result<usize, TopicError> {
    for _ in 0..LOOKS_MAX {
        if let Some(found) = partitions(admin, name).await?.filter(|found| *found > 0) {
            return Ok(found);
        }
        tokio::time::sleep(LOOK_INTERVAL).await;
    }
    Err(TopicError::NotYet(name.to_owned()))
}

/// How many partitions a topic has; `None` where there is no such topic.
async fn partitions(
    admin: &AdminClient<DefaultClientContext>,
    name: &str,
) -> Result<Option<usize>, TopicError> {
    // Metadata of one topic would create it on brokers that create topics by themselves.
    let metadata = tokio::task::block_in_place(|| admin.inner().fetch_metadata(None, TIMEOUT))?;
    Ok(metadata.topics().iter().find(|t| t.name() == name).map(|t| t.partitions().len()))
}
