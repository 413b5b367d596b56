//! The MongoDB sink on a server that speaks its protocol (FerretDB): the promises of every sink with a fence, and
//! MongoDB's own.
//!
//! `tests/run sinks` has what they need; without it they fail and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test: a panic is its way to fail")]

mod sink_contract;

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};

use hookline_tests::ferretdb::FerretDb;
use jiff::Timestamp;
use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, IndexModel};
use processor::sink::{self, SinkError};
use shared::config::{ColumnType, DatabaseSinkConfig, SinkConfig};
use shared::event::Event;
use tokio::runtime::{Builder, Runtime};

use sink_contract::example;
use sink_contract::mapping::{self, Mapped, Table};
use sink_contract::remote::{self, Remote};
use sink_contract::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, effect, epoch, event, halted, ids, open,
    promises, retried, simple, tls,
};

promises!(Database::new());
remote::promises!(Database::new());
mapping::promises!(Database::new());
mapping::remote_promises!(Database::new());

/// There is no mongosh: the collections' names are read, and the collections made by the client.
#[test]
fn the_example_of_purchase_orders_runs() {
    let database = Database::new();
    let script = example::file("mongodb", "collections.js");
    let names =
        script.lines().filter_map(|line| line.strip_prefix("db.createCollection(\"")?.strip_suffix("\");"));
    let made = database.client.database(&database.name);
    for name in names {
        database.runtime.block_on(async { made.create_collection(name).await.unwrap() });
    }
    example::runs(&database, "mongodb", false);
}

#[test]
fn a_former_owner_that_was_held_up_anywhere_changes_nothing() {
    remote::a_former_owner_that_was_held_up_anywhere_changes_nothing(&Database::new(), 4);
}

/// A database of its own.
struct Database {
    name: String,
    client: Client,
    runtime: Runtime,
}

impl Database {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("sink_{}_{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let url = format!("mongodb://127.0.0.1:{}/{name}", FerretDb::shared().port());
        let client = runtime.block_on(Client::with_uri_str(url)).unwrap();
        Self { name, client, runtime }
    }

    fn collection(&self, name: &str) -> mongodb::Collection<Document> {
        self.client.database(&self.name).collection(name)
    }

    /// Hookline's own documents, in the order of their keys.
    fn read(&self, collection: &str) -> Vec<Document> {
        self.find(collection, doc! { "log_partition": { "$exists": true } })
    }

    fn find(&self, collection: &str, filter: Document) -> Vec<Document> {
        self.runtime.block_on(async {
            let mut cursor = self.collection(collection).find(filter).sort(doc! { "_id": 1 }).await.unwrap();
            let mut documents = Vec::new();
            while cursor.advance().await.unwrap() {
                documents.push(cursor.deserialize_current().unwrap());
            }
            documents
        })
    }

    fn set(&self, collection: &str, fields: Document) {
        let collection = self.collection(collection);
        let set = collection.update_many(doc! {}, doc! { "$set": fields });
        assert!(self.runtime.block_on(async { set.await.unwrap() }).matched_count > 0);
    }

    fn insert(&self, collection: &str, document: Document) {
        self.runtime.block_on(async { self.collection(collection).insert_one(document).await.unwrap() });
    }

    fn url(&self, host: &str, port: u16, parameters: &str) -> String {
        format!("mongodb://{host}:{port}/{}{parameters}", self.name)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let _ = self.runtime.block_on(async { self.client.database(&self.name).drop().await });
    }
}

fn config(url: String, statement_timeout: &str) -> SinkConfig {
    let text = format!("url = \"env:UNUSED\"\nstatement_timeout = \"{statement_timeout}\"");
    let mut config: DatabaseSinkConfig = toml::from_str(&text).unwrap();
    config.url_value = Some(url.into());
    SinkConfig::Mongodb(config)
}

fn text(document: &Document, name: &str) -> String {
    document.get_str(name).unwrap().to_owned()
}

fn optional(document: &Document, name: &str) -> Option<String> {
    (document.get(name) != Some(&Bson::Null)).then(|| text(document, name))
}

fn time(document: &Document, name: &str) -> String {
    let ms = document.get_datetime(name).unwrap().timestamp_millis();
    format!("{:.3}", Timestamp::from_millisecond(ms).unwrap())
}

fn body(document: &Document) -> Vec<u8> {
    let bytes = document.get_binary_generic("body").cloned();
    bytes.unwrap_or_else(|_| text(document, "body").into_bytes())
}

