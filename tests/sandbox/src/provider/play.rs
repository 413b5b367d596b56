//! Plays a scenario in the world, step by step: what changes, and what becomes of each webhook. Everything is drawn
//! from the seed; times are the plan's, but for those of connections' events, which are the caller's.

use std::collections::VecDeque;
use std::time::Duration;

use super::resource::Resource;
use super::scenario::{Fault, Scenario};
use super::world::{At, Status, Webhook, World};
use crate::rng::Rng;

/// How many of a hundred changes are of purchase orders; the other lists share the rest.
const PURCHASE_ORDERS_PERCENT: usize = 40;
/// How late a reordered webhook is at most; not more than a quarter of the scenario.
const REORDERED: Duration = Duration::from_secs(1);
/// How much later a duplicate comes at most; likewise.
const DUPLICATE: Duration = Duration::from_secs(3);
/// How long a burst lasts at most.
const BURST: Duration = Duration::from_millis(500);

/// How a webhook is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// Until it is answered with 2xx.
    Patient,
    /// The same, but the first answer is not waited for.
    Impatient,
    /// Once, as something that must not be applied.
    Garbage(Garbage),
}

/// What must not be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Garbage {
    /// Signed with a guessed secret: must be refused.
    Forged,
    /// Without a signature: must be refused.
    Unsigned,
    /// Well signed, and half of a JSON.
    BrokenJson,
}

/// A webhook on its way.
#[derive(Clone, Debug)]
pub(crate) struct Send {
    pub(crate) webhook: Webhook,
    pub(crate) after: Duration,
    pub(crate) manner: Manner,
}

/// What a step brings.
#[derive(Debug, Default)]
pub(crate) struct Step {
    pub(crate) sends: Vec<Send>,
    /// How many records changed.
    pub(crate) changes: u64,
    /// How many webhooks will never be sent.
    pub(crate) lost: u64,
    /// The connection that has a new token.
    pub(crate) new_token: Option<String>,
    pub(crate) fault: Option<Fault>,
}

#[derive(Debug)]
enum Planned {
    Change,
    Status(String, Status),
    Sync,
    Fault(Fault),
}

/// What becomes of the webhook of one change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    OnTime,
    Reordered,
    Late,
    Lost,
    Gap,
}

/// A scenario that is being played.
#[derive(Debug)]
pub(crate) struct Play {
    scenario: Scenario,
    rng: Rng,
    epoch_ms: i64,
    connections: Vec<String>,
    timeline: VecDeque<(Duration, Planned)>,
}

impl Play {
    /// The first step of `scenario`, at `epoch_ms`: what is there before.
    pub(crate) fn new(scenario: Scenario, world: &mut World, epoch_ms: i64) -> Self {
        let mut rng = Rng::new(scenario.seed);
        for (resource, count) in &scenario.existing {
            world.stock(&mut rng, *resource, *count, epoch_ms);
        }
        let connections: Vec<_> = world.connections.keys().cloned().collect();
        let timeline = timeline(&scenario, &connections).into();
        Self { scenario, rng, epoch_ms, connections, timeline }
    }

    /// When the next step is due, after the beginning.
    pub(crate) fn next_at(&self) -> Option<Duration> {
        self.timeline.front().map(|(at, _)| *at)
    }

    /// The next step. `now_ms` is the time of connections' events, in milliseconds since 1970.
    pub(crate) fn step(&mut self, world: &mut World, now_ms: i64) -> Step {
        let mut step = Step::default();
        let Some((at, planned)) = self.timeline.pop_front() else { return step };
        match planned {
            Planned::Change => {
                let at_ms = self.epoch_ms + i64::try_from(at.as_millis()).unwrap_or(0);
                self.change(world, at_ms, &mut step);
            }
            Planned::Status(connection, status) => step = change_status(world, &connection, status, now_ms),
            Planned::Sync => {
                for connection in &self.connections {
                    step.sends.extend(sync_all(world, connection, now_ms));
                }
            }
            Planned::Fault(fault) => step.fault = Some(fault),
        }
        step
    }

