//! What a body becomes in a table, and what of a batch is written.

use shared::config::{Config, Secrets, TablesConfig};
use shared::event::EventView;

use super::*;

const TABLES: &str = r#"
[pipelines.w.tables.orders]
types = ["order.*"]
deleted = ["order.deleted"]
key = ["connection", "id"]
[pipelines.w.tables.orders.columns]
connection = { from = "connection" }
id = { from = "entity" }
seq = { from = "sequence" }
number = { at = "/n/a~1b~0", type = "text", required = true }
total = { at = "/total", type = "decimal" }

[pipelines.w.tables.marked]
types = ["order.*"]
deleted = ["order.deleted"]
on_delete = "mark"
key = ["connection", "id"]
[pipelines.w.tables.marked.columns]
connection = { from = "connection" }
id = { from = "entity" }
gone = { from = "deleted" }
seq = { from = "sequence" }
total = { at = "/total", type = "decimal" }

[pipelines.w.tables.lines]
types = ["order.*"]
deleted = ["order.deleted"]
each = "/lines"
key = ["connection", "id", "line"]
[pipelines.w.tables.lines.columns]
connection = { from = "connection" }
id = { from = "entity" }
line = { at = "/no", type = "integer" }
place = { from = "index" }
currency = { body_at = "/currency", type = "text" }

[pipelines.w.tables.history]
types = ["order.*"]
write = "append"
[pipelines.w.tables.history.columns]
event = { from = "id" }
at = { from = "time" }
raw = { at = "", type = "json" }
"#;

fn config(tables: &str) -> TablesConfig {
    let text = format!(
        "[kafka]\nbootstrap_servers = \"k\"\n[sources.s]\nverify.github = {{}}\nconnection = \"path\"\n\
         entity = \"/id\"\n[sources.s.connections.acme]\nsecrets = [\"env:UNREAD\"]\n[pipelines.w]\n\
         state_dir = \"/tmp\"\nsink.postgres = {{ url = \"env:UNREAD\" }}\n{tables}"
    );
    let config = Config::parse(&text, "hookline.toml".as_ref(), Secrets::Pipeline("none"));
    config.unwrap_or_else(|error| panic!("{error}")).pipelines["w"].tables.clone()
}

fn tables(names: &[&str]) -> Vec<Table> {
    let mut all = table::all(&config(TABLES));
    all.retain(|table| names.contains(&table.name.as_str()));
    assert_eq!(all.len(), names.len());
    all
}

fn row<'a>(offset: i64, kind: &'a str, entity: Option<&'a str>, body: &'a str) -> Row<'a> {
    let event = EventView {
        id: "e",
        source: "s",
        connection: "acme".into(),
        kind,
        time: "2026-03-01T12:00:00.1234567+02:00",
        entity,
        sequence: Some("7"),
        ..EventView::default()
    };
    let position = Position { offset, ordinal: 0 };
    Row { position, ordinal: 0, event_offset: offset, appended_at_ms: 0, event, body: body.as_bytes() }
}

