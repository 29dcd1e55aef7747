//! Puts that extend each other, over a network in memory: what is stored again and what is not, and what comes back.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use dolmen_proto::codec::{Extensions, Needs};
use dolmen_proto::head::{Head, HeadOrder, ReadBody, TableBody};
use dolmen_proto::ids::{SegmentId, SnapshotId, Timestamp};
use dolmen_proto::keys::{DatasetKeys, ReadKeys, TableKeys, VaultSecret};
use dolmen_proto::limits::MIB;
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::manifest::{self as format, Entry, EntryKind, Name};
use dolmen_proto::policy::Policy;
use dolmen_proto::table::{RowKind, SegmentRow};
use proptest::prelude::*;

use super::content::Tally;
use super::prepare::{Input, estimate};
use super::source::Stream;
use super::*;
use crate::config::PolicyChoice;
use crate::network::memory::{Handle, Memory};
use crate::options::{Compression, PutOptions};
use crate::read::{Dataset, Reading};
use crate::state::{Journal, JournalHeader};
use crate::{Client, Destination, GetOptions, heads};

/// One dataset, its owner, and a network.
struct World {
    folder: tempfile::TempDir,
    network: Arc<Memory>,
    nodes: Nodes,
    state: State,
    config: ClientConfig,
    cores: Cores,
    progress: Progress,
    keys: Arc<DatasetKeys>,
    heads: Option<(Head, Head)>,
    newest: Option<format::Parent>,
    snapshots: u64,
}

