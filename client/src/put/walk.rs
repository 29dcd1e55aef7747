//! What is to be put: folders walked depth first, names in byte order, nothing followed.
//!
//! Decides which entries a snapshot will have and in which order their contents are read. Never opens a file:
//! see [`super::read`].

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use dolmen_proto::limits::{FOLDER_DEPTH_MAX, NAME_MAX_BYTES, SYMLINK_MAX_BYTES};

use crate::error::{ClientError, ErrorKind};
use crate::report::FailedFile;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A regular file.
    File,
    /// A folder and its entries (positions in [`Tree::items`]), sorted by name.
    Folder(Vec<u32>),
    /// A symbolic link and the bytes that it holds.
    Symlink(Vec<u8>),
}

/// One entry to be put.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) name: Box<[u8]>,
    /// Where it lies: the parent's position, or the path itself for the roots of the walk.
    place: Place,
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u32,
    /// Nanoseconds since 1970.
    pub(crate) mtime_ns: i64,
    pub(crate) size: u64,
}

#[derive(Debug, Clone)]
enum Place {
    Below(u32),
    Given(PathBuf),
}

/// All that is to be put.
#[derive(Debug, Default)]
pub(crate) struct Tree {
    /// Every entry, parents before their children, files in the order of a depth-first walk.
    pub(crate) items: Vec<Item>,
    /// The entries of the snapshot's root folder, sorted by name.
    pub(crate) root: Vec<u32>,
    /// One thing was given that is no folder, so the root stands for it.
    pub(crate) single: bool,
    /// What could not be looked at.
    pub(crate) failed: Vec<FailedFile>,
    /// What is neither file, folder nor symbolic link, and was left out.
    pub(crate) skipped: Vec<PathBuf>,
}

impl Tree {
    /// The path of an entry on this machine.
    pub(crate) fn path(&self, item: u32) -> PathBuf {
        let item = &self.items[item as usize];
        match &item.place {
            Place::Given(path) => path.clone(),
            Place::Below(parent) => self.path(*parent).join(OsStr::from_bytes(&item.name)),
        }
    }

    /// Positions of all regular files, in the order in which they are read.
    pub(crate) fn files(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.items).filter(|(_, item)| item.kind == Kind::File).map(|(position, _)| position)
    }
}

/// Walks what a put was given: one folder becomes the root; anything else becomes entries of the root.
///
/// # Errors
/// `Usage` when no path is given, two have one name or a path has no name; `Local` when one of the paths does not exist.
pub(crate) fn walk(paths: &[PathBuf]) -> Result<Tree, ClientError> {
    let mut tree = Tree::default();
    let again = "name at least one file or folder";
    if let [path] = paths
        && look(path)?.is_dir()
    {
        tree.root = tree.children(path, None, 0);
        if tree.items.is_empty() && !tree.failed.is_empty() {
            let first = tree.failed.remove(0);
            return Err(ClientError::new(
                ErrorKind::Local,
                format!("could not read {}", first.path),
                first.reason,
                again,
            ));
        }
        return Ok(tree);
    }
    if paths.is_empty() {
        return Err(ClientError::new(ErrorKind::Usage, "nothing to put", "no path was given", again));
    }
    let mut named: Vec<(Vec<u8>, PathBuf)> = Vec::with_capacity(paths.len());
    for path in paths {
        let name = match path.file_name() {
            Some(name) => name.as_bytes().to_vec(),
            None => fs::canonicalize(path)
                .map_err(|error| ClientError::local("find", path, &error))?
                .file_name()
                .map(|name| name.as_bytes().to_vec())
                .ok_or_else(|| {
                    ClientError::new(
                        ErrorKind::Usage,
                        format!("{} has no name", path.display()),
                        "among several paths each becomes an entry under its own name",
                        "put it by itself",
                    )
                })?,
        };
        named.push((name, path.clone()));
    }
    named.sort();
    if let Some(pair) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(ClientError::new(
            ErrorKind::Usage,
            format!("{} and {} have the same name", pair[0].1.display(), pair[1].1.display()),
            "among several paths each becomes an entry under its own name",
            "put them by themselves, or rename one",
        ));
    }
    tree.single = named.len() == 1;
    for (name, path) in named {
        let metadata = look(&path)?;
        if let Some(position) = tree.add(name, Place::Given(path.clone()), &path, &metadata, 1) {
            tree.root.push(position);
        }
    }
    Ok(tree)
}

fn look(path: &Path) -> Result<Metadata, ClientError> {
    fs::symlink_metadata(path).map_err(|error| ClientError::local("find", path, &error))
}

/// Permission bits only: the kind of an entry is said elsewhere.
pub(crate) fn permission_bits(metadata: &Metadata) -> u32 {
    metadata.mode() & 0o7777
}

