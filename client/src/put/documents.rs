//! Manifest and table: what was stored, written down as blobs in document segments.
//!
//! Decides when a document segment closes and in which order documents are built: folders from the bottom up, then
//! the snapshot, then, once the places of all these are known, the table. Their formats are `dolmen-proto`'s.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::BytesMut;
use dolmen_proto::codec::{Extensions, Needs};
use dolmen_proto::head::{Holder, PlacedSegment, TableLocation};
use dolmen_proto::ids::{ChunkId, NodeId, SnapshotId, Timestamp};
use dolmen_proto::manifest::{
    Entry, EntryKind, Extent, ExtentListBuilder, FileEntry, FolderBuilder, FolderEntry, Name, Snapshot, snapshot_id,
};
use dolmen_proto::pack::Packer;
use dolmen_proto::policy::Policy;
use dolmen_proto::seal::{Codec, chunk_key, seal_into, sealed_len};
use dolmen_proto::table::{NodeEntry, RowKind, RowListBuilder, Rows, SegmentRow, TableRoot};
use dolmen_proto::tree::{BlobPointer, BlobSink, BuildError, ProvisionalIds};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::content::{ChunkPlace, Contents, FileState, Piece};
use super::segment::{Encoded, Workshop};
use super::send::{Sender, Stored};
use super::walk::{Kind, Tree};
use crate::error::{ClientError, ErrorKind};
use crate::network::Nodes;
use crate::read::SINGLE_EXTENSION;
use crate::report::FailedFile;

/// Most bytes of a document segment's payload: documents are coded so redundantly that full ones would take several
/// times the memory of content.
pub(crate) const DOCUMENT_SEGMENT_BYTES: usize = 8 * 1024 * 1024;

/// A segment of documents that is being written.
struct Open {
    packer: Packer,
    chunks: Vec<(ChunkId, u32)>,
    data: BytesMut,
    held: crate::budget::Held,
    /// Blobs in it, so that equal ones (empty folders) lie in it once.
    blobs: HashMap<ChunkId, u32>,
}

/// Seals blobs into document segments. Computes and waits on the calling thread, which must not be one of tokio's.
struct Sink {
    workshop: Workshop,
    runtime: Handle,
    open: Option<Open>,
    ids: ProvisionalIds,
    closed: mpsc::Sender<Encoded>,
    /// Hash of the sealed bytes of the blob that was put last.
    last: Option<SnapshotId>,
}

impl Sink {
    fn new(workshop: &Workshop, runtime: Handle, closed: mpsc::Sender<Encoded>) -> Self {
        Self { workshop: workshop.clone(), runtime, open: None, ids: ProvisionalIds::new(), closed, last: None }
    }

    fn close(&mut self) -> Result<(), ClientError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let encoded = self.workshop.encode(&open.packer, &open.chunks, open.data, open.held)?;
        self.ids.close(encoded.id);
        // The receiver is gone only when sending failed, and that failure is the one to report.
        let _ = self.closed.blocking_send(encoded);
        Ok(())
    }

    /// Ends the last segment; gives what provisional ids have come to.
    fn finish(mut self) -> Result<ProvisionalIds, ClientError> {
        self.close()?;
        Ok(self.ids)
    }
}

impl BlobSink for Sink {
    type Error = ClientError;

    fn make_room(&mut self, length: usize) -> Result<(), ClientError> {
        let fits = |open: &Open| open.packer.clone().push(sealed_len(length)).is_some();
        if self.open.as_ref().is_some_and(|open| !fits(open)) {
            self.close()?;
        }
        if self.open.is_none() {
            let held = self.runtime.block_on(self.workshop.budget.take(self.workshop.footprint_bytes()));
            self.open = Some(Open {
                packer: Packer::with_segment_bytes(self.workshop.policy, self.workshop.segment_bytes),
                chunks: Vec::new(),
                data: BytesMut::zeroed(self.workshop.capacity_bytes()),
                held,
                blobs: HashMap::new(),
            });
        }
        Ok(())
    }

