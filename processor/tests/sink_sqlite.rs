//! The SQLite sink: the promises of every sink with a fence, and SQLite's own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test: a panic is its way to fail")]

mod sink_contract;

use std::fs;
use std::path::PathBuf;

use processor::sink::{self, SinkError};
use rusqlite::{Connection, Row};
use shared::config::{ColumnType, SinkConfig, SqliteSinkConfig};
use tempfile::TempDir;

use sink_contract::example;
use sink_contract::mapping::{self, Mapped, Table};
use sink_contract::relational::{self, Relational};
use sink_contract::statuses;
use sink_contract::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, effect, epoch, event, halted, open, promises,
    rows_dropped_in_silence_halt,
};

promises!(File::new());
mapping::promises!(File::new());
relational::promises!(File::new());
statuses::promises!(File::new());

/// A database file of its own.
struct File {
    dir: TempDir,
}

impl File {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("hookline.db")
    }

    fn connect(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    fn run(&self, sql: &str) {
        self.connect().execute_batch(sql).unwrap();
    }

    fn read<T>(&self, sql: &str, read: impl Fn(&Row<'_>) -> rusqlite::Result<T>) -> Vec<T> {
        let connection = self.connect();
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| read(row)).unwrap().map(Result::unwrap).collect()
    }
}

impl Place for File {
    fn config(&self) -> SinkConfig {
        SinkConfig::Sqlite(SqliteSinkConfig { path: self.path(), connections: None })
    }

    fn events(&self) -> Vec<StoredEvent> {
        let sql = "SELECT log_partition, effect_offset, effect_ordinal, source, connection, event_id, type, \
                   entity, sequence, event_time, content_type, traceparent, received_at, log_offset, \
                   appended_at, cast(body AS BLOB) FROM hookline_events ORDER BY 1, 2, 3";
        self.read(sql, |row| {
            Ok(StoredEvent {
                partition: row.get(0)?,
                at: (row.get(1)?, row.get(2)?),
                source: row.get(3)?,
                connection: row.get(4)?,
                id: row.get(5)?,
                kind: row.get(6)?,
                entity: row.get(7)?,
                sequence: row.get(8)?,
                time: row.get(9)?,
                content_type: row.get(10)?,
                traceparent: row.get(11)?,
                received_at: row.get(12)?,
                log_offset: row.get(13)?,
                appended_at: row.get(14)?,
                body: row.get(15)?,
            })
        })
    }

    fn entities(&self) -> Vec<StoredEntity> {
        let sql = "SELECT source, connection, entity, event_id, type, sequence, log_partition, \
                   effect_offset, effect_ordinal, updated, cast(body AS BLOB) FROM hookline_entities \
                   ORDER BY 7, 8, 9";
        self.read(sql, |row| {
            Ok(StoredEntity {
                source: row.get(0)?,
                connection: row.get(1)?,
                entity: row.get(2)?,
                id: row.get(3)?,
                kind: row.get(4)?,
                sequence: row.get(5)?,
                at: (row.get(6)?, row.get(7)?, row.get(8)?),
                updated: row.get(9)?,
                body: row.get(10)?,
            })
        })
    }

    fn tamper(&self, how: Tamper) {
        self.run(&how.sql(""));
    }

    fn refuse_bad(&self) {
        self.run(
            "CREATE TRIGGER refuse BEFORE INSERT ON hookline_events WHEN new.type = 'bad' \
             BEGIN SELECT raise(ABORT, 'no bad events'); END",
        );
    }
}

impl Mapped for File {
    fn create(&self, table: &Table) {
        let columns = table.columns.iter().map(|(name, kind)| {
            let kind = match kind {
                ColumnType::Integer => "INTEGER",
                ColumnType::Boolean => "BOOLEAN",
                ColumnType::Timestamp => "TIMESTAMP",
                ColumnType::Date => "DATE",
                ColumnType::Text | ColumnType::Decimal | ColumnType::Json => "TEXT",
            };
            format!("\"{name}\" {kind}")
        });
        self.run(&mapping::create_table(table, &format!("\"{}\"", table.name), columns));
    }

    fn rows(&self, table: &Table) -> Vec<Vec<String>> {
        let columns = table.columns.iter().map(|(name, kind)| match kind {
            ColumnType::Boolean => format!("CASE \"{name}\" WHEN 1 THEN 'true' WHEN 0 THEN 'false' END"),
            ColumnType::Text
            | ColumnType::Integer
            | ColumnType::Decimal
            | ColumnType::Timestamp
            | ColumnType::Date
            | ColumnType::Json => format!("cast(\"{name}\" AS TEXT)"),
        });
        let sql = format!("SELECT {} FROM \"{}\"", columns.collect::<Vec<_>>().join(", "), table.name);
        self.read(&sql, |row| {
            let value = |n| Ok(row.get::<_, Option<String>>(n)?.unwrap_or_else(|| "null".to_owned()));
            (0..table.columns.len()).map(value).collect()
        })
    }

    fn insert(&self, table: &Table, values: &[&str]) {
        self.run(&format!("INSERT INTO \"{}\" VALUES ('{}')", table.name, values.join("', '")));
    }
}

impl Relational for File {
    fn sql(&self, sql: &str) {
        self.run(&sql.replace(['{', '}'], "\""));
    }
}

#[test]
fn the_example_of_purchase_orders_runs() {
    let file = File::new();
    file.run(&example::file("sqlite", "tables.sql"));
    example::runs(&file, "sqlite", true);
}

