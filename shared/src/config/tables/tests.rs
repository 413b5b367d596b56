//! Each refusal of a mapped table: where, and why.

use std::path::Path;

use super::*;
use crate::config::{Config, Secrets};

const SOURCES: &str = r#"
[kafka]
bootstrap_servers = "localhost:9092"
[sources.makini]
verify.github = {}
secrets = ["env:UNREAD"]
connection = "path"
entity = "/data/number"
[sources.makini.connections.acme]
secrets = ["env:UNREAD"]
[sources.shop]
verify.github = {}
secrets = ["env:UNREAD"]
[pipelines.w]
state_dir = "/tmp"
"#;
const POSTGRES: &str = "sink.postgres = { url = \"env:UNREAD\" }\n";
const MONGODB: &str = "sink.mongodb = { url = \"env:UNREAD\" }\n";

const ORDERS: &str = r#"
[pipelines.w.tables.orders]
types = ["purchase_order.*"]
sources = ["makini"]
deleted = ["purchase_order.deleted"]
key = ["connection", "id"]
[pipelines.w.tables.orders.columns]
connection = { from = "connection" }
id = { from = "entity" }
total = { at = "/data/a~1b", type = "decimal", required = true }
vendor = { at = "/data/vendor", type = "text", lookup = { table = "vendors", match = "id", take = "no", miss = "wait" } }
"#;
const LINES: &str = r#"
[pipelines.w.tables.lines]
sources = ["makini"]
each = "/data/lines"
key = ["connection", "id", "line"]
[pipelines.w.tables.lines.columns]
connection = { from = "connection" }
id = { from = "entity" }
line = { at = "/no", type = "integer" }
place = { from = "index" }
currency = { body_at = "/data/currency", type = "text" }
whole = { at = "", type = "json" }
"#;

fn parse(sink: &str, tables: &str) -> Result<TablesConfig, String> {
    // Its own connections sign, so the source itself has no secret.
    let sources = SOURCES.replacen("secrets = [\"env:UNREAD\"]\nconnection", "connection", 1);
    let text = format!("{sources}{sink}{tables}");
    let config = Config::parse(&text, Path::new("hookline.toml"), Secrets::Pipeline("none"));
    config.map(|config| config.pipelines["w"].tables.clone()).map_err(|error| error.to_string())
}

/// What is wrong once a part of a sound configuration is replaced.
fn error(sound: &str, part: &str, by: &str) -> String {
    assert!(sound.contains(part), "{part}");
    let text = parse(POSTGRES, &sound.replacen(part, by, 1)).unwrap_err();
    assert!(text.starts_with("hookline.toml:"), "{text}");
    text
}

#[test]
fn a_sound_mapping_is_taken() {
    let tables = parse(POSTGRES, &format!("{ORDERS}{LINES}")).unwrap();
    let total = &tables["orders"].columns["total"];
    assert_eq!(total.value, ColumnValue::At(Pointer(vec!["data".into(), "a/b".into()])));
    assert!(total.required && total.kind == ColumnType::Decimal);
    assert_eq!(tables["lines"].columns["whole"].value, ColumnValue::At(Pointer::default()));
    assert_eq!(tables["lines"].columns["place"].kind, ColumnType::Integer);
    assert!(tables["orders"].deletes("purchase_order.deleted"));
    assert_eq!(tables["orders"].write, Write::Upsert);
    let qualified = ORDERS.replace("tables.orders", "tables.\"erp.orders\"");
    assert!(parse(POSTGRES, &qualified).unwrap().contains_key("erp.orders"));
}

#[test]
fn a_key_that_two_entities_could_share_is_refused() {
    let without_entity = error(ORDERS, "\"connection\", \"id\"]", "\"connection\"]");
    assert!(
        without_entity.contains("orders.key: needs the column with `from = \"entity\"`"),
        "{without_entity}"
    );
    assert!(without_entity.contains("two entities could write one row"), "{without_entity}");
    let without_connection = error(ORDERS, "\"connection\", \"id\"]", "\"id\"]");
    assert!(without_connection.contains("`from = \"connection\"`"), "{without_connection}");
    let of_two_sources = error(ORDERS, "sources = [\"makini\"]\n", "");
    assert!(of_two_sources.contains("`from = \"source\"`"), "{of_two_sources}");
    // For documents too.
    let documents = ORDERS.replacen("\"connection\", \"id\"]", "\"id\"]", 1);
    assert!(parse(MONGODB, &documents).unwrap_err().contains("two entities could write one row"));
    let shop = ORDERS.replace("\"makini\"", "\"shop\"").replacen("\"connection\", \"id\"]", "\"id\"]", 1);
    parse(POSTGRES, &shop).unwrap();
}

#[test]
fn a_key_that_would_leave_old_rows_is_refused() {
    for key in ["\"connection\", \"id\", \"total\"]", "\"connection\", \"id\", \"vendor\"]"] {
        let text = error(ORDERS, "\"connection\", \"id\"]", key);
        assert!(text.contains("old row") || text.contains("looked up"), "{text}");
    }
    assert!(error(LINES, "\"line\"]", "\"currency\"]").contains("old row"));
}

#[test]
fn a_key_names_columns_of_the_table_once() {
    assert!(error(ORDERS, "\"id\"]", "\"number\"]").contains("`number` is not one of the columns"));
    assert!(error(ORDERS, "\"id\"]", "\"id\", \"id\"]").contains("`id` twice"));
}

