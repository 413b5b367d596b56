//! Polls providers' APIs for what webhooks missed, and appends what it finds to the same log.
//!
//! A list's way, and the reading order: `share` says which connections are this instance's, `line` reads one list
//! page by page through `link` (token, rate) and `api` (HTTP), `page` takes the answer apart, `extract` makes each
//! record an event as if its sender had sent it, and `pace` says when the next time is.
//!
//! What is found is a *snapshot* of an entity at a version: its id follows from that, so that who finds it again, or
//! finds it at the same time, repeats it; the fold decides what is new.

mod api;
mod line;
mod link;
mod pace;
mod page;
mod share;
mod sweep;

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use shared::admin::Health;
use shared::config::{Config, ConnectionConfig, Secret, Secrets};
use shared::poll::{PollRequest, Progress, partition_of};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;

use self::api::Api;
use self::line::{Ask, Line};
use self::link::{Link, Source};
use self::share::{Heard, Shared};
use crate::append::Log;
use crate::error::{Error, SetupError};
use crate::extract::Plan;
use crate::reach::Reach;
use crate::registry::{Watched, follow};

/// Things heard that wait for the supervisor.
const HEARD_MAX: usize = 1024;
/// Asks that wait for a list.
const ASKS_MAX: usize = 256;
/// How often it is looked whether the log is there, at the start.
const LOOK: Duration = Duration::from_millis(100);
/// The group's part in `/readyz`.
const PART: &str = "group";

/// A running poller.
pub struct Polling {
    admin: SocketAddr,
    health: Health,
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    supervisor: JoinHandle<()>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

/// Starts to poll in the current Tokio runtime. It need not find Kafka: it waits, and `/readyz` says so.
///
/// # Errors
/// The configuration is wrong, or the admin address cannot be bound.
pub async fn poll(config: &Config, metrics: PrometheusHandle) -> Result<Polling, Error> {
    crate::metrics::describe();
    crate::metrics::describe_polling();
    let health = Health::default();
    let reach = Arc::new(Reach::new(health.clone()));
    health.not_ready(PART, "not joined yet");
    let log = Arc::new(Log::new(config, crate::metrics::LogMetrics::new(), reach)?);
    let (sources, registries) = sources(config, &log)?;
    let admin = shared::admin::serve(config.ingest.poll_admin_listen, health.clone(), metrics)
        .await
        .map_err(Error::Admin)?;
    let mut topics = vec![shared::topics::event_log(config)];
    topics.extend(shared::topics::of_polling(config));
    crate::reach::watch(config, topics, Arc::clone(&log)).map_err(Error::Thread)?;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, heard) = mpsc::channel(HEARD_MAX);
    let (changes, changed) = mpsc::channel(HEARD_MAX);
    for watched in registries {
        let changes = changes.clone();
        tokio::spawn(follow(watched, move |watched| {
            // A change that finds no place is found by the next reading that differs: there are few.
            let _ = changes.try_send((watched.name.clone(), watched.merged().connections));
        }));
    }
    let supervisor = Supervisor {
        shared: Shared::new(config),
        sources,
        health: health.clone(),
        stop: Arc::clone(&stop),
        owned: HashMap::new(),
        links: HashMap::new(),
    };
    let threads = share_in_threads(config, &sender, &stop, &log).map_err(Error::Thread)?;
    tracing::info!(%admin, "poller runs");
    // The sender of changes is kept: without a registry there are none, and that is no end.
    let supervisor = tokio::spawn(async move {
        let _kept = changes;
        supervisor.run(heard, changed).await;
    });
    Ok(Polling { admin, health, log, stop, supervisor, threads })
}

/// Checks all that [`poll`] checks of a configuration, without starting anything.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn check(config: &Config) -> Result<(), SetupError> {
    for (name, source) in &config.sources {
        let Some(poll) = &source.poll else { continue };
        Plan::new(name, source)?;
        Api::new(name, poll)?;
    }
    Ok(())
}

