//! `ingest`: how many signed webhooks a second `ingest serve` takes in, each acknowledged by Kafka before its
//! 200; `wrk` sends them over keep-alive connections, each of which waits for its answer.
//!
//! After the runs the books are compared: every 200 that wrk saw is a record of the log, and the log has no
//! more than what was under way when a run was cut off.

use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;
use hookline_tests::child;
use hookline_tests::kafka_read::end_offsets;
use hookline_tests::process::Program;
use hookline_tests::{ports, setup};
use serde::{Deserialize, Serialize};

use crate::broker;
use crate::stats::{Spread, round};
use crate::usage::{self, Usage};
use crate::webhook::{self, KIND, SECRET, SECRET_ENV, SOURCE, source_config};
use crate::workload::{Plan, Workload};

const TOPIC: &str = "hookline.events";
const PARTITIONS: u32 = 8;
const BODY_BYTES: usize = 500;
/// Different webhooks; sent round and round.
const WEBHOOKS: u64 = 20_000;
const ENTITIES: u32 = 10_000;
/// wrk's own threads.
const SENDER_THREADS: u32 = 2;
/// Before wrk's figures in its output.
const MARK: &str = "figures ";

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Connections; each number is measured for itself.
    #[arg(long, value_delimiter = ',', default_values_t = [64, 256])]
    connections: Vec<u32>,
    /// Counted runs of each number of connections, in turn.
    #[arg(long, default_value_t = 3)]
    runs: u32,
    /// Seconds of one run.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Seconds of one run of each number of connections that is not counted: Kafka's compiler is at work so long,
    /// and a request costs it more than twice as much meanwhile.
    #[arg(long, default_value_t = 15)]
    warm_up: u32,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    /// The median at the highest number of connections.
    requests_per_second: f64,
    /// The most resident memory of ingest in the whole benchmark.
    peak_memory_mb: f64,
    /// Answers that were not 200, and connections that failed: must be 0.
    errors: u64,
    /// 200s that wrk saw, in all runs.
    answered: u64,
    /// Records in the log.
    logged: u64,
    ingest_cpu_seconds: f64,
    body_bytes: usize,
    connections: Vec<AtConnections>,
    runs: Vec<Run>,
}

/// The counted runs of one number of connections.
#[derive(Serialize)]
struct AtConnections {
    connections: u32,
    requests_per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    ingest_cpu_us_per_request: Spread,
}

/// One run.
#[derive(Clone, Serialize)]
struct Run {
    connections: u32,
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    ingest_cpu_us_per_request: f64,
    kafka_cpu_us_per_request: f64,
    #[serde(skip)]
    answered: u64,
    #[serde(skip)]
    errors: u64,
}

/// What `wrk.lua` prints.
#[derive(Deserialize)]
struct Sent {
    requests: u64,
    duration_us: f64,
    p50_us: f64,
    p99_us: f64,
    errors: u64,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    let kafka = broker::start();
    let scratch = setup::scratch("bench");
    let (listen, admin) = (ports::free_address(), ports::free_address());
    let config = scratch.path().join("hookline.toml");
    let text = broker::config(&kafka, PARTITIONS)
        + &format!("[ingest]\nlisten = \"{listen}\"\nadmin_listen = \"{admin}\"\n\n")
        + &source_config("30s");
    fs::write(&config, &text)?;
    println!("configuration:\n{text}");
    let webhooks = write_webhooks(scratch.path())?;
    let mut ingest = Program::ingest(&config, admin).env(SECRET_ENV, SECRET).started();
    let pid = usage::child("ingest").context("ingest's process")?;

    let (mut runs, mut all): (Vec<Run>, Vec<Run>) = (Vec::new(), Vec::new());
    for n in 0..=options.runs {
        let seconds = if n == 0 { options.warm_up } else { options.seconds };
        for connections in &options.connections {
            let run = send(listen, &webhooks, *connections, seconds, pid)?;
            let what = if n == 0 { "warm-up".to_owned() } else { format!("run {n}") };
            println!(
                "{what}, {connections} connections: {:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms; CPU a request: ingest {:.1} µs, Kafka {:.1} µs; {} errors",
                run.requests_per_second,
                run.p50_ms,
                run.p99_ms,
                run.ingest_cpu_us_per_request,
                run.kafka_cpu_us_per_request,
                run.errors
            );
            all.push(run.clone());
            if n > 0 {
                runs.push(run);
            }
        }
    }
    let usage = Usage::of(pid).context("ingest's figures")?;
    ensure!(ingest.terminate().success(), "ingest did not stop in order");
    let logged = end_offsets(&kafka.bootstrap(), TOPIC).values().sum::<i64>().unsigned_abs();
    let (answered, errors) = check_books(&all, logged)?;

