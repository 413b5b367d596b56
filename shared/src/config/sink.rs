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
    Mysql(MysqlSinkConfig),
    /// Collections in MongoDB.
    Mongodb(MongodbSinkConfig),
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
    /// The connection string as read.
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

/// The MySQL sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MysqlSinkConfig {
    /// The connection string (`mysql://user:password@host/database`), by reference since it holds a password.
    pub url: Spanned<SecretRef>,
    /// The connection string as read.
    #[serde(skip)]
    pub url_value: Option<SecretString>,
    /// How long one statement may take.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Span,
}

/// The MongoDB sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MongodbSinkConfig {
    /// The connection string (`mongodb://user:password@host/database`), by reference since it holds a password.
    pub url: Spanned<SecretRef>,
    /// The connection string as read.
    #[serde(skip)]
    pub url_value: Option<SecretString>,
    /// How long one command may take.
    #[serde(default = "default_statement_timeout")]
    pub statement_timeout: Span,
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
            Self::Postgres(_) | Self::Mysql(_) | Self::Mongodb(_) | Self::Sqlite(_) => None,
        }
    }

    /// The database's name in OpenTelemetry's conventions.
    #[must_use]
    pub fn database(&self) -> Option<&'static str> {
        match self {
            Self::Postgres(_) => Some("postgresql"),
            Self::Mysql(_) => Some("mysql"),
            Self::Mongodb(_) => Some("mongodb"),
            Self::Sqlite(_) => Some("sqlite"),
            Self::Kafka(_) => None,
        }
    }

    /// Reads the secrets. `key` is the pipeline's.
    pub(super) fn resolve(&mut self, at: &Places<'_>, key: &str, log: &LogConfig) -> Result<(), ConfigError> {
        let read = |reference: &Spanned<SecretRef>, name: &str| {
            let value = reference.get_ref().read();
            value.map_err(|e| at.error(Some(reference.span()), &format!("{key}.sink.{name}"), &e.to_string()))
        };
        match self {
            Self::Postgres(sink) => sink.url_value = Some(read(&sink.url, "postgres.url")?),
            Self::Mysql(sink) => sink.url_value = Some(read(&sink.url, "mysql.url")?),
            Self::Mongodb(sink) => sink.url_value = Some(read(&sink.url, "mongodb.url")?),
            Self::Kafka(sink) if sink.topic == log.topic => {
                let message = "is the event log itself; name another topic";
                return Err(at.error(None, &format!("{key}.sink.kafka.topic"), message));
            }
            Self::Kafka(_) | Self::Sqlite(_) => {}
        }
        Ok(())
    }
}
