//! The shaper between real sockets: everything comes through unchanged, and what is set takes effect.

use std::io::{BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use super::super::process::serve;
use super::super::{Both, DOORS_MAX, Link, LinkError, Shaper, ShaperError, ShaperOptions};

/// Far longer than anything here takes; only a failure waits for it.
const PATIENCE: Duration = Duration::from_secs(20);

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket on loopback");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

fn both(link: Link) -> Both<Link> {
    Both { up: link, down: link }
}

fn shaper(servers: &[&UdpSocket], link: Link) -> Shaper {
    let servers = servers.iter().map(|socket| socket.local_addr().expect("bound")).collect();
    Shaper::start(&ShaperOptions { servers, links: both(link), seed: 1 }).expect("a shaper starts")
}

/// A datagram whose every byte depends on its number.
fn content(number: usize, bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| u8::try_from((number * 31 + index * 7 + index / 251) % 251).expect("under 251")).collect()
}

fn receive(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (bytes, from) = socket.recv_from(&mut buffer).expect("a datagram within patience");
    buffer.truncate(bytes);
    (buffer, from)
}

#[test]
fn everything_comes_through_unchanged_and_in_order() {
    for link in [Link::default(), Link::new(1_000_000_000, Duration::from_millis(2))] {
        let server = socket();
        let shaper = shaper(&[&server], link);
        let client = socket();
        let mut number = 0;
        let mut total = 0;
        for round in 0..40_usize {
            // Few enough at once that no socket buffer overflows.
            let sizes = [0, 1, 1200, 1452, 1452, 1452, 700, 9000, 65_000 - round, 33_000, 1452, 1452];
            let sent: Vec<Vec<u8>> = sizes
                .iter()
                .map(|bytes| {
                    number += 1;
                    content(number, *bytes)
                })
                .collect();
            for datagram in &sent {
                client.send_to(datagram, shaper.doors()[0]).expect("sent");
            }
            for datagram in &sent {
                let (received, from) = receive(&server);
                assert!(received == *datagram, "{} bytes came for {}", received.len(), datagram.len());
                server.send_to(&received, from).expect("sent back");
            }
            for datagram in &sent {
                let (received, from) = receive(&client);
                assert!(received == *datagram, "{} bytes came back for {}", received.len(), datagram.len());
                assert_eq!(from, shaper.doors()[0]);
                total += datagram.len() as u64;
            }
        }
        let counters = shaper.stop().expect("it ran");
        for one in [counters.up, counters.down] {
            assert_eq!(one.received.datagrams, number as u64);
            assert_eq!((one.delivered, one.delivered.bytes), (one.received, total));
        }
    }
}

#[test]
fn each_client_and_each_door_has_its_own_answers() {
    let servers = [socket(), socket()];
    let shaper =
        shaper(&[&servers[0], &servers[1]], Link { one_way_delay: Duration::from_millis(1), ..Link::default() });
    let clients = [socket(), socket(), socket()];
    for (number, client) in clients.iter().enumerate() {
        for (door, server) in servers.iter().enumerate() {
            let question = content(number * 2 + door, 100 + number);
            client.send_to(&question, shaper.doors()[door]).expect("sent");
            let (received, from) = receive(server);
            assert_eq!(received, question);
            let answer = content(100 + number * 2 + door, 200);
            server.send_to(&answer, from).expect("answered");
            assert_eq!(receive(client), (answer, shaper.doors()[door]));
        }
    }
    // A stranger who finds a client's socket at the server's side is not let through.
    clients[0].send_to(b"who am I?", shaper.doors()[0]).expect("sent");
    let (_, inside) = receive(&servers[0]);
    socket().send_to(b"not from the server", inside).expect("sent");
    servers[0].send_to(b"from the server", inside).expect("sent");
    assert_eq!(receive(&clients[0]).0, b"from the server");
}

