//! Keeps up with the registries: connections that come, go, or get other secrets and tokens, without a restart.

use std::sync::Arc;
use std::time::Duration;

use shared::config::{Registry, Secrets, SourceConfig};

use crate::error::SetupError;
use crate::http::App;
use crate::signature::Verifier;

/// How often a registry is read.
const EVERY: Duration = Duration::from_secs(2);

/// A source with a registry, as it was read last.
pub(crate) struct Watched {
    pub(crate) name: String,
    /// The source as the configuration has it, without the registry's connections.
    source: SourceConfig,
    secrets: Secrets<'static>,
    registry: Registry,
    /// Of what was read last, with the connections that could not be used.
    digest: [u8; 32],
    /// Why the registry as a whole could not be read, if it is so.
    unreadable: Option<String>,
    problems: metrics::Gauge,
}

impl Watched {
    /// Reads a source's registry for the first time. Connections that cannot be used are told of, and left out.
    ///
    /// # Errors
    /// The registry cannot be read.
    pub(crate) fn new(
        name: &str,
        source: &SourceConfig,
        secrets: Secrets<'static>,
    ) -> Result<Self, SetupError> {
        let registry = Registry::read(source, secrets)
            .map_err(|error| SetupError::new(format!("sources.{name}.registry"), error.to_string()))?;
        let problems = crate::metrics::registry_problems(name);
        let digest = registry.digest();
        let watched = Self {
            name: name.to_owned(),
            source: source.clone(),
            secrets,
            registry,
            digest,
            unreadable: None,
            problems,
        };
        watched.tell();
        Ok(watched)
    }

    /// The source with all its connections.
    pub(crate) fn merged(&self) -> SourceConfig {
        self.source.with(&self.registry)
    }

    /// That every connection can be used.
    ///
    /// # Errors
    /// One cannot.
    pub(crate) fn check(&self) -> Result<(), SetupError> {
        let Some((_, problem)) = self.registry.problems.first_key_value() else { return Ok(()) };
        Err(SetupError::new(format!("sources.{}.registry", self.name), problem.clone()))
    }

    /// Reads again: true where something changed. What cannot be used any more stays as it was.
    pub(crate) fn changed(&mut self) -> bool {
        let mut registry = match Registry::read(&self.source, self.secrets) {
            Ok(registry) => registry,
            Err(error) => {
                let error = error.to_string();
                if self.unreadable.as_ref() != Some(&error) {
                    let source = &self.name;
                    tracing::error!(
                        source,
                        error,
                        "the registry cannot be read; connections stay as they were"
                    );
                    self.problems.set(1.0);
                    self.unreadable = Some(error);
                }
                return false;
            }
        };
        let is_healed = self.unreadable.take().is_some();
        let digest = registry.digest();
        if digest == self.digest && !is_healed {
            return false;
        }
        registry.keep(&self.registry);
        self.registry = registry;
        self.digest = digest;
        self.tell();
        true
    }

    fn tell(&self) {
        let (source, registry) = (&self.name, &self.registry);
        for (connection, problem) in &registry.problems {
            let kept = registry.connections.contains_key(connection);
            tracing::error!(source, connection, problem, kept, "a connection of the registry cannot be used");
        }
        #[allow(
            clippy::cast_precision_loss,
            reason = "a gauge is a float; connections are far fewer than 2^53"
        )]
        self.problems.set(registry.problems.len() as f64);
        tracing::info!(source, connections = registry.connections.len(), "registry read");
    }
}

/// Reads the registries again and again, until the runtime ends, and puts other secrets in force.
pub(crate) fn watch(registries: Vec<Watched>, app: Arc<App>) {
    for watched in registries {
        let app = Arc::clone(&app);
        tokio::spawn(follow(watched, move |watched| {
            let Some(source) = app.sources.get(&watched.name) else { return };
            match Verifier::new(&watched.name, &watched.merged()) {
                Ok(verifier) => source.verifier.store(Arc::new(verifier)),
                Err(error) => {
                    tracing::error!(source = watched.name, %error, "secrets stay as they were");
                }
            }
        }));
    }
}

/// Calls `each` whenever a registry has changed; for ever.
pub(crate) async fn follow(mut watched: Watched, each: impl Fn(&Watched)) {
    loop {
        tokio::time::sleep(EVERY).await;
        let read = tokio::task::spawn_blocking(move || {
            let changed = watched.changed();
            (watched, changed)
        });
        // Fails only as the runtime ends.
        let Ok((back, changed)) = read.await else { return };
        watched = back;
        if changed {
            each(&watched);
        }
    }
}
