//! `instructions`: how many instructions the cases of `benches/micro/` take, counted by callgrind, against the counts that
//! are kept in the repository. They are the same from run to run, also where others work on the machine.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::{env, fs, thread};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::micro;

/// Where the counts are kept.
const KEPT: &str = "benches/results/instructions.json";
/// So many per cent more than what is kept is a regression.
const MORE_PER_CENT_MAX: f64 = 3.0;
/// jemalloc gives memory back by the clock, to itself and to the system, and has arenas by the cores. Here it does not.
const ALLOCATOR: &str = "dirty_decay_ms:-1,muzzy_decay_ms:-1,narenas:1,experimental_tcache_gc:false,\
    tcache_gc_incr_bytes:1099511627776";
/// The source of the library that makes random numbers the same.
const SAME_RANDOM: &str = "benches/micro/same_random.c";

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Only the cases whose names contain this, such as `fold/`.
    only: Option<String>,
    /// Keeps the counts, instead of comparing them with those that are kept.
    #[arg(long)]
    keep: bool,
}

/// What was counted.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    #[serde(flatten)]
    counts: Counts,
}

/// Counts, and what they are true for.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
struct Counts {
    /// Another compiler makes other instructions.
    compiler: String,
    /// Instructions of one operation, by case.
    instructions: BTreeMap<String, f64>,
}

/// A case of the program.
struct Case {
    name: String,
    operations: f64,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    let program = micro::built()?;
    let cases = cases(&program, options.only.as_deref().unwrap_or_default())?;
    let counts = Counts { compiler: compiler()?, instructions: count_all(&program, &cases)? };
    if options.keep {
        keep(&counts, options.only.is_none())?;
    } else {
        compare(&counts, options.only.is_none())?;
    }
    Ok(Figures { name: "instructions", counts })
}

fn cases(program: &Path, only: &str) -> anyhow::Result<Vec<Case>> {
    let output = Command::new(program).arg("--cases").output().context("the cases cannot be started")?;
    ensure!(output.status.success(), "the cases do not say their names: {}", output.status);
    let text = String::from_utf8(output.stdout)?;
    let case = |line: &str| {
        let (name, operations) = line.split_once(' ')?;
        Some(Case { name: name.to_owned(), operations: operations.parse().ok()? })
    };
    let cases = text.lines().map(|line| case(line).with_context(|| format!("{line}: not a case")));
    let mut cases = cases.collect::<anyhow::Result<Vec<Case>>>()?;
    cases.retain(|case| case.name.contains(only));
    ensure!(!cases.is_empty(), "no case has {only:?} in its name");
    Ok(cases)
}

/// The compiler and what it compiles for, in its own words.
fn compiler() -> anyhow::Result<String> {
    let output = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let line = |start: &str| text.lines().find_map(|line| line.strip_prefix(start)).map(str::to_owned);
    let (release, host) = line("release: ").zip(line("host: ")).context("rustc does not say what it is")?;
    Ok(format!("rustc {release}, {host}"))
}

/// Counts all cases, as many at a time as there are cores.
fn count_all(program: &Path, cases: &[Case]) -> anyhow::Result<BTreeMap<String, f64>> {
    let scratch = tempfile::tempdir()?;
    let same_random = scratch.path().join("same_random.so");
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&same_random)
        .arg(SAME_RANDOM)
        .status();
    ensure!(status.context("cc cannot be started")?.success(), "{SAME_RANDOM} cannot be compiled");
    let left = Mutex::new(cases.iter());
    let counts = Mutex::new(BTreeMap::new());
    let next = || left.lock().expect("the cases").next();
    let work = || -> anyhow::Result<()> {
        while let Some(case) = next() {
            let count = count(program, case, &same_random)?;
            println!("{:40} {count:>14.1}", case.name);
            counts.lock().expect("the counts").insert(case.name.clone(), count);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let workers: Vec<_> =
            (0..thread::available_parallelism().map_or(1, Into::into)).map(|_| scope.spawn(work)).collect();
        workers.into_iter().try_for_each(|worker| worker.join().expect("a worker"))
    })?;
    Ok(counts.into_inner().expect("the counts"))
}

