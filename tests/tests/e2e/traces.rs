//! Traces: one webhook's way is one trace, as a real OpenTelemetry collector receives it; log lines carry its id;
//! a collector that is away harms nothing; and neither spans nor logs hold a secret or a payload.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use hookline_tests::collector::{Collector, Kind, Span};
use hookline_tests::http::{Answer, Client};
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::Record;
use hookline_tests::postgres::{Postgres, query};
use hookline_tests::process::Program;
use hookline_tests::{ports, wait};
use sandbox::sign::Signer;
use sandbox::sources::{CONNECTIONS, FORGED_SECRET, GITHUB_SECRET};
use serde_json::Value;

use crate::common::{Instance, PATIENCE, Sink, Site, assert_nothing_leaked, now_s, row_count};

/// What the programs know, or are sent, and must not tell. A part of each, so that an encoding hides none.
const PLANTED: [&str; 5] =
    ["planted-in-body", "planted-in-query", "planted-in-header", "planted-for-collector", "planted-for-sink"];

/// The spans of a webhook with a connection in its path; `process` and what comes of it depend on the event.
const POST: &str = "POST /webhooks/{source}/{connection}";
const SEND: &str = "send traced.events";
const PROCESS: &str = "process traced.events";
const COPY: &str = "COPY hookline_events";

/// A site whose programs export to a collector and log JSON.
struct Traced {
    site: Site,
    collector: Collector,
    ingest: Program,
    processor: Instance,
    url: String,
}

fn traced() -> &'static Traced {
    static TRACED: OnceLock<Traced> = OnceLock::new();
    TRACED.get_or_init(|| {
        let collector = Collector::start();
        // What is held stays so until the test closes the gap.
        let site = Site::new("traced", Kafka::shared(), 2).gap_wait(PATIENCE).json_logs();
        let url = with_password(&Postgres::shared().create_database());
        let mut processor = site.instance("only", &Sink::Postgres(url.clone()));
        processor.program = exporting(processor.program, &collector.endpoint()).started();
        let ingest = exporting(site.ingest(), &collector.endpoint()).started();
        Traced { site, collector, ingest, processor, url }
    })
}

/// The URL with a password, which the tests' PostgreSQL does not ask for.
fn with_password(url: &str) -> String {
    url.replacen('@', ":planted-for-sink@", 1)
}

fn exporting(program: Program, endpoint: &str) -> Program {
    program
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        .env("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted-for-collector")
        .env("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=tests")
        .env("OTEL_BSP_SCHEDULE_DELAY", "100")
}

/// A purchase order's event, its payload planted.
fn body(id: &str, number: &str, sequence: &str) -> String {
    format!(
        r#"{{"id":"{id}","type":"purchase_order.updated","sequence":{sequence},
            "data":{{"number":"{number}","note":"planted-in-body"}}}}"#
    )
}

/// Sends an order's event of acme's, signed with `secret`.
fn post(site: &Site, secret: &'static str, body: &str, more: &[(&str, &str)]) -> Answer {
    let url = format!("{}/webhooks/makini/acme?token=planted-in-query", site.base_url());
    let signature = Signer::Makini { secret, age_s: 0 }.headers(body.as_bytes(), now_s());
    let mut headers = vec![("authorization", "Bearer planted-in-header"), ("cookie", "s=planted-in-header")];
    headers.extend(signature.iter().map(|(name, value)| (*name, value.as_str())));
    headers.extend(more);
    Client::new().post(&url, &headers, body.as_bytes()).unwrap()
}

/// Sends an event that is taken in, and returns its record: the last one with this id.
fn append(site: &Site, id: &str, number: &str, sequence: &str, more: &[(&str, &str)]) -> Record {
    let answer = post(site, CONNECTIONS[0].secret.value, &body(id, number, sequence), more);
    assert_eq!(answer.status, 200, "{}", answer.text());
    last_record(site, id)
}

fn last_record(site: &Site, id: &str) -> Record {
    let mut records = site.events();
    records.retain(|record| record.header("ce_id").as_deref() == Some(id));
    records.pop().unwrap()
}

/// A trace that begins outside, as `traceparent`; `sampled` is what its flags say.
fn traceparent(sampled: bool) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("00-{n:08x}{:024x}-b7ad6b7169203331-{:02x}", std::process::id(), u8::from(sampled))
}

/// The parts of a `traceparent` of version 00: trace, span, flags.
fn parts(traceparent: &str) -> [&str; 3] {
    let parts: Vec<&str> = traceparent.split('-').collect();
    let [version, trace, span, flags] = parts[..] else { panic!("{traceparent}") };
    assert_eq!((version, trace.len(), span.len(), flags.len()), ("00", 32, 16, 2), "{traceparent}");
    [trace, span, flags]
}

