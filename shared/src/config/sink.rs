//! `[pipelines.NAME.sink.*]`: where events are applied.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use secrecy::SecretString;
use serde::Deserialize;
use toml::Spanned;

use super::source::type_matches;
use super::{ConfigError, ConnectionsTableConfig, KafkaConfig, LogConfig, Places, StatusConfig};
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
    /// Tables in Snowflake.
    Snowflake(Box<SnowflakeSinkConfig>),
    /// Tables in an SQLite file, for one instance.
    Sqlite(SqliteSinkConfig),
    /// A topic of the same Kafka cluster.
    Kafka(KafkaSinkConfig),
    /// How each connection is, in a compacted topic of the same Kafka cluster.
    Connections(ConnectionsSinkConfig),
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
    /// The table of how connections are, which is made if it is missing. Default: there is none.
    pub connections: Option<ConnectionsTableConfig>,
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
    /// In MySQL: the table of how connections are, which is made if it is missing. Default: there is none.
    pub connections: Option<ConnectionsTableConfig>,
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

/// The Snowflake sink. Names are as Snowflake shows them: in capitals, where they were created without quotes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SnowflakeSinkConfig {
    /// The account's identifier (`MYORG-MYACCOUNT`), as its address has it before `.snowflakecomputing.com`.
    pub account: Spanned<String>,
    /// The address, where it does not follow from the account, as with a private link: `https://host`.
    pub url: Option<Spanned<String>>,
    /// The user.
    pub user: String,
    /// The user's private key, an RSA key in PEM (PKCS #8). Either this or the password.
    pub private_key: Option<Spanned<SecretRef>>,
    /// The private key as read; none where it was not asked for ([`super::Secrets`]).
    #[serde(skip)]
    pub private_key_value: Option<SecretString>,
    /// What the private key is encrypted with, if it is.
    pub private_key_passphrase: Option<Spanned<SecretRef>>,
    /// The passphrase as read.
    #[serde(skip)]
    pub private_key_passphrase_value: Option<SecretString>,
    /// The user's password.
    pub password: Option<Spanned<SecretRef>>,
    /// The password as read.
    #[serde(skip)]
    pub password_value: Option<SecretString>,
    /// The warehouse that runs the statements.
    pub warehouse: Spanned<String>,
    /// The role. Default: the user's.
    pub role: Option<Spanned<String>>,
    /// The database that the tables stand in.
    pub database: Spanned<String>,
    /// The schema that the tables stand in.
    #[serde(default = "default_snowflake_schema")]
    pub schema: Spanned<String>,
    /// How long one statement may take, and wait for another's lock; at least 1 s.
    #[serde(default = "default_snowflake_statement_timeout")]
    pub statement_timeout: Span,
    /// The table of how connections are, which is made if it is missing. Default: there is none.
    pub connections: Option<ConnectionsTableConfig>,
}

fn default_snowflake_schema() -> Spanned<String> {
    Spanned::new(0..0, "PUBLIC".to_owned())
}

/// A warehouse that was suspended starts within it.
const fn default_snowflake_statement_timeout() -> Span {
    Span::secs(60)
}

impl SnowflakeSinkConfig {
    fn check(&self, at: &Places<'_>, key: &str) -> Result<(), ConfigError> {
        let error = |span, name: &str, message: &str| {
            Err(at.error(span, &format!("{key}.sink.snowflake{name}"), message))
        };
        let is_part_of_a_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
        let account = self.account.get_ref();
        if account.is_empty() || !account.bytes().all(is_part_of_a_host) {
            let message = "is the part of the account's address before `.snowflakecomputing.com`: letters, digits, \
                           `-`, `_` and `.`";
            return error(Some(self.account.span()), ".account", message);
        }
        let is_safe = |url: &str| {
            let here = ["http://127.0.0.1", "http://localhost", "http://[::1]"];
            let is_here = here.iter().any(|prefix| {
                url.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with([':', '/']))
            });
            url.starts_with("https://") || is_here
        };
        if let Some(url) = self.url.as_ref().filter(|url| !is_safe(url.get_ref())) {
            return error(Some(url.span()), ".url", "has the form https://host: credentials are sent there");
        }
        let names = [("warehouse", Some(&self.warehouse)), ("role", self.role.as_ref())];
        let names =
            names.into_iter().chain([("database", Some(&self.database)), ("schema", Some(&self.schema))]);
        for (name, value) in names {
            if let Some(value) = value.filter(|value| !(1..=255).contains(&value.get_ref().chars().count())) {
                return error(Some(value.span()), &format!(".{name}"), "a name has 1 to 255 characters");
            }
        }
        if self.private_key.is_some() == self.password.is_some() {
            return error(None, "", "needs either `private_key` or `password`");
        }
        if let Some(passphrase) = self.private_key_passphrase.as_ref().filter(|_| self.private_key.is_none())
        {
            return error(
                Some(passphrase.span()),
                ".private_key_passphrase",
                "is of no use without `private_key`",
            );
        }
        if self.statement_timeout < Span::secs(1) {
            return error(None, ".statement_timeout", "must be at least \"1s\"");
        }
        Ok(())
    }
}

