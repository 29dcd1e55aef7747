//! Connections and servers over time: shared dials, limits, eviction, draining, restarts.

use dolmen_proto::wire::frame;
use tokio::task::JoinSet;

use super::hostile::{raw_call, raw_connection};
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_first_calls_share_one_dial() {
    let running = Running::start(1, DataPlaneOptions::default());
    let client = client(DataPlaneOptions::default());
    let mut calls = JoinSet::new();
    for _ in 0..100 {
        let (client, node) = (client.clone(), running.node.clone());
        calls.spawn(async move { ask(&client, &node, Behaviour::Proper).await.map(|_| ()) });
    }
    while let Some(result) = calls.join_next().await {
        result.expect("no panic").expect("an answer");
    }
    let report = running.server.report();
    assert_eq!((report.accepted, report.requests), (1, 100));
}

#[tokio::test]
async fn a_failed_dial_is_shared_and_then_forgotten() {
    let silent = std::net::UdpSocket::bind(loopback(0)).expect("a socket that never answers");
    let port = silent.local_addr().expect("bound").port();
    let node = NodeAddress { id: Identity::from_bytes(&[1; 32]).node_id(), addresses: vec![loopback(port)] };
    let client = client(quick());
    let (one, two) = tokio::join!(ask(&client, &node, Behaviour::Proper), ask(&client, &node, Behaviour::Proper));
    assert!(matches!(one, Err(CallError::Unreachable { .. })));
    assert!(matches!(two, Err(CallError::Unreachable { .. })));
    drop(silent);
    let running = Running::start_at(loopback(port), 1, quick());
    ask(&client, &running.node, Behaviour::Proper).await.expect("the node is back");
}

#[tokio::test]
async fn a_full_pool_closes_the_connection_that_was_idle_longest() {
    let nodes: Vec<_> = (1..=4).map(|seed| Running::start(seed, quick())).collect();
    let client = client(DataPlaneOptions { connections_max: 2, ..quick() });
    for running in &nodes {
        ask(&client, &running.node, Behaviour::Proper).await.expect("an answer");
    }
    assert_eq!(client.path_reports().len(), 2);
    let pooled: Vec<_> = client.path_reports().into_iter().map(|(node, _)| node).collect();
    assert!(pooled.contains(&nodes[2].node.id) && pooled.contains(&nodes[3].node.id));
    ask(&client, &nodes[0].node, Behaviour::Proper).await.expect("dialled again");
}

#[tokio::test]
async fn connections_in_use_are_not_evicted() {
    let (one, two) = (Running::start(1, quick()), Running::start(2, quick()));
    let options = DataPlaneOptions { connections_max: 1, ..quick() };
    let client = client(DataPlaneOptions { progress_deadline: Duration::from_secs(20), ..options });
    let (busy, node) = (client.clone(), one.node.clone());
    let waiting = tokio::spawn(async move { ask(&busy, &node, Behaviour::Wait).await.map(|_| ()) });
    while one.server.report().requests == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let result = ask(&client, &two.node, Behaviour::Proper).await;
    assert!(matches!(result, Err(CallError::Local(_))), "{result:?}");
    one.release.send(true).expect("the handler waits");
    waiting.await.expect("no panic").expect("an answer");
    ask(&client, &two.node, Behaviour::Proper).await.expect("now there is a place");
}

#[tokio::test]
async fn idle_connections_are_closed() {
    let running = Running::start(1, quick());
    let client = client(DataPlaneOptions { pool_idle: Duration::from_millis(100), ..quick() });
    ask(&client, &running.node, Behaviour::Proper).await.expect("an answer");
    while running.server.report().connections > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(client.path_reports().is_empty());
    while running.server.report().window_bytes > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.window_bytes(), 0);
    ask(&client, &running.node, Behaviour::Proper).await.expect("dialled again");
}

#[tokio::test]
async fn one_key_has_so_many_connections_and_no_more() {
    let running = Running::start(1, DataPlaneOptions { connections_per_peer_max: 1, ..quick() });
    let identity = Identity::generate().expect("random");
    let first = DataClient::new(&identity, quick()).expect("a client");
    let second = DataClient::new(&identity, quick()).expect("a client");
    ask(&first, &running.node, Behaviour::Proper).await.expect("the first connection");
    let result = ask(&second, &running.node, Behaviour::Proper).await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
    ask(&client(quick()), &running.node, Behaviour::Proper).await.expect("another key");
    assert_eq!(running.server.report().refused, 1);
}

