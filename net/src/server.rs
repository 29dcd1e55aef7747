//! The server end of the data plane: who may connect, how many, and what becomes of their streams.
//!
//! Decides limits, each before anything is allocated for what it bounds, and the answers to requests that are none.
//! Never decides what a proper request deserves: that is its [`Handler`]'s.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::NodeId;
use dolmen_proto::wire::{ErrorCode, Reply, Request, WireError, frame};
use futures::future::{BoxFuture, FutureExt, Shared as SharedFuture};
use quinn::{BloomTokenLog, ConnectionError, Endpoint, Incoming, RecvStream, SendStream, ValidationTokenConfig};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::datagram::{PathClass, PathReport, canonical};
use crate::endpoint::{self, SocketCounters, SocketReport};
use crate::identity::Identity;
use crate::options::{DataPlaneOptions, OptionsError};
use crate::shares::{Sharer, Shares};
use crate::stream::{HeaderError, PayloadReader, PayloadWriter, SendHalf, StreamError, code, read_header};
use crate::tls::{Tls, TlsError, peer_of};
use crate::windows::{Admission, CallGuard, ConnectionWindows, WindowBudget};

/// How long a handshake may take.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(10);
/// Packets of one connection that are kept before its handshake is looked at, in bytes.
const INCOMING_BUFFER_BYTES: u64 = 64 * 1024;
/// The same for all of them together.
const INCOMING_BUFFERS_BYTES: u64 = 4 * 1024 * 1024;
/// Memory for the tokens that were shown, so that none is good twice: those of as many clients.
const TOKENS_SEEN_MAX_BYTES: usize = 256 * 1024;
const TOKENS_SEEN_EXPECTED: u64 = 50_000;
/// How long a client's token proves its address: it may have lost the address to another.
const TOKEN_LIFETIME: Duration = Duration::from_hours(1);
/// What a busy server asks its client to wait.
const BUSY_RETRY_AFTER: Duration = Duration::from_secs(1);
/// How long the last good-byes of a server may take.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(1);

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The key that the peer showed; of clients usually one made for the process.
    pub id: NodeId,
    /// Where its packets come from.
    pub address: SocketAddr,
}

/// What answers requests.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request through `replier`. May answer before the payload is read, which then need not be sent.
    ///
    /// Runs as a task of its own; at most [`DataPlaneOptions::streams_max`] run at a time, a quarter of them for one peer
    /// ([`Sharer`]). The task is dropped
    /// when a drain takes too long. A request that is neither answered nor taken over gets `Internal`.
    fn handle(&self, peer: Peer, request: Request, payload: PayloadReader, replier: Replier) -> BoxFuture<'static, ()>;
}

/// Why a server could not be started: this machine's or the caller's fault.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The options contradict each other.
    #[error(transparent)]
    Options(#[from] OptionsError),
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The one answer to a request.
#[derive(Debug)]
pub struct Replier {
    /// Taken by the answer.
    send: Option<SendHalf>,
    /// Whether the server drops what it could not drain.
    ending: Arc<AtomicBool>,
}

impl Replier {
    /// Answers without payload.
    ///
    /// # Errors
    /// [`StreamError`] when the peer is gone or does not want the answer any more; [`StreamError::Misuse`] for a reply
    /// that declares payload or is over the wire's bounds, which the peer gets as `Internal`.
    pub async fn reply(mut self, reply: Reply) -> Result<(), StreamError> {
        let frame = encode(&reply).filter(|_| reply.payload_bytes() == 0);
        let frame = frame.ok_or(StreamError::Misuse("a reply that cannot be sent"))?;
        let Some(mut send) = self.send.take() else { return Err(StreamError::Misuse("answered twice")) };
        send.write(frame, |_| ()).await?;
        send.finish();
        Ok(())
    }

    /// Answers with an error.
    ///
    /// # Errors
    /// As [`Replier::reply`].
    pub async fn refuse(self, error: WireError) -> Result<(), StreamError> {
        self.reply(Reply::Error(error)).await
    }

    /// Answers with as much payload to follow as the reply declares.
    ///
    /// # Errors
    /// As [`Replier::reply`].
    pub async fn reply_with_payload(mut self, reply: Reply) -> Result<PayloadWriter, StreamError> {
        let frame = encode(&reply).ok_or(StreamError::Misuse("a reply that cannot be sent"))?;
        let Some(mut send) = self.send.take() else { return Err(StreamError::Misuse("answered twice")) };
        send.expect(reply.payload_bytes());
        send.write(frame, |_| ()).await?;
        Ok(PayloadWriter::new(send, reply.payload_bytes()))
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        if let Some(send) = &mut self.send {
            let error = if self.ending.load(Ordering::Relaxed) {
                WireError::new(ErrorCode::ShuttingDown, "the node is going down")
            } else {
                WireError::new(ErrorCode::Internal, "the request was not answered")
            };
            if let Some(frame) = encode(&Reply::Error(error)) {
                send.finish_now_with(frame);
            }
        }
    }
}

fn encode(reply: &Reply) -> Option<Bytes> {
    frame::encode_reply(reply).map(Bytes::from).ok()
}

/// Counts since the server was bound, and what there is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ServerReport {
    /// Connections open now.
    pub connections: usize,
    /// Requests under way now.
    pub streams: usize,
    /// Bytes of the memory budget that windows hold now.
    pub window_bytes: u64,
    /// Connections that were accepted.
    pub accepted: u64,
    /// Connections that went on with an earlier session and whose requests were taken from the first packet on.
    pub resumed: u64,
    /// Connections that were refused over a limit.
    pub refused: u64,
    /// Connections that had to prove their address first.
    pub retried: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// Requests that were handed to the handler.
    pub requests: u64,
    /// Requests that were none: malformed, too large, of an unknown call; and those that came during a drain.
    pub requests_refused: u64,
    /// What went through the socket.
    pub socket: SocketReport,
}

