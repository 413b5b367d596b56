//! The harness itself, on real servers: what the other tests build on.

use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, end_offsets, read_all};
use hookline_tests::kafka_write::{NewRecord, produce};
use hookline_tests::octokit;
use hookline_tests::postgres::{Postgres, query};

#[test]
fn kafka_keeps_acknowledged_records_over_kill_9() {
    let mut kafka = Kafka::start();
    kafka.create_topic("log", 3, &[("message.timestamp.type", "LogAppendTime")]);
    let values: Vec<String> = (0..30).map(|n| format!("value {n}")).collect();
    let headers: &[(&str, &[u8])] = &[("ce_id", b"1"), ("ce_id", b"2")];
    let records: Vec<NewRecord<'_>> = values
        .iter()
        .map(|v| NewRecord { partition: None, key: Some(v.as_bytes()), headers, value: Some(v.as_bytes()) })
        .collect();
    let mut acknowledged = produce(&kafka.bootstrap(), "log", &records);
    acknowledged.sort_unstable();

    kafka.kill();
    kafka.restart();

    let read = read_all(&kafka.bootstrap(), "log", Isolation::ReadCommitted);
    let places: Vec<(i32, i64)> = read.iter().map(|r| (r.partition, r.offset)).collect();
    assert_eq!(places, acknowledged);
    assert_eq!(end_offsets(&kafka.bootstrap(), "log").values().sum::<i64>(), 30);
    for record in &read {
        assert_eq!(record.key, record.value);
        assert_eq!(record.headers.len(), 2);
        assert_eq!(record.header("ce_id").as_deref(), Some("1"));
        assert!(record.timestamp_ms.is_some());
    }
}

#[test]
fn postgres_keeps_committed_rows_over_kill_9() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database();
    query(&url, "CREATE TABLE kept (n int); INSERT INTO kept VALUES (1), (NULL)");

    postgres.kill();
    postgres.restart();

    assert_eq!(query(&url, "SELECT n FROM kept ORDER BY n"), [vec![Some("1".to_owned())], vec![None]]);
    postgres.stop();
    postgres.restart();
    assert_eq!(query(&url, "SELECT count(*) FROM kept"), [vec![Some("2".to_owned())]]);
}

#[test]
fn github_payloads_are_signed_by_githubs_library() {
    let deliveries = octokit::deliveries("It's a Secret to Everybody");
    assert_eq!(deliveries.len(), 329);
    assert!(deliveries.iter().all(|d| d.signature.starts_with("sha256=") && d.signature.len() == 7 + 64));
}
