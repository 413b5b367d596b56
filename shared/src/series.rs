//! Connections that have metrics of their own. Each costs whoever collects metrics: so there is a limit, and beyond it
//! the newest are left out and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use metrics::Gauge;

/// Connections with metrics of their own, in one process.
pub const SERIES_MAX: usize = 10_000;

/// Source and connection, and how many hold a place for it.
type Places = HashMap<(String, String), usize>;

/// The places of a process.
pub struct Series {
    max: usize,
    places: Mutex<[Places; 2]>,
    left_out: Gauge,
}

/// A connection's place, or that it has none; given back when it is dropped.
pub struct Place {
    series: Arc<Series>,
    key: (String, String),
    is_kept: bool,
}

impl Series {
    /// Up to [`SERIES_MAX`] connections; `left_out` shows how many more there are.
    #[must_use]
    pub fn new(left_out: Gauge) -> Arc<Self> {
        Self::up_to(SERIES_MAX, left_out)
    }

    fn up_to(max: usize, left_out: Gauge) -> Arc<Self> {
        left_out.set(0.0);
        Arc::new(Self { max, places: Mutex::default(), left_out })
    }

    /// A place for a connection. Who has one, or has none, keeps to it while anybody holds it.
    #[must_use]
    pub fn place(self: &Arc<Self>, source: &str, connection: &str) -> Place {
        let key = (source.to_owned(), connection.to_owned());
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let [kept, left_out] = &mut *places;
        let is_kept = kept.contains_key(&key) || kept.len() < self.max && !left_out.contains_key(&key);
        *(if is_kept { kept } else { &mut *left_out }).entry(key.clone()).or_default() += 1;
        self.left_out.set(left_out.len() as f64);
        drop(places);
        Place { series: Arc::clone(self), key, is_kept }
    }
}

impl Place {
    /// Whether the connection has metrics of its own.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.is_kept
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut places = self.series.places.lock().unwrap_or_else(PoisonError::into_inner);
        let [kept, left_out] = &mut *places;
        let of = if self.is_kept { kept } else { &mut *left_out };
        if let Some(holders) = of.get_mut(&self.key) {
            *holders -= 1;
            if *holders == 0 {
                of.remove(&self.key);
            }
        }
        self.series.left_out.set(left_out.len() as f64);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn the_newest_are_left_out_and_counted_until_there_is_room() {
        let shown = Arc::new(AtomicU64::new(0));
        let left_out = || f64::from_bits(shown.load(Ordering::Relaxed));
        let series = Series::up_to(2, Gauge::from_arc(Arc::clone(&shown)));
        let a = series.place("s", "a");
        let a_again = series.place("s", "a");
        let b = series.place("s", "b");
        let [c, d] = ["c", "d"].map(|connection| series.place("s", connection));
        assert!(a.is_kept() && a_again.is_kept() && b.is_kept() && !c.is_kept() && !d.is_kept());
        assert_eq!(left_out(), 2.0);
        drop(a);
        // Somebody still holds it.
        assert!(!series.place("s", "e").is_kept());
        assert_eq!(left_out(), 2.0);
        drop((a_again, c));
        assert_eq!(left_out(), 1.0);
        assert!(series.place("s", "e").is_kept() && !series.place("s", "d").is_kept());
    }
}
