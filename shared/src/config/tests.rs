//! Each promise about configuration errors: the place, the key, and what is allowed.

use super::*;

const MINIMAL: &str = "[kafka]\nbootstrap_servers = \"localhost:9092\"\n";

fn error(more: &str) -> String {
    Config::parse(&format!("{MINIMAL}{more}"), Path::new("hookline.toml"), Secrets::All)
        .unwrap_err()
        .to_string()
}

/// A secret that is always there: this very file.
fn secret() -> String {
    format!("[\"file:{}/src/config/tests.rs\"]", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn the_example_parses_and_shows_every_key() {
    let text = include_str!("../../../deploy/hookline.example.toml");
    let file = format!("file:{}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let mut filled = String::new();
    for line in text.lines() {
        let (mut line, mut out) = (line, String::new());
        while let Some((before, rest)) = line.split_once("\"env:") {
            let (_, after) = rest.split_once('"').unwrap();
            out.push_str(&format!("{before}\"{file}\""));
            line = after;
        }
        filled.push_str(&format!("{out}{line}\n"));
    }
    let config = Config::parse(&filled, Path::new("hookline.example.toml"), Secrets::All).unwrap();
    assert_eq!(config.sources.len(), 3);
    assert_eq!(config.pipelines.len(), 6);
    let uncommented: String = filled
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(rest) if rest.contains(" = ") && !rest.contains("env:") => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let all = uncommented.replace("security_protocol = \"plaintext\"", "security_protocol = \"sasl_ssl\"");
    let _ = Config::parse(&all, Path::new("hookline.example.toml"), Secrets::All).unwrap();
}

#[test]
fn an_unknown_key_is_named_with_its_line_and_what_is_allowed() {
    let text = error("[ingest]\nlisten = \"0.0.0.0:80\"\nbody_limits = \"1MiB\"\n");
    assert!(text.starts_with("hookline.toml:5: "), "{text}");
    assert!(text.contains("body_limits") && text.contains("`body_limit`"), "{text}");
}

#[test]
fn a_wrong_type_is_named_with_its_line_and_key() {
    let text = error("[log]\npartitions = \"many\"\n");
    assert!(text.starts_with("hookline.toml:4: log.partitions: "), "{text}");
    assert!(text.contains("expected u32"), "{text}");
}

#[test]
fn a_missing_secret_is_named_with_its_line_and_key() {
    let text = error("[sources.github]\nverify.github = {}\nsecrets = [\"env:HOOKLINE_TEST_ABSENT\"]\n");
    assert!(text.starts_with("hookline.toml:5: sources.github.secrets: "), "{text}");
    assert!(text.contains("HOOKLINE_TEST_ABSENT is not set"), "{text}");
}

#[test]
fn a_secret_pasted_into_the_file_is_refused_and_not_repeated() {
    let text = error("[sources.github]\nverify.github = {}\nsecrets = [\"hunter2\"]\n");
    assert!(text.contains("by reference") && !text.contains("hunter2"), "{text}");
}

#[test]
fn an_unknown_sink_is_named_with_the_known_ones() {
    let text = error("[pipelines.p]\nstate_dir = \"/tmp\"\n[pipelines.p.sink.oracle]\nurl = \"x\"\n");
    assert!(
        text.contains("oracle") && text.contains("postgres") && text.contains("hookline.toml:5"),
        "{text}"
    );
}

#[test]
fn a_bad_pointer_is_named_with_its_line_and_what_is_allowed() {
    let secrets = secret();
    let text =
        error(&format!("[sources.g]\nverify.github = {{}}\nsecrets = {secrets}\nentity = \"repo.id\"\n"));
    assert!(text.starts_with("hookline.toml:6: sources.g.entity: "), "{text}");
    assert!(text.contains("JSON pointer"), "{text}");
}

#[test]
fn a_template_without_the_body_is_refused() {
    let secrets = secret();
    let text = error(&format!(
        "[sources.g]\nid = \"/id\"\nsecrets = {secrets}\nverify.hmac = {{ header = \"x\", template = \"{{id}}\" }}\n"
    ));
    assert!(text.starts_with("hookline.toml:6: ") && text.contains("{body}"), "{text}");
}

#[test]
fn connections_have_secrets_of_their_own() {
    let secrets = secret();
    let both = format!(
        "[sources.g]\nverify.github = {{}}\nsecrets = {secrets}\nconnection = \"path\"\n\
         [sources.g.connections.a]\nsecrets = {secrets}\n"
    );
    assert!(error(&both).contains("either `secrets`"), "{}", error(&both));
}

#[test]
fn a_retention_below_the_window_is_refused() {
    let text = error(
        "[log]\nretention = \"1d\"\n[pipelines.p]\nstate_dir = \"/tmp\"\nsink.sqlite = { path = \"x\" }\n",
    );
    assert!(text.contains("log.retention") && text.contains("deduplication window"), "{text}");
}

#[test]
fn a_property_that_a_guarantee_rests_on_is_refused() {
    let text = error("[kafka.properties]\nacks = \"1\"\n");
    assert!(text.starts_with("hookline.toml:4: kafka.properties.acks: "), "{text}");
}
