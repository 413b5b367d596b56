//! `sources.NAME.registry`: connections in files of their own, read again when they change.
//!
//! One file, or a directory whose files end in `.toml` (others are left alone, and so is what begins with a dot, as
//! Kubernetes' own links do). A file has a table for each connection: `[acme]` with `secrets`, `token`, `labels`.
//! Nothing here watches or keeps anything: who needs the registry reads it again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use super::source::{ConnectionConfig, Secret, SourceConfig, check_connection_id, read_all};
use super::{ConfigError, Places, Secrets};

/// Connections that one registry may have.
pub const CONNECTIONS_MAX: usize = 100_000;
/// Bytes of one of its files.
const FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// What a registry has.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    /// The connections, by id.
    pub connections: BTreeMap<String, ConnectionConfig>,
    /// Those that cannot be used, by id, and why: a token's file that is missing or half written, for instance.
    pub problems: BTreeMap<String, String>,
}

impl Registry {
    /// Reads a source's registry, and the secrets that it refers to; empty where the source has none.
    ///
    /// # Errors
    /// A file cannot be read, or is not what it must be: then nothing is known of its connections.
    pub fn read(source: &SourceConfig, secrets: Secrets<'_>) -> Result<Self, ConfigError> {
        let mut registry = Self::default();
        let mut places: BTreeMap<String, PathBuf> = BTreeMap::new();
        for file in source.registry.as_deref().map(files).transpose()?.unwrap_or_default() {
            let text = read_file(&file)?;
            let at = Places { text: &text, path: file.clone() };
            for (id, connection) in parse(&at)? {
                if let Some(other) = places.insert(id.clone(), file.clone()) {
                    let message = format!("stands in {}, too; leave one of them", other.display());
                    return Err(at.error(None, &id, &message));
                }
                registry.add(&at, source, id, connection, secrets)?;
            }
        }
        if places.len() > CONNECTIONS_MAX {
            let path = source.registry.clone().unwrap_or_default();
            let message = format!("has {} connections; at most {CONNECTIONS_MAX} are taken", places.len());
            return Err(unplaced(&path, message));
        }
        Ok(registry)
    }

    fn add(
        &mut self,
        at: &Places<'_>,
        source: &SourceConfig,
        id: String,
        mut connection: ConnectionConfig,
        secrets: Secrets<'_>,
    ) -> Result<(), ConfigError> {
        check_connection_id(at, &id, &id)?;
        if source.connections.contains_key(&id) {
            let message = "stands in the configuration itself, too; leave one of them";
            return Err(at.error(None, &id, message));
        }
        if connection.secrets.is_empty() == source.secrets.is_empty() {
            let message = if source.secrets.is_empty() {
                "needs at least one secret, by which its webhooks are signed"
            } else {
                "must not be there beside the source's own `secrets`, which sign for all its connections"
            };
            return Err(at.error(None, &format!("{id}.secrets"), message));
        }
        match connection.read_secrets(at, &id, secrets) {
            Ok(()) => drop(self.connections.insert(id, connection)),
            Err(error) => drop(self.problems.insert(id, error.to_string())),
        }
        Ok(())
    }

    /// Takes from an earlier reading the connections that cannot be used now.
    pub fn keep(&mut self, earlier: &Self) {
        for id in self.problems.keys() {
            if let Some(connection) = earlier.connections.get(id) {
                self.connections.insert(id.clone(), connection.clone());
            }
        }
    }

    /// A hash of everything that was read, by which a change is known.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        let mut add = |text: &str| {
            hash.update(text.len().to_be_bytes());
            hash.update(text);
        };
        for (id, connection) in &self.connections {
            add(id);
            for secret in connection.secret_values.iter().chain(&connection.token_value) {
                add(&secret.key_id);
                add(secret.value.expose_secret());
            }
            for (name, value) in &connection.labels {
                add(name);
                add(value);
            }
        }
        for (id, problem) in &self.problems {
            add(id);
            add(problem);
        }
        hash.finalize().into()
    }
}

impl SourceConfig {
    /// The source with the connections of its registry among its own.
    #[must_use]
    pub fn with(&self, registry: &Registry) -> Self {
        let mut all = self.clone();
        all.connections.extend(registry.connections.clone());
        all
    }
}

impl ConnectionConfig {
    /// Reads what a program needs of a connection.
    pub(super) fn read_secrets(
        &mut self,
        at: &Places<'_>,
        key: &str,
        secrets: Secrets<'_>,
    ) -> Result<(), ConfigError> {
        if matches!(secrets, Secrets::Sources | Secrets::All) {
            self.secret_values = read_all(at, &format!("{key}.secrets"), &self.secrets)?;
        }
        if matches!(secrets, Secrets::Tokens | Secrets::All) {
            let token: Vec<Secret> = read_all(at, &format!("{key}.token"), self.token.as_slice())?;
            self.token_value = token.into_iter().next();
        }
        Ok(())
    }
}

