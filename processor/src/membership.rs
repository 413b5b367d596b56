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

use crate::clock::{Clock, SystemClock};
use crate::kafka::KafkaContext;
use crate::lane::Command;
use crate::progress::Progress;
use crate::tickets::Tickets;

/// How often the log's ends are asked for, for the lag.
const LAG_INTERVAL: Duration = Duration::from_secs(2);

/// What the rebalance callback works with.
struct Context {
    tickets: Arc<Tickets<ConsumerGroupMetadata>>,
    lanes: Vec<Sender<Command>>,
    health: Health,
}

impl ClientContext for Context {}

impl ConsumerContext for Context {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, err: RespErr, list: &mut TopicPartitionList) {
        let partitions: Vec<i32> = list.elements().iter().map(|e| e.partition()).collect();
        let done = match err {
            RespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.assign(consumer, list, &partitions),
            _ => self.revoke(consumer, list, &partitions),
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
        if !partitions.is_empty() {
            consumer.pause(list)?;
        }
        let Some(generation) = consumer.group_metadata() else { return Ok(()) };
        tracing::info!(?partitions, "partitions assigned");
        for (partition, ticket) in self.tickets.assign(partitions, generation) {
            self.tell(partition, Command::Assign(partition, ticket));
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
        // Waits for commits under way. After it, nothing is committed for these partitions.
        self.tickets.revoke(partitions);
        tracing::info!(?partitions, lost = consumer.assignment_lost(), "partitions taken back");
        for partition in partitions {
            self.tell(*partition, Command::Revoke(*partition));
        }
        consumer.incremental_unassign(list)
    }

    fn tell(&self, partition: i32, command: Command) {
        let lane = usize::try_from(partition).unwrap_or(0) % self.lanes.len().max(1);
        if let Some(lane) = self.lanes.get(lane) {
            // A lane that has ended is not told: the process is stopping.
            let _ = lane.send(command);
        }
    }
}

/// Joins the group and serves its rebalances until `stop` is set.
///
/// # Errors
/// The consumer cannot be made or subscribed: a configuration that the client does not take.
pub fn run(
    kafka: &KafkaContext,
    instance: &str,
    tickets: Arc<Tickets<ConsumerGroupMetadata>>,
    lanes: Vec<Sender<Command>>,
    progress: &Progress,
    health: &Health,
    stop: &AtomicBool,
) -> Result<(), KafkaError> {
    let context = Context { tickets, lanes, health: health.clone() };
    let mut config = shared::kafka::consumer(&kafka.config, &kafka.client_id, &kafka.group);
    config
        .set("group.instance.id", instance)
        .set("group.protocol", "classic")
        .set("partition.assignment.strategy", "cooperative-sticky")
        .set("session.timeout.ms", "45000")
        .set("heartbeat.interval.ms", "3000")
        .set("max.poll.interval.ms", "300000")
        .set("queued.max.messages.kbytes", "64");
    let consumer: BaseConsumer<Context> = config.create_with_context(context)?;
    consumer.subscribe(&[&kafka.topic])?;
    let clock = SystemClock::default();
    let mut asked = Instant::now();
    let mut reported = None;
    while !stop.load(Ordering::Acquire) {
        if let Some(Err(error)) = consumer.poll(Duration::from_millis(100)) {
            let text = error.to_string();
            if reported.as_ref() != Some(&text) {
                tracing::warn!(%error, "group");
                reported = Some(text);
            }
        }
        if asked.elapsed() >= LAG_INTERVAL {
            asked = Instant::now();
            for partition in progress.partitions() {
                if let Ok((_, high)) =
                    consumer.fetch_watermarks(&kafka.topic, partition, Duration::from_secs(1))
                {
                    progress.log_ends_at(partition, high, clock.wall_ms());
                }
            }
        }
    }
    Ok(())
}
