//! What grew during the run, in figures and in words.

use std::fmt::Write as _;
use std::time::Duration;

use serde::Serialize;

use super::restarts::Restart;
use super::sample::{COLUMNS, Sample};
use super::sender::Sent;
use super::{ENTITIES, GAP_WAIT, Options, WINDOW};
use crate::stats::{round, slope};

/// After a restart a program fills its buffers and caches; that is not growth.
const SETTLE_SECONDS_MAX: f64 = 30.0;
const HOUR: f64 = 3600.0;

/// How one column changed after the warm-up.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Growth {
    what: &'static str,
    /// The mean of the first and of the last fifth.
    first: f64,
    last: f64,
    max: f64,
    /// Of the least-squares line through all.
    slope_per_hour: f64,
    /// The mean of the slopes between two restarts of a program: growth that its restarts would hide.
    slope_per_hour_between_restarts: f64,
}

/// The part of the run in which sizes are still coming up to their level.
pub(super) fn warm_up(duration: Duration) -> Duration {
    (duration / 6).max(Duration::from_secs(10))
}

/// Each column's growth.
pub(super) fn growth(samples: &[Sample], restarts: &[Restart], warm_up: Duration) -> Vec<Growth> {
    let settle = (warm_up.as_secs_f64() / 4.0).min(SETTLE_SECONDS_MAX);
    COLUMNS
        .iter()
        .map(|(what, value)| {
            // A column is its program's; the others belong to the processor.
            let program = if what.starts_with("ingest") { "ingest" } else { "processor" };
            let ends: Vec<f64> =
                restarts.iter().filter(|r| r.program == program).map(|r| r.at_seconds).collect();
            let settled = |at: f64| !ends.iter().any(|end| (*end..*end + settle).contains(&at));
            let points: Vec<(f64, f64)> = samples
                .iter()
                .filter(|s| s.at_seconds >= warm_up.as_secs_f64() && settled(s.at_seconds))
                .filter_map(|s| Some((s.at_seconds / HOUR, value(s)?)))
                .collect();
            Growth::of(what, &points, &ends)
        })
        .collect()
}

impl Growth {
    fn of(what: &'static str, points: &[(f64, f64)], ends: &[f64]) -> Self {
        let mean = |points: &[(f64, f64)]| {
            points.iter().map(|(_, y)| y).sum::<f64>() / (points.len() as f64).max(1.0)
        };
        let fifth = points.len().div_ceil(5);
        let life = |x: f64| ends.iter().filter(|end| **end < x * HOUR).count();
        let lives: Vec<f64> =
            points.chunk_by(|a, b| life(a.0) == life(b.0)).filter(|l| l.len() > 2).map(slope).collect();
        Self {
            what,
            first: round(mean(&points[..fifth])),
            last: round(mean(&points[points.len() - fifth..])),
            max: round(points.iter().map(|(_, y)| *y).fold(0.0, f64::max)),
            slope_per_hour: round(slope(points)),
            slope_per_hour_between_restarts: round(lives.iter().sum::<f64>() / (lives.len() as f64).max(1.0)),
        }
    }
}

/// The summary for people.
pub(super) fn text(
    options: &Options,
    sent: &Sent,
    growth: &[Growth],
    restarts: &[Restart],
    warm_up: Duration,
) -> String {
    let mut out = format!(
        "{} minutes at {} webhooks/s with 5 % repeats and 5 % disorder over {ENTITIES} entities, window {WINDOW}, \
         gap wait {GAP_WAIT}, PostgreSQL sink.\n{} accepted ({} different), all applied once and in order; \
         processor verify agrees. {} attempts were repeated.\n\nAfter a warm-up of {:.0} s:\n\n",
        options.minutes,
        options.rate,
        sent.accepted,
        sent.distinct,
        sent.attempts_failed,
        warm_up.as_secs_f64()
    );
    let _ = writeln!(
        out,
        "{:<28} {:>11} {:>11} {:>11} {:>13} {:>17}",
        "", "first fifth", "last fifth", "most", "slope an hour", "between restarts"
    );
    for g in growth {
        let _ = writeln!(
            out,
            "{:<28} {:>11} {:>11} {:>11} {:>13} {:>17}",
            g.what, g.first, g.last, g.max, g.slope_per_hour, g.slope_per_hour_between_restarts
        );
    }
    let _ = writeln!(out, "\nRestarts:");
    for r in restarts {
        let _ = writeln!(
            out,
            "{:>6.0} s  {:<9} {}, ready after {:.1} s",
            r.at_seconds, r.program, r.signal, r.ready_after_seconds
        );
    }
    out.push_str(
        "\nThe journal is a saw: each checkpoint adds to it, each snapshot lets Kafka delete whole segments. The log \
         and the sink's tables keep everything, and are not in the table.\n",
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_seconds: f64, sled_bytes: f64) -> Sample {
        Sample { at_seconds, sled_bytes, ..Sample::default() }
    }

    fn restart(at_seconds: f64) -> Restart {
        Restart { at_seconds, program: "processor", signal: "SIGKILL", ready_after_seconds: 1.0 }
    }

    fn sled(samples: &[Sample], restarts: &[Restart]) -> Growth {
        let all = growth(samples, restarts, Duration::from_secs(100));
        all.into_iter().find(|g| g.what == "sled, MB").unwrap()
    }

    #[test]
    fn growth_before_the_warm_up_does_not_count() {
        let samples: Vec<Sample> =
            (0..200).map(|n| sample(f64::from(n) * 5.0, f64::from(n.min(20)) * 1e6)).collect();
        let sled = sled(&samples, &[]);
        assert_eq!((sled.first, sled.last), (20.0, 20.0));
        assert!(sled.slope_per_hour.abs() < 0.01);
    }

    #[test]
    fn growth_that_restarts_hide_is_seen_between_them() {
        // 1 MB in 5 s, back to nothing every 250 s.
        let samples: Vec<Sample> =
            (0..200).map(|n| sample(f64::from(n) * 5.0, f64::from(n % 50) * 1e6)).collect();
        let restarts: Vec<Restart> = (1..4).map(|n| restart(f64::from(n) * 250.0 - 1.0)).collect();
        let sled = sled(&samples, &restarts);
        assert!((sled.slope_per_hour_between_restarts - 720.0).abs() < 1.0, "{sled:?}");
    }
}
