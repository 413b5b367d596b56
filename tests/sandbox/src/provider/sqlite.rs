//! Compares an SQLite sink with what must be there: Hookline's table of entities, and those of the provider's own
//! tables that the file has.

use std::path::Path;

use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

use super::expected::{Expected, Row, compare};
use super::resource::Resource;
use super::tables::{compare_lines, lines_sql, rows_sql};
use crate::check::Difference;
use crate::rows::read_sqlite;

/// Why nothing was compared.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The file or a table cannot be read.
    #[error("cannot read the sink: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// A row is none of the provider's.
    #[error("{0}")]
    Row(String),
}

/// Everything that is not as it must be. The file is opened for reading only.
///
/// # Errors
/// The file or a table cannot be read, or a row is none of the provider's.
pub fn check_sqlite(expected: &Expected, path: &Path) -> Result<Vec<Difference>, CheckError> {
    let (_, entities) = read_sqlite(path)?;
    let of_source = entities.iter().filter(|row| row.source == expected.source);
    let rows = of_source.filter_map(|row| Row::of_entity(&row.connection, &row.entity, &row.body));
    let rows = rows.collect::<Result<Vec<_>, _>>().map_err(CheckError::Row)?;
    let mut out = compare(expected, &Resource::ALL, &rows);
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    for resource in Resource::ALL {
        if is_there(&connection, resource.name())? {
            let rows = read(&connection, &rows_sql(resource))?;
            let rows = rows.iter().map(|row| Row::of_columns(resource, row));
            let rows = rows.collect::<Result<Vec<_>, _>>().map_err(CheckError::Row)?;
            out.extend(compare(expected, &[resource], &rows));
        }
    }
    if is_there(&connection, "purchase_order_lines")? {
        out.extend(compare_lines(expected, &read(&connection, &lines_sql())?));
    }
    Ok(out)
}

fn is_there(connection: &Connection, table: &str) -> rusqlite::Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?1";
    Ok(connection.query_row(sql, [table], |_| Ok(())).optional()?.is_some())
}

/// All rows of a query whose columns are text.
fn read(connection: &Connection, sql: &str) -> rusqlite::Result<Vec<Vec<Option<String>>>> {
    let mut statement = connection.prepare(sql)?;
    let count = statement.column_count();
    let rows =
        statement.query_map([], |row| (0..count).map(|n| row.get(n)).collect::<rusqlite::Result<_>>())?;
    rows.collect()
}

#[cfg(test)]
mod tests {
    use super::super::tables::{Database, tables_sql};
    use super::super::world::{At, World};
    use super::*;
    use crate::provider::expected::of_world;
    use crate::rng::Rng;

    #[test]
    fn a_sink_agrees_until_a_row_is_changed_in_any_of_its_tables() {
        let mut world = World::new(&["acme".to_owned()]);
        let at = At { connection: "acme", resource: Resource::PurchaseOrders, ms: 1_767_600_000_000 };
        let (_, webhook) = world.create(at, &mut Rng::new(5)).unwrap();
        let expected = of_world("makini", &world, true);
        let record = expected.entities[0].record.clone().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hookline.db");
        let sink = Connection::open(&path).unwrap();
        sink.execute_batch(
            "CREATE TABLE hookline_events (source TEXT, connection TEXT, event_id TEXT, type TEXT, entity TEXT,
                 sequence TEXT, body BLOB, log_partition INTEGER, log_offset INTEGER, effect_offset INTEGER,
                 effect_ordinal INTEGER);
             CREATE TABLE hookline_entities (source TEXT, connection TEXT, entity TEXT, type TEXT,
                 event_id TEXT, sequence TEXT, body BLOB);
             INSERT INTO hookline_entities VALUES ('makini', 'acme', 'connection-acme', 't', 'e', '1', '{}');
             INSERT INTO hookline_entities VALUES ('github', '', 'asset-of-others', 't', 'e', '1', '{}');",
        )
        .unwrap();
        sink.execute(
            "INSERT INTO hookline_entities VALUES ('makini', 'acme', 'purchase-order-po_000001', 't', 'e', '1', ?1)",
            [&webhook.body],
        )
        .unwrap();
        assert_eq!(check_sqlite(&expected, &path).unwrap(), []);
        sink.execute_batch(&tables_sql(Database::Sqlite)).unwrap();
        // The order, and each of its lines.
        let lines = record["lines"].as_array().unwrap();
        assert_eq!(check_sqlite(&expected, &path).unwrap().len(), 1 + lines.len());
        let text = |pointer: &str| record.pointer(pointer).unwrap().as_str().unwrap().to_owned();
        sink.execute(
            "INSERT INTO purchase_orders VALUES ('acme', 'purchase-order-po_000001', 1, ?1, ?2, ?3, ?4, ?5)",
            ["/updated_at", "/number", "/status", "/currency", "/vendor/name"].map(text),
        )
        .unwrap();
        for line in lines {
            let fields = ["line", "material", "quantity", "net_price"];
            let values =
                fields.map(|field| line[field].as_str().map_or(line[field].to_string(), str::to_owned));
            let sql = "INSERT INTO purchase_order_lines VALUES ('acme', 'purchase-order-po_000001', ?1, ?2, ?3, ?4)";
            sink.execute(sql, values).unwrap();
        }
        assert_eq!(check_sqlite(&expected, &path).unwrap(), []);
        let mut found = 0;
        for change in [
            "UPDATE purchase_orders SET currency = 'XXX'",
            "UPDATE purchase_order_lines SET quantity = '1.0' WHERE line = '00010'",
            "DELETE FROM hookline_entities WHERE entity LIKE 'purchase-order-%'",
        ] {
            sink.execute_batch(change).unwrap();
            let now = check_sqlite(&expected, &path).unwrap().len();
            assert!(now > found, "{change}");
            found = now;
        }
    }
}
