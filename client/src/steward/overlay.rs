//! A steward's own overlay: how it is changed while nobody else can, but for another run of the same steward.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Head, HeadOrder, OverlayBody};
use dolmen_proto::ids::{NodeId, SegmentId, ShardIndex, Timestamp};
use dolmen_proto::keys::{OverlayKeys, VaultSecret};
use dolmen_proto::limits::{LEASE_DEFAULT, ROOTS_PER_CALL_MAX};
use dolmen_proto::overlay::{OverlayKey, OverlayRow};
use dolmen_proto::table::NodeEntry;
use dolmen_proto::tree::TreeItem;
use dolmen_proto::wire::KeptReceipt;

use super::access::{Authority, Stewardship};
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Published};
use crate::put::{Candidates, OverlayChange, Store, Terms, write_overlay};
use crate::read::Overlay;
use crate::state::{Journal, JournalHeader};

/// How often a change is tried when another run of the same steward was first.
const TRIES: u32 = 5;

/// Rows that are brought into the overlay of a new epoch at once.
const BROUGHT_AT_ONCE: usize = 65_536;

/// A row of an overlay.
pub(crate) type Row = OverlayRow;

/// What is to become of a steward's overlay.
#[derive(Debug, Clone, Default)]
pub(crate) struct OverlayUpdate {
    set: BTreeMap<OverlayKey, OverlayRow>,
    drop: BTreeSet<OverlayKey>,
    prune: bool,
}

impl OverlayUpdate {
    /// Adds a row; it takes the place of the one for the same shard.
    pub(crate) fn set(&mut self, row: OverlayRow) {
        self.drop.remove(&row.label());
        self.set.insert(row.label(), row);
    }

    /// Drops the row of a shard.
    pub(crate) fn drop_row(&mut self, segment: SegmentId, shard: ShardIndex) {
        let key = OverlayKey { segment, shard };
        self.set.remove(&key);
        self.drop.insert(key);
    }

    /// Drops all rows of segments that the base table has no more. Reads the whole table.
    pub(crate) fn prune(&mut self) {
        self.prune = true;
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        self.set.is_empty() && self.drop.is_empty() && !self.prune
    }
}

impl Stewardship {
    /// A row for a shard that a node has taken.
    pub(crate) fn row(&self, segment: SegmentId, shard: ShardIndex, node: NodeId, receipt: KeptReceipt) -> Row {
        OverlayRow { segment, shard, node: NodeEntry::new(node, self.nodes().addresses(node)), receipt }
    }

    /// The steward's own overlay as it is published; `None` before the first.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when it cannot be read.
    pub(crate) async fn own_overlay(&self) -> Result<Option<Overlay>, ClientError> {
        Overlay::open(&self.client.reading(), &self.body.table_secret, self.public_key()).await
    }

    /// Changes the steward's own overlay, and leaves out what is added for segments that are not in the base table. Its blobs
    /// are leased for `lease`; another run that was first is taken over.
    ///
    /// # Errors
    /// `Conflict` when another run of the same steward was first too often; as storing and reading do. Then the overlay is as it
    /// was, or as another run left it.
    pub(crate) async fn publish(&self, update: &OverlayUpdate, lease: Duration) -> Result<(), ClientError> {
        if update.is_empty() {
            return Ok(());
        }
        self.write(self.change(update).await?, lease).await
    }

    /// Changes the overlay, whatever the base table has.
    ///
    /// # Errors
    /// As [`Stewardship::publish`].
    pub(crate) async fn write(&self, change: OverlayChange, lease: Duration) -> Result<(), ClientError> {
        let candidates = Candidates::find(&self.client.put_context()).await?;
        let mut anew = false;
        for _ in 0..TRIES {
            let old = match self.own_overlay().await {
                Ok(old) => old.filter(|_| !anew),
                Err(error) if error.kind() == ErrorKind::Damaged => None,
                Err(error) => return Err(error),
            };
            let current = match &old {
                Some(old) => Some(old.head.clone()),
                None => self.own_head().await?,
            };
            let follows = old.is_some();
            let mut store = self.store(&candidates).await?;
            let change =
                OverlayChange { set: change.set.clone(), drop: change.drop.clone(), live: change.live.clone() };
            let location = match write_overlay(&mut store, old, change, self.nodes().now()).await {
                // Its blobs are lost: what it said is found again by looking, and it must not stand in the way for ever.
                Err(error) if error.kind() == ErrorKind::Damaged && follows => {
                    tracing::warn!(why = error.why(), "the overlay cannot be read and is begun anew");
                    anew = true;
                    continue;
                }
                written => written?,
            };
            let body = OverlayBody { location, extensions: Extensions::default() };
            let order = HeadOrder::after(current.as_ref());
            let head = Head::create_overlay(&self.body.table_secret, &self.keys.overlay, order, &body)
                .map_err(|error| ClientError::bug("could not write an overlay's head", error))?;
            let until = self.nodes().now().after(lease);
            let locator = OverlayKeys::derive(&self.body.table_secret, &self.public_key()).locator;
            let everybody = candidates.everybody();
            let written = heads::write(self.nodes(), &locator, &head, until, everybody.as_ref()).await?;
            store.renew(lease, lease).await;
            store.finish()?;
            self.overlays().forget();
            // A head of the same sequence that lost is of another run, which finds out by itself.
            if let Published::Written { .. } = written {
                return Ok(());
            }
        }
        Err(ClientError::new(
            ErrorKind::Conflict,
            "the overlay could not be changed",
            format!("another steward with the same link was first {TRIES} times"),
            "run one steward for each link, or ask the owner for another link",
        ))
    }

