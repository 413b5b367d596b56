//! `scaling`: how the cost of an event grows with what there is much of: entities, remembered ids, partitions, held
//! events, instances; and the time of a restart with the state. One dimension at a time, around a base case of 10,000
//! equally likely entities in 8 partitions.
//!
//! Each point is the benchmark `processor` (or `restart`) with other numbers, on a Kafka of its own, and checks what that
//! checks. Dimensions, and points of them, can be measured one by one: what the table has of the others stays.

mod chart;
mod table;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::{Options as ProcessorOptions, Sink, fill, instances, restart, run_on};

const ENTITIES: u32 = 10_000;
const PARTITIONS: u32 = 8;
const LANES: u32 = 2;
const BODY_BYTES: usize = 500;
/// Where there are many events or the state is what counts.
const SMALL_BODY_BYTES: usize = 50;
/// Of these many ids to one entity the state of a restart is.
const IDS_PER_ENTITY: u64 = 10;

/// Options of the benchmark.
#[derive(Args)]
pub(crate) struct Options {
    /// Only these dimensions.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Dimension>,
    /// A few small points of each dimension, in some minutes: whether it works, not how it grows.
    #[arg(long)]
    quick: bool,
    /// Only the points from this number on: of entities, ids, partitions …
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// No point beyond this number of events, for a machine or a time that is small.
    #[arg(long, default_value_t = 50_000_000)]
    events_max: u64,
    /// The directory of the table and the diagrams.
    #[arg(long, default_value = "benches/results")]
    out: PathBuf,
}

/// What there is more and more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Dimension {
    Entities,
    Ids,
    Partitions,
    Held,
    Instances,
    Restart,
}

/// How likely the entities are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
enum Law {
    Uniform,
    Zipf,
}

/// What an event costs.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Cost {
    /// Of all threads of all instances.
    pub(super) cpu_us_per_event: f64,
    pub(super) events_per_second: f64,
    /// The most resident memory, of all instances together.
    pub(super) peak_memory_mb: f64,
}

/// How long a restart takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Restart {
    with_disk_seconds: f64,
    without_disk_seconds: f64,
    peak_memory_mb: f64,
}

/// What was measured at a point.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(untagged)]
enum Measured {
    Cost(Cost),
    Restart(Restart),
}

/// One point of a curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
struct Point {
    dimension: Dimension,
    entities: Law,
    /// How many there are of the dimension.
    number: u64,
    events: u64,
    #[serde(flatten)]
    measured: Measured,
}

/// What was measured.
#[derive(Serialize)]
pub(crate) struct Figures {
    name: &'static str,
    points: Vec<Point>,
    /// Bytes of the peak memory that each id takes, between the smallest and the largest number of ids.
    bytes_per_id: Option<f64>,
}

/// A point that is to be measured.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    dimension: Dimension,
    number: u64,
    entities: Law,
}

impl Dimension {
    const ALL: [Self; 6] =
        [Self::Entities, Self::Ids, Self::Partitions, Self::Held, Self::Instances, Self::Restart];

    const fn numbers(self, quick: bool) -> &'static [u64] {
        match (self, quick) {
            (Self::Entities, false) => &[1_000, 10_000, 100_000, 1_000_000, 10_000_000],
            (Self::Entities, true) => &[1_000, 100_000],
            (Self::Ids, false) => &[1_000_000, 5_000_000, 10_000_000, 20_000_000, 50_000_000],
            (Self::Ids, true) => &[200_000, 800_000],
            (Self::Partitions, false) => &[1, 8, 64, 256],
            (Self::Partitions, true) => &[1, 64],
            (Self::Held, false) => &[0, 1_000, 10_000, 100_000],
            (Self::Held, true) => &[0, 10_000],
            (Self::Instances, false) => &[1, 2, 4],
            (Self::Instances, true) => &[1, 2],
            (Self::Restart, false) => &[100_000, 1_000_000, 10_000_000],
            (Self::Restart, true) => &[200_000],
        }
    }
}

impl Wanted {
    fn all(options: &Options) -> Vec<Self> {
        let chosen = |dimension: &Dimension| options.only.is_empty() || options.only.contains(dimension);
        let mut wanted = Vec::new();
        for dimension in Dimension::ALL.into_iter().filter(chosen) {
            for number in dimension.numbers(options.quick) {
                let uniform = Self { dimension, number: *number, entities: Law::Uniform };
                wanted.push(uniform);
                if dimension == Dimension::Entities {
                    wanted.push(Self { entities: Law::Zipf, ..uniform });
                }
            }
        }
        wanted.retain(|wanted| wanted.number >= options.from && wanted.events(options) <= options.events_max);
        wanted
    }

