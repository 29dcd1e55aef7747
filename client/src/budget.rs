//! The one bound on memory for file contents and shards, and the reuse of what was allocated under it.
//!
//! Decides who may allocate now and who waits. A request larger than the whole budget is cut down to it, so that a
//! small budget makes things slow but never stuck; whoever holds memory must never wait for more of it unless it is
//! the only one that does (each pipeline says how it keeps to that).

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit of the semaphore stands for; keeps counts in range and small requests from costing nothing.
const PAGE_BYTES: u64 = 4096;

/// A number of bytes that may be in memory at once.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    pages: Arc<Semaphore>,
    total_pages: u32,
}

/// A part of the budget, given back when dropped.
#[derive(Debug)]
pub(crate) struct Held {
    permit: Option<OwnedSemaphorePermit>,
}

fn pages(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(PAGE_BYTES)).unwrap_or(u32::MAX)
}

impl Held {
    /// Cuts it in two: the first so many bytes, and the rest.
    pub(crate) fn split(mut self, bytes: u64) -> (Self, Self) {
        let first = self.permit.as_mut().and_then(|permit| {
            let count = usize::try_from(pages(bytes)).unwrap_or(usize::MAX).min(permit.num_permits());
            permit.split(count)
        });
        (Self { permit: first }, self)
    }
}

impl Budget {
    /// A budget of so many bytes; at least one page.
    pub(crate) fn new(bytes: u64) -> Self {
        let total_pages = pages(bytes).max(1);
        Self { pages: Arc::new(Semaphore::new(total_pages as usize)), total_pages }
    }

    /// Waits until so many bytes are free and takes them; first come, first served.
    pub(crate) async fn take(&self, bytes: u64) -> Held {
        let wanted = pages(bytes).min(self.total_pages);
        // The semaphore is never closed: were it, going on without a bound would still be correct.
        Held { permit: Arc::clone(&self.pages).acquire_many_owned(wanted).await.ok() }
    }

    /// Takes so many bytes if they are free now.
    pub(crate) fn try_take(&self, bytes: u64) -> Option<Held> {
        let permit = Arc::clone(&self.pages).try_acquire_many_owned(pages(bytes)).ok()?;
        Some(Held { permit: Some(permit) })
    }

    /// Bytes that nobody holds now.
    #[cfg(test)]
    pub(crate) fn free_bytes(&self) -> u64 {
        self.pages.available_permits() as u64 * PAGE_BYTES
    }
}

/// Buffers of fewer bytes are not kept: fresh ones cost little.
const POOLED_MIN_BYTES: usize = 256 * 1024;

/// Buffers that were used and may be used again: fresh ones of many megabytes cost a page fault every 4 KiB.
///
/// Holds no more buffers than were ever in use at once, which the budget bounds: what it did not hand out it does not keep, or
/// whoever brings buffers of his own would fill it without end. Small ones are not kept, and one is used again only for about as
/// many bytes: else many that were taken for a few bytes each would grow to many megabytes each.
#[derive(Debug)]
pub(crate) struct Pool<T>(Arc<Mutex<Kept<T>>>);

#[derive(Debug)]
struct Kept<T> {
    buffers: Vec<T>,
    /// Handed out and not brought back; too many where some were dropped instead.
    out: usize,
}

impl<T> Clone for Pool<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Default + AsRef<[u8]> + Send + 'static> Pool<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Kept { buffers: Vec::new(), out: 0 })))
    }

    /// Any used buffer, with whatever it holds, or a new and empty one: for pools of buffers that are all alike.
    pub(crate) fn get(&self) -> T {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.out += 1;
        kept.buffers.pop().unwrap_or_default()
    }

    /// A used buffer of about so many bytes, with whatever it holds, or a new and empty one.
    pub(crate) fn get_like(&self, bytes: usize) -> T {
        if bytes < POOLED_MIN_BYTES {
            return T::default();
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.out += 1;
        let alike = |buffer: &T| (bytes / 2..=bytes.saturating_mul(2)).contains(&buffer.as_ref().len());
        kept.buffers.iter().rposition(alike).map(|place| kept.buffers.swap_remove(place)).unwrap_or_default()
    }

    /// Takes back a buffer that turned out not to be needed.
    pub(crate) fn put(&self, buffer: T) {
        if buffer.as_ref().len() < POOLED_MIN_BYTES {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(out) = kept.out.checked_sub(1) {
            kept.out = out;
            kept.buffers.push(buffer);
        }
    }

    /// Ties a part of the budget to a buffer: when the last slice of it is dropped, the part is given back and the
    /// buffer kept for the next.
    pub(crate) fn guard(&self, held: Held, buffer: T) -> Bytes {
        Bytes::from_owner(Owned { buffer, pool: self.clone(), _held: held })
    }
}

struct Owned<T: Default + AsRef<[u8]> + Send + 'static> {
    buffer: T,
    pool: Pool<T>,
    _held: Held,
}

impl<T: Default + AsRef<[u8]> + Send + 'static> AsRef<[u8]> for Owned<T> {
    fn as_ref(&self) -> &[u8] {
        self.buffer.as_ref()
    }
}

impl<T: Default + AsRef<[u8]> + Send + 'static> Drop for Owned<T> {
    fn drop(&mut self) {
        self.pool.put(std::mem::take(&mut self.buffer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn memory_comes_back_with_the_last_slice_and_is_used_again() {
        let (all, length) = (4 << 20, 300_000);
        let budget = Budget::new(all);
        let pool = Pool::<Vec<u8>>::new();
        let mut buffer = pool.get_like(length);
        buffer.resize(length, 7u8);
        let bytes = pool.guard(budget.take(length as u64).await, buffer);
        let taken = (length as u64).next_multiple_of(4096);
        assert_eq!(budget.free_bytes(), all - taken);
        let slice = bytes.slice(5..6);
        drop(bytes);
        assert_eq!(budget.free_bytes(), all - taken);
        drop(slice);
        assert_eq!(budget.free_bytes(), all);
        assert_eq!(pool.get_like(length), vec![7u8; length]);
        assert!(pool.get_like(length).is_empty());
    }

    #[test]
    fn a_buffer_is_used_again_only_for_about_as_much_and_a_small_one_not_at_all() {
        let pool = Pool::<Vec<u8>>::new();
        assert!(pool.get().is_empty());
        pool.put(vec![1; 5 << 20]);
        pool.put(vec![2; 1000]);
        assert!(pool.get_like(64 << 10).is_empty(), "a window does not hold a whole shard's memory");
        assert!(pool.get_like(1000).is_empty());
        assert!(pool.get_like(20 << 20).is_empty());
        assert_eq!(pool.get_like(4 << 20).len(), 5 << 20);
        assert!(pool.get_like(4 << 20).is_empty());
    }

    #[test]
    fn what_was_not_handed_out_is_not_kept() {
        let pool = Pool::<Vec<u8>>::new();
        for _ in 0..3 {
            pool.put(vec![1; 1 << 20]);
        }
        assert!(pool.get_like(1 << 20).is_empty(), "nobody had asked for one");
        for _ in 0..3 {
            pool.put(vec![1; 1 << 20]);
        }
        assert_eq!(pool.get_like(1 << 20).len(), 1 << 20);
        assert!(pool.get_like(1 << 20).is_empty(), "one was handed out, so one is kept");
    }

    #[tokio::test]
    async fn more_than_all_is_all() {
        let budget = Budget::new(8192);
        let held = budget.take(1 << 40).await;
        assert_eq!(budget.free_bytes(), 0);
        drop(held);
        assert_eq!(budget.free_bytes(), 8192);
    }
}
