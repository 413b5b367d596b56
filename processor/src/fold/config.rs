//! The part of the configuration that the fold's outcome depends on. It is itself a record of the log, in
//! force from its offset: a replay decides as the first run did.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::config::{Config, GapPolicy, OrderConfig, PipelineConfig, type_matches};

/// The version of this fold. It rises when the same records would be decided otherwise; each record is decided by the
/// version in force where it stands, so that a program goes on knowing the earlier ones.
const FOLD_VERSION: u32 = 1;

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
                (name.clone(), SourceFold { rules: rules.collect(), order: order(&source.order) })
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
