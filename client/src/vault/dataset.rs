//! A dataset of a vault, as its owner changes it.
//!
//! Decides what each command does to a dataset, and nothing of how a change gets through when others write too: that is
//! `crate::commit`'s.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use dolmen_proto::codec::Needs;
use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::{SnapshotId, Timestamp};
use dolmen_proto::ledger::Share;
use dolmen_proto::limits::{LEASE_MAX, MESSAGE_MAX_BYTES};
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::manifest::{Name, build_folder};
use dolmen_proto::table::RowKind;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::tz::TimeZone;
use tokio::io::AsyncRead;
use zeroize::Zeroizing;

mod stewards;

pub use stewards::StewardInfo;

use super::{DatasetName, Vault};
use crate::collect::{self, Collect};
use crate::commit::{
    Change, CommitOptions, Committed, Earlier, ForgetPolicy, NewSnapshot, Operation, Owner, Refresh, Remove, Reseal,
    Selector, State, Tree, add_tag, commit, components, drop_rows, new_share, put_stewards_again, put_views_again,
    rekey, remove_tag, settled, share_link,
};
use crate::error::{ClientError, ErrorKind};
use crate::info;
use crate::lease;
use crate::network::Account;
use crate::options::PutOptions;
use crate::progress::Stage;
use crate::put::{Input, Known, Parent, Prepared, Roots, Source, Store, Stream, Tally, built, estimate, prepare};
use crate::read;
use crate::report::{GcReport, LogEntry, PutEstimate, PutReport, RenewReport, ResealReport, SavedConflict};
use crate::snapshot::Snapshot;

/// What stands for the place in the journal of a reseal: no path can be it.
const RESEAL_PLACE: &[u8] = b"\0reseal";

/// A dataset of a vault. Cheap to clone.
///
/// Several machines may change one dataset at once: changes of different paths are merged, two changes of one path
/// keep both files, and what cannot be brought together is a `Conflict`.
///
/// ```no_run
/// # async fn example(vault: &dolmen_client::vault::Vault) -> Result<(), dolmen_client::ClientError> {
/// use dolmen_client::PutOptions;
/// use dolmen_client::vault::{ForgetPolicy, Selector};
///
/// let photos = vault.create_dataset(&"photos/2026".parse()?, None).await?;
/// let options = PutOptions { message: "first".to_owned(), ..PutOptions::default() };
/// let report = photos.put(&["photos".into()], b"", &options).await?;
/// photos.tag(&Selector::Newest, "v1").await?;
/// for snapshot in photos.log().await? {
///     println!("{} {} files", snapshot.snapshot, snapshot.files);
/// }
/// let snapshot = photos.snapshot(&Selector::Named("v1".to_owned())).await?;
/// let share = photos.share(b"beach", None, &[]).await?;
/// println!("{}", *share.link);
/// photos.forget(&ForgetPolicy { last: 10, monthly: 12, ..ForgetPolicy::default() }).await?;
/// # let _ = (report, snapshot);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Dataset {
    vault: Vault,
    owner: Owner,
    name: DatasetName,
}

impl fmt::Debug for Dataset {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Dataset").field(&self.name.as_str()).finish()
    }
}

/// A share of a dataset.
#[derive(Clone)]
pub struct ShareInfo {
    /// Tells it from others of the dataset.
    pub number: u32,
    /// The shared folder or file; empty: the whole dataset.
    pub path: Vec<u8>,
    /// The one snapshot that it shows; `None`: always the newest.
    pub snapshot: Option<SnapshotId>,
    /// When it was made.
    pub created: Timestamp,
    /// When it was ended.
    pub ended: Option<Timestamp>,
    /// The link: a secret.
    pub link: Zeroizing<String>,
}

