//! A whole node: puts the parts together, starts them in order and takes them down without losing anything.
//!
//! Decides order and nothing else: what the parts do is theirs.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use dolmen_net::directory::{Directory, DirectoryMode, DirectoryOptions, bootstrap_address, libp2p};
use dolmen_net::{DataClient, DataPlaneOptions, DataServer, Identity};
use dolmen_proto::ids::NodeId;
use dolmen_proto::limits;
use dolmen_proto::sign::{self, SignatureKind};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

use crate::announce;
use crate::clock::ClockGuard;
use crate::config::NodeConfig;
use crate::disk::FileDisk;
pub use crate::error::NodeError;
use crate::folders::{self, OpenFolders};
use crate::leaving;
use crate::serve::{DISK_CALLS_MAX, MEMORY_DIVISOR, NodeHandler, wall_clock};
use crate::service::{Service, ServiceOptions};
pub use crate::status::last_status;
use crate::status::{self, NodeStatus, Phase};
use crate::tasks::{Background, Pace};

/// Longest wait for background tasks at the end.
const TASKS_DEADLINE: Duration = Duration::from_secs(5);
/// Longest wait for the store's tables of contents at the end; what is not written is rebuilt at the next start.
const CLOSE_DEADLINE: Duration = Duration::from_secs(30);
/// Threads that run tasks; a node waits for disks and sockets more than it computes.
const WORKER_THREADS_MAX: usize = 4;

/// A running node.
pub struct Node {
    background: Arc<Background<FileDisk>>,
    handler: NodeHandler<FileDisk>,
    tasks: JoinSet<()>,
    serving: JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Node {
    /// Starts a node: it is reachable, listed and serving when this returns. Needs a tokio runtime.
    ///
    /// Where an index has to be rebuilt, the shards that are found are served meanwhile, and peers who ask for more are
    /// told so. [`Node::whole`] says when that is over.
    ///
    /// # Errors
    /// [`NodeError`]; nothing of the node is left running then.
    pub async fn start(config: NodeConfig) -> Result<Self, NodeError> {
        Self::start_paced(config, Arc::new(|_| {})).await
    }

    async fn start_paced(config: NodeConfig, pace: Pace) -> Result<Self, NodeError> {
        let started = (wall_clock(), Instant::now());
        let config = Arc::new(config);
        let identity = Identity::load_or_create(&config.key_file)?;
        check_operator(&config, identity.node_id())?;
        let bootstrap = parse_bootstrap(&config.bootstrap)?;
        let half_of_memory = config.memory.bytes() / MEMORY_DIVISOR;
        let plane = DataPlaneOptions {
            memory_budget_bytes: half_of_memory,
            datagram_max_bytes: config.datagram_bytes,
            ..DataPlaneOptions::default()
        };
        let server = Arc::new(DataServer::bind(config.listen, &identity, plane.clone())?);
        let local = |source| NodeError::System { action: "read the data plane's address", source };
        let data_socket = server.local_address().map_err(local)?;
        let handler = NodeHandler::new(half_of_memory, config.bandwidth.clone());
        let (stop, stopping) = watch::channel(false);
        let serving = serve(Arc::clone(&server), handler.clone(), stopping.clone());
        // Dropped on any error below, this ends what runs so far.
        let (opening, opener) = (Arc::clone(&config), identity.clone());
        let open = tokio::task::spawn_blocking(move || open_service(&opening, &opener)).await;
        let (service, folders) = open.map_err(|error| system("read the disks", error))??;
        let client = DataClient::new(&identity, calling_options())?;
        let (record, published) = watch::channel(Bytes::new());
        let directory = Directory::start(DirectoryOptions {
            identity: identity.clone(),
            mode: DirectoryMode::Server {
                listen: config.control,
                announce: announced_control(&config, data_socket).await,
                record: published,
            },
            bootstrap,
            cache: Some(folders.state_folder.join("directory")),
        })
        .await?;
        let control_socket = listening_socket(&directory).unwrap_or(config.control);
        let addresses = announce::addresses(config.announce.as_ref(), data_socket, control_socket).await;
        let background = Arc::new(Background {
            service: Arc::clone(&service),
            config,
            identity,
            server,
            directory,
            client,
            addresses: watch::Sender::new(addresses.clone()),
            record,
            sequence: Mutex::new(0),
            whole: watch::Sender::new(service.has_books()),
            pace,
            sockets: (data_socket, control_socket),
            state_folder: folders.state_folder,
            absent: folders.absent,
            started,
            leaving_count: Mutex::new(None),
            stop: stopping,
        });
        background.publish_now(&addresses);
        handler.set_service(service);
        let mut tasks = JoinSet::new();
        Arc::clone(&background).spawn(&mut tasks);
        tracing::info!(node = %background.service.node(), data = %data_socket, control = %control_socket, "serving");
        Ok(Self { background, handler, tasks, serving, stop })
    }

    /// Runs until `shutdown` completes, then ends: what is under way is finished, new requests are refused, volumes are
    /// closed so that the next start need not verify them.
    ///
    /// # Errors
    /// The store could not be closed in order; it recovers at the next start.
    pub async fn run_until(self, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
        shutdown.await;
        self.shut_down().await
    }

    /// The node's id.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.background.service.node()
    }

