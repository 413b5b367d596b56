//! `[pipelines.NAME.tables.NAME]`: the user's own tables, and what of an event stands in which column.
//!
//! Refused is what would let two entities write one row, or leave rows behind: then no batch has to find out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use toml::Spanned;

use super::{ConfigError, PipelineConfig, Places, SinkConfig, SourceConfig, type_matches};
use crate::selector::Selector;

/// Tables of one pipeline.
pub const TABLES_MAX: usize = 64;
/// Columns of one table.
pub const COLUMNS_MAX: usize = 200;
/// What Hookline's own tables, and its fields in others' documents, are called.
const OWN_PREFIX: &str = "hookline_";

/// The mapped tables of a pipeline, by name.
pub type TablesConfig = BTreeMap<String, TableConfig>;

/// A table of the user's: whose events it takes, and its columns.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableConfig {
    /// Event types, exact or with a `*` at the end. Default: every event that has an entity.
    pub types: Option<Vec<String>>,
    /// The sources whose events the table takes. Default: all of the pipeline.
    pub sources: Option<Vec<Spanned<String>>>,
    /// Event types that end an entity; taken besides `types`.
    #[serde(default)]
    pub deleted: Vec<String>,
    /// What an event of `deleted` does: `delete` (the default) the row, or `mark` it.
    pub on_delete: Option<OnDelete>,
    /// `upsert` (the default): an entity's last event. `append`: a row for each event.
    #[serde(default)]
    pub write: Write,
    /// An array in the body: a row for each element.
    pub each: Option<Pointer>,
    /// The columns of the primary key, or of a unique index.
    #[serde(default)]
    pub key: Vec<String>,
    /// The columns, by name.
    pub columns: BTreeMap<String, ColumnConfig>,
}

/// What an event of a type in `deleted` does.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum OnDelete {
    /// Deletes the entity's rows.
    #[default]
    Delete,
    /// Leaves them, and sets the columns that come from the event's attributes, `deleted` among them.
    Mark,
}

/// How a table takes events.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Write {
    /// The entity's row, or rows, as its last event says.
    #[default]
    Upsert,
    /// A row for each event, or for each element of each event.
    Append,
}

/// A JSON pointer (RFC 6901); the empty one points at the whole. Its tokens, unescaped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Pointer(pub Vec<String>);

impl TryFrom<String> for Pointer {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Selector::parse(&text) {
            Ok(Selector::Pointer(tokens)) => Ok(Self(tokens)),
            Err(message) if text.starts_with('/') => Err(message),
            _ if text.is_empty() => Ok(Self::default()),
            _ => Err(format!("`{text}` is not a JSON pointer such as \"/data/id\"; \"\" is the whole")),
        }
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { f.write_str("\"\"") } else { Selector::Pointer(self.0.clone()).fmt(f) }
    }
}

/// One column.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "ColumnKeys")]
pub struct ColumnConfig {
    /// Where its value comes from.
    pub value: ColumnValue,
    /// What its value is.
    pub kind: ColumnType,
    /// Whether an event without the value is refused. Else the column is null.
    pub required: bool,
    /// The value is looked up in another table, and what is found there stands in the column.
    pub lookup: Option<LookupConfig>,
}

/// Where a column's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ColumnValue {
    /// An attribute of the event.
    Attribute(Attribute),
    /// A pointer into the body or, in a table with `each`, into the element.
    At(Pointer),
    /// In a table with `each`: a pointer into the whole body.
    BodyAt(Pointer),
}

/// An attribute of an event.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Attribute {
    /// The source's name.
    Source,
    /// The customer's connection; empty where there is none.
    Connection,
    /// What the event is ordered by.
    Entity,
    /// The event's id.
    Id,
    /// The event's type.
    Type,
    /// When it happened, as the sender says.
    Time,
    /// The sequence or version, as the sender wrote it.
    Sequence,
    /// When it was appended to the log.
    AppendedAt,
    /// Whether it was one of `deleted`.
    Deleted,
    /// With `each`: the element's place in the array, from 0.
    Index,
}

impl Attribute {
    const fn kind(self) -> ColumnType {
        match self {
            Self::Source | Self::Connection | Self::Entity | Self::Id | Self::Type | Self::Sequence => {
                ColumnType::Text
            }
            Self::Time | Self::AppendedAt => ColumnType::Timestamp,
            Self::Deleted => ColumnType::Boolean,
            Self::Index => ColumnType::Integer,
        }
    }

