//! Extents: where the bytes of a file are, in the order of the file.
//!
//! Decides how a list of extents is written and that its lengths add up. Never decides where a file is cut.

use crate::codec::{CodecError, DocumentError, Reader, Writer};
use crate::ids::SegmentId;
use crate::limits::{CHUNK_MAX_BYTES, EXTENTS_INLINE_MAX};
use crate::seal::Codec;
use crate::tree::{
    BlobKind, BlobPointer, BlobSink, BuildError, Node, SpillBuilder, Spilled, TreeItem, TreeLabel, TreeWalk,
};

/// Where a chunk of a file lies; never a self pointer.
pub type ChunkPointer = BlobPointer;

/// One blob of an extent tree.
pub type ExtentBlob = Node<Extent>;

/// A run of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Extent {
    /// A chunk whose bytes are the file's.
    Chunk(ChunkPointer),
    /// A chunk whose bytes decompress to the file's; a snapshot with one needs
    /// [`COMPRESSED_CHUNKS`](crate::codec::Needs::COMPRESSED_CHUNKS). Nothing here decompresses: whoever does gives it room for
    /// `plain_bytes` and refuses a chunk that comes to more or fewer.
    Compressed {
        /// The compressed chunk: its length is that of the compressed bytes.
        pointer: ChunkPointer,
        /// Bytes of the file, more than the compressed ones and at most [`CHUNK_MAX_BYTES`].
        plain_bytes: u32,
    },
    /// Zeros that are not stored.
    Hole {
        /// How many bytes, at least 1.
        length_bytes: u64,
    },
}

impl Extent {
    /// How many bytes of the file it stands for.
    #[must_use]
    pub const fn length_bytes(&self) -> u64 {
        match self {
            Self::Chunk(pointer) => pointer.length as u64,
            Self::Compressed { plain_bytes, .. } => *plain_bytes as u64,
            Self::Hole { length_bytes } => *length_bytes,
        }
    }

    /// Where its chunk lies and how the chunk's bytes become the file's; `None` for a hole.
    #[must_use]
    pub const fn chunk(&self) -> Option<(&ChunkPointer, Codec)> {
        match self {
            Self::Chunk(pointer) => Some((pointer, Codec::Plain)),
            Self::Compressed { pointer, .. } => Some((pointer, Codec::Zstd)),
            Self::Hole { .. } => None,
        }
    }
}

/// How many bytes of a file lie in an extent or below a node: the label of extent trees. Relative, so that bytes
/// inserted at the front of a file leave the nodes behind them as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub u64);

impl TreeLabel for Span {
    const MIN_BYTES: usize = 8;

    fn write(&self, writer: &mut Writer) {
        writer.u64(self.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self(reader.u64("a span")?))
    }

    fn join(self, next: &Self) -> Option<Self> {
        self.0.checked_add(next.0).map(Self)
    }

    fn precedes(&self, _next: &Self) -> bool {
        true
    }
}

const TAG_CHUNK: u8 = 1;
const TAG_HOLE: u8 = 2;
const TAG_COMPRESSED: u8 = 3;

impl TreeItem for Extent {
    type Label = Span;
    const LEAF: BlobKind = BlobKind::ExtentLeaf;
    const INNER: BlobKind = BlobKind::ExtentInner;
    const PLURAL: &'static str = "extents";
    const MIN_BYTES: usize = 9;

    fn label(&self) -> Span {
        Span(self.length_bytes())
    }

    fn boundary(&self) -> blake3::Hash {
        match self {
            Self::Chunk(pointer) | Self::Compressed { pointer, .. } => blake3::hash(pointer.key.expose()),
            Self::Hole { length_bytes } => blake3::hash(&length_bytes.to_le_bytes()),
        }
    }

