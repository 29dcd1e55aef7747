//! Folders: building one out of its entries and walking one, with what they come to.
//!
//! Decides that a folder's totals are the sum over its entries, so that no folder can lie below itself. Never holds
//! more than one unfinished blob a level of a folder.

use super::{Entry, EntryKind, FolderEntry, Name};
use crate::codec::{DocumentError, Reader, Writer};
use crate::tree::{BlobPointer, BlobSink, BuildError, Node, TreeBuilder, TreeWalk};

/// One blob of a folder's tree: entries, or children by their first name.
pub type FolderBlob = Node<Entry>;

/// What lies below a folder, at any depth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Regular files.
    pub files: u64,
    /// Folders.
    pub folders: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Sum of the files' sizes.
    pub bytes: u64,
}

impl Totals {
    /// This and one more entry with all that lies below it; `None` when a sum is over 2^64.
    #[must_use]
    pub fn and(self, entry: &Entry) -> Option<Self> {
        match &entry.kind {
            EntryKind::File(file) => Some(Self {
                files: self.files.checked_add(1)?,
                bytes: self.bytes.checked_add(file.size_bytes)?,
                ..self
            }),
            EntryKind::Symlink { .. } => Some(Self { symlinks: self.symlinks.checked_add(1)?, ..self }),
            EntryKind::Folder(folder) => {
                let below = folder.totals;
                Some(Self {
                    files: self.files.checked_add(below.files)?,
                    folders: self.folders.checked_add(below.folders)?.checked_add(1)?,
                    symlinks: self.symlinks.checked_add(below.symlinks)?,
                    bytes: self.bytes.checked_add(below.bytes)?,
                })
            }
        }
    }

    /// Files, folders and symbolic links together; saturates.
    #[must_use]
    pub const fn entries(&self) -> u64 {
        self.files.saturating_add(self.folders).saturating_add(self.symlinks)
    }

    const fn is_within(&self, other: &Self) -> bool {
        self.files <= other.files
            && self.folders <= other.folders
            && self.symlinks <= other.symlinks
            && self.bytes <= other.bytes
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        for number in [self.files, self.folders, self.symlinks, self.bytes] {
            writer.u64(number);
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            files: reader.u64("totals")?,
            folders: reader.u64("totals")?,
            symlinks: reader.u64("totals")?,
            bytes: reader.u64("totals")?,
        })
    }
}

/// Makes a folder out of its entries. Folders are made from the bottom up: the entry of a folder needs its tree.
#[derive(Debug, Default)]
pub struct FolderBuilder {
    tree: TreeBuilder<Entry>,
    totals: Totals,
}

impl FolderBuilder {
    /// An empty folder.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next entry; names come in ascending order of their bytes.
    ///
    /// # Errors
    /// As [`TreeBuilder::push`]: [`DocumentError::Order`] when the name is not larger than the last one.
    pub fn push<S: BlobSink>(&mut self, entry: Entry, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        let totals = self.totals.and(&entry).ok_or(DocumentError::Overflow { what: "totals" })?;
        self.tree.push(entry, sink)?;
        self.totals = totals;
        Ok(())
    }

    /// The folder, to go in an entry of its parent or in the snapshot's root.
    ///
    /// # Errors
    /// As [`TreeBuilder::finish`].
    pub fn finish<S: BlobSink>(self, sink: &mut S) -> Result<FolderEntry, BuildError<S::Error>> {
        Ok(FolderEntry { totals: self.totals, tree: self.tree.finish(sink)?.root })
    }
}

/// A folder whose sorted entries are all at hand.
///
/// # Errors
/// As [`FolderBuilder::push`] and [`FolderBuilder::finish`].
pub fn build_folder<S: BlobSink>(
    entries: impl IntoIterator<Item = Entry>,
    sink: &mut S,
) -> Result<FolderEntry, BuildError<S::Error>> {
    let mut builder = FolderBuilder::new();
    for entry in entries {
        builder.push(entry, sink)?;
    }
    builder.finish(sink)
}

/// A walk over the entries of one folder, in the order of their names; checks that they come to its totals.
#[derive(Debug, Clone)]
pub struct FolderWalk {
    walk: TreeWalk<Entry>,
    found: Totals,
    stated: Totals,
}

impl FolderWalk {
    /// Over a folder whose tree pointer is resolved.
    #[must_use]
    pub fn new(folder: &FolderEntry) -> Self {
        Self { walk: TreeWalk::new(folder.tree.clone()), found: Totals::default(), stated: folder.totals }
    }

    /// The blob whose content [`FolderWalk::supply`] takes next; `None` at the end.
    #[must_use]
    pub fn wanted(&self) -> Option<&BlobPointer> {
        self.walk.wanted()
    }

    /// The blobs that are known to be wanted, in order.
    pub fn upcoming(&self) -> impl Iterator<Item = &BlobPointer> {
        self.walk.upcoming()
    }

    /// Takes the opened content of the blob that was wanted; gives its entries, their pointers resolved.
    ///
    /// # Errors
    /// As [`TreeWalk::supply`]; [`DocumentError::Totals`] when the entries do not come to the folder's totals.
    pub fn supply(&mut self, blob: &[u8]) -> Result<Vec<Entry>, DocumentError> {
        let entries = self.walk.supply(blob)?;
        for entry in &entries {
            self.found = self.found.and(entry).ok_or(DocumentError::Totals)?;
        }
        let whole = self.walk.wanted().is_none() && !self.walk.skipped();
        if !self.found.is_within(&self.stated) || (whole && self.found != self.stated) {
            return Err(DocumentError::Totals);
        }
        Ok(entries)
    }

    /// Drops the blob that is wanted, with all below it: what is in it is known already. Totals are then checked only as
    /// upper bounds.
    pub fn skip(&mut self) {
        self.walk.skip();
    }

    /// Drops blobs that end before `name`, to look up one entry; see [`TreeWalk::seek`].
    pub fn seek(&mut self, name: &Name) {
        self.walk.seek(name);
    }
}
