//! What a figure was measured on.

use std::{fmt, fs, thread};

use serde::Serialize;

/// The machine, and how busy it was before the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    memory_gb: f64,
    kernel: String,
    /// Processes that wanted a core in the last minute: well below 1 on an idle machine. Above it, others
    /// worked here, and the figures are too low.
    load_before: f64,
}

impl Machine {
    pub(crate) fn this() -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let value = text.lines().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                (key.trim() == name).then(|| value.trim().to_owned())
            });
            value.unwrap_or_default()
        };
        let first = |file: &str| -> Option<String> {
            Some(fs::read_to_string(file).ok()?.split_whitespace().next()?.to_owned())
        };
        let memory_kb: f64 =
            field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0);
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: thread::available_parallelism().map_or(0, Into::into),
            memory_gb: (memory_kb / 1024.0 / 1024.0 * 10.0).round() / 10.0,
            kernel: first("/proc/sys/kernel/osrelease").unwrap_or_default(),
            load_before: first("/proc/loadavg").and_then(|n| n.parse().ok()).unwrap_or(0.0),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpu, cores, memory_gb, kernel, load_before } = self;
        write!(f, "{cpu}, {cores} cores, {memory_gb} GB, Linux {kernel}, load {load_before} before")?;
        if *load_before > 1.0 {
            write!(f, "\nNOTE: other programs are at work here; the figures will be too low")?;
        }
        Ok(())
    }
}
