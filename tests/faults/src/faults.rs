//! The faults, one by one. Each leaves a world that can come to rest by itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hookline_tests::damage::{Damage, files};
use hookline_tests::http::Client;
use hookline_tests::kafka_read::committed_offsets;
use hookline_tests::kafka_topics::{coordinator, leader};
use hookline_tests::postgres::{Backup, connect, query};
use hookline_tests::process::Program;
use hookline_tests::proxy::Way;
use hookline_tests::site::{Instance, PATIENCE, SESSION, processor, row_count, stderr};
use hookline_tests::wait;
use processor::failpoint::{LATER_FOLD, Point, VARIABLE};
use sandbox::rng::Rng;

use crate::damage::{damage, leave_half_made};
use crate::world::{NAME, PARTITIONS, World};

/// Longer than it takes the group to give up a member that says nothing.
const BEYOND_SESSION: Duration = SESSION.saturating_add(Duration::from_secs(4));
/// How long a server is away or hangs.
const AWAY: Duration = Duration::from_secs(5);
/// How late requests are on a slow network.
const LATE: Duration = Duration::from_millis(100);
/// What is still under way when brokers are killed may be answered so long.
const GRACE: Duration = Duration::from_secs(1);
/// Webhooks applied, enough for checkpoints of most partitions.
const SOME: usize = 50;
/// Disks that are full when the first file is made, when a database is, or some time later; in KiB.
const SMALL_DISKS: [usize; 3] = [4, 24, 60];
/// The signal of `kill -9`.
const KILLED: i32 = 9;

/// A fault.
#[derive(Clone)]
pub(crate) struct Fault {
    pub(crate) name: String,
    /// What happens.
    pub(crate) what: &'static str,
    /// Does it.
    pub(crate) inject: Arc<dyn Fn(&mut World)>,
}

