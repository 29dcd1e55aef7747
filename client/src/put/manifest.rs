//! The manifest, built while contents are still on their way.
//!
//! Decides nothing: parts come in the order of the manifest, and each becomes what it is in a folder's tree. Waits for
//! the segments that a part names, on a thread that may block, and holds one unfinished blob a level of the trees.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use dolmen_proto::ids::SegmentId;
use dolmen_proto::manifest::{
    Entry, EntryKind, Extent, ExtentListBuilder, FileEntry, FolderBuilder, FolderEntry, Name,
};
use dolmen_proto::tree::BlobPointer;

use super::documents::{Sink, built};
use super::part::{Chunk, InSegment, Meta, Part};
use super::queue::{QueueError, QueueReader};
use crate::error::{ClientError, ErrorKind};

/// The ids of the segments of one put, by number, as they become known.
#[derive(Debug, Clone, Default)]
pub(crate) struct SegmentIds(Arc<Ids>);

#[derive(Debug, Default)]
struct Ids {
    known: Mutex<(Vec<Option<SegmentId>>, bool)>,
    changed: Condvar,
}

impl SegmentIds {
    fn known(&self) -> MutexGuard<'_, (Vec<Option<SegmentId>>, bool)> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says which id a segment has.
    pub(crate) fn set(&self, number: u32, id: SegmentId) {
        let mut known = self.known();
        let at = number as usize;
        if known.0.len() <= at {
            known.0.resize(at + 1, None);
        }
        known.0[at] = Some(id);
        drop(known);
        self.0.changed.notify_all();
    }

    /// The id of a segment, if it is known.
    pub(crate) fn get(&self, number: u32) -> Option<SegmentId> {
        self.known().0.get(number as usize).copied().flatten()
    }

    /// Says that no more ids will become known.
    pub(crate) fn close(&self) {
        self.known().1 = true;
        self.0.changed.notify_all();
    }

    /// Waits for a segment's id; `None` when it will not become known.
    fn wait(&self, number: u32) -> Option<SegmentId> {
        let mut known = self.known();
        loop {
            match known.0.get(number as usize).copied().flatten() {
                Some(id) => return Some(id),
                None if known.1 => return None,
                None => known = self.0.changed.wait(known).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

/// Why no manifest was built.
#[derive(Debug)]
pub(crate) enum ManifestError {
    /// The contents were not stored; why, whoever stores them says.
    Gone,
    Failed(ClientError),
}

impl From<ClientError> for ManifestError {
    fn from(error: ClientError) -> Self {
        Self::Failed(error)
    }
}

struct Level {
    folder: FolderBuilder,
    /// What the folder is in the one above; `None` for the root.
    meta: Option<Meta>,
}

struct Open {
    name: Name,
    extents: ExtentListBuilder,
}

/// Builds the folders that the queue's parts describe; gives the root, its pointer under the sink's provisional id.
/// Blocks the thread.
///
/// # Errors
/// `Gone` when the parts end early, else the sink's failure.
pub(crate) fn build(mut parts: QueueReader, ids: &SegmentIds, sink: &mut Sink) -> Result<FolderEntry, ManifestError> {
    let mut levels = vec![Level { folder: FolderBuilder::new(), meta: None }];
    let mut open: Option<Open> = None;
    loop {
        let part = match parts.next() {
            Ok(Some(record)) => Part::decode(record).map_err(|error| lost(&error))?,
            Ok(None) => break,
            Err(QueueError::Gone) => return Err(ManifestError::Gone),
            Err(QueueError::File(error)) => return Err(lost(&error).into()),
        };
        let Some(level) = levels.last_mut() else { return Err(out_of_order().into()) };
        match part {
            Part::Enter(meta) => levels.push(Level { folder: FolderBuilder::new(), meta: Some(meta) }),
            Part::Leave => {
                let (Some(below), Some(above)) = (levels.pop(), levels.last_mut()) else {
                    return Err(out_of_order().into());
                };
                let folder = below.folder.finish(sink).map_err(built)?;
                let meta = below.meta.ok_or_else(out_of_order)?;
                let entry = Entry::new(meta.name, meta.mode, meta.mtime_ns, EntryKind::Folder(folder));
                above.folder.push(entry, sink).map_err(built)?;
            }
            Part::Whole(entry) => level.folder.push(*entry, sink).map_err(built)?,
            Part::Begin(name) => open = Some(Open { name, extents: ExtentListBuilder::new() }),
            Part::Chunk(chunk) => {
                let extent = extent(chunk, ids)?;
                let file = open.as_mut().ok_or_else(out_of_order)?;
                file.extents.push(extent, sink).map_err(built)?;
            }
            Part::Hole(length_bytes) => {
                let file = open.as_mut().ok_or_else(out_of_order)?;
                file.extents.push(Extent::Hole { length_bytes }, sink).map_err(built)?;
            }
            Part::End(read) => {
                let file = open.take().ok_or_else(out_of_order)?;
                let extents = file.extents.finish(sink).map_err(built)?;
                let kind = FileEntry { size_bytes: read.size, hash: Some(read.hash), extents };
                let entry = Entry::new(file.name, read.mode, read.mtime_ns, EntryKind::File(kind));
                level.folder.push(entry, sink).map_err(built)?;
            }
            Part::Abandon => open = None,
        }
    }
    match (levels.pop(), levels.is_empty()) {
        (Some(root), true) => Ok(root.folder.finish(sink).map_err(built)?),
        _ => Err(out_of_order().into()),
    }
}

fn extent(chunk: Chunk, ids: &SegmentIds) -> Result<Extent, ManifestError> {
    let segment = match chunk.segment {
        InSegment::Id(id) => id,
        InSegment::Number(number) => ids.wait(number).ok_or(ManifestError::Gone)?,
    };
    let pointer = BlobPointer { key: chunk.key, segment, offset: chunk.offset, length: chunk.length };
    // A chunk that was compressed is smaller than it was, always.
    Ok(if chunk.length == chunk.plain {
        Extent::Chunk(pointer)
    } else {
        Extent::Compressed { pointer, plain_bytes: chunk.plain }
    })
}

fn out_of_order() -> ClientError {
    ClientError::bug("could not write the manifest", "its parts are out of order")
}

fn lost(error: &dyn std::fmt::Display) -> ClientError {
    let advice = "check the disk of the state folder, then run the same command again";
    ClientError::new(ErrorKind::Local, "the list of what was stored cannot be read back", error, advice)
}
