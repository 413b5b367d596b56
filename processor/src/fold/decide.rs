//! What one record means.

use std::collections::BTreeMap;

use super::config::{FoldConfig, Order, fold_version};
use super::entity::{Entity, Gap, Held, Version};
use super::ids::EventId;
use super::state::{InForce, State};
use super::{Action, Effect, Record, Verdict};
use crate::control::{ConfigRecord, Control, GapExpired};
use crate::defect::{Defect, planted};
use crate::frame::Frame;
use crate::position::Position;

/// Why the fold cannot go on. Nothing was decided; somebody has to act.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FoldError {
    /// The configuration in force is for a fold that this program does not have.
    #[error(
        "the fold's configuration in force at offset {offset} has version {found}, but this program folds by \
         versions up to {} only; run the newer program",
        fold_version()
    )]
    Version {
        /// Where.
        offset: i64,
        /// The version in the record.
        found: u32,
    },
    /// No configuration is in force.
    #[error("no configuration of the fold is in force at offset {0}")]
    NoConfig(i64),
}

/// A program must have the fold that the configuration in force is for.
///
/// # Errors
/// It does not.
pub(crate) fn check_version(config: &FoldConfig, offset: i64) -> Result<(), FoldError> {
    match config.version {
        found if found > fold_version() => Err(FoldError::Version { offset, found }),
        _ => Ok(()),
    }
}

/// Decides one record: moves the state past it, appends its effects, and says what became of the event.
/// `None` for control records. A sink's refusals are part of the state.
///
/// # Errors
/// The fold cannot go on; the state is unchanged.
pub fn decide(
    state: &mut State,
    record: &Record,
    pipeline: &str,
    effects: &mut Vec<Effect>,
) -> Result<Option<Verdict>, FoldError> {
    let event = record.frame.event();
    if let Ok(event) = &event
        && event.is_control()
    {
        // A control record that cannot be understood is another pipeline's or a newer program's.
        if let Ok(control) = Control::parse(event, record.frame.body()) {
            obey(state, record, pipeline, control, effects)?;
        } else {
            state.advance(record.offset, record.time_ms, &record.frame);
        }
        state.head_mut().totals.control += 1;
        return Ok(None);
    }
    let Some(in_force) = &state.head().config else {
        return Err(FoldError::NoConfig(record.offset));
    };
    check_version(&in_force.config, record.offset)?;
    let window_ms = in_force.config.window_ms;
    let limits = Limits { events: in_force.config.held_events_max, bytes: in_force.config.held_bytes_max };
    let order = event.as_ref().ok().and_then(|e| in_force.config.order_of(e.source, e.kind)).cloned();
    state.advance(record.offset, record.time_ms, &record.frame);
    let mut out = Out { record, effects, ordinal: 0 };
    let event = match event {
        Ok(event) => event,
        Err(error) => return Ok(Some(out.dead_letter(state, format!("not an event: {error}")))),
    };
    let Some(order) = order else {
        state.head_mut().totals.count(Verdict::Ignored);
        return Ok(Some(Verdict::Ignored));
    };
    let id = EventId::new(event.source, &event.connection, event.id);
    if state.seen(id) {
        state.head_mut().totals.count(Verdict::Duplicate);
        return Ok(Some(Verdict::Duplicate));
    }
    state.remember(id, window_ms);
    if let Some(problem) = event.problem {
        return Ok(Some(out.dead_letter(state, problem.to_owned())));
    }
    let verdict = match (order, event.entity, event.sequence) {
        (Order::Arrival, _, _) => out.apply(state),
        (Order::Version | Order::Sequence { .. }, None, _) => {
            out.dead_letter(state, "no entity, though events of this type are ordered".to_owned())
        }
        (Order::Version | Order::Sequence { .. }, Some(_), None) => out
            .dead_letter(state, "no sequence or version, though events of this type are ordered".to_owned()),
        (Order::Version, Some(_), Some(version)) => match Version::parse(version) {
            Ok(version) => by_version(state, &mut out, version),
            Err(reason) => out.dead_letter(state, reason.to_owned()),
        },
        (Order::Sequence { start, gap_wait_ms, .. }, Some(_), Some(number)) => match parse_sequence(number) {
            Ok(number) => {
                let rule = Rule { start, gap_wait_ms, limits };
                by_sequence(state, &mut out, id, number, &rule)
            }
            Err(reason) => out.dead_letter(state, reason.to_owned()),
        },
    };
    Ok(Some(verdict))
}

/// Digits only, below 2^63.
fn parse_sequence(text: &str) -> Result<u64, &'static str> {
    const REASON: &str = "sequence is not an integer from 0 to 2^63 - 1";
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(REASON);
    }
    text.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()).ok_or(REASON)
}

#[derive(Clone, Copy)]
struct Limits {
    events: u32,
    bytes: u64,
}

struct Rule {
    start: Option<u64>,
    gap_wait_ms: i64,
    limits: Limits,
}

