//! The promises of every sink, wherever it stores.

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::thread;

use processor::fold::{Action, Effect};
use processor::position::{Digest, Epoch, Fence, Position};
use processor::sink::{self, Batch, Context, SinkError};
use shared::event::Event;

use super::{
    Owner, Place, StoredEntity, StoredEvent, Tamper, context, effect, epoch, event, halted, ids, open, simple,
};

pub(crate) fn events_are_applied_once_and_in_order(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&[simple(3), simple(4)]).unwrap();
    owner.deliver(&[simple(7)]).unwrap();
    owner.deliver(&[simple(10), simple(11), simple(12)]).unwrap();
    assert_eq!(ids(place), ["e3", "e4", "e7", "e10", "e11", "e12"]);
    let mut count = |offset| owner.sink.count(0, Position { offset, ordinal: 0 }).unwrap();
    assert_eq!([count(-1), count(3), count(9), count(12), count(99)], [0, 1, 3, 6, 6]);
}

pub(crate) fn the_fence_reads_back_as_it_was_written(place: &impl Place) {
    let mut owner = Owner::claim(place, 5, Epoch { lineage: 3, claim: 1 << 40 });
    assert_eq!(owner.fence.position, Position::START);
    owner
        .deliver(&[effect(1 << 50, 0, &event("a", None), b""), effect(1 << 50, 7, &event("b", None), b"")])
        .unwrap();
    assert_eq!(owner.fence.position, Position { offset: 1 << 50, ordinal: 7 });
    assert_eq!(owner.sink.fence(5).unwrap(), owner.fence);
    assert_eq!(open(place).unwrap().fence(5).unwrap(), owner.fence);
}

pub(crate) fn a_batch_delivered_again_is_fenced_off(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    let before = owner.fence;
    owner.deliver(&[simple(1), simple(2)]).unwrap();
    let after = owner.fence;
    owner.fence = before;
    assert!(matches!(owner.deliver(&[simple(1), simple(2)]), Err(SinkError::Fenced { .. })));
    assert_eq!(owner.sink.fence(0).unwrap(), after);
    assert_eq!(ids(place), ["e1", "e2"]);
    // The same connection goes on.
    owner.fence = after;
    owner.deliver(&[simple(3)]).unwrap();
    assert_eq!(ids(place), ["e1", "e2", "e3"]);
}

pub(crate) fn a_position_may_be_cut_between_two_batches(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    let released = |ordinal: u32| effect(10, ordinal, &event(&format!("r{ordinal}"), Some("order-1")), b"{}");
    owner.deliver(&[released(0), released(1)]).unwrap();
    assert_eq!(owner.fence.position, Position { offset: 10, ordinal: 1 });
    // The ordinal is part of where the fence stands.
    let there = owner.fence;
    owner.fence.position.ordinal = 0;
    assert!(matches!(owner.deliver(&[released(2)]), Err(SinkError::Fenced { .. })));
    assert_eq!(owner.sink.fence(0).unwrap(), there);
    // A crash: another instance goes on in the middle.
    let mut next = Owner::claim(place, 0, epoch(2));
    assert_eq!(next.fence.position, Position { offset: 10, ordinal: 1 });
    next.deliver(&[released(2), released(3), simple(11)]).unwrap();
    assert_eq!(ids(place), ["r0", "r1", "r2", "r3", "e11"]);
}

pub(crate) fn a_batch_without_effects_moves_the_fence(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    let to =
        Fence { position: Position { offset: 9, ordinal: 0 }, digest: Digest::of(b"9"), epoch: epoch(1) };
    owner.sink.deliver(&Batch { partition: 0, from: owner.fence, to, effects: &[] }).unwrap();
    assert_eq!(owner.sink.fence(0).unwrap(), to);
}

fn assert_fenced(error: &SinkError, by: Epoch, of: Epoch) {
    let SinkError::Fenced { partition: 0, found, own } = error else { panic!("not fenced: {error:?}") };
    assert_eq!((*found, *own), (by, of));
}

