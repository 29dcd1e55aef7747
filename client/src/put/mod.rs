//! Putting: files and folders to stored segments, a manifest and a table that name them.
//!
//! ```text
//! walk ──▶ read ──▶ keys, index ──▶ pack ──▶ code ──▶ send          contents
//!   ▲                                 │ parts, in order               │ ids of segments
//! the base's folders                  ▼                               ▼
//!                                   queue ─────────────────────▶ manifest ──▶ document segments
//! ```
//! Each stage has a thread or the cores; none holds more than the memory budget lets it, however many files there are.
//!
//! [`prepare()`] stores contents and folders, [`write_snapshot`] the root of a snapshot, [`write_table`] the table that
//! extends the base's. None of them writes a head: whoever publishes one decides that the operation has happened. What is
//! interrupted before resumes from the journal; what is interrupted after has lost nothing but the long lease.

mod acknowledged;
mod again;
mod anonymous;
mod compress;
mod content;
mod documents;
mod exclude;
mod index;
mod manifest;
mod overlay;
mod parent;
mod part;
mod prepare;
mod queue;
mod read;
mod segment;
mod send;
mod source;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod view_table;
mod walk;

pub(crate) use anonymous::put;
pub(crate) use content::Tally;
pub(crate) use documents::DOCUMENT_SEGMENT_BYTES;
pub(crate) use documents::{Sink, built};
pub(crate) use index::ChunkIndex;
pub(crate) use overlay::{OverlayChange, write_overlay};
pub(crate) use parent::{Cursor, Known, Parent};
pub(crate) use prepare::{About, Input, Prepared, estimate, prepare, prepare_again, write_snapshot};
pub(crate) use segment::Workshop;
pub(crate) use send::Stored;
pub(crate) use source::{Roots, Source, Stream};
pub(crate) use store::{Candidates, Store, Terms};
pub(crate) use table::{TableChange, write_table};
pub(crate) use view_table::write_view_table;

use crate::config::ClientConfig;
use crate::cores::Cores;
use crate::network::Nodes;
use crate::progress::Progress;
use crate::state::State;

/// What a put works with.
pub(crate) struct PutContext<'a> {
    pub(crate) nodes: &'a Nodes,
    pub(crate) state: &'a State,
    pub(crate) config: &'a ClientConfig,
    pub(crate) cores: &'a Cores,
    pub(crate) progress: &'a Progress,
}
