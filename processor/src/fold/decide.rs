//! What one record means.

use std::cmp::Ordering;

use super::config::{FoldConfig, Order, fold_version};
use super::entity::{Entity, Held, Version};
use super::ids::EventId;
use super::sequence::{self, Limits, Rule};
use super::state::{InForce, State};
use super::{Action, Effect, Record, Verdict};
use crate::control::{ConfigRecord, Control};
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
    /// Whether this event's id was seen is known to the store only: ask it, tell the state ([`State::tell`]), decide
    /// again.
    #[error("whether an event was seen before is known to the local state only, which was not asked")]
    Unsure(EventId),
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
    let knows_snapshots = in_force.config.knows_snapshots() || planted(Defect::SnapshotBeforeItsVersion);
    let limits = Limits { events: in_force.config.held_events_max, bytes: in_force.config.held_bytes_max };
    let order = event.as_ref().ok().and_then(|e| in_force.config.order_of(e.source, e.kind)).cloned();
    let id = match (&event, &order) {
        (Ok(event), Some(_)) => Some(EventId::new(event.source, &event.connection, event.id)),
        (Ok(_) | Err(_), _) => None,
    };
    if let Some(id) = id.filter(|id| state.is_unsure(*id) && !planted(Defect::SpilledUnasked)) {
        return Err(FoldError::Unsure(id));
    }
    state.advance(record.offset, record.time_ms, &record.frame);
    let mut out = Out { record, effects, ordinal: 0 };
    let event = match event {
        Ok(event) => event,
        Err(error) => return Ok(Some(out.dead_letter(state, format!("not an event: {error}")))),
    };
    let (Some(order), Some(id)) = (order, id) else { return Ok(Some(out.count(state, Verdict::Ignored))) };
    if state.seen(id) {
        return Ok(Some(out.count(state, Verdict::Duplicate)));
    }
    state.remember(id, window_ms);
    if let Some(problem) = event.problem {
        return Ok(Some(out.dead_letter(state, problem.to_owned())));
    }
    let is_snapshot = event.snapshot.is_some() && knows_snapshots;
    let verdict = match (order, event.entity, event.sequence) {
        (Order::Arrival, _, _) => out.apply(state),
        (Order::Version | Order::Sequence { .. }, None, _) => {
            out.dead_letter(state, "no entity, though events of this type are ordered".to_owned())
        }
        (Order::Sequence { .. }, Some(_), None) if is_snapshot => {
            sequence::unnumbered_snapshot(state, &mut out)
        }
        (Order::Version | Order::Sequence { .. }, Some(_), None) => out
            .dead_letter(state, "no sequence or version, though events of this type are ordered".to_owned()),
        (Order::Version, Some(_), Some(version)) => match Version::parse(version) {
            Ok(version) => by_version(state, &mut out, version, is_snapshot),
            Err(reason) => out.dead_letter(state, reason.to_owned()),
        },
        (Order::Sequence { start, gap_wait_ms, .. }, Some(_), Some(number)) => {
            let rule = Rule { start, gap_wait_ms, limits };
            match sequence::parse(number) {
                Ok(number) if is_snapshot => sequence::snapshot(state, &mut out, number, &rule),
                Ok(number) => sequence::webhook(state, &mut out, id, number, &rule),
                Err(reason) => out.dead_letter(state, reason.to_owned()),
            }
        }
    };
    Ok(Some(verdict))
}

/// The newest version wins. A webhook that is not newer is stale; a snapshot of the newest is a duplicate.
fn by_version(state: &mut State, out: &mut Out<'_>, version: Version, is_snapshot: bool) -> Verdict {
    let key = out.record.frame.key();
    let against = match (state.entity(key), version) {
        (Some(Entity::Version { newest: Version::Integer(old) }), Version::Integer(new)) => new.cmp(old),
        (Some(Entity::Version { newest: Version::Time(old) }), Version::Time(new)) => new.cmp(old),
        (Some(Entity::Version { newest: Version::Integer(_) }), Version::Time(_)) => {
            return out.dead_letter(state, "version is a time, the entity's are integers".into());
        }
        (Some(Entity::Version { newest: Version::Time(_) }), Version::Integer(_)) => {
            return out.dead_letter(state, "version is an integer, the entity's are times".into());
        }
        (Some(Entity::Sequence { .. }), _) => {
            // The configuration changed: what was held goes first, then versions count.
            sequence::release_all(state, out);
            Ordering::Greater
        }
        (None, _) => Ordering::Greater,
    };
    match against {
        Ordering::Equal if is_snapshot => out.count(state, Verdict::Duplicate),
        Ordering::Less | Ordering::Equal => out.count(state, Verdict::Stale),
        Ordering::Greater => {
            state.put(key, Entity::Version { newest: version });
            out.apply(state)
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
            sequence::expire(state, &mut Out { record, effects, ordinal: 0 }, &expired);
        }
        Control::GapSkip(skip) if skip.pipeline == pipeline => {
            state.advance(record.offset, record.time_ms, &record.frame);
            if state.head().config.as_ref().is_some_and(|in_force| in_force.config.knows_snapshots()) {
                sequence::skip(state, &mut Out { record, effects, ordinal: 0 }, &skip);
            }
        }
        Control::Config(_) | Control::GapExpired(_) | Control::GapSkip(_) => {
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

/// The effects of one record, in their order.
pub(super) struct Out<'a> {
    pub(super) record: &'a Record,
    effects: &'a mut Vec<Effect>,
    ordinal: u32,
}

impl Out<'_> {
    /// The record's event comes to this end, which has no effect, or is held.
    #[allow(clippy::unused_self, reason = "beside the ends that have an effect")]
    pub(super) fn count(&self, state: &mut State, verdict: Verdict) -> Verdict {
        state.head_mut().totals.count(verdict);
        verdict
    }

    /// The record's event is applied.
    pub(super) fn apply(&mut self, state: &mut State) -> Verdict {
        let Record { offset, time_ms, ref frame } = *self.record;
        let verdict = self.push(state, offset, time_ms, frame.clone(), Action::Apply);
        state.head_mut().totals.count(verdict);
        verdict
    }

    /// The record's event cannot be applied.
    pub(super) fn dead_letter(&mut self, state: &mut State, reason: String) -> Verdict {
        let Record { offset, time_ms, ref frame } = *self.record;
        let verdict = self.push(state, offset, time_ms, frame.clone(), Action::DeadLetter(reason));
        state.head_mut().totals.count(verdict);
        verdict
    }

    /// An event that was held is applied.
    pub(super) fn release(&mut self, state: &mut State, held: Held) {
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
