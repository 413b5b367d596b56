//! The curves as one SVG: a diagram for each dimension, what there is much of on a logarithmic axis.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use super::{Dimension, Law, Point};

const WIDTH: u32 = 1_080;
const PANEL_HEIGHT: u32 = 230;
const COLUMNS: usize = 2;
const COLORS: [RGBColor; 2] = [RGBColor(0, 90, 160), RGBColor(200, 80, 0)];

/// A curve: whether a point is on it, and where.
type Curve = fn(&Point) -> Option<f64>;

/// A diagram: its title, its dimension, and up to two curves.
type Panel = (&'static str, Dimension, &'static [Curve]);

const PANELS: [Panel; 8] = [
    (
        "entities: CPU µs an event; orange: Zipf-distributed",
        Dimension::Entities,
        &[|p| cpu(p).filter(|_| p.entities == Law::Uniform), |p| cpu(p).filter(|_| p.entities == Law::Zipf)],
    ),
    (
        "entities: peak memory, MB; orange: Zipf-distributed",
        Dimension::Entities,
        &[
            |p| memory(p).filter(|_| p.entities == Law::Uniform),
            |p| memory(p).filter(|_| p.entities == Law::Zipf),
        ],
    ),
    ("remembered ids: CPU µs an event", Dimension::Ids, &[cpu]),
    ("remembered ids: peak memory, MB", Dimension::Ids, &[memory]),
    ("partitions: CPU µs an event", Dimension::Partitions, &[cpu]),
    ("held events: CPU µs an event", Dimension::Held, &[cpu]),
    ("instances: CPU µs an event, of all together", Dimension::Instances, &[cpu]),
    (
        "remembered ids: seconds of a restart; orange: with an empty disk",
        Dimension::Restart,
        &[|p| Some(p.restart()?.with_disk_seconds), |p| Some(p.restart()?.without_disk_seconds)],
    ),
];

fn cpu(point: &Point) -> Option<f64> {
    Some(point.cost()?.cpu_us_per_event)
}

fn memory(point: &Point) -> Option<f64> {
    Some(point.cost()?.peak_memory_mb)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

/// Writes the diagrams of the dimensions that were measured to a file.
pub(super) fn draw(file: &Path, points: &[Point]) -> anyhow::Result<()> {
    let measured = |panel: &&Panel| points.iter().any(|point| point.dimension == panel.1);
    let panels: Vec<&Panel> = PANELS.iter().filter(measured).collect();
    let rows = panels.len().div_ceil(COLUMNS);
    let root = SVGBackend::new(file, (WIDTH, PANEL_HEIGHT * u32::try_from(rows)?)).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", file.display());
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    for (area, panel) in root.split_evenly((rows, COLUMNS)).iter().zip(panels) {
        draw_panel(area, panel, points).map_err(|e| failed(&e))?;
    }
    root.present().map_err(|e| failed(&e))
}

fn draw_panel<'a>(
    area: &Area<'a>,
    (title, dimension, curves): &Panel,
    points: &[Point],
) -> Result<(), DrawError<'a>> {
    // Nothing has no logarithm: it stands where one would.
    let x = |point: &Point| (point.number.max(1) as f64).log10();
    let own: Vec<&Point> = points.iter().filter(|point| point.dimension == *dimension).collect();
    let curves = curves.iter().map(|curve| {
        let points = own.iter().filter_map(|point| Some((x(point), curve(point)?)));
        points.collect::<Vec<(f64, f64)>>()
    });
    let curves: Vec<Vec<(f64, f64)>> = curves.collect();
    let most = curves.iter().flatten().map(|(_, y)| *y).fold(1e-3, f64::max);
    let (from, to) =
        own.iter().map(|point| x(point)).fold((f64::MAX, f64::MIN), |(from, to), x| (from.min(x), to.max(x)));
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .caption(*title, ("sans-serif", 15))
        .x_label_area_size(22)
        .y_label_area_size(60)
        .build_cartesian_2d(from - 0.1..to + 0.1, 0.0..most * 1.15)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(8)
        .y_labels(5)
        .x_label_formatter(&|x| short(10_f64.powf(*x)))
        .y_label_formatter(&|y| if most < 20.0 { format!("{y:.1}") } else { format!("{y:.0}") })
        .draw()?;
    for (curve, color) in curves.into_iter().zip(COLORS) {
        chart.draw_series(curve.iter().map(|point| Circle::new(*point, 3, color.filled())))?;
        chart.draw_series(LineSeries::new(curve, color.stroke_width(1)))?;
    }
    Ok(())
}

/// A number with at most two digits, as people write it: 3.2k, 50M.
fn short(number: f64) -> String {
    let (number, unit) = match number {
        n if n >= 1e6 => (n / 1e6, "M"),
        n if n >= 1e3 => (n / 1e3, "k"),
        n => (n, ""),
    };
    if number < 9.95 && number.fract() > 0.05 {
        format!("{number:.1}{unit}")
    } else {
        format!("{number:.0}{unit}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Cost, Measured};
    use super::*;

    #[test]
    fn the_diagrams_of_a_measured_dimension_are_drawn_and_no_others() {
        let cost = Cost { cpu_us_per_event: 12.5, events_per_second: 1.0, peak_memory_mb: 300.0 };
        let point = |number| Point {
            dimension: Dimension::Held,
            entities: Law::Uniform,
            number,
            events: 1,
            measured: Measured::Cost(cost),
        };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("scaling.svg");
        draw(&file, &[point(0), point(1_000)]).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        assert!(svg.contains("held events") && !svg.contains("remembered ids"), "{svg}");
        assert_eq!(svg.matches("<circle").count(), 2);
    }

    #[test]
    fn numbers_are_short() {
        let shorts = [1.0, 3.16, 64.0, 1_000.0, 3_162.0, 31_623.0, 50_000_000.0].map(short);
        assert_eq!(shorts, ["1", "3.2", "64", "1k", "3.2k", "32k", "50M"]);
    }
}
