//! What an owner shares of a dataset, and stops to share.
//!
//! Decides nothing of what a link shows: that is `crate::commit`'s.

use std::fmt;

use dolmen_proto::ids::{SnapshotId, Timestamp};
use dolmen_proto::ledger::Share;
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::manifest::Name;
use futures::FutureExt;
use futures::future::BoxFuture;
use zeroize::Zeroizing;

use super::{Dataset, Plain};
use crate::commit::{Change, Operation, Refresh, Selector, State, components, new_share, share_link};
use crate::error::{ClientError, ErrorKind};
use crate::put::Store;

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
                "list them with `dolmen shares`",
            )),
        };
        std::future::ready(changed).boxed()
    }
}
