//! The user's own tables: what the catalog says of them, and a batch's changes as statements over arrays.

use std::borrow::Cow;
use std::collections::BTreeMap;

use shared::config::{ColumnType, OnDelete};
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row, Statement, Transaction};

use super::classify::{failed, failed_in};
use super::connect::{Server, quoted};
use crate::sink::mapping::check::{self, FoundColumn, FoundTable};
use crate::sink::mapping::look_up::{self, Answer, Asked};
use crate::sink::mapping::table::Table;
use crate::sink::mapping::value::Value;
use crate::sink::mapping::{self, Changes, Mapped, Step};
use crate::sink::{SinkError, rows};

/// Rows, and bytes of them, in one statement.
const ROWS_MAX: usize = 2_000;
const BYTES_MAX: usize = 8 * 1024 * 1024;

const TABLE: &str = "SELECT r.oid, r.relkind::text, has_any_column_privilege(r.oid, 'SELECT'), \
    has_any_column_privilege(r.oid, 'INSERT'), has_any_column_privilege(r.oid, 'UPDATE'), \
    has_table_privilege(r.oid, 'DELETE') \
    FROM pg_class r JOIN pg_namespace n ON n.oid = r.relnamespace WHERE n.nspname = $1 AND r.relname = $2";
const COLUMNS: &str = "SELECT a.attname::text, format_type(a.atttypid, NULL), t.typname::text, a.atttypmod, \
    a.attnotnull AND NOT a.atthasdef AND a.attidentity = '', a.attgenerated <> '' OR a.attidentity = 'a', \
    coalesce(c.collisdeterministic, true) \
    FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid LEFT JOIN pg_collation c ON c.oid = a.attcollation \
    WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped";
/// Whole, at once checked, and of columns alone: what ON CONFLICT can name.
const UNIQUE: &str = "SELECT array(SELECT a.attname::text FROM unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) \
    AS k (n) JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.n) FROM pg_index i \
    WHERE i.indrelid = $1 AND i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL \
    AND i.indexprs IS NULL";

/// A table's prepared statements.
pub(super) struct Prepared {
    write: Statement,
    mark: Option<Statement>,
    delete: Option<Statement>,
    /// By column.
    look_ups: BTreeMap<usize, Statement>,
    scales: Vec<Option<usize>>,
}

/// Checks the tables and prepares their statements.
pub(super) async fn prepare(client: &Client, server: &Server) -> Result<Vec<Prepared>, SinkError> {
    if server.tables.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = BTreeMap::new();
    for name in check::names(&server.tables) {
        if let Some(table) = find(client, server, name).await? {
            found.insert(name.to_owned(), table);
        }
    }
    let mut seen = BTreeMap::new();
    for table in &server.tables {
        if let Some(other) = seen.insert(server.parts(&table.name), &table.name) {
            let text = format!("{server}: the tables `{other}` and `{}` are one: map it once", table.name);
            return Err(SinkError::Halt(text));
        }
    }
    check::check(&server.to_string(), server.pipeline(), &server.tables, &found)?;
    let mut prepared = Vec::new();
    for table in &server.tables {
        let Some(there) = found.get(&table.name) else { continue };
        let sql = Sql { server, table, there };
        let prepare =
            async |sql: String| client.prepare(&sql).await.map_err(|e| failed_in(server, &table.name, &e));
        let mut look_ups = BTreeMap::new();
        for (n, column) in table.columns.iter().enumerate() {
            let Some(lookup) = &column.lookup else { continue };
            let matching = found.get(&lookup.table).and_then(|other| other.columns.get(&lookup.matching));
            let cast = matching.and_then(|matching| cast(column.kind, &matching.type_name));
            let cast = cast.map_or(String::new(), |cast| format!("::{cast}"));
            let from = format!("{}[]", parameter(column.kind));
            let sql = format!(
                "SELECT v.n, found.taken FROM unnest($1::{from}) WITH ORDINALITY AS v (value, n), LATERAL \
                 (SELECT {}::text AS taken FROM {} WHERE {} = v.value{cast} LIMIT 2) AS found",
                quoted(&lookup.take),
                name(server, &lookup.table),
                quoted(&lookup.matching),
            );
            look_ups.insert(n, prepare(sql).await?);
        }
        prepared.push(Prepared {
            write: prepare(sql.write()).await?,
            mark: if table.on_delete == OnDelete::Delete { None } else { Some(prepare(sql.mark()).await?) },
            delete: if table.deletes() { Some(prepare(sql.delete()).await?) } else { None },
            look_ups,
            scales: check::scales(table, there),
        });
    }
    Ok(prepared)
}

