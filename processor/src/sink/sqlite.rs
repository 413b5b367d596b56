//! The SQLite sink: events, entities and fence in one file, each batch one transaction.
//!
//! For one instance: its lanes are several connections to the file, one of which writes at a time. Called by
//! a lane's thread.

mod statuses;
mod tables;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use rusqlite::{
    Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, TransactionBehavior, ffi, params,
};
use shared::config::SqliteSinkConfig;

use super::mapping::{self, table::Table};
use super::rows::{self, Row, StoredFence};
use super::statuses::StatusTable;
use super::{Batch, Context, Sink, SinkError};
use crate::position::{Epoch, Fence, Position};

/// How long a connection waits for the others' transactions.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages kept in memory, in KiB.
const CACHE_KIB: i64 = 64 * 1024;
/// The write-ahead log goes into the file when it has so many pages of 4 KiB: 64 MiB.
const LOG_PAGES: i64 = 16 * 1024;

/// Each brings the tables from the version before to its own: the first is version 1.
const MIGRATIONS: &[&str] = &[include_str!("sql/sqlite_1.sql")];

const WAY_OUT: &str = "give it a file of its own (sink.sqlite.path)";

const INSERT_FENCE: &str = "INSERT INTO hookline_fence (log_partition, pipeline, cluster_id, topic, \
    effect_offset, effect_ordinal, digest, lineage, claim, updated_at) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, strftime('%Y-%m-%dT%H:%M:%fZ', 'now')) \
    ON CONFLICT DO NOTHING";
const FIND_FOREIGN: &str = "SELECT pipeline, cluster_id, topic FROM hookline_fence \
    WHERE (pipeline, cluster_id, topic) <> (?1, ?2, ?3) LIMIT 1";
const RAISE_EPOCH: &str = "UPDATE hookline_fence SET lineage = ?2, claim = ?3, \
    updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
    WHERE log_partition = ?1 AND (lineage, claim) <= (?2, ?3)";
const READ_FENCE: &str = "SELECT effect_offset, effect_ordinal, digest, lineage, claim FROM hookline_fence \
    WHERE log_partition = ?1";
const COUNT: &str = "SELECT count(*) FROM hookline_events \
    WHERE log_partition = ?1 AND (effect_offset, effect_ordinal) <= (?2, ?3)";
const MOVE_FENCE: &str = "UPDATE hookline_fence SET effect_offset = ?2, effect_ordinal = ?3, digest = ?4, \
    updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
    WHERE log_partition = ?1 AND effect_offset = ?5 AND effect_ordinal = ?6 AND lineage = ?7 AND claim = ?8";
const INSERT_EVENT: &str = "INSERT INTO hookline_events (log_partition, effect_offset, effect_ordinal, \
    source, connection, event_id, type, entity, sequence, event_time, content_type, received_at, \
    log_offset, appended_at, traceparent, body) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16)";
const UPSERT_ENTITY: &str = "INSERT INTO hookline_entities (source, connection, entity, event_id, type, \
    sequence, body, log_partition, effect_offset, effect_ordinal, updated) \
    SELECT source, connection, entity, event_id, type, sequence, body, log_partition, effect_offset, \
    effect_ordinal, appended_at FROM hookline_events \
    WHERE log_partition = ?1 AND effect_offset = ?2 AND effect_ordinal = ?3 \
    ON CONFLICT (source, connection, entity) DO UPDATE SET event_id = excluded.event_id, \
    type = excluded.type, sequence = excluded.sequence, body = excluded.body, \
    log_partition = excluded.log_partition, effect_offset = excluded.effect_offset, \
    effect_ordinal = excluded.effect_ordinal, updated = excluded.updated";

/// Tables in an SQLite file.
pub(super) struct Sqlite {
    path: PathBuf,
    context: Context,
    /// The user's own.
    tables: Arc<[Table]>,
    statuses: Option<Arc<StatusTable>>,
    /// None after a failure, until the next call.
    connection: Option<Connection>,
}

impl Sqlite {
    pub(super) fn open(config: &SqliteSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let tables = mapping::table::all(&context.tables).into();
        let statuses = config.connections.as_ref().map(|table| Arc::new(StatusTable::new(table)));
        let mut sink =
            Self { path: config.path.clone(), context: context.clone(), tables, statuses, connection: None };
        sink.run(|connection, path, context| check_owner(connection, path, context))?;
        Ok(sink)
    }

