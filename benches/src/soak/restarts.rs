//! Restarts the programs in turn, in order (SIGTERM) and not (kill -9).

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hookline_tests::process::Program;
use serde::Serialize;

/// A restart every so often, and at least so many in a short run.
const INTERVAL: Duration = Duration::from_secs(180);
const RESTARTS_MIN: u32 = 5;

/// One restart.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Restart {
    pub(super) at_seconds: f64,
    pub(super) program: &'static str,
    pub(super) signal: &'static str,
    /// From the signal to the new process's readiness.
    pub(super) ready_after_seconds: f64,
}

/// Restarts them until `duration` is nearly over; returns them, running.
///
/// # Panics
/// When one does not end in order after SIGTERM, or does not become ready again.
pub(super) fn run(
    mut ingest: Program,
    mut processor: Program,
    started: Instant,
    duration: Duration,
    over: &AtomicBool,
) -> (Vec<Restart>, Program, Program) {
    let interval = INTERVAL.min(duration / (RESTARTS_MIN + 1));
    let mut restarts = Vec::new();
    let mut next = interval;
    while !over.load(Ordering::Acquire) {
        thread::sleep(Duration::from_millis(100));
        // The last one leaves time to settle before the end.
        if started.elapsed() < next || next + interval / 2 > duration {
            continue;
        }
        let turn = restarts.len();
        let (name, program) =
            if turn.is_multiple_of(2) { ("processor", &mut processor) } else { ("ingest", &mut ingest) };
        let signal = if turn % 4 < 2 { "SIGTERM" } else { "SIGKILL" };
        let (at_seconds, since) = (started.elapsed().as_secs_f64(), Instant::now());
        if signal == "SIGTERM" {
            assert!(program.terminate().success(), "{name} did not stop in order");
        } else {
            program.kill();
        }
        program.spawn();
        program.wait_ready();
        let ready_after_seconds = since.elapsed().as_secs_f64();
        println!("{name}: {signal} at {at_seconds:.0} s, ready after {ready_after_seconds:.1} s");
        restarts.push(Restart { at_seconds, program: name, signal, ready_after_seconds });
        next += interval;
    }
    (restarts, ingest, processor)
}
