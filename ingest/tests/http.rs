//! What ingest answers over real connections, and what it then has appended: the good way, every refusal,
//! senders that misbehave, a log that is away, and the end.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod stand;

use std::time::{Duration, Instant};

use rdkafka::message::{Message as _, OwnedMessage};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use shared::event::{Event, entity_key};
use stand::{Options, Request, SECRET, Stand, sign};

const PUSH: &str = r#"{"repository":{"full_name":"octo/cat"}, "n": 1.50}"#;

fn event(record: &OwnedMessage) -> Event {
    Event::from_headers(record.headers().unwrap()).unwrap()
}

#[test]
fn an_accepted_webhook_is_in_the_log_as_it_was_sent() {
    let stand = Stand::new();
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request =
        Request::github("d-1", PUSH).with("content-type", "application/json").with("traceparent", trace);
    let answer = stand.send(&request);
    assert_eq!((answer.status, answer.body.as_str()), (200, ""));
    let log = stand.log();
    assert_eq!(log.len(), 1);
    assert_eq!(log[0].payload().unwrap(), PUSH.as_bytes());
    assert_eq!(log[0].key().unwrap(), entity_key("github", "", "octo/cat").as_bytes());
    let event = event(&log[0]);
    assert_eq!((event.id.as_str(), event.kind.as_str()), ("d-1", "push"));
    assert_eq!(event.entity.as_deref(), Some("octo/cat"));
    assert_eq!(event.content_type.as_deref(), Some("application/json"));
    assert_eq!(event.traceparent.as_deref(), Some(trace));
    assert_eq!((event.scheme.as_str(), event.problem.as_deref()), ("github", None));
    assert!(event.key_id.starts_with("file:"), "{}", event.key_id);
    let signature = format!("sha256={}", sign(SECRET, PUSH.as_bytes()));
    assert_eq!(event.signature_headers, [("x-hub-signature-256".to_owned(), signature)]);
}

#[test]
fn a_connection_is_read_from_the_path_and_only_its_own_secret_signs() {
    let stand = Stand::new();
    let body = r#"{"id":"e","number":4500000001,"sequence":1}"#;
    assert_eq!(stand.send(&Request::makini("acme", SECRET, body)).status, 200);
    assert_eq!(stand.send(&Request::makini("glo%2Fbex", "other secret", body)).status, 200);
    for (connection, secret) in [("acme", "other secret"), ("glo%2Fbex", SECRET), ("unknown", SECRET)] {
        assert_eq!(stand.send(&Request::makini(connection, secret, body)).status, 401, "{connection}");
    }
    let mut events: Vec<_> = stand.log().iter().map(event).collect();
    events.sort_by(|a, b| a.connection.cmp(&b.connection));
    assert_eq!(events.len(), 2);
    assert_eq!([events[0].connection.as_str(), events[1].connection.as_str()], ["acme", "glo/bex"]);
    assert_ne!(events[0].key(b""), events[1].key(b""), "two customers' order 4500000001 are two entities");
}

