//! Heads: small signed records that point to the newest of a document, at places that only link holders can name.
//!
//! Decides what a head is, who may write one, who can open it, and which of two heads wins. Never decides where a head
//! lies ([`crate::keys`] derives the points) or how many copies must be written ([`crate::heads`](crate)). A reader can open
//! a head but never make one: `docs/decisions/0001-read-link-commits-to-the-writers-key.md`.

mod body;
mod lineage;
mod note;
mod order;
mod steward;
mod view;

pub use body::{Holder, PlacedSegment, ReadBody, TableBody, TableLocation};
pub use lineage::{Kinship, Lineage};
pub use note::{NoteError, OwnerNote, SealedNote, Sealing};
pub use order::{Refusal, Verdict, accept};
pub use steward::{OverlayBody, StewardBody, named_stewards, with_named_stewards};
pub use view::ViewBody;

use bytes::Bytes;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, Nonce};
use ed25519_dalek::SigningKey;
use zeroize::Zeroizing;

use crate::codec::{CodecError, DocumentError, Reader, Writer, check_limit};
use crate::ids::HeadHash;
use crate::keys::{HeadSealSecret, ReadKeys, ReadSecret, TableKeys, TableSecret, context, derive};
use crate::limits::{HEAD_MAX_BYTES, TAG_BYTES};
use crate::link::{Link, LinkKind};
use crate::sign::{SIGNATURE_BYTES, SignatureError, SignatureKind, sign, verify};

const VERSION: u8 = 1;
/// Version, public key, sequence, previous, salt, body length: everything before the sealed body.
const PREFIX_BYTES: usize = 1 + 32 + 8 + 32 + 32 + 2;
/// What is hashed with the plain body to make the salt: public key, sequence, previous.
const NAMED_BYTES: core::ops::Range<usize> = 1..73;
const SEALED_MAX_BYTES: usize = HEAD_MAX_BYTES - PREFIX_BYTES - SIGNATURE_BYTES;

/// There is no head before the first one.
pub const NO_HEAD: HeadHash = HeadHash::new([0; 32]);

