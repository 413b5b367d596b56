//! The smallest measured pieces: what a webhook costs in ingest and in the processor, step by step, without Kafka.
//!
//! `cargo bench -p hookline-benches --bench micro` measures times by Criterion. `--cases` prints the cases whose
//! instructions are counted, and `--count CASE` does one for callgrind, which counts what is done in [`counted`]. The
//! callers: `benches/run micro` and `benches/run instructions`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a measuring program: what it prints is its output, and a panic is its way to fail"
)]

mod case;
mod checkpoint;
mod codec;
mod extract;
mod fold;
mod signature;
#[path = "../src/webhook.rs"]
#[allow(dead_code, unused_imports, reason = "the webhooks of the other benchmarks, which use more of it")]
mod webhook;
#[path = "../src/workload.rs"]
#[allow(
    dead_code,
    unused_imports,
    reason = "the random numbers of the other benchmarks, which use more of it"
)]
mod workload;

use std::env;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Bencher, Criterion};
use rustix::time::{ClockId, clock_gettime};

use self::case::{Case, Round};

/// As in the programs.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn cases() -> Vec<Case> {
    let all = [signature::cases(), extract::cases(), codec::cases(), fold::cases(), checkpoint::cases()];
    all.into_iter().flatten().collect()
}

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--cases"] => {
            for case in cases().iter().filter(|case| case.is_counted) {
                println!("{} {}", case.name, case.operations);
            }
        }
        ["--count", name] => {
            let case = cases().into_iter().find(|case| case.name == name);
            count(&case.unwrap_or_else(|| panic!("there is no case {name}; see --cases")));
        }
        _ => measure(),
    }
}

/// Does a case twice: the first time fills what stays from one to the next, the second is counted.
fn count(case: &Case) {
    let mut round = case.round();
    round.prepare();
    round.run();
    round.check();
    round.prepare();
    counted(&mut *round);
    round.check();
}

/// callgrind is told this function's name: it counts what is done in here.
#[inline(never)]
fn counted(round: &mut dyn Round) {
    round.run();
    // Not the last thing to be done: the call above must come back to here.
    black_box(());
}

fn measure() {
    let mut criterion = Criterion::default()
        .sample_size(50)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .without_plots()
        .configure_from_args();
    for case in cases() {
        let mut round = None;
        criterion.bench_function(&case.name, |bencher| {
            time(bencher, round.get_or_insert_with(|| case.round()).as_mut(), case.operations);
        });
        if let Some(mut round) = round {
            round.check();
        }
    }
    criterion.final_summary();
}

/// Criterion asks for a number of operations, and gets the time of so many: whole rounds are done, and their time is
/// taken in proportion. It is processor time, which others that work on the machine change less.
fn time(bencher: &mut Bencher<'_>, round: &mut dyn Round, operations: u64) {
    bencher.iter_custom(|wanted| {
        let rounds = wanted.div_ceil(operations);
        let mut all = Duration::ZERO;
        for _ in 0..rounds {
            round.prepare();
            let started = processor_time();
            round.run();
            all += processor_time() - started;
        }
        all.mul_f64(wanted as f64 / (rounds * operations) as f64)
    });
}

/// Of all threads so far: sled has some.
fn processor_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().expect("a time that rises")
}
