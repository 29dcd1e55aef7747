//! What a processor has to do with the bytes: read, key, seal, code, mask and hash, and the way back.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use bytes::Bytes;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use dolmen_gf256::Coefficients;
use reed_solomon_erasure::galois_8::ReedSolomon;

use super::{Shape, Spare};

const FRAME_STORED_BYTES: usize = 16 * 1024;
const FRAME_PLAIN_BYTES: usize = FRAME_STORED_BYTES - 16;
/// Stored bytes of one segment's data shards: whole frames, a whole number of them in every shard.
const SEGMENT_TARGET_BYTES: usize = 32 * 1024 * 1024;
/// What is masked and hashed while it is in the cache.
const STEP_BYTES: usize = 64 * 1024;
/// What is taken in at a time: whole frames, and little enough to stay in the cache.
pub(super) const PIECE_STORED_BYTES: usize = 16 * FRAME_STORED_BYTES;

/// Stored bytes of one shard: whole frames.
pub(super) const fn stored_shard_bytes(k: usize) -> usize {
    SEGMENT_TARGET_BYTES / k / FRAME_STORED_BYTES * FRAME_STORED_BYTES
}

const fn plain_shard_bytes(stored_bytes: usize) -> usize {
    stored_bytes / FRAME_STORED_BYTES * FRAME_PLAIN_BYTES
}

/// Bytes of a file that one segment holds.
pub(super) const fn plain_segment_bytes(k: usize) -> usize {
    k * plain_shard_bytes(stored_shard_bytes(k))
}

fn cipher() -> Result<LessSafeKey> {
    Ok(LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &[3; 32])?))
}

fn nonce(frame: u64) -> [u8; 12] {
    let mut nonce = [0; 12];
    nonce[..8].copy_from_slice(&frame.to_le_bytes());
    nonce
}

/// Masks or unmasks one parity shard.
fn mask(index: usize, step: &mut [u8], at: usize) -> Result<()> {
    use chacha20::cipher::StreamCipherSeek as _;
    let mut stream = chacha20::ChaCha20::new(&[9; 32].into(), &nonce(index as u64).into());
    stream.try_seek(at as u64).ok().context("a place in the keystream")?;
    stream.apply_keystream(step);
    Ok(())
}

/// A square of unit vectors: what a code makes of them is its matrix.
fn units(k: usize) -> Vec<Vec<u8>> {
    (0..k).map(|row| (0..k).map(|column| u8::from(row == column)).collect()).collect()
}

/// The coefficients of parity shards.
fn encoding(shape: Shape) -> Result<Coefficients> {
    let mut rows = units(shape.k);
    rows.resize(shape.n, vec![0; shape.k]);
    ReedSolomon::new(shape.k, shape.n - shape.k)?.encode(&mut rows)?;
    Ok(Coefficients::new(shape.k, shape.n - shape.k, |parity, data| rows[shape.k + parity][data]))
}

/// Makes the missing data shards from `k` that are there.
fn rebuild(shape: Shape, shards: &mut [Option<Vec<u8>>], spare: &Spare) -> Result<()> {
    let present: Vec<usize> = (0..shape.n).filter(|index| shards[*index].is_some()).take(shape.k).collect();
    let missing: Vec<usize> = (0..shape.k).filter(|index| shards[*index].is_none()).collect();
    let mut rows: Vec<Option<Vec<u8>>> = vec![None; shape.n];
    for (index, unit) in present.iter().zip(units(shape.k)) {
        rows[*index] = Some(unit);
    }
    ReedSolomon::new(shape.k, shape.n - shape.k)?.reconstruct_data(&mut rows)?;
    let coefficient = |output: usize, input: usize| rows[missing[output]].as_ref().map_or(0, |row| row[input]);
    let coefficients = Coefficients::new(shape.k, missing.len(), coefficient);
    let length = shards.iter().flatten().next().map_or(0, Vec::len);
    let mut rebuilt: Vec<Vec<u8>> = missing.iter().map(|_| spare.take(length)).collect();
    let inputs: Vec<&[u8]> = present.iter().filter_map(|index| shards[*index].as_deref()).collect();
    let mut outputs: Vec<&mut [u8]> = rebuilt.iter_mut().map(Vec::as_mut_slice).collect();
    coefficients.multiply(&inputs, &mut outputs)?;
    for (index, shard) in missing.into_iter().zip(rebuilt) {
        shards[index] = Some(shard);
    }
    Ok(())
}

