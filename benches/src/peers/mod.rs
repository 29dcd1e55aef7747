//! What people use today, behind one trait, so that Dolmen can be compared with it in the same run.
//!
//! Decides how a file or a folder gets into such a store and back; never measures and never checks contents, which is the
//! benchmark's part. Everything here blocks: call it from a thread of its own.

pub mod command;
pub mod folder;
mod parallel;
pub mod s3;
mod tree;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use self::command::CommandPair;
pub use self::folder::Folder;
pub use self::s3::{S3, S3Address};

/// Longest name of something stored.
pub const NAME_MAX_BYTES: usize = 128;

/// A store that benchmarks compare with. All calls block, and may be made from several threads.
pub trait Peer: fmt::Debug + Send + Sync {
    /// Stores a file, or a folder with all that is in it, under a name that is free; [`Self::remove`] frees it.
    ///
    /// # Errors
    /// [`PeerError`]; what was stored until then may stay.
    fn put(&self, source: &Path, name: &PeerName) -> Result<(), PeerError>;

    /// Fetches what is stored under a name to a path that does not exist yet.
    ///
    /// # Errors
    /// [`PeerError`]; what was fetched until then may stay.
    fn get(&self, name: &PeerName, target: &Path) -> Result<(), PeerError>;

    /// Removes what is stored under a name, so that rounds do not fill the disk.
    ///
    /// # Errors
    /// [`PeerError`].
    fn remove(&self, name: &PeerName) -> Result<(), PeerError>;
}

/// The name of something stored: letters, digits, `-`, `_` and `.`, none of these in front, at most
/// [`NAME_MAX_BYTES`]; it fits paths, keys and command lines as it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerName(String);

impl PeerName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for PeerName {
    type Err = PeerError;

    fn from_str(text: &str) -> Result<Self, PeerError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let starts_well = text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric);
        if !starts_well || text.len() > NAME_MAX_BYTES || !text.bytes().all(plain) {
            return Err(PeerError::Name { name: text.chars().take(NAME_MAX_BYTES).collect() });
        }
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

/// A peer with what a benchmark says and counts of it.
#[derive(Debug)]
pub struct Compared {
    /// What results call it.
    pub label: String,
    /// The store.
    pub peer: Box<dyn Peer>,
    /// Server processes whose CPU time and memory count too (`--peer-pid`); only the user knows them.
    pub server_pids: Vec<u32>,
}

/// Why something could not be stored, fetched or removed: what, why, what to do.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// A name that would not fit everywhere.
    #[error(
        "{name:?} is no name for something stored: use letters, digits, `-`, `_` and `.`, at most {NAME_MAX_BYTES}"
    )]
    Name {
        /// What was given.
        name: String,
    },
    /// A file of the user's machine could not be read or written.
    #[error("cannot {doing} {}: {source}", path.display())]
    Local {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something that is neither a file nor a folder.
    #[error("{} is neither a file nor a folder: benchmarks store nothing else", path.display())]
    NotAFile {
        /// Where.
        path: PathBuf,
    },
    /// Nothing has that name.
    #[error("{peer} has nothing named {name}: put it first")]
    NotFound {
        /// Which peer.
        peer: &'static str,
        /// Which name.
        name: PeerName,
    },
    /// A command line that cannot be run.
    #[error("`{command}` is no command for a peer: {why}")]
    CommandLine {
        /// As it was given.
        command: String,
        /// What is wrong with it.
        why: String,
    },
    /// A command that could not be started.
    #[error("cannot start `{program}`: {source}; is it installed and in PATH?")]
    CommandStart {
        /// The program.
        program: String,
        /// Why not.
        source: io::Error,
    },
    /// A command that did not succeed.
    #[error("`{command}` ended with {status}; it said: {output}")]
    CommandFailed {
        /// As it was run.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of what it printed.
        output: String,
    },
    /// An address of an S3 bucket that is none.
    #[error("{url} is no address of an S3 bucket: {why}; write it as http://HOST:PORT/BUCKET?region=REGION")]
    S3Address {
        /// As it was given, without query.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// No keys for S3.
    #[error("no keys for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")]
    S3Keys,
    /// An S3 server that cannot be talked to.
    #[error("cannot {doing} {key} at the S3 server: {why}; is it running, and the address right?")]
    S3Unreachable {
        /// What was tried.
        doing: &'static str,
        /// With which object.
        key: String,
        /// Why not.
        why: String,
    },
    /// An S3 server that refused.
    #[error("the S3 server refused to {doing} {key}: status {status}, {answer}{}", advice(*status))]
    S3Refused {
        /// What was tried.
        doing: &'static str,
        /// With which object.
        key: String,
        /// The HTTP status.
        status: u16,
        /// The start of what it answered.
        answer: String,
    },
    /// An S3 server whose answer makes no sense.
    #[error("the S3 server's answer to {doing} {key} makes no sense: {why}")]
    S3Answer {
        /// What was tried.
        doing: &'static str,
        /// With which object.
        key: String,
        /// What is wrong with it.
        why: String,
    },
}

fn advice(status: u16) -> &'static str {
    match status {
        403 => "; check the keys, the region and this machine's clock",
        404 => "; does the bucket exist?",
        503 => "; it is overloaded: try again with less at once",
        _ => "",
    }
}

/// Turns an error of a local file into one that says which file and what was tried with it.
fn local(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PeerError {
    move |source| PeerError::Local { doing, path: path.to_path_buf(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_paths_keys_and_command_lines() {
        for name in ["a", "bench-1.bin", "20KiB_files"] {
            assert_eq!(name.parse::<PeerName>().expect("a good name").as_str(), name);
        }
        let long = "x".repeat(NAME_MAX_BYTES + 1);
        for name in ["", ".", "..", "-rf", "a/b", "a b", "a\n", "ä", &long] {
            assert!(matches!(name.parse::<PeerName>(), Err(PeerError::Name { .. })), "{name:?}");
        }
    }
}
