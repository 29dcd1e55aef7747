//! The network as it is: the data plane and the directory of `dolmen-net`.
//!
//! Decides how this client appears: under a key made for the process. Never repeats a call.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use dolmen_net::directory::Multiaddr;
use dolmen_net::directory::{Directory, DirectoryMode, DirectoryOptions};
use dolmen_net::{CallError, DataClient, DataPlaneOptions, Identity, NodeAddress, PathReport, Payload};
use dolmen_proto::attempt::Fault;
use dolmen_proto::ids::{NodeId, Point, Timestamp};
use dolmen_proto::limits::MIB;
use dolmen_proto::wire::{NodeRecord, Request};
use futures::future::{BoxFuture, FutureExt};

use super::{Answer, Body, CallFault, Network};
use crate::config::ClientConfig;
use crate::error::{ClientError, ErrorKind};
use crate::state::State;

/// Windows of all connections together, at most; the rest of the budget is for contents.
const WINDOWS_MAX_BYTES: u64 = 96 * MIB;

/// A connection that hears nothing for this long is lost: what was on its way to a killed node goes elsewhere then. A
/// node that is only slow, or whose disk hangs, still acknowledges.
const IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a silent connection is kept alive; three times within the above.
const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Data plane and directory under one throw-away key.
pub(crate) struct Live {
    data: DataClient,
    directory: Arc<Directory>,
    datagram_bytes: Option<u16>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Live(..)")
    }
}

impl Live {
    /// Enters the network. That no bootstrap node answers is found out by the first call that needs one.
    ///
    /// # Errors
    /// `Usage` for a malformed address, `Local` when sockets cannot be opened.
    pub(crate) async fn connect(config: &ClientConfig, state: &State) -> Result<Self, ClientError> {
        let advice = "check the bootstrap addresses: --bootstrap, DOLMEN_BOOTSTRAP or client.toml";
        let addresses = config.bootstrap.iter().map(|text| {
            text.parse::<Multiaddr>().map_err(|error| {
                ClientError::new(ErrorKind::Usage, format!("{text:?} is not a multiaddress"), error, advice)
            })
        });
        let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
        let local = |error: &dyn std::fmt::Display| {
            ClientError::new(ErrorKind::Local, "could not open the network", error, "check this machine's network")
        };
        let identity = Identity::generate().map_err(|error| local(&error))?;
        let plane = data_options(config.memory_budget_bytes, config.datagram_bytes);
        let data = DataClient::new(&identity, plane).map_err(|error| local(&error))?;
        let options = DirectoryOptions {
            identity,
            mode: DirectoryMode::Client,
            bootstrap: addresses,
            cache: Some(state.node_cache()),
        };
        let directory = Directory::start(options).await.map_err(|error| local(&error))?;
        Ok(Self { data, directory: Arc::new(directory), datagram_bytes: config.datagram_bytes })
    }

    /// The same network under another throw-away key, so that nodes take it for somebody else.
    ///
    /// # Errors
    /// `Local` when sockets cannot be opened.
    pub(crate) fn another(&self) -> Result<Self, ClientError> {
        let local = |error: &dyn std::fmt::Display| {
            ClientError::new(ErrorKind::Local, "could not open the network", error, "check this machine's network")
        };
        let identity = Identity::generate().map_err(|error| local(&error))?;
        let data =
            DataClient::new(&identity, data_options(8 * MIB, self.datagram_bytes)).map_err(|error| local(&error))?;
        Ok(Self { data, directory: Arc::clone(&self.directory), datagram_bytes: self.datagram_bytes })
    }

    /// Ends connections and saves what was learned of nodes.
    pub(crate) async fn shut_down(&self) {
        futures::future::join(self.directory.shutdown(), self.data.shut_down()).await;
    }
}

fn data_options(budget_bytes: u64, datagram_max_bytes: Option<u16>) -> DataPlaneOptions {
    DataPlaneOptions {
        memory_budget_bytes: (budget_bytes / 3).clamp(8 * MIB, WINDOWS_MAX_BYTES),
        idle_timeout: IDLE_TIMEOUT,
        keep_alive: KEEP_ALIVE,
        datagram_max_bytes,
        ..DataPlaneOptions::default()
    }
}

fn fault_of(error: &CallError) -> CallFault {
    let fault = match error {
        CallError::Unreachable { .. } | CallError::Stalled { .. } => Fault::Unreachable,
        CallError::Peer { .. } => Fault::Misbehaved,
        CallError::Refused { error, .. } => Fault::from(error),
        CallError::Local(_) => Fault::Local,
    };
    CallFault::new(fault, error)
}

impl Network for Live {
    fn sample(&self, want: usize) -> BoxFuture<'_, Vec<NodeRecord>> {
        self.directory.sample(want).boxed()
    }

    fn resolve(&self, node: NodeId) -> BoxFuture<'_, Option<NodeRecord>> {
        self.directory.resolve(node).boxed()
    }

    fn nearest(&self, point: Point, count: usize) -> BoxFuture<'_, Vec<NodeRecord>> {
        self.directory.nearest(point, count).boxed()
    }

    fn call(
        &self,
        node: NodeAddress,
        request: Request,
        payload: Vec<Bytes>,
        sent: Arc<AtomicU64>,
    ) -> BoxFuture<'static, Result<Answer, CallFault>> {
        let data = self.data.clone();
        async move {
            let payload = Payload::of(payload).with_progress(sent);
            match data.call(&node, request, payload).await {
                Ok(response) => {
                    Ok(Answer { reply: response.reply, body: Body::Stream(node.id, Box::new(response.payload)) })
                }
                Err(error) => Err(fault_of(&error)),
            }
        }
        .boxed()
    }

    fn reach(&self, node: NodeAddress) -> BoxFuture<'static, Result<(), CallFault>> {
        let data = self.data.clone();
        async move { data.reach(&node).await.map_err(|error| fault_of(&error)) }.boxed()
    }

    fn takes_reads(&self, node: &NodeAddress) -> bool {
        self.data.takes_reads(node)
    }

    fn handshake_time(&self) -> Option<Duration> {
        self.directory.handshake_time()
    }

    fn paths(&self) -> Vec<(NodeId, PathReport)> {
        self.data.path_reports()
    }

    fn now(&self) -> Timestamp {
        Timestamp::default().after(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default())
    }
}
