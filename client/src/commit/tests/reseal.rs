//! The newest snapshot stored again: what old keys open afterwards, and what happens when it is cut off.

use dolmen_proto::manifest::EntryKind;

use super::*;
use crate::read;
use crate::vault::Earlier;

const WEEK: Duration = Duration::from_secs(8 * 86_400);

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

/// What a reader finds below a snapshot's root: chunk keys, and the segments that he reads.
async fn keys_below(dataset: &read::Dataset) -> (BTreeSet<[u8; 32]>, BTreeSet<String>) {
    let (mut keys, mut segments) = (BTreeSet::new(), BTreeSet::new());
    let root = dataset.snapshot().await.unwrap().root;
    let mut take = |pointer: &dolmen_proto::tree::BlobPointer| {
        keys.insert(*pointer.key.expose());
        segments.insert(pointer.segment.to_string());
    };
    take(&root.tree);
    let mut walk = read::EntryWalk::new(dataset.clone(), Vec::new(), &root);
    while let Some((path, entry)) = walk.next().await.unwrap() {
        match entry.kind {
            EntryKind::Folder(folder) => {
                take(&folder.tree);
                walk.enter(path, &folder).unwrap();
            }
            EntryKind::File(file) => {
                let mut extents = dataset.extents(&file);
                while let Some(placed) = dataset.next_extents(&mut extents).await.unwrap() {
                    placed.iter().filter_map(|placed| placed.extent.chunk()).for_each(|(chunk, _)| take(chunk));
                }
            }
            EntryKind::Symlink { .. } => {}
        }
    }
    (keys, segments)
}

async fn opened(world: &World, link: &str) -> (tempfile::TempDir, read::Dataset) {
    let (folder, client) = world.stranger();
    let link = Link::parse(link).unwrap();
    let dataset = within(read::Dataset::open(&client.reading(), &link, false)).await.unwrap();
    (folder, dataset)
}

