//! The HTTP sink, on a receiver that does what the README asks of one: it takes an event once by its
//! Idempotency-Key, and shows of an entity what has the highest position.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test: a panic is its way to fail")]

mod sink_contract;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use processor::fold::Effect;
use processor::position::{Fence, Position};
use processor::sink::{self, Sink, SinkError};
use sha2::Sha256;
use shared::config::{HttpSinkConfig, SinkConfig};
use shared::event::Event;

use sink_contract::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, effect, epoch, event, halted, ids, open,
    retried, simple, tests_of,
};

tests_of! { every, Receiver::start();
    a_batch_delivered_again_is_fenced_off
    bodies_come_back_byte_for_byte
    an_event_without_an_entity_touches_no_entity
    of_an_entity_the_event_applied_last_is_shown
    a_deletion_is_an_event_and_stays_the_last_one
    what_a_text_column_cannot_hold_is_refused
    a_batch_out_of_order_halts_and_nothing_is_applied
}

const SECRETS: [&str; 2] = ["whsec_b25lIHNlY3JldCBvZiBodW50ZXIy", "whsec_YW5vdGhlciBzZWNyZXQ="];

/// One request, as it came.
#[derive(Clone, Debug)]
struct Got {
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    fn id(&self) -> &str {
        self.header("ce-id")
    }

    /// Partition, offset, ordinal.
    fn position(&self) -> (i32, i64, i32) {
        let (partition, position) = self.header("hookline-position").split_once(':').unwrap();
        let (offset, ordinal) = position.split_once('.').unwrap();
        (partition.parse().unwrap(), offset.parse().unwrap(), ordinal.parse().unwrap())
    }
}

/// What the receiver answers; `None`: it takes the event, and then ends the connection.
type Answer = Option<(u16, &'static str)>;
type Decide = Box<dyn FnMut(&Got) -> Answer + Send>;

struct State {
    /// All requests, in the order in which they came.
    got: Vec<Got>,
    /// By Idempotency-Key.
    taken: BTreeMap<String, Got>,
    decide: Decide,
}

/// An HTTP server on a port of its own.
struct Receiver {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl Receiver {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = State { got: Vec::new(), taken: BTreeMap::new(), decide: Box::new(|_| Some((204, ""))) };
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                thread::spawn(move || serve(stream, &state));
            }
        });
        Self { port, state }
    }

    fn answers(&self, decide: impl FnMut(&Got) -> Answer + Send + 'static) {
        self.state.lock().unwrap().decide = Box::new(decide);
    }

    fn got(&self) -> Vec<Got> {
        self.state.lock().unwrap().got.clone()
    }

    /// The ids of all requests so far.
    fn got_ids(&self) -> Vec<String> {
        self.got().iter().map(|got| got.id().to_owned()).collect()
    }

    fn at(&self, path: &str) -> SinkConfig {
        config(format!("http://127.0.0.1:{}/{path}", self.port))
    }
}

fn config(url: String) -> SinkConfig {
    let mut config: HttpSinkConfig = toml::from_str("url = \"env:UNUSED\"\ntimeout = \"10s\"").unwrap();
    config.url_value = Some(url.into());
    config.secret_values = SECRETS.map(Into::into).into();
    SinkConfig::Http(config)
}

/// Answers the requests of one connection.
fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(got) = read_request(&mut reader) {
        let answer = {
            let mut state = state.lock().unwrap();
            state.got.push(got.clone());
            let answer = (state.decide)(&got);
            if answer.is_none_or(|(status, _)| (200..300).contains(&status)) {
                state.taken.entry(got.header("idempotency-key").to_owned()).or_insert(got);
            }
            answer
        };
        let Some((status, headers)) = answer else { return };
        let length = if status == 204 { "" } else { "content-length: 7\r\n" };
        let body = if status == 204 { "" } else { "hunter2" };
        let text = format!("HTTP/1.1 {status} x\r\n{headers}{length}\r\n{body}");
        if writer.write_all(text.as_bytes()).is_err() {
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Got> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|count| *count > 0)?;
    assert!(line.starts_with("POST /"), "{line}");
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let former = headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        assert!(former.is_none(), "{name} is there twice");
    }
    let mut body = vec![0; headers["content-length"].parse().unwrap()];
    reader.read_exact(&mut body).ok()?;
    Some(Got { headers, body })
}

impl Place for Receiver {
    fn config(&self) -> SinkConfig {
        self.at("hooks?token=hunter2")
    }

