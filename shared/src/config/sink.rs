//! `[pipelines.NAME.sink.*]`: where events are applied.

use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;

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
    /// The topic. Created with as many partitions as the log has, if it is missing.
    pub topic: String,
}

impl SinkConfig {
    /// The topic of a Kafka sink: its outputs are part of the checkpoint's transaction.
    #[must_use]
    pub fn topic(&self) -> Option<&str> {
        match self {
            Self::Kafka(sink) => Some(&sink.topic),
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

    /// Checks the settings and, `with_secrets`, reads what they refer to. `key` is the pipeline's.
    pub(super) fn resolve(
        &mut self,
        at: &Places<'_>,
        key: &str,
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
            Self::Kafka(sink) if sink.topic == log.topic => {
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