/// The SQLite sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SqliteSinkConfig {
    /// The database file.
    pub path: PathBuf,
    /// The table of how connections are, which is made if it is missing. Default: there is none.
    pub connections: Option<ConnectionsTableConfig>,
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

/// The sink of connections' statuses: for each connection its newest status, in a compacted topic.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectionsSinkConfig {
    /// The topic. Created with as many partitions as the log has, if it is missing.
    #[serde(default = "default_connections_topic")]
    pub topic: String,
    /// Whether each connection has a metric of its own: its status. A series for each status that it had, of up to
    /// 10,000 connections.
    #[serde(default)]
    pub metrics_per_connection: bool,
    /// The sources whose events tell statuses, by name: those of the pipeline that have `status`.
    #[serde(skip)]
    pub sources: BTreeMap<String, StatusConfig>,
    /// The cluster; there once the configuration is checked.
    #[serde(skip)]
    pub kafka: Option<KafkaConfig>,
}

fn default_connections_topic() -> String {
    "hookline.connections".to_owned()
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
            Self::Postgres(_)
            | Self::Mysql(_)
            | Self::Mongodb(_)
            | Self::Http(_)
            | Self::Snowflake(_)
            | Self::Sqlite(_)
            | Self::Connections(_) => None,
        }
    }

    /// The sink of connections' statuses.
    #[must_use]
    pub fn connections(&self) -> Option<&ConnectionsSinkConfig> {
        if let Self::Connections(sink) = self { Some(sink) } else { None }
    }

    /// As the configuration calls it.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Mysql(_) => "mysql",
            Self::Mongodb(_) => "mongodb",
            Self::Http(_) => "http",
            Self::Snowflake(_) => "snowflake",
            Self::Sqlite(_) => "sqlite",
            Self::Kafka(_) => "kafka",
            Self::Connections(_) => "connections",
        }
    }

    /// The table of connections' statuses that a database is to keep.
    #[must_use]
    pub fn connections_table(&self) -> Option<&ConnectionsTableConfig> {
        match self {
            Self::Postgres(sink) => sink.connections.as_ref(),
            Self::Mysql(sink) | Self::Mongodb(sink) => sink.connections.as_ref(),
            Self::Snowflake(sink) => sink.connections.as_ref(),
            Self::Sqlite(sink) => sink.connections.as_ref(),
            Self::Http(_) | Self::Kafka(_) | Self::Connections(_) => None,
        }
    }

    /// Gives a database its table of connections' statuses; another sink has none.
    pub fn keep_connections(&mut self, table: ConnectionsTableConfig) {
        let kept = match self {
            Self::Postgres(sink) => &mut sink.connections,
            Self::Mysql(sink) | Self::Mongodb(sink) => &mut sink.connections,
            Self::Snowflake(sink) => &mut sink.connections,
            Self::Sqlite(sink) => &mut sink.connections,
            Self::Http(_) | Self::Kafka(_) | Self::Connections(_) => return,
        };
        *kept = Some(table);
    }

    /// The database's name in OpenTelemetry's conventions, and what takes the events in.
    #[must_use]
    pub fn database(&self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Postgres(_) => Some(("postgresql", "COPY")),
            Self::Mysql(_) => Some(("mysql", "INSERT")),
            Self::Mongodb(_) => Some(("mongodb", "insert")),
            Self::Snowflake(_) => Some(("snowflake", "MERGE")),
            Self::Sqlite(_) => Some(("sqlite", "INSERT")),
            Self::Http(_) | Self::Kafka(_) | Self::Connections(_) => None,
        }
    }

    /// Whether the sink is a database that can have tables of the user's.
    #[must_use]
    pub fn takes_tables(&self) -> bool {
        self.database().is_some()
    }

    /// Checks the settings and, `with_secrets`, reads what they refer to. `key` is the pipeline's, `topics` are
    /// those of its outputs.
    pub(super) fn resolve(
        &mut self,
        at: &Places<'_>,
        key: &str,
        topics: &BTreeSet<String>,
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
            Self::Kafka(_) if topics.contains(&log.topic) => {
                let message = "is the event log itself; name another topic";
                return Err(at.error(None, &format!("{key}.sink.kafka.topic"), message));
            }
            Self::Connections(sink) if sink.topic == log.topic => {
                let message = "is the event log itself; name another topic";
                return Err(at.error(None, &format!("{key}.sink.connections.topic"), message));
            }
            Self::Snowflake(sink) => {
                sink.check(at, key)?;
                if with_secrets {
                    let read = |reference: &Option<Spanned<SecretRef>>, name: &str| {
                        reference.as_ref().map(|reference| read(reference, name)).transpose()
                    };
                    sink.private_key_value = read(&sink.private_key, "snowflake.private_key")?;
                    sink.private_key_passphrase_value =
                        read(&sink.private_key_passphrase, "snowflake.private_key_passphrase")?;
                    sink.password_value = read(&sink.password, "snowflake.password")?;
                }
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
            Self::Kafka(_) | Self::Sqlite(_) | Self::Connections(_) => {}
        }
        Ok(())
    }
}
