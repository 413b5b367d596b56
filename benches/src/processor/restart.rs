//! `restart`: how long a processor with much state takes from `kill -9` until it goes on: with its local disk, and
//! with an empty one, from snapshot and journal.

use std::fs;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use clap::Args;
use hookline_tests::setup;
use serde::Serialize;

use super::{Pipeline, Sink, check_verdicts, fill, sample};
use crate::broker;
use crate::stats::Spread;
use crate::usage::{self, Usage};
use crate::webhook::source_config;

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Events in the log, repeats included: about so many ids are remembered.
    #[arg(long, default_value_t = 10_000_000)]
    pub(super) events: u64,
    /// Entities, all equally likely.
    #[arg(long, default_value_t = 1_000_000)]
    pub(super) entities: u32,
    /// Partitions of the log.
    #[arg(long, default_value_t = 8)]
    pub(super) partitions: u32,
    /// The processor's lanes.
    #[arg(long, default_value_t = 2)]
    pub(super) lanes: u32,
    /// Bytes of each body.
    #[arg(long, default_value_t = 50)]
    pub(super) body: usize,
    /// Restarts of each kind.
    #[arg(long, default_value_t = 3)]
    pub(super) runs: u32,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    /// From the start of the process to `/readyz`: every partition is claimed, and its state is there.
    pub(super) with_disk_seconds: Spread,
    pub(super) without_disk_seconds: Spread,
    /// Ids that are remembered.
    ids: f64,
    entities: u32,
    partitions: u32,
    lanes: u32,
    /// The local state on the disk.
    state_mb: f64,
    /// The most resident memory after a restart.
    pub(super) peak_memory_mb: f64,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    let all = super::Options {
        events: options.events,
        entities: options.entities,
        lanes: options.lanes,
        ..super::Options::of_one_run(Sink::Kafka, options.partitions, options.body)
    };
    let kafka = broker::start();
    let scratch = setup::scratch("bench");
    let pipeline = Pipeline::new(0, &all, scratch.path(), None);
    let text = broker::config(&kafka, options.partitions) + &source_config("24h") + &pipeline.table(&all);
    fs::write(&pipeline.config, &text)?;
    println!("configuration:\n{text}");
    pipeline.start_on_empty_log(options.partitions);
    let workload = fill::fill(&kafka, &all)?;

    let mut program = pipeline.program();
    let started = Instant::now();
    program.spawn();
    program.wait_ready();
    let pid = usage::child("processor").context("the processor's process")?;
    sample(pipeline.admin, pid, started, options.events as f64)?;
    println!("all folded after {:.1} s", started.elapsed().as_secs_f64());
    let state_dir = pipeline.config.with_extension("state");
    let state_mb = usage::mb(usage::disk_bytes(&state_dir));
    let (mut with_disk, mut without_disk) = (Vec::new(), Vec::new());
    let (mut peak_memory_mb, mut ids) = (0.0_f64, 0.0);
    for _ in 0..options.runs {
        for has_disk in [true, false] {
            program.kill();
            if !has_disk {
                fs::remove_dir_all(&state_dir)?;
            }
            let began = Instant::now();
            program.spawn();
            program.wait_ready();
            let seconds = began.elapsed().as_secs_f64();
            println!(
                "ready {seconds:.2} s after kill -9 {}",
                if has_disk { "" } else { "with an empty disk" }
            );
            if has_disk {
                with_disk.push(seconds)
            } else {
                without_disk.push(seconds)
            }
            let pid = usage::child("processor").context("the processor's process")?;
            peak_memory_mb = peak_memory_mb.max(usage::mb(Usage::of(pid).context("its figures")?.peak_bytes));
            let metrics = program.metrics();
            check_verdicts(&metrics, &workload, options.events)?;
            ids = metrics.sum("hookline_processor_remembered_ids", &[]).unwrap_or(0.0);
            ensure!(ids >= workload.distinct() as f64, "only {ids} ids are remembered");
        }
    }
    ensure!(program.terminate().success(), "the processor did not stop in order");
    Ok(Figures {
        name: "restart",
        with_disk_seconds: Spread::of(with_disk),
        without_disk_seconds: Spread::of(without_disk),
        ids,
        entities: options.entities,
        partitions: options.partitions,
        lanes: options.lanes,
        state_mb,
        peak_memory_mb,
    })
}
