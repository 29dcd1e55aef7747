//! A dataset opened through a link: its table, its snapshot, its folders.
//!
//! Decides how entries and extents are looked up: one blob a level, and blobs that follow each other in one read. Never
//! decides what a document means: `dolmen-proto` does, and it checks every blob.

use std::collections::HashMap;
use std::sync::Arc;

use dolmen_proto::head::{ReadBody, TableLocation, ViewBody, named_stewards};
use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::{SegmentId, SnapshotId};
use dolmen_proto::keys::{MaskKey, MaskSecret, ViewSecret};
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::manifest::{
    Entry, EntryKind, ExtentList, ExtentWalk, FileEntry, FolderEntry, FolderWalk, Name, PlacedExtent, Snapshot,
};
use dolmen_proto::tree::{BlobPointer, CountedTree};

use super::cache::BlobCache;
use super::documents::Documents;
use super::fetch::Fetcher;
use super::overlay::Overlays;
use super::segment::Place;
use super::source::{NewestTable, TableHead};
use super::table::{Table, damaged};
use crate::budget::Budget;
use crate::cores::Cores;
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Wanted};
use crate::network::Nodes;
use crate::put::Stored;
use crate::state::SeenHeads;

/// Blobs that are fetched with the one that is wanted, and their sealed bytes.
const AHEAD_BLOBS: usize = 16;
const AHEAD_BYTES: usize = 768 * 1024;

/// Snapshots of a history that is read whole; each takes a few hundred bytes.
const HISTORY_MAX: u64 = 100_000;

/// What reading needs, whichever dataset is read.
#[derive(Debug, Clone)]
pub(crate) struct Reading {
    pub(crate) nodes: Nodes,
    pub(crate) cores: Cores,
    pub(crate) budget_bytes: u64,
    pub(crate) cache: Option<BlobCache>,
    /// The newest heads seen: an older one is not taken.
    pub(crate) seen: Option<SeenHeads>,
}

/// A snapshot of a dataset that can be read. Clones share what is kept.
#[derive(Clone)]
pub(crate) struct Dataset {
    pub(super) documents: Documents,
    /// For file contents.
    contents: Fetcher,
    /// Bytes of contents that may be held ahead of readers.
    ahead: Budget,
    budget_bytes: u64,
    table: NewestTable,
    /// The table as it was when the dataset was opened.
    pub(super) base: Arc<Table>,
    snapshot: BlobPointer,
    snapshot_id: SnapshotId,
    history: Option<CountedTree>,
    /// Segments that are stored and in no table yet.
    further: Arc<HashMap<SegmentId, Arc<Place>>>,
}

impl std::fmt::Debug for Dataset {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Dataset(..)")
    }
}

/// What a head says to those who read.
struct Parts {
    mask: Option<MaskSecret>,
    head: TableHead,
    table: (TableLocation, Option<MaskKey>),
    snapshot: (BlobPointer, SnapshotId),
    history: Option<CountedTree>,
    /// Those whom the head names; the table knows them all.
    stewards: Vec<[u8; 32]>,
}

/// A folder that is being read.
pub(crate) struct Folder {
    walk: FolderWalk,
}

impl Folder {
    /// When this folder and another would read the same blob next: drops it from both, with all below it, and tells so.
    pub(crate) fn skip_shared(&mut self, other: &mut Self) -> bool {
        let same = match (self.walk.wanted(), other.walk.wanted()) {
            (Some(left), Some(right)) => left.key == right.key && left.length == right.length,
            _ => false,
        };
        if same {
            self.walk.skip();
            other.walk.skip();
        }
        same
    }
}

/// The extents of a file that are being read.
pub(crate) enum Extents {
    Inline(Vec<PlacedExtent>),
    Tree(Box<ExtentWalk>),
}

