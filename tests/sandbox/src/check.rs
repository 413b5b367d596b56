//! Compares what is there with what the plan says must be there, one by one, and names each difference.
//!
//! It reads nothing itself: rows come as plain values from a query (for SQLite see `rows`), verdicts from
//! wherever they are counted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::delivery::{EntityPlan, Expect, Verdicts};
use crate::plan::Plan;
use crate::send::Report;

/// A row of the table of applied events, `hookline_events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The source.
    pub source: String,
    /// The connection; empty where there is none.
    pub connection: String,
    /// The event's id.
    pub event_id: String,
    /// The entity, with its prefix.
    pub entity: Option<String>,
    /// Sequence or version.
    pub sequence: Option<String>,
    /// The body.
    pub body: Vec<u8>,
    /// When it was applied: partition of the log, offset and ordinal of the effect.
    pub position: (i64, i64, i64),
}

/// A row of the table of entities, `hookline_entities`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntityRow {
    /// The source.
    pub source: String,
    /// The connection; empty where there is none.
    pub connection: String,
    /// The entity, with its prefix.
    pub entity: String,
    /// The event that made it what it is.
    pub event_id: String,
    /// That event's sequence or version.
    pub sequence: Option<String>,
    /// That event's body.
    pub body: Vec<u8>,
}

/// Something that is not as the plan says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// What kind of difference.
    pub kind: Kind,
    /// What it is about, and what was expected and found.
    pub about: String,
}

/// The kinds of differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// An event that must be applied has no row.
    MissingRow,
    /// An event has several rows.
    DoubleRow,
    /// A row that nothing accounts for.
    ExtraRow,
    /// A row with another entity than the event has.
    WrongEntity,
    /// A row with another sequence than the event has.
    WrongSequence,
    /// A row with another body than was sent.
    WrongBody,
    /// The events of an entity were applied in another order.
    WrongOrder,
    /// The events of an entity lie in several partitions, or two at one position.
    WrongPosition,
    /// An entity is missing from the table of entities.
    MissingEntity,
    /// An entity that nothing accounts for, or that is there twice.
    ExtraEntity,
    /// An entity's state is not that of its last event.
    WrongState,
    /// A delivery was answered in another way.
    WrongAnswer,
    /// A verdict was counted more or less often.
    WrongCount,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            Kind::MissingRow => "row missing",
            Kind::DoubleRow => "applied more than once",
            Kind::ExtraRow => "row too many",
            Kind::WrongEntity => "wrong entity",
            Kind::WrongSequence => "wrong sequence",
            Kind::WrongBody => "wrong body",
            Kind::WrongOrder => "wrong order",
            Kind::WrongPosition => "wrong position",
            Kind::MissingEntity => "entity missing",
            Kind::ExtraEntity => "entity too many",
            Kind::WrongState => "wrong state of an entity",
            Kind::WrongAnswer => "wrong answer",
            Kind::WrongCount => "wrong count",
        };
        write!(f, "{kind}: {}", self.about)
    }
}

#[derive(Default)]
struct Differences(Vec<Difference>);

impl Differences {
    fn add(&mut self, kind: Kind, about: impl Into<String>) {
        self.0.push(Difference { kind, about: about.into() });
    }
}

type Key<'a> = (&'a str, &'a str, &'a str);

/// Compares the table of applied events with the plan: each event once, with its entity, sequence and body,
/// and each entity's events in their order.
#[must_use]
pub fn rows(entities: &[EntityPlan], rows: &[Row]) -> Vec<Difference> {
    let mut out = Differences::default();
    let mut found: BTreeMap<Key<'_>, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        found.entry((&row.source, &row.connection, &row.event_id)).or_default().push(row);
    }
    for entity in entities {
        // The rows of this entity's events, in the order in which they must have been applied.
        let mut applied: Vec<&Row> = Vec::with_capacity(entity.applied.len());
        for event in &entity.applied {
            let name = format!("event {} of {}", event.event_id, name(entity));
            let rows = found.remove(&(entity.source, entity.connection, &event.event_id)).unwrap_or_default();
            let Some(row) = rows.first() else {
                out.add(Kind::MissingRow, name);
                continue;
            };
            if rows.len() > 1 {
                out.add(Kind::DoubleRow, format!("{name} has {} rows", rows.len()));
            }
            for row in &rows {
                if row.entity.as_deref() != Some(&entity.entity) {
                    out.add(Kind::WrongEntity, format!("{name} has {}", shown(row.entity.as_deref())));
                }
                if row.sequence != event.sequence {
                    let (found, expected) =
                        (shown(row.sequence.as_deref()), shown(event.sequence.as_deref()));
                    out.add(Kind::WrongSequence, format!("{name} has {found}, not {expected}"));
                }
                if row.body != event.body {
                    out.add(Kind::WrongBody, format!("{name}: {}", first_difference(&row.body, &event.body)));
                }
            }
            applied.push(row);
        }
        order(&mut out, entity, &applied);
    }
    for ((source, connection, id), rows) in found {
        let entity = shown(rows.first().and_then(|row| row.entity.as_deref()));
        let about = format!("{} of event {id} of {source}/{connection}, entity {entity}", rows.len());
        out.add(Kind::ExtraRow, about);
    }
    out.0
}

