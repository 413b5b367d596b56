//! The Kafka Streams application of `benches/peers/kafka-streams`, running.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use hookline_tests::child::{self, Child};
use hookline_tests::wait;
use serde::Serialize;

use crate::usage::Usage;

/// From the start of the process to its partitions.
const START_TIME_LIMIT: Duration = Duration::from_secs(90);
const STOP_TIME_LIMIT: Duration = Duration::from_secs(60);

/// What of it is varied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Setting {
    pub(crate) commit_interval_ms: u32,
    pub(crate) threads: u32,
}

impl Setting {
    /// Those that are tried.
    pub(crate) const ALL: [Self; 4] = [
        Self { commit_interval_ms: 100, threads: 1 },
        Self { commit_interval_ms: 100, threads: 2 },
        Self { commit_interval_ms: 1_000, threads: 1 },
        Self { commit_interval_ms: 1_000, threads: 2 },
    ];
    /// Those that are tried where latency counts: nothing is visible before a commit.
    pub(crate) const QUICK: [Self; 3] = [
        Self { commit_interval_ms: 20, threads: 1 },
        Self { commit_interval_ms: 50, threads: 1 },
        Self { commit_interval_ms: 100, threads: 1 },
    ];
    /// With two cores the one with the shortest median latency at 5,000 events a second.
    pub(crate) const QUICKEST: Self = Self { commit_interval_ms: 20, threads: 1 };
    /// With two cores the one with the most events a second.
    pub(crate) const FASTEST: Self = Self { commit_interval_ms: 1_000, threads: 2 };
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kafka-streams, commit interval {} ms, {} threads", self.commit_interval_ms, self.threads)
    }
}

/// The application, killed when dropped.
pub(crate) struct Streams(Child);

impl Streams {
    /// Starts it and does not wait. `name` becomes its `application.id`; its state goes to a directory below `scratch`.
    pub(crate) fn spawn(
        name: &str,
        setting: Setting,
        bootstrap: &str,
        (input, output): (&str, &str),
        scratch: &Path,
    ) -> Self {
        let built = super::built("kafka-streams");
        let mut command = child::command("java");
        // What benches/run gives the broker is not meant for it.
        command.env_remove("_JAVA_OPTIONS");
        // The collector that costs this application least.
        command.args([
            "-Xmx1g",
            "-XX:+UseParallelGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
            "-jar",
        ]);
        command.arg(built.join("peer.jar"));
        command.args([format!("input={input}"), format!("output={output}")]);
        command.args([
            format!("application.id={name}"),
            format!("bootstrap.servers={bootstrap}"),
            format!("state.dir={}", scratch.join(name).display()),
            format!("commit.interval.ms={}", setting.commit_interval_ms),
            format!("num.stream.threads={}", setting.threads),
        ]);
        Self(Child::spawn("the Kafka Streams application", command, &scratch.join(format!("{name}.log"))))
    }

    /// Waits until it has its partitions.
    ///
    /// # Panics
    /// When it ends, or has none in time.
    pub(crate) fn wait_running(&mut self) {
        wait::until("a Kafka Streams application that runs", START_TIME_LIMIT, || {
            let ended = self.0.ended();
            assert!(ended.is_none(), "it ended with {ended:?}: {}", self.0.log_text());
            self.0.log_text().lines().any(|line| line == "running").then_some(())
        });
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// What it used, and its orderly end.
    pub(crate) fn end(mut self) -> anyhow::Result<Usage> {
        let usage = Usage::of(self.pid()).with_context(|| format!("it has ended: {}", self.0.log_text()))?;
        let status = self.0.terminate(STOP_TIME_LIMIT);
        // A JVM says with 143 that SIGTERM ended it, also after its shutdown hooks.
        ensure!(status.code() == Some(143), "it ended with {status}: {}", self.0.log_text());
        Ok(usage)
    }
}
