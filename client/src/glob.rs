//! Patterns that people name paths with.
//!
//! Decides what a pattern means: one without a slash is for names at any depth, one with a slash for paths from the
//! folder that is walked; `*` and `?` stop at slashes, `**` does not.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use globset::{GlobBuilder, GlobSet, GlobSetBuilder};

use crate::error::{ClientError, ErrorKind};

/// Most patterns of one call.
const GLOBS_MAX: usize = 4096;

/// Patterns, any of which may match.
#[derive(Debug, Clone)]
pub(crate) struct Globs {
    names: GlobSet,
    paths: GlobSet,
}

impl Globs {
    /// Compiles patterns.
    ///
    /// # Errors
    /// `Usage` for what is no pattern, or too many of them.
    pub(crate) fn new(patterns: &[String]) -> Result<Self, ClientError> {
        let wrong = |pattern: &str, why: &dyn std::fmt::Display| {
            let advice = "use * and ? within a name, ** for any folders, [..] for one of several letters";
            ClientError::new(ErrorKind::Usage, format!("{pattern:?} is not a pattern"), why, advice)
        };
        if patterns.len() > GLOBS_MAX {
            return Err(wrong("the list", &format!("there are more than {GLOBS_MAX} patterns")));
        }
        let (mut names, mut paths) = (GlobSetBuilder::new(), GlobSetBuilder::new());
        for pattern in patterns {
            let anchored = pattern.trim_start_matches('/').trim_end_matches('/');
            let glob = GlobBuilder::new(anchored).literal_separator(true).backslash_escape(true).build();
            let glob = glob.map_err(|error| wrong(pattern, &error))?;
            let path = anchored.contains('/') || pattern.starts_with('/');
            if path {
                paths.add(glob)
            } else {
                names.add(glob)
            };
        }
        let built = |set: GlobSetBuilder| set.build().map_err(|error| wrong("the list", &error));
        Ok(Self { names: built(names)?, paths: built(paths)? })
    }

    /// Whether a pattern matches a path, or its last component.
    pub(crate) fn matches(&self, path: &[u8]) -> bool {
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        let as_path = |bytes| Path::new(OsStr::from_bytes(bytes));
        self.names.is_match(as_path(name)) || self.paths.is_match(as_path(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_anywhere_and_paths_from_the_top() {
        let globs = |patterns: &[&str]| Globs::new(&patterns.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>());
        for (pattern, path, expected) in [
            ("*.jpg", "a.jpg", true),
            ("*.jpg", "x/y/a.jpg", true),
            ("*.jpg", "x/a.jpeg", false),
            ("train/*.jpg", "train/a.jpg", true),
            ("train/*.jpg", "train/x/a.jpg", false),
            ("train/*.jpg", "y/train/a.jpg", false),
            ("train/**/*.jpg", "train/x/y/a.jpg", true),
            ("**/b", "x/y/b", true),
            ("/top", "top", true),
            ("/top", "x/top", false),
            ("folder/", "x/folder", true),
            ("[ab]?", "b1", true),
            ("*", "\n", true),
        ] {
            assert_eq!(globs(&[pattern]).unwrap().matches(path.as_bytes()), expected, "{pattern} {path}");
        }
        assert!(globs(&["*"]).unwrap().matches(b"x/\xff\xfe"));
        assert!(!globs(&[]).unwrap().matches(b"x"));
        assert_eq!(globs(&["[a"]).unwrap_err().kind(), ErrorKind::Usage);
    }
}
