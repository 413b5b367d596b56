//! The sink of connections' statuses: a compacted topic with a record for each connection, and one of the fence in
//! each partition, written in one transaction with the statuses that it covers.
//!
//! Each partition has a transactional id of its own, so that a claim fences every former owner off. What a partition
//! holds is read when it is claimed, and is in memory from there on. Called by a lane's thread.

mod content;
mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;

use shared::config::{ConnectionsSinkConfig, KafkaConfig};

use self::content::{Content, FenceRecord};
use self::shown::Shown;
use super::statuses::{self, Tellers};
use super::{Batch, Context, Sink, SinkError, rows};
use crate::broker::BrokerError;
use crate::connections::FENCE_KEY;
use crate::kafka::{Exclusive, ExclusiveRecord, Reader, WriteError};
use crate::position::{Epoch, Fence, Position};

/// The topic of one pipeline's statuses.
pub(super) struct Connections {
    topic: String,
    kafka: KafkaConfig,
    context: Context,
    tellers: Tellers,
    reader: Reader,
    partitions: BTreeMap<i32, Owned>,
    shown: Arc<Shown>,
}

/// A partition that was claimed.
struct Owned {
    /// `None` where it is to be replaced before it is used again.
    writer: Option<Exclusive>,
    content: Content,
    metrics: shown::Share,
}

impl Connections {
    /// Reads nothing yet: each partition is read when it is claimed.
    pub(super) fn open(config: &ConnectionsSinkConfig, context: &Context) -> Result<Self, SinkError> {
        let kafka = config.kafka.clone().ok_or_else(|| {
            SinkError::Halt("sink.connections knows no Kafka: its configuration was not checked".to_owned())
        })?;
        let client = format!("hookline-{}-connections", context.pipeline);
        let reader = Reader::of(&kafka, &client, &client).map_err(|e| retry(&config.topic, &e))?;
        Ok(Self {
            topic: config.topic.clone(),
            kafka,
            context: context.clone(),
            tellers: Tellers::new(&config.sources),
            reader,
            partitions: BTreeMap::new(),
            shown: Arc::new(Shown::new(config)),
        })
    }

    /// Reads a partition on to its end.
    fn read_on(&self, partition: i32, content: &mut Content) -> Result<(), SinkError> {
        content.read_on(&self.reader, &self.topic, partition)?;
        content.check_owner(&self.topic, &self.context)
    }

    fn read(&self, partition: i32) -> Result<Content, SinkError> {
        let mut content = Content::default();
        self.read_on(partition, &mut content)?;
        Ok(content)
    }

    fn begin(&self, partition: i32) -> Result<Exclusive, SinkError> {
        let id = format!("{}-{}-{partition}", self.context.pipeline, self.topic);
        Exclusive::begin(&self.kafka, &id, &self.topic, partition).map_err(|e| retry(&self.topic, &e))
    }

    /// A transaction that failed: whether another owner was the reason, says the topic.
    fn failed(&self, partition: i32, own: Epoch, error: WriteError) -> SinkError {
        let text = match error {
            WriteError::Failed(text) => return SinkError::Retry(format!("topic {}: {text}", self.topic)),
            WriteError::Fenced(text) => text,
        };
        match self.read(partition) {
            Ok(content) if content.fence.fence.epoch > own => {
                SinkError::Fenced { partition, found: content.fence.fence.epoch, own }
            }
            Ok(_) => SinkError::Retry(format!("topic {}: {text}", self.topic)),
            Err(error) => error,
        }
    }
}

