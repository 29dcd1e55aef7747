//! Where chunks lie that need not be stored again.
//!
//! Decides which chunks count: those of segments that are live in the base that a put extends, and those of this put.
//! What the index says of a chunk never becomes wrong, for a segment's id covers its contents; it may become useless
//! or be incomplete, which costs bytes, never data. So its file is disposable: one that is missing, of another version
//! or damaged is made anew, and one that fails while it is used is not used any more. A chunk that was moved is found
//! where it lies now, so that new snapshots do not depend on its having been elsewhere.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};

use dolmen_proto::ids::{ChunkId, SegmentId, SnapshotId};
use dolmen_proto::table::ForwardRow;
use dolmen_proto::tree::BlobPointer;
use redb::backends::FileBackend;
use redb::{Database, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction};

use super::part::InSegment;
use super::queue::unnamed;

/// Chunks that wait in memory before they are written together.
const FRESH_MAX: usize = 128 * 1024;
/// Chunks that are moved at a time.
const MOVED_AT_ONCE: usize = 64 * 1024;
/// What a database may keep in memory.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Chunk id to the segment's id and the offset there, little endian.
const CHUNKS: TableDefinition<'static, &'static [u8; 32], &'static [u8; 36]> = TableDefinition::new("chunks 1");
/// Chunk id to the number of a segment of this put in the upper half and the offset there in the lower.
const RUN: TableDefinition<'static, &'static [u8; 32], u64> = TableDefinition::new("run");
/// The segment and offset that a moved chunk had to the ones it has now.
const MOVED: TableDefinition<'static, &'static [u8; 36], &'static [u8; 36]> = TableDefinition::new("moved 1");
/// Of the forwarding rows that are in the table of moved chunks.
const MOVES: TableDefinition<'static, u8, &'static [u8; 32]> = TableDefinition::new("moves 1");
/// Of the snapshot all of whose chunks are in the index.
const COMPLETE: TableDefinition<'static, u8, &'static [u8; 32]> = TableDefinition::new("complete 1");

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) segment: InSegment,
    pub(crate) offset: u32,
}

/// Chunks by their ids.
#[derive(Debug)]
pub(crate) struct ChunkIndex {
    run: Run,
    dataset: Option<Dataset>,
}

impl ChunkIndex {
    /// An index of nothing, which ends with the put; `scratch` is a folder for it when it is too large for memory.
    pub(crate) fn temporary(scratch: &Path) -> Self {
        Self { run: Run { scratch: scratch.to_path_buf(), fresh: HashMap::new(), spilled: None }, dataset: None }
    }

    /// The index of a dataset, in a file. One that cannot be used is made anew; where that fails, or another put has it
    /// open, the index is one that ends with the put.
    pub(crate) fn open(path: &Path, scratch: &Path) -> Self {
        let opened = Dataset::open(path).or_else(|error| {
            // Not the file's fault: another process has it.
            if matches!(error, redb::Error::DatabaseAlreadyOpen) {
                return Err(error);
            }
            tracing::debug!(%error, "the chunk index is made anew");
            let _ = fs::remove_file(path);
            Dataset::open(path)
        });
        let unshared = |error: redb::Error| {
            tracing::debug!(%error, "a chunk index of this put alone is used");
            Dataset::unnamed(scratch)
        };
        let dataset = opened.or_else(unshared).inspect_err(|error| tracing::debug!(%error, "no chunk index is used"));
        Self { dataset: dataset.ok(), ..Self::temporary(scratch) }
    }

    /// Has an index that has all chunks of one snapshot say so of another, which has no others.
    pub(crate) fn carry_on(path: &Path, scratch: &Path, from: &SnapshotId, to: &SnapshotId) {
        if path.exists() {
            let mut index = Self::open(path, scratch);
            if index.is_complete(from) {
                index.complete(to);
            }
        }
    }

    /// Whether all chunks of this snapshot are in it.
    pub(crate) fn is_complete(&self, snapshot: &SnapshotId) -> bool {
        self.dataset.as_ref().is_some_and(|dataset| dataset.is_complete(snapshot).unwrap_or(false))
    }

