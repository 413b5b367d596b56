//! What must come of a partition of the log: a second, naive reading of the rules, written with plain lists
//! and searches. It shares no code with the fold; it knows the events as their senders know them.

use std::collections::BTreeSet;

use processor::control::Control;
use processor::fold::{FoldConfig, Order};
use processor::position::{Epoch, Position};
use shared::config::GapPolicy;

use crate::events::SimEvent;
use crate::kafka::LogRecord;

/// What must happen with an event outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Must {
    /// It is applied.
    Apply,
    /// It is dead-lettered.
    DeadLetter,
    /// It is dead-lettered, because the sink refused it.
    Refused,
}

/// An effect that must be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expected {
    /// Where.
    pub position: Position,
    /// Which event, by its offset.
    pub event_offset: i64,
    /// What.
    pub must: Must,
}

/// The end that an event came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "named as the verdicts")]
pub enum End {
    Applied,
    Duplicate,
    Stale,
    Held,
    DeadLettered,
    Ignored,
}

/// What must come of a partition.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// All effects, in their order.
    pub effects: Vec<Expected>,
    /// How each event ended, by its offset.
    pub ends: Vec<(i64, End)>,
    /// How many control records there were.
    pub controls: u64,
    /// How many events are held by parked entities in the end.
    pub parked: u64,
    /// Events that waited for one that was to be asked for, until the wait was over.
    pub given_up: Vec<SimEvent>,
}

impl Outcome {
    /// How many events came to an end.
    #[must_use]
    pub fn count(&self, end: End) -> u64 {
        self.ends.iter().filter(|(_, e)| *e == end).count() as u64
    }
}

/// A record of the log as the model takes it.
pub type Input<'a> = (i64, i64, &'a LogRecord);

#[derive(Clone, Debug)]
struct Waiting {
    number: u64,
    offset: i64,
    event: SimEvent,
}

/// What brought an entity to its number.
#[derive(Clone, Debug, PartialEq, Eq)]
enum By {
    Webhook((String, String, String)),
    Snapshot,
}

/// The deadline of a gap that is parked.
const NEVER: i64 = i64::MAX;

#[derive(Clone, Debug)]
enum Memory {
    Newest(i128, bool),
    Counting {
        next: Option<u64>,
        last: Option<By>,
        waiting: Vec<Waiting>,
        /// Opened at, deadline, wait.
        gap: Option<(i64, i64, i64)>,
    },
}

struct Model<'a> {
    pipeline: &'a str,
    refused: &'a BTreeSet<Position>,
    config: Option<(FoldConfig, Epoch)>,
    time: i64,
    /// Identity and the time at which it is forgotten at the latest, less the window.
    seen: Vec<((String, String, String), i64)>,
    entities: Vec<(Vec<u8>, Memory)>,
    out: Outcome,
    ordinal: u32,
}

