//! Snapshots take the place of the journal before them: the journal stays short, and an instance that comes
//! back with an empty disk, killed at whatever moment, goes on from a snapshot.

use std::collections::BTreeMap;
use std::fs;

use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::start_offsets;
use hookline_tests::kafka_topics::delete_all_records;
use hookline_tests::postgres::Postgres;
use hookline_tests::wait;

use crate::common::{PATIENCE, Sink, Site, processor, row_count, stderr, stdout};
use crate::load::{Load, assert_applied_once};

/// Small, so that snapshots come often.
const OFTEN: &str = r#"checkpoint = { interval = "20ms", snapshot_after = "8KiB" }"#;

const KILLS: usize = 5;

#[test]
fn the_journal_is_trimmed_and_a_killed_instance_with_an_empty_disk_goes_on_from_a_snapshot() {
    let site = Site::new("trimmed", Kafka::shared(), 2).gap_wait(PATIENCE);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut instance = site.instance_with("trimmed", "only", &sink, OFTEN);
    instance.program.spawn();
    instance.program.wait_ready();
    let load = Load::start(&site);
    wait_trimmed(&site, &starts(&site, "journal"));
    for kill in 0..KILLS {
        let before = row_count(&url);
        wait::until("more rows", PATIENCE, || (row_count(&url) > before + 30).then_some(()));
        instance.program.kill();
        if kill % 2 == 0 {
            fs::remove_dir_all(&instance.state_dir).unwrap();
        }
        instance.program.spawn();
    }
    instance.program.wait_ready();
    // Snapshots go on after it, and older ones are removed.
    wait_trimmed(&site, &starts(&site, "journal"));
    wait::until("older snapshots removed", PATIENCE, || {
        starts(&site, "snapshots").values().all(|start| *start > 0).then_some(())
    });
    assert_applied_once(&site, &url, &mut instance.program, &load.finish());

    let verified = processor(&site, "verify", &instance, &sink, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    let status = processor(&site, "status", &instance, &sink, &[]);
    assert_eq!(stdout(&status).matches("only").count(), 2, "an owner each: {}", stdout(&status));

    // Without its snapshot, a trimmed journal says so and applies nothing.
    instance.program.terminate();
    fs::remove_dir_all(&instance.state_dir).unwrap();
    delete_all_records(site.bootstrap(), "hookline.trimmed.snapshots");
    let rows = row_count(&url);
    instance.program.spawn();
    instance.program.wait_log("the snapshot that it continues is not there", PATIENCE);
    assert_eq!(row_count(&url), rows);
}

/// Waits until every partition's journal starts later than it did.
fn wait_trimmed(site: &Site, before: &BTreeMap<i32, i64>) {
    wait::until("trimmed journals", PATIENCE, || {
        let now = starts(site, "journal");
        now.iter().all(|(partition, start)| start > &before[partition]).then_some(())
    });
}

fn starts(site: &Site, topic: &str) -> BTreeMap<i32, i64> {
    start_offsets(site.bootstrap(), &format!("hookline.trimmed.{topic}"))
}