    /// Notes a chunk of a segment of the base.
    pub(crate) fn learn(&mut self, id: ChunkId, segment: SegmentId, offset: u32) {
        let learned = self.dataset.as_mut().map(|dataset| dataset.learn(id, segment, offset));
        self.checked(learned.unwrap_or(Ok(())));
    }

    /// Says that a segment of the base is live: only then its chunks count.
    pub(crate) fn live(&mut self, segment: SegmentId) {
        if let Some(dataset) = &mut self.dataset {
            dataset.live.insert(short(&segment));
        }
    }

    /// Whether it knows all that this tree of forwarding rows says.
    pub(crate) fn follows(&self, forwards: &BlobPointer) -> bool {
        self.dataset.as_ref().is_none_or(|dataset| dataset.follows(forwards).unwrap_or(false))
    }

    /// Forgets which chunks were moved, to be told anew.
    pub(crate) fn forget_moves(&mut self) {
        let forgotten = self.dataset.as_mut().map(Dataset::forget_moves);
        self.checked(forgotten.unwrap_or(Ok(())));
    }

    /// Notes chunks that lie elsewhere now: they count though the segment that names them is not live.
    pub(crate) fn moved(&mut self, rows: &[ForwardRow]) {
        let noted = self.dataset.as_mut().map(|dataset| dataset.moved(rows));
        self.checked(noted.unwrap_or(Ok(())));
    }

    /// Says that all rows of this tree have been noted.
    pub(crate) fn followed(&mut self, forwards: &BlobPointer) {
        let noted = self.dataset.as_mut().map(|dataset| dataset.followed(forwards));
        self.checked(noted.unwrap_or(Ok(())));
    }

    /// Says that all chunks of a snapshot have been learned.
    pub(crate) fn complete(&mut self, snapshot: &SnapshotId) {
        let written = self.dataset.as_mut().map(|dataset| dataset.write(Some(snapshot)));
        self.checked(written.unwrap_or(Ok(())));
    }

    /// Where a chunk lies, if it does and its segment counts.
    pub(crate) fn find(&mut self, id: &ChunkId) -> Option<Place> {
        if let Some(place) = self.run.find(id) {
            return Some(place);
        }
        let found = self.dataset.as_ref().map(|dataset| dataset.find(id));
        self.checked(found.unwrap_or(Ok(None)))?
    }

    /// Notes a chunk of the segment of this put with this number.
    pub(crate) fn insert(&mut self, id: ChunkId, number: u32, offset: u32) {
        self.run.insert(id, number, offset);
    }

    /// Keeps what was learned of this put, whose segments have these ids, now that its snapshot is the newest.
    pub(crate) fn keep(&mut self, ids: impl Fn(u32) -> Option<SegmentId>, snapshot: &SnapshotId) {
        let Some(dataset) = &mut self.dataset else { return };
        let kept = self.run.each(|id, (number, offset)| match ids(number) {
            Some(segment) => dataset.learn(id, segment, offset),
            None => Ok(()),
        });
        let kept = kept.and_then(|()| dataset.write(Some(snapshot)));
        self.checked(kept);
    }

    /// What was asked for; after a failure the dataset's index is not used any more, and made anew the next time.
    fn checked<T>(&mut self, result: Result<T, redb::Error>) -> Option<T> {
        result
            .inspect_err(|error| {
                tracing::debug!(%error, "the chunk index failed");
                if let Some(Dataset { path: Some(path), .. }) = self.dataset.take() {
                    let _ = fs::remove_file(path);
                }
            })
            .ok()
    }
}

fn place(segment: SegmentId, offset: u32) -> [u8; 36] {
    let mut place = [0; 36];
    place[..32].copy_from_slice(segment.as_bytes());
    place[32..].copy_from_slice(&offset.to_le_bytes());
    place
}

fn placed(place: &[u8; 36]) -> (SegmentId, u32) {
    let (segment, offset) = place.split_first_chunk::<32>().unwrap_or((&[0; 32], &[]));
    (SegmentId::new(*segment), u32::from_le_bytes(offset.try_into().unwrap_or_default()))
}

/// Tells one tree of forwarding rows from another, and nothing of its key.
fn tree_name(forwards: &BlobPointer) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(forwards.key.expose()).update(forwards.segment.as_bytes());
    hasher.update(&forwards.offset.to_le_bytes()).update(&forwards.length.to_le_bytes());
    *hasher.finalize().as_bytes()
}

