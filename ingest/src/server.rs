//! Listens, accepts, and ends in order: connections and their limits, TLS, shutdown.
//!
//! HTTP/1.1 only (which every sender speaks), so that one limit per connection bounds what a client can hold.
//! Requests themselves are `http.rs`'s.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use shared::admin::Health;
use shared::config::IngestConfig;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;

use crate::http::{App, handle};
use crate::tls::Tls;

/// After a failed accept (mostly: no file descriptor left), how long until the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// However late it is, the producer has so long to hear of records that are with a broker.
const FLUSH_TIMEOUT_MIN: Duration = Duration::from_millis(500);

/// How far a server is with its life.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Phase {
    Serving,
    /// No new requests; those that were accepted finish.
    Draining,
    /// Connections are dropped.
    Ending,
}

/// A started ingest.
pub struct Running {
    webhooks: SocketAddr,
    admin: SocketAddr,
    app: Arc<App>,
    health: Health,
    phase: watch::Sender<Phase>,
    permits: Arc<Semaphore>,
    connections_max: u32,
    drain_timeout: Duration,
    accepting: JoinHandle<()>,
}

/// What a stop found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stopped {
    /// Every accepted request was answered.
    pub drained: bool,
    /// The producer holds no record any more.
    pub flushed: bool,
}

impl Running {
    /// Starts to accept connections.
    pub(crate) fn start(
        config: &IngestConfig,
        app: Arc<App>,
        (listener, webhooks): (TcpListener, SocketAddr),
        tls: Option<Tls>,
        (health, admin): (Health, SocketAddr),
    ) -> Self {
        let (phase, phases) = watch::channel(Phase::Serving);
        let permits = Arc::new(Semaphore::new(config.connections_max as usize));
        let server = Server {
            app: Arc::clone(&app),
            http: http(config),
            tls,
            read_timeout: config.read_timeout.0,
            permits: Arc::clone(&permits),
            phases,
            open: crate::metrics::connections(),
        };
        Self {
            webhooks,
            admin,
            app,
            health,
            phase,
            permits,
            connections_max: config.connections_max,
            drain_timeout: config.drain_timeout.0,
            accepting: tokio::spawn(server.accept(listener)),
        }
    }

    /// Where webhooks are received; with the port that was chosen where the configuration has 0.
    #[must_use]
    pub fn webhook_address(&self) -> SocketAddr {
        self.webhooks
    }

    /// Where `/livez`, `/readyz` and `/metrics` are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Whether the log can be reached: what `/readyz` says.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.problems().is_empty()
    }

    /// Stops: no new connections or requests, accepted requests finish, the producer is emptied; all within
    /// the drain time-out.
    pub async fn stop(self) -> Stopped {
        let end = Instant::now() + self.drain_timeout;
        self.health.not_ready("ingest", "stopping");
        self.phase.send_replace(Phase::Draining);
        let all_ended = self.permits.acquire_many(self.connections_max);
        let drained = tokio::time::timeout(self.drain_timeout, all_ended).await.is_ok();
        self.phase.send_replace(Phase::Ending);
        let _ = self.accepting.await;
        self.app.log.reach.stop();
        let app = self.app;
        let left = end.saturating_duration_since(Instant::now()).max(FLUSH_TIMEOUT_MIN);
        let flushed = tokio::task::spawn_blocking(move || app.log.flush(left)).await.unwrap_or(false);
        Stopped { drained, flushed }
    }
}

fn http(config: &IngestConfig) -> http1::Builder {
    let mut http = http1::Builder::new();
    // Beyond the head limit `http.rs` answers with a problem; beyond twice that, hyper with a bare 431.
    let buffer_bytes = config.head_limit.as_len().saturating_mul(2).max(8 * 1024);
    http.timer(TokioTimer::new())
        .header_read_timeout(config.read_timeout.0)
        .max_buf_size(buffer_bytes)
        // A client that only closes its sending side still waits for the answer.
        .half_close(true);
    http
}

/// What a connection is served with.
struct Server {
    app: Arc<App>,
    http: http1::Builder,
    tls: Option<Tls>,
    read_timeout: Duration,
    permits: Arc<Semaphore>,
    phases: watch::Receiver<Phase>,
    open: metrics::Gauge,
}

impl Server {
    async fn accept(self, listener: TcpListener) {
        let this = Arc::new(self);
        loop {
            let next = async {
                let permit = Arc::clone(&this.permits).acquire_owned().await.ok();
                (permit, listener.accept().await)
            };
            let (permit, accepted) = tokio::select! {
                next = next => next,
                () = until(&this.phases, Phase::Draining) => return,
            };
            match accepted {
                Ok((stream, _)) => {
                    let this = Arc::clone(&this);
                    tokio::spawn(async move {
                        this.open.increment(1.0);
                        this.connection(stream).await;
                        this.open.decrement(1.0);
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream) {
        // Answers are small and written at once; waiting to fill packets only delays them.
        let _ = stream.set_nodelay(true);
        let Some(tls) = &self.tls else { return self.serve(stream).await };
        tokio::select! {
            stream = tokio::time::timeout(self.read_timeout, tls.accept(stream)) => match stream {
                Ok(Ok(stream)) => self.serve(stream).await,
                Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake timed out"),
            },
            () = until(&self.phases, Phase::Draining) => {}
        }
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(&self, stream: S) {
        let service = service_fn(|request| async { Ok::<_, Infallible>(handle(&self.app, request).await) });
        let mut connection = std::pin::pin!(self.http.serve_connection(TokioIo::new(stream), service));
        let result = tokio::select! {
            biased;
            result = connection.as_mut() => result,
            () = until(&self.phases, Phase::Draining) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = connection => result,
                    () = until(&self.phases, Phase::Ending) => Ok(()),
                }
            }
        };
        if let Err(error) = result {
            tracing::debug!(%error, "connection ended early");
        }
    }
}

/// Waits until the server's life has come to `phase`.
async fn until(phases: &watch::Receiver<Phase>, phase: Phase) {
    let _ = phases.clone().wait_for(|now| *now >= phase).await;
}
