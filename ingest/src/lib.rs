//! Verifies webhooks and appends them to the event log; answers 200 once the log has them.
//!
//! One webhook's way, and the reading order: `server` accepts, `http` leads a request through `body`,
//! `signature` (is it signed?), `extract` (what is it?) and `append` (is it in the log?).
//! `signature` and `extract` are pure: no clock, no network, no Kafka.
//!
//! What is deliberately absent: deduplication (a mark set before a failed append would lose the sender's
//! retry), any answer 200 before the acknowledgement, and any way from an unverified body to the log.

mod append;
mod body;
mod error;
pub mod extract;
mod http;
mod metrics;
mod poll;
mod problem;
mod reach;
mod registry;
mod room;
mod server;
pub mod signature;
mod source;
mod tls;
mod trace;
mod urls;

use std::sync::Arc;

use metrics_exporter_prometheus::PrometheusHandle;
use shared::admin::Health;
use shared::config::Config;
use shared::topics::Topic;
use tokio::net::TcpListener;

use self::append::Log;
use self::body::Limits;
use self::http::App;
use self::reach::Reach;
use self::registry::Watched;
use self::room::Room;
use self::tls::Tls;

pub use self::error::{Error, SetupError};
pub use self::poll::{Polling, poll};
pub use self::server::{Running, Stopped};
pub use self::trace::TraceContext;
pub use self::urls::{Address, urls};

/// Starts ingest in the current Tokio runtime. It need not find Kafka: until it does, webhooks are answered
/// with 503, and `/readyz` says so. Both addresses may have port 0.
///
/// # Errors
/// The configuration is wrong, or an address cannot be bound.
pub async fn serve(config: &Config, metrics: PrometheusHandle) -> Result<Running, Error> {
    self::metrics::describe();
    limits(config)?;
    let (sources, registries) = source::sources(config)?;
    let tls = config.ingest.tls.as_ref().map(Tls::load).transpose()?;
    let health = Health::default();
    let reach = Arc::new(Reach::new(health.clone()));
    let log = Arc::new(Log::new(config, self::metrics::LogMetrics::new(), reach)?);
    let listener = TcpListener::bind(config.ingest.listen)
        .await
        .map_err(|error| Error::Bind(config.ingest.listen, error))?;
    let webhooks = listener.local_addr().map_err(|error| Error::Bind(config.ingest.listen, error))?;
    let admin = shared::admin::serve(config.ingest.admin_listen, health.clone(), metrics)
        .await
        .map_err(Error::Admin)?;
    let app = Arc::new(App {
        scheme: if tls.is_some() { "https" } else { "http" },
        sources,
        log,
        limits: Limits {
            bytes_max: config.ingest.body_limit.0,
            timeout: config.ingest.read_timeout.0,
            room: Room::new(config.ingest.in_flight_limit.0, ::metrics::Gauge::noop()),
        },
        head_limit: config.ingest.head_limit.0,
        unknown: self::metrics::SourceMetrics::unknown(),
    });
    reach::watch(config, topics(config), Arc::clone(&app.log)).map_err(Error::Thread)?;
    registry::watch(registries, Arc::clone(&app));
    tracing::info!(%webhooks, %admin, https = config.ingest.tls.is_some(), "ingest listens");
    Ok(Running::start(&config.ingest, app, (listener, webhooks), tls, (health, admin)))
}

/// Checks all that [`serve`] checks of a configuration, without starting anything.
///
/// # Errors
/// The first thing that is wrong.
pub fn check(config: &Config) -> Result<(), SetupError> {
    limits(config)?;
    let (_, registries) = source::sources(config)?;
    registries.iter().try_for_each(Watched::check)?;
    poll::check(config)?;
    config.ingest.tls.as_ref().map(Tls::load).transpose()?;
    append::check(config)
}

/// What [`serve`] writes to: the log and, where a webhook may be why a list is polled, the requests for that.
fn topics(config: &Config) -> Vec<Topic> {
    let mut topics = vec![shared::topics::event_log(config)];
    let mut resources =
        config.sources.values().filter_map(|source| source.poll.as_ref()).flat_map(|p| p.resources.values());
    if resources.any(|resource| !resource.triggers.is_empty()) {
        topics.extend(shared::topics::of_polling(config));
    }
    topics
}

/// What the types of `[ingest]` leave open.
fn limits(config: &Config) -> Result<(), SetupError> {
    let ingest = &config.ingest;
    let rows = [
        ("body_limit", (1..=8 * 1024 * 1024).contains(&ingest.body_limit.0), "must be \"1B\" to \"8MiB\""),
        ("head_limit", (8192..=65536).contains(&ingest.head_limit.0), "must be \"8KiB\" to \"64KiB\""),
        ("connections_max", ingest.connections_max > 0, "must be at least 1"),
        ("read_timeout", ingest.read_timeout.as_ms() > 0, "must be at least \"1ms\""),
        ("in_flight_limit", ingest.in_flight_limit.0 > 0, "must be at least \"1B\""),
    ];
    if let Some((key, _, message)) = rows.into_iter().find(|(_, good, _)| !good) {
        return Err(SetupError::new(format!("ingest.{key}"), message));
    }
    match config.sources.iter().find(|(_, source)| source.deadline.as_ms() == 0) {
        Some((name, _)) => {
            Err(SetupError::new(format!("sources.{name}.deadline"), "must be at least \"1ms\""))
        }
        None => Ok(()),
    }
}
