//! The event format is CloudEvents in Kafka's binary content mode: other people's tools read it.

use std::io::Write;
use std::process::{Command, Stdio};

use hookline_tests::http::Client;
use hookline_tests::setup;
use sandbox::sources::CONNECTIONS;
use serde_json::{Value, json};

use crate::common::{Shared, order, shared};

/// Reads a record as the CloudEvents SDK does; JSON in, JSON out.
const READ: &str = r#"
import json, sys
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary
from cloudevents.core.formats.json import JSONFormat
record = json.load(sys.stdin)
headers = {name: value.encode() for name, value in record["headers"]}
event = from_binary(KafkaMessage(headers, record["key"].encode(), record["value"].encode()), JSONFormat())
attributes = event.get_attributes()
attributes["time"] = attributes["time"].isoformat()
json.dump({"attributes": attributes, "data": event.get_data()}, sys.stdout)
"#;

#[test]
fn kcat_reads_what_was_appended() {
    let shared = shared();
    let body = append(shared, "evt_kcat");
    let output = Command::new("kcat")
        .args(["-b", shared.site.bootstrap(), "-t", &shared.site.topic()])
        .args(["-C", "-e", "-q", "-J", "-o", "beginning"])
        .output()
        .expect("kcat (tests/run installs it)");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // kcat writes bodies as they are, and some here are not UTF-8.
    let record = String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap())
        .find(|record| header(record, "ce_id") == Some("evt_kcat"))
        .expect("the event");
    assert_eq!(record["payload"].as_str(), Some(body.as_str()));
    assert_eq!(record["key"].as_str(), Some("makini/acme/purchase-order-evt_kcat"));
    assert_eq!(record["tstype"].as_str(), Some("logappend"));
    assert_eq!(header(&record, "ce_specversion"), Some("1.0"));
    assert_eq!(header(&record, "ce_source"), Some("makini/acme"));
    assert_eq!(header(&record, "ce_type"), Some("purchase_order.updated"));
    assert_eq!(header(&record, "ce_subject"), Some("purchase-order-evt_kcat"));
    assert_eq!(header(&record, "ce_sequence"), Some("1"));
    assert_eq!(header(&record, "content-type"), Some("application/json"));
    assert!(header(&record, "traceparent").is_some_and(|trace| trace.len() == 55));
}

#[test]
fn the_cloudevents_sdk_reads_what_was_appended() {
    let shared = shared();
    let body = append(shared, "evt_sdk");
    let records = shared.site.events();
    let record = records.iter().find(|r| r.header("ce_id").as_deref() == Some("evt_sdk")).unwrap();
    let text = |bytes: &Option<Vec<u8>>| String::from_utf8(bytes.clone().unwrap()).unwrap();
    let headers: Vec<_> = record.headers.iter().map(|(name, value)| (name, text(value))).collect();
    let input = json!({"headers": headers, "key": text(&record.key), "value": text(&record.value)});
    let mut python = Command::new(setup::tool("python"))
        .args(["-c", READ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python (tests/run installs it)");
    python.stdin.take().unwrap().write_all(input.to_string().as_bytes()).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success());
    let event: Value = serde_json::from_slice(&output.stdout).unwrap();
    let attributes = &event["attributes"];
    for (name, value) in [
        ("specversion", "1.0"),
        ("id", "evt_sdk"),
        ("source", "makini/acme"),
        ("type", "purchase_order.updated"),
        ("subject", "purchase-order-evt_sdk"),
        ("sequence", "1"),
        ("datacontenttype", "application/json"),
    ] {
        assert_eq!(attributes[name].as_str(), Some(value), "{name}");
    }
    assert!(attributes["time"].as_str().is_some_and(|time| time.ends_with("+00:00")));
    assert_eq!(event["data"], serde_json::from_str::<Value>(&body).unwrap());
}

fn append(shared: &Shared, id: &str) -> String {
    let body = order(id, id, "1");
    assert_eq!(shared.site.post_order(&Client::new(), CONNECTIONS[0], &body).status, 200);
    String::from_utf8(body).unwrap()
}

/// kcat writes headers as one list: name, value, name, value.
fn header<'r>(record: &'r Value, name: &str) -> Option<&'r str> {
    let headers = record["headers"].as_array()?;
    headers.chunks(2).find(|pair| pair[0] == name)?[1].as_str()
}
