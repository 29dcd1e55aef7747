//! A real node process at its limits: disks that are not there or full, quotas, clocks, locks, and an orderly end.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::ids::ShardRoot;
use dolmen_proto::wire::ErrorCode;
use dolmen_storage_node::status::{self, DiskState, Phase};
use dolmen_tests::processes::{TestNode, run, wait_for};
use dolmen_tests::shards::{Owner, Trouble, now, shard};

const DAY: Duration = Duration::from_secs(86_400);
const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;

fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_dolmen-under-test"))
}

async fn put_many(owner: &Owner, node: &TestNode, numbers: std::ops::Range<u64>) -> Vec<(Bytes, ShardRoot)> {
    let address = node.address();
    let mut held = Vec::new();
    for number in numbers {
        let bytes = shard(number, 100_000);
        let root = owner.put(&address, &bytes).await.expect("a receipt");
        held.push((bytes, root));
    }
    held
}

/// Which of these shards are here; the others are refused with this code.
async fn readable(node: &TestNode, held: &[(Bytes, ShardRoot)], refusal: ErrorCode) -> Vec<(Bytes, ShardRoot)> {
    let (owner, address) = (Owner::new(0), node.address());
    let mut found = Vec::new();
    for (bytes, root) in held {
        match owner.get(&address, *root, bytes.len()).await {
            Ok(read) => {
                assert_eq!(read, *bytes);
                found.push((bytes.clone(), *root));
            }
            Err(error) => assert_eq!(error.code(), refusal),
        }
    }
    found
}

fn state_of(node: &TestNode, folder: &Path) -> DiskState {
    node.status().disks.iter().find(|disk| disk.path == folder).expect("every folder is listed").state
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_not_there_is_a_disk_that_is_not_mounted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = TestNode::make(program(), folder.path(), &["one", "two"], "");
    node.start();
    let mut held = put_many(&Owner::new(0), &node, 0..24).await;
    node.kill();

    let aside = folder.path().join("aside");
    let mut next = 24;
    for (number, missing) in [1, 0, 1, 0].into_iter().zip(["folder", "folder", "mount point", "mount point"]) {
        let gone = node.data(number).to_owned();
        fs::rename(&gone, &aside).expect("renamed");
        if missing == "mount point" {
            fs::create_dir(&gone).expect("a folder");
        }
        node.start();
        assert_eq!(state_of(&node, &gone), DiskState::Unmounted, "{missing}");
        assert_eq!(state_of(&node, node.data(1 - number)), DiskState::Ok, "{missing}");
        // What lies on the disk that is away is not denied: the node cannot know.
        let found = readable(&node, &held, ErrorCode::DiskFailed).await;
        assert!(!found.is_empty() && found.len() < held.len(), "{} of {}", found.len(), held.len());
        let more = put_many(&Owner::new(0), &node, next..next + 3).await;
        assert_eq!(readable(&node, &more, ErrorCode::NotHeld).await.len(), 3);
        held.extend(more);
        next += 3;
        node.terminate();
        if missing == "mount point" {
            assert_eq!(fs::read_dir(&gone).expect("a folder").count(), 0, "nothing is written below a mount point");
            fs::remove_dir(&gone).expect("it is empty");
        }
        assert!(!gone.exists(), "nobody makes a disk that is away");
        fs::rename(&aside, &gone).expect("renamed");
        node.start();
        assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), held.len());
        node.kill();
    }

    // With no disk at all there is nothing to run.
    for number in 0..2 {
        fs::rename(node.data(number), folder.path().join(format!("away {number}"))).expect("renamed");
    }
    let outcome = run(&mut node.run_command(&[]));
    assert_eq!(outcome.code, Some(9), "{outcome:?}");
    assert!(outcome.errors.contains("error: "), "{outcome:?}");
    assert!(!node.data(0).exists() && !node.data(1).exists());
    assert!(!node.log().contains("panicked"), "{}", node.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn quotas_are_kept_to_the_byte_and_leave_nothing_behind() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let owner = Owner::new(1);
    let listed: String = owner.account().as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let more = format!("open_quota = \"1MiB\"\n\n[[allow]]\naccount = \"{listed}\"\nquota = \"2MiB\"\n");
    let mut node = TestNode::make(program(), folder.path(), &["data"], &more);
    node.start();
    let address = node.address();
    let stranger = Owner::new(2);

    for (who, owner, quota, code) in [
        ("a listed owner", &owner, 2 * MIB, ErrorCode::QuotaExceeded),
        ("a stranger", &stranger, MIB, ErrorCode::OpenQuotaExceeded),
    ] {
        let mut held = Vec::new();
        // A lease is charged with 1 KiB more than its shard, so this many fit to the byte.
        for number in 0..u64::try_from(quota / (256 * KIB)).expect("small") {
            held.push(owner.put(&address, &shard(number + quota as u64, 255 * KIB)).await.expect("within the quota"));
        }
        let over = shard(99 + quota as u64, 1);
        let refused = owner.put(&address, &over).await.expect_err(who);
        assert_eq!(refused.code(), code, "{who}");
        let root = dolmen_proto::root::root_of(&over);
        let asked = owner.stat(&address, vec![root, held[0]]).await.expect("an answer");
        assert_eq!(asked[0], Err(ErrorCode::NotHeld), "{who}: what was refused is not there");
        assert!(asked[1].is_ok());
        // What is given up can be used again, no more and no less.
        assert_eq!(owner.delete(&address, vec![held[0]]).await.expect("an answer"), [Ok(())]);
        owner.put(&address, &shard(77 + quota as u64, 255 * KIB)).await.expect("as much as was given up");
        assert_eq!(owner.put(&address, &over).await.expect_err(who).code(), code, "{who}");
    }
    // Charges are in the volumes, not in memory.
    node.kill();
    node.start();
    let address = node.address();
    let (owner, stranger) = (Owner::new(1), Owner::new(2));
    let refused = owner.put(&address, &shard(1, 1)).await.expect_err("still full");
    assert_eq!(refused.code(), ErrorCode::QuotaExceeded);
    let refused = stranger.put(&address, &shard(1, 1)).await.expect_err("still full");
    assert_eq!(refused.code(), ErrorCode::OpenQuotaExceeded);
    assert_eq!(node.status().in_flight_bytes, 0);
}

