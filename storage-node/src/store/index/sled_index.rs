//! The index in sled, which is trusted with nothing: whatever it does wrong, its folder is removed and rebuilt.
//!
//! Never flushed on the path of a put: nothing in it is needed after a crash, because a store that was not closed rebuilds.

use std::fs;
use std::ops::Bound;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::Duration;

use super::{Change, Entries, Index};

/// How long a look at a locked database waits before the next one, and how many looks there are: three seconds. Its folder is ours
/// alone, so whoever has the lock is a thread of sled's that has not ended since the database was closed; what is in it is sound.
const LOCK_WAIT: Duration = Duration::from_millis(20);
const LOCK_WAITS_MAX: u32 = 150;

/// Whether sled says that somebody has its lock. It has no error of its own for that.
fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error) if error.to_string().contains("could not acquire lock"))
}

/// A sled database in a folder of its own.
pub(crate) struct SledIndex {
    database: sled::Db,
}

impl SledIndex {
    /// Opens the database; one that does not open, or panics in doing so, is removed and made anew. The flag says whether
    /// what was there before could be opened.
    pub(crate) fn open(path: &Path, cache_bytes: u64) -> Result<(Self, bool), String> {
        match Self::try_open(path, cache_bytes) {
            Ok(index) => Ok((index, true)),
            Err(reason) => {
                tracing::warn!(path = %path.display(), reason, "the index does not open and is made anew");
                match fs::remove_dir_all(path) {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(_) => fs::remove_file(path).map_err(|error| error.to_string())?,
                }
                Ok((Self::try_open(path, cache_bytes)?, false))
            }
        }
    }

    fn try_open(path: &Path, cache_bytes: u64) -> Result<Self, String> {
        let open = || sled::Config::new().path(path).cache_capacity(cache_bytes).flush_every_ms(None).open();
        let mut waits = LOCK_WAITS_MAX;
        loop {
            // sled 0.34 panics on some damage; nothing of ours is inside of it yet that could be left half done.
            match catch_unwind(AssertUnwindSafe(open)) {
                Ok(Ok(database)) => return Ok(Self { database }),
                Ok(Err(error)) if waits > 0 && is_locked(&error) => {
                    waits -= 1;
                    std::thread::sleep(LOCK_WAIT);
                }
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err("it panicked".to_owned()),
            }
        }
    }
}

/// Runs one call, turning errors and panics of sled into texts.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err("sled panicked".to_owned()),
    }
}

impl Index for SledIndex {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        guarded(|| Ok(self.database.get(key)?.map(|value| value.to_vec())))
    }

    fn apply(&self, changes: Vec<Change>) -> Result<(), String> {
        guarded(|| {
            let mut batch = sled::Batch::default();
            for (key, value) in changes {
                match value {
                    Some(value) => batch.insert(key, value),
                    None => batch.remove(key),
                }
            }
            self.database.apply_batch(batch)
        })
    }

    fn scan(&self, prefix: &[u8], after: Option<&[u8]>, max: usize) -> Result<Entries, String> {
        guarded(|| {
            let from = match after {
                Some(after) if after >= prefix => Bound::Excluded(after),
                Some(_) | None => Bound::Included(prefix),
            };
            let mut found = Vec::new();
            for entry in self.database.range::<&[u8], _>((from, Bound::Unbounded)) {
                let (key, value) = entry?;
                if found.len() == max || !key.starts_with(prefix) {
                    break;
                }
                found.push((key.to_vec(), value.to_vec()));
            }
            Ok(found)
        })
    }

    fn clear(&self) -> Result<(), String> {
        guarded(|| self.database.clear())
    }

    fn flush(&self) -> Result<(), String> {
        guarded(|| self.database.flush().map(|_| ()))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::store::index::MemoryIndex;

    fn exercise(index: &dyn Index) {
        let value = |byte: u8| Some(vec![byte]);
        let keys = ["a1", "a2", "a3", "b1"].map(|key| key.as_bytes().to_vec());
        index.apply(keys.iter().zip(1..).map(|(key, byte)| (key.clone(), value(byte))).collect()).unwrap();
        index.apply(vec![(keys[1].clone(), None), (keys[2].clone(), value(9))]).unwrap();
        assert_eq!(index.get(b"a1").unwrap(), value(1));
        assert_eq!(index.get(b"a2").unwrap(), None);
        let all = index.scan(b"a", None, 10).unwrap();
        assert_eq!(all, vec![(keys[0].clone(), vec![1]), (keys[2].clone(), vec![9])]);
        assert_eq!(index.scan(b"a", Some(b"a1"), 10).unwrap(), all[1..].to_vec());
        assert_eq!(index.scan(b"b", Some(b"a1"), 10).unwrap().len(), 1);
        assert_eq!(index.scan(b"a", None, 1).unwrap(), all[..1].to_vec());
        index.flush().unwrap();
        index.clear().unwrap();
        assert_eq!(index.scan(b"", None, 10).unwrap(), vec![]);
    }

    #[test]
    fn a_database_that_is_about_to_be_let_go_is_waited_for_and_not_thrown_away() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        let (first, _) = SledIndex::open(&path, 1 << 20).unwrap();
        first.apply(vec![(b"key".to_vec(), Some(b"kept".to_vec()))]).unwrap();
        let (asking, asked) = std::sync::mpsc::channel();
        let holder = std::thread::spawn(move || {
            asked.recv().unwrap();
            std::thread::sleep(LOCK_WAIT * 5);
            first.flush().unwrap();
            drop(first);
        });
        asking.send(()).unwrap();
        let (second, intact) = SledIndex::open(&path, 1 << 20).unwrap();
        assert!(intact, "what is only locked is not damaged");
        assert_eq!(second.get(b"key").unwrap(), Some(b"kept".to_vec()));
        holder.join().unwrap();
    }

    #[test]
    fn both_engines_answer_alike() {
        let folder = tempfile::tempdir().unwrap();
        exercise(&MemoryIndex::default());
        exercise(&SledIndex::open(&folder.path().join("index"), 1 << 20).unwrap().0);
    }

    #[test]
    fn garbage_in_its_place_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index");
        fs::create_dir(&path).unwrap();
        for name in ["conf", "db", "snap.0000000000000001"] {
            fs::write(path.join(name), [0xa5; 4000]).unwrap();
        }
        let (index, intact) = SledIndex::open(&path, 1 << 20).unwrap();
        assert!(!intact);
        exercise(&index);
        drop(index);
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, b"a file where the folder should be").unwrap();
        exercise(&SledIndex::open(&path, 1 << 20).unwrap().0);
    }
}