/// Compares the order of application with the order of `rows`.
fn order(out: &mut Differences, entity: &EntityPlan, rows: &[&Row]) {
    let name = name(entity);
    for pair in rows.windows(2) {
        let [before, after] = pair else { continue };
        let ids = format!("{} and {}", before.event_id, after.event_id);
        if before.position.0 != after.position.0 {
            out.add(Kind::WrongPosition, format!("{name}: {ids} lie in different partitions"));
        } else if before.position == after.position {
            out.add(Kind::WrongPosition, format!("{name}: {ids} lie at one position"));
        } else if before.position > after.position {
            out.add(Kind::WrongOrder, format!("{name}: {ids} were applied the other way round"));
        }
    }
}

/// Compares the table of entities with the plan: each entity once, in the state of its last event.
#[must_use]
pub fn entities(entities: &[EntityPlan], rows: &[EntityRow]) -> Vec<Difference> {
    let mut out = Differences::default();
    let mut found: BTreeMap<Key<'_>, Vec<&EntityRow>> = BTreeMap::new();
    for row in rows {
        found.entry((&row.source, &row.connection, &row.entity)).or_default().push(row);
    }
    for entity in entities {
        let Some(last) = entity.applied.last() else { continue };
        let name = name(entity);
        let rows = found.remove(&(entity.source, entity.connection, &entity.entity)).unwrap_or_default();
        if rows.is_empty() {
            out.add(Kind::MissingEntity, name.clone());
        }
        if rows.len() > 1 {
            out.add(Kind::ExtraEntity, format!("{name} has {} rows", rows.len()));
        }
        for row in rows {
            if row.event_id != last.event_id {
                let about = format!("{name} is as of {}, not of {}", row.event_id, last.event_id);
                out.add(Kind::WrongState, about);
            } else if row.sequence != last.sequence {
                let about = format!("{name} has the sequence {}", shown(row.sequence.as_deref()));
                out.add(Kind::WrongState, about);
            } else if row.body != last.body {
                let about = format!("{name}: {}", first_difference(&row.body, &last.body));
                out.add(Kind::WrongState, about);
            }
        }
    }
    for (source, connection, entity) in found.into_keys() {
        out.add(Kind::ExtraEntity, format!("{entity} of {source}/{connection}"));
    }
    out.0
}

/// Compares the answers with the plan, for the phases that were sent.
#[must_use]
pub fn answers(plan: &Plan, report: &Report) -> Vec<Difference> {
    let mut out = Differences::default();
    let mut sent = BTreeSet::new();
    for outcome in &report.outcomes {
        sent.insert(outcome.delivery);
        let Some(delivery) = plan.deliveries.get(outcome.delivery) else {
            out.add(Kind::WrongAnswer, format!("delivery {} is not in the plan", outcome.delivery));
            continue;
        };
        let expected = match delivery.expect {
            Expect::Refused(status) => status,
            Expect::Accepted(_) | Expect::Waits => 200,
        };
        let about = format!("delivery {} to {} ({})", outcome.delivery, delivery.path, delivery.what);
        match &outcome.answer {
            Ok(status) if *status == expected => {}
            Ok(status) => out.add(Kind::WrongAnswer, format!("{about}: {status}, not {expected}")),
            Err(error) => {
                let about = format!("{about}: none after {} attempts: {error}", outcome.attempts);
                out.add(Kind::WrongAnswer, about);
            }
        }
    }
    let unsent = plan.deliveries.len().saturating_sub(sent.len());
    if unsent > 0 {
        out.add(Kind::WrongAnswer, format!("{unsent} deliveries were not sent"));
    }
    out.0
}

/// Compares verdicts as counted by the product with those of the plan. An attempt that was repeated may be in
/// the log twice: so many duplicates (or ignored events) more are allowed as there were `retries`.
#[must_use]
pub fn verdicts(expected: &Verdicts, counted: &Verdicts, retries: usize) -> Vec<Difference> {
    let mut out = Differences::default();
    let mut spare = retries;
    let counts = [
        ("applied", expected.applied, counted.applied, false),
        ("duplicates", expected.duplicates, counted.duplicates, true),
        ("stale", expected.stale, counted.stale, false),
        ("held", expected.held, counted.held, false),
        ("dead-lettered", expected.dead_lettered, counted.dead_lettered, false),
        ("ignored", expected.ignored, counted.ignored, true),
    ];
    for (name, expected, counted, may_repeat) in counts {
        let more = counted.saturating_sub(expected);
        if counted < expected || more > if may_repeat { spare } else { 0 } {
            out.add(Kind::WrongCount, format!("{name}: {counted}, not {expected}"));
        } else {
            spare -= more;
        }
    }
    out.0
}

fn name(entity: &EntityPlan) -> String {
    format!("{} of {}/{}", entity.entity, entity.source, entity.connection)
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| format!("`{value}`"))
}

/// Where two bodies differ. Sandbox bodies are no secrets, yet only the place is told.
fn first_difference(found: &[u8], expected: &[u8]) -> String {
    let at = found.iter().zip(expected).take_while(|(a, b)| a == b).count();
    format!("{} bytes, not {}, the first difference at byte {at}", found.len(), expected.len())
}

#[cfg(test)]
mod tests;
