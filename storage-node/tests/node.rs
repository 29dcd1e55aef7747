//! Whole nodes on loopback, asked through the data plane as clients ask.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dolmen_net::{CallError, DataClient, DataPlaneOptions, Identity, NodeAddress, Payload};
use dolmen_proto::ids::{AccountId, HeadHash, NodeId, Point, ShardRoot, Timestamp};
use dolmen_proto::limits::{LEASE_DEFAULT, LEASE_INITIAL};
use dolmen_proto::root::{root_of, verify_slice};
use dolmen_proto::sign::{SignatureKind, sign};
use dolmen_proto::size::ByteSize;
use dolmen_proto::wire::{
    DeleteBody, DeleteRequest, ErrorCode, GetHeadRequest, GetRequest, LeaseTerms, ListBody, ListRequest,
    PutHeadRequest, PutRequest, RenewBody, RenewRequest, Reply, Request, Signed,
};
use dolmen_storage_node::config::{InitOptions, NodeConfig};
use dolmen_storage_node::folders;
use dolmen_storage_node::node::{Node, last_status};
use dolmen_storage_node::serve::wall_clock;
use dolmen_storage_node::status::{DiskState, Phase};
use ed25519_dalek::SigningKey;

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn init(folder: &Path, disks: &[&str], bootstrap: Vec<String>) -> NodeConfig {
    let options = InitOptions {
        data: disks.iter().map(|disk| folder.join(disk)).collect(),
        open_quota: Some(ByteSize::new(1 << 30)),
        listen: Some(LOOPBACK),
        bootstrap,
        ..InitOptions::default()
    };
    let (mut config, _) = folders::init(&folder.join("node.toml"), &options).expect("a new node");
    config.disk_reserve = ByteSize::new(0);
    config
}

struct Client {
    plane: DataClient,
    node: NodeAddress,
}

impl Client {
    fn of(node: &Node) -> Self {
        let identity = Identity::generate().expect("random bytes");
        let plane = DataClient::new(&identity, DataPlaneOptions::default()).expect("a client");
        Self { plane, node: NodeAddress { id: node.id(), addresses: node.data_addresses() } }
    }

    async fn call(&self, request: Request, payload: Payload) -> Result<(Reply, Bytes), CallError> {
        let mut response = self.plane.call(&self.node, request, payload).await?;
        let payload = response.payload.read_to_end().await.expect("the payload");
        Ok((response.reply, payload))
    }

    async fn ask(&self, request: Request) -> Reply {
        self.call(request, Payload::none()).await.expect("an answer").0
    }

    async fn refusal(&self, request: Request, payload: Payload) -> ErrorCode {
        match self.call(request, payload).await {
            Err(CallError::Refused { error, .. }) => error.code(),
            other => panic!("not refused: {other:?}"),
        }
    }

    async fn put(&self, owner: &Owner, bytes: &Bytes) {
        let request = owner.put(self.node.id, bytes);
        let terms = request.lease.claimed().clone();
        let payload = Payload::of(bytes.chunks(100_000).map(|piece| bytes.slice_ref(piece)).collect());
        match self.call(Request::Put(Box::new(request)), payload).await.expect("a receipt").0 {
            Reply::Put(receipt) => drop(receipt.verify(&terms, wall_clock()).expect("a good receipt")),
            other => panic!("not a receipt: {other:?}"),
        }
    }

    async fn get(&self, bytes: &Bytes) -> Bytes {
        let length_bytes = bytes.len() as u64;
        let get =
            GetRequest { root: root_of(bytes), length_bytes, offset_bytes: 0, count_bytes: length_bytes, proof: false };
        self.call(Request::Get(get), Payload::none()).await.expect("the shard").1
    }

    async fn stat(&self, root: ShardRoot) -> Result<Timestamp, ErrorCode> {
        match self.ask(Request::Stat(vec![root])).await {
            Reply::Stat(items) => items[0].map(|status| status.until),
            other => panic!("not a status: {other:?}"),
        }
    }
}

struct Owner {
    key: SigningKey,
}

impl Owner {
    fn id(&self) -> AccountId {
        AccountId::new(self.public())
    }

    fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    fn put(&self, node: NodeId, bytes: &[u8]) -> PutRequest {
        let terms = LeaseTerms {
            node,
            root: root_of(bytes),
            length_bytes: bytes.len() as u64,
            account: self.id(),
            delete_key: self.public(),
            renew_key: self.public(),
            until: wall_clock().after(LEASE_INITIAL),
            issued_at: wall_clock(),
        };
        PutRequest { lease: Signed::sign(terms, &self.key), grant: None }
    }

    fn renew(&self, node: NodeId, root: ShardRoot, until: Timestamp) -> Request {
        let (account, signer, issued_at) = (self.id(), self.public(), wall_clock());
        let body = RenewBody { node, account, signer, issued_at, until, roots: vec![root] };
        Request::Renew(Box::new(RenewRequest { body: Signed::sign(body, &self.key), grant: None }))
    }

    fn delete(&self, node: NodeId, root: ShardRoot) -> Request {
        let (account, signer, issued_at) = (self.id(), self.public(), wall_clock());
        let body = DeleteBody { node, account, signer, issued_at, roots: vec![root] };
        Request::Delete(DeleteRequest { body: Signed::sign(body, &self.key) })
    }

    fn list(&self, node: NodeId) -> Request {
        let body = ListBody { node, account: self.id(), issued_at: wall_clock(), after_root: None };
        Request::List(ListRequest { body: Signed::sign(body, &self.key) })
    }
}

fn owner() -> Owner {
    Owner { key: SigningKey::from_bytes(&[3; 32]) }
}

fn shard(seed: u8, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    Bytes::from(bytes)
}

