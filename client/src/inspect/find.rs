//! Entries that match what is asked for.
//!
//! Decides what a test means. All tests that are given must hold.

use dolmen_proto::manifest::{Entry, EntryKind as Kind};

use crate::error::ClientError;
use crate::glob::Globs;
use crate::listing::listed;
use crate::read::EntryWalk;
use crate::report::{EntryKind, ListedEntry};
use crate::snapshot::{Snapshot, normal};

/// What to look for; everything by default.
#[derive(Debug, Clone, Default)]
pub struct FindOptions {
    /// Patterns, any of which must match: one without a slash the name, one with a slash the path below the folder that is
    /// searched; `*` and `?` stop at slashes, `**` does not. Empty: any name.
    pub names: Vec<String>,
    /// What it must be.
    pub kind: Option<EntryKind>,
    /// Least size of a file, in bytes; folders and links have none and are left out.
    pub least_bytes: Option<u64>,
    /// Largest size of a file, in bytes; folders and links have none and are left out.
    pub most_bytes: Option<u64>,
}

impl Snapshot {
    /// Tells every entry below a path for which all tests hold; gives how many.
    ///
    /// # Errors
    /// `Usage` for a pattern that is none, `NotFound` when there is no such path, `Damaged` or `NotNow` when a folder cannot
    /// be read.
    pub async fn find(
        &self,
        path: &[u8],
        options: &FindOptions,
        mut tell: impl FnMut(ListedEntry),
    ) -> Result<u64, ClientError> {
        let path = normal(path);
        let names = if options.names.is_empty() { None } else { Some(Globs::new(&options.names)?) };
        let folder = match self.dataset.entry(&path).await? {
            None => self.root.root.clone(),
            Some(Entry { kind: Kind::Folder(folder), .. }) => folder,
            Some(entry) => {
                let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(&path);
                let found = matches(options, names.as_ref(), name, &entry);
                if found {
                    tell(listed(&path, &entry));
                }
                return Ok(u64::from(found));
            }
        };
        let below = if path.is_empty() { 0 } else { path.len() + 1 };
        let mut walk = EntryWalk::new(self.dataset.whole(), path, &folder);
        let mut count = 0;
        while let Some((path, entry)) = walk.next().await? {
            if matches(options, names.as_ref(), path.get(below..).unwrap_or_default(), &entry) {
                count += 1;
                tell(listed(&path, &entry));
            }
            if let Kind::Folder(folder) = &entry.kind {
                walk.enter(path, folder)?;
            }
        }
        Ok(count)
    }
}

fn matches(options: &FindOptions, names: Option<&Globs>, path: &[u8], entry: &Entry) -> bool {
    let (kind, size) = match &entry.kind {
        Kind::File(file) => (EntryKind::File, Some(file.size_bytes)),
        Kind::Folder(_) => (EntryKind::Folder, None),
        Kind::Symlink { .. } => (EntryKind::Symlink, None),
    };
    let sized = |test: &dyn Fn(u64) -> bool| size.is_some_and(test);
    options.kind.is_none_or(|wanted| wanted == kind)
        && options.least_bytes.is_none_or(|least| sized(&|size| size >= least))
        && options.most_bytes.is_none_or(|most| sized(&|size| size <= most))
        && names.is_none_or(|globs| globs.matches(path))
}
