//! The chart: how much of its bar each figure takes, the worst on top.

use std::path::Path;

use anyhow::{Context, Result};
use plotters::coord::Shift;
use plotters::prelude::*;

use crate::bench::record::{Bound, Record};

const WIDTH: u32 = 1000;
const LINE: i32 = 16;
const TOP: i32 = 60;
/// Where the names end and the figures begin, and where those end.
const LEFT: i32 = 330;
const RIGHT: i32 = 970;
/// What lies beyond stands at the edge, with another mark.
const MOST: f64 = 1.6;
const FONT: &str = "sans-serif";
const HELD: RGBColor = RGBColor(0, 90, 160);
const MISSED: RGBColor = RGBColor(200, 80, 0);

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

/// How much of its bar a figure takes: below 1 it holds, whatever way it points.
fn used(bound: Bound, bar: f64, figure: f64) -> f64 {
    let part = |a: f64, b: f64| match (a, b) {
        (0.0, _) => 0.0,
        (_, 0.0) => f64::INFINITY,
        _ => a / b,
    };
    match bound {
        Bound::Most => part(figure, bar),
        Bound::Least => part(bar, figure),
        Bound::Off(right) => part((figure - right).abs(), bar),
    }
}

/// A line of the chart: label, place, and the places of its spread.
struct Mark {
    label: String,
    at: f64,
    spread: Option<(f64, f64)>,
}

fn marks(rows: &[Record]) -> Vec<Mark> {
    let mark = |row: &Record| {
        let (bound, bar) = (row.bound?, row.bar?);
        let at = |figure| used(bound, bar, figure);
        // The far side of a spread around a fixed value may be either end.
        let spread = row.spread.filter(|_| !matches!(bound, Bound::Off(_)));
        Some(Mark {
            label: format!("{} {}", row.kernel, row.name),
            at: at(row.judged()?),
            spread: spread.map(|(low, high)| (at(low), at(high))),
        })
    };
    let mut marks: Vec<_> = rows.iter().filter_map(mark).collect();
    marks.sort_by(|a, b| b.at.total_cmp(&a.at));
    marks
}

/// Writes the picture to `path`; false, and nothing is written, if no row has a bar.
pub fn draw(path: &Path, rows: &[Record]) -> Result<bool> {
    let marks = marks(rows);
    if marks.is_empty() {
        return Ok(false);
    }
    let height = TOP + LINE * marks.len() as i32 + 20;
    let root = SVGBackend::new(path, (WIDTH, height as u32)).into_drawing_area();
    root.fill(&WHITE).context("cannot draw")?;
    scale(&root, height)?;
    for (at, mark) in marks.iter().enumerate() {
        one(&root, mark, TOP + LINE * at as i32 + LINE / 2)?;
    }
    root.present()
        .with_context(|| format!("cannot write: {}", path.display()))?;
    Ok(true)
}

fn x(used: f64) -> i32 {
    LEFT + (f64::from(RIGHT - LEFT) * used.clamp(0.0, MOST) / MOST) as i32
}

fn scale(root: &Area<'_>, height: i32) -> Result<()> {
    let title = "what each figure takes of its bar: left of the line it holds";
    let text = |text: &str, at: (i32, i32), size: u32| {
        root.draw(&Text::new(text.to_owned(), at, (FONT, size)))
            .context("cannot draw")
    };
    text(title, (10, 8), 18)?;
    for tenths in (0..=15).step_by(5) {
        let at = f64::from(tenths) / 10.0;
        let style = match tenths {
            10 => BLACK.stroke_width(2),
            _ => BLACK.mix(0.15).stroke_width(1),
        };
        let line = [(x(at), TOP - 4), (x(at), height - 16)];
        root.draw(&PathElement::new(line, style))
            .context("cannot draw")?;
        text(&format!("{at:.1}"), (x(at) - 8, TOP - 22), 13)?;
    }
    Ok(())
}

fn one(root: &Area<'_>, mark: &Mark, y: i32) -> Result<()> {
    let colour = if mark.at <= 1.0 { HELD } else { MISSED };
    let label = Text::new(
        mark.label.clone(),
        (10, y - 6),
        (FONT, 12).into_font().color(&colour),
    );
    root.draw(&label).context("cannot draw")?;
    if let Some((low, high)) = mark.spread {
        let line = [(x(low), y), (x(high), y)];
        root.draw(&PathElement::new(line, colour.mix(0.5).stroke_width(2)))
            .context("cannot draw")?;
    }
    let at = (x(mark.at), y);
    if mark.at > MOST {
        root.draw(&TriangleMarker::new(at, 6, colour.filled()))
    } else {
        root.draw(&Circle::new(at, 4, colour.filled()))
    }
    .context("cannot draw")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::record::tests::record;

    #[test]
    fn used_is_below_one_where_the_bar_holds() {
        assert_eq!(used(Bound::Most, 0.8, 0.4), 0.5);
        assert_eq!(used(Bound::Least, 15.0, 30.0), 0.5);
        assert_eq!(used(Bound::Off(0.5), 0.05, 0.475).round(), 1.0);
        assert_eq!(used(Bound::Most, 0.0, 0.0), 0.0);
        assert_eq!(used(Bound::Most, 0.0, 3.0), f64::INFINITY);
        assert_eq!(used(Bound::Least, 3.0, 0.0), f64::INFINITY);
    }

    #[test]
    fn draw_the_worst_on_top_and_nothing_without_bars() {
        let file = std::env::temp_dir().join(format!("xtask-chart-{}.svg", std::process::id()));
        let mut bad = record("bad", "7.3", "c1");
        bad.ratio = Some(9.0);
        let mut plain = record("plain", "7.3", "c1");
        (plain.bar, plain.bound) = (None, None);
        assert!(!draw(&file, std::slice::from_ref(&plain)).unwrap() && !file.exists());
        assert!(draw(&file, &[record("good", "7.3", "c1"), bad, plain]).unwrap());
        let text = std::fs::read_to_string(&file).unwrap();
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("7.3 bad") < at("7.3 good") && !text.contains("plain"));
        std::fs::remove_file(&file).unwrap();
    }
}
