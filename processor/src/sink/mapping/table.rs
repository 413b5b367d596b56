//! A mapped table as its configuration says: which events it takes, and how each becomes rows.

use std::collections::{BTreeSet, HashSet};

use shared::config::{
    Attribute, ColumnType, ColumnValue, LookupConfig, OnDelete, Pointer, TableConfig, TablesConfig, Write,
    type_matches,
};
use shared::json::{self, Found, Pointers};

use super::value::{self, Value};
use super::{Mapped, attribute};
use crate::sink::SinkError;
use crate::sink::rows::Row;

/// Rows that one event may have in one table.
const ELEMENTS_MAX: usize = 10_000;

/// A mapped table.
pub(in crate::sink) struct Table {
    pub(in crate::sink) name: String,
    pub(in crate::sink) columns: Vec<Column>,
    /// The columns of the key; none where each event is appended.
    pub(in crate::sink) key: Vec<usize>,
    /// Those of them that tell entities apart.
    pub(in crate::sink) identity: Vec<usize>,
    /// The columns that an event sets which marks its entity as deleted.
    pub(in crate::sink) marked: Vec<usize>,
    pub(in crate::sink) is_upsert: bool,
    pub(in crate::sink) on_delete: OnDelete,
    config: TableConfig,
    /// The pointers into the body, `each` among them.
    body: Pointers,
    /// The pointers into an element of the array.
    element: Pointers,
    /// Where in the body's values the array is.
    each: Option<usize>,
}

/// A column.
pub(in crate::sink) struct Column {
    pub(in crate::sink) name: String,
    pub(in crate::sink) kind: ColumnType,
    pub(in crate::sink) lookup: Option<LookupConfig>,
    from: Origin,
    required: bool,
}

/// Where a value is.
enum Origin {
    Attribute(Attribute),
    Body(usize, Pointer),
    Element(usize, Pointer),
}

/// What an event is to a table that takes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    Write,
    Delete,
}

/// A pipeline's tables.
pub(in crate::sink) fn all(config: &TablesConfig) -> Vec<Table> {
    config.iter().map(|(name, config)| Table::new(name, config)).collect()
}

impl Table {
    fn new(name: &str, config: &TableConfig) -> Self {
        let (mut body, mut element) = (Pointers::default(), Pointers::default());
        let each = config.each.as_ref().map(|pointer| body.add(&pointer.0));
        let columns: Vec<Column> = config
            .columns
            .iter()
            .map(|(name, column)| Column {
                name: name.clone(),
                kind: column.kind,
                lookup: column.lookup.clone(),
                from: match &column.value {
                    ColumnValue::Attribute(attribute) => Origin::Attribute(*attribute),
                    ColumnValue::At(pointer) if each.is_some() => {
                        Origin::Element(element.add(&pointer.0), pointer.clone())
                    }
                    ColumnValue::At(pointer) | ColumnValue::BodyAt(pointer) => {
                        Origin::Body(body.add(&pointer.0), pointer.clone())
                    }
                },
                required: column.required || config.key.contains(name),
            })
            .collect();
        let those = |filter: &dyn Fn(&Column) -> bool| -> Vec<usize> {
            columns.iter().enumerate().filter(|(_, column)| filter(column)).map(|(n, _)| n).collect()
        };
        let is_key = |column: &Column| config.key.contains(&column.name);
        let place = |name: &String| columns.iter().position(|column| column.name == *name);
        let key = config.key.iter().filter_map(place).collect();
        let identity =
            those(&|column| is_key(column) && column.attribute().is_some_and(Attribute::is_identity));
        let marked = those(&|column| {
            let is_of_event = column.attribute().is_some_and(|attribute| attribute != Attribute::Index);
            is_of_event && !is_key(column) && column.lookup.is_none()
        });
        Self {
            name: name.to_owned(),
            key,
            identity,
            marked,
            is_upsert: config.write == Write::Upsert,
            on_delete: config.on_delete.unwrap_or_default(),
            columns,
            config: config.clone(),
            body,
            element,
            each,
        }
    }

    /// Whether an event has a row for each element of an array.
    pub(in crate::sink) fn has_elements(&self) -> bool {
        self.each.is_some()
    }

    /// The names of the key's columns.
    pub(in crate::sink) fn key_names(&self) -> BTreeSet<String> {
        self.key.iter().filter_map(|n| self.columns.get(*n)).map(|column| column.name.clone()).collect()
    }

    pub(in crate::sink) fn looks_up(&self) -> bool {
        self.columns.iter().any(|column| column.lookup.is_some())
    }

    /// Whether events of the configured types delete rows, or replace them.
    pub(in crate::sink) fn deletes(&self) -> bool {
        self.is_upsert && (self.has_elements() || !self.config.deleted.is_empty())
    }

    /// Whether and how the table takes an event.
    pub(super) fn takes(&self, row: &Row<'_>) -> Result<Option<Taken>, SinkError> {
        let event = &row.event;
        if !self.config.takes_source(event.source) {
            return Ok(None);
        }
        let taken = if self.config.deletes(event.kind) {
            Taken::Delete
        } else {
            let is_taken = match &self.config.types {
                Some(types) => types.iter().any(|pattern| type_matches(pattern, event.kind)),
                None => event.entity.is_some(),
            };
            if !is_taken {
                return Ok(None);
            }
            Taken::Write
        };
        if self.is_upsert && event.entity.is_none() {
            return Err(self.refused(row, "it has no entity"));
        }
        Ok(Some(taken))
    }

