//! The transactions of one lane.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{Consumer, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use super::call::{Call, TRANSACTION, TRANSACTION_GIVEN_UP};
use super::producer::{Deliveries, JOURNAL, OUTPUT, settle};
use super::reader::Reader;
use super::{KafkaContext, REQUEST, let_go, list, retry};
use crate::broker::{BrokerError, Commit, Committed, End, Ended, Journal, Refusals, Transaction, conclude};
use crate::failpoint::{self, Point};
use crate::fold::{Action, Effect};
use crate::frame::Frame;
use crate::position::Position;

/// How long a full buffer is left alone to become emptier.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// After so many records acknowledgements are looked for: what was acknowledged is in memory until then.
const UNHEARD_MAX: usize = 500;

/// The transactions of one lane, on two producers in turn: one that has just committed is kept waiting by Kafka until
/// all markers of its transaction are written.
pub struct KafkaJournal {
    context: Arc<KafkaContext>,
    reader: Reader,
    /// Takes what is written.
    current: Option<KafkaTransaction>,
    /// Its transaction has ended.
    idle: Option<KafkaTransaction>,
    ending: Option<Ending>,
}

/// A transaction that another thread concludes.
struct Ending {
    call: Call<(KafkaTransaction, Result<Ended, BrokerError>)>,
    /// Closed when what was written is acknowledged, or will not be.
    settled: Option<mpsc::Receiver<()>>,
}

/// A producer, with or without an open transaction.
struct KafkaTransaction {
    context: Arc<KafkaContext>,
    transactional_id: String,
    producer: Arc<BaseProducer<Deliveries>>,
    open: bool,
    /// Records sent since acknowledgements were last looked for.
    unheard: usize,
}

impl KafkaJournal {
    /// Clients without a transaction.
    ///
    /// # Errors
    /// The configuration is not one that the client takes.
    pub fn new(context: KafkaContext) -> Result<Self, BrokerError> {
        let reader = Reader::new(&context)?;
        Ok(Self { reader, context: Arc::new(context), current: None, idle: None, ending: None })
    }

    /// The transaction to write to, behind what was written to the one before.
    fn transaction(&mut self) -> Result<&mut KafkaTransaction, BrokerError> {
        if let Some(settled) = self.ending.as_mut().and_then(|ending| ending.settled.take()) {
            // Where it is lost, so is what is written now.
            let _ = settled.recv_timeout(TRANSACTION_GIVEN_UP);
        }
        self.current.as_mut().ok_or_else(|| BrokerError::Retry("no producer".to_owned()))
    }
}

impl KafkaTransaction {
    /// A producer that becomes the owner of its transactional id.
    fn begin(
        context: &Arc<KafkaContext>,
        transactional_id: String,
    ) -> Result<Call<Result<Self, BrokerError>>, BrokerError> {
        let (config, bytes_max) = (&context.config, shared::topics::journal_record_bytes_max());
        let config =
            shared::kafka::transactional_producer(config, &context.client_id, &transactional_id, bytes_max);
        let producer: BaseProducer<Deliveries> =
            config.create_with_context(Deliveries::default()).map_err(|e| retry(&e))?;
        let (context, producer) = (context.clone(), Arc::new(producer));
        Call::begin(move || {
            producer.init_transactions(TRANSACTION).map_err(|e| retry(&e))?;
            Ok(Self { context, transactional_id, producer, open: false, unheard: 0 })
        })
    }

    fn send(
        &mut self,
        topic: &str,
        partition: i32,
        opaque: usize,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
    ) -> Result<(), BrokerError> {
        let producer = &self.producer;
        if !self.open {
            producer.begin_transaction().map_err(|e| retry(&e))?;
            self.open = true;
        }
        let mut record: BaseRecord<'_, [u8], [u8], usize> =
            BaseRecord::with_opaque_to(topic, opaque).partition(partition);
        if let Some(value) = value {
            record = record.payload(value);
        }
        if let Some(key) = key {
            record = record.key(key);
        }
        if let Some(headers) = headers {
            record = record.headers(headers);
        }
        let waited = Instant::now();
        loop {
            match producer.send(record) {
                Ok(()) => break,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back))
                    if waited.elapsed() < REQUEST =>
                {
                    producer.poll(Duration::ZERO);
                    std::thread::sleep(ROOM_PAUSE);
                    record = back;
                }
                Err((error, _)) => return Err(retry(&error)),
            }
        }
        self.unheard += 1;
        if self.unheard >= UNHEARD_MAX {
            self.unheard = 0;
            producer.poll(Duration::ZERO);
        }
        Ok(())
    }

    fn send_effect(
        &mut self,
        topic: &str,
        partition: i32,
        effect: &Effect,
        value: Option<&[u8]>,
        more: &[(&str, &str)],
    ) -> Result<(), BrokerError> {
        let mut headers = OwnedHeaders::new_with_capacity(20);
        for (name, value) in effect.frame.headers() {
            // Names that are not UTF-8 cannot be written by this client; no event of Hookline's has one.
            if let Ok(key) = std::str::from_utf8(name) {
                headers = headers.insert(Header { key, value });
            }
        }
        for (key, value) in more {
            headers = headers.insert(Header { key, value: Some(*value) });
        }
        let key = Some(effect.frame.key()).filter(|key| !key.is_empty());
        self.send(topic, partition, OUTPUT, key, value, Some(headers))
    }
}

