//! The files and folders below a path.
//!
//! Decides that only plain files and folders count; never follows symbolic links.

use std::fs;
use std::path::{Path, PathBuf};

use super::{PeerError, local};

/// A file below a root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TreeFile {
    /// From the root; empty where the root is the file.
    pub(super) relative: PathBuf,
    pub(super) bytes: u64,
}

/// What is below a path, folders before what is in them.
#[derive(Debug, Default)]
pub(super) struct Tree {
    /// Folders from the root, the root itself first; empty where the root is a file.
    pub(super) folders: Vec<PathBuf>,
    pub(super) files: Vec<TreeFile>,
}

/// All files and folders at and below `root`, in the order of their names.
pub(super) fn walk(root: &Path) -> Result<Tree, PeerError> {
    let mut tree = Tree::default();
    let mut open = vec![PathBuf::new()];
    while let Some(relative) = open.pop() {
        let path = join(root, &relative);
        let metadata = fs::symlink_metadata(&path).map_err(local("read", &path))?;
        if metadata.is_file() {
            tree.files.push(TreeFile { relative, bytes: metadata.len() });
        } else if metadata.is_dir() {
            let mut names = Vec::new();
            for entry in fs::read_dir(&path).map_err(local("list", &path))? {
                names.push(entry.map_err(local("list", &path))?.file_name());
            }
            names.sort_unstable_by(|one, other| other.cmp(one));
            open.extend(names.iter().map(|name| relative.join(name)));
            tree.folders.push(relative);
        } else {
            return Err(PeerError::NotAFile { path });
        }
    }
    Ok(tree)
}

/// `root` itself for an empty path: `join` would add a slash, which names a folder.
pub(super) fn join(root: &Path, relative: &Path) -> PathBuf {
    if relative.as_os_str().is_empty() { root.to_path_buf() } else { root.join(relative) }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A folder with files of several sizes, an empty one and an empty folder.
    pub(in super::super) fn plant(root: &Path) {
        for folder in ["", "deep/er", "empty folder"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        for (name, bytes) in [("one", 1), ("deep/two & 2", 20_000), ("deep/er/drei-ä", 300_000), ("nothing", 0)] {
            let content: Vec<u8> =
                (0..bytes).map(|index: u32| index.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
            fs::write(root.join(name), content).expect("a file");
        }
    }

    /// Fails where two trees differ in files or contents.
    pub(in super::super) fn assert_same_files(one: &Path, other: &Path) {
        let trees = [one, other].map(|root| walk(root).expect("both trees are there"));
        assert_eq!(trees[0].files, trees[1].files);
        for file in &trees[0].files {
            let contents = [one, other].map(|root| fs::read(join(root, &file.relative)).expect("a file"));
            assert!(contents[0] == contents[1], "{} differs", file.relative.display());
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them() {
        let folder = tempfile::tempdir().expect("a folder");
        plant(folder.path());
        let tree = walk(folder.path()).expect("a tree");
        let folders: Vec<&str> = tree.folders.iter().filter_map(|path| path.to_str()).collect();
        assert_eq!(folders, ["", "deep", "deep/er", "empty folder"]);
        assert_eq!(tree.files.iter().map(|file| file.bytes).sum::<u64>(), 320_001);
        let file = walk(&folder.path().join("one")).expect("a file");
        assert_eq!(file.files, [TreeFile { relative: PathBuf::new(), bytes: 1 }]);
        assert!(file.folders.is_empty());
    }

    #[test]
    fn what_is_no_file_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("nowhere", &link).expect("a link");
        assert!(matches!(walk(folder.path()), Err(PeerError::NotAFile { path }) if path == link));
    }
}
