//! Time in the world: one clock that rises, and wall clocks that differ from instance to instance.

use std::time::Duration;

use processor::clock::Clock;

use crate::env::Env;
use crate::world::WALL_START_MS;

/// An instance's clock.
pub struct SimClock {
    env: Env,
}

impl SimClock {
    /// A lane's clock.
    #[must_use]
    pub fn new(env: Env) -> Self {
        Self { env }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Duration {
        Duration::from_millis(u64::try_from(self.env.lock().now_ms).unwrap_or(0))
    }

    fn wall_ms(&self) -> i64 {
        let w = self.env.lock();
        let skew = w.processes.get(self.env.process).map_or(0, |p| p.wall_skew_ms);
        WALL_START_MS + w.now_ms + skew
    }
}
