//! File contents to stored segments: keys, deduplication, packing, and everything after it in flight.
//!
//! Decides what overlaps: one block is read while others are hashed and sealed, one segment is filled while others are
//! coded and sent. The order of chunks in segments is the order of the walk and depends on nothing else, so a rerun
//! over the same files makes the same segments.
//!
//! Memory: blocks and segments have budgets of their own. A segment takes all that it will ever need before its first
//! chunk, and whoever waits for a block holds none but the one that is being emptied, so nobody waits in a circle.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dolmen_proto::chunk::Cutter;
use dolmen_proto::ids::ChunkId;
use dolmen_proto::limits::CHUNK_MAX_BYTES;
use dolmen_proto::seal::{ChunkKey, Codec, chunk_key};
use futures::{Stream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::read::{Block, FileRead, Reader, Step};
use super::segment::{Filling, Workshop};
use super::send::{Sender, Stored};
use super::walk::Tree;
use crate::budget::{Budget, Pool};
use crate::error::ClientError;
use crate::progress::{Progress, ProgressEvent};

/// Blocks that the reader may be ahead by.
const BLOCKS: u64 = 3;
/// Largest block.
const BLOCK_MAX_BYTES: u64 = 8 * 1024 * 1024;

/// Where a chunk lies, once its segment is stored.
#[derive(Debug, Clone)]
pub(crate) struct ChunkPlace {
    pub(crate) key: ChunkKey,
    /// Number of the segment in [`Contents::segments`].
    pub(crate) segment: u32,
    pub(crate) offset: u32,
    pub(crate) length: u32,
}

/// A piece of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Piece {
    /// Number of a chunk in [`Contents::chunks`].
    Chunk(u32),
    Hole(u64),
}

/// What became of a file.
#[derive(Debug)]
pub(crate) enum FileState {
    Read { read: FileRead, pieces: Vec<Piece> },
    Failed(String),
}

/// What a put has stored of all files.
#[derive(Debug, Default)]
pub(crate) struct Contents {
    pub(crate) chunks: Vec<ChunkPlace>,
    pub(crate) segments: Vec<Stored>,
    /// By position in the tree.
    pub(crate) files: HashMap<u32, FileState>,
}

/// How the budget is divided: what blocks get and how large one is.
pub(crate) fn divide(budget_bytes: u64) -> (u64, u64) {
    let block = (budget_bytes / 48).clamp(CHUNK_MAX_BYTES as u64, BLOCK_MAX_BYTES);
    (block * BLOCKS, block)
}

/// Reads, seals, codes and stores the contents of all files of the tree.
///
/// # Errors
/// As [`Sender::send`]; files that fail are noted and the rest goes on.
pub(crate) async fn store(
    tree: &Arc<Tree>,
    workshop: &Workshop,
    sender: &Arc<Sender>,
    budget_bytes: u64,
    progress: &Progress,
) -> Result<Contents, ClientError> {
    let (blocks_bytes, block_bytes) = divide(budget_bytes);
    let (blocks, receiver) = mpsc::channel(1);
    let reader = {
        let (tree, runtime, seed) = (Arc::clone(tree), Handle::current(), workshop.keys.chunker_seed);
        let block_bytes = usize::try_from(block_bytes).unwrap_or(CHUNK_MAX_BYTES);
        tokio::task::spawn_blocking(move || {
            let (budget, pool) = (Budget::new(blocks_bytes), Pool::new());
            Reader { tree: &tree, cutter: Cutter::new(seed), budget, pool, block_bytes, blocks, runtime }.run();
        })
    };
    let mut packing = Packing {
        workshop,
        sender,
        progress,
        contents: Contents::default(),
        by_id: HashMap::new(),
        filling: None,
        begun: 0,
        sending: JoinSet::new(),
        ended: BTreeMap::new(),
        current: None,
    };
    let mut keyed = std::pin::pin!(with_keys(receiver, workshop));
    while let Some(block) = keyed.next().await {
        let (block, keys) = block?;
        packing.take(block, &keys).await?;
    }
    reader.await.map_err(|error| ClientError::bug("reading files failed", error))?;
    packing.end().await
}

/// The key and id of every chunk of each block, computed for several blocks at once, in order.
fn with_keys(
    blocks: mpsc::Receiver<Block>,
    workshop: &Workshop,
) -> impl Stream<Item = Result<(Block, Vec<(ChunkKey, ChunkId)>), ClientError>> {
    let (cores, keys) = (workshop.cores.clone(), Arc::clone(&workshop.keys));
    let ahead = cores.count() + 1;
    let blocks = futures::stream::unfold(blocks, |mut blocks| async move { Some((blocks.recv().await?, blocks)) });
    let keyed = blocks.map(move |block| {
        let (cores, keys) = (cores.clone(), Arc::clone(&keys));
        async move {
            cores
                .run(move || {
                    let chunks = block.steps.iter().filter_map(|step| match step {
                        Step::Chunk { start, length } => {
                            let key = chunk_key(&keys.dedup, Codec::Plain, &block.data[*start..start + length]);
                            let id = key.id();
                            Some((key, id))
                        }
                        _ => None,
                    });
                    let chunks = chunks.collect();
                    (block, chunks)
                })
                .await
        }
    });
    keyed.buffered(ahead)
}

