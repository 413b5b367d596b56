//! A scenario: what happens at the provider, and what becomes of the webhooks, as a TOML file says.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::resource::Resource;
use super::world::Status;

/// The scenarios that the sandbox brings: name and file.
const BUILT_IN: [(&str, &str); 11] = [
    ("duplicates", include_str!("../../scenarios/duplicates.toml")),
    ("out-of-order", include_str!("../../scenarios/out-of-order.toml")),
    ("late", include_str!("../../scenarios/late.toml")),
    ("lost", include_str!("../../scenarios/lost.toml")),
    ("storm", include_str!("../../scenarios/storm.toml")),
    ("slow-receiver", include_str!("../../scenarios/slow-receiver.toml")),
    ("credentials-expired", include_str!("../../scenarios/credentials-expired.toml")),
    ("api-errors", include_str!("../../scenarios/api-errors.toml")),
    ("sequence-gap", include_str!("../../scenarios/sequence-gap.toml")),
    ("deletions-lost", include_str!("../../scenarios/deletions-lost.toml")),
    ("mixed", include_str!("../../scenarios/mixed.toml")),
];

/// A scenario's file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Its name: the file's, without `.toml`.
    #[serde(skip)]
    pub name: String,
    /// What it shows, in a line.
    pub shows: String,
    /// Decides everything that is random: the same seed does the same.
    #[serde(default = "default_seed")]
    pub seed: u64,
    /// From the first change to the last, `"10ms"` to `"1h"`.
    #[serde(deserialize_with = "duration")]
    pub duration: Duration,
    /// How many changes of records, over all connections; at most 1,000,000.
    pub changes: u32,
    /// The changes come in so many bursts, evenly over the duration. Default: 0, steadily.
    #[serde(default)]
    pub bursts: u32,
    /// Records of each connection that are there before, and that no webhook tells of; at most 100,000 a list.
    #[serde(default)]
    pub existing: BTreeMap<Resource, usize>,
    /// How many of a hundred changes create a record. Default: 25.
    #[serde(default = "default_created")]
    pub created: usize,
    /// How many of a hundred changes delete one. Default: 5.
    #[serde(default = "default_deleted")]
    pub deleted: usize,
    /// `sync.completed` for each list of each connection, so often. Default: never.
    #[serde(default, deserialize_with = "some_duration")]
    pub sync_every: Option<Duration>,
    /// `sync.completed` for each list of each connection after the last change. Default: no.
    #[serde(default)]
    pub sync_at_end: bool,
    /// What becomes of the webhooks.
    #[serde(default)]
    pub webhooks: Fates,
    /// The token's file in the registry is written in two halves, a second apart, as careless programs do.
    #[serde(default)]
    pub token_in_halves: bool,
    /// What happens to connections, and when.
    #[serde(default)]
    pub acts: Vec<Act>,
    /// How the API fails, and when.
    #[serde(default)]
    pub faults: Vec<Fault>,
}

/// What becomes of the webhooks about records: how many of a hundred have each fate. `lost`, `gaps`, `late` and
/// `reordered` exclude each other; the rest comes upon them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fates {
    /// Never sent. Deletions are sent all the same, unless `deletions_lost`.
    pub lost: usize,
    /// Never sent, but the same record changes again at once, and that is sent.
    pub gaps: usize,
    /// Sent up to `late_by` later.
    pub late: usize,
    /// Sent up to a second (at most a quarter of the scenario) later, so that others overtake it.
    pub reordered: usize,
    /// Sent once or twice more, up to three seconds (at most a quarter of the scenario) later.
    pub duplicated: usize,
    /// The provider does not wait for the first attempt's answer, and sends it again.
    pub impatient: usize,
    /// Followed by one that Hookline must not apply: forged, unsigned, or no JSON.
    pub garbage: usize,
    /// How late the late ones are, at most. Default: 5 s.
    #[serde(deserialize_with = "some_duration")]
    pub late_by: Option<Duration>,
    /// Deletions are lost like everything else: no list can show them, so the expectation allows either.
    pub deletions_lost: bool,
}

/// Something that happens to a connection.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Act {
    /// When, after the beginning.
    #[serde(deserialize_with = "duration")]
    pub at: Duration,
    /// Whose.
    pub connection: String,
    /// The status that it gets: `reauthorization_needed` and `revoked` refuse its token from then on, and no webhook
    /// about its records is sent; `online` after that brings a new token.
    pub status: Status,
}

/// A way in which the API fails for a bounded number of requests.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// When, after the scenario's beginning. Default: at once.
    #[serde(default, deserialize_with = "duration")]
    pub at: Duration,
    /// How.
    pub kind: FaultKind,
    /// For how many requests of a connection; 1 to 1,000.
    pub requests: u32,
    /// For this connection alone. Default: for each.
    pub connection: Option<String>,
    /// In this list alone. Default: in all.
    pub resource: Option<Resource>,
    /// For pages alone, or for single records alone. Default: for both.
    pub on: Option<Endpoint>,
    /// The `Retry-After` of a 429, or how long a time-out holds the request: at most 5 minutes. Default: 1 s.
    #[serde(default = "default_wait", rename = "for", deserialize_with = "duration")]
    pub wait: Duration,
}

/// What of a list is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// A page.
    Pages,
    /// One record.
    One,
}

