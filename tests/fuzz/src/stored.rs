//! What the processor itself wrote, and somebody may have damaged: journal records and snapshots.

use bolero::check;
use processor::fold::State;
use processor::journal::{Entry, JournalRecord, Mark, Replay};
use processor::position::{Digest, Epoch, Position};
use processor::snapshot::{self, Cutting};

use crate::damaged;

fn refusal() -> Vec<u8> {
    let record = JournalRecord {
        epoch: Epoch { lineage: 1, claim: 0 },
        instance: "one".to_owned(),
        previous: Digest::default(),
        entry: Entry::Refusal { position: Position { offset: 7, ordinal: 0 }, reason: "no".to_owned() },
    };
    record.encode().unwrap()
}

#[test]
fn journal_records() {
    let good = refusal();
    check!().with_type::<(u16, Vec<u8>)>().for_each(|(at, drawn)| {
        let bytes = damaged(&good, usize::from(*at), drawn);
        let mut replay = Replay::new(State::new(0), Mark::START);
        let _ = replay.take(0, &bytes);
        if let Ok(Some(record)) = JournalRecord::decode(0, &bytes) {
            let written = record.encode().unwrap();
            assert_eq!(JournalRecord::decode(0, &written).unwrap().unwrap().encode().unwrap(), written);
        }
    });
}

#[test]
fn snapshots() {
    let mark = Mark::START.next(Epoch { lineage: 1, claim: 0 }, 9, b"covered");
    let state = State::new(5);
    let mut cutting = Cutting::begin(&state, mark, 60);
    let chunks = [cutting.next(&state, |_, _| panic!("nothing is spilled")).unwrap().unwrap()];
    assert!(cutting.is_done());
    check!().with_type::<(u16, Vec<u8>)>().for_each(|(at, drawn)| {
        let damaged: Vec<Vec<u8>> =
            chunks.iter().map(|chunk| damaged(chunk, usize::from(*at), drawn)).collect();
        let _ = snapshot::beginning(Some((9, refusal())), |each| {
            damaged.iter().for_each(|chunk| each(0, chunk));
            Ok(())
        });
    });
}
