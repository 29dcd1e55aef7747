//! What a caller may choose for one operation.
//!
//! Decides defaults. Never decides what is legal for the network: nodes and documents do.

use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::config::{ConfigError, PolicyChoice};

/// Choices of one put.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// The code; `None`: as configured.
    pub policy: Option<PolicyChoice>,
    /// How long everything is leased; `None`: as configured.
    pub lease: Option<Duration>,
    /// Fail (exit 4) rather than accept fewer than `n` shards of a segment.
    pub require_full: bool,
    /// Bootstrap addresses to write into the link, at most eight; they make it longer but self-sufficient.
    pub link_bootstrap: Vec<String>,
    /// A message for the snapshot, at most 4 KiB.
    pub message: String,
    /// Patterns, as `.gitignore` has them, of what is left out; relative to the folder that is put.
    pub exclude: Vec<String>,
    /// What the destination has and the source has not goes from the new snapshot; what `exclude` leaves out stays.
    pub delete: bool,
    /// Files are unchanged when their contents are, whatever their times say; otherwise size and time decide.
    pub checksum: bool,
    /// Whether chunks are compressed before they are sealed.
    pub compress: Compression,
}

/// Whether chunks are compressed before they are sealed, with Zstandard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Those of files whose beginning becomes at least a tenth smaller.
    #[default]
    Auto,
    /// None.
    Off,
    /// All that become smaller by it.
    Zstd,
}

impl FromStr for Compression {
    type Err = ConfigError;

    /// Reads `auto`, `off` or `zstd`.
    fn from_str(text: &str) -> Result<Self, ConfigError> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "zstd" => Ok(Self::Zstd),
            _ => Err(ConfigError::Value { key: "compress", reason: format!("{text:?} is neither auto, off nor zstd") }),
        }
    }
}

/// Where a get writes.
pub enum Destination {
    /// A folder that the snapshot's entries are restored into, or, for a snapshot of one file, a file or folder.
    Path(PathBuf),
    /// A stream that takes the bytes of exactly one file.
    Writer(Box<dyn Write + Send>),
}

impl fmt::Debug for Destination {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => formatter.debug_tuple("Path").field(path).finish(),
            Self::Writer(_) => formatter.write_str("Writer"),
        }
    }
}

/// Choices of one get.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Only what lies at or below this path of the snapshot, components separated by `/`; empty: all.
    pub path: Vec<u8>,
    /// Patterns; unless empty, only what one of them matches is restored, a folder with all that is in it. One without a slash is
    /// for names at any depth, one with a slash for paths from the folder that is restored; `*` and `?` stop at
    /// slashes, `**` does not.
    pub include: Vec<String>,
    /// Replace existing files that differ; otherwise they are reported as failed.
    pub overwrite: bool,
    /// Compare the contents of existing files, not only size and time, before skipping them.
    pub check_existing: bool,
}
