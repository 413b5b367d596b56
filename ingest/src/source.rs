//! The configured sources, prepared for requests.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use shared::config::{Config, Secrets, SourceConfig, type_matches};
use shared::poll::PollRequest;
use shared::selector::Selector;
use shared::series::Series;

use crate::append::Log;
use crate::error::SetupError;
use crate::extract::{Extracted, Plan};
use crate::metrics::{LastEvents, SourceMetrics};
use crate::registry::Watched;
use crate::signature::Verifier;

/// One source.
pub(crate) struct Source {
    /// Replaced when the registry has other secrets.
    pub(crate) verifier: ArcSwap<Verifier>,
    pub(crate) plan: Plan,
    /// Whether its address ends in the connection: `/webhooks/{source}/{connection}`.
    pub(crate) connection_in_path: bool,
    pub(crate) deadline: Duration,
    pub(crate) metrics: SourceMetrics,
    /// Types of events, and the resource that is to be polled after one of them.
    triggers: Vec<(String, String)>,
    /// Only where it is configured.
    last_events: Option<LastEvents>,
}

impl Source {
    fn new(name: &str, config: &SourceConfig, series: Option<&Arc<Series>>) -> Result<Self, SetupError> {
        let resources = config.poll.iter().flat_map(|poll| &poll.resources);
        let triggers =
            resources.flat_map(|(name, r)| r.triggers.iter().map(|kind| (kind.clone(), name.clone())));
        Ok(Self {
            verifier: ArcSwap::from_pointee(Verifier::new(name, config)?),
            plan: Plan::new(name, config)?,
            connection_in_path: config.connection == Some(Selector::Path),
            deadline: config.deadline.0,
            metrics: SourceMetrics::new(name),
            triggers: triggers.collect(),
            last_events: series
                .filter(|_| config.connection.is_some())
                .map(|series| LastEvents::new(name, series)),
        })
    }

    /// These events are in the log.
    pub(crate) fn appended(&self, log: &Log, events: &Extracted) {
        let number = events.events().len();
        self.metrics.events.increment(number as u64);
        if let Some(last_events) = &self.last_events {
            let connections = events.events().iter().map(|(event, _)| &event.connection);
            connections.filter(|name| !name.is_empty()).for_each(|name| last_events.heard(name));
        }
        self.ask_for_polls(log, events);
    }

    /// Asks for the polls that these events are the reason for.
    fn ask_for_polls(&self, log: &Log, events: &Extracted) {
        if self.triggers.is_empty() {
            return;
        }
        for (event, _) in events.events() {
            for (_, resource) in self.triggers.iter().filter(|(kind, _)| type_matches(kind, &event.kind)) {
                log.ask(&PollRequest {
                    source: event.source.clone(),
                    connection: event.connection.clone(),
                    resource: Some(resource.clone()),
                    entity: None,
                    by: "ingest".to_owned(),
                    why: format!("event {} of type {}", event.id, event.kind),
                    time: event.time.clone(),
                });
            }
        }
    }
}

/// All sources, by name, and those that have a registry.
///
/// # Errors
/// The first thing that is wrong with one.
pub(crate) fn sources(config: &Config) -> Result<(HashMap<String, Source>, Vec<Watched>), SetupError> {
    let (mut sources, mut registries) = (HashMap::new(), Vec::new());
    let series = config.ingest.metrics_per_connection.then(crate::metrics::series);
    for (name, source) in &config.sources {
        if source.registry.is_some() {
            let watched = Watched::new(name, source, Secrets::Sources)?;
            sources.insert(name.clone(), Source::new(name, &watched.merged(), series.as_ref())?);
            registries.push(watched);
        } else {
            sources.insert(name.clone(), Source::new(name, source, series.as_ref())?);
        }
    }
    Ok((sources, registries))
}
