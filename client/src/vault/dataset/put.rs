//! What an owner puts into a dataset.
//!
//! Decides nothing of what is stored or how a change gets through: that is `crate::put`'s and `crate::commit`'s.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::MESSAGE_MAX_BYTES;
use dolmen_proto::manifest::Name;
use dolmen_proto::table::RowKind;
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::AsyncRead;

use super::Dataset;
use crate::commit::{Change, Committed, NewSnapshot, Operation, Owner, State, Tree, commit, components};
use crate::error::{ClientError, ErrorKind};
use crate::options::PutOptions;
use crate::progress::Stage;
use crate::put::{Input, Known, Parent, Prepared, Roots, Source, Store, Stream, Tally, estimate, prepare};
use crate::report::{PutEstimate, PutReport, SavedConflict};

impl Dataset {
    /// Puts files and folders into the folder `to` (empty: the root), beside what is there, as a new snapshot.
    ///
    /// One folder's entries go into `to`; one file, or several paths, become entries of it. Files that the newest
    /// snapshot has with the same size and time are not read, chunks that are stored already are not sent. Interrupted,
    /// the same call resumes. The report names paths that another writer changed at the same time.
    ///
    /// # Errors
    /// `NotNow` with too few nodes, `Refused` when nodes refuse, `Local` when nothing can be read, `Conflict` when other
    /// writers were first too often. Single files that fail are in the report.
    pub async fn put(&self, paths: &[PathBuf], to: &[u8], options: &PutOptions) -> Result<PutReport, ClientError> {
        self.put_source(Source::Paths(paths.to_vec()), paths.to_vec(), to, options).await
    }

    /// Puts what a reader gives as one file at `path`, as a new snapshot. Cannot resume.
    ///
    /// ```no_run
    /// # async fn example(dataset: &dolmen_client::vault::Dataset) -> Result<(), dolmen_client::ClientError> {
    /// let log = std::io::Cursor::new(b"line\n".to_vec());
    /// dataset.put_stream(log, b"logs/today", &Default::default()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Dataset::put`]; `Usage` when the path is empty.
    pub async fn put_stream(
        &self,
        bytes: impl AsyncRead + Send + Unpin + 'static,
        path: &[u8],
        options: &PutOptions,
    ) -> Result<PutReport, ClientError> {
        let mut names = components(path)?;
        let Some(name) = names.pop() else {
            let advice = "name the file in the dataset";
            return Err(ClientError::new(ErrorKind::Usage, "a stream needs a path", "it has no name", advice));
        };
        let now_ms = i64::try_from(self.vault.client.nodes_known().now().as_unix_ms()).unwrap_or(i64::MAX);
        let stream = Stream { bytes: Box::new(bytes), mode: 0o644, mtime_ns: now_ms.saturating_mul(1_000_000) };
        let to = names.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
        self.put_source(Source::Stream(name, stream), Vec::new(), &to, options).await
    }

    async fn put_source(
        &self,
        source: Source,
        paths: Vec<PathBuf>,
        to: &[u8],
        options: &PutOptions,
    ) -> Result<PutReport, ClientError> {
        let start = Instant::now();
        if options.message.len() > MESSAGE_MAX_BYTES {
            let why = format!("it has {} bytes, {MESSAGE_MAX_BYTES} are allowed", options.message.len());
            return Err(ClientError::new(ErrorKind::Usage, "the message is too long", why, "write a shorter one"));
        }
        let names = components(to)?;
        let mut put = Put { owner: self.owner.clone(), source: Some(source), to: names, options, prepared: None };
        let done = commit(&self.owner, &self.options(Some(options), paths, to), &mut put).await?;
        let tally = put.prepared.as_ref().map(|prepared| prepared.tally.clone()).unwrap_or_default();
        if let Some(prepared) = put.prepared.filter(|_| done.alone) {
            prepared.remember(done.body.snapshot_id).await;
        }
        Ok(report(&done, tally, start))
    }

