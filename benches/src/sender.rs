//! Sends webhooks over HTTP at their times, whether those before were answered or not: an open loop, in which a receiver
//! that is slow for a moment makes all late that come meanwhile, as it does to real senders.

use std::collections::BTreeMap;
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

use crate::visible::Times;
use crate::webhook::{self, KIND, SOURCE};
use crate::workload::{Item, Plan, Workload};

/// Requests under way, and so connections. Others wait, and their time runs.
const IN_FLIGHT_MAX: usize = 512;
/// A webhook that is not answered in this time fails the benchmark.
const PATIENCE: Duration = Duration::from_secs(30);

/// When each webhook was to be sent, and when it was answered with 200.
pub(crate) struct Sent {
    pub(crate) scheduled: Times,
    pub(crate) answered: Times,
}

/// Sends `webhooks` different ones, so many a second, each signed and of `body_bytes` bytes.
pub(crate) fn send(to: SocketAddr, rate: u32, webhooks: u32, body_bytes: usize) -> anyhow::Result<Sent> {
    let plan = Plan { entities: 10_000, duplicate_percent: 0, disorder_percent: 0, delay_max: 1 };
    let mut workload = Workload::new(plan);
    // One thread answers and another one keeps the time, since tokio's timers count in milliseconds.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let room = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
    let url = format!("http://{to}/webhooks/{SOURCE}");
    let (results, answers) = channel::<(Item, anyhow::Result<Instant>)>();
    let mut scheduled = Times::new();
    let started = Instant::now();
    for n in 0..webhooks {
        let at = started + Duration::from_secs(1) * n / rate;
        let item = workload.next_item().context("an endless stream")?;
        let request = request(&url, item, body_bytes)?;
        thread::sleep(at.saturating_duration_since(Instant::now()));
        scheduled.insert(item, at);
        let (client, room, results) = (client.clone(), Arc::clone(&room), results.clone());
        runtime.spawn(async move {
            let answered = async {
                let _place = room.acquire().await?;
                answer(&client, request).await
            };
            let answered = tokio::time::timeout(PATIENCE, answered).await;
            let answered = answered.context("no answer in time").and_then(|answered| answered);
            // The receiver outlives all senders but after a failure.
            let _ = results.send((item, answered));
        });
    }
    drop(results);
    let answered: BTreeMap<Item, Instant> =
        answers.iter().map(|(item, at)| Ok((item, at?))).collect::<anyhow::Result<_>>()?;
    ensure!(answered.len() == scheduled.len(), "{} of {webhooks} webhooks were answered", answered.len());
    Ok(Sent { scheduled, answered })
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
