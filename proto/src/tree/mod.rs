//! Trees of blobs: how a list of any length is kept in sealed blobs of bounded size.
//!
//! Decides what a blob and a pointer to one look like, what parents say about children, where a writer splits
//! ([`TreeBuilder`]) and in which order a reader asks for blobs ([`TreeWalk`]). Never seals, opens, stores or fetches one:
//! a writer gives blobs to a [`BlobSink`], a reader is handed their opened content. A tree has at most
//! [`TREE_DEPTH_MAX`] levels, children are one level below their parent, so no tree has a cycle.

mod build;
mod counted;
mod pointer;
mod spill;
mod walk;

#[cfg(test)]
pub(crate) mod testing;

pub(crate) use build::put_blob;
pub use build::{BlobSink, BuildError, BuiltTree, ProvisionalIds, TreeBuilder};
pub use counted::{CountedTree, CountedTreeBuilder};
pub(crate) use pointer::resolve as resolve_segment;
pub use pointer::{BlobPointer, SELF_SEGMENT};
pub use spill::{SpillBuilder, Spilled};
pub use walk::TreeWalk;

use crate::codec::{DocumentError, Reader, Writer, check_limit, read_version, write_header};
use crate::ids::SegmentId;
use crate::limits::{TREE_BLOB_MAX_BYTES, TREE_DEPTH_MAX};

/// What a blob is: its second byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum BlobKind {
    /// The root of a snapshot.
    Snapshot = 1,
    /// Entries of a folder.
    FolderLeaf = 2,
    /// Children of a folder's tree.
    FolderInner = 3,
    /// Extents of one file.
    ExtentLeaf = 4,
    /// Children of a file's extent tree.
    ExtentInner = 5,
    /// The root of a base table.
    Table = 6,
    /// Segment rows.
    RowLeaf = 7,
    /// Children of a row tree.
    RowInner = 8,
    /// Receipts.
    ReceiptLeaf = 9,
    /// Children of a receipt tree.
    ReceiptInner = 10,
    /// Forwarding rows.
    ForwardLeaf = 11,
    /// Children of a tree of forwarding rows.
    ForwardInner = 12,
    /// Leaving segments.
    LeavingLeaf = 13,
    /// Children of a tree of leaving segments.
    LeavingInner = 14,
    /// Snapshots of a history.
    HistoryLeaf = 15,
    /// Children of a history.
    HistoryInner = 16,
    /// The ledger of shares.
    Ledger = 17,
    /// Grants of a steward.
    GrantLeaf = 18,
    /// Children of a tree of grants.
    GrantInner = 19,
    /// The root of an overlay.
    Overlay = 20,
    /// Rows of an overlay.
    OverlayLeaf = 21,
    /// Children of an overlay's tree of rows.
    OverlayInner = 22,
}

impl BlobKind {
    pub(crate) const fn byte(self) -> u8 {
        self as u8
    }
}

/// What a parent says about a child: enough to find an item without reading its siblings.
pub trait TreeLabel: Clone + PartialEq + core::fmt::Debug {
    /// The least that a label takes when encoded.
    const MIN_BYTES: usize;
    /// Appends the encoding.
    fn write(&self, writer: &mut Writer);
    /// Reads what [`TreeLabel::write`] wrote.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError>;
    /// The label of what this and `next`, its right neighbour, label together; `None` when that overflows.
    fn join(self, next: &Self) -> Option<Self>;
    /// Whether `next` may stand right of this.
    fn precedes(&self, next: &Self) -> bool;
}

/// Something that trees of blobs are made of.
pub trait TreeItem: Clone + core::fmt::Debug {
    /// What parents say about it.
    type Label: TreeLabel;
    /// The kind of its leaves.
    const LEAF: BlobKind;
    /// The kind of the nodes above them.
    const INNER: BlobKind;
    /// What several are called, for errors.
    const PLURAL: &'static str;
    /// The least that one takes when encoded.
    const MIN_BYTES: usize;
    /// Its own label.
    fn label(&self) -> Self::Label;
    /// What decides whether a writer splits after it: a hash of what names it, never of where its bytes lie.
    fn boundary(&self) -> blake3::Hash;
    /// Whether it keeps to the format's rules; both the writer and the reader ask.
    ///
    /// # Errors
    /// The first rule that it breaks.
    fn check(&self) -> Result<(), DocumentError>;
    /// Appends the encoding of an item that [`TreeItem::check`] passes.
    fn write(&self, writer: &mut Writer);
    /// Reads what [`TreeItem::write`] wrote; [`TreeItem::check`] comes after.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError>;
    /// Shows `visit` the segment of every pointer in it, to be replaced where need be.
    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId));
}

/// A child in an inner node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Child<L> {
    /// What lies below.
    pub label: L,
    /// Where its blob lies.
    pub pointer: BlobPointer,
}

