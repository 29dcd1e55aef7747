//! A buffer whose pages lie in memory as they will lie in the file, so that a disk can take them without the page cache.
//!
//! Decides which bytes of a body are whole pages of the file and which share a page with something else: those go through the
//! cache, like everything around them. Never decides whether bytes become a shard.

use std::io;

use crate::disk::PAGE_BYTES;

/// [`PAGE_BYTES`] as an offset.
const PAGE: u64 = PAGE_BYTES as u64;

/// Bytes that are gathered for one place of a file.
#[derive(Debug)]
pub(crate) struct PageBuffer {
    memory: Vec<u8>,
    /// Where the first page begins in `memory`.
    start: usize,
    /// Where the first page lies in the file.
    base: u64,
    /// The bytes that are there, counted from the first page's beginning.
    from: usize,
    filled: usize,
    capacity: usize,
}

impl PageBuffer {
    /// Gathers what begins at `offset` of a file, at most about `capacity` bytes at a time. `memory` is used again where it is
    /// large enough.
    pub(crate) fn new(mut memory: Vec<u8>, capacity: usize, offset: u64) -> Self {
        let capacity = capacity.max(1).next_multiple_of(PAGE_BYTES);
        if memory.len() < capacity + PAGE_BYTES {
            memory = vec![0; capacity + PAGE_BYTES];
        }
        let start = memory.as_ptr().align_offset(PAGE_BYTES).min(PAGE_BYTES);
        let from = usize::try_from(offset % PAGE).expect("under a page");
        Self { memory, start, base: offset - offset % PAGE, from, filled: from, capacity }
    }

    /// The memory, to be used again.
    pub(crate) fn into_memory(self) -> Vec<u8> {
        self.memory
    }

    /// Takes in as many of these bytes as there is room for; gives their number. None where the buffer is full.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> usize {
        let count = bytes.len().min(self.capacity - self.filled);
        let place = self.start + self.filled;
        self.memory[place..place + count].copy_from_slice(&bytes[..count]);
        self.filled += count;
        count
    }

    /// Whether nothing more fits.
    pub(crate) fn is_full(&self) -> bool {
        self.filled == self.capacity
    }

    /// Hands out everything that is there: whole pages to `pages`, what shares its page with other bytes to `parts`. The next bytes
    /// follow the last ones. Only the last bytes of a body may end inside of a page.
    ///
    /// # Errors
    /// What the two answer; the buffer is of no use then.
    pub(crate) fn write_out(
        &mut self,
        mut parts: impl FnMut(&[u8], u64) -> io::Result<()>,
        mut pages: impl FnMut(&[u8], u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let memory = &self.memory[self.start..];
        let at = |place: usize| self.base + place as u64;
        let first = self.from.next_multiple_of(PAGE_BYTES).min(self.filled);
        let last = (self.filled / PAGE_BYTES * PAGE_BYTES).max(first);
        if self.from < first {
            parts(&memory[self.from..first], at(self.from))?;
        }
        if first < last {
            pages(&memory[first..last], at(first))?;
        }
        if last < self.filled {
            parts(&memory[last..self.filled], at(last))?;
        }
        let end = self.base + self.filled as u64;
        self.base = end - end % PAGE;
        self.from = usize::try_from(end % PAGE).expect("under a page");
        self.filled = self.from;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_byte_goes_to_its_place_and_pages_are_whole(
            offset in 0..20_000_u64,
            capacity in 1..20_000_usize,
            pieces in prop::collection::vec(0..9_000_usize, 0..12),
        ) {
            let length: usize = pieces.iter().sum();
            let body: Vec<u8> = (0..length).map(|place| u8::try_from(place % 251).expect("a byte")).collect();
            let mut file = vec![255_u8; usize::try_from(offset).expect("small") + length];
            let file = std::cell::RefCell::new(&mut file);
            let put = |bytes: &[u8], at: u64| {
                let at = usize::try_from(at).expect("small");
                file.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
                Ok(())
            };
            let whole = |bytes: &[u8], at: u64| {
                assert!(at.is_multiple_of(PAGE) && bytes.len().is_multiple_of(PAGE_BYTES) && !bytes.is_empty());
                assert_eq!(bytes.as_ptr().align_offset(PAGE_BYTES), 0);
                put(bytes, at)
            };
            let mut buffer = PageBuffer::new(Vec::new(), capacity, offset);
            let mut rest = &body[..];
            for piece in pieces {
                let mut piece = &rest[..piece];
                rest = &rest[piece.len()..];
                while !piece.is_empty() {
                    let count = buffer.take(piece);
                    piece = &piece[count..];
                    if buffer.is_full() {
                        buffer.write_out(put, whole).expect("written");
                    } else {
                        assert!(piece.is_empty());
                    }
                }
            }
            buffer.write_out(put, whole).expect("written");
            let file = file.into_inner();
            let offset = usize::try_from(offset).expect("small");
            prop_assert!(file[offset..] == body[..]);
            prop_assert!(file[..offset].iter().all(|byte| *byte == 255), "nothing before it is touched");
        }
    }
}
