//! The sink of connections' statuses on a real Kafka: what every sink with a fence promises, as far as it goes for one
//! that keeps the newest status of each connection and no events; and what it alone promises.
//!
//! Left out, since there are no rows of events: that every attribute and body is stored, entities, deletions, what a
//! constraint or a calendar forbids, and rows that somebody moved. Left out of what a server promises: what a proxy
//! shows, since Kafka's client goes to the addresses that brokers tell; `tests/run faults` does that.
//!
//! `tests/run sinks` has what they need; without it they fail and say so.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test: a panic is its way to fail")]

mod sink_contract;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use hookline_tests::kafka::{Kafka, client_config};
use hookline_tests::kafka_read::{Isolation, Record, read_all};
use hookline_tests::kafka_write::{NewRecord, produce};
use hookline_tests::wait;
use processor::connections::{FENCE_KEY, Standing};
use processor::position::Position;
use processor::sink::{Context, SinkError};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use serde_json::{Value, json};
use shared::config::{ConnectionStatus, ConnectionsSinkConfig, KafkaConfig, SinkConfig};

use sink_contract::statuses::tells;
use sink_contract::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, epoch, fence_promises, halted, ids, retried,
    simple,
};

fence_promises!(Topic::new());

const PARTITIONS: i32 = 8;

/// Each event of the contract, a `push`, tells that the source is active.
const STATUS: &str = r#"
    active = ["push", "online"]
    offline = ["offline"]
    reauthorization_needed = ["expired"]
    reason = "/reason"
"#;

/// A topic of its own.
struct Topic {
    name: String,
    bootstrap: String,
}

impl Topic {
    fn new() -> Self {
        Self::on(Kafka::shared())
    }

    fn on(kafka: &Kafka) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("statuses-{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        // Also deleted, as far as a test asks for it.
        kafka.create_topic(&name, PARTITIONS, &[("cleanup.policy", "compact,delete")]);
        wait::until("leaders of a new topic", Duration::from_secs(60), || {
            let client: BaseConsumer = client_config(&kafka.bootstrap()).create().unwrap();
            let answers =
                |partition| client.fetch_watermarks(&name, partition, Duration::from_secs(5)).is_ok();
            (0..PARTITIONS).all(answers).then_some(())
        });
        Self { name, bootstrap: kafka.bootstrap() }
    }

    fn records(&self) -> Vec<Record> {
        read_all(&self.bootstrap, &self.name, Isolation::ReadCommitted)
    }

    fn standings(&self) -> Vec<(i32, Standing)> {
        let records = self.records();
        let standing = |record: &Record| {
            Some((record.partition, serde_json::from_slice(record.value.as_ref()?).unwrap()))
        };
        records.iter().filter(|record| !is_fence(record)).filter_map(standing).collect()
    }

    /// Changes what stands in the newest fence of each partition.
    fn change_fences(&self, change: impl Fn(&mut Value)) {
        let fences: BTreeMap<i32, Value> = self
            .records()
            .iter()
            .filter(|record| is_fence(record))
            .map(|record| (record.partition, serde_json::from_slice(record.value.as_ref().unwrap()).unwrap()))
            .collect();
        for (partition, mut fence) in fences {
            change(&mut fence);
            let value = fence.to_string();
            let record = NewRecord {
                partition: Some(partition),
                key: Some(FENCE_KEY.as_bytes()),
                headers: &[],
                value: Some(value.as_bytes()),
            };
            produce(&self.bootstrap, &self.name, &[record]);
        }
    }
}

fn is_fence(record: &Record) -> bool {
    record.key.as_deref() == Some(FENCE_KEY.as_bytes())
}

impl Place for Topic {
    fn config(&self) -> SinkConfig {
        let kafka = format!("bootstrap_servers = \"{}\"", self.bootstrap);
        let kafka: KafkaConfig = toml::from_str(&kafka).unwrap();
        let mut config: ConnectionsSinkConfig =
            toml::from_str(&format!("topic = \"{}\"", self.name)).unwrap();
        config.sources = BTreeMap::from([("github".to_owned(), toml::from_str(STATUS).unwrap())]);
        config.kafka = Some(kafka);
        SinkConfig::Connections(config)
    }

    /// A status's record names the event and its position; of each event, only that.
    fn events(&self) -> Vec<StoredEvent> {
        let stored = |(partition, standing): (i32, Standing)| StoredEvent {
            partition,
            at: (standing.position.offset, i32::try_from(standing.position.ordinal).unwrap()),
            source: standing.source,
            connection: standing.connection,
            id: standing.event_id,
            kind: standing.event_type,
            entity: None,
            sequence: None,
            time: Some(standing.time),
            content_type: None,
            traceparent: None,
            received_at: String::new(),
            log_offset: standing.position.offset,
            appended_at: String::new(),
            body: Vec::new(),
        };
        self.standings().into_iter().map(stored).collect()
    }

    fn entities(&self) -> Vec<StoredEntity> {
        unreachable!("no test of entities is asked for")
    }

