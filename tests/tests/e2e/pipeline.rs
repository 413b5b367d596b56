//! Exactly once and in order, end to end: what was accepted is applied once, whatever is killed, joins, leaves
//! or loses its disk. The oracle is the sandbox's plan, which folds nothing.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, Record, committed_offsets, end_offsets, read_all};
use hookline_tests::load::{Load, assert_applied_once};
use hookline_tests::postgres::{Postgres, query};
use hookline_tests::process::Program;
use hookline_tests::{octokit, wait};
use sandbox::check;
use sandbox::delivery::{AppliedEvent, Delivery, EntityPlan, Expect, Verdict};
use sandbox::plan::{Plan, Sizes};
use sandbox::send::{self, Options, Report};
use sandbox::sign::Signer;
use sandbox::sources::{CONNECTIONS, GITHUB, GITHUB_SECRET};
use serde_json::Value;

use crate::common::{
    BODY_LIMIT, DRAIN, GAP_WAIT, PATIENCE, Sink, Site, assert_none, assert_nothing_leaked, entity_rows,
    order, output_rows, processor, row_count, rows, shared, stderr, stdout, wait_decided,
};

/// Texts of the sandbox's and GitHub's payloads that nothing else has.
const ONLY_IN_PAYLOADS: [&str; 4] = ["HEX-M8X40-A2", "Hansen Hydraulik", "Codertocat", "net_price"];

/// How long a missing number of a plan is waited for: so long may sending the others take on a busy machine.
const PLAN_GAP_WAIT: Duration = Duration::from_secs(8);

