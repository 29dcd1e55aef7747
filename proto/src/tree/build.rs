//! Writing a tree: items come in order, finished blobs go to a sink, one pointer comes back.
//!
//! Decides where a node ends (by content, so that trees of similar lists share blobs) and what self pointers become
//! when a segment closes in the middle of a document. Never decides when a segment closes: that is the sink's to say.

use super::pointer::{ENCODED_BYTES, SELF_SEGMENT};
use super::{BlobPointer, Child, Node, TreeItem, TreeLabel, check_level, join_labels};
use crate::codec::{DocumentError, Writer, check_limit};
use crate::ids::SegmentId;
use crate::limits::{BLOB_TARGET_BYTES, TREE_BLOB_MAX_BYTES, TREE_SPLIT_MIN_BYTES};

/// Bytes of a node before its first item: version, kind, level, count. A leaf has no level, one byte less.
const NODE_OVERHEAD_BYTES: usize = 7;

/// Takes the finished blobs of documents, seals them, and packs them into document segments.
///
/// Pointers that a sink hands out carry a *provisional* id of the segment that is open at the time, see
/// [`ProvisionalIds`]; before a builder writes pointers into a blob it asks what they have come to.
pub trait BlobSink {
    /// Why a blob could not be taken.
    type Error;

    /// Makes sure that a blob of `length` bytes before sealing fits the open segment, by closing it and opening the next
    /// one when need be. The next [`BlobSink::put`] brings exactly so many bytes.
    ///
    /// # Errors
    /// The sink's own.
    fn make_room(&mut self, length: usize) -> Result<(), Self::Error>;

    /// What to write for `segment` in a blob that is put now: see [`ProvisionalIds::now`].
    fn segment_now(&self, segment: SegmentId) -> SegmentId;

    /// Where a blob already lies that reads the same: `resolved` is what is about to be put, with every pointer's segment
    /// named as [`Node::parse`] names it. Only asked when all of them can be named, and not twice for one blob.
    ///
    /// Trees of similar snapshots share blobs by this although their self pointers differ in form: a stored blob says
    /// *self* where a blob of another segment has to name the same place. A sink that remembers what it has read,
    /// by a hash of the resolved encoding, answers; the default never does, and everything is stored. It names only blobs in
    /// segments that are live in the table that the new document goes with, and pointers to them that are not self.
    fn known(&self, resolved: &[u8]) -> Option<BlobPointer> {
        let _ = resolved;
        None
    }

    /// Takes a blob and says where it lies, in the open segment under its provisional id.
    ///
    /// # Errors
    /// The sink's own.
    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Self::Error>;
}

/// Why a document could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError<E> {
    /// What was to be written breaks a rule of the format: the caller's fault.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The sink did not take a blob.
    #[error("a document's blob could not be stored")]
    Sink(#[source] E),
}

/// The ids of document segments that are being written: stand-ins until a segment is closed and its id known.
///
/// A document may spread over several segments. A pointer into the open one is a self pointer as long as the blob
/// that holds it lands in the same segment, and names the segment otherwise; which of both is known only when that
/// blob is written. Until then the pointer carries a stand-in.
#[derive(Debug, Default)]
pub struct ProvisionalIds {
    closed: Vec<SegmentId>,
}

const PROVISIONAL_MARK: [u8; 24] = *b"dolmen: segment not done";

impl ProvisionalIds {
    /// No segment closed yet; the first one is open.
    #[must_use]
    pub const fn new() -> Self {
        Self { closed: Vec::new() }
    }

    /// The stand-in for the segment that is open now.
    #[must_use]
    pub fn open(&self) -> SegmentId {
        let mut bytes = [0; 32];
        let ordinal = u64::try_from(self.closed.len()).expect("a machine word fits 64 bits");
        bytes[..24].copy_from_slice(&PROVISIONAL_MARK);
        bytes[24..].copy_from_slice(&ordinal.to_le_bytes());
        SegmentId::new(bytes)
    }

    /// The open segment is closed and has this id; the next one is open now.
    pub fn close(&mut self, id: SegmentId) {
        self.closed.push(id);
    }

    /// What a pointer with `segment` says in a blob of the open segment: [`SELF_SEGMENT`] for the open segment's
    /// stand-in, the id for a closed one's, and every other id as it is.
    #[must_use]
    pub fn now(&self, segment: SegmentId) -> SegmentId {
        match ordinal(segment) {
            None => segment,
            Some(ordinal) if ordinal == self.closed.len() => SELF_SEGMENT,
            Some(ordinal) => self.closed.get(ordinal).copied().unwrap_or(segment),
        }
    }
}

