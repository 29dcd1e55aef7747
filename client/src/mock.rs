//! Nodes in this process's memory, for benchmarks of the client alone and for tests of what uses it. Feature `mock`.
//!
//! Decides what nodes in memory answer: what honest ones would to puts and reads. Never decides
//! anything of the client, which is the same as over sockets.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dolmen_net::NodeAddress;
use dolmen_proto::attempt::Fault;
use dolmen_proto::head::{Head, Verdict, accept};
use dolmen_proto::ids::{NodeId, Point, ShardRoot, Timestamp};
use dolmen_proto::placement::{kad_distance, lookup_key};
use dolmen_proto::root::{RootHasher, SliceError, encode_slice};
use dolmen_proto::wire::{
    ErrorCode, GetReply, GetRequest, NodeRecord, PutHeadReply, PutHeadRequest, PutRequest, Receipt, Reply, Request,
    ShardStatus, Signed, WireError,
};
use ed25519_dalek::SigningKey;
use futures::future::{BoxFuture, FutureExt as _};

use crate::client::Client;
use crate::config::ClientConfig;
use crate::error::ClientError;
use crate::network::pretend::{description, record};
use crate::network::{Answer, Body, CallFault, Network};
use crate::progress::Progress;

/// What a payload is handed over in, as a connection would in datagrams of loopback.
const PIECE_BYTES: usize = 64 * 1024;

/// How long calls take beside the work that they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MockDelays {
    /// Before a shard is taken in.
    pub put: Duration,
    /// Before a range is given, for each MiB of it.
    pub get_per_mib: Duration,
}

/// A network of honest nodes in memory, that clients can put to and read from.
///
/// Shards are checked, receipted and given with their proofs, and heads are kept; leases do not end, and nobody renews,
/// deletes or audits. Shards lie in buffers that [`MockNetwork::clear`] keeps for the next ones.
///
/// ```
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let folder = tempfile::tempdir()?;
/// # let (source, state_folder) = (folder.path().join("file"), folder.path().join("state"));
/// use dolmen_client::mock::{MockDelays, MockNetwork};
/// use dolmen_client::{ClientConfig, Progress, PutOptions};
///
/// let network = MockNetwork::new(20, MockDelays::default());
/// let client = network.client(ClientConfig { state_folder, ..Default::default() }, Progress::none())?;
/// std::fs::write(&source, "twenty nodes have this in common")?;
/// let report = client.put_anonymous(&[source], &PutOptions::default()).await?;
/// let file = client.snapshot(&report.link).await?.file(b"file").await?;
/// assert_eq!(&file.read_range(0, 6).await?[..], b"twenty");
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct MockNetwork {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    nodes: Vec<(NodeId, Node)>,
    delays: MockDelays,
    spare: Mutex<Vec<Vec<u8>>>,
}

#[derive(Debug)]
struct Node {
    key: SigningKey,
    shards: Mutex<HashMap<ShardRoot, Arc<Held>>>,
    heads: Mutex<BTreeMap<(Point, [u8; 32]), Bytes>>,
}

#[derive(Debug)]
struct Held {
    bytes: Bytes,
    outboard: Vec<u8>,
    until: Timestamp,
}

