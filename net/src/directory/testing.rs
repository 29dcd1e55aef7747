//! What the tests of this module share: records, and networks of real nodes on loopback.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::wire::{Accepting, NodeRecord, Signed};
use futures::future::join_all;
use libp2p::Multiaddr;
use tokio::sync::watch;

use super::records::now;
use super::{Directory, DirectoryMode, DirectoryOptions, bootstrap_address, socket_address_of};
use crate::Identity;

/// Generous: the machine may be busy with other builds.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// A record as the node itself would sign it now, for ten minutes.
pub(super) fn record(identity: &Identity, sequence: u64, control: &[Multiaddr]) -> Bytes {
    record_of(identity, sequence, control, now(), Duration::from_secs(600))
}

/// A record with everything chosen.
pub(super) fn record_of(
    identity: &Identity,
    sequence: u64,
    control: &[Multiaddr],
    issued_at: Timestamp,
    life: Duration,
) -> Bytes {
    let record = NodeRecord {
        node: identity.node_id(),
        sequence,
        control_addresses: control.iter().map(ToString::to_string).collect(),
        data_addresses: vec!["127.0.0.1:4711".parse().expect("an address")],
        operator: None,
        region: None,
        accepting: Accepting::All,
        free_class: 30,
        protocol_min: 1,
        protocol_max: 1,
        software: "test".to_owned(),
        issued_at,
        expires_at: issued_at.after(life),
        successor: None,
    };
    Signed::sign(record, identity.signing_key()).encode().into()
}

/// The identity of this number, the same in every run.
pub(super) fn identity(number: u8) -> Identity {
    Identity::from_bytes(&[number; 32])
}

/// A server on loopback with its record.
pub(super) struct Node {
    pub(super) directory: Directory,
    pub(super) identity: Identity,
    pub(super) record: watch::Sender<Bytes>,
}

impl Node {
    pub(super) async fn start(identity: Identity, bootstrap: Vec<Multiaddr>, cache: Option<PathBuf>) -> Self {
        Self::start_at("127.0.0.1:0".parse().expect("an address"), identity, bootstrap, cache).await
    }

    pub(super) async fn start_at(
        listen: SocketAddr,
        identity: Identity,
        bootstrap: Vec<Multiaddr>,
        cache: Option<PathBuf>,
    ) -> Self {
        let (record, receiver) = watch::channel(Bytes::new());
        let mode = DirectoryMode::Server { listen, announce: Vec::new(), record: receiver };
        let options = DirectoryOptions { identity: identity.clone(), mode, bootstrap, cache };
        let directory = Directory::start(options).await.expect("loopback has free ports");
        let node = Self { directory, identity, record };
        node.record.send_replace(self::record(&node.identity, 1, &[node.address()]));
        node
    }

    pub(super) fn id(&self) -> NodeId {
        self.identity.node_id()
    }

    /// Where others start from.
    pub(super) fn address(&self) -> Multiaddr {
        let listening = self.directory.listen_addresses();
        let socket = socket_address_of(&listening[0]).expect("a server listens on QUIC");
        bootstrap_address(socket, self.id())
    }
}

/// That many servers, all started from the first, when the first has listed all others.
pub(super) async fn network(count: u8) -> Vec<Node> {
    let first = Node::start(identity(1), Vec::new(), None).await;
    let start = first.address();
    let others = join_all((2..=count).map(|number| Node::start(identity(number), vec![start.clone()], None))).await;
    let nodes: Vec<_> = std::iter::once(first).chain(others).collect();
    eventually("the first node lists all others", async || {
        nodes[0].directory.listed_nodes().await.len() == nodes.len() - 1
    })
    .await;
    nodes
}

pub(super) async fn client(bootstrap: Vec<Multiaddr>, cache: Option<PathBuf>) -> Directory {
    let identity = Identity::generate().expect("random bytes");
    let options = DirectoryOptions { identity, mode: DirectoryMode::Client, bootstrap, cache };
    Directory::start(options).await.expect("a client needs no port")
}

/// Samples until that many are found: a busy machine may make one sample miss some.
pub(super) async fn sample_all(directory: &Directory, count: usize) -> Vec<NodeRecord> {
    let mut found = Vec::new();
    for _ in 0..5 {
        found = directory.sample(count).await;
        if found.len() >= count {
            break;
        }
    }
    found
}

/// Waits until something holds, at most [`PATIENCE`].
pub(super) async fn eventually(what: &str, holds: impl AsyncFn() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "not in time: {what}");
}

pub(super) async fn end(nodes: Vec<Node>) {
    join_all(nodes.iter().map(|node| node.directory.shutdown())).await;
}
