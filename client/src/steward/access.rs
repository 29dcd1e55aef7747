//! A steward link, opened.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use dolmen_proto::attempt::Fault;
use dolmen_proto::grant::GrantRow;
use dolmen_proto::head::{Head, StewardBody, TableBody, TableLocation, named_stewards};
use dolmen_proto::ids::{AccountId, NodeId, SegmentId, ShardRoot, Timestamp};
use dolmen_proto::keys::{DatasetKeys, MaskSecret, OverlayKeys, StewardKeys, StewardSecret, TableKeys, account_key};
use dolmen_proto::limits::GRANTS_MAX;
use dolmen_proto::link::Link;
use dolmen_proto::policy::Policy;
use dolmen_proto::table::{RowKind, Rows, SegmentRow};
use dolmen_proto::tree::TreeWalk;
use dolmen_proto::wire::{KeptReceipt, Receipt, RenewReceipt, Signed, StewardGrant};

use crate::budget::Budget;
use crate::client::Client;
use crate::error::{ClientError, ErrorKind};
use crate::heads::{self, Found, Wanted};
use crate::network::{Account, CallFault, Granted, Nodes};
use crate::read::{Documents, Fetcher, Holders, Overlays, Place, Table, damaged};

/// A dataset as one of its stewards has it.
pub(crate) struct Stewardship {
    pub(super) client: Client,
    secret: StewardSecret,
    pub(super) keys: StewardKeys,
    /// What the owner entrusts to him.
    pub(super) body: StewardBody,
    head: Head,
    /// What he stores with in his own name.
    pub(super) store_keys: Arc<DatasetKeys>,
    /// In the owner's name where there is a grant.
    pub(super) account: Arc<Account>,
    own: Arc<Account>,
    documents: Documents,
    pub(super) table: Arc<Table>,
    table_head: Option<Head>,
    overlays: Overlays,
}

impl std::fmt::Debug for Stewardship {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Stewardship({:?})", self.head)
    }
}

/// A segment of the base table.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// Where its shards lie by the base table.
    pub(crate) place: Arc<Place>,
    pub(crate) kind: RowKind,
}

/// The segments of a base table that are being read.
pub(crate) struct Segments {
    /// Those that the root itself names.
    first: VecDeque<Segment>,
    walk: Option<Box<TreeWalk<SegmentRow>>>,
}

/// In whose name a shard is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Authority {
    /// The owner's: only he can delete it.
    Owner,
    /// The steward's own.
    Steward,
}

/// A shard that a node has taken.
#[derive(Debug, Clone)]
pub(crate) struct PutShard {
    pub(crate) receipt: KeptReceipt,
    /// Until when the node holds it: the end of the grant at most.
    pub(crate) until: Timestamp,
    pub(crate) authority: Authority,
}

impl Stewardship {
    /// Opens a steward link: finds the head that the owner publishes for it, the newest base table and the grants.
    ///
    /// # Errors
    /// `Usage` for a link of another kind; `NotFound` when there is no head, as after everything has expired; `NotNow` or
    /// `Damaged` when documents cannot be read.
    pub(crate) async fn open(client: &Client, link: &Link) -> Result<Self, ClientError> {
        let Some(secret) = link.steward_secret() else {
            let why = format!("it is a {:?} link", link.kind());
            let advice = "ask the dataset's owner for one: `dolmen steward-link`";
            return Err(ClientError::new(ErrorKind::Usage, "this is no steward link", why, advice));
        };
        let seen = client.state().seen_heads();
        let found = heads::find(client.nodes_known(), &Wanted::of_steward(secret), Some(&seen)).await?;
        Self::of_head(client, secret, found).await
    }

