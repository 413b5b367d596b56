//! `processor alerts`: tells people how connections are, by the topic of `sink.connections`.
//!
//! One thread reads statuses and decides ([`book`]); each channel is a thread of its own, so that one which fails holds
//! up no other. What was told stands in a topic, written after it was sent and before the offset is committed: a crash
//! in between repeats an alert under the same id, and nothing is left out.

pub mod book;
mod channel;
mod email;
pub mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use shared::admin::Health;
use shared::config::{AlertsConfig, Config};

use self::book::{Book, Outcome, Told};
use self::channel::{Channel, Done, Job};
use self::words::Words;
use crate::broker::BrokerError;
use crate::clock::{Clock as _, SystemClock};
use crate::connections::{FENCE_KEY, Labels, Standing};
use crate::failpoint::{self, Point};
use crate::kafka::{Appender, Reader, is_passing};

/// Alerts that may be under way at once: with more, further statuses wait in their topic.
const UNDER_WAY_MAX: usize = 10_000;
/// How long the thread waits for a status.
const POLL: Duration = Duration::from_millis(100);
/// How often offsets are committed, at most.
const COMMIT_EVERY: Duration = Duration::from_millis(500);
/// How old the labels of connections may be.
const LABELS_AGE_MAX: Duration = Duration::from_secs(60);
/// How long Kafka is left alone after it failed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one request to Kafka may take.
const REQUEST: Duration = Duration::from_secs(10);
/// How long alerts that are under way are waited for at the end.
const DRAIN: Duration = Duration::from_secs(5);

/// The group's part in `/readyz`.
const GROUP: &str = "group";

/// From the start on, until partitions are assigned: not ready.
#[must_use]
pub fn health() -> Health {
    let health = Health::default();
    health.not_ready(GROUP, "no partitions assigned yet");
    health
}

