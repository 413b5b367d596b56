//! The provider's side of a unified API for industrial systems, as a real HTTP server: customers' records that change,
//! an API with tokens and pages to read them by, webhooks that tell of each change, and scenarios in which webhooks
//! come twice, late, in disorder or not at all, tokens expire, and the API fails.
//!
//! What a sink must have in the end is what the provider's own records are then ([`Expected`], [`compare`]): nothing
//! here folds events. [`start`] runs it inside of a process; `sandbox serve` runs it by itself.
//!
//! Reading order: `resource`, `record`, `cursor`, `world` (what there is) → [`scenario`], `play` (what happens) →
//! `urls`, `outbox` (webhooks), `requests`, `api`, [`control`] (HTTP), tied together by `engine` ⇒ `expected`, `config`,
//! `tables`, `registry`.

mod api;
mod config;
pub mod control;
mod cursor;
mod engine;
mod expected;
mod outbox;
mod play;
mod record;
mod registry;
mod requests;
mod resource;
pub mod scenario;
#[cfg(feature = "sqlite")]
mod sqlite;
mod tables;
mod urls;
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::runtime;
use tokio::sync::oneshot;

pub use config::{ConfigOptions, config_toml};
use engine::Engine;
pub use engine::{Change, ChangeKind, Phase, Refused, State};
pub use expected::{Entity, Expected, Row, compare, compare_statuses};
pub use outbox::{Delivery, WebhookCounts};
pub use play::Garbage;
pub use requests::RequestCounts;
pub use resource::Resource;
pub use scenario::{Endpoint, Fault, FaultKind, Scenario, ScenarioError};
#[cfg(feature = "sqlite")]
pub use sqlite::{CheckError, check_sqlite};
pub use tables::{Database, compare_lines, lines_sql, rows_sql, tables_sql, tables_toml};
pub use urls::{Urls, UrlsError};
pub use world::{Status, secret};

/// How often it is looked whether a scenario is over.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How the provider is started.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where API and control API listen. Default: a free port of this machine alone.
    pub listen: SocketAddr,
    /// The name of Hookline's source, as in the webhooks' path. Default: `makini`.
    pub source: String,
    /// The customers' connections, by id. Default: `acme`, `globex` and `initech`.
    pub connections: Vec<String>,
    /// How webhooks are sent.
    pub delivery: Delivery,
    /// A directory in which the registry of connections is written, and kept up to date. Default: none.
    pub registry: Option<PathBuf>,
    /// The first millisecond of a scenario, since 1970: the same one and the same seed give the same records, times
    /// included. Default: when it is begun. Whoever polls by time, or compares with his own clock, needs the default.
    pub epoch_ms: Option<i64>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            source: "makini".to_owned(),
            connections: ["acme", "globex", "initech"].map(str::to_owned).to_vec(),
            delivery: Delivery::default(),
            registry: None,
            epoch_ms: None,
        }
    }
}

/// Why the provider was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened at.
    #[error("cannot listen at {address}: {error}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The registry cannot be written.
    #[error("cannot write the registry {}: {error}", dir.display())]
    Registry {
        /// The directory.
        dir: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A connection's id that cannot stand in a path.
    #[error("connection {0:?}: an id is 1 to 64 letters, digits, `-` and `_`")]
    Connection(String),
}

/// A provider that runs. Dropped, it stops.
pub struct Running {
    engine: Arc<Engine>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").field("address", &self.address).finish_non_exhaustive()
    }
}

