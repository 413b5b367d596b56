//! What senders send, and polling finds: events per entity with repeats, reordering, gaps, conflicts and rubbish, and
//! the fold configurations that they are sent for.

use std::collections::BTreeMap;

use processor::control::Control;
use processor::fold::{FoldConfig, Order, RuleFold, SourceFold, fold_version};
use processor::frame::Frame;
use rdkafka::message::Headers;
use shared::config::GapPolicy;
use shared::event::Event;

use crate::kafka::LogRecord;
use crate::random::Random;

/// A body that the sink refuses while its constraint is on.
pub const POISON: &[u8] = b"poison";

/// An event as its sender knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimEvent {
    /// Source.
    pub source: String,
    /// Connection.
    pub connection: String,
    /// Id.
    pub id: String,
    /// Type.
    pub kind: String,
    /// Entity.
    pub entity: Option<String>,
    /// Sequence or version, as sent.
    pub sequence: Option<String>,
    /// ingest could not read it.
    pub problem: bool,
    /// The sink's constraint is against it.
    pub poison: bool,
    /// Polling found it.
    pub snapshot: bool,
}

impl SimEvent {
    /// What identifies it.
    #[must_use]
    pub fn identity(&self) -> (String, String, String) {
        (self.source.clone(), self.connection.clone(), self.id.clone())
    }

    /// What polling finds where the entity is as this event left it: under the same id however often.
    #[must_use]
    pub fn found(&self) -> Self {
        let id = format!("{:?} as of {:?}", self.entity, self.sequence);
        Self { id, problem: false, snapshot: true, ..self.clone() }
    }

    /// The record that ingest appends.
    #[must_use]
    pub fn to_record(&self) -> LogRecord {
        let body: &[u8] = if self.poison { POISON } else { b"{}" };
        let event = Event {
            id: self.id.clone(),
            source: self.source.clone(),
            connection: self.connection.clone(),
            kind: self.kind.clone(),
            time: "2026-01-01T00:00:00Z".to_owned(),
            entity: self.entity.clone(),
            sequence: self.sequence.clone(),
            problem: self.problem.then(|| "the body is not JSON".to_owned()),
            snapshot: self.snapshot.then(|| self.sequence.clone().unwrap_or_default()),
            ..Event::default()
        };
        let frame = pack(event.key(body).as_bytes(), &event, body);
        LogRecord { frame, event: Some(self.clone()), control: None }
    }
}

/// A control record as it is appended.
#[must_use]
pub fn control_record(key: &[u8], control: &Control, wall_ms: i64) -> Option<LogRecord> {
    let now = jiff::Timestamp::from_millisecond(wall_ms).ok()?;
    let (event, body) = control.to_event(now).ok()?;
    Some(LogRecord { frame: pack(key, &event, &body), event: None, control: Some(control.clone()) })
}

/// An event without any order.
#[must_use]
pub fn plain(id: &str) -> SimEvent {
    SimEvent {
        source: "plain".to_owned(),
        connection: String::new(),
        id: id.to_owned(),
        kind: "order.changed".to_owned(),
        entity: None,
        sequence: None,
        problem: false,
        poison: false,
        snapshot: false,
    }
}

/// A record that is no event.
#[must_use]
pub fn rubbish(n: usize) -> LogRecord {
    let body = format!("rubbish {n}");
    let frame = Frame::pack(Some(b"x"), std::iter::empty(), Some(body.as_bytes()));
    LogRecord { frame, event: None, control: None }
}

fn pack(key: &[u8], event: &Event, body: &[u8]) -> Frame {
    let headers = event.to_headers();
    let list: Vec<_> = headers.iter().map(|h| (h.key, h.value)).collect();
    Frame::pack(Some(key), list.into_iter(), Some(body))
}

/// What may be sent.
#[derive(Clone, Copy, Debug)]
pub struct Traffic {
    /// About how many events.
    pub events: usize,
    /// Whether some end as dead letters.
    pub with_dead_letters: bool,
    /// How many of 1,000 the sink refuses.
    pub poison: u32,
}

const SOURCES: [&str; 5] = ["counted", "unbased", "newest", "plain", "mixed"];

/// Events in the order in which they are first sent.
#[must_use]
pub fn traffic(random: &mut Random, plan: Traffic) -> Vec<SimEvent> {
    let mut lists: Vec<Vec<SimEvent>> = Vec::new();
    let mut left = plan.events;
    while left > 0 {
        let length = (2 + random.below(9)).min(left);
        left -= length;
        lists.push(entity(random, plan, lists.len(), length));
    }
    // Entities interleave; within one, neighbours change places now and then.
    let mut out = Vec::new();
    while !lists.is_empty() {
        let n = random.below(lists.len());
        if let Some(list) = lists.get_mut(n)
            && !list.is_empty()
        {
            let hop = if random.chance(250) { random.below(4).min(list.len() - 1) } else { 0 };
            out.push(list.remove(hop));
        } else {
            lists.remove(n);
        }
    }
    out
}