async fn find(client: &Client, server: &Server, name: &str) -> Result<Option<FoundTable>, SinkError> {
    let failed = |e: tokio_postgres::Error| rows::not_by_data(failed(server, &e));
    let (schema, table) = server.parts(name);
    let Some(row) = client.query_opt(TABLE, &[&schema, &table]).await.map_err(failed)? else {
        return Ok(None);
    };
    let mut found = FoundTable::default();
    let (oid, kind): (u32, String) = (row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?);
    if kind != "r" && kind != "p" {
        found.faults.push("is a view or another thing that is not a table".to_owned());
    }
    for (n, right) in [(2, "SELECT"), (3, "INSERT"), (4, "UPDATE"), (5, "DELETE")] {
        if !row.try_get::<_, bool>(n).map_err(failed)? {
            found.faults.push(format!("lacks a right for this role: grant {right}"));
        }
    }
    for row in client.query(COLUMNS, &[&oid]).await.map_err(failed)? {
        let name = row.try_get(0).map_err(failed)?;
        found.columns.insert(name, column(&row).map_err(failed)?);
    }
    for row in client.query(UNIQUE, &[&oid]).await.map_err(failed)? {
        let columns: Vec<String> = row.try_get(0).map_err(failed)?;
        found.unique.push(columns.into_iter().collect());
    }
    Ok(Some(found))
}

fn column(row: &Row) -> Result<FoundColumn, tokio_postgres::Error> {
    let (type_name, name): (String, String) = (row.try_get(1)?, row.try_get(2)?);
    let takes: &[ColumnType] = match name.as_str() {
        "text" | "varchar" => &[ColumnType::Text, ColumnType::Json],
        "bpchar" => &[ColumnType::Text],
        "int2" | "int4" | "int8" => &[ColumnType::Integer],
        "numeric" => &[ColumnType::Integer, ColumnType::Decimal],
        "bool" => &[ColumnType::Boolean],
        "timestamptz" | "timestamp" => &[ColumnType::Timestamp],
        "date" => &[ColumnType::Date],
        "json" | "jsonb" => &[ColumnType::Json],
        _ => &[],
    };
    let modifier: i32 = row.try_get(3)?;
    // The scale is in the lower 11 bits, signed, of what stands above a header of 4.
    let scale = (name == "numeric" && modifier >= 4)
        .then(|| usize::try_from(((modifier - 4) & 0x7ff ^ 0x400) - 0x400).unwrap_or(0));
    let is_deterministic: bool = row.try_get(6)?;
    let confuses = match name.as_str() {
        "bpchar" => Some("its type does not tell trailing spaces apart; make it text"),
        _ if !is_deterministic => {
            Some("its collation takes different texts for equal; make it deterministic")
        }
        _ => None,
    };
    Ok(FoundColumn {
        type_name,
        takes,
        confuses,
        needs_value: row.try_get(4)?,
        is_generated: row.try_get(5)?,
        scale,
    })
}

/// The type of a value as it is sent.
fn parameter(kind: ColumnType) -> &'static str {
    match kind {
        ColumnType::Integer => "bigint",
        ColumnType::Boolean => "boolean",
        ColumnType::Text
        | ColumnType::Decimal
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Json => "text",
    }
}

/// What a value is cast to for a column of a type; none where the assignment does it. A cast to a type with a
/// length would cut off what is too long.
fn cast(kind: ColumnType, type_name: &str) -> Option<&str> {
    let has_length = matches!(type_name, "character varying" | "character" | "text");
    match kind {
        ColumnType::Integer | ColumnType::Boolean => None,
        ColumnType::Text
        | ColumnType::Decimal
        | ColumnType::Timestamp
        | ColumnType::Date
        | ColumnType::Json => (!has_length).then_some(type_name),
    }
}

