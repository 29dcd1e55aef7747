//! What names data on the command line: `DATASET[@SNAPSHOT][:PATH]`, `LINK[:PATH]`, `@FILE[:PATH]` or `-`.
//!
//! Links are secrets and argument lists are public, so a link can always come from a file or from standard input.

use std::io::Read as _;
use std::path::Path;

use dolmen_proto::limits::LINK_MAX_CHARS;
use dolmen_proto::link::LINK_PREFIX;

use crate::data::there;
use crate::failure::{Exit, Failure};

/// A link has more characters than this, and nothing in it but letters and digits.
const LINK_MIN_CHARS: usize = 60;

/// Something that can be read, and the path below it that was named.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// What the path is in.
    pub named: Named,
    /// Path components separated by `/`, without leading or trailing separators; empty for all of it.
    pub path: String,
}

/// What can be named.
#[derive(Clone, PartialEq, Eq)]
pub enum Named {
    /// A link: its text is a secret.
    Link(String),
    /// A dataset of the vault.
    Dataset {
        /// Its name.
        name: String,
        /// The beginning of a snapshot's id, or a tag; the newest snapshot if not given.
        snapshot: Option<String>,
    },
}

impl Source {
    /// Reads a source as it was typed.
    ///
    /// # Errors
    /// [`Failure`] where a named file or standard input cannot be read, or holds no text of a link's size.
    pub fn read(typed: &str) -> Result<Self, Failure> {
        if typed == "-" {
            let link = first_word(read_bounded(std::io::stdin().lock(), "standard input")?)?;
            return Ok(Self { named: Named::Link(link), path: String::new() });
        }
        let (name, path) = typed.split_once(':').unwrap_or((typed, ""));
        let path = path.trim_matches('/').to_owned();
        if let Some(file) = name.strip_prefix('@') {
            there(Path::new(file))?;
            let opened = std::fs::File::open(file)
                .map_err(|error| Failure::local(format!("could not read {}", Path::new(file).display()), &error))?;
            return Ok(Self { named: Named::Link(first_word(read_bounded(opened, file)?)?), path });
        }
        if name.starts_with(LINK_PREFIX) || looks_like_a_link(name) {
            return Ok(Self { named: Named::Link(name.to_owned()), path });
        }
        let (name, snapshot) = match name.split_once('@') {
            Some((name, snapshot)) => (name, Some(snapshot.to_owned())),
            None => (name, None),
        };
        if name.is_empty() || snapshot.as_ref().is_some_and(String::is_empty) {
            let advice = "give DATASET[@SNAPSHOT][:PATH], LINK[:PATH], @FILE[:PATH] or -";
            return Err(Failure::usage("nothing was named", advice));
        }
        Ok(Self { named: Named::Dataset { name: name.to_owned(), snapshot }, path })
    }

    /// Reads the name of a whole dataset: no link, no snapshot, no path.
    ///
    /// # Errors
    /// [`Failure`] of usage.
    pub fn dataset(typed: &str) -> Result<String, Failure> {
        match Self::read(typed)? {
            Self { named: Named::Dataset { name, snapshot: None }, path } if path.is_empty() => Ok(name),
            _ => {
                Err(Failure::usage("that is not the name of a dataset", "give its name alone; `dolmen ls` lists them"))
            }
        }
    }
}

/// Whether a text is rather a link with a fault in its beginning than a dataset's name: it must not be looked up, or shown, as one.
fn looks_like_a_link(name: &str) -> bool {
    name.len() >= LINK_MIN_CHARS && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn read_bounded(reader: impl std::io::Read, name: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let limit = LINK_MAX_CHARS as u64 + 64;
    reader.take(limit).read_to_string(&mut text).map_err(|error| {
        Failure::new(
            Exit::Local,
            format!("could not read a link from {name}"),
            error.to_string(),
            "give a text file with the link in it",
        )
    })?;
    Ok(text)
}

fn first_word(text: String) -> Result<String, Failure> {
    text.split_whitespace()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| Failure::usage("there is no link in what was read", "put the link, and nothing else, there"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(text: &str) -> Named {
        Named::Link(text.to_owned())
    }

    #[test]
    fn a_source_is_a_link_a_file_or_either_with_a_path() {
        let source = Source::read("dolmen1abc:/a/b/").expect("a link");
        assert!(source.named == link("dolmen1abc") && source.path == "a/b");
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("link.txt");
        std::fs::write(&file, "dolmen1xyz\n").expect("written");
        let source = Source::read(&format!("@{}:c", file.display())).expect("a file");
        assert!(source.named == link("dolmen1xyz") && source.path == "c");
        assert_eq!(Source::read("@/nowhere").err().map(|failure| failure.exit()), Some(Exit::NotFound));
        std::fs::write(&file, " \n").expect("written");
        assert_eq!(
            Source::read(&format!("@{}", file.display())).err().map(|failure| failure.exit()),
            Some(Exit::Usage)
        );
    }

    #[test]
    fn everything_else_is_a_dataset_with_a_snapshot_and_a_path_or_without() {
        let read = |typed: &str| match Source::read(typed).ok().map(|source| (source.named, source.path)) {
            Some((Named::Dataset { name, snapshot }, path)) => Some((name, snapshot.unwrap_or_default(), path)),
            _ => None,
        };
        let some = |name: &str, snapshot: &str, path: &str| Some((name.into(), snapshot.into(), path.into()));
        assert_eq!(read("lab/scans"), some("lab/scans", "", ""));
        assert_eq!(read("scans@2f31:a/b"), some("scans", "2f31", "a/b"));
        assert_eq!(read("scans:a@b"), some("scans", "", "a@b"), "an @ in the path is the path's");
        assert_eq!(read(&"x".repeat(68)), None, "that is a link with a fault");
        assert_eq!(read("scans@"), None);
        assert_eq!(read(""), None);
        assert!(Source::dataset("scans").is_ok());
        for typed in ["scans@x", "scans:a", "dolmen1abc"] {
            assert!(Source::dataset(typed).is_err(), "{typed}");
        }
    }
}
