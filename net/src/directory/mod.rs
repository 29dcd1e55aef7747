//! The directory: finding storage nodes by libp2p's Kademlia, on a network of our own.
//!
//! Decides how nodes are found, whose records are believed, and what is remembered of them. Never decides where a
//! shard goes, never carries one, and never knows one: the only thing in the DHT is a node's signed record.
//!
//! One task owns the libp2p swarm (`task`); [`Directory`] is a handle that talks to it through a bounded channel
//! and runs lookups (`sampling`). Lookups return *peer ids*, which are only claims; a node counts once it has
//! itself answered with a record that it signed, over a connection that its key authenticated.
//!
//! ```text
//! Directory --commands--> task: Swarm { kad, identify, ping, record exchange, limits, backoff }
//!     ^                      |
//!     +---- RecordCache <----+----> cache file
//! ```

mod address;
mod backoff;
mod behaviour;
mod buckets;
mod cache;
mod record_protocol;
mod records;
mod sampling;
mod task;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::NodeId;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::cache::RecordCache;
use self::task::{Command, Task};
use crate::{Identity, IdentityError};

pub use self::address::{bootstrap_address, control_address, node_id_of, peer_id_of, socket_address_of};
pub use dolmen_proto::wire::NodeRecord;
pub use libp2p::{self, Multiaddr, PeerId};

/// Commands that wait for the task at a time; senders wait beyond that.
const COMMANDS_MAX: usize = 64;
/// Lookups under way at a time.
const LOOKUPS_MAX: usize = 12;
/// Longest wait for the sockets to be open.
const LISTEN_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for a clean end.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(5);

/// How to take part in the directory.
#[derive(Debug)]
pub struct DirectoryOptions {
    /// The node's key, or a client's throw-away one.
    pub identity: Identity,
    /// Whether to serve others.
    pub mode: DirectoryMode,
    /// Where to start: `/ip4/203.0.113.7/udp/4712/quic-v1`, with or without `/p2p/<peer id>`; `/dns4/...` too.
    /// Without a peer id whoever answers there is taken for the start.
    pub bootstrap: Vec<Multiaddr>,
    /// File in which found nodes are remembered; `None`: in memory only.
    pub cache: Option<PathBuf>,
}

/// Whether to serve others.
#[derive(Debug)]
pub enum DirectoryMode {
    /// A storage node: listens, is listed by others, and keeps records for them.
    Server {
        /// The control plane's socket; port 0 takes any free one.
        listen: SocketAddr,
        /// Addresses under which others reach this node, besides those that it listens on. Others list a node only
        /// under the IP address that its connections come from.
        announce: Vec<Multiaddr>,
        /// The node's own signed record. Empty until there is one: the listening address is known only after
        /// [`Directory::start`]. Send a fresh one, with a higher sequence, well before the old one expires.
        record: watch::Receiver<Bytes>,
    },
    /// Asks and is never listed.
    Client,
}

/// Why the directory did not start: always this machine's fault.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// The key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The control plane's socket cannot be opened.
    #[error("cannot listen on UDP {address} for the control plane: {why}")]
    Listen {
        /// The socket that was asked for.
        address: SocketAddr,
        /// What the operating system said.
        why: String,
    },
    /// libp2p would not be set up.
    #[error("cannot set up the control plane: {0}")]
    Libp2p(String),
}

/// A handle on the directory; clones share one. The directory ends with [`Directory::shutdown`], or when the last
/// handle is dropped.
#[derive(Debug, Clone)]
pub struct Directory {
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// What the handle and the task both see.
#[derive(Debug)]
struct Shared {
    own: NodeId,
    cache: Mutex<RecordCache>,
    /// Counts records taken in, so that a waiting lookup looks again.
    learned: watch::Sender<u64>,
    /// How many peers the routing table lists.
    listed: watch::Sender<usize>,
    listening: watch::Sender<Vec<Multiaddr>>,
    lookups: Semaphore,
    /// The slowest of the latest handshakes, in milliseconds; zero before the first.
    handshake_ms: AtomicU64,
    /// Nodes that could not be found, and until when they are not looked for again.
    absent: Mutex<HashMap<NodeId, tokio::time::Instant>>,
}

impl Shared {
    fn cache(&self) -> MutexGuard<'_, RecordCache> {
        self.cache.lock().expect("nobody panics while holding the cache")
    }

