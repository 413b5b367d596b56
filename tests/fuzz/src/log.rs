//! Records of the event log: headers, frames, control records.

use bolero::check;
use bytes::Bytes;
use processor::control::Control;
use processor::frame::Frame;
use shared::event::{EventView, header};

/// Headers that mean something; the others get a name of their own.
const NAMES: [&str; 16] = [
    header::SPECVERSION,
    header::ID,
    header::SOURCE,
    header::TYPE,
    header::TIME,
    header::SUBJECT,
    header::SEQUENCE,
    header::CONTENT_TYPE,
    header::TRACEPARENT,
    header::TRACESTATE,
    header::RECEIVED_AT,
    header::SCHEME,
    header::KEY_ID,
    header::PROBLEM,
    "hookline-sig-webhook-id",
    "another",
];

/// What is drawn: which header, and its value.
type Drawn = Vec<(u8, Vec<u8>)>;

fn named(drawn: &Drawn) -> impl Iterator<Item = (&'static str, &[u8])> {
    drawn.iter().map(|(n, value)| (NAMES[usize::from(*n) % NAMES.len()], value.as_slice()))
}

/// What every event has, before what is drawn: of two headers with one name, the last counts.
fn well_formed<'a>() -> impl Iterator<Item = (&'static str, &'a [u8])> {
    let list: [(&str, &[u8]); 6] = [
        (header::SPECVERSION, b"1.0"),
        (header::ID, b"evt_1"),
        (header::SOURCE, b"makini/acme"),
        (header::TYPE, b"purchase_order.updated"),
        (header::TIME, b"2026-01-01T00:00:00Z"),
        (header::RECEIVED_AT, b"1"),
    ];
    list.into_iter()
}

#[test]
fn headers() {
    check!().with_type::<(bool, Drawn)>().for_each(|(begins_well, drawn)| {
        let headers: Vec<_> = well_formed().filter(|_| *begins_well).chain(named(drawn)).collect();
        let parsed = EventView::parse(headers.iter().map(|(name, value)| (name.as_bytes(), *value)));
        let Ok(event) = parsed else { return };
        // What was taken is what was there.
        let last = |name: &str| headers.iter().rev().find(|(n, _)| *n == name).map(|(_, value)| *value);
        assert_eq!(Some(event.id.as_bytes()), last(header::ID));
        assert_eq!(event.entity.map(str::as_bytes), last(header::SUBJECT));
        assert_eq!(event.sequence.map(str::as_bytes), last(header::SEQUENCE));
    });
}

#[test]
fn frames() {
    check!().with_type::<(Vec<u8>, Drawn, Option<Vec<u8>>)>().for_each(|(key, drawn, body)| {
        let headers = named(drawn).map(|(name, value)| (name, Some(value)));
        let frame = Frame::pack(Some(key), headers, body.as_deref());
        assert_eq!(frame.key(), key);
        assert_eq!(frame.body(), body.as_deref().unwrap_or_default());
        let read: Vec<_> = frame.headers().map(|(name, value)| (name, value.unwrap_or_default())).collect();
        assert!(read.into_iter().eq(named(drawn).map(|(name, value)| (name.as_bytes(), value))));
        let again = Frame::from_bytes(frame.as_bytes().clone()).unwrap();
        assert_eq!(again.digest(), frame.digest());
        let _ = (again.event().is_ok(), again.trace_id());
    });
}

#[test]
fn stored_frames() {
    check!().for_each(|bytes: &[u8]| {
        let Ok(frame) = Frame::from_bytes(Bytes::copy_from_slice(bytes)) else { return };
        assert_eq!(frame.as_bytes(), bytes);
        let _ = (frame.key(), frame.body(), frame.headers().count(), frame.event().is_ok(), frame.trace_id());
    });
}

#[test]
fn control_records() {
    const GAP: &[u8] = br#"{"pipeline":"p","next":1,"opened_at":0,"stage":0,"by":"x","why":"y"}"#;
    const KINDS: [&[u8]; 3] =
        [b"hookline.control.gap-expired", b"hookline.control.gap-skip", b"hookline.control.config"];
    check!().with_type::<(u8, u8, Vec<u8>)>().for_each(|(kind, at, drawn)| {
        let kind = KINDS[usize::from(*kind) % KINDS.len()];
        let headers: Vec<_> = well_formed().chain([(header::TYPE, kind)]).collect();
        let event = EventView::parse(headers.iter().map(|(name, value)| (name.as_bytes(), *value))).unwrap();
        // A good one, damaged from some place on.
        let (good, _) = GAP.split_at(usize::from(*at) % GAP.len());
        for body in [drawn.clone(), [good, drawn].concat()] {
            let Ok(control) = Control::parse(&event, &body) else { continue };
            let (_, written) = control.to_event("2026-01-01T00:00:00Z".parse().unwrap()).unwrap();
            assert_eq!(Control::parse(&event, &written).unwrap(), control);
        }
    });
}
