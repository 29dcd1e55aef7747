//! The store over the real disk: what is put is read, what ends is gone, and every opening comes to the same.

use std::fs;
use std::path::{Path, PathBuf};

use dolmen_proto::ids::NodeId;
use dolmen_proto::root::root_of;

use super::*;
use crate::disk::FileDisk;

mod rebuild;

const NODE: NodeId = NodeId::new([1; 32]);
const NOW: Timestamp = Timestamp::from_unix_ms(1_000_000_000_000);
const DAY_MS: u64 = 86_400_000;

fn days(count: u64) -> Timestamp {
    Timestamp::from_unix_ms(NOW.as_unix_ms() + count * DAY_MS)
}

fn options() -> StoreOptions {
    StoreOptions {
        volume_max_bytes: 128 * 1024,
        shard_max_bytes: 64 * 1024,
        reserve_bytes: 0,
        ..StoreOptions::new(NODE)
    }
}

struct Place {
    _folder: tempfile::TempDir,
    path: PathBuf,
    sled: bool,
}

impl Place {
    fn new(sled: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_path_buf();
        initialise(&FileDisk::open(&path).unwrap(), NODE, [9; 32]).unwrap();
        Self { _folder: folder, path, sled }
    }

    fn spec(&self) -> DataFolder<FileDisk> {
        let index = if self.sled { IndexPlace::Sled(self.path.join("index")) } else { IndexPlace::Memory };
        let disk = FileDisk::open(&self.path).unwrap();
        DataFolder { disk, name: "disk".to_owned(), index, capacity_bytes: None }
    }

    fn open(&self) -> (Store<FileDisk>, FolderReport) {
        let (store, mut report) = Store::open_whole(vec![self.spec()], options(), NOW).unwrap();
        (store, report.folders.remove(0))
    }

    fn volumes(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.path).unwrap().map(|entry| entry.unwrap().path());
        let mut found: Vec<_> = entries.filter(|path| path.extension().is_some_and(|end| end == "volume")).collect();
        found.sort();
        found
    }
}

fn content(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&[seed]).finalize_xof().fill(&mut bytes);
    bytes
}

fn lease(account: u8, until: Timestamp) -> LeaseRecord {
    LeaseRecord {
        account: AccountId::new([account; 32]),
        delete_key: [account; 32],
        renew_key: [account.wrapping_add(1); 32],
        until,
        issued_at: NOW,
        mark: [account; 16],
        terms: Bytes::from(vec![account; 40]),
    }
}

fn put(store: &Store<FileDisk>, bytes: &[u8], lease: LeaseRecord) -> Result<Ticket, StoreError> {
    let mut writer = store.begin_put(root_of(bytes), u32::try_from(bytes.len()).unwrap())?;
    for piece in bytes.chunks(5000) {
        writer.write(piece)?;
    }
    writer.finish(lease)
}

fn put_durably(store: &Store<FileDisk>, bytes: &[u8], account: u8) -> ShardRoot {
    let ticket = put(store, bytes, lease(account, days(400))).unwrap();
    store.commit(ticket).unwrap();
    root_of(bytes)
}

fn assert_reads(store: &Store<FileDisk>, bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    store.read(&root_of(bytes), 0, &mut read).unwrap();
    assert!(read == bytes, "shard {:?} reads back", root_of(bytes));
}

#[test]
fn a_put_is_seen_and_read_once_it_is_committed() {
    let place = Place::new(true);
    let (store, _) = place.open();
    let bytes = content(1, 50_000);
    let root = root_of(&bytes);
    let ticket = put(&store, &bytes, lease(7, days(7))).unwrap();
    assert_eq!(store.lookup(&root).unwrap(), None, "nothing counts before the sync");
    store.commit(ticket).unwrap();
    let info = store.lookup(&root).unwrap().unwrap();
    assert_eq!((info.length_bytes, info.state), (50_000, ShardState::Held));
    assert_eq!(info.leases, vec![lease(7, days(7))]);
    assert_reads(&store, &bytes);
    let mut middle = [0; 100];
    store.read(&root, 20_000, &mut middle).unwrap();
    assert_eq!(middle, bytes[20_000..20_100]);
    assert!(matches!(store.read(&root, 49_950, &mut middle), Err(StoreError::OutOfRange { .. })));
    assert_eq!(store.read(&ShardRoot::new([0; 32]), 0, &mut middle), Err(StoreError::NotHeld));
    let mut hasher = dolmen_proto::root::RootHasher::new();
    hasher.update(&bytes);
    assert_eq!(store.outboard(&root).unwrap(), hasher.finish().1);
}