    /// What of a row comes from the event's attributes; the other columns are null.
    pub(super) fn attributes<'r>(&self, row: &'r Row<'_>, taken: Taken) -> Result<Mapped<'r>, SinkError> {
        let is_deleted = taken == Taken::Delete;
        let values = self.columns.iter().map(|column| match column.attribute() {
            Some(name) => attribute(name, row, is_deleted, None).map_err(|problem| {
                self.refused(row, &format!("column `{}`: its time {problem}", column.name))
            }),
            None => Ok(Value::Null),
        });
        Ok(mapped(row, values.collect::<Result<_, _>>()?))
    }

    /// Sets the columns that an event sets which marks.
    pub(super) fn mark<'r>(&self, row: &mut Mapped<'r>, attributes: &Mapped<'r>) {
        for n in &self.marked {
            if let (Some(value), Some(set)) = (row.values.get_mut(*n), attributes.values.get(*n)) {
                value.clone_from(set);
            }
        }
        (row.event_offset, row.position) = (attributes.event_offset, attributes.position);
    }

    /// The rows that an event becomes: one or, of an array, one for each element.
    pub(super) fn map<'r>(&self, row: &'r Row<'_>) -> Result<Vec<Mapped<'r>>, SinkError> {
        let body = if self.body.is_empty() {
            Vec::new()
        } else {
            json::read(row.body, &self.body).map_err(|problem| self.refused(row, &problem))?
        };
        let Some((each, pointer)) = self.each.zip(self.config.each.as_ref()) else {
            let values = self.columns.iter().map(|column| self.value(row, column, &body, None));
            return Ok(vec![mapped(row, values.collect::<Result<_, _>>()?)]);
        };
        let array = match body.get(each).unwrap_or(&Found::Missing) {
            Found::Array(raw) => json::array(raw).map_err(|problem| self.refused(row, &problem))?,
            other @ (Found::Missing
            | Found::Null
            | Found::Object(_)
            | Found::Text { .. }
            | Found::Literal(_)) => {
                let problem = format!("each: {pointer} {}, not an array", value::what(other));
                return Err(self.refused(row, &problem));
            }
        };
        if array.len() > ELEMENTS_MAX {
            let problem = format!("each: {pointer} has more than {ELEMENTS_MAX} elements");
            return Err(self.refused(row, &problem));
        }
        let mut keys = HashSet::new();
        let mut out = Vec::with_capacity(array.len());
        for (index, raw) in array.into_iter().enumerate() {
            let found =
                json::read(raw.as_bytes(), &self.element).map_err(|problem| self.refused(row, &problem))?;
            let values =
                self.columns.iter().map(|column| self.value(row, column, &body, Some((index, &found))));
            let values: Vec<Value<'_>> = values.collect::<Result<_, _>>()?;
            if self.is_upsert && !keys.insert(value::key(self.key.iter().filter_map(|n| values.get(*n)))) {
                let problem = format!("each: element {index} of {pointer} has the same key as one before it");
                return Err(self.refused(row, &problem));
            }
            out.push(mapped(row, values));
        }
        Ok(out)
    }

    fn value<'r>(
        &self,
        row: &'r Row<'_>,
        column: &Column,
        body: &[Found<'r>],
        element: Option<(usize, &[Found<'r>])>,
    ) -> Result<Value<'r>, SinkError> {
        let index = element.map(|(index, _)| index);
        let outcome = match &column.from {
            Origin::Attribute(name) => attribute(*name, row, false, index),
            Origin::Body(slot, _) => value::of(column.kind, body.get(*slot).unwrap_or(&Found::Missing)),
            Origin::Element(slot, _) => {
                let found = element.and_then(|(_, found)| found.get(*slot));
                value::of(column.kind, found.unwrap_or(&Found::Missing))
            }
        };
        let outcome = match outcome {
            Ok(Value::Null) if column.required => Err("is missing or null, but required".to_owned()),
            Ok(Value::Text(text)) if text.contains('\0') => Err("has U+0000 in it".to_owned()),
            outcome => outcome,
        };
        outcome.map_err(|problem| {
            let place = match (&column.from, index) {
                (Origin::Attribute(_), _) => "the event's attribute".to_owned(),
                (Origin::Element(_, pointer), Some(index)) => format!("{pointer} of element {index}"),
                (Origin::Body(_, pointer) | Origin::Element(_, pointer), _) => pointer.to_string(),
            };
            self.refused(row, &format!("column `{}`: {place} {problem}", column.name))
        })
    }

    fn refused(&self, row: &Row<'_>, problem: &str) -> SinkError {
        self.refuse(row.event_offset, problem)
    }

    /// An event that does not fit the table. Names no value.
    pub(in crate::sink) fn refuse(&self, event_offset: i64, problem: &str) -> SinkError {
        SinkError::Refused(format!(
            "the event at offset {event_offset} does not fit table `{}`: {problem}",
            self.name
        ))
    }
}

impl Column {
    fn attribute(&self) -> Option<Attribute> {
        match self.from {
            Origin::Attribute(attribute) => Some(attribute),
            Origin::Body(..) | Origin::Element(..) => None,
        }
    }
}

fn mapped<'r>(row: &Row<'_>, values: Vec<Value<'r>>) -> Mapped<'r> {
    Mapped { values, event_offset: row.event_offset, position: row.position }
}
