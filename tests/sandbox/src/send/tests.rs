//! The sender against small HTTP servers of its own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use super::*;
use crate::delivery::Expect;
use crate::plan::Sizes;

type Bodies = Arc<Mutex<Vec<Vec<u8>>>>;

/// Serves with what `answer` says to the nth request, counted from 0: a status, or `None` to hang up.
fn server(answer: fn(usize) -> Option<u16>) -> (String, Bodies) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let bodies = Bodies::default();
    let seen = bodies.clone();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let seen = seen.clone();
            std::thread::spawn(move || serve(&stream.unwrap(), answer, &seen));
        }
    });
    (url, bodies)
}

fn serve(mut stream: &TcpStream, answer: fn(usize) -> Option<u16>, seen: &Bodies) {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut line, mut length) = (String::new(), 0);
        while reader.read_line(&mut line).unwrap_or(0) > 2 {
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        if line.is_empty() {
            return;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        let n = seen.lock().unwrap().len();
        seen.lock().unwrap().push(body);
        let Some(status) = answer(n) else { return };
        let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 2\r\nretry-after: 0\r\n\r\nok");
        stream.write_all(head.as_bytes()).unwrap();
    }
}

fn plan() -> Plan {
    let mut plan = Plan::new(Sizes { seed: 1, webhooks: 250, body_limit: 1_000 });
    plan.deliveries.retain(|delivery| !matches!(delivery.expect, Expect::Refused(_)));
    plan
}

#[test]
fn every_delivery_arrives_once_and_each_lane_in_order() {
    let (url, bodies) = server(|_| Some(200));
    let plan = plan();
    let progress = AtomicUsize::new(0);
    let report = phase(&plan, 0, &Options::to(&url), &|done| {
        progress.fetch_max(done, Ordering::Relaxed);
    });
    let sent: Vec<_> = plan.deliveries.iter().filter(|d| d.phase == 0).collect();
    assert_eq!(report.statuses(), [(200, sent.len())].into());
    assert_eq!((report.retries(), progress.into_inner()), (0, sent.len()));
    assert_eq!(report.slow_gaps(&plan, Duration::from_secs(60)), 0);
    assert!(report.slow_gaps(&plan, Duration::ZERO) > 0);
    let bodies = bodies.lock().unwrap();
    assert_eq!(bodies.len(), sent.len());
    let lane = sent[0].lane;
    let of_lane: Vec<_> = sent.iter().filter(|d| d.lane == lane).map(|d| &d.body).collect();
    let arrived: Vec<_> = bodies.iter().filter(|body| of_lane.contains(body)).collect();
    assert_eq!(arrived, of_lane);
}

#[test]
fn a_503_and_a_cut_connection_are_tried_again() {
    let (url, bodies) = server(|n| match n % 5 {
        0 => Some(503),
        1 => None,
        _ => Some(200),
    });
    let plan = plan();
    let options = Options { concurrency: 2, ..Options::to(&url) };
    let report = phase(&plan, 1, &options, &|_| {});
    let sent = plan.deliveries.iter().filter(|d| d.phase == 1).count();
    assert_eq!(report.statuses(), [(200, sent)].into());
    assert_eq!(report.retries() + sent, bodies.lock().unwrap().len());
    assert!(report.retries() > 2);
}

#[test]
fn a_delivery_is_given_up_when_patience_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let options = Options { patience: Duration::from_millis(120), ..Options::to(&url) };
    let report = phase(&plan(), 1, &options, &|_| {});
    assert!(report.outcomes.iter().all(|outcome| outcome.answer.is_err() && outcome.attempts == 2));
}
