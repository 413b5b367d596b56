//! A 200 means durable: what ingest acknowledged is in the log, however ingest ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_read::Record;
use hookline_tests::wait;
use sandbox::sign::Signer;
use sandbox::sources::{CONNECTIONS, MAKINI};

use crate::common::{DRAIN, PATIENCE, Site, now_s, order, post_signed};

/// Senders at the same time.
const SENDERS: usize = 4;
/// Requests that are half sent when SIGTERM comes.
const UNDER_WAY: usize = 8;

#[test]
fn every_200_is_in_the_log_though_ingest_is_killed_under_load() {
    let site = Site::new("killed", Kafka::shared(), 2);
    let mut ingest = site.ingest().started();
    let mut readings = Vec::new();
    let acknowledged = under_load(&site, |acknowledged| {
        wait::until("200 acknowledgements", PATIENCE, || {
            readings.push(site.events());
            (acknowledged() >= 200).then_some(())
        });
        ingest.kill();
    });
    let log = site.events();
    assert_in_log(&log, &acknowledged);
    // Who reads meanwhile sees what is there in the end, as far as it is there yet.
    let of = |records: &[Record], partition: i32| -> Vec<_> {
        let of = records.iter().filter(|record| record.partition == partition);
        of.map(|record| (record.offset, record.value.clone())).collect()
    };
    for partition in 0..2 {
        let last = of(&log, partition);
        for reading in &readings {
            assert!(last.starts_with(&of(reading, partition)), "partition {partition} was another one");
        }
    }
    assert!(readings.iter().any(|reading| !reading.is_empty()));

    // And it goes on after a restart.
    ingest.spawn();
    ingest.wait_ready();
    let later = under_load(&site, |acknowledged| {
        wait::until("more acknowledgements", PATIENCE, || (acknowledged() >= 20).then_some(()));
        ingest.kill();
    });
    assert_in_log(&site.events(), &later);
}

#[test]
fn accepted_requests_finish_after_sigterm() {
    let site = Site::new("finished", Kafka::shared(), 2);
    let mut ingest = site.ingest().started();
    let mut answers = Vec::new();
    let mut status = None;
    let acknowledged = under_load(&site, |acknowledged| {
        // Requests that are under way: head and half of the body are there, the rest comes after the signal.
        let under_way: Vec<_> = (0..UNDER_WAY).map(|n| begin(&site, n)).collect();
        wait::until("50 acknowledgements", PATIENCE, || (acknowledged() >= 50).then_some(()));
        thread::scope(|scope| {
            let ending = scope.spawn(|| ingest.terminate());
            // New connections are refused: it has heard the signal.
            let refused = || TcpStream::connect(site.webhooks).is_err().then_some(());
            wait::until("an end of accepting", DRAIN, refused);
            for (mut stream, rest) in under_way {
                stream.write_all(&rest).unwrap();
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                answers.push(answer);
            }
            status = ending.join().ok();
        });
    });
    for answer in &answers {
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    }
    assert_eq!(answers.len(), UNDER_WAY);
    let status = status.unwrap();
    assert_eq!(status.code(), Some(0));
    let records = site.events();
    assert_in_log(&records, &acknowledged);
    let finished: Vec<Vec<u8>> = (0..UNDER_WAY).map(under_way_body).collect();
    assert_in_log(&records, &finished);
    assert!(ingest.log_text().contains("every accepted request was answered"));
}

/// Sends events of its own until nothing answers any more; returns the bodies that were acknowledged.
fn under_load(site: &Site, disturb: impl FnOnce(&dyn Fn() -> usize)) -> Vec<Vec<u8>> {
    static ROUND: Mutex<usize> = Mutex::new(0);
    let round = {
        let mut round = ROUND.lock().unwrap();
        *round += 1;
        *round
    };
    let acknowledged = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let acknowledged = &acknowledged;
            scope.spawn(move || {
                let client = Client::new();
                for n in 0.. {
                    let body = order(&format!("evt_{round}_{sender}_{n}"), &format!("{sender}"), "1");
                    let url = format!("{}/webhooks/{MAKINI}/acme", site.base_url());
                    match post_signed(&client, &url, CONNECTIONS[0].secret.value, &body) {
                        Ok(answer) if answer.status == 200 => acknowledged.lock().unwrap().push(body),
                        Ok(answer) => assert_eq!(answer.status, 503, "{}", answer.text()),
                        Err(_) => return,
                    }
                }
            });
        }
        disturb(&|| acknowledged.lock().unwrap().len());
    });
    acknowledged.into_inner().unwrap()
}

fn assert_in_log(records: &[Record], acknowledged: &[Vec<u8>]) {
    assert!(!acknowledged.is_empty());
    for body in acknowledged {
        let found = records.iter().any(|record| record.value.as_ref() == Some(body));
        assert!(found, "acknowledged, but not in the log: {}", String::from_utf8_lossy(body));
    }
}

fn under_way_body(n: usize) -> Vec<u8> {
    order(&format!("evt_under_way_{n}"), "under-way", "1")
}

/// Sends head and half of the body; returns the connection and the other half.
fn begin(site: &Site, n: usize) -> (TcpStream, Vec<u8>) {
    let body = under_way_body(n);
    let mut head = format!(
        "POST /webhooks/{MAKINI}/acme HTTP/1.1\r\nhost: {}\r\ncontent-length: {}\r\n",
        site.webhooks,
        body.len()
    );
    let signer = Signer::Makini { secret: CONNECTIONS[0].secret.value, age_s: 0 };
    for (name, value) in signer.headers(&body, now_s()) {
        head += &format!("{name}: {value}\r\n");
    }
    head += "\r\n";
    let (first, rest) = body.split_at(body.len() / 2);
    let mut stream = TcpStream::connect(site.webhooks).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(first).unwrap();
    (stream, rest.to_vec())
}
