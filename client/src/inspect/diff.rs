//! What changed between two snapshots.
//!
//! Decides when an entry counts as changed: by hash where both have one, else by its chunks. Subtrees and parts of folders
//! that both snapshots share are not read.

use std::cmp::Ordering;
use std::collections::VecDeque;

use dolmen_proto::limits::FOLDER_DEPTH_MAX;
use dolmen_proto::manifest::{Entry, EntryKind as Kind, FileEntry, FolderEntry};
use serde::Serialize;

use crate::error::{ClientError, ErrorKind};
use crate::read::{Dataset, EntryWalk, Folder, join};
use crate::report::EntryKind;
use crate::snapshot::Snapshot;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is only in the second snapshot.
    Added,
    /// It is only in the first one.
    Removed,
    /// Its contents differ, or where it points.
    Changed,
    /// Only its mode or time differ, or its attributes.
    Metadata,
}

/// A path that is not the same in both snapshots. A file that became a folder, say, is removed and added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiffEntry {
    /// What happened to it.
    pub change: ChangeKind,
    /// Path below the snapshots' roots; bytes that are not UTF-8 are replaced.
    pub path: String,
    /// What it is.
    pub kind: EntryKind,
    /// Size of a file in the first snapshot; none where there is no such file.
    pub old_bytes: Option<u64>,
    /// Size of a file in the second snapshot; none where there is no such file.
    pub new_bytes: Option<u64>,
}

/// What all changes come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct DiffReport {
    /// Files that were added.
    pub added_files: u64,
    /// Their bytes.
    pub added_bytes: u64,
    /// Files that were removed.
    pub removed_files: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// Files with other contents.
    pub changed_files: u64,
    /// Bytes of these files in the second snapshot.
    pub changed_bytes: u64,
    /// Files, folders and links of which only mode, time or attributes differ.
    pub metadata: u64,
}

/// One side of a folder that is compared.
struct Side {
    dataset: Dataset,
    reading: Option<Folder>,
    ready: VecDeque<Entry>,
}

impl Side {
    fn new(dataset: &Dataset, folder: Option<&FolderEntry>) -> Self {
        let reading = folder.map(|folder| dataset.folder(folder));
        Self { dataset: dataset.clone(), reading, ready: VecDeque::new() }
    }

    /// Whether a blob has to be read before the next entry is known.
    fn lacks(&self) -> bool {
        self.ready.is_empty() && self.reading.is_some()
    }

    /// Reads one blob.
    async fn read(&mut self) -> Result<(), ClientError> {
        let Some(reading) = &mut self.reading else { return Ok(()) };
        match self.dataset.next_entries(reading).await? {
            Some(entries) => self.ready.extend(entries),
            None => self.reading = None,
        }
        Ok(())
    }
}

/// Leaves out what both sides would read next, as long as it is the same.
fn skip_shared(old: &mut Side, new: &mut Side) {
    while let (true, true, Some(left), Some(right)) =
        (old.ready.is_empty(), new.ready.is_empty(), &mut old.reading, &mut new.reading)
    {
        if !left.skip_shared(right) {
            return;
        }
    }
}

/// A pair of folders that is compared.
struct Level {
    path: Vec<u8>,
    old: Side,
    new: Side,
}

struct Diff<'a, T> {
    old: &'a Dataset,
    new: &'a Dataset,
    report: DiffReport,
    tell: T,
}

impl Snapshot {
    /// Tells how `newer` differs from this snapshot, in the order of paths.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a folder cannot be read.
    pub async fn diff(&self, newer: &Self, tell: impl FnMut(DiffEntry)) -> Result<DiffReport, ClientError> {
        let (old, new) = (&self.dataset, &newer.dataset);
        let mut diff = Diff { old, new, report: DiffReport::default(), tell };
        let mut stack = Vec::new();
        if !same_folder(&self.root.root, &newer.root.root) {
            stack.push(diff.level(Vec::new(), &self.root.root, &newer.root.root));
        }
        while let Some(level) = stack.last_mut() {
            match diff.step(level).await? {
                Step::Below(path, sides) if stack.len() <= FOLDER_DEPTH_MAX => {
                    let below = diff.level(path, &sides.0, &sides.1);
                    stack.push(below);
                }
                Step::Below(..) => return Err(too_deep()),
                Step::Next => {}
                Step::End => {
                    stack.pop();
                }
            }
        }
        Ok(diff.report)
    }
}

fn too_deep() -> ClientError {
    ClientError::new(
        ErrorKind::Damaged,
        "the dataset's folders lie too deep",
        format!("more than {FOLDER_DEPTH_MAX} lie in each other"),
        "what was uploaded is damaged in itself: ask the dataset's owner",
    )
}

enum Step {
    /// The same path is a folder on both sides, and not the same one.
    Below(Vec<u8>, Box<(FolderEntry, FolderEntry)>),
    Next,
    End,
}