    fn change(&mut self, world: &mut World, at_ms: i64, step: &mut Step) {
        let connection = self.rng.pick(&self.connections).clone();
        let resource = self.any_resource();
        let at = At { connection: &connection, resource, ms: at_ms };
        let muted = world.connections.get(&connection).is_none_or(|connection| connection.refused);
        let known = world.shelf(&connection, resource).and_then(|shelf| shelf.any(&mut self.rng));
        let drawn = self.rng.below(100);
        let mut fate = if muted { Fate::Lost } else { self.fate() };
        let deletes = (self.scenario.created..self.scenario.created + self.scenario.deleted).contains(&drawn);
        let may_lose = self.scenario.webhooks.deletions_lost;
        let (id, webhook) = match known {
            Some(id) if deletes && (may_lose || !muted) => {
                fate = match fate {
                    Fate::Lost | Fate::Gap if may_lose => Fate::Lost,
                    Fate::Lost | Fate::Gap => Fate::OnTime,
                    Fate::OnTime | Fate::Reordered | Fate::Late => fate,
                };
                let webhook = world.delete(at, &id, fate == Fate::Lost);
                (id, webhook)
            }
            Some(id) if drawn >= self.scenario.created => {
                let webhook = world.update(at, &id, &mut self.rng);
                (id, webhook)
            }
            Some(_) | None => match world.create(at, &mut self.rng) {
                Some((id, webhook)) => (id, Some(webhook)),
                None => return,
            },
        };
        let Some(webhook) = webhook else { return };
        step.changes += 1;
        match fate {
            Fate::Lost => step.lost += 1,
            Fate::Gap => {
                step.lost += 1;
                let next = At { ms: at_ms + 1, ..at };
                if let Some(webhook) = world.update(next, &id, &mut self.rng) {
                    step.changes += 1;
                    step.sends.push(on_time(webhook));
                }
            }
            Fate::OnTime | Fate::Reordered | Fate::Late => self.send(webhook, fate, step),
        }
    }

    /// Sends a webhook as its fate says, and what comes upon it.
    fn send(&mut self, webhook: Webhook, fate: Fate, step: &mut Step) {
        let longest = self.scenario.duration / 4;
        let after = match fate {
            Fate::Late => {
                let half = self.scenario.webhooks.late_by() / 2;
                half + self.up_to(half)
            }
            Fate::Reordered => self.up_to(REORDERED.min(longest)),
            Fate::OnTime | Fate::Lost | Fate::Gap => Duration::ZERO,
        };
        let fates = &self.scenario.webhooks;
        let (duplicated, spoilt) = (fates.duplicated, fates.garbage);
        let manner = if self.rng.chance(fates.impatient) { Manner::Impatient } else { Manner::Patient };
        let copies = if self.rng.chance(duplicated) { 1 + self.rng.below(2) } else { 0 };
        for _ in 0..copies {
            let after = after + self.up_to(DUPLICATE.min(longest));
            step.sends.push(Send { webhook: webhook.clone(), after, manner: Manner::Patient });
        }
        if self.rng.chance(spoilt) {
            let what = *self.rng.pick(&[Garbage::Forged, Garbage::Unsigned, Garbage::BrokenJson]);
            step.sends.push(garbage(&webhook, what, after));
        }
        step.sends.push(Send { webhook, after, manner });
    }

    /// A whole number of milliseconds, by chance.
    fn up_to(&mut self, longest: Duration) -> Duration {
        let ms = usize::try_from(longest.as_millis()).unwrap_or(usize::MAX - 1);
        Duration::from_millis(self.rng.below(ms + 1) as u64)
    }

    fn any_resource(&mut self) -> Resource {
        let others = [Resource::Suppliers, Resource::WorkOrders, Resource::Assets];
        if self.rng.chance(PURCHASE_ORDERS_PERCENT) {
            Resource::PurchaseOrders
        } else {
            *self.rng.pick(&others)
        }
    }

