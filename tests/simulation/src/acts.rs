//! Last acts: what the world does to a pipeline at rest, after which it must stop and say why, or start over
//! without anybody noticing.

use std::sync::{Arc, MutexGuard};

use processor::position::Position;

use crate::kafka::{Body, Topic, Tp};
use crate::oracle;
use crate::plan::LastAct;
use crate::rules::Rule;
use crate::ticks;
use crate::world::{Inner, World};

/// Turns of a healed world in which a pipeline that must stop is watched.
const WATCHED: usize = 120;

/// Plays a schedule's last act, in a world at rest whose instances have all stopped.
pub fn play(world: &Arc<World>) {
    let act = world.lock().plan.last_act;
    world.lock().note(|| format!("last act: {act:?}"));
    world.lock().alarms_expected = true;
    match act {
        LastAct::None => {}
        LastAct::OlderSink => older_sink(world),
        LastAct::OtherLog => other_log(world),
        LastAct::JournalLost => journal_lost(world),
        LastAct::JournalTorn => journal_torn(world),
        LastAct::SnapshotTorn => snapshot_torn(world),
        LastAct::OffsetsExpired => offsets_expired(world),
        LastAct::ClaimHangs => claim_hangs(world),
        LastAct::Rebuilt => rebuilt(world),
        LastAct::DeletedUnread => deleted_unread(world),
        LastAct::JournalAndStartLost => journal_and_start_lost(world),
    }
}

fn all(w: &Inner) -> Vec<(usize, i32)> {
    let of = |pipeline: usize| (0..w.plan.partitions).map(move |partition| (pipeline, partition));
    (0..w.groups.len()).flat_map(of).collect()
}

/// Starts the first instance of each pipeline and lets the world go on for a while.
fn watch(world: &Arc<World>) {
    ticks::heal(world);
    for _ in 0..WATCHED {
        ticks::quiet_tick(world);
        world.lock().pass(150);
    }
}

fn says(w: &Inner, pipeline: usize, what: &str) -> bool {
    let of = w.processes.iter().filter(|p| p.pipeline == pipeline && p.alive);
    of.flat_map(|p| p.health.problems()).any(|problem| problem.contains(what))
}

fn problems(w: &Inner) -> Vec<String> {
    w.processes.iter().filter(|p| p.alive).flat_map(|p| p.health.problems()).collect()
}

fn stop_all(world: &Arc<World>) {
    let count = world.lock().processes.len();
    for process in 0..count {
        world.kill(process);
    }
}

/// What happened is noticed by nobody: all comes to rest, and all is right.
fn goes_on(world: &Arc<World>) {
    ticks::heal(world);
    crate::come_to_rest(world);
    oracle::check(world);
}

fn lose_disks(w: &mut Inner) {
    for p in &mut w.processes {
        p.disks.clear();
    }
}

/// A pipeline, and a backup of its sink that is behind its journal.
fn older_backup(w: &mut Inner) -> Option<(usize, crate::sink::Tables)> {
    for (pipeline, partition) in all(w) {
        let Ok(replay) = oracle::journal(w, pipeline, partition) else { continue };
        let Some(fence) = replay.fence else { continue };
        let is_behind = |tables: &&crate::sink::Tables| {
            let old = tables.fences.get(&partition).map_or(Position::START, |f| f.position);
            old < fence.position
        };
        if let Some(old) = w.sinks.get(pipeline).and_then(|db| db.backups.iter().find(is_behind)) {
            return Some((pipeline, old.clone()));
        }
    }
    None
}

fn older_sink(world: &Arc<World>) {
    let mut w = world.lock();
    let Some((pipeline, old)) = older_backup(&mut w) else { return };
    let Some(db) = w.sinks.get_mut(pipeline) else { return };
    let right = db.restore(old.clone());
    drop(w);
    watch(world);
    let mut w = world.lock();
    if !says(&w, pipeline, "older backup") {
        let found = problems(&w);
        w.violation(
            Rule::Stops,
            format!("p{pipeline}: a sink restored from an older backup goes unnoticed: {found:?}"),
        );
    }
    if let Some(db) = w.sinks.get_mut(pipeline) {
        let same = db.restore(right).rows == old.rows;
        if !same {
            w.violation(
                Rule::Stops,
                format!("p{pipeline}: something was applied to a sink from an older backup"),
            );
        }
    }
    drop(w);
    crate::come_to_rest(world);
    oracle::check(world);
}

/// What a pipeline has made final in a partition.
fn finished(w: &mut Inner, pipeline: usize, partition: i32) -> (usize, usize, usize, i64) {
    let rows = w.sinks.get(pipeline).and_then(|db| db.tables.rows.get(&partition)).map_or(0, Vec::len);
    let outputs = w.kafka.partition((Topic::Output(pipeline), partition)).visible(0).count();
    let dead = w.kafka.partition((Topic::Dead(pipeline), partition)).visible(0).count();
    let next = oracle::journal(w, pipeline, partition).map_or(-1, |r| r.state.head().next_offset);
    (rows, outputs, dead, next)
}

