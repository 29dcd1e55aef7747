//! Segment rows: what a reader must know of a segment to fetch it, rebuild it and know it for the right one.

use core::cmp::Ordering;

use crate::codec::{CodecError, DocumentError, Reader, Writer};
use crate::ids::{SegmentId, ShardIndex, ShardRoot};
use crate::keys::MaskKey;
use crate::policy::Policy;
use crate::segment::{Geometry, SegmentNonce};
use crate::tree::{BlobKind, TreeItem, TreeLabel};

/// What a row says of a shard that lies nowhere.
const NOT_PLACED: u32 = u32::MAX;

const KIND_CONTENT: u8 = 1;
const KIND_DOCUMENTS: u8 = 2;
/// The bit of a row's kind that says that the segment's mask key follows the row.
const WITH_MASK_KEY: u8 = 0x80;

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RowKind {
    /// Chunks of files.
    Content,
    /// Blobs of documents.
    Documents,
}

/// A segment as the base table lists it. Its id follows from the rest and is kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRow {
    id: SegmentId,
    kind: RowKind,
    geometry: Geometry,
    nonce: SegmentNonce,
    roots: Vec<ShardRoot>,
    nodes: Vec<Option<u32>>,
    mask_key: Option<MaskKey>,
}

impl SegmentRow {
    /// A row out of a segment's parts; `nodes` says for every shard which place in the table's node list its node has.
    ///
    /// # Errors
    /// [`DocumentError::ShardCount`] unless there are `n` roots and `n` nodes.
    pub fn new(
        kind: RowKind,
        geometry: Geometry,
        nonce: SegmentNonce,
        roots: Vec<ShardRoot>,
        nodes: Vec<Option<u32>>,
    ) -> Result<Self, DocumentError> {
        let expected = usize::from(geometry.policy().n());
        for found in [roots.len(), nodes.len()] {
            if found != expected {
                return Err(DocumentError::ShardCount { expected, found });
            }
        }
        if nodes.contains(&Some(NOT_PLACED)) {
            return Err(DocumentError::NodeIndex { index: NOT_PLACED, nodes: 0 });
        }
        let id = geometry.segment_id(&nonce, &roots).map_err(|_| DocumentError::Geometry)?;
        Ok(Self { id, kind, geometry, nonce, roots, nodes, mask_key: None })
    }

    /// The row as it stands in the table of a view, whose readers hold no mask secret.
    #[must_use]
    pub fn with_mask_key(self, key: MaskKey) -> Self {
        Self { mask_key: Some(key), ..self }
    }

    /// The segment's mask key; `None` in a dataset's own table, whose readers derive it.
    #[must_use]
    pub const fn mask_key(&self) -> Option<&MaskKey> {
        self.mask_key.as_ref()
    }

    /// The segment's id.
    #[must_use]
    pub const fn id(&self) -> SegmentId {
        self.id
    }

    /// What the segment holds.
    #[must_use]
    pub const fn kind(&self) -> RowKind {
        self.kind
    }

    /// Its code and lengths.
    #[must_use]
    pub const fn geometry(&self) -> Geometry {
        self.geometry
    }

    /// Its nonce.
    #[must_use]
    pub const fn nonce(&self) -> SegmentNonce {
        self.nonce
    }

    /// The roots of its shards, in order.
    #[must_use]
    pub fn roots(&self) -> &[ShardRoot] {
        &self.roots
    }

    /// For every shard the place of its node in the table's node list; unchecked, see [`super::TableRoot::holders`].
    #[must_use]
    pub fn nodes(&self) -> &[Option<u32>] {
        &self.nodes
    }

    /// Says where a shard lies now.
    ///
    /// # Errors
    /// [`DocumentError::ShardCount`] when the segment has no such shard, [`DocumentError::NodeIndex`] for an impossible place.
    pub fn place(&mut self, shard: ShardIndex, node: Option<u32>) -> Result<(), DocumentError> {
        if node == Some(NOT_PLACED) {
            return Err(DocumentError::NodeIndex { index: NOT_PLACED, nodes: 0 });
        }
        let expected = self.nodes.len();
        let place = self.nodes.get_mut(shard.get());
        *place.ok_or(DocumentError::ShardCount { expected, found: shard.get() + 1 })? = node;
        Ok(())
    }
}

