//! When the leases of a dataset are to be looked at next, and how far a look has come.
//!
//! Decides the file's form. It saves questions to nodes and nothing else: without it, or damaged, the next change of the dataset
//! asks them how long they hold what its table names.

use std::fs;
use std::path::PathBuf;

use dolmen_proto::codec::{Reader, Writer};
use dolmen_proto::ids::{SegmentId, Timestamp};

use super::{State, write_durably};
use crate::error::ClientError;

const VERSION: u8 = 1;
const FILE_MAX_BYTES: usize = 1 + 8 + 1 + 32 + 8 + 1 + 8;
/// Bits of what a look came to so far.
const RENEWED: u8 = 1;
const LEFT_DUE: u8 = 2;
const SILENT: u8 = 4;

/// The file of one dataset.
#[derive(Debug, Clone)]
pub(crate) struct LeaseNotes {
    path: PathBuf,
}

/// What is known of a dataset's leases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct LeaseNote {
    /// Before that no lease is looked at, but by a look that has begun.
    pub(crate) next_look: Timestamp,
    /// A look that was not finished.
    pub(crate) pass: Option<Pass>,
}

/// How far a look at a table has come, from the smallest id to the largest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pass {
    /// Segments up to this one are done.
    pub(crate) after: SegmentId,
    /// The earliest end of a lease among them, in so far as nodes told one.
    pub(crate) earliest: Timestamp,
    /// Leases were renewed.
    pub(crate) renewed: bool,
    /// Leases that were due could not be renewed.
    pub(crate) left_due: bool,
    /// A node did not say how long it holds what it should, or does not hold it.
    pub(crate) silent: bool,
}

impl LeaseNotes {
    pub(super) fn new(state: &State, name: &str) -> Self {
        Self { path: state.vaults().join(format!("{name}.leases")) }
    }

    /// What is known; nothing when the file is missing or damaged.
    ///
    /// # Errors
    /// `Local` when it cannot be read.
    pub(crate) fn load(&self) -> Result<LeaseNote, ClientError> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(decode(&bytes).unwrap_or_else(|| {
                tracing::warn!(file = %self.path.display(), "what was known of leases is damaged and counts as nothing");
                LeaseNote::default()
            })),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(LeaseNote::default()),
            Err(error) => Err(ClientError::local("read what is known of leases in", &self.path, &error)),
        }
    }

    /// Keeps this in place of what was known.
    ///
    /// # Errors
    /// `Local` when it cannot be written.
    pub(crate) fn keep(&self, note: &LeaseNote) -> Result<(), ClientError> {
        let failed = |error| ClientError::local("write what is known of leases in", &self.path, &error);
        write_durably(&self.path, &encode(note)).map_err(failed)
    }
}

fn encode(note: &LeaseNote) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(VERSION);
    writer.u64(note.next_look.as_unix_ms());
    writer.u8(u8::from(note.pass.is_some()));
    if let Some(pass) = &note.pass {
        writer.raw(pass.after.as_bytes());
        writer.u64(pass.earliest.as_unix_ms());
        let bit = |set: bool, bit: u8| if set { bit } else { 0 };
        writer.u8(bit(pass.renewed, RENEWED) | bit(pass.left_due, LEFT_DUE) | bit(pass.silent, SILENT));
    }
    let mut bytes = writer.into_bytes();
    let sum = blake3::hash(&bytes);
    bytes.extend_from_slice(&sum.as_bytes()[..8]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<LeaseNote> {
    if bytes.len() > FILE_MAX_BYTES {
        return None;
    }
    let (body, sum) = bytes.split_at_checked(bytes.len().checked_sub(8)?)?;
    if blake3::hash(body).as_bytes()[..8] != *sum {
        return None;
    }
    let mut reader = Reader::new(body);
    if reader.u8("the version").ok()? != VERSION {
        return None;
    }
    let next_look = Timestamp::from_unix_ms(reader.u64("a time").ok()?);
    let pass = match reader.u8("whether a look has begun").ok()? {
        0 => None,
        1 => {
            let after = SegmentId::new(reader.array("a segment").ok()?);
            let earliest = Timestamp::from_unix_ms(reader.u64("a time").ok()?);
            let bits = reader.u8("what a look came to").ok()?;
            if bits > RENEWED | LEFT_DUE | SILENT {
                return None;
            }
            let has = |bit: u8| bits & bit != 0;
            Some(Pass { after, earliest, renewed: has(RENEWED), left_due: has(LEFT_DUE), silent: has(SILENT) })
        }
        _ => return None,
    };
    reader.finish().ok()?;
    Some(LeaseNote { next_look, pass })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_comes_back_and_damage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let notes = State::open(folder.path()).unwrap().leases("name");
        assert_eq!(notes.load().unwrap(), LeaseNote::default());
        let pass = Pass {
            after: SegmentId::new([7; 32]),
            earliest: Timestamp::from_unix_ms(9),
            renewed: true,
            left_due: false,
            silent: true,
        };
        for pass in [None, Some(pass)] {
            let note = LeaseNote { next_look: Timestamp::from_unix_ms(1 << 40), pass };
            notes.keep(&note).unwrap();
            assert_eq!(notes.load().unwrap(), note);
            let whole = fs::read(&notes.path).unwrap();
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                fs::write(&notes.path, &bytes).unwrap();
                assert_eq!(notes.load().unwrap(), LeaseNote::default());
                fs::write(&notes.path, &whole[..at]).unwrap();
                assert_eq!(notes.load().unwrap(), LeaseNote::default());
            }
        }
    }
}