/// The time of the last change; times beyond the year 2262 are cut to it.
pub(crate) fn mtime_ns(metadata: &Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

impl Tree {
    fn fail(&mut self, path: &Path, reason: impl ToString) {
        self.failed.push(FailedFile { path: path.display().to_string(), reason: reason.to_string() });
    }

    /// Adds the entries of one folder and all below it; what cannot be looked at is listed and left out.
    fn children(&mut self, path: &Path, parent: Option<u32>, depth: usize) -> Vec<u32> {
        if depth >= FOLDER_DEPTH_MAX {
            self.fail(path, format!("folders deeper than {FOLDER_DEPTH_MAX} are not put"));
            return Vec::new();
        }
        let mut names = Vec::new();
        match fs::read_dir(path) {
            Ok(entries) => {
                for entry in entries {
                    match entry {
                        Ok(entry) => names.push(entry.file_name()),
                        Err(error) => self.fail(path, error),
                    }
                }
            }
            Err(error) => self.fail(path, error),
        }
        names.sort_by(|left, right| left.as_bytes().cmp(right.as_bytes()));
        let mut found = Vec::with_capacity(names.len());
        for name in names {
            let below = path.join(&name);
            let place = parent.map_or_else(|| Place::Given(below.clone()), Place::Below);
            match fs::symlink_metadata(&below) {
                Ok(metadata) => found.extend(self.add(name.into_encoded_bytes(), place, &below, &metadata, depth + 1)),
                Err(error) => self.fail(&below, error),
            }
        }
        found
    }

    fn add(&mut self, name: Vec<u8>, place: Place, path: &Path, metadata: &Metadata, depth: usize) -> Option<u32> {
        if name.len() > NAME_MAX_BYTES {
            self.fail(path, format!("names longer than {NAME_MAX_BYTES} bytes are not put"));
            return None;
        }
        let kind = if metadata.is_file() {
            Kind::File
        } else if metadata.is_dir() {
            Kind::Folder(Vec::new())
        } else if metadata.is_symlink() {
            match fs::read_link(path) {
                Ok(target) if target.as_os_str().len() <= SYMLINK_MAX_BYTES => {
                    Kind::Symlink(target.into_os_string().into_encoded_bytes())
                }
                Ok(_) => {
                    self.fail(path, format!("symbolic links longer than {SYMLINK_MAX_BYTES} bytes are not put"));
                    return None;
                }
                Err(error) => {
                    self.fail(path, error);
                    return None;
                }
            }
        } else {
            self.skipped.push(path.to_path_buf());
            return None;
        };
        let Ok(position) = u32::try_from(self.items.len()) else {
            self.fail(path, "there are too many entries");
            return None;
        };
        let is_folder = matches!(kind, Kind::Folder(_));
        self.items.push(Item {
            name: name.into(),
            place,
            size: if kind == Kind::File { metadata.len() } else { 0 },
            kind,
            mode: permission_bits(metadata),
            mtime_ns: mtime_ns(metadata),
        });
        if is_folder {
            let children = self.children(path, Some(position), depth);
            self.items[position as usize].kind = Kind::Folder(children);
        }
        Some(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(tree: &Tree, positions: &[u32]) -> Vec<Vec<u8>> {
        positions.iter().map(|position| tree.items[*position as usize].name.to_vec()).collect()
    }

    #[test]
    fn a_folder_is_walked_in_byte_order_and_nothing_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path();
        fs::create_dir_all(base.join("b/c")).unwrap();
        fs::write(base.join("b/c/deep"), "x").unwrap();
        fs::write(base.join("a"), "12345").unwrap();
        fs::write(base.join(OsStr::from_bytes(b"\xff\xfe")), "").unwrap();
        symlink("/nowhere/at/all", base.join("link")).unwrap();
        symlink("b", base.join("loop")).unwrap();
        let tree = walk(&[base.to_path_buf()]).unwrap();
        assert_eq!(names(&tree, &tree.root), [&b"a"[..], b"b", b"link", b"loop", b"\xff\xfe"]);
        let files: Vec<PathBuf> = tree.files().map(|file| tree.path(file)).collect();
        assert_eq!(files, [base.join("a"), base.join("b/c/deep"), base.join(OsStr::from_bytes(b"\xff\xfe"))]);
        assert_eq!(tree.items[tree.root[2] as usize].kind, Kind::Symlink(b"/nowhere/at/all".to_vec()));
        assert!(tree.failed.is_empty() && tree.skipped.is_empty());
    }

    #[test]
    fn sockets_are_left_out_and_named() {
        let folder = tempfile::tempdir().unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let tree = walk(&[folder.path().to_path_buf()]).unwrap();
        assert_eq!(tree.skipped, [folder.path().join("socket")]);
        assert!(tree.root.is_empty());
    }

    #[test]
    fn several_paths_become_entries_under_their_names() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir_all(folder.path().join("x/same")).unwrap();
        fs::write(folder.path().join("same"), "").unwrap();
        fs::write(folder.path().join("other"), "").unwrap();
        let path = |name: &str| folder.path().join(name);
        let tree = walk(&[path("x"), path("other")]).unwrap();
        assert_eq!(names(&tree, &tree.root), [&b"other"[..], b"x"]);
        assert_eq!(walk(&[path("same"), path("x/same")]).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(walk(&[path("missing")]).unwrap_err().kind(), ErrorKind::Local);
        assert_eq!(walk(&[]).unwrap_err().kind(), ErrorKind::Usage);
    }
}