fn short(segment: &SegmentId) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *segment.as_bytes();
    u64::from_le_bytes([a, b, c, d, e, f, g, h])
}

fn builder() -> redb::Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// A database that ends with this process.
fn private(scratch: &Path) -> Result<Database, redb::Error> {
    Ok(builder().create_with_backend(FileBackend::new(unnamed(scratch)?)?)?)
}

/// Chunks of this put.
struct Run {
    scratch: PathBuf,
    /// Number of the segment and offset.
    fresh: HashMap<ChunkId, (u32, u32)>,
    spilled: Option<Spilled>,
}

struct Spilled {
    database: Database,
    chunks: ReadOnlyTable<&'static [u8; 32], u64>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Run(..)")
    }
}

fn unpack(value: u64) -> (u32, u32) {
    let [a, b, c, d, e, f, g, h] = value.to_be_bytes();
    (u32::from_be_bytes([a, b, c, d]), u32::from_be_bytes([e, f, g, h]))
}

impl Run {
    fn find(&mut self, id: &ChunkId) -> Option<Place> {
        let place = |(number, offset)| Place { segment: InSegment::Number(number), offset };
        if let Some(found) = self.fresh.get(id) {
            return Some(place(*found));
        }
        match self.spilled.as_ref()?.chunks.get(id.as_bytes()) {
            Ok(found) => found.map(|value| place(unpack(value.value()))),
            Err(error) => {
                tracing::debug!(%error, "the chunk index failed");
                self.spilled = None;
                None
            }
        }
    }

    fn insert(&mut self, id: ChunkId, number: u32, offset: u32) {
        self.fresh.insert(id, (number, offset));
        if self.fresh.len() >= FRESH_MAX
            && let Err(error) = self.spill()
        {
            // Chunks are forgotten, and stored again when they come again.
            tracing::debug!(%error, "the chunk index failed");
            self.spilled = None;
            self.fresh.clear();
        }
    }

    fn spill(&mut self) -> Result<(), redb::Error> {
        let database = match self.spilled.take() {
            Some(spilled) => spilled.database,
            None => private(&self.scratch)?,
        };
        let mut chunks: Vec<(ChunkId, (u32, u32))> = self.fresh.drain().collect();
        chunks.sort_unstable();
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::None)?;
        {
            let mut table = transaction.open_table(RUN)?;
            for (id, (number, offset)) in chunks {
                table.insert(id.as_bytes(), u64::from(number) << 32 | u64::from(offset))?;
            }
        }
        transaction.commit()?;
        let chunks = database.begin_read()?.open_table(RUN)?;
        self.spilled = Some(Spilled { database, chunks });
        Ok(())
    }

    /// Shows every chunk, in no order of consequence.
    fn each(&self, mut visit: impl FnMut(ChunkId, (u32, u32)) -> Result<(), redb::Error>) -> Result<(), redb::Error> {
        if let Some(spilled) = &self.spilled {
            for entry in spilled.chunks.iter()? {
                let (id, value) = entry?;
                visit(ChunkId::new(*id.value()), unpack(value.value()))?;
            }
        }
        self.fresh.iter().try_for_each(|(id, place)| visit(*id, *place))
    }
}

/// Chunks of a dataset, from one put to the next.
struct Dataset {
    path: Option<PathBuf>,
    database: Database,
    chunks: ReadOnlyTable<&'static [u8; 32], &'static [u8; 36]>,
    moved: ReadOnlyTable<&'static [u8; 36], &'static [u8; 36]>,
    /// The beginnings of the ids of live segments: they are hashes.
    live: HashSet<u64>,
    /// Chunks that are not in the database yet.
    fresh: Vec<(ChunkId, [u8; 36])>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Dataset(..)")
    }
}

impl Dataset {
    fn open(path: &Path) -> Result<Self, redb::Error> {
        Self::over(builder().create(path)?, Some(path.to_path_buf()))
    }

    fn unnamed(scratch: &Path) -> Result<Self, redb::Error> {
        Self::over(private(scratch)?, None)
    }

