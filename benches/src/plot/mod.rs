//! Plots as SVG and PNG from plain numbers: lines with their spread, stacked bars, tails of latencies.
//!
//! Decides what a plot looks like: every line is told by its colour, its marks and its dashes and named at its end, so that
//! it can be read without colours. Uses no font of the system. Never computes what it shows.

mod bars;
mod canvas;
mod frame;
mod lines;
mod scale;
mod tails;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use plotters::prelude::{BitMapBackend, IntoDrawingArea as _, SVGBackend};
use plotters::style::{FontStyle, register_font};

use self::canvas::Canvas;

/// Lines, bars or tails of one plot at most: more cannot be told apart.
pub const SERIES_MAX: usize = 8;
/// Points of one line, bars of one plot, and latencies of one tail at most.
pub const POINTS_MAX: usize = 1_000_000;
/// Pixels of an SVG; a PNG has twice as many each way.
const WIDTH: u32 = 960;
const HEIGHT: u32 = 600;
const PNG_ZOOM: u32 = 2;
/// The drawing library puts the middle of a text above that of its letters, in bitmaps only.
const PNG_TEXT_DROP: f64 = 0.17;
const FONT: &str = "sans-serif";

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// Evenly, from zero.
    Linear,
    /// By factors; values must be over zero.
    Logarithmic,
}

/// How the numbers of an axis are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// As they are; the label names what they count.
    Plain,
    /// As `64 KiB`, `1 GiB`.
    Bytes,
}

/// One axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// What it shows, with the unit: `throughput, MiB/s`.
    pub label: String,
    /// How its numbers are written.
    pub unit: Unit,
    /// How it is divided.
    pub scale: Scale,
}

impl Axis {
    /// An evenly divided axis of plain numbers.
    #[must_use]
    pub fn linear(label: &str) -> Self {
        Self { label: label.to_owned(), unit: Unit::Plain, scale: Scale::Linear }
    }

    /// An axis divided by factors, of plain numbers.
    #[must_use]
    pub fn logarithmic(label: &str) -> Self {
        Self { scale: Scale::Logarithmic, ..Self::linear(label) }
    }

    /// An axis of sizes, divided by factors.
    #[must_use]
    pub fn bytes(label: &str) -> Self {
        Self { unit: Unit::Bytes, ..Self::logarithmic(label) }
    }
}

/// A value with the spread of what it is the median of.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where along the horizontal axis.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// The least value measured, or the same as `y`.
    pub low: f64,
    /// The greatest value measured, or the same as `y`.
    pub high: f64,
}

/// One line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// What stands at its end.
    pub name: String,
    /// In the order of their `x`.
    pub points: Vec<Point>,
}

/// Lines with spread: throughput by size, by nodes lost, by readers.
#[derive(Debug, Clone, PartialEq)]
pub struct LinePlot {
    /// What it shows.
    pub title: String,
    /// On what it was measured; may be empty.
    pub subtitle: String,
    /// The horizontal axis; a logarithmic one is marked at its points.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// At most [`SERIES_MAX`].
    pub series: Vec<Series>,
}

/// One bar, made of a part for each stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What stands beside it.
    pub name: String,
    /// One value for each stage, 0 or more.
    pub parts: Vec<f64>,
    /// The least and the greatest sum measured.
    pub spread: Option<(f64, f64)>,
}

/// Bars side by side: CPU seconds per GB by stage or by process.
#[derive(Debug, Clone, PartialEq)]
pub struct BarPlot {
    /// What it shows.
    pub title: String,
    /// On what it was measured; may be empty.
    pub subtitle: String,
    /// What a bar's length is, with the unit.
    pub label: String,
    /// What the parts are, at most [`SERIES_MAX`], the same in each bar; one needs no name.
    pub stages: Vec<String>,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

/// All latencies of one kind of request.
#[derive(Debug, Clone, PartialEq)]
pub struct Tail {
    /// What stands at its end.
    pub name: String,
    /// In any order, in milliseconds.
    pub milliseconds: Vec<f64>,
}

/// Tails: the latency that so many requests stay below, every ten times rarer ones as far apart.
#[derive(Debug, Clone, PartialEq)]
pub struct TailPlot {
    /// What it shows.
    pub title: String,
    /// On what it was measured; may be empty.
    pub subtitle: String,
    /// What the latency is of.
    pub label: String,
    /// At most [`SERIES_MAX`].
    pub tails: Vec<Tail>,
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub enum Plot {
    /// Lines with spread.
    Lines(LinePlot),
    /// Stacked bars.
    Bars(BarPlot),
    /// Tails of latencies.
    Tails(TailPlot),
}

/// Why there is no plot.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// Nothing to show.
    #[error("the plot {title:?} has nothing to show")]
    Empty {
        /// Which.
        title: String,
    },
    /// More than can be told apart or drawn.
    #[error("the plot {title:?} has {number} {what}: at most {most}")]
    TooMany {
        /// Which.
        title: String,
        /// Of what.
        what: &'static str,
        /// How many.
        number: usize,
        /// How many can be.
        most: usize,
    },
    /// A number that has no place on its axis.
    #[error("the plot {title:?} has a value of {value} in {name:?}, which has no place on its axis")]
    NoPlace {
        /// Which.
        title: String,
        /// In which line or bar.
        name: String,
        /// The number.
        value: f64,
    },
    /// A bar with another number of parts than there are stages.
    #[error("the plot {title:?} has {stages} stages and a bar {name:?} of {parts} parts")]
    Parts {
        /// Which.
        title: String,
        /// Which bar.
        name: String,
        /// Its parts.
        parts: usize,
        /// The stages.
        stages: usize,
    },
    /// The drawing library failed.
    #[error("cannot draw: {0}")]
    Draw(String),
    /// A file could not be written.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// Where.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

impl Plot {
    /// The plot as an SVG, in any sans-serif font that the viewer has.
    ///
    /// # Errors
    /// [`PlotError`] where there is nothing to show, or numbers have no place.
    pub fn svg(&self) -> Result<String, PlotError> {
        self.check()?;
        let mut text = String::new();
        self.draw(Canvas::new(SVGBackend::with_string(&mut text, (WIDTH, HEIGHT)).into_drawing_area(), 1, 0.0)?)?;
        Ok(text)
    }

