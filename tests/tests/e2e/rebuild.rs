//! `processor rebuild`: a sink from an older backup gets what it lacks, and nothing twice.

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::postgres::{Postgres, query};
use hookline_tests::wait;
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, Sink, Site, order, processor, row_count, rows, stderr, stdout};

const TABLES: [&str; 3] = ["hookline_events", "hookline_entities", "hookline_fence"];

#[test]
fn a_sink_from_an_older_backup_stops_the_pipeline_and_a_rebuild_applies_what_it_lacks() {
    let site = Site::new("rebuilt", Kafka::shared(), 2);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut instance = site.instance("only", &sink);
    instance.program.spawn();
    instance.program.wait_ready();
    let client = Client::new();
    let send = |sequence: usize, id: &str| {
        for (connection, number) in [(CONNECTIONS[0], "one"), (CONNECTIONS[1], "two")] {
            let body = order(&format!("{id}_{number}"), number, &sequence.to_string());
            assert_eq!(site.post_order(&client, connection, &body).status, 200);
        }
    };
    (1..=3).for_each(|n| send(n, &format!("evt_{n}")));
    site.wait_caught_up();
    for table in TABLES {
        query(&url, &format!("CREATE TABLE backup_{table} AS TABLE {table}"));
    }
    // What the sink refused later stays refused: its dead letters say so.
    query(&url, "ALTER TABLE hookline_events ADD CONSTRAINT no_4 CHECK (event_id NOT LIKE 'evt_4%')");
    (4..=6).for_each(|n| send(n, &format!("evt_{n}")));
    site.wait_caught_up();
    query(&url, "ALTER TABLE hookline_events DROP CONSTRAINT no_4");
    let (right, dead) = (rows(&url), site.dead_letters().len());
    assert_eq!((right.len(), dead), (10, 2));
    let sorted = |mut rows: Vec<sandbox::check::Row>| {
        rows.sort_by_key(|row| row.position);
        rows
    };

    let running = processor(&site, "rebuild", &instance, &["--wait", "1s"]);
    assert_eq!(running.status.code(), Some(2));
    let text = stderr(&running);
    assert!(
        text.contains("still has members (hookline-rebuilt-only") && text.contains("nothing was changed"),
        "{text}"
    );

    instance.program.terminate();
    for table in TABLES {
        query(&url, &format!("TRUNCATE {table}; INSERT INTO {table} SELECT * FROM backup_{table}"));
    }
    instance.program.spawn();
    instance.program.wait_log("restored from an older backup", PATIENCE);
    wait::until("/readyz", PATIENCE, || (instance.program.readyz()?.0 == 503).then_some(()));
    assert_eq!(row_count(&url), 6);
    instance.program.terminate();

    let tried = processor(&site, "rebuild", &instance, &["--dry-run"]);
    assert_eq!(tried.status.code(), Some(0), "{}", stderr(&tried));
    assert_eq!(stdout(&tried).matches("would delete").count(), 2, "{}", stdout(&tried));
    let rebuilt = processor(&site, "rebuild", &instance, &[]);
    assert_eq!(rebuilt.status.code(), Some(0), "{}", stderr(&rebuilt));
    assert!(stdout(&rebuilt).contains("its next start folds the event log from its beginning"));

    instance.program.spawn();
    wait::until("what the backup lacks", PATIENCE, || (row_count(&url) >= right.len()).then_some(()));
    send(7, "evt_7");
    wait::until("what is new", PATIENCE, || (row_count(&url) >= right.len() + 2).then_some(()));
    site.wait_caught_up();
    let mut found = sorted(rows(&url));
    found.retain(|row| !row.event_id.starts_with("evt_7"));
    assert_eq!(found, sorted(right));
    assert_eq!(site.dead_letters().len(), dead);
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
}
