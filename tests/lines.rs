//! Lines between a client and its nodes: real nodes behind our shaper, whose queue says what the client did to it.
//!
//! Nothing here asserts how fast anything is: what a datagram waited for is counted in the line's own time.

#![allow(clippy::print_stdout, reason = "the test says how many round trips there were")]

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, Instant};

use dolmen_benches::shaper::{Both, Counters, Link, Shaper, ShaperOptions};
use dolmen_client::{Client, ClientConfig, PolicyChoice, Progress, PutOptions};
use dolmen_net::{DataClient, DataPlaneOptions, Identity, NodeAddress, Payload};
use dolmen_proto::wire::Request;
use dolmen_tests::processes::TestNode;
use dolmen_tests::shards::shard;

const NODES: usize = 6;
const MIB: usize = 1024 * 1024;
/// Datagrams of the Internet's size; larger ones vanish on these lines.
const DATAGRAM_BYTES: u16 = 1452;

/// Nodes behind one line, and clients of them.
struct Lined {
    shaper: Shaper,
    nodes: Vec<TestNode>,
    bootstrap: Vec<String>,
    folder: tempfile::TempDir,
}

impl Lined {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        // Ports are the system's choice, held until all are chosen.
        let socket = |_| UdpSocket::bind("127.0.0.1:0").expect("a port");
        let sockets: Vec<[UdpSocket; 2]> = (0..NODES).map(|node| [socket(node), socket(node)]).collect();
        let address = |socket: &UdpSocket| socket.local_addr().expect("an address");
        let ports: Vec<[SocketAddr; 2]> =
            sockets.iter().map(|[data, control]| [address(data), address(control)]).collect();
        let servers = ports.iter().map(|[data, _]| *data).collect();
        let shaper = Shaper::start(&ShaperOptions { servers, links: Both::default(), seed: 1 }).expect("a shaper");
        drop(sockets);
        let program = Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"));
        let (mut nodes, mut bootstrap) = (Vec::new(), Vec::<String>::new());
        for (number, ([data, control], door)) in ports.iter().zip(shaper.doors()).enumerate() {
            let more = format!(
                "announce = \"{door}\"\nannounce_control_port = {}\ndatagram_bytes = {DATAGRAM_BYTES}\n\
                 open_quota_per_subnet = \"1GB\"",
                control.port()
            );
            let place = folder.path().join(format!("node{number}"));
            let mut node = TestNode::make_at(program, &place, (*data, *control), &more);
            let known: Vec<&str> = bootstrap.iter().flat_map(|address| ["--bootstrap", address.as_str()]).collect();
            node.start_with(&known);
            if bootstrap.is_empty() {
                bootstrap = node.status().control_addresses;
            }
            nodes.push(node);
        }
        let lined = Self { shaper, nodes, bootstrap, folder };
        let client = lined.client("first").await;
        wait_until(async || client.nodes(NODES).await.is_ok_and(|nodes| nodes.len() == NODES)).await;
        client.shut_down().await;
        lined
    }

    async fn client(&self, name: &str) -> Client {
        let config = ClientConfig {
            bootstrap: self.bootstrap.clone(),
            state_folder: self.folder.path().join(name),
            policy: PolicyChoice::Fixed { k: 2, n: 4 },
            datagram_bytes: Some(DATAGRAM_BYTES),
            ..ClientConfig::default()
        };
        Client::connect(config, Progress::none()).await.expect("a client")
    }

    fn counters(&self) -> Both<Counters> {
        self.shaper.counters().expect("the shaper runs")
    }

    fn stop(mut self) {
        self.nodes.iter_mut().for_each(TestNode::terminate);
    }
}

