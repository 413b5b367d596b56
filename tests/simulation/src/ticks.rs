//! What happens in the world, one thing at a time, drawn by chance; and how it heals.

use std::sync::Arc;

use processor::lane::Command;

use crate::defects::Planted;
use crate::group::Callback;
use crate::kafka::Topic;
use crate::world::{Inner, World};

/// One thing happens.
pub fn tick(world: &Arc<World>) {
    let roll = {
        let mut w = world.lock();
        let ms = w.random.between(0, 20);
        w.pass(ms);
        w.random.below(100)
    };
    match roll {
        0..=54 => world.turn(),
        55..=66 => call_back(&mut world.lock()),
        67..=79 => crate::senders::send(&mut world.lock()),
        80..=85 => rebalance(&mut world.lock()),
        86..=90 => start_one(world),
        91..=94 => {
            let mut w = world.lock();
            let ms = if w.random.chance(100) {
                w.random.between(2_000, 20_000)
            } else {
                w.random.between(50, 800)
            };
            w.pass(ms);
        }
        _ => disturb(world),
    }
}

/// Starts an instance that is not running.
fn start_one(world: &Arc<World>) {
    let process = {
        let mut w = world.lock();
        let idle = |(n, p): (usize, &crate::world::Process)| (!p.alive).then_some(n);
        let idle: Vec<usize> = w.processes.iter().enumerate().filter_map(idle).collect();
        w.random.pick(&idle)
    };
    if let Some(process) = process {
        world.start(process);
    }
}

/// A process's client calls back.
pub fn call_back(w: &mut Inner) {
    let count = w.processes.len();
    let process = w.random.below(count);
    call_back_of(w, process);
}

fn call_back_of(w: &mut Inner, process: usize) {
    let late = w.plan.has(Planted::CommitAfterRevoke);
    let keeps = w.plan.has(Planted::EmptyAssignIgnored);
    let Inner { processes, groups, .. } = &mut *w;
    let Some(p) = processes.get_mut(process) else { return };
    let Some(group) = groups.get_mut(p.pipeline) else { return };
    if !p.alive || p.frozen > 0 || p.blocked > 0 {
        return;
    }
    let lanes = p.commands.len().max(1);
    let lane_of = |partition: i32| usize::try_from(partition).unwrap_or(0) % lanes;
    if !group.knows(process, p.member) {
        // The session is lost, and all partitions with it.
        let lost: Vec<i32> = std::mem::take(&mut p.owned).into_iter().collect();
        if !late {
            p.tickets.revoke(&lost);
        }
        for partition in &lost {
            if let Some(commands) = p.commands.get_mut(lane_of(*partition)) {
                commands.push_back(Command::Revoke(*partition));
            }
        }
        p.callbacks.clear();
        p.callbacks.extend(group.join(process));
        p.member = group.members.get(&process).copied();
        w.note(|| format!("process {process} lost {lost:?}, and joins again"));
        return;
    }
    let Some(callback) = p.callbacks.pop_front() else { return };
    match &callback {
        Callback::Assign(partitions, _) if partitions.is_empty() && keeps => {}
        Callback::Assign(partitions, generation) => {
            for (partition, ticket) in p.tickets.assign(partitions, *generation) {
                p.owned.insert(partition);
                if let Some(commands) = p.commands.get_mut(lane_of(partition)) {
                    commands.push_back(Command::Assign(partition, ticket));
                }
            }
        }
        Callback::Revoke(partitions) => {
            if !late {
                p.tickets.revoke(partitions);
            }
            for partition in partitions {
                p.owned.remove(partition);
                if let Some(commands) = p.commands.get_mut(lane_of(*partition)) {
                    commands.push_back(Command::Revoke(*partition));
                }
                group.release(process, *partition);
            }
        }
    }
    w.note(|| format!("process {process}: {callback:?}"));
}

/// The group rebalances where that is due, once all members are there or their sessions are over.
pub fn rebalance(w: &mut Inner) {
    let pipelines = w.groups.len();
    let pipeline = w.random.below(pipelines);
    let Some(group) = w.groups.get(pipeline) else { return };
    let members: Vec<usize> = group.members.keys().copied().collect();
    let mut waits = false;
    for process in members {
        let Some(p) = w.processes.get(process) else { continue };
        let silent = !p.alive || p.frozen > 0;
        let busy = p.blocked > 0 || !p.callbacks.is_empty();
        if silent && (w.random.chance(300) || !w.faults) {
            w.note(|| format!("the session of process {process} is over"));
            if let Some(group) = w.groups.get_mut(pipeline) {
                group.expel(process);
            }
        } else if silent || busy {
            waits = true;
        }
    }
    let partitions = w.plan.partitions;
    let restless = w.plan.long_stalls && w.faults;
    let Inner { groups, processes, random, .. } = &mut *w;
    let Some(group) = groups.get_mut(pipeline) else { return };
    if restless && random.chance(400) {
        group.dirty = true;
    }
    if waits || !group.dirty || group.members.is_empty() {
        return;
    }
    let told = group.rebalance(random, partitions);
    let generation = group.generation;
    for (process, callback) in &told {
        if let Some(p) = processes.get_mut(*process) {
            p.callbacks.push_back(callback.clone());
        }
    }
    w.note(|| format!("pipeline {pipeline} generation {generation}: {told:?}"));
}

