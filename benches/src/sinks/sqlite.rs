//! SQLite, against one prepared INSERT for all rows.

use std::time::{Duration, Instant};

use rusqlite::types::Value;
use rusqlite::{Connection, params_from_iter};
use shared::config::{SinkConfig, SqliteSinkConfig};
use tempfile::TempDir;

use super::Database;

pub(super) struct Place {
    dir: TempDir,
    /// Counts the files; the last one is the sink's.
    made: usize,
}

impl Place {
    pub(super) fn start() -> Self {
        Self { dir: hookline_tests::setup::scratch("sqlite"), made: 0 }
    }

    fn file(&self) -> std::path::PathBuf {
        self.dir.path().join(format!("{}.db", self.made))
    }
}

impl Database for Place {
    fn bulk_way(&self) -> &'static str {
        "prepared INSERT"
    }

    fn fresh(&mut self) -> anyhow::Result<SinkConfig> {
        self.made += 1;
        Ok(SinkConfig::Sqlite(SqliteSinkConfig { path: self.file(), connections: None }))
    }

    fn bulk(&mut self) -> anyhow::Result<(u64, Duration)> {
        let from = Connection::open(self.file())?;
        let mut to = Connection::open(self.file().with_extension("bulk.db"))?;
        to.pragma_update(None, "journal_mode", "wal")?;
        to.pragma_update(None, "synchronous", "full")?;
        let mut sets = Vec::new();
        for table in ["hookline_events", "hookline_entities"] {
            let mut made =
                from.prepare("SELECT sql FROM sqlite_master WHERE tbl_name = ?1 AND sql IS NOT NULL")?;
            let made = made.query_map([table], |row| row.get::<_, String>(0))?;
            for sql in made {
                to.execute_batch(&sql?)?;
            }
            let mut select = from.prepare(&format!("SELECT * FROM {table}"))?;
            let columns = select.column_count();
            let rows = select.query_map([], |row| (0..columns).map(|n| row.get::<_, Value>(n)).collect())?;
            let rows: Vec<Vec<Value>> = rows.collect::<Result<_, _>>()?;
            sets.push((format!("INSERT INTO {table} VALUES ({})", vec!["?"; columns].join(", ")), rows));
        }
        let started = Instant::now();
        let transaction = to.transaction()?;
        for (sql, rows) in &sets {
            let mut insert = transaction.prepare(sql)?;
            for row in rows {
                insert.execute(params_from_iter(row))?;
            }
        }
        transaction.commit()?;
        Ok((sets[0].1.len() as u64, started.elapsed()))
    }
}