/// One trace, complete.
struct Trace(Vec<Span>);

impl Trace {
    /// Waits until the trace has as many spans as `names`, which must be theirs.
    fn wait(collector: &Collector, trace_id: &str, names: &[&str]) -> Self {
        let mut last = Vec::new();
        let complete = wait::within(PATIENCE, || {
            last = collector.trace(trace_id);
            (last.len() >= names.len()).then_some(())
        });
        let mut found: Vec<&str> = last.iter().map(|span| span.name.as_str()).collect();
        let mut expected = names.to_vec();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "spans of {trace_id} (complete: {})", complete.is_some());
        Self(last)
    }

    /// The trace of a record, whose context must be that of the span that sent it.
    fn of(traced: &Traced, record: &Record, names: &[&str]) -> Self {
        let context = record.header("traceparent").unwrap();
        let [trace_id, span_id, flags] = parts(&context);
        assert_eq!(flags, "01", "sampled");
        let trace = Self::wait(&traced.collector, trace_id, names);
        assert_eq!(trace.only(SEND).span_id, span_id, "the record's context is the send's");
        trace
    }

    fn only(&self, name: &str) -> &Span {
        let mut found = self.0.iter().filter(|span| span.name == name);
        let (Some(span), None) = (found.next(), found.next()) else { panic!("not one span {name}") };
        span
    }

    /// The span `process` with this verdict.
    fn process(&self, verdict: &str) -> &Span {
        let has = |span: &&Span| span.attributes.get("hookline.verdict").is_some_and(|v| v == verdict);
        self.0.iter().find(has).unwrap_or_else(|| panic!("nothing became {verdict}"))
    }
}

fn assert_child(child: &Span, parent: &Span) {
    assert_eq!(child.parent_id, parent.span_id, "{} is a child of {}", child.name, parent.name);
}

/// Exactly these attributes, of which `…` allows any value.
fn assert_attributes(span: &Span, expected: &[(&str, &str)]) {
    let mut found = span.attributes.clone();
    for (name, value) in expected {
        match found.remove(*name) {
            Some(found) => assert!(*value == "…" || found == *value, "{}: {name} is {found}", span.name),
            None => panic!("{} has no {name}: {:?}", span.name, span.attributes),
        }
    }
    assert_eq!(found, BTreeMap::new(), "{} has more than expected", span.name);
}

/// What every `process` of a record has.
fn assert_process(span: &Span, record: &Record, verdict: &str, more: &[(&str, &str)]) {
    let (partition, offset) = (record.partition.to_string(), record.offset.to_string());
    let id = record.header("ce_id").unwrap();
    let mut expected = vec![
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "traced.events"),
        ("messaging.destination.partition.id", &partition),
        ("messaging.kafka.offset", &offset),
        ("messaging.consumer.group.name", "hookline.traced"),
        ("cloudevents.event_id", &id),
        ("cloudevents.event_source", "makini/acme"),
        ("cloudevents.event_type", "purchase_order.updated"),
        ("hookline.pipeline", "traced"),
        ("hookline.verdict", verdict),
    ];
    expected.extend(more);
    assert_attributes(span, &expected);
    assert_eq!((span.name.as_str(), span.kind), (PROCESS, Kind::Consumer));
}

#[test]
fn an_applied_event_is_one_trace_from_the_request_to_the_database() {
    let traced = traced();
    let record = append(&traced.site, "evt_applied", "applied", "1", &[]);
    let trace = Trace::of(traced, &record, &[POST, SEND, PROCESS, COPY]);
    let [post, send, process, copy] = [POST, SEND, PROCESS, COPY].map(|name| trace.only(name));

    assert_eq!(post.parent_id, "", "the trace begins here");
    assert_child(send, post);
    assert_child(process, send);
    assert_child(copy, process);
    assert_eq!((post.kind, send.kind, copy.kind), (Kind::Server, Kind::Producer, Kind::Client));
    assert!(trace.0.iter().all(|span| !span.is_error && span.start_ns <= span.end_ns));
    for (span, service) in [
        (post, "hookline-ingest"),
        (send, "hookline-ingest"),
        (process, "hookline-processor"),
        (copy, "hookline-processor"),
    ] {
        assert_eq!(span.resource["service.name"], service, "{}", span.name);
        assert_eq!(span.resource["deployment.environment.name"], "tests", "{}", span.name);
    }
    assert_attributes(
        post,
        &[
            ("http.request.method", "POST"),
            ("http.route", "/webhooks/{source}/{connection}"),
            ("http.response.status_code", "200"),
            ("url.scheme", "http"),
            ("url.path", "/webhooks/makini/acme"),
        ],
    );
    assert_attributes(
        send,
        &[
            ("messaging.system", "kafka"),
            ("messaging.operation.name", "send"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "traced.events"),
        ],
    );
    assert_process(process, &record, "applied", &[]);
    let mut of_copy = vec![
        ("db.system.name", "postgresql"),
        ("db.operation.name", "COPY"),
        ("db.collection.name", "hookline_events"),
    ];
    // Only where other tests' events went in with it.
    of_copy.extend(
        copy.attributes.contains_key("db.operation.batch.size").then_some(("db.operation.batch.size", "…")),
    );
    assert_attributes(copy, &of_copy);
}

