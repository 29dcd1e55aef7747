//! Datasets over a network in memory: two machines of one owner, and those he shares with.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use dolmen_proto::link::Link;

use crate::network::memory::{Handle, Memory};
use crate::vault::{Cost, Dataset, DatasetName, ForgetPolicy, Passphrase, Selector, Vault, VaultLock, Words};
use crate::{
    Client, ClientConfig, ClientError, ErrorKind, PolicyChoice, Progress, ProgressEvent, ProgressSink, PutOptions,
    PutReport,
};

mod ancestry;
mod caring;
mod collect;
mod cut;
mod hostile;
mod leases;
mod overlays;
mod property;
mod reseal;
mod shares;
mod stewards;
mod writers;

/// What is warned of.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl ProgressSink for Warnings {
    fn event(&self, event: ProgressEvent) {
        if let ProgressEvent::Warning(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// One machine of the owner.
struct Machine {
    folder: tempfile::TempDir,
    vault: Vault,
    warnings: Arc<Warnings>,
}

/// A network, and the machines of one owner.
struct World {
    network: Arc<Memory>,
    words: Words,
}

type Files = BTreeMap<String, Vec<u8>>;

impl World {
    fn new(nodes: u8) -> Self {
        Self { network: Memory::new(nodes), words: Words::draw().unwrap() }
    }

    fn client(&self, folder: &Path, warnings: &Arc<Warnings>) -> Client {
        let config = ClientConfig {
            state_folder: folder.join("state"),
            memory_budget_bytes: 32 << 20,
            policy: PolicyChoice::Fixed { k: 1, n: 2 },
            ..ClientConfig::default()
        };
        let progress = Progress::new(Arc::clone(warnings) as Arc<dyn ProgressSink>);
        let client = Client::over(Arc::new(Handle(Arc::clone(&self.network))), config, progress).unwrap();
        client.with_locksmith(|locksmith| locksmith.cost = Cost::LEAST)
    }

    /// Somebody who holds nothing but a link.
    fn stranger(&self) -> (tempfile::TempDir, Client) {
        let folder = tempfile::tempdir().unwrap();
        let client = self.client(folder.path(), &Arc::default());
        (folder, client)
    }

    /// A new machine, with the words and nothing else.
    async fn machine(&self) -> Machine {
        let folder = tempfile::tempdir().unwrap();
        let warnings = Arc::default();
        let client = self.client(folder.path(), &warnings);
        let lock = VaultLock::Passphrase(Passphrase::new("x").unwrap());
        let vault = Vault::recover(&client, &self.words, lock).await.unwrap();
        Machine { folder, vault, warnings }
    }
}

impl Machine {
    async fn create(&self, name: &str) -> Dataset {
        within(self.vault.create_dataset(&name.parse().unwrap(), None)).await.unwrap()
    }

    async fn dataset(&self, name: &str) -> Dataset {
        within(self.vault.dataset(&name.parse().unwrap())).await.unwrap()
    }

    /// Puts these files beside what the dataset has.
    async fn put(&self, dataset: &Dataset, files: &[(&str, &[u8])]) -> Result<PutReport, ClientError> {
        let source = tempfile::tempdir_in(self.folder.path()).unwrap();
        for (path, bytes) in files {
            let path = source.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, bytes).unwrap();
        }
        let options = PutOptions::default();
        within(dataset.put(&[source.path().to_path_buf()], b"", &options)).await
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.0.lock().unwrap().clone()
    }
}

/// No test hangs.
async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(120), work).await.expect("it came to an end")
}

/// All files of a snapshot.
async fn files(dataset: &Dataset, selector: &Selector) -> Files {
    files_of(&within(dataset.snapshot(selector)).await.unwrap()).await
}

async fn files_of(snapshot: &crate::Snapshot) -> Files {
    let mut listing = snapshot.list(b"", true).await.unwrap();
    let mut files = Files::new();
    while let Some(entry) = listing.next().await.unwrap() {
        if entry.kind == crate::EntryKind::File {
            let file = snapshot.file(entry.path.as_bytes()).await.unwrap();
            let bytes = file.read_range(0, entry.size).await.unwrap();
            files.insert(entry.path, bytes.to_vec());
        }
    }
    files
}

fn expected(files: &[(&str, &[u8])]) -> Files {
    files.iter().map(|(path, bytes)| ((*path).to_owned(), bytes.to_vec())).collect()
}

