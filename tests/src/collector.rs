//! A real OpenTelemetry collector (`tests/collector`), and the spans that it has received.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::child::{self, Child};
use crate::{ports, setup};

const START_TIME_LIMIT: Duration = Duration::from_secs(60);

/// A running collector. Dropped, it is killed.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    // Before the directory with its log, which a failing test shows.
    _process: Child,
    scratch: TempDir,
}

/// What a span stands for, by its number in OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "OTLP's names")]
pub enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
    Producer = 4,
    Consumer = 5,
}

/// A span as the collector got it.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace, 32 hexadecimal digits.
    pub trace_id: String,
    /// Its own id, 16 hexadecimal digits.
    pub span_id: String,
    /// The parent's id; empty where it begins the trace.
    pub parent_id: String,
    /// Its name.
    pub name: String,
    /// What it stands for.
    pub kind: Kind,
    /// Nanoseconds since 1970.
    pub start_ns: u64,
    /// Nanoseconds since 1970.
    pub end_ns: u64,
    /// Whether its status is an error.
    pub is_error: bool,
    /// The attributes, numbers in digits.
    pub attributes: BTreeMap<String, String>,
    /// The attributes of the program that made it.
    pub resource: BTreeMap<String, String>,
}

impl Collector {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not come up.
    #[must_use]
    pub fn start() -> Self {
        let (scratch, address, grpc) =
            (setup::scratch("collector"), ports::free_address(), ports::free_address());
        let path = |name: &str| scratch.path().join(name);
        let config = format!(
            "receivers:\n  otlp:\n    protocols:\n      grpc: {{endpoint: '{grpc}'}}\n      \
             http: {{endpoint: '{address}'}}\n\
             exporters:\n  lines: {{path: '{}'}}\n\
             service:\n  telemetry:\n    metrics: {{level: none}}\n  \
             pipelines:\n    traces: {{receivers: [otlp], exporters: [lines]}}\n",
            path("spans.jsonl").display()
        );
        fs::write(path("config.yaml"), config).expect("the collector's configuration");
        let mut command = child::command(setup::collector());
        command.arg("--config").arg(path("config.yaml"));
        let mut process = Child::spawn("collector", command, &path("collector.log"));
        process.wait_listens(&[address.port()], START_TIME_LIMIT);
        Self { address, _process: process, scratch }
    }

    /// What `OTEL_EXPORTER_OTLP_ENDPOINT` is to say.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All that it has received, as OTLP's JSON, a line a batch.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = fs::read_to_string(self.scratch.path().join("spans.jsonl")).unwrap_or_default();
        // A batch may be half written.
        text.truncate(text.rfind('\n').map_or(0, |end| end + 1));
        text
    }

    /// The spans of a trace so far, in the order of their start.
    #[must_use]
    pub fn trace(&self, trace_id: &str) -> Vec<Span> {
        let mut spans: Vec<Span> =
            self.text().lines().flat_map(batch).filter(|span| span.trace_id == trace_id).collect();
        spans.sort_by_key(|span| span.start_ns);
        spans
    }
}

/// The spans of one line: `resourceSpans`, in each `scopeSpans`, in each `spans`.
fn batch(line: &str) -> Vec<Span> {
    let line: Value = serde_json::from_str(line).expect("OTLP's JSON");
    let mut spans = Vec::new();
    for of_resource in list(&line["resourceSpans"]) {
        let resource = attributes(&of_resource["resource"]["attributes"]);
        for of_scope in list(&of_resource["scopeSpans"]) {
            spans.extend(list(&of_scope["spans"]).iter().map(|span| self::span(span, &resource)));
        }
    }
    spans
}

fn span(span: &Value, resource: &BTreeMap<String, String>) -> Span {
    let text = |name: &str| span[name].as_str().unwrap_or_default().to_owned();
    let time = |name: &str| text(name).parse().expect("nanoseconds");
    Span {
        trace_id: text("traceId"),
        span_id: text("spanId"),
        parent_id: text("parentSpanId"),
        name: text("name"),
        kind: match span["kind"].as_u64() {
            Some(1) => Kind::Internal,
            Some(2) => Kind::Server,
            Some(3) => Kind::Client,
            Some(4) => Kind::Producer,
            Some(5) => Kind::Consumer,
            other => panic!("a span of kind {other:?}"),
        },
        start_ns: time("startTimeUnixNano"),
        end_ns: time("endTimeUnixNano"),
        is_error: span["status"]["code"] == 2,
        attributes: attributes(&span["attributes"]),
        resource: resource.clone(),
    }
}

/// `[{"key": …, "value": {"stringValue": …}}, …]`; OTLP writes integers as strings too.
fn attributes(all: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| match value.as_object().and_then(|kinds| kinds.values().next()) {
        Some(Value::String(text)) => text.clone(),
        other => panic!("an attribute of {other:?}"),
    };
    let pair = |pair: &Value| (pair["key"].as_str().unwrap_or_default().to_owned(), text(&pair["value"]));
    list(all).iter().map(pair).collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