/// Why alerts do not start.
#[derive(Debug, thiserror::Error)]
pub enum AlertsError {
    /// A client cannot be made, or Kafka does not answer.
    #[error("kafka: {0}")]
    Kafka(#[from] KafkaError),
    /// The same.
    #[error("kafka: {0}")]
    Broker(#[from] BrokerError),
    /// A channel's configuration cannot be used.
    #[error("{0}")]
    Channel(String),
    /// A thread cannot be started.
    #[error("{0}")]
    Io(#[from] std::io::Error),
}

/// Reads statuses, decides, and has channels tell.
pub struct Alerts {
    config: Config,
    settings: AlertsConfig,
    statuses: String,
    consumer: BaseConsumer,
    reader: Reader,
    appender: Appender,
    book: Book,
    /// By name.
    channels: BTreeMap<String, Sender<Job>>,
    done: Receiver<Done>,
    /// What was told, and is not written yet.
    unwritten: VecDeque<(i32, Told)>,
    /// The partitions that are restored: the next offset, and the one that is committed.
    partitions: BTreeMap<i32, (i64, i64)>,
    labels: (Labels, Instant),
    health: Health,
    committed: Instant,
    /// Kafka failed, and this was said.
    trouble: Option<String>,
}

impl Alerts {
    /// Opens the channels, and joins the group of those who tell. `statuses` is the topic, `health` that of
    /// [`health`].
    ///
    /// # Errors
    /// Something that somebody has to change.
    pub fn start(
        config: &Config,
        settings: &AlertsConfig,
        statuses: &str,
        health: Health,
    ) -> Result<Self, AlertsError> {
        let (report, done) = mpsc::channel();
        let mut channels = BTreeMap::new();
        for (name, channel) in &settings.channels {
            let opened = Channel::open(name, channel)?;
            // The first increase of a counter that was not there before is none to Prometheus.
            for outcome in Outcome::ALL {
                metrics::counter!(crate::metrics::ALERTS, "channel" => name.clone(), "outcome" => outcome.name()).increment(0);
            }
            let (sender, jobs) = mpsc::channel();
            let (report, owned, retry_for) = (report.clone(), name.clone(), settings.retry_for.0);
            let thread = std::thread::Builder::new().name(format!("channel-{name}"));
            thread.spawn(move || channel::run(&owned, &opened, retry_for, &jobs, &report))?;
            channels.insert(name.clone(), sender);
        }
        // The group is named as the topic of what was told: two that tell of different statuses stay apart.
        let group = &settings.topic;
        let mut client = shared::kafka::consumer(&config.kafka, group, group);
        // A topic that is compacted loses nothing that counts.
        client.set("auto.offset.reset", "earliest");
        if let Some(host) = std::env::var("HOSTNAME").ok().filter(|host| !host.is_empty()) {
            client.set("group.instance.id", format!("alerts-{host}"));
        }
        let consumer: BaseConsumer = client.create()?;
        consumer.subscribe(&[statuses])?;
        Ok(Self {
            config: config.clone(),
            settings: settings.clone(),
            statuses: statuses.to_owned(),
            consumer,
            reader: Reader::of(&config.kafka, group, group)?,
            appender: Appender::new(&config.kafka, group)?,
            book: Book::new(settings),
            channels,
            done,
            unwritten: VecDeque::new(),
            partitions: BTreeMap::new(),
            labels: (Labels::read(config), Instant::now()),
            health,
            committed: Instant::now(),
            trouble: None,
        })
    }

    /// Works until it is told to stop; what is under way then has a few seconds to end.
    pub fn run(mut self, stop: &Arc<AtomicBool>) {
        while !stop.load(Ordering::Acquire) {
            if let Err(error) = self.turn() {
                self.failed(&error);
            }
        }
        let until = Instant::now() + DRAIN;
        while self.book.number_under_way() > 0 && Instant::now() < until {
            std::thread::sleep(POLL);
            self.collect();
            if self.write().is_err() {
                break;
            }
        }
        let left = self.book.number_under_way();
        if left > 0 {
            tracing::warn!(alerts = left, "alerts not sent yet; the next start sends them");
        }
        if let Err(error) = self.commit() {
            tracing::warn!(%error, "offsets not committed; the next start reads some statuses again");
        }
    }

    fn turn(&mut self) -> Result<(), AlertsError> {
        self.follow_assignment()?;
        if self.book.number_under_way() < UNDER_WAY_MAX {
            self.read_one()?;
        } else {
            std::thread::sleep(POLL);
        }
        self.dispatch();
        self.collect();
        self.write()?;
        if self.committed.elapsed() >= COMMIT_EVERY {
            self.commit()?;
        }
        if self.trouble.take().is_some() {
            tracing::info!("working again");
            self.health.ready("kafka");
        }
        Ok(())
    }

    fn failed(&mut self, error: &AlertsError) {
        let text = error.to_string();
        if self.trouble.as_ref() != Some(&text) {
            tracing::error!(error = text, "alerts wait for Kafka");
            self.health.not_ready("kafka", text.clone());
            self.trouble = Some(text);
        }
        std::thread::sleep(PAUSE);
    }

    /// Restores partitions that are new here, and lets go of those that are somebody else's.
    fn follow_assignment(&mut self) -> Result<(), AlertsError> {
        let assigned = self.consumer.assignment()?;
        let assigned: BTreeSet<i32> = assigned.elements().iter().map(|element| element.partition()).collect();
        let gone: Vec<i32> = self.partitions.keys().copied().filter(|p| !assigned.contains(p)).collect();
        for partition in gone {
            self.partitions.remove(&partition);
            self.book.forget(partition);
        }
        for partition in assigned {
            if self.partitions.contains_key(&partition) {
                continue;
            }
            let mut asked = TopicPartitionList::with_capacity(1);
            asked.add_partition(&self.statuses, partition);
            let answer = self.consumer.committed_offsets(asked, REQUEST)?;
            let committed = answer.elements().first().map(|element| element.offset());
            let Offset::Offset(committed) = committed.unwrap_or(Offset::Invalid) else {
                self.restore(partition, 0)?;
                continue;
            };
            self.restore(partition, committed)?;
        }
        Ok(())
    }

    /// What is known of a partition's connections up to an offset, and what was told of them.
    fn restore(&mut self, partition: i32, up_to: i64) -> Result<(), AlertsError> {
        let mut heard: Vec<(Standing, i64, i64)> = Vec::new();
        if up_to > 0 {
            self.reader.rest(&self.statuses, partition, 0, &mut |read| {
                if read.offset() < up_to
                    && let Some(standing) = standing_of(read.key(), read.value())
                {
                    heard.push((standing, read.time_ms(), read.offset()));
                }
            })?;
        }
        let mut told: BTreeMap<String, Told> = BTreeMap::new();
        self.reader.all(&self.settings.topic, partition, &mut |read| {
            if let Ok(record) = serde_json::from_slice(read.value()) {
                told.insert(String::from_utf8_lossy(read.key()).into_owned(), record);
            }
        })?;
        for (standing, heard_ms, offset) in heard {
            self.book.hear(standing, heard_ms, (partition, offset));
        }
        self.book.remember(partition, told);
        self.partitions.insert(partition, (up_to, up_to));
        self.health.ready(GROUP);
        tracing::info!(partition, offset = up_to, "statuses are followed");
        Ok(())
    }

    /// Takes in the next status, if there is one.
    fn read_one(&mut self) -> Result<(), AlertsError> {
        let read = match self.consumer.poll(POLL) {
            None => None,
            Some(Ok(message)) => Some(copied(&message)),
            Some(Err(error)) if is_passing(&error) => None,
            Some(Err(error)) => return Err(error.into()),
        };
        let Some((partition, offset, time_ms, standing)) = read else { return Ok(()) };
        if !self.partitions.contains_key(&partition) {
            // Assigned by the same call; what comes now would be lost if this fails.
            if let Err(error) = self.restore(partition, offset) {
                self.seek(partition, offset)?;
                return Err(error);
            }
        }
        if let Some((next, _)) = self.partitions.get_mut(&partition) {
            *next = offset + 1;
        }
        if let Some(standing) = standing {
            self.book.hear(standing, time_ms, (partition, offset));
        }
        Ok(())
    }

    fn seek(&self, partition: i32, offset: i64) -> Result<(), AlertsError> {
        Ok(self.consumer.seek(&self.statuses, partition, Offset::Offset(offset), REQUEST)?)
    }

    /// Hands what is due to its channels.
    fn dispatch(&mut self) {
        let now_ms = SystemClock::default().wall_ms();
        let room = UNDER_WAY_MAX.saturating_sub(self.book.number_under_way());
        let due = self.book.due(now_ms, room);
        if !due.is_empty() && self.labels.1.elapsed() > LABELS_AGE_MAX {
            self.labels = (Labels::read(&self.config), Instant::now());
        }
        for alert in due {
            let labels = self.labels.0.of(&alert.standing.source, &alert.standing.connection);
            let reconnect = self.settings.reconnect_url.as_ref().map(|url| url.get_ref().as_str());
            let job = Job { words: Words::of(&alert, labels, reconnect), alert };
            for name in &job.alert.channels {
                if let Some(channel) = self.channels.get(name) {
                    // It ends with this sender only.
                    let _ = channel.send(job.clone());
                }
            }
        }
    }

    /// Notes what channels are done with.
    fn collect(&mut self) {
        while let Ok(Done { key, channel, outcome }) = self.done.try_recv() {
            self.unwritten.extend(self.book.finished(&key, &channel, outcome));
        }
        metrics::gauge!(crate::metrics::ALERTS_UNDER_WAY).set(self.book.number_under_way() as f64);
    }

    /// Writes what was told; what cannot be written stays for the next turn.
    fn write(&mut self) -> Result<(), AlertsError> {
        while let Some((partition, told)) = self.unwritten.front() {
            failpoint::pass(Point::AlertSent);
            let key = shared::event::encode_source(&told.source, &told.connection);
            let value = serde_json::to_vec(told).map_err(|e| BrokerError::Retry(e.to_string()))?;
            self.appender.append(&self.settings.topic, *partition, &key, &value)?;
            self.unwritten.pop_front();
        }
        Ok(())
    }

    /// Commits what needs no reading again: everything before the first alert that is not told.
    fn commit(&mut self) -> Result<(), AlertsError> {
        self.committed = Instant::now();
        let mut list = TopicPartitionList::new();
        let mut moved = Vec::new();
        for (partition, (next, committed)) in &self.partitions {
            let unwritten = self.unwritten.iter().any(|(of, _)| of == partition);
            let to = self.book.first_under_way(*partition).unwrap_or(*next).min(*next);
            if to > *committed && !unwritten {
                list.add_partition_offset(&self.statuses, *partition, Offset::Offset(to))?;
                moved.push((*partition, to));
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        self.consumer.commit(&list, CommitMode::Sync)?;
        for (partition, to) in moved {
            if let Some((_, committed)) = self.partitions.get_mut(&partition) {
                *committed = to;
            }
        }
        Ok(())
    }
}

/// Partition, offset, time and status of a record; no status in the fence's, and where one was taken out.
fn copied(message: &BorrowedMessage<'_>) -> (i32, i64, i64, Option<Standing>) {
    let standing = standing_of(message.key().unwrap_or_default(), message.payload().unwrap_or_default());
    let time_ms = message.timestamp().to_millis().unwrap_or(0);
    (message.partition(), message.offset(), time_ms, standing)
}

fn standing_of(key: &[u8], value: &[u8]) -> Option<Standing> {
    (key != FENCE_KEY.as_bytes()).then(|| serde_json::from_slice(value).ok()).flatten()
}