fn other_log(world: &Arc<World>) {
    let mut w = world.lock();
    let mut found = None;
    for partition in 0..w.plan.partitions {
        let log = w.kafka.partition((Topic::Log, partition));
        if let Some((n, _)) = log.visible(0).last() {
            found = Some((partition, n));
        }
    }
    let Some((partition, n)) = found else { return };
    w.senders.more(20);
    let mut other = w.senders.event(0).cloned().unwrap_or_else(|| crate::events::plain("other"));
    other.id = "other".to_owned();
    let log = w.kafka.partition((Topic::Log, partition));
    if let Some(entry) = log.entries.get_mut(n) {
        entry.body = Body::Log(Arc::new(other.to_record()));
    }
    let pipelines = w.groups.len();
    let before: Vec<_> = (0..pipelines).map(|p| finished(&mut w, p, partition)).collect();
    drop(w);
    watch(world);
    let mut w = world.lock();
    for (pipeline, before) in before.into_iter().enumerate() {
        let after = finished(&mut w, pipeline, partition);
        if after != before {
            w.violation(
                Rule::Stops,
                format!("p{pipeline}: folded on over another log: {before:?}, now {after:?}"),
            );
        }
        if !says(&w, pipeline, "made anew") {
            let found = problems(&w);
            w.violation(Rule::Stops, format!("p{pipeline}: another log goes unnoticed: {found:?}"));
        }
    }
}

fn journal_lost(world: &Arc<World>) {
    let mut w = world.lock();
    let pipelines = w.groups.len();
    let pipeline = w.random.below(pipelines);
    for partition in 0..w.plan.partitions {
        w.kafka.recreate((Topic::Journal(pipeline), partition));
    }
    w.senders.more(10);
    drop(w);
    stop_all(world);
    goes_on(world);
}

/// What `processor rebuild` does.
fn rebuilt(world: &Arc<World>) {
    let mut w = world.lock();
    let older = older_backup(&mut w);
    let pipeline = older.as_ref().map_or(0, |(pipeline, _)| *pipeline);
    if let Some((_, old)) = older
        && let Some(db) = w.sinks.get_mut(pipeline)
    {
        db.restore(old);
    }
    for topic in [Topic::Snapshots(pipeline), Topic::Journal(pipeline)] {
        for partition in 0..w.plan.partitions {
            w.kafka.delete_below((topic, partition), -1);
            let topic = w.kafka.partition((topic, partition));
            topic.rebuilt = topic.low;
        }
    }
    w.senders.more(10);
    drop(w);
    goes_on(world);
}

/// Appends some events that no pipeline folds yet; the first offset of them in each partition.
fn append_unread(world: &Arc<World>) -> Vec<(i32, usize)> {
    let mut w = world.lock();
    let ends = |w: &mut Inner| -> Vec<(i32, usize)> {
        (0..w.plan.partitions).map(|p| (p, w.kafka.partition((Topic::Log, p)).entries.len())).collect()
    };
    let before = ends(&mut w);
    w.senders.more(20);
    w.faults = false;
    while !w.senders.are_done() {
        crate::senders::send(&mut w);
    }
    let after = ends(&mut w);
    before.into_iter().zip(after).filter(|(before, after)| before < after).map(|(before, _)| before).collect()
}

fn deleted_unread(world: &Arc<World>) {
    let Some((partition, from)) = append_unread(world).into_iter().next() else { return };
    let mut w = world.lock();
    w.kafka.partition((Topic::Log, partition)).low = from + 1;
    stops(world, w, partition, "deleted unread");
}

fn journal_and_start_lost(world: &Arc<World>) {
    let mut w = world.lock();
    let partition = 0;
    let log = w.kafka.partition((Topic::Log, partition));
    if log.entries.is_empty() {
        return;
    }
    log.low = 1;
    for pipeline in 0..w.groups.len() {
        w.kafka.recreate((Topic::Journal(pipeline), partition));
    }
    stops(world, w, partition, "the journal is gone");
}

/// Every pipeline must stop in a partition and say why, and make nothing final there.
fn stops(world: &Arc<World>, mut w: MutexGuard<'_, Inner>, partition: i32, words: &str) {
    let pipelines = w.groups.len();
    let made = |w: &mut Inner| -> Vec<_> {
        (0..pipelines)
            .map(|p| finished(w, p, partition))
            .map(|(rows, outputs, dead, _)| (rows, outputs, dead))
            .collect()
    };
    let before = made(&mut w);
    drop(w);
    watch(world);
    let mut w = world.lock();
    for pipeline in 0..pipelines {
        if !says(&w, pipeline, words) {
            let found = problems(&w);
            w.violation(Rule::Stops, format!("p{pipeline}: not said: {words}: {found:?}"));
        }
    }
    let after = made(&mut w);
    if before != after {
        w.violation(Rule::Stops, format!("made final all the same: {before:?}, now {after:?}"));
    }
}

