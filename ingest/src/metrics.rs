//! Every metric of ingest: names, meaning, and the handles that the hot path records to.
//!
//! Handles are made once per source, so that a request costs no look-up. Sources that nobody configured are
//! counted under `unknown`: a sender cannot create label values.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use shared::series::{Place, Series};

use crate::problem::Kind;

const WEBHOOKS: &str = "ingest_webhooks_total";
const REQUEST_SECONDS: &str = "ingest_request_duration_seconds";
const APPEND_SECONDS: &str = "ingest_append_duration_seconds";
const EVENTS: &str = "ingest_events_total";
const IN_FLIGHT: &str = "ingest_in_flight_bytes";
const CONNECTIONS: &str = "ingest_connections";
const KAFKA_UP: &str = "ingest_kafka_up";
const REGISTRY_PROBLEMS: &str = "ingest_registry_problems";
const POLL_REQUESTS: &str = "ingest_poll_requests_total";
const POLL_RECORDS: &str = "ingest_poll_records_total";
const POLL_LAST_SUCCESS: &str = "ingest_poll_last_success_timestamp_seconds";
const CONNECTION_LAST_EVENT: &str = "ingest_connection_last_event_timestamp_seconds";
const WITHOUT_SERIES: &str = "ingest_connections_without_series";

/// Connections of a source that are known by what they sent. Further ones are not looked at: where a connection's name
/// comes with the webhook, a sender could make any number of them.
const HEARD_MAX: usize = 100_000;

/// The label of requests to sources that nobody configured.
const UNKNOWN: &str = "unknown";

/// Says what each metric means. Once per process.
pub(crate) fn describe() {
    describe_counter!(
        WEBHOOKS,
        "Requests by source and outcome: accepted, accepted with a problem, or why refused"
    );
    describe_histogram!(REQUEST_SECONDS, Unit::Seconds, "From a request's head to its answer");
    describe_histogram!(APPEND_SECONDS, Unit::Seconds, "From a record's hand-over to its acknowledgement");
    describe_counter!(EVENTS, "Events acknowledged by the log; an array that is split has several");
    describe_gauge!(IN_FLIGHT, Unit::Bytes, "Webhooks between verification and acknowledgement");
    describe_gauge!(CONNECTIONS, "Open connections");
    describe_gauge!(KAFKA_UP, "1 while the log can be reached, else 0");
    describe_gauge!(REGISTRY_PROBLEMS, "Connections of a source's registry that cannot be used");
    describe_gauge!(
        CONNECTION_LAST_EVENT,
        Unit::Seconds,
        "When this process last appended a connection's event to the log"
    );
    describe_gauge!(
        WITHOUT_SERIES,
        "Connections that have no metrics of their own, since more than 10000 would have them"
    );
}

/// Says what each metric of polling means. Once per process.
pub(crate) fn describe_polling() {
    describe_counter!(POLL_REQUESTS, "Requests to providers by source, resource and outcome");
    describe_counter!(POLL_RECORDS, "Records that lists had: appended, or unchanged since the last list");
    describe_gauge!(
        POLL_LAST_SUCCESS,
        Unit::Seconds,
        "When a connection's list was last read to its end; NaN once it is not polled here any more"
    );
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// In the log.
    Accepted,
    /// In the log, though it cannot be read: the processor dead-letters it.
    Unreadable,
    /// Not in the log, or not known to be.
    Refused(Kind),
}

/// One source's handles.
pub(crate) struct SourceMetrics {
    accepted: Counter,
    unreadable: Counter,
    refused: Vec<(Kind, Counter)>,
    seconds: Histogram,
    pub(crate) events: Counter,
}

impl SourceMetrics {
    pub(crate) fn new(source: &str) -> Self {
        let outcome =
            |name: &'static str| counter!(WEBHOOKS, "source" => source.to_owned(), "outcome" => name);
        Self {
            accepted: outcome("accepted"),
            unreadable: outcome("accepted-unreadable"),
            refused: Kind::ALL.iter().map(|kind| (*kind, outcome(kind.name()))).collect(),
            seconds: histogram!(REQUEST_SECONDS, "source" => source.to_owned()),
            events: counter!(EVENTS, "source" => source.to_owned()),
        }
    }

    pub(crate) fn unknown() -> Self {
        Self::new(UNKNOWN)
    }

