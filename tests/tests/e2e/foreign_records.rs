//! Whatever another producer writes into the event log, each record gets its verdict, the books agree, and
//! what comes after it is applied.

use hookline_tests::http::Client;
use hookline_tests::kafka::Kafka;
use hookline_tests::kafka_write::{NewRecord, OpenTransaction, produce};
use hookline_tests::postgres::Postgres;
use sandbox::sources::CONNECTIONS;

use crate::common::{Sink, Site, order, processor, row_count, rows, stderr, stdout, wait_decided};

const GAP_OF_THIS: &[u8] = br#"{"pipeline":"foreign","next":1,"opened_at":0,"stage":0,"by":"x","why":"y"}"#;
const GAP_OF_ANOTHER: &[u8] =
    br#"{"pipeline":"another","next":1,"opened_at":0,"stage":0,"by":"x","why":"y"}"#;

type Headers<'a> = Vec<(&'a str, &'a [u8])>;

/// Headers, value, and what the dead letter's reason must contain; `None`: it is counted.
type Case<'a> = (Headers<'a>, Option<&'a [u8]>, Option<&'a str>);

/// A well-formed event's headers, and more; of two with one name the last counts.
fn event<'a>(id: &'a str, more: &[(&'a str, &'a str)]) -> Headers<'a> {
    let mut headers = headers(&[
        ("ce_specversion", "1.0"),
        ("ce_id", id),
        ("ce_source", "makini/acme"),
        ("ce_type", "purchase_order.updated"),
        ("ce_time", "2026-01-01T00:00:00Z"),
        ("hookline-received-at", "1"),
    ]);
    headers.extend(self::headers(more));
    headers
}

/// A control record's headers.
fn control(kind: &str) -> Headers<'_> {
    headers(&[
        ("ce_specversion", "1.0"),
        ("ce_id", "forged"),
        ("ce_source", "hookline"),
        ("ce_type", kind),
        ("ce_time", "2026-01-01T00:00:00Z"),
    ])
}

fn headers<'a>(list: &[(&'a str, &'a str)]) -> Headers<'a> {
    list.iter().map(|(name, value)| (*name, value.as_bytes())).collect()
}

#[test]
fn records_of_another_producer_are_dead_lettered_or_counted_and_never_a_stall() {
    let site = Site::new("foreign", Kafka::shared(), 1);
    let url = Postgres::shared().create_database();
    let sink = Sink::Postgres(url.clone());
    let _ingest = site.ingest().started();
    let noise: Vec<u8> = (0..2_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
    let noise = noise.as_slice();
    // Headers, value, and the reason that its dead letter must give; none where it is not an event at all.
    let cases: Vec<Case<'_>> = vec![
        (vec![], Some(noise), Some("header ce_specversion is missing")),
        (vec![], None, Some("header ce_specversion is missing")),
        (vec![], Some(b""), Some("header ce_specversion is missing")),
        (vec![("trace", noise), ("", b""), ("ce_id", noise)], Some(noise), Some("header ce_id is malformed")),
        (event("1", &[("ce_specversion", "0.3")]), Some(b"{}"), Some("ce_specversion is not 1.0")),
        (headers(&[("ce_specversion", "1.0")]), Some(b"{}"), Some("header ce_id is missing")),
        (event("", &[]), Some(b"{}"), Some("header ce_id is missing")),
        (event("1", &[("ce_source", "a/b/c")]), Some(b"{}"), Some("header ce_source is malformed")),
        (
            event("1", &[("hookline-received-at", "soon")]),
            Some(b"{}"),
            Some("header hookline-received-at is malformed"),
        ),
        (event("f1", &[]), None, Some("no entity")),
        (event("f2", &[("ce_subject", "e2")]), Some(b"{}"), Some("no sequence or version")),
        (
            event("f3", &[("ce_subject", "e3"), ("ce_sequence", "-7")]),
            None,
            Some("sequence is not an integer"),
        ),
        // Good to the fold, but no text for PostgreSQL: the sink refuses it.
        (event("f4", &[("ce_subject", "e4\0"), ("ce_sequence", "1")]), Some(b"{}"), Some("U+0000")),
        // Forged control records: bad JSON, no body, an unknown type, a gap that is none, another pipeline's.
        (control("hookline.control.gap-expired"), Some(b"{not json"), None),
        (control("hookline.control.gap-expired"), None, None),
        (control("hookline.control.config"), Some(noise), None),
        (control("hookline.control.self-destruct"), Some(b"{}"), None),
        (control("hookline.control.gap-expired"), Some(GAP_OF_THIS), None),
        (control("hookline.control.gap-expired"), Some(GAP_OF_ANOTHER), None),
    ];
    let records: Vec<NewRecord<'_>> = cases
        .iter()
        .enumerate()
        .map(|(n, (headers, value, _))| NewRecord {
            partition: Some(0),
            key: [None, Some(noise), Some(b"" as &[u8])][n % 3],
            headers,
            value: *value,
        })
        .collect();
    let letters: Vec<&str> = cases.iter().filter_map(|(_, _, reason)| *reason).collect();

    // Before the processor's first start, with an aborted transaction among them, and while it runs.
    produce(site.bootstrap(), &site.topic(), &records);
    OpenTransaction::begin(site.bootstrap(), &site.topic()).abort();
    let client = Client::new();
    let mut instance = site.instance("only", &sink);
    for round in 1..=2_usize {
        if round == 2 {
            produce(site.bootstrap(), &site.topic(), &records);
            OpenTransaction::begin(site.bootstrap(), &site.topic()).abort();
        }
        let body = order(&format!("evt_{round}"), "foreign", &round.to_string());
        assert_eq!(site.post_order(&client, CONNECTIONS[0], &body).status, 200);
        if round == 1 {
            instance.program.spawn();
            instance.program.wait_ready();
        }
        // Events with ids are duplicates the second time; what is no event has none.
        let events = round * letters.len() + round;
        let counted = wait_decided(&[&instance.program], events);
        let no_events = letters.iter().filter(|reason| is_no_event(reason)).count();
        let dead_lettered = letters.len() + (round - 1) * no_events;
        assert_eq!(counted.dead_lettered, dead_lettered, "{counted:?}");
        assert_eq!(counted.duplicates, (round - 1) * (letters.len() - no_events), "{counted:?}");
        assert_eq!((counted.applied, counted.sum()), (round, events), "{counted:?}");
        assert_eq!(row_count(&url), round);
    }
    let mut ids: Vec<String> = rows(&url).into_iter().map(|row| row.event_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["evt_1", "evt_2"]);

    let said: Vec<String> =
        site.dead_letters().iter().filter_map(|r| r.header("hookline-dead-letter-reason")).collect();
    for reason in &letters {
        let times = said.iter().filter(|said| said.contains(reason)).count();
        let alike = letters.iter().filter(|other| *other == reason).count();
        let expected = if is_no_event(reason) { 2 * alike } else { alike };
        assert_eq!(times, expected, "`{reason}` in {said:#?}");
    }
    let verified = processor(&site, "verify", &instance, &[]);
    assert_eq!(verified.status.code(), Some(0), "{}{}", stdout(&verified), stderr(&verified));
    // Not one restart of a lane, but for the sink's refusal.
    let recoveries = instance.program.metrics();
    let stuck = recoveries.sum("hookline_processor_recoveries_total", &[("reason", "stuck")]);
    assert_eq!(stuck.unwrap_or(0.0), 0.0);
}

/// Such a record has no id by which its repeat would be known.
fn is_no_event(reason: &str) -> bool {
    reason.contains("header ") || reason.contains("ce_specversion")
}
