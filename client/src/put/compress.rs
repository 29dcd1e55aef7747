//! Whether chunks are compressed before they are sealed.
//!
//! Decides by the beginning of each file, and by what comes of each chunk. What is compressed must come out the same on every
//! run, or a rerun would store it again: the level is fixed here, the library by the lock file.

use std::cell::RefCell;

use bytes::Bytes;
use zstd::bulk::Compressor;

use crate::options::Compression;

/// Level at which chunks are compressed: still faster than one core reads and seals.
const LEVEL: i32 = 3;
/// Level at which the beginning of a file is tried.
const SAMPLE_LEVEL: i32 = 1;
/// Bytes of a file that are tried.
const SAMPLE_BYTES: usize = 64 * 1024;
/// Files with less than this are never worth it.
const SAMPLE_MIN_BYTES: usize = 128;

/// Decides for one file after the other; for one thread.
pub(crate) struct Sampler {
    how: Compression,
    sample: RefCell<Option<Compressor<'static>>>,
}

impl Sampler {
    pub(crate) fn new(how: Compression) -> Self {
        Self { how, sample: RefCell::default() }
    }

    /// Whether the chunks of a file that begins with these bytes are to be compressed.
    pub(crate) fn pays(&self, beginning: &[u8]) -> bool {
        match self.how {
            Compression::Off => false,
            Compression::Zstd => true,
            Compression::Auto if beginning.len() < SAMPLE_MIN_BYTES => false,
            Compression::Auto => {
                let sample = &beginning[..beginning.len().min(SAMPLE_BYTES)];
                let mut compressor = self.sample.borrow_mut();
                if compressor.is_none() {
                    *compressor = Compressor::new(SAMPLE_LEVEL).ok();
                }
                let packed = compressor.as_mut().and_then(|compressor| compressor.compress(sample).ok());
                packed.is_some_and(|packed| packed.len() * 10 <= sample.len() * 9)
            }
        }
    }
}

/// Compresses one chunk after the other; for one thread.
#[derive(Default)]
pub(crate) struct Packer(Option<Compressor<'static>>);

impl Packer {
    /// The chunk compressed, where that makes it smaller by a sixteenth: less does not pay for unpacking it.
    pub(crate) fn pack(&mut self, plain: &[u8]) -> Option<Bytes> {
        if self.0.is_none() {
            self.0 = Compressor::new(LEVEL).ok();
        }
        let packed = self.0.as_mut()?.compress(plain).ok()?;
        (packed.len() * 16 <= plain.len() * 15).then(|| packed.into_boxed_slice().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn a_file_is_judged_by_its_beginning_and_a_chunk_by_itself() {
        let text = b"the same words again and again, ".repeat(1000);
        let auto = Sampler::new(Compression::Auto);
        assert!(auto.pays(&text) && !auto.pays(&noise(32_000)) && !auto.pays(b"short") && !auto.pays(b""));
        assert!(Sampler::new(Compression::Zstd).pays(&noise(10)) && !Sampler::new(Compression::Off).pays(&text));
        let mut packer = Packer::default();
        assert!(packer.pack(&noise(32_000)).is_none());
        let packed = packer.pack(&text).unwrap();
        assert!(packed.len() < text.len() / 10);
        assert_eq!(zstd::bulk::decompress(&packed, text.len()).unwrap(), text);
        assert_eq!(Packer::default().pack(&text), Some(packed), "whatever was packed before");
    }
}
