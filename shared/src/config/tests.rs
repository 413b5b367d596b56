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
    assert_eq!(config.pipelines.len(), 8);
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
    assert!(error(&both).contains("beside the source's own"), "{}", error(&both));
    let neither = "[sources.g]\nverify.github = {}\nconnection = \"path\"\n[sources.g.connections.a]\n";
    assert!(error(neither).contains("needs at least one secret"), "{}", error(neither));
}

#[test]
fn a_gap_is_filled_by_a_provider_that_can_be_asked() {
    let secrets = secret();
    let with = |policy: &str, one: &str| {
        format!(
            "[sources.g]\nverify.github = {{}}\nsecrets = {secrets}\nconnection = \"path\"\nentity = \"/id\"\n\
             order.sequence = {{ at = \"/n\", gap_policy = \"{policy}\" }}\n\
             [sources.g.poll]\nurl = \"https://api.example\"\n[sources.g.poll.resources.orders]\n\
             path = \"/orders\"\nbody = '{{\"n\":{{record}}}}'\n{one}"
        )
    };
    let parse = |text: &str| {
        Config::parse(&format!("{MINIMAL}{text}"), Path::new("hookline.toml"), Secrets::All).unwrap()
    };
    for policy in ["backfill_or_skip", "backfill_or_park"] {
        let text = error(&with(policy, ""));
        assert!(text.starts_with("hookline.toml:8: sources.g.order.sequence.gap_policy: "), "{text}");
        assert!(text.contains("[sources.g.poll.resources.RESOURCE] must have `one`"), "{text}");
        assert!(
            parse(&with(policy, "one = \"/orders/{entity}\"\ntype = \"order\"\n")).sources["g"]
                .asks_for_missing()
        );
    }
    for policy in ["skip", "park"] {
        assert!(!parse(&with(policy, "")).sources["g"].asks_for_missing());
    }
    assert!(error(&with("wait", "")).contains("backfill_or_park"), "the policies are named");
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

const LAKE: &str = "[pipelines.p]\nstate_dir = \"/tmp\"\n[pipelines.p.sink.snowflake]\naccount = \"acme\"\nuser = \"u\"\n\
                    warehouse = \"W\"\ndatabase = \"D\"\n";

#[test]
fn a_snowflake_sink_has_one_way_to_log_in() {
    let file = format!("\"file:{}/src/config/tests.rs\"", env!("CARGO_MANIFEST_DIR"));
    let both = format!("{LAKE}password = {file}\nprivate_key = {file}\n");
    for text in [error(LAKE), error(&both)] {
        assert!(
            text.contains("pipelines.p.sink.snowflake") && text.contains("`private_key` or `password`"),
            "{text}"
        );
    }
    let text = error(&format!("{LAKE}password = {file}\nprivate_key_passphrase = {file}\n"));
    assert!(text.contains("snowflake.private_key_passphrase: is of no use"), "{text}");
    let missing = error(&format!("{LAKE}private_key = \"env:HOOKLINE_NO_SUCH_KEY\"\n"));
    assert!(
        missing.contains("snowflake.private_key") && missing.contains("HOOKLINE_NO_SUCH_KEY"),
        "{missing}"
    );
    let config = Config::parse(
        &format!("{MINIMAL}{LAKE}password = {file}\n"),
        Path::new("hookline.toml"),
        Secrets::Pipeline("p"),
    );
    let SinkConfig::Snowflake(sink) = &config.unwrap().pipelines["p"].sink else { panic!("not Snowflake") };
    assert!(sink.password_value.is_some() && sink.schema.get_ref() == "PUBLIC");
}

#[test]
fn credentials_go_to_snowflake_by_tls_alone() {
    let with = |url: &str| format!("{LAKE}password = \"env:PATH\"\nurl = \"{url}\"\n");
    for url in ["http://lake.example", "http://127.0.0.1.example", "lake.example", "ftp://lake.example"] {
        let text = error(&with(url));
        assert!(text.contains("snowflake.url: has the form https://host"), "{text}");
    }
    for url in ["https://lake.example", "http://127.0.0.1:8080", "http://localhost"] {
        let config = format!("{MINIMAL}{}", with(url));
        Config::parse(&config, Path::new("hookline.toml"), Secrets::All).unwrap();
    }
    let text = error(&with("https://x").replace("\"acme\"", "\"https://acme\""));
    assert!(text.contains("snowflake.account: is the part of the account's address"), "{text}");
    let text = error(&with("https://x").replace("\"D\"", "\"\""));
    assert!(text.contains("snowflake.database: a name has 1 to 255"), "{text}");
}

#[test]
fn how_events_are_gathered_follows_the_sink_and_has_limits() {
    let parse = |more: &str| {
        let text =
            format!("{MINIMAL}{LAKE}password = \"env:PATH\"\n[pipelines.q]\nstate_dir = \"/tmp\"\n{more}");
        Config::parse(&text, Path::new("hookline.toml"), Secrets::All)
    };
    let config = parse("sink.sqlite = { path = \"x\" }\n").unwrap();
    assert!(config.pipelines["q"].batch().interval.0.is_zero());
    assert_eq!(config.pipelines["p"].batch().interval, crate::units::Span::secs(5));
    let given = parse("sink.sqlite = { path = \"x\" }\nbatch = { interval = \"1m\" }\n").unwrap();
    assert_eq!(given.pipelines["q"].batch().interval, crate::units::Span::secs(60));
    for (wrong, key) in [
        ("interval = \"11m\"", "interval"),
        ("events_max = 0", "events_max"),
        ("bytes_max = \"65MiB\"", "bytes_max"),
    ] {
        let text = parse(&format!("sink.sqlite = {{ path = \"x\" }}\nbatch = {{ {wrong} }}\n")).unwrap_err();
        assert!(text.to_string().contains(&format!("pipelines.q.batch.{key}: must be")), "{text}");
    }
}

/// A source whose connections have statuses, and a pipeline that keeps them.
fn statuses(status: &str, sink: &str) -> String {
    let secrets = secret();
    format!(
        "[sources.g]\nverify.github = {{}}\nsecrets = {secrets}\nconnection = \"path\"\nentity = \"/id\"\n\
         [sources.g.status]\n{status}\n[sources.other]\nverify.github = {{}}\nsecrets = {secrets}\n\
         [pipelines.p]\nstate_dir = \"/tmp\"\n{sink}\n"
    )
}

#[test]
fn a_status_is_told_by_types_or_by_values_and_by_one_list_each() {
    for (status, expected) in [
        ("", "sources.g.status: tells nothing"),
        ("ignore = [\"x\"]", "sources.g.status: tells nothing"),
        (
            "active = [\"a\"]\noffline = [\"b\", \"a\"]",
            "10: sources.g.status.offline: `a` is told by `a` of `active`",
        ),
        ("active = [\"a.*\"]\nrevoked = [\"a.b\"]", "10: sources.g.status.revoked: `a.b` is told by `a.*`"),
        ("active = [\"a\"]\nat = \"/s\"", "sources.g.status.types: is needed"),
        ("active = [\"a\"]\ntypes = [\"b\"]", "sources.g.status.types: goes with `at`"),
        ("active = [\"a\"]\nignore = [\"b\"]", "sources.g.status.ignore: goes with `at`"),
        ("active = [\"a\"]\nreason = \"path\"", "sources.g.status.reason: is a JSON pointer"),
        ("online = [\"a\"]", "unknown field `online`"),
    ] {
        let text = error(&statuses(status, "sink.connections = {}"));
        assert!(text.contains(expected), "{status}: {text}");
    }
    let text = error(&statuses("active = [\"a\"]", "sink.connections = {}").replacen(
        "connection = \"path\"\n",
        "",
        1,
    ));
    assert!(text.contains("sources.g.status: needs `connection`"), "{text}");
    let text =
        error(&statuses("active = [\"a\"]", "sink.connections = {}").replacen("entity = \"/id\"\n", "", 1));
    assert!(text.contains("sources.g.status: `a` has no entity"), "{text}");
}

#[test]
fn a_pipeline_of_statuses_takes_what_tells_them() {
    let parse = |status: &str, sink: &str| {
        Config::parse(
            &format!("{MINIMAL}{}", statuses(status, sink)),
            Path::new("hookline.toml"),
            Secrets::All,
        )
    };
    let sink = "sink.connections = {}";
    let config = parse("active = [\"a\"]\noffline = [\"b.*\"]", sink).unwrap();
    let pipeline = &config.pipelines["p"];
    assert!(pipeline.takes("g") && !pipeline.takes("other"));
    assert_eq!(pipeline.types, Some(vec!["a".to_owned(), "b.*".to_owned()]));
    assert_eq!(pipeline.sink.connections().unwrap().topic, "hookline.connections");
    assert_eq!(pipeline.sink.connections().unwrap().sources.len(), 1);
    let by_value = parse("active = [\"ok\"]\nat = \"/s\"\ntypes = [\"state\"]", sink).unwrap();
    assert_eq!(by_value.pipelines["p"].types, Some(vec!["state".to_owned()]));
    for (more, expected) in [
        ("sources = [\"other\"]", "`other` tells no status"),
        ("batch.events_max = 10001", "pipelines.p.batch.events_max: must be at most 10000"),
        ("tables.t.columns = {}", "pipelines.p.tables"),
    ] {
        let text = parse("active = [\"a\"]", &format!("{sink}\n{more}")).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
    let text = error("[pipelines.p]\nstate_dir = \"/tmp\"\nsink.connections = {}\n");
    assert!(text.contains("needs a source that tells statuses"), "{text}");
    let text = error(&statuses("active = [\"a\"]", "sink.connections.topic = \"hookline.events\""));
    assert!(text.contains("is the event log itself"), "{text}");
}

#[test]
fn a_database_keeps_a_table_of_statuses_if_a_source_tells_them() {
    let with = |sink: &str, more: &str| {
        let text = statuses("active = [\"a\"]", &format!("{sink}\n{more}"));
        Config::parse(&format!("{MINIMAL}{text}"), Path::new("hookline.toml"), Secrets::None)
    };
    let sqlite = |name: &str| format!("sink.sqlite = {{ path = \"/tmp/x.db\", connections = \"{name}\" }}");
    let config = with(&sqlite("hookline_connections"), "").unwrap();
    let pipeline = &config.pipelines["p"];
    let table = pipeline.sink.connections_table().unwrap();
    assert_eq!(table.name.get_ref(), "hookline_connections");
    assert_eq!(table.sources.keys().collect::<Vec<_>>(), ["g"]);
    // Unlike sink.connections, it leaves the pipeline all its events.
    assert!(pipeline.takes("other") && pipeline.types.is_none());
    assert!(
        with("sink.sqlite.path = \"/tmp/x.db\"", "").unwrap().pipelines["p"]
            .sink
            .connections_table()
            .is_none()
    );
    let database = |sink: &str| format!("sink.{sink} = {{ url = \"env:U\", connections = \"c\" }}");
    let snowflake = "sink.snowflake = { account = \"a\", user = \"u\", password = \"env:P\", warehouse = \"w\", \
                     database = \"d\", connections = \"c\" }";
    for sink in [&*database("postgres"), &*database("mysql"), snowflake] {
        assert!(with(sink, "").unwrap().pipelines["p"].sink.connections_table().is_some());
    }
    for (sink, more, expected) in [
        (&*sqlite(""), "", "15: pipelines.p.sink.sqlite.connections: is a table's name"),
        (&*sqlite("a b"), "", "is a table's name: 1 to 63 letters, digits and `_`"),
        (&*sqlite("Hookline_Events"), "", "`Hookline_Events` is another table of the pipeline's"),
        (&*sqlite("orders"), "tables.Orders.columns = {}", "`orders` is another table of the pipeline's"),
        (
            &*sqlite("c"),
            "types = [\"b\", \"c.*\"]",
            "pipelines.p.types: leaves out every event that tells a status",
        ),
        (&*sqlite("c"), "sources = [\"other\"]", "needs a source of the pipeline that tells statuses"),
        (&*database("mongodb"), "", "is for PostgreSQL, MySQL, Snowflake and SQLite"),
        ("sink.http = { url = \"env:U\", connections = \"c\" }", "", "unknown field `connections`"),
    ] {
        let text = with(sink, more).unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn alerts_are_checked_before_the_first_one() {
    let file = format!("\"file:{}/src/config/tests.rs\"", env!("CARGO_MANIFEST_DIR"));
    let slack = format!("[alerts.channels.a.slack]\nurl = {file}\n");
    let email = "[alerts.channels.a.email]\nhost = \"h\"\nfrom = \"a@b.c\"\n";
    for (alerts, expected) in [
        (format!("[alerts]\nafter = \"61m\"\n{slack}"), "alerts.after: must be at most"),
        (format!("[alerts]\nretry_for = \"25h\"\n{slack}"), "alerts.retry_for: must be"),
        (format!("[alerts]\nstatuses = [\"active\"]\n{slack}"), "alerts.statuses: needs"),
        ("[alerts]\nchannels = {}\n".to_owned(), "alerts.channels: needs at least one"),
        (
            format!("[alerts]\nreconnect_url = \"https://h/{{name}}\"\n{slack}"),
            "has {name}, but may hold {source}",
        ),
        (format!("{slack}text = \"{{who}}\"\n"), "5: alerts.channels.a.slack.text: has {who}, but may hold"),
        (
            format!("{email}to = [\"x@y.z\"]\nsubject = \"{{x}}\"\n"),
            "alerts.channels.a.email.subject: has {x}",
        ),
        (email.to_owned(), "alerts.channels.a.email.to: needs either"),
        (format!("{email}to = [\"x@y.z\"]\nto_label = \"email\"\n"), "email.to: needs either"),
        (format!("{email}to = [\"x@y.z\"]\nuser = \"u\"\n"), "go together"),
        (
            format!("{email}to = [\"x@y.z\"]\nuser = \"u\"\npassword = {file}\ntls = \"none\"\n"),
            "in the clear",
        ),
        ("[alerts.channels.a.pager]\nurl = \"x\"\n".to_owned(), "unknown variant `pager`"),
        ("[alerts.channels.a.slack]\nurl = \"https://hooks.slack.com/hunter2\"\n".to_owned(), "by reference"),
    ] {
        let text = error(&alerts);
        assert!(text.contains(expected) && !text.contains("hunter2"), "{alerts}: {text}");
    }
    let absent = slack.replace(&file, "\"env:HOOKLINE_TEST_ABSENT\"");
    assert!(error(&absent).contains("HOOKLINE_TEST_ABSENT is not set"));
    let text = format!("{MINIMAL}{absent}");
    let config = Config::parse(&text, Path::new("hookline.toml"), Secrets::Pipeline("none")).unwrap();
    assert_eq!(config.alerts.unwrap().statuses.len(), 3);
}