    fn over(database: Database, path: Option<PathBuf>) -> Result<Self, redb::Error> {
        let transaction = database.begin_write()?;
        transaction.open_table(CHUNKS)?;
        transaction.open_table(MOVED)?;
        transaction.open_table(MOVES)?;
        transaction.open_table(COMPLETE)?;
        transaction.commit()?;
        let read = database.begin_read()?;
        let (chunks, moved) = (read.open_table(CHUNKS)?, read.open_table(MOVED)?);
        Ok(Self { path, database, chunks, moved, live: HashSet::new(), fresh: Vec::new() })
    }

    fn is_complete(&self, snapshot: &SnapshotId) -> Result<bool, redb::Error> {
        let found = self.database.begin_read()?.open_table(COMPLETE)?.get(0)?;
        Ok(found.is_some_and(|id| id.value() == snapshot.as_bytes()))
    }

    fn find(&self, id: &ChunkId) -> Result<Option<Place>, redb::Error> {
        let Some(value) = self.chunks.get(id.as_bytes())? else { return Ok(None) };
        let is_live = |(segment, _): &(SegmentId, u32)| self.live.contains(&short(segment));
        let named = Some(placed(value.value())).filter(is_live);
        let lies = match named {
            None => self.moved.get(value.value())?.map(|to| placed(to.value())).filter(is_live),
            named => named,
        };
        Ok(lies.map(|(segment, offset)| Place { segment: InSegment::Id(segment), offset }))
    }

    fn learn(&mut self, id: ChunkId, segment: SegmentId, offset: u32) -> Result<(), redb::Error> {
        self.fresh.push((id, place(segment, offset)));
        if self.fresh.len() >= MOVED_AT_ONCE { self.write(None) } else { Ok(()) }
    }

    fn follows(&self, forwards: &BlobPointer) -> Result<bool, redb::Error> {
        let found = self.database.begin_read()?.open_table(MOVES)?.get(0)?;
        Ok(found.is_some_and(|name| *name.value() == tree_name(forwards)))
    }

    fn forget_moves(&mut self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.delete_table(MOVES)?;
        transaction.delete_table(MOVED)?;
        transaction.open_table(MOVES)?;
        transaction.open_table(MOVED)?;
        self.commit(transaction)
    }

    fn moved(&mut self, rows: &[ForwardRow]) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        // What is lost of it is read again: only a table that is said to be whole is used from one put to the next.
        transaction.set_durability(Durability::None)?;
        {
            let mut table = transaction.open_table(MOVED)?;
            for row in rows {
                table.insert(&place(row.segment, row.offset), &place(row.to_segment, row.to_offset))?;
            }
        }
        self.commit(transaction)
    }

    fn followed(&mut self, forwards: &BlobPointer) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        transaction.open_table(MOVES)?.insert(0, &tree_name(forwards))?;
        self.commit(transaction)
    }

    fn commit(&mut self, transaction: WriteTransaction) -> Result<(), redb::Error> {
        transaction.commit()?;
        let read = self.database.begin_read()?;
        (self.chunks, self.moved) = (read.open_table(CHUNKS)?, read.open_table(MOVED)?);
        Ok(())
    }

    /// Writes what waits, and which snapshot the index is complete for if that has changed.
    fn write(&mut self, complete: Option<&SnapshotId>) -> Result<(), redb::Error> {
        self.fresh.sort_unstable();
        let transaction = self.database.begin_write()?;
        {
            let mut table = transaction.open_table(CHUNKS)?;
            for (id, value) in self.fresh.drain(..) {
                table.insert(id.as_bytes(), &value)?;
            }
            if let Some(snapshot) = complete {
                transaction.open_table(COMPLETE)?.insert(0, snapshot.as_bytes())?;
            }
        }
        self.commit(transaction)
    }
}

#[cfg(test)]
mod tests {
    use dolmen_proto::seal::ChunkKey;

    use super::*;

    fn chunk(number: u32) -> ChunkId {
        ChunkId::new(*blake3::hash(&number.to_le_bytes()).as_bytes())
    }

    fn segment(number: u8) -> SegmentId {
        SegmentId::new([number; 32])
    }

