//! The oracle: what a world at rest must look like. It reads the topics as a `read_committed` consumer does,
//! the sinks' tables and the disks, and knows what was acknowledged.

use std::collections::{BTreeMap, BTreeSet};

use processor::fold::{State, decide};
use processor::journal::{Mark, Replay};
use processor::position::Position;

use crate::kafka::{Body, Topic};
use crate::model::{End, Input, Must, Outcome};
use crate::rules::Rule;
use crate::world::{Inner, World};

/// Follows a partition's journal from its start.
///
/// # Errors
/// It cannot be followed.
pub fn journal(w: &mut Inner, pipeline: usize, partition: i32) -> Result<Replay, String> {
    let mut replay = Replay::new(State::new(0), Mark::START);
    for (offset, value) in journal_records(w, pipeline, partition) {
        replay.take(offset, &value).map_err(|e| e.to_string())?;
    }
    Ok(replay)
}

fn journal_records(w: &mut Inner, pipeline: usize, partition: i32) -> Vec<(i64, Vec<u8>)> {
    let journal = w.kafka.partition((Topic::Journal(pipeline), partition));
    let of = |(n, e): (usize, &crate::kafka::Entry)| match &e.body {
        Body::Journal(value) => Some((i64::try_from(n).ok()?, value.to_vec())),
        Body::Log(_) | Body::Chunk(_) | Body::Effect(_) | Body::Offsets(_) | Body::Marker => None,
    };
    journal.ever_visible().filter_map(of).collect()
}

/// What keeps the world from rest; `None` where everything was sent, folded and made final, and no gap is open but those
/// that are parked.
pub fn unrest(w: &mut Inner) -> Option<String> {
    if !w.senders.are_done() || !w.delayed_appends.is_empty() {
        return Some("something is still being sent".to_owned());
    }
    if w.kafka.is_held_up() {
        return Some("a transaction is open".to_owned());
    }
    for pipeline in 0..w.groups.len() {
        for partition in 0..w.plan.partitions {
            let end = log_end(w, partition);
            let committed = w.kafka.committed(pipeline, partition).flatten().map_or(-1, |c| c.offset);
            // A zombie's commit that was taken can move the offset back; the journal wins.
            if committed < end && !w.plan.unfenced_group {
                return Some(format!("p{pipeline} partition {partition}: {committed} of {end} is committed"));
            }
            // A journal that cannot be followed is for the check to report.
            let Ok(replay) = journal(w, pipeline, partition) else { continue };
            let parked = if w.plan.operator { 0 } else { replay.state.gaps_parked() };
            let (gaps, next) = (replay.state.gaps_open() - parked, replay.state.head().next_offset);
            if gaps > 0 || next < end {
                return Some(format!(
                    "p{pipeline} partition {partition}: the journal is at {next} of {end}, {gaps} gaps are open"
                ));
            }
        }
    }
    None
}

fn log_end(w: &mut Inner, partition: i32) -> i64 {
    let log = w.kafka.partition((Topic::Log, partition));
    log.visible(0).last().map_or(0, |(n, _)| i64::try_from(n).unwrap_or(0) + 1)
}

/// Checks everything. Violations are noted in the world.
pub fn check(world: &World) {
    let mut w = world.lock();
    check_acknowledged(&mut w);
    let mut states = BTreeMap::new();
    for pipeline in 0..w.groups.len() {
        for partition in 0..w.plan.partitions {
            match check_partition(&mut w, pipeline, partition) {
                Ok((bytes, mark)) => {
                    states.insert((pipeline, partition), (bytes, mark));
                }
                Err((rule, text)) => {
                    w.violation(rule, format!("p{pipeline} partition {partition}: {text}"));
                }
            }
        }
    }
    let processes: Vec<(usize, usize)> =
        w.processes.iter().enumerate().map(|(n, p)| (n, p.pipeline)).collect();
    drop(w);
    // A store whose mark is the journal's last must hold the journal's state.
    for (process, pipeline) in processes {
        for ((of, partition), (bytes, mark)) in &states {
            if *of != pipeline {
                continue;
            }
            if let Some((state, stored_mark)) = world.stored(process, *partition)
                && stored_mark == *mark
                && whole(&state) != *bytes
            {
                let text =
                    format!("the store of process {process} partition {partition} is not the journal's");
                world.lock().violation(Rule::Store, text);
            }
        }
    }
}

fn whole(state: &State) -> Vec<u8> {
    let mut whole = state.whole();
    // Refusals below the next record are done with; a store that was written before one lacks it.
    whole.head.refusals.clear();
    postcard::to_allocvec(&whole).unwrap_or_default()
}

/// Every acknowledged event is in the log.
fn check_acknowledged(w: &mut Inner) {
    let mut found = BTreeSet::new();
    for partition in 0..w.plan.partitions {
        let log = w.kafka.partition((Topic::Log, partition));
        let low = std::mem::take(&mut log.low);
        for (_, entry) in log.visible(0) {
            if let Body::Log(record) = &entry.body
                && let Some(event) = &record.event
            {
                found.insert(event.identity());
            }
        }
        log.low = low;
    }
    for n in w.senders.acknowledged.clone() {
        let Some(event) = w.senders.event(n).cloned() else { continue };
        if !found.contains(&event.identity()) {
            w.violation(Rule::Durable, format!("acknowledged, and not in the log: {event:?}"));
        }
    }
}

