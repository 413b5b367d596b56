//! json-server, a package that many use: an API of lists and records, with pages by number and by `Link`.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{http, ports, setup};

const START_TIME_LIMIT: Duration = Duration::from_secs(60);

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct JsonServer {
    _process: Child,
    _scratch: TempDir,
    url: String,
}

impl JsonServer {
    /// Starts it with these lists, an object of arrays, and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start(lists: &Value) -> Self {
        let scratch = setup::scratch("json-server");
        let file = scratch.path().join("lists.json");
        fs::write(&file, lists.to_string()).unwrap();
        let port = ports::free();
        let mut command = child::command(setup::tool("node"));
        command
            .arg(setup::json_server())
            .args(["--host", "127.0.0.1", "--port", &port.to_string()])
            .arg(&file);
        let mut process = Child::spawn("json-server", command, &scratch.path().join("json-server.log"));
        process.wait_listens(&[port], START_TIME_LIMIT);
        Self { _process: process, _scratch: scratch, url: format!("http://127.0.0.1:{port}") }
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Adds a record to a list, and fails if it is not taken.
    ///
    /// # Panics
    /// When it is not.
    pub fn add(&self, list: &str, record: &Value) {
        let url = format!("{}/{list}", self.url);
        let headers = [("content-type", "application/json")];
        let answer =
            http::Client::new().post(&url, &headers, record.to_string().as_bytes()).expect("json-server");
        assert_eq!(answer.status, 201, "{}", answer.text());
    }
}
