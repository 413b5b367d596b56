//! What programs ask the poller for (a list, or one record, at once), and what it keeps of how far it is. Both are
//! topics: whoever polls a connection hears of the requests, and goes on where another one stopped.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::event::{encode_source, joined};

/// The topic of requests, beside the event log's.
#[must_use]
pub fn requests_topic(log: &str) -> String {
    format!("{log}.poll-requests")
}

/// The topic in which pollers keep how far they are; compacted.
#[must_use]
pub fn progress_topic(log: &str) -> String {
    format!("{log}.poll")
}

/// The topic in which pollers keep which entities a list had, where deletions are looked for; compacted.
#[must_use]
pub fn entities_topic(log: &str) -> String {
    format!("{log}.poll-entities")
}

/// A wish that a connection be polled at once. Best effort: one that is lost costs the time until the next poll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PollRequest {
    /// The source.
    pub source: String,
    /// The connection.
    pub connection: String,
    /// The resource as the configuration names it; without it, those that have one record's address.
    pub resource: Option<String>,
    /// The entity, as events have it; without it, the whole list.
    pub entity: Option<String>,
    /// Who asks.
    pub by: String,
    /// What for.
    pub why: String,
    /// When, RFC 3339.
    pub time: String,
}

impl PollRequest {
    /// The record's key: who polls a connection is one instance, so source and connection decide the partition.
    #[must_use]
    pub fn key(&self) -> String {
        encode_source(&self.source, &self.connection)
    }
}

/// How far one list of one connection is. The newest record under a key counts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The source.
    pub source: String,
    /// The connection.
    pub connection: String,
    /// The resource, as the configuration names it.
    pub resource: String,
    /// The list that is being read, if one is.
    pub list: Option<List>,
    /// What was modified before this was found, RFC 3339; `None` until a list was read to its end.
    pub complete_until: Option<String>,
    /// When a list was last read to its end, RFC 3339.
    pub last_success: Option<String>,
    /// Records of that list.
    pub records: u64,
    /// When the last list that was read whole for deletions was begun, RFC 3339.
    pub swept: Option<String>,
    /// Failures since.
    pub failures: u32,
    /// The last of these.
    pub last_error: Option<String>,
    /// Whether the provider refuses the token.
    pub unauthorized: bool,
    /// Which instance wrote this.
    pub by: String,
    /// When, RFC 3339.
    pub time: String,
}

/// A list that is being read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct List {
    /// Asked for is what was modified after this, RFC 3339; `None`: everything.
    pub after: Option<String>,
    /// When it was begun, by the provider's clock, RFC 3339.
    pub started: String,
    /// The next page: a cursor, an address or a number, as the resource has it; `None`: the first.
    pub next: Option<String>,
    /// Pages read.
    pub pages: u64,
    /// Records read.
    pub records: u64,
    /// How many there are, where the provider says so.
    pub total: Option<u64>,
    /// It is read whole, to find what is not there any more.
    pub sweep: bool,
}

impl Progress {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> String {
        joined(&[&self.source, &self.connection, &self.resource])
    }
}

/// Some of the entities that a list had. Together with those of the same list's other numbers, all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entities {
    /// The list: [`Progress::key`].
    pub list: String,
    /// Which part this is, from 0.
    pub part: u32,
    /// Their ids, without prefix.
    pub ids: Vec<String>,
}

impl Entities {
    /// The record's key.
    #[must_use]
    pub fn key(&self) -> String {
        format!("{}/{}", self.list, self.part)
    }
}

/// The partition of the progress topic that a connection belongs to: who has it polls the connection.
#[must_use]
pub fn partition_of(source: &str, connection: &str, partitions: u32) -> i32 {
    let hash = Sha256::digest(encode_source(source, connection));
    let head = hash.first_chunk::<8>().copied().unwrap_or_default();
    let partition = u64::from_be_bytes(head) % u64::from(partitions.max(1));
    i32::try_from(partition).unwrap_or_default()
}