/// Reads, hashes (for the chunk keys), seals, codes, masks and hashes one segment.
pub(super) fn code_segment(path: &Path, offset: u64, shape: Shape, spare: &Arc<Spare>) -> Result<Vec<Bytes>> {
    let shard_bytes = stored_shard_bytes(shape.k);
    let mut plain = spare.take(plain_segment_bytes(shape.k));
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    let there = usize::try_from((length - offset).min(plain.len() as u64))?;
    file.read_exact_at(&mut plain[..there], offset)?;
    plain[there..].fill(0);
    let cipher = cipher()?;
    let mut data = spare.take(shape.k * shard_bytes);
    let frames = data.chunks_exact_mut(FRAME_STORED_BYTES).zip(plain.chunks(FRAME_PLAIN_BYTES)).enumerate();
    for piece in plain.chunks(1 << 20) {
        std::hint::black_box(blake3::keyed_hash(&[5; 32], piece));
    }
    for (frame, (stored, plain)) in frames {
        let (body, tag) = stored.split_at_mut(FRAME_PLAIN_BYTES);
        let nonce = Nonce::assume_unique_for_key(nonce(frame as u64));
        cipher.seal_out_of_place_scatter(nonce, Aad::empty(), plain, body, &[], tag)?;
    }
    spare.put(plain);
    let parity_count = shape.n - shape.k;
    let mut parity = spare.take(parity_count * shard_bytes);
    let inputs: Vec<&[u8]> = data.chunks_exact(shard_bytes).collect();
    let mut outputs: Vec<&mut [u8]> = parity.chunks_exact_mut(shard_bytes).collect();
    encoding(shape)?.multiply(&inputs, &mut outputs)?;
    for shard in data.chunks_exact(shard_bytes) {
        std::hint::black_box(blake3::hash(shard));
    }
    for (index, shard) in parity.chunks_exact_mut(shard_bytes).enumerate() {
        let mut hasher = blake3::Hasher::new();
        for (number, step) in shard.chunks_mut(STEP_BYTES).enumerate() {
            mask(shape.k + index, step, number * STEP_BYTES)?;
            hasher.update(step);
        }
        std::hint::black_box(hasher.finalize());
    }
    let (data, parity) = (spare.lend(data), spare.lend(parity));
    let slices = |bytes: &Bytes, index: usize| bytes.slice(index * shard_bytes..(index + 1) * shard_bytes);
    Ok((0..shape.k)
        .map(|index| slices(&data, index))
        .chain((0..parity_count).map(|index| slices(&parity, index)))
        .collect())
}

/// Takes in a stored shard piece by piece, while each is in the cache: hashes it and opens or unmasks it.
pub(super) struct Opening {
    index: usize,
    cipher: LessSafeKey,
    hasher: blake3::Hasher,
    frame: u64,
    plain: Vec<u8>,
}

impl Opening {
    /// A data shard of so many stored bytes.
    pub(super) fn new(index: usize, stored_bytes: usize, spare: &Spare) -> Result<Self> {
        Ok(Self {
            index,
            cipher: cipher()?,
            hasher: blake3::Hasher::new(),
            frame: (index * stored_bytes / FRAME_STORED_BYTES) as u64,
            plain: spare.take(plain_shard_bytes(PIECE_STORED_BYTES)),
        })
    }