/// What one commit has come to.
struct Commit {
    tally: Tally,
    /// Shards that were sent.
    puts: u64,
    /// Bytes of shards that were sent.
    sent_bytes: u64,
    content: Vec<SegmentId>,
    /// Bytes of documents before coding, without the table's root.
    document_bytes: u64,
    /// Segments that have left so far.
    left: u64,
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("source")).unwrap();
        let network = Memory::new(4);
        let config = ClientConfig {
            state_folder: folder.path().join("state"),
            memory_budget_bytes: 64 * MIB,
            ..ClientConfig::default()
        };
        Self {
            nodes: Nodes::new(Arc::new(Handle(Arc::clone(&network))), &Default::default()),
            state: State::open(&config.state_folder).unwrap(),
            config,
            folder,
            network,
            cores: Cores::all(),
            progress: Progress::none(),
            keys: Arc::new(DatasetKeys::derive(&VaultSecret::new([9; 32]), 0)),
            heads: None,
            newest: None,
            snapshots: 0,
        }
    }

    fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        let path = self.source().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn link(&self) -> Link {
        Link::new(LinkSecret::ReadLive(self.keys.read.clone()), Vec::new()).unwrap()
    }

    fn context(&self) -> PutContext<'_> {
        PutContext {
            nodes: &self.nodes,
            state: &self.state,
            config: &self.config,
            cores: &self.cores,
            progress: &self.progress,
        }
    }

    async fn dataset(&self) -> Option<Dataset> {
        self.heads.as_ref()?;
        let reading = Reading {
            nodes: self.nodes.clone(),
            cores: self.cores.clone(),
            budget_bytes: 16 * MIB,
            cache: None,
            seen: None,
        };
        Some(Dataset::open(&reading, &self.link(), true).await.unwrap())
    }

    fn input<'a>(&self, roots: Roots, parent: Option<Parent>, to: &str, options: &'a PutOptions) -> Input<'a> {
        let to = to.split('/').filter(|part| !part.is_empty()).map(|part| Name::new(part).unwrap()).collect();
        let created = Timestamp::from_unix_ms(1000 + self.snapshots);
        let index = self.folder.path().join("index");
        Input { roots, parent, to, options, created, index, scratch: self.state.scratch() }
    }

    async fn put(&mut self, options: &PutOptions) -> Commit {
        self.commit(Source::Paths(vec![self.source()]), "", options).await
    }

    /// What the vault does, without anybody else.
    async fn commit(&mut self, source: Source, to: &str, options: &PutOptions) -> Commit {
        let before = self.network.puts.load(Ordering::SeqCst);
        let base = self.dataset().await;
        let snapshot = match &base {
            Some(base) => Some(base.snapshot().await.unwrap()),
            None => None,
        };
        let policy: Policy = "2/3".parse().unwrap();
        let header = JournalHeader {
            vault: VaultSecret::new([0; 32]),
            created: Timestamp::from_unix_ms(1000 + self.snapshots),
            policy: (2, 3),
            document_policy: (1, 3),
        };
        let candidates = Candidates::find(&self.context()).await.unwrap();
        assert_eq!(candidates.policy(PolicyChoice::Fixed { k: 2, n: 3 }).unwrap(), policy);
        let terms = Terms {
            keys: Arc::clone(&self.keys),
            policy,
            document_policy: policy.document_policy(),
            require_full: true,
            after: base.as_ref().map(Dataset::snapshot_id),
            journal: Journal::open(&self.state, b"dataset", &[self.source()], |_| true, || Ok(header.clone())).unwrap(),
        };
        let mut store = Store::new(&self.context(), &candidates, terms);
        let parent = base
            .as_ref()
            .zip(snapshot)
            .map(|(base, snapshot)| Parent::new(base.clone(), &snapshot, store.known.clone()));
        let input = self.input(source.roots().await.unwrap(), parent, to, options);
        let prepared = prepare(&mut store, input).await.unwrap();
        let tally = prepared.tally.clone();
        let about = About {
            created: header.created,
            message: String::new(),
            salt: self.keys.snapshot_salt(header.created),
            parent: self.newest.clone(),
            single: prepared.single,
            needs: prepared.needs,
        };
        let (root, id) = write_snapshot(&mut store, prepared.root.clone(), about).await.unwrap();
        let table = write_table(&mut store, base.as_ref(), TableChange::default()).await.unwrap();
        let snapshot = store.settled(root);
        self.newest = Some(format::Parent { id, root: snapshot.clone() });
        self.publish(snapshot, id, header.created, &table.location).await;
        prepared.remember(id).await;
        store.finish().unwrap();
        self.snapshots += 1;
        let left = self.dataset().await.unwrap().table().leaving.as_ref().map_or(0, |leaving| leaving.count);
        let document = |(kind, _): &&(RowKind, Stored)| *kind == RowKind::Documents;
        let (documents, content): (Vec<_>, Vec<_>) = store.stored.iter().partition(document);
        Commit {
            tally,
            puts: self.network.puts.load(Ordering::SeqCst) - before,
            sent_bytes: store.sent_bytes(),
            content: content.iter().map(|(_, stored)| stored.id).collect(),
            document_bytes: documents
                .iter()
                .rev()
                .skip(1)
                .map(|(_, stored)| u64::from(stored.geometry.payload_bytes()))
                .sum(),
            left,
        }
    }

    async fn publish(
        &mut self,
        snapshot: dolmen_proto::tree::BlobPointer,
        snapshot_id: SnapshotId,
        created: Timestamp,
        table: &dolmen_proto::head::TableLocation,
    ) {
        let (keys, nodes) = (&self.keys, &self.nodes);
        let order = |head: Option<&Head>| HeadOrder::after(head);
        let body = TableBody { location: table.clone(), extensions: Extensions::default() };
        let previous = self.heads.as_ref();
        let table_head =
            Head::create_table(&keys.table, &keys.table_head, order(previous.map(|(head, _)| head)), &body).unwrap();
        let body = ReadBody {
            read_opening: keys.read_opening.clone(),
            table_secret: keys.table.clone(),
            mask_secret: keys.mask.clone(),
            table_head_key: keys.table_head.verifying_key().to_bytes(),
            table: table.clone(),
            snapshot,
            snapshot_id,
            created,
            history: None,
            owner_note: None,
            extensions: Extensions::default(),
        };
        let read_head =
            Head::create_read(&keys.read, &keys.read_head, order(previous.map(|(_, head)| head)), &body).unwrap();
        let until = nodes.now().after(std::time::Duration::from_secs(1_000_000));
        let (table_locator, read_locator) =
            (TableKeys::derive(&keys.table).locator, ReadKeys::derive(&keys.read).locator);
        heads::publish(nodes, &table_locator, &table_head, until, None).await.unwrap();
        heads::publish(nodes, &read_locator, &read_head, until, None).await.unwrap();
        self.heads = Some((table_head, read_head));
    }

    /// Restores the newest snapshot somewhere new; gives every file's path and contents.
    async fn get(&self) -> BTreeMap<String, Vec<u8>> {
        let target = tempfile::tempdir_in(self.folder.path()).unwrap();
        let config = ClientConfig { state_folder: self.folder.path().join("reader"), ..self.config.clone() };
        let client = Client::over(Arc::new(Handle(Arc::clone(&self.network))), config, Progress::none()).unwrap();
        let to = Destination::Path(target.path().to_path_buf());
        let got = client.get(&self.link().to_text(), to, &GetOptions::default()).await.unwrap();
        assert!(got.failed.is_empty());
        files(target.path())
    }

    /// Every segment that the newest manifest names is in the table, and the table's trees can be read.
    async fn assert_whole(&self) {
        let dataset = self.dataset().await.unwrap();
        let mut rows = dataset.rows();
        let mut live = std::collections::BTreeSet::new();
        while let Some(rows) = dataset.next_rows_seen(&mut rows, |_, _| {}).await.unwrap() {
            live.extend(rows.iter().map(SegmentRow::id));
        }
        let mut folders = vec![dataset.folder(&dataset.snapshot().await.unwrap().root)];
        while let Some(mut folder) = folders.pop() {
            while let Some(entries) = dataset.next_entries(&mut folder).await.unwrap() {
                for entry in entries {
                    match entry.kind {
                        EntryKind::Folder(below) => {
                            assert!(live.contains(&below.tree.segment));
                            folders.push(dataset.folder(&below));
                        }
                        EntryKind::File(file) => {
                            let mut extents = dataset.extents(&file);
                            while let Some(placed) = dataset.next_extents(&mut extents).await.unwrap() {
                                let chunks = placed.iter().filter_map(|placed| placed.extent.chunk());
                                assert!(chunks.clone().all(|(chunk, _)| live.contains(&chunk.segment)));
                            }
                        }
                        EntryKind::Symlink { .. } => {}
                    }
                }
            }
        }
    }
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![folder.to_path_buf()];
    while let Some(path) = waiting.pop() {
        for entry in fs::read_dir(&path).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().display().to_string();
                found.insert(name, fs::read(path).unwrap());
            }
        }
    }
    found
}

