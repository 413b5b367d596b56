//! The Snowflake sink: events, entities and fence in one schema, each batch one block of Snowflake Scripting.
//!
//! A delivery is two statements or more: the batch's rows go into a table that only this session sees
//! (`hookline_batch`), then one block moves the fence and merges them. So no transaction ever waits for this client,
//! which may die and leave its lock on the fence; and whatever a block that was given up still does on the server,
//! it does as a whole, before a claim or not at all.
//!
//! The async client on a runtime of its own: a call must end even when the server hangs. Called by a lane's thread,
//! never from inside another runtime.

mod changes;
mod classify;
mod connect;
mod stage;
mod statements;
mod statuses;
mod tables;

use std::mem;

use snowflake_connector_rs::{CellValue, DynamicRow, Statement};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use shared::config::SnowflakeSinkConfig;

use self::connect::{Ended, Server, Session};
use super::rows::{self, Row, StoredFence};
use super::statuses::StatusTable;
use super::{Batch, Context, Sink, SinkError};
use crate::position::{Epoch, Fence, Position};

const WAY_OUT: &str = "give it a schema of its own (sink.snowflake.schema)";

/// Tables in a Snowflake schema.
pub(super) struct Snowflake {
    /// None after a failure, until the next call.
    session: Option<Session>,
    server: Server,
    context: Context,
    runtime: Runtime,
}

impl Snowflake {
    pub(super) fn open(config: &SnowflakeSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| SinkError::Retry(format!("no event loop for Snowflake: {e}")))?;
        let server = Server::new(config, context)?;
        let mut sink = Self { session: None, server, context: context.clone(), runtime };
        sink.run(async |session, server, context| check_owner(session, server, context).await)?;
        Ok(sink)
    }

    /// Runs a call in a session, within the time that a call may take. After a failure that is not the data's, the
    /// next call begins another session: the state of this one is not known. In a session that has expired, which
    /// each does within hours, nothing was done: the call is done in another one.
    fn run<T>(
        &mut self,
        call: impl AsyncFn(&mut Session, &Server, &Context) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let Self { session: kept, server, context, runtime } = self;
        runtime.block_on(async {
            loop {
                let is_kept = kept.is_some();
                let session = match kept {
                    Some(session) => session,
                    None => kept.insert(server.connect().await?),
                };
                let limit = server.call_limit();
                let outcome = timeout(limit, call(session, server, context)).await.unwrap_or_else(|_| {
                    Err(SinkError::Retry(format!("{server} did not answer within {} s", limit.as_secs())))
                });
                let has_expired = session.has_expired();
                if matches!(outcome, Err(SinkError::Retry(_) | SinkError::Halt(_))) {
                    *kept = None;
                }
                if !(has_expired && is_kept) {
                    return outcome;
                }
            }
        })
    }
}

impl Sink for Snowflake {
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        let block = statements::claim(&self.context, partition, epoch)?;
        let claimed = self.run(async |session, server, context| {
            // Waits for a former owner's block that is still under way, and then sees what it left.
            let ended = session.run_block(server, block.clone()).await?;
            let fence = read_fence(session, server, partition).await?;
            if fence.epoch == epoch && matches!(ended, Ended::Committed) {
                return Ok(fence);
            }
            check_owner(session, server, context).await?;
            Err(SinkError::Fenced { partition, found: fence.epoch, own: epoch })
        });
        claimed.map_err(rows::not_by_data)
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        self.run(async |session, server, _| read_fence(session, server, partition).await)
    }

    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError> {
        self.run(async |session, server, _| {
            let counted = session.run(server, statements::count(partition, up_to)).await;
            let counted = counted.map_err(rows::not_by_data)?;
            integer(server, counted.first(), 0)
        })
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let rows = rows::of(batch)?;
        let staged = stage::texts(&self.server, &rows)?;
        self.run(async |session, server, _| {
            let outcome = deliver(session, server, batch, &rows, &staged).await;
            match outcome {
                // A table of the user's may not be what it was.
                Err(SinkError::Halt(_)) if !session.has_expired() => {
                    session.prepared = tables::prepare(session, server).await?;
                    outcome
                }
                _ => outcome,
            }
        })
    }
}

/// `staged` is what [`stage::texts`] made of the rows.
async fn deliver(
    session: &mut Session,
    server: &Server,
    batch: &Batch<'_>,
    rows: &[Row<'_>],
    staged: &[String],
) -> Result<(), SinkError> {
    let told = StatusTable::told(server.statuses.as_ref(), rows)?;
    let mut planned = changes::changes(session, server, rows).await?;
    statuses::plan(session, server, batch.partition, told, &mut planned).await?;
    for (n, text) in staged.iter().enumerate() {
        session.run(server, Statement::new(statements::stage(n == 0)).bind(text.clone())).await?;
    }
    for (n, text) in mem::take(&mut planned.staged).texts().into_iter().enumerate() {
        session.run(server, Statement::new(statements::stage_mapped(n == 0)).bind(text)).await?;
    }
    let block = statements::deliver(batch, rows, &planned.steps)?;
    match session.run_block(server, block).await.map_err(|error| planned.blame(error))? {
        Ended::Committed => Ok(()),
        Ended::Fenced => {
            let found = read_fence(session, server, batch.partition).await?.epoch;
            Err(SinkError::Fenced { partition: batch.partition, found, own: batch.from.epoch })
        }
        Ended::Occupied => Err(rows::occupied(&server.to_string())),
        Ended::Overtaken => Err(SinkError::Retry(format!(
            "{server}: another partition told meanwhile how a connection is that this batch tells of"
        ))),
    }
}

async fn read_fence(session: &mut Session, server: &Server, partition: i32) -> Result<Fence, SinkError> {
    let found = session.run(server, statements::read_fence(partition)).await.map_err(rows::not_by_data)?;
    if found.is_empty() {
        return Ok(Fence::EMPTY);
    }
    let row = found.first();
    let Some(CellValue::Binary(digest)) = row.and_then(|row| row.values().get(2)) else {
        return Err(server.other_tables());
    };
    let stored = StoredFence {
        offset: integer(server, row, 0)?,
        ordinal: integer(server, row, 1)?,
        digest: digest.as_bytes().to_vec(),
        lineage: integer(server, row, 3)?,
        claim: integer(server, row, 4)?,
    };
    stored.read()
}

async fn check_owner(session: &mut Session, server: &Server, context: &Context) -> Result<(), SinkError> {
    let found = session.run(server, statements::find_foreign(context)).await.map_err(rows::not_by_data)?;
    let Some(row) = found.first() else { return Ok(()) };
    let [CellValue::String(pipeline), CellValue::String(cluster), CellValue::String(topic)] = row.values()
    else {
        return Err(server.other_tables());
    };
    Err(rows::foreign(&server.to_string(), WAY_OUT, [pipeline, cluster, topic], context))
}

/// A whole number of a row that must be there.
fn integer<T: TryFrom<i128>>(server: &Server, row: Option<&DynamicRow>, n: usize) -> Result<T, SinkError> {
    match row.and_then(|row| row.values().get(n)) {
        Some(CellValue::Integer(value)) => T::try_from(*value).map_err(|_| server.other_tables()),
        _ => Err(server.other_tables()),
    }
}
