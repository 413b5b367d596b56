//! `tests/run simulation`: schedules in two threads, then each deliberate defect until a schedule catches it.
#![allow(clippy::print_stdout, reason = "a command that reports on its standard output")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use simulation::defects::{ALL, Planted};
use simulation::run;

/// Lines of the trace that are shown of a failure.
const TRACE_LINES: usize = 60;

/// Runs the processor in a simulated world.
#[derive(Parser)]
struct Args {
    /// How many schedules.
    #[arg(long, default_value_t = 10_000)]
    schedules: u64,
    /// Replays the schedule of this seed, and only that.
    #[arg(long)]
    seed: Option<u64>,
    /// The first seed; the clock's where it is left out.
    #[arg(long)]
    base_seed: Option<u64>,
    /// Shows every step of a replayed schedule.
    #[arg(long)]
    trace: bool,
    /// Plants the defect of this number (see the list that a run prints).
    #[arg(long)]
    defect: Option<usize>,
    /// Plants all defects, without the schedules before.
    #[arg(long)]
    only_defects: bool,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    threads: usize,
}

fn main() -> ExitCode {
    let args = Args::parse();
    // A panic of the lane's own is a violation, reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    let planted = args.defect.and_then(|n| ALL.get(n)).map(|(planted, _)| *planted);
    if let Some(seed) = args.seed {
        return replay(seed, planted, args.trace);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    let base = args.base_seed.unwrap_or_else(|| u64::try_from(now % 1_000_000_000).unwrap_or(0) * 100_000);
    println!("base seed {base}");
    let started = Instant::now();
    let mut failed = None;
    if !args.only_defects && planted.is_none() {
        failed = schedules(base, args.schedules, args.threads);
        let seconds = started.elapsed().as_secs_f64();
        match failed {
            None => println!("{} schedules from seed {base} in {seconds:.1} s: all is well", args.schedules),
            Some(seed) => println!("seed {seed} fails, after {seconds:.1} s"),
        }
    }
    if let Some(seed) = failed {
        replay(seed, None, false);
        return ExitCode::FAILURE;
    }
    let caught = defects(base, args.schedules, args.threads, planted);
    let seconds = started.elapsed().as_secs_f64();
    let count = if planted.is_some() { 1 } else { ALL.len() };
    let schedules = if args.only_defects || planted.is_some() { 0 } else { args.schedules };
    let line = serde_json::json!({
        "schedules": schedules, "seconds": (seconds * 10.0).round() / 10.0, "defects": count, "caught": caught,
    });
    println!("{line}");
    if caught == count { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one schedule and says what was wrong with it.
fn replay(seed: u64, planted: Option<Planted>, whole: bool) -> ExitCode {
    let report = run(seed, planted, true);
    let skip = if whole { 0 } else { report.trace.len().saturating_sub(TRACE_LINES) };
    for line in report.trace.iter().skip(skip) {
        println!("{line}");
    }
    if report.violations.is_empty() {
        println!("seed {seed}: all is well, {} calls", report.calls);
        return ExitCode::SUCCESS;
    }
    for violation in &report.violations {
        println!("seed {seed}: {violation}");
    }
    println!("every step: simulation --seed {seed} --trace");
    ExitCode::FAILURE
}

/// Runs the schedules; the first seed that fails, if one does.
fn schedules(base: u64, count: u64, threads: usize) -> Option<u64> {
    let (next, stop, failed) = (AtomicU64::new(0), AtomicBool::new(false), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    if !run(base + n, None, false).violations.is_empty() {
                        stop.store(true, Ordering::Relaxed);
                        if let Ok(mut failed) = failed.lock() {
                            failed.get_or_insert(base + n);
                        }
                    }
                }
            });
        }
    });
    failed.into_inner().ok().flatten()
}

/// Plants each defect until a schedule catches it; how many were caught.
fn defects(base: u64, count: u64, threads: usize, only: Option<Planted>) -> usize {
    let list: Vec<_> =
        ALL.iter().enumerate().filter(|(_, (p, _))| only.is_none_or(|only| only == *p)).collect();
    let (next, caught, lines) = (AtomicUsize::new(0), AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((number, (planted, what))) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Caught is what fails with the defect and passes without it.
                    let found = (base..base + count).find_map(|seed| {
                        let violation = run(seed, Some(*planted), false).violations.into_iter().next()?;
                        run(seed, None, false).violations.is_empty().then_some((seed, violation))
                    });
                    let line = match &found {
                        Some((seed, violation)) => {
                            caught.fetch_add(1, Ordering::Relaxed);
                            let first = violation.lines().next().unwrap_or_default();
                            format!("caught by seed {seed} (number {}): {first}", seed - base + 1)
                        }
                        None => format!("NOT CAUGHT in {count} schedules"),
                    };
                    if let Ok(mut lines) = lines.lock() {
                        lines.push((*number, format!("defect {number:>2} {what}: {line}")));
                    }
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap_or_default();
    lines.sort();
    for (_, line) in lines {
        println!("{line}");
    }
    caught.into_inner()
}
