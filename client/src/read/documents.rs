//! Blobs of documents: from memory, from the disk's cache, or from nodes.
//!
//! Decides how much of a document segment is read for one blob, and what of it is kept. Never decides where a blob lies:
//! see [`super::table`].

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dolmen_proto::ids::SegmentId;
use dolmen_proto::seal::open_into;
use dolmen_proto::table::TableRoot;
use dolmen_proto::tree::BlobPointer;

use super::cache::BlobCache;
use super::fetch::Fetcher;
use super::kept::Kept;
use super::segment::{Place, SegmentData};
use crate::error::{ClientError, ErrorKind};

/// Document segments up to this are read whole and kept: one read serves all blobs of a small dataset.
const WHOLE_SEGMENT_BYTES: u32 = 256 * 1024;
/// Whole segments that are kept, in bytes.
const SEGMENTS_KEPT_BYTES: u64 = 40 << 20;
/// Reads of a segment after which it is read whole, when all of the manifest is wanted: by then much of it is.
const READS_BEFORE_WHOLE: u32 = 2;
/// Segments whose reads are counted.
const SEGMENTS_COUNTED: u64 = 4096;
/// Reads of parts of segments whose bytes are kept, since blobs that are wanted one after another lie together.
const WINDOWS_KEPT: usize = 8;
/// Opened blobs that are kept, in bytes.
const BLOBS_KEPT_BYTES: u64 = 16 << 20;

struct Caches {
    segments: Kept<SegmentId, Arc<SegmentData>>,
    windows: VecDeque<(SegmentId, Arc<SegmentData>)>,
    /// How often parts of a segment were read.
    reads: Kept<SegmentId, u32>,
    blobs: Kept<(SegmentId, u32), Arc<Vec<u8>>>,
}

/// A blob and where in its segment it lies now.
pub(crate) type Lying<'a> = (u32, &'a BlobPointer);

/// Reads blobs. Clones share what is kept.
#[derive(Clone)]
pub(crate) struct Documents {
    fetcher: Fetcher,
    cache: Option<BlobCache>,
    /// All of the manifest will be read, so segments that hold much of it are read whole.
    everything: bool,
    caches: Arc<Mutex<Caches>>,
}

impl Documents {
    pub(crate) fn new(fetcher: Fetcher, cache: Option<BlobCache>, everything: bool) -> Self {
        let caches = Caches {
            segments: Kept::new(SEGMENTS_KEPT_BYTES),
            windows: VecDeque::with_capacity(WINDOWS_KEPT),
            reads: Kept::new(SEGMENTS_COUNTED),
            blobs: Kept::new(BLOBS_KEPT_BYTES),
        };
        Self { fetcher, cache, everything, caches: Arc::new(Mutex::new(caches)) }
    }

    fn caches(&self) -> MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The same, for somebody who will read all of the manifest.
    pub(crate) fn whole(&self) -> Self {
        Self { everything: true, ..self.clone() }
    }

    /// Takes in whom a table that was read names as stewards, and where it says that nodes are.
    pub(crate) fn follow(&self, table: &TableRoot) {
        self.fetcher.follow(table);
    }

    /// Whether a blob is in memory.
    pub(crate) fn has(&self, pointer: &BlobPointer) -> bool {
        self.caches().blobs.get(&(pointer.segment, pointer.offset)).is_some()
    }

    /// A blob that is on this machine already.
    pub(crate) async fn here(&self, pointer: &BlobPointer) -> Option<Arc<Vec<u8>>> {
        let known = self.caches().blobs.get(&(pointer.segment, pointer.offset));
        if known.as_ref().is_some_and(|blob| blob.len() == pointer.length as usize) {
            return known;
        }
        let sealed = self.cache.as_ref()?.get(pointer).await?;
        let mut blob = Vec::new();
        // A file that does not open was torn or is not ours: the blob is fetched, and the file replaced.
        open_into(&pointer.key, &sealed, &mut blob).ok()?;
        Some(self.keep(pointer, blob))
    }

