//! The MySQL sink, also for MariaDB: events, entities and fence in one database, each batch one transaction.
//!
//! The async client on a runtime of its own: a call must end even when the server hangs with its connections
//! open, and only the async client can be told to stop waiting. Called by a lane's thread, never from inside
//! another runtime. The SQL is what both products have.

mod classify;
mod connect;
mod insert;
mod statuses;
mod tables;

use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Params, Row};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use shared::config::DatabaseSinkConfig;

use self::connect::{Server, Session};
use super::rows::{self, StoredFence};
use super::statuses::StatusTable;
use super::{Batch, Context, Sink, SinkError, mapping};
use crate::position::{Epoch, Fence, Position};

const WAY_OUT: &str = "give it a database of its own (sink.mysql.url)";

const INSERT_FENCE: &str = "INSERT INTO hookline_fence (log_partition, pipeline, cluster_id, topic, \
    effect_offset, effect_ordinal, digest, lineage, claim, updated_at) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, UTC_TIMESTAMP(3)) ON DUPLICATE KEY UPDATE claim = claim";
const FIND_FOREIGN: &str = "SELECT pipeline, cluster_id, topic FROM hookline_fence \
    WHERE (pipeline, cluster_id, topic) <> (?, ?, ?) LIMIT 1";
const RAISE_EPOCH: &str = "UPDATE hookline_fence SET lineage = ?, claim = ?, updated_at = UTC_TIMESTAMP(3) \
    WHERE log_partition = ? AND (lineage, claim) <= (?, ?)";
const READ_FENCE: &str = "SELECT effect_offset, effect_ordinal, digest, lineage, claim \
    FROM hookline_fence WHERE log_partition = ?";
const COUNT: &str = "SELECT count(*) FROM hookline_events \
    WHERE log_partition = ? AND (effect_offset, effect_ordinal) <= (?, ?)";
const MOVE_FENCE: &str = "UPDATE hookline_fence \
    SET effect_offset = ?, effect_ordinal = ?, digest = ?, updated_at = UTC_TIMESTAMP(3) \
    WHERE log_partition = ? AND effect_offset = ? AND effect_ordinal = ? AND lineage = ? AND claim = ?";

/// Tables in a MySQL database.
pub(super) struct Mysql {
    /// None after a failure, until the next call.
    session: Option<Session>,
    server: Server,
    context: Context,
    runtime: Runtime,
}

impl Mysql {
    pub(super) fn open(config: &DatabaseSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| SinkError::Retry(format!("no event loop for MySQL: {e}")))?;
        let server = Server::new(config, context)?;
        let mut sink = Self { session: None, server, context: context.clone(), runtime };
        sink.run(async |session, server, context| check_owner(&mut session.conn, server, context).await)?;
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
            let session = server.session(session).await?;
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

impl Drop for Mysql {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            self.runtime.block_on(session.end());
        }
    }
}

impl Sink for Mysql {
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        self.run(async |session, server, context| {
            let claimed = in_transaction(session, server, async |session| {
                claim(&mut session.conn, server, context, partition, epoch).await
            });
            claimed.await.map_err(rows::not_by_data)
        })
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        self.run(async |session, server, _| read_fence(&mut session.conn, server, partition).await)
    }

    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError> {
        self.run(async |session, server, _| {
            let values = (partition, up_to.offset, i32::try_from(up_to.ordinal).unwrap_or(i32::MAX));
            let row = first(&mut session.conn, server, COUNT, values).await?;
            server.value(row.as_ref(), 0)
        })
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let rows = rows::of(batch)?;
        let changes = mapping::changes(&self.server.tables, &rows)?;
        let told = StatusTable::told(self.server.statuses.as_ref(), &rows)?;
        self.run(async |session, server, _| {
            in_transaction(session, server, async |session| {
                let Session { conn, packet_bytes_max, scales, .. } = session;
                move_fence(conn, server, batch).await?;
                insert::events(conn, server, *packet_bytes_max, batch.partition, &rows).await?;
                insert::entities(conn, server, batch.partition, &rows).await?;
                statuses::apply(conn, server, batch.partition, told).await?;
                tables::apply(conn, server, scales, *packet_bytes_max, changes).await
            })
            .await
        })
    }
}

