//! When a list is asked for the next time. Pure but for the jitter.

use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use rand::RngExt as _;

/// The first wait after a failure.
const FAILED_MIN: Duration = Duration::from_secs(1);

/// The waits of one list.
pub(super) struct Pace {
    min: Duration,
    max: Duration,
    /// The wait before this one, after a success.
    wait: Duration,
    failed: ExponentialBackoff,
}

impl Pace {
    /// Waits between `min` and `max` after successes, and up to `max` after failures.
    pub(super) fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, wait: max, failed: backoff(max) }
    }

    /// After a list that was read to its end: soon again if it had something new, else ever later.
    pub(super) fn succeeded(&mut self, found_new: bool) -> Duration {
        self.failed = backoff(self.max);
        self.wait = if found_new { self.min } else { (self.wait * 2).clamp(self.min, self.max) };
        jittered(self.wait)
    }

    /// After a failure: longer each time.
    pub(super) fn failed(&mut self) -> Duration {
        self.failed.next().unwrap_or(self.max).min(self.max)
    }

    /// When somebody has to act first.
    pub(super) fn hopeless(&self) -> Duration {
        jittered(self.max)
    }

    /// Before the first request: spread out, so that a start is no storm.
    pub(super) fn first(&self) -> Duration {
        self.min.mul_f64(rand::rng().random_range(0.0..1.0))
    }
}

fn backoff(max: Duration) -> ExponentialBackoff {
    let builder = ExponentialBuilder::default().with_min_delay(FAILED_MIN.min(max)).with_max_delay(max);
    builder.without_max_times().with_jitter().build()
}

/// A tenth more or less.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.9..1.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn about(found: Duration, seconds: u64) {
        let wanted = Duration::from_secs(seconds).as_secs_f64();
        let found = found.as_secs_f64();
        assert!((wanted * 0.89..wanted * 1.11).contains(&found), "{found} s, not about {wanted} s");
    }

    #[test]
    fn a_list_with_something_new_is_read_again_soon_and_then_ever_later() {
        let mut pace = Pace::new(Duration::from_secs(30), Duration::from_secs(300));
        about(pace.succeeded(false), 300);
        about(pace.succeeded(true), 30);
        about(pace.succeeded(false), 60);
        about(pace.succeeded(false), 120);
        about(pace.succeeded(false), 240);
        about(pace.succeeded(false), 300);
    }

    #[test]
    fn failures_wait_longer_each_time_and_never_longer_than_the_interval() {
        let mut pace = Pace::new(Duration::from_secs(30), Duration::from_secs(300));
        let waits: Vec<Duration> = (0..40).map(|_| pace.failed()).collect();
        assert!(waits[0] >= FAILED_MIN && waits[0] < waits[5], "{waits:?}");
        assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(300)), "{waits:?}");
        pace.succeeded(true);
        assert!(pace.failed() < waits[5]);
    }
}
