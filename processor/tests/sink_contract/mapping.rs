//! The promises of every sink that has tables of the user's own.

use std::sync::Arc;

use processor::fold::Effect;
use processor::sink::{Context, SinkError};
use shared::config::{ColumnType, TablesConfig};
use shared::event::Event;

use super::remote::{self, Remote};
use super::{Owner, Place, context, effect, epoch, event, halted, ids, open_with, retried};

macro_rules! promises {
    ($place:expr) => {
        $crate::sink_contract::tests_of! { mapping, $place;
            every_type_is_stored_without_loss
            an_absent_value_is_null
            of_an_entity_the_last_event_is_in_the_table
            entities_of_two_connections_are_two_rows
            a_batch_delivered_again_changes_no_mapped_row
            a_former_owner_writes_nothing_into_mapped_tables
            a_deleted_entity_has_no_row_until_it_is_back
            a_marked_entity_keeps_its_row
            each_event_is_appended_once
            an_event_that_does_not_fit_leaves_its_siblings_applied
            a_look_up_takes_what_it_finds
            a_look_up_that_finds_nothing_is_null_if_so_configured
            a_look_up_that_finds_nothing_is_a_dead_letter_if_so_configured
            a_look_up_that_finds_nothing_waits_if_so_configured
            a_look_up_that_finds_several_rows_halts
            a_missing_table_halts_and_is_named
            a_long_batch_is_in_the_table
        }
    };
}
pub(crate) use promises;

/// For servers.
macro_rules! remote_promises {
    ($place:expr) => {
        $crate::sink_contract::tests_of! { mapping, $place;
            a_cut_at_any_step_leaves_the_same_mapped_rows
        }
    };
}
pub(crate) use remote_promises;

/// A database in which a user makes tables.
pub(crate) trait Mapped: Place {
    /// Makes a table, or what stands for one.
    fn create(&self, table: &Table);
    /// The rows, in any order: values as text, as JSON has them; `null` for none.
    fn rows(&self, table: &Table) -> Vec<Vec<String>>;
    /// Somebody else's row of texts.
    fn insert(&self, table: &Table, values: &[&str]);
    /// Entities of a batch that is long for it.
    fn many(&self) -> i64 {
        2_500
    }
    /// Whether its times have microseconds. Else they have milliseconds.
    fn has_microseconds(&self) -> bool {
        true
    }
}

/// A table of the user's.
#[derive(Clone)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    pub(crate) columns: Vec<(&'static str, ColumnType)>,
    pub(crate) key: Vec<&'static str>,
}

/// SQL that makes a table, its columns as the database has them.
pub(crate) fn create_table(table: &Table, name: &str, columns: impl Iterator<Item = String>) -> String {
    let mut parts: Vec<String> = columns.collect();
    if !table.key.is_empty() {
        parts.push(format!("PRIMARY KEY ({})", table.key.join(", ")));
    }
    format!("CREATE TABLE {name} ({})", parts.join(", "))
}

pub(crate) const ORDERS: &str = r#"
[orders]
types = ["order.*"]
key = ["connection", "id"]
[orders.columns]
connection = { from = "connection" }
id = { from = "entity" }
number = { at = "/number", type = "text" }
total = { at = "/total", type = "decimal" }
"#;

pub(crate) fn orders() -> Table {
    let text = ColumnType::Text;
    Table {
        name: "orders",
        columns: vec![("connection", text), ("id", text), ("number", text), ("total", ColumnType::Decimal)],
        key: vec!["connection", "id"],
    }
}

pub(crate) fn with(tables: &str) -> Context {
    let tables: TablesConfig = toml::from_str(tables).unwrap();
    Context { tables: Arc::new(tables), ..context() }
}

pub(crate) fn owner(place: &impl Place, tables: &str, claim: i64) -> Owner {
    Owner::claim_with(place, &with(tables), 0, epoch(claim))
}

pub(crate) fn of(offset: i64, kind: &str, entity: &str, body: &str) -> Effect {
    let event =
        Event { kind: kind.into(), connection: "acme".into(), ..event(&format!("e{offset}"), Some(entity)) };
    effect(offset, 0, &event, body.as_bytes())
}

