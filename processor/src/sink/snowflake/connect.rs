//! Reaching Snowflake: who logs in, the session's settings, the tables.
//!
//! Never logs or repeats a password, a private key or a token.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use shared::config::SnowflakeSinkConfig;
use snowflake_connector_rs::{
    AuthConfig, CellValue, Client, ClientConfig, DynamicRow, EndpointConfig, Error, IntoStatement,
    KeyPairConfig, QueryConfig, SessionConfig,
};
use tokio::time::timeout;
use url::Url;

use super::statements::{self, quoted, text};
use super::statuses;
use super::tables::{self, Prepared};
use crate::sink::mapping::table::{self, Table};
use crate::sink::statuses::StatusTable;
use crate::sink::{Context, SinkError, rows};

/// For a connection and the log-in.
const LOGIN_TIMEOUT: Duration = Duration::from_secs(30);
/// What the client waits longer than the server may work, so that the server's own message arrives.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Each brings the tables from the version before to its own: the first is version 1.
const MIGRATIONS: &[&str] = &[include_str!("../sql/snowflake_1.sql")];

/// Which account, database and schema, and how.
pub(super) struct Server {
    client: Client,
    host: String,
    role: Option<String>,
    warehouse: String,
    database: String,
    pub(super) schema: String,
    statement_timeout: Duration,
    pub(super) pipeline: String,
    /// The user's own.
    pub(super) tables: Vec<Table>,
    pub(super) statuses: Option<StatusTable>,
}

/// A session; requests come one after the other. Snowflake ends it by itself.
pub(super) struct Session {
    session: snowflake_connector_rs::Session,
    has_expired: bool,
    /// For each of the user's tables.
    pub(super) prepared: Vec<Prepared>,
}

/// How a block ended that was not stopped by a failure.
pub(super) enum Ended {
    Committed,
    /// The fence was not where it was left: nothing was done.
    Fenced,
    /// An event of the batch was there already: nothing was done.
    Occupied,
    /// A connection's status is not the one that was read: nothing was done.
    Overtaken,
}

impl Session {
    /// The server knows this session no more, and has not done what it was told last.
    pub(super) fn has_expired(&self) -> bool {
        self.has_expired
    }

    /// Runs a statement and reads its rows.
    pub(super) async fn run(
        &mut self,
        server: &Server,
        statement: impl IntoStatement,
    ) -> Result<Vec<DynamicRow>, SinkError> {
        self.ask(statement).await.map_err(|e| server.failed(&e))
    }

    /// Runs a block of [`statements`].
    pub(super) async fn run_block(&mut self, server: &Server, block: String) -> Result<Ended, SinkError> {
        let raised =
            |error: &Error, what: &str| error.snowflake_message().is_some_and(|text| text.contains(what));
        match self.ask(block).await {
            Ok(_) => Ok(Ended::Committed),
            Err(error) if raised(&error, statements::FENCED) => Ok(Ended::Fenced),
            Err(error) if raised(&error, statements::OCCUPIED) => Ok(Ended::Occupied),
            Err(error) if raised(&error, statements::OVERTAKEN) => Ok(Ended::Overtaken),
            Err(error) => Err(server.failed(&error)),
        }
    }

    async fn ask(
        &mut self,
        statement: impl IntoStatement,
    ) -> snowflake_connector_rs::Result<Vec<DynamicRow>> {
        let rows = match self.session.query(statement).await {
            Ok(cursor) => cursor.collect().await,
            Err(error) => Err(error),
        };
        self.has_expired |= rows.as_ref().is_err_and(super::classify::has_expired);
        rows
    }
}

