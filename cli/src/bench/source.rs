//! What is stored: noise, so that nothing compresses and nothing was there before.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use crate::failure::Failure;

const PIECE_BYTES: usize = 1024 * 1024;
const FILES_PER_FOLDER: u32 = 1000;

fn key(seed: u64) -> Result<[u8; 32], Failure> {
    let mut key = [0; 32];
    getrandom::fill(&mut key[8..]).map_err(|error| Failure::bug("no random bytes", error.to_string()))?;
    key[..8].copy_from_slice(&seed.to_le_bytes());
    Ok(key)
}

/// Writes a file of so many bytes that differ on every call.
pub(super) fn write_noise(path: &Path, bytes: u64, seed: u64) -> Result<(), Failure> {
    let trouble = |error| Failure::local(format!("could not write {}", path.display()), &error);
    let mut noise = blake3::Hasher::new_keyed(&key(seed)?).finalize_xof();
    let mut file = File::create(path).map_err(trouble)?;
    let mut buffer = vec![0; PIECE_BYTES];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        noise.fill(&mut buffer[..count]);
        file.write_all(&buffer[..count]).map_err(trouble)?;
        left -= count as u64;
    }
    Ok(())
}

/// Writes `count` files of `bytes` each below `folder` and gives their paths within it.
pub(super) fn write_small(folder: &Path, count: u32, bytes: usize, seed: u64) -> Result<Vec<PathBuf>, Failure> {
    let trouble = |error| Failure::local(format!("could not write below {}", folder.display()), &error);
    let mut noise = blake3::Hasher::new_keyed(&key(seed)?).finalize_xof();
    let mut buffer = vec![0; bytes];
    let mut paths = Vec::new();
    for number in 0..count {
        let part = format!("{:04}", number / FILES_PER_FOLDER);
        if number % FILES_PER_FOLDER == 0 {
            std::fs::create_dir_all(folder.join(&part)).map_err(trouble)?;
        }
        let path = Path::new(&part).join(format!("{number:07}"));
        noise.fill(&mut buffer);
        std::fs::write(folder.join(&path), &buffer).map_err(trouble)?;
        paths.push(path);
    }
    Ok(paths)
}

/// Whether two files hold the same bytes.
pub(super) fn same(left: &Path, right: &Path) -> Result<bool, Failure> {
    let trouble = |error| Failure::local("could not compare what came back", &error);
    let open = |path: &Path| File::open(path).map_err(trouble);
    let (mut left, mut right) = (open(left)?, open(right)?);
    let (mut one, mut two) = (vec![0; PIECE_BYTES], vec![0; PIECE_BYTES]);
    loop {
        let count = left.read(&mut one).map_err(trouble)?;
        if count == 0 {
            return Ok(right.read(&mut two).map_err(trouble)? == 0);
        }
        if right.read_exact(&mut two[..count]).is_err() || one[..count] != two[..count] {
            return Ok(false);
        }
    }
}

/// Whether every file below `left` is below `right` with the same bytes; times and modes are not looked at.
pub(super) fn same_files(left: &Path, right: &Path) -> Result<bool, Failure> {
    let trouble = |error| Failure::local("could not compare what came back", &error);
    for entry in std::fs::read_dir(left).map_err(trouble)? {
        let entry = entry.map_err(trouble)?;
        let (left, right) = (entry.path(), right.join(entry.file_name()));
        let same = if left.is_dir() { same_files(&left, &right)? } else { right.exists() && same(&left, &right)? };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

/// A range of a file, to compare with.
pub(super) fn range(file: &File, offset: u64, bytes: usize) -> Result<Vec<u8>, Failure> {
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, offset)
        .map_err(|error| Failure::local("could not read what was stored", &error))?;
    Ok(buffer)
}
