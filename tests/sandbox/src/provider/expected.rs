//! What must be there once all is over: each record's last state, each connection's status. And the comparison with
//! the rows that are there, whichever database they come from.
//!
//! Nothing is read here: rows come as plain values from a query.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::record::rfc3339_ms;
use super::resource::Resource;
use super::world::{Status, World};
use crate::check::{Difference, Kind};

/// What must be there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Expected {
    /// The source that everything is of.
    pub source: String,
    /// The records, by connection, list and id.
    pub entities: Vec<Entity>,
    /// The connections' statuses.
    pub connections: BTreeMap<String, Status>,
    /// How many events of purchase orders must be applied, each of them once: known where every one of them was told
    /// by a webhook that arrived, and true while nothing polls.
    pub purchase_order_events: Option<u64>,
}

/// A record's last state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Entity {
    /// Whose.
    pub connection: String,
    /// In which list.
    pub resource: Resource,
    /// Its id in the list.
    pub id: String,
    /// The entity, with its prefix.
    pub entity: String,
    /// The last revision.
    pub revision: u64,
    /// When that came to be: RFC 3339 in UTC, with milliseconds.
    pub updated_at: String,
    /// The record; none where it was deleted.
    pub record: Option<Value>,
    /// It was deleted, but no webhook of that arrived, and a list cannot show it: the state before, whichever of its
    /// revisions, is right too.
    pub deletion_lost: bool,
}

/// A row of the sink about a record.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// Whose.
    pub connection: String,
    /// In which list; none where the entity belongs to none.
    pub resource: Option<Resource>,
    /// Its id in the list, without the entity's prefix.
    pub id: String,
    /// Its revision; 0 where a deletion does not tell it.
    pub revision: u64,
    /// When that came to be: RFC 3339, or as PostgreSQL writes it; compared as an instant.
    pub updated_at: String,
    /// The row marks a deleted record. A row that is not there does so too.
    pub deleted: bool,
    /// The whole record, where the row has it.
    pub record: Option<Value>,
    /// Single fields of the record as text, by their pointers such as `/vendor/name`, where the row has some: a string as
    /// it is, all else as JSON.
    pub fields: BTreeMap<String, String>,
}

impl Row {
    /// A row of `hookline_entities`, by its columns `connection`, `entity` and `body`. None where the entity is no
    /// record, such as a connection.
    ///
    /// # Errors
    /// The body is not an event of a record; which part is missing.
    pub fn of_entity(connection: &str, entity: &str, body: &[u8]) -> Option<Result<Self, String>> {
        let (resource, id) = Resource::of_entity(entity)?;
        let about = format!("{connection}/{entity}");
        Some(Self::read(connection, resource, id, body).ok_or_else(|| {
            format!(
                "{about}: the body is not an event with type, /data/id, /data/revision and /data/updated_at"
            )
        }))
    }

    fn read(connection: &str, resource: Resource, id: &str, body: &[u8]) -> Option<Self> {
        let body: Value = serde_json::from_slice(body).ok()?;
        let record = body.get("data")?;
        let deleted = body.get("type")?.as_str()?.ends_with(".deleted");
        if record.get("id")?.as_str()? != id {
            return None;
        }
        let revision = record.get("revision").and_then(Value::as_u64);
        let updated_at = record.get("updated_at").and_then(Value::as_str);
        // A deletion that Hookline found by itself has no more than the id.
        let (revision, updated_at) = match deleted {
            true => (revision.unwrap_or(0), updated_at.unwrap_or_default()),
            false => (revision?, updated_at?),
        };
        Some(Self {
            connection: connection.to_owned(),
            resource: Some(resource),
            id: id.to_owned(),
            revision,
            updated_at: updated_at.to_owned(),
            deleted,
            record: (!deleted).then(|| record.clone()),
            fields: BTreeMap::new(),
        })
    }
}

/// Compares the rows with what must be there, and names each difference. Rows of other lists than those in `lists`
/// are not looked at, nor is what must be in them.
#[must_use]
pub fn compare(expected: &Expected, lists: &[Resource], rows: &[Row]) -> Vec<Difference> {
    let mut out = Vec::new();
    let mut found: BTreeMap<_, Vec<&Row>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.resource.is_none_or(|resource| lists.contains(&resource))) {
        found.entry((row.connection.as_str(), row.resource, row.id.as_str())).or_default().push(row);
    }
    for entity in expected.entities.iter().filter(|entity| lists.contains(&entity.resource)) {
        let name = format!("{}/{}", entity.connection, entity.entity);
        let key = (entity.connection.as_str(), Some(entity.resource), entity.id.as_str());
        let rows = found.remove(&key).unwrap_or_default();
        if rows.is_empty() && entity.record.is_some() {
            out.push(difference(Kind::MissingEntity, format!("{name}, revision {}", entity.revision)));
        }
        if rows.len() > 1 {
            out.push(difference(Kind::ExtraEntity, format!("{name} has {} rows", rows.len())));
        }
        for wrong in rows.iter().filter_map(|row| wrong_state(entity, row)) {
            out.push(difference(Kind::WrongState, format!("{name} {wrong}")));
        }
    }
    for ((connection, resource, id), rows) in found {
        let resource = resource.map_or("no list", Resource::name);
        let about = format!("{} of {connection}, {resource}, id {id}", rows.len());
        out.push(difference(Kind::ExtraEntity, about));
    }
    out
}

