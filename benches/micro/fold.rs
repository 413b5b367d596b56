//! A step of the fold: `decide` for the records of one checkpoint over a state that is warm; each is of another entity,
//! but where they wait in line.

use std::collections::BTreeMap;

use processor::fold::{
    BucketKey, Delta, Effect, Entity, EntityKey, EventId, FoldConfig, Gap, Held, IdBlock, InForce, Order,
    Record, SourceFold, State, Totals, Version, decide, fold_version,
};
use processor::position::Epoch;
use shared::config::GapPolicy;
use shared::event::entity_key;

use super::codec;
use crate::case::{Case, Round};
use crate::webhook;
use crate::workload::{Item, Random};

/// Records between two checkpoints.
pub(crate) const RECORDS: u64 = 5_000;
/// Ids that are remembered, in all buckets of a window.
const IDS: usize = 1_000_000;
/// Numbers of entities.
const SMALL: u32 = 10_000;
const LARGE: u32 = 1_000_000;
const PIPELINE: &str = "warehouse";
const BODY_BYTES: usize = 500;
const WINDOW_MS: i64 = 7 * 24 * 3_600_000;
/// Buckets of a window that is full.
const BUCKETS: i64 = 8;
const NOW_MS: i64 = 1_767_225_600_000;
const GAP_WAIT_MS: i64 = 24 * 3_600_000;
/// The number that every entity waits for.
const NEXT: u64 = 1_000;
/// Entities whose events wait in line.
const ENTITIES_IN_LINE: u64 = 10;
/// Without a common divisor with the numbers of entities: so far is an entity from that of the record before.
const STRIDE: u64 = 7_919;

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for entities in [SMALL, LARGE] {
        for step in Step::ALL {
            let name = format!("fold/{}/{entities}_entities", step.name());
            let case = Case::new(name, RECORDS, move || Fold::new(step, entities));
            cases.push(case.only_timed(entities == LARGE));
        }
    }
    cases
}

/// What becomes of each record.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It has the number that its entity waits for, and is applied.
    InOrder,
    /// Its id is remembered.
    Duplicate,
    /// The number before it is missing.
    Held,
    /// It is held too, behind up to 499 others of its entity: the records are of ten entities.
    HeldInLine,
    /// It is applied, and so is the one that waited for it.
    Released,
    /// It has a newer version, and is applied.
    Version,
}

impl Step {
    const ALL: [Self; 6] =
        [Self::InOrder, Self::Duplicate, Self::Held, Self::HeldInLine, Self::Released, Self::Version];

    const fn name(self) -> &'static str {
        match self {
            Self::InOrder => "in_order",
            Self::Duplicate => "duplicate",
            Self::Held => "held",
            Self::HeldInLine => "held_in_line",
            Self::Released => "released",
            Self::Version => "version",
        }
    }

    /// The number of a record in its entity.
    const fn sequence(self, record: u64) -> u64 {
        match self {
            Self::InOrder | Self::Duplicate | Self::Released | Self::Version => NEXT,
            Self::Held => NEXT + 1,
            Self::HeldInLine => NEXT + 1 + record / ENTITIES_IN_LINE,
        }
    }

    /// What is counted of the records, over a state that holds what waits for them.
    fn totals(self) -> Totals {
        let none = Totals::default();
        match self {
            Self::InOrder | Self::Version => Totals { applied: RECORDS, ..none },
            Self::Duplicate => Totals { duplicate: RECORDS, ..none },
            Self::Held | Self::HeldInLine => Totals { held: RECORDS, ..none },
            Self::Released => Totals { applied: 2 * RECORDS, ..none },
        }
    }

    fn config(self) -> FoldConfig {
        let sequence =
            Order::Sequence { start: Some(1), gap_wait_ms: GAP_WAIT_MS, gap_policy: GapPolicy::Skip };
        let order = if self == Self::Version { Order::Version } else { sequence };
        FoldConfig {
            version: fold_version(),
            window_ms: WINDOW_MS,
            held_events_max: 1_000,
            held_bytes_max: 1 << 20,
            sources: BTreeMap::from([(webhook::SOURCE.to_owned(), SourceFold { rules: Vec::new(), order })]),
        }
    }

    /// What is remembered of an entity.
    fn entity(self, waiting: Option<Held>) -> Entity {
        if self == Self::Version {
            return Entity::Version { newest: Version::parse("2026-01-01T00:00:00.000Z").unwrap() };
        }
        let gap = waiting.as_ref().map(|held| Gap {
            opened_at: held.offset,
            deadline_ms: NOW_MS + GAP_WAIT_MS,
            wait_ms: GAP_WAIT_MS,
        });
        let held = waiting.map(|held| (NEXT + 1, held)).into_iter().collect();
        Entity::Sequence { next: Some(NEXT), last: Some(EventId([1; 16])), held, gap }
    }
}

