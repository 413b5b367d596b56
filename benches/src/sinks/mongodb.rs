//! MongoDB's protocol on FerretDB, against insertMany.

use std::time::{Duration, Instant};

use hookline_tests::ferretdb::FerretDb;
use mongodb::bson::{Document, doc};
use mongodb::{Client, Collection};
use shared::config::{DatabaseSinkConfig, SinkConfig};
use tokio::runtime::{Builder, Runtime};

use super::{Database, UNREAD_URL};

/// Documents in one command, as the sink's batches.
const COMMAND: usize = 1_000;

pub(super) struct Place {
    server: FerretDb,
    runtime: Runtime,
    client: Client,
    /// Counts the databases; the last one is the sink's.
    made: usize,
}

impl Place {
    pub(super) fn start() -> anyhow::Result<Self> {
        let server = FerretDb::start();
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let url = format!("mongodb://127.0.0.1:{}/?directConnection=true", server.port());
        let client = runtime.block_on(Client::with_uri_str(url))?;
        Ok(Self { server, runtime, client, made: 0 })
    }

    fn name(&self) -> String {
        format!("bench_{}", self.made)
    }
}

impl Database for Place {
    fn bulk_way(&self) -> &'static str {
        "insertMany"
    }

    fn fresh(&mut self) -> anyhow::Result<SinkConfig> {
        self.made += 1;
        let url = format!("mongodb://127.0.0.1:{}/{}", self.server.port(), self.name());
        let mut config: DatabaseSinkConfig = toml::from_str(UNREAD_URL)?;
        config.url_value = Some(url.into());
        Ok(SinkConfig::Mongodb(config))
    }

    fn bulk(&mut self) -> anyhow::Result<(u64, Duration)> {
        let database = self.client.database(&self.name());
        self.runtime.block_on(async {
            let mut sets = Vec::new();
            for name in ["hookline_events", "hookline_entities"] {
                let from: Collection<Document> = database.collection(name);
                let mut cursor = from.find(doc! {}).await?;
                let mut documents = Vec::new();
                while cursor.advance().await? {
                    documents.push(cursor.deserialize_current()?);
                }
                let to: Collection<Document> = database.collection(&format!("bulk_{name}"));
                let mut indexes = from.list_indexes().await?;
                while indexes.advance().await? {
                    let index = indexes.deserialize_current()?;
                    if index.keys != doc! { "_id": 1 } {
                        to.create_index(index).await?;
                    }
                }
                sets.push((to, documents));
            }
            let started = Instant::now();
            for (to, documents) in &sets {
                for documents in documents.chunks(COMMAND) {
                    to.insert_many(documents).await?;
                }
            }
            Ok((sets[0].1.len() as u64, started.elapsed()))
        })
    }
}
