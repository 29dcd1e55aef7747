//! The glue over a disk that can be made to hang, asked through a real data plane.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Condvar, Mutex};

use dolmen_net::{CallError, DataClient, DataPlaneOptions, DataServer, Identity, NodeAddress, Payload};
use dolmen_proto::ids::{AccountId, ShardRoot};
use dolmen_proto::root::root_of;
use dolmen_proto::wire::{LeaseTerms, Signed};
use ed25519_dalek::SigningKey;

use super::*;
use crate::clock::ClockGuard;
use crate::disk::{DiskFile, FileDisk, RealFile};
use crate::service::ServiceOptions;
use crate::store::{DataFolder, IndexPlace, Store, StoreOptions, initialise};

/// Holds up everything that touches the disk while it is closed.
#[derive(Clone, Default)]
struct Gate {
    closed: Arc<(Mutex<bool>, Condvar)>,
}

impl Gate {
    fn set(&self, closed: bool) {
        *self.closed.0.lock().expect("not poisoned") = closed;
        self.closed.1.notify_all();
    }

    fn pass(&self) {
        let closed = self.closed.0.lock().expect("not poisoned");
        drop(self.closed.1.wait_while(closed, |closed| *closed).expect("not poisoned"));
    }
}

struct HangingDisk {
    disk: FileDisk,
    gate: Gate,
}

struct HangingFile {
    file: RealFile,
    gate: Gate,
}

impl Disk for HangingDisk {
    type File = HangingFile;

    fn list(&self) -> io::Result<Vec<String>> {
        self.gate.pass();
        self.disk.list()
    }

    fn open(&self, name: &str, create: bool) -> io::Result<HangingFile> {
        self.gate.pass();
        Ok(HangingFile { file: self.disk.open(name, create)?, gate: self.gate.clone() })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.gate.pass();
        self.disk.remove(name)
    }

    fn sync_folder(&self) -> io::Result<()> {
        self.gate.pass();
        self.disk.sync_folder()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.gate.pass();
        self.disk.free_bytes()
    }
}

impl DiskFile for HangingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.gate.pass();
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.gate.pass();
        self.file.write_at(bytes, offset)
    }

    fn sync(&self) -> io::Result<()> {
        self.gate.pass();
        self.file.sync()
    }

    fn len(&self) -> io::Result<u64> {
        self.gate.pass();
        self.file.len()
    }

    fn truncate(&self, length: u64) -> io::Result<()> {
        self.gate.pass();
        self.file.truncate(length)
    }
}

struct Bench {
    gate: Gate,
    handler: NodeHandler<HangingDisk>,
    service: Arc<Service<HangingDisk>>,
    client: DataClient,
    node: NodeAddress,
    _folder: tempfile::TempDir,
    _stop: oneshot::Sender<()>,
}

impl Bench {
    /// A handler that gives up on disks after `deadline`, without its service yet.
    fn new(deadline: Duration) -> Self {
        Self::with_memory(deadline, 1 << 26, DataPlaneOptions::default())
    }