impl<T: FnMut(DiffEntry)> Diff<'_, T> {
    fn level(&self, path: Vec<u8>, old: &FolderEntry, new: &FolderEntry) -> Level {
        Level { path, old: Side::new(self.old, Some(old)), new: Side::new(self.new, Some(new)) }
    }

    /// Compares the next name of two folders.
    async fn step(&mut self, level: &mut Level) -> Result<Step, ClientError> {
        while level.old.lacks() || level.new.lacks() {
            skip_shared(&mut level.old, &mut level.new);
            for side in [&mut level.old, &mut level.new] {
                if side.lacks() {
                    side.read().await?;
                }
            }
        }
        let order = match (level.old.ready.front(), level.new.ready.front()) {
            (None, None) => return Ok(Step::End),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(old), Some(new)) => old.name.cmp(&new.name),
        };
        let old = if order.is_le() { level.old.ready.pop_front() } else { None };
        let new = if order.is_ge() { level.new.ready.pop_front() } else { None };
        match (old, new) {
            (Some(old), Some(new)) => return self.both(join(&level.path, old.name.as_bytes()), old, new).await,
            (Some(old), None) => self.one_side(self.old, ChangeKind::Removed, &level.path, old).await?,
            (None, Some(new)) => self.one_side(self.new, ChangeKind::Added, &level.path, new).await?,
            (None, None) => {}
        }
        Ok(Step::Next)
    }

    async fn both(&mut self, path: Vec<u8>, old: Entry, new: Entry) -> Result<Step, ClientError> {
        let folder = path.rsplitn(2, |byte| *byte == b'/').nth(1).unwrap_or_default().to_vec();
        let metadata = (old.mode, old.modified_ns, &old.owner, &old.xattrs)
            != (new.mode, new.modified_ns, &new.owner, &new.xattrs);
        let (kind, changed) = match (&old.kind, &new.kind) {
            (Kind::Folder(left), Kind::Folder(right)) => {
                if metadata {
                    self.tell(ChangeKind::Metadata, &path, EntryKind::Folder, None, None);
                }
                let same = same_folder(left, right);
                return Ok(if same { Step::Next } else { Step::Below(path, Box::new((left.clone(), right.clone()))) });
            }
            (Kind::File(left), Kind::File(right)) => (EntryKind::File, !same_file(left, right)),
            (Kind::Symlink { target: left }, Kind::Symlink { target: right }) => (EntryKind::Symlink, left != right),
            _ => {
                self.one_side(self.old, ChangeKind::Removed, &folder, old).await?;
                self.one_side(self.new, ChangeKind::Added, &folder, new).await?;
                return Ok(Step::Next);
            }
        };
        if changed || metadata {
            let change = if changed { ChangeKind::Changed } else { ChangeKind::Metadata };
            self.tell(change, &path, kind, size(&old), size(&new));
        }
        Ok(Step::Next)
    }

    /// Tells an entry and all below it.
    async fn one_side(
        &mut self,
        dataset: &Dataset,
        change: ChangeKind,
        folder: &[u8],
        entry: Entry,
    ) -> Result<(), ClientError> {
        let path = join(folder, entry.name.as_bytes());
        self.tell_one(change, &path, &entry);
        let Kind::Folder(below) = &entry.kind else { return Ok(()) };
        let mut walk = EntryWalk::new(dataset.clone(), path, below);
        while let Some((path, entry)) = walk.next().await? {
            self.tell_one(change, &path, &entry);
            if let Kind::Folder(below) = &entry.kind {
                walk.enter(path, below)?;
            }
        }
        Ok(())
    }

    fn tell_one(&mut self, change: ChangeKind, path: &[u8], entry: &Entry) {
        let kind = match entry.kind {
            Kind::File(_) => EntryKind::File,
            Kind::Folder(_) => EntryKind::Folder,
            Kind::Symlink { .. } => EntryKind::Symlink,
        };
        let (old, new) = if change == ChangeKind::Added { (None, size(entry)) } else { (size(entry), None) };
        self.tell(change, path, kind, old, new);
    }

    fn tell(&mut self, change: ChangeKind, path: &[u8], kind: EntryKind, old: Option<u64>, new: Option<u64>) {
        let report = &mut self.report;
        let file = kind == EntryKind::File;
        match change {
            ChangeKind::Added if file => {
                report.added_files += 1;
                report.added_bytes = report.added_bytes.saturating_add(new.unwrap_or_default());
            }
            ChangeKind::Removed if file => {
                report.removed_files += 1;
                report.removed_bytes = report.removed_bytes.saturating_add(old.unwrap_or_default());
            }
            ChangeKind::Changed if file => {
                report.changed_files += 1;
                report.changed_bytes = report.changed_bytes.saturating_add(new.unwrap_or_default());
            }
            ChangeKind::Metadata => report.metadata += 1,
            ChangeKind::Added | ChangeKind::Removed | ChangeKind::Changed => {}
        }
        let path = String::from_utf8_lossy(path).into_owned();
        (self.tell)(DiffEntry { change, path, kind, old_bytes: old, new_bytes: new });
    }
}

fn size(entry: &Entry) -> Option<u64> {
    match &entry.kind {
        Kind::File(file) => Some(file.size_bytes),
        Kind::Folder(_) | Kind::Symlink { .. } => None,
    }
}

/// The key of a blob is made of its bytes, and the bytes have the keys of what lies below: wherever they lie, they are the
/// same. Keys of two datasets never are.
fn same_folder(old: &FolderEntry, new: &FolderEntry) -> bool {
    old.tree.key == new.tree.key && old.tree.length == new.tree.length && old.totals == new.totals
}

fn same_file(old: &FileEntry, new: &FileEntry) -> bool {
    match (old.hash, new.hash) {
        (Some(left), Some(right)) => old.size_bytes == new.size_bytes && left == right,
        _ => old == new,
    }
}
