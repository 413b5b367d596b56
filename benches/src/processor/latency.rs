//! `latency`: from the append of an event until its row or record is visible, at a steady rate.
//!
//! An open loop: each event has its time on a schedule, and waits from then on, whether the sender was late or not. When
//! PostgreSQL's row is visible, its fence says so: both are one transaction. A topic is read `read_committed`.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use clap::Args;
use hookline_tests::kafka::{Kafka, client_config};
use hookline_tests::postgres::{Postgres, connect};
use hookline_tests::{setup, wait};
use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::{Headers as _, Message as _};
use rdkafka::producer::{BaseRecord, DeliveryResult, Producer as _, ProducerContext, ThreadedProducer};
use serde::Serialize;

use super::{OutcomeAt, Pipeline, STALL, Sink};
use crate::broker;
use crate::stats::round;
use crate::webhook::{self, source_config};
use crate::workload::{Plan, Workload};

const TOPIC: &str = "hookline.events";
/// How often PostgreSQL is asked.
const LOOK: Duration = Duration::from_micros(500);

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
    /// Partitions of the log.
    #[arg(long, default_value_t = 8)]
    partitions: u32,
    /// Bytes of each body.
    #[arg(long, default_value_t = 500)]
    body: usize,
}

#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    sink: Sink,
    rate: u32,
    events: usize,
    partitions: u32,
    p50_ms: f64,
    p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
}

/// When each offset of a partition should have been appended, or was visible.
type Times = BTreeMap<(i32, i64), Instant>;

/// Notes where each event was appended.
#[derive(Default)]
struct Appended(Mutex<Times>);

impl ClientContext for Appended {}

impl ProducerContext for Appended {
    type DeliveryOpaque = Box<Instant>;

