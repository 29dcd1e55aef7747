//! Chunks sealed in frames, each chunk under its own key.
//!
//! Decides what key a chunk has, what its id is and how its frames are sealed and opened. Knows no segment, no
//! position and no file: equal bytes of one dataset are equal sealed chunks wherever they stand. The cipher is
//! ChaCha20-Poly1305 (RFC 8439) by aws-lc-rs, which seals to the same bytes as the crate chacha20poly1305 in less time:
//! docs/decisions/0014-kernels-and-ciphers.md.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

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
    /// One Zstandard frame (RFC 8878); who opens the chunk decompresses it, bounded by the length that the extent states.
    Zstd,
}

impl Codec {
    /// As formats write it.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        match self {
            Self::Plain => 0,
            Self::Zstd => 1,
        }
    }

    /// From a format's byte; `None` for a codec that this release does not know.
    #[must_use]
    pub const fn from_byte(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Plain),
            1 => Some(Self::Zstd),
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

    /// The library wipes its copy of the key when the cipher is dropped.
    fn cipher(&self) -> LessSafeKey {
        let key = zeroize::Zeroizing::new(derive(context::CHUNK_SEAL, &[self.expose()]));
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &*key).expect("the cipher's keys have 32 bytes"))
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
fn frame_nonce(frame: usize, last: bool) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&(frame as u64).to_le_bytes());
    nonce[11] = u8::from(last);
    nonce
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
        let nonce = Nonce::assume_unique_for_key(frame_nonce(number, number == last));
        cipher
            .seal_out_of_place_scatter(nonce, Aad::empty(), plain, body, &[], tag)
            .expect("a frame is its plain length and a tag, far below the cipher's limit");
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
        let nonce = Nonce::assume_unique_for_key(frame_nonce(number, number == last));
        if cipher.open_separate_gather(nonce, Aad::empty(), body, tag, plain).is_err() {
            out.fill(0);
            return Err(OpenError::Tag(number));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20poly1305::aead::inout::InOutBuf;
    use chacha20poly1305::{AeadInOut, ChaCha20Poly1305, KeyInit};
    use proptest::prelude::*;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn sealed(plain: &[u8]) -> (ChunkKey, Vec<u8>) {
        let key = chunk_key(&DedupKey::new([7; 32]), Codec::Plain, plain);
        let mut out = vec![0xee; sealed_len(plain.len())];
        seal_into(&key, plain, &mut out).expect("a legal chunk");
        (key, out)
    }

    fn length() -> impl Strategy<Value = usize> {
        let border = (1usize..5, 0usize..3).prop_map(|(frames, around)| frames * FRAME_PLAIN_BYTES + around - 1);
        prop_oneof![1usize..100, 1usize..80_000, border]
    }

    #[test]
    fn lengths_agree_both_ways() {
        let mut expected = 1;
        for sealed_bytes in 0..200_000 {
            match plain_len(sealed_bytes) {
                Some(plain_bytes) => {
                    assert_eq!(plain_bytes, expected, "plain lengths follow one another");
                    assert_eq!(sealed_len(plain_bytes), sealed_bytes);
                    expected += 1;
                }
                None => assert_ne!(sealed_len(expected), sealed_bytes),
            }
        }
        assert_eq!(plain_len(SEALED_CHUNK_MAX_BYTES), Some(CHUNK_MAX_BYTES));
        assert_eq!(plain_len(SEALED_CHUNK_MAX_BYTES + 1), None);
        assert_eq!(plain_len(usize::MAX), None);
    }

    #[test]
    fn empty_and_oversized_chunks_are_refused() {
        let key = ChunkKey::new([1; 32]);
        assert_eq!(seal_into(&key, &[], &mut []), Err(SealError::ChunkLength(0)));
        let long = vec![0; CHUNK_MAX_BYTES + 1];
        assert_eq!(seal_into(&key, &long, &mut []), Err(SealError::ChunkLength(long.len())));
        assert_eq!(seal_into(&key, &[1], &mut [0; 16]), Err(SealError::OutputLength { expected: 17, found: 16 }));
        for impossible in [0, 1, 16, FRAME_STORED_BYTES + 16] {
            assert_eq!(open_into(&key, &vec![0; impossible], &mut Vec::new()), Err(OpenError::ChunkLength(impossible)));
        }
    }

    #[test]
    fn key_and_id_depend_on_content_and_dataset_only() {
        let (one, other) = (DedupKey::new([1; 32]), DedupKey::new([2; 32]));
        let key = chunk_key(&one, Codec::Plain, b"content");
        assert_eq!(chunk_key(&one, Codec::Plain, b"content").id(), key.id());
        assert_ne!(chunk_key(&other, Codec::Plain, b"content").id(), key.id());
        assert_ne!(chunk_key(&one, Codec::Plain, b"contents").id(), key.id());
        assert_ne!(chunk_key(&one, Codec::Zstd, b"content").id(), key.id(), "what the bytes mean is part of the key");
        assert_ne!(key.id().as_bytes(), key.expose());
    }

    #[test]
    fn codecs_round_trip_through_their_byte() {
        for codec in [Codec::Plain, Codec::Zstd] {
            assert_eq!(Codec::from_byte(codec.to_byte()), Some(codec));
        }
        assert!((2..=255).all(|byte| Codec::from_byte(byte).is_none()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(96))]

        #[test]
        fn what_is_sealed_opens_again(seed: u64, length in length()) {
            let plain = noise(seed, length);
            let (key, stored) = sealed(&plain);
            let mut out = vec![1, 2, 3];
            prop_assert_eq!(open_into(&key, &stored, &mut out), Ok(()));
            prop_assert_eq!(out, plain);
        }

        #[test]
        fn chunks_are_sealed_as_the_crate_seals_them(seed: u64, length in length()) {
            let plain = noise(seed, length);
            let (key, stored) = sealed(&plain);
            let cipher = ChaCha20Poly1305::new(&derive(context::CHUNK_SEAL, &[key.expose()]).into());
            let last = frame_count(length) - 1;
            let mut expected = Vec::new();
            for (number, plain) in plain.chunks(FRAME_PLAIN_BYTES).enumerate() {
                let mut body = vec![0; plain.len()];
                let buffer = InOutBuf::new(plain, &mut body).expect("equal lengths");
                let nonce = frame_nonce(number, number == last).into();
                let tag = cipher.encrypt_inout_detached(&nonce, &[], buffer).expect("a short frame");
                expected.extend_from_slice(&body);
                expected.extend_from_slice(&tag);
            }
            prop_assert!(stored == expected);
        }

        #[test]
        fn any_flipped_bit_is_refused(seed: u64, length in length(), bit: prop::sample::Index) {
            let (key, mut stored) = sealed(&noise(seed, length));
            let bit = bit.index(stored.len() * 8);
            stored[bit / 8] ^= 1 << (bit % 8);
            let mut out = Vec::new();
            prop_assert_eq!(open_into(&key, &stored, &mut out), Err(OpenError::Tag(bit / 8 / FRAME_STORED_BYTES)));
            prop_assert!(out.is_empty());
        }

        #[test]
        fn frames_cannot_be_swapped_dropped_or_cut_off(seed: u64, frames in 2usize..5, drop: prop::sample::Index) {
            let (key, stored) = sealed(&noise(seed, frames * FRAME_PLAIN_BYTES));
            let mut out = Vec::new();
            let mut swapped = stored.clone();
            let (left, right) = swapped.split_at_mut(FRAME_STORED_BYTES);
            left.swap_with_slice(&mut right[..FRAME_STORED_BYTES]);
            prop_assert_eq!(open_into(&key, &swapped, &mut out), Err(OpenError::Tag(0)));
            let mut dropped = stored.clone();
            let start = drop.index(frames) * FRAME_STORED_BYTES;
            dropped.drain(start..start + FRAME_STORED_BYTES);
            prop_assert!(matches!(open_into(&key, &dropped, &mut out), Err(OpenError::Tag(_))));
        }

        #[test]
        fn any_range_opens_from_its_frames(
            seed: u64, length in length(), from: prop::sample::Index, share: prop::sample::Index,
        ) {
            let plain = noise(seed, length);
            let (key, stored) = sealed(&plain);
            let offset = from.index(length);
            let count = 1 + share.index(length - offset);
            let span = frames_covering(length, offset, count).expect("inside");
            let frames = &stored[span.sealed_offset..][..span.sealed_bytes];
            let mut out = vec![0; span.sealed_bytes - span.sealed_bytes.div_ceil(FRAME_STORED_BYTES) * TAG_BYTES];
            prop_assert_eq!(open_frames(&key, stored.len(), span.first_frame, frames, &mut out), Ok(()));
            prop_assert_eq!(&out[span.skip_bytes..][..count], &plain[offset..][..count]);
            prop_assert!(frames_covering(length, offset, length - offset + 1).is_none());
            prop_assert!(frames_covering(length, offset, 0).is_none());
            prop_assert!(frames_covering(length, usize::MAX, usize::MAX).is_none());
        }

        #[test]
        fn arbitrary_bytes_never_open_and_never_panic(
            total in 0usize..100_000, first in 0usize..10, bytes in prop::collection::vec(any::<u8>(), 0..40_000), room in 0usize..40_000,
        ) {
            let key = ChunkKey::new([1; 32]);
            prop_assert!(open_into(&key, &bytes, &mut Vec::new()).is_err());
            let mut out = vec![0; room];
            prop_assert!(open_frames(&key, total, first, &bytes, &mut out).is_err());
        }
    }
}
