//! How far each owned partition is, for the metrics: written by lanes at checkpoints, read with the log's
//! ends to give the lag.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use metrics::{counter, gauge};

use crate::fold::State;
use crate::metrics as names;

/// A partition's last checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct At {
    /// The offset of the next record; `None` before the claim is done.
    pub next_offset: Option<i64>,
    /// The log's time there, milliseconds since 1970.
    pub stream_time_ms: i64,
}

/// How far each owned partition is.
#[derive(Debug)]
pub struct Progress {
    pipeline: String,
    parts: Mutex<BTreeMap<i32, At>>,
}

impl Progress {
    /// For one pipeline.
    #[must_use]
    pub fn new(pipeline: &str) -> Self {
        gauge!(names::OWNED, "pipeline" => pipeline.to_owned()).set(0.0);
        Self { pipeline: pipeline.to_owned(), parts: Mutex::default() }
    }

    /// A partition was assigned or taken back.
    pub fn owned(&self, partition: i32, owned: bool) {
        let mut parts = self.lock();
        if owned {
            parts.insert(partition, At::default());
        } else {
            parts.remove(&partition);
            for name in [
                names::LAG_RECORDS,
                names::LAG_SECONDS,
                names::HELD,
                names::GAPS,
                names::PARKED,
                names::IDS,
                names::ENTITIES,
            ] {
                self.gauge(name, partition, 0.0);
            }
        }
        gauge!(names::OWNED, "pipeline" => self.pipeline.clone()).set(parts.len() as f64);
    }

    /// A checkpoint is final (or a claim found one): the only place where events are counted. `snapshots` were applied
    /// since the one before.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub fn checkpointed(&self, partition: i32, state: &State, snapshots: u64) {
        let head = state.checkpointed();
        if let Some(at) = self.lock().get_mut(&partition) {
            *at = At { next_offset: Some(head.next_offset), stream_time_ms: head.stream_time_ms };
        }
        let totals = &head.totals;
        for (verdict, count) in [
            ("applied", totals.applied),
            ("duplicate", totals.duplicate),
            ("stale", totals.stale),
            ("dead_lettered", totals.dead_lettered),
            ("ignored", totals.ignored),
        ] {
            counter!(names::EVENTS, "pipeline" => self.pipeline.clone(), "partition" => partition.to_string(),
                     "verdict" => verdict)
            .absolute(count);
        }
        counter!(names::CONTROLS, "pipeline" => self.pipeline.clone(), "partition" => partition.to_string())
            .absolute(totals.control);
        counter!(names::SNAPSHOTS_APPLIED, "pipeline" => self.pipeline.clone(),
                 "partition" => partition.to_string())
        .increment(snapshots);
        let (ids, entities) = state.sizes();
        self.gauge(names::HELD, partition, totals.held as f64);
        self.gauge(names::GAPS, partition, state.gaps_open() as f64);
        self.gauge(names::PARKED, partition, state.gaps_parked() as f64);
        self.gauge(names::IDS, partition, ids as f64);
        self.gauge(names::IDS_SPILLED, partition, (ids - state.ids_in_memory()) as f64);
        self.gauge(names::ENTITIES, partition, entities as f64);
    }

    /// The log's end is known: the lag follows.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floating point")]
    pub fn log_ends_at(&self, partition: i32, high: i64, wall_ms: i64) {
        let Some(At { next_offset: Some(next), stream_time_ms }) = self.lock().get(&partition).copied()
        else {
            return;
        };
        let records = (high - next).max(0);
        let seconds = if records == 0 || stream_time_ms < 0 {
            0.0
        } else {
            (wall_ms - stream_time_ms).max(0) as f64 / 1_000.0
        };
        self.gauge(names::LAG_RECORDS, partition, records as f64);
        self.gauge(names::LAG_SECONDS, partition, seconds);
    }

    /// The partitions that are owned.
    #[must_use]
    pub fn partitions(&self) -> Vec<i32> {
        self.lock().keys().copied().collect()
    }

    fn gauge(&self, name: &'static str, partition: i32, value: f64) {
        gauge!(name, "pipeline" => self.pipeline.clone(), "partition" => partition.to_string()).set(value);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<i32, At>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
