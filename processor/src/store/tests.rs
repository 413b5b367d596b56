//! The store against the plain list of what it was given: whatever a crash or a disk has left, it leads, with the rest
//! of the list, to where the whole list leads; or it says that it cannot.

use std::fs;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use tempfile::TempDir;

use super::{SledStores, Store, Stores};
use crate::fold::tests::{Sent, config, new_state, records, sent};
use crate::fold::{Delta, State, decide};
use crate::journal::Mark;
use crate::position::Epoch;

const EPOCH: Epoch = Epoch { lineage: 1, claim: 0 };

/// What disks and half-done copies do to a file.
#[derive(Clone, Copy, Debug)]
enum Damage {
    None,
    CutOff,
    Zeroed,
    Flipped,
}

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
    for file in files(dir) {
        let to = copy.path().join(file.strip_prefix(dir).unwrap());
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(&file, to).unwrap();
    }
    copy
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn damage(dir: &Path, damage: Damage, which: usize, at: usize) {
    let mut files = files(dir);
    files.retain(|file| fs::metadata(file).unwrap().len() > 0);
    let Some(file) = files.get(which % files.len().max(1)) else { return };
    let mut bytes = fs::read(file).unwrap();
    let at = at % bytes.len();
    match damage {
        Damage::None => {}
        Damage::CutOff => bytes.truncate(at),
        Damage::Zeroed => bytes.iter_mut().skip(at).take(512).for_each(|byte| *byte = 0),
        Damage::Flipped => bytes[at] ^= 1,
    }
    fs::write(file, bytes).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_crash_or_a_damaged_file_loses_no_more_than_time(
        sent in proptest::collection::vec(sent(), 1..80),
        records_each in 1..5_usize,
        written in any::<u32>(),
        kind in prop_oneof![
            2 => Just(Damage::None), 1 => Just(Damage::CutOff), 1 => Just(Damage::Zeroed), 1 => Just(Damage::Flipped)
        ],
        which in any::<usize>(),
        at in any::<usize>(),
    ) {
        let given = given(&sent, records_each);
        let dir = TempDir::new().unwrap();
        let mut store = stores(dir.path()).open(0).unwrap();
        let mut last = None;
        for (n, (delta, mark)) in given.iter().enumerate() {
            store.save(delta, *mark).unwrap();
            if written >> (n % 32) & 1 == 1 {
                store.close().unwrap();
                last = Some(mark.offset);
            }
        }
        let left = killed(dir.path());
        drop(store);
        damage(left.path(), kind, which, at);
        let found = stores(left.path()).open(0).and_then(|mut store| store.load());
        if matches!(kind, Damage::None) {
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
