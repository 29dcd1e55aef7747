//! A dataset opened through a link: its table, its snapshot, its folders.
//!
//! Decides how documents are looked up and what of them is kept in memory: a few segments and rows, whatever the
//! dataset's size. Never decides what a document means: `dolmen-proto` does, and it checks every blob.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};

use dolmen_proto::codec::DocumentError;
use dolmen_proto::head::ReadBody;
use dolmen_proto::ids::SegmentId;
use dolmen_proto::link::Link;
use dolmen_proto::manifest::{
    Entry, EntryKind, ExtentList, ExtentWalk, FileEntry, FolderEntry, FolderWalk, Name, PlacedExtent, Snapshot,
};
use dolmen_proto::table::{Rows, SegmentRow, TableRoot};
use dolmen_proto::tree::BlobPointer;

use super::fetch::Fetcher;
use super::segment::{Place, SegmentData};
use crate::budget::Budget;
use crate::cores::Cores;
use crate::error::{ClientError, ErrorKind};
use crate::heads;
use crate::network::Nodes;

/// Document segments up to this are read whole and kept: one read serves all blobs of a small dataset.
const WHOLE_DOCUMENT_BYTES: u32 = 1024 * 1024;
/// Whole document segments that are kept.
const SEGMENTS_KEPT: usize = 2;
/// Opened blobs that are kept.
const BLOBS_KEPT: usize = 64;
/// Places of segments that are kept.
const PLACES_KEPT: usize = 4096;

/// The newest things used, up to a number.
struct Kept<K, V> {
    map: HashMap<K, V>,
    order: VecDeque<K>,
    most: usize,
}

impl<K: Hash + Eq + Copy, V: Clone> Kept<K, V> {
    fn new(most: usize) -> Self {
        Self { map: HashMap::new(), order: VecDeque::new(), most }
    }

    fn get(&self, key: &K) -> Option<V> {
        self.map.get(key).cloned()
    }

    fn put(&mut self, key: K, value: V) {
        if self.map.insert(key, value).is_none() {
            self.order.push_back(key);
        }
        while self.order.len() > self.most {
            if let Some(oldest) = self.order.pop_front() {
                self.map.remove(&oldest);
            }
        }
    }
}

struct Caches {
    segments: Kept<SegmentId, Arc<SegmentData>>,
    blobs: Kept<(SegmentId, u32), Arc<Vec<u8>>>,
    places: Kept<SegmentId, Arc<Place>>,
}

/// A dataset that can be read. Clones share caches.
#[derive(Clone)]
pub(crate) struct Dataset {
    nodes: Nodes,
    /// For documents.
    fetcher: Fetcher,
    /// For file contents.
    contents: Fetcher,
    pub(crate) body: Arc<ReadBody>,
    table: Arc<TableRoot>,
    table_place: Arc<Place>,
    caches: Arc<Mutex<Caches>>,
    /// All of the manifest will be read, so its segments are read whole.
    everything: bool,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Dataset(..)")
    }
}

/// A folder that is being read.
pub(crate) struct Folder {
    walk: FolderWalk,
}

/// The extents of a file that are being read.
pub(crate) enum Extents {
    Inline(Vec<PlacedExtent>),
    Tree(Box<ExtentWalk>),
}

fn damaged(error: &DocumentError) -> ClientError {
    match error {
        DocumentError::Needs { .. } | DocumentError::Version { .. } => ClientError::new(
            ErrorKind::Refused,
            "this release cannot read the dataset",
            error,
            "use the release that the message names, or a newer one",
        ),
        _ => ClientError::new(
            ErrorKind::Damaged,
            "the dataset's documents are damaged",
            error,
            "what was uploaded is damaged in itself: ask the dataset's owner",
        ),
    }
}

impl Dataset {
    /// Reads head and table root. `everything`: the whole manifest will be read.
    ///
    /// # Errors
    /// As [`heads::read`]; `Damaged` or `NotNow` when documents cannot be read.
    pub(crate) async fn open(
        nodes: &Nodes,
        cores: &Cores,
        budget_bytes: u64,
        link: &Link,
        everything: bool,
    ) -> Result<Self, ClientError> {
        let body = heads::read(nodes, link).await?;
        // Documents are kept between reads, so they must not share a budget with contents that wait for memory: what is
        // kept is bounded by number instead.
        let fetcher = Fetcher::new(nodes.clone(), cores.clone(), Budget::new(u64::MAX), body.mask_secret.clone());
        let contents = fetcher.with_budget(Budget::new(budget_bytes));
        let table_place = Arc::new(Place::of_head(&body.table.segment, nodes));
        let mut out = Vec::new();
        let pointer = body.table.root();
        let data = fetcher.fetch(&table_place, &[range(&pointer)?]).await?;
        let length = data.open(&pointer, &mut out)?;
        let table = TableRoot::parse(&out[..length], pointer.segment).map_err(|error| damaged(&error))?;
        let caches =
            Caches { segments: Kept::new(SEGMENTS_KEPT), blobs: Kept::new(BLOBS_KEPT), places: Kept::new(PLACES_KEPT) };
        Ok(Self {
            nodes: nodes.clone(),
            fetcher,
            contents,
            table: Arc::new(table),
            table_place,
            body: Arc::new(body),
            caches: Arc::new(Mutex::new(caches)),
            everything,
        })
    }

