//! The registry that the provider writes for Hookline: what stands in it, and how a new token gets there.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]

use std::path::Path;
use std::time::Duration;

use sandbox::provider::{self, Options, Running, Scenario, Status};

fn start(dir: &Path) -> Running {
    provider::start(&Options { registry: Some(dir.to_owned()), ..Options::default() }).unwrap()
}

fn token(dir: &Path) -> String {
    std::fs::read_to_string(dir.join("acme.token")).unwrap()
}

/// Everything that the file of the token holds, one after the other, until it holds `last`.
fn contents_until(dir: &Path, last: impl Fn() -> String) -> Vec<String> {
    let mut seen = vec![token(dir)];
    for _ in 0..30_000 {
        let now = token(dir);
        if seen.last() != Some(&now) {
            seen.push(now.clone());
        }
        if now == last() && seen.len() > 1 {
            return seen;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("the new token does not come: {seen:?}");
}

#[test]
fn a_connections_file_refers_to_its_secret_and_token() {
    let dir = tempfile::tempdir().unwrap();
    let registry = dir.path().join("not yet there");
    let running = start(&registry);
    for connection in ["acme", "globex", "initech"] {
        let text = std::fs::read_to_string(registry.join(format!("{connection}.toml"))).unwrap();
        let file: toml::Value = toml::from_str(&text).unwrap();
        let refers_to = |reference: &toml::Value| {
            std::fs::read_to_string(reference.as_str().unwrap().strip_prefix("file:").unwrap()).unwrap()
        };
        assert_eq!(refers_to(&file[connection]["secrets"][0]), provider::secret(connection));
        assert_eq!(refers_to(&file[connection]["token"]), running.tokens()[connection]);
        assert_eq!(file[connection]["labels"]["customer"].as_str().unwrap(), connection.to_uppercase());
    }
}

#[test]
fn a_new_token_takes_the_old_ones_place() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    let old = token(dir.path());
    running.set_status("acme", Status::ReauthorizationNeeded).unwrap();
    assert_eq!(token(dir.path()), old, "the old one stays until there is another");
    running.set_status("acme", Status::Online).unwrap();
    assert_eq!(token(dir.path()), running.tokens()["acme"]);
    assert_ne!(token(dir.path()), old);
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    files.sort();
    assert_eq!(files.len(), 9, "nothing unfinished is left: {files:?}");
}

#[test]
fn in_one_scenario_it_is_written_in_two_halves() {
    let dir = tempfile::tempdir().unwrap();
    let running = start(dir.path());
    let mut scenario = Scenario::find("credentials-expired").unwrap();
    (scenario.duration, scenario.changes) = (Duration::from_millis(100), 10);
    scenario.acts.iter_mut().for_each(|act| act.at /= 100);
    let old = token(dir.path());
    running.play(scenario).unwrap();
    let seen = contents_until(dir.path(), || running.tokens()["acme"].clone());
    let new = running.tokens()["acme"].clone();
    assert!(seen.contains(&new[..new.len() / 2].to_owned()), "{seen:?}");
    assert_eq!((seen.first(), seen.last()), (Some(&old), Some(&new)));
}