fn entity(random: &mut Random, plan: Traffic, number: usize, length: usize) -> Vec<SimEvent> {
    let source = random.pick(&SOURCES).unwrap_or("plain");
    let connection = if random.chance(300) { "acme" } else { "" };
    let name = format!("e{}", if plan.with_dead_letters && random.chance(100) { 0 } else { number });
    let counted = source == "counted" || source == "unbased";
    let times = random.chance(300);
    let mut list = Vec::new();
    let mut next = if source == "unbased" { random.between(0, 40) } else { 1 };
    for n in 0..length {
        let rule = if source == "mixed" { random.below(4) } else { 3 };
        let mut event = SimEvent {
            source: source.to_owned(),
            connection: connection.to_owned(),
            id: format!("{number}-{n}"),
            kind: ["upd.newest", "ignored", "cnt.x", "order.changed"].get(rule).map_or("", |k| k).to_owned(),
            entity: Some(name.clone()),
            sequence: None,
            problem: false,
            poison: random.chance(plan.poison),
            snapshot: false,
        };
        if counted || rule == 2 {
            event.sequence = Some(next.to_string());
            // A number is left out, and never comes.
            next += if random.chance(60) { 2 } else { 1 };
        } else if source == "newest" || rule == 0 {
            let version = random.between(1, 12);
            event.sequence =
                Some(if times { format!("2026-01-01T00:00:{version:02}Z") } else { version.to_string() });
        }
        if plan.with_dead_letters && random.chance(70) {
            spoil(random, &mut event, n);
        }
        list.push(event);
    }
    if random.chance(350) {
        poll(random, plan, &mut list);
    }
    list
}

/// The entity is polled: what is found comes before the webhook, in its place, or late.
fn poll(random: &mut Random, plan: Traffic, list: &mut Vec<SimEvent>) {
    for _ in 0..=random.below(3) {
        let n = random.below(list.len());
        let Some(mut found) = list.get(n).map(SimEvent::found) else { continue };
        if random.chance(300)
            && let Some(number) = found.sequence.as_ref().and_then(|text| text.parse::<i64>().ok())
        {
            // Of what no webhook tells, perhaps.
            found.sequence = Some((number + 1).to_string());
            found.id = found.found().id;
        }
        if plan.with_dead_letters && random.chance(100) {
            found.sequence = None;
            found.id = found.found().id;
        }
        let at =
            if random.chance(600) { n.saturating_sub(2) + random.below(5) } else { random.below(list.len()) };
        list.insert(at.min(list.len()), found);
    }
}

/// Something is wrong with it.
fn spoil(random: &mut Random, event: &mut SimEvent, n: usize) {
    match random.below(6) {
        0 => event.problem = true,
        1 => event.sequence = None,
        2 => event.sequence = Some("-7x".to_owned()),
        3 => event.entity = None,
        // The same number as another event, perhaps.
        4 => event.sequence = Some((n / 2 + 1).to_string()),
        _ => event.sequence = Some("2026-02-01T00:00:00Z".to_owned()),
    }
}

/// A fold configuration. `variant` 0 is the pipeline's usual one; others are what an upgrade might bring.
#[must_use]
pub fn fold_config(random: &mut Random, usual: &FoldConfig, variant: usize) -> FoldConfig {
    let mut config = usual.clone();
    if variant > 0 {
        config.window_ms = random.between(500, 60_000);
        if random.chance(500) {
            config.held_events_max = 2 + u32::try_from(random.below(8)).unwrap_or(0);
        }
        if random.chance(300) {
            config.sources.remove("plain");
        }
        if random.chance(300)
            && let Some(source) = config.sources.get_mut("counted")
        {
            source.order = Order::Version;
        }
    }
    config
}

/// A pipeline's usual configuration.
#[must_use]
pub fn usual_config(random: &mut Random, with_dead_letters: bool) -> FoldConfig {
    let gap_wait_ms = random.between(100, 4_000);
    let policies = [GapPolicy::Skip, GapPolicy::Park, GapPolicy::BackfillOrSkip, GapPolicy::BackfillOrPark];
    let gap_policy = random.pick(&policies).unwrap_or_default();
    let sequence = |start| Order::Sequence { start, gap_wait_ms, gap_policy };
    let of = |order| SourceFold { rules: Vec::new(), order };
    let rule = |kind: &str, order| RuleFold { types: vec![kind.to_owned()], order };
    let mut sources = BTreeMap::from([
        ("counted".to_owned(), of(sequence(Some(1)))),
        ("unbased".to_owned(), of(sequence(None))),
        ("newest".to_owned(), of(Order::Version)),
        ("plain".to_owned(), of(Order::Arrival)),
        (
            "mixed".to_owned(),
            SourceFold {
                rules: vec![
                    rule("upd.*", Some(Order::Version)),
                    rule("ignored", None),
                    rule("cnt.*", Some(sequence(Some(1)))),
                ],
                order: Order::Arrival,
            },
        ),
    ]);
    if random.chance(200) {
        let left_out = random.pick(&SOURCES).unwrap_or("plain");
        sources.remove(left_out);
    }
    FoldConfig {
        version: fold_version(),
        window_ms: random.pick(&[2_000, 20_000, 3_600_000]).unwrap_or(20_000),
        held_events_max: if with_dead_letters && random.chance(300) { 3 } else { 1_000 },
        held_bytes_max: 1 << 20,
        sources,
    }
}
