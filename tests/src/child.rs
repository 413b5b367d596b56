//! A child process that never outlives the tests, its log in a file.
//!
//! `setpriv --pdeathsig` has the kernel kill a child when the thread that started it ends, so that a test
//! that is itself killed leaves nothing behind. Therefore one thread, which never ends, starts them all: a
//! test's own thread would take a server that others share with it.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{self, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, geteuid, kill_process};

use crate::wait;

/// How much of a log a failing test shows.
const TAIL_LINES: usize = 60;

/// A running or ended child process. Dropped, it is killed; in a failing test its log's end is shown.
#[derive(Debug)]
pub struct Child {
    name: String,
    log: PathBuf,
    process: process::Child,
    ended: Option<ExitStatus>,
}

/// A command whose process is killed when the tests end; give it to [`Child::spawn`].
#[must_use]
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// The same as another user, where this is root: some servers refuse to be that.
#[must_use]
pub fn command_as(user: &str, program: impl AsRef<OsStr>) -> Command {
    if !geteuid().is_root() {
        return command(program);
    }
    // The signal at the parent's death is forgotten when the user changes, so it is asked for after that.
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid", user, "--regid", user, "--init-groups", "--reset-env", "--"])
        .args(["setpriv", "--pdeathsig", "KILL", "--"])
        .arg(program)
        .current_dir("/");
    command
}

/// Gives files to another user, where this is root. `package` is the Debian package that makes the user.
///
/// # Panics
/// When there is no such user.
pub fn give_to<P: AsRef<OsStr>>(user: &str, package: &str, paths: impl IntoIterator<Item = P>) {
    if geteuid().is_root() {
        let status = Command::new("chown").arg(user).args(paths).status();
        let given = status.is_ok_and(|status| status.success());
        assert!(given, "there is no user {user}: Debian's package {package} makes it (run tests/run sinks)");
    }
}

impl Child {
    /// Starts `command` (from [`command`]), its output appended to the file `log`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let output = OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log file"))
            .stderr(output);
        let process = spawn_in_lasting_thread(command)
            .unwrap_or_else(|error| panic!("{name} cannot be started (setpriv is in util-linux): {error}"));
        Self { name: name.to_owned(), log: log.to_owned(), process, ended: None }
    }

    /// The process's id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Its standard output and standard error so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended; none while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.process.try_wait().expect("the child's state");
        }
        self.ended
    }

    /// Waits until it listens on all these ports of 127.0.0.1.
    ///
    /// # Panics
    /// When it ends, or does not listen in `time_limit`.
    pub fn wait_listens(&mut self, ports: &[u16], time_limit: Duration) {
        let what = format!("a {} that listens", self.name);
        wait::until(&what, time_limit, || {
            let ended = self.ended();
            assert!(ended.is_none(), "{} ended: {ended:?}", self.name);
            let listens = |port: &u16| TcpStream::connect(("127.0.0.1", *port)).is_ok();
            ports.iter().all(listens).then_some(())
        });
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after `time_limit`.
    pub fn wait(&mut self, time_limit: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait::until(&what, time_limit, || self.ended())
    }

    /// SIGTERM, and waits for its end.
    ///
    /// # Panics
    /// When it still runs after `time_limit`.
    pub fn terminate(&mut self, time_limit: Duration) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(time_limit)
    }

    /// SIGKILL, and waits for its end.
    pub fn kill(&mut self) -> ExitStatus {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10))
    }

    /// SIGSTOP: it does nothing more and holds all that it holds.
    pub fn pause(&mut self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&mut self) {
        self.signal(Signal::CONT);
    }

    /// Sends a signal; nothing happens if the process has ended.
    pub fn signal(&mut self, signal: Signal) {
        // An ended process that has been waited for has lost its id, perhaps to another one.
        if self.ended().is_none() {
            let id = i32::try_from(self.process.id()).expect("a process id");
            kill_process(Pid::from_raw(id).expect("a process id"), signal).expect("a signal to a child");
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
        if thread::panicking() {
            let text = self.log_text();
            let lines: Vec<&str> = text.lines().collect();
            let tail = &lines[lines.len().saturating_sub(TAIL_LINES)..];
            eprintln!("--- {}: the end of its log\n{}\n---", self.name, tail.join("\n"));
        }
    }
}

type Request = (Command, Sender<io::Result<process::Child>>);

fn spawn_in_lasting_thread(command: Command) -> io::Result<process::Child> {
    static STARTER: OnceLock<Sender<Request>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (requests, inbox) = channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in inbox {
                // The asker waits for the answer; if it is gone, so is the need for the child.
                if let Err(unwanted) = answer.send(command.spawn())
                    && let Ok(mut child) = unwanted.0
                {
                    let _ = child.kill();
                    let _ = child.wait();
                }
            }
        });
        requests
    });
    let (answer, started) = channel();
    starter.send((command, answer)).expect("the starting thread");
    started.recv().expect("the starting thread's answer")
}
