//! `soak`: ingest and processor for hours at a steady rate, with repeats, disorder and restarts. What grows?
//!
//! One thread sends at the rate, workers post until they hear 200, one thread restarts the programs, this one
//! looks at them every few seconds. At the end every accepted webhook must be applied once and in order,
//! and `processor verify` must agree.

mod chart;
mod restarts;
mod sample;
mod sender;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::end_offsets;
use hookline_tests::metrics::Metrics;
use hookline_tests::postgres::Postgres;
use hookline_tests::process::{self, Program};
use hookline_tests::{ports, setup};
use serde::Serialize;

use self::restarts::Restart;
use self::sample::{Sample, Sampler};
use self::sender::Sent;
use self::summary::Growth;
use crate::broker;
use crate::outcome::{self, Outcome};
use crate::stats::round;
use crate::webhook::{SECRET, SECRET_ENV, source_config};
use crate::workload::{Plan, Workload};

pub(crate) const PIPELINE: &str = "soak";
const TOPIC: &str = "hookline.events";
const URL_ENV: &str = "HOOKLINE_BENCH_URL";
const PARTITIONS: u32 = 8;
/// Few enough that all of them are seen during the warm-up: their number must not grow afterwards.
const ENTITIES: u32 = 10_000;
/// How long ids are remembered: short, so that as many are forgotten as are new.
const WINDOW: &str = "60s";
/// Small, so that the journal's size comes to a level within the run.
const SNAPSHOT_AFTER: &str = "1MiB";
/// Longer than any restart takes.
const GAP_WAIT: &str = "5m";
const SAMPLE_INTERVAL: Duration = Duration::from_secs(5);
/// After the last webhook, how long until all are applied.
const CATCH_UP: Duration = Duration::from_secs(300);

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// How long.
    #[arg(long, default_value_t = 30)]
    minutes: u32,
    /// Webhooks a second, repeats included.
    #[arg(long, default_value_t = 2_000)]
    rate: u32,
    /// Where the samples (CSV), the curves (SVG) and the summary (text) go.
    #[arg(long, default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/results"))]
    out: PathBuf,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    minutes: u32,
    rate: u32,
    /// 200s a second that were heard, over the whole time.
    webhooks_per_second: f64,
    /// The larger of the two programs' most resident memory.
    peak_memory_mb: f64,
    ingest_peak_memory_mb: f64,
    processor_peak_memory_mb: f64,
    /// 200s.
    accepted: u64,
    distinct: u64,
    /// Posts that failed or were answered with 503, and were repeated.
    attempts_failed: u64,
    /// Events in the log: 200s, and appends whose answer a killed ingest did not give any more.
    logged: u64,
    duplicate: u64,
    stale: u64,
    warm_up_seconds: f64,
    growth: Vec<Growth>,
    restarts: Vec<Restart>,
}

/// What runs.
struct Stand {
    kafka: Kafka,
    /// Alive as long as the stand.
    _postgres: Postgres,
    database: String,
    config: PathBuf,
    webhooks_url: String,
    processor_metrics: String,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    fs::create_dir_all(&options.out)?;
    let scratch = setup::scratch("bench");
    let (stand, ingest, processor) = Stand::start(scratch.path())?;
    let duration = Duration::from_secs(u64::from(options.minutes) * 60);
    let started = Instant::now();
    let over = Arc::new(AtomicBool::new(false));