/// Rows as text, one table's.
fn shown(rows: &[Mapped<'_>]) -> Vec<String> {
    let shown = rows.iter().map(|row| row.values.iter().map(Value::text).collect::<Vec<_>>().join("|"));
    shown.collect()
}

fn one(table: &str, rows: &[Row<'_>]) -> [Vec<String>; 3] {
    let tables = tables(&[table]);
    let [changes] = changes(&tables, rows).unwrap().try_into().unwrap_or_else(|_| panic!("one table"));
    [shown(&changes.gone), shown(&changes.rows), shown(&changes.marks)]
}

fn refusal(table: &str, row: Row<'_>) -> String {
    match changes(&tables(&[table]), &[row]) {
        Err(SinkError::Refused(message)) => message,
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("not refused"),
    }
}

const NONE: [String; 0] = [];

#[test]
fn columns_come_from_pointers_and_attributes_in_the_order_of_their_names() {
    let body = r#"{"n":{"a/b~":"4500"},"total":90071992547409931234.5600}"#;
    let [gone, rows, marks] = one("orders", &[row(1, "order.created", Some("o1"), body)]);
    // connection, id, number, seq, total
    assert_eq!(rows, ["acme|o1|4500|7|90071992547409931234.5600"]);
    assert_eq!((gone, marks), (NONE.to_vec(), NONE.to_vec()));
}

#[test]
fn of_an_entity_the_last_event_counts_that_the_table_takes() {
    let body = |n: u8| format!(r#"{{"n":{{"a/b~":"{n}"}}}}"#);
    let bodies = [body(1), body(2), body(3)];
    let rows = [
        row(1, "order.created", Some("o1"), &bodies[0]),
        row(2, "order.created", Some("o2"), &bodies[1]),
        row(3, "order.changed", Some("o1"), &bodies[2]),
        // Not of its types, so not read.
        row(4, "invoice.created", Some("o1"), "no JSON"),
        row(5, "order.deleted", Some("o2"), "no JSON"),
    ];
    let [gone, written, _] = one("orders", &rows);
    assert_eq!(written, ["acme|o1|3|7|"]);
    assert_eq!(gone, ["acme|o2||7|"]);
}

#[test]
fn a_refusal_does_not_depend_on_what_follows_in_the_batch() {
    let rows = [row(1, "order.created", Some("o1"), "{}"), row(2, "order.deleted", Some("o1"), "{}")];
    let Err(SinkError::Refused(message)) = changes(&tables(&["orders"]), &rows) else {
        panic!("not refused")
    };
    assert_eq!(
        message,
        "the event at offset 1 does not fit table `orders`: column `number`: /n/a~1b~0 is missing or null, but \
         required"
    );
}

#[test]
fn a_mark_keeps_the_row_that_the_same_batch_wrote() {
    let rows =
        [row(1, "order.created", Some("o1"), "{\"total\":5}"), row(2, "order.deleted", Some("o1"), "")];
    // connection, gone, id, seq, total
    assert_eq!(one("marked", &rows), [NONE.to_vec(), vec!["acme|true|o1|7|5".to_owned()], NONE.to_vec()]);
    let alone = [row(2, "order.deleted", Some("o1"), "")];
    assert_eq!(one("marked", &alone), [NONE.to_vec(), NONE.to_vec(), vec!["acme|true|o1|7|".to_owned()]]);
    let again = [row(2, "order.deleted", Some("o1"), ""), row(3, "order.created", Some("o1"), "{}")];
    assert_eq!(one("marked", &again), [NONE.to_vec(), vec!["acme|false|o1|7|".to_owned()], NONE.to_vec()]);
    let table = &tables(&["marked"])[0];
    let marked: Vec<_> = table.marked.iter().map(|n| table.columns[*n].name.as_str()).collect();
    assert_eq!(marked, ["gone", "seq"]);
}

#[test]
fn an_array_replaces_all_rows_of_its_entity() {
    let body = r#"{"currency":"EUR","lines":[{"no":10},{"no":"20"}]}"#;
    let [gone, rows, _] = one("lines", &[row(1, "order.created", Some("o1"), body)]);
    // connection, currency, id, line, place
    assert_eq!(rows, ["acme|EUR|o1|10|0", "acme|EUR|o1|20|1"]);
    assert_eq!(gone, ["acme||o1||"]);
    let [gone, rows, _] = one("lines", &[row(1, "order.created", Some("o1"), r#"{"lines":[]}"#)]);
    assert_eq!((gone.len(), rows.len()), (1, 0));
    let [gone, rows, _] = one("lines", &[row(1, "order.deleted", Some("o1"), "")]);
    assert_eq!((gone.len(), rows.len()), (1, 0));
}

#[test]
fn an_appended_row_stands_for_each_event() {
    let body = " {\"a\" : 1.50} ";
    let rows = [row(1, "order.created", Some("o1"), body), row(2, "order.created", Some("o1"), "null")];
    // at, event, raw
    let time = "2026-03-01T10:00:00.123456Z";
    assert_eq!(one("history", &rows)[1], [format!("{time}|e|{{\"a\" : 1.50}}"), format!("{time}|e|")]);
}

#[test]
fn what_does_not_fit_names_table_column_pointer_and_the_type_found() {
    for (table, body, problem) in [
        ("orders", r#"{"n":{"a/b~":true}}"#, "column `number`: /n/a~1b~0 is true or false, not a text"),
        ("orders", r#"{"n":{"a/b~":"hunter2\u0000"}}"#, "column `number`: /n/a~1b~0 has U+0000 in it"),
        (
            "orders",
            r#"{"n":{"a/b~":"1"},"total":"hunter2"}"#,
            "column `total`: /total is a string, not a decimal",
        ),
        ("orders", r#"{"n":{"a/b~":"1"},"total":[1]}"#, "column `total`: /total is an array, not a decimal"),
        ("orders", "{\"hunter2", "body is not JSON: it ends too early, line 1 column 9"),
        ("lines", "{}", "each: /lines is missing, not an array"),
        ("lines", r#"{"lines":{"hunter2":1}}"#, "each: /lines is an object, not an array"),
        (
            "lines",
            r#"{"lines":[{"no":1},{}]}"#,
            "column `line`: /no of element 1 is missing or null, but required",
        ),
        (
            "lines",
            r#"{"lines":[{"no":1},{"no":1.5}]}"#,
            "column `line`: /no of element 1 is no whole number below 2^63",
        ),
        (
            "lines",
            r#"{"lines":[{"no":1},{"no":1}]}"#,
            "each: element 1 of /lines has the same key as one before it",
        ),
    ] {
        let message = refusal(table, row(9, "order.created", Some("o1"), body));
        assert_eq!(
            message,
            format!("the event at offset 9 does not fit table `{table}`: {problem}"),
            "{body}"
        );
    }
    let many = format!("{{\"lines\":[{}1]}}", "1,".repeat(10_000));
    assert!(refusal("lines", row(1, "order.x", Some("o1"), &many)).contains("more than 10000 elements"));
    assert!(refusal("orders", row(1, "order.x", None, "{}")).ends_with("it has no entity"));
    let bad_time = Row {
        event: EventView { time: "today", ..row(1, "order.x", None, "").event },
        ..row(1, "", None, "{}")
    };
    assert!(refusal("history", bad_time).contains("column `at`: the event's attribute is not a time"));
}

#[test]
fn without_types_the_events_are_taken_that_have_an_entity() {
    let text = TABLES.replacen(
        "[pipelines.w.tables.orders]\ntypes = [\"order.*\"]\n",
        "[pipelines.w.tables.orders]\n",
        1,
    );
    let mut all = table::all(&config(&text));
    all.retain(|table| table.name == "orders");
    let rows = [row(1, "x", Some("o1"), r#"{"n":{"a/b~":"1"}}"#), row(2, "y", None, "no JSON")];
    assert_eq!(changes(&all, &rows).unwrap()[0].rows.len(), 1);
}

#[test]
fn other_rows_are_there_when_a_foreign_key_or_a_look_up_asks_for_them() {
    let looks_up = TABLES.replacen(
        "type = \"decimal\" }",
        "type = \"decimal\", lookup = { table = \"marked\", match = \"a\", take = \"b\", miss = \"null\" } }",
        1,
    );
    let all = table::all(&config(&looks_up));
    let steps: Vec<_> = steps(&all).into_iter().map(|(step, n)| (step, all[n].name.as_str())).collect();
    assert_eq!(
        steps,
        [
            (Step::Delete, "lines"),
            (Step::Write, "history"),
            (Step::Write, "marked"),
            (Step::Write, "orders"),
            (Step::Write, "lines"),
            (Step::Delete, "history"),
            (Step::Delete, "marked"),
            (Step::Delete, "orders"),
        ]
    );
}

#[test]
fn without_tables_no_body_is_read() {
    assert!(changes(&[], &[row(1, "order.created", Some("o1"), "no JSON")]).unwrap().is_empty());
}
