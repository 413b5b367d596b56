//! Traces of events: what became of each, told once its checkpoint is final, so that a refold tells nothing
//! twice. A span `process hookline.events` belongs to the trace that came with the webhook; what it did outside
//! (the sink's operation, a dead letter) is a child of it. Semantic conventions: messaging, database,
//! CloudEvents.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use shared::event::{EventView, encode_source};
use shared::spans::{self, Kind, Parent, Start, Value};

use crate::fold::{Action, Effect, Held, Record, Verdict};
use crate::frame::Frame;
use crate::position::Position;

/// Events, and batches, of one checkpoint that are told of; further ones are counted only.
const PENDING_MAX: usize = 10_000;

/// Where a database takes events in.
const EVENTS_TABLE: &str = "hookline_events";

/// The names that spans carry.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The pipeline.
    pub pipeline: String,
    /// Its consumer group.
    pub group: String,
    /// The event log's topic.
    pub topic: String,
    /// The dead letters' topic.
    pub dead_letters: String,
    /// What a span of the sink is.
    pub sink: SinkNames,
}

/// What a span of the sink is.
#[derive(Clone, Debug, Default)]
pub enum SinkNames {
    /// A database.
    Database {
        /// Its name in the conventions.
        system: &'static str,
        /// The statement that takes the events in.
        operation: &'static str,
    },
    /// A Kafka topic.
    Topic(String),
    /// Nothing is told.
    #[default]
    None,
}

/// An event that was decided, and what is known of its way.
struct Pending {
    partition: i32,
    offset: i64,
    frame: Frame,
    verdict: Verdict,
    reason: Option<String>,
    position: Option<Position>,
    decided_ms: i64,
}

/// A batch that a sink took.
struct Delivered {
    partition: i32,
    from: Position,
    to: Position,
    events: usize,
    started_ms: i64,
    ended_ms: i64,
}

/// What is to be told with the next checkpoint.
pub struct Traces {
    names: Names,
    pending: Vec<Pending>,
    delivered: Vec<Delivered>,
    /// How many of both the checkpoint under way makes final.
    sealed: (usize, usize),
}

impl Traces {
    /// Nothing to tell yet.
    #[must_use]
    pub fn new(names: Names) -> Self {
        Self { names, pending: Vec::new(), delivered: Vec::new(), sealed: (0, 0) }
    }

    /// A record was decided, with these effects; events that were held are stale by it.
    pub fn decided(
        &mut self,
        partition: i32,
        record: &Record,
        verdict: Option<Verdict>,
        effects: &[Effect],
        passed: &[Held],
        now_ms: i64,
    ) {
        if !spans::is_on() {
            return;
        }
        let own = effects.iter().find(|effect| effect.event_offset == record.offset);
        if let Some(verdict) = verdict {
            self.push(partition, record.offset, &record.frame, verdict, own, now_ms);
        }
        for effect in effects.iter().filter(|effect| effect.event_offset != record.offset) {
            let verdict =
                if effect.action == Action::Apply { Verdict::Applied } else { Verdict::DeadLettered };
            self.push(partition, effect.event_offset, &effect.frame, verdict, Some(effect), now_ms);
        }
        for held in passed {
            self.push(partition, held.offset, &held.frame, Verdict::Stale, None, now_ms);
        }
    }

    fn push(
        &mut self,
        partition: i32,
        offset: i64,
        frame: &Frame,
        verdict: Verdict,
        effect: Option<&Effect>,
        decided_ms: i64,
    ) {
        if self.pending.len() >= PENDING_MAX {
            return;
        }
        let reason = effect.and_then(|effect| match &effect.action {
            Action::DeadLetter(reason) => Some(reason.clone()),
            Action::Apply | Action::Refused => None,
        });
        let position = effect.map(|effect| effect.position);
        self.pending.push(Pending {
            partition,
            offset,
            frame: frame.clone(),
            verdict,
            reason,
            position,
            decided_ms,
        });
    }

    /// A sink took a batch.
    pub fn delivered(&mut self, partition: i32, effects: &[Effect], started_ms: i64, ended_ms: i64) {
        if !spans::is_on() || self.delivered.len() >= PENDING_MAX {
            return;
        }
        if let (Some(first), Some(last)) = (effects.first(), effects.last()) {
            let (from, to, events) = (first.position, last.position, effects.len());
            self.delivered.push(Delivered { partition, from, to, events, started_ms, ended_ms });
        }
    }

    /// A checkpoint begins, of all so far.
    pub fn seal(&mut self) {
        self.sealed = (self.pending.len(), self.delivered.len());
    }

    /// The checkpoint is final: all that it covers is told.
    pub fn tell(&mut self, now_ms: i64) {
        let (pending, delivered) = std::mem::take(&mut self.sealed);
        let delivered: Vec<Delivered> = self.delivered.drain(..delivered).collect();
        let pending: Vec<Pending> = self.pending.drain(..pending).collect();
        for pending in pending {
            self.tell_one(&pending, &delivered, now_ms);
        }
    }

