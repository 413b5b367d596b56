//! `processor --peer kafka-streams`: how many events a second Hookline's processor and a Kafka Streams application take
//! from the same filled log to a topic, in turn.
//!
//! Both are looked at in the same way, by what `read_committed` readers could see of their outputs, and the outputs are
//! compared record by record.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use hookline_tests::kafka::Kafka;
use hookline_tests::setup;
use serde::Serialize;
use tempfile::TempDir;

use super::{Options, OutcomeAt, Pipeline, Sink, check_verdicts, fill};
use crate::broker;
use crate::peers::output::Output;
use crate::peers::progress::{Pace, Progress};
use crate::peers::streams::{Setting, Streams};
use crate::stats::{Spread, round};
use crate::usage::{self, Usage};
use crate::webhook::source_config;
use crate::workload::Workload;

/// What the processor is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Peer {
    KafkaStreams,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    peer: Peer,
    /// Of Hookline's rate to that of the peer's best setting, run by run.
    ratio: Spread,
    /// The same, over the whole of each run.
    ratio_whole: Spread,
    best: Setting,
    events: u64,
    distinct: u64,
    entities: u32,
    partitions: u32,
    body_bytes: usize,
    hookline: Side,
    peers: Vec<Side>,
}

/// The counted runs of one side.
#[derive(Serialize)]
struct Side {
    /// None is Hookline.
    setting: Option<Setting>,
    records_per_second: Spread,
    cpu_us_per_record: Spread,
    /// The most resident memory of all runs.
    peak_memory_mb: f64,
    runs: Vec<Run>,
}

/// One run.
#[derive(Serialize)]
struct Run {
    #[serde(flatten)]
    pace: Pace,
    peak_memory_mb: f64,
    /// From its start to its end.
    cpu_seconds: f64,
}

/// What all runs share.
struct Bench<'a> {
    options: &'a Options,
    kafka: Kafka,
    kafka_pid: u32,
    scratch: TempDir,
    workload: Workload,
    /// What the first run wrote, and each other one must write.
    expected: Option<Output>,
}

/// Runs the benchmark.
pub(crate) fn run(peer: Peer, options: &Options) -> anyhow::Result<Figures> {
    ensure!(options.sink == Sink::Kafka, "--peer is measured with --sink kafka");
    ensure!(options.runs > 0, "--runs must be above 0");
    let settings = if options.all_settings { &Setting::ALL[..] } else { &[Setting::FASTEST] };
    let kafka = broker::start();
    let kafka_pid = usage::child("java").context("Kafka's process")?;
    let scratch = setup::scratch("bench");
    let pipelines: Vec<Pipeline> =
        (0..=options.runs).map(|n| Pipeline::new(n, options, scratch.path(), None)).collect();
    for (before, pipeline) in pipelines.iter().enumerate() {
        // No gap may expire: the events were appended long before they are folded.
        let text =
            broker::config(&kafka, options.partitions) + &source_config("24h") + &pipeline.table(options);
        fs::write(&pipeline.config, &text)?;
        pipeline.start_on_empty_log(options.partitions * (u32::try_from(before)? + 1));
    }
    for n in 0..=options.runs {
        for setting in settings {
            kafka.create_topic(&output_of(n, *setting), i32::try_from(options.partitions)?, &[]);
        }
    }
    let workload = fill::fill(&kafka, options)?;
    let mut bench = Bench { options, kafka, kafka_pid, scratch, workload, expected: None };

    let mut hookline = Vec::new();
    let mut peers: Vec<Vec<Run>> = settings.iter().map(|_| Vec::new()).collect();
    for (n, pipeline) in (0..).zip(&pipelines) {
        let run = bench.hookline(pipeline)?;
        run.print(n, "hookline");
        hookline.extend((n > 0).then_some(run));
        for (setting, runs) in settings.iter().zip(&mut peers) {
            let run = bench.streams(n, *setting)?;
            run.print(n, &setting.to_string());
            runs.extend((n > 0).then_some(run));
        }
    }
    let hookline = Side::of(None, hookline);
    let peers: Vec<Side> =
        settings.iter().zip(peers).map(|(setting, runs)| Side::of(Some(*setting), runs)).collect();
    let best =
        peers.iter().max_by(|a, b| a.records_per_second.median.total_cmp(&b.records_per_second.median));
    let best = best.context("no setting")?;
    let ratio = |rate: fn(&Run) -> f64| {
        Spread::of(hookline.runs.iter().zip(&best.runs).map(|(own, its)| rate(own) / rate(its)))
    };
    let figures = Figures {
        name: "processor-peer",
        peer,
        ratio: ratio(|run| run.pace.records_per_second),
        ratio_whole: ratio(|run| run.pace.records_per_second_whole),
        best: best.setting.context("a setting")?,
        events: options.events,
        distinct: bench.workload.distinct(),
        entities: options.entities,
        partitions: options.partitions,
        body_bytes: options.body,
        hookline,
        peers,
    };
    for side in std::iter::once(&figures.hookline).chain(&figures.peers) {
        side.print();
    }
    let ratio = figures.ratio;
    println!(
        "hookline to {}: {} times as many (from {} to {})",
        figures.best, ratio.median, ratio.min, ratio.max
    );
    Ok(figures)
}

