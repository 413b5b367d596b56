//! An SMTP server (aiosmtpd, `tests/smtp`) that wants STARTTLS and a log-in, and keeps what it is sent.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{ports, setup, tls};

const START_TIME_LIMIT: Duration = Duration::from_secs(60);

/// Who may send.
pub const USER: &str = "hookline";
/// The user's password.
pub const PASSWORD: &str = "smtp-open-sesame-41d9";

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Smtp {
    _process: Child,
    scratch: TempDir,
    /// Its port on `localhost`.
    pub port: u16,
}

/// A message that it took.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Message {
    /// Who gets it.
    pub to: Vec<String>,
    /// Who sends it.
    pub from: String,
    /// Its subject, decoded.
    pub subject: String,
    /// Its Message-ID.
    pub id: String,
    /// Its text.
    pub text: String,
}

impl Smtp {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let scratch = setup::scratch("smtp");
        let [_, _] = tls::write_certificate(scratch.path());
        let port = ports::free();
        let mut command = child::command(setup::smtp());
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(setup::package_file("smtp/server.py"))
            .arg(scratch.path())
            .args([&port.to_string(), USER, PASSWORD]);
        let mut process = Child::spawn("aiosmtpd", command, &scratch.path().join("smtp.log"));
        process.wait_listens(&[port], START_TIME_LIMIT);
        Self { _process: process, scratch, port }
    }

    /// The file with its certificate, which nobody else vouches for.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        self.scratch.path().join(tls::CERTIFICATE)
    }

    /// All messages so far.
    ///
    /// # Panics
    /// When it wrote something else.
    #[must_use]
    pub fn messages(&self) -> Vec<Message> {
        let text = fs::read_to_string(self.scratch.path().join("messages")).unwrap_or_default();
        // The last line may be half written.
        let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        lines.map(|line| serde_json::from_str(line).expect("a message")).collect()
    }
}
