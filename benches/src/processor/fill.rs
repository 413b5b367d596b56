//! Fills the event log as ingest would, but faster: the same records, in large compressed batches.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hookline_tests::kafka::{Kafka, client_config};
use rdkafka::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use std::sync::atomic::{AtomicU64, Ordering};

use super::Options;
use crate::broker;
use crate::webhook;
use crate::workload::{Plan, Workload};

/// Its order is the workload's in each partition, so the producer must be idempotent.
const PROPERTIES: [(&str, &str); 6] = [
    ("enable.idempotence", "true"),
    ("acks", "all"),
    ("partitioner", "murmur2_random"),
    ("compression.type", "lz4"),
    ("linger.ms", "20"),
    ("queue.buffering.max.messages", "200000"),
];
const FLUSH_TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Default)]
struct Failures(AtomicU64);

impl ClientContext for Failures {}

impl ProducerContext for Failures {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if result.is_err() {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the options ask for.
pub(super) fn workload(options: &Options) -> Workload {
    Workload::new(Plan {
        entities: options.entities,
        duplicate_percent: 2,
        disorder_percent: 2,
        delay_max: 1_000,
    })
}

/// Appends the events that the options ask for; returns what they were.
pub(super) fn fill(kafka: &Kafka, options: &Options) -> anyhow::Result<Workload> {
    append(kafka, options, workload(options))
}

/// Appends the events of a workload; returns it, as it is then.
pub(super) fn append(kafka: &Kafka, options: &Options, mut workload: Workload) -> anyhow::Result<Workload> {
    let Options { events, body: body_bytes, .. } = *options;
    let mut config = client_config(&kafka.bootstrap());
    for (key, value) in PROPERTIES {
        config.set(key, value);
    }
    let producer: BaseProducer<Failures> = config.create_with_context(Failures::default())?;
    let started = Instant::now();
    let mut appended = 0_u64;
    while let Some(item) = workload.next_of(events) {
        let event = webhook::event(item);
        let body = webhook::body(item, body_bytes);
        let key = event.key(&body);
        let mut record =
            BaseRecord::to(broker::LOG).key(key.as_str()).payload(&body).headers(event.to_headers());
        while let Err((error, back)) = producer.send(record) {
            let KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull) = error else {
                return Err(error).context("the log is not filled");
            };
            producer.poll(Duration::from_millis(5));
            record = back;
        }
        appended += 1;
        if appended.is_multiple_of(1_000) {
            producer.poll(Duration::ZERO);
        }
    }
    producer.flush(FLUSH_TIMEOUT)?;
    let failed = producer.context().0.load(Ordering::Relaxed);
    let expected = events + workload.held();
    ensure!(failed == 0 && appended == expected, "{failed} of {appended} events are not in the log");
    println!(
        "log filled with {events} events in {:.1} s: {} different ones, {} repeats, {} after a later one",
        started.elapsed().as_secs_f64(),
        workload.distinct(),
        workload.duplicates(),
        workload.disordered()
    );
    Ok(workload)
}
