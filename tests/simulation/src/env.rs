//! A lane's way into the world: each of its calls begins and ends here, where its process may die, or stand
//! still while all others go on.

use std::panic::resume_unwind;
use std::sync::{Arc, MutexGuard};

use crate::group::Steer;
use crate::rules::Rule;
use crate::world::{Inner, World};

/// How deep stalls nest: a stalled lane, within whose stall another one stalls.
const DEPTH_MAX: usize = 2;

/// Calls of one schedule, tens of times what the longest needs: more is a lane that never ends its turn.
const CALLS_MAX: u64 = 1_000_000;

/// The payload of the unwinding by which a process dies.
pub struct Death;

/// A lane's way into the world.
#[derive(Clone)]
pub struct Env {
    world: Arc<World>,
    /// The instance.
    pub process: usize,
    /// The lane's number in it.
    pub lane: usize,
    /// The pipeline.
    pub pipeline: usize,
    life: u64,
}

impl Env {
    /// The way of a lane of a process in one of its lives.
    #[must_use]
    pub fn new(world: Arc<World>, process: usize, lane: usize, pipeline: usize, life: u64) -> Self {
        Self { world, process, lane, pipeline, life }
    }
}

enum Fate {
    None,
    Death,
    Stall { ticks: usize, whole: bool },
}

impl Env {
    /// The world's inside.
    pub fn lock(&self) -> MutexGuard<'_, Inner> {
        self.world.lock()
    }

    /// Where each call of a lane begins and ends: time passes, and the caller may die or stand still here.
    /// `holds` says that the lane may hold tickets, so that its process's callbacks must wait.
    pub fn enter(&self, call: &str, holds: bool) {
        match self.fate(call) {
            Fate::None => {}
            Fate::Death => {
                let gone = self.is_gone(&self.lock());
                if !gone {
                    self.world.kill(self.process);
                }
                resume_unwind(Box::new(Death));
            }
            Fate::Stall { ticks, whole } => self.stall(call, ticks, whole, holds),
        }
    }

    /// The process dies, and its disks with it.
    pub fn perish(&self) -> ! {
        self.world.kill(self.process);
        if let Some(p) = self.lock().processes.get_mut(self.process) {
            p.disks.clear();
        }
        resume_unwind(Box::new(Death));
    }

    fn is_gone(&self, w: &Inner) -> bool {
        w.processes.get(self.process).is_none_or(|p| !p.alive || p.life != self.life)
    }

    fn fate(&self, call: &str) -> Fate {
        let mut w = self.lock();
        w.calls += 1;
        let ms = w.random.between(0, 2);
        w.pass(ms);
        if self.is_gone(&w) {
            return Fate::Death;
        }
        if w.calls > CALLS_MAX {
            w.violation(Rule::Sound, format!("process {} goes on without end in {call}", self.process));
            return Fate::Death;
        }
        let rates = w.plan.rates;
        if w.fault(rates.crash) {
            let process = self.process;
            w.note(|| format!("process {process} is about to die in {call}"));
            return Fate::Death;
        }
        if w.depth < DEPTH_MAX && w.fault(rates.stall) {
            let often = if w.plan.long_stalls { 400 } else { 200 };
            let ticks = match w.random.chance(often) {
                true if w.plan.long_stalls => 300,
                true => 60,
                false => 12,
            };
            return Fate::Stall { ticks: 1 + w.random.below(ticks), whole: w.random.chance(500) };
        }
        Fate::None
    }

    fn stall(&self, call: &str, ticks: usize, whole: bool, holds: bool) {
        self.hold(call, whole, holds, true);
        let steered = {
            let mut w = self.lock();
            w.plan.long_stalls && w.random.chance(500)
        };
        for n in 0..ticks {
            // Away and back: another instance works on meanwhile, and has gone again when this one wakes.
            if steered && n == 0 {
                self.steer(Some(Steer::AwayFrom(self.process)));
            } else if steered && n == ticks / 2 {
                self.steer(Some(Steer::Towards(self.process)));
            }
            crate::ticks::tick(&self.world);
        }
        if steered {
            self.steer(None);
        }
        self.hold(call, whole, holds, false);
        let gone = self.is_gone(&self.lock());
        if gone {
            resume_unwind(Box::new(Death));
        }
    }

    fn steer(&self, to: Option<Steer>) {
        let mut w = self.lock();
        w.note(|| format!("partitions are moved: {to:?}"));
        if let Some(group) = w.groups.get_mut(self.pipeline) {
            group.steer = to;
            group.dirty = true;
        }
    }

    fn hold(&self, call: &str, whole: bool, holds: bool, on: bool) {
        let mut w = self.lock();
        let (process, lane) = (self.process, self.lane);
        let step = |n: u32, by: bool| {
            if !by {
                n
            } else if on {
                n + 1
            } else {
                n.saturating_sub(1)
            }
        };
        if on {
            w.note(|| format!("process {process} lane {lane} stalls in {call}, wholly: {whole}"));
            w.depth += 1;
        } else {
            w.depth -= 1;
            w.note(|| format!("process {process} lane {lane} goes on in {call}"));
        }
        if let Some(p) = w.processes.get_mut(process).filter(|p| p.life == self.life) {
            p.frozen = step(p.frozen, whole);
            p.blocked = step(p.blocked, holds);
        }
    }
}