    /// Reads the root of the snapshot.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, ClientError> {
        let pointer = &self.body.snapshot;
        let blob = self.blob(pointer).await?;
        Snapshot::parse(&blob, pointer.segment).map_err(|error| damaged(&error))
    }

    /// Fetches file contents within the memory budget.
    pub(crate) fn contents(&self) -> &Fetcher {
        &self.contents
    }

    fn caches(&self) -> std::sync::MutexGuard<'_, Caches> {
        self.caches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads and opens a blob.
    async fn blob(&self, pointer: &BlobPointer) -> Result<Arc<Vec<u8>>, ClientError> {
        let key = (pointer.segment, pointer.offset);
        let known = self.caches().blobs.get(&key);
        if let Some(blob) = known {
            return Ok(blob);
        }
        let place = Box::pin(self.place(pointer.segment)).await?;
        self.blob_at(&place, pointer).await
    }

    async fn blob_at(&self, place: &Arc<Place>, pointer: &BlobPointer) -> Result<Arc<Vec<u8>>, ClientError> {
        let payload = place.geometry.payload_bytes();
        let data = if self.everything || payload <= WHOLE_DOCUMENT_BYTES {
            let known = self.caches().segments.get(&place.id);
            match known {
                Some(data) => data,
                None => {
                    let data = Arc::new(self.fetcher.fetch(place, &[(0, payload)]).await?);
                    self.caches().segments.put(place.id, Arc::clone(&data));
                    data
                }
            }
        } else {
            Arc::new(self.fetcher.fetch(place, &[range(pointer)?]).await?)
        };
        let mut blob = Vec::new();
        let length = data.open(pointer, &mut blob)?;
        blob.truncate(length);
        let blob = Arc::new(blob);
        self.caches().blobs.put((pointer.segment, pointer.offset), Arc::clone(&blob));
        Ok(blob)
    }

    /// Where a segment's shards are.
    ///
    /// # Errors
    /// `Damaged` when the table does not have it.
    pub(crate) async fn place(&self, id: SegmentId) -> Result<Arc<Place>, ClientError> {
        if id == self.table_place.id {
            return Ok(Arc::clone(&self.table_place));
        }
        let known = self.caches().places.get(&id);
        if let Some(place) = known {
            return Ok(place);
        }
        let place = match self.table.inline_row(id) {
            Some(row) => self.place_of(row)?,
            None => self.search(id).await?,
        };
        self.caches().places.put(id, Arc::clone(&place));
        Ok(place)
    }

    fn place_of(&self, row: &SegmentRow) -> Result<Arc<Place>, ClientError> {
        let holders = self.table.holders(row).map_err(|error| damaged(&error))?;
        Ok(Arc::new(Place::of_row(row, &holders, &self.nodes)))
    }

    /// Finds a row in the tree of rows; what lies around it is kept, since it is likely to be asked for next.
    async fn search(&self, id: SegmentId) -> Result<Arc<Place>, ClientError> {
        let mut found = None;
        if let Some(mut walk) = self.table.rows.walk() {
            walk.seek(&id);
            while let Some(pointer) = walk.wanted().cloned() {
                let blob = self.table_blob(&pointer).await?;
                let rows = walk.supply(&blob).map_err(|error| damaged(&error))?;
                if !rows.is_empty() {
                    for row in &rows {
                        let place = self.place_of(row)?;
                        if row.id() == id {
                            found = Some(Arc::clone(&place));
                        }
                        self.caches().places.put(row.id(), place);
                    }
                    break;
                }
                walk.seek(&id);
            }
        }
        found.ok_or_else(|| {
            ClientError::new(
                ErrorKind::Damaged,
                format!("segment {} is not in the dataset's table", id.short()),
                "the manifest names a segment that the table does not have",
                "what was uploaded is damaged in itself: ask the dataset's owner",
            )
        })
    }

    /// A blob of the table's own trees, which lie in segments that the table's root names.
    async fn table_blob(&self, pointer: &BlobPointer) -> Result<Arc<Vec<u8>>, ClientError> {
        let place = if pointer.segment == self.table_place.id {
            Arc::clone(&self.table_place)
        } else {
            let row = self
                .table
                .inline_row(pointer.segment)
                .ok_or_else(|| damaged(&DocumentError::SelfPointer { what: "a table's tree" }))?;
            self.place_of(row)?
        };
        self.blob_at(&place, pointer).await
    }

    /// Shows `visit` the place of every segment: content, documents, the table's own.
    ///
    /// # Errors
    /// As [`Dataset::place`].
    pub(crate) async fn every_place(&self, mut visit: impl FnMut(Arc<Place>)) -> Result<(), ClientError> {
        visit(Arc::clone(&self.table_place));
        for row in &self.table.further {
            visit(self.place_of(row)?);
        }
        if let Rows::Inline(rows) = &self.table.rows {
            for row in rows {
                visit(self.place_of(row)?);
            }
        }
        if let Some(mut walk) = self.table.rows.walk() {
            while let Some(pointer) = walk.wanted().cloned() {
                let blob = self.table_blob(&pointer).await?;
                for row in walk.supply(&blob).map_err(|error| damaged(&error))? {
                    visit(self.place_of(&row)?);
                }
            }
        }
        Ok(())
    }

    /// The entry at a path (components separated by slashes); `None` for the root itself.
    ///
    /// # Errors
    /// `NotFound` when there is none.
    pub(crate) async fn entry(&self, path: &[u8]) -> Result<Option<Entry>, ClientError> {
        let shown = String::from_utf8_lossy(path).into_owned();
        let missing = |why: String| {
            ClientError::new(
                ErrorKind::NotFound,
                format!("{shown:?} is not in the snapshot"),
                why,
                "list it with `dolmen ls`",
            )
        };
        let mut folder = self.snapshot().await?.root;
        let mut found = None;
        for component in path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()) {
            if let Some(Entry { kind, .. }) = &found {
                match kind {
                    EntryKind::Folder(below) => folder = below.clone(),
                    EntryKind::File(_) | EntryKind::Symlink { .. } => {
                        return Err(missing("a file or link stands in the middle of the path".to_owned()));
                    }
                }
            }
            let name = Name::new(component).map_err(|error| missing(format!("a component {error}")))?;
            let entry = self.lookup(&folder, &name).await?;
            found =
                Some(entry.ok_or_else(|| missing(format!("there is no {:?}", String::from_utf8_lossy(component))))?);
        }
        Ok(found)
    }

    async fn lookup(&self, folder: &FolderEntry, name: &Name) -> Result<Option<Entry>, ClientError> {
        let mut folder = Folder { walk: FolderWalk::new(folder) };
        folder.walk.seek(name);
        while let Some(entries) = self.next_entries(&mut folder).await? {
            if let Some(entry) = entries.into_iter().find(|entry| entry.name == *name) {
                return Ok(Some(entry));
            }
            folder.walk.seek(name);
        }
        Ok(None)
    }

    /// Starts to read a folder.
    pub(crate) fn folder(&self, folder: &FolderEntry) -> Folder {
        Folder { walk: FolderWalk::new(folder) }
    }

    /// The next entries of a folder, in order; may be none though more follow. `None` at the end.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a blob cannot be read.
    pub(crate) async fn next_entries(&self, folder: &mut Folder) -> Result<Option<Vec<Entry>>, ClientError> {
        let Some(pointer) = folder.walk.wanted().cloned() else { return Ok(None) };
        let blob = self.blob(&pointer).await?;
        folder.walk.supply(&blob).map(Some).map_err(|error| damaged(&error))
    }

    /// Starts to read a file's extents, from the one that holds byte `offset` on.
    ///
    /// # Errors
    /// `Damaged` when they contradict themselves.
    pub(crate) fn extents(&self, file: &FileEntry) -> Extents {
        match &file.extents {
            ExtentList::Inline(extents) => {
                let mut offset_bytes = 0;
                let placed = extents.iter().map(|extent| {
                    let placed = PlacedExtent { offset_bytes, extent: extent.clone() };
                    offset_bytes += extent.length_bytes();
                    placed
                });
                Extents::Inline(placed.collect())
            }
            ExtentList::Tree(root) => Extents::Tree(Box::new(ExtentWalk::new(root.clone(), file.size_bytes))),
        }
    }

    /// Leaves out what ends at or before byte `offset` of the file, as far as that saves reading.
    ///
    /// # Errors
    /// `Damaged` when the extents contradict themselves.
    pub(crate) fn seek(&self, extents: &mut Extents, offset: u64) -> Result<(), ClientError> {
        match extents {
            Extents::Inline(_) => Ok(()),
            Extents::Tree(walk) => walk.seek(offset).map_err(|error| damaged(&error)),
        }
    }

    /// The next extents, in order; may be none though more follow. `None` at the end.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a blob cannot be read.
    pub(crate) async fn next_extents(&self, extents: &mut Extents) -> Result<Option<Vec<PlacedExtent>>, ClientError> {
        match extents {
            Extents::Inline(placed) if placed.is_empty() => Ok(None),
            Extents::Inline(placed) => Ok(Some(std::mem::take(placed))),
            Extents::Tree(walk) => {
                let Some(pointer) = walk.wanted().cloned() else { return Ok(None) };
                let blob = self.blob(&pointer).await?;
                walk.supply(&blob).map(Some).map_err(|error| damaged(&error))
            }
        }
    }
}

/// Where a blob's sealed bytes lie in its segment.
pub(crate) fn range(pointer: &BlobPointer) -> Result<(u32, u32), ClientError> {
    let length = u32::try_from(pointer.sealed_bytes());
    length.map(|length| (pointer.offset, length)).map_err(|error| ClientError::bug("a pointer is out of bounds", error))
}