    fn with_memory(deadline: Duration, memory_bytes: u64, plane: DataPlaneOptions) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let identity = Identity::generate().expect("random bytes");
        let gate = Gate::default();
        let disk = HangingDisk { disk: FileDisk::open(folder.path()).expect("a folder"), gate: gate.clone() };
        initialise(&disk, identity.node_id(), [1; 32]).expect("a data folder");
        let data = DataFolder { disk, name: "data".to_owned(), index: IndexPlace::Memory, capacity_bytes: None };
        let options = StoreOptions { reserve_bytes: 0, ..StoreOptions::new(identity.node_id()) };
        let (store, _) = Store::open_whole(vec![data], options, wall_clock()).expect("a store");
        let clock = ClockGuard::new(wall_clock(), Duration::ZERO, None);
        let quota = ServiceOptions { open_quota_bytes: Some(1 << 30), ..ServiceOptions::default() };
        let service = Service::open(store, identity.signing_key().clone(), clock, quota).expect("a service");
        let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let server = DataServer::bind(address, &identity, plane).expect("a server");
        let address = server.local_address().expect("an address");
        let handler = NodeHandler::with_deadline(memory_bytes, Schedule::default(), deadline);
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = handler.clone();
        tokio::spawn(async move {
            server.serve(Arc::new(serving), async move { drop(stopped.await) }).await;
        });
        let own = Identity::generate().expect("random bytes");
        Self {
            gate,
            handler,
            service: Arc::new(service),
            client: DataClient::new(&own, DataPlaneOptions::default()).expect("a client"),
            node: NodeAddress { id: identity.node_id(), addresses: vec![address] },
            _folder: folder,
            _stop: stop,
        }
    }

    fn ready(deadline: Duration) -> Self {
        let bench = Self::new(deadline);
        bench.handler.set_service(Arc::clone(&bench.service));
        bench
    }

    async fn call(&self, request: Request, payload: Payload) -> Result<(Reply, Bytes), ErrorCode> {
        match self.client.call(&self.node, request, payload).await {
            Ok(mut response) => Ok((response.reply, response.payload.read_to_end().await.expect("the payload"))),
            Err(CallError::Refused { error, .. }) => Err(error.code()),
            Err(other) => panic!("no answer: {other}"),
        }
    }

    fn put_request(&self, bytes: &Bytes) -> Request {
        let key = SigningKey::from_bytes(&[3; 32]);
        let public = key.verifying_key().to_bytes();
        let terms = LeaseTerms {
            node: self.node.id,
            root: root_of(bytes),
            length_bytes: bytes.len() as u64,
            account: AccountId::new(public),
            delete_key: public,
            renew_key: public,
            until: wall_clock().after(Duration::from_secs(86_400)),
            issued_at: wall_clock(),
        };
        Request::Put(Box::new(PutRequest { lease: Signed::sign(terms, &key), grant: None }))
    }

    async fn put(&self, bytes: &Bytes) -> Result<Reply, ErrorCode> {
        self.call(self.put_request(bytes), Payload::from(bytes.clone())).await.map(|(reply, _)| reply)
    }

    async fn get(&self, bytes: &Bytes) -> Result<Bytes, ErrorCode> {
        let length_bytes = bytes.len() as u64;
        let get =
            GetRequest { root: root_of(bytes), length_bytes, offset_bytes: 0, count_bytes: length_bytes, proof: false };
        self.call(Request::Get(get), Payload::none()).await.map(|(_, payload)| payload)
    }
}

