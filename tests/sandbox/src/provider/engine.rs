//! The provider at work: the world behind a lock, the outbox, the scenario that is being played, and what the API and
//! the control API do to them.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Options;
use super::expected::{self, Expected};
use super::outbox::{Full, Outbox, QUEUE_MAX, Receiver, WebhookCounts};
use super::play::{self, Garbage, Play, Send, Step};
use super::registry;
use super::requests::Requests;
use super::resource::Resource;
use super::scenario::{Fault, Scenario};
use super::urls::Urls;
use super::world::{At, Status, World};
use crate::rng::Rng;

/// How long a scenario waits for room in a queue before it looks again.
const FULL_PAUSE: Duration = Duration::from_millis(20);

/// How far a scenario is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// None was played yet.
    #[default]
    Idle,
    /// Changes are still to come.
    Running,
    /// All changes are made, and webhooks wait.
    Delivering,
    /// All changes are made, and each webhook is answered or given up.
    Done,
}

/// How far the provider is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct State {
    /// How far the last scenario is.
    pub phase: Phase,
    /// Its name; empty where there was none.
    pub scenario: String,
    /// Its seed.
    pub seed: u64,
    /// Changes of records so far, those by hand included.
    pub changes: u64,
    /// Webhooks about records that are never sent.
    pub lost: u64,
    /// What became of the others.
    pub webhooks: WebhookCounts,
}

/// A change of one record by hand.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// Whose.
    pub connection: String,
    /// In which list.
    pub resource: Resource,
    /// What is done.
    pub kind: ChangeKind,
    /// Which record. Default: any.
    pub id: Option<String>,
    /// Its webhook is never sent. Default: it is.
    #[serde(default)]
    pub lost: bool,
}

/// What a change does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// A new record.
    Create,
    /// Its next revision.
    Update,
    /// It is no more.
    Delete,
}

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A scenario is running.
    #[error("scenario {0} is running: wait until /control/state says done")]
    Busy(String),
    /// No connection of this name.
    #[error("there is no connection {0:?}")]
    NoConnection(String),
    /// No record of this id, or none at all.
    #[error("there is no such record in {list} of {connection}")]
    NoRecord {
        /// The list.
        list: &'static str,
        /// The connection.
        connection: String,
    },
    /// The queue of a connection is full.
    #[error("{max} webhooks wait for {0}: the receiver does not take them", max = QUEUE_MAX)]
    Full(String),
    /// A value beyond its limits.
    #[error("{0}")]
    Invalid(String),
}

#[derive(Default)]
struct Progress {
    state: State,
    stopped: bool,
    thread: Option<JoinHandle<()>>,
}

/// Everything that is shared between the API, the scenario and the caller.
pub(crate) struct Engine {
    pub(crate) source: String,
    pub(crate) connections: Vec<String>,
    pub(crate) cursor_key: String,
    registry: Option<PathBuf>,
    epoch_ms: Option<i64>,
    world: Mutex<World>,
    requests: Mutex<Requests>,
    outbox: Outbox,
    progress: Mutex<Progress>,
    changed: Condvar,
    /// What is drawn by hand.
    by_hand: Mutex<Rng>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    pub(crate) fn new(options: &Options) -> Self {
        let Options { source, connections, .. } = options;
        Self {
            source: source.clone(),
            connections: connections.clone(),
            cursor_key: format!("cursors of {}", std::process::id()),
            registry: options.registry.clone(),
            epoch_ms: options.epoch_ms,
            world: Mutex::new(World::new(connections)),
            requests: Mutex::new(Requests::new(connections)),
            outbox: Outbox::start(source, connections, options.delivery),
            progress: Mutex::default(),
            changed: Condvar::new(),
            by_hand: Mutex::new(Rng::new(0)),
        }
    }

    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        lock(&self.world)
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    pub(crate) fn set_receiver(&self, url: &str) {
        self.outbox.set_receiver(Receiver::Base(url.trim_end_matches('/').to_owned()));
    }

