//! A client's connections to nodes: one for each node, dialled once however many ask, closed when idle.
//!
//! Decides when a connection is made, shared, evicted and closed, and when it may be used before its handshake is over. Never
//! repeats a request and never decides whether a failed node is tried again.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use dolmen_proto::ids::NodeId;
use dolmen_proto::limits::NODE_ADDRESSES_MAX;
use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{FuturesUnordered, StreamExt};
use quinn::{Connecting, ConnectionError, Endpoint, ZeroRttAccepted};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use crate::datagram::{PathClass, PathReport, canonical};
use crate::endpoint::{self, SocketCounters, SocketReport};
use crate::identity::Identity;
use crate::options::DataPlaneOptions;
use crate::resumption::SessionCache;
use crate::stream::code;
use crate::tls::{SERVER_NAME, Tls, TlsError, peer_of};
use crate::windows::{Admission, CallGuard, ConnectionWindows, WindowBudget};

/// QUIC's error numbers that carry a TLS alert.
const TLS_ALERTS: RangeInclusive<u64> = 0x100..=0x1ff;

/// How long the last good-byes of a client may take: to be sent, one datagram a connection, not to be heard. quinn calls an endpoint
/// idle three probe timeouts later, which is a second and more where a dial was under way.
const FAREWELL_DEADLINE: Duration = Duration::from_millis(250);
const FAREWELL_LOOK: Duration = Duration::from_millis(1);

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
    place: Option<OwnedSemaphorePermit>,
    last_used: Mutex<Instant>,
    /// Told when the last request on this connection ends, or the connection, for those who wait for a place.
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

impl Drop for Pooled {
    fn drop(&mut self) {
        drop(self.place.take());
        self.freed.notify_waiters();
    }
}

pub(crate) type DialResult = Result<Arc<Pooled>, DialError>;
pub(crate) type SharedDial = Shared<BoxFuture<'static, DialResult>>;

enum Slot {
    Dialling(Dialling),
    Ready(Arc<Pooled>),
}

/// A dial under way.
#[derive(Clone)]
pub(crate) struct Dialling {
    /// Tells this dial from a later one of the same node.
    number: u64,
    pub(crate) dial: SharedDial,
    /// Takes requests that may come early; nothing is known of it until the dial ends, and it may end with another connection.
    pub(crate) early: Option<Arc<Pooled>>,
}

/// What there is of a connection to a node.
pub(crate) enum Found {
    Ready(Arc<Pooled>),
    Dialling(Dialling),
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
    sessions: SessionCache,
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
            sessions: SessionCache::new(Tls::new(identity)?),
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

    /// The connection to a node: the one there is, or one dial that all who ask meanwhile share.
    pub(crate) fn find(self: &Arc<Self>, node: NodeId, addresses: &[SocketAddr]) -> Result<Found, DialError> {
        let mut slots = self.lock();
        if slots.closed {
            return Err(DialError::ShutDown);
        }
        match slots.by_node.get(&node) {
            Some(Slot::Ready(pooled)) if !pooled.is_broken() => Ok(Found::Ready(Arc::clone(pooled))),
            Some(Slot::Dialling(dialling)) => Ok(Found::Dialling(dialling.clone())),
            Some(Slot::Ready(_)) | None => Ok(Found::Dialling(self.start_dial(&mut slots, node, addresses))),
        }
    }

