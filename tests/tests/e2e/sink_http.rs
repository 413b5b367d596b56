//! Each event a POST to a receiver that fails, loses answers, and meets a processor that is killed.

use std::collections::BTreeMap;

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::receiver::Receiver;
use hookline_tests::wait;
use sandbox::sources::CONNECTIONS;

use crate::common::{PATIENCE, Sink, Site, assert_nothing_leaked, order, processor, stderr, stdout};

const ORDERS: usize = 6;
const EVENTS_EACH: usize = 20;
/// In the URL, and in what the receiver answers.
const TOKEN: &str = "hunter2";

#[test]
fn every_event_arrives_in_its_entitys_order_whatever_fails() {
    let receiver = Receiver::start();
    let mut count = 0;
    receiver.answers(move |_| {
        count += 1;
        match count {
            // An answer that is lost, and one that says no for now.
            n if n % 11 == 0 => None,
            n if n % 7 == 0 => Some((503, "")),
            _ => Some((200, "")),
        }
    });
    let site = Site::new("posted", Kafka::shared(), 2).gap_wait(PATIENCE);
    let sink = Sink::Http(receiver.url(&format!("hooks?token={TOKEN}")));
    let _ingest = site.ingest().started();
    let mut instance = site.instance("only", &sink);
    instance.program.spawn();
    instance.program.wait_ready();
    let client = Client::new();
    for sequence in 1..=EVENTS_EACH {
        for number in 0..ORDERS {
            let id = format!("evt_{number}_{sequence}");
            let body = order(&id, &format!("order-{number}"), &sequence.to_string());
            assert_eq!(site.post_order(&client, CONNECTIONS[0], &body).status, 200);
        }
        if sequence % 8 == 0 {
            wait::until("some requests", PATIENCE, || (receiver.taken().len() > sequence).then_some(()));
            instance.program.kill();
            instance.program.spawn();
        }
    }
    site.wait_caught_up();

    let taken = receiver.taken();
    let mut sequences: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for request in &taken {
        let entity = request.header("ce-subject").to_owned();
        sequences.entry(entity).or_default().push(request.header("ce-sequence").parse().unwrap());
    }
    assert_eq!(sequences.len(), ORDERS);
    for (entity, sequences) in sequences {
        assert!(sequences.iter().copied().eq(1..=EVENTS_EACH), "{entity}: {sequences:?}");
    }
    // Also as they came for the first time.
    let mut last: BTreeMap<String, usize> = BTreeMap::new();
    for request in receiver.got() {
        let sequence: usize = request.header("ce-sequence").parse().unwrap();
        let last = last.entry(request.header("ce-subject").to_owned()).or_default();
        assert!(sequence <= *last + 1, "{sequence} of {} after {last}", request.header("ce-subject"));
        *last = sequence.max(*last);
    }

    // Nothing is counted at a receiver; the other books agree.
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    assert_nothing_leaked(&[instance.program.log_text()], &[TOKEN]);
}
