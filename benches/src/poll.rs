//! `poll`: how many records a second `ingest poll` brings from a list into the log, against the same requests by a bare
//! loop that appends nothing, in turn.
//!
//! The provider is a server in this process that makes its pages as they are asked for; both sides ask it for each page
//! by the cursor of the one before, over one connection that is kept. The books: each record is in the log once.

use std::fmt::Write as _;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::Router;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use axum::routing::get;
use clap::Args;
use hookline_tests::kafka_read::end_offsets;
use hookline_tests::process::Program;
use hookline_tests::{ports, setup};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::broker;
use crate::stats::{Spread, round};
use crate::usage::{self, Usage};

const PARTITIONS: u32 = 8;
/// How long one list may take.
const PATIENCE: Duration = Duration::from_secs(900);
const LOOK: Duration = Duration::from_millis(20);

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Records of the list.
    #[arg(long, default_value_t = 1_000_000)]
    records: u64,
    /// Records of a page.
    #[arg(long, default_value_t = 500)]
    page: u64,
    /// Bytes of a record, about.
    #[arg(long, default_value_t = 500)]
    body: usize,
    /// Milliseconds that the provider takes for a page, besides making it.
    #[arg(long, default_value_t = 10)]
    answer_ms: u64,
    /// Runs of each side.
    #[arg(long, default_value_t = 3)]
    runs: u32,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    records: u64,
    page: u64,
    body_bytes: usize,
    answer_ms: u64,
    /// Of the poller's rate to the bare loop's, run by run.
    ratio: Spread,
    records_per_s: Spread,
    bare_per_s: Spread,
    cpu_us_per_record: Spread,
    /// The most resident memory of the poller.
    peak_memory_mb: f64,
}

/// The provider.
struct Provider {
    records: u64,
    page: u64,
    filler: String,
    answers_after: Duration,
    /// When the first page was asked for, since this was last taken.
    first: Mutex<Option<Instant>>,
}

#[derive(Deserialize)]
struct Asked {
    #[serde(default)]
    cursor: u64,
}

/// What the bare loop reads of a page.
#[derive(Deserialize)]
struct Page {
    next_cursor: Option<String>,
    data: Vec<IgnoredAny>,
}

