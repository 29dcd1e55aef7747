//! Lines with the spread of what their points are medians of.

use plotters::prelude::DrawingBackend;

use super::canvas::{Canvas, LineStyle};
use super::frame::{EndName, Frame, axes, end_names, names_width, titles};
use super::scale::Range;
use super::{LinePlot, POINTS_MAX, PlotError, SERIES_MAX, Series, check_count, check_value};

/// With more points than this a line has no marks, and its spread is an area only.
const MARKED_MOST: usize = 24;

pub(super) fn check(plot: &LinePlot) -> Result<(), PlotError> {
    check_count(&plot.title, "lines", plot.series.len(), SERIES_MAX)?;
    for series in &plot.series {
        check_count(&plot.title, "points", series.points.len(), POINTS_MAX)?;
        for point in &series.points {
            check_value(&plot.title, &series.name, point.x, plot.x.scale)?;
            for value in [point.y, point.low, point.high] {
                check_value(&plot.title, &series.name, value, plot.y.scale)?;
            }
        }
    }
    Ok(())
}

pub(super) fn draw<B: DrawingBackend>(canvas: &mut Canvas<B>, plot: &LinePlot) -> Result<(), PlotError> {
    let points = || plot.series.iter().flat_map(|series| &series.points);
    let x = Range::of_points(&plot.x, points().map(|point| point.x));
    let y = Range::spanning(&plot.y, points().flat_map(|point| [point.y, point.low, point.high]));
    let top = titles(canvas, &plot.title, &plot.subtitle)?;
    let width = names_width(canvas, plot.series.iter().map(|series| series.name.as_str()))?;
    let x_text = |tick| x.text(tick);
    let frame = axes(canvas, top, (&x, &plot.x.label, &x_text), (&y, &plot.y.label), width)?;
    for (index, series) in plot.series.iter().enumerate() {
        spread(canvas, frame, (&x, &y), series, LineStyle::of(index))?;
    }
    let mut names = Vec::new();
    for (index, series) in plot.series.iter().enumerate() {
        let style = LineStyle::of(index);
        let places: Vec<(f64, f64)> =
            series.points.iter().map(|point| (frame.x(&x, point.x), frame.y(&y, point.y))).collect();
        canvas.styled_line(&places, style)?;
        if places.len() <= MARKED_MOST {
            for place in &places {
                canvas.mark(*place, style)?;
            }
        }
        if let Some(last) = places.last() {
            names.push(EndName { at: *last, name: series.name.clone(), detail: String::new(), style });
        }
    }
    end_names(canvas, frame, &names)
}

/// The area between the least and the greatest values, and for few points a whisker each.
fn spread<B: DrawingBackend>(
    canvas: &mut Canvas<B>,
    frame: Frame,
    (x, y): (&Range, &Range),
    series: &Series,
    style: LineStyle,
) -> Result<(), PlotError> {
    let places = series.points.iter().map(|point| frame.x(x, point.x));
    let highs = places.clone().zip(series.points.iter().map(|point| frame.y(y, point.high)));
    let lows = places.zip(series.points.iter().map(|point| frame.y(y, point.low)));
    if series.points.iter().all(|point| point.low == point.high) {
        return Ok(());
    }
    if series.points.len() > 1 {
        let outline: Vec<(f64, f64)> = highs.clone().chain(lows.clone().rev()).collect();
        canvas.fill(&outline, style.color, 0.13)?;
    }
    if series.points.len() <= MARKED_MOST {
        for ((across, high), (_, low)) in highs.zip(lows) {
            canvas.line(&[(across, high), (across, low)], style.color, 1.0)?;
            for end in [high, low] {
                canvas.line(&[(across - 4.0, end), (across + 4.0, end)], style.color, 1.0)?;
            }
        }
    }
    Ok(())
}
