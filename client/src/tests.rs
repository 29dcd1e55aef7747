//! The whole client over a network in memory: what is put comes back, whatever nodes do, or fails by name.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::{LEASE_DEFAULT, LEASE_INITIAL, MIB};

use crate::network::memory::{Handle, Manner, Memory};
use crate::{
    Client, ClientConfig, Destination, EntryKind, ErrorKind, GetOptions, PolicyChoice, Progress, ProgressEvent,
    ProgressSink, PutOptions,
};

mod auditing;
mod inspecting;
mod reading;
mod restoring;
mod sharing;

/// A folder to put, one for state, one to get into, and a network.
struct World {
    folder: tempfile::TempDir,
    network: Arc<Memory>,
    events: Arc<Events>,
    budget_bytes: u64,
}

#[derive(Default)]
struct Events(Mutex<Vec<ProgressEvent>>);

impl ProgressSink for Events {
    fn event(&self, event: ProgressEvent) {
        self.0.lock().unwrap().push(event);
    }
}

impl World {
    fn new(nodes: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("source")).unwrap();
        Self { folder, network: Memory::new(nodes), events: Arc::default(), budget_bytes: 64 * MIB }
    }

    fn client(&self) -> Client {
        let config = ClientConfig {
            state_folder: self.folder.path().join("state"),
            memory_budget_bytes: self.budget_bytes,
            ..ClientConfig::default()
        };
        let progress = Progress::new(Arc::clone(&self.events) as Arc<dyn ProgressSink>);
        Client::over(Arc::new(Handle(Arc::clone(&self.network))), config, progress).unwrap()
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn target(&self) -> PathBuf {
        self.folder.path().join("target")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    async fn put(&self, policy: &str) -> crate::PutReport {
        within(self.client().put_anonymous(&[self.source()], &options(policy))).await.unwrap()
    }

    async fn get(&self, link: &str) -> Result<crate::GetReport, crate::ClientError> {
        within(self.client().get(link, Destination::Path(self.target()), &GetOptions::default())).await
    }

    fn assert_same(&self) {
        assert_same(&self.source(), &self.target());
    }
}

/// No test hangs: a wait in a circle is a failure, not a time-out of the whole run.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work).await.expect("it came to an end")
}