/// The ways in which the API fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// 429 with `Retry-After`.
    RateLimited,
    /// 500 with a body that is no JSON.
    ServerError,
    /// No answer for a while, then 504.
    TimeOut,
    /// 200 and half of the JSON.
    BrokenJson,
    /// 200 and a page for people, such as a proxy's.
    Html,
    /// A cursor is refused with 400, as one that is too old: the list has to be begun anew.
    CursorExpired,
    /// A page names itself as the next one.
    CursorRepeats,
}

impl FaultKind {
    /// As in a scenario's file.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RateLimited => "rate_limited",
            Self::ServerError => "server_error",
            Self::TimeOut => "time_out",
            Self::BrokenJson => "broken_json",
            Self::Html => "html",
            Self::CursorExpired => "cursor_expired",
            Self::CursorRepeats => "cursor_repeats",
        }
    }
}

/// Why there is no scenario.
#[derive(Debug, thiserror::Error)]
pub enum ScenarioError {
    /// A name that is neither built in nor a file.
    #[error(
        "there is no scenario {0:?}; `sandbox scenarios` lists them, and a path names a file of your own"
    )]
    Unknown(String),
    /// A file that cannot be read.
    #[error("{}: cannot read the scenario: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file that says something else than a scenario.
    #[error("scenario {name}: {message}")]
    Invalid {
        /// The scenario.
        name: String,
        /// What is wrong, and where.
        message: String,
    },
}

impl Scenario {
    /// The built-in scenario of a name, or the file at a path that ends in `.toml`.
    ///
    /// # Errors
    /// There is none, or it is not valid.
    pub fn find(name: &str) -> Result<Self, ScenarioError> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(built_in, _)| *built_in == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if path.extension().is_none_or(|extension| extension != "toml") {
            return Err(ScenarioError::Unknown(name.to_owned()));
        }
        let text = std::fs::read_to_string(path)
            .map_err(|error| ScenarioError::Unreadable { path: path.to_owned(), error })?;
        let stem = path.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned());
        Self::parse(&stem, &text)
    }

    /// The built-in scenarios.
    #[must_use]
    pub fn all() -> Vec<Self> {
        BUILT_IN.iter().filter_map(|(name, text)| Self::parse(name, text).ok()).collect()
    }

    /// Reads a scenario.
    ///
    /// # Errors
    /// It is not TOML, has an unknown key, or a value beyond its limits.
    pub fn parse(name: &str, text: &str) -> Result<Self, ScenarioError> {
        let invalid = |message: String| ScenarioError::Invalid { name: name.to_owned(), message };
        let mut scenario: Self = toml::from_str(text).map_err(|error| invalid(error.to_string()))?;
        name.clone_into(&mut scenario.name);
        scenario.check().map_err(invalid)?;
        Ok(scenario)
    }

    /// Whether every change of a record is told by a webhook that arrives.
    #[must_use]
    pub fn loses_nothing(&self) -> bool {
        let fates = &self.webhooks;
        let refuses = |act: &Act| matches!(act.status, Status::ReauthorizationNeeded | Status::Revoked);
        fates.lost + fates.gaps == 0 && !self.acts.iter().any(refuses)
    }

    fn check(&self) -> Result<(), String> {
        let limit = |what: &str, value: u128, from: u128, to: u128| {
            if (from..=to).contains(&value) {
                Ok(())
            } else {
                Err(format!("{what} must be {from} to {to}, not {value}"))
            }
        };
        limit("duration (ms)", self.duration.as_millis(), 10, 3_600_000)?;
        limit("changes", self.changes.into(), 0, 1_000_000)?;
        limit("bursts", self.bursts.into(), 0, 1_000)?;
        for (resource, count) in &self.existing {
            limit(&format!("existing.{}", resource.name()), *count as u128, 0, 100_000)?;
        }
        let fates = &self.webhooks;
        limit("created + deleted (percent)", (self.created + self.deleted) as u128, 0, 100)?;
        let exclusive = fates.lost + fates.gaps + fates.late + fates.reordered;
        limit("webhooks.lost + gaps + late + reordered (percent)", exclusive as u128, 0, 100)?;
        for (what, percent) in [
            ("webhooks.duplicated (percent)", fates.duplicated),
            ("webhooks.impatient (percent)", fates.impatient),
            ("webhooks.garbage (percent)", fates.garbage),
        ] {
            limit(what, percent as u128, 0, 100)?;
        }
        limit("webhooks.late_by (ms)", fates.late_by().as_millis(), 1, 3_600_000)?;
        if let Some(every) = self.sync_every {
            limit("sync_every (ms)", every.as_millis(), 100, 3_600_000)?;
        }
        self.faults.iter().try_for_each(Fault::check)
    }
}

impl Fates {
    pub(crate) fn late_by(&self) -> Duration {
        self.late_by.unwrap_or(Duration::from_secs(5))
    }
}

impl Fault {
    pub(crate) fn check(&self) -> Result<(), String> {
        if !(1..=1_000).contains(&self.requests) {
            return Err(format!("requests must be 1 to 1000, not {}", self.requests));
        }
        if self.wait > Duration::from_secs(300) {
            return Err("for must be at most 5 minutes".to_owned());
        }
        Ok(())
    }
}

const fn default_seed() -> u64 {
    1
}

const fn default_created() -> usize {
    25
}

const fn default_deleted() -> usize {
    5
}

const fn default_wait() -> Duration {
    Duration::from_secs(1)
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        D::Error::custom(format!(
            "`{text}` is not a duration ({error}); write one such as \"250ms\" or \"30s\""
        ))
    })
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

#[cfg(test)]
mod tests;
