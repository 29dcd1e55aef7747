//! The root blob of a snapshot.

use super::FolderEntry;
use crate::codec::{
    DocumentError, Extensions, Needs, Reader, Writer, check_limit, read_text16, read_version, write_header,
};
use crate::ids::{SegmentId, SnapshotId, Timestamp};
use crate::limits::{MESSAGE_MAX_BYTES, SNAPSHOT_ROOT_MAX_BYTES};
use crate::tree::{BlobKind, BlobPointer, BlobSink, BuildError, put_blob};

/// A snapshot: when and why it was made, after which one, and its root folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// What a reader must understand, of everything below the root too.
    pub needs: Needs,
    /// When it was made, by its writer's clock; advisory.
    pub created: Timestamp,
    /// What its writer had to say, at most [`MESSAGE_MAX_BYTES`] bytes.
    pub message: String,
    /// The snapshot before it.
    pub parent: Option<Parent>,
    /// Hides small datasets in the root that papers quote; see [`crate::keys::DatasetKeys::snapshot_salt`].
    pub salt: [u8; 32],
    /// The root folder and what it all comes to.
    pub root: FolderEntry,
    /// Fields of later releases.
    pub extensions: Extensions,
}

/// The snapshot before one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Parent {
    /// Its id.
    pub id: SnapshotId,
    /// Its root blob.
    pub root: BlobPointer,
}

impl Snapshot {
    /// Reads a root blob; self pointers in it are replaced by `nominal`, the segment by whose id it was reached.
    ///
    /// # Errors
    /// [`DocumentError`]: the bytes are no such blob, or one that needs a newer release.
    pub fn parse(blob: &[u8], nominal: SegmentId) -> Result<Self, DocumentError> {
        check_limit(blob.len(), SNAPSHOT_ROOT_MAX_BYTES, "a snapshot's root")?;
        let mut reader = Reader::new(blob);
        read_version(&mut reader)?;
        let kind = reader.u8("the kind")?;
        if kind != BlobKind::Snapshot.byte() {
            return Err(DocumentError::Kind { expected: "the root of a snapshot", found: kind });
        }
        let mut snapshot = Self {
            needs: Needs::read(&mut reader, Needs::COMPRESSED_CHUNKS)?,
            created: Timestamp::from_unix_ms(reader.u64("the time of creation")?),
            message: read_text16(&mut reader, MESSAGE_MAX_BYTES, "the message")?,
            parent: reader.option("the parent", |reader| {
                let id = SnapshotId::new(reader.array("the parent's id")?);
                Ok::<_, DocumentError>(Parent { id, root: BlobPointer::read(reader)? })
            })?,
            salt: reader.array("the salt")?,
            root: FolderEntry::read(&mut reader)?,
            extensions: Extensions::read(&mut reader)?,
        };
        reader.finish()?;
        snapshot.visit_segments(&mut |segment| crate::tree::resolve_segment(segment, nominal));
        Ok(snapshot)
    }

    fn check(&self) -> Result<(), DocumentError> {
        check_limit(self.message.len(), MESSAGE_MAX_BYTES, "the message")?;
        if let Some(parent) = &self.parent {
            parent.root.check()?;
        }
        self.root.tree.check()
    }

    fn visit_segments(&mut self, visit: &mut dyn FnMut(&mut SegmentId)) {
        if let Some(parent) = &mut self.parent {
            visit(&mut parent.root.segment);
        }
        visit(&mut self.root.tree.segment);
    }

    /// The encoding: the bytes that [`Snapshot::parse`] read, when `nominal` was [`SELF_SEGMENT`](crate::tree::SELF_SEGMENT).
    ///
    /// # Errors
    /// [`DocumentError`] when the message is too long or a pointer impossible.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.check()?;
        Ok(self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        write_header(&mut writer, BlobKind::Snapshot.byte());
        self.needs.write(&mut writer);
        writer.u64(self.created.as_unix_ms());
        writer.bytes16(self.message.as_bytes());
        writer.option(self.parent.as_ref(), |writer, parent| {
            writer.raw(parent.id.as_bytes());
            parent.root.write(writer);
        });
        writer.raw(&self.salt);
        self.root.write(&mut writer);
        self.extensions.write(&mut writer);
        writer.into_bytes()
    }

    /// Puts the root blob, last of all of a snapshot's blobs; gives where it lies, with the sink's provisional id.
    ///
    /// # Errors
    /// [`BuildError`]: a rule of the format, or the sink.
    pub fn put<S: BlobSink>(mut self, sink: &mut S) -> Result<BlobPointer, BuildError<S::Error>> {
        self.check()?;
        put_blob(&mut self, |snapshot, visit| snapshot.visit_segments(visit), Self::check, Self::encode, sink)
    }
}

/// The id of the snapshot whose root blob has these *sealed* bytes.
#[must_use]
pub fn snapshot_id(sealed_root: &[u8]) -> SnapshotId {
    SnapshotId::new(*blake3::hash(sealed_root).as_bytes())
}
