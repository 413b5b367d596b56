//! The table of connections' statuses: made where it is missing, read before a batch's block and written in it.
//!
//! The events of one connection may be in several partitions. So the block writes only over the rows that were read,
//! and raises when another partition's has changed one meanwhile: then the batch is tried again.

use std::collections::BTreeMap;

use serde::Serialize;
use snowflake_connector_rs::{CellValue, DynamicRow, Statement};

use super::changes::{Planned, StagedRow};
use super::connect::{Server, Session, statements_of};
use super::integer;
use super::stage::Arrays;
use super::statements::{OVERTAKEN, quoted, raise_if};
use super::tables::as_text;
use crate::sink::SinkError;
use crate::sink::statuses::{self, StatusTable, StoredStanding, Tells};

/// The part of `hookline_mapped`, far above those of the user's tables, of which each has four at most.
const PART: u32 = 1_000_000;

const CREATE: &str = include_str!("../sql/snowflake_connections.sql");

/// The rows of the connections of a JSON array.
const READ: &str = "SELECT kept.source, kept.connection, kept.status, kept.since, kept.previous, kept.reason, \
    kept.event_id, kept.event_type, kept.time, kept.log_partition, kept.effect_offset, kept.effect_ordinal \
    FROM (SELECT value:source::VARCHAR AS source, value:connection::VARCHAR AS connection \
    FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?)))) AS told \
    JOIN {table} AS kept ON kept.source = told.source AND kept.connection = told.connection";

const WRITE: &str = "\
MERGE INTO {table} AS kept
  USING (SELECT content['source']::VARCHAR AS source, content['connection']::VARCHAR AS connection,
    content['status']::VARCHAR AS status, content['since']::VARCHAR AS since,
    content['previous']::VARCHAR AS previous, content['reason']::VARCHAR AS reason,
    content['event_id']::VARCHAR AS event_id, content['event_type']::VARCHAR AS event_type,
    content['time']::VARCHAR AS time, content['effect_offset']::NUMBER(19, 0) AS effect_offset,
    content['effect_ordinal']::NUMBER(10, 0) AS effect_ordinal, content['read_partition']::NUMBER(10, 0) AS read_partition,
    content['read_offset']::NUMBER(19, 0) AS read_offset, content['read_ordinal']::NUMBER(10, 0) AS read_ordinal
    FROM hookline_mapped WHERE part = {part}) AS told
  ON kept.source = told.source AND kept.connection = told.connection
  WHEN MATCHED AND kept.log_partition = told.read_partition AND kept.effect_offset = told.read_offset
    AND kept.effect_ordinal = told.read_ordinal THEN UPDATE SET status = told.status, since = told.since,
    previous = told.previous, reason = told.reason, event_id = told.event_id, event_type = told.event_type,
    time = told.time, log_partition = {partition}, effect_offset = told.effect_offset,
    effect_ordinal = told.effect_ordinal
  WHEN NOT MATCHED THEN INSERT (source, connection, status, since, previous, reason, event_id, event_type, time,
    log_partition, effect_offset, effect_ordinal)
    VALUES (told.source, told.connection, told.status, told.since, told.previous, told.reason, told.event_id,
    told.event_type, told.time, {partition}, told.effect_offset, told.effect_ordinal)";

/// A connection that is asked for.
#[derive(Serialize)]
struct Asked<'a> {
    source: &'a str,
    connection: &'a str,
}

/// A connection's row as it is to be, and where the row that was read says that its event stands: partition, offset,
/// ordinal.
#[derive(Serialize)]
struct StagedStanding<'a> {
    source: &'a str,
    connection: &'a str,
    status: &'a str,
    since: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    previous: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    event_id: &'a str,
    event_type: &'a str,
    time: &'a str,
    effect_offset: i64,
    effect_ordinal: i32,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_partition: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_offset: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    read_ordinal: Option<i32>,
}

/// Makes the table where it is missing.
pub(super) async fn make(session: &mut Session, server: &Server) -> Result<(), SinkError> {
    let Some(table) = &server.statuses else { return Ok(()) };
    if !server.has_table(session, &table.name).await? {
        for statement in statements_of(&sql(CREATE, table)) {
            session.run(server, statement).await?;
        }
    }
    // Of no connection: whether the columns are there.
    let found = session.run(server, Statement::new(sql(READ, table)).bind("[]".to_owned())).await;
    found.map(|_| ()).map_err(|error| table.unlike("sink.snowflake", error))
}

/// Folds what a batch tells into the rows that are there, and adds to the block what is written.
pub(super) async fn plan(
    session: &mut Session,
    server: &Server,
    partition: i32,
    told: Vec<Tells<'_>>,
    planned: &mut Planned<'_>,
) -> Result<(), SinkError> {
    let Some(table) = server.statuses.as_ref().filter(|_| !told.is_empty()) else { return Ok(()) };
    let before = read(session, server, table, &statuses::connections(&told)).await?;
    let positions = positions(&before);
    let after = statuses::after(&table.name, &server.to_string(), told, before, partition)?;
    add(planned, table, partition, &after, &positions)
}

/// Where the events of rows stand, by source and connection: partition, offset, ordinal.
type Positions = BTreeMap<(String, String), (i32, i64, i32)>;

fn positions(rows: &[StoredStanding]) -> Positions {
    let of = |row: &StoredStanding| {
        ((row.source.clone(), row.connection.clone()), (row.partition, row.offset, row.ordinal))
    };
    rows.iter().map(of).collect()
}

