//! Documents that are guarded by the position that last wrote them: whoever writes, and however late, a later
//! position stays.

use std::collections::{BTreeMap, BTreeSet};

use mongodb::Collection;
use mongodb::bson::{Bson, Document, doc};
use mongodb::error::Error;

use super::classify::DUPLICATE;
use super::connect::{Server, Session};
use super::documents;
use crate::sink::{SinkError, rows};

/// Bytes of documents in one command, if they are more than one.
const COMMAND_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Another owner's write may come between a try and the look at why it failed, but hardly so often.
const TRIES_MAX: usize = 3;

/// A write to one document.
pub(super) struct Guarded {
    key: String,
    /// As in [`documents::id`]; the update sets it.
    position: String,
    update: Document,
    /// Whether the document is made where there is none.
    is_upsert: bool,
    pub(super) bytes: usize,
}

impl Guarded {
    pub(super) fn new(key: String, position: String, update: Document) -> Self {
        let bytes = documents::bytes(&update);
        Self { key, position, update, is_upsert: true, bytes }
    }

    /// Leaves a document that is not there alone.
    pub(super) fn if_there(self) -> Self {
        Self { is_upsert: false, ..self }
    }
}

/// A collection, and the field with the position.
pub(super) struct Place<'a> {
    pub(super) collection: &'a str,
    pub(super) guard: &'a str,
}

/// Writes documents, where no later position is there already.
pub(super) async fn write(
    session: &Session,
    server: &Server,
    place: &Place<'_>,
    mut documents: Vec<Guarded>,
) -> Result<(), SinkError> {
    for _ in 0..TRIES_MAX {
        let mut again = Vec::new();
        while !documents.is_empty() {
            let rest = documents.split_off(chunk(&documents));
            let taken = update(session, server, place, &documents).await?;
            again.extend(not_later(session, server, place, documents, &taken).await?);
            documents = rest;
        }
        if again.is_empty() {
            return Ok(());
        }
        documents = again;
    }
    let name = place.collection;
    Err(SinkError::Halt(format!("{server}: a unique index on {name} forbids a document: drop it")))
}

/// Whose key is taken shows a later event, or this one. Returns those of which that is not so.
async fn not_later(
    session: &Session,
    server: &Server,
    place: &Place<'_>,
    documents: Vec<Guarded>,
    taken: &BTreeSet<usize>,
) -> Result<Vec<Guarded>, SinkError> {
    if taken.is_empty() {
        return Ok(Vec::new());
    }
    let taken: Vec<Guarded> = documents
        .into_iter()
        .enumerate()
        .filter(|(n, _)| taken.contains(n))
        .map(|(_, document)| document)
        .collect();
    let keys = taken.iter().map(|document| Bson::from(&document.key)).collect();
    let collection = session.database.collection(place.collection);
    let there = find(&collection, server, keys, doc! { place.guard: 1 }).await?;
    let is_later = |document: &Guarded| {
        let found = there.get(&document.key).and_then(|found| found.get_str(place.guard).ok());
        found.is_some_and(|position| position >= document.position.as_str())
    };
    Ok(taken.into_iter().filter(|document| !is_later(document)).collect())
}

fn chunk(documents: &[Guarded]) -> usize {
    let mut bytes = 0;
    let fitting = documents.iter().take_while(|document| {
        bytes += document.bytes;
        bytes <= COMMAND_BYTES_MAX
    });
    fitting.count().max(1)
}

/// One command. Returns the indexes of the documents whose key is taken: where a document with that key shows a
/// later position, the filter does not find it, and it cannot be inserted.
async fn update(
    session: &Session,
    server: &Server,
    place: &Place<'_>,
    documents: &[Guarded],
) -> Result<BTreeSet<usize>, SinkError> {
    let updates: Vec<Document> = documents
        .iter()
        .map(|Guarded { key, position, update, is_upsert, .. }| {
            doc! {
                "q": { "_id": key, place.guard: { "$lt": position } },
                "u": update,
                "upsert": is_upsert,
            }
        })
        .collect();
    let command = doc! {
        "update": place.collection,
        "updates": updates,
        "ordered": false,
        "writeConcern": server.write_concern(),
    };
    let answer =
        session.database.run_command(command).await.map_err(|e| rows::not_by_data(server.failed(&e)))?;
    if let Some(concern) = answer.get("writeConcernError") {
        let code = concern.as_document().and_then(|concern| concern.get_i32("code").ok());
        return Err(server.not_durable(code));
    }
    let mut taken = BTreeSet::new();
    for error in answer.get_array("writeErrors").into_iter().flatten().filter_map(Bson::as_document) {
        let code = error.get_i32("code").unwrap_or_default();
        let index = error.get_i32("index").ok().and_then(|index| usize::try_from(index).ok());
        match index {
            Some(index) if code == DUPLICATE => taken.insert(index),
            // The event stands in hookline_events already: it cannot be refused any more.
            _ => return Err(server.guarded_failed(place.collection, code)),
        };
    }
    Ok(taken)
}

/// Documents by their keys.
pub(super) async fn find(
    collection: &Collection<Document>,
    server: &Server,
    ids: Vec<Bson>,
    projection: Document,
) -> Result<BTreeMap<String, Document>, SinkError> {
    let failed = |e: Error| rows::not_by_data(server.failed(&e));
    let mut cursor =
        collection.find(doc! { "_id": { "$in": ids } }).projection(projection).await.map_err(failed)?;
    let mut found = BTreeMap::new();
    while cursor.advance().await.map_err(failed)? {
        let document = cursor.deserialize_current().map_err(failed)?;
        let id = document.get_str("_id").map_err(|_| server.other_collections())?.to_owned();
        found.insert(id, document);
    }
    Ok(found)
}
