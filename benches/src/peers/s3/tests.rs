//! The S3 adapter against a server in memory, truthful and not.

use std::fs;
use std::path::Path;

use super::super::tree::tests::{assert_same_files, plant};
use super::test_server::{BUCKET, Fault, KEY_ID, REGION, TestServer};
use super::*;

const PART_BYTES: u64 = 100_000;

fn connect(server: &TestServer, key_id: &str) -> S3 {
    let address = format!("http://{}/{BUCKET}/some/where?region={REGION}", server.address);
    let keys = S3Keys(rusty_s3::Credentials::new(key_id, "a secret"));
    let mut peer = S3::new(&address.parse().expect("an address"), keys).expect("a peer");
    peer.part_bytes = PART_BYTES;
    peer
}

fn name(text: &str) -> PeerName {
    text.parse().expect("a name")
}

fn write_large(path: &Path) -> Vec<u8> {
    let content: Vec<u8> = (0..450_001_u32).map(|index| index.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    fs::write(path, &content).expect("a file");
    content
}

#[test]
fn a_folder_is_an_object_for_each_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("source");
    plant(&source);
    let server = TestServer::start();
    let peer = connect(&server, KEY_ID);
    peer.put(&source, &name("tree")).expect("stored");
    let keys: Vec<String> = server.state().objects.keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "some/where/tree/deep/er/drei-%C3%A4",
            "some/where/tree/deep/two%20%26%202",
            "some/where/tree/nothing",
            "some/where/tree/one"
        ]
    );
    let back = folder.path().join("back");
    peer.get(&name("tree"), &back).expect("fetched");
    assert_same_files(&source, &back);
    peer.remove(&name("tree")).expect("removed");
    assert!(server.state().objects.is_empty());
    assert!(matches!(peer.get(&name("tree"), &folder.path().join("x")), Err(PeerError::NotFound { .. })));
}

#[test]
fn a_large_file_goes_in_parts_and_comes_in_ranges() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("large");
    let content = write_large(&source);
    let server = TestServer::start();
    let peer = connect(&server, KEY_ID);
    peer.put(&source, &name("large")).expect("stored");
    let mut log = std::mem::take(&mut server.state().log);
    assert_eq!(log.first().map(String::as_str), Some("POST some/where/large?uploads"));
    assert_eq!(log.last().map(String::as_str), Some("POST some/where/large?uploadId"));
    log.sort();
    let parts: Vec<&String> = log.iter().filter(|line| line.starts_with("PUT")).collect();
    assert_eq!(parts.len(), 5);
    assert_eq!(parts[4], "PUT some/where/large?uploadId part 5");
    assert!(server.state().objects["some/where/large"] == content);
    let back = folder.path().join("back");
    peer.get(&name("large"), &back).expect("fetched");
    assert!(fs::read(&back).expect("a file") == content);
    let mut log = std::mem::take(&mut server.state().log);
    log.sort();
    assert_eq!(log.len(), 6);
    assert_eq!(log[0], "GET some/where/large 0-99999");
    assert_eq!(log[4], "GET some/where/large 400000-450000");
    assert_eq!(log[5], "HEAD some/where/large");
}

#[test]
fn a_server_that_refuses_or_lies_is_an_error_that_says_so() {
    let folder = tempfile::tempdir().expect("a folder");
    let source = folder.path().join("large");
    write_large(&source);
    let server = TestServer::start();
    let peer = connect(&server, KEY_ID);
    match connect(&server, "somebody else").put(&source, &name("x")) {
        Err(PeerError::S3Refused { status: 403, answer, .. }) => assert!(answer.contains("AccessDenied"), "{answer}"),
        other => panic!("{other:?}"),
    }
    server.state().fault = Fault::PartRefused;
    let refused = peer.put(&source, &name("large"));
    assert!(matches!(refused, Err(PeerError::S3Refused { status: 507, doing: "put a part of", .. })), "{refused:?}");
    assert_eq!(server.state().log.last().map(String::as_str), Some("DELETE some/where/large?uploadId"));
    server.state().fault = Fault::CompleteFails;
    let refused = peer.put(&source, &name("large"));
    assert!(matches!(refused, Err(PeerError::S3Answer { doing: "complete the parts of", .. })), "{refused:?}");
    assert!(server.state().objects.is_empty());

    server.state().fault = Fault::None;
    peer.put(&source, &name("large")).expect("stored");
    server.state().fault = Fault::NoRanges;
    let refused = peer.get(&name("large"), &folder.path().join("no ranges"));
    assert!(matches!(refused, Err(PeerError::S3Answer { doing: "get a range of", .. })), "{refused:?}");
    fs::write(folder.path().join("small"), b"some bytes").expect("a file");
    peer.put(&folder.path().join("small"), &name("small")).expect("stored");
    server.state().fault = Fault::ShortBody;
    match peer.get(&name("small"), &folder.path().join("short")) {
        Err(PeerError::S3Answer { doing: "get", why, .. }) => assert_eq!(why, "9 bytes and not 10"),
        other => panic!("{other:?}"),
    }
    server.state().fault = Fault::HostileKey;
    let refused = peer.get(&name("tree"), &folder.path().join("out"));
    assert!(matches!(refused, Err(PeerError::S3Answer { doing: "list", .. })), "{refused:?}");
}

#[test]
fn a_server_that_is_not_there_is_named_as_that() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    let address = format!("http://{closed}/{BUCKET}").parse().expect("an address");
    let peer = S3::new(&address, S3Keys(rusty_s3::Credentials::new("a", "b"))).expect("a peer");
    match peer.remove(&name("x")) {
        Err(error @ PeerError::S3Unreachable { .. }) => assert!(error.to_string().contains("is it running")),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_file_is_cut_into_at_most_ten_thousand_parts() {
    assert_eq!(
        parts(100, 40).iter().map(|part| (part.number, part.start, part.bytes)).collect::<Vec<_>>(),
        [(1, 0, 40), (2, 40, 40), (3, 80, 20)]
    );
    let many = parts(1 << 40, PART_BYTES);
    assert_eq!(many.len(), 10_000);
    assert_eq!(many.iter().map(|part| part.bytes).sum::<u64>(), 1 << 40);
}