/// A head with a sealed body that says nothing; nodes cannot open heads.
fn head(sequence: u64, previous: HeadHash) -> Bytes {
    let key = SigningKey::from_bytes(&[4; 32]);
    let mut bytes = vec![1];
    bytes.extend_from_slice(&key.verifying_key().to_bytes());
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(previous.as_bytes());
    bytes.extend_from_slice(&[0; 32]);
    bytes.extend_from_slice(&40u16.to_le_bytes());
    bytes.extend_from_slice(&[7; 40]);
    let signature = sign(SignatureKind::Head, &key, &bytes);
    bytes.extend_from_slice(&signature);
    Bytes::from(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_answers_every_call_and_keeps_all_of_it_over_a_restart() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = init(folder.path(), &["data"], Vec::new());
    let node = Node::start(config.clone()).await.expect("a node");
    let (id, client, owner) = (node.id(), Client::of(&node), owner());
    let shards = [shard(1, 3_000_000), shard(2, 1), shard(3, 16_385)];
    for bytes in &shards {
        client.put(&owner, bytes).await;
        assert_eq!(client.get(bytes).await, *bytes);
    }
    let root = root_of(&shards[0]);
    let get =
        GetRequest { root, length_bytes: 3_000_000, offset_bytes: 1_000_000, count_bytes: 1_200_000, proof: true };
    let slice = client.call(Request::Get(get), Payload::none()).await.expect("a slice").1;
    let proven = verify_slice(&root, 3_000_000, 1_000_000, 1_200_000, &slice).expect("proven");
    assert_eq!(proven, &shards[0][1_000_000..2_200_000]);

    let long = wall_clock().after(LEASE_DEFAULT);
    let Reply::Renew(renewed) = client.ask(owner.renew(id, root, long)).await else { panic!("not a renewal") };
    assert_eq!(renewed.codes, [Ok(())]);
    assert_eq!(client.stat(root).await, Ok(long));
    let Reply::List(list) = client.ask(owner.list(id)).await else { panic!("not a list") };
    assert_eq!((list.leases.len(), list.more), (3, false));
    let gone = root_of(&shards[1]);
    assert!(matches!(client.ask(owner.delete(id, gone)).await, Reply::Delete(codes) if codes == [Ok(())]));
    assert_eq!(client.stat(gone).await, Err(ErrorCode::NotHeld));

    let point = Point::new([8; 32]);
    let first = head(1, HeadHash::new([0; 32]));
    let until = wall_clock().after(Duration::from_secs(3600));
    let put = PutHeadRequest { point, head: first.clone(), until };
    assert!(matches!(client.ask(Request::PutHead(put)).await, Reply::PutHead(answer) if answer.accepted));

    let Reply::Describe(described) = client.ask(Request::Describe).await else { panic!("not a description") };
    let record = described.record.expect("a record");
    assert_eq!(record.verify(wall_clock()).expect("a good record").data_addresses, node.data_addresses());
    let status = node.status().await;
    assert_eq!((status.shards, status.leases, status.heads, status.phase), (2, 2, 1, Phase::Serving));
    assert!(status.clock_trusted && status.datagram_bytes > 1200 && status.connections == 1, "{status:?}");

    client.plane.shut_down().await;
    node.run_until(std::future::ready(())).await.expect("an orderly end");
    let left = last_status(&config.data).expect("readable").expect("left behind");
    assert_eq!((left.phase, left.process_is_alive()), (Phase::Stopped, false));

    let node = Node::start(config).await.expect("the node again");
    let client = Client::of(&node);
    assert_eq!(node.id(), id);
    assert_eq!(client.get(&shards[0]).await, shards[0]);
    assert_eq!(client.stat(root).await, Ok(long));
    assert_eq!(client.stat(gone).await, Err(ErrorCode::NotHeld));
    let heads = client.ask(Request::GetHead(GetHeadRequest { point, key: None })).await;
    assert!(matches!(heads, Reply::GetHead(heads) if heads == [first]));
    client.put(&owner, &shards[0]).await;
    node.run_until(std::future::ready(())).await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_is_named_and_the_node_goes_on() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = Node::start(init(folder.path(), &["data"], Vec::new())).await.expect("a node");
    let (id, client, owner) = (node.id(), Client::of(&node), owner());
    let bytes = shard(1, 2_000_000);
    let mut wrong = bytes.to_vec();
    wrong[1_999_999] ^= 1;
    let put = || Request::Put(Box::new(owner.put(id, &bytes)));
    assert_eq!(client.refusal(put(), Payload::from(Bytes::from(wrong))).await, ErrorCode::RootMismatch);
    let elsewhere = Request::Put(Box::new(owner.put(NodeId::new([1; 32]), &bytes)));
    assert_eq!(client.refusal(elsewhere, Payload::from(bytes.clone())).await, ErrorCode::Unauthorised);
    let get =
        GetRequest { root: root_of(&bytes), length_bytes: 2_000_000, offset_bytes: 0, count_bytes: 1, proof: false };
    assert_eq!(client.refusal(Request::Get(get), Payload::none()).await, ErrorCode::NotHeld);
    let forged = PutHeadRequest {
        point: Point::new([1; 32]),
        head: Bytes::from_static(b"no head"),
        until: wall_clock().after(LEASE_INITIAL),
    };
    assert_eq!(client.refusal(Request::PutHead(forged), Payload::none()).await, ErrorCode::Malformed);
    assert_eq!(node.service().ledger_usage().open_bytes, 0);
    client.put(&owner, &bytes).await;
    assert_eq!(client.get(&bytes).await, bytes);
    node.run_until(std::future::ready(())).await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_puts_and_gets_at_once_are_all_answered() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let node = Node::start(init(folder.path(), &["one", "two"], Vec::new())).await.expect("a node");
    let client = std::sync::Arc::new(Client::of(&node));
    let mut puts = tokio::task::JoinSet::new();
    for seed in 0..40 {
        let client = std::sync::Arc::clone(&client);
        puts.spawn(async move {
            let bytes = shard(seed, 600_000);
            client.put(&owner(), &bytes).await;
            assert_eq!(client.get(&bytes).await, bytes);
        });
    }
    while let Some(put) = puts.join_next().await {
        put.expect("held and read back");
    }
    let status = node.status().await;
    assert_eq!((status.shards, status.in_flight_bytes), (40, 0));
    assert!(status.disks.iter().all(|disk| disk.state == DiskState::Ok && disk.live_bytes > 0), "both disks are used");
    node.run_until(std::future::ready(())).await.expect("an orderly end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_without_its_marker_is_never_taken_for_an_empty_disk() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = init(folder.path(), &["one", "two"], Vec::new());
    let (one, two, away) = (folder.path().join("one"), folder.path().join("two"), folder.path().join("away"));
    std::fs::rename(&two, &away).expect("unmounted");
    for mount_point_stays in [false, true] {
        if mount_point_stays {
            std::fs::create_dir(&two).expect("an empty mount point");
        }
        let node = Node::start(config.clone()).await.expect("a node with one disk");
        let client = Client::of(&node);
        assert_eq!(
            client.stat(ShardRoot::new([1; 32])).await,
            Err(ErrorCode::DiskFailed),
            "it may be on the other one"
        );
        let status = node.status().await;
        let state = |path: &Path| status.disks.iter().find(|disk| disk.path == path).map(|disk| disk.state);
        assert_eq!((state(&one), state(&two)), (Some(DiskState::Ok), Some(DiskState::Unmounted)));
        node.run_until(std::future::ready(())).await.expect("an orderly end");
    }
    std::fs::remove_dir_all(&two).expect("nothing of value");
    std::fs::rename(&away, &two).expect("mounted again");
    std::fs::remove_dir_all(&one).expect("the other one");
    std::fs::remove_dir_all(&two).expect("both");
    assert!(Node::start(config).await.is_err(), "a node without any disk does not start");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks_are_listed_added_and_removed_and_indexes_rebuilt() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = init(folder.path(), &["one"], Vec::new());
    let path = folder.path().join("node.toml");
    let node = Node::start(config.clone()).await.expect("a node");
    Client::of(&node).put(&owner(), &shard(1, 100_000)).await;
    assert!(matches!(folders::list(&config, wall_clock()), Err(folders::FolderError::InUse(_))));
    assert!(matches!(folders::reindex(&config, wall_clock()), Err(folders::FolderError::InUse(_))));
    assert!(matches!(Node::start(config.clone()).await, Err(error) if error.to_string().contains("in use")));
    node.run_until(std::future::ready(())).await.expect("an orderly end");

    let (report, usage) = folders::reindex(&config, wall_clock()).expect("rebuilt");
    assert_eq!((report.folders.len(), usage.shards), (1, 1));
    let config = folders::add(&path, &folder.path().join("two")).expect("added");
    assert_eq!(folders::list(&config, wall_clock()).expect("a list").len(), 2);
    let full = folders::remove(&path, &folder.path().join("one"), wall_clock());
    assert!(matches!(full, Err(folders::FolderError::NotEmpty { shards: 1, .. })), "{full:?}");
    let config = folders::remove(&path, &folder.path().join("two"), wall_clock()).expect("it was empty");
    assert_eq!(config.data, [folder.path().join("one")]);
    assert!(folders::init(&path, &InitOptions::default()).is_err(), "never overwritten");
    assert!(NodeConfig::load(&path).is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_find_each_other_by_their_records() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let first = Node::start(init(folders[0].path(), &["data"], Vec::new())).await.expect("a node");
    let second = Node::start(init(folders[1].path(), &["data"], first.bootstrap_addresses())).await.expect("another");
    let identity = Identity::generate().expect("random bytes");
    let bootstrap = first.bootstrap_addresses().iter().map(|text| text.parse().expect("a multiaddress")).collect();
    let mode = dolmen_net::directory::DirectoryMode::Client;
    let options = dolmen_net::directory::DirectoryOptions { identity, mode, bootstrap, cache: None };
    let directory = dolmen_net::directory::Directory::start(options).await.expect("a directory");
    let mut found = Vec::new();
    for _ in 0..10 {
        found = directory.sample(2).await;
        if found.len() == 2 {
            break;
        }
    }
    let mut ids: Vec<_> = found.iter().map(|record| record.node).collect();
    let mut wanted = [first.id(), second.id()];
    ids.sort_unstable();
    wanted.sort_unstable();
    assert_eq!(ids, wanted);
    let record = directory.resolve(second.id()).await.expect("found");
    assert_eq!(record.data_addresses, second.data_addresses());
    directory.shutdown().await;
    first.run_until(std::future::ready(())).await.expect("an orderly end");
    second.run_until(std::future::ready(())).await.expect("an orderly end");
}
