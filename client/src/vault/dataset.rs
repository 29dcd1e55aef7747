//! A dataset of a vault, as its owner changes it.
//!
//! Decides what each command does to a dataset, and nothing of how a change gets through when others write too: that is
//! `crate::commit`'s.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use dolmen_proto::codec::Needs;
use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::LEASE_MAX;
use dolmen_proto::manifest::build_folder;
use futures::FutureExt;
use futures::future::BoxFuture;

mod put;
mod reseal;
mod shares;
mod snapshots;
mod stewards;

pub use shares::ShareInfo;
pub use stewards::StewardInfo;

use super::{DatasetName, Vault};
use crate::collect::{self, Collect};
use crate::commit::{
    Change, CommitOptions, Committed, NewSnapshot, Operation, Owner, State, Tree, commit, put_heads_again, settled,
};
use crate::error::{ClientError, ErrorKind};
use crate::info;
use crate::lease;
use crate::network::Account;
use crate::options::PutOptions;
use crate::progress::Stage;
use crate::put::{Store, built};
use crate::report::{GcReport, RenewReport};

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

    /// Removes the dataset: it is listed no more and no snapshot is kept; its links show an empty folder. What it took is freed by
    /// [`Dataset::gc`], now and a week later: see [`Vault::removed`].
    ///
    /// # Errors
    /// As [`Dataset::put`].
    pub async fn remove(&self) -> Result<(), ClientError> {
        self.change(&mut Retire).await?;
        self.vault.forget_catalogue();
        Ok(())
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
        put_heads_again(&self.owner, &state, until).await?;
        Ok(RenewReport { shards: total as u64, renewed_shards: renewed as u64, lease_until: until })
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