#[test]
fn the_rows_of_an_array_need_a_key_of_their_own() {
    assert!(error(LINES, ", \"line\"]", "]").contains("a column of the element"));
    parse(POSTGRES, &LINES.replacen("\"line\"]", "\"place\"]", 1)).unwrap();
}

#[test]
fn what_is_for_arrays_is_refused_elsewhere() {
    for column in ["total = { from = \"index\" }", "total = { body_at = \"/a\", type = \"text\" }"] {
        let text =
            error(ORDERS, "total = { at = \"/data/a~1b\", type = \"decimal\", required = true }", column);
        assert!(text.contains("orders.columns.total: ") && text.contains("`each`"), "{text}");
    }
}

#[test]
fn an_array_in_a_document_is_embedded() {
    let text = parse(MONGODB, LINES).unwrap_err();
    assert!(text.contains("tables.lines.each") && text.contains("embed it"), "{text}");
}

#[test]
fn deletion_and_its_mark_belong_together() {
    let mark = "deleted = [\"purchase_order.deleted\"]\non_delete = \"mark\"";
    assert!(error(ORDERS, "deleted = [\"purchase_order.deleted\"]", mark).contains("from = \"deleted\""));
    assert!(error(ORDERS, "from = \"entity\"", "from = \"deleted\"").contains("go together"));
    let without_types = error(ORDERS, "deleted = [\"purchase_order.deleted\"]", "on_delete = \"delete\"");
    assert!(without_types.contains("needs `deleted`"), "{without_types}");
}

#[test]
fn an_appended_row_has_no_key_and_no_deletion() {
    let text = error(ORDERS, "key = ", "write = \"append\"\nkey = ");
    assert!(text.contains("key: is not for"), "{text}");
    let text = error(ORDERS, "key = [\"connection\", \"id\"]", "write = \"append\"");
    assert!(text.contains("deleted: is not for"), "{text}");
}

#[test]
fn a_column_has_one_origin_and_one_type() {
    let total = "total = { at = \"/data/a~1b\", type = \"decimal\", required = true }";
    for (column, why) in [
        ("total = { type = \"text\" }", "one of `from`"),
        ("total = { from = \"type\", at = \"/a\", type = \"text\" }", "one of `from`"),
        ("total = { at = \"/a\" }", "needs `type`"),
        ("total = { from = \"type\", type = \"text\" }", "leave `type` out"),
        ("total = { at = \"data\", type = \"text\" }", "not a JSON pointer"),
        ("total = { at = \"/~2\", type = \"text\" }", "not a JSON pointer"),
        ("total = { at = \"/a\", type = \"money\" }", "unknown variant `money`"),
        ("total = { at = \"/a\", typ = \"text\" }", "unknown field `typ`"),
        ("total = { from = \"body\" }", "unknown variant `body`"),
        (
            "total = { at = \"/a\", type = \"json\", lookup = { table = \"t\", match = \"a\", take = \"b\", miss = \"null\" } }",
            "cannot be looked up",
        ),
        (
            "total = { at = \"/a\", type = \"text\", lookup = { table = \"t\", match = \"a\", take = \"b\" } }",
            "missing field `miss`",
        ),
    ] {
        let text = error(ORDERS, total, column);
        assert!(text.contains(why) && text.contains("columns.total"), "{column}: {text}");
    }
}

#[test]
fn names_that_are_hooklines_or_of_no_table_are_refused() {
    for name in ["hookline_events", "HOOKLINE_EVENTS", "\"erp.hookline_events\"", "\"a..b\"", "\"a.b.c\""] {
        let renamed = ORDERS.replace("tables.orders", &format!("tables.{name}"));
        let text = parse(POSTGRES, &renamed).unwrap_err();
        assert!(text.contains("no name for a table") || text.contains("has a dot"), "{text}");
    }
    let sqlite = "sink.sqlite = { path = \"x\" }\n";
    let text = parse(sqlite, &ORDERS.replace("tables.orders", "tables.\"erp.orders\"")).unwrap_err();
    assert!(text.contains("has a dot"), "{text}");
    let text = parse(MONGODB, &ORDERS.replace("total =", "\"$total\" =")).unwrap_err();
    assert!(text.contains("no name for a field"), "{text}");
}

#[test]
fn types_and_sources_are_checked() {
    assert!(error(ORDERS, "[\"purchase_order.*\"]", "[]").contains("at least one type"));
    assert!(error(ORDERS, "purchase_order.*", "*.created").contains("`*` at its end"));
    assert!(error(ORDERS, "[\"makini\"]", "[\"makina\"]").contains("takes no source `makina`"));
    let narrowed = format!("sources = [\"shop\"]\n{POSTGRES}");
    assert!(parse(&narrowed, ORDERS).unwrap_err().contains("takes no source `makini`"));
}

#[test]
fn a_sink_without_tables_refuses_them() {
    for sink in ["sink.kafka = { topic = \"x\" }\n", "sink.http = { url = \"env:UNREAD\" }\n"] {
        assert!(parse(sink, ORDERS).unwrap_err().contains("a sink that is a database"));
    }
}

#[test]
fn columns_have_a_limit() {
    let many: String = (0..COLUMNS_MAX).map(|n| format!("c{n} = {{ from = \"id\" }}\n")).collect();
    let text = parse(POSTGRES, &format!("{ORDERS}{many}")).unwrap_err();
    assert!(text.contains("1 to 200 columns"), "{text}");
}