    let sending = {
        let url = stand.webhooks_url.clone();
        let plan = Plan {
            entities: ENTITIES,
            duplicate_percent: 5,
            disorder_percent: 5,
            // Up to three seconds later.
            delay_max: options.rate * 3,
        };
        let rate = options.rate;
        thread::spawn(move || sender::send(Workload::new(plan), &url, rate, started, duration))
    };
    let restarting = {
        let over = Arc::clone(&over);
        thread::spawn(move || restarts::run(ingest, processor, started, duration, &over))
    };
    let state = scratch.path().join("state");
    let sampler = Sampler::new(started, &state, &broker::data(), &stand.processor_metrics);
    let samples = look(&sampler, &sending, started);
    let sent = sending.join().map_err(|_| anyhow::anyhow!("the sender failed, see above"))?;
    over.store(true, Ordering::Release);
    let (restarts, mut ingest, mut processor) =
        restarting.join().map_err(|_| anyhow::anyhow!("a restart failed, see above"))?;
    println!(
        "{} webhooks accepted in {:.0} s ({} different ones), {} attempts repeated; catching up",
        sent.accepted, sent.seconds, sent.distinct, sent.attempts_failed
    );
    let metrics = catch_up(&processor, &sent)?;
    let (duplicate, stale, logged) = stand.check(&metrics, &sent)?;
    ensure!(ingest.terminate().success(), "ingest did not stop in order");
    ensure!(processor.terminate().success(), "the processor did not stop in order");

    let warm_up = summary::warm_up(duration);
    let growth = summary::growth(&samples, &restarts, warm_up);
    let text = summary::text(options, &sent, &growth, &restarts, warm_up);
    println!("{text}");
    fs::write(options.out.join("soak.txt"), &text)?;
    fs::write(options.out.join("soak.csv"), sample::csv(&samples))?;
    chart::draw(&options.out.join("soak.svg"), &samples, &restarts)?;
    let peak =
        |of: fn(&Sample) -> Option<f64>| crate::usage::mb(samples.iter().filter_map(of).fold(0.0, f64::max));
    let ingest_peak = peak(|s| s.ingest.map(|usage| usage.peak_bytes));
    let processor_peak = peak(|s| s.processor.map(|usage| usage.peak_bytes));
    Ok(Figures {
        name: "soak",
        minutes: options.minutes,
        rate: options.rate,
        webhooks_per_second: round(sent.accepted as f64 / sent.seconds),
        peak_memory_mb: ingest_peak.max(processor_peak),
        ingest_peak_memory_mb: ingest_peak,
        processor_peak_memory_mb: processor_peak,
        accepted: sent.accepted,
        distinct: sent.distinct,
        attempts_failed: sent.attempts_failed,
        logged,
        duplicate,
        stale,
        warm_up_seconds: warm_up.as_secs_f64(),
        growth,
        restarts,
    })
}

/// Takes samples until the sender has ended.
fn look(sampler: &Sampler, sending: &thread::JoinHandle<Sent>, started: Instant) -> Vec<Sample> {
    let mut samples = Vec::new();
    let mut next = started + SAMPLE_INTERVAL;
    let mut said = started;
    while !sending.is_finished() {
        thread::sleep(next.saturating_duration_since(Instant::now()).min(Duration::from_millis(200)));
        if Instant::now() < next {
            continue;
        }
        next += SAMPLE_INTERVAL;
        let sample = sampler.take();
        if said.elapsed() >= Duration::from_secs(60) {
            said = Instant::now();
            println!("{}", sample.line());
        }
        samples.push(sample);
    }
    samples
}

impl Stand {
    fn start(scratch: &Path) -> anyhow::Result<(Self, Program, Program)> {
        let kafka = broker::start();
        let postgres = Postgres::start();
        let database = postgres.create_database();
        let (listen, ingest_admin) = (ports::free_address(), ports::free_address());
        let processor_admin = ports::free_address();
        let config = scratch.join("hookline.toml");
        let text = broker::config(&kafka, PARTITIONS)
            + &format!("[ingest]\nlisten = \"{listen}\"\nadmin_listen = \"{ingest_admin}\"\n\n")
            + &source_config(GAP_WAIT)
            + &format!(
                "[pipelines.{PIPELINE}]\nstate_dir = \"{}\"\ninstance = \"bench\"\n\
                 admin_listen = \"{processor_admin}\"\nfold.window = \"{WINDOW}\"\ncheckpoint.snapshot_after = \"{SNAPSHOT_AFTER}\"\n\
                 sink.postgres = {{ url = \"env:{URL_ENV}\" }}\n",
                scratch.join("state").display()
            );
        fs::write(&config, &text)?;
        println!("configuration:\n{text}");
        // The processor first: its fold's configuration is then in the log before the first event.
        let env = |program: Program| program.env(SECRET_ENV, SECRET).env(URL_ENV, &database);
        let processor = env(Program::processor(PIPELINE, &config, processor_admin)).started();
        let ingest = env(Program::ingest(&config, ingest_admin)).started();
        let stand = Self {
            kafka,
            _postgres: postgres,
            config,
            webhooks_url: format!("http://{listen}/webhooks/{}", crate::webhook::SOURCE),
            processor_metrics: format!("http://{processor_admin}/metrics"),
            database,
        };
        Ok((stand, ingest, processor))
    }

