//! The store over a disk that loses, tears and reorders what was not synced, against a model of what was acknowledged.
//!
//! From a seed: puts, leases, heads, endings, expiry, compaction, scrubs, full disks, failing syncs and writes, rot, kills and
//! power losses, also amid the rebuilding of an index. After each opening and many times between, everything acknowledged reads back exactly, with its newest
//! acknowledged lease; nothing appears that was never put; what was ended stays ended. `DOLMEN_CRASH_SEED=n` runs one seed,
//! `DOLMEN_CRASH_SEEDS=n` the first n.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use dolmen_proto::ids::{AccountId, NodeId, Point, ShardRoot, Timestamp};
use dolmen_proto::root::root_of;
use dolmen_storage_node::store::{
    DataFolder, FolderState, IndexPlace, LeaseRecord, OpenReport, ShardState, ShardWriter, Store, StoreError,
    StoreOptions, Ticket, initialise,
};
use dolmen_tests::faulty_disk::{Crash, Draw, FaultyDisk};

const NODE: NodeId = NodeId::new([1; 32]);
const STEPS: usize = 150;
const SEEDS: u64 = 400;
const HOUR_MS: u64 = 3_600_000;

/// A value that was acknowledged, and those written after it that were not (yet).
#[derive(Debug, Clone)]
struct Cell<T> {
    acknowledged: Option<T>,
    /// With the number of the operation.
    possible: Vec<(u64, Option<T>)>,
}

impl<T> Default for Cell<T> {
    fn default() -> Self {
        Self { acknowledged: None, possible: Vec::new() }
    }
}

impl<T: Clone + PartialEq + std::fmt::Debug> Cell<T> {
    fn acknowledge(&mut self, operation: u64) {
        if let Some(at) = self.possible.iter().position(|(number, _)| *number == operation) {
            self.acknowledged = self.possible[at].1.clone();
            self.possible.drain(..=at);
        }
    }

    /// What is seen is durable, so it is as good as acknowledged.
    fn observe(&mut self, seen: Option<&T>, what: &str) {
        if seen == self.acknowledged.as_ref() {
            return;
        }
        let at = self.possible.iter().position(|(_, value)| value.as_ref() == seen);
        let Some(at) = at else { panic!("{what}: saw {seen:?}, allowed {self:?}") };
        self.acknowledged = self.possible[at].1.clone();
        self.possible.drain(..=at);
    }
}

type LeaseKey = (ShardRoot, AccountId);
type HeadKey = (Point, [u8; 32]);

#[derive(Debug, Default)]
struct Model {
    contents: BTreeMap<ShardRoot, Vec<u8>>,
    leases: BTreeMap<LeaseKey, Cell<LeaseRecord>>,
    heads: BTreeMap<HeadKey, Cell<Vec<u8>>>,
    rotten: BTreeSet<ShardRoot>,
}

#[derive(Debug, Clone, Copy)]
enum Key {
    Lease(LeaseKey),
    Head(HeadKey),
}

struct World {
    draw: Draw,
    disks: Vec<FaultyDisk>,
    store: Store<FaultyDisk>,
    model: Model,
    tickets: Vec<(u64, Key, Ticket)>,
    writers: Vec<(ShardRoot, usize, ShardWriter<FaultyDisk>)>,
    operation: u64,
    now: Timestamp,
    rots: bool,
}

fn options() -> StoreOptions {
    StoreOptions {
        volume_max_bytes: 48 * 1024,
        volume_max_records: 40,
        shard_max_bytes: 8 * 1024,
        reserve_bytes: 16 * 1024,
        open_files_max: 2,
        write_buffer_bytes: 700,
        ..StoreOptions::new(NODE)
    }
}

fn folders(disks: &[FaultyDisk]) -> Vec<DataFolder<FaultyDisk>> {
    let folders = disks.iter().enumerate().map(|(place, disk)| DataFolder {
        disk: disk.clone(),
        name: format!("disk {place}"),
        index: IndexPlace::Memory,
        capacity_bytes: None,
    });
    folders.collect()
}

fn open(disks: &[FaultyDisk], now: Timestamp) -> (Store<FaultyDisk>, OpenReport) {
    Store::open_whole(folders(disks), options(), now).unwrap()
}

