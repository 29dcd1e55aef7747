//! Regions: where a node stands, from the largest to the smallest place, as in `eu`, `eu-de`, `eu-de-ber`.
//!
//! Decides how regions are written and which contains which. Never decides whether a node tells the truth.

use core::fmt;
use core::str::FromStr;

/// Most places in one region.
const PLACES_MAX: usize = 4;
/// Most bytes of one region's text.
const REGION_MAX_BYTES: usize = 64;

/// A place within a place: one to four names of lower-case letters and digits, joined by hyphens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Region(String);

/// The text is not a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a region is one to four names of a-z and 0-9 joined by hyphens, such as eu-de")]
pub struct RegionError;

impl Region {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `other` is this region or lies in it: `eu` contains `eu-de` but not `eun`.
    #[must_use]
    pub fn contains(&self, other: &Self) -> bool {
        other.0.strip_prefix(&self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }

    /// The two largest places: shards are spread over these.
    #[must_use]
    pub fn domain(&self) -> &str {
        self.0.match_indices('-').nth(1).map_or(self.0.as_str(), |(end, _)| &self.0[..end])
    }
}

impl FromStr for Region {
    type Err = RegionError;

    fn from_str(text: &str) -> Result<Self, RegionError> {
        let name = |name: &str| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
        };
        let good = text.len() <= REGION_MAX_BYTES && text.split('-').count() <= PLACES_MAX && text.split('-').all(name);
        if good { Ok(Self(text.to_owned())) } else { Err(RegionError) }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(text: &str) -> Region {
        text.parse().expect("a region of the test")
    }

    #[test]
    fn a_region_contains_itself_and_its_parts() {
        assert!(region("eu").contains(&region("eu")));
        assert!(region("eu").contains(&region("eu-de-ber")));
        assert!(!region("eu").contains(&region("eun")));
        assert!(!region("eu-de").contains(&region("eu")));
    }

    #[test]
    fn the_domain_is_the_two_largest_places() {
        assert_eq!(region("eu-de-ber").domain(), "eu-de");
        assert_eq!(region("eu-de").domain(), "eu-de");
        assert_eq!(region("eu").domain(), "eu");
    }

    #[test]
    fn other_text_is_refused() {
        for text in ["", "-", "eu-", "EU", "eu de", "a-b-c-d-e", "é", &"a".repeat(65)] {
            assert_eq!(text.parse::<Region>(), Err(RegionError), "{text:?}");
        }
    }
}