impl Transaction for KafkaTransaction {
    type Generation = Arc<ConsumerGroupMetadata>;

    fn settle(&mut self) -> Result<Vec<(i32, i64)>, BrokerError> {
        settle(&self.producer)
    }

    fn write(&mut self, partition: i32, record: &[u8]) -> Result<(), BrokerError> {
        let context = self.context.clone();
        self.send(&context.journal, partition, JOURNAL, None, Some(record), None)
    }

    fn commit(
        &mut self,
        offsets: &[Commit],
        generation: &Arc<ConsumerGroupMetadata>,
    ) -> Result<Duration, BrokerError> {
        let started = Instant::now();
        let mut list = TopicPartitionList::with_capacity(offsets.len());
        for commit in offsets {
            let mut element = list.add_partition(&self.context.topic, commit.partition);
            element.set_offset(Offset::Offset(commit.offset)).map_err(|e| retry(&e))?;
            element.set_metadata(format!("{LINEAGE}{}", commit.lineage));
        }
        let sent = self.producer.send_offsets_to_transaction(&list, generation, TRANSACTION);
        sent.map_err(|e| retry(&e))?;
        failpoint::pass(Point::OffsetsSent);
        self.producer.commit_transaction(TRANSACTION).map_err(|e| retry(&e))?;
        self.open = false;
        Ok(started.elapsed())
    }
}

impl Journal for KafkaJournal {
    type Generation = Arc<ConsumerGroupMetadata>;

    fn renew(&mut self) -> Result<(), BrokerError> {
        let reader = Reader::new(&self.context)?;
        let former = (self.current.take(), self.idle.take(), self.ending.take());
        let_go((former, std::mem::replace(&mut self.reader, reader)));
        let id = &self.context.transactional_id;
        let one = KafkaTransaction::begin(&self.context, id.clone())?;
        // No lane's number, so that it is no other instance's first.
        let other = KafkaTransaction::begin(&self.context, format!("{id}.second"))?;
        self.current = Some(one.wait()??);
        self.idle = Some(other.wait()??);
        Ok(())
    }

    fn renew_ended(&mut self) -> Result<(), BrokerError> {
        let Some(former) = self.idle.take() else { return Ok(()) };
        let id = former.transactional_id.clone();
        let_go(former);
        self.idle = Some(KafkaTransaction::begin(&self.context, id)?.wait()??);
        Ok(())
    }

    fn is_open(&self) -> bool {
        self.ending.is_some() || self.current.as_ref().is_some_and(|current| current.open)
    }

