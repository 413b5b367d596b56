//! Runs the shipped processor loop in a simulated world, from one seed, in one thread, without real time: a
//! Kafka with transactions and groups, sinks, disks, clocks, senders and instances that crash, stall and come
//! back. Afterwards all is healed, and an oracle outside of the fold's code checks what came of each event.
//!
//! Reading order: [`plan`] (what a schedule is about) → [`world`] (who calls whom) → [`env`] (what happens to a
//! call) → [`ticks`] (what happens else) → the surroundings ([`kafka`], [`group`], [`log`], [`journal`], [`sink`], [`disk`], [`senders`], the [`operator`]) →
//! [`oracle`] with its [`model`] and [`rules`] → [`acts`] → [`defects`] → [`shrink`].

pub mod acts;
pub mod defects;
pub mod disk;
pub mod env;
pub mod events;
pub mod group;
pub mod journal;
pub mod kafka;
pub mod log;
pub mod model;
pub mod operator;
pub mod oracle;
pub mod plan;
pub mod random;
pub mod rules;
pub mod senders;
pub mod shrink;
pub mod sink;
pub mod ticks;
pub mod time;
pub mod world;

use std::sync::Arc;

use crate::defects::Planted;
use crate::plan::Plan;
use crate::rules::{Rule, Violation};
use crate::world::World;

/// Turns of a healed world until it must be at rest.
const REST_TURNS_MAX: usize = 2_500;

/// What came of a schedule.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What must not have happened; empty when all is well.
    pub violations: Vec<Violation>,
    /// Every step, where asked for.
    pub trace: Vec<String>,
    /// Calls that lanes made.
    pub calls: u64,
}

impl Report {
    /// The rule that was violated first.
    #[must_use]
    pub fn broken(&self) -> Option<Rule> {
        self.violations.first().map(|violation| violation.rule)
    }
}

/// Runs the schedule of a seed. The same seed and defect give the same steps.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    run_plan(Plan::draw(seed, planted), seed, trace)
}

/// Runs a schedule that was drawn from a seed, and perhaps cut down since.
#[must_use]
pub fn run_plan(plan: Plan, seed: u64, trace: bool) -> Report {
    processor::defect::plant(plan.in_code());
    let world = World::new(plan, seed, trace);
    play(&world);
    world.end();
    processor::defect::plant(None);
    let mut w = world.lock();
    let trace = w.trace.take().unwrap_or_default();
    Report { violations: std::mem::take(&mut w.violations), trace, calls: w.calls }
}

fn play(world: &Arc<World>) {
    let (ticks, count) = {
        let mut w = world.lock();
        let plan = w.plan.to_string();
        w.note(|| plan);
        (w.plan.ticks, w.processes.len())
    };
    for process in 0..count {
        if process == 0 || world.lock().random.chance(500) {
            world.start(process);
        }
    }
    for _ in 0..ticks {
        ticks::tick(world);
        if !world.lock().violations.is_empty() {
            return;
        }
    }
    ticks::heal(world);
    if !come_to_rest(world) {
        return;
    }
    for process in 0..count {
        let alive = world.lock().processes.get(process).is_some_and(|p| p.alive);
        if alive {
            world.stop(process);
        }
    }
    oracle::check(world);
    if world.lock().violations.is_empty() {
        acts::play(world);
    }
}

/// Lets a healed world come to rest; false, and a violation, where it does not.
pub(crate) fn come_to_rest(world: &Arc<World>) -> bool {
    for turn in 0..REST_TURNS_MAX {
        ticks::quiet_tick(world);
        let mut w = world.lock();
        if !w.violations.is_empty() {
            return false;
        }
        if turn % 8 == 7 {
            w.pass(300);
            operator::close_parked(&mut w);
            if oracle::unrest(&mut w).is_none() {
                return true;
            }
        }
    }
    let mut w = world.lock();
    let what = oracle::unrest(&mut w).unwrap_or_default();
    let said: Vec<String> = w.processes.iter().flat_map(|p| p.health.problems()).collect();
    w.violation(Rule::Rest, format!("{what}; said: {said:?}"));
    false
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]
mod tests {
    use super::*;

    /// Promise: a schedule that fails is cut down to one that breaks the same rule, and each of its steps is shown.
    #[test]
    fn a_failing_schedule_is_shrunk() {
        let planted = Some(Planted::DeduplicatedBeforeAppend);
        let failing = (0..200).find(|seed| run(*seed, planted, false).broken().is_some()).unwrap();
        let before = Plan::draw(failing, planted);
        let (plan, report) = shrink::shrink(failing, before.clone());
        assert_eq!(report.broken(), Some(Rule::Durable));
        assert!(plan.traffic.len() < before.traffic.len(), "{} events left", plan.traffic.len());
        assert!(!report.trace.is_empty());
        assert_eq!(run_plan(plan, failing, true).trace, report.trace);
    }

    /// Promise: a seed replays exactly.
    #[test]
    fn the_same_seed_gives_the_same_steps() {
        for seed in 0..5 {
            let (one, two) = (run(seed, None, true), run(seed, None, true));
            assert_eq!(one.violations, [], "seed {seed}");
            assert_eq!(one.trace, two.trace, "seed {seed}");
        }
    }
}
