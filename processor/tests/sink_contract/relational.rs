//! The promises of every sink that has tables of the user's own, with columns: types, keys, and rows of arrays.

use processor::fold::Effect;
use shared::config::ColumnType;

use super::mapping::{
    Mapped, ORDERS, Table, deleting, looking_up, of, order, orders, owner, refused, rows, with,
};
use super::{halted, ids, open_with};

macro_rules! promises {
    ($place:expr) => {
        $crate::sink_contract::tests_of! { relational, $place;
            the_rows_of_an_array_are_replaced_as_a_whole
            the_rows_of_an_array_are_marked_together
            foreign_keys_between_mapped_tables_hold
            every_fault_of_a_table_is_named_at_start
            what_a_column_does_not_take_is_refused
            a_table_that_changed_meanwhile_halts
        }
    };
}
pub(crate) use promises;

/// A database with SQL.
pub(crate) trait Relational: Mapped {
    /// Runs SQL that every such database understands; a table's name stands in braces.
    fn sql(&self, sql: &str);
}

const LINES: &str = r#"
[order_lines]
types = ["order.*"]
deleted = ["order.deleted"]
each = "/lines"
key = ["connection", "id", "line"]
[order_lines.columns]
connection = { from = "connection" }
id = { from = "entity" }
line = { at = "/no", type = "integer" }
material = { at = "/material", type = "text" }
"#;

fn lines() -> Table {
    let text = ColumnType::Text;
    let columns = vec![("connection", text), ("id", text), ("line", ColumnType::Integer), ("material", text)];
    Table { name: "order_lines", columns, key: vec!["connection", "id", "line"] }
}

