//! What the manifest is made of, in its order, as it waits in the queue.
//!
//! Decides how parts are encoded there; only the process that wrote them ever reads them. A chunk of a segment that
//! is not closed yet is named by the segment's number, see [`super::manifest::SegmentIds`].

use dolmen_proto::codec::{CodecError, DocumentError, Reader, Writer};
use dolmen_proto::ids::SegmentId;
use dolmen_proto::limits::{NAME_MAX_BYTES, TREE_BLOB_MAX_BYTES};
use dolmen_proto::manifest::{Entry, FolderBlob, Name};
use dolmen_proto::seal::ChunkKey;
use dolmen_proto::tree::SELF_SEGMENT;

/// What an entry has beside its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) name: Name,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
}

/// Where a chunk lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum InSegment {
    /// In a segment of this put, by number.
    Number(u32),
    /// In a segment of the base.
    Id(SegmentId),
}

/// A chunk of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Chunk {
    pub(crate) key: ChunkKey,
    pub(crate) segment: InSegment,
    pub(crate) offset: u32,
    /// Bytes that were sealed.
    pub(crate) length: u32,
    /// Bytes of the file.
    pub(crate) plain: u32,
}

/// What a file was when it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileRead {
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) mtime_ns: i64,
    /// BLAKE3 of the whole contents, holes as zeros.
    pub(crate) hash: [u8; 32],
}

/// One step towards the manifest: folders depth first, entries in the order of their names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    /// What follows lies in this folder.
    Enter(Meta),
    /// The folder is complete.
    Leave,
    /// An entry that is complete.
    Whole(Box<Entry>),
    /// A file, whose pieces follow.
    Begin(Name),
    /// The next bytes of the file.
    Chunk(Chunk),
    /// The next bytes of the file are so many zeros that were never written.
    Hole(u64),
    /// The file is complete.
    End(FileRead),
    /// What came of the file is void.
    Abandon,
}

impl Part {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        match self {
            Self::Enter(meta) => {
                writer.u8(1);
                writer.bytes16(meta.name.as_bytes());
                writer.u32(meta.mode);
                writer.i64(meta.mtime_ns);
            }
            Self::Leave => writer.u8(2),
            Self::Whole(entry) => {
                writer.u8(3);
                writer.raw(&FolderBlob::Leaf(vec![(**entry).clone()]).to_bytes());
            }
            Self::Begin(name) => {
                writer.u8(4);
                writer.bytes16(name.as_bytes());
            }
            Self::Chunk(chunk) => {
                writer.u8(match chunk.segment {
                    InSegment::Number(_) => 5,
                    InSegment::Id(_) => 6,
                });
                writer.raw(chunk.key.expose());
                match chunk.segment {
                    InSegment::Number(number) => writer.u32(number),
                    InSegment::Id(id) => writer.raw(id.as_bytes()),
                }
                writer.u32(chunk.offset);
                writer.u32(chunk.length);
                writer.u32(chunk.plain);
            }
            Self::Hole(length) => {
                writer.u8(7);
                writer.u64(*length);
            }
            Self::End(read) => {
                writer.u8(8);
                writer.u64(read.size);
                writer.u32(read.mode);
                writer.i64(read.mtime_ns);
                writer.raw(&read.hash);
            }
            Self::Abandon => writer.u8(9),
        }
        writer.into_bytes()
    }

    /// Reads what [`Part::encode`] wrote.
    ///
    /// # Errors
    /// When it did not: the file in between is damaged.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(bytes);
        let tag = reader.u8("a part")?;
        let part = match tag {
            1 => Self::Enter(Meta {
                name: name(&mut reader)?,
                mode: reader.u32("a mode")?,
                mtime_ns: reader.i64("a time of change")?,
            }),
            2 => Self::Leave,
            3 => {
                let blob = reader.take(bytes.len() - 1, "an entry")?;
                debug_assert!(blob.len() <= TREE_BLOB_MAX_BYTES, "an entry fits a blob");
                let FolderBlob::Leaf(mut entries) = FolderBlob::parse(blob, SELF_SEGMENT)? else {
                    return Err(DocumentError::Empty { what: "an entry" });
                };
                Self::Whole(Box::new(entries.pop().ok_or(DocumentError::Empty { what: "an entry" })?))
            }
            4 => Self::Begin(name(&mut reader)?),
            5 | 6 => {
                let key = ChunkKey::new(reader.array("a key")?);
                let segment = match tag {
                    5 => InSegment::Number(reader.u32("a segment")?),
                    _ => InSegment::Id(SegmentId::new(reader.array("a segment")?)),
                };
                Self::Chunk(Chunk {
                    key,
                    segment,
                    offset: reader.u32("an offset")?,
                    length: reader.u32("a length")?,
                    plain: reader.u32("a length")?,
                })
            }
            7 => Self::Hole(reader.u64("a hole")?),
            8 => Self::End(FileRead {
                size: reader.u64("a size")?,
                mode: reader.u32("a mode")?,
                mtime_ns: reader.i64("a time of change")?,
                hash: reader.array("a hash")?,
            }),
            9 => Self::Abandon,
            found => return Err(CodecError::Unknown { what: "a part", found }.into()),
        };
        reader.finish()?;
        Ok(part)
    }
}

fn name(reader: &mut Reader<'_>) -> Result<Name, DocumentError> {
    Ok(Name::new(reader.bytes16(NAME_MAX_BYTES, "a name")?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::manifest::EntryKind;

    #[test]
    fn parts_come_back_as_they_were() {
        let name = Name::new("a name").unwrap();
        let read = FileRead { size: 1 << 40, mode: 0o644, mtime_ns: -5, hash: [7; 32] };
        let link = EntryKind::Symlink { target: b"elsewhere".to_vec() };
        let chunk = |segment| Chunk { key: ChunkKey::new([3; 32]), segment, offset: 4, length: 5, plain: 6 };
        let parts = [
            Part::Enter(Meta { name: name.clone(), mode: 0o755, mtime_ns: 99 }),
            Part::Leave,
            Part::Whole(Box::new(Entry::new(name.clone(), 0o777, 1, link))),
            Part::Begin(name),
            Part::Chunk(chunk(InSegment::Number(77))),
            Part::Chunk(chunk(InSegment::Id(SegmentId::new([8; 32])))),
            Part::Hole(1 << 50),
            Part::End(read),
            Part::Abandon,
        ];
        for part in parts {
            let bytes = part.encode();
            assert_eq!(Part::decode(&bytes).unwrap(), part);
            assert!(Part::decode(&bytes[..bytes.len() - 1]).is_err());
            assert!(Part::decode(&[&bytes[..], &[0]].concat()).is_err());
        }
    }
}
