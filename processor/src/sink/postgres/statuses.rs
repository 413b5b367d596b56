//! The table of connections' statuses: made where it is missing, read and written in the batch's transaction.

use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, GenericClient, Row, Statement, Transaction};

use super::classify::failed;
use super::connect::{MIGRATION_LOCK, Server, quoted};
use crate::sink::SinkError;
use crate::sink::statuses::{self, StatusTable, StoredStanding, Tells};

/// Connections in one statement.
const ROWS_MAX: usize = 2_000;

const CREATE: &str = include_str!("../sql/postgres_connections.sql");
const EXISTS: &str = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
    WHERE n.nspname = $1 AND c.relname = $2)";
/// Locked in one order, should another partition tell of the same connections.
const READ: &str = "SELECT source, connection, c.status, c.since, c.previous, c.reason, c.event_id, c.event_type, \
    c.time, c.log_partition, c.effect_offset, c.effect_ordinal \
    FROM {table} AS c JOIN unnest($1::text[], $2::text[]) AS told (source, connection) USING (source, connection) \
    ORDER BY source, connection FOR UPDATE OF c";
const WRITE: &str = "INSERT INTO {table} (source, connection, status, since, previous, reason, event_id, event_type, \
    time, log_partition, effect_offset, effect_ordinal) \
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], \
    $8::text[], $9::text[], $10::int[], $11::bigint[], $12::int[]) \
    ON CONFLICT (source, connection) DO UPDATE SET status = excluded.status, since = excluded.since, \
    previous = excluded.previous, reason = excluded.reason, event_id = excluded.event_id, \
    event_type = excluded.event_type, time = excluded.time, log_partition = excluded.log_partition, \
    effect_offset = excluded.effect_offset, effect_ordinal = excluded.effect_ordinal";

/// The table's prepared statements.
pub(super) struct Prepared {
    read: Statement,
    write: Statement,
}

/// Makes the table where it is missing, and prepares its statements; none where there is to be no table.
pub(super) async fn prepare(client: &mut Client, server: &Server) -> Result<Option<Prepared>, SinkError> {
    let Some(table) = &server.statuses else { return Ok(None) };
    let name = quoted(&table.name);
    let sql = |template: &str| server.sql(&template.replace("{table}", &format!("{{schema}}.{name}")));
    make(client, server, table, &sql(CREATE)).await?;
    let failed = |e: tokio_postgres::Error| table.unlike("sink.postgres", failed(server, &e));
    let read = client.prepare(&sql(READ)).await.map_err(failed)?;
    let write = client.prepare(&sql(WRITE)).await.map_err(failed)?;
    Ok(Some(Prepared { read, write }))
}

async fn make(client: &mut Client, server: &Server, table: &StatusTable, sql: &str) -> Result<(), SinkError> {
    let failed = |e: tokio_postgres::Error| failed(server, &e);
    if exists(client, server, table).await.map_err(failed)? {
        return Ok(());
    }
    let transaction = client.transaction().await.map_err(failed)?;
    transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await.map_err(failed)?;
    // Another lane may have been quicker.
    if !exists(&transaction, server, table).await.map_err(failed)? {
        transaction.batch_execute(sql).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)
}

async fn exists(
    client: &impl GenericClient,
    server: &Server,
    table: &StatusTable,
) -> Result<bool, tokio_postgres::Error> {
    let (schema, _) = server.parts(&table.name);
    client.query_one(EXISTS, &[&schema, &table.name]).await?.try_get(0)
}

/// Folds what a batch tells into the rows that are there.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    server: &Server,
    prepared: Option<&Prepared>,
    partition: i32,
    told: Vec<Tells<'_>>,
) -> Result<(), SinkError> {
    let (Some(table), Some(prepared)) = (&server.statuses, prepared) else { return Ok(()) };
    let failed = |e: tokio_postgres::Error| failed(server, &e);
    let mut before = Vec::new();
    for part in statuses::connections(&told).chunks(ROWS_MAX) {
        let (sources, connections): (Vec<&str>, Vec<&str>) = part.iter().copied().unzip();
        let found = transaction.query(&prepared.read, &[&sources, &connections]).await.map_err(failed)?;
        for row in &found {
            before.push(stored(row).map_err(failed)?);
        }
    }
    let after = statuses::after(&table.name, &server.to_string(), told, before, partition)?;
    for part in after.chunks(ROWS_MAX) {
        let text = |of: fn(&StoredStanding) -> &str| part.iter().map(of).collect::<Vec<_>>();
        let perhaps = |of: fn(&StoredStanding) -> Option<&str>| part.iter().map(of).collect::<Vec<_>>();
        let values: [&(dyn ToSql + Sync); 12] = [
            &text(|row| &row.source),
            &text(|row| &row.connection),
            &text(|row| &row.status),
            &text(|row| &row.since),
            &perhaps(|row| row.previous.as_deref()),
            &perhaps(|row| row.reason.as_deref()),
            &text(|row| &row.event_id),
            &text(|row| &row.event_type),
            &text(|row| &row.time),
            &part.iter().map(|row| row.partition).collect::<Vec<_>>(),
            &part.iter().map(|row| row.offset).collect::<Vec<_>>(),
            &part.iter().map(|row| row.ordinal).collect::<Vec<_>>(),
        ];
        transaction.execute(&prepared.write, &values).await.map_err(failed)?;
    }
    Ok(())
}

fn stored(row: &Row) -> Result<StoredStanding, tokio_postgres::Error> {
    Ok(StoredStanding {
        source: row.try_get(0)?,
        connection: row.try_get(1)?,
        status: row.try_get(2)?,
        since: row.try_get(3)?,
        previous: row.try_get(4)?,
        reason: row.try_get(5)?,
        event_id: row.try_get(6)?,
        event_type: row.try_get(7)?,
        time: row.try_get(8)?,
        partition: row.try_get(9)?,
        offset: row.try_get(10)?,
        ordinal: row.try_get(11)?,
    })
}