    async fn of_head(client: &Client, secret: &StewardSecret, found: Found<StewardBody>) -> Result<Self, ClientError> {
        let keys = StewardKeys::derive(secret);
        let (head, body) = (found.head, found.body);
        let reading = client.reading();
        let (location, table_head) = newest_table(client, &body).await?;
        let stewards = match &table_head {
            Some(head) => {
                let opened = head.open_table(&body.table_secret, &body.table_head_key);
                opened.ok().and_then(|table| named_stewards::<TableBody>(&table.extensions).ok()).unwrap_or_default()
            }
            None => vec![keys.public_key()],
        };
        let overlays = Overlays::new(&reading, body.table_secret.clone(), stewards);
        let fetcher = Fetcher::new(
            reading.nodes.clone(),
            reading.cores.clone(),
            Budget::new(u64::MAX),
            Some(body.mask_secret.clone()),
        );
        fetcher.use_overlays(overlays.clone());
        let documents = Documents::new(fetcher, reading.cache.clone(), false);
        let table = Arc::new(Table::open(&reading.nodes, &documents, &location, None).await?);
        overlays.follow(&table.root.stewards, &table.root.nodes);
        let store_keys = Arc::new(keys.store(&body.table_secret));
        let own = Arc::new(Account::new(Arc::clone(&store_keys)));
        let mut steward = Self {
            client: client.clone(),
            secret: secret.clone(),
            keys,
            body,
            head,
            account: Arc::clone(&own),
            own,
            store_keys,
            documents,
            table,
            table_head,
            overlays,
        };
        let grants = steward.grants().await?;
        steward.account = Arc::new(Account::with_grants(Arc::clone(&steward.store_keys), grants));
        Ok(steward)
    }

    /// Looks for a newer head or table; tells whether there is one. What was opened before stays as it was.
    ///
    /// # Errors
    /// As [`Stewardship::open`]; everything is then as before.
    pub(crate) async fn refresh(&mut self) -> Result<bool, ClientError> {
        let seen = self.client.state().seen_heads();
        let found = heads::find(self.nodes(), &Wanted::of_steward(&self.secret), Some(&seen)).await?;
        let (location, _) = newest_table(&self.client, &found.body).await?;
        if found.head.hash() == self.head.hash() && location == self.table.location {
            self.overlays.renew();
            return Ok(false);
        }
        let newer = Self::of_head(&self.client, &self.secret, found).await?;
        let before = std::mem::replace(self, newer);
        if before.body.table_secret != self.body.table_secret {
            self.bring_along(&before).await?;
        }
        Ok(true)
    }

    /// The grants that open for this steward and have not ended. Those that do not are as if they were not there.
    async fn grants(&self) -> Result<HashMap<NodeId, Granted>, ClientError> {
        let mut grants = HashMap::new();
        let Some(tree) = self.body.grants.as_ref().filter(|tree| tree.count <= GRANTS_MAX as u64) else {
            return Ok(grants);
        };
        let now = self.nodes().now();
        let mut walk = tree.walk::<GrantRow>();
        while let Some(pointer) = walk.wanted().cloned() {
            let blob = match self.documents.here(&pointer).await {
                Some(blob) => blob,
                None => {
                    let Some((place, offset)) = self.table.locate(&self.documents, &pointer).await? else {
                        // The owner published the table after this head, or before it: the next refresh finds both.
                        tracing::debug!("the grants are in no segment of the newest table");
                        return Ok(grants);
                    };
                    self.documents.fetch(&place, (offset, &pointer), &[]).await?
                }
            };
            for row in walk.supply(&blob).map_err(|error| damaged(&error))? {
                match row.open(&self.keys) {
                    Ok((grant, steward)) if grant.claimed().until > now => {
                        let (delete_key, renew_key) = (row.delete_key, row.renew_key);
                        grants.insert(row.node, Granted { grant, steward, delete_key, renew_key });
                    }
                    Ok(_) => {}
                    Err(error) => tracing::debug!(node = %row.node.short(), %error, "a grant is of no use"),
                }
            }
        }
        Ok(grants)
    }

    /// The nodes as this client knows them.
    pub(crate) fn nodes(&self) -> &Nodes {
        self.client.nodes_known()
    }

    /// All that the owner entrusts to the steward.
    pub(crate) fn entrusted(&self) -> &StewardBody {
        &self.body
    }