/// The newest version wins.
fn by_version(state: &mut State, out: &mut Out<'_>, version: Version) -> Verdict {
    let key = out.record.frame.key();
    let newer = match state.entity(key) {
        Some(Entity::Version { newest: Version::Integer(old) }) => match version {
            Version::Integer(new) => new > *old,
            Version::Time(_) => {
                return out.dead_letter(state, "version is a time, the entity's are integers".into());
            }
        },
        Some(Entity::Version { newest: Version::Time(old) }) => match version {
            Version::Time(new) => new > *old,
            Version::Integer(_) => {
                return out.dead_letter(state, "version is an integer, the entity's are times".into());
            }
        },
        Some(Entity::Sequence { .. }) => {
            // The configuration changed: what was held goes first, then versions count.
            release_all(state, out);
            true
        }
        None => true,
    };
    if !newer {
        state.head_mut().totals.count(Verdict::Stale);
        return Verdict::Stale;
    }
    state.put(key, Entity::Version { newest: version });
    out.apply(state)
}

/// Where a number stands among those of its entity.
enum Place {
    Next,
    Behind,
    Conflict(&'static str),
    Ahead { events: usize, bytes: usize },
}

fn place(entity: Option<&Entity>, start: Option<u64>, number: u64, id: EventId) -> Place {
    let Some(Entity::Sequence { next, last, held, .. }) = entity else {
        // Without a memory, or with one of another order that was configured before: the start.
        return match start {
            Some(start) if number == start => Place::Next,
            Some(start) if number < start => Place::Behind,
            Some(_) | None => Place::Ahead { events: 0, bytes: 0 },
        };
    };
    match next {
        Some(next) if number == *next => Place::Next,
        Some(next) if number + 1 == *next && last.is_some_and(|last| last != id) => {
            Place::Conflict("applied")
        }
        Some(next) if number < *next => Place::Behind,
        Some(_) | None if held.contains_key(&number) => Place::Conflict("held"),
        Some(_) | None => {
            Place::Ahead { events: held.len(), bytes: held.values().map(|h| h.frame.len()).sum() }
        }
    }
}

/// The next number applies and releases what it held up; one ahead is held; one behind is stale.
fn by_sequence(state: &mut State, out: &mut Out<'_>, id: EventId, number: u64, rule: &Rule) -> Verdict {
    let Record { offset, time_ms, ref frame } = *out.record;
    match place(state.entity(frame.key()), rule.start, number, id) {
        Place::Behind => {
            state.head_mut().totals.count(Verdict::Stale);
            Verdict::Stale
        }
        Place::Conflict(what) => {
            out.dead_letter(state, format!("conflict: sequence {number} is {what} already, under another id"))
        }
        Place::Next => {
            let verdict = out.apply(state);
            let mut held = take_held(state, frame.key()).0;
            let (next, last) = release_run(state, out, &mut held, number + 1, id);
            // What is still held waits for another number than before: another gap.
            let gap = (!held.is_empty()).then(|| open_gap(state, out.record, rule.gap_wait_ms));
            state.put(frame.key(), Entity::Sequence { next: Some(next), last: Some(last), held, gap });
            verdict
        }
        Place::Ahead { events, .. } if events >= rule.limits.events as usize => {
            let max = rule.limits.events;
            out.dead_letter(
                state,
                format!("{max} events of the entity are held already (fold.held_events_max)"),
            )
        }
        Place::Ahead { bytes, .. } if (bytes + frame.len()) as u64 > rule.limits.bytes => {
            let max = rule.limits.bytes;
            out.dead_letter(
                state,
                format!("the entity's held events would exceed {max} bytes (fold.held_bytes_max)"),
            )
        }
        Place::Ahead { .. } => {
            let (mut held, memory) = take_held(state, frame.key());
            let (next, last, gap) = memory.unwrap_or((rule.start, None, None));
            held.insert(number, Held { offset, time_ms, id, frame: frame.clone() });
            let gap = Some(gap.unwrap_or_else(|| open_gap(state, out.record, rule.gap_wait_ms)));
            state.put(frame.key(), Entity::Sequence { next, last, held, gap });
            state.head_mut().totals.count(Verdict::Held);
            Verdict::Held
        }
    }
}

/// Next number, the id of the one before, the gap.
type Memory = (Option<u64>, Option<EventId>, Option<Gap>);

/// What an entity holds, and the rest of its memory, taken out of the state.
fn take_held(state: &mut State, key: &[u8]) -> (BTreeMap<u64, Held>, Option<Memory>) {
    match state.take(key) {
        Some(Entity::Sequence { next, last, held, gap }) => (held, Some((next, last, gap))),
        Some(Entity::Version { .. }) | None => (BTreeMap::new(), None),
    }
}

/// Releases the contiguous run of held events from `next` on; returns the number after it and the id of the
/// last one (`last` where there is none).
fn release_run(
    state: &mut State,
    out: &mut Out<'_>,
    held: &mut BTreeMap<u64, Held>,
    mut next: u64,
    mut last: EventId,
) -> (u64, EventId) {
    while let Some(event) = held.remove(&next) {
        last = event.id;
        out.release(state, event);
        next += 1;
    }
    (next, last)
}

fn open_gap(state: &State, record: &Record, wait_ms: i64) -> Gap {
    let deadline_ms = state.head().stream_time_ms.saturating_add(wait_ms);
    Gap { opened_at: record.offset, deadline_ms, wait_ms }
}

/// Releases everything that an entity holds, in its order, and forgets the entity's sequence.
fn release_all(state: &mut State, out: &mut Out<'_>) {
    if let Some(Entity::Sequence { held, .. }) = state.take(out.record.frame.key()) {
        for event in held.into_values() {
            out.release(state, event);
        }
    }
}

fn obey(
    state: &mut State,
    record: &Record,
    pipeline: &str,
    control: Control,
    effects: &mut Vec<Effect>,
) -> Result<(), FoldError> {
    match control {
        Control::Config(config) if config.pipeline == pipeline => configure(state, record, config)?,
        Control::GapExpired(expired)
            if expired.pipeline == pipeline || planted(Defect::OtherPipelineObeyed) =>
        {
            state.advance(record.offset, record.time_ms, &record.frame);
            skip_gap(state, &mut Out { record, effects, ordinal: 0 }, &expired);
        }
        Control::Config(_) | Control::GapExpired(_) => {
            state.advance(record.offset, record.time_ms, &record.frame);
        }
    }
    Ok(())
}

fn configure(state: &mut State, record: &Record, config: ConfigRecord) -> Result<(), FoldError> {
    let obeyed = state
        .head()
        .config
        .as_ref()
        .is_none_or(|in_force| config.epoch >= in_force.epoch || planted(Defect::ConfigEpochIgnored));
    if obeyed {
        check_version(&config.fold, record.offset)?;
    }
    state.advance(record.offset, record.time_ms, &record.frame);
    if obeyed {
        state.head_mut().config = Some(InForce { config: config.fold, epoch: config.epoch });
    }
    Ok(())
}

/// Policy `skip`: goes on with the smallest number that is held.
fn skip_gap(state: &mut State, out: &mut Out<'_>, expired: &GapExpired) {
    let record = out.record;
    let key = record.frame.key();
    let Some(Entity::Sequence { next, gap: Some(gap), .. }) = state.entity(key) else { return };
    let stands = *next == expired.next && gap.opened_at == expired.opened_at && expired.stage == 0;
    let stands = stands || planted(Defect::GapUnmatched);
    if !stands || (record.time_ms <= gap.deadline_ms && !planted(Defect::GapEarly)) {
        return;
    }
    let wait_ms = gap.wait_ms;
    let mut held = take_held(state, key).0;
    // A gap stands only where something is held.
    let Some((first, id)) = held.first_key_value().map(|(first, event)| (*first, event.id)) else { return };
    let (next, last) = release_run(state, out, &mut held, first, id);
    let gap = (!held.is_empty()).then(|| open_gap(state, record, wait_ms));
    state.put(key, Entity::Sequence { next: Some(next), last: Some(last), held, gap });
}

/// The effects of one record, in their order.
struct Out<'a> {
    record: &'a Record,
    effects: &'a mut Vec<Effect>,
    ordinal: u32,
}

