//! The layout that the README promises, read from the sources themselves: every file says what it is for and
//! stays small enough to read, and what is pure knows nothing of the world.

#![allow(clippy::unwrap_used, reason = "a test: a panic is its way to fail")]

use std::fs;
use std::path::{Path, PathBuf};

const LINES_MAX: usize = 600;

/// What decides, and must decide the same in every replay and every test.
const PURE: &[&str] = &[
    "processor/src/fold",
    "processor/src/frame.rs",
    "processor/src/control.rs",
    "ingest/src/signature",
    "ingest/src/extract",
    "shared/src/json.rs",
    "processor/src/sink/mapping",
    "processor/src/connections/status.rs",
    "processor/src/alerts/book.rs",
    "processor/src/alerts/words.rs",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// The sources in Rust: name and text.
fn sources() -> Vec<(String, String)> {
    let found = files(&["shared", "ingest", "processor", "deploy", "tests", "benches"], &[".rs"]);
    assert!(found.len() > 50, "the sources were not found");
    found
}

/// Files below some directories whose names have one of these ends.
fn files(dirs: &[&str], ends: &[&str]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut dirs: Vec<PathBuf> = dirs.iter().map(|dir| root().join(dir)).collect();
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "node_modules" {
                dirs.push(path);
            } else if ends.iter().any(|end| name.ends_with(end)) {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path.strip_prefix(root()).unwrap().display().to_string(), text));
            }
        }
    }
    found
}

fn says_what_it_is_for(opening: &str, (name, text): (String, String)) {
    assert!(text.starts_with(opening), "{name} does not open with {opening}and what it is for");
    let lines = text.lines().count();
    assert!(lines <= LINES_MAX, "{name} has {lines} lines, above {LINES_MAX}: it is two files");
}

#[test]
fn every_file_says_what_it_is_for_and_can_be_read_at_a_sitting() {
    sources().into_iter().for_each(|file| says_what_it_is_for("//! ", file));
}

/// Hookline's peers are programs in other languages, which have no other way to say what a file is for than a comment.
#[test]
fn so_does_every_file_in_another_language() {
    let files = files(&["benches/peers"], &[".java", ".go", ".js"]);
    assert!(files.len() >= 6, "only {} files were found", files.len());
    files.into_iter().for_each(|file| says_what_it_is_for("//", file));
}

#[test]
fn what_decides_knows_no_clock_no_network_and_no_disk() {
    let mut seen = 0;
    for (name, text) in sources() {
        if !PURE.iter().any(|pure| name.starts_with(pure)) || name.ends_with("tests.rs") {
            continue;
        }
        seen += 1;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let words = [
            "tokio",
            "rdkafka",
            "sled::",
            "std::time",
            "std::fs",
            "std::net",
            "rand::",
            "Instant",
            "SystemTime",
        ];
        for word in words {
            assert!(!code.contains(word), "{name} is pure, but names {word}");
        }
    }
    assert!(seen >= PURE.len(), "only {seen} pure files were found");
}
