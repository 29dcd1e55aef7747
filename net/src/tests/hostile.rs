//! Peers that break the protocol: raw QUIC streams against a real server, raw answers against a real client.

use dolmen_proto::limits::WIRE_HEADER_MAX_BYTES;
use dolmen_proto::wire::frame;
use quinn::Endpoint;

use super::*;
use crate::PeerFault;
use crate::datagram::PathClass;
use crate::resumption::SessionCache;
use crate::tls::{SERVER_NAME, Tls};

/// A connection without any of the client's manners.
pub(super) async fn raw_connection(node: &NodeAddress) -> (Endpoint, quinn::Connection) {
    let identity = Identity::generate().expect("random");
    let (endpoint, _) = crate::endpoint::open(loopback(0), &identity, None, 1 << 20).expect("an endpoint");
    let sessions = SessionCache::new(Tls::new(&identity).expect("tls"));
    let mut config = sessions.with(node.id, node.addresses[0]).expect("a configuration").client_config();
    config.transport_config(PathClass::Loopback.transport(&DataPlaneOptions::default(), quinn::Side::Client));
    let connecting = endpoint.connect_with(config, node.addresses[0], SERVER_NAME).expect("a dial");
    let connection = connecting.await.expect("a connection");
    (endpoint, connection)
}

/// Sends these bytes as a whole request, and gives the answer.
pub(super) async fn raw_call(connection: &quinn::Connection, bytes: &[u8]) -> Reply {
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    // A server that answered early need not read the rest. quinn does not tell a writer so while the connection's window is full, so
    // the answer is read meanwhile.
    let answer = tokio::select! {
        answer = receive.read_to_end(1 << 20) => answer.expect("an answer"),
        never = async {
            let _ = send.write_all(bytes).await;
            let _ = send.finish();
            std::future::pending::<std::convert::Infallible>().await
        } => match never {},
    };
    frame::parse_reply(Bytes::copy_from_slice(&answer[frame::LENGTH_BYTES..])).expect("a reply")
}

/// The error code of the answer to these bytes.
async fn raw_ask(connection: &quinn::Connection, bytes: &[u8]) -> ErrorCode {
    raw_call(connection, bytes).await.into_result().expect_err("an error").code()
}

fn framed(header: &[u8]) -> Vec<u8> {
    let length = u32::try_from(header.len()).expect("small").to_le_bytes();
    [&length, header].concat()
}

#[tokio::test]
async fn requests_that_are_none_are_answered() {
    let running = Running::start(1, quick());
    let (_endpoint, connection) = raw_connection(&running.node).await;
    let over = u32::try_from(WIRE_HEADER_MAX_BYTES + 1).expect("small").to_le_bytes();
    assert_eq!(raw_ask(&connection, &over).await, ErrorCode::TooLarge);
    assert_eq!(raw_ask(&connection, &u32::MAX.to_le_bytes()).await, ErrorCode::TooLarge);
    assert_eq!(raw_ask(&connection, &framed(&[0xff; 100])).await, ErrorCode::Malformed);
    assert_eq!(raw_ask(&connection, &[]).await, ErrorCode::Malformed);
    assert_eq!(raw_ask(&connection, &[1, 0]).await, ErrorCode::Malformed);
    assert_eq!(raw_ask(&connection, &framed(&[0; 9])[..12]).await, ErrorCode::Malformed);
    // Field 15 is the protocol version; field 100, length-delimited and empty, is a call of the future.
    assert_eq!(raw_ask(&connection, &framed(&[0x78, 1, 0xa2, 0x06, 0])).await, ErrorCode::Unsupported);
    assert_eq!(raw_ask(&connection, &framed(&[0x78, 99, 0xa2, 0x06, 0])).await, ErrorCode::VersionNotSupported);
    let report = running.server.report();
    assert_eq!((report.requests, report.requests_refused), (0, 8));
}

#[tokio::test]
async fn a_header_that_never_comes_is_given_up() {
    let running = Running::start(1, quick());
    let (_endpoint, connection) = raw_connection(&running.node).await;
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&framed(&[0; 9])[..6]).await.expect("the beginning");
    let answer = receive.read_to_end(1 << 20).await.expect("an answer");
    let reply = frame::parse_reply(Bytes::copy_from_slice(&answer[4..])).expect("a reply");
    assert_eq!(reply.into_result().expect_err("an error").code(), ErrorCode::Malformed);
}

