//! `processor`: how many events a second the processor takes from a filled log to its sink, exactly once and
//! in order, and what it needs for that.
//!
//! Each run is a pipeline of its own on the same log, so every run does the same work. The pipelines are
//! started once on the empty log and stopped again: so the configuration of each one's fold is in the log
//! before the first event. The first run warms the broker up and is not counted.

pub(crate) mod end_to_end;
mod fill;
mod instances;
pub(crate) mod latency;
pub(crate) mod restart;
pub(crate) mod scaling;
pub(crate) mod side_by_side;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::metrics::Metrics;
use hookline_tests::postgres::Postgres;
use hookline_tests::process::Program;
use hookline_tests::{ports, setup, wait};
use serde::Serialize;

use self::side_by_side::Peer;
use crate::broker;
use crate::outcome::{self, Outcome};
use crate::stats::{Spread, round};
use crate::usage::{self, Usage};
use crate::webhook::{SECRET, SECRET_ENV, source_config};
use crate::workload::Workload;

/// Events by verdict, as of the last checkpoint.
const EVENTS: &str = "hookline_processor_events_total";
/// How often `/metrics` is asked.
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Between these parts of the events the rate is taken: the broker's and the client's first buffers are full
/// before, and no partition has run dry until after.
const STEADY: (f64, f64) = (0.1, 0.9);
/// The environment variable with the database's address.
const URL_ENV: &str = "HOOKLINE_BENCH_URL";
/// Without any new checkpoint for so long, the run has failed.
const STALL: Duration = Duration::from_secs(60);

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Events in the log, repeats included.
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Entities, all equally likely.
    #[arg(long, default_value_t = 10_000)]
    entities: u32,
    /// Partitions of the log.
    #[arg(long, default_value_t = 8)]
    partitions: u32,
    /// The processor's lanes.
    #[arg(long, default_value_t = 2)]
    lanes: u32,
    /// The processor's `checkpoint.interval`, such as 20ms; its default where left out.
    #[arg(long)]
    checkpoint_interval: Option<String>,
    /// Where the events go.
    #[arg(long, value_enum, default_value_t = Sink::Kafka)]
    sink: Sink,
    /// Bytes of each body.
    #[arg(long, default_value_t = 500)]
    body: usize,
    /// Counted runs, after one that is not.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// A program that is measured on the same log in turn with the processor.
    #[arg(long, value_enum)]
    pub(crate) peer: Option<Peer>,
    /// Each setting of the peer that is tried, instead of the fastest alone.
    #[arg(long, requires = "peer")]
    all_settings: bool,
}

impl Options {
    /// For one run whose events are not appended beforehand.
    fn of_one_run(sink: Sink, partitions: u32, body: usize) -> Self {
        Self {
            events: 0,
            entities: 10_000,
            partitions,
            lanes: 2,
            checkpoint_interval: None,
            sink,
            body,
            runs: 1,
            peer: None,
            all_settings: false,
        }
    }
}

/// The kinds of sinks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Sink {
    Kafka,
    Postgres,
    Sqlite,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    /// The median of the runs, each between a tenth and nine tenths of its events.
    events_per_second: f64,
    /// The most resident memory of all runs.
    peak_memory_mb: f64,
    sink: Sink,
    events: u64,
    distinct: u64,
    duplicates: u64,
    disordered: u64,
    entities: u32,
    partitions: u32,
    lanes: u32,
    body_bytes: usize,
    spread: Spread,
    cpu_us_per_event: Spread,
    runs: Vec<Run>,
}

/// One run.
#[derive(Serialize)]
struct Run {
    events_per_second: f64,
    /// From the first checkpoint with events that was seen to the last.
    events_per_second_whole: f64,
    peak_memory_mb: f64,
    /// Of all the processor's threads, between a tenth and nine tenths.
    cpu_us_per_event: f64,
    /// From its start to its end, the start of the process and the claim included.
    cpu_seconds: f64,
    /// From the start of the process to the first checkpoint with events that was seen.
    first_checkpoint_seconds: f64,
    samples: usize,
}

/// What `/metrics` said at one time.
#[derive(Clone, Copy, Debug)]
struct Sample {
    at: f64,
    counted: f64,
    cpu_seconds: f64,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    run_on(options, fill::workload(options))
}

