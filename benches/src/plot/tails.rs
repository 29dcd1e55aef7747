//! Tails of latencies: how long the slowest tenth, hundredth, thousandth of requests takes at least.

use plotters::prelude::DrawingBackend;

use super::canvas::{Canvas, LineStyle};
use super::frame::{EndName, axes, end_names, names_width, titles};
use super::scale::{Range, number};
use super::{Axis, POINTS_MAX, PlotError, SERIES_MAX, Scale, Tail, TailPlot, check_count, check_value};

/// Latencies further apart than this factor are divided by factors.
const LINEAR_FACTOR_MOST: f64 = 12.0;
/// Points that a curve is drawn with for each tenfold of requests.
const POINTS_A_DECADE: f64 = 120.0;

pub(super) fn check(plot: &TailPlot) -> Result<(), PlotError> {
    check_count(&plot.title, "tails", plot.tails.len(), SERIES_MAX)?;
    for tail in &plot.tails {
        check_count(&plot.title, "latencies", tail.milliseconds.len(), POINTS_MAX)?;
        for value in &tail.milliseconds {
            check_value(&plot.title, &tail.name, *value, Scale::Logarithmic)?;
        }
    }
    Ok(())
}

/// Latencies in order.
struct Sorted<'a> {
    tail: &'a Tail,
    milliseconds: Vec<f64>,
}

impl Sorted<'_> {
    /// The least latency that at least this fraction of requests stayed at or below.
    fn quantile(&self, fraction: f64) -> f64 {
        let count = self.milliseconds.len();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index, bounded below")]
        let index = (fraction * count as f64).ceil() as usize;
        self.milliseconds.get(index.clamp(1, count.max(1)) - 1).copied().unwrap_or_default()
    }

    /// What one in so many requests took at least: the curve's value.
    fn rare(&self, rarity: f64) -> f64 {
        let count = self.milliseconds.len();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an index, bounded below")]
        let index = (count as f64 * (1.0 - 1.0 / rarity)).ceil() as usize;
        self.milliseconds.get(index.min(count.saturating_sub(1))).copied().unwrap_or_default()
    }

    /// How rare latencies are, one in so many requests, from 1 to the number of requests; and the latencies.
    fn curve(&self) -> Vec<(f64, f64)> {
        let count = self.milliseconds.len() as f64;
        let mut curve: Vec<(f64, f64)> = Vec::new();
        let mut next = 1.0;
        for (index, latency) in self.milliseconds.iter().enumerate() {
            let rarity = count / (count - index as f64);
            if rarity >= next || index + 1 == self.milliseconds.len() {
                curve.push((rarity, *latency));
                next = rarity * 10_f64.powf(1.0 / POINTS_A_DECADE);
            }
        }
        curve
    }
}

pub(super) fn draw<B: DrawingBackend>(canvas: &mut Canvas<B>, plot: &TailPlot) -> Result<(), PlotError> {
    let sorted: Vec<Sorted<'_>> = plot
        .tails
        .iter()
        .map(|tail| {
            let mut milliseconds = tail.milliseconds.clone();
            milliseconds.sort_by(f64::total_cmp);
            Sorted { tail, milliseconds }
        })
        .collect();
    let most = sorted.iter().map(|sorted| sorted.milliseconds.len()).max().unwrap_or(1).max(10) as f64;
    let ticks = [1.0, 2.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6].into_iter().filter(|tick| *tick <= most).collect();
    let x = Range::factors(1.0, most, ticks);
    let values = || sorted.iter().flat_map(|sorted| &sorted.milliseconds).copied();
    let (least, greatest) =
        values().fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    let label = format!("{}, ms", plot.label);
    let axis = if greatest / least > LINEAR_FACTOR_MOST { Axis::logarithmic(&label) } else { Axis::linear(&label) };
    let y = Range::spanning(&axis, values());
    let top = titles(canvas, &plot.title, &plot.subtitle)?;
    let details: Vec<String> = sorted.iter().map(detail).collect();
    let width = names_width(
        canvas,
        plot.tails.iter().map(|tail| tail.name.as_str()).chain(details.iter().map(String::as_str)),
    )?;
    let x_label = "requests that were at least as fast; every ten times rarer ones are as far apart";
    let frame = axes(canvas, top, (&x, x_label, &percentile), (&y, &axis.label), width)?;
    let mut names = Vec::new();
    for ((index, sorted), detail) in sorted.iter().enumerate().zip(details) {
        let style = LineStyle::of(index);
        let places: Vec<(f64, f64)> =
            sorted.curve().into_iter().map(|(rarity, latency)| (frame.x(&x, rarity), frame.y(&y, latency))).collect();
        canvas.styled_line(&places, style)?;
        let count = sorted.milliseconds.len() as f64;
        for rarity in x.ticks.iter().copied().filter(|rarity| *rarity > 1.0 && *rarity <= count) {
            let latency = sorted.rare(rarity);
            canvas.mark((frame.x(&x, rarity), frame.y(&y, latency)), style)?;
        }
        if let Some(last) = places.last() {
            names.push(EndName { at: *last, name: sorted.tail.name.clone(), detail, style });
        }
    }
    end_names(canvas, frame, &names)
}

/// Median and 99th percentile in words.
fn detail(sorted: &Sorted<'_>) -> String {
    format!("p50 {}, p99 {} ms", number(sorted.quantile(0.5)), number(sorted.quantile(0.99)))
}

/// One in so many, as the percentile that people say.
fn percentile(rarity: f64) -> String {
    if rarity <= 1.0 {
        return "0 %".to_owned();
    }
    let decimals = if rarity > 100.0 { (rarity.log10().round() - 2.0).max(0.0) } else { 0.0 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a few digits")]
    let decimals = decimals as usize;
    format!("{:.decimals$} %", 100.0 - 100.0 / rarity)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_curves_are_those_of_the_latencies() {
        let tail = Tail { name: "x".to_owned(), milliseconds: Vec::new() };
        let sorted = Sorted { tail: &tail, milliseconds: (1_u32..=1000).map(f64::from).collect() };
        assert_eq!(
            [0.5, 0.9, 0.99, 0.999, 1.0].map(|part| sorted.quantile(part)),
            [500.0, 900.0, 990.0, 999.0, 1000.0]
        );
        assert_eq!([1.0, 2.0, 100.0, 1000.0].map(|rarity| sorted.rare(rarity)), [1.0, 501.0, 991.0, 1000.0]);
        let curve = sorted.curve();
        assert_eq!(curve.first(), Some(&(1.0, 1.0)));
        assert_eq!(curve.last(), Some(&(1000.0, 1000.0)));
        assert!(curve.len() < 400 && curve.windows(2).all(|pair| pair[0] < pair[1]));
        for (rarity, latency) in curve {
            assert!((1.0 - 1.0 / rarity - (latency - 1.0) / 1000.0).abs() < 1e-9);
        }
    }

    #[test]
    fn percentiles_are_named_as_people_do() {
        assert_eq!(
            [1.0, 2.0, 10.0, 100.0, 1e3, 1e4].map(percentile),
            ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %"]
        );
    }
}
