//! The user's own collections: a document for each entity, or for each event that is appended.
//!
//! A document is guarded as those of hookline_entities are, by the field `hookline_position`; that of a deleted entity
//! stays, with its key and `hookline_deleted`, and so its guard. Look-ups come before the batch's writes: an event
//! can be refused as long as nothing of it is written.

use std::collections::{BTreeMap, HashMap};

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::error::Error;
use shared::config::{LookupConfig, OnDelete};

use super::connect::{Server, Session};
use super::documents::{self, DOCUMENT_BYTES_MAX};
use super::guarded::{self, Guarded, Place};
use crate::sink::mapping::look_up::{self, Answer, Asked};
use crate::sink::mapping::table::Table;
use crate::sink::mapping::value::{self, Value};
use crate::sink::mapping::{Changes, Mapped, check};
use crate::sink::{SinkError, rows};

const POSITION: &str = "hookline_position";
const DELETED: &str = "hookline_deleted";
/// Values in one command that looks up.
const VALUES_MAX: usize = 500;
/// MongoDB refuses documents of more than 100 levels; some are around the JSON.
const NESTING_MAX: usize = 90;

/// Checks the collections: they are the user's to make.
pub(super) async fn check(session: &Session, server: &Server) -> Result<(), SinkError> {
    if server.tables.is_empty() {
        return Ok(());
    }
    let names = session.database.list_collection_names().await;
    let names = names.map_err(|e| rows::not_by_data(server.failed(&e)))?;
    let mut faults = Vec::new();
    for table in &server.tables {
        if !names.contains(&table.name) {
            faults.push(format!("table `{}` does not exist", table.name));
        }
        for column in &table.columns {
            let Some(lookup) = &column.lookup else { continue };
            let there = format!("table `{}`, column `{}` looks up in", table.name, column.name);
            if !names.contains(&lookup.table) {
                faults.push(format!("{there} table `{}`, which does not exist", lookup.table));
            }
            if [&lookup.matching, &lookup.take].into_iter().any(|name| name.contains(['.', '$'])) {
                faults.push(format!(
                    "{there} a field with a dot or a dollar sign: name one of the document's own"
                ));
            }
        }
    }
    check::faulty(&server.to_string(), server.pipeline(), &faults)
}

/// The writes of a batch, by table.
pub(super) async fn writes(
    session: &Session,
    server: &Server,
    partition: i32,
    changes: Vec<Changes<'_>>,
) -> Result<Vec<Vec<Guarded>>, SinkError> {
    let mut all = Vec::with_capacity(changes.len());
    for (table, mut changes) in server.tables.iter().zip(changes) {
        for asked in look_up::asked(table, &changes) {
            let answers = look_up(session, server, table, &asked).await?;
            look_up::fill(&server.to_string(), table, &mut changes, &asked, &answers)?;
        }
        all.push(of_table(table, partition, &changes)?);
    }
    Ok(all)
}

/// Applies the writes.
pub(super) async fn apply(
    session: &Session,
    server: &Server,
    writes: Vec<Vec<Guarded>>,
) -> Result<(), SinkError> {
    for (table, writes) in server.tables.iter().zip(writes) {
        let place = Place { collection: &table.name, guard: POSITION };
        guarded::write(session, server, &place, writes).await?;
    }
    Ok(())
}

fn of_table(table: &Table, partition: i32, changes: &Changes<'_>) -> Result<Vec<Guarded>, SinkError> {
    let all: Vec<usize> = (0..table.columns.len()).collect();
    let (key, others): (Vec<usize>, Vec<usize>) = all.iter().partition(|n| table.key.contains(n));
    let mut writes = Vec::new();
    for row in &changes.rows {
        let set = fields(table, &all, row, partition)?;
        let update = if table.is_upsert && table.on_delete == OnDelete::Delete {
            doc! { "$set": set, "$unset": { DELETED: "" } }
        } else {
            doc! { "$set": set }
        };
        writes.push(guarded(table, row, partition, update)?);
    }
    for row in &changes.gone {
        let mut set = fields(table, &key, row, partition)?;
        set.insert(DELETED, true);
        let mut update = doc! { "$set": set };
        let unset: Document =
            others.iter().filter_map(|n| name(table, *n)).map(|name| (name, "".into())).collect();
        if !unset.is_empty() {
            update.insert("$unset", unset);
        }
        writes.push(guarded(table, row, partition, update)?);
    }
    for row in &changes.marks {
        let set = fields(table, &table.marked, row, partition)?;
        // An event before this one has made the document, unless the table took none.
        writes.push(guarded(table, row, partition, doc! { "$set": set })?.if_there());
    }
    Ok(writes)
}