pub(crate) fn an_older_owner_neither_claims_nor_delivers(place: &impl Place) {
    let mut old = Owner::claim(place, 0, epoch(5));
    old.deliver(&[simple(1)]).unwrap();
    let mut new = Owner::claim(place, 0, epoch(9));
    assert_eq!(new.fence.position, old.fence.position);
    let fenced = old.deliver(&[simple(2)]).unwrap_err();
    assert_fenced(&fenced, epoch(9), epoch(5));
    let fenced = old.sink.claim(0, epoch(8)).unwrap_err();
    assert_fenced(&fenced, epoch(9), epoch(8));
    new.deliver(&[simple(2)]).unwrap();
    assert_eq!(ids(place), ["e1", "e2"]);
}

pub(crate) fn a_newer_lineage_is_a_newer_owner(place: &impl Place) {
    let mut old = Owner::claim(place, 0, Epoch { lineage: 1, claim: 1_000 });
    let mut new = Owner::claim(place, 0, Epoch { lineage: 2, claim: 3 });
    assert!(matches!(old.deliver(&[simple(1)]), Err(SinkError::Fenced { .. })));
    assert!(matches!(old.sink.claim(0, Epoch { lineage: 1, claim: 2_000 }), Err(SinkError::Fenced { .. })));
    new.deliver(&[simple(1)]).unwrap();
}

pub(crate) fn an_owner_may_claim_again(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(5));
    owner.deliver(&[simple(1)]).unwrap();
    assert_eq!(owner.sink.claim(0, epoch(5)).unwrap(), owner.fence);
    owner.fence = owner.sink.claim(0, epoch(6)).unwrap();
    owner.deliver(&[simple(2)]).unwrap();
    assert_eq!(ids(place), ["e1", "e2"]);
}

pub(crate) fn an_unclaimed_partition_has_an_empty_fence(place: &impl Place) {
    let mut sink = open(place).unwrap();
    assert_eq!(sink.fence(3).unwrap(), Fence::EMPTY);
    let from = Fence { epoch: epoch(1), ..Fence::EMPTY };
    let to = Fence { position: Position { offset: 1, ordinal: 0 }, ..from };
    let batch = Batch { partition: 3, from, to, effects: &[simple(1)] };
    assert!(matches!(sink.deliver(&batch), Err(SinkError::Fenced { .. })));
    assert_eq!(place.events(), []);
}

pub(crate) fn partitions_have_fences_of_their_own(place: &impl Place) {
    let mut first = Owner::claim(place, 0, epoch(1));
    first.deliver(&[simple(5)]).unwrap();
    // The same connection, another partition.
    let fence = first.sink.claim(1, epoch(40)).unwrap();
    assert_eq!(fence.position, Position::START);
    let mut second = Owner { sink: first.sink, partition: 1, fence };
    second.deliver(&[simple(5)]).unwrap();
    let mut again = Owner { sink: second.sink, partition: 0, fence: first.fence };
    again.deliver(&[simple(6)]).unwrap();
    let applied: Vec<_> = place.events().into_iter().map(|e| (e.partition, e.at)).collect();
    assert_eq!(applied, [(0, (5, 0)), (0, (6, 0)), (1, (5, 0))]);
}

pub(crate) fn every_attribute_is_stored_as_given(place: &impl Place) {
    let full = Event {
        id: "O'Brien \"x\" \\ {1,2} $1 %s ; -- \u{1F980} \u{202E}é e\u{301} \t\n".into(),
        source: "github".into(),
        connection: "kunde/Ärger?a=b".into(),
        kind: "NULL".into(),
        time: "2026-03-01T12:00:00.123456789+02:00".into(),
        entity: Some(String::new()),
        sequence: Some("18446744073709551616.50".into()),
        content_type: Some("application/json; charset=utf-8".into()),
        traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
        received_at_ms: 1_700_000_000_001,
        ..event("", None)
    };
    let bare = Event { time: String::new(), received_at_ms: -1, ..event("bare", None) };
    let mut held = effect(8, 0, &full, b"1");
    held.event_offset = 2;
    held.event_time_ms = 1_700_000_000_999;
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&[held, effect(8, 1, &bare, b"2")]).unwrap();
    let [first, second] = place.events().try_into().unwrap();
    let expected = StoredEvent {
        partition: 0,
        at: (8, 0),
        source: full.source.clone(),
        connection: full.connection.clone(),
        id: full.id.clone(),
        kind: full.kind.clone(),
        entity: full.entity,
        sequence: full.sequence.clone(),
        time: Some(full.time),
        content_type: full.content_type,
        traceparent: full.traceparent,
        received_at: "2023-11-14T22:13:20.001Z".into(),
        log_offset: 2,
        appended_at: "2023-11-14T22:13:20.999Z".into(),
        body: b"1".into(),
    };
    assert_eq!(first, expected);
    assert_eq!((second.entity, second.sequence, second.time), (None, None, None));
    assert_eq!((second.content_type, second.traceparent), (None, None));
    assert_eq!(second.received_at, "1969-12-31T23:59:59.999Z");
    let entity = StoredEntity {
        source: full.source,
        connection: full.connection,
        entity: String::new(),
        id: full.id,
        kind: full.kind,
        sequence: full.sequence,
        at: (0, 8, 0),
        updated: "2023-11-14T22:13:20.999Z".into(),
        body: b"1".into(),
    };
    assert_eq!(place.entities(), [entity]);
}

