//! A site: topics, configuration and programs of one test's own; and the tables and topics as plain rows for the
//! sandbox's checker.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::Duration;

use sandbox::check::{Difference, EntityRow, Row};
use sandbox::delivery::Verdicts;
use sandbox::sign::{Signer, hmac_sha256_hex};
use sandbox::sources::{self, CONNECTIONS, Connection, Secret};
use tempfile::TempDir;

use crate::http::{Answer, Client};
use crate::kafka::Kafka;
use crate::kafka_read::{Isolation, Record, committed_offsets, end_offsets, read_all};
use crate::postgres::{connect, query};
use crate::process::{self, Program};
use crate::{ports, setup, wait};

/// How long a missing number is waited for.
pub const GAP_WAIT: Duration = Duration::from_secs(2);
/// How long a static member that is gone keeps its partitions.
pub const SESSION: Duration = Duration::from_secs(8);
/// Within it the processor must stop after SIGTERM.
pub const DRAIN: Duration = Duration::from_secs(10);
/// The largest body that ingest takes.
pub const BODY_LIMIT: usize = 256 * 1024;
/// Everything that is in the log must be applied within it; a killed broker's or member's time-outs included.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// What the source `billing` signs with, in the form of Standard Webhooks.
pub const BILLING_SECRET: Secret =
    Secret { name: "BILLING_WEBHOOK_SECRET", value: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD" };
/// The variable with the connection string of a PostgreSQL sink, or a receiver's URL.
pub const SINK_URL: &str = "SINK_URL";

/// The sources besides the sandbox's: one for Standard Webhooks, one whose connection stands in the body.
const MORE_SOURCES: &str = r#"
[sources.billing]
verify.standard = {}
secrets = ["env:BILLING_WEBHOOK_SECRET"]

[sources.fleet]
connection = "/connection_id"
id = "/id"
verify.hmac = { header = "x-fleet-signature" }
deadline = "2s"
[sources.fleet.connections.acme]
secrets = ["env:MAKINI_ACME_SECRET"]
[sources.fleet.connections.globex]
secrets = ["env:MAKINI_GLOBEX_SECRET"]
"#;

/// Where a pipeline applies.
#[derive(Clone, Debug)]
pub enum Sink {
    /// The connection string of a database.
    Postgres(String),
    /// The URL of a receiver.
    Http(String),
    /// An output topic.
    Kafka(String),
    /// A topic of connections' statuses.
    Connections(String),
}

/// One test's topics, addresses and files.
pub struct Site {
    name: String,
    bootstrap: String,
    /// How the programs reach Kafka, as the configuration says it.
    kafka: String,
    partitions: u32,
    /// Copies of each partition, and how many of them a write needs.
    replication: (u32, u32),
    gap_wait: Duration,
    log_format: &'static str,
    /// Where ingest listens.
    pub webhooks: SocketAddr,
    ingest_admin: SocketAddr,
    dir: TempDir,
}

/// One instance of a pipeline.
pub struct Instance {
    /// `processor run`.
    pub program: Program,
    /// Its configuration file.
    pub config: PathBuf,
    /// Where its local state is.
    pub state_dir: PathBuf,
}

impl Site {
    /// `name` is the log's and the pipeline's; no two tests have the same.
    pub fn new(name: &str, kafka: &Kafka, partitions: u32) -> Self {
        Self {
            name: name.to_owned(),
            bootstrap: kafka.bootstrap(),
            kafka: format!("bootstrap_servers = \"{}\"", kafka.bootstrap()),
            partitions,
            replication: (1, 1),
            gap_wait: GAP_WAIT,
            log_format: "text",
            webhooks: ports::free_address(),
            ingest_admin: ports::free_address(),
            dir: setup::scratch(name),
        }
    }

    /// How long a missing number is waited for.
    pub fn gap_wait(self, gap_wait: Duration) -> Self {
        Self { gap_wait, ..self }
    }

    /// Topics have so many copies, of which a write needs so many.
    pub fn replication(self, copies: u32, needed: u32) -> Self {
        Self { replication: (copies, needed), ..self }
    }

    /// The programs log JSON.
    pub fn json_logs(self) -> Self {
        Self { log_format: "json", ..self }
    }

    /// The programs reach Kafka in another way, which is given as lines of `[kafka]`.
    pub fn kafka(self, kafka: String) -> Self {
        Self { kafka, ..self }
    }

    /// Kafka's address, for the tests' own clients.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// The event log.
    pub fn topic(&self) -> String {
        format!("{}.events", self.name)
    }

    /// Where webhooks are sent to.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.webhooks)
    }

    /// The part of the configuration that ingest and all pipelines share.
    pub fn config_head(&self) -> String {
        let Self { kafka, partitions, webhooks, ingest_admin, log_format, .. } = self;
        let (copies, needed) = self.replication;
        let mut text = format!(
            r#"[kafka]
{kafka}
[kafka.properties]
"session.timeout.ms" = "{}"

[log]
topic = "{}"
partitions = {partitions}
replication_factor = {copies}
min_insync_replicas = {needed}

[ingest]
listen = "{webhooks}"
admin_listen = "{ingest_admin}"
body_limit = "{BODY_LIMIT}B"
metrics_per_connection = true
drain_timeout = "{}s"

[telemetry]
log_format = "{log_format}"

"#,
            SESSION.as_millis(),
            self.topic(),
            DRAIN.as_secs(),
        );
        text += &sources::config_toml(self.gap_wait, |secret| format!("env:{}", secret.name));
        text + MORE_SOURCES
    }

    /// The table of a pipeline's instance.
    pub fn config_pipeline(&self, pipeline: &str, instance: &str, admin: SocketAddr, sink: &Sink) -> String {
        let mut text = format!(
            "\n[pipelines.{pipeline}]\ninstance = \"{instance}\"\nstate_dir = \"{}\"\nlanes = 2\n\
             admin_listen = \"{admin}\"\ndrain_timeout = \"{}s\"\n",
            self.state_dir(pipeline, instance).display(),
            DRAIN.as_secs(),
        );
        let _ = match sink {
            Sink::Postgres(_) => writeln!(text, "sink.postgres.url = \"env:{SINK_URL}\""),
            Sink::Http(_) => writeln!(
                text,
                "sink.http = {{ url = \"env:{SINK_URL}\", secrets = [\"env:{}\"] }}",
                BILLING_SECRET.name
            ),
            Sink::Kafka(topic) => writeln!(text, "sink.kafka.topic = \"{topic}\""),
            Sink::Connections(topic) => {
                writeln!(text, "sink.connections = {{ topic = \"{topic}\", metrics_per_connection = true }}")
            }
        };
        text
    }

    fn state_dir(&self, pipeline: &str, instance: &str) -> PathBuf {
        self.dir.path().join(format!("state-{pipeline}-{instance}"))
    }

    /// Writes a file of the site.
    pub fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(file);
        fs::write(&path, text).unwrap();
        path
    }

    /// `ingest serve`, not yet started.
    pub fn ingest(&self) -> Program {
        let config = self.write("ingest.toml", &self.config_head());
        with_secrets(Program::ingest(&config, self.ingest_admin))
    }

    /// An instance of the pipeline that has the site's name, not yet started.
    pub fn instance(&self, instance: &str, sink: &Sink) -> Instance {
        self.instance_with(&self.name, instance, sink, "")
    }

    /// An instance of a pipeline, not yet started; `more` is added to its table.
    pub fn instance_with(&self, pipeline: &str, instance: &str, sink: &Sink, more: &str) -> Instance {
        let admin = ports::free_address();
        let text = self.config_head() + &self.config_pipeline(pipeline, instance, admin, sink) + more + "\n";
        let config = self.write(&format!("{pipeline}-{instance}.toml"), &text);
        let mut program = with_secrets(Program::processor(pipeline, &config, admin));
        if let Sink::Postgres(url) | Sink::Http(url) = sink {
            program = program.env(SINK_URL, url);
        }
        Instance { program, config, state_dir: self.state_dir(pipeline, instance) }
    }

    /// All records of the event log that are events.
    pub fn events(&self) -> Vec<Record> {
        let mut records = read_all(&self.bootstrap, &self.topic(), Isolation::ReadCommitted);
        records.retain(|record| record.header("ce_source").as_deref() != Some("hookline"));
        records
    }

    /// The dead letters of the pipeline that has the site's name.
    pub fn dead_letters(&self) -> Vec<Record> {
        let topic = format!("hookline.{}.dead-letters", self.name);
        read_all(&self.bootstrap, &topic, Isolation::ReadCommitted)
    }

    /// Waits until the checkpoints of the site's pipeline cover the whole log.
    pub fn wait_caught_up(&self) {
        let group = format!("hookline.{}", self.name);
        wait::until(&format!("checkpoints of {} at the log's end", self.name), PATIENCE, || {
            let ends = end_offsets(&self.bootstrap, &self.topic());
            (committed_offsets(&self.bootstrap, &self.topic(), &group) == ends).then_some(())
        });
    }

    /// Sends an order's event as a connection does.
    pub fn post_order(&self, client: &Client, connection: Connection, body: &[u8]) -> Answer {
        let url = format!("{}/webhooks/{}/{}", self.base_url(), sources::MAKINI, connection.id);
        post_signed(client, &url, connection.secret.value, body).unwrap_or_else(|e| panic!("{url}: {e}"))
    }

    /// Sends an event to the source `fleet`, whose deadline is short.
    pub fn post_fleet(&self, client: &Client, id: &str) -> Answer {
        let [acme, _] = CONNECTIONS;
        let body = format!(r#"{{"id":"{id}","connection_id":"{}"}}"#, acme.id);
        let signature = hmac_sha256_hex(acme.secret.value, &[body.as_bytes()]);
        let url = format!("{}/webhooks/fleet", self.base_url());
        let answer = client.post(&url, &[("x-fleet-signature", &signature)], body.as_bytes());
        answer.unwrap_or_else(|e| panic!("{url}: {e}"))
    }
}

