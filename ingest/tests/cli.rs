//! The command line: what is said about a wrong configuration, and that SIGTERM ends it well.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

struct File {
    dir: tempfile::TempDir,
}

impl File {
    fn new(more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("secret"), "not base64!").unwrap();
        let text = format!(
            "[kafka]\nbootstrap_servers = \"127.0.0.1:1\"\n[ingest]\nlisten = \"127.0.0.1:0\"\n\
             admin_listen = \"127.0.0.1:0\"\n{}",
            more.replace("SECRET", &format!("file:{}", dir.path().join("secret").display()))
        );
        std::fs::write(dir.path().join("hookline.toml"), text).unwrap();
        Self { dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("hookline.toml")
    }

    fn run(&self, command: &str) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ingest"))
            .args([command, "--config"])
            .arg(self.path())
            .output()
            .unwrap()
    }
}

const GITHUB: &str = "[sources.github]\nverify.github = {}\nsecrets = [\"SECRET\"]\n";

/// Each mistake: the line, the key, and a word of the remedy.
#[test]
fn a_wrong_configuration_ends_with_2_and_says_where_and_what() {
    let cases = [
        ("[sources.x]\nverify.standard = {}\nsecrets = [\"SECRET\"]\n", ":8: sources.x.secrets: ", "base64"),
        (
            "[sources.x]\nverify.github = { tolerance = \"5m\" }\nsecrets = [\"SECRET\"]\n",
            ":6: sources.x.verify.github.tolerance: ",
            "remove",
        ),
        (
            "[sources.x]\nid = \"/id\"\nsecrets = [\"SECRET\"]\n[sources.x.verify.hmac]\nheader = \"x y\"\n",
            ":9: sources.x.verify.hmac.header: ",
            "not a header's name",
        ),
        (
            "[kafka.properties]\n\"linger.msx\" = \"1\"\n",
            ":7: kafka.properties.linger.msx: ",
            "No such configuration property",
        ),
        (
            "[kafka.properties]\n\"linger.ms\" = \"soon\"\n",
            ":7: kafka.properties.linger.ms: ",
            "Invalid value",
        ),
        (
            "tls = { certificate = \"/absent.crt\", key = \"/absent.key\" }\n",
            ":3: ingest.tls.certificate: ",
            "/absent.crt",
        ),
        ("body_limits = \"1MiB\"\n", ":6: ingest.body_limits: ", "`body_limit`"),
    ];
    for (more, place, remedy) in cases {
        let file = File::new(more);
        for command in ["check", "serve"] {
            let output = file.run(command);
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(2), "{command} {more}: {text}");
            assert!(text.contains(&format!("{}{place}", file.path().display())), "{command} {place}: {text}");
            assert!(text.contains(remedy) && !text.contains("not base64!"), "{text}");
            assert_eq!(text.trim_end().lines().count(), 1, "{text}");
        }
    }
}

#[test]
fn a_good_configuration_is_called_good() {
    let output = File::new(GITHUB).run("check");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success() && text.contains("good") && text.contains("/webhooks/github: 1 secret"),
        "{text}"
    );
}

#[test]
fn the_version_is_told() {
    let output = Command::new(env!("CARGO_BIN_EXE_ingest")).arg("--version").output().unwrap();
    assert_eq!(output.stdout, format!("ingest {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
}

#[test]
fn a_signal_ends_it_with_0_even_without_kafka() {
    for signal in [Signal::TERM, Signal::INT] {
        let file = File::new(GITHUB);
        let mut child = Command::new(env!("CARGO_BIN_EXE_ingest"))
            .args(["serve", "--config"])
            .arg(file.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        log.find(|line| line.as_ref().unwrap().contains("ingest listens")).unwrap().unwrap();
        let since = Instant::now();
        kill_process(Pid::from_child(&child), signal).unwrap();
        let rest: Vec<String> = log.map(Result::unwrap).collect();
        assert_eq!(child.wait().unwrap().code(), Some(0), "{rest:?}");
        assert!(since.elapsed() < Duration::from_secs(5));
        assert!(rest.iter().any(|line| line.contains("every accepted request was answered")), "{rest:?}");
    }
}
