//! Reads Hookline's tables from an SQLite file by plain SQL, for [`crate::check`].

use std::path::Path;

use rusqlite::types::ValueRef;
use rusqlite::{Connection, OpenFlags, Result};

use crate::check::{EntityRow, Row};

const EVENTS: &str = "SELECT source, connection, event_id, entity, sequence, body, \
                      log_partition, effect_offset, effect_ordinal FROM hookline_events";
const ENTITIES: &str = "SELECT source, connection, entity, event_id, sequence, body FROM hookline_entities";

/// All rows of both tables. The file is opened for reading only.
///
/// # Errors
/// The file or a table is missing, or a column is not of its type.
pub fn read_sqlite(path: &Path) -> Result<(Vec<Row>, Vec<EntityRow>)> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    let mut statement = connection.prepare(EVENTS)?;
    let rows = statement.query_map([], |row| {
        Ok(Row {
            source: row.get(0)?,
            connection: row.get(1)?,
            event_id: row.get(2)?,
            entity: row.get(3)?,
            sequence: row.get(4)?,
            body: bytes(row.get_ref(5)?),
            position: (row.get(6)?, row.get(7)?, row.get(8)?),
        })
    })?;
    let rows = rows.collect::<Result<_>>()?;
    let mut statement = connection.prepare(ENTITIES)?;
    let entities = statement.query_map([], |row| {
        Ok(EntityRow {
            source: row.get(0)?,
            connection: row.get(1)?,
            entity: row.get(2)?,
            event_id: row.get(3)?,
            sequence: row.get(4)?,
            body: bytes(row.get_ref(5)?),
        })
    })?;
    let entities = entities.collect::<Result<_>>()?;
    Ok((rows, entities))
}

/// A body's bytes, whether the column holds text or a blob. Anything else gives bytes that no body has.
fn bytes(value: ValueRef<'_>) -> Vec<u8> {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.to_vec(),
        ValueRef::Null => b"\0null".to_vec(),
        ValueRef::Integer(_) | ValueRef::Real(_) => b"\0number".to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_read_byte_for_byte() {
        let path = std::env::temp_dir().join(format!("hookline-sandbox-rows-{}.db", std::process::id()));
        let db = Connection::open(&path).unwrap();
        db.execute_batch(
            "CREATE TABLE hookline_events (source TEXT, connection TEXT, event_id TEXT, type TEXT, entity TEXT,
                 sequence TEXT, body BLOB, log_partition INTEGER, log_offset INTEGER, effect_offset INTEGER,
                 effect_ordinal INTEGER);
             CREATE TABLE hookline_entities (source TEXT, connection TEXT, entity TEXT, type TEXT,
                 event_id TEXT, sequence TEXT, body BLOB);
             INSERT INTO hookline_events VALUES ('s', '', 'e', 't', 'n', NULL, x'ff00', 1, 2, 3, 4);
             INSERT INTO hookline_entities VALUES ('s', 'c', 'n', 't', 'e', '7', '{ }');",
        )
        .unwrap();
        let (rows, entities) = read_sqlite(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!((&rows[0].body[..], rows[0].position), (&[0xff, 0][..], (1, 3, 4)));
        assert_eq!((&entities[0].body[..], entities[0].sequence.as_deref()), (&b"{ }"[..], Some("7")));
    }
}
