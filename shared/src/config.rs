//! The one configuration file, `hookline.toml`, that both binaries read.
//!
//! Every field is documented where it is declared; unknown keys are errors. An error names the file, the
//! line and the key, and says what is allowed. `deploy/hookline.example.toml` shows every key.

mod alerts;
mod ingest;
mod kafka;
mod pipeline;
mod poll;
mod registry;
mod sink;
mod source;
mod status;
mod tables;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use alerts::{
    AlertsConfig, ChannelConfig, EmailChannelConfig, SlackChannelConfig, SmtpTls, TEMPLATE_NAMES, Words,
};
pub use ingest::{IngestConfig, TlsFiles};
pub use kafka::{
    Broker, KafkaConfig, LogConfig, SaslConfig, SaslMechanism, SecurityProtocol, TlsClientConfig,
};
pub use pipeline::{BatchConfig, CheckpointConfig, FoldLimits, GapPolicy, PipelineConfig};
pub use poll::{
    NextPage, PageSize, PollConfig, PollStatusConfig, ResourceConfig, SweepConfig, template_parts,
};
pub use registry::{CONNECTIONS_MAX, Registry};
use serde::Deserialize;
pub use sink::{
    ConnectionsSinkConfig, DatabaseSinkConfig, HttpSinkConfig, KafkaSinkConfig, PostgresSinkConfig,
    SinkConfig, SnowflakeSinkConfig, SqliteSinkConfig,
};
pub use source::{
    ArrayBody, ConnectionConfig, Encoding, Hash, HmacScheme, OrderConfig, RuleConfig, Secret, SequenceOrder,
    SimpleScheme, SourceConfig, VerifyConfig, VersionOrder, type_matches,
};
pub use status::{ConnectionStatus, ConnectionsTableConfig, StatusConfig};
pub use tables::{
    Attribute, COLUMNS_MAX, ColumnConfig, ColumnType, ColumnValue, LookupConfig, Miss, OnDelete, Pointer,
    TABLES_MAX, TableConfig, TablesConfig, Write,
};

/// The whole of `hookline.toml`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// How to reach Kafka.
    pub kafka: KafkaConfig,
    /// The event log's topic and its settings.
    #[serde(default)]
    pub log: LogConfig,
    /// The HTTP side.
    #[serde(default)]
    pub ingest: IngestConfig,
    /// Who sends webhooks, by the name that stands in the URL: `/webhooks/{source}`.
    #[serde(default)]
    pub sources: BTreeMap<String, SourceConfig>,
    /// What is done with the events, by name: `processor run --pipeline NAME`.
    #[serde(default)]
    pub pipelines: BTreeMap<String, PipelineConfig>,
    /// Who is told how connections are: `processor alerts`.
    pub alerts: Option<AlertsConfig>,
    /// Logs.
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// How the program speaks of itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// `text` for people (the default), `json` for machines.
    #[serde(default)]
    pub log_format: LogFormat,
}

/// The form of a log line.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Whose secrets are read, besides Kafka's: a program need not be given those of others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrets<'a> {
    /// The sources': those of who receives webhooks.
    Sources,
    /// The connections' tokens: those of who polls.
    Tokens,
    /// Nobody's: for who only looks at the configuration.
    None,
    /// One pipeline's sink's: a processor's.
    Pipeline(&'a str),
    /// Those of the alerts' channels.
    Alerts,
    /// Everybody's.
    All,
}

/// What is wrong with a configuration: where, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{place}: {message}")]
pub struct ConfigError {
    /// `file:line`, and the key where it is known.
    place: String,
    message: String,
}