    pub(crate) fn set_urls(&self, urls: Urls) {
        self.outbox.set_receiver(Receiver::Each(urls));
    }

    pub(crate) fn state(&self) -> State {
        let mut state = lock(&self.progress).state.clone();
        state.webhooks = self.outbox.counts();
        if state.phase == Phase::Delivering && state.webhooks.waiting == 0 {
            state.phase = Phase::Done;
        }
        state
    }

    pub(crate) fn tokens(&self) -> BTreeMap<String, String> {
        let world = self.world();
        self.connections.iter().filter_map(|id| Some((id.clone(), world.token(id)?))).collect()
    }

    pub(crate) fn expected(&self) -> Expected {
        let state = self.state();
        let mut world = self.world();
        for webhook in self.outbox.take_given_up() {
            if let Some((resource, id)) = &webhook.deletes {
                world.deletion_lost(&webhook.connection, *resource, id);
            }
        }
        let all_told = state.lost == 0 && state.webhooks.given_up == 0 && !world.stocked;
        expected::of_world(&self.source, &world, all_told)
    }

    /// Starts a scenario in a thread of its own.
    pub(crate) fn play(self: &Arc<Self>, scenario: Scenario) -> Result<(), Refused> {
        let named = scenario.acts.iter().map(|act| &act.connection);
        for connection in named.chain(scenario.faults.iter().filter_map(|fault| fault.connection.as_ref())) {
            self.knows(connection)?;
        }
        let mut progress = lock(&self.progress);
        if progress.state.phase == Phase::Running {
            return Err(Refused::Busy(progress.state.scenario.clone()));
        }
        progress.state.phase = Phase::Running;
        progress.state.scenario.clone_from(&scenario.name);
        progress.state.seed = scenario.seed;
        let engine = Arc::clone(self);
        progress.thread = Some(std::thread::spawn(move || engine.run(scenario)));
        Ok(())
    }

    fn run(&self, scenario: Scenario) {
        let began = Instant::now();
        let in_halves = scenario.token_in_halves;
        let epoch_ms = self.epoch_ms.unwrap_or_else(now_ms);
        let mut play = Play::new(scenario, &mut self.world(), epoch_ms);
        while let Some(at) = play.next_at() {
            if !self.pause_until(began + at) {
                return;
            }
            let step = play.step(&mut self.world(), now_ms());
            if !self.carry_out(step, in_halves) {
                return;
            }
        }
        lock(&self.progress).state.phase = Phase::Delivering;
        self.changed.notify_all();
    }