impl Polling {
    /// Where `/livez`, `/readyz` and `/metrics` are.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin
    }

    /// Whether it polls: what `/readyz` says.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.health.problems().is_empty()
    }

    /// Stops; what is in the middle is gone on with by the next one. True if the log has all that was found.
    pub async fn stop(self) -> bool {
        self.stop.store(true, Ordering::Release);
        self.supervisor.abort();
        self.log.reach.stop();
        let (log, threads) = (self.log, self.threads);
        let ended = tokio::task::spawn_blocking(move || {
            for thread in threads {
                let _ = thread.join();
            }
            log.flush(link::APPEND_TIMEOUT)
        });
        ended.await.unwrap_or(false)
    }
}

type Sources = BTreeMap<String, (Arc<Source>, BTreeMap<String, ConnectionConfig>)>;

fn sources(config: &Config, log: &Arc<Log>) -> Result<(Sources, Vec<Watched>), SetupError> {
    let instance = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty());
    let (mut sources, mut registries) = (Sources::new(), Vec::new());
    let series = crate::metrics::series();
    for (name, source) in &config.sources {
        let Some(poll) = &source.poll else { continue };
        let prepared = Source {
            name: name.clone(),
            plan: Plan::new(name, source)?,
            api: Api::new(name, poll)?,
            log: Arc::clone(log),
            shared: Shared::new(config),
            permits: Semaphore::new(poll.concurrency as usize),
            body_bytes_max: config.ingest.body_limit.0,
            instance: instance.clone().unwrap_or_else(|| std::process::id().to_string()),
            series: Arc::clone(&series),
            config: poll.clone(),
        };
        let mut connections = source.connections.clone();
        if source.registry.is_some() {
            let watched = Watched::new(name, source, Secrets::Tokens)?;
            connections = watched.merged().connections;
            registries.push(watched);
        }
        sources.insert(name.clone(), (Arc::new(prepared), connections));
    }
    if sources.is_empty() {
        return Err(SetupError::new("sources", "none is polled: add a table [sources.NAME.poll]"));
    }
    Ok((sources, registries))
}

/// Starts the threads that follow the group and the requests, once the topics are there.
fn share_in_threads(
    config: &Config,
    sender: &mpsc::Sender<Heard>,
    stop: &Arc<AtomicBool>,
    log: &Arc<Log>,
) -> std::io::Result<Vec<std::thread::JoinHandle<()>>> {
    let start = |name: &str, run: fn(&Shared, &mpsc::Sender<Heard>, &AtomicBool)| {
        let shared = Shared::new(config);
        let (sender, stop, log) = (sender.clone(), Arc::clone(stop), Arc::clone(log));
        std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            while !log.is_open() && !stop.load(Ordering::Acquire) {
                std::thread::sleep(LOOK);
            }
            run(&shared, &sender, &stop);
        })
    };
    Ok(vec![start("poll-group", share::be_member)?, start("poll-requests", share::hear_requests)?])
}

/// Starts and ends the lists, as partitions and connections come and go.
struct Supervisor {
    shared: Shared,
    sources: Sources,
    health: Health,
    stop: Arc<AtomicBool>,
    /// The partitions that are polled here, with the progress that stood in them.
    owned: HashMap<i32, HashMap<String, Progress>>,
    links: HashMap<(String, String), Running>,
}

/// A connection whose lists are read here.
struct Running {
    partition: i32,
    token: watch::Sender<Option<Secret>>,
    lines: BTreeMap<String, (mpsc::Sender<Ask>, JoinHandle<()>)>,
}

impl Drop for Running {
    fn drop(&mut self) {
        for (_, line) in self.lines.values() {
            line.abort();
        }
    }
}

/// A source and its connections, as its registry has them now.
type Change = (String, BTreeMap<String, ConnectionConfig>);

impl Supervisor {
    async fn run(mut self, mut heard: mpsc::Receiver<Heard>, mut changes: mpsc::Receiver<Change>) {
        loop {
            tokio::select! {
                something = heard.recv() => match something {
                    Some(Heard::Assigned(partitions)) => self.assigned(partitions).await,
                    Some(Heard::Revoked(partitions)) => self.revoked(&partitions),
                    Some(Heard::Request(request)) => self.requested(&request),
                    None => return,
                },
                change = changes.recv() => {
                    let Some((name, connections)) = change else { return };
                    if let Some((_, known)) = self.sources.get_mut(&name) {
                        *known = connections;
                    }
                    self.follow_connections();
                }
            }
        }
    }

