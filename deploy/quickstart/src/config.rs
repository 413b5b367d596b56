//! The configuration of the quickstart: a `hookline.toml` as anybody would write it, in a directory of its own,
//! with the secrets in files beside it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use sandbox::sources;
use shared::config::{Broker, Config, Secrets};

/// The pipeline's name.
pub(crate) const PIPELINE: &str = "quickstart";
/// Partitions of the event log. The embedded broker holds about 5 MiB in each.
pub(crate) const PARTITIONS: u32 = 8;
/// The largest body that ingest takes.
pub(crate) const BODY_LIMIT: usize = 64 * 1024;
/// How long a missing number is waited for.
pub(crate) const GAP_WAIT: Duration = sources::GAP_WAIT;

/// Where everything of a run lies.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    pub(crate) dir: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) database: PathBuf,
    pub(crate) log: PathBuf,
    /// The connections of a scenario's provider.
    pub(crate) registry: PathBuf,
}

/// What the configuration says of the senders.
pub(crate) struct Sources {
    /// The tables `[sources…]`.
    pub(crate) tables: String,
    /// More of the pipeline's table.
    pub(crate) of_pipeline: String,
    /// The secrets that are referred to by file.
    pub(crate) secrets: Vec<sources::Secret>,
}

impl Sources {
    /// Those of the trial.
    pub(crate) fn of_trial(files: &Files) -> Self {
        let reference = |secret| format!("file:{}", secret_file(files, secret).display());
        Self {
            tables: sources::config_toml(GAP_WAIT, reference),
            of_pipeline: String::new(),
            secrets: sources::secrets().to_vec(),
        }
    }
}

impl Files {
    pub(crate) fn in_dir(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            config: dir.join("hookline.toml"),
            database: dir.join("hookline.db"),
            log: dir.join("hookline.log"),
            registry: dir.join("connections"),
        }
    }
}

/// Writes the configuration and the secrets, and reads them as the programs do.
pub(crate) fn write(files: &Files, bootstrap_servers: &str, sources: &Sources) -> anyhow::Result<Config> {
    let text = text(files, bootstrap_servers, sources);
    for secret in &sources.secrets {
        let path = secret_file(files, *secret);
        std::fs::write(&path, secret.value).with_context(|| format!("cannot write {}", path.display()))?;
    }
    std::fs::write(&files.config, &text)
        .with_context(|| format!("cannot write {}", files.config.display()))?;
    let mut config = Config::parse(&text, &files.config, Secrets::All)?;
    // The one thing that no file can say: the broker behind the address lives in this process.
    config.kafka.broker = Broker::Embedded;
    Ok(config)
}

fn text(files: &Files, bootstrap_servers: &str, sources: &Sources) -> String {
    let Sources { tables, of_pipeline, .. } = sources;
    format!(
        r#"# Written by the quickstart. deploy/hookline.example.toml shows every key.

[kafka]
bootstrap_servers = "{bootstrap_servers}"   # gone when the quickstart ends

[log]
partitions = {PARTITIONS}
replication_factor = 1
min_insync_replicas = 1

[ingest]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
poll_admin_listen = "127.0.0.1:0"
body_limit = "{BODY_LIMIT}B"

{tables}
[pipelines.{PIPELINE}]
state_dir = {}
instance = "quickstart-0"
admin_listen = "127.0.0.1:0"
sink.sqlite = {{ path = {} }}
{of_pipeline}"#,
        quoted(&files.dir.join("state")),
        quoted(&files.database),
    )
}

fn secret_file(files: &Files, secret: sources::Secret) -> PathBuf {
    files.dir.join(format!("{}.secret", secret.name))
}

/// A path as a TOML string: JSON's escapes are TOML's too.
fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.display().to_string()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sandboxs_configuration_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::in_dir(dir.path());
        let config = write(&files, "127.0.0.1:1", &Sources::of_trial(&files)).unwrap();
        assert_eq!(config.ingest.body_limit.as_len(), BODY_LIMIT);
        assert_eq!(config.sources.keys().collect::<Vec<_>>(), [sources::GITHUB, sources::MAKINI]);
        let makini = &config.sources[sources::MAKINI];
        assert!(makini.rule("ping").is_some_and(|rule| rule.ignore));
        assert!(makini.rule("connection.online").is_some_and(|rule| !rule.ignore));
        assert_eq!(makini.connections.len(), sources::CONNECTIONS.len());
    }
}