/// Why a head is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// The bytes are longer than any head, cut off or too many: the carrier's fault.
    #[error("the head is malformed: {0}")]
    Codec(#[from] CodecError),
    /// The version is not one that this release reads.
    #[error("the head has format version {0}, this release reads version {VERSION}")]
    Version(u8),
    /// A head's sequence starts at 1, and the first one replaces nothing.
    #[error("a head of sequence {0} cannot replace what it says")]
    Sequence(u64),
    /// The signature is not one of the head's own key: the carrier's fault.
    #[error("the head is not signed by its key: {0}")]
    Signature(#[from] SignatureError),
    /// The body was not sealed for whoever holds this secret.
    #[error("the head does not open with this link")]
    Seal,
    /// The body opens but is not the one that the salt was made for: its writer's fault.
    #[error("the head's body is not the one that was sealed")]
    Salt,
    /// The head is one of another document.
    #[error("the head is of kind {found}, not {expected}")]
    Kind {
        /// What was looked for.
        expected: u8,
        /// What it is.
        found: u8,
    },
    /// The link does not commit to the key that signed the head: somebody who can read but not write made it.
    #[error("the head was not written by the dataset's owner")]
    NotCommitted,
    /// The head was signed by another key than the one expected: the same, for a table.
    #[error("the table's head was not written by the dataset's owner")]
    OtherKey,
    /// A frozen link takes the first head only.
    #[error("the dataset has changed since this frozen link was made (head {0})")]
    Frozen(u64),
    /// The link is of a kind that opens no read head: a view link opens the head of a view.
    #[error("a {0:?} link does not open the head of a dataset")]
    LinkKind(LinkKind),
    /// What the owner sealed is malformed or needs a newer release.
    #[error(transparent)]
    Body(#[from] DocumentError),
}

/// A head whose form and signature have been checked. Kept as the bytes that were received.
#[derive(Clone, PartialEq, Eq)]
pub struct Head {
    bytes: Bytes,
    public_key: [u8; 32],
    sequence: u64,
    previous: HeadHash,
    hash: HeadHash,
}

/// What [`Head::create_read`] and [`Head::create_table`] need beside the body.
#[derive(Debug, Clone, Copy)]
pub struct HeadOrder {
    /// One more than that of the head before, 1 for the first.
    pub sequence: u64,
    /// The hash of the head before, [`NO_HEAD`] for the first.
    pub previous: HeadHash,
}

impl HeadOrder {
    /// Of the head that follows `current`, or of the first one.
    #[must_use]
    pub fn after(current: Option<&Head>) -> Self {
        match current {
            None => Self { sequence: 1, previous: NO_HEAD },
            Some(head) => Self { sequence: head.sequence.saturating_add(1), previous: head.hash },
        }
    }
}

impl Head {
    /// Makes the read head of a dataset; `key` is its read head key, to which the read secret commits.
    ///
    /// # Errors
    /// [`HeadError::NotCommitted`] when key and opening are not those of `read`; [`HeadError::Sequence`],
    /// [`HeadError::Body`] or [`HeadError::Codec`] when order or body cannot be written.
    pub fn create_read(
        read: &ReadSecret,
        key: &SigningKey,
        order: HeadOrder,
        body: &ReadBody,
    ) -> Result<Self, HeadError> {
        check_commitment(read, body, &key.verifying_key().to_bytes())?;
        Self::create(&ReadKeys::derive(read).seal, key, order, body::encode_read(body)?)
    }

    /// Makes the table head of a dataset; `key` is its table head key.
    ///
    /// # Errors
    /// [`HeadError::Sequence`], [`HeadError::Body`] or [`HeadError::Codec`] when order or body cannot be written.
    pub fn create_table(
        table: &TableSecret,
        key: &SigningKey,
        order: HeadOrder,
        body: &TableBody,
    ) -> Result<Self, HeadError> {
        Self::create(&TableKeys::derive(table).seal, key, order, body::encode_table(body)?)
    }

    fn create(
        seal: &HeadSealSecret,
        key: &SigningKey,
        order: HeadOrder,
        plain: Zeroizing<Vec<u8>>,
    ) -> Result<Self, HeadError> {
        check_order(order)?;
        let sealed_bytes = plain.len() + TAG_BYTES;
        check_limit(sealed_bytes, SEALED_MAX_BYTES, "the body of a head")?;
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.raw(&key.verifying_key().to_bytes());
        writer.u64(order.sequence);
        writer.raw(order.previous.as_bytes());
        let mut bytes = writer.into_bytes();
        let salt = salt(seal, &bytes[NAMED_BYTES], &plain);
        bytes.extend_from_slice(&salt);
        bytes.extend_from_slice(&u16::try_from(sealed_bytes).expect("a head is shorter than 2^16").to_le_bytes());
        let mut sealed = plain.to_vec();
        cipher(seal, &salt)
            .encrypt_in_place(&Nonce::default(), &bytes, &mut sealed)
            .expect("a head is far below the cipher's limit");
        bytes.extend_from_slice(&sealed);
        let signature = sign(SignatureKind::Head, key, &bytes);
        bytes.extend_from_slice(&signature);
        Self::parse(&bytes)
    }

    /// Reads a head and checks its signature against its own key. Whether that key may write is asked when it is opened.
    ///
    /// # Errors
    /// [`HeadError`]: malformed, of another version or wrongly signed.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        check_limit(bytes.len(), HEAD_MAX_BYTES, "a head")?;
        let mut reader = Reader::new(bytes);
        let version = reader.u8("the version")?;
        if version != VERSION {
            return Err(HeadError::Version(version));
        }
        let public_key = reader.array("the public key")?;
        let sequence = reader.u64("the sequence")?;
        let previous = HeadHash::new(reader.array("the previous head")?);
        reader.array::<32>("the salt")?;
        let sealed = reader.bytes16(SEALED_MAX_BYTES, "the body of a head")?;
        if sealed.len() <= TAG_BYTES {
            return Err(CodecError::Truncated { what: "the body of a head" }.into());
        }
        let signature = reader.take(SIGNATURE_BYTES, "the signature")?;
        reader.finish()?;
        check_order(HeadOrder { sequence, previous })?;
        let signed = bytes.len() - SIGNATURE_BYTES;
        verify(SignatureKind::Head, &public_key, &bytes[..signed], signature)?;
        let hash = HeadHash::new(*blake3::hash(bytes).as_bytes());
        Ok(Self { bytes: Bytes::copy_from_slice(bytes), public_key, sequence, previous, hash })
    }

    /// The bytes as they were received.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    /// The Ed25519 key that signed it.
    #[must_use]
    pub const fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// Its place in the order of its key's heads, 1 and up.
    #[must_use]
    pub const fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The head that it replaces, [`NO_HEAD`] for the first.
    #[must_use]
    pub const fn previous(&self) -> HeadHash {
        self.previous
    }

    /// The BLAKE3 hash of all its bytes.
    #[must_use]
    pub const fn hash(&self) -> HeadHash {
        self.hash
    }

    /// Opens it as the read head that a link of either kind leads to.
    ///
    /// # Errors
    /// As [`Head::open_read`]; [`HeadError::Frozen`] when the link is frozen and this is not the first head;
    /// [`HeadError::LinkKind`] for links that do not lead to a read head.
    pub fn open_link(&self, link: &Link) -> Result<ReadBody, HeadError> {
        let secret = link.read_secret().ok_or(HeadError::LinkKind(link.kind()))?;
        let body = self.open_read(secret)?;
        if link.kind() == LinkKind::ReadFrozen && self.sequence != 1 {
            return Err(HeadError::Frozen(self.sequence));
        }
        Ok(body)
    }

    /// Opens it as the read head of the dataset whose read secret this is: checks that the owner signed it.
    ///
    /// # Errors
    /// [`HeadError::Seal`] when it is no head of this dataset, [`HeadError::NotCommitted`] when another reader made it,
    /// [`HeadError::Body`] when what the owner sealed cannot be read.
    pub fn open_read(&self, read: &ReadSecret) -> Result<ReadBody, HeadError> {
        let plain = self.open(&ReadKeys::derive(read).seal)?;
        let body = body::decode_read(&plain)?;
        check_commitment(read, &body, &self.public_key)?;
        Ok(body)
    }

    /// Opens it as the table head of the dataset whose table secret this is; `expected_key` stands in the read head.
    ///
    /// # Errors
    /// [`HeadError::OtherKey`] when another key signed it, else as [`Head::open_read`].
    pub fn open_table(&self, table: &TableSecret, expected_key: &[u8; 32]) -> Result<TableBody, HeadError> {
        if self.public_key != *expected_key {
            return Err(HeadError::OtherKey);
        }
        let plain = self.open(&TableKeys::derive(table).seal)?;
        body::decode_table(&plain)
    }

    fn open(&self, seal: &HeadSealSecret) -> Result<Zeroizing<Vec<u8>>, HeadError> {
        let (prefix, rest) = self.bytes.split_at(PREFIX_BYTES);
        let stated: [u8; 32] = prefix[73..105].try_into().expect("the salt has 32 bytes");
        let mut plain = Zeroizing::new(rest[..rest.len() - SIGNATURE_BYTES].to_vec());
        cipher(seal, &stated).decrypt_in_place(&Nonce::default(), prefix, &mut *plain).map_err(|_| HeadError::Seal)?;
        if salt(seal, &prefix[NAMED_BYTES], &plain) == stated { Ok(plain) } else { Err(HeadError::Salt) }
    }
}

impl core::fmt::Debug for Head {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(formatter, "Head({}, sequence {})", self.hash.short(), self.sequence)
    }
}

fn check_order(order: HeadOrder) -> Result<(), HeadError> {
    if order.sequence == 0 || (order.sequence == 1 && order.previous != NO_HEAD) {
        return Err(HeadError::Sequence(order.sequence));
    }
    Ok(())
}

fn check_commitment(read: &ReadSecret, body: &ReadBody, public_key: &[u8; 32]) -> Result<(), HeadError> {
    if ReadSecret::commit(&body.read_opening, public_key) == *read { Ok(()) } else { Err(HeadError::NotCommitted) }
}

/// Depends on all that is sealed and all that is bound to it, so that no key meets two plaintexts.
fn salt(seal: &HeadSealSecret, named: &[u8], plain: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_keyed(seal.expose());
    hasher.update(&plain[..1]).update(named).update(plain);
    *hasher.finalize().as_bytes()
}

fn cipher(seal: &HeadSealSecret, salt: &[u8; 32]) -> ChaCha20Poly1305 {
    let key = Zeroizing::new(derive(context::HEAD_BODY, &[seal.expose(), salt]));
    ChaCha20Poly1305::new((&*key).into())
}

#[cfg(test)]
mod tests;
