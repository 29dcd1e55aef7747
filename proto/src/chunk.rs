//! Where a file is cut into chunks: by content, so that an edit changes the chunks around it only.
//!
//! Decides cut points. Never reads files and never decides what becomes of a chunk. Source: FastCDC as of Xia et
//! al. 2020, in the crate fastcdc (`v2020`, normalisation level 1, gear table XORed with the seed).

use core::fmt;
use std::borrow::Cow;

use fastcdc::v2020::{Normalization, cut_gear, get_gear_with_seed, select_masks};

use crate::limits::{CHUNK_MAX_BYTES, CHUNK_MEAN_BYTES, CHUNK_MIN_BYTES};

/// Cuts the files of one dataset. Cheap to use, a few microseconds to make: make one and share it.
#[derive(Clone)]
pub struct Cutter {
    gear: Cow<'static, [u64]>,
    gear_shifted: Cow<'static, [u64]>,
    mask_strict: u64,
    mask_relaxed: u64,
}

impl Cutter {
    /// A cutter with the dataset's seed, [`crate::keys::DatasetKeys::chunker_seed`].
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (gear, gear_shifted) = get_gear_with_seed(seed);
        let (mask_strict, mask_relaxed) = select_masks(CHUNK_MEAN_BYTES, Normalization::Level1);
        Self { gear, gear_shifted, mask_strict, mask_relaxed }
    }

    /// The length of the first chunk of `buffer`, which starts where the last chunk ended; bytes beyond
    /// `CHUNK_MAX_BYTES` are not looked at. `end_of_file` says that nothing follows the buffer.
    ///
    /// `None`: the cut cannot be known yet, so more bytes are needed (never with `CHUNK_MAX_BYTES` in the buffer), or
    /// the file has ended and nothing is left. Where a cut lies does not depend on how full the buffer is, but every call
    /// scans from its start: fill it well before calling.
    #[must_use]
    pub fn cut(&self, buffer: &[u8], end_of_file: bool) -> Option<usize> {
        let window = &buffer[..buffer.len().min(CHUNK_MAX_BYTES)];
        let (_, length) = cut_gear(
            window,
            CHUNK_MIN_BYTES,
            CHUNK_MEAN_BYTES,
            CHUNK_MAX_BYTES,
            self.mask_strict,
            self.mask_relaxed,
            self.mask_strict << 1,
            self.mask_relaxed << 1,
            &self.gear,
            &self.gear_shifted,
        );
        // A cut before the end of the window was found in bytes that are already final. At the end of the window it
        // only says that none was found.
        let known = length < window.len() || window.len() == CHUNK_MAX_BYTES || end_of_file;
        (known && length > 0).then_some(length)
    }
}

impl fmt::Debug for Cutter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Cutter(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn lengths(cutter: &Cutter, mut bytes: &[u8]) -> Vec<usize> {
        let mut lengths = Vec::new();
        while let Some(length) = cutter.cut(bytes, true) {
            lengths.push(length);
            bytes = &bytes[length..];
        }
        lengths
    }

    #[test]
    fn cuts_as_the_crate_does() {
        let bytes = noise(1, 20 * CHUNK_MEAN_BYTES);
        let expected: Vec<usize> = fastcdc::v2020::FastCDC::with_level_and_seed(
            &bytes,
            CHUNK_MIN_BYTES,
            CHUNK_MEAN_BYTES,
            CHUNK_MAX_BYTES,
            Normalization::Level1,
            77,
        )
        .map(|chunk| chunk.length)
        .collect();
        assert!(expected.len() > 8);
        assert_eq!(lengths(&Cutter::new(77), &bytes), expected);
        assert_ne!(lengths(&Cutter::new(78), &bytes), expected);
    }

    #[test]
    fn an_insertion_moves_the_cuts_around_it_only() {
        let bytes = noise(2, 24 * CHUNK_MEAN_BYTES);
        let mut edited = bytes.clone();
        edited.splice(5_000_000..5_000_000, *b"seven bytes more");
        let cutter = Cutter::new(3);
        let ends = |bytes: &[u8]| {
            let mut end = 0;
            lengths(&cutter, bytes).into_iter().map(|length| (end += length, bytes.len() - end).1).collect::<Vec<_>>()
        };
        let (before, after) = (ends(&bytes), ends(&edited));
        let shared = before.iter().filter(|end| after.contains(end)).count();
        assert!(before.len() - shared <= 8, "{} of {} cuts moved", before.len() - shared, before.len());
    }

    #[test]
    fn nothing_is_cut_from_nothing_and_zeros_are_cut_at_the_maximum() {
        let cutter = Cutter::new(5);
        assert_eq!(cutter.cut(&[], true), None);
        assert_eq!(cutter.cut(&[], false), None);
        assert_eq!(cutter.cut(&[1], true), Some(1));
        assert_eq!(cutter.cut(&[1], false), None);
        assert_eq!(cutter.cut(&vec![0; CHUNK_MAX_BYTES + 9], false), Some(CHUNK_MAX_BYTES));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn a_cut_is_bounded_and_does_not_depend_on_the_buffer(
            seed: u64, content: u64, length in 1usize..6 * 1024 * 1024, seen in 0.0f64..1.0,
        ) {
            let bytes = noise(content, length);
            let cutter = Cutter::new(seed);
            let whole = cutter.cut(&bytes, true).expect("there are bytes");
            prop_assert!(whole <= CHUNK_MAX_BYTES);
            prop_assert!(whole >= CHUNK_MIN_BYTES || whole == length);
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
            let part = &bytes[..(length as f64 * seen) as usize];
            if let Some(early) = cutter.cut(part, false) {
                prop_assert_eq!(early, whole);
            } else {
                prop_assert!(part.len() <= whole);
            }
        }
    }
}