fn options(policy: &str) -> PutOptions {
    PutOptions { policy: Some(policy.parse().unwrap()), ..PutOptions::default() }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn assert_same(left: &Path, right: &Path) {
    let names = |path: &Path| {
        let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names(left), names(right), "{}", left.display());
    for name in names(left) {
        let (left, right) = (left.join(&name), right.join(&name));
        let (a, b) = (fs::symlink_metadata(&left).unwrap(), fs::symlink_metadata(&right).unwrap());
        assert_eq!(a.file_type(), b.file_type(), "{}", left.display());
        assert_eq!((a.mtime(), a.mtime_nsec()), (b.mtime(), b.mtime_nsec()), "{}", left.display());
        if a.is_symlink() {
            assert_eq!(fs::read_link(&left).unwrap(), fs::read_link(&right).unwrap());
            continue;
        }
        assert_eq!(a.mode() & 0o777, b.mode() & 0o777, "{}", left.display());
        if a.is_dir() {
            assert_same(&left, &right);
        } else {
            assert!(fs::read(&left).unwrap() == fs::read(&right).unwrap(), "{}", left.display());
        }
    }
}

/// A bit of everything that a folder can hold.
fn furnish(world: &World) {
    world.write("small.txt", b"hello");
    world.write("empty", b"");
    world.write("large", &noise(1, 9_000_000));
    world.write("copy of large", &noise(1, 9_000_000));
    world.write("a/b/c/deep", &noise(2, 100_000));
    world.write("a/b/also", &noise(3, 70_000));
    fs::create_dir_all(world.source().join("a/empty folder")).unwrap();
    fs::write(world.source().join(OsStr::from_bytes(b"\xff\xfe\n")), "odd name").unwrap();
    symlink("../small.txt", world.source().join("a/link")).unwrap();
    symlink("/no/such/place", world.source().join("dangling")).unwrap();
    fs::set_permissions(world.source().join("small.txt"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::set_permissions(world.source().join("a/b"), fs::Permissions::from_mode(0o750)).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_comes_back_as_it_was() {
    let world = World::new(12);
    furnish(&world);
    let report = world.put("4/8").await;
    assert!(!report.degraded && report.failed.is_empty());
    assert_eq!((report.files, report.segments), (7, 1));
    assert_eq!(report.stored_bytes, report.new_bytes);
    assert!(report.stored_bytes < 20_000_000, "equal files are stored once: {}", report.stored_bytes);
    let until = world.network.earliest_end().unwrap();
    assert!(until.after(Duration::from_secs(60)) >= report.lease_until, "every shard has the long lease");
    assert!(fs::read_dir(world.folder.path().join("state/journals")).unwrap().next().is_none());
    let got = world.get(&report.link).await.unwrap();
    assert_eq!((got.files, got.bytes, got.degraded_segments), (7, 18_170_013, 0));
    world.assert_same();
    let again = world.get(&report.link).await.unwrap();
    assert_eq!((again.files, again.skipped), (7, 7));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_m_nodes_may_die_and_one_more_is_said() {
    let world = World::new(8);
    furnish(&world);
    let report = world.put("4/8").await;
    world.network.behave(4, Manner::Dead);
    let got = world.get(&report.link).await.unwrap();
    assert!(got.failed.is_empty() && got.degraded_segments > 0);
    world.assert_same();
    let info = within(world.client().info(&report.link)).await.unwrap();
    assert_eq!((info.min_alive, info.k, info.n), (4, 4, 8));
    assert_eq!(info.alive_shards * 2, info.shards);

    fs::remove_dir_all(world.target()).unwrap();
    world.network.behave(5, Manner::Dead);
    assert_eq!(world.get(&report.link).await.unwrap_err().kind(), ErrorKind::NotNow);
    world.network.behave(5, Manner::Forgetful);
    let error = world.get(&report.link).await.unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Damaged, 5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_and_slowness_change_nothing_of_what_is_read() {
    let world = World::new(9);
    furnish(&world);
    let report = world.put("3/9").await;
    world.network.behave(4, Manner::Lying);
    world.network.behave(2, Manner::Slow(20_000));
    let got = world.get(&report.link).await.unwrap();
    assert!(got.failed.is_empty());
    world.assert_same();
    let out = Shared::default();
    let range = Some(5_000_000..5_000_100);
    let count = within(world.client().cat(&report.link, b"large", range, Box::new(out.clone()))).await.unwrap();
    assert_eq!((count, out.take()), (100, noise(1, 9_000_000)[5_000_000..5_000_100].to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_cannot_be_reached_hold_nobody_up_and_are_asked_for_nothing() {
    let world = World::new(9);
    furnish(&world);
    let report = world.put("3/9").await;
    world.network.behave(4, Manner::Unreached);
    let _ = world.network.take_gets();
    let got = world.get(&report.link).await.unwrap();
    assert!(got.failed.is_empty());
    world.assert_same();
    let unreached = &world.network.ids()[..4];
    let asked = world.network.take_gets();
    assert!(!asked.is_empty() && asked.iter().all(|got| !unreached.contains(&got.node)), "nothing waits behind a dial");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_could_not_be_reached_is_not_sought_by_the_next_run_and_sought_again_later() {
    let world = World::new(9);
    furnish(&world);
    let report = world.put("3/9").await;
    let _ = world.network.take_gets();
    world.get(&report.link).await.unwrap();
    fs::remove_dir_all(world.target()).unwrap();
    // It holds a data shard of the contents, so it is asked first.
    let largest = world.network.take_gets().into_iter().max_by_key(|got| got.count_bytes).unwrap();
    world.network.behave_one(largest.node, Manner::Unreached);
    let mut sought = Vec::new();
    for pause in [Duration::ZERO, Duration::from_mins(1), Duration::from_mins(3)] {
        world.network.pass(pause);
        let _ = world.network.take_sought();
        let client = world.client();
        let options = GetOptions::default();
        let got = client.get(&report.link, Destination::Path(world.target()), &options);
        assert!(within(got).await.unwrap().failed.is_empty());
        client.shut_down().await;
        fs::remove_dir_all(world.target()).unwrap();
        sought.push(world.network.take_sought().iter().filter(|node| **node == largest.node).count());
    }
    assert!(sought[0] > 0 && sought[1] == 0 && sought[2] > 0, "{sought:?}");
}

#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Shared {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_range_costs_little_and_a_stream_is_whole() {
    let world = World::new(5);
    world.write("one", &noise(9, 30_000_000));
    let report = world.put("2/4").await;
    let client = world.client();
    world.network.got_bytes.store(0, Ordering::SeqCst);
    let out = Shared::default();
    within(client.cat(&report.link, b"one", Some(20_000_000..20_000_010), Box::new(out.clone()))).await.unwrap();
    assert_eq!(out.take(), noise(9, 30_000_000)[20_000_000..20_000_010]);
    let cost = world.network.got_bytes.load(Ordering::SeqCst);
    assert!(cost < 6_000_000, "{cost} bytes for ten: not more than the chunk, not the segment");
    let stream = Destination::Writer(Box::new(out.clone()));
    let got = within(client.get(&report.link, stream, &GetOptions::default())).await.unwrap();
    assert_eq!(got.bytes, 30_000_000);
    assert!(out.take() == noise(9, 30_000_000));
    let beyond = Some(29_999_999..u64::MAX);
    assert_eq!(within(client.cat(&report.link, b"one", beyond, Box::new(out.clone()))).await.unwrap(), 1);
    let missing = within(client.cat(&report.link, b"two", None, Box::new(out))).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_interrupted_put_resumes_without_sending_again_what_was_acknowledged() {
    let world = World::new(6);
    for number in 0..6 {
        world.write(&format!("{number}"), &noise(number, 20_000_000));
    }
    let client = world.client();
    let (paths, how) = ([world.source()], options("2/4"));
    let mut changes = world.network.changed.subscribe();
    tokio::select! {
        report = client.put_anonymous(&paths, &how) => panic!("cut off before its end: {report:?}"),
        result = changes.wait_for(|puts| *puts >= 9) => { result.unwrap(); }
    }
    drop(client);
    // Acknowledgements may still be on their way to the journal's thread.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = world.network.puts.load(Ordering::SeqCst);
    let report = world.put("2/4").await;
    let after = world.network.puts.load(Ordering::SeqCst) - before;
    let shards = report.segments * 4 + 8;
    assert!(after <= shards - 6, "{after} of {shards} shards were sent again after {before}");
    assert!(report.new_bytes < report.stored_bytes);
    world.get(&report.link).await.unwrap();
    world.assert_same();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_changed_between_two_runs_is_put_as_it_is_now() {
    let world = World::new(4);
    world.write("a", &noise(1, 40_000_000));
    world.write("b", &noise(2, 30_000_000));
    let client = world.client();
    let (paths, how) = ([world.source()], options("2/4"));
    let mut changes = world.network.changed.subscribe();
    tokio::select! {
        _ = client.put_anonymous(&paths, &how) => panic!("cut off before its end"),
        result = changes.wait_for(|puts| *puts >= 4) => { result.unwrap(); }
    }
    drop(client);
    let file = File::options().write(true).open(world.source().join("a")).unwrap();
    file.write_all_at(b"something else", 17_000_000).unwrap();
    drop(file);
    let report = world.put("2/4").await;
    world.get(&report.link).await.unwrap();
    world.assert_same();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bad_nodes_are_passed_over_while_there_are_others() {
    for manner in [Manner::Full, Manner::Fast, Manner::FalseReceipts, Manner::Dead] {
        let world = World::new(8);
        furnish(&world);
        world.network.behave(2, manner);
        let report = world.put("3/6").await;
        assert!(!report.degraded, "{manner:?}");
        world.get(&report.link).await.unwrap();
        world.assert_same();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_willing_nodes_is_degraded_or_an_error_by_name() {
    let world = World::new(6);
    furnish(&world);
    world.network.behave(1, Manner::Full);
    let strict = PutOptions { require_full: true, ..options("2/6") };
    let error = within(world.client().put_anonymous(&[world.source()], &strict)).await.unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::NotNow, 4));
    let report = world.put("2/6").await;
    assert!(report.degraded && report.short_shards > 0);
    world.get(&report.link).await.unwrap();
    world.assert_same();

    let error = within(world.client().put_anonymous(&[world.source()], &options("4/8"))).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotNow);
    assert!(error.why().contains('6') && error.why().contains('8'), "both numbers are named: {}", error.why());
    world.network.all_behave(Manner::Full);
    let other = world.folder.path().join("source/small.txt");
    let error = within(world.client().put_anonymous(&[other], &options("2/4"))).await.unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), (ErrorKind::Refused, 6));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_least_memory_is_enough_and_holes_stay_holes() {
    let mut world = World::new(5);
    world.budget_bytes = 16 * MIB;
    world.write("large", &noise(5, 90_000_000));
    let sparse = File::create(world.source().join("sparse")).unwrap();
    sparse.set_len(3 << 30).unwrap();
    sparse.write_all_at(&noise(6, 1_000_000), 1 << 30).unwrap();
    drop(sparse);
    let report = world.put("2/5").await;
    assert!(report.bytes < 100_000_000, "holes are not bytes: {}", report.bytes);
    world.get(&report.link).await.unwrap();
    assert!(fs::read(world.source().join("large")).unwrap() == fs::read(world.target().join("large")).unwrap());
    let restored = File::open(world.target().join("sparse")).unwrap();
    let metadata = restored.metadata().unwrap();
    assert_eq!(metadata.len(), 3 << 30);
    assert!(metadata.blocks() * 512 < 64 << 20, "holes were written");
    let mut bytes = vec![0; 1_000_000];
    restored.read_exact_at(&mut bytes, 1 << 30).unwrap();
    assert!(bytes == noise(6, 1_000_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_tiny_files_become_few_segments() {
    let world = World::new(4);
    for number in 0..10_000u32 {
        world.write(&format!("{:02}/{number}", number % 100), &number.to_le_bytes());
    }
    let report = world.put("1/3").await;
    assert_eq!((report.files, report.segments), (10_000, 1));
    let got = world.get(&report.link).await.unwrap();
    assert_eq!(got.files, 10_000);
    world.assert_same();
    let mut listing = within(world.client().list(&report.link, b"07", false)).await.unwrap();
    let mut count = 0;
    while let Some(entry) = within(listing.next()).await.unwrap() {
        assert_eq!((entry.kind, entry.size), (EntryKind::File, 4));
        assert!(entry.path.starts_with("07/"));
        count += 1;
    }
    assert_eq!(count, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_folders_come_back_and_too_deep_ones_are_named() {
    let world = World::new(3);
    let deep: PathBuf = (0..200).map(|_| "d").collect();
    fs::create_dir_all(world.source().join(&deep)).unwrap();
    fs::write(world.source().join(&deep).join("bottom"), "x").unwrap();
    let report = world.put("1/2").await;
    world.get(&report.link).await.unwrap();
    world.assert_same();
    let deeper: PathBuf = (0..300).map(|_| "d").collect();
    fs::create_dir_all(world.source().join(deeper)).unwrap();
    let report = world.put("1/2").await;
    assert_eq!(report.failed.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_read_is_listed_and_the_rest_is_put() {
    let world = World::new(3);
    world.write("good", b"good");
    world.write("bad", b"bad");
    let _listener = std::os::unix::net::UnixListener::bind(world.source().join("socket")).unwrap();
    // It never holds still while it is read, for root may read anything.
    let bad = world.source().join("bad");
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let spoiler = tokio::task::spawn_blocking(move || {
        let mut file = File::options().append(true).open(bad).unwrap();
        while !stopped.load(Ordering::SeqCst) {
            file.write_all(b"more").unwrap();
        }
    });
    let report = within(world.client().put_anonymous(&[world.source()], &options("1/2"))).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    spoiler.await.unwrap();
    assert!(report.files + report.failed.len() as u64 == 2);
    let warned = |event: &ProgressEvent| matches!(event, ProgressEvent::Warning(text) if text.contains("socket"));
    assert!(world.events.0.lock().unwrap().iter().any(warned));
    world.get(&report.link).await.unwrap();
    assert_eq!(fs::read(world.target().join("good")).unwrap(), b"good");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_goes_where_cp_would_put_it() {
    let world = World::new(3);
    world.write("report.csv", b"1,2,3");
    let path = world.source().join("report.csv");
    let report = within(world.client().put_anonymous(&[path], &options("1/2"))).await.unwrap();
    let base = world.folder.path().join("out");
    fs::create_dir(&base).unwrap();
    for (to, found) in [(base.clone(), base.join("report.csv")), (base.join("other"), base.join("other"))] {
        within(world.client().get(&report.link, Destination::Path(to), &GetOptions::default())).await.unwrap();
        assert_eq!(fs::read(found).unwrap(), b"1,2,3");
    }
    fs::write(base.join("other"), "mine").unwrap();
    let again = Destination::Path(base.join("other"));
    let got = within(world.client().get(&report.link, again, &GetOptions::default())).await.unwrap();
    assert_eq!((got.files, got.failed.len()), (0, 1), "what is there stays");
    assert_eq!(fs::read(base.join("other")).unwrap(), b"mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_are_extended_and_given_up_by_the_uploader_alone() {
    let world = World::new(4);
    furnish(&world);
    let short = PutOptions { lease: Some(LEASE_INITIAL), ..options("2/4") };
    let report = within(world.client().put_anonymous(&[world.source()], &short)).await.unwrap();
    let before = world.network.earliest_end().unwrap();
    let renewed = within(world.client().renew(&report.link, None)).await.unwrap();
    assert_eq!(renewed.shards, renewed.renewed_shards);
    assert!(world.network.earliest_end().unwrap() > before.after(LEASE_DEFAULT - LEASE_INITIAL * 2));
    let past = within(world.client().renew(&report.link, Some(Timestamp::from_unix_ms(5)))).await.unwrap_err();
    assert_eq!(past.kind(), ErrorKind::Usage);

    let config = ClientConfig { state_folder: world.folder.path().join("elsewhere"), ..ClientConfig::default() };
    let handle = Arc::new(Handle(Arc::clone(&world.network)));
    let stranger = Client::over(handle, config, Progress::none()).unwrap();
    assert_eq!(within(stranger.remove(&report.link)).await.unwrap_err().kind(), ErrorKind::Refused);
    let removed = within(world.client().remove(&report.link)).await.unwrap();
    assert_eq!((removed.shards, removed.removed_shards), (renewed.shards, renewed.shards));
    assert_eq!(world.network.held(), 0);
    assert_eq!(within(world.client().remove(&report.link)).await.unwrap_err().kind(), ErrorKind::Refused);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_or_foreign_link_is_an_error_by_name() {
    let world = World::new(3);
    world.write("x", b"x");
    let report = world.put("1/2").await;
    let mut changed = report.link.clone().into_bytes();
    changed[20] = if changed[20] == b'a' { b'b' } else { b'a' };
    let changed = String::from_utf8(changed).unwrap();
    assert_eq!(world.get(&changed).await.unwrap_err().kind(), ErrorKind::Usage);
    let elsewhere = World::new(3);
    assert_eq!(elsewhere.get(&report.link).await.unwrap_err().kind(), ErrorKind::NotFound);
    elsewhere.network.all_behave(Manner::Dead);
    assert_eq!(elsewhere.get(&report.link).await.unwrap_err().kind(), ErrorKind::NotNow);
    assert!(!world.target().exists(), "nothing is made for what cannot be read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_puts_of_one_folder_at_once_both_work() {
    let world = World::new(4);
    furnish(&world);
    let (first, second) = tokio::join!(world.put("2/4"), world.put("2/4"));
    assert_ne!(first.link, second.link);
    for report in [first, second] {
        world.get(&report.link).await.unwrap();
        world.assert_same();
        fs::remove_dir_all(world.target()).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn auto_needs_two_nodes_and_chooses_by_their_number() {
    let world = World::new(1);
    world.write("x", b"x");
    let auto = PutOptions { policy: Some(PolicyChoice::Auto), ..PutOptions::default() };
    let error = within(world.client().put_anonymous(&[world.source()], &auto)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotNow);
    world.put("1/1").await;
    let world = World::new(20);
    world.write("x", b"x");
    let report = within(world.client().put_anonymous(&[world.source()], &auto)).await.unwrap();
    let info = within(world.client().info(&report.link)).await.unwrap();
    assert_eq!(info.by_policy.get("7/16"), Some(&1));
    assert_eq!(info.by_policy.get("3/16"), Some(&2), "manifest and table");
    assert_eq!(info.alive_shards, info.shards);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_folder_is_a_dataset_too() {
    let world = World::new(3);
    let report = world.put("1/2").await;
    assert_eq!((report.files, report.segments), (0, 0));
    world.get(&report.link).await.unwrap();
    world.assert_same();
}
