//! File contents to stored segments: keys, deduplication, packing, and everything after it in flight.
//!
//! Decides what overlaps: one block is read while others are hashed and sealed, one segment is filled while others are
//! coded and sent. The order of chunks in segments is the order of the walk and depends on nothing else, so a rerun
//! over the same files makes the same segments.
//!
//! Memory: blocks and segments have budgets of their own. A segment takes all that it will ever need before its first
//! chunk, and whoever waits for a block holds none but the one that is being emptied, so nobody waits in a circle.
//! What is stored goes on to the manifest through a queue that never makes anybody wait.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use dolmen_proto::chunk::Cutter;
use dolmen_proto::ids::ChunkId;
use dolmen_proto::keys::DatasetKeys;
use dolmen_proto::limits::CHUNK_MAX_BYTES;
use dolmen_proto::manifest::{Entry, EntryKind};
use dolmen_proto::seal::{ChunkKey, Codec, chunk_key};
use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use super::compress::{Packer, Sampler};
use super::index::{ChunkIndex, Place};
use super::manifest::SegmentIds;
use super::part::{Chunk, InSegment, Part};
use super::queue::{QueueError, QueueWriter};
use super::read::{Block, Change, Reader, Step};
use super::segment::{Filling, Workshop};
use super::send::{Sender, Stored};
use crate::budget::{Budget, Pool};
use crate::cores::Cores;
use crate::error::ClientError;
use crate::options::Compression;
use crate::progress::{Progress, ProgressEvent};
use crate::report::FailedFile;

/// Blocks that the reader may be ahead by.
const BLOCKS: u64 = 3;
/// Largest block.
const BLOCK_MAX_BYTES: u64 = 8 * 1024 * 1024;
/// Batches of finds that the walk may be ahead by.
const BATCHES: usize = 4;

/// What a put has come to, counted as it goes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    pub(crate) new: u64,
    pub(crate) changed: u64,
    pub(crate) unchanged: u64,
    pub(crate) removed: u64,
    /// Plain bytes of all files, holes not counted where that is known.
    pub(crate) bytes: u64,
    /// Plain bytes of chunks that were not stored before.
    pub(crate) new_bytes: u64,
    /// Some chunk was compressed.
    pub(crate) packed: bool,
    pub(crate) failed: Vec<FailedFile>,
}

/// Why contents were not stored.
#[derive(Debug)]
pub(crate) enum ContentError {
    /// The manifest is not written any more; why, whoever writes it says.
    Gone,
    Failed(ClientError),
}

impl From<ClientError> for ContentError {
    fn from(error: ClientError) -> Self {
        Self::Failed(error)
    }
}

impl From<QueueError> for ContentError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Gone => Self::Gone,
            QueueError::File(error) => Self::Failed(ClientError::new(
                crate::error::ErrorKind::Local,
                "the list of what was stored cannot be written",
                error,
                "make room on the disk of the state folder, then run the same command again",
            )),
        }
    }
}

/// How the budget is divided: what blocks get and how large one is.
pub(crate) fn divide(budget_bytes: u64) -> (u64, u64) {
    let block = (budget_bytes / 48).clamp(CHUNK_MAX_BYTES as u64, BLOCK_MAX_BYTES);
    (block * BLOCKS, block)
}

/// Where contents go.
pub(crate) struct Outlet {
    pub(crate) workshop: Workshop,
    pub(crate) sender: Arc<Sender>,
    pub(crate) parts: QueueWriter,
    pub(crate) ids: SegmentIds,
}

/// What contents are stored with.
pub(crate) struct Contents {
    pub(crate) keys: Arc<DatasetKeys>,
    pub(crate) cores: Cores,
    /// `None` where nothing is to be stored, only counted.
    pub(crate) outlet: Option<Outlet>,
    pub(crate) compress: Compression,
    pub(crate) budget_bytes: u64,
    pub(crate) progress: Progress,
}

/// What was stored.
pub(crate) struct Done {
    pub(crate) tally: Tally,
    /// In the order of their numbers.
    pub(crate) segments: Vec<Stored>,
    pub(crate) index: ChunkIndex,
}

