//! What a producer's acknowledgements say.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::{DeliveryResult, Message};
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};

use super::retry;
use crate::broker::BrokerError;

/// What a record's acknowledgement is for.
pub(super) const OUTPUT: usize = 0;
pub(super) const JOURNAL: usize = 1;

/// Collects acknowledgements.
#[derive(Clone, Default)]
pub(super) struct Deliveries(Arc<Mutex<Delivered>>);

#[derive(Default)]
struct Delivered {
    journal: Vec<(i32, i64)>,
    failed: Option<KafkaError>,
}

impl Deliveries {
    fn lock(&self) -> MutexGuard<'_, Delivered> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: usize) {
        match result {
            Ok(message) if opaque == JOURNAL => {
                self.lock().journal.push((message.partition(), message.offset()));
            }
            Ok(_) => {}
            Err((error, _)) => self.lock().failed = Some(error.clone()),
        }
    }
}

/// Nobody waits for these records: that some are not taken is said once, until one is.
#[derive(Default)]
pub(super) struct Unheard {
    failing: AtomicBool,
}

impl ClientContext for Unheard {}

impl ProducerContext for Unheard {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): Self::DeliveryOpaque) {
        let failed = result.as_ref().err();
        let was_failing = self.failing.swap(failed.is_some(), Ordering::Relaxed);
        if let (Some((error, message)), false) = (failed, was_failing) {
            tracing::warn!(topic = message.topic(), %error, "requests of the poller are not taken");
        }
    }
}

/// How long acknowledgements are waited for: longer than `message.timeout.ms`, after which each record's fate
/// is known.
const SETTLE: Duration = Duration::from_secs(15);
/// How long between two looks for acknowledgements.
const PAUSE: Duration = Duration::from_micros(250);

/// Waits until nothing is in flight. `flush` would wait in steps of 100 ms, and `poll` spins through the last
/// millisecond of its time, which the broker may want.
pub(super) fn settle(producer: &BaseProducer<Deliveries>) -> Result<Vec<(i32, i64)>, BrokerError> {
    let started = Instant::now();
    let mut in_flight = producer.in_flight_count();
    while in_flight > 0 {
        producer.poll(Duration::ZERO);
        let left = producer.in_flight_count();
        if left == in_flight {
            if started.elapsed() > SETTLE {
                return Err(BrokerError::Retry(format!("no acknowledgement for {} s", SETTLE.as_secs())));
            }
            std::thread::sleep(PAUSE);
        }
        in_flight = left;
    }
    let mut delivered = producer.context().lock();
    match delivered.failed.take() {
        Some(error) => Err(retry(&error)),
        None => Ok(std::mem::take(&mut delivered.journal)),
    }
}
