//! What a schedule is about: drawn from its seed before anything happens.

use std::time::Duration;

use processor::defect::Defect;
use processor::fold::FoldConfig;
use processor::lane::{BatchLimits, LaneConfig};
use shared::config::KafkaSinkConfig;

use crate::defects::Planted;
use crate::events::{self, SimEvent, Traffic};
use crate::random::Random;

/// How often things go wrong, in 1,000 cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The process dies in a call.
    pub crash: u32,
    /// The process or thread stands still in a call.
    pub stall: u32,
    /// A call to Kafka fails, done or not.
    pub kafka: u32,
    /// A call to the sink fails, done or not.
    pub sink: u32,
    /// The local store fails.
    pub store: u32,
    /// A commit is slow, and a copy of its end comes late.
    pub slow_commit: u32,
    /// Something in the world changes.
    pub world: u32,
    /// A marker of a transaction that is being ended is written, at each call of a lane.
    pub markers: u32,
}

/// A pipeline.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PipelinePlan {
    /// Its name.
    pub name: String,
    /// Outputs go to a topic, in the checkpoint's transaction.
    pub kafka_sink: bool,
    /// Instances.
    pub instances: usize,
    /// Lanes of each.
    pub lanes: usize,
    /// Configurations; an instance takes one of them at each start.
    pub folds: Vec<FoldConfig>,
    /// How often a checkpoint is made.
    pub checkpoint_interval: Duration,
    /// After how many records a checkpoint is made.
    pub checkpoint_records_max: usize,
    /// How effects are gathered for the sink.
    pub batch: BatchLimits,
    /// After how many bytes of the journal a snapshot is made.
    pub snapshot_after: u64,
    /// How large a snapshot's chunks are.
    pub snapshot_chunk_bytes: usize,
    /// With how many ids in memory they are spilled.
    pub ids_in_memory_max: usize,
}

impl PipelinePlan {
    /// A lane's settings.
    #[must_use]
    pub fn lane(&self, pipeline: usize, instance: String, variant: usize) -> LaneConfig {
        LaneConfig {
            pipeline: self.name.clone(),
            instance,
            fold: self.folds.get(variant).or(self.folds.first()).cloned().unwrap_or_else(nothing),
            checkpoint_interval: self.checkpoint_interval,
            checkpoint_records_max: self.checkpoint_records_max,
            batch: self.batch,
            snapshot_after: self.snapshot_after,
            snapshot_chunk_bytes: self.snapshot_chunk_bytes,
            ids_in_memory_max: self.ids_in_memory_max,
            outputs: self
                .kafka_sink
                .then(|| KafkaSinkConfig { topic: format!("out-{pipeline}"), deleted: Vec::new() }),
            names: processor::traces::Names::default(),
        }
    }
}

fn nothing() -> FoldConfig {
    FoldConfig {
        version: processor::fold::fold_version(),
        window_ms: 1,
        held_events_max: 1,
        held_bytes_max: 1,
        sources: std::collections::BTreeMap::new(),
    }
}

/// What happens when all is done and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastAct {
    /// Nothing.
    None,
    /// The sink is restored from an older backup: stop, until the right one is restored.
    OlderSink,
    /// The log is truncated and goes on with other records: stop.
    OtherLog,
    /// The journal is deleted and made anew: fold from the log's start, in silence.
    JournalLost,
    /// A checkpoint vanishes from the journal: stop.
    JournalTorn,
    /// A chunk of a snapshot vanishes: stop.
    SnapshotTorn,
    /// The group's committed offsets expire: nobody notices.
    OffsetsExpired,
    /// A sink is restored from an older backup, and its pipeline is rebuilt: what the backup lacks is applied.
    Rebuilt,
    /// Records of the log are deleted before they are folded: stop.
    DeletedUnread,
    /// The journal is deleted, and the log's start too: stop.
    JournalAndStartLost,
    /// A zombie's claim hangs while the journal is trimmed, then all disks are lost: nobody notices.
    ClaimHangs,
}