/// Something in the world changes.
fn disturb(world: &Arc<World>) {
    let (rate, what) = {
        let mut w = world.lock();
        (w.plan.rates.world, w.random.below(11))
    };
    if !world.lock().fault(rate * 10) {
        return;
    }
    let mut w = world.lock();
    let pipelines = w.groups.len();
    let pipeline = w.random.below(pipelines);
    let count = w.processes.len();
    let process = w.random.below(count);
    match what {
        0 | 1 => {
            if let Some(group) = w.groups.get_mut(pipeline) {
                group.dirty = true;
            }
        }
        2 => {
            drop(w);
            world.kill(process);
        }
        3 => {
            drop(w);
            let alive = world.lock().processes.get(process).is_some_and(|p| p.alive && p.frozen == 0);
            if alive {
                world.stop(process);
            }
        }
        4 => {
            let partitions = w.broker_skew_ms.len();
            let partition = w.random.below(partitions);
            let jump = w.random.between(-8_000, 8_000);
            if let Some(skew) = w.broker_skew_ms.get_mut(partition) {
                *skew = jump;
            }
            w.note(|| format!("the clock of log {partition} jumps to {jump}"));
        }
        5 => {
            if let Some(db) = w.sinks.get_mut(pipeline) {
                db.relaxed = !db.relaxed;
            }
        }
        6 => {
            if let Some(db) = w.sinks.get_mut(pipeline) {
                db.backups.push(db.tables.clone());
            }
        }
        7 => retention(&mut w),
        8 => crate::operator::act(&mut w, pipeline),
        9 if !w.upgraded => {
            // A program of the second version does not come before those of the first have ended: they would stop.
            w.upgraded = true;
            w.note(|| "all are upgraded".to_owned());
            drop(w);
            (0..count).for_each(|process| world.kill(process));
        }
        _ => {
            let skew = w.random.between(-8_000, 8_000);
            if let Some(p) = w.processes.get_mut(process) {
                p.wall_skew_ms = skew;
            }
        }
    }
}

/// Old records of the log are deleted; never what a pipeline has not folded.
fn retention(w: &mut Inner) {
    if w.plan.unfenced_group || w.plan.last_act != crate::plan::LastAct::None {
        return;
    }
    for partition in 0..w.plan.partitions {
        let mut folded = usize::MAX;
        for pipeline in 0..w.groups.len() {
            let committed = w.kafka.committed(pipeline, partition).flatten();
            folded = folded.min(committed.map_or(0, |c| usize::try_from(c.offset).unwrap_or(0)));
        }
        let log = w.kafka.partition((Topic::Log, partition));
        if folded > log.low && folded <= log.entries.len() {
            let low = log.low + w.random.below(folded - log.low + 1);
            w.kafka.partition((Topic::Log, partition)).low = low;
            w.note(|| format!("log {partition} now starts at {low}"));
        }
    }
}

/// Nothing goes wrong any more; clocks agree; one instance of each pipeline at least is to run.
pub fn heal(world: &Arc<World>) {
    let idle: Vec<usize> = {
        let mut w = world.lock();
        w.note(|| "all is healed".to_owned());
        w.faults = false;
        w.broker_skew_ms.iter_mut().for_each(|skew| *skew = 0);
        for p in &mut w.processes {
            p.wall_skew_ms = 0;
            p.frozen = 0;
        }
        let idle = |(n, p): (usize, &crate::world::Process)| (!p.alive && p.number == 0).then_some(n);
        w.processes.iter().enumerate().filter_map(idle).collect()
    };
    for process in idle {
        world.start(process);
    }
}

/// One step of a healed world: only what brings it to rest.
pub fn quiet_tick(world: &Arc<World>) {
    {
        let mut w = world.lock();
        crate::senders::send(&mut w);
        for process in 0..w.processes.len() {
            call_back_of(&mut w, process);
        }
        for _ in 0..w.groups.len() {
            rebalance(&mut w);
        }
        w.pass(20);
    }
    for _ in 0..4 {
        world.turn();
    }
}
