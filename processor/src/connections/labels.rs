//! What people call connections by: the labels in the configuration and in registries.

use std::collections::BTreeMap;

use shared::config::{Config, Registry, Secrets};

/// The labels of all connections, as they were when they were read.
#[derive(Clone, Debug, Default)]
pub struct Labels(BTreeMap<String, BTreeMap<String, BTreeMap<String, String>>>);

impl Labels {
    /// Reads them, of every source. A registry that cannot be read is told to the log, and its connections have none.
    #[must_use]
    pub fn read(config: &Config) -> Self {
        let of_source = |(name, source): (&String, &shared::config::SourceConfig)| {
            let registry = Registry::read(source, Secrets::None).unwrap_or_else(|error| {
                tracing::warn!(source = name, %error, "labels of connections cannot be read");
                Registry::default()
            });
            let all = source.connections.iter().chain(&registry.connections);
            (name.clone(), all.map(|(id, connection)| (id.clone(), connection.labels.clone())).collect())
        };
        Self(config.sources.iter().map(of_source).collect())
    }

    /// Those of one connection.
    #[must_use]
    pub fn of(&self, source: &str, connection: &str) -> BTreeMap<String, String> {
        let labels = self.0.get(source).and_then(|connections| connections.get(connection));
        labels.cloned().unwrap_or_default()
    }
}