pub(crate) fn bodies_come_back_byte_for_byte(place: &impl Place) {
    let large: Vec<u8> =
        (0..10 * 1024 * 1024_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let all: Vec<u8> = (0..=255).collect();
    let bodies: Vec<&[u8]> = vec![
        b"",
        b"{\"a\":\"\0\"}",
        b"\0",
        &all,
        b"\xff\xfe{",
        br#"{"id":9007199254740993,"price":0.1000000000000000055511151231257827, "n":1e400}"#,
        br"\x00 '' \\",
        "{\"n\":\"\u{1F980}\"}".as_bytes(),
        &large,
        &large,
    ];
    let effects: Vec<_> = (0_i64..)
        .zip(&bodies)
        .map(|(n, body)| effect(n, 0, &event(&format!("b{n}"), Some(&format!("entity-{n}"))), body))
        .collect();
    Owner::claim(place, 0, epoch(1)).deliver(&effects).unwrap();
    let (events, entities) = (place.events(), place.entities());
    assert_eq!((events.len(), entities.len()), (bodies.len(), bodies.len()));
    for (n, body) in bodies.iter().enumerate() {
        assert!(events[n].body == *body, "the event's body {n}");
        assert!(entities[n].body == *body, "the entity's body {n}");
    }
}

pub(crate) fn an_event_without_an_entity_touches_no_entity(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&[effect(1, 0, &event("a", None), b"{}"), effect(2, 0, &event("b", None), b"{}")]).unwrap();
    assert_eq!(ids(place), ["a", "b"]);
    assert_eq!(place.entities(), []);
}

pub(crate) fn of_an_entity_the_event_applied_last_is_shown(place: &impl Place) {
    let of = |offset: i64, id: &str, connection: &str, entity: &str| {
        let event = Event { connection: connection.into(), ..event(id, Some(entity)) };
        effect(offset, 0, &event, id.as_bytes())
    };
    let shown = || -> BTreeMap<_, _> {
        let entities = place.entities().into_iter();
        entities.map(|e| ((e.connection, e.entity), (e.id, String::from_utf8(e.body).unwrap()))).collect()
    };
    let key = |connection: &str, entity: &str| (connection.to_owned(), entity.to_owned());
    let value = |id: &str| (id.to_owned(), id.to_owned());
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner
        .deliver(&[
            of(1, "a1", "x", "1"),
            of(2, "b1", "y", "1"),
            of(3, "a2", "x", "1"),
            of(4, "c1", "x", "2"),
        ])
        .unwrap();
    assert_eq!(
        shown(),
        BTreeMap::from([
            (key("x", "1"), value("a2")),
            (key("y", "1"), value("b1")),
            (key("x", "2"), value("c1")),
        ])
    );
    owner.deliver(&[of(5, "b2", "y", "1"), of(6, "a3", "x", "1"), of(7, "a4", "x", "1")]).unwrap();
    assert_eq!(
        shown(),
        BTreeMap::from([
            (key("x", "1"), value("a4")),
            (key("y", "1"), value("b2")),
            (key("x", "2"), value("c1")),
        ])
    );
}

