//! `latency`: from the append of an event until its row or record is visible, at a steady rate; with `--peer`, also of
//! another program, in turn.
//!
//! An open loop: each event has its time on a schedule, and waits from then on, whether the sender was late or not. Each
//! run has a log of its own.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use hookline_tests::kafka::{Kafka, client_config};
use hookline_tests::postgres::Postgres;
use hookline_tests::setup;
use rdkafka::ClientContext;
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use serde::Serialize;

use super::side_by_side::Peer;
use super::{OutcomeAt, Pipeline, Sink};
use crate::broker;
use crate::peers::streams::{Setting, Streams};
use crate::stats::{Percentiles, PercentilesSpread, Spread};
use crate::usage::{self, Usage};
use crate::visible::{Times, Watch, between, since};
use crate::webhook::{self, source_config};
use crate::workload::{Plan, Workload};

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Events a second.
    #[arg(long, default_value_t = 1_000)]
    rate: u32,
    /// Seconds that are counted.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Seconds before, which are not.
    #[arg(long, default_value_t = 10)]
    warm_up: u32,
    /// Where the events go: postgres or kafka.
    #[arg(long, value_enum, default_value_t = Sink::Postgres)]
    sink: Sink,
    /// The processor's `checkpoint.interval`, such as 20ms; its default where left out.
    #[arg(long)]
    checkpoint_interval: Option<String>,
    /// Partitions of the log.
    #[arg(long, default_value_t = 8)]
    partitions: u32,
    /// Bytes of each body.
    #[arg(long, default_value_t = 500)]
    body: usize,
    /// Runs.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// A program that is measured in turn with the processor.
    #[arg(long, value_enum)]
    peer: Option<Peer>,
    /// Each setting of the peer that is tried, instead of the quickest alone.
    #[arg(long, requires = "peer")]
    all_settings: bool,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    sink: Sink,
    rate: u32,
    checkpoint_interval: Option<String>,
    partitions: u32,
    body_bytes: usize,
    hookline: Side,
    #[serde(flatten)]
    against: Option<Against>,
}

/// The peer's part.
#[derive(Serialize)]
struct Against {
    peer: Peer,
    /// Of Hookline's median latency to that of the peer's best setting, run by run: below 1, Hookline is quicker.
    ratio: Spread,
    ratio_p99: Spread,
    best: Setting,
    peers: Vec<Side>,
}

/// The runs of one side.
#[derive(Serialize)]
struct Side {
    /// None is Hookline.
    setting: Option<Setting>,
    #[serde(flatten)]
    latency: PercentilesSpread,
    runs: Vec<Run>,
}

/// One run.
#[derive(Serialize)]
struct Run {
    #[serde(flatten)]
    latency: Percentiles,
    cpu_seconds: f64,
    peak_memory_mb: f64,
}

/// Counts events that the log has not taken.
#[derive(Default)]
struct Failed(AtomicU64);

impl ClientContext for Failed {}

impl ProducerContext for Failed {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    ensure!(options.sink != Sink::Sqlite, "--sink is postgres or kafka");
    ensure!(options.peer.is_none() || options.sink == Sink::Kafka, "--peer is measured with --sink kafka");
    ensure!(options.runs > 0, "--runs must be above 0");
    let settings = match options.peer {
        None => &[],
        Some(Peer::KafkaStreams) if options.all_settings => &Setting::QUICK[..],
        Some(Peer::KafkaStreams) => &[Setting::QUICKEST],
    };
    let kafka = broker::start();
    let postgres = (options.sink == Sink::Postgres).then(Postgres::start);
    let scratch = setup::scratch("bench");
    let mut hookline = Vec::new();
    let mut peers: Vec<Vec<Run>> = settings.iter().map(|_| Vec::new()).collect();
    for n in 1..=options.runs {
        hookline.push(of_hookline(n, options, &kafka, postgres.as_ref(), scratch.path())?);
        for (setting, runs) in settings.iter().zip(&mut peers) {
            runs.push(of_streams(n, *setting, options, &kafka, scratch.path())?);
        }
    }
    let hookline = Side::of(None, hookline);
    let peers = settings.iter().zip(peers).map(|(setting, runs)| Side::of(Some(*setting), runs));
    let against = match options.peer {
        None => None,
        Some(peer) => Some(Against::of(peer, &hookline, peers.collect())?),
    };
    Ok(Figures {
        name: if options.peer.is_some() { "latency-peer" } else { "latency" },
        sink: options.sink,
        rate: options.rate,
        checkpoint_interval: options.checkpoint_interval.clone(),
        partitions: options.partitions,
        body_bytes: options.body,
        hookline,
        against,
    })
}

