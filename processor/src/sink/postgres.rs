//! The PostgreSQL sink: events, entities and fence in one schema, each batch one transaction.
//!
//! The async client on a runtime of its own, not the blocking one: a call must end even when the server hangs
//! with its connections open, and only the async client can be told to stop waiting. Called by a lane's
//! thread, never from inside another runtime.

mod classify;
mod connect;
mod copy;
mod statuses;
mod tables;

use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tokio_postgres::{Client, IsolationLevel, Transaction};

use shared::config::PostgresSinkConfig;

use self::classify::failed;
use self::connect::{Server, Session};
use super::rows::{self, Row, StoredFence};
use super::statuses::StatusTable;
use super::{Batch, Context, Sink, SinkError, mapping};
use crate::position::{Epoch, Fence, Position};

const WAY_OUT: &str = "give it a schema of its own (sink.postgres.schema)";

const INSERT_FENCE: &str = "INSERT INTO {schema}.hookline_fence (log_partition, pipeline, cluster_id, \
    topic, effect_offset, effect_ordinal, digest, lineage, claim, updated_at) \
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, now()) ON CONFLICT DO NOTHING";
const FIND_FOREIGN: &str = "SELECT pipeline, cluster_id, topic FROM {schema}.hookline_fence \
    WHERE (pipeline, cluster_id, topic) <> ($1, $2, $3) LIMIT 1";
const RAISE_EPOCH: &str = "UPDATE {schema}.hookline_fence SET lineage = $2, claim = $3, updated_at = now() \
    WHERE log_partition = $1 AND (lineage, claim) <= ($2, $3)";
const READ_FENCE: &str = "SELECT effect_offset, effect_ordinal, digest, lineage, claim \
    FROM {schema}.hookline_fence WHERE log_partition = $1";
const COUNT: &str = "SELECT count(*) FROM {schema}.hookline_events \
    WHERE log_partition = $1 AND (effect_offset, effect_ordinal) <= ($2, $3)";
const MOVE_FENCE: &str = "UPDATE {schema}.hookline_fence \
    SET effect_offset = $2, effect_ordinal = $3, digest = $4, updated_at = now() \
    WHERE log_partition = $1 AND effect_offset = $5 AND effect_ordinal = $6 AND lineage = $7 AND claim = $8";
/// OFFSET 0 keeps the subquery as it is: a look-up per row by the primary key. Left to choose, the planner
/// reads the whole table when its statistics are old.
const UPSERT_ENTITIES: &str = "INSERT INTO {schema}.hookline_entities (source, connection, entity, \
    event_id, type, sequence, body, log_partition, effect_offset, effect_ordinal, updated) \
    SELECT source, connection, entity, event_id, type, sequence, body, $1, last.effect_offset, \
    last.effect_ordinal, appended_at \
    FROM unnest($2::bigint[], $3::int[]) AS last (effect_offset, effect_ordinal), \
    LATERAL (SELECT * FROM {schema}.hookline_events e WHERE e.log_partition = $1 \
    AND e.effect_offset = last.effect_offset AND e.effect_ordinal = last.effect_ordinal OFFSET 0) AS event \
    ON CONFLICT (source, connection, entity) DO UPDATE SET event_id = excluded.event_id, \
    type = excluded.type, sequence = excluded.sequence, body = excluded.body, \
    log_partition = excluded.log_partition, effect_offset = excluded.effect_offset, \
    effect_ordinal = excluded.effect_ordinal, updated = excluded.updated";

/// Tables in a PostgreSQL schema.
pub(super) struct Postgres {
    /// None after a failure, until the next call.
    session: Option<Session>,
    server: Server,
    context: Context,
    runtime: Runtime,
}

