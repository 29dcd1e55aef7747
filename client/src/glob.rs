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
    /// Where matches of patterns can lie; `None`: anywhere.
    reach: Option<Vec<Reach>>,
}

/// Where what a pattern for paths matches can lie.
#[derive(Debug, Clone)]
struct Reach {
    /// The components that its matches begin with.
    first: Vec<Vec<u8>>,
    /// How many components its matches have; `None`: any number.
    depth: Option<usize>,
}

impl Reach {
    /// Of a pattern without slashes at its ends.
    fn of(pattern: &str) -> Self {
        let special = |part: &&str| part.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let parts: Vec<&str> = pattern.split('/').collect();
        let first = parts.iter().take_while(|part| !special(part)).map(|part| part.as_bytes().to_vec()).collect();
        // Braces may hold slashes, and two stars any number of folders.
        let open = pattern.contains("**") || pattern.contains(['{', '[', '\\']);
        Self { first, depth: (!open).then_some(parts.len()) }
    }

    fn below(&self, folder: &[u8]) -> bool {
        let mut count = 0;
        for (at, part) in folder.split(|byte| *byte == b'/').enumerate() {
            if self.first.get(at).is_some_and(|first| first != part) {
                return false;
            }
            count += 1;
        }
        self.depth.is_none_or(|depth| count < depth)
    }
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
        let mut reach = Some(Vec::new());
        for pattern in patterns {
            let anchored = pattern.trim_start_matches('/').trim_end_matches('/');
            let glob = GlobBuilder::new(anchored).literal_separator(true).backslash_escape(true).build();
            let glob = glob.map_err(|error| wrong(pattern, &error))?;
            let path = anchored.contains('/') || pattern.starts_with('/');
            if path {
                if let Some(reach) = &mut reach {
                    reach.push(Reach::of(anchored));
                }
                paths.add(glob)
            } else {
                reach = None;
                names.add(glob)
            };
        }
        let built = |set: GlobSetBuilder| set.build().map_err(|error| wrong("the list", &error));
        Ok(Self { names: built(names)?, paths: built(paths)?, reach })
    }

    /// Whether a pattern may match something below this folder, which is not empty.
    pub(crate) fn may_match_below(&self, folder: &[u8]) -> bool {
        self.reach.as_ref().is_none_or(|reach| reach.iter().any(|reach| reach.below(folder)))
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
        for (pattern, folder, expected) in [
            ("*.jpg", "x/y", true),
            ("train/*.jpg", "train", true),
            ("train/*.jpg", "test", false),
            ("train/*.jpg", "train/x", false),
            ("train/x/y", "train/x", true),
            ("train/x/y", "train/x/y", false),
            ("/top", "x", false),
            ("train/**/*.jpg", "train/x/y/z", true),
            ("train/**/*.jpg", "other/x", false),
            ("*/x/*", "anything/x", true),
            ("{a/b,c}/d", "a/b/q", true),
            ("a/{b,c/d}", "a/c", true),
            ("a/{b,c/d}", "b", false),
        ] {
            assert_eq!(globs(&[pattern]).unwrap().may_match_below(folder.as_bytes()), expected, "{pattern} {folder}");
        }
        assert!(globs(&["a/b", "*.jpg"]).unwrap().may_match_below(b"x"), "names match anywhere");
        assert!(globs(&["*"]).unwrap().matches(b"x/\xff\xfe"));
        assert!(!globs(&[]).unwrap().matches(b"x"));
        assert_eq!(globs(&["[a"]).unwrap_err().kind(), ErrorKind::Usage);
    }
}