#[derive(Debug, Default)]
struct Counters {
    accepted: AtomicU64,
    resumed: AtomicU64,
    refused: AtomicU64,
    retried: AtomicU64,
    handshakes_failed: AtomicU64,
    requests: AtomicU64,
    requests_refused: AtomicU64,
}

/// The listening end of the data plane. Bound first, so that its address is known, then served.
pub struct DataServer {
    endpoint: Endpoint,
    shared: Arc<Shared>,
}

struct Shared {
    options: DataPlaneOptions,
    /// One configuration for each class of path, as the datagram size depends on it.
    configurations: BTreeMap<PathClass, Arc<quinn::ServerConfig>>,
    budget: Arc<WindowBudget>,
    connections: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    streams: Arc<Shares>,
    registry: Mutex<Registry>,
    counters: Counters,
    socket: Arc<SocketCounters>,
    /// Set once requests that did not finish in time are dropped.
    ending: Arc<AtomicBool>,
}

/// Who is connected.
#[derive(Default)]
struct Registry {
    next: u64,
    by_number: BTreeMap<u64, Connected>,
    by_peer: BTreeMap<NodeId, usize>,
    by_network: BTreeMap<IpAddr, usize>,
}

struct Connected {
    windows: Arc<ConnectionWindows>,
    peer: NodeId,
    last_used: Instant,
}

impl DataServer {
    /// Listens on `address` and shows `identity`; nothing is accepted before [`DataServer::serve`]. Within a tokio runtime only.
    ///
    /// # Errors
    /// [`ServerError`].
    pub fn bind(address: SocketAddr, identity: &Identity, options: DataPlaneOptions) -> Result<Self, ServerError> {
        options.validate()?;
        let crypto = Arc::new(Tls::new(identity)?.server()?);
        let mut listening = quinn::ServerConfig::with_crypto(crypto);
        listening
            .max_incoming(options.handshakes_max * 4)
            .incoming_buffer_size(INCOMING_BUFFER_BYTES)
            .incoming_buffer_size_total(INCOMING_BUFFERS_BYTES);
        let mut tokens = ValidationTokenConfig::default();
        let seen = BloomTokenLog::new_expected_items(TOKENS_SEEN_MAX_BYTES, TOKENS_SEEN_EXPECTED);
        tokens.sent(1).lifetime(TOKEN_LIFETIME).log(Arc::new(seen));
        listening.validation_token_config(tokens);
        let configurations = [PathClass::Loopback, PathClass::Private, PathClass::Internet].map(|class| {
            // A copy, as the listening configuration makes the retry tokens that this one must read.
            let mut config = listening.clone();
            config.transport_config(class.transport(&options, quinn::Side::Server));
            // A peer that moves would keep the datagram size of the path that it came on.
            config.migration(class == PathClass::Internet);
            (class, Arc::new(config))
        });
        let (endpoint, socket) = endpoint::open(address, identity, Some(listening), options.socket_buffer_bytes)
            .map_err(|source| ServerError::Bind { address, source })?;
        let shared = Shared {
            budget: WindowBudget::new(&options),
            connections: Arc::new(Semaphore::new(options.connections_max)),
            handshakes: Arc::new(Semaphore::new(options.handshakes_max)),
            streams: Shares::new(options.streams_max),
            options,
            configurations: configurations.into(),
            registry: Mutex::default(),
            counters: Counters::default(),
            socket,
            ending: Arc::new(AtomicBool::new(false)),
        };
        Ok(Self { endpoint, shared: Arc::new(shared) })
    }

