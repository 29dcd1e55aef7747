//! What plots have in common: title, axes with their grid, and names at the ends of lines.
//!
//! Decides where on the canvas the plot's own area is, and keeps names from covering each other.

use plotters::prelude::DrawingBackend;
use plotters::style::RGBColor;

use super::PlotError;
use super::canvas::{Canvas, FAINT, GRID, INK, Letters, LineStyle, PLAIN, QUIET, Side};
use super::scale::Range;

const MARGIN: f64 = 24.0;
const TITLE: Letters = Letters { size: 23.0, bold: true, color: INK };
/// Names at the ends of lines are at least this far apart.
const NAME_HEIGHT: f64 = 19.0;
const TICK: f64 = 5.0;

/// Paler than any line, so that it is not taken for data.
const LEADER: RGBColor = RGBColor(185, 185, 185);

/// The area that values are drawn in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    pub(super) left: f64,
    pub(super) right: f64,
    pub(super) top: f64,
    pub(super) bottom: f64,
}

/// A name at the end of a line.
#[derive(Debug, Clone)]
pub(super) struct EndName {
    pub(super) at: (f64, f64),
    pub(super) name: String,
    /// In fainter letters below it; may be empty.
    pub(super) detail: String,
    pub(super) style: LineStyle,
}

impl Frame {
    pub(super) fn x(&self, range: &Range, value: f64) -> f64 {
        self.left + range.place(value) * (self.right - self.left)
    }

    pub(super) fn y(&self, range: &Range, value: f64) -> f64 {
        self.bottom - range.place(value) * (self.bottom - self.top)
    }
}

/// Draws title and subtitle; returns where what is below them begins.
pub(super) fn titles<B: DrawingBackend>(canvas: &mut Canvas<B>, title: &str, subtitle: &str) -> Result<f64, PlotError> {
    canvas.text(title, (MARGIN, MARGIN + 8.0), Side::Left, TITLE)?;
    if subtitle.is_empty() {
        return Ok(MARGIN + 30.0);
    }
    canvas.text(subtitle, (MARGIN, MARGIN + 36.0), Side::Left, QUIET)?;
    Ok(MARGIN + 54.0)
}

/// The area between the axes' labels, with room for names at the right.
pub(super) fn axes<B: DrawingBackend>(
    canvas: &mut Canvas<B>,
    top: f64,
    (x, x_label, x_text): (&Range, &str, &dyn Fn(f64) -> String),
    (y, y_label): (&Range, &str),
    names_width: f64,
) -> Result<Frame, PlotError> {
    let mut labels_width = 0.0_f64;
    for tick in &y.ticks {
        labels_width = labels_width.max(canvas.text_width(&y.text(*tick), PLAIN)?);
    }
    let frame = Frame {
        left: MARGIN + labels_width + 12.0,
        right: canvas.width() - MARGIN - names_width,
        top: top + 34.0,
        bottom: canvas.height() - 72.0,
    };
    canvas.text(y_label, (MARGIN, top + 12.0), Side::Left, QUIET)?;
    for tick in &y.ticks {
        let height = frame.y(y, *tick);
        canvas.line(&[(frame.left, height), (frame.right, height)], GRID, 1.0)?;
        canvas.text(&y.text(*tick), (frame.left - 9.0, height), Side::Right, PLAIN)?;
    }
    canvas.line(&[(frame.left, frame.bottom), (frame.right, frame.bottom)], FAINT, 1.0)?;
    for tick in &x.ticks {
        let across = frame.x(x, *tick);
        canvas.line(&[(across, frame.bottom), (across, frame.bottom + TICK)], FAINT, 1.0)?;
        canvas.text(&x_text(*tick), (across, frame.bottom + 18.0), Side::Middle, PLAIN)?;
    }
    let middle = f64::midpoint(frame.left, frame.right);
    canvas.text(x_label, (middle, canvas.height() - 26.0), Side::Middle, QUIET)?;
    Ok(frame)
}

/// Room that names need at the right, with their mark.
pub(super) fn names_width<'a, B: DrawingBackend>(
    canvas: &Canvas<B>,
    texts: impl Iterator<Item = &'a str>,
) -> Result<f64, PlotError> {
    let mut width = 0.0_f64;
    for text in texts {
        width = width.max(canvas.text_width(text, PLAIN)?);
    }
    // A name that is too long is cut at the edge rather than squeezing out what it names.
    Ok((width + 50.0).min(canvas.width() * 0.4))
}

/// Draws names beside the ends of their lines, moved apart where they would cover each other.
pub(super) fn end_names<B: DrawingBackend>(
    canvas: &mut Canvas<B>,
    frame: Frame,
    names: &[EndName],
) -> Result<(), PlotError> {
    let lines = |name: &EndName| if name.detail.is_empty() { 1.0 } else { 2.0 };
    let mut order: Vec<usize> = (0..names.len()).collect();
    order.sort_by(|one, other| names[*one].at.1.total_cmp(&names[*other].at.1));
    let wanted: Vec<(f64, f64)> =
        order.iter().map(|index| (names[*index].at.1, lines(&names[*index]) * NAME_HEIGHT)).collect();
    let places = spread(&wanted, frame.top, frame.bottom + 20.0);
    for (index, place) in order.into_iter().zip(places) {
        let EndName { at, name, detail, style } = &names[index];
        let left = frame.right + 46.0;
        if (place - at.1).abs() > 3.0 || at.0 < frame.right - 1.0 {
            canvas.line(&[(at.0 + 7.0, at.1), (frame.right + 27.0, place)], LEADER, 1.0)?;
        }
        canvas.mark((frame.right + 35.0, place), *style)?;
        canvas.text(name, (left, place), Side::Left, PLAIN)?;
        if !detail.is_empty() {
            canvas.text(detail, (left, place + NAME_HEIGHT - 2.0), Side::Left, Letters { size: 13.0, ..QUIET })?;
        }
    }
    Ok(())
}

/// Places as near to where they are wanted as their heights allow, in order, between top and bottom if they fit.
fn spread(wanted: &[(f64, f64)], top: f64, bottom: f64) -> Vec<f64> {
    let mut places: Vec<f64> = wanted.iter().map(|(at, _)| *at).collect();
    let mut lowest = top;
    for (place, (_, height)) in places.iter_mut().zip(wanted) {
        *place = place.max(lowest);
        lowest = *place + height;
    }
    let mut highest = bottom;
    for (place, (_, height)) in places.iter_mut().zip(wanted).rev() {
        *place = place.min(highest - height);
        highest = *place;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_move_apart_and_stay_inside() {
        assert_eq!(spread(&[(50.0, 20.0), (100.0, 20.0)], 0.0, 200.0), [50.0, 100.0]);
        assert_eq!(spread(&[(50.0, 20.0), (55.0, 20.0), (56.0, 20.0)], 0.0, 200.0), [50.0, 70.0, 90.0]);
        assert_eq!(spread(&[(190.0, 20.0), (195.0, 20.0)], 0.0, 200.0), [160.0, 180.0]);
    }
}
