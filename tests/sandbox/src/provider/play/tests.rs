//! Scenarios played without a clock: shares, times, and what is never lost.

use std::collections::BTreeMap;

use super::*;

const EPOCH_MS: i64 = 1_767_600_000_000;

fn scenario(more: &str) -> Scenario {
    let text = format!("shows = \"x\"\nduration = \"10s\"\nchanges = 2000\n{more}");
    Scenario::parse("test", &text).unwrap()
}

fn world() -> World {
    World::new(&["acme".to_owned(), "globex".to_owned()])
}

/// All steps, each with its time.
fn played(world: &mut World, scenario: Scenario) -> Vec<(Duration, Step)> {
    let mut play = Play::new(scenario, world, EPOCH_MS);
    let mut steps = Vec::new();
    while let Some(at) = play.next_at() {
        let now_ms = EPOCH_MS + i64::try_from(at.as_millis()).unwrap();
        steps.push((at, play.step(world, now_ms)));
    }
    steps
}

fn sends(steps: &[(Duration, Step)]) -> Vec<&Send> {
    steps.iter().flat_map(|(_, step)| &step.sends).collect()
}

/// How often each type is sent, duplicates included.
fn types(steps: &[(Duration, Step)]) -> BTreeMap<String, usize> {
    let mut types = BTreeMap::new();
    for send in sends(steps) {
        let body: serde_json::Value = serde_json::from_slice(&send.webhook.body).unwrap();
        *types.entry(body["type"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    types
}

#[test]
fn shares_are_of_a_hundred_webhooks() {
    let about = |found: u64, percent: u64| {
        let expected = 2000 * percent / 100;
        assert!(found.abs_diff(expected) < 80, "{found}, not about {expected}");
    };
    let lost = |steps: &[(Duration, Step)]| steps.iter().map(|(_, step)| step.lost).sum::<u64>();
    let count = |more: &str, which: fn(&Send) -> bool| {
        let steps = played(&mut world(), scenario(more));
        sends(&steps).into_iter().filter(|send| which(send)).count() as u64
    };
    about(lost(&played(&mut world(), scenario("deleted = 0\n[webhooks]\nlost = 30"))), 30);
    about(lost(&played(&mut world(), scenario("deleted = 0\n[webhooks]\ngaps = 20"))), 20);
    about(count("[webhooks]\nlate = 25", |send| send.after >= Duration::from_millis(2_500)), 25);
    about(count("[webhooks]\nreordered = 60", |send| !send.after.is_zero()), 60);
    about(count("[webhooks]\nimpatient = 40", |send| send.manner == Manner::Impatient), 40);
    about(count("[webhooks]\ngarbage = 10", |send| matches!(send.manner, Manner::Garbage(_))), 10);
    // Each of them comes once or twice more: half as many again as are duplicated. Two more tell statuses.
    about(count("[webhooks]\nduplicated = 20", |_| true) - 2000 - 2, 30);
}

#[test]
fn deletions_arrive_unless_the_scenario_says_otherwise() {
    let deletions = |more: &str| {
        let mut world = world();
        let steps = played(&mut world, scenario(more));
        let deleted = Resource::ALL.iter().flat_map(|resource| {
            ["acme", "globex"].map(|connection| world.shelf(connection, *resource).unwrap().deleted.clone())
        });
        let deleted: Vec<_> = deleted.flat_map(BTreeMap::into_values).collect();
        let told = sends(&steps).iter().filter(|send| send.webhook.deletes.is_some()).count();
        (deleted.len(), deleted.iter().filter(|deleted| deleted.lost).count(), told)
    };
    let revoked = "[[acts]]\nat = \"5s\"\nconnection = \"acme\"\nstatus = \"revoked\"\n";
    let (all, lost, told) = deletions(&format!("deleted = 20\n{revoked}[webhooks]\nlost = 40\ngaps = 20"));
    assert!(all > 100);
    assert_eq!((lost, told), (0, all));
    let (all, lost, told) = deletions("deleted = 20\n[webhooks]\nlost = 40\ndeletions_lost = true");
    assert_eq!(lost + told, all);
    assert!(lost > all / 4 && told > all / 4, "{lost} of {all}");
}

#[test]
fn bursts_are_short_and_evenly_spread() {
    let steps = played(&mut world(), scenario("bursts = 4"));
    let at: Vec<_> =
        steps.iter().filter(|(_, step)| step.changes > 0).map(|(at, _)| at.as_millis()).collect();
    assert_eq!(at.len(), 2000);
    for (n, burst) in at.chunks(500).enumerate() {
        let begin = n as u128 * 2_500;
        assert!(burst.iter().all(|at| (begin..begin + 500).contains(at)), "{n}: {burst:?}");
    }
}

#[test]
fn while_a_connection_is_revoked_its_records_change_and_nobody_tells() {
    let acts = "[[acts]]\nat = \"2s\"\nconnection = \"acme\"\nstatus = \"reauthorization_needed\"\n\
                [[acts]]\nat = \"6s\"\nconnection = \"acme\"\nstatus = \"online\"";
    let steps = played(&mut world(), scenario(acts));
    let between = |from: u64, to: u64| {
        let inside = |at: &Duration| (Duration::from_secs(from)..Duration::from_secs(to)).contains(at);
        let of_acme =
            |step: &Step| step.sends.iter().filter(|send| send.webhook.connection == "acme").count();
        steps.iter().filter(|(at, _)| inside(at)).map(|(_, step)| of_acme(step)).sum::<usize>()
    };
    assert_eq!(between(3, 6), 0);
    assert!(between(0, 2) > 100 && between(6, 10) > 100);
    let new: Vec<_> =
        steps.iter().filter_map(|(at, step)| Some((at.as_secs(), step.new_token.as_deref()?))).collect();
    assert_eq!(new, [(6, "acme")]);
    let types = types(&steps);
    let counts =
        ["connection.online", "connection.reauthorization_needed", "sync.completed"].map(|kind| types[kind]);
    assert_eq!(counts, [3, 1, 4], "each connection begins online; after the new token all four lists");
}

#[test]
fn synchronisations_come_as_often_as_the_scenario_says() {
    let steps = played(&mut world(), scenario("sync_every = \"3s\"\nsync_at_end = true"));
    let at: Vec<_> =
        steps.iter().filter(|(_, step)| step.sends.len() == 8).map(|(at, _)| at.as_secs()).collect();
    assert_eq!(at, [3, 6, 9, 10]);
    assert_eq!(types(&steps)["sync.completed"], 4 * 8);
}

#[test]
fn what_was_there_before_is_in_a_later_revision_and_changed_just_now() {
    let mut world = world();
    drop(Play::new(scenario("[existing]\nassets = 40"), &mut world, EPOCH_MS));
    for connection in ["acme", "globex"] {
        let records = &world.shelf(connection, Resource::Assets).unwrap().records;
        assert_eq!(records.len(), 40);
        let recent = |ms: i64| (EPOCH_MS - 1_000..EPOCH_MS + 3).contains(&ms);
        assert!(records.values().all(|record| record.revision >= 2 && recent(record.updated_ms)));
    }
    assert!(world.stocked);
}
