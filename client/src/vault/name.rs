//! Names of datasets.
//!
//! Decides which names can be typed back on a command line: `DATASET[@SNAPSHOT][:PATH]`, with slashes in DATASET.

use std::fmt;
use std::str::FromStr;

use crate::error::{ClientError, ErrorKind};

/// Longest name in bytes.
const MAX_BYTES: usize = 200;

/// A dataset's name: 1 to 200 bytes of UTF-8 in components between slashes, such as `vision/photos`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DatasetName(String);

impl DatasetName {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for DatasetName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl FromStr for DatasetName {
    type Err = ClientError;

    /// Checks a name.
    ///
    /// ```
    /// use dolmen_client::vault::DatasetName;
    /// assert!("vision/photos 2026".parse::<DatasetName>().is_ok());
    /// assert!("photos@home".parse::<DatasetName>().is_err());
    /// ```
    ///
    /// # Errors
    /// `Usage`, with the rule that it breaks.
    fn from_str(text: &str) -> Result<Self, ClientError> {
        let broken = |why: &str| {
            let advice = "a name is like vision/photos: no @, no colon, no control characters";
            Err(ClientError::new(ErrorKind::Usage, format!("{text:?} cannot name a dataset"), why, advice))
        };
        if text.is_empty() || text.len() > MAX_BYTES {
            return broken("it has 1 to 200 bytes");
        }
        if text.contains(['@', ':']) || text.chars().any(char::is_control) {
            return broken("it has a character that a name must not have");
        }
        if text.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return broken("a part of it between slashes is empty or only dots");
        }
        if text.trim() != text {
            return broken("it begins or ends with a space");
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_not_be_typed_back_are_refused() {
        for name in ["a", "a/b", "photos 2026", "données", "..a", &"x".repeat(200)] {
            assert_eq!(name.parse::<DatasetName>().unwrap().as_str(), name);
        }
        for name in ["", "/", "a/", "/a", "a//b", "a@b", "a:b", "a\nb", "a\u{7f}", " a", ".", "a/..", &"x".repeat(201)]
        {
            assert_eq!(name.parse::<DatasetName>().unwrap_err().kind(), ErrorKind::Usage, "{name:?}");
        }
    }
}