fn name(server: &Server, table: &str) -> String {
    let (schema, table) = server.parts(table);
    format!("{}.{}", quoted(schema), quoted(table))
}

/// The statements of one table.
struct Sql<'a> {
    server: &'a Server,
    table: &'a Table,
    there: &'a FoundTable,
}

impl Sql<'_> {
    fn column(&self, n: usize) -> String {
        quoted(self.table.columns.get(n).map_or("", |column| &column.name))
    }

    fn names(&self, columns: &[usize]) -> String {
        columns.iter().map(|n| self.column(*n)).collect::<Vec<_>>().join(", ")
    }

    /// `unnest($1::text[], …) AS v (c0, …)`, of some columns.
    fn values(&self, columns: &[usize]) -> String {
        let kind = |n: usize| self.table.columns.get(n).map_or("text", sent);
        let arrays =
            columns.iter().zip(1..).map(|(n, p)| format!("${p}::{}[]", kind(*n))).collect::<Vec<_>>();
        let names = columns.iter().map(|n| format!("c{n}")).collect::<Vec<_>>();
        format!("unnest({}) AS v ({})", arrays.join(", "), names.join(", "))
    }

    /// A value as its column takes it.
    fn value(&self, n: usize) -> String {
        let Some(column) = self.table.columns.get(n) else { return String::new() };
        let type_name = self.there.columns.get(&column.name).map_or("text", |there| there.type_name.as_str());
        let kind = if column.lookup.is_some() { ColumnType::Text } else { column.kind };
        cast(kind, type_name).map_or_else(|| format!("v.c{n}"), |cast| format!("v.c{n}::{cast}"))
    }

    fn is_same_entity(&self) -> String {
        let same = self.table.identity.iter().map(|n| format!("t.{} = v.c{n}", self.column(*n)));
        same.collect::<Vec<_>>().join(" AND ")
    }

    fn write(&self) -> String {
        let all: Vec<usize> = (0..self.table.columns.len()).collect();
        let values = all.iter().map(|n| self.value(*n)).collect::<Vec<_>>().join(", ");
        let table = name(self.server, &self.table.name);
        let insert =
            format!("INSERT INTO {table} ({}) SELECT {values} FROM {}", self.names(&all), self.values(&all));
        // The rows of an array were deleted before.
        if !self.table.is_upsert || self.table.has_elements() {
            return insert;
        }
        let others = all.iter().filter(|n| !self.table.key.contains(n)).map(|n| {
            let column = self.column(*n);
            format!("{column} = excluded.{column}")
        });
        let others = others.collect::<Vec<_>>().join(", ");
        let update = if others.is_empty() { "NOTHING".to_owned() } else { format!("UPDATE SET {others}") };
        format!("{insert} ON CONFLICT ({}) DO {update}", self.names(&self.table.key))
    }

    fn mark(&self) -> String {
        let columns: Vec<usize> = self.table.identity.iter().chain(&self.table.marked).copied().collect();
        let set = self.table.marked.iter().map(|n| format!("{} = {}", self.column(*n), self.value(*n)));
        format!(
            "UPDATE {} AS t SET {} FROM {} WHERE {}",
            name(self.server, &self.table.name),
            set.collect::<Vec<_>>().join(", "),
            self.values(&columns),
            self.is_same_entity()
        )
    }

    fn delete(&self) -> String {
        format!(
            "DELETE FROM {} AS t USING {} WHERE {}",
            name(self.server, &self.table.name),
            self.values(&self.table.identity),
            self.is_same_entity()
        )
    }
}

/// The type of a column's values as they are sent; what was looked up is text.
fn sent(column: &mapping::table::Column) -> &'static str {
    if column.lookup.is_some() { "text" } else { parameter(column.kind) }
}