impl World {
    fn new(seed: u64) -> Self {
        let mut draw = Draw::new(seed);
        let disks: Vec<_> = (0..1 + draw.below(2)).map(|_| FaultyDisk::new(draw.next())).collect();
        for (place, disk) in disks.iter().enumerate() {
            initialise(disk, NODE, [u8::try_from(place).unwrap(); 32]).unwrap();
        }
        let now = Timestamp::from_unix_ms(1_000_000 * HOUR_MS);
        let (store, _) = open(&disks, now);
        let rots = draw.percent(20);
        let (tickets, writers) = (Vec::new(), Vec::new());
        Self { draw, disks, store, model: Model::default(), tickets, writers, operation: 0, now, rots }
    }

    fn lease(&mut self, account: AccountId) -> LeaseRecord {
        self.operation += 1;
        let hours = self.draw.next() % 3000;
        LeaseRecord {
            account,
            delete_key: [self.operation.to_le_bytes()[0]; 32],
            renew_key: [3; 32],
            until: Timestamp::from_unix_ms(self.now.as_unix_ms() + hours * HOUR_MS),
            issued_at: Timestamp::from_unix_ms(self.operation),
            mark: [self.operation.to_le_bytes()[0]; 16],
            terms: Bytes::from(vec![7; self.draw.below(30)]),
        }
    }

    fn account(&mut self) -> AccountId {
        AccountId::new([u8::try_from(self.draw.below(3)).unwrap(); 32])
    }

    fn content(&mut self) -> ShardRoot {
        if !self.model.contents.is_empty() && self.draw.percent(40) {
            return self.known_root();
        }
        let mut bytes = vec![0; 1 + self.draw.below([300, 4096, 8192][self.draw.clone().below(3)])];
        blake3::Hasher::new().update(&self.draw.next().to_le_bytes()).finalize_xof().fill(&mut bytes);
        let root = root_of(&bytes);
        self.model.contents.insert(root, bytes);
        root
    }

    fn known_root(&mut self) -> ShardRoot {
        let place = self.draw.below(self.model.contents.len().max(1));
        self.model.contents.keys().nth(place).copied().unwrap_or(ShardRoot::new([0; 32]))
    }

    fn attempt(&mut self, key: Key, operation: u64, result: Result<Ticket, StoreError>) {
        match result {
            Ok(ticket) => {
                self.tickets.push((operation, key, ticket));
                if self.draw.percent(50) {
                    let last = self.tickets.len() - 1;
                    self.commit(last);
                }
            }
            // Refused before anything was written, but for a disk that fails half-way: the outcome stays possible.
            Err(StoreError::NotHeld | StoreError::Damaged(_) | StoreError::WrongRoot { .. }) => {
                self.withdraw(key, operation)
            }
            Err(_) => {}
        }
    }

    fn withdraw(&mut self, key: Key, operation: u64) {
        match key {
            Key::Lease(key) => {
                self.model.leases.entry(key).or_default().possible.retain(|(number, _)| *number != operation)
            }
            Key::Head(key) => {
                self.model.heads.entry(key).or_default().possible.retain(|(number, _)| *number != operation)
            }
        }
    }

    fn commit(&mut self, place: usize) {
        let (operation, key, ticket) = self.tickets.swap_remove(place);
        if self.store.commit(ticket).is_ok() {
            match key {
                Key::Lease(key) => self.model.leases.entry(key).or_default().acknowledge(operation),
                Key::Head(key) => self.model.heads.entry(key).or_default().acknowledge(operation),
            }
        }
    }

    fn want_lease(&mut self, root: ShardRoot, lease: Option<LeaseRecord>, account: AccountId) -> (Key, u64) {
        self.operation += 1;
        let key = (root, account);
        self.model.leases.entry(key).or_default().possible.push((self.operation, lease));
        (Key::Lease(key), self.operation)
    }

    fn begin(&mut self) {
        let root = self.content();
        let length = u32::try_from(self.model.contents[&root].len()).unwrap();
        if let Ok(writer) = self.store.begin_put(root, length) {
            self.writers.push((root, 0, writer));
        }
    }

    /// Moves one running put on: some bytes, the end, a wrong end, or none.
    fn advance(&mut self) {
        if self.writers.is_empty() {
            return self.begin();
        }
        let place = self.draw.below(self.writers.len());
        let (root, done, mut writer) = self.writers.swap_remove(place);
        let bytes = self.model.contents[&root].clone();
        if self.draw.percent(8) {
            return;
        }
        if self.draw.percent(5) {
            let _ = writer.write(&vec![0; bytes.len() - done]);
            let account = self.account();
            let lease = self.lease(account);
            assert!(writer.finish(lease).is_err(), "wrong bytes are refused");
            return;
        }
        let until = if self.draw.percent(60) { bytes.len() } else { done + self.draw.below(bytes.len() - done + 1) };
        for piece in bytes[done..until].chunks(1 + self.draw.below(2000)) {
            if writer.write(piece).is_err() {
                return;
            }
        }
        if until < bytes.len() {
            self.writers.push((root, until, writer));
            return;
        }
        let account = self.account();
        let lease = self.lease(account);
        let (key, operation) = self.want_lease(root, Some(lease.clone()), account);
        let result = writer.finish(lease);
        self.attempt(key, operation, result);
    }