    /// Whether it tells entities apart.
    #[must_use]
    pub const fn is_identity(self) -> bool {
        matches!(self, Self::Source | Self::Connection | Self::Entity)
    }
}

/// What a column's value is.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
    /// A string, or a number as it is written.
    Text,
    /// A number without fraction, below 2^63 either way; or a string with one.
    Integer,
    /// A number as it is written, none of its digits lost; or a string with one.
    Decimal,
    /// `true` or `false`.
    Boolean,
    /// A string with an RFC 3339 time; stored in UTC, in microseconds.
    Timestamp,
    /// A string with a date, `2026-01-31`.
    Date,
    /// Any JSON.
    Json,
}

impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Decimal => "decimal",
            Self::Boolean => "boolean",
            Self::Timestamp => "timestamp",
            Self::Date => "date",
            Self::Json => "json",
        })
    }
}

/// A value that stands in another table of the same database.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LookupConfig {
    /// That table.
    pub table: String,
    /// Its column in which the value is searched.
    #[serde(rename = "match")]
    pub matching: String,
    /// Its column that is taken from the row found.
    pub take: String,
    /// What to do where there is no such row.
    pub miss: Miss,
}

/// What to do where a look-up finds nothing.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum Miss {
    /// The column is null.
    Null,
    /// The event is a dead letter.
    DeadLetter,
    /// The event waits, and all that comes after it, until the row is there.
    Wait,
}

/// A column as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ColumnKeys {
    from: Option<Attribute>,
    at: Option<Pointer>,
    body_at: Option<Pointer>,
    #[serde(rename = "type")]
    kind: Option<ColumnType>,
    #[serde(default)]
    required: bool,
    lookup: Option<LookupConfig>,
}

impl TryFrom<ColumnKeys> for ColumnConfig {
    type Error = &'static str;

    fn try_from(keys: ColumnKeys) -> Result<Self, Self::Error> {
        let ColumnKeys { from, at, body_at, kind, required, lookup } = keys;
        let value = match (from, at, body_at) {
            (Some(attribute), None, None) => ColumnValue::Attribute(attribute),
            (None, Some(pointer), None) => ColumnValue::At(pointer),
            (None, None, Some(pointer)) => ColumnValue::BodyAt(pointer),
            _ => {
                return Err("a column has one of `from` (an attribute of the event), `at` (a pointer) and, \
                            in a table with `each`, `body_at` (a pointer into the whole body)");
            }
        };
        let kind = match (&value, kind) {
            (ColumnValue::Attribute(_), Some(_)) => {
                return Err("an attribute has a type of its own: leave `type` out");
            }
            (ColumnValue::Attribute(attribute), None) => attribute.kind(),
            (ColumnValue::At(_) | ColumnValue::BodyAt(_), Some(kind)) => kind,
            (ColumnValue::At(_) | ColumnValue::BodyAt(_), None) => {
                return Err(
                    "a pointer needs `type`: text, integer, decimal, boolean, timestamp, date or json",
                );
            }
        };
        if lookup.is_some() && kind == ColumnType::Json {
            return Err("JSON cannot be looked up: give the pointer of one value in it");
        }
        Ok(Self { value, kind, required, lookup })
    }
}

impl TableConfig {
    /// Whether the table takes the events of a source.
    #[must_use]
    pub fn takes_source(&self, source: &str) -> bool {
        self.sources.as_ref().is_none_or(|names| names.iter().any(|name| name.get_ref() == source))
    }

    /// Whether an event of this type ends its entity.
    #[must_use]
    pub fn deletes(&self, kind: &str) -> bool {
        self.deleted.iter().any(|pattern| type_matches(pattern, kind))
    }

    fn attribute(&self, column: &str) -> Option<Attribute> {
        match self.columns.get(column)?.value {
            ColumnValue::Attribute(attribute) => Some(attribute),
            ColumnValue::At(_) | ColumnValue::BodyAt(_) => None,
        }
    }

    fn has(&self, attribute: Attribute) -> bool {
        self.columns.values().any(|column| column.value == ColumnValue::Attribute(attribute))
    }
}

