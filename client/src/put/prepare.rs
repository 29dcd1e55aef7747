//! A new snapshot's contents and folders, stored.
//!
//! Decides that contents and manifest are stored at the same time, and whose failure is the one to tell.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use dolmen_proto::codec::{Extensions, Needs};
use dolmen_proto::ids::{SnapshotId, Timestamp};
use dolmen_proto::keys::DatasetKeys;
use dolmen_proto::manifest::{self as format, FolderEntry, Name, Snapshot};
use dolmen_proto::table::RowKind;
use dolmen_proto::tree::BlobPointer;
use tokio::runtime::Handle;

use super::PutContext;
use super::again;
use super::content::{self, ContentError, Contents, Done, Outlet, Tally};
use super::documents::built;
use super::exclude::Exclude;
use super::index::ChunkIndex;
use super::manifest::{self, ManifestError, SegmentIds};
use super::parent::Parent;
use super::queue::queue;
use super::source::{self, Roots};
use super::store::Store;
use super::walk::{Merge, Walker};
use crate::error::ClientError;
use crate::options::{Compression, PutOptions};
use crate::progress::{Progress, ProgressEvent, Stage};
use crate::read::SINGLE_EXTENSION;

/// What a snapshot is made of.
pub(crate) struct Input<'a> {
    pub(crate) roots: Roots,
    /// The snapshot that is extended.
    pub(crate) parent: Option<Parent>,
    /// The folder that the source goes to; empty: the root.
    pub(crate) to: Vec<Name>,
    pub(crate) options: &'a PutOptions,
    /// When the snapshot is made, as it will say.
    pub(crate) created: Timestamp,
    /// Where the chunk index of the dataset lies; only used with a parent.
    pub(crate) index: PathBuf,
    /// Where a list of what was stored may lie when it does not fit in memory.
    pub(crate) scratch: PathBuf,
}

/// Contents and folders of a snapshot that are stored.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The root folder; its pointer may carry a provisional id, see [`Store::settled`].
    pub(crate) root: FolderEntry,
    /// A file was put, not a folder that has one.
    pub(crate) single: bool,
    /// What readers of the snapshot must know.
    pub(crate) needs: Needs,
    pub(crate) tally: Tally,
    index: ChunkIndex,
    ids: SegmentIds,
}

impl Prepared {
    /// Remembers where the chunks lie, now that the snapshot has been published under this id.
    pub(crate) async fn remember(self, snapshot: SnapshotId) {
        let Self { mut index, ids, .. } = self;
        // A failure shows next time, as an index that is not complete.
        let _ = tokio::task::spawn_blocking(move || index.keep(|number| ids.get(number), &snapshot)).await;
    }
}

/// What a put would come to.
///
/// # Errors
/// As [`prepare()`], without the failures of sending.
pub(crate) async fn estimate(
    context: &PutContext<'_>,
    keys: Arc<DatasetKeys>,
    input: Input<'_>,
) -> Result<Tally, ClientError> {
    let contents = Contents {
        keys,
        cores: context.cores.clone(),
        outlet: None,
        compress: input.options.compress,
        budget_bytes: context.config.memory_budget_bytes,
        progress: context.progress.clone(),
    };
    match storing(contents, input)?.await? {
        Ok(done) => Ok(done.tally),
        Err(ContentError::Failed(error)) => Err(error),
        Err(ContentError::Gone) => Err(ClientError::bug("a put ended early", "nobody says why")),
    }
}

/// Starts to walk and store; what comes of it is another future, for stages beside it have to be started too.
fn storing(
    contents: Contents,
    input: Input<'_>,
) -> Result<impl Future<Output = Result<Result<Done, ContentError>, ClientError>> + use<>, ClientError> {
    let Input { roots, parent, to, options, created, index, scratch } = input;
    let exclude = Exclude::new(roots.folder(), &options.exclude)?;
    let progress = contents.progress.clone();
    let counting = Counting::start(roots.paths(), exclude.clone(), progress.clone());
    let (delete, checksum) = (options.delete, options.checksum);
    let now_ns = i64::try_from(created.as_unix_ms()).unwrap_or(i64::MAX).saturating_mul(1_000_000);
    progress.stage(Stage::Uploading);
    let work = async move {
        let index = match &parent {
            Some(parent) => parent.index(&index, &scratch).await?,
            None => ChunkIndex::temporary(&scratch),
        };
        let merge = Merge { parent, to, delete, checksum, now_ns };
        let walk = move |found| Walker::new(merge, exclude, found, Handle::current(), progress).run(roots);
        content::store(walk, index, contents).await
    };
    Ok(async move {
        let done = apart(work).await;
        drop(counting);
        done
    })
}

/// Stores what is not stored yet of the source, and the folders of the snapshot that has it merged with the parent.
///
/// # Errors
/// As [`super::send::Sender::send`]; `Usage` and `Local` when nothing of the source can be put, or the destination is no
/// folder. Files that fail are in the tally.
pub(crate) async fn prepare(store: &mut Store, input: Input<'_>) -> Result<Prepared, ClientError> {
    let single = input.roots.single;
    let needs = input.parent.as_ref().map_or(Needs::NONE, Parent::needs);
    let (scratch, compress) = (input.scratch.clone(), input.options.compress);
    let (done, root, ids) = with_manifest(store, &scratch, compress, |contents| storing(contents, input)).await?;
    let needs = if done.tally.packed { needs.and(Needs::COMPRESSED_CHUNKS) } else { needs };
    Ok(Prepared { root, single, needs, tally: done.tally, index: done.index, ids })
}

