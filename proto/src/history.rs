//! The history of a dataset: the snapshots that are kept, oldest first, in a tree that the read head names.
//!
//! Decides what is said of a snapshot without reading its root blob. Never decides which snapshots are kept: a snapshot that
//! is to be forgotten has no row any more, and what only it needs may be freed.

use crate::codec::{CodecError, DocumentError, Reader, Writer, check_ascending, check_limit, read_text16};
use crate::ids::{SegmentId, SnapshotId, Timestamp};
use crate::limits::{HISTORY_MESSAGE_MAX_BYTES, TAG_MAX_BYTES, TAGS_MAX};
use crate::tree::{BlobKind, BlobPointer, Node, TreeItem, TreeLabel};

/// One blob of a history: rows, or children by their first key.
pub type HistoryBlob = Node<HistoryRow>;

/// A snapshot that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    /// When it was made, as its root says. A writer takes a time above that of the newest row, whatever its clock says.
    pub created: Timestamp,
    /// Its id.
    pub id: SnapshotId,
    /// Its root blob.
    pub root: BlobPointer,
    /// Files in it.
    pub files: u64,
    /// The sum of their sizes.
    pub bytes: u64,
    /// The beginning of its message, at most [`HISTORY_MESSAGE_MAX_BYTES`]: see [`history_message`].
    pub message: String,
    /// Names that people gave it: ascending, none twice, none empty, at most [`TAGS_MAX`] of [`TAG_MAX_BYTES`].
    pub tags: Vec<String>,
}

/// As much of a snapshot's message as stands in its row, cut between characters.
#[must_use]
pub fn history_message(message: &str) -> &str {
    let end = (0..=message.len().min(HISTORY_MESSAGE_MAX_BYTES)).rev().find(|end| message.is_char_boundary(*end));
    &message[..end.unwrap_or(0)]
}

/// What history is sorted by: time first, so that the newest snapshot is the last row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HistoryKey {
    /// When the snapshot was made.
    pub created: Timestamp,
    /// Its id.
    pub id: SnapshotId,
}

impl TreeLabel for HistoryKey {
    const MIN_BYTES: usize = 40;

    fn write(&self, writer: &mut Writer) {
        writer.u64(self.created.as_unix_ms());
        writer.raw(self.id.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let created = Timestamp::from_unix_ms(reader.u64("the time of creation")?);
        Ok(Self { created, id: SnapshotId::new(reader.array("a snapshot's id")?) })
    }

    fn join(self, _next: &Self) -> Option<Self> {
        Some(self)
    }

    fn precedes(&self, next: &Self) -> bool {
        self < next
    }
}

impl TreeItem for HistoryRow {
    type Label = HistoryKey;
    const LEAF: BlobKind = BlobKind::HistoryLeaf;
    const INNER: BlobKind = BlobKind::HistoryInner;
    const PLURAL: &'static str = "snapshots";
    const MIN_BYTES: usize = 131;

    fn label(&self) -> HistoryKey {
        HistoryKey { created: self.created, id: self.id }
    }

    fn boundary(&self) -> blake3::Hash {
        blake3::hash(self.id.as_bytes())
    }

    fn check(&self) -> Result<(), DocumentError> {
        check_limit(self.message.len(), HISTORY_MESSAGE_MAX_BYTES, "the message")?;
        check_limit(self.tags.len(), TAGS_MAX, "tags")?;
        for tag in &self.tags {
            if tag.is_empty() {
                return Err(DocumentError::Empty { what: "a tag" });
            }
            check_limit(tag.len(), TAG_MAX_BYTES, "a tag")?;
        }
        check_ascending(self.tags.iter(), "tags")?;
        self.root.check()
    }

    fn write(&self, writer: &mut Writer) {
        self.label().write(writer);
        self.root.write(writer);
        writer.u64(self.files);
        writer.u64(self.bytes);
        writer.bytes16(self.message.as_bytes());
        writer.count8(self.tags.len());
        self.tags.iter().for_each(|tag| writer.bytes8(tag.as_bytes()));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        let HistoryKey { created, id } = HistoryKey::read(reader)?;
        let root = BlobPointer::read(reader)?;
        let (files, bytes) = (reader.u64("totals")?, reader.u64("totals")?);
        let message = read_text16(reader, HISTORY_MESSAGE_MAX_BYTES, "the message")?;
        let count = usize::from(reader.u8("tags")?);
        check_limit(count, TAGS_MAX, "tags")?;
        let tags = (0..count).map(|_| {
            let tag = reader.bytes8(TAG_MAX_BYTES, "a tag")?;
            core::str::from_utf8(tag).map(str::to_owned).map_err(|_| CodecError::Text { what: "a tag" })
        });
        let tags = tags.collect::<Result<_, _>>()?;
        Ok(Self { created, id, root, files, bytes, message, tags })
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        visit(&mut self.root.segment);
    }
}

#[cfg(test)]
mod tests;
