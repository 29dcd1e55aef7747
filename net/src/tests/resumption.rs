//! Clients that come back: what is sent with the first packet, and what nobody gets out of a recording of it.

use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use dolmen_proto::ids::NodeId;
use dolmen_proto::wire::frame;

use super::*;
use crate::resumption::SessionCache;
use crate::tls::{SERVER_NAME, Tls};

/// Connections that are let go of soon.
fn forgetful() -> DataPlaneOptions {
    DataPlaneOptions { pool_idle: Duration::from_millis(40), ..quick() }
}

/// Passes datagrams on between one client and a server, remembers the client's, and keeps the server's back when it is told to.
struct Relay {
    address: SocketAddr,
    server: SocketAddr,
    from_client: Arc<Mutex<Vec<Vec<u8>>>>,
    deaf: Arc<AtomicBool>,
    kept_back_bytes: Arc<AtomicUsize>,
}

impl Relay {
    async fn start(server: SocketAddr) -> Self {
        let inside = tokio::net::UdpSocket::bind(loopback(0)).await.expect("a socket");
        let outside = tokio::net::UdpSocket::bind(loopback(0)).await.expect("a socket");
        let address = inside.local_addr().expect("bound");
        let from_client = Arc::new(Mutex::new(Vec::new()));
        let deaf = Arc::new(AtomicBool::new(false));
        let kept_back_bytes = Arc::new(AtomicUsize::new(0));
        let (seen, keeps_back, kept) = (Arc::clone(&from_client), Arc::clone(&deaf), Arc::clone(&kept_back_bytes));
        tokio::spawn(async move {
            let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((length, from)) = inside.recv_from(&mut up) => {
                        client = Some(from);
                        seen.lock().expect("no panic").push(up[..length].to_vec());
                        // Sockets may be gone at the test's end.
                        let _ = outside.send_to(&up[..length], server).await;
                    }
                    Ok((length, _)) = outside.recv_from(&mut down) => {
                        if keeps_back.load(Ordering::Relaxed) {
                            kept.fetch_add(length, Ordering::Relaxed);
                        } else if let Some(client) = client {
                            let _ = inside.send_to(&down[..length], client).await;
                        }
                    }
                }
            }
        });
        Self { address, server, from_client, deaf, kept_back_bytes }
    }

    fn forget(&self) {
        self.from_client.lock().expect("no panic").clear();
    }

    /// Sends what the client sent once more, from elsewhere.
    fn repeat(&self) -> usize {
        let socket = UdpSocket::bind(loopback(0)).expect("a socket");
        let datagrams = self.from_client.lock().expect("no panic").clone();
        for datagram in &datagrams {
            socket.send_to(datagram, self.server).expect("sent");
        }
        datagrams.len()
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("{what} did not come about");
}

async fn until_idle(running: &Running) {
    until("an idle server", || running.server.report().connections == 0).await;
}

/// Starts a server where another was.
async fn start_where(address: SocketAddr, seed: u8) -> Running {
    until("a free port", || UdpSocket::bind(address).is_ok()).await;
    Running::start_at(address, seed, DataPlaneOptions::default())
}

#[tokio::test]
async fn a_client_that_comes_back_resumes() {
    let running = Running::start(1, DataPlaneOptions::default());
    let client = client(forgetful());
    for visit in 0..4 {
        ask(&client, &running.node, Behaviour::Proper).await.expect("an answer");
        until_idle(&running).await;
        let report = running.server.report();
        assert_eq!((report.accepted, report.resumed, report.requests), (visit + 1, visit, visit + 1));
    }
    // What changes something waits for the handshake and comes through all the same.
    let bytes = pattern(3 * MIB);
    client.call(&running.node, running.put(Behaviour::Proper, bytes.len()), bytes.clone().into()).await.expect("put");
    until_idle(&running).await;
    let mut got =
        client.call(&running.node, get(Behaviour::Proper, 0, bytes.len()), Payload::none()).await.expect("got");
    assert_eq!(got.payload.read_to_end().await.expect("all of it"), bytes);
    drop(got);
    until_idle(&running).await;
    let report = running.server.report();
    assert_eq!((report.accepted, report.resumed, report.handshakes_failed), (6, 5, 0));
    running.stop().await;
}

#[tokio::test]
async fn a_node_that_was_started_anew_is_asked_again() {
    let running = Running::start(1, DataPlaneOptions::default());
    let address = running.node.addresses[0];
    let client = client(forgetful());
    ask(&client, &running.node, Behaviour::Proper).await.expect("an answer");
    until_idle(&running).await;
    running.stop().await;
    let running = start_where(address, 1).await;
    // However many ask at once, each is answered once.
    let asking = (0..20).map(|_| ask(&client, &running.node, Behaviour::Proper));
    for answer in futures::future::join_all(asking).await {
        answer.expect("an answer");
    }
    let report = running.server.report();
    assert_eq!((report.resumed, report.requests), (0, 20), "the ticket was the other process's");
    running.stop().await;
}

#[tokio::test]
async fn another_key_at_the_address_gets_no_answer_taken() {
    let running = Running::start(1, DataPlaneOptions::default());
    let (node, address) = (running.node.clone(), running.node.addresses[0]);
    let client = client(forgetful());
    ask(&client, &node, Behaviour::Proper).await.expect("an answer");
    until_idle(&running).await;
    running.stop().await;
    let other = start_where(address, 2).await;
    match ask(&client, &node, Behaviour::Proper).await {
        Err(CallError::Peer { fault: crate::PeerFault::WrongKey(_), .. }) => {}
        other => panic!("not a wrong key: {other:?}"),
    }
    assert_eq!(other.server.report().requests, 0);
    other.stop().await;
}

