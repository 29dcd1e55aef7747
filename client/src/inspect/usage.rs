//! How much lies in each folder.
//!
//! Decides nothing: a folder's entry says what it all comes to, whatever lies below is not read.

use dolmen_proto::manifest::{Entry, EntryKind, Totals};
use serde::Serialize;

use crate::error::ClientError;
use crate::read::EntryWalk;
use crate::snapshot::{Snapshot, normal};

/// A folder and what lies in it at any depth, or a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UsageEntry {
    /// Path below the snapshot's root; bytes that are not UTF-8 are replaced; empty for the root.
    pub path: String,
    /// Regular files.
    pub files: u64,
    /// Folders below it.
    pub folders: u64,
    /// Sum of the sizes of the files, holes included. Equal chunks are stored once, so this is not what is stored.
    pub bytes: u64,
}

fn usage(path: &[u8], totals: Totals) -> UsageEntry {
    UsageEntry {
        path: String::from_utf8_lossy(path).into_owned(),
        files: totals.files,
        folders: totals.folders,
        bytes: totals.bytes,
    }
}

impl Snapshot {
    /// Tells how much lies in the folder at a path, and in those down to `depth` levels below it; the folder itself last.
    ///
    /// # Errors
    /// `NotFound` when there is no such path, `Damaged` or `NotNow` when a folder cannot be read.
    pub async fn usage(
        &self,
        path: &[u8],
        depth: usize,
        mut tell: impl FnMut(UsageEntry),
    ) -> Result<UsageEntry, ClientError> {
        let path = normal(path);
        let folder = match self.dataset.entry(&path).await? {
            None => self.root.root.clone(),
            Some(Entry { kind: EntryKind::Folder(folder), .. }) => folder,
            Some(entry) => return Ok(usage(&path, Totals::default().and(&entry).unwrap_or_default())),
        };
        if depth > 0 {
            let mut walk = EntryWalk::new(self.dataset.clone(), path.clone(), &folder);
            while let Some((path, entry)) = walk.next().await? {
                if let EntryKind::Folder(folder) = &entry.kind {
                    tell(usage(&path, folder.totals));
                    if walk.depth() < depth {
                        walk.enter(path, folder)?;
                    }
                }
            }
        }
        Ok(usage(&path, folder.totals))
    }
}
