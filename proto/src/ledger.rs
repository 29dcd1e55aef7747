//! The ledger: what an owner has shared of a dataset, one blob that only the owner can open.
//!
//! Decides how shares are kept and that no number is ever used for two. Never decides what a share shows: the owner publishes a
//! view's head from it, again whenever a live share's folder changed.

use crate::codec::{
    DocumentError, Extensions, Needs, Reader, Writer, check_ascending, check_limit, read_version, write_header,
};
use crate::ids::{SnapshotId, Timestamp};
use crate::limits::{BLOB_MAX_BYTES, PATH_MAX_BYTES, SHARES_MAX};
use crate::manifest::Name;
use crate::tree::{BlobKind, BlobPointer, BlobSink, BuildError, put_blob};

/// A share: one view of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Share {
    /// The number that the view's keys follow from.
    pub number: u32,
    /// The shared folder or file: components joined by `/`, empty for the root, at most [`PATH_MAX_BYTES`].
    pub path: Vec<u8>,
    /// The one snapshot that it shows; `None` when it follows the newest.
    pub snapshot: Option<SnapshotId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was ended; nothing is published for it from then on.
    pub ended: Option<Timestamp>,
    /// The sequence of its newest head, 0 before the first.
    pub sequence: u64,
}

/// All shares of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The number of the next share, above all that were ever taken: ended shares may be dropped, their numbers stay used.
    pub next: u32,
    /// Ascending by number, at most [`SHARES_MAX`].
    pub shares: Vec<Share>,
    /// Fields of later releases.
    pub extensions: Extensions,
}

impl Share {
    fn check(&self) -> Result<(), DocumentError> {
        check_limit(self.path.len(), PATH_MAX_BYTES, "a shared path")?;
        if self.path.is_empty() {
            return Ok(());
        }
        self.path.split(|byte| *byte == b'/').try_for_each(|name| Ok(Name::new(name).map(drop)?))
    }

    fn write(&self, writer: &mut Writer) {
        writer.u32(self.number);
        writer.bytes16(&self.path);
        writer.option(self.snapshot.as_ref(), |writer, id| writer.raw(id.as_bytes()));
        writer.u64(self.created.as_unix_ms());
        writer.option(self.ended.as_ref(), |writer, ended| writer.u64(ended.as_unix_ms()));
        writer.u64(self.sequence);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            number: reader.u32("a share's number")?,
            path: reader.bytes16(PATH_MAX_BYTES, "a shared path")?.to_vec(),
            snapshot: reader
                .option("a shared snapshot", |reader| reader.array("a snapshot's id").map(SnapshotId::new))?,
            created: Timestamp::from_unix_ms(reader.u64("the time of creation")?),
            ended: reader
                .option("the end of a share", |reader| reader.u64("the end of a share").map(Timestamp::from_unix_ms))?,
            sequence: reader.u64("the sequence of a share")?,
        })
    }
}

/// The least that a share takes when encoded.
const SHARE_MIN_BYTES: usize = 24;

impl Ledger {
    /// Reads a ledger's blob.
    ///
    /// # Errors
    /// [`DocumentError`]: the bytes are no such blob, or one that needs a newer release.
    pub fn parse(blob: &[u8]) -> Result<Self, DocumentError> {
        check_limit(blob.len(), BLOB_MAX_BYTES, "a ledger")?;
        let mut reader = Reader::new(blob);
        read_version(&mut reader)?;
        let kind = reader.u8("the kind")?;
        if kind != BlobKind::Ledger.byte() {
            return Err(DocumentError::Kind { expected: "a ledger of shares", found: kind });
        }
        Needs::read(&mut reader, Needs::NONE)?;
        let next = reader.u32("the next share's number")?;
        let count = reader.count16(SHARES_MAX, SHARE_MIN_BYTES, "shares")?;
        let shares = (0..count).map(|_| Share::read(&mut reader)).collect::<Result<_, _>>()?;
        let ledger = Self { next, shares, extensions: Extensions::read(&mut reader)? };
        reader.finish()?;
        ledger.check()?;
        Ok(ledger)
    }

    fn check(&self) -> Result<(), DocumentError> {
        check_limit(self.shares.len(), SHARES_MAX, "shares")?;
        check_ascending(self.shares.iter().map(|share| share.number).chain([self.next]), "shares")?;
        self.shares.iter().try_for_each(Share::check)
    }

    /// The encoding: the bytes that [`Ledger::parse`] read.
    ///
    /// # Errors
    /// [`DocumentError`] when a share breaks a rule, or shares are too many, too large together or out of order.
    pub fn to_bytes(&self) -> Result<Vec<u8>, DocumentError> {
        self.check()?;
        let bytes = self.encode();
        check_limit(bytes.len(), BLOB_MAX_BYTES, "a ledger")?;
        Ok(bytes)
    }

    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        write_header(&mut writer, BlobKind::Ledger.byte());
        Needs::NONE.write(&mut writer);
        writer.u32(self.next);
        writer.count16(self.shares.len());
        self.shares.iter().for_each(|share| share.write(&mut writer));
        self.extensions.write(&mut writer);
        writer.into_bytes()
    }

    /// Puts the ledger's blob; gives where it lies, with the sink's provisional id.
    ///
    /// # Errors
    /// [`BuildError`]: a rule of the format, or the sink.
    pub fn put<S: BlobSink>(mut self, sink: &mut S) -> Result<BlobPointer, BuildError<S::Error>> {
        self.to_bytes()?;
        put_blob(&mut self, |_, _| {}, Self::check, Self::encode, sink)
    }
}

#[cfg(test)]
mod tests;