/// The topic that a run of the peer writes to.
fn output_of(n: u32, setting: Setting) -> String {
    format!("streams-{}-{}-{n}", setting.commit_interval_ms, setting.threads)
}

impl Bench<'_> {
    fn hookline(&mut self, pipeline: &Pipeline) -> anyhow::Result<Run> {
        let OutcomeAt::Topic(topic) = &pipeline.outcome else { unreachable!("refused above") };
        let progress = Progress::of(&self.kafka.bootstrap(), topic, self.options.partitions)?;
        let started = Instant::now();
        let mut program = pipeline.program();
        program.spawn();
        let pid = program.id();
        let looks = progress.watch(self.workload.distinct(), started, pid, self.kafka_pid)?;
        let usage = Usage::of(pid).context("the processor's figures")?;
        let metrics = program.metrics();
        ensure!(program.terminate().success(), "the processor did not stop in order");
        check_verdicts(&metrics, &self.workload, self.options.events)?;
        let output = self.read(topic)?;
        let run = Run::of(Pace::of(&looks, &output)?, usage);
        self.expected.get_or_insert(output);
        Ok(run)
    }

    fn streams(&self, n: u32, setting: Setting) -> anyhow::Result<Run> {
        let name = output_of(n, setting);
        let bootstrap = self.kafka.bootstrap();
        let progress = Progress::of(&bootstrap, &name, self.options.partitions)?;
        let started = Instant::now();
        let app = Streams::spawn(&name, setting, &bootstrap, (broker::LOG, &name), self.scratch.path());
        let looks = progress.watch(self.workload.distinct(), started, app.pid(), self.kafka_pid)?;
        let usage = app.end()?;
        let output = self.read(&name)?;
        Ok(Run::of(Pace::of(&looks, &output)?, usage))
    }

    /// What a run wrote; an error where it is not what it should be.
    fn read(&self, topic: &str) -> anyhow::Result<Output> {
        let output = Output::read(&self.kafka, topic)?;
        output.check(self.workload.distinct()).with_context(|| topic.to_owned())?;
        if let Some(expected) = &self.expected {
            expected.check_same(&output).with_context(|| topic.to_owned())?;
        }
        Ok(output)
    }
}

impl Run {
    fn of(pace: Pace, usage: Usage) -> Self {
        Self { pace, peak_memory_mb: usage::mb(usage.peak_bytes), cpu_seconds: round(usage.cpu_seconds) }
    }

    fn print(&self, n: u32, who: &str) {
        let what = if n == 0 { "warm-up".to_owned() } else { format!("run {n}") };
        let Pace {
            records_per_second,
            records_per_second_whole,
            first_records_seconds,
            cpu_us_per_record,
            kafka_cpu_us_per_record,
        } = self.pace;
        println!(
            "{what}, {who}: {records_per_second:.0} records/s steady, {records_per_second_whole:.0} over all, first \
             after {first_records_seconds} s; CPU a record: {cpu_us_per_record} µs, Kafka \
             {kafka_cpu_us_per_record} µs; {} MB; the output is right",
            self.peak_memory_mb
        );
    }
}

impl Side {
    fn of(setting: Option<Setting>, runs: Vec<Run>) -> Self {
        Self {
            setting,
            records_per_second: Spread::of(runs.iter().map(|run| run.pace.records_per_second)),
            cpu_us_per_record: Spread::of(runs.iter().map(|run| run.pace.cpu_us_per_record)),
            peak_memory_mb: runs.iter().map(|run| run.peak_memory_mb).fold(0.0, f64::max),
            runs,
        }
    }

    fn print(&self) {
        let who = self.setting.map_or_else(|| "hookline".to_owned(), |setting| setting.to_string());
        let rate = self.records_per_second;
        println!(
            "{who}: {:.0} records/s (from {:.0} to {:.0}), {} µs of CPU each, at most {} MB",
            rate.median, rate.min, rate.max, self.cpu_us_per_record.median, self.peak_memory_mb
        );
    }
}
