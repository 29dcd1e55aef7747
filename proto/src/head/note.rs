//! What an owner notes for himself in the read head: the dataset's name, its newest epoch, where the ledger of shares lies.
//!
//! Decides how a note is sealed so that readers of the head learn nothing from it, not even its length. Never decides what
//! an owner does with it: `docs/decisions/0005-owner-note-in-the-read-head.md`.

use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, Nonce};
use zeroize::Zeroizing;

use crate::codec::{CodecError, DocumentError, Extensions, Reader, VERSION, Writer, check_limit, read_version};
use crate::keys::{OwnerNoteKey, context, derive};
use crate::limits::{DATASET_NAME_MAX_BYTES, OWNER_NOTE_BYTES, TAG_BYTES};
use crate::tree::BlobPointer;

const SALT_BYTES: usize = 32;

/// Bytes of every sealed note.
pub(crate) const SEALED_BYTES: usize = SALT_BYTES + OWNER_NOTE_BYTES + TAG_BYTES;

/// Among the extensions of a note: under which epoch's dedup key chunks are sealed.
const SEALING_EXTENSION: u16 = 1;

/// Under which epoch's dedup key what is stored from now on is sealed, and whether the newest snapshot is under it whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealing {
    /// The epoch; 0 is what a note without this says.
    pub epoch: u32,
    /// Whether the newest snapshot was stored again; until then a reseal is under way, or was cut off.
    pub complete: bool,
}

/// What an owner notes in the read head of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerNote {
    /// The newest epoch of the dataset: in the head of epoch 0 it says under which keys the dataset goes on.
    pub epoch: u32,
    /// The dataset's name, 1 to [`DATASET_NAME_MAX_BYTES`] bytes.
    pub name: String,
    /// The [ledger](crate::ledger) of shares, never a self pointer; `None` before the first share.
    pub ledger: Option<BlobPointer>,
    /// Under which epoch's dedup key chunks are sealed; `None`: that of epoch 0.
    pub sealing: Option<Sealing>,
    /// Fields of later releases.
    pub extensions: Extensions,
}

/// A note as it stands in the head: for all but the owner so many random bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedNote(Vec<u8>);

/// Why a note does not open.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// It was not sealed with this key.
    #[error("the owner's note is not one of this dataset's owner")]
    Seal,
    /// It opens but is not the one that the salt was made for.
    #[error("the owner's note is not the one that was sealed")]
    Salt,
    /// What was sealed is malformed or of a newer release.
    #[error(transparent)]
    Document(#[from] DocumentError),
}

impl OwnerNote {
    /// Seals the note. The same note is the same bytes every time.
    ///
    /// # Errors
    /// [`DocumentError`] when the name is empty or too long, or all of it does not fit its [`OWNER_NOTE_BYTES`].
    pub fn seal(&self, key: &OwnerNoteKey) -> Result<SealedNote, DocumentError> {
        let mut plain = self.encode()?;
        let salt = salt(key, &plain);
        let sealed = cipher(key, &salt).encrypt_in_place(&Nonce::default(), &[], &mut *plain);
        sealed.expect("a note is far below the cipher's limit");
        Ok(SealedNote([&salt[..], &plain].concat()))
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.name.is_empty() {
            return Err(DocumentError::Empty { what: "a dataset's name" });
        }
        check_limit(self.name.len(), DATASET_NAME_MAX_BYTES, "a dataset's name")?;
        if self.sealing.is_some_and(|sealing| sealing.epoch == 0 || sealing.epoch > self.epoch) {
            return Err(DocumentError::Sealing);
        }
        let Some(ledger) = &self.ledger else { return Ok(()) };
        ledger.check_absolute("the ledger in a note")?;
        ledger.check()
    }

    fn encode(&self) -> Result<Zeroizing<Vec<u8>>, DocumentError> {
        self.check()?;
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.u32(self.epoch);
        writer.bytes8(self.name.as_bytes());
        writer.option(self.ledger.as_ref(), |writer, ledger| ledger.write(writer));
        let sealing =
            self.sealing.map(|sealing| [&sealing.epoch.to_le_bytes()[..], &[u8::from(sealing.complete)]].concat());
        self.extensions.clone().with_typed(SEALING_EXTENSION, sealing)?.write(&mut writer);
        let mut plain = Zeroizing::new(writer.into_bytes());
        check_limit(plain.len(), OWNER_NOTE_BYTES, "an owner's note")?;
        plain.resize(OWNER_NOTE_BYTES, 0);
        Ok(plain)
    }