    /// Every accepted webhook is applied once, in its order; the rest of the log are repeats. Returns how
    /// many of these there were, as duplicate and as stale, and how many events the log has.
    fn check(&self, metrics: &Metrics, sent: &Sent) -> anyhow::Result<(u64, u64, u64)> {
        let found = outcome::of_postgres(&self.database);
        let expected = Outcome { rows: sent.distinct, out_of_order: 0 };
        ensure!(found == expected, "PostgreSQL has {found:?}, but should have {expected:?}");
        let count = |name: &str, labels: &[(&str, &str)]| metrics.sum(name, labels).unwrap_or(0.0) as u64;
        let verdict = |verdict| count("hookline_processor_events_total", &[("verdict", verdict)]);
        let (duplicate, stale, dead) = (verdict("duplicate"), verdict("stale"), verdict("dead_lettered"));
        let controls = count("hookline_processor_control_records_total", &[]);
        let records = end_offsets(&self.kafka.bootstrap(), TOPIC).values().sum::<i64>().unsigned_abs();
        let logged = records - controls;
        println!(
            "the log has {logged} events: {} applied, {duplicate} duplicates, {stale} stale, {dead} dead letters",
            found.rows
        );
        ensure!(dead == 0, "{dead} events are dead letters");
        ensure!(logged >= sent.accepted, "{} accepted webhooks are not in the log", sent.accepted - logged);
        ensure!(
            logged == found.rows + duplicate + stale,
            "the log has {logged} events, the verdicts are {}",
            found.rows + duplicate + stale
        );
        let config = self.config.display().to_string();
        let args = ["verify", "--config", &config, "--pipeline", PIPELINE, "--rate", "10000000"];
        let verified = process::run("processor", &args, &[(SECRET_ENV, SECRET), (URL_ENV, &self.database)]);
        println!("{}", String::from_utf8_lossy(&verified.stdout));
        let error = String::from_utf8_lossy(&verified.stderr);
        ensure!(verified.status.success(), "processor verify does not agree: {error}");
        Ok((duplicate, stale, logged))
    }
}

/// Waits until a checkpoint has all that was accepted, and nothing is held or behind.
fn catch_up(processor: &Program, sent: &Sent) -> anyhow::Result<Metrics> {
    let applied = [("verdict", "applied")];
    let seen = hookline_tests::wait::within(CATCH_UP, || {
        let metrics = processor.metrics();
        let applied = metrics.sum("hookline_processor_events_total", &applied).unwrap_or(0.0);
        let lag = metrics.sum("hookline_processor_lag_records", &[]);
        thread::sleep(Duration::from_millis(200));
        (applied >= sent.distinct as f64 && lag == Some(0.0)).then_some(metrics)
    });
    seen.with_context(|| {
        let metrics = processor.metrics();
        let lag = metrics.sum("hookline_processor_lag_records", &[]);
        let found = metrics.sum("hookline_processor_events_total", &applied);
        format!("{found:?} of {} are applied after {} s; lag {lag:?}", sent.distinct, CATCH_UP.as_secs())
    })
}