    /// Runs a call on the connection. After a failure that is not the data's, the next call opens another:
    /// what state this one is in is not known.
    fn run<T>(
        &mut self,
        call: impl FnOnce(&mut Connection, &Path, &Context) -> Result<T, SinkError>,
    ) -> Result<T, SinkError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => {
                let mut connection = connect(&self.path)?;
                if let Some(table) = &self.statuses {
                    statuses::make(&mut connection, &self.path, table)?;
                }
                tables::check(&connection, &self.path, &self.context.pipeline, &self.tables)?;
                connection
            }
        };
        let outcome = call(&mut connection, &self.path, &self.context);
        match outcome {
            Err(SinkError::Retry(_) | SinkError::Waits(_) | SinkError::Halt(_)) => {}
            Ok(_) | Err(SinkError::Fenced { .. } | SinkError::Refused(_)) => {
                self.connection = Some(connection)
            }
        }
        outcome
    }
}

impl Sink for Sqlite {
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        self.run(|connection, path, context| {
            let claimed = claim(connection, path, context, partition, epoch);
            claimed.map_err(rows::not_by_data)
        })
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        self.run(|connection, path, _| read_fence(connection, path, partition).map_err(rows::not_by_data))
    }

    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError> {
        self.run(|connection, path, _| {
            let values = params![partition, up_to.offset, up_to.ordinal];
            let counted = connection.query_row(COUNT, values, |row| row.get::<_, i64>(0));
            let counted = counted.map_err(|e| rows::not_by_data(failed(path, &e)))?;
            Ok(u64::try_from(counted).unwrap_or(0))
        })
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let rows = rows::of(batch)?;
        let tables = Arc::clone(&self.tables);
        let changes = mapping::changes(&tables, &rows)?;
        let statuses = self.statuses.clone();
        let told = StatusTable::told(statuses.as_deref(), &rows)?;
        self.run(|connection, path, _| {
            let transaction = begin(connection, path)?;
            deliver(&transaction, path, batch, &rows)?;
            statuses::apply(&transaction, path, statuses.as_deref(), batch.partition, told)?;
            tables::apply(&transaction, path, &tables, changes)?;
            transaction.commit().map_err(|e| failed(path, &e))
        })
    }
}

fn claim(
    connection: &mut Connection,
    path: &Path,
    context: &Context,
    partition: i32,
    epoch: Epoch,
) -> Result<Fence, SinkError> {
    let (lineage, claim) = rows::stored_epoch(epoch)?;
    let empty = StoredFence::of(&Fence::EMPTY)?;
    let transaction = begin(connection, path)?;
    check_owner(&transaction, path, context)?;
    let Context { pipeline, cluster_id, topic, .. } = context;
    let StoredFence { offset, ordinal, digest, lineage: no_lineage, claim: no_claim } = empty;
    let values =
        params![partition, pipeline, cluster_id, topic, offset, ordinal, digest, no_lineage, no_claim];
    transaction.execute(INSERT_FENCE, values).map_err(|e| failed(path, &e))?;
    let raised = transaction.execute(RAISE_EPOCH, params![partition, lineage, claim]);
    let raised = raised.map_err(|e| failed(path, &e))?;
    let fence = read_fence(&transaction, path, partition)?;
    if raised == 0 {
        return Err(SinkError::Fenced { partition, found: fence.epoch, own: epoch });
    }
    transaction.commit().map_err(|e| failed(path, &e))?;
    Ok(fence)
}

/// The fence moves first: a batch that was already applied, or is a former owner's, touches nothing else.
fn deliver(
    transaction: &Transaction<'_>,
    path: &Path,
    batch: &Batch<'_>,
    rows: &[Row<'_>],
) -> Result<(), SinkError> {
    let failed = |e: rusqlite::Error| failed(path, &e);
    let partition = batch.partition;
    let (from, to) = (StoredFence::of(&batch.from)?, StoredFence::of(&batch.to)?);
    let values = params![
        partition,
        to.offset,
        to.ordinal,
        to.digest,
        from.offset,
        from.ordinal,
        from.lineage,
        from.claim
    ];
    let moved = transaction.prepare_cached(MOVE_FENCE).and_then(|mut s| s.execute(values));
    if moved.map_err(|e| rows::not_by_data(failed(e)))? == 0 {
        let found = read_fence(transaction, path, partition)?.epoch;
        return Err(SinkError::Fenced { partition, found, own: batch.from.epoch });
    }
    let mut insert = transaction.prepare_cached(INSERT_EVENT).map_err(failed)?;
    for row in rows {
        let event = &row.event;
        let inserted = insert.execute(params![
            partition,
            row.position.offset,
            row.ordinal,
            event.source,
            event.connection,
            event.id,
            event.kind,
            event.entity,
            event.sequence,
            rows::event_time(row),
            event.content_type,
            rfc3339(event.received_at_ms, row)?,
            row.event_offset,
            rfc3339(row.appended_at_ms, row)?,
            event.traceparent,
            Body(row.body),
        ]);
        if inserted.map_err(failed)? != 1 {
            return Err(rows::swallowed(&place(path)));
        }
    }
    let mut upsert = transaction.prepare_cached(UPSERT_ENTITY).map_err(failed)?;
    for row in rows::last_of_entities(rows) {
        upsert.execute(params![partition, row.position.offset, row.ordinal]).map_err(failed)?;
    }
    Ok(())
}

/// Text where the body is text, so that SQLite's functions for text and JSON work on it; else bytes. They
/// stop at U+0000, so a body with one is bytes too.
struct Body<'a>(&'a [u8]);