/// Each request that must be refused, with its status and problem. Nothing of them is appended or repeated.
#[test]
fn every_refusal_is_a_problem_and_appends_nothing() {
    let stand = Stand::with(Options {
        ingest: "body_limit = \"64KiB\"\nhead_limit = \"8KiB\"\n",
        ..Options::default()
    });
    let good = || Request::github("d-1", PUSH);
    let large = "x".repeat(64 * 1024 + 1);
    let chunked = |body: &str| {
        let mut request = good().without("content-length").with("transfer-encoding", "chunked");
        request.body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes();
        request
    };
    let cases = [
        ("no signature", good().without("x-hub-signature-256"), 401, "signature"),
        (
            "another's signature",
            good().set("x-hub-signature-256", &format!("sha256={}", sign("x", PUSH.as_bytes()))),
            401,
            "signature",
        ),
        ("garbage", good().set("x-hub-signature-256", "\u{e9}\u{1f980}"), 401, "signature"),
        (
            "two signatures",
            good().with("x-hub-signature-256", &format!("sha256={}", sign(SECRET, PUSH.as_bytes()))),
            401,
            "signature",
        ),
        ("unknown source", good().line("POST /webhooks/gitlab HTTP/1.1"), 404, "not-found"),
        ("a connection too many", good().line("POST /webhooks/github/acme HTTP/1.1"), 404, "not-found"),
        ("a connection missing", good().line("POST /webhooks/makini HTTP/1.1"), 404, "not-found"),
        ("an empty connection", good().line("POST /webhooks/makini/ HTTP/1.1"), 404, "not-found"),
        ("a segment too many", good().line("POST /webhooks/makini/acme/x HTTP/1.1"), 404, "not-found"),
        ("elsewhere", good().line("POST /metrics HTTP/1.1"), 404, "not-found"),
        ("GET", good().line("GET /webhooks/github HTTP/1.1"), 405, "method"),
        ("PUT", good().line("PUT /webhooks/github HTTP/1.1"), 405, "method"),
        ("too large", Request::github("d-1", &large), 413, "too-large"),
        ("too large, in chunks", chunked(&large), 413, "too-large"),
        ("gzip", good().with("content-encoding", "gzip"), 415, "encoding"),
        ("an array", Request::github("d-1", "[]"), 422, "array"),
        ("a large head", good().with("x-large", &large[..9000]), 431, "head"),
    ];
    for (what, request, status, problem) in cases {
        let answer = stand.send(&request);
        assert_eq!((answer.status, answer.problem()), (status, format!("/problems/{problem}")), "{what}");
        assert_eq!(answer.header("allow"), (status == 405).then_some("post"), "{what}");
        for secret in [SECRET, "octo/cat", &sign(SECRET, PUSH.as_bytes())] {
            assert!(!answer.body.contains(secret), "{what}: {}", answer.body);
        }
    }
    assert!(stand.log().is_empty());
    assert_eq!(stand.send(&good().with("content-encoding", "identity")).status, 200);
    assert_eq!(stand.send(&chunked(PUSH)).status, 200, "chunks are as good as a length");
    assert_eq!(stand.log().len(), 2);
    let metrics = stand.ask("/metrics").body;
    assert!(metrics.contains("source=\"unknown\",outcome=\"not-found\""), "{metrics}");
    assert!(!metrics.contains("gitlab"), "a sender creates no label values");
}

#[test]
fn a_head_far_over_the_limit_is_refused_before_it_is_kept() {
    let stand = Stand::with(Options { ingest: "head_limit = \"8KiB\"\n", ..Options::default() });
    let mut client = stand.connect();
    client.write(&Request::github("d-1", PUSH).with("x-large", &"x".repeat(100_000)).bytes());
    if let Some(answer) = client.read_answer() {
        assert_eq!(answer.status, 431);
    }
    let many = (0..200).fold(Request::github("d-1", PUSH), |request, n| request.with(&format!("x-{n}"), "1"));
    assert_eq!(stand.send(&many).status, 431);
    assert!(stand.log().is_empty());
}

#[test]
fn a_webhook_that_cannot_be_read_is_appended_with_the_reason() {
    let stand = Stand::new();
    for body in ["{\"repository\":", "payload=%7B%7D", "", r#"{"repository":{"full_name":{}}}"#] {
        assert_eq!(stand.send(&Request::github("d", body)).status, 200, "{body}");
    }
    let log = stand.log();
    assert_eq!(log.len(), 4);
    assert!(log.iter().all(|record| event(record).problem.is_some() && event(record).entity.is_none()));
    assert!(log.iter().all(|record| record.key().is_some()), "a record's key is never null");
}

