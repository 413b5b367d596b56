//! A budget of bytes in memory: who takes from it holds a [`Held`], which gives back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use metrics::Gauge;

/// A budget of bytes.
#[derive(Clone)]
pub(crate) struct Room {
    inner: Arc<Inner>,
}

struct Inner {
    held: AtomicU64,
    bytes_max: u64,
    gauge: Gauge,
}

/// Some bytes of a budget.
pub(crate) struct Held {
    room: Room,
    bytes: u64,
}

impl Room {
    pub(crate) fn new(bytes_max: u64, gauge: Gauge) -> Self {
        Self { inner: Arc::new(Inner { held: AtomicU64::new(0), bytes_max, gauge }) }
    }

    /// Takes some bytes; `None` if they are not left. Who finds it empty may take any amount, so that one
    /// webhook larger than the budget is not refused for ever.
    pub(crate) fn take(&self, bytes: u64) -> Option<Held> {
        let before = self.inner.held.fetch_add(bytes, Ordering::Relaxed);
        if before > 0 && before.saturating_add(bytes) > self.inner.bytes_max {
            self.inner.held.fetch_sub(bytes, Ordering::Relaxed);
            return None;
        }
        #[allow(
            clippy::cast_precision_loss,
            reason = "a gauge is a float; bytes in memory are far below 2^53"
        )]
        self.inner.gauge.increment(bytes as f64);
        Some(Held { room: self.clone(), bytes })
    }
}

impl Held {
    /// Takes some more; false if they are not left.
    pub(crate) fn grow(&mut self, bytes: u64) -> bool {
        self.room.take(bytes).is_some_and(|mut more| {
            self.bytes += std::mem::take(&mut more.bytes);
            true
        })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.inner.held.fetch_sub(self.bytes, Ordering::Relaxed);
        #[allow(clippy::cast_precision_loss, reason = "as in `take`")]
        self.room.inner.gauge.decrement(self.bytes as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let room = Room::new(10, Gauge::noop());
        let first = room.take(6).unwrap();
        assert!(room.take(5).is_none());
        let second = room.take(4).unwrap();
        drop((first, second));
        assert!(room.take(11).is_some(), "an empty budget takes any one webhook");
    }
}
