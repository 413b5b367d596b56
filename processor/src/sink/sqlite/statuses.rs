//! The table of connections' statuses: made where it is missing, read and written in the batch's transaction.

use std::path::Path;

use rusqlite::{Connection, OptionalExtension as _, Row, Transaction, params};

use super::{begin, failed, place};
use crate::sink::statuses::{self, StatusTable, StoredStanding, Tells};
use crate::sink::{SinkError, rows};

const CREATE: &str = include_str!("../sql/sqlite_connections.sql");
const EXISTS: &str = "SELECT count(*) FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
const READ: &str = "SELECT source, connection, status, since, previous, reason, event_id, event_type, time, \
    log_partition, effect_offset, effect_ordinal FROM {table} WHERE source = ?1 AND connection = ?2";
const WRITE: &str = "INSERT INTO {table} (source, connection, status, since, previous, reason, event_id, event_type, \
    time, log_partition, effect_offset, effect_ordinal) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12) \
    ON CONFLICT (source, connection) DO UPDATE SET status = excluded.status, since = excluded.since, \
    previous = excluded.previous, reason = excluded.reason, event_id = excluded.event_id, \
    event_type = excluded.event_type, time = excluded.time, log_partition = excluded.log_partition, \
    effect_offset = excluded.effect_offset, effect_ordinal = excluded.effect_ordinal";

/// Makes the table where it is missing.
pub(super) fn make(connection: &mut Connection, path: &Path, table: &StatusTable) -> Result<(), SinkError> {
    let failed = |e: rusqlite::Error| rows::not_by_data(failed(path, &e));
    if !exists(connection, table).map_err(failed)? {
        let transaction = begin(connection, path)?;
        // Another lane may have been quicker.
        if !exists(&transaction, table).map_err(failed)? {
            transaction.execute_batch(&sql(CREATE, table)).map_err(failed)?;
        }
        transaction.commit().map_err(failed)?;
    }
    for template in [READ, WRITE] {
        let prepared = connection.prepare_cached(&sql(template, table));
        prepared.map_err(|e| table.unlike("sink.sqlite", failed(e)))?;
    }
    Ok(())
}

fn exists(connection: &Connection, table: &StatusTable) -> rusqlite::Result<bool> {
    connection.query_row(EXISTS, [&table.name], |row| row.get::<_, i64>(0)).map(|found| found > 0)
}

/// Folds what a batch tells into the rows that are there.
pub(super) fn apply(
    transaction: &Transaction<'_>,
    path: &Path,
    table: Option<&StatusTable>,
    partition: i32,
    told: Vec<Tells<'_>>,
) -> Result<(), SinkError> {
    let Some(table) = table.filter(|_| !told.is_empty()) else { return Ok(()) };
    let failed = |e: rusqlite::Error| failed(path, &e);
    let mut read = transaction.prepare_cached(&sql(READ, table)).map_err(failed)?;
    let mut before = Vec::new();
    for connection in statuses::connections(&told) {
        before.extend(read.query_row(connection, stored).optional().map_err(failed)?);
    }
    let mut write = transaction.prepare_cached(&sql(WRITE, table)).map_err(failed)?;
    for row in statuses::after(&table.name, &place(path), told, before, partition)? {
        let values = params![
            row.source,
            row.connection,
            row.status,
            row.since,
            row.previous,
            row.reason,
            row.event_id,
            row.event_type,
            row.time,
            row.partition,
            row.offset,
            row.ordinal,
        ];
        write.execute(values).map_err(failed)?;
    }
    Ok(())
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredStanding> {
    Ok(StoredStanding {
        source: row.get(0)?,
        connection: row.get(1)?,
        status: row.get(2)?,
        since: row.get(3)?,
        previous: row.get(4)?,
        reason: row.get(5)?,
        event_id: row.get(6)?,
        event_type: row.get(7)?,
        time: row.get(8)?,
        partition: row.get(9)?,
        offset: row.get(10)?,
        ordinal: row.get(11)?,
    })
}

/// The configuration lets no quote into the name.
fn sql(template: &str, table: &StatusTable) -> String {
    template.replace("{table}", &format!("\"{}\"", table.name))
}
