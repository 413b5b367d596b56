//! The metrics of connections: how many have each status, and how often one began. Gauges are moved and not set, so
//! that all lanes of a process show one sum, and a partition that is given away takes its part with it.

use std::collections::BTreeMap;
use std::sync::Arc;

use metrics::{Gauge, counter, gauge};
use shared::config::{ConnectionStatus, ConnectionsSinkConfig};

use crate::connections::Standing;
use crate::metrics as names;

/// What a sink shows.
pub(super) struct Shown {
    per_connection: bool,
}

/// One partition's part of it; dropped, it is taken back.
pub(super) struct Share {
    shown: Arc<Shown>,
    /// The status that is shown of each connection.
    of: BTreeMap<(String, String), ConnectionStatus>,
}

impl Shown {
    /// Every status of every source is shown from the start: a rule must see the 0 before the 1.
    pub(super) fn new(config: &ConnectionsSinkConfig) -> Self {
        for source in config.sources.keys() {
            for status in ConnectionStatus::ALL {
                number(source, status).increment(0.0);
                changes(source, status).increment(0);
            }
        }
        Self { per_connection: config.metrics_per_connection }
    }

    pub(super) fn share<'s>(self: &Arc<Self>, standings: impl Iterator<Item = &'s Standing>) -> Share {
        let mut share = Share { shown: Arc::clone(self), of: BTreeMap::new() };
        standings.for_each(|standing| share.show(standing));
        share
    }

    fn move_one(&self, source: &str, connection: &str, status: ConnectionStatus, by: f64) {
        number(source, status).increment(by);
        if self.per_connection {
            gauge!(names::CONNECTION_STATUS, "source" => source.to_owned(), "connection" => connection.to_owned(),
                   "status" => status.name())
            .increment(by);
        }
    }
}

impl Share {
    /// A transaction with the standing is committed.
    pub(super) fn changed(&mut self, before: Option<&Standing>, now: &Standing) {
        if before.is_none_or(|before| before.status != now.status) {
            changes(&now.source, now.status).increment(1);
        }
        self.show(now);
    }

    fn show(&mut self, standing: &Standing) {
        let key = (standing.source.clone(), standing.connection.clone());
        let shown = self.of.insert(key, standing.status);
        if shown == Some(standing.status) {
            return;
        }
        if let Some(shown) = shown {
            self.shown.move_one(&standing.source, &standing.connection, shown, -1.0);
        }
        self.shown.move_one(&standing.source, &standing.connection, standing.status, 1.0);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for ((source, connection), status) in &self.of {
            self.shown.move_one(source, connection, *status, -1.0);
        }
    }
}

fn number(source: &str, status: ConnectionStatus) -> Gauge {
    gauge!(names::CONNECTIONS, "source" => source.to_owned(), "status" => status.name())
}

fn changes(source: &str, status: ConnectionStatus) -> metrics::Counter {
    counter!(names::CONNECTION_CHANGES, "source" => source.to_owned(), "status" => status.name())
}