    fn segment_now(&self, segment: dolmen_proto::ids::SegmentId) -> dolmen_proto::ids::SegmentId {
        self.ids.now(segment)
    }

    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, ClientError> {
        let bug = |why: &dyn std::fmt::Display| ClientError::bug("could not store a document", why);
        let length = u32::try_from(blob.len()).map_err(|error| bug(&error))?;
        let key = chunk_key(&self.workshop.keys.dedup, Codec::Plain, &blob);
        let id = key.id();
        let open = self.open.as_mut().ok_or_else(|| bug(&"no room was made for a blob"))?;
        let offset = match open.blobs.get(&id) {
            Some(offset) => *offset,
            None => {
                let offset = open.packer.push(sealed_len(blob.len())).ok_or_else(|| bug(&"a blob fits no segment"))?;
                let at = offset as usize;
                seal_into(&key, &blob, &mut open.data[at..at + sealed_len(blob.len())]).map_err(|error| bug(&error))?;
                open.chunks.push((id, offset));
                open.blobs.insert(id, offset);
                offset
            }
        };
        let at = offset as usize;
        self.last = Some(snapshot_id(&open.data[at..at + sealed_len(blob.len())]));
        Ok(BlobPointer { key, segment: self.ids.open(), offset, length })
    }
}

fn built(error: BuildError<ClientError>) -> ClientError {
    match error {
        BuildError::Sink(error) => error,
        BuildError::Document(error) => ClientError::bug("could not write a document", error),
    }
}

/// Builds documents on a thread of its own while their segments are sent.
async fn write<T: Send + 'static>(
    workshop: &Workshop,
    sender: &Arc<Sender>,
    first_number: u64,
    build: impl FnOnce(&mut Sink) -> Result<T, ClientError> + Send + 'static,
) -> Result<(T, ProvisionalIds, Vec<Stored>), ClientError> {
    let (closed, mut segments) = mpsc::channel(1);
    let mut sink = Sink::new(workshop, Handle::current(), closed);
    let building = tokio::task::spawn_blocking(move || {
        let value = build(&mut sink)?;
        Ok::<_, ClientError>((value, sink.finish()?))
    });
    let mut sending = JoinSet::new();
    let mut number = first_number;
    while let Some(segment) = segments.recv().await {
        let sender = Arc::clone(sender);
        sending.spawn(async move { (number, sender.send(segment, number).await) });
        number += 1;
    }
    let (value, ids) = building.await.map_err(|error| ClientError::bug("writing documents failed", error))??;
    let mut stored = BTreeMap::new();
    while let Some(done) = sending.join_next().await {
        let (number, segment) = done.map_err(|error| ClientError::bug("sending a segment failed", error))?;
        stored.insert(number, segment?);
    }
    Ok((value, ids, stored.into_values().collect()))
}

/// The same pointer with the id of its segment, which is closed now.
fn settled(mut pointer: BlobPointer, ids: &ProvisionalIds) -> BlobPointer {
    pointer.segment = ids.now(pointer.segment);
    pointer
}

/// A snapshot that is stored.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) root: BlobPointer,
    pub(crate) id: SnapshotId,
    pub(crate) files: u64,
    pub(crate) bytes: u64,
    pub(crate) segments: Vec<Stored>,
    pub(crate) failed: Vec<FailedFile>,
}

/// What a snapshot says of itself.
pub(crate) struct About {
    pub(crate) created: Timestamp,
    pub(crate) message: String,
    pub(crate) salt: [u8; 32],
    /// A file was put, not a folder that has one.
    pub(crate) single: bool,
}

