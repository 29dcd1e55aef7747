//! The directory as a whole, on real sockets.

use std::collections::BTreeSet;

use bytes::Bytes;
use dolmen_proto::ids::{NodeId, Point};
use dolmen_proto::placement::{kad_distance, lookup_key};
use futures::StreamExt;
use libp2p::request_response::{Event, Message};
use libp2p::swarm::SwarmEvent;
use libp2p::{Multiaddr, kad};

use super::address::control_address;
use super::behaviour::{BehaviourEvent, KAD_PROTOCOL, swarm};
use super::testing::{Node, PATIENCE, client, end, eventually, identity, network, record, record_of, sample_all};
use super::{Directory, NodeRecord};

fn ids(records: &[NodeRecord]) -> BTreeSet<NodeId> {
    records.iter().map(|record| record.node).collect()
}

/// Ids in order of their distance to a key, by the arithmetic that placement uses.
fn by_distance(ids: impl IntoIterator<Item = NodeId>, target: &[u8]) -> Vec<NodeId> {
    let mut ids: Vec<_> = ids.into_iter().collect();
    ids.sort_by_key(|id| kad_distance(target, id));
    ids
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_nodes_are_found_resolved_and_ordered_by_distance() {
    let nodes = network(30).await;
    let all: BTreeSet<_> = nodes.iter().map(Node::id).collect();
    let client = client(vec![nodes[0].address()], None).await;

    let found = sample_all(&client, nodes.len()).await;
    assert_eq!(ids(&found), all);
    for record in &found {
        assert_eq!(record.control_addresses.len(), 1, "the record is the one that the node signed");
    }

    for point in [Point::new([3; 32]), Point::new([0xee; 32])] {
        let nearest: Vec<_> = client.nearest(point, 3).await.iter().map(|record| record.node).collect();
        assert_eq!(nearest, by_distance(all.iter().copied(), &lookup_key(&point))[..3]);
        let record = client.resolve(nearest[0]).await.expect("a node that was just found");
        assert_eq!(record.node, nearest[0]);
    }
    assert_eq!(client.resolve(identity(99).node_id()).await, None, "there is no such node");

    let own = client.shared.own;
    for node in &nodes {
        let listed = node.directory.listed_nodes().await;
        assert!(!listed.contains(&own), "a client is never listed");
        assert!(listed.iter().all(|id| all.contains(id)));
    }
    client.shutdown().await;
    end(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_node_that_comes_late_is_found_by_those_who_found_each_other() {
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let late = socket.local_addr().expect("a port");
    let address = super::bootstrap_address(late, identity(1).node_id());
    let second = Node::start(identity(2), vec![address.clone()], None).await;
    let third = Node::start(identity(3), vec![address, second.address()], None).await;
    eventually("they find each other", async || !second.directory.listed_nodes().await.is_empty()).await;
    drop(socket);
    let first = Node::start_at(late, identity(1), Vec::new(), None).await;
    eventually("the first is found by both", async || first.directory.listed_nodes().await.len() == 2).await;
    end(vec![first, second, third]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_with_a_cache_needs_no_bootstrap_node() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("nodes.cache");
    std::fs::write(&path, b"what somebody left here").expect("a garbage file");
    let mut nodes = network(6).await;
    let start = nodes[0].address();

    let first = client(vec![start.clone()], Some(path.clone())).await;
    assert_eq!(sample_all(&first, nodes.len()).await.len(), nodes.len(), "a garbage cache file does no harm");
    first.shutdown().await;
    first.shutdown().await; // a second time is nothing
    assert!(first.sample(1).await.len() <= nodes.len(), "a handle outlives its directory");
    assert_eq!(first.listed_nodes().await, []);

    nodes.remove(0).directory.shutdown().await;
    let alive: BTreeSet<_> = nodes.iter().map(Node::id).collect();
    let second = client(vec![start], Some(path)).await;
    assert_eq!(ids(&sample_all(&second, alive.len()).await), alive);
    second.shutdown().await;
    end(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bootstrap_address_without_a_peer_id_does_too_and_a_new_record_is_seen() {
    let nodes = network(3).await;
    let bare: Multiaddr = nodes[1].directory.listen_addresses()[0].clone();
    let client = client(vec![bare], None).await;
    assert_eq!(sample_all(&client, 3).await.len(), 3);
    client.shutdown().await;

    let renewed = &nodes[2];
    renewed.record.send_replace(record(&renewed.identity, 7, &[renewed.address()]));
    let client = super::testing::client(vec![nodes[0].address()], None).await;
    eventually("the new record is the one that is found", async || {
        client.resolve(renewed.id()).await.is_some_and(|record| record.sequence == 7)
    })
    .await;
    client.shutdown().await;
    end(nodes).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_directory_keeps_is_found_when_the_node_does_not_answer() {
    let mut nodes = network(4).await;
    let gone = nodes.pop().expect("four nodes");
    let id = gone.id();
    eventually("the others keep its record", async || {
        let asker = client(vec![nodes[0].address()], None).await;
        assert!(asker.wait_for_contact().await);
        let keepers = asker.fetch_kept(id).await;
        asker.shutdown().await;
        keepers >= 2 // the node itself is one of them
    })
    .await;
    gone.directory.shutdown().await;
    let client = client(vec![nodes[0].address()], None).await;
    assert_eq!(client.resolve(id).await.map(|record| record.node), Some(id));
    client.shutdown().await;
    end(nodes).await;
}

/// A peer that speaks everything but answers with whatever it is given.
fn liar(number: u8, answer: Bytes, start: &Multiaddr) -> tokio::task::JoinHandle<()> {
    let keypair = identity(number).libp2p_keypair().expect("a key");
    let mut swarm = swarm(keypair, true).expect("a swarm");
    swarm.listen_on(control_address("127.0.0.1:0".parse().expect("an address"))).expect("a socket");
    swarm.dial(start.clone()).expect("a dial");
    tokio::spawn(async move {
        loop {
            if let SwarmEvent::Behaviour(BehaviourEvent::Records(Event::Message {
                message: Message::Request { channel, .. },
                ..
            })) = swarm.select_next_some().await
            {
                let _gone = swarm.behaviour_mut().records.send_response(channel, answer.clone());
            }
        }
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_serve_records_not_their_own_are_not_found() {
    let nodes = network(3).await;
    let stolen = record(&nodes[1].identity, 9, &[]);
    let forged = {
        let mut bytes = record(&identity(41), 9, &[]).to_vec();
        *bytes.last_mut().expect("a record has bytes") ^= 1;
        Bytes::from(bytes)
    };
    let expired = record_of(
        &identity(42),
        9,
        &[],
        super::records::now().before(std::time::Duration::from_secs(7200)),
        std::time::Duration::from_secs(3600),
    );
    let start = nodes[0].address();
    let liars = [liar(40, stolen, &start), liar(41, forged, &start), liar(42, expired, &start)];
    eventually("the liars are listed", async || nodes[0].directory.listed_nodes().await.len() == 5).await;

    let client = client(vec![start], None).await;
    let honest: BTreeSet<_> = nodes.iter().map(Node::id).collect();
    assert_eq!(ids(&sample_all(&client, 6).await), honest);
    assert_eq!(client.resolve(nodes[1].id()).await.map(|record| record.sequence), Some(1), "not the stolen one");
    assert_eq!(client.resolve(identity(41).node_id()).await, None);
    for liar in liars {
        liar.abort();
    }
    client.shutdown().await;
    end(nodes).await;
}

#[tokio::test]
async fn the_directory_ends_with_its_last_handle() {
    let node = Node::start(identity(1), Vec::new(), None).await;
    let Directory { task, .. } = node.directory.clone();
    let task = task.lock().expect("no panic").take().expect("a running task");
    drop(node);
    assert!(tokio::time::timeout(PATIENCE, task).await.expect("it ends").is_ok());
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let listen = taken.local_addr().expect("its address");
    let (_record, receiver) = tokio::sync::watch::channel(Bytes::new());
    let mode = super::DirectoryMode::Server { listen, announce: Vec::new(), record: receiver };
    let options = super::DirectoryOptions { identity: identity(1), mode, bootstrap: Vec::new(), cache: None };
    let error = Directory::start(options).await.expect_err("the port is taken");
    assert!(error.to_string().contains(&listen.to_string()), "{error}");
}

/// A peer of another network that happens to speak a Kademlia of our name.
#[derive(libp2p::swarm::NetworkBehaviour)]
struct Foreign {
    kad: kad::Behaviour<kad::store::MemoryStore>,
    identify: libp2p::identify::Behaviour,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_of_another_network_are_put_out() {
    let nodes = network(2).await;
    let keypair = identity(50).libp2p_keypair().expect("a key");
    let own = keypair.public().to_peer_id();
    let mut foreign = libp2p::SwarmBuilder::with_existing_identity(keypair)
        .with_tokio()
        .with_quic()
        .with_behaviour(|keypair| {
            let store = kad::store::MemoryStore::new(own);
            let mut kad = kad::Behaviour::with_config(own, store, kad::Config::new(KAD_PROTOCOL));
            kad.set_mode(Some(kad::Mode::Server));
            let identify = libp2p::identify::Config::new("other/1".to_owned(), keypair.public());
            Foreign { kad, identify: libp2p::identify::Behaviour::new(identify) }
        })
        .expect("a behaviour")
        .build();
    foreign.listen_on(control_address("127.0.0.1:0".parse().expect("an address"))).expect("a socket");
    foreign.dial(nodes[0].address()).expect("a dial");
    let put_out = async {
        let mut connected = false;
        loop {
            match foreign.select_next_some().await {
                SwarmEvent::ConnectionEstablished { .. } => connected = true,
                SwarmEvent::ConnectionClosed { .. } if connected => return,
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, put_out).await.expect("the connection is closed by the node");
    assert_eq!(nodes[0].directory.listed_nodes().await, [nodes[1].id()]);
    end(nodes).await;
}