fn ordinal(segment: SegmentId) -> Option<usize> {
    let (mark, ordinal) = segment.as_bytes().split_first_chunk::<24>()?;
    if *mark != PROVISIONAL_MARK {
        return None;
    }
    let ordinal: [u8; 8] = ordinal.try_into().ok()?;
    usize::try_from(u64::from_le_bytes(ordinal)).ok()
}

/// Settles the pointers of a blob, checks it again, encodes it and puts it, unless the sink knows one that reads the same.
pub(crate) fn put_blob<R, S: BlobSink>(
    root: &mut R,
    visit: impl Fn(&mut R, &mut dyn FnMut(&mut SegmentId)),
    check: impl Fn(&R) -> Result<(), DocumentError>,
    encode: impl Fn(&R) -> Vec<u8>,
    sink: &mut S,
) -> Result<BlobPointer, BuildError<S::Error>> {
    let mut open = false;
    visit(root, &mut |segment| {
        let now = sink.segment_now(*segment);
        if now == SELF_SEGMENT || ordinal(now).is_some() {
            open = true;
        } else {
            *segment = now;
        }
    });
    let resolved = encode(root);
    if !open {
        check(root)?;
        if let Some(known) = sink.known(&resolved) {
            return Ok(known);
        }
    }
    let length = resolved.len();
    drop(resolved);
    sink.make_room(length).map_err(BuildError::Sink)?;
    let mut unsettled = false;
    visit(root, &mut |segment| {
        *segment = sink.segment_now(*segment);
        unsettled |= ordinal(*segment).is_some();
    });
    if unsettled {
        return Err(DocumentError::Unsettled.into());
    }
    check(root)?;
    let blob = encode(root);
    debug_assert_eq!(blob.len(), length, "a pointer has one length whatever it points to");
    sink.put(blob).map_err(BuildError::Sink)
}

/// A finished tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuiltTree<L> {
    /// Where its root lies, with the sink's provisional id.
    pub root: BlobPointer,
    /// How many items it has.
    pub items: u64,
    /// The label of the whole; `None` when it is empty.
    pub label: Option<L>,
}

/// A node that is being filled.
#[derive(Debug)]
struct OpenNode<M> {
    members: Vec<M>,
    bytes: usize,
    /// What the boundary of the last member, or of the last item below it, hashes to.
    last: blake3::Hash,
}

impl<M> OpenNode<M> {
    const fn new() -> Self {
        Self { members: Vec::new(), bytes: NODE_OVERHEAD_BYTES, last: blake3::Hash::from_bytes([0; 32]) }
    }

    const fn overflows_with(&self, bytes: usize) -> bool {
        !self.members.is_empty() && self.bytes + bytes > TREE_BLOB_MAX_BYTES
    }

    /// Adds a member; true when the node ends after it.
    fn add(&mut self, member: M, bytes: usize, level: u8, boundary: blake3::Hash) -> bool {
        self.members.push(member);
        self.bytes += bytes;
        self.last = boundary;
        self.bytes >= TREE_SPLIT_MIN_BYTES && is_boundary(level, boundary, bytes)
    }
}

/// True for one of `(target - minimum) / bytes` members, so a node is longer than the minimum by that on average.
fn is_boundary(level: u8, boundary: blake3::Hash, bytes: usize) -> bool {
    const SPAN: u64 = (BLOB_TARGET_BYTES - TREE_SPLIT_MIN_BYTES) as u64;
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[level]);
    hasher.update(boundary.as_bytes());
    let [a, b, c, d, ..] = *hasher.finalize().as_bytes();
    let bytes = u64::try_from(bytes).expect("a machine word fits 64 bits");
    u64::from(u32::from_le_bytes([a, b, c, d])) * SPAN < bytes << 32
}

/// Makes a tree out of items that come in order. Holds at most one unfinished node a level.
#[derive(Debug)]
pub struct TreeBuilder<T: TreeItem> {
    leaf: OpenNode<T>,
    inner: Vec<OpenNode<Child<T::Label>>>,
    items: u64,
    last: Option<T::Label>,
}

impl<T: TreeItem> Default for TreeBuilder<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: TreeItem> TreeBuilder<T> {
    /// An empty tree.
    #[must_use]
    pub const fn new() -> Self {
        Self { leaf: OpenNode::new(), inner: Vec::new(), items: 0, last: None }
    }

