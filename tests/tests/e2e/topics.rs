//! Topics are created as the guarantees need them, or checked, with an error that names the way out.

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::{Isolation, read_all};
use hookline_tests::{kafka_topics, wait};
use sandbox::sources::CONNECTIONS;

use crate::common::{Instance, PATIENCE, Sink, Site, order, processor, stderr, stdout};

/// A topic's name, partitions and settings, and what the error must say.
type Case<'a> = (&'a str, i32, &'a [(&'a str, &'a str)], &'a [&'a str]);

#[test]
fn topics_are_created_with_the_settings_that_the_guarantees_need() {
    let site = Site::new("created", Kafka::shared(), 3);
    let sink = Sink::Kafka("created.applied".to_owned());
    let mut instance = site.instance("only", &sink);

    // A dry run prints them and creates nothing.
    let printed = processor(&site, "run", &instance, &["--dry-run"]);
    assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
    let own = [
        "created.events",
        "created.applied",
        "hookline.created.journal",
        "hookline.created.snapshots",
        "hookline.created.dead-letters",
    ];
    let printed = stdout(&printed);
    for topic in own {
        assert!(printed.contains(&format!("--topic {topic} --partitions 3 ")), "{printed}");
        assert!(!kafka_topics::names(site.bootstrap()).contains(topic), "{topic} is there");
    }

    instance.program.spawn();
    instance.program.wait_ready();
    let limit = |topic: &str, key: &str| {
        let settings = kafka_topics::settings(site.bootstrap(), topic);
        settings.get(key).unwrap_or_else(|| panic!("{topic}: {key}")).clone()
    };
    for topic in own {
        assert_eq!(limit(topic, "cleanup.policy"), "delete", "{topic}");
        assert_eq!(limit(topic, "unclean.leader.election.enable"), "false", "{topic}");
        let line = printed.lines().find(|line| line.contains(&format!("--topic {topic} "))).unwrap();
        // What was printed is what was made.
        for setting in line.split(" --config ").skip(1) {
            let (key, value) = setting.split_once('=').unwrap();
            assert_eq!(limit(topic, key), value, "{topic}: {key}");
        }
    }
    assert_eq!(limit("created.events", "message.timestamp.type"), "LogAppendTime");
    for topic in own.iter().filter(|topic| **topic != "created.applied") {
        assert_eq!(limit(topic, "retention.ms"), "-1", "{topic}");
    }
    let bytes = |topic: &str| limit(topic, "max.message.bytes").parse::<usize>().unwrap();
    assert!(bytes("created.events") > crate::common::BODY_LIMIT);
    assert!(bytes("hookline.created.dead-letters") > bytes("created.events"));
}

#[test]
fn a_topic_that_is_not_as_it_must_be_is_refused_with_what_to_do() {
    let kafka = Kafka::shared();
    let cases: [Case<'_>; 4] = [
        (
            "uneven",
            3,
            &[],
            &["topic uneven.events has 3 partitions, but 2 are configured", "log.partitions = 3"],
        ),
        (
            "forgetful",
            2,
            &[("message.timestamp.type", "LogAppendTime"), ("retention.ms", "60000")],
            &["topic forgetful.events: retention.ms is 60000, but must be", "kafka-configs --alter"],
        ),
        (
            "narrow",
            2,
            &[("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", "1000")],
            &[
                "topic narrow.events: max.message.bytes is 1000, but must be at least",
                "kafka-configs --alter",
            ],
        ),
        (
            "producers-clock",
            2,
            &[("retention.ms", "-1"), ("max.message.bytes", "2000000")],
            &["message.timestamp.type is CreateTime, but must be LogAppendTime"],
        ),
    ];
    for (name, partitions, settings, expected) in cases {
        let site = Site::new(name, kafka, 2);
        kafka.create_topic(&site.topic(), partitions, settings);
        let sink = Sink::Kafka(format!("{name}.applied"));
        let instance = site.instance("only", &sink);
        let output = processor(&site, "run", &instance, &[]);
        assert_eq!(output.status.code(), Some(2), "{name}: {}", stderr(&output));
        for part in expected {
            assert!(stderr(&output).contains(part), "{name}: `{part}` is not in {}", stderr(&output));
        }
        // The pipeline's own topics are not made beside a log that is wrong.
        assert!(!kafka_topics::names(site.bootstrap()).contains(&format!("{name}.applied")));

        // ingest, which others may depend on being there, says so and takes nothing.
        let mut ingest = site.ingest();
        ingest.spawn();
        ingest.wait_log(expected[0].split_once(": ").map_or(expected[0], |(_, text)| text), PATIENCE);
        wait::until("/readyz", PATIENCE, || (ingest.readyz()?.0 == 503).then_some(()));
        assert_eq!(site.post_fleet(&Client::new(), "evt_too_early").status, 503);
    }
}

#[test]
fn a_sinks_topic_with_another_partition_count_is_refused() {
    let site = Site::new("output", Kafka::shared(), 2);
    Kafka::shared().create_topic("output.applied", 5, &[]);
    let sink = Sink::Kafka("output.applied".to_owned());
    let instance: Instance = site.instance("only", &sink);
    let output = processor(&site, "run", &instance, &[]);
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert!(stderr(&output).contains("topic output.applied has 5 partitions"), "{}", stderr(&output));
}

#[test]
fn each_source_has_its_topic_and_what_deletes_is_a_tombstone_under_its_entitys_key() {
    let site = Site::new("split", Kafka::shared(), 2);
    let sink = Sink::Kafka("split.{source}".to_owned());
    let deleted = r#"sink.kafka.deleted = ["purchase_order.deleted"]"#;
    let mut instance = site.instance_with("split", "only", &sink, deleted);
    let _ingest = site.ingest().started();
    instance.program.spawn();
    instance.program.wait_ready();
    let client = Client::new();
    let last = r#"{"id":"evt_2","type":"purchase_order.deleted","sequence":2,"data":{"number":"one"}}"#;
    for body in [order("evt_1", "one", "1"), last.into()] {
        assert_eq!(site.post_order(&client, CONNECTIONS[0], &body).status, 200);
    }
    assert_eq!(site.post_fleet(&client, "evt_3").status, 200);
    site.wait_caught_up();

    let outputs = |topic: &str| read_all(site.bootstrap(), topic, Isolation::ReadCommitted);
    let [written, deleted] = <[_; 2]>::try_from(outputs("split.makini")).unwrap();
    assert_eq!((&written.value, &deleted.value), (&Some(order("evt_1", "one", "1")), &None));
    assert_eq!((&written.key, deleted.header("ce_id").as_deref()), (&deleted.key, Some("evt_2")));
    let fleet: Vec<_> = outputs("split.fleet").iter().map(|record| record.header("ce_id")).collect();
    assert_eq!(fleet, [Some("evt_3".to_owned())]);
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}", stderr(&verified));
}