#[tokio::test]
async fn a_full_server_makes_room_by_closing_idle_connections() {
    let running = Running::start(1, DataPlaneOptions { connections_max: 2, ..quick() });
    let clients: Vec<_> = (0..3).map(|_| client(quick())).collect();
    for client in &clients[..2] {
        ask(client, &running.node, Behaviour::Proper).await.expect("an answer");
    }
    // The first attempt finds the server full and makes it close what is idle.
    for attempt in 0.. {
        match ask(&clients[2], &running.node, Behaviour::Proper).await {
            Ok(_) => break,
            Err(CallError::Unreachable { .. }) if attempt < 100 => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("{error}"),
        }
    }
    assert!(running.server.report().refused > 0);
    assert!(running.server.report().connections <= 2);
}

#[tokio::test]
async fn the_memory_budget_limits_connections() {
    // Both windows of two connections and no more.
    let options = DataPlaneOptions {
        memory_budget_bytes: 4 * 256 * 1024,
        window_start_bytes: 256 * 1024,
        window_max_bytes: 256 * 1024,
        ..quick()
    };
    let running = Running::start(1, options);
    let mut busy = JoinSet::new();
    for _ in 0..2 {
        let (client, node) = (client(DataPlaneOptions::default()), running.node.clone());
        busy.spawn(async move { ask(&client, &node, Behaviour::Wait).await.map(|_| ()) });
    }
    while running.server.report().requests < 2 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let result = ask(&client(quick()), &running.node, Behaviour::Proper).await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
    assert_eq!(running.server.report().window_bytes, 4 * 256 * 1024);
    running.release.send(true).expect("handlers wait");
    while let Some(result) = busy.join_next().await {
        result.expect("no panic").expect("an answer");
    }
}

#[tokio::test]
async fn a_busy_server_says_so() {
    let running = Running::start(1, DataPlaneOptions { streams_max: 1, ..quick() });
    let client = client(DataPlaneOptions::default());
    let (first, node) = (client.clone(), running.node.clone());
    let waiting = tokio::spawn(async move { ask(&first, &node, Behaviour::Wait).await.map(|_| ()) });
    while running.server.report().requests == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    match ask(&client, &running.node, Behaviour::Proper).await {
        Err(CallError::Refused { error, .. }) => {
            assert_eq!(error.code(), ErrorCode::Busy);
            assert!(error.retry_after().is_some());
        }
        other => panic!("{other:?}"),
    }
    running.release.send(true).expect("the handler waits");
    waiting.await.expect("no panic").expect("an answer");
}

