//! The poller by itself, against the sandbox's API: tokens that expire, crashes in mid-list, shares of the work, and what
//! makes it ask at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, read_all};
use hookline_tests::process::Program;
use hookline_tests::wait;
use sandbox::provider::{
    self, Change, ChangeKind, ConfigOptions, Fault, FaultKind, Options, Resource, Running, Scenario, Status,
    config_toml,
};

use crate::stand::Stand;

const PATIENCE: Duration = Duration::from_secs(60);
/// Longer than any test.
const NEVER: Duration = Duration::from_secs(3600);

/// A provider with so many purchase orders of each connection and nothing else, and a configuration that polls it.
fn provided(name: &str, connections: &[&str], orders: usize, interval: Duration) -> (Stand, Running) {
    let stand = Stand::new(name);
    let registry = stand.dir.path().join("connections");
    let connections: Vec<String> = connections.iter().map(|id| (*id).to_owned()).collect();
    let options = Options { registry: Some(registry.clone()), connections, ..Options::default() };
    let provider = provider::start(&options).unwrap();
    let sources = config_toml(&ConfigOptions {
        source: "makini",
        api_url: &provider.url(),
        registry: &registry,
        gap_wait: Duration::from_secs(5),
        poll_interval: interval,
        overlap: Duration::from_secs(30),
    });
    stand.configure(&sources, "");
    let scenario = format!(
        "shows = \"records\"\nduration = \"10ms\"\nchanges = 0\nexisting = {{ purchase_orders = {orders} }}\n"
    );
    provider.play(Scenario::parse("records", &scenario).unwrap()).unwrap();
    // Not until it is done: webhooks wait for a receiver.
    wait::until("the provider's records", PATIENCE, || {
        (provider.expected().entities.len() == orders * options.connections.len()).then_some(())
    });
    (stand, provider)
}

/// A change of a purchase order, of which no webhook tells.
fn untold(connection: &str, kind: ChangeKind) -> Change {
    Change {
        connection: connection.to_owned(),
        resource: Resource::PurchaseOrders,
        kind,
        id: None,
        lost: true,
    }
}

/// The API fails for the next lists of purchase orders.
fn fails(kind: FaultKind, requests: u32) -> Fault {
    Fault {
        at: Duration::ZERO,
        kind,
        requests,
        connection: None,
        resource: Some(Resource::PurchaseOrders),
        on: None,
        wait: Duration::ZERO,
    }
}

/// The purchase orders that the log has, by connection; each with how often.
fn orders(stand: &Stand) -> BTreeMap<String, BTreeMap<String, usize>> {
    let mut found: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for event in stand.events() {
        let source = event.header("ce_source").unwrap();
        if event.header("hookline-snapshot").is_some() {
            *found.entry(source).or_default().entry(event.header("ce_id").unwrap()).or_default() += 1;
        }
    }
    found
}

/// How many different records of a connection the log has.
fn count(stand: &Stand, connection: &str) -> usize {
    orders(stand).get(&format!("makini/{connection}")).map_or(0, BTreeMap::len)
}

fn wait_for(stand: &Stand, connection: &str, records: usize) {
    let what = format!("{records} records of {connection} in the log");
    wait::until(&what, PATIENCE, || (count(stand, connection) == records).then_some(()));
}

/// The types of a connection's status events, in their order.
fn told(stand: &Stand, connection: &str) -> Vec<String> {
    let entity = format!("connection-{connection}");
    let events = stand.events().into_iter();
    let of = events.filter(|event| event.header("ce_subject").as_deref() == Some(&entity));
    of.map(|event| event.header("ce_type").unwrap()).collect()
}

#[test]
fn a_refused_token_is_told_once_and_what_failed_meanwhile_is_fetched_with_the_new_one() {
    let (stand, provider) = provided("poll-token", &["acme"], 30, Duration::from_secs(1));
    let poller = stand.poller().started();
    wait_for(&stand, "acme", 30);
    provider.set_status("acme", Status::ReauthorizationNeeded).unwrap();
    for _ in 0..5 {
        provider.change(&untold("acme", ChangeKind::Create)).unwrap();
    }
    let refused = "connection.reauthorization_needed";
    wait::until("the refusal in the log", PATIENCE, || (told(&stand, "acme") == [refused]).then_some(()));
    // Each list notices it, and one of them tells. Then nobody asks until there is a new token, or an interval is over.
    wait::until("the lists to notice", PATIENCE, || {
        (poller.log_text().matches("not polled").count() >= 4).then_some(())
    });
    assert_eq!(count(&stand, "acme"), 30);
    provider.set_status("acme", Status::Online).unwrap();
    wait_for(&stand, "acme", 35);
    wait::until("the recovery in the log", PATIENCE, || {
        (told(&stand, "acme") == [refused, "connection.online"]).then_some(())
    });
    for token in provider.tokens().values() {
        assert!(!poller.log_text().contains(token), "a token is in the log");
    }
}

