//! Commits: how a dataset changes while others may be changing it.
//!
//! Decides the order of things and what happens when two writers meet. A commit reads the newest state, stores what its
//! [`Operation`] makes of it, and writes a read head that replaces the one it read: that is the moment at which the
//! change has happened. Whoever loses brings his change into the state that won and writes again; whoever wins over
//! a head of the same sequence does that for the loser, who may not know. So nothing that was written is lost, and
//! no two changes are mixed silently. Views and the table head follow the read head.

mod guard;
mod history;
mod merge;
mod publish;
mod reconcile;
mod rekey;
mod remove;
mod reseal;
mod state;
mod stewards;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::codec::Needs;
use dolmen_proto::head::{Head, Kinship, Lineage, ReadBody, Sealing};
use dolmen_proto::heads::HeadVersion;
use dolmen_proto::history::HistoryRow;
use dolmen_proto::ids::{HeadHash, SegmentId, Timestamp};
use dolmen_proto::keys::DatasetKeys;
use dolmen_proto::ledger::Ledger;
use dolmen_proto::limits::LEASE_INITIAL;
use dolmen_proto::manifest::FolderEntry;
use dolmen_proto::policy::Policy;
use dolmen_proto::table::RowKind;
use futures::future::BoxFuture;

pub use self::history::{ForgetPolicy, Selector};
pub(crate) use self::history::{add_tag, drop_rows, remove_tag};
pub(crate) use self::merge::Merged;
pub(crate) use self::publish::{Created, create, is_retired};
use self::publish::{Wrote, store_for, write};
use self::reconcile::{Ancestor, reconcile};
pub(crate) use self::rekey::rekey;
pub(crate) use self::remove::{Remove, components};
pub use self::reseal::Earlier;
pub(crate) use self::reseal::Reseal;
pub(crate) use self::state::{Owner, State, note_of};
pub(crate) use self::stewards::{new_steward, steward_link};
pub(crate) use self::views::{Refresh, new_share, share_link};
use crate::client::Client;
use crate::config::PolicyChoice;
use crate::error::{ClientError, ErrorKind};
use crate::lease::{self, ByNode};
use crate::network::Account;
use crate::put::{Candidates, Store, Stored, TableChange};

/// How often a commit is tried before it gives up.
const TRIES: u32 = 12;
/// The least and the most that is waited, on average, before a commit is tried again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// What becomes of the tree.
#[derive(Debug, Clone, Default)]
pub(crate) enum Tree {
    /// It stays.
    #[default]
    Keep,
    /// A snapshot that exists becomes the newest.
    Adopt(HistoryRow),
    /// A snapshot is made.
    New(NewSnapshot),
    /// A snapshot is made that names none before it.
    Alone(NewSnapshot),
    /// A snapshot is made that the history does not list.
    Bare(NewSnapshot),
}

/// A snapshot to be made; its folders are written.
#[derive(Debug, Clone)]
pub(crate) struct NewSnapshot {
    /// The pointer may carry a provisional id of the store.
    pub(crate) root: FolderEntry,
    /// A single file was put.
    pub(crate) single: bool,
    /// What its readers must know.
    pub(crate) needs: Needs,
    pub(crate) message: String,
    /// What the history calls it from the start, ascending.
    pub(crate) tags: Vec<String>,
}

/// What one commit changes; whatever is `None` stays as it is.
#[derive(Debug, Default)]
pub(crate) struct Change {
    pub(crate) tree: Tree,
    /// The snapshots that are kept, beside the one that is made.
    pub(crate) rows: Option<Vec<HistoryRow>>,
    pub(crate) ledger: Option<Ledger>,
    pub(crate) name: Option<String>,
    /// Under which epoch's dedup key it is from now on.
    pub(crate) sealing: Option<Sealing>,
    /// The dataset is to be listed no more.
    pub(crate) retire: bool,
    pub(crate) refresh: Refresh,
    /// `None`: the rows of what was stored join those of the base.
    pub(crate) table: Option<TableChange>,
    /// What else is in the state that it makes: heads that are merged, or given up.
    pub(crate) within: Vec<Lineage>,
}