/// One-sided, so that a slow machine cannot fail it.
#[test]
fn nothing_comes_early() {
    let server = socket();
    let shaper = shaper(&[&server], Link { one_way_delay: Duration::from_millis(100), ..Link::default() });
    let client = socket();
    for number in 0..3 {
        let sent = Instant::now();
        client.send_to(&content(number, 100), shaper.doors()[0]).expect("sent");
        let (question, from) = receive(&server);
        assert!(sent.elapsed() >= Duration::from_millis(95), "{:?}", sent.elapsed());
        server.send_to(&question, from).expect("answered");
        assert_eq!(receive(&client).0, content(number, 100));
        assert!(sent.elapsed() >= Duration::from_millis(190), "{:?}", sent.elapsed());
    }
}

#[test]
fn what_is_set_takes_effect_while_it_runs() {
    let servers = [socket(), socket()];
    let shaper = shaper(&[&servers[0], &servers[1]], Link::default());
    let client = socket();
    let cut = Link { loss: 1.0, ..Link::default() };
    shaper.set_door_link(0, Some(both(cut))).expect("door 0 is there");
    client.send_to(b"into the void", shaper.doors()[0]).expect("sent");
    client.send_to(b"to the other", shaper.doors()[1]).expect("sent");
    assert_eq!(receive(&servers[1]).0, b"to the other");
    shaper.set_door_link(0, None).expect("door 0 is there");
    shaper.set_link(both(Link { datagram_max_bytes: 1452, ..Link::default() })).expect("a sane link");
    client.send_to(&content(1, 1453), shaper.doors()[0]).expect("sent");
    client.send_to(&content(2, 1452), shaper.doors()[0]).expect("sent");
    assert_eq!(receive(&servers[0]).0, content(2, 1452));
    let counters = shaper.counters().expect("it runs").up;
    assert_eq!((counters.lost.datagrams, counters.too_large.datagrams, counters.too_large.bytes), (1, 1, 1453));
    assert_eq!((counters.received.datagrams, counters.delivered.datagrams), (4, 2));
    assert!(matches!(shaper.set_door_link(2, None), Err(ShaperError::NoSuchDoor(2))));
    let refused = shaper.set_link(both(Link { loss: 2.0, ..Link::default() }));
    assert!(matches!(refused, Err(ShaperError::Link(LinkError::Fraction { what: "loss", .. }))));
}

#[test]
fn what_cannot_be_shaped_is_refused() {
    let links = both(Link::default());
    let elsewhere = SocketAddr::from(([192, 0, 2, 1], 4433));
    let refused = Shaper::start(&ShaperOptions { servers: vec![elsewhere], links, seed: 1 });
    assert!(matches!(refused, Err(ShaperError::NotLoopback(address)) if address == elsewhere));
    let servers = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 1)); DOORS_MAX + 1];
    let refused = Shaper::start(&ShaperOptions { servers, links, seed: 1 });
    assert!(matches!(refused, Err(ShaperError::TooManyServers(number)) if number == DOORS_MAX + 1));
}

#[test]
fn the_process_speaks_a_line_for_each_line() {
    let server = socket().local_addr().expect("bound");
    let mut input = Vec::new();
    let links = serde_json::to_value(both(Link::default())).expect("JSON");
    for request in [
        serde_json::json!("counters"),
        serde_json::json!({"start": {"servers": [server], "links": links, "seed": 1}}),
        serde_json::json!({"set_link": links}),
        serde_json::json!({"set_link": {"up": {"loss": 7}, "down": {}}}),
        serde_json::json!({"set_door_link": {"door": 5, "links": null}}),
        serde_json::json!("counters"),
    ] {
        writeln!(input, "{request}").expect("memory");
    }
    let mut output = Vec::new();
    serve(BufReader::new(input.as_slice()), &mut output).expect("memory");
    let replies: Vec<serde_json::Value> = String::from_utf8(output)
        .expect("JSON is text")
        .lines()
        .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
        .collect();
    assert_eq!(replies.len(), 6);
    assert!(replies[0]["failed"].as_str().expect("a reason").contains("not started"));
    assert_eq!(replies[1]["doors"].as_array().expect("addresses").len(), 1);
    assert_eq!(replies[2], "done");
    assert!(replies[3]["failed"].as_str().expect("a reason").contains("loss of a link is 7"));
    assert_eq!(replies[4]["no_such_door"], 5);
    assert_eq!(replies[5]["counters"]["up"]["received"]["datagrams"], 0);
}
