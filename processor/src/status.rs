//! `processor status`: where a pipeline stands, read from Kafka alone, so it works from anywhere and beside
//! anything.

use serde::Serialize;
use shared::config::Config;

use crate::inspect::{self, InspectError};
use crate::kafka::{KafkaContext, Reader};

/// Where one partition stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PartitionStatus {
    /// The event log's partition.
    pub partition: i32,
    /// The instance that claimed it last.
    pub owner: String,
    /// Records of the event log beyond the last checkpoint.
    pub lag: i64,
    /// Events applied so far.
    pub applied: u64,
    /// Events dead-lettered so far.
    pub dead_lettered: u64,
    /// Events that wait for a gap to close.
    pub held: u64,
    /// Entities with an open gap.
    pub open_gaps: usize,
    /// How many of these are parked: they are not given up.
    pub parked: usize,
    /// When the wait for the first of the others is over, RFC 3339.
    pub next_deadline: Option<String>,
    /// When the last checkpoint was written, RFC 3339.
    pub last_checkpoint: Option<String>,
}

/// Looks at every partition of a pipeline.
///
/// # Errors
/// Kafka does not answer, or a journal cannot be followed.
pub fn status(config: &Config, context: &KafkaContext) -> Result<Vec<PartitionStatus>, InspectError> {
    let reader = Reader::new(context)?;
    let partitions = i32::try_from(config.log.partitions).unwrap_or(i32::MAX);
    (0..partitions).map(|partition| of_partition(&reader, context, partition)).collect()
}

fn of_partition(
    reader: &Reader,
    context: &KafkaContext,
    partition: i32,
) -> Result<PartitionStatus, InspectError> {
    let kept = inspect::partition(reader, context, partition, &|_| false)?;
    let state = &kept.replay.state;
    let head = state.checkpointed();
    Ok(PartitionStatus {
        partition,
        owner: kept.owner,
        lag: kept.high - head.next_offset,
        applied: head.totals.applied,
        dead_lettered: head.totals.dead_lettered,
        held: head.totals.held,
        open_gaps: state.gaps_open(),
        parked: state.gaps_parked(),
        next_deadline: state.gaps_due(i64::MAX).next().and_then(|open| rfc3339(open.gap.deadline_ms)),
        last_checkpoint: kept.checkpoint_ms.and_then(rfc3339),
    })
}

pub(crate) fn rfc3339(ms: i64) -> Option<String> {
    jiff::Timestamp::from_millisecond(ms).ok().map(|t| format!("{t:.3}"))
}

/// A table for people.
#[must_use]
pub fn table(rows: &[PartitionStatus]) -> String {
    let mut out = format!(
        "{:>9}  {:<20} {:>9} {:>12} {:>8} {:>6} {:>5} {:>6}  {:<25} {:<25}\n",
        "partition",
        "owner",
        "lag",
        "applied",
        "dead",
        "held",
        "gaps",
        "parked",
        "next wait over",
        "last checkpoint"
    );
    for row in rows {
        let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "-".to_owned());
        out.push_str(&format!(
            "{:>9}  {:<20} {:>9} {:>12} {:>8} {:>6} {:>5} {:>6}  {:<25} {:<25}\n",
            row.partition,
            if row.owner.is_empty() { "-" } else { &row.owner },
            row.lag,
            row.applied,
            row.dead_lettered,
            row.held,
            row.open_gaps,
            row.parked,
            text(&row.next_deadline),
            text(&row.last_checkpoint)
        ));
    }
    out
}