async fn wait_until(condition: impl AsyncFn() -> bool) {
    for _ in 0..1200 {
        if condition().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not in a minute");
}

/// A home's line: a router that holds half a second of what goes up makes everybody's calls wait for that long where a sender fills it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_over_a_home_line_leaves_its_router_free() {
    const UP_BITS: u64 = 20_000_000;
    const QUEUE: Duration = Duration::from_millis(500);
    let lined = Lined::start().await;
    let link = |bits: u64| Link {
        rate_bits_per_second: Some(bits),
        one_way_delay: Duration::from_millis(10),
        queue_bytes: Some(bits / 8 * u64::try_from(QUEUE.as_millis()).expect("small") / 1000),
        datagram_max_bytes: DATAGRAM_BYTES.into(),
        ..Link::default()
    };
    lined.shaper.set_link(Both { up: link(UP_BITS), down: link(5 * UP_BITS) }).expect("a line");
    let source = lined.folder.path().join("large");
    fs::write(&source, shard(1, 8 * MIB)).expect("written");
    let before = lined.counters().up;
    let client = lined.client("home").await;
    let report = client.put_anonymous(&[source], &PutOptions::default()).await.expect("put");
    assert_eq!(report.bytes, 8 * MIB as u64);
    let after = lined.counters().up;
    client.shut_down().await;

    let sent = after.delivered.bytes - before.delivered.bytes;
    assert!(sent > 16 * MIB as u64, "all of it went through the line: {sent}");
    let waited = Duration::from_micros(after.waited_us - before.waited_us);
    let datagrams = u32::try_from(after.delivered.datagrams - before.delivered.datagrams).expect("few");
    let mean = waited / datagrams;
    assert!(mean < QUEUE / 4, "a datagram waited {mean:?} in the mean: the router is choked");
    let dropped = after.queue_full.datagrams - before.queue_full.datagrams;
    assert!(dropped * 100 < u64::from(datagrams), "its queue was full: {dropped} datagrams were dropped");
    lined.stop();
}

/// How long a file's first bytes take in round trips of a line so long that what the machine does is next to nothing: a handshake and
/// a request for the head; a request each for table, manifest and bytes, and a handshake before those that go to a node not met
/// before; and how fast 64 KiB may go out at first. Six where all nodes were met, more by chance. A range that follows is one request to one
/// node.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_bytes_are_so_many_round_trips_away() {
    const ONE_WAY: Duration = Duration::from_millis(500);
    let lined = Lined::start().await;
    let source = lined.folder.path().join("file");
    fs::write(&source, shard(1, 4 * MIB)).expect("written");
    let client = lined.client("writer").await;
    let link = client.put_anonymous(&[source], &PutOptions::default()).await.expect("put").link;
    client.shut_down().await;
    let way = Link { one_way_delay: ONE_WAY, ..Link::default() };
    lined.shaper.set_link(Both { up: way, down: way }).expect("a line");
    let client = lined.client("reader").await;
    let trips = |begun: Instant| begun.elapsed().div_duration_f64(2 * ONE_WAY);
    let begun = Instant::now();
    let file = client.snapshot(&link).await.expect("found").file(b"file").await.expect("a file");
    let (found, read) = (trips(begun), file.read_range(0, 65_536).await.expect("read"));
    let cold = trips(begun);
    assert!(read == shard(1, 4 * MIB)[..65_536]);
    let begun = Instant::now();
    let again = file.read_range(0, 65_536).await.expect("read");
    let warm = trips(begun);
    assert!(again == read);
    println!("round trips: {found:.2} to the file, {cold:.2} to its first 64 KiB, {warm:.2} for 64 KiB after that");
    assert!(found < 8.0 && cold < 11.0 && warm < 3.0, "{found:.2} {cold:.2} {warm:.2} round trips");
    client.shut_down().await;

    // A node is asked by a process that has not been connected to it, and by one that was a while ago.
    let options = DataPlaneOptions {
        datagram_max_bytes: Some(DATAGRAM_BYTES),
        pool_idle: Duration::from_millis(200),
        ..DataPlaneOptions::default()
    };
    let data = DataClient::new(&Identity::generate().expect("random"), options).expect("a client");
    let id = lined.nodes[0].status().node.parse().expect("a node id");
    let node = NodeAddress { id, addresses: vec![lined.shaper.doors()[0]] };
    let mut asked = Vec::new();
    for _ in 0..2 {
        let begun = Instant::now();
        data.call(&node, Request::Describe, Payload::none()).await.expect("an answer");
        asked.push(trips(begun));
        wait_until(async || data.path_reports().is_empty()).await;
    }
    let (new, back) = (asked[0], asked[1]);
    println!("round trips: {new:.2} for a request to a node not met before, {back:.2} to one that was");
    assert!(new < 3.0 && back < 1.9, "{new:.2} {back:.2} round trips");
    data.shut_down().await;
    lined.stop();
}