    fn decode(plain: &[u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(plain);
        read_version(&mut reader)?;
        let epoch = reader.u32("the epoch")?;
        let name = reader.bytes8(DATASET_NAME_MAX_BYTES, "a dataset's name")?;
        let name = core::str::from_utf8(name).map_err(|_| CodecError::Text { what: "a dataset's name" })?.to_owned();
        let ledger = reader.option("the ledger", BlobPointer::read)?;
        let mut extensions = Extensions::read_with_odd(&mut reader, &[SEALING_EXTENSION])?;
        let sealing = extensions.take(SEALING_EXTENSION).map(|value| Sealing::read(&value)).transpose()?;
        let note = Self { epoch, name, ledger, sealing, extensions };
        note.check()?;
        let padding = reader.take(reader.remaining(), "the padding of a note")?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(DocumentError::Padding);
        }
        Ok(note)
    }
}

impl Sealing {
    fn read(value: &[u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(value);
        let epoch = reader.u32("the epoch of the dedup key")?;
        let complete = match reader.u8("whether a reseal is complete")? {
            0 => false,
            1 => true,
            found => return Err(CodecError::Unknown { what: "whether a reseal is complete", found }.into()),
        };
        reader.finish()?;
        Ok(Self { epoch, complete })
    }
}

impl SealedNote {
    /// Opens the note.
    ///
    /// # Errors
    /// [`NoteError`]: another key sealed it, or what was sealed cannot be read.
    pub fn open(&self, key: &OwnerNoteKey) -> Result<OwnerNote, NoteError> {
        let (stated, sealed) = self.0.split_first_chunk::<SALT_BYTES>().ok_or(NoteError::Seal)?;
        let mut plain = Zeroizing::new(sealed.to_vec());
        cipher(key, stated).decrypt_in_place(&Nonce::default(), &[], &mut *plain).map_err(|_| NoteError::Seal)?;
        if salt(key, &plain) != *stated {
            return Err(NoteError::Salt);
        }
        Ok(OwnerNote::decode(&plain)?)
    }

