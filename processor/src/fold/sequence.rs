//! Order by a contiguous number: what the next event of an entity, one ahead, one behind, a snapshot and the end of a
//! wait mean.

use std::collections::BTreeMap;

use super::decide::Out;
use super::entity::{Entity, Gap, Held};
use super::ids::EventId;
use super::state::State;
use super::{Record, Verdict};
use crate::control::{GapExpired, GapSkip};
use crate::defect::{Defect, planted};

/// What may be held of one entity.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub(super) events: u32,
    pub(super) bytes: u64,
}

/// How events of a type are ordered.
pub(super) struct Rule {
    pub(super) start: Option<u64>,
    pub(super) gap_wait_ms: i64,
    pub(super) limits: Limits,
}

/// Digits only, below 2^63.
pub(super) fn parse(text: &str) -> Result<u64, &'static str> {
    const REASON: &str = "sequence is not an integer from 0 to 2^63 - 1";
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(REASON);
    }
    text.parse::<i64>().ok().and_then(|n| u64::try_from(n).ok()).ok_or(REASON)
}

/// Where a number stands among those of its entity.
enum Place {
    Next,
    Behind,
    /// A snapshot had it.
    Repeated,
    Conflict(&'static str),
    Ahead {
        events: usize,
        bytes: usize,
        parked: bool,
    },
}

fn place(entity: Option<&Entity>, start: Option<u64>, number: u64, id: EventId) -> Place {
    let Some(Entity::Sequence { next, last, held, gap }) = entity else {
        // Without a memory, or with one of another order that was configured before: the start.
        return match start {
            Some(start) if number == start => Place::Next,
            Some(start) if number < start => Place::Behind,
            Some(_) | None => Place::Ahead { events: 0, bytes: 0, parked: false },
        };
    };
    match next {
        Some(next) if number == *next => Place::Next,
        Some(next) if number + 1 == *next && is_snapshot(*last) => Place::Repeated,
        Some(next) if number + 1 == *next && last.is_some_and(|last| last != id) => {
            Place::Conflict("applied")
        }
        Some(next) if number < *next => Place::Behind,
        Some(_) | None if held.contains_key(&number) => Place::Conflict("held"),
        Some(_) | None => Place::Ahead {
            events: held.len(),
            bytes: held.values().map(|h| h.frame.len()).sum(),
            parked: gap.is_some_and(|gap| gap.is_parked()),
        },
    }
}

fn is_snapshot(last: Option<EventId>) -> bool {
    last == Some(EventId::SNAPSHOT) && !planted(Defect::SnapshotConflicts)
}

/// The next number applies and releases what it held up; one ahead is held; one behind is stale.
pub(super) fn webhook(
    state: &mut State,
    out: &mut Out<'_>,
    id: EventId,
    number: u64,
    rule: &Rule,
) -> Verdict {
    let Record { offset, time_ms, ref frame } = *out.record;
    match place(state.entity(frame.key()), rule.start, number, id) {
        Place::Behind => out.count(state, Verdict::Stale),
        Place::Repeated => out.count(state, Verdict::Duplicate),
        Place::Conflict(what) => {
            out.dead_letter(state, format!("conflict: sequence {number} is {what} already, under another id"))
        }
        Place::Next => {
            let verdict = out.apply(state);
            let held = take_held(state, frame.key()).0;
            go_on(state, out, held, number + 1, id, rule.gap_wait_ms);
            verdict
        }
        Place::Ahead { events, parked, .. } if events >= rule.limits.events as usize => {
            let (entity, max) = (standing(parked), rule.limits.events);
            let why = format!("{max} events of the {entity} are held already (fold.held_events_max)");
            out.dead_letter(state, why)
        }
        Place::Ahead { bytes, parked, .. } if (bytes + frame.len()) as u64 > rule.limits.bytes => {
            let (entity, max) = (standing(parked), rule.limits.bytes);
            let why = format!("the {entity}'s held events would exceed {max} bytes (fold.held_bytes_max)");
            out.dead_letter(state, why)
        }
        Place::Ahead { .. } => {
            let (mut held, memory) = take_held(state, frame.key());
            let (next, last, gap) = memory.unwrap_or((rule.start, None, None));
            held.insert(number, Held { offset, time_ms, id, frame: frame.clone() });
            let gap = Some(gap.unwrap_or_else(|| open_gap(state, out.record, rule.gap_wait_ms)));
            state.put(frame.key(), Entity::Sequence { next, last, held, gap });
            out.count(state, Verdict::Held)
        }
    }
}

/// What a dead letter calls the entity.
const fn standing(parked: bool) -> &'static str {
    if parked { "parked entity" } else { "entity" }
}

