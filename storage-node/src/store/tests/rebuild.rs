//! A store whose indexes are being rebuilt: what was found is read, of all else nothing is said.

use super::*;

impl Place {
    /// Opened and not rebuilt.
    fn open_partial(&self) -> Store<FileDisk> {
        Store::open(vec![self.spec()], options()).unwrap().0
    }
}

/// Every call that half an index could answer wrongly.
fn assert_puts_all_else_off(store: &Store<FileDisk>, root: ShardRoot) {
    let account = AccountId::new([7; 32]);
    let point = Point::new([5; 32]);
    let early = Some(StoreError::Rebuilding);
    assert_eq!(store.begin_put(root, 1000).err(), early);
    assert_eq!(store.lookup(&root).err(), early);
    assert_eq!(store.summary(&root).err(), early);
    assert_eq!(store.put_lease(root, lease(7, days(500))).err(), early);
    assert_eq!(store.remove_lease(root, account, b"").err(), early);
    assert_eq!(store.evidence(&root, account).err(), early);
    assert_eq!(store.leases_of(account, None, 10).err(), early);
    assert_eq!(store.leases(None, 10).err(), early);
    assert_eq!(store.put_head(point, [1; 32], b"head", days(9)).err(), early);
    assert_eq!(store.heads(&point).err(), early);
    assert_eq!(store.all_heads(None, 10).err(), early);
    assert_eq!(store.expire(days(5000), true, 100).unwrap(), ExpireReport::default());
    assert!(!store.is_whole());
}

/// Reads a shard as far as the store knows it; `false`: it is not found yet.
fn reads(store: &Store<FileDisk>, bytes: &[u8]) -> bool {
    let root = root_of(bytes);
    let mut read = vec![0; bytes.len()];
    match store.find(&root) {
        Ok(found) => {
            assert_eq!(found, Some((u32::try_from(bytes.len()).unwrap(), ShardState::Held)));
            store.read(&root, 0, &mut read).unwrap();
            assert!(read == bytes, "what is found reads back");
            store.outboard(&root).unwrap();
            true
        }
        Err(error) => {
            assert_eq!(error, StoreError::Rebuilding);
            assert_eq!(store.read(&root, 0, &mut read), Err(StoreError::Rebuilding));
            assert_eq!(store.outboard(&root), Err(StoreError::Rebuilding));
            false
        }
    }
}

/// Puts go where most room is left, so that each of two such folders gets half of them.
fn bounded(place: &Place) -> DataFolder<FileDisk> {
    DataFolder { capacity_bytes: Some(400_000), ..place.spec() }
}

fn filled(seed: u8) -> Vec<u8> {
    content(seed, 1000 + 500 * usize::from(seed))
}

/// Shards of [`fill`] that were not deleted and are found.
fn found_of_filled(store: &Store<FileDisk>) -> usize {
    (0..40).filter(|seed| seed % 3 != 0).filter(|seed| reads(store, &filled(*seed))).count()
}