/// The instructions of one operation, of all threads while the case is done.
fn count(program: &Path, case: &Case, same_random: &Path) -> anyhow::Result<f64> {
    let file = same_random.with_file_name(case.name.replace('/', "-"));
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--toggle-collect=micro::counted*"])
        .arg(format!("--callgrind-out-file={}", file.display()))
        .arg(program)
        .args(["--count", &case.name])
        // What is in the environment moves the stack.
        .env_clear()
        .env("PATH", env::var_os("PATH").unwrap_or_default())
        .env("LD_PRELOAD", same_random)
        .env("MALLOC_CONF", ALLOCATOR)
        .stdin(Stdio::null())
        .output()
        .context("valgrind cannot be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{} under valgrind: {}\n{said}", case.name, output.status);
    let text = fs::read_to_string(&file).with_context(|| format!("callgrind wrote nothing\n{said}"))?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: ")?.trim().parse::<f64>().ok());
    let total = total.filter(|total| *total > 0.0);
    let total = total.with_context(|| format!("callgrind counted nothing of {}\n{said}", case.name))?;
    Ok((total / case.operations * 10.0).round() / 10.0)
}

/// Writes the counts; those of cases that were not asked for stay.
fn keep(counts: &Counts, all: bool) -> anyhow::Result<()> {
    let mut instructions = BTreeMap::new();
    if !all {
        let kept = kept()?;
        ensure!(kept.compiler == counts.compiler, "{KEPT} is of {}: keep all cases anew", kept.compiler);
        instructions = kept.instructions;
    }
    instructions.extend(counts.instructions.clone());
    let counts = Counts { compiler: counts.compiler.clone(), instructions };
    let text = serde_json::to_string_pretty(&counts)? + "\n";
    fs::write(KEPT, text).with_context(|| format!("{KEPT} cannot be written"))
}

fn kept() -> anyhow::Result<Counts> {
    let path = PathBuf::from(KEPT);
    let text =
        fs::read_to_string(&path).with_context(|| format!("{KEPT} cannot be read: --keep writes it"))?;
    serde_json::from_str(&text).with_context(|| format!("{KEPT} is not what --keep writes"))
}

/// Fails, with a table, where a case needs more than what is kept, or is not kept.
fn compare(counts: &Counts, all: bool) -> anyhow::Result<()> {
    let kept = kept()?;
    ensure!(
        kept.compiler == counts.compiler,
        "{KEPT} is of {}, and this is {}: no comparison; count what the change is made from with this one (--keep), \
         and then the change",
        kept.compiler,
        counts.compiler
    );
    let wrong = table(&kept.instructions, &counts.instructions, all);
    ensure!(
        wrong.is_empty(),
        "more instructions than {KEPT} has; if that is meant, keep them: benches/run instructions --keep\n{wrong}"
    );
    println!("no case needs {MORE_PER_CENT_MAX} % more than what is kept");
    Ok(())
}

/// The cases that need too much more, are new, or are gone; empty where there are none.
fn table(kept: &BTreeMap<String, f64>, now: &BTreeMap<String, f64>, all: bool) -> String {
    let mut rows = String::new();
    for (name, now) in now {
        match kept.get(name).map(|kept| (kept, (now / kept - 1.0) * 100.0)) {
            Some((_, change)) if change <= MORE_PER_CENT_MAX => {}
            Some((kept, change)) => {
                let _ = writeln!(rows, "{name:40} {kept:>14.1} {now:>14.1} {change:>+8.1} %");
            }
            None => {
                let _ = writeln!(rows, "{name:40} {:>14} {now:>14.1}", "-");
            }
        }
    }
    for (name, kept) in kept.iter().filter(|(name, _)| all && !now.contains_key(*name)) {
        let _ = writeln!(rows, "{name:40} {kept:>14.1} {:>14}", "-");
    }
    if rows.is_empty() {
        return rows;
    }
    format!("{:40} {:>14} {:>14} {:>8}\n{rows}", "case", "kept", "now", "change")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(cases: &[(&str, f64)]) -> BTreeMap<String, f64> {
        cases.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    }

    #[test]
    fn more_than_three_per_cent_a_new_case_and_a_lost_one_are_told() {
        let kept = counts(&[("less", 100.0), ("little", 1_000.0), ("more", 1_000.0), ("gone", 5.0)]);
        let now = counts(&[("less", 10.0), ("little", 1_029.0), ("more", 1_031.0), ("new", 7.0)]);
        let rows = |all| {
            let table = table(&kept, &now, all);
            let names = table.lines().skip(1).filter_map(|line| line.split_whitespace().next());
            names.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(rows(true), ["more", "new", "gone"]);
        assert_eq!(rows(false), ["more", "new"]);
        assert_eq!(table(&kept, &kept, true), "");
        assert!(table(&kept, &now, true).contains("+3.1 %"));
    }
}
