//! Runs the shipped processor loop in a simulated world, from one seed, in one thread, without real time: a
//! Kafka with transactions and groups, sinks, disks, clocks, senders and instances that crash, stall and come
//! back. Afterwards all is healed, and an oracle outside of the fold's code checks what came of each event.
//!
//! Reading order: [`plan`] (what a schedule is about) → [`world`] (who calls whom) → [`ticks`] (what happens)
//! → the surroundings ([`kafka`], [`group`], [`log`], [`journal`], [`sink`], [`disk`], [`senders`]) →
//! [`oracle`] with its [`model`] → [`acts`] → [`defects`].

pub mod acts;
pub mod defects;
pub mod disk;
pub mod events;
pub mod group;
pub mod journal;
pub mod kafka;
pub mod log;
pub mod model;
pub mod oracle;
pub mod plan;
pub mod random;
pub mod senders;
pub mod sink;
pub mod ticks;
pub mod time;
pub mod world;

use std::sync::Arc;

use crate::defects::Planted;
use crate::plan::Plan;
use crate::world::World;

/// Turns of a healed world until it must be at rest.
const REST_TURNS_MAX: usize = 2_500;

/// What came of a schedule.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What must not have happened; empty when all is well.
    pub violations: Vec<String>,
    /// Every step, where asked for.
    pub trace: Vec<String>,
    /// Calls that lanes made.
    pub calls: u64,
}

/// Runs the schedule of a seed. The same seed and defect give the same steps.
#[must_use]
pub fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Report {
    processor::defect::plant(match planted {
        Some(Planted::Code(defect)) => Some(defect),
        Some(_) | None => None,
    });
    let world = World::new(Plan::draw(seed, planted), seed, trace);
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
        let plan = format!("{:?}", w.plan.rates);
        let shape: Vec<_> = w
            .plan
            .pipelines
            .iter()
            .map(|p| (p.instances, p.lanes, p.kafka_sink, p.checkpoint_interval, p.checkpoint_records_max))
            .collect();
        let (partitions, unfenced) = (w.plan.partitions, w.plan.unfenced_group);
        w.note(|| format!("{partitions} partitions, pipelines {shape:?}, {plan}, unfenced {unfenced}"));
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
            if oracle::is_at_rest(&mut w) {
                return true;
            }
        }
    }
    let mut w = world.lock();
    let why: Vec<String> = w.processes.iter().flat_map(|p| p.health.problems()).collect();
    w.violation(format!("does not come to rest: {why:?}"));
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Promise: a seed replays exactly.
    #[test]
    fn the_same_seed_gives_the_same_steps() {
        for seed in 0..5 {
            let (one, two) = (run(seed, None, true), run(seed, None, true));
            assert_eq!(one.violations, Vec::<String>::new(), "seed {seed}");
            assert_eq!(one.trace, two.trace, "seed {seed}");
        }
    }
}
