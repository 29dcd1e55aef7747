//! Calls to nodes as the pipelines mean them: a shard put and its receipt checked, a range fetched and verified.
//!
//! Decides what a correct answer is; whatever is not one is the node's fault and nothing of it is used. Never decides
//! which node is asked or what a failure means for the whole: sessions do.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dolmen_net::NodeAddress;
use dolmen_proto::attempt::Fault;
use dolmen_proto::download::{SILENT_FIRST, silent_after};
use dolmen_proto::ids::{AccountId, NodeId, Point, ShardRoot, Timestamp};
use dolmen_proto::keys::{DatasetKeys, account_key, delete_key, renew_key};
use dolmen_proto::limits::{CLOCK_SKEW_MAX, ROOTS_PER_CALL_MAX};
use dolmen_proto::pace::{Pace, Silence};
use dolmen_proto::root::verify_slice;
use dolmen_proto::wire::{
    DeleteBody, DeleteRequest, DescribeReply, GetHeadRequest, GetRequest, LeaseTerms, NodeRecord, PutHeadReply,
    PutHeadRequest, PutRequest, Receipt, RenewBody, RenewReceipt, RenewRequest, Reply, Request, ShardStatus, Signed,
    StewardGrant,
};
use ed25519_dalek::SigningKey;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::OnceCell;
use tokio::time::{Instant, timeout};

use super::experience::Experience;
use super::gate::Gate;
use super::{Answer, CallFault, Network};

/// Bytes of a shard that are hashed at a time: much more than a datagram brings, which BLAKE3 takes in many times as slowly, and
/// little enough to be in the cache still.
const HASH_STEP_BYTES: usize = 64 * 1024;

/// Nodes as this client knows them. Shared by all operations.
#[derive(Clone)]
pub(crate) struct Nodes {
    network: Arc<dyn Network>,
    known: Arc<Mutex<HashMap<NodeId, Known>>>,
    pace: Arc<Mutex<Pace>>,
    gate: Gate,
}

#[derive(Clone, Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// Whether it ever answered anything.
    met: bool,
    /// Whether its clock was found right; asked once.
    clock: Arc<OnceCell<Result<(), CallFault>>>,
    /// That it took longer than others to be reached, if it has not been reached since.
    silence: Option<Silence>,
}

impl std::fmt::Debug for Nodes {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Nodes(..)")
    }
}

impl Nodes {
    pub(crate) fn new(network: Arc<dyn Network>, experience: &Experience) -> Self {
        let asked = Arc::downgrade(&network);
        let paths = move || asked.upgrade().map(|network| network.paths()).unwrap_or_default();
        let silent = |(node, silence)| (node, Known { silence: Some(silence), ..Known::default() });
        let mut pace = Pace::default();
        if let Some(reach) = experience.reach() {
            pace.observe_reached(reach);
        }
        Self {
            network,
            known: Arc::new(Mutex::new(experience.silences().map(silent).collect())),
            pace: Arc::new(Mutex::new(pace)),
            gate: Gate::new(experience.transfers, Arc::new(paths)),
        }
    }

    /// What the next run should know.
    pub(crate) fn experience(&self) -> Experience {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let silences: Vec<_> = known.iter().filter_map(|(node, known)| Some((*node, known.silence?))).collect();
        drop(known);
        let reach = self.pace().usual_reach();
        Experience::of(self.gate.transfers(), reach, silences, self.now())
    }

    /// Where bulk waits for its turn.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// The same nodes, asked by somebody else.
    pub(crate) fn through(&self, network: Arc<dyn Network>) -> Self {
        Self { network, known: Arc::clone(&self.known), pace: Arc::clone(&self.pace), gate: self.gate.clone() }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.network.now()
    }

    /// How long transfers from nodes take, as far as this client has seen.
    pub(crate) fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nodes that are there now.
    pub(crate) async fn sample(&self, want: usize) -> Vec<NodeRecord> {
        let records = self.network.sample(want).await;
        self.learn_records(&records);
        records
    }

