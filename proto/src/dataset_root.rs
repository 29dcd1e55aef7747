//! The root of a snapshot as a paper quotes it: one hash over what the files are, wherever and however they are stored.
//!
//! Decides what is hashed and how the root is written as text. Names no chunk, segment or node, so that repacking and moving
//! never change it. Never reads files: who checks a folder walks it and hands in what it finds.

use core::fmt;
use core::str::FromStr;

use crate::keys::context;
use crate::limits::{FOLDER_DEPTH_MAX, SYMLINK_MAX_BYTES};
use crate::link::{BASE32, checksum};
use crate::manifest::{MODE_MASK, Name, NameError};

/// What every dataset root of this version begins with.
pub const DATASET_ROOT_PREFIX: &str = "dolmenroot1";

const CHECKSUM_BYTES: usize = 4;
const PAYLOAD_BYTES: usize = 32 + 32 + CHECKSUM_BYTES;

/// A salt and the hash of a snapshot's entries under it. Public: it is made to be printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatasetRoot {
    salt: [u8; 32],
    hash: [u8; 32],
}

/// Why a text is not a dataset root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatasetRootError {
    /// The text does not begin as a root does.
    #[error("a dataset root begins with {DATASET_ROOT_PREFIX}")]
    Prefix,
    /// The text has a character that no root has, or not as many as a root.
    #[error(
        "a dataset root is {DATASET_ROOT_PREFIX} and 109 lowercase letters and digits 2 to 7; this one was mistyped or cut off"
    )]
    Text,
    /// A character was changed.
    #[error("the root's checksum does not match: it was mistyped")]
    Checksum,
}

/// Why an entry cannot be part of a root: the caller's mistake, or a manifest that is not canonical.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RootEntryError {
    /// A component of the path is no name.
    #[error("a component of the path {0}")]
    Name(#[from] NameError),
    /// The path has more than [`FOLDER_DEPTH_MAX`] components.
    #[error("the path has more than {FOLDER_DEPTH_MAX} components")]
    TooDeep,
    /// The entry does not follow the one before: every folder's entries come right after it, by the bytes of their names.
    #[error("the entries are not in order, or a folder is missing above one")]
    Order,
    /// The mode has more than permission bits.
    #[error("mode {0:#o} has more than permission bits")]
    Mode(u32),
    /// A symbolic link points nowhere or further than an entry can say.
    #[error("a symbolic link's target has 1 to {SYMLINK_MAX_BYTES} bytes, this one {0}")]
    Target(usize),
}

/// What an entry is, as the root covers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootEntry<'a> {
    /// A file.
    File {
        /// Its length, holes included.
        size_bytes: u64,
        /// BLAKE3 of all its bytes: a manifest that lacks it cannot be rooted.
        hash: [u8; 32],
    },
    /// A folder; what is in it follows.
    Folder,
    /// A symbolic link.
    Symlink {
        /// Where it points.
        target: &'a [u8],
    },
}

/// Hashes the entries of a snapshot, depth first. Holds one path.
#[derive(Debug, Clone)]
pub struct DatasetRootHasher {
    salt: [u8; 32],
    hasher: blake3::Hasher,
    /// The path of the last entry, and whether it is a folder.
    last: Vec<Name>,
    last_is_folder: bool,
}

impl DatasetRootHasher {
    /// Nothing hashed but the salt, which is the snapshot's, or that of the root that is checked.
    #[must_use]
    pub fn new(salt: [u8; 32]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key(context::DATASET_ROOT);
        hasher.update(&salt);
        Self { salt, hasher, last: Vec::new(), last_is_folder: true }
    }