    /// The address that is listened on, with the port that the system chose.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Serves until `shutdown` completes, then lets requests under way finish for the drain deadline, refuses new ones,
    /// and closes. To be called once.
    pub async fn serve(&self, handler: Arc<dyn Handler>, shutdown: impl Future<Output = ()> + Send) {
        let (drain, draining) = watch::channel(false);
        let mut connections = JoinSet::new();
        let mut shutdown = Box::pin(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                Some(joined) = connections.join_next() => log_panic(joined),
                () = self.shared.budget.shortage() => self.shared.evict_idle(),
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => {
                        if let Some(arrival) = self.shared.admit(incoming) {
                            let shared = Arc::clone(&self.shared);
                            connections.spawn(shared.serve_connection(arrival, Arc::clone(&handler), draining.clone()));
                        }
                    }
                    None => break,
                },
            }
        }
        self.endpoint.set_server_config(None);
        // Nobody listens when there is no connection.
        let _ = drain.send(true);
        while let Some(joined) = connections.join_next().await {
            log_panic(joined);
        }
        self.endpoint.close(code::SHUTTING_DOWN, b"");
        if timeout(FAREWELL_DEADLINE, self.endpoint.wait_idle()).await.is_err() {
            tracing::debug!("some peers did not hear that the server shut down");
        }
    }

    /// What the server is doing.
    #[must_use]
    pub fn report(&self) -> ServerReport {
        let counters = &self.shared.counters;
        ServerReport {
            connections: self.shared.lock().by_number.len(),
            streams: self.shared.streams.units() - self.shared.streams.free(),
            window_bytes: self.shared.budget.used_bytes(),
            accepted: counters.accepted.load(Ordering::Relaxed),
            resumed: counters.resumed.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            retried: counters.retried.load(Ordering::Relaxed),
            handshakes_failed: counters.handshakes_failed.load(Ordering::Relaxed),
            requests: counters.requests.load(Ordering::Relaxed),
            requests_refused: counters.requests_refused.load(Ordering::Relaxed),
            socket: self.shared.socket.read(),
        }
    }

    /// What the path of every open connection is like.
    #[must_use]
    pub fn path_reports(&self) -> Vec<(NodeId, PathReport)> {
        let registry = self.shared.lock();
        let report = |connected: &Connected| (connected.peer, PathReport::of(connected.windows.connection()));
        registry.by_number.values().map(report).collect()
    }
}

fn log_panic(joined: Result<(), tokio::task::JoinError>) {
    if let Err(error) = joined
        && error.is_panic()
    {
        tracing::error!(%error, "a request's task panicked");
    }
}