    fn change_lease(&mut self) {
        let (root, account) = (self.known_root(), self.account());
        if self.draw.percent(50) {
            let lease = self.lease(account);
            let (key, operation) = self.want_lease(root, Some(lease.clone()), account);
            let result = self.store.put_lease(root, lease);
            self.attempt(key, operation, result);
        } else {
            let (key, operation) = self.want_lease(root, None, account);
            let evidence = vec![9; self.draw.below(200)];
            let result = self.store.remove_lease(root, account, &evidence);
            self.attempt(key, operation, result);
        }
    }

    fn put_head(&mut self) {
        self.operation += 1;
        let (point, key) = (
            Point::new([u8::try_from(self.draw.below(4)).unwrap(); 32]),
            [u8::try_from(self.draw.below(2)).unwrap(); 32],
        );
        let mut bytes = self.operation.to_le_bytes().to_vec();
        bytes.resize(8 + self.draw.below(900), 5);
        self.model.heads.entry((point, key)).or_default().possible.push((self.operation, Some(bytes.clone())));
        // Far away: the model does not expire heads.
        let until = Timestamp::from_unix_ms(u64::MAX / 2);
        let result = self.store.put_head(point, key, &bytes, until);
        self.attempt(Key::Head((point, key)), self.operation, result);
    }

    fn expire(&mut self) {
        self.now = Timestamp::from_unix_ms(self.now.as_unix_ms() + (self.draw.next() % 300) * HOUR_MS);
        let short = self.draw.percent(50);
        let over = |lease: &LeaseRecord, now: Timestamp| lease.until < now;
        for cell in self.model.leases.values_mut() {
            self.operation += 1;
            let values = std::iter::once(&cell.acknowledged).chain(cell.possible.iter().map(|(_, value)| value));
            if values.flatten().any(|lease| over(lease, self.now)) {
                cell.possible.push((self.operation, None));
            }
        }
        if let Ok(report) = self.store.expire(self.now, short, 1000) {
            for ended in report.leases {
                assert!(ended.until < self.now, "only what is over ends");
                let cell = self.model.leases.entry((ended.root, ended.account)).or_default();
                let last = cell.possible.iter().rev().find(|(_, value)| value.is_none()).unwrap().0;
                cell.acknowledge(last);
            }
        }
    }

    fn fault(&mut self) {
        let place = self.draw.below(self.disks.len());
        let disk = self.disks[place].clone();
        match self.draw.below(8) {
            0 | 1 => disk.fail_syncs(1),
            2 if self.draw.percent(20) => disk.fail_writes(true),
            3 | 4 => {
                let used: usize = disk.files().values().sum();
                disk.set_capacity(Some(used + self.draw.below(40_000)));
            }
            5 | 6 => disk.set_capacity(None),
            _ if self.rots && !self.model.contents.is_empty() => {
                let root = self.known_root();
                let bytes = &self.model.contents[&root];
                // A short one may be found inside of something else.
                if bytes.len() >= 64
                    && let Some((name, at)) = disk.find(bytes)
                {
                    let offset = at + self.draw.below(bytes.len());
                    disk.rot(&name, offset, 3);
                    self.model.rotten.insert(root);
                }
            }
            _ => {}
        }
    }

    fn restart(&mut self) {
        if self.draw.percent(25) {
            let _ = self.store.close();
        }
        self.crash();
        while self.draw.percent(25) {
            self.cut_a_rebuild_off();
        }
        let (store, report) = open(&self.disks, self.now);
        self.store = store;
        for folder in report.folders {
            assert_eq!(folder.state, FolderState::Ready);
            assert_eq!(folder.unreadable, Vec::<String>::new());
            assert!(folder.damaged <= self.model.rotten.len(), "only rot damages: {folder:?}");
        }
        self.verify();
    }

