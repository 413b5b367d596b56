//! `ingest`: how many signed webhooks a second `ingest serve` takes in, each acknowledged by Kafka before its
//! 200; `wrk` sends them over keep-alive connections, each of which waits for its answer. With `--peers`, receivers that
//! others would write do the same in turn, and a server that does nothing shows what HTTP alone costs.
//!
//! After the runs the books are compared: every 200 that wrk saw is a record of the receiver's topic, which has no more
//! than what was under way when a run was cut off.

mod half_rate;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;
use hookline_tests::child;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::end_offsets;
use hookline_tests::process::Program;
use hookline_tests::{ports, setup};
use serde::{Deserialize, Serialize};
use tempfile::TempDir;

use self::half_rate::HalfRate;
use crate::broker;
use crate::peers::receivers::{Peer, Receiver};
use crate::stats::{Spread, round};
use crate::usage::{self, Usage};
use crate::webhook::{self, KIND, SECRET, SECRET_ENV, SOURCE, source_config};
use crate::workload::{Plan, Workload};

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
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds of one run.
    #[arg(long, default_value_t = 8)]
    seconds: u32,
    /// Seconds of one run of each number of connections that is not counted: Kafka's compiler is at work so long,
    /// and a request costs it more than twice as much meanwhile.
    #[arg(long, default_value_t = 15)]
    warm_up: u32,
    /// Receivers that others would write, and with them a server that does nothing, measured in turn with ingest.
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<Peer>,
    /// A property of ingest's Kafka client, as KEY=VALUE; may be given several times.
    #[arg(long, value_parser = kafka_property)]
    kafka_property: Vec<(String, String)>,
}

fn kafka_property(text: &str) -> Result<(String, String), &'static str> {
    let (key, value) = text.split_once('=').ok_or("it is not KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    /// Of ingest, the median at the highest number of connections.
    requests_per_second: f64,
    /// The most resident memory of ingest in the whole benchmark.
    peak_memory_mb: f64,
    body_bytes: usize,
    #[serde(flatten)]
    against: Option<Against>,
    sides: Vec<Side>,
}

/// What ingest is to the others, at the highest number of connections, run by run.
#[derive(Serialize)]
struct Against {
    /// Of ingest's rate to the no-op's.
    ratio: Spread,
    /// Of ingest's rate to that of the fastest peer.
    ratio_best_peer: Spread,
    best_peer: &'static str,
}

/// What one receiver did.
#[derive(Serialize)]
struct Side {
    name: &'static str,
    /// Answers that were not 200, and connections that failed: must be 0.
    errors: u64,
    /// 200s that wrk saw, in all runs.
    answered: u64,
    /// Records in its topic; none for the no-op.
    logged: Option<u64>,
    cpu_seconds: f64,
    peak_memory_mb: f64,
    connections: Vec<AtConnections>,
    /// In an open loop; only where there are peers, and not of the no-op, whose half is more than the sender can do.
    at_half_rate: Option<HalfRate>,
    /// The counted ones of the closed loops.
    runs: Vec<Run>,
}

/// The counted runs of one number of connections.
#[derive(Serialize)]
struct AtConnections {
    connections: u32,
    requests_per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    cpu_us_per_request: Spread,
}

/// One run.
#[derive(Clone, Serialize)]
struct Run {
    connections: u32,
    requests_per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_us_per_request: f64,
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
    let kafka_pid = usage::child("java").context("Kafka's process")?;
    let scratch = setup::scratch("bench");
    let webhooks = write_webhooks(scratch.path())?;
    let receivers = start(&kafka, &scratch, options)?;