    let connections: Vec<AtConnections> =
        options.connections.iter().map(|number| AtConnections::of(*number, &runs)).collect();
    for at in &connections {
        let rate = at.requests_per_second;
        println!(
            "{} connections: {:.0} requests/s (from {:.0} to {:.0}), p50 {:.2} ms, p99 {:.2} ms",
            at.connections, rate.median, rate.min, rate.max, at.p50_ms.median, at.p99_ms.median
        );
    }
    let most = connections.iter().max_by_key(|at| at.connections).context("--connections is empty")?;
    Ok(Figures {
        name: "ingest",
        requests_per_second: most.requests_per_second.median,
        peak_memory_mb: usage::mb(usage.peak_bytes),
        errors,
        answered,
        logged,
        ingest_cpu_seconds: round(usage.cpu_seconds),
        body_bytes: BODY_BYTES,
        connections,
        runs,
    })
}

impl AtConnections {
    fn of(connections: u32, runs: &[Run]) -> Self {
        let spread = |value: fn(&Run) -> f64| {
            Spread::of(runs.iter().filter(|run| run.connections == connections).map(value))
        };
        Self {
            connections,
            requests_per_second: spread(|run| run.requests_per_second),
            p50_ms: spread(|run| run.p50_ms),
            p99_ms: spread(|run| run.p99_ms),
            ingest_cpu_us_per_request: spread(|run| run.ingest_cpu_us_per_request),
        }
    }
}

/// The webhooks as lines for `wrk.lua`: id, signature, body.
fn write_webhooks(scratch: &Path) -> anyhow::Result<PathBuf> {
    let plan = Plan { entities: ENTITIES, duplicate_percent: 2, disorder_percent: 2, delay_max: 1_000 };
    let mut workload = Workload::new(plan);
    let mut lines = String::new();
    while let Some(item) = workload.next_of(WEBHOOKS) {
        let body = webhook::body(item, BODY_BYTES);
        let (id, signature) = (webhook::id(item), webhook::signature(&body));
        writeln!(lines, "{id}\t{signature}\t{}", String::from_utf8_lossy(&body))?;
    }
    let file = scratch.join("webhooks.tsv");
    fs::write(&file, lines)?;
    Ok(file)
}

/// One run of wrk.
fn send(
    listen: SocketAddr,
    webhooks: &Path,
    connections: u32,
    seconds: u32,
    pid: u32,
) -> anyhow::Result<Run> {
    let kafka_pid = usage::child("java").context("Kafka's process")?;
    let cpu = |pid: u32| Usage::of(pid).map(|usage| usage.cpu_seconds).context("a process has ended");
    let (before, kafka_before) = (cpu(pid)?, cpu(kafka_pid)?);
    let mut command: Command = child::command("wrk");
    command
        .args(["--threads", &SENDER_THREADS.to_string(), "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s"), "--timeout", "10s", "--script"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("wrk.lua"))
        .arg(format!("http://{listen}/webhooks/{SOURCE}"))
        .arg("--")
        .arg(webhooks)
        .arg(KIND);
    let output = command.output().context("wrk cannot be started (benches/run installs it)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let figures = text.lines().find_map(|line| line.strip_prefix(MARK));
    let figures =
        figures.with_context(|| format!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)))?;
    let sent: Sent = serde_json::from_str(figures)?;
    let answered = sent.requests - sent.errors.min(sent.requests);
    let each = |seconds: f64| round(seconds * 1e6 / answered.max(1) as f64);
    Ok(Run {
        connections,
        requests_per_second: (answered as f64 * 1e6 / sent.duration_us).round(),
        p50_ms: round(sent.p50_us / 1e3),
        p99_ms: round(sent.p99_us / 1e3),
        ingest_cpu_us_per_request: each(cpu(pid)? - before),
        kafka_cpu_us_per_request: each(cpu(kafka_pid)? - kafka_before),
        answered,
        errors: sent.errors,
    })
}

/// Every 200 is in the log. At the end of a run wrk leaves, so each of its connections may have had one more
/// request under way, whose answer nobody read.
fn check_books(runs: &[Run], logged: u64) -> anyhow::Result<(u64, u64)> {
    let answered: u64 = runs.iter().map(|run| run.answered).sum();
    let errors: u64 = runs.iter().map(|run| run.errors).sum();
    let under_way: u64 = runs.iter().map(|run| u64::from(run.connections)).sum();
    println!("{answered} requests were answered with 200; the log has {logged} records; {errors} errors");
    ensure!(errors == 0, "{errors} requests failed");
    ensure!(logged >= answered, "{} answers of 200 are not in the log", answered - logged);
    ensure!(logged <= answered + under_way, "the log has more than was sent: {}", logged - answered);
    Ok((answered, errors))
}