fn add(
    planned: &mut Planned<'_>,
    table: &StatusTable,
    partition: i32,
    rows: &[StoredStanding],
    positions: &Positions,
) -> Result<(), SinkError> {
    if rows.is_empty() {
        return Ok(());
    }
    for row in rows {
        let read = positions.get(&(row.source.clone(), row.connection.clone())).copied();
        let content = StagedStanding {
            source: &row.source,
            connection: &row.connection,
            status: &row.status,
            since: &row.since,
            previous: row.previous.as_deref(),
            reason: row.reason.as_deref(),
            event_id: &row.event_id,
            event_type: &row.event_type,
            time: &row.time,
            effect_offset: row.offset,
            effect_ordinal: row.ordinal,
            read_partition: read.map(|(partition, _, _)| partition),
            read_offset: read.map(|(_, offset, _)| offset),
            read_ordinal: read.map(|(_, _, ordinal)| ordinal),
        };
        let pushed = planned.staged.push(&StagedRow { part: PART, content });
        pushed.map_err(|unfit| unfit.error(|problem| refused(table, problem)))?;
    }
    let write = sql(WRITE, table).replace("{part}", &PART.to_string());
    planned.steps.push(write.replace("{partition}", &partition.to_string()));
    planned.steps.push(raise_if(&format!("SQLROWCOUNT <> {}", rows.len()), OVERTAKEN));
    Ok(())
}

async fn read(
    session: &mut Session,
    server: &Server,
    table: &StatusTable,
    connections: &[(&str, &str)],
) -> Result<Vec<StoredStanding>, SinkError> {
    let mut asked = Arrays::default();
    for (source, connection) in connections {
        let pushed = asked.push(&Asked { source, connection });
        pushed.map_err(|unfit| unfit.error(|problem| refused(table, problem)))?;
    }
    let mut rows = Vec::new();
    for text in asked.texts() {
        for row in session.run(server, Statement::new(sql(READ, table)).bind(text)).await? {
            rows.push(stored(server, &row)?);
        }
    }
    Ok(rows)
}

fn stored(server: &Server, row: &DynamicRow) -> Result<StoredStanding, SinkError> {
    let perhaps = |n: usize| match row.values().get(n) {
        Some(CellValue::Null) => Ok(None),
        Some(value) => as_text(value).map(|text| Some(text.to_owned())).ok_or_else(|| server.other_tables()),
        None => Err(server.other_tables()),
    };
    let text = |n: usize| perhaps(n)?.ok_or_else(|| server.other_tables());
    Ok(StoredStanding {
        source: text(0)?,
        connection: text(1)?,
        status: text(2)?,
        since: text(3)?,
        previous: perhaps(4)?,
        reason: perhaps(5)?,
        event_id: text(6)?,
        event_type: text(7)?,
        time: text(8)?,
        partition: integer(server, Some(row), 9)?,
        offset: integer(server, Some(row), 10)?,
        ordinal: integer(server, Some(row), 11)?,
    })
}

fn refused(table: &StatusTable, problem: &str) -> SinkError {
    SinkError::Refused(format!(
        "what an event tells of its connection, for table `{}`, {problem}",
        table.name
    ))
}

fn sql(template: &str, table: &StatusTable) -> String {
    template.replace("{table}", &quoted(&table.name))
}

#[cfg(test)]
mod tests {
    use shared::config::ConnectionsTableConfig;
    use toml::Spanned;

    use super::super::statements::golden;
    use super::*;

    fn row(connection: &str, reason: Option<&str>, offset: i64) -> StoredStanding {
        StoredStanding {
            source: "s".to_owned(),
            connection: connection.to_owned(),
            status: "offline".to_owned(),
            since: "2026-03-01T12:00:00Z".to_owned(),
            previous: reason.map(|_| "active".to_owned()),
            reason: reason.map(str::to_owned),
            event_id: "e".to_owned(),
            event_type: "connection.offline".to_owned(),
            time: "2026-03-01T12:00:01Z".to_owned(),
            partition: 3,
            offset,
            ordinal: 0,
        }
    }

    #[test]
    fn the_statements_are_as_they_were_looked_at() {
        let name = Spanned::new(0..0, "HOOKLINE_CONNECTIONS".to_owned());
        let table = StatusTable::new(&ConnectionsTableConfig::from(name));
        let mut planned = Planned::default();
        let before = positions(&[StoredStanding { partition: 1, ..row("a", None, 4) }]);
        add(&mut planned, &table, 3, &[row("a", Some("it's so"), 7), row("b", None, 8)], &before).unwrap();
        golden("statuses_steps.sql", &planned.steps.join(";\n"));
        golden("statuses_rows.json", &planned.staged.texts().join("\n"));
        golden("statuses_read.sql", &sql(READ, &table));
        golden("statuses_create.sql", &statements_of(&sql(CREATE, &table)).collect::<Vec<_>>().join(";\n"));
    }

    #[test]
    fn a_batch_that_changes_no_status_adds_nothing_to_the_block() {
        let table = StatusTable::new(&ConnectionsTableConfig::from(Spanned::new(0..0, "C".to_owned())));
        let mut planned = Planned::default();
        add(&mut planned, &table, 3, &[], &Positions::new()).unwrap();
        assert!(planned.steps.is_empty() && planned.staged.texts().is_empty());
    }
}
