//! Reaching PostgreSQL: the connection string, TLS, the session's settings, the tables.
//!
//! Never logs or repeats the connection string, which holds a password.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring::default_provider;
use rustls::{ClientConfig, RootCertStore};
use secrecy::ExposeSecret as _;
use shared::config::PostgresSinkConfig;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres::{Client, Config, Statement};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::classify::failed;
use super::copy::COPY_EVENTS;
use super::tables::{self, Prepared};
use super::{MOVE_FENCE, UPSERT_ENTITIES, statuses};
use crate::sink::mapping::table::{self, Table};
use crate::sink::statuses::StatusTable;
use crate::sink::{Context, SinkError, rows};

/// For one host's TCP connection, and again for the greeting and the session's settings.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that says nothing is asked so often whether it lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_RETRIES: u32 = 3;
/// What was sent and not acknowledged for so long was sent to nobody.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(30);
/// What the client waits longer than the server may work, so that the server's own message arrives.
const ANSWER_GRACE: Duration = Duration::from_secs(5);

/// Each brings the tables from the version before to its own: the first is version 1.
const MIGRATIONS: &[&str] = &[include_str!("../sql/postgres_1.sql")];

/// Lanes and instances that start together make the tables one after the other. The key is `hookline`.
pub(super) const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"hookline");

/// `synchronous_commit = off` would lose transactions that were reported as applied.
const SETTINGS: &str = "SELECT set_config('statement_timeout', $1, false), \
    set_config('idle_in_transaction_session_timeout', $2, false), \
    set_config('synchronous_commit', \
        CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' \
        ELSE current_setting('synchronous_commit') END, false), \
    current_setting('server_encoding')";

/// Which server, and how.
pub(super) struct Server {
    config: Config,
    tls: MakeRustlsConnect,
    schema: String,
    statement_timeout: Duration,
    pipeline: String,
    /// The user's own.
    pub(super) tables: Vec<Table>,
    pub(super) statuses: Option<StatusTable>,
}

/// A connection with its prepared statements.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) move_fence: Statement,
    pub(super) copy_events: Statement,
    pub(super) upsert_entities: Statement,
    /// Of the user's own tables, in their order.
    pub(super) tables: Vec<Prepared>,
    pub(super) statuses: Option<statuses::Prepared>,
    socket: JoinHandle<()>,
}

impl Session {
    /// Closes the connection: the server then ends what it still has open.
    pub(super) async fn end(self) {
        self.socket.abort();
        // An aborted task has no other outcome than that.
        let _ = self.socket.await;
    }
}

impl Server {
    pub(super) fn new(config: &PostgresSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let url = config.url_value.as_ref().map_or("", |url| url.expose_secret());
        let mut server = parse(url)?;
        if server.get_application_name().is_none() {
            server.application_name(format!("hookline {}", context.pipeline));
        }
        if server.get_connect_timeout().is_none() {
            server.connect_timeout(CONNECT_TIMEOUT);
        }
        if server.get_tcp_user_timeout().is_none() {
            server.tcp_user_timeout(TCP_USER_TIMEOUT);
        }
        if server.get_keepalives_interval().is_none() {
            server.keepalives_idle(KEEPALIVE_IDLE);
            server.keepalives_interval(KEEPALIVE_INTERVAL);
            server.keepalives_retries(KEEPALIVE_RETRIES);
        }
        // Of several hosts, the one that takes writes; after a failover, the new one.
        server.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let tls = tls(server.get_ssl_mode())?;
        let statement_timeout = config.statement_timeout.0.max(Duration::from_millis(1));
        Ok(Self {
            config: server,
            tls,
            schema: config.schema.clone(),
            statement_timeout,
            pipeline: context.pipeline.clone(),
            tables: table::all(&context.tables),
            statuses: config.connections.as_ref().map(StatusTable::new),
        })
    }

