//! A sink with a fence: a database whose transactions apply rows and move the fence, or fail, or are done
//! though the client does not hear of it, or are done later. It refuses some rows while a constraint is on.

use std::collections::{BTreeMap, BTreeSet};

use processor::fold::Action;
use processor::frame::Frame;
use processor::lane::OpenSink;
use processor::position::{Epoch, Fence, Position};
use processor::sink::{Batch, Sink, SinkError};

use crate::defects::Planted;
use crate::env::Env;
use crate::events::POISON;
use crate::rules::Rule;
use crate::world::Inner;

/// An applied effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The effect's position.
    pub position: Position,
    /// The event's own offset.
    pub event_offset: i64,
    /// The event.
    pub frame: Frame,
    /// Whose hand.
    pub epoch: Epoch,
}

/// What a database holds.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    /// Rows by partition, in the order in which they were applied.
    pub rows: BTreeMap<i32, Vec<Row>>,
    /// The fences.
    pub fences: BTreeMap<i32, Fence>,
}

/// A transaction that the server has, and whose client is gone.
#[derive(Clone, Debug)]
struct Delayed {
    due_ms: i64,
    partition: i32,
    from: Fence,
    to: Fence,
    rows: Vec<Row>,
}

/// A pipeline's database.
#[derive(Clone, Debug, Default)]
pub struct Database {
    /// Its content.
    pub tables: Tables,
    /// The constraint is off: poison is taken.
    pub relaxed: bool,
    /// Former contents.
    pub backups: Vec<Tables>,
    /// Partition and offset of events that were refused alone.
    pub refused: BTreeSet<(i32, i64)>,
    /// The highest epoch that claimed, kept apart from the fence.
    claimed: BTreeMap<i32, Epoch>,
    delayed: Vec<Delayed>,
}

impl Database {
    /// Restores another content; what was under way in the server is gone. Returns the former one.
    pub fn restore(&mut self, tables: Tables) -> Tables {
        self.delayed.clear();
        std::mem::replace(&mut self.tables, tables)
    }
}

/// The lane's way to its sink.
#[must_use]
pub fn opener(env: Env, kafka_sink: bool) -> OpenSink {
    Box::new(move || {
        if kafka_sink {
            return Ok(None);
        }
        env.enter("sink.open", false);
        let mut w = env.lock();
        let rate = w.plan.rates.sink;
        if w.fault(rate) {
            return Err(SinkError::Retry("simulated: no connection".to_owned()));
        }
        Ok(Some(Box::new(SimSink { env: env.clone() }) as Box<dyn Sink>))
    })
}

struct SimSink {
    env: Env,
}

fn lost(what: &str) -> SinkError {
    SinkError::Retry(format!("simulated: connection lost, {what}"))
}

impl Sink for SimSink {
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        self.env.enter("sink.claim", false);
        let mut w = self.env.lock();
        let rate = w.plan.rates.sink;
        if w.fault(rate) {
            return Err(lost("claim not done"));
        }
        w.note(|| format!("sink claim {partition} {epoch}"));
        let lost_answer = w.fault(rate);
        let Some(db) = w.sinks.get_mut(self.env.pipeline) else { return Err(lost("no database")) };
        let fence = db.tables.fences.entry(partition).or_insert(Fence::EMPTY);
        if fence.epoch > epoch {
            return Err(SinkError::Fenced { partition, found: fence.epoch, own: epoch });
        }
        fence.epoch = epoch;
        let claimed = db.claimed.entry(partition).or_insert(epoch);
        *claimed = (*claimed).max(epoch);
        if lost_answer { Err(lost("claim done")) } else { Ok(*fence) }
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        self.env.enter("sink.fence", true);
        let mut w = self.env.lock();
        let rate = w.plan.rates.sink;
        if w.fault(rate / 2) {
            return Err(lost("fence"));
        }
        let db = w.sinks.get(self.env.pipeline);
        Ok(db.and_then(|db| db.tables.fences.get(&partition)).copied().unwrap_or(Fence::EMPTY))
    }

    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError> {
        let w = self.env.lock();
        let rows = w.sinks.get(self.env.pipeline).and_then(|db| db.tables.rows.get(&partition));
        Ok(rows.map_or(0, |rows| rows.iter().filter(|row| row.position <= up_to).count() as u64))
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        self.env.enter("sink.deliver", false);
        self.check(batch);
        let done = self.attempt(batch);
        self.env.enter("sink.deliver, done", false);
        done
    }
}

impl SimSink {
    /// What the shipped sinks check before they begin.
    fn check(&self, batch: &Batch<'_>) {
        let mut last = batch.from.position;
        for effect in batch.effects {
            if effect.position <= last || effect.action != Action::Apply {
                self.env
                    .lock()
                    .violation(Rule::OnceInOrder, format!("batch out of order at {}", effect.position));
            }
            last = effect.position;
        }
    }