type Checked = (Vec<u8>, Mark);
type Broken = (Rule, String);

fn check_partition(w: &mut Inner, pipeline: usize, partition: i32) -> Result<Checked, Broken> {
    let replay = journal(w, pipeline, partition).map_err(|text| (Rule::Journal, text))?;
    let refused = refusals(w, pipeline, partition);
    let name = w.plan.pipelines.get(pipeline).map(|p| p.name.clone()).unwrap_or_default();
    let log = w.kafka.partition((Topic::Log, partition));
    let low = std::mem::take(&mut log.low);
    let owned: Vec<_> = log
        .visible(0)
        .filter_map(|(n, e)| match &e.body {
            Body::Log(record) => Some((i64::try_from(n).ok()?, e.time_ms, record.clone())),
            Body::Journal(_) | Body::Chunk(_) | Body::Effect(_) | Body::Offsets(_) | Body::Marker => None,
        })
        .collect();
    log.low = low;
    let input: Vec<Input<'_>> = owned.iter().map(|(n, time, record)| (*n, *time, &**record)).collect();
    let outcome = crate::model::read(&input, &name, &refused);
    check_totals(&input, &outcome, &replay.state).map_err(|text| (Rule::Books, text))?;
    check_asked(w, pipeline, &outcome).map_err(|text| (Rule::Asked, text))?;
    check_effects(w, pipeline, partition, &input, &outcome).map_err(|text| (Rule::OnceInOrder, text))?;
    // A refusal that no effect met, or that the sink never spoke, is one too many.
    let met: BTreeSet<Position> =
        outcome.effects.iter().filter(|e| e.must == Must::Refused).map(|e| e.position).collect();
    if met != refused {
        return Err((Rule::Refusals, format!("refusals in the journal {refused:?}, met by the log {met:?}")));
    }
    for effect in outcome.effects.iter().filter(|e| e.must == Must::Refused) {
        let spoken =
            w.sinks.get(pipeline).is_some_and(|db| db.refused.contains(&(partition, effect.event_offset)));
        if !spoken {
            let at = effect.position;
            return Err((Rule::Refusals, format!("{at} dead-lettered, but the sink never refused it alone")));
        }
    }
    let fresh = fold(&input, &name, &refused).map_err(|text| (Rule::Fold, text))?;
    if whole(&fresh) != whole(&replay.state) {
        let (found, expected) = (replay.state.whole(), fresh.whole());
        return Err((
            Rule::Fold,
            format!("the journal's state:\n  {found:?}\na fresh fold:\n  {expected:?}"),
        ));
    }
    Ok((whole(&replay.state), replay.mark))
}

/// What the sink refused, by the dead letters: they are kept where a journal is lost or trimmed.
fn refusals(w: &mut Inner, pipeline: usize, partition: i32) -> BTreeSet<Position> {
    let of = |(_, e): (usize, &crate::kafka::Entry)| match &e.body {
        Body::Effect(e) => e.refused.is_some().then_some(e.position),
        Body::Log(_) | Body::Journal(_) | Body::Chunk(_) | Body::Offsets(_) | Body::Marker => None,
    };
    w.kafka.partition((Topic::Dead(pipeline), partition)).visible(0).filter_map(of).collect()
}

/// The offsets of the journal's records that count.
pub fn counted(w: &mut Inner, pipeline: usize, partition: i32) -> Vec<i64> {
    let mut replay = Replay::new(State::new(0), Mark::START);
    let mut counted = Vec::new();
    for (offset, value) in journal_records(w, pipeline, partition) {
        if replay.take(offset, &value).is_ok() && replay.mark.offset == offset {
            counted.push(offset);
        }
    }
    counted
}