fn shard(seed: u8) -> Bytes {
    let mut bytes = vec![0; 1_000_000];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    Bytes::from(bytes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_is_named_and_holds_up_nothing_else() {
    let bench = Bench::ready(Duration::from_millis(300));
    bench.put(&shard(1)).await.expect("held");
    bench.gate.set(true);
    assert_eq!(bench.get(&shard(1)).await, Err(ErrorCode::DiskFailed));
    assert_eq!(bench.put(&shard(2)).await.expect_err("it hangs"), ErrorCode::DiskFailed);
    let described = bench.call(Request::Describe, Payload::none()).await.expect("no disk is needed for this");
    assert!(matches!(described.0, Reply::Describe(_)));
    bench.gate.set(false);
    assert_eq!(bench.get(&shard(1)).await, Ok(shard(1)));
    bench.put(&shard(3)).await.expect("held");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_given_up_on_is_answered_for_at_once() {
    // With a deadline that no test waits for, whatever is answered is answered without waiting for the disk.
    let bench = Bench::ready(Duration::from_secs(3600));
    bench.put(&shard(1)).await.expect("held");
    bench.gate.set(true);
    bench.service.store().fail_folder(0, "it does not answer");
    assert_eq!(bench.get(&shard(1)).await, Err(ErrorCode::DiskFailed));
    let stat = bench.call(Request::Stat(vec![root_of(&shard(1)), ShardRoot::new([9; 32])]), Payload::none()).await;
    let unknown = Err(ErrorCode::DiskFailed);
    assert_eq!(
        stat.expect("an answer").0,
        Reply::Stat(vec![unknown, unknown]),
        "not \"not held\": that would be a lie"
    );
    bench.gate.set(false);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_reads_its_disks_or_goes_down_says_so() {
    let bench = Bench::new(DISK_DEADLINE);
    assert_eq!(bench.put(&shard(1)).await.expect_err("too early"), ErrorCode::StillIndexing);
    bench.handler.set_service(Arc::clone(&bench.service));
    bench.put(&shard(1)).await.expect("held");
    bench.handler.drain();
    assert_eq!(bench.get(&shard(1)).await, Err(ErrorCode::ShuttingDown));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_that_its_peer_gives_up_leaves_nothing_behind() {
    let bench = Bench::ready(DISK_DEADLINE);
    let bytes = Bytes::from(vec![7; 20_000_000]);
    let request = bench.put_request(&bytes);
    let (client, node) = (bench.client.clone(), bench.node.clone());
    let progress = Arc::new(std::sync::atomic::AtomicU64::new(0));
    let payload = Payload::of(bytes.chunks(100_000).map(|piece| bytes.slice_ref(piece)).collect());
    let payload = payload.with_progress(Arc::clone(&progress));
    // The disk hangs, so that the put cannot end before its peer gives it up.
    bench.gate.set(true);
    let calling = tokio::spawn(async move { client.call(&node, request, payload).await.map(drop) });
    while progress.load(Ordering::Relaxed) == 0 {
        tokio::task::yield_now().await;
    }
    calling.abort();
    assert!(calling.await.expect_err("given up").is_cancelled());
    bench.gate.set(false);
    let held = loop {
        match bench.put(&bytes).await {
            Err(ErrorCode::Busy) => tokio::task::yield_now().await,
            other => break other,
        }
    };
    assert!(held.is_ok(), "the root is free again: {held:?}");
    let usage = bench.service.ledger_usage();
    assert_eq!((usage.in_flight_bytes, usage.open_bytes), (0, crate::accounts::charged_bytes(20_000_000)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_does_not_read_leaves_memory_to_others() {
    const MEMORY_BYTES: usize = 8 * GET_MEMORY_BYTES;
    // Small windows, so that a shard that nobody reads stays in the memory of its transfer.
    let start = DataPlaneOptions::default().window_start_bytes;
    let plane = DataPlaneOptions { window_max_bytes: start, ..DataPlaneOptions::default() };
    let bench = Bench::with_memory(DISK_DEADLINE, MEMORY_BYTES as u64, plane);
    bench.handler.set_service(Arc::clone(&bench.service));
    let bytes = shard(1);
    bench.put(&bytes).await.expect("held");

    let greedy = DataClient::new(&Identity::generate().expect("random bytes"), DataPlaneOptions::default());
    let greedy = greedy.expect("a client");
    let length_bytes = bytes.len() as u64;
    let get =
        GetRequest { root: root_of(&bytes), length_bytes, offset_bytes: 0, count_bytes: length_bytes, proof: false };
    let mut unread = tokio::task::JoinSet::new();
    for _ in 0..DataPlaneOptions::default().streams_per_connection_max {
        let (greedy, node) = (greedy.clone(), bench.node.clone());
        unread.spawn(async move {
            // Whatever comes is kept and never read.
            let _response = greedy.call(&node, Request::Get(get), Payload::none()).await;
            std::future::pending::<()>().await;
        });
    }
    let memory = &bench.handler.inner.memory;
    let share = memory.units() / PEER_SHARE_DIVISOR;
    while memory.free() > memory.units() - share {
        tokio::task::yield_now().await;
    }
    for _ in 0..10 {
        let read = bench.get(&bytes).await.expect("another reader is served");
        assert!(read == bytes);
    }
    bench.put(&shard(2)).await.expect("and another writer");
    unread.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_greedy_reader_does_not_keep_others_from_the_disk() {
    const TRANSFERS: usize = 32;
    let memory_bytes = (TRANSFERS * GET_MEMORY_BYTES) as u64;
    let bench = Bench::with_memory(DISK_DEADLINE, memory_bytes, DataPlaneOptions::default());
    bench.handler.set_service(Arc::clone(&bench.service));
    let bytes = shard(1);
    bench.put(&bytes).await.expect("held");

    let length_bytes = bytes.len() as u64;
    let get =
        GetRequest { root: root_of(&bytes), length_bytes, offset_bytes: 0, count_bytes: length_bytes, proof: false };
    let calls = &bench.handler.inner.disk_calls;
    let at_the_disk = |count: usize| async move {
        while calls.available_permits() != DISK_CALLS_MAX - count {
            tokio::task::yield_now().await;
        }
    };
    // Closing the disk makes visible who is at it and who still waits.
    at_the_disk(0).await;
    bench.gate.set(true);
    let greedy = DataClient::new(&Identity::generate().expect("random bytes"), DataPlaneOptions::default());
    let greedy = greedy.expect("a client");
    let mut reads = tokio::task::JoinSet::new();
    for _ in 0..TRANSFERS * 2 {
        let (greedy, node) = (greedy.clone(), bench.node.clone());
        reads.spawn(async move {
            let mut response = greedy.call(&node, Request::Get(get), Payload::none()).await.ok()?;
            response.payload.read_to_end().await.ok()
        });
    }
    let share = TRANSFERS / PEER_SHARE_DIVISOR;
    at_the_disk(share).await;
    // Many more of the greedy one's reads came before this one, which is at the disk all the same.
    let other = bench.get(&bytes);
    let (read, ()) = tokio::join!(other, async {
        at_the_disk(share + 1).await;
        bench.gate.set(false);
    });
    assert!(read.expect("another reader is served") == bytes);
    let mut served = 0;
    while let Some(read) = reads.join_next().await {
        served += usize::from(read.expect("no panic").is_some_and(|read| read == bytes));
    }
    assert!(served >= share, "the greedy one had its share as well: {served}");
}
