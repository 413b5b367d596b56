//! A log, a poller, a pipeline into PostgreSQL and perhaps an ingest, for sources that the test describes.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, Record, read_all};
use hookline_tests::postgres::Postgres;
use hookline_tests::process::{self, Program};
use hookline_tests::site::{stderr, stdout};
use hookline_tests::{ports, setup};
use tempfile::TempDir;

/// One test's part of the world.
pub(crate) struct Stand {
    name: String,
    pub(crate) dir: TempDir,
    pub(crate) webhooks: SocketAddr,
    poll_admin: SocketAddr,
    ingest_admin: SocketAddr,
    processor_admin: SocketAddr,
    /// The database of the pipeline.
    pub(crate) database: String,
}

impl Stand {
    /// `name` is the log's and the pipeline's; no two tests have the same.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            dir: setup::scratch(name),
            webhooks: ports::free_address(),
            poll_admin: ports::free_address(),
            ingest_admin: ports::free_address(),
            processor_admin: ports::free_address(),
            database: Postgres::shared().create_database(),
        }
    }

    /// Writes a file, such as a connection of the registry or its token.
    pub(crate) fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        path
    }

    /// The configuration with these sources, and `tables` in the pipeline's table.
    pub(crate) fn configure(&self, sources: &str, tables: &str) -> PathBuf {
        let Self { name, webhooks, poll_admin, ingest_admin, processor_admin, .. } = self;
        let text = format!(
            r#"[kafka]
bootstrap_servers = "{}"
[kafka.properties]
"session.timeout.ms" = "8000"
[log]
topic = "{}"
partitions = 4
replication_factor = 1
min_insync_replicas = 1
[ingest]
listen = "{webhooks}"
admin_listen = "{ingest_admin}"
poll_admin_listen = "{poll_admin}"
{sources}
[pipelines.{name}]
instance = "only"
state_dir = "{}"
admin_listen = "{processor_admin}"
sink.postgres = {{ url = "env:SINK_URL" }}
{tables}
"#,
            Kafka::shared().bootstrap(),
            self.topic(),
            self.dir.path().join("state").display(),
        );
        self.write("hookline.toml", &text)
    }

    fn config(&self) -> PathBuf {
        self.dir.path().join("hookline.toml")
    }

    /// The event log.
    pub(crate) fn topic(&self) -> String {
        format!("{}.events", self.name)
    }

    pub(crate) fn ingest(&self) -> Program {
        Program::ingest(&self.config(), self.ingest_admin)
    }

    /// What `ingest urls` prints.
    pub(crate) fn urls(&self) -> String {
        let (config, base) = (self.config().display().to_string(), format!("http://{}", self.webhooks));
        let none: [(&str, &str); 0] = [];
        let output = process::run("ingest", &["urls", "--config", &config, "--base", &base], &none);
        assert!(output.status.success(), "{}", stderr(&output));
        stdout(&output)
    }

    pub(crate) fn poller(&self) -> Program {
        Program::poller(&self.config(), self.poll_admin).env("HOOKLINE_LOG", "debug")
    }

    /// Another one beside it, of the same configuration but for the admin address.
    pub(crate) fn second_poller(&self) -> Program {
        let admin = ports::free_address();
        let text = fs::read_to_string(self.config()).unwrap();
        let text = text.replace(
            &format!("poll_admin_listen = \"{}\"", self.poll_admin),
            &format!("poll_admin_listen = \"{admin}\""),
        );
        Program::poller(&self.write("second.toml", &text), admin).env("HOOKLINE_LOG", "debug")
    }

    pub(crate) fn processor(&self) -> Program {
        Program::processor(&self.name, &self.config(), self.processor_admin).env("SINK_URL", &self.database)
    }

    /// `processor verify`, until it agrees: while events come in, it may see the sink and the log at two moments.
    pub(crate) fn verify(&self) {
        let config = self.config().display().to_string();
        let args = ["verify", "--pipeline", &self.name, "--config", &config];
        let environment = [("SINK_URL", self.database.as_str())];
        let output = process::run("processor", &args, &environment);
        assert!(output.status.success(), "{}{}", stdout(&output), stderr(&output));
    }

    /// All events of the log.
    pub(crate) fn events(&self) -> Vec<Record> {
        let mut all = read_all(&Kafka::shared().bootstrap(), &self.topic(), Isolation::ReadCommitted);
        all.retain(|record| record.header("ce_source").as_deref() != Some("hookline"));
        all
    }
}
