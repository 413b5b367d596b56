//! `[pipelines.NAME.sink.*]`: where events are applied.

use std::borrow::Cow;
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;

use super::source::type_matches;
use super::{ConfigError, LogConfig, Places};
use crate::secret::SecretRef;
use crate::units::Span;

/// Where events are applied.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SinkConfig {
    /// Tables in PostgreSQL.
    Postgres(PostgresSinkConfig),
    /// Tables in MySQL or MariaDB.
    Mysql(DatabaseSinkConfig),
    /// Collections in MongoDB.
    Mongodb(DatabaseSinkConfig),
    /// A service that takes each event by POST.
    Http(HttpSinkConfig),
    /// Tables in an SQLite file, for one instance.
    Sqlite(SqliteSinkConfig),
    /// A topic of the same Kafka cluster.
    Kafka(KafkaSinkConfig),
}

/// The PostgreSQL sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresSinkConfig {
    /// The connection string (`postgres://user:password@host/db`), by reference since it holds a password.
    pub url: Spanned<SecretRef>,
    /// The connection string as read; none where it was not asked for ([`super::Secrets`]).
    #[serde(skip)]
    pub url_value: Option<SecretString>,
    /// The schema that the tables stand in. Created if it is missing.
    #[serde(default = "default_schema")]
    pub schema: String,
    /// How long one statement may take.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Span,
}

fn default_schema() -> String {
    "public".to_owned()
}

const fn default_statement_timeout() -> Span {
    Span::secs(30)
}

/// The sinks MySQL and MongoDB.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseSinkConfig {
    /// The connection string (`mysql://` or `mongodb://user:password@host/database`), by reference since it holds
    /// a password.
    pub url: Spanned<SecretRef>,
    /// The connection string as read; none where it was not asked for ([`super::Secrets`]).
    #[serde(skip)]
    pub url_value: Option<SecretString>,
    /// How long one statement or command may take.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Span,
}

/// The HTTP sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSinkConfig {
    /// Where events are sent, by reference since it may hold a token.
    pub url: Spanned<SecretRef>,
    /// The URL as read; none where it was not asked for.
    #[serde(skip)]
    pub url_value: Option<SecretString>,
    /// What requests are signed with, as Standard Webhooks say: `whsec_` and base64. Two while one is replaced by
    /// the other. Without one, requests are not signed.
    #[serde(default)]
    pub secrets: Vec<Spanned<SecretRef>>,
    /// The secrets as read.
    #[serde(skip)]
    pub secret_values: Vec<SecretString>,
    /// How long one request may take.
    #[serde(default = "default_request_timeout")]
    pub timeout: Span,
    /// To how many entities events are sent at once, by each lane; 1 to 256.
    #[serde(default = "default_concurrency")]
    pub concurrency: u32,
}

const fn default_request_timeout() -> Span {
    Span::secs(15)
}

const fn default_concurrency() -> u32 {
    16
}

/// The SQLite sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteSinkConfig {
    /// The database file.
    pub path: PathBuf,
}

/// The Kafka sink: outputs are part of the checkpoint's transaction.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KafkaSinkConfig {
    /// The topic; or, with `{source}` in it, one for each source. Created with as many partitions as the log has, if
    /// it is missing.
    pub topic: String,
    /// Event types, exact or with `*` at the end, that delete their entity: their records have no value. With any, the
    /// topic may be compacted.
    #[serde(default)]
    pub deleted: Vec<String>,
}

/// Stands for a source's name in a topic's.
const SOURCE: &str = "{source}";

impl KafkaSinkConfig {
    /// The topic of a source's events.
    #[must_use]
    pub fn topic_of(&self, source: &str) -> Cow<'_, str> {
        match self.topic.contains(SOURCE) {
            true => Cow::Owned(self.topic.replace(SOURCE, source)),
            false => Cow::Borrowed(&self.topic),
        }
    }

    /// Whether an event becomes a record without a value.
    #[must_use]
    pub fn deletes(&self, kind: &str) -> bool {
        self.deleted.iter().any(|pattern| type_matches(pattern, kind))
    }

    /// Whether topic and value are the same for every event: then none is looked at.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.deleted.is_empty() && !self.topic.contains(SOURCE)
    }
}

impl SinkConfig {
    /// A Kafka sink: its outputs are part of the checkpoint's transaction.
    #[must_use]
    pub fn kafka(&self) -> Option<&KafkaSinkConfig> {
        match self {
            Self::Kafka(sink) => Some(sink),
            Self::Postgres(_) | Self::Mysql(_) | Self::Mongodb(_) | Self::Http(_) | Self::Sqlite(_) => None,
        }
    }

    /// The database's name in OpenTelemetry's conventions, and what takes the events in.
    #[must_use]
    pub fn database(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Postgres(_) => Some(("postgresql", "COPY")),
            Self::Mysql(_) => Some(("mysql", "INSERT")),
            Self::Mongodb(_) => Some(("mongodb", "insert")),
            Self::Sqlite(_) => Some(("sqlite", "INSERT")),
            Self::Http(_) | Self::Kafka(_) => None,
        }
    }

    /// Checks the settings and, `with_secrets`, reads what they refer to. `key` is the pipeline's, `sources` are
    /// those that it takes.
    pub(super) fn resolve<'s>(
        &mut self,
        at: &Places<'_>,
        key: &str,
        sources: impl Iterator<Item = &'s str> + Clone,
        log: &LogConfig,
        with_secrets: bool,
    ) -> Result<(), ConfigError> {
        let read = |reference: &Spanned<SecretRef>, name: &str| {
            let value = reference.get_ref().read();
            value.map_err(|e| at.error(Some(reference.span()), &format!("{key}.sink.{name}"), &e.to_string()))
        };
        match self {
            Self::Http(sink) if !(1..=256).contains(&sink.concurrency) => {
                return Err(at.error(None, &format!("{key}.sink.http.concurrency"), "must be 1 to 256"));
            }
            Self::Kafka(sink) if sources.clone().any(|source| sink.topic_of(source) == log.topic) => {
                let message = "is the event log itself; name another topic";
                return Err(at.error(None, &format!("{key}.sink.kafka.topic"), message));
            }
            _ if !with_secrets => {}
            Self::Postgres(sink) => sink.url_value = Some(read(&sink.url, "postgres.url")?),
            Self::Mysql(sink) => sink.url_value = Some(read(&sink.url, "mysql.url")?),
            Self::Mongodb(sink) => sink.url_value = Some(read(&sink.url, "mongodb.url")?),
            Self::Http(sink) => {
                sink.url_value = Some(read(&sink.url, "http.url")?);
                let secrets = sink.secrets.iter().map(|secret| read(secret, "http.secrets"));
                sink.secret_values = secrets.collect::<Result<_, _>>()?;
            }
            Self::Kafka(_) | Self::Sqlite(_) => {}
        }
        Ok(())
    }
}
