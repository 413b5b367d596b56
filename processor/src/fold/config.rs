//! The part of the configuration that the fold's outcome depends on. It is itself a record of the log, in
//! force from its offset: a replay decides as the first run did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::config::{Config, GapPolicy, OrderConfig, PipelineConfig, type_matches};

use super::entity::Held;

/// The version of this fold. It rises when the same records would be decided otherwise; each record is decided by the
/// version in force where it stands, so that a program goes on knowing the earlier ones.
///
/// 1: webhooks, `gap-expired`. 2: snapshots, `gap-skip`, and gap policies other than `skip`.
const FOLD_VERSION: u32 = 2;

/// The version from which on there are snapshots, `gap-skip` and parked gaps.
const SNAPSHOTS_SINCE: u32 = 2;

/// The newest version that this program folds by.
#[must_use]
pub fn fold_version() -> u32 {
    FOLD_VERSION + crate::failpoint::later_fold()
}

/// What the fold's outcome depends on besides the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoldConfig {
    /// The fold that it is for; a program without that version stops.
    pub version: u32,
    /// How long ids are remembered, in stream time.
    pub window_ms: i64,
    /// Events that one entity may have held.
    pub held_events_max: u32,
    /// Bytes that one entity's held events may take.
    pub held_bytes_max: u64,
    /// The sources that this pipeline takes, by name. Others are ignored.
    pub sources: BTreeMap<String, SourceFold>,
}

/// What the fold knows of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceFold {
    /// Exceptions by event type; the first that matches counts.
    pub rules: Vec<RuleFold>,
    /// For all other types.
    pub order: Order,
}

/// An exception by event type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RuleFold {
    /// Types, exact or with `*` at the end.
    pub types: Vec<String>,
    /// `None`: ignored.
    pub order: Option<Order>,
}

/// How events of one entity are ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they arrive.
    Arrival,
    /// By a contiguous number.
    Sequence {
        /// An entity's first number; `None`: the smallest that arrives within the wait.
        start: Option<u64>,
        /// How long a gap is waited for.
        gap_wait_ms: i64,
        /// What happens then.
        gap_policy: GapPolicy,
    },
    /// By a rising version.
    Version,
}

impl SourceFold {
    /// The same, for events of some types; the others are ignored.
    fn only(&self, types: &[String]) -> Self {
        let both = |rule: &RuleFold| RuleFold {
            types: types.iter().flat_map(|t| rule.types.iter().filter_map(move |u| both(t, u))).collect(),
            order: rule.order.clone(),
        };
        let mut rules: Vec<RuleFold> = self.rules.iter().map(both).collect();
        rules.push(RuleFold { types: types.to_owned(), order: Some(self.order.clone()) });
        rules.push(RuleFold { types: vec!["*".to_owned()], order: None });
        Self { rules, order: self.order.clone() }
    }
}

/// The pattern of the types that match both of two: the narrower, if there are any.
fn both(one: &str, other: &str) -> Option<String> {
    let narrower = [(one, other), (other, one)].into_iter().find(|(wide, narrow)| type_matches(wide, narrow));
    narrower.map(|(_, narrow)| narrow.to_owned())
}

impl FoldConfig {
    /// The fold's part of a pipeline's configuration.
    #[must_use]
    pub fn of(config: &Config, pipeline: &PipelineConfig) -> Self {
        let sources = config
            .sources
            .iter()
            .filter(|(name, _)| pipeline.takes(name))
            .map(|(name, source)| {
                let rules = source.rules.iter().map(|rule| RuleFold {
                    types: rule.types.clone(),
                    order: (!rule.ignore).then(|| order(rule.order.as_ref().unwrap_or(&source.order))),
                });
                let all = SourceFold { rules: rules.collect(), order: order(&source.order) };
                (name.clone(), pipeline.types.as_ref().map_or_else(|| all.clone(), |types| all.only(types)))
            })
            .collect();
        Self {
            version: fold_version(),
            window_ms: pipeline.fold.window.as_ms(),
            held_events_max: pipeline.fold.held_events_max,
            held_bytes_max: pipeline.fold.held_bytes_max.0,
            sources,
        }
    }

    /// How an event is ordered; `None`: it is ignored.
    #[must_use]
    pub fn order_of(&self, source: &str, kind: &str) -> Option<&Order> {
        let source = self.sources.get(source)?;
        let rule = source.rules.iter().find(|rule| rule.types.iter().any(|t| type_matches(t, kind)));
        rule.map_or(Some(&source.order), |rule| rule.order.as_ref())
    }

    /// Whether snapshots are more than webhooks, and operators' skips are obeyed.
    #[must_use]
    pub fn knows_snapshots(&self) -> bool {
        self.version >= SNAPSHOTS_SINCE
    }

    /// What happens to the gap that a held event waits for. Where its type is ordered otherwise by now: `skip`.
    #[must_use]
    pub fn gap_policy_of(&self, held: &Held) -> GapPolicy {
        let event = held.frame.event().ok();
        match event.and_then(|event| self.order_of(event.source, event.kind)) {
            Some(Order::Sequence { gap_policy, .. }) if self.knows_snapshots() => *gap_policy,
            Some(Order::Sequence { .. } | Order::Arrival | Order::Version) | None => GapPolicy::Skip,
        }
    }

    /// Half of the longest wait of the gaps that the poller is asked to fill; `None` where it is never asked.
    #[must_use]
    pub fn asks_ahead_ms(&self) -> Option<i64> {
        let orders = self.sources.values().flat_map(|source| {
            source.rules.iter().filter_map(|rule| rule.order.as_ref()).chain([&source.order])
        });
        let waits = orders.filter_map(|order| match order {
            Order::Sequence { gap_wait_ms, gap_policy, .. } if gap_policy.asks() => Some(gap_wait_ms / 2),
            Order::Sequence { .. } | Order::Arrival | Order::Version => None,
        });
        waits.max().filter(|_| self.knows_snapshots())
    }
}

fn order(config: &OrderConfig) -> Order {
    match config {
        OrderConfig::Arrival => Order::Arrival,
        OrderConfig::Version(_) => Order::Version,
        OrderConfig::Sequence(s) => {
            Order::Sequence { start: s.start, gap_wait_ms: s.gap_wait.as_ms(), gap_policy: s.gap_policy }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_source_only_some_types_are_left_each_in_its_order() {
        let rule = |types: &[&str], order| RuleFold {
            types: types.iter().map(|t| (*t).to_owned()).collect(),
            order,
        };
        let source = SourceFold {
            rules: vec![
                rule(&["order.noise"], None),
                rule(&["order.*", "sync"], Some(Order::Version)),
                rule(&["user.*"], Some(Order::Arrival)),
            ],
            order: Order::Sequence { start: None, gap_wait_ms: 1, gap_policy: GapPolicy::Skip },
        };
        let types = ["order.*", "ping", "user.created", "stock*"].map(str::to_owned);
        let config = |source| FoldConfig {
            version: fold_version(),
            window_ms: 1,
            held_events_max: 1,
            held_bytes_max: 1,
            sources: BTreeMap::from([("shop".to_owned(), source)]),
        };
        let (all, some) = (config(source.clone()), config(source.only(&types)));
        for kind in ["order.noise", "order.", "order.made", "user.created", "ping", "stock", "stock.low"] {
            assert_eq!(some.order_of("shop", kind), all.order_of("shop", kind), "{kind}");
        }
        for kind in ["sync", "user.gone", "user.created.twice", "pin", "pings", "sto", "order"] {
            assert_eq!(some.order_of("shop", kind), None, "{kind}");
        }
    }
}