/// The state at a checkpoint: many entities, and ids in every bucket of the window.
pub(crate) fn warm(step: Step, entities: u32, ids: usize) -> Delta {
    let mut state = State::new(0);
    state.start_with(InForce { config: step.config(), epoch: Epoch { lineage: 1, claim: 0 } });
    let mut delta = state.delta();
    delta.head.stream_time_ms = NOW_MS;
    delta.head.ids_from_ms = NOW_MS - WINDOW_MS;
    let mut random = Random(1);
    let mut id = || {
        let (a, b) = (random.next().to_le_bytes(), random.next().to_le_bytes());
        EventId(std::array::from_fn(|n| if n < 8 { a[n] } else { b[n - 8] }))
    };
    let bucket = |back: i64| BucketKey::at(NOW_MS - back * (WINDOW_MS / BUCKETS), WINDOW_MS);
    delta.ids = (0..BUCKETS)
        .rev()
        .map(|back| IdBlock {
            bucket: bucket(back),
            ids: (0..ids / BUCKETS as usize).map(|_| id()).collect(),
        })
        .collect();
    let mut waiting = BTreeMap::new();
    if step == Step::Released {
        delta.head.totals.held = RECORDS;
        let held = touched(entities).map(|entity| (entity, held(entity)));
        waiting.extend(held);
    }
    if step == Step::Duplicate {
        let seen = records(step, entities).iter().map(event_id).collect();
        delta.ids.push(IdBlock { bucket: bucket(0), ids: seen });
    }
    delta.entities =
        (0..entities).map(|entity| (key(entity), step.entity(waiting.remove(&entity)))).collect();
    delta
}

/// The records of one checkpoint.
pub(crate) fn records(step: Step, entities: u32) -> Vec<Record> {
    let record = |(n, entity): (u64, u32)| {
        let in_line = step == Step::HeldInLine;
        let entity = if in_line { u32::try_from(n % ENTITIES_IN_LINE).unwrap() } else { entity };
        let item = Item { entity, sequence: step.sequence(n) };
        let version = (step == Step::Version).then(|| "2026-01-01T00:00:01.000Z".to_owned());
        record(i64::try_from(n).unwrap(), item, version.unwrap_or_else(|| item.sequence.to_string()))
    };
    (0..).zip(touched(entities)).map(record).collect()
}

/// The entities of the records, each another one.
fn touched(entities: u32) -> impl Iterator<Item = u32> {
    (0..RECORDS).map(move |n| u32::try_from(n * STRIDE % u64::from(entities)).unwrap())
}

fn key(entity: u32) -> EntityKey {
    let entity = webhook::entity(Item { entity, sequence: 0 });
    entity_key(webhook::SOURCE, "", &entity).into_bytes().into()
}

/// `place` is the number or version as the sender wrote it.
fn record(offset: i64, item: Item, place: String) -> Record {
    let mut event = webhook::event(item);
    event.sequence = Some(place);
    let frame = codec::frame(&event, &event.to_headers(), &webhook::body(item, BODY_BYTES));
    Record { offset, time_ms: NOW_MS + offset / 10, frame }
}

/// The event that waits for its entity's next one.
fn held(entity: u32) -> Held {
    let record = record(-1, Item { entity, sequence: NEXT + 1 }, (NEXT + 1).to_string());
    let id = event_id(&record);
    Held { offset: record.offset, time_ms: record.time_ms, id, frame: record.frame }
}

fn event_id(record: &Record) -> EventId {
    let event = record.frame.event().unwrap();
    EventId::new(event.source, &event.connection, event.id)
}

/// Decides all records, as a lane does.
pub(crate) fn fold(state: &mut State, records: &[Record], effects: &mut Vec<Effect>) {
    for record in records {
        decide(state, record, PIPELINE, effects).unwrap();
    }
}

struct Fold {
    step: Step,
    state: State,
    records: Vec<Record>,
    effects: Vec<Effect>,
}

impl Fold {
    fn new(step: Step, entities: u32) -> Self {
        let mut state = State::new(0);
        state.apply(warm(step, entities, IDS));
        Self { step, state, records: records(step, entities), effects: Vec::new() }
    }
}

impl Round for Fold {
    fn prepare(&mut self) {
        self.state.drop_overlay();
        self.effects.clear();
    }

    fn run(&mut self) {
        fold(&mut self.state, &self.records, &mut self.effects);
    }

    fn check(&mut self) {
        let totals = self.state.head().totals;
        assert_eq!(totals, self.step.totals());
        assert_eq!(self.effects.len() as u64, totals.applied, "so many effects");
    }
}
