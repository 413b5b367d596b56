//! `[pipelines.NAME]`: which sources' events go to which sink, and the limits on the way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::source::type_matches;
use super::{
    ConfigError, ConnectionsTableConfig, KafkaConfig, LogConfig, Places, SinkConfig, SourceConfig,
    StatusConfig, TablesConfig, tables,
};
use crate::units::{Size, Span};

/// Events in one batch of statuses: the fence's record names the position of each.
const STATUS_EVENTS_MAX: u32 = 10_000;

/// One pipeline: sources, a fold, a sink.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PipelineConfig {
    /// The sources whose events are applied; the others' are counted as ignored. Default: all; for
    /// `sink.connections` those with `status`.
    pub sources: Option<Vec<Spanned<String>>>,
    /// The types, exact or with `*` at the end, of the events that are applied; others are counted as ignored.
    /// Default: all; for `sink.connections` those that tell a status.
    pub types: Option<Vec<String>>,
    /// Where events are applied: one of the sinks in `sink.rs`, such as `sink.postgres`.
    pub sink: SinkConfig,
    /// The user's own tables that events are written to, besides Hookline's.
    #[serde(default)]
    pub tables: TablesConfig,
    /// The directory of the local state (a cache: it can be rebuilt from Kafka).
    pub state_dir: PathBuf,
    /// This instance's name, stable over restarts: static group membership and transactional ids follow from
    /// it. Default: the environment variable `HOSTNAME`, which Kubernetes sets to the pod's name.
    pub instance: Option<String>,
    /// Worker threads, each with some of the partitions and a transactional producer of its own; 1 to 64.
    #[serde(default = "default_lanes")]
    pub lanes: u32,
    /// Where `/livez`, `/readyz` and `/metrics` are served.
    #[serde(default = "default_admin")]
    pub admin_listen: SocketAddr,
    /// The fold's window and limits.
    #[serde(default)]
    pub fold: FoldLimits,
    /// How events are gathered into batches for the sink; the default depends on the sink: [`Self::batch`].
    pub batch: Option<BatchConfig>,
    /// When a batch becomes final.
    #[serde(default)]
    pub checkpoint: CheckpointConfig,
    /// After SIGTERM, how long the last checkpoint may take.
    #[serde(default = "default_drain")]
    pub drain_timeout: Span,
}

const fn default_lanes() -> u32 {
    2
}

fn default_admin() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 9465))
}

const fn default_drain() -> Span {
    Span::secs(20)
}

/// What the fold keeps, and how much of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FoldLimits {
    /// How long an id is remembered, in the log's own time. Longer than any sender's retries.
    pub window: Span,
    /// Ids of one partition in memory, 25 bytes each; at least 100. When they are more, they are spilled to the state
    /// directory, and take 4 bytes each.
    pub ids_in_memory_max: u32,
    /// Events that one entity may have waiting for a gap to close; one more is a dead letter.
    pub held_events_max: u32,
    /// Bytes that one entity's waiting events may take together; at most 4 MiB.
    pub held_bytes_max: Size,
}

impl Default for FoldLimits {
    fn default() -> Self {
        Self {
            window: Span::secs(7 * 24 * 3600),
            ids_in_memory_max: 250_000,
            held_events_max: 1_000,
            held_bytes_max: Size::kib(2 * 1024),
        }
    }
}

/// How events are gathered into batches for the sink. A batch goes when one of these is reached, or a checkpoint is
/// due.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BatchConfig {
    /// How long events may wait for others; at most 10 minutes. A checkpoint then comes no more often than this.
    /// None (`"0s"`): they go as soon as they are folded; into topics, where they are seen with the checkpoint, with it
    /// or when a batch is full.
    pub interval: Span,
    /// Events in one batch; 1 to 100,000.
    pub events_max: u32,
    /// Bytes of events in one batch; 1 KiB to 64 MiB. One event may be larger.
    pub bytes_max: Size,
}

impl Default for BatchConfig {
    fn default() -> Self {
        Self { interval: Span::secs(0), events_max: 1_000, bytes_max: Size::kib(4 * 1024) }
    }
}

impl BatchConfig {
    /// As suits a sink.
    #[must_use]
    pub fn of(sink: &SinkConfig) -> Self {
        match sink {
            SinkConfig::Postgres(_) | SinkConfig::Sqlite(_) => Self::large(10_000),
            SinkConfig::Mysql(_) => Self::large(20_000),
            SinkConfig::Snowflake(_) => Self::rare(),
            SinkConfig::Http(_) => Self::small(),
            SinkConfig::Mongodb(_) | SinkConfig::Kafka(_) | SinkConfig::Connections(_) => Self::default(),
        }
    }