impl rusqlite::ToSql for Body<'_> {
    fn to_sql(&self) -> rusqlite::Result<rusqlite::types::ToSqlOutput<'_>> {
        Ok(match std::str::from_utf8(self.0) {
            Ok(text) if !text.contains('\0') => text.into(),
            Ok(_) | Err(_) => self.0.into(),
        })
    }
}

fn rfc3339(ms: i64, row: &Row<'_>) -> Result<String, SinkError> {
    let time = Timestamp::from_millisecond(ms).map_err(|_| rows::no_such_time(row))?;
    Ok(format!("{time:.3}"))
}

fn begin<'c>(connection: &'c mut Connection, path: &Path) -> Result<Transaction<'c>, SinkError> {
    // Immediate: a transaction that reads first and writes later is refused when another wrote in between.
    connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| failed(path, &e))
}

fn read_fence(connection: &Connection, path: &Path, partition: i32) -> Result<Fence, SinkError> {
    let stored = connection.query_row(READ_FENCE, [partition], |row| {
        Ok(StoredFence {
            offset: row.get(0)?,
            ordinal: row.get(1)?,
            digest: row.get(2)?,
            lineage: row.get(3)?,
            claim: row.get(4)?,
        })
    });
    stored.optional().map_err(|e| failed(path, &e))?.map_or(Ok(Fence::EMPTY), StoredFence::read)
}

fn check_owner(connection: &Connection, path: &Path, context: &Context) -> Result<(), SinkError> {
    let Context { pipeline, cluster_id, topic, .. } = context;
    let found = connection.query_row(FIND_FOREIGN, [pipeline, cluster_id, topic], |row| {
        Ok([row.get::<_, String>(0)?, row.get(1)?, row.get(2)?])
    });
    match found.optional().map_err(|e| failed(path, &e))? {
        None => Ok(()),
        Some([pipeline, cluster, topic]) => {
            Err(rows::foreign(&place(path), WAY_OUT, [&pipeline, &cluster, &topic], context))
        }
    }
}

/// Lanes open their connections one after the other: SQLite does not wait for a lock to begin a write-ahead log.
static OPENING: Mutex<()> = Mutex::new(());

fn connect(path: &Path) -> Result<Connection, SinkError> {
    let _opening = OPENING.lock().unwrap_or_else(PoisonError::into_inner);
    let failed = |e: rusqlite::Error| rows::not_by_data(failed(path, &e));
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(failed)?;
    // Readers are not held up by the writer, nor it by them.
    let mode: String =
        connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0)).map_err(failed)?;
    if mode != "wal" {
        return Err(SinkError::Halt(format!(
            "{} is where SQLite cannot keep a write-ahead log: name a file on a local disk \
             (sink.sqlite.path)",
            place(path)
        )));
    }
    // A batch touches pages all over the indexes: each is read from here, and written to the file once for many batches.
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(failed)?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES).map_err(failed)?;
    // NORMAL would lose the last transactions when the power fails, although they were reported as applied.
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), SinkError> {
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    let check =
        |found: i64| if found > known { Err(rows::too_new(&place(path), found, known)) } else { Ok(found) };
    if check(version(connection, path)?)? == known {
        return Ok(());
    }
    let transaction = begin(connection, path)?;
    // Another lane may have been quicker.
    let found = check(version(&transaction, path)?)?;
    for (n, migration) in (1_i64..).zip(MIGRATIONS).filter(|(n, _)| *n > found) {
        let done = transaction
            .execute_batch(migration)
            .and_then(|()| transaction.execute("INSERT INTO hookline_schema (version) VALUES (?1)", [n]));
        done.map_err(|e| rows::not_by_data(failed(path, &e)))?;
    }
    transaction.commit().map_err(|e| rows::not_by_data(failed(path, &e)))
}

/// The version of the tables; 0 where there are none.
fn version(connection: &Connection, path: &Path) -> Result<i64, SinkError> {
    let exists = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'hookline_schema'";
    let version =
        connection.query_row(exists, [], |row| row.get::<_, i64>(0)).and_then(|tables| match tables {
            0 => Ok(0),
            _ => connection
                .query_row("SELECT coalesce(max(version), 0) FROM hookline_schema", [], |row| row.get(0)),
        });
    version.map_err(|e| rows::not_by_data(failed(path, &e)))
}

