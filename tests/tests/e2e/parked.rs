//! Events that do not come: the poller is asked for them, what polling finds closes the gap, an entity without either
//! stands still until an operator goes on without it.

use std::fs;
use std::process::Output;

use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, Record, read_all};
use hookline_tests::kafka_write::{NewRecord, produce};
use hookline_tests::postgres::Postgres;
use hookline_tests::{process, wait};
use serde_json::Value;

use crate::common::{Instance, PATIENCE, Sink, Site, processor, rows, stderr, stdout};

const NAME: &str = "parked";
/// Beside the site's log.
const REQUESTS: &str = "parked.events.poll-requests";

/// A source whose gaps are asked for, and then parked.
const SOURCE: &str = r#"
[sources.erp]
verify.standard = {}
secrets = ["env:BILLING_WEBHOOK_SECRET"]
connection = "path"
entity = "/data/id"
order.sequence = { at = "/data/revision", start = 1, gap_wait = "2s", gap_policy = "backfill_or_park" }
[sources.erp.poll]
url = "https://api.erp.example"
[sources.erp.poll.resources.orders]
path = "/orders"
one = "/orders/{entity}"
type = "order.updated"
body = '{"connection_id":{connection},"data":{record}}'
"#;

/// Appends events of an order as ingest does: those in `snapshots` as the poller would.
fn append(site: &Site, entity: &str, webhooks: &[u32], snapshots: &[u32]) {
    let webhooks = webhooks.iter().map(|number| (number, "webhook"));
    for (number, how) in webhooks.chain(snapshots.iter().map(|number| (number, "snapshot"))) {
        let (id, number) = (format!("{entity}-{number}-{how}"), number.to_string());
        let mut headers: Vec<(&str, &[u8])> = vec![
            ("ce_specversion", b"1.0"),
            ("ce_id", id.as_bytes()),
            ("ce_source", b"erp/acme"),
            ("ce_type", b"order.updated"),
            ("ce_time", b"2026-01-01T00:00:00Z"),
            ("ce_subject", entity.as_bytes()),
            ("ce_sequence", number.as_bytes()),
            ("hookline-received-at", b"1"),
        ];
        if how == "snapshot" {
            headers.push(("hookline-snapshot", number.as_bytes()));
        }
        let key = format!("erp/acme/{entity}");
        let record =
            NewRecord { partition: None, key: Some(key.as_bytes()), headers: &headers, value: Some(b"{}") };
        produce(site.bootstrap(), &site.topic(), &[record]);
    }
}

/// The ids of an order's rows, in the order of their application, once there are so many.
fn applied(url: &str, entity: &str, number: usize) -> Vec<String> {
    wait::until(&format!("{number} rows of {entity}"), PATIENCE, || {
        let mut rows = rows(url);
        rows.retain(|row| row.entity.as_deref() == Some(entity));
        rows.sort_by_key(|row| row.position);
        let start = entity.len() + 1;
        (rows.len() >= number).then(|| rows.iter().map(|row| row.event_id[start..].to_owned()).collect())
    })
}

fn parked(instance: &Instance, number: f64) {
    wait::until(&format!("{number} parked entities"), PATIENCE, || {
        let metrics = instance.program.metrics();
        (metrics.sum("hookline_processor_parked_entities", &[]) == Some(number)).then_some(())
    });
}

fn gaps(instance: &Instance, subcommand: &str, more: &[&str]) -> Output {
    let config = instance.config.display().to_string();
    let args: Vec<&str> =
        ["gaps", subcommand, "--pipeline", NAME, "--config", &config].iter().chain(more).copied().collect();
    process::run("processor", &args, instance.program.environment())
}

/// What the poller was asked for: entities, with the records' keys and partitions.
fn asked(site: &Site) -> Vec<(String, Vec<u8>, i32)> {
    let all = read_all(site.bootstrap(), REQUESTS, Isolation::ReadCommitted);
    let of = |record: &Record| {
        let request: Value = serde_json::from_slice(record.value.as_ref()?).ok()?;
        assert_eq!((request["source"].as_str(), request["connection"].as_str()), (Some("erp"), Some("acme")));
        Some((request["entity"].as_str()?.to_owned(), record.key.clone()?, record.partition))
    };
    all.iter().filter_map(of).collect()
}

