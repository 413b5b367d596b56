//! Spans by OpenTelemetry's SDK.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use metrics::{counter, describe_counter};

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt as _, TraceFlags, TraceId, TraceState,
    Tracer as _, TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{
    BatchConfigBuilder, BatchSpanProcessor, SdkTracer, SdkTracerProvider, SpanData, SpanProcessor,
};

use super::{Kind, Parent, Start, Value};

/// Spans that were not exported; label `reason`: [`REFUSED`] or [`QUEUE_FULL`].
const LOST: &str = "hookline_trace_spans_lost_total";
/// The collector did not take them.
const REFUSED: &str = "refused";
/// Too many were waiting for the collector.
const QUEUE_FULL: &str = "queue_full";
/// Spans that wait, at most, where `OTEL_BSP_MAX_QUEUE_SIZE` gives no number: the specification's default.
const QUEUE_SPANS_MAX: usize = 2048;

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
    let endpoint =
        var("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT").or_else(|| var("OTEL_EXPORTER_OTLP_ENDPOINT"))?;
    let off = var("OTEL_SDK_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"))
        || var("OTEL_TRACES_EXPORTER").is_some_and(|v| v == "none");
    if off {
        return None;
    }
    if endpoint.starts_with("https:") {
        tracing::error!("no traces: OTLP over TLS is not built in; send to a collector nearby, by http://");
        return None;
    }
    if let Some(protocol) =
        var("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| var("OTEL_EXPORTER_OTLP_PROTOCOL"))
        && protocol != "http/protobuf"
    {
        tracing::warn!(protocol, "only OTLP over http/protobuf is built in (port 4318); using that");
    }
    describe_counter!(LOST, "Spans that the collector did not take, or that found its queue full");
    for reason in [REFUSED, QUEUE_FULL] {
        counter!(LOST, "reason" => reason).increment(0);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .build()
        .inspect_err(|error| tracing::error!(%error, "no traces: the exporter cannot be made"))
        .ok()?;
    let mut resource = Resource::builder();
    let named = var("OTEL_RESOURCE_ATTRIBUTES").is_some_and(|attributes| {
        attributes.split(',').any(|attribute| attribute.trim_start().starts_with("service.name="))
    });
    if !named && var("OTEL_SERVICE_NAME").is_none() {
        resource = resource.with_service_name(service.to_owned());
    }
    let queue_max = var("OTEL_BSP_MAX_QUEUE_SIZE").and_then(|n| n.parse().ok()).unwrap_or(QUEUE_SPANS_MAX);
    let provider = SdkTracerProvider::builder()
        .with_resource(resource.build())
        .with_span_processor(Queue::new(exporter, queue_max))
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

/// The SDK's queue, which drops in silence what finds it full: here that is counted.
#[derive(Debug)]
struct Queue {
    inner: BatchSpanProcessor,
    /// Spans in the queue or with the exporter. Never fewer than in the queue, so the queue itself drops none.
    waiting: Arc<AtomicUsize>,
    max: usize,
}

impl Queue {
    fn new(exporter: SpanExporter, max: usize) -> Self {
        let waiting = Arc::new(AtomicUsize::new(0));
        let exporter = Counted { exporter, waiting: Arc::clone(&waiting) };
        let config = BatchConfigBuilder::default().with_max_queue_size(max).build();
        Self { inner: BatchSpanProcessor::builder(exporter).with_batch_config(config).build(), waiting, max }
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, span: &mut opentelemetry_sdk::trace::Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < self.max {
            self.inner.on_end(span);
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            counter!(LOST, "reason" => QUEUE_FULL).increment(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Counts what the collector does not take.
#[derive(Debug)]
struct Counted {
    exporter: SpanExporter,
    waiting: Arc<AtomicUsize>,
}

impl opentelemetry_sdk::trace::SpanExporter for Counted {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        let result = self.exporter.export(batch).await;
        self.waiting.fetch_sub(spans, Ordering::Relaxed);
        if result.is_err() {
            counter!(LOST, "reason" => REFUSED).increment(spans as u64);
        }
        result
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}
