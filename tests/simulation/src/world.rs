//! The world: clusters, groups, sinks, disks, processes and the one generator of chance. Each call of a lane
//! enters it through [`Env::enter`], where the caller may die or stand still while all others go on.
//!
//! Everything runs in one thread. The mutexes are never waited for; they make the types `Send`, as the
//! shipped traits ask.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use processor::fold::State;
use processor::journal::Mark;
use processor::lane::{Command, Lane, NOT_CLAIMED};
use processor::tickets::Tickets;
use shared::admin::Health;

use crate::disk::{Disk, SimStores};
use crate::env::{Death, Env};
use crate::group::{Callback, Generation, Group};
use crate::journal::SimJournal;
use crate::kafka::{Body, Kafka, Tid, Tp};
use crate::log::SimLog;
use crate::plan::Plan;
use crate::random::Random;
use crate::rules::{Rule, Violation};
use crate::senders::Senders;
use crate::sink::Database;
use crate::time::SimClock;

/// The shipped lane in this world.
pub type SimLane = Lane<SimLog, SimJournal, SimStores, SimClock>;

/// The wall clock at the start, milliseconds since 1970.
pub const WALL_START_MS: i64 = 1_767_225_600_000;

/// An instance of a pipeline: a process that dies and starts again under the same name.
pub struct Process {
    /// Whose.
    pub pipeline: usize,
    /// Its number within the pipeline.
    pub number: usize,
    /// It runs.
    pub alive: bool,
    /// Which of its lives this is.
    pub life: u64,
    /// It stands still as a whole (SIGSTOP) while this is above 0.
    pub frozen: u32,
    /// A lane holds tickets: callbacks have to wait.
    pub blocked: u32,
    /// Its member id in the group.
    pub member: Option<u64>,
    /// What its client has not called back with yet.
    pub callbacks: VecDeque<Callback>,
    /// Its tickets.
    pub tickets: Arc<Tickets<Generation>>,
    /// What it thinks it owns.
    pub owned: BTreeSet<i32>,
    /// What its lanes have not been told yet.
    pub commands: Vec<VecDeque<Command>>,
    /// How its wall clock differs.
    pub wall_skew_ms: i64,
    /// What `/readyz` says.
    pub health: Health,
    /// Its disk, by partition.
    pub disks: BTreeMap<i32, Disk>,
}

/// Everything but the lanes.
pub struct Inner {
    /// The schedule.
    pub plan: Plan,
    /// Chance.
    pub random: Random,
    /// Milliseconds since the start.
    pub now_ms: i64,
    /// Things go wrong.
    pub faults: bool,
    /// The cluster.
    pub kafka: Kafka,
    /// By pipeline.
    pub groups: Vec<Group>,
    /// By pipeline.
    pub sinks: Vec<Database>,
    /// All instances.
    pub processes: Vec<Process>,
    /// How the brokers' clocks differ, by partition of the log.
    pub broker_skew_ms: Vec<i64>,
    /// The senders.
    pub senders: Senders,
    /// Appends to the log that are still on their way: when they arrive, where, what.
    pub delayed_appends: Vec<(i64, Tp, Body)>,
    /// Instances that start have the second version of the fold.
    pub upgraded: bool,
    /// What the poller was asked for, or was to be: pipeline, source, connection, entity.
    pub asked: BTreeSet<(usize, String, String, Option<String>)>,
    /// What must not happen, and did.
    pub violations: Vec<Violation>,
    /// What happened, if somebody wants to know.
    pub trace: Option<Vec<String>>,
    /// Something happened that a partition has to stop for.
    pub alarms_expected: bool,
    /// Stalls under way.
    pub depth: usize,
    /// Calls so far.
    pub calls: u64,
    /// Former states of disks, to come back stale.
    pub old_disks: Vec<(usize, i32, Disk)>,
}

