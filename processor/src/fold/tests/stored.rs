//! What earlier releases stored is read as it was meant.

use super::*;
use crate::journal::{Entry, Mark, Replay};
use crate::position::{Digest, Fence, Position};
use crate::snapshot::Cutting;

/// A journal record of format 1, as the release before format 2 wrote it: the state of `config(3_600_000)`, version 1,
/// after eleven events of connection `acme`.
const JOURNAL_1: &[u8] = include_bytes!("../../../tests/golden/state/journal_1");

fn first_release() -> Delta {
    let record = JournalRecord::decode(0, JOURNAL_1).unwrap().unwrap();
    assert_eq!((record.epoch, record.instance.as_str(), record.previous), (EPOCH, "p-0", Digest([9; 16])));
    let Entry::Checkpoint { from: 0, delta, fence } = record.entry else { panic!("{:?}", record.entry) };
    let position = Position { offset: 6, ordinal: 0 };
    assert_eq!(fence, Some(Fence { position, digest: Digest([7; 16]), epoch: EPOCH }));
    *delta
}

/// Promise: a journal of the release before is read to the last field, and written again as it was.
#[test]
fn a_journal_of_format_1_is_read() {
    let Delta { head, ids, entities } = first_release();
    let Totals { applied, duplicate, stale, held, dead_lettered, ignored, control } = head.totals;
    assert_eq!((applied, duplicate, stale, held, dead_lettered, ignored, control), (4, 1, 1, 3, 1, 1, 0));
    assert_eq!((head.next_offset, head.stream_time_ms), (11, 1_000_010));
    assert_eq!(head.refusals, BTreeMap::from([(Position { offset: 20, ordinal: 1 }, "too long".to_owned())]));
    assert_eq!(head.config.unwrap().config, FoldConfig { version: 1, ..config(3_600_000) });
    assert_eq!(ids.iter().map(|block| block.ids.len()).sum::<usize>(), 9);
    let of = |key: &str| &entities.iter().find(|(k, _)| **k == *key.as_bytes()).unwrap().1;
    let Entity::Sequence { next, last, held, gap } = of("sequence/acme/1") else { panic!() };
    assert_eq!((*next, *last), (Some(2), Some(EventId::new("sequence", "acme", "a"))));
    assert_eq!(held.keys().copied().collect::<Vec<_>>(), [3, 5]);
    assert_eq!(held[&5].frame.event().unwrap().id, "c");
    assert_eq!(*gap, Some(Gap { opened_at: 1, deadline_ms: 1_001_001, wait_ms: 1_000 }));
    let Entity::Sequence { next: None, last: None, .. } = of("unbased/acme/1") else { panic!() };
    assert_eq!(*of("version/acme/1"), Entity::Version { newest: Version::Integer(7) });
    assert_eq!(entities.len(), 4);
    let again = JournalRecord::decode(0, JOURNAL_1).unwrap().unwrap().encode().unwrap();
    assert_eq!(again, JOURNAL_1);
}

/// Promise: a state of the release before goes on: its first record under the second version is decided by that one.
#[test]
fn a_state_of_format_1_goes_on_under_the_second_version() {
    let mut state = State::new(0);
    state.apply(first_release());
    let mut effects = Vec::new();
    let event = |id: &str, number: &str, snapshot: Option<&str>| Event {
        id: id.into(),
        source: "sequence".into(),
        connection: "acme".into(),
        kind: "order.changed".into(),
        entity: Some("1".into()),
        sequence: Some(number.into()),
        snapshot: snapshot.map(str::to_owned),
        ..Event::default()
    };
    let (by, why) = (String::new(), String::new());
    let second = ConfigRecord { pipeline: PIPELINE.into(), epoch: EPOCH, fold: config(3_600_000), by, why };
    let records = [
        // Under the first version a snapshot is a webhook: ahead of the gap, so held.
        Record { offset: 11, time_ms: 1_000_011, frame: frame(&event("p", "6", Some("6")), b"") },
        control(12, 1_000_012, b"p", &Control::Config(second)),
        Record { offset: 13, time_ms: 1_000_013, frame: frame(&event("q", "5", Some("5")), b"") },
    ];
    let verdicts = records.map(|record| decide(&mut state, &record, PIPELINE, &mut effects).unwrap());
    assert_eq!(verdicts, [Some(Verdict::Held), None, Some(Verdict::Applied)]);
    let applied: Vec<i64> = effects.iter().map(|effect| effect.event_offset).collect();
    assert_eq!(applied, [13, 11]);
    let totals = state.head().totals;
    assert_eq!((totals.applied, totals.stale, totals.held), (6, 3, 1));
}

/// Promise: where a configuration of the second version is in force, journal and snapshots are of format 2, and a
/// program that knows format 1 says that it is too old.
#[test]
fn the_second_version_is_written_as_format_2() {
    let mut state = new_state(with_policy(1_000, GapPolicy::BackfillOrPark));
    let record = Record { offset: 0, time_ms: 1, frame: frame(&Event::default(), b"") };
    decide(&mut state, &record, PIPELINE, &mut Vec::new()).unwrap();
    let entry = Entry::Checkpoint { from: 0, delta: Box::new(state.delta()), fence: None };
    let written = JournalRecord { epoch: EPOCH, instance: "p-0".into(), previous: Digest::default(), entry };
    let bytes = written.encode().unwrap();
    assert_eq!(bytes[..4], *b"HKJ\x02");
    let mut replay = Replay::new(State::new(0), Mark::START);
    let claim = JournalRecord { entry: Entry::Claim, ..written.clone() };
    assert_eq!(claim.encode().unwrap()[..4], *b"HKJ\x01");
    replay.take(0, &claim.encode().unwrap()).unwrap();
    replay.take(1, &bytes).unwrap();
    let in_force = replay.state.head().config.clone().unwrap().config;
    assert_eq!(in_force, with_policy(1_000, GapPolicy::BackfillOrPark));
    for (state, magic) in [(&replay.state, b"HKS\x02"), (&State::new(0), b"HKS\x01")] {
        let mut cutting = Cutting::begin(state, replay.mark, 1 << 20);
        while let Some(chunk) = cutting.next(state, |_, _| panic!("nothing is spilled")).unwrap() {
            assert_eq!(chunk[..4], *magic);
        }
    }
}
