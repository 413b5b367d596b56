//! Traces: spans by OpenTelemetry, exported by OTLP over HTTP as the standard `OTEL_*` variables say.
//!
//! Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or `…_TRACES_ENDPOINT`) is set; then every call costs one look at
//! a flag. What is sampled follows `OTEL_TRACES_SAMPLER`. Spans are exported from a thread of its own, through
//! a bounded queue (`OTEL_BSP_*`): a collector that is away costs nothing but a metric.

#[cfg(not(feature = "otlp"))]
mod off;
#[cfg(feature = "otlp")]
mod otlp;

use std::time::SystemTime;

#[cfg(not(feature = "otlp"))]
pub use off::{Exporter, Span, init, is_on, start};
#[cfg(feature = "otlp")]
pub use otlp::{Exporter, Span, init, is_on, start};

/// What a span stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A request that was received.
    Server,
    /// A request to another system.
    Client,
    /// A message that is sent.
    Producer,
    /// A message that is worked on.
    Consumer,
}

/// An attribute's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(i64::from(number))
    }
}

/// Where a span belongs, as W3C trace context.
#[derive(Clone, Copy, Debug, Default)]
pub struct Parent<'a> {
    /// `traceparent`; without it the span begins a trace.
    pub traceparent: Option<&'a str>,
    /// `tracestate`.
    pub tracestate: Option<&'a str>,
}

/// The trace's id in a valid `traceparent`: what log lines carry as `trace_id`.
#[must_use]
pub fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

/// What is known of a span when it starts.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// Its name, of few different ones.
    pub name: String,
    /// What it stands for.
    pub kind: Kind,
    /// Where it belongs.
    pub parent: Parent<'a>,
    /// When it started; now where absent.
    pub at: Option<SystemTime>,
    /// By the semantic conventions.
    pub attributes: Vec<(&'static str, Value)>,
}