/// All of them.
pub(crate) fn all() -> Vec<Fault> {
    let mut all: Vec<Fault> = Point::ALL
        .iter()
        // Another program's: the suite e2e has it.
        .filter(|(point, _)| *point != Point::AlertSent)
        .map(|(point, name)| {
            let (point, name) = (*point, *name);
            fault(format!("kill-{name}"), "a processor dies at this place", move |w| {
                let n = w.running();
                die_at(w, n, point, name);
                w.instances[n].program.spawn();
            })
        })
        .collect();
    let mut add = |name: &str, what, inject: fn(&mut World)| all.push(fault(name.to_owned(), what, inject));
    add("kill-anywhere", "kill -9 of a processor", |w| {
        let n = w.running();
        w.instances[n].program.kill();
        w.instances[n].program.spawn();
    });
    add("empty-disk", "a processor is killed, and comes back with an empty disk", |w| {
        let n = w.running();
        w.instances[n].program.kill();
        let _ = fs::remove_dir_all(&w.instances[n].state_dir);
        w.instances[n].program.spawn();
    });
    add("zombie", "a processor stands still beyond its session, and wakes", |w| {
        let n = w.running();
        w.instances[n].program.pause();
        w.pass(BEYOND_SESSION);
        w.instances[n].program.resume();
    });
    add("hang", "a processor stands still within its session", |w| {
        let n = w.running();
        w.instances[n].program.pause();
        w.pass(SESSION / 2);
        w.instances[n].program.resume();
    });
    add("three-instances", "all three instances run", |w| {
        for instance in w.instances.iter_mut().filter(|instance| !instance.program.is_running()) {
            instance.program.spawn();
        }
    });
    add("one-instance", "all instances but one stop in order", |w| {
        let last = w.running();
        for n in w.all_running().into_iter().filter(|n| *n != last) {
            let status = w.instances[n].program.terminate();
            assert!(status.success(), "after SIGTERM: {status}");
        }
    });
    add("rolling-restart", "one processor after the other is restarted in order", |w| {
        for n in w.all_running() {
            let status = w.instances[n].program.terminate();
            assert!(status.success(), "after SIGTERM: {status}");
            w.instances[n].program.spawn();
            w.instances[n].program.wait_ready();
        }
    });
    add("kill-ingest", "kill -9 of ingest", |w| {
        w.ingest.kill();
        w.ingest.spawn();
    });
    add("kill-postgres", "PostgreSQL is killed and comes back", |w| {
        w.postgres.kill();
        w.pass(AWAY);
        w.postgres.restart();
    });
    add("event-refused", "PostgreSQL refuses an event for good", refuse_event);
    add("older-backup", "PostgreSQL comes back from an older backup, and then from a newer one", |w| {
        let newer = restore_older(w);
        w.postgres.kill();
        w.postgres.restore(&newer);
        w.postgres.restart();
    });
    add(
        "older-backup-rebuilt",
        "PostgreSQL comes back from an older backup, and the pipeline is rebuilt",
        |w| {
            restore_older(w);
            rebuild(w);
        },
    );
    add("kill-broker", "a broker is killed and comes back", |w| {
        let broker = w.broker();
        kill_broker(w, broker);
    });
    add("kill-leader", "the broker that leads a partition of the log is killed and comes back", |w| {
        let partition = i32::try_from(w.rng.below(PARTITIONS as usize)).unwrap_or(0);
        let leader = leader(w.site.bootstrap(), &w.site.topic(), partition);
        kill_broker(w, index(leader));
    });
    add("kill-group-coordinator", "the broker that coordinates the group is killed and comes back", |w| {
        let coordinator = coordinator(w.site.bootstrap(), &format!("hookline.{NAME}"));
        kill_broker(w, index(coordinator));
    });
    add("two-brokers-down", "with two of three brokers down nothing is acknowledged", two_brokers_down);
    add("broker-hangs", "a broker stands still, and wakes", |w| {
        let broker = w.broker();
        w.brokers[broker].pause();
        w.pass(2 * AWAY);
        w.brokers[broker].resume();
    });
    add("network-cut", "no broker is reached, beyond the session; nothing is acknowledged", |w| {
        w.network.iter().for_each(|proxy| proxy.set(Way::Cut));
        nothing_acknowledged(w, BEYOND_SESSION);
        w.network.iter().for_each(|proxy| proxy.set(Way::Open));
    });
    add("broker-cut-off", "one broker is not reached, but by the other brokers", |w| {
        let broker = w.broker();
        w.network[broker].set(Way::Cut);
        w.pass(2 * AWAY);
        w.network[broker].set(Way::Open);
    });
    add("network-slow", "each request to a broker is late", |w| {
        w.network.iter().for_each(|proxy| proxy.set(Way::Slow(LATE)));
        w.pass(2 * AWAY);
        w.network.iter().for_each(|proxy| proxy.set(Way::Open));
    });
    add("end-of-transaction-late", "requests that end a transaction are late", |w| {
        w.network.iter().for_each(|proxy| proxy.set(Way::EndTxnLate(AWAY)));
        w.pass(3 * AWAY);
        w.network.iter().for_each(|proxy| proxy.set(Way::Open));
    });
    add("configuration-changed", "a processor is killed, and comes back with another fold", |w| {
        let n = w.running();
        let (window, held) = (60 + w.rng.below(60), 1_000 + w.rng.below(1_000));
        die_at(w, n, Point::SinkApplied, "sink-applied");
        let config = &w.instances[n].config;
        let text = fs::read_to_string(config).expect("the configuration");
        let changed = text.lines().map(|line| match line.starts_with("fold = ") {
            true => format!("fold = {{ window = \"{window}s\", held_events_max = {held} }}\n"),
            false => format!("{line}\n"),
        });
        fs::write(config, changed.collect::<String>()).expect("the configuration");
        w.instances[n].program.spawn();
    });
    add(
        "upgrade-rolled-back",
        "a processor with a later fold goes back, which is refused, and forth",
        upgrade,
    );
    add("disk-full", "a processor is killed, and comes back with a disk that becomes full", full_disk);
    add("disk-half-made", "local state has the rest of a half-made snapshot", |w| {
        with_stopped_state(w, |state_dir, _| leave_half_made(state_dir));
    });
    add("disk-truncated", "local state is cut off", |w| {
        with_stopped_state(w, |state_dir, rng| damage(Damage::CutOff, state_dir, rng));
    });
    add("disk-zeroed", "local state is zeroed in places", |w| {
        with_stopped_state(w, |state_dir, rng| damage(Damage::Zeroed, state_dir, rng));
    });
    add("disk-flipped", "local state has flipped bits", |w| {
        with_stopped_state(w, |state_dir, rng| damage(Damage::Flipped, state_dir, rng));
    });
    all
}

