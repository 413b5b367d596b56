//! `[sources.NAME.status]`: which events tell how a connection is. What the provider calls things is said here, and
//! nowhere in code. And the table that a database sink keeps of it.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::source::type_matches;
use super::{ConfigError, Places, SourceConfig, TablesConfig};
use crate::selector::Selector;

/// How a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConnectionStatus {
    /// All is well.
    Active,
    /// It works in part, or slowly.
    Degraded,
    /// The customer has to log in again.
    ReauthorizationNeeded,
    /// It does not work now.
    Offline,
    /// The customer ended it.
    Revoked,
}

impl ConnectionStatus {
    /// All of them, the best first.
    pub const ALL: [Self; 5] =
        [Self::Active, Self::Degraded, Self::ReauthorizationNeeded, Self::Offline, Self::Revoked];

    /// As configuration, records and metrics call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Degraded => "degraded",
            Self::ReauthorizationNeeded => "reauthorization_needed",
            Self::Offline => "offline",
            Self::Revoked => "revoked",
        }
    }
}

impl fmt::Display for ConnectionStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl std::str::FromStr for ConnectionStatus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no status of a connection; there are {known}")
        })
    }
}

/// Which events of a source tell how a connection is: by their types, or by a value in their body.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StatusConfig {
    /// Types of events that tell that all is well, exact or with `*` at the end; with `at`: values.
    pub active: Vec<Spanned<String>>,
    /// Likewise: it works in part.
    pub degraded: Vec<Spanned<String>>,
    /// Likewise: the customer has to log in again.
    pub reauthorization_needed: Vec<Spanned<String>>,
    /// Likewise: it does not work now.
    pub offline: Vec<Spanned<String>>,
    /// Likewise: the customer ended it.
    pub revoked: Vec<Spanned<String>>,
    /// Where the status stands in the body, where one type of events tells all. The lists above then hold values.
    pub at: Option<Selector>,
    /// With `at`: the types of the events that tell it, exact or with `*` at the end.
    pub types: Vec<Spanned<String>>,
    /// With `at`: values that tell nothing. An event with a value that is in no list is refused, a dead letter.
    pub ignore: Vec<Spanned<String>>,
    /// Where the body says why; the first 1 KiB is kept.
    pub reason: Option<Selector>,
    /// Where the body says since when, RFC 3339. Default: when the event was sent, else received.
    pub time: Option<Selector>,
}

/// A list's name, what it tells, and its patterns.
type List<'a> = (&'static str, Option<ConnectionStatus>, &'a [Spanned<String>]);

impl StatusConfig {
    fn lists(&self) -> [List<'_>; 6] {
        use ConnectionStatus::{Active, Degraded, Offline, ReauthorizationNeeded, Revoked};
        [
            ("active", Some(Active), &self.active),
            ("degraded", Some(Degraded), &self.degraded),
            ("reauthorization_needed", Some(ReauthorizationNeeded), &self.reauthorization_needed),
            ("offline", Some(Offline), &self.offline),
            ("revoked", Some(Revoked), &self.revoked),
            ("ignore", None, &self.ignore),
        ]
    }

    /// The patterns of the types that tell a status.
    pub fn types(&self) -> impl Iterator<Item = &str> {
        let by_type = self.at.is_none();
        let lists = self.lists().into_iter().filter(move |_| by_type);
        let lists = lists.flat_map(|(_, _, patterns)| patterns);
        lists.chain(&self.types).map(|pattern| pattern.get_ref().as_str())
    }

    /// Whether events of a type tell a status.
    #[must_use]
    pub fn is_told_by(&self, kind: &str) -> bool {
        self.types().any(|pattern| type_matches(pattern, kind))
    }

    /// The status that a type tells, or with `at` a value: `Some(None)` where it tells nothing, `None` where no list
    /// has it.
    #[must_use]
    #[allow(clippy::option_option, reason = "told, of no meaning, and unknown are three things")]
    pub fn of(&self, word: &str) -> Option<Option<ConnectionStatus>> {
        let has = |patterns: &[Spanned<String>]| patterns.iter().any(|p| type_matches(p.get_ref(), word));
        self.lists().into_iter().find(|(_, _, patterns)| has(patterns)).map(|(_, status, _)| status)
    }

