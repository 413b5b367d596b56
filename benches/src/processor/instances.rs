//! Several instances of one pipeline on one log: what an event costs all of them together.
//!
//! They join the group on the empty log, each as a static member, and leave without a word. When they come back, each
//! gets the partitions that it had, so that none is moved while it is measured.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hookline_tests::kafka::Kafka;
use hookline_tests::metrics::Metrics;
use hookline_tests::process::Program;
use hookline_tests::{ports, setup, wait};

use super::scaling::Cost;
use super::{EVENTS, Options, OutcomeAt, Pipeline, STALL, STEADY, fill};
use crate::broker;
use crate::outcome::{self, Outcome};
use crate::stats::round;
use crate::usage::{self, Usage};
use crate::webhook::{SECRET, SECRET_ENV, source_config};

/// How often all are asked.
const INTERVAL: Duration = Duration::from_millis(50);

/// Events by partition and verdict. Each instance counts its partitions' from the log's start on.
type Counts = BTreeMap<(String, String), f64>;

/// Lets so many instances fold the events that the options ask for.
pub(super) fn measure(options: &Options, instances: u32) -> anyhow::Result<Cost> {
    let kafka = broker::start();
    let scratch = setup::scratch("bench");
    let mut programs = (0..instances)
        .map(|n| program(n, options, scratch.path(), &kafka))
        .collect::<anyhow::Result<Vec<Program>>>()?;
    start(&mut programs);
    wait::until("a checkpoint behind the fold's configuration", STALL, || {
        let all = programs.iter().map(Program::metrics);
        let seen: f64 = all.filter_map(|m| m.sum("hookline_processor_control_records_total", &[])).sum();
        (seen >= f64::from(options.partitions)).then_some(())
    });
    stop(&mut programs)?;
    let workload = fill::fill(&kafka, options)?;

    start(&mut programs);
    let pids = usage::children("processor");
    ensure!(pids.len() == programs.len(), "{} processes of {instances} instances", pids.len());
    let mut moved = Instant::now();
    let mut samples: Vec<(Instant, f64, f64)> = Vec::new();
    let counts = loop {
        let counts = counts(&programs);
        let counted: f64 = counts.values().sum();
        let cpu_seconds: f64 = pids.iter().filter_map(|pid| Usage::of(*pid)).map(|u| u.cpu_seconds).sum();
        if samples.last().is_none_or(|(_, before, _)| counted > *before) {
            moved = Instant::now();
            samples.push((moved, counted, cpu_seconds));
        }
        if counted >= options.events as f64 {
            break counts;
        }
        ensure!(moved.elapsed() < STALL, "no checkpoint for {} s: {counted} events", STALL.as_secs());
        thread::sleep(INTERVAL);
    };
    let peak_bytes: f64 = pids.iter().filter_map(|pid| Usage::of(*pid)).map(|u| u.peak_bytes).sum();
    stop(&mut programs)?;
    for (verdict, expected) in [("applied", workload.distinct()), ("duplicate", workload.duplicates())] {
        let found: f64 = counts.iter().filter(|((_, v), _)| v == verdict).map(|(_, count)| count).sum();
        ensure!(found == expected as f64, "{found} events are {verdict}, but should be {expected}");
    }
    let found = outcome::of_topic(&kafka.bootstrap(), "applied.run0", options.entities)?;
    let expected = Outcome { rows: workload.distinct(), out_of_order: 0 };
    ensure!(found == expected, "the sink has {found:?}, but should have {expected:?}");

    let total = options.events as f64;
    let at = |part: f64| samples.iter().find(|(_, counted, _)| *counted >= part * total).context("a sample");
    let ((from, first, before), (to, last, after)) = (at(STEADY.0)?, at(STEADY.1)?);
    Ok(Cost {
        cpu_us_per_event: round((after - before) * 1e6 / (last - first).max(1.0)),
        events_per_second: ((last - first) / (*to - *from).as_secs_f64().max(1e-9)).round(),
        peak_memory_mb: usage::mb(peak_bytes),
    })
}

/// One instance, with a state directory of its own.
fn program(n: u32, options: &Options, scratch: &Path, kafka: &Kafka) -> anyhow::Result<Program> {
    let pipeline = Pipeline {
        name: "run0".to_owned(),
        config: scratch.join(format!("instance{n}.toml")),
        admin: ports::free_address(),
        outcome: OutcomeAt::Topic("applied.run0".to_owned()),
    };
    let table = pipeline.table(options).replace("\"bench\"", &format!("\"bench{n}\""));
    fs::write(&pipeline.config, broker::config(kafka, options.partitions) + &source_config("24h") + &table)?;
    Ok(Program::processor(&pipeline.name, &pipeline.config, pipeline.admin).env(SECRET_ENV, SECRET))
}

/// All at once, so that all are there when partitions are given out.
fn start(programs: &mut [Program]) {
    programs.iter_mut().for_each(Program::spawn);
    programs.iter_mut().for_each(Program::wait_ready);
}

fn stop(programs: &mut [Program]) -> anyhow::Result<()> {
    let stopped = programs.iter_mut().all(|program| program.terminate().success());
    ensure!(stopped, "an instance did not stop in order");
    Ok(())
}

fn counts(programs: &[Program]) -> Counts {
    let mut counts = Counts::new();
    for metrics in programs.iter().map(Program::metrics) {
        for (partition, verdict, count) in of(&metrics) {
            let known = counts.entry((partition, verdict)).or_default();
            *known = count.max(*known);
        }
    }
    counts
}

fn of(metrics: &Metrics) -> impl Iterator<Item = (String, String, f64)> {
    metrics.samples().iter().filter(|sample| sample.name == EVENTS).filter_map(|sample| {
        let label = |name: &str| sample.labels.get(name).cloned();
        Some((label("partition")?, label("verdict")?, sample.value))
    })
}