#[test]
fn wrong_bytes_never_become_a_shard_and_leave_no_space_taken() {
    let place = Place::new(false);
    let (store, _) = place.open();
    put_durably(&store, &content(1, 1000), 7);
    let before = store.usage();
    let bytes = content(2, 9000);
    let mut writer = store.begin_put(root_of(&bytes), 9000).unwrap();
    writer.write(&content(3, 9000)).unwrap();
    assert!(matches!(writer.finish(lease(7, days(7))), Err(StoreError::WrongRoot { .. })));
    let mut writer = store.begin_put(root_of(&bytes), 9000).unwrap();
    writer.write(&bytes[..8999]).unwrap();
    assert!(matches!(writer.finish(lease(7, days(7))), Err(StoreError::WrongLength { named: 9000, actual: 8999 })));
    let mut writer = store.begin_put(root_of(&bytes), 9000).unwrap();
    writer.write(&bytes).unwrap();
    assert!(matches!(writer.write(&[0]), Err(StoreError::WrongLength { named: 9000, actual: 9001 })));
    drop(writer);
    assert!(matches!(store.begin_put(root_of(&bytes), 0), Err(StoreError::TooLarge { .. })));
    assert!(matches!(store.begin_put(root_of(&bytes), 64 * 1024 + 1), Err(StoreError::TooLarge { .. })));
    assert_eq!(store.lookup(&root_of(&bytes)).unwrap(), None);
    let after = store.usage();
    assert_eq!((after.total_bytes, after.dead_bytes), (before.total_bytes, before.dead_bytes));
}

#[test]
fn an_abandoned_put_between_others_is_dead_space_and_nothing_else() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let (first, second) = (content(1, 9000), content(2, 9000));
    let mut abandoned = store.begin_put(root_of(&first), 9000).unwrap();
    abandoned.write(&first[..5000]).unwrap();
    put_durably(&store, &second, 7);
    drop(abandoned);
    assert!(store.usage().dead_bytes >= 9000);
    drop(store);
    let (store, report) = place.open();
    assert_eq!((report.walked, report.torn, report.damaged), (1, 0, 0));
    assert_eq!(store.lookup(&root_of(&first)).unwrap(), None);
    assert_reads(&store, &second);
}

#[test]
fn the_same_shard_twice_is_stored_once_and_stays_until_both_leases_end() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let bytes = content(1, 30_000);
    let root = put_durably(&store, &bytes, 7);
    let before = store.usage();
    put_durably(&store, &bytes, 8);
    assert!(store.usage().total_bytes - before.total_bytes < 1024, "only a lease was written");
    assert_eq!(store.lookup(&root).unwrap().unwrap().leases.len(), 2);
    let mut writer = store.begin_put(root, 30_000).unwrap();
    writer.write(&content(2, 30_000)).unwrap();
    assert!(
        matches!(writer.finish(lease(9, days(7))), Err(StoreError::WrongRoot { .. })),
        "the bytes are still proven"
    );
    for (account, left) in [(7, 1), (8, 0)] {
        let account = AccountId::new([account; 32]);
        let ticket = store.remove_lease(root, account, b"signed delete").unwrap();
        store.commit(ticket).unwrap();
        assert_eq!(store.lookup(&root).unwrap().map_or(0, |info| info.leases.len()), left);
        assert_eq!(store.evidence(&root, account).unwrap().as_deref(), Some(&b"signed delete"[..]));
        assert!(matches!(store.remove_lease(root, account, b""), Err(StoreError::NotHeld)));
    }
    assert_eq!(store.usage().shards, 0);
    assert!(matches!(store.put_lease(root, lease(7, days(7))), Err(StoreError::NotHeld)));
}

#[test]
fn a_lease_put_while_the_last_one_is_removed_keeps_the_shard() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let bytes = content(1, 3000);
    let root = put_durably(&store, &bytes, 7);
    let removal = store.remove_lease(root, AccountId::new([7; 32]), b"").unwrap();
    let renewal = store.put_lease(root, lease(8, days(9))).unwrap();
    store.commit(removal).unwrap();
    store.commit(renewal).unwrap();
    assert_eq!(store.lookup(&root).unwrap().unwrap().leases, vec![lease(8, days(9))]);
    assert_reads(&store, &bytes);
}

