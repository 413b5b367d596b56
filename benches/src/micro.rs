//! `micro`: what the smallest pieces of the way of a webhook take, by Criterion. The pieces are in `benches/micro/`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fs};

use anyhow::{Context as _, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};

use crate::stats::round;

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Only the cases whose names contain this, such as `fold/`.
    only: Option<String>,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    /// Nanoseconds of one operation, by case.
    ns: BTreeMap<String, Time>,
}

/// The median of the samples, and between what it lies with 95 % confidence.
#[derive(Serialize)]
struct Time {
    median: f64,
    low: f64,
    high: f64,
}

/// Criterion's `estimates.json`.
#[derive(Deserialize)]
struct Estimates {
    median: Estimate,
}

#[derive(Deserialize)]
struct Estimate {
    point_estimate: f64,
    confidence_interval: Interval,
}

#[derive(Deserialize)]
struct Interval {
    lower_bound: f64,
    upper_bound: f64,
}

/// Criterion's `benchmark.json`.
#[derive(Deserialize)]
struct Benchmark {
    full_id: String,
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    let program = built()?;
    // A directory of its own: no figures of an earlier run are found there.
    let home = tempfile::tempdir()?;
    let status = Command::new(program)
        .arg("--bench")
        .args(&options.only)
        .env("CRITERION_HOME", home.path())
        .status()
        .context("the cases cannot be started")?;
    ensure!(status.success(), "a case did not do what it is there for: {status}");
    let mut ns = BTreeMap::new();
    for entry in fs::read_dir(home.path())? {
        let (name, time) = read(&entry?.path().join("new"))?;
        ns.insert(name, time);
    }
    ensure!(!ns.is_empty(), "no case has {:?} in its name", options.only.as_deref().unwrap_or_default());
    Ok(Figures { name: "micro", ns })
}

/// Reads what Criterion wrote of one case.
fn read(directory: &Path) -> anyhow::Result<(String, Time)> {
    let text = |file: &str| {
        let path = directory.join(file);
        fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))
    };
    let Benchmark { full_id } = serde_json::from_str(&text("benchmark.json")?)?;
    let Estimates { median } = serde_json::from_str(&text("estimates.json")?)?;
    let Interval { lower_bound, upper_bound } = median.confidence_interval;
    let time =
        Time { median: round(median.point_estimate), low: round(lower_bound), high: round(upper_bound) };
    Ok((full_id, time))
}

/// Builds the program with the cases, as the programs that are shipped are built.
pub(crate) fn built() -> anyhow::Result<PathBuf> {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args(["build", "--release", "-p", "hookline-benches", "--bench", "micro"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be started")?;
    ensure!(output.status.success(), "the cases cannot be built: {}", output.status);
    let messages = String::from_utf8(output.stdout)?;
    let executable = messages.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let executable = message.get("executable")?.as_str()?;
        (message.pointer("/target/name")? == "micro").then(|| PathBuf::from(executable))
    });
    executable.context("cargo does not say where the cases' program is")
}