    pub(crate) fn keep(&self, pointer: &BlobPointer, blob: Vec<u8>) -> Arc<Vec<u8>> {
        let (blob, weight) = (Arc::new(blob), u64::from(pointer.length));
        self.caches().blobs.put((pointer.segment, pointer.offset), Arc::clone(&blob), weight);
        blob
    }

    /// Fetches a blob; others of the same segment come along and are kept.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when the segment cannot be read or the blob does not open.
    pub(crate) async fn fetch(
        &self,
        place: &Arc<Place>,
        wanted: Lying<'_>,
        others: &[Lying<'_>],
    ) -> Result<Arc<Vec<u8>>, ClientError> {
        let data = self.data(place, wanted, others).await?;
        for (offset, pointer) in others {
            if let Some(sealed) = data.sealed(*offset, pointer.sealed_bytes()) {
                // What does not open is found out when it is wanted.
                let _ = self.open(pointer, sealed).await;
            }
        }
        let (offset, pointer) = wanted;
        let missing = || ClientError::bug("a document was not fetched", "its range was planned otherwise");
        let sealed = data.sealed(offset, pointer.sealed_bytes()).ok_or_else(missing)?;
        self.open(pointer, sealed).await
    }

    async fn open(&self, pointer: &BlobPointer, sealed: Vec<u8>) -> Result<Arc<Vec<u8>>, ClientError> {
        let mut blob = Vec::new();
        open_into(&pointer.key, &sealed, &mut blob).map_err(|error| {
            ClientError::new(
                ErrorKind::Damaged,
                "a document cannot be opened",
                error,
                "what was uploaded is damaged in itself: ask the dataset's owner",
            )
        })?;
        if let Some(cache) = &self.cache {
            cache.put(pointer, sealed).await;
        }
        Ok(self.keep(pointer, blob))
    }

    /// Bytes of a segment that hold a blob, and others if they are not here either.
    async fn data(
        &self,
        place: &Arc<Place>,
        (offset, pointer): Lying<'_>,
        others: &[Lying<'_>],
    ) -> Result<Arc<SegmentData>, ClientError> {
        let payload = place.geometry.payload_bytes();
        let known = self.caches().segments.get(&place.id);
        if let Some(data) = known {
            return Ok(data);
        }
        let reads = self.caches().reads.get(&place.id).unwrap_or_default();
        if payload <= WHOLE_SEGMENT_BYTES || (self.everything && reads >= READS_BEFORE_WHOLE) {
            let data = Arc::new(self.fetcher.fetch(place, &[(0, payload)]).await?);
            let weight = u64::from(place.geometry.data_bytes());
            self.caches().segments.put(place.id, Arc::clone(&data), weight);
            return Ok(data);
        }
        let covers = |(id, data): &&(SegmentId, Arc<SegmentData>)| {
            *id == place.id && data.sealed(offset, pointer.sealed_bytes()).is_some()
        };
        let known = self.caches().windows.iter().find(covers).map(|(_, data)| Arc::clone(data));
        if let Some(data) = known {
            return Ok(data);
        }
        let ranges: Vec<(u32, u32)> = [&(offset, pointer)]
            .into_iter()
            .chain(others)
            .map(|(offset, pointer)| {
                let length = u32::try_from(pointer.sealed_bytes());
                length.map(|length| (*offset, length)).map_err(|error| ClientError::bug("a pointer is too long", error))
            })
            .collect::<Result<_, _>>()?;
        let data = Arc::new(self.fetcher.fetch(place, &ranges).await?);
        let mut caches = self.caches();
        caches.reads.put(place.id, reads.saturating_add(1), 1);
        if caches.windows.len() == WINDOWS_KEPT {
            caches.windows.pop_front();
        }
        caches.windows.push_back((place.id, Arc::clone(&data)));
        Ok(data)
    }
}
