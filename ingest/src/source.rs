//! The configured sources, prepared for requests.

use std::collections::HashMap;
use std::time::Duration;

use shared::config::{Config, SourceConfig};
use shared::selector::Selector;

use crate::error::SetupError;
use crate::extract::Plan;
use crate::metrics::SourceMetrics;
use crate::signature::Verifier;

/// One source.
pub(crate) struct Source {
    pub(crate) verifier: Verifier,
    pub(crate) plan: Plan,
    /// Whether its address ends in the connection: `/webhooks/{source}/{connection}`.
    pub(crate) connection_in_path: bool,
    pub(crate) deadline: Duration,
    pub(crate) metrics: SourceMetrics,
}

impl Source {
    fn new(name: &str, config: &SourceConfig) -> Result<Self, SetupError> {
        Ok(Self {
            verifier: Verifier::new(name, config)?,
            plan: Plan::new(name, config)?,
            connection_in_path: config.connection == Some(Selector::Path),
            deadline: config.deadline.0,
            metrics: SourceMetrics::new(name),
        })
    }
}

/// All sources, by name.
///
/// # Errors
/// The first thing that is wrong with one.
pub(crate) fn sources(config: &Config) -> Result<HashMap<String, Source>, SetupError> {
    config.sources.iter().map(|(name, source)| Ok((name.clone(), Source::new(name, source)?))).collect()
}