impl Server {
    pub(super) fn new(config: &SnowflakeSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let account = config.account.get_ref();
        let url = config.url.as_ref().map(|url| url.get_ref().as_str());
        let url = url.map_or_else(|| format!("https://{account}.snowflakecomputing.com"), str::to_owned);
        let unreadable = || {
            SinkError::Halt(format!(
                "the address {url} of sink.snowflake cannot be read: `url` has the form https://host or \
                 https://host:port, `account` is what its host has before .snowflakecomputing.com"
            ))
        };
        let url = Url::parse(&url).map_err(|_| unreadable())?;
        let host = url.host_str().ok_or_else(unreadable)?;
        let host = url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"));
        let statement_timeout = config.statement_timeout.0;
        // Both ends of a wait are set: the server's answer should come before this client gives up.
        let seconds = statement_timeout.as_secs().clamp(1, 604_800);
        let session = SessionConfig::new()
            .with_session_parameter("LOCK_TIMEOUT", seconds.into())
            .with_session_parameter("STATEMENT_TIMEOUT_IN_SECONDS", seconds.into())
            .with_session_parameter("QUERY_TAG", format!("hookline {}", context.pipeline).into())
            .with_session_parameter("TIMEZONE", "Etc/UTC".into())
            .with_session_parameter("TIMESTAMP_INPUT_FORMAT", "AUTO".into())
            .with_session_parameter("DATE_INPUT_FORMAT", "AUTO".into())
            .with_session_parameter("AUTOCOMMIT", true.into())
            .with_session_parameter("QUOTED_IDENTIFIERS_IGNORE_CASE", false.into());
        let client = ClientConfig::new(&config.user, account, credentials(config))
            .with_endpoint(EndpointConfig::custom_base_url(url.clone()))
            .with_session(session)
            .with_query(QueryConfig::new().with_query_response_timeout(statement_timeout + ANSWER_GRACE));
        Ok(Self {
            client: Client::new(client).map_err(|_| unreadable())?,
            host,
            role: config.role.as_ref().map(|role| role.get_ref().clone()),
            warehouse: config.warehouse.get_ref().clone(),
            database: config.database.get_ref().clone(),
            schema: config.schema.get_ref().clone(),
            statement_timeout,
            pipeline: context.pipeline.clone(),
            tables: table::all(&context.tables),
            statuses: config.connections.as_ref().map(StatusTable::new),
        })
    }

    /// For one call after the session stands: some statements.
    pub(super) fn call_limit(&self) -> Duration {
        self.statement_timeout.saturating_mul(2).saturating_add(ANSWER_GRACE)
    }

    /// Logs in, sets the session up, and makes the tables where they are missing.
    pub(super) async fn connect(&self) -> Result<Session, SinkError> {
        let late =
            |limit: Duration| SinkError::Retry(format!("{self} did not answer within {} s", limit.as_secs()));
        let session = timeout(LOGIN_TIMEOUT, self.client.create_session()).await;
        let session = session.map_err(|_| late(LOGIN_TIMEOUT))?;
        let session = session.map_err(|e| rows::not_by_data(self.failed(&e)))?;
        let mut session = Session { session, has_expired: false, prepared: Vec::new() };
        let limit = self.call_limit();
        let set_up = timeout(limit, self.set_up(&mut session)).await.unwrap_or_else(|_| Err(late(limit)));
        set_up.map_err(rows::not_by_data)?;
        Ok(session)
    }

    /// By USE, since a log-in passes over a warehouse, a database or a schema that is not there.
    async fn set_up(&self, session: &mut Session) -> Result<(), SinkError> {
        let place = format!("{}.{}", quoted(&self.database), quoted(&self.schema));
        let uses = [
            ("ROLE", self.role.as_deref().map(quoted), "role"),
            ("WAREHOUSE", Some(quoted(&self.warehouse)), "warehouse"),
            ("SCHEMA", Some(place), "database, sink.snowflake.schema"),
        ];
        for (kind, name, key) in uses {
            let Some(name) = name else { continue };
            let used = session.ask(format!("USE {kind} {name}")).await;
            used.map_err(|e| self.not_usable(&e, &kind.to_lowercase(), &name, key))?;
        }
        self.migrate(session).await?;
        session.run(self, statements::CREATE_BATCH).await?;
        session.prepared = tables::prepare(session, self).await?;
        statuses::make(session, self).await?;
        if !self.tables.is_empty() || self.statuses.is_some() {
            session.run(self, statements::CREATE_MAPPED).await?;
        }
        Ok(())
    }

    async fn migrate(&self, session: &mut Session) -> Result<(), SinkError> {
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        let found = self.version(session).await?;
        if found > known {
            return Err(rows::too_new(&self.to_string(), found, known));
        }
        // Nothing is created where nothing is missing: that would need privileges that a careful administrator has
        // not given. Others may be doing the same.
        for (n, migration) in (1_i64..).zip(MIGRATIONS).filter(|(n, _)| *n > found) {
            for statement in statements_of(migration) {
                session.run(self, statement).await?;
            }
            let note = format!(
                "MERGE INTO hookline_schema AS known USING (SELECT {n} AS version) AS made \
                 ON known.version = made.version WHEN NOT MATCHED THEN INSERT (version, installed_at) \
                 VALUES (made.version, SYSDATE())"
            );
            session.run(self, note).await?;
        }
        Ok(())
    }