/// `processor SUBCOMMAND --pipeline … --config …` in the environment of an instance, run to its end.
pub fn processor(site: &Site, subcommand: &str, instance: &Instance, more: &[&str]) -> Output {
    let config = instance.config.display().to_string();
    let args: Vec<&str> =
        [subcommand, "--pipeline", &site.name, "--config", &config].iter().chain(more).copied().collect();
    process::run("processor", &args, instance.program.environment())
}

/// Every secret that the configuration refers to, but the sink's.
pub fn secrets() -> Vec<(&'static str, &'static str)> {
    sources::secrets().iter().chain([&BILLING_SECRET]).map(|secret| (secret.name, secret.value)).collect()
}

/// The secrets, and a log of all that is ever logged: in it, too, nothing may leak.
fn with_secrets(program: Program) -> Program {
    let program = program.env("HOOKLINE_LOG", "debug");
    secrets().into_iter().fold(program, |program, (name, value)| program.env(name, value))
}

/// `POST`s a body signed as the sandbox's Makini signs.
pub fn post_signed(client: &Client, url: &str, secret: &'static str, body: &[u8]) -> Result<Answer, String> {
    let signature = Signer::Makini { secret, age_s: 0 }.headers(body, now_s());
    let mut headers: Vec<(&str, &str)> = vec![("content-type", "application/json")];
    headers.extend(signature.iter().map(|(name, value)| (*name, value.as_str())));
    client.post(url, &headers, body).map_err(|error| error.to_string())
}

