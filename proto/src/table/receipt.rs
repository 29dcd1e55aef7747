//! Receipts as the base table keeps them: in a tree of their own that readers need not load.

use crate::codec::{DocumentError, Reader, Writer, check_limit};
use crate::ids::{NodeId, SegmentId, ShardRoot};
use crate::limits::RECEIPT_MAX_BYTES;
use crate::tree::{BlobKind, TreeItem, TreeLabel};

/// A node's signed statement that it holds a shard, kept as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredReceipt {
    /// The shard.
    pub root: ShardRoot,
    /// The node.
    pub node: NodeId,
    /// The signed receipt, 1 to [`RECEIPT_MAX_BYTES`] bytes; not checked here.
    pub signed: Vec<u8>,
}

/// What receipts are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReceiptKey {
    /// The shard.
    pub root: ShardRoot,
    /// The node.
    pub node: NodeId,
}

impl TreeLabel for ReceiptKey {
    const MIN_BYTES: usize = 64;

    fn write(&self, writer: &mut Writer) {
        writer.raw(self.root.as_bytes());
        writer.raw(self.node.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let root = ShardRoot::new(reader.array("a receipt's root")?);
        Ok(Self { root, node: NodeId::new(reader.array("a receipt's node")?) })
    }

    fn join(self, _next: &Self) -> Option<Self> {
        Some(self)
    }

    fn precedes(&self, next: &Self) -> bool {
        self < next
    }
}

impl TreeItem for StoredReceipt {
    type Label = ReceiptKey;
    const LEAF: BlobKind = BlobKind::ReceiptLeaf;
    const INNER: BlobKind = BlobKind::ReceiptInner;
    const PLURAL: &'static str = "receipts";
    const MIN_BYTES: usize = 67;

    fn label(&self) -> ReceiptKey {
        ReceiptKey { root: self.root, node: self.node }
    }

    fn boundary(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.root.as_bytes()).update(self.node.as_bytes());
        hasher.finalize()
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.signed.is_empty() {
            return Err(DocumentError::Empty { what: "a receipt" });
        }
        Ok(check_limit(self.signed.len(), RECEIPT_MAX_BYTES, "a receipt")?)
    }

    fn write(&self, writer: &mut Writer) {
        self.label().write(writer);
        writer.bytes16(&self.signed);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let ReceiptKey { root, node } = ReceiptKey::read(reader)?;
        Ok(Self { root, node, signed: reader.bytes16(RECEIPT_MAX_BYTES, "a receipt")?.to_vec() })
    }

    fn visit_segments(&mut self, _visit: &mut dyn FnMut(&mut SegmentId)) {}
}
