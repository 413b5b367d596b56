//! What the provider knows: each customer's connection, its token and status, and its records. It changes only by
//! what is done here, each time with the webhook that tells of it; whether that is sent is not decided here.
//!
//! No clock and no network: time and chance are given.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::cursor::Cursor;
use super::record::{Record, rfc3339_ms};
use super::resource::Resource;
use crate::rng::Rng;
use crate::sign::hmac_sha256_hex;

/// What the published secrets and tokens are made from.
const PUBLISHED: &str = "hookline sandbox";
/// Records that existed before were created within this time.
const CREATED_MS: usize = 30 * 86_400_000;
/// And changed last within this one: not longer ago, so that who has read the list before they were there asks for
/// them too.
const CHANGED_MS: usize = 1_000;

/// How a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It works.
    Online,
    /// The customer's system cannot be reached.
    Offline,
    /// It works in part.
    Degraded,
    /// The customer has to log in anew; until then the token is refused.
    ReauthorizationNeeded,
    /// The customer has ended it.
    Revoked,
}

impl Status {
    /// As in the type of its event, after `connection.`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Degraded => "degraded",
            Self::ReauthorizationNeeded => "reauthorization_needed",
            Self::Revoked => "revoked",
        }
    }

    /// As Hookline calls it, by the configuration that the sandbox prints.
    #[must_use]
    pub const fn told(self) -> &'static str {
        match self {
            Self::Online => "active",
            Self::Offline | Self::Degraded | Self::ReauthorizationNeeded | Self::Revoked => self.name(),
        }
    }
}

/// A webhook, ready to be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Webhook {
    pub(crate) connection: String,
    pub(crate) id: String,
    pub(crate) body: Vec<u8>,
    /// The record whose deletion it tells of: nothing else does.
    pub(crate) deletes: Option<(Resource, String)>,
}

/// A record that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Deleted {
    pub(crate) revision: u64,
    pub(crate) updated_ms: i64,
    /// Its webhook will never arrive, and a list cannot show it.
    pub(crate) lost: bool,
}

/// One list of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    /// By the order in which they were created, which is the order of the list and never changes.
    pub(crate) records: BTreeMap<u64, Record>,
    /// By id.
    pub(crate) deleted: BTreeMap<String, Deleted>,
    /// How many were ever created.
    created: u64,
    /// When it was last synchronised with the customer's system, in milliseconds since 1970.
    pub(crate) synced_ms: Option<i64>,
}

/// One customer's connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) status: Status,
    /// How often it was authorised: each time has a token of its own.
    generation: u32,
    /// Whether the token of this generation is refused.
    pub(crate) refused: bool,
    events: u64,
    last_event_ms: i64,
    shelves: BTreeMap<Resource, Shelf>,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Page {
    pub(crate) records: Vec<Value>,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<Cursor>,
    /// How many records the whole list has.
    pub(crate) total: usize,
}

/// All connections.
#[derive(Clone, Debug)]
pub(crate) struct World {
    pub(crate) connections: BTreeMap<String, Connection>,
    /// There are records that no webhook ever told of.
    pub(crate) stocked: bool,
}

impl World {
    pub(crate) fn new(connections: &[String]) -> Self {
        let connection = Connection {
            status: Status::Online,
            generation: 1,
            refused: false,
            events: 0,
            last_event_ms: i64::MIN,
            shelves: Resource::ALL.into_iter().map(|resource| (resource, Shelf::default())).collect(),
        };
        let connections = connections.iter().map(|id| (id.clone(), connection.clone())).collect();
        Self { connections, stocked: false }
    }

    /// The connection that a token was given out for, while it is good.
    pub(crate) fn connection_of(&self, given: &str) -> Option<&str> {
        let good = |(id, connection): &(&String, &Connection)| {
            !connection.refused && token(id, connection.generation) == given
        };
        self.connections.iter().find(good).map(|(id, _)| id.as_str())
    }

    /// The connection that a token was given out for at any time.
    pub(crate) fn once_of(&self, given: &str) -> Option<&str> {
        let was = |(id, connection): &(&String, &Connection)| {
            (1..=connection.generation).any(|generation| token(id, generation) == given)
        };
        self.connections.iter().find(was).map(|(id, _)| id.as_str())
    }

