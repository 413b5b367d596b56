//! Membership of the pipeline's consumer group: a thread whose consumer joins, is told which partitions are
//! this instance's, and reads nothing. It issues and invalidates tickets and tells the lanes.
//!
//! Static membership (`group.instance.id`): a restart within the session time-out moves no partition.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_resp_err_t as RespErr;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};
use shared::admin::Health;
use shared::kafka::Doubt;

use crate::clock::{Clock, SystemClock};
use crate::failpoint::{self, Point};
use crate::kafka::{KafkaContext, let_go};
use crate::lane::Command;
use crate::progress::Progress;
use crate::tickets::Tickets;

/// How often the log's ends are asked for, for the lag.
const LAG_INTERVAL: Duration = Duration::from_secs(2);

/// How long after being fenced the group is joined anew.
const JOIN_AGAIN: Duration = Duration::from_secs(2);

/// How long Kafka may take to answer for that.
const REQUEST: Duration = Duration::from_secs(1);

/// How soon a member that says nothing loses its partitions; the configuration may say otherwise.
const TIMES: &[(&str, &str)] =
    &[("session.timeout.ms", "45000"), ("heartbeat.interval.ms", "3000"), ("max.poll.interval.ms", "300000")];

/// What the rebalance callback works with.
struct Context {
    tickets: Arc<Tickets<Arc<ConsumerGroupMetadata>>>,
    lanes: Vec<Sender<Command>>,
    health: Health,
    /// Another consumer is the member: what this one still hears, as it is closed, is the past.
    retired: AtomicBool,
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
        let done = if err == RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            self.assign(consumer, list, &partitions)
        } else {
            self.revoke(consumer, list, &partitions)
        };
        if let Err(error) = done {
            tracing::error!(%error, "the group's rebalance failed");
        }
    }
}

impl Context {
    fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &mut TopicPartitionList,
        partitions: &[i32],
    ) -> Result<(), KafkaError> {
        // This consumer reads nothing: an explicit offset keeps it from asking for one, and the pause from
        // fetching. The lanes read with consumers of their own.
        list.set_all_offsets(Offset::Offset(0))?;
        consumer.incremental_assign(list)?;
        if self.retired.load(Ordering::Acquire) {
            return Ok(());
        }
        if !partitions.is_empty() {
            consumer.pause(list)?;
        }
        let Some(generation) = consumer.group_metadata() else { return Ok(()) };
        tracing::info!(?partitions, "partitions assigned");
        // Before the group is ready: with it alone, the pipeline would count as ready.
        for partition in partitions {
            self.health.not_ready(crate::lane::part(*partition), crate::lane::NOT_CLAIMED);
        }
        let tickets = self.tickets.assign(partitions, Arc::new(generation));
        failpoint::pass(Point::Rebalancing);
        for (partition, ticket) in tickets {
            tell(&self.lanes, partition, Command::Assign(partition, ticket));
        }
        self.health.ready("group");
        Ok(())
    }

    fn revoke(
        &self,
        consumer: &BaseConsumer<Self>,
        list: &TopicPartitionList,
        partitions: &[i32],
    ) -> Result<(), KafkaError> {
        if self.retired.load(Ordering::Acquire) {
            return consumer.incremental_unassign(list);
        }
        // Waits for commits under way. After it, nothing is committed for these partitions.
        self.tickets.revoke(partitions);
        failpoint::pass(Point::Rebalancing);
        tracing::info!(?partitions, lost = consumer.assignment_lost(), "partitions taken back");
        for partition in partitions {
            tell(&self.lanes, *partition, Command::Revoke(*partition));
        }
        consumer.incremental_unassign(list)
    }
}

fn tell(lanes: &[Sender<Command>], partition: i32, command: Command) {
    let lane = usize::try_from(partition).unwrap_or(0) % lanes.len().max(1);
    if let Some(lane) = lanes.get(lane) {
        // A lane that has ended is not told: the process is stopping.
        let _ = lane.send(command);
    }
}

/// What a membership works with.
pub struct Membership {
    /// Names and settings.
    pub kafka: KafkaContext,
    /// The instance's name: the group's static member.
    pub instance: String,
    /// Issued and invalidated here.
    pub tickets: Arc<Tickets<Arc<ConsumerGroupMetadata>>>,
    /// Told of assignments.
    pub lanes: Vec<Sender<Command>>,
    /// The partitions that are owned.
    pub progress: Arc<Progress>,
    /// Told of Kafka and the group.
    pub health: Health,
}

