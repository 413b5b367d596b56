//! `flamegraph`: where the time of a program goes, as an SVG: perf looks on while one of the other benchmarks runs, and
//! inferno draws what it saw.
//!
//! perf takes the stacks apart by the tables that every Rust program has for panics, so what is looked at is what is
//! shipped, without frame pointers. It is told the time by a clock, not by the processor's counters, which virtual
//! machines often lack.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::{env, fs, thread};

use anyhow::{Context as _, ensure};
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::Value;

use crate::usage::Usage;
use crate::{ingest, processor, usage};

/// How often a second perf looks at each running thread: not in step with what happens once in a millisecond.
const LOOKS_PER_SECOND: &str = "499";
/// So much of a stack is taken each time, in bytes.
const STACK: &str = "dwarf,16384";
/// How often it is looked for a new process.
const INTERVAL: Duration = Duration::from_millis(20);
/// Not before a process has used so much processor time, in seconds, is it looked at: threads that begin while perf comes
/// are not seen, and by then all have begun.
const BEGUN: f64 = 0.3;
/// What is taken over of each stack: not for how long it stands, so that each counts as one.
const FIELDS: &str = "comm,tid,time,event,ip,sym,dso";
/// Fewer stacks than this say nothing.
const STACKS_MIN: u64 = 500;

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    #[command(subcommand)]
    program: Program,
    /// The directory of the SVG.
    #[arg(long, global = true, default_value = "benches/results")]
    out: PathBuf,
}

/// Whose time, and the options of the benchmark that it runs in.
#[derive(Subcommand)]
enum Program {
    /// Of `ingest serve`, from its start on.
    Ingest(ingest::Options),
    /// Of `processor run`, in the last of the runs.
    Processor(processor::Options),
}

/// What was seen.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    program: &'static str,
    /// Stacks that perf took.
    stacks: u64,
    svg: PathBuf,
    /// Of the benchmark that ran. perf takes time too, so they are lower than without it.
    figures: Value,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    let scratch = tempfile::tempdir()?;
    let ended = AtomicBool::new(false);
    let (program, bench): (_, &(dyn Fn() -> anyhow::Result<Value> + Sync)) = match &options.program {
        Program::Ingest(own) => ("ingest", &|| Ok(serde_json::to_value(ingest::run(own)?)?)),
        Program::Processor(own) => ("processor", &|| Ok(serde_json::to_value(processor::run(own)?)?)),
    };
    let (figures, recorded) = thread::scope(|scope| {
        let watch = scope.spawn(|| watch(program, scratch.path(), &ended));
        let figures = bench();
        ended.store(true, Ordering::Relaxed);
        (figures, watch.join().expect("the watching thread"))
    });
    let (figures, recorded) = (figures?, recorded?);
    let folded = scratch.path().join("folded");
    let stacks = fold(&recorded, &folded)?;
    ensure!(stacks >= STACKS_MIN, "perf took {stacks} stacks only: let the benchmark run for longer");
    let svg = options.out.join(format!("flamegraph-{program}.svg"));
    draw(&folded, &svg, program)?;
    println!("{stacks} stacks of {program} in {}", svg.display());
    Ok(Figures { name: "flamegraph", program, stacks, svg, figures })
}

/// Lets perf look at each process of the program that the benchmark starts. Returns what it saw of the last one.
fn watch(program: &str, scratch: &Path, ended: &AtomicBool) -> anyhow::Result<PathBuf> {
    let mut last: Option<(u32, PathBuf)> = None;
    let mut perfs = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let begun =
            usage::child(program).filter(|pid| Usage::of(*pid).is_some_and(|u| u.cpu_seconds >= BEGUN));
        match begun {
            Some(pid) if last.as_ref().is_none_or(|(seen, _)| *seen != pid) => {
                let file = scratch.join(format!("perf-{pid}"));
                perfs.push(record(pid, &file)?);
                last = Some((pid, file));
            }
            Some(_) | None => thread::sleep(INTERVAL),
        }
    }
    // Each ends with its process.
    for mut perf in perfs {
        perf.wait()?;
    }
    let (_, file) = last.with_context(|| format!("the benchmark's {program} did nothing for {BEGUN} s"))?;
    ensure!(
        file.exists(),
        "perf has written nothing: may it look at processes? try: perf stat -e cpu-clock true"
    );
    Ok(file)
}

fn record(pid: u32, file: &Path) -> anyhow::Result<Child> {
    Command::new("perf")
        .args(["record", "-q", "-e", "cpu-clock", "-F", LOOKS_PER_SECOND, "--call-graph", STACK])
        .args(["-p", &pid.to_string(), "-o"])
        .arg(file)
        .stdout(Stdio::null())
        .spawn()
        .context("perf cannot be started")
}

/// Counts equal stacks; returns how many there are in all.
fn fold(recorded: &Path, folded: &Path) -> anyhow::Result<u64> {
    // Without the names of inlined functions, which take minutes.
    let mut script = Command::new("perf")
        .args(["script", "--no-inline", "-F", FIELDS, "-i"])
        .arg(recorded)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("perf cannot be started")?;
    let stacks: ChildStdout = script.stdout.take().context("perf's output")?;
    let status = inferno("collapse-perf").stdin(stacks).stdout(File::create(folded)?).status()?;
    ensure!(script.wait()?.success() && status.success(), "the stacks cannot be counted");
    let text = fs::read_to_string(folded)?;
    Ok(text.lines().filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum())
}

fn draw(folded: &Path, svg: &Path, program: &str) -> anyhow::Result<()> {
    let file = File::create(svg).with_context(|| format!("{} cannot be written", svg.display()))?;
    let title = format!("processor time of {program}, by thread and function");
    // What is thinner than so many per cent cannot be seen.
    let status = inferno("flamegraph")
        .args(["--title", &title, "--deterministic", "--minwidth", "0.1"])
        .stdin(File::open(folded)?)
        .stdout(file)
        .status()?;
    ensure!(status.success(), "{} cannot be drawn", svg.display());
    Ok(())
}

/// One of inferno's programs; `benches/run` has installed them.
fn inferno(name: &str) -> Command {
    let directory = PathBuf::from(env::var_os("HOOKLINE_INFERNO").unwrap_or_default());
    Command::new(directory.join(format!("inferno-{name}")))
}