#[tokio::test]
async fn a_node_that_died_is_unreachable_and_one_that_moved_is_found() {
    let running = Running::start(1, DataPlaneOptions::default());
    let mut node = running.node.clone();
    // There is room for one connection, which the early one must make for that to the new address.
    let client = client(DataPlaneOptions { connections_max: 1, ..forgetful() });
    ask(&client, &node, Behaviour::Proper).await.expect("an answer");
    until_idle(&running).await;
    running.stop().await;
    match ask(&client, &node, Behaviour::Proper).await {
        Err(CallError::Unreachable { .. }) => {}
        other => panic!("not unreachable: {other:?}"),
    }
    // Tickets are for one connection, so this one is got anew.
    let running = start_where(node.addresses[0], 1).await;
    ask(&client, &node, Behaviour::Proper).await.expect("an answer");
    until_idle(&running).await;
    running.stop().await;
    let moved = Running::start(1, DataPlaneOptions::default());
    node.addresses.insert(0, moved.node.addresses[0]);
    ask(&client, &node, Behaviour::Proper).await.expect("an answer from the new address");
    moved.stop().await;
}

#[tokio::test]
async fn a_recording_of_the_first_packets_is_refused() {
    let running = Running::start(1, DataPlaneOptions::default());
    let relay = Relay::start(running.node.addresses[0]).await;
    let node = NodeAddress { id: running.node.id, addresses: vec![relay.address] };
    let client = client(forgetful());
    ask(&client, &node, Behaviour::Proper).await.expect("an answer");
    until_idle(&running).await;
    relay.forget();
    ask(&client, &node, Behaviour::Proper).await.expect("an answer");
    until_idle(&running).await;
    let before = running.server.report();
    assert_eq!((before.resumed, before.requests), (1, 2));
    let received = before.socket.received_bytes;
    assert!(relay.repeat() > 0);
    until("the repeated datagrams", || running.server.report().socket.received_bytes > received).await;
    // The repeated hello begins a handshake that nobody ends, and what came with it cannot be read.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let after = running.server.report();
    assert_eq!((after.resumed, after.requests, after.requests_refused), (1, 2, 0));
    running.stop().await;
}

/// A client without manners comes back, says `request` at once and is deaf to all that the server says.
async fn deaf_visit(request: impl FnOnce(&Running) -> Request) -> (Running, Relay, Box<dyn std::any::Any>) {
    let running = Running::start(1, DataPlaneOptions { datagram_max_bytes: Some(1452), ..Default::default() });
    let relay = Relay::start(running.node.addresses[0]).await;
    let identity = Identity::generate().expect("random");
    let (endpoint, _) = crate::endpoint::open(loopback(0), &identity, None, 1 << 20).expect("an endpoint");
    let sessions = SessionCache::new(Tls::new(&identity).expect("tls"));
    let node: NodeId = running.node.id;
    let connect = || {
        let config = sessions.with(node, relay.address).expect("a configuration").client_config();
        endpoint.connect_with(config, relay.address, SERVER_NAME).expect("a dial")
    };
    let bytes = pattern(64 * 1024);
    let put = running.put(Behaviour::Proper, bytes.len());
    let first_client = client(forgetful());
    first_client.call(&running.node, put, bytes.into()).await.expect("put");
    drop(first_client);
    let first = connect().await.expect("a connection");
    until("a ticket", || sessions.resumable(node, &[relay.address]).is_some()).await;
    first.close(crate::code::CANCELLED, b"");
    until_idle(&running).await;
    relay.forget();
    relay.deaf.store(true, Ordering::Relaxed);
    let Ok((connection, _)) = connect().into_0rtt() else { panic!("no early connection") };
    let (mut send, receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&frame::encode_request(&request(&running)).expect("a request")).await.expect("written");
    send.finish().expect("open");
    until("the connection", || running.server.report().resumed == 1).await;
    (running, relay, Box::new((endpoint, connection, send, receive)))
}

#[tokio::test]
async fn reads_are_answered_before_the_handshake_is_over() {
    let (running, relay, held) = deaf_visit(|_| get(Behaviour::Proper, 0, 64 * 1024)).await;
    until("the request", || running.server.report().requests == 2).await;
    // A whole first window, and not only three times what the client has sent: its address is proven by the token.
    let answered = || relay.kept_back_bytes.load(Ordering::Relaxed);
    let sent = || relay.from_client.lock().expect("no panic").iter().map(Vec::len).sum::<usize>();
    until("the answer", || answered() > 3 * sent() + 1452).await;
    drop((held, relay));
    running.stop().await;
}

#[tokio::test]
async fn what_changes_something_waits_for_the_handshake() {
    let (running, relay, held) = deaf_visit(|running| running.put(Behaviour::Proper, 10)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let report = running.server.report();
    assert_eq!((report.connections, report.requests, report.requests_refused), (1, 1, 0), "nothing is done yet");
    relay.deaf.store(false, Ordering::Relaxed);
    until("the request", || running.server.report().requests == 2).await;
    drop((held, relay));
    running.stop().await;
}
