//! What only shows inside of a running node: its clock's memory and the keeping of heads.

use dolmen_proto::ids::{HeadHash, Point};
use dolmen_proto::sign::sign;
use dolmen_proto::size::ByteSize;
use dolmen_proto::wire::{GetHeadRequest, PutHeadRequest, Reply, Request};
use ed25519_dalek::SigningKey;

use super::*;
use crate::clock::ClockState;
use crate::config::InitOptions;
use crate::keeper;

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