impl Config {
    /// Reads, parses and checks a file, and reads the `secrets` that it refers to.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn load(path: &Path, secrets: Secrets<'_>) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|e| ConfigError {
            place: path.display().to_string(),
            message: format!("cannot be read: {e}; give the file with --config or {}", crate::CONFIG_ENV),
        })?;
        Self::parse(&text, path, secrets)
    }

    /// Like [`Config::load`], from text; `path` is what errors call it.
    ///
    /// # Errors
    /// The first thing that is wrong, with its place.
    pub fn parse(text: &str, path: &Path, secrets: Secrets<'_>) -> Result<Self, ConfigError> {
        let at = Places { text, path: path.to_owned() };
        let de = toml::Deserializer::parse(text).map_err(|e| at.error(e.span(), "", e.message()))?;
        let mut config: Self = serde_path_to_error::deserialize(de).map_err(|e| {
            let key = e.path().to_string();
            at.error(e.inner().span(), if key == "." { "" } else { &key }, e.inner().message())
        })?;
        config.check(&at, secrets)?;
        Ok(config)
    }

    /// The pipeline of that name.
    ///
    /// # Errors
    /// There is none; the message names those that there are.
    pub fn pipeline(&self, name: &str, path: &Path) -> Result<&PipelineConfig, ConfigError> {
        self.pipelines.get(name).ok_or_else(|| ConfigError {
            place: path.display().to_string(),
            message: format!(
                "there is no pipeline `{name}`; the file has {}",
                if self.pipelines.is_empty() {
                    "none: add a table [pipelines.NAME]".to_owned()
                } else {
                    self.pipelines.keys().map(|k| format!("`{k}`")).collect::<Vec<_>>().join(", ")
                }
            ),
        })
    }

    fn check(&mut self, at: &Places<'_>, secrets: Secrets<'_>) -> Result<(), ConfigError> {
        self.kafka.resolve(at)?;
        self.log.check(at)?;
        for (name, source) in &mut self.sources {
            check_name(at, "sources", name)?;
            if name == crate::event::CONTROL_SOURCE {
                return Err(at.error(
                    None,
                    &format!("sources.{name}"),
                    "this name is reserved; choose another",
                ));
            }
            source.resolve(at, name, secrets)?;
        }
        if let Some(alerts) = &mut self.alerts {
            alerts.resolve(at, matches!(secrets, Secrets::Alerts | Secrets::All))?;
        }
        for (name, pipeline) in &mut self.pipelines {
            check_name(at, "pipelines", name)?;
            pipeline.follow_statuses(at, name, &self.sources, &self.kafka)?;
            let own = secrets == Secrets::All || secrets == Secrets::Pipeline(name);
            pipeline.resolve(at, name, &self.sources, &self.log, self.ingest.body_limit, own)?;
        }
        Ok(())
    }
}

/// Names stand in URLs, topic names and metrics.
fn check_name(at: &Places<'_>, table: &str, name: &str) -> Result<(), ConfigError> {
    let fits = (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if fits {
        return Ok(());
    }
    let message = "a name is 1 to 64 characters long, of a to z, 0 to 9, `-` and `_`";
    Err(at.error(None, &format!("{table}.{name}"), message))
}

/// Turns byte ranges of the text into lines for people.
pub(crate) struct Places<'a> {
    text: &'a str,
    path: PathBuf,
}

impl Places<'_> {
    /// An error at a byte range (or the line of the key's last part, where there is no range).
    pub(crate) fn error(
        &self,
        span: Option<std::ops::Range<usize>>,
        key: &str,
        message: &str,
    ) -> ConfigError {
        let start = span.map(|s| s.start).or_else(|| self.find(key));
        let mut place = self.path.display().to_string();
        if let Some(start) = start {
            let line = self.text.get(..start).map_or(1, |before| before.matches('\n').count() + 1);
            place = format!("{place}:{line}");
        }
        if !key.is_empty() {
            place = format!("{place}: {key}");
        }
        ConfigError { place, message: message.trim_end().replace('\n', "; ") }
    }

    /// The line that most likely declares `a.b.c`: where `c`, else `b`, stands in its table, else the table's
    /// header, else nothing.
    fn find(&self, key: &str) -> Option<usize> {
        let (mut table, mut field) = (key, None);
        while !table.is_empty() {
            for header in [format!("[{table}]"), format!("[{table}."), format!("[[{table}]]")] {
                if let Some(at) = self.text.find(&header) {
                    return Some(field.and_then(|field| self.find_field(at, field)).unwrap_or(at));
                }
            }
            (table, field) = table.rsplit_once('.').map_or(("", None), |(table, field)| (table, Some(field)));
        }
        None
    }

    /// Where a field is set, between the table's header at `table` and the next one.
    fn find_field(&self, table: usize, field: &str) -> Option<usize> {
        let mut at = table;
        for (n, line) in self.text.get(table..)?.split_inclusive('\n').enumerate() {
            let text = line.trim_start();
            if n > 0 && text.starts_with('[') {
                return None;
            }
            if text.strip_prefix(field).is_some_and(|rest| rest.trim_start().starts_with(['=', '.'])) {
                return Some(at);
            }
            at += line.len();
        }
        None
    }
}

#[cfg(test)]
mod tests;