/// The same with a workload that is not the options' own.
fn run_on(options: &Options, workload: Workload) -> anyhow::Result<Figures> {
    let kafka = broker::start();
    let postgres = (options.sink == Sink::Postgres).then(Postgres::start);
    let scratch = setup::scratch("bench");
    let pipelines: Vec<Pipeline> =
        (0..=options.runs).map(|n| Pipeline::new(n, options, scratch.path(), postgres.as_ref())).collect();
    for (before, pipeline) in pipelines.iter().enumerate() {
        // No gap may expire: the events were appended long before they are folded.
        let text =
            broker::config(&kafka, options.partitions) + &source_config("24h") + &pipeline.table(options);
        fs::write(&pipeline.config, &text)?;
        if before == 0 {
            println!("configuration of the first run:\n{text}");
        }
        pipeline.start_on_empty_log(options.partitions * (u32::try_from(before)? + 1));
    }
    let workload = fill::append(&kafka, options, workload)?;

    let mut runs = Vec::new();
    for (n, pipeline) in pipelines.iter().enumerate() {
        let run = pipeline.measure(&kafka, &workload, options)?;
        let what = if n == 0 { "warm-up".to_owned() } else { format!("run {n}") };
        println!(
            "{what}: {:.0} events/s steady, {:.0} over all, {:.2} µs CPU an event, {:.1} MB, first checkpoint after {:.2} s; outputs are right",
            run.events_per_second,
            run.events_per_second_whole,
            run.cpu_us_per_event,
            run.peak_memory_mb,
            run.first_checkpoint_seconds
        );
        if n > 0 {
            runs.push(run);
        }
    }
    let spread = Spread::of(runs.iter().map(|run| run.events_per_second));
    println!("{:.0} events/s (from {:.0} to {:.0})", spread.median, spread.min, spread.max);
    Ok(Figures {
        name: "processor",
        events_per_second: spread.median,
        peak_memory_mb: runs.iter().map(|run| run.peak_memory_mb).fold(0.0, f64::max),
        sink: options.sink,
        events: options.events,
        distinct: workload.distinct(),
        duplicates: workload.duplicates(),
        disordered: workload.disordered(),
        entities: options.entities,
        partitions: options.partitions,
        lanes: options.lanes,
        body_bytes: options.body,
        spread,
        cpu_us_per_event: Spread::of(runs.iter().map(|run| run.cpu_us_per_event)),
        runs,
    })
}

/// One pipeline: one run.
struct Pipeline {
    name: String,
    /// Its configuration file, beside which its local state stands.
    config: PathBuf,
    admin: SocketAddr,
    outcome: OutcomeAt,
}

/// Where its outputs are found.
enum OutcomeAt {
    Topic(String),
    Postgres(String),
    Sqlite(PathBuf),
}

impl Pipeline {
    fn new(n: u32, options: &Options, scratch: &Path, postgres: Option<&Postgres>) -> Self {
        let name = format!("run{n}");
        let outcome = match (options.sink, postgres) {
            (Sink::Postgres, Some(server)) => OutcomeAt::Postgres(server.create_database()),
            (Sink::Sqlite, _) => OutcomeAt::Sqlite(scratch.join(format!("{name}.db"))),
            (Sink::Kafka | Sink::Postgres, _) => OutcomeAt::Topic(format!("applied.{name}")),
        };
        Self { config: scratch.join(format!("{name}.toml")), name, admin: ports::free_address(), outcome }
    }

    fn table(&self, options: &Options) -> String {
        let sink = match &self.outcome {
            OutcomeAt::Topic(topic) => format!("sink.kafka = {{ topic = \"{topic}\" }}"),
            OutcomeAt::Postgres(_) => format!("sink.postgres = {{ url = \"env:{URL_ENV}\" }}"),
            OutcomeAt::Sqlite(path) => format!("sink.sqlite = {{ path = \"{}\" }}", path.display()),
        };
        let interval = |interval| format!("checkpoint.interval = \"{interval}\"\n");
        let checkpoint = options.checkpoint_interval.as_ref().map(interval).unwrap_or_default();
        format!(
            "[pipelines.{}]\nstate_dir = \"{}\"\ninstance = \"bench\"\nlanes = {}\nadmin_listen = \"{}\"\n{checkpoint}{sink}\n",
            self.name,
            self.config.with_extension("state").display(),
            options.lanes,
            self.admin
        )
    }

    fn program(&self) -> Program {
        let program = Program::processor(&self.name, &self.config, self.admin).env(SECRET_ENV, SECRET);
        match &self.outcome {
            OutcomeAt::Postgres(url) => program.env(URL_ENV, url),
            OutcomeAt::Topic(_) | OutcomeAt::Sqlite(_) => program,
        }
    }

    /// Until its fold's configuration is in the log, and behind a checkpoint.
    fn start_on_empty_log(&self, records: u32) {
        let mut program = self.program().started();
        wait::until("a checkpoint behind the fold's configuration", STALL, || {
            let seen = program.metrics().sum("hookline_processor_control_records_total", &[]);
            (seen >= Some(f64::from(records))).then_some(())
        });
        assert!(program.terminate().success(), "{} did not stop in order", self.name);
    }

