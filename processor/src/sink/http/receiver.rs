//! What is known of a receiver, by all lanes of a process and over their recoveries: what it acknowledged, and
//! whether it is asked at all (a circuit breaker).
//!
//! In memory alone, and only ever as a reason not to send what was acknowledged already. A lane that starts again
//! from its last checkpoint passes over that, so that a batch which failed in part makes progress.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::now;
use crate::position::Position;
use crate::sink::Context;

/// So many events in a row that no try could bring there open the circuit.
const FAILURES_MAX: u32 = 3;
/// How long it stays open: at first, twice so long each time that it opens again, and at most. What a receiver
/// asks for counts if that is longer, up to the last.
const OPEN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(30), Duration::from_secs(3600)];

/// By pipeline, cluster, topic and URL.
type Key = (String, String, String, String);
static RECEIVERS: Mutex<BTreeMap<Key, Arc<Receiver>>> = Mutex::new(BTreeMap::new());

/// One URL as one pipeline knows it.
#[derive(Default)]
pub(super) struct Receiver {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: BTreeMap<i32, Taken>,
    circuit: Circuit,
}

/// What was acknowledged of a partition: everything up to a position, and some beyond.
#[derive(Default)]
struct Taken {
    up_to: Option<Position>,
    beyond: BTreeSet<Position>,
}

#[derive(Default)]
enum Circuit {
    #[default]
    Closed,
    /// Some failed in a row.
    Failing(u32),
    /// Not before then is anything sent; it has opened so often.
    Open { until: Instant, times: u32 },
    /// One event is being sent, to find out.
    Probing { times: u32 },
}

impl Receiver {
    pub(super) fn of(context: &Context, url: &str) -> Arc<Self> {
        let Context { pipeline, cluster_id, topic, .. } = context;
        let key = (pipeline.clone(), cluster_id.clone(), topic.clone(), url.to_owned());
        let mut receivers = RECEIVERS.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(receivers.entry(key).or_default())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it acknowledged an effect.
    pub(super) fn has(&self, partition: i32, position: Position) -> bool {
        self.lock().taken.get(&partition).is_some_and(|taken| {
            taken.up_to.is_some_and(|up_to| position <= up_to) || taken.beyond.contains(&position)
        })
    }

    /// It acknowledged an effect.
    pub(super) fn took(&self, partition: i32, position: Position) {
        let mut state = self.lock();
        state.taken.entry(partition).or_default().beyond.insert(position);
        state.circuit = Circuit::Closed;
    }

    /// It acknowledged all effects up to a position, or they are not its business.
    pub(super) fn reached(&self, partition: i32, position: Position) {
        let mut state = self.lock();
        let taken = state.taken.entry(partition).or_default();
        taken.up_to = taken.up_to.max(Some(position));
        taken.beyond.retain(|beyond| *beyond > position);
    }

    /// It answered, if only to refuse an event.
    pub(super) fn answered(&self) {
        self.lock().circuit = Circuit::Closed;
    }

    /// An event could not be brought there. `after`: it asked for so much time.
    pub(super) fn failed(&self, after: Option<Duration>) {
        let mut state = self.lock();
        let (failures, times) = match state.circuit {
            Circuit::Closed => (1, 0),
            Circuit::Failing(failures) => (failures + 1, 0),
            Circuit::Probing { times } => (FAILURES_MAX, times),
            // Another thread was quicker.
            Circuit::Open { .. } => return,
        };
        state.circuit = if failures >= FAILURES_MAX || after.is_some() {
            let open = OPEN[0].saturating_mul(1 << times.min(16)).min(OPEN[1]).max(after.unwrap_or_default());
            Circuit::Open { until: now() + open.min(OPEN[2]), times: times + 1 }
        } else {
            Circuit::Failing(failures)
        };
    }

    /// Whether something may be sent: everything (`false`), or one event to find out (`true`); `None` while another
    /// lane finds out.
    ///
    /// # Errors
    /// How long it may not.
    pub(super) fn admit(&self) -> Result<Option<bool>, Duration> {
        let mut state = self.lock();
        match state.circuit {
            Circuit::Closed | Circuit::Failing(_) => Ok(Some(false)),
            Circuit::Probing { .. } => Ok(None),
            Circuit::Open { until, times } => {
                let left = until.saturating_duration_since(now());
                if !left.is_zero() {
                    return Err(left);
                }
                state.circuit = Circuit::Probing { times };
                Ok(Some(true))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(offset: i64) -> Position {
        Position { offset, ordinal: 0 }
    }

    #[test]
    fn what_was_acknowledged_is_known_beyond_what_failed() {
        let receiver = Receiver::default();
        receiver.took(0, at(1));
        receiver.took(0, at(3));
        assert_eq!([1, 2, 3].map(|n| receiver.has(0, at(n))), [true, false, true]);
        assert!(!receiver.has(1, at(1)));
        receiver.reached(0, at(2));
        assert_eq!([1, 2, 3, 4].map(|n| receiver.has(0, at(n))), [true, true, true, false]);
    }

    #[test]
    fn the_circuit_opens_after_failures_in_a_row() {
        let receiver = Receiver::default();
        receiver.failed(None);
        receiver.failed(None);
        receiver.answered();
        receiver.failed(None);
        receiver.failed(None);
        assert_eq!(receiver.admit(), Ok(Some(false)));
        receiver.failed(None);
        assert!(receiver.admit().is_err_and(|left| left <= OPEN[0]));
    }

    #[test]
    fn a_receiver_that_asks_for_time_has_it() {
        let receiver = Receiver::default();
        receiver.failed(Some(Duration::from_secs(600)));
        assert!(receiver.admit().is_err_and(|left| left > Duration::from_secs(590)));
        let receiver = Receiver::default();
        receiver.failed(Some(Duration::MAX));
        assert!(receiver.admit().is_err_and(|left| left <= OPEN[2]));
    }

    #[test]
    fn one_event_finds_out_and_closes_the_circuit() {
        let receiver = Receiver::default();
        receiver.lock().circuit = Circuit::Open { until: now(), times: 3 };
        assert_eq!(receiver.admit(), Ok(Some(true)));
        assert_eq!(receiver.admit(), Ok(None));
        receiver.failed(None);
        assert!(receiver.admit().is_err_and(|left| left > OPEN[0]));
        receiver.lock().circuit = Circuit::Probing { times: 4 };
        receiver.took(0, at(1));
        assert_eq!(receiver.admit(), Ok(Some(false)));
    }
}