#[test]
fn a_list_goes_on_where_a_killed_poller_stopped() {
    let (stand, provider) = provided("poll-crash", &["acme"], 6_000, NEVER);
    // Slow enough to be killed in the middle: 500 records a second.
    let file = stand.dir.path().join("hookline.toml");
    let slow =
        fs::read_to_string(&file).unwrap().replace("requests_per_second = 50", "requests_per_second = 1");
    fs::write(&file, slow).unwrap();
    let mut poller = stand.poller().started();
    wait::until("some pages in the log", PATIENCE, || (count(&stand, "acme") >= 1_500).then_some(()));
    poller.kill();
    let before = count(&stand, "acme");
    let pages = provider.requests()["acme"].lists_of[&Resource::PurchaseOrders];
    let _poller = stand.poller().started();
    wait_for(&stand, "acme", 6_000);
    let more = provider.requests()["acme"].lists_of[&Resource::PurchaseOrders] - pages;
    let left = (6_000 - before).div_ceil(500) as u64;
    assert!(more <= left + 2, "{more} pages were asked for after the crash, when {left} were left");
    // At most the pages that were under way are there twice.
    let twice = orders(&stand)["makini/acme"].values().filter(|count| **count > 1).count();
    assert!(twice <= 1_000, "{twice} records are in the log twice");
}

#[test]
fn a_webhook_of_a_finished_synchronisation_is_why_its_list_is_read_at_once() {
    let (stand, provider) = provided("poll-trigger", &["acme"], 3, NEVER);
    let _ingest = stand.ingest().started();
    let poller = stand.poller().started();
    wait_for(&stand, "acme", 3);
    provider.change(&untold("acme", ChangeKind::Create)).unwrap();
    provider.set_receiver(&format!("http://{}", stand.webhooks));
    provider.sync("acme", Resource::PurchaseOrders).unwrap();
    wait_for(&stand, "acme", 4);
    // When each list was read last, for whoever watches.
    for resource in ["purchase_orders", "suppliers"] {
        let labels = [("source", "makini"), ("connection", "acme"), ("resource", resource)];
        wait::until("the time of the last poll", PATIENCE, || {
            poller
                .metrics()
                .sum("ingest_poll_last_success_timestamp_seconds", &labels)
                .filter(|time| *time > 0.0)
        });
    }
    assert_eq!(poller.metrics().sum("ingest_connections_without_series", &[]), Some(0.0));
}

#[test]
fn a_deletion_that_no_webhook_told_is_found_by_a_list_that_is_read_whole() {
    let (stand, provider) = provided("poll-sweep", &["acme"], 700, Duration::from_secs(1));
    let file = stand.dir.path().join("hookline.toml");
    let path = "path = \"/api/v1/purchase-orders\"\n";
    let sweep = "sweep = { interval = \"1s\", type = \"purchase_order.deleted\", body = '{\"type\":{type},\
                 \"connection_id\":{connection},\"data\":{\"id\":{entity},\"updated_at\":{time}}}' }\n";
    let text = fs::read_to_string(&file).unwrap().replacen(path, &format!("{path}{sweep}"), 1);
    fs::write(&file, text).unwrap();
    let mut poller = stand.poller().started();
    wait_for(&stand, "acme", 700);
    // What there was, outlives the program.
    let kept = || {
        let topic = format!("{}.poll-entities", stand.topic());
        !read_all(&Kafka::shared().bootstrap(), &topic, Isolation::ReadCommitted).is_empty()
    };
    wait::until("the entities to be kept", PATIENCE, || kept().then_some(()));
    poller.kill();
    let delete = untold("acme", ChangeKind::Delete);
    let mut deleted = BTreeSet::from([provider.change(&delete).unwrap()]);
    let mut poller = stand.poller().started();
    let told = || -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for event in stand.events() {
            if event.header("ce_type").as_deref() == Some("purchase_order.deleted") {
                let entity = event.header("ce_subject").unwrap();
                *told.entry(entity.strip_prefix("purchase-order-").unwrap().to_owned()).or_default() += 1;
            }
        }
        told
    };
    let ids = || told().into_keys().collect::<BTreeSet<_>>();
    wait::until("the deletion in the log", PATIENCE, || (ids() == deleted).then_some(()));
    // An API that fails says nothing of what there is not.
    provider.fault(&fails(FaultKind::ServerError, 5)).unwrap();
    deleted.insert(provider.change(&delete).unwrap());
    wait::until("the second deletion in the log", PATIENCE, || (ids() == deleted).then_some(()));
    assert!(told().values().all(|count| *count == 1), "{:?}", told());
    assert!(poller.terminate().success());
}