#[test]
fn each_event_is_in_postgres_once_and_in_sequence_though_one_of_two_instances_is_killed() {
    let site = Site::new("books", Kafka::shared(), 4).gap_wait(PLAN_GAP_WAIT);
    let sink = Sink::Postgres(Postgres::shared().create_database());
    let Sink::Postgres(url) = &sink else { unreachable!() };
    let ingest = site.ingest().started();
    let mut a = site.instance("a", &sink);
    let mut b = site.instance("b", &sink);
    a.program.spawn();
    b.program.spawn();
    a.program.wait_ready();
    b.program.wait_ready();

    let mut plan = plan(1, 900);
    add_github_payloads(&mut plan);
    let mut report = while_sending(&plan, &site, |sent| {
        wait::until("a quarter of the rows", PATIENCE, || (row_count(url) >= plan.rows() / 4).then_some(()));
        b.program.kill();
        let before = sent();
        let some_more = || (sent() >= (before + 100).min(plan.deliveries.len())).then_some(());
        wait::within(Duration::from_secs(2), some_more);
        b.program.spawn();
    });
    b.program.wait_ready();
    let programs = [&a.program, &b.program];
    wait_decided(&programs, plan.totals(0).accepted);
    report.extend(send::phase(&plan, 1, &options(&site), &|_| {}));
    let expected = plan.totals(1);
    let counted = wait_decided(&programs, expected.accepted);
    site.wait_caught_up();

    in_time(&plan, &report);
    assert_none(&check::answers(&plan, &report));
    assert_none(&check::rows(&plan.entities, &rows(url)));
    assert_none(&check::entities(&plan.entities, &entity_rows(url)));
    assert_none(&check::verdicts(&expected.verdicts, &counted, 0));
    assert_dead_letters(&plan, &site.dead_letters());

    let verified = processor(&site, "verify", &a, &["--output", "json"]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    let proofs: Value = serde_json::from_str(&stdout(&verified)).unwrap();
    let sum = |field: &str| {
        let partitions = proofs.as_array().unwrap().iter();
        usize::try_from(partitions.map(|proof| proof[field].as_u64().unwrap()).sum::<u64>()).unwrap()
    };
    let verdicts = expected.verdicts;
    assert_eq!(sum("events"), expected.accepted);
    assert_eq!((sum("applied"), sum("in_sink")), (verdicts.applied, plan.rows()));
    assert_eq!(
        (sum("dead_lettered"), sum("in_dead_letters")),
        (verdicts.dead_lettered, verdicts.dead_lettered)
    );
    assert_eq!((sum("duplicate"), sum("stale")), (verdicts.duplicates, verdicts.stale));
    assert_eq!((sum("ignored"), sum("held")), (verdicts.ignored, 0));

    // The books no longer agree once a row is gone.
    let sql = "DELETE FROM hookline_events WHERE ctid = (SELECT min(ctid) FROM hookline_events) \
               RETURNING log_partition";
    let partition = query(url, sql)[0][0].clone().unwrap();
    let verified = processor(&site, "verify", &a, &[]);
    assert_eq!(verified.status.code(), Some(1), "{}{}", stdout(&verified), stderr(&verified));
    let explained = stdout(&verified);
    let line = explained.lines().find(|line| line.starts_with(&format!("partition {partition}: ")));
    assert!(line.is_some_and(|line| line.contains("were applied")), "{explained}");

    assert_nothing_leaked(
        &[ingest.log_text(), a.program.log_text(), b.program.log_text()],
        &ONLY_IN_PAYLOADS,
    );
}

#[test]
fn each_output_is_in_kafka_once_and_in_order_though_the_processor_is_killed() {
    let site = Site::new("outgoing", Kafka::shared(), 2).gap_wait(PLAN_GAP_WAIT);
    let sink = Sink::Kafka("outgoing.applied".to_owned());
    let _ingest = site.ingest().started();
    let mut instance = site.instance("only", &sink);
    instance.program.spawn();
    instance.program.wait_ready();
    let outputs = || read_all(site.bootstrap(), "outgoing.applied", Isolation::ReadCommitted);

    let plan = plan(2, 500);
    let mut report = while_sending(&plan, &site, |_| {
        wait::until("some outputs", PATIENCE, || (outputs().len() >= plan.rows() / 5).then_some(()));
        instance.program.kill();
        instance.program.spawn();
    });
    instance.program.wait_ready();
    wait_decided(&[&instance.program], plan.totals(0).accepted);
    report.extend(send::phase(&plan, 1, &options(&site), &|_| {}));
    let expected = plan.totals(1);
    let counted = wait_decided(&[&instance.program], expected.accepted);
    site.wait_caught_up();

    in_time(&plan, &report);
    assert_none(&check::answers(&plan, &report));
    assert_none(&check::verdicts(&expected.verdicts, &counted, 0));
    assert_none(&check::rows(&plan.entities, &output_rows(&outputs())));
    assert_dead_letters(&plan, &site.dead_letters());
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
}

#[test]
fn a_lost_state_directory_is_restored_from_the_journal_and_nothing_is_applied_twice() {
    let site = Site::new("diskless", Kafka::shared(), 2).gap_wait(PLAN_GAP_WAIT);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut instance = site.instance("only", &sink);
    instance.program.spawn();
    instance.program.wait_ready();
    let plan = plan(3, 300);
    let mut report = send::phase(&plan, 0, &options(&site), &|_| {});
    wait_decided(&[&instance.program], plan.totals(0).accepted);
    report.extend(send::phase(&plan, 1, &options(&site), &|_| {}));
    let first = plan.totals(1);
    wait_decided(&[&instance.program], first.accepted);
    site.wait_caught_up();
    in_time(&plan, &report);

    instance.program.kill();
    assert!(fs::read_dir(&instance.state_dir).unwrap().count() > 0, "there is a state to lose");
    fs::remove_dir_all(&instance.state_dir).unwrap();
    instance.program.spawn();
    instance.program.wait_ready();
    // Everything once more: the restored state knows every id, and each entity's place.
    for phase in 0..=plan.last_phase() {
        send::phase(&plan, phase, &options(&site), &|_| {});
    }
    let counted = wait_decided(&[&instance.program], 2 * first.accepted);
    site.wait_caught_up();

    let mut expected = first.verdicts;
    expected.ignored *= 2;
    expected.duplicates += first.accepted - first.verdicts.ignored;
    assert_none(&check::verdicts(&expected, &counted, 0));
    assert_none(&check::rows(&plan.entities, &rows(&url)));
    assert_none(&check::entities(&plan.entities, &entity_rows(&url)));
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
}

#[test]
fn spilled_ids_are_duplicates_over_a_kill_and_a_lost_disk() {
    let site = Site::new("spilling", Kafka::shared(), 2).gap_wait(PLAN_GAP_WAIT);
    let url = Postgres::shared().create_database();
    // Snapshots too: they are cut from what was spilled.
    let little =
        "checkpoint = { interval = \"20ms\", snapshot_after = \"8KiB\" }\nfold = { ids_in_memory_max = 100 }";
    let mut instance = site.instance_with("spilling", "only", &Sink::Postgres(url.clone()), little);
    let _ingest = site.ingest().started();
    instance.program.spawn();
    instance.program.wait_ready();
    let plan = plan(5, 600);
    let mut report = Report::default();
    for phase in 0..=plan.last_phase() {
        report.extend(send::phase(&plan, phase, &options(&site), &|_| {}));
        wait_decided(&[&instance.program], plan.totals(phase).accepted);
    }
    let first = plan.totals(plan.last_phase());
    site.wait_caught_up();
    in_time(&plan, &report);

    let spilled = |program: &Program| program.metrics().sum("hookline_processor_spilled_ids", &[]);
    let mut expected = first.verdicts;
    for (times, disk) in [(2, "same"), (3, "killed"), (4, "lost")] {
        assert!(spilled(&instance.program).unwrap() >= 200.0, "{:?}", spilled(&instance.program));
        if disk != "same" {
            instance.program.kill();
            if disk == "lost" {
                fs::remove_dir_all(&instance.state_dir).unwrap();
            }
            instance.program.spawn();
            instance.program.wait_ready();
        }
        for phase in 0..=plan.last_phase() {
            send::phase(&plan, phase, &options(&site), &|_| {});
        }
        let counted = wait_decided(&[&instance.program], times * first.accepted);
        site.wait_caught_up();
        expected.ignored += first.verdicts.ignored;
        expected.duplicates += first.accepted - first.verdicts.ignored;
        assert_none(&check::verdicts(&expected, &counted, 0));
        assert_none(&check::rows(&plan.entities, &rows(&url)));
    }
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
}

#[test]
fn partitions_move_to_an_instance_that_joins_and_back_from_one_that_leaves() {
    let site = Site::new("moving", Kafka::shared(), 4).gap_wait(PATIENCE);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut a = site.instance("a", &sink);
    a.program.spawn();
    a.program.wait_ready();
    let load = Load::start(&site);
    load.wait_accepted(100);

    let mut b = site.instance("b", &sink);
    b.program.spawn();
    b.program.wait_ready();
    wait::until("two partitions each", PATIENCE, || {
        (owned(&a.program) == Some(2.0) && owned(&b.program) == Some(2.0)).then_some(())
    });
    load.wait_accepted(100);

    let since = Instant::now();
    let status = a.program.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(since.elapsed() < DRAIN, "{:?}", since.elapsed());
    load.wait_accepted(100);
    wait::until("b alone", PATIENCE, || (owned(&b.program) == Some(4.0)).then_some(()));
    load.wait_accepted(100);
    assert_applied_once(&site, &url, &mut b.program, &load.finish());
}

#[test]
fn sigterm_makes_a_last_checkpoint() {
    let site = Site::new("draining", Kafka::shared(), 2);
    let url = Postgres::shared().create_database();
    let _ingest = site.ingest().started();
    // Without SIGTERM there would be no checkpoint for a long time.
    let rare = "checkpoint = { interval = \"1h\", events_max = 1000000 }";
    let mut instance = site.instance_with("draining", "only", &Sink::Postgres(url.clone()), rare);
    instance.program.spawn();
    instance.program.wait_ready();
    let (client, count) = (Client::new(), 40);
    for n in 1..=count {
        let body = order(&format!("evt_{n}"), &format!("48{}", n % 8), &format!("{}", 1 + (n - 1) / 8));
        assert_eq!(site.post_order(&client, CONNECTIONS[n % 2], &body).status, 200);
    }
    wait::until("all rows", PATIENCE, || (row_count(&url) == count).then_some(()));
    let committed = || committed_offsets(site.bootstrap(), &site.topic(), "hookline.draining");
    let ends = end_offsets(site.bootstrap(), &site.topic());
    assert_ne!(committed(), ends, "nothing is checkpointed yet");

    let since = Instant::now();
    let status = instance.program.terminate();
    assert_eq!(status.code(), Some(0));
    assert!(since.elapsed() < DRAIN, "{:?}", since.elapsed());
    assert_eq!(committed(), ends);
}

#[test]
fn a_gap_that_never_closes_is_skipped_after_its_wait_and_its_late_number_is_stale() {
    let shared = shared();
    let (client, [acme, _]) = (Client::new(), CONNECTIONS);
    let send = |sequence: u64| {
        let body = order(&format!("evt_gap_{sequence}"), "gap", &sequence.to_string());
        assert_eq!(shared.site.post_order(&client, acme, &body).status, 200);
    };
    for sequence in [1, 3, 4] {
        send(sequence);
    }
    shared.rows_of("acme", "purchase-order-gap", 3);
    // The late one, and the next: when that is applied, the late one was decided.
    send(2);
    send(5);
    let rows = shared.rows_of("acme", "purchase-order-gap", 4);
    let sequences: Vec<_> = rows.iter().map(|row| row.sequence.as_deref().unwrap()).collect();
    assert_eq!(sequences, ["1", "3", "4", "5"]);

    // What released 3 stands in the log, and not before the wait was over by the broker's clock.
    let log = read_all(shared.site.bootstrap(), &shared.site.topic(), Isolation::ReadCommitted);
    let (partition, offset, _) = rows[1].position;
    let expiry = log.iter().find(|r| (i64::from(r.partition), r.offset) == (partition, offset)).unwrap();
    assert_eq!(expiry.header("ce_type").as_deref(), Some("hookline.control.gap-expired"));
    let opened = log.iter().find(|r| r.header("ce_id").as_deref() == Some("evt_gap_3")).unwrap();
    let waited_ms = expiry.timestamp_ms.unwrap() - opened.timestamp_ms.unwrap();
    assert!(u128::try_from(waited_ms).unwrap() > GAP_WAIT.as_millis(), "given up after {waited_ms} ms");
}

#[test]
fn two_customers_with_the_same_order_number_stay_apart() {
    let shared = shared();
    let client = Client::new();
    // The same number, ids and sequence from both: only the customer differs.
    let mut bodies = BTreeMap::new();
    for connection in CONNECTIONS {
        for sequence in ["1", "2"] {
            let mut body = order(&format!("evt_same_{sequence}"), "same", sequence);
            body.extend(vec![b' '; connection.id.len()]);
            assert_eq!(shared.site.post_order(&client, connection, &body).status, 200);
            bodies.insert((connection.id, sequence), body);
        }
    }
    let mut keys = Vec::new();
    for connection in CONNECTIONS {
        let rows = shared.rows_of(connection.id, "purchase-order-same", 2);
        let found: Vec<_> = rows.iter().map(|row| (row.sequence.as_deref().unwrap(), &row.body)).collect();
        assert_eq!(found, [("1", &bodies[&(connection.id, "1")]), ("2", &bodies[&(connection.id, "2")])]);
        let mut entities = entity_rows(&shared.url);
        entities.retain(|row| row.entity == "purchase-order-same" && row.connection == connection.id);
        assert_eq!(entities.len(), 1);
        assert_eq!(entities[0].body, bodies[&(connection.id, "2")]);
        let source = format!("makini/{}", connection.id);
        let records = shared.site.events();
        let own = records.iter().find(|record| {
            record.header("ce_source").as_ref() == Some(&source)
                && record.header("ce_id").as_deref() == Some("evt_same_1")
        });
        keys.push(own.unwrap().key.clone());
    }
    assert_ne!(keys[0], keys[1]);
}

fn plan(seed: u64, webhooks: usize) -> Plan {
    Plan::new(Sizes { seed, webhooks, body_limit: BODY_LIMIT })
}

fn options(site: &Site) -> Options {
    Options { concurrency: 4, ..Options::to(&site.base_url()) }
}

/// Sends phase 0, and meanwhile does what `disturb` says; that can ask how much was sent.
fn while_sending(plan: &Plan, site: &Site, disturb: impl FnOnce(&dyn Fn() -> usize)) -> Report {
    let sent = AtomicUsize::new(0);
    thread::scope(|scope| {
        let sending =
            scope.spawn(|| send::phase(plan, 0, &options(site), &|done| sent.store(done, Ordering::Relaxed)));
        disturb(&|| sent.load(Ordering::Relaxed));
        sending.join().unwrap()
    })
}

/// What must hold for the plan's verdicts to be the right ones.
fn in_time(plan: &Plan, report: &Report) {
    let slow = report.slow_gaps(plan, PLAN_GAP_WAIT);
    assert_eq!(slow, 0, "gaps that took longer than {PLAN_GAP_WAIT:?} to send: this machine is too busy");
}

fn owned(program: &Program) -> Option<f64> {
    program.metrics().sum("hookline_processor_owned_partitions", &[])
}

/// Adds GitHub's example payloads, signed by GitHub's library, evenly among the deliveries of phase 0.
fn add_github_payloads(plan: &mut Plan) {
    let mut entities: BTreeMap<String, EntityPlan> = BTreeMap::new();
    let mut added = Vec::new();
    for (n, github) in octokit::deliveries(GITHUB_SECRET.value).into_iter().enumerate() {
        let payload: Value = serde_json::from_str(&github.body).unwrap();
        let event_id = format!("octokit-{n:03}");
        let (body, entity) = (github.body.into_bytes(), payload["repository"]["full_name"].as_str());
        let verdict = match entity {
            Some(name) => {
                let plan = entities.entry(name.to_owned()).or_insert_with(|| EntityPlan {
                    source: GITHUB,
                    connection: "",
                    entity: name.to_owned(),
                    applied: Vec::new(),
                });
                plan.applied.push(AppliedEvent {
                    event_id: event_id.clone(),
                    sequence: None,
                    body: body.clone(),
                });
                Verdict::Applied
            }
            None => Verdict::DeadLettered,
        };
        added.push(Delivery {
            phase: 0,
            lane: entity.unwrap_or(&event_id).bytes().map(u64::from).sum(),
            path: format!("/webhooks/{GITHUB}"),
            headers: vec![
                ("content-type", "application/json".to_owned()),
                ("X-GitHub-Delivery", event_id),
                ("X-GitHub-Event", github.event),
                ("X-Hub-Signature-256", github.signature),
            ],
            // Signed already.
            signer: Signer::Unsigned,
            body,
            expect: Expect::Accepted(verdict),
            gap: None,
            what: "GitHub's example",
        });
    }
    assert_eq!(added.len(), 329);
    plan.entities.extend(entities.into_values());
    let every = plan.deliveries.iter().filter(|delivery| delivery.phase == 0).count() / added.len();
    let mut mixed = Vec::new();
    for (n, delivery) in std::mem::take(&mut plan.deliveries).into_iter().enumerate() {
        mixed.push(delivery);
        if n % every == 0 && !added.is_empty() {
            mixed.push(added.remove(0));
        }
    }
    mixed.extend(added);
    plan.deliveries = mixed;
}

/// Every event that had to end so is in the dead-letter topic once, whole, and with a reason.
fn assert_dead_letters(plan: &Plan, found: &[Record]) {
    let mut expected: Vec<&[u8]> = plan
        .deliveries
        .iter()
        .filter(|delivery| delivery.expect == Expect::Accepted(Verdict::DeadLettered))
        .map(|delivery| delivery.body.as_slice())
        .collect();
    let mut bodies: Vec<&[u8]> =
        found.iter().map(|record| record.value.as_deref().unwrap_or_default()).collect();
    expected.sort_unstable();
    bodies.sort_unstable();
    assert!(expected == bodies, "{} dead letters instead of {}, or others", bodies.len(), expected.len());
    for record in found {
        let reason = record.header("hookline-dead-letter-reason").unwrap_or_default();
        assert!(!reason.is_empty(), "offset {} has no reason", record.offset);
    }
}