fn with_lines(offset: i64, entity: &str, lines: &[u8]) -> Effect {
    let lines: Vec<_> = lines.iter().map(|no| format!(r#"{{"no":{no},"material":"m{offset}"}}"#)).collect();
    of(offset, "order.changed", entity, &format!(r#"{{"number":"{offset}","lines":[{}]}}"#, lines.join(",")))
}

pub(crate) fn the_rows_of_an_array_are_replaced_as_a_whole(place: &impl Relational) {
    place.create(&lines());
    let mut owner = owner(place, LINES, 1);
    owner.deliver(&[with_lines(1, "o1", &[1, 2, 3]), with_lines(2, "o2", &[1])]).unwrap();
    let expected = ["acme|o1|1|m1", "acme|o1|2|m1", "acme|o1|3|m1", "acme|o2|1|m2"];
    assert_eq!(rows(place, &lines()), expected);
    owner.deliver(&[with_lines(3, "o1", &[9]), with_lines(4, "o1", &[3, 4])]).unwrap();
    assert_eq!(rows(place, &lines()), ["acme|o1|3|m4", "acme|o1|4|m4", "acme|o2|1|m2"]);
    owner.deliver(&[with_lines(5, "o1", &[]), of(6, "order.deleted", "o2", "")]).unwrap();
    assert!(rows(place, &lines()).is_empty());
    let twice = refused(owner.deliver(&[with_lines(7, "o1", &[1, 1])]));
    assert!(twice.contains("element 1 of /lines has the same key"), "{twice}");
    owner.deliver(&[with_lines(8, "o1", &[1])]).unwrap();
    assert_eq!(rows(place, &lines()), ["acme|o1|1|m8"]);
}

pub(crate) fn the_rows_of_an_array_are_marked_together(place: &impl Relational) {
    let mut table = lines();
    table.columns.push(("gone", ColumnType::Boolean));
    place.create(&table);
    let tables = LINES.replacen("key = ", "on_delete = \"mark\"\nkey = ", 1);
    let mut owner = owner(place, &format!("{tables}gone = {{ from = \"deleted\" }}\n"), 1);
    owner.deliver(&[with_lines(1, "o1", &[1, 2]), with_lines(2, "o2", &[1])]).unwrap();
    owner.deliver(&[of(3, "order.deleted", "o1", "")]).unwrap();
    assert_eq!(rows(place, &table), ["acme|o1|1|m1|true", "acme|o1|2|m1|true", "acme|o2|1|m2|false"]);
}

pub(crate) fn foreign_keys_between_mapped_tables_hold(place: &impl Relational) {
    place.create(&orders());
    place.create(&lines());
    place.sql(
        "CREATE TABLE {parts} (connection VARCHAR(200) NOT NULL, id VARCHAR(200) NOT NULL, line INTEGER NOT NULL, \
         PRIMARY KEY (connection, id, line), FOREIGN KEY (connection, id) REFERENCES {orders} (connection, id))",
    );
    let parts = LINES.replace("order_lines", "parts").replace("material = ", "# ");
    let mut owner = owner(place, &format!("{}{parts}", deleting(ORDERS)), 1);
    owner.deliver(&[with_lines(1, "o1", &[1, 2]), with_lines(2, "o2", &[1])]).unwrap();
    owner.deliver(&[with_lines(3, "o1", &[2]), of(4, "order.deleted", "o2", "")]).unwrap();
    let mut table = lines();
    (table.name, table.key) = ("parts", Vec::new());
    table.columns.truncate(3);
    assert_eq!(rows(place, &table), ["acme|o1|2"]);
    assert_eq!(rows(place, &orders()), ["acme|o1|3|null"]);
}

pub(crate) fn every_fault_of_a_table_is_named_at_start(place: &impl Relational) {
    let mut wrong = orders();
    wrong.columns = vec![
        ("connection", ColumnType::Text),
        ("id", ColumnType::Integer),
        ("number", ColumnType::Boolean),
        ("colour", ColumnType::Text),
    ];
    wrong.key = vec!["connection"];
    place.create(&wrong);
    place.sql("CREATE TABLE {suppliers} (code INTEGER, number VARCHAR(20))");
    let message = halted(open_with(place, &with(&looking_up("null"))));
    for fault in [
        "table `orders`, column `total` does not exist",
        "table `orders`, column `id` is ",
        "which is not for a text",
        "table `orders`, column `number` looks up `code` in table `suppliers`, which is ",
        "table `orders`, column `number` is ",
        "but takes `number` from table `suppliers`",
        "table `orders` has no primary key or unique index on exactly `connection`, `id`",
        "Create or alter them, or change the mapping",
    ] {
        assert!(message.contains(fault), "{fault}: {message}");
    }
    place.sql("CREATE TABLE {things} (id VARCHAR(200) NOT NULL PRIMARY KEY, needed VARCHAR(20) NOT NULL)");
    let message =
        halted(open_with(place, &with("[things]\nkey = [\"id\"]\ncolumns.id = { from = \"entity\" }\n")));
    assert!(message.contains("table `things`, column `needed` takes no null, has no default"), "{message}");
}

/// By the user's own constraint: refused, alone.
pub(crate) fn what_a_column_does_not_take_is_refused(place: &impl Relational) {
    place.sql(
        "CREATE TABLE {orders} (connection VARCHAR(200) NOT NULL, id VARCHAR(200) NOT NULL, \
         number VARCHAR(20) NOT NULL, CHECK (length(number) < 6), PRIMARY KEY (connection, id))",
    );
    let tables = ORDERS.replace("total = ", "# ");
    let mut owner = owner(place, &tables, 1);
    for bad in [order(2, "o2", "hunter2"), of(2, "order.changed", "o2", "{}")] {
        let message = refused(owner.deliver(&[order(1, "o1", "a"), bad]));
        assert!(message.contains("orders") && !message.contains("hunter2"), "{message}");
    }
    owner.deliver(&[order(1, "o1", "a")]).unwrap();
    let mut table = orders();
    table.columns.truncate(3);
    assert_eq!(rows(place, &table), ["acme|o1|a"]);
    assert_eq!(ids(place), ["e1"]);
}

pub(crate) fn a_table_that_changed_meanwhile_halts(place: &impl Relational) {
    place.create(&orders());
    let mut owner = owner(place, ORDERS, 1);
    place.sql("DROP TABLE {orders}");
    let message = halted(owner.deliver(&[order(1, "o1", "a")]));
    assert!(message.contains("table `orders`") && !message.contains("empty"), "{message}");
    assert!(ids(place).is_empty());
    place.create(&orders());
    owner.deliver(&[order(1, "o1", "a")]).unwrap();
    assert_eq!(rows(place, &orders()), ["acme|o1|a|1.5"]);
}
