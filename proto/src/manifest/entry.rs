//! Entries: what a folder says about each file, folder and symbolic link in it.
//!
//! Decides which facts about a file are kept. Never decides which of them are restored.

use std::collections::BTreeMap;

use super::{ExtentList, Name, Totals};
use crate::codec::{CodecError, DocumentError, Extensions, Reader, Writer, check_limit};
use crate::ids::SegmentId;
use crate::limits::{SYMLINK_MAX_BYTES, XATTR_NAME_MAX_BYTES, XATTRS_MAX, XATTRS_MAX_BYTES};
use crate::tree::{BlobKind, BlobPointer, TreeItem, TreeLabel};

/// The bits that a mode may have: permissions, set-user-id, set-group-id, sticky.
pub const MODE_MASK: u32 = 0o7777;

/// One file, folder or symbolic link of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the folder.
    pub name: Name,
    /// Permission bits, within [`MODE_MASK`].
    pub mode: u32,
    /// When its content was changed last: nanoseconds since 1970-01-01 00:00 UTC.
    pub modified_ns: i64,
    /// What it is.
    pub kind: EntryKind,
    /// Whose it was, where that was kept.
    pub owner: Option<Owner>,
    /// Files of one snapshot with the same number are one file under several names.
    pub hard_link_group: Option<u64>,
    /// Extended attributes.
    pub xattrs: Xattrs,
    /// Fields of later releases.
    pub extensions: Extensions,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File(FileEntry),
    /// A folder.
    Folder(FolderEntry),
    /// A symbolic link.
    Symlink {
        /// Where it points: 1 to [`SYMLINK_MAX_BYTES`] bytes without NUL, as they were.
        target: Vec<u8>,
    },
}

/// A file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    /// Its length, holes included.
    pub size_bytes: u64,
    /// BLAKE3 of all its bytes, holes being zeros.
    pub hash: Option<[u8; 32]>,
    /// Where its bytes are.
    pub extents: ExtentList,
}

/// A folder: the tree of its entries, and what it all comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FolderEntry {
    /// Everything below it; the folder itself does not count.
    pub totals: Totals,
    /// The root of its entries' tree.
    pub tree: BlobPointer,
}

/// Whose an entry was, in the numbers of the machine that it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// User id.
    pub user: u32,
    /// Group id.
    pub group: u32,
}

/// Extended attributes by name; together at most [`XATTRS_MAX_BYTES`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xattrs(BTreeMap<Vec<u8>, Vec<u8>>);

impl Xattrs {
    /// Adds or replaces one.
    ///
    /// # Errors
    /// [`DocumentError`] for an empty or too long name, or when there are too many or too large ones; nothing is changed then.
    pub fn insert(&mut self, name: Vec<u8>, value: Vec<u8>) -> Result<(), DocumentError> {
        if name.is_empty() {
            return Err(DocumentError::Empty { what: "an attribute's name" });
        }
        check_limit(name.len(), XATTR_NAME_MAX_BYTES, "an attribute's name")?;
        let replaced = self.0.get_key_value(&name).map_or(0, |(name, value)| name.len() + value.len());
        let bytes = self.bytes() - replaced;
        check_limit(bytes.saturating_add(name.len()).saturating_add(value.len()), XATTRS_MAX_BYTES, "attributes")?;
        check_limit(self.0.len() + usize::from(replaced == 0), XATTRS_MAX, "attributes")?;
        self.0.insert(name, value);
        Ok(())
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (name.as_slice(), value.as_slice()))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(name, value)| name.len() + value.len()).sum()
    }

    fn write(&self, writer: &mut Writer) {
        writer.count16(self.0.len());
        for (name, value) in &self.0 {
            writer.bytes16(name);
            writer.bytes32(value);
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let count = reader.count16(XATTRS_MAX, 7, "attributes")?;
        let mut attributes = BTreeMap::new();
        let mut left = XATTRS_MAX_BYTES;
        for _ in 0..count {
            let name = reader.bytes16(XATTR_NAME_MAX_BYTES.min(left), "an attribute's name")?;
            left -= name.len();
            let value = reader.bytes32(left, "an attribute's value")?;
            left -= value.len();
            if name.is_empty() {
                return Err(DocumentError::Empty { what: "an attribute's name" });
            }
            if attributes.last_key_value().is_some_and(|(last, _): (&Vec<u8>, _)| last.as_slice() >= name) {
                return Err(DocumentError::Order { what: "attributes" });
            }
            attributes.insert(name.to_vec(), value.to_vec());
        }
        Ok(Self(attributes))
    }
}

const KIND_FILE: u8 = 1;
const KIND_FOLDER: u8 = 2;
const KIND_SYMLINK: u8 = 3;

