//! A wrong configuration stops both programs at once, with exit status 2 and the file, line and key, in the
//! same words from `check` and from a start.

use std::net::SocketAddr;

use hookline_tests::kafka::Kafka;
use hookline_tests::{ports, process};

use crate::common::{SINK_URL, Sink, Site, secrets, stderr, text_of};

/// What is wrong, the text that is replaced, by what, and what the message has besides the line.
type Case = (&'static str, &'static str, &'static str, &'static [&'static str]);

const CASES: [Case; 11] = [
    (
        "an unknown key",
        "drain_timeout = \"10s\"\n\n",
        "drain_timeout = \"10s\"\ncolour = \"blue\"\n\n",
        &["unknown field `colour`", "expected one of", "`body_limit`"],
    ),
    (
        "a secret pasted in",
        "env:GITHUB_WEBHOOK_SECRET",
        "hunter2-pasted",
        &["sources.github.secrets", "a secret is given by reference"],
    ),
    ("a wrong type", "partitions = 1\n", "partitions = \"one\"\n", &["log.partitions", "expected u32"]),
    (
        "a number out of range",
        "partitions = 1\n",
        "partitions = 0\n",
        &["log.partitions", "must be 1 to 1024"],
    ),
    (
        "an unknown sink",
        "sink.kafka.topic = \"bad-config.applied\"",
        "sink.oracle.topic = \"bad-config.applied\"",
        &["pipelines.bad-config.sink", "unknown variant `oracle`", "`postgres`", "`sqlite`", "`kafka`"],
    ),
    (
        "a bad pointer",
        "entity = \"/repository/full_name\"",
        "entity = \"repository/full_name\"",
        &["sources.github.entity", "names no place in a webhook", "JSON pointer"],
    ),
    (
        "a pointer with a bad escape",
        "entity = \"/repository/full_name\"",
        "entity = \"/repository~2full_name\"",
        &["sources.github.entity", "is not a JSON pointer (RFC 6901)"],
    ),
    (
        "a duration without a unit",
        "deadline = \"2s\"",
        "deadline = \"2\"",
        &["sources.fleet.deadline", "is not a duration"],
    ),
    (
        "a wrong scheme",
        "verify.github = {}",
        "verify.gitlab = {}",
        &["sources.github.verify", "`github`", "`hmac`"],
    ),
    ("not TOML", "[sources.github]", "[sources.github", &["unclosed table"]),
    (
        "a property that guarantees rest on",
        "[kafka.properties]\n",
        "[kafka.properties]\nacks = \"1\"\n",
        &["kafka.properties.acks", "Hookline sets this property itself"],
    ),
];

#[test]
fn a_wrong_configuration_is_refused_with_its_place_by_both_programs() {
    let site = Site::new("bad-config", Kafka::shared(), 1);
    let admin: SocketAddr = ports::free_address();
    let good = site.config_head()
        + &site.config_pipeline("bad-config", "only", admin, &Sink::Kafka("bad-config.applied".to_owned()));
    let path = text_of(&site.write("good.toml", &good));
    for (program, args) in [("ingest", checks(&path)[0].1.clone()), ("processor", checks(&path)[2].1.clone())]
    {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = process::run(program, &args, &secrets());
        assert_eq!(output.status.code(), Some(0), "{program}: {}", stderr(&output));
    }

    for (what, from, to, expected) in CASES {
        assert_eq!(good.matches(from).count(), 1, "{what}: `{from}`");
        let bad = good.replace(from, to);
        let path = text_of(&site.write("bad.toml", &bad));
        // The line on which the two begin to differ, but for an added line, which differs after its break.
        let same = good.bytes().zip(bad.bytes()).take_while(|(a, b)| a == b).count();
        let line = bad[..same].matches('\n').count() + 1;
        let mut messages = Vec::new();
        for (program, args) in checks(&path) {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            let output = process::run(program, &args, &secrets());
            let text = stderr(&output);
            assert_eq!(output.status.code(), Some(2), "{what}: {program} {}: {text}", args[0]);
            let place = format!("{program}: {path}:{line}: ");
            assert!(text.starts_with(&place), "{what}: {program} {}: `{place}…`, not {text}", args[0]);
            for part in expected {
                assert!(text.contains(part), "{what}: `{part}` is not in {text}");
            }
            assert!(!text.contains("hunter2"), "{what}: {text}");
            messages.push(text[program.len()..].to_owned());
        }
        assert!(messages.iter().all(|message| *message == messages[0]), "{what}: {messages:#?}");
    }
}

#[test]
fn each_program_needs_its_own_secrets_and_no_others() {
    let site = Site::new("own-secrets", Kafka::shared(), 1);
    let sink = Sink::Postgres("postgres://nobody@localhost/nothing".to_owned());
    let text = site.config_head() + &site.config_pipeline("bad-config", "only", ports::free_address(), &sink);
    let path = text_of(&site.write("own.toml", &text));
    let [of_ingest, _, of_processor, _] = checks(&path);
    let check = |(program, args): &(&'static str, Vec<String>), env: &[(&str, &str)]| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = process::run(program, &args, env);
        (output.status.code(), stderr(&output))
    };
    let url = [(SINK_URL, "postgres://nobody@localhost/nothing")];

    let (code, text) = check(&of_ingest, &secrets());
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = check(&of_processor, &url);
    assert_eq!(code, Some(0), "{text}");

    let (code, text) = check(&of_ingest, &url);
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("own.toml:") && text.contains(".secrets: environment variable"), "{text}");
    let (code, text) = check(&of_processor, &secrets());
    assert_eq!(code, Some(2), "{text}");
    let expected = "pipelines.bad-config.sink.postgres.url: environment variable SINK_URL is not set";
    assert!(text.contains("own.toml:") && text.contains(expected), "{text}");
}

#[test]
fn a_missing_file_and_an_unknown_pipeline_are_refused_with_what_there_is() {
    let site = Site::new("no-config", Kafka::shared(), 1);
    for (program, args) in checks("/nowhere/hookline.toml") {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = process::run(program, &args, &secrets());
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{program} {}: {text}", args[0]);
        assert!(text.contains("/nowhere/hookline.toml: cannot be read"), "{text}");
        assert!(text.contains("HOOKLINE_CONFIG"), "{text}");
    }
    let text = site.config_head()
        + &site.config_pipeline(
            "other",
            "only",
            ports::free_address(),
            &Sink::Kafka("no-config.out".to_owned()),
        );
    let path = text_of(&site.write("other.toml", &text));
    for (program, args) in checks(&path).into_iter().skip(2) {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = process::run(program, &args, &secrets());
        assert_eq!(output.status.code(), Some(2));
        let text = stderr(&output);
        assert!(text.contains("there is no pipeline `bad-config`; the file has `other`"), "{text}");
    }
}

/// The four ways to read a configuration.
fn checks(path: &str) -> [(&'static str, Vec<String>); 4] {
    let args = |subcommand: &str, more: &[&str]| {
        let args = [subcommand, "--config", path];
        args.iter().chain(more).map(|arg| (*arg).to_owned()).collect::<Vec<_>>()
    };
    let pipeline = ["--pipeline", "bad-config"];
    [
        ("ingest", args("check", &[])),
        ("ingest", args("serve", &[])),
        ("processor", args("check", &pipeline)),
        ("processor", args("run", &pipeline)),
    ]
}
