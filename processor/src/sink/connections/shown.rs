//! The metrics of connections: how many have each status, and how often one began. Gauges are moved and not set, so
//! that all lanes of a process show one sum, and a partition that is given away takes its part with it.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use metrics::{Gauge, counter, gauge};
use shared::config::{ConnectionStatus, ConnectionsSinkConfig};
use shared::series::{Place, Series};

use crate::connections::Standing;
use crate::metrics as names;

/// What a sink shows.
pub(super) struct Shown {
    /// Where each connection has metrics of its own.
    series: Option<Arc<Series>>,
}

/// One partition's part of it; dropped, it is taken back.
pub(super) struct Share {
    shown: Arc<Shown>,
    /// The status that is shown of each connection.
    of: BTreeMap<(String, String), One>,
}

/// What is shown of a connection.
struct One {
    status: ConnectionStatus,
    /// Where each connection is to have metrics of its own; this one perhaps has not.
    place: Option<Place>,
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
        // Of all lanes.
        static SERIES: OnceLock<Arc<Series>> = OnceLock::new();
        let of_all = || SERIES.get_or_init(|| Series::new(gauge!(names::CONNECTIONS_WITHOUT_SERIES)));
        Self { series: config.metrics_per_connection.then(|| Arc::clone(of_all())) }
    }

    pub(super) fn share<'s>(self: &Arc<Self>, standings: impl Iterator<Item = &'s Standing>) -> Share {
        let mut share = Share { shown: Arc::clone(self), of: BTreeMap::new() };
        standings.for_each(|standing| share.show(standing));
        share
    }

    fn one(&self, standing: &Standing) -> One {
        let place = |series: &Arc<Series>| series.place(&standing.source, &standing.connection);
        One { status: standing.status, place: self.series.as_ref().map(place) }
    }
}

impl One {
    fn move_by(&self, source: &str, connection: &str, by: f64) {
        number(source, self.status).increment(by);
        if self.place.as_ref().is_some_and(Place::is_kept) {
            gauge!(names::CONNECTION_STATUS, "source" => source.to_owned(), "connection" => connection.to_owned(),
                   "status" => self.status.name())
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
        let one = self.of.entry(key).or_insert_with(|| {
            let one = self.shown.one(standing);
            one.move_by(&standing.source, &standing.connection, 1.0);
            one
        });
        if one.status != standing.status {
            one.move_by(&standing.source, &standing.connection, -1.0);
            one.status = standing.status;
            one.move_by(&standing.source, &standing.connection, 1.0);
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        for ((source, connection), one) in &self.of {
            one.move_by(source, connection, -1.0);
        }
    }
}

fn number(source: &str, status: ConnectionStatus) -> Gauge {
    gauge!(names::CONNECTIONS, "source" => source.to_owned(), "status" => status.name())
}

fn changes(source: &str, status: ConnectionStatus) -> metrics::Counter {
    counter!(names::CONNECTION_CHANGES, "source" => source.to_owned(), "status" => status.name())
}