#[test]
fn leases_and_heads_are_listed_in_pages() {
    let place = Place::new(true);
    let (store, _) = place.open();
    let mut roots: Vec<_> = (0..5).map(|seed| put_durably(&store, &content(seed, 2000), 7)).collect();
    roots.sort_unstable();
    put_durably(&store, &content(0, 2000), 8);
    let account = AccountId::new([7; 32]);
    let first = store.leases_of(account, None, 3).unwrap();
    let second = store.leases_of(account, Some(first[2].root), 3).unwrap();
    let listed: Vec<_> = first.iter().chain(&second).map(|item| item.root).collect();
    assert_eq!(listed, roots);
    assert_eq!((first[0].length_bytes, first[0].until, first[0].mark), (2000, days(400), [7; 16]));
    assert_eq!(store.leases(None, 100).unwrap().len(), 6);
    let point = Point::new([5; 32]);
    for (key, bytes) in [(1, b"one"), (2, b"two"), (1, b"new")] {
        let ticket = store.put_head(point, [key; 32], bytes, days(400)).unwrap();
        store.commit(ticket).unwrap();
    }
    let heads = store.heads(&point).unwrap();
    assert_eq!(heads.iter().map(|head| &head.bytes[..]).collect::<Vec<_>>(), [b"new", b"two"]);
    let page = store.all_heads(None, 1).unwrap();
    assert_eq!(store.all_heads(Some((page[0].point, page[0].key)), 10).unwrap(), heads[1..]);
    assert!(matches!(store.put_head(point, [1; 32], &[0; 8193], NOW), Err(StoreError::TooLarge { .. })));
}

fn fill(store: &Store<FileDisk>) {
    for seed in 0..40 {
        put_durably(store, &content(seed, 1000 + 500 * usize::from(seed)), 7);
    }
    let ticket = store.put_head(Point::new([5; 32]), [1; 32], b"head", days(400)).unwrap();
    store.commit(ticket).unwrap();
    for seed in (0..40).step_by(3) {
        let root = root_of(&content(seed, 1000 + 500 * usize::from(seed)));
        let ticket = store.remove_lease(root, AccountId::new([7; 32]), b"").unwrap();
        store.commit(ticket).unwrap();
    }
}

fn assert_filled(store: &Store<FileDisk>) {
    for seed in 0..40 {
        let bytes = content(seed, 1000 + 500 * usize::from(seed));
        if seed % 3 == 0 {
            assert_eq!(store.lookup(&root_of(&bytes)).unwrap(), None, "{seed} was deleted");
        } else {
            assert_reads(store, &bytes);
            assert_eq!(store.lookup(&root_of(&bytes)).unwrap().unwrap().leases, vec![lease(7, days(400))]);
        }
    }
    assert_eq!(store.heads(&Point::new([5; 32])).unwrap().len(), 1);
}

#[test]
fn closed_killed_and_without_an_index_it_opens_to_the_same() {
    let place = Place::new(true);
    let (store, report) = place.open();
    assert_eq!(report.index, IndexState::Rebuilt("the store was not closed".to_owned()));
    fill(&store);
    let usage = store.usage();
    assert!(usage.volumes > 2, "several volumes");
    let same = |other: FolderUsage| {
        let counts =
            |usage: FolderUsage| (usage.shards, usage.shard_bytes, usage.leases, usage.heads, usage.live_bytes);
        assert_eq!(counts(other), counts(usage));
    };
    store.close().unwrap();
    assert!(matches!(put(&store, &content(99, 10), lease(7, NOW)), Err(StoreError::Closed)));
    drop(store);

    let (store, report) = place.open();
    assert_eq!((report.index, report.walked), (IndexState::Clean, 0));
    assert_filled(&store);
    same(store.usage());
    drop(store);

    let (store, report) = place.open();
    assert_eq!(report.index, IndexState::Rebuilt("the store was not closed".to_owned()));
    assert_eq!(report.walked, 0, "nothing was written since the tables");
    assert_filled(&store);
    same(store.usage());
    store.close().unwrap();
    drop(store);

    fs::remove_dir_all(place.path.join("index")).unwrap();
    let (store, report) = place.open();
    assert!(matches!(report.index, IndexState::Rebuilt(_)));
    assert_filled(&store);
    same(store.usage());
}