impl Inner {
    /// Notes a step.
    pub fn note(&mut self, text: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let text = text();
            trace.push(format!("{:>8} {}{text}", self.now_ms, "  ".repeat(self.depth)));
        }
    }

    /// Something that must not happen.
    pub fn violation(&mut self, rule: Rule, text: String) {
        let violation = Violation { rule, text };
        self.note(|| format!("VIOLATION {violation}"));
        self.violations.push(violation);
    }

    /// True in so many of 1,000 cases, while things go wrong.
    pub fn fault(&mut self, per_mille: u32) -> bool {
        self.faults && self.random.chance(per_mille)
    }

    /// The clock of the broker that leads a partition of the log.
    #[must_use]
    pub fn broker_ms(&self, partition: i32) -> i64 {
        let skew = usize::try_from(partition).ok().and_then(|p| self.broker_skew_ms.get(p));
        WALL_START_MS + self.now_ms + skew.copied().unwrap_or(0)
    }

    /// Time passes, and with it what was under way.
    pub fn pass(&mut self, ms: i64) {
        self.now_ms += ms;
        let now = self.now_ms;
        self.kafka.time_out(now);
        for (tid, commit, hits) in self.kafka.deliver_delayed(now) {
            self.note(|| format!("a delayed end of {tid:?} arrives: commit {commit}, hits {hits}"));
        }
        for (tp, offset) in self.land_appends() {
            self.note(|| format!("a delayed append arrives: {tp:?} offset {offset}"));
        }
        for tid in self.kafka.ending() {
            if !self.faults || self.random.chance(self.plan.rates.markers) {
                let pick = self.random.below(8);
                self.kafka.write_marker(tid, pick, now);
            }
        }
        for pipeline in 0..self.sinks.len() {
            crate::sink::land_delayed(self, pipeline);
        }
    }

    /// Appends that were still on their way, and whose client has given up.
    fn land_appends(&mut self) -> Vec<(Tp, usize)> {
        let now = self.now_ms;
        let due: Vec<_> = self.delayed_appends.extract_if(.., |(at, ..)| *at <= now).collect();
        due.into_iter()
            .map(|(_, tp, body)| {
                let time = self.broker_ms(tp.1);
                (tp, self.kafka.append(tp, time, body))
            })
            .collect()
    }

    /// The markers of one producer's former transaction.
    pub fn write_all_markers(&mut self, tid: Tid) {
        let now = self.now_ms;
        let pick = self.random.below(8);
        while self.kafka.write_marker(tid, pick, now) {}
    }
}

/// The world.
pub struct World {
    inner: Mutex<Inner>,
    lanes: Mutex<Vec<Slot>>,
}

/// A place for a lane. It is empty while the lane is in a call, and after its process died.
struct Slot {
    process: usize,
    lane: usize,
    content: Option<Box<SimLane>>,
}

impl World {
    /// A world in which nothing runs yet.
    #[must_use]
    pub fn new(plan: Plan, seed: u64, trace: bool) -> Arc<Self> {
        let mut random = Random::new(seed);
        let senders = Senders::new(&plan, random.split());
        let mut processes = Vec::new();
        for (pipeline, p) in plan.pipelines.iter().enumerate() {
            processes.extend((0..p.instances).map(|number| Process {
                pipeline,
                number,
                alive: false,
                life: 0,
                frozen: 0,
                blocked: 0,
                member: None,
                callbacks: VecDeque::new(),
                tickets: Arc::default(),
                owned: BTreeSet::new(),
                commands: Vec::new(),
                wall_skew_ms: 0,
                health: Health::default(),
                disks: BTreeMap::new(),
            }));
        }
        let partitions = usize::try_from(plan.partitions).unwrap_or(1);
        let inner = Inner {
            groups: plan.pipelines.iter().map(|_| Group::default()).collect(),
            sinks: plan.pipelines.iter().map(|_| Database::default()).collect(),
            upgraded: !plan.first_fold,
            plan,
            random,
            now_ms: 0,
            faults: true,
            kafka: Kafka::default(),
            processes,
            broker_skew_ms: vec![0; partitions],
            senders,
            delayed_appends: Vec::new(),
            asked: BTreeSet::new(),
            violations: Vec::new(),
            trace: trace.then(Vec::new),
            alarms_expected: false,
            depth: 0,
            calls: 0,
            old_disks: Vec::new(),
        };
        Arc::new(Self { inner: Mutex::new(inner), lanes: Mutex::default() })
    }

