//! A folder on this machine checked against a root, without any network.
//!
//! Decides how a folder is read to be hashed: as a put reads it, links not followed, what is neither file, folder nor
//! link left out. That something differs is all that a root can tell, not what.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use dolmen_proto::dataset_root::{DatasetRoot, DatasetRootHasher, RootEntry};
use dolmen_proto::limits::FOLDER_DEPTH_MAX;
use dolmen_proto::manifest::MODE_MASK;
use serde::Serialize;

use crate::error::{ClientError, ErrorKind};
use crate::read::join;

/// What a check came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CheckReport {
    /// Whether every path, mode, size, byte and link target is as the root says, and nothing else is there.
    pub matches: bool,
    /// The root that the folder has, under the salt of the one that was given.
    pub root: String,
    /// Regular files that were hashed.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Hashes a folder, or one file, and compares it with a root. Reads everything and blocks: call it where blocking is fine.
///
/// A file counts as a folder that holds only this file, as it does when it is put.
///
/// # Errors
/// `Usage` for what is no root, `Local` when something cannot be read or has a name that no snapshot has.
///
/// ```no_run
/// # fn main() -> Result<(), dolmen_client::ClientError> {
/// let report = dolmen_client::check_folder("faces/v3".as_ref(), "dolmenroot1...")?;
/// println!("{}", if report.matches { "the same" } else { "not the same" });
/// # Ok(())
/// # }
/// ```
pub fn check_folder(path: &Path, root: &str) -> Result<CheckReport, ClientError> {
    let expected: DatasetRoot = root.trim().parse().map_err(|error| {
        ClientError::new(
            ErrorKind::Usage,
            "that is not a dataset root",
            error,
            "copy the root again, whole and unchanged",
        )
    })?;
    let mut check = Check { hasher: DatasetRootHasher::new(*expected.salt()), files: 0, bytes: 0 };
    let metadata = fs::metadata(path).map_err(|error| ClientError::local("read", path, &error))?;
    if metadata.is_dir() {
        check.folder(path, b"", 0)?;
    } else {
        let name = path.file_name().unwrap_or_default().as_bytes().to_vec();
        check.entry(path, &name, &metadata, 0)?;
    }
    let found = check.hasher.finish();
    Ok(CheckReport { matches: found == expected, root: found.to_string(), files: check.files, bytes: check.bytes })
}

struct Check {
    hasher: DatasetRootHasher,
    files: u64,
    bytes: u64,
}

impl Check {
    fn folder(&mut self, at: &Path, path: &[u8], depth: usize) -> Result<(), ClientError> {
        let failed = |error: io::Error| ClientError::local("read", at, &error);
        if depth > FOLDER_DEPTH_MAX {
            return Err(failed(io::Error::other(format!("more than {FOLDER_DEPTH_MAX} folders lie in each other"))));
        }
        let names = fs::read_dir(at).map_err(failed)?.map(|entry| entry.map(|entry| entry.file_name()));
        let mut names = names.collect::<io::Result<Vec<_>>>().map_err(failed)?;
        names.sort_by(|left, right| left.as_bytes().cmp(right.as_bytes()));
        for name in names {
            let at = at.join(&name);
            let metadata = fs::symlink_metadata(&at).map_err(|error| ClientError::local("read", &at, &error))?;
            self.entry(&at, &join(path, name.as_bytes()), &metadata, depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, at: &Path, path: &[u8], metadata: &fs::Metadata, depth: usize) -> Result<(), ClientError> {
        let failed = |error: io::Error| ClientError::local("read", at, &error);
        let mode = metadata.permissions().mode() & MODE_MASK;
        let kind = metadata.file_type();
        let target;
        let entry = if kind.is_dir() {
            RootEntry::Folder
        } else if kind.is_symlink() {
            target = fs::read_link(at).map_err(failed)?;
            RootEntry::Symlink { target: target.as_os_str().as_bytes() }
        } else if kind.is_file() {
            let mut hasher = blake3::Hasher::new();
            let mut file = fs::File::open(at).map_err(failed)?;
            hasher.update_reader(&mut file).map_err(failed)?;
            self.files += 1;
            self.bytes += hasher.count();
            RootEntry::File { size_bytes: hasher.count(), hash: *hasher.finalize().as_bytes() }
        } else {
            return Ok(());
        };
        self.hasher.entry(path, mode, entry).map_err(|error| failed(io::Error::other(error)))?;
        if kind.is_dir() { self.folder(at, path, depth + 1) } else { Ok(()) }
    }
}