impl Postgres {
    pub(super) fn open(config: &PostgresSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| SinkError::Retry(format!("no event loop for PostgreSQL: {e}")))?;
        let server = Server::new(config, context)?;
        let mut sink = Self { session: None, server, context: context.clone(), runtime };
        sink.run(async |session, server, context| check_owner(&session.client, server, context).await)?;
        Ok(sink)
    }

    /// Runs a call in a session, within the time that a call may take. After a failure that is not the
    /// data's, the session ends and the next call begins another: the state of this one is not known.
    fn run<T>(
        &mut self,
        call: impl AsyncFnOnce(&mut Session, &Server, &Context) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let Self { session, server, context, runtime } = self;
        let outcome = runtime.block_on(async {
            let session = match session {
                Some(session) => session,
                None => session.insert(server.connect().await?),
            };
            let limit = server.call_limit();
            timeout(limit, call(session, server, context)).await.unwrap_or_else(|_| {
                Err(SinkError::Retry(format!("{server} did not answer within {} s", limit.as_secs())))
            })
        });
        match outcome {
            Ok(_) | Err(SinkError::Fenced { .. } | SinkError::Refused(_)) => {}
            Err(SinkError::Retry(_) | SinkError::Waits(_) | SinkError::Halt(_)) => {
                if let Some(session) = session.take() {
                    runtime.block_on(session.end());
                }
            }
        }
        outcome
    }
}

impl Sink for Postgres {
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        self.run(async |session, server, context| {
            let claimed = claim(&mut session.client, server, context, partition, epoch).await;
            claimed.map_err(rows::not_by_data)
        })
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        self.run(async |session, server, _| read_fence(&session.client, server, partition).await)
    }

    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError> {
        self.run(async |session, server, _| count(&session.client, server, partition, up_to).await)
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let rows = rows::of(batch)?;
        let changes = mapping::changes(&self.server.tables, &rows)?;
        let told = StatusTable::told(self.server.statuses.as_ref(), &rows)?;
        self.run(async |session, server, _| {
            let Session { client, move_fence, copy_events, upsert_entities, tables, statuses, .. } = session;
            let transaction = begin(client, server).await?;
            let statements = Statements { move_fence, copy_events, upsert_entities };
            let applied = async {
                apply(&transaction, server, &statements, batch, &rows).await?;
                statuses::apply(&transaction, server, statuses.as_ref(), batch.partition, told).await?;
                tables::apply(&transaction, server, tables, changes).await
            };
            match applied.await {
                Ok(()) => transaction.commit().await.map_err(|e| failed(server, &e)),
                Err(error) => {
                    // Waited for: until then the fence's row is locked. Should it fail, the connection is
                    // gone, and a refusal counts on a live one only.
                    transaction.rollback().await.map_err(|e| failed(server, &e))?;
                    Err(error)
                }
            }
        })
    }
}

struct Statements<'a> {
    move_fence: &'a tokio_postgres::Statement,
    copy_events: &'a tokio_postgres::Statement,
    upsert_entities: &'a tokio_postgres::Statement,
}

async fn claim(
    client: &mut Client,
    server: &Server,
    context: &Context,
    partition: i32,
    epoch: Epoch,
) -> Result<Fence, SinkError> {
    let failed = |e: tokio_postgres::Error| failed(server, &e);
    let (lineage, claim) = rows::stored_epoch(epoch)?;
    let StoredFence { offset, ordinal, digest, lineage: no_lineage, claim: no_claim } =
        StoredFence::of(&Fence::EMPTY)?;
    let Context { pipeline, cluster_id, topic, .. } = context;
    let transaction = begin(client, server).await?;
    check_owner(&transaction, server, context).await?;
    transaction
        .execute(
            &server.sql(INSERT_FENCE),
            &[&partition, pipeline, cluster_id, topic, &offset, &ordinal, &digest, &no_lineage, &no_claim],
        )
        .await
        .map_err(failed)?;
    // Waits for a former owner's transaction that is still under way, and then sees what it left.
    let raised = transaction.execute(&server.sql(RAISE_EPOCH), &[&partition, &lineage, &claim]).await;
    let raised = raised.map_err(failed)?;
    // Again: another pipeline's row may have come in while this waited.
    check_owner(&transaction, server, context).await?;
    let fence = read_fence(&transaction, server, partition).await?;
    if raised == 0 {
        transaction.rollback().await.map_err(failed)?;
        return Err(SinkError::Fenced { partition, found: fence.epoch, own: epoch });
    }
    transaction.commit().await.map_err(failed)?;
    Ok(fence)
}

