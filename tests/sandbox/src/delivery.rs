//! What a plan is made of: deliveries, what each must come to, and the entities as they must be afterwards.

use std::collections::BTreeMap;

use crate::sign::Signer;

/// One HTTP request that the sandbox sends, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// 0 for the main part; 1 for what is sent once the gaps that never close are given up.
    pub phase: usize,
    /// Deliveries of one lane are sent one after the other: their order decides the outcome. All that concerns
    /// one entity, and all repeats of one event, are in one lane.
    pub lane: u64,
    /// Path of the URL.
    pub path: String,
    /// Headers besides the signature.
    pub headers: Vec<(&'static str, String)>,
    /// How it is signed.
    pub signer: Signer,
    /// The body.
    pub body: Vec<u8>,
    /// What must come of it.
    pub expect: Expect,
    /// Its part in a gap that must close in time.
    pub gap: Option<Gap>,
    /// What it is there for, in a few words.
    pub what: &'static str,
}

/// What must come of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Refused with this status: it must leave no trace.
    Refused(u16),
    /// Answered with 200, and ends in this verdict.
    Accepted(Verdict),
    /// Answered with 200, waits for a number that is missing, and is applied in the end.
    Waits,
}

/// How an event ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// In the table, once.
    Applied,
    /// Its id was there before.
    Duplicate,
    /// Its turn has passed.
    Stale,
    /// Cannot be applied; kept with the reason.
    DeadLettered,
    /// Passed over by configuration.
    Ignored,
}

/// A delivery's part in a gap. The numbers join the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gap {
    /// The first that is ahead of its turn.
    Opens(u32),
    /// After it nothing is missing any more.
    Closes(u32),
}

/// An entity, and the events that must have been applied to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityPlan {
    /// The source's name.
    pub source: &'static str,
    /// The connection; empty where the source has none.
    pub connection: &'static str,
    /// The entity's id, with its prefix.
    pub entity: String,
    /// The events in the order of application. The last one is the entity's state.
    pub applied: Vec<AppliedEvent>,
}

/// An event that must be in the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedEvent {
    /// Its id.
    pub event_id: String,
    /// Sequence or version, as it stands in the body.
    pub sequence: Option<String>,
    /// The body, byte for byte.
    pub body: Vec<u8>,
}

/// How many deliveries come to what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Deliveries.
    pub sent: usize,
    /// Those refused, by status.
    pub refused: BTreeMap<u16, usize>,
    /// Those answered with 200.
    pub accepted: usize,
    /// What the accepted ones end in.
    pub verdicts: Verdicts,
    /// Of those applied: how many have to wait for an earlier number.
    pub waited: usize,
}

/// How many events ended in each verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdicts {
    /// In the table, once each.
    pub applied: usize,
    /// Their id was there before.
    pub duplicates: usize,
    /// Their turn had passed.
    pub stale: usize,
    /// Waiting for a number that is missing. None, once all gaps have closed or were given up.
    pub held: usize,
    /// Could not be applied; kept with the reason.
    pub dead_lettered: usize,
    /// Passed over by configuration.
    pub ignored: usize,
}

impl Verdicts {
    /// All of them.
    #[must_use]
    pub fn sum(&self) -> usize {
        self.applied + self.duplicates + self.stale + self.held + self.dead_lettered + self.ignored
    }
}

impl Totals {
    /// Counts what deliveries must come to, once no gap is open.
    #[must_use]
    pub fn of<'a>(deliveries: impl IntoIterator<Item = &'a Delivery>) -> Self {
        let mut totals = Self::default();
        for delivery in deliveries {
            totals.sent += 1;
            let verdicts = &mut totals.verdicts;
            let count = match delivery.expect {
                Expect::Refused(status) => {
                    *totals.refused.entry(status).or_default() += 1;
                    continue;
                }
                Expect::Accepted(Verdict::Applied) => &mut verdicts.applied,
                Expect::Accepted(Verdict::Duplicate) => &mut verdicts.duplicates,
                Expect::Accepted(Verdict::Stale) => &mut verdicts.stale,
                Expect::Accepted(Verdict::DeadLettered) => &mut verdicts.dead_lettered,
                Expect::Accepted(Verdict::Ignored) => &mut verdicts.ignored,
                Expect::Waits => {
                    totals.waited += 1;
                    &mut verdicts.applied
                }
            };
            *count += 1;
            totals.accepted += 1;
        }
        totals
    }

    /// All that are refused.
    #[must_use]
    pub fn refused_in_all(&self) -> usize {
        self.refused.values().sum()
    }
}
