//! `processor rebuild`: deletes a pipeline's journal and snapshots, so that its next start folds the event log from
//! its beginning. The sink's fence stays, and decides what is applied: what an older backup lacks, or nothing.

use std::time::{Duration, Instant};

use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use shared::config::Config;

use crate::broker::BrokerError;
use crate::kafka::{self, KafkaContext, Reader};

/// How often it is looked for them.
const LOOK: Duration = Duration::from_secs(1);
/// How long Kafka may take to tell of the group.
const REQUEST: Duration = Duration::from_secs(10);

/// Why a pipeline cannot be rebuilt.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    /// Kafka does not answer, or refuses.
    #[error("kafka: {0}")]
    Broker(#[from] BrokerError),
    /// An instance runs.
    #[error(
        "the group {group} still has members ({members}) after {} s: stop every instance of the pipeline first. One \
         that was killed counts until its session is over (--wait); nothing was changed",
        waited.as_secs()
    )]
    Members {
        /// The pipeline's group.
        group: String,
        /// Their client ids.
        members: String,
        /// How long they were waited for.
        waited: Duration,
    },
    /// The log does not have what the state was made from.
    #[error(
        "partition {partition} of {topic} starts at offset {low}: what was before it was deleted, and stands in the \
         journal and the snapshots alone; nothing was changed. Start a pipeline with a new name and a sink of its own"
    )]
    Trimmed {
        /// The event log.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its first offset.
        low: i64,
    },
}

/// What was deleted of a partition, or would be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deleted {
    /// The partition.
    pub partition: i32,
    /// Records of the journal, those that end transactions included.
    pub journal: i64,
    /// The same of the snapshots.
    pub snapshots: i64,
    /// Records of the event log that the next start folds.
    pub to_fold: i64,
}

/// Waits, at most so long, until the pipeline's group is empty, checks that the log is whole, and deletes the journal and
/// the snapshots, unless it is a dry run. To do it again after a crash in between is right.
///
/// # Errors
/// Nothing was changed, except where Kafka fails in between.
pub fn rebuild(
    config: &Config,
    context: &KafkaContext,
    wait: Duration,
    dry_run: bool,
) -> Result<Vec<Deleted>, RebuildError> {
    let reader = Reader::new(context)?;
    wait_until_empty(&reader, &context.group, wait)?;
    let mut deleted = Vec::new();
    for partition in 0..i32::try_from(config.log.partitions).unwrap_or(i32::MAX) {
        let (low, high) = reader.bounds(&context.topic, partition)?;
        if low > 0 {
            return Err(RebuildError::Trimmed { topic: context.topic.clone(), partition, low });
        }
        let records = |topic: &str| reader.bounds(topic, partition).map(|(first, end)| end - first);
        let (journal, snapshots) = (records(&context.journal)?, records(&context.snapshots)?);
        deleted.push(Deleted { partition, journal, snapshots, to_fold: high });
    }
    if dry_run {
        return Ok(deleted);
    }
    for Deleted { partition, .. } in &deleted {
        // The journal last: with it alone, the pipeline stops and names this command.
        for topic in [&context.snapshots, &context.journal] {
            kafka::delete_records(context, topic, *partition, Offset::End)?;
        }
    }
    Ok(deleted)
}

fn wait_until_empty(reader: &Reader, group: &str, wait: Duration) -> Result<(), RebuildError> {
    let started = Instant::now();
    loop {
        let members = members(reader, group)?;
        if members.is_empty() {
            return Ok(());
        }
        if started.elapsed() >= wait {
            let (group, members) = (group.to_owned(), members.join(", "));
            return Err(RebuildError::Members { group, members, waited: wait });
        }
        std::thread::sleep(LOOK);
    }
}

fn members(reader: &Reader, group: &str) -> Result<Vec<String>, BrokerError> {
    let list = reader.client().fetch_group_list(Some(group), REQUEST).map_err(|e| kafka::retry(&e))?;
    let groups = list.groups().iter().filter(|found| found.name() == group);
    Ok(groups.flat_map(|found| found.members()).map(|member| member.client_id().to_owned()).collect())
}
