//! Whether two folders hold the same: names, kinds, permissions, times, link targets and every byte.
//!
//! Decides what "came back verified" means for the demo, independently of the code that stored and restored.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What a comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Files found equal, byte for byte.
    pub files: u64,
    /// Bytes of these files.
    pub bytes: u64,
    /// What differs, one line each.
    pub differences: Vec<String>,
}

/// Compares `restored` with `original`, both folders; special files of the original are not looked at.
///
/// # Errors
/// Whatever the file system says while reading either.
pub fn compare(original: &Path, restored: &Path) -> io::Result<Comparison> {
    let mut comparison = Comparison::default();
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let left = entries(&original.join(&folder))?;
        let right = entries(&restored.join(&folder))?;
        for name in right.keys().filter(|name| !left.contains_key(*name)) {
            comparison.differences.push(format!("{} is only in the copy", folder.join(name).display()));
        }
        for (name, left) in left {
            let path = folder.join(&name);
            let Some(right) = right.get(&name) else {
                comparison.differences.push(format!("{} is missing in the copy", path.display()));
                continue;
            };
            if let Some(difference) = metadata_difference(&left, right) {
                comparison.differences.push(format!("{}: {difference}", path.display()));
            } else if left.is_dir() {
                open.push(path);
            } else if left.is_symlink() {
                if fs::read_link(original.join(&path))? != fs::read_link(restored.join(&path))? {
                    comparison.differences.push(format!("{} points elsewhere", path.display()));
                }
            } else if same_bytes(&original.join(&path), &restored.join(&path))? {
                comparison.files += 1;
                comparison.bytes += left.len();
            } else {
                comparison.differences.push(format!("{} has other bytes", path.display()));
            }
        }
    }
    Ok(comparison)
}

fn entries(folder: &Path) -> io::Result<BTreeMap<OsString, Metadata>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let metadata = entry.path().symlink_metadata()?;
        let kind = metadata.file_type();
        if kind.is_file() || kind.is_dir() || kind.is_symlink() {
            found.insert(entry.file_name(), metadata);
        }
    }
    Ok(found)
}

fn metadata_difference(left: &Metadata, right: &Metadata) -> Option<String> {
    if left.file_type() != right.file_type() {
        return Some("is another kind of thing".to_owned());
    }
    if left.is_file() && left.len() != right.len() {
        return Some(format!("has {} bytes instead of {}", right.len(), left.len()));
    }
    if left.is_symlink() {
        return None;
    }
    if left.mode() != right.mode() {
        return Some(format!("has mode {:o} instead of {:o}", right.mode(), left.mode()));
    }
    if (left.mtime(), left.mtime_nsec()) != (right.mtime(), right.mtime_nsec()) {
        return Some("has another time of change".to_owned());
    }
    None
}

fn same_bytes(left: &Path, right: &Path) -> io::Result<bool> {
    let (mut left, mut right) = (File::open(left)?, File::open(right)?);
    let mut left_buffer = vec![0; 256 * 1024];
    let mut right_buffer = vec![0; 256 * 1024];
    loop {
        let count = left.read(&mut left_buffer)?;
        if count == 0 {
            return Ok(right.read(&mut right_buffer[..1])? == 0);
        }
        if right.read_exact(&mut right_buffer[..count]).is_err() || left_buffer[..count] != right_buffer[..count] {
            return Ok(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_found_whatever_they_are() -> io::Result<()> {
        let folder = tempfile::tempdir()?;
        let (left, right) = (folder.path().join("left"), folder.path().join("right"));
        for side in [&left, &right] {
            fs::create_dir_all(side.join("sub"))?;
            fs::write(side.join("same"), b"same")?;
            fs::write(side.join("bytes"), if side == &left { b"one" } else { b"two" })?;
            std::os::unix::fs::symlink(if side == &left { "same" } else { "bytes" }, side.join("link"))?;
            let times = fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH);
            for name in ["same", "bytes"] {
                File::options().write(true).open(side.join(name))?.set_times(times)?;
            }
        }
        fs::write(left.join("sub/gone"), b"")?;
        fs::write(right.join("sub/extra"), b"")?;
        for side in [&left, &right] {
            File::open(side.join("sub"))?.set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH))?;
        }
        let comparison = compare(&left, &right)?;
        assert_eq!((comparison.files, comparison.bytes), (1, 4));
        let mut differences = comparison.differences;
        differences.sort();
        assert_eq!(
            differences,
            [
                "bytes has other bytes",
                "link points elsewhere",
                "sub/extra is only in the copy",
                "sub/gone is missing in the copy"
            ]
        );
        Ok(())
    }
}
