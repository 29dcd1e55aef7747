//! What names an upload on the command line: `LINK[:PATH]`, `@FILE[:PATH]` or `-`.
//!
//! Links are secrets and argument lists are public, so a link can always come from a file or from standard input.

use std::io::Read as _;
use std::path::Path;

use dolmen_proto::limits::LINK_MAX_CHARS;

use crate::failure::{Exit, Failure};

/// A link's text and the path below it that was named; the path is empty for all of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Source {
    /// The text of the link: a secret.
    pub link: String,
    /// Path components separated by `/`, without leading or trailing separators.
    pub path: String,
}

impl Source {
    /// Reads a source as it was typed.
    ///
    /// # Errors
    /// [`Failure`] where a named file or standard input cannot be read, or holds no text of a link's size.
    pub fn read(typed: &str) -> Result<Self, Failure> {
        if typed == "-" {
            return Ok(Self {
                link: first_word(read_bounded(std::io::stdin().lock(), "standard input")?)?,
                path: String::new(),
            });
        }
        let (name, path) = typed.split_once(':').unwrap_or((typed, ""));
        let path = path.trim_matches('/').to_owned();
        if let Some(file) = name.strip_prefix('@') {
            let opened = std::fs::File::open(file)
                .map_err(|error| Failure::local(format!("could not read {}", Path::new(file).display()), &error))?;
            return Ok(Self { link: first_word(read_bounded(opened, file)?)?, path });
        }
        if name.is_empty() {
            return Err(Failure::usage("no link was given", "give a LINK, @FILE or -"));
        }
        Ok(Self { link: name.to_owned(), path })
    }
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

    #[test]
    fn a_source_is_a_link_a_file_or_either_with_a_path() {
        let source = Source::read("dolmen1abc:/a/b/").expect("a link");
        assert_eq!((source.link.as_str(), source.path.as_str()), ("dolmen1abc", "a/b"));
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("link.txt");
        std::fs::write(&file, "dolmen1xyz\n").expect("written");
        let source = Source::read(&format!("@{}:c", file.display())).expect("a file");
        assert_eq!((source.link.as_str(), source.path.as_str()), ("dolmen1xyz", "c"));
        assert_eq!(Source::read("@/nowhere").err().map(|failure| failure.exit()), Some(Exit::Local));
        std::fs::write(&file, " \n").expect("written");
        assert_eq!(
            Source::read(&format!("@{}", file.display())).err().map(|failure| failure.exit()),
            Some(Exit::Usage)
        );
    }
}