    /// For a database whose transactions cost less an event the larger they are. Only a lane that is behind has as many.
    fn large(events_max: u32) -> Self {
        Self { events_max, bytes_max: Size::kib(32 * 1024), ..Self::default() }
    }

    /// For a sink that is paid by the time its statements take.
    const fn rare() -> Self {
        Self { interval: Span::secs(5), events_max: 20_000, bytes_max: Size::kib(16 * 1024) }
    }

    /// For a sink that takes one event at a time: a batch ends soon, however slow each is.
    fn small() -> Self {
        Self { events_max: 64, ..Self::default() }
    }

    fn check(&self, at: &Places<'_>, key: &str) -> Result<(), ConfigError> {
        let error = |name: &str, message: &str| Err(at.error(None, &format!("{key}.{name}"), message));
        if self.interval > Span::secs(600) {
            return error("interval", "must be at most \"10m\"");
        }
        if !(1..=100_000).contains(&self.events_max) {
            return error("events_max", "must be 1 to 100000");
        }
        if self.bytes_max < Size::kib(1) || self.bytes_max > Size::kib(64 * 1024) {
            return error("bytes_max", "must be \"1KiB\" to \"64MiB\"");
        }
        Ok(())
    }
}

/// When a batch becomes final. Whichever comes first.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointConfig {
    /// At the latest so long after the first event of a batch; after 1 s while a lane is behind, which makes it faster,
    /// but not into a sink without a fence of its own.
    pub interval: Span,
    /// At the latest after so many events in a lane.
    pub events_max: u32,
    /// A snapshot of a partition's state is written, and its journal trimmed, when the journal has grown by this
    /// and by twice the state since the last one.
    pub snapshot_after: Size,
}

impl Default for CheckpointConfig {
    fn default() -> Self {
        Self { interval: Span::millis(100), events_max: 100_000, snapshot_after: Size::kib(32 * 1024) }
    }
}

/// What to do when a gap's wait is over.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum GapPolicy {
    /// Go on without the missing events; should one come later, it is stale.
    #[default]
    Skip,
    /// Hold what comes after, until the missing event comes, polling finds the entity at its number or a later one, or
    /// an operator goes on without it: `processor gaps skip`.
    Park,
    /// Ask the poller for the entity when half of the wait is over; then as `skip`.
    BackfillOrSkip,
    /// Ask the poller for the entity when half of the wait is over; then as `park`.
    BackfillOrPark,
}

impl GapPolicy {
    /// Whether the poller is asked for what is missing.
    #[must_use]
    pub const fn asks(self) -> bool {
        matches!(self, Self::BackfillOrSkip | Self::BackfillOrPark)
    }

    /// Whether the entity stands still when the wait is over.
    #[must_use]
    pub const fn parks(self) -> bool {
        matches!(self, Self::Park | Self::BackfillOrPark)
    }
}

impl PipelineConfig {
    /// How events are gathered into batches: as given, else as suits the sink.
    #[must_use]
    pub fn batch(&self) -> BatchConfig {
        self.batch.clone().unwrap_or_else(|| BatchConfig::of(&self.sink))
    }

    /// Whether this pipeline takes a source's events.
    #[must_use]
    pub fn takes(&self, source: &str) -> bool {
        self.sources.as_ref().is_none_or(|names| names.iter().any(|name| name.get_ref() == source))
    }

    /// The topics that a Kafka sink writes the events of its sources to; none of another sink.
    #[must_use]
    pub fn output_topics(&self, sources: &BTreeMap<String, SourceConfig>) -> BTreeSet<String> {
        let taken = sources.keys().filter(|source| self.takes(source));
        self.sink.kafka().map_or_else(BTreeSet::new, |sink| {
            taken.map(|source| sink.topic_of(source).into_owned()).collect()
        })
    }

