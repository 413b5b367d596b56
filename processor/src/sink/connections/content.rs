//! What a partition of the topic holds: the newest status of each connection, and the fence.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::super::{Context, SinkError, rows};
use super::retry;
use crate::connections::{FENCE_KEY, Standing};
use crate::kafka::{Read, Reader};
use crate::position::{Digest, Epoch, Fence, Position};

/// The version of the records that this program writes.
const VERSION: u32 = 1;

/// A partition as far as it was read and written.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// By key.
    pub(super) standings: BTreeMap<String, Standing>,
    /// The fence; an empty one where there is none.
    pub(super) fence: FenceState,
    /// The offset after what was read and written.
    pub(super) end: i64,
}

/// The newest fence, and whose it is.
#[derive(Clone, Debug)]
pub(super) struct FenceState {
    pub(super) fence: Fence,
    /// Events applied so far.
    applied: u64,
    /// Pipeline, cluster and log; none where there is no fence yet.
    owner: Option<[String; 3]>,
}

impl Default for FenceState {
    fn default() -> Self {
        Self { fence: Fence::EMPTY, applied: 0, owner: None }
    }
}

/// The value of the fence's record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct FenceRecord {
    version: u32,
    pipeline: String,
    cluster: String,
    log: String,
    position: Position,
    digest: Digest,
    epoch: Epoch,
    /// Events applied up to the position.
    applied: u64,
    /// The fence that this one followed.
    from: Position,
    /// The positions of the events in between.
    batch: Vec<Position>,
}

impl FenceState {
    /// The record that moves the fence over a batch.
    pub(super) fn moved(&self, context: &Context, to: Fence, batch: &[Position]) -> FenceRecord {
        FenceRecord {
            version: VERSION,
            pipeline: context.pipeline.clone(),
            cluster: context.cluster_id.clone(),
            log: context.topic.clone(),
            position: to.position,
            digest: to.digest,
            epoch: to.epoch,
            applied: self.applied + batch.len() as u64,
            from: self.fence.position,
            batch: batch.to_vec(),
        }
    }
}

impl FenceRecord {
    fn read(value: &[u8]) -> Result<Self, SinkError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let changed = |_| {
            SinkError::Halt(format!(
                "the record {FENCE_KEY} holds what Hookline never writes: somebody changed it. Delete the topic, and run \
                 processor rebuild"
            ))
        };
        let Versioned { version } = serde_json::from_slice(value).map_err(changed)?;
        if version > VERSION {
            return Err(SinkError::Halt(format!(
                "the topic's records have version {version}; this program knows versions up to {VERSION}: run the \
                 version that wrote them, or a later one"
            )));
        }
        serde_json::from_slice(value).map_err(changed)
    }

    fn state(self) -> FenceState {
        FenceState {
            fence: Fence { position: self.position, digest: self.digest, epoch: self.epoch },
            applied: self.applied,
            owner: Some([self.pipeline, self.cluster, self.log]),
        }
    }
}

impl Content {
    /// Reads what came since, once no open transaction hides any.
    pub(super) fn read_on(&mut self, reader: &Reader, topic: &str, partition: i32) -> Result<(), SinkError> {
        let mut failed = None;
        let from = self.end;
        let end = reader.rest(topic, partition, from, &mut |read| {
            if failed.is_none() {
                failed = self.take(&read).err();
            }
        });
        self.end = end.map_err(|e| retry(topic, &e))?;
        failed.map_or(Ok(()), |error| Err(in_partition(topic, partition, error)))
    }

    fn take(&mut self, read: &Read<'_>) -> Result<(), SinkError> {
        if read.key() == FENCE_KEY.as_bytes() {
            self.fence = FenceRecord::read(read.value())?.state();
            return Ok(());
        }
        // Somebody may have taken a connection out by a record without a value.
        let key = String::from_utf8_lossy(read.key()).into_owned();
        match serde_json::from_slice(read.value()) {
            Ok(standing) => drop(self.standings.insert(key, standing)),
            Err(_) => drop(self.standings.remove(&key)),
        }
        Ok(())
    }

    /// The topic must be this pipeline's.
    pub(super) fn check_owner(&self, topic: &str, own: &Context) -> Result<(), SinkError> {
        let Some(found) = &self.fence.owner else { return Ok(()) };
        let found = found.each_ref().map(String::as_str);
        if found == [&*own.pipeline, &*own.cluster_id, &*own.topic] {
            return Ok(());
        }
        let way_out = "name a topic of its own in sink.connections.topic";
        Err(rows::foreign(&format!("topic {topic}"), way_out, found, own))
    }

    /// A transaction that moved the fence is committed.
    pub(super) fn written(&mut self, fence: FenceRecord, end: i64) {
        self.fence = fence.state();
        self.end = end;
    }
}

/// Counts the events up to a position, by the fence's records: each names the positions that it covers.
pub(super) fn count(reader: &Reader, topic: &str, partition: i32, up_to: Position) -> Result<u64, SinkError> {
    let mut counted = Ok(0);
    // The first of the fences beyond the position ends the search.
    let mut is_over = false;
    let read = reader.rest(topic, partition, 0, &mut |read| {
        if is_over || read.key() != FENCE_KEY.as_bytes() {
            return;
        }
        match FenceRecord::read(read.value()) {
            Ok(fence) if fence.position <= up_to => counted = Ok(fence.applied),
            Ok(fence) => {
                is_over = true;
                let beyond = fence.batch.iter().filter(|position| **position > up_to).count() as u64;
                // Earlier ones may have been compacted away.
                counted = if up_to >= fence.from || fence.applied == fence.batch.len() as u64 {
                    Ok(fence.applied - beyond)
                } else {
                    Err(SinkError::Halt(format!(
                        "topic {topic} partition {partition}: events up to {up_to} cannot be counted, since what is \
                         older than the fence of {} was compacted away",
                        fence.position
                    )))
                };
            }
            Err(error) => (is_over, counted) = (true, Err(error)),
        }
    });
    read.map_err(|e| retry(topic, &e))?;
    counted
}

fn in_partition(topic: &str, partition: i32, error: SinkError) -> SinkError {
    match error {
        SinkError::Halt(text) => SinkError::Halt(format!("topic {topic} partition {partition}: {text}")),
        SinkError::Retry(_) | SinkError::Refused(_) | SinkError::Waits(_) | SinkError::Fenced { .. } => error,
    }
}
