//! Up to three curves of a chart: told apart also without colours, by their marks.

use anyhow::{Context, Result};
use plotters::element::{Cross, DynElement, IntoDynElement};
use plotters::prelude::*;

const COLOURS: [RGBColor; 3] = [
    RGBColor(0, 90, 160),
    RGBColor(200, 80, 0),
    RGBColor(0, 130, 60),
];
/// Of all text.
pub const FONT: &str = "sans-serif";

/// A chart of numbers.
pub type Chart<'a, 'b, X, Y> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<X, Y>>;

/// Draws the curve of number `nth`, 0..=2.
///
/// # Errors
///
/// It cannot be drawn.
pub fn draw_curve<'a, 'b: 'a, X, Y>(
    chart: &mut Chart<'a, 'b, X, Y>,
    nth: usize,
    name: &str,
    points: &[(f64, f64)],
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    let colour = COLOURS[nth];
    chart
        .draw_series(LineSeries::new(points.to_vec(), colour.stroke_width(2)))
        .context("cannot draw")?
        .label(name)
        .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    let marks = points.iter().map(|&at| mark(nth, at, colour));
    chart.draw_series(marks).context("cannot draw")?;
    Ok(())
}

/// Draws the names of the curves.
///
/// # Errors
///
/// They cannot be drawn.
pub fn draw_legend<'a, 'b: 'a, X, Y>(
    chart: &mut Chart<'a, 'b, X, Y>,
    position: SeriesLabelPosition,
) -> Result<()>
where
    X: Ranged<ValueType = f64>,
    Y: Ranged<ValueType = f64>,
{
    chart
        .configure_series_labels()
        .position(position)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK.mix(0.3))
        .label_font((FONT, 14))
        .draw()
        .context("cannot draw")
}

fn mark<'a>(
    nth: usize,
    at: (f64, f64),
    colour: RGBColor,
) -> DynElement<'static, SVGBackend<'a>, (f64, f64)> {
    match nth {
        0 => Circle::new(at, 4, colour.filled()).into_dyn(),
        1 => TriangleMarker::new(at, 6, colour.filled()).into_dyn(),
        _ => Cross::new(at, 4, colour.stroke_width(2)).into_dyn(),
    }
}