/// Whatever a sender calls it: its row is the entity's last, and nothing older comes back after it.
pub(crate) fn a_deletion_is_an_event_and_stays_the_last_one(place: &impl Place) {
    let of = |offset: i64, kind: &str, body: &[u8]| {
        let event = Event { kind: kind.into(), ..event(&format!("e{offset}"), Some("order-1")) };
        effect(offset, 0, &event, body)
    };
    let mut owner = Owner::claim(place, 0, epoch(1));
    let before = owner.fence;
    let created = [of(1, "order.created", b"{\"n\":1}")];
    owner.deliver(&created).unwrap();
    owner.deliver(&[of(2, "order.deleted", b"")]).unwrap();
    let shown = || place.entities().into_iter().map(|e| (e.kind, e.at.1, e.body)).collect::<Vec<_>>();
    assert_eq!(shown(), [("order.deleted".to_owned(), 2, Vec::new())]);
    // Replayed: fenced off.
    let after = std::mem::replace(&mut owner.fence, before);
    assert!(matches!(owner.deliver(&created), Err(SinkError::Fenced { .. })));
    assert_eq!(shown(), [("order.deleted".to_owned(), 2, Vec::new())]);
    owner.fence = after;
    owner.deliver(&[of(3, "order.created", b"{\"n\":2}")]).unwrap();
    assert_eq!(shown(), [("order.created".to_owned(), 3, b"{\"n\":2}".to_vec())]);
    assert_eq!(ids(place), ["e1", "e2", "e3"]);
}

pub(crate) fn a_long_batch_is_one_transaction(place: &impl Place) {
    let small =
        (0..12_000).map(|n| effect(n, 0, &event(&format!("s{n}"), Some(&format!("e{}", n % 700))), b"{}"));
    let large =
        (12_000..12_012).map(|n| effect(n, 0, &event(&format!("l{n}"), Some("large")), &vec![b'x'; 3 << 20]));
    let effects: Vec<_> = small.chain(large).collect();
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&effects).unwrap();
    let applied = place.events();
    assert_eq!(applied.len(), effects.len());
    assert!((0_i64..).zip(&applied).all(|(n, event)| event.at == (n, 0)));
    assert_eq!(place.entities().len(), 701);
    // The last row of a later chunk cannot be stored: nothing of the earlier ones may stay.
    let mut again: Vec<_> = (20_000..26_000).map(simple).collect();
    again.push(effect(26_000, 0, &Event { received_at_ms: i64::MAX, ..event("bad", None) }, b"{}"));
    let before = owner.fence;
    assert!(matches!(owner.deliver(&again), Err(SinkError::Refused(_))));
    assert_eq!(owner.sink.fence(0).unwrap(), before);
    assert_eq!(place.events().len(), effects.len());
}

/// Refused, by the data alone: nothing is applied, and the rest goes through on the same connection.
fn refused(place: &impl Place, bad: &Effect, secret: &str) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    let SinkError::Refused(message) = owner.deliver(&[simple(1), bad.clone(), simple(9)]).unwrap_err() else {
        panic!("not refused");
    };
    assert!(!message.contains(secret), "{message}");
    assert_eq!(owner.sink.fence(0).unwrap(), owner.fence);
    let applied = ids(place);
    assert!(applied.is_empty() || !place.is_atomic() && applied == ["e1"], "{applied:?}");
    assert!(matches!(owner.deliver(std::slice::from_ref(bad)), Err(SinkError::Refused(_))));
    owner.deliver(&[simple(1)]).unwrap();
    owner.deliver(&[simple(9)]).unwrap();
    assert_eq!(ids(place), ["e1", "e9"]);
}

pub(crate) fn what_a_text_column_cannot_hold_is_refused(place: &impl Place) {
    refused(place, &effect(5, 0, &event("hunter2\0", None), b"{}"), "hunter2");
}

pub(crate) fn what_no_calendar_has_is_refused(place: &impl Place) {
    let bad = Event { received_at_ms: i64::MAX, ..event("hunter2", None) };
    refused(place, &effect(5, 0, &bad, b"{}"), "hunter2");
}

pub(crate) fn what_a_constraint_forbids_is_refused(place: &impl Place) {
    open(place).unwrap();
    place.refuse_bad();
    let bad = Event { kind: "bad".into(), ..event("hunter2", None) };
    refused(place, &effect(5, 0, &bad, b"{\"x\":\"hunter2\"}"), "hunter2");
}