#[test]
fn what_is_found_is_read_and_all_else_is_put_off_until_all_is_read() {
    let place = Place::new(true);
    let (store, _) = place.open();
    fill(&store);
    let usage = store.usage();
    drop(store);
    let volumes = place.volumes().len() as u64;
    assert!(volumes > 3, "several volumes");

    let (store, report) = Store::open(vec![place.spec()], options()).unwrap();
    assert_eq!(report.folders[0].state, FolderState::Rebuilding { volumes_read: 0, volumes });
    assert_eq!(report.folders[0].index, IndexState::Rebuilding("the store was not closed".to_owned()));
    assert_eq!(store.finish_rebuild(NOW).err(), Some(StoreError::Rebuilding));
    let mut found = found_of_filled(&store);
    assert_eq!(found, 0, "what lies in the index from before is not believed");
    for volumes_read in 1..=volumes {
        assert_puts_all_else_off(&store, root_of(&filled(1)));
        assert_eq!(store.compact(NOW, true, u64::MAX).unwrap(), CompactReport::default());
        assert_eq!(store.scrub(u64::MAX).unwrap(), ScrubReport::default());
        assert_eq!(store.usage().free_bytes, 0);
        assert_eq!(store.rebuild_step(0).unwrap(), volumes_read < volumes);
        assert_eq!(store.folders()[0].state, FolderState::Rebuilding { volumes_read, volumes });
        let now_found = found_of_filled(&store);
        assert!(now_found >= found, "nothing that was found is lost again");
        assert!(volumes_read > 1 || now_found > 0, "the first volume's shards are served at once");
        found = now_found;
    }
    assert_eq!(found, 26, "all that count");
    assert!(!reads(&store, b"never put"), "nothing is denied before all is settled");
    assert_puts_all_else_off(&store, root_of(&filled(1)));

    let report = store.finish_rebuild(NOW).unwrap().folders.remove(0);
    assert_eq!(report.state, FolderState::Ready);
    assert_eq!(report.index, IndexState::Rebuilt("the store was not closed".to_owned()));
    assert_eq!((report.volumes as u64, report.torn, report.damaged), (volumes, 0, 0));
    assert_eq!(store.find(&root_of(b"never put")).unwrap(), None);
    assert_filled(&store);
    let counts = |usage: FolderUsage| (usage.shards, usage.shard_bytes, usage.leases, usage.heads, usage.live_bytes);
    assert_eq!(counts(store.usage()), counts(usage));
    // A record that is written now is newer than all that were found.
    let ticket = store.put_head(Point::new([5; 32]), [1; 32], b"newer", days(400)).unwrap();
    store.commit(ticket).unwrap();
    drop(store);
    assert_eq!(place.open().0.heads(&Point::new([5; 32])).unwrap()[0].bytes[..], b"newer"[..]);
}

#[test]
fn a_rebuild_that_is_cut_off_begins_anew_and_never_leaves_an_index_to_believe() {
    let place = Place::new(true);
    let (store, _) = place.open();
    fill(&store);
    drop(store);
    let volumes = place.volumes().len();
    for steps in 0..=volumes {
        let store = place.open_partial();
        for _ in 0..steps {
            store.rebuild_step(0).unwrap();
        }
        let found = found_of_filled(&store);
        if steps % 2 == 0 {
            store.stop_rebuilding();
            assert_eq!(found_of_filled(&store), found, "a node that goes down serves what it found");
        } else {
            store.close().unwrap();
        }
        if steps < volumes {
            assert_eq!(store.rebuild_step(0), Err(StoreError::Closed));
        }
        assert_eq!(store.rebuild(NOW).err(), Some(StoreError::Closed));
        assert!(!store.is_whole());
        store.close().unwrap();
    }
    let (store, report) = place.open();
    assert_eq!(report.index, IndexState::Rebuilt("the store was not closed".to_owned()));
    assert_filled(&store);
    store.close().unwrap();
    drop(store);
    assert_eq!(place.open().1.index, IndexState::Clean);
}

#[test]
fn what_was_never_acknowledged_is_not_called_damaged_after_a_rebuild_that_was_cut_off() {
    let place = Place::new(false);
    let (store, _) = place.open();
    put_durably(&store, &content(1, 3000), 7);
    let torn = content(2, 3000);
    let ticket = put(&store, &torn, lease(7, days(400))).unwrap();
    // The lease reached the disk, all of the shard did not, and nobody was told that it had.
    flip(&place.volumes()[0], &torn[1000..1032]);
    drop((ticket, store));
    for _ in 0..3 {
        let store = place.open_partial();
        assert!(!store.rebuild_step(0).unwrap());
        store.close().unwrap();
    }
    for _ in 0..2 {
        let (store, report) = place.open();
        assert_eq!(report.damaged, 0);
        assert_eq!(store.lookup(&root_of(&torn)).unwrap(), None);
        assert_reads(&store, &content(1, 3000));
    }
    let (_, report) = place.open();
    assert_eq!((report.walked, report.damaged), (0, 0), "and the volume is closed now");
}