#[test]
fn damaged_tables_fall_back_to_walking() {
    let place = Place::new(false);
    let (store, _) = place.open();
    fill(&store);
    store.close().unwrap();
    drop(store);
    for path in place.volumes() {
        let mut bytes = fs::read(&path).unwrap();
        let length = bytes.len();
        bytes[length - 300] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    let (store, report) = place.open();
    assert_eq!((report.walked, report.torn, report.damaged), (report.volumes, 0, 0));
    assert_filled(&store);
}

#[test]
fn an_index_of_other_volumes_is_not_believed() {
    let place = Place::new(true);
    let (store, _) = place.open();
    fill(&store);
    store.close().unwrap();
    drop(store);
    let last = place.volumes().pop().unwrap();
    let length = fs::metadata(&last).unwrap().len();
    fs::OpenOptions::new().write(true).open(&last).unwrap().set_len(length - 128).unwrap();
    let (store, report) = place.open();
    assert!(matches!(report.index, IndexState::Rebuilt(why) if why.contains("another length")));
    assert_filled(&store);
}

#[test]
fn a_folder_without_its_marker_is_not_taken_as_empty() {
    let (mounted, unmounted) = (Place::new(false), Place::new(false));
    fs::remove_file(unmounted.path.join("dolmen-disk")).unwrap();
    let folders = vec![unmounted.spec(), mounted.spec()];
    let (store, report) = Store::open_whole(folders, options(), NOW).unwrap();
    assert_eq!(report.folders[0].state, FolderState::Unmounted);
    assert_eq!(report.folders[1].state, FolderState::Ready);
    put_durably(&store, &content(1, 100), 7);
    assert_eq!(store.folders()[0].state, FolderState::Unmounted);
    assert!(unmounted.volumes().is_empty());
    drop(store);
    assert!(matches!(Store::open_whole(vec![unmounted.spec()], options(), NOW), Err(StoreError::NoFolder(_))));
    let other = StoreOptions::new(NodeId::new([2; 32]));
    let Err(StoreError::NoFolder(why)) = Store::open_whole(vec![mounted.spec()], other, NOW) else {
        panic!("it is another's")
    };
    assert!(why.contains("Foreign"), "{why}");
}

#[test]
fn puts_spread_over_folders_and_one_that_fails_takes_nothing_else_down() {
    let (first, second) = (Place::new(false), Place::new(false));
    let mut specs = vec![first.spec(), second.spec()];
    specs[0].capacity_bytes = Some(200_000);
    specs[1].capacity_bytes = Some(200_000);
    let (store, _) = Store::open_whole(specs, options(), NOW).unwrap();
    let shards: Vec<_> = (0..12).map(|seed| content(seed, 20_000)).collect();
    for bytes in &shards {
        put_durably(&store, bytes, 7);
    }
    let status = store.folders();
    assert!(status.iter().all(|folder| folder.usage.shards >= 4), "{status:?}");
    store.fail_folder(0, "it hangs");
    let readable = shards.iter().filter(|bytes| store.lookup(&root_of(bytes)).unwrap().is_some()).count();
    assert_eq!(readable as u64, status[1].usage.shards);
    put_durably(&store, &content(99, 5000), 7);
    assert_eq!(store.folders()[0].state, FolderState::Failed("it hangs".to_owned()));
}

#[test]
fn a_full_folder_refuses_shards_and_still_takes_deletes() {
    let place = Place::new(false);
    let mut spec = place.spec();
    spec.capacity_bytes = Some(100_000);
    let (store, _) = Store::open_whole(vec![spec], options(), NOW).unwrap();
    let mut held = Vec::new();
    let refused = loop {
        let bytes = content(u8::try_from(held.len()).unwrap(), 10_000);
        match put(&store, &bytes, lease(7, days(7))) {
            Ok(ticket) => store.commit(ticket).unwrap(),
            Err(error) => break error,
        }
        held.push(bytes);
    };
    assert!(matches!(refused, StoreError::DiskFull { .. }), "{refused}");
    assert!(held.len() >= 7);
    for bytes in &held {
        assert_reads(&store, bytes);
        let ticket = store.remove_lease(root_of(bytes), AccountId::new([7; 32]), b"").unwrap();
        store.commit(ticket).unwrap();
    }
}

#[test]
fn expiry_waits_for_the_grace_unless_space_is_short() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let bytes = content(1, 3000);
    let ticket = put(&store, &bytes, lease(7, days(7))).unwrap();
    store.commit(ticket).unwrap();
    let ticket = store.put_head(Point::new([5; 32]), [1; 32], b"head", days(7)).unwrap();
    store.commit(ticket).unwrap();
    put_durably(&store, &content(2, 3000), 7);
    assert_eq!(store.expire(days(36), false, 100).unwrap(), ExpireReport::default());
    assert_eq!(store.expire(days(7), true, 100).unwrap(), ExpireReport::default(), "an hour of skew is tolerated");
    let report = store.expire(days(8), true, 1).unwrap();
    assert_eq!((report.leases.len(), report.heads, report.more), (1, 0, true));
    assert_eq!((report.leases[0].root, report.leases[0].length_bytes), (root_of(&bytes), 3000));
    let report = store.expire(days(38), false, 100).unwrap();
    assert_eq!((report.leases.len(), report.heads, report.more), (0, 1, false));
    assert_eq!(store.lookup(&root_of(&bytes)).unwrap(), None);
    assert_reads(&store, &content(2, 3000));
    drop(store);
    let (store, _) = place.open();
    assert_eq!(store.lookup(&root_of(&bytes)).unwrap(), None);
    assert_eq!((store.usage().shards, store.usage().leases, store.usage().heads), (1, 1, 0));
}