    /// Hashes and opens the next piece, whole frames, and writes it to its place in a segment that is at `at` of the file.
    pub(super) fn take(&mut self, stored: &[u8], file: &File, at: u64) -> Result<()> {
        self.hasher.update(stored);
        let first = self.frame;
        for (stored, place) in
            stored.chunks_exact(FRAME_STORED_BYTES).zip(self.plain.chunks_exact_mut(FRAME_PLAIN_BYTES))
        {
            let (body, tag) = stored.split_at(FRAME_PLAIN_BYTES);
            let nonce = Nonce::assume_unique_for_key(nonce(self.frame));
            self.cipher.open_separate_gather(nonce, Aad::empty(), body, tag, place)?;
            self.frame += 1;
        }
        let there = plain_shard_bytes(stored.len());
        file.write_all_at(&self.plain[..there], at + first * FRAME_PLAIN_BYTES as u64)?;
        Ok(())
    }

    /// The end of the shard.
    pub(super) fn finish(self, spare: &Spare) {
        std::hint::black_box((self.index, self.hasher.finalize()));
        spare.put(self.plain);
    }
}

/// Takes in a stored shard that others are rebuilt from, piece by piece: hashes it, and unmasks it where it is parity.
pub(super) struct Unmasking {
    index: usize,
    parity: bool,
    hasher: blake3::Hasher,
    at: usize,
}

impl Unmasking {
    pub(super) fn new(index: usize, shape: Shape) -> Self {
        Self { index, parity: index >= shape.k, hasher: blake3::Hasher::new(), at: 0 }
    }

    /// The next piece, in its place.
    pub(super) fn take(&mut self, stored: &mut [u8]) -> Result<()> {
        self.hasher.update(stored);
        if self.parity {
            mask(self.index, stored, self.at)?;
        }
        self.at += stored.len();
        Ok(())
    }

    /// The end of the shard.
    pub(super) fn finish(self) {
        std::hint::black_box(self.hasher.finalize());
    }
}

/// Rebuilds what is missing of a segment's data from `k` unmasked shards, opens all frames and writes them at `at` of the file.
pub(super) fn open_segment(
    shape: Shape,
    mut shards: Vec<Option<Vec<u8>>>,
    file: &File,
    at: u64,
    spare: &Spare,
) -> Result<()> {
    rebuild(shape, &mut shards, spare)?;
    for (index, stored) in shards.iter().take(shape.k).enumerate() {
        let stored = stored.as_ref().context("a data shard")?;
        let mut opening = Opening::new(index, stored.len(), spare)?;
        for piece in stored.chunks(PIECE_STORED_BYTES) {
            opening.take(piece, file, at)?;
        }
        opening.finish(spare);
    }
    shards.into_iter().flatten().for_each(|shard| spare.put(shard));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn any_k_shards_open_to_the_file() {
        let shape = Shape { k: 3, n: 7, nodes: 7, datagram_bytes: 1452 };
        let folder = tempfile::tempdir().expect("works here");
        let (source, target) = (folder.path().join("source"), folder.path().join("target"));
        let mut noise = vec![0; plain_segment_bytes(shape.k)];
        blake3::Hasher::new().finalize_xof().fill(&mut noise);
        File::create(&source).expect("works here").write_all(&noise).expect("works here");
        let shards = code_segment(&source, 0, shape, &Arc::default()).expect("works here");
        for present in [[0, 1, 2], [4, 1, 6], [3, 4, 5]] {
            let mut some: Vec<_> =
                (0..shape.n).map(|index| present.contains(&index).then(|| shards[index].to_vec())).collect();
            for (index, shard) in some.iter_mut().enumerate() {
                let Some(shard) = shard else { continue };
                let mut unmasking = Unmasking::new(index, shape);
                for piece in shard.chunks_mut(PIECE_STORED_BYTES) {
                    unmasking.take(piece).expect("works here");
                }
            }
            let file = File::options().create(true).write(true).truncate(true).open(&target).expect("works here");
            open_segment(shape, some, &file, 0, &Spare::default()).expect("works here");
            assert!(std::fs::read(&target).expect("works here") == noise, "{present:?}");
        }
    }
}
