//! What must come of a partition of the log: a second, naive reading of the rules, written with plain lists
//! and searches. It shares no code with the fold; it knows the events as their senders know them.

use std::collections::BTreeSet;

use processor::control::Control;
use processor::fold::{FoldConfig, Order};
use processor::position::{Epoch, Position};

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
    id: (String, String, String),
}

#[derive(Clone, Debug)]
enum Memory {
    Newest(i128, bool),
    Counting {
        next: Option<u64>,
        last: Option<(String, String, String)>,
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
        Some(Control::Config(_) | Control::GapExpired(_)) | None => None,
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
        let ordered = !matches!(order, Order::Arrival);
        if event.problem || (ordered && (event.entity.is_none() || event.sequence.is_none())) {
            return self.dead_letter(offset);
        }
        let text = event.sequence.clone().unwrap_or_default();
        match order {
            Order::Arrival => self.apply(offset),
            Order::Version => match version(&text) {
                Some((value, is_time)) => self.newest(offset, key, value, is_time),
                None => self.dead_letter(offset),
            },
            Order::Sequence { start, gap_wait_ms, .. } => {
                let digits = !text.is_empty() && text.chars().all(|c| c.is_ascii_digit());
                match text.parse::<u64>() {
                    Ok(number) if digits && number < 1 << 63 => {
                        let limit = config.held_events_max as usize;
                        self.counted(offset, key, event.identity(), number, start, gap_wait_ms, limit);
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

    fn newest(&mut self, offset: i64, key: &[u8], value: i128, is_time: bool) {
        match self.take(key) {
            Some(Memory::Newest(old, old_is_time)) if old_is_time != is_time => {
                self.put(key, Memory::Newest(old, old_is_time));
                return self.dead_letter(offset);
            }
            Some(Memory::Newest(old, _)) if value <= old => {
                self.put(key, Memory::Newest(old, is_time));
                return self.end(offset, End::Stale);
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

    #[allow(clippy::too_many_arguments, reason = "an event and its rule")]
    fn counted(
        &mut self,
        offset: i64,
        key: &[u8],
        id: (String, String, String),
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
            return self.run(offset, key, number + 1, id, waiting, wait);
        }
        if next.is_some_and(|next| number < next) {
            let repeats = next == Some(number + 1) && last.is_some_and(|last| last != id);
            self.put(key, same);
            return if repeats { self.dead_letter(offset) } else { self.end(offset, End::Stale) };
        }
        if waiting.iter().any(|w| w.number == number) || waiting.len() >= limit {
            if !waiting.is_empty() {
                self.put(key, same);
            }
            return self.dead_letter(offset);
        }
        waiting.push(Waiting { number, offset, id });
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
        mut last: (String, String, String),
        mut waiting: Vec<Waiting>,
        wait: i64,
    ) {
        while let Some(at) = waiting.iter().position(|w| w.number == next) {
            let found = waiting.remove(at);
            self.release(offset, &found);
            last = found.id;
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
            Control::GapExpired(g) if g.pipeline == self.pipeline => {
                let (next, last, waiting, gap) = match self.take(key) {
                    Some(Memory::Counting { next, last, waiting, gap }) => (next, last, waiting, gap),
                    Some(other) => return self.put(key, other),
                    None => return,
                };
                let smallest = waiting.iter().min_by_key(|w| w.number).cloned();
                match (gap, smallest) {
                    (Some((opened, deadline, wait)), Some(first))
                        if next == g.next && opened == g.opened_at && g.stage == 0 && time > deadline =>
                    {
                        self.run(offset, key, first.number, first.id, waiting, wait);
                    }
                    _ => self.put(key, Memory::Counting { next, last, waiting, gap }),
                }
            }
            Control::Config(_) | Control::GapExpired(_) => {}
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
