//! What every sink with a fence promises, checked on whichever sink a test target opens.
//!
//! A target implements [`Place`] and calls `promises!`, which makes one test of each promise. One whose
//! database is a server implements [`remote::Remote`] too, and calls `remote::promises!`.

#![allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "each target uses the promises that its sink makes"
)]

pub(crate) mod every;
pub(crate) mod example;
pub(crate) mod mapping;
pub(crate) mod relational;
pub(crate) mod remote;
pub(crate) mod statuses;
pub(crate) mod tls;

use processor::fold::{Action, Effect};
use processor::frame::Frame;
use processor::position::{Digest, Epoch, Fence, Position};
use processor::sink::{self, Batch, Context, Sink, SinkError};
use rdkafka::message::Headers as _;
use shared::config::SinkConfig;
use shared::event::Event;

/// A fresh database for one test, and a second way into it.
pub(crate) trait Place: Sync {
    fn config(&self) -> SinkConfig;
    /// hookline_events in the order of application, partition by partition.
    fn events(&self) -> Vec<StoredEvent>;
    fn entities(&self) -> Vec<StoredEntity>;
    /// Somebody changes what is stored.
    fn tamper(&self, how: Tamper);
    /// Somebody makes the database raise an error for an event of the type `bad`, whose id is `hunter2`.
    fn refuse_bad(&self);
    /// What the server needs before several lanes open at the same time.
    fn prepare(&self) {}
    /// Whether a batch is applied as a whole or not at all. Else, what comes before an event that is refused
    /// may stay.
    fn is_atomic(&self) -> bool {
        true
    }
}

/// What somebody else does to a sink's tables.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tamper {
    /// The event at an offset is moved to another one.
    MoveEvent { from: i64, to: i64 },
    /// Every fence gets this ordinal.
    FenceOrdinal(i32),
    /// Every fence gets this pipeline.
    Pipeline(&'static str),
    /// The tables get this version.
    Version(i64),
}

