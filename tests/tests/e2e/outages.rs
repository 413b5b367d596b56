//! What is unreachable is waited for: said once per change, not ready meanwhile, and when it is back all goes
//! on by itself, with nothing lost or applied twice.

use std::time::{Duration, Instant};

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::load::{Load, assert_applied_once};
use hookline_tests::postgres::{Postgres, connect, query};
use hookline_tests::process::Program;
use hookline_tests::wait;
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, Sink, Site, order, row_count, rows, secrets};

/// The deadline of the source `fleet`, and what an answer may take besides.
const DEADLINE: Duration = Duration::from_secs(2);
const MORE_THAN_DEADLINE: Duration = Duration::from_secs(2);

#[test]
fn kafka_that_is_away_is_waited_for() {
    let mut kafka = Kafka::start();
    kafka.stop();
    let site = Site::new("no-kafka", &kafka, 2).gap_wait(PATIENCE);
    let url = Postgres::shared().create_database();
    let mut ingest = site.ingest();
    let mut processor = site.instance("only", &Sink::Postgres(url.clone())).program;

    // Away at the start.
    ingest.spawn();
    processor.spawn();
    wait_not_ready(&ingest, "kafka");
    assert_answers_503(&site);
    processor.wait_log("waiting for Kafka", PATIENCE);
    wait_not_ready(&processor, "kafka");
    kafka.restart();
    ingest.wait_ready();
    processor.wait_ready();
    assert_eq!(lines(&ingest, "ERROR", "log cannot be used"), 1, "{}", ingest.log_text());
    assert_eq!(lines(&processor, "ERROR", "waiting for Kafka"), 1, "{}", processor.log_text());

    // Hanging: connections stay open, nothing is answered.
    let load = Load::start(&site);
    load.wait_accepted(40);
    wait::until("rows", PATIENCE, || (row_count(&url) > 0).then_some(()));
    kafka.pause();
    assert_answers_503(&site);
    wait_not_ready(&ingest, "kafka");
    kafka.resume();
    load.wait_accepted(40);

    // Away in the middle.
    kafka.kill();
    assert_answers_503(&site);
    wait_not_ready(&ingest, "kafka");
    kafka.restart();
    load.wait_accepted(40);
    ingest.wait_ready();
    assert_applied_once(&site, &url, &mut processor, &load.finish());
    assert!(ingest.ended().is_none() && processor.ended().is_none());
    // What was answered with 503 may be in the log all the same, so it may be applied: once.
    let refused = rows(&url).into_iter().filter(|row| row.event_id == "evt_away").count();
    assert!(refused <= 1, "{refused}");
    // A flood of webhooks is not a flood of lines.
    let errors = lines(&ingest, "ERROR", "log cannot be used");
    assert!((3..=6).contains(&errors), "{errors}: {}", ingest.log_text());
}

#[test]
fn postgres_that_is_away_is_waited_for() {
    let mut postgres = Postgres::start();
    let url = postgres.create_database();
    postgres.stop();
    let site = Site::new("no-postgres", Kafka::shared(), 2).gap_wait(PATIENCE);
    let _ingest = site.ingest().started();
    let mut processor = site.instance_with("no-postgres", "only", &Sink::Postgres(url.clone()), "").program;

    // Away at the start.
    processor.spawn();
    wait_retries(&processor, 3.0);
    wait_not_ready(&processor, "sink");
    assert_said_once_a_lane(&processor);
    postgres.restart();
    processor.wait_ready();

    // Killed in the middle, twice.
    let load = Load::start(&site);
    for _ in 0..2 {
        wait::until("rows", PATIENCE, || (row_count(&url) >= 40).then_some(()));
        let before = retries(&processor);
        postgres.kill();
        wait_retries(&processor, before + 4.0);
        wait_not_ready(&processor, "sink");
        // ingest does not mind.
        load.wait_accepted(20);
        postgres.restart();
        processor.wait_ready();
        query(&url, "SELECT 1");
    }
    assert_applied_once(&site, &url, &mut processor, &load.finish());
    assert!(processor.ended().is_none());
    assert_said_once_a_lane(&processor);
}