pub(crate) fn a_row_beyond_the_fence_halts_and_nothing_is_applied(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&[simple(1), simple(2)]).unwrap();
    let before = owner.fence;
    place.tamper(Tamper::MoveEvent { from: 2, to: 4 });
    assert!(halted(owner.deliver(&[simple(3), simple(4)])).contains("beyond the fence"));
    assert_eq!(owner.sink.fence(0).unwrap(), before);
    if place.is_atomic() {
        assert_eq!(ids(place), ["e1", "e2"]);
    }
    assert_eq!(place.entities()[0].id, "e2");
}

pub(crate) fn a_batch_out_of_order_halts_and_nothing_is_applied(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&[simple(5)]).unwrap();
    let to = Fence { position: Position { offset: 9, ordinal: 0 }, ..owner.fence };
    let letter = Effect { action: Action::DeadLetter("no id".into()), ..simple(6) };
    let wrong = [
        (to, vec![simple(7), simple(6)]),
        (to, vec![simple(6), simple(6)]),
        (to, vec![simple(5)]),
        (to, vec![simple(10)]),
        (to, vec![letter]),
        (Fence { epoch: epoch(2), ..to }, vec![simple(6)]),
    ];
    for (to, effects) in wrong {
        let batch = Batch { partition: 0, from: owner.fence, to, effects: &effects };
        assert!(halted(owner.sink.deliver(&batch)).contains("out of order"));
    }
    assert_eq!(ids(place), ["e5"]);
    assert_eq!(owner.sink.fence(0).unwrap(), owner.fence);
}

pub(crate) fn a_fence_that_somebody_changed_halts(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    place.tamper(Tamper::FenceOrdinal(-1));
    assert!(halted(owner.sink.fence(0).map(|_| ())).contains("somebody changed it"));
    assert!(halted(owner.sink.claim(0, epoch(2)).map(|_| ())).contains("somebody changed it"));
}

pub(crate) fn tables_of_another_pipeline_cluster_or_topic_halt(place: &impl Place) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    owner.deliver(&[simple(1)]).unwrap();
    let foreign = [
        Context { pipeline: "other".into(), ..context() },
        Context { cluster_id: "cluster-2".into(), ..context() },
        Context { topic: "elsewhere".into(), ..context() },
    ];
    for context in foreign {
        let opened = sink::open(&place.config(), &context).map(|_| ());
        let message = halted(opened);
        assert!(message.contains("belong to pipeline `shop`"), "{message}");
        assert!(message.contains("of its own"), "{message}");
    }
    // Both started on empty tables.
    let mut late = open(place).unwrap();
    place.tamper(Tamper::Pipeline("other"));
    assert!(halted(late.claim(0, epoch(2)).map(|_| ())).contains("pipeline `other`"));
    assert!(halted(late.claim(1, epoch(2)).map(|_| ())).contains("pipeline `other`"));
    assert_eq!(ids(place), ["e1"]);
}

pub(crate) fn tables_of_a_later_version_halt(place: &impl Place) {
    open(place).unwrap();
    place.tamper(Tamper::Version(4711));
    assert!(halted(open(place).map(|_| ())).contains("4711"));
}

pub(crate) fn lanes_may_open_at_the_same_time(place: &impl Place) {
    place.prepare();
    let barrier = Barrier::new(8);
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..8)
            .map(|partition| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    Owner::claim(place, partition, epoch(1)).deliver(&[simple(1)]).unwrap();
                })
            })
            .collect();
        lanes.into_iter().for_each(|lane| lane.join().unwrap());
    });
    assert_eq!(place.events().len(), 8);
}

pub(crate) fn lanes_deliver_side_by_side(place: &impl Place) {
    place.prepare();
    thread::scope(|scope| {
        for partition in 0..3 {
            scope.spawn(move || {
                let mut owner = Owner::claim(place, partition, epoch(1));
                for n in 0..40 {
                    owner.deliver(&[simple(2 * n), simple(2 * n + 1)]).unwrap();
                }
            });
        }
    });
    let applied = place.events();
    for partition in 0..3 {
        let offsets: Vec<_> = applied.iter().filter(|e| e.partition == partition).map(|e| e.at.0).collect();
        assert!(offsets.into_iter().eq(0..80), "partition {partition}");
    }
}