    fn tamper(&self, how: Tamper) {
        match how {
            Tamper::FenceOrdinal(to) => self.change_fences(|fence| fence["position"]["ordinal"] = json!(to)),
            Tamper::Pipeline(to) => self.change_fences(|fence| fence["pipeline"] = json!(to)),
            Tamper::Version(to) => self.change_fences(|fence| fence["version"] = json!(to)),
            Tamper::MoveEvent { .. } => unreachable!("there are no rows of events"),
        }
    }

    fn refuse_bad(&self) {
        unreachable!("a topic refuses nothing")
    }
}

#[test]
fn a_status_and_the_fence_are_one_transaction_and_a_repeat_keeps_its_beginning() {
    let topic = Topic::new();
    let mut owner = Owner::claim(&topic, 2, epoch(1));
    owner.deliver(&[tells(1, "a/b", "online", "{}"), tells(2, "c", "offline", r#"{"reason":"x"}"#)]).unwrap();
    owner
        .deliver(&[tells(3, "a/b", "expired", "{}"), tells(4, "c", "offline", r#"{"reason":"y"}"#)])
        .unwrap();
    owner
        .deliver(&[tells(5, "c", "ping", "{}"), tells(6, "c", "online", "{}"), tells(7, "c", "online", "{}")])
        .unwrap();
    let records = topic.records();
    assert!(records.iter().all(|record| record.partition == 2));
    let keys: Vec<String> =
        records.iter().map(|r| String::from_utf8(r.key.clone().unwrap()).unwrap()).collect();
    let (fence, ab, c) = (FENCE_KEY, "github/a%2Fb", "github/c");
    // The claim's fence; then each batch's comes first.
    assert_eq!(keys, [fence, fence, ab, c, fence, ab, c, fence, c, c]);
    let told: Vec<_> = topic
        .standings()
        .into_iter()
        .map(|(_, s)| (s.event_id, s.status, s.since[17..19].to_owned(), s.previous, s.reason))
        .collect();
    let (active, offline) = (ConnectionStatus::Active, ConnectionStatus::Offline);
    let text = |text: &str| Some(text.to_owned());
    let told_as = |id: &str, status, since: &str, previous, reason| {
        (id.to_owned(), status, since.to_owned(), previous, reason)
    };
    assert_eq!(
        told,
        [
            told_as("e1", active, "01", None, None),
            told_as("e2", offline, "02", None, text("x")),
            told_as("e3", ConnectionStatus::ReauthorizationNeeded, "03", Some(active), None),
            told_as("e4", offline, "02", None, text("y")),
            told_as("e6", active, "06", Some(offline), None),
            told_as("e7", active, "06", Some(offline), None),
        ]
    );
    let mut count = |offset| owner.sink.count(2, Position { offset, ordinal: 0 }).unwrap();
    assert_eq!([count(0), count(1), count(3), count(5), count(7)], [0, 1, 3, 5, 7]);
}

#[test]
fn a_successor_goes_on_with_the_statuses_that_are_there() {
    let topic = Topic::new();
    let mut first = Owner::claim(&topic, 0, epoch(1));
    first.deliver(&[tells(1, "a", "offline", "{}")]).unwrap();
    let mut second = Owner::claim(&topic, 0, epoch(2));
    second.deliver(&[tells(2, "a", "offline", "{}"), tells(3, "a", "online", "{}")]).unwrap();
    let since: Vec<_> = topic.standings().into_iter().map(|(_, s)| (s.since, s.previous)).collect();
    let at = |second: u32| format!("2026-03-01T12:00:{second:02}Z");
    assert_eq!(since, [(at(1), None), (at(1), None), (at(3), Some(ConnectionStatus::Offline))]);
    // The partition that was released may be claimed again, by the same sink too.
    second.sink.release(0);
    assert!(matches!(second.deliver(&[tells(4, "a", "online", "{}")]), Err(SinkError::Fenced { .. })));
    second.fence = second.sink.claim(0, epoch(3)).unwrap();
    second.deliver(&[tells(4, "a", "online", "{}")]).unwrap();
    assert_eq!(ids(&topic), ["e1", "e2", "e3", "e4"]);
}

#[test]
fn a_former_owners_open_transaction_is_ended_by_the_claim() {
    let topic = Topic::new();
    let mut old = Owner::claim(&topic, 0, epoch(1));
    old.deliver(&[simple(1)]).unwrap();
    let mut owners = vec![old];
    for claim in 2..6 {
        let mut new = Owner::claim(&topic, 0, epoch(claim));
        new.deliver(&[simple(claim)]).unwrap();
        for old in &mut owners {
            assert!(matches!(old.deliver(&[simple(99)]), Err(SinkError::Fenced { .. })));
        }
        owners.push(new);
    }
    assert_eq!(ids(&topic), ["e1", "e2", "e3", "e4", "e5"]);
}

/// As a lane does: it starts again with another sink, and delivers what is beyond the fence.
#[test]
fn a_broker_that_is_away_or_hangs_is_tried_again_and_nothing_is_lost_or_doubled() {
    let mut kafka = Kafka::start();
    let topic = Topic::on(&kafka);
    let mut owner = Owner::claim(&topic, 0, epoch(1));
    owner.deliver(&[simple(0)]).unwrap();
    for (claim, hangs) in [(2, false), (3, true)] {
        if hangs {
            kafka.pause()
        } else {
            kafka.kill()
        }
        let effects = [simple(2 * claim), simple(2 * claim + 1)];
        retried(owner.deliver(&effects));
        if hangs {
            kafka.resume()
        } else {
            kafka.restart()
        }
        owner = wait::until("a claim", Duration::from_secs(60), || {
            let mut sink = sink_contract::open(&topic).unwrap();
            let fence = sink.claim(0, epoch(claim)).ok()?;
            Some(Owner { sink, partition: 0, fence })
        });
        let beyond: Vec<_> =
            effects.into_iter().filter(|effect| effect.position > owner.fence.position).collect();
        owner.deliver(&beyond).unwrap();
    }
    assert_eq!(ids(&topic), ["e0", "e4", "e5", "e6", "e7"]);
}

#[test]
fn a_topic_of_another_pipeline_cluster_or_log_halts() {
    let topic = Topic::new();
    Owner::claim(&topic, 0, epoch(1)).deliver(&[simple(1)]).unwrap();
    for foreign in [
        Context { pipeline: "other".into(), ..context() },
        Context { cluster_id: "cluster-2".into(), ..context() },
        Context { topic: "elsewhere".into(), ..context() },
    ] {
        let mut sink = sink_contract::open_with(&topic, &foreign).unwrap();
        for outcome in [sink.claim(0, epoch(2)), sink.fence(0)] {
            let message = halted(outcome);
            assert!(
                message.contains("belong to pipeline `shop`") && message.contains("of its own"),
                "{message}"
            );
        }
    }
    topic.tamper(Tamper::Version(4711));
    assert!(halted(sink_contract::open(&topic).unwrap().claim(0, epoch(2))).contains("4711"));
    assert_eq!(ids(&topic), ["e1"]);
}

#[test]
fn what_was_compacted_away_is_not_counted_wrong() {
    let topic = Topic::new();
    let mut owner = Owner::claim(&topic, 0, epoch(1));
    for n in 1..=4 {
        owner.deliver(&[simple(2 * n), simple(2 * n + 1)]).unwrap();
    }
    // As compaction does: the newest fence alone is left.
    hookline_tests::kafka_topics::delete_all_records(&Kafka::shared().bootstrap(), &topic.name);
    let mut again = Owner::claim(&topic, 1, epoch(1));
    assert_eq!(again.sink.count(1, Position { offset: 0, ordinal: 0 }).unwrap(), 0);
    owner.deliver(&[simple(10), simple(11)]).unwrap();
    let mut count = |offset| again.sink.count(0, Position { offset, ordinal: 0 });
    assert_eq!([count(9).unwrap(), count(10).unwrap(), count(11).unwrap()], [8, 9, 10]);
    assert!(halted(count(5)).contains("compacted away"));
}

#[test]
fn a_value_that_nobody_configured_is_refused_alone() {
    let topic = Topic::new();
    let SinkConfig::Connections(mut config) = topic.config() else { panic!("not of connections") };
    let status = "at = \"/status\"\ntypes = [\"state\"]\nactive = [\"ok\"]\nignore = [\"syncing\"]";
    config.sources = BTreeMap::from([("github".to_owned(), toml::from_str(status).unwrap())]);
    let mut sink = processor::sink::open(&SinkConfig::Connections(config), &context()).unwrap().unwrap();
    let fence = sink.claim(0, epoch(1)).unwrap();
    let mut owner = Owner { sink, partition: 0, fence };
    let bad = tells(2, "a", "state", r#"{"status":"hunter2"}"#);
    let good =
        [tells(1, "a", "state", r#"{"status":"ok"}"#), tells(3, "a", "state", r#"{"status":"syncing"}"#)];
    match owner.deliver(&[good[0].clone(), bad]) {
        Err(SinkError::Refused(message)) => {
            assert!(message.contains("offset 2") && !message.contains("hunter2"), "{message}");
        }
        other => panic!("not refused: {other:?}"),
    }
    assert_eq!(ids(&topic), [""; 0]);
    owner.deliver(&good).unwrap();
    assert_eq!(ids(&topic), ["e1"]);
}

#[test]
fn a_long_batch_is_one_transaction() {
    let topic = Topic::new();
    let mut owner = Owner::claim(&topic, 0, epoch(1));
    let effects: Vec<_> = (0..10_000).map(simple).collect();
    owner.deliver(&effects).unwrap();
    assert_eq!(owner.sink.fence(0).unwrap(), owner.fence);
    assert_eq!(topic.standings().len(), 10_000);
    assert_eq!(Owner::claim(&topic, 0, epoch(2)).fence.position, owner.fence.position);
}
