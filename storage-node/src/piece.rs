//! Memory that shards are read into: its pages lie as the file's do, and it is used again.
//!
//! Decides where in memory bytes of a file go, so that a device can put them there itself. Never reads.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use crate::disk::PAGE_BYTES;

/// Pieces whose memory is kept when they go.
const SPARE_MAX: usize = 16;
/// Memory larger than this is not kept: more than what a reading peer is given at a time.
const SPARE_BYTES_MAX: usize = 768 * 1024;

/// Fresh memory costs a page fault every 4 KiB.
static SPARE: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// Bytes of a file. Cheap to make: what they lie in was used before, and is handed on when they are dropped.
pub struct Piece {
    memory: Vec<u8>,
    /// Where the page with the first byte begins in `memory`.
    start: usize,
    /// Where the first byte lies in that page.
    head: usize,
    length: usize,
}

impl fmt::Debug for Piece {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Piece").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Piece {
    /// Room for so many bytes from an offset of a file on. What they are before something was read is not said.
    #[must_use]
    pub fn new(length: usize, offset: u64) -> Self {
        let head = usize::try_from(offset % PAGE_BYTES as u64).expect("under a page");
        let whole = (head + length).next_multiple_of(PAGE_BYTES) + PAGE_BYTES;
        let mut memory = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        if memory.len() < whole {
            memory = vec![0; whole];
        }
        let start = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        Self { memory, start, head, length }
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.memory[self.start + self.head..][..self.length]
    }

    /// The bytes, to be filled.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start + self.head..][..self.length]
    }

    /// The whole pages that the bytes from `filled` on lie in, and how far before those bytes they begin.
    pub(crate) fn pages_from(&mut self, filled: usize) -> (&mut [u8], usize) {
        let first = (self.head + filled) / PAGE_BYTES * PAGE_BYTES;
        let end = (self.head + self.length).next_multiple_of(PAGE_BYTES);
        (&mut self.memory[self.start + first..self.start + end], self.head + filled - first)
    }

    /// Leaves the first so many bytes.
    pub fn truncate(&mut self, length: usize) {
        self.length = self.length.min(length);
    }
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.bytes()
    }
}

impl Drop for Piece {
    fn drop(&mut self) {
        let memory = std::mem::take(&mut self.memory);
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARE_MAX && memory.len() <= SPARE_BYTES_MAX {
            spare.push(memory);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_lie_in_their_pages_as_in_the_file() {
        for (length, offset) in [(1, 0), (4096, 4095), (9000, 77), (200_000, 1_000_003), (0, 5)] {
            let mut piece = Piece::new(length, offset);
            assert_eq!((piece.bytes().len(), piece.bytes_mut().len()), (length, length));
            let aligned = piece.bytes().as_ptr().addr() as u64 % PAGE_BYTES as u64;
            assert_eq!(aligned, offset % PAGE_BYTES as u64);
            for filled in [0, length / 2, length] {
                let at = piece.bytes()[filled..].as_ptr().addr();
                let (pages, before) = piece.pages_from(filled);
                assert_eq!((pages.as_ptr().addr() % PAGE_BYTES, pages.len() % PAGE_BYTES), (0, 0));
                assert_eq!(pages.as_ptr().addr() + before, at);
                assert!(before < PAGE_BYTES && pages.len() >= before + length - filled);
            }
        }
    }
}
