//! Which paths of the source are left out.
//!
//! Decides by patterns as `.gitignore` has them, relative to the folder that is put. Never reads such a file by itself.

use std::path::{Path, PathBuf};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::error::{ClientError, ErrorKind};

/// Patterns of what is left out.
#[derive(Debug, Clone)]
pub(crate) struct Exclude {
    patterns: Gitignore,
    root: PathBuf,
}

impl Exclude {
    /// Patterns as `.gitignore` has them; those with a slash before their end are relative to `root`.
    ///
    /// # Errors
    /// `Usage` for a pattern that is none.
    pub(crate) fn new(root: &Path, globs: &[String]) -> Result<Self, ClientError> {
        let mut builder = GitignoreBuilder::new(root);
        for glob in globs {
            builder.add_line(None, glob).map_err(|error| Self::wrong(glob, &error))?;
        }
        let patterns = builder.build().map_err(|error| Self::wrong("the patterns", &error))?;
        Ok(Self { patterns, root: root.to_path_buf() })
    }

    fn wrong(glob: &str, error: &ignore::Error) -> ClientError {
        ClientError::new(
            ErrorKind::Usage,
            format!("{glob:?} is no pattern of what to leave out"),
            error,
            "write it as in a .gitignore file, such as *.tmp or build/",
        )
    }

    /// Whether an entry is left out; what lies in a folder that is left out is not asked for.
    pub(crate) fn matches(&self, path: &Path, is_folder: bool) -> bool {
        let relative = path.strip_prefix(&self.root).unwrap_or(path);
        // The folder that is put is not in itself.
        let asked = !self.patterns.is_empty() && !relative.as_os_str().is_empty();
        asked && self.patterns.matched(relative, is_folder).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_they_mean_to_git() {
        let globs = ["*.tmp", "/build/", "deep/*.log", "!keep.tmp"].map(str::to_owned);
        let exclude = Exclude::new(Path::new("/source"), &globs).unwrap();
        let matches = |path: &str, is_folder| exclude.matches(&Path::new("/source").join(path), is_folder);
        assert!(matches("a.tmp", false) && matches("x/y/a.tmp", false));
        assert!(!matches("keep.tmp", false) && !matches("a.txt", false));
        assert!(matches("build", true) && !matches("build", false) && !matches("x/build", true));
        assert!(matches("deep/a.log", false) && !matches("x/deep/a.log", false));
        assert!(!Exclude::new(Path::new("/source"), &[]).unwrap().matches(Path::new("/source/a"), false));
        let error = Exclude::new(Path::new("/"), &["a{".to_owned()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }
}
