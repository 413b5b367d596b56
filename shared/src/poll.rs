//! What programs ask the poller for: a list, or one record, at once. The requests are a topic, so that whoever polls
//! the connection hears of them.

use serde::{Deserialize, Serialize};

use crate::event::encode_source;

/// The topic of requests.
pub const REQUESTS_TOPIC: &str = "hookline.poll-requests";

/// The topic in which pollers keep how far they are; compacted.
pub const PROGRESS_TOPIC: &str = "hookline.poll";

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