/// Compares the connections' statuses, as Hookline calls them, such as `active`.
#[must_use]
pub fn compare_statuses(expected: &Expected, statuses: &BTreeMap<String, String>) -> Vec<Difference> {
    let known: BTreeSet<_> = expected.connections.keys().chain(statuses.keys()).collect();
    let mut out = Vec::new();
    for connection in known {
        match (expected.connections.get(connection), statuses.get(connection)) {
            (Some(status), Some(found)) if status.told() != found => {
                let about = format!("connection {connection} is {found}, not {}", status.told());
                out.push(difference(Kind::WrongState, about));
            }
            (Some(status), None) => {
                out.push(difference(
                    Kind::MissingEntity,
                    format!("connection {connection}, {}", status.told()),
                ));
            }
            (None, Some(_)) => out.push(difference(Kind::ExtraEntity, format!("connection {connection}"))),
            (Some(_), Some(_)) | (None, None) => {}
        }
    }
    out
}

pub(super) fn difference(kind: Kind, about: String) -> Difference {
    Difference { kind, about }
}

/// What is wrong with an entity's row, without any value of a field.
fn wrong_state(entity: &Entity, row: &Row) -> Option<String> {
    if row.deleted && entity.record.is_some() {
        return Some("is deleted, and should be there".to_owned());
    }
    if row.deleted && (entity.deletion_lost || row.revision == 0) {
        return None;
    }
    if entity.deletion_lost {
        return (row.revision >= entity.revision).then(|| {
            format!("has revision {}, which came after its deletion, {}", row.revision, entity.revision)
        });
    }
    if row.revision != entity.revision {
        return Some(format!("has revision {}, not {}", row.revision, entity.revision));
    }
    let instant = |text: &str| text.parse::<jiff::Timestamp>().ok();
    if instant(&row.updated_at).is_none() || instant(&row.updated_at) != instant(&entity.updated_at) {
        return Some(format!("was updated at {:?}, not {}", row.updated_at, entity.updated_at));
    }
    match &entity.record {
        None if !row.deleted => Some("is there, and should be deleted".to_owned()),
        Some(record) if row.record.as_ref().is_some_and(|found| found != record) => {
            Some(format!("has another record at revision {}", row.revision))
        }
        Some(record) => {
            let differs = |(field, text): &(&String, &String)| {
                record.pointer(field).map(as_text).as_ref() != Some(*text)
            };
            row.fields.iter().find(differs).map(|(field, _)| format!("has another {field}"))
        }
        None => None,
    }
}

/// A field as a column of text has it.
pub(super) fn as_text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// What the world is like now, as the sink must have it in the end.
pub(crate) fn of_world(source: &str, world: &World, all_told: bool) -> Expected {
    let mut entities = Vec::new();
    for connection in world.connections.keys() {
        for resource in Resource::ALL {
            let Some(shelf) = world.shelf(connection, resource) else { continue };
            let entity = |id: &str, revision: u64, updated_ms: i64| Entity {
                connection: connection.clone(),
                resource,
                id: id.to_owned(),
                entity: format!("{}{id}", resource.entity_prefix()),
                revision,
                updated_at: rfc3339_ms(updated_ms),
                record: None,
                deletion_lost: false,
            };
            entities.extend(shelf.records.values().map(|record| Entity {
                record: Some(record.to_json()),
                ..entity(&record.id, record.revision, record.updated_ms)
            }));
            entities.extend(shelf.deleted.iter().map(|(id, deleted)| Entity {
                deletion_lost: deleted.lost,
                ..entity(id, deleted.revision, deleted.updated_ms)
            }));
        }
    }
    entities.sort_by(|a, b| (&a.connection, a.resource, &a.id).cmp(&(&b.connection, b.resource, &b.id)));
    let orders = entities.iter().filter(|entity| entity.resource == Resource::PurchaseOrders);
    Expected {
        source: source.to_owned(),
        purchase_order_events: all_told.then(|| orders.map(|entity| entity.revision).sum()),
        connections: world
            .connections
            .iter()
            .map(|(id, connection)| (id.clone(), connection.status))
            .collect(),
        entities,
    }
}

#[cfg(test)]
mod tests;
