//! `processor gaps`: the open gaps of a pipeline, read from Kafka alone, and an operator's word to go on without what is
//! missing, which is a record of the event log like all else that changes an outcome.

use std::time::{Duration, Instant};

use serde::Serialize;
use shared::config::Config;
use shared::event::entity_key;

use crate::broker::{BrokerError, Log};
use crate::control::{Control, GapSkip};
use crate::fold::{OpenGap, State};
use crate::inspect::{self, InspectError};
use crate::kafka::{KafkaContext, KafkaLog, Reader};
use crate::status::rfc3339;

/// How long between two looks whether a skip is folded.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// An entity that waits.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GapStatus {
    /// The event log's partition.
    pub partition: i32,
    /// The source.
    pub source: String,
    /// The connection; empty where there is none.
    pub connection: String,
    /// The entity, as events have it in the log.
    pub entity: String,
    /// The number that is missing; `None` while the first is looked for.
    pub missing: Option<u64>,
    /// The smallest number that waits.
    pub waiting: u64,
    /// How many events wait.
    pub held: usize,
    /// When the first of them was appended, RFC 3339.
    pub since: Option<String>,
    /// When the wait is over, RFC 3339; `None` where it was, and the entity is parked.
    pub deadline: Option<String>,
}

impl GapStatus {
    /// Of a gap; `None` where what waits is no event, which the fold never holds.
    fn of(partition: i32, open: &OpenGap<'_>) -> Option<Self> {
        let (waiting, first) = open.held.first_key_value()?;
        let event = first.frame.event().ok()?;
        let since = open.held.values().map(|event| event.time_ms).min()?;
        Some(Self {
            partition,
            source: event.source.to_owned(),
            connection: event.connection.clone().into_owned(),
            entity: event.entity.unwrap_or_default().to_owned(),
            missing: open.next,
            waiting: *waiting,
            held: open.held.len(),
            since: rfc3339(since),
            deadline: (!open.gap.is_parked()).then(|| rfc3339(open.gap.deadline_ms)).flatten(),
        })
    }
}

/// The open gaps of a pipeline as of its last checkpoints: by partition, the first to expire first, parked ones last.
///
/// # Errors
/// Kafka does not answer, or a journal cannot be followed.
pub fn list(config: &Config, context: &KafkaContext) -> Result<Vec<GapStatus>, InspectError> {
    let reader = Reader::new(context)?;
    let mut found = Vec::new();
    for partition in 0..partitions(config) {
        let kept = inspect::partition(&reader, context, partition, &|_| false)?;
        found.extend(kept.replay.state.gaps().filter_map(|open| GapStatus::of(partition, &open)));
    }
    Ok(found)
}

/// A table for people, of the first gaps.
#[must_use]
pub fn table(gaps: &[GapStatus], rows_max: usize) -> String {
    let mut rows = vec![
        ["partition", "source", "connection", "entity", "missing", "held", "since", "wait over"]
            .map(str::to_owned),
    ];
    for gap in gaps.iter().take(rows_max) {
        let or_dash = |text: &str| if text.is_empty() { "-".to_owned() } else { text.to_owned() };
        let missing = match (gap.missing, gap.waiting - 1) {
            (None, last) => format!("before {}", last + 1),
            (Some(first), last) if first == last => first.to_string(),
            (Some(first), last) => format!("{first} to {last}"),
        };
        rows.push([
            gap.partition.to_string(),
            gap.source.clone(),
            or_dash(&gap.connection),
            gap.entity.clone(),
            missing,
            gap.held.to_string(),
            gap.since.clone().unwrap_or_default(),
            gap.deadline.clone().unwrap_or_else(|| "parked".to_owned()),
        ]);
    }
    let mut out = String::new();
    for row in &rows {
        let cells = row.iter().enumerate().map(|(column, cell)| {
            let width = rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
            format!("{cell:<width$}")
        });
        out.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        out.push('\n');
    }
    if gaps.len() > rows_max {
        out.push_str(&format!("and {} more; --limit shows them\n", gaps.len() - rows_max));
    }
    out
}

/// Which gap to go on without, who says so, and why.
#[derive(Clone, Debug)]
pub struct Skip {
    /// The source.
    pub source: String,
    /// The connection; empty where there is none.
    pub connection: String,
    /// The entity, as events have it in the log.
    pub entity: String,
    /// Who.
    pub by: String,
    /// What for.
    pub why: String,
}

