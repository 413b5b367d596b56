//! Events per second that a sink takes, against the same rows written by the database's own bulk way, in turn.
//!
//! The sink side is the shipped sink, called as a lane that is behind calls it: batches of so many events as
//! `batch.events_max` allows, each with its fence in a durable transaction. The bulk side reads back what the sink
//! wrote, and writes it into fresh tables of the same making, in one go: rows, indexes and durability are the same. One
//! connection each.

mod mongodb;
mod mysql;
mod postgres;
mod sqlite;

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use processor::fold::{Action, Effect};
use processor::frame::Frame;
use processor::position::{Digest, Epoch, Fence, Position};
use processor::sink::{self, Batch, Context};
use rdkafka::message::Headers as _;
use serde::Serialize;
use shared::config::{BatchConfig, SinkConfig};

use crate::stats::Spread;
use crate::webhook;
use crate::workload::{Plan, Workload};

/// A sink's settings, but for the connection string itself.
const UNREAD_URL: &str = r#"url = "env:UNREAD""#;
const EPOCH: Epoch = Epoch { lineage: 1, claim: 1 };

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// The sinks; without any, all but mongodb: its stand-in reads every document for each one that it writes.
    #[arg(value_enum)]
    sinks: Vec<Name>,
    /// Events in a run.
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Bytes of a body.
    #[arg(long, default_value_t = 500)]
    body: usize,
    /// Entities.
    #[arg(long, default_value_t = 10_000)]
    entities: u32,
    /// Events in a batch. Default: the sink's own `batch.events_max`.
    #[arg(long)]
    batch: Option<u32>,
    /// Runs of each side.
    #[arg(long, default_value_t = 3)]
    runs: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
enum Name {
    Postgres,
    Mysql,
    Mongodb,
    Sqlite,
}

/// A database server, or a directory with files.
trait Database {
    /// The bulk way, for people.
    fn bulk_way(&self) -> &'static str;
    /// A sink in a new, empty place; the later calls are about the last one.
    fn fresh(&mut self) -> anyhow::Result<SinkConfig>;
    /// Reads the rows of hookline_events and hookline_entities, and writes them into empty tables of the same making;
    /// returns how many there are of events, and what the writing took.
    fn bulk(&mut self) -> anyhow::Result<(u64, Duration)>;
}

#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    events: u64,
    body_bytes: usize,
    sinks: Vec<Measured>,
}

#[derive(Serialize)]
struct Measured {
    sink: Name,
    /// Events in one transaction.
    batch: u32,
    /// Of the sink's rate to the bulk way's, run by run.
    ratio: Spread,
    events_per_s: Spread,
    bulk: &'static str,
    bulk_per_s: Spread,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    ensure!(
        options.runs > 0 && options.events > 0 && options.batch != Some(0),
        "--runs, --events and --batch must be above 0"
    );
    let effects = effects(options);
    let usual = [Name::Postgres, Name::Mysql, Name::Sqlite];
    let names = if options.sinks.is_empty() { &usual[..] } else { &options.sinks };
    let mut sinks = Vec::new();
    for name in names {
        let mut database: Box<dyn Database> = match name {
            Name::Postgres => Box::new(postgres::Place::start()),
            Name::Mysql => Box::new(mysql::Place::start()?),
            Name::Mongodb => Box::new(mongodb::Place::start()?),
            Name::Sqlite => Box::new(sqlite::Place::start()),
        };
        let measured = measure(*name, database.as_mut(), &effects, options)?;
        println!(
            "{name:?}: {:.0} events/s, {} {:.0} rows/s: {:.2} of it",
            measured.events_per_s.median, measured.bulk, measured.bulk_per_s.median, measured.ratio.median
        );
        sinks.push(measured);
    }
    Ok(Figures { name: "sinks", events: options.events, body_bytes: options.body, sinks })
}

fn measure(
    name: Name,
    database: &mut dyn Database,
    effects: &[Effect],
    options: &Options,
) -> anyhow::Result<Measured> {
    let (mut own, mut bulk, mut used) = (Vec::new(), Vec::new(), 0);
    // The first run of both warms the server up.
    for run in 0..=options.runs {
        let config = database.fresh()?;
        let batch = options.batch.unwrap_or(BatchConfig::of(&config).events_max);
        let took = deliver(&config, effects, batch)?;
        used = batch;
        let (rows, bulk_took) = database.bulk()?;
        ensure!(rows == effects.len() as u64, "{name:?}: {rows} rows of {} events", effects.len());
        println!(
            "{name:?}, run {run}: sink {:.2} s, bulk {:.2} s",
            took.as_secs_f64(),
            bulk_took.as_secs_f64()
        );
        if run > 0 {
            own.push(effects.len() as f64 / took.as_secs_f64());
            bulk.push(effects.len() as f64 / bulk_took.as_secs_f64());
        }
    }
    Ok(Measured {
        sink: name,
        batch: used,
        ratio: Spread::of(own.iter().zip(&bulk).map(|(own, bulk)| own / bulk)),
        events_per_s: Spread::of(own),
        bulk: database.bulk_way(),
        bulk_per_s: Spread::of(bulk),
    })
}

fn deliver(config: &SinkConfig, effects: &[Effect], batch: u32) -> anyhow::Result<Duration> {
    let context = Context {
        pipeline: "bench".into(),
        cluster_id: "bench".into(),
        topic: "hookline.events".into(),
        ..Context::default()
    };
    let mut sink = sink::open(config, &context)?.expect("a sink with a fence");
    let mut fence = sink.claim(0, EPOCH)?;
    let started = Instant::now();
    for effects in effects.chunks(batch as usize) {
        let last = effects.last().expect("a chunk has one");
        let to = Fence { position: last.position, digest: Digest::of(b"bench"), epoch: EPOCH };
        sink.deliver(&Batch { partition: 0, from: fence, to, effects })?;
        fence = to;
    }
    Ok(started.elapsed())
}

/// What the fold makes of the workload: each event once, in order.
fn effects(options: &Options) -> Vec<Effect> {
    let plan = Plan { entities: options.entities, duplicate_percent: 0, disorder_percent: 0, delay_max: 1 };
    let mut workload = Workload::new(plan);
    let mut effects = Vec::new();
    while let Some(item) = workload.next_of(options.events) {
        let offset = i64::try_from(effects.len()).expect("an offset");
        let (event, body) = (webhook::event(item), webhook::body(item, options.body));
        let headers = event.to_headers();
        let headers = headers.iter().map(|h| (h.key, h.value));
        let frame = Frame::pack(Some(event.key(&body).as_bytes()), headers, Some(&body));
        effects.push(Effect {
            position: Position { offset, ordinal: 0 },
            event_offset: offset,
            event_time_ms: event.received_at_ms,
            cause: frame.clone(),
            frame,
            action: Action::Apply,
        });
    }
    effects
}