    /// The pipeline's name, by which its tables stand in the configuration.
    pub(super) fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// A table's schema and name; without a schema, it is in that of Hookline's own.
    pub(super) fn parts<'n>(&'n self, table: &'n str) -> (&'n str, &'n str) {
        table.split_once('.').unwrap_or((&self.schema, table))
    }

    /// SQL with the schema's name in place of `{schema}`, quoted.
    pub(super) fn sql(&self, template: &str) -> String {
        template.replace("{schema}", &quoted(&self.schema))
    }

    /// For one call after the connection stands: a transaction of several statements. Server and client then
    /// both give up on it, so that no lock outlives its owner for long.
    pub(super) fn call_limit(&self) -> Duration {
        self.statement_timeout.saturating_mul(2).saturating_add(ANSWER_GRACE)
    }

    /// Connects, sets the session up, and makes the tables where they are missing.
    pub(super) async fn connect(&self) -> Result<Session, SinkError> {
        let hosts = self.config.get_hosts().len().max(self.config.get_hostaddrs().len());
        let hosts = u32::try_from(hosts).unwrap_or(u32::MAX);
        let limit = self.config.get_connect_timeout().copied().unwrap_or(CONNECT_TIMEOUT);
        let limit = limit.saturating_mul(hosts).saturating_add(CONNECT_TIMEOUT);
        let late =
            |limit: Duration| SinkError::Retry(format!("{self} did not answer within {} s", limit.as_secs()));
        let connected =
            timeout(limit, self.config.connect(self.tls.clone())).await.map_err(|_| late(limit))?;
        let (client, connection) = connected.map_err(|e| rows::not_by_data(failed(self, &e)))?;
        let socket = tokio::spawn(async {
            // What ends it ends the call that is under way too, which reports it.
            let _ = connection.await;
        });
        let limit = self.call_limit();
        timeout(limit, self.set_up(client, socket))
            .await
            .unwrap_or_else(|_| Err(late(limit)))
            .map_err(rows::not_by_data)
    }

    async fn set_up(&self, mut client: Client, socket: JoinHandle<()>) -> Result<Session, SinkError> {
        let failed = |e: tokio_postgres::Error| failed(self, &e);
        let ms = |duration: Duration| duration.as_millis().min(i32::MAX.unsigned_abs().into()).to_string();
        let settings =
            client.query_one(SETTINGS, &[&ms(self.statement_timeout), &ms(self.call_limit())]).await;
        let encoding: String = settings.and_then(|row| row.try_get(3)).map_err(failed)?;
        if encoding != "UTF8" {
            return Err(SinkError::Halt(format!(
                "the database of {self} has the encoding {encoding}, which cannot hold every event: create \
                 one with ENCODING 'UTF8' and name it in sink.postgres.url"
            )));
        }
        self.migrate(&mut client).await?;
        let move_fence = client.prepare(&self.sql(MOVE_FENCE)).await.map_err(failed)?;
        let copy_events = client.prepare(&self.sql(COPY_EVENTS)).await.map_err(failed)?;
        let upsert_entities = client.prepare(&self.sql(UPSERT_ENTITIES)).await.map_err(failed)?;
        let statuses = statuses::prepare(&mut client, self).await?;
        let tables = tables::prepare(&client, self).await?;
        Ok(Session { client, move_fence, copy_events, upsert_entities, tables, statuses, socket })
    }

    async fn migrate(&self, client: &mut Client) -> Result<(), SinkError> {
        let failed = |e: tokio_postgres::Error| failed(self, &e);
        let known = i32::try_from(MIGRATIONS.len()).unwrap_or(i32::MAX);
        let check = |found: i32| {
            let ok = found <= known;
            if ok { Ok(found) } else { Err(rows::too_new(&self.to_string(), found.into(), known.into())) }
        };
        // Nothing is created where nothing is missing: that would need privileges that a careful
        // administrator has not given.
        if check(self.version(client).await.map_err(failed)?)? == known {
            return Ok(());
        }
        let transaction = client.transaction().await.map_err(failed)?;
        transaction.execute("SELECT pg_advisory_xact_lock($1)", &[&MIGRATION_LOCK]).await.map_err(failed)?;
        let found = check(self.version(&transaction).await.map_err(failed)?)?;
        let exists = "SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)";
        if !transaction
            .query_one(exists, &[&self.schema])
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?
        {
            transaction.batch_execute(&self.sql("CREATE SCHEMA {schema}")).await.map_err(failed)?;
        }
        for (n, migration) in (1_i32..).zip(MIGRATIONS).filter(|(n, _)| *n > found) {
            transaction.batch_execute(&self.sql(migration)).await.map_err(failed)?;
            let note = self.sql("INSERT INTO {schema}.hookline_schema (version) VALUES ($1)");
            transaction.execute(&note, &[&n]).await.map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)
    }

    /// The version of the tables; 0 where there are none.
    async fn version(
        &self,
        client: &impl tokio_postgres::GenericClient,
    ) -> Result<i32, tokio_postgres::Error> {
        let exists = "SELECT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
                      WHERE n.nspname = $1 AND c.relname = 'hookline_schema')";
        if !client.query_one(exists, &[&self.schema]).await?.try_get::<_, bool>(0)? {
            return Ok(0);
        }
        let version = self.sql("SELECT coalesce(max(version), 0) FROM {schema}.hookline_schema");
        client.query_one(&version, &[]).await?.try_get(0)
    }
}