impl fmt::Debug for ShareInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ShareInfo").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Dataset {
    pub(super) fn new(vault: &Vault, index: u64, name: DatasetName) -> Self {
        Self { owner: Owner::new(&vault.client, &vault.secret, index), vault: vault.clone(), name }
    }

    /// What commits on it are made with.
    #[cfg(test)]
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &DatasetName {
        &self.name
    }

    /// Its place in the vault.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.owner.index
    }

    fn options(&self, put: Option<&PutOptions>, paths: Vec<PathBuf>, place: &[u8]) -> CommitOptions {
        CommitOptions {
            lease: put.and_then(|put| put.lease).unwrap_or(self.vault.client.config().lease),
            require_full: put.is_some_and(|put| put.require_full),
            paths,
            place: place.to_vec(),
        }
    }

    async fn change(&self, operation: &mut dyn Operation) -> Result<Committed, ClientError> {
        commit(&self.owner, &self.options(None, Vec::new(), b""), operation).await
    }

    /// The newest state, with all that other writers wrote.
    async fn state(&self) -> Result<State, ClientError> {
        self.vault.client.progress().stage(Stage::ReadingDocuments);
        settled(&self.owner, &self.options(None, Vec::new(), b"")).await
    }

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

    /// The snapshots that are kept, newest first.
    ///
    /// # Errors
    /// `NotNow` or `Damaged` when the dataset cannot be read.
    pub async fn log(&self) -> Result<Vec<LogEntry>, ClientError> {
        Ok(self.state().await?.rows.iter().rev().map(LogEntry::from).collect())
    }

    /// Opens a snapshot.
    ///
    /// # Errors
    /// As [`Dataset::log`]; `NotFound` when there is no such snapshot, `Usage` when several could be meant.
    pub async fn snapshot(&self, selector: &Selector) -> Result<Snapshot, ClientError> {
        Snapshot::open(self.reader(selector).await?, self.vault.client.progress().clone()).await
    }

    /// A snapshot for the pipelines that read.
    pub(crate) async fn reader(&self, selector: &Selector) -> Result<read::Dataset, ClientError> {
        let state = self.state().await?;
        if *selector == Selector::Newest {
            return Ok(state.reader);
        }
        let row = selector.find(&state.rows)?;
        Ok(state.reader.at(row.root.clone(), row.id))
    }

    /// Gives a snapshot a tag; one that it has already is no error.
    ///
    /// # Errors
    /// `Usage` when the tag is impossible or names another snapshot, `NotFound` when there is no such snapshot; as
    /// [`Dataset::put`].
    pub async fn tag(&self, snapshot: &Selector, tag: &str) -> Result<(), ClientError> {
        let (snapshot, tag) = (snapshot.clone(), tag.to_owned());
        self.change(&mut Rows(move |rows: &mut Vec<HistoryRow>| add_tag(rows, &snapshot, &tag))).await.map(drop)
    }

    /// Takes a tag away.
    ///
    /// # Errors
    /// `NotFound` when no snapshot has it; as [`Dataset::put`].
    pub async fn untag(&self, tag: &str) -> Result<(), ClientError> {
        let tag = tag.to_owned();
        self.change(&mut Rows(move |rows: &mut Vec<HistoryRow>| remove_tag(rows, &tag))).await.map(drop)
    }

    /// Makes a snapshot without a path. What it took is freed by a later garbage collection, once no snapshot that is
    /// kept has it. A path that another writer changes at the same time stays.
    ///
    /// # Errors
    /// `NotFound` when there is no such path, `Usage` for the root; as [`Dataset::put`].
    pub async fn remove_path(&self, path: &[u8], message: &str) -> Result<SnapshotId, ClientError> {
        let path = components(path)?;
        if path.is_empty() {
            let advice = "name a path, or remove the whole dataset";
            return Err(ClientError::new(ErrorKind::Usage, "no path was named", "it is the root folder", advice));
        }
        let done = self.change(&mut Remove { path, message: message.to_owned() }).await?;
        Ok(done.body.snapshot_id)
    }

    /// Drops snapshots from the history, but those that the policy keeps and the newest; days are those of this machine's
    /// time zone. Gives those that were dropped. What they took is freed by a later garbage collection.
    ///
    /// # Errors
    /// `Usage` when the policy has no rule; as [`Dataset::put`].
    pub async fn forget(&self, policy: &ForgetPolicy) -> Result<Vec<LogEntry>, ClientError> {
        let policy = policy.clone();
        let mut dropped = Vec::new();
        let forget = |rows: &mut Vec<HistoryRow>| {
            let kept = policy.keep(rows, &TimeZone::system())?;
            dropped = rows.iter().filter(|row| !kept.contains(row)).map(LogEntry::from).collect();
            *rows = kept;
            Ok(())
        };
        self.change(&mut Rows(forget)).await?;
        Ok(dropped)
    }

    /// Drops these snapshots from the history; gives them. What they took is freed by a later garbage collection.
    ///
    /// # Errors
    /// `NotFound` or `Usage` when one of them is none, several could be meant, or it is the newest, which always stays:
    /// then nothing is dropped; as [`Dataset::put`].
    pub async fn forget_snapshots(&self, snapshots: &[Selector]) -> Result<Vec<LogEntry>, ClientError> {
        let mut dropped = Vec::new();
        let forget = |rows: &mut Vec<HistoryRow>| {
            let gone = drop_rows(rows, snapshots)?;
            dropped = gone.iter().map(LogEntry::from).collect();
            Ok(())
        };
        self.change(&mut Rows(forget)).await?;
        Ok(dropped)
    }

    /// What [`Dataset::forget_snapshots`] would drop now.
    ///
    /// # Errors
    /// As [`Dataset::forget_snapshots`].
    pub async fn would_forget_snapshots(&self, snapshots: &[Selector]) -> Result<Vec<LogEntry>, ClientError> {
        let mut rows = self.state().await?.rows;
        Ok(drop_rows(&mut rows, snapshots)?.iter().map(LogEntry::from).collect())
    }

    /// What [`Dataset::forget`] would drop now.
    ///
    /// # Errors
    /// As [`Dataset::forget`].
    pub async fn would_forget(&self, policy: &ForgetPolicy) -> Result<Vec<LogEntry>, ClientError> {
        let rows = self.state().await?.rows;
        let kept = policy.keep(&rows, &TimeZone::system())?;
        Ok(rows.iter().filter(|row| !kept.contains(row)).map(LogEntry::from).collect())
    }

    /// Frees what no kept snapshot and no share needs: leaves segments out of the table, packs anew what is left of those that
    /// are mostly dead, and deletes the shards of what left at least a week before. May be cut off anywhere and run again, and
    /// may meet puts of other machines.
    ///
    /// # Errors
    /// `NotNow` or `Damaged` when a document that is needed cannot be read: then nothing is freed; as [`Dataset::put`].
    pub async fn gc(&self, dry_run: bool) -> Result<GcReport, ClientError> {
        let shares = self.shares().await?.iter().any(|share| share.ended.is_none());
        if !dry_run && shares {
            let mut look = Collect::new(self.owner.clone(), true);
            self.change(&mut look).await?;
            if !look.deleting.is_empty() {
                // What is deleted below left a table that the views may not know yet.
                self.refresh_shares().await?;
            }
        }
        let mut collect = Collect::new(self.owner.clone(), dry_run);
        let done = self.change(&mut collect).await?;
        let report = collect.report;
        if dry_run {
            return Ok(report);
        }
        if report.leaving_segments > 0 && shares {
            self.refresh_shares().await?;
        }
        if !collect.deleting.is_empty() {
            let account = Arc::new(Account::new(done.keys));
            let freed = collect::delete(self.vault.client.nodes_known(), &account, &collect.deleting).await;
            self.change(&mut collect::Forget(freed)).await?;
        }
        Ok(report)
    }

    /// Gives the dataset another name.
    ///
    /// # Errors
    /// `Usage` when the vault has a dataset of that name; as [`Dataset::put`].
    pub async fn rename(&mut self, name: &DatasetName) -> Result<(), ClientError> {
        if self.vault.find(name).await?.is_some() {
            return Err(super::taken(name));
        }
        self.change(&mut Plain(Change { name: Some(name.as_str().to_owned()), ..Change::default() })).await?;
        self.vault.forget_catalogue();
        self.name = name.clone();
        Ok(())
    }

    /// Removes the dataset: it is listed no more and no snapshot is kept. What it took is freed by a later garbage
    /// collection; its links show an empty folder.
    ///
    /// # Errors
    /// As [`Dataset::put`].
    pub async fn remove(&self) -> Result<(), ClientError> {
        self.change(&mut Retire).await?;
        self.vault.forget_catalogue();
        Ok(())
    }

    /// The live read link of the whole dataset: whoever holds it reads all that is kept of it, now and later, until
    /// [`Dataset::rekey`]. For less, or to be able to end it, see [`Dataset::share`].
    ///
    /// # Errors
    /// As [`Dataset::log`]; `Usage` when the bootstrap addresses cannot be written.
    pub async fn read_link(&self, bootstrap: &[String]) -> Result<Zeroizing<String>, ClientError> {
        let keys = self.owner.newest().await?.keys;
        let link = Link::new(LinkSecret::ReadLive(keys.read.clone()), bootstrap.to_vec());
        let link = link.map_err(|error| {
            let advice = "give at most eight short multiaddresses";
            ClientError::new(ErrorKind::Usage, "the link's bootstrap addresses cannot be written", error, advice)
        })?;
        Ok(link.to_text())
    }

    /// Shares a folder or file, empty: everything. With a snapshot the share shows that one for ever; without, it follows
    /// the newest. Whoever holds the link can read nothing above or beside it.
    ///
    /// # Errors
    /// `NotFound` when there is no such path or snapshot; as [`Dataset::put`].
    pub async fn share(
        &self,
        path: &[u8],
        snapshot: Option<&Selector>,
        bootstrap: &[String],
    ) -> Result<ShareInfo, ClientError> {
        let path = components(path)?.iter().map(Name::as_bytes).collect::<Vec<_>>().join(&b'/');
        let mut operation = MakeShare { path, snapshot: snapshot.cloned(), made: None };
        let done = self.change(&mut operation).await?;
        let share = operation.made.ok_or_else(|| ClientError::bug("nothing was shared", "no share was made"))?;
        // Two writers who share at the same time might have taken one number: then both shares are ended.
        let state = self.owner.state(done.keys, done.head, done.body).await?;
        let kept = state.ledger.shares.iter().find(|other| other.number == share.number);
        if kept.is_none_or(|kept| kept.ended.is_some() || kept.path != share.path) {
            let why = "another writer shared something at the same time";
            return Err(ClientError::new(ErrorKind::Conflict, "it could not be shared", why, "run the command again"));
        }
        self.share_info(&share, bootstrap)
    }

    fn share_info(&self, share: &Share, bootstrap: &[String]) -> Result<ShareInfo, ClientError> {
        let link = share_link(&self.owner.keys(0), share.number, bootstrap)?.to_text();
        let Share { number, path, snapshot, created, ended, .. } = share.clone();
        Ok(ShareInfo { number, path, snapshot, created, ended, link })
    }

    /// All shares, ended ones included.
    ///
    /// # Errors
    /// As [`Dataset::log`].
    pub async fn shares(&self) -> Result<Vec<ShareInfo>, ClientError> {
        let state = self.state().await?;
        state.ledger.shares.iter().map(|share| self.share_info(share, &[])).collect()
    }

    /// Ends a share: its link shows an empty folder from now on. What its holder has read, or copied the keys of, stays
    /// readable to him as long as nodes keep it: see [`Dataset::rekey`].
    ///
    /// # Errors
    /// `NotFound` when there is no such share, or it is ended; as [`Dataset::put`].
    pub async fn unshare(&self, number: u32) -> Result<(), ClientError> {
        let ended = self.vault.client.nodes_known().now();
        self.change(&mut EndShare { number, ended }).await.map(drop)
    }

    /// Publishes all shares anew, as after one of them could not be.
    ///
    /// # Errors
    /// As [`Dataset::put`].
    pub async fn refresh_shares(&self) -> Result<(), ClientError> {
        self.change(&mut Plain(Change { refresh: Refresh::All, ..Change::default() })).await.map(drop)
    }

    /// Changes the keys of all that comes later: read links given out so far show the dataset as it is now and never
    /// again anything new. What they can read now they can read for as long as nodes keep it. Shares stay.
    ///
    /// # Errors
    /// As [`Dataset::put`].
    pub async fn rekey(&self) -> Result<(), ClientError> {
        rekey(&self.owner, &self.options(None, Vec::new(), b""), false).await
    }

    /// Changes the keys as [`Dataset::rekey`] does, and stores the newest snapshot again under a new dedup key, so that keys of
    /// chunks that readers kept open nothing that is stored from now on; then what is stored under the old ones leaves, to be
    /// deleted by [`Dataset::gc`] a week later. Cut off, the same call goes on. `earlier`: what becomes of other snapshots;
    /// may be `None` when there are none. What a reseal can and cannot do is in the threat model.
    ///
    /// # Errors
    /// `Usage` when there are earlier snapshots and nothing says what becomes of them; `Damaged` when a file cannot be read
    /// back: then nothing but the keys has changed; as [`Dataset::put`] and [`Dataset::gc`].
    pub async fn reseal(&self, earlier: Option<Earlier>) -> Result<ResealReport, ClientError> {
        let state = self.state().await?;
        let before = state.rows.len().saturating_sub(1);
        let earlier = match earlier {
            Some(earlier) => earlier,
            None if before == 0 => Earlier::Forget,
            None => {
                return Err(ClientError::new(
                    ErrorKind::Usage,
                    "nothing says what becomes of earlier snapshots",
                    format!("there are {before}, which old keys would go on to open"),
                    "say --forget-earlier or --keep-earlier",
                ));
            }
        };
        let under_way = state.note.sealing.is_some_and(|sealing| !sealing.complete);
        drop(state);
        if !under_way {
            rekey(&self.owner, &self.options(None, Vec::new(), b""), true).await?;
        }
        let memory_bytes = self.vault.client.config().memory_budget_bytes;
        let mut owner = self.owner.clone();
        owner.client = owner.client.with_memory(memory_bytes - memory_bytes / 4);
        let options = self.options(None, Vec::new(), RESEAL_PLACE);
        let mut reseal = Reseal::new(owner.clone(), memory_bytes / 4, earlier);
        let done = commit(&owner, &options, &mut reseal).await?;
        let shares = self.shares().await?;
        let old_shares = shares.iter().filter(|share| share.ended.is_none() && share.snapshot.is_some()).count();
        let gc = self.gc(false).await?;
        let (files, bytes, forgotten_snapshots) = reseal.done.unwrap_or_default();
        Ok(ResealReport {
            snapshot: done.body.snapshot_id.to_string(),
            files,
            bytes,
            new_bytes: done.new_bytes,
            forgotten_snapshots,
            kept_snapshots: if earlier == Earlier::Keep { before as u64 } else { 0 },
            old_shares: old_shares as u64,
            leaving_segments: gc.leaving_segments,
            leaving_bytes: gc.leaving_bytes,
        })
    }

    /// Extends the leases of all that the dataset's table names, and of its head; `None`: by the configured lease from now.
    ///
    /// # Errors
    /// `Usage` for a time in the past or too far ahead; as [`Dataset::log`].
    pub async fn renew(&self, until: Option<Timestamp>) -> Result<RenewReport, ClientError> {
        let client = &self.vault.client;
        let now = client.nodes_known().now();
        let until = until.unwrap_or_else(|| now.after(client.config().lease));
        if until <= now || until > now.after(LEASE_MAX) {
            let why = format!("a lease ends within the next {} days", LEASE_MAX.as_secs() / 86_400);
            return Err(ClientError::new(ErrorKind::Usage, "that is no end of a lease", why, "give another time"));
        }
        let state = self.state().await?;
        client.progress().stage(Stage::Renewing);
        let shards = info::by_node(&info::places(&state.reader).await?);
        let total: usize = shards.values().map(std::collections::BTreeSet::len).sum();
        let account = Account::new(self.owner.keys(0));
        let renewed = lease::renew(client.nodes_known(), &account, &shards, until).await;
        self.owner.put_heads_again(&state, until).await?;
        put_views_again(&self.owner, &state.ledger, until).await?;
        put_stewards_again(&self.owner, &state, until).await;
        Ok(RenewReport { shards: total as u64, renewed_shards: renewed as u64, lease_until: until })
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

/// Changes the history's rows.
struct Rows<F>(F);

impl<F: FnMut(&mut Vec<HistoryRow>) -> Result<(), ClientError> + Send> Operation for Rows<F> {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        _store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let mut rows = base.rows.clone();
        let changed = (self.0)(&mut rows).map(|()| {
            let rows = (rows != base.rows).then_some(rows);
            Change { rows, ..Change::default() }
        });
        std::future::ready(changed).boxed()
    }
}

