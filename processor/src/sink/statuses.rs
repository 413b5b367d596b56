//! What the events of a batch tell of connections, folded into how these stand: for the topic of statuses, and for the
//! databases' tables of them.
//!
//! Pure: reads headers and bodies, knows no database. Called by the sinks.

use std::collections::{BTreeMap, BTreeSet};

use shared::config::{ConnectionsTableConfig, StatusConfig};
use shared::event::encode_source;

use super::SinkError;
use super::rows::Row;
use crate::connections::{Standing, Teller, Told};
use crate::position::Position;

/// Reads what the events of a pipeline's sources tell.
pub(super) struct Tellers(BTreeMap<String, Teller>);

/// What an event of a batch tells of its connection.
pub(super) struct Tells<'r> {
    row: &'r Row<'r>,
    /// The connection's, in the topic.
    key: String,
    told: Told,
}

impl Tellers {
    pub(super) fn new(sources: &BTreeMap<String, StatusConfig>) -> Self {
        Self(sources.iter().map(|(source, status)| (source.clone(), Teller::new(status))).collect())
    }

    /// What the events tell, in their order.
    ///
    /// # Errors
    /// Refused: an event should tell something and cannot be read, or has a value that the configuration does not
    /// know.
    pub(super) fn tell<'r>(&self, rows: &'r [Row<'_>]) -> Result<Vec<Tells<'r>>, SinkError> {
        let mut all = Vec::new();
        for row in rows {
            let Some(teller) = self.0.get(row.event.source) else { continue };
            let told = teller.tell(&row.event, row.body).map_err(|problem| {
                SinkError::Refused(format!("the event at offset {} {problem}", row.event_offset))
            })?;
            let key = || encode_source(row.event.source, &row.event.connection);
            all.extend(told.map(|told| Tells { row, key: key(), told }));
        }
        Ok(all)
    }
}

/// How the connections stand after each of the events; `before` is by key.
pub(super) fn standings(told: Vec<Tells<'_>>, before: &BTreeMap<String, Standing>) -> Vec<Standing> {
    let mut after: Vec<Standing> = Vec::with_capacity(told.len());
    let mut newest: BTreeMap<String, usize> = BTreeMap::new();
    for Tells { row, key, told } in told {
        let earlier = newest.get(&key).and_then(|n| after.get(*n));
        let standing = Standing::after(earlier.or_else(|| before.get(&key)), &row.event, told, row.position);
        newest.insert(key, after.len());
        after.push(standing);
    }
    after
}

/// The table of connections' statuses that a database keeps.
pub(super) struct StatusTable {
    pub(super) name: String,
    tellers: Tellers,
}

impl StatusTable {
    pub(super) fn new(config: &ConnectionsTableConfig) -> Self {
        Self { name: config.name.get_ref().clone(), tellers: Tellers::new(&config.sources) }
    }

    /// What a batch tells; nothing where there is no table.
    ///
    /// # Errors
    /// As [`Tellers::tell`].
    pub(super) fn told<'r>(table: Option<&Self>, rows: &'r [Row<'_>]) -> Result<Vec<Tells<'r>>, SinkError> {
        table.map_or_else(|| Ok(Vec::new()), |table| table.tellers.tell(rows))
    }

    /// A failure in the table, which may be somebody else's. `key` is that of the sink.
    pub(super) fn unlike(&self, key: &str, error: SinkError) -> SinkError {
        match error {
            SinkError::Halt(text) => SinkError::Halt(format!(
                "{text}; or, if table `{}` is not Hookline's, name one of its own in {key}.connections",
                self.name
            )),
            SinkError::Retry(_) | SinkError::Refused(_) | SinkError::Waits(_) | SinkError::Fenced { .. } => {
                error
            }
        }
    }
}

/// A connection's row, as the tables hold it.
pub(super) struct StoredStanding {
    pub(super) source: String,
    pub(super) connection: String,
    pub(super) status: String,
    pub(super) since: String,
    pub(super) previous: Option<String>,
    pub(super) reason: Option<String>,
    pub(super) event_id: String,
    pub(super) event_type: String,
    pub(super) time: String,
    pub(super) partition: i32,
    pub(super) offset: i64,
    pub(super) ordinal: i32,
}

impl StoredStanding {
    fn of(standing: Standing, partition: i32) -> Self {
        Self {
            source: standing.source,
            connection: standing.connection,
            status: standing.status.name().to_owned(),
            since: standing.since,
            previous: standing.previous.map(|status| status.name().to_owned()),
            reason: standing.reason,
            event_id: standing.event_id,
            event_type: standing.event_type,
            time: standing.time,
            partition,
            offset: standing.position.offset,
            // A batch with a larger one was refused before.
            ordinal: i32::try_from(standing.position.ordinal).unwrap_or(i32::MAX),
        }
    }

    /// None where somebody wrote what Hookline never writes.
    fn read(self) -> Option<(i32, Standing)> {
        let standing = Standing {
            source: self.source,
            connection: self.connection,
            status: self.status.parse().ok()?,
            since: self.since,
            previous: self.previous.map(|status| status.parse()).transpose().ok()?,
            event_id: self.event_id,
            event_type: self.event_type,
            reason: self.reason,
            time: self.time,
            position: Position { offset: self.offset, ordinal: u32::try_from(self.ordinal).ok()? },
        };
        Some((self.partition, standing))
    }
}

/// The connections that a batch tells of, each once: source, connection.
pub(super) fn connections<'t>(told: &'t [Tells<'_>]) -> Vec<(&'t str, &'t str)> {
    let all = told.iter().map(|tells| (tells.row.event.source, &*tells.row.event.connection));
    all.collect::<BTreeSet<_>>().into_iter().collect()
}

/// The rows after a batch, each connection's once, in the order of [`connections`]; `before` are those that are there.
///
/// The events of one connection may be in several partitions, where its status events name several entities: what
/// another partition told later stays.
///
/// # Errors
/// Halt: somebody wrote what Hookline never writes.
pub(super) fn after(
    table: &str,
    place: &str,
    mut told: Vec<Tells<'_>>,
    before: Vec<StoredStanding>,
    partition: i32,
) -> Result<Vec<StoredStanding>, SinkError> {
    let mut standing = BTreeMap::new();
    let mut elsewhere = BTreeMap::new();
    let changed = || {
        SinkError::Halt(format!(
            "table `{table}` in {place} holds what Hookline never writes: somebody changed it. Correct the row, or \
             delete it: the next event makes it anew"
        ))
    };
    for row in before {
        let (of, found) = row.read().ok_or_else(changed)?;
        if of != partition {
            elsewhere.insert(found.key(), found.instant());
        }
        // Not every database enforces the key.
        if standing.insert(found.key(), found).is_some() {
            return Err(changed());
        }
    }
    told.retain(|tells| elsewhere.get(&tells.key).is_none_or(|other| *other < tells.told.time.parse().ok()));
    let newest: BTreeMap<(String, String), Standing> = standings(told, &standing)
        .into_iter()
        .map(|standing| ((standing.source.clone(), standing.connection.clone()), standing))
        .collect();
    Ok(newest.into_values().map(|standing| StoredStanding::of(standing, partition)).collect())
}
