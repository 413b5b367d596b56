//! What a batch changes besides events and entities: rows as JSON, as [`stage`](super::stage) has them of events, and
//! the steps of its block. Here for the user's own tables.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use jiff::tz::TimeZone;
use serde::Serialize;
use shared::config::OnDelete;
use snowflake_connector_rs::{CellValue, DynamicRow, Statement};

use super::connect::{Server, Session};
use super::stage::Arrays;
use super::statements::quoted;
use super::tables::{Prepared, as_text, name};
use crate::sink::SinkError;
use crate::sink::mapping::check;
use crate::sink::mapping::look_up::{self, Answer, Asked};
use crate::sink::mapping::table::Table;
use crate::sink::mapping::value::Value;
use crate::sink::mapping::{self, Changes, Mapped, Step};
use crate::sink::rows::Row;

/// What a batch changes in the user's tables, and in that of connections' statuses.
#[derive(Default)]
pub(super) struct Planned<'t> {
    /// Rows for `hookline_mapped`.
    pub(super) staged: Arrays,
    pub(super) steps: Vec<String>,
    /// The user's tables that are changed.
    names: BTreeSet<&'t str>,
}

impl Planned<'_> {
    /// Of a block that was refused, it is not known by which table.
    pub(super) fn blame(&self, error: SinkError) -> SinkError {
        let SinkError::Refused(message) = error else { return error };
        if self.names.is_empty() {
            return SinkError::Refused(message);
        }
        let names = self.names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
        let tables = if self.names.len() == 1 { "table" } else { "one of the tables" };
        SinkError::Refused(format!("{message}, in {tables} {names} or in one of Hookline's"))
    }
}

/// Text as a value of a type. Times are in UTC.
fn typed(text: &str, type_name: &str) -> String {
    match type_name {
        "TEXT" => text.to_owned(),
        "VARIANT" => format!("PARSE_JSON({text})"),
        "TIMESTAMP_TZ" | "TIMESTAMP_LTZ" => format!("({text} || '+00:00')::{type_name}"),
        _ => format!("{text}::{type_name}"),
    }
}

/// The batch's changes: what is looked up is asked for here, before the block.
pub(super) async fn changes<'t>(
    session: &mut Session,
    server: &'t Server,
    rows: &[Row<'_>],
) -> Result<Planned<'t>, SinkError> {
    let mut all = mapping::changes(&server.tables, rows)?;
    for (n, (table, changes)) in server.tables.iter().zip(&mut all).enumerate() {
        for asked in look_up::asked(table, changes) {
            let answers = look_up(session, server, n, &asked).await?;
            look_up::fill(&server.to_string(), table, changes, &asked, &answers)?;
        }
    }
    plan(&server.tables, &session.prepared, &all)
}

/// The changes as rows that are handed over, and as steps.
fn plan<'t>(
    tables: &'t [Table],
    prepared: &[Prepared],
    all: &[Changes<'_>],
) -> Result<Planned<'t>, SinkError> {
    let mut planned = Planned::default();
    // Two parts for each step: rows, and marks.
    for (part, (step, n)) in (0..).step_by(2).zip(mapping::steps(tables)) {
        let (Some(table), Some(prepared), Some(changes)) = (tables.get(n), prepared.get(n), all.get(n))
        else {
            continue;
        };
        let sql = Sql { table, prepared };
        let parts = match step {
            Step::Delete => vec![(part, sql.delete(part), table.identity.clone(), &changes.gone)],
            Step::Write => {
                check::check_scales(table, &prepared.scales, &changes.rows)?;
                let all = (0..table.columns.len()).collect();
                let mut parts = vec![(part, sql.write(part), all, &changes.rows)];
                if table.on_delete == OnDelete::Mark {
                    parts.push((part + 1, sql.mark(part + 1), sql.of_marks(), &changes.marks));
                }
                parts
            }
        };
        for (part, statement, columns, rows) in parts.into_iter().filter(|(.., rows)| !rows.is_empty()) {
            for row in rows {
                stage(&mut planned.staged, table, part, &columns, row)?;
            }
            planned.steps.push(statement);
            planned.names.insert(&table.name);
        }
    }
    Ok(planned)
}

