//! What one checkpoint of 5,000 events costs beside Kafka: its delta, the journal record of it and back, and the delta
//! applied to the state in memory and to sled. One operation is one checkpoint.

use std::hint::black_box;

use processor::fold::{Delta, State};
use processor::journal::{Entry, JournalRecord, Mark};
use processor::position::{Digest, Epoch};
use processor::store::{SledStore, SledStores, Store as _, Stores as _};
use tempfile::TempDir;

use super::fold::{RECORDS, Step, fold, records, warm};
use crate::case::{Case, Round};

const ENTITIES: u32 = 10_000;
/// Ids that are remembered before.
const IDS: usize = 100_000;
const EPOCH: Epoch = Epoch { lineage: 1, claim: 0 };

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("checkpoint/delta", 1, Taking::new),
        Case::new("checkpoint/journal_encode", 1, Encoding::new),
        Case::new("checkpoint/journal_decode", 1, Decoding::new),
        Case::new("checkpoint/apply_memory", 1, Memory::new),
        Case::new("checkpoint/apply_sled", 1, Sled::new),
    ]
}

/// The state with everything of a checkpoint folded, and nothing of it final.
fn folded() -> State {
    let mut state = State::new(0);
    state.apply(warm(Step::InOrder, ENTITIES, IDS));
    fold(&mut state, &records(Step::InOrder, ENTITIES), &mut Vec::new());
    assert_eq!(state.head().totals.applied, RECORDS);
    state
}

/// The journal record of a checkpoint.
fn journal_record() -> JournalRecord {
    let entry = Entry::Checkpoint { from: 0, delta: Box::new(folded().delta()), fence: None };
    JournalRecord { epoch: EPOCH, instance: "warehouse-0".to_owned(), previous: Digest::default(), entry }
}

struct Taking {
    state: State,
    delta: Option<Delta>,
}

impl Taking {
    fn new() -> Self {
        Self { state: folded(), delta: None }
    }
}

impl Round for Taking {
    fn prepare(&mut self) {
        self.delta = None;
    }

    fn run(&mut self) {
        self.delta = Some(self.state.delta());
    }

    fn check(&mut self) {
        let delta = self.delta.as_ref().unwrap();
        let ids: usize = delta.ids.iter().map(|block| block.ids.len()).sum();
        assert_eq!((delta.entities.len() as u64, ids as u64), (RECORDS, RECORDS));
    }
}

struct Encoding {
    record: JournalRecord,
    encoded: Vec<u8>,
}

impl Encoding {
    fn new() -> Self {
        Self { record: journal_record(), encoded: Vec::new() }
    }
}

impl Round for Encoding {
    fn prepare(&mut self) {
        self.encoded = Vec::new();
    }

    fn run(&mut self) {
        self.encoded = self.record.encode().unwrap();
    }

    fn check(&mut self) {
        assert_eq!(JournalRecord::decode(0, &self.encoded).unwrap().as_ref(), Some(&self.record));
    }
}

struct Decoding {
    encoded: Vec<u8>,
    record: Option<JournalRecord>,
}

impl Decoding {
    fn new() -> Self {
        Self { encoded: journal_record().encode().unwrap(), record: None }
    }
}

impl Round for Decoding {
    fn prepare(&mut self) {
        self.record = None;
    }

    fn run(&mut self) {
        self.record = JournalRecord::decode(0, black_box(&self.encoded)).unwrap();
    }

    fn check(&mut self) {
        assert_eq!(self.record.as_ref().unwrap().encode().unwrap(), self.encoded);
    }
}

struct Memory {
    before: Delta,
    delta: Delta,
    state: State,
    next: Option<Delta>,
}

impl Memory {
    fn new() -> Self {
        let before = warm(Step::InOrder, ENTITIES, IDS);
        Self { before, delta: folded().delta(), state: State::new(0), next: None }
    }
}

impl Round for Memory {
    fn prepare(&mut self) {
        self.state = State::new(0);
        self.state.apply(self.before.clone());
        self.next = Some(self.delta.clone());
    }

    fn run(&mut self) {
        self.state.apply(self.next.take().unwrap());
    }

    fn check(&mut self) {
        assert_eq!(self.state.sizes(), (IDS + RECORDS as usize, ENTITIES as usize));
        assert_eq!(self.state.checkpointed(), &self.delta.head);
    }
}

/// sled with all entities, its files on the disk. A round writes a checkpoint and waits until the disk has it.
struct Sled {
    store: SledStore,
    delta: Delta,
    mark: Mark,
    _directory: TempDir,
}

impl Sled {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut stores = SledStores::new(directory.path(), "cluster", "hookline.events", "warehouse");
        let mut store = stores.open(0).unwrap();
        let mark = Mark::START.next(EPOCH, 0, &[]);
        store.save(&warm(Step::InOrder, ENTITIES, IDS), mark).unwrap();
        store.close().unwrap();
        Self { store, delta: folded().delta(), mark, _directory: directory }
    }
}

impl Round for Sled {
    fn prepare(&mut self) {
        self.mark = self.mark.next(EPOCH, self.mark.offset + 1, &[]);
    }

    fn run(&mut self) {
        self.store.save(&self.delta, self.mark).unwrap();
        self.store.close().unwrap();
    }

    fn check(&mut self) {
        let (state, mark) = self.store.load().unwrap().unwrap();
        assert_eq!((state.checkpointed(), mark), (&self.delta.head, self.mark));
        assert_eq!(state.sizes(), (IDS + RECORDS as usize, ENTITIES as usize));
    }
}
