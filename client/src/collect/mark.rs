//! What snapshots need: every blob and chunk that is reached from their roots.
//!
//! Decides in which order documents are read, and reads each of them once, however many snapshots share it. Content is
//! never fetched.

use dolmen_proto::codec::DocumentError;
use dolmen_proto::collect::Marks;
use dolmen_proto::manifest::{Entry, EntryKind, Extent, ExtentList, Snapshot};
use dolmen_proto::tree::{BlobPointer, TreeItem, TreeWalk};

use crate::error::{ClientError, ErrorKind};
use crate::read::Dataset;

/// A tree that is still to be read.
enum Tree {
    Folder(BlobPointer),
    Extents(BlobPointer),
}

/// Marks a snapshot's root and all below it.
///
/// # Errors
/// `Damaged` or `NotNow` when a document cannot be read: then nothing may be collected.
pub(crate) async fn snapshot(dataset: &Dataset, root: &BlobPointer, marks: &mut Marks) -> Result<(), ClientError> {
    if !need(marks, root)? {
        return Ok(());
    }
    let blob = dataset.document(root).await?;
    let snapshot = Snapshot::parse(&blob, root.segment).map_err(|error| damaged(&error))?;
    let mut left = vec![Tree::Folder(snapshot.root.tree)];
    while let Some(tree) = left.pop() {
        match tree {
            Tree::Folder(root) => {
                new_items::<Entry>(dataset, root, marks, |entry, marks| mark_entry(entry, marks, &mut left)).await?;
            }
            Tree::Extents(root) => {
                new_items::<Extent>(dataset, root, marks, |extent, marks| mark_extent(&extent, marks)).await?;
            }
        }
    }
    Ok(())
}

/// Marks all blobs of a tree whose items name nothing: the history.
///
/// # Errors
/// As [`snapshot`].
pub(crate) async fn tree<T: TreeItem>(
    dataset: &Dataset,
    root: BlobPointer,
    marks: &mut Marks,
) -> Result<(), ClientError> {
    new_items::<T>(dataset, root, marks, |_, _| Ok(())).await
}

/// Marks one blob.
///
/// # Errors
/// `Bug` for a pointer out of bounds.
pub(crate) fn need(marks: &mut Marks, pointer: &BlobPointer) -> Result<bool, ClientError> {
    let sealed = u32::try_from(pointer.sealed_bytes());
    let sealed = sealed.map_err(|error| ClientError::bug("a pointer is out of bounds", error))?;
    Ok(marks.need((pointer.segment, pointer.offset), sealed))
}

/// Shows `visit` the items in leaves of a tree that were not marked before; what lies below marked blobs was marked with them.
async fn new_items<T: TreeItem>(
    dataset: &Dataset,
    root: BlobPointer,
    marks: &mut Marks,
    mut visit: impl FnMut(T, &mut Marks) -> Result<(), ClientError>,
) -> Result<(), ClientError> {
    let mut walk = TreeWalk::<T>::new(root);
    while let Some(pointer) = walk.wanted().cloned() {
        if need(marks, &pointer)? {
            let blob = dataset.document(&pointer).await?;
            for item in walk.supply(&blob).map_err(|error| damaged(&error))? {
                visit(item, marks)?;
            }
        } else {
            walk.skip();
        }
    }
    Ok(())
}

fn mark_entry(entry: Entry, marks: &mut Marks, left: &mut Vec<Tree>) -> Result<(), ClientError> {
    match entry.kind {
        EntryKind::Folder(folder) => left.push(Tree::Folder(folder.tree)),
        EntryKind::Symlink { .. } => {}
        EntryKind::File(file) => match file.extents {
            ExtentList::Inline(extents) => extents.iter().try_for_each(|extent| mark_extent(extent, marks))?,
            ExtentList::Tree(root) => left.push(Tree::Extents(root)),
        },
    }
    Ok(())
}

fn mark_extent(extent: &Extent, marks: &mut Marks) -> Result<(), ClientError> {
    match extent {
        Extent::Chunk(pointer) | Extent::Compressed { pointer, .. } => need(marks, pointer).map(drop),
        Extent::Hole { .. } => Ok(()),
    }
}

fn damaged(error: &DocumentError) -> ClientError {
    ClientError::new(
        ErrorKind::Damaged,
        "a snapshot's documents are damaged, so nothing was freed",
        error,
        "forget that snapshot, or repair the dataset, then run it again",
    )
}