    /// The world's inside. Never held over a call that enters the world.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts an instance.
    pub fn start(self: &Arc<Self>, process: usize) {
        let mut w = self.lock();
        let variants =
            |w: &Inner, pipeline: usize| w.plan.pipelines.get(pipeline).map_or(1, |p| p.folds.len());
        let Some(pipeline) = w.processes.get(process).map(|p| p.pipeline) else { return };
        let count = variants(&w, pipeline);
        let variant = w.random.below(count);
        let skew = if w.random.chance(300) { w.random.between(-6_000, 6_000) } else { 0 };
        let skew = if w.faults { skew } else { 0 };
        crate::disk::come_back(&mut w, process);
        let Some(mut plan) = w.plan.pipelines.get(pipeline).cloned() else { return };
        if !w.upgraded {
            plan.folds.iter_mut().for_each(|fold| fold.version = 1);
        }
        let Inner { processes, groups, .. } = &mut *w;
        let (Some(p), Some(group)) = (processes.get_mut(process), groups.get_mut(pipeline)) else { return };
        p.alive = true;
        p.life += 1;
        p.frozen = 0;
        p.blocked = 0;
        p.tickets = Arc::default();
        p.owned.clear();
        p.callbacks.clear();
        p.callbacks.extend(group.join(process));
        p.member = group.members.get(&process).copied();
        p.commands = (0..plan.lanes).map(|_| VecDeque::new()).collect();
        p.wall_skew_ms = skew;
        p.health = Health::default();
        let (life, number) = (p.life, p.number);
        let (tickets, health) = (p.tickets.clone(), p.health.clone());
        w.note(|| format!("p{pipeline}/{number} starts, life {life}, configuration {variant}"));
        drop(w);
        for lane in 0..plan.lanes {
            let env = Env::new(self.clone(), process, lane, pipeline, life);
            let opener = crate::sink::opener(env.clone(), plan.kafka_sink);
            let built = SimLane::new(
                plan.lane(pipeline, format!("{number}"), variant),
                SimLog::new(env.clone()),
                SimJournal::new(env.clone()),
                SimStores::new(env.clone()),
                opener,
                SimClock::new(env),
                tickets.clone(),
                Arc::new(processor::progress::Progress::new(&plan.name)),
                health.clone(),
            );
            self.slots().push(Slot { process, lane, content: Some(Box::new(built)) });
        }
    }

    /// An instance dies. Lanes of it that are in a call notice when they come back from it.
    pub fn kill(&self, process: usize) {
        let mut w = self.lock();
        let Some(p) = w.processes.get_mut(process).filter(|p| p.alive) else { return };
        p.alive = false;
        p.life += 1;
        let (pipeline, number) = (p.pipeline, p.number);
        w.note(|| format!("p{pipeline}/{number} dies"));
        crate::disk::crash(&mut w, process);
        drop(w);
        self.drop_lanes(|slot| slot.process == process);
    }

    /// An instance ends in order: its lanes make their last checkpoints. False where a lane is in a call.
    pub fn stop(&self, process: usize) -> bool {
        let mut taken = Vec::new();
        {
            let mut slots = self.slots();
            let own = |slot: &&mut Slot| slot.process == process;
            if slots.iter_mut().filter(own).any(|slot| slot.content.is_none()) {
                return false;
            }
            for slot in slots.iter_mut().filter(own) {
                taken.extend(slot.content.take());
            }
            slots.retain(|slot| slot.process != process);
        }
        let life = {
            let mut w = self.lock();
            w.note(|| format!("process {process} stops"));
            w.processes.get(process).map_or(0, |p| p.life)
        };
        for lane in taken {
            let (sender, receiver) = std::sync::mpsc::channel();
            let _ = sender.send(Command::Stop);
            let ended = catch_unwind(AssertUnwindSafe(|| lane.run(&receiver)));
            self.report(ended.err());
        }
        let mut w = self.lock();
        if let Some(p) = w.processes.get_mut(process)
            && p.alive
            && p.life == life
        {
            p.alive = false;
            p.life += 1;
        }
        true
    }