pub(crate) fn order(offset: i64, entity: &str, number: &str) -> Effect {
    of(offset, "order.changed", entity, &format!(r#"{{"number":"{number}","total":{offset}.50}}"#))
}

/// Rows in the order of their texts, decimals without zeros at the end.
pub(crate) fn rows(place: &impl Mapped, table: &Table) -> Vec<String> {
    let mut rows: Vec<String> = place
        .rows(table)
        .into_iter()
        .map(|row| {
            let values = row.into_iter().zip(&table.columns).map(|(value, (_, kind))| match kind {
                ColumnType::Decimal if value.contains('.') => {
                    value.trim_end_matches('0').trim_end_matches('.').to_owned()
                }
                ColumnType::Json if value != "null" => {
                    serde_json::from_str::<serde_json::Value>(&value).unwrap().to_string()
                }
                ColumnType::Text
                | ColumnType::Integer
                | ColumnType::Decimal
                | ColumnType::Boolean
                | ColumnType::Timestamp
                | ColumnType::Date
                | ColumnType::Json => value,
            });
            values.collect::<Vec<_>>().join("|")
        })
        .collect();
    rows.sort();
    rows
}

pub(crate) fn refused<T>(outcome: Result<T, SinkError>) -> String {
    match outcome {
        Err(SinkError::Refused(message)) => message,
        Err(other) => panic!("not refused: {other:?}"),
        Ok(_) => panic!("a success"),
    }
}

const TYPES: &str = r#"
[things]
key = ["id"]
[things.columns]
id = { from = "entity" }
t = { at = "/t", type = "text" }
i = { at = "/i", type = "integer" }
d = { at = "/d", type = "decimal" }
b = { at = "/b", type = "boolean" }
z = { at = "/z", type = "timestamp" }
y = { at = "/y", type = "date" }
j = { at = "/j", type = "json" }
appended = { from = "appended_at" }
seen = { from = "time" }
"#;

pub(crate) fn things() -> Table {
    let columns = vec![
        ("id", ColumnType::Text),
        ("t", ColumnType::Text),
        ("i", ColumnType::Integer),
        ("d", ColumnType::Decimal),
        ("b", ColumnType::Boolean),
        ("z", ColumnType::Timestamp),
        ("y", ColumnType::Date),
        ("j", ColumnType::Json),
        ("appended", ColumnType::Timestamp),
        ("seen", ColumnType::Timestamp),
    ];
    Table { name: "things", columns, key: vec!["id"] }
}

pub(crate) fn every_type_is_stored_without_loss(place: &impl Mapped) {
    place.create(&things());
    let body = r#"{"t":"O'Brien \"x\" \\ {1,2} $1 %s -- \ud83e\udd80 \n","i":9007199254740993,
        "d":12345678901234567890123456.1050,"b":true,"z":"2026-03-01T00:30:00.123456+02:00","y":"2024-02-29",
        "j":{"lines":[{"no":1,"open":false,"note":null,"name":"\u00c4"}]}}"#;
    owner(place, TYPES, 1).deliver(&[of(1, "x", "Ä'1 ; --", body)]).unwrap();
    let expected = "Ä'1 ; --|O'Brien \"x\" \\ {1,2} $1 %s -- \u{1F980} \n|9007199254740993|\
                    12345678901234567890123456.105|true|2026-02-28T22:30:00.123456Z|2024-02-29|\
                    {\"lines\":[{\"name\":\"Ä\",\"no\":1,\"note\":null,\"open\":false}]}|\
                    2023-11-14T22:13:21.000000Z|2026-03-01T10:00:00.500000Z";
    let cut = if place.has_microseconds() { "123456" } else { "123000" };
    assert_eq!(rows(place, &things()), [expected.replace("123456Z", &format!("{cut}Z"))]);
}

pub(crate) fn an_absent_value_is_null(place: &impl Mapped) {
    place.create(&things());
    let mut owner = owner(place, TYPES, 1);
    let nothing = "null|null|null|null|null|null|null";
    owner.deliver(&[of(1, "x", "a", "{}"), of(2, "x", "b", r#"{"t":null,"i":null,"j":null}"#)]).unwrap();
    let times = "2023-11-14T22:13:21.000000Z|2026-03-01T10:00:00.500000Z";
    assert_eq!(rows(place, &things()), [format!("a|{nothing}|{times}"), format!("b|{nothing}|{times}")]);
}

pub(crate) fn of_an_entity_the_last_event_is_in_the_table(place: &impl Mapped) {
    place.create(&orders());
    let mut owner = owner(place, ORDERS, 1);
    owner.deliver(&[order(1, "o1", "a"), order(2, "o2", "b"), order(3, "o1", "c")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|c|3.5", "acme|o2|b|2.5"]);
    // Another type is not the table's, however late; nor is one without an entity.
    let other = of(5, "invoice.changed", "o1", "no JSON");
    owner.deliver(&[order(4, "o1", "d"), other, effect(6, 0, &event("none", None), b"")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|d|4.5", "acme|o2|b|2.5"]);
    assert_eq!(ids(place).len(), 6);
}

pub(crate) fn entities_of_two_connections_are_two_rows(place: &impl Mapped) {
    place.create(&orders());
    let of = |offset: i64, connection: &str, entity: &str| {
        let event = Event {
            kind: "order.changed".into(),
            connection: connection.into(),
            ..event(&format!("e{offset}"), Some(entity))
        };
        effect(offset, 0, &event, b"{}")
    };
    let all = [of(1, "a", "b/c"), of(2, "a/b", "c"), of(3, "A", "b/c"), of(4, "", "a"), of(5, "a", "")];
    owner(place, ORDERS, 1).deliver(&all).unwrap();
    let expected = ["a||null|null", "A|b/c|null|null", "a|b/c|null|null", "a/b|c|null|null", "|a|null|null"];
    let mut expected = expected.map(str::to_owned);
    expected.sort();
    assert_eq!(rows(place, &orders()), expected);
}

pub(crate) fn a_batch_delivered_again_changes_no_mapped_row(place: &impl Mapped) {
    place.create(&orders());
    let mut owner = owner(place, ORDERS, 1);
    let before = owner.fence;
    let batch = [order(1, "o1", "a"), order(2, "o1", "b")];
    owner.deliver(&batch).unwrap();
    let after = std::mem::replace(&mut owner.fence, before);
    assert!(matches!(owner.deliver(&batch[..1]), Err(SinkError::Fenced { .. })));
    assert_eq!(rows(place, &orders()), ["acme|o1|b|2.5"]);
    owner.fence = after;
    owner.deliver(&[order(3, "o1", "c")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|c|3.5"]);
}

pub(crate) fn a_former_owner_writes_nothing_into_mapped_tables(place: &impl Mapped) {
    place.create(&orders());
    let mut old = owner(place, ORDERS, 1);
    let mut new = owner(place, ORDERS, 2);
    assert!(matches!(old.deliver(&[order(1, "o1", "old")]), Err(SinkError::Fenced { .. })));
    assert!(rows(place, &orders()).is_empty());
    new.deliver(&[order(1, "o1", "new")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|new|1.5"]);
}

pub(crate) fn deleting(tables: &str) -> String {
    tables.replacen("key = ", "deleted = [\"order.deleted\"]\nkey = ", 1)
}

pub(crate) fn a_deleted_entity_has_no_row_until_it_is_back(place: &impl Mapped) {
    place.create(&orders());
    let mut owner = owner(place, &deleting(ORDERS), 1);
    let deleted = |offset, entity| of(offset, "order.deleted", entity, "");
    owner
        .deliver(&[order(1, "o1", "a"), order(2, "o2", "b"), order(3, "o3", "c"), deleted(4, "o3")])
        .unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|a|1.5", "acme|o2|b|2.5"]);
    owner.deliver(&[deleted(5, "o1"), deleted(6, "never there")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o2|b|2.5"]);
    owner.deliver(&[order(7, "o1", "d"), deleted(8, "o2"), order(9, "o2", "e")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|d|7.5", "acme|o2|e|9.5"]);
}

pub(crate) fn a_marked_entity_keeps_its_row(place: &impl Mapped) {
    let mut table = orders();
    table.columns.push(("gone", ColumnType::Boolean));
    place.create(&table);
    let tables = deleting(ORDERS).replacen("key = ", "on_delete = \"mark\"\nkey = ", 1);
    let mut owner = owner(place, &format!("{tables}gone = {{ from = \"deleted\" }}\n"), 1);
    let deleted = |offset, entity| of(offset, "order.deleted", entity, "");
    owner.deliver(&[order(1, "o1", "a"), order(2, "o2", "b"), deleted(3, "o2")]).unwrap();
    assert_eq!(rows(place, &table), ["acme|o1|a|1.5|false", "acme|o2|b|2.5|true"]);
    owner.deliver(&[deleted(4, "o1"), order(5, "o2", "c"), deleted(6, "never there")]).unwrap();
    assert_eq!(rows(place, &table), ["acme|o1|a|1.5|true", "acme|o2|c|5.5|false"]);
}

pub(crate) fn each_event_is_appended_once(place: &impl Mapped) {
    let text = ColumnType::Text;
    let table = Table { name: "history", columns: vec![("event", text), ("number", text)], key: Vec::new() };
    place.create(&table);
    let tables = "[history]\nwrite = \"append\"\n[history.columns]\nevent = { from = \"id\" }\n\
                  number = { at = \"/number\", type = \"text\" }\n";
    let mut owner = owner(place, tables, 1);
    let before = owner.fence;
    let batch = [order(1, "o1", "a"), order(2, "o1", "b")];
    owner.deliver(&batch).unwrap();
    let after = std::mem::replace(&mut owner.fence, before);
    assert!(matches!(owner.deliver(&batch), Err(SinkError::Fenced { .. })));
    owner.fence = after;
    owner.deliver(&[order(3, "o1", "b")]).unwrap();
    assert_eq!(rows(place, &table), ["e1|a", "e2|b", "e3|b"]);
}

pub(crate) fn an_event_that_does_not_fit_leaves_its_siblings_applied(place: &impl Mapped) {
    place.create(&orders());
    let mut owner = owner(place, ORDERS, 1);
    let bad = of(2, "order.changed", "o2", r#"{"number":"hunter2","total":"hunter2"}"#);
    let message = refused(owner.deliver(&[order(1, "o1", "a"), bad.clone(), order(3, "o3", "c")]));
    assert_eq!(
        message,
        "the event at offset 2 does not fit table `orders`: column `total`: /total is a string, not a decimal"
    );
    assert_eq!(owner.sink.fence(0).unwrap(), owner.fence);
    assert!(ids(place).is_empty() && rows(place, &orders()).is_empty());
    // One by one, as a lane does it.
    owner.deliver(&[order(1, "o1", "a")]).unwrap();
    refused(owner.deliver(&[bad]));
    owner.deliver(&[order(3, "o3", "c")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|a|1.5", "acme|o3|c|3.5"]);
    assert_eq!(ids(place), ["e1", "e3"]);
}

fn suppliers() -> Table {
    let text = ColumnType::Text;
    Table { name: "suppliers", columns: vec![("code", text), ("number", text)], key: Vec::new() }
}

/// The order's number is that of the supplier with its code.
pub(crate) fn looking_up(miss: &str) -> String {
    let lookup = format!(
        "lookup = {{ table = \"suppliers\", match = \"code\", take = \"number\", miss = \"{miss}\" }}"
    );
    ORDERS.replacen("type = \"text\" }", &format!("type = \"text\", {lookup} }}"), 1)
}

fn with_suppliers(place: &impl Mapped) {
    place.create(&orders());
    place.create(&suppliers());
    place.insert(&suppliers(), &["s1", "70001"]);
    place.insert(&suppliers(), &["S1", "70002"]);
}

pub(crate) fn a_look_up_takes_what_it_finds(place: &impl Mapped) {
    with_suppliers(place);
    let mut owner = owner(place, &looking_up("dead_letter"), 1);
    let without = of(4, "order.changed", "o4", "{}");
    owner.deliver(&[order(1, "o1", "s1"), order(2, "o2", "S1"), order(3, "o3", "s1"), without]).unwrap();
    let expected = ["acme|o1|70001|1.5", "acme|o2|70002|2.5", "acme|o3|70001|3.5", "acme|o4|null|null"];
    assert_eq!(rows(place, &orders()), expected);
}

pub(crate) fn a_look_up_that_finds_nothing_is_null_if_so_configured(place: &impl Mapped) {
    with_suppliers(place);
    owner(place, &looking_up("null"), 1).deliver(&[order(1, "o1", "s1"), order(2, "o2", "hunter2")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|70001|1.5", "acme|o2|null|2.5"]);
}

pub(crate) fn a_look_up_that_finds_nothing_is_a_dead_letter_if_so_configured(place: &impl Mapped) {
    with_suppliers(place);
    let mut owner = owner(place, &looking_up("dead_letter"), 1);
    let message = refused(owner.deliver(&[order(1, "o1", "s1"), order(2, "o2", "hunter2")]));
    assert_eq!(
        message,
        "the event at offset 2 does not fit table `orders`: column `number`: no row has its value as `code` in \
         table `suppliers`"
    );
    assert_eq!(owner.sink.fence(0).unwrap(), owner.fence);
    assert!(ids(place).is_empty() && rows(place, &orders()).is_empty());
    owner.deliver(&[order(1, "o1", "s1")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|70001|1.5"]);
}

pub(crate) fn a_look_up_that_finds_nothing_waits_if_so_configured(place: &impl Mapped) {
    with_suppliers(place);
    let mut owner = owner(place, &looking_up("wait"), 1);
    let batch = [order(1, "o1", "s1"), order(2, "o2", "hunter2")];
    for _ in 0..2 {
        let Err(SinkError::Waits(message)) = owner.deliver(&batch) else { panic!("it does not wait") };
        assert!(
            message.contains("table `orders`, column `number`: the event at offset 2 waits"),
            "{message}"
        );
        assert!(message.contains("`code` in table `suppliers`") && !message.contains("hunter2"), "{message}");
        assert!(ids(place).is_empty() && rows(place, &orders()).is_empty());
    }
    place.insert(&suppliers(), &["hunter2", "70003"]);
    owner.deliver(&batch).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|70001|1.5", "acme|o2|70003|2.5"]);
}

pub(crate) fn a_look_up_that_finds_several_rows_halts(place: &impl Mapped) {
    with_suppliers(place);
    place.insert(&suppliers(), &["s1", "70009"]);
    let mut owner = owner(place, &looking_up("null"), 1);
    let message = halted(owner.deliver(&[order(1, "o1", "s1")]));
    assert!(message.contains("table `orders`, column `number`: several rows"), "{message}");
    assert!(message.contains("`code` in table `suppliers`") && !message.contains("s1"), "{message}");
    assert!(ids(place).is_empty() && rows(place, &orders()).is_empty());
}

pub(crate) fn a_missing_table_halts_and_is_named(place: &impl Mapped) {
    place.create(&orders());
    let message = halted(open_with(place, &with(&looking_up("null"))));
    assert!(message.contains("[pipelines.shop.tables]"), "{message}");
    assert!(
        message
            .contains("table `orders`, column `number` looks up in table `suppliers`, which does not exist"),
        "{message}"
    );
    let message = halted(open_with(place, &with(&ORDERS.replace("orders", "odrers"))));
    assert!(message.contains("table `odrers` does not exist"), "{message}");
    open_with(place, &with(ORDERS)).unwrap();
}

pub(crate) fn a_long_batch_is_in_the_table(place: &impl Mapped) {
    place.create(&orders());
    let mut owner = owner(place, ORDERS, 1);
    let large = "x".repeat(20_000);
    let entities = place.many();
    // A fifth of the entities has two events.
    let batch: Vec<_> = (0..entities + entities / 5)
        .map(|n| order(n, &format!("o{}", n % entities), if n % 5 == 0 { &large } else { "y" }))
        .collect();
    owner.deliver(&batch).unwrap();
    let found = place.rows(&orders());
    assert_eq!(i64::try_from(found.len()), Ok(entities));
    let of_n = |n: i64| if n < entities / 5 { n + entities } else { n };
    for row in found {
        let n = of_n(row[1].trim_start_matches('o').parse().unwrap());
        let expected = if n % 5 == 0 { large.len() } else { 1 };
        assert_eq!(row[2].len(), expected, "{n}");
        assert!(row[3].starts_with(&format!("{n}.5")), "{n}: {}", row[3]);
    }
}

pub(crate) fn a_cut_at_any_step_leaves_the_same_mapped_rows(place: &(impl Remote + Mapped)) {
    place.create(&orders());
    let history = Table { name: "history", columns: vec![("event", ColumnType::Text)], key: Vec::new() };
    place.create(&history);
    let tables =
        format!("{}[history]\nwrite = \"append\"\ncolumns.event = {{ from = \"id\" }}\n", deleting(ORDERS));
    let batch = |n: i64| {
        let gone = of(n + 2, "order.deleted", "o1", "");
        [order(n, "o1", "a"), order(n + 1, &format!("o{}", n + 10), "b"), gone]
    };
    remote::cut_at_any_step(place, &with(&tables), batch, |applied| {
        let expected = (0..applied).step_by(3).map(|n| format!("acme|o{}|b|{}.5", n + 10, n + 1));
        let mut expected: Vec<_> = expected.collect();
        expected.sort();
        assert_eq!(rows(place, &orders()), expected);
        let mut expected: Vec<_> = (0..applied).map(|n| format!("e{n}")).collect();
        expected.sort();
        assert_eq!(rows(place, &history), expected);
    });
}