    /// For a sink of connections' statuses: takes the sources that tell them, by the types that tell them. For a
    /// database with a table of them: finds the sources that tell them.
    pub(super) fn follow_statuses(
        &mut self,
        at: &Places<'_>,
        name: &str,
        sources: &BTreeMap<String, SourceConfig>,
        kafka: &KafkaConfig,
    ) -> Result<(), ConfigError> {
        let key = format!("pipelines.{name}");
        let mut told = BTreeMap::new();
        for (source, config) in sources.iter().filter(|(source, _)| self.takes(source)) {
            match &config.status {
                Some(status) => drop(told.insert(source.clone(), status.clone())),
                None if self.sources.is_some() && self.sink.connections().is_some() => {
                    let message = format!("`{source}` tells no status: it has no [sources.{source}.status]");
                    return Err(at.error(None, &format!("{key}.sources"), &message));
                }
                None => {}
            }
        }
        let batch = self.batch();
        if let Some(table) = self.sink.connections_table() {
            let table = ConnectionsTableConfig { sources: told, ..table.clone() };
            return self.keep_statuses(at, &key, table);
        }
        let SinkConfig::Connections(sink) = &mut self.sink else { return Ok(()) };
        if told.is_empty() {
            let message = "needs a source that tells statuses: [sources.NAME.status]";
            return Err(at.error(None, &format!("{key}.sink.connections"), message));
        }
        if batch.events_max > STATUS_EVENTS_MAX {
            let message = format!("must be at most {STATUS_EVENTS_MAX} with sink.connections");
            return Err(at.error(None, &format!("{key}.batch.events_max"), &message));
        }
        let types: BTreeSet<&str> = told.values().flat_map(|status: &StatusConfig| status.types()).collect();
        self.types.get_or_insert_with(|| types.into_iter().map(str::to_owned).collect());
        self.sources
            .get_or_insert_with(|| told.keys().map(|name| Spanned::new(0..0, name.clone())).collect());
        sink.sources = told;
        sink.kafka = Some(kafka.clone());
        Ok(())
    }

    /// Gives a database its table of statuses, if it can have one and something would stand in it.
    fn keep_statuses(
        &mut self,
        at: &Places<'_>,
        key: &str,
        table: ConnectionsTableConfig,
    ) -> Result<(), ConfigError> {
        let sink = format!("{key}.sink.{}", self.sink.name());
        if matches!(self.sink, SinkConfig::Mongodb(_)) {
            let message = "is for PostgreSQL, MySQL, Snowflake and SQLite: this sink keeps no table of statuses. Leave it \
                           out, and add a pipeline with sink.connections, or one into such a database";
            return Err(at.error(Some(table.name.span()), &format!("{sink}.connections"), message));
        }
        table.check(at, &sink, &self.tables)?;
        let tells = |pattern: &str| {
            let mut types = table.sources.values().flat_map(StatusConfig::types);
            types.any(|kind| type_matches(pattern, kind) || type_matches(kind, pattern))
        };
        if self.types.as_ref().is_some_and(|types| !types.iter().any(|pattern| tells(pattern))) {
            let message = "leaves out every event that tells a status, so that the table of the sink's `connections` \
                           would stay empty: add the types of [sources.NAME.status]";
            return Err(at.error(None, &format!("{key}.types"), message));
        }
        self.sink.keep_connections(table);
        Ok(())
    }

    pub(super) fn resolve(
        &mut self,
        at: &Places<'_>,
        name: &str,
        sources: &BTreeMap<String, SourceConfig>,
        log: &LogConfig,
        body_limit: Size,
        with_secrets: bool,
    ) -> Result<(), ConfigError> {
        let key = format!("pipelines.{name}");
        for source in self.sources.iter().flatten() {
            if !sources.contains_key(source.get_ref()) {
                let message = format!("there is no source `{}`", source.get_ref());
                return Err(at.error(Some(source.span()), &format!("{key}.sources"), &message));
            }
        }
        if !(1..=64).contains(&self.lanes) {
            return Err(at.error(None, &format!("{key}.lanes"), "must be 1 to 64"));
        }
        if self.checkpoint.events_max == 0 {
            return Err(at.error(None, &format!("{key}.checkpoint.events_max"), "must be at least 1"));
        }
        self.batch().check(at, &format!("{key}.batch"))?;
        let fold = &self.fold;
        if fold.ids_in_memory_max < 100 {
            return Err(at.error(None, &format!("{key}.fold.ids_in_memory_max"), "must be at least 100"));
        }
        if fold.held_bytes_max.0 > 4 * 1024 * 1024 {
            return Err(at.error(None, &format!("{key}.fold.held_bytes_max"), "must be at most \"4MiB\""));
        }
        if body_limit.0 > 8 * 1024 * 1024 {
            return Err(at.error(None, "ingest.body_limit", "must be at most \"8MiB\""));
        }
        if let Some(retention) = log.retention
            && retention < fold.window
        {
            let message = "is below the deduplication window (`fold.window`) of pipeline";
            return Err(at.error(None, "log.retention", &format!("{message} `{name}`; keep the log longer")));
        }
        tables::check(at, &key, self, sources)?;
        let topics = self.output_topics(sources);
        self.sink.resolve(at, &key, &topics, log, with_secrets)
    }
}