/// A small file system of its own, where the system lets a test mount one.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(at: &Path, bytes: usize) -> Option<Self> {
        fs::create_dir_all(at).expect("a folder");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &format!("size={bytes}"), "tmpfs"]).arg(at);
        command.output().is_ok_and(|output| output.status.success()).then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a process that still has a file open there is on its way out.
        let _ = Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

/// Puts until the node is full; what it has then, and its refusal.
async fn fill(owner: &Owner, node: &TestNode, first: u64, length_bytes: usize) -> (Vec<(Bytes, ShardRoot)>, Trouble) {
    let address = node.address();
    let mut held = Vec::new();
    for number in first..first + 1000 {
        let bytes = shard(number, length_bytes);
        match owner.put(&address, &bytes).await {
            Ok(root) => held.push((bytes, root)),
            Err(refusal) => return (held, refusal),
        }
    }
    panic!("the disk is never full")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_and_goes_on_reading_and_deleting() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let disk = SmallDisk::mount(&folder.path().join("data"), 24 * MIB);
    let free = rustix::fs::statvfs(folder.path().join("data")).expect("a disk");
    let free_bytes = free.f_bavail * free.f_frsize;
    // Without a disk of its own the reserve makes one of 24 MiB; other programs may change what is free meanwhile, so
    // then a put may find room for a while longer.
    let reserve = if disk.is_some() { 0 } else { free_bytes.saturating_sub(24 * MIB as u64) };
    let more = format!("disk_reserve = {reserve}\nopen_quota = 1000000000\nquota = 1000000000000");
    let mut node = TestNode::make(program(), folder.path(), &["data"], &more);
    node.start();
    let owner = Owner::new(0);
    let (mut held, refusal) = fill(&owner, &node, 0, MIB).await;
    assert_eq!(refusal.code(), ErrorCode::DiskFull);
    assert!(held.len() > 4, "{} shards", held.len());
    // Down to the last page, as far as the node goes.
    let (small, refusal) = fill(&owner, &node, 2000, 40 * KIB).await;
    assert_eq!(refusal.code(), ErrorCode::DiskFull);
    held.extend(small);
    assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), held.len());
    node.kill();
    node.start();
    assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), held.len(), "{}", node.log());
    if disk.is_some() {
        // Somebody else takes what the node left for its own bookkeeping.
        let filler = node.data(0).join("somebody else's");
        fs::write(&filler, vec![1; 32 * MIB]).expect_err("more than there is");
        let refusal = Owner::new(0).put(&node.address(), &shard(5000, 1)).await.expect_err("no byte is free");
        assert_eq!(refusal.code(), ErrorCode::DiskFull);
        assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), held.len());
        node.kill();
        fs::remove_file(filler).expect("removed");
        node.start();
        assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), held.len(), "{}", node.log());
    }
    let owner = Owner::new(0);
    let (_, first) = held.remove(0);
    assert_eq!(owner.delete(&node.address(), vec![first]).await.expect("an answer"), [Ok(())]);
    let gone = owner.get(&node.address(), first, MIB).await.expect_err("it was deleted");
    assert_eq!(gone.code(), ErrorCode::NotHeld);
    node.terminate();
    node.start();
    assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), held.len(), "{}", node.log());
    assert!(!node.log().contains("panicked"), "{}", node.log());
    node.kill();
    drop(disk);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_that_are_a_day_apart_are_noticed_on_both_sides() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = TestNode::make(program(), folder.path(), &["data"], "");
    node.start();
    let owner = Owner::new(0);
    let held = put_many(&owner, &node, 0..1).await;
    for issued_at in [now().before(DAY), now().after(DAY)] {
        let refused = owner.put_signed_at(&node.address(), &shard(9, 100), issued_at).await.expect_err("a day off");
        assert_eq!(refused.code(), ErrorCode::ClockSkew);
    }
    assert!(node.status().clock_trusted);
    node.kill();

    // As if the node had last run two days from now: its clock went back, or will.
    let future = now().after(2 * DAY);
    status::remember_trusted_time(node.data(0), future).expect("written");
    node.start();
    let in_doubt = node.status();
    assert!(!in_doubt.clock_trusted && in_doubt.clock_jump_ms > 86_400_000, "{in_doubt:?}");
    // Doubt stops expiry and nothing else.
    assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), 1);
    put_many(&Owner::new(0), &node, 1..2).await;
    node.terminate();
    node.start();
    assert!(!node.status().clock_trusted, "a restart does not end the doubt");
    node.terminate();
    node.start_with(&["--trust-clock"]);
    assert!(node.status().clock_trusted);
    node.terminate();
    node.start();
    assert!(node.status().clock_trusted, "the operator's word is remembered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_has_a_folder_and_ends_in_order() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut node = TestNode::make(program(), folder.path(), &["data"], "");
    node.start();
    let second = run(&mut node.run_command(&[]));
    assert_eq!(second.code, Some(9), "{second:?}");
    assert!(second.errors.contains("in use by another process"), "{second:?}");

    // Told to end as soon as it can be seen to start, it ends in order, whatever it has come to by then.
    for _ in 0..8 {
        node.terminate();
        node.start();
        let opened = node.last_opened();
        assert!(opened.contains("index=Clean"), "an orderly end needs no rebuilding: {opened}");
    }

    let owner = Owner::new(0);
    let mut held = put_many(&owner, &node, 0..8).await;
    // Puts under way when the node is told to end: each is finished with a receipt, or refused by name, or cut off.
    let mut writing = tokio::task::JoinSet::new();
    for number in 100..112 {
        let (owner, address) = (owner.clone(), node.address());
        writing.spawn(async move {
            let bytes = shard(number, 8 * MIB);
            let outcome = owner.put(&address, &bytes).await;
            (bytes, outcome)
        });
    }
    wait_for("puts under way", || {
        let length = |path: &PathBuf| fs::metadata(path).map_or(0, |metadata| metadata.len());
        (node.volumes(0).iter().map(length).sum::<u64>() > 4 * MIB as u64).then_some(())
    });
    node.terminate();
    let stopped = status::read(node.data(0)).expect("readable").expect("a status");
    assert_eq!((stopped.phase, stopped.in_flight_bytes), (Phase::Stopped, 0));
    while let Some(put) = writing.join_next().await {
        match put.expect("no panic") {
            (bytes, Ok(root)) => held.push((bytes, root)),
            (_, Err(Trouble::Refused(code))) => assert_eq!(code, ErrorCode::ShuttingDown),
            (_, Err(Trouble::Broken(_))) => {}
        }
    }
    node.start();
    let opened = node.last_opened();
    assert!(opened.contains("index=Clean"), "an orderly end needs no rebuilding: {opened}");
    assert_eq!(readable(&node, &held, ErrorCode::NotHeld).await.len(), held.len());
    assert!(!node.log().contains("panicked"), "{}", node.log());
}
