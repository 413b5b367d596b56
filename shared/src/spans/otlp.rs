//! Spans by OpenTelemetry's SDK.

use std::sync::OnceLock;
use std::time::SystemTime;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider, SpanData};

use super::{Kind, Parent, Start, Value};

/// Batches of spans that could not be exported.
const EXPORT_FAILURES: &str = "hookline_trace_export_failures_total";

static TRACER: OnceLock<SdkTracer> = OnceLock::new();

/// Keeps the export going; ends it in order.
#[derive(Debug)]
pub struct Exporter(SdkTracerProvider);

/// A span that is going on.
#[derive(Debug)]
pub struct Span(opentelemetry_sdk::trace::Span);

/// Starts the export if the environment asks for it; `service` is its name where `OTEL_SERVICE_NAME` gives
/// none. Once in a process.
#[must_use]
pub fn init(service: &str) -> Option<Exporter> {
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let asked =
        var("OTEL_EXPORTER_OTLP_ENDPOINT").or_else(|| var("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")).is_some();
    let off = var("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
        || var("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
    if !asked || off {
        return None;
    }
    if let Some(protocol) =
        var("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| var("OTEL_EXPORTER_OTLP_PROTOCOL"))
        && protocol != "http/protobuf"
    {
        tracing::warn!(protocol, "only OTLP over http/protobuf is built in (port 4318); using that");
    }
    metrics::describe_counter!(EXPORT_FAILURES, "Batches of spans that the collector did not take");
    let exporter = SpanExporter::builder()
        .with_http()
        .build()
        .inspect_err(|error| tracing::error!(%error, "no traces: the exporter cannot be made"))
        .ok()?;
    let mut resource = Resource::builder();
    if var("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service.to_owned());
    }
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_batch_exporter(Counted(exporter))
        .build();
    let _ = TRACER.set(provider.tracer("hookline"));
    Some(Exporter(provider))
}

/// Whether traces are exported.
#[must_use]
pub fn is_on() -> bool {
    TRACER.get().is_some()
}

/// Starts a span; `None` where traces are off.
#[must_use]
pub fn start(start: Start<'_>) -> Option<Span> {
    let tracer = TRACER.get()?;
    let kind = match start.kind {
        Kind::Server => SpanKind::Server,
        Kind::Client => SpanKind::Client,
        Kind::Producer => SpanKind::Producer,
        Kind::Consumer => SpanKind::Consumer,
    };
    let attributes: Vec<KeyValue> =
        start.attributes.into_iter().map(|(key, value)| key_value(key, value)).collect();
    let mut builder = tracer.span_builder(start.name).with_kind(kind).with_attributes(attributes);
    if let Some(at) = start.at {
        builder = builder.with_start_time(at);
    }
    let parent = match span_context(start.parent) {
        Some(context) => Context::new().with_remote_span_context(context),
        None => Context::new(),
    };
    Some(Span(tracer.build_with_context(builder, &parent)))
}

impl Exporter {
    /// Exports what is left, within the exporter's time-out.
    pub fn shutdown(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

impl Span {
    /// W3C trace context of this span.
    #[must_use]
    pub fn traceparent(&self) -> String {
        let context = self.0.span_context();
        format!("00-{}-{}-{:02x}", context.trace_id(), context.span_id(), context.trace_flags().to_u8() & 1)
    }

    /// Whether it is exported.
    #[must_use]
    pub fn is_sampled(&self) -> bool {
        self.0.span_context().is_sampled()
    }

    /// Adds an attribute.
    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.0.set_attribute(key_value(key, value.into()));
    }

    /// What it stands for has failed; `why` is of few different texts (`error.type`).
    pub fn fail(&mut self, why: &str) {
        self.set("error.type", why);
        self.0.set_status(Status::error(""));
    }

    /// Ends it, now where no time is given.
    pub fn end(mut self, at: Option<SystemTime>) {
        self.0.end_with_timestamp(at.unwrap_or_else(SystemTime::now));
    }
}

fn key_value(key: &'static str, value: Value) -> KeyValue {
    match value {
        Value::Text(text) => KeyValue::new(key, text),
        Value::Number(number) => KeyValue::new(key, number),
    }
}

/// Reads `traceparent`, of version 00 or a later one's first four parts (W3C Trace Context, level 1).
fn span_context(parent: Parent<'_>) -> Option<SpanContext> {
    let mut parts = parent.traceparent?.split('-');
    let (_, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        TraceFlags::new(u8::from_str_radix(flags, 16).ok()? & 1),
        true,
        parent.tracestate.and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default(),
    );
    context.is_valid().then_some(context)
}

/// Counts what the collector does not take.
#[derive(Debug)]
struct Counted(SpanExporter);

impl opentelemetry_sdk::trace::SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let result = self.0.export(batch).await;
        if result.is_err() {
            metrics::counter!(EXPORT_FAILURES).increment(1);
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: std::time::Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}