    async fn assigned(&mut self, partitions: Vec<i32>) {
        for partition in partitions {
            let (shared, stop) = (self.shared.clone(), Arc::clone(&self.stop));
            let read = tokio::task::spawn_blocking(move || share::progress(&shared, partition, &stop));
            let Ok(Some(progress)) = read.await else { return };
            self.owned.insert(partition, progress);
        }
        self.health.ready(PART);
        self.follow_connections();
    }

    fn revoked(&mut self, partitions: &[i32]) {
        self.owned.retain(|partition, _| !partitions.contains(partition));
        self.links.retain(|_, running| !partitions.contains(&running.partition));
    }

    /// Starts what is new, ends what is gone, and hands over tokens that are others.
    fn follow_connections(&mut self) {
        let sources = &self.sources;
        self.links.retain(|(source, connection), _| {
            sources.get(source).is_some_and(|(_, connections)| connections.contains_key(connection))
        });
        for (name, (source, connections)) in &self.sources {
            for (connection, config) in connections {
                let partition = partition_of(name, connection, self.shared.partitions);
                let Some(progress) = self.owned.get(&partition) else { continue };
                let key = (name.clone(), connection.clone());
                let running = self.links.entry(key).or_insert_with(|| {
                    start(source, connection, config.token_value.clone(), partition, progress)
                });
                let is_other = !same(running.token.borrow().as_ref(), config.token_value.as_ref());
                if is_other {
                    tracing::info!(source = name, connection, "a new token is taken over");
                    running.token.send_replace(config.token_value.clone());
                }
            }
        }
    }

    fn requested(&self, request: &PollRequest) {
        let key = (request.source.clone(), request.connection.clone());
        let Some(running) = self.links.get(&key) else { return };
        let PollRequest { source, connection, by, why, .. } = request;
        for (name, (asks, _)) in &running.lines {
            let is_meant = request.resource.as_ref().is_none_or(|resource| resource == name);
            let ask = match &request.entity {
                Some(entity) => self.sources.get(source).and_then(|(source, _)| one(source, name, entity)),
                None => Some(Ask::List),
            };
            if let Some(ask) = ask.filter(|_| is_meant) {
                tracing::debug!(source, connection, resource = name, by, why, "asked to poll");
                // A list that is asked so often is read anyhow.
                let _ = asks.try_send(ask);
            }
        }
    }
}

/// Asks for one record of a resource, if it has such and the entity may be one of its.
fn one(source: &Source, resource: &str, entity: &str) -> Option<Ask> {
    let config = source.config.resources.get(resource)?;
    config.one.as_ref()?;
    entity.starts_with(source.plan.entity_prefix(&config.kind)).then(|| Ask::One(entity.to_owned()))
}

fn start(
    source: &Arc<Source>,
    connection: &str,
    token: Option<Secret>,
    partition: i32,
    progress: &HashMap<String, Progress>,
) -> Running {
    let of = |resource: &str| {
        let fresh = Progress {
            source: source.name.clone(),
            connection: connection.to_owned(),
            resource: resource.to_owned(),
            ..Progress::default()
        };
        progress.get(&fresh.key()).cloned().unwrap_or(fresh)
    };
    let all: Vec<(&String, Progress)> = source.config.resources.keys().map(|name| (name, of(name))).collect();
    let is_authorized = !all.iter().any(|(_, progress)| progress.unauthorized);
    let (sender, receiver) = watch::channel(token);
    let link = Arc::new(Link::new(Arc::clone(source), connection, partition, receiver, is_authorized));
    let lines = all.into_iter().map(|(name, progress)| {
        let (asks, asked) = mpsc::channel(ASKS_MAX);
        let config = &source.config.resources[name];
        let line = Line::new(Arc::clone(&link), name, config, progress, asked);
        (name.clone(), (asks, tokio::spawn(line.run())))
    });
    Running { partition, token: sender, lines: lines.collect() }
}

fn same(one: Option<&Secret>, other: Option<&Secret>) -> bool {
    use secrecy::ExposeSecret as _;
    one.map(|secret| secret.value.expose_secret()) == other.map(|secret| secret.value.expose_secret())
}
