//! The user's own tables: what the file says of them, and a batch's changes by prepared statements.

use std::collections::BTreeMap;
use std::path::Path;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension as _, ToSql, Transaction, params_from_iter};
use shared::config::{ColumnType, LookupConfig, OnDelete};

use super::{failed, place};
use crate::sink::mapping::check::{self, FoundColumn, FoundTable};
use crate::sink::mapping::look_up::{self, Answer, Asked};
use crate::sink::mapping::table::Table;
use crate::sink::mapping::value::Value;
use crate::sink::mapping::{self, Changes, Mapped, Step};
use crate::sink::{SinkError, rows};

/// Statements that a connection keeps prepared: Hookline's own, and of each table.
const STATEMENTS: usize = 10;
const STATEMENTS_OF_TABLE: usize = 8;

/// Checks the tables.
pub(super) fn check(
    connection: &Connection,
    path: &Path,
    pipeline: &str,
    tables: &[Table],
) -> Result<(), SinkError> {
    if tables.is_empty() {
        return Ok(());
    }
    connection.set_prepared_statement_cache_capacity(STATEMENTS + STATEMENTS_OF_TABLE * tables.len());
    let mut found = BTreeMap::new();
    for name in check::names(tables) {
        let table = find(connection, name).map_err(|e| rows::not_by_data(failed(path, &e)))?;
        if let Some(table) = table {
            found.insert(name.to_owned(), table);
        }
    }
    check::check(&place(path), pipeline, tables, &found)
}

fn find(connection: &Connection, name: &str) -> rusqlite::Result<Option<FoundTable>> {
    let sql = "SELECT type FROM sqlite_schema WHERE name = ?1 AND type IN ('table', 'view')";
    let kind: Option<String> = connection.query_row(sql, [name], |row| row.get(0)).optional()?;
    let Some(kind) = kind else { return Ok(None) };
    let mut found = FoundTable::default();
    if kind == "view" {
        found.faults.push("is a view".to_owned());
    }
    let sql = "SELECT name, upper(type), \"notnull\" <> 0 AND dflt_value IS NULL AND NOT (pk > 0 AND \
               upper(type) = 'INTEGER'), hidden <> 0 FROM pragma_table_xinfo(?1)";
    let mut columns = connection.prepare(sql)?;
    let mut columns = columns.query([name])?;
    while let Some(row) = columns.next()? {
        let type_name: String = row.get(1)?;
        let column = FoundColumn {
            takes: takes(&type_name),
            type_name,
            confuses: None,
            needs_value: row.get(2)?,
            is_generated: row.get(3)?,
            scale: None,
        };
        found.columns.insert(row.get(0)?, column);
    }
    let sql = "SELECT name FROM pragma_index_list(?1) WHERE \"unique\" <> 0 AND partial = 0";
    let mut indexes = connection.prepare(sql)?;
    let indexes: Vec<String> = indexes.query_map([name], |row| row.get(0))?.collect::<Result<_, _>>()?;
    for index in indexes {
        let mut columns =
            connection.prepare("SELECT name, coll FROM pragma_index_xinfo(?1) WHERE key <> 0")?;
        let columns = columns.query_map([index], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let columns: Vec<(Option<String>, String)> = columns.collect::<Result<_, _>>()?;
        for (column, collation) in &columns {
            let column = column.as_ref().and_then(|column| found.columns.get_mut(column));
            if let Some(column) = column.filter(|_| collation != "BINARY") {
                column.confuses = Some("its collation takes different texts for equal; make it BINARY");
            }
        }
        // An expression has no name.
        if let Some(columns) = columns.into_iter().map(|(column, _)| column).collect() {
            found.unique.push(columns);
        }
    }
    Ok(Some(found))
}

/// What a declared type takes as it is given: SQLite would make a number of text that looks like one.
fn takes(declared: &str) -> &'static [ColumnType] {
    use ColumnType::{Boolean, Date, Decimal, Integer, Json, Text, Timestamp};
    let has = |part: &str| declared.contains(part);
    if has("INT") {
        &[Integer, Boolean]
    } else if has("CHAR") || has("CLOB") || has("TEXT") {
        &[Text, Decimal, Timestamp, Date, Json]
    } else if declared.is_empty() {
        &[Text, Integer, Decimal, Boolean, Timestamp, Date, Json]
    } else if has("BLOB") || has("REAL") || has("FLOA") || has("DOUB") {
        &[]
    } else {
        // NUMERIC: times and dates do not look like numbers.
        &[Integer, Boolean, Timestamp, Date]
    }
}

/// Applies what a batch changes, in an order by which foreign keys hold.
pub(super) fn apply(
    transaction: &Transaction<'_>,
    path: &Path,
    tables: &[Table],
    mut changes: Vec<Changes<'_>>,
) -> Result<(), SinkError> {
    for (step, n) in mapping::steps(tables) {
        let (Some(table), Some(changes)) = (tables.get(n), changes.get_mut(n)) else { continue };
        let run = Run { transaction, path, table };
        match step {
            Step::Delete => run.all(&delete(table), &table.identity, &changes.gone)?,
            Step::Write => {
                for asked in look_up::asked(table, changes) {
                    let answers = run.look_up(&asked)?;
                    look_up::fill(&place(path), table, changes, &asked, &answers)?;
                }
                let columns: Vec<usize> = (0..table.columns.len()).collect();
                run.all(&write(table), &columns, &changes.rows)?;
                if table.on_delete == OnDelete::Mark {
                    let columns: Vec<usize> = table.identity.iter().chain(&table.marked).copied().collect();
                    run.all(&mark(table), &columns, &changes.marks)?;
                }
            }
        }
    }
    Ok(())
}

/// One table's statements in a transaction.
struct Run<'a> {
    transaction: &'a Transaction<'a>,
    path: &'a Path,
    table: &'a Table,
}

