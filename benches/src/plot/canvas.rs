//! Drawing in points from the top left, whatever the file's kind and resolution.
//!
//! Decides colours, marks, dashes and fonts. Never knows what a plot is about.

use plotters::coord::Shift;
use plotters::drawing::DrawingArea;
use plotters::element::{PathElement, Polygon, Text};
use plotters::prelude::DrawingBackend;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use plotters::style::{Color as _, FontDesc, FontFamily, FontStyle, RGBColor, ShapeStyle, TextStyle};

use super::{FONT, HEIGHT, PlotError, WIDTH};

pub(super) const INK: RGBColor = RGBColor(34, 34, 34);
pub(super) const FAINT: RGBColor = RGBColor(95, 95, 95);
pub(super) const GRID: RGBColor = RGBColor(224, 224, 224);
pub(super) const PAPER: RGBColor = RGBColor(255, 255, 255);

/// Okabe and Ito's colours, told apart by nearly everybody; the yellow one is too pale for lines.
const LINES: [RGBColor; 8] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(34, 34, 34),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(127, 127, 127),
];

/// From dark to light along cividis, so that neighbours differ in print too.
const STACK: [RGBColor; 6] = [
    RGBColor(0, 34, 78),
    RGBColor(53, 69, 108),
    RGBColor(102, 105, 112),
    RGBColor(148, 142, 119),
    RGBColor(200, 184, 102),
    RGBColor(254, 232, 56),
];

/// Lengths of strokes and gaps; none is a whole line.
const DASHES: [&[f64]; 4] = [&[], &[9.0, 4.0], &[2.5, 3.5], &[9.0, 3.5, 2.5, 3.5]];

/// How one line looks: no two alike among eight.
#[derive(Debug, Clone, Copy)]
pub(super) struct LineStyle {
    pub(super) color: RGBColor,
    dashes: &'static [f64],
    mark: usize,
}

impl LineStyle {
    pub(super) fn of(index: usize) -> Self {
        Self { color: LINES[index % LINES.len()], dashes: DASHES[index % DASHES.len()], mark: index }
    }
}

/// The colour of a part of a bar with so many parts, and that of text on it.
pub(super) fn stack_color(index: usize, parts: usize) -> (RGBColor, RGBColor) {
    if parts <= 1 {
        return (LINES[0], PAPER);
    }
    let place = index as f64 / (parts - 1) as f64 * (STACK.len() - 1) as f64;
    let below = STACK.iter().enumerate().rposition(|(step, _)| step as f64 <= place).unwrap_or(0);
    let (from, to) = (STACK[below], STACK[(below + 1).min(STACK.len() - 1)]);
    let part = place - below as f64;
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two bytes")]
    let mix = |from: u8, to: u8| (f64::from(from) + (f64::from(to) - f64::from(from)) * part).round() as u8;
    let color = RGBColor(mix(from.0, to.0), mix(from.1, to.1), mix(from.2, to.2));
    let light = 0.299 * f64::from(color.0) + 0.587 * f64::from(color.1) + 0.114 * f64::from(color.2);
    (color, if light > 130.0 { INK } else { PAPER })
}

/// Which side of a text its position is at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Middle,
    Right,
}

/// How a text looks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Letters {
    pub(super) size: f64,
    pub(super) bold: bool,
    pub(super) color: RGBColor,
}

pub(super) const PLAIN: Letters = Letters { size: 15.0, bold: false, color: INK };
pub(super) const QUIET: Letters = Letters { color: FAINT, ..PLAIN };

/// A drawing of [`WIDTH`] by [`HEIGHT`] points.
pub(super) struct Canvas<B: DrawingBackend> {
    area: DrawingArea<B, Shift>,
    zoom: f64,
    /// How far texts are moved down to be where they belong, in parts of their size.
    text_drop: f64,
}

impl<B: DrawingBackend> Canvas<B> {
    pub(super) fn new(area: DrawingArea<B, Shift>, zoom: u32, text_drop: f64) -> Result<Self, PlotError> {
        area.fill(&PAPER).map_err(drawing)?;
        Ok(Self { area, zoom: f64::from(zoom), text_drop })
    }

    pub(super) fn finish(self) -> Result<(), PlotError> {
        self.area.present().map_err(drawing)
    }

    pub(super) fn width(&self) -> f64 {
        f64::from(WIDTH)
    }

    pub(super) fn height(&self) -> f64 {
        f64::from(HEIGHT)
    }