    /// What was folded is dropped, and nothing of it is told before it is folded again. What a sink took stays
    /// taken: it is not delivered a second time.
    pub fn forget(&mut self) {
        self.pending.clear();
        self.sealed = (0, 0);
    }

    fn tell_one(&self, pending: &Pending, delivered: &[Delivered], now_ms: i64) {
        let Ok(event) = pending.frame.event() else { return };
        let Some(mut span) = spans::start(self.process(pending, &event)) else { return };
        if pending.verdict == Verdict::DeadLettered {
            span.fail("dead_lettered");
        }
        if let Some(reason) = &pending.reason {
            span.set("hookline.dead_letter.reason", reason.as_str());
        }
        let child = match (pending.verdict, &self.names.sink) {
            (Verdict::Applied, SinkNames::Database { system, operation }) => {
                database(pending, system, operation, delivered)
            }
            (Verdict::Applied, SinkNames::Topic(topic)) => Some(self.send(pending, topic, now_ms)),
            (Verdict::DeadLettered, _) => Some(self.send(pending, &self.names.dead_letters, now_ms)),
            (Verdict::Applied, SinkNames::None)
            | (Verdict::Duplicate | Verdict::Stale | Verdict::Held | Verdict::Ignored, _) => None,
        };
        if let Some((start, ended_ms)) = child
            && let Some(span) = spans::start(Start {
                parent: Parent { traceparent: Some(&span.traceparent()), tracestate: None },
                ..start
            })
        {
            span.end(Some(time(ended_ms)));
        }
        span.end(Some(time(now_ms)));
    }

    fn process<'a>(&self, pending: &Pending, event: &EventView<'a>) -> Start<'a> {
        let mut attributes = self.messaging("process", &self.names.topic, pending);
        attributes.extend([
            ("messaging.consumer.group.name", Value::from(self.names.group.as_str())),
            ("messaging.kafka.offset", Value::from(pending.offset)),
            ("cloudevents.event_id", Value::from(event.id)),
            ("cloudevents.event_source", Value::from(encode_source(event.source, &event.connection))),
            ("cloudevents.event_type", Value::from(event.kind)),
            ("hookline.pipeline", Value::from(self.names.pipeline.as_str())),
            ("hookline.verdict", Value::from(name(pending.verdict))),
        ]);
        Start {
            name: format!("process {}", self.names.topic),
            kind: Kind::Consumer,
            parent: Parent { traceparent: event.traceparent, tracestate: event.tracestate },
            at: Some(time(pending.decided_ms)),
            attributes,
        }
    }

    fn send(&self, pending: &Pending, topic: &str, now_ms: i64) -> (Start<'static>, i64) {
        let start = Start {
            name: format!("send {topic}"),
            kind: Kind::Producer,
            parent: Parent::default(),
            at: Some(time(pending.decided_ms)),
            attributes: self.messaging("send", topic, pending),
        };
        (start, now_ms)
    }

    fn messaging(
        &self,
        operation: &'static str,
        topic: &str,
        pending: &Pending,
    ) -> Vec<(&'static str, Value)> {
        vec![
            ("messaging.system", Value::from("kafka")),
            ("messaging.operation.name", Value::from(operation)),
            ("messaging.operation.type", Value::from(operation)),
            ("messaging.destination.name", Value::from(topic)),
            ("messaging.destination.partition.id", Value::from(pending.partition.to_string())),
        ]
    }
}

fn database(
    pending: &Pending,
    system: &'static str,
    operation: &'static str,
    delivered: &[Delivered],
) -> Option<(Start<'static>, i64)> {
    let position = pending.position?;
    let batch =
        delivered.iter().find(|d| d.partition == pending.partition && (d.from..=d.to).contains(&position))?;
    let events = i64::try_from(batch.events).unwrap_or(i64::MAX);
    let mut attributes = vec![
        ("db.system.name", Value::from(system)),
        ("db.operation.name", Value::from(operation)),
        ("db.collection.name", Value::from(EVENTS_TABLE)),
    ];
    if events > 1 {
        attributes.push(("db.operation.batch.size", Value::from(events)));
    }
    let start = Start {
        name: format!("{operation} {EVENTS_TABLE}"),
        kind: Kind::Client,
        parent: Parent::default(),
        at: Some(time(batch.started_ms)),
        attributes,
    };
    Some((start, batch.ended_ms))
}

/// The verdict as metrics and spans call it.
#[must_use]
pub fn name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Applied => "applied",
        Verdict::Duplicate => "duplicate",
        Verdict::Stale => "stale",
        Verdict::Held => "held",
        Verdict::DeadLettered => "dead_lettered",
        Verdict::Ignored => "ignored",
    }
}

fn time(ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}
