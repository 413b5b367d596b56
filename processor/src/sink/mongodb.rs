//! The MongoDB sink: one document per event, one per entity, one fence per partition.
//!
//! No transaction of several documents: a batch is not atomic to a reader. Instead, each write may be made again,
//! by whomever and however late. An event's document has its position as its key, so it is inserted once. An
//! entity's document has the position that last wrote it, and takes a later one only. The fence moves last and
//! tells how far everything is applied; beyond it there may be more, which the next delivery passes over. A former
//! owner that is not stopped by the fence writes what its successor writes: the fold gives both the same effects.
//!
//! Nothing is ever deleted: an entity whose last event is a deletion keeps its document, and so its guard.
//! Called by a lane's thread, never from inside another runtime.

mod classify;
mod connect;
mod documents;
mod guarded;
mod tables;

use mongodb::Collection;
use mongodb::bson::{Binary, Bson, Document, doc, spec::BinarySubtype};
use mongodb::error::Error;
use mongodb::options::ReturnDocument;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use shared::config::DatabaseSinkConfig;

use self::classify::is_duplicate;
use self::connect::{ENTITIES, Server, Session};
use self::guarded::Place;
use super::rows::{self, StoredFence};
use super::{Batch, Context, Sink, SinkError, mapping};
use crate::position::{Epoch, Fence, Position};

const WAY_OUT: &str = "give it a database of its own (sink.mongodb.url)";

/// Collections in a MongoDB database.
pub(super) struct Mongodb {
    /// None after a failure, until the next call.
    session: Option<Session>,
    server: Server,
    context: Context,
    runtime: Runtime,
}

impl Mongodb {
    pub(super) fn open(config: &DatabaseSinkConfig, context: &Context) -> Result<Self, SinkError> {
        // One thread besides the lane's: the client watches the servers while the lane does other things.
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|e| SinkError::Retry(format!("no event loop for MongoDB: {e}")))?;
        let server = runtime.block_on(Server::new(config, context))?;
        let mut sink = Self { session: None, server, context: context.clone(), runtime };
        sink.run(async |session, server, context| check_owner(&session.fence, server, context).await)?;
        Ok(sink)
    }

    /// Runs a call within the time that it may take. After a failure that is not the data's, the next call begins
    /// with a client of its own.
    fn run<T>(
        &mut self,
        call: impl AsyncFnOnce(&Session, &Server, &Context) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let Self { session, server, context, runtime } = self;
        let outcome = runtime.block_on(async {
            let limit = server.call_limit();
            let work = async {
                let session = match session {
                    Some(session) => session,
                    None => session.insert(server.connect().await?),
                };
                call(session, server, context).await
            };
            timeout(limit, work).await.unwrap_or_else(|_| {
                Err(SinkError::Retry(format!("{server} did not answer within {} s", limit.as_secs())))
            })
        });
        match outcome {
            Ok(_) | Err(SinkError::Fenced { .. } | SinkError::Refused(_)) => {}
            Err(SinkError::Retry(_) | SinkError::Waits(_) | SinkError::Halt(_)) => self.end(),
        }
        outcome
    }

    fn end(&mut self) {
        if let Some(session) = self.session.take() {
            self.runtime.block_on(session.end());
        }
    }
}

impl Drop for Mongodb {
    fn drop(&mut self) {
        self.end();
    }
}

impl Sink for Mongodb {
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        self.run(async |session, server, context| {
            claim(&session.fence, server, context, partition, epoch).await.map_err(rows::not_by_data)
        })
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        self.run(async |session, server, _| read_fence(&session.fence, server, partition).await)
    }

    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError> {
        let Some((from, to)) = documents::ids_up_to(partition, up_to) else { return Ok(0) };
        self.run(async |session, server, _| {
            let counted = session.events.count_documents(doc! { "_id": { "$gte": from, "$lte": to } }).await;
            counted.map_err(|e| rows::not_by_data(server.failed(&e)))
        })
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let rows = rows::of(batch)?;
        let changes = mapping::changes(&self.server.tables, &rows)?;
        let events = documents::events(batch.partition, &rows)?;
        let entities = documents::entities(batch.partition, &rows, &events);
        self.run(async |session, server, _| {
            let found = read_fence(&session.fence, server, batch.partition).await?;
            if (found.position, found.epoch) != (batch.from.position, batch.from.epoch) {
                return Err(fenced(batch, found));
            }
            let writes = tables::writes(session, server, batch.partition, changes).await?;
            documents::insert(&session.events, server, events).await?;
            let place = Place { collection: ENTITIES, guard: "position" };
            guarded::write(session, server, &place, entities).await?;
            tables::apply(session, server, writes).await?;
            move_fence(&session.fence, server, batch).await
        })
    }
}

fn fenced(batch: &Batch<'_>, found: Fence) -> SinkError {
    SinkError::Fenced { partition: batch.partition, found: found.epoch, own: batch.from.epoch }
}