    /// The token that was given out last, which may be refused by now.
    pub(crate) fn token(&self, connection: &str) -> Option<String> {
        Some(token(connection, self.connections.get(connection)?.generation))
    }

    pub(crate) fn shelf(&self, connection: &str, resource: Resource) -> Option<&Shelf> {
        self.connections.get(connection)?.shelves.get(&resource)
    }

    fn shelf_mut(&mut self, connection: &str, resource: Resource) -> Option<&mut Shelf> {
        self.connections.get_mut(connection)?.shelves.get_mut(&resource)
    }

    /// Puts records there that no webhook tells of, until a list has `count`: each has been changed before.
    pub(crate) fn stock(&mut self, rng: &mut Rng, resource: Resource, count: usize, now_ms: i64) {
        let before = |rng: &mut Rng, longest_ms| now_ms - i64::try_from(rng.below(longest_ms)).unwrap_or(0);
        for connection in self.connections.values_mut() {
            let Some(shelf) = connection.shelves.get_mut(&resource) else { continue };
            while shelf.records.len() < count {
                self.stocked = true;
                let (created_ms, changed_ms) = (before(rng, CREATED_MS), before(rng, CHANGED_MS));
                let record = shelf.create(rng, resource, created_ms);
                for _ in 0..1 + rng.below(3) {
                    record.change(rng, resource, changed_ms);
                }
            }
        }
    }

    /// Creates a record. None where there is no such connection.
    pub(crate) fn create(&mut self, at: At<'_>, rng: &mut Rng) -> Option<(String, Webhook)> {
        let record = self.shelf_mut(at.connection, at.resource)?.create(rng, at.resource, at.ms);
        let (id, data) = (record.id.clone(), record.to_json());
        Some((id, self.record_event(at, "created", &data)?))
    }

    /// Changes a record. None where there is none.
    pub(crate) fn update(&mut self, at: At<'_>, id: &str, rng: &mut Rng) -> Option<Webhook> {
        let shelf = self.shelf_mut(at.connection, at.resource)?;
        let record = shelf.records.values_mut().find(|record| record.id == id)?;
        record.change(rng, at.resource, at.ms);
        let data = record.to_json();
        self.record_event(at, "updated", &data)
    }

    /// Deletes a record: what is left of it is its next revision. None where there is none.
    pub(crate) fn delete(&mut self, at: At<'_>, id: &str, lost: bool) -> Option<Webhook> {
        let shelf = self.shelf_mut(at.connection, at.resource)?;
        let place = *shelf.records.iter().find(|(_, record)| record.id == id)?.0;
        let record = shelf.records.remove(&place)?;
        let (revision, updated_ms) = (record.revision + 1, at.ms.max(record.updated_ms + 1));
        shelf.deleted.insert(record.id, Deleted { revision, updated_ms, lost });
        let data = json!({ "id": id, "revision": revision, "updated_at": rfc3339_ms(updated_ms) });
        let webhook = self.record_event(at, "deleted", &data)?;
        Some(Webhook { deletes: Some((at.resource, id.to_owned())), ..webhook })
    }

    /// A deletion's webhook was given up after all.
    pub(crate) fn deletion_lost(&mut self, connection: &str, resource: Resource, id: &str) {
        let deleted = self.shelf_mut(connection, resource).and_then(|shelf| shelf.deleted.get_mut(id));
        if let Some(deleted) = deleted {
            deleted.lost = true;
        }
    }

    /// Changes a connection's status. A token is refused while the customer has to log in anew, and for ever once
    /// the connection is revoked or another token was given out. None where there is no such connection.
    pub(crate) fn set_status(&mut self, connection: &str, status: Status, now_ms: i64) -> Option<Webhook> {
        let state = self.connections.get_mut(connection)?;
        state.status = status;
        match status {
            Status::ReauthorizationNeeded | Status::Revoked => state.refused = true,
            Status::Online if state.refused => {
                state.refused = false;
                state.generation += 1;
            }
            Status::Online | Status::Offline | Status::Degraded => {}
        }
        let kind = format!("connection.{}", status.name());
        self.event(connection, &kind, now_ms, &json!({ "system": "SAP S/4HANA", "status": status.name() }))
    }