/// Starts the provider: its records are none until a scenario is played or one is created, and its webhooks wait until
/// it is told where they go.
///
/// # Errors
/// The address is taken, or the registry cannot be written.
pub fn start(options: &Options) -> Result<Running, StartError> {
    for id in &options.connections {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if !(1..=64).contains(&id.len()) || !id.bytes().all(fits) {
            return Err(StartError::Connection(id.clone()));
        }
    }
    let listen = |error| StartError::Listen { address: options.listen, error };
    let listener = TcpListener::bind(options.listen).map_err(listen)?;
    listener.set_nonblocking(true).map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(listen)?;
    let engine = Arc::new(Engine::new(options));
    if let Some(dir) = &options.registry {
        let registry = |error| StartError::Registry { dir: dir.clone(), error };
        registry::write(dir, engine.tokens().iter()).map_err(registry)?;
    }
    let app = api::router().merge(control::router()).with_state(Arc::clone(&engine));
    let (stop, stopped) = oneshot::channel::<()>();
    let server = std::thread::spawn(move || {
        runtime.block_on(async {
            let listener = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => listener,
                Err(error) => return eprintln!("cannot listen at {address}: {error}"),
            };
            tokio::select! {
                _ = stopped => {}
                Err(error) = async { axum::serve(listener, app).await } => eprintln!("the server ended: {error}"),
            }
        });
        // Requests that are held by a fault end with their connections.
        runtime.shutdown_background();
    });
    Ok(Running { engine, address, stop: Some(stop), server: Some(server) })
}

impl Running {
    /// Where API and control API listen, with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as the base of URLs, such as `http://127.0.0.1:9000`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Where webhooks go from now on: the base of a receiver's URLs, such as `http://127.0.0.1:8080`.
    pub fn set_receiver(&self, url: &str) {
        self.engine.set_receiver(url);
    }

    /// The same, to an address of its own for each connection.
    pub fn set_urls(&self, urls: Urls) {
        self.engine.set_urls(urls);
    }

    /// Begins a scenario, and returns. A second one goes on with what the first has left.
    ///
    /// # Errors
    /// Another is running, or it names a connection that there is not.
    pub fn play(&self, scenario: Scenario) -> Result<(), Refused> {
        self.engine.play(scenario)
    }

    /// How far it is.
    #[must_use]
    pub fn state(&self) -> State {
        self.engine.state()
    }

    /// Waits until the scenario is done: all changes made, each webhook answered or given up. Returns whether it is.
    #[must_use]
    pub fn wait_done(&self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.state().phase != Phase::Done {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
        true
    }

    /// What must be in the sink, as things are now.
    #[must_use]
    pub fn expected(&self) -> Expected {
        self.engine.expected()
    }

    /// What was asked of the API, by connection; under "" with tokens that never were anybody's.
    #[must_use]
    pub fn requests(&self) -> BTreeMap<String, RequestCounts> {
        self.engine.requests().counts().clone()
    }

    /// The token that was given out last, by connection.
    #[must_use]
    pub fn tokens(&self) -> BTreeMap<String, String> {
        self.engine.tokens()
    }

    /// Changes a connection's status, and sends the webhook that tells of it. `ReauthorizationNeeded` and `Revoked`
    /// refuse its token; `Online` after that brings a new one.
    ///
    /// # Errors
    /// No such connection, or its queue is full.
    pub fn set_status(&self, connection: &str, status: Status) -> Result<(), Refused> {
        self.engine.set_status(connection, status)
    }

    /// Changes a record, and returns its id.
    ///
    /// # Errors
    /// No such connection or record, or its queue is full.
    pub fn change(&self, change: &Change) -> Result<String, Refused> {
        self.engine.change(change)
    }

    /// Sends `sync.completed`.
    ///
    /// # Errors
    /// No such connection, or its queue is full.
    pub fn sync(&self, connection: &str, resource: Resource) -> Result<(), Refused> {
        self.engine.sync(connection, resource)
    }

    /// Sends something that must not be applied.
    ///
    /// # Errors
    /// No such connection, or its queue is full.
    pub fn garbage(&self, connection: &str, what: Garbage) -> Result<(), Refused> {
        self.engine.garbage(connection, what)
    }

    /// Has the API fail.
    ///
    /// # Errors
    /// No such connection, or a value beyond its limits.
    pub fn fault(&self, fault: &Fault) -> Result<(), Refused> {
        self.engine.fault(fault)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.engine.stop();
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(server) = self.server.take() {
            let _ = server.join();
        }
    }
}