    #[test]
    fn chunks_of_this_put_are_found_when_they_are_more_than_memory_holds() {
        let folder = tempfile::tempdir().unwrap();
        let mut index = ChunkIndex::temporary(folder.path());
        let count = u32::try_from(FRESH_MAX).unwrap() * 2 + 10;
        for number in 0..count {
            assert_eq!(index.find(&chunk(number)), None);
            index.insert(chunk(number), number / 1000, number);
        }
        assert!(index.run.spilled.is_some() && index.run.fresh.len() == 10);
        for number in (0..count).step_by(997) {
            let place = Place { segment: InSegment::Number(number / 1000), offset: number };
            assert_eq!(index.find(&chunk(number)), Some(place));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is left of it");
    }

    #[test]
    fn a_dataset_remembers_from_put_to_put_and_only_live_segments_count() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let (one, two) = (SnapshotId::new([1; 32]), SnapshotId::new([2; 32]));
        let mut index = ChunkIndex::open(&path, folder.path());
        index.learn(chunk(1), segment(1), 11);
        index.complete(&one);
        index.insert(chunk(2), 0, 22);
        index.insert(chunk(3), 1, 33);
        assert!(index.is_complete(&one) && !index.is_complete(&two));
        assert_eq!(index.find(&chunk(1)), None, "nothing says that its segment is live");
        index.keep(|number| (number == 0).then_some(segment(2)), &two);
        // Another put at the same time has an index of its own.
        assert!(!ChunkIndex::open(&path, folder.path()).is_complete(&two));
        drop(index);
        let mut index = ChunkIndex::open(&path, folder.path());
        assert!(index.is_complete(&two));
        index.live(segment(2));
        assert_eq!(index.find(&chunk(2)), Some(Place { segment: InSegment::Id(segment(2)), offset: 22 }));
        assert_eq!((index.find(&chunk(1)), index.find(&chunk(3))), (None, None));
    }

    #[test]
    fn moved_chunks_are_found_where_they_lie_now_until_other_moves_are_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let row = |offset, to: u8, to_offset| ForwardRow {
            segment: segment(1),
            offset,
            sealed_bytes: 20,
            to_segment: segment(to),
            to_offset,
        };
        let tree =
            |number: u8| BlobPointer { key: ChunkKey::new([number; 32]), segment: segment(9), offset: 0, length: 1000 };
        let mut index = ChunkIndex::open(&path, folder.path());
        index.learn(chunk(1), segment(1), 11);
        index.learn(chunk(2), segment(1), 31);
        index.complete(&SnapshotId::new([1; 32]));
        index.live(segment(2));
        assert!(!index.follows(&tree(1)));
        index.forget_moves();
        index.moved(&[row(10, 2, 5)]);
        assert_eq!(index.find(&chunk(1)), None, "another chunk of that segment was moved");
        index.moved(&[row(11, 2, 25), row(31, 3, 45)]);
        index.followed(&tree(1));
        let there = Some(Place { segment: InSegment::Id(segment(2)), offset: 25 });
        assert_eq!((index.find(&chunk(1)), index.find(&chunk(2))), (there, None), "segment 3 is not live");
        drop(index);
        let mut index = ChunkIndex::open(&path, folder.path());
        assert!(index.follows(&tree(1)) && !index.follows(&tree(2)));
        index.live(segment(2));
        assert_eq!(index.find(&chunk(1)), there, "from one put to the next");
        index.live(segment(1));
        let named = Some(Place { segment: InSegment::Id(segment(1)), offset: 11 });
        assert_eq!(index.find(&chunk(1)), named, "a live segment has what it is said to have");
        index.forget_moves();
        assert!(!index.follows(&tree(1)));
        drop(index);
        let mut index = ChunkIndex::open(&path, folder.path());
        index.live(segment(2));
        assert_eq!(index.find(&chunk(1)), None);
    }

    #[test]
    fn a_damaged_file_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let one = SnapshotId::new([1; 32]);
        for damage in [&b""[..], b"not a database", &[0xff; 5000]] {
            fs::write(&path, damage).unwrap();
            let mut index = ChunkIndex::open(&path, folder.path());
            assert!(!index.is_complete(&one));
            index.learn(chunk(1), segment(1), 11);
            index.live(segment(1));
            index.complete(&one);
            assert!(index.find(&chunk(1)).is_some());
            drop(index);
            assert!(ChunkIndex::open(&path, folder.path()).is_complete(&one));
        }
    }
}