    /// Publishes again, under the table secret of a new epoch, what the overlay said in the one before: readers with new links
    /// find nothing at its old places.
    ///
    /// # Errors
    /// As [`Stewardship::publish`], when the new one cannot be written; an old one that cannot be read is left behind.
    pub(super) async fn bring_along(&self, before: &Self) -> Result<(), ClientError> {
        let old = match before.own_overlay().await {
            Ok(Some(old)) => old,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(why = error.why(), "the overlay of before the change of keys cannot be read");
                return Ok(());
            }
        };
        let Some(mut walk) = old.rows() else { return Ok(()) };
        let mut update = OverlayUpdate::default();
        loop {
            let rows = old.next_rows(&mut walk, |_, _| {}).await?;
            let over = rows.is_none();
            rows.into_iter().flatten().for_each(|row| update.set(row));
            if over || update.set.len() >= BROUGHT_AT_ONCE {
                self.publish(&update, LEASE_DEFAULT).await?;
                update = OverlayUpdate::default();
            }
            if over {
                return Ok(());
            }
        }
    }

    async fn own_head(&self) -> Result<Option<Head>, ClientError> {
        let wanted = heads::Wanted::of_overlay(&self.body.table_secret, self.public_key());
        match heads::find(self.nodes(), &wanted, None).await {
            Ok(found) => Ok(Some(found.head)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What is changed, as far as the base table has the segments.
    async fn change(&self, update: &OverlayUpdate) -> Result<OverlayChange, ClientError> {
        let mut change = OverlayChange { set: update.set.clone(), drop: update.drop.clone(), live: None };
        if update.prune {
            let mut live = BTreeSet::new();
            let mut segments = self.segments()?;
            while let Some(batch) = self.next_segments(&mut segments).await? {
                live.extend(batch.iter().map(|segment| segment.place.id));
            }
            change.live = Some(live);
            return Ok(change);
        }
        let named: BTreeSet<SegmentId> = update.set.keys().map(|key| key.segment).collect();
        for id in named {
            if self.place(id).await?.is_none() {
                change.set.retain(|key, _| key.segment != id);
            }
        }
        Ok(change)
    }

    async fn store(&self, candidates: &Candidates) -> Result<Store, ClientError> {
        let context = self.client.put_context();
        let policy = self.policy();
        let document_policy = policy.document_policy();
        candidates.check_documents(document_policy)?;
        let scope = [b"overlay\0".as_slice(), &self.public_key()].concat();
        let (state, now) = (context.state.clone(), context.nodes.now());
        let (content, documents) = ((policy.k(), policy.n()), (document_policy.k(), document_policy.n()));
        let journal = tokio::task::spawn_blocking(move || {
            let vault = VaultSecret::new([0; 32]);
            let fresh = || Ok(JournalHeader { vault, created: now, policy: content, document_policy: documents });
            let fits = |header: &JournalHeader| (header.policy, header.document_policy) == (content, documents);
            Journal::open(&state, &scope, &[], fits, fresh)
        });
        let journal = journal.await.map_err(|error| ClientError::bug("the journal failed", error))??;
        let keys = Arc::clone(&self.store_keys);
        let terms = Terms { keys, policy, document_policy, require_full: false, after: None, journal };
        Ok(Store::in_name_of(&context, candidates, terms, Arc::clone(&self.account)))
    }

    /// Renews the leases of the overlay's own blobs; gives how many of how many shards. Receipts are not kept: what is lost of an
    /// overlay can be published again.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when the overlay cannot be read.
    pub(crate) async fn renew_own(&self, until: Timestamp) -> Result<(usize, usize), ClientError> {
        let Some(overlay) = self.own_overlay().await? else { return Ok((0, 0)) };
        let (mut renewed, mut total) = (0, 0);
        for (node, roots) in Self::by_node(overlay.places()) {
            let roots: Vec<_> = roots.into_iter().collect();
            total += roots.len();
            let mut done = vec![false; roots.len()];
            for authority in [Authority::Owner, Authority::Steward] {
                match self.renew(authority, node, &roots, until, ROOTS_PER_CALL_MAX).await {
                    Ok((items, _)) => done.iter_mut().zip(items).for_each(|(done, item)| *done |= item),
                    Err(fault) => tracing::debug!(node = %node.short(), %fault, "an overlay's leases were not renewed"),
                }
            }
            renewed += done.into_iter().filter(|done| *done).count();
        }
        Ok((renewed, total))
    }
}