    /// As in life: what was running is gone with the crash, and its destructors write to nothing.
    fn crash(&mut self) {
        let kind = [Crash::Everything, Crash::Nothing, Crash::Anything, Crash::Anything][self.draw.below(4)];
        for disk in &self.disks {
            disk.crash(&mut self.draw, kind);
            disk.set_capacity(None);
        }
        self.tickets.clear();
        self.writers.clear();
    }

    /// Starts, reads some volumes, serves what they hold, and fails again.
    fn cut_a_rebuild_off(&mut self) {
        self.store = Store::open(folders(&self.disks), options()).unwrap().0;
        for _ in 0..self.draw.below(16) {
            self.store.rebuild_step(self.draw.below(self.disks.len())).unwrap();
        }
        if self.draw.percent(30) {
            let _ = self.store.finish_rebuild(self.now);
        }
        let unknown = if self.store.is_whole() { StoreError::NotHeld } else { StoreError::Rebuilding };
        for (root, bytes) in self.model.contents.iter().filter(|(root, _)| !self.model.rotten.contains(root)) {
            let mut buffer = vec![0; bytes.len()];
            match self.store.read(root, 0, &mut buffer) {
                Ok(()) => assert!(buffer == *bytes, "{root:?} reads back exactly"),
                Err(error) => assert_eq!(error, unknown, "{root:?}"),
            }
        }
        if self.draw.percent(25) {
            let _ = self.store.close();
        }
        self.crash();
    }

    /// Compares everything that the store shows with the model.
    fn verify(&mut self) {
        let listed = self.store.leases(None, usize::MAX).unwrap();
        let listed: BTreeMap<LeaseKey, _> = listed.into_iter().map(|item| ((item.root, item.account), item)).collect();
        for key in listed.keys() {
            assert!(self.model.leases.contains_key(key), "a lease that nobody put: {key:?}");
        }
        for (root, bytes) in &self.model.contents {
            let info = self.store.lookup(root).unwrap();
            if self.model.rotten.contains(root) {
                continue;
            }
            let seen: BTreeMap<_, _> =
                info.iter().flat_map(|info| info.leases.iter()).map(|lease| (lease.account, lease)).collect();
            for ((_, account), cell) in
                self.model.leases.range_mut((*root, AccountId::new([0; 32]))..=(*root, AccountId::new([255; 32])))
            {
                let seen = seen.get(account).copied();
                cell.observe(seen, &format!("lease of {root:?} by {account:?}"));
                let listed = listed.get(&(*root, *account));
                assert_eq!(listed.map(|item| (item.until, item.mark)), seen.map(|lease| (lease.until, lease.mark)));
            }
            let mut buffer = vec![0; bytes.len()];
            match info {
                Some(info) => {
                    assert_eq!((info.state, info.length_bytes as usize), (ShardState::Held, bytes.len()), "{root:?}");
                    self.store.read(root, 0, &mut buffer).unwrap();
                    assert!(buffer == *bytes, "{root:?} reads back exactly");
                    self.store.outboard(root).unwrap();
                }
                // A put or lease that is under way keeps the bytes although no lease counts.
                None => match self.store.read(root, 0, &mut buffer) {
                    Ok(()) => assert!(buffer == *bytes, "{root:?} reads back exactly"),
                    Err(error) => assert_eq!(error, StoreError::NotHeld, "{root:?}"),
                },
            }
        }
        let heads = self.store.all_heads(None, usize::MAX).unwrap();
        let seen: BTreeMap<HeadKey, Vec<u8>> =
            heads.into_iter().map(|head| ((head.point, head.key), head.bytes.to_vec())).collect();
        for key in seen.keys() {
            assert!(self.model.heads.contains_key(key), "a head that nobody put: {key:?}");
        }
        for (key, cell) in &mut self.model.heads {
            cell.observe(seen.get(key), &format!("head {key:?}"));
        }
    }

    /// After a whole scrub nothing that is not the root's is served.
    fn scrub_all(&mut self) {
        while self.store.scrub(20_000).unwrap().rounds == 0 {}
        while self.store.scrub(20_000).unwrap().rounds == 0 {}
        for root in &self.model.rotten {
            let bytes = &self.model.contents[root];
            let mut buffer = vec![0; bytes.len()];
            if self.store.read(root, 0, &mut buffer).is_ok() {
                assert!(buffer == *bytes, "{root:?} was scrubbed and is not its root's");
            }
        }
    }