fn fault(name: String, what: &'static str, inject: impl Fn(&mut World) + 'static) -> Fault {
    Fault { name, what, inject: Arc::new(inject) }
}

/// A processor dies at a place.
fn die_at(w: &mut World, n: usize, point: Point, name: &str) {
    let times = match point {
        // Passed a few times at each start, or seldom.
        Point::Rebalancing | Point::StoreOpened | Point::ChunkWritten | Point::JournalTrimmed => 1,
        Point::Restoring => w.times(2),
        Point::Folded
        | Point::SinkApplied
        | Point::JournalWritten
        | Point::OffsetsSent
        | Point::Committed
        | Point::StoreHalfWritten
        | Point::AlertSent => w.times(5),
    };
    let program = &mut w.instances[n].program;
    program.terminate();
    program.set_env(VARIABLE, Some(&format!("{name}:{times}")));
    program.spawn();
    let status = program.wait(PATIENCE);
    assert_eq!(status.signal(), Some(KILLED), "it did not die at {name}: {status}");
    program.set_env(VARIABLE, None);
}

/// An event of a source that the load does not use: each processor that has it must dead-letter it, and go on.
fn refuse_event(w: &mut World) {
    const ALTER: &str = "ALTER TABLE hookline_events";
    query(&w.url, &format!("{ALTER} ADD CONSTRAINT refused CHECK (event_id NOT LIKE 'refused-%') NOT VALID"));
    let id = format!("refused-{}", w.refused.len());
    let client = Client::new();
    wait::until("a 200", PATIENCE, || (w.site.post_fleet(&client, &id).status == 200).then_some(()));
    let n = w.running();
    w.instances[n].program.kill();
    w.instances[n].program.spawn();
    wait::until("a dead letter", PATIENCE, || {
        let letters = w.site.dead_letters();
        letters.iter().any(|letter| letter.header("ce_id").as_ref() == Some(&id)).then_some(())
    });
    query(&w.url, &format!("{ALTER} DROP CONSTRAINT refused"));
    w.refused.push(id);
}

/// Puts an older backup in the place of PostgreSQL's data: the processors must say so, and apply nothing. Returns a
/// newer one.
fn restore_older(w: &mut World) -> Backup {
    w.postgres.kill();
    let older = w.postgres.back_up();
    w.postgres.restart();
    checkpoints_beyond(w);
    w.postgres.kill();
    let newer = w.postgres.back_up();
    w.postgres.restore(&older);
    w.postgres.restart();
    let rows = row_count(&w.url);
    w.wait_said("restored from an older backup");
    w.pass(AWAY);
    assert_eq!(row_count(&w.url), rows, "rows were added to an older backup");
    newer
}

/// Waits until, of each partition that has rows, the journal knows of later ones than the sink has now.
fn checkpoints_beyond(w: &World) {
    let fences = || -> BTreeMap<i32, i64> {
        let fences = connect(&w.url).query("SELECT log_partition, effect_offset FROM hookline_fence", &[]);
        fences
            .expect("fences")
            .iter()
            .map(|row| (row.get(0), row.get(1)))
            .filter(|(_, offset)| *offset >= 0)
            .collect()
    };
    let before = fences();
    let after = wait::until("fences further on", PATIENCE, || {
        let now = fences();
        now.iter().all(|(partition, offset)| before.get(partition) < Some(offset)).then_some(now)
    });
    wait::until("checkpoints beyond them", PATIENCE, || {
        let committed = committed_offsets(w.site.bootstrap(), &w.site.topic(), &format!("hookline.{NAME}"));
        after.iter().all(|(partition, offset)| committed.get(partition) > Some(offset)).then_some(())
    });
}