impl Place for Database {
    fn config(&self) -> SinkConfig {
        config(self.url("127.0.0.1", FerretDb::shared().port(), ""), "30s")
    }

    fn events(&self) -> Vec<StoredEvent> {
        let read = |d: &Document| StoredEvent {
            partition: d.get_i32("log_partition").unwrap(),
            at: (d.get_i64("effect_offset").unwrap(), d.get_i32("effect_ordinal").unwrap()),
            source: text(d, "source"),
            connection: text(d, "connection"),
            id: text(d, "event_id"),
            kind: text(d, "type"),
            entity: optional(d, "entity"),
            sequence: optional(d, "sequence"),
            time: optional(d, "event_time"),
            content_type: optional(d, "content_type"),
            traceparent: optional(d, "traceparent"),
            received_at: time(d, "received_at"),
            log_offset: d.get_i64("log_offset").unwrap(),
            appended_at: time(d, "appended_at"),
            body: body(d),
        };
        self.read("hookline_events").iter().map(read).collect()
    }

    fn entities(&self) -> Vec<StoredEntity> {
        let read = |d: &Document| {
            let (partition, offset) =
                (d.get_i32("log_partition").unwrap(), d.get_i64("effect_offset").unwrap());
            StoredEntity {
                source: text(d, "source"),
                connection: text(d, "connection"),
                entity: text(d, "entity"),
                id: text(d, "event_id"),
                kind: text(d, "type"),
                sequence: optional(d, "sequence"),
                at: (partition, offset, d.get_i32("effect_ordinal").unwrap()),
                updated: time(d, "updated"),
                body: body(d),
            }
        };
        let mut entities: Vec<_> = self.read("hookline_entities").iter().map(read).collect();
        entities.sort_by_key(|entity| entity.at);
        entities
    }

    fn tamper(&self, how: Tamper) {
        match how {
            Tamper::MoveEvent { from, to } => {
                let mut found = self.read("hookline_events");
                found.retain(|event| event.get_i64("effect_offset").unwrap() == from);
                let [mut moved] = found.try_into().unwrap();
                let id = moved.insert("_id", format!("{:010}:{to:019}:{:010}", 0, 0)).unwrap();
                moved.insert("effect_offset", to);
                let events = self.collection("hookline_events");
                self.runtime.block_on(async { events.delete_one(doc! { "_id": id }).await.unwrap() });
                self.insert("hookline_events", moved);
            }
            Tamper::FenceOrdinal(to) => self.set("hookline_fence", doc! { "effect_ordinal": to }),
            Tamper::Pipeline(to) => self.set("hookline_fence", doc! { "pipeline": to }),
            Tamper::Version(to) => self.insert("hookline_schema", doc! { "_id": to }),
        }
    }

    /// FerretDB has no validators: a unique index and what it collides with.
    fn refuse_bad(&self) {
        let mut index = IndexModel::builder().keys(doc! { "type": 1, "event_id": 1 }).build();
        index.options = Some(mongodb::options::IndexOptions::builder().unique(true).build());
        let events = self.collection("hookline_events");
        self.runtime.block_on(async { events.create_index(index).await.unwrap() });
        self.insert("hookline_events", doc! { "_id": "first", "type": "bad", "event_id": "hunter2" });
    }

    /// FerretDB panics when several clients make a database's first collection at the same time.
    fn prepare(&self) {
        open(self).unwrap();
    }

    fn is_atomic(&self) -> bool {
        false
    }
}

/// A value that the tests put into JSON.
#[allow(clippy::wildcard_enum_match_arm, reason = "the tests put no others into it")]
fn json_of(value: &Bson) -> serde_json::Value {
    match value {
        Bson::Null => serde_json::Value::Null,
        Bson::Boolean(is) => (*is).into(),
        Bson::Int64(number) => (*number).into(),
        Bson::Double(number) => (*number).into(),
        Bson::String(text) => text.as_str().into(),
        Bson::Array(elements) => elements.iter().map(json_of).collect(),
        Bson::Document(fields) => fields.iter().map(|(name, value)| (name.clone(), json_of(value))).collect(),
        other => panic!("{other:?}"),
    }
}

impl Mapped for Database {
    fn create(&self, table: &Table) {
        let database = self.client.database(&self.name);
        self.runtime.block_on(async { database.create_collection(table.name).await.unwrap() });
    }