struct Packing<'a> {
    workshop: &'a Workshop,
    sender: &'a Arc<Sender>,
    progress: &'a Progress,
    contents: Contents,
    by_id: HashMap<ChunkId, u32>,
    filling: Option<Filling>,
    /// Segments begun so far.
    begun: u32,
    sending: JoinSet<Result<(u32, Stored), ClientError>>,
    /// Segments that are stored, by number.
    ended: BTreeMap<u32, Stored>,
    /// The file that is being read, with its pieces so far.
    current: Option<(u32, Vec<Piece>)>,
}

impl Packing<'_> {
    async fn take(&mut self, block: Block, keys: &[(ChunkKey, ChunkId)]) -> Result<(), ClientError> {
        let mut keys = keys.iter();
        for step in block.steps {
            match step {
                Step::Begin(file) => self.current = Some((file, Vec::new())),
                Step::Chunk { start, length } => {
                    let (key, id) =
                        keys.next().ok_or_else(|| ClientError::bug("a chunk has no key", "counts differ"))?;
                    let chunk = match self.by_id.get(id) {
                        Some(chunk) => {
                            self.progress.event(ProgressEvent::Bytes(length as u64));
                            *chunk
                        }
                        None => self.place(key, *id, block.data.slice(start..start + length)).await?,
                    };
                    self.piece(Piece::Chunk(chunk));
                }
                Step::Hole(length) => self.piece(Piece::Hole(length)),
                Step::End(read) => self.file(|pieces| FileState::Read { read, pieces }),
                Step::Failed(reason) => self.file(|_| FileState::Failed(reason)),
            }
        }
        if let Some(filling) = &mut self.filling {
            filling.seal(self.workshop);
        }
        while let Some(done) = self.sending.try_join_next() {
            self.stored(done)?;
        }
        Ok(())
    }

    fn piece(&mut self, piece: Piece) {
        if let Some((_, pieces)) = &mut self.current {
            pieces.push(piece);
        }
    }

    fn file(&mut self, state: impl FnOnce(Vec<Piece>) -> FileState) {
        if let Some((file, pieces)) = self.current.take() {
            self.contents.files.insert(file, state(pieces));
            self.progress.event(ProgressEvent::Files(1));
        }
    }

    async fn place(&mut self, key: &ChunkKey, id: ChunkId, plain: bytes::Bytes) -> Result<u32, ClientError> {
        let length = u32::try_from(plain.len()).map_err(|error| ClientError::bug("a chunk is too long", error))?;
        let place = self.filling.as_mut().and_then(|filling| filling.push(key, id, plain.clone()));
        let offset = match place {
            Some(offset) => offset,
            None => {
                self.close();
                while let Some(done) = self.sending.try_join_next() {
                    self.stored(done)?;
                }
                let mut filling = Filling::begin(self.workshop).await;
                self.begun += 1;
                let offset = filling.push(key, id, plain);
                self.filling = Some(filling);
                offset.ok_or_else(|| ClientError::bug("a chunk fits no segment", "segments hold every chunk"))?
            }
        };
        let chunk = u32::try_from(self.contents.chunks.len())
            .map_err(|_| ClientError::bug("there are too many chunks", "four thousand million in one dataset"))?;
        self.contents.chunks.push(ChunkPlace { key: key.clone(), segment: self.begun - 1, offset, length });
        self.by_id.insert(id, chunk);
        Ok(chunk)
    }

    /// Sends the segment that is being filled on its way.
    fn close(&mut self) {
        let Some(filling) = self.filling.take() else { return };
        let (workshop, sender, number) = (self.workshop.clone(), Arc::clone(self.sender), self.begun - 1);
        let progress = self.progress.clone();
        self.sending.spawn(async move {
            let plain_bytes = filling.plain_bytes();
            let segment = filling.finish(&workshop).await?;
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
            self.progress.warn(format!("{missing} shards of segment {} could not be placed", stored.id.short()));
        }
        self.ended.insert(number, stored);
        Ok(())
    }

    async fn end(mut self) -> Result<Contents, ClientError> {
        self.close();
        while let Some(done) = self.sending.join_next().await {
            self.stored(done)?;
        }
        self.contents.segments = self.ended.into_values().collect();
        Ok(self.contents)
    }
}