    /// Adds the next entry: a folder, then what is in it, the entries of one folder by the bytes of their names. The root
    /// folder itself is none. `path` is the names from the root folder on, joined by `/`.
    ///
    /// # Errors
    /// [`RootEntryError`]; the hasher is then as it was.
    pub fn entry(&mut self, path: &[u8], mode: u32, entry: RootEntry<'_>) -> Result<(), RootEntryError> {
        // No more components are looked at than there may be, and no more memory is taken than the path has.
        let names = path.split(|byte| *byte == b'/').take(FOLDER_DEPTH_MAX + 1).map(Name::new);
        let names = names.collect::<Result<Vec<_>, _>>()?;
        if names.len() > FOLDER_DEPTH_MAX {
            return Err(RootEntryError::TooDeep);
        }
        if !self.follows(&names) {
            return Err(RootEntryError::Order);
        }
        if mode & !MODE_MASK != 0 {
            return Err(RootEntryError::Mode(mode));
        }
        if let RootEntry::Symlink { target } = entry
            && !(1..=SYMLINK_MAX_BYTES).contains(&target.len())
        {
            return Err(RootEntryError::Target(target.len()));
        }
        self.hasher.update(&[entry.byte()]);
        self.bytes32(path);
        self.hasher.update(&mode.to_le_bytes());
        match entry {
            RootEntry::File { size_bytes, hash } => {
                self.hasher.update(&size_bytes.to_le_bytes()).update(&hash);
            }
            RootEntry::Folder => {}
            RootEntry::Symlink { target } => self.bytes32(target),
        }
        self.last = names;
        self.last_is_folder = matches!(entry, RootEntry::Folder);
        Ok(())
    }

    /// The folder of the new entry is the last entry itself, or one of the folders above it, in which the new name comes after the
    /// one on the last entry's path.
    fn follows(&self, names: &[Name]) -> bool {
        let Some((name, folder)) = names.split_last() else { return false };
        match self.last.get(folder.len()) {
            Some(before) => self.last.starts_with(folder) && before < name,
            None => self.last_is_folder && self.last == folder,
        }
    }

    fn bytes32(&mut self, bytes: &[u8]) {
        let length = u32::try_from(bytes.len()).expect("paths and targets are bounded far below 2^32");
        self.hasher.update(&length.to_le_bytes()).update(bytes);
    }

    /// The root over all entries so far.
    #[must_use]
    pub fn finish(&self) -> DatasetRoot {
        DatasetRoot { salt: self.salt, hash: *self.hasher.finalize().as_bytes() }
    }
}

impl RootEntry<'_> {
    const fn byte(&self) -> u8 {
        match self {
            Self::File { .. } => 1,
            Self::Folder => 2,
            Self::Symlink { .. } => 3,
        }
    }
}

impl DatasetRoot {
    /// The salt, with which a folder is hashed again to check it.
    #[must_use]
    pub const fn salt(&self) -> &[u8; 32] {
        &self.salt
    }

    /// The hash alone.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.hash
    }
}

impl fmt::Display for DatasetRoot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = [self.salt, self.hash].concat();
        let payload = [&body[..], &checksum(DATASET_ROOT_PREFIX, &body)].concat();
        write!(formatter, "{DATASET_ROOT_PREFIX}{}", BASE32.encode(&payload))
    }
}

impl FromStr for DatasetRoot {
    type Err = DatasetRootError;

    /// Reads a root; the text must be exactly the root, without spaces around it.
    fn from_str(text: &str) -> Result<Self, DatasetRootError> {
        let encoded = text.strip_prefix(DATASET_ROOT_PREFIX).ok_or(DatasetRootError::Prefix)?;
        if encoded.len() != BASE32.encode_len(PAYLOAD_BYTES) {
            return Err(DatasetRootError::Text);
        }
        let payload = BASE32.decode(encoded.as_bytes()).map_err(|_| DatasetRootError::Text)?;
        let (body, found) = payload.split_last_chunk::<CHECKSUM_BYTES>().ok_or(DatasetRootError::Text)?;
        let (salt, hash) = body.split_first_chunk::<32>().ok_or(DatasetRootError::Text)?;
        if *found != checksum(DATASET_ROOT_PREFIX, body) {
            return Err(DatasetRootError::Checksum);
        }
        Ok(Self { salt: *salt, hash: hash.try_into().map_err(|_| DatasetRootError::Text)? })
    }
}

#[cfg(test)]
mod tests;
