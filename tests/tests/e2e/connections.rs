//! How connections stand: webhooks twice and in disorder, through ingest and pipelines that are killed, to the topic,
//! a table in PostgreSQL, the command line and the metrics.

use std::collections::BTreeMap;
use std::process::Output;

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, read_all};
use hookline_tests::postgres::{Postgres, query};
use hookline_tests::{kafka_topics, process, wait};
use sandbox::sources::{CONNECTIONS, Connection};
use serde_json::{Value, json};

use crate::common::{
    Instance, PATIENCE, Sink, Site, assert_nothing_leaked, now_s, processor, stderr, stdout,
};

/// What is added to the configuration, after the pipeline's table.
pub(crate) const STATUS: &str = r#"
[sources.makini.status]
active = ["connection.online"]
degraded = ["connection.degraded"]
reauthorization_needed = ["connection.reauthorization_needed"]
offline = ["connection.offline"]
revoked = ["connection.revoked"]
reason = "/data/reason"
time = "/timestamp"

[sources.makini.connections.acme.labels]
name = "Acme's SAP"
email = "later@acme.example"
reconnect_url = "https://portal.example/acme"
[sources.makini.connections.globex.labels]
name = "Globex"
email = "never@globex.example"
"#;

/// In the second of the minute, a connection's event of a kind.
pub(crate) fn tells(site: &Site, connection: Connection, id: &str, kind: &str, second: u32) {
    let text = json!({
        "id": id, "type": format!("connection.{kind}"), "connection_id": connection.id,
        "timestamp": time(second), "data": {"reason": format!("because of {id}")},
    });
    let answer = site.post_order(&Client::new(), connection, text.to_string().as_bytes());
    assert_eq!(answer.status, 200, "{id}");
}

pub(crate) fn time(second: u32) -> String {
    format!("2026-05-01T10:{:02}:{:02}Z", second / 60, second % 60)
}

fn connections(instance: &Instance, arguments: &[&str]) -> Output {
    let config = instance.config.display().to_string();
    let (command, rest) = arguments.split_first().unwrap();
    let mut all = vec!["connections", command, "--config", &config];
    all.extend(rest);
    process::run("processor", &all, instance.program.environment())
}

/// The statuses that the topic has, in its order, by connection: id, status, since, previous.
fn history(site: &Site, topic: &str) -> BTreeMap<String, Vec<[String; 4]>> {
    let mut found: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for record in read_all(site.bootstrap(), topic, Isolation::ReadCommitted) {
        let key = String::from_utf8(record.key.unwrap()).unwrap();
        if key == "hookline:fence" {
            continue;
        }
        let value: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        let text = |name: &str| value[name].as_str().unwrap_or("-").to_owned();
        let row = [text("event_id"), text("status"), text("since"), text("previous")];
        found.entry(key).or_default().push(row);
    }
    found
}

/// The columns of the table, but for the position.
const COLUMNS: [&str; 9] =
    ["source", "connection", "status", "since", "previous", "reason", "event_id", "event_type", "time"];

/// The newest record of each connection, as rows of the table.
fn newest(site: &Site, topic: &str) -> Vec<Vec<Option<String>>> {
    let mut newest = BTreeMap::new();
    for record in read_all(site.bootstrap(), topic, Isolation::ReadCommitted) {
        let value: Value = serde_json::from_slice(&record.value.unwrap()).unwrap();
        if record.key.as_deref() == Some(b"hookline:fence") {
            continue;
        }
        let mut row: Vec<_> = COLUMNS.map(|name| value[name].as_str().map(str::to_owned)).into();
        let position = &value["position"];
        let numbers = [json!(record.partition), position["offset"].clone(), position["ordinal"].clone()];
        row.extend(numbers.map(|number| Some(number.to_string())));
        newest.insert(record.key, row);
    }
    newest.into_values().collect()
}

/// The rows of the table; none until it is made.
fn rows(database: &str) -> Vec<Vec<Option<String>>> {
    let there = query(database, "SELECT FROM pg_tables WHERE tablename = 'hookline_connections'");
    if there.is_empty() {
        return Vec::new();
    }
    let columns = COLUMNS.join(", ");
    query(
        database,
        &format!(
            "SELECT {columns}, log_partition, effect_offset, effect_ordinal FROM hookline_connections ORDER BY 1, 2"
        ),
    )
}

