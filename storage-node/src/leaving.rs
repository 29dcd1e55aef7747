//! How a node goes: the operator's word, kept over restarts, and what has been copied elsewhere so far.
//!
//! Decides when everything is known to be elsewhere. Never copies anything: a node has no authority over what it holds, so
//! those who look after a dataset copy its shards while the node still serves them, and show it the new holder's receipt.

use std::collections::BTreeSet;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dolmen_proto::ids::{ShardRoot, Timestamp};

use crate::config::replace_file;

const LEAVING_FILE: &str = "leaving";
const MOVED_FILE: &str = "moved";
const ROOT_BYTES: usize = 32;
const LEAVING_MAX_BYTES: u64 = 64;
/// Roots that are kept in mind; a node holds fewer.
const MOVED_MAX: usize = 16_777_216;

/// That a node goes, as its operator said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// When it goes; until then it serves.
    pub until: Timestamp,
    /// When the operator said so. What was noted under another one does not count.
    pub since: Timestamp,
}

/// Whether the node in this state folder goes, where its operator said so.
///
/// # Errors
/// What the disk said. A file that is not one of ours counts as none.
pub fn read(state_folder: &Path) -> io::Result<Option<Leaving>> {
    let mut text = String::new();
    match std::fs::File::open(state_folder.join(LEAVING_FILE)) {
        Ok(file) => drop(file.take(LEAVING_MAX_BYTES).read_to_string(&mut text)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut numbers = text.split_whitespace().map(|number| number.parse().ok().map(Timestamp::from_unix_ms));
    let (until, since) = (numbers.next().flatten(), numbers.next().flatten());
    Ok(until.zip(since).map(|(until, since)| Leaving { until, since }))
}

/// Writes down that the node goes, or that it stays after all; a running node notices within seconds.
///
/// # Errors
/// What the disk said.
pub fn write(state_folder: &Path, leaving: Option<Leaving>) -> io::Result<()> {
    let path = state_folder.join(LEAVING_FILE);
    if let Some(Leaving { until, since }) = leaving {
        return replace_file(&path, format!("{} {}\n", until.as_unix_ms(), since.as_unix_ms()).as_bytes());
    }
    // The mark first: whatever a crash leaves behind then counts for nothing.
    for path in [path, state_folder.join(MOVED_FILE)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Shards that somebody else is known to hold.
#[derive(Debug, Default)]
pub struct Moved {
    /// `None`: kept in memory only.
    path: Option<PathBuf>,
    roots: Mutex<Option<BTreeSet<ShardRoot>>>,
}

impl Moved {
    /// Those that were written down in this state folder; read when first asked for.
    #[must_use]
    pub fn new(state_folder: &Path) -> Self {
        Self { path: Some(state_folder.join(MOVED_FILE)), roots: Mutex::new(None) }
    }

    /// Adds shards, durably enough to survive a restart; gives how many are known now.
    ///
    /// # Errors
    /// What the disk said.
    pub fn add(&self, moved: impl IntoIterator<Item = ShardRoot>) -> io::Result<usize> {
        let mut guard = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let roots = self.loaded(&mut guard)?;
        let mut added = Vec::new();
        for root in moved {
            if roots.len() < MOVED_MAX && roots.insert(root) {
                added.extend_from_slice(root.as_bytes());
            }
        }
        if let Some(path) = self.path.as_ref().filter(|_| !added.is_empty()) {
            std::fs::OpenOptions::new().create(true).append(true).open(path)?.write_all(&added)?;
        }
        Ok(roots.len())
    }

    /// Forgets all, also on disk: the node stays after all, or goes anew.
    ///
    /// # Errors
    /// What the disk said.
    pub fn forget(&self) -> io::Result<()> {
        let mut guard = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        *guard = Some(BTreeSet::new());
        match self.path.as_ref().map(std::fs::remove_file) {
            Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Whether a shard is known to be elsewhere.
    ///
    /// # Errors
    /// What the disk said.
    pub fn contains(&self, root: &ShardRoot) -> io::Result<bool> {
        let mut guard = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.loaded(&mut guard)?.contains(root))
    }

    /// How many are known.
    ///
    /// # Errors
    /// What the disk said.
    pub fn count(&self) -> io::Result<usize> {
        let mut guard = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(self.loaded(&mut guard)?.len())
    }

    fn loaded<'a>(&self, roots: &'a mut Option<BTreeSet<ShardRoot>>) -> io::Result<&'a mut BTreeSet<ShardRoot>> {
        if let (None, Some(path)) = (&roots, &self.path) {
            let mut bytes = Vec::new();
            match std::fs::File::open(path) {
                Ok(file) => drop(file.take((MOVED_MAX * ROOT_BYTES) as u64).read_to_end(&mut bytes)?),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            let whole = bytes.len() - bytes.len() % ROOT_BYTES;
            if whole < bytes.len() {
                // Cut off by a crash; whatever is appended must not begin within a root.
                std::fs::OpenOptions::new().write(true).open(path)?.set_len(whole as u64)?;
            }
            let read = bytes.chunks_exact(ROOT_BYTES).filter_map(|root| ShardRoot::try_from(root).ok());
            *roots = Some(read.collect());
        }
        Ok(roots.get_or_insert_with(BTreeSet::new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn going_and_what_moved_survive_a_restart_and_end_when_the_node_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        assert_eq!(read(folder.path()).expect("a disk"), None);
        let at = Timestamp::from_unix_ms;
        let leaving = Leaving { until: at(1_900_000_000_000), since: at(1_800_000_000_000) };
        write(folder.path(), Some(leaving)).expect("a disk");
        assert_eq!(read(folder.path()).expect("a disk"), Some(leaving));
        let root = |byte| ShardRoot::new([byte; 32]);
        let moved = Moved::new(folder.path());
        assert_eq!(moved.add([root(1), root(2), root(1)]).expect("a disk"), 2);
        let mut file = std::fs::OpenOptions::new().append(true).open(folder.path().join(MOVED_FILE)).expect("there");
        file.write_all(&[7; 5]).expect("a torn root");
        let again = Moved::new(folder.path());
        assert!(again.contains(&root(2)).expect("a disk") && !again.contains(&root(3)).expect("a disk"));
        assert_eq!(again.add([root(3)]).expect("a disk"), 3);
        assert!(Moved::new(folder.path()).contains(&root(3)).expect("a disk"), "what follows a torn root is read");
        write(folder.path(), None).expect("a disk");
        assert_eq!(read(folder.path()).expect("a disk"), None);
        assert_eq!(Moved::new(folder.path()).count().expect("a disk"), 0);
        again.forget().expect("a disk");
        assert_eq!(again.count().expect("a disk"), 0);
        std::fs::write(folder.path().join(LEAVING_FILE), "tomorrow").expect("a disk");
        assert_eq!(read(folder.path()).expect("a disk"), None);
    }
}
