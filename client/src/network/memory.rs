//! A network in memory for tests, with nodes that are honest, dead, slow, lying, full or out of time.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use dolmen_net::NodeAddress;
use dolmen_proto::attempt::Fault;
use dolmen_proto::audit::{AuditClass, HeldShards, SetShard, show};
use dolmen_proto::head::{Head, Verdict, accept};
use dolmen_proto::ids::{AccountId, NodeId, Point, ShardRoot, Timestamp};
use dolmen_proto::placement::{kad_distance, lookup_key};
use dolmen_proto::root::{RootHasher, SliceError, encode_slice, root_of};
use dolmen_proto::wire::{
    DescribeReply, ErrorCode, GetReply, NodeRecord, ProveReply, ProveRequest, PutHeadReply, Receipt, Refusal,
    RenewReceipt, RenewReply, Reply, Request, ShardStatus, Signed, Slot, WireError,
};
use ed25519_dalek::SigningKey;
use futures::future::{BoxFuture, FutureExt};

use super::pretend::{description, record};
use super::{Answer, Body, CallFault, Network};

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    Honest,
    /// Never answers.
    Dead,
    /// Dials to it do not end.
    Unreached,
    /// Answers after so many milliseconds.
    Slow(u64),
    /// Flips a bit of whatever it is asked for, proofs included.
    Lying,
    /// Takes shards, and has none of them when asked.
    Forgetful,
    /// Takes nothing new.
    Full,
    /// Refuses every head the first time that it is put.
    Hesitant,
    /// Says that it took a head and did not.
    Careless,
    /// Signs receipts for something else.
    FalseReceipts,
    /// Its clock is a day ahead.
    Fast,
    /// Serves, and says that it goes away.
    Leaving,
    /// Grants slots and answers no reveal.
    Silent,
    /// Grants no slots.
    Unwilling,
    /// Makes no lease longer.
    Unrenewing,
}

struct Lease {
    account: AccountId,
    renew_key: [u8; 32],
    delete_key: [u8; 32],
    until: Timestamp,
}

struct Node {
    key: SigningKey,
    manner: Manner,
    shards: HashMap<ShardRoot, (Bytes, Vec<Lease>)>,
    heads: BTreeMap<(Point, [u8; 32]), Bytes>,
    /// Heads that were put while it was hesitant.
    refused_heads: BTreeSet<(Point, Bytes)>,
    /// Shards that it was shown receipts of others for.
    moved: BTreeSet<ShardRoot>,
}

/// One call for a range of a shard, answered or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Got {
    pub(crate) node: NodeId,
    pub(crate) root: ShardRoot,
    pub(crate) count_bytes: u64,
    pub(crate) proof: bool,
}

/// What happens once, just before a node is given a head.
type BeforeHead = Box<dyn FnOnce(&Memory) + Send>;

/// The network; times are the system's.
pub(crate) struct Memory {
    nodes: Mutex<BTreeMap<NodeId, Node>>,
    /// Shards taken, repeated ones included.
    pub(crate) puts: AtomicU64,
    /// Shards that nodes were asked about.
    pub(crate) stats: AtomicU64,
    /// Payload bytes of gets.
    pub(crate) got_bytes: AtomicU64,
    gets: Mutex<Vec<Got>>,
    /// Nodes that a way was sought to.
    sought: Mutex<Vec<NodeId>>,
    pub(crate) changed: tokio::sync::watch::Sender<u64>,
    /// How far its clock, and that of its clients, is ahead of this machine's.
    ahead: Mutex<Duration>,
    before_head: Mutex<Option<BeforeHead>>,
    /// So many calls are answered yet, and who waits for the end of that.
    cut: Mutex<Option<(u32, Arc<tokio::sync::Notify>)>>,
}

impl Memory {
    pub(crate) fn new(count: u8) -> Arc<Self> {
        let nodes = (0..count).map(new_node);
        Arc::new(Self {
            nodes: Mutex::new(nodes.collect()),
            puts: AtomicU64::new(0),
            stats: AtomicU64::new(0),
            got_bytes: AtomicU64::new(0),
            gets: Mutex::default(),
            sought: Mutex::default(),
            changed: tokio::sync::watch::Sender::new(0),
            ahead: Mutex::default(),
            before_head: Mutex::default(),
            cut: Mutex::default(),
        })
    }

