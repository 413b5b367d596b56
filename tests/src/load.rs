//! A steady load: orders' events one after the other, with repeats and disorder, until it is told to stop. It
//! sends again what was not answered with 200, so at its end every event that it made was accepted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sandbox::check::{self, Difference};
use sandbox::delivery::{AppliedEvent, EntityPlan};
use sandbox::sources::{CONNECTIONS, Connection, MAKINI};

use crate::http::Client;
use crate::process::Program;
use crate::site::{PATIENCE, Site, assert_none, entity_rows, order, post_signed, row_count, rows};
use crate::wait;

/// Orders that are sent at the same time.
const ORDERS: usize = 8;
const PAUSE: Duration = Duration::from_millis(50);

/// A running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    accepted: Arc<AtomicUsize>,
    thread: JoinHandle<Vec<EntityPlan>>,
}

impl Load {
    /// Starts it.
    pub fn start(site: &Site) -> Self {
        let (stop, accepted) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let sender = Sender { base_url: site.base_url(), client: Client::new(), accepted: accepted.clone() };
        let stopped = stop.clone();
        let thread = thread::spawn(move || sender.run(&stopped));
        Self { stop, accepted, thread }
    }

    /// Waits until `more` events more were accepted.
    pub fn wait_accepted(&self, more: usize) {
        let goal = self.accepted() + more;
        wait::until(&format!("{more} more webhooks accepted"), PATIENCE, || {
            assert!(!self.thread.is_finished(), "the load has ended early");
            (self.accepted() >= goal).then_some(())
        });
    }

    /// How many were accepted so far, repeats included.
    #[must_use]
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Stops after the round that is under way; returns what must be there.
    pub fn finish(self) -> Vec<EntityPlan> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

struct Sender {
    base_url: String,
    client: Client,
    accepted: Arc<AtomicUsize>,
}

impl Sender {
    fn run(&self, stop: &AtomicBool) -> Vec<EntityPlan> {
        let mut plans: Vec<EntityPlan> = (0..ORDERS)
            .map(|n| EntityPlan {
                source: MAKINI,
                connection: connection(n).id,
                entity: format!("purchase-order-{}", number(n)),
                applied: Vec::new(),
            })
            .collect();
        let mut sequence = 1;
        while !stop.load(Ordering::Relaxed) {
            for (n, plan) in plans.iter_mut().enumerate() {
                let events = [event(n, sequence), event(n, sequence + 1)];
                // Every second time the later one goes first, every third time it comes again.
                let mut order =
                    if (n as u64 + sequence / 2).is_multiple_of(2) { vec![0, 1] } else { vec![1, 0] };
                if (n as u64 + sequence / 2).is_multiple_of(3) {
                    order.push(1);
                }
                for turn in order {
                    self.deliver(connection(n), &events[turn].body);
                }
                plan.applied.extend(events);
            }
            sequence += 2;
        }
        plans
    }

    fn deliver(&self, connection: Connection, body: &[u8]) {
        let url = format!("{}/webhooks/{MAKINI}/{}", self.base_url, connection.id);
        wait::until("a 200", PATIENCE, || {
            let answer = post_signed(&self.client, &url, connection.secret.value, body);
            let status = answer.map(|answer| answer.status);
            if status == Ok(200) {
                self.accepted.fetch_add(1, Ordering::Relaxed);
                return Some(());
            }
            assert!(status.as_ref().map_or(true, |status| *status == 503), "{status:?}");
            thread::sleep(PAUSE);
            None
        });
    }
}

/// Two customers' orders have the same numbers.
fn connection(n: usize) -> Connection {
    CONNECTIONS[n % 2]
}

fn number(n: usize) -> String {
    format!("{}", 4_700_000_000 + n as u64 / 2)
}

fn event(n: usize, sequence: u64) -> AppliedEvent {
    // The same ids from both customers.
    let event_id = format!("evt_{}_{sequence}", number(n));
    let body = order(&event_id, &number(n), &sequence.to_string());
    AppliedEvent { event_id, sequence: Some(sequence.to_string()), body }
}

/// Waits until the whole log is applied; then every event must be in the tables once, in its entity's order.
pub fn assert_applied_once(site: &Site, url: &str, processor: &mut Program, plans: &[EntityPlan]) {
    let expected: usize = plans.iter().map(|plan| plan.applied.len()).sum();
    wait::within(PATIENCE, || {
        let ended = processor.ended();
        assert!(ended.is_none(), "the processor has ended: {ended:?}");
        (row_count(url) >= expected).then_some(())
    });
    assert_none(&differences(site, url, plans));
}

/// Waits until the checkpoints cover the whole log; then, how the tables differ from what a load makes.
pub fn differences(site: &Site, url: &str, plans: &[EntityPlan]) -> Vec<Difference> {
    site.wait_caught_up();
    let mut rows = rows(url);
    // Other sources' events are not the load's.
    rows.retain(|row| row.source == MAKINI);
    let mut found = check::rows(plans, &rows);
    found.extend(check::entities(plans, &entity_rows(url)));
    found
}