/// One blob of a tree, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node<T: TreeItem> {
    /// Items, in order; may be empty only when it is the root.
    Leaf(Vec<T>),
    /// Children, in order, at least one.
    Inner {
        /// How many levels lie below, at least one.
        level: u8,
        /// The children, all of the level below.
        children: Vec<Child<T::Label>>,
    },
}

impl<T: TreeItem> Node<T> {
    /// Reads a blob's content; self pointers in it are replaced by `nominal`, the segment by whose id the blob was reached.
    ///
    /// # Errors
    /// [`DocumentError`]: the bytes are no such blob.
    pub fn parse(blob: &[u8], nominal: SegmentId) -> Result<Self, DocumentError> {
        check_limit(blob.len(), TREE_BLOB_MAX_BYTES, "a tree's blob")?;
        let mut reader = Reader::new(blob);
        read_version(&mut reader)?;
        let kind = reader.u8("the kind")?;
        let mut node = if kind == T::LEAF.byte() {
            Self::read_leaf(&mut reader)?
        } else if kind == T::INNER.byte() {
            Self::read_inner(&mut reader)?
        } else {
            return Err(DocumentError::Kind { expected: T::PLURAL, found: kind });
        };
        reader.finish()?;
        node.visit_segments(&mut |segment| pointer::resolve(segment, nominal));
        Ok(node)
    }

    fn read_leaf(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let count = reader.count32(TREE_BLOB_MAX_BYTES, T::MIN_BYTES, T::PLURAL)?;
        let mut items: Vec<T> = Vec::with_capacity(count);
        for _ in 0..count {
            let item = T::read(reader)?;
            item.check()?;
            if items.last().is_some_and(|last| !last.label().precedes(&item.label())) {
                return Err(DocumentError::Order { what: T::PLURAL });
            }
            items.push(item);
        }
        Ok(Self::Leaf(items))
    }

    fn read_inner(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let level = reader.u8("the level")?;
        check_level(level)?;
        let count = reader.count32(TREE_BLOB_MAX_BYTES, T::Label::MIN_BYTES + pointer::ENCODED_BYTES, "children")?;
        if count == 0 {
            return Err(DocumentError::Empty { what: "an inner node" });
        }
        let mut children: Vec<Child<T::Label>> = Vec::with_capacity(count);
        for _ in 0..count {
            let child = Child { label: T::Label::read(reader)?, pointer: BlobPointer::read(reader)? };
            if children.last().is_some_and(|last| !last.label.precedes(&child.label)) {
                return Err(DocumentError::Order { what: T::PLURAL });
            }
            children.push(child);
        }
        Ok(Self::Inner { level, children })
    }

    /// The encoding: the bytes that [`Node::parse`] read, when `nominal` was [`SELF_SEGMENT`].
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Leaf(items) => {
                write_header(&mut writer, T::LEAF.byte());
                writer.count32(items.len());
                items.iter().for_each(|item| item.write(&mut writer));
            }
            Self::Inner { level, children } => {
                write_header(&mut writer, T::INNER.byte());
                writer.u8(*level);
                writer.count32(children.len());
                for child in children {
                    child.label.write(&mut writer);
                    child.pointer.write(&mut writer);
                }
            }
        }
        writer.into_bytes()
    }

    /// How many levels lie below; 0 for a leaf.
    #[must_use]
    pub const fn level(&self) -> u8 {
        match self {
            Self::Leaf(_) => 0,
            Self::Inner { level, .. } => *level,
        }
    }

    /// What its parent has to say about it; `None` for an empty leaf.
    ///
    /// # Errors
    /// [`DocumentError::Overflow`].
    pub fn label(&self) -> Result<Option<T::Label>, DocumentError> {
        match self {
            Self::Leaf(items) => join_labels(items.iter().map(TreeItem::label)),
            Self::Inner { children, .. } => join_labels(children.iter().map(|child| child.label.clone())),
        }
    }

    fn check(&self) -> Result<(), DocumentError> {
        match self {
            Self::Leaf(items) => items.iter().try_for_each(TreeItem::check),
            Self::Inner { children, .. } => children.iter().try_for_each(|child| child.pointer.check()),
        }
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        match self {
            Self::Leaf(items) => items.iter_mut().for_each(|item| item.visit_segments(visit)),
            Self::Inner { children, .. } => children.iter_mut().for_each(|child| visit(&mut child.pointer.segment)),
        }
    }
}

fn check_level(level: u8) -> Result<(), DocumentError> {
    match usize::from(level) {
        0 => Err(DocumentError::Level { expected: 1, found: 0 }),
        deep if deep >= TREE_DEPTH_MAX => Err(DocumentError::TooDeep { level }),
        _ => Ok(()),
    }
}

fn join_labels<L: TreeLabel>(mut labels: impl Iterator<Item = L>) -> Result<Option<L>, DocumentError> {
    let Some(mut joined) = labels.next() else { return Ok(None) };
    for label in labels {
        joined = joined.join(&label).ok_or(DocumentError::Overflow { what: "labels" })?;
    }
    Ok(Some(joined))
}

#[cfg(test)]
mod tests;
