//! Plain copies in another folder: `cp -r`, and a sync at the end of a put.
//!
//! Decides what counts as stored: every file and folder synced. Getting back syncs nothing, as `cp` does not.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::tree::{join, walk};
use super::{Peer, PeerError, PeerName, local};

/// A folder that things are copied to, perhaps on another disk or mounted from elsewhere.
#[derive(Debug, Clone)]
pub struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Copies go below `root`, which is made where it is missing.
    ///
    /// # Errors
    /// [`PeerError::Local`] where it cannot be made.
    pub fn new(root: impl Into<PathBuf>) -> Result<Self, PeerError> {
        let root = root.into();
        fs::create_dir_all(&root).map_err(local("make", &root))?;
        Ok(Self { root })
    }

    fn path(&self, name: &PeerName) -> PathBuf {
        self.root.join(name.as_str())
    }
}

impl Peer for Folder {
    fn put(&self, source: &Path, name: &PeerName) -> Result<(), PeerError> {
        let target = self.path(name);
        copy(source, &target)?;
        sync(&target)?;
        File::open(&self.root).and_then(|folder| folder.sync_all()).map_err(local("sync", &self.root))
    }

    fn get(&self, name: &PeerName, target: &Path) -> Result<(), PeerError> {
        let source = self.path(name);
        if !source.exists() {
            return Err(PeerError::NotFound { peer: "the folder", name: name.clone() });
        }
        copy(&source, target)
    }

    fn remove(&self, name: &PeerName) -> Result<(), PeerError> {
        let path = self.path(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(local("remove", &path))
    }
}

fn copy(source: &Path, target: &Path) -> Result<(), PeerError> {
    let tree = walk(source)?;
    for folder in &tree.folders {
        let path = join(target, folder);
        fs::create_dir(&path).map_err(local("make", &path))?;
    }
    for file in &tree.files {
        let path = join(target, &file.relative);
        fs::copy(join(source, &file.relative), &path).map_err(local("copy to", &path))?;
    }
    Ok(())
}

/// Syncs every file, and folders after what is in them.
fn sync(target: &Path) -> Result<(), PeerError> {
    let tree = walk(target)?;
    let files = tree.files.iter().map(|file| &file.relative);
    for relative in files.chain(tree.folders.iter().rev()) {
        let path = join(target, relative);
        File::open(&path).and_then(|file| file.sync_all()).map_err(local("sync", &path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tree::tests::{assert_same_files, plant};
    use super::*;

    #[test]
    fn files_and_folders_come_back_and_go() {
        let folder = tempfile::tempdir().expect("a folder");
        let source = folder.path().join("source");
        plant(&source);
        let peer = Folder::new(folder.path().join("store")).expect("a store");
        let tree: PeerName = "tree".parse().expect("a name");
        let file: PeerName = "file".parse().expect("a name");
        peer.put(&source, &tree).expect("stored");
        peer.put(&source.join("one"), &file).expect("stored");
        peer.get(&tree, &folder.path().join("tree back")).expect("fetched");
        peer.get(&file, &folder.path().join("file back")).expect("fetched");
        assert_same_files(&source, &folder.path().join("tree back"));
        assert!(folder.path().join("tree back/empty folder").is_dir());
        assert_same_files(&source.join("one"), &folder.path().join("file back"));
        peer.remove(&tree).expect("removed");
        let gone = peer.get(&tree, &folder.path().join("again"));
        assert!(matches!(gone, Err(PeerError::NotFound { .. })));
        peer.remove(&tree).expect("what is not there is removed");
    }
}
