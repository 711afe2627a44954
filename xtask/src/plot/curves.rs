//! The curves: a panel per share of idle servers, and one for the group of real threads.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use umcg_sim::curve::{FONT, draw_curve, draw_legend};

use super::{Costs, KINDS};

const SIZE: (u32, u32) = (1200, 760);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// Writes the picture to `path`.
pub fn draw(path: &Path, made_up: &Costs, group: &Costs) -> Result<()> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).context("cannot draw")?;
    let mut shares: Vec<u32> = made_up.keys().map(|key| key.1).collect();
    shares.sort_unstable();
    shares.dedup();
    let panels = root.split_evenly((2, 3));
    for (panel, &share) in panels.iter().zip(&shares) {
        let title = format!("{share} % idle, made-up servers");
        curves(panel, &title, made_up, share)?;
    }
    if let Some(panel) = panels.get(shares.len()) {
        curves(panel, "0 % idle, server threads", group, 0)?;
    }
    root.present()
        .with_context(|| format!("cannot write: {}", path.display()))
}

/// One panel: instructions of a wake by number of servers, both by powers.
fn curves(area: &Area<'_>, title: &str, costs: &Costs, share: u32) -> Result<()> {
    let of = |get: fn(f64, f64) -> f64, start: f64| costs.values().copied().fold(start, get);
    let (least, most) = (of(f64::min, f64::MAX), of(f64::max, 1.0));
    let servers = costs.keys().map(|key| key.0).max().unwrap_or(2);
    let mut chart = ChartBuilder::on(area)
        .caption(title, (FONT, 18))
        .margin(10)
        .x_label_area_size(36)
        .y_label_area_size(60)
        .build_cartesian_2d(
            (1.8..f64::from(servers) * 1.1).log_scale(),
            (least * 0.8..most * 1.3).log_scale(),
        )
        .context("cannot draw")?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .x_desc("servers")
        .y_desc("instructions of a wake")
        .x_label_formatter(&|it| format!("{it:.0}"))
        .y_label_formatter(&|it| format!("{it:.0}"))
        .draw()
        .context("cannot draw")?;
    for (kind, name) in KINDS.iter().enumerate() {
        let points: Vec<(f64, f64)> = (costs.iter())
            .filter(|((_, of, which), _)| (*of, *which) == (share, kind))
            .map(|(&(servers, ..), &insns)| (f64::from(servers), insns))
            .collect();
        draw_curve(&mut chart, kind, name, &points)?;
    }
    draw_legend(&mut chart, SeriesLabelPosition::UpperLeft)
}