#[test]
fn a_duplicate_is_a_trace_of_its_own_and_touches_no_database() {
    let traced = traced();
    let first = append(&traced.site, "evt_twice", "twice", "1", &[]);
    let second = append(&traced.site, "evt_twice", "twice", "1", &[]);
    let trace = Trace::of(traced, &second, &[POST, SEND, PROCESS]);
    let process = trace.only(PROCESS);
    assert_child(process, trace.only(SEND));
    assert_child(trace.only(SEND), trace.only(POST));
    assert_process(process, &second, "duplicate", &[]);
    assert!(!process.is_error);
    // The first one was applied, in its own trace.
    let trace = Trace::of(traced, &first, &[POST, SEND, PROCESS, COPY]);
    assert_process(trace.only(PROCESS), &first, "applied", &[]);
}

#[test]
fn a_held_event_is_told_of_when_it_is_held_and_when_it_is_applied() {
    let traced = traced();
    append(&traced.site, "evt_held_1", "held", "1", &[]);
    let held = append(&traced.site, "evt_held_3", "held", "3", &[]);
    let trace = Trace::of(traced, &held, &[POST, SEND, PROCESS]);
    assert_process(trace.only(PROCESS), &held, "held", &[]);

    append(&traced.site, "evt_held_2", "held", "2", &[]);
    let trace = Trace::of(traced, &held, &[POST, SEND, PROCESS, PROCESS, COPY]);
    let applied = trace.process("applied");
    assert_process(applied, &held, "applied", &[]);
    assert_child(applied, trace.only(SEND));
    assert_child(trace.process("held"), trace.only(SEND));
    assert_child(trace.only(COPY), applied);
}

#[test]
fn a_dead_lettered_event_ends_in_its_dead_letter() {
    let traced = traced();
    let dead_letter = "send hookline.traced.dead-letters";
    let record = append(&traced.site, "evt_dead", "dead", "\"planted-in-body\"", &[]);
    let trace = Trace::of(traced, &record, &[POST, SEND, PROCESS, dead_letter]);
    let (process, send) = (trace.only(PROCESS), trace.only(dead_letter));
    assert_child(process, trace.only(SEND));
    assert_child(send, process);
    let reason = "sequence is not an integer from 0 to 2^63 - 1";
    let more = [("error.type", "dead_lettered"), ("hookline.dead_letter.reason", reason)];
    assert_process(process, &record, "dead_lettered", &more);
    assert!(process.is_error);
    assert_eq!(send.kind, Kind::Producer);
    assert_attributes(
        send,
        &[
            ("messaging.system", "kafka"),
            ("messaging.operation.name", "send"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "hookline.traced.dead-letters"),
            ("messaging.destination.partition.id", &record.partition.to_string()),
        ],
    );
}

#[test]
fn an_event_that_the_sink_refuses_ends_in_its_dead_letter_and_its_log_line_has_the_trace() {
    let traced = traced();
    // The tables are there once something was applied.
    append(&traced.site, "evt_before_refused", "before-refused", "1", &[]);
    wait::until("a table", PATIENCE, || (row_count(&traced.url) > 0).then_some(()));
    query(&traced.url, "ALTER TABLE hookline_events ADD CHECK (event_id <> 'evt_refused')");

    let dead_letter = "send hookline.traced.dead-letters";
    // Soon after each other, so that no checkpoint is between them.
    for (id, sequence) in [("evt_taken", "1"), ("evt_refused", "2")] {
        let body = body(id, "refused", sequence);
        assert_eq!(post(&traced.site, CONNECTIONS[0].secret.value, &body, &[]).status, 200);
    }
    let [before, record] = ["evt_taken", "evt_refused"].map(|id| last_record(&traced.site, id));
    let trace = Trace::of(traced, &record, &[POST, SEND, PROCESS, dead_letter]);
    assert_process(trace.only(PROCESS), &record, "dead_lettered", &[("error.type", "dead_lettered")]);
    assert_child(trace.only(dead_letter), trace.only(PROCESS));

    let line = json_line(&traced.processor.program, "the sink refused an event; dead-lettered", &record);
    assert_eq!(line["level"], "WARN");

    // The one before was folded twice, and applied once.
    let trace = Trace::of(traced, &before, &[POST, SEND, PROCESS, COPY]);
    assert_child(trace.only(COPY), trace.only(PROCESS));
}

