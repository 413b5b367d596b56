//! What is wrong with a mapping, before any event is read.
//!
//! Refused is what would let two entities write one row, or leave rows behind: then no batch has to find out.

use std::collections::{BTreeMap, BTreeSet};

use super::{Attribute, COLUMNS_MAX, ColumnType, ColumnValue, OnDelete, TABLES_MAX, TableConfig, Write};
use crate::config::{ConfigError, PipelineConfig, Places, SinkConfig, SourceConfig};

/// What Hookline's own tables, and its fields in others' documents, are called.
const OWN_PREFIX: &str = "hookline_";

/// Checks a pipeline's tables. `key` is the pipeline's.
pub(in crate::config) fn check(
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
        let message =
            "tables are for a sink that is a database: postgres, mysql, mongodb, snowflake or sqlite";
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

    /// A name of one part or, in PostgreSQL and Snowflake, of two.
    fn check_name(&self, field: &str, name: &str) -> Result<(), ConfigError> {
        let parts: Vec<&str> = name.split('.').collect();
        let prefix = parts.last().and_then(|part| part.get(..OWN_PREFIX.len()));
        let own = prefix.is_some_and(|prefix| prefix.eq_ignore_ascii_case(OWN_PREFIX));
        if own || parts.iter().any(|part| part.is_empty() || part.contains('\0')) {
            return self
                .fail(field, format!("`{name}` is no name for a table; `{OWN_PREFIX}…` are Hookline's"));
        }
        let has_schemas = matches!(self.pipeline.sink, SinkConfig::Postgres(_) | SinkConfig::Snowflake(_));
        let parts_max = if has_schemas { 2 } else { 1 };
        if parts.len() > parts_max && !self.is_mongodb() {
            let message = "has a dot; only PostgreSQL's and Snowflake's tables have names of two parts, schema and table";
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