/// Reads, seals, codes and stores the contents of whatever is found; runs until all of it is stored.
///
/// # Errors
/// As [`Sender::send`] and as `walk`; files that fail are noted and the rest goes on.
pub(crate) async fn store(
    walk: impl FnOnce(mpsc::Sender<Vec<super::walk::Found>>) -> Result<(), ClientError> + Send + 'static,
    index: ChunkIndex,
    contents: Contents,
) -> Result<Done, ContentError> {
    let (blocks_bytes, block_bytes) = divide(contents.budget_bytes);
    let (found, finds) = mpsc::channel(BATCHES);
    let (blocks, receiver) = mpsc::channel(1);
    let walking = tokio::task::spawn_blocking(move || walk(found));
    let (runtime, seed, compress) = (Handle::current(), contents.keys.chunker_seed, contents.compress);
    let reading = tokio::task::spawn_blocking(move || {
        let (budget, pool) = (Budget::new(blocks_bytes), Pool::new());
        let block_bytes = usize::try_from(block_bytes).unwrap_or(CHUNK_MAX_BYTES);
        let (cutter, sampler) = (Cutter::new(seed), Sampler::new(compress));
        Reader { found: finds, cutter, budget, pool, block_bytes, blocks, runtime, sampler }.run();
    });
    let packing = Packing {
        keyed_ahead: contents.cores.count() + 1,
        contents,
        index,
        tally: Tally::default(),
        filling: None,
        begun: 0,
        sending: JoinSet::new(),
        ended: BTreeMap::new(),
        current: (Change::New, 0),
    };
    packing.all(receiver, walking, reading).await
}

/// A chunk that can be found, or sealed.
struct Keyed {
    key: ChunkKey,
    id: ChunkId,
    /// Its bytes compressed, when that pays.
    packed: Option<Bytes>,
}

/// The key and id of every chunk of each block, computed for several blocks at once, in order.
fn with_keys(
    blocks: mpsc::Receiver<Block>,
    contents: &Contents,
    ahead: usize,
) -> impl Stream<Item = Result<(Block, Vec<Keyed>), ClientError>> + use<> {
    let (cores, keys) = (contents.cores.clone(), Arc::clone(&contents.keys));
    let blocks = futures::stream::unfold(blocks, |mut blocks| async move { Some((blocks.recv().await?, blocks)) });
    let keyed = blocks.map(move |block| {
        let (cores, keys) = (cores.clone(), Arc::clone(&keys));
        async move {
            cores
                .run(move || {
                    let mut packer = Packer::default();
                    let mut keyed = Vec::new();
                    for step in &block.steps {
                        if let Step::Chunk { start, length, pack } = step {
                            let plain = &block.data[*start..start + length];
                            let packed = if *pack { packer.pack(plain) } else { None };
                            let key = match &packed {
                                Some(packed) => chunk_key(&keys.dedup, Codec::Zstd, packed),
                                None => chunk_key(&keys.dedup, Codec::Plain, plain),
                            };
                            keyed.push(Keyed { id: key.id(), key, packed });
                        }
                    }
                    (block, keyed)
                })
                .await
        }
    });
    keyed.buffered(ahead)
}

/// Says when it is dropped that no more ids will become known.
struct Closing(SegmentIds);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Packing {
    contents: Contents,
    index: ChunkIndex,
    keyed_ahead: usize,
    tally: Tally,
    filling: Option<Filling>,
    /// Segments begun so far.
    begun: u32,
    sending: JoinSet<Result<(u32, Stored), ClientError>>,
    /// Segments that are stored, by number.
    ended: BTreeMap<u32, Stored>,
    /// The file that is being read: what it is to the base, and its plain bytes so far.
    current: (Change, u64),
}