    fn step(&mut self) {
        match self.draw.below(100) {
            0..45 => self.advance(),
            45..58 => self.change_lease(),
            58..66 => self.put_head(),
            66..76 if !self.tickets.is_empty() => {
                let place = self.draw.below(self.tickets.len());
                self.commit(place);
            }
            76..80 => {
                let (short, budget) = (self.draw.percent(70), self.draw.next() % 100_000);
                let _ = self.store.compact(self.now, short, budget);
            }
            80..83 => self.expire(),
            83..85 => {
                let _ = self.store.scrub(self.draw.next() % 50_000);
            }
            85..90 => self.fault(),
            90..95 => self.verify(),
            95..98 => self.restart(),
            _ => {}
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
        }
        self.restart();
        self.scrub_all();
        self.verify();
        self.restart();
    }
}

#[test]
fn whatever_happens_what_was_acknowledged_is_there_and_nothing_else() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("DOLMEN_CRASH_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("DOLMEN_CRASH_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        let outcome = catch_unwind(AssertUnwindSafe(|| World::new(seed).run()));
        if let Err(panic) = outcome {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default();
            panic!("seed {seed} (run it alone with DOLMEN_CRASH_SEED={seed}): {text}");
        }
    }
}

fn one_disk(seed: u64) -> (FaultyDisk, Store<FaultyDisk>) {
    let disk = FaultyDisk::new(seed);
    initialise(&disk, NODE, [1; 32]).unwrap();
    let (store, _) = open(std::slice::from_ref(&disk), Timestamp::default());
    (disk, store)
}

fn plain_lease(account: u8) -> LeaseRecord {
    LeaseRecord {
        account: AccountId::new([account; 32]),
        delete_key: [2; 32],
        renew_key: [3; 32],
        until: Timestamp::from_unix_ms(1 << 50),
        issued_at: Timestamp::default(),
        mark: [0; 16],
        terms: Bytes::from_static(b"terms"),
    }
}

fn put(store: &Store<FaultyDisk>, bytes: &[u8]) -> Result<Ticket, StoreError> {
    let mut writer = store.begin_put(root_of(bytes), u32::try_from(bytes.len()).unwrap())?;
    writer.write(bytes)?;
    writer.finish(plain_lease(1))
}

#[test]
fn a_folder_made_while_the_power_fails_can_be_made_again() {
    for seed in 0..50 {
        let mut draw = Draw::new(seed);
        let disk = FaultyDisk::new(seed);
        disk.fail_syncs(1);
        initialise(&disk, NODE, [1; 32]).unwrap_err();
        disk.crash(&mut draw, Crash::Anything);
        if initialise(&disk, NODE, [1; 32]).is_err() {
            assert!(disk.files().contains_key("dolmen-disk"), "refused only because it is made: seed {seed}");
        }
        disk.crash(&mut draw, Crash::Nothing);
        let (_, report) = open(std::slice::from_ref(&disk), Timestamp::default());
        assert_eq!(report.folders[0].state, FolderState::Ready, "seed {seed}");
    }
}

#[test]
fn everyone_who_waits_for_a_failing_sync_is_told_and_older_shards_stay() {
    let (disk, store) = one_disk(1);
    let ticket = put(&store, &[1; 3000]).unwrap();
    store.commit(ticket).unwrap();
    let (first, second) = (put(&store, &[2; 3000]).unwrap(), put(&store, &[3; 3000]).unwrap());
    disk.fail_syncs(1);
    assert!(matches!(store.commit(second), Err(StoreError::SyncFailed { .. })));
    assert!(matches!(store.commit(first), Err(StoreError::SyncFailed { .. })), "a later sync does not make it good");
    assert_eq!(store.lookup(&root_of(&[2; 3000])).unwrap(), None);
    let mut buffer = [0; 3000];
    store.read(&root_of(&[1; 3000]), 0, &mut buffer).unwrap();
    assert_eq!(buffer, [1; 3000]);
    let ticket = put(&store, &[2; 3000]).unwrap();
    store.commit(ticket).unwrap();
    // The suspect volume is emptied by the next compaction.
    let volumes = disk.files().len();
    assert_eq!(store.compact(Timestamp::default(), false, u64::MAX).unwrap().volumes, 1);
    assert_eq!(disk.files().len(), volumes - 1);
    store.read(&root_of(&[1; 3000]), 0, &mut buffer).unwrap();
    assert_eq!(buffer, [1; 3000]);
}