    /// Nodes nearest to a point.
    pub(crate) async fn nearest(&self, point: Point, count: usize) -> Vec<NodeRecord> {
        let records = self.network.nearest(point, count).await;
        self.learn_records(&records);
        records
    }

    fn learn_records(&self, records: &[NodeRecord]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        for record in records {
            known.entry(record.node).or_default().addresses.clone_from(&record.data_addresses);
        }
    }

    /// Takes in where a document says that a node is, unless something is known already.
    pub(crate) fn learn(&self, node: NodeId, addresses: &[SocketAddr]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = known.entry(node).or_default();
        if entry.addresses.is_empty() {
            entry.addresses = addresses.to_vec();
        }
    }

    /// Where a node is, as far as is known without asking.
    pub(crate) fn addresses(&self, node: NodeId) -> Vec<SocketAddr> {
        self.known(node).addresses
    }

    fn known(&self, node: NodeId) -> Known {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default().clone()
    }

    /// As [`Nodes::reach`], for a read that is small enough to go out with a connection's first packet: there is nothing to wait for
    /// then. What becomes of the connection is seen to all the same.
    pub(crate) fn reach_to_read(&self, node: NodeId) -> BoxFuture<'static, Result<(), CallFault>> {
        let addresses = self.addresses(node);
        if addresses.is_empty() || !self.network.takes_reads(&NodeAddress { id: node, addresses }) {
            return self.reach(node);
        }
        let mut reaching = self.reach(node);
        if (&mut reaching).now_or_never().is_none() {
            tokio::spawn(reaching);
        }
        std::future::ready(Ok(())).boxed()
    }

    /// Sees to it that there is a connection to a node, and remembers the node as silent while that takes longer than usual.
    /// A node of which no address is known is left to the call to find.
    pub(crate) fn reach(&self, node: NodeId) -> BoxFuture<'static, Result<(), CallFault>> {
        let nodes = self.clone();
        let dial = async move {
            let addresses = nodes.addresses(node);
            if addresses.is_empty() {
                return Ok(());
            }
            let mut reaching = nodes.network.reach(NodeAddress { id: node, addresses: addresses.clone() });
            if let Some(reached) = (&mut reaching).now_or_never() {
                return reached;
            }
            let (started, patience) = (Instant::now(), nodes.silent_after());
            let reached = match timeout(patience, &mut reaching).await {
                Ok(reached) => reached,
                Err(_) => {
                    nodes.set_silent(node, true);
                    reaching.await
                }
            };
            match reached {
                Ok(()) => {
                    nodes.set_silent(node, false);
                    nodes.pace().observe_reached(started.elapsed());
                    Ok(())
                }
                Err(fault) => {
                    nodes.set_silent(node, true);
                    match nodes.network.resolve(node).await {
                        // It may have moved: the call goes to the new address.
                        Some(record) if !record.data_addresses.is_empty() && record.data_addresses != addresses => {
                            nodes.learn_records(std::slice::from_ref(&record));
                            Ok(())
                        }
                        _ => Err(fault),
                    }
                }
            }
        };
        dial.boxed()
    }

    /// How long a node may take to be reached before it counts as silent: by what others took, on the data plane or else when nodes were
    /// looked for.
    pub(crate) fn silent_after(&self) -> Duration {
        let pace = self.pace();
        match pace.usual_reach() {
            Some(_) => pace.silent_after(),
            // The slowest of many says too much where some nodes are slow.
            None => silent_after(self.network.handshake_time()).min(SILENT_FIRST),
        }
    }

    fn set_silent(&self, node: NodeId, silent: bool) {
        let now = self.now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(node).or_default();
        known.silence = silent.then(|| Silence::found(known.silence, now));
    }

    /// Whether a node took longer than others to be reached when that was tried last, not long ago.
    pub(crate) fn is_silent(&self, node: NodeId) -> bool {
        self.known(node).silence.is_some_and(|silence| silence.holds(self.now()))
    }

    fn set_met(&self, node: NodeId) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).entry(node).or_default().met = true;
    }

    /// Those of these nodes that never answered anything.
    pub(crate) fn unmet(&self, nodes: impl IntoIterator<Item = NodeId>) -> BTreeSet<NodeId> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        nodes.into_iter().filter(|node| known.get(node).is_none_or(|known| !known.met)).collect()
    }

    /// One call; where a known address leads nowhere, the directory is asked for a newer one, once.
    pub(super) async fn call(
        &self,
        node: NodeId,
        request: Request,
        payload: Vec<Bytes>,
        sent: Arc<AtomicU64>,
    ) -> Result<Answer, CallFault> {
        let tried = self.addresses(node);
        let mut failure = None;
        if !tried.is_empty() {
            let address = NodeAddress { id: node, addresses: tried.clone() };
            match self.network.call(address, request.clone(), payload.clone(), Arc::clone(&sent)).await {
                Err(fault) if fault.fault == Fault::Unreachable && sent.load(Ordering::Relaxed) == 0 => {
                    failure = Some(fault);
                }
                answer => {
                    if answer.is_ok() {
                        self.set_met(node);
                    }
                    return answer;
                }
            }
        }
        let unknown = || CallFault::new(Fault::Unreachable, format!("node {} is nowhere to be found", node.short()));
        let record = self.network.resolve(node).await;
        match record {
            Some(record) if !record.data_addresses.is_empty() && record.data_addresses != tried => {
                self.learn_records(std::slice::from_ref(&record));
                let address = NodeAddress { id: node, addresses: record.data_addresses };
                self.network.call(address, request, payload, sent).await
            }
            _ => Err(failure.unwrap_or_else(unknown)),
        }
    }

    pub(super) async fn ask(&self, node: NodeId, request: Request) -> Result<Reply, CallFault> {
        Ok(self.call(node, request, Vec::new(), Arc::default()).await?.reply)
    }

    /// What a node says of itself.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn describe(&self, node: NodeId) -> Result<DescribeReply, CallFault> {
        match self.ask(node, Request::Describe).await? {
            Reply::Describe(description) => Ok(*description),
            _ => Err(CallFault::misbehaved(node, "it answered another call")),
        }
    }

    /// Whether a node's clock is near enough to ours to make leases with it; asked once a process.
    async fn check_clock(&self, node: NodeId) -> Result<(), CallFault> {
        let clock = self.known(node).clock;
        let check = || async {
            let there = match self.describe(node).await {
                Ok(description) => description.now,
                // Not remembered: it may be reached later.
                Err(fault) => return Err(fault),
            };
            let here = self.now();
            let apart = there.since(here).max(here.since(there));
            if apart > CLOCK_SKEW_MAX {
                let reason = format!("the clock of node {} is {} s off", node.short(), apart.as_secs());
                return Ok(Err(CallFault::new(Fault::Refused, reason)));
            }
            Ok(Ok(()))
        };
        clock.get_or_try_init(check).await?.clone()
    }

    /// Puts a shard and checks the receipt, which it gives; `until` is then the lease's end, or the end of the grant by which
    /// the account is used, where that is sooner.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn put_shard(
        &self,
        account: &Account,
        node: NodeId,
        root: ShardRoot,
        shard: Bytes,
        until: Timestamp,
        sent: Arc<AtomicU64>,
    ) -> Result<Signed<Receipt>, CallFault> {
        self.check_clock(node).await?;
        let keys = account.at(node);
        let terms = LeaseTerms {
            node,
            root,
            length_bytes: shard.len() as u64,
            account: keys.account,
            delete_key: keys.delete_key,
            renew_key: keys.renew_key,
            until: keys.end(until),
            issued_at: self.now(),
        };
        let lease = Signed::sign(terms.clone(), &keys.lease);
        let request = Request::Put(Box::new(PutRequest { lease, grant: keys.grant.clone() }));
        match self.call(node, request, vec![shard], sent).await?.reply {
            Reply::Put(receipt) => match receipt.verify(&terms, self.now()) {
                Ok(_) => Ok(*receipt),
                Err(error) => Err(CallFault::misbehaved(node, format!("its receipt is wrong: {error}"))),
            },
            _ => Err(CallFault::misbehaved(node, "it answered another call")),
        }
    }

    /// Fetches a whole shard into `buffer`, which is cleared first, and checks it against its root.
    ///
    /// # Errors
    /// [`CallFault`]; the buffer's contents then mean nothing.
    pub(crate) async fn get_shard(
        &self,
        node: NodeId,
        root: ShardRoot,
        shard_bytes: u32,
        buffer: &mut Vec<u8>,
        received: &AtomicU64,
    ) -> Result<(), CallFault> {
        let length_bytes = u64::from(shard_bytes);
        let request = GetRequest { root, length_bytes, offset_bytes: 0, count_bytes: length_bytes, proof: false };
        let mut answer = self.get(node, request).await?;
        buffer.clear();
        buffer.reserve_exact(shard_bytes as usize);
        let mut hasher = blake3::Hasher::new();
        let mut hashed = 0;
        while let Some(bytes) = answer.body.next().await? {
            if buffer.len() + bytes.len() > shard_bytes as usize {
                return Err(CallFault::misbehaved(node, "it sent more than the shard"));
            }
            buffer.extend_from_slice(&bytes);
            received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let whole = buffer.len() / HASH_STEP_BYTES * HASH_STEP_BYTES;
            if whole > hashed {
                hasher.update(&buffer[hashed..whole]);
                hashed = whole;
            }
        }
        hasher.update(&buffer[hashed..]);
        if buffer.len() != shard_bytes as usize || hasher.finalize().as_bytes() != root.as_bytes() {
            return Err(CallFault::misbehaved(node, "the shard that it sent is not the one of that root"));
        }
        Ok(())
    }

    /// Fetches a range of a shard with its proof and gives the verified bytes.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn get_range(
        &self,
        node: NodeId,
        root: ShardRoot,
        shard_bytes: u32,
        offset: u32,
        count: u32,
        received: &AtomicU64,
    ) -> Result<Vec<u8>, CallFault> {
        let request = GetRequest {
            root,
            length_bytes: shard_bytes.into(),
            offset_bytes: offset.into(),
            count_bytes: count.into(),
            proof: true,
        };
        let most = request.reply_payload_bytes();
        let mut answer = self.get(node, request).await?;
        let mut slice = Vec::new();
        while let Some(bytes) = answer.body.next().await? {
            if (slice.len() + bytes.len()) as u64 > most {
                return Err(CallFault::misbehaved(node, "it sent more than the range"));
            }
            slice.extend_from_slice(&bytes);
            received.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        verify_slice(&root, shard_bytes, offset, count, &slice)
            .map_err(|error| CallFault::misbehaved(node, format!("its proof is wrong: {error}")))
    }

    async fn get(&self, node: NodeId, request: GetRequest) -> Result<Answer, CallFault> {
        let answer = self.call(node, Request::Get(request), Vec::new(), Arc::default()).await?;
        match &answer.reply {
            Reply::Get(reply) if reply.length_bytes == request.length_bytes => Ok(answer),
            _ => Err(CallFault::misbehaved(node, "it answered another call")),
        }
    }

    /// Which of these shards a node holds: one answer a root, `None` where it does not; any number of roots.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn stat(&self, node: NodeId, roots: &[ShardRoot]) -> Result<Vec<Option<ShardStatus>>, CallFault> {
        let mut found = Vec::with_capacity(roots.len());
        for batch in roots.chunks(ROOTS_PER_CALL_MAX) {
            match self.ask(node, Request::Stat(batch.to_vec())).await? {
                Reply::Stat(items) if items.len() == batch.len() => found.extend(items.into_iter().map(Result::ok)),
                _ => return Err(CallFault::misbehaved(node, "it answered another call")),
            }
        }
        Ok(found)
    }

    /// Renews the account's leases on these shards; gives for each whether the node did. Any number of roots.
    ///
    /// # Errors
    /// [`CallFault`] when the node answers no call; what it renewed before counts as not renewed.
    pub(crate) async fn renew(
        &self,
        account: &Account,
        node: NodeId,
        roots: &[ShardRoot],
        until: Timestamp,
    ) -> Result<Vec<bool>, CallFault> {
        Ok(self.renew_receipts(account, node, roots, until, ROOTS_PER_CALL_MAX).await?.0)
    }

    /// As [`Nodes::renew`], with at most so many roots a call; gives the receipts too, each for those of one call that were
    /// renewed.
    ///
    /// # Errors
    /// As [`Nodes::renew`].
    pub(crate) async fn renew_receipts(
        &self,
        account: &Account,
        node: NodeId,
        roots: &[ShardRoot],
        until: Timestamp,
        batch_max: usize,
    ) -> Result<(Vec<bool>, Vec<Signed<RenewReceipt>>), CallFault> {
        self.check_clock(node).await?;
        let keys = account.at(node);
        let mut renewed = Vec::with_capacity(roots.len());
        let mut receipts = Vec::new();
        for batch in roots.chunks(batch_max.clamp(1, ROOTS_PER_CALL_MAX)) {
            let body = RenewBody {
                node,
                account: keys.account,
                signer: keys.renew.verifying_key().to_bytes(),
                issued_at: self.now(),
                until: keys.end(until),
                roots: batch.to_vec(),
            };
            let signed = Signed::sign(body.clone(), &keys.renew);
            let request = Request::Renew(Box::new(RenewRequest { body: signed, grant: keys.grant.clone() }));
            let Reply::Renew(reply) = self.ask(node, request).await? else {
                return Err(CallFault::misbehaved(node, "it answered another call"));
            };
            if reply.codes.len() != batch.len() {
                return Err(CallFault::misbehaved(node, "it answered for other shards"));
            }
            let done: Vec<ShardRoot> = reply.renewed(batch);
            if let Some(receipt) = reply.receipt {
                receipt
                    .verify(&body, &done, self.now())
                    .map_err(|error| CallFault::misbehaved(node, format!("its receipt is wrong: {error}")))?;
                receipts.push(receipt);
            } else if !done.is_empty() {
                return Err(CallFault::misbehaved(node, "it signs no receipt"));
            }
            renewed.extend(reply.codes.iter().map(Result::is_ok));
        }
        Ok((renewed, receipts))
    }

    /// Gives up the account's leases on these shards; gives for each whether the node has none any more.
    ///
    /// # Errors
    /// [`CallFault`]; a steward may not delete in an owner's name.
    pub(crate) async fn delete(
        &self,
        account: &Account,
        node: NodeId,
        roots: &[ShardRoot],
    ) -> Result<Vec<bool>, CallFault> {
        let keys = account.at(node);
        let Some(delete) = &keys.delete else {
            return Err(CallFault::new(Fault::Refused, "a grant gives no right to delete"));
        };
        let mut deleted = Vec::with_capacity(roots.len());
        for batch in roots.chunks(ROOTS_PER_CALL_MAX) {
            let body = DeleteBody {
                node,
                account: keys.account,
                signer: keys.delete_key,
                issued_at: self.now(),
                roots: batch.to_vec(),
            };
            let request = Request::Delete(DeleteRequest { body: Signed::sign(body, delete) });
            match self.ask(node, request).await? {
                Reply::Delete(items) if items.len() == batch.len() => {
                    deleted.extend(items.iter().map(Result::is_ok));
                }
                _ => return Err(CallFault::misbehaved(node, "it answered another call")),
            }
        }
        Ok(deleted)
    }

    /// Puts a head at a point.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn put_head(
        &self,
        node: NodeId,
        point: Point,
        head: Bytes,
        until: Timestamp,
    ) -> Result<PutHeadReply, CallFault> {
        match self.ask(node, Request::PutHead(PutHeadRequest { point, head, until })).await? {
            Reply::PutHead(reply) => Ok(reply),
            _ => Err(CallFault::misbehaved(node, "it answered another call")),
        }
    }

    /// The heads by all keys that a node has at a point, as bytes that are not looked at here.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn get_heads(&self, node: NodeId, point: Point) -> Result<Vec<Bytes>, CallFault> {
        match self.ask(node, Request::GetHead(GetHeadRequest { point, key: None })).await? {
            Reply::GetHead(heads) => Ok(heads),
            _ => Err(CallFault::misbehaved(node, "it answered another call")),
        }
    }

    /// How long a node takes to answer the least of calls.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn round_trip(&self, node: NodeId) -> Result<(DescribeReply, Duration), CallFault> {
        self.describe(node).await?;
        let start = Instant::now();
        let description = self.describe(node).await?;
        Ok((description, start.elapsed()))
    }
}

