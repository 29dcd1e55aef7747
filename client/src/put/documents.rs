//! Documents: blobs sealed into segments of their own, which are sent while more are written.
//!
//! Decides when a document segment closes and which blobs are not stored because they lie somewhere already. What
//! documents say is decided elsewhere, their formats are `dolmen-proto`'s.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::BytesMut;
use dolmen_proto::ids::{ChunkId, SegmentId, SnapshotId};
use dolmen_proto::manifest::snapshot_id;
use dolmen_proto::pack::Packer;
use dolmen_proto::seal::{Codec, chunk_key, seal_into, sealed_len};
use dolmen_proto::tree::{BlobPointer, BlobSink, BuildError, ProvisionalIds, SELF_SEGMENT};
use tokio::runtime::Handle;
use tokio::task::JoinSet;

use super::parent::Known;
use super::segment::Workshop;
use super::send::{Sender, Stored};
use crate::error::ClientError;

/// Most bytes of a document segment's payload: documents are coded so redundantly that full ones would take several
/// times the memory of content.
pub(crate) const DOCUMENT_SEGMENT_BYTES: usize = 8 * 1024 * 1024;
/// Document segments are numbered from here, so that their places do not depend on how many content segments there are.
const FIRST_NUMBER: u64 = 1 << 32;

/// A segment of documents that is being written. Its bytes are not taken from the budget until it is closed: it is
/// held while contents are waited for, which need the budget.
struct Open {
    packer: Packer,
    chunks: Vec<(ChunkId, u32)>,
    data: BytesMut,
    /// Blobs in it, so that equal ones (empty folders) lie in it once.
    blobs: HashMap<ChunkId, u32>,
}

/// Seals blobs into document segments. Computes and waits on the calling thread, which must not be one of tokio's.
pub(crate) struct Sink {
    workshop: Workshop,
    sender: Arc<Sender>,
    runtime: Handle,
    open: Option<Open>,
    ids: ProvisionalIds,
    known: Known,
    /// Segments that blobs put lately lie in, stored before or not; the open one by its provisional id.
    touched: RefCell<BTreeSet<SegmentId>>,
    avoid: BTreeSet<SegmentId>,
    number: u64,
    sending: JoinSet<Result<(u64, Stored), ClientError>>,
    stored: Vec<(u64, Stored)>,
    /// Hash of the sealed bytes of the blob that was put last.
    last: Option<SnapshotId>,
}

impl std::fmt::Debug for Sink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sink(..)")
    }
}

impl Sink {
    /// The id of the snapshot whose root is the blob that was put last.
    pub(crate) fn last_id(&self) -> Option<SnapshotId> {
        self.last
    }

    /// The segments that blobs put since the last time lie in; the open one is not named.
    pub(crate) fn touched(&self) -> BTreeSet<SegmentId> {
        let touched = self.touched.take();
        touched.into_iter().map(|segment| self.ids.now(segment)).filter(|id| *id != SELF_SEGMENT).collect()
    }

    /// The open segment by its provisional id; `None` when nothing is in it.
    pub(crate) fn open_id(&self) -> Option<SegmentId> {
        self.open.as_ref().map(|_| self.ids.open())
    }

    /// The id of a segment that was named provisionally, when it is closed.
    pub(crate) fn settled_id(&self, segment: SegmentId) -> SegmentId {
        self.ids.now(segment)
    }

    /// From now on blobs that lie in these segments are stored again.
    pub(crate) fn avoid(&mut self, segments: BTreeSet<SegmentId>) {
        self.avoid = segments;
    }

    /// Whether a blob of `length` bytes fits the open segment.
    pub(crate) fn has_room(&self, length: usize) -> bool {
        self.open.as_ref().is_none_or(|open| open.packer.clone().push(sealed_len(length)).is_some())
    }

    /// Waits until all segments that are closed are stored; gives those since [`Documents::close`], in order.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub(crate) fn settle(&mut self) -> Result<impl Iterator<Item = &Stored>, ClientError> {
        while let Some(done) = self.runtime.block_on(self.sending.join_next()) {
            self.stored.push(sent(done)?);
        }
        self.stored.sort_by_key(|(number, _)| *number);
        Ok(self.stored.iter().map(|(_, stored)| stored))
    }

    /// Closes the open segment, if there is one, and sends it on its way.
    ///
    /// # Errors
    /// When an earlier one could not be sent; `Bug`.
    pub(crate) fn close(&mut self) -> Result<(), ClientError> {
        let Some(open) = self.open.take() else { return Ok(()) };
        while let Some(done) = self.sending.try_join_next() {
            self.stored.push(sent(done)?);
        }
        let policy = self.workshop.policy;
        let bytes = open.packer.payload_bytes() as u64 * u64::from(policy.n()) / u64::from(policy.k());
        let held = self.runtime.block_on(self.workshop.budget.take(bytes));
        let encoded = self.workshop.encode(&open.packer, &open.chunks, open.data, held)?;
        self.ids.close(encoded.id);
        let (sender, number) = (Arc::clone(&self.sender), self.number);
        self.number += 1;
        let send = async move { Ok((number, sender.send(encoded, number).await?)) };
        self.sending.spawn_on(send, &self.runtime);
        Ok(())
    }
}

