//! The index in memory: for simulated disks and tests. Starts empty at every opening, so every opening rebuilds.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::RwLock;

use super::{Change, Entries, Index};
use crate::store::sync::{read, write};

/// An ordered map in memory.
#[derive(Debug, Default)]
pub(crate) struct MemoryIndex {
    entries: RwLock<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Index for MemoryIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        Ok(read(&self.entries).get(key).cloned())
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), String> {
        let mut entries = write(&self.entries);
        for (key, value) in changes {
            match value {
                Some(value) => entries.insert(key, value),
                None => entries.remove(&key),
            };
        }
        Ok(())
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Entries, String> {
        let entries = read(&self.entries);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            Some(_) | None => Bound::Included(prefix.to_vec()),
        };
        let found = entries.range((from, Bound::Unbounded)).take_while(|(key, _)| key.starts_with(prefix)).take(max);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn clear(&self) -> Result<(), String> {
        write(&self.entries).clear();
        Ok(())
    }

    fn flush(&self) -> Result<(), String> {
        Ok(())
    }
}
