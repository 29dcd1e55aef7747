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

/// What an owner notes in the read head of a dataset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnerNote {
    /// The newest epoch of the dataset: in the head of epoch 0 it says under which keys the dataset goes on.
    pub epoch: u32,
    /// The dataset's name, 1 to [`DATASET_NAME_MAX_BYTES`] bytes.
    pub name: String,
    /// The [ledger](crate::ledger) of shares, never a self pointer; `None` before the first share.
    pub ledger: Option<BlobPointer>,
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
        self.extensions.write(&mut writer);
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
        let note = Self { epoch, name, ledger, extensions: Extensions::read(&mut reader)? };
        note.check()?;
        let padding = reader.take(reader.remaining(), "the padding of a note")?;
        if padding.iter().any(|byte| *byte != 0) {
            return Err(DocumentError::Padding);
        }
        Ok(note)
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

    pub(super) fn parse(value: &[u8]) -> Result<Self, DocumentError> {
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