impl Entry {
    /// An entry without owner, hard-link group, attributes and extensions.
    #[must_use]
    pub fn new(name: Name, mode: u32, modified_ns: i64, kind: EntryKind) -> Self {
        Self {
            name,
            mode,
            modified_ns,
            kind,
            owner: None,
            hard_link_group: None,
            xattrs: Xattrs::default(),
            extensions: Extensions::default(),
        }
    }
}

impl EntryKind {
    fn check(&self) -> Result<(), DocumentError> {
        match self {
            Self::File(file) => file.extents.check(file.size_bytes),
            Self::Folder(folder) => folder.tree.check(),
            Self::Symlink { target } => check_target(target),
        }
    }

    const fn byte(&self) -> u8 {
        match self {
            Self::File(_) => KIND_FILE,
            Self::Folder(_) => KIND_FOLDER,
            Self::Symlink { .. } => KIND_SYMLINK,
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::File(file) => {
                writer.u64(file.size_bytes);
                writer.option(file.hash.as_ref(), |writer, hash| writer.raw(hash));
                file.extents.write(writer);
            }
            Self::Folder(folder) => folder.write(writer),
            Self::Symlink { target } => writer.bytes16(target),
        }
    }

    fn read(kind: u8, reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        match kind {
            KIND_FILE => Ok(Self::File(FileEntry {
                size_bytes: reader.u64("a file's size")?,
                hash: reader.option("a file's hash", |reader| reader.array("a file's hash"))?,
                extents: ExtentList::read(reader)?,
            })),
            KIND_FOLDER => FolderEntry::read(reader).map(Self::Folder),
            KIND_SYMLINK => {
                Ok(Self::Symlink { target: reader.bytes16(SYMLINK_MAX_BYTES, "a symbolic link's target")?.to_vec() })
            }
            found => Err(CodecError::Unknown { what: "the kind of an entry", found }.into()),
        }
    }
}

impl FolderEntry {
    pub(super) fn write(&self, writer: &mut Writer) {
        self.totals.write(writer);
        self.tree.write(writer);
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self { totals: Totals::read(reader)?, tree: BlobPointer::read(reader)? })
    }
}

fn check_target(target: &[u8]) -> Result<(), DocumentError> {
    if target.is_empty() {
        return Err(DocumentError::Empty { what: "a symbolic link's target" });
    }
    check_limit(target.len(), SYMLINK_MAX_BYTES, "a symbolic link's target")?;
    if target.contains(&0) {
        return Err(CodecError::Unknown { what: "a byte of a symbolic link's target", found: 0 }.into());
    }
    Ok(())
}

impl TreeItem for Entry {
    type Label = Name;
    const LEAF: BlobKind = BlobKind::FolderLeaf;
    const INNER: BlobKind = BlobKind::FolderInner;
    const PLURAL: &'static str = "entries";
    const MIN_BYTES: usize = 25;

    fn label(&self) -> Name {
        self.name.clone()
    }

    fn boundary(&self) -> blake3::Hash {
        blake3::hash(self.name.as_bytes())
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.mode & !MODE_MASK != 0 {
            return Err(DocumentError::Mode { found: self.mode });
        }
        self.kind.check()
    }

    fn write(&self, writer: &mut Writer) {
        self.name.write(writer);
        writer.u8(self.kind.byte());
        writer.u32(self.mode);
        writer.i64(self.modified_ns);
        self.kind.write(writer);
        writer.option(self.owner.as_ref(), |writer, owner| {
            writer.u32(owner.user);
            writer.u32(owner.group);
        });
        writer.option(self.hard_link_group.as_ref(), |writer, group| writer.u64(*group));
        self.xattrs.write(writer);
        self.extensions.write(writer);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let name = Name::read(reader)?;
        let kind = reader.u8("the kind of an entry")?;
        Ok(Self {
            name,
            mode: reader.u32("a mode")?,
            modified_ns: reader.i64("a time of change")?,
            kind: EntryKind::read(kind, reader)?,
            owner: reader.option("an owner", |reader| {
                Ok::<_, CodecError>(Owner { user: reader.u32("a user")?, group: reader.u32("a group")? })
            })?,
            hard_link_group: reader.option("a hard-link group", |reader| reader.u64("a hard-link group"))?,
            xattrs: Xattrs::read(reader)?,
            extensions: Extensions::read(reader)?,
        })
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        match &mut self.kind {
            EntryKind::File(file) => file.extents.visit_segments(visit),
            EntryKind::Folder(folder) => visit(&mut folder.tree.segment),
            EntryKind::Symlink { .. } => {}
        }
    }
}
