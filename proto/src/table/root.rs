//! The root blob of a base table.

use std::collections::BTreeSet;

use super::node::{NODE_ENTRY_MIN_BYTES, NodeEntry};
use super::row::read_policy;
use super::{SegmentRow, StoredReceipt};
use crate::codec::{
    CodecError, DocumentError, Extensions, Needs, Reader, Writer, check_ascending, check_limit, read_version,
    write_header,
};
use crate::ids::SegmentId;
use crate::limits::{
    BLOB_MAX_BYTES, TABLE_FURTHER_SEGMENTS_MAX, TABLE_NODES_MAX, TABLE_ROWS_INLINE_MAX, TABLE_STEWARDS_MAX,
};
use crate::policy::Policy;
use crate::tree::{
    BlobKind, BlobPointer, BlobSink, BuildError, CountedTree, SpillBuilder, Spilled, TreeItem, TreeWalk, put_blob,
    resolve_segment,
};

/// The root of a base table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableRoot {
    /// How the dataset's content is spread.
    pub policy: Policy,
    /// The nodes that rows refer to by their place in this list; at most [`TABLE_NODES_MAX`], none twice.
    pub nodes: Vec<NodeEntry>,
    /// The Ed25519 public keys of the stewards whose overlays count, ascending; at most [`TABLE_STEWARDS_MAX`].
    pub stewards: Vec<[u8; 32]>,
    /// The live segments.
    pub rows: Rows,
    /// Segments, ascending by id, in which blobs of this table lie beside the one that its root lies in: a reader
    /// cannot find them in the table. At most [`TABLE_FURTHER_SEGMENTS_MAX`].
    pub further: Vec<SegmentRow>,
    /// The tree of receipts, which only owners and stewards load.
    pub receipts: Option<BlobPointer>,
    /// The tree of [forwarding rows](super::ForwardRow): where chunks lie whose segment has no row any more. A reader who
    /// does not know of it would miss them, so a release without it refuses the table.
    pub forwards: Option<CountedTree>,
    /// The tree of [segments that are leaving](super::LeavingRow), of interest to the owner only.
    pub leaving: Option<CountedTree>,
    /// Fields of later releases.
    pub extensions: Extensions,
}

/// Among the extensions of a table's root; odd, so it must be understood.
const EXTENSION_FORWARDS: u16 = 1;
/// Among the extensions of a table's root.
const EXTENSION_LEAVING: u16 = 2;

/// The rows of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rows {
    /// At most [`TABLE_ROWS_INLINE_MAX`], ascending by id.
    Inline(Vec<SegmentRow>),
    /// A tree.
    Tree {
        /// How many rows it has.
        count: u64,
        /// Its root.
        root: BlobPointer,
    },
}

impl Rows {
    /// How many rows there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Self::Inline(rows) => u64::try_from(rows.len()).unwrap_or(u64::MAX),
            Self::Tree { count, .. } => *count,
        }
    }

    /// A walk over the tree of rows; `None` when they stand inline.
    #[must_use]
    pub fn walk(&self) -> Option<TreeWalk<SegmentRow>> {
        match self {
            Self::Inline(_) => None,
            Self::Tree { count, root } => Some(TreeWalk::counted(root.clone(), *count)),
        }
    }
}

impl TableRoot {
    /// Reads a root blob; self pointers in it are replaced by `nominal`, the segment by whose id it was reached.
    ///
    /// # Errors
    /// [`DocumentError`]: the bytes are no such blob, or one that needs a newer release.
    pub fn parse(blob: &[u8], nominal: SegmentId) -> Result<Self, DocumentError> {
        check_limit(blob.len(), BLOB_MAX_BYTES, "a table's root")?;
        let mut reader = Reader::new(blob);
        read_version(&mut reader)?;
        let kind = reader.u8("the kind")?;
        if kind != BlobKind::Table.byte() {
            return Err(DocumentError::Kind { expected: "the root of a base table", found: kind });
        }
        Needs::read(&mut reader, Needs::NONE)?;
        let mut root = Self::read_fields(&mut reader)?;
        reader.finish()?;
        root.check()?;
        root.visit_segments(&mut |segment| resolve_segment(segment, nominal));
        Ok(root)
    }

