//! A sink's tables: made before the first run if that is wished, and one pipeline's.

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::postgres::{Postgres, query};
use hookline_tests::{process, wait};
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, SINK_URL, Sink, Site, order, row_count, stderr, stdout, text_of};

#[test]
fn a_second_pipeline_on_the_same_tables_is_refused_and_the_first_goes_on() {
    let site = Site::new("first", Kafka::shared(), 2);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let mut first = site.instance("only", &sink).program;
    first.spawn();
    first.wait_ready();
    let client = Client::new();
    let send = |sequence: usize| {
        let body = order(&format!("evt_{sequence}"), "tables", &sequence.to_string());
        assert_eq!(site.post_order(&client, CONNECTIONS[0], &body).status, 200);
        wait::until("its row", PATIENCE, || (row_count(&url) == sequence).then_some(()));
    };
    send(1);

    let mut second = site.instance_with("second", "only", &sink, "").program;
    second.spawn();
    second.wait_log("give it a schema of its own (sink.postgres.schema)", PATIENCE);
    assert!(second.log_text().contains("belong to pipeline `first`"), "{}", second.log_text());
    wait::until("a second try", PATIENCE, || {
        second
            .metrics()
            .sum("hookline_processor_recoveries_total", &[("reason", "sink")])
            .filter(|n| *n > 2.0)
    });
    let (status, text) = second.readyz().unwrap();
    assert!(status == 503 && text.contains("sink: "), "{status} {text}");
    assert_eq!(second.ended(), None);

    send(2);
    assert!(first.is_ready());
    assert_eq!(
        first.metrics().sum("hookline_processor_recoveries_total", &[("reason", "fenced")]),
        Some(0.0)
    );
}

#[test]
fn tables_can_be_made_before_the_first_run() {
    let site = Site::new("prepared", Kafka::shared(), 2);
    let url = Postgres::shared().create_database();
    let instance = site.instance("only", &Sink::Postgres(url.clone()));
    let config = text_of(&instance.config);
    let args = ["sink", "init", "--pipeline", "prepared", "--config", &config];
    // Again: nothing is missing.
    for _ in 0..2 {
        let output = process::run("processor", &args, &[(SINK_URL, &url)]);
        assert_eq!(output.status.code(), Some(0), "{}{}", stdout(&output), stderr(&output));
        assert!(stdout(&output).contains("the sink's tables are there"), "{}", stdout(&output));
        assert_eq!(query(&url, "SELECT count(*) FROM hookline_fence")[0][0].as_deref(), Some("0"));
    }
    let nowhere = process::run("processor", &args, &[(SINK_URL, &Postgres::shared().url_of("nowhere"))]);
    assert_eq!(nowhere.status.code(), Some(2));
    assert!(stderr(&nowhere).contains("create the database"), "{}", stderr(&nowhere));
}
