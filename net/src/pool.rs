//! A client's connections to nodes: one for each node, dialled once however many ask, closed when idle.
//!
//! Decides when a connection is made, shared, evicted and closed. Never repeats a request and never decides whether
//! a failed node is tried again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use dolmen_proto::ids::NodeId;
use dolmen_proto::limits::NODE_ADDRESSES_MAX;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, Endpoint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::datagram::{PathClass, PathReport, canonical};
use crate::endpoint::{self, SocketCounters, SocketReport};
use crate::identity::Identity;
use crate::options::DataPlaneOptions;
use crate::stream::code;
use crate::tls::{SERVER_NAME, Tls, TlsError, peer_of};
use crate::windows::{CallGuard, ConnectionWindows, WindowBudget};

/// QUIC's error numbers that carry a TLS alert.
const TLS_ALERTS: RangeInclusive<u64> = 0x100..=0x1ff;

/// Why no connection came about.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum DialError {
    #[error("no address is known")]
    NoAddress,
    #[error("{}", describe_attempts(.0))]
    Failed(Vec<(SocketAddr, String)>),
    #[error("the dial took longer than {0:?}")]
    TimedOut(Duration),
    #[error("another key answered at {0}: {1}")]
    WrongKey(SocketAddr, String),
    #[error("all {0} connections are in use")]
    PoolFull(usize),
    #[error("the memory budget for windows is spent")]
    BudgetSpent,
    #[error(transparent)]
    Tls(Arc<TlsError>),
    #[error("the client is shut down")]
    ShutDown,
}

fn describe_attempts(attempts: &[(SocketAddr, String)]) -> String {
    let attempts: Vec<_> = attempts.iter().map(|(address, error)| format!("{address}: {error}")).collect();
    attempts.join("; ")
}

/// One connection and its windows. quinn closes it when the pool and the last request let go of it.
#[derive(Debug)]
pub(crate) struct Pooled {
    windows: Arc<ConnectionWindows>,
    _place: OwnedSemaphorePermit,
    last_used: Mutex<Instant>,
    /// Told when the last request on this connection ends, for those who wait for a place.
    freed: Arc<Notify>,
}

impl Pooled {
    /// Takes part in the connection for one request.
    pub(crate) fn begin(self: &Arc<Self>) -> Arc<CallGuard> {
        *self.last_used.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Arc::new(CallGuard::new(Arc::clone(&self.windows), Arc::clone(&self.freed)))
    }

    pub(crate) fn connection(&self) -> &quinn::Connection {
        self.windows.connection()
    }

    fn is_broken(&self) -> bool {
        self.connection().close_reason().is_some()
    }

