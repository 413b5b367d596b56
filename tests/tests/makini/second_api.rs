//! The poller against an API that nobody wrote for it: json-server, whose pages are by `Link` or by number.

use std::collections::BTreeMap;
use std::time::Duration;

use hookline_tests::json_server::JsonServer;
use hookline_tests::postgres::query;
use hookline_tests::wait;
use serde_json::{Value, json};

use crate::stand::Stand;

const PATIENCE: Duration = Duration::from_secs(60);
const RECORDS: usize = 250;

fn order(number: usize, version: u64) -> Value {
    json!({"id": number, "number": format!("A-{number}"), "revision": version, "total": "12.50"})
}

/// Two sources on one list: one reads it by `Link`, one by page numbers.
fn sources(url: &str) -> String {
    let source = |name: &str, path: &str, next: &str| {
        format!(
            r#"[sources.{name}]
verify.hmac = {{ header = "x-signature" }}
secrets = ["env:SHOP_SECRET"]
connection = "path"
id = "/id"
type = "/type"
entity = "/data/number"
entity_prefix = "order-"
order.version = {{ at = "/data/revision" }}
[sources.{name}.connections.acme]
token = "env:SHOP_TOKEN"
[sources.{name}.poll]
url = "{url}"
interval = "1s"
interval_min = "500ms"
requests_per_second = 100
[sources.{name}.poll.resources.orders]
path = "{path}"
page_size = {{ param = "_limit", value = 40 }}
{next}
body = '{{"type":{{type}},"data":{{record}}}}'
type = "order.found"
"#
        )
    };
    source("by_link", "/orders", "query = { _page = \"1\" }\nnext.link = {}")
        + &source("by_number", "/orders", "next.page = { param = \"_page\" }")
}

/// How often each id of a source is in the log.
fn found(stand: &Stand, source: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in stand.events() {
        if event.header("ce_source").as_deref() == Some(&format!("{source}/acme")) {
            *counts.entry(event.header("ce_id").unwrap()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn lists_by_link_and_by_number_are_read_to_their_end_and_what_is_new_once() {
    let orders: Vec<Value> = (1..=RECORDS).map(|number| order(number, 1)).collect();
    let api = JsonServer::start(&json!({"orders": orders}));
    let stand = Stand::new("second-api");
    stand.configure(&sources(api.url()), "");
    let secrets = [("SHOP_TOKEN", "t0ken-t0ken"), ("SHOP_SECRET", "s3cret-s3cret")];
    let with = |program: hookline_tests::process::Program| {
        secrets.iter().fold(program, |program, (name, value)| program.env(name, value))
    };
    let _processor = with(stand.processor()).started();
    let mut poller = with(stand.poller()).started();
    for source in ["by_link", "by_number"] {
        wait::until(&format!("all records of {source} in the log"), PATIENCE, || {
            (found(&stand, source).len() == RECORDS).then_some(())
        });
    }
    api.add("orders", &order(RECORDS + 1, 1));
    for source in ["by_link", "by_number"] {
        let id = format!("poll:orders:order-A-{}:1", RECORDS + 1);
        let counts = wait::until(&format!("the new record of {source} in the log"), PATIENCE, || {
            Some(found(&stand, source)).filter(|counts| counts.contains_key(&id))
        });
        assert_eq!(counts.len(), RECORDS + 1, "{source}");
        // Read several times by now, and appended once.
        assert!(counts.values().all(|count| *count == 1), "{source}: {counts:?}");
    }
    // Without its memory it finds all of them anew: repeats, by their ids.
    poller.kill();
    let _poller = with(stand.poller()).started();
    wait::until("the records in the log again", PATIENCE, || {
        found(&stand, "by_link").values().all(|count| *count == 2).then_some(())
    });
    let events = stand.events();
    let event = &events[0];
    assert_eq!(event.header("hookline-scheme").as_deref(), Some("poll"));
    assert_eq!(event.header("hookline-snapshot").as_deref(), Some("1"));
    let body: Value = serde_json::from_slice(event.value.as_ref().unwrap()).unwrap();
    assert_eq!(body["type"], "order.found");
    assert_eq!(body["data"]["total"], "12.50");
    let rows = wait::until("a row for each record of both sources", PATIENCE, || {
        let rows = query(
            &stand.database,
            "SELECT source, count(*), count(DISTINCT entity) FROM hookline_events GROUP BY 1",
        );
        (rows.len() == 2 && rows.iter().all(|row| row[1].as_deref() >= Some("251"))).then_some(rows)
    });
    for row in rows {
        assert_eq!((row[1].as_deref(), row[2].as_deref()), (Some("251"), Some("251")), "{row:?}");
    }
    for text in [poller.log_text(), _poller.log_text()] {
        assert!(!text.contains("t0ken-t0ken") && !text.contains("s3cret-s3cret"), "a secret is in the log");
    }
}

#[test]
fn a_record_that_the_log_cannot_take_is_a_dead_letter_and_holds_up_nothing() {
    let api = JsonServer::start(&json!({"orders": [order(1, 1)]}));
    let large = json!({"id": 2, "number": "large", "revision": 3, "note": "x".repeat(1_100_000)});
    api.add("orders", &large);
    api.add("orders", &order(3, 1));
    let stand = Stand::new("second-api-large");
    stand.configure(&sources(api.url()), "");
    let _poller = stand.poller().env("SHOP_TOKEN", "t0ken").started();
    wait::until("all records in the log", PATIENCE, || (found(&stand, "by_link").len() == 3).then_some(()));
    let events = stand.events();
    let event =
        events.iter().find(|event| event.header("ce_id").as_deref() == Some("poll:orders:order-large:3"));
    let problem = event.unwrap().header("hookline-problem").unwrap();
    assert!(problem.contains("above 1048576 bytes (ingest.body_limit)"), "{problem}");
}