    /// So many more nodes come.
    pub(crate) fn join(&self, count: u8) {
        let mut nodes = self.nodes();
        let present = u8::try_from(nodes.len()).unwrap();
        nodes.extend((present..present + count).map(new_node));
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<NodeId, Node>> {
        self.nodes.lock().unwrap()
    }

    /// What nodes were asked for since this was asked last.
    pub(crate) fn take_gets(&self) -> Vec<Got> {
        std::mem::take(&mut self.gets.lock().unwrap())
    }

    pub(crate) fn behave_one(&self, node: NodeId, manner: Manner) {
        self.nodes().get_mut(&node).unwrap().manner = manner;
    }

    pub(crate) fn take_sought(&self) -> Vec<NodeId> {
        std::mem::take(&mut self.sought.lock().unwrap())
    }

    /// Makes the first so many nodes behave like this.
    pub(crate) fn behave(&self, count: usize, manner: Manner) {
        for node in self.nodes().values_mut().take(count) {
            node.manner = manner;
        }
    }

    /// Makes every node behave like this.
    pub(crate) fn all_behave(&self, manner: Manner) {
        self.behave(usize::MAX, manner);
    }

    /// What lies at a point: every node that has heads there, with them.
    pub(crate) fn heads_at(&self, point: Point) -> BTreeMap<NodeId, Vec<Bytes>> {
        let at = |node: &Node| {
            node.heads.iter().filter(|((there, _), _)| *there == point).map(|(_, head)| head.clone()).collect()
        };
        self.nodes()
            .iter()
            .map(|(id, node)| (*id, at(node)))
            .filter(|(_, heads): &(_, Vec<_>)| !heads.is_empty())
            .collect()
    }

    /// Makes these nodes behave like this.
    pub(crate) fn these_behave(&self, ids: impl IntoIterator<Item = NodeId>, manner: Manner) {
        let mut nodes = self.nodes();
        for id in ids {
            nodes.get_mut(&id).unwrap().manner = manner;
        }
    }

    /// Puts a head at a point of a node, whatever the node has there and however it behaves.
    pub(crate) fn plant(&self, id: NodeId, point: Point, head: &Head) {
        self.nodes().get_mut(&id).unwrap().heads.insert((point, *head.public_key()), head.bytes().clone());
    }

    /// All nodes.
    pub(crate) fn ids(&self) -> Vec<NodeId> {
        self.nodes().keys().copied().collect()
    }

    /// Gives a node a shard that nobody put.
    pub(crate) fn plant_shard(&self, id: NodeId, bytes: Bytes) -> ShardRoot {
        let root = root_of(&bytes);
        let lease = Lease {
            account: AccountId::new([0; 32]),
            renew_key: [0; 32],
            delete_key: [0; 32],
            until: self.now().after(Duration::from_secs(86_400)),
        };
        self.nodes().get_mut(&id).unwrap().shards.insert(root, (bytes, vec![lease]));
        root
    }

    /// The bytes of a shard that some node has.
    pub(crate) fn shard(&self, root: ShardRoot) -> Bytes {
        self.nodes().values().find_map(|node| node.shards.get(&root)).unwrap().0.clone()
    }

    /// Takes a shard from all nodes.
    pub(crate) fn forget_shard(&self, root: ShardRoot) {
        self.nodes().values_mut().for_each(|node| drop(node.shards.remove(&root)));
    }

    /// What a node that goes was told to be elsewhere.
    pub(crate) fn told_moved(&self, id: NodeId) -> BTreeSet<ShardRoot> {
        self.nodes().get(&id).map(|node| node.moved.clone()).unwrap_or_default()
    }

    /// A node loses a shard.
    pub(crate) fn lose(&self, id: NodeId, root: ShardRoot) {
        if let Some(node) = self.nodes().get_mut(&id) {
            node.shards.remove(&root);
        }
    }

    /// All heads that nodes have, to be brought back by [`Memory::set_heads`].
    pub(crate) fn all_heads(&self) -> BTreeMap<NodeId, BTreeMap<(Point, [u8; 32]), Bytes>> {
        self.nodes().iter().map(|(id, node)| (*id, node.heads.clone())).collect()
    }

    /// Gives nodes the heads that they had before, and takes away all others.
    pub(crate) fn set_heads(&self, heads: &BTreeMap<NodeId, BTreeMap<(Point, [u8; 32]), Bytes>>) {
        for (id, node) in self.nodes().iter_mut() {
            node.heads = heads.get(id).cloned().unwrap_or_default();
        }
    }

    /// Has something happen once, just before a node is next given a head: what another writer did meanwhile.
    pub(crate) fn before_next_head(&self, what: impl FnOnce(&Self) + Send + 'static) {
        *self.before_head.lock().unwrap() = Some(Box::new(what));
    }

    /// Does some work until so many calls have been answered: then it is dropped where it stands, as when a machine loses
    /// power. `None`: it was.
    pub(crate) async fn cut_off<T>(&self, calls: u32, work: impl Future<Output = T>) -> Option<T> {
        let cut = Arc::new(tokio::sync::Notify::new());
        *self.cut.lock().unwrap() = Some((calls, Arc::clone(&cut)));
        let done = tokio::select! {
            done = work => Some(done),
            () = cut.notified() => None,
        };
        *self.cut.lock().unwrap() = None;
        done
    }

    /// Whether the next call is not answered any more.
    fn is_cut(&self) -> bool {
        match self.cut.lock().unwrap().as_mut() {
            None => false,
            Some((0, cut)) => {
                cut.notify_one();
                true
            }
            Some((left, _)) => {
                *left -= 1;
                false
            }
        }
    }

    /// Lets time go by.
    pub(crate) fn pass(&self, time: Duration) {
        *self.ahead.lock().unwrap() += time;
    }

    /// Shards held in all.
    pub(crate) fn held(&self) -> usize {
        self.nodes().values().map(|node| node.shards.len()).sum()
    }

    /// The earliest end of any lease.
    pub(crate) fn earliest_end(&self) -> Option<Timestamp> {
        self.nodes()
            .values()
            .flat_map(|node| node.shards.values().flat_map(|(_, leases)| leases).map(|lease| lease.until))
            .min()
    }

    fn answer(&self, id: NodeId, request: &Request, payload: &[Bytes]) -> Result<Answer, CallFault> {
        let unreachable = || CallFault::new(Fault::Unreachable, "nobody there");
        let refused = |error: &WireError| CallFault::new(Fault::from(error), error);
        let mut nodes = self.nodes();
        let node = nodes.get_mut(&id).ok_or_else(unreachable)?;
        let now = match node.manner {
            Manner::Dead => return Err(unreachable()),
            Manner::Fast => self.now().after(Duration::from_secs(86_400)),
            _ => self.now(),
        };
        let mut body = VecDeque::new();
        let reply = match request {
            Request::Describe => Reply::Describe(Box::new(DescribeReply {
                audit_samples_per_hour: 1_000_000,
                leaving_until: (node.manner == Manner::Leaving).then(|| now.after(Duration::from_secs(30 * 86_400))),
                ..description(now)
            })),
            Request::Prove(prove) => {
                let (reply, blocks) = node.prove(id, prove, payload, now).map_err(|error| refused(&error))?;
                body.extend(blocks);
                Reply::Prove(reply)
            }
            Request::Put(put) => {
                let terms = put.verify(&id, now).map_err(|error| refused(&error))?;
                if node.manner == Manner::Full {
                    return Err(refused(&WireError::new(ErrorCode::DiskFull, "full")));
                }
                let bytes = Bytes::from(payload.concat());
                if root_of(&bytes) != terms.root || bytes.len() as u64 != terms.length_bytes {
                    return Err(refused(&WireError::malformed("the shard is not its root's")));
                }
                let lease = Lease {
                    account: terms.account,
                    renew_key: terms.renew_key,
                    delete_key: terms.delete_key,
                    until: terms.until,
                };
                let mut receipt = Receipt::for_terms(terms, now);
                if node.manner == Manner::FalseReceipts {
                    receipt.root = ShardRoot::new([0; 32]);
                }
                let (_, leases) = node.shards.entry(terms.root).or_insert_with(|| (bytes, Vec::new()));
                match leases.iter_mut().find(|other| other.account == lease.account) {
                    Some(other) => *other = Lease { until: lease.until.max(other.until), ..lease },
                    None => leases.push(lease),
                }
                let puts = self.puts.fetch_add(1, Ordering::SeqCst) + 1;
                self.changed.send_replace(puts);
                Reply::Put(Box::new(Signed::sign(receipt, &node.key)))
            }
            Request::Get(get) => {
                let held = node.shards.get(&get.root).filter(|_| node.manner != Manner::Forgetful);
                let (bytes, _) = held.ok_or_else(|| refused(&WireError::new(ErrorCode::NotHeld, "not held")))?;
                let (offset, count) = (get.offset_bytes as usize, get.count_bytes as usize);
                let mut payload = if get.proof {
                    let mut hasher = RootHasher::new();
                    hasher.update(bytes);
                    let (_, outboard) = hasher.finish();
                    let read = |at: u32, to: &mut [u8]| {
                        to.copy_from_slice(&bytes[at as usize..at as usize + to.len()]);
                        Ok::<_, SliceError>(())
                    };
                    encode_slice(bytes.len() as u32, offset as u32, count as u32, &outboard, read).unwrap()
                } else {
                    bytes[offset..offset + count].to_vec()
                };
                if node.manner == Manner::Lying {
                    let middle = payload.len() / 2;
                    payload[middle] ^= 1;
                }
                self.got_bytes.fetch_add(payload.len() as u64, Ordering::SeqCst);
                let reply = GetReply { length_bytes: bytes.len() as u64, payload_bytes: payload.len() as u64 };
                body.extend(payload.chunks(100_000).map(Bytes::copy_from_slice));
                Reply::Get(reply)
            }
            Request::Stat(roots) => Reply::Stat({
                self.stats.fetch_add(roots.len() as u64, Ordering::SeqCst);
                roots
                    .iter()
                    .map(|root| match node.shards.get(root).filter(|_| node.manner != Manner::Forgetful) {
                        Some((bytes, leases)) => Ok(ShardStatus {
                            length_bytes: bytes.len() as u64,
                            until: leases.iter().map(|lease| lease.until).max().unwrap(),
                        }),
                        None => Err(ErrorCode::NotHeld),
                    })
                    .collect()
            }),
            Request::Renew(renew) => {
                let asked = renew.verify(&id, now).map_err(|error| refused(&error))?.clone();
                if node.manner == Manner::Unrenewing {
                    return Err(refused(&WireError::new(ErrorCode::LeaseTooLong, "no longer than it is")));
                }
                let mut codes = Vec::new();
                let mut shards = Vec::new();
                let may = |lease: &Lease| {
                    lease.account == asked.account && (renew.grant.is_some() || lease.renew_key == asked.signer)
                };
                for root in &asked.roots {
                    let held = node.shards.get_mut(root);
                    let found =
                        held.and_then(|(bytes, leases)| Some((bytes, leases.iter_mut().find(|lease| may(lease))?)));
                    match found {
                        Some((bytes, lease)) => {
                            lease.until = lease.until.max(asked.until);
                            shards.push((*root, bytes.len() as u64));
                            codes.push(Ok(()));
                        }
                        _ => codes.push(Err(ErrorCode::NotHeld)),
                    }
                }
                let receipt =
                    RenewReceipt { node: id, account: asked.account, until: asked.until, issued_at: now, shards };
                let receipt = (!receipt.shards.is_empty()).then(|| Signed::sign(receipt, &node.key));
                Reply::Renew(Box::new(RenewReply { codes, receipt }))
            }
            Request::Delete(delete) => {
                let asked = delete.verify(&id, now).map_err(|error| refused(&error))?.clone();
                let codes = asked.roots.iter().map(|root| {
                    let Some((_, leases)) = node.shards.get_mut(root) else { return Ok(()) };
                    let Some(place) = leases.iter().position(|lease| lease.account == asked.account) else {
                        return Ok(());
                    };
                    if leases[place].delete_key != asked.signer {
                        return Err(ErrorCode::Unauthorised);
                    }
                    leases.remove(place);
                    if leases.is_empty() {
                        node.shards.remove(root);
                    }
                    Ok(())
                });
                Reply::Delete(codes.collect())
            }
            Request::PutHead(put) => {
                let mut first_time = || node.refused_heads.insert((put.point, put.head.clone()));
                if node.manner == Manner::Full || (node.manner == Manner::Hesitant && first_time()) {
                    return Err(refused(&WireError::new(ErrorCode::DiskFull, "full")));
                }
                let head = Head::parse(&put.head).unwrap();
                let place = (put.point, *head.public_key());
                let current = node.heads.get(&place).cloned();
                let kept = current.as_ref().map(|bytes| Head::parse(bytes).unwrap());
                let verdict = accept(kept.as_ref(), &head);
                if matches!(verdict, Verdict::Accept { .. }) && node.manner != Manner::Careless {
                    node.heads.insert(place, put.head.clone());
                }
                Reply::PutHead(PutHeadReply { accepted: !matches!(verdict, Verdict::Refuse(_)), current })
            }
            Request::GetHead(get) => {
                let here = node.heads.iter().filter(|((point, _), _)| *point == get.point);
                let mut heads: Vec<Bytes> = here.map(|(_, bytes)| bytes.clone()).collect();
                if node.manner == Manner::Lying {
                    heads = heads.into_iter().map(flipped).collect();
                }
                Reply::GetHead(heads)
            }
            Request::List(_) => return Err(refused(&WireError::new(ErrorCode::Unsupported, "not here"))),
            Request::Moved(receipts) => {
                if node.manner != Manner::Leaving {
                    return Err(refused(&WireError::new(ErrorCode::NotAccepting, "it stays")));
                }
                let mut codes = Vec::new();
                for receipt in receipts {
                    let claim = receipt.verify().map_err(|error| refused(&error))?;
                    assert!(claim.node != id && claim.until > now, "a receipt of another node that is in force");
                    let held: Vec<_> = claim
                        .shards
                        .iter()
                        .map(|(root, _)| *root)
                        .filter(|root| node.shards.contains_key(root))
                        .collect();
                    codes.push(if held.is_empty() { Err(ErrorCode::NotHeld) } else { Ok(()) });
                    node.moved.extend(held);
                }
                Reply::Moved(codes)
            }
        };
        Ok(Answer { reply, body: Body::Ready(body) })
    }
}

fn new_node(number: u8) -> (NodeId, Node) {
    let node = Node {
        key: SigningKey::from_bytes(&[number + 1; 32]),
        manner: Manner::Honest,
        shards: HashMap::new(),
        heads: BTreeMap::new(),
        refused_heads: BTreeSet::new(),
        moved: BTreeSet::new(),
    };
    (NodeId::new(node.key.verifying_key().to_bytes()), node)
}

impl Node {
    fn prove(
        &mut self,
        id: NodeId,
        request: &ProveRequest,
        payload: &[Bytes],
        now: Timestamp,
    ) -> Result<(ProveReply, Option<Bytes>), WireError> {
        match request {
            ProveRequest::Challenge(challenge) => {
                challenge.verify(&id, now)?;
                let slot = Slot {
                    node: id,
                    challenge_hash: challenge.body_hash(),
                    refused: (self.manner == Manner::Unwilling).then_some(Refusal::Budget),
                    class: AuditClass::SolidState,
                    issued_at: now,
                    until: now.after(dolmen_proto::limits::AUDIT_SLOT_LIFE),
                    retry_after_ms: 0,
                };
                Ok((ProveReply::Slot(Signed::sign(slot, &self.key)), None))
            }
            ProveRequest::Reveal(step) => {
                if self.manner == Manner::Silent {
                    return Err(WireError::new(ErrorCode::Busy, "silent"));
                }
                let draw = step.verify(&id, now)?;
                let mut shown = show(&step.challenge.claimed().set, &draw, &payload.concat(), &mut *self)?;
                if self.manner == Manner::Lying
                    && let Some(byte) = shown.payload.first_mut()
                {
                    *byte ^= 1;
                }
                let proof = Signed::sign(shown.statement(step, now), &self.key);
                Ok((ProveReply::Proof(Box::new(proof)), Some(shown.payload.into())))
            }
            ProveRequest::Close(_) => Ok((ProveReply::Noted, None)),
        }
    }
}

impl HeldShards for Node {
    fn outboard(&mut self, shard: &SetShard) -> Result<Vec<u8>, ErrorCode> {
        let held = self.shards.get(&shard.root).filter(|_| self.manner != Manner::Forgetful);
        let (bytes, _) = held.ok_or(ErrorCode::NotHeld)?;
        let mut hasher = RootHasher::new();
        hasher.update(bytes);
        Ok(hasher.finish().1)
    }