impl Out<'_> {
    /// The record's event is applied.
    fn apply(&mut self, state: &mut State) -> Verdict {
        let Record { offset, time_ms, ref frame } = *self.record;
        let verdict = self.push(state, offset, time_ms, frame.clone(), Action::Apply);
        state.head_mut().totals.count(verdict);
        verdict
    }

    /// The record's event cannot be applied.
    fn dead_letter(&mut self, state: &mut State, reason: String) -> Verdict {
        let Record { offset, time_ms, ref frame } = *self.record;
        let verdict = self.push(state, offset, time_ms, frame.clone(), Action::DeadLetter(reason));
        state.head_mut().totals.count(verdict);
        verdict
    }

    /// An event that was held is applied.
    fn release(&mut self, state: &mut State, held: Held) {
        let verdict = self.push(state, held.offset, held.time_ms, held.frame, Action::Apply);
        state.head_mut().totals.release(verdict);
    }

    fn push(
        &mut self,
        state: &State,
        event_offset: i64,
        event_time_ms: i64,
        frame: Frame,
        action: Action,
    ) -> Verdict {
        let position = Position { offset: self.record.offset, ordinal: self.ordinal };
        self.ordinal += 1;
        let (action, verdict) = match action {
            Action::Apply if state.head().refusals.contains_key(&position) => {
                (Action::Refused, Verdict::DeadLettered)
            }
            Action::Apply => (Action::Apply, Verdict::Applied),
            Action::DeadLetter(_) | Action::Refused => (action, Verdict::DeadLettered),
        };
        let cause = self.record.frame.clone();
        self.effects.push(Effect { position, event_offset, event_time_ms, frame, cause, action });
        verdict
    }
}