    let mut all: Vec<Vec<Run>> = receivers.iter().map(|_| Vec::new()).collect();
    for n in 0..=options.runs {
        let seconds = if n == 0 { options.warm_up } else { options.seconds };
        for connections in &options.connections {
            for (receiver, runs) in receivers.iter().zip(&mut all) {
                let run = send(receiver, &webhooks, *connections, seconds, kafka_pid)?;
                let what = if n == 0 { "warm-up".to_owned() } else { format!("run {n}") };
                println!(
                    "{what}, {}, {connections} connections: {:.0} requests/s, p50 {:.2} ms, p99 {:.2} ms; CPU a request: its own {:.1} µs, Kafka {:.1} µs; {} errors",
                    receiver.name,
                    run.requests_per_second,
                    run.p50_ms,
                    run.p99_ms,
                    run.cpu_us_per_request,
                    run.kafka_cpu_us_per_request,
                    run.errors
                );
                runs.push(run);
            }
        }
    }
    let mut halves: Vec<Option<HalfRate>> = receivers.iter().map(|_| None).collect();
    if !options.peers.is_empty() {
        let rate = |(receiver, runs): (&Receiver, &Vec<Run>)| {
            let most = Spread::of(rates(counted(runs, options)));
            receiver.topic.is_some().then_some((most.median / 2.0) as u32)
        };
        let rates: Vec<Option<u32>> = receivers.iter().zip(&all).map(rate).collect();
        halves = half_rate::measure(&receivers, &rates, (options.runs, options.seconds), BODY_BYTES)?;
    }
    let sides = receivers.into_iter().zip(all).zip(halves);
    let sides = sides.map(|((receiver, runs), half)| Side::of(receiver, &runs, half, &kafka, options));
    let sides: Vec<Side> = sides.collect::<anyhow::Result<_>>()?;
    sides.iter().for_each(Side::print);
    let against = if options.peers.is_empty() { None } else { Some(Against::of(&sides)?) };
    let ingest = &sides[0];
    Ok(Figures {
        name: "ingest",
        requests_per_second: Spread::of(rates(&ingest.runs)).median,
        peak_memory_mb: ingest.peak_memory_mb,
        body_bytes: BODY_BYTES,
        against,
        sides,
    })
}

/// Starts ingest; and, if there are peers, the no-op and these.
fn start(kafka: &Kafka, scratch: &TempDir, options: &Options) -> anyhow::Result<Vec<Receiver>> {
    let peers = &options.peers;
    let (listen, admin) = (ports::free_address(), ports::free_address());
    let config = scratch.path().join("hookline.toml");
    let properties = options.kafka_property.iter().map(|(key, value)| format!("{key:?} = {value:?}\n"));
    let text = broker::config(kafka, PARTITIONS)
        + &format!("[kafka.properties]\n{}\n", properties.collect::<String>())
        + &format!("[ingest]\nlisten = \"{listen}\"\nadmin_listen = \"{admin}\"\n\n")
        + &source_config("30s");
    fs::write(&config, &text)?;
    println!("configuration:\n{text}");
    let program = Program::ingest(&config, admin).env(SECRET_ENV, SECRET).started();
    let mut receivers = vec![Receiver::ingest(program, listen, broker::LOG)];
    if !peers.is_empty() {
        receivers.push(Receiver::no_op(scratch)?);
    }
    for peer in peers {
        receivers.push(Receiver::peer(*peer, kafka, PARTITIONS, scratch)?);
    }
    Ok(receivers)
}

impl Side {
    /// After all runs: ends it and compares the books.
    fn of(
        receiver: Receiver,
        runs: &[Run],
        at_half_rate: Option<HalfRate>,
        kafka: &Kafka,
        options: &Options,
    ) -> anyhow::Result<Self> {
        let usage = receiver.usage()?;
        let (name, topic) = (receiver.name, receiver.topic.clone());
        receiver.end()?;
        let records =
            |topic: &String| end_offsets(&kafka.bootstrap(), topic).values().sum::<i64>().unsigned_abs();
        let logged = topic.as_ref().map(records);
        let half = at_half_rate.as_ref().map_or(0, |half| half.answered);
        let (answered, errors) = check_books(name, runs, half, logged)?;
        let runs = counted(runs, options).to_vec();
        Ok(Self {
            name,
            errors,
            answered,
            logged,
            cpu_seconds: round(usage.cpu_seconds),
            peak_memory_mb: usage::mb(usage.peak_bytes),
            connections: options.connections.iter().map(|number| AtConnections::of(*number, &runs)).collect(),
            at_half_rate,
            runs,
        })
    }

