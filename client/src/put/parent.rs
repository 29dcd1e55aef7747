//! The snapshot that a put extends, read in step with the walk.
//!
//! Decides what is remembered of the base's blobs, so that a blob of the new trees that is the same is not stored
//! again. Never decides which entries stay: see [`super::walk`].

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use dolmen_proto::codec::Needs;
use dolmen_proto::ids::SnapshotId;
use dolmen_proto::manifest::{Entry, EntryKind, Extent, ExtentList, FolderEntry, Snapshot};
use dolmen_proto::table::{ForwardRow, RowKind};
use dolmen_proto::tree::{BlobPointer, Node, TreeItem};

use super::index::ChunkIndex;
use crate::error::ClientError;
use crate::read::{Dataset, Folder};

/// Blobs that are remembered. Trees are read and written in the same order, so what is not met soon is not met at all.
const KNOWN_MAX: usize = 128 * 1024;

/// Blobs that are stored already, by the hash of their encoding with every pointer resolved.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(Arc<Mutex<Blobs>>);

#[derive(Debug, Default)]
struct Blobs {
    pointers: HashMap<[u8; 32], BlobPointer>,
    order: VecDeque<[u8; 32]>,
}

impl Known {
    /// Remembers a blob of a tree that lies where `pointer` says; one that is none of `T` is not remembered.
    pub(crate) fn learn<T: TreeItem>(&self, pointer: &BlobPointer, blob: &[u8]) {
        let Ok(node) = Node::<T>::parse(blob, pointer.segment) else { return };
        let hash = *blake3::hash(&node.to_bytes()).as_bytes();
        let mut blobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if blobs.pointers.insert(hash, pointer.clone()).is_none() {
            blobs.order.push_back(hash);
        }
        if blobs.order.len() > KNOWN_MAX
            && let Some(oldest) = blobs.order.pop_front()
        {
            blobs.pointers.remove(&oldest);
        }
    }

    /// Where a blob with this resolved encoding lies.
    pub(crate) fn find(&self, resolved: &[u8]) -> Option<BlobPointer> {
        let blobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        blobs.pointers.get(blake3::hash(resolved).as_bytes()).cloned()
    }
}

/// The snapshot that a put extends.
#[derive(Debug, Clone)]
pub(crate) struct Parent {
    dataset: Dataset,
    id: SnapshotId,
    root: FolderEntry,
    needs: Needs,
    known: Known,
}

impl Parent {
    /// The snapshot that a dataset is opened at; `known` learns the blobs that are read.
    pub(crate) fn new(dataset: Dataset, snapshot: &Snapshot, known: Known) -> Self {
        let (id, root, needs) = (dataset.snapshot_id(), snapshot.root.clone(), snapshot.needs);
        Self { dataset, id, root, needs, known }
    }

    /// What readers of the snapshot must know, and so those of any that keeps entries of it.
    pub(crate) fn needs(&self) -> Needs {
        self.needs
    }

    /// The dataset that it is a snapshot of.
    pub(crate) fn dataset(&self) -> &Dataset {
        &self.dataset
    }

    /// The entries of its root folder.
    pub(crate) fn root(&self) -> Cursor {
        self.folder(&self.root)
    }

    /// The entries of one of its folders.
    pub(crate) fn folder(&self, folder: &FolderEntry) -> Cursor {
        Cursor {
            dataset: self.dataset.clone(),
            known: self.known.clone(),
            folder: self.dataset.folder(folder),
            entries: VecDeque::new(),
        }
    }

    /// Remembers the blobs of a file's extents: the file has changed, most of them may not have.
    ///
    /// # Errors
    /// As [`Dataset::next_extents`].
    pub(crate) async fn learn_extents(&self, entry: &Entry) -> Result<(), ClientError> {
        let EntryKind::File(file) = &entry.kind else { return Ok(()) };
        if matches!(file.extents, ExtentList::Inline(_)) {
            return Ok(());
        }
        let mut extents = self.dataset.extents(file);
        let learn = |pointer: &BlobPointer, blob: &[u8]| self.known.learn::<Extent>(pointer, blob);
        while self.dataset.next_extents_seen(&mut extents, learn).await?.is_some() {}
        Ok(())
    }
}

impl Parent {
    /// The chunk index of the dataset, complete for this snapshot: filled from its manifest when it is not. Blocks now and
    /// then.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when table or manifest cannot be read.
    pub(crate) async fn index(&self, path: &Path, scratch: &Path) -> Result<ChunkIndex, ClientError> {
        let mut index = ChunkIndex::open(path, scratch);
        let mut rows = self.dataset.rows();
        while let Some(rows) = self.dataset.next_rows_seen(&mut rows, |_, _| {}).await? {
            let content = rows.iter().filter(|row| row.kind() == RowKind::Content);
            content.for_each(|row| index.live(row.id()));
        }
        match &self.dataset.table().forwards {
            Some(forwards) if !index.follows(&forwards.root) => {
                index.forget_moves();
                let mut walk = forwards.walk::<ForwardRow>();
                while let Some(rows) = self.dataset.next_of_table_seen(&mut walk, |_, _| {}).await? {
                    index.moved(&rows);
                }
                index.followed(&forwards.root);
            }
            _ => {}
        }
        if index.is_complete(&self.id) {
            return Ok(index);
        }
        let mut folders = vec![self.root()];
        while let Some(folder) = folders.last_mut() {
            match folder.next().await?.map(|entry| entry.kind) {
                Some(EntryKind::Folder(below)) => folders.push(self.folder(&below)),
                Some(EntryKind::File(file)) => {
                    let mut extents = self.dataset.extents(&file);
                    while let Some(placed) = self.dataset.next_extents(&mut extents).await? {
                        for (chunk, _) in placed.iter().filter_map(|placed| placed.extent.chunk()) {
                            index.learn(chunk.key.id(), chunk.segment, chunk.offset);
                        }
                    }
                }
                Some(EntryKind::Symlink { .. }) => {}
                None => drop(folders.pop()),
            }
        }
        index.complete(&self.id);
        Ok(index)
    }
}

/// The entries of a folder of the base, in order.
pub(crate) struct Cursor {
    dataset: Dataset,
    known: Known,
    folder: Folder,
    entries: VecDeque<Entry>,
}

impl Cursor {
    /// The next entry, which stays the next; `None` at the end.
    ///
    /// # Errors
    /// As [`Dataset::next_entries`].
    pub(crate) async fn peek(&mut self) -> Result<Option<&Entry>, ClientError> {
        while self.entries.is_empty() {
            let learn = |pointer: &BlobPointer, blob: &[u8]| self.known.learn::<Entry>(pointer, blob);
            match self.dataset.next_entries_seen(&mut self.folder, learn).await? {
                Some(entries) => self.entries = entries.into(),
                None => return Ok(None),
            }
        }
        Ok(self.entries.front())
    }

    /// The next entry.
    ///
    /// # Errors
    /// As [`Dataset::next_entries`].
    pub(crate) async fn next(&mut self) -> Result<Option<Entry>, ClientError> {
        self.peek().await?;
        Ok(self.entries.pop_front())
    }
}
