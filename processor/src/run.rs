//! A running pipeline: topics checked, sink opened, lanes started, membership taken up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use backon::{BackoffBuilder, ExponentialBuilder};
use metrics_exporter_prometheus::PrometheusHandle;
use rdkafka::consumer::{BaseConsumer, Consumer};
use shared::admin::{self, Health};
use shared::config::{Config, PipelineConfig};
use shared::topics::{self, TopicError};

use crate::clock::SystemClock;
use crate::fold::FoldConfig;
use crate::kafka::{KafkaContext, KafkaJournal, KafkaLog};
use crate::lane::{BatchLimits, Command, Lane, LaneConfig};
use crate::membership::{self, Membership};
use crate::progress::Progress;
use crate::sink;
use crate::store::SledStores;
use crate::tickets::Tickets;
use crate::traces::{Names, SinkNames};

/// Why a pipeline does not start. What may pass is waited for instead.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A topic is not as it must be.
    #[error("{0}")]
    Topic(#[from] TopicError),
    /// The sink is not in this program.
    #[error("{0}")]
    Sink(#[from] sink::SinkError),
    /// The admin address cannot be bound, or a thread not started.
    #[error("{0}")]
    Io(#[from] std::io::Error),
    /// A client cannot be made from the configuration.
    #[error("kafka: {0}")]
    Kafka(String),
    /// No instance name.
    #[error("pipelines.{0}.instance is not set and neither is HOSTNAME; set one, stable over restarts")]
    Instance(String),
    /// Stopped while waiting for Kafka.
    #[error("stopped before it started")]
    Stopped,
}

/// A pipeline that runs in threads of its own.
pub struct Running {
    /// The address of `/livez`, `/readyz` and `/metrics`.
    pub admin: SocketAddr,
    /// What `/readyz` says.
    pub health: Health,
    lanes: Vec<(mpsc::Sender<Command>, JoinHandle<()>)>,
    membership: JoinHandle<()>,
    stop: Arc<AtomicBool>,
    drain_timeout: Duration,
}

/// Starts a pipeline. Waits for Kafka, saying so once, until it is reachable or `stop` is set; other things
/// that are missing are waited for by the lanes.
///
/// # Errors
/// What somebody has to change first.
pub async fn start(
    config: &Config,
    name: &str,
    pipeline: &PipelineConfig,
    metrics: PrometheusHandle,
    stop: Arc<AtomicBool>,
) -> Result<Running, StartError> {
    sink::check_built_in(&pipeline.sink)?;
    let instance = instance(name, pipeline)?;
    crate::metrics::describe();
    let health = Health::default();
    health.not_ready("group", "no partitions assigned yet");
    let admin = admin::serve(pipeline.admin_listen, health.clone(), metrics).await?;
    wait_for_topics(config, &topics_of(config, name, pipeline), &health, &stop).await?;
    let cluster_id = cluster_id(config).await?;

    let progress = Arc::new(Progress::new(name));
    let tickets = Arc::new(Tickets::default());
    let mut lanes = Vec::new();
    for lane in 0..pipeline.lanes {
        let kafka = kafka_context(config, name, &instance, lane);
        let stores = SledStores::new(&pipeline.state_dir, &cluster_id, &config.log.topic, name);
        let context = sink::Context {
            pipeline: name.to_owned(),
            cluster_id: cluster_id.clone(),
            topic: config.log.topic.clone(),
            tables: Arc::new(pipeline.tables.clone()),
        };
        let sink_config = pipeline.sink.clone();
        let built = Lane::new(
            lane_config(config, name, pipeline, &instance),
            KafkaLog::new(kafka.clone()).map_err(|e| StartError::Kafka(e.to_string()))?,
            KafkaJournal::new(kafka).map_err(|e| StartError::Kafka(e.to_string()))?,
            stores,
            Box::new(move || sink::open(&sink_config, &context)),
            SystemClock::default(),
            tickets.clone(),
            progress.clone(),
            health.clone(),
        );
        let (sender, receiver) = mpsc::channel();
        let thread =
            std::thread::Builder::new().name(format!("lane-{lane}")).spawn(move || built.run(&receiver))?;
        lanes.push((sender, thread));
    }
    let membership = {
        let membership = Membership {
            kafka: kafka_context(config, name, &instance, 0),
            instance: instance.clone(),
            tickets,
            lanes: lanes.iter().map(|(sender, _)| sender.clone()).collect(),
            progress,
            health: health.clone(),
        };
        let stop = stop.clone();
        std::thread::Builder::new().name("membership".to_owned()).spawn(move || {
            if let Err(error) = membership::run(&membership, &stop) {
                tracing::error!(%error, "cannot join the group");
                membership.health.not_ready("group", error.to_string());
            }
        })?
    };
    tracing::info!(pipeline = name, instance, %admin, "processor runs");
    Ok(Running { admin, health, lanes, membership, stop, drain_timeout: pipeline.drain_timeout.0 })
}

impl Running {
    /// Whether a thread has ended that should not: the process is to be started anew.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.membership.is_finished() || self.lanes.iter().any(|(_, thread)| thread.is_finished())
    }

    /// Makes a last checkpoint in each lane and ends. True if all was done within the drain time.
    #[must_use]
    pub fn stop(self) -> bool {
        let deadline = Instant::now() + self.drain_timeout;
        // Lanes first, while their tickets are valid; then the group is left alone: static membership keeps
        // the partitions for the restart.
        for (sender, _) in &self.lanes {
            let _ = sender.send(Command::Stop);
        }
        let mut all = true;
        for (_, thread) in self.lanes {
            all &= join_until(thread, deadline);
        }
        self.stop.store(true, Ordering::Release);
        all & join_until(self.membership, deadline + Duration::from_secs(1))
    }
}

fn join_until(thread: JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    thread.join().is_ok()
}

/// The topics that a pipeline needs: the log, its own, and where it asks the poller for what is missing.
#[must_use]
pub fn topics_of(config: &Config, name: &str, pipeline: &PipelineConfig) -> Vec<topics::Topic> {
    let mut all = vec![topics::event_log(config)];
    all.extend(topics::of_pipeline(config, name, pipeline));
    let mut taken = config.sources.iter().filter(|(source, _)| pipeline.takes(source));
    if taken.any(|(_, source)| source.asks_for_missing()) {
        let requests = |topic: &topics::Topic| topic.name == shared::poll::requests_topic(&config.log.topic);
        all.extend(topics::of_polling(config).into_iter().filter(requests));
    }
    all
}

/// Creates or checks topics. Waits for Kafka, saying so once.
///
/// # Errors
/// A topic is not as it must be, or `stop` was set.
pub async fn wait_for_topics(
    config: &Config,
    wanted: &[topics::Topic],
    health: &Health,
    stop: &AtomicBool,
) -> Result<(), StartError> {
    let mut said = false;
    let mut backoff = ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(250))
        .with_max_delay(Duration::from_secs(10))
        .without_max_times()
        .with_jitter()
        .build();
    loop {
        match topics::ensure(&config.kafka, wanted).await {
            Ok(()) => break,
            Err(error) if error.is_transient() => {
                health.not_ready("kafka", error.to_string());
                if !said {
                    tracing::error!(%error, servers = config.kafka.bootstrap_servers, "waiting for Kafka");
                    said = true;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if stop.load(Ordering::Acquire) {
            return Err(StartError::Stopped);
        }
        tokio::time::sleep(backoff.next().unwrap_or(Duration::from_secs(10))).await;
    }
    if said {
        tracing::info!("Kafka is reachable");
    }
    health.ready("kafka");
    Ok(())
}

/// The id of the Kafka cluster.
///
/// # Errors
/// The cluster does not answer.
pub async fn cluster_id(config: &Config) -> Result<String, StartError> {
    let client: BaseConsumer = shared::kafka::consumer(&config.kafka, "hookline", "hookline")
        .create()
        .map_err(|e| StartError::Kafka(e.to_string()))?;
    let asked =
        tokio::task::spawn_blocking(move || client.client().fetch_cluster_id(Duration::from_secs(30))).await;
    asked.ok().flatten().ok_or_else(|| StartError::Kafka("the cluster does not tell its id".to_owned()))
}

/// The instance's name: configured, else the host's.
///
/// # Errors
/// There is neither.
pub fn instance(name: &str, pipeline: &PipelineConfig) -> Result<String, StartError> {
    let host = || std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    pipeline.instance.clone().or_else(host).ok_or_else(|| StartError::Instance(name.to_owned()))
}

/// Names and settings of a lane's clients.
#[must_use]
pub fn kafka_context(config: &Config, name: &str, instance: &str, lane: u32) -> KafkaContext {
    KafkaContext {
        config: config.kafka.clone(),
        group: group_name(name),
        client_id: format!("hookline-{name}-{instance}-{lane}"),
        topic: config.log.topic.clone(),
        journal: topics::journal_name(name),
        snapshots: topics::snapshots_name(name),
        dead_letters: topics::dead_letters_name(name),
        pipeline: name.to_owned(),
        transactional_id: format!("{name}-{instance}-{lane}"),
        log_record_bytes_max: topics::log_record_bytes_max(config.ingest.body_limit),
    }
}

fn lane_config(config: &Config, name: &str, pipeline: &PipelineConfig, instance: &str) -> LaneConfig {
    let batch = pipeline.batch();
    LaneConfig {
        pipeline: name.to_owned(),
        instance: instance.to_owned(),
        fold: FoldConfig::of(config, pipeline),
        checkpoint_interval: pipeline.checkpoint.interval.0.max(batch.interval.0),
        checkpoint_records_max: usize::try_from(pipeline.checkpoint.events_max).unwrap_or(usize::MAX),
        batch: BatchLimits {
            waits: !batch.interval.0.is_zero(),
            effects_max: usize::try_from(batch.events_max).unwrap_or(usize::MAX),
            bytes_max: batch.bytes_max.as_len(),
        },
        snapshot_after: pipeline.checkpoint.snapshot_after.0,
        snapshot_chunk_bytes: crate::snapshot::CHUNK_BYTES,
        ids_in_memory_max: pipeline.fold.ids_in_memory_max as usize,
        outputs: pipeline.sink.kafka().cloned(),
        names: Names {
            pipeline: name.to_owned(),
            group: group_name(name),
            topic: config.log.topic.clone(),
            dead_letters: topics::dead_letters_name(name),
            sink: match (pipeline.sink.kafka(), pipeline.sink.database()) {
                (Some(sink), _) => SinkNames::Topic(sink.topic.clone()),
                (None, Some((system, operation))) => SinkNames::Database { system, operation },
                (None, None) => SinkNames::None,
            },
        },
    }
}

/// The consumer group of a pipeline.
fn group_name(pipeline: &str) -> String {
    format!("hookline.{pipeline}")
}