impl Change {
    fn is_nothing(&self) -> bool {
        matches!(self.tree, Tree::Keep)
            && self.rows.is_none()
            && self.ledger.is_none()
            && self.name.is_none()
            && self.sealing.is_none()
            && !self.retire
            && matches!(self.refresh, Refresh::Changed)
            && self.table.is_none()
            && self.within.is_empty()
    }
}

/// Something that changes a dataset.
pub(crate) trait Operation: Send {
    /// Decides the change of a state; what it needs is put into the store.
    ///
    /// # Errors
    /// Whatever makes the change impossible.
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        store: &'a mut Store,
        created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>>;

    /// Whether it may be done to a dataset that was removed.
    fn frees(&self) -> bool {
        false
    }

    /// Whether it is applied anew to the state that won over it; else what it made is merged into that state.
    fn repeats(&self) -> bool {
        true
    }
}

/// How a commit stores.
#[derive(Debug, Clone)]
pub(crate) struct CommitOptions {
    /// Of contents that are stored for it.
    pub(crate) lease: Duration,
    pub(crate) require_full: bool,
    /// What is read: a run over the same, to the same place, resumes.
    pub(crate) paths: Vec<PathBuf>,
    /// The place in the dataset.
    pub(crate) place: Vec<u8>,
}

impl CommitOptions {
    /// How long documents and heads are leased: all else depends on them, earlier contents too.
    fn documents_lease(&self, owner: &Owner) -> Duration {
        self.lease.max(owner.client.config().lease)
    }
}

/// What a commit came to.
pub(crate) struct Committed {
    /// The newest state, which has the change.
    pub(crate) body: ReadBody,
    pub(crate) head: Head,
    pub(crate) keys: Arc<DatasetKeys>,
    /// Files in the newest snapshot.
    pub(crate) files: u64,
    /// What became of other writers' changes.
    pub(crate) merged: Merged,
    /// Segments that were stored for it, over all tries.
    pub(crate) stored: BTreeMap<SegmentId, (RowKind, Stored)>,
    /// Bytes of shards that were sent.
    pub(crate) new_bytes: u64,
    pub(crate) lease_until: Timestamp,
    /// Whether no other writer's change came into it.
    pub(crate) alone: bool,
}

/// What has been stored so far, over all tries.
#[derive(Default)]
struct Done {
    merged: Merged,
    stored: BTreeMap<SegmentId, (RowKind, Stored)>,
    new_bytes: u64,
    lease_until: Option<Timestamp>,
    /// Merges with other writers' changes.
    merges: u32,
}

/// A head of another writer, or a lost one of this one, whose changes are not in the newest state.
struct Fork {
    keys: Arc<DatasetKeys>,
    head: Head,
    body: ReadBody,
}

impl Fork {
    /// Those of these heads that are not in a state, as far as they open; whoever has the keys wrote them.
    fn outside(keys: &Arc<DatasetKeys>, lineage: &Lineage, heads: Vec<Head>) -> Vec<Self> {
        let open = |head: Head| {
            let body = head.open_read(&keys.read).ok()?;
            Some(Self { keys: Arc::clone(keys), head, body })
        };
        let forks = heads.into_iter().filter_map(open);
        forks.filter(|fork| lineage.kinship(fork.version()) == Kinship::Outside).collect()
    }

    /// What a change was made from, should it not be in the state that won over it.
    fn of(base: &State) -> Self {
        Self { keys: Arc::clone(&base.keys), head: base.head.clone(), body: base.body.clone() }
    }

    fn version(&self) -> HeadVersion {
        HeadVersion::from(&self.head)
    }
}

/// A head that lost, with what it was made from.
struct Lost {
    ancestor: Ancestor,
    mine: State,
}

/// What all tries of one commit share.
struct Commit<'a> {
    owner: &'a Owner,
    options: &'a CommitOptions,
    candidates: Candidates,
    done: Done,
}