#[test]
fn each_status_is_published_once_whatever_comes_twice_late_or_is_killed() {
    const ROUNDS: u32 = 12;
    let site = Site::new("statuses", Kafka::shared(), 2);
    let topic = "statuses.connections";
    let started_s = now_s();
    let ingest = site.ingest().started();
    let mut instance = site.instance_with("statuses", "only", &Sink::Connections(topic.to_owned()), STATUS);
    instance.program.spawn();
    let database = Postgres::shared().create_database();
    let more = format!("sink.postgres.connections = \"hookline_connections\"\n{STATUS}");
    let mut table = site.instance_with("statuses-table", "only", &Sink::Postgres(database.clone()), &more);
    table.program.spawn();
    let [acme, globex] = CONNECTIONS;
    let mut expected = Vec::new();
    let mut before = "-";
    for round in 0..ROUNDS {
        let kind = ["online", "offline", "offline", "reauthorization_needed"][round as usize % 4];
        let status = if kind == "online" { "active" } else { kind };
        let (id, second) = (format!("evt_{round}"), 10 * round);
        tells(&site, acme, &id, kind, second);
        // Again; and another one that is older than it, and comes late.
        tells(&site, acme, &id, kind, second);
        if round > 0 {
            tells(&site, acme, &format!("late_{round}"), "revoked", second - 5);
        }
        if round % 4 == 1 {
            for program in [&mut instance.program, &mut table.program] {
                program.kill();
                program.spawn();
            }
        }
        let since = if round % 4 == 2 { second - 10 } else { second };
        let previous = if round % 4 == 2 { "active" } else { before };
        expected.push([id, status.to_owned(), time(since), previous.to_owned()]);
        before = status;
    }
    tells(&site, globex, "evt_globex", "degraded", 0);
    instance.program.wait_ready();
    site.wait_caught_up();

    let found = history(&site, topic);
    assert_eq!(found["makini/acme"], expected);
    assert_eq!(found["makini/globex"], [["evt_globex", "degraded", &time(0), "-"].map(str::to_owned)]);
    assert_eq!(found.len(), 2);
    let newest = newest(&site, topic);
    wait::until("the table as the topic", PATIENCE, || (rows(&database) == newest).then_some(()));
    assert_eq!(kafka_topics::settings(site.bootstrap(), topic)["cleanup.policy"], "compact");

    let listed = connections(&instance, &["list", "--output", "json"]);
    let listed: Value =
        serde_json::from_str(&stdout(&listed)).unwrap_or_else(|e| panic!("{e}: {}", stderr(&listed)));
    let [first, second] = listed.as_array().unwrap().as_slice() else { panic!("not two: {listed}") };
    let last = ROUNDS - 1;
    assert_eq!(first["connection"], "acme");
    assert_eq!(first["status"], "reauthorization_needed");
    assert_eq!(first["since"], time(10 * last));
    assert_eq!(first["previous"], "offline");
    assert_eq!(first["event_id"], format!("evt_{last}"));
    assert_eq!(first["reason"], format!("because of evt_{last}"));
    assert_eq!(first["labels"]["name"], "Acme's SAP");
    assert_eq!((&second["connection"], &second["status"]), (&json!("globex"), &json!("degraded")));
    let degraded = connections(&instance, &["list", "--status", "degraded", "--source", "makini"]);
    assert!(
        stdout(&degraded).contains("globex") && !stdout(&degraded).contains("acme"),
        "{}",
        stdout(&degraded)
    );
    let shown = connections(&instance, &["show", "makini", "acme"]);
    assert!(shown.status.success() && stdout(&shown).contains("because of evt_11"), "{}", stdout(&shown));
    assert_eq!(connections(&instance, &["show", "makini", "nobody"]).status.code(), Some(1));
    let wrong = connections(&instance, &["list", "--status", "happy"]);
    assert!(
        !wrong.status.success() && stderr(&wrong).contains("there are active, degraded"),
        "{}",
        stderr(&wrong)
    );

    let metrics = instance.program.metrics();
    let number = |status| metrics.sum("hookline_connections", &[("source", "makini"), ("status", status)]);
    assert_eq!(
        [number("active"), number("degraded"), number("reauthorization_needed")],
        [Some(0.0), Some(1.0), Some(1.0)]
    );
    let one = |connection, status| {
        let labels = [("source", "makini"), ("connection", connection), ("status", status)];
        metrics.sum("hookline_connection_status", &labels)
    };
    assert_eq!((one("acme", "reauthorization_needed"), one("globex", "degraded")), (Some(1.0), Some(1.0)));
    assert_eq!(metrics.sum("hookline_connections_without_series", &[]), Some(0.0));
    let metrics = ingest.metrics();
    for connection in ["acme", "globex"] {
        let labels = [("source", "makini"), ("connection", connection)];
        let last_s = metrics.sum("ingest_connection_last_event_timestamp_seconds", &labels).unwrap();
        assert!((started_s as f64..=now_s() as f64 + 1.0).contains(&last_s), "{connection}: {last_s}");
    }
    assert_eq!(metrics.sum("ingest_connections_without_series", &[]), Some(0.0));
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    assert_nothing_leaked(&[instance.program.log_text(), table.program.log_text()], &["because of"]);
}
