//! Bars made of stages, longest reading first: names at the left, sums at the right.

use plotters::prelude::DrawingBackend;

use super::canvas::{Canvas, FAINT, GRID, INK, Letters, PAPER, PLAIN, QUIET, Side, stack_color};
use super::frame::titles;
use super::scale::{Range, number};
use super::{Axis, BarPlot, POINTS_MAX, PlotError, SERIES_MAX, Scale, check_count, check_value};

const MARGIN: f64 = 24.0;
/// Bars of one plot at most: more have no room for their names.
const BARS_MOST: usize = 20;

pub(super) fn check(plot: &BarPlot) -> Result<(), PlotError> {
    check_count(&plot.title, "bars", plot.bars.len(), BARS_MOST.min(POINTS_MAX))?;
    check_count(&plot.title, "stages", plot.stages.len(), SERIES_MAX)?;
    for bar in &plot.bars {
        if bar.parts.len() != plot.stages.len() {
            return Err(PlotError::Parts {
                title: plot.title.clone(),
                name: bar.name.clone(),
                parts: bar.parts.len(),
                stages: plot.stages.len(),
            });
        }
        let spread = bar.spread.into_iter().flat_map(|(low, high)| [low, high]);
        for value in bar.parts.iter().copied().chain(spread) {
            check_value(&plot.title, &bar.name, value, Scale::Linear)?;
        }
    }
    Ok(())
}

pub(super) fn draw<B: DrawingBackend>(canvas: &mut Canvas<B>, plot: &BarPlot) -> Result<(), PlotError> {
    let sums: Vec<f64> = plot.bars.iter().map(|bar| bar.parts.iter().sum()).collect();
    let highs = plot.bars.iter().filter_map(|bar| bar.spread.map(|(_, high)| high));
    let range = Range::spanning(&Axis::linear(&plot.label), sums.iter().copied().chain(highs));
    let mut top = titles(canvas, &plot.title, &plot.subtitle)?;
    if plot.stages.len() > 1 {
        top = legend(canvas, top + 14.0, &plot.stages)?;
    }
    let mut names_width = 0.0_f64;
    for bar in &plot.bars {
        names_width = names_width.max(canvas.text_width(&bar.name, PLAIN)?);
    }
    let left = MARGIN + names_width.min(canvas.width() * 0.35) + 14.0;
    let right = canvas.width() - MARGIN - 50.0;
    let (top, bottom) = (top + 8.0, canvas.height() - 72.0);
    let across = |value: f64| left + range.place(value) * (right - left);
    for tick in &range.ticks {
        canvas.line(&[(across(*tick), top), (across(*tick), bottom)], GRID, 1.0)?;
        canvas.text(&range.text(*tick), (across(*tick), bottom + 18.0), Side::Middle, PLAIN)?;
    }
    canvas.text(&plot.label, (f64::midpoint(left, right), canvas.height() - 26.0), Side::Middle, QUIET)?;
    let step = (bottom - top) / plot.bars.len() as f64;
    let half = (step * 0.34).min(24.0);
    for ((index, bar), sum) in plot.bars.iter().enumerate().zip(sums) {
        let middle = top + (index as f64 + 0.5) * step;
        canvas.text(&bar.name, (left - 10.0, middle), Side::Right, PLAIN)?;
        let mut from = 0.0;
        for (stage, part) in bar.parts.iter().enumerate() {
            let (color, on_it) = stack_color(stage, plot.stages.len());
            let (start, end) = (across(from), across(from + part));
            from += part;
            if end - start < 0.5 {
                continue;
            }
            canvas.rectangle((start, middle - half), (end, middle + half), color)?;
            canvas.line(&[(end, middle - half), (end, middle + half)], PAPER, 1.5)?;
            let text = number(*part);
            let letters = Letters { size: 13.0, bold: false, color: on_it };
            if plot.stages.len() > 1 && half > 8.0 && canvas.text_width(&text, letters)? + 8.0 < end - start {
                canvas.text(&text, (f64::midpoint(start, end), middle), Side::Middle, letters)?;
            }
        }
        let mut end = across(sum);
        if let Some((low, high)) = bar.spread {
            let whisker = middle + half + 3.0;
            canvas.line(&[(across(low), whisker), (across(high), whisker)], INK, 1.5)?;
            for edge in [low, high] {
                canvas.line(&[(across(edge), whisker - 3.0), (across(edge), whisker + 3.0)], INK, 1.5)?;
            }
            end = end.max(across(high));
        }
        canvas.text(&number(sum), (end + 8.0, middle), Side::Left, Letters { bold: true, ..PLAIN })?;
    }
    canvas.line(&[(left, top), (left, bottom)], FAINT, 1.0)
}

/// Names the stages in rows; returns where the rows end.
fn legend<B: DrawingBackend>(canvas: &mut Canvas<B>, top: f64, stages: &[String]) -> Result<f64, PlotError> {
    let (mut across, mut row) = (MARGIN, top);
    for (index, stage) in stages.iter().enumerate() {
        let width = canvas.text_width(stage, PLAIN)? + 46.0;
        if across + width > canvas.width() - MARGIN && across > MARGIN {
            (across, row) = (MARGIN, row + 24.0);
        }
        let (color, _) = stack_color(index, stages.len());
        canvas.rectangle((across, row - 7.0), (across + 14.0, row + 7.0), color)?;
        canvas.text(stage, (across + 20.0, row), Side::Left, PLAIN)?;
        across += width;
    }
    Ok(row + 14.0)
}