fn guarded(table: &Table, row: &Mapped<'_>, partition: i32, update: Document) -> Result<Guarded, SinkError> {
    let position = documents::id(partition, row.position);
    let identity: Vec<_> = table.key.iter().filter_map(|n| row.values.get(*n)).map(Value::text).collect();
    let key = if table.is_upsert { shared::event::joined(&identity) } else { position.clone() };
    let write = Guarded::new(key, position, update);
    if write.bytes > DOCUMENT_BYTES_MAX {
        return Err(table.refuse(row.event_offset, "it is larger than a MongoDB document can be"));
    }
    Ok(write)
}

fn fields(table: &Table, columns: &[usize], row: &Mapped<'_>, partition: i32) -> Result<Document, SinkError> {
    let mut fields = Document::new();
    for n in columns {
        let (Some(name), Some(value)) = (name(table, *n), row.values.get(*n)) else { continue };
        let value = bson(value)
            .map_err(|problem| table.refuse(row.event_offset, &format!("column `{name}`: it {problem}")))?;
        fields.insert(name, value);
    }
    fields.insert(POSITION, documents::id(partition, row.position));
    Ok(fields)
}

fn name(table: &Table, n: usize) -> Option<String> {
    table.columns.get(n).map(|column| column.name.clone())
}

/// A value as MongoDB has it. A decimal is its text: no type of MongoDB's holds every one.
fn bson(value: &Value<'_>) -> Result<Bson, &'static str> {
    Ok(match value {
        Value::Null => Bson::Null,
        Value::Text(text) | Value::Decimal(text) => (&**text).into(),
        Value::Integer(number) => Bson::Int64(*number),
        Value::Boolean(is) => Bson::Boolean(*is),
        Value::Real(number) => Bson::Double(*number),
        Value::Timestamp(time) => DateTime::from_millis(time.as_millisecond()).into(),
        Value::Date(_) => value.text().into_owned().into(),
        Value::Json(json) => {
            let json = serde_json::from_str(json).map_err(|_| "cannot be read as JSON")?;
            of_json(json, 0)?
        }
    })
}

fn of_json(json: serde_json::Value, depth: usize) -> Result<Bson, &'static str> {
    if depth > NESTING_MAX {
        return Err("nests deeper than a MongoDB document can");
    }
    Ok(match json {
        serde_json::Value::Null => Bson::Null,
        serde_json::Value::Bool(is) => Bson::Boolean(is),
        serde_json::Value::Number(number) => of_number(&number.to_string()),
        serde_json::Value::String(text) => Bson::String(text),
        serde_json::Value::Array(elements) => {
            let elements = elements.into_iter().map(|element| of_json(element, depth + 1));
            Bson::Array(elements.collect::<Result<_, _>>()?)
        }
        serde_json::Value::Object(fields) => {
            let mut document = Document::new();
            for (name, value) in fields {
                if name.contains(['.', '$', '\0']) {
                    return Err(
                        "has a name with a dot, a dollar sign or U+0000, which is no name for a field",
                    );
                }
                document.insert(name, of_json(value, depth + 1)?);
            }
            Bson::Document(document)
        }
    })
}

/// A number where MongoDB has the same one; else its text.
fn of_number(number: &str) -> Bson {
    if let Ok(whole) = number.parse() {
        return Bson::Int64(whole);
    }
    match (value::decimal(number), number.parse::<f64>()) {
        (Some(exact), Ok(double))
            if value::decimal(&format!("{double:?}")).is_some_and(|d| value::same(&d, &exact)) =>
        {
            Bson::Double(double)
        }
        _ => number.into(),
    }
}

