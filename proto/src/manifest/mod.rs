//! The manifest of a snapshot: a root blob, and for every folder a tree of entries.
//!
//! Decides what a snapshot says about its files and what is refused when reading one. Never decides where a file is
//! cut, which segment a chunk goes to, or what is restored. Blobs are sealed and stored by whoever implements
//! [`BlobSink`](crate::tree::BlobSink), and fetched and opened by whoever drives [`FolderWalk`] and [`ExtentWalk`].

mod entry;
mod extent;
mod folder;
mod name;
mod snapshot;

pub use entry::{Entry, EntryKind, FileEntry, FolderEntry, MODE_MASK, Owner, Xattrs};
pub use extent::{ChunkPointer, Extent, ExtentBlob, ExtentList, ExtentListBuilder, ExtentWalk, PlacedExtent, Span};
pub use folder::{FolderBlob, FolderBuilder, FolderWalk, Totals, build_folder};
pub use name::{Name, NameError};
pub use snapshot::{Parent, Snapshot, snapshot_id};

#[cfg(test)]
mod tests;
