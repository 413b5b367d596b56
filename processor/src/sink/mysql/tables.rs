//! The user's own tables: what the catalog says of them, and a batch's changes as statements of many rows.
//!
//! The numbers of rows are powers of two, so that a few prepared statements serve every batch.

use std::collections::{BTreeMap, BTreeSet};

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Row, Value as Param};
use shared::config::{ColumnType, OnDelete};

use super::connect::Server;
use super::insert::{portions, power_of_two};
use crate::sink::mapping::check::{self, FoundColumn, FoundTable};
use crate::sink::mapping::look_up::{self, Answer, Asked};
use crate::sink::mapping::table::Table;
use crate::sink::mapping::value::Value;
use crate::sink::mapping::{self, Changes, Mapped, Step};
use crate::sink::{SinkError, rows};

/// Rows, and bytes of them, in one statement. Parameters are at most 65,535, and columns 200.
const ROWS_MAX: usize = 256;
const BYTES_MAX: usize = 8 * 1024 * 1024;
/// Entities, or values that are looked up, in one statement.
const CONDITIONS_MAX: usize = 64;

const TABLE: &str = "SELECT table_type, engine FROM information_schema.tables \
    WHERE table_schema = DATABASE() AND table_name = ?";
const COLUMNS: &str = "SELECT column_name, data_type, numeric_scale, \
    is_nullable = 'NO' AND column_default IS NULL AND extra NOT LIKE '%auto_increment%' \
    AND extra NOT LIKE '%GENERATED%', extra LIKE '%GENERATED%', coalesce(collation_name, ''), extra LIKE '%auto_increment%' \
    FROM information_schema.columns WHERE table_schema = DATABASE() AND table_name = ?";
/// Each unique index's columns; of a part of a column, or of an expression, none.
const UNIQUE: &str = "SELECT index_name, column_name, sub_part IS NULL FROM information_schema.statistics \
    WHERE table_schema = DATABASE() AND table_name = ? AND non_unique = 0 ORDER BY index_name, seq_in_index";

/// Checks the tables; returns each one's columns' scales.
pub(super) async fn check(conn: &mut Conn, server: &Server) -> Result<Vec<Vec<Option<usize>>>, SinkError> {
    let mut found = BTreeMap::new();
    for name in check::names(&server.tables) {
        if let Some(table) = find(conn, server, name).await? {
            found.insert(name.to_owned(), table);
        }
    }
    for table in &server.tables {
        // An upsert would change the row that has the same value there: another entity's.
        let is_upsert = table.is_upsert && !table.has_elements();
        let Some(there) = found.get_mut(&table.name).filter(|_| is_upsert) else { continue };
        if there.unique.iter().all(|columns| *columns == table.key_names()) {
            continue;
        }
        let fault = "has another unique index than its key, by which an upsert could change another entity's row: \
                     make that index not unique";
        there.faults.push(fault.to_owned());
    }
    check::check(&server.to_string(), server.pipeline(), &server.tables, &found)?;
    let scales = server.tables.iter().map(|table| Some(check::scales(table, found.get(&table.name)?)));
    Ok(scales.map(Option::unwrap_or_default).collect())
}

async fn find(conn: &mut Conn, server: &Server, name: &str) -> Result<Option<FoundTable>, SinkError> {
    let failed = |e: mysql_async::Error| rows::not_by_data(server.failed(&e));
    let Some(row) = conn.exec_first::<Row, _, _>(TABLE, (name,)).await.map_err(failed)? else {
        return Ok(None);
    };
    let mut found = FoundTable::default();
    let (kind, engine): (String, Option<String>) =
        (server.value(Some(&row), 0)?, server.value(Some(&row), 1)?);
    if kind != "BASE TABLE" {
        found.faults.push("is a view".to_owned());
    } else if engine.as_deref() != Some("InnoDB") {
        found.faults.push("has an engine without transactions: make it ENGINE = InnoDB".to_owned());
    }
    let mut counted = BTreeSet::new();
    for row in conn.exec::<Row, _, _>(COLUMNS, (name,)).await.map_err(failed)? {
        let row = Some(&row);
        let type_name: String = server.value(row, 1)?;
        let collation: String = server.value(row, 5)?;
        let column = FoundColumn {
            takes: takes(&type_name),
            confuses: confuses(&type_name, &collation),
            scale: (type_name == "decimal").then(|| server.value(row, 2)).transpose()?,
            type_name,
            needs_value: server.value(row, 3)?,
            is_generated: server.value(row, 4)?,
        };
        let name: String = server.value(row, 0)?;
        if server.value(row, 6)? {
            counted.insert(name.clone());
        }
        found.columns.insert(name, column);
    }
    let mut indexes: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
    for row in conn.exec::<Row, _, _>(UNIQUE, (name,)).await.map_err(failed)? {
        let row = Some(&row);
        let column: Option<String> = server.value(row, 1)?;
        let is_whole: bool = server.value(row, 2)?;
        let columns = indexes.entry(server.value(row, 0)?).or_insert_with(|| Some(BTreeSet::new()));
        match (column.filter(|_| is_whole), columns.as_mut()) {
            (Some(column), Some(columns)) => drop(columns.insert(column)),
            _ => *columns = None,
        }
    }
    found.unique = indexes.into_values().map(Option::unwrap_or_default).collect();
    // What the database counts is never there already.
    found.unique.retain(|columns| columns.is_disjoint(&counted));
    Ok(Some(found))
}