    fn committed(&mut self, partition: i32) -> Result<Committed, BrokerError> {
        let asked = list(&self.context.topic, partition, 0)?;
        let answer = self.reader.client().committed_offsets(asked, REQUEST).map_err(|e| retry(&e))?;
        let Some(element) = answer.find_partition(&self.context.topic, partition) else {
            return Ok(Committed::default());
        };
        element.error().map_err(|e| retry(&e))?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            Offset::Beginning | Offset::End | Offset::Stored | Offset::Invalid | Offset::OffsetTail(_) => {
                None
            }
        };
        let lineage = element.metadata().strip_prefix(LINEAGE).and_then(|n| n.parse().ok()).unwrap_or(0);
        Ok(Committed { offset, lineage })
    }

    fn output(
        &mut self,
        topic: &str,
        partition: i32,
        effect: &Effect,
        deletes: bool,
    ) -> Result<(), BrokerError> {
        let value = (!deletes).then(|| effect.frame.body());
        let more = [(POSITION, &*effect.position.to_string())];
        self.transaction()?.send_effect(topic, partition, effect, value, &more)
    }

    fn dead_letter(&mut self, partition: i32, effect: &Effect, reason: &str) -> Result<(), BrokerError> {
        let context = self.context.clone();
        let (position, offset) = (effect.position.to_string(), effect.event_offset.to_string());
        let by = if matches!(effect.action, Action::DeadLetter(_)) { BY_FOLD } else { BY_SINK };
        let more = [
            (REASON, reason),
            (BY, by),
            ("hookline-pipeline", &*context.pipeline),
            (POSITION, &*position),
            ("hookline-log-offset", &*offset),
        ];
        let body = Some(effect.frame.body());
        self.transaction()?.send_effect(&context.dead_letters, partition, effect, body, &more)
    }

    fn end(&mut self, end: End<Self::Generation>) -> Result<(), BrokerError> {
        let (Some(mut transaction), None) = (self.current.take(), &self.ending) else {
            return Err(BrokerError::Retry("there is no transaction that can end".to_owned()));
        };
        self.current = self.idle.take();
        let (tell, settled) = mpsc::channel();
        let call = Call::begin(move || {
            let ended = conclude(&mut transaction, &end, || drop(tell));
            (transaction, ended)
        })?;
        self.ending = Some(Ending { call, settled: Some(settled) });
        Ok(())
    }

    fn ended(&mut self, wait: Duration) -> Result<Option<Ended>, BrokerError> {
        let Some(Ending { call, .. }) = &self.ending else {
            return Err(BrokerError::Retry("no transaction is being ended".to_owned()));
        };
        let Some((transaction, ended)) = call.end(wait)? else { return Ok(None) };
        (self.ending, self.idle) = (None, Some(transaction));
        ended.map(Some)
    }

    fn replay(
        &mut self,
        partition: i32,
        from: i64,
        until: i64,
        each: &mut dyn FnMut(i64, &[u8]),
    ) -> Result<(), BrokerError> {
        let topic = &self.context.journal;
        let (low, _) = self.reader.bounds(topic, partition)?;
        self.reader.read(topic, partition, from.max(low), true, &mut |read| {
            if read.offset() <= until {
                each(read.offset(), read.value());
            }
            read.offset() < until
        })
    }

    fn first(&mut self, partition: i32) -> Result<Option<(i64, Vec<u8>)>, BrokerError> {
        self.reader.first(&self.context.journal, partition)
    }

    fn chunk(&mut self, partition: i32, chunk: &[u8]) -> Result<(), BrokerError> {
        let context = self.context.clone();
        self.transaction()?.send(&context.snapshots, partition, OUTPUT, None, Some(chunk), None)
    }

    fn snapshots_end(&mut self, partition: i32) -> Result<i64, BrokerError> {
        self.reader.bounds(&self.context.snapshots, partition).map(|(_, end)| end)
    }

    fn chunks(&mut self, partition: i32, each: &mut dyn FnMut(i64, &[u8])) -> Result<(), BrokerError> {
        self.reader.all(&self.context.snapshots, partition, &mut |read| each(read.offset(), read.value()))
    }

    fn trim(&mut self, partition: i32, journal: i64, snapshots: i64) -> Result<(), BrokerError> {
        for (topic, below) in [(&self.context.journal, journal), (&self.context.snapshots, snapshots)] {
            delete_records(&self.context, topic, partition, Offset::Offset(below))?;
            failpoint::pass(Point::JournalTrimmed);
        }
        Ok(())
    }

    fn refusals(&mut self, partition: i32) -> Result<Refusals, BrokerError> {
        let mut refusals = Refusals::new();
        self.reader.all(&self.context.dead_letters, partition, &mut |read| {
            refusals.extend(refusal_of(&read.record().frame));
        })?;
        Ok(refusals)
    }
}

/// Deletes the records of a partition below an offset, or all of them.
pub(crate) fn delete_records(
    context: &KafkaContext,
    topic: &str,
    partition: i32,
    below: Offset,
) -> Result<(), BrokerError> {
    let admin: AdminClient<DefaultClientContext> =
        shared::kafka::client(&context.config, &context.client_id).create().map_err(|e| retry(&e))?;
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.map_err(|e| BrokerError::Retry(e.to_string()))?;
    let options = AdminOptions::new().request_timeout(Some(REQUEST)).operation_timeout(Some(REQUEST));
    let mut asked = TopicPartitionList::with_capacity(1);
    asked.add_partition_offset(topic, partition, below).map_err(|e| retry(&e))?;
    let done = runtime.block_on(admin.delete_records(&asked, &options)).map_err(|e| retry(&e))?;
    for element in done.elements() {
        element.error().map_err(|e| retry(&e))?;
    }
    Ok(())
}

const REASON: &str = "hookline-dead-letter-reason";
/// Who refused: one of the two below.
const BY: &str = "hookline-dead-letter-by";
const BY_SINK: &str = "sink";
const BY_FOLD: &str = "fold";
const POSITION: &str = "hookline-position";

/// The position of an output or a dead letter.
pub(crate) fn position_of(frame: &Frame) -> Option<Position> {
    header(frame, POSITION)?.parse().ok()
}

/// The refusal by the sink that a dead letter tells of.
pub(crate) fn refusal_of(frame: &Frame) -> Option<(Position, String)> {
    (header(frame, BY)? == BY_SINK).then_some(())?;
    Some((position_of(frame)?, header(frame, REASON)?.to_owned()))
}

fn header<'a>(frame: &'a Frame, name: &str) -> Option<&'a str> {
    let (_, value) = frame.headers().find(|(found, _)| *found == name.as_bytes())?;
    std::str::from_utf8(value?).ok()
}

/// Stands before the lineage in a committed offset's metadata.
const LINEAGE: &str = "hookline-lineage=";