#[test]
fn a_cursor_that_repeats_is_named_and_the_list_begun_anew() {
    let (stand, provider) = provided("poll-circle", &["acme"], 1_200, Duration::from_secs(1));
    provider.fault(&fails(FaultKind::CursorRepeats, 3)).unwrap();
    let poller = stand.poller().started();
    poller.wait_log("leads to a page that it had already", PATIENCE);
    wait_for(&stand, "acme", 1_200);
}

#[test]
fn a_provider_that_asks_one_list_to_wait_is_asked_for_none_of_the_token() {
    const PAUSE: Duration = Duration::from_secs(20);
    let connections = ["acme", "globex"];
    let (stand, provider) = provided("poll-pause", &connections, 3_000, Duration::from_secs(1));
    // Slow enough that the purchase orders, of six pages, are in the middle.
    let file = stand.dir.path().join("hookline.toml");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("requests_per_second = 50", "requests_per_second = 2")).unwrap();
    let pause = Fault {
        connection: Some("acme".to_owned()),
        resource: Some(Resource::Suppliers),
        wait: PAUSE,
        ..fails(FaultKind::RateLimited, 1)
    };
    provider.fault(&pause).unwrap();
    let poller = stand.poller().started();
    let lists = |connection: &str| provider.requests()[connection].lists;
    let before = wait::until("the provider to ask for a pause", PATIENCE, || {
        let shown = provider.requests()["acme"].faults.contains_key(&FaultKind::RateLimited);
        shown.then(|| connections.map(lists))
    });
    // The other connection's lists are the clock: as often would this one's be read.
    wait::until("the other connection's lists", PATIENCE, || {
        (lists("globex") >= before[1] + 12).then_some(())
    });
    let during = lists("acme") - before[0];
    assert!(during <= 3, "{during} pages were asked for in the pause: more than each other list's last one");
    // Then all go on where they were.
    wait_for(&stand, "acme", 3_000);
    wait_for(&stand, "globex", 3_000);
    assert!(poller.log_text().contains("the provider asks to wait (status 429)"));
}

#[test]
fn two_pollers_share_the_connections_and_one_takes_over_what_the_other_leaves() {
    let connections: Vec<String> = (0..12).map(|n| format!("customer-{n}")).collect();
    let ids: Vec<&str> = connections.iter().map(String::as_str).collect();
    let (stand, provider) = provided("poll-share", &ids, 2, Duration::from_secs(1));
    let first = stand.poller().started();
    for id in &ids {
        wait_for(&stand, id, 2);
    }
    let mut second: Program = stand.second_poller().started();
    let shares = |log: &str| -> BTreeSet<String> {
        let started = log.lines().filter(|line| line.contains("polled here"));
        started.map(str::to_owned).collect()
    };
    wait::until("a share for the second one", PATIENCE, || {
        shares(&second.log_text()).iter().any(|line| !line.contains("[]")).then_some(())
    });
    assert!(first.log_text().contains("polled elsewhere"));
    second.kill();
    for id in &ids {
        provider.change(&untold(id, ChangeKind::Create)).unwrap();
    }
    for id in &ids {
        wait_for(&stand, id, 3);
    }
}

#[test]
fn a_registry_is_followed_and_what_is_wrong_in_it_is_named() {
    let (stand, provider) = provided("poll-registry", &["acme", "globex"], 2, Duration::from_secs(1));
    let globex = stand.dir.path().join("connections/globex.toml");
    let text = fs::read_to_string(&globex).unwrap();
    fs::remove_file(&globex).unwrap();
    let poller = stand.poller().started();
    wait_for(&stand, "acme", 2);
    assert_eq!(count(&stand, "globex"), 0);
    fs::write(&globex, "[globex\n").unwrap();
    poller.wait_log("the registry cannot be read", PATIENCE);
    assert!(poller.log_text().contains("globex.toml:1"));
    fs::write(&globex, text.replace("token = \"file:", "token = \"file:/nowhere")).unwrap();
    poller.wait_log("a connection of the registry cannot be used", PATIENCE);
    fs::write(&globex, text).unwrap();
    wait_for(&stand, "globex", 2);
    drop(provider);
    poller.wait_log("the provider cannot be reached", PATIENCE);
}