fn takes(data_type: &str) -> &'static [ColumnType] {
    match data_type {
        "varchar" | "text" | "mediumtext" | "longtext" => &[ColumnType::Text, ColumnType::Json],
        "char" | "tinytext" | "varbinary" => &[ColumnType::Text],
        "tinyint" => &[ColumnType::Integer, ColumnType::Boolean],
        "smallint" | "mediumint" | "int" | "bigint" => &[ColumnType::Integer],
        "decimal" => &[ColumnType::Integer, ColumnType::Decimal],
        "datetime" | "timestamp" => &[ColumnType::Timestamp],
        "date" => &[ColumnType::Date],
        "json" => &[ColumnType::Json],
        _ => &[],
    }
}

fn confuses(data_type: &str, collation: &str) -> Option<&'static str> {
    match data_type {
        "varbinary" => None,
        "varchar" if collation.ends_with("_bin") => None,
        "varchar" => Some("its collation takes different texts for equal; make it one that ends in _bin"),
        _ => {
            Some("its type does not tell all texts apart; make it VARCHAR with a collation that ends in _bin")
        }
    }
}

/// Applies what a batch changes, in an order by which foreign keys hold.
pub(super) async fn apply(
    conn: &mut Conn,
    server: &Server,
    scales: &[Vec<Option<usize>>],
    packet_bytes_max: usize,
    mut changes: Vec<Changes<'_>>,
) -> Result<(), SinkError> {
    for (step, n) in mapping::steps(&server.tables) {
        let (Some(table), Some(scales), Some(changes)) =
            (server.tables.get(n), scales.get(n), changes.get_mut(n))
        else {
            continue;
        };
        let mut run = Run { conn, server, table, bytes_max: BYTES_MAX.min(packet_bytes_max) };
        match step {
            Step::Delete => run.delete(&changes.gone).await?,
            Step::Write => {
                run.check(changes)?;
                for asked in look_up::asked(table, changes) {
                    let answers = run.look_up(&asked).await?;
                    look_up::fill(&server.to_string(), table, changes, &asked, &answers)?;
                }
                check::check_scales(table, scales, &changes.rows)?;
                run.write(&changes.rows).await?;
                if table.on_delete == OnDelete::Mark {
                    run.mark(&changes.marks).await?;
                }
            }
        }
    }
    Ok(())
}

/// One table's statements in a transaction.
struct Run<'a> {
    conn: &'a mut Conn,
    server: &'a Server,
    table: &'a Table,
    bytes_max: usize,
}