fn offsets_expired(world: &Arc<World>) {
    let mut w = world.lock();
    for pipeline in 0..w.groups.len() {
        w.kafka.recreate((Topic::Offsets(pipeline), 0));
    }
    w.senders.more(10);
    drop(w);
    stop_all(world);
    goes_on(world);
}

fn claim_hangs(world: &Arc<World>) {
    ticks::heal(world);
    if !crate::come_to_rest(world) {
        return;
    }
    let mut w = world.lock();
    let now = w.now_ms;
    for (pipeline, partition) in all(&w) {
        let zombie = (pipeline, usize::MAX, usize::try_from(partition).unwrap_or(0));
        if let Ok(epoch) = w.kafka.init(zombie) {
            let claim = Body::Journal(Arc::from(&b"a zombie's"[..]));
            let _ = w.kafka.produce(zombie, epoch, (Topic::Journal(pipeline), partition), now, claim);
        }
    }
    w.senders.more(20);
    drop(w);
    for _ in 0..WATCHED {
        ticks::quiet_tick(world);
    }
    stop_all(world);
    lose_disks(&mut world.lock());
    goes_on(world);
}

fn journal_torn(world: &Arc<World>) {
    let mut w = world.lock();
    let mut found = None;
    for (pipeline, partition) in all(&w) {
        let mut counted = oracle::counted(&mut w, pipeline, partition);
        let low = w.kafka.partition((Topic::Journal(pipeline), partition)).low;
        // Not the record that a trimmed journal starts with: the next one may have a snapshot, too.
        counted.retain(|offset| usize::try_from(*offset).is_ok_and(|offset| low == 0 || offset > low));
        if counted.len() > 1 {
            let last = counted.len() - 1;
            let pick = w.random.below(last);
            found = counted.get(pick).map(|offset| (pipeline, partition, *offset));
        }
    }
    let Some((pipeline, partition, offset)) = found else { return };
    let Ok(offset) = usize::try_from(offset) else { return };
    tear(world, w, (Topic::Journal(pipeline), partition), offset);
    expect_said(world, pipeline, partition, "does not follow", "journal");
}

/// Takes a record away, as if its transaction had been aborted, and with it every disk; then the world goes on.
fn tear(world: &Arc<World>, mut w: MutexGuard<'_, Inner>, tp: Tp, offset: usize) {
    let torn = w.kafka.partition(tp);
    torn.aborted.insert(usize::MAX);
    if let Some(entry) = torn.entries.get_mut(offset) {
        entry.txn = Some(usize::MAX);
    }
    lose_disks(&mut w);
    drop(w);
    watch(world);
}

/// A pipeline must have stopped and said why, after something of it was torn.
fn expect_said(world: &Arc<World>, pipeline: usize, partition: i32, words: &str, torn: &str) {
    let mut w = world.lock();
    if !says(&w, pipeline, words) {
        let found = problems(&w);
        let what = format!("p{pipeline} partition {partition}: a torn {torn} goes unnoticed: {found:?}");
        w.violation(Rule::Stops, what);
    }
}

/// A chunk without which the snapshot that the journal continues is not whole.
fn needed_chunk(w: &mut Inner, pipeline: usize, partition: i32) -> Option<usize> {
    let (low, first) = w.kafka.partition((Topic::Journal(pipeline), partition)).visible(0).next().and_then(
        |(n, entry)| match &entry.body {
            Body::Journal(value) => Some((n, value.to_vec())),
            Body::Log(_) | Body::Chunk(_) | Body::Effect(_) | Body::Offsets(_) | Body::Marker => None,
        },
    )?;
    let first = Some((i64::try_from(low).ok()?, first));
    let snapshots = w.kafka.partition((Topic::Snapshots(pipeline), partition));
    let of = |(n, entry): (usize, &crate::kafka::Entry)| match &entry.body {
        Body::Chunk(value) => Some((n, value.clone())),
        Body::Log(_) | Body::Journal(_) | Body::Effect(_) | Body::Offsets(_) | Body::Marker => None,
    };
    let chunks: Vec<_> = snapshots.visible(0).filter_map(of).collect();
    let is_needed = |without: &usize| {
        let begun = processor::snapshot::beginning(first.clone(), |each| {
            chunks.iter().filter(|(n, _)| n != without).for_each(|(_, value)| each(0, value));
            Ok(())
        });
        begun.is_err()
    };
    processor::defect::plant(None);
    let needed: Vec<usize> = chunks.iter().map(|(n, _)| *n).filter(is_needed).collect();
    processor::defect::plant(w.plan.in_code());
    w.random.pick(&needed)
}

fn snapshot_torn(world: &Arc<World>) {
    let mut w = world.lock();
    let found = all(&w).into_iter().find_map(|(pipeline, partition)| {
        Some((pipeline, partition, needed_chunk(&mut w, pipeline, partition)?))
    });
    let Some((pipeline, partition, chunk)) = found else { return };
    tear(world, w, (Topic::Snapshots(pipeline), partition), chunk);
    expect_said(world, pipeline, partition, "the snapshot that it continues", "snapshot");
}
