//! Cuts a failing schedule down: fewer things that go wrong, fewer events, fewer instances, as long as the same
//! rule is broken. What is left is short enough to be read step by step.

use crate::plan::{LastAct, Plan};
use crate::{Report, run_plan};

/// Schedules that are tried at most.
const TRIES_MAX: usize = 200;

type Cut = fn(&mut Plan);

/// From the largest to the smallest. Each is tried again and again until none helps.
const CUTS: &[Cut] = &[
    |plan| plan.last_act = LastAct::None,
    |plan| plan.pipelines.truncate(1),
    |plan| plan.partitions = 1,
    |plan| plan.rates.crash = 0,
    |plan| plan.rates.stall = 0,
    |plan| plan.rates.kafka = 0,
    |plan| plan.rates.sink = 0,
    |plan| plan.rates.store = 0,
    |plan| plan.rates.slow_commit = 0,
    |plan| plan.rates.world = 0,
    |plan| plan.rates.markers = 1_000,
    |plan| plan.pipelines.iter_mut().for_each(|p| p.folds.truncate(1)),
    |plan| plan.pipelines.iter_mut().for_each(|p| p.lanes = 1),
    |plan| plan.pipelines.iter_mut().for_each(|p| p.instances = 1),
    |plan| plan.ticks /= 2,
    |plan| plan.ticks -= plan.ticks / 8,
];

/// Parts of the events that are left out, one part after the other: halves, then ever smaller ones.
const PARTS: [usize; 4] = [2, 4, 8, 16];

/// The smallest schedule found, and what came of it, with its trace.
#[must_use]
pub fn shrink(seed: u64, mut plan: Plan) -> (Plan, Report) {
    let mut report = run_plan(plan.clone(), seed, true);
    let rule = report.broken();
    let mut tries = 0;
    let mut helped = rule.is_some();
    while std::mem::take(&mut helped) {
        let mut attempt = |cut: &dyn Fn(&mut Plan)| {
            let mut smaller = plan.clone();
            cut(&mut smaller);
            if tries == TRIES_MAX || smaller == plan {
                return;
            }
            tries += 1;
            let found = run_plan(smaller.clone(), seed, true);
            if found.broken() == rule {
                (plan, report, helped) = (smaller, found, true);
            }
        };
        CUTS.iter().for_each(|cut| attempt(cut));
        for (parts, part) in PARTS.into_iter().flat_map(|parts| (0..parts).map(move |part| (parts, part))) {
            attempt(&|plan| {
                let length = plan.traffic.len();
                drop(plan.traffic.drain(length * part / parts..length * (part + 1) / parts));
            });
        }
    }
    (plan, report)
}
