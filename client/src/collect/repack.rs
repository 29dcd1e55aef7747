//! Needed chunks of mostly dead segments, copied as they are into new segments.
//!
//! Decides nothing about what moves. Sealed chunks are not opened: their keys do not depend on where they lie. The new segments
//! are the same when the same is packed again, so a collection that was cut off sends nothing twice.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::BytesMut;
use dolmen_proto::collect::{ChunkName, CollectPlan, LiveChunk, SegmentShape};
use dolmen_proto::ids::{ChunkId, SegmentId};
use dolmen_proto::keys::{context, derive};
use dolmen_proto::pack::Packer;
use dolmen_proto::table::RowKind;

use crate::commit::State;
use crate::error::{ClientError, ErrorKind};
use crate::put::{DOCUMENT_SEGMENT_BYTES, Store, Workshop};
use crate::read::SegmentData;

/// Segments of chunks that moved are numbered from here, apart from those of contents and of documents.
const FIRST_NUMBER: u64 = 1 << 33;

/// A segment that is being filled.
struct Open {
    packer: Packer,
    chunks: Vec<(ChunkId, u32)>,
    names: Vec<(ChunkName, u32, u32)>,
    data: BytesMut,
    held: crate::budget::Held,
}

/// Where chunks went: by name, the place and the sealed length in bytes.
type Moved = BTreeMap<ChunkName, (ChunkName, u32)>;

struct Repacking<'a> {
    store: &'a mut Store,
    kind: RowKind,
    workshop: Workshop,
    open: Option<Open>,
    number: u64,
    moved: Moved,
}

/// Packs what a plan moves; what is stored is added to the store.
///
/// # Errors
/// `Damaged` or `NotNow` when a segment cannot be read, and as storing.
pub(super) async fn repack(
    base: &State,
    store: &mut Store,
    plan: &CollectPlan,
    shapes: &BTreeMap<SegmentId, SegmentShape>,
) -> Result<Moved, ClientError> {
    let mut moved = Moved::new();
    let mut number = FIRST_NUMBER;
    for kind in [RowKind::Content, RowKind::Documents] {
        let workshop = match kind {
            RowKind::Content => store.workshop.clone(),
            RowKind::Documents => {
                let (keys, cores) = (Arc::clone(&store.keys), store.workshop.cores.clone());
                let (policy, budget) = (store.policy.document_policy(), store.workshop.budget.clone());
                Workshop::new(keys, policy, DOCUMENT_SEGMENT_BYTES, cores, budget)
            }
        };
        let mut repacking = Repacking { store, kind, workshop, open: None, number, moved };
        for (id, chunks) in &plan.repack {
            if shapes.get(id).is_some_and(|shape| shape.documents == (kind == RowKind::Documents)) {
                repacking.segment(base, *id, chunks).await?;
            }
        }
        repacking.close().await?;
        (moved, number) = (repacking.moved, repacking.number);
    }
    Ok(moved)
}

impl Repacking<'_> {
    async fn segment(&mut self, base: &State, id: SegmentId, chunks: &[LiveChunk]) -> Result<(), ClientError> {
        let place = base.reader.place(id).await?;
        let ranges: Vec<(u32, u32)> = chunks.iter().map(|chunk| (chunk.offset, chunk.sealed_bytes)).collect();
        let data = base.reader.contents().fetch(&place, &ranges).await?;
        for names in chunks.chunk_by(|chunk, next| chunk.offset == next.offset) {
            let Some(chunk) = names.first() else { continue };
            let sealed = sealed(&data, chunk)?;
            self.push(names, &sealed).await?;
        }
        Ok(())
    }

    /// Packs a sealed chunk that has all of these names.
    async fn push(&mut self, names: &[LiveChunk], sealed: &[u8]) -> Result<(), ClientError> {
        let full = |error: &dyn std::fmt::Display| ClientError::bug("could not pack a segment anew", error);
        if self.open.as_ref().is_some_and(|open| open.packer.clone().push(sealed.len()).is_none()) {
            self.close().await?;
        }
        if self.open.is_none() {
            let held = self.workshop.budget.take(self.workshop.footprint_bytes()).await;
            self.open = Some(Open {
                packer: Packer::with_segment_bytes(self.workshop.policy, self.workshop.segment_bytes),
                chunks: Vec::new(),
                names: Vec::new(),
                data: self.workshop.data_buffer(),
                held,
            });
        }
        let open = self.open.as_mut().ok_or_else(|| full(&"no segment is open"))?;
        let offset = open.packer.push(sealed.len()).ok_or_else(|| full(&"a chunk fits no segment"))?;
        let at = offset as usize;
        open.data[at..at + sealed.len()].copy_from_slice(sealed);
        // The id is not known without the key, and only has to differ where the bytes do.
        open.chunks.push((ChunkId::new(derive(context::MOVED_CHUNK, &[sealed])), offset));
        let length = u32::try_from(sealed.len()).map_err(|error| full(&error))?;
        open.names.extend(names.iter().map(|chunk| (chunk.name, offset, length)));
        Ok(())
    }

    async fn close(&mut self) -> Result<(), ClientError> {
        let Some(Open { packer, chunks, names, data, held }) = self.open.take() else { return Ok(()) };
        let shop = self.workshop.clone();
        let encoded = self.workshop.cores.run(move || shop.encode(&packer, &chunks, data, held)).await??;
        let stored = self.store.sender.send(encoded, self.number).await?;
        self.number += 1;
        for (name, offset, sealed_bytes) in names {
            self.moved.insert(name, ((stored.id, offset), sealed_bytes));
        }
        self.store.stored.push((self.kind, stored));
        Ok(())
    }
}

fn sealed(data: &SegmentData, chunk: &LiveChunk) -> Result<Vec<u8>, ClientError> {
    let length = usize::try_from(chunk.sealed_bytes).map_err(|error| ClientError::bug("a chunk is too long", error))?;
    data.sealed(chunk.offset, length).ok_or_else(|| {
        ClientError::new(
            ErrorKind::Damaged,
            "a chunk could not be moved",
            "documents name bytes that its segment does not have",
            "what was uploaded is damaged in itself",
        )
    })
}
