//! A snapshot as callers read it: what it is, what is in it, its files.
//!
//! Decides nothing: lists, opens and restores through the pipelines.

use std::fmt;
use std::io::Write;
use std::ops::Range;

use dolmen_proto::history::{HistoryRow, history_message};
use dolmen_proto::ids::{SnapshotId, Timestamp};
use dolmen_proto::manifest::{self, Entry, EntryKind};

use crate::error::{ClientError, ErrorKind};
use crate::file::File;
use crate::get;
use crate::listing::{Listing, listed};
use crate::options::{Destination, GetOptions};
use crate::progress::{Progress, Stage};
use crate::read::Dataset;
use crate::report::{GetReport, ListedEntry, LogEntry};

/// One immutable version of a dataset. Cheap to clone; clones share what was read.
///
/// Paths are raw bytes: components separated by `/`; the empty path is the root folder.
///
/// ```no_run
/// # async fn example(client: &dolmen_client::Client, link: &str) -> Result<(), dolmen_client::ClientError> {
/// let snapshot = client.snapshot(link).await?;
/// println!("{} files, {} bytes", snapshot.files(), snapshot.bytes());
/// let mut listing = snapshot.list(b"images", false).await?;
/// while let Some(entry) = listing.next().await? {
///     println!("{} {}", entry.size, entry.path);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Snapshot {
    pub(crate) dataset: Dataset,
    pub(crate) root: manifest::Snapshot,
    progress: Progress,
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Snapshot").field(&self.id()).finish()
    }
}

impl Snapshot {
    /// Reads the root of a dataset's snapshot.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    pub(crate) async fn open(dataset: Dataset, progress: Progress) -> Result<Self, ClientError> {
        let root = dataset.snapshot().await?;
        Ok(Self { dataset, root, progress })
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SnapshotId {
        self.dataset.snapshot_id()
    }

    /// When it was made, by its writer's clock; advisory.
    #[must_use]
    pub fn created(&self) -> Timestamp {
        self.root.created
    }

    /// What its writer had to say.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.root.message
    }

    /// Regular files in it.
    #[must_use]
    pub fn files(&self) -> u64 {
        self.root.root.totals.files
    }

    /// Sum of the sizes of its files, holes included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.root.root.totals.bytes
    }

    /// The snapshots that the dataset keeps, newest first.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when the history cannot be read, `Refused` when it is longer than this release reads.
    pub async fn log(&self) -> Result<Vec<LogEntry>, ClientError> {
        let Some(rows) = self.dataset.history().await? else {
            return Ok(vec![LogEntry {
                snapshot: self.id().to_string(),
                created: self.created(),
                files: self.files(),
                bytes: self.bytes(),
                message: history_message(self.message()).to_owned(),
                tags: Vec::new(),
            }]);
        };
        Ok(rows.iter().rev().map(LogEntry::from).collect())
    }

    /// Another snapshot of the same dataset, as its history names it.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    #[expect(dead_code, reason = "for commands that name a snapshot")]
    pub(crate) async fn at(&self, row: &HistoryRow) -> Result<Self, ClientError> {
        Self::open(self.dataset.at(row.root.clone(), row.id), self.progress.clone()).await
    }

    /// What there is at a path; `None` for the root folder itself.
    ///
    /// # Errors
    /// `NotFound` when there is nothing; `Damaged` or `NotNow` when a folder cannot be read.
    pub async fn entry(&self, path: &[u8]) -> Result<Option<ListedEntry>, ClientError> {
        let path = normal(path);
        Ok(self.dataset.entry(&path).await?.map(|entry| listed(&path, &entry)))
    }

    /// Opens the file at a path.
    ///
    /// # Errors
    /// As [`Snapshot::entry`]; `NotFound` when it is no file.
    pub async fn file(&self, path: &[u8]) -> Result<File, ClientError> {
        match self.dataset.entry(path).await? {
            Some(Entry { kind: EntryKind::File(file), .. }) => Ok(File::new(self.dataset.clone(), file)),
            _ => Err(no_file(path)),
        }
    }

    /// Lists the entries at a path, all below it too when `recursive`. See [`Listing::into_stream`].
    ///
    /// # Errors
    /// As [`Snapshot::entry`].
    pub async fn list(&self, path: &[u8], recursive: bool) -> Result<Listing, ClientError> {
        let dataset = if recursive { self.dataset.whole() } else { self.dataset.clone() };
        Listing::open(dataset, path, recursive).await
    }

    /// Writes a file's bytes, or a range of them that is cut at its end, in order to `writer`; gives how many.
    ///
    /// # Errors
    /// As [`Snapshot::file`]; `Local` when writing fails.
    pub async fn cat(
        &self,
        path: &[u8],
        range: Option<Range<u64>>,
        writer: Box<dyn Write + Send>,
    ) -> Result<u64, ClientError> {
        let file = match self.dataset.entry(path).await? {
            Some(Entry { kind: EntryKind::File(file), .. }) => file,
            _ => return Err(no_file(path)),
        };
        self.progress.stage(Stage::Downloading);
        get::write_file(&self.dataset, &file, range, writer, &self.progress).await
    }

    /// Restores the snapshot, or what `options` name of it.
    ///
    /// # Errors
    /// `NotNow` or `Damaged` when nothing of it could be restored, `Local` when the target cannot be written; single files that
    /// fail are in the report.
    pub async fn get(&self, to: Destination, options: &GetOptions) -> Result<GetReport, ClientError> {
        get::get(&self.dataset.whole(), to, options, &self.progress).await
    }

    pub(crate) fn progress(&self) -> &Progress {
        &self.progress
    }
}

fn no_file(path: &[u8]) -> ClientError {
    ClientError::new(
        ErrorKind::NotFound,
        format!("{:?} is no file", String::from_utf8_lossy(path)),
        "it is a folder or a symbolic link",
        "name a file of the snapshot; `dolmen ls` lists them",
    )
}

/// A path without empty components.
pub(crate) fn normal(path: &[u8]) -> Vec<u8> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join(&b'/')
}
