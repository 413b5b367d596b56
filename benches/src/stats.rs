//! Medians, spreads and slopes of measured values.

use std::fmt;

use serde::Serialize;

/// The middle of some runs, and how far they are apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (values[0], values[values.len() - 1]);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Self { median: round(median), min: round(min), max: round(max) }
    }
}

/// Latencies of one run, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Percentiles {
    pub(crate) events: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) p999_ms: f64,
    pub(crate) max_ms: f64,
}

impl Percentiles {
    /// An error where there is no value.
    pub(crate) fn of(mut millis: Vec<f64>) -> anyhow::Result<Self> {
        anyhow::ensure!(!millis.is_empty(), "nothing was measured");
        millis.sort_by(f64::total_cmp);
        let at = |part: f64| round(millis[((millis.len() - 1) as f64 * part) as usize]);
        Ok(Self {
            events: millis.len(),
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: at(1.0),
        })
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { events, p50_ms, p99_ms, p999_ms, max_ms } = self;
        write!(
            f,
            "{events} events: p50 {p50_ms} ms, p99 {p99_ms} ms, p99.9 {p999_ms} ms, at most {max_ms} ms"
        )
    }
}

/// What the runs of one side have in the middle, and how far they are apart.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct PercentilesSpread {
    pub(crate) p50_ms: Spread,
    pub(crate) p99_ms: Spread,
    pub(crate) p999_ms: Spread,
    pub(crate) max_ms: Spread,
}

impl PercentilesSpread {
    /// Of at least one run.
    pub(crate) fn of(runs: &[Percentiles]) -> Self {
        let spread = |value: fn(&Percentiles) -> f64| Spread::of(runs.iter().map(value));
        Self {
            p50_ms: spread(|run| run.p50_ms),
            p99_ms: spread(|run| run.p99_ms),
            p999_ms: spread(|run| run.p999_ms),
            max_ms: spread(|run| run.max_ms),
        }
    }
}

impl fmt::Display for PercentilesSpread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50_ms, p99_ms, p999_ms, max_ms } = self;
        let names = [("p50", p50_ms), ("p99", p99_ms), ("p99.9", p999_ms), ("at most", max_ms)];
        for (n, (name, Spread { median, min, max })) in names.into_iter().enumerate() {
            let comma = if n > 0 { ", " } else { "" };
            write!(f, "{comma}{name} {median} ms (from {min} to {max})")?;
        }
        Ok(())
    }
}

/// Two digits after the point are more than any of these figures is good for.
pub(crate) fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

/// The slope of the least-squares line through the points; 0 for less than two.
pub(crate) fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(Spread::of([4.0, 1.0, 3.0, 2.0]), Spread { median: 2.5, min: 1.0, max: 4.0 });
        assert_eq!(Spread::of([7.0]), Spread { median: 7.0, min: 7.0, max: 7.0 });
    }

    #[test]
    fn a_percentile_is_the_value_that_so_many_do_not_exceed() {
        let found = Percentiles::of((0..=1_000).rev().map(f64::from).collect()).unwrap();
        let expected =
            Percentiles { events: 1_001, p50_ms: 500.0, p99_ms: 990.0, p999_ms: 999.0, max_ms: 1_000.0 };
        assert_eq!(found, expected);
        Percentiles::of(Vec::new()).unwrap_err();
    }

    #[test]
    fn the_slope_is_that_of_a_line() {
        let points: Vec<(f64, f64)> = (0..10).map(|n| (f64::from(n), 3.0 + 2.0 * f64::from(n))).collect();
        assert!((slope(&points) - 2.0).abs() < 1e-9);
        assert!(slope(&points[..1]).abs() < 1e-9);
    }
}
