//! An event to and from a record's headers, its key, and the block of bytes that the fold takes it as.

use rdkafka::message::{Headers as _, OwnedHeaders};
use shared::event::{Event, EventView};
use std::hint::black_box;

use processor::frame::Frame;

use crate::case::{Case, Round};
use crate::webhook;
use crate::workload::Item;

/// Events in a round.
const EVENTS: u64 = 1_000;
const ITEM: Item = Item { entity: 17, sequence: 3 };
const BODY_BYTES: usize = 500;

pub(crate) fn cases() -> Vec<Case> {
    let case =
        |name: &str, code: fn(&Codec)| Case::new(format!("codec/{name}"), EVENTS, move || Codec::new(code));
    vec![
        case("to_headers", |codec| drop(black_box(codec.event.to_headers()))),
        case("from_headers", |codec| drop(black_box(Event::from_headers(&codec.headers)))),
        case("key", |codec| drop(black_box(codec.event.key(&codec.body)))),
        case("pack", |codec| drop(black_box(codec.pack()))),
        case("view", |codec| drop(black_box(codec.frame.event()))),
    ]
}

struct Codec {
    event: Event,
    body: Vec<u8>,
    headers: OwnedHeaders,
    frame: Frame,
    code: fn(&Self),
}

impl Codec {
    fn new(code: fn(&Self)) -> Self {
        let (event, body) = (webhook::event(ITEM), webhook::body(ITEM, BODY_BYTES));
        let headers = event.to_headers();
        let mut codec = Self { event, body, headers, frame: Frame::default(), code };
        codec.frame = codec.pack();
        codec
    }

    fn pack(&self) -> Frame {
        frame(&self.event, &self.headers, &self.body)
    }
}

impl Round for Codec {
    fn run(&mut self) {
        for _ in 0..EVENTS {
            (self.code)(black_box(self));
        }
    }

    fn check(&mut self) {
        assert_eq!(Event::from_headers(&self.headers).as_ref(), Ok(&self.event));
        let view: EventView<'_> = self.frame.event().unwrap();
        assert_eq!((view.id, view.entity), (&*self.event.id, self.event.entity.as_deref()));
        assert_eq!(self.frame.key(), self.event.key(&self.body).as_bytes());
    }
}

/// A record with this event.
pub(crate) fn frame(event: &Event, headers: &OwnedHeaders, body: &[u8]) -> Frame {
    let headers = headers.iter().map(|header| (header.key, header.value));
    Frame::pack(Some(event.key(body).as_bytes()), headers, Some(body))
}