#[test]
fn a_trigger_that_drops_rows_in_silence_halts() {
    let file = File::new();
    rows_dropped_in_silence_halt(&file, || {
        file.run(
            "CREATE TRIGGER swallow BEFORE INSERT ON hookline_events WHEN new.type = 'bad' \
             BEGIN SELECT raise(IGNORE); END",
        );
    });
}

#[test]
fn a_body_is_text_where_it_is_text_and_bytes_where_it_is_not() {
    let file = File::new();
    let bodies: [&[u8]; 4] = [b"{\"n\":9007199254740993}", "\u{1F980}".as_bytes(), b"\xff", b"a\0b"];
    let effects: Vec<_> =
        (0_i64..).zip(bodies).map(|(n, body)| effect(n, 0, &event(&format!("e{n}"), None), body)).collect();
    Owner::claim(&file, 0, epoch(1)).deliver(&effects).unwrap();
    let sql = "SELECT typeof(body) FROM hookline_events ORDER BY effect_offset";
    assert_eq!(file.read(sql, |row| row.get::<_, String>(0)), ["text", "text", "blob", "blob"]);
    let sql = "SELECT cast(body ->> 'n' AS TEXT) FROM hookline_events WHERE effect_offset = 0";
    assert_eq!(file.read(sql, |row| row.get::<_, String>(0)), ["9007199254740993"]);
}

#[test]
fn a_transaction_outlives_a_power_cut_and_readers_do_not_wait() {
    let file = File::new();
    let mut owner = Owner::claim(&file, 0, epoch(1));
    owner.deliver(&[sink_contract::simple(1)]).unwrap();
    assert_eq!(file.read("PRAGMA journal_mode", |row| row.get::<_, String>(0)), ["wal"]);
    // A reader in the middle of a transaction holds nobody up.
    let reader = file.connect();
    reader.execute_batch("BEGIN; SELECT count(*) FROM hookline_events").unwrap();
    owner.deliver(&[sink_contract::simple(2)]).unwrap();
    let seen: i64 = reader.query_row("SELECT count(*) FROM hookline_events", [], |row| row.get(0)).unwrap();
    assert_eq!(seen, 1);
}

#[test]
fn a_crash_before_the_commit_leaves_nothing() {
    let file = File::new();
    let mut owner = Owner::claim(&file, 0, epoch(1));
    owner.deliver(&[sink_contract::simple(1)]).unwrap();
    let fence = owner.fence;
    // As a crashed process leaves them: file and log, with a transaction that wrote and did not commit.
    let writer = file.connect();
    writer
        .execute_batch("PRAGMA cache_size = 1; BEGIN IMMEDIATE; UPDATE hookline_fence SET effect_offset = 9")
        .unwrap();
    let many = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < 2000) \
                INSERT INTO hookline_events SELECT 7, x, 0, '', '', hex(randomblob(200)), '', NULL, NULL, \
                NULL, NULL, '', 0, '', NULL, '' FROM n";
    writer.execute_batch(many).unwrap();
    let crashed = File::new();
    for name in ["hookline.db", "hookline.db-wal"] {
        fs::copy(file.dir.path().join(name), crashed.dir.path().join(name)).unwrap();
    }
    assert_eq!(open(&crashed).unwrap().fence(0).unwrap(), fence);
    assert_eq!(crashed.events().len(), 1);
}

#[test]
fn a_missing_directory_halts_and_names_the_file() {
    let file = File::new();
    let path = file.dir.path().join("missing/hookline.db");
    let config = SinkConfig::Sqlite(SqliteSinkConfig { path: path.clone(), connections: None });
    match sink::open(&config, &context()) {
        Err(SinkError::Halt(message)) => assert!(message.contains(&path.display().to_string()), "{message}"),
        other => panic!("not halted: {:?}", other.map(|_| ())),
    }
}

#[test]
fn a_file_that_is_no_database_halts() {
    let file = File::new();
    fs::write(file.path(), "a file of somebody else's, long enough to have a header".repeat(50)).unwrap();
    assert!(halted(open(&file)).contains("name another"));
}

#[test]
fn tables_that_are_not_as_hookline_made_them_halt() {
    let file = File::new();
    let mut owner = Owner::claim(&file, 0, epoch(1));
    file.run("ALTER TABLE hookline_events DROP COLUMN sequence");
    let outcome = owner.deliver(&[sink_contract::simple(1)]);
    assert!(matches!(outcome, Err(SinkError::Halt(_))), "{outcome:?}");
    file.run("DROP TABLE hookline_fence");
    assert!(halted(open(&file)).contains("not as Hookline made them"));
}

#[test]
fn a_mapped_column_that_changes_what_it_is_given_halts() {
    let file = File::new();
    file.run(
        "CREATE TABLE orders (connection TEXT, id TEXT COLLATE NOCASE, number NUMERIC, total DECIMAL(10, 2), \
         PRIMARY KEY (connection, id))",
    );
    let message = halted(sink_contract::open_with(&file, &mapping::with(mapping::ORDERS)));
    for fault in [
        "column `id` cannot be in the key: its collation",
        "column `number` is NUMERIC, which is not for a text",
        "column `total` is DECIMAL(10, 2), which is not for a decimal",
    ] {
        assert!(message.contains(fault), "{fault}: {message}");
    }
}
