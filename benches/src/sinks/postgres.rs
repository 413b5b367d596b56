//! PostgreSQL, against COPY.

use std::io::{Read as _, Write as _};
use std::time::{Duration, Instant};

use hookline_tests::postgres::{Postgres, connect, query};
use shared::config::{PostgresSinkConfig, SinkConfig};

use super::{Database, UNREAD_URL};

pub(super) struct Place {
    server: Postgres,
    /// The database of the last sink.
    url: String,
}

impl Place {
    pub(super) fn start() -> Self {
        let server = Postgres::start();
        Self { url: server.url(), server }
    }
}

impl Database for Place {
    fn bulk_way(&self) -> &'static str {
        "COPY"
    }

    fn fresh(&mut self) -> anyhow::Result<SinkConfig> {
        self.url = self.server.create_database();
        let mut config: PostgresSinkConfig = toml::from_str(UNREAD_URL)?;
        config.url_value = Some(self.url.clone().into());
        Ok(SinkConfig::Postgres(config))
    }

    fn bulk(&mut self) -> anyhow::Result<(u64, Duration)> {
        let mut client = connect(&self.url);
        let tables = ["hookline_events", "hookline_entities"];
        let mut data = Vec::new();
        for table in tables {
            let mut bytes = Vec::new();
            client.copy_out(&format!("COPY {table} TO STDOUT (FORMAT binary)"))?.read_to_end(&mut bytes)?;
            data.push(bytes);
        }
        for table in tables {
            query(&self.url, &format!("CREATE TABLE bulk_{table} (LIKE {table} INCLUDING ALL)"));
        }
        query(&self.url, "CHECKPOINT");
        let started = Instant::now();
        let mut transaction = client.transaction()?;
        let mut rows = Vec::new();
        for (table, bytes) in tables.iter().zip(&data) {
            let mut copy = transaction.copy_in(&format!("COPY bulk_{table} FROM STDIN (FORMAT binary)"))?;
            copy.write_all(bytes)?;
            rows.push(copy.finish()?);
        }
        transaction.commit()?;
        Ok((rows[0], started.elapsed()))
    }
}