    /// Drops lanes. Outside of the lock, since they are large and their parts are the world's.
    fn drop_lanes(&self, which: impl Fn(&Slot) -> bool) {
        let mut gone = Vec::new();
        {
            let mut slots = self.slots();
            for slot in slots.iter_mut().filter(|slot| which(slot)) {
                gone.extend(slot.content.take());
            }
            slots.retain(|slot| !which(slot));
        }
        drop(gone);
    }

    /// Ends the world: lanes hold on to it, and it to them.
    pub fn end(&self) {
        self.drop_lanes(|_| true);
    }

    fn report(&self, ended: Option<Box<dyn std::any::Any + Send>>) {
        let Some(payload) = ended else { return };
        if payload.downcast_ref::<Death>().is_some() {
            return;
        }
        let text = payload
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| payload.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_default();
        self.lock().violation(Rule::Sound, format!("the lane panicked: {text}"));
    }

    /// Lets one lane take one turn, after it was told what waits for it, or not yet.
    pub fn turn(&self) {
        let mut w = self.lock();
        let mut slots = self.slots();
        let ready = |(n, slot): (usize, &Slot)| {
            let p = w.processes.get(slot.process)?;
            (slot.content.is_some() && p.alive && p.frozen == 0).then_some(n)
        };
        let ready: Vec<usize> = slots.iter().enumerate().filter_map(ready).collect();
        let Some(n) = w.random.pick(&ready) else { return };
        let Some(slot) = slots.get_mut(n) else { return };
        let (process, number) = (slot.process, slot.lane);
        let Some(mut lane) = slot.content.take() else { return };
        drop(slots);
        let late = w.plan.has(crate::defects::Planted::CommitAfterRevoke);
        let told = !w.faults || w.random.chance(800);
        let Some(p) = w.processes.get_mut(process) else { return };
        // Planted, the tickets are invalidated here: another lane of the process may hold them.
        let told = told && !(late && p.blocked > 0);
        let life = p.life;
        let commands = match p.commands.get_mut(number) {
            Some(commands) if told => std::mem::take(commands),
            Some(_) | None => VecDeque::new(),
        };
        let tickets = p.tickets.clone();
        w.note(|| format!("turn of process {process} lane {number} {commands:?}"));
        drop(w);
        let turned = catch_unwind(AssertUnwindSafe(|| {
            for command in commands {
                if let Command::Revoke(partition) = command
                    && late
                {
                    tickets.revoke(&[partition]);
                }
                lane.obey(command);
            }
            lane.step();
        }));
        let died = turned.is_err();
        self.report(turned.err());
        let lives = self.lock().processes.get(process).is_some_and(|p| p.alive && p.life == life);
        if lives {
            self.check_alarms(process);
        }
        if lives && !died {
            let mut slots = self.slots();
            let own =
                |slot: &&mut Slot| slot.process == process && slot.lane == number && slot.content.is_none();
            if let Some(slot) = slots.iter_mut().find(own) {
                slot.content = Some(lane);
            }
        } else {
            drop(lane);
            // A panic of the lane's own takes the process with it.
            if lives {
                self.kill(process);
            }
        }
    }

    fn check_alarms(&self, process: usize) {
        let mut w = self.lock();
        let problems = w.processes.get(process).map(|p| p.health.problems()).unwrap_or_default();
        let is_alarm = |text: &&String| text.starts_with("partition ") && !text.contains(NOT_CLAIMED);
        if let Some(alarm) = problems.iter().find(is_alarm)
            && !w.alarms_expected
            && w.violations.is_empty()
        {
            w.violation(Rule::NoAlarm, format!("process {process}: {alarm}"));
        }
    }

    /// Whether some lane is there to take a turn.
    #[must_use]
    pub fn has_lanes(&self) -> bool {
        self.slots().iter().any(|slot| slot.content.is_some())
    }

    /// The state in a process's store, if it has one, as it would be loaded.
    pub fn stored(&self, process: usize, partition: i32) -> Option<(State, Mark)> {
        let w = self.lock();
        w.processes.get(process)?.disks.get(&partition)?.state()
    }
}
