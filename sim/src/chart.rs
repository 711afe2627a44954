//! The chart of docs/scale.md. What lies beyond the measured range is shaded and says so.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::curve::{Chart as Of, FONT, draw_curve, draw_legend};
use crate::figures::{Curve, Figures, MANY_WORK_NS, MODES, Range, WORK_NS};
use crate::stats::Report;

const SIZE: (u32, u32) = (1200, 860);
/// Of a curve without a cost of any kind.
const IDEAL: RGBColor = RGBColor(120, 120, 120);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Log = plotters::coord::combinators::LogCoord<f64>;
type Chart<'a, 'b, Y> = Of<'a, 'b, Log, Y>;

/// What a panel shows.
struct Panel<'a> {
    title: String,
    x: &'a str,
    y: &'a str,
    curves: Vec<Vec<(f64, f64)>>,
    /// What there would be without any cost.
    ideal: Vec<(f64, f64)>,
    /// From here on nothing was measured.
    beyond: f64,
    /// Where the curves are not.
    legend: SeriesLabelPosition,
}

impl Panel<'_> {
    fn points(&self) -> impl Iterator<Item = (f64, f64)> {
        self.curves.iter().chain([&self.ideal]).flatten().copied()
    }

    fn xs(&self) -> (f64, f64) {
        let xs = self.points().map(|at| at.0);
        xs.fold((f64::MAX, 1.0), |(low, high), x| (low.min(x), high.max(x)))
    }

    fn ys(&self) -> (f64, f64) {
        let ys = self.points().map(|at| at.1).filter(|&y| y > 0.0);
        ys.fold((f64::MAX, 0.0), |(low, high), y| (low.min(y), high.max(y)))
    }
}

/// Writes the chart to `path`.
///
/// # Errors
///
/// It cannot be drawn or written.
pub fn draw(path: &Path, figures: &Figures) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).context("cannot draw")?;
    let areas = root.split_evenly((2, 2));
    let panels = panels(figures);
    for (area, (panel, log)) in areas.iter().zip(&panels) {
        if *log {
            logarithmic(area, panel)?;
        } else {
            percent(area, panel)?;
        }
    }
    root.present()
        .with_context(|| format!("cannot write: {}", path.display()))
}

fn curve(points: &Curve<Report>, y: impl Fn(f64, &Report) -> f64) -> Vec<(f64, f64)> {
    points
        .iter()
        .map(|(x, report)| (*x, y(*x, report)))
        .collect()
}

