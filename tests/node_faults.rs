//! A real node process whose disk and life go wrong: killed while it writes, index lost, bytes flipped.
//!
//! kill -9 proves nothing about power loss, as the page cache survives it; that is for the store's tests over a disk that
//! loses what was not synced.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dolmen_proto::ids::ShardRoot;
use dolmen_proto::root::root_of;
use dolmen_proto::wire::ErrorCode;
use dolmen_tests::processes::{TestNode, wait_for};
use dolmen_tests::shards::{Owner, Trouble, shard};

const ROUNDS: u64 = 50;
const WRITERS: u64 = 4;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"))
}

/// Lengths around the borders of records, hash groups and pieces.
fn length_of(number: u64) -> usize {
    const LENGTHS: [usize; 8] = [1, 127, 16 * 1024, 16 * 1024 + 1, 70_000, 5, 300_000, 524_288];
    LENGTHS[usize::try_from(number % 8).expect("small")]
}

async fn put_many(owner: &Owner, node: &TestNode, numbers: std::ops::Range<u64>) -> Vec<(u64, ShardRoot)> {
    let address = node.address();
    let mut held = Vec::new();
    for number in numbers {
        let root = owner.put(&address, &shard(number, length_of(number))).await.expect("a receipt");
        held.push((number, root));
    }
    held
}

async fn read_all(node: &TestNode, held: impl IntoIterator<Item = &(u64, ShardRoot)>) {
    let (owner, address) = (Owner::new(0), node.address());
    for (number, root) in held {
        let bytes = owner.get(&address, *root, length_of(*number)).await;
        let bytes = bytes.unwrap_or_else(|error| panic!("shard {number} was acknowledged: {error:?}"));
        assert_eq!(bytes, shard(*number, length_of(*number)), "shard {number}");
    }
}

/// The bytes of every shard that the node has given a receipt for; a shard it was only asked to keep is either there
/// whole or not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_fifty_kills_in_a_write_loop() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = TestNode::make(program(), folder.path(), &["data"], "");
    let mut all = Vec::new();
    for round in 0..ROUNDS {
        node.start();
        // What the last rounds left; the oldest ones are read at the end.
        read_all(&node, all.iter().rev().take(20)).await;
        let (owner, address) = (Owner::new(0), node.address());
        let acknowledged: Arc<Mutex<Vec<(u64, ShardRoot)>>> = Arc::default();
        let asked: Arc<Mutex<BTreeMap<u64, Bytes>>> = Arc::default();
        let mut writers = tokio::task::JoinSet::new();
        for writer in 0..WRITERS {
            let (owner, address) = (owner.clone(), address.clone());
            let (acknowledged, asked) = (Arc::clone(&acknowledged), Arc::clone(&asked));
            writers.spawn(async move {
                for count in 0.. {
                    let number = (round * 1000 + count) * WRITERS + writer;
                    let bytes = shard(number, length_of(number));
                    asked.lock().expect("no panic").insert(number, bytes.clone());
                    let Ok(root) = owner.put(&address, &bytes).await else { return };
                    acknowledged.lock().expect("no panic").push((number, root));
                }
            });
        }
        // At another depth of the loop in every round.
        let enough = usize::try_from(1 + round % 13).expect("small");
        wait_for("receipts", || (acknowledged.lock().expect("no panic").len() >= enough).then_some(()));
        node.kill();
        writers.abort_all();
        while writers.join_next().await.is_some() {}
        let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("no panic"));

        node.start();
        read_all(&node, &acknowledged).await;
        let (owner, address) = (Owner::new(0), node.address());
        let asked = std::mem::take(&mut *asked.lock().expect("no panic"));
        for (number, bytes) in asked {
            match owner.get(&address, root_of(&bytes), bytes.len()).await {
                Ok(found) => assert_eq!(found, bytes, "shard {number}"),
                Err(Trouble::Refused(ErrorCode::NotHeld)) => {
                    assert!(acknowledged.iter().all(|(held, _)| *held != number), "shard {number}");
                }
                Err(error) => panic!("shard {number}: {error:?}"),
            }
        }
        all.extend(acknowledged);
        // Killed again while it has nothing to do, so that the next start finds what this one made of it.
        node.kill();
    }
    node.start();
    read_all(&node, &all).await;
    assert!(all.len() as u64 >= ROUNDS, "{} shards", all.len());
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

