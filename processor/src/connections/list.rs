//! `processor connections`: how connections stand, read from the topic alone, so it works from anywhere and beside
//! anything.

use std::collections::BTreeMap;

use serde::Serialize;
use shared::config::{Config, ConnectionStatus};

use super::{FENCE_KEY, Labels, Standing};
use crate::broker::BrokerError;
use crate::kafka::Reader;

/// A connection, and what the configuration says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// As its record says.
    #[serde(flatten)]
    pub standing: Standing,
    /// What people call it by. What pollers know of it would stand here, too.
    pub labels: BTreeMap<String, String>,
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
    fn takes(&self, standing: &Standing) -> bool {
        let is =
            |wanted: &Option<String>, found: &str| wanted.as_deref().is_none_or(|wanted| wanted == found);
        is(&self.source, &standing.source)
            && is(&self.connection, &standing.connection)
            && self.status.is_none_or(|status| status == standing.status)
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

/// Reads the topic to its end: the connections that are asked for, by source and connection.
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
                Some(other) if instant(other) >= instant(&standing) => {}
                Some(_) | None => drop(found.insert(key, standing)),
            }
        }
    }
    let labels = Labels::read(config);
    let listed = found.into_values().filter(|standing| filter.takes(standing));
    Ok(listed
        .map(|standing| Listed { labels: labels.of(&standing.source, &standing.connection), standing })
        .collect())
}

/// When the last event was, if its time is one.
fn instant(standing: &Standing) -> Option<jiff::Timestamp> {
    standing.time.parse().ok()
}

/// A table for people.
#[must_use]
pub fn table(rows: &[Listed]) -> String {
    let mut out = format!(
        "{:<12} {:<20} {:<23} {:<25} {:<25} {:<30} {}\n",
        "source", "connection", "status", "since", "last event", "labels", "reason"
    );
    for Listed { standing, labels } in rows {
        out.push_str(&format!(
            "{:<12} {:<20} {:<23} {:<25} {:<25} {:<30} {}\n",
            standing.source,
            plain(&standing.connection),
            standing.status,
            plain(&standing.since),
            plain(&standing.time),
            plain(&joined(labels)),
            standing.reason.as_deref().map_or_else(|| "-".to_owned(), plain)
        ));
    }
    out
}

/// Everything that is known of one connection, for people.
#[must_use]
pub fn detail(Listed { standing, labels }: &Listed) -> String {
    let previous = standing.previous.map_or("-", ConnectionStatus::name);
    let mut out = String::new();
    let mut line = |name: &str, value: &str| out.push_str(&format!("{name:<12} {}\n", plain(value)));
    line("source", &standing.source);
    line("connection", &standing.connection);
    line("status", standing.status.name());
    line("since", &standing.since);
    line("previous", previous);
    line("reason", standing.reason.as_deref().unwrap_or("-"));
    line("last event", &format!("{} {} at {}", standing.event_type, standing.event_id, standing.time));
    for (name, value) in labels {
        line(&format!("label {name}"), value);
    }
    out
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