    fn rows(&self, table: &Table) -> Vec<Vec<String>> {
        let documents = self.find(table.name, doc! { "hookline_deleted": { "$exists": false } });
        let value = |document: &Document, (name, kind): &(&str, ColumnType)| match (document.get(name), kind)
        {
            (None, _) => panic!("no field {name}"),
            (Some(Bson::Null), _) => "null".to_owned(),
            (Some(Bson::String(text)), ColumnType::Text | ColumnType::Decimal | ColumnType::Date) => {
                text.clone()
            }
            (Some(Bson::Int64(number)), ColumnType::Integer) => number.to_string(),
            (Some(Bson::Boolean(is)), ColumnType::Boolean) => is.to_string(),
            (Some(Bson::DateTime(time)), ColumnType::Timestamp) => {
                format!("{:.6}", Timestamp::from_millisecond(time.timestamp_millis()).unwrap())
            }
            (Some(json), ColumnType::Json) => json_of(json).to_string(),
            (Some(other), kind) => panic!("{name}, {kind}: {other:?}"),
        };
        let row = |document| table.columns.iter().map(|column| value(document, column)).collect();
        documents.iter().map(row).collect()
    }

    fn insert(&self, table: &Table, values: &[&str]) {
        let fields = table
            .columns
            .iter()
            .zip(values)
            .map(|((name, _), value)| ((*name).to_owned(), Bson::from(*value)));
        self.insert(table.name, fields.collect());
    }

    /// FerretDB reads all documents for each one that it writes.
    fn many(&self) -> i64 {
        100
    }

    fn has_microseconds(&self) -> bool {
        false
    }
}

impl Remote for Database {
    fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, FerretDb::shared().port()).into()
    }

    fn config_at(&self, host: &str, port: u16) -> SinkConfig {
        config(self.url(host, port, ""), "1s")
    }

    /// FerretDB knows no users at all.
    fn wrong_credentials(&self) -> Vec<SinkConfig> {
        let host = "hookline_nobody:hunter2@127.0.0.1";
        vec![config(self.url(host, FerretDb::shared().port(), ""), "1s")]
    }
}

#[test]
fn a_delivery_that_was_cut_off_is_completed_by_the_next_owner() {
    let database = Database::new();
    let mut old = Owner::claim(&database, 0, epoch(1));
    old.deliver(&[simple(1), simple(2), simple(3)]).unwrap();
    // As if it had been cut off: in the middle of the events, of the entities, and before the fence.
    let events = database.collection("hookline_events");
    let last = doc! { "effect_offset": 3_i64 };
    database.runtime.block_on(async { events.delete_one(last).await.unwrap() });
    database.set("hookline_fence", doc! { "effect_offset": -1_i64 });
    let mut new = Owner::claim(&database, 0, epoch(2));
    new.fence.position = processor::position::Position::START;
    new.deliver(&[simple(1), simple(2), simple(3), simple(4)]).unwrap();
    assert_eq!(ids(&database), ["e1", "e2", "e3", "e4"]);
    assert_eq!(database.entities()[0].id, "e4");
}

#[test]
fn an_entity_never_shows_an_older_event_again() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    owner.deliver(&[simple(1), simple(2)]).unwrap();
    owner.deliver(&[simple(10)]).unwrap();
    // Somebody set the fence back: the events are delivered once more.
    database.set("hookline_fence", doc! { "effect_offset": 1_i64 });
    owner.fence.position = simple(1).position;
    owner.deliver(&[simple(2)]).unwrap();
    assert_eq!(ids(&database), ["e1", "e2", "e10"]);
    assert_eq!(database.entities()[0].id, "e10");
}

#[test]
fn what_a_document_cannot_hold_is_refused() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    let large = effect(2, 0, &event("large", Some("order-1")), &vec![b'x'; 16 << 20]);
    let outcome = owner.deliver(&[simple(1), large]);
    assert!(matches!(outcome, Err(SinkError::Refused(_))), "{outcome:?}");
    owner.deliver(&[simple(1)]).unwrap();
    assert_eq!(ids(&database), ["e1"]);
}

