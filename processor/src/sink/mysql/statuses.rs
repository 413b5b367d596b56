//! The table of connections' statuses: made where it is missing, read and written in the batch's transaction.
//!
//! The numbers of rows are powers of two, so that a few prepared statements serve every batch.

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value};
use shared::event::{encode_source, sha256_hex};

use super::connect::Server;
use super::insert::portions;
use crate::sink::SinkError;
use crate::sink::statuses::{self, StoredStanding, Tells};

/// Connections in one statement.
const ROWS_MAX: usize = 256;

const CREATE: &str = include_str!("../sql/mysql_connections.sql");
const EXISTS: &str = "SELECT count(*) FROM information_schema.tables \
    WHERE table_schema = DATABASE() AND table_name = ?";
const READ: &str = "SELECT source, connection, status, since, previous, reason, event_id, event_type, time, \
    log_partition, effect_offset, effect_ordinal FROM {table} WHERE connection_key IN ({keys}) \
    ORDER BY connection_key FOR UPDATE";
const KEY: &str = "UNHEX(?)";
const WRITE: (&str, &str) = (
    "INSERT INTO {table} (connection_key, source, connection, status, since, previous, reason, event_id, event_type, \
     time, log_partition, effect_offset, effect_ordinal) VALUES ",
    " ON DUPLICATE KEY UPDATE status = VALUES(status), since = VALUES(since), previous = VALUES(previous), \
     reason = VALUES(reason), event_id = VALUES(event_id), event_type = VALUES(event_type), time = VALUES(time), \
     log_partition = VALUES(log_partition), effect_offset = VALUES(effect_offset), \
     effect_ordinal = VALUES(effect_ordinal)",
);
const ROW: &str = "(UNHEX(?), ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";

/// Makes the table where it is missing.
pub(super) async fn make(conn: &mut Conn, server: &Server) -> Result<(), SinkError> {
    let Some(table) = &server.statuses else { return Ok(()) };
    let failed = |e: mysql_async::Error| server.failed(&e);
    let there: Option<Row> = conn.exec_first(EXISTS, (&table.name,)).await.map_err(failed)?;
    if server.value::<i64>(there.as_ref(), 0)? == 0 {
        conn.query_drop(sql(CREATE, &table.name)).await.map_err(failed)?;
    }
    let found = read(conn, server, &table.name, &[("", "")]).await;
    found.map(|_| ()).map_err(|error| table.unlike("sink.mysql", error))
}

/// Folds what a batch tells into the rows that are there.
pub(super) async fn apply(
    conn: &mut Conn,
    server: &Server,
    partition: i32,
    told: Vec<Tells<'_>>,
) -> Result<(), SinkError> {
    let Some(table) = &server.statuses else { return Ok(()) };
    let mut before = Vec::new();
    for now in portions(&statuses::connections(&told), ROWS_MAX) {
        before.extend(read(conn, server, &table.name, now).await?);
    }
    let after = statuses::after(&table.name, &server.to_string(), told, before, partition)?;
    for now in portions(&after, ROWS_MAX) {
        let (insert, update) = WRITE;
        let text = format!("{}{}{update}", sql(insert, &table.name), vec![ROW; now.len()].join(", "));
        let values: Vec<Value> = now.iter().flat_map(values).collect();
        conn.exec_drop(text, values).await.map_err(|e| server.failed(&e))?;
    }
    Ok(())
}

async fn read(
    conn: &mut Conn,
    server: &Server,
    table: &str,
    connections: &[(&str, &str)],
) -> Result<Vec<StoredStanding>, SinkError> {
    let text = sql(READ, table).replace("{keys}", &vec![KEY; connections.len()].join(", "));
    let keys: Vec<Value> =
        connections.iter().map(|(source, connection)| digest(source, connection).into()).collect();
    let found: Vec<Row> = conn.exec(text, keys).await.map_err(|e| server.failed(&e))?;
    found.iter().map(|row| stored(server, row)).collect()
}

fn stored(server: &Server, row: &Row) -> Result<StoredStanding, SinkError> {
    let row = Some(row);
    Ok(StoredStanding {
        source: server.value(row, 0)?,
        connection: server.value(row, 1)?,
        status: server.value(row, 2)?,
        since: server.value(row, 3)?,
        previous: server.value(row, 4)?,
        reason: server.value(row, 5)?,
        event_id: server.value(row, 6)?,
        event_type: server.value(row, 7)?,
        time: server.value(row, 8)?,
        partition: server.value(row, 9)?,
        offset: server.value(row, 10)?,
        ordinal: server.value(row, 11)?,
    })
}

fn values(row: &StoredStanding) -> [Value; 13] {
    [
        digest(&row.source, &row.connection).into(),
        (&row.source).into(),
        (&row.connection).into(),
        (&row.status).into(),
        (&row.since).into(),
        row.previous.as_deref().into(),
        row.reason.as_deref().into(),
        (&row.event_id).into(),
        (&row.event_type).into(),
        (&row.time).into(),
        row.partition.into(),
        row.offset.into(),
        row.ordinal.into(),
    ]
}

/// In hexadecimal, since a parameter is text to the server.
fn digest(source: &str, connection: &str) -> String {
    sha256_hex(encode_source(source, connection).as_bytes())
}

/// The configuration lets no quote into the name.
fn sql(template: &str, table: &str) -> String {
    template.replace("{table}", &format!("`{table}`"))
}