    /// Takes in how long a handshake took; slow ones are forgotten over some tens of faster ones.
    fn note_handshake(&self, took: Duration) {
        let took = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let faded = |slowest: u64| Some(took.max(slowest - slowest / 16));
        // The closure never gives `None`, so this never fails.
        let _updated = self.handshake_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, faded);
    }

    /// The slowest of the latest handshakes; `None` before the first.
    fn slowest_handshake(&self) -> Option<Duration> {
        match self.handshake_ms.load(Ordering::Relaxed) {
            0 => None,
            slowest => Some(Duration::from_millis(slowest)),
        }
    }

    fn absent(&self) -> MutexGuard<'_, HashMap<NodeId, tokio::time::Instant>> {
        self.absent.lock().expect("nobody panics while holding the list")
    }
}

impl Directory {
    /// Starts to take part; a server listens when this returns.
    ///
    /// Bootstrap nodes are dialled in the background and again later: that none of them answers is no error.
    ///
    /// # Errors
    /// [`DirectoryError`]: the key or the socket cannot be used.
    pub async fn start(options: DirectoryOptions) -> Result<Self, DirectoryError> {
        let cache = match options.cache.clone() {
            Some(path) => tokio::task::spawn_blocking(move || cache::load(&path, records::now()))
                .await
                .map_err(|error| DirectoryError::Libp2p(error.to_string()))?,
            None => RecordCache::default(),
        };
        let shared = Arc::new(Shared {
            own: options.identity.node_id(),
            cache: Mutex::new(cache),
            learned: watch::Sender::new(0),
            listed: watch::Sender::new(0),
            listening: watch::Sender::new(Vec::new()),
            lookups: Semaphore::new(LOOKUPS_MAX),
            handshake_ms: AtomicU64::new(0),
            absent: Mutex::default(),
        });
        let listen = match &options.mode {
            DirectoryMode::Server { listen, .. } => Some(*listen),
            DirectoryMode::Client => None,
        };
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let task = Task::new(options, Arc::clone(&shared), receiver, commands.downgrade())?;
        let task = tokio::spawn(task.run());
        let directory = Self { commands, shared, task: Arc::new(Mutex::new(Some(task))) };
        if let Some(address) = listen {
            directory.wait_for_socket(address).await?;
        }
        Ok(directory)
    }

    /// The addresses that a server listens on, without the peer id; empty for clients.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.shared.listening.borrow().clone()
    }

    /// The slowest of the latest handshakes with other nodes; `None` before the first.
    #[must_use]
    pub fn handshake_time(&self) -> Option<Duration> {
        self.shared.slowest_handshake()
    }

    /// The nodes in the routing table, nearest bucket first; empty after the end.
    pub async fn listed_nodes(&self) -> Vec<NodeId> {
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Listed { reply }).await.is_err() {
            return Vec::new();
        }
        answer.await.unwrap_or_default()
    }

    /// Ends connections, writes the cache file and waits for the task to end, at most some seconds. Idempotent.
    pub async fn shutdown(&self) {
        // Whatever happens to the command, the task ends: by it, or because it has ended already.
        let _ended = self.commands.send(Command::Shutdown).await;
        let task = self.task.lock().expect("nobody panics while holding the task").take();
        if let Some(mut task) = task
            && tokio::time::timeout(SHUTDOWN_DEADLINE, &mut task).await.is_err()
        {
            task.abort();
        }
    }

    async fn wait_for_socket(&self, address: SocketAddr) -> Result<(), DirectoryError> {
        let mut listening = self.shared.listening.subscribe();
        let open = listening.wait_for(|addresses| !addresses.is_empty());
        let why = match tokio::time::timeout(LISTEN_DEADLINE, open).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(_)) => "the directory ended".to_owned(),
            Err(_) => "the system gives no address".to_owned(),
        };
        self.shutdown().await;
        Err(DirectoryError::Listen { address, why })
    }
}