/// A connection that passed all limits and whose handshake has not begun.
struct Arrival {
    incoming: Incoming,
    address: SocketAddr,
    /// Whether the peer has shown that it is at this address.
    proven: bool,
    admission: Admission,
    handshake: OwnedSemaphorePermit,
    place: OwnedSemaphorePermit,
    network: NetworkPlace,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every limit that can be kept to before a handshake costs anything.
    fn admit(self: &Arc<Self>, incoming: Incoming) -> Option<Arrival> {
        let address = canonical(incoming.remote_address());
        let under_way = self.options.handshakes_max - self.handshakes.available_permits();
        if under_way >= self.options.handshakes_before_retry && !incoming.remote_address_validated() {
            self.counters.retried.fetch_add(1, Ordering::Relaxed);
            // Cannot fail: a connection whose address is not validated may be asked to retry.
            let _ = incoming.retry();
            return None;
        }
        let granted = (|| {
            let handshake = Arc::clone(&self.handshakes).try_acquire_owned().ok()?;
            let network = NetworkPlace::take(self, address)?;
            let place = Arc::clone(&self.connections).try_acquire_owned().ok();
            let Some(place) = place else {
                self.evict_idle();
                return None;
            };
            Some((handshake, network, place, self.budget.admit()?))
        })();
        let Some((handshake, network, place, admission)) = granted else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            incoming.refuse();
            return None;
        };
        let proven = incoming.remote_address_validated();
        Some(Arrival { incoming, address, proven, admission, handshake, place, network })
    }

    /// Closes the connection that has been without a request for longest.
    fn evict_idle(&self) {
        let registry = self.lock();
        let idle = registry.by_number.values().filter(|connected| connected.windows.calls() == 0);
        if let Some(connected) = idle.min_by_key(|connected| connected.last_used) {
            tracing::debug!(peer = %connected.peer.short(), "closing an idle connection to make room");
            connected.windows.connection().close(code::IDLE, b"");
        }
    }

    async fn serve_connection(
        self: Arc<Self>,
        arrival: Arrival,
        handler: Arc<dyn Handler>,
        mut draining: watch::Receiver<bool>,
    ) {
        let Arrival { incoming, address, proven, admission, handshake, place, network } = arrival;
        let shaken = tokio::select! {
            biased;
            _ = draining.changed() => None,
            shaken = self.shake_hands(incoming, address, proven) => shaken,
        };
        let Some(Arrived { connection, peer, established }) = shaken else { return };
        let mut handshake = Some(handshake);
        let Some(registered) = Registered::enter(&self, connection.clone(), peer.id, admission) else {
            self.counters.refused.fetch_add(1, Ordering::Relaxed);
            connection.close(code::TOO_MANY_CONNECTIONS, b"");
            return;
        };
        self.counters.accepted.fetch_add(1, Ordering::Relaxed);
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = draining.changed() => break,
                Some(joined) = requests.join_next() => log_panic(joined),
                well = established.clone(), if handshake.is_some() => {
                    if !well {
                        requests.shutdown().await;
                        connection.close(code::STALLED, b"");
                        return;
                    }
                    handshake = None;
                }
                stream = connection.accept_bi() => {
                    let Ok((send, receive)) = stream else { break };
                    let call = registered.begin();
                    let send = SendHalf::new(send, Arc::clone(&call), self.options.progress_deadline, code::BROKEN);
                    // quinn calls a stream early by when it is taken, not by when it came: not so once the connection is closed.
                    let established = handshake.is_some().then(|| established.clone());
                    let request = ServerStream { shared: Arc::clone(&self), peer, call, receive, established };
                    requests.spawn(request.run(send, Arc::clone(&handler)));
                }
            }
        }
        // Streams are taken until the end, only to be turned away: the payload of one that nobody takes would fill the
        // window that it shares with the requests under way, and those could not finish.
        let finish = async {
            let mut connected = true;
            loop {
                tokio::select! {
                    biased;
                    joined = requests.join_next() => match joined {
                        Some(joined) => log_panic(joined),
                        None => break,
                    },
                    stream = connection.accept_bi(), if connected => match stream {
                        Ok((send, receive)) => self.turn_away(send, receive, registered.begin()),
                        Err(_) => connected = false,
                    },
                }
            }
        };
        if timeout(self.options.drain_deadline, finish).await.is_err() {
            tracing::info!(peer = %peer.id.short(), "requests did not finish in time and are dropped");
        }
        // Also when the connection broke: then nobody hears the answer.
        if draining.has_changed().is_err() || *draining.borrow() {
            self.ending.store(true, Ordering::Relaxed);
        }
        requests.shutdown().await;
        let path = connection.stats().path;
        tracing::debug!(
            peer = %peer.id.short(),
            round_trip_ms = path.rtt.as_millis(),
            window_bytes = path.cwnd,
            packets_sent = path.sent_packets,
            packets_lost = path.lost_packets,
            congestion_events = path.congestion_events,
            datagram_bytes = path.current_mtu,
            "a connection ended"
        );
        connection.close(code::SHUTTING_DOWN, b"");
        drop((registered, place, network));
    }

    /// Answers a stream that was opened while the server drains, whatever it asks for, without waiting for anything.
    fn turn_away(&self, send: SendStream, mut receive: RecvStream, call: Arc<CallGuard>) {
        self.counters.requests_refused.fetch_add(1, Ordering::Relaxed);
        let mut send = SendHalf::new(send, call, self.options.progress_deadline, code::BROKEN);
        let going_down = WireError::new(ErrorCode::ShuttingDown, "the node is going down");
        if let Some(frame) = encode(&Reply::Error(going_down)) {
            send.finish_now_with(frame);
        }
        // An error means that the peer reset the stream: there is nothing left to stop.
        let _ = receive.stop(code::ANSWERED);
    }

    /// Who came, once that is known: at once for those who resume a session, whose ticket tells it, from an address that is proven to be
    /// theirs; else at the handshake's end.
    async fn shake_hands(self: &Arc<Self>, incoming: Incoming, address: SocketAddr, proven: bool) -> Option<Arrived> {
        let config = self.configurations.get(&PathClass::of(address)).map(Arc::clone)?;
        let failed = |reason: String| {
            self.counters.handshakes_failed.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(%address, reason, "a handshake failed");
        };
        let connecting = incoming.accept_with(config).map_err(|error| failed(error.to_string())).ok()?;
        // Never an error at this end.
        let (connection, established) = connecting.into_0rtt().ok()?;
        let known = peer_of(connection.peer_identity()).filter(|_| proven);
        let established = {
            let (shared, connection) = (Arc::clone(self), connection.clone());
            async move {
                // What it says is for clients only.
                let in_time = timeout(HANDSHAKE_DEADLINE, established).await.is_ok();
                let reason = match connection.close_reason() {
                    None if in_time => return true,
                    None => "it took too long".to_owned(),
                    // It may have been established before; nobody waits for answers in either case.
                    Some(ConnectionError::ApplicationClosed(_) | ConnectionError::LocallyClosed) => return false,
                    Some(reason) => reason.to_string(),
                };
                shared.counters.handshakes_failed.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(%address, reason, "a handshake failed");
                connection.close(code::STALLED, b"");
                false
            }
        };
        let established = established.boxed().shared();
        let id = match known {
            Some(id) => {
                self.counters.resumed.fetch_add(1, Ordering::Relaxed);
                id
            }
            None => {
                if !established.clone().await {
                    return None;
                }
                let id = peer_of(connection.peer_identity());
                if id.is_none() {
                    failed("no node key".into());
                }
                id?
            }
        };
        Some(Arrived { connection, peer: Peer { id, address }, established })
    }
}