#[test]
fn a_split_array_is_in_the_log_element_by_element() {
    let stand = Stand::new();
    let body = r#"[{"id":1,"number":7,"sequence":1}, {"id":2,"number":7,"sequence":2},{"id":3}]"#;
    assert_eq!(stand.send(&Request::makini("acme", SECRET, body)).status, 200);
    let log = stand.log();
    let events: Vec<_> = log.iter().map(event).collect();
    assert_eq!(events.len(), 3);
    let of_entity: Vec<_> = events.iter().filter(|e| e.entity.is_some()).map(|e| e.id.as_str()).collect();
    assert_eq!(of_entity, ["1", "2"], "in the array's order");
    assert!(log.iter().any(|record| record.payload() == Some(br#"{"id":2,"number":7,"sequence":2}"#)));
}

#[test]
fn a_body_that_breaks_off_appends_nothing() {
    let stand = Stand::new();
    let bytes = Request::github("d-1", PUSH).bytes();
    for cut in [bytes.len() - 1, bytes.len() - PUSH.len(), 20] {
        let mut client = stand.connect();
        client.write(&bytes[..cut]);
        client.finish_writing();
        if let Some(answer) = client.read_answer() {
            assert_eq!(answer.status, 400);
        }
    }
    // And with the connection reset in the middle.
    let mut client = stand.connect();
    client.write(&bytes[..bytes.len() - 3]);
    drop(client);
    assert_eq!(stand.send(&Request::github("d-2", PUSH)).status, 200);
    assert_eq!(stand.log().len(), 1);
}

#[test]
fn a_sender_that_is_too_slow_is_cut_off() {
    let stand = Stand::with(Options { ingest: "read_timeout = \"300ms\"\n", ..Options::default() });
    let bytes = Request::github("d-1", PUSH).bytes();
    let mut slow_body = stand.connect();
    slow_body.write(&bytes[..bytes.len() - 1]);
    let answer = slow_body.read_answer().unwrap();
    assert_eq!((answer.status, answer.problem().as_str()), (408, "/problems/slow"));
    assert_eq!(answer.header("connection"), Some("close"));
    let mut slow_head = stand.connect();
    slow_head.write(&bytes[..20]);
    let since = Instant::now();
    assert!(slow_head.read_answer().is_none_or(|answer| answer.status == 408));
    assert!(since.elapsed() < Duration::from_secs(5));
    assert!(stand.log().is_empty());
}

#[test]
fn garbage_is_answered_or_cut_off_and_harms_nobody() {
    let stand = Stand::new();
    let mut state = 1_u64;
    for n in 0..50 {
        let garbage: Vec<u8> = (0..200)
            .map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let mut client = stand.connect();
        match n % 3 {
            0 => client.write(&garbage),
            1 => client
                .write(&[b"POST /webhooks/github HTTP/1.1\r\n", garbage.as_slice(), b"\r\n\r\n"].concat()),
            _ => client.write(b"POST /webhooks/github HTTP/1.1\r\ncontent-length: -1\r\n\r\n"),
        }
        client.finish_writing();
        assert!(client.read_answer().is_none_or(|answer| (400..500).contains(&answer.status)));
    }
    let both = Request::github("d", PUSH).with("transfer-encoding", "chunked");
    let mut client = stand.connect();
    client.write(&both.bytes());
    client.finish_writing();
    assert!(client.read_answer().is_none_or(|answer| (400..500).contains(&answer.status)), "smuggling");
    assert!(stand.log().is_empty());
    assert_eq!(stand.send(&Request::github("d", PUSH)).status, 200);
}

#[test]
fn one_connection_carries_many_requests() {
    let stand = Stand::new();
    let mut client = stand.connect();
    for n in 0..20 {
        client.write(&Request::github(&format!("d-{n}"), PUSH).bytes());
        assert_eq!(client.read_answer().unwrap().status, 200);
    }
    client.write(&Request::github("x", PUSH).set("x-hub-signature-256", "sha256=00").bytes());
    assert_eq!(client.read_answer().unwrap().status, 401, "a refusal does not end it");
    client.write(&Request::github("d-20", PUSH).bytes());
    assert_eq!(client.read_answer().unwrap().status, 200);
    assert_eq!(stand.log().len(), 21);
}

#[test]
fn a_sender_that_closes_its_side_or_waits_for_leave_is_answered() {
    let stand = Stand::new();
    let mut half = stand.connect();
    half.write(&Request::github("d-1", PUSH).bytes());
    half.finish_writing();
    assert_eq!(half.read_answer().unwrap().status, 200);
    let mut polite = stand.connect();
    let bytes = Request::github("d-2", PUSH).with("expect", "100-continue").bytes();
    polite.write(&bytes[..bytes.len() - PUSH.len()]);
    assert_eq!(polite.read_answer().unwrap().status, 100);
    polite.write(PUSH.as_bytes());
    assert_eq!(polite.read_answer().unwrap().status, 200);
    let refused =
        Request::github("d-3", PUSH).set("content-length", "9999999").with("expect", "100-continue").bytes();
    let mut refused_client = stand.connect();
    refused_client.write(&refused[..refused.len() - PUSH.len()]);
    assert_eq!(refused_client.read_answer().unwrap().status, 413, "before the body is sent");
}

#[test]
fn connections_beyond_the_maximum_wait() {
    let stand = Stand::with(Options { ingest: "connections_max = 1\n", ..Options::default() });
    let first = stand.connect();
    std::thread::sleep(Duration::from_millis(50));
    let mut second = stand.connect();
    second.write(&Request::github("d", PUSH).bytes());
    second.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(second.read_answer().is_none());
    drop(first);
    second.stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    assert_eq!(second.read_answer().unwrap().status, 200);
}

#[test]
fn without_kafka_it_starts_is_not_ready_and_answers_503() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = taken.local_addr().unwrap().to_string();
    drop(taken);
    let stand = Stand::unready(Options { bootstrap: Some(nobody), deadline: "300ms", ..Options::default() });
    let answer = stand.send(&Request::github("d", PUSH));
    assert_eq!((answer.status, answer.problem().as_str()), (503, "/problems/unavailable"));
    assert!(answer.header("retry-after").is_some());
    assert_eq!(stand.send(&Request::github("d", PUSH).without("x-hub-signature-256")).status, 401);
    let ready = stand.ask("/readyz");
    assert_eq!(ready.status, 503);
    assert!(ready.body.contains("kafka: "), "{}", ready.body);
    assert_eq!(stand.ask("/livez").status, 200);
}

#[test]
fn a_broker_that_goes_away_means_503_within_the_deadline_and_200_when_it_is_back() {
    let stand = Stand::with(Options { deadline: "500ms", ..Options::default() });
    stand.warm_up();
    stand.cluster.broker_down(1).unwrap();
    let since = Instant::now();
    let answer = stand.send(&Request::github("d-2", PUSH));
    assert_eq!(answer.status, 503);
    assert!(answer.header("retry-after").is_some());
    assert!(since.elapsed() >= Duration::from_millis(450) && since.elapsed() < Duration::from_secs(3));
    stand.wait_until(false);
    stand.cluster.broker_up(1).unwrap();
    stand.wait_until(true);
    // The first one may still be too late: the producer's own connection may come after the answer to the question.
    let end = Instant::now() + Duration::from_secs(10);
    while stand.send(&Request::github("d-3", PUSH)).status != 200 {
        assert!(Instant::now() < end, "the broker is back, and nothing is taken");
    }
    let ids: Vec<_> = stand.log().iter().map(|record| event(record).id).collect();
    assert!(ids.contains(&"first".to_owned()) && ids.contains(&"d-3".to_owned()), "{ids:?}");
}

#[test]
fn more_than_the_limit_in_flight_is_refused_at_once() {
    let stand = Stand::with(Options { ingest: "in_flight_limit = \"1KiB\"\n", ..Options::default() });
    stand.slow_down(Duration::from_millis(1500));
    let mut first = stand.connect();
    first.write(&Request::github("d-1", PUSH).bytes());
    std::thread::sleep(Duration::from_millis(300));
    let since = Instant::now();
    let answer = stand.send(&Request::github("d-2", PUSH));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert!(since.elapsed() < Duration::from_millis(700));
    assert_eq!(first.read_answer().unwrap().status, 200);
    let third = stand.send(&Request::github("d-3", PUSH));
    assert_eq!(third.status, 200, "what was acknowledged makes room: {third:?} {:?}", since.elapsed());
}

#[test]
fn a_producer_that_is_declared_dead_is_replaced() {
    let stand = Stand::with(Options {
        deadline: "1s",
        prepare: |cluster| {
            let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
            cluster.request_errors(RDKafkaApiKey::InitProducerId, &[denied]);
        },
        ..Options::default()
    });
    let end = Instant::now() + Duration::from_secs(10);
    while stand.send(&Request::github("d", PUSH)).status != 200 {
        assert!(Instant::now() < end, "the dead producer is still asked");
    }
}

#[test]
fn requests_that_were_accepted_finish_before_it_stops() {
    let mut stand = Stand::new();
    stand.slow_down(Duration::from_millis(700));
    let mut idle = stand.connect();
    let mut busy = stand.connect();
    busy.write(&Request::github("d-1", PUSH).bytes());
    std::thread::sleep(Duration::from_millis(200));
    let since = Instant::now();
    let stopped = stand.stop();
    assert!(stopped.drained && stopped.flushed, "{stopped:?}");
    assert!(since.elapsed() < Duration::from_secs(5), "an idle connection does not hold it up");
    assert_eq!(busy.read_answer().unwrap().status, 200);
    assert!(idle.read_answer().is_none());
    assert!(std::net::TcpStream::connect(stand.webhooks).is_err(), "no new connections");
    assert_eq!(stand.log().len(), 2);
}

#[test]
fn a_stop_ends_at_its_time_out() {
    let mut stand = Stand::with(Options { ingest: "drain_timeout = \"300ms\"\n", ..Options::default() });
    stand.slow_down(Duration::from_secs(4));
    let mut busy = stand.connect();
    busy.write(&Request::github("d-1", PUSH).bytes());
    std::thread::sleep(Duration::from_millis(200));
    let since = Instant::now();
    assert!(!stand.stop().drained);
    assert!(since.elapsed() < Duration::from_secs(2));
    assert!(busy.read_answer().is_none(), "no answer is better than a wrong one");
}