/// Checks a pipeline's tables. `key` is the pipeline's.
pub(super) fn check(
    at: &Places<'_>,
    key: &str,
    pipeline: &PipelineConfig,
    sources: &BTreeMap<String, SourceConfig>,
) -> Result<(), ConfigError> {
    let tables = &pipeline.tables;
    if tables.is_empty() {
        return Ok(());
    }
    if !pipeline.sink.takes_tables() {
        let message = "tables are for a sink that is a database: postgres, mysql, mongodb or sqlite";
        return Err(at.error(None, &format!("{key}.tables"), message));
    }
    if tables.len() > TABLES_MAX {
        return Err(at.error(None, &format!("{key}.tables"), &format!("has more than {TABLES_MAX} tables")));
    }
    for (name, table) in tables {
        let place = Place { at, key: format!("{key}.tables.{name}"), name, table, pipeline, sources };
        place.check()?;
    }
    Ok(())
}

/// One table and what is around it.
struct Place<'a> {
    at: &'a Places<'a>,
    key: String,
    name: &'a str,
    table: &'a TableConfig,
    pipeline: &'a PipelineConfig,
    sources: &'a BTreeMap<String, SourceConfig>,
}

impl Place<'_> {
    fn fail<T>(&self, field: &str, message: impl AsRef<str>) -> Result<T, ConfigError> {
        let dot = if field.is_empty() { "" } else { "." };
        Err(self.at.error(None, &format!("{}{dot}{field}", self.key), message.as_ref()))
    }

    fn check(&self) -> Result<(), ConfigError> {
        self.check_name("", self.name)?;
        self.check_events()?;
        self.check_columns()?;
        match self.table.write {
            Write::Upsert => self.check_key(),
            Write::Append => self.check_append(),
        }
    }

    /// A name of one part or, in PostgreSQL, of two.
    fn check_name(&self, field: &str, name: &str) -> Result<(), ConfigError> {
        let parts: Vec<&str> = name.split('.').collect();
        let own = parts.last().is_some_and(|part| part.starts_with(OWN_PREFIX));
        if own || parts.iter().any(|part| part.is_empty() || part.contains('\0')) {
            return self
                .fail(field, format!("`{name}` is no name for a table; `{OWN_PREFIX}…` are Hookline's"));
        }
        let parts_max = if matches!(self.pipeline.sink, SinkConfig::Postgres(_)) { 2 } else { 1 };
        if parts.len() > parts_max && !self.is_mongodb() {
            let message = "has a dot; PostgreSQL's tables alone have names of two parts, schema and table";
            return self.fail(field, format!("`{name}` {message}"));
        }
        Ok(())
    }

    fn is_mongodb(&self) -> bool {
        matches!(self.pipeline.sink, SinkConfig::Mongodb(_))
    }

    fn check_events(&self) -> Result<(), ConfigError> {
        let table = self.table;
        if table.types.as_ref().is_some_and(Vec::is_empty) {
            return self
                .fail("types", "needs at least one type; leave it out to take every event with an entity");
        }
        for pattern in table.types.iter().flatten().chain(&table.deleted) {
            if pattern.is_empty() || pattern.trim_end_matches('*').contains('*') || pattern.ends_with("**") {
                return self.fail(
                    "types",
                    format!("`{pattern}`: a type is exact, or a beginning with `*` at its end"),
                );
            }
        }
        for source in table.sources.iter().flatten() {
            let name = source.get_ref();
            if !self.sources.contains_key(name) || !self.pipeline.takes(name) {
                let message = format!("the pipeline takes no source `{name}`");
                return Err(self.at.error(Some(source.span()), &format!("{}.sources", self.key), &message));
            }
        }
        if table.sources.as_ref().is_some_and(Vec::is_empty) {
            return self
                .fail("sources", "needs at least one source; leave it out to take all of the pipeline");
        }
        let marks = table.on_delete == Some(OnDelete::Mark);
        if table.on_delete.is_some() && table.deleted.is_empty() {
            return self.fail("on_delete", "needs `deleted`: the types of the events that delete");
        }
        if marks != table.has(Attribute::Deleted) {
            return self.fail(
                "on_delete",
                "`on_delete = \"mark\"` and a column with `from = \"deleted\"` go together",
            );
        }
        if table.each.is_some() && self.is_mongodb() {
            let message =
                "a document holds its array: embed it, as a column with `type = \"json\"` at the array";
            return self.fail("each", message);
        }
        Ok(())
    }

    fn check_columns(&self) -> Result<(), ConfigError> {
        let table = self.table;
        if !(1..=COLUMNS_MAX).contains(&table.columns.len()) {
            return self.fail("columns", format!("a table has 1 to {COLUMNS_MAX} columns"));
        }
        for (name, column) in &table.columns {
            let field = format!("columns.{name}");
            if name.is_empty() || name.contains('\0') {
                return self.fail(&field, "is no name for a column");
            }
            let is_reserved = name == "_id" || name.contains(['$', '.']) || name.starts_with(OWN_PREFIX);
            if self.is_mongodb() && is_reserved {
                return self.fail(
                    &field,
                    format!("is no name for a field: not `_id` nor `{OWN_PREFIX}…`, no `$` and no dot"),
                );
            }
            let needs_each = match column.value {
                ColumnValue::Attribute(attribute) => attribute == Attribute::Index,
                ColumnValue::BodyAt(_) => true,
                ColumnValue::At(_) => false,
            };
            if needs_each && table.each.is_none() {
                return self.fail(&field, "`body_at` and `from = \"index\"` are for a table with `each`");
            }
            if let Some(lookup) = &column.lookup {
                self.check_name(&format!("{field}.lookup.table"), &lookup.table)?;
                if lookup.matching.is_empty() || lookup.take.is_empty() {
                    return self.fail(&format!("{field}.lookup"), "`match` and `take` name columns");
                }
            }
        }
        Ok(())
    }

    /// The key tells all entities apart and, with `each`, all elements of one.
    fn check_key(&self) -> Result<(), ConfigError> {
        let table = self.table;
        let mut seen = BTreeSet::new();
        let mut of_element = false;
        for name in &table.key {
            let Some(column) = table.columns.get(name) else {
                return self.fail("key", format!("`{name}` is not one of the columns"));
            };
            if !seen.insert(name) {
                return self.fail("key", format!("names `{name}` twice"));
            }
            if column.lookup.is_some() || column.kind == ColumnType::Json {
                return self
                    .fail("key", format!("`{name}`: what is looked up, and JSON, is no part of a key"));
            }
            let is_element = match &column.value {
                ColumnValue::Attribute(Attribute::Index) => true,
                ColumnValue::At(_) => table.each.is_some(),
                ColumnValue::Attribute(_) | ColumnValue::BodyAt(_) => false,
            };
            of_element |= is_element;
            if !is_element && !table.attribute(name).is_some_and(Attribute::is_identity) {
                let message = format!(
                    "`{name}` may change from event to event, which would leave the entity's old row: a key has \
                     the columns from `entity`, `connection` and `source`{}",
                    if table.each.is_some() { ", and those of the element" } else { "" }
                );
                return self.fail("key", message);
            }
        }
        for (attribute, name, why) in self.identity() {
            if !table.key.iter().any(|column| table.attribute(column) == Some(attribute)) {
                let message = format!(
                    "needs the column with `from = \"{name}\"`: else two entities could write one row{why}"
                );
                return self.fail("key", message);
            }
        }
        if table.each.is_some() && !of_element {
            return self.fail("key", "needs a column of the element: with `from = \"index\"`, or with `at`");
        }
        Ok(())
    }

    /// The attributes that a key needs, and which entities it else does not tell apart.
    fn identity(&self) -> Vec<(Attribute, &'static str, &'static str)> {
        let taken: Vec<&SourceConfig> = self
            .sources
            .iter()
            .filter(|(name, _)| self.pipeline.takes(name) && self.table.takes_source(name))
            .map(|(_, source)| source)
            .collect();
        let mut needed = vec![(Attribute::Entity, "entity", "")];
        if taken.iter().any(|source| source.connection.is_some()) {
            needed.push((Attribute::Connection, "connection", ", those of two connections"));
        }
        if taken.len() > 1 {
            needed.push((Attribute::Source, "source", ", those of two sources"));
        }
        needed
    }

    fn check_append(&self) -> Result<(), ConfigError> {
        if !self.table.key.is_empty() {
            return self.fail("key", "is not for `write = \"append\"`, where each event is a row of its own");
        }
        if !self.table.deleted.is_empty() {
            return self.fail(
                "deleted",
                "is not for `write = \"append\"`, where nothing is deleted: list it in `types`",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
