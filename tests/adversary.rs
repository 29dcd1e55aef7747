//! Peers that break the protocol against a real node process: raw QUIC streams under a valid certificate.
//!
//! The node answers each with a named error, keeps serving others, stays within its memory and never panics.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use dolmen_net::{Identity, NodeAddress, raw_connection};
use dolmen_proto::limits::WIRE_HEADER_MAX_BYTES;
use dolmen_proto::root::root_of;
use dolmen_proto::wire::{ErrorCode, Reply, Request, frame};
use dolmen_tests::processes::{DEADLINE, TestNode};
use dolmen_tests::shards::{Owner, Trouble, now, shard};
use quinn::{Connection, Endpoint, RecvStream};
use tokio::time::timeout;

/// When a client comes back to a busy node.
const COME_BACK: Duration = Duration::from_secs(1);
const MIB: usize = 1024 * 1024;
/// Memory that a node may have whatever its peers do: its budget of 128 MiB and what the program itself takes.
const RESIDENT_MAX_BYTES: u64 = 400 * 1024 * 1024;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"))
}

async fn hostile(node: &NodeAddress) -> (Endpoint, Connection) {
    let identity = Identity::generate().expect("random bytes");
    raw_connection(&identity, node.id, node.addresses[0]).await.expect("a connection")
}

/// The node's answer on this stream; `None` when it gave the stream up without one.
async fn answer(mut receive: RecvStream) -> Option<Reply> {
    let bytes = timeout(DEADLINE, receive.read_to_end(MIB)).await.expect("an answer in time").ok()?;
    let header = bytes.get(frame::LENGTH_BYTES..)?;
    Some(frame::parse_reply(Bytes::copy_from_slice(header)).expect("a node's answers are well formed"))
}

/// Sends these bytes as a whole stream, and gives the error that the node answers with.
async fn told(connection: &Connection, bytes: &[u8]) -> ErrorCode {
    let (mut send, receive) = connection.open_bi().await.expect("a stream");
    // A node that has answered need not read the rest.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let reply = answer(receive).await.expect("an answer");
    reply.into_result().expect_err("an error").code()
}

fn framed(header: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).expect("small").to_le_bytes();
    [&length, header].concat()
}

/// A node that has a shard, whose owner will ask for it again.
struct World {
    _folder: tempfile::TempDir,
    node: TestNode,
    kept: Bytes,
}

