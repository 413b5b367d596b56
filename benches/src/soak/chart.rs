//! The curves as one SVG: a small diagram for each size, restarts as vertical lines.

use std::path::Path;

use anyhow::anyhow;
use plotters::prelude::*;

use super::restarts::Restart;
use super::sample::{COLUMNS, Sample};

const WIDTH: u32 = 1_080;
const PANEL_HEIGHT: u32 = 190;
const COLORS: [RGBColor; 2] = [RGBColor(0, 90, 160), RGBColor(200, 80, 0)];
const RESTART: RGBColor = RGBColor(190, 190, 190);

/// A diagram: its title, and the columns that it shows.
type Panel = (&'static str, &'static [&'static str]);

const PANELS: [Panel; 8] = [
    ("resident memory, MB", &["ingest RSS, MB", "processor RSS, MB"]),
    ("file descriptors", &["ingest file descriptors", "processor file descriptors"]),
    ("threads", &["ingest threads", "processor threads"]),
    ("sled on the disk, MB", &["sled, MB"]),
    ("journal on the disk, MB (not trimmed yet)", &["journal, MB"]),
    ("lag, records", &["lag, records"]),
    ("held events", &["held events"]),
    ("remembered ids", &["remembered ids"]),
];

/// Writes the diagrams to a file.
pub(super) fn draw(file: &Path, samples: &[Sample], restarts: &[Restart]) -> anyhow::Result<()> {
    let height = PANEL_HEIGHT * u32::try_from(PANELS.len().div_ceil(2))? + 20;
    let root = SVGBackend::new(file, (WIDTH, height)).into_drawing_area();
    let failed = |error: &dyn std::fmt::Display| anyhow!("{} cannot be drawn: {error}", file.display());
    root.fill(&WHITE).map_err(|e| failed(&e))?;
    let (panels, foot) = root.split_vertically(height - 20);
    for (area, panel) in panels.split_evenly((PANELS.len().div_ceil(2), 2)).iter().zip(PANELS) {
        draw_panel(area, panel, samples, restarts).map_err(|e| failed(&e))?;
    }
    let text = "minutes since the start; blue: ingest, orange: processor; grey lines: restarts";
    foot.draw_text(text, &("sans-serif", 13).into_text_style(&foot), (12, 2)).map_err(|e| failed(&e))?;
    root.present().map_err(|e| failed(&e))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type DrawError<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn draw_panel<'a>(
    area: &Area<'a>,
    (title, columns): Panel,
    samples: &[Sample],
    restarts: &[Restart],
) -> Result<(), DrawError<'a>> {
    let minutes = samples.last().map_or(1.0, |s| s.at_seconds / 60.0);
    let curves: Vec<(RGBColor, Vec<(f64, f64)>)> = columns
        .iter()
        .filter_map(|column| {
            let (name, value) = COLUMNS.iter().find(|(name, _)| name == column)?;
            let points = samples.iter().filter_map(|s| Some((s.at_seconds / 60.0, value(s)?))).collect();
            Some((COLORS[usize::from(!name.starts_with("ingest"))], points))
        })
        .collect();
    let most = curves.iter().flat_map(|(_, points)| points).map(|(_, y)| *y).fold(1.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .caption(title, ("sans-serif", 15))
        .x_label_area_size(20)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..minutes, 0.0..most * 1.1)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(TRANSPARENT)
        .x_labels(10)
        .y_labels(5)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .y_label_formatter(&|y| if most < 20.0 { format!("{y:.1}") } else { format!("{y:.0}") })
        .draw()?;
    for restart in restarts {
        let x = restart.at_seconds / 60.0;
        chart.draw_series(LineSeries::new([(x, 0.0), (x, most * 1.1)], RESTART))?;
    }
    for (color, points) in curves {
        chart.draw_series(LineSeries::new(points, color.stroke_width(1)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("soak.svg");
        let samples: Vec<Sample> =
            (0..50).map(|n| Sample { at_seconds: f64::from(n), ..Sample::default() }).collect();
        draw(&file, &samples, &[]).unwrap();
        let svg = std::fs::read_to_string(file).unwrap();
        assert!(svg.starts_with("<svg"), "{svg}");
        for (name, _) in COLUMNS {
            assert_eq!(PANELS.iter().filter(|(_, columns)| columns.contains(&name)).count(), 1, "{name}");
        }
        assert!(PANELS.iter().all(|(title, _)| svg.contains(title)));
    }
}
