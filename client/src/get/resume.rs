//! Large files that an interrupted restore left half written.
//!
//! Decides which files are worth it and what is believed of what was left: only chunks whose bytes are still the ones that were
//! noted when they were written. Never decides where the files lie: see [`super::target`].

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::{Mutex, PoisonError};

use dolmen_proto::limits::CHUNK_MAX_BYTES;

use super::target::Attributes;

/// Smaller files are fetched again: finding out what is there would take as long.
pub(crate) const RESUMED_MIN_BYTES: u64 = 32 * 1024 * 1024;
/// Where a chunk begins in the file, its length, and the front of a hash over both and its bytes.
const NOTE_BYTES: usize = 8 + 4 + 20;
/// Notes of one file that are read at most: those of several TiB.
const NOTES_MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What an unfinished file is found by: it must be the same place, and the same contents.
pub(crate) fn key(folder: &[u8], name: &[u8], size: u64, attributes: Attributes, hash: &[u8; 32]) -> String {
    let mut hasher = blake3::Hasher::new();
    for part in [folder, name] {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part);
    }
    hasher.update(&size.to_le_bytes()).update(&attributes.mtime_ns.to_le_bytes()).update(hash);
    hasher.finalize().to_hex()[..32].to_owned()
}

fn note(at: u64, bytes: &[u8]) -> Option<[u8; NOTE_BYTES]> {
    let length = u32::try_from(bytes.len()).ok()?;
    let mut note = [0; NOTE_BYTES];
    note[..8].copy_from_slice(&at.to_le_bytes());
    note[8..12].copy_from_slice(&length.to_le_bytes());
    let mut hasher = blake3::Hasher::new();
    // What is long comes first: BLAKE3 takes it in at full speed from where it begins.
    hasher.update(bytes).update(&note[..12]);
    note[12..].copy_from_slice(&hasher.finalize().as_bytes()[..20]);
    Some(note)
}

/// Takes down which chunks of a file are written.
#[derive(Debug)]
pub(crate) struct Notes(Mutex<File>);

impl Notes {
    pub(crate) fn new(file: File) -> Self {
        Self(Mutex::new(file))
    }

    /// Notes a chunk that is written. A note that cannot be kept costs a fetch later, nothing else.
    pub(crate) fn add(&self, at: u64, bytes: &[u8]) {
        if let Some(note) = note(at, bytes) {
            let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).write_all(&note);
        }
    }
}

/// The chunks of an unfinished file that are there as noted: their offsets and lengths.
pub(crate) fn verified(file: &File, notes: &File) -> BTreeMap<u64, u32> {
    let mut found = BTreeMap::new();
    let mut notes = BufReader::new(notes.take(NOTES_MAX_BYTES));
    let mut record = [0; NOTE_BYTES];
    let mut bytes = Vec::new();
    while notes.read_exact(&mut record).is_ok() {
        let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = record;
        let at = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let length = u32::from_le_bytes([i, j, k, l]);
        if length as usize > CHUNK_MAX_BYTES {
            continue;
        }
        bytes.resize(length as usize, 0);
        if file.read_exact_at(&mut bytes, at).is_ok() && note(at, &bytes) == Some(record) {
            found.insert(at, length);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_chunks_that_are_there_as_noted_are_believed() {
        let folder = tempfile::tempdir().unwrap();
        let open = |name: &str| {
            File::options()
                .read(true)
                .append(name == "notes")
                .write(true)
                .create(true)
                .open(folder.path().join(name))
                .unwrap()
        };
        let (file, notes) = (open("file"), Notes::new(open("notes")));
        for (at, bytes) in [(0, &b"first"[..]), (100, b"second"), (50, b"third"), (200, b"never written")] {
            if at != 200 {
                file.write_all_at(bytes, at).unwrap();
            }
            notes.add(at, bytes);
        }
        open("notes").write_all(&[7; 45]).unwrap();
        file.write_all_at(b"x", 52).unwrap();
        assert_eq!(verified(&file, &open("notes")), BTreeMap::from([(0, 5), (100, 6)]));
    }
}