impl Sink for Connections {
    fn claim(&mut self, partition: i32, epoch: Epoch) -> Result<Fence, SinkError> {
        self.partitions.remove(&partition);
        let refuse_newer = |content: &Content| match content.fence.fence.epoch {
            found if found > epoch => Err(SinkError::Fenced { partition, found, own: epoch }),
            _ => Ok(()),
        };
        // Looked for first: to begin would take the partition from a later owner.
        let mut content = self.read(partition)?;
        refuse_newer(&content)?;
        let writer = self.begin(partition)?;
        // What a former owner had under way is ended now, one way or the other.
        self.read_on(partition, &mut content)?;
        refuse_newer(&content)?;
        let fence = Fence { epoch, ..content.fence.fence };
        let record = content.fence.moved(&self.context, fence, &[]);
        let written = writer.write(&[encoded(&record)?]).map_err(|e| self.failed(partition, epoch, e))?;
        content.written(record, written.end);
        let metrics = self.shown.share(content.standings.values());
        let writer = (!written.was_slow).then_some(writer);
        self.partitions.insert(partition, Owned { writer, content, metrics });
        Ok(fence)
    }

    fn fence(&mut self, partition: i32) -> Result<Fence, SinkError> {
        let Some(mut owned) = self.partitions.remove(&partition) else {
            return Ok(self.read(partition)?.fence.fence);
        };
        let (_, end) = self.reader.bounds(&self.topic, partition).map_err(|e| retry(&self.topic, &e))?;
        // Nothing stands behind what was written last; if less is to be seen, its marker is not there yet.
        if end > owned.content.end {
            self.read_on(partition, &mut owned.content)?;
        }
        let fence = owned.content.fence.fence;
        self.partitions.insert(partition, owned);
        Ok(fence)
    }

    fn deliver(&mut self, batch: &Batch<'_>) -> Result<(), SinkError> {
        let rows = rows::of(batch)?;
        let told = self.tellers.tell(&rows)?;
        let (partition, own) = (batch.partition, batch.from.epoch);
        let known = self.partitions.get(&partition).map_or(Fence::EMPTY, |owned| owned.content.fence.fence);
        if (known.position, known.epoch) != (batch.from.position, own) {
            return Err(SinkError::Fenced { partition, found: known.epoch, own });
        }
        let Some(mut owned) = self.partitions.remove(&partition) else {
            return Err(SinkError::Fenced { partition, found: known.epoch, own });
        };
        let standings = statuses::standings(told, &owned.content.standings);
        let positions: Vec<Position> = rows.iter().map(|row| row.position).collect();
        let fence = owned.content.fence.moved(&self.context, batch.to, &positions);
        let mut records = vec![encoded(&fence)?];
        for standing in &standings {
            records.push((standing.key(), json(standing)?));
        }
        let writer = match owned.writer.take() {
            Some(writer) => writer,
            None => self.replace_writer(partition, &mut owned.content, known)?,
        };
        let written = writer.write(&records).map_err(|e| self.failed(partition, own, e))?;
        owned.writer = (!written.was_slow).then_some(writer);
        for standing in &standings {
            owned.metrics.changed(owned.content.standings.get(&standing.key()), standing);
            owned.content.standings.insert(standing.key(), standing.clone());
        }
        owned.content.written(fence, written.end);
        self.partitions.insert(partition, owned);
        Ok(())
    }

    fn release(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    fn count(&mut self, partition: i32, up_to: Position) -> Result<u64, SinkError> {
        content::count(&self.reader, &self.topic, partition, up_to)
    }
}

impl Connections {
    /// Another producer in place of one that was slow. It must not take the partition from a later owner unseen.
    fn replace_writer(
        &self,
        partition: i32,
        content: &mut Content,
        known: Fence,
    ) -> Result<Exclusive, SinkError> {
        let writer = self.begin(partition)?;
        self.read_on(partition, content)?;
        let found = content.fence.fence;
        if found == known {
            return Ok(writer);
        }
        Err(SinkError::Fenced { partition, found: found.epoch, own: known.epoch })
    }
}

fn encoded(fence: &FenceRecord) -> Result<ExclusiveRecord, SinkError> {
    Ok((FENCE_KEY.to_owned(), json(fence)?))
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, SinkError> {
    serde_json::to_vec(value).map_err(|e| SinkError::Halt(format!("a record cannot be written: {e}")))
}

fn retry(topic: &str, error: &BrokerError) -> SinkError {
    SinkError::Retry(format!("topic {topic}: {error}"))
}