#[test]
fn an_index_that_forbids_an_entity_halts() {
    let database = Database::new();
    let mut owner = Owner::claim(&database, 0, epoch(1));
    let mut index = IndexModel::builder().keys(doc! { "type": 1 }).build();
    index.options = Some(mongodb::options::IndexOptions::builder().unique(true).build());
    let entities = database.collection("hookline_entities");
    database.runtime.block_on(async { entities.create_index(index).await.unwrap() });
    owner.deliver(&[simple(1)]).unwrap();
    let before = owner.fence;
    let other = effect(2, 0, &event("e2", Some("order-2")), b"{}");
    assert!(halted(owner.deliver(&[other])).contains("unique index on hookline_entities"));
    assert_eq!(owner.sink.fence(0).unwrap(), before);
}

/// Text, so that MongoDB's operators for strings work on it; numbers are as they came.
#[test]
fn a_body_is_text_where_it_is_text_and_bytes_where_it_is_not() {
    let database = Database::new();
    let bodies: [&[u8]; 3] = [b"{\"n\":9007199254740993}", b"a\0b", b"\xff"];
    let effects: Vec<_> =
        (0_i64..).zip(bodies).map(|(n, body)| effect(n, 0, &event(&format!("e{n}"), None), body)).collect();
    Owner::claim(&database, 0, epoch(1)).deliver(&effects).unwrap();
    let bodies: Vec<_> = database
        .read("hookline_events")
        .iter()
        .map(|event| event.get_str("body").ok().map(str::to_owned))
        .collect();
    assert_eq!(bodies, [Some("{\"n\":9007199254740993}".to_owned()), Some("a\0b".to_owned()), None]);
}

#[test]
fn two_customers_entities_are_two_documents() {
    let database = Database::new();
    let of = |offset, connection: &str, entity: &str| {
        let event = Event { connection: connection.into(), ..event("e", Some(entity)) };
        effect(offset, 0, &event, b"{}")
    };
    let effects =
        [of(1, "a/b", "c"), of(2, "a", "b/c"), of(3, "", "a/b/c"), of(4, "a", "b"), of(5, "A", "b")];
    Owner::claim(&database, 0, epoch(1)).deliver(&effects).unwrap();
    assert_eq!(database.entities().len(), 5);
}

#[test]
fn tls_verifies_the_certificate_and_the_hosts_name() {
    let (database, server) = (Database::new(), FerretDb::shared());
    // The names in the certificate: localhost alone.
    for (host, is_trusted, is_let_in) in
        [("localhost", true, true), ("127.0.0.1", true, false), ("localhost", false, false)]
    {
        let url = database.url(host, server.tls_port(), "?tls=true");
        let (opened, text) = tls::opens(&url, is_trusted.then(|| server.certificate()).as_deref());
        assert_eq!(opened, is_let_in, "{host}: {text}");
        assert_eq!(text.contains("no safe TLS"), !is_let_in, "{host}: {text}");
    }
}

#[test]
#[ignore = "the test before this one runs it, in another environment"]
fn a_sink_opens_by_tls() {
    let opened = sink::open(&config(tls::place(), "5s"), &context());
    opened.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn tls_that_the_server_does_not_speak_is_no_success() {
    let database = Database::new();
    let config = config(database.url("127.0.0.1", FerretDb::shared().port(), "?tls=true"), "1s");
    retried(sink::open(&config, &context()));
}

/// A new order, changed in the same batch, and then deleted: a former owner that writes it late must not bring it back.
#[test]
fn a_former_owner_that_was_held_up_anywhere_brings_no_mapped_document_back() {
    let database = Database::new();
    database.create(&mapping::orders());
    let event = |n: i64| {
        let order = format!("o{}", n / 3);
        match n % 3 {
            2 => mapping::of(n, "order.deleted", &order, ""),
            _ => mapping::order(n, &order, "a"),
        }
    };
    let context = mapping::with(&mapping::deleting(mapping::ORDERS));
    remote::held_up_anywhere(&database, &context, 4, event, |applied| {
        assert!(mapping::rows(&database, &mapping::orders()).is_empty(), "{applied}");
        let left = database.find("orders", doc! { "hookline_deleted": true });
        assert_eq!(i64::try_from(left.len()).unwrap(), applied / 3);
        let last = left.iter().find(|document| document.get_str("_id").unwrap() == "acme/o0").unwrap();
        assert_eq!(last.keys().map(String::as_str).collect::<BTreeSet<_>>(), KEPT.into());
    });
}

const KEPT: [&str; 5] = ["_id", "connection", "hookline_deleted", "hookline_position", "id"];
