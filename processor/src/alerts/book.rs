//! What is to be told of connections, and what was told: decisions alone, by the times that the caller gives.
//!
//! Of one connection, one alert is under way at a time, so that trouble and recovery arrive in their order.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shared::config::{AlertsConfig, ConnectionStatus};
use shared::event::{joined, sha256_hex};

use crate::connections::Standing;
use crate::position::Position;

/// Why people are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The connection needs attention.
    Trouble,
    /// It is active again.
    Recovery,
}

/// What became of an alert in one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was taken.
    Sent,
    /// It was not, for as long as was allowed, or for good.
    Failed,
    /// The connection has no address for this channel.
    NoAddress,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Sent, Self::Failed, Self::NoAddress];

    /// As metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Failed => "failed",
            Self::NoAddress => "no_address",
        }
    }
}

/// What was told last of a connection: a record's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The alert's id.
    pub id: String,
    /// Why.
    pub kind: Kind,
    /// The source.
    pub source: String,
    /// The connection.
    pub connection: String,
    /// The status that was told.
    pub status: ConnectionStatus,
    /// Since when it stood.
    pub since: String,
    /// The position of the event with which it began: what is older is not told any more.
    pub position: Position,
    /// What became of it, by channel.
    pub channels: BTreeMap<String, Outcome>,
    /// Whether no channel is left to be told.
    pub done: bool,
    /// The channels that were told of trouble, and not yet of its end.
    pub in_trouble: BTreeSet<String>,
}

/// One alert for some channels.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alert {
    /// The same whenever this status of this connection is told.
    pub id: String,
    /// Why.
    pub kind: Kind,
    /// How the connection stands.
    pub standing: Standing,
    /// Who is to be told.
    pub channels: BTreeSet<String>,
    /// Where the status's record stands.
    pub at: (i32, i64),
    /// The position of the event with which the status began.
    pub began: Position,
}

/// What is known of the connections.
#[derive(Debug)]
pub struct Book {
    statuses: BTreeSet<ConnectionStatus>,
    recovery: bool,
    after_ms: i64,
    channels: BTreeSet<String>,
    /// By the key of the status's record.
    connections: BTreeMap<String, Entry>,
    /// Keys of connections of which something may be due.
    pending: BTreeSet<String>,
    /// What was told last, with the partition, by the connection's key.
    told: BTreeMap<String, (i32, Told)>,
    /// Alerts under way, by the connection's key.
    under_way: BTreeMap<String, UnderWay>,
}

#[derive(Debug)]
struct Entry {
    standing: Standing,
    /// When the status's first record was written, milliseconds since 1970.
    heard_ms: i64,
    at: (i32, i64),
    /// The position of the status's first event.
    began: Position,
}

#[derive(Debug)]
struct UnderWay {
    told: Told,
    left: BTreeSet<String>,
    at: (i32, i64),
}

/// The id of the alert on a status.
#[must_use]
pub fn id(standing: &Standing) -> String {
    let parts = [&*standing.source, &*standing.connection, &*standing.since, standing.status.name()];
    sha256_hex(joined(&parts).as_bytes())
}

impl Book {
    /// An empty one.
    #[must_use]
    pub fn new(config: &AlertsConfig) -> Self {
        Self {
            statuses: config.statuses.iter().copied().collect(),
            recovery: config.recovery,
            after_ms: config.after.as_ms(),
            channels: config.channels.keys().cloned().collect(),
            connections: BTreeMap::new(),
            pending: BTreeSet::new(),
            told: BTreeMap::new(),
            under_way: BTreeMap::new(),
        }
    }

    /// A status's record was read.
    pub fn hear(&mut self, standing: Standing, heard_ms: i64, at: (i32, i64)) {
        let key = standing.key();
        self.pending.insert(key.clone());
        match self.connections.get_mut(&key) {
            Some(entry)
                if (entry.standing.status, &entry.standing.since) == (standing.status, &standing.since) =>
            {
                entry.standing = standing;
            }
            Some(_) | None => {
                let began = standing.position;
                self.connections.insert(key, Entry { standing, heard_ms, at, began });
            }
        }
    }

    /// What was told of a partition's connections, by their keys, as the records say.
    pub fn remember(&mut self, partition: i32, told: BTreeMap<String, Told>) {
        self.told.extend(told.into_iter().map(|(key, told)| (key, (partition, told))));
    }

    /// A partition is somebody else's now.
    pub fn forget(&mut self, partition: i32) {
        self.connections.retain(|_, entry| entry.at.0 != partition);
        self.told.retain(|_, (of, _)| *of != partition);
        let connections = &self.connections;
        self.pending.retain(|key| connections.contains_key(key));
    }

