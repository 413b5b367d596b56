//! When each event became visible to those who read a sink, seen by a plain client: a topic is read `read_committed`;
//! PostgreSQL is asked for its fence, which moves in one transaction with the rows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hookline_tests::kafka::client_config;
use hookline_tests::{postgres, wait};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;

use crate::outcome::{entity_and_sequence, for_each};
use crate::stats::Percentiles;
use crate::workload::Item;

/// How often PostgreSQL is asked.
const LOOK: Duration = Duration::from_micros(500);
/// From the last event that was sent until all are visible.
const PATIENCE: Duration = Duration::from_secs(60);

/// When something happened to each event.
pub(crate) type Times = BTreeMap<Item, Instant>;
/// When a fence at a partition and an offset was seen.
type Fences = BTreeMap<(i32, i64), Instant>;

/// A thread that looks at a sink, until it is told to stop.
pub(crate) enum Watch {
    Topic { stop: Arc<AtomicBool>, seen: Arc<AtomicU64>, thread: JoinHandle<anyhow::Result<Times>> },
    Postgres { stop: Arc<AtomicBool>, url: String, thread: JoinHandle<anyhow::Result<Fences>> },
}

impl Watch {
    /// Looks at a topic that is there.
    pub(crate) fn topic(bootstrap: &str, topic: &str) -> anyhow::Result<Self> {
        let mut config = client_config(bootstrap);
        config.set("group.id", format!("bench-{topic}")).set("isolation.level", "read_committed");
        config.set("auto.offset.reset", "earliest").set("fetch.wait.max.ms", "5");
        let consumer: BaseConsumer = config.create()?;
        consumer.subscribe(&[topic])?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            thread::spawn(move || watch_topic(&consumer, &stop, &seen))
        };
        Ok(Self::Topic { stop, seen, thread })
    }

    /// Looks at the tables of a pipeline.
    pub(crate) fn postgres(url: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (stop, url) = (Arc::clone(&stop), url.to_owned());
            thread::spawn(move || watch_postgres(&url, &stop))
        };
        Self::Postgres { stop, url: url.to_owned(), thread }
    }

    /// Waits until so many events are visible, and says when each was. `log` is where they were appended.
    pub(crate) fn end(self, events: u64, bootstrap: &str, log: &str) -> anyhow::Result<Times> {
        let is_all = || match &self {
            Self::Topic { seen, thread, .. } => {
                seen.load(Ordering::Relaxed) >= events || thread.is_finished()
            }
            Self::Postgres { url, thread, .. } => rows(url) >= events || thread.is_finished(),
        };
        let all = wait::within(PATIENCE, || is_all().then_some(()));
        match self {
            Self::Topic { stop, seen, thread } => {
                stop.store(true, Ordering::Release);
                let times = thread.join().expect("the watcher")?;
                all.with_context(|| {
                    format!("{} of {events} events are visible", seen.load(Ordering::Relaxed))
                })?;
                Ok(times)
            }
            Self::Postgres { stop, url, thread } => {
                stop.store(true, Ordering::Release);
                let fences = thread.join().expect("the watcher")?;
                all.with_context(|| format!("{} of {events} events are visible", rows(&url)))?;
                times_of(&fences, bootstrap, log)
            }
        }
    }
}

/// Leaves those from `counted_from` on: what was before warmed up.
pub(crate) fn since(mut times: Times, counted_from: Instant) -> Times {
    times.retain(|_, at| *at >= counted_from);
    times
}

/// From `from` to `to`. Each event of the first must be in the second.
pub(crate) fn between(from: &Times, to: &Times) -> anyhow::Result<Percentiles> {
    let millis = from.iter().map(|(item, at)| {
        let seen = to.get(item).with_context(|| format!("{item:?} never became visible"))?;
        Ok(seen.saturating_duration_since(*at).as_secs_f64() * 1e3)
    });
    Percentiles::of(millis.collect::<anyhow::Result<_>>()?)
}

fn watch_topic(consumer: &BaseConsumer, stop: &AtomicBool, seen: &AtomicU64) -> anyhow::Result<Times> {
    let mut times = Times::new();
    while !stop.load(Ordering::Acquire) {
        let Some(message) = consumer.poll(Duration::from_millis(10)) else { continue };
        let message = message?;
        let now = Instant::now();
        let (entity, sequence) = entity_and_sequence(&message).context("entity and sequence")?;
        times.entry(Item { entity, sequence }).or_insert(now);
        seen.store(times.len() as u64, Ordering::Relaxed);
    }
    Ok(times)
}

fn watch_postgres(url: &str, stop: &AtomicBool) -> anyhow::Result<Fences> {
    let mut client = postgres::connect(url);
    let fences = client.prepare("SELECT log_partition, effect_offset FROM hookline_fence")?;
    let mut seen = Fences::new();
    while !stop.load(Ordering::Acquire) {
        let rows = client.query(&fences, &[])?;
        let now = Instant::now();
        for row in rows {
            seen.entry((row.get(0), row.get(1))).or_insert(now);
        }
        thread::sleep(LOOK);
    }
    Ok(seen)
}

fn rows(url: &str) -> u64 {
    let rows = postgres::query(url, "SELECT count(*) FROM hookline_events");
    rows[0][0].as_ref().and_then(|count| count.parse().ok()).expect("a count")
}

/// The log says which event stands where. A fence may have moved past it together with later ones.
fn times_of(fences: &Fences, bootstrap: &str, log: &str) -> anyhow::Result<Times> {
    let mut times = Times::new();
    for_each(bootstrap, log, |message| {
        let at = (message.partition(), message.offset());
        let seen = fences.range(at..=(at.0, i64::MAX)).next();
        if let (Some((entity, sequence)), Some((_, seen))) = (entity_and_sequence(message), seen) {
            times.entry(Item { entity, sequence }).or_insert(*seen);
        }
        Ok(())
    })?;
    Ok(times)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_that_never_became_visible_is_an_error_and_one_of_the_warm_up_does_not_count() {
        let began = Instant::now();
        let item = |sequence| Item { entity: 1, sequence };
        let at = |ms| began + Duration::from_millis(ms);
        let sent = Times::from([(item(1), at(0)), (item(2), at(10)), (item(3), at(20))]);
        let mut seen = Times::from([(item(1), at(500)), (item(2), at(15))]);
        let sent = since(sent, at(10));
        between(&sent, &seen).unwrap_err();
        seen.insert(item(3), at(27));
        let found = between(&sent, &seen).unwrap();
        assert!((found.max_ms - 7.0).abs() < 0.01 && found.events == 2, "{found:?}");
    }
}