#[test]
fn expiry_leaves_a_lease_alone_that_is_being_renewed() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let bytes = content(1, 3000);
    let ticket = put(&store, &bytes, lease(7, days(7))).unwrap();
    store.commit(ticket).unwrap();
    let renewal = store.put_lease(root_of(&bytes), lease(7, days(400))).unwrap();
    assert_eq!(store.expire(days(100), false, 10).unwrap(), ExpireReport::default());
    store.commit(renewal).unwrap();
    assert_eq!(store.lookup(&root_of(&bytes)).unwrap().unwrap().leases, vec![lease(7, days(400))]);
}

#[test]
fn compaction_gives_space_back_and_keeps_what_counts() {
    let place = Place::new(false);
    let (store, _) = place.open();
    fill(&store);
    for seed in (0..40).filter(|seed| seed % 3 != 0 && seed % 5 != 0) {
        let root = root_of(&content(seed, 1000 + 500 * usize::from(seed)));
        let ticket = store.remove_lease(root, AccountId::new([7; 32]), b"evidence").unwrap();
        store.commit(ticket).unwrap();
    }
    let kept: Vec<_> = (0..40)
        .filter(|seed| seed % 3 != 0 && seed % 5 == 0)
        .map(|seed| content(seed, 1000 + 500 * usize::from(seed)))
        .collect();
    let before = store.usage();
    let mut rounds = 0;
    while store.compact(NOW, true, 10_000).unwrap().more {
        rounds += 1;
        assert!(rounds < 100, "compaction ends");
    }
    let check = |store: &Store<FileDisk>| {
        for bytes in &kept {
            assert_reads(store, bytes);
        }
        assert_eq!(store.usage().shards, kept.len() as u64);
        assert_eq!(
            store.evidence(&root_of(&content(1, 1500)), AccountId::new([7; 32])).unwrap().as_deref(),
            Some(&b"evidence"[..])
        );
    };
    check(&store);
    let after = store.usage();
    assert!(after.total_bytes * 2 < before.total_bytes, "{before:?} {after:?}");
    drop(store);
    let (store, report) = place.open();
    assert_eq!(report.damaged, 0);
    check(&store);
    // Long after, evidence and endings go too, but only with the volumes that hold older records of their keys.
    store.close().unwrap();
    drop(store);
    let (store, _) = place.open();
    for _ in 0..5 {
        store.compact(days(1000), true, u64::MAX).unwrap();
    }
    drop(store);
    let (store, _) = place.open();
    for seed in (0..40).filter(|seed| seed % 3 == 0 || seed % 5 != 0) {
        assert_eq!(store.lookup(&root_of(&content(seed, 1000 + 500 * usize::from(seed)))).unwrap(), None);
    }
    for bytes in &kept {
        assert_reads(&store, bytes);
    }
}

