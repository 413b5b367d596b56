//! A receiver of webhooks as one would write it in Rust instead of Hookline's ingest: axum and rdkafka's `FutureProducer`.
//! It verifies GitHub's signature over the raw body, appends the webhook to Kafka under its entity, and answers 200 once
//! all in-sync replicas have it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use axum::serve::ListenerExt as _;
use clap::Args;
use hmac::{Hmac, KeyInit, Mac};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use serde::Deserialize;
use sha2::Sha256;
use tokio::signal::unix::{SignalKind, signal};

/// How long a record may wait for room in the producer's queue.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(10);

/// Options of the receiver.
#[derive(Args)]
pub(crate) struct Options {
    /// Where webhooks are received.
    #[arg(long)]
    listen: SocketAddr,
    /// Kafka's brokers.
    #[arg(long)]
    bootstrap: String,
    /// The topic that webhooks are appended to.
    #[arg(long)]
    topic: String,
    /// Milliseconds that a batch waits for more.
    #[arg(long, default_value_t = 1.0)]
    linger_ms: f64,
    /// What signs the webhooks.
    #[arg(long, env = "PEER_SECRET", hide_env_values = true)]
    secret: String,
}

struct Receiver {
    secret: String,
    topic: String,
    producer: FutureProducer,
}

#[derive(Deserialize)]
struct Order<'a> {
    #[serde(borrow)]
    number: &'a str,
}

/// Receives until SIGTERM.
pub(crate) fn serve(options: &Options) -> anyhow::Result<()> {
    let producer = ClientConfig::new()
        .set("bootstrap.servers", &options.bootstrap)
        .set("enable.idempotence", "true")
        .set("linger.ms", options.linger_ms.to_string())
        .create()?;
    let (secret, topic) = (options.secret.clone(), options.topic.clone());
    let receiver = Arc::new(Receiver { secret, topic, producer });
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(options.listen).await?;
        let listener = listener.tap_io(|stream| {
            // A connection that is gone already is none to serve.
            let _ = stream.set_nodelay(true);
        });
        let router = Router::new().route("/webhooks/{source}", post(receive)).with_state(receiver);
        let mut ends = signal(SignalKind::terminate())?;
        tokio::select! {
            served = axum::serve(listener, router) => served?,
            _ = ends.recv() => {}
        }
        Ok(())
    })
}

async fn receive(
    State(receiver): State<Arc<Receiver>>,
    Path(source): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<StatusCode, StatusCode> {
    let header = |name| headers.get(name).map_or(&b""[..], |value| value.as_bytes());
    if !is_signed(&receiver.secret, header("X-Hub-Signature-256"), &body) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let order: Order<'_> = serde_json::from_slice(&body).map_err(|_| StatusCode::UNPROCESSABLE_ENTITY)?;
    let record_headers = OwnedHeaders::new_with_capacity(3)
        .insert(Header { key: "id", value: Some(header("X-GitHub-Delivery")) })
        .insert(Header { key: "type", value: Some(header("X-GitHub-Event")) })
        .insert(Header { key: "source", value: Some(&source) });
    let record =
        FutureRecord::to(&receiver.topic).key(order.number).payload(body.as_ref()).headers(record_headers);
    match receiver.producer.send(record, QUEUE_TIMEOUT).await {
        Ok(_) => Ok(StatusCode::OK),
        Err(_) => Err(StatusCode::SERVICE_UNAVAILABLE),
    }
}

/// Compares in constant time.
fn is_signed(secret: &str, header: &[u8], body: &[u8]) -> bool {
    let Some(Ok(signature)) = header.strip_prefix(b"sha256=").map(hex::decode) else { return false };
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return false };
    mac.update(body);
    mac.verify_slice(&signature).is_ok()
}
