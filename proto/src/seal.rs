//! Chunks sealed in frames, each chunk under its own key.
//!
//! Decides what key a chunk has, what its id is and how its frames are sealed and opened. Knows no segment, no
//! position and no file: equal bytes of one dataset are equal sealed chunks wherever they stand.

use chacha20poly1305::aead::inout::InOutBuf;
use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit, Nonce, Tag};

use crate::ids::ChunkId;
use crate::keys::{DedupKey, context, derive};
use crate::limits::{CHUNK_MAX_BYTES, FRAME_PLAIN_BYTES, FRAME_STORED_BYTES, SEALED_CHUNK_MAX_BYTES, TAG_BYTES};
use crate::secret::secret;

/// Suite 1: ChaCha20-Poly1305 frames, BLAKE3, Reed-Solomon over GF(2^8) mod 0x11d. Stands in every document that depends on it.
pub const SUITE: u8 = 1;

secret! {
    /// The key of one chunk: whoever has it can open the chunk and name its id. Stands in manifests and pointers.
    ChunkKey
}

/// How the bytes of a chunk were packed before they were sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Codec {
    /// Sealed as they are.
    Plain,
}

impl Codec {
    /// As formats write it.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Plain => 0,
        }
    }

    /// From a format's byte; `None` for a codec that this release does not know.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Plain),
            _ => None,
        }
    }
}

/// Why a chunk was not sealed: the caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A chunk has between one byte and the limit.
    #[error("a chunk has 1 to {CHUNK_MAX_BYTES} bytes, not {0}")]
    ChunkLength(usize),
    /// The output does not have the sealed length.
    #[error("the output has {found} bytes, the sealed chunk {expected}")]
    OutputLength {
        /// What [`sealed_len`] gives.
        expected: usize,
        /// What the caller brought.
        found: usize,
    },
}

/// Why sealed bytes were not opened. After the shard's root was checked this is the writer's fault, not the node's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No chunk has this sealed length.
    #[error("no sealed chunk has {0} bytes")]
    ChunkLength(usize),
    /// The bytes are not whole frames of the chunk.
    #[error("the bytes are not whole frames of the chunk")]
    Frames,
    /// The output does not have the length that the frames open to.
    #[error("the output has {found} bytes, the frames open to {expected}")]
    OutputLength {
        /// What the frames open to.
        expected: usize,
        /// What the caller brought.
        found: usize,
    },
    /// A frame was not sealed by this key in this place.
    #[error("frame {0} of the chunk does not open: the data is damaged or the key is another chunk's")]
    Tag(usize),
}

/// The frame size as chunk keys hash it.
const FRAME_STORED_BYTES_LE: [u8; 4] = 16_384u32.to_le_bytes();
const _: () = assert!(u32::from_le_bytes(FRAME_STORED_BYTES_LE) as usize == FRAME_STORED_BYTES);

/// The key of the chunk with these bytes: equal for equal bytes of one dataset, unrelated everywhere else.
#[must_use]
pub fn chunk_key(dedup: &DedupKey, codec: Codec, bytes: &[u8]) -> ChunkKey {
    let mut hasher = blake3::Hasher::new_keyed(dedup.expose());
    hasher.update(&[SUITE]).update(&FRAME_STORED_BYTES_LE).update(&[codec.to_byte()]).update(bytes);
    ChunkKey::new(*hasher.finalize().as_bytes())
}

impl ChunkKey {
    /// The chunk's id: names the sealed chunk, tells nothing about the key.
    #[must_use]
    pub fn id(&self) -> ChunkId {
        ChunkId::new(derive(context::CHUNK_ID, &[self.expose()]))
    }

    fn cipher(&self) -> ChaCha20Poly1305 {
        let key = zeroize::Zeroizing::new(derive(context::CHUNK_SEAL, &[self.expose()]));
        ChaCha20Poly1305::new((&*key).into())
    }
}

/// Stored bytes of a chunk with this many plain bytes: a tag of 16 bytes for each frame more.
#[must_use]
pub const fn sealed_len(plain_bytes: usize) -> usize {
    plain_bytes + frame_count(plain_bytes) * TAG_BYTES
}

/// Frames of a chunk with this many plain bytes.
#[must_use]
pub const fn frame_count(plain_bytes: usize) -> usize {
    plain_bytes.div_ceil(FRAME_PLAIN_BYTES)
}

/// Plain bytes of a chunk with this many stored bytes; `None` when no chunk has that many.
#[must_use]
pub const fn plain_len(sealed_bytes: usize) -> Option<usize> {
    let frames = sealed_bytes.div_ceil(FRAME_STORED_BYTES);
    if sealed_bytes > SEALED_CHUNK_MAX_BYTES || sealed_bytes <= frames * TAG_BYTES {
        return None;
    }
    let plain_bytes = sealed_bytes - frames * TAG_BYTES;
    if sealed_len(plain_bytes) == sealed_bytes { Some(plain_bytes) } else { None }
}

/// The frames of a chunk that cover a range of its plain bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameSpan {
    /// Number of the first frame, for [`open_frames`].
    pub first_frame: usize,
    /// Where the first frame starts in the sealed chunk, in bytes.
    pub sealed_offset: usize,
    /// Sealed bytes of all frames of the span.
    pub sealed_bytes: usize,
    /// Plain bytes of the span before the range's first byte.
    pub skip_bytes: usize,
}

