//! What only shows inside of a running node: its clock's memory, the keeping of heads, and serving while it rebuilds.

use dolmen_net::{CallError, NodeAddress, Payload};
use dolmen_proto::ids::{AccountId, HeadHash, Point, ShardRoot};
use dolmen_proto::root::root_of;
use dolmen_proto::sign::sign;
use dolmen_proto::size::ByteSize;
use dolmen_proto::wire::{
    Accepting, ErrorCode, GetHeadRequest, GetRequest, LeaseTerms, PutHeadRequest, PutRequest, Reply, Request, Signed,
};
use ed25519_dalek::SigningKey;

use super::*;
use crate::clock::ClockState;
use crate::config::InitOptions;
use crate::keeper;
use crate::service::PutStart;
use crate::status::DiskState;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);
const DAY: Duration = Duration::from_secs(86_400);

fn init(folder: &tempfile::TempDir, bootstrap: Vec<String>) -> NodeConfig {
    let data = vec![folder.path().join("data")];
    let options = InitOptions { data, listen: Some(LOOPBACK), bootstrap, ..InitOptions::default() };
    let (config, _) = folders::init(&folder.path().join("node.toml"), &options).expect("a new node");
    NodeConfig { disk_reserve: ByteSize::new(0), ..config }
}

fn head() -> Bytes {
    let key = SigningKey::from_bytes(&[4; 32]);
    let mut bytes = vec![1];
    bytes.extend_from_slice(&key.verifying_key().to_bytes());
    bytes.extend_from_slice(&1u64.to_le_bytes());
    bytes.extend_from_slice(HeadHash::new([0; 32]).as_bytes());
    bytes.extend_from_slice(&[0; 32]);
    bytes.extend_from_slice(&40u16.to_le_bytes());
    bytes.extend_from_slice(&[7; 40]);
    let signature = sign(SignatureKind::Head, &key, &bytes);
    bytes.extend_from_slice(&signature);
    Bytes::from(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_is_put_again_to_nodes_that_came_later() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let old = Node::start(init(&folders[0], Vec::new())).await.expect("a node");
    let point = Point::new([8; 32]);
    let until = wall_clock().after(DAY);
    let put = Request::PutHead(PutHeadRequest { point, head: head(), until });
    assert!(matches!(old.service().answer(&put, wall_clock(), None), Reply::PutHead(reply) if reply.accepted));
    let new = Node::start(init(&folders[1], old.bootstrap_addresses())).await.expect("another node");
    let mut taken = 0;
    for _ in 0..20 {
        let parts = &old.background;
        taken = keeper::round(&parts.service, &parts.directory, &parts.client, Duration::ZERO).await;
        if taken > 0 {
            break;
        }
    }
    assert_eq!(taken, 1, "the other node took it, and the node does not ask itself");
    let get = Request::GetHead(GetHeadRequest { point, key: None });
    assert_eq!(new.service().answer(&get, wall_clock(), None), Reply::GetHead(vec![head()]));
    let kept = new.service().heads_page(None).expect("readable");
    assert_eq!(kept.iter().map(|head| head.until).collect::<Vec<_>>(), [until], "and for no longer");
    old.run_until(std::future::ready(())).await.expect("an orderly end");
    new.run_until(std::future::ready(())).await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_away_for_long_doubts_its_clock_until_the_operator_speaks() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = init(&folder, Vec::new());
    let state_folder = &config.data[0];
    let long_ago = wall_clock().before(DAY * 5);
    status::remember_trusted_time(state_folder, long_ago).expect("remembered");
    for _ in 0..2 {
        let node = Node::start(config.clone()).await.expect("a node");
        assert!(matches!(node.service().clock().state(), ClockState::Doubted { .. }));
        assert!(!node.status().await.clock_trusted);
        node.run_until(std::future::ready(())).await.expect("an orderly end");
        assert_eq!(status::last_trusted_time(state_folder), Some(long_ago), "a restart does not end the doubt");
    }
    let told = NodeConfig { trust_clock: true, ..config };
    let node = Node::start(told).await.expect("a node");
    assert_eq!(node.service().clock().state(), ClockState::Trusted);
    node.run_until(std::future::ready(())).await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_must_have_signed_this_nodes_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = init(&folder, Vec::new());
    let node = Identity::load_or_create(&config.key_file).expect("a key").node_id();
    let operator = SigningKey::from_bytes(&[6; 32]);
    let claim = |signed: &[u8]| crate::config::OperatorClaim {
        operator: dolmen_proto::ids::OperatorId::new(operator.verifying_key().to_bytes()),
        signature: sign(SignatureKind::Operator, &operator, signed),
    };
    config.operator = Some(claim(&[0; 32]));
    assert!(matches!(Node::start(config.clone()).await, Err(NodeError::OperatorClaim { .. })));
    config.operator = Some(claim(node.as_bytes()));
    let node = Node::start(config).await.expect("a node");
    let record = node.service().describe(wall_clock()).record.expect("a record");
    assert!(record.verify(wall_clock()).expect("believed").operator.is_some());
    node.run_until(std::future::ready(())).await.expect("an orderly end");
}

/// What holds the rebuilding of one folder up until the sender is dropped.
fn gate_before(folder: usize) -> (std::sync::mpsc::Sender<()>, Pace) {
    let (gate, opened) = std::sync::mpsc::channel();
    let opened = Mutex::new(opened);
    let wait = move |place: usize| {
        if place == folder {
            // Nothing is ever sent: this ends with the sender.
            let _ = opened.lock().expect("no panic").recv();
        }
    };
    (gate, Arc::new(wait))
}

/// Puts a shard as peers do, but for the wire.
fn put(node: &Node, seed: u8) -> Result<ShardRoot, ErrorCode> {
    let bytes = vec![seed; 20_000];
    let key = SigningKey::from_bytes(&[5; 32]);
    let terms = LeaseTerms {
        node: node.id(),
        root: root_of(&bytes),
        length_bytes: bytes.len() as u64,
        account: AccountId::new(key.verifying_key().to_bytes()),
        delete_key: [1; 32],
        renew_key: [2; 32],
        until: wall_clock().after(DAY),
        issued_at: wall_clock(),
    };
    let request = PutRequest { lease: Signed::sign(terms, &key), grant: None };
    let started = node.service().begin_put(&request, wall_clock(), None).map_err(|error| error.code())?;
    let PutStart::Wanted(mut put) = started else { panic!("it is not there yet") };
    put.write(&bytes).expect("written");
    let reply = node.service().settle(put.finish().expect("whole"));
    assert!(matches!(reply, Reply::Put(_)), "{reply:?}");
    Ok(root_of(&bytes))
}

/// Reads a shard of [`put`] through the data plane.
async fn get(node: &Node, root: ShardRoot) -> Result<Bytes, ErrorCode> {
    let identity = Identity::generate().expect("random bytes");
    let client = DataClient::new(&identity, DataPlaneOptions::default()).expect("a client");
    let address = NodeAddress { id: node.id(), addresses: node.data_addresses() };
    let get = GetRequest { root, length_bytes: 20_000, offset_bytes: 0, count_bytes: 20_000, proof: false };
    match client.call(&address, Request::Get(get), Payload::none()).await {
        Ok(mut response) => Ok(response.payload.read_to_end().await.expect("the payload")),
        Err(CallError::Refused { error, .. }) => Err(error.code()),
        Err(error) => panic!("no answer: {error}"),
    }
}

/// A configuration of two folders with one shard each and no index.
async fn two_folders_without_index(folder: &tempfile::TempDir) -> (NodeConfig, [ShardRoot; 2]) {
    let path = folder.path().join("node.toml");
    let one = init(folder, Vec::new());
    let both = folders::add(&path, &folder.path().join("more")).expect("another folder");
    let both = NodeConfig { data: both.data, ..one.clone() };
    let mut roots = Vec::new();
    for (seed, data) in [1, 2].into_iter().zip(&both.data) {
        let node = Node::start(NodeConfig { data: vec![data.clone()], ..one.clone() }).await.expect("a node");
        assert!(node.service().has_books(), "a new node has nothing to read");
        roots.push(put(&node, seed).expect("room"));
        node.run_until(std::future::ready(())).await.expect("an orderly end");
        std::fs::remove_dir_all(data.join("index")).expect("an index");
    }
    (both, [roots[0], roots[1]])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_serves_what_it_has_found_while_it_rebuilds_its_indexes() {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, roots) = two_folders_without_index(&folder).await;
    let unknown = ShardRoot::new([9; 32]);
    for cut_off in [true, false] {
        let (gate, pace) = gate_before(1);
        let node = Node::start_paced(config.clone(), pace).await.expect("a node");
        while node.status().await.disks[0].rebuilding.is_none_or(|course| course.volumes_read == 0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(get(&node, roots[0]).await.expect("found"), vec![1; 20_000]);
        for root in [roots[1], unknown] {
            assert_eq!(get(&node, root).await, Err(ErrorCode::StillIndexing));
        }
        assert_eq!(put(&node, 3), Err(ErrorCode::StillIndexing));
        let status = node.status().await;
        assert!(status.is_rebuilding());
        assert_eq!((status.disks[1].state, status.accepting.as_str()), (DiskState::Rebuilding, "none"));
        assert_eq!(status.disks[1].rebuilding, Some(status::Rebuilding { volumes_read: 0, volumes: 1 }));
        let record = node.service().describe(wall_clock()).record.expect("a record");
        assert_eq!(record.claimed().accepting, Accepting::None, "nobody is sent here in vain");
        if cut_off {
            node.service().store().stop_rebuilding();
            drop(gate);
            node.run_until(std::future::ready(())).await.expect("an orderly end");
            continue;
        }
        drop(gate);
        node.whole().await;
        assert!(!node.status().await.is_rebuilding());
        for (seed, root) in [1, 2].into_iter().zip(roots) {
            assert_eq!(get(&node, root).await.expect("held"), vec![seed; 20_000]);
        }
        assert_eq!(get(&node, unknown).await, Err(ErrorCode::NotHeld));
        put(&node, 3).expect("room");
        while node.service().describe(wall_clock()).record.expect("a record").claimed().accepting != Accepting::All {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        node.run_until(std::future::ready(())).await.expect("an orderly end");
    }
    let node = Node::start(config).await.expect("a node");
    assert!(node.service().has_books(), "its indexes are whole and believed");
    node.run_until(std::future::ready(())).await.expect("an orderly end");
}