    /// What the receiver took, in the order of positions; of each, only what a request tells.
    fn events(&self) -> Vec<StoredEvent> {
        let mut taken: Vec<_> = self.state.lock().unwrap().taken.values().cloned().collect();
        taken.sort_by_key(Got::position);
        let stored = |got: &Got| StoredEvent {
            partition: got.position().0,
            at: (got.position().1, got.position().2),
            source: got.header("ce-source").to_owned(),
            connection: String::new(),
            id: got.id().to_owned(),
            kind: got.header("ce-type").to_owned(),
            entity: got.headers.get("ce-subject").cloned(),
            sequence: None,
            time: None,
            content_type: None,
            traceparent: None,
            received_at: String::new(),
            log_offset: 0,
            appended_at: String::new(),
            body: got.body.clone(),
        };
        taken.iter().map(stored).collect()
    }

    fn entities(&self) -> Vec<StoredEntity> {
        let mut last = BTreeMap::new();
        for event in self.events() {
            let Some(entity) = event.entity else { continue };
            let (source, connection) = event.source.split_once('/').unwrap_or((&event.source, ""));
            let shown = StoredEntity {
                source: source.to_owned(),
                connection: connection.to_owned(),
                entity: entity.clone(),
                id: event.id,
                kind: event.kind,
                sequence: None,
                at: (event.partition, event.at.0, event.at.1),
                updated: String::new(),
                body: event.body,
            };
            last.insert((event.source.clone(), entity), shown);
        }
        let mut entities: Vec<_> = last.into_values().collect();
        entities.sort_by_key(|entity| entity.at);
        entities
    }

    fn tamper(&self, how: Tamper) {
        unreachable!("a receiver's books are its own: {how:?}");
    }

    fn refuse_bad(&self) {
        self.answers(|got| Some((if got.header("ce-type") == "bad" { 422 } else { 200 }, "")));
    }

    fn is_atomic(&self) -> bool {
        false
    }
}

/// An event of the entity `entity`.
fn of(offset: i64, entity: &str) -> Effect {
    effect(offset, 0, &event(&format!("e{offset}"), Some(entity)), b"{}")
}

/// A lane that starts again from a checkpoint: with another sink.
fn again(receiver: &Receiver, checkpointed: Option<Fence>, applied_below: i64, claim: i64) -> Owner {
    let mut sink: Box<dyn Sink> = open(receiver).unwrap();
    sink.resume(0, checkpointed, applied_below);
    let fence = sink.claim(0, epoch(claim)).unwrap();
    Owner { sink, partition: 0, fence }
}