    fn read(&mut self, shard: &SetShard, offset: u32, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        let (bytes, _) = self.shards.get(&shard.root).ok_or(ErrorCode::NotHeld)?;
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok(())
    }
}

fn flipped(bytes: Bytes) -> Bytes {
    let mut bytes = bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.into()
}

/// The network as a client's seam wants it.
#[derive(Clone)]
pub(crate) struct Handle(pub(crate) Arc<Memory>);

impl Network for Handle {
    fn sample(&self, _want: usize) -> BoxFuture<'_, Vec<NodeRecord>> {
        let now = self.now();
        let records = self.0.nodes().keys().map(|id| record(*id, now)).collect();
        std::future::ready(records).boxed()
    }

    fn resolve(&self, node: NodeId) -> BoxFuture<'_, Option<NodeRecord>> {
        let record = self.0.nodes().contains_key(&node).then(|| record(node, self.now()));
        std::future::ready(record).boxed()
    }

    fn nearest(&self, point: Point, count: usize) -> BoxFuture<'_, Vec<NodeRecord>> {
        let now = self.now();
        let mut records: Vec<_> = self.0.nodes().keys().map(|id| record(*id, now)).collect();
        let key = lookup_key(&point);
        records.sort_by_key(|record| kad_distance(&key, &record.node));
        records.truncate(count);
        std::future::ready(records).boxed()
    }

    fn call(
        &self,
        node: NodeAddress,
        request: Request,
        payload: Vec<Bytes>,
        sent: Arc<AtomicU64>,
    ) -> BoxFuture<'static, Result<Answer, CallFault>> {
        let network = Arc::clone(&self.0);
        async move {
            if let Request::Get(get) = &request {
                let got = Got { node: node.id, root: get.root, count_bytes: get.count_bytes, proof: get.proof };
                network.gets.lock().unwrap().push(got);
            }
            if network.is_cut() {
                return Err(CallFault::new(Fault::Unreachable, "cut off"));
            }
            if matches!(request, Request::PutHead(_)) {
                let before = network.before_head.lock().unwrap().take();
                if let Some(before) = before {
                    before(&network);
                }
            }
            let manner = network.nodes().get(&node.id).map(|node| node.manner);
            match manner {
                Some(Manner::Slow(milliseconds)) => tokio::time::sleep(Duration::from_millis(milliseconds)).await,
                Some(Manner::Unreached) => return std::future::pending().await,
                _ => {}
            }
            let answer = network.answer(node.id, &request, &payload);
            if answer.is_ok() {
                sent.fetch_add(payload.iter().map(|piece| piece.len() as u64).sum(), Ordering::Relaxed);
            }
            answer
        }
        .boxed()
    }

    fn reach(&self, node: NodeAddress) -> BoxFuture<'static, Result<(), CallFault>> {
        self.0.sought.lock().unwrap().push(node.id);
        match self.0.nodes().get(&node.id).map(|node| node.manner) {
            Some(Manner::Unreached) => std::future::pending().boxed(),
            _ => std::future::ready(Ok(())).boxed(),
        }
    }

    fn now(&self) -> Timestamp {
        self.0.now()
    }
}

impl Memory {
    fn now(&self) -> Timestamp {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        Timestamp::default().after(now).after(*self.ahead.lock().unwrap())
    }
}