#[test]
fn a_whole_folder_is_read_beside_one_that_is_being_rebuilt() {
    let (clean, stale) = (Place::new(true), Place::new(true));
    let specs = || vec![bounded(&clean), bounded(&stale)];
    let (store, _) = Store::open(specs(), options()).unwrap();
    let shards: Vec<_> = (0..12).map(|seed| content(seed, 20_000)).collect();
    for bytes in &shards {
        put_durably(&store, bytes, 7);
    }
    store.close().unwrap();
    drop(store);
    fs::remove_dir_all(stale.path.join("index")).unwrap();

    let (store, report) = Store::open(specs(), options()).unwrap();
    assert_eq!(report.folders[0].index, IndexState::Clean);
    let readable = shards.iter().filter(|bytes| reads(&store, bytes)).count() as u64;
    assert_eq!(readable, store.folders()[0].usage.shards, "those of the whole folder");
    assert!((1..12).contains(&readable));
    assert_puts_all_else_off(&store, root_of(&shards[0]));
    assert!(store.scrub(u64::MAX).unwrap().records > 0, "the whole folder is looked after");
    store.rebuild(NOW).unwrap();
    assert!(shards.iter().all(|bytes| reads(&store, bytes)));
    assert_eq!(store.find(&root_of(b"never put")).unwrap(), None);
    put_durably(&store, &content(99, 5000), 7);
}

#[test]
fn a_folder_that_is_given_up_holds_up_no_other() {
    let (first, second) = (Place::new(false), Place::new(false));
    let specs = || vec![bounded(&first), bounded(&second)];
    let (store, _) = Store::open(specs(), options()).unwrap();
    let shards: Vec<_> = (0..24).map(|seed| content(seed, 20_000)).collect();
    for bytes in &shards {
        put_durably(&store, bytes, 7);
    }
    drop(store);
    let (store, _) = Store::open(specs(), options()).unwrap();
    assert!(store.rebuild_step(0).unwrap(), "there are more volumes");
    store.fail_folder(0, "it hangs");
    assert!(matches!(store.rebuild_step(0), Err(StoreError::Folder { .. })));
    assert!(!store.is_whole(), "the other one is still to be read");
    let report = store.rebuild(NOW).unwrap();
    assert_eq!(report.folders[0].state, FolderState::Failed("it hangs".to_owned()));
    assert_eq!((&report.folders[0].index, &report.folders[1].state), (&IndexState::None, &FolderState::Ready));
    assert!(store.is_whole());
    let readable = shards.iter().filter(|bytes| store.lookup(&root_of(bytes)).unwrap().is_some()).count() as u64;
    assert_eq!(readable, store.folders()[1].usage.shards);
}

#[test]
fn a_shard_that_was_lost_and_healed_is_at_no_time_called_damaged() {
    let place = Place::new(false);
    let (store, _) = place.open();
    let bytes = content(1, 9000);
    let root = put_durably(&store, &bytes, 7);
    put_durably(&store, &content(2, 60_000), 7);
    put_durably(&store, &content(3, 60_000), 7);
    flip(&place.volumes()[0], &bytes[4000..4032]);
    assert_eq!(store.scrub(u64::MAX).unwrap().damaged, vec![root]);
    put_durably(&store, &content(4, 60_000), 7);
    put_durably(&store, &content(5, 60_000), 7);
    put_durably(&store, &bytes, 7);
    store.close().unwrap();
    drop(store);
    let store = place.open_partial();
    let mut told = Vec::new();
    while store.rebuild_step(0).unwrap() {
        match store.find(&root) {
            Ok(found) => {
                assert_eq!(found, Some((9000, ShardState::Held)));
                told.push("held");
            }
            Err(error) => {
                assert_eq!(error, StoreError::Rebuilding);
                told.push("not yet");
            }
        }
    }
    assert!(told.contains(&"not yet"), "the note of its loss was read before its cure: {told:?}");
    store.finish_rebuild(NOW).unwrap();
    assert_reads(&store, &bytes);
}