#[test]
fn a_disk_that_cannot_be_written_is_still_read() {
    let (disk, store) = one_disk(1);
    let ticket = put(&store, &[1; 3000]).unwrap();
    store.commit(ticket).unwrap();
    disk.fail_writes(true);
    assert!(matches!(put(&store, &[2; 3000]), Err(StoreError::Io { .. })));
    assert!(matches!(store.folders()[0].state, FolderState::ReadOnly(_)));
    assert!(matches!(put(&store, &[2; 3000]), Err(StoreError::Folder { .. })));
    let mut buffer = [0; 3000];
    store.read(&root_of(&[1; 3000]), 0, &mut buffer).unwrap();
    assert_eq!(store.usage().free_bytes, 0);
    assert!(store.folders()[0].errors > 0);
}

#[test]
fn a_disk_that_cannot_be_read_is_not_taken_for_rot() {
    let (disk, store) = one_disk(1);
    let ticket = put(&store, &[1; 3000]).unwrap();
    store.commit(ticket).unwrap();
    disk.fail_reads(true);
    assert!(matches!(store.read(&root_of(&[1; 3000]), 0, &mut [0; 10]), Err(StoreError::Io { .. })));
    assert!(matches!(store.scrub(u64::MAX), Err(StoreError::Io { .. })));
    disk.fail_reads(false);
    assert_eq!(store.scrub(u64::MAX).unwrap().damaged, vec![]);
    assert_eq!(store.usage().damaged, 0);
}

#[test]
fn a_bad_sector_costs_the_shard_on_it_and_no_other() {
    let (disk, store) = one_disk(1);
    let shards: Vec<_> = (0..5u8).map(|seed| vec![seed; 3000]).collect();
    for bytes in &shards {
        let ticket = put(&store, bytes).unwrap();
        store.commit(ticket).unwrap();
    }
    let (name, at) = disk.find(&shards[2]).unwrap();
    disk.spoil(&name, at + 1500);
    let root = root_of(&shards[2]);
    assert!(matches!(store.read(&root, 0, &mut [0; 3000]), Err(StoreError::Io { .. })));
    // Found by a walk after a kill as well as by a scrub.
    disk.crash(&mut Draw::new(1), Crash::Nothing);
    let (walked, report) = open(std::slice::from_ref(&disk), Timestamp::default());
    assert_eq!((report.folders[0].walked, report.folders[0].damaged), (1, 1));
    let check = |store: &Store<FaultyDisk>| {
        for bytes in &shards {
            let expected = if root_of(bytes) == root { ShardState::Damaged } else { ShardState::Held };
            assert_eq!(store.lookup(&root_of(bytes)).unwrap().unwrap().state, expected);
        }
    };
    check(&walked);
    let (other, name) = (&shards[3], name);
    let (_, at) = disk.find(other).unwrap();
    disk.spoil(&name, at);
    assert_eq!(walked.scrub(u64::MAX).unwrap().damaged, vec![root_of(other)]);
}

#[test]
fn a_full_device_refuses_shards_and_takes_deletes_out_of_the_reserve() {
    let (disk, store) = one_disk(1);
    disk.set_capacity(Some(80_000));
    let mut held = Vec::new();
    let refused = loop {
        let bytes = vec![u8::try_from(held.len()).unwrap(); 5000];
        match put(&store, &bytes) {
            Ok(ticket) => store.commit(ticket).unwrap(),
            Err(error) => break error,
        }
        held.push(bytes);
    };
    assert!(matches!(refused, StoreError::DiskFull { .. }));
    assert!(held.len() >= 6, "{}", held.len());
    for bytes in &held {
        store.read(&root_of(bytes), 0, &mut [0; 5000]).unwrap();
        let ticket = store.remove_lease(root_of(bytes), AccountId::new([1; 32]), b"").unwrap();
        store.commit(ticket).unwrap();
    }
    store.compact(Timestamp::from_unix_ms(1), true, u64::MAX).unwrap();
    let ticket = put(&store, &held[0]).unwrap();
    store.commit(ticket).unwrap();
}

#[test]
fn committers_on_many_threads_share_syncs() {
    let (disk, store) = one_disk(1);
    let before = disk.syncs();
    let barrier = std::sync::Barrier::new(16);
    std::thread::scope(|scope| {
        for thread in 0..16u8 {
            let (store, barrier) = (&store, &barrier);
            scope.spawn(move || {
                let ticket = put(store, &[thread; 2000]).unwrap();
                barrier.wait();
                store.commit(ticket).unwrap();
                store.read(&root_of(&[thread; 2000]), 0, &mut [0; 2000]).unwrap();
            });
        }
    });
    assert!(disk.syncs() - before < 16, "{} syncs for 16 commits", disk.syncs() - before);
}
