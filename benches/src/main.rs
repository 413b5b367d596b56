//! `bench`: measures the built programs on a real Kafka, checks that what they did was right, and prints the
//! figures. Called by `benches/run`, which has prepared the servers and programs.
//!
//! The last line of each benchmark is one JSON object; `--json` writes the same object to a file. A figure is
//! printed only after the check of what was done; where that fails, the exit code is not 0.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measuring program: what it prints is its output, and a panic is its way to fail"
)]

mod broker;
mod flamegraph;
mod ingest;
mod instructions;
mod machine;
mod micro;
mod outcome;
mod peers;
mod poll;
mod processor;
mod sender;
mod sinks;
mod soak;
mod stats;
mod usage;
mod visible;
mod webhook;
mod workload;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use serde_json::Value;

/// Measures Hookline's programs. Run it by `benches/run`.
#[derive(Parser)]
#[command(name = "benches/run")]
struct Cli {
    #[command(subcommand)]
    bench: Bench,
    /// Also writes the JSON object of the last line to this file.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Bench {
    /// Requests per second of `ingest serve`: HMAC, acks=all, keep-alive connections.
    Ingest(ingest::Options),
    /// A server that answers 200 and does nothing, which `ingest --peers` measures.
    #[command(hide = true)]
    NoOp(peers::receivers::NoOp),
    /// A receiver by axum and rdkafka's own futures, which `ingest --peers axum` measures.
    #[command(hide = true)]
    AxumReceiver(peers::axum_receiver::Options),
    /// Events per second of `processor run`, from a filled log to a sink; with --peer, against another program.
    Processor(processor::Options),
    /// From the append of an event until its row or record is visible, at a steady rate.
    Latency(processor::latency::Options),
    /// From a webhook over HTTP until its record or row is visible, at steady rates.
    EndToEnd(processor::end_to_end::Options),
    /// From `kill -9` until a processor with much state goes on, with its disk and without.
    Restart(processor::restart::Options),
    /// Events per second that sinks take, against their databases' own bulk ways.
    Sinks(sinks::Options),
    /// Records per second of `ingest poll`, against the same requests without the append.
    Poll(poll::Options),
    /// Both for hours at a steady rate, with restarts: what grows?
    Soak(soak::Options),
    /// Nanoseconds of the smallest pieces: signature, extraction, codec, fold, checkpoint.
    Micro(micro::Options),
    /// Instructions of the same pieces, against those that are kept.
    Instructions(instructions::Options),
    /// How the cost of an event grows: with entities, ids, partitions, held events, instances.
    Scaling(processor::scaling::Options),
    /// Where a program's time goes, as an SVG.
    Flamegraph(flamegraph::Options),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let machine = machine::Machine::this();
    println!("machine: {machine}");
    let mut figures = match &cli.bench {
        Bench::Ingest(options) => serde_json::to_value(ingest::run(options)?)?,
        Bench::NoOp(options) => return peers::receivers::no_op(options),
        Bench::AxumReceiver(options) => return peers::axum_receiver::serve(options),
        Bench::Processor(options) => match options.peer {
            None => serde_json::to_value(processor::run(options)?)?,
            Some(peer) => serde_json::to_value(processor::side_by_side::run(peer, options)?)?,
        },
        Bench::Latency(options) => serde_json::to_value(processor::latency::run(options)?)?,
        Bench::EndToEnd(options) => serde_json::to_value(processor::end_to_end::run(options)?)?,
        Bench::Restart(options) => serde_json::to_value(processor::restart::run(options)?)?,
        Bench::Sinks(options) => serde_json::to_value(sinks::run(options)?)?,
        Bench::Poll(options) => serde_json::to_value(poll::run(options)?)?,
        Bench::Soak(options) => serde_json::to_value(soak::run(options)?)?,
        Bench::Micro(options) => serde_json::to_value(micro::run(options)?)?,
        Bench::Instructions(options) => serde_json::to_value(instructions::run(options)?)?,
        Bench::Scaling(options) => serde_json::to_value(processor::scaling::run(options)?)?,
        Bench::Flamegraph(options) => serde_json::to_value(flamegraph::run(options)?)?,
    };
    if let Value::Object(fields) = &mut figures {
        fields.insert("machine".to_owned(), serde_json::to_value(machine)?);
    }
    let line = figures.to_string();
    if let Some(file) = &cli.json {
        fs::write(file, format!("{line}\n"))
            .with_context(|| format!("{} cannot be written", file.display()))?;
    }
    println!("{line}");
    Ok(())
}