#[tokio::test]
async fn a_payload_of_another_length_than_declared_is_named() {
    let mut running = Running::start(1, quick());
    let (_endpoint, connection) = raw_connection(&running.node).await;
    let header = frame::encode_request(&running.put(Behaviour::Proper, 1000)).expect("small");
    for (sent, expected) in [
        (999, StreamError::Truncated { missing_bytes: 1 }),
        (0, StreamError::Truncated { missing_bytes: 1000 }),
        (1001, StreamError::Excess),
        (MIB, StreamError::Excess),
    ] {
        let (mut send, _receive) = connection.open_bi().await.expect("a stream");
        send.write_all(&header).await.expect("sent");
        // The server stops a payload that is too long.
        let _ = send.write_all(&pattern(sent)).await;
        let _ = send.finish();
        let (_, error) = running.seen.recv().await.expect("the handler saw it");
        assert_eq!(error, Some(expected));
    }
}

#[tokio::test]
async fn a_peer_without_a_certificate_gets_nowhere() {
    let running = Running::start(1, quick());
    let identity = Identity::generate().expect("random");
    let (endpoint, _) = crate::endpoint::open(loopback(0), &identity, None, 1 << 20).expect("an endpoint");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Tls::new(&identity).expect("tls").verifier_of(running.node.id))
        .with_no_client_auth();
    tls.alpn_protocols = vec![dolmen_proto::wire::ALPN.to_vec()];
    let tls = quinn::crypto::rustls::QuicClientConfig::try_from(tls).expect("tls");
    let config = quinn::ClientConfig::new(Arc::new(tls));
    let connected = endpoint.connect_with(config, running.node.addresses[0], SERVER_NAME).expect("a dial").await;
    // A client is done with its side of the handshake before the server looked for a certificate.
    if let Ok(connection) = connected {
        connection.closed().await;
    }
    let report = running.server.report();
    assert_eq!((report.accepted, report.handshakes_failed), (0, 1));
}

/// A node that answers every request with these bytes.
fn raw_server(answer: Vec<u8>) -> (NodeAddress, Endpoint) {
    let identity = Identity::generate().expect("random");
    let tls = Tls::new(&identity).expect("tls").server().expect("tls");
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(PathClass::Loopback.transport(&DataPlaneOptions::default(), quinn::Side::Server));
    let (endpoint, _) = crate::endpoint::open(loopback(0), &identity, Some(config), 1 << 20).expect("an endpoint");
    let node = NodeAddress { id: identity.node_id(), addresses: vec![endpoint.local_addr().expect("bound")] };
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            let connection = incoming.await.expect("a connection");
            while let Ok((mut send, _receive)) = connection.accept_bi().await {
                // The client stops an answer that is none.
                let _ = send.write_all(&answer).await;
                let _ = send.finish();
                let _ = send.stopped().await;
            }
        }
    });
    (node, endpoint)
}

#[tokio::test]
async fn answers_that_are_none_are_the_nodes_fault() {
    let wrong = frame::encode_reply(&Reply::Delete(vec![Ok(())])).expect("small");
    let over = [&u32::MAX.to_le_bytes()[..], &[0; 1000]].concat();
    let answers = [over, vec![], framed(&[0; 9])[..12].to_vec(), framed(&[0xff; 100]), framed(&[]), wrong];
    for answer in answers {
        let (node, _endpoint) = raw_server(answer.clone());
        let result = ask(&client(quick()), &node, Behaviour::Proper).await;
        let expected =
            matches!(&result, Err(CallError::Peer { fault: PeerFault::Malformed(_) | PeerFault::Truncated, .. }));
        assert!(expected, "{answer:?}: {result:?}");
    }
}

#[tokio::test]
async fn an_answer_with_more_or_less_payload_than_declared_is_named() {
    let header = Reply::Get(GetReply { length_bytes: 1000, payload_bytes: 1000 });
    let header = frame::encode_reply(&header).expect("small");
    for (sent, expected) in [(1001, StreamError::Excess), (990, StreamError::Truncated { missing_bytes: 10 })] {
        let (node, _endpoint) = raw_server([header.clone(), vec![7; sent]].concat());
        let asked = get(Behaviour::Proper, 0, 1000);
        let mut response = client(quick()).call(&node, asked, Payload::none()).await.expect("a header");
        assert_eq!(response.payload.read_to_end().await, Err(expected));
    }
    // More than was asked for is refused by the header alone.
    let (node, _endpoint) = raw_server(header);
    let asked = get(Behaviour::Proper, 0, 999);
    let result = client(quick()).call(&node, asked, Payload::none()).await;
    assert!(matches!(result, Err(CallError::Peer { fault: PeerFault::Malformed(_), .. })), "{result:?}");
}
