//! What the store promises: a state comes back as it was, and a directory that is not what it should be
//! comes back empty, never as something else.

use super::*;
use crate::fold::{BucketKey, IdBlock};
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

/// Runs of three buckets, spilled one after the other: each id is found in its run and in no other, after a restart
/// too, and an expired bucket's run is gone.
#[test]
fn spilled_ids_are_found_in_their_runs() {
    let dir = tempfile::tempdir().unwrap();
    let id = |n: usize| EventId::new("source", "", &n.to_string());
    let bucket = |n: i64| BucketKey { start_ms: n * 1_000, span_ms: 1_000 };
    let (mut state, mut whole) = (State::new(0), State::new(0));
    let mut store = stores(dir.path()).open(0).unwrap();
    for n in 0..6_usize {
        // Each spill has a run of the bucket before, and one of its own.
        let block = |bucket, from: usize| IdBlock { bucket, ids: (from..from + 700).map(id).collect() };
        let of = n as i64 / 2;
        let mut delta = delta(n as i64, 1);
        delta.ids = vec![block(bucket(of), n * 1_400), block(bucket(of + 1), n * 1_400 + 700)];
        delta.head.ids_from_ms = i64::MIN;
        store.save(&delta, mark(n as i64)).unwrap();
        state.apply(delta.clone());
        whole.apply(delta);
        if n < 5 {
            state.spill(|runs| store.spill(runs)).unwrap();
            assert_eq!(state.ids_in_memory(), 0);
        }
    }
    let runs: Vec<_> = state.runs().map(|(run, _)| run).collect();
    assert_eq!(runs.len(), 10);
    for n in (0..8_400).step_by(13) {
        let holding: Vec<_> = runs.iter().filter(|run| store.holds(**run, id(n)).unwrap()).collect();
        let (spill, second) = (n / 1_400, i64::from(n % 1_400 >= 700));
        let of: Vec<i64> = holding.iter().map(|run| run.bucket.start_ms / 1_000).collect();
        let expected = if spill < 5 { vec![spill as i64 / 2 + second] } else { vec![] };
        assert_eq!(of, expected, "{n}");
    }
    store.close().unwrap();
    drop(store);
    let mut store = stores(dir.path()).open(0).unwrap();
    let (mut loaded, _) = store.load().unwrap().unwrap();
    assert_eq!((loaded.ids_in_memory(), loaded.sizes().0), (1_400, 8_400));
    // A run in parts is the run.
    for (run, ids) in loaded.runs() {
        let all = store.part(run, 0..=u16::MAX).unwrap();
        let parts =
            [0..=17_000, 17_001..=17_001, 17_002..=u16::MAX].map(|range| store.part(run, range).unwrap());
        assert_eq!((all.len(), all.is_sorted()), (ids, true));
        assert_eq!(parts.concat(), all);
    }
    crate::store::unspill(&mut loaded, &mut store).unwrap();
    assert_eq!(loaded.whole(), whole.whole());
    // The first bucket expires: 700 ids of the first two spills each.
    let mut later = delta(7, 1);
    (later.ids, later.head.ids_from_ms) = (Vec::new(), bucket(1).start_ms);
    store.save(&later, mark(7)).unwrap();
    store.close().unwrap();
    drop(store);
    let (loaded, _) = stores(dir.path()).open(0).unwrap().load().unwrap().unwrap();
    assert_eq!(loaded.sizes().0, 8_400 - 1_400);
}

/// What was never spilled whole is there beside what is in memory, and the next spill does not mix with it.
#[test]
fn a_spill_that_was_cut_off_does_no_harm() {
    let dir = tempfile::tempdir().unwrap();
    let id = |n: usize| EventId::new("source", "", &n.to_string());
    let bucket = BucketKey::at(1_000, 80_000);
    let mut given = delta(1, 1);
    given.ids = vec![IdBlock { bucket, ids: (0..1_000).map(id).collect() }];
    let mut state = State::new(0);
    state.apply(given.clone());
    {
        let mut store = stores(dir.path()).open(0).unwrap();
        store.save(&given, mark(1)).unwrap();
        store.close().unwrap();
        let half = |runs: &[Run]| {
            let tree = store.db.open_tree(format!("runs/{}/{}", bucket.start_ms, bucket.span_ms)).unwrap();
            for ids in runs[0].ids.chunks(128).take(3) {
                let key = [&0_u32.to_be_bytes()[..], &ids[0].0].concat();
                tree.insert(key, ids.iter().flat_map(|id| id.0).collect::<Vec<u8>>()).unwrap();
            }
            Err(())
        };
        state.spill(half).unwrap_err();
        assert_eq!(state.ids_in_memory(), 1_000);
        store.close().unwrap();
    }
    let mut store = stores(dir.path()).open(0).unwrap();
    let (mut loaded, _) = store.load().unwrap().unwrap();
    assert_eq!((loaded.ids_in_memory(), loaded.runs().next().unwrap().1), (1_000, 384));
    loaded.spill(|runs| store.spill(runs)).unwrap();
    for id in (0..1_000).map(id) {
        let held = loaded.runs_that_may_hold(id).into_iter().any(|run| store.holds(run, id).unwrap());
        assert!(held);
    }
    crate::store::unspill(&mut loaded, &mut store).unwrap();
    assert_eq!(loaded.whole(), state.whole());
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
