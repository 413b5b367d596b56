//! A sink's tables belong to one pipeline.

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::postgres::Postgres;
use hookline_tests::wait;
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, Sink, Site, order, row_count};

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