impl Tamper {
    /// As SQL that every database understands, the tables' names after a prefix.
    pub(crate) fn sql(self, prefix: &str) -> String {
        match self {
            Self::MoveEvent { from, to } => format!(
                "UPDATE {prefix}hookline_events SET effect_offset = {to} WHERE effect_offset = {from}"
            ),
            Self::FenceOrdinal(to) => format!("UPDATE {prefix}hookline_fence SET effect_ordinal = {to}"),
            Self::Pipeline(to) => format!("UPDATE {prefix}hookline_fence SET pipeline = '{to}'"),
            Self::Version(to) => format!("UPDATE {prefix}hookline_schema SET version = {to}"),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEvent {
    pub(crate) partition: i32,
    pub(crate) at: (i64, i32),
    pub(crate) source: String,
    pub(crate) connection: String,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) entity: Option<String>,
    pub(crate) sequence: Option<String>,
    pub(crate) time: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) traceparent: Option<String>,
    /// As RFC 3339 with milliseconds, UTC.
    pub(crate) received_at: String,
    pub(crate) log_offset: i64,
    pub(crate) appended_at: String,
    pub(crate) body: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredEntity {
    pub(crate) source: String,
    pub(crate) connection: String,
    pub(crate) entity: String,
    pub(crate) id: String,
    pub(crate) kind: String,
    pub(crate) sequence: Option<String>,
    pub(crate) at: (i32, i64, i32),
    pub(crate) updated: String,
    pub(crate) body: Vec<u8>,
}

/// What every sink with a fence promises, whatever it stores.
macro_rules! fence_promises {
    ($place:expr) => {
        $crate::sink_contract::tests_of! { every, $place;
            events_are_applied_once_and_in_order
            the_fence_reads_back_as_it_was_written
            a_batch_delivered_again_is_fenced_off
            a_position_may_be_cut_between_two_batches
            a_batch_without_effects_moves_the_fence
            an_older_owner_neither_claims_nor_delivers
            a_newer_lineage_is_a_newer_owner
            an_owner_may_claim_again
            an_unclaimed_partition_has_an_empty_fence
            partitions_have_fences_of_their_own
            what_a_text_column_cannot_hold_is_refused
            a_batch_out_of_order_halts_and_nothing_is_applied
            a_fence_that_somebody_changed_halts
            lanes_may_open_at_the_same_time
            lanes_deliver_side_by_side
        }
    };
}
pub(crate) use fence_promises;

/// The same of a sink that stores events and entities, and what it promises of them.
macro_rules! promises {
    ($place:expr) => {
        $crate::sink_contract::fence_promises!($place);
        $crate::sink_contract::tests_of! { every, $place;
            every_attribute_is_stored_as_given
            bodies_come_back_byte_for_byte
            an_event_without_an_entity_touches_no_entity
            of_an_entity_the_event_applied_last_is_shown
            a_deletion_is_an_event_and_stays_the_last_one
            a_long_batch_is_one_transaction
            what_no_calendar_has_is_refused
            what_a_constraint_forbids_is_refused
            a_row_beyond_the_fence_halts_and_nothing_is_applied
            tables_of_another_pipeline_cluster_or_topic_halt
            tables_of_a_later_version_halt
        }
    };
}
pub(crate) use promises;

/// One test of each promise in a module.
macro_rules! tests_of {
    ($module:ident, $place:expr; $($name:ident)+) => {$(
        #[test]
        fn $name() {
            $crate::sink_contract::$module::$name(&$place);
        }
    )+};
}
pub(crate) use tests_of;

pub(crate) fn context() -> Context {
    Context {
        pipeline: "shop".into(),
        cluster_id: "cluster-1".into(),
        topic: "hookline.events".into(),
        ..Context::default()
    }
}

pub(crate) fn open(place: &impl Place) -> Result<Box<dyn Sink>, SinkError> {
    open_with(place, &context())
}

pub(crate) fn open_with(place: &impl Place, context: &Context) -> Result<Box<dyn Sink>, SinkError> {
    sink::open(&place.config(), context).map(|sink| sink.expect("a sink with a fence"))
}

/// A lane that owns one partition.
pub(crate) struct Owner {
    pub(crate) sink: Box<dyn Sink>,
    pub(crate) partition: i32,
    pub(crate) fence: Fence,
}

impl Owner {
    pub(crate) fn claim(place: &impl Place, partition: i32, epoch: Epoch) -> Self {
        Self::claim_with(place, &context(), partition, epoch)
    }

    pub(crate) fn claim_with(place: &impl Place, context: &Context, partition: i32, epoch: Epoch) -> Self {
        let mut sink = open_with(place, context).unwrap();
        let fence = sink.claim(partition, epoch).unwrap();
        assert_eq!(fence.epoch, epoch);
        Self { sink, partition, fence }
    }

    pub(crate) fn deliver(&mut self, effects: &[Effect]) -> Result<(), SinkError> {
        let position = effects.last().map_or(self.fence.position, |effect| effect.position);
        let to =
            Fence { position, digest: Digest::of(&position.offset.to_be_bytes()), epoch: self.fence.epoch };
        self.sink.deliver(&Batch { partition: self.partition, from: self.fence, to, effects })?;
        self.fence = to;
        Ok(())
    }
}

pub(crate) const fn epoch(claim: i64) -> Epoch {
    Epoch { lineage: 0, claim }
}

pub(crate) fn event(id: &str, entity: Option<&str>) -> Event {
    Event {
        id: id.into(),
        source: "github".into(),
        kind: "push".into(),
        time: "2026-03-01T12:00:00.5+02:00".into(),
        entity: entity.map(Into::into),
        received_at_ms: 1_700_000_000_123,
        scheme: "github".into(),
        key_id: "env:SECRET".into(),
        ..Event::default()
    }
}

pub(crate) fn effect(offset: i64, ordinal: u32, event: &Event, body: &[u8]) -> Effect {
    let headers = event.to_headers();
    let headers = headers.iter().map(|h| (h.key, h.value));
    let frame = Frame::pack(Some(event.key(body).as_bytes()), headers, Some(body));
    Effect {
        position: Position { offset, ordinal },
        event_offset: offset,
        event_time_ms: 1_700_000_001_000,
        cause: frame.clone(),
        frame,
        action: Action::Apply,
    }
}

/// An event `e{offset}` of the entity `order-1`.
pub(crate) fn simple(offset: i64) -> Effect {
    effect(offset, 0, &event(&format!("e{offset}"), Some("order-1")), b"{}")
}

pub(crate) fn ids(place: &impl Place) -> Vec<String> {
    place.events().into_iter().map(|event| event.id).collect()
}

/// The message of an outcome that says: somebody has to act.
pub(crate) fn halted<T>(outcome: Result<T, SinkError>) -> String {
    match outcome {
        Err(SinkError::Halt(message)) => message,
        Err(other) => panic!("not halted: {other:?}"),
        Ok(_) => panic!("a success"),
    }
}

/// The message of an outcome that says: try again.
pub(crate) fn retried<T>(outcome: Result<T, SinkError>) -> String {
    match outcome {
        Err(SinkError::Retry(message)) => message,
        Err(other) => panic!("not to be tried again: {other:?}"),
        Ok(_) => panic!("a success"),
    }
}

/// For a database in which somebody can make rows vanish: `swallow_bad` does, for events of the type `bad`.
pub(crate) fn rows_dropped_in_silence_halt(place: &impl Place, swallow_bad: impl FnOnce()) {
    let mut owner = Owner::claim(place, 0, epoch(1));
    swallow_bad();
    let bad = effect(2, 0, &Event { kind: "bad".into(), ..event("x", None) }, b"{}");
    assert!(halted(owner.deliver(&[simple(1), bad])).contains("trigger"));
    assert_eq!(place.events(), []);
    owner.deliver(&[simple(1)]).unwrap();
}

/// For a database that compares texts by a collation, if it is not told otherwise.
pub(crate) fn entities_are_told_apart_by_every_byte(place: &impl Place) {
    let entities = ["a", "A", "a ", "ä", "a\u{308}", "", " ", "\u{1F980}", "ß", "ss"];
    let effects: Vec<_> =
        (0..).zip(entities).map(|(n, entity)| effect(n, 0, &event("e", Some(entity)), b"{}")).collect();
    Owner::claim(place, 0, epoch(1)).deliver(&effects).unwrap();
    let found: Vec<_> = place.entities().into_iter().map(|entity| entity.entity).collect();
    assert_eq!(found, entities);
}