#[test]
fn a_request_tells_the_event_its_position_and_its_owner() {
    let receiver = Receiver::start();
    let event = Event {
        id: "a b\"%\u{e9}\u{1F980}".into(),
        connection: "acme/1".into(),
        sequence: Some("18446744073709551616".into()),
        content_type: Some("application/json; charset=utf-8".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        ..event("", Some("order\n1"))
    };
    Owner::claim(&receiver, 0, epoch(7))
        .deliver(&[effect(3, 2, &event, b"{\"n\":9007199254740993}\0\xff")])
        .unwrap();
    let [got] = receiver.got().try_into().unwrap();
    let expected = [
        ("content-type", "application/json; charset=utf-8"),
        ("ce-specversion", "1.0"),
        ("ce-id", "a%20b%22%25%C3%A9%F0%9F%A6%80"),
        ("ce-source", "github/acme%252F1"),
        ("ce-type", "push"),
        ("ce-time", "2026-03-01T12:00:00.5+02:00"),
        ("ce-subject", "order%0A1"),
        ("ce-sequence", "18446744073709551616"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("hookline-position", "0:3.2"),
        ("hookline-epoch", "0/7"),
        ("user-agent", concat!("hookline/", env!("CARGO_PKG_VERSION"))),
    ];
    for (name, value) in expected {
        assert_eq!(got.header(name), value, "{name}");
    }
    assert_eq!(got.body, b"{\"n\":9007199254740993}\0\xff");
    assert_eq!(got.header("idempotency-key").len(), 64);
}

/// As a receiver with a Standard Webhooks library does, whichever of the two secrets it has.
#[test]
fn a_receiver_can_verify_the_signature() {
    let receiver = Receiver::start();
    Owner::claim(&receiver, 0, epoch(1)).deliver(&[simple(1)]).unwrap();
    let [got] = receiver.got().try_into().unwrap();
    assert_eq!(got.header("webhook-id"), got.header("idempotency-key"));
    let signed = format!("{}.{}.", got.header("webhook-id"), got.header("webhook-timestamp"));
    let signatures: Vec<_> = got.header("webhook-signature").split(' ').collect();
    assert_eq!(signatures.len(), SECRETS.len());
    for (secret, signature) in SECRETS.iter().zip(signatures) {
        let key = BASE64_STANDARD.decode(secret.trim_start_matches("whsec_")).unwrap();
        let tag = BASE64_STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
        let mac = Hmac::<Sha256>::new_from_slice(&key).unwrap().chain_update(&signed).chain_update(&got.body);
        mac.verify_slice(&tag).unwrap();
    }
}

#[test]
fn an_event_whose_answer_is_lost_is_sent_again_under_the_same_key() {
    let receiver = Receiver::start();
    let mut first = true;
    receiver.answers(move |_| if std::mem::take(&mut first) { None } else { Some((200, "")) });
    Owner::claim(&receiver, 0, epoch(1)).deliver(&[simple(1), simple(2)]).unwrap();
    assert_eq!(receiver.got_ids(), ["e1", "e1", "e2"]);
    assert_eq!(ids(&receiver), ["e1", "e2"]);
}

#[test]
fn what_passes_is_tried_again_in_the_entitys_order() {
    let receiver = Receiver::start();
    let mut seen = BTreeMap::new();
    receiver.answers(move |got| {
        let times = seen.entry(got.id().to_owned()).or_insert(0);
        *times += 1;
        let status = [503, 429, 200][(*times - 1).min(2)];
        Some((status, if status == 429 { "retry-after: 0\r\n" } else { "" }))
    });
    let effects: Vec<_> = (0..12).map(|n| of(n, ["a", "b", "c"][usize::try_from(n % 3).unwrap()])).collect();
    Owner::claim(&receiver, 0, epoch(1)).deliver(&effects).unwrap();
    let got = receiver.got();
    assert_eq!(got.len(), 3 * effects.len());
    for entity in ["a", "b", "c"] {
        let offsets: Vec<_> =
            got.iter().filter(|got| got.header("ce-subject") == entity).map(|got| got.position().1).collect();
        assert!(offsets.is_sorted(), "{entity}: {offsets:?}");
    }
}

/// The receiver answers none before it has one of each entity.
#[test]
fn many_entities_are_sent_at_once() {
    let receiver = Receiver::start();
    let effects: Vec<_> = (0..16).map(|n| of(n, &format!("entity-{n}"))).collect();
    let under_way: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let all = Arc::clone(&under_way);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let all = Arc::clone(&all);
            thread::spawn(move || {
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let mut writer = stream;
                while let Some(got) = read_request(&mut reader) {
                    all.lock().unwrap().insert(got.id().to_owned());
                    while all.lock().unwrap().len() < 16 {
                        thread::sleep(Duration::from_millis(5));
                    }
                    writer.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 0\r\n\r\n").unwrap();
                }
            });
        }
    });
    let sink = sink::open(&config(url), &context()).unwrap().unwrap();
    let mut owner = Owner { sink, partition: 0, fence: Fence::EMPTY };
    owner.fence = owner.sink.claim(0, epoch(1)).unwrap();
    owner.deliver(&effects).unwrap();
    assert_eq!(under_way.lock().unwrap().len(), 16);
    drop(receiver);
}

#[test]
fn of_a_batch_that_failed_only_what_was_not_taken_is_sent_again() {
    let receiver = Receiver::start();
    receiver.answers(|got| Some((if got.id() == "e5" { 500 } else { 200 }, "")));
    let effects: Vec<_> = (1..=9).map(|n| of(n, &format!("entity-{n}"))).collect();
    let mut owner = Owner::claim(&receiver, 0, epoch(1));
    assert!(retried(owner.deliver(&effects)).contains("status 500"));
    assert!(receiver.got_ids().contains(&"e5".to_owned()));
    receiver.answers(|_| Some((200, "")));
    // The lane starts again at the last checkpoint, with another sink.
    let mut owner = again(&receiver, None, 0, 2);
    owner.deliver(&effects).unwrap();
    let mut taken = receiver.got_ids();
    taken.retain(|id| id != "e5");
    taken.sort();
    assert_eq!(taken, ["e1", "e2", "e3", "e4", "e6", "e7", "e8", "e9"]);
    assert_eq!(ids(&receiver).len(), 9);
}

