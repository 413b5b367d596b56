//! `processor connections`: how connections stand, read from the topic alone, so it works from anywhere and beside
//! anything.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::config::{Config, ConnectionStatus};
use shared::poll::{Progress, progress_topic};

use super::{FENCE_KEY, Labels, Standing};
use crate::broker::BrokerError;
use crate::kafka::Reader;

/// A connection: how it stands, how far its lists are polled, and what the configuration says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Which, and how it stands.
    #[serde(flatten)]
    pub known: Known,
    /// Its lists, where the source is polled.
    pub lists: Vec<Progress>,
    /// What people call it by.
    pub labels: BTreeMap<String, String>,
}

/// What is known of a connection's status.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Known {
    /// As its record says.
    Told(Standing),
    /// No event has told it yet.
    Silent {
        /// The source.
        source: String,
        /// The connection.
        connection: String,
    },
}

impl Known {
    const fn standing(&self) -> Option<&Standing> {
        match self {
            Self::Told(standing) => Some(standing),
            Self::Silent { .. } => None,
        }
    }

    fn names(&self) -> (&str, &str) {
        match self {
            Self::Told(standing) => (&standing.source, &standing.connection),
            Self::Silent { source, connection } => (source, connection),
        }
    }
}

impl Listed {
    /// When the list that was read least recently was read to its end; none where one never was.
    fn last_poll(&self) -> Option<&str> {
        let oldest = self.lists.iter().map(|list| list.last_success.as_deref().unwrap_or_default()).min()?;
        Some(oldest).filter(|time| !time.is_empty())
    }
}

/// Which connections are asked for.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Of this source.
    pub source: Option<String>,
    /// With this status.
    pub status: Option<ConnectionStatus>,
    /// This one.
    pub connection: Option<String>,
}

impl Filter {
    fn takes(&self, known: &Known) -> bool {
        let (source, connection) = known.names();
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.source, source)
            && is(&self.connection, connection)
            && self.status.is_none_or(|status| known.standing().is_some_and(|found| found.status == status))
    }
}

/// Why connections cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    /// Kafka does not answer.
    #[error("kafka: {0}")]
    Broker(#[from] BrokerError),
    /// No pipeline keeps statuses.
    #[error("no pipeline has `sink.connections`, so no statuses are kept: add one")]
    NoTopic,
    /// Several do.
    #[error("several topics hold statuses ({0}): choose one with --topic")]
    SeveralTopics(String),
}

/// The topic of statuses: the one that the pipelines of the configuration write.
///
/// # Errors
/// There is none, or there are several.
pub fn topic(config: &Config) -> Result<String, ListError> {
    let topics: std::collections::BTreeSet<&str> =
        config.pipelines.values().filter_map(|p| p.sink.connections()).map(|sink| &*sink.topic).collect();
    let mut each = topics.iter();
    match (each.next(), each.next()) {
        (Some(one), None) => Ok((*one).to_owned()),
        (None, _) => Err(ListError::NoTopic),
        (Some(_), Some(_)) => {
            Err(ListError::SeveralTopics(topics.into_iter().collect::<Vec<_>>().join(", ")))
        }
    }
}

/// Reads the topic to its end, and that of the polls: the connections that are asked for, by source and connection.
///
/// # Errors
/// Kafka does not answer.
pub fn list(config: &Config, topic: &str, filter: &Filter) -> Result<Vec<Listed>, ListError> {
    let reader = Reader::of(&config.kafka, "hookline-connections", "hookline-connections")?;
    let mut found: BTreeMap<(String, String), Standing> = BTreeMap::new();
    for partition in 0..i32::try_from(config.log.partitions).unwrap_or(i32::MAX) {
        let mut of_partition: BTreeMap<Vec<u8>, Standing> = BTreeMap::new();
        reader.all(topic, partition, &mut |read| match serde_json::from_slice(read.value()) {
            Ok(standing) if read.key() != FENCE_KEY.as_bytes() => {
                of_partition.insert(read.key().to_vec(), standing);
            }
            Ok(_) => {}
            Err(_) => drop(of_partition.remove(read.key())),
        })?;
        for standing in of_partition.into_values() {
            let key = (standing.source.clone(), standing.connection.clone());
            // Events of one connection may be in several partitions, where its status events name several entities.
            match found.get(&key) {
                Some(other) if other.instant() >= standing.instant() => {}
                Some(_) | None => drop(found.insert(key, standing)),
            }
        }
    }
    let labels = Labels::read(config);
    let mut lists = polls(config, &reader)?;
    let silent = |(source, connection): &(String, String)| Known::Silent {
        source: source.clone(),
        connection: connection.clone(),
    };
    let mut all: BTreeMap<_, _> = lists.keys().map(|key| (key.clone(), silent(key))).collect();
    all.extend(found.into_iter().map(|(key, standing)| (key, Known::Told(standing))));
    let listed = all.into_iter().filter(|(_, known)| filter.takes(known));
    Ok(listed
        .map(|(key, known)| Listed {
            labels: labels.of(&key.0, &key.1),
            lists: lists.remove(&key).unwrap_or_default(),
            known,
        })
        .collect())
}

