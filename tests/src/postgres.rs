//! A private PostgreSQL: its own cluster on a free port, its data in a scratch directory.
//!
//! PostgreSQL refuses to run as root; there it runs as `postgres`, the user that Debian's package makes.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use postgres::{Client, NoTls, SimpleQueryMessage};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{ports, setup, tls, wait};

const START_TIME_LIMIT: Duration = Duration::from_secs(60);
const STOP_TIME_LIMIT: Duration = Duration::from_secs(60);
/// The superuser of the cluster; local connections need no password.
const USER: &str = "hookline";
/// The operating system's user when the tests run as root.
const ROOT_RUNS_AS: &str = "postgres";

/// A running or stopped PostgreSQL. Dropped, it is killed and its data removed.
#[derive(Debug)]
pub struct Postgres {
    process: Option<Child>,
    scratch: TempDir,
    port: u16,
}

impl Postgres {
    /// Makes a cluster, starts it, and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let scratch = setup::scratch("pg");
        let data = scratch.path().join("data");
        fs::create_dir(&data).expect("a data directory");
        child::give_to(ROOT_RUNS_AS, "postgresql", [scratch.path(), &data]);
        let port = ports::free();
        init_cluster(&data);
        configure(&data, scratch.path(), port);
        let mut postgres = Self { process: None, scratch, port };
        postgres.restart();
        postgres
    }

    /// The same, and it offers TLS with a certificate that only [`Postgres::certificate`] vouches for.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start_secured() -> Self {
        let postgres = Self::start();
        let files = tls::write_certificate(postgres.scratch.path());
        // PostgreSQL refuses a key that others may read.
        fs::set_permissions(&files[1], Permissions::from_mode(0o600)).expect("the key's permissions");
        child::give_to(ROOT_RUNS_AS, "postgresql", &files);
        for (name, file) in ["ssl_cert_file", "ssl_key_file"].iter().zip(&files) {
            query(&postgres.url(), &format!("ALTER SYSTEM SET {name} = '{}'", file.display()));
        }
        query(&postgres.url(), "ALTER SYSTEM SET ssl = on");
        query(&postgres.url(), "SELECT pg_reload_conf()");
        let is_on = || (query(&postgres.url(), "SHOW ssl")[0][0].as_deref() == Some("on")).then_some(());
        wait::until("TLS", START_TIME_LIMIT, is_on);
        postgres
    }

    /// The server that all tests of one binary share, started when first asked for; each takes its own
    /// database. Tests that stop their server start their own.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// The file with the certificate to trust, in PEM. It is for `localhost`; none unless the server is secured.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.scratch.path().join(tls::CERTIFICATE)
    }

    /// The connection URL of the database `postgres`.
    #[must_use]
    pub fn url(&self) -> String {
        self.url_of("postgres")
    }

    /// The connection URL of the database `postgres` by another name of the host, and with parameters.
    #[must_use]
    pub fn url_by(&self, host: &str, parameters: &str) -> String {
        format!("postgres://{USER}@{host}:{}/postgres?{parameters}", self.port)
    }

    /// The connection URL of a database.
    #[must_use]
    pub fn url_of(&self, database: &str) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{database}", self.port)
    }

    /// Creates an empty database and returns its connection URL.
    ///
    /// # Panics
    /// When the server does not.
    #[must_use]
    pub fn create_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        query(&self.url(), &format!("CREATE DATABASE {name}"));
        self.url_of(&name)
    }

    /// Starts the stopped server again on its data and port, and waits until it answers.
    ///
    /// # Panics
    /// When it runs already, or does not come up.
    pub fn restart(&mut self) {
        assert!(self.process.is_none(), "PostgreSQL runs already");
        let log = self.scratch.path().join("postgres.log");
        wait::until("a PostgreSQL that answers", START_TIME_LIMIT, || {
            let process = self.process.get_or_insert_with(|| {
                let mut command = as_unprivileged("postgres");
                command.arg("-D").arg(self.scratch.path().join("data"));
                Child::spawn("PostgreSQL", command, &log)
            });
            // A server started soon after a kill refuses until the killed one's last backend has gone.
            if process.ended().is_some() {
                self.process = None;
                return None;
            }
            Client::connect(&format!("{}?connect_timeout=1", self.url()), NoTls).ok()
        });
    }

    /// An orderly, quick stop: sessions are ended, open transactions rolled back.
    ///
    /// # Panics
    /// When it does not run or does not end.
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("PostgreSQL runs");
        process.signal(Signal::INT);
        process.wait(STOP_TIME_LIMIT);
    }

    /// `kill -9`: what was committed must be there after a restart.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.process.take().expect("PostgreSQL runs").kill();
    }

    /// Copies the data of the stopped server.
    ///
    /// # Panics
    /// When it runs, or the data cannot be copied.
    #[must_use]
    pub fn back_up(&self) -> Backup {
        assert!(self.process.is_none(), "PostgreSQL runs");
        let copy = setup::scratch("pg-backup");
        copy_all(&self.scratch.path().join("data"), &copy.path().join("data"));
        Backup(copy)
    }

    /// Puts a copy in the place of the stopped server's data.
    ///
    /// # Panics
    /// When it runs, or the data cannot be copied.
    pub fn restore(&mut self, backup: &Backup) {
        assert!(self.process.is_none(), "PostgreSQL runs");
        let data = self.scratch.path().join("data");
        fs::remove_dir_all(&data).expect("the data directory");
        copy_all(&backup.0.path().join("data"), &data);
    }

    /// The server's log.
    #[must_use]
    pub fn log_text(&self) -> String {
        fs::read_to_string(self.scratch.path().join("postgres.log")).unwrap_or_default()
    }
}

/// A copy of a server's data.
#[derive(Debug)]
pub struct Backup(TempDir);

/// A directory with all that is in it, and whose it is.
fn copy_all(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("--archive").args([from, to]).status().expect("cp starts");
    assert!(copied.success(), "{} is not copied: {copied}", from.display());
}

/// A connection of its own to the database behind `url`.
///
/// # Panics
/// When the server refuses it.
#[must_use]
pub fn connect(url: &str) -> Client {
    Client::connect(url, NoTls).unwrap_or_else(|error| panic!("no connection to {url}: {error}"))
}

/// Runs SQL on a connection of its own and returns the rows, every value in PostgreSQL's text form.
///
/// # Panics
/// When the server refuses it.
pub fn query(url: &str, sql: &str) -> Vec<Vec<Option<String>>> {
    let messages = connect(url).simple_query(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let mut rows = Vec::new();
    for message in &messages {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect());
        }
    }
    rows
}

fn init_cluster(data: &Path) {
    let output = as_unprivileged("initdb")
        .args(["--no-sync", "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8", "--username", USER])
        .arg("-D")
        .arg(data)
        .output()
        .expect("initdb");
    assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
}

fn configure(data: &Path, socket_dir: &Path, port: u16) {
    let settings = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
         max_connections = 100\nshared_buffers = 32MB\n",
        socket_dir.display()
    );
    // `initdb` made the file as another user; writing to it as root keeps its owner.
    fs::write(data.join("postgresql.auto.conf"), settings).expect("PostgreSQL's settings");
}

/// A command for one of PostgreSQL's programs, killed when the tests end.
fn as_unprivileged(program: &str) -> Command {
    child::command_as(ROOT_RUNS_AS, setup::postgres_bin().join(program))
}
