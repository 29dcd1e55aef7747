//! Sizes as people write them: "500GB" is 500 * 10^9 bytes, "2GiB" is 2 * 2^30.
//!
//! Decides how a size in a configuration file or on the command line is read and printed. Never decides what a
//! size may be: that is the business of whoever asked for it.

use core::fmt;
use core::str::FromStr;

/// A number of bytes that reads and prints the way the command line promises: GB = 10^9, GiB = 2^30.
///
/// ```
/// use dolmen_proto::size::ByteSize;
/// assert_eq!("1.5GiB".parse::<ByteSize>().map(ByteSize::bytes), Ok(1_610_612_736));
/// assert_eq!(ByteSize::new(500_000_000_000).to_string(), "500GB");
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ByteSize(u64);

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ByteSizeError {
    /// There is no number, or it has more than one point or more than nine decimals.
    #[error("{0:?} is not a size: write a number and a unit, such as 500GB or 1.5GiB")]
    Number(String),
    /// The unit is none of ours.
    #[error("{0:?} is not a unit of size: use B, kB, MB, GB, TB, PB or KiB, MiB, GiB, TiB, PiB")]
    Unit(String),
    /// The size does not fit 64 bits.
    #[error("{0:?} is more bytes than can be counted")]
    TooLarge(String),
}

const UNITS: [(&str, u64); 10] = [
    ("PiB", 1 << 50),
    ("PB", 1_000_000_000_000_000),
    ("TiB", 1 << 40),
    ("TB", 1_000_000_000_000),
    ("GiB", 1 << 30),
    ("GB", 1_000_000_000),
    ("MiB", 1 << 20),
    ("MB", 1_000_000),
    ("KiB", 1 << 10),
    ("kB", 1_000),
];
const DECIMALS_MAX: usize = 9;

impl ByteSize {
    /// This many bytes.
    #[must_use]
    pub const fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number of bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl FromStr for ByteSize {
    type Err = ByteSizeError;

    /// Reads a number, with a decimal point if wanted, then a unit; case does not matter and no unit means bytes.
    fn from_str(text: &str) -> Result<Self, ByteSizeError> {
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at(split);
        let unit = unit.trim();
        let scale = if unit.is_empty() || unit.eq_ignore_ascii_case("B") {
            1
        } else {
            let known = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit));
            known.ok_or_else(|| ByteSizeError::Unit(unit.to_owned()))?.1
        };
        let bad = || ByteSizeError::Number(text.to_owned());
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && decimals.is_empty()) || decimals.len() > DECIMALS_MAX || decimals.contains('.') {
            return Err(bad());
        }
        let too_large = || ByteSizeError::TooLarge(text.to_owned());
        let whole: u128 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_large())? };
        let fraction: u128 = if decimals.is_empty() { 0 } else { decimals.parse().map_err(|_| bad())? };
        let divisor = (0..decimals.len()).fold(1u128, |product, _| product * 10);
        let bytes = whole
            .checked_mul(u128::from(scale))
            .and_then(|bytes| bytes.checked_add(fraction * u128::from(scale) / divisor))
            .ok_or_else(too_large)?;
        u64::try_from(bytes).map(Self).map_err(|_| too_large())
    }
}

impl fmt::Display for ByteSize {
    /// Exact, in the largest unit that divides it: what is printed reads back as the same number.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let exact = UNITS.iter().filter(|(_, scale)| self.0 >= *scale && self.0.is_multiple_of(*scale));
        match exact.max_by_key(|(_, scale)| *scale) {
            Some((unit, scale)) => write!(formatter, "{}{unit}", self.0 / scale),
            None => write!(formatter, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_as_the_command_line_promises() {
        for (text, bytes) in [
            ("0", 0),
            ("17", 17),
            ("17B", 17),
            ("500GB", 500_000_000_000),
            ("500 gb", 500_000_000_000),
            ("2GiB", 2 << 30),
            ("1.5KiB", 1536),
            (".5kB", 500),
        ] {
            assert_eq!(text.parse(), Ok(ByteSize::new(bytes)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_named() {
        assert!(matches!("".parse::<ByteSize>(), Err(ByteSizeError::Number(_))));
        assert!(matches!("GB".parse::<ByteSize>(), Err(ByteSizeError::Number(_))));
        assert!(matches!("0.1234567891GB".parse::<ByteSize>(), Err(ByteSizeError::Number(_))));
        assert!(matches!("1.2.3GB".parse::<ByteSize>(), Err(ByteSizeError::Number(_))));
        assert!(matches!("-1GB".parse::<ByteSize>(), Err(ByteSizeError::Unit(_))));
        assert!(matches!("5 parsecs".parse::<ByteSize>(), Err(ByteSizeError::Unit(_))));
        assert!(matches!("99999999PB".parse::<ByteSize>(), Err(ByteSizeError::TooLarge(_))));
        assert!(matches!("9".repeat(60).parse::<ByteSize>(), Err(ByteSizeError::TooLarge(_))));
    }

    proptest! {
        #[test]
        fn what_is_printed_reads_back(bytes: u64) {
            prop_assert_eq!(ByteSize::new(bytes).to_string().parse(), Ok(ByteSize::new(bytes)));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let _ = text.parse::<ByteSize>();
        }
    }
}