    fn delivery(&self, result: &DeliveryResult<'_>, scheduled: Box<Instant>) {
        if let Ok(message) = result {
            let at = (message.partition(), message.offset());
            self.0.lock().expect("appended").insert(at, *scheduled);
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    ensure!(options.sink != Sink::Sqlite, "--sink is postgres or kafka");
    let all = super::Options {
        events: 0,
        entities: 10_000,
        partitions: options.partitions,
        lanes: 2,
        sink: options.sink,
        body: options.body,
        runs: 1,
        peer: None,
        all_settings: false,
    };
    let kafka = broker::start();
    let postgres = (options.sink == Sink::Postgres).then(Postgres::start);
    let scratch = setup::scratch("bench");
    let pipeline = Pipeline::new(0, &all, scratch.path(), postgres.as_ref());
    let text = broker::config(&kafka, options.partitions) + &source_config("24h") + &pipeline.table(&all);
    fs::write(&pipeline.config, &text)?;
    println!("configuration:\n{text}");
    pipeline.start_on_empty_log(options.partitions);
    let mut program = pipeline.program().started();

    let stop = Arc::new(AtomicBool::new(false));
    let watch = {
        let (stop, bootstrap) = (stop.clone(), kafka.bootstrap());
        match &pipeline.outcome {
            OutcomeAt::Postgres(url) => {
                let url = url.clone();
                thread::spawn(move || watch_postgres(&url, &stop))
            }
            OutcomeAt::Topic(topic) => {
                let topic = topic.clone();
                thread::spawn(move || watch_topic(&bootstrap, &topic, &stop))
            }
            OutcomeAt::Sqlite(_) => unreachable!("refused above"),
        }
    };
    let (appended, counted_from) = send(&kafka, options)?;
    pipeline.wait_counted(appended.len() as f64)?;
    stop.store(true, Ordering::Release);
    let visible = watch.join().expect("the watcher")?;
    ensure!(program.terminate().success(), "the processor did not stop in order");

    let mut latencies = Vec::with_capacity(appended.len());
    for (at, scheduled) in appended.range(..).filter(|(_, scheduled)| **scheduled >= counted_from) {
        // The fence may have moved past it together with later ones.
        let seen = visible.range(*at..=(at.0, i64::MAX)).next();
        let (_, seen) = seen.with_context(|| format!("the event at {at:?} never became visible"))?;
        latencies.push(seen.duration_since(*scheduled).as_secs_f64() * 1e3);
    }
    latencies.sort_by(f64::total_cmp);
    let at = |part: f64| round(latencies[((latencies.len() - 1) as f64 * part) as usize]);
    let figures = Figures {
        name: "latency",
        sink: options.sink,
        rate: options.rate,
        events: latencies.len(),
        partitions: options.partitions,
        p50_ms: at(0.5),
        p99_ms: at(0.99),
        p999_ms: at(0.999),
        max_ms: at(1.0),
    };
    println!(
        "{} events at {}/s: p50 {} ms, p99 {} ms, p99.9 {} ms, at most {} ms",
        figures.events, figures.rate, figures.p50_ms, figures.p99_ms, figures.p999_ms, figures.max_ms
    );
    Ok(figures)
}

/// Appends events at their times. Returns where they are, and from when on they are counted.
fn send(kafka: &Kafka, options: &Options) -> anyhow::Result<(Times, Instant)> {
    let plan = Plan { entities: 10_000, duplicate_percent: 0, disorder_percent: 0, delay_max: 1 };
    let mut workload = Workload::new(plan);
    let mut config = client_config(&kafka.bootstrap());
    config.set("acks", "all").set("enable.idempotence", "true").set("linger.ms", "0");
    config.set("partitioner", "murmur2_random");
    let producer: ThreadedProducer<Appended> = config.create_with_context(Appended::default())?;
    let started = Instant::now();
    let events = options.rate * (options.warm_up + options.seconds);
    for n in 0..events {
        let scheduled = started + Duration::from_secs(1) * n / options.rate;
        thread::sleep(scheduled.saturating_duration_since(Instant::now()));
        let item = workload.next_item().context("an endless stream")?;
        let (event, body) = (webhook::event(item), webhook::body(item, options.body));
        let key = event.key(&body);
        let record = BaseRecord::with_opaque_to(TOPIC, Box::new(scheduled));
        let record = record.key(key.as_str()).payload(&body).headers(event.to_headers());
        producer.send(record).map_err(|(error, _)| error).context("an event is not appended")?;
    }
    producer.flush(Duration::from_secs(30))?;
    let appended = std::mem::take(&mut *producer.context().0.lock().expect("appended"));
    ensure!(appended.len() == events as usize, "{} of {events} events are in the log", appended.len());
    Ok((appended, started + Duration::from_secs(options.warm_up.into())))
}

fn watch_postgres(url: &str, stop: &AtomicBool) -> anyhow::Result<Times> {
    let mut client = connect(url);
    let fences = client.prepare("SELECT log_partition, effect_offset FROM hookline_fence")?;
    let mut visible = Times::new();
    while !stop.load(Ordering::Acquire) {
        let rows = client.query(&fences, &[])?;
        let now = Instant::now();
        for row in rows {
            visible.entry((row.get(0), row.get(1))).or_insert(now);
        }
        thread::sleep(LOOK);
    }
    Ok(visible)
}

fn watch_topic(bootstrap: &str, topic: &str, stop: &AtomicBool) -> anyhow::Result<Times> {
    let mut config = client_config(bootstrap);
    config.set("group.id", "bench-latency").set("isolation.level", "read_committed");
    config.set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "5");
    let consumer: BaseConsumer = config.create()?;
    consumer.subscribe(&[topic])?;
    let mut visible = Times::new();
    while !stop.load(Ordering::Acquire) {
        let Some(message) = consumer.poll(Duration::from_millis(10)) else { continue };
        let message = message?;
        let now = Instant::now();
        let headers = message.headers().context("headers")?;
        let position = headers.iter().find(|header| header.key == "hookline-position");
        let position = position.and_then(|header| header.value).context("a position")?;
        let (offset, _) = std::str::from_utf8(position)?.split_once('.').context("an offset")?;
        visible.entry((message.partition(), offset.parse()?)).or_insert(now);
    }
    Ok(visible)
}

impl Pipeline {
    /// Until so many events are in checkpoints.
    fn wait_counted(&self, events: f64) -> anyhow::Result<()> {
        let client = hookline_tests::http::Client::new();
        let url = format!("http://{}/metrics", self.admin);
        wait::within(STALL, || {
            let text = client.get(&url).ok()?.text();
            let counted = hookline_tests::metrics::Metrics::parse(&text).sum(super::EVENTS, &[])?;
            (counted >= events).then_some(())
        })
        .with_context(|| format!("not all of {events} events are applied"))
    }
}
