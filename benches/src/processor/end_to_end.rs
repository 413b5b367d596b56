//! `end-to-end`: from a webhook over HTTP until its record or row is visible, through `ingest serve`, Kafka and
//! `processor run`, at steady rates.
//!
//! An open loop, as `latency` has it. Each run has a log, an ingest and a pipeline of its own.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use clap::Args;
use hookline_tests::kafka::Kafka;
use hookline_tests::postgres::Postgres;
use hookline_tests::process::Program;
use hookline_tests::{ports, setup};
use serde::Serialize;
use tempfile::TempDir;

use super::{OutcomeAt, Pipeline, Sink};
use crate::broker;
use crate::sender;
use crate::stats::{Percentiles, PercentilesSpread};
use crate::usage::{self, Usage};
use crate::visible::{Watch, between, since};
use crate::webhook::{SECRET, SECRET_ENV, source_config};

const PARTITIONS: u32 = 8;
const BODY_BYTES: usize = 500;

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Webhooks a second; each number is measured for itself.
    #[arg(long, value_delimiter = ',', default_values_t = [1_000, 5_000])]
    rates: Vec<u32>,
    /// Where the events go; each is measured for itself.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Sink::Kafka, Sink::Postgres])]
    sinks: Vec<Sink>,
    /// The processor's `checkpoint.interval`, such as 20ms; its default where left out.
    #[arg(long)]
    checkpoint_interval: Option<String>,
    /// Counted seconds of a run.
    #[arg(long, default_value_t = 30)]
    seconds: u32,
    /// Seconds before, which are not.
    #[arg(long, default_value_t = 10)]
    warm_up: u32,
    /// Runs of each rate into each sink, in turn.
    #[arg(long, default_value_t = 3)]
    runs: u32,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    partitions: u32,
    body_bytes: usize,
    cases: Vec<Case>,
}

/// One rate into one sink.
#[derive(Serialize)]
struct Case {
    sink: Sink,
    rate: u32,
    /// From when the webhook was to be sent, until it is visible.
    sent_to_visible: PercentilesSpread,
    /// From the answer of 200.
    answered_to_visible: PercentilesSpread,
    /// From when the webhook was to be sent, until the answer.
    sent_to_answered: PercentilesSpread,
    runs: Vec<Run>,
}

/// One run.
#[derive(Serialize)]
struct Run {
    sent_to_visible: Percentiles,
    answered_to_visible: Percentiles,
    sent_to_answered: Percentiles,
    /// How late the sender was itself, which is part of what is counted from its schedule.
    sender_late: Percentiles,
    ingest_cpu_seconds: f64,
    ingest_peak_memory_mb: f64,
    processor_cpu_seconds: f64,
    processor_peak_memory_mb: f64,
}

/// What all runs share.
struct Bench<'a> {
    options: &'a Options,
    kafka: Kafka,
    postgres: Option<Postgres>,
    scratch: TempDir,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    ensure!(!options.sinks.contains(&Sink::Sqlite), "--sinks are postgres and kafka");
    ensure!(options.runs > 0 && !options.rates.contains(&0), "--runs and --rates must be above 0");
    let mut cases: Vec<(Sink, u32, Vec<Run>)> = Vec::new();
    for sink in &options.sinks {
        cases.extend(options.rates.iter().map(|rate| (*sink, *rate, Vec::new())));
    }
    let kafka = broker::start();
    let postgres = options.sinks.contains(&Sink::Postgres).then(Postgres::start);
    let bench = Bench { options, kafka, postgres, scratch: setup::scratch("bench") };
    let mut n = 0;
    for round in 1..=options.runs {
        for (sink, rate, runs) in &mut cases {
            n += 1;
            let run = bench.run(n, *sink, *rate)?;
            println!("run {round}, {sink:?}, {rate}/s, sent to visible: {}", run.sent_to_visible);
            println!("  200 to visible: {}", run.answered_to_visible);
            println!("  sent to 200: {}", run.sent_to_answered);
            runs.push(run);
        }
    }
    let cases = cases.into_iter().map(|(sink, rate, runs)| Case::of(sink, rate, runs)).collect();
    Ok(Figures { name: "end-to-end", partitions: PARTITIONS, body_bytes: BODY_BYTES, cases })
}