/// Whoever stores, as nodes see him: a dataset's owner, another account at each, or a steward who acts in an owner's name where
/// he has a grant and in his own elsewhere.
pub(crate) struct Account {
    keys: Arc<DatasetKeys>,
    grants: HashMap<NodeId, Granted>,
    at: Mutex<HashMap<NodeId, Arc<NodeKeys>>>,
}

/// What a steward may do in an owner's name at one node.
#[derive(Clone)]
pub(crate) struct Granted {
    pub(crate) grant: Signed<StewardGrant>,
    /// The key that the grant names.
    pub(crate) steward: SigningKey,
    /// The public halves of the owner's keys there.
    pub(crate) delete_key: [u8; 32],
    pub(crate) renew_key: [u8; 32],
}

/// Keys and names at one node.
pub(crate) struct NodeKeys {
    account: AccountId,
    /// Signs terms of leases.
    lease: SigningKey,
    /// Signs renewals.
    renew: SigningKey,
    /// Signs deletes; a steward has none in an owner's name.
    delete: Option<SigningKey>,
    renew_key: [u8; 32],
    delete_key: [u8; 32],
    grant: Option<Signed<StewardGrant>>,
}

impl NodeKeys {
    fn granted(granted: &Granted) -> Self {
        Self {
            account: granted.grant.claimed().account,
            lease: granted.steward.clone(),
            renew: granted.steward.clone(),
            delete: None,
            renew_key: granted.renew_key,
            delete_key: granted.delete_key,
            grant: Some(granted.grant.clone()),
        }
    }