    /// So many that there is as much as there should be at the end.
    fn events(self, options: &Options) -> u64 {
        let base = if options.quick { 200_000 } else { 1_000_000 };
        match self.dimension {
            Dimension::Ids | Dimension::Restart => self.number,
            Dimension::Entities => self.number.max(base),
            Dimension::Partitions | Dimension::Held | Dimension::Instances => base,
        }
    }

    fn measure(self, options: &Options) -> anyhow::Result<Measured> {
        let number = u32::try_from(self.number)?;
        let mut processor = ProcessorOptions {
            events: self.events(options),
            entities: ENTITIES,
            lanes: LANES,
            ..ProcessorOptions::of_one_run(Sink::Kafka, PARTITIONS, BODY_BYTES)
        };
        match self.dimension {
            Dimension::Entities => processor.entities = number,
            Dimension::Partitions => processor.partitions = number,
            Dimension::Ids => processor.body = SMALL_BODY_BYTES,
            Dimension::Instances => return Ok(Measured::Cost(instances::measure(&processor, number)?)),
            Dimension::Restart => return Ok(Measured::Restart(Restart::measure(self.number)?)),
            Dimension::Held => {}
        }
        let mut workload = fill::workload(&processor);
        if self.entities == Law::Zipf {
            workload = workload.zipf();
        }
        if self.dimension == Dimension::Held {
            workload = workload.holding(number);
        }
        let figures = run_on(&processor, workload)?;
        Ok(Measured::Cost(Cost {
            cpu_us_per_event: figures.cpu_us_per_event.median,
            events_per_second: figures.events_per_second,
            peak_memory_mb: figures.peak_memory_mb,
        }))
    }
}

impl Restart {
    fn measure(ids: u64) -> anyhow::Result<Self> {
        let figures = restart::run(&restart::Options {
            events: ids,
            entities: u32::try_from(ids / IDS_PER_ENTITY)?,
            partitions: PARTITIONS,
            lanes: LANES,
            body: SMALL_BODY_BYTES,
            runs: 1,
        })?;
        Ok(Self {
            with_disk_seconds: figures.with_disk_seconds.median,
            without_disk_seconds: figures.without_disk_seconds.median,
            peak_memory_mb: figures.peak_memory_mb,
        })
    }
}

impl Point {
    fn cost(&self) -> Option<Cost> {
        match self.measured {
            Measured::Cost(cost) => Some(cost),
            Measured::Restart(_) => None,
        }
    }

    fn restart(&self) -> Option<Restart> {
        match self.measured {
            Measured::Restart(restart) => Some(restart),
            Measured::Cost(_) => None,
        }
    }
}

/// Runs the benchmark.
pub(crate) fn run(options: &Options) -> anyhow::Result<Figures> {
    let wanted = Wanted::all(options);
    let csv = options.out.join("scaling.csv");
    let mut points = table::read(&csv)?;
    for (n, want) in wanted.iter().enumerate() {
        println!("=== {} of {}: {want:?}", n + 1, wanted.len());
        let measured = want.measure(options).with_context(|| format!("{want:?}"))?;
        println!("{measured:?}");
        let Wanted { dimension, number, entities } = *want;
        points.retain(|p| (p.dimension, p.number, p.entities) != (dimension, number, entities));
        points.push(Point { dimension, entities, number, events: want.events(options), measured });
        points.sort_by_key(|p| (p.dimension as usize, p.number, p.entities as usize));
        // After each: what was measured is there, whatever comes.
        table::write(&csv, &points)?;
        chart::draw(&options.out.join("scaling.svg"), &points)?;
    }
    Ok(Figures { name: "scaling", bytes_per_id: bytes_per_id(&points), points })
}

/// The slope between the ends.
fn bytes_per_id(points: &[Point]) -> Option<f64> {
    let mut ids = points.iter().filter(|point| point.dimension == Dimension::Ids);
    let (first, last) = (ids.next()?, ids.next_back()?);
    let bytes = (last.cost()?.peak_memory_mb - first.cost()?.peak_memory_mb) * 1e6;
    Some((bytes / (last.number - first.number) as f64 * 10.0).round() / 10.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(dimension: Dimension, number: u64, peak_memory_mb: f64) -> Point {
        let cost = Cost { cpu_us_per_event: 10.0, events_per_second: 100_000.0, peak_memory_mb };
        let measured = Measured::Cost(cost);
        Point { dimension, entities: Law::Uniform, number, events: 1_000, measured }
    }

    #[test]
    fn the_memory_of_an_id_is_the_slope_between_the_ends() {
        let points = [
            point(Dimension::Entities, 1, 900.0),
            point(Dimension::Ids, 1_000_000, 100.0),
            point(Dimension::Ids, 2_000_000, 500.0),
            point(Dimension::Ids, 11_000_000, 600.0),
        ];
        assert_eq!(bytes_per_id(&points), Some(50.0));
        assert_eq!(bytes_per_id(&points[..2]), None);
    }
}
