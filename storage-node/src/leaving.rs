//! How a node goes: the operator's word, kept over restarts, and what has been copied elsewhere so far.
//!
//! Decides when everything is known to be elsewhere. Never copies anything: a node has no authority over what it holds, so
//! those who look after a dataset copy its shards while the node still serves them, and show it the new holder's receipt.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use dolmen_proto::ids::{ShardRoot, Timestamp};

use crate::config::replace_file;

const LEAVING_FILE: &str = "leaving";
const MOVED_FILE: &str = "moved";
const ROOT_BYTES: usize = 32;
/// Roots that are kept in mind; a node holds fewer.
const MOVED_MAX: usize = 16_777_216;

/// When the node in this state folder goes, where its operator said so.
///
/// # Errors
/// What the disk said. A file that is not one of ours counts as none.
pub fn read(state_folder: &Path) -> io::Result<Option<Timestamp>> {
    match std::fs::read_to_string(state_folder.join(LEAVING_FILE)) {
        Ok(text) => Ok(text.trim().parse().ok().map(Timestamp::from_unix_ms)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Writes down that the node goes then, or that it stays after all; a running node notices.
///
/// # Errors
/// What the disk said.
pub fn write(state_folder: &Path, until: Option<Timestamp>) -> io::Result<()> {
    let path = state_folder.join(LEAVING_FILE);
    if let Some(until) = until {
        return replace_file(&path, until.as_unix_ms().to_string().as_bytes());
    }
    for path in [path, state_folder.join(MOVED_FILE)] {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Shards that somebody else is known to hold.
#[derive(Debug)]
pub struct Moved {
    path: PathBuf,
    roots: Mutex<Option<BTreeSet<ShardRoot>>>,
}

impl Moved {
    /// Those that were written down in this state folder; read when first asked for.
    #[must_use]
    pub fn new(state_folder: &Path) -> Self {
        Self { path: state_folder.join(MOVED_FILE), roots: Mutex::new(None) }
    }

    /// Adds shards, durably enough to survive a restart; gives how many are known now.
    ///
    /// # Errors
    /// What the disk said.
    pub fn add(&self, moved: impl IntoIterator<Item = ShardRoot>) -> io::Result<usize> {
        let mut guard = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        let roots = Self::loaded(&self.path, &mut guard)?;
        let mut added = Vec::new();
        for root in moved {
            if roots.len() < MOVED_MAX && roots.insert(root) {
                added.extend_from_slice(root.as_bytes());
            }
        }
        if !added.is_empty() {
            std::fs::OpenOptions::new().create(true).append(true).open(&self.path)?.write_all(&added)?;
        }
        Ok(roots.len())
    }

    /// Whether a shard is known to be elsewhere.
    ///
    /// # Errors
    /// What the disk said.
    pub fn contains(&self, root: &ShardRoot) -> io::Result<bool> {
        let mut guard = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Self::loaded(&self.path, &mut guard)?.contains(root))
    }

    /// How many are known.
    ///
    /// # Errors
    /// What the disk said.
    pub fn count(&self) -> io::Result<usize> {
        let mut guard = self.roots.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(Self::loaded(&self.path, &mut guard)?.len())
    }

    fn loaded<'a>(path: &Path, roots: &'a mut Option<BTreeSet<ShardRoot>>) -> io::Result<&'a mut BTreeSet<ShardRoot>> {
        if roots.is_none() {
            let bytes = match std::fs::read(path) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
                Err(error) => return Err(error),
            };
            // A line cut off by a crash is a root that will be told again.
            let read = bytes.chunks_exact(ROOT_BYTES).filter_map(|root| ShardRoot::try_from(root).ok());
            *roots = Some(read.take(MOVED_MAX).collect());
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
        let until = Timestamp::from_unix_ms(1_900_000_000_000);
        write(folder.path(), Some(until)).expect("a disk");
        assert_eq!(read(folder.path()).expect("a disk"), Some(until));
        let root = |byte| ShardRoot::new([byte; 32]);
        let moved = Moved::new(folder.path());
        assert_eq!(moved.add([root(1), root(2), root(1)]).expect("a disk"), 2);
        let mut file = std::fs::OpenOptions::new().append(true).open(folder.path().join(MOVED_FILE)).expect("there");
        file.write_all(&[7; 5]).expect("a torn line");
        let again = Moved::new(folder.path());
        assert!(again.contains(&root(2)).expect("a disk") && !again.contains(&root(3)).expect("a disk"));
        write(folder.path(), None).expect("a disk");
        assert_eq!(read(folder.path()).expect("a disk"), None);
        assert_eq!(Moved::new(folder.path()).count().expect("a disk"), 0);
    }
}