/// Changes a dataset, then renews leases of what it has that have run under half.
///
/// # Errors
/// `Conflict` when other writers were first too often, whatever `operation` fails with, and as reading and storing do.
/// Whatever it fails with, nothing is half done: the newest state is one that a writer made whole.
pub(crate) async fn commit(
    owner: &Owner,
    options: &CommitOptions,
    operation: &mut dyn Operation,
) -> Result<Committed, ClientError> {
    let done = change(owner, options, operation).await?;
    lease::renew_due(owner, &done, options.lease).await;
    Ok(done)
}

async fn change(
    owner: &Owner,
    options: &CommitOptions,
    operation: &mut dyn Operation,
) -> Result<Committed, ClientError> {
    let candidates = Candidates::find(&owner.client.put_context()).await?;
    let mut commit = Commit { owner, options, candidates, done: Done::default() };
    let mut base = commit.settled(Vec::new(), None).await?;
    let mut lost: Option<Lost> = None;
    let mut given_up: Option<Lineage> = None;
    for attempt in 0..TRIES {
        pause(attempt).await?;
        if is_retired(&base.note) && !operation.frees() {
            return Err(ClientError::new(
                ErrorKind::NotFound,
                format!("there is no dataset {:?} any more", base.note.name),
                "it was removed from the vault",
                "list the datasets with `dolmen ls`, or make it anew",
            ));
        }
        let (mut store, created) = commit.store(&base).await?;
        let mut change = match &lost {
            None => operation.apply(&base, &mut store, created).await?,
            Some(Lost { ancestor, mine }) => match reconcile(ancestor, mine, &base, &mut store).await {
                Ok((change, merged)) => {
                    commit.done.merged.add(merged);
                    commit.done.merges += 1;
                    change
                }
                // What was stored may be freed under it: it is stored again.
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    operation.apply(&base, &mut store, created).await?
                }
                Err(error) => return Err(error),
            },
        };
        change.within.extend(given_up.clone());
        match write(&mut commit, &base, change, store, created).await? {
            Wrote::Nothing => return Ok(commit.done.of_state(base)),
            Wrote::Newest { head, body, files, forks } if forks.is_empty() => {
                return Ok(commit.done.of(head, *body, base.keys, files));
            }
            Wrote::Newest { forks, .. } => {
                let state = commit.settled(forks, None).await?;
                return Ok(commit.done.of_state(state));
            }
            Wrote::Lost { head, body } => {
                let version = HeadVersion::from(&head);
                // Whoever won may know nothing of what this one was made from.
                let before = Fork::of(&base);
                if !operation.repeats() {
                    let mine = owner.state(Arc::clone(&base.keys), head, *body).await?;
                    lost = Some(Lost { ancestor: Ancestor::known(&base).await?, mine });
                }
                base = commit.settled(vec![before], Some(version.hash)).await?;
                if base.lineage.kinship(version) == Kinship::Within {
                    // It lost to one that was made from it, whose writer leases only what he stored.
                    commit.renew(&base.keys).await;
                    return Ok(commit.done.of_state(base));
                }
                given_up.get_or_insert_with(|| Lineage::beginning(0)).add(version);
                if operation.repeats() {
                    owner.guard.clear()?;
                }
            }
        }
    }
    Err(ClientError::new(
        ErrorKind::Conflict,
        "the change could not be written",
        format!("other writers were first {TRIES} times"),
        "run the same command again: what was uploaded is not sent again",
    ))
}

/// Puts all heads of a state again, those of shares and stewards included, so that nodes keep them until then.
///
/// # Errors
/// As [`crate::heads::write`]; stewards who cannot be told are warned of.
pub(crate) async fn put_heads_again(owner: &Owner, state: &State, until: Timestamp) -> Result<(), ClientError> {
    owner.put_heads_again(state, until).await?;
    views::put_again(owner, &state.ledger, until).await?;
    stewards::put_stewards_again(owner, state, until).await;
    Ok(())
}