/// How far each connection's lists are polled; none where nothing is polled.
fn polls(config: &Config, reader: &Reader) -> Result<Lists, ListError> {
    let mut found = Lists::new();
    if config.sources.values().all(|source| source.poll.is_none()) {
        return Ok(found);
    }
    let topic = progress_topic(&config.log.topic);
    for partition in 0..i32::try_from(config.log.partitions).unwrap_or(i32::MAX) {
        let mut newest: BTreeMap<Vec<u8>, Progress> = BTreeMap::new();
        reader.all(&topic, partition, &mut |read| {
            // What is no progress is told of by the poller.
            if let Ok(progress) = serde_json::from_slice(read.value()) {
                newest.insert(read.key().to_vec(), progress);
            }
        })?;
        for progress in newest.into_values() {
            let key = (progress.source.clone(), progress.connection.clone());
            found.entry(key).or_default().push(progress);
        }
    }
    Ok(found)
}

/// Lists by source and connection.
type Lists = BTreeMap<(String, String), Vec<Progress>>;

/// A table for people.
#[must_use]
pub fn table(rows: &[Listed]) -> String {
    let mut out = format!(
        "{:<12} {:<20} {:<23} {:<25} {:<25} {:<25} {:<30} {}\n",
        "source", "connection", "status", "since", "last event", "last poll", "labels", "reason"
    );
    for row in rows {
        let (source, connection) = row.known.names();
        let standing = row.known.standing();
        let text = |value: Option<&str>| value.map_or_else(|| "-".to_owned(), plain);
        out.push_str(&format!(
            "{source:<12} {:<20} {:<23} {:<25} {:<25} {:<25} {:<30} {}\n",
            plain(connection),
            text(standing.map(|standing| standing.status.name())),
            text(standing.map(|standing| &*standing.since)),
            text(standing.map(|standing| &*standing.time)),
            text(row.last_poll()),
            plain(&joined(&row.labels)),
            text(standing.and_then(|standing| standing.reason.as_deref()))
        ));
    }
    out
}

/// Everything that is known of one connection, for people.
#[must_use]
pub fn detail(Listed { known, lists, labels }: &Listed) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: &str| out.push_str(&format!("{name:<12} {}\n", plain(value)));
    let (source, connection) = known.names();
    line("source", source);
    line("connection", connection);
    match known.standing() {
        None => line("status", "no event has told it yet"),
        Some(standing) => {
            line("status", standing.status.name());
            line("since", &standing.since);
            line("previous", standing.previous.map_or("-", ConnectionStatus::name));
            line("reason", standing.reason.as_deref().unwrap_or("-"));
            line(
                "last event",
                &format!("{} {} at {}", standing.event_type, standing.event_id, standing.time),
            );
        }
    }
    for list in lists {
        line("list", &format!("{}: {}", list.resource, polled(list)));
    }
    for (name, value) in labels {
        line(&format!("label {name}"), value);
    }
    out
}

/// How far a list is, in a sentence.
fn polled(list: &Progress) -> String {
    let mut parts = vec![list.last_success.as_ref().map_or_else(
        || "never read to its end".to_owned(),
        |time| format!("read to its end at {time}, {} records", list.records),
    )];
    if let Some(now) = &list.list {
        let total = now.total.map_or_else(String::new, |total| format!(" of {total}"));
        parts.push(format!("now at record {}{total}", now.records));
    }
    if let Some(error) = &list.last_error {
        parts.push(format!("failed {} times since, last: {error}", list.failures));
    }
    parts.join("; ")
}

fn joined(labels: &BTreeMap<String, String>) -> String {
    match labels.is_empty() {
        true => "-".to_owned(),
        false => labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" "),
    }
}

/// Names come from outside: none may move the terminal's cursor.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