impl Bench<'_> {
    fn run(&self, n: u32, sink: Sink, rate: u32) -> anyhow::Result<Run> {
        let log = format!("hookline.events.{n}");
        let all = super::Options {
            checkpoint_interval: self.options.checkpoint_interval.clone(),
            ..super::Options::of_one_run(sink, PARTITIONS, BODY_BYTES)
        };
        let pipeline = Pipeline::new(n, &all, self.scratch.path(), self.postgres.as_ref());
        let (listen, admin) = (ports::free_address(), ports::free_address());
        let text = broker::config_of(&self.kafka, &log, PARTITIONS)
            + &format!("[ingest]\nlisten = \"{listen}\"\nadmin_listen = \"{admin}\"\n\n")
            + &source_config("30s")
            + &pipeline.table(&all);
        fs::write(&pipeline.config, &text)?;
        if n == 1 {
            println!("configuration of the first run:\n{text}");
        }
        pipeline.start_on_empty_log(PARTITIONS);
        let mut processor = pipeline.program().started();
        let mut ingest = Program::ingest(&pipeline.config, admin).env(SECRET_ENV, SECRET).started();
        let watch = match &pipeline.outcome {
            OutcomeAt::Postgres(url) => Watch::postgres(url),
            OutcomeAt::Topic(topic) => Watch::topic(&self.kafka.bootstrap(), topic)?,
            OutcomeAt::Sqlite(_) => unreachable!("refused above"),
        };
        let Options { warm_up, seconds, .. } = *self.options;
        let sent = sender::send(listen, rate, rate * (warm_up + seconds), BODY_BYTES)?;
        let visible = watch.end(sent.scheduled.len() as u64, &self.kafka.bootstrap(), &log)?;
        let used = |program: &Program| Usage::of(program.id()).context("a program's figures");
        let (of_ingest, of_processor) = (used(&ingest)?, used(&processor)?);
        ensure!(ingest.terminate().success(), "ingest did not stop in order");
        ensure!(processor.terminate().success(), "the processor did not stop in order");

        let started = *sent.scheduled.values().min().context("nothing was sent")?;
        let scheduled = since(sent.scheduled, started + Duration::from_secs(warm_up.into()));
        let mut answered = sent.answered;
        answered.retain(|item, _| scheduled.contains_key(item));
        Ok(Run {
            sent_to_visible: between(&scheduled, &visible)?,
            answered_to_visible: between(&answered, &visible)?,
            sent_to_answered: between(&scheduled, &answered)?,
            sender_late: sender::lateness(&scheduled, &sent.begun)?,
            ingest_cpu_seconds: of_ingest.cpu_seconds,
            ingest_peak_memory_mb: usage::mb(of_ingest.peak_bytes),
            processor_cpu_seconds: of_processor.cpu_seconds,
            processor_peak_memory_mb: usage::mb(of_processor.peak_bytes),
        })
    }
}

impl Case {
    fn of(sink: Sink, rate: u32, runs: Vec<Run>) -> Self {
        let spread = |value: fn(&Run) -> Percentiles| {
            PercentilesSpread::of(&runs.iter().map(value).collect::<Vec<_>>())
        };
        let sent_to_visible = spread(|run| run.sent_to_visible);
        let answered_to_visible = spread(|run| run.answered_to_visible);
        let sent_to_answered = spread(|run| run.sent_to_answered);
        println!("{sink:?}, {rate}/s, 200 to visible: {answered_to_visible}");
        println!("{sink:?}, {rate}/s, sent to visible: {sent_to_visible}");
        Self { sink, rate, sent_to_visible, answered_to_visible, sent_to_answered, runs }
    }
}
