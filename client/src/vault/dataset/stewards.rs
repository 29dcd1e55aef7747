//! What an owner does about the stewards of a dataset: appoint, list, revoke.
//!
//! Decides nothing of what a steward gets: that is `crate::commit`'s.

use std::fmt;
use std::time::Duration;

use dolmen_proto::ids::Timestamp;
use dolmen_proto::ledger::Steward;
use dolmen_proto::limits::LEASE_MAX;
use futures::FutureExt;
use futures::future::BoxFuture;
use zeroize::Zeroizing;

use super::Dataset;
use crate::commit::{Change, Operation, State, new_steward, steward_link};
use crate::error::{ClientError, ErrorKind};
use crate::put::Store;

/// A steward of a dataset: somebody who keeps it alive and cannot read it.
#[derive(Clone)]
pub struct StewardInfo {
    /// Tells him from others of the dataset.
    pub number: u32,
    /// When he was appointed.
    pub created: Timestamp,
    /// When he was revoked.
    pub ended: Option<Timestamp>,
    /// The most bytes that he may put at each node in the owner's name.
    pub quota_bytes: u64,
    /// How long his grants last when they are made.
    pub lasting: Duration,
    /// The end of the grants that he has.
    pub granted_until: Timestamp,
    /// Nodes at which he may act in the owner's name.
    pub granted_nodes: u64,
    /// His link: a secret.
    pub link: Zeroizing<String>,
}

impl fmt::Debug for StewardInfo {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StewardInfo").field("number", &self.number).finish_non_exhaustive()
    }
}

impl Dataset {
    /// Appoints a steward: whoever holds the link can audit, renew and repair the dataset, and can never read it. At each node
    /// he may put `quota_bytes` in the owner's name; his grants last for `lasting`, and every change of the dataset extends them
    /// once half of that is over.
    ///
    /// # Errors
    /// `Usage` for a time over the longest lease, `Refused` when there are 64 already, `Conflict` when another writer appointed one
    /// at the same time; as [`Dataset::put`].
    pub async fn steward_link(
        &self,
        quota_bytes: u64,
        lasting: Duration,
        bootstrap: &[String],
    ) -> Result<StewardInfo, ClientError> {
        if lasting.is_zero() || lasting > LEASE_MAX {
            let why = format!("grants last from a moment to {} days", LEASE_MAX.as_secs() / 86_400);
            let what = "a steward cannot be appointed for that time";
            return Err(ClientError::new(ErrorKind::Usage, what, why, "give another time"));
        }
        let mut operation = Appoint { quota_bytes, lasting, number: None };
        let done = self.change(&mut operation).await?;
        let number = operation.number.ok_or_else(|| ClientError::bug("nobody was appointed", "no steward was made"))?;
        let state = self.owner.state(done.keys, done.head, done.body).await?;
        match state.ledger.stewards.iter().find(|other| other.number == number && other.ended.is_none()) {
            Some(steward) => self.steward_info(steward, bootstrap),
            None => {
                let why = "another writer appointed one or shared something at the same time";
                let what = "the steward could not be appointed";
                Err(ClientError::new(ErrorKind::Conflict, what, why, "run the command again"))
            }
        }
    }

    fn steward_info(&self, steward: &Steward, bootstrap: &[String]) -> Result<StewardInfo, ClientError> {
        let link = steward_link(&self.owner.keys(0), steward.number, bootstrap)?.to_text();
        let Steward { number, created, ended, quota_bytes, lasting, granted_until, .. } = *steward;
        let granted_nodes = steward.grants.as_ref().map_or(0, |grants| grants.count);
        Ok(StewardInfo { number, created, ended, quota_bytes, lasting, granted_until, granted_nodes, link })
    }

    /// All stewards, revoked ones included.
    ///
    /// # Errors
    /// As [`Dataset::log`].
    pub async fn stewards(&self) -> Result<Vec<StewardInfo>, ClientError> {
        let state = self.state().await?;
        state.ledger.stewards.iter().map(|steward| self.steward_info(steward, &[])).collect()
    }

    /// Revokes a steward: no reader looks at his overlay any more, and he is told nothing new. What his grants allow ends with
    /// them; to keep the newest table from him change the keys ([`Dataset::rekey`]).
    ///
    /// # Errors
    /// `NotFound` when there is no such steward, or he is revoked; as [`Dataset::put`].
    pub async fn revoke_steward(&self, number: u32) -> Result<(), ClientError> {
        let ended = self.vault.client.nodes_known().now();
        self.change(&mut Revoke { number, ended }).await.map(drop)
    }
}

struct Appoint {
    quota_bytes: u64,
    lasting: Duration,
    number: Option<u32>,
}

impl Operation for Appoint {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        _store: &'a mut Store,
        created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let mut ledger = base.ledger.clone();
        let appointed = new_steward(&mut ledger, self.quota_bytes, self.lasting, created).map(|number| {
            self.number = Some(number);
            Change { ledger: Some(ledger), ..Change::default() }
        });
        std::future::ready(appointed).boxed()
    }
}

struct Revoke {
    number: u32,
    ended: Timestamp,
}

impl Operation for Revoke {
    fn apply<'a>(
        &'a mut self,
        base: &'a State,
        _store: &'a mut Store,
        _created: Timestamp,
    ) -> BoxFuture<'a, Result<Change, ClientError>> {
        let mut ledger = base.ledger.clone();
        let found = ledger.stewards.iter_mut().find(|steward| steward.number == self.number && steward.ended.is_none());
        let changed = match found {
            Some(steward) => {
                (steward.ended, steward.grants) = (Some(self.ended), None);
                Ok(Change { ledger: Some(ledger), ..Change::default() })
            }
            None => Err(ClientError::new(
                ErrorKind::NotFound,
                format!("there is no steward {} who is not revoked", self.number),
                "no steward of the dataset has that number",
                "list them with `dolmen steward list`",
            )),
        };
        std::future::ready(changed).boxed()
    }
}
