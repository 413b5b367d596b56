//! Gaps: the owner watches the wall clock. At half of a wait it asks the poller, where the policy says so, for what is
//! missing; at its end it appends `gap-expired`, again and again until the gap closes or is parked, and the fold
//! decides whether that is obeyed. Step P10 of the protocol.

use std::collections::btree_map::Entry;
use std::time::Duration;

use shared::poll::PollRequest;

use super::{Lane, Trouble};
use crate::broker::{Journal, Log};
use crate::clock::Clock;
use crate::control::{Control, GapExpired};
use crate::defect::{Defect, planted};
use crate::fold::{FoldConfig, OpenGap};
use crate::store::Stores;

/// How often the gaps are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long an appended expiry may take to be folded before it is appended again.
const APPEND_AGAIN: Duration = Duration::from_secs(2);
/// Expiries appended in one turn, so that a storm of gaps does not stop the lane.
const APPENDS_MAX: usize = 100;
/// How long it takes until the poller is asked for the same again. What it was asked for once, its next list has.
const ASK_AGAIN: Duration = Duration::from_secs(600);
/// What is asked for in one turn.
const ASKS_MAX: usize = 100;

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    pub(super) fn watch_gaps(&mut self) -> Result<(), Trouble> {
        let now = self.clock.now();
        if now.saturating_sub(self.gaps_looked_at) < LOOK_INTERVAL {
            return Ok(());
        }
        self.gaps_looked_at = now;
        self.ask_for_missing(now);
        self.expire_gaps(now)
    }

    /// Asks the poller. That it cannot be asked is no trouble: the gap's wait goes on, and the policy decides.
    fn ask_for_missing(&mut self, now: Duration) {
        let wall_ms = self.clock.wall_ms();
        let mut wanted = Vec::new();
        for part in self.parts.values_mut() {
            let Some((state, _, running)) = part.work() else { continue };
            running.gaps_asked.retain(|_, at| now.saturating_sub(*at) < ASK_AGAIN);
            let Some(in_force) = &state.checkpointed().config else { continue };
            let Some(ahead_ms) = in_force.config.asks_ahead_ms() else { continue };
            for open in state.gaps_due(wall_ms.saturating_add(ahead_ms)) {
                if wanted.len() >= ASKS_MAX {
                    break;
                }
                if open.gap.deadline_ms - open.gap.wait_ms / 2 < wall_ms
                    && let Entry::Vacant(slot) = running.gaps_asked.entry(open.gap.opened_at)
                    && let Some(request) = self.config.request(&in_force.config, &open, wall_ms)
                {
                    slot.insert(now);
                    wanted.push(request);
                }
            }
        }
        for request in wanted.iter().filter(|_| !planted(Defect::NotAskedFor)) {
            match self.log.ask(request) {
                Ok(()) => metrics::counter!(crate::metrics::BACKFILLS).increment(1),
                Err(error) => tracing::warn!(%error, "the poller cannot be asked for what is missing"),
            }
        }
    }

    fn expire_gaps(&mut self, now: Duration) -> Result<(), Trouble> {
        let wall_ms = self.clock.wall_ms();
        let mut due = Vec::new();
        for (partition, part) in &mut self.parts {
            let Some((state, _, running)) = part.work() else { continue };
            running
                .gaps_appended
                .retain(|_, at| now.saturating_sub(*at) < APPEND_AGAIN || planted(Defect::GapAppendedOnce));
            for open in state.gaps_due(wall_ms) {
                if due.len() >= APPENDS_MAX {
                    break;
                }
                if let Entry::Vacant(slot) = running.gaps_appended.entry(open.gap.opened_at) {
                    slot.insert(now);
                    due.push((*partition, open.key.to_vec(), open.next, open.gap));
                }
            }
        }
        for (partition, key, next, gap) in due {
            let control = Control::GapExpired(GapExpired {
                pipeline: self.config.pipeline.clone(),
                next,
                opened_at: gap.opened_at,
                stage: 0,
                by: self.config.instance.clone(),
                why: "the wait for the missing event is over".to_owned(),
            });
            self.log.append(partition, &key, &control)?;
        }
        Ok(())
    }
}

impl super::LaneConfig {
    /// What the poller is asked for to close a gap; `None` where the policy does not ask, or nothing is missing yet
    /// but the first number.
    fn request(&self, config: &FoldConfig, open: &OpenGap<'_>, wall_ms: i64) -> Option<PollRequest> {
        let (missing, first) = (open.next?, open.held.values().next()?);
        let event = first.frame.event().ok().filter(|_| config.gap_policy_of(first).asks())?;
        Some(PollRequest {
            source: event.source.to_owned(),
            connection: event.connection.clone().into_owned(),
            resource: None,
            entity: Some(event.entity?.to_owned()),
            by: format!("pipeline {}, {}", self.pipeline, self.instance),
            why: format!("the event with number {missing} is missing"),
            time: jiff::Timestamp::from_millisecond(wall_ms).ok()?.to_string(),
        })
    }
}
