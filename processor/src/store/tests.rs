//! The store against the plain list of what it was given: whatever a crash or a disk has left, it leads, with the rest
//! of the list, to where the whole list leads; or it says that it cannot.

use std::fs;
use std::path::Path;

use hookline_tests::damage::{Damage, files};
use proptest::prelude::*;
use tempfile::TempDir;

use super::{SledStores, Store, Stores, unspill};
use crate::fold::tests::{Sent, config, new_state, records, sent};
use crate::fold::{Delta, State, decide};
use crate::journal::Mark;
use crate::position::Epoch;
use crate::verify::copy_files;

const EPOCH: Epoch = Epoch { lineage: 1, claim: 0 };

fn stores(dir: &Path) -> SledStores {
    SledStores::new(dir, "cluster", "topic", "pipeline")
}

/// What a lane gives its store: a delta and a mark for each few records.
fn given(sent: &[Sent], records_each: usize) -> Vec<(Delta, Mark)> {
    let mut state = new_state(config(2_000));
    let mut mark = Mark::START;
    let list = records(sent);
    let folded = list.chunks(records_each).enumerate().map(|(n, chunk)| {
        for record in chunk {
            decide(&mut state, record, "p", &mut Vec::new()).unwrap();
        }
        let delta = state.delta();
        state.apply(delta.clone());
        mark = mark.next(EPOCH, n as i64, &n.to_be_bytes());
        (delta, mark)
    });
    folded.collect()
}

/// The state that deltas lead to.
fn applied<'a>(mut state: State, deltas: impl IntoIterator<Item = &'a (Delta, Mark)>) -> Vec<u8> {
    for (delta, _) in deltas {
        state.apply(delta.clone());
    }
    postcard::to_allocvec(&state.whole()).unwrap()
}

/// What `kill -9` leaves: the files as they are now.
fn killed(dir: &Path) -> TempDir {
    let copy = TempDir::new().unwrap();
    copy_files(dir, copy.path()).unwrap();
    copy
}

fn damage(dir: &Path, kind: Damage, which: usize, at: usize) {
    let files = files(dir);
    let Some(file) = files.get(which % files.len().max(1)) else { return };
    let mut bytes = fs::read(file).unwrap();
    let at = at % bytes.len();
    kind.apply(&mut bytes, at);
    fs::write(file, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_crash_or_a_damaged_file_loses_no_more_than_time(
        sent in proptest::collection::vec(sent(), 1..80),
        records_each in 1..5_usize,
        written in any::<u32>(),
        spilled in any::<u32>(),
        kind in prop_oneof![
            2 => Just(None), 1 => Just(Some(Damage::CutOff)), 1 => Just(Some(Damage::Zeroed)),
            1 => Just(Some(Damage::Flipped))
        ],
        which in any::<usize>(),
        at in any::<usize>(),
    ) {
        let given = given(&sent, records_each);
        let dir = TempDir::new().unwrap();
        let mut store = stores(dir.path()).open(0).unwrap();
        let (mut last, mut state) = (None, State::new(0));
        for (n, (delta, mark)) in given.iter().enumerate() {
            store.save(delta, *mark).unwrap();
            state.apply(delta.clone());
            if spilled >> (n % 32) & 7 == 7 {
                state.spill(|runs| store.spill(runs)).unwrap();
            }
            if written >> (n % 32) & 1 == 1 {
                store.close().unwrap();
                last = Some(mark.offset);
            }
        }
        let left = killed(dir.path());
        drop(store);
        if let Some(kind) = kind {
            damage(left.path(), kind, which, at);
        }
        let found = stores(left.path()).open(0).and_then(|mut store| {
            let mut found = store.load()?;
            if let Some((state, _)) = &mut found {
                unspill(state, &mut store)?;
            }
            Ok(found)
        });
        if kind.is_none() {
            // What was written is there, and perhaps more: a slow test's store writes by itself.
            let mark = found.as_ref().unwrap().as_ref().map(|(_, mark)| mark.offset);
            prop_assert!(mark >= last, "{:?} {:?}", mark, last);
        }
        if let Ok(Some((state, mark))) = found {
            let at = given.iter().position(|(_, given)| *given == mark);
            prop_assert!(at.is_some(), "a mark that was never given");
            let rest = given.iter().skip(at.unwrap() + 1);
            prop_assert_eq!(applied(state, rest), applied(State::new(0), &given), "{:?}", kind);
        }
    }
}