impl Provider {
    fn page(&self, from: u64) -> String {
        self.first.lock().unwrap().get_or_insert_with(Instant::now);
        let until = (from + self.page).min(self.records);
        let mut out = String::with_capacity((self.filler.len() + 80) * self.page as usize);
        out.push_str("{\"data\":[");
        for n in from..until {
            let comma = if n > from { "," } else { "" };
            let _ = write!(out, r#"{comma}{{"id":"{n}","revision":1,"note":"{}"}}"#, self.filler);
        }
        out.push(']');
        if until < self.records {
            let _ = write!(out, r#","next_cursor":"{until}""#);
        }
        let _ = write!(out, r#","total":{}}}"#, self.records);
        out
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    ensure!(options.records > 0 && options.page > 0 && options.runs > 0, "each option must be above 0");
    let kafka = broker::start();
    let provider = Arc::new(Provider {
        records: options.records,
        page: options.page,
        filler: "x".repeat(options.body.saturating_sub(40)),
        answers_after: Duration::from_millis(options.answer_ms),
        first: Mutex::default(),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))?;
    let url = format!("http://{}", listener.local_addr()?);
    let app = Router::new().route("/records", get(answer)).with_state(Arc::clone(&provider));
    runtime.spawn(async move { axum::serve(listener, app).await });

    let (mut polled, mut bare, mut cpu, mut ratio) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut peak: f64 = 0.0;
    for n in 0..options.runs {
        let alone = bare_loop(&url, options.records)?;
        let (rate, usage) = poll(&kafka, &url, &format!("poll-{n}"), &provider)?;
        peak = peak.max(usage.peak_bytes);
        let each = round(usage.cpu_seconds * 1e6 / options.records as f64);
        println!("run {}: {rate:.0} records/s, {each} µs of CPU each; without the append {alone:.0}", n + 1);
        polled.push(rate);
        bare.push(alone);
        cpu.push(each);
        ratio.push(round(rate / alone));
    }
    Ok(Figures {
        name: "poll",
        records: options.records,
        page: options.page,
        body_bytes: options.body,
        answer_ms: options.answer_ms,
        ratio: Spread::of(ratio),
        records_per_s: Spread::of(polled),
        bare_per_s: Spread::of(bare),
        cpu_us_per_record: Spread::of(cpu),
        peak_memory_mb: usage::mb(peak),
    })
}

async fn answer(State(provider): State<Arc<Provider>>, Query(asked): Query<Asked>) -> impl IntoResponse {
    let page = provider.page(asked.cursor);
    tokio::time::sleep(provider.answers_after).await;
    ([(CONTENT_TYPE, "application/json")], page)
}

/// Asks for all pages and reads them; records a second.
fn bare_loop(url: &str, records: u64) -> anyhow::Result<f64> {
    let agent = ureq::Agent::new_with_defaults();
    let (mut cursor, mut seen, since) = (None::<String>, 0_u64, Instant::now());
    loop {
        let from = cursor.as_deref().map(|at| format!("&cursor={at}")).unwrap_or_default();
        let mut response = agent.get(format!("{url}/records?limit=500{from}")).call()?;
        let body = response.body_mut().with_config().limit(1 << 30).read_to_vec()?;
        let page: Page = serde_json::from_slice(&body)?;
        seen += page.data.len() as u64;
        match page.next_cursor {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    ensure!(seen == records, "the bare loop saw {seen} of {records} records");
    Ok(seen as f64 / since.elapsed().as_secs_f64())
}

/// Polls all into a log of its own; records a second from the first request to the last record in the log.
fn poll(
    kafka: &hookline_tests::kafka::Kafka,
    url: &str,
    topic: &str,
    provider: &Provider,
) -> anyhow::Result<(f64, Usage)> {
    let scratch = setup::scratch("bench");
    let admin = ports::free_address();
    let page = provider.page;
    let log = format!("[log]\ntopic = \"{topic}\"\n");
    let text = broker::config(kafka, PARTITIONS).replace("[log]\n", &log)
        + &format!(
            r#"[ingest]
poll_admin_listen = "{admin}"
[sources.erp]
verify.hmac = {{ header = "x-signature" }}
secrets = ["env:UNREAD"]
connection = "path"
id = "/id"
type = "/type"
entity = "/data/id"
order.version = {{ at = "/data/revision" }}
[sources.erp.connections.acme]
token = "env:TOKEN"
[sources.erp.poll]
url = "{url}"
interval = "1h"
interval_min = "1ms"
requests_per_second = 1000
[sources.erp.poll.resources.records]
path = "/records"
page_size = {{ param = "limit", value = {page} }}
next.cursor = {{ param = "cursor", at = "/next_cursor" }}
items = "/data"
total = "/total"
type = "record.found"
body = '{{"type":{{type}},"data":{{record}}}}'
"#
        );
    let config = scratch.path().join("hookline.toml");
    fs::write(&config, text)?;
    *provider.first.lock().unwrap() = None;
    let mut poller = Program::poller(&config, admin).env("TOKEN", "t0ken").started();
    let log = || end_offsets(&kafka.bootstrap(), topic).values().sum::<i64>().unsigned_abs();
    let last = wait(|| log() >= provider.records)?;
    let first = provider.first.lock().unwrap().context("nothing was asked for")?;
    let pid = usage::child("ingest").context("the poller's process")?;
    let usage = Usage::of(pid).context("the poller's figures")?;
    ensure!(poller.terminate().success(), "the poller did not stop in order");
    let logged = log();
    ensure!(logged == provider.records, "the log has {logged} records of {}", provider.records);
    Ok((provider.records as f64 / (last - first).as_secs_f64(), usage))
}

fn wait(done: impl Fn() -> bool) -> anyhow::Result<Instant> {
    let end = Instant::now() + PATIENCE;
    while !done() {
        ensure!(Instant::now() < end, "it takes longer than {} s", PATIENCE.as_secs());
        std::thread::sleep(LOOK);
    }
    Ok(Instant::now())
}