    /// The sealed bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes the bytes of a sealed note, of which there are always as many.
    ///
    /// # Errors
    /// [`DocumentError::Codec`] when there are more or fewer.
    pub fn parse(value: &[u8]) -> Result<Self, DocumentError> {
        let mut reader = Reader::new(value);
        let sealed = reader.take(SEALED_BYTES, "the owner's note")?.to_vec();
        reader.finish()?;
        Ok(Self(sealed))
    }
}

/// Depends on all that is sealed, so that no key meets two plaintexts.
fn salt(key: &OwnerNoteKey, plain: &[u8]) -> [u8; SALT_BYTES] {
    *blake3::keyed_hash(key.expose(), plain).as_bytes()
}

fn cipher(key: &OwnerNoteKey, salt: &[u8; SALT_BYTES]) -> ChaCha20Poly1305 {
    let key = Zeroizing::new(derive(context::OWNER_NOTE_SEAL, &[key.expose(), salt]));
    ChaCha20Poly1305::new((&*key).into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::SegmentId;
    use crate::seal::ChunkKey;
    use crate::tree::SELF_SEGMENT;

    const KEY: OwnerNoteKey = OwnerNoteKey::new([5; 32]);

    fn ledger(segment: SegmentId) -> BlobPointer {
        BlobPointer { key: ChunkKey::new([1; 32]), segment, offset: 0, length: 300 }
    }

    fn note(name: &str, shared: bool) -> OwnerNote {
        let ledger = shared.then(|| ledger(SegmentId::new([2; 32])));
        OwnerNote { epoch: 3, name: name.to_owned(), ledger, sealing: None, extensions: Extensions::default() }
    }

    /// Seals any plain bytes as somebody with the key would.
    fn sealed(plain: &[u8], salt: [u8; 32]) -> SealedNote {
        let mut bytes = plain.to_vec();
        cipher(&KEY, &salt).encrypt_in_place(&Nonce::default(), &[], &mut bytes).expect("short");
        SealedNote([&salt[..], &bytes].concat())
    }

    #[test]
    fn a_note_reads_back_and_its_length_says_nothing() {
        for note in [note("a", false), note(&"n".repeat(DATASET_NAME_MAX_BYTES), true)] {
            let bytes = note.seal(&KEY).expect("fits");
            assert_eq!(bytes.as_bytes().len(), SEALED_BYTES);
            assert_eq!(SealedNote::parse(bytes.as_bytes()), Ok(bytes.clone()));
            assert_eq!(bytes.open(&KEY), Ok(note.clone()));
            assert_eq!(note.seal(&KEY), Ok(bytes), "nothing is drawn");
        }
        assert_ne!(
            note("a", false).seal(&KEY).expect("fits").0[..32],
            note("b", false).seal(&KEY).expect("fits").0[..32]
        );
    }

    #[test]
    fn notes_that_break_a_rule_are_refused_by_writer_and_reader() {
        assert_eq!(note("", false).seal(&KEY), Err(DocumentError::Empty { what: "a dataset's name" }));
        assert!(note(&"n".repeat(DATASET_NAME_MAX_BYTES + 1), false).seal(&KEY).is_err());
        let mut own = note("a", false);
        own.ledger = Some(ledger(SELF_SEGMENT));
        assert_eq!(own.seal(&KEY), Err(DocumentError::SelfPointer { what: "the ledger in a note" }));
        let mut long = note("a", true);
        long.extensions.insert(2, vec![0; 430]).expect("a document could");
        assert!(long.seal(&KEY).is_err());

        let good = note("a", true).encode().expect("fits").to_vec();
        let changed = |place: usize, value: u8| {
            let mut plain = good.clone();
            plain[place] = value;
            sealed(&plain, salt(&KEY, &plain)).open(&KEY)
        };
        assert!(changed(6, b'z').is_ok(), "another name");
        assert_eq!(changed(0, 2), Err(DocumentError::Version { found: 2 }.into()));
        assert!(changed(5, 0).is_err(), "no name, and what follows is read as something else");
        assert_eq!(changed(6, 0xff), Err(DocumentError::from(CodecError::Text { what: "a dataset's name" }).into()));
        assert_eq!(changed(OWNER_NOTE_BYTES - 1, 1), Err(DocumentError::Padding.into()));
    }

    #[test]
    fn which_epoch_seals_reads_back_and_impossible_ones_are_refused() {
        for (epoch, complete) in [(1, false), (3, true)] {
            let mut note = note("a", true);
            note.sealing = Some(Sealing { epoch, complete });
            assert_eq!(note.seal(&KEY).expect("fits").open(&KEY), Ok(note));
        }
        for epoch in [0, 4] {
            let mut note = note("a", false);
            note.sealing = Some(Sealing { epoch, complete: true });
            assert_eq!(note.seal(&KEY), Err(DocumentError::Sealing));
        }
        let mut good = note("a", false);
        good.sealing = Some(Sealing { epoch: 3, complete: true });
        let good = good.encode().expect("fits").to_vec();
        // Version, epoch, name, ledger, then one extension: its count, key and length.
        let at = 1 + 4 + 2 + 1 + 2 + 2 + 4;
        assert_eq!(good[at..at + 5], [3, 0, 0, 0, 1]);
        for (place, value) in [(at, 0), (at, 4), (at + 4, 2), (at - 4, 6), (at - 6, 3)] {
            let mut plain = good.clone();
            plain[place] = value;
            assert!(sealed(&plain, salt(&KEY, &plain)).open(&KEY).is_err(), "byte {place} is {value}");
        }
    }

    #[test]
    fn only_the_owner_opens_a_note_and_any_flipped_bit_is_refused() {
        let good = note("a", true).seal(&KEY).expect("fits");
        assert_eq!(good.open(&OwnerNoteKey::new([6; 32])), Err(NoteError::Seal));
        for place in 0..SEALED_BYTES {
            let mut bytes = good.clone();
            bytes.0[place] ^= 1;
            assert_eq!(bytes.open(&KEY), Err(NoteError::Seal), "byte {place}");
        }
        let plain = note("a", true).encode().expect("fits");
        assert_eq!(sealed(&plain, [9; 32]).open(&KEY), Err(NoteError::Salt));
        assert!(SealedNote::parse(&good.0[1..]).is_err());
        assert!(SealedNote::parse(&[&good.0[..], &[0]].concat()).is_err());
    }

    proptest! {
        #[test]
        fn any_plain_bytes_are_read_without_panic_and_have_one_encoding(
            mut plain in proptest::collection::vec(any::<u8>(), 0..OWNER_NOTE_BYTES), begin: bool,
        ) {
            if begin {
                plain.splice(0..plain.len().min(7), [1, 0, 0, 0, 0, 1, b'a']);
            }
            plain.resize(OWNER_NOTE_BYTES, 0);
            if let Ok(note) = OwnerNote::decode(&plain) {
                prop_assert_eq!(&note.encode().expect("was read")[..], &plain[..]);
            }
        }
    }
}