    /// Announced addresses of the data plane.
    #[must_use]
    pub fn data_addresses(&self) -> Vec<SocketAddr> {
        self.background.addresses.borrow().data.clone()
    }

    /// Announced addresses of the directory, with the peer id: what other nodes use as `bootstrap`.
    #[must_use]
    pub fn bootstrap_addresses(&self) -> Vec<String> {
        let control = self.background.addresses.borrow().control.clone();
        control.into_iter().map(|socket| bootstrap_address(socket, self.id()).to_string()).collect()
    }

    /// The node's answers and books.
    #[must_use]
    pub fn service(&self) -> &Arc<Service<FileDisk>> {
        &self.background.service
    }

    /// Returns once no index is being rebuilt any more and every call is answered.
    pub async fn whole(&self) {
        // Its sender is the node's own.
        let _ = self.background.whole.subscribe().wait_for(|whole| *whole).await;
    }

    /// The node at this moment.
    pub async fn status(&self) -> NodeStatus {
        self.background.status(Phase::Serving).await
    }

    async fn shut_down(mut self) -> Result<(), NodeError> {
        tracing::info!("going down");
        self.handler.drain();
        self.write_status(self.background.status(Phase::Draining).await).await;
        self.stop.send_replace(true);
        if let Err(error) = (&mut self.serving).await {
            tracing::error!(%error, "the data plane broke down");
        }
        self.background.directory.shutdown().await;
        self.background.client.shut_down().await;
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if timeout(TASKS_DEADLINE, ended).await.is_err() {
            tracing::warn!("background tasks do not end and are dropped");
        }
        // Also waits until those are gone: they hold the data folders' locks.
        self.tasks.shutdown().await;
        // Taken before the store is closed and knows nothing any more, written after.
        let stopped = self.background.status(Phase::Stopped).await;
        let store = self.background.service.store().clone();
        let closing = tokio::task::spawn_blocking(move || store.close());
        let closed = match timeout(CLOSE_DEADLINE, closing).await {
            Ok(joined) => joined.map_err(|error| system("close the store", error))?.map_err(NodeError::from),
            Err(_) => Err(system("close the store", "a disk does not answer")),
        };
        self.write_status(stopped).await;
        closed
    }

    async fn write_status(&self, status: NodeStatus) {
        let folder = self.background.state_folder.clone();
        let writing = tokio::task::spawn_blocking(move || status::write(&folder, &status));
        match timeout(TASKS_DEADLINE, writing).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the status file cannot be written"),
            Ok(Err(_)) | Err(_) => tracing::warn!("the status file cannot be written: its disk does not answer"),
        }
    }
}

/// Runs a node on a runtime of its own until what `shutdown` returns completes; `ready` is called once it serves. A disk
/// that hangs holds up the end of the process by some seconds at most.
///
/// `shutdown` is called in the runtime before anything is opened, so that a request to stop is heard from then on.
///
/// # Errors
/// As [`Node::start`] and [`Node::run_until`].
pub fn run<S: Future<Output = ()>>(
    config: NodeConfig,
    ready: impl FnOnce(&Node),
    shutdown: impl FnOnce() -> S,
) -> Result<(), NodeError> {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).clamp(1, WORKER_THREADS_MAX))
        .max_blocking_threads(DISK_CALLS_MAX + 32)
        .enable_all()
        .build()
        .map_err(|source| NodeError::System { action: "start threads", source })?;
    let ended = runtime.block_on(async {
        let shutdown = shutdown();
        let node = Node::start(config).await?;
        ready(&node);
        node.run_until(shutdown).await
    });
    runtime.shutdown_timeout(TASKS_DEADLINE);
    ended
}