    fn print(&self) {
        for at in &self.connections {
            let rate = at.requests_per_second;
            println!(
                "{}, {} connections: {:.0} requests/s (from {:.0} to {:.0}), p50 {:.2} ms, p99 {:.2} ms, {:.1} µs of CPU each; at most {} MB",
                self.name,
                at.connections,
                rate.median,
                rate.min,
                rate.max,
                at.p50_ms.median,
                at.p99_ms.median,
                at.cpu_us_per_request.median,
                self.peak_memory_mb
            );
        }
    }
}

/// Without the first of each number of connections, which was the warm-up.
fn counted<'a>(runs: &'a [Run], options: &Options) -> &'a [Run] {
    &runs[options.connections.len()..]
}

/// The rate of each run at the highest number of connections.
fn rates(runs: &[Run]) -> Vec<f64> {
    let most = runs.iter().map(|run| run.connections).max();
    let runs = runs.iter().filter(|run| Some(run.connections) == most);
    runs.map(|run| run.requests_per_second).collect()
}

impl Against {
    /// Of ingest, the no-op and the peers, in this order.
    fn of(sides: &[Side]) -> anyhow::Result<Self> {
        let [ingest, no_op, peers @ ..] = sides else { anyhow::bail!("there is nothing to compare") };
        let median = |side: &Side| Spread::of(rates(&side.runs)).median;
        let best = peers.iter().max_by(|a, b| median(a).total_cmp(&median(b))).context("there is no peer")?;
        let own = rates(&ingest.runs);
        let to = |other: &Side| Spread::of(own.iter().zip(rates(&other.runs)).map(|(own, its)| own / its));
        let (ratio, ratio_best_peer) = (to(no_op), to(best));
        println!("ingest to the no-op: {}; to {}: {}", ratio.median, best.name, ratio_best_peer.median);
        Ok(Self { ratio, ratio_best_peer, best_peer: best.name })
    }
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
            cpu_us_per_request: spread(|run| run.cpu_us_per_request),
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
    receiver: &Receiver,
    webhooks: &Path,
    connections: u32,
    seconds: u32,
    kafka_pid: u32,
) -> anyhow::Result<Run> {
    let own_cpu = || anyhow::Ok(receiver.usage()?.cpu_seconds);
    let kafka_cpu = || Usage::of(kafka_pid).map(|usage| usage.cpu_seconds).context("Kafka has ended");
    let (before, kafka_before) = (own_cpu()?, kafka_cpu()?);
    let mut command: Command = child::command("wrk");
    command
        .args(["--threads", &SENDER_THREADS.to_string(), "--connections", &connections.to_string()])
        .args(["--duration", &format!("{seconds}s"), "--timeout", "10s", "--script"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("wrk.lua"))
        .arg(format!("http://{}/webhooks/{SOURCE}", receiver.listen))
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
        cpu_us_per_request: each(own_cpu()? - before),
        kafka_cpu_us_per_request: each(kafka_cpu()? - kafka_before),
        answered,
        errors: sent.errors,
    })
}

/// Every 200 is in the topic. At the end of a run wrk leaves, so each of its connections may have had one more
/// request under way, whose answer nobody read. `others` were answered besides wrk's.
fn check_books(name: &str, runs: &[Run], others: u64, logged: Option<u64>) -> anyhow::Result<(u64, u64)> {
    let answered: u64 = runs.iter().map(|run| run.answered).sum::<u64>() + others;
    let errors: u64 = runs.iter().map(|run| run.errors).sum();
    let under_way: u64 = runs.iter().map(|run| u64::from(run.connections)).sum();
    ensure!(errors == 0, "{name}: {errors} requests failed");
    let Some(logged) = logged else { return Ok((answered, errors)) };
    println!("{name}: {answered} requests were answered with 200; its topic has {logged} records");
    ensure!(logged >= answered, "{name}: {} answers of 200 are not in its topic", answered - logged);
    ensure!(logged <= answered + under_way, "{name}: the topic has more than was sent: {logged}");
    Ok((answered, errors))
}