/// Why a membership ends before its time.
#[derive(Debug, thiserror::Error)]
enum Lost {
    /// The client cannot be made or subscribed.
    #[error("{0}")]
    Config(#[from] KafkaError),
    /// Fenced by another member with the same name, or after an outage of the broker.
    #[error("out of the group: {0} (is the instance's name used twice?)")]
    Fenced(KafkaError),
    /// A fresh client reaches Kafka, this one does not.
    #[error("the client has lost Kafka")]
    Client,
}

/// Keeps up the membership until `stop` is set. A member that is fenced gives up its partitions and joins anew
/// after a while: Kafka fences a member that comes back after an outage of the broker, too. So does one whose
/// client has lost Kafka for good.
///
/// # Errors
/// The consumer cannot be made or subscribed: a configuration that the client does not take.
pub fn run(membership: &Membership, stop: &AtomicBool) -> Result<(), KafkaError> {
    let Membership { instance, tickets, lanes, progress, health, .. } = membership;
    while !stop.load(Ordering::Acquire) {
        let why = match serve(membership, stop) {
            Ok(()) => break,
            Err(Lost::Config(error)) => return Err(error),
            Err(why @ (Lost::Fenced(_) | Lost::Client)) => why,
        };
        tracing::error!(%why, instance, "joining the group anew");
        health.not_ready("group", why.to_string());
        let partitions = progress.partitions();
        tickets.revoke(&partitions);
        for partition in partitions {
            tell(lanes, partition, Command::Revoke(partition));
        }
        let again = Instant::now() + JOIN_AGAIN;
        while Instant::now() < again && !stop.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    Ok(())
}

/// Joins, and keeps up the membership as long as the client is a member.
fn serve(membership: &Membership, stop: &AtomicBool) -> Result<(), Lost> {
    let Membership { kafka, instance, tickets, lanes, health, .. } = membership;
    let retired = AtomicBool::new(false);
    let context = Context { tickets: tickets.clone(), lanes: lanes.clone(), health: health.clone(), retired };
    let mut config = shared::kafka::consumer(&kafka.config, &kafka.client_id, &kafka.group);
    config
        .set("group.instance.id", instance)
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("queued.max.messages.kbytes", "64");
    for (key, value) in TIMES {
        if !kafka.config.properties.contains_key(*key) {
            config.set(*key, *value);
        }
    }
    let consumer: BaseConsumer<Context> = config.create_with_context(context)?;
    consumer.subscribe(&[&kafka.topic])?;
    let kept = keep_up(&consumer, membership, stop);
    if kept.is_err() {
        consumer.context().retired.store(true, Ordering::Release);
        let_go(consumer);
    }
    kept
}

fn keep_up(
    consumer: &BaseConsumer<Context>,
    Membership { kafka, progress, health, .. }: &Membership,
    stop: &AtomicBool,
) -> Result<(), Lost> {
    let clock = SystemClock::default();
    let mut asked = Instant::now();
    let mut doubt = Doubt::default();
    while !stop.load(Ordering::Acquire) {
        match consumer.poll(Duration::from_millis(100)) {
            // Fenced by another member with the same name, mostly: this consumer will never work again.
            Some(Err(error @ KafkaError::MessageConsumptionFatal(_))) => return Err(Lost::Fenced(error)),
            // The client tries again by itself; whether Kafka can be reached is asked below.
            Some(Err(error)) => tracing::debug!(%error, "group"),
            Some(Ok(_)) | None => {}
        }
        if asked.elapsed() >= LAG_INTERVAL {
            asked = Instant::now();
            match consumer.fetch_metadata(Some(&kafka.topic), REQUEST) {
                Ok(_) => {
                    if doubt.reached() {
                        tracing::info!("Kafka can be reached again");
                    }
                    health.ready("broker");
                }
                Err(error) => {
                    if !doubt.is_out_of_reach() {
                        tracing::error!(%error, "Kafka cannot be reached; trying again until it can");
                    }
                    health.not_ready("broker", error.to_string());
                    if doubt.client_is_lost(&kafka.config, &kafka.client_id, &kafka.topic, REQUEST) {
                        return Err(Lost::Client);
                    }
                    continue;
                }
            }
            for partition in progress.partitions() {
                if let Ok((_, high)) = consumer.fetch_watermarks(&kafka.topic, partition, REQUEST) {
                    progress.log_ends_at(partition, high, clock.wall_ms());
                }
            }
        }
    }
    Ok(())
}