#[test]
fn a_senders_trace_goes_on() {
    let traced = traced();
    let outside = traceparent(true);
    let more = [("traceparent", &*outside), ("tracestate", "vendor=1")];
    let record = append(&traced.site, "evt_outside", "outside", "1", &more);
    let trace = Trace::of(traced, &record, &[POST, SEND, PROCESS, COPY]);
    let [trace_id, span_id, _] = parts(&outside);
    let post = trace.only(POST);
    assert_eq!((&*post.trace_id, &*post.parent_id), (trace_id, span_id));
    assert_child(trace.only(SEND), post);
    assert_eq!(record.header("tracestate").as_deref(), Some("vendor=1"));
}

#[test]
fn a_trace_that_its_sender_does_not_sample_is_not_exported_but_goes_on() {
    let traced = traced();
    let outside = traceparent(false);
    let record = append(&traced.site, "evt_unsampled", "unsampled", "1", &[("traceparent", &outside)]);
    let [trace_id, span_id, _] = parts(&outside);
    let context = record.header("traceparent").unwrap();
    let [own_trace_id, own_span_id, flags] = parts(&context);
    assert_eq!((own_trace_id, flags), (trace_id, "00"));
    assert_ne!(own_span_id, span_id);
    // The next event of the same order comes later at every step: then nothing more can come of the first.
    let next = append(&traced.site, "evt_sampled", "unsampled", "2", &[]);
    Trace::of(traced, &next, &[POST, SEND, PROCESS, COPY]);
    assert_eq!(traced.collector.trace(trace_id).len(), 0);
}

#[test]
fn a_refused_request_sends_nothing() {
    let traced = traced();
    let outside = traceparent(true);
    let answer =
        post(&traced.site, FORGED_SECRET, &body("evt_forged", "forged", "1"), &[("traceparent", &outside)]);
    assert_eq!(answer.status, 401);
    let trace = Trace::wait(&traced.collector, parts(&outside)[0], &[POST]);
    let span = trace.only(POST);
    assert_eq!(span.attributes["http.response.status_code"], "401");
    assert!(!span.is_error, "the sender's fault");

    // An address that nobody configured has no route.
    let outside = traceparent(true);
    let url = format!("{}/webhooks/nobody", traced.site.base_url());
    assert_eq!(Client::new().post(&url, &[("traceparent", &outside)], b"{}").unwrap().status, 404);
    let trace = Trace::wait(&traced.collector, parts(&outside)[0], &["POST"]);
    assert_eq!(trace.only("POST").attributes.get("http.route"), None);
}

#[test]
fn an_output_to_kafka_belongs_to_the_trace() {
    let traced = traced();
    let site = Site::new("traced-out", Kafka::shared(), 1);
    let sink = Sink::Kafka("traced-out.applied".to_owned());
    let endpoint = traced.collector.endpoint();
    let _processor = exporting(site.instance("only", &sink).program, &endpoint).started();
    let _ingest = exporting(site.ingest(), &endpoint).started();
    let body = r#"{"repository":{"full_name":"a/b"},"zen":"planted-in-body"}"#;
    let signature = Signer::Github { secret: GITHUB_SECRET.value }.headers(body.as_bytes(), now_s());
    let mut headers = vec![("x-github-delivery", "evt_out"), ("x-github-event", "push")];
    headers.extend(signature.iter().map(|(name, value)| (*name, value.as_str())));
    let url = format!("{}/webhooks/github", site.base_url());
    assert_eq!(Client::new().post(&url, &headers, body.as_bytes()).unwrap().status, 200);

    let context = last_record(&site, "evt_out").header("traceparent").unwrap();
    let names = [
        "POST /webhooks/{source}",
        "send traced-out.events",
        "process traced-out.events",
        "send traced-out.applied",
    ];
    let trace = Trace::wait(&traced.collector, parts(&context)[0], &names);
    let [post, send, process, output] = names.map(|name| trace.only(name));
    assert_child(send, post);
    assert_child(process, send);
    assert_child(output, process);
    assert_eq!(output.kind, Kind::Producer);
    assert_eq!(output.attributes["messaging.destination.name"], "traced-out.applied");
    assert_eq!(process.attributes["cloudevents.event_source"], "github");
}

