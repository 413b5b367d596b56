//! A private MariaDB, which stands in for MySQL: a data directory of its own on a free port.
//!
//! It offers TLS with a certificate that only [`MariaDb::certificate`] vouches for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{ports, setup, tls, wait};

const START_TIME_LIMIT: Duration = Duration::from_secs(60);
/// The operating system's user when the tests run as root.
const ROOT_RUNS_AS: &str = "mysql";
const PACKAGE: &str = "mariadb-server";

/// A running MariaDB. Its user `root` needs no password. Dropped, it is killed and its data removed.
#[derive(Debug)]
pub struct MariaDb {
    _process: Child,
    scratch: TempDir,
    port: u16,
}

impl MariaDb {
    /// Makes a data directory, starts the server, and waits until it answers.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let scratch = setup::scratch("mariadb");
        let data = scratch.path().join("data");
        fs::create_dir(&data).expect("a data directory");
        let [certificate, key] = tls::write_certificate(scratch.path());
        child::give_to(ROOT_RUNS_AS, PACKAGE, [scratch.path(), &data, &key]);
        install(&data);
        let port = ports::free();
        let mut command = child::command_as(ROOT_RUNS_AS, setup::debian_program("mariadbd", PACKAGE));
        command
            .args(["--no-defaults", "--bind-address=127.0.0.1", "--skip-log-bin"])
            .args(["--innodb-buffer-pool-size=64M", "--max-connections=100"])
            .arg(format!("--port={port}"))
            .arg(option("--datadir", &data))
            .arg(option("--socket", &scratch.path().join("socket")))
            .arg(option("--pid-file", &scratch.path().join("pid")))
            .arg(option("--ssl-cert", &certificate))
            .arg(option("--ssl-key", &key));
        let log = scratch.path().join("mariadb.log");
        let mut process = Child::spawn("MariaDB", command, &log);
        wait::until("a MariaDB that answers", START_TIME_LIMIT, || {
            let ended = process.ended();
            assert!(ended.is_none(), "MariaDB ended: {ended:?}");
            let mut client = Command::new(setup::debian_program("mariadb", PACKAGE));
            client.args(["--no-defaults", "--user=root", "--execute=SELECT 1"]);
            client.arg(option("--socket", &scratch.path().join("socket")));
            client.output().ok()?.status.success().then_some(())
        });
        Self { _process: process, scratch, port }
    }

    /// The server that all tests of one binary share, started when first asked for; each takes its own
    /// database.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<MariaDb> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The file with the certificate to trust, in PEM. It is for `localhost`.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.scratch.path().join(tls::CERTIFICATE)
    }
}

fn option(name: &str, path: &Path) -> String {
    format!("{name}={}", path.display())
}

fn install(data: &Path) {
    let output = child::command_as(ROOT_RUNS_AS, setup::debian_program("mariadb-install-db", PACKAGE))
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
        .arg(option("--datadir", data))
        .output()
        .expect("mariadb-install-db");
    assert!(output.status.success(), "mariadb-install-db: {}", String::from_utf8_lossy(&output.stderr));
}