/// The fence moves first: a batch that was already applied, or is a former owner's, touches nothing else.
async fn apply(
    transaction: &Transaction<'_>,
    server: &Server,
    statements: &Statements<'_>,
    batch: &Batch<'_>,
    rows: &[Row<'_>],
) -> Result<(), SinkError> {
    let partition = batch.partition;
    let (from, to) = (StoredFence::of(&batch.from)?, StoredFence::of(&batch.to)?);
    let moved = transaction
        .execute(
            statements.move_fence,
            &[
                &partition,
                &to.offset,
                &to.ordinal,
                &to.digest,
                &from.offset,
                &from.ordinal,
                &from.lineage,
                &from.claim,
            ],
        )
        .await;
    if moved.map_err(|e| rows::not_by_data(failed(server, &e)))? == 0 {
        let found = read_fence(transaction, server, partition).await?.epoch;
        return Err(SinkError::Fenced { partition, found, own: batch.from.epoch });
    }
    copy::insert(transaction, server, statements.copy_events, partition, rows).await?;
    let last = rows::last_of_entities(rows);
    if last.is_empty() {
        return Ok(());
    }
    let offsets: Vec<i64> = last.iter().map(|row| row.position.offset).collect();
    let ordinals: Vec<i32> = last.iter().map(|row| row.ordinal).collect();
    let upserted = transaction.execute(statements.upsert_entities, &[&partition, &offsets, &ordinals]).await;
    upserted.map(|_| ()).map_err(|e| failed(server, &e))
}

async fn begin<'c>(client: &'c mut Client, server: &Server) -> Result<Transaction<'c>, SinkError> {
    // Whatever the database's default is: a stricter level would fail where this one waits.
    let transaction = client.build_transaction().isolation_level(IsolationLevel::ReadCommitted).start().await;
    transaction.map_err(|e| rows::not_by_data(failed(server, &e)))
}

async fn read_fence(
    client: &impl tokio_postgres::GenericClient,
    server: &Server,
    partition: i32,
) -> Result<Fence, SinkError> {
    let found = client.query_opt(&server.sql(READ_FENCE), &[&partition]).await;
    let stored = found.and_then(|row| {
        row.map(|row| {
            Ok(StoredFence {
                offset: row.try_get(0)?,
                ordinal: row.try_get(1)?,
                digest: row.try_get(2)?,
                lineage: row.try_get(3)?,
                claim: row.try_get(4)?,
            })
        })
        .transpose()
    });
    let stored = stored.map_err(|e| rows::not_by_data(failed(server, &e)))?;
    stored.map_or(Ok(Fence::EMPTY), StoredFence::read)
}

async fn count(
    client: &impl tokio_postgres::GenericClient,
    server: &Server,
    partition: i32,
    up_to: Position,
) -> Result<u64, SinkError> {
    let ordinal = i32::try_from(up_to.ordinal).unwrap_or(i32::MAX);
    let counted = client.query_one(&server.sql(COUNT), &[&partition, &up_to.offset, &ordinal]).await;
    let counted = counted.and_then(|row| row.try_get::<_, i64>(0));
    let counted = counted.map_err(|e| rows::not_by_data(failed(server, &e)))?;
    Ok(u64::try_from(counted).unwrap_or(0))
}

async fn check_owner(
    client: &impl tokio_postgres::GenericClient,
    server: &Server,
    context: &Context,
) -> Result<(), SinkError> {
    let failed = |e: tokio_postgres::Error| rows::not_by_data(failed(server, &e));
    let Context { pipeline, cluster_id, topic, .. } = context;
    let found = client.query_opt(&server.sql(FIND_FOREIGN), &[pipeline, cluster_id, topic]).await;
    let Some(row) = found.map_err(failed)? else { return Ok(()) };
    let text = |n: usize| row.try_get::<_, String>(n).map_err(failed);
    let (pipeline, cluster, topic) = (text(0)?, text(1)?, text(2)?);
    Err(rows::foreign(&server.to_string(), WAY_OUT, [&pipeline, &cluster, &topic], context))
}