    /// The version of the tables; 0 where there are none.
    async fn version(&self, session: &mut Session) -> Result<i64, SinkError> {
        if !self.has_table(session, "HOOKLINE_SCHEMA").await? {
            return Ok(0);
        }
        self.number(session, "SELECT COALESCE(MAX(version), 0) FROM hookline_schema").await
    }

    /// Whether the schema has a table of this name.
    pub(super) async fn has_table(&self, session: &mut Session, name: &str) -> Result<bool, SinkError> {
        let sql = format!(
            "SELECT COUNT(*) FROM information_schema.tables \
             WHERE table_schema = CURRENT_SCHEMA() AND table_name = {}",
            text(name)
        );
        Ok(self.number(session, sql).await? > 0)
    }

    async fn number(&self, session: &mut Session, sql: impl IntoStatement) -> Result<i64, SinkError> {
        let found = session.run(self, sql).await?;
        match found.first().map(DynamicRow::values) {
            Some([CellValue::Integer(number)]) => i64::try_from(*number).map_err(|_| self.other_tables()),
            _ => Err(self.other_tables()),
        }
    }
}

/// The server as errors name it: host, database and schema, no user and no credentials.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Snowflake at {}, database {}, schema {}", self.host, self.database, self.schema)
    }
}

/// A new token is signed for each session.
fn credentials(config: &SnowflakeSinkConfig) -> AuthConfig {
    let text = |secret: &Option<SecretString>| {
        secret.as_ref().map_or_else(String::new, |secret| secret.expose_secret().to_owned())
    };
    if config.private_key.is_none() {
        return AuthConfig::password(text(&config.password_value));
    }
    let pem = text(&config.private_key_value);
    AuthConfig::key_pair(match config.private_key_passphrase {
        Some(_) => {
            KeyPairConfig::from_encrypted_pem(pem, text(&config.private_key_passphrase_value).into_bytes())
        }
        None => KeyPairConfig::from_pem(pem),
    })
}

/// A file's statements, without its comments.
pub(super) fn statements_of(file: &str) -> impl Iterator<Item = String> + use<> {
    let sql: Vec<&str> = file.lines().filter(|line| !line.starts_with("--")).collect();
    let statements: Vec<String> = sql.join("\n").split(';').map(|sql| sql.trim().to_owned()).collect();
    statements.into_iter().filter(|sql| !sql.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(more: &str) -> Result<Server, SinkError> {
        let config = format!(
            "account = \"acme-shop\"\nuser = \"loader\"\nwarehouse = \"LOADS\"\ndatabase = \"SHOP\"\n\
             password = \"env:UNUSED\"\n{more}"
        );
        let mut config: SnowflakeSinkConfig = toml::from_str(&config).unwrap();
        config.password_value = Some("hunter2".into());
        let context =
            Context { pipeline: "p".into(), cluster_id: "c".into(), topic: "t".into(), ..Context::default() };
        Server::new(&config, &context)
    }

    #[test]
    fn a_servers_name_in_errors_has_no_credentials() {
        let name = server("").unwrap().to_string();
        assert_eq!(name, "Snowflake at acme-shop.snowflakecomputing.com, database SHOP, schema PUBLIC");
        let name = server("url = \"https://private.link:8443\"").unwrap().to_string();
        assert_eq!(name, "Snowflake at private.link:8443, database SHOP, schema PUBLIC");
    }

    #[test]
    fn an_address_that_is_none_halts() {
        for url in ["https://", "https://host/path", "https://user:hunter2@host", "https://host?x=1"] {
            let outcome = server(&format!("url = \"{url}\"")).map(|_| ());
            assert!(matches!(outcome, Err(SinkError::Halt(_))), "{url}: {outcome:?}");
        }
    }

    #[test]
    fn a_migration_is_run_statement_by_statement() {
        let statements: Vec<String> = statements_of(MIGRATIONS[0]).collect();
        assert_eq!(statements.len(), 4);
        assert!(statements.iter().all(|sql| sql.starts_with("CREATE TABLE IF NOT EXISTS hookline_")));
    }
}
