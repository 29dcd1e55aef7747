//! What one call does: payload both ways, refusals, stalls, giving up.

use std::sync::atomic::{AtomicU64, Ordering};

use super::*;
use crate::{LocalFault, PathClass, PeerFault, code};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn payload_goes_both_ways_in_large_datagrams() {
    let mut running = Running::start(1, DataPlaneOptions::default());
    let client = client(DataPlaneOptions::default());
    let bytes = pattern(5 * MIB + 17);
    let pieces = vec![bytes.slice(..3), bytes.slice(3..2 * MIB), Bytes::new(), bytes.slice(2 * MIB..)];
    let progress = Arc::new(AtomicU64::new(0));
    let payload = Payload::of(pieces).with_progress(Arc::clone(&progress));
    let mut response =
        client.call(&running.node, running.put(Behaviour::Proper, bytes.len()), payload).await.expect("a receipt");
    assert!(matches!(response.reply, Reply::Put(_)));
    assert_eq!(response.payload.next().await, Ok(None));
    assert_eq!(progress.load(Ordering::Relaxed), bytes.len() as u64);
    assert_eq!(running.seen.recv().await, Some((bytes.len() as u64, None)));

    let asked = get(Behaviour::Proper, 1000, 4 * MIB);
    let mut response = client.call(&running.node, asked, Payload::none()).await.expect("bytes");
    let mut received = Vec::new();
    while let Some(piece) = response.payload.next().await.expect("whole") {
        received.extend_from_slice(&piece);
        assert_eq!(response.payload.remaining_bytes(), (4 * MIB - received.len()) as u64);
    }
    assert_eq!(received, bytes[1000..1000 + 4 * MIB]);
    assert_eq!(response.payload.next().await, Ok(None), "the end stays the end");

    let asked = get(Behaviour::Proper, 0, bytes.len());
    let mut response = client.call(&running.node, asked, Payload::none()).await.expect("bytes");
    assert_eq!(response.payload.read_to_end().await, Ok(bytes));

    for (_, path) in client.path_reports().into_iter().chain(running.server.path_reports()) {
        assert_eq!(path.class, PathClass::Loopback);
        assert_eq!(path.black_holes_detected, 0);
        #[cfg(target_os = "linux")]
        assert!(path.datagram_bytes > 16_000, "{} bytes a datagram", path.datagram_bytes);
    }
    assert!(client.socket_reports()[0].sent_bytes > 5 * MIB as u64);
    assert!(running.server.report().socket.received_bytes > 5 * MIB as u64);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_socket_buffers_do_not_lead_to_small_datagrams() {
    // What an unprivileged process gets on most systems: room for a handful of loopback's datagrams.
    let options = DataPlaneOptions { socket_buffer_bytes: 212_992, ..Default::default() };
    let nodes: Vec<_> = (1..=8).map(|seed| Running::start(seed, options.clone())).collect();
    let client = client(options);
    let bytes = pattern(8 * MIB);
    let get_from = |running: &Running| {
        let (client, node, bytes) = (client.clone(), running.node.clone(), bytes.clone());
        let put = running.put(Behaviour::Proper, bytes.len());
        async move {
            client.call(&node, put, bytes.clone().into()).await.expect("a receipt");
            let asked = get(Behaviour::Proper, 0, bytes.len());
            let mut response = client.call(&node, asked, Payload::none()).await.expect("bytes");
            assert_eq!(response.payload.read_to_end().await, Ok(bytes));
        }
    };
    futures::future::join_all(nodes.iter().map(get_from)).await;
    #[cfg(target_os = "linux")]
    for running in &nodes {
        for (_, path) in running.server.path_reports() {
            assert!(path.datagram_bytes >= 16_000, "{path:?}");
        }
    }
}

#[tokio::test]
async fn another_key_at_the_address_is_the_peers_fault() {
    let running = Running::start(1, quick());
    let stranger = Identity::from_bytes(&[2; 32]).node_id();
    let node = NodeAddress { id: stranger, addresses: running.node.addresses.clone() };
    let result = ask(&client(quick()), &node, Behaviour::Proper).await;
    assert!(
        matches!(result, Err(CallError::Peer { node, fault: PeerFault::WrongKey(_) }) if node == stranger),
        "{result:?}"
    );
    assert_eq!(running.server.report().requests, 0);
}

#[tokio::test]
async fn a_silent_address_is_unreachable_and_does_not_hide_a_good_one() {
    let running = Running::start(1, quick());
    let silent = std::net::UdpSocket::bind(loopback(0)).expect("a socket that never answers");
    let dead = silent.local_addr().expect("bound");
    let node = NodeAddress { id: running.node.id, addresses: vec![dead] };
    let result = ask(&client(quick()), &node, Behaviour::Proper).await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
    let node = NodeAddress { id: running.node.id, addresses: vec![dead, running.node.addresses[0]] };
    ask(&client(quick()), &node, Behaviour::Proper).await.expect("the second address answers");
    let node = NodeAddress { id: running.node.id, addresses: vec![] };
    let result = ask(&client(quick()), &node, Behaviour::Proper).await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
}

#[tokio::test]
async fn an_early_refusal_is_seen_before_the_payload_is_sent() {
    let running = Running::start(1, DataPlaneOptions::default());
    let client = client(DataPlaneOptions::default());
    let progress = Arc::new(AtomicU64::new(0));
    let payload = Payload::from(pattern(32 * MIB)).with_progress(Arc::clone(&progress));
    let refused = client.call(&running.node, running.put(Behaviour::RefuseEarly, 32 * MIB), payload).await;
    assert_eq!(refusal(refused), ErrorCode::QuotaExceeded);
    assert!(progress.load(Ordering::Relaxed) < 16 * MIB as u64, "most of it was never sent");
    ask(&client, &running.node, Behaviour::Proper).await.expect("the connection is as good as before");
    assert_eq!(running.server.report().accepted, 1);
}

#[tokio::test]
async fn a_node_that_reads_nothing_stalls() {
    let running = Running::start(1, DataPlaneOptions::default());
    let client = client(quick());
    let hung = client.call(&running.node, running.put(Behaviour::Hang, 32 * MIB), pattern(32 * MIB).into()).await;
    assert!(matches!(hung, Err(CallError::Stalled { deadline, .. }) if deadline == quick().progress_deadline));
    let hung = ask(&client, &running.node, Behaviour::Hang).await;
    assert!(matches!(hung, Err(CallError::Stalled { .. })), "nor does one that answers nothing move");
}

#[tokio::test]
async fn a_slow_transfer_that_moves_is_not_cut_off() {
    let options = DataPlaneOptions { window_start_bytes: 64 * 1024, window_max_bytes: 64 * 1024, ..quick() };
    let mut running = Running::start(1, options.clone());
    let client = client(options);
    // Some fifty reads of at most a datagram with 20 ms between them: several times the progress deadline.
    let length = 3 * MIB;
    let slow = client.call(&running.node, running.put(Behaviour::Slow, length), pattern(length).into()).await;
    slow.expect("a receipt in the end");
    assert_eq!(running.seen.recv().await, Some((length as u64, None)));
}

#[tokio::test]
async fn an_answers_payload_that_stops_coming_is_named() {
    let running = Running::start(1, DataPlaneOptions::default());
    let client = client(quick());
    client.call(&running.node, running.put(Behaviour::Proper, MIB), pattern(MIB).into()).await.expect("stored");

    let asked = get(Behaviour::BreakOff, 0, MIB);
    let mut response = client.call(&running.node, asked, Payload::none()).await.expect("a header");
    let error = response.payload.read_to_end().await.expect_err("half of it");
    assert_eq!(error, StreamError::GivenUp(code::BROKEN.into_inner()));
    assert_eq!(response.payload.next().await, Err(error), "a failed payload never looks ended");

    let asked = get(Behaviour::StallPayload, 0, MIB);
    let mut response = client.call(&running.node, asked, Payload::none()).await.expect("a header");
    assert_eq!(response.payload.next().await, Err(StreamError::Stalled(quick().progress_deadline)));
}

#[tokio::test]
async fn a_request_without_an_answer_gets_one_all_the_same() {
    let running = Running::start(1, quick());
    let client = client(DataPlaneOptions::default());
    assert_eq!(refusal(ask(&client, &running.node, Behaviour::NoAnswer).await), ErrorCode::Internal);
    assert_eq!(refusal(ask(&client, &running.node, Behaviour::Panic).await), ErrorCode::Internal);
    ask(&client, &running.node, Behaviour::Proper).await.expect("one panic harms nobody else");
}

#[tokio::test]
async fn a_request_that_contradicts_itself_is_not_sent() {
    let running = Running::start(1, quick());
    let result = client(quick()).call(&running.node, running.put(Behaviour::Proper, 10), pattern(11).into()).await;
    assert!(matches!(result, Err(CallError::Local(LocalFault::Request(_)))), "{result:?}");
    assert_eq!(running.server.report().accepted, 0, "nobody was dialled for it");
}

#[tokio::test]
async fn dropping_a_call_tells_the_node() {
    let mut running = Running::start(1, DataPlaneOptions::default());
    let client = client(DataPlaneOptions::default());
    let payload = Payload::from(pattern(32 * MIB));
    let mut call = Box::pin(client.call(&running.node, running.put(Behaviour::Slow, 32 * MIB), payload));
    while running.server.report().requests == 0 {
        // The handler is slow, so the call cannot be over.
        tokio::select! {
            result = &mut call => panic!("over too soon: {result:?}"),
            () = tokio::time::sleep(Duration::from_millis(1)) => {}
        }
    }
    drop(call);
    let (received, error) = running.seen.recv().await.expect("the handler saw it");
    assert!(received < 32 * MIB as u64);
    assert_eq!(error, Some(StreamError::GivenUp(code::CANCELLED.into_inner())));
    ask(&client, &running.node, Behaviour::Proper).await.expect("the connection is as good as before");
}