#[test]
fn what_is_missing_is_asked_for_found_or_parked_and_skipped_by_an_operator() {
    let site = Site::new(NAME, Kafka::shared(), 2);
    let url = Postgres::shared().create_database();
    let mut instance = site.instance_with(NAME, "only", &Sink::Postgres(url.clone()), SOURCE);
    let topics = stdout(&processor(&site, "run", &instance, &["--dry-run"]));
    assert!(topics.contains(&format!("--topic {REQUESTS} --partitions 2 ")), "{topics}");
    instance.program.spawn();
    instance.program.wait_ready();

    // Nobody answers: both are parked, and the one keeps what it holds over an instance that lost its disk.
    append(&site, "order-7", &[1, 3, 4], &[]);
    append(&site, "order-8", &[1, 3, 5, 6], &[]);
    assert_eq!(applied(&url, "order-7", 1), ["1-webhook"]);
    parked(&instance, 2.0);
    let mut entities: Vec<String> = asked(&site).into_iter().map(|(entity, ..)| entity).collect();
    entities.sort_unstable();
    // A lane that claimed its partition again has asked again.
    entities.dedup();
    assert_eq!(entities, ["order-7", "order-8"]);
    instance.program.kill();
    fs::remove_dir_all(&instance.state_dir).unwrap();
    instance.program.spawn();
    instance.program.wait_ready();
    parked(&instance, 2.0);
    let listed = gaps(&instance, "list", &["--output", "json"]);
    let listed: Value = serde_json::from_str(&stdout(&listed)).unwrap();
    let of = |entity: &str| listed.as_array().unwrap().iter().find(|gap| gap["entity"] == entity).unwrap();
    let gap = of("order-8");
    assert_eq!(
        (gap["missing"].as_u64(), gap["waiting"].as_u64(), gap["held"].as_u64()),
        (Some(2), Some(3), Some(3))
    );
    assert!(gap["deadline"].is_null() && gap["since"].is_string(), "{gap}");
    assert!(stdout(&gaps(&instance, "list", &[])).contains("parked"));

    // Polling finds the one: what waited up to there is stale, what follows goes on.
    append(&site, "order-8", &[], &[4]);
    assert_eq!(applied(&url, "order-8", 4), ["1-webhook", "4-snapshot", "5-webhook", "6-webhook"]);
    parked(&instance, 1.0);
    assert!(instance.program.log_text().contains("held event stale"), "the log tells of it");
    let metrics = instance.program.metrics();
    assert_eq!(metrics.sum("hookline_processor_snapshots_applied_total", &[]), Some(1.0));

    // An operator goes on without the other's; the missing event comes too late.
    let nobody = gaps(&instance, "skip", &["--source", "erp", "--entity", "order-7", "--why", "test"]);
    assert_eq!(nobody.status.code(), Some(2), "the connection is missing: {}", stdout(&nobody));
    assert!(stderr(&nobody).contains("no gap is open for entity `order-7`"), "{}", stderr(&nobody));
    let which = ["--source", "erp", "--connection", "acme", "--entity", "order-7"];
    let skipped = gaps(&instance, "skip", &[&which[..], &["--why", "the ERP deleted revision 2"]].concat());
    assert_eq!(skipped.status.code(), Some(0), "{}", stderr(&skipped));
    assert!(stdout(&skipped).contains("waits for nothing"), "{}", stdout(&skipped));
    assert_eq!(applied(&url, "order-7", 3), ["1-webhook", "3-webhook", "4-webhook"]);
    append(&site, "order-7", &[2, 5], &[]);
    assert_eq!(applied(&url, "order-7", 4).last().unwrap(), "5-webhook");
    parked(&instance, 0.0);
    let said = read_all(site.bootstrap(), &site.topic(), Isolation::ReadCommitted);
    let skip =
        said.iter().find(|r| r.header("ce_type").as_deref() == Some("hookline.control.gap-skip")).unwrap();
    assert!(String::from_utf8_lossy(skip.value.as_ref().unwrap()).contains("the ERP deleted revision 2"));

    // The books agree, held events that became stale among them.
    site.wait_caught_up();
    let stale = instance.program.metrics().sum("hookline_processor_events_total", &[("verdict", "stale")]);
    assert_eq!(stale, Some(2.0));
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));

    // Requests of a connection go where any other producer's record with its key goes: to who polls it.
    let requests = asked(&site);
    let key: &[u8] = b"erp/acme";
    let record = NewRecord { key: Some(key), value: None, ..NewRecord::default() };
    let (partition, _) = produce(site.bootstrap(), REQUESTS, &[record])[0];
    assert!(
        requests.iter().all(|(_, found, at)| (found.as_slice(), *at) == (key, partition)),
        "{requests:?}"
    );
}
