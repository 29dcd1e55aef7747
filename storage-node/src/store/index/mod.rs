//! The index behind the narrowest trait that serves: an ordered map of bytes that may be lost at any time.
//!
//! Decides nothing about meaning; see [`super::catalogue`]. An engine is replaced by writing these four calls.

mod memory;
mod sled_index;

pub(crate) use self::memory::MemoryIndex;
pub(crate) use self::sled_index::SledIndex;

/// One change of a batch: a key and its new value, or `None` to remove it.
pub(crate) type Change = (Vec<u8>, Option<Vec<u8>>);
/// Keys with their values, in order.
pub(crate) type Entries = Vec<(Vec<u8>, Vec<u8>)>;

/// An ordered map of bytes. Errors are texts: whatever went wrong, the answer is to rebuild.
pub(crate) trait Index: Send + Sync {
    /// The value of a key.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String>;

    /// Applies a batch, all or nothing for readers. Not durable before [`Index::flush`].
    fn apply(&self, changes: Vec<Change>) -> Result<(), String>;

    /// Up to `max` entries whose key begins with `prefix` and comes after `after`, in order.
    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Entries, String>;

    /// Removes everything.
    fn clear(&self) -> Result<(), String>;

    /// Makes everything applied so far durable.
    fn flush(&self) -> Result<(), String>;
}
