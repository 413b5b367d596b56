//! Reaching MySQL: the connection string, TLS, the session's settings, the tables.
//!
//! Never logs or repeats the connection string, which holds a password.

use std::fmt;
use std::time::{Duration, Instant};

use mysql_async::prelude::{FromValue, Queryable as _};
use mysql_async::{Conn, Opts, OptsBuilder, Row, SslOpts};
use rustls::crypto::ring::default_provider;
use secrecy::ExposeSecret as _;
use shared::config::DatabaseSinkConfig;
use tokio::time::timeout;

use super::{statuses, tables};
use crate::sink::mapping::table::{self, Table};
use crate::sink::statuses::StatusTable;
use crate::sink::{Context, SinkError, rows};

/// For the TCP connection and the greeting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For the farewell.
const END_TIMEOUT: Duration = Duration::from_millis(500);
/// A connection that says nothing is asked so often whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// What the client waits longer than the server may work, so that the server's own message arrives.
const ANSWER_GRACE: Duration = Duration::from_secs(5);
/// A batch's statements, by their numbers of rows, and the others.
const STATEMENTS_MAX: usize = 64;
/// The largest event that ingest lets through, with its headers, has room in it. MariaDB's default.
const PACKET_BYTES_MIN: usize = 16 * 1024 * 1024;
/// What a packet holds besides the rows.
const PACKET_OVERHEAD: usize = 64 * 1024;

/// Each brings the tables from the version before to its own: the first is version 1.
const MIGRATIONS: &[&str] = &[include_str!("../sql/mysql_1.sql")];

/// Lanes and instances that start together make the tables one after the other.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('hookline ', LEFT(SHA1(DATABASE()), 40)), ?)";
const UNLOCK: &str = "DO RELEASE_LOCK(CONCAT('hookline ', LEFT(SHA1(DATABASE()), 40)))";

/// Tables of another engine have no transactions: a batch and its fence would not be one.
const FIND_OTHER_ENGINE: &str = "SELECT table_name FROM information_schema.tables \
    WHERE table_schema = DATABASE() AND NOT (engine <=> 'InnoDB') \
    AND table_name IN ('hookline_events', 'hookline_entities', 'hookline_fence', ?)";

/// Which server, and how.
pub(super) struct Server {
    opts: Opts,
    statement_timeout: Duration,
    pipeline: String,
    /// The user's own.
    pub(super) tables: Vec<Table>,
    pub(super) statuses: Option<StatusTable>,
}

/// A connection.
pub(super) struct Session {
    pub(super) conn: Conn,
    /// Bytes of rows that one statement can have.
    pub(super) packet_bytes_max: usize,
    /// How many digits after the point the columns of the user's own tables hold, in the tables' order.
    pub(super) scales: Vec<Vec<Option<usize>>>,
    last_used: Instant,
}

impl Session {
    /// Closes the connection: the server then rolls back what is still open.
    pub(super) async fn end(self) {
        // Out of time or failed, the socket is closed all the same.
        let _ = timeout(END_TIMEOUT, self.conn.disconnect()).await;
    }
}

impl Server {
    pub(super) fn new(config: &DatabaseSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let url = config.url_value.as_ref().map_or("", |url| url.expose_secret());
        // The client takes the process's. With two in the program, as Snowflake's client brings another, there is none
        // until one is chosen; an error says that it was.
        let _ = default_provider().install_default();
        let opts = parse(url)?
            .client_found_rows(true)
            .connect_attribute("program_name", format!("hookline {}", context.pipeline))
            .prefer_socket(false)
            .stmt_cache_size(STATEMENTS_MAX)
            .tcp_keepalive(Some(KEEPALIVE));
        Ok(Self {
            opts: opts.into(),
            statement_timeout: config.statement_timeout.0.max(Duration::from_secs(1)),
            pipeline: context.pipeline.clone(),
            tables: table::all(&context.tables),
            statuses: config.connections.as_ref().map(StatusTable::new),
        })
    }

    /// The pipeline's name, by which its tables stand in the configuration.
    pub(super) fn pipeline(&self) -> &str {
        &self.pipeline
    }

    /// For one call after the connection stands: a transaction of several statements.
    pub(super) fn call_limit(&self) -> Duration {
        self.statement_timeout.saturating_mul(2).saturating_add(ANSWER_GRACE)
    }

