//! Where each connection's webhooks go, as `ingest urls` prints it and as a provider is told it: a line for each, with
//! source, connection and address, separated by tabs.

use std::collections::BTreeMap;

/// The addresses of one source's connections, by connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls(pub(crate) BTreeMap<String, String>);

/// Why addresses cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlsError {
    /// A line is not one of `ingest urls`.
    #[error(
        "{place}:{line}: {what}; a line of `ingest urls` has source, connection and address, separated by tabs"
    )]
    Line {
        /// The file.
        place: String,
        /// The line, from 1.
        line: usize,
        /// What is wrong with it.
        what: String,
    },
    /// The provider has connections that no line is for.
    #[error(
        "{place}: no address for {connections} of source {name:?}: give --connections those that are in hookline.toml or \
         its registry, or add these there"
    )]
    Missing {
        /// The file.
        place: String,
        /// The source.
        name: String,
        /// Their ids.
        connections: String,
    },
}

impl Urls {
    /// Reads what `ingest urls` has printed; `place` is what errors call it. Lines of other sources, and of connections
    /// that the provider does not have, are left to others.
    ///
    /// # Errors
    /// A line cannot be read, or a connection has none.
    pub fn parse(text: &str, place: &str, source: &str, connections: &[String]) -> Result<Self, UrlsError> {
        let mut urls = BTreeMap::new();
        for (line, text) in (1..).zip(text.lines()) {
            let (of, connection, url) =
                fields(text).map_err(|what| UrlsError::Line { place: place.to_owned(), line, what })?;
            let wrong = |what: String| Err(UrlsError::Line { place: place.to_owned(), line, what });
            if of != source {
                continue;
            }
            if connection.is_empty() {
                return wrong(format!(
                    "source {source:?} has one address for all connections, not one for each"
                ));
            }
            if urls.insert(connection.to_owned(), url.to_owned()).is_some() {
                return wrong(format!("connection {connection:?} has an address already"));
            }
        }
        let missing: Vec<String> =
            connections.iter().filter(|id| !urls.contains_key(*id)).map(|id| format!("{id:?}")).collect();
        if missing.is_empty() {
            return Ok(Self(urls));
        }
        Err(UrlsError::Missing {
            place: place.to_owned(),
            name: source.to_owned(),
            connections: missing.join(", "),
        })
    }
}

/// Source, connection and address of a line.
fn fields(line: &str) -> Result<(&str, &str, &str), String> {
    let fields: Vec<&str> = line.split('\t').collect();
    let [source, connection, url] = fields.as_slice() else {
        return Err(format!("{} fields and not three", fields.len()));
    };
    if source.is_empty() {
        return Err("no source".to_owned());
    }
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let is_address = rest.and_then(|rest| rest.split_once('/')).is_some_and(|(host, path)| {
        !host.is_empty() && !path.is_empty() && !rest.is_some_and(|rest| rest.contains(char::is_whitespace))
    });
    if !is_address {
        return Err(format!("{url:?} is no address such as https://host/webhooks/{source}/ID"));
    }
    Ok((source, connection, url))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Urls, String> {
        let connections = ["acme", "globex"].map(str::to_owned);
        Urls::parse(text, "urls.txt", "makini", &connections).map_err(|error| error.to_string())
    }

    const ACME: &str = "makini\tacme\thttps://hooks.example/a/webhooks/makini/acme\n";
    const GLOBEX: &str = "makini\tglobex\thttp://127.0.0.1:8080/webhooks/makini/globex\n";

    #[test]
    fn each_connection_has_the_address_of_its_line() {
        let more = "github\t\thttps://hooks.example/webhooks/github\nmakini\tother\thttp://h/webhooks/makini/other\n";
        let Urls(urls) = parse(&format!("{more}{ACME}{GLOBEX}")).unwrap();
        assert_eq!(urls["acme"], "https://hooks.example/a/webhooks/makini/acme");
        assert_eq!(urls["globex"], "http://127.0.0.1:8080/webhooks/makini/globex");
    }

    #[test]
    fn what_cannot_be_read_is_named_with_its_line() {
        for (line, expected) in [
            ("", "urls.txt:2: 1 fields and not three; a line of `ingest urls` has"),
            ("makini acme https://h/w", "urls.txt:2: 1 fields and not three"),
            ("makini\tglobex\thttps://h/w\tmore", "urls.txt:2: 4 fields and not three"),
            ("\tglobex\thttps://h/w", "urls.txt:2: no source"),
            ("makini\tglobex\thooks.example/w", "urls.txt:2: \"hooks.example/w\" is no address such as"),
            ("makini\tglobex\thttps://hooks.example", "is no address"),
            ("makini\tglobex\thttps:///w", "is no address"),
            ("github\t\tftp://h/w", "is no address such as https://host/webhooks/github/ID"),
            ("makini\t\thttps://h/w", "urls.txt:2: source \"makini\" has one address for all"),
            ("makini\tacme\thttps://h/w", "urls.txt:2: connection \"acme\" has an address already"),
        ] {
            let error = parse(&format!("{ACME}{line}\n{GLOBEX}")).unwrap_err();
            assert!(error.contains(expected), "{line:?}: {error}");
        }
    }

    #[test]
    fn connections_without_an_address_are_named() {
        let error = parse(ACME).unwrap_err();
        assert!(error.starts_with("urls.txt: no address for \"globex\" of source \"makini\""), "{error}");
        assert!(parse("").unwrap_err().contains("\"acme\", \"globex\""));
    }
}