fn counts(tally: &Tally) -> [u64; 4] {
    [tally.new, tally.changed, tally.unchanged, tally.removed]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_put_stores_no_content_and_few_documents() {
    let mut world = World::new();
    for number in 0..300u32 {
        world.write(&format!("{}/{number}", number % 7), &noise(number.into(), 3000));
    }
    world.write("large", &noise(999, 5_000_000));
    let first = world.put(&PutOptions::default()).await;
    assert_eq!((counts(&first.tally), first.content.len()), ([301, 0, 0, 0], 1));
    assert_eq!(first.left, 0);
    for (left, checksum) in [(1, false), (2, true)] {
        let again = world.put(&PutOptions { checksum, ..PutOptions::default() }).await;
        assert_eq!(counts(&again.tally), [0, 0, 301, 0]);
        assert_eq!((again.tally.new_bytes, again.content.len()), (0, 0));
        assert!(again.document_bytes < 2000, "a snapshot's root is all: {}", again.document_bytes);
        assert_eq!(again.left, left, "the roots of the last tables");
        assert_eq!(world.get().await, files(&world.source()));
    }
    // Touched, moved and copied files cost no content either; the index makes that out, whoever has put them.
    for (round, index_lost) in [false, true].into_iter().enumerate() {
        if index_lost {
            fs::remove_file(world.folder.path().join("index")).unwrap();
        }
        fs::rename(world.source().join(format!("{round}")), world.source().join(format!("moved {round}"))).unwrap();
        fs::copy(world.source().join("large"), world.source().join(format!("copy {round}"))).unwrap();
        let moved = world.put(&PutOptions { delete: true, ..PutOptions::default() }).await;
        assert_eq!((moved.tally.new_bytes, moved.content.len()), (0, 0), "index lost: {index_lost}");
        assert_eq!(moved.tally.removed, 43);
        assert_eq!(world.get().await, files(&world.source()));
    }
    world.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_put_in_front_of_a_file_cost_the_chunks_around_them() {
    let mut world = World::new();
    let large = noise(1, 40 * 1024 * 1024);
    world.write("large", &large);
    world.put(&PutOptions::default()).await;
    world.write("large", &[&noise(2, 1024), &large[..]].concat());
    let edited = world.put(&PutOptions::default()).await;
    assert_eq!(counts(&edited.tally), [0, 1, 0, 0]);
    assert!(edited.tally.new_bytes < 16 * MIB, "{} bytes were new", edited.tally.new_bytes);
    assert_eq!(world.get().await, files(&world.source()));
    world.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_put_on_top_of_others_that_was_cut_off_goes_on_where_it_was() {
    let mut world = World::new();
    world.write("small", &noise(1, 1000));
    world.put(&PutOptions::default()).await;
    for number in 0..4u32 {
        world.write(&format!("{number}"), &noise(10 + u64::from(number), 30_000_000));
    }
    let network = Arc::clone(&world.network);
    let before = network.puts.load(Ordering::SeqCst);
    let mut changes = network.changed.subscribe();
    let options = PutOptions::default();
    tokio::select! {
        _ = world.put(&options) => panic!("cut off before its end"),
        result = changes.wait_for(|puts| *puts >= before + 6) => { result.unwrap(); }
    }
    // Acknowledgements may still be on their way to the journal's thread.
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    let resumed = world.put(&options).await;
    assert_eq!(counts(&resumed.tally), [4, 0, 1, 0]);
    let shards = (resumed.content.len() as u64 + 2) * 3;
    assert!(resumed.puts <= shards - 5, "{} of {shards} shards were sent again", resumed.puts);
    assert_eq!(world.get().await, files(&world.source()));
    world.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_changed_files_among_thousands_cost_a_handful_of_blobs() {
    let mut world = World::new();
    for number in 0..12_000u32 {
        world.write(&format!("{:03}/{number:06}", number % 40), &number.to_le_bytes());
    }
    let first = world.put(&PutOptions::default()).await;
    assert_eq!(first.tally.new, 12_000);
    let per_file = first.document_bytes / 12_000;
    assert!(per_file < 300, "{per_file} bytes a file");
    for number in 0..10u32 {
        world.write(&format!("007/{:06}", 7 + 40 * number * 11), &noise(number.into(), 500));
    }
    let second = world.put(&PutOptions::default()).await;
    assert_eq!(counts(&second.tally), [0, 10, 11_990, 0]);
    assert_eq!((second.tally.new_bytes, second.content.len()), (5000, 1));
    // The folder of the ten, the root folder, the snapshot: the other folders lie where they did.
    assert!(second.document_bytes < first.document_bytes / 20, "{} bytes of documents", second.document_bytes);
    assert_eq!(second.puts, 3 * 3, "contents, manifest, table");
    assert_eq!(world.get().await, files(&world.source()));
    world.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_in_the_source_stays_unless_it_is_to_go() {
    let mut world = World::new();
    world.write("a/one", b"1");
    world.write("a/two", b"2");
    world.write("b/three", b"3");
    world.put(&PutOptions::default()).await;
    fs::remove_file(world.source().join("a/two")).unwrap();
    fs::remove_dir_all(world.source().join("b")).unwrap();
    world.write("a/b", b"new");
    world.write("b", b"a file now");
    let merged = world.put(&PutOptions::default()).await;
    assert_eq!(counts(&merged.tally), [2, 0, 1, 1]);
    assert_eq!(world.get().await.keys().collect::<Vec<_>>(), ["a/b", "a/one", "a/two", "b"]);
    let deleted = world.put(&PutOptions { delete: true, ..PutOptions::default() }).await;
    assert_eq!(counts(&deleted.tally), [0, 0, 3, 1]);
    assert_eq!(world.get().await, files(&world.source()));
    // Elsewhere in the dataset, the rest stays as it is.
    let moved = world.commit(Source::Paths(vec![world.source()]), "x/y", &PutOptions::default()).await;
    assert_eq!((counts(&moved.tally), moved.tally.new_bytes), ([3, 0, 0, 0], 0));
    assert_eq!(world.get().await.keys().collect::<Vec<_>>(), ["a/b", "a/one", "b", "x/y/a/b", "x/y/a/one", "x/y/b"]);
    let stream = |bytes: &'static [u8]| Stream { bytes: Box::new(bytes), mode: 0o600, mtime_ns: 5 };
    let name = Name::new("streamed").unwrap();
    let source = Source::Stream(name.clone(), stream(b"from a caller"));
    let streamed = world.commit(source, "x", &PutOptions { delete: true, ..PutOptions::default() }).await;
    assert_eq!(counts(&streamed.tally), [1, 0, 0, 0]);
    let got = world.get().await;
    assert_eq!((got.len(), &got["x/streamed"][..]), (7, &b"from a caller"[..]));
    let again = world.commit(Source::Stream(name, stream(b"again")), "x", &PutOptions::default()).await;
    assert_eq!(counts(&again.tally), [0, 1, 0, 0]);
    world.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_can_be_compressed_is_and_comes_back() {
    let mut world = World::new();
    let text =
        |seed: u64| (0..60_000u64).flat_map(|i| format!("{} ", i * seed % 1009).into_bytes()).collect::<Vec<_>>();
    world.write("large text", &[text(3), text(5), text(7)].concat().repeat(6));
    world.write("small text", &text(11)[..5000]);
    world.write("noise", &noise(1, 300_000));
    // What follows the beginning of a file may be otherwise.
    world.write("mixed", &[text(13), noise(2, 3_000_000)].concat());
    let plain: u64 = files(&world.source()).values().map(|file| file.len() as u64).sum();
    let first = world.put(&PutOptions::default()).await;
    assert!(first.sent_bytes * 2 / 3 < plain * 8 / 10, "{} of {plain} bytes were sent", first.sent_bytes);
    let dataset = world.dataset().await.unwrap();
    assert!(dataset.snapshot().await.unwrap().needs.contains(Needs::COMPRESSED_CHUNKS));
    assert_eq!(world.get().await, files(&world.source()));
    // Found again after it was compressed again, and needed by a snapshot that only keeps it.
    world.write("moved", &fs::read(world.source().join("large text")).unwrap());
    let again = world.put(&PutOptions { compress: Compression::Zstd, ..PutOptions::default() }).await;
    assert_eq!(again.tally.new_bytes, 0);
    world.write("other", &noise(3, 1000));
    world.put(&PutOptions { compress: Compression::Off, ..PutOptions::default() }).await;
    let dataset = world.dataset().await.unwrap();
    assert!(dataset.snapshot().await.unwrap().needs.contains(Needs::COMPRESSED_CHUNKS));
    assert_eq!(world.get().await, files(&world.source()));
    world.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_files_share_segments_and_little_is_lost_between_them() {
    let mut world = World::new();
    for number in 0..7_000u32 {
        world.write(&format!("{:02}/{number}", number % 64), &noise(number.into(), 10 * 1024));
    }
    let put = world.put(&PutOptions::default()).await;
    assert_eq!(put.content.len(), 3, "70 MiB in segments of 32 MiB");
    let plain = 7_000 * 10 * 1024;
    let ideal = plain * 3 / 2;
    assert!(put.sent_bytes - put.document_bytes * 3 < ideal * 105 / 100, "{} for {ideal}", put.sent_bytes);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_out_is_neither_put_nor_deleted() {
    let mut world = World::new();
    world.write("keep", b"1");
    world.write("build/output", b"2");
    world.write("deep/a.tmp", b"3");
    world.put(&PutOptions::default()).await;
    world.write("build/more", b"4");
    world.write("other.tmp", b"5");
    let exclude = vec!["*.tmp".to_owned(), "/build".to_owned()];
    let options = PutOptions { exclude, delete: true, ..PutOptions::default() };
    let put = world.put(&options).await;
    assert_eq!(counts(&put.tally), [0, 0, 1, 0]);
    assert_eq!(world.get().await.keys().collect::<Vec<_>>(), ["build/output", "deep/a.tmp", "keep"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_estimate_says_what_a_put_would_do_and_stores_nothing() {
    let mut world = World::new();
    world.write("a", &noise(1, 100_000));
    world.write("b", &noise(2, 1000));
    let options = PutOptions { delete: true, ..PutOptions::default() };
    for round in 0..3u32 {
        let before = world.network.puts.load(Ordering::SeqCst);
        let parent = match world.dataset().await {
            Some(base) => {
                let snapshot = base.snapshot().await.unwrap();
                Some(Parent::new(base.clone(), &snapshot, Known::default()))
            }
            None => None,
        };
        let roots = Source::Paths(vec![world.source()]).roots().await.unwrap();
        let input = world.input(roots, parent, "", &options);
        let estimate = estimate(&world.context(), Arc::clone(&world.keys), input).await.unwrap();
        assert_eq!(world.network.puts.load(Ordering::SeqCst), before);
        let put = world.put(&options).await;
        assert_eq!(counts(&estimate), counts(&put.tally));
        assert_eq!((estimate.bytes, estimate.new_bytes), (put.tally.bytes, put.tally.new_bytes));
        world.write("b", &noise(3 + u64::from(round), 2000));
        world.write(&format!("copy of a {round}"), &noise(1, 100_000));
    }
}

/// What happens to a folder between two puts.
#[derive(Debug, Clone)]
enum Edit {
    Write { file: u8, seed: u8, length: usize },
    Remove { file: u8 },
    Rename { from: u8, to: u8 },
}

/// Paths of which some are folders of others.
fn path(number: u8) -> PathBuf {
    let names = ["a", "b", "c", "d"];
    let name = |digit: u8| names[usize::from(digit % 4)];
    (0..=number % 3).map(|level| name(number >> (2 * level))).collect()
}

fn edit() -> impl Strategy<Value = Edit> {
    let length = prop_oneof![Just(0usize), 1usize..50, 1000usize..200_000, Just(1_500_000usize)];
    prop_oneof![
        5 => (any::<u8>(), any::<u8>(), length).prop_map(|(file, seed, length)| Edit::Write { file, seed, length }),
        2 => any::<u8>().prop_map(|file| Edit::Remove { file }),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Edit::Rename { from, to }),
    ]
}

fn apply(folder: &Path, edit: &Edit) {
    let clear = |path: &Path| {
        let _ = fs::remove_file(path);
        let _ = fs::remove_dir_all(path);
    };
    let make_way = |path: &Path| {
        clear(path);
        let mut above = folder.to_path_buf();
        for part in path.strip_prefix(folder).unwrap().parent().unwrap().components() {
            above.push(part);
            if above.is_file() {
                clear(&above);
            }
        }
        fs::create_dir_all(path.parent().unwrap()).unwrap();
    };
    match edit {
        Edit::Write { file, seed, length } => {
            let path = folder.join(path(*file));
            make_way(&path);
            fs::write(path, noise((*seed % 8).into(), *length)).unwrap();
        }
        Edit::Remove { file } => clear(&folder.join(path(*file))),
        Edit::Rename { from, to } => {
            let (from, to) = (folder.join(path(*from)), folder.join(path(*to)));
            if from.exists() && !to.starts_with(&from) && !from.starts_with(&to) {
                make_way(&to);
                if from.exists() {
                    fs::rename(from, to).unwrap();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    /// Whatever happens to a folder, the newest snapshot is the folder as it is.
    #[test]
    fn a_put_after_any_edits_is_the_folder(
        rounds in prop::collection::vec((prop::collection::vec(edit(), 0..12), any::<bool>(), any::<bool>()), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new();
            for (edits, checksum, index_lost) in rounds {
                edits.iter().for_each(|edit| apply(&world.source(), edit));
                if index_lost {
                    let _ = fs::remove_file(world.folder.path().join("index"));
                }
                world.put(&PutOptions { delete: true, checksum, ..PutOptions::default() }).await;
                prop_assert_eq!(world.get().await, files(&world.source()));
                world.assert_whole().await;
            }
            Ok(())
        })?;
    }
}

#[test]
fn entries_that_wait_weigh_about_what_they_take() {
    let link = |length| {
        let kind = EntryKind::Symlink { target: vec![b'x'; length] };
        Entry::new(Name::new("a").unwrap(), 0, 0, kind)
    };
    assert_eq!(walk::weight(&link(1000)) - walk::weight(&link(1)), 999);
}