    fn own(keys: &DatasetKeys, node: NodeId) -> Self {
        let (account, renew) = (account_key(&keys.account, node), renew_key(&keys.renew, node));
        let delete = delete_key(&keys.delete, node);
        Self {
            account: AccountId::new(account.verifying_key().to_bytes()),
            lease: account,
            renew_key: renew.verifying_key().to_bytes(),
            renew,
            delete_key: delete.verifying_key().to_bytes(),
            delete: Some(delete),
            grant: None,
        }
    }

    /// The end that a lease can have of which this one is wanted.
    fn end(&self, wanted: Timestamp) -> Timestamp {
        self.grant.as_ref().map_or(wanted, |grant| wanted.min(grant.claimed().until))
    }
}

impl Account {
    /// The owner of a dataset, or somebody in his own name.
    pub(crate) fn new(keys: Arc<DatasetKeys>) -> Self {
        Self::with_grants(keys, HashMap::new())
    }

    /// A steward: in an owner's name where he has a grant, else in his own.
    pub(crate) fn with_grants(keys: Arc<DatasetKeys>, grants: HashMap<NodeId, Granted>) -> Self {
        Self { keys, grants, at: Mutex::default() }
    }

    pub(crate) fn at(&self, node: NodeId) -> Arc<NodeKeys> {
        let mut at = self.at.lock().unwrap_or_else(PoisonError::into_inner);
        let make = || match self.grants.get(&node) {
            Some(granted) => Arc::new(NodeKeys::granted(granted)),
            None => Arc::new(NodeKeys::own(&self.keys, node)),
        };
        Arc::clone(at.entry(node).or_insert_with(make))
    }

    /// The grant at a node, if there is one.
    pub(crate) fn grant(&self, node: NodeId) -> Option<&StewardGrant> {
        self.grants.get(&node).map(|granted| granted.grant.claimed())
    }

    /// How many nodes there are grants for.
    pub(crate) fn granted_nodes(&self) -> usize {
        self.grants.len()
    }
}

impl std::fmt::Debug for Account {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Account(..)")
    }
}
