//! The admin address: `/livez`, `/readyz` and `/metrics`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;

/// How often histograms are summed up. Between scrapes they hold every single value: without this, memory
/// would grow for as long as nobody scrapes.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// What the readiness probe answers, set by the parts of the program that it depends on.
///
/// Clones share their state. A part that never spoke does not count.
#[derive(Clone, Debug, Default)]
pub struct Health {
    not_ready: Arc<Mutex<NotReady>>,
}

/// The parts that do not work, and why.
type NotReady = BTreeMap<Cow<'static, str>, String>;

impl Health {
    /// `part` works.
    pub fn ready(&self, part: &str) {
        self.lock().remove(part);
    }

    /// `part` does not work, and why: shown to whoever asks `/readyz`.
    pub fn not_ready(&self, part: impl Into<Cow<'static, str>>, why: impl Into<String>) {
        self.lock().insert(part.into(), why.into());
    }

    /// Why the program is not ready; empty when it is.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.lock().iter().map(|(part, why)| format!("{part}: {why}")).collect()
    }

    fn lock(&self) -> MutexGuard<'_, NotReady> {
        self.not_ready.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Binds the admin address and serves it in a task until the runtime ends. Returns the bound address.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    listen: SocketAddr,
    health: Health,
    metrics: PrometheusHandle,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|e| std::io::Error::new(e.kind(), format!("admin address {listen} cannot be bound: {e}")))?;
    let bound = listener.local_addr()?;
    let upkeep = metrics.clone();
    tokio::spawn(async move {
        let mut every = tokio::time::interval(METRICS_UPKEEP);
        loop {
            every.tick().await;
            upkeep.run_upkeep();
        }
    });
    let app = Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(move || std::future::ready(readyz(&health))))
        .route("/metrics", get(move || std::future::ready(metrics.render())));
    tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, app).await {
            tracing::error!(%error, "admin address is no longer served");
        }
    });
    Ok(bound)
}

fn readyz(health: &Health) -> (StatusCode, String) {
    let problems = health.problems();
    if problems.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, format!("not ready\n{}\n", problems.join("\n")))
}
