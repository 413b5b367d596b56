//! A private FerretDB, which stands in for MongoDB: its databases in a scratch directory, on free ports.
//!
//! It lets everybody in who comes without a user. It has no replicas, no transactions and no validators.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{ports, setup, tls};

const START_TIME_LIMIT: Duration = Duration::from_secs(30);

/// A running FerretDB. Dropped, it is killed and its data removed.
#[derive(Debug)]
pub struct FerretDb {
    _process: Child,
    scratch: TempDir,
    port: u16,
    tls_port: u16,
}

impl FerretDb {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let scratch = setup::scratch("ferretdb");
        let [certificate, key] = tls::write_certificate(scratch.path());
        let (port, tls_port) = (ports::free(), ports::free());
        let mut command = child::command(setup::ferretdb());
        command
            .arg(format!("--listen=127.0.0.1:{port}"))
            .arg(format!("--listen-tls=127.0.0.1:{tls_port}"))
            .arg(format!("--cert={}", certificate.display()))
            .arg(format!("--key={}", key.display()))
            .arg(format!("--sqlite-url=file:{}/", scratch.path().display()));
        let mut process = Child::spawn("FerretDB", command, &scratch.path().join("ferretdb.log"));
        process.wait_listens(&[port, tls_port], START_TIME_LIMIT);
        Self { _process: process, scratch, port, tls_port }
    }

    /// The server that all tests of one binary share, started when first asked for; each takes its own database.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<FerretDb> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its port for TLS alone.
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    /// The file with the certificate to trust, in PEM. It is for `localhost`.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.scratch.path().join(tls::CERTIFICATE)
    }
}