fn flip(path: &Path, needle: &[u8]) {
    let mut bytes = fs::read(path).unwrap();
    let at = bytes.windows(needle.len()).position(|window| window == needle).unwrap();
    bytes[at] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn scrub_finds_rot_and_a_new_put_heals_it() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let shards: Vec<_> = (0..6).map(|seed| content(seed, 20_000)).collect();
    for bytes in &shards {
        put_durably(&store, bytes, 7);
    }
    flip(&place.volumes()[0], &shards[2][10_000..10_064]);
    let mut damaged = Vec::new();
    let mut steps = 0;
    loop {
        let report = store.scrub(30_000).unwrap();
        damaged.extend(report.damaged);
        steps += 1;
        if report.rounds > 0 {
            break;
        }
    }
    let root = root_of(&shards[2]);
    assert_eq!(damaged, vec![root]);
    assert!(steps >= 4, "the budget bounds a step");
    let mut buffer = [0; 10];
    assert_eq!(store.read(&root, 0, &mut buffer), Err(StoreError::Damaged(root)));
    assert_eq!(store.outboard(&root), Err(StoreError::Damaged(root)));
    assert!(matches!(store.put_lease(root, lease(8, days(7))), Err(StoreError::Damaged(_))));
    store.close().unwrap();
    drop(store);
    let (store, report) = place.open();
    assert_eq!(report.damaged, 1, "it is remembered");
    let info = store.lookup(&root).unwrap().unwrap();
    assert_eq!((info.state, info.length_bytes, info.leases.len()), (ShardState::Damaged, 20_000, 1));
    put_durably(&store, &shards[2], 9);
    assert_reads(&store, &shards[2]);
    let info = store.lookup(&root).unwrap().unwrap();
    assert_eq!((info.state, info.leases.len()), (ShardState::Held, 2));
    assert_eq!(store.usage().damaged, 0);
}

#[test]
fn a_header_that_does_not_bear_the_index_out_is_damage() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let bytes = content(1, 20_000);
    let root = put_durably(&store, &bytes, 7);
    flip(&place.volumes()[0], root.as_bytes());
    assert_eq!(store.read(&root, 0, &mut [0; 10]), Err(StoreError::Damaged(root)));
}

#[test]
fn many_committers_share_syncs_and_all_are_told() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        for thread in 0..8u8 {
            let (store, sender) = (store.clone(), sender.clone());
            scope.spawn(move || {
                for round in 0..10 {
                    let bytes = content(thread * 10 + round, 3000);
                    let ticket = put(&store, &bytes, lease(7, days(7))).unwrap();
                    if round % 2 == 0 {
                        store.commit(ticket).unwrap();
                        assert_reads(&store, &bytes);
                    } else {
                        let sender = sender.clone();
                        store.commit_then(ticket, Box::new(move |result| sender.send((result, bytes)).unwrap()));
                    }
                }
            });
        }
    });
    for _ in 0..40 {
        let (result, bytes) = receiver.recv().unwrap();
        result.unwrap();
        assert_reads(&store, &bytes);
    }
    assert_eq!(store.usage().shards, 80);
    drop(store);
    let (store, report) = place.open();
    assert_eq!((report.torn, report.damaged), (0, 0));
    assert_eq!(store.usage().shards, 80);
}

#[test]
fn reads_go_on_while_everything_is_deleted_put_and_compacted() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let kept: Vec<_> = (0..8).map(|seed| content(200 + seed, 9000)).collect();
    for bytes in &kept {
        put_durably(&store, bytes, 7);
    }
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60u8 {
                let root = put_durably(&store, &content(round, 40_000), 7);
                let ticket = store.remove_lease(root, AccountId::new([7; 32]), b"").unwrap();
                store.commit(ticket).unwrap();
                store.compact(NOW, true, u64::MAX).unwrap();
            }
            done.store(true, Ordering::SeqCst);
        });
        scope.spawn(|| {
            while !done.load(Ordering::SeqCst) {
                for bytes in &kept {
                    assert_reads(&store, bytes);
                }
            }
        });
    });
    assert!(store.usage().total_bytes < 2_000_000, "compaction kept up: {:?}", store.usage());
}
