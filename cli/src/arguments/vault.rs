//! What can be typed to look after a vault and its datasets.

use std::path::PathBuf;

use clap::Args;
use dolmen_proto::size::ByteSize;

/// `dolmen init`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen init\n  dolmen init --recover --bootstrap ADDR     asks for the 24 words and lists every dataset"
)]
pub struct Init {
    /// Bring a vault back from its 24 words, read from the terminal or from standard input.
    #[arg(long)]
    pub recover: bool,
    /// Keep the secret in the operating system's keychain instead of a file sealed with a passphrase.
    #[arg(long)]
    pub keychain: bool,
}

/// `dolmen passphrase`
#[derive(Debug, Args)]
pub struct Passphrase {
    /// A file whose first line is the new passphrase; the terminal is asked if not given.
    #[arg(long, value_name = "FILE")]
    pub new_passphrase_file: Option<PathBuf>,
}

/// `dolmen rm`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen rm photos:2019/blurred     a new snapshot without the folder; earlier snapshots keep it\n  dolmen rm @link.txt               deletes an anonymous upload"
)]
pub struct Rm {
    /// DATASET:PATH, or the LINK, @FILE or - of an anonymous upload.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// What to remember about the new snapshot.
    #[arg(short, long, default_value = "")]
    pub message: String,
    /// Remove the whole dataset.
    #[arg(long)]
    pub all: bool,
}

/// `dolmen du`
#[derive(Debug, Args)]
pub struct Du {
    /// `DATASET[@SNAPSHOT][:PATH]`, `LINK[:PATH]`, `@FILE[:PATH]` or -.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// How many levels of folders to show.
    #[arg(short = 'd', long, default_value_t = 1)]
    pub depth: usize,
}

/// `dolmen find`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dolmen find photos --name '*.jpg' --larger 10MB")]
pub struct Find {
    /// `DATASET[@SNAPSHOT][:PATH]`, `LINK[:PATH]`, `@FILE[:PATH]` or -.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Names that match, such as '*.jpg'.
    #[arg(long, value_name = "GLOB")]
    pub name: Option<String>,
    /// At least so large.
    #[arg(long, value_name = "SIZE")]
    pub larger: Option<ByteSize>,
    /// At most so large.
    #[arg(long, value_name = "SIZE")]
    pub smaller: Option<ByteSize>,
    /// Of one kind only.
    #[arg(long, value_enum)]
    pub kind: Option<Kind>,
}

/// Kinds of entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Regular files.
    File,
    /// Folders.
    Folder,
    /// Symbolic links.
    Symlink,
}

/// `dolmen diff`
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  dolmen diff photos@before photos@2f31c0de")]
pub struct Diff {
    /// `DATASET[@SNAPSHOT][:PATH]` or `LINK[:PATH]`.
    pub old: String,
    /// `DATASET[@SNAPSHOT][:PATH]` or `LINK[:PATH]`.
    pub new: String,
}

/// `dolmen tag`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen tag photos@2f31c0de before-the-move\n  dolmen tag photos@before-the-move --delete before-the-move"
)]
pub struct Tag {
    /// `DATASET[@SNAPSHOT]`; the newest snapshot if none is named.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// The name: at most 64 letters, digits and - _ . characters.
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Take the name away instead.
    #[arg(long)]
    pub delete: bool,
}

/// `dolmen forget`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen forget photos --keep-last 10 --keep-daily 14 --keep-monthly 12\n  dolmen forget photos@2f31c0de photos@before    only these\n\nThe newest snapshot is always kept."
)]
pub struct Forget {
    /// DATASET with rules of what to keep, or DATASET@SNAPSHOT, once or more, to forget only these.
    #[arg(value_name = "DATASET[@SNAPSHOT]", required = true)]
    pub sources: Vec<String>,
    /// Keep all that have this tag; may be given several times.
    #[arg(long, value_name = "TAG")]
    pub keep_tag: Vec<String>,
    /// Keep the newest so many.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_last: u32,
    /// Keep the newest of each of the last so many hours that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_hourly: u32,
    /// Keep the newest of each of the last so many days that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_daily: u32,
    /// Keep the newest of each of the last so many weeks that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_weekly: u32,
    /// Keep the newest of each of the last so many months that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_monthly: u32,
    /// Keep the newest of each of the last so many years that have any.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub keep_yearly: u32,
    /// Say what would be dropped, and drop nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `dolmen gc`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen gc photos       what nothing needs leaves now; what left a week ago is deleted\n  dolmen gc --removed    the same for datasets that `rm --all` removed"
)]
pub struct Gc {
    /// DATASET.
    #[arg(value_name = "DATASET", required_unless_present = "removed", conflicts_with = "removed")]
    pub source: Option<String>,
    /// Free what datasets took that were removed.
    #[arg(long)]
    pub removed: bool,
    /// Say what would be freed, and free nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// `dolmen shares`
#[derive(Debug, Args)]
pub struct Shares {
    /// DATASET.
    #[arg(value_name = "DATASET")]
    pub source: String,
    /// Publish all of them anew first, as after one of them could not be.
    #[arg(long)]
    pub refresh: bool,
}

/// `dolmen share`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen share photos                    reads the dataset, as it is and as it will be\n  dolmen share photos:2026 --live        only this folder, as it will be\n  dolmen share photos@before --frozen    only this snapshot"
)]
pub struct Share {
    /// `DATASET[@SNAPSHOT][:PATH]`.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Follow the newest snapshot; the default where no snapshot is named.
    #[arg(long, conflicts_with = "frozen")]
    pub live: bool,
    /// Stay with one snapshot; the default where one is named.
    #[arg(long)]
    pub frozen: bool,
}

/// `dolmen unshare`
#[derive(Debug, Args)]
pub struct Unshare {
    /// DATASET.
    #[arg(value_name = "DATASET")]
    pub source: String,
    /// The number of the share; `dolmen shares` lists them.
    pub number: u32,
}

/// `dolmen rekey`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen rekey photos                              links given out so far show nothing new\n  dolmen rekey photos --reseal --forget-earlier    and keys that their holders kept open nothing that is stored from now on"
)]
pub struct Rekey {
    /// DATASET.
    #[arg(value_name = "DATASET")]
    pub source: String,
    /// Fetch the newest snapshot and store all of it again under new keys; what is stored now leaves.
    #[arg(long)]
    pub reseal: bool,
    /// With --reseal: forget the snapshots before the newest.
    #[arg(long, requires = "reseal", conflicts_with = "keep_earlier")]
    pub forget_earlier: bool,
    /// With --reseal: keep the snapshots before the newest, under the keys that old links lead to.
    #[arg(long, requires = "reseal")]
    pub keep_earlier: bool,
}

/// `dolmen verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// `DATASET[@SNAPSHOT][:PATH]`, `LINK[:PATH]`, `@FILE[:PATH]` or -.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// Read only so many per cent of the files, drawn at random.
    #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
    pub sample: Option<u8>,
}

/// `dolmen check`
#[derive(Debug, Args)]
pub struct Check {
    /// A folder on this machine.
    pub folder: PathBuf,
    /// What `dolmen root` printed: begins with dolmenroot1.
    pub root: String,
}