fn named(text: &str) -> Selector {
    Selector::Named(text.to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dataset_grows_by_snapshots_that_share_what_did_not_change() {
    let world = World::new(6);
    let machine = world.machine().await;
    let photos = machine.create("photos/2026").await;
    assert!(photos.log().await.unwrap().is_empty());
    let large = vec![7; 300_000];
    let first = machine.put(&photos, &[("a", b"one"), ("b/c", &large)]).await.unwrap();
    assert_eq!((first.files, first.failed.len(), first.conflicts.len()), (2, 0, 0));
    let second = machine.put(&photos, &[("d", b"two")]).await.unwrap();
    assert_eq!(second.files, 3);
    assert!(second.new_bytes < 300_000, "what is there is not sent again: {}", second.new_bytes);
    let all = expected(&[("a", b"one"), ("b/c", &large), ("d", b"two")]);
    assert_eq!(files(&photos, &Selector::Newest).await, all);
    assert_eq!(files(&photos, &named(&first.snapshot)).await, expected(&[("a", b"one"), ("b/c", &large)]));
    let log = photos.log().await.unwrap();
    let ids: Vec<&String> = log.iter().map(|entry| &entry.snapshot).collect();
    assert_eq!(ids, [&second.snapshot, &first.snapshot], "newest first");

    photos.tag(&named(&first.snapshot[..8]), "v1").await.unwrap();
    assert_eq!(files(&photos, &named("v1")).await.len(), 2);
    assert_eq!(photos.tag(&Selector::Newest, "v1").await.unwrap_err().kind(), ErrorKind::Usage);
    let third = within(photos.remove_path(b"b/c", "without c")).await.unwrap();
    assert_eq!(photos.remove_path(b"b/c", "").await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(photos.remove_path(b"/", "").await.unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(files(&photos, &Selector::Newest).await, expected(&[("a", b"one"), ("d", b"two")]));
    assert_eq!(files(&photos, &named(&second.snapshot)).await, all, "older snapshots stay as they were");

    let policy = ForgetPolicy { last: 1, tags: vec!["v1".to_owned()], ..ForgetPolicy::default() };
    let would: Vec<String> =
        photos.would_forget(&policy).await.unwrap().into_iter().map(|entry| entry.snapshot).collect();
    let dropped: Vec<String> = photos.forget(&policy).await.unwrap().into_iter().map(|entry| entry.snapshot).collect();
    assert_eq!((&would, &dropped), (&vec![second.snapshot.clone()], &vec![second.snapshot.clone()]));
    assert_eq!(photos.snapshot(&named(&second.snapshot)).await.unwrap_err().kind(), ErrorKind::NotFound);
    let log = photos.log().await.unwrap();
    assert_eq!(log[0].snapshot, third.to_string());
    assert_eq!((log[0].message.as_str(), log[1].tags.as_slice()), ("without c", &["v1".to_owned()][..]));
    photos.untag("v1").await.unwrap();
    assert_eq!(photos.untag("v1").await.unwrap_err().kind(), ErrorKind::NotFound);
    let renewed = within(photos.renew(None)).await.unwrap();
    assert_eq!(renewed.renewed_shards, renewed.shards);
    assert!(machine.warnings().is_empty(), "{:?}", machine.warnings());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vault_comes_back_from_words_alone() {
    let world = World::new(6);
    let old = world.machine().await;
    assert!(old.vault.datasets().await.unwrap().is_empty());
    let (one, two) = (old.create("one").await, old.create("deep/two").await);
    let report = old.put(&one, &[("a", b"1")]).await.unwrap();
    old.put(&two, &[("b", b"2")]).await.unwrap();
    old.create("empty").await;
    drop(old);

    let new = world.machine().await;
    let found = within(new.vault.datasets()).await.unwrap();
    let names: Vec<(&str, u64, bool)> =
        found.iter().map(|info| (info.name.as_str(), info.index, info.snapshot.is_some())).collect();
    assert_eq!(names, [("one", 0, true), ("deep/two", 1, true), ("empty", 2, false)]);
    assert_eq!(found[0].snapshot.unwrap().to_string(), report.snapshot);
    assert!(found[0].created.as_unix_ms() > 0);
    assert_eq!(files(&new.dataset("one").await, &Selector::Newest).await, expected(&[("a", b"1")]));
    let missing = new.vault.dataset(&"three".parse().unwrap()).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);

    // Other words, another vault.
    let stranger = World { network: Arc::clone(&world.network), words: Words::draw().unwrap() };
    assert!(stranger.machine().await.vault.datasets().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_used_once_and_places_never_again() {
    let world = World::new(6);
    let machine = world.machine().await;
    let mut one = machine.create("one").await;
    let name = |text: &str| text.parse::<DatasetName>().unwrap();
    assert_eq!(machine.vault.create_dataset(&name("one"), None).await.unwrap_err().kind(), ErrorKind::Usage);
    machine.put(&one, &[("a", b"1")]).await.unwrap();
    one.rename(&name("uno")).await.unwrap();
    assert_eq!(files(&machine.dataset("uno").await, &Selector::Newest).await.len(), 1);
    assert_eq!(machine.vault.dataset(&name("one")).await.unwrap_err().kind(), ErrorKind::NotFound);
    within(one.remove()).await.unwrap();
    assert!(machine.vault.datasets().await.unwrap().is_empty());
    assert_eq!(machine.put(&one, &[("b", b"2")]).await.unwrap_err().kind(), ErrorKind::NotFound);
    let again = machine.create("uno").await;
    assert_eq!(again.index(), 1, "what is removed keeps its place");
    assert!(again.log().await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_becomes_a_file_and_an_estimate_stores_nothing() {
    let world = World::new(6);
    let machine = world.machine().await;
    let logs = machine.create("logs").await;
    let bytes = std::io::Cursor::new(b"line\n".to_vec());
    let report = within(logs.put_stream(bytes, b"2026/today", &PutOptions::default())).await.unwrap();
    assert_eq!(report.files, 1);
    assert_eq!(files(&logs, &Selector::Newest).await, expected(&[("2026/today", b"line\n")]));
    let empty = std::io::Cursor::new(Vec::new());
    assert_eq!(logs.put_stream(empty, b"", &PutOptions::default()).await.unwrap_err().kind(), ErrorKind::Usage);

    let source: PathBuf = machine.folder.path().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("new"), b"12345").unwrap();
    let held = world.network.held();
    let estimate = within(logs.estimate(&[source], b"", &PutOptions::default())).await.unwrap();
    assert_eq!((estimate.new, estimate.new_bytes, world.network.held()), (1, 5, held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn single_snapshots_are_forgotten_all_of_them_or_none() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let mut ids = Vec::new();
    for content in [b"1", b"2", b"3", b"4"] {
        ids.push(machine.put(&dataset, &[("a", content)]).await.unwrap().snapshot);
    }
    dataset.tag(&named(&ids[1]), "old").await.unwrap();
    let newest = dataset.forget_snapshots(&[named(&ids[0]), Selector::Newest]).await.unwrap_err();
    assert_eq!(newest.kind(), ErrorKind::Usage);
    let missing = dataset.forget_snapshots(&[named(&ids[0]), named("ffffffffffff")]).await.unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(dataset.log().await.unwrap().len(), 4);
    let both = [named("old"), named(&ids[0][..12])];
    let would = dataset.would_forget_snapshots(&both).await.unwrap();
    let gone = dataset.forget_snapshots(&both).await.unwrap();
    assert_eq!(would, gone);
    assert_eq!(gone.iter().map(|entry| &entry.snapshot).collect::<Vec<_>>(), [&ids[0], &ids[1]]);
    let left: Vec<String> = dataset.log().await.unwrap().into_iter().map(|entry| entry.snapshot).collect();
    assert_eq!(left, [ids[3].clone(), ids[2].clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_of_large_snapshots_reads_only_where_they_differ() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let names: Vec<String> = (0..6000u32).map(|number| format!("{:02}/{number:05}", number % 40)).collect();
    let all: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), name.as_bytes())).collect();
    let first = machine.put(&dataset, &all).await.unwrap();
    let second = machine.put(&dataset, &[("07/00007", b"changed"), ("new", b"n")]).await.unwrap();
    // Bytes that a machine without anything reads to list all, and to compare.
    let read = async |compare: bool| {
        let fresh = world.machine().await;
        let dataset = fresh.dataset("d").await;
        let after = within(dataset.snapshot(&named(&second.snapshot))).await.unwrap();
        let before = within(dataset.snapshot(&named(&first.snapshot))).await.unwrap();
        let start = world.network.got_bytes.load(std::sync::atomic::Ordering::SeqCst);
        if compare {
            let mut told = Vec::new();
            within(before.diff(&after, |entry| told.push(entry.path))).await.unwrap();
            told.retain(|path| path != "07");
            told.sort();
            assert_eq!(told, ["07/00007", "new"], "beside the time of the folder");
        } else {
            let mut listing = after.list(b"", true).await.unwrap();
            while within(listing.next()).await.unwrap().is_some() {}
        }
        let gets = world.network.take_gets().len();
        (world.network.got_bytes.load(std::sync::atomic::Ordering::SeqCst) - start, gets)
    };
    let (listed, _) = read(false).await;
    let (compared, gets) = read(true).await;
    assert!(compared * 4 < listed, "{compared} of {listed} bytes, {gets} reads");
}