async fn look_up(
    session: &Session,
    server: &Server,
    table: &Table,
    asked: &Asked<'_>,
) -> Result<Vec<Answer>, SinkError> {
    let mut answers = vec![Answer::None; asked.values.len()];
    let column = table.columns.get(asked.column);
    let Some(lookup) = column.and_then(|column| column.lookup.as_ref()) else { return Ok(answers) };
    let failed = |e: Error| rows::not_by_data(server.failed(&e));
    let places: HashMap<String, usize> =
        asked.values.iter().enumerate().map(|(n, value)| (value::key([value].into_iter()), n)).collect();
    let collection = session.database.collection::<Document>(&lookup.table);
    for values in asked.values.chunks(VALUES_MAX) {
        let values = values.iter().map(bson).collect::<Result<Vec<_>, _>>();
        let values = values
            .map_err(|problem| SinkError::Refused(format!("{server}: a value to look up {problem}")))?;
        let filter = doc! { &lookup.matching: { "$in": values }, DELETED: { "$ne": true } };
        let projection: BTreeMap<&str, i32> =
            [(lookup.matching.as_str(), 1), (lookup.take.as_str(), 1)].into();
        let projection =
            projection.into_iter().map(|(name, one)| (name.to_owned(), one.into())).collect::<Document>();
        let mut cursor = collection.find(filter).projection(projection).await.map_err(failed)?;
        while cursor.advance().await.map_err(failed)? {
            let found = cursor.deserialize_current().map_err(failed)?;
            let matched = found.get(&lookup.matching).and_then(of_bson);
            let place = matched.and_then(|value| places.get(&value::key([&value].into_iter())));
            let Some(answer) = place.and_then(|place| answers.get_mut(*place)) else { continue };
            let taken = taken(server, lookup, found.get(&lookup.take).unwrap_or(&Bson::Null))?;
            if *answer != Answer::None {
                *answer = Answer::Several;
                return Ok(answers);
            }
            *answer = Answer::One(taken);
        }
    }
    Ok(answers)
}

fn taken(server: &Server, lookup: &LookupConfig, found: &Bson) -> Result<Value<'static>, SinkError> {
    of_bson(found).ok_or_else(|| {
        SinkError::Halt(format!(
            "{server}: column `{}` of table `{}`, which a look-up takes, is no text, number, time or boolean",
            lookup.take, lookup.table
        ))
    })
}

fn of_bson(found: &Bson) -> Option<Value<'static>> {
    Some(match found {
        Bson::Null | Bson::Undefined => Value::Null,
        Bson::String(text) => Value::Text(text.clone().into()),
        Bson::Int32(number) => Value::Integer((*number).into()),
        Bson::Int64(number) => Value::Integer(*number),
        Bson::Double(number) => Value::Real(*number),
        Bson::Boolean(is) => Value::Boolean(*is),
        Bson::DateTime(time) => {
            Value::Timestamp(jiff::Timestamp::from_millisecond(time.timestamp_millis()).ok()?)
        }
        Bson::Array(_)
        | Bson::Document(_)
        | Bson::RegularExpression(_)
        | Bson::JavaScriptCode(_)
        | Bson::JavaScriptCodeWithScope(_)
        | Bson::Timestamp(_)
        | Bson::Binary(_)
        | Bson::ObjectId(_)
        | Bson::Symbol(_)
        | Bson::Decimal128(_)
        | Bson::MaxKey
        | Bson::MinKey
        | Bson::DbPointer(_) => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_becomes_a_document_and_no_number_another_one() {
        let json = r#"{"whole":9007199254740993,"price":12.500,"exact":0.1000000000000000055511,"huge":1e400,"a":[true,null]}"#;
        let expected = doc! {
            "whole": 9_007_199_254_740_993_i64,
            "price": 12.5,
            "exact": "0.1000000000000000055511",
            "huge": "1e+400",
            "a": [true, Bson::Null],
        };
        let expected: BTreeMap<_, _> = expected.into_iter().collect();
        let Ok(Bson::Document(found)) = bson(&Value::Json(json.into())) else { panic!("no document") };
        assert_eq!(found.into_iter().collect::<BTreeMap<_, _>>(), expected);
    }

    #[test]
    fn what_a_document_cannot_hold_is_refused() {
        for json in [r#"{"a":{"b.c":1}}"#, r#"{"$a":1}"#, "{\"\\u0000\":1}"] {
            assert!(bson(&Value::Json(json.into())).unwrap_err().contains("no name for a field"), "{json}");
        }
        let deep = format!("{}{}", "[".repeat(95), "]".repeat(95));
        assert!(bson(&Value::Json(deep.into())).unwrap_err().contains("nests deeper"));
    }
}