fn of_hookline(
    n: u32,
    options: &Options,
    kafka: &Kafka,
    postgres: Option<&Postgres>,
    scratch: &Path,
) -> anyhow::Result<Run> {
    let log = format!("hookline.events.{n}");
    let all = super::Options {
        checkpoint_interval: options.checkpoint_interval.clone(),
        ..super::Options::of_one_run(options.sink, options.partitions, options.body)
    };
    let pipeline = Pipeline::new(n, &all, scratch, postgres);
    let text =
        broker::config_of(kafka, &log, options.partitions) + &source_config("24h") + &pipeline.table(&all);
    fs::write(&pipeline.config, &text)?;
    if n == 1 {
        println!("configuration of the first run:\n{text}");
    }
    pipeline.start_on_empty_log(options.partitions);
    let mut program = pipeline.program().started();
    let watch = match &pipeline.outcome {
        OutcomeAt::Postgres(url) => Watch::postgres(url),
        OutcomeAt::Topic(topic) => Watch::topic(&kafka.bootstrap(), topic)?,
        OutcomeAt::Sqlite(_) => unreachable!("refused above"),
    };
    let latency = measure(watch, kafka, &log, options)?;
    let usage = Usage::of(program.id()).context("the processor's figures")?;
    ensure!(program.terminate().success(), "the processor did not stop in order");
    Ok(Run::of(latency, usage, n, "hookline"))
}

fn of_streams(
    n: u32,
    setting: Setting,
    options: &Options,
    kafka: &Kafka,
    scratch: &Path,
) -> anyhow::Result<Run> {
    let name = format!("streams-{}-{}-{n}", setting.commit_interval_ms, setting.threads);
    let log = format!("log.{name}");
    let partitions = i32::try_from(options.partitions)?;
    kafka.create_topic(&log, partitions, &[("message.timestamp.type", "LogAppendTime")]);
    kafka.create_topic(&name, partitions, &[]);
    let mut app = Streams::spawn(&name, setting, &kafka.bootstrap(), (&log, &name), scratch);
    app.wait_running();
    let watch = Watch::topic(&kafka.bootstrap(), &name)?;
    let latency = measure(watch, kafka, &log, options)?;
    Ok(Run::of(latency, app.end()?, n, &setting.to_string()))
}

fn measure(watch: Watch, kafka: &Kafka, log: &str, options: &Options) -> anyhow::Result<Percentiles> {
    let (scheduled, counted_from) = send(kafka, log, options)?;
    let visible = watch.end(scheduled.len() as u64, &kafka.bootstrap(), log)?;
    between(&since(scheduled, counted_from), &visible)
}

/// Appends events at their times. Returns these, and from when on they are counted.
fn send(kafka: &Kafka, log: &str, options: &Options) -> anyhow::Result<(Times, Instant)> {
    let plan = Plan { entities: 10_000, duplicate_percent: 0, disorder_percent: 0, delay_max: 1 };
    let mut workload = Workload::new(plan);
    let mut config = client_config(&kafka.bootstrap());
    config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0");
    config.set("partitioner", "murmur2_random");
    let producer: ThreadedProducer<Failed> = config.create_with_context(Failed::default())?;
    let mut times = Times::new();
    let started = Instant::now();
    for n in 0..options.rate * (options.warm_up + options.seconds) {
        let scheduled = started + Duration::from_secs(1) * n / options.rate;
        thread::sleep(scheduled.saturating_duration_since(Instant::now()));
        let item = workload.next_item().context("an endless stream")?;
        let (event, body) = (webhook::event(item), webhook::body(item, options.body));
        let key = event.key(&body);
        let record = BaseRecord::to(log).key(key.as_str()).payload(&body).headers(event.to_headers());
        producer.send(record).map_err(|(error, _)| error).context("an event is not appended")?;
        times.insert(item, scheduled);
    }
    producer.flush(Duration::from_secs(30))?;
    let failed = producer.context().0.load(Ordering::Relaxed);
    ensure!(failed == 0, "{failed} events are not in the log");
    Ok((times, started + Duration::from_secs(options.warm_up.into())))
}

impl Run {
    fn of(latency: Percentiles, usage: Usage, n: u32, who: &str) -> Self {
        let (cpu_seconds, peak_memory_mb) = (usage.cpu_seconds, usage::mb(usage.peak_bytes));
        println!("run {n}, {who}: {latency}; {cpu_seconds} s of CPU, {peak_memory_mb} MB");
        Self { latency, cpu_seconds, peak_memory_mb }
    }
}

impl Side {
    fn of(setting: Option<Setting>, runs: Vec<Run>) -> Self {
        let latencies: Vec<Percentiles> = runs.iter().map(|run| run.latency).collect();
        let latency = PercentilesSpread::of(&latencies);
        println!("{}: {latency}", setting.map_or_else(|| "hookline".to_owned(), |s| s.to_string()));
        Self { setting, latency, runs }
    }
}

impl Against {
    fn of(peer: Peer, hookline: &Side, peers: Vec<Side>) -> anyhow::Result<Self> {
        let best = peers
            .iter()
            .min_by(|a, b| a.latency.p50_ms.median.total_cmp(&b.latency.p50_ms.median))
            .context("no setting")?;
        let ratio = |value: fn(&Percentiles) -> f64| {
            let runs = hookline.runs.iter().zip(&best.runs);
            Spread::of(runs.map(|(own, its)| value(&own.latency) / value(&its.latency)))
        };
        let (ratio, ratio_p99) = (ratio(|run| run.p50_ms), ratio(|run| run.p99_ms));
        let best = best.setting.context("a setting")?;
        println!("hookline to {best}: {} times the median latency", ratio.median);
        Ok(Self { peer, ratio, ratio_p99, best, peers })
    }
}