    pub(super) fn check(
        &self,
        at: &Places<'_>,
        source: &str,
        config: &SourceConfig,
    ) -> Result<(), ConfigError> {
        let key = format!("sources.{source}.status");
        let fail = |field: &str, message: &str| Err(at.error(None, &format!("{key}{field}"), message));
        if config.connection.is_none() {
            return fail("", "needs `connection`: a status is a connection's");
        }
        if self.lists().iter().all(|(_, status, patterns)| status.is_none() || patterns.is_empty()) {
            let all = ConnectionStatus::ALL.map(ConnectionStatus::name).join(", ");
            return fail(
                "",
                &format!("tells nothing: give the types of events, or values, of at least one of {all}"),
            );
        }
        match &self.at {
            Some(_) if self.types.is_empty() => {
                return fail(".types", "is needed beside `at`: the types of the events that tell the status");
            }
            None if !self.types.is_empty() => {
                return fail(".types", "goes with `at`; without it the lists of statuses hold the types");
            }
            None if !self.ignore.is_empty() => {
                return fail(".ignore", "goes with `at`; types that are in no list tell nothing anyway");
            }
            Some(_) | None => {}
        }
        for (field, selector) in [("at", &self.at), ("reason", &self.reason), ("time", &self.time)] {
            if selector.as_ref().is_some_and(|selector| !matches!(selector, Selector::Pointer(_))) {
                return fail(
                    &format!(".{field}"),
                    "is a JSON pointer into the body, such as \"/data/status\"",
                );
            }
        }
        for kind in self.types() {
            let rule = config.rule(kind);
            if rule.is_some_and(|rule| rule.ignore) {
                return fail("", &format!("`{kind}` is ignored by a rule of the source"));
            }
            // Else the events of a connection would lie in several partitions, in no order.
            if rule.and_then(|rule| rule.entity.as_ref()).or(config.entity.as_ref()).is_none() {
                let message =
                    format!("`{kind}` has no entity: give its rule `entity`, such as the connection's id");
                return fail("", &message);
            }
        }
        self.check_overlaps(at, &key)
    }

    /// No type, and no value, may tell two statuses.
    fn check_overlaps(&self, at: &Places<'_>, key: &str) -> Result<(), ConfigError> {
        let mut seen: Vec<(&str, &str)> = Vec::new();
        for (name, _, patterns) in self.lists() {
            for pattern in patterns {
                let text = pattern.get_ref().as_str();
                let overlaps = |other: &str| type_matches(other, text) || type_matches(text, other);
                if let Some((other, of)) = seen.iter().find(|(other, of)| *of != name && overlaps(other)) {
                    let message = format!(
                        "`{text}` is told by `{other}` of `{of}` too: one type, or value, tells one status"
                    );
                    return Err(at.error(Some(pattern.span()), &format!("{key}.{name}"), &message));
                }
                seen.push((text, name));
            }
        }
        Ok(())
    }
}

/// The most bytes of a table's name that every database takes.
const TABLE_NAME_MAX: usize = 63;
/// What stands in the same schema.
const OTHER_TABLES: [&str; 4] = ["hookline_events", "hookline_entities", "hookline_fence", "hookline_schema"];

/// The table of how connections are, beside a database sink's other tables.
#[derive(Clone, Debug, Deserialize)]
#[serde(from = "Spanned<String>")]
pub struct ConnectionsTableConfig {
    /// The table's name: letters, digits and `_`.
    pub name: Spanned<String>,
    /// The sources whose events tell statuses, by name: those of the pipeline that have `status`. There once the
    /// configuration is checked.
    pub sources: BTreeMap<String, StatusConfig>,
}

impl From<Spanned<String>> for ConnectionsTableConfig {
    fn from(name: Spanned<String>) -> Self {
        Self { name, sources: BTreeMap::new() }
    }
}

impl ConnectionsTableConfig {
    /// `key` is the sink's, `tables` are the user's own beside it.
    pub(super) fn check(&self, at: &Places<'_>, key: &str, tables: &TablesConfig) -> Result<(), ConfigError> {
        let name = self.name.get_ref();
        let fail =
            |message: &str| Err(at.error(Some(self.name.span()), &format!("{key}.connections"), message));
        let fits = (1..=TABLE_NAME_MAX).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !fits {
            return fail(&format!("is a table's name: 1 to {TABLE_NAME_MAX} letters, digits and `_`"));
        }
        let is = |other: &str| other.rsplit('.').next().is_some_and(|last| last.eq_ignore_ascii_case(name));
        if OTHER_TABLES.iter().any(|other| is(other)) || tables.keys().any(|other| is(other)) {
            return fail(&format!("`{name}` is another table of the pipeline's: name one of its own"));
        }
        if self.sources.is_empty() {
            return fail(
                "needs a source of the pipeline that tells statuses: give one [sources.NAME.status], or leave \
                 `connections` out",
            );
        }
        Ok(())
    }
}
