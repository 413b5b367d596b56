//! How far a program is, seen from outside: up to where `read_committed` readers may read its output topic. One small
//! request for all partitions, so that looking costs next to nothing; offsets become numbers of records after the run,
//! when the topic is read.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use hookline_tests::kafka::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use serde::Serialize;

use super::output::Output;
use crate::stats::round;
use crate::usage::Usage;

/// How often is looked.
const LOOK: Duration = Duration::from_millis(20);
/// All is there, and nothing more came for so long.
const QUIET: Duration = Duration::from_secs(2);
/// Without any progress for so long, the run has failed.
const STALL: Duration = Duration::from_secs(60);
const CALL_TIME_LIMIT: Duration = Duration::from_secs(30);
/// Between these parts of the records the rate is taken: a Java program is compiled while it runs, and is not measured
/// until most of that is done; and no partition has run dry until the end.
const STEADY: (f64, f64) = (0.4, 0.9);

/// Reads how far a topic's committed records go.
pub(crate) struct Progress {
    consumer: BaseConsumer,
    asked: TopicPartitionList,
}

/// One look.
#[derive(Clone, Debug)]
pub(crate) struct Look {
    /// Seconds since the program was started.
    at: f64,
    /// By partition, the offset behind the last record that is seen `read_committed`.
    ends: Vec<i64>,
    cpu_seconds: f64,
    kafka_cpu_seconds: f64,
}

/// How fast it went.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Pace {
    /// Committed output records a second, from four tenths of them to nine tenths.
    pub(crate) records_per_second: f64,
    /// From the first look that saw a record to the one that saw all.
    pub(crate) records_per_second_whole: f64,
    /// From the start of the process to that first look.
    pub(crate) first_records_seconds: f64,
    /// Of the program, from four tenths to nine tenths.
    pub(crate) cpu_us_per_record: f64,
    /// Of Kafka, the same.
    pub(crate) kafka_cpu_us_per_record: f64,
}

impl Progress {
    /// Of a topic that is there.
    pub(crate) fn of(bootstrap: &str, topic: &str, partitions: u32) -> anyhow::Result<Self> {
        let consumer = client_config(bootstrap)
            .set("group.id", "bench-progress")
            .set("isolation.level", "read_committed")
            .create()?;
        let mut asked = TopicPartitionList::new();
        for partition in 0..i32::try_from(partitions)? {
            // In this request a time of -1, which is what the end is written as, means the end.
            asked.add_partition_offset(topic, partition, Offset::End)?;
        }
        Ok(Self { consumer, asked })
    }

    /// Looks until `records` records and nothing more are there.
    pub(crate) fn watch(
        &self,
        records: u64,
        started: Instant,
        pid: u32,
        kafka_pid: u32,
    ) -> anyhow::Result<Vec<Look>> {
        let mut looks: Vec<Look> = Vec::new();
        let mut moved = Instant::now();
        loop {
            let began = Instant::now();
            let ends = self.ends()?;
            let cpu = |pid| Usage::of(pid).map(|usage| usage.cpu_seconds).context("a process has ended");
            let at = started.elapsed().as_secs_f64();
            let sum = ends.iter().sum::<i64>().unsigned_abs();
            if looks.last().is_none_or(|last| last.ends != ends) {
                moved = Instant::now();
                looks.push(Look { at, ends, cpu_seconds: cpu(pid)?, kafka_cpu_seconds: cpu(kafka_pid)? });
            }
            // The offsets count the ends of transactions too.
            if sum >= records && moved.elapsed() > QUIET {
                return Ok(looks);
            }
            ensure!(moved.elapsed() < STALL, "no progress for {} s, at {sum} of {records}", STALL.as_secs());
            thread::sleep(LOOK.saturating_sub(began.elapsed()));
        }
    }

    fn ends(&self) -> anyhow::Result<Vec<i64>> {
        let found = self.consumer.offsets_for_times(self.asked.clone(), CALL_TIME_LIMIT)?;
        let end = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            element.error()?;
            Ok(element.offset().to_raw().unwrap_or(0).max(0))
        };
        found.elements().iter().map(end).collect()
    }
}

impl Pace {
    /// Of the looks at a run whose output was `output`.
    pub(crate) fn of(looks: &[Look], output: &Output) -> anyhow::Result<Self> {
        let counted: Vec<(f64, &Look)> =
            looks.iter().map(|look| (output.records_before(&look.ends) as f64, look)).collect();
        let total = output.records() as f64;
        let first = counted.iter().find(|(count, _)| *count > 0.0).context("no record was seen")?;
        let last = counted.last().context("no look")?;
        ensure!(last.0 >= total, "only {} of {total} records were seen", last.0);
        let at = |part: f64| counted.iter().find(|(count, _)| *count >= part * total).unwrap_or(last);
        let (from, to) = (at(STEADY.0), at(STEADY.1));
        ensure!(to.1.at > from.1.at, "the run is too short to be measured: give more --events");
        let records = to.0 - from.0;
        Ok(Self {
            records_per_second: (records / (to.1.at - from.1.at)).round(),
            records_per_second_whole: ((last.0 - first.0) / (last.1.at - first.1.at).max(1e-9)).round(),
            first_records_seconds: round(first.1.at),
            cpu_us_per_record: round((to.1.cpu_seconds - from.1.cpu_seconds) * 1e6 / records),
            kafka_cpu_us_per_record: round(
                (to.1.kafka_cpu_seconds - from.1.kafka_cpu_seconds) * 1e6 / records,
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_is_taken_between_four_and_nine_tenths() {
        // Two partitions of fifty records each, the ends of transactions between them.
        let offsets: Vec<i64> = (0..50).map(|n| n + n / 10).collect();
        let output = Output::with_offsets(vec![offsets.clone(), offsets]);
        let looks: Vec<Look> = (0..=10)
            .map(|n: i32| Look {
                // Slower until half is done.
                at: f64::from(n) + if n < 5 { 0.0 } else { -0.5 * f64::from(n - 4) },
                ends: vec![i64::from(n) * 5 + i64::from(n) / 2; 2],
                cpu_seconds: 0.0001 * f64::from(n),
                kafka_cpu_seconds: 0.0,
            })
            .collect();
        let pace = Pace::of(&looks, &output).unwrap();
        assert!((pace.records_per_second - 20.0).abs() < 0.1, "{pace:?}");
        assert!((pace.cpu_us_per_record - 10.0).abs() < 0.1, "{pace:?}");
        assert!(Pace::of(&looks[..9], &output).is_err(), "not all was seen");
    }
}
