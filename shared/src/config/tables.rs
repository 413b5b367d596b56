//! `[pipelines.NAME.tables.NAME]`: the user's own tables, and what of an event stands in which column.

mod check;

use std::collections::BTreeMap;
use std::fmt;

pub(super) use check::check;
use serde::Deserialize;
use toml::Spanned;

use super::type_matches;
use crate::selector::Selector;

/// Tables of one pipeline.
pub const TABLES_MAX: usize = 64;
/// Columns of one table.
pub const COLUMNS_MAX: usize = 200;

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

#[cfg(test)]
mod tests;
