//! The product's programs as child processes: `ingest serve` and `processor run`, as an operator runs them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Output};
use std::time::Duration;
use std::{env, fs};

use tempfile::TempDir;

use crate::child::{self, Child};
use crate::http::Client;
use crate::metrics::Metrics;
use crate::{setup, wait};

const READY_TIME_LIMIT: Duration = Duration::from_secs(90);
const TERMINATE_TIME_LIMIT: Duration = Duration::from_secs(60);

/// One program with its arguments, running or not. Dropped, it is killed.
#[derive(Debug)]
pub struct Program {
    name: String,
    program: PathBuf,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    /// A small file system of its own in place of a directory, and its size in KiB.
    small_disk: Option<(PathBuf, usize)>,
    admin: SocketAddr,
    // Before the directory with its log, which a failing test shows.
    process: Option<Child>,
    scratch: TempDir,
}

impl Program {
    /// `ingest serve --config CONFIG`, not yet started. `admin` is what the configuration says.
    #[must_use]
    pub fn ingest(config: &Path, admin: SocketAddr) -> Self {
        let args = ["serve".into(), "--config".into(), config.into()];
        Self::new("ingest", args.into(), admin)
    }

    /// `ingest poll --config CONFIG`, not yet started. `admin` is what the configuration says.
    #[must_use]
    pub fn poller(config: &Path, admin: SocketAddr) -> Self {
        let args = ["poll".into(), "--config".into(), config.into()];
        Self::new("ingest", args.into(), admin)
    }

    /// `processor run --pipeline PIPELINE --config CONFIG`, not yet started. `admin` is what the
    /// configuration says.
    #[must_use]
    pub fn processor(pipeline: &str, config: &Path, admin: SocketAddr) -> Self {
        let args = ["run".into(), "--pipeline".into(), pipeline.into(), "--config".into(), config.into()];
        Self::new("processor", args.into(), admin)
    }

    /// `processor alerts --config CONFIG`, not yet started. `admin` is what the configuration says.
    #[must_use]
    pub fn alerts(config: &Path, admin: SocketAddr) -> Self {
        Self::new("processor", ["alerts".into(), "--config".into(), config.into()].into(), admin)
    }