async fn claim(
    fences: &Collection<Document>,
    server: &Server,
    context: &Context,
    partition: i32,
    epoch: Epoch,
) -> Result<Fence, SinkError> {
    let failed = |e: Error| server.failed(&e);
    let (lineage, claim) = rows::stored_epoch(epoch)?;
    check_owner(fences, server, context).await?;
    let Context { pipeline, cluster_id, topic, .. } = context;
    let mut first = fence_fields(&Fence::EMPTY)?;
    first.extend(doc! { "pipeline": pipeline, "cluster_id": cluster_id, "topic": topic });
    let made =
        fences.update_one(doc! { "_id": partition }, doc! { "$setOnInsert": first }).upsert(true).await;
    // Another instance may have been quicker.
    made.map(|_| ()).or_else(|e| if is_duplicate(&e) { Ok(()) } else { Err(failed(e)) })?;
    let not_later =
        [doc! { "lineage": { "$lt": lineage } }, doc! { "lineage": lineage, "claim": { "$lte": claim } }];
    let own = doc! {
        "_id": partition, "pipeline": pipeline, "cluster_id": cluster_id, "topic": topic, "$or": not_later,
    };
    let raise =
        doc! { "$set": { "lineage": lineage, "claim": claim }, "$currentDate": { "updated_at": true } };
    let raised = fences.find_one_and_update(own, raise).return_document(ReturnDocument::After).await;
    match raised.map_err(failed)? {
        Some(found) => stored(server, &found),
        None => {
            // Another pipeline's, or a later owner's.
            check_owner(fences, server, context).await?;
            let found = read_fence(fences, server, partition).await?.epoch;
            Err(SinkError::Fenced { partition, found, own: epoch })
        }
    }
}

/// After all documents: what it tells is applied.
async fn move_fence(
    fences: &Collection<Document>,
    server: &Server,
    batch: &Batch<'_>,
) -> Result<(), SinkError> {
    let from = StoredFence::of(&batch.from)?;
    let stands = doc! {
        "_id": batch.partition,
        "effect_offset": from.offset,
        "effect_ordinal": from.ordinal,
        "lineage": from.lineage,
        "claim": from.claim,
    };
    let to = doc! { "$set": fence_fields(&batch.to)?, "$currentDate": { "updated_at": true } };
    let moved = fences.update_one(stands, to).await.map_err(|e| rows::not_by_data(server.failed(&e)))?;
    if moved.matched_count == 0 {
        let found = read_fence(fences, server, batch.partition).await?;
        return Err(fenced(batch, found));
    }
    Ok(())
}

fn fence_fields(fence: &Fence) -> Result<Document, SinkError> {
    let StoredFence { offset, ordinal, digest, lineage, claim } = StoredFence::of(fence)?;
    let digest = Bson::Binary(Binary { subtype: BinarySubtype::Generic, bytes: digest });
    Ok(doc! {
        "effect_offset": offset,
        "effect_ordinal": ordinal,
        "digest": digest,
        "lineage": lineage,
        "claim": claim,
    })
}

async fn read_fence(
    fences: &Collection<Document>,
    server: &Server,
    partition: i32,
) -> Result<Fence, SinkError> {
    let found = fences.find_one(doc! { "_id": partition }).await;
    let found = found.map_err(|e| rows::not_by_data(server.failed(&e)))?;
    found.map_or(Ok(Fence::EMPTY), |found| stored(server, &found))
}

fn stored(server: &Server, found: &Document) -> Result<Fence, SinkError> {
    let fields = || {
        Some(StoredFence {
            offset: found.get_i64("effect_offset").ok()?,
            ordinal: found.get_i32("effect_ordinal").ok()?,
            digest: found.get_binary_generic("digest").ok()?.clone(),
            lineage: found.get_i64("lineage").ok()?,
            claim: found.get_i64("claim").ok()?,
        })
    };
    fields().ok_or_else(|| server.other_collections())?.read()
}

async fn check_owner(
    fences: &Collection<Document>,
    server: &Server,
    context: &Context,
) -> Result<(), SinkError> {
    let Context { pipeline, cluster_id, topic, .. } = context;
    let other = [
        doc! { "pipeline": { "$ne": pipeline } },
        doc! { "cluster_id": { "$ne": cluster_id } },
        doc! { "topic": { "$ne": topic } },
    ];
    let found = fences.find_one(doc! { "$or": other }).await;
    let Some(found) = found.map_err(|e| rows::not_by_data(server.failed(&e)))? else { return Ok(()) };
    let text = |name: &str| found.get_str(name).map_err(|_| server.other_collections());
    let found = [text("pipeline")?, text("cluster_id")?, text("topic")?];
    Err(rows::foreign(&server.to_string(), WAY_OUT, found, context))
}