/// Writes the manifest of what was stored.
///
/// # Errors
/// As [`Sender::send`].
pub(crate) async fn manifest(
    tree: &Arc<Tree>,
    contents: &Arc<Contents>,
    about: About,
    workshop: &Workshop,
    sender: &Arc<Sender>,
) -> Result<Manifest, ClientError> {
    let (tree, contents_shared) = (Arc::clone(tree), Arc::clone(contents));
    let build = move |sink: &mut Sink| {
        let mut folders = Folders { tree: &tree, contents: &contents_shared, failed: Vec::new(), plain_bytes: 0 };
        let root = folders.folder(&tree.root, sink)?;
        let (files, failed, plain_bytes) = (root.totals.files, folders.failed, folders.plain_bytes);
        let mut extensions = Extensions::default();
        if about.single {
            extensions
                .insert(SINGLE_EXTENSION, Vec::new())
                .map_err(|error| ClientError::bug("could not write a snapshot", error))?;
        }
        let snapshot = Snapshot {
            needs: Needs::NONE,
            created: about.created,
            message: about.message,
            parent: None,
            salt: about.salt,
            root,
            extensions,
        };
        let pointer = snapshot.put(sink).map_err(built)?;
        let id = sink.last.ok_or_else(|| ClientError::bug("a snapshot has no id", "its root was not sealed"))?;
        Ok((pointer, id, files, plain_bytes, failed))
    };
    let first_number = contents.segments.len() as u64;
    let ((pointer, id, files, bytes, failed), ids, segments) = write(workshop, sender, first_number, build).await?;
    Ok(Manifest { root: settled(pointer, &ids), id, files, bytes, segments, failed })
}

struct Folders<'a> {
    tree: &'a Tree,
    contents: &'a Contents,
    failed: Vec<FailedFile>,
    plain_bytes: u64,
}

impl Folders<'_> {
    /// One folder's tree, those below it first; as deep as the walk went, which is bounded.
    fn folder(&mut self, children: &[u32], sink: &mut Sink) -> Result<FolderEntry, ClientError> {
        let mut builder = FolderBuilder::new();
        for &position in children {
            if let Some(entry) = self.entry(position, sink)? {
                builder.push(entry, sink).map_err(built)?;
            }
        }
        builder.finish(sink).map_err(built)
    }

    fn entry(&mut self, position: u32, sink: &mut Sink) -> Result<Option<Entry>, ClientError> {
        let item = &self.tree.items[position as usize];
        let name = match Name::new(item.name.to_vec()) {
            Ok(name) => name,
            Err(error) => return Ok(self.fail(position, format!("its name {error}"))),
        };
        let (mode, mtime_ns, kind) = match &item.kind {
            Kind::Folder(children) => (item.mode, item.mtime_ns, EntryKind::Folder(self.folder(children, sink)?)),
            Kind::Symlink(target) => (item.mode, item.mtime_ns, EntryKind::Symlink { target: target.clone() }),
            Kind::File => match self.contents.files.get(&position) {
                Some(FileState::Read { read, pieces }) => {
                    let mut extents = ExtentListBuilder::new();
                    for piece in pieces {
                        extents.push(self.extent(piece)?, sink).map_err(built)?;
                    }
                    let extents = extents.finish(sink).map_err(built)?;
                    let file = FileEntry { size_bytes: read.size, hash: Some(read.hash), extents };
                    (read.mode, read.mtime_ns, EntryKind::File(file))
                }
                Some(FileState::Failed(reason)) => return Ok(self.fail(position, reason.clone())),
                None => return Err(ClientError::bug("a file was lost on the way", self.tree.path(position).display())),
            },
        };
        Ok(Some(Entry::new(name, mode, mtime_ns, kind)))
    }

    fn fail(&mut self, position: u32, reason: String) -> Option<Entry> {
        self.failed.push(FailedFile { path: self.tree.path(position).display().to_string(), reason });
        None
    }

    fn extent(&mut self, piece: &Piece) -> Result<Extent, ClientError> {
        let lost = || ClientError::bug("a chunk was lost on the way", "its segment is not stored");
        Ok(match piece {
            Piece::Hole(length_bytes) => Extent::Hole { length_bytes: *length_bytes },
            Piece::Chunk(number) => {
                let chunks = &self.contents.chunks;
                let ChunkPlace { key, segment, offset, length } = chunks.get(*number as usize).ok_or_else(lost)?;
                let segment = self.contents.segments.get(*segment as usize).ok_or_else(lost)?.id;
                self.plain_bytes += u64::from(*length);
                Extent::Chunk(BlobPointer { key: key.clone(), segment, offset: *offset, length: *length })
            }
        })
    }
}

