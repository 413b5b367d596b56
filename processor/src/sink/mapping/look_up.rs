//! Look-ups: which values are asked for, once each, and what the answers make of the rows.

use std::collections::HashMap;

use shared::config::Miss;

use super::Changes;
use super::table::Table;
use super::value::{Value, key};
use crate::sink::SinkError;

/// What one column asks for.
pub(in crate::sink) struct Asked<'r> {
    pub(in crate::sink) column: usize,
    /// Each value once.
    pub(in crate::sink) values: Vec<Value<'r>>,
    /// For each row, which value; none where it is null, which is not looked up.
    rows: Vec<Option<usize>>,
}

/// What stands in the other table for a value.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::sink) enum Answer {
    None,
    One(Value<'static>),
    Several,
}

/// What the rows of a table ask for.
pub(in crate::sink) fn asked<'r>(table: &Table, changes: &Changes<'r>) -> Vec<Asked<'r>> {
    let looked_up = table.columns.iter().enumerate().filter(|(_, column)| column.lookup.is_some());
    looked_up
        .map(|(column, _)| {
            let mut places = HashMap::new();
            let mut asked =
                Asked { column, values: Vec::new(), rows: Vec::with_capacity(changes.rows.len()) };
            for row in &changes.rows {
                let value = row.values.get(column).unwrap_or(&Value::Null);
                asked.rows.push((*value != Value::Null).then(|| {
                    *places.entry(key(std::iter::once(value))).or_insert_with(|| {
                        asked.values.push(value.clone());
                        asked.values.len() - 1
                    })
                }));
            }
            asked
        })
        .filter(|asked| !asked.values.is_empty())
        .collect()
}

/// Puts the answers, one for each value asked for, in the place of the values.
///
/// # Errors
/// By [`Miss`], where there is no answer; Halt where there are several.
pub(in crate::sink) fn fill(
    place: &str,
    table: &Table,
    changes: &mut Changes<'_>,
    asked: &Asked<'_>,
    answers: &[Answer],
) -> Result<(), SinkError> {
    let Some((column, lookup)) =
        table.columns.get(asked.column).and_then(|column| Some((column, column.lookup.as_ref()?)))
    else {
        return Ok(());
    };
    for (row, value) in changes.rows.iter_mut().zip(&asked.rows) {
        let Some(value) = value else { continue };
        let there = format!("`{}` in table `{}`", lookup.matching, lookup.table);
        let found = match (answers.get(*value).unwrap_or(&Answer::None), lookup.miss) {
            (Answer::One(found), _) => found.clone(),
            (Answer::None, Miss::Null) => Value::Null,
            (Answer::None, Miss::DeadLetter) => {
                let problem = format!("column `{}`: no row has its value as {there}", column.name);
                return Err(table.refuse(row.event_offset, &problem));
            }
            (Answer::None, Miss::Wait) => {
                return Err(SinkError::Waits(format!(
                    "{place}: table `{}`, column `{}`: the event at offset {} waits for a row with its value as \
                     {there}",
                    table.name, column.name, row.event_offset
                )));
            }
            (Answer::Several, _) => {
                return Err(SinkError::Halt(format!(
                    "{place}: table `{}`, column `{}`: several rows have the value of the event at offset {} as \
                     {there}: make it unique there, or look up by another column",
                    table.name, column.name, row.event_offset
                )));
            }
        };
        if let Some(value) = row.values.get_mut(asked.column) {
            *value = found;
        }
    }
    Ok(())
}
