//! Tables of one's own for the provider's records: their configuration, their definitions for SQLite and PostgreSQL,
//! and the queries that read them as text for the comparison.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::expected::{Expected, Row, as_text, difference};
use super::resource::Resource;
use crate::check::{Difference, Kind};

/// A database that has the tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    /// Times and decimals are text.
    Sqlite,
    /// Times are `timestamptz`, decimals `numeric`.
    Postgres,
}

/// The columns of a list beside connection, entity, revision and time: name, type in the configuration, and where the
/// field stands in the record.
fn columns(resource: Resource) -> &'static [(&'static str, &'static str, &'static str)] {
    match resource {
        Resource::PurchaseOrders => &[
            ("number", "text", "/number"),
            ("status", "text", "/status"),
            ("currency", "text", "/currency"),
            ("vendor", "text", "/vendor/name"),
        ],
        Resource::Suppliers => &[
            ("name", "text", "/name"),
            ("country", "text", "/country"),
            ("payment_days", "integer", "/payment_days"),
        ],
        Resource::WorkOrders => &[
            ("title", "text", "/title"),
            ("priority", "integer", "/priority"),
            ("hours", "decimal", "/hours"),
        ],
        Resource::Assets => &[
            ("name", "text", "/name"),
            ("status", "text", "/status"),
            ("running_hours", "decimal", "/running_hours"),
        ],
    }
}

/// The columns of an order's lines beside connection and entity, likewise, but in the line.
const LINE_COLUMNS: [(&str, &str, &str); 4] = [
    ("line", "text", "/line"),
    ("material", "text", "/material"),
    ("quantity", "decimal", "/quantity"),
    ("net_price", "decimal", "/net_price"),
];

