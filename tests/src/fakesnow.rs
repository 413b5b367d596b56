//! A private stand-in for Snowflake: fakesnow, which keeps the data in memory, and what it lacks for the sink
//! (`tests/fakesnow`), on free ports.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{http, ports, setup, tls};

const START_TIME_LIMIT: Duration = Duration::from_secs(60);

/// The one user that it lets in.
pub const USER: &str = "loader";
/// The user's password, and what its private key is encrypted with.
pub const PASSWORD: &str = "hunter2";

/// A running server. Dropped, it is killed and its data are gone.
#[derive(Debug)]
pub struct FakeSnow {
    _process: Child,
    scratch: TempDir,
    port: u16,
    tls_port: u16,
}

impl FakeSnow {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let scratch = setup::scratch("fakesnow");
        let [_, _] = tls::write_certificate(scratch.path());
        let (port, tls_port) = (ports::free(), ports::free());
        let mut command = child::command(setup::fakesnow());
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(setup::package_file("fakesnow/server.py"))
            .arg(scratch.path())
            .args([port, tls_port].map(|port| port.to_string()))
            .args([USER, PASSWORD]);
        let mut process = Child::spawn("fakesnow", command, &scratch.path().join("fakesnow.log"));
        process.wait_listens(&[port, tls_port], START_TIME_LIMIT);
        Self { _process: process, scratch, port, tls_port }
    }

    /// The server that all tests of one binary share, started when first asked for; each takes its own schema.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<FakeSnow> = OnceLock::new();
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

    /// A file that it has: `certificate.pem`, which is for `localhost`; the user's `private_key.pem` and
    /// `encrypted_private_key.pem`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// Every session in a schema has expired.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn expire_sessions(&self, schema: &str) {
        let url = format!("http://127.0.0.1:{}/test/expire-sessions?schema={schema}", self.port);
        let answer = http::Client::new().post(&url, &[], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
}