#[tokio::test]
async fn a_drain_finishes_what_is_under_way_and_takes_nothing_new() {
    let mut running = Running::start(1, DataPlaneOptions::default());
    let client = client(quick());
    let patient = DataPlaneOptions { progress_deadline: Duration::from_secs(20), ..quick() };
    let (busy, node) = (super::client(patient), running.node.clone());
    let waiting = tokio::spawn(async move { ask(&busy, &node, Behaviour::Wait).await.map(|_| ()) });
    while running.server.report().requests == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(running.shutdown.take());
    loop {
        match ask(&client, &running.node, Behaviour::Proper).await {
            Err(CallError::Unreachable { .. }) => break,
            // The server has not heard of its shutdown yet.
            Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(!running.task.is_finished(), "it waits for the request under way");
    running.release.send(true).expect("the handler waits");
    waiting.await.expect("no panic").expect("the answer came");
    running.stop().await;
}

#[tokio::test]
async fn a_greedy_peer_has_a_quarter_of_the_places_and_another_is_served() {
    let running = Running::start(1, DataPlaneOptions { streams_max: 16, ..quick() });
    let patient = || client(DataPlaneOptions { progress_deadline: Duration::from_secs(600), ..quick() });
    let (greedy, other) = (patient(), patient());
    let (sender, mut answered) = mpsc::unbounded_channel();
    let mut calls = JoinSet::new();
    for _ in 0..16 {
        let (greedy, node, sender) = (greedy.clone(), running.node.clone(), sender.clone());
        calls.spawn(async move {
            let result = ask(&greedy, &node, Behaviour::Wait).await;
            sender.send(result.map(|_| ())).expect("the test listens");
        });
    }
    for _ in 0..12 {
        match answered.recv().await.expect("twelve answers") {
            Err(CallError::Refused { error, .. }) => assert_eq!(error.code(), ErrorCode::Busy),
            result => panic!("{result:?}"),
        }
    }
    assert_eq!(running.server.report().streams, 4);
    ask(&other, &running.node, Behaviour::Proper).await.expect("there are places for others");
    running.release.send(true).expect("the handlers wait");
    for _ in 0..4 {
        answered.recv().await.expect("four answers").expect("those that had a place are served");
    }
    ask(&greedy, &running.node, Behaviour::Proper).await.expect("nobody is barred");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_that_begin_during_a_drain_are_refused_and_starve_none_that_began_before() {
    const LENGTH: usize = 4 * MIB;
    // Each put is many times the window that all of one connection share.
    let options = DataPlaneOptions {
        window_start_bytes: 256 * 1024,
        window_max_bytes: 256 * 1024,
        drain_deadline: Duration::from_secs(60),
        ..DataPlaneOptions::default()
    };
    let mut running = Running::start(1, options);
    let (_endpoint, connection) = raw_connection(&running.node).await;
    let put = frame::encode_request(&running.put(Behaviour::Proper, LENGTH)).expect("small");
    let payload = pattern(LENGTH);
    let (first_part, rest) = payload.split_at(64 * 1024);
    let (mut send, mut receive) = connection.open_bi().await.expect("a stream");
    send.write_all(&[&put, first_part].concat()).await.expect("there is room for it");
    while running.server.report().requests == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    drop(running.shutdown.take());
    // Until the connection has heard of the shutdown it answers; from then on it refuses.
    let question = frame::encode_request(&stat(Behaviour::Proper)).expect("small");
    let refused = loop {
        match raw_call(&connection, &question).await {
            Reply::Error(error) => break error,
            _ => tokio::task::yield_now().await,
        }
    };
    assert_eq!(refused.code(), ErrorCode::ShuttingDown);
    let late = [&put, &payload[..]].concat();
    let late = futures::future::join_all((0..8).map(|_| raw_call(&connection, &late))).await;
    for reply in late {
        assert!(matches!(&reply, Reply::Error(error) if error.code() == ErrorCode::ShuttingDown), "{reply:?}");
    }
    send.write_all(rest).await.expect("the window is free");
    send.finish().expect("open");
    let answer = receive.read_to_end(1 << 20).await.expect("an answer");
    let reply = frame::parse_reply(Bytes::copy_from_slice(&answer[frame::LENGTH_BYTES..])).expect("a reply");
    assert!(matches!(reply, Reply::Put(_)), "{reply:?}");
    assert_eq!(running.seen.recv().await, Some((LENGTH as u64, None)), "the whole payload came");
    running.stop().await;
}

#[tokio::test]
async fn a_drain_does_not_wait_for_ever() {
    let running = Running::start(1, quick());
    let client = client(DataPlaneOptions::default());
    let (hung, node) = (client.clone(), running.node.clone());
    let waiting = tokio::spawn(async move { ask(&hung, &node, Behaviour::Hang).await.map(|_| ()) });
    while running.server.report().requests == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let server = Arc::clone(&running.server);
    running.stop().await;
    let result = waiting.await.expect("no panic");
    assert!(result.is_err(), "{result:?}");
    assert_eq!((server.report().connections, server.report().window_bytes), (0, 0));
}

#[tokio::test]
async fn a_node_that_was_killed_and_restarted_is_noticed_at_once() {
    let client = client(DataPlaneOptions::default());
    // A runtime of its own: dropping it stops everything without a word to anybody, as a kill does.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("one");
    let killed = runtime.spawn(async { Running::start(1, DataPlaneOptions::default()) }).await.expect("started");
    let node = killed.node.clone();
    ask(&client, &node, Behaviour::Proper).await.expect("an answer");
    runtime.shutdown_background();
    drop(killed);
    let mut again = None;
    while again.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
        again = std::net::UdpSocket::bind(node.addresses[0]).ok();
    }
    drop(again);
    let running = Running::start_at(node.addresses[0], 1, DataPlaneOptions::default());
    // By a stateless reset; without one this would stall until the progress deadline.
    let result = ask(&client, &node, Behaviour::Proper).await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
    ask(&client, &node, Behaviour::Proper).await.expect("dialled again");
    assert_eq!(running.server.report().accepted, 1);
}

#[tokio::test]
async fn a_client_that_shut_down_says_so() {
    let running = Running::start(1, quick());
    let client = client(quick());
    ask(&client, &running.node, Behaviour::Proper).await.expect("an answer");
    client.shut_down().await;
    let result = ask(&client, &running.node, Behaviour::Proper).await;
    assert!(matches!(result, Err(CallError::Local(_))), "{result:?}");
    while running.server.report().connections > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