    fn fate(&mut self) -> Fate {
        let fates = &self.scenario.webhooks;
        let mut drawn = self.rng.below(100);
        for (fate, percent) in [
            (Fate::Lost, fates.lost),
            (Fate::Gap, fates.gaps),
            (Fate::Late, fates.late),
            (Fate::Reordered, fates.reordered),
        ] {
            match drawn.checked_sub(percent) {
                None => return fate,
                Some(rest) => drawn = rest,
            }
        }
        Fate::OnTime
    }
}

/// Changes a connection's status. Where that brings a new token, all lists are synchronised after it.
pub(crate) fn change_status(world: &mut World, connection: &str, status: Status, now_ms: i64) -> Step {
    let refused = world.connections.get(connection).is_some_and(|connection| connection.refused);
    let sends = world.set_status(connection, status, now_ms).map(on_time).into_iter().collect();
    let mut step = Step { sends, ..Step::default() };
    if refused && status == Status::Online {
        step.new_token = Some(connection.to_owned());
        step.sends.extend(sync_all(world, connection, now_ms));
    }
    step
}

fn sync_all(world: &mut World, connection: &str, now_ms: i64) -> Vec<Send> {
    if world.connections.get(connection).is_none_or(|connection| connection.refused) {
        return Vec::new();
    }
    Resource::ALL
        .iter()
        .filter_map(|resource| world.sync(connection, *resource, now_ms))
        .map(on_time)
        .collect()
}

pub(crate) fn on_time(webhook: Webhook) -> Send {
    Send { webhook, after: Duration::ZERO, manner: Manner::Patient }
}

/// Something that must not be applied, with the id and nearly the body of a webhook that must.
pub(crate) fn garbage(webhook: &Webhook, what: Garbage, after: Duration) -> Send {
    let mut webhook = Webhook { deletes: None, ..webhook.clone() };
    match what {
        Garbage::Forged | Garbage::Unsigned => {
            let text = String::from_utf8_lossy(&webhook.body).replace("\"revision\":", "\"revision\":9");
            webhook.body = text.into_bytes();
        }
        Garbage::BrokenJson => webhook.body.truncate(webhook.body.len() / 2),
    }
    Send { webhook, after, manner: Manner::Garbage(what) }
}

/// Everything that is planned, in its order.
fn timeline(scenario: &Scenario, connections: &[String]) -> Vec<(Duration, Planned)> {
    let mut timeline = Vec::new();
    // So that each connection's status is told at least once.
    for connection in connections {
        timeline.push((Duration::ZERO, Planned::Status(connection.clone(), Status::Online)));
    }
    for fault in &scenario.faults {
        timeline.push((fault.at, Planned::Fault(fault.clone())));
    }
    for act in &scenario.acts {
        timeline.push((act.at, Planned::Status(act.connection.clone(), act.status)));
    }
    for n in 0..scenario.changes {
        timeline.push((change_at(scenario, n), Planned::Change));
    }
    if let Some(every) = scenario.sync_every {
        let mut at = every;
        while at < scenario.duration {
            timeline.push((at, Planned::Sync));
            at += every;
        }
    }
    timeline.sort_by_key(|(at, _)| *at);
    if scenario.sync_at_end {
        let end = timeline.last().map_or(Duration::ZERO, |(at, _)| *at).max(scenario.duration);
        timeline.push((end, Planned::Sync));
    }
    timeline
}

/// When the `n`th change comes: evenly, or in bursts.
fn change_at(scenario: &Scenario, n: u32) -> Duration {
    let (n, changes) = (f64::from(n), f64::from(scenario.changes));
    if scenario.bursts == 0 {
        return scenario.duration.mul_f64(n / changes);
    }
    let period = scenario.duration / scenario.bursts;
    let bursts = n * f64::from(scenario.bursts) / changes;
    period.mul_f64(bursts.floor()) + period.min(BURST).mul_f64(bursts.fract())
}

#[cfg(test)]
mod tests;