/// Reads a partition of the log.
#[must_use]
pub fn read(log: &[Input<'_>], pipeline: &str, refused: &BTreeSet<Position>) -> Outcome {
    let first = log.iter().find_map(|(_, _, record)| match &record.control {
        Some(Control::Config(c)) if c.pipeline == pipeline => Some((c.fold.clone(), c.epoch)),
        Some(Control::Config(_) | Control::GapExpired(_) | Control::GapSkip(_)) | None => None,
    });
    let mut model = Model {
        pipeline,
        refused,
        config: first,
        time: i64::MIN,
        seen: Vec::new(),
        entities: Vec::new(),
        out: Outcome::default(),
        ordinal: 0,
    };
    for (offset, time, record) in log {
        model.ordinal = 0;
        model.time = model.time.max(*time);
        model.forget();
        match (&record.control, &record.event) {
            (Some(control), _) => {
                model.control(*offset, *time, record.frame.key(), control);
                model.out.controls += 1;
            }
            (None, Some(event)) => model.event(*offset, record.frame.key(), event),
            (None, None) => model.dead_letter(*offset),
        }
    }
    for (_, memory) in &model.entities {
        if let Memory::Counting { waiting, gap: Some((_, NEVER, _)), .. } = memory {
            model.out.parked += waiting.len() as u64;
        }
    }
    model.out.ends.sort_unstable();
    model.out
}

impl Model<'_> {
    /// Ids older than the window are forgotten, an eighth of the window at a time, for good.
    fn forget(&mut self) {
        if let Some((config, _)) = &self.config {
            let from = self.time.saturating_sub(config.window_ms);
            self.seen.retain(|(_, until)| *until > from);
        }
    }

    fn effect(&mut self, cause: i64, event_offset: i64, must: Must) -> End {
        let position = Position { offset: cause, ordinal: self.ordinal };
        self.ordinal += 1;
        let must = if must == Must::Apply && self.refused.contains(&position) { Must::Refused } else { must };
        self.out.effects.push(Expected { position, event_offset, must });
        if must == Must::Apply { End::Applied } else { End::DeadLettered }
    }

    fn end(&mut self, offset: i64, end: End) {
        self.out.ends.push((offset, end));
    }

    fn apply(&mut self, offset: i64) {
        let end = self.effect(offset, offset, Must::Apply);
        self.end(offset, end);
    }

    fn dead_letter(&mut self, offset: i64) {
        let end = self.effect(offset, offset, Must::DeadLetter);
        self.end(offset, end);
    }

    /// An event that waited is applied: its end is another one now.
    fn release(&mut self, cause: i64, waiting: &Waiting) {
        let end = self.effect(cause, waiting.offset, Must::Apply);
        self.out.ends.retain(|(offset, _)| *offset != waiting.offset);
        self.end(waiting.offset, end);
    }

    fn event(&mut self, offset: i64, key: &[u8], event: &SimEvent) {
        let Some((config, _)) = self.config.clone() else { return };
        let Some(order) = order(&config, event) else { return self.end(offset, End::Ignored) };
        if self.seen.iter().any(|(id, _)| *id == event.identity()) {
            return self.end(offset, End::Duplicate);
        }
        let step = (config.window_ms / 8).max(1);
        self.seen.push((event.identity(), self.time.div_euclid(step) * step + step));
        let snapshot = event.snapshot && config.version >= 2;
        let ordered = !matches!(order, Order::Arrival);
        if event.problem || (ordered && event.entity.is_none()) {
            return self.dead_letter(offset);
        }
        if ordered && event.sequence.is_none() {
            let as_it_is = snapshot && matches!(order, Order::Sequence { .. });
            return if as_it_is { self.apply(offset) } else { self.dead_letter(offset) };
        }
        let text = event.sequence.clone().unwrap_or_default();
        match order {
            Order::Arrival => self.apply(offset),
            Order::Version => match version(&text) {
                Some((value, is_time)) => self.newest(offset, key, value, is_time, snapshot),
                None => self.dead_letter(offset),
            },
            Order::Sequence { start, gap_wait_ms, .. } => {
                let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
                match text.parse::<u64>() {
                    Ok(number) if digits && number < 1 << 63 && snapshot => {
                        self.found(offset, key, number, gap_wait_ms);
                    }
                    Ok(number) if digits && number < 1 << 63 => {
                        let limit = config.held_events_max as usize;
                        self.counted(offset, key, event, number, start, gap_wait_ms, limit);
                    }
                    Ok(_) | Err(_) => self.dead_letter(offset),
                }
            }
        }
    }

    fn take(&mut self, key: &[u8]) -> Option<Memory> {
        let at = self.entities.iter().position(|(k, _)| k == key)?;
        Some(self.entities.remove(at).1)
    }

    fn put(&mut self, key: &[u8], memory: Memory) {
        self.entities.push((key.to_vec(), memory));
    }

    fn newest(&mut self, offset: i64, key: &[u8], value: i128, is_time: bool, snapshot: bool) {
        match self.take(key) {
            Some(Memory::Newest(old, old_is_time)) if old_is_time != is_time => {
                self.put(key, Memory::Newest(old, old_is_time));
                return self.dead_letter(offset);
            }
            Some(Memory::Newest(old, _)) if value <= old => {
                self.put(key, Memory::Newest(old, is_time));
                let same = snapshot && value == old;
                return self.end(offset, if same { End::Duplicate } else { End::Stale });
            }
            Some(Memory::Counting { mut waiting, .. }) => {
                waiting.sort_by_key(|w| w.number);
                for w in &waiting {
                    self.release(offset, w);
                }
            }
            Some(Memory::Newest(..)) | None => {}
        }
        self.put(key, Memory::Newest(value, is_time));
        self.apply(offset);
    }

    /// What polling found stands for the event of its number and for all before it.
    fn found(&mut self, offset: i64, key: &[u8], number: u64, wait: i64) {
        let waiting = match self.take(key) {
            Some(Memory::Counting { next: Some(next), last, waiting, gap }) if number < next => {
                self.put(key, Memory::Counting { next: Some(next), last, waiting, gap });
                return self.end(offset, if number + 1 == next { End::Duplicate } else { End::Stale });
            }
            Some(Memory::Counting { waiting, .. }) => waiting,
            Some(Memory::Newest(..)) | None => Vec::new(),
        };
        self.apply(offset);
        let (older, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|w| w.number <= number);
        for w in older {
            self.out.ends.retain(|(offset, _)| *offset != w.offset);
            self.end(w.offset, End::Stale);
        }
        self.run(offset, key, number + 1, By::Snapshot, later, wait);
    }

    #[allow(clippy::too_many_arguments, reason = "an event and its rule")]
    fn counted(
        &mut self,
        offset: i64,
        key: &[u8],
        event: &SimEvent,
        number: u64,
        start: Option<u64>,
        wait: i64,
        limit: usize,
    ) {
        let (next, last, mut waiting, gap) = match self.take(key) {
            Some(Memory::Counting { next, last, waiting, gap }) => (next, last, waiting, gap),
            other => {
                if let Some(next) = start
                    && number < next
                {
                    // Nothing is remembered of an event that is behind the start.
                    if let Some(other) = other {
                        self.put(key, other);
                    }
                    return self.end(offset, End::Stale);
                }
                (start, None, Vec::new(), None)
            }
        };
        let same = Memory::Counting { next, last: last.clone(), waiting: waiting.clone(), gap };
        if next == Some(number) {
            self.apply(offset);
            return self.run(offset, key, number + 1, By::Webhook(event.identity()), waiting, wait);
        }
        if next.is_some_and(|next| number < next) {
            self.put(key, same);
            return match last.filter(|_| next == Some(number + 1)) {
                Some(By::Snapshot) => self.end(offset, End::Duplicate),
                Some(By::Webhook(id)) if id != event.identity() => self.dead_letter(offset),
                Some(By::Webhook(_)) | None => self.end(offset, End::Stale),
            };
        }
        if waiting.iter().any(|w| w.number == number) || waiting.len() >= limit {
            if !waiting.is_empty() {
                self.put(key, same);
            }
            return self.dead_letter(offset);
        }
        waiting.push(Waiting { number, offset, event: event.clone() });
        let gap = gap.or(Some((offset, self.time + wait, wait)));
        self.put(key, Memory::Counting { next, last, waiting, gap });
        self.end(offset, End::Held);
    }

    /// Releases what waits for `next`, and so on; what is left waits for another number.
    fn run(
        &mut self,
        offset: i64,
        key: &[u8],
        mut next: u64,
        mut last: By,
        mut waiting: Vec<Waiting>,
        wait: i64,
    ) {
        while let Some(at) = waiting.iter().position(|w| w.number == next) {
            let found = waiting.remove(at);
            self.release(offset, &found);
            last = By::Webhook(found.event.identity());
            next += 1;
        }
        let gap = (!waiting.is_empty()).then(|| (offset, self.time + wait, wait));
        self.put(key, Memory::Counting { next: Some(next), last: Some(last), waiting, gap });
    }

    fn control(&mut self, offset: i64, time: i64, key: &[u8], control: &Control) {
        match control {
            Control::Config(c) if c.pipeline == self.pipeline => {
                if self.config.as_ref().is_none_or(|(_, epoch)| c.epoch >= *epoch) {
                    self.config = Some((c.fold.clone(), c.epoch));
                }
            }
            Control::GapExpired(g) if g.pipeline == self.pipeline && g.stage == 0 => {
                self.end_gap(offset, key, (g.next, g.opened_at), Some(time));
            }
            Control::GapSkip(g) if g.pipeline == self.pipeline => {
                if self.config.as_ref().is_some_and(|(config, _)| config.version >= 2) {
                    self.end_gap(offset, key, (g.next, g.opened_at), None);
                }
            }
            Control::Config(_) | Control::GapExpired(_) | Control::GapSkip(_) => {}
        }
    }

    /// A gap is at its end: at a time, by its wait; without one, by an operator. `named` is what is missing and where
    /// the gap was opened.
    fn end_gap(&mut self, offset: i64, key: &[u8], named: (Option<u64>, i64), time: Option<i64>) {
        let (next, last, waiting, gap) = match self.take(key) {
            Some(Memory::Counting { next, last, waiting, gap }) => (next, last, waiting, gap),
            Some(other) => return self.put(key, other),
            None => return,
        };
        let smallest = waiting.iter().min_by_key(|w| w.number).cloned();
        match (gap, smallest) {
            (Some((opened, deadline, wait)), Some(first))
                if named == (next, opened) && time.is_none_or(|time| time > deadline) =>
            {
                let policy = self.policy(&first.event).filter(|_| time.is_some() && next.is_some());
                if policy.is_some_and(GapPolicy::asks) {
                    self.out.given_up.push(first.event.clone());
                }
                if policy.is_some_and(GapPolicy::parks) {
                    let gap = Some((opened, NEVER, wait));
                    return self.put(key, Memory::Counting { next, last, waiting, gap });
                }
                self.run(offset, key, first.number, By::Webhook(first.event.identity()), waiting, wait);
            }
            _ => self.put(key, Memory::Counting { next, last, waiting, gap }),
        }
    }

    /// What happens to a gap that an event waits for, from the second version of the fold on.
    fn policy(&self, event: &SimEvent) -> Option<GapPolicy> {
        let (config, _) = self.config.as_ref().filter(|(config, _)| config.version >= 2)?;
        match order(config, event)? {
            Order::Sequence { gap_policy, .. } => Some(gap_policy),
            Order::Arrival | Order::Version => None,
        }
    }
}

fn order(config: &FoldConfig, event: &SimEvent) -> Option<Order> {
    let source = config.sources.get(&event.source)?;
    for rule in &source.rules {
        for pattern in &rule.types {
            let matches = match pattern.strip_suffix('*') {
                Some(start) => event.kind.starts_with(start),
                None => event.kind == *pattern,
            };
            if matches {
                return rule.order.clone();
            }
        }
    }
    Some(source.order.clone())
}

/// A number, or a time in nanoseconds.
fn version(text: &str) -> Option<(i128, bool)> {
    if let Ok(number) = text.parse::<i64>() {
        return Some((i128::from(number), false));
    }
    let time: jiff::Timestamp = text.parse().ok()?;
    Some((time.as_nanosecond(), true))
}