/// What an operator does whose backup is older than the journal.
fn rebuild(w: &mut World) {
    let running = w.all_running();
    for n in &running {
        w.instances[*n].program.terminate();
    }
    let done = processor(&w.site, "rebuild", &w.instances[0], &["--wait", "60s"]);
    assert!(done.status.success(), "rebuild: {}", stderr(&done));
    for n in running {
        w.instances[n].program.spawn();
    }
}

/// An upgrade to a later fold, under load; the former program must stop where the later one was, not decide by rules
/// that it does not have.
fn upgrade(w: &mut World) {
    let n = w.running();
    let version = |w: &mut World, later: u32| {
        let program = &mut w.instances[n].program;
        program.terminate();
        program.set_env(LATER_FOLD, Some(&later.to_string()));
        let logged = program.log_text().len();
        program.spawn();
        logged
    };
    let logged = version(w, w.later_fold + 1);
    // A partition has the later one's configuration as soon as it is claimed.
    wait_logged(&w.instances[n].program, logged, "partition claimed");
    w.wait_applied(SOME);
    version(w, w.later_fold);
    w.wait_said("run the newer program");
    w.later_fold += 1;
    for instance in &mut w.instances {
        let was_running = instance.program.is_running();
        if was_running {
            instance.program.terminate();
        }
        instance.program.set_env(LATER_FOLD, Some(&w.later_fold.to_string()));
        if was_running {
            instance.program.spawn();
        }
    }
}

/// The disk is full, sooner or later: local state is given up, and the pipeline goes on without it.
fn full_disk(w: &mut World) {
    let n = w.running();
    let kib = SMALL_DISKS[w.rng.below(SMALL_DISKS.len())];
    let Instance { program, state_dir, .. } = &mut w.instances[n];
    program.kill();
    program.set_small_disk(Some((state_dir, kib)));
    let logged = program.log_text().len();
    program.spawn();
    wait_logged(program, logged, "No space left on device");
    w.wait_applied(SOME);
    let program = &mut w.instances[n].program;
    program.kill();
    program.set_small_disk(None);
    program.spawn();
}

/// Waits until a program says something that is not in the first so many bytes of its log.
fn wait_logged(program: &Program, after: usize, text: &str) {
    wait::until(&format!("“{text}”"), PATIENCE, || {
        program.log_text()[after..].contains(text).then_some(())
    });
}

/// A processor that has local state is killed, and comes back after something was done to that.
fn with_stopped_state(w: &mut World, act: impl FnOnce(&Path, &mut Rng)) {
    // An instance may have had no partition yet.
    let with_state = wait::until("local state", PATIENCE, || {
        let mut running = w.all_running();
        running.retain(|n| !files(&w.instances[*n].state_dir).is_empty());
        (!running.is_empty()).then_some(running)
    });
    let n = *w.rng.pick(&with_state);
    w.instances[n].program.kill();
    act(&w.instances[n].state_dir, &mut w.rng);
    w.instances[n].program.spawn();
}

/// The others go on without it.
fn kill_broker(w: &mut World, broker: usize) {
    w.brokers[broker].kill();
    w.pass(AWAY);
    w.load.wait_accepted(10);
    w.brokers[broker].restart();
}

fn two_brokers_down(w: &mut World) {
    let left = w.broker();
    let down: Vec<usize> = (0..w.brokers.len()).filter(|n| *n != left).collect();
    for n in &down {
        w.brokers[*n].kill();
    }
    nothing_acknowledged(w, AWAY);
    for n in &down {
        w.brokers[*n].spawn();
    }
    for n in &down {
        w.brokers[*n].wait_ready();
    }
}

/// With too few brokers, no webhook may be answered with 200.
fn nothing_acknowledged(w: &World, time: Duration) {
    w.pass(GRACE);
    let before = w.load.accepted();
    w.pass(time);
    assert_eq!(w.load.accepted(), before, "webhooks were answered with 200 though too few brokers had them");
}

/// The place of a broker among the three; the first where there is none.
fn index(id: Option<i32>) -> usize {
    id.and_then(|id| usize::try_from(id - 1).ok()).unwrap_or(0)
}