    fn pixel(&self, (x, y): (f64, f64)) -> (i32, i32) {
        #[allow(
            clippy::cast_possible_truncation,
            reason = "casts of floats saturate, and what is outside is not drawn"
        )]
        ((x * self.zoom).round() as i32, (y * self.zoom).round() as i32)
    }

    pub(super) fn line(&mut self, points: &[(f64, f64)], color: RGBColor, width: f64) -> Result<(), PlotError> {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few pixels")]
        let stroke = (width * self.zoom).round().max(1.0) as u32;
        let pixels: Vec<(i32, i32)> = points.iter().map(|point| self.pixel(*point)).collect();
        self.area.draw(&PathElement::new(pixels, color.stroke_width(stroke))).map_err(drawing)
    }

    /// A line in its style's dashes.
    pub(super) fn styled_line(&mut self, points: &[(f64, f64)], style: LineStyle) -> Result<(), PlotError> {
        if style.dashes.is_empty() {
            return self.line(points, style.color, 2.0);
        }
        for stroke in dashed(points, style.dashes) {
            self.line(&stroke, style.color, 2.0)?;
        }
        Ok(())
    }

    pub(super) fn fill(&mut self, points: &[(f64, f64)], color: RGBColor, opacity: f64) -> Result<(), PlotError> {
        let pixels: Vec<(i32, i32)> = points.iter().map(|point| self.pixel(*point)).collect();
        self.area.draw(&Polygon::new(pixels, ShapeStyle::from(color.mix(opacity)).filled())).map_err(drawing)
    }

    pub(super) fn rectangle(
        &mut self,
        (left, top): (f64, f64),
        (right, bottom): (f64, f64),
        color: RGBColor,
    ) -> Result<(), PlotError> {
        self.fill(&[(left, top), (right, top), (right, bottom), (left, bottom)], color, 1.0)
    }

    /// A mark of a line's own shape.
    pub(super) fn mark(&mut self, (x, y): (f64, f64), style: LineStyle) -> Result<(), PlotError> {
        // Paper around it keeps marks apart where lines cross.
        for (radius, color) in [(6.5, PAPER), (5.0, style.color)] {
            let shape: Vec<(f64, f64)> =
                outline(style.mark).into_iter().map(|(right, down)| (x + right * radius, y + down * radius)).collect();
            self.fill(&shape, color, 1.0)?;
        }
        if style.mark >= MARKS {
            let shape: Vec<(f64, f64)> =
                outline(style.mark).into_iter().map(|(right, down)| (x + right * 2.5, y + down * 2.5)).collect();
            self.fill(&shape, PAPER, 1.0)?;
        }
        Ok(())
    }

    /// A text whose middle line is at the position.
    pub(super) fn text(&mut self, text: &str, at: (f64, f64), side: Side, letters: Letters) -> Result<(), PlotError> {
        let horizontal = match side {
            Side::Left => HPos::Left,
            Side::Middle => HPos::Center,
            Side::Right => HPos::Right,
        };
        let style = self.style(letters).pos(Pos::new(horizontal, VPos::Center));
        let at = (at.0, at.1 + letters.size * self.text_drop);
        self.area.draw(&Text::new(text, self.pixel(at), style)).map_err(drawing)
    }

    /// How wide a text is.
    pub(super) fn text_width(&self, text: &str, letters: Letters) -> Result<f64, PlotError> {
        let (width, _) = self.area.estimate_text_size(text, &self.style(letters)).map_err(drawing)?;
        Ok(f64::from(width) / self.zoom)
    }

    fn style(&self, letters: Letters) -> TextStyle<'static> {
        let weight = if letters.bold { FontStyle::Bold } else { FontStyle::Normal };
        // The drawing library's size of a font is 1.24 times that of its letters.
        let font = FontDesc::new(FontFamily::from(FONT), letters.size * self.zoom, weight);
        let mut style = TextStyle::from(font);
        style.color = letters.color.to_backend_color();
        style
    }
}

/// Shapes before they come again with a hole.
const MARKS: usize = 5;

/// The outline of a mark around the origin, about one wide each way.
fn outline(mark: usize) -> Vec<(f64, f64)> {
    match mark % MARKS {
        0 => (0_u8..24).map(|step| (f64::from(step) * std::f64::consts::TAU / 24.0).sin_cos()).collect(),
        1 => vec![(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        2 => vec![(0.0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
        3 => vec![(0.0, -1.3), (1.2, 0.0), (0.0, 1.3), (-1.2, 0.0)],
        _ => vec![(0.0, 1.15), (1.1, -0.85), (-1.1, -0.85)],
    }
}

/// Cuts a line into strokes.
fn dashed(points: &[(f64, f64)], dashes: &[f64]) -> Vec<Vec<(f64, f64)>> {
    let mut strokes = Vec::new();
    let mut lengths = dashes.iter().copied().cycle();
    let mut left = lengths.next().unwrap_or(1.0);
    let mut drawn = true;
    let mut stroke: Vec<(f64, f64)> = points.first().copied().into_iter().collect();
    for pair in points.windows(2) {
        let ((mut x, mut y), (to_x, to_y)) = (pair[0], pair[1]);
        loop {
            let rest = (to_x - x).hypot(to_y - y);
            if rest <= left {
                left -= rest;
                stroke.push((to_x, to_y));
                break;
            }
            x += (to_x - x) * left / rest;
            y += (to_y - y) * left / rest;
            stroke.push((x, y));
            if drawn {
                strokes.push(std::mem::take(&mut stroke));
            }
            drawn = !drawn;
            stroke = vec![(x, y)];
            left = lengths.next().unwrap_or(1.0);
        }
    }
    if drawn && stroke.len() > 1 {
        strokes.push(stroke);
    }
    strokes
}

fn drawing(error: impl std::fmt::Display) -> PlotError {
    PlotError::Draw(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_go_round_corners_and_keep_their_lengths() {
        let strokes = dashed(&[(0.0, 0.0), (10.0, 0.0), (10.0, 10.0)], &[8.0, 4.0]);
        assert_eq!(strokes, [vec![(0.0, 0.0), (8.0, 0.0)], vec![(10.0, 2.0), (10.0, 10.0)]]);
    }

    #[test]
    fn parts_of_a_bar_get_lighter() {
        let light = |color: RGBColor| u32::from(color.0) + u32::from(color.1) + u32::from(color.2);
        for parts in 2..=8 {
            let colors: Vec<u32> = (0..parts).map(|index| light(stack_color(index, parts).0)).collect();
            assert!(colors.windows(2).all(|pair| pair[0] < pair[1]), "{parts}: {colors:?}");
        }
    }
}