#[test]
fn a_refusal_is_one_events_and_the_others_go_on() {
    let receiver = Receiver::start();
    receiver.refuse_bad();
    let bad = effect(2, 0, &Event { kind: "bad".into(), ..event("hunter2", Some("a")) }, b"hunter2");
    let effects = [of(1, "a"), bad.clone(), of(3, "a"), of(4, "b")];
    let mut owner = Owner::claim(&receiver, 0, epoch(1));
    let refused = |outcome: Result<(), SinkError>| match outcome {
        Err(SinkError::Refused(message)) => {
            assert!(message.contains("status 422") && !message.contains("hunter2"), "{message}");
        }
        other => panic!("not refused: {other:?}"),
    };
    refused(owner.deliver(&effects));
    // What comes after it in its entity waits for what becomes of it; another entity does not.
    assert_eq!(ids(&receiver), ["e1", "e4"]);
    // One by one, as the lane does, and then without the one.
    owner.deliver(&effects[..1]).unwrap();
    refused(owner.deliver(&effects[1..2]));
    owner.deliver(&effects[2..]).unwrap();
    let mut got = receiver.got_ids();
    got.sort();
    assert_eq!(got, ["e1", "e3", "e4", "hunter2", "hunter2"]);
}

#[test]
fn a_receiver_that_fails_is_left_alone_and_then_asked_with_one_event() {
    let receiver = Receiver::start();
    receiver.answers(|_| Some((503, "retry-after: 3\r\n")));
    let effects: Vec<_> = (1..=9).map(|n| of(n, &format!("entity-{n}"))).collect();
    let mut owner = Owner::claim(&receiver, 0, epoch(1));
    retried(owner.deliver(&effects));
    let before = receiver.got().len();
    let mut owner = again(&receiver, None, 0, 2);
    assert!(retried(owner.deliver(&effects)).contains("no request for another"));
    assert_eq!(receiver.got().len(), before, "it was asked again");
    thread::sleep(Duration::from_millis(3_100));
    // Still failing: one event is enough to know.
    retried(owner.deliver(&effects));
    assert_eq!(receiver.got().len(), before + 1);
    receiver.answers(|_| Some((200, "")));
    thread::sleep(Duration::from_millis(3_100));
    owner.deliver(&effects).unwrap();
    assert_eq!(ids(&receiver).len(), 9);
}

#[test]
fn nothing_is_sent_that_a_checkpoint_or_a_lost_journal_covers() {
    let receiver = Receiver::start();
    let fence = Fence { position: Position { offset: 4, ordinal: 0 }, ..Fence::EMPTY };
    let mut owner = again(&receiver, Some(fence), 0, 3);
    assert_eq!(owner.fence, Fence { epoch: epoch(3), ..fence });
    assert_eq!(owner.sink.fence(0).unwrap(), owner.fence);
    owner.deliver(&[of(5, "a")]).unwrap();
    // The journal is gone: the log is folded from its start, and the committed offset is 9.
    let mut owner = again(&receiver, None, 9, 4);
    assert_eq!(owner.fence.position, Position::START);
    owner.deliver(&[of(1, "a"), of(5, "a"), of(8, "a"), of(9, "a")]).unwrap();
    assert_eq!(receiver.got_ids(), ["e5", "e9"]);
    assert!(!owner.sink.keeps_fence());
}

#[test]
fn what_somebody_must_change_halts_and_says_no_secret() {
    let receiver = Receiver::start();
    for (status, headers) in [(401, ""), (403, ""), (404, ""), (410, ""), (307, "location: /elsewhere\r\n")] {
        receiver.answers(move |_| Some((status, headers)));
        let message = halted(Owner::claim(&receiver, 0, epoch(1)).deliver(&[simple(1)]));
        assert!(message.contains(&format!("status {status}")) && !message.contains("hunter2"), "{message}");
    }
    for url in ["https://u:hunter2@h/", "ftp://h/hunter2", "hunter2"] {
        let message = halted(sink::open(&config(url.to_owned()), &context()));
        assert!(message.contains("sink.http.url") && !message.contains("hunter2"), "{message}");
    }
    let SinkConfig::Http(mut wrong) = receiver.config() else { panic!("not HTTP") };
    wrong.secret_values.push("hunter2!".into());
    let message = halted(sink::open(&SinkConfig::Http(wrong), &context()));
    assert!(message.contains("sink.http.secrets") && !message.contains("hunter2"), "{message}");
}

#[test]
fn an_unreachable_receiver_is_tried_again() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for host in [closed.to_string(), "no-such-host.invalid".to_owned()] {
        let config = config(format!("http://{host}/hunter2"));
        let mut sink = sink::open(&config, &context()).unwrap().unwrap();
        let fence = sink.claim(0, epoch(1)).unwrap();
        let message = retried(Owner { sink, partition: 0, fence }.deliver(&[simple(1)]));
        assert!(message.contains(&host) && !message.contains("hunter2"), "{message}");
    }
}