/// Unix time in seconds.
pub fn now_s() -> i64 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_secs().cast_signed()
}

/// A purchase order's event. `sequence` is JSON.
pub fn order(id: &str, number: &str, sequence: &str) -> Vec<u8> {
    format!(
        r#"{{"id":"{id}","type":"purchase_order.updated","sequence":{sequence},"data":{{"number":"{number}"}}}}"#
    )
    .into_bytes()
}

/// All rows of `hookline_events`; none while there is no such table.
pub fn rows(url: &str) -> Vec<Row> {
    const SQL: &str = "SELECT source, connection, event_id, entity, sequence, body, log_partition::bigint, \
                       effect_offset, effect_ordinal::bigint FROM hookline_events";
    if !has_tables(url) {
        return Vec::new();
    }
    let rows = connect(url).query(SQL, &[]).unwrap();
    rows.iter()
        .map(|row| Row {
            source: row.get(0),
            connection: row.get(1),
            event_id: row.get(2),
            entity: row.get(3),
            sequence: row.get(4),
            body: row.get(5),
            position: (row.get(6), row.get(7), row.get(8)),
        })
        .collect()
}

/// All rows of `hookline_entities`.
pub fn entity_rows(url: &str) -> Vec<EntityRow> {
    const SQL: &str = "SELECT source, connection, entity, event_id, sequence, body FROM hookline_entities";
    let rows = connect(url).query(SQL, &[]).unwrap();
    rows.iter()
        .map(|row| EntityRow {
            source: row.get(0),
            connection: row.get(1),
            entity: row.get(2),
            event_id: row.get(3),
            sequence: row.get(4),
            body: row.get(5),
        })
        .collect()
}

