//! Sends the workload over HTTP at a steady rate, as senders of webhooks do: each again until it is answered
//! with 200.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hookline_tests::http::Client;

use crate::webhook::{self, KIND};
use crate::workload::{Item, Workload};

const BODY_BYTES: usize = 500;
/// Connections. An entity's webhooks go through one of them, so that only the workload makes disorder.
const WORKERS: usize = 16;
/// How often the rate is kept.
const TICK: Duration = Duration::from_millis(5);
/// Before a webhook is sent again.
const RETRY: Duration = Duration::from_millis(200);
/// A webhook that is not accepted in this time fails the benchmark.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// 200s.
    pub(super) accepted: u64,
    /// Different webhooks: all were accepted.
    pub(super) distinct: u64,
    pub(super) attempts_failed: u64,
    /// From the first webhook to the last answer.
    pub(super) seconds: f64,
}

#[derive(Default)]
struct Counts {
    accepted: AtomicU64,
    failed: AtomicU64,
}

/// Sends until `duration` is over, then what is delayed, and waits for all answers.
///
/// # Panics
/// When a webhook is refused, or not accepted for long.
pub(super) fn send(
    mut workload: Workload,
    url: &str,
    rate: u32,
    started: Instant,
    duration: Duration,
) -> Sent {
    let counts = Arc::new(Counts::default());
    let (queues, workers): (Vec<Sender<Item>>, Vec<_>) = (0..WORKERS)
        .map(|_| {
            let (queue, items) = channel();
            let (url, counts) = (url.to_owned(), Arc::clone(&counts));
            (queue, thread::spawn(move || work(&items, &url, &counts)))
        })
        .unzip();
    let put = |item: Item| queues[item.entity as usize % WORKERS].send(item).expect("a worker");
    let mut sent = 0_u64;
    while started.elapsed() < duration {
        let due = (started.elapsed().as_secs_f64() * f64::from(rate)) as u64;
        while sent < due {
            put(workload.next_item().expect("an endless stream"));
            sent += 1;
        }
        thread::sleep(TICK);
    }
    while let Some(item) = workload.next_delayed() {
        put(item);
    }
    drop(queues);
    for worker in workers {
        worker.join().expect("a worker that ends in order");
    }
    let accepted = counts.accepted.load(Ordering::Relaxed);
    assert_eq!(
        accepted,
        workload.distinct() + workload.duplicates(),
        "one 200 for each webhook that was sent"
    );
    Sent {
        accepted,
        distinct: workload.distinct(),
        attempts_failed: counts.failed.load(Ordering::Relaxed),
        seconds: started.elapsed().as_secs_f64(),
    }
}

fn work(items: &Receiver<Item>, url: &str, counts: &Counts) {
    let client = Client::new();
    for item in items {
        let body = webhook::body(item, BODY_BYTES);
        let (id, signature) = (webhook::id(item), webhook::signature(&body));
        let headers = [
            ("content-type", "application/json"),
            ("x-github-delivery", id.as_str()),
            ("x-github-event", KIND),
            ("x-hub-signature-256", signature.as_str()),
        ];
        let since = Instant::now();
        loop {
            match client.post(url, &headers, &body) {
                Ok(answer) if answer.status == 200 => break,
                Ok(answer) => assert_eq!(answer.status, 503, "refused: {}", answer.text()),
                // ingest is being restarted.
                Err(_) => {}
            }
            counts.failed.fetch_add(1, Ordering::Relaxed);
            assert!(since.elapsed() < PATIENCE, "not accepted for {} s", PATIENCE.as_secs());
            thread::sleep(RETRY);
        }
        counts.accepted.fetch_add(1, Ordering::Relaxed);
    }
}
