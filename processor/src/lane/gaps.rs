//! Gaps: the owner watches the wall clock and appends `gap-expired`, again and again until the gap closes;
//! the fold decides whether it is obeyed. Step P10 of the protocol.

use std::time::Duration;

use super::{Lane, Trouble};
use crate::broker::{Journal, Log};
use crate::clock::Clock;
use crate::control::{Control, GapExpired};
use crate::defect::{Defect, planted};
use crate::store::Stores;

/// How often the gaps are looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long an appended expiry may take to be folded before it is appended again.
const APPEND_AGAIN: Duration = Duration::from_secs(2);
/// Expiries appended in one turn, so that a storm of gaps does not stop the lane.
const APPENDS_MAX: usize = 100;

impl<L: Log, J: Journal, S: Stores, C: Clock> Lane<L, J, S, C> {
    pub(super) fn expire_gaps(&mut self) -> Result<(), Trouble> {
        let now = self.clock.now();
        if now.saturating_sub(self.gaps_looked_at) < LOOK_INTERVAL {
            return Ok(());
        }
        self.gaps_looked_at = now;
        let wall_ms = self.clock.wall_ms();
        let mut due = Vec::new();
        for (partition, part) in &mut self.parts {
            let Some((state, _, running)) = part.work() else { continue };
            running
                .gaps_appended
                .retain(|_, at| now.saturating_sub(*at) < APPEND_AGAIN || planted(Defect::GapAppendedOnce));
            for (key, next, gap) in state.gaps_due(wall_ms) {
                if due.len() >= APPENDS_MAX {
                    break;
                }
                if let std::collections::btree_map::Entry::Vacant(slot) =
                    running.gaps_appended.entry(gap.opened_at)
                {
                    slot.insert(now);
                    due.push((*partition, key.to_vec(), next, gap));
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