    fn check(&self) -> Result<(), DocumentError> {
        match self {
            Self::Chunk(pointer) => {
                pointer.check_absolute("an extent")?;
                pointer.check()
            }
            Self::Compressed { pointer, plain_bytes } => {
                pointer.check_absolute("an extent")?;
                pointer.check()?;
                let limit = u32::try_from(CHUNK_MAX_BYTES).expect("a chunk's length fits 32 bits");
                if *plain_bytes > pointer.length && *plain_bytes <= limit {
                    return Ok(());
                }
                Err(DocumentError::PlainLength { plain_bytes: *plain_bytes, compressed_bytes: pointer.length })
            }
            Self::Hole { length_bytes: 0 } => Err(DocumentError::Empty { what: "a hole" }),
            Self::Hole { .. } => Ok(()),
        }
    }

    fn write(&self, writer: &mut Writer) {
        match self {
            Self::Chunk(pointer) => {
                writer.u8(TAG_CHUNK);
                pointer.write(writer);
            }
            Self::Compressed { pointer, plain_bytes } => {
                writer.u8(TAG_COMPRESSED);
                pointer.write(writer);
                writer.u32(*plain_bytes);
            }
            Self::Hole { length_bytes } => {
                writer.u8(TAG_HOLE);
                writer.u64(*length_bytes);
            }
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        match reader.u8("an extent")? {
            TAG_CHUNK => Ok(Self::Chunk(BlobPointer::read(reader)?)),
            TAG_COMPRESSED => Ok(Self::Compressed {
                pointer: BlobPointer::read(reader)?,
                plain_bytes: reader.u32("a compressed chunk's plain length")?,
            }),
            TAG_HOLE => Ok(Self::Hole { length_bytes: reader.u64("a hole")? }),
            found => Err(CodecError::Unknown { what: "an extent", found }.into()),
        }
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        match self {
            Self::Chunk(pointer) | Self::Compressed { pointer, .. } => visit(&mut pointer.segment),
            Self::Hole { .. } => {}
        }
    }
}

/// The extents of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExtentList {
    /// At most [`EXTENTS_INLINE_MAX`], in the entry itself.
    Inline(Vec<Extent>),
    /// The root of an extent tree; walked with [`ExtentWalk`].
    Tree(BlobPointer),
}

impl ExtentList {
    pub(super) fn check(&self, size_bytes: u64) -> Result<(), DocumentError> {
        match self {
            Self::Inline(extents) => {
                crate::codec::check_limit(extents.len(), EXTENTS_INLINE_MAX, "extents")?;
                extents.iter().try_for_each(TreeItem::check)?;
                let found = extents
                    .iter()
                    .try_fold(0u64, |sum, extent| sum.checked_add(extent.length_bytes()))
                    .ok_or(DocumentError::Overflow { what: "extents" })?;
                if found == size_bytes { Ok(()) } else { Err(DocumentError::Size { expected: size_bytes, found }) }
            }
            Self::Tree(root) => root.check(),
        }
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        match self {
            Self::Inline(extents) => {
                writer.u8(1);
                writer.count32(extents.len());
                extents.iter().for_each(|extent| extent.write(writer));
            }
            Self::Tree(root) => {
                writer.u8(2);
                root.write(writer);
            }
        }
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        match reader.u8("the extents")? {
            1 => {
                let count = reader.count32(EXTENTS_INLINE_MAX, Extent::MIN_BYTES, "extents")?;
                (0..count).map(|_| Extent::read(reader)).collect::<Result<_, _>>().map(Self::Inline)
            }
            2 => Ok(Self::Tree(BlobPointer::read(reader)?)),
            found => Err(CodecError::Unknown { what: "the extents", found }.into()),
        }
    }

    pub(super) fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        match self {
            Self::Inline(extents) => extents.iter_mut().for_each(|extent| extent.visit_segments(visit)),
            Self::Tree(root) => visit(&mut root.segment),
        }
    }
}

/// Collects the extents of one file, in the order of the file; memory stays bounded however many there are.
#[derive(Debug)]
pub struct ExtentListBuilder(SpillBuilder<Extent>);