/// Applies what a batch changes, in an order by which foreign keys hold.
pub(super) async fn apply(
    transaction: &Transaction<'_>,
    server: &Server,
    prepared: &[Prepared],
    mut changes: Vec<Changes<'_>>,
) -> Result<(), SinkError> {
    for (step, n) in mapping::steps(&server.tables) {
        let (Some(table), Some(statements), Some(changes)) =
            (server.tables.get(n), prepared.get(n), changes.get_mut(n))
        else {
            continue;
        };
        let run = Run { transaction, server, table };
        match step {
            Step::Delete => run.all(statements.delete.as_ref(), &table.identity, &changes.gone).await?,
            Step::Write => {
                for asked in look_up::asked(table, changes) {
                    let answers = run.look_up(statements, &asked).await?;
                    look_up::fill(&server.to_string(), table, changes, &asked, &answers)?;
                }
                check::check_scales(table, &statements.scales, &changes.rows)?;
                let columns: Vec<usize> = (0..table.columns.len()).collect();
                run.all(Some(&statements.write), &columns, &changes.rows).await?;
                let columns: Vec<usize> = table.identity.iter().chain(&table.marked).copied().collect();
                run.all(statements.mark.as_ref(), &columns, &changes.marks).await?;
            }
        }
    }
    Ok(())
}

/// One table's statements in a transaction.
struct Run<'a> {
    transaction: &'a Transaction<'a>,
    server: &'a Server,
    table: &'a Table,
}

impl Run<'_> {
    /// Runs a statement over some columns of rows.
    async fn all(
        &self,
        statement: Option<&Statement>,
        columns: &[usize],
        mut rows: &[Mapped<'_>],
    ) -> Result<(), SinkError> {
        let Some(statement) = statement else { return Ok(()) };
        while !rows.is_empty() {
            let (now, later) = rows.split_at(mapping::chunk(rows, ROWS_MAX, BYTES_MAX));
            let kinds = columns.iter().map(|n| (*n, self.table.columns.get(*n).map_or("text", sent)));
            let arrays: Vec<Box<Array<'_>>> = kinds
                .map(|(n, kind)| array(kind, now.iter().map(|row| row.values.get(n).unwrap_or(&Value::Null))))
                .collect();
            let values: Vec<&(dyn ToSql + Sync)> =
                arrays.iter().map(|array| -> &(dyn ToSql + Sync) { &**array }).collect();
            let run = self.transaction.execute(statement, &values).await;
            run.map_err(|e| failed_in(self.server, &self.table.name, &e))?;
            rows = later;
        }
        Ok(())
    }

    async fn look_up(&self, statements: &Prepared, asked: &Asked<'_>) -> Result<Vec<Answer>, SinkError> {
        let failed = |e: tokio_postgres::Error| failed_in(self.server, &self.table.name, &e);
        let mut answers = vec![Answer::None; asked.values.len()];
        let (Some(statement), Some(column)) =
            (statements.look_ups.get(&asked.column), self.table.columns.get(asked.column))
        else {
            return Ok(answers);
        };
        let values = array(parameter(column.kind), asked.values.iter());
        for row in self.transaction.query(statement, &[&*values]).await.map_err(failed)? {
            let place = usize::try_from(row.try_get::<_, i64>(0).map_err(failed)? - 1);
            let Some(answer) = place.ok().and_then(|place| answers.get_mut(place)) else { continue };
            let taken: Option<String> = row.try_get(1).map_err(failed)?;
            let found = taken.map_or(Value::Null, |taken| Value::Text(taken.into()));
            *answer = if *answer == Answer::None { Answer::One(found) } else { Answer::Several };
        }
        Ok(answers)
    }
}

type Array<'a> = dyn ToSql + Sync + Send + 'a;

fn array<'v>(parameter: &str, values: impl Iterator<Item = &'v Value<'v>>) -> Box<Array<'v>> {
    match parameter {
        "bigint" => Box::new(
            values
                .map(|value| if let Value::Integer(number) = value { Some(*number) } else { None })
                .collect::<Vec<_>>(),
        ),
        "boolean" => Box::new(
            values
                .map(|value| if let Value::Boolean(is) = value { Some(*is) } else { None })
                .collect::<Vec<_>>(),
        ),
        _ => Box::new(
            values
                .map(|value| (*value != Value::Null).then(|| value.text()))
                .collect::<Vec<Option<Cow<'v, str>>>>(),
        ),
    }
}