    /// What is to be told now, up to a number of alerts. Each is under way from here on.
    pub fn due(&mut self, now_ms: i64, max: usize) -> Vec<Alert> {
        let mut due = Vec::new();
        let mut settled = BTreeSet::new();
        for key in &self.pending {
            let Some(entry) = self.connections.get(key).filter(|_| !self.under_way.contains_key(key)) else {
                continue;
            };
            match self.alert_on(key, entry) {
                None => {
                    settled.insert(key.clone());
                }
                Some(_) if now_ms < entry.heard_ms.saturating_add(self.after_ms) => {}
                Some(alert) if due.len() < max => due.push((key.clone(), alert)),
                Some(_) => {}
            }
        }
        self.pending.retain(|key| !settled.contains(key));
        due.into_iter().map(|(key, alert)| self.begin(key, alert)).collect()
    }

    /// The alert that a connection's status asks for, unless it was told.
    fn alert_on(&self, key: &str, entry: &Entry) -> Option<Alert> {
        let standing = &entry.standing;
        let id = id(standing);
        let told = self.told.get(key).map(|(_, told)| told);
        let is_same = told.is_some_and(|told| told.id == id);
        if is_same && told.is_some_and(|told| told.done) {
            return None;
        }
        // Read again, since its offset was not committed.
        if !is_same && told.is_some_and(|told| told.position > entry.began) {
            return None;
        }
        let in_trouble = told.map(|told| told.in_trouble.clone()).unwrap_or_default();
        let (kind, mut channels) = if standing.status == ConnectionStatus::Active {
            (Kind::Recovery, if self.recovery { in_trouble } else { BTreeSet::new() })
        } else if self.statuses.contains(&standing.status) {
            // It came back for a moment, of which nobody was told.
            let goes_on = told.is_some_and(|told| {
                told.kind == Kind::Trouble && told.status == standing.status && !told.in_trouble.is_empty()
            });
            if goes_on && !is_same && self.recovery && self.after_ms > 0 {
                return None;
            }
            (Kind::Trouble, self.channels.clone())
        } else {
            return None;
        };
        let done = told.filter(|_| is_same).map(|told| &told.channels);
        channels
            .retain(|name| self.channels.contains(name) && done.is_none_or(|done| !done.contains_key(name)));
        (!channels.is_empty()).then(|| Alert {
            id,
            kind,
            standing: standing.clone(),
            channels,
            at: entry.at,
            began: entry.began,
        })
    }

    fn begin(&mut self, key: String, alert: Alert) -> Alert {
        let before = self.told.get(&key).map(|(_, told)| told);
        let same = before.filter(|told| told.id == alert.id);
        let told = Told {
            id: alert.id.clone(),
            kind: alert.kind,
            source: alert.standing.source.clone(),
            connection: alert.standing.connection.clone(),
            status: alert.standing.status,
            since: alert.standing.since.clone(),
            position: alert.began,
            channels: same.map(|told| told.channels.clone()).unwrap_or_default(),
            done: false,
            in_trouble: before.map(|told| told.in_trouble.clone()).unwrap_or_default(),
        };
        self.under_way.insert(key, UnderWay { told, left: alert.channels.clone(), at: alert.at });
        alert
    }

    /// A channel is done with an alert: the record to write, and its partition.
    pub fn finished(&mut self, key: &str, channel: &str, outcome: Outcome) -> Option<(i32, Told)> {
        let under_way = self.under_way.get_mut(key)?;
        let UnderWay { told, left, at } = under_way;
        left.remove(channel);
        told.channels.insert(channel.to_owned(), outcome);
        match (told.kind, outcome) {
            (Kind::Trouble, Outcome::Sent) => {
                told.in_trouble.insert(channel.to_owned());
            }
            (Kind::Recovery, _) => {
                told.in_trouble.remove(channel);
            }
            (Kind::Trouble, Outcome::Failed | Outcome::NoAddress) => {}
        }
        told.done = left.is_empty();
        let (partition, told) = (at.0, told.clone());
        // Not of a partition that is somebody else's by now.
        if self.connections.contains_key(key) {
            self.told.insert(key.to_owned(), (partition, told.clone()));
        }
        if told.done {
            self.under_way.remove(key);
            self.pending.insert(key.to_owned());
        }
        Some((partition, told))
    }

    /// Alerts that are under way.
    #[must_use]
    pub fn number_under_way(&self) -> usize {
        self.under_way.len()
    }

    /// The offset of a partition's first record whose alert is under way.
    #[must_use]
    pub fn first_under_way(&self, partition: i32) -> Option<i64> {
        self.under_way.values().filter(|under_way| under_way.at.0 == partition).map(|u| u.at.1).min()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]
mod tests;
