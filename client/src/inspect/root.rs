//! The root of a snapshot: the line that a paper or a model card quotes.
//!
//! Decides nothing: what is hashed, and how, is `dolmen-proto`'s.

use dolmen_proto::dataset_root::{DatasetRootHasher, RootEntry};
use dolmen_proto::manifest::EntryKind;
use serde::Serialize;

use crate::error::{ClientError, ErrorKind};
use crate::read::EntryWalk;
use crate::snapshot::Snapshot;

/// The root of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RootReport {
    /// The root as it is quoted; no secret.
    pub root: String,
    /// The snapshot's id in hexadecimal.
    pub snapshot: String,
    /// Regular files that it covers.
    pub files: u64,
    /// Sum of their sizes.
    pub bytes: u64,
}

impl Snapshot {
    /// Computes the root over paths, modes, sizes, hashes and link targets; from the manifest alone.
    ///
    /// # Errors
    /// `Refused` when a file's hash was not kept, `Damaged` or `NotNow` when a folder cannot be read.
    pub async fn root(&self) -> Result<RootReport, ClientError> {
        let mut hasher = DatasetRootHasher::new(self.root.salt);
        let mut walk = EntryWalk::new(self.dataset.whole(), Vec::new(), &self.root.root);
        while let Some((path, entry)) = walk.next().await? {
            let what = match &entry.kind {
                EntryKind::File(file) => {
                    let hash = file.hash.ok_or_else(|| {
                        ClientError::new(
                            ErrorKind::Refused,
                            "this snapshot has no root",
                            format!("the hash of {:?} was not kept", String::from_utf8_lossy(&path)),
                            "put it again with this release",
                        )
                    })?;
                    RootEntry::File { size_bytes: file.size_bytes, hash }
                }
                EntryKind::Folder(_) => RootEntry::Folder,
                EntryKind::Symlink { target } => RootEntry::Symlink { target },
            };
            hasher.entry(&path, entry.mode, what).map_err(|error| {
                ClientError::new(
                    ErrorKind::Damaged,
                    "the dataset's documents are damaged",
                    error,
                    "what was uploaded is damaged in itself: ask the dataset's owner",
                )
            })?;
            if let EntryKind::Folder(folder) = &entry.kind {
                walk.enter(path, folder)?;
            }
        }
        Ok(RootReport {
            root: hasher.finish().to_string(),
            snapshot: self.id().to_string(),
            files: self.files(),
            bytes: self.bytes(),
        })
    }
}