fn place(path: &Path) -> String {
    path.display().to_string()
}

/// What a failure means. SQLite's own messages name tables, columns and constraints, never values.
fn failed(path: &Path, error: &rusqlite::Error) -> SinkError {
    let file = path.display();
    let rusqlite::Error::SqliteFailure(cause, message) = error else {
        // The program and the tables do not fit each other: SQL that does not compile, a column of another
        // type. The error's own text may hold SQL or values.
        return SinkError::Halt(format!(
            "the tables in {file} are not as Hookline made them: restore them, or name another file \
             (sink.sqlite.path)"
        ));
    };
    let message = message.as_deref().unwrap_or("no message");
    let text = format!("SQLite, {file}: {message} (code {})", cause.extended_code);
    if cause.extended_code == ffi::SQLITE_CONSTRAINT_PRIMARYKEY {
        return rows::occupied(&place(path));
    }
    match cause.code {
        // Another connection holds a lock: it will let go.
        ErrorCode::DatabaseBusy
        | ErrorCode::DatabaseLocked
        | ErrorCode::FileLockingProtocolFailed
        // The machine is short of something, or a disk failed for now.
        | ErrorCode::SystemIoFailure
        | ErrorCode::DiskFull
        | ErrorCode::OutOfMemory
        // Somebody stopped the statement.
        | ErrorCode::OperationAborted
        | ErrorCode::OperationInterrupted
        // The tables changed under a prepared statement: another connection prepares it anew.
        | ErrorCode::SchemaChanged => SinkError::Retry(text),
        ErrorCode::CannotOpen => SinkError::Halt(format!(
            "{text}: make its directory, and let this program's user write there (sink.sqlite.path)"
        )),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            SinkError::Halt(format!("{text}: let this program's user write to the file and its directory"))
        }
        ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt => SinkError::Halt(format!(
            "{text}: restore the file from a backup, or name another (sink.sqlite.path) and rebuild"
        )),
        // The row is at fault: too big, or against a constraint, type or trigger that somebody added.
        ErrorCode::TooBig | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch => {
            SinkError::Refused(text)
        }
        // The program and the tables do not fit each other, or the platform lacks something: waiting is
        // of no use.
        ErrorCode::Unknown
        | ErrorCode::NotFound
        | ErrorCode::InternalMalfunction
        | ErrorCode::ApiMisuse
        | ErrorCode::ParameterOutOfRange
        | ErrorCode::NoLargeFileSupport => SinkError::Halt(format!(
            "{text}: the tables are not as Hookline made them; restore them, or name another file \
             (sink.sqlite.path)"
        )),
        // A code that a later SQLite has: tried again, since that loses nothing and can be seen.
        _ => SinkError::Retry(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(code: i32) -> SinkError {
        failed(Path::new("a.db"), &rusqlite::Error::SqliteFailure(ffi::Error::new(code), None))
    }

    #[test]
    fn what_passes_by_itself_is_tried_again() {
        let codes = [
            ffi::SQLITE_BUSY,
            ffi::SQLITE_BUSY_SNAPSHOT,
            ffi::SQLITE_LOCKED,
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_FULL,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_PROTOCOL,
            ffi::SQLITE_SCHEMA,
            9999,
        ];
        for code in codes {
            assert!(matches!(meaning(code), SinkError::Retry(_)), "{code}");
        }
    }

    #[test]
    fn what_somebody_must_change_stops_the_pipeline() {
        let codes = [
            ffi::SQLITE_CANTOPEN,
            ffi::SQLITE_NOTADB,
            ffi::SQLITE_CORRUPT,
            ffi::SQLITE_READONLY_DBMOVED,
            ffi::SQLITE_PERM,
            ffi::SQLITE_ERROR,
            ffi::SQLITE_CONSTRAINT_PRIMARYKEY,
        ];
        for code in codes {
            assert!(matches!(meaning(code), SinkError::Halt(_)), "{code}");
        }
    }

    #[test]
    fn what_the_data_is_to_blame_for_is_refused() {
        let codes = [
            ffi::SQLITE_TOOBIG,
            ffi::SQLITE_MISMATCH,
            ffi::SQLITE_CONSTRAINT_CHECK,
            ffi::SQLITE_CONSTRAINT_UNIQUE,
            ffi::SQLITE_CONSTRAINT_TRIGGER,
        ];
        for code in codes {
            assert!(matches!(meaning(code), SinkError::Refused(_)), "{code}");
        }
    }
}