    /// Adds the next item.
    ///
    /// # Errors
    /// [`BuildError::Document`] for an item that breaks a rule or is out of order; the builder is then as it was.
    /// [`BuildError::Sink`] when a full blob could not be put; the builder is then of no further use.
    pub fn push<S: BlobSink>(&mut self, item: T, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        item.check()?;
        let label = item.label();
        if self.last.as_ref().is_some_and(|last| !last.precedes(&label)) {
            return Err(DocumentError::Order { what: T::PLURAL }.into());
        }
        let mut writer = Writer::new();
        item.write(&mut writer);
        let bytes = writer.len();
        check_limit(bytes, TREE_BLOB_MAX_BYTES - NODE_OVERHEAD_BYTES, T::PLURAL).map_err(DocumentError::from)?;
        if self.leaf.overflows_with(bytes) {
            self.flush_leaf(sink)?;
        }
        self.last = Some(label);
        self.items += 1;
        let boundary = item.boundary();
        if self.leaf.add(item, bytes, 0, boundary) {
            self.flush_leaf(sink)?;
        }
        Ok(())
    }

    /// Writes what is unfinished and gives the root.
    ///
    /// # Errors
    /// [`BuildError::Sink`] when a blob could not be put.
    pub fn finish<S: BlobSink>(mut self, sink: &mut S) -> Result<BuiltTree<T::Label>, BuildError<S::Error>> {
        let items = self.items;
        if self.inner.is_empty() {
            let (child, _) = self.put_leaf(sink)?;
            return Ok(BuiltTree { root: child.pointer, items, label: child.label });
        }
        if !self.leaf.members.is_empty() {
            self.flush_leaf(sink)?;
        }
        let mut index = 0;
        loop {
            if index + 1 == self.inner.len() && self.inner[index].members.len() == 1 {
                let child = self.inner[index].members.remove(0);
                return Ok(BuiltTree { root: child.pointer, items, label: Some(child.label) });
            }
            if !self.inner[index].members.is_empty() {
                self.flush_inner(index, sink)?;
            }
            index += 1;
        }
    }

    fn flush_leaf<S: BlobSink>(&mut self, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        let (child, last) = self.put_leaf(sink)?;
        let label = child.label.expect("a leaf is flushed only when it has items");
        self.push_child(0, Child { label, pointer: child.pointer }, last, sink)
    }

    #[allow(clippy::type_complexity)]
    fn put_leaf<S: BlobSink>(
        &mut self,
        sink: &mut S,
    ) -> Result<(Child<Option<T::Label>>, blake3::Hash), BuildError<S::Error>> {
        let open = core::mem::replace(&mut self.leaf, OpenNode::new());
        let mut node = Node::<T>::Leaf(open.members);
        let label = node.label()?;
        let pointer = put_blob(&mut node, |node, visit| node.visit_segments(visit), Node::check, Node::to_bytes, sink)?;
        Ok((Child { label, pointer }, open.last))
    }

    fn flush_inner<S: BlobSink>(&mut self, index: usize, sink: &mut S) -> Result<(), BuildError<S::Error>> {
        let open = core::mem::replace(&mut self.inner[index], OpenNode::new());
        let label = join_labels(open.members.iter().map(|child| child.label.clone()))?
            .expect("a node is flushed only when it has children");
        let level = level_of(index)?;
        let mut node = Node::<T>::Inner { level, children: open.members };
        let pointer = put_blob(&mut node, |node, visit| node.visit_segments(visit), Node::check, Node::to_bytes, sink)?;
        self.push_child(index + 1, Child { label, pointer }, open.last, sink)
    }

    /// Adds a child to the inner node at `index`, whose level is one more.
    fn push_child<S: BlobSink>(
        &mut self,
        index: usize,
        child: Child<T::Label>,
        boundary: blake3::Hash,
        sink: &mut S,
    ) -> Result<(), BuildError<S::Error>> {
        let level = level_of(index)?;
        if index == self.inner.len() {
            self.inner.push(OpenNode::new());
        }
        let mut writer = Writer::new();
        child.label.write(&mut writer);
        let bytes = writer.len() + ENCODED_BYTES;
        if self.inner[index].overflows_with(bytes) {
            self.flush_inner(index, sink)?;
        }
        if self.inner[index].add(child, bytes, level, boundary) {
            self.flush_inner(index, sink)?;
        }
        Ok(())
    }
}

/// The level of the inner node at `index`.
fn level_of(index: usize) -> Result<u8, DocumentError> {
    let level = u8::try_from(index + 1).unwrap_or(u8::MAX);
    check_level(level)?;
    Ok(level)
}