pub(crate) fn write_geometry(writer: &mut Writer, geometry: &Geometry, nonce: &SegmentNonce) {
    writer.u8(geometry.policy().k());
    writer.u8(geometry.policy().n());
    writer.u32(geometry.payload_bytes());
    writer.u32(geometry.shard_bytes());
    writer.raw(nonce.as_bytes());
    writer.u8(geometry.policy().n());
}

pub(crate) fn read_policy(reader: &mut Reader<'_>) -> Result<Policy, DocumentError> {
    let (k, n) = (reader.u8("a policy")?, reader.u8("a policy")?);
    Policy::new(k, n).map_err(|_| DocumentError::Geometry)
}

pub(crate) fn read_geometry(reader: &mut Reader<'_>) -> Result<(Geometry, SegmentNonce), DocumentError> {
    let policy = read_policy(reader)?;
    let (payload_bytes, shard_bytes) = (reader.u32("a payload's length")?, reader.u32("a shard's length")?);
    let geometry = Geometry::from_parts(policy, payload_bytes, shard_bytes).map_err(|_| DocumentError::Geometry)?;
    let nonce = SegmentNonce::new(reader.array("a segment's nonce")?);
    let (expected, found) = (usize::from(policy.n()), usize::from(reader.u8("the number of shards")?));
    if expected == found { Ok((geometry, nonce)) } else { Err(DocumentError::ShardCount { expected, found }) }
}

impl TreeItem for SegmentRow {
    type Label = SegmentId;
    const LEAF: BlobKind = BlobKind::RowLeaf;
    const INNER: BlobKind = BlobKind::RowInner;
    const PLURAL: &'static str = "segment rows";
    const MIN_BYTES: usize = 80;

    fn label(&self) -> SegmentId {
        self.id
    }

    fn boundary(&self) -> blake3::Hash {
        blake3::hash(self.id.as_bytes())
    }

    fn check(&self) -> Result<(), DocumentError> {
        Ok(())
    }

    fn write(&self, writer: &mut Writer) {
        let kind = match self.kind {
            RowKind::Content => KIND_CONTENT,
            RowKind::Documents => KIND_DOCUMENTS,
        };
        writer.u8(if self.mask_key.is_some() { kind | WITH_MASK_KEY } else { kind });
        write_geometry(writer, &self.geometry, &self.nonce);
        self.roots.iter().for_each(|root| writer.raw(root.as_bytes()));
        self.nodes.iter().for_each(|node| writer.u32(node.unwrap_or(NOT_PLACED)));
        if let Some(key) = &self.mask_key {
            writer.raw(key.expose());
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let found = reader.u8("the kind of a row")?;
        let kind = match found & !WITH_MASK_KEY {
            KIND_CONTENT => RowKind::Content,
            KIND_DOCUMENTS => RowKind::Documents,
            _ => return Err(CodecError::Unknown { what: "the kind of a row", found }.into()),
        };
        let (geometry, nonce) = read_geometry(reader)?;
        let count = usize::from(geometry.policy().n());
        let roots = (0..count).map(|_| reader.array("a root").map(ShardRoot::new)).collect::<Result<_, _>>()?;
        let nodes = (0..count)
            .map(|_| reader.u32("a node").map(|node| (node != NOT_PLACED).then_some(node)))
            .collect::<Result<_, _>>()?;
        let row = Self::new(kind, geometry, nonce, roots, nodes)?;
        if found & WITH_MASK_KEY == 0 {
            return Ok(row);
        }
        Ok(row.with_mask_key(MaskKey::new(reader.array("a mask key")?)))
    }

    fn visit_segments(&mut self, _visit: &mut dyn FnMut(&mut SegmentId)) {}
}

impl TreeLabel for SegmentId {
    const MIN_BYTES: usize = 32;

    fn write(&self, writer: &mut Writer) {
        writer.raw(self.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self::new(reader.array("a segment's id")?))
    }

    fn join(self, _next: &Self) -> Option<Self> {
        Some(self)
    }

    fn precedes(&self, next: &Self) -> bool {
        self.cmp(next) == Ordering::Less
    }
}