/// A snapshot's contents and folders that were stored again.
pub(crate) struct Again {
    /// The root folder; its pointer may carry a provisional id, see [`Store::settled`].
    pub(crate) root: FolderEntry,
    /// What readers of the snapshot must know.
    pub(crate) needs: Needs,
    pub(crate) tally: Tally,
}

/// Stores all that a snapshot has again, under the store's keys. Nothing of it is looked for among what is stored.
///
/// # Errors
/// As [`prepare()`] and [`again::walk`]. Files that fail are in the tally, and stay where they were.
pub(crate) async fn prepare_again(
    store: &mut Store,
    snapshot: Parent,
    compress: Compression,
    scratch: &Path,
) -> Result<Again, ClientError> {
    let index = ChunkIndex::temporary(scratch);
    let start = |contents: Contents| {
        contents.progress.stage(Stage::Uploading);
        let runtime = Handle::current();
        let walk = move |found| again::walk(&snapshot, &found, &runtime);
        Ok(apart(content::store(walk, index, contents)))
    };
    let (done, root, _) = with_manifest(store, scratch, compress, start).await?;
    let needs = if done.tally.packed { Needs::COMPRESSED_CHUNKS } else { Needs::NONE };
    Ok(Again { root, needs, tally: done.tally })
}

/// Stores contents and, beside them, the folders that name them.
async fn with_manifest<F: Future<Output = Result<Result<Done, ContentError>, ClientError>>>(
    store: &mut Store,
    scratch: &Path,
    compress: Compression,
    start: impl FnOnce(Contents) -> Result<F, ClientError>,
) -> Result<(Done, FolderEntry, SegmentIds), ClientError> {
    let ids = SegmentIds::default();
    let (writer, reader) = queue(scratch);
    let outlet =
        Outlet { workshop: store.workshop.clone(), sender: Arc::clone(&store.sender), parts: writer, ids: ids.clone() };
    let contents = Contents {
        keys: Arc::clone(&store.keys),
        cores: store.workshop.cores.clone(),
        outlet: Some(outlet),
        compress,
        budget_bytes: store.budget_bytes,
        progress: store.progress.clone(),
    };
    let storing = start(contents)?;
    let manifest_ids = ids.clone();
    let building = store.documents.build(move |sink| manifest::build(reader, &manifest_ids, sink));
    let (stored, root) = tokio::join!(storing, building);
    let (mut done, root) = match (stored?, root) {
        (Ok(done), Ok(root)) => (done, root),
        (Err(ContentError::Failed(error)), _) | (_, Err(ManifestError::Failed(error))) => return Err(error),
        _ => return Err(ClientError::bug("a put ended early", "nobody says why")),
    };
    store.stored.extend(done.segments.drain(..).map(|stored| (RowKind::Content, stored)));
    Ok((done, root, ids))
}

/// Runs work that may block on a thread of its own; dropped, it stops.
async fn apart<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> Result<T, ClientError> {
    let (alive, dropped) = tokio::sync::oneshot::channel::<()>();
    let runtime = Handle::current();
    let job = tokio::task::spawn_blocking(move || {
        runtime.block_on(async {
            tokio::select! {
                value = work => Some(value),
                _ = dropped => None,
            }
        })
    });
    let value = job.await.map_err(|error| ClientError::bug("storing contents failed", error))?;
    drop(alive);
    value.ok_or_else(|| ClientError::bug("storing contents failed", "it was stopped"))
}

/// A count of what there is to do, on a thread of its own, for those who watch.
struct Counting(Arc<AtomicBool>);

impl Counting {
    fn start(paths: Vec<PathBuf>, exclude: Exclude, progress: Progress) -> Self {
        let wanted = Arc::new(AtomicBool::new(true));
        let shared = Arc::clone(&wanted);
        tokio::task::spawn_blocking(move || {
            let counted = source::count(paths, &exclude, || shared.load(Ordering::Relaxed));
            if let Some((files, bytes)) = counted {
                progress.event(ProgressEvent::Total { files, bytes });
            }
        });
        Self(wanted)
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// What a snapshot says of itself.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) created: Timestamp,
    pub(crate) message: String,
    pub(crate) salt: [u8; 32],
    /// The snapshot before it.
    pub(crate) parent: Option<format::Parent>,
    /// A file was put, not a folder that has one.
    pub(crate) single: bool,
    /// What its readers must know.
    pub(crate) needs: Needs,
}

/// Writes the root blob of a snapshot; gives where it lies, under a provisional id, and what it is called.
///
/// # Errors
/// As [`super::send::Sender::send`].
pub(crate) async fn write_snapshot(
    store: &mut Store,
    root: FolderEntry,
    about: About,
) -> Result<(BlobPointer, SnapshotId), ClientError> {
    let bug = |error: &dyn std::fmt::Display| ClientError::bug("could not write a snapshot", error);
    let mut extensions = Extensions::default();
    if about.single {
        extensions.insert(SINGLE_EXTENSION, Vec::new()).map_err(|error| bug(&error))?;
    }
    let About { created, message, salt, parent, needs, .. } = about;
    let snapshot = Snapshot { needs, created, message, parent, salt, root, extensions };
    store
        .write(move |sink| {
            let pointer = snapshot.put(sink).map_err(built)?;
            let id = sink.last_id().ok_or_else(|| bug(&"its root was not sealed"))?;
            Ok((pointer, id))
        })
        .await
}
