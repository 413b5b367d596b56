//! What the store promises: a state comes back as it was, and a directory that is not what it should be
//! comes back empty, never as something else.

use super::*;
use crate::position::Digest;

fn stores(dir: &Path) -> SledStores {
    SledStores::new(dir, "cluster", "hookline.events", "p")
}

fn delta(next_offset: i64, id: u8) -> Delta {
    let mut delta = State::new(0).delta();
    delta.head.next_offset = next_offset;
    delta.head.stream_time_ms = 1_000;
    delta.ids = vec![IdBlock { bucket: BucketKey::at(1_000, 80_000), ids: vec![EventId([id; 16])] }];
    let entity = Entity::Version { newest: crate::fold::Version::Integer(i64::from(id)) };
    delta.entities = vec![(Box::from([id]), entity)];
    delta
}

fn mark(offset: i64) -> Mark {
    Mark {
        epoch: crate::position::Epoch { lineage: 1, claim: 0 },
        offset,
        digest: Digest::of(b"x"),
        journal_bytes: 0,
    }
}

#[test]
fn a_state_comes_back_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = State::new(0);
    {
        let mut store = stores(dir.path()).open(0).unwrap();
        assert!(store.load().unwrap().is_none());
        for n in 1..4_u8 {
            store.save(&delta(i64::from(n), n), mark(i64::from(n))).unwrap();
            expected.apply(delta(i64::from(n), n));
        }
        store.close().unwrap();
    }
    let (state, found) = stores(dir.path()).open(0).unwrap().load().unwrap().unwrap();
    assert_eq!(found, mark(3));
    assert_eq!(state.whole(), expected.whole());
}

#[test]
fn another_clusters_state_comes_back_empty() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut store = stores(dir.path()).open(0).unwrap();
        store.save(&delta(1, 1), mark(1)).unwrap();
        store.close().unwrap();
    }
    let mut other = SledStores::new(dir.path(), "another cluster", "hookline.events", "p");
    assert!(other.open(0).unwrap().load().unwrap().is_none());
}

#[test]
fn a_damaged_directory_comes_back_empty() {
    let dir = tempfile::tempdir().unwrap();
    {
        let mut store = stores(dir.path()).open(0).unwrap();
        store.save(&delta(1, 1), mark(1)).unwrap();
        store.close().unwrap();
    }
    let db = dir.path().join("partition-0/db");
    let len = std::fs::metadata(&db).unwrap().len();
    std::fs::write(&db, vec![0_u8; usize::try_from(len).unwrap()]).unwrap();
    std::fs::write(dir.path().join("partition-0/snap.0000.generating"), b"half").unwrap();
    assert!(stores(dir.path()).open(0).unwrap().load().unwrap().is_none());
}
