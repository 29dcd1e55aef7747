//! Reading what a link leads to: segments, documents, folders.

/// Extension of a snapshot that may be ignored: a single file was put, and the root folder only holds it.
pub(crate) const SINGLE_EXTENSION: u16 = 2;

mod base;
mod cache;
mod dataset;
mod documents;
mod fetch;
mod kept;
mod overlay;
mod part;
pub(crate) mod range;
mod segment;
mod source;
mod table;
mod walk;

pub(crate) use cache::BlobCache;
pub(crate) use dataset::{Dataset, Extents, Folder, Reading};
pub(crate) use documents::Documents;
pub(crate) use fetch::Fetcher;
pub(crate) use overlay::{Holders, Overlay, Overlays, counts};
pub(crate) use part::{Chunk, Part, Run, runs};
pub(crate) use segment::{Opener, Place, SegmentData};
pub(crate) use table::{Table, damaged};
pub(crate) use walk::{EntryWalk, join};