/// The registry's files, by name.
fn files(path: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let fail = |error: std::io::Error| unplaced(path, format!("the registry cannot be read: {error}"));
    if !std::fs::metadata(path).map_err(fail)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.ends_with(".toml") && !name.starts_with('.') {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let fail = |error: std::io::Error| unplaced(path, format!("cannot be read: {error}"));
    let bytes = std::fs::metadata(path).map_err(fail)?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(unplaced(path, format!("has {bytes} bytes; at most {FILE_BYTES_MAX} are taken")));
    }
    std::fs::read_to_string(path).map_err(fail)
}

fn parse(at: &Places<'_>) -> Result<BTreeMap<String, ConnectionConfig>, ConfigError> {
    let de = toml::Deserializer::parse(at.text).map_err(|e| at.error(e.span(), "", e.message()))?;
    serde_path_to_error::deserialize(de).map_err(|e| {
        let key = e.path().to_string();
        at.error(e.inner().span(), if key == "." { "" } else { &key }, e.inner().message())
    })
}

fn unplaced(path: &Path, message: String) -> ConfigError {
    ConfigError { place: path.display().to_string(), message }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// A source with a registry of these files, beside which `token` is.
    fn registry(files: &[(&str, &str)]) -> (tempfile::TempDir, SourceConfig) {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("secret"), "s3cret\n").unwrap();
        fs::write(dir.path().join("token"), "t0ken\n").unwrap();
        let place = dir.path().join("registry");
        fs::create_dir(&place).unwrap();
        for (name, text) in files {
            fs::write(place.join(name), text.replace("DIR", &dir.path().display().to_string())).unwrap();
        }
        let text = format!("verify.github = {{}}\nconnection = \"path\"\nregistry = \"{}\"", place.display());
        (dir, toml::from_str(&text).unwrap())
    }

    const ACME: &str = "[acme]\nsecrets = [\"file:DIR/secret\"]\ntoken = \"file:DIR/token\"\nlabels = { customer = \"ACME\" }\n";

    #[test]
    fn a_directory_has_a_table_for_each_connection() {
        let globex = ACME.replace("[acme]", "[globex]");
        let files = [("a.toml", ACME), ("b.toml", &globex), (".c.toml", "garbage"), ("notes.txt", "garbage")];
        let (_dir, source) = registry(&files);
        let read = Registry::read(&source, Secrets::All).unwrap();
        assert_eq!(read.connections.keys().collect::<Vec<_>>(), ["acme", "globex"]);
        let acme = &read.connections["acme"];
        assert_eq!(acme.secret_values[0].value.expose_secret(), "s3cret");
        assert_eq!(acme.token_value.as_ref().unwrap().value.expose_secret(), "t0ken");
        assert_eq!(acme.labels["customer"], "ACME");
        assert_eq!(source.with(&read).connections.len(), 2);
        let poller = Registry::read(&source, Secrets::Tokens).unwrap();
        assert!(poller.connections["acme"].secret_values.is_empty());
    }

    #[test]
    fn a_connection_that_cannot_be_used_is_named_and_kept_as_it_was() {
        let (dir, source) = registry(&[("a.toml", ACME)]);
        let before = Registry::read(&source, Secrets::All).unwrap();
        fs::write(dir.path().join("token"), "").unwrap();
        let mut after = Registry::read(&source, Secrets::All).unwrap();
        assert!(after.connections.is_empty());
        assert!(after.problems["acme"].contains("token is empty"), "{:?}", after.problems);
        assert_ne!(before.digest(), after.digest());
        after.keep(&before);
        assert_eq!(after.connections["acme"].token_value.as_ref().unwrap().value.expose_secret(), "t0ken");
        fs::write(dir.path().join("token"), "new\n").unwrap();
        let healed = Registry::read(&source, Secrets::All).unwrap();
        assert_ne!(before.digest(), healed.digest());
    }

    #[test]
    fn what_is_wrong_is_said_with_its_place() {
        for (files, place, message) in [
            (&[("a.toml", ACME), ("b.toml", ACME)][..], "b.toml:1: acme", "a.toml, too"),
            (&[("a.toml", "[acme]\nsecret = 1\n")], "a.toml:2: acme", "unknown field `secret`"),
            (&[("a.toml", "[acme]\n")], "a.toml:1: acme.secrets", "at least one secret"),
            (&[("a.toml", "[acme\n")], "a.toml:1", "unclosed table"),
        ] {
            let (_dir, source) = registry(files);
            let error = Registry::read(&source, Secrets::All).unwrap_err().to_string();
            assert!(error.contains(place) && error.contains(message), "{error}");
        }
        let (dir, source) = registry(&[]);
        drop(dir);
        let error = Registry::read(&source, Secrets::All).unwrap_err().to_string();
        assert!(error.contains("the registry cannot be read"), "{error}");
    }
}