impl Packing {
    async fn all(
        mut self,
        blocks: mpsc::Receiver<Block>,
        walking: JoinHandle<Result<(), ClientError>>,
        reading: JoinHandle<()>,
    ) -> Result<Done, ContentError> {
        // However this ends, also when it is dropped: the manifest must not wait for what will not come.
        let _closing = self.contents.outlet.as_ref().map(|outlet| Closing(outlet.ids.clone()));
        self.pack(blocks, walking, reading).await?;
        if let Some(outlet) = self.contents.outlet {
            outlet.parts.end()?;
        }
        Ok(Done { tally: self.tally, segments: self.ended.into_values().collect(), index: self.index })
    }

    async fn pack(
        &mut self,
        blocks: mpsc::Receiver<Block>,
        walking: JoinHandle<Result<(), ClientError>>,
        reading: JoinHandle<()>,
    ) -> Result<(), ContentError> {
        let mut keyed = std::pin::pin!(with_keys(blocks, &self.contents, self.keyed_ahead));
        while let Some(block) = keyed.next().await {
            let (block, chunks) = block?;
            self.take(block, chunks).await?;
        }
        reading.await.map_err(|error| ClientError::bug("reading files failed", error))?;
        walking.await.map_err(|error| ClientError::bug("reading folders failed", error))??;
        self.close();
        while let Some(done) = self.sending.join_next().await {
            self.stored(done)?;
        }
        Ok(())
    }

    async fn take(&mut self, block: Block, keyed: Vec<Keyed>) -> Result<(), ContentError> {
        let mut keyed = keyed.into_iter();
        for step in block.steps {
            match step {
                Step::Chunk { start, length, .. } => {
                    let lost = || ClientError::bug("a chunk has no key", "counts differ");
                    let chunk = keyed.next().ok_or_else(lost)?;
                    let plain = block.data.slice(start..start + length);
                    let chunk = self.chunk(chunk, plain).await?;
                    self.part(&Part::Chunk(chunk))?;
                }
                Step::Enter(meta) => self.part(&Part::Enter(meta))?,
                Step::Leave => self.part(&Part::Leave)?,
                Step::Whole(entry) => {
                    self.tally.bytes += plain_bytes(&entry);
                    self.part(&Part::Whole(entry))?;
                }
                Step::Unchanged(entry) => {
                    self.tally.unchanged += 1;
                    let bytes = plain_bytes(&entry);
                    self.tally.bytes += bytes;
                    self.contents.progress.event(ProgressEvent::Bytes(bytes));
                    self.contents.progress.event(ProgressEvent::Files(1));
                    self.part(&Part::Whole(entry))?;
                }
                Step::Removed(files) => self.tally.removed += files,
                Step::Begin(meta, change) => {
                    self.current = (change, 0);
                    self.part(&Part::Begin(meta.name))?;
                }
                Step::Hole(length) => self.part(&Part::Hole(length))?,
                Step::End(read) => {
                    match self.current.0 {
                        Change::New => self.tally.new += 1,
                        Change::Changed => self.tally.changed += 1,
                    }
                    self.tally.bytes += self.current.1;
                    self.contents.progress.event(ProgressEvent::Files(1));
                    self.part(&Part::End(read))?;
                }
                Step::Abandon => self.part(&Part::Abandon)?,
                Step::Failed { path, reason, base } => {
                    self.tally.failed.push(FailedFile { path: path.display().to_string(), reason });
                    if let Some(entry) = base {
                        self.tally.bytes += plain_bytes(&entry);
                        self.part(&Part::Whole(entry))?;
                    }
                }
            }
        }
        if let (Some(filling), Some(outlet)) = (&mut self.filling, &self.contents.outlet) {
            filling.seal(&outlet.workshop);
        }
        while let Some(done) = self.sending.try_join_next() {
            self.stored(done)?;
        }
        Ok(())
    }

    fn part(&mut self, part: &Part) -> Result<(), ContentError> {
        match &mut self.contents.outlet {
            Some(outlet) => Ok(outlet.parts.push(&part.encode())?),
            None => Ok(()),
        }
    }