/// Whether a handshake ended well; completes when it ends.
type Established = SharedFuture<BoxFuture<'static, bool>>;

/// A connection whose peer is known. Until it is established, nothing tells its first requests from somebody's recording of them.
struct Arrived {
    connection: quinn::Connection,
    peer: Peer,
    established: Established,
}

/// One address's share of the connections; given back when dropped.
struct NetworkPlace {
    shared: Arc<Shared>,
    network: Option<IpAddr>,
}

impl NetworkPlace {
    fn take(shared: &Arc<Shared>, address: SocketAddr) -> Option<Self> {
        let network = network_of(address.ip());
        if let Some(network) = network {
            let mut registry = shared.lock();
            let count = registry.by_network.entry(network).or_default();
            if *count >= shared.options.connections_per_address_max {
                return None;
            }
            *count += 1;
        }
        Some(Self { shared: Arc::clone(shared), network })
    }
}

impl Drop for NetworkPlace {
    fn drop(&mut self) {
        if let Some(network) = self.network {
            count_down(&mut self.shared.lock().by_network, &network);
        }
    }
}

/// What counts as one address: a /64 of IPv6, as that is what one customer gets. `None` for this machine itself.
fn network_of(ip: IpAddr) -> Option<IpAddr> {
    match ip {
        ip if ip.is_loopback() => None,
        IpAddr::V4(ip) => Some(IpAddr::V4(ip)),
        IpAddr::V6(ip) => Some(IpAddr::V6((ip.to_bits() >> 64 << 64).into())),
    }
}

fn count_down<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}

/// A connection's entry in the registry; taken out when dropped.
struct Registered {
    shared: Arc<Shared>,
    windows: Arc<ConnectionWindows>,
    ended: Arc<Notify>,
    number: u64,
    peer: NodeId,
}

