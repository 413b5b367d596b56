//! What a lane needs of Kafka, as small traits: the event log that it reads, and the journal's transactions that
//! it writes; and how a transaction ends ([`conclude`]). The shipped implementation is [`crate::kafka`].

use std::collections::BTreeMap;
use std::time::Duration;

use shared::poll::PollRequest;

use crate::control::Control;
use crate::failpoint::{self, Point};
use crate::fold::{Effect, Record};
use crate::position::Position;
use crate::tickets::Held;

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

    /// Asks the cluster with the client that [`Log::poll`] reads with.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn reach(&mut self, partition: i32) -> Result<(), BrokerError>;

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

/// What makes a transaction final.
#[derive(Debug)]
pub struct End<G> {
    /// Journal records, by partition; at most one of each.
    pub records: Vec<(i32, Vec<u8>)>,
    /// Of the same partitions.
    pub offsets: Vec<Commit>,
    /// Of the same partitions, and released when the end is known.
    pub held: Held<G>,
}

/// A transaction that has ended well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The offsets of the journal records, in their order.
    pub marks: Vec<i64>,
    /// How long the commit itself took.
    pub took: Duration,
}

/// The calls of which a transaction's end consists. All of them wait.
pub trait Transaction {
    /// The group's generation, by which Kafka fences members.
    type Generation;

    /// Waits until all that was written is acknowledged; returns partition and offset of each journal record
    /// since the last call.
    ///
    /// # Errors
    /// The transaction is lost.
    fn settle(&mut self) -> Result<Vec<(i32, i64)>, BrokerError>;

    /// Writes a journal record, opening a transaction where none is.
    ///
    /// # Errors
    /// The transaction is lost.
    fn write(&mut self, partition: i32, record: &[u8]) -> Result<(), BrokerError>;

    /// Adds the offsets and commits; returns how long that took.
    ///
    /// # Errors
    /// The transaction is lost, or its outcome is unknown.
    fn commit(&mut self, offsets: &[Commit], generation: &Self::Generation) -> Result<Duration, BrokerError>;
}

/// Ends a transaction: what was written so far (outputs, dead letters, chunks) is acknowledged, then the journal's
/// records are, then the offsets are added, then it is committed. Step P6 of the protocol: in no other order.
/// `settled` is called after the first of these steps: from then on nothing overtakes what was written.
///
/// # Errors
/// The transaction is lost, or its outcome is unknown.
pub fn conclude<T: Transaction>(
    transaction: &mut T,
    end: &End<T::Generation>,
    settled: impl FnOnce(),
) -> Result<Ended, BrokerError> {
    transaction.settle()?;
    settled();
    for (partition, record) in &end.records {
        transaction.write(*partition, record)?;
    }
    let written = transaction.settle()?;
    let marks = end.records.iter().map(|(partition, _)| acknowledged(&written, *partition));
    let marks = marks.collect::<Result<Vec<i64>, BrokerError>>()?;
    failpoint::pass(Point::JournalWritten);
    let took = transaction.commit(&end.offsets, end.held.generation())?;
    Ok(Ended { marks, took })
}

/// The transactions of one lane: outputs, dead letters, journal records and offsets, all or nothing. Two producers
/// take turns, so that one transaction is written while the one before is concluded.
pub trait Journal: Send {
    /// The group's generation, by which Kafka fences members.
    type Generation: Clone;

    /// Fresh producers, so that Kafka fences the former ones and aborts what they left open. Before the first
    /// transaction and after every abort or error.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn renew(&mut self) -> Result<(), BrokerError>;

    /// A fresh producer for the one whose transaction has ended, before its next one: after a slow commit. The
    /// transaction that is being written stays as it is.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn renew_ended(&mut self) -> Result<(), BrokerError>;

    /// Whether a transaction is written, or is being ended.
    fn is_open(&self) -> bool;

    /// What the group has committed for a partition.
    ///
    /// # Errors
    /// The cluster does not answer.
    fn committed(&mut self, partition: i32) -> Result<Committed, BrokerError>;

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

    /// Begins to [`conclude`] the transaction, and does not wait for it. What is written from here on is the next one's:
    /// the first of it waits until all of this one is acknowledged, for the order in the topics, and it cannot end
    /// before [`Journal::ended`] has told of this one's end.
    ///
    /// # Errors
    /// It is not begun; the transaction is lost.
    fn end(&mut self, end: End<Self::Generation>) -> Result<(), BrokerError>;

    /// The end of the transaction that is being concluded, if it comes in time.
    ///
    /// # Errors
    /// The transaction is lost, or its outcome is unknown.
    fn ended(&mut self, wait: Duration) -> Result<Option<Ended>, BrokerError>;

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
pub(crate) fn acknowledged(written: &[(i32, i64)], partition: i32) -> Result<i64, BrokerError> {
    let found = written.iter().find(|(p, _)| *p == partition).map(|(_, offset)| *offset);
    found.ok_or_else(|| {
        BrokerError::Retry(format!("the record of partition {partition} was not acknowledged"))
    })
}