/// Why a gap is not skipped.
#[derive(Debug, thiserror::Error)]
pub enum SkipError {
    /// Kafka or a journal.
    #[error("{0}")]
    Inspect(#[from] InspectError),
    /// Kafka.
    #[error("kafka: {0}")]
    Broker(#[from] BrokerError),
    /// Nothing waits.
    #[error(
        "no gap is open for entity `{entity}` of source `{source_name}`, connection `{connection}`; \
         processor gaps list shows those that are, as they are to be named"
    )]
    NoGap {
        /// The source.
        source_name: String,
        /// The connection.
        connection: String,
        /// The entity.
        entity: String,
    },
    /// The record would not be obeyed.
    #[error(
        "partition {0} is still folded by rules that know no skip; run the pipeline with this version of the program, \
         and then skip"
    )]
    TooEarly(i32),
}

/// What came of a skip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// The pipeline has folded it: the gap that was named is gone, and perhaps the entity has another one by now.
    Gone(Option<GapStatus>),
    /// It stands in the log, at this partition and offset; the pipeline has not folded it yet.
    Appended(i32, i64),
}

/// Appends the operator's word for the gap that stands as of the last checkpoint, and waits until the pipeline has folded
/// it.
///
/// # Errors
/// There is no such gap, or Kafka does not answer.
pub fn skip(
    config: &Config,
    context: &KafkaContext,
    skip: &Skip,
    wait: Duration,
) -> Result<Skipped, SkipError> {
    let reader = Reader::new(context)?;
    let key = entity_key(&skip.source, &skip.connection, &skip.entity);
    for partition in 0..partitions(config) {
        let kept = inspect::partition(&reader, context, partition, &|_| false)?;
        let state = &kept.replay.state;
        let Some(OpenGap { next, gap, .. }) = open_gap(state, key.as_bytes()) else { continue };
        let in_force = state.checkpointed().config.as_ref();
        if !in_force.is_some_and(|in_force| in_force.config.knows_snapshots()) {
            return Err(SkipError::TooEarly(partition));
        }
        let control = Control::GapSkip(GapSkip {
            pipeline: context.pipeline.clone(),
            next,
            opened_at: gap.opened_at,
            by: skip.by.clone(),
            why: skip.why.clone(),
        });
        let offset = KafkaLog::new(context.clone())?.append(partition, key.as_bytes(), &control)?;
        let until = Instant::now() + wait;
        loop {
            let kept = inspect::partition(&reader, context, partition, &|_| false)?;
            let state = &kept.replay.state;
            if state.checkpointed().next_offset > offset {
                let now = open_gap(state, key.as_bytes());
                return Ok(Skipped::Gone(now.and_then(|open| GapStatus::of(partition, &open))));
            }
            if Instant::now() >= until {
                return Ok(Skipped::Appended(partition, offset));
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }
    let Skip { source, connection, entity, .. } = skip.clone();
    Err(SkipError::NoGap { source_name: source, connection, entity })
}

fn open_gap<'a>(state: &'a State, key: &[u8]) -> Option<OpenGap<'a>> {
    state.gaps().find(|open| open.key == key)
}

fn partitions(config: &Config) -> i32 {
    i32::try_from(config.log.partitions).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_says_what_is_missing() {
        let gap = |missing, waiting, deadline: Option<&str>| GapStatus {
            partition: 3,
            source: "makini".into(),
            connection: "acme".into(),
            entity: "purchase-order-7".into(),
            missing,
            waiting,
            held: 2,
            since: Some("2026-01-01T00:00:00.000Z".into()),
            deadline: deadline.map(str::to_owned),
        };
        let gaps =
            [gap(Some(4), 5, Some("2026-01-01T00:00:05.000Z")), gap(Some(4), 7, None), gap(None, 40, None)];
        let text = table(&gaps, 2);
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[1].ends_with("4        2     2026-01-01T00:00:00.000Z  2026-01-01T00:00:05.000Z"),
            "{text}"
        );
        assert!(lines[2].contains("4 to 6") && lines[2].ends_with("parked"), "{text}");
        assert_eq!(lines[3], "and 1 more; --limit shows them");
        assert!(table(&gaps, 3).contains("before 40"));
    }
}