    /// The session to work in: the last one or, where the server may have ended that, another.
    pub(super) async fn session<'s>(
        &self,
        kept: &'s mut Option<Session>,
    ) -> Result<&'s mut Session, SinkError> {
        if let Some(idle) = kept.take_if(|session| session.last_used.elapsed() > self.call_limit() / 2) {
            idle.end().await;
        }
        let session = match kept {
            Some(session) => session,
            None => kept.insert(self.connect().await?),
        };
        session.last_used = Instant::now();
        Ok(session)
    }

    /// Connects, sets the session up, and makes the tables where they are missing.
    async fn connect(&self) -> Result<Session, SinkError> {
        let late =
            |limit: Duration| SinkError::Retry(format!("{self} did not answer within {} s", limit.as_secs()));
        let connected = timeout(CONNECT_TIMEOUT, Conn::new(self.opts.clone())).await;
        let conn = connected.map_err(|_| late(CONNECT_TIMEOUT))?;
        let conn = conn.map_err(|e| rows::not_by_data(self.failed(&e)))?;
        let mut session =
            Session { conn, packet_bytes_max: 0, scales: Vec::new(), last_used: Instant::now() };
        let limit = self.call_limit();
        let set_up = timeout(limit, self.set_up(&mut session)).await.unwrap_or_else(|_| Err(late(limit)));
        match set_up {
            Ok(()) => Ok(session),
            Err(error) => {
                session.end().await;
                Err(rows::not_by_data(error))
            }
        }
    }

    /// READ COMMITTED: a claim that waited for a former owner must see what that left. Strict: what does not
    /// fit is refused, not cut off. Times are UTC. `wait_timeout`: should this client vanish in the middle of a transaction,
    /// its locks go soon.
    async fn set_up(&self, session: &mut Session) -> Result<(), SinkError> {
        let Session { conn, packet_bytes_max, scales, .. } = session;
        let failed = |e: mysql_async::Error| self.failed(&e);
        let seconds = |duration: Duration| duration.as_secs().clamp(1, 86_400);
        let (lock_wait, idle) = (seconds(self.statement_timeout), seconds(self.call_limit()));
        conn.query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED").await.map_err(failed)?;
        let settings = format!(
            "SET SESSION autocommit = 1, SESSION sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
             SESSION time_zone = '+00:00', \
             SESSION innodb_lock_wait_timeout = {lock_wait}, SESSION lock_wait_timeout = {lock_wait}, \
             SESSION wait_timeout = {idle}"
        );
        conn.query_drop(settings).await.map_err(failed)?;
        if self.opts.db_name().is_none() {
            return Err(SinkError::Halt(format!(
                "{self}: sink.mysql.url names no database: it has the form mysql://user:password@host/database"
            )));
        }
        let packet: Option<Row> = conn.query_first("SELECT @@max_allowed_packet").await.map_err(failed)?;
        let packet: usize = self.value(packet.as_ref(), 0)?;
        if packet < PACKET_BYTES_MIN {
            return Err(SinkError::Halt(format!(
                "{self}: max_allowed_packet is {packet}, too small for a large event: set it to \
                 {PACKET_BYTES_MIN} or more"
            )));
        }
        *packet_bytes_max = packet - PACKET_OVERHEAD;
        self.migrate(conn).await?;
        statuses::make(conn, self).await?;
        let statuses = self.statuses.as_ref().map_or("", |table| &table.name);
        let other: Option<Row> = conn.exec_first(FIND_OTHER_ENGINE, (statuses,)).await.map_err(failed)?;
        if let Some(row) = other {
            let table: String = self.value(Some(&row), 0)?;
            return Err(SinkError::Halt(format!(
                "{self}: {table} is not an InnoDB table: others have no transactions. Change it back (ALTER \
                 TABLE {table} ENGINE = InnoDB)"
            )));
        }
        *scales = tables::check(conn, self).await?;
        Ok(())
    }

    async fn migrate(&self, conn: &mut Conn) -> Result<(), SinkError> {
        let failed = |e: mysql_async::Error| self.failed(&e);
        let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
        let check = |found: i64| {
            let ok = found <= known;
            if ok { Ok(found) } else { Err(rows::too_new(&self.to_string(), found, known)) }
        };
        // Nothing is created where nothing is missing: that would need privileges that a careful
        // administrator has not given.
        if check(self.version(conn).await?)? == known {
            return Ok(());
        }
        let wait = self.statement_timeout.as_secs();
        let locked: Option<Row> = conn.exec_first(LOCK, (wait,)).await.map_err(failed)?;
        if self.value::<Option<i64>>(locked.as_ref(), 0)? != Some(1) {
            return Err(SinkError::Retry(format!("{self}: another instance is making the tables")));
        }
        let found = check(self.version(conn).await?)?;
        for (n, migration) in (1_i64..).zip(MIGRATIONS).filter(|(n, _)| *n > found) {
            conn.query_drop(*migration).await.map_err(failed)?;
            let note = "INSERT INTO hookline_schema (version, installed_at) VALUES (?, UTC_TIMESTAMP(3)) \
                        ON DUPLICATE KEY UPDATE version = version";
            conn.exec_drop(note, (n,)).await.map_err(failed)?;
        }
        conn.query_drop(UNLOCK).await.map_err(failed)
    }

    /// The version of the tables; 0 where there are none.
    async fn version(&self, conn: &mut Conn) -> Result<i64, SinkError> {
        let failed = |e: mysql_async::Error| self.failed(&e);
        let exists = "SELECT count(*) FROM information_schema.tables \
                      WHERE table_schema = DATABASE() AND table_name = 'hookline_schema'";
        let tables: Option<Row> = conn.query_first(exists).await.map_err(failed)?;
        if self.value::<i64>(tables.as_ref(), 0)? == 0 {
            return Ok(0);
        }
        let version = "SELECT coalesce(max(version), 0) FROM hookline_schema";
        let version: Option<Row> = conn.query_first(version).await.map_err(failed)?;
        self.value(version.as_ref(), 0)
    }

    /// A column of a row that must be there.
    pub(super) fn value<T: FromValue>(&self, row: Option<&Row>, n: usize) -> Result<T, SinkError> {
        row.and_then(|row| row.get_opt(n)).and_then(Result::ok).ok_or_else(|| self.other_tables())
    }
}