    pub(crate) fn record(&self, outcome: Outcome, took: Duration) {
        match outcome {
            Outcome::Accepted => self.accepted.increment(1),
            Outcome::Unreadable => self.unreadable.increment(1),
            Outcome::Refused(kind) => {
                if let Some((_, counter)) = self.refused.iter().find(|(k, _)| *k == kind) {
                    counter.increment(1);
                }
            }
        }
        self.seconds.record(took);
    }
}

/// The places of connections with metrics of their own.
pub(crate) fn series() -> Arc<Series> {
    Series::new(gauge!(WITHOUT_SERIES))
}

/// When each connection of a source last sent an event that the log has.
pub(crate) struct LastEvents {
    source: String,
    series: Arc<Series>,
    heard: Mutex<HashMap<String, (Place, Gauge)>>,
}

impl LastEvents {
    pub(crate) fn new(source: &str, series: &Arc<Series>) -> Self {
        Self { source: source.to_owned(), series: Arc::clone(series), heard: Mutex::default() }
    }

    /// The log has an event of the connection, just now.
    pub(crate) fn heard(&self, connection: &str) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, gauge)) = heard.get(connection) {
            gauge.set(now_s());
        } else if heard.len() < HEARD_MAX {
            let place = self.series.place(&self.source, connection);
            let (source, name) = (self.source.clone(), connection.to_owned());
            let gauge = match place.is_kept() {
                true => gauge!(CONNECTION_LAST_EVENT, "source" => source, "connection" => name),
                false => Gauge::noop(),
            };
            gauge.set(now_s());
            heard.insert(connection.to_owned(), (place, gauge));
        }
    }
}

fn now_s() -> f64 {
    jiff::Timestamp::now().as_duration().as_secs_f64()
}

/// The log's handles.
#[derive(Clone)]
pub(crate) struct LogMetrics {
    pub(crate) append_seconds: Histogram,
    pub(crate) in_flight_bytes: Gauge,
    pub(crate) kafka_up: Gauge,
}

impl LogMetrics {
    pub(crate) fn new() -> Self {
        Self {
            append_seconds: histogram!(APPEND_SECONDS),
            in_flight_bytes: gauge!(IN_FLIGHT),
            kafka_up: gauge!(KAFKA_UP),
        }
    }
}

pub(crate) fn connections() -> Gauge {
    gauge!(CONNECTIONS)
}

pub(crate) fn registry_problems(source: &str) -> Gauge {
    gauge!(REGISTRY_PROBLEMS, "source" => source.to_owned())
}

/// One list's handles.
pub(crate) struct PollMetrics {
    source: String,
    resource: String,
    appended: Counter,
    unchanged: Counter,
    last_success: Gauge,
    _place: Place,
}

impl PollMetrics {
    /// `series` are those of all lists.
    pub(crate) fn new(series: &Arc<Series>, source: &str, connection: &str, resource: &str) -> Self {
        let records = |outcome: &'static str| counter!(POLL_RECORDS, "source" => source.to_owned(), "resource" => resource.to_owned(), "outcome" => outcome);
        let place = series.place(source, connection);
        let last_success = match place.is_kept() {
            true => gauge!(
                POLL_LAST_SUCCESS, "source" => source.to_owned(), "connection" => connection.to_owned(),
                "resource" => resource.to_owned()
            ),
            false => Gauge::noop(),
        };
        Self {
            appended: records("appended"),
            unchanged: records("unchanged"),
            last_success,
            _place: place,
            source: source.to_owned(),
            resource: resource.to_owned(),
        }
    }

    pub(crate) fn requested(&self, outcome: &'static str) {
        let (source, resource) = (self.source.clone(), self.resource.clone());
        counter!(POLL_REQUESTS, "source" => source, "resource" => resource, "outcome" => outcome)
            .increment(1);
    }

    pub(crate) fn appended(&self, records: usize) {
        self.appended.increment(records as u64);
    }

    pub(crate) fn unchanged(&self, records: usize) {
        self.unchanged.increment(records as u64);
    }

    /// A list was read to its end just now.
    pub(crate) fn succeeded(&self) {
        self.last_success.set(now_s());
    }
}

impl Drop for PollMetrics {
    fn drop(&mut self) {
        // Another instance polls the list, or it is gone: an old time would look like trouble.
        self.last_success.set(f64::NAN);
    }
}
