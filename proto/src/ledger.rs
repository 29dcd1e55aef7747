//! The ledger: what an owner has shared of a dataset and which stewards it has, one blob that only the owner can open.
//!
//! Decides how shares and stewards are kept and that no number is ever used for two. Never decides what a share shows or what a
//! steward is granted: the owner publishes their heads from it, again whenever what they say changed.

use core::time::Duration;

use crate::codec::{
    DocumentError, Extensions, Needs, Reader, Writer, check_ascending, check_limit, read_version, write_header,
};
use crate::ids::{SnapshotId, Timestamp};
use crate::limits::{
    BLOB_MAX_BYTES, LEDGER_STEWARD_BYTES, LEDGER_STEWARDS_MAX, PATH_MAX_BYTES, SHARES_MAX, TABLE_STEWARDS_MAX,
};
use crate::manifest::Name;
use crate::tree::{BlobKind, BlobPointer, BlobSink, BuildError, CountedTree, put_blob};

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

/// A steward: somebody who keeps the dataset alive and cannot read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steward {
    /// The number that the steward's keys follow from; never that of a share.
    pub number: u32,
    /// When he was appointed.
    pub created: Timestamp,
    /// When that ended; the table does not name him from then on.
    pub ended: Option<Timestamp>,
    /// The most bytes that he may put at each node in the owner's name.
    pub quota_bytes: u64,
    /// How long his grants last when they are made.
    pub lasting: Duration,
    /// The end of the grants that he has.
    pub granted_until: Timestamp,
    /// The epoch of the table secret that his newest head tells.
    pub epoch: u32,
    /// The tree of his grants, never a self pointer; `None` before the first.
    pub grants: Option<CountedTree>,
}

/// All shares and stewards of a dataset.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ledger {
    /// The number of the next share or steward, above all that were ever taken: ended ones may be dropped, their numbers stay
    /// used.
    pub next: u32,
    /// Ascending by number, at most [`SHARES_MAX`].
    pub shares: Vec<Share>,
    /// Ascending by number, at most [`LEDGER_STEWARDS_MAX`], of which [`TABLE_STEWARDS_MAX`] have not ended. A release that does
    /// not know of stewards refuses a ledger with any.
    pub stewards: Vec<Steward>,
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

impl Steward {
    fn write(&self, writer: &mut Writer) {
        writer.u32(self.number);
        writer.u64(self.created.as_unix_ms());
        writer.option(self.ended.as_ref(), |writer, ended| writer.u64(ended.as_unix_ms()));
        writer.u64(self.quota_bytes);
        writer.u64(u64::try_from(self.lasting.as_millis()).unwrap_or(u64::MAX));
        writer.u64(self.granted_until.as_unix_ms());
        writer.u32(self.epoch);
        writer.option(self.grants.as_ref(), |writer, grants| writer.raw(&grants.to_bytes()));
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            number: reader.u32("a steward's number")?,
            created: Timestamp::from_unix_ms(reader.u64("the time of creation")?),
            ended: reader.option("the end of a steward", |reader| {
                reader.u64("the end of a steward").map(Timestamp::from_unix_ms)
            })?,
            quota_bytes: reader.u64("a steward's quota")?,
            lasting: Duration::from_millis(reader.u64("how long grants last")?),
            granted_until: Timestamp::from_unix_ms(reader.u64("the end of grants")?),
            epoch: reader.u32("a steward's epoch")?,
            grants: reader.option("the grants", CountedTree::read)?,
        })
    }
}

/// Among the extensions of a ledger; odd, so it must be understood.
const EXTENSION_STEWARDS: u16 = 1;

/// The least that a steward takes when encoded.
const STEWARD_MIN_BYTES: usize = 42;

fn write_stewards(stewards: &[Steward]) -> Option<Vec<u8>> {
    let mut writer = Writer::new();
    writer.count16(stewards.len());
    stewards.iter().for_each(|steward| steward.write(&mut writer));
    (!stewards.is_empty()).then(|| writer.into_bytes())
}

fn read_stewards(value: &[u8]) -> Result<Vec<Steward>, DocumentError> {
    let mut reader = Reader::new(value);
    let count = reader.count16(LEDGER_STEWARDS_MAX, STEWARD_MIN_BYTES, "stewards")?;
    if count == 0 {
        return Err(DocumentError::Empty { what: "stewards that are named" });
    }
    let stewards = (0..count).map(|_| Steward::read(&mut reader)).collect::<Result<_, _>>()?;
    reader.finish()?;
    Ok(stewards)
}

const _: () = assert!(4 + 8 + 9 + 8 + 8 + 8 + 4 + 1 + 8 + 72 == LEDGER_STEWARD_BYTES, "a steward's longest encoding");

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
        let mut extensions = Extensions::read_with_odd(&mut reader, &[EXTENSION_STEWARDS])?;
        reader.finish()?;
        let stewards = extensions.take(EXTENSION_STEWARDS).map(|value| read_stewards(&value)).transpose()?;
        let ledger = Self { next, shares, stewards: stewards.unwrap_or_default(), extensions };
        ledger.check()?;
        Ok(ledger)
    }

    fn check(&self) -> Result<(), DocumentError> {
        check_limit(self.shares.len(), SHARES_MAX, "shares")?;
        check_ascending(self.shares.iter().map(|share| share.number).chain([self.next]), "shares")?;
        check_limit(self.stewards.len(), LEDGER_STEWARDS_MAX, "stewards")?;
        let active = self.stewards.iter().filter(|steward| steward.ended.is_none()).count();
        check_limit(active, TABLE_STEWARDS_MAX, "stewards that have not ended")?;
        check_ascending(self.stewards.iter().map(|steward| steward.number).chain([self.next]), "stewards")?;
        let is_share = |number: u32| self.shares.binary_search_by_key(&number, |share| share.number).is_ok();
        if self.stewards.iter().any(|steward| is_share(steward.number)) {
            return Err(DocumentError::Order { what: "numbers of shares and stewards" });
        }
        for grants in self.stewards.iter().filter_map(|steward| steward.grants.as_ref()) {
            grants.check()?;
            grants.root.check_absolute("the grants in a ledger")?;
        }
        self.all_extensions()?;
        self.shares.iter().try_for_each(Share::check)
    }

    fn all_extensions(&self) -> Result<Extensions, DocumentError> {
        self.extensions.clone().with_typed(EXTENSION_STEWARDS, write_stewards(&self.stewards))
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
        self.all_extensions().expect("checked before anything is encoded").write(&mut writer);
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