#[test]
fn log_lines_have_the_trace_and_neither_logs_nor_spans_hold_a_secret_or_a_payload() {
    let traced = traced();
    let record = append(&traced.site, "evt_logged", "logged", "1", &[]);
    Trace::of(traced, &record, &[POST, SEND, PROCESS, COPY]);
    let forged = body("evt_logged_forged", "logged", "2");
    assert_eq!(post(&traced.site, FORGED_SECRET, &forged, &[]).status, 401);

    json_line(&traced.ingest, "webhook taken in", &record);
    let line = json_line(&traced.processor.program, "event decided", &record);
    assert_eq!((&line["verdict"], &line["offset"]), (&"applied".into(), &record.offset.into()));

    let logs = [&traced.ingest, &traced.processor.program].map(Program::log_text);
    // The last line may be half written.
    for line in logs.iter().flat_map(|log| log.split_inclusive('\n')).filter(|line| line.ends_with('\n')) {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "not JSON: {line}");
    }
    let told = traced.collector.text();
    assert!(told.contains("evt_logged"), "the collector's file is the one to look in");
    assert_nothing_leaked(&[&logs[..], &[told]].concat(), &PLANTED);
}

/// The line of a program's log with this message and the record's trace. What a test has seen the effect of may
/// be logged a moment later.
fn json_line(program: &Program, message: &str, record: &Record) -> Value {
    let context = record.header("traceparent").unwrap();
    let trace_id = parts(&context)[0];
    wait::until(&format!("“{message}” with trace {trace_id}"), PATIENCE, || {
        let log = program.log_text();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.into_iter().find(|line| line["message"] == message && line["trace_id"] == trace_id)
    })
}

#[test]
fn a_collector_that_is_away_or_hangs_costs_nothing_but_a_metric() {
    let site = Site::new("untraced", Kafka::shared(), 1);
    let url = with_password(&Postgres::shared().create_database());
    // Takes connections and never answers; the queue is full at once.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let hanging = format!("http://{}", silent.local_addr().unwrap());
    let mut ingest = exporting(site.ingest(), &hanging).env("OTEL_BSP_MAX_QUEUE_SIZE", "1").started();
    let away = format!("http://{}", ports::free_address());
    let mut processor =
        exporting(site.instance("only", &Sink::Postgres(url.clone())).program, &away).started();

    let records =
        [1, 2, 3].map(|n| append(&site, &format!("evt_untraced_{n}"), "untraced", &n.to_string(), &[]));
    wait::until("three rows", PATIENCE, || (row_count(&url) == 3).then_some(()));
    let lost = |program: &Program, reason: &str| {
        program.metrics().sum("hookline_trace_spans_lost_total", &[("reason", reason)])
    };
    // One span is with the collector, so that the next finds no room.
    assert!(lost(&ingest, "queue_full").is_some_and(|spans| spans > 0.0));
    // Of each, the event's processing and the database's operation.
    wait::until("all spans lost", PATIENCE, || (lost(&processor, "refused") >= Some(6.0)).then_some(()));
    assert_eq!(lost(&processor, "queue_full"), Some(0.0));
    assert!(ingest.is_ready() && processor.is_ready());

    // Text has the trace, too.
    let context = records[0].header("traceparent").unwrap();
    let trace_id = format!("trace_id=\"{}\"", parts(&context)[0]);
    for (program, message) in [(&ingest, "webhook taken in"), (&processor, "event decided")] {
        wait::until(&format!("“{message}” with {trace_id}"), PATIENCE, || {
            let log = program.log_text();
            log.lines().any(|line| line.contains(message) && line.contains(&trace_id)).then_some(())
        });
    }
    assert_nothing_leaked(&[ingest.log_text(), processor.log_text()], &PLANTED);
    assert_eq!(ingest.terminate().code(), Some(0));
    assert_eq!(processor.terminate().code(), Some(0));
}

#[test]
fn a_collector_behind_tls_is_said_to_be_out_of_reach() {
    let site = Site::new("tls-traced", Kafka::shared(), 1);
    let ingest = exporting(site.ingest(), "https://planted-in-address.example:4318").started();
    ingest.wait_log("OTLP over TLS is not built in", PATIENCE);
    assert_nothing_leaked(&[ingest.log_text()], &["planted-in-address", PLANTED[3]]);
}
