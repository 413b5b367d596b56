//! `tests/run simulation`: schedules in two threads, then each deliberate defect until a schedule catches it.
//! The last line is JSON; the exit code is 1 where a schedule fails or a defect is not caught.
#![allow(clippy::print_stdout, reason = "a command that reports on its standard output")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use simulation::defects::{ALL, Planted};
use simulation::plan::Plan;
use simulation::shrink::shrink;
use simulation::{Report, run, run_plan};

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
    /// Does not cut a failing schedule down.
    #[arg(long)]
    as_drawn: bool,
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
    let planted = match args.defect.map(|n| ALL.get(n)) {
        Some(None) => {
            println!("there are the defects 0 to {}", ALL.len() - 1);
            return ExitCode::from(2);
        }
        Some(Some((planted, _))) => Some(*planted),
        None => None,
    };
    match args.seed {
        Some(seed) => replay(seed, planted, &args),
        None => suite(planted, &args),
    }
}

/// The schedules, then the defects. The last line is JSON.
fn suite(planted: Option<Planted>, args: &Args) -> ExitCode {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    let base = args.base_seed.unwrap_or_else(|| u64::try_from(now % 1_000_000_000).unwrap_or(0) * 100_000);
    let started = Instant::now();
    let count = if args.only_defects || planted.is_some() { 0 } else { args.schedules };
    println!("{count} schedules of seeds {base} to {}", base + count.saturating_sub(1));
    let (played, failed) = schedules(base, count, args.threads);
    let list: Vec<_> = match failed {
        Some(seed) => {
            replay(seed, None, args);
            Vec::new()
        }
        None => ALL.iter().enumerate().filter(|(_, (p, _))| planted.is_none_or(|only| only == *p)).collect(),
    };
    if count > 0 && failed.is_none() {
        println!("all is well, in {:.1} s", started.elapsed().as_secs_f64());
    }
    let caught = defects(&list, base, args.schedules, args.threads);
    let seconds = (started.elapsed().as_secs_f64() * 10.0).round() / 10.0;
    let line = serde_json::json!({
        "schedules": played, "seconds": seconds, "defects": list.len(), "caught": caught,
    });
    println!("{line}");
    if failed.is_none() && caught == list.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs one schedule and says what was wrong with it; one that fails is cut down first.
fn replay(seed: u64, planted: Option<Planted>, args: &Args) -> ExitCode {
    let drawn = Plan::draw(seed, planted);
    let report = run_plan(drawn.clone(), seed, true);
    let Some(first) = report.violations.first() else {
        show(&report, if args.trace { usize::MAX } else { 0 });
        println!("seed {seed}: all is well, {} calls", report.calls);
        return ExitCode::SUCCESS;
    };
    println!("seed {seed} fails: {first}");
    let (plan, report) = if args.as_drawn { (drawn, report) } else { shrink(seed, drawn) };
    println!(
        "{}: {plan}",
        if args.as_drawn { "as drawn" } else { "cut down as far as the same rule is broken" }
    );
    show(&report, if args.trace { usize::MAX } else { TRACE_LINES });
    for violation in &report.violations {
        println!("seed {seed}: {violation}");
    }
    let defect = args.defect.map(|n| format!(" --defect {n}")).unwrap_or_default();
    println!("every step: tests/run simulation -- --seed {seed}{defect} --trace");
    ExitCode::FAILURE
}

fn show(report: &Report, lines: usize) {
    // A turn in which nothing happened tells nothing.
    let is_turn =
        |n: usize| report.trace.get(n).is_some_and(|line: &String| line.contains(" turn of process"));
    let told: Vec<usize> = (0..report.trace.len()).filter(|n| !(is_turn(*n) && is_turn(n + 1))).collect();
    for line in told.iter().skip(told.len().saturating_sub(lines)).filter_map(|n| report.trace.get(*n)) {
        println!("{line}");
    }
}

/// Runs the schedules, until one fails: how many, and the seed that failed.
fn schedules(base: u64, count: u64, threads: usize) -> (u64, Option<u64>) {
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
    (next.into_inner().min(count), failed.into_inner().ok().flatten())
}

/// Plants each defect until a schedule catches it; how many were caught.
fn defects(list: &[(usize, &(Planted, &str))], base: u64, count: u64, threads: usize) -> usize {
    let (next, lines) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while let Some((number, (planted, what))) = list.get(next.fetch_add(1, Ordering::Relaxed)) {
                    // Caught is what fails with the defect and passes without it.
                    let found = (base..base + count).find_map(|seed| {
                        let violation = run(seed, Some(*planted), false).violations.into_iter().next()?;
                        run(seed, None, false).violations.is_empty().then_some((seed, violation.rule))
                    });
                    if let Ok(mut lines) = lines.lock() {
                        lines.push((*number, *what, found));
                    }
                }
            });
        }
    });
    let mut lines = lines.into_inner().unwrap_or_default();
    lines.sort_by_key(|(number, ..)| *number);
    for (number, what, found) in &lines {
        match found {
            Some((seed, rule)) => {
                println!(
                    "defect {number:>2} {what}: caught by seed {seed} (number {}): {rule}",
                    seed - base + 1
                );
            }
            None => println!("defect {number:>2} {what}: NOT CAUGHT in {count} schedules"),
        }
    }
    lines.iter().filter(|(_, _, found)| found.is_some()).count()
}