    fn measure(&self, kafka: &Kafka, workload: &Workload, options: &Options) -> anyhow::Result<Run> {
        let started = Instant::now();
        let mut program = self.program();
        program.spawn();
        program.wait_ready();
        let pid = usage::child("processor").expect("the processor's process");
        let samples = sample(self.admin, pid, started, options.events as f64)?;
        let usage = Usage::of(pid).expect("the processor's figures");
        let metrics = program.metrics();
        ensure!(program.terminate().success(), "the processor did not stop in order");
        check_verdicts(&metrics, workload, options.events)?;
        let found = match &self.outcome {
            OutcomeAt::Topic(topic) => outcome::of_topic(&kafka.bootstrap(), topic, options.entities)?,
            OutcomeAt::Postgres(url) => outcome::of_postgres(url),
            OutcomeAt::Sqlite(path) => outcome::of_sqlite(path)?,
        };
        let expected = Outcome { rows: workload.distinct(), out_of_order: 0 };
        ensure!(found == expected, "the sink has {found:?}, but should have {expected:?}");
        Ok(Run::of(&samples, usage))
    }
}

impl Run {
    #[allow(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    fn of(samples: &[Sample], usage: Usage) -> Self {
        let total = samples.last().map_or(0.0, |s| s.counted);
        let at = |part: f64| *samples.iter().find(|s| s.counted >= part * total).expect("a sample");
        let (from, to) = (at(STEADY.0), at(STEADY.1));
        let (first, last) = (samples[0], samples[samples.len() - 1]);
        let rate = |a: Sample, b: Sample| (b.counted - a.counted) / (b.at - a.at).max(1e-9);
        Self {
            events_per_second: rate(from, to).round(),
            events_per_second_whole: rate(first, last).round(),
            peak_memory_mb: usage::mb(usage.peak_bytes),
            cpu_us_per_event: round(
                (to.cpu_seconds - from.cpu_seconds) * 1e6 / (to.counted - from.counted).max(1.0),
            ),
            cpu_seconds: round(usage.cpu_seconds),
            first_checkpoint_seconds: round(first.at),
            samples: samples.len(),
        }
    }
}

/// Asks `/metrics` until all events are in a checkpoint. The samples begin with the first one that has events.
fn sample(admin: SocketAddr, pid: u32, started: Instant, events: f64) -> anyhow::Result<Vec<Sample>> {
    let client = Client::new();
    let url = format!("http://{admin}/metrics");
    let mut samples: Vec<Sample> = Vec::new();
    let mut moved = Instant::now();
    loop {
        let asked = Instant::now();
        let text = client.get(&url)?.text();
        // Held events are not counted until they come to an end.
        let lines: String = text.split_inclusive('\n').filter(|line| line.starts_with(EVENTS)).collect();
        let counted = Metrics::parse(&lines).sum(EVENTS, &[]).unwrap_or(0.0);
        let cpu_seconds = Usage::of(pid).map_or(0.0, |usage| usage.cpu_seconds);
        if counted > samples.last().map_or(0.0, |s| s.counted) {
            moved = Instant::now();
        }
        if counted > 0.0 {
            samples.push(Sample { at: started.elapsed().as_secs_f64(), counted, cpu_seconds });
        }
        if counted >= events {
            return Ok(samples);
        }
        let seen = samples.last();
        ensure!(moved.elapsed() < STALL, "no checkpoint for {} s; the last: {seen:?}", STALL.as_secs());
        thread::sleep(POLL_INTERVAL.saturating_sub(asked.elapsed()));
    }
}

/// The verdicts are known by the workload's construction.
fn check_verdicts(metrics: &Metrics, workload: &Workload, events: u64) -> anyhow::Result<()> {
    let found = |verdict: &str| metrics.sum(EVENTS, &[("verdict", verdict)]).unwrap_or(0.0) as u64;
    let expected = [
        ("applied", workload.distinct()),
        ("duplicate", workload.duplicates()),
        ("stale", 0),
        ("dead_lettered", 0),
        ("ignored", 0),
    ];
    for (verdict, count) in expected {
        let found = found(verdict);
        ensure!(found == count, "{found} of {events} events are {verdict}, but should be {count}");
    }
    let held = metrics.sum("hookline_processor_held_events", &[]);
    ensure!(
        held == Some(workload.held() as f64),
        "{held:?} events are held, but should be {}",
        workload.held()
    );
    Ok(())
}
