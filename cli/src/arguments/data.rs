//! What can be typed to store and to read data.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use dolmen_proto::policy::Policy;
use dolmen_proto::size::ByteSize;

use super::duration;

/// `dolmen put`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen put ~/photos photos -m 'after the holidays'\n  dolmen put a.dcm b.dcm --to scans:2026/11 --exclude '*.tmp'\n  pg_dump lab | dolmen put - --to backups:lab.sql\n  dolmen put ~/photos --anonymous\n\nAn interrupted put resumes when it is run again. PATH NAME, two arguments of which the second does not exist here,\nis short for PATH --to NAME."
)]
pub struct Put {
    /// Files and folders to store; - alone for standard input, as the file that --to names.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Put into this dataset, at this path; the dataset is made if it is new.
    #[arg(long, value_name = "DATASET[:PATH]", conflicts_with = "anonymous")]
    pub to: Option<String>,
    /// Store without a vault: only the printed link reads it.
    #[arg(long)]
    pub anonymous: bool,
    /// What to remember about the snapshot.
    #[arg(short, long, default_value = "")]
    pub message: String,
    /// Leave out what matches, as in a .gitignore; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub exclude: Vec<String>,
    /// Take out of the dataset what is no longer in the folder.
    #[arg(long)]
    pub delete: bool,
    /// Say what would be stored, and store nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Recognise unchanged files by content instead of size and time.
    #[arg(long)]
    pub checksum: bool,
    /// Compress chunks: auto tries a sample of every file.
    #[arg(long, value_enum, default_value_t = Compress::Auto)]
    pub compress: Compress,
    /// Shards needed and made of every segment, such as 7/16; by the number of nodes if not given. Of a new dataset only.
    #[arg(long, value_name = "K/N")]
    pub policy: Option<Policy>,
    /// How long the nodes shall keep it, such as 400d; `lease_days` of client.toml, or 400d, if not given.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub lease: Option<Duration>,
    /// Fail instead of accepting fewer than n shards of a segment.
    #[arg(long)]
    pub require_full: bool,
}

/// When to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compress {
    /// Where a sample of the file says that it pays.
    Auto,
    /// Never.
    Off,
    /// Always, with zstd.
    Zstd,
}

/// `dolmen get`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen get LINK /tmp/restored\n  dolmen get @link.txt:scans/a.dcm -   (one file to standard output)"
)]
pub struct Get {
    /// `DATASET[@SNAPSHOT][:PATH]`, `LINK[:PATH]`, `@FILE[:PATH]`, or - to read the link from standard input.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Folder or file to write; - for standard output.
    pub destination: PathBuf,
    /// Read files that are there already and compare their content, instead of trusting size and time.
    #[arg(long)]
    pub checksum: bool,
    /// Only files that match, as in a .gitignore; may be given several times.
    #[arg(long, value_name = "GLOB")]
    pub include: Vec<String>,
    /// Replace files that are there and differ, instead of listing them as failed.
    #[arg(long)]
    pub overwrite: bool,
}

/// `dolmen ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// `DATASET[@SNAPSHOT][:PATH]`, `LINK[:PATH]`, `@FILE[:PATH]` or -; all datasets if not given.
    #[arg(value_name = "SOURCE")]
    pub source: Option<String>,
    /// Show mode, size and time.
    #[arg(short = 'l', long)]
    pub long: bool,
    /// Show what is in folders too.
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `dolmen cat`
#[derive(Debug, Args)]
pub struct Cat {
    /// `DATASET[@SNAPSHOT]:PATH`, LINK:PATH, @FILE:PATH or a link to a single file.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Where to start, in bytes or such as 16MiB.
    #[arg(long, default_value = "0")]
    pub offset: ByteSize,
    /// How much to write; to the end if not given.
    #[arg(long)]
    pub length: Option<ByteSize>,
}

/// A command on one dataset or link.
#[derive(Debug, Args)]
pub struct OneSource {
    /// `DATASET[@SNAPSHOT]`, LINK, @FILE or -.
    #[arg(value_name = "SOURCE")]
    pub source: String,
}

/// `dolmen renew`
#[derive(Debug, Args)]
pub struct Renew {
    /// DATASET, LINK, @FILE or -.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// How long from now the nodes shall keep it; `lease_days` of client.toml, or 400d, if not given.
    #[arg(long, value_parser = duration, value_name = "DURATION")]
    pub lease: Option<Duration>,
}