    fn attempt(&self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let mut w = self.env.lock();
        let rate = w.plan.rates.sink;
        let pipeline = self.env.pipeline;
        let row = |effect: &processor::fold::Effect| Row {
            position: effect.position,
            event_offset: effect.event_offset,
            frame: effect.frame.clone(),
            epoch: batch.from.epoch,
        };
        let mut rows: Vec<Row> = batch.effects.iter().map(row).collect();
        if w.plan.has(Planted::ReleasedOutOfOrder) {
            rows.sort_by_key(|row| (row.position.offset, std::cmp::Reverse(row.position.ordinal)));
        }
        if w.fault(rate) {
            return Err(match w.plan.has(Planted::FailureIsRefusal) {
                true => SinkError::Refused("simulated: connection lost".to_owned()),
                false => lost("batch not done"),
            });
        }
        if w.fault(rate) {
            let due_ms = w.now_ms + w.random.between(0, 3_000);
            w.note(|| format!("batch to {:?} is done later, outcome unknown", batch.to.position));
            let (partition, from, to) = (batch.partition, batch.from, batch.to);
            let delayed = Delayed { due_ms, partition, from, to, rows };
            if let Some(db) = w.sinks.get_mut(pipeline) {
                db.delayed.push(delayed);
            }
            return Err(lost("batch under way"));
        }
        // A batch can be refused as a whole for reasons that none of its events has alone.
        if rows.len() > 1 && w.fault(rate) {
            return Err(SinkError::Refused("simulated: statement too large".to_owned()));
        }
        let done = apply(&mut w, pipeline, batch.partition, batch.from, batch.to, &rows);
        if done.is_ok() && w.fault(rate) {
            let again = [Planted::FenceAfterEffects, Planted::SameEpochRetry];
            if !again.iter().any(|planted| w.plan.has(*planted)) {
                return Err(lost("batch done"));
            }
            // Planted: the client tries again by itself.
            let second = apply(&mut w, pipeline, batch.partition, batch.from, batch.to, &rows);
            return second.map_err(|error| match error {
                SinkError::Fenced { .. } if w.plan.has(Planted::SameEpochRetry) => {
                    SinkError::Refused("simulated: the fence did not move".to_owned())
                }
                SinkError::Fenced { .. }
                | SinkError::Refused(_)
                | SinkError::Retry(_)
                | SinkError::Waits(_)
                | SinkError::Halt(_) => error,
            });
        }
        done
    }
}

/// One transaction: the fence first, then the rows.
fn apply(
    w: &mut Inner,
    pipeline: usize,
    partition: i32,
    from: Fence,
    to: Fence,
    rows: &[Row],
) -> Result<(), SinkError> {
    let without_ordinal = w.plan.has(Planted::FenceWithoutOrdinal);
    let without_epoch = w.plan.has(Planted::FenceWithoutEpoch);
    let after = w.plan.has(Planted::FenceAfterEffects);
    let cut = w.plan.has(Planted::FenceApart) && w.fault(100);
    let Some(db) = w.sinks.get_mut(pipeline) else { return Err(lost("no database")) };
    let fence = db.tables.fences.entry(partition).or_insert(Fence::EMPTY);
    let at = |fence: &Fence| match without_ordinal {
        true => (fence.position.offset, 0),
        false => (fence.position.offset, fence.position.ordinal),
    };
    let stored = db.tables.rows.entry(partition).or_default();
    let taken = rows.iter().any(|row| stored.iter().any(|old| old.position == row.position));
    if after && taken {
        return Err(SinkError::Refused("simulated: unique violation".to_owned()));
    }
    if at(fence) != at(&from) || (fence.epoch != from.epoch && !without_epoch) {
        return Err(SinkError::Fenced { partition, found: fence.epoch, own: from.epoch });
    }
    let poison = |row: &Row| row.frame.body() == POISON;
    if !db.relaxed
        && let Some(bad) = rows.iter().find(|row| poison(row))
    {
        if rows.len() == 1 {
            db.refused.insert((partition, bad.event_offset));
        }
        return Err(SinkError::Refused("simulated: check constraint".to_owned()));
    }
    let claimed = db.claimed.get(&partition).copied().unwrap_or_default();
    stored.extend(rows.iter().cloned());
    if !cut {
        *fence = to;
        if without_ordinal {
            fence.position.ordinal = 0;
        }
    }
    let zombie = claimed > from.epoch;
    if zombie {
        w.violation(
            Rule::Owner,
            format!("an effect by {} after {claimed} claimed partition {partition}", from.epoch),
        );
    }
    w.note(|| format!("sink applies to partition {partition} up to {} by {}", to.position, from.epoch));
    if cut { Err(lost("between effects and fence")) } else { Ok(()) }
}

/// Transactions whose clients are gone are done now, where the fence still lets them.
pub fn land_delayed(w: &mut Inner, pipeline: usize) {
    let now = w.now_ms;
    let Some(db) = w.sinks.get_mut(pipeline) else { return };
    let due: Vec<Delayed> = db.delayed.extract_if(.., |d| d.due_ms <= now).collect();
    for d in due {
        let done = apply(w, pipeline, d.partition, d.from, d.to, &d.rows);
        w.note(|| format!("the delayed batch to {} ends: {done:?}", d.to.position));
    }
}