impl Registered {
    fn enter(shared: &Arc<Shared>, connection: quinn::Connection, peer: NodeId, admission: Admission) -> Option<Self> {
        let mut registry = shared.lock();
        let count = registry.by_peer.entry(peer).or_default();
        if *count >= shared.options.connections_per_peer_max {
            return None;
        }
        *count += 1;
        let number = registry.next;
        registry.next += 1;
        let windows = Arc::new(ConnectionWindows::new(connection, admission));
        let connected = Connected { windows: Arc::clone(&windows), peer, last_used: Instant::now() };
        registry.by_number.insert(number, connected);
        drop(registry);
        Some(Self { shared: Arc::clone(shared), windows, ended: Arc::default(), number, peer })
    }

    fn begin(&self) -> Arc<CallGuard> {
        if let Some(connected) = self.shared.lock().by_number.get_mut(&self.number) {
            connected.last_used = Instant::now();
        }
        Arc::new(CallGuard::new(Arc::clone(&self.windows), Arc::clone(&self.ended)))
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut registry = self.shared.lock();
        registry.by_number.remove(&self.number);
        count_down(&mut registry.by_peer, &self.peer);
    }
}

/// One request on its stream.
struct ServerStream {
    shared: Arc<Shared>,
    peer: Peer,
    call: Arc<CallGuard>,
    receive: RecvStream,
    /// For a request that came before the handshake was over.
    established: Option<Established>,
}

impl ServerStream {
    /// A place is taken only once the header is whole: until then a stream costs no more than its window.
    async fn run(mut self, send: SendHalf, handler: Arc<dyn Handler>) {
        let options = &self.shared.options;
        let (deadline, patience) = (options.progress_deadline, options.busy_patience);
        let delivered = send.delivered();
        let replier = Replier { send: Some(send), ending: Arc::clone(&self.shared.ending) };
        let mut place = None;
        match self.read_request(deadline).await {
            Ok(request) => match self.shared.streams.take(Sharer::of(&self.peer), 1, patience).await {
                Some(taken) => {
                    place = Some(taken);
                    self.shared.counters.requests.fetch_add(1, Ordering::Relaxed);
                    let length_bytes = request.payload_bytes();
                    let payload = PayloadReader::new(self.receive, self.call, deadline, code::ANSWERED, length_bytes);
                    handler.handle(self.peer, request, payload, replier).await;
                }
                None => {
                    let busy = WireError::new(ErrorCode::Busy, "too many requests are under way");
                    self.refuse(replier, busy.with_retry_after(BUSY_RETRY_AFTER)).await;
                }
            },
            Err(Some(error)) => {
                self.shared.counters.requests_refused.fetch_add(1, Ordering::Relaxed);
                self.refuse(replier, error).await;
            }
            // Nobody is there to be answered.
            Err(None) => drop(replier),
        }
        // Until the peer has it all, a drain must not close the connection.
        let _ = timeout(deadline, delivered).await;
        drop(place);
    }

    async fn refuse(mut self, replier: Replier, error: WireError) {
        tracing::debug!(peer = %self.peer.id.short(), %error, "refused a request");
        // Errors mean that the peer is gone or that the stream ended by itself.
        let _ = replier.refuse(error).await;
        let _ = self.receive.stop(code::ANSWERED);
    }

    /// The request, or what to answer instead; `None` when nobody is there to be answered.
    async fn read_request(&mut self, deadline: Duration) -> Result<Request, Option<WireError>> {
        let header = match timeout(deadline, read_header(&mut self.receive)).await {
            Ok(Ok(header)) => header,
            Ok(Err(HeaderError::TooLarge(error))) => return Err(Some(error)),
            Ok(Err(HeaderError::Truncated)) => return Err(Some(WireError::malformed("the header ended early"))),
            Ok(Err(HeaderError::Stream(_))) => return Err(None),
            Err(_) => return Err(Some(WireError::malformed("the header did not come in time"))),
        };
        let request = frame::parse_request(header).map_err(Some)?;
        // The ticket that it came with is good once, so a recording is refused as a whole. That somebody who can hold packets back makes
        // a client act later than it meant to is left, and is no harm where nothing is changed.
        if let Some(established) = self.established.take()
            && !request.may_come_early()
            && !established.await
        {
            return Err(None);
        }
        Ok(request)
    }
}