/// Commits what succeeds and rolls back what does not.
async fn in_transaction<T>(
    session: &mut Session,
    server: &Server,
    work: impl AsyncFnOnce(&mut Session) -> Result<T, SinkError>,
) -> Result<T, SinkError> {
    let failed = |e: mysql_async::Error| rows::not_by_data(server.failed(&e));
    session.conn.query_drop("START TRANSACTION").await.map_err(failed)?;
    match work(session).await {
        Ok(done) => session.conn.query_drop("COMMIT").await.map(|()| done).map_err(failed),
        Err(error) => {
            // Waited for: until then the fence's row is locked. Should it fail, the connection is gone, and a
            // refusal counts on a live one only.
            session.conn.query_drop("ROLLBACK").await.map_err(failed)?;
            Err(error)
        }
    }
}

async fn claim(
    conn: &mut Conn,
    server: &Server,
    context: &Context,
    partition: i32,
    epoch: Epoch,
) -> Result<Fence, SinkError> {
    let failed = |e: mysql_async::Error| server.failed(&e);
    let (lineage, claim) = rows::stored_epoch(epoch)?;
    check_owner(conn, server, context).await?;
    let empty = StoredFence::of(&Fence::EMPTY)?;
    let Context { pipeline, cluster_id, topic, .. } = context;
    let StoredFence { offset, ordinal, digest, lineage: no_lineage, claim: no_claim } = empty;
    let values = (partition, pipeline, cluster_id, topic, offset, ordinal, digest, no_lineage, no_claim);
    conn.exec_drop(INSERT_FENCE, values).await.map_err(failed)?;
    // Waits for a former owner's transaction that is still under way, and then sees what it left.
    conn.exec_drop(RAISE_EPOCH, (lineage, claim, partition, lineage, claim)).await.map_err(failed)?;
    let raised = conn.affected_rows();
    // Again: another pipeline's row may have come in while this waited.
    check_owner(conn, server, context).await?;
    let fence = read_fence(conn, server, partition).await?;
    if raised == 0 {
        return Err(SinkError::Fenced { partition, found: fence.epoch, own: epoch });
    }
    Ok(fence)
}

/// The fence moves first: a batch that was already applied, or is a former owner's, touches nothing else.
async fn move_fence(conn: &mut Conn, server: &Server, batch: &Batch<'_>) -> Result<(), SinkError> {
    let partition = batch.partition;
    let (from, to) = (StoredFence::of(&batch.from)?, StoredFence::of(&batch.to)?);
    let values =
        (to.offset, to.ordinal, to.digest, partition, from.offset, from.ordinal, from.lineage, from.claim);
    let moved = conn.exec_drop(MOVE_FENCE, values).await;
    moved.map_err(|e| rows::not_by_data(server.failed(&e)))?;
    if conn.affected_rows() == 0 {
        let found = read_fence(conn, server, partition).await?.epoch;
        return Err(SinkError::Fenced { partition, found, own: batch.from.epoch });
    }
    Ok(())
}

async fn read_fence(conn: &mut Conn, server: &Server, partition: i32) -> Result<Fence, SinkError> {
    let Some(row) = first(conn, server, READ_FENCE, (partition,)).await? else { return Ok(Fence::EMPTY) };
    let row = Some(&row);
    let stored = StoredFence {
        offset: server.value(row, 0)?,
        ordinal: server.value(row, 1)?,
        digest: server.value(row, 2)?,
        lineage: server.value(row, 3)?,
        claim: server.value(row, 4)?,
    };
    stored.read()
}

async fn check_owner(conn: &mut Conn, server: &Server, context: &Context) -> Result<(), SinkError> {
    let Context { pipeline, cluster_id, topic, .. } = context;
    let Some(row) = first(conn, server, FIND_FOREIGN, (pipeline, cluster_id, topic)).await? else {
        return Ok(());
    };
    let text = |n: usize| server.value::<String>(Some(&row), n);
    let (pipeline, cluster, topic) = (text(0)?, text(1)?, text(2)?);
    Err(rows::foreign(&server.to_string(), WAY_OUT, [&pipeline, &cluster, &topic], context))
}

/// The first row of a statement that carries no event's data.
async fn first(
    conn: &mut Conn,
    server: &Server,
    sql: &str,
    values: impl Into<Params> + Send,
) -> Result<Option<Row>, SinkError> {
    conn.exec_first(sql, values).await.map_err(|e| rows::not_by_data(server.failed(&e)))
}