/// Makes a change that is the same whatever the state.
struct Plain(Change);

impl Operation for Plain {
    fn apply<'a>(
        &'a mut self,
        _base: &'a State,
        _store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let Change { name, refresh, .. } = &self.0;
        std::future::ready(Ok(Change { name: name.clone(), refresh: refresh.clone(), ..Change::default() })).boxed()
    }
}

/// Takes a dataset off the list, with all that it has.
struct Retire;

impl Operation for Retire {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        store: &'a mut Store,
        created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let work = async move {
            let root = store.write(|sink| build_folder([], sink).map_err(built)).await?;
            let mut ledger = base.ledger.clone();
            for share in &mut ledger.shares {
                share.ended = share.ended.or(Some(created));
            }
            for steward in &mut ledger.stewards {
                steward.ended = steward.ended.or(Some(created));
            }
            Ok(Change {
                tree: Tree::Bare(NewSnapshot {
                    root,
                    single: false,
                    needs: Needs::NONE,
                    message: String::new(),
                    tags: Vec::new(),
                }),
                rows: Some(Vec::new()),
                ledger: Some(ledger),
                retire: true,
                ..Change::default()
            })
        };
        work.boxed()
    }
}

struct MakeShare {
    path: Vec<u8>,
    snapshot: Option<Selector>,
    made: Option<Share>,
}

