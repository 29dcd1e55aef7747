//! A tree without one path.
//!
//! Decides that a path which another writer changed meanwhile is merged, not removed unseen. The folders on the way to the path are written anew, all others stay
//! where they are.

use dolmen_proto::ids::{SnapshotId, Timestamp};
use dolmen_proto::manifest::{Entry, EntryKind, FolderBuilder, FolderEntry, Name};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::runtime::Handle;

use super::{Change, NewSnapshot, Operation, State, Tree};
use crate::error::{ClientError, ErrorKind};
use crate::put::{Cursor, Parent, Sink, Store, built};

/// A folder on the way.
struct Level {
    entries: Cursor,
    folder: FolderBuilder,
    /// What the folder is in the one above; `None` for the root.
    entry: Option<Entry>,
}

/// Splits a path into its components.
///
/// # Errors
/// `Usage` when one of them can be no name.
pub(crate) fn components(path: &[u8]) -> Result<Vec<Name>, ClientError> {
    let parts = path.split(|byte| *byte == b'/').filter(|part| !part.is_empty());
    let name = |part: &[u8]| {
        Name::new(part).map_err(|error| {
            let what = format!("{:?} is no path in a dataset", String::from_utf8_lossy(path));
            ClientError::new(ErrorKind::Usage, what, format!("a component {error}"), "list paths with `dolmen ls`")
        })
    };
    parts.map(name).collect()
}

/// Removes a path.
pub(crate) struct Remove {
    pub(crate) path: Vec<Name>,
    pub(crate) message: String,
    /// The snapshot that it was removed from last.
    pub(crate) from: Option<SnapshotId>,
}

impl Operation for Remove {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let work = async move {
            self.from = Some(base.reader.snapshot_id());
            let snapshot = base.reader.snapshot().await?;
            let tree = Parent::new(base.reader.clone(), &snapshot, store.known.clone());
            let (path, runtime) = (self.path.clone(), Handle::current());
            let root = store.write(move |sink| without(&tree, &path, &runtime, sink)).await?;
            let new = NewSnapshot {
                root,
                single: false,
                needs: snapshot.needs,
                message: self.message.clone(),
                tags: Vec::new(),
            };
            Ok(Change { tree: Tree::New(new), ..Change::default() })
        };
        work.boxed()
    }

    /// What another writer changed below the path meanwhile must not go unseen: it is merged.
    fn repeats(&self) -> bool {
        false
    }
}

/// Writes the root of a tree without the entry at `path`, which is not empty. Blocks the thread.
///
/// # Errors
/// `NotFound` when there is no such path; as [`Sink`] when a folder cannot be written.
pub(super) fn without(
    tree: &Parent,
    path: &[Name],
    runtime: &Handle,
    sink: &mut Sink,
) -> Result<FolderEntry, ClientError> {
    let shown = || {
        let joined = path.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
        String::from_utf8_lossy(&joined).into_owned()
    };
    let missing = |why: &str| {
        let what = format!("{:?} is not in the snapshot", shown());
        ClientError::new(ErrorKind::NotFound, what, why, "list it with `dolmen ls`")
    };
    let mut levels = vec![Level { entries: tree.root(), folder: FolderBuilder::new(), entry: None }];
    let mut found = false;
    loop {
        let depth = levels.len();
        let level = levels.last_mut().ok_or_else(|| missing("it was lost on the way"))?;
        let Some(entry) = runtime.block_on(level.entries.next())? else {
            if !found {
                return Err(missing("there is no such entry"));
            }
            let done = levels.pop().ok_or_else(|| missing("it was lost on the way"))?;
            let folder = done.folder.finish(sink).map_err(built)?;
            match (done.entry, levels.last_mut()) {
                (Some(mut entry), Some(above)) => {
                    entry.kind = EntryKind::Folder(folder);
                    above.folder.push(entry, sink).map_err(built)?;
                }
                _ => return Ok(folder),
            }
            continue;
        };
        if !found && path.get(depth - 1) == Some(&entry.name) {
            if depth == path.len() {
                found = true;
                continue;
            }
            let EntryKind::Folder(folder) = &entry.kind else {
                return Err(missing("a file or link stands in the middle of the path"));
            };
            let entries = tree.folder(folder);
            levels.push(Level { entries, folder: FolderBuilder::new(), entry: Some(entry) });
            continue;
        }
        level.folder.push(entry, sink).map_err(built)?;
    }
}