    /// Finds where a chunk lies, or gives it a place.
    async fn chunk(&mut self, chunk: Keyed, plain: Bytes) -> Result<Chunk, ContentError> {
        let bug = |error: &dyn std::fmt::Display| ClientError::bug("a chunk is too long", error);
        let Keyed { key, id, packed } = chunk;
        let plain_bytes = u32::try_from(plain.len()).map_err(|error| bug(&error))?;
        self.tally.packed |= packed.is_some();
        let bytes = packed.unwrap_or(plain);
        let length = u32::try_from(bytes.len()).map_err(|error| bug(&error))?;
        let place = match self.index.find(&id) {
            Some(place) => {
                self.contents.progress.event(ProgressEvent::Bytes(plain_bytes.into()));
                place
            }
            None => {
                self.tally.new_bytes += u64::from(plain_bytes);
                let (number, offset) = self.place(&key, id, bytes, plain_bytes).await?;
                self.index.insert(id, number, offset);
                Place { segment: InSegment::Number(number), offset }
            }
        };
        self.current.1 += u64::from(plain_bytes);
        Ok(Chunk { key, segment: place.segment, offset: place.offset, length, plain: plain_bytes })
    }

    async fn place(
        &mut self,
        key: &ChunkKey,
        id: ChunkId,
        bytes: Bytes,
        plain_bytes: u32,
    ) -> Result<(u32, u32), ContentError> {
        let Some(outlet) = &self.contents.outlet else { return Ok((0, 0)) };
        let place = self.filling.as_mut().and_then(|filling| filling.push(key, id, bytes.clone(), plain_bytes));
        let offset = match place {
            Some(offset) => offset,
            None => {
                let workshop = outlet.workshop.clone();
                self.close();
                while let Some(done) = self.sending.try_join_next() {
                    self.stored(done)?;
                }
                let mut filling = Filling::begin(&workshop).await;
                self.begun += 1;
                let offset = filling.push(key, id, bytes, plain_bytes);
                self.filling = Some(filling);
                offset.ok_or_else(|| ClientError::bug("a chunk fits no segment", "segments hold every chunk"))?
            }
        };
        Ok((self.begun - 1, offset))
    }

    /// Sends the segment that is being filled on its way.
    fn close(&mut self) {
        let (Some(filling), Some(outlet)) = (self.filling.take(), &self.contents.outlet) else { return };
        let (workshop, sender, ids) = (outlet.workshop.clone(), Arc::clone(&outlet.sender), outlet.ids.clone());
        let (number, progress) = (self.begun - 1, self.contents.progress.clone());
        self.sending.spawn(async move {
            let plain_bytes = filling.plain_bytes();
            let segment = filling.finish(&workshop).await?;
            ids.set(number, segment.id);
            let stored = sender.send(segment, u64::from(number)).await?;
            progress.event(ProgressEvent::Bytes(plain_bytes));
            Ok((number, stored))
        });
    }

    fn stored(
        &mut self,
        done: Result<Result<(u32, Stored), ClientError>, tokio::task::JoinError>,
    ) -> Result<(), ClientError> {
        let (number, stored) = done.map_err(|error| ClientError::bug("sending a segment failed", error))??;
        let missing = stored.missing();
        if missing > 0 {
            self.contents
                .progress
                .warn(format!("{missing} shards of segment {} could not be placed", stored.id.short()));
        }
        self.ended.insert(number, stored);
        Ok(())
    }
}

/// What an entry adds to the plain bytes of a snapshot.
fn plain_bytes(entry: &Entry) -> u64 {
    use dolmen_proto::manifest::{Extent, ExtentList};
    match &entry.kind {
        EntryKind::File(file) => match &file.extents {
            ExtentList::Inline(extents) => {
                let holes = |extent: &Extent| !matches!(extent, Extent::Hole { .. });
                extents.iter().filter(|extent| holes(extent)).map(Extent::length_bytes).sum()
            }
            ExtentList::Tree(_) => file.size_bytes,
        },
        EntryKind::Folder(folder) => folder.totals.bytes,
        EntryKind::Symlink { .. } => 0,
    }
}