/// Files of many kinds: small, of several chunks, compressible, empty, with a hole, a link.
async fn filled(machine: &Machine, dataset: &Dataset) -> Files {
    let source = tempfile::tempdir_in(machine.folder.path()).unwrap();
    let all: Vec<(&str, Vec<u8>)> = vec![
        ("large", noise(1, 5_000_000)),
        ("deep/er/text", b"all work and no play ".repeat(90_000)),
        ("deep/small", noise(2, 4_000)),
        ("deep/same", noise(2, 4_000)),
        ("empty", Vec::new()),
    ];
    for (path, bytes) in &all {
        let path = source.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
    let sparse = std::fs::File::create(source.path().join("sparse")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&sparse, b"end", 3 << 20).unwrap();
    std::os::unix::fs::symlink("large", source.path().join("link")).unwrap();
    within(dataset.put(&[source.path().to_path_buf()], b"", &PutOptions::default())).await.unwrap();
    let mut files: Files = all.into_iter().map(|(path, bytes)| (path.to_owned(), bytes)).collect();
    files.insert("sparse".to_owned(), [vec![0; 3 << 20], b"end".to_vec()].concat());
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kept_keys_open_nothing_that_is_stored_after_a_reseal() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    machine.put(&dataset, &[("gone", b"g")]).await.unwrap();
    within(dataset.remove_path(b"gone", "")).await.unwrap();
    let all = filled(&machine, &dataset).await;
    within(dataset.tag(&Selector::Newest, "v1")).await.unwrap();
    let live = within(dataset.share(b"deep", None, &[])).await.unwrap();
    let old_link = dataset.read_link(&[]).await.unwrap();
    let (_old_folder, old) = opened(&world, &old_link).await;
    let (old_keys, old_segments) = keys_below(&old).await;
    let old_root = within(dataset.snapshot(&Selector::Newest)).await.unwrap();
    let sizes = old_root.usage(b"", 9, |_| {}).await.unwrap();

    assert_eq!(within(dataset.reseal(None)).await.unwrap_err().kind(), ErrorKind::Usage, "there are earlier snapshots");
    let report = within(dataset.reseal(Some(Earlier::Forget))).await.unwrap();
    assert_eq!((report.files, report.forgotten_snapshots, report.kept_snapshots), (6, 2, 0), "{report:?}");
    assert!(report.new_bytes > 10_000_000, "all of it is stored again: {report:?}");
    assert!(report.leaving_segments >= 1 && report.leaving_bytes > 5_000_000, "{report:?}");

    assert_eq!(files(&dataset, &Selector::Newest).await, all);
    assert_eq!(files(&dataset, &named("v1")).await, all, "tags go with the snapshot");
    assert_eq!(dataset.log().await.unwrap().len(), 1);
    let new_root = within(dataset.snapshot(&Selector::Newest)).await.unwrap();
    assert_eq!(new_root.usage(b"", 9, |_| {}).await.unwrap(), sizes, "holes stay holes, links links");
    let new_link = dataset.read_link(&[]).await.unwrap();
    let (_new_folder, new) = opened(&world, &new_link).await;
    let (new_keys, new_segments) = keys_below(&new).await;
    assert_eq!(old_keys.intersection(&new_keys).count(), 0, "equal bytes have other keys");
    assert_eq!(old_segments.intersection(&new_segments).count(), 0);
    assert_ne!(new_keys.len(), 0);
    let (_folder, stranger) = world.stranger();
    let shared = files_of(&within(stranger.snapshot(&live.link)).await.unwrap()).await;
    assert_eq!(shared.len(), 3, "live shares follow");

    // A machine that knows nothing of it goes on under the new keys, and does not store again what is there.
    let other = world.machine().await;
    let theirs = other.dataset("d").await;
    let again = other.put(&theirs, &[("copy", &all["large"])]).await.unwrap();
    assert!(again.new_bytes < 1_000_000, "{again:?}");
    let (_folder, now) = opened(&world, &new_link).await;
    assert_eq!(keys_below(&now).await.0.intersection(&old_keys).count(), 0);

    // A week later nodes have let go of what old keys open.
    world.network.pass(WEEK);
    within(dataset.gc(false)).await.unwrap();
    let file = old_root.file(b"large").await.unwrap();
    assert!(within(file.read_range(0, 100)).await.is_err(), "the old segments are gone");
    let third = world.machine().await;
    let found = third.dataset("d").await;
    assert_eq!(files(&found, &Selector::Newest).await.len(), 7);
    within(theirs.rekey()).await.unwrap();
    third.put(&found, &[("later", b"l")]).await.unwrap();
    let (_folder, last) = opened(&world, &dataset.read_link(&[]).await.unwrap()).await;
    assert_eq!(keys_below(&last).await.0.intersection(&old_keys).count(), 0, "a plain rekey keeps the new dedup key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reseal_that_was_cut_off_goes_on_and_earlier_snapshots_may_stay() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let first = machine.put(&dataset, &[("a", &noise(1, 300_000))]).await.unwrap();
    machine.put(&dataset, &[("b", &noise(2, 300_000))]).await.unwrap();
    // As if the machine had died between the two steps.
    let owner = dataset.owner();
    let options = crate::commit::CommitOptions {
        lease: Duration::from_secs(86_400 * 30),
        require_full: false,
        paths: Vec::new(),
        place: Vec::new(),
    };
    within(crate::commit::rekey(owner, &options, true)).await.unwrap();
    let epoch = owner.newest().await.unwrap().keys.epoch();
    machine.put(&dataset, &[("c", b"between")]).await.unwrap();
    let mut all = files(&dataset, &Selector::Newest).await;
    assert_eq!(all.len(), 3);

    let report = within(dataset.reseal(Some(Earlier::Keep))).await.unwrap();
    assert_eq!((report.files, report.forgotten_snapshots, report.kept_snapshots), (3, 0, 2), "{report:?}");
    assert_eq!(owner.newest().await.unwrap().keys.epoch(), epoch, "it went on in the epoch that was begun");
    assert_eq!(files(&dataset, &Selector::Newest).await, all);
    assert_eq!(files(&dataset, &named(&first.snapshot)).await, expected(&[("a", &noise(1, 300_000))]));
    for _ in 0..2 {
        world.network.pass(WEEK);
        within(dataset.gc(false)).await.unwrap();
    }
    assert_eq!(files(&dataset, &named(&first.snapshot)).await.len(), 1, "what is kept is not freed");
    assert_eq!(files(&dataset, &Selector::Newest).await, all);
    // Another one begins another epoch.
    within(dataset.reseal(Some(Earlier::Forget))).await.unwrap();
    assert_eq!(owner.newest().await.unwrap().keys.epoch(), epoch + 1);
    machine.put(&dataset, &[("d", b"after")]).await.unwrap();
    all.insert("d".to_owned(), b"after".to_vec());
    assert_eq!(files(&dataset, &Selector::Newest).await, all);
}