/// The four panels, and whether their y axis is by powers.
fn panels(figures: &Figures) -> [(Panel<'static>, bool); 4] {
    let Range { cpus, workers } = figures.range();
    // On one CPU: all of it was measured, or nothing.
    let one = if cpus >= 1 { f64::MAX } else { 0.0 };
    let most = figures.most_cpus();
    let many = if cpus >= most {
        f64::from(workers)
    } else {
        0.0
    };
    let all = |curves: &[Curve<Report>], y: fn(f64, &Report) -> f64| -> Vec<Vec<(f64, f64)>> {
        curves.iter().map(|points| curve(points, y)).collect()
    };
    let share = |title: &str, curves, y, legend| Panel {
        title: title.to_owned(),
        x: "work between two waits, µs",
        y,
        curves,
        ideal: Vec::new(),
        beyond: one,
        legend,
    };
    let ideal = figures.by_cpus[0]
        .iter()
        .map(|at| (at.0, at.0 * 1e9 / WORK_NS));
    [
        (
            share(
                "one CPU, full: what workers get",
                all(&figures.by_work, |_, it| 100.0 * it.work_share),
                "% of CPU time",
                SeriesLabelPosition::LowerRight,
            ),
            false,
        ),
        (
            share(
                "one CPU, full: what the agent takes",
                all(&figures.by_work, |_, it| 100.0 * it.agent_share),
                "% of CPU time",
                SeriesLabelPosition::UpperRight,
            ),
            false,
        ),
        (
            Panel {
                title: format!("all CPUs full, {} µs between two waits", WORK_NS / 1e3),
                x: "CPUs",
                y: "operations per second",
                curves: all(&figures.by_cpus, |_, it| it.throughput),
                ideal: ideal.collect(),
                beyond: f64::from(cpus),
                legend: SeriesLabelPosition::LowerRight,
            },
            true,
        ),
        (
            Panel {
                title: format!("{most} CPUs, {} µs between two waits", MANY_WORK_NS / 1e3),
                x: "workers",
                y: "operations per second",
                curves: all(&figures.by_workers, |_, it| it.throughput),
                ideal: Vec::new(),
                beyond: many,
                legend: SeriesLabelPosition::LowerRight,
            },
            true,
        ),
    ]
}

macro_rules! chart {
    ($area:expr, $panel:expr, $ys:expr) => {{
        let (low, high) = $panel.xs();
        let mut chart = ChartBuilder::on($area)
            .caption(&$panel.title, (FONT, 18))
            .margin(10)
            .x_label_area_size(36)
            .y_label_area_size(76)
            .build_cartesian_2d((low * 0.9..high * 1.1).log_scale(), $ys)
            .context("cannot draw")?;
        chart
            .configure_mesh()
            .light_line_style(WHITE)
            .x_desc($panel.x)
            .y_desc($panel.y)
            .x_label_formatter(&|it| short(*it))
            .y_label_formatter(&|it| short(*it))
            .draw()
            .context("cannot draw")?;
        chart
    }};
}

fn percent(area: &Area<'_>, panel: &Panel<'_>) -> Result<()> {
    let top = (panel.ys().1 / 10.0).ceil() * 10.0;
    let mut chart: Chart<'_, '_, RangedCoordf64> = chart!(area, panel, 0.0..top);
    shade(&mut chart, panel, (0.0, top))?;
    lines(&mut chart, panel)
}

fn logarithmic(area: &Area<'_>, panel: &Panel<'_>) -> Result<()> {
    let (low, high) = panel.ys();
    let ys = (low * 0.7, high * 1.6);
    let mut chart: Chart<'_, '_, Log> = chart!(area, panel, (ys.0..ys.1).log_scale());
    shade(&mut chart, panel, ys)?;
    lines(&mut chart, panel)
}

/// 1500000 as 1.5M.
fn short(it: f64) -> String {
    let (by, unit) = match it.abs() {
        1e6.. => (1e6, "M"),
        1e3.. => (1e3, "k"),
        _ => (1.0, ""),
    };
    let text = format!("{:.3}", it / by);
    let text = text.trim_end_matches('0').trim_end_matches('.');
    format!("{text}{unit}")
}

/// What lies beyond the measured range.
fn shade<Y: Ranged<ValueType = f64>>(
    chart: &mut Chart<'_, '_, Y>,
    panel: &Panel<'_>,
    ys: (f64, f64),
) -> Result<()> {
    let (low, high) = panel.xs();
    if panel.beyond >= high {
        return Ok(());
    }
    let from = (panel.beyond * 1.05).max(low * 0.9);
    let area = Rectangle::new([(from, ys.0), (high * 1.1, ys.1)], BLACK.mix(0.06).filled());
    chart.draw_series([area]).context("cannot draw")?;
    let at = (from * 1.05, ys.1 * 0.98);
    let style = (FONT, 13).into_font().color(&BLACK.mix(0.7));
    let text = Text::new("extrapolation: nothing measured here", at, style);
    chart.draw_series([text]).context("cannot draw")?;
    Ok(())
}

fn lines<'a, 'b: 'a, Y: Ranged<ValueType = f64>>(
    chart: &mut Chart<'a, 'b, Y>,
    panel: &Panel<'_>,
) -> Result<()> {
    if !panel.ideal.is_empty() {
        chart
            .draw_series(LineSeries::new(panel.ideal.clone(), IDEAL.stroke_width(1)))
            .context("cannot draw")?
            .label("no cost at all")
            .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], IDEAL.stroke_width(1)));
    }
    for (mode, points) in panel.curves.iter().enumerate() {
        draw_curve(chart, mode, MODES[mode].0, points)?;
    }
    draw_legend(chart, panel.legend.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chart_numbers_are_short() {
        let texts = [0.5, 1.0, 20.0, 1500.0, 1e6, 51.2e6].map(short);
        assert_eq!(texts, ["0.5", "1", "20", "1.5k", "1M", "51.2M"]);
    }
}