/// The whole frames that cover `length` plain bytes from `offset` of a chunk with `plain_bytes`; `None` when the
/// range is empty or does not lie in the chunk.
#[must_use]
pub fn frames_covering(plain_bytes: usize, offset: usize, length: usize) -> Option<FrameSpan> {
    let end = offset.checked_add(length)?;
    if length == 0 || end > plain_bytes || plain_bytes > CHUNK_MAX_BYTES {
        return None;
    }
    let first_frame = offset / FRAME_PLAIN_BYTES;
    let sealed_offset = first_frame * FRAME_STORED_BYTES;
    let sealed_end = (end.div_ceil(FRAME_PLAIN_BYTES) * FRAME_STORED_BYTES).min(sealed_len(plain_bytes));
    Some(FrameSpan {
        first_frame,
        sealed_offset,
        sealed_bytes: sealed_end - sealed_offset,
        skip_bytes: offset - first_frame * FRAME_PLAIN_BYTES,
    })
}

/// The nonce of a frame: its number in the chunk in 11 bytes, then 1 for the last frame and 0 for all others. A chunk key
/// meets one chunk only, so no nonce ever meets two plaintexts.
fn frame_nonce(frame: usize, last: bool) -> Nonce {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(frame as u64).to_le_bytes());
    nonce[11] = u8::from(last);
    nonce.into()
}

/// Seals `plain` into `out`, which has exactly [`sealed_len`] bytes.
///
/// # Errors
/// When the chunk is empty or too long, or `out` has another length.
pub fn seal_into(key: &ChunkKey, plain: &[u8], out: &mut [u8]) -> Result<(), SealError> {
    if plain.is_empty() || plain.len() > CHUNK_MAX_BYTES {
        return Err(SealError::ChunkLength(plain.len()));
    }
    let expected = sealed_len(plain.len());
    if out.len() != expected {
        return Err(SealError::OutputLength { expected, found: out.len() });
    }
    let cipher = key.cipher();
    let last = frame_count(plain.len()) - 1;
    let frames = plain.chunks(FRAME_PLAIN_BYTES).zip(out.chunks_mut(FRAME_STORED_BYTES));
    for (number, (plain, stored)) in frames.enumerate() {
        let (body, tag) = stored.split_at_mut(plain.len());
        let buffer = InOutBuf::new(plain, body).expect("the frame's body was split to the plain length");
        let sealed = cipher
            .encrypt_inout_detached(&frame_nonce(number, number == last), &[], buffer)
            .expect("a frame is far below the cipher's limit");
        tag.copy_from_slice(&sealed);
    }
    Ok(())
}

/// Opens a whole sealed chunk into `out`, whose former contents are lost; nothing is in it after an error.
///
/// # Errors
/// When the length is no chunk's or any frame's tag does not match.
pub fn open_into(key: &ChunkKey, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), OpenError> {
    out.clear();
    out.resize(plain_len(sealed.len()).ok_or(OpenError::ChunkLength(sealed.len()))?, 0);
    open_frames(key, sealed.len(), 0, sealed, out).inspect_err(|_| out.clear())
}

/// Opens whole frames of a chunk with `sealed_total_bytes`, from frame `first_frame` on, into `out`, which has exactly as
/// many bytes as they open to: 16 for each begun 16,384 less. Ask [`frames_covering`] which frames to fetch. After an
/// error `out` is all zero.
///
/// # Errors
/// When `sealed` is not whole frames of such a chunk, `out` has another length, or any tag does not match.
pub fn open_frames(
    key: &ChunkKey,
    sealed_total_bytes: usize,
    first_frame: usize,
    sealed: &[u8],
    out: &mut [u8],
) -> Result<(), OpenError> {
    let plain_total = plain_len(sealed_total_bytes).ok_or(OpenError::ChunkLength(sealed_total_bytes))?;
    let last = frame_count(plain_total) - 1;
    if first_frame > last || sealed.is_empty() {
        return Err(OpenError::Frames);
    }
    let left = sealed_total_bytes - first_frame * FRAME_STORED_BYTES;
    if sealed.len() > left || (sealed.len() != left && !sealed.len().is_multiple_of(FRAME_STORED_BYTES)) {
        return Err(OpenError::Frames);
    }
    let expected = sealed.len() - sealed.len().div_ceil(FRAME_STORED_BYTES) * TAG_BYTES;
    if out.len() != expected {
        return Err(OpenError::OutputLength { expected, found: out.len() });
    }
    let cipher = key.cipher();
    let frames = sealed.chunks(FRAME_STORED_BYTES).zip(out.chunks_mut(FRAME_PLAIN_BYTES)).enumerate();
    for (number, (stored, plain)) in frames {
        let number = first_frame + number;
        let (body, tag) = stored.split_at(plain.len());
        let tag = <&Tag>::try_from(tag).expect("a frame is its plain length and a tag");
        let buffer = InOutBuf::new(body, plain).expect("the frame's body was split to the plain length");
        if cipher.decrypt_inout_detached(&frame_nonce(number, number == last), &[], buffer, tag).is_err() {
            out.fill(0);
            return Err(OpenError::Tag(number));
        }
    }
    Ok(())
}
