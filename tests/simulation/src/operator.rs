//! An operator who looks at the open gaps and goes on without what is missing, `processor gaps skip`: often too late,
//! when the gap is another one by now, and now and then about one that was never there.

use std::sync::Arc;

use processor::control::{Control, GapSkip};
use processor::fold::Order;

use crate::events::control_record;
use crate::kafka::{Body, Topic};
use crate::oracle;
use crate::world::{Inner, WALL_START_MS};

/// A gap as the journal has it.
struct Seen {
    partition: i32,
    key: Vec<u8>,
    next: Option<u64>,
    opened_at: i64,
    parked: bool,
}

fn gaps(w: &mut Inner, pipeline: usize) -> Vec<Seen> {
    let mut seen = Vec::new();
    for partition in 0..w.plan.partitions {
        // A journal that cannot be followed is for the check to report.
        let Ok(replay) = oracle::journal(w, pipeline, partition) else { continue };
        seen.extend(replay.state.gaps().map(|open| Seen {
            partition,
            key: open.key.to_vec(),
            next: open.next,
            opened_at: open.gap.opened_at,
            parked: open.gap.is_parked(),
        }));
    }
    seen
}

/// Skips one gap of a pipeline, while things go wrong.
pub fn act(w: &mut Inner, pipeline: usize) {
    let mut seen = gaps(w, pipeline);
    let pick = w.random.below(seen.len());
    if pick >= seen.len() {
        return;
    }
    let mut gap = seen.swap_remove(pick);
    match w.random.below(6) {
        0 => gap.opened_at += 1,
        1 => gap.next = gap.next.map(|next| next + 1),
        _ => {}
    }
    let late_ms = if w.random.chance(500) { w.random.between(0, 5_000) } else { 0 };
    append(w, pipeline, &gap, late_ms);
}

/// Skips every parked gap, where the schedule has an operator for that.
pub fn close_parked(w: &mut Inner) {
    for pipeline in 0..w.groups.len() {
        if w.plan.operator && may_park(w, pipeline) {
            for gap in gaps(w, pipeline).iter().filter(|gap| gap.parked) {
                append(w, pipeline, gap, 0);
            }
        }
    }
}

fn may_park(w: &Inner, pipeline: usize) -> bool {
    let parks = |order: &Order| matches!(order, Order::Sequence { gap_policy, .. } if gap_policy.parks());
    let folds = w.plan.pipelines.get(pipeline).into_iter().flat_map(|p| &p.folds);
    folds.flat_map(|fold| fold.sources.values()).any(|source| parks(&source.order))
}

fn append(w: &mut Inner, pipeline: usize, gap: &Seen, late_ms: i64) {
    let Some(name) = w.plan.pipelines.get(pipeline).map(|p| p.name.clone()) else { return };
    let (next, opened_at) = (gap.next, gap.opened_at);
    let (by, why) = ("ann".to_owned(), "the provider lost it".to_owned());
    let control = Control::GapSkip(GapSkip { pipeline: name, next, opened_at, by, why });
    let Some(record) = control_record(&gap.key, &control, WALL_START_MS + w.now_ms) else { return };
    w.note(|| format!("an operator appends to log {}, in {late_ms} ms: {control:?}", gap.partition));
    let due_ms = w.now_ms + late_ms;
    w.delayed_appends.push((due_ms, (Topic::Log, gap.partition), Body::Log(Arc::new(record))));
}