    /// What [`Dataset::put`] of the same would come to; stores nothing.
    ///
    /// # Errors
    /// As [`Dataset::put`], but for the failures of storing.
    pub async fn estimate(
        &self,
        paths: &[PathBuf],
        to: &[u8],
        options: &PutOptions,
    ) -> Result<PutEstimate, ClientError> {
        let state = self.state().await?;
        let snapshot = state.reader.snapshot().await?;
        let parent = Parent::new(state.reader.clone(), &snapshot, Known::default());
        let roots = Source::Paths(paths.to_vec()).roots().await?;
        let created = state.next_time(self.vault.client.nodes_known().now());
        let input = input(&self.owner, roots, parent, components(to)?, options, created);
        let keys = Arc::clone(&state.keys);
        let context = self.vault.client.put_context();
        let Tally { new, changed, unchanged, removed, bytes, new_bytes, failed, .. } =
            estimate(&context, keys, input).await?;
        Ok(PutEstimate { new, changed, unchanged, removed, bytes, new_bytes, failed })
    }
}

fn report(done: &Committed, tally: Tally, start: Instant) -> PutReport {
    let stored = || done.stored.values();
    let short_shards = stored().map(|(_, stored)| stored.missing()).sum();
    let conflicts = done.merged.conflicts.iter().map(|conflict| SavedConflict {
        path: String::from_utf8_lossy(&conflict.path).into_owned(),
        kept_as: String::from_utf8_lossy(&conflict.kept_as).into_owned(),
    });
    PutReport {
        link: String::new(),
        snapshot: done.body.snapshot_id.to_string(),
        files: done.files,
        bytes: tally.bytes,
        stored_bytes: stored().map(|(_, stored)| stored.stored_bytes()).sum(),
        new_bytes: done.new_bytes,
        segments: stored().filter(|(kind, _)| *kind == RowKind::Content).count() as u64,
        mib_s: crate::report::mib_per_second(tally.bytes, start.elapsed()),
        degraded: short_shards > 0,
        short_shards,
        lease_until: done.lease_until,
        failed: tally.failed,
        conflicts: conflicts.collect(),
    }
}

fn input<'a>(
    owner: &Owner,
    roots: Roots,
    parent: Parent,
    to: Vec<Name>,
    options: &'a PutOptions,
    created: Timestamp,
) -> Input<'a> {
    let state = owner.client.state();
    let (index, scratch) = (state.index(&owner.name), state.scratch());
    Input { roots, parent: Some(parent), to, options, created, index, scratch }
}

/// Puts a source.
struct Put<'a> {
    owner: Owner,
    /// Gone once it was read, when it can be read once only.
    source: Option<Source>,
    to: Vec<Name>,
    options: &'a PutOptions,
    prepared: Option<Prepared>,
}

impl Operation for Put<'_> {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        store: &'a mut Store,
        created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let work = async move {
            let source = match &self.source {
                Some(Source::Paths(paths)) => Source::Paths(paths.clone()),
                _ => self.source.take().ok_or_else(|| {
                    let why = "another writer has freed what was stored of it, and it cannot be read twice";
                    ClientError::new(ErrorKind::Conflict, "the stream could not be put", why, "put it again")
                })?,
            };
            store.progress.stage(Stage::Scanning);
            let roots = source.roots().await?;
            let snapshot = base.reader.snapshot().await?;
            let parent = Parent::new(base.reader.clone(), &snapshot, store.known.clone());
            let input = input(&self.owner, roots, parent, self.to.clone(), self.options, created);
            let prepared = prepare(store, input).await?;
            let message = self.options.message.clone();
            let single = prepared.single && self.to.is_empty() && base.rows.is_empty();
            let new =
                NewSnapshot { root: prepared.root.clone(), single, needs: prepared.needs, message, tags: Vec::new() };
            self.prepared = Some(prepared);
            Ok(Change { tree: Tree::New(new), ..Change::default() })
        };
        work.boxed()
    }

    fn repeats(&self) -> bool {
        false
    }
}