/// The server as errors name it: host and database, no user and no password.
impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MySQL at {}:{}", self.opts.ip_or_hostname(), self.opts.tcp_port())?;
        self.opts.db_name().map_or(Ok(()), |database| write!(f, ", database {database}"))
    }
}

/// Reads the connection string. What is wrong with it is not repeated: that may be part of the password.
fn parse(url: &str) -> Result<OptsBuilder, SinkError> {
    let unreadable = || {
        SinkError::Halt(
            "the connection string of sink.mysql.url cannot be read: it has the form \
             mysql://user:password@host:port/database?ssl-mode=…, special characters in user and password \
             percent-encoded (\"@\" is %40), ssl-mode `required` (the default) or `disabled`"
                .to_owned(),
        )
    };
    let (base, parameters) = url.split_once('?').unwrap_or((url, ""));
    let mut with_tls = true;
    for parameter in parameters.split('&').filter(|parameter| !parameter.is_empty()) {
        let (name, value) = parameter.split_once('=').ok_or_else(unreadable)?;
        with_tls = match (name, value.to_ascii_lowercase().as_str()) {
            // All mean the same here: the certificate and the host's name are always verified.
            ("ssl-mode", "required" | "verify_ca" | "verify_identity") => true,
            ("ssl-mode", "disabled") => false,
            _ => return Err(unreadable()),
        };
    }
    let opts = Opts::from_url(base).map_err(|_| unreadable())?;
    Ok(OptsBuilder::from_opts(opts).ssl_opts(with_tls.then(tls)))
}

/// The certificates that the operating system trusts or, where it is set, those in the file that
/// `SSL_CERT_FILE` names.
fn tls() -> SslOpts {
    let roots = rustls_native_certs::load_native_certs().certs.into_iter();
    let roots = roots.map(|certificate| certificate.to_vec().into()).collect();
    SslOpts::default().with_disable_built_in_roots(true).with_root_certs(roots)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_that_cannot_be_read_is_not_repeated() {
        let urls = [
            "mysql://u:hunter2@h:notaport/db",
            "mysql://u:hunter2@h/db?hunter2=1",
            "mysql://u:hunter2@h/db?ssl-mode=hunter2",
            "mysql://u:hunter2@h/db?ssl-mode=preferred",
            "postgres://u:hunter2@h/db",
            "hunter2",
        ];
        for url in urls {
            let message = parse(url).map(|_| ()).unwrap_err().to_string();
            assert!(message.contains("mysql://") && !message.contains("hunter2"), "{url}: {message}");
        }
    }

    #[test]
    fn tls_is_left_out_only_where_the_url_says_so() {
        let tls = |url: &str| Opts::from(parse(url).unwrap()).ssl_opts().cloned();
        assert_eq!(tls("mysql://u@h/db?ssl-mode=DISABLED"), None);
        for url in ["mysql://u@h/db", "mysql://u@h/db?ssl-mode=VERIFY_IDENTITY"] {
            let tls = tls(url).unwrap();
            assert!(!tls.accept_invalid_certs() && !tls.skip_domain_validation(), "{url}");
        }
    }

    #[test]
    fn a_servers_name_in_errors_has_no_password() {
        let opts = parse("mysql://user1:hunter2@db1/shop").unwrap().into();
        let (pipeline, tables, statuses) = (String::new(), Vec::new(), None);
        let server = Server { opts, statement_timeout: Duration::from_secs(1), pipeline, tables, statuses };
        assert_eq!(server.to_string(), "MySQL at db1:3306, database shop");
    }
}