/// How many rows `hookline_events` has; 0 while there is no such table.
pub fn row_count(url: &str) -> usize {
    if !has_tables(url) {
        return 0;
    }
    let count = &query(url, "SELECT count(*) FROM hookline_events")[0][0];
    count.as_ref().unwrap().parse().unwrap()
}

fn has_tables(url: &str) -> bool {
    query(url, "SELECT to_regclass('hookline_events') IS NOT NULL")[0][0].as_deref() == Some("t")
}

/// The records of an output topic as rows, in the order in which the topic has them.
pub fn output_rows(records: &[Record]) -> Vec<Row> {
    let row = |record: &Record| {
        let source = record.header("ce_source").unwrap();
        let (source, connection) = source.split_once('/').unwrap_or((&source, ""));
        Row {
            source: source.to_owned(),
            connection: connection.to_owned(),
            event_id: record.header("ce_id").unwrap(),
            entity: record.header("ce_subject"),
            sequence: record.header("ce_sequence"),
            body: record.value.clone().unwrap_or_default(),
            position: (i64::from(record.partition), record.offset, 0),
        }
    };
    records.iter().map(row).collect()
}

/// The verdicts as counted in checkpoints. A partition that has moved is counted by its former owner as of
/// then, so for each partition the owner that is furthest counts.
pub fn verdicts(programs: &[&Program]) -> Verdicts {
    let mut totals: BTreeMap<(String, String), f64> = BTreeMap::new();
    let mut held = 0.0;
    for metrics in programs.iter().map(|program| program.metrics()) {
        for sample in metrics.samples() {
            if sample.name == "hookline_processor_events_total" {
                let key = (sample.labels["partition"].clone(), sample.labels["verdict"].clone());
                let total = totals.entry(key).or_default();
                *total = total.max(sample.value);
            }
        }
        held += metrics.sum("hookline_processor_held_events", &[]).unwrap_or(0.0);
    }
    let sum = |verdict: &str| count(totals.iter().filter(|((_, v), _)| v == verdict).map(|(_, n)| n).sum());
    Verdicts {
        applied: sum("applied"),
        duplicates: sum("duplicate"),
        stale: sum("stale"),
        held: count(held),
        dead_lettered: sum("dead_lettered"),
        ignored: sum("ignored"),
    }
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of events, far below 2^52"
)]
fn count(value: f64) -> usize {
    value as usize
}

/// Waits until `accepted` events have a verdict and none is held.
pub fn wait_decided(programs: &[&Program], accepted: usize) -> Verdicts {
    let mut last = Verdicts::default();
    let decided = wait::within(PATIENCE, || {
        last = verdicts(programs);
        (last.sum() >= accepted && last.held == 0).then_some(last)
    });
    decided.unwrap_or_else(|| panic!("of {accepted} accepted events only these were decided: {last:?}"))
}

/// Fails with all differences.
pub fn assert_none(differences: &[Difference]) {
    let shown: Vec<String> = differences.iter().take(20).map(ToString::to_string).collect();
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), shown.join("\n"));
}

/// Fails if a log holds a secret, or one of the texts that only payloads have.
pub fn assert_nothing_leaked(logs: &[String], only_in_payloads: &[&str]) {
    let secrets = secrets();
    let planted = secrets.iter().map(|(_, value)| *value).chain(only_in_payloads.iter().copied());
    for text in planted {
        for log in logs {
            let line = log.lines().find(|line| line.contains(text));
            assert_eq!(line, None, "`{text}` is in a log");
        }
    }
}

/// The path as a string.
pub fn text_of(path: &Path) -> String {
    path.display().to_string()
}

/// What a program that has ended wrote to standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What a program that has ended wrote to standard output.
pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
