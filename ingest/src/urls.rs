//! The addresses at which webhooks are received, to be given to their senders.

use std::fmt;

use shared::config::{Config, Registry, Secrets};
use shared::event::encode_source;
use shared::selector::Selector;

use crate::error::SetupError;

/// Where one sender sends its webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// The source.
    pub source: String,
    /// The connection; empty where one address serves them all.
    pub connection: String,
    /// The address.
    pub url: String,
}

/// The line that `ingest urls` prints: source, connection and address, separated by tabs.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\t{}\t{}", self.source, self.connection, self.url)
    }
}

/// The addresses of all sources, and of the connections of those that have them in the path; the registry's, too.
/// `base` is where senders reach ingest, such as `https://hooks.example.com`.
///
/// # Errors
/// A registry cannot be read.
pub fn urls(config: &Config, base: &str) -> Result<Vec<Address>, SetupError> {
    let mut found = Vec::new();
    for (name, source) in &config.sources {
        let address = |connection: String| {
            let url = format!("{}/webhooks/{}", base.trim_end_matches('/'), encode_source(name, &connection));
            Address { source: name.clone(), connection, url }
        };
        if source.connection != Some(Selector::Path) {
            found.push(address(String::new()));
            continue;
        }
        let registry = Registry::read(source, Secrets::None)
            .map_err(|error| SetupError::new(format!("sources.{name}.registry"), error.to_string()))?;
        found.extend(source.with(&registry).connections.into_keys().map(address));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn each_connection_has_its_address() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("connections.toml");
        std::fs::write(&file, "[globex]\nsecrets = [\"env:UNREAD\"]\n").unwrap();
        let text = format!(
            "[kafka]\nbootstrap_servers = \"k:1\"\n[sources.github]\nverify.github = {{}}\nsecrets = [\"env:UNREAD\"]\n\
             [sources.makini]\nverify.github = {{}}\nconnection = \"path\"\nregistry = \"{}\"\n\
             [sources.makini.connections.\"a/ü\"]\nsecrets = [\"env:UNREAD\"]\n",
            file.display()
        );
        let config = Config::parse(&text, Path::new("hookline.toml"), Secrets::None).unwrap();
        let all: Vec<_> = urls(&config, "https://h.example/").unwrap().into_iter().map(|a| a.url).collect();
        let wanted = ["github", "makini/a%2F%C3%BC", "makini/globex"];
        assert_eq!(all, wanted.map(|path| format!("https://h.example/webhooks/{path}")));
        let printed = urls(&config, "https://h.example").unwrap().pop().unwrap().to_string();
        assert_eq!(printed, "makini\tglobex\thttps://h.example/webhooks/makini/globex");
    }
}