    fn read_fields(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let policy = read_policy(reader)?;
        let nodes = reader.count32(TABLE_NODES_MAX, NODE_ENTRY_MIN_BYTES, "nodes")?;
        let nodes = (0..nodes).map(|_| NodeEntry::read(reader)).collect::<Result<_, _>>()?;
        let stewards = reader.count16(TABLE_STEWARDS_MAX, 32, "stewards")?;
        let stewards = (0..stewards).map(|_| reader.array("a steward's key")).collect::<Result<_, _>>()?;
        let rows = match reader.u8("the rows")? {
            1 => Rows::Inline(read_rows(reader, TABLE_ROWS_INLINE_MAX)?),
            2 => Rows::Tree { count: reader.u64("the number of rows")?, root: BlobPointer::read(reader)? },
            found => return Err(CodecError::Unknown { what: "the rows", found }.into()),
        };
        let further = read_rows(reader, TABLE_FURTHER_SEGMENTS_MAX)?;
        let receipts = reader.option("the receipts", BlobPointer::read)?;
        let mut extensions = Extensions::read_with_odd(reader, &[EXTENSION_FORWARDS])?;
        let mut tree = |key| extensions.take(key).map(|value| CountedTree::parse(&value)).transpose();
        let (forwards, leaving) = (tree(EXTENSION_FORWARDS)?, tree(EXTENSION_LEAVING)?);
        Ok(Self { policy, nodes, stewards, rows, further, receipts, forwards, leaving, extensions })
    }

    fn check(&self) -> Result<(), DocumentError> {
        check_limit(self.nodes.len(), TABLE_NODES_MAX, "nodes")?;
        check_limit(self.stewards.len(), TABLE_STEWARDS_MAX, "stewards")?;
        check_limit(self.further.len(), TABLE_FURTHER_SEGMENTS_MAX, "further table segments")?;
        let distinct: BTreeSet<_> = self.nodes.iter().map(NodeEntry::id).collect();
        if distinct.len() != self.nodes.len() {
            return Err(DocumentError::NodeEntry);
        }
        check_ascending(self.stewards.iter(), "stewards")?;
        check_ascending(self.further.iter().map(SegmentRow::id), "further table segments")?;
        match &self.rows {
            Rows::Inline(rows) => {
                check_limit(rows.len(), TABLE_ROWS_INLINE_MAX, "segment rows")?;
                check_ascending(rows.iter().map(SegmentRow::id), "segment rows")?;
            }
            Rows::Tree { root, .. } => root.check()?,
        }
        for tree in [&self.forwards, &self.leaving].into_iter().flatten() {
            tree.check()?;
        }
        self.all_extensions()?;
        self.receipts.as_ref().map_or(Ok(()), BlobPointer::check)
    }

    fn all_extensions(&self) -> Result<Extensions, DocumentError> {
        let value = |tree: &Option<CountedTree>| tree.as_ref().map(CountedTree::to_bytes);
        let extensions = self.extensions.clone().with_typed(EXTENSION_FORWARDS, value(&self.forwards))?;
        extensions.with_typed(EXTENSION_LEAVING, value(&self.leaving))
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        if let Rows::Tree { root, .. } = &mut self.rows {
            visit(&mut root.segment);
        }
        if let Some(receipts) = &mut self.receipts {
            visit(&mut receipts.segment);
        }
        for tree in [&mut self.forwards, &mut self.leaving].into_iter().flatten() {
            visit(&mut tree.root.segment);
        }
    }

    /// The encoding: the bytes that [`TableRoot::parse`] read, when `nominal` was [`SELF_SEGMENT`](crate::tree::SELF_SEGMENT).
    ///
    /// # Errors
    /// [`DocumentError`] when a list is too long or out of order.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.check()?;
        let bytes = self.encode();
        check_limit(bytes.len(), BLOB_MAX_BYTES, "a table's root")?;
        Ok(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        write_header(&mut writer, BlobKind::Table.byte());
        Needs::NONE.write(&mut writer);
        writer.u8(self.policy.k());
        writer.u8(self.policy.n());
        writer.count32(self.nodes.len());
        self.nodes.iter().for_each(|node| node.write(&mut writer));
        writer.count16(self.stewards.len());
        self.stewards.iter().for_each(|key| writer.raw(key));
        match &self.rows {
            Rows::Inline(rows) => {
                writer.u8(1);
                write_rows(&mut writer, rows);
            }
            Rows::Tree { count, root } => {
                writer.u8(2);
                writer.u64(*count);
                root.write(&mut writer);
            }
        }
        write_rows(&mut writer, &self.further);
        writer.option(self.receipts.as_ref(), |writer, root| root.write(writer));
        self.all_extensions().expect("checked before anything is encoded").write(&mut writer);
        writer.into_bytes()
    }