/// A schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Partitions of the log.
    pub partitions: i32,
    /// The pipelines.
    pub pipelines: Vec<PipelinePlan>,
    /// What is sent.
    pub traffic: Vec<SimEvent>,
    /// How many things happen before all is healed.
    pub ticks: usize,
    /// What goes wrong.
    pub rates: Rates,
    /// The group takes checkpoints of zombies, which are lost with their disks right after: the journal's
    /// epochs alone keep those out. Only for sinks with a fence, and where nothing is dead-lettered.
    pub unfenced_group: bool,
    /// Stalls are long: others take over, and give back, meanwhile.
    pub long_stalls: bool,
    /// The instances begin with the first version of the fold, and may be upgraded.
    pub first_fold: bool,
    /// An operator goes on without what parked entities wait for, once all else is done.
    pub operator: bool,
    /// What happens at the end.
    pub last_act: LastAct,
    /// The deliberate defect, if there is one.
    pub planted: Option<Planted>,
}

impl Plan {
    /// Draws a schedule.
    #[must_use]
    pub fn draw(seed: u64, planted: Option<Planted>) -> Self {
        let mut random = Random::new(seed ^ 0x5eed);
        let unfenced_group = random.chance(80);
        let long_stalls = unfenced_group || random.chance(180);
        let with_dead_letters = !unfenced_group && random.chance(700);
        let with_poison = !unfenced_group && random.chance(450);
        // Small states, written often: snapshots of several parts, cut anywhere.
        let snapshots = !unfenced_group && random.chance(400);
        let events = if long_stalls || snapshots { 40 + random.below(100) } else { 12 + random.below(60) };
        let poison = if with_poison { [60, 400][usize::from(snapshots)] } else { 0 };
        let traffic = events::traffic(&mut random, Traffic { events, with_dead_letters, poison });
        let rough = random.pick(&[0, 1, 2, 4, 8]).unwrap_or(1);
        let some =
            |random: &mut Random, per_mille: u32| if random.chance(700) { per_mille * rough } else { 0 };
        let mut rates = Rates {
            crash: some(&mut random, 2),
            stall: some(&mut random, 6),
            kafka: some(&mut random, 8),
            sink: some(&mut random, 15),
            store: some(&mut random, 6),
            slow_commit: some(&mut random, 25),
            world: 5 + some(&mut random, 15),
            markers: random.pick(&[400, 400, 100, 20]).unwrap_or(400),
        };
        if snapshots {
            rates.crash = rates.crash.max(8);
            rates.markers = random.pick(&[400, 5, 2]).unwrap_or(5);
        }
        if long_stalls {
            rates.stall = rates.stall.clamp(12, 24);
            rates.world = rates.world.max(30);
        }
        let count = if random.chance(350) { 2 } else { 1 };
        let pipelines = (0..count)
            .map(|n| {
                let usual = events::usual_config(&mut random, with_dead_letters);
                let variants = if random.chance(500) { 2 + random.below(2) } else { 1 };
                PipelinePlan {
                    name: format!("p{n}"),
                    kafka_sink: !unfenced_group && random.chance(if long_stalls { 600 } else { 400 }),
                    instances: if long_stalls { 2 } else { 1 + usize::from(snapshots) + random.below(3) },
                    lanes: if snapshots { 1 } else { 1 + random.below(2) },
                    folds: (0..variants).map(|v| variant(&mut random, &usual, v, unfenced_group)).collect(),
                    checkpoint_interval: Duration::from_millis([20, 100, 500, 2_000][random.below(4)]),
                    checkpoint_records_max: [1, 3, 10, 50][random.below(if snapshots { 2 } else { 4 })],
                    snapshot_after: [0, 500, 3_000, u64::MAX][random.below(if snapshots { 1 } else { 4 })],
                    batch: match random.below(4) {
                        0 => BatchLimits {
                            waits: true,
                            effects_max: [1, 3, 1_000][random.below(3)],
                            bytes_max: [1, 2_000, 1 << 20][random.below(3)],
                        },
                        1 => BatchLimits { effects_max: 1 + random.below(4), ..BatchLimits::default() },
                        _ => BatchLimits::default(),
                    },
                    snapshot_chunk_bytes: match random.below(if snapshots { 2 } else { 3 }) {
                        0 => 60,
                        1 => 300,
                        _ => processor::snapshot::CHUNK_BYTES,
                    },
                    ids_in_memory_max: [0, 3, 12, usize::MAX][random.below(4)],
                }
            })
            .collect();
        let last_act = match random.below(14) {
            0 => LastAct::OlderSink,
            1 => LastAct::OtherLog,
            2 => LastAct::JournalLost,
            3 => LastAct::JournalTorn,
            4 => LastAct::SnapshotTorn,
            5 => LastAct::OffsetsExpired,
            6 => LastAct::ClaimHangs,
            7 | 8 => LastAct::Rebuilt,
            9 => LastAct::DeletedUnread,
            10 => LastAct::JournalAndStartLost,
            _ => LastAct::None,
        };
        // A snapshot that counts as a webhook may be a conflict, and so a dead letter.
        let first_fold = !unfenced_group && random.chance(150);
        let operator = random.chance(500);
        Self {
            partitions: i32::from(snapshots) + 1 + i32::try_from(random.below(3)).unwrap_or(0),
            pipelines,
            traffic,
            ticks: 80 + random.below(if long_stalls { 600 } else { 300 }),
            rates,
            unfenced_group,
            long_stalls,
            first_fold,
            operator,
            last_act,
            planted,
        }
    }