    /// The public steward key.
    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.keys.public_key()
    }

    /// Whether the newest base table names this steward: if not, nobody looks at his overlay.
    pub(crate) fn is_named(&self) -> bool {
        self.table.root.stewards.contains(&self.public_key())
    }

    /// The public keys of the stewards that the newest base table names.
    pub(crate) fn stewards(&self) -> &[[u8; 32]] {
        &self.table.root.stewards
    }

    /// Masks and unmasks parity shards of the dataset.
    pub(crate) fn mask_secret(&self) -> &MaskSecret {
        &self.body.mask_secret
    }

    /// The policy of the dataset's content.
    pub(crate) fn policy(&self) -> Policy {
        self.table.root.policy
    }

    /// How many segments the base table lists, beside those of its own blobs.
    pub(crate) fn segment_count(&self) -> u64 {
        self.table.root.rows.count()
    }

    /// Where the base table's root lies: differs whenever the table does.
    pub(crate) fn table_location(&self) -> &TableLocation {
        &self.table.location
    }

    /// Starts to read the segments of the base table: first those of the table's own blobs, then all others ascending by id. One
    /// may come twice.
    ///
    /// # Errors
    /// `Damaged` when the table contradicts itself.
    pub(crate) fn segments(&self) -> Result<Segments, ClientError> {
        let root = &self.table.root;
        let mut first = VecDeque::from([Segment { place: Arc::clone(&self.table.place), kind: RowKind::Documents }]);
        let inline = match &root.rows {
            Rows::Inline(rows) => rows.as_slice(),
            Rows::Tree { .. } => &[],
        };
        for row in root.further.iter().chain(inline) {
            first.push_back(self.segment(row)?);
        }
        Ok(Segments { first, walk: root.rows.walk().map(Box::new) })
    }

    fn segment(&self, row: &SegmentRow) -> Result<Segment, ClientError> {
        Ok(Segment { place: self.table.place_of(row)?, kind: row.kind() })
    }

    /// The next segments: those of one blob of the table. May be none though more follow; `None` at the end.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when a blob cannot be read.
    pub(crate) async fn next_segments(&self, segments: &mut Segments) -> Result<Option<Vec<Segment>>, ClientError> {
        if !segments.first.is_empty() {
            return Ok(Some(segments.first.drain(..).collect()));
        }
        let Some(walk) = &mut segments.walk else { return Ok(None) };
        let Some(pointer) = walk.wanted().cloned() else { return Ok(None) };
        let blob = self.table.blob(&self.documents, &pointer).await?;
        let rows = walk.supply(&blob).map_err(|error| damaged(&error))?;
        rows.iter().map(|row| self.segment(row)).collect::<Result<_, _>>().map(Some)
    }

    /// Where a segment of the base table lies; `None` when it has no such segment.
    ///
    /// # Errors
    /// `Damaged` or `NotNow` when rows cannot be read.
    pub(crate) async fn place(&self, id: SegmentId) -> Result<Option<Arc<Place>>, ClientError> {
        self.table.find(&self.documents, id).await
    }

    /// Who holds a segment's shards by the overlays of all stewards that the table names, this one among them: by shard, only
    /// where a receipt counts. What was looked up is kept until [`Stewardship::refresh`] or [`Stewardship::publish`].
    pub(crate) async fn holders(&self, place: &Place) -> Holders {
        self.overlays.holders(place).await
    }

    pub(super) fn overlays(&self) -> &Overlays {
        &self.overlays
    }

    /// The grant at a node, if there is one that has not ended.
    pub(crate) fn grant(&self, node: NodeId) -> Option<&StewardGrant> {
        self.account.grant(node)
    }

    /// How many nodes there are grants for.
    pub(crate) fn granted_nodes(&self) -> usize {
        self.account.granted_nodes()
    }

    /// Puts a shard at a node: in the owner's name where there is a grant and the node honours it, else in the steward's own.
    ///
    /// # Errors
    /// [`CallFault`] when neither works.
    pub(crate) async fn put_shard(
        &self,
        node: NodeId,
        root: ShardRoot,
        shard: Bytes,
        until: Timestamp,
        sent: Arc<AtomicU64>,
    ) -> Result<PutShard, CallFault> {
        let nodes = self.nodes();
        if self.account.grant(node).is_some() {
            match nodes.put_shard(&self.account, node, root, shard.clone(), until, Arc::clone(&sent)).await {
                Err(CallFault { fault: Fault::Refused, reason }) => {
                    tracing::debug!(node = %node.short(), reason, "a node does not honour a grant");
                }
                put => return put.map(|receipt| kept(&receipt, Authority::Owner)),
            }
        }
        let put = nodes.put_shard(&self.own, node, root, shard, until, sent).await;
        put.map(|receipt| kept(&receipt, Authority::Steward))
    }

    /// Renews leases at a node, at most so many a call, in the name in which they are held; gives for each whether the node did,
    /// and the node's receipts. Without a grant the owner's are refused.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn renew(
        &self,
        authority: Authority,
        node: NodeId,
        roots: &[ShardRoot],
        until: Timestamp,
        batch_max: usize,
    ) -> Result<(Vec<bool>, Vec<Signed<RenewReceipt>>), CallFault> {
        let account = match authority {
            Authority::Owner if self.account.grant(node).is_none() => {
                let reason = format!("there is no grant for node {}", node.short());
                return Err(CallFault::new(Fault::Refused, reason));
            }
            Authority::Owner => &self.account,
            Authority::Steward => &self.own,
        };
        self.nodes().renew_receipts(account, node, roots, until, batch_max).await
    }

    /// Gives up leases that are held in the steward's own name, as after a row was dropped; gives for each whether the node has
    /// none any more.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn give_up(&self, node: NodeId, roots: &[ShardRoot]) -> Result<Vec<bool>, CallFault> {
        self.nodes().delete(&self.own, node, roots).await
    }

    /// In whose name a node holds what a receipt is for; not checked against its signature.
    pub(crate) fn authority_of(&self, node: NodeId, receipt: &KeptReceipt) -> Authority {
        let own = AccountId::new(account_key(&self.store_keys.account, node).verifying_key().to_bytes());
        let claimed = match receipt {
            KeptReceipt::Put(bytes) => Signed::<Receipt>::decode(bytes.clone()).map(|said| said.claimed().account),
            KeptReceipt::Renewal(bytes) => {
                Signed::<RenewReceipt>::decode(bytes.clone()).map(|said| said.claimed().account)
            }
        };
        if claimed.is_ok_and(|account| account == own) { Authority::Steward } else { Authority::Owner }
    }

    /// Puts again, unchanged, every head that keeps the dataset to be found: read head, table head, the steward's own and that
    /// of his overlay. Gives how many could be put; what could not is tried again the next time.
    pub(crate) async fn put_heads_again(&self, until: Timestamp) -> usize {
        let nodes = self.nodes();
        let table_keys = TableKeys::derive(&self.body.table_secret);
        let overlay_keys = OverlayKeys::derive(&self.body.table_secret, &self.public_key());
        let heads = [
            (self.body.read_locator.clone(), self.body.read_head_key),
            (table_keys.locator, self.body.table_head_key),
            (self.keys.locator.clone(), *self.head.public_key()),
            (overlay_keys.locator, self.public_key()),
        ];
        let mut done = 0;
        for (locator, key) in heads {
            // Whoever wrote it, it is the newest of that key: nodes take no older one.
            let put = match heads::find(nodes, &Wanted::of_key(locator.clone(), key), None).await {
                Ok(found) => heads::write(nodes, &locator, &found.head, until, None).await.map(drop),
                Err(error) => Err(error),
            };
            match put {
                Ok(()) => done += 1,
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => tracing::info!(what = error.what(), why = error.why(), "a head was not put again"),
            }
        }
        done
    }

    /// Shards of a segment of the base table, or of an overlay, by the node that holds them.
    pub(super) fn by_node<'a>(places: impl Iterator<Item = &'a Arc<Place>>) -> BTreeMap<NodeId, BTreeSet<ShardRoot>> {
        let mut shards: BTreeMap<NodeId, BTreeSet<ShardRoot>> = BTreeMap::new();
        for place in places {
            for (root, node) in place.roots.iter().zip(&place.holders) {
                if let Some(node) = node {
                    shards.entry(*node).or_default().insert(*root);
                }
            }
        }
        shards
    }
}

fn kept(receipt: &Signed<Receipt>, authority: Authority) -> PutShard {
    PutShard { until: receipt.claimed().until, receipt: KeptReceipt::of_put(receipt), authority }
}

/// The newest table: where its own head says, and where the owner said last when there is none.
async fn newest_table(client: &Client, body: &StewardBody) -> Result<(TableLocation, Option<Head>), ClientError> {
    let seen = client.state().seen_heads();
    let wanted = Wanted::of_table(&body.table_secret, body.table_head_key);
    match heads::find(client.nodes_known(), &wanted, Some(&seen)).await {
        Ok(found) => Ok((found.body.location, Some(found.head))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok((body.table.clone(), None)),
        Err(error) => Err(error),
    }
}
