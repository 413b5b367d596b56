//! What of a batch stands in the user's own tables: rows with typed values, and the entities whose rows go.
//!
//! Pure: reads bodies, knows no database. Every event that a table takes is read, so that a refusal for its body
//! does not depend on where the batch was cut; of those of one entity, the last is written. Called by the sinks.

pub(super) mod check;
pub(super) mod look_up;
pub(super) mod table;
#[cfg(test)]
mod tests;
pub(super) mod value;

use std::borrow::Cow;
use std::collections::HashMap;

use shared::config::{Attribute, OnDelete};

use self::table::{Table, Taken};
use self::value::Value;
use super::SinkError;
use super::rows::Row;
use crate::position::Position;

/// What a batch changes in one table.
#[derive(Default)]
pub(super) struct Changes<'r> {
    /// Entities whose rows go: because they are deleted, or because `rows` has all that they have now.
    pub(super) gone: Vec<Mapped<'r>>,
    /// Rows that are written.
    pub(super) rows: Vec<Mapped<'r>>,
    /// Rows that stay, with other values in [`Table::marked`].
    pub(super) marks: Vec<Mapped<'r>>,
}

/// A row: the values of the table's columns, in their order.
pub(super) struct Mapped<'r> {
    pub(super) values: Vec<Value<'r>>,
    pub(super) event_offset: i64,
    pub(super) position: Position,
}

/// What is done in a table, at one of the two times at which it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// [`Changes::gone`].
    Delete,
    /// [`Changes::rows`] and [`Changes::marks`].
    Write,
}

/// What a batch changes in each table, in the tables' order. Nothing is read and nothing allocated where there are no tables.
///
/// # Errors
/// Refused: a body does not fit a table.
pub(super) fn changes<'r>(tables: &[Table], rows: &'r [Row<'_>]) -> Result<Vec<Changes<'r>>, SinkError> {
    tables
        .iter()
        .map(|table| if table.is_upsert { latest(table, rows) } else { appended(table, rows) })
        .collect()
}

/// The order of the steps: what refers to other rows goes first and comes last, so that foreign keys hold. That is
/// the rows of arrays, which belong to an entity's row, and what looks up rows that this batch may write.
pub(super) fn steps(tables: &[Table]) -> Vec<(Step, usize)> {
    let those = |step, filter: fn(&Table) -> bool| {
        tables.iter().enumerate().filter(move |(_, table)| filter(table)).map(move |(n, _)| (step, n))
    };
    those(Step::Delete, |table| table.has_elements())
        .chain(those(Step::Write, |table| !table.has_elements() && !table.looks_up()))
        .chain(those(Step::Write, |table| !table.has_elements() && table.looks_up()))
        .chain(those(Step::Write, Table::has_elements))
        .chain(those(Step::Delete, |table| !table.has_elements()))
        .collect()
}

fn appended<'r>(table: &Table, rows: &'r [Row<'_>]) -> Result<Changes<'r>, SinkError> {
    let mut changes = Changes::default();
    for row in rows {
        if table.takes(row)?.is_some() {
            changes.rows.extend(table.map(row)?);
        }
    }
    Ok(changes)
}

/// What became of an entity in a batch.
enum Outcome<'r> {
    Written(Vec<Mapped<'r>>),
    Deleted,
    Marked,
}

fn latest<'r>(table: &Table, rows: &'r [Row<'_>]) -> Result<Changes<'r>, SinkError> {
    let mut entities: HashMap<(&str, &str, Option<&str>), usize> = HashMap::new();
    // In the order in which the batch names them first.
    let mut outcomes: Vec<(Mapped<'r>, Outcome<'r>)> = Vec::new();
    for row in rows {
        let Some(taken) = table.takes(row)? else { continue };
        let attributes = table.attributes(row, taken)?;
        let outcome = match (taken, table.on_delete) {
            (Taken::Write, _) => Outcome::Written(table.map(row)?),
            (Taken::Delete, OnDelete::Delete) => Outcome::Deleted,
            (Taken::Delete, OnDelete::Mark) => Outcome::Marked,
        };
        let event = &row.event;
        let place =
            *entities.entry((event.source, &event.connection, event.entity)).or_insert(outcomes.len());
        match (outcomes.get_mut(place), outcome) {
            (Some((_, Outcome::Written(rows))), Outcome::Marked) => {
                rows.iter_mut().for_each(|row| table.mark(row, &attributes));
            }
            (Some(found), outcome) => *found = (attributes, outcome),
            (None, outcome) => outcomes.push((attributes, outcome)),
        }
    }
    let mut changes = Changes::default();
    for (attributes, outcome) in outcomes {
        match outcome {
            Outcome::Written(rows) => {
                changes.rows.extend(rows);
                if table.has_elements() {
                    changes.gone.push(attributes);
                }
            }
            Outcome::Deleted => changes.gone.push(attributes),
            Outcome::Marked => changes.marks.push(attributes),
        }
    }
    Ok(changes)
}

/// How many of the rows go into the next statement, at least one.
pub(super) fn chunk(rows: &[Mapped<'_>], rows_max: usize, bytes_max: usize) -> usize {
    let mut bytes = 0;
    let fitting = rows.iter().take(rows_max).take_while(|row| {
        bytes += row.bytes();
        bytes <= bytes_max
    });
    fitting.count().max(1)
}

impl Mapped<'_> {
    /// About how many bytes it takes in a statement.
    pub(super) fn bytes(&self) -> usize {
        self.values.iter().map(Value::bytes).sum()
    }
}

/// What an attribute of an event is as a value.
fn attribute<'r>(
    attribute: Attribute,
    row: &'r Row<'_>,
    is_deleted: bool,
    index: Option<usize>,
) -> Result<Value<'r>, String> {
    let event = &row.event;
    let text = |text: &'r str| Value::Text(Cow::Borrowed(text));
    Ok(match attribute {
        Attribute::Source => text(event.source),
        Attribute::Connection => text(&event.connection),
        Attribute::Entity => event.entity.map_or(Value::Null, text),
        Attribute::Id => text(event.id),
        Attribute::Type => text(event.kind),
        Attribute::Time if event.time.is_empty() => Value::Null,
        Attribute::Time => value::timestamp(event.time).ok_or("is not a time of RFC 3339")?,
        Attribute::Sequence => event.sequence.map_or(Value::Null, text),
        Attribute::AppendedAt => jiff::Timestamp::from_millisecond(row.appended_at_ms)
            .map(Value::Timestamp)
            .map_err(|_| "is beyond every calendar")?,
        Attribute::Deleted => Value::Boolean(is_deleted),
        Attribute::Index => {
            index.and_then(|index| i64::try_from(index).ok()).map_or(Value::Null, Value::Integer)
        }
    })
}