    /// The plot as a PNG.
    ///
    /// # Errors
    /// [`PlotError`] where there is nothing to show, or numbers have no place.
    pub fn png(&self) -> Result<Vec<u8>, PlotError> {
        self.check()?;
        let size = (WIDTH * PNG_ZOOM, HEIGHT * PNG_ZOOM);
        let mut pixels = vec![0; 3 * size.0 as usize * size.1 as usize];
        self.draw(Canvas::new(
            BitMapBackend::with_buffer(&mut pixels, size).into_drawing_area(),
            PNG_ZOOM,
            PNG_TEXT_DROP,
        )?)?;
        encode(&pixels, size)
    }

    /// Writes `NAME.svg` and `NAME.png` into a folder that exists.
    ///
    /// # Errors
    /// [`PlotError`] where there is nothing to show, numbers have no place, or the files cannot be written.
    pub fn write(&self, folder: &Path, name: &str) -> Result<(), PlotError> {
        for (extension, content) in [("svg", self.svg()?.into_bytes()), ("png", self.png()?)] {
            let path = folder.join(format!("{name}.{extension}"));
            fs::write(&path, content).map_err(|source| PlotError::Write { path, source })?;
        }
        Ok(())
    }

    fn draw<B: plotters::prelude::DrawingBackend>(&self, mut canvas: Canvas<B>) -> Result<(), PlotError> {
        match self {
            Self::Lines(plot) => lines::draw(&mut canvas, plot)?,
            Self::Bars(plot) => bars::draw(&mut canvas, plot)?,
            Self::Tails(plot) => tails::draw(&mut canvas, plot)?,
        }
        canvas.finish()
    }

    fn check(&self) -> Result<(), PlotError> {
        register();
        match self {
            Self::Lines(plot) => lines::check(plot),
            Self::Bars(plot) => bars::check(plot),
            Self::Tails(plot) => tails::check(plot),
        }
    }
}

/// Makes the font known to the drawing library, once.
fn register() {
    static REGISTERED: OnceLock<()> = OnceLock::new();
    REGISTERED.get_or_init(|| {
        for (style, bytes) in [(FontStyle::Normal, dejavu::sans::regular()), (FontStyle::Bold, dejavu::sans::bold())] {
            // A font that is part of the program is a font; without it drawing fails and says so.
            register_font(FONT, style, bytes).ok();
        }
    });
}

fn encode(pixels: &[u8], (width, height): (u32, u32)) -> Result<Vec<u8>, PlotError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, width, height);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Best);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(pixels));
    written.map_err(|error| PlotError::Draw(error.to_string()))?;
    Ok(bytes)
}

/// Fails where a list is empty or too long.
fn check_count(title: &str, what: &'static str, number: usize, most: usize) -> Result<(), PlotError> {
    match number {
        0 => Err(PlotError::Empty { title: title.to_owned() }),
        number if number > most => Err(PlotError::TooMany { title: title.to_owned(), what, number, most }),
        _ => Ok(()),
    }
}

/// Fails where a value is no number, or not over zero on an axis that is divided by factors.
fn check_value(title: &str, name: &str, value: f64, scale: Scale) -> Result<(), PlotError> {
    let fits = match scale {
        Scale::Linear => value.is_finite() && value >= 0.0,
        Scale::Logarithmic => value.is_finite() && value > 0.0,
    };
    if fits { Ok(()) } else { Err(PlotError::NoPlace { title: title.to_owned(), name: name.to_owned(), value }) }
}

#[cfg(test)]
mod tests;