impl Run<'_> {
    /// Runs a statement for some columns of each row.
    fn all(&self, sql: &str, columns: &[usize], rows: &[Mapped<'_>]) -> Result<(), SinkError> {
        if rows.is_empty() {
            return Ok(());
        }
        let failed = |e: rusqlite::Error| failed_in(self.path, &self.table.name, &e);
        let mut statement = self.transaction.prepare_cached(sql).map_err(failed)?;
        for row in rows {
            let values = columns.iter().map(|n| Bound(row.values.get(*n).unwrap_or(&Value::Null)));
            statement.execute(params_from_iter(values)).map_err(failed)?;
        }
        Ok(())
    }

    fn look_up(&self, asked: &Asked<'_>) -> Result<Vec<Answer>, SinkError> {
        let column = self.table.columns.get(asked.column);
        let Some(lookup) = column.and_then(|column| column.lookup.as_ref()) else { return Ok(Vec::new()) };
        let failed = |e: rusqlite::Error| failed_in(self.path, &lookup.table, &e);
        let sql = format!(
            "SELECT {} FROM {} WHERE {} = ?1 LIMIT 2",
            quoted(&lookup.take),
            quoted(&lookup.table),
            quoted(&lookup.matching)
        );
        let mut statement = self.transaction.prepare_cached(&sql).map_err(failed)?;
        let mut answers = Vec::with_capacity(asked.values.len());
        for value in &asked.values {
            let mut rows = statement.query([Bound(value)]).map_err(failed)?;
            let mut answer = Answer::None;
            while let Some(row) = rows.next().map_err(failed)? {
                let found = taken(self.path, lookup, row.get_ref(0).map_err(failed)?)?;
                answer = if answer == Answer::None { Answer::One(found) } else { Answer::Several };
            }
            answers.push(answer);
        }
        Ok(answers)
    }
}

fn taken(path: &Path, lookup: &LookupConfig, value: ValueRef<'_>) -> Result<Value<'static>, SinkError> {
    let text = match value {
        ValueRef::Null => return Ok(Value::Null),
        ValueRef::Integer(number) => return Ok(Value::Integer(number)),
        ValueRef::Real(number) => return Ok(Value::Real(number)),
        ValueRef::Text(text) => std::str::from_utf8(text).ok(),
        ValueRef::Blob(_) => None,
    };
    text.map(|text| Value::Text(text.to_owned().into())).ok_or_else(|| {
        SinkError::Halt(format!(
            "{}: column `{}` of table `{}`, which a look-up takes, has bytes that are no text: make them text",
            place(path),
            lookup.take,
            lookup.table
        ))
    })
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn column(table: &Table, n: usize) -> String {
    quoted(table.columns.get(n).map_or("", |column| &column.name))
}

fn names(table: &Table, columns: &[usize]) -> String {
    columns.iter().map(|n| column(table, *n)).collect::<Vec<_>>().join(", ")
}

fn write(table: &Table) -> String {
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let places = vec!["?"; all.len()].join(", ");
    let insert = format!("INSERT INTO {} ({}) VALUES ({places})", quoted(&table.name), names(table, &all));
    // The rows of an array were deleted before.
    if !table.is_upsert || table.has_elements() {
        return insert;
    }
    let others = all.iter().filter(|n| !table.key.contains(n)).map(|n| {
        let column = column(table, *n);
        format!("{column} = excluded.{column}")
    });
    let others = others.collect::<Vec<_>>().join(", ");
    let update = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {others}") };
    format!("{insert} ON CONFLICT ({}) DO {update}", names(table, &table.key))
}

/// The identity's values are the first parameters.
fn is_same_entity(table: &Table) -> String {
    let same =
        table.identity.iter().zip(1..).map(|(n, p)| format!("{} = ?{p} COLLATE BINARY", column(table, *n)));
    same.collect::<Vec<_>>().join(" AND ")
}

fn mark(table: &Table) -> String {
    let first = table.identity.len() + 1;
    let set = table.marked.iter().zip(first..).map(|(n, p)| format!("{} = ?{p}", column(table, *n)));
    let set = set.collect::<Vec<_>>().join(", ");
    format!("UPDATE {} SET {set} WHERE {}", quoted(&table.name), is_same_entity(table))
}

fn delete(table: &Table) -> String {
    format!("DELETE FROM {} WHERE {}", quoted(&table.name), is_same_entity(table))
}

/// A value as SQLite takes it: what it has no type for is text.
struct Bound<'v>(&'v Value<'v>);

impl ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self.0 {
            Value::Null => rusqlite::types::Null.into(),
            Value::Integer(number) => (*number).into(),
            Value::Boolean(is) => (*is).into(),
            Value::Real(number) => (*number).into(),
            Value::Text(text) | Value::Decimal(text) | Value::Json(text) => (&**text).into(),
            Value::Timestamp(_) | Value::Date(_) => self.0.text().into_owned().into(),
        })
    }
}

/// What a failure in a table of the user's means.
fn failed_in(path: &Path, table: &str, error: &rusqlite::Error) -> SinkError {
    let code = error.sqlite_error_code();
    if let rusqlite::Error::SqliteFailure(cause, message) = error {
        let message = message.as_deref().unwrap_or("no message");
        let text =
            format!("SQLite, {}: table `{table}`: {message} (code {})", path.display(), cause.extended_code);
        if matches!(code, Some(ErrorCode::ConstraintViolation | ErrorCode::TooBig | ErrorCode::TypeMismatch))
        {
            return SinkError::Refused(text);
        }
        if code == Some(ErrorCode::Unknown) {
            return SinkError::Halt(format!("{text}: the table is not as it was when it was checked"));
        }
    }
    failed(path, error)
}