impl World {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut node = TestNode::make(program(), folder.path(), &["data"], "");
        node.start();
        let kept = shard(1, 300_000);
        Owner::new(0).put(&node.address(), &kept).await.expect("a receipt");
        Self { _folder: folder, node, kept }
    }

    /// The node does for others what it is there for. It may be busy for a while: clients come back then.
    async fn still_serves(&self, number: u64) {
        let (owner, address) = (Owner::new(0), self.node.address());
        let (root, fresh) = (root_of(&self.kept), shard(1000 + number, 50_000));
        let served = async {
            let read = loop {
                match owner.get(&address, root, self.kept.len()).await {
                    Err(Trouble::Refused(ErrorCode::Busy)) => tokio::time::sleep(COME_BACK).await,
                    read => break read,
                }
            };
            assert_eq!(read.expect("the shard"), self.kept);
            while let Err(error) = owner.put(&address, &fresh).await {
                assert_eq!(error.code(), ErrorCode::Busy);
                tokio::time::sleep(COME_BACK).await;
            }
        };
        timeout(DEADLINE, served).await.expect("in time");
        if let Some(resident) = self.node.resident_bytes() {
            assert!(resident < RESIDENT_MAX_BYTES, "{resident} bytes");
        }
        assert!(!self.node.log().contains("panicked"), "{}", self.node.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_none_are_answered_by_name() {
    let world = World::new().await;
    let (_endpoint, connection) = hostile(&world.node.address()).await;
    let over = u32::try_from(WIRE_HEADER_MAX_BYTES + 1).expect("small").to_le_bytes();
    assert_eq!(told(&connection, &over).await, ErrorCode::TooLarge);
    assert_eq!(told(&connection, &[&u32::MAX.to_le_bytes()[..], &[7; 200_000]].concat()).await, ErrorCode::TooLarge);
    assert_eq!(told(&connection, &[]).await, ErrorCode::Malformed);
    assert_eq!(told(&connection, &framed(&[0xff; 100])).await, ErrorCode::Malformed);
    // Field 100 is a call of the future; field 15 says the version that it is written in.
    assert_eq!(told(&connection, &framed(&[0x78, 1, 0xa2, 0x06, 0])).await, ErrorCode::Unsupported);
    assert_eq!(told(&connection, &framed(&[0x78, 99, 0xa2, 0x06, 0])).await, ErrorCode::VersionNotSupported);
    // A proper request cut off everywhere, and with every byte changed: an answer each time, and never a panic.
    let owner = Owner::new(5);
    let address = world.node.address();
    let bytes = shard(2, 100);
    let request = owner.put_request(address.id, root_of(&bytes), bytes.len() as u64, now());
    let header = frame::encode_request(&request).expect("small");
    for length in (1..header.len()).step_by(3) {
        assert_eq!(told(&connection, &header[..length]).await, ErrorCode::Malformed, "cut off after {length}");
    }
    for at in frame::LENGTH_BYTES..header.len() {
        let mut changed = header.clone();
        changed[at] ^= 0x11;
        let code = told(&connection, &[&changed[..], &bytes[..]].concat()).await;
        // Nothing of it is stored under terms that were not signed.
        assert_ne!(code, ErrorCode::Internal, "byte {at}");
    }
    for number in 0..200 {
        let garbage = shard(number, 1 + usize::try_from(number * 37 % 3000).expect("small"));
        let code = told(&connection, &framed(&garbage)).await;
        assert!(
            matches!(code, ErrorCode::Malformed | ErrorCode::Unsupported | ErrorCode::VersionNotSupported),
            "{code}"
        );
    }
    let held = owner.stat(&address, vec![root_of(&bytes)]).await.expect("an answer");
    assert_eq!(held, [Err(ErrorCode::NotHeld)]);
    world.still_serves(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payloads_that_are_not_what_was_signed_are_refused_and_forgotten() {
    let world = World::new().await;
    let address = world.node.address();
    let (_endpoint, connection) = hostile(&address).await;
    let owner = Owner::new(6);
    let bytes = shard(3, 200_000);
    let root = root_of(&bytes);
    let request = owner.put_request(address.id, root, bytes.len() as u64, now());
    let header = frame::encode_request(&request).expect("small");
    let with = |payload: &[u8]| [&header[..], payload].concat();
    let mut wrong = bytes.to_vec();
    wrong[199_999] ^= 1;
    assert_eq!(told(&connection, &with(&wrong)).await, ErrorCode::RootMismatch);
    assert_eq!(told(&connection, &with(&bytes[..199_999])).await, ErrorCode::LengthMismatch);
    assert_eq!(told(&connection, &with(&[])).await, ErrorCode::LengthMismatch);
    assert_eq!(told(&connection, &with(&[&bytes[..], &[0]].concat())).await, ErrorCode::LengthMismatch);
    assert_eq!(told(&connection, &with(&[&bytes[..], &vec![0; 4 * MIB]].concat())).await, ErrorCode::LengthMismatch);
    // Terms meant for another node, and terms by a key that is not the account's.
    let elsewhere = owner.put_request(Identity::generate().expect("random").node_id(), root, 200_000, now());
    let elsewhere = [&frame::encode_request(&elsewhere).expect("small")[..], &bytes[..]].concat();
    assert_eq!(told(&connection, &elsewhere).await, ErrorCode::Unauthorised);
    let held = owner.stat(&address, vec![root]).await.expect("an answer");
    assert_eq!(held, [Err(ErrorCode::NotHeld)], "nothing of all that is kept");
    // The same terms with the right bytes are good.
    owner.put(&address, &bytes).await.expect("a receipt");
    world.still_serves(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn floods_and_slow_peers_hold_up_nobody() {
    let world = World::new().await;
    let address = world.node.address();
    // Thousands of streams on a few connections, each with the beginning of a request and no more.
    let mut flood = Vec::new();
    for _ in 0..8 {
        let (endpoint, connection) = hostile(&address).await;
        let mut streams = Vec::new();
        // The node lets so many in at a time; the others wait at this end.
        while let Ok(Ok((mut send, receive))) = timeout(Duration::from_millis(200), connection.open_bi()).await {
            let _ = send.write_all(&100_u32.to_le_bytes()).await;
            streams.push((send, receive));
            assert!(streams.len() < 5000, "one peer has as many streams as it likes");
        }
        flood.push((endpoint, connection, streams));
    }
    world.still_serves(3).await;

    // Streams that are opened and given up at once, thousands of them.
    let (_endpoint, connection) = hostile(&address).await;
    let mut given_up = 0;
    while given_up < 4000 {
        let Ok(opened) = timeout(Duration::from_secs(5), connection.open_bi()).await else { break };
        let Ok((mut send, mut receive)) = opened else { break };
        let _ = send.write_all(&framed(&shard(given_up, 40))).await;
        let _ = send.reset(7_u32.into());
        let _ = receive.stop(7_u32.into());
        given_up += 1;
    }
    assert!(given_up > 0);
    world.still_serves(4).await;

    // Puts of the largest shard that send a byte now and then: memory is not set aside for what is only announced.
    let owner = Owner::new(9);
    let mut slow = Vec::new();
    for number in 0..32 {
        let (_, connection, _) = &flood[number % flood.len()];
        let root = root_of(&shard(number as u64, 10));
        let request = owner.put_request(address.id, root, 32 * MIB as u64, now());
        let header = frame::encode_request(&request).expect("small");
        let Ok(Ok((mut send, receive))) = timeout(Duration::from_millis(100), connection.open_bi()).await else {
            continue;
        };
        let _ = send.write_all(&header).await;
        let _ = send.write_all(b"x").await;
        slow.push((send, receive));
    }
    for _ in 0..5 {
        for (send, _) in &mut slow {
            let _ = timeout(Duration::from_millis(50), send.write_all(b"x")).await;
        }
    }
    world.still_serves(5).await;

    // Readers that ask for everything and take nothing.
    let (_endpoint, connection) = hostile(&address).await;
    let get = Request::Get(dolmen_proto::wire::GetRequest {
        root: root_of(&world.kept),
        length_bytes: world.kept.len() as u64,
        offset_bytes: 0,
        count_bytes: world.kept.len() as u64,
        proof: false,
    });
    let get = frame::encode_request(&get).expect("small");
    let mut readers = Vec::new();
    for _ in 0..64 {
        let Ok(Ok((mut send, receive))) = timeout(Duration::from_millis(200), connection.open_bi()).await else {
            break;
        };
        let _ = send.write_all(&get).await;
        let _ = send.finish();
        readers.push((send, receive));
    }
    world.still_serves(6).await;
    drop((flood, slow, readers));
    world.still_serves(7).await;
}