    fn idle_since(&self) -> Option<Instant> {
        (self.windows.calls() == 0).then(|| *self.last_used.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

type DialResult = Result<Arc<Pooled>, DialError>;
type SharedDial = Shared<BoxFuture<'static, DialResult>>;

enum Slot {
    /// The number tells this dial from a later one of the same node.
    Dialling(u64, SharedDial),
    Ready(Arc<Pooled>),
}

#[derive(Default)]
struct Slots {
    by_node: BTreeMap<NodeId, Slot>,
    dials: u64,
    closed: bool,
}

/// All connections of a client.
pub(crate) struct Pool {
    identity: Identity,
    tls: Tls,
    options: DataPlaneOptions,
    budget: Arc<WindowBudget>,
    sockets: [OnceLock<Socket>; 2],
    opening: Mutex<()>,
    places: Arc<Semaphore>,
    slots: Mutex<Slots>,
    freed: Arc<Notify>,
}

struct Socket {
    endpoint: Endpoint,
    counters: Arc<SocketCounters>,
}

impl Pool {
    pub(crate) fn new(identity: &Identity, options: DataPlaneOptions) -> Result<Arc<Self>, TlsError> {
        let pool = Arc::new(Self {
            identity: identity.clone(),
            tls: Tls::new(identity)?,
            budget: WindowBudget::new(&options),
            places: Arc::new(Semaphore::new(options.connections_max)),
            options,
            sockets: [OnceLock::new(), OnceLock::new()],
            opening: Mutex::new(()),
            slots: Mutex::default(),
            freed: Arc::new(Notify::new()),
        });
        tokio::spawn(keep_house(Arc::downgrade(&pool), Arc::clone(&pool.budget), pool.options.pool_idle));
        Ok(pool)
    }

    pub(crate) fn options(&self) -> &DataPlaneOptions {
        &self.options
    }

    pub(crate) fn window_bytes(&self) -> u64 {
        self.budget.used_bytes()
    }

    /// The connection to a node: the one there is, or the result of one dial that all who ask meanwhile share.
    pub(crate) async fn connection(self: &Arc<Self>, node: NodeId, addresses: &[SocketAddr]) -> DialResult {
        let dial = {
            let mut slots = self.lock();
            if slots.closed {
                return Err(DialError::ShutDown);
            }
            match slots.by_node.get(&node) {
                Some(Slot::Ready(pooled)) if !pooled.is_broken() => return Ok(Arc::clone(pooled)),
                Some(Slot::Dialling(_, dial)) => dial.clone(),
                Some(Slot::Ready(_)) | None => self.start_dial(&mut slots, node, addresses),
            }
        };
        dial.await
    }

    /// What every open connection's path is like.
    pub(crate) fn reports(&self) -> Vec<(NodeId, PathReport)> {
        let ready = |(node, slot): (&NodeId, &Slot)| match slot {
            Slot::Ready(pooled) => Some((*node, PathReport::of(pooled.connection()))),
            Slot::Dialling(..) => None,
        };
        self.lock().by_node.iter().filter_map(ready).collect()
    }

    /// What went through the sockets of both address families.
    pub(crate) fn socket_reports(&self) -> Vec<SocketReport> {
        self.sockets.iter().filter_map(|socket| socket.get().map(|socket| socket.counters.read())).collect()
    }

    /// Closes all connections, tells the peers and waits a moment for that to be sent.
    pub(crate) async fn shut_down(&self) {
        let slots = {
            let mut slots = self.lock();
            slots.closed = true;
            std::mem::take(&mut slots.by_node)
        };
        drop(slots);
        for socket in self.sockets.iter().filter_map(OnceLock::get) {
            socket.endpoint.close(code::CANCELLED, b"");
            // The good-bye is a courtesy: a peer that misses it finds out by itself.
            let _ = timeout(Duration::from_secs(1), socket.endpoint.wait_idle()).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dial runs as a task of its own, so that it goes on when the first who asked for it gives up.
    fn start_dial(self: &Arc<Self>, slots: &mut Slots, node: NodeId, addresses: &[SocketAddr]) -> SharedDial {
        slots.dials += 1;
        let number = slots.dials;
        let addresses = interleave_families(addresses);
        let pool = Arc::clone(self);
        let task = tokio::spawn(async move {
            let result = pool.dial(node, addresses).await;
            pool.settle(node, number, &result);
            result
        });
        let dial = async move { task.await.unwrap_or(Err(DialError::ShutDown)) }.boxed().shared();
        slots.by_node.insert(node, Slot::Dialling(number, dial.clone()));
        dial
    }

    fn settle(&self, node: NodeId, number: u64, result: &DialResult) {
        let mut slots = self.lock();
        let current = matches!(slots.by_node.get(&node), Some(Slot::Dialling(known, _)) if *known == number);
        match result {
            Ok(pooled) if current => {
                slots.by_node.insert(node, Slot::Ready(Arc::clone(pooled)));
            }
            Err(_) if current => {
                slots.by_node.remove(&node);
            }
            // The pool was shut down meanwhile.
            Ok(_) | Err(_) => {}
        }
    }

    async fn dial(self: &Arc<Self>, node: NodeId, addresses: Vec<SocketAddr>) -> DialResult {
        if addresses.is_empty() {
            return Err(DialError::NoAddress);
        }
        let limit = self.options.dial_timeout;
        let place = self.wait_for(|| Arc::clone(&self.places).try_acquire_owned().ok()).await;
        let place = place.ok_or(DialError::PoolFull(self.options.connections_max))?;
        let admission = self.wait_for(|| self.budget.admit()).await.ok_or(DialError::BudgetSpent)?;
        let config = self.tls.client(node).map_err(|error| DialError::Tls(Arc::new(error)))?;
        let connection = timeout(limit, self.race(node, Arc::new(config), &addresses))
            .await
            .map_err(|_| DialError::TimedOut(limit))??;
        tracing::debug!(node = %node.short(), address = %connection.remote_address(), "connected");
        Ok(Arc::new(Pooled {
            windows: Arc::new(ConnectionWindows::new(connection, admission)),
            _place: place,
            last_used: Mutex::new(Instant::now()),
            freed: Arc::clone(&self.freed),
        }))
    }

    /// Waits until `take` gives something, closing idle connections to make it so, for as long as a dial may take.
    async fn wait_for<T>(&self, take: impl Fn() -> Option<T>) -> Option<T> {
        let waiting = async {
            loop {
                let freed = self.freed.notified();
                if let Some(taken) = take() {
                    return taken;
                }
                let evicted = self.lock().evict_idle();
                if evicted.is_none() {
                    freed.await;
                }
            }
        };
        timeout(self.options.dial_timeout, waiting).await.ok()
    }

    /// Tries the addresses in turn, each a little after the one before or at once when that failed; the first that
    /// answers with the right key wins.
    async fn race(
        &self,
        node: NodeId,
        config: Arc<QuicClientConfig>,
        addresses: &[SocketAddr],
    ) -> Result<quinn::Connection, DialError> {
        let mut waiting = addresses.iter().copied();
        let mut running = FuturesUnordered::new();
        let mut failures = Vec::new();
        let mut wrong_key = None;
        loop {
            let next_after = if running.is_empty() { Duration::ZERO } else { self.options.dial_stagger };
            tokio::select! {
                biased;
                Some((address, attempt)) = running.next() => match attempt {
                    Ok(connection) => return Ok(connection),
                    Err(AttemptError::WrongKey(reason)) => wrong_key = Some(DialError::WrongKey(address, reason)),
                    Err(AttemptError::Failed(reason)) => failures.push((address, reason)),
                },
                () = sleep(next_after), if waiting.len() > 0 => {
                    if let Some(address) = waiting.next() {
                        let config = Arc::clone(&config);
                        running.push(async move { (address, self.attempt(node, config, address).await) });
                    }
                }
                else => return Err(wrong_key.unwrap_or(DialError::Failed(failures))),
            }
        }
    }

    async fn attempt(
        &self,
        node: NodeId,
        config: Arc<QuicClientConfig>,
        address: SocketAddr,
    ) -> Result<quinn::Connection, AttemptError> {
        let endpoint = self.endpoint(address).map_err(|error| AttemptError::Failed(error.to_string()))?;
        let mut client = quinn::ClientConfig::new(config);
        client.transport_config(PathClass::of(address).transport(&self.options, quinn::Side::Client));
        let connecting = endpoint
            .connect_with(client, address, SERVER_NAME)
            .map_err(|error| AttemptError::Failed(error.to_string()))?;
        let connection = connecting.await.map_err(|error| match error {
            // Raised by our own TLS; the peer's refusal of us comes as a closed connection.
            ConnectionError::TransportError(error) if TLS_ALERTS.contains(&u64::from(error.code)) => {
                AttemptError::WrongKey(error.to_string())
            }
            error => AttemptError::Failed(error.to_string()),
        })?;
        // The verifier has seen to it already; a slip there must not pass unseen.
        if peer_of(connection.peer_identity()) != Some(node) {
            connection.close(code::MISBEHAVED, b"");
            return Err(AttemptError::WrongKey("the certificate names another node".into()));
        }
        Ok(connection)
    }

    /// The socket of the address's family, opened when first needed.
    fn endpoint(&self, peer: SocketAddr) -> std::io::Result<&Endpoint> {
        let place = &self.sockets[usize::from(peer.is_ipv6())];
        let _opening = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        if place.get().is_none() {
            let address = endpoint::any_address_like(peer);
            let (endpoint, counters) = endpoint::open(address, &self.identity, None, self.options.socket_buffer_bytes)?;
            // Under the lock nobody else can have filled the place.
            let _ = place.set(Socket { endpoint, counters });
        }
        place.get().map(|socket| &socket.endpoint).ok_or_else(|| std::io::Error::other("no socket"))
    }
}

enum AttemptError {
    WrongKey(String),
    Failed(String),
}

impl Slots {
    /// Takes the connection that was not used for longest out of the pool, if any is idle.
    fn evict_idle(&mut self) -> Option<Arc<Pooled>> {
        let idle = self.by_node.iter().filter_map(|(node, slot)| match slot {
            Slot::Ready(pooled) => pooled.idle_since().map(|since| (since, *node)),
            Slot::Dialling(..) => None,
        });
        let (_, node) = idle.min()?;
        match self.by_node.remove(&node) {
            Some(Slot::Ready(pooled)) => Some(pooled),
            Some(Slot::Dialling(..)) | None => None,
        }
    }

    /// Takes out what is broken or was idle since before `limit`.
    fn evict_old(&mut self, limit: Option<Instant>) -> Vec<Arc<Pooled>> {
        let is_old = |slot: &Slot| match slot {
            Slot::Ready(pooled) => {
                pooled.is_broken() || pooled.idle_since().is_some_and(|since| limit.is_some_and(|limit| since <= limit))
            }
            Slot::Dialling(..) => false,
        };
        let old: Vec<_> = self.by_node.iter().filter(|(_, slot)| is_old(slot)).map(|(node, _)| *node).collect();
        let taken = old.iter().filter_map(|node| self.by_node.remove(node));
        let pooled = taken.filter_map(|slot| match slot {
            Slot::Ready(pooled) => Some(pooled),
            Slot::Dialling(..) => None,
        });
        pooled.collect()
    }
}

/// Closes idle connections, sooner when the budget is short. Ends with the pool.
async fn keep_house(pool: Weak<Pool>, budget: Arc<WindowBudget>, pool_idle: Duration) {
    loop {
        let short = tokio::select! {
            () = budget.shortage() => true,
            () = sleep(pool_idle / 4) => false,
        };
        let Some(pool) = pool.upgrade() else { return };
        let evicted = if short {
            pool.lock().evict_idle().into_iter().collect()
        } else {
            pool.lock().evict_old(Instant::now().checked_sub(pool_idle))
        };
        if !evicted.is_empty() {
            tracing::debug!(count = evicted.len(), short, "closed idle connections");
        }
    }
}

/// IPv6 and IPv4 in turn, starting with the family of the first, without repetitions, at most as many as a record names.
fn interleave_families(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let mut seen = Vec::new();
    for address in addresses.iter().map(|address| canonical(*address)) {
        if !seen.contains(&address) && seen.len() < NODE_ADDRESSES_MAX {
            seen.push(address);
        }
    }
    let Some(first) = seen.first().copied() else { return seen };
    let (same, other): (Vec<_>, Vec<_>) = seen.into_iter().partition(|address| address.is_ipv6() == first.is_ipv6());
    let longest = same.len().max(other.len());
    (0..longest).flat_map(|index| [same.get(index), other.get(index)]).flatten().copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_families_take_turns() {
        let parse = |texts: &[&str]| -> Vec<SocketAddr> {
            texts.iter().map(|text| text.parse().expect("an address")).collect()
        };
        let given = parse(&["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1", "[2001:db8::1]:1", "192.0.2.2:1"]);
        let expected = parse(&["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1", "192.0.2.2:1"]);
        assert_eq!(interleave_families(&given), expected);
        assert_eq!(interleave_families(&[]), []);
        let many: Vec<_> = (0..50).map(|port| SocketAddr::from(([192, 0, 2, 1], port))).collect();
        assert_eq!(interleave_families(&many).len(), NODE_ADDRESSES_MAX);
    }
}
