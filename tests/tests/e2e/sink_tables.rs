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

/// What a table of the user's own is made of: the supplier of an order's number.
const SUPPLIED: &str = r#"
[pipelines.supplied.tables.orders]
sources = ["makini"]
key = ["connection", "number"]
columns.connection = { from = "connection" }
columns.number = { from = "entity" }
columns.supplier = { at = "/data/number", type = "text", lookup = { table = "suppliers", match = "code", take = "name", miss = "wait" } }
"#;

#[test]
fn an_event_waits_for_what_it_refers_to_and_other_partitions_go_on() {
    let site = Site::new("supplied", Kafka::shared(), 2);
    let url = Postgres::shared().create_database();
    query(&url, "CREATE TABLE suppliers (code text PRIMARY KEY, name text NOT NULL)");
    query(
        &url,
        "CREATE TABLE orders (connection text, number text, supplier text, PRIMARY KEY (connection, number))",
    );
    let sink = Sink::Postgres(url.clone());
    let mut processor = site.instance_with("supplied", "only", &sink, SUPPLIED).program;
    let _ingest = site.ingest().started();
    processor.spawn();
    processor.wait_ready();
    let client = Client::new();
    let post = |number: &str| {
        let body = order(&format!("evt_{number}"), number, "1");
        assert_eq!(site.post_order(&client, CONNECTIONS[0], &body).status, 200);
    };
    post("unknown");
    processor.wait_log("waits for a row", PATIENCE);
    let (status, text) = processor.readyz().unwrap();
    assert!(status == 503 && text.contains("column `supplier`"), "{status} {text}");

    // Orders of both partitions; those of the other one are applied.
    let others: Vec<String> = (0..16).map(|n| format!("known-{n}")).collect();
    for number in &others {
        query(&url, &format!("INSERT INTO suppliers VALUES ('{number}', 'Supplier of {number}')"));
        post(number);
    }
    wait::until("the other partition's rows", PATIENCE, || (row_count(&url) > 0).then_some(()));
    query(&url, "INSERT INTO suppliers VALUES ('unknown', 'A new one')");
    wait::until("all rows", PATIENCE, || (row_count(&url) == others.len() + 1).then_some(()));
    let found = query(&url, "SELECT supplier FROM orders WHERE number LIKE '%unknown'");
    assert_eq!(found, [[Some("A new one".to_owned())]]);
    assert_eq!(query(&url, "SELECT count(*) FROM orders")[0][0].as_deref(), Some("17"));
    wait::until("/readyz", PATIENCE, || processor.is_ready().then_some(()));
}
