//! MySQL's protocol on MariaDB, against LOAD DATA.

use std::time::{Duration, Instant};

use hookline_tests::mariadb::MariaDb;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, OptsBuilder};
use shared::config::{DatabaseSinkConfig, SinkConfig};
use tokio::runtime::{Builder, Runtime};

use super::{Database, UNREAD_URL};

pub(super) struct Place {
    server: MariaDb,
    runtime: Runtime,
    conn: Conn,
    /// Counts the databases; the last one is the sink's.
    made: usize,
}

impl Place {
    pub(super) fn start() -> anyhow::Result<Self> {
        let server = MariaDb::start();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let options = OptsBuilder::default().ip_or_hostname("127.0.0.1").tcp_port(server.port());
        let conn = runtime.block_on(Conn::new(options.user(Some("root")).prefer_socket(false)))?;
        Ok(Self { server, runtime, conn, made: 0 })
    }

    fn run(&mut self, sql: &str) -> anyhow::Result<()> {
        Ok(self.runtime.block_on(self.conn.query_drop(sql))?)
    }
}

impl Database for Place {
    fn bulk_way(&self) -> &'static str {
        "LOAD DATA"
    }

    fn fresh(&mut self) -> anyhow::Result<SinkConfig> {
        self.made += 1;
        let name = format!("bench_{}", self.made);
        self.run(&format!("CREATE DATABASE {name}"))?;
        self.run(&format!("USE {name}"))?;
        let url = format!("mysql://root@127.0.0.1:{}/{name}?ssl-mode=disabled", self.server.port());
        let mut config: DatabaseSinkConfig = toml::from_str(UNREAD_URL)?;
        config.url_value = Some(url.into());
        Ok(SinkConfig::Mysql(config))
    }

    fn bulk(&mut self) -> anyhow::Result<(u64, Duration)> {
        let tables = ["hookline_events", "hookline_entities"];
        // Relative to the server's data: it writes and reads them itself.
        let file = |table: &str| format!("{table}.rows");
        for table in tables {
            self.run(&format!("SELECT * FROM {table} INTO OUTFILE '{}'", file(table)))?;
            self.run(&format!("CREATE TABLE bulk_{table} LIKE {table}"))?;
        }
        let started = Instant::now();
        self.run("START TRANSACTION")?;
        for table in tables {
            let into = format!("INTO TABLE bulk_{table} CHARACTER SET binary");
            self.run(&format!("LOAD DATA INFILE '{}' {into}", file(table)))?;
        }
        self.run("COMMIT")?;
        let took = started.elapsed();
        let count = self.conn.query_first("SELECT count(*) FROM bulk_hookline_events");
        let count: Option<u64> = self.runtime.block_on(count)?;
        Ok((count.unwrap_or(0), took))
    }
}