impl Dataset {
    /// Reads head and table root of a dataset or of a view. `everything`: the whole manifest will be read.
    ///
    /// # Errors
    /// As [`heads::find`]; `Damaged` or `NotNow` when documents cannot be read.
    pub(crate) async fn open(reading: &Reading, link: &Link, everything: bool) -> Result<Self, ClientError> {
        if let LinkSecret::View(secret) = link.secret() {
            let found = heads::find(&reading.nodes, &Wanted::of_view(secret), reading.seen.as_ref()).await?;
            return Self::of_view(reading, secret, found.body, everything).await;
        }
        let (_, body) = heads::read(&reading.nodes, link, reading.seen.as_ref()).await?;
        Self::of_body(reading, &body, everything).await
    }

    /// Reads the table root of a dataset whose head is known.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when documents cannot be read.
    pub(crate) async fn of_body(reading: &Reading, body: &ReadBody, everything: bool) -> Result<Self, ClientError> {
        let parts = Parts {
            mask: Some(body.mask_secret.clone()),
            head: TableHead::OfDataset(body.table_secret.clone(), body.table_head_key),
            table: (body.table.clone(), None),
            snapshot: (body.snapshot.clone(), body.snapshot_id),
            history: body.history.clone(),
            stewards: named_stewards::<ReadBody>(&body.extensions).map_err(|error| damaged(&error))?,
        };
        Self::of_parts(reading, parts, everything).await
    }

    async fn of_view(
        reading: &Reading,
        secret: &ViewSecret,
        body: ViewBody,
        everything: bool,
    ) -> Result<Self, ClientError> {
        let parts = Parts {
            mask: None,
            head: TableHead::OfView(secret.clone()),
            table: (body.table, Some(body.table_mask)),
            snapshot: (body.snapshot, body.snapshot_id),
            history: None,
            stewards: Vec::new(),
        };
        Self::of_parts(reading, parts, everything).await
    }

    async fn of_parts(reading: &Reading, parts: Parts, everything: bool) -> Result<Self, ClientError> {
        let Reading { nodes, cores, budget_bytes, cache, seen } = reading;
        // Documents are kept between reads, so they must not share a budget with contents that wait for memory: what is
        // kept is bounded by itself.
        let fetcher = Fetcher::new(nodes.clone(), cores.clone(), Budget::new(u64::MAX), parts.mask);
        let ahead_bytes = budget_bytes / 4;
        let contents = fetcher.with_budget(Budget::new(budget_bytes - ahead_bytes));
        if let TableHead::OfDataset(secret, _) = &parts.head {
            fetcher.use_overlays(Overlays::new(reading, secret.clone(), parts.stewards));
        }
        let documents = Documents::new(fetcher, cache.clone(), everything);
        let table = NewestTable::open(nodes, seen.clone(), &documents, parts.head, parts.table).await?;
        let (snapshot, snapshot_id) = parts.snapshot;
        Ok(Self {
            documents,
            contents,
            ahead: Budget::new(ahead_bytes),
            budget_bytes: *budget_bytes,
            base: table.get(),
            table,
            snapshot,
            snapshot_id,
            history: parts.history,
            further: Arc::default(),
        })
    }

    /// The same dataset at another snapshot.
    pub(crate) fn at(&self, snapshot: BlobPointer, snapshot_id: SnapshotId) -> Self {
        Self { snapshot, snapshot_id, ..self.clone() }
    }