/// What polling found: the entity as it is with this number's event and all before it. It is applied unless the fold
/// is there already, and what was held up to it is stale.
pub(super) fn snapshot(state: &mut State, out: &mut Out<'_>, number: u64, rule: &Rule) -> Verdict {
    let key = out.record.frame.key();
    if let Some(Entity::Sequence { next: Some(next), .. }) = state.entity(key)
        && number < *next
    {
        let verdict = if number + 1 == *next { Verdict::Duplicate } else { Verdict::Stale };
        if planted(Defect::SnapshotBehindCloses) {
            skip_standing(state, out);
        }
        return out.count(state, verdict);
    }
    let verdict = out.apply(state);
    let mut older = take_held(state, key).0;
    let later = older.split_off(&(number + 1));
    for event in older.into_values() {
        if planted(Defect::OlderThanSnapshotReleased) {
            out.release(state, event);
        } else {
            state.pass(event);
        }
    }
    go_on(state, out, later, number + 1, EventId::SNAPSHOT, rule.gap_wait_ms);
    verdict
}

/// A snapshot without a number: what it is newer than is not known, so it closes no gap.
pub(super) fn unnumbered_snapshot(state: &mut State, out: &mut Out<'_>) -> Verdict {
    if planted(Defect::UnnumberedCloses) {
        skip_standing(state, out);
    }
    out.apply(state)
}

/// The wait for a gap is over: by its policy the entity goes on without what is missing, or is parked. A first number
/// that is looked for is found: the smallest that is held.
pub(super) fn expire(state: &mut State, out: &mut Out<'_>, expired: &GapExpired) {
    let Record { time_ms, ref frame, .. } = *out.record;
    let Some(gap) = standing_gap(state, frame.key(), expired.next, expired.opened_at, Defect::GapUnmatched)
    else {
        return;
    };
    if expired.stage != 0 || (time_ms <= gap.deadline_ms && !planted(Defect::GapEarly)) {
        return;
    }
    if parks(state, frame.key()) && !planted(Defect::ParkedSkipped) {
        park(state, frame.key());
    } else {
        skip_standing(state, out);
    }
}

/// An operator goes on without what is missing.
pub(super) fn skip(state: &mut State, out: &mut Out<'_>, skip: &GapSkip) {
    let key = out.record.frame.key();
    if standing_gap(state, key, skip.next, skip.opened_at, Defect::SkipUnmatched).is_some() {
        skip_standing(state, out);
    }
}

/// The gap of an entity, if it is the one that a control record names.
fn standing_gap(
    state: &State,
    key: &[u8],
    named_next: Option<u64>,
    opened_at: i64,
    unmatched: Defect,
) -> Option<Gap> {
    let Some(Entity::Sequence { next, gap: Some(gap), .. }) = state.entity(key) else { return None };
    let stands = (*next == named_next && gap.opened_at == opened_at) || planted(unmatched);
    stands.then_some(*gap)
}

/// Whether the policy of an entity's gap, once its wait is over, is to stand still.
fn parks(state: &State, key: &[u8]) -> bool {
    let (Some(Entity::Sequence { next: Some(_), held, .. }), Some(in_force)) =
        (state.entity(key), &state.head().config)
    else {
        return false;
    };
    let first = held.values().next();
    first.is_some_and(|event| in_force.config.gap_policy_of(event).parks())
}

fn park(state: &mut State, key: &[u8]) {
    if let (held, Some((next, last, Some(gap)))) = take_held(state, key) {
        let again = state.head().stream_time_ms.saturating_add(gap.wait_ms);
        let deadline_ms = if planted(Defect::ParkedExpires) { again } else { Gap::NEVER_MS };
        let gap = Some(Gap { deadline_ms, ..gap });
        state.put(key, Entity::Sequence { next, last, held, gap });
    }
}

/// Goes on with the smallest number that is held.
fn skip_standing(state: &mut State, out: &mut Out<'_>) {
    let key = out.record.frame.key();
    let Some(Entity::Sequence { held, gap: Some(gap), .. }) = state.entity(key) else { return };
    let Some((first, event)) = held.first_key_value() else { return };
    let (first, id, wait_ms) = (*first, event.id, gap.wait_ms);
    let held = take_held(state, key).0;
    go_on(state, out, held, first, id, wait_ms);
}

/// Releases what is held from `next` on; what is left waits for another number than before: another gap. `last` is the
/// event before `next`.
fn go_on(
    state: &mut State,
    out: &mut Out<'_>,
    mut held: BTreeMap<u64, Held>,
    mut next: u64,
    mut last: EventId,
    gap_wait_ms: i64,
) {
    while let Some(event) = held.remove(&next) {
        last = event.id;
        out.release(state, event);
        next += 1;
    }
    let gap = (!held.is_empty()).then(|| open_gap(state, out.record, gap_wait_ms));
    state.put(out.record.frame.key(), Entity::Sequence { next: Some(next), last: Some(last), held, gap });
}

/// Releases everything that an entity holds, in its order, and forgets the entity's sequence.
pub(super) fn release_all(state: &mut State, out: &mut Out<'_>) {
    if let Some(Entity::Sequence { held, .. }) = state.take(out.record.frame.key()) {
        for event in held.into_values() {
            out.release(state, event);
        }
    }
}

fn open_gap(state: &State, record: &Record, wait_ms: i64) -> Gap {
    let deadline_ms = state.head().stream_time_ms.saturating_add(wait_ms);
    Gap { opened_at: record.offset, deadline_ms, wait_ms }
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