/// A node calls others now and then, about heads and the time: a small part of a client's memory does.
fn calling_options() -> DataPlaneOptions {
    let memory_budget_bytes = 8 * limits::MIB;
    DataPlaneOptions { memory_budget_bytes, window_max_bytes: limits::MIB, connections_max: 16, ..Default::default() }
}

fn system(action: &'static str, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> NodeError {
    NodeError::System { action, source: io::Error::other(error) }
}

fn serve(server: Arc<DataServer>, handler: NodeHandler<FileDisk>, mut stop: watch::Receiver<bool>) -> JoinHandle<()> {
    tokio::spawn(async move {
        let stopped = async move {
            // An error means that the node is gone: the same as being told to stop.
            let _ = stop.wait_for(|stop| *stop).await;
        };
        server.serve(Arc::new(handler), stopped).await;
    })
}

fn open_service(config: &NodeConfig, identity: &Identity) -> Result<(Arc<Service<FileDisk>>, OpenFolders), NodeError> {
    let (store, folders) = folders::open(config, identity.node_id())?;
    let last_trusted = status::last_trusted_time(&folders.state_folder);
    let clock = ClockGuard::new(wall_clock(), Duration::ZERO, last_trusted);
    if config.trust_clock {
        clock.confirm();
    }
    let allowed = config.allow.iter().map(|allowed| (allowed.account, allowed.quota.bytes()));
    let options = ServiceOptions {
        quota_bytes: config.quota.map(dolmen_proto::size::ByteSize::bytes),
        allowed: BTreeMap::from_iter(allowed),
        open_quota_bytes: config.open_quota.map(dolmen_proto::size::ByteSize::bytes),
        open_quota_per_subnet_bytes: config.open_quota_per_subnet.map(dolmen_proto::size::ByteSize::bytes),
        heads_quota_bytes: config.heads_quota.bytes(),
        accepting: config.accepting,
        absent_folders: !folders.absent.is_empty(),
        audit_samples_per_hour: config.audit_samples_per_hour(),
        audit_class: config.disk_class.into(),
        audit_log: Some(folders.state_folder.clone()),
        moved_log: Some(folders.state_folder.clone()),
        leaving: leaving::read(&folders.state_folder)
            .map_err(|source| NodeError::System { action: "read whether this node goes", source })?,
        ..ServiceOptions::default()
    };
    let service = Service::open(store, identity.signing_key().clone(), clock, options)?;
    Ok((Arc::new(service), folders))
}

fn check_operator(config: &NodeConfig, node: NodeId) -> Result<(), NodeError> {
    let Some(claim) = config.operator else { return Ok(()) };
    sign::verify(SignatureKind::Operator, claim.operator.as_bytes(), node.as_bytes(), &claim.signature)
        .map_err(|_| NodeError::OperatorClaim { node })
}

fn parse_bootstrap(addresses: &[String]) -> Result<Vec<libp2p::Multiaddr>, NodeError> {
    let parse = |address: &String| {
        let bad = |error: libp2p::multiaddr::Error| NodeError::Bootstrap {
            address: address.clone(),
            reason: error.to_string(),
        };
        address.parse().map_err(bad)
    };
    addresses.iter().map(parse).collect()
}

/// Multiaddresses that the directory announces besides those it listens on.
async fn announced_control(config: &NodeConfig, data: SocketAddr) -> Vec<libp2p::Multiaddr> {
    if config.announce.is_none() {
        return Vec::new();
    }
    let addresses = announce::addresses(config.announce.as_ref(), data, config.control).await;
    addresses.control.into_iter().map(dolmen_net::directory::control_address).collect()
}

/// The socket that the directory really listens on, with the port that the system chose.
fn listening_socket(directory: &Directory) -> Option<SocketAddr> {
    directory.listen_addresses().iter().find_map(dolmen_net::directory::socket_address_of)
}

#[cfg(test)]
mod tests;
