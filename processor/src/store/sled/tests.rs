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

/// Entities that change again and again: what is read is what was written last, and the tree stays small.
#[test]
fn changed_entities_are_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let db = sled::open(dir.path()).unwrap();
    let mut blocks = Blocks::of(db.open_tree(ENTITIES).unwrap());
    let mut expected = HashMap::new();
    for round in 0..120_i64 {
        // Most of them in each round, and one that is there from the first round on only.
        let first = if round == 0 { 0 } else { 1 };
        let changed: HashMap<EntityKey, Entity> = (first..3_000_i64)
            .filter(|n| (n + round) % 7 != 0 || round == 0)
            .map(|n| {
                let newest = crate::fold::Version::Integer(n * 1_000 + round);
                (EntityKey::from(format!("entity-{n}").as_bytes()), Entity::Version { newest })
            })
            .collect();
        expected.extend(changed.clone());
        if round % 50 == 49 {
            blocks = Blocks::of(db.open_tree(ENTITIES).unwrap());
            blocks.read(drop).unwrap();
        }
        blocks.write(changed, round).unwrap();
    }
    let mut found = HashMap::new();
    Blocks::of(db.open_tree(ENTITIES).unwrap()).read(|entities| found.extend(entities)).unwrap();
    assert_eq!(found, expected);
    let size = |entry: sled::Result<(sled::IVec, sled::IVec)>| entry.unwrap().1.len();
    let bytes: usize = db.open_tree(ENTITIES).unwrap().iter().map(size).sum();
    let once: usize = expected.iter().map(|(key, entity)| key.len() + entity.to_bytes().len()).sum();
    assert!(bytes < 4 * once + 16 * 128 * 1024, "{bytes} bytes for {once}");
}
