//! Snapshots take the place of the journal before them: the journal stays short, and an instance that comes
//! back with an empty disk, killed at whatever moment, goes on from a snapshot.

use std::collections::BTreeMap;
use std::fs;

use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{end_offsets, start_offsets};
use hookline_tests::kafka_topics::delete_all_records;
use hookline_tests::kafka_write::OpenTransaction;
use hookline_tests::load::{Load, assert_applied_once};
use hookline_tests::postgres::Postgres;
use hookline_tests::wait;

use crate::common::{PATIENCE, Sink, Site, processor, row_count, stderr, stdout};

/// Small, so that snapshots come often, and ids are spilled often.
const OFTEN: &str = r#"checkpoint = { interval = "20ms", snapshot_after = "8KiB" }
fold = { ids_in_memory_max = 100 }"#;

const KILLS: usize = 5;

#[test]
fn the_journal_is_trimmed_and_a_killed_instance_with_an_empty_disk_goes_on_from_a_snapshot() {
    let (journal, snapshots) = ("hookline.trimmed.journal", "hookline.trimmed.snapshots");
    let site = Site::new("trimmed", Kafka::shared(), 2).gap_wait(PATIENCE);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut instance = site.instance_with("trimmed", "only", &sink, OFTEN);
    instance.program.spawn();
    instance.program.wait_ready();
    let load = Load::start(&site);
    wait_trimmed(&site, journal, &start_offsets(site.bootstrap(), journal));
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
    wait_trimmed(&site, journal, &start_offsets(site.bootstrap(), journal));
    wait::until("older snapshots removed", PATIENCE, || {
        start_offsets(site.bootstrap(), snapshots).values().all(|start| *start > 0).then_some(())
    });
    assert_applied_once(&site, &url, &mut instance.program, &load.finish());

    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    let status = processor(&site, "status", &instance, &[]);
    assert_eq!(stdout(&status).matches("only").count(), 2, "an owner each: {}", stdout(&status));

    // Without its snapshot, a trimmed journal says so and applies nothing.
    instance.program.terminate();
    fs::remove_dir_all(&instance.state_dir).unwrap();
    delete_all_records(site.bootstrap(), snapshots);
    let rows = row_count(&url);
    instance.program.spawn();
    instance.program.wait_log("the snapshot that it continues is not there", PATIENCE);
    assert_eq!(row_count(&url), rows);

    // The event log has all that is needed to make both anew.
    instance.program.terminate();
    let rebuilt = processor(&site, "rebuild", &instance, &[]);
    assert_eq!(rebuilt.status.code(), Some(0), "{}", stderr(&rebuilt));
    instance.program.spawn();
    instance.program.wait_ready();
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    assert_eq!(row_count(&url), rows);
}

/// A zombie's transaction hides the start of a journal that was trimmed since: no reason to believe it lost.
#[test]
fn a_journal_whose_start_is_hidden_by_an_open_transaction_is_waited_for() {
    let site = Site::new("hidden", Kafka::shared(), 2).gap_wait(PATIENCE);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut instance = site.instance_with("hidden", "only", &sink, OFTEN);
    instance.program.spawn();
    instance.program.wait_ready();
    let load = Load::start(&site);
    let journal = "hookline.hidden.journal";
    let zombie = OpenTransaction::begin(site.bootstrap(), journal);
    wait_trimmed(&site, journal, &end_offsets(site.bootstrap(), journal));
    instance.program.kill();
    fs::remove_dir_all(&instance.state_dir).unwrap();
    instance.program.spawn();
    wait::until("partitions assigned", PATIENCE, || {
        instance.program.readyz().is_some_and(|(_, text)| text.contains("not claimed yet")).then_some(())
    });
    load.wait_accepted(200);
    assert!(!instance.program.is_ready(), "it cannot know yet what was applied");
    zombie.abort();
    instance.program.wait_ready();
    assert_applied_once(&site, &url, &mut instance.program, &load.finish());
    assert!(!instance.program.log_text().contains("the journal is gone"), "{}", instance.program.log_text());
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
}

/// Waits until every partition of the journal starts later than `before` says.
fn wait_trimmed(site: &Site, journal: &str, before: &BTreeMap<i32, i64>) {
    wait::until("trimmed journals", PATIENCE, || {
        let now = start_offsets(site.bootstrap(), journal);
        now.iter().all(|(partition, start)| start > &before[partition]).then_some(())
    });
}