impl Default for ExtentListBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ExtentListBuilder {
    /// An empty file.
    #[must_use]
    pub const fn new() -> Self {
        Self(SpillBuilder::new(EXTENTS_INLINE_MAX))
    }

    /// Adds the next extent.
    ///
    /// # Errors
    /// As [`crate::tree::TreeBuilder::push`].
    pub fn push<S: BlobSink>(&mut self, extent: Extent, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        self.0.push(extent, sink)
    }

    /// The list as it goes in an entry.
    ///
    /// # Errors
    /// As [`crate::tree::TreeBuilder::finish`].
    pub fn finish<S: BlobSink>(self, sink: &mut S) -> Result<ExtentList, BuildError<S::Error>> {
        Ok(match self.0.finish(sink)? {
            Spilled::Inline(extents) => ExtentList::Inline(extents),
            Spilled::Tree(tree) => ExtentList::Tree(tree.root),
        })
    }
}

/// An extent and where in its file it starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedExtent {
    /// Offset in the file, in bytes.
    pub offset_bytes: u64,
    /// The extent.
    pub extent: Extent,
}

/// A walk over an extent tree, with offsets in the file; checks that the extents come to the file's size.
#[derive(Debug, Clone)]
pub struct ExtentWalk {
    walk: TreeWalk<Extent>,
    position_bytes: u64,
    size_bytes: u64,
}

impl ExtentWalk {
    /// Over the tree at `root` (resolved) of a file of `size_bytes`.
    #[must_use]
    pub fn new(root: BlobPointer, size_bytes: u64) -> Self {
        Self { walk: TreeWalk::new(root), position_bytes: 0, size_bytes }
    }

    /// The blob whose content [`ExtentWalk::supply`] takes next; `None` at the end.
    #[must_use]
    pub fn wanted(&self) -> Option<&BlobPointer> {
        self.walk.wanted()
    }

    /// The blobs that are known to be wanted, in order.
    pub fn upcoming(&self) -> impl Iterator<Item = &BlobPointer> {
        self.walk.upcoming()
    }

    /// Takes the opened content of the blob that was wanted.
    ///
    /// # Errors
    /// As [`TreeWalk::supply`]; [`DocumentError::Size`] when the extents are more or fewer bytes than the file.
    pub fn supply(&mut self, blob: &[u8]) -> Result<Vec<PlacedExtent>, DocumentError> {
        let extents = self.walk.supply(blob)?;
        let mut placed = Vec::with_capacity(extents.len());
        for extent in extents {
            let offset_bytes = self.position_bytes;
            self.advance(extent.length_bytes())?;
            placed.push(PlacedExtent { offset_bytes, extent });
        }
        if self.walk.wanted().is_none() && self.position_bytes != self.size_bytes {
            return Err(DocumentError::Size { expected: self.size_bytes, found: self.position_bytes });
        }
        Ok(placed)
    }

    fn advance(&mut self, bytes: u64) -> Result<(), DocumentError> {
        let end = self.position_bytes.checked_add(bytes).ok_or(DocumentError::Overflow { what: "extents" })?;
        if end > self.size_bytes {
            return Err(DocumentError::Size { expected: self.size_bytes, found: end });
        }
        self.position_bytes = end;
        Ok(())
    }

    /// Drops blobs that end at or before byte `offset` of the file. Called before every [`ExtentWalk::wanted`] it leads to
    /// the extent that holds that byte, reading one blob a level.
    ///
    /// # Errors
    /// [`DocumentError::Size`] when what was dropped is more than the file.
    pub fn seek(&mut self, offset: u64) -> Result<(), DocumentError> {
        while let Some(Span(bytes)) = self.walk.wanted_label().copied() {
            if self.position_bytes.saturating_add(bytes) > offset {
                break;
            }
            self.walk.skip();
            self.advance(bytes)?;
        }
        Ok(())
    }
}