    /// What every open connection's path is like.
    pub(crate) fn reports(&self) -> Vec<(NodeId, PathReport)> {
        let ready = |(node, slot): (&NodeId, &Slot)| match slot {
            Slot::Ready(pooled) => Some((*node, PathReport::of(pooled.connection()))),
            Slot::Dialling(_) => None,
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
        let sockets: Vec<_> = self.sockets.iter().filter_map(OnceLock::get).collect();
        let farewells = sockets.iter().map(|socket| {
            let (open, sent) = (socket.endpoint.open_connections() as u64, socket.counters.read().sends);
            socket.endpoint.close(code::CANCELLED, b"");
            (socket, sent + open)
        });
        let farewells: Vec<_> = farewells.collect();
        let said = async {
            for (socket, sent) in farewells {
                while socket.counters.read().sends < sent && socket.endpoint.open_connections() > 0 {
                    sleep(FAREWELL_LOOK).await;
                }
            }
        };
        // The good-bye is a courtesy: a peer that misses it finds out by itself.
        let _ = timeout(FAREWELL_DEADLINE, said).await;
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The dial runs as a task of its own, so that it goes on when the first who asked for it gives up.
    fn start_dial(self: &Arc<Self>, slots: &mut Slots, node: NodeId, addresses: &[SocketAddr]) -> Dialling {
        slots.dials += 1;
        let number = slots.dials;
        let addresses = interleave_families(addresses);
        let early = self.start_early(node, &addresses);
        let usable = early.as_ref().map(|early| Arc::clone(&early.pooled));
        let pool = Arc::clone(self);
        let task = tokio::spawn(async move {
            let result = pool.dial(node, number, addresses, early).await;
            pool.settle(node, number, &result);
            result
        });
        let dial = async move { task.await.unwrap_or(Err(DialError::ShutDown)) }.boxed().shared();
        let dialling = Dialling { number, dial, early: usable };
        slots.by_node.insert(node, Slot::Dialling(dialling.clone()));
        dialling
    }

    /// A connection that takes requests at once, where the node was connected before and there is room without waiting.
    fn start_early(&self, node: NodeId, addresses: &[SocketAddr]) -> Option<Early> {
        let address = self.sessions.resumable(node, addresses)?;
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let admission = self.budget.admit()?;
        // A ticket that has become too old is no loss: the dial goes on without it.
        let (connection, accepted) = self.connect(node, address).ok()?.into_0rtt().ok()?;
        Some(Early { address, pooled: self.pooled(connection, place, admission), accepted })
    }

    fn settle(&self, node: NodeId, number: u64, result: &DialResult) {
        let mut slots = self.lock();
        let current = matches!(slots.by_node.get(&node), Some(Slot::Dialling(known)) if known.number == number);
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

    fn forget_early(&self, node: NodeId, number: u64) {
        if let Some(Slot::Dialling(dialling)) = self.lock().by_node.get_mut(&node)
            && dialling.number == number
        {
            dialling.early = None;
        }
    }

    async fn dial(
        self: &Arc<Self>,
        node: NodeId,
        number: u64,
        addresses: Vec<SocketAddr>,
        early: Option<Early>,
    ) -> DialResult {
        if addresses.is_empty() {
            return Err(DialError::NoAddress);
        }
        let limit = self.options.dial_timeout;
        let race = |early| {
            timeout(limit, self.race(node, early, &addresses)).map(|won| won.unwrap_or(Err(DialError::TimedOut(limit))))
        };
        if let Some(early) = early {
            let pooled = Arc::clone(&early.pooled);
            let won = race(Some(early)).await;
            if let Ok(connection) = &won
                && connection.stable_id() == pooled.connection().stable_id()
            {
                tracing::debug!(node = %node.short(), address = %connection.remote_address(), "connected again");
                return Ok(pooled);
            }
            // Whoever asked something through it asks again, unless the answer is on its way already.
            if pooled.connection().peer_identity().is_none() {
                pooled.connection().close(code::CANCELLED, b"");
            }
            // Its place and its memory are wanted for the other one.
            drop(pooled);
            self.forget_early(node, number);
            let connection = won?;
            let (place, admission) = self.room().await?;
            return Ok(self.pooled(connection, place, admission));
        }
        let (place, admission) = self.room().await?;
        let connection = race(None).await?;
        tracing::debug!(node = %node.short(), address = %connection.remote_address(), "connected");
        Ok(self.pooled(connection, place, admission))
    }

    /// A place among the connections and memory for one more.
    async fn room(&self) -> Result<(OwnedSemaphorePermit, Admission), DialError> {
        let place = self.wait_for(|| Arc::clone(&self.places).try_acquire_owned().ok()).await;
        let place = place.ok_or(DialError::PoolFull(self.options.connections_max))?;
        let admission = self.wait_for(|| self.budget.admit()).await.ok_or(DialError::BudgetSpent)?;
        Ok((place, admission))
    }

    fn pooled(&self, connection: quinn::Connection, place: OwnedSemaphorePermit, admission: Admission) -> Arc<Pooled> {
        Arc::new(Pooled {
            windows: Arc::new(ConnectionWindows::new(connection, admission)),
            place: Some(place),
            last_used: Mutex::new(Instant::now()),
            freed: Arc::clone(&self.freed),
        })
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

    /// Tries the addresses in turn, the one that an early connection was begun to first, each a little after the one before or
    /// at once when that failed; the first that answers with the right key wins.
    async fn race(
        &self,
        node: NodeId,
        early: Option<Early>,
        addresses: &[SocketAddr],
    ) -> Result<quinn::Connection, DialError> {
        let begun = early.as_ref().map(|early| early.address);
        let waiting: Vec<SocketAddr> = addresses.iter().copied().filter(|address| Some(*address) != begun).collect();
        let mut waiting = waiting.into_iter();
        let mut running = FuturesUnordered::new();
        if let Some(early) = early {
            running.push(async move { (early.address, self.outcome(node, early).await) }.boxed());
        }
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
                    Err(AttemptError::Tls(error)) => return Err(DialError::Tls(error)),
                },
                () = sleep(next_after), if waiting.len() > 0 => {
                    if let Some(address) = waiting.next() {
                        running.push(async move { (address, self.attempt(node, address).await) }.boxed());
                    }
                }
                else => return Err(wrong_key.unwrap_or(DialError::Failed(failures))),
            }
        }
    }

    /// What became of an early connection, once the node has answered.
    async fn outcome(&self, node: NodeId, early: Early) -> Result<quinn::Connection, AttemptError> {
        let Early { address, pooled, accepted } = early;
        let connection = pooled.connection();
        if accepted.await {
            return check_peer(connection.clone(), node);
        }
        if let Some(error) = connection.close_reason() {
            return Err(AttemptError::of(error));
        }
        // The node does not know the ticket, and the handshake went on without it. Streams of this connection would get the numbers of
        // those that were refused, whose ends in quinn take away what wakes the new ones: another connection is worth a round trip.
        tracing::debug!(node = %node.short(), "did not remember this client");
        connection.close(code::CANCELLED, b"");
        self.attempt(node, address).await
    }

    async fn attempt(&self, node: NodeId, address: SocketAddr) -> Result<quinn::Connection, AttemptError> {
        let connection = self.connect(node, address)?.await.map_err(AttemptError::of)?;
        check_peer(connection, node)
    }

    fn connect(&self, node: NodeId, address: SocketAddr) -> Result<Connecting, AttemptError> {
        let failed = |error: &dyn std::error::Error| AttemptError::Failed(error.to_string());
        let endpoint = self.endpoint(address).map_err(|error| failed(&error))?;
        let session = self.sessions.with(node, address).map_err(|error| AttemptError::Tls(Arc::new(error)))?;
        let mut config = session.client_config();
        config.transport_config(PathClass::of(address).transport(&self.options, quinn::Side::Client));
        endpoint.connect_with(config, address, SERVER_NAME).map_err(|error| failed(&error))
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

/// A connection that was begun with a ticket.
struct Early {
    address: SocketAddr,
    pooled: Arc<Pooled>,
    accepted: ZeroRttAccepted,
}

/// The verifier has seen to it already, in this handshake or in the one that is resumed; a slip there must not pass unseen.
fn check_peer(connection: quinn::Connection, node: NodeId) -> Result<quinn::Connection, AttemptError> {
    if peer_of(connection.peer_identity()) != Some(node) {
        connection.close(code::MISBEHAVED, b"");
        return Err(AttemptError::WrongKey("the certificate names another node".into()));
    }
    Ok(connection)
}

enum AttemptError {
    WrongKey(String),
    Failed(String),
    Tls(Arc<TlsError>),
}

impl AttemptError {
    fn of(error: ConnectionError) -> Self {
        match error {
            // Raised by our own TLS; the peer's refusal of us comes as a closed connection.
            ConnectionError::TransportError(error) if TLS_ALERTS.contains(&u64::from(error.code)) => {
                Self::WrongKey(error.to_string())
            }
            error => Self::Failed(error.to_string()),
        }
    }
}

impl Slots {
    /// Takes the connection that was not used for longest out of the pool, if any is idle.
    fn evict_idle(&mut self) -> Option<Arc<Pooled>> {
        let idle = self.by_node.iter().filter_map(|(node, slot)| match slot {
            Slot::Ready(pooled) => pooled.idle_since().map(|since| (since, *node)),
            Slot::Dialling(_) => None,
        });
        let (_, node) = idle.min()?;
        match self.by_node.remove(&node) {
            Some(Slot::Ready(pooled)) => Some(pooled),
            Some(Slot::Dialling(_)) | None => None,
        }
    }

    /// Takes out what is broken or was idle since before `limit`.
    fn evict_old(&mut self, limit: Option<Instant>) -> Vec<Arc<Pooled>> {
        let is_old = |slot: &Slot| match slot {
            Slot::Ready(pooled) => {
                pooled.is_broken() || pooled.idle_since().is_some_and(|since| limit.is_some_and(|limit| since <= limit))
            }
            Slot::Dialling(_) => false,
        };
        let old: Vec<_> = self.by_node.iter().filter(|(_, slot)| is_old(slot)).map(|(node, _)| *node).collect();
        let taken = old.iter().filter_map(|node| self.by_node.remove(node));
        let pooled = taken.filter_map(|slot| match slot {
            Slot::Ready(pooled) => Some(pooled),
            Slot::Dialling(_) => None,
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