/// A base table that is stored.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) location: TableLocation,
    pub(crate) segments: Vec<Stored>,
}

/// Writes the base table of these segments.
///
/// # Errors
/// As [`Sender::send`]; `Refused` when the table would be too large for this release.
pub(crate) async fn table(
    policy: Policy,
    content: &[Stored],
    documents: &[Stored],
    nodes: &Nodes,
    workshop: &Workshop,
    sender: &Arc<Sender>,
) -> Result<Table, ClientError> {
    let mut list = NodeList { nodes, numbers: BTreeMap::new(), entries: Vec::new() };
    let content_rows = content.iter().map(|stored| list.row(RowKind::Content, stored));
    let mut rows = content_rows.collect::<Result<Vec<_>, _>>()?;
    for stored in documents {
        rows.push(list.row(RowKind::Documents, stored)?);
    }
    rows.sort_by_key(SegmentRow::id);
    rows.dedup_by_key(|row| row.id());
    let first_number = (content.len() + documents.len()) as u64;

    let build = |sink: &mut Sink| {
        let mut builder = RowListBuilder::new();
        for row in rows {
            builder.push(row, sink).map_err(built)?;
        }
        builder.finish(sink).map_err(built)
    };
    let (mut rows, ids, mut segments) = write(workshop, sender, first_number, build).await?;
    if let Rows::Tree { root, .. } = &mut rows {
        root.segment = ids.now(root.segment);
    }
    let further = segments.iter().map(|stored| list.row(RowKind::Documents, stored));
    let mut further = further.collect::<Result<Vec<_>, _>>()?;
    further.sort_by_key(SegmentRow::id);

    let root = TableRoot {
        policy,
        nodes: list.entries,
        stewards: Vec::new(),
        rows,
        further,
        receipts: None,
        forwards: None,
        leaving: None,
        extensions: Extensions::default(),
    };
    let first_number = first_number + segments.len() as u64;
    let (root, _, last) = write(workshop, sender, first_number, move |sink| root.put(sink).map_err(built)).await?;
    let [stored] = last.as_slice() else {
        return Err(ClientError::bug("could not write the table", "its root is not one blob"));
    };
    let holders = stored
        .roots
        .iter()
        .zip(&stored.nodes)
        .map(|(root, node)| Holder { root: *root, node: node.map(|node| NodeEntry::new(node, nodes.addresses(node))) });
    let segment = PlacedSegment::new(stored.geometry, stored.nonce, holders.collect())
        .map_err(|error| ClientError::bug("could not place the table", error))?;
    let location = TableLocation { segment, key: root.key, offset: root.offset, length: root.length };
    segments.extend(last);
    Ok(Table { location, segments })
}

/// The nodes that rows refer to by number.
struct NodeList<'a> {
    nodes: &'a Nodes,
    numbers: BTreeMap<NodeId, u32>,
    entries: Vec<NodeEntry>,
}

impl NodeList<'_> {
    fn row(&mut self, kind: RowKind, stored: &Stored) -> Result<SegmentRow, ClientError> {
        let mut numbers = Vec::with_capacity(stored.nodes.len());
        for node in &stored.nodes {
            numbers.push(match node {
                Some(node) => Some(self.number(*node)?),
                None => None,
            });
        }
        SegmentRow::new(kind, stored.geometry, stored.nonce, stored.roots.clone(), numbers)
            .map_err(|error| ClientError::bug("could not write a table's row", error))
    }

    fn number(&mut self, node: NodeId) -> Result<u32, ClientError> {
        if let Some(number) = self.numbers.get(&node) {
            return Ok(*number);
        }
        let number = u32::try_from(self.entries.len()).map_err(|_| {
            ClientError::new(
                ErrorKind::Refused,
                "could not write the table",
                "it names too many nodes",
                "put less at once",
            )
        })?;
        self.entries.push(NodeEntry::new(node, self.nodes.addresses(node)));
        self.numbers.insert(node, number);
        Ok(number)
    }
}
