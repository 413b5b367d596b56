//! What a lane needs of Kafka, as two small traits: the event log that it reads, and the journal's
//! transactions that it writes. The shipped implementation is [`crate::kafka`].

use std::collections::BTreeMap;
use std::time::Duration;

use shared::poll::PollRequest;

use crate::control::Control;
use crate::fold::{Effect, Record};
use crate::position::Position;

/// A request to Kafka failed.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Worth another try, after [`Journal::renew`] and a new claim.
    #[error("{0}")]
    Retry(String),
    /// The log does not have this offset any more (or not yet): reading on would skip records.
    #[error(
        "offset {offset} of partition {partition} is not in the event log, which has {low} to {high}; records \
         were deleted or the log was made anew"
    )]
    OutOfRange {
        /// The partition.
        partition: i32,
        /// The offset asked for.
        offset: i64,
        /// The first offset that is there.
        low: i64,
        /// The offset after the last.
        high: i64,
    },
}

/// The event log, as one lane reads it.
pub trait Log: Send {
    /// Fresh clients, without partitions: after every trouble with Kafka.
    ///
    /// # Errors
    /// The client cannot be made.
    fn renew(&mut self) -> Result<(), BrokerError>;

    /// Reads a partition from an offset on, also where it was being read elsewhere.
    ///
    /// # Errors
    /// The client cannot.
    fn start(&mut self, partition: i32, offset: i64) -> Result<(), BrokerError>;

    /// Stops reading a partition.
    fn stop(&mut self, partition: i32);

    /// The next record of any partition that was started, if one comes in time.
    ///
    /// # Errors
    /// The log cannot be read.
    fn poll(&mut self, wait: Duration) -> Result<Option<(i32, Record)>, BrokerError>;

    /// The first offset of a partition and the one after the last.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn bounds(&mut self, partition: i32) -> Result<(i64, i64), BrokerError>;

    /// Reads records from an offset on, apart from [`Log::poll`], until `each` returns false or `high` is met.
    ///
    /// # Errors
    /// The log cannot be read.
    fn scan(
        &mut self,
        partition: i32,
        from: i64,
        high: i64,
        each: &mut dyn FnMut(Record) -> bool,
    ) -> Result<(), BrokerError>;

    /// Appends a control record, outside of any transaction, and waits until it is acknowledged.
    ///
    /// # Errors
    /// It is not known to be in the log.
    fn append(&mut self, partition: i32, key: &[u8], control: &Control) -> Result<i64, BrokerError>;

    /// Asks the poller for an entity, outside of any transaction. Best effort: nothing waits for an acknowledgement.
    ///
    /// # Errors
    /// The wish is not sent.
    fn ask(&mut self, request: &PollRequest) -> Result<(), BrokerError>;
}

/// A committed offset of the pipeline's group.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Committed {
    /// The offset of the next record; `None` where nothing was committed.
    pub offset: Option<i64>,
    /// The lineage of the journal that it was committed with; 0 where none was.
    pub lineage: u64,
}

/// The offset to commit for a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The partition.
    pub partition: i32,
    /// The offset of the next record.
    pub offset: i64,
    /// The journal's lineage.
    pub lineage: u64,
}

/// The transactions of one lane: outputs, dead letters, journal records and offsets, all or nothing.
pub trait Journal: Send {
    /// The group's generation, by which Kafka fences members.
    type Generation;

    /// A fresh producer, so that Kafka fences the former one and aborts what it left open. Before the first
    /// transaction and after every abort, error or slow commit.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn renew(&mut self) -> Result<(), BrokerError>;

    /// Whether a transaction is open.
    fn is_open(&self) -> bool;

    /// What the group has committed for a partition.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn committed(&mut self, partition: i32) -> Result<Committed, BrokerError>;

    /// Writes a journal record, opening a transaction where none is.
    ///
    /// # Errors
    /// The transaction is lost.
    fn write(&mut self, partition: i32, record: &[u8]) -> Result<(), BrokerError>;

    /// Writes an applied event to an output topic of a Kafka sink, without its body where that is to delete.
    ///
    /// # Errors
    /// The transaction is lost.
    fn output(
        &mut self,
        topic: &str,
        partition: i32,
        effect: &Effect,
        deletes: bool,
    ) -> Result<(), BrokerError>;

    /// Writes a dead letter.
    ///
    /// # Errors
    /// The transaction is lost.
    fn dead_letter(&mut self, partition: i32, effect: &Effect, reason: &str) -> Result<(), BrokerError>;

    /// Waits until all that was written is acknowledged; returns partition and offset of each journal record
    /// since the last call.
    ///
    /// # Errors
    /// The transaction is lost.
    fn settle(&mut self) -> Result<Vec<(i32, i64)>, BrokerError>;

    /// Adds the offsets and commits.
    ///
    /// # Errors
    /// The transaction is lost, or its outcome is unknown.
    fn commit(&mut self, offsets: &[Commit], generation: &Self::Generation) -> Result<(), BrokerError>;

    /// Reads the journal of a partition from an offset (or, where that is gone, from its start) up to and
    /// including another one.
    ///
    /// # Errors
    /// The journal cannot be read.
    fn replay(
        &mut self,
        partition: i32,
        from: i64,
        until: i64,
        each: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), BrokerError>;

    /// The first committed record of a partition's journal, if there is one. An open transaction may hide it: it
    /// is waited for.
    ///
    /// # Errors
    /// The journal cannot be read, or an open transaction holds it up.
    fn first(&mut self, partition: i32) -> Result<Option<(i64, Vec<u8>)>, BrokerError>;

    /// Writes a chunk of a snapshot, opening a transaction where none is.
    ///
    /// # Errors
    /// The transaction is lost.
    fn chunk(&mut self, partition: i32, chunk: &[u8]) -> Result<(), BrokerError>;

    /// An offset of the snapshots' partition at or below that of the next chunk.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn snapshots_end(&mut self, partition: i32) -> Result<i64, BrokerError>;

    /// Reads all chunks of a partition's snapshots that are committed, also those that an open transaction hides:
    /// it is waited for.
    ///
    /// # Errors
    /// They cannot be read, or stay hidden.
    fn chunks(&mut self, partition: i32, each: &mut dyn FnMut(i64, &[u8])) -> Result<(), BrokerError>;

    /// Removes the journal's records below an offset and then, only then, the chunks below another one.
    ///
    /// # Errors
    /// It is not known to be done.
    fn trim(&mut self, partition: i32, journal: i64, snapshots: i64) -> Result<(), BrokerError>;

    /// Every refusal by the sink that is among a partition's dead letters, read as the chunks are.
    ///
    /// # Errors
    /// They cannot be read, or stay hidden.
    fn refusals(&mut self, partition: i32) -> Result<Refusals, BrokerError>;
}

/// What the sink refused for good, and why.
pub type Refusals = BTreeMap<Position, String>;

/// The offset of a partition's record among those that were acknowledged.
///
/// # Errors
/// It is not there: the record is not known to be in the topic.
pub fn acknowledged(written: &[(i32, i64)], partition: i32) -> Result<i64, BrokerError> {
    let found = written.iter().find(|(p, _)| *p == partition).map(|(_, offset)| *offset);
    found.ok_or_else(|| {
        BrokerError::Retry(format!("the record of partition {partition} was not acknowledged"))
    })
}
