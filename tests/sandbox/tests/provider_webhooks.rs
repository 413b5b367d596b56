//! The provider's webhooks and scenarios: what is sent and how often, and that whoever takes the webhooks and reads the
//! lists ends up with what is expected.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use common::{Receiver, Rows, change, list, post, start, until};
use sandbox::provider::{
    ChangeKind, Expected, Garbage, Phase, Resource, Running, Scenario, Status, compare, compare_statuses,
};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A built-in scenario, ten times as fast, with a tenth of its changes.
fn fast(name: &str) -> Scenario {
    let mut scenario = Scenario::find(name).unwrap();
    let faster = |duration: Duration| duration / 10;
    scenario.duration = faster(scenario.duration);
    scenario.changes /= 10;
    scenario.sync_every = scenario.sync_every.map(faster);
    let late_by = scenario.webhooks.late_by.unwrap_or(Duration::from_secs(5));
    scenario.webhooks.late_by = Some(faster(late_by));
    scenario.acts.iter_mut().for_each(|act| act.at = faster(act.at));
    scenario
        .faults
        .iter_mut()
        .for_each(|fault| (fault.at, fault.wait) = (faster(fault.at), faster(fault.wait)));
    scenario.existing.values_mut().for_each(|count| *count /= 10);
    scenario
}

fn play(running: &Running, scenario: Scenario) {
    running.play(scenario).unwrap();
    assert!(running.wait_done(PATIENCE), "{:?}", running.state());
}

fn lists_into(rows: &mut Rows, running: &Running) {
    for connection in running.tokens().keys() {
        for resource in Resource::ALL {
            rows.take_listed(connection, resource, &list(running, connection, resource, resource.page_max()));
        }
    }
}

fn differences(expected: &Expected, rows: &Rows) -> Vec<String> {
    compare(expected, &Resource::ALL, &rows.all()).iter().map(ToString::to_string).collect()
}

#[test]
fn a_webhook_says_what_changed_and_is_signed() {
    let receiver = Receiver::strict();
    let running = start(&receiver);
    let id = change(&running, "acme", Resource::WorkOrders, ChangeKind::Create, None);
    until("it is there", || !receiver.got().is_empty());
    change(&running, "acme", Resource::WorkOrders, ChangeKind::Delete, Some(&id));
    until("it is there", || receiver.got().len() == 2);
    let got = receiver.got();
    assert!(got.iter().all(|got| got.signed && got.path == "/webhooks/makini/acme"));
    let [created, deleted] = [0, 1].map(|n| got[n].json().unwrap());
    assert_eq!(created["type"], "work_order.created");
    assert_eq!((&created["id"], &created["connection_id"]), (&json!("evt_acme_000001"), &json!("acme")));
    assert_eq!(
        (&created["timestamp"], &created["data"]["revision"]),
        (&created["data"]["updated_at"], &json!(1))
    );
    assert_eq!(deleted["type"], "work_order.deleted");
    let keys: Vec<_> = deleted["data"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["id", "revision", "updated_at"]);
    assert_eq!(deleted["data"]["revision"], 2);
    let time = |body: &Value| body["data"]["updated_at"].as_str().unwrap().to_owned();
    assert!(time(&created) < time(&deleted));
}

#[test]
fn it_is_sent_again_until_it_is_taken_and_the_same_each_time() {
    let receiver = Receiver::new(|n, _| match n {
        0 => Some((500, Duration::ZERO)),
        1 => None,
        2 => Some((429, Duration::ZERO)),
        3 => Some((302, Duration::ZERO)),
        _ => Some((200, Duration::ZERO)),
    });
    let running = start(&receiver);
    change(&running, "acme", Resource::Suppliers, ChangeKind::Create, None);
    until("it is taken", || running.state().webhooks.answered == 1);
    let bodies: Vec<_> = receiver.got().into_iter().map(|got| got.body).collect();
    assert_eq!((bodies.len(), bodies.windows(2).all(|two| two[0] == two[1])), (5, true));
    let counts = running.state().webhooks;
    assert_eq!(counts.answers, [(0, 1), (200, 1), (302, 1), (429, 1), (500, 1)].into());
    assert_eq!((counts.waiting, counts.given_up), (0, 0));
}