    /// The planned defect, where it is one of the shipped code.
    #[must_use]
    pub fn in_code(&self) -> Option<Defect> {
        match self.planted {
            Some(Planted::Code(defect)) => Some(defect),
            Some(_) | None => None,
        }
    }

    /// Whether the planned defect is this one.
    #[must_use]
    pub fn has(&self, planted: Planted) -> bool {
        self.planted == Some(planted)
    }
}

impl std::fmt::Display for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} partitions, {} events, {} ticks", self.partitions, self.traffic.len(), self.ticks)?;
        for p in &self.pipelines {
            let sink = if p.kafka_sink { "Kafka" } else { "fenced" };
            let (interval, records) = (p.checkpoint_interval, p.checkpoint_records_max);
            let (instances, lanes, folds) = (p.instances, p.lanes, p.folds.len());
            write!(f, "; {} ({sink} sink): {instances} instances of {lanes} lanes, ", p.name)?;
            write!(f, "{folds} configurations, checkpoints after {interval:?} or {records} records, ")?;
            write!(f, "snapshots after {} B in chunks of {} B", p.snapshot_after, p.snapshot_chunk_bytes)?;
            if p.ids_in_memory_max < usize::MAX {
                write!(f, ", more than {} ids spilled", p.ids_in_memory_max)?;
            }
        }
        write!(f, "; per mille: {:?}; last act: {:?}", self.rates, self.last_act)?;
        let modes = [
            (self.unfenced_group, "unfenced group"),
            (self.long_stalls, "long stalls"),
            (self.first_fold, "the first version of the fold"),
        ];
        modes.iter().filter(|(on, _)| *on).try_for_each(|(_, mode)| write!(f, "; {mode}"))
    }
}

fn variant(random: &mut Random, usual: &FoldConfig, variant: usize, unfenced: bool) -> FoldConfig {
    let mut config = events::fold_config(random, usual, variant);
    if unfenced {
        config.held_events_max = 1_000;
        // A repeat after the window would be a conflict, and so a dead letter.
        config.window_ms += 3_600_000;
        config.sources = usual.sources.clone();
    }
    config
}
