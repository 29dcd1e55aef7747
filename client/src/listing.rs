//! Entries of a snapshot, listed as they are asked for.
//!
//! Decides what of an entry is told. Never reads more than what is asked for needs.

use dolmen_proto::manifest::{Entry, EntryKind as Kind};
use futures::Stream;

use crate::error::ClientError;
use crate::read::{Dataset, EntryWalk};
use crate::report::{EntryKind, ListedEntry, format_time_ns};
use crate::snapshot::normal;

/// Entries of a listing, read folder by folder as they are asked for.
pub struct Listing {
    walk: Option<EntryWalk>,
    recursive: bool,
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
            Some(entry) => (None, Some(listed(&path, &entry))),
        };
        Ok(Self { walk: folder.map(|folder| EntryWalk::new(dataset, path, &folder)), recursive, single })
    }

    /// The next entry: names in byte order, a folder before what lies in it; `None` at the end.
    ///
    /// # Errors
    /// As [`crate::Client::get`].
    pub async fn next(&mut self) -> Result<Option<ListedEntry>, ClientError> {
        if let Some(single) = self.single.take() {
            return Ok(Some(single));
        }
        let Some(walk) = &mut self.walk else { return Ok(None) };
        let Some((path, entry)) = walk.next().await? else { return Ok(None) };
        let found = listed(&path, &entry);
        if let (true, Kind::Folder(folder)) = (self.recursive, &entry.kind) {
            walk.enter(path, folder)?;
        }
        Ok(Some(found))
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

/// An entry as it is told.
pub(crate) fn listed(path: &[u8], entry: &Entry) -> ListedEntry {
    let (kind, size, target) = match &entry.kind {
        Kind::File(file) => (EntryKind::File, file.size_bytes, None),
        Kind::Folder(folder) => (EntryKind::Folder, folder.totals.bytes, None),
        Kind::Symlink { target } => (EntryKind::Symlink, 0, Some(String::from_utf8_lossy(target).into_owned())),
    };
    ListedEntry {
        path: String::from_utf8_lossy(path).into_owned(),
        kind,
        size,
        mode: entry.mode,
        mtime: format_time_ns(i128::from(entry.modified_ns)),
        target,
    }
}