fn lock<T>(what: &Mutex<T>) -> MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MockNetwork {
    /// So many nodes, that hold nothing.
    #[must_use]
    pub fn new(nodes: u8, delays: MockDelays) -> Self {
        let node = |number: u8| {
            let key = SigningKey::from_bytes(&[number; 32]);
            (
                NodeId::new(key.verifying_key().to_bytes()),
                Node { key, shards: Mutex::default(), heads: Mutex::default() },
            )
        };
        Self { shared: Arc::new(Shared { nodes: (0..nodes).map(node).collect(), delays, spare: Mutex::default() }) }
    }

    /// A client of this network; its bootstrap addresses are not used.
    ///
    /// # Errors
    /// `Local` when the state folder cannot be opened.
    pub fn client(&self, config: ClientConfig, progress: Progress) -> Result<Client, ClientError> {
        Client::over(Arc::new(self.clone()), config, progress)
    }

    /// Takes all shards from all nodes.
    pub fn clear(&self) {
        let mut spare = lock(&self.shared.spare);
        for (_, node) in &self.shared.nodes {
            for (_, held) in lock(&node.shards).drain() {
                let bytes = Arc::into_inner(held).and_then(|held| held.bytes.try_into_mut().ok());
                spare.extend(bytes.map(Vec::from));
            }
        }
    }

    /// Bytes of all shards on all nodes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let of = |node: &Node| lock(&node.shards).values().map(|held| held.bytes.len() as u64).sum::<u64>();
        self.shared.nodes.iter().map(|(_, node)| of(node)).sum()
    }
}

impl Shared {
    fn node(&self, id: NodeId) -> Result<&Node, CallFault> {
        let found = self.nodes.iter().find(|(known, _)| *known == id);
        found.map(|(_, node)| node).ok_or_else(|| CallFault::new(Fault::Unreachable, "nobody there"))
    }

    fn answer(&self, id: NodeId, request: &Request, payload: &[Bytes]) -> Result<Answer, CallFault> {
        let node = self.node(id)?;
        let refused = |error: &WireError| CallFault::new(Fault::from(error), error);
        let mut body = VecDeque::new();
        let reply = match request {
            Request::Describe => Reply::Describe(Box::new(description(clock()))),
            Request::Put(put) => {
                let receipt = self.put(id, node, put, payload).map_err(|error| refused(&error))?;
                Reply::Put(Box::new(Signed::sign(receipt, &node.key)))
            }
            Request::Get(get) => {
                let reply = node.get(get, &mut body).map_err(|error| refused(&error))?;
                Reply::Get(reply)
            }
            Request::Stat(roots) => {
                let shards = lock(&node.shards);
                let status =
                    |held: &Arc<Held>| ShardStatus { length_bytes: held.bytes.len() as u64, until: held.until };
                Reply::Stat(roots.iter().map(|root| shards.get(root).map(status).ok_or(ErrorCode::NotHeld)).collect())
            }
            Request::PutHead(put) => Reply::PutHead(node.put_head(put).map_err(|error| refused(&error))?),
            Request::GetHead(get) => {
                let heads = lock(&node.heads);
                let here = heads.iter().filter(|((point, _), _)| *point == get.point);
                Reply::GetHead(here.map(|(_, head)| head.clone()).collect())
            }
            _ => return Err(refused(&WireError::new(ErrorCode::Unsupported, "not in memory"))),
        };
        Ok(Answer { reply, body: Body::Ready(body) })
    }

    fn put(&self, id: NodeId, node: &Node, put: &PutRequest, payload: &[Bytes]) -> Result<Receipt, WireError> {
        let now = clock();
        let terms = put.verify(&id, now)?;
        // What comes belongs to the client's memory, and goes back to it.
        let mut bytes = lock(&self.spare).pop().unwrap_or_default();
        bytes.clear();
        let mut hasher = RootHasher::new();
        for piece in payload {
            hasher.update(piece);
            bytes.extend_from_slice(piece);
        }
        let (root, outboard) = hasher.finish();
        if root != terms.root || bytes.len() as u64 != terms.length_bytes {
            return Err(WireError::malformed("the shard is not its root's"));
        }
        let held = Held { bytes: bytes.into(), outboard, until: terms.until };
        lock(&node.shards).insert(root, Arc::new(held));
        Ok(Receipt::for_terms(terms, now))
    }
}