#[test]
fn what_nobody_takes_is_given_up_and_a_lost_deletion_is_owned_up_to() {
    let receiver = Receiver::new(|_, got| {
        let deletes = got.json().unwrap()["type"] == "asset.deleted";
        Some((if deletes { 503 } else { 200 }, Duration::ZERO))
    });
    let running = start(&receiver);
    let id = change(&running, "acme", Resource::Assets, ChangeKind::Create, None);
    until("it is there", || running.state().webhooks.answered == 1);
    change(&running, "acme", Resource::Assets, ChangeKind::Delete, Some(&id));
    assert!(!running.expected().entities[0].deletion_lost);
    until("it is given up", || running.state().webhooks.given_up == 1);
    assert_eq!(receiver.got().len(), 51);
    assert!(running.expected().entities[0].deletion_lost);
    // Both the row as it was and its absence are right then.
    let mut rows = Rows::default();
    assert_eq!(differences(&running.expected(), &rows), [""; 0]);
    rows.take(sandbox::provider::Row { revision: 1, deleted: false, ..receiver.newest().all().remove(0) });
    assert_eq!(differences(&running.expected(), &rows), [""; 0]);
}

#[test]
fn an_impatient_provider_sends_again_what_was_taken() {
    let receiver = Receiver::strict();
    let running = start(&receiver);
    let mut scenario = fast("slow-receiver");
    scenario.webhooks.impatient = 100;
    play(&running, scenario);
    let records = receiver.of_type("*").into_iter().filter(|body| body["data"].get("revision").is_some());
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for body in records {
        *times.entry(body["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    assert_eq!((times.len(), times.values().all(|times| *times == 2)), (50, true), "{times:?}");
}

#[test]
fn garbage_is_sent_once_and_never_well_signed_and_whole() {
    let receiver = Receiver::strict();
    let running = start(&receiver);
    for what in [Garbage::Forged, Garbage::Unsigned, Garbage::BrokenJson] {
        running.garbage("acme", what).unwrap();
        until("it is there", || running.state().webhooks.waiting == 0);
    }
    let got = receiver.got();
    assert_eq!(got.iter().map(|got| got.signed).collect::<Vec<_>>(), [false, false, true]);
    assert_eq!(got.iter().map(|got| got.json().is_some()).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(running.expected().entities, []);
    // Nothing else has that id: were it let in, it would take this one's place.
    change(&running, "acme", Resource::PurchaseOrders, ChangeKind::Create, None);
    until("it is there", || receiver.got().len() == 4);
    assert_eq!(receiver.got()[3].json().unwrap()["id"], got[0].json().unwrap()["id"]);
}

#[test]
fn webhooks_wait_until_it_is_known_where_they_go() {
    let receiver = Receiver::strict();
    let running = sandbox::provider::start(&sandbox::provider::Options::default()).unwrap();
    change(&running, "acme", Resource::Assets, ChangeKind::Create, None);
    assert_eq!(running.state().webhooks.waiting, 1);
    post(&format!("{}/control/receiver", running.url()), &json!({ "url": receiver.url }));
    until("it is there", || running.state().webhooks.answered == 1);
}

#[test]
fn without_losses_the_webhooks_alone_say_everything() {
    for name in ["duplicates", "out-of-order", "late", "storm", "slow-receiver"] {
        let receiver = Receiver::strict();
        let running = start(&receiver);
        let scenario = fast(name);
        assert!(scenario.loses_nothing());
        play(&running, scenario);
        let expected = running.expected();
        assert_eq!(differences(&expected, &receiver.newest()), [""; 0], "{name}");
        let mut orders: Vec<_> = receiver.of_type("purchase_order.*");
        orders.sort_by_key(|body| body["id"].as_str().unwrap().to_owned());
        orders.dedup();
        assert_eq!(expected.purchase_order_events, Some(orders.len() as u64), "{name}");
    }
}

#[test]
fn with_losses_the_lists_say_the_rest() {
    for name in ["lost", "credentials-expired", "api-errors", "sequence-gap", "deletions-lost", "mixed"] {
        let receiver = Receiver::strict();
        let running = start(&receiver);
        let mut scenario = fast(name);
        assert!(!scenario.loses_nothing());
        // How the API fails is another test's.
        scenario.faults.clear();
        play(&running, scenario);
        let expected = running.expected();
        assert_eq!(expected.purchase_order_events, None, "{name}");
        let mut rows = receiver.newest();
        // Of each record's gaps the last revision is sent: the newest are all there.
        let complete = name == "sequence-gap";
        assert_eq!(differences(&expected, &rows).is_empty(), complete, "{name}");
        lists_into(&mut rows, &running);
        assert_eq!(differences(&expected, &rows), [""; 0], "{name}");
        let told: BTreeMap<_, _> =
            expected.connections.keys().map(|id| (id.clone(), status_of(&receiver, id))).collect();
        assert_eq!(compare_statuses(&expected, &told), [], "{name}");
    }
}

/// What the newest event of a connection says.
fn status_of(receiver: &Receiver, connection: &str) -> String {
    let events =
        receiver.of_type("connection.*").into_iter().filter(|body| body["connection_id"] == connection);
    let newest = events.max_by_key(|body| body["timestamp"].as_str().unwrap().to_owned()).unwrap();
    let status = newest["data"]["status"].as_str().unwrap();
    if status == "online" { "active".to_owned() } else { status.to_owned() }
}

#[test]
fn a_gap_is_one_revision_that_is_missing_and_a_later_one_that_is_not() {
    let receiver = Receiver::strict();
    let running = start(&receiver);
    play(&running, fast("sequence-gap"));
    let mut revisions: BTreeMap<(String, String), Vec<u64>> = BTreeMap::new();
    for body in receiver.of_type("purchase_order.*") {
        let key = (body["connection_id"].to_string(), body["data"]["id"].to_string());
        revisions.entry(key).or_default().push(body["data"]["revision"].as_u64().unwrap());
    }
    let expected = running.expected();
    let last: u64 =
        expected.entities.iter().filter(|e| e.resource == Resource::PurchaseOrders).map(|e| e.revision).sum();
    let came: usize = revisions.values().map(Vec::len).sum();
    assert!((came as u64) < last, "no gap: {came} of {last}");
    for entity in expected.entities.iter().filter(|e| e.resource == Resource::PurchaseOrders) {
        let key = (json!(entity.connection).to_string(), json!(entity.id).to_string());
        assert!(revisions[&key].contains(&entity.revision), "the last of {key:?} is missing: that is no gap");
    }
}

#[test]
fn while_a_token_is_refused_no_webhook_tells_of_records() {
    let receiver = Receiver::strict();
    let running = start(&receiver);
    running.set_status("acme", Status::Revoked).unwrap();
    change(&running, "acme", Resource::Assets, ChangeKind::Create, None);
    change(&running, "globex", Resource::Assets, ChangeKind::Create, None);
    until("they are there", || running.state().webhooks.answered == 2);
    assert_eq!(receiver.of_type("asset.*").len(), 1);
    assert_eq!((running.state().lost, running.expected().connections["acme"]), (1, Status::Revoked));
}

#[test]
fn a_seed_decides_everything_that_is_expected() {
    let of_seed = |seed| {
        let running = start(&Receiver::strict());
        play(&running, Scenario { seed, ..fast("mixed") });
        running.expected()
    };
    let [first, second, other] = [of_seed(7), of_seed(7), of_seed(8)];
    assert_eq!(first, second);
    assert_ne!(first.entities, other.entities);
}

#[test]
fn a_scenario_runs_alone_and_a_second_one_goes_on_from_the_first() {
    let running = start(&Receiver::strict());
    let control = format!("{}/control", running.url());
    assert_eq!(running.state().phase, Phase::Idle);
    running.play(fast("duplicates")).unwrap();
    assert_eq!(post(&format!("{control}/scenario"), &json!({ "name": "lost" })).status, 409);
    assert!(running.wait_done(PATIENCE));
    let before = running.expected().entities.len();
    let state = common::get(&format!("{control}/state"), None).json();
    assert_eq!((&state["phase"], &state["changes"]), (&json!("done"), &json!(60)));
    play(&running, Scenario { created: 100, deleted: 0, ..fast("duplicates") });
    assert_eq!(running.expected().entities.len(), before + 60);
    let expected = common::get(&format!("{control}/expected"), None).json();
    assert_eq!(expected["entities"].as_array().unwrap().len(), before + 60);
}