impl Operation for MakeShare {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        _store: &'a mut Store,
        created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let work = async move {
            let (reader, id) = match &self.snapshot {
                None => (base.reader.clone(), None),
                Some(selector) => {
                    let row = selector.find(&base.rows)?;
                    (base.reader.at(row.root.clone(), row.id), Some(row.id))
                }
            };
            reader.entry(&self.path).await?;
            let mut ledger = base.ledger.clone();
            let number = new_share(&mut ledger, self.path.clone(), id, created)?;
            self.made = ledger.shares.iter().find(|share| share.number == number).cloned();
            Ok(Change { ledger: Some(ledger), ..Change::default() })
        };
        work.boxed()
    }
}

struct EndShare {
    number: u32,
    ended: Timestamp,
}

impl Operation for EndShare {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        _store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let mut ledger = base.ledger.clone();
        let share = ledger.shares.iter_mut().find(|share| share.number == self.number && share.ended.is_none());
        let changed = match share {
            Some(share) => {
                share.ended = Some(self.ended);
                Ok(Change { ledger: Some(ledger), ..Change::default() })
            }
            None => Err(ClientError::new(
                ErrorKind::NotFound,
                format!("there is no share {} that has not ended", self.number),
                "no share of the dataset has that number",
                "list them with `dolmen share --list`",
            )),
        };
        std::future::ready(changed).boxed()
    }
}