    /// The same dataset with segments that are stored and not in its table yet.
    pub(crate) fn with_segments<'a>(&self, stored: impl IntoIterator<Item = &'a Stored>) -> Self {
        let places = stored.into_iter().map(|stored| (stored.id, Arc::new(Place::of_stored(stored))));
        Self { further: Arc::new(places.collect()), ..self.clone() }
    }

    /// Reads and opens a document's blob.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    pub(crate) async fn document(&self, pointer: &BlobPointer) -> Result<Arc<Vec<u8>>, ClientError> {
        self.blob(pointer, std::iter::empty()).await
    }

    /// The same, for somebody who will read all of the manifest.
    pub(crate) fn whole(&self) -> Self {
        Self { documents: self.documents.whole(), ..self.clone() }
    }

    /// The id of the snapshot.
    pub(crate) fn snapshot_id(&self) -> SnapshotId {
        self.snapshot_id
    }

    /// Reads the root of the snapshot.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    pub(crate) async fn snapshot(&self) -> Result<Snapshot, ClientError> {
        let pointer = &self.snapshot;
        let blob = self.blob(pointer, std::iter::empty()).await?;
        Snapshot::parse(&blob, pointer.segment).map_err(|error| damaged(&error))
    }

    /// The snapshots that are kept, oldest first; `None` for a dataset without a history, which has one snapshot.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read, `Refused` when it is longer than this release reads.
    pub(crate) async fn history(&self) -> Result<Option<Vec<HistoryRow>>, ClientError> {
        let Some(tree) = &self.history else { return Ok(None) };
        if tree.count > HISTORY_MAX {
            return Err(ClientError::new(
                ErrorKind::Refused,
                "the dataset's history is too long for this release",
                format!("it names {} snapshots, {HISTORY_MAX} are the most", tree.count),
                "ask its owner to forget old snapshots: `dolmen forget`",
            ));
        }
        let mut rows = Vec::new();
        let mut walk = tree.walk::<HistoryRow>();
        while let Some(pointer) = walk.wanted().cloned() {
            let blob = self.blob(&pointer, walk.upcoming().skip(1)).await?;
            rows.extend(walk.supply(&blob).map_err(|error| damaged(&error))?);
        }
        Ok(Some(rows))
    }

    /// The overlays of the stewards that the table names, when there are any.
    pub(crate) fn overlays(&self) -> Option<&Overlays> {
        self.contents.overlays()
    }

    /// Fetches file contents within the memory budget.
    pub(crate) fn contents(&self) -> &Fetcher {
        &self.contents
    }

    /// Bytes of contents that may be in memory at once.
    pub(crate) fn budget_bytes(&self) -> u64 {
        self.budget_bytes
    }

    /// What may be read ahead of those who read files.
    pub(crate) fn ahead(&self) -> &Budget {
        &self.ahead
    }

    /// Reads and opens a blob; some of those that will be wanted `next` come along when they lie in the same segment.
    async fn blob<'a>(
        &self,
        pointer: &BlobPointer,
        next: impl Iterator<Item = &'a BlobPointer>,
    ) -> Result<Arc<Vec<u8>>, ClientError> {
        if let Some(blob) = self.documents.here(pointer).await {
            return Ok(blob);
        }
        let known = self.known_table();
        match self.fetch_blob(pointer, next).await {
            Err(error) if self.is_newer_than(&known, &error).await => {
                self.fetch_blob(pointer, std::iter::empty()).await
            }
            fetched => fetched,
        }
    }

    async fn fetch_blob<'a>(
        &self,
        pointer: &BlobPointer,
        next: impl Iterator<Item = &'a BlobPointer>,
    ) -> Result<Arc<Vec<u8>>, ClientError> {
        let (place, offset) = self.locate(pointer).await?;
        let mut others = Vec::new();
        let mut bytes = pointer.sealed_bytes();
        for other in next.take(AHEAD_BLOBS) {
            bytes = bytes.saturating_add(other.sealed_bytes());
            if bytes > AHEAD_BYTES {
                break;
            }
            if other.segment == pointer.segment && !self.documents.has(other) {
                let (there, offset) = self.locate(other).await?;
                if there.id == place.id {
                    others.push((offset, other));
                }
            }
        }
        self.documents.fetch(&place, (offset, pointer), &others).await
    }

    /// Where a chunk or blob lies now: its segment's shards, and its offset there. Looks for a newer table when the known
    /// one does not have it.
    ///
    /// # Errors
    /// `Damaged` when no table has the segment, `NotNow` when the table cannot be read.
    pub(crate) async fn locate(&self, pointer: &BlobPointer) -> Result<(Arc<Place>, u32), ClientError> {
        if let Some(place) = self.further.get(&pointer.segment) {
            return Ok((Arc::clone(place), pointer.offset));
        }
        loop {
            let table = self.table.get();
            if let Some(found) = table.locate(&self.documents, pointer).await? {
                return Ok(found);
            }
            if !self.table.renew(&self.documents, &table).await {
                return Err(missing(pointer.segment));
            }
        }
    }

    /// Where a segment's shards are, by the table that the dataset was opened with.
    ///
    /// # Errors
    /// `Damaged` when that does not have the segment, `NotNow` when it cannot be read.
    pub(crate) async fn place(&self, id: SegmentId) -> Result<Arc<Place>, ClientError> {
        self.base.find(&self.documents, id).await?.ok_or_else(|| missing(id))
    }

    /// The root blob of the snapshot.
    pub(crate) fn root(&self) -> &BlobPointer {
        &self.snapshot
    }

    /// The table as it is known now.
    pub(crate) fn known_table(&self) -> Arc<Table> {
        self.table.get()
    }

    /// Whether what failed is worth another try, because there is a newer table than the one that was known before: what that
    /// names may have been packed anew and deleted.
    pub(crate) async fn is_newer_than(&self, known: &Arc<Table>, error: &ClientError) -> bool {
        error.kind() == ErrorKind::Damaged && self.table.renew(&self.documents, known).await
    }

    /// Shows `visit` the place of every segment: content, documents, the table's own.
    ///
    /// # Errors
    /// As [`Dataset::locate`].
    pub(crate) async fn every_place(&self, visit: impl FnMut(Arc<Place>)) -> Result<(), ClientError> {
        self.table.get().every_place(&self.documents, visit).await
    }

    /// The places of the segments that follow this one by id, of all kinds: as many as have so many shards together, one at least.
    ///
    /// # Errors
    /// As [`Dataset::locate`].
    pub(crate) async fn places_after(
        &self,
        after: Option<SegmentId>,
        most_shards: usize,
    ) -> Result<Vec<Arc<Place>>, ClientError> {
        self.table.get().places_after(&self.documents, after, most_shards).await
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
        let mut walk = FolderWalk::new(folder);
        while let Some(pointer) = walk.wanted().cloned() {
            let blob = self.blob(&pointer, std::iter::empty()).await?;
            let entries = walk.supply(&blob).map_err(|error| damaged(&error))?;
            if let Some(last) = entries.last() {
                let found =
                    if last.name < *name { None } else { entries.into_iter().find(|entry| entry.name == *name) };
                return Ok(found);
            }
            walk.seek(name);
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
        self.next_entries_seen(folder, |_, _| {}).await
    }

    /// As [`Dataset::next_entries`]; shows `seen` the blob that was read.
    ///
    /// # Errors
    /// As [`Dataset::next_entries`].
    pub(crate) async fn next_entries_seen(
        &self,
        folder: &mut Folder,
        seen: impl FnOnce(&BlobPointer, &[u8]),
    ) -> Result<Option<Vec<Entry>>, ClientError> {
        let Some(pointer) = folder.walk.wanted().cloned() else { return Ok(None) };
        let blob = self.blob(&pointer, folder.walk.upcoming().skip(1)).await?;
        let entries = folder.walk.supply(&blob).map_err(|error| damaged(&error))?;
        seen(&pointer, &blob);
        Ok(Some(entries))
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
        self.next_extents_seen(extents, |_, _| {}).await
    }

    /// As [`Dataset::next_extents`]; shows `seen` the blob that was read, if one was.
    ///
    /// # Errors
    /// As [`Dataset::next_extents`].
    pub(crate) async fn next_extents_seen(
        &self,
        extents: &mut Extents,
        seen: impl FnOnce(&BlobPointer, &[u8]),
    ) -> Result<Option<Vec<PlacedExtent>>, ClientError> {
        match extents {
            Extents::Inline(placed) if placed.is_empty() => Ok(None),
            Extents::Inline(placed) => Ok(Some(std::mem::take(placed))),
            Extents::Tree(walk) => {
                let Some(pointer) = walk.wanted().cloned() else { return Ok(None) };
                let blob = self.blob(&pointer, std::iter::empty()).await?;
                let placed = walk.supply(&blob).map_err(|error| damaged(&error))?;
                seen(&pointer, &blob);
                Ok(Some(placed))
            }
        }
    }
}

fn missing(id: SegmentId) -> ClientError {
    ClientError::new(
        ErrorKind::Damaged,
        format!("segment {} is not in the dataset's table", id.short()),
        "the manifest names a segment that the table does not have",
        "what was uploaded is damaged in itself: ask the dataset's owner",
    )
}