    /// Puts the root blob, last of all of a table's blobs; gives where it lies, with the sink's provisional id.
    ///
    /// # Errors
    /// [`BuildError`]: a rule of the format, or the sink.
    pub fn put<S: BlobSink>(mut self, sink: &mut S) -> Result<BlobPointer, BuildError<S::Error>> {
        self.to_bytes()?;
        put_blob(&mut self, |root, visit| root.visit_segments(visit), Self::check, Self::encode, sink)
    }

    /// For every shard of `row` the node that holds it.
    ///
    /// # Errors
    /// [`DocumentError::NodeIndex`] when the row names a node that is not in this table.
    pub fn holders(&self, row: &SegmentRow) -> Result<Vec<Option<&NodeEntry>>, DocumentError> {
        let holder = |index: u32| {
            let entry = usize::try_from(index).ok().and_then(|index| self.nodes.get(index));
            entry.ok_or(DocumentError::NodeIndex { index, nodes: self.nodes.len() })
        };
        row.nodes().iter().map(|node| node.map(holder).transpose()).collect()
    }

    /// The row of segment `id` among the inline rows and the further table segments. A table with a row tree is
    /// searched by a walk: [`Rows::walk`] and [`TreeWalk::seek`].
    #[must_use]
    pub fn inline_row(&self, id: SegmentId) -> Option<&SegmentRow> {
        let find = |rows: &'_ [SegmentRow]| rows.binary_search_by_key(&id, SegmentRow::id).ok();
        if let Rows::Inline(rows) = &self.rows
            && let Some(index) = find(rows)
        {
            return rows.get(index);
        }
        self.further.get(find(&self.further)?)
    }

    /// A walk over the tree of receipts, if there is one.
    #[must_use]
    pub fn receipts_walk(&self) -> Option<TreeWalk<StoredReceipt>> {
        self.receipts.clone().map(TreeWalk::new)
    }
}

fn read_rows(reader: &mut Reader<'_>, limit: usize) -> Result<Vec<SegmentRow>, DocumentError> {
    let count = reader.count32(limit, SegmentRow::MIN_BYTES, "segment rows")?;
    (0..count).map(|_| SegmentRow::read(reader)).collect()
}

fn write_rows(writer: &mut Writer, rows: &[SegmentRow]) {
    writer.count32(rows.len());
    rows.iter().for_each(|row| row.write(writer));
}

/// Collects the rows of a table, ascending by segment id; memory stays bounded however many there are.
#[derive(Debug)]
pub struct RowListBuilder(SpillBuilder<SegmentRow>);

impl Default for RowListBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl RowListBuilder {
    /// No rows.
    #[must_use]
    pub const fn new() -> Self {
        Self(SpillBuilder::new(TABLE_ROWS_INLINE_MAX))
    }

    /// Adds the next row.
    ///
    /// # Errors
    /// As [`crate::tree::TreeBuilder::push`]; order among few rows is checked by [`TableRoot::put`].
    pub fn push<S: BlobSink>(&mut self, row: SegmentRow, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        self.0.push(row, sink)
    }

    /// The rows as they go in a table's root.
    ///
    /// # Errors
    /// As [`crate::tree::TreeBuilder::finish`].
    pub fn finish<S: BlobSink>(self, sink: &mut S) -> Result<Rows, BuildError<S::Error>> {
        Ok(match self.0.finish(sink)? {
            Spilled::Inline(rows) => Rows::Inline(rows),
            Spilled::Tree(tree) => Rows::Tree { count: tree.items, root: tree.root },
        })
    }
}