/// The newest state of a dataset for reading, after the changes of writers who lost without knowing are brought into it
/// where that can be done now.
///
/// # Errors
/// As reading does.
pub(crate) async fn settled(owner: &Owner, options: &CommitOptions) -> Result<State, ClientError> {
    let newest = owner.newest().await?;
    let state = owner.state(newest.keys, newest.head, newest.body).await?;
    let alone = newest.forks.iter().all(|fork| state.lineage.kinship(fork.version()) != Kinship::Outside);
    if alone && lost_head(owner, &state)?.is_none() {
        return Ok(state);
    }
    let merging = async {
        let candidates = Candidates::find(&owner.client.put_context()).await?;
        Commit { owner, options, candidates, done: Done::default() }.settled(newest.forks, None).await
    };
    match merging.await {
        Err(error) if matches!(error.kind(), ErrorKind::NotNow | ErrorKind::Refused | ErrorKind::Conflict) => {
            let why = error.why();
            owner.client.progress().warn(format!("changes of another writer are not shown yet: {why}"));
            Ok(state)
        }
        settled => settled,
    }
}

impl Commit<'_> {
    /// The newest state, with the changes of all forks in it: those given, those that nodes show, a lost one of our own.
    /// The head `ignored` is brought in by the caller, or given up.
    async fn settled(&mut self, mut forks: Vec<Fork>, ignored: Option<HeadHash>) -> Result<State, ClientError> {
        let owner = self.owner;
        let mut settled: Vec<HeadHash> = ignored.into_iter().collect();
        for attempt in 0..TRIES {
            pause(attempt.saturating_sub(1)).await?;
            let newest = owner.newest().await?;
            forks.extend(newest.forks);
            let state = owner.state(newest.keys, newest.head, newest.body).await?;
            forks.extend(lost_head(owner, &state)?);
            forks.retain(|fork| {
                state.lineage.kinship(fork.version()) == Kinship::Outside && !settled.contains(&fork.head.hash())
            });
            let Some(fork) = forks.pop() else {
                if ignored.is_none() {
                    owner.guard.release(&state.head)?;
                }
                return Ok(state);
            };
            let hash = fork.head.hash();
            let progress = owner.client.progress();
            let mine = match owner.state(fork.keys, fork.head.clone(), fork.body.clone()).await {
                Ok(mine) => mine,
                Err(error) if error.kind() == ErrorKind::Damaged => {
                    let id = fork.body.snapshot_id.short();
                    progress.warn(format!("snapshot {id} of another writer could not be saved: {}", error.why()));
                    settled.push(hash);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let (mut store, created) = self.store(&state).await?;
            let ancestor = Ancestor::guessed(&mine, &state).await?;
            let (mut change, merged) = match reconcile(&ancestor, &mine, &state, &mut store).await {
                Err(error) if error.kind() == ErrorKind::Conflict => {
                    let id = mine.body.snapshot_id.short();
                    progress.warn(format!("snapshot {id} of another writer could not be saved: {}", error.why()));
                    settled.push(hash);
                    continue;
                }
                done => done?,
            };
            change.within.push(mine.lineage.clone());
            match write(self, &state, change, store, created).await? {
                Wrote::Nothing => settled.push(hash),
                Wrote::Newest { forks: others, .. } => {
                    settled.push(hash);
                    forks.extend(others);
                    self.done.merged.add(merged);
                    self.done.merges += 1;
                    let id = mine.body.snapshot_id.short();
                    progress.warn(format!("snapshot {id} was written at the same time as another, and merged"));
                }
                // Whoever won is merged into next: this one again, and what it was merged into if that was lost with it.
                Wrote::Lost { head, .. } => {
                    settled.push(head.hash());
                    forks.extend([Fork::of(&mine), Fork::of(&state)]);
                }
            }
        }
        Err(ClientError::new(
            ErrorKind::Conflict,
            "the changes of several writers could not be brought together",
            format!("others were first {TRIES} times"),
            "run the same command again later",
        ))
    }

    /// Gives all that was stored so far its lease.
    async fn renew(&mut self, keys: &Arc<DatasetKeys>) {
        let nodes = self.owner.client.nodes_known();
        let mut shards = ByNode::new();
        for (_, stored) in self.done.stored.values() {
            for (root, node) in stored.roots.iter().zip(&stored.nodes) {
                if let Some(node) = node {
                    shards.entry(*node).or_default().insert(*root);
                }
            }
        }
        let now = nodes.now();
        let until = now.after(self.options.documents_lease(self.owner));
        let total: usize = shards.values().map(BTreeSet::len).sum();
        let renewed = lease::renew(nodes, &Account::new(Arc::clone(keys)), &shards, until).await;
        if renewed < total {
            let left = total - renewed;
            let warning =
                format!("{left} of {total} shards could not be leased beyond a week: run `dolmen renew` before then");
            self.owner.client.progress().warn(warning);
            self.done.lease_until = Some(now.after(LEASE_INITIAL).min(until));
        } else {
            self.done.lease_until = Some(until);
        }
    }

    /// A store for changes of this state, and the time that a snapshot made of it gets.
    async fn store(&self, base: &State) -> Result<(Store, Timestamp), ClientError> {
        let policy = base.reader.table().policy;
        let of = (Arc::clone(&base.keys), Some(base.body.snapshot_id));
        let (store, created) = store_for(self.owner, self.options, &self.candidates, policy, of).await?;
        base.teach(&store.known);
        Ok((store, base.next_time(created)))
    }
}

impl Done {
    fn of(self, head: Head, body: ReadBody, keys: Arc<DatasetKeys>, files: u64) -> Committed {
        let Self { merged, stored, new_bytes, lease_until, merges } = self;
        let lease_until = lease_until.unwrap_or_default();
        Committed { body, head, keys, files, merged, stored, new_bytes, lease_until, alone: merges == 0 }
    }

    fn of_state(self, state: State) -> Committed {
        let row = state.rows.iter().find(|row| row.id == state.body.snapshot_id);
        let files = row.map_or(0, |row| row.files);
        self.of(state.head, state.body, state.keys, files)
    }
}

/// The head that this client wrote last, when it is not in the newest state.
fn lost_head(owner: &Owner, newest: &State) -> Result<Option<Fork>, ClientError> {
    let Some(own) = owner.guard.kept(owner.client.nodes_known().now())? else { return Ok(None) };
    if own.epoch != newest.keys.epoch() {
        return Ok(None);
    }
    let mine = HeadVersion::from(&own.head);
    match newest.lineage.kinship(mine) {
        Kinship::Within => return Ok(None),
        Kinship::Outside => {}
        Kinship::Unknown => {
            if !newest.rows.iter().any(|row| row.id == own.snapshot) {
                let id = own.snapshot.short();
                let warning = format!("snapshot {id}, put from here, is not in the history: it was forgotten, or lost");
                owner.client.progress().warn(warning);
            }
            return Ok(None);
        }
    }
    let before = HeadVersion { sequence: mine.sequence.saturating_sub(1), hash: own.head.previous() };
    if mine.sequence > newest.head.sequence() && newest.lineage.kinship(before) == Kinship::Within {
        // It was never written, and what it was made from is not lost.
        return Ok(None);
    }
    let keys = Arc::clone(&newest.keys);
    let body = own.head.open_read(&keys.read).map_err(|error| ClientError::bug("our own head does not open", error))?;
    Ok(Some(Fork { keys, head: own.head, body }))
}

/// Waits before try number `attempt`, at random, so that two writers do not meet again and again.
async fn pause(attempt: u32) -> Result<(), ClientError> {
    if attempt == 0 {
        return Ok(());
    }
    let mut random = [0; 4];
    crate::vault::fill_random(&mut random)?;
    let mean = PAUSE_MIN.saturating_mul(1 << attempt.min(10)).min(PAUSE_MAX);
    let wait = mean.mul_f64(2.0 * f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX));
    tokio::time::sleep(wait).await;
    Ok(())
}

/// Nodes for a new dataset, and its code.
///
/// # Errors
/// `NotNow` when there are too few nodes.
pub(crate) async fn first_policy(
    client: &Client,
    choice: Option<PolicyChoice>,
) -> Result<(Candidates, Policy), ClientError> {
    let context = client.put_context();
    let candidates = Candidates::find(&context).await?;
    let policy = candidates.policy(choice.unwrap_or(context.config.policy))?;
    Ok((candidates, policy))
}

#[cfg(test)]
mod tests;
