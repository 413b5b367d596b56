//! Sends webhooks over HTTP at their times, whether those before were answered or not: an open loop, in which a receiver
//! that is slow for a moment makes all late that come meanwhile, as it does to real senders.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use axum::body::Bytes;
use axum::http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::sync::Semaphore;

use crate::stats::Percentiles;
use crate::visible::{Times, between};
use crate::webhook::{self, KIND, SOURCE};
use crate::workload::{Item, Plan, Workload};

/// Requests under way, and so connections. Others wait, and their time runs.
const IN_FLIGHT_MAX: usize = 512;
/// A webhook that is not answered in this time fails the benchmark.
const PATIENCE: Duration = Duration::from_secs(30);

/// Webhooks of one call, which are all in memory before the first is sent: 1 KB each, and more.
const WEBHOOKS_MAX: u32 = 1_000_000;
/// Later than this in the middle, the sender has not kept its rate, and latencies are its own.
const LATE_MS_MAX: f64 = 1.0;

/// When each webhook was to be sent, when the sender turned to it, and when it was answered with 200.
pub(crate) struct Sent {
    pub(crate) scheduled: Times,
    pub(crate) begun: Times,
    pub(crate) answered: Times,
}

/// How late the sender was itself; says so where it was too late for other figures to mean anything.
pub(crate) fn lateness(scheduled: &Times, begun: &Times) -> anyhow::Result<Percentiles> {
    let late = between(scheduled, begun)?;
    if late.p50_ms > LATE_MS_MAX {
        println!("NOTE: the sender could not keep this rate here; the latencies are its own: late by {late}");
    }
    Ok(late)
}

/// Sends `webhooks` different ones, so many a second, each signed and of `body_bytes` bytes.
pub(crate) fn send(to: SocketAddr, rate: u32, webhooks: u32, body_bytes: usize) -> anyhow::Result<Sent> {
    ensure!(
        rate > 0 && webhooks <= WEBHOOKS_MAX,
        "{webhooks} webhooks at {rate}/s: at most {WEBHOOKS_MAX}, at 1/s or more; ask for fewer seconds"
    );
    let plan = Plan { entities: 10_000, duplicate_percent: 0, disorder_percent: 0, delay_max: 1 };
    let mut workload = Workload::new(plan);
    // One thread answers and another one keeps the time, since tokio's timers count in milliseconds.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let url = format!("http://{to}/webhooks/{SOURCE}");
    let requests = (0..webhooks).map(|_| {
        let item = workload.next_item().context("an endless stream")?;
        Ok((item, request(&url, item, body_bytes)?))
    });
    let requests: Vec<_> = requests.collect::<anyhow::Result<_>>()?;
    let (results, answers) = channel::<(Item, Instant, anyhow::Result<Instant>)>();
    let mut scheduled = Times::new();
    let started = Instant::now();
    for (n, (item, request)) in (0..).zip(requests) {
        let at = started + Duration::from_secs(1) * n / rate;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        scheduled.insert(item, at);
        let (client, room, results) = (client.clone(), Arc::clone(&room), results.clone());
        runtime.spawn(async move {
            let begun = Instant::now();
            let answered = async {
                let _place = room.acquire().await?;
                answer(&client, request).await
            };
            let answered = tokio::time::timeout(PATIENCE, answered).await;
            let answered = answered.context("no answer in time").and_then(|answered| answered);
            // The receiver outlives all senders but after a failure.
            let _ = results.send((item, begun, answered));
        });
    }
    drop(results);
    let (mut begun, mut answered) = (Times::new(), Times::new());
    for (item, turned_to, answer) in answers {
        begun.insert(item, turned_to);
        answered.insert(item, answer?);
    }
    ensure!(answered.len() == scheduled.len(), "{} of {webhooks} webhooks were answered", answered.len());
    Ok(Sent { scheduled, begun, answered })
}

/// Sends it, and says when the answer's end was there.
async fn answer(
    client: &Client<HttpConnector, Full<Bytes>>,
    request: Request<Full<Bytes>>,
) -> anyhow::Result<Instant> {
    let answer = client.request(request).await?;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    ensure!(status == 200, "{status}: {}", String::from_utf8_lossy(&body));
    Ok(Instant::now())
}

fn request(url: &str, item: Item, body_bytes: usize) -> anyhow::Result<Request<Full<Bytes>>> {
    let body = webhook::body(item, body_bytes);
    let request = Request::post(url)
        .header("content-type", "application/json")
        .header("user-agent", "GitHub-Hookshot/0000000")
        .header("x-github-delivery", webhook::id(item))
        .header("x-github-event", KIND)
        .header("x-hub-signature-256", webhook::signature(&body));
    Ok(request.body(Full::new(body.into()))?)
}