    /// A list was synchronised with the customer's system.
    pub(crate) fn sync(&mut self, connection: &str, resource: Resource, now_ms: i64) -> Option<Webhook> {
        let shelf = self.shelf_mut(connection, resource)?;
        shelf.synced_ms = Some(now_ms);
        let data = json!({ "resource": resource.path(), "records": shelf.records.len() });
        self.event(connection, "sync.completed", now_ms, &data)
    }

    /// At most `limit` records of a list, after the cursor's.
    pub(crate) fn page(&self, connection: &str, resource: Resource, from: Cursor, limit: usize) -> Page {
        let empty = Shelf::default();
        let shelf = self.shelf(connection, resource).unwrap_or(&empty);
        let wanted = |record: &Record| from.modified_after_ms.is_none_or(|after| record.updated_ms > after);
        let mut rest = shelf.records.range(from.after + 1..).filter(|(_, record)| wanted(record));
        let page: Vec<_> = rest.by_ref().take(limit).collect();
        let last = page.last().map(|(place, _)| **place);
        Page {
            next: last.filter(|_| rest.next().is_some()).map(|after| Cursor { after, ..from }),
            records: page.into_iter().map(|(_, record)| record.to_json()).collect(),
            total: shelf.records.values().filter(|record| wanted(record)).count(),
        }
    }

    /// At most `limit` records of a list after the first `skip`, as they are counted now.
    pub(crate) fn numbered_page(
        &self,
        connection: &str,
        resource: Resource,
        modified_after_ms: Option<i64>,
        (skip, limit): (usize, usize),
    ) -> Page {
        let all = Cursor { after: 0, modified_after_ms };
        let mut page = self.page(connection, resource, all, skip.saturating_add(limit));
        page.records.drain(..skip.min(page.records.len()));
        page
    }

    fn record_event(&mut self, at: At<'_>, what: &str, data: &Value) -> Option<Webhook> {
        let kind = format!("{}.{what}", at.resource.kind());
        let connection = self.connections.get_mut(at.connection)?;
        connection.events += 1;
        Some(webhook(at.connection, connection.events, &kind, at.ms, data))
    }

    /// An event of the connection itself: its times rise, since by them it is ordered.
    fn event(&mut self, id: &str, kind: &str, now_ms: i64, data: &Value) -> Option<Webhook> {
        let connection = self.connections.get_mut(id)?;
        connection.last_event_ms = now_ms.max(connection.last_event_ms.saturating_add(1));
        connection.events += 1;
        Some(webhook(id, connection.events, kind, connection.last_event_ms, data))
    }
}

impl Shelf {
    fn create(&mut self, rng: &mut Rng, resource: Resource, at_ms: i64) -> &mut Record {
        self.created += 1;
        let record = Record::new(rng, resource, self.created, at_ms);
        self.records.entry(self.created).or_insert(record)
    }

    /// A record that there is, by chance.
    pub(crate) fn any(&self, rng: &mut Rng) -> Option<String> {
        let nth = rng.below(self.records.len().max(1));
        self.records.values().nth(nth).map(|record| record.id.clone())
    }
}

/// Where and when a record changes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct At<'a> {
    pub(crate) connection: &'a str,
    pub(crate) resource: Resource,
    /// Milliseconds since 1970.
    pub(crate) ms: i64,
}

fn webhook(connection: &str, n: u64, kind: &str, at_ms: i64, data: &Value) -> Webhook {
    let id = format!("evt_{connection}_{n:06}");
    let time = rfc3339_ms(at_ms);
    let body =
        json!({ "id": id, "type": kind, "connection_id": connection, "timestamp": time, "data": data });
    Webhook { connection: connection.to_owned(), id, body: body.to_string().into_bytes(), deletes: None }
}

/// What a connection's webhooks are signed with. Published: for trying things out only.
#[must_use]
pub fn secret(connection: &str) -> String {
    format!("sandbox-{connection}-{}", published(connection, "secret"))
}

fn token(connection: &str, generation: u32) -> String {
    format!("sandbox-token-{connection}-{generation}-{}", published(connection, &generation.to_string()))
}

fn published(connection: &str, what: &str) -> String {
    let mut hex = hmac_sha256_hex(PUBLISHED, &[connection.as_bytes(), b"/", what.as_bytes()]);
    hex.truncate(12);
    hex
}