/// The server as errors name it: hosts, database and schema, no user and no password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PostgreSQL")?;
        for (n, host) in self.config.get_hosts().iter().enumerate() {
            f.write_str(if n == 0 { " at " } else { ", " })?;
            match host {
                Host::Tcp(name) => f.write_str(name)?,
                Host::Unix(path) => write!(f, "{}", path.display())?,
            }
            let ports = self.config.get_ports();
            if let Some(port) = ports.get(n).or_else(|| ports.first()) {
                write!(f, ":{port}")?;
            }
        }
        if let Some(database) = self.config.get_dbname() {
            write!(f, ", database {database}")?;
        }
        write!(f, ", schema {}", self.schema)
    }
}

/// Reads the connection string. What is wrong with it is not repeated: that may be part of the password.
fn parse(url: &str) -> Result<Config, SinkError> {
    // This client's `require` verifies the certificate and the name, which libpq calls `verify-full`.
    let url = url.replace("sslmode=verify-full", "sslmode=require");
    url.parse().map_err(|_| {
        SinkError::Halt(
            "the connection string of sink.postgres.url cannot be read: it has the form \
             postgres://user:password@host:port/database?sslmode=…, special characters in user and \
             password percent-encoded (\"@\" is %40), sslmode one of disable, prefer, require, verify-full"
                .to_owned(),
        )
    })
}

/// A server's certificate is always verified, against the certificates that the operating system trusts or,
/// where it is set, those in the file that `SSL_CERT_FILE` names.
fn tls(mode: SslMode) -> Result<MakeRustlsConnect, SinkError> {
    let mut roots = RootCertStore::empty();
    if mode != SslMode::Disable {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| SinkError::Halt(format!("TLS cannot be set up: {e}")))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(MakeRustlsConnect::new(config))
}

pub(super) fn quoted(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use shared::secret::SecretRef;

    use super::*;

    fn message(url: &str) -> String {
        parse(url).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn a_connection_string_that_cannot_be_read_is_not_repeated() {
        for url in ["postgres://u:hunter2@h:notaport/db", "postgres://u:hunter2@h/db?hunter2=1", "hunter2"] {
            assert!(!message(url).contains("hunter2"), "{url}");
        }
    }

    #[test]
    fn verify_full_is_understood() {
        let config = parse("postgres://u@h/db?sslmode=verify-full").unwrap();
        assert_eq!(config.get_ssl_mode(), SslMode::Require);
    }

    #[test]
    fn a_servers_name_in_errors_has_no_password() {
        let config = PostgresSinkConfig {
            url: toml::Spanned::new(0..0, SecretRef::Env("U".to_owned())),
            url_value: Some("postgres://u:hunter2@db1,db2:5433/shop".into()),
            schema: "hooks".to_owned(),
            statement_timeout: shared::units::Span::secs(1),
            connections: None,
        };
        let context = Context { pipeline: "p".into(), ..Context::default() };
        let server = Server::new(&config, &context).unwrap();
        assert_eq!(server.to_string(), "PostgreSQL at db1:5432, db2:5433, database shop, schema hooks");
    }

    #[test]
    fn a_schema_cannot_break_out_of_its_quotes() {
        assert_eq!(quoted(r#"a"; DROP"#), r#""a""; DROP""#);
    }
}