/// A row of `hookline_mapped`.
#[derive(Serialize)]
pub(super) struct StagedRow<C> {
    /// Which step of the block it is for.
    pub(super) part: u32,
    /// Values by name; none where one is null.
    pub(super) content: C,
}

fn stage(
    staged: &mut Arrays,
    table: &Table,
    part: u32,
    columns: &[usize],
    row: &Mapped<'_>,
) -> Result<(), SinkError> {
    let mut content: BTreeMap<String, Cow<'_, str>> = BTreeMap::new();
    for n in columns {
        let value = row.values.get(*n).unwrap_or(&Value::Null);
        if *value != Value::Null {
            let value = sent(value).ok_or_else(|| {
                let problem = "it has a time before the year 1, which Snowflake's calendar lacks";
                table.refuse(row.event_offset, problem)
            })?;
            content.insert(key(part, *n), value);
        }
    }
    let pushed = staged.push(&StagedRow { part, content });
    pushed
        .map_err(|unfit| unfit.error(|problem| table.refuse(row.event_offset, &format!("its row {problem}"))))
}

/// A value's name: one of its part's own, so that a cast never meets another part's value, whenever Snowflake filters.
fn key(part: u32, column: usize) -> String {
    format!("p{part}c{column}")
}

/// A value as text; none where Snowflake's calendar does not have it.
fn sent<'v>(value: &'v Value<'_>) -> Option<Cow<'v, str>> {
    match value {
        Value::Timestamp(time) => {
            let time = time.to_zoned(TimeZone::UTC).datetime();
            (time.year() >= 1).then(|| time.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string().into())
        }
        Value::Date(date) if date.year() < 1 => None,
        // 38 digits at most are read, even if they are zeros.
        Value::Decimal(number) if number.contains('.') => {
            Some(number.trim_end_matches('0').trim_end_matches('.').into())
        }
        Value::Null
        | Value::Text(_)
        | Value::Integer(_)
        | Value::Decimal(_)
        | Value::Boolean(_)
        | Value::Date(_)
        | Value::Json(_)
        | Value::Real(_) => Some(value.text()),
    }
}

/// A value that is looked up.
#[derive(Serialize)]
struct Sought<'a> {
    n: usize,
    sought: Cow<'a, str>,
}

/// Asks for the values of a column of the `n`th table.
async fn look_up(
    session: &mut Session,
    server: &Server,
    n: usize,
    asked: &Asked<'_>,
) -> Result<Vec<Answer>, SinkError> {
    let mut answers = vec![Answer::None; asked.values.len()];
    let table = server.tables.get(n);
    let column = table.and_then(|table| table.columns.get(asked.column));
    let matching = session.prepared.get(n).and_then(|prepared| prepared.matching.get(&asked.column));
    let (Some(lookup), Some(matching)) = (column.and_then(|column| column.lookup.as_ref()), matching) else {
        return Ok(answers);
    };
    let sql =
        find_rows(&quoted(&lookup.take), &name(server, &lookup.table), &quoted(&lookup.matching), matching);
    let mut sought = Arrays::default();
    for (n, value) in asked.values.iter().enumerate() {
        // What no calendar has is found nowhere.
        let Some(value) = sent(value) else { continue };
        let pushed = sought.push(&Sought { n, sought: value });
        let refused = |problem: &str| {
            SinkError::Refused(format!("{server}: what is looked up in table `{}` {problem}", lookup.table))
        };
        pushed.map_err(|unfit| unfit.error(refused))?;
    }
    for text in sought.texts() {
        for row in session.run(server, Statement::new(sql.clone()).bind(text)).await? {
            let (place, answer) = answer(&row).ok_or_else(|| server.other_tables())?;
            if let Some(slot) = answers.get_mut(place) {
                *slot = answer;
            }
        }
    }
    Ok(answers)
}