/// Each event came to one end, and the books say so.
fn check_totals(log: &[Input<'_>], outcome: &Outcome, state: &State) -> Result<(), String> {
    let totals = &state.head().totals;
    let events = log.iter().filter(|(_, _, record)| record.control.is_none()).count() as u64;
    let offsets: BTreeSet<i64> = outcome.ends.iter().map(|(offset, _)| *offset).collect();
    let pairs = [
        ("applied", totals.applied, outcome.count(End::Applied)),
        ("duplicate", totals.duplicate, outcome.count(End::Duplicate)),
        ("stale", totals.stale, outcome.count(End::Stale)),
        ("held", totals.held, outcome.count(End::Held)),
        ("dead-lettered", totals.dead_lettered, outcome.count(End::DeadLettered)),
        ("ignored", totals.ignored, outcome.count(End::Ignored)),
        ("control", totals.control, outcome.controls),
        ("all events", totals.events(), events),
        ("ends", offsets.len() as u64, events),
        ("held at rest", totals.held, outcome.parked),
    ];
    match pairs.iter().find(|(_, found, expected)| found != expected) {
        Some((what, found, expected)) => Err(format!("{what}: {found} in the books, {expected} by the log")),
        None => Ok(()),
    }
}

/// Gaps whose policy is to ask for what is missing ended their wait after it was asked for. Under changing
/// configurations the policy may have been another one when the gap was looked at.
fn check_asked(w: &Inner, pipeline: usize, outcome: &Outcome) -> Result<(), String> {
    let is_steady = !w.plan.first_fold && w.plan.pipelines.get(pipeline).is_some_and(|p| p.folds.len() == 1);
    let asked = |e: &&crate::events::SimEvent| {
        w.asked.contains(&(pipeline, e.source.clone(), e.connection.clone(), e.entity.clone()))
    };
    match outcome.given_up.iter().find(|event| is_steady && !asked(event)) {
        Some(event) => Err(format!("nobody asked for what this one waited for: {event:?}")),
        None => Ok(()),
    }
}

/// Rows and outputs: each effect once, in order. Dead letters: each once.
fn check_effects(
    w: &mut Inner,
    pipeline: usize,
    partition: i32,
    log: &[Input<'_>],
    outcome: &Outcome,
) -> Result<(), String> {
    let of = |must: &[Must]| -> Vec<(Position, i64)> {
        let list = outcome.effects.iter().filter(|e| must.contains(&e.must));
        list.map(|e| (e.position, e.event_offset)).collect()
    };
    let frame_of = |offset: i64| log.iter().find(|(n, _, _)| *n == offset).map(|(_, _, r)| &r.frame);
    let kafka_sink = w.plan.pipelines.get(pipeline).is_some_and(|p| p.kafka_sink);
    let outputs = committed_effects(w, Topic::Output(pipeline), partition);
    let rows = w.sinks.get(pipeline).and_then(|db| db.tables.rows.get(&partition)).cloned();
    let applied: Vec<_> = if kafka_sink {
        outputs
    } else {
        rows.unwrap_or_default().into_iter().map(|r| (r.position, r.event_offset, r.frame)).collect()
    };
    let found: Vec<_> = applied.iter().map(|(position, offset, _)| (*position, *offset)).collect();
    compare("applied", &found, &of(&[Must::Apply]))?;
    let mut dead = committed_effects(w, Topic::Dead(pipeline), partition);
    dead.sort_by_key(|(position, _, _)| *position);
    let found: Vec<_> = dead.iter().map(|(position, offset, _)| (*position, *offset)).collect();
    compare("dead-lettered", &found, &of(&[Must::DeadLetter, Must::Refused]))?;
    match applied.iter().chain(&dead).find(|(_, offset, frame)| frame_of(*offset) != Some(frame)) {
        Some((position, ..)) => Err(format!("{position} has another content than the log")),
        None => Ok(()),
    }
}

/// Effects shown around the first difference.
const SHOWN: usize = 6;

fn compare(what: &str, found: &[(Position, i64)], expected: &[(Position, i64)]) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let same = found.iter().zip(expected).take_while(|(found, expected)| found == expected).count();
    let text = |list: &[(Position, i64)]| {
        let show = |(position, offset): &(Position, i64)| format!("{position}<{offset}");
        let shown = list.iter().skip(same.saturating_sub(1)).take(SHOWN).map(show).collect::<Vec<_>>();
        format!("{} of {}", shown.join(" "), list.len())
    };
    Err(format!(
        "{what}, {same} as they must be, then (position<offset of the event):\n  found    {}\n  expected {}",
        text(found),
        text(expected)
    ))
}

fn committed_effects(
    w: &mut Inner,
    topic: Topic,
    partition: i32,
) -> Vec<(Position, i64, processor::frame::Frame)> {
    let of = |(_, e): (usize, &crate::kafka::Entry)| match &e.body {
        Body::Effect(e) => Some((e.position, e.event_offset, e.frame.clone())),
        Body::Log(_) | Body::Journal(_) | Body::Chunk(_) | Body::Offsets(_) | Body::Marker => None,
    };
    w.kafka.partition((topic, partition)).visible(0).filter_map(of).collect()
}

/// The shipped fold, over the whole log in one go.
fn fold(log: &[Input<'_>], pipeline: &str, refused: &BTreeSet<Position>) -> Result<State, String> {
    use processor::control::Control;
    use processor::fold::{InForce, Record};
    let mut state = State::new(0);
    for position in refused {
        state.refuse(*position, String::new());
    }
    let first = log.iter().find_map(|(_, _, record)| match &record.control {
        Some(Control::Config(c)) if c.pipeline == pipeline => {
            Some(InForce { config: c.fold.clone(), epoch: c.epoch })
        }
        Some(Control::Config(_) | Control::GapExpired(_) | Control::GapSkip(_)) | None => None,
    });
    if let Some(first) = first {
        state.start_with(first);
    }
    let mut effects = Vec::new();
    for (offset, time_ms, record) in log {
        let record = Record { offset: *offset, time_ms: *time_ms, frame: record.frame.clone() };
        decide(&mut state, &record, pipeline, &mut effects).map_err(|e| e.to_string())?;
    }
    let delta = state.delta();
    state.apply(delta);
    Ok(state)
}
