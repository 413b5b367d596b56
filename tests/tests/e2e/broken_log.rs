//! An event log that is not what it was: the partitions stop and say so, and nothing is applied.

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_topics::{delete, delete_all_records};
use hookline_tests::postgres::Postgres;
use hookline_tests::wait;
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, Sink, Site, order, processor, row_count, stderr};

/// So many events are applied before.
const APPLIED: usize = 5;

fn send(site: &Site, from: usize, count: usize) {
    let client = Client::new();
    for n in from..from + count {
        let body = order(&format!("evt_{n}"), &format!("order-{n}"), "1");
        assert_eq!(site.post_order(&client, CONNECTIONS[0], &body).status, 200);
    }
}

#[test]
fn records_that_are_deleted_before_they_are_folded_stop_the_partition() {
    let site = Site::new("unread", Kafka::shared(), 1);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut instance = site.instance("only", &sink);
    instance.program.spawn();
    send(&site, 0, APPLIED);
    site.wait_caught_up();
    instance.program.terminate();

    send(&site, APPLIED, 3);
    delete_all_records(site.bootstrap(), &site.topic());
    instance.program.spawn();
    instance.program.wait_log("what is between was deleted unread", PATIENCE);
    let (status, text) = wait::until("/readyz", PATIENCE, || instance.program.readyz());
    assert!(status == 503 && text.contains("deleted unread"), "{status} {text}");
    assert_eq!(row_count(&url), APPLIED);
    instance.program.kill();

    // What the log lacks stands in the journal alone, which a rebuild would delete.
    let rebuilt = processor(&site, "rebuild", &instance, &[]);
    assert_eq!(rebuilt.status.code(), Some(2));
    assert!(
        stderr(&rebuilt).contains("partition 0 of unread.events starts at offset"),
        "{}",
        stderr(&rebuilt)
    );

    delete_all_records(site.bootstrap(), "hookline.unread.journal");
    instance.program.spawn();
    instance.program.wait_log("the journal is gone, and so is the event log below offset", PATIENCE);
    assert_eq!(row_count(&url), APPLIED);
}

#[test]
fn a_log_that_is_deleted_and_made_anew_stops_the_partition() {
    let site = Site::new("anew", Kafka::shared(), 1);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let mut ingest = site.ingest().started();
    let mut instance = site.instance("only", &sink);
    instance.program.spawn();
    send(&site, 0, APPLIED);
    site.wait_caught_up();
    instance.program.terminate();
    ingest.terminate();

    delete(site.bootstrap(), &site.topic());
    ingest.spawn();
    ingest.wait_ready();
    // More than before, so that every offset is there again.
    send(&site, 100, 3 * APPLIED);
    instance.program.spawn();
    instance.program.wait_log("the log was deleted and made anew, or truncated", PATIENCE);
    wait::until("/readyz", PATIENCE, || (instance.program.readyz()?.0 == 503).then_some(()));
    assert_eq!(row_count(&url), APPLIED);
}
