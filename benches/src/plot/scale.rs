//! Where a value lies on an axis, where the axis is marked, and how numbers are written.
//!
//! Decides nothing about pixels: places are fractions of the axis.

use super::{Axis, Scale, Unit};

/// An axis with its range.
#[derive(Debug, Clone)]
pub(super) struct Range {
    scale: Scale,
    unit: Unit,
    low: f64,
    high: f64,
    /// Values that are marked.
    pub(super) ticks: Vec<f64>,
}

const TICKS_MOST: usize = 8;

impl Range {
    /// Spans all values with some air above; a linear axis begins at zero.
    pub(super) fn spanning(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let (least, most) = extremes(values);
        match axis.scale {
            Scale::Linear => {
                let high = most * 1.06;
                Self { scale: Scale::Linear, unit: axis.unit, low: 0.0, high, ticks: linear_ticks(high) }
            }
            Scale::Logarithmic => {
                let (low, high) = (least / 1.2, most * 1.2);
                Self { scale: Scale::Logarithmic, unit: axis.unit, low, high, ticks: factor_ticks(low, high) }
            }
        }
    }

    /// Spans the values of points: a logarithmic axis is marked where they are, as far as there is room.
    pub(super) fn of_points(axis: &Axis, values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        values.dedup();
        let (low, high) = extremes(values.iter().copied());
        match axis.scale {
            Scale::Linear => {
                Self { scale: Scale::Linear, unit: axis.unit, low: low.min(0.0), high, ticks: linear_ticks(high) }
            }
            Scale::Logarithmic => {
                let step = values.len().div_ceil(TICKS_MOST).max(1);
                let ticks = values.into_iter().step_by(step).collect();
                Self { scale: Scale::Logarithmic, unit: axis.unit, low, high, ticks }
            }
        }
    }

    /// A logarithmic range as it is given.
    pub(super) fn factors(low: f64, high: f64, ticks: Vec<f64>) -> Self {
        Self { scale: Scale::Logarithmic, unit: Unit::Plain, low, high, ticks }
    }

    /// 0 at the axis' beginning, 1 at its end.
    pub(super) fn place(&self, value: f64) -> f64 {
        let (value, low, high) = match self.scale {
            Scale::Linear => (value, self.low, self.high),
            Scale::Logarithmic => (value.max(self.low).ln(), self.low.ln(), self.high.ln()),
        };
        if high > low { (value - low) / (high - low) } else { 0.5 }
    }

    /// A marked value as text.
    pub(super) fn text(&self, value: f64) -> String {
        match self.unit {
            Unit::Plain => number(value),
            Unit::Bytes => bytes(value),
        }
    }
}

fn extremes(values: impl Iterator<Item = f64>) -> (f64, f64) {
    let (least, most) =
        values.fold((f64::INFINITY, 0.0_f64), |(least, most), value| (least.min(value), most.max(value)));
    if most > 0.0 { (least.min(most), most) } else { (0.0, 1.0) }
}

/// From zero to at most `most` in steps of 1, 2 or 5 times a power of ten, at most eight of them.
fn linear_ticks(most: f64) -> Vec<f64> {
    let power = 10_f64.powf((most / 4.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|part| part * power).find(|step| most / step < 7.0);
    let step = step.unwrap_or(10.0 * power);
    // A mark that is the end itself counts, whatever rounding says.
    (0_u8..=20).map(|index| f64::from(index) * step).take_while(|tick| *tick <= most * (1.0 + 1e-9)).collect()
}

/// Powers of ten within a range, with twice and five times of each where there are few; where none is, its ends.
fn factor_ticks(low: f64, high: f64) -> Vec<f64> {
    let powers = (-12..=12).map(|power| 10_f64.powi(power));
    let within = |ticks: &mut dyn Iterator<Item = f64>| -> Vec<f64> {
        ticks.filter(|tick| (low..=high).contains(tick)).collect()
    };
    let fine = within(&mut powers.clone().flat_map(|power| [power, 2.0 * power, 5.0 * power]));
    match fine.len() {
        0 | 1 => vec![low, high],
        2..=TICKS_MOST => fine,
        _ => within(&mut powers.clone()),
    }
}

/// Three digits that count, as people write them.
pub(super) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        size if size >= 0.1 => 3,
        _ => 4,
    };
    let text = format!("{value:.decimals$}");
    let text = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
    let (whole, fraction) = text.split_once('.').map_or((text, None), |(whole, fraction)| (whole, Some(fraction)));
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && digit.is_ascii_digit() && (whole.len() - index) % 3 == 0 && whole.len() > 3 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

fn bytes(value: f64) -> String {
    let mut value = value;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return format!("{} {unit}", number(value));
        }
        value /= 1024.0;
    }
    format!("{} TiB", number(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_axes_begin_at_zero_and_have_round_marks() {
        assert_eq!(linear_ticks(287.0), [0.0, 50.0, 100.0, 150.0, 200.0, 250.0]);
        assert_eq!(linear_ticks(4.1), [0.0, 1.0, 2.0, 3.0, 4.0]);
        for most in [0.001, 0.3, 0.7, 1.0, 9.99, 30.0, 100.0, 123_456.0] {
            let ticks = linear_ticks(most);
            let last = ticks[ticks.len() - 1];
            assert!((3..=8).contains(&ticks.len()) && last > most * 0.7 && last <= most * 1.001, "{most}: {ticks:?}");
        }
    }

    #[test]
    fn factor_axes_have_few_marks() {
        assert_eq!(factor_ticks(0.3, 7.0), [0.5, 1.0, 2.0, 5.0]);
        assert_eq!(factor_ticks(0.3, 70_000.0), [1.0, 10.0, 100.0, 1_000.0, 10_000.0]);
        assert_eq!(factor_ticks(6.0, 9.0), [6.0, 9.0]);
    }

    #[test]
    fn places_are_fractions_of_the_axis() {
        let range = Range::of_points(&Axis::bytes("size"), [1024.0, 1_048_576.0, 32_768.0].into_iter());
        assert_eq!(range.ticks, [1024.0, 32_768.0, 1_048_576.0]);
        assert!((range.place(32_768.0) - 0.5).abs() < 1e-9);
        let one = Range::of_points(&Axis::linear("x"), [0.0].into_iter());
        assert_eq!(one.place(0.0), 0.0);
    }

    #[test]
    fn numbers_are_written_as_people_do() {
        let written: Vec<String> = [0.0, 0.0123, 0.25, 2.0, 2.345, 31.26, 1234.4, 1_234_567.0].map(number).into();
        assert_eq!(written, ["0", "0.0123", "0.25", "2", "2.35", "31.3", "1,234", "1,234,567"]);
        assert_eq!([4096.0, 1_048_576.0, 1e9, 512.0].map(bytes), ["4 KiB", "1 MiB", "954 MiB", "512 B"]);
    }
}