/// Which of the values of a JSON array are there, how often, and what stands with them.
fn find_rows(take: &str, table: &str, matching: &str, type_name: &str) -> String {
    format!(
        "SELECT asked.n, COUNT(*), MIN(there.{take}::VARCHAR) \
         FROM (SELECT value:n::NUMBER(10, 0) AS n, {} AS sought FROM TABLE(FLATTEN(INPUT => PARSE_JSON(?)))) \
         AS asked JOIN {table} AS there ON there.{matching} = asked.sought GROUP BY asked.n",
        typed("value:sought::VARCHAR", type_name)
    )
}

fn answer(row: &DynamicRow) -> Option<(usize, Answer)> {
    let [CellValue::Integer(place), CellValue::Integer(count), taken] = row.values() else { return None };
    let taken =
        if *taken == CellValue::Null { Value::Null } else { Value::Text(as_text(taken)?.to_owned().into()) };
    Some((usize::try_from(*place).ok()?, if *count == 1 { Answer::One(taken) } else { Answer::Several }))
}

/// The statements of one table.
struct Sql<'a> {
    table: &'a Table,
    prepared: &'a Prepared,
}

impl Sql<'_> {
    fn column(&self, n: usize) -> String {
        quoted(self.table.columns.get(n).map_or("", |column| &column.name))
    }

    /// Some columns of the rows of a part, each as `c` and its number.
    fn given(&self, part: u32, columns: &[usize]) -> String {
        let type_of = |n: usize| self.prepared.types.get(n).map_or("TEXT", String::as_str);
        let columns = columns.iter().map(|n| {
            format!("{} AS c{n}", typed(&format!("content['{}']::VARCHAR", key(part, *n)), type_of(*n)))
        });
        let columns = columns.collect::<Vec<_>>().join(", ");
        format!("(SELECT {columns}\n    FROM hookline_mapped WHERE part = {part}) AS given")
    }

    fn are_same(&self, target: &str, columns: &[usize]) -> String {
        let same = columns.iter().map(|n| format!("{target}.{} = given.c{n}", self.column(*n)));
        same.collect::<Vec<_>>().join(" AND ")
    }

    fn set(&self, columns: impl Iterator<Item = usize>) -> String {
        columns.map(|n| format!("{} = given.c{n}", self.column(n))).collect::<Vec<_>>().join(", ")
    }

    fn write(&self, part: u32) -> String {
        let all: Vec<usize> = (0..self.table.columns.len()).collect();
        let names = all.iter().map(|n| self.column(*n)).collect::<Vec<_>>().join(", ");
        let values = all.iter().map(|n| format!("given.c{n}")).collect::<Vec<_>>().join(", ");
        let (table, given) = (&self.prepared.name, self.given(part, &all));
        // The rows of an array were deleted before.
        if !self.table.is_upsert || self.table.has_elements() {
            return format!("INSERT INTO {table} ({names})\n  SELECT {values}\n  FROM {given}");
        }
        let others = self.set(all.iter().copied().filter(|n| !self.table.key.contains(n)));
        let update = if others.is_empty() {
            String::new()
        } else {
            format!("\n  WHEN MATCHED THEN UPDATE SET {others}")
        };
        format!(
            "MERGE INTO {table} AS kept\n  USING {given}\n  ON {}{update}\n  \
             WHEN NOT MATCHED THEN INSERT ({names})\n    VALUES ({values})",
            self.are_same("kept", &self.table.key)
        )
    }

    /// The columns of which a mark has values.
    fn of_marks(&self) -> Vec<usize> {
        self.table.identity.iter().chain(&self.table.marked).copied().collect()
    }

    fn mark(&self, part: u32) -> String {
        let table = &self.prepared.name;
        format!(
            "UPDATE {table} SET {}\n  FROM {}\n  WHERE {}",
            self.set(self.table.marked.iter().copied()),
            self.given(part, &self.of_marks()),
            self.are_same(table, &self.table.identity)
        )
    }

    fn delete(&self, part: u32) -> String {
        let table = &self.prepared.name;
        format!(
            "DELETE FROM {table}\n  USING {}\n  WHERE {}",
            self.given(part, &self.table.identity),
            self.are_same(table, &self.table.identity)
        )
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use shared::config::TablesConfig;
    use shared::event::EventView;

    use super::super::statements::golden;
    use super::*;
    use crate::position::Position;
    use crate::sink::mapping::table;

    const TABLES: &str = r#"
[ORDERS]
deleted = ["gone"]
key = ["ID"]
[ORDERS.columns]
ID = { from = "entity" }
TOTAL = { at = "/total", type = "decimal" }
AT = { at = "/at", type = "timestamp" }

[LINES]
deleted = ["gone"]
each = "/lines"
key = ["ID", "NO"]
[LINES.columns]
ID = { from = "entity" }
NO = { at = "/no", type = "integer" }

[MARKED]
deleted = ["gone"]
on_delete = "mark"
key = ["ID"]
[MARKED.columns]
ID = { from = "entity" }
BODY = { at = "", type = "json" }
GONE = { from = "deleted" }

[HISTORY]
write = "append"
columns.EVENT = { from = "id" }
"#;

    fn row(offset: i64, kind: &'static str, entity: &'static str, body: &'static str) -> Row<'static> {
        let event = EventView { id: "e", source: "s", kind, entity: Some(entity), ..EventView::default() };
        let position = Position { offset, ordinal: 0 };
        Row { position, ordinal: 0, event_offset: offset, appended_at_ms: 0, event, body: body.as_bytes() }
    }

    fn tables() -> Vec<Table> {
        table::all(&toml::from_str::<TablesConfig>(TABLES).unwrap())
    }

    fn prepared(table: &Table) -> Prepared {
        let type_of = |name: &str| match name {
            "TOTAL" => "NUMBER(12, 2)",
            "NO" => "NUMBER(38, 0)",
            "AT" => "TIMESTAMP_TZ",
            "BODY" => "VARIANT",
            "GONE" => "BOOLEAN",
            _ => "TEXT",
        };
        Prepared {
            name: format!("\"PUBLIC\".\"{}\"", table.name),
            types: table.columns.iter().map(|column| type_of(&column.name).to_owned()).collect(),
            scales: table.columns.iter().map(|column| (column.name == "TOTAL").then_some(2)).collect(),
            matching: BTreeMap::new(),
        }
    }

    fn planned<'t>(tables: &'t [Table], rows: &[Row<'_>]) -> Result<Planned<'t>, SinkError> {
        let prepared: Vec<_> = tables.iter().map(prepared).collect();
        plan(tables, &prepared, &mapping::changes(tables, rows).unwrap())
    }

    #[test]
    fn the_steps_are_as_they_were_looked_at() {
        let written = r#"{"total":"1.50","at":"2026-03-01T00:30:00+02:00","lines":[{"no":1}]}"#;
        let rows = [row(1, "x", "o1", written), row(2, "gone", "o2", "{}")];
        let tables = tables();
        let planned = planned(&tables, &rows).unwrap();
        golden("mapped_steps.sql", &planned.steps.join(";\n"));
        golden("mapped_rows.json", &planned.staged.texts().join("\n"));
        let look_up = find_rows("\"TAKEN\"", "\"PUBLIC\".\"OTHERS\"", "\"CODE\"", "NUMBER(9, 0)");
        golden("look_up.sql", &look_up);
    }

    #[test]
    fn a_time_before_the_calendar_is_refused_and_so_is_a_finer_decimal() {
        let tables = tables();
        for (body, problem) in [
            (r#"{"at":"0000-12-31T23:00:00Z","lines":[]}"#, "a time before the year 1"),
            (r#"{"total":1.125,"lines":[]}"#, "more digits after the point than 2"),
        ] {
            let Err(SinkError::Refused(message)) = planned(&tables, &[row(7, "x", "o1", body)]) else {
                panic!("not refused: {body}");
            };
            assert!(message.contains("offset 7") && message.contains("table `ORDERS`"), "{message}");
            assert!(message.contains(problem), "{message}");
        }
    }
}
