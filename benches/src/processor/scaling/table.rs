//! The points as a table of comma-separated values, to be read again when other dimensions are measured.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use clap::ValueEnum;

use super::{Cost, Dimension, Law, Measured, Point, Restart};

const HEAD: &str = "dimension,entities,number,events,cpu_us_per_event,events_per_second,peak_memory_mb,\
                    with_disk_seconds,without_disk_seconds";

/// Reads the points of a table; none where there is no file.
pub(super) fn read(file: &Path) -> anyhow::Result<Vec<Point>> {
    if !file.exists() {
        return Ok(Vec::new());
    }
    let wrong = || format!("{} is not a table that this benchmark writes; remove it", file.display());
    let text = fs::read_to_string(file).with_context(wrong)?;
    let mut lines = text.lines();
    ensure!(lines.next() == Some(HEAD), wrong());
    lines.map(|line| point(line).with_context(wrong)).collect()
}

/// Writes all points.
pub(super) fn write(file: &Path, points: &[Point]) -> anyhow::Result<()> {
    let mut text = format!("{HEAD}\n");
    for point in points {
        let Point { dimension, entities, number, events, measured } = point;
        let _ = write!(text, "{},{},{number},{events},", name(dimension), name(entities));
        let _ = match measured {
            Measured::Cost(Cost { cpu_us_per_event, events_per_second, peak_memory_mb }) => {
                writeln!(text, "{cpu_us_per_event},{events_per_second},{peak_memory_mb},,")
            }
            Measured::Restart(Restart { with_disk_seconds, without_disk_seconds, peak_memory_mb }) => {
                writeln!(text, ",,{peak_memory_mb},{with_disk_seconds},{without_disk_seconds}")
            }
        };
    }
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

fn name(value: &impl ValueEnum) -> String {
    value.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn point(line: &str) -> Option<Point> {
    let columns: [&str; 9] = line.split(',').collect::<Vec<_>>().try_into().ok()?;
    let [dimension, entities, number, events, cpu, rate, memory, with_disk, without_disk] = columns;
    let figure = |text: &str| text.parse::<f64>().ok();
    let peak_memory_mb = figure(memory)?;
    let measured = match figure(cpu) {
        Some(cpu_us_per_event) => {
            Measured::Cost(Cost { cpu_us_per_event, events_per_second: figure(rate)?, peak_memory_mb })
        }
        None => Measured::Restart(Restart {
            with_disk_seconds: figure(with_disk)?,
            without_disk_seconds: figure(without_disk)?,
            peak_memory_mb,
        }),
    };
    Some(Point {
        dimension: Dimension::from_str(dimension, false).ok()?,
        entities: Law::from_str(entities, false).ok()?,
        number: number.parse().ok()?,
        events: events.parse().ok()?,
        measured,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again_and_nothing_else() {
        let cost = Cost { cpu_us_per_event: 10.5, events_per_second: 100_000.0, peak_memory_mb: 80.0 };
        let restart = Restart { with_disk_seconds: 1.5, without_disk_seconds: 2.5, peak_memory_mb: 70.0 };
        let point =
            |dimension, entities, measured| Point { dimension, entities, number: 5, events: 9, measured };
        let points = [
            point(Dimension::Entities, Law::Zipf, Measured::Cost(cost)),
            point(Dimension::Restart, Law::Uniform, Measured::Restart(restart)),
        ];
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scaling.csv");
        assert_eq!(read(&file).unwrap(), []);
        write(&file, &points).unwrap();
        assert_eq!(read(&file).unwrap(), points);
        for text in ["what,ever\n".to_owned(), format!("{HEAD}\nheld,uniform,1,2,3\n")] {
            fs::write(&file, text).unwrap();
            assert!(read(&file).unwrap_err().to_string().contains("remove it"));
        }
    }
}