    fn new(name: &str, args: Vec<OsString>, admin: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            program: binary(name),
            args,
            env: Vec::new(),
            small_disk: None,
            admin,
            scratch: setup::scratch(name),
            process: None,
        }
    }

    /// An environment variable for the program, such as a secret that the configuration names.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same for a program that is there already: from its next start on. None takes the variable away.
    pub fn set_env(&mut self, name: &str, value: Option<&str>) {
        self.env.retain(|(known, _)| known != name);
        self.env.extend(value.map(|value| (name.to_owned(), value.to_owned())));
    }

    /// What it gets besides the common environment.
    #[must_use]
    pub fn environment(&self) -> &[(String, String)] {
        &self.env
    }

    /// From its next start on, what it writes to a directory goes to an empty disk of so many KiB, which ends with it.
    /// None takes that away.
    pub fn set_small_disk(&mut self, disk: Option<(&Path, usize)>) {
        self.small_disk = disk.map(|(dir, kib)| (dir.to_owned(), kib));
    }

    /// The id of its process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.as_ref().unwrap_or_else(|| panic!("{} does not run", self.name)).id()
    }

    /// Whether it was started, and not stopped since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Starts it and waits until it is ready.
    ///
    /// # Panics
    /// When it runs already or does not become ready.
    #[must_use]
    pub fn started(mut self) -> Self {
        self.spawn();
        self.wait_ready();
        self
    }

    /// Starts it (also again, after an end) and does not wait.
    ///
    /// # Panics
    /// When it runs already.
    pub fn spawn(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let mut command = match &self.small_disk {
            None => child::command(&self.program),
            Some((dir, kib)) => on_small_disk(&self.program, dir, *kib),
        };
        command.args(&self.args);
        prepare(&mut command, &self.env);
        self.process = Some(Child::spawn(&self.name, command, &self.log_file()));
    }

    /// Waits until `/readyz` answers 200.
    ///
    /// # Panics
    /// When it ends, or is not ready in time.
    pub fn wait_ready(&mut self) {
        let ready = wait::within(READY_TIME_LIMIT, || {
            let ended = self.running().ended();
            assert!(ended.is_none(), "{} ended before it was ready: {ended:?}", self.name);
            self.is_ready().then_some(())
        });
        assert!(
            ready.is_some(),
            "{} is not ready after {} s: {}",
            self.name,
            READY_TIME_LIMIT.as_secs(),
            self.readyz().map_or_else(|| "no answer".to_owned(), |(status, text)| format!("{status} {text}"))
        );
    }

    /// Whether `/readyz` answers 200 now.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.readyz().is_some_and(|(status, _)| status == 200)
    }

    /// Status and text of `/readyz`; none when the admin address does not answer.
    #[must_use]
    pub fn readyz(&self) -> Option<(u16, String)> {
        let answer = Client::new().get(&format!("http://{}/readyz", self.admin)).ok()?;
        Some((answer.status, answer.text()))
    }

    /// What `/metrics` says now.
    ///
    /// # Panics
    /// When it does not answer.
    #[must_use]
    pub fn metrics(&self) -> Metrics {
        let answer = Client::new().get(&format!("http://{}/metrics", self.admin)).expect("/metrics");
        assert_eq!(answer.status, 200, "{}: /metrics", self.name);
        Metrics::parse(&answer.text())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// When it does not run or does not end.
    pub fn terminate(&mut self) -> ExitStatus {
        self.take().terminate(TERMINATE_TIME_LIMIT)
    }

    /// Waits for its own end.
    ///
    /// # Panics
    /// When it does not run or does not end in `time_limit`.
    pub fn wait(&mut self, time_limit: Duration) -> ExitStatus {
        self.take().wait(time_limit)
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self) {
        self.take().kill();
    }

    /// SIGSTOP.
    ///
    /// # Panics
    /// When it does not run.
    pub fn pause(&mut self) {
        self.running().pause();
    }

    /// SIGCONT.
    ///
    /// # Panics
    /// When it does not run.
    pub fn resume(&mut self) {
        self.running().resume();
    }

    /// How it ended by itself; none while it runs.
    ///
    /// # Panics
    /// When it was not started.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.running().ended()
    }

    /// All that its processes have logged so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    /// Waits until its log holds `text`.
    ///
    /// # Panics
    /// When that does not come in `time_limit`.
    pub fn wait_log(&self, text: &str, time_limit: Duration) {
        let what = format!("“{text}” in the log of {}", self.name);
        wait::until(&what, time_limit, || self.log_text().contains(text).then_some(()));
    }

    fn log_file(&self) -> PathBuf {
        self.scratch.path().join(format!("{}.log", self.name))
    }

    fn running(&mut self) -> &mut Child {
        self.process.as_mut().unwrap_or_else(|| panic!("{} does not run", self.name))
    }

    fn take(&mut self) -> Child {
        self.process.take().unwrap_or_else(|| panic!("{} does not run", self.name))
    }
}

/// Runs a program to its end, such as `run("ingest", &["check", "--config", file], &[])`.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn run<N: AsRef<str>, V: AsRef<str>>(name: &str, args: &[&str], env: &[(N, V)]) -> Output {
    let mut command = child::command(binary(name));
    command.args(args);
    prepare(&mut command, env);
    command.output().unwrap_or_else(|error| panic!("{name} cannot be started: {error}"))
}

/// The program in a mount namespace of its own, in which the directory is a file system in memory. Needs no root, but a
/// kernel that lets users make namespaces, as Debian's does.
fn on_small_disk(program: &Path, dir: &Path, kib: usize) -> Command {
    const MOUNT: &str = r#"mount -t tmpfs -o "size=$1k" small "$2" && shift 2 && exec "$@""#;
    fs::create_dir_all(dir).expect("the directory");
    let mut command = child::command("unshare");
    command.args(["--map-root-user", "--mount", "sh", "-c", MOUNT, "sh"]);
    command.arg(kib.to_string()).arg(dir).arg(program);
    command
}

fn binary(name: &str) -> PathBuf {
    let path = setup::bin_dir().join(name);
    assert!(path.is_file(), "{} is not built: run tests/run e2e", path.display());
    path
}

/// The same environment for all: what the caller's shell says to Hookline does not count.
fn prepare<N: AsRef<str>, V: AsRef<str>>(command: &mut Command, more: &[(N, V)]) {
    command.env_remove("HOOKLINE_CONFIG").env_remove("RUST_LOG").env("NO_COLOR", "1");
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"OTEL_")) {
        command.env_remove(name);
    }
    for (name, value) in more {
        command.env(name.as_ref(), value.as_ref());
    }
}