/// `[pipelines.NAME.tables…]`: a table for each list, and `purchase_order_lines`.
#[must_use]
pub fn tables_toml(pipeline: &str) -> String {
    let mut out = String::new();
    for resource in Resource::ALL {
        let (name, kind) = (resource.name(), resource.kind());
        let _ = write!(
            out,
            r#"
[pipelines.{pipeline}.tables.{name}]
types = ["{kind}.*"]
deleted = ["{kind}.deleted"]
key = ["connection", "entity"]
[pipelines.{pipeline}.tables.{name}.columns]
connection = {{ from = "connection" }}
entity = {{ from = "entity" }}
revision = {{ at = "/data/revision", type = "integer", required = true }}
updated_at = {{ at = "/data/updated_at", type = "timestamp", required = true }}
"#
        );
        for (column, column_type, at) in columns(resource) {
            let _ = writeln!(out, r#"{column} = {{ at = "/data{at}", type = "{column_type}" }}"#);
        }
    }
    let _ = write!(
        out,
        r#"
[pipelines.{pipeline}.tables.purchase_order_lines]
types = ["purchase_order.*"]
deleted = ["purchase_order.deleted"]
each = "/data/lines"
key = ["connection", "entity", "line"]
[pipelines.{pipeline}.tables.purchase_order_lines.columns]
connection = {{ from = "connection" }}
entity = {{ from = "entity" }}
"#
    );
    for (column, column_type, at) in LINE_COLUMNS {
        let _ = writeln!(out, r#"{column} = {{ at = "{at}", type = "{column_type}" }}"#);
    }
    out
}

/// The statements that make the tables.
#[must_use]
pub fn tables_sql(database: Database) -> String {
    let sql_type = |column_type: &str| match (column_type, database) {
        ("integer", _) => "bigint",
        ("timestamp", Database::Postgres) => "timestamptz",
        ("decimal", Database::Postgres) => "numeric",
        _ => "text",
    };
    let mut out = String::new();
    for resource in Resource::ALL {
        let _ = write!(
            out,
            "CREATE TABLE {} (\n    connection text NOT NULL,\n    entity text NOT NULL,\n    \
             revision bigint NOT NULL,\n    updated_at {} NOT NULL,\n",
            resource.name(),
            sql_type("timestamp"),
        );
        for (column, column_type, _) in columns(resource) {
            let _ = writeln!(out, "    {column} {},", sql_type(column_type));
        }
        out += "    PRIMARY KEY (connection, entity)\n);\n";
    }
    out += "CREATE TABLE purchase_order_lines (\n    connection text NOT NULL,\n    entity text NOT NULL,\n    \
            line text NOT NULL,\n";
    for (column, column_type, _) in LINE_COLUMNS.iter().skip(1) {
        let _ = writeln!(out, "    {column} {},", sql_type(column_type));
    }
    out += "    PRIMARY KEY (connection, entity, line)\n);\n";
    out
}

/// The query of a list's rows, each column as text, for [`Row::of_columns`].
#[must_use]
pub fn rows_sql(resource: Resource) -> String {
    let first = ["connection", "entity", "revision", "updated_at"].into_iter();
    select(first.chain(columns(resource).iter().map(|(column, _, _)| *column)), resource.name())
}

/// The query of the lines of orders, each column as text, for [`compare_lines`].
#[must_use]
pub fn lines_sql() -> String {
    let first = ["connection", "entity"].into_iter();
    select(first.chain(LINE_COLUMNS.iter().map(|(column, _, _)| *column)), "purchase_order_lines")
}

fn select<'a>(columns: impl Iterator<Item = &'a str>, table: &str) -> String {
    let columns: Vec<_> = columns.map(|column| format!("CAST({column} AS text)")).collect();
    format!("SELECT {} FROM {table}", columns.join(", "))
}

impl Row {
    /// A row of a list's own table, by the columns of [`rows_sql`].
    ///
    /// # Errors
    /// A column is missing or is not what it must be; which.
    pub fn of_columns(resource: Resource, values: &[Option<String>]) -> Result<Self, String> {
        let table = resource.name();
        let at = |n: usize, column: &str| {
            values.get(n).cloned().flatten().ok_or_else(|| format!("{table}: {column} is null"))
        };
        let entity = at(1, "entity")?;
        let Some((_, id)) = Resource::of_entity(&entity).filter(|(found, _)| *found == resource) else {
            return Err(format!("{table}: {entity:?} is no entity of this list"));
        };
        let revision = at(2, "revision")?.parse().map_err(|_| format!("{table}: revision is no number"))?;
        let columns = columns(resource).iter().enumerate();
        let field = |(n, (column, _, place)): (usize, &(&str, &str, &str))| {
            Ok(((*place).to_owned(), at(n + 4, column)?))
        };
        Ok(Self {
            connection: at(0, "connection")?,
            resource: Some(resource),
            id: id.to_owned(),
            revision,
            updated_at: at(3, "updated_at")?,
            deleted: false,
            record: None,
            fields: columns.map(field).collect::<Result<_, String>>()?,
        })
    }
}

/// Compares the lines of orders with what must be there. Those of orders whose deletion was lost may be there or not.
#[must_use]
pub fn compare_lines(expected: &Expected, rows: &[Vec<Option<String>>]) -> Vec<Difference> {
    let orders = || expected.entities.iter().filter(|entity| entity.resource == Resource::PurchaseOrders);
    let mut wanted = BTreeSet::new();
    for order in orders() {
        let lines = order.record.as_ref().and_then(|record| record.get("lines")?.as_array());
        for line in lines.into_iter().flatten() {
            let fields = LINE_COLUMNS.iter().map(|(_, _, at)| line.pointer(at).map(as_text));
            let first = [order.connection.clone(), order.entity.clone()].map(Some);
            wanted.insert(first.into_iter().chain(fields).collect::<Vec<_>>());
        }
    }
    let undecided: BTreeSet<_> = orders()
        .filter(|order| order.deletion_lost)
        .map(|order| [order.connection.clone(), order.entity.clone()].map(Some))
        .collect();
    let name = |row: &[Option<String>]| {
        let part = |n: usize| row.get(n).cloned().flatten().unwrap_or_default();
        format!("line {} of {}/{}", part(2), part(0), part(1))
    };
    let mut out = Vec::new();
    for row in rows {
        let is_undecided = row.first_chunk::<2>().is_some_and(|order| undecided.contains(order));
        if !wanted.remove(row) && !is_undecided {
            out.push(difference(Kind::ExtraEntity, format!("{}, or another content", name(row))));
        }
    }
    out.extend(wanted.iter().map(|row| difference(Kind::MissingEntity, name(row))));
    out
}

#[cfg(test)]
mod tests;