type Joined = Result<Result<(u64, Stored), ClientError>, tokio::task::JoinError>;

fn sent(done: Joined) -> Result<(u64, Stored), ClientError> {
    done.map_err(|error| ClientError::bug("sending a segment failed", error))?
}

impl BlobSink for Sink {
    type Error = ClientError;

    fn make_room(&mut self, length: usize) -> Result<(), ClientError> {
        if !self.has_room(length) {
            self.close()?;
        }
        self.open.get_or_insert_with(|| Open {
            packer: Packer::with_segment_bytes(self.workshop.policy, self.workshop.segment_bytes),
            chunks: Vec::new(),
            data: self.workshop.data_buffer(),
            blobs: HashMap::new(),
        });
        Ok(())
    }

    fn segment_now(&self, segment: SegmentId) -> SegmentId {
        self.ids.now(segment)
    }

    fn known(&self, resolved: &[u8]) -> Option<BlobPointer> {
        let pointer = self.known.find(resolved).filter(|pointer| !self.avoid.contains(&pointer.segment))?;
        self.touched.borrow_mut().insert(pointer.segment);
        Some(pointer)
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
        let segment = self.ids.open();
        self.touched.borrow_mut().insert(segment);
        Ok(BlobPointer { key, segment, offset, length })
    }
}

pub(crate) fn built(error: BuildError<ClientError>) -> ClientError {
    match error {
        BuildError::Sink(error) => error,
        BuildError::Document(error) => ClientError::bug("could not write a document", error),
    }
}

/// The documents of one operation: written one after the other, into the same segments.
#[derive(Debug)]
pub(crate) struct Documents {
    /// Gone while something is built, and for good when that was broken off.
    sink: Option<Box<Sink>>,
}

impl Documents {
    pub(crate) fn new(workshop: Workshop, sender: Arc<Sender>, known: Known) -> Self {
        let sink = Sink {
            workshop,
            sender,
            runtime: Handle::current(),
            open: None,
            ids: ProvisionalIds::new(),
            known,
            touched: RefCell::default(),
            avoid: BTreeSet::new(),
            number: FIRST_NUMBER,
            sending: JoinSet::new(),
            stored: Vec::new(),
            last: None,
        };
        Self { sink: Some(Box::new(sink)) }
    }

    /// Builds on a thread that may block, while segments are sent. Pointers that come out of it carry provisional ids until
    /// [`Documents::close`].
    ///
    /// # Errors
    /// Whatever `build` fails with, sending included.
    pub(crate) async fn build<T, E>(
        &mut self,
        build: impl FnOnce(&mut Sink) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<ClientError> + Send + 'static,
    {
        let gone = || ClientError::bug("could not write documents", "writing them was broken off before");
        let mut sink = self.sink.take().ok_or_else(gone)?;
        let building = tokio::task::spawn_blocking(move || {
            let value = build(&mut sink);
            (sink, value)
        });
        let (sink, value) = building.await.map_err(|error| ClientError::bug("writing documents failed", error))?;
        self.sink = Some(sink);
        value
    }

    /// Closes the open segment and waits until all are stored; gives those since the last time, in order, and what makes
    /// of pointers what they are from now on.
    ///
    /// # Errors
    /// As [`Sender::send`].
    pub(crate) async fn close(&mut self) -> Result<Vec<Stored>, ClientError> {
        self.build(|sink| {
            sink.close()?;
            _ = sink.settle()?;
            Ok(std::mem::take(&mut sink.stored).into_iter().map(|(_, stored)| stored).collect())
        })
        .await
    }

    /// The same pointer with the id of its segment, when that is closed.
    pub(crate) fn settled(&self, mut pointer: BlobPointer) -> BlobPointer {
        if let Some(sink) = &self.sink {
            pointer.segment = sink.ids.now(pointer.segment);
        }
        pointer
    }
}