#[test]
fn a_wrong_password_is_said_not_shown_and_its_correction_noticed() {
    let postgres = Postgres::shared();
    let url = postgres.create_database();
    // One role must prove itself; for the others nothing changes.
    let hba = query(&url, "SHOW hba_file")[0][0].clone().unwrap();
    let lines_of_hba = "host all careful 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n\
                        local all all trust";
    let values: Vec<String> = lines_of_hba.lines().map(|line| format!("('{line}')")).collect();
    query(&url, &format!("COPY (VALUES {}) TO '{hba}'", values.join(", ")));
    query(&url, "SELECT pg_reload_conf()");
    query(&url, "CREATE ROLE careful SUPERUSER LOGIN PASSWORD 'another'");

    let site = Site::new("password", Kafka::shared(), 1);
    let ingest = site.ingest().started();
    let wrong = url.replacen("hookline@", "careful:open-sesame@", 1);
    let mut processor = site.instance("only", &Sink::Postgres(wrong)).program;
    processor.spawn();
    processor.wait_log("SQLSTATE 28P01", PATIENCE);
    wait_not_ready(&processor, "sink");
    let log = processor.log_text();
    assert!(log.contains("correct user and password in sink.postgres.url"), "{log}");

    query(&url, "ALTER ROLE careful PASSWORD 'open-sesame'");
    processor.wait_ready();
    let body = order("evt_password", "password", "1");
    assert_eq!(site.post_order(&Client::new(), CONNECTIONS[0], &body).status, 200);
    wait::until("the row", PATIENCE, || (row_count(&url) == 1).then_some(()));
    for log in [ingest.log_text(), processor.log_text()] {
        assert!(
            !log.contains("open-sesame") && !secrets().iter().any(|(_, value)| log.contains(value)),
            "{log}"
        );
    }
}

/// A webhook is answered with 503 and a time, within its source's deadline.
fn assert_answers_503(site: &Site) {
    let client = Client::new();
    let began = Instant::now();
    let answer = site.post_fleet(&client, "evt_away");
    let took = began.elapsed();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(took < DEADLINE + MORE_THAN_DEADLINE, "{took:?}");
    let retry_after: u64 = answer.header("retry-after").expect("Retry-After").parse().unwrap();
    assert!((1..=60).contains(&retry_after), "{retry_after}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
}

#[test]
fn the_processor_is_not_ready_before_its_partitions_are_claimed() {
    let site = Site::new("claims", Kafka::shared(), 2);
    let url = Postgres::shared().create_database();
    let mut processor = site.instance("only", &Sink::Postgres(url.clone())).program.started();
    for name in ["recoveries", "refusals", "store_wiped"] {
        let counted = processor.metrics().sum(&format!("hookline_processor_{name}_total"), &[]);
        assert!(counted.is_some(), "{name} is there before it is first counted");
    }
    assert_eq!(processor.terminate().code(), Some(0));

    // A claim waits for the sink's fence.
    let mut client = connect(&url);
    let mut lock = client.transaction().unwrap();
    lock.batch_execute("LOCK TABLE hookline_fence IN ACCESS EXCLUSIVE MODE").unwrap();
    processor.spawn();
    let both = ["partition 0: assigned, not claimed yet", "partition 1: assigned, not claimed yet"];
    wait::until("two partitions that are not claimed", PATIENCE, || {
        let (status, text) = processor.readyz()?;
        (status == 503 && both.iter().all(|part| text.contains(part))).then_some(())
    });
    lock.rollback().unwrap();
    processor.wait_ready();
}

/// Waits until `/readyz` says that a part is not ready.
fn wait_not_ready(program: &Program, part: &str) {
    let what = format!("/readyz without {part}");
    wait::until(&what, PATIENCE, || {
        let (status, text) = program.readyz()?;
        (status == 503 && text.lines().any(|line| line.starts_with(&format!("{part}: ")))).then_some(())
    });
}

fn lines(program: &Program, level: &str, text: &str) -> usize {
    program.log_text().lines().filter(|line| line.contains(level) && line.contains(text)).count()
}

/// How often the lanes have started again because of the sink.
fn retries(program: &Program) -> f64 {
    program.metrics().sum("hookline_processor_recoveries_total", &[("reason", "sink")]).unwrap_or(0.0)
}

fn wait_retries(program: &Program, number: f64) {
    wait::until(&format!("{number} attempts"), PATIENCE, || {
        // Its address is not there at once.
        program.readyz()?;
        (retries(program) >= number).then_some(())
    });
}

/// Of the same trouble, no line follows another one of the same lane.
fn assert_said_once_a_lane(program: &Program) {
    let log = program.log_text();
    let mut told: std::collections::BTreeMap<&str, u32> = std::collections::BTreeMap::new();
    for line in log.lines() {
        if line.contains("working again") {
            told.clear();
        } else if let Some((_, trouble)) = line.split_once("trying again until it works") {
            let times = told.entry(trouble).or_default();
            *times += 1;
            assert!(*times <= 2, "two lanes say it once each: {log}");
        }
    }
    assert!(log.contains("trying again until it works"), "{log}");
}
