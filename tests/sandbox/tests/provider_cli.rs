//! The provider's commands, as a user runs them.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use common::{Receiver, get, until};
use sandbox::provider::Scenario;

fn sandbox(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sandbox"));
    command.args(args);
    command
}

/// Killed with the test.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn scenarios_are_listed_with_what_they_show() {
    let output = sandbox(&["scenarios"]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    for scenario in Scenario::all() {
        let line = text.lines().find(|line| line.split(' ').next() == Some(&scenario.name)).unwrap();
        assert!(line.ends_with(&scenario.shows), "{line}");
    }
}

#[test]
fn a_scenario_is_played_to_a_receiver_and_the_registry_stands_there() {
    let receiver = Receiver::strict();
    let dir = tempfile::tempdir().unwrap();
    let scenario = dir.path().join("mine.toml");
    std::fs::write(&scenario, "shows = \"mine\"\nduration = \"100ms\"\nchanges = 30\n").unwrap();
    let registry = dir.path().join("registry");
    let mut command =
        sandbox(&["serve", "--listen", "127.0.0.1:0", "--seed", "9", "--receiver", &receiver.url]);
    command.arg("--scenario").arg(&scenario).arg("--registry").arg(&registry).stdout(Stdio::piped());
    let mut serving = Serving(command.spawn().unwrap());
    let mut lines = BufReader::new(serving.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    let url = first.split(' ').next_back().unwrap().strip_suffix("/control").unwrap().to_owned();
    assert_eq!(lines.next().unwrap(), "mine, seed 9: mine");
    assert!(lines.any(|line| line == format!("done; what must be in the sink: {url}/control/expected")));
    until("all is there", || receiver.got().len() == 30 + 3);
    assert_eq!(get(&format!("{url}/control/state"), None).json()["phase"], "done");
    let token = std::fs::read_to_string(registry.join("globex.token")).unwrap();
    assert_eq!(get(&format!("{url}/api/v1/suppliers"), Some(&token)).status, 200);
}

/// As `ingest urls | sandbox serve --urls -` does.
#[test]
fn each_connections_webhooks_go_to_its_own_address() {
    let receivers = [("acme", Receiver::strict()), ("globex", Receiver::strict())];
    let dir = tempfile::tempdir().unwrap();
    let scenario = dir.path().join("mine.toml");
    std::fs::write(&scenario, "shows = \"mine\"\nduration = \"100ms\"\nchanges = 30\n").unwrap();
    let mut command = sandbox(&["serve", "--listen", "127.0.0.1:0", "--connections", "acme,globex"]);
    command.args(["--urls", "-"]).arg("--scenario").arg(&scenario);
    let mut serving = Serving(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    let mut input = serving.0.stdin.take().unwrap();
    for (connection, receiver) in &receivers {
        let url = format!("{}/webhooks/makini/{connection}", receiver.url);
        writeln!(input, "makini\t{connection}\t{url}").unwrap();
    }
    drop(input);
    let mut lines = BufReader::new(serving.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("done;")));
    let all = || receivers.iter().map(|(_, receiver)| receiver.got().len()).sum::<usize>();
    until("all is there", || all() == 30 + 2);
    for (connection, receiver) in &receivers {
        let got = receiver.got();
        assert!(!got.is_empty() && got.iter().all(|got| got.connection() == *connection), "{connection}");
    }
}

#[test]
fn what_cannot_be_served_is_said() {
    let error = |args: &[&str]| {
        let output = sandbox(args).stdout(Stdio::null()).output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let listen = ["serve", "--listen", "127.0.0.1:0"];
    let with = |more: &[&str]| error(&[&listen[..], more].concat());
    assert!(with(&["--scenario", "calm"]).starts_with("there is no scenario \"calm\""));
    assert_eq!(
        with(&["--scenario", "mixed", "--connections", "acme"]),
        "there is no connection \"globex\"\n"
    );
    assert!(with(&["--connections", "a/b"]).starts_with("connection \"a/b\": an id is 1 to 64 letters"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("urls.txt");
    std::fs::write(&file, "makini\tacme\thttp://127.0.0.1:1/w\nmakini\tglobex\n").unwrap();
    let file = file.to_str().unwrap();
    assert!(with(&["--urls", file]).starts_with(&format!("{file}:2: 2 fields and not three")));
    std::fs::write(file, "makini\tacme\thttp://127.0.0.1:1/w\n").unwrap();
    let missing = with(&["--urls", file]);
    assert!(missing.starts_with(&format!("{file}: no address for \"globex\", \"initech\"")), "{missing}");
    assert!(with(&["--urls", "/nowhere"]).starts_with("/nowhere: cannot be read: "));
    assert!(with(&["--urls", file, "--receiver", "http://127.0.0.1:1"]).contains("cannot be used with"));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    assert!(error(&["serve", "--listen", &address]).starts_with(&format!("cannot listen at {address}: ")));
}

#[test]
fn the_configuration_is_toml_and_comes_with_tables_if_wanted() {
    let print = |more: &[&str]| {
        let args = [&["provider-config", "--registry", "/etc/hookline/connections"], more].concat();
        String::from_utf8(sandbox(&args).output().unwrap().stdout).unwrap()
    };
    let config: toml::Value =
        toml::from_str(&print(&["--source", "erp", "--pipeline", "warehouse"])).unwrap();
    assert_eq!(config["sources"]["erp"]["registry"].as_str(), Some("/etc/hookline/connections"));
    assert!(config["pipelines"]["warehouse"]["tables"].get("assets").is_some());
    assert!(print(&["--sql", "postgres"]).contains("updated_at timestamptz NOT NULL"));
}