    /// Whether the time came; not where the provider was stopped before.
    fn pause_until(&self, due: Instant) -> bool {
        let mut progress = lock(&self.progress);
        loop {
            let left = due.saturating_duration_since(Instant::now());
            if progress.stopped || left.is_zero() {
                return !progress.stopped;
            }
            progress = self.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Sends what a step brings; where a queue is full, once there is room. Not where the provider was stopped before.
    fn carry_out(&self, step: Step, in_halves: bool) -> bool {
        self.note(&step, in_halves);
        for mut send in step.sends {
            while let Err(Full(back)) = self.outbox.send(send) {
                send = *back;
                if !self.pause_until(Instant::now() + FULL_PAUSE) {
                    return false;
                }
            }
        }
        true
    }

    /// Sends what was done by hand, or says that there is no room.
    fn carry_out_now(&self, step: Step) -> Result<(), Refused> {
        self.note(&step, false);
        let full = |Full(send): Full| Refused::Full(send.webhook.connection);
        step.sends.into_iter().try_for_each(|send| self.outbox.send(send).map_err(full))
    }

    fn note(&self, step: &Step, in_halves: bool) {
        {
            let mut progress = lock(&self.progress);
            progress.state.changes += step.changes;
            progress.state.lost += step.lost;
        }
        if let Some(fault) = &step.fault {
            self.requests().add(fault);
        }
        if let (Some(connection), Some(dir)) = (&step.new_token, &self.registry) {
            let token = self.world().token(connection).unwrap_or_default();
            if let Err(error) = registry::write_token(dir, connection, &token, in_halves) {
                eprintln!("the token of {connection} is not in the registry: {error}");
            }
        }
    }

    pub(crate) fn set_status(&self, connection: &str, status: Status) -> Result<(), Refused> {
        self.knows(connection)?;
        let step = play::change_status(&mut self.world(), connection, status, now_ms());
        self.carry_out_now(step)
    }

    pub(crate) fn sync(&self, connection: &str, resource: Resource) -> Result<(), Refused> {
        self.knows(connection)?;
        let sends = self.world().sync(connection, resource, now_ms()).map(play::on_time);
        self.carry_out_now(Step { sends: sends.into_iter().collect(), ..Step::default() })
    }

    /// Changes a record, and returns its id.
    pub(crate) fn change(&self, change: &Change) -> Result<String, Refused> {
        self.knows(&change.connection)?;
        let at = At { connection: &change.connection, resource: change.resource, ms: now_ms() };
        let no_record =
            || Refused::NoRecord { list: change.resource.path(), connection: change.connection.clone() };
        let mut rng = lock(&self.by_hand);
        let mut world = self.world();
        let any = world.shelf(at.connection, at.resource).and_then(|shelf| shelf.any(&mut rng));
        let id = change.id.clone().or(any);
        let muted = world.connections.get(at.connection).is_none_or(|connection| connection.refused);
        let lost = change.lost || muted;
        let (id, webhook) = match (change.kind, id) {
            (ChangeKind::Create, _) => world.create(at, &mut rng),
            (ChangeKind::Update, Some(id)) => world.update(at, &id, &mut rng).map(|webhook| (id, webhook)),
            (ChangeKind::Delete, Some(id)) => world.delete(at, &id, lost).map(|webhook| (id, webhook)),
            (ChangeKind::Update | ChangeKind::Delete, None) => None,
        }
        .ok_or_else(no_record)?;
        drop(world);
        let sends = if lost { Vec::new() } else { vec![play::on_time(webhook)] };
        self.carry_out_now(Step { sends, changes: 1, lost: lost.into(), ..Step::default() })?;
        Ok(id)
    }

    /// Sends something that must not be applied: a broken copy of what would be the connection's next event.
    pub(crate) fn garbage(&self, connection: &str, what: Garbage) -> Result<(), Refused> {
        self.knows(connection)?;
        let at = At { connection, resource: Resource::PurchaseOrders, ms: now_ms() };
        // In a world that is thrown away: nothing has changed.
        let mut rng = lock(&self.by_hand);
        let made = self.world().clone().create(at, &mut rng);
        let sends: Vec<Send> =
            made.map(|(_, webhook)| play::garbage(&webhook, what, Duration::ZERO)).into_iter().collect();
        self.carry_out_now(Step { sends, ..Step::default() })
    }

    pub(crate) fn fault(&self, fault: &Fault) -> Result<(), Refused> {
        if let Some(connection) = &fault.connection {
            self.knows(connection)?;
        }
        fault.check().map_err(Refused::Invalid)?;
        if !fault.at.is_zero() {
            return Err(Refused::Invalid("at is for scenarios: by hand a fault begins at once".to_owned()));
        }
        self.requests().add(fault);
        Ok(())
    }

    fn knows(&self, connection: &str) -> Result<(), Refused> {
        if self.connections.iter().any(|known| known == connection) {
            return Ok(());
        }
        Err(Refused::NoConnection(connection.to_owned()))
    }

    /// Ends the scenario and the outbox; what waits is not sent.
    pub(crate) fn stop(&self) {
        let thread = {
            let mut progress = lock(&self.progress);
            progress.stopped = true;
            progress.thread.take()
        };
        self.changed.notify_all();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
        self.outbox.stop();
    }
}

/// Milliseconds since 1970.
fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
