//! Real faults: programs and servers are killed, stopped, moved and damaged under a steady load, one fault after the
//! other, in an order from a seed. An oracle that knows what was answered with 200 then reads the sink.
//!
//! The data's way: `faults.rs` names each fault and does it to the `world.rs`, which waits until all works again;
//! `oracle.rs` compares in the end. Run by `tests/run faults` and `tests/run soak`.

#![allow(clippy::print_stdout, reason = "a program: its report goes to standard output")]
#![allow(clippy::expect_used, reason = "a test: a panic is its way to fail")]

mod damage;
mod faults;
mod oracle;
mod world;

use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use sandbox::rng::Rng;

use crate::faults::{Fault, all};
use crate::world::World;

/// Breaks the built programs and their servers under load, and checks what came of it
#[derive(Parser)]
struct Args {
    /// The order of the faults, and all else that is drawn; the clock's where it is left out
    #[arg(long)]
    seed: Option<u64>,
    /// Only so many of the faults
    #[arg(long)]
    share: Option<usize>,
    /// Faults at random, until so many minutes are over
    #[arg(long, conflicts_with = "share")]
    minutes: Option<u64>,
    /// Only the faults whose names contain this
    #[arg(long)]
    only: Option<String>,
    /// Says what faults there are
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let faults = all();
    if args.list {
        for fault in &faults {
            println!("{:<28} {}", fault.name, fault.what);
        }
        return ExitCode::SUCCESS;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_millis();
    let seed = args.seed.unwrap_or_else(|| u64::try_from(now % 1_000_000_000).unwrap_or(0));
    println!("seed {seed}");
    let started = Instant::now();
    let mut world = World::start(seed);
    println!("{:>6.1} s: three brokers, PostgreSQL, ingest and two instances are up", seconds(started));
    let mut done = 0;
    for fault in plan(&args, faults, seed, started) {
        println!("{:>6.1} s: {}: {}", seconds(started), fault.name, fault.what);
        (fault.inject)(&mut world);
        world.settle();
        done += 1;
    }
    let took = seconds(started);
    let found = oracle::judge(world);
    for line in &found.differences {
        println!("{line}");
    }
    println!(
        "{}",
        serde_json::json!({
            "acknowledged": found.acknowledged, "applied": found.applied, "lost": found.lost,
            "twice": found.twice, "out_of_order": found.out_of_order, "other": found.other,
            "faults": done, "seconds": (took * 10.0).round() / 10.0, "seed": seed,
        })
    );
    if found.is_right() && done > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The faults to come, in their order: each once, or drawn until the time is over.
fn plan(args: &Args, mut faults: Vec<Fault>, seed: u64, started: Instant) -> Box<dyn Iterator<Item = Fault>> {
    let mut rng = Rng::new(seed);
    if let Some(only) = &args.only {
        faults.retain(|fault| fault.name.contains(only));
    }
    rng.shuffle(&mut faults);
    match args.minutes {
        Some(minutes) => {
            let end = started + Duration::from_secs(60 * minutes);
            let draw = move || (Instant::now() < end).then(|| rng.pick(&faults).clone());
            Box::new(std::iter::from_fn(draw))
        }
        None => Box::new(faults.into_iter().take(args.share.unwrap_or(usize::MAX))),
    }
}

fn seconds(since: Instant) -> f64 {
    since.elapsed().as_secs_f64()
}
