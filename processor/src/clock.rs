//! Time, as a lane sees it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Time, as a lane sees it: for waits and deadlines, never for the fold.
pub trait Clock: Send {
    /// Time that only rises, since some start.
    fn now(&self) -> Duration;

    /// Wall-clock time, milliseconds since 1970.
    fn wall_ms(&self) -> i64;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock(Instant);

impl Default for SystemClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.0.elapsed()
    }

    fn wall_ms(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}