impl Run<'_> {
    /// What the server would not tell apart, or not take.
    fn check(&self, changes: &Changes<'_>) -> Result<(), SinkError> {
        for row in changes.rows.iter().chain(&changes.gone).chain(&changes.marks) {
            let identity = self.table.identity.iter().filter_map(|n| row.values.get(*n));
            for value in identity {
                if value.text().ends_with(' ') {
                    let problem =
                        "its connection or entity ends with a space, which a key does not tell apart";
                    return Err(self.table.refuse(row.event_offset, problem));
                }
            }
            if row.bytes() > self.bytes_max {
                let problem = format!("its row has {} bytes, more than {}", row.bytes(), self.bytes_max);
                return Err(self.table.refuse(row.event_offset, &problem));
            }
        }
        Ok(())
    }

    async fn run(&mut self, sql: String, values: Vec<Param>) -> Result<(), SinkError> {
        let done = self.conn.exec_drop(sql, values).await;
        done.map_err(|e| self.server.failed_in(&self.table.name, &e))
    }

    async fn write(&mut self, mut rows: &[Mapped<'_>]) -> Result<(), SinkError> {
        let columns =
            self.table.columns.iter().map(|column| quoted(&column.name)).collect::<Vec<_>>().join(", ");
        let row = format!("({})", vec!["?"; self.table.columns.len()].join(", "));
        let update = self.update();
        while !rows.is_empty() {
            let (now, later) = rows.split_at(power_of_two(mapping::chunk(rows, ROWS_MAX, self.bytes_max)));
            let places = vec![row.as_str(); now.len()].join(", ");
            let sql = format!("INSERT INTO {} ({columns}) VALUES {places}{update}", quoted(&self.table.name));
            let mut values = Vec::with_capacity(now.len() * self.table.columns.len());
            for row in now {
                for value in &row.values {
                    values.push(self.param(value, row)?);
                }
            }
            self.run(sql, values).await?;
            rows = later;
        }
        Ok(())
    }

    /// What an upsert does with a row that is there. The rows of an array were deleted before.
    fn update(&self) -> String {
        if !self.table.is_upsert || self.table.has_elements() {
            return String::new();
        }
        let columns = || self.table.columns.iter().enumerate();
        let others = columns().filter(|(n, _)| !self.table.key.contains(n));
        let mut set: Vec<String> = others
            .map(|(_, column)| quoted(&column.name))
            .map(|column| format!("{column} = VALUES({column})"))
            .collect();
        if set.is_empty() {
            set.extend(self.table.key.first().map(|n| format!("{0} = {0}", self.column(*n))));
        }
        format!(" ON DUPLICATE KEY UPDATE {}", set.join(", "))
    }

    async fn mark(&mut self, rows: &[Mapped<'_>]) -> Result<(), SinkError> {
        let set = self.table.marked.iter().map(|n| format!("{} = ?", self.column(*n)));
        let set = set.collect::<Vec<_>>().join(", ");
        let sql = format!("UPDATE {} SET {set} WHERE {}", quoted(&self.table.name), self.is_same_entity());
        for row in rows {
            let columns = self.table.marked.iter().chain(&self.table.identity);
            let values = columns.map(|n| self.param(row.values.get(*n).unwrap_or(&Value::Null), row));
            let values = values.collect::<Result<_, _>>()?;
            self.run(sql.clone(), values).await?;
        }
        Ok(())
    }

    async fn delete(&mut self, mut rows: &[Mapped<'_>]) -> Result<(), SinkError> {
        let one = format!("({})", self.is_same_entity());
        while !rows.is_empty() {
            let (now, later) =
                rows.split_at(power_of_two(mapping::chunk(rows, CONDITIONS_MAX, self.bytes_max)));
            let those = vec![one.as_str(); now.len()].join(" OR ");
            let mut values = Vec::with_capacity(now.len() * self.table.identity.len());
            for row in now {
                for n in &self.table.identity {
                    values.push(self.param(row.values.get(*n).unwrap_or(&Value::Null), row)?);
                }
            }
            self.run(format!("DELETE FROM {} WHERE {those}", quoted(&self.table.name)), values).await?;
            rows = later;
        }
        Ok(())
    }

    /// Each value in a query of its own: compared with a parameter, a column keeps its collation and its index.
    async fn look_up(&mut self, asked: &Asked<'_>) -> Result<Vec<Answer>, SinkError> {
        let mut answers = vec![Answer::None; asked.values.len()];
        let column = self.table.columns.get(asked.column);
        let Some(lookup) = column.and_then(|column| column.lookup.as_ref()) else { return Ok(answers) };
        let one = format!(
            "SELECT ?, count(*), min(CAST({} AS CHAR)) FROM {} WHERE {} = ?",
            quoted(&lookup.take),
            quoted(&lookup.table),
            quoted(&lookup.matching)
        );
        let all: Vec<(usize, &Value<'_>)> = asked.values.iter().enumerate().collect();
        for now in portions(&all, CONDITIONS_MAX) {
            let sql = vec![one.as_str(); now.len()].join(" UNION ALL ");
            let mut values = Vec::with_capacity(2 * now.len());
            for (n, value) in now {
                values.extend([(*n).into(), param(value).unwrap_or(Param::NULL)]);
            }
            let found = self.conn.exec::<Row, _, _>(sql, values).await;
            for row in found.map_err(|e| self.server.failed_in(&lookup.table, &e))? {
                let place: usize = self.server.value(Some(&row), 0)?;
                let count: i64 = self.server.value(Some(&row), 1)?;
                let taken: Option<String> = self.server.value(Some(&row), 2)?;
                let Some(answer) = answers.get_mut(place) else { continue };
                *answer = match count {
                    0 => Answer::None,
                    1 => Answer::One(taken.map_or(Value::Null, |taken| Value::Text(taken.into()))),
                    _ => Answer::Several,
                };
            }
        }
        Ok(answers)
    }

    fn column(&self, n: usize) -> String {
        quoted(self.table.columns.get(n).map_or("", |column| &column.name))
    }

    fn is_same_entity(&self) -> String {
        let same = self.table.identity.iter().map(|n| format!("{} = ?", self.column(*n)));
        same.collect::<Vec<_>>().join(" AND ")
    }

    fn param(&self, value: &Value<'_>, row: &Mapped<'_>) -> Result<Param, SinkError> {
        param(value).ok_or_else(|| {
            self.table
                .refuse(row.event_offset, "it has a time before the year 0, which MySQL's calendar lacks")
        })
    }
}

/// A value as it is sent; none where MySQL's calendar does not have it.
fn param(value: &Value<'_>) -> Option<Param> {
    Some(match value {
        Value::Null => Param::NULL,
        Value::Text(text) | Value::Decimal(text) | Value::Json(text) => (&**text).into(),
        Value::Integer(number) => (*number).into(),
        Value::Boolean(is) => i8::from(*is).into(),
        Value::Real(number) => (*number).into(),
        Value::Timestamp(time) => super::insert::datetime(*time)?,
        Value::Date(date) => {
            let part = |part: i8| u8::try_from(part).ok();
            let year = u16::try_from(date.year()).ok()?;
            Param::Date(year, part(date.month())?, part(date.day())?, 0, 0, 0, 0)
        }
    })
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}
