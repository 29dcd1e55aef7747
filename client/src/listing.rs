//! Entries of a snapshot, listed as they are asked for.
//!
//! Decides the order: names in byte order, a folder before what lies in it. Holds one open folder a level.

use std::collections::VecDeque;

use dolmen_proto::manifest::{Entry, EntryKind as Kind};
use futures::Stream;

use crate::error::ClientError;
use crate::read::{Dataset, Folder};
use crate::report::{EntryKind, ListedEntry, format_time_ns};
use crate::snapshot::normal;

/// A folder that is being listed.
struct Open {
    path: Vec<u8>,
    reading: Folder,
    ready: VecDeque<Entry>,
}

/// Entries of a listing, read folder by folder as they are asked for.
pub struct Listing {
    dataset: Dataset,
    recursive: bool,
    stack: Vec<Open>,
    /// An entry that is listed by itself.
    single: Option<ListedEntry>,
}

impl std::fmt::Debug for Listing {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Listing(..)")
    }
}

impl Listing {
    pub(crate) async fn open(dataset: Dataset, path: &[u8], recursive: bool) -> Result<Self, ClientError> {
        let path = normal(path);
        let (folder, single) = match dataset.entry(&path).await? {
            None => (Some(dataset.snapshot().await?.root), None),
            Some(Entry { kind: Kind::Folder(folder), .. }) => (Some(folder), None),
            Some(entry) => (None, Some(listed(path.clone(), &entry))),
        };
        let open = folder.map(|folder| Open { path, reading: dataset.folder(&folder), ready: VecDeque::new() });
        Ok(Self { stack: open.into_iter().collect(), dataset, recursive, single })
    }

    /// The next entry; `None` at the end.
    ///
    /// # Errors
    /// As [`crate::Client::get`].
    pub async fn next(&mut self) -> Result<Option<ListedEntry>, ClientError> {
        if let Some(single) = self.single.take() {
            return Ok(Some(single));
        }
        while let Some(open) = self.stack.last_mut() {
            if let Some(entry) = open.ready.pop_front() {
                let path = if open.path.is_empty() {
                    entry.name.as_bytes().to_vec()
                } else {
                    [&open.path, &b"/"[..], entry.name.as_bytes()].concat()
                };
                let found = listed(path.clone(), &entry);
                if let (true, Kind::Folder(folder)) = (self.recursive, &entry.kind) {
                    let reading = self.dataset.folder(folder);
                    self.stack.push(Open { path, reading, ready: VecDeque::new() });
                }
                return Ok(Some(found));
            }
            match self.dataset.next_entries(&mut open.reading).await? {
                Some(entries) => open.ready.extend(entries),
                None => {
                    self.stack.pop();
                }
            }
        }
        Ok(None)
    }

    /// The same as a stream, which ends after an error.
    ///
    /// ```no_run
    /// use futures::TryStreamExt;
    /// # async fn example(snapshot: &dolmen_client::Snapshot) -> Result<(), dolmen_client::ClientError> {
    /// let sizes = snapshot.list(b"", true).await?.into_stream().map_ok(|entry| entry.size);
    /// let largest = sizes.try_fold(0, |largest, size| async move { Ok(largest.max(size)) }).await?;
    /// # let _ = largest;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_stream(self) -> impl Stream<Item = Result<ListedEntry, ClientError>> + Send {
        futures::stream::unfold(Some(self), |listing| async move {
            let mut listing = listing?;
            match listing.next().await {
                Ok(Some(entry)) => Some((Ok(entry), Some(listing))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
    }
}

pub(crate) fn listed(path: Vec<u8>, entry: &Entry) -> ListedEntry {
    let (kind, size, target) = match &entry.kind {
        Kind::File(file) => (EntryKind::File, file.size_bytes, None),
        Kind::Folder(folder) => (EntryKind::Folder, folder.totals.bytes, None),
        Kind::Symlink { target } => (EntryKind::Symlink, 0, Some(String::from_utf8_lossy(target).into_owned())),
    };
    ListedEntry {
        path: String::from_utf8_lossy(&path).into_owned(),
        kind,
        size,
        mode: entry.mode,
        mtime: format_time_ns(i128::from(entry.modified_ns)),
        target,
    }
}
