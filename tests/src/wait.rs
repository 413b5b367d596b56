//! Waiting for something that another process does, with an end.

use std::thread;
use std::time::{Duration, Instant};

/// Asks `look` until it finds something, and returns that.
///
/// # Panics
/// After `time_limit`, with what was waited for.
pub fn until<T>(what: &str, time_limit: Duration, look: impl FnMut() -> Option<T>) -> T {
    within(time_limit, look)
        .unwrap_or_else(|| panic!("waited {:.0} s in vain: {what}", time_limit.as_secs_f64()))
}

/// Asks `look` until it finds something; none when `time_limit` is over.
pub fn within<T>(time_limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let end = Instant::now() + time_limit;
    loop {
        let found = look();
        if found.is_some() || Instant::now() >= end {
            return found;
        }
        thread::sleep(Duration::from_millis(50));
    }
}