fn overwrite_files_below(folder: &Path, fill: impl Fn(usize) -> Vec<u8> + Copy) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            overwrite_files_below(&path, fill);
        } else {
            let length = fs::metadata(&path).expect("a file").len();
            fs::write(&path, fill(usize::try_from(length).expect("small"))).expect("written");
        }
    }
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_gone_garbage_or_stale_is_rebuilt() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = TestNode::make(program(), folder.path(), &["data"], "");
    let index = node.data(0).join("index");
    let old = folder.path().join("old index");
    node.start();
    let mut held = put_many(&Owner::new(0), &node, 0..24).await;
    node.terminate();
    // As it was after an orderly end, before anything below.
    copy_folder(&index, &old);

    let wreck: [(&str, &dyn Fn()); 6] = [
        ("deleted", &|| fs::remove_dir_all(&index).expect("removed")),
        ("random bytes", &|| overwrite_files_below(&index, |length| shard(7, length).to_vec())),
        ("zeros", &|| overwrite_files_below(&index, |length| vec![0; length])),
        ("empty files", &|| overwrite_files_below(&index, |_| Vec::new())),
        ("a file where the folder was", &|| {
            fs::remove_dir_all(&index).expect("removed");
            fs::write(&index, b"not a folder").expect("written");
        }),
        ("an older one", &|| {
            if index.is_dir() {
                fs::remove_dir_all(&index).expect("removed");
            }
            copy_folder(&old, &index);
        }),
    ];
    let mut next = 24;
    for orderly in [true, false] {
        for (what, wreck) in wreck {
            wreck();
            node.start();
            let status = node.status();
            assert_eq!(status.shards, held.len() as u64, "{what}: {status:?}\n{}", node.log());
            let opened = node.last_opened();
            assert!(opened.contains("index=Rebuilding"), "{what}: {opened}");
            read_all(&node, &held).await;
            // It is as good as any other node.
            held.extend(put_many(&Owner::new(0), &node, next..next + 2).await);
            next += 2;
            if orderly { node.terminate() } else { node.kill() }
        }
    }
    node.start();
    read_all(&node, &held).await;
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

/// Where these bytes begin in one of the node's volumes.
fn find(node: &TestNode, bytes: &[u8]) -> (std::path::PathBuf, usize) {
    for path in node.volumes(0) {
        let volume = fs::read(&path).expect("a volume");
        let head = &bytes[..bytes.len().min(64)];
        if let Some(at) = volume.windows(head.len()).position(|window| window == head) {
            return (path, at);
        }
    }
    panic!("the shard is in no volume");
}

fn flip(path: &Path, at: usize) {
    let mut volume = fs::read(path).expect("a volume");
    volume[at] ^= 0x10;
    fs::write(path, volume).expect("written");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flipped_bytes_cost_the_shard_they_hit_and_no_other() {
    const DAMAGED: [ErrorCode; 2] = [ErrorCode::Damaged, ErrorCode::NotHeld];
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = TestNode::make(program(), folder.path(), &["data"], "");
    node.start();
    let held = put_many(&Owner::new(0), &node, 0..32).await;
    node.kill();

    // The first byte, one amid the body, the last byte, the record's header before it.
    let mut hit = Vec::new();
    for (number, place) in [(3, "first"), (4, "middle"), (6, "last"), (12, "header"), (15, "middle")] {
        let bytes = shard(number, length_of(number));
        let (path, at) = find(&node, &bytes);
        let at = match place {
            "first" => at,
            "middle" => at + bytes.len() / 2,
            "last" => at + bytes.len() - 1,
            _ => at - 100,
        };
        flip(&path, at);
        hit.push(number);
    }
    node.start();
    for (number, root) in held.iter().filter(|(number, _)| hit.contains(number)) {
        let told =
            Owner::new(0).get(&node.address(), *root, length_of(*number)).await.expect_err("its disk changed it");
        assert!(DAMAGED.contains(&told.code()), "shard {number}: {told:?}");
    }
    let whole: Vec<_> = held.iter().filter(|(number, _)| !hit.contains(number)).copied().collect();
    read_all(&node, &whole).await;

    // A damaged shard can be put again and is whole then.
    let (owner, address) = (Owner::new(0), node.address());
    for number in &hit {
        owner.put(&address, &shard(*number, length_of(*number))).await.expect("a receipt");
    }
    read_all(&node, &held).await;

    // After an orderly end bodies are not read again at the start, as that would take hours: the reader's root tells.
    node.terminate();
    let (number, root) = held[22];
    let bytes = shard(number, length_of(number));
    let (path, at) = find(&node, &bytes);
    flip(&path, at + bytes.len() / 2);
    node.start();
    match Owner::new(0).get(&node.address(), root, bytes.len()).await {
        Err(error) => assert!(DAMAGED.contains(&error.code()), "{error:?}"),
        Ok(found) => assert!(found != bytes && root_of(&found) != root, "the flipped byte is not in the shard"),
    }
    let proven = Owner::new(0).get_proven(&node.address(), root, bytes.len()).await;
    assert!(proven.is_err(), "a reader took wrong bytes for the shard");
    let whole: Vec<_> = held.iter().filter(|(other, _)| *other != number).copied().collect();
    read_all(&node, &whole).await;
    for (number, root) in whole {
        let proven = Owner::new(0).get_proven(&node.address(), root, length_of(number)).await.expect("a proof");
        assert_eq!(proven, shard(number, length_of(number)));
    }
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