impl Node {
    fn put_head(&self, put: &PutHeadRequest) -> Result<PutHeadReply, WireError> {
        let malformed = |_| WireError::malformed("this is no head");
        let head = Head::parse(&put.head).map_err(malformed)?;
        let place = (put.point, *head.public_key());
        let mut heads = lock(&self.heads);
        let current = heads.get(&place).cloned();
        let kept = current.as_ref().map(|bytes| Head::parse(bytes).map_err(malformed)).transpose()?;
        let verdict = accept(kept.as_ref(), &head);
        if matches!(verdict, Verdict::Accept { .. }) {
            heads.insert(place, put.head.clone());
        }
        Ok(PutHeadReply { accepted: !matches!(verdict, Verdict::Refuse(_)), current })
    }

    fn get(&self, get: &GetRequest, body: &mut VecDeque<Bytes>) -> Result<GetReply, WireError> {
        let held = lock(&self.shards).get(&get.root).map(Arc::clone);
        let held = held.ok_or_else(|| WireError::new(ErrorCode::NotHeld, "not held"))?;
        let outside = || WireError::malformed("the range does not lie in the shard");
        let narrow = |number: u64| u32::try_from(number).map_err(|_| outside());
        let (offset, count) = (narrow(get.offset_bytes)?, narrow(get.count_bytes)?);
        let range = offset as usize..(offset as usize).saturating_add(count as usize);
        if range.end > held.bytes.len() || range.is_empty() {
            return Err(outside());
        }
        let payload = if get.proof {
            let read = |at: u32, to: &mut [u8]| {
                to.copy_from_slice(&held.bytes[at as usize..][..to.len()]);
                Ok::<_, SliceError>(())
            };
            let length = narrow(held.bytes.len() as u64)?;
            encode_slice(length, offset, count, &held.outboard, read).map_err(|_| outside())?.into()
        } else {
            held.bytes.slice(range)
        };
        let starts = (0..payload.len()).step_by(PIECE_BYTES);
        body.extend(starts.map(|start| payload.slice(start..payload.len().min(start + PIECE_BYTES))));
        Ok(GetReply { length_bytes: held.bytes.len() as u64, payload_bytes: payload.len() as u64 })
    }
}

fn clock() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp::from_unix_ms(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

impl Network for MockNetwork {
    fn sample(&self, _want: usize) -> BoxFuture<'_, Vec<NodeRecord>> {
        let records = self.shared.nodes.iter().map(|(id, _)| record(*id, clock())).collect();
        std::future::ready(records).boxed()
    }

    fn resolve(&self, node: NodeId) -> BoxFuture<'_, Option<NodeRecord>> {
        std::future::ready(self.shared.node(node).is_ok().then(|| record(node, clock()))).boxed()
    }

    fn nearest(&self, point: Point, count: usize) -> BoxFuture<'_, Vec<NodeRecord>> {
        let key = lookup_key(&point);
        let mut nearest: Vec<NodeId> = self.shared.nodes.iter().map(|(id, _)| *id).collect();
        nearest.sort_by_key(|id| kad_distance(&key, id));
        std::future::ready(nearest.into_iter().take(count).map(|id| record(id, clock())).collect()).boxed()
    }

    fn call(
        &self,
        node: NodeAddress,
        request: Request,
        payload: Vec<Bytes>,
        sent: Arc<AtomicU64>,
    ) -> BoxFuture<'static, Result<Answer, CallFault>> {
        let shared = Arc::clone(&self.shared);
        async move {
            let delay = match &request {
                Request::Put(_) => shared.delays.put,
                Request::Get(get) => shared.delays.get_per_mib.mul_f64(get.count_bytes as f64 / f64::from(1 << 20)),
                _ => Duration::ZERO,
            };
            if !delay.is_zero() {
                tokio::time::sleep(delay).await;
            }
            let answer = shared.answer(node.id, &request, &payload)?;
            sent.fetch_add(payload.iter().map(|piece| piece.len() as u64).sum(), Ordering::Relaxed);
            Ok(answer)
        }
        .boxed()
    }

    fn now(&self) -> Timestamp {
        clock()
    }
}
