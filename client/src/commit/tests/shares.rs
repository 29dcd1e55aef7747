//! Links to a part of a dataset, and keys that change.

use dolmen_proto::ids::SegmentId;
use dolmen_proto::manifest::{Entry, EntryKind};

use super::*;
use crate::read;

async fn shared() -> (World, Machine, Dataset) {
    let world = World::new(8);
    let machine = world.machine().await;
    let dataset = machine.create("data").await;
    let large = vec![3; 200_000];
    let all: Vec<(&str, &[u8])> = vec![
        ("open/a", b"a"),
        ("open/deep/b", &large),
        ("secret/c", b"not yours"),
        ("secret/d", &large[..100_000]),
        ("top", b"not yours either"),
    ];
    machine.put(&dataset, &all).await.unwrap();
    (world, machine, dataset)
}

async fn read_by(world: &World, link: &str) -> Result<Files, ClientError> {
    let (_folder, client) = world.stranger();
    Ok(files_of(&within(client.snapshot(link)).await?).await)
}

/// Every key that a reader of this tree comes to hold.
async fn keys(reader: &read::Dataset) -> BTreeSet<[u8; 32]> {
    let snapshot = reader.snapshot().await.unwrap();
    let mut keys = BTreeSet::new();
    let mut folders = vec![snapshot.root];
    while let Some(folder) = folders.pop() {
        let mut reading = reader.folder(&folder);
        let mut pointers = Vec::new();
        while let Some(entries) =
            reader.next_entries_seen(&mut reading, |pointer, _| pointers.push(pointer.clone())).await.unwrap()
        {
            for Entry { kind, .. } in entries {
                match kind {
                    EntryKind::Folder(folder) => folders.push(folder),
                    EntryKind::Symlink { .. } => {}
                    EntryKind::File(file) => {
                        let mut extents = reader.extents(&file);
                        while let Some(placed) = reader.next_extents(&mut extents).await.unwrap() {
                            let chunks = placed.iter().filter_map(|placed| placed.extent.chunk());
                            keys.extend(chunks.map(|(chunk, _)| *chunk.key.expose()));
                        }
                    }
                }
            }
        }
        keys.extend(pointers.iter().map(|pointer| *pointer.key.expose()));
    }
    keys
}

/// The segments that a reader's table names.
async fn segments(reader: &read::Dataset) -> BTreeSet<SegmentId> {
    let mut segments = BTreeSet::new();
    reader.every_place(|place| segments.extend([place.id])).await.unwrap();
    segments
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_share_opens_a_folder_and_nothing_above_or_beside_it() {
    let (world, machine, dataset) = shared().await;
    let share = within(dataset.share(b"/open/", None, &[])).await.unwrap();
    assert_eq!(share.path, b"open");
    let found = read_by(&world, &share.link).await.unwrap();
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), ["a", "deep/b"]);
    assert_eq!(found["deep/b"].len(), 200_000);

    let link = Link::parse(&share.link).unwrap();
    assert!(link.read_secret().is_none(), "it is no read link");
    let (_folder, stranger) = world.stranger();
    let theirs = read::Dataset::open(&stranger.reading(), &link, false).await.unwrap();
    let held = keys(&theirs).await;
    let mine = dataset.reader(&Selector::Newest).await.unwrap();
    // What he holds opens what is below the folder, and of all else nothing: no key of it is among them.
    let snapshot = mine.snapshot().await.unwrap();
    assert!(!held.contains(snapshot.root.tree.key.expose()), "the folder above stays closed");
    for path in ["secret", "secret/c", "secret/d", "top"] {
        let entry = mine.entry(path.as_bytes()).await.unwrap().unwrap();
        match entry.kind {
            EntryKind::Folder(folder) => assert!(!held.contains(folder.tree.key.expose()), "{path}"),
            EntryKind::File(file) => {
                let mut extents = mine.extents(&file);
                while let Some(placed) = mine.next_extents(&mut extents).await.unwrap() {
                    for (chunk, _) in placed.iter().filter_map(|placed| placed.extent.chunk()) {
                        assert!(!held.contains(chunk.key.expose()), "{path}");
                        // Nor does any key that he has open those bytes, where he can fetch them at all.
                        for key in &held {
                            let mut guess = chunk.clone();
                            guess.key = dolmen_proto::seal::ChunkKey::new(*key);
                            assert!(theirs.document(&guess).await.is_err(), "{path}");
                        }
                    }
                }
            }
            EntryKind::Symlink { .. } => unreachable!(),
        }
        let error = theirs.entry(path.as_bytes()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{path}");
    }
    assert!(theirs.snapshot().await.unwrap().parent.is_none(), "the view tells of no history");
    assert!(theirs.history().await.unwrap().is_none());
    let all = segments(&mine).await;
    let named = segments(&theirs).await;
    assert!(named.len() < all.len(), "segments that the folder does not touch are not named");
    drop(machine);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_live_share_follows_and_a_frozen_one_stays_until_either_ends() {
    let (world, machine, dataset) = shared().await;
    let live = within(dataset.share(b"open", None, &[])).await.unwrap();
    let frozen = within(dataset.share(b"open/a", Some(&Selector::Newest), &[])).await.unwrap();
    let whole = within(dataset.share(b"", None, &[])).await.unwrap();
    assert_eq!(read_by(&world, &whole.link).await.unwrap().len(), 5);
    assert_eq!(read_by(&world, &frozen.link).await.unwrap(), expected(&[("a", b"a")]));
    machine.put(&dataset, &[("open/a", b"changed"), ("open/new", b"n")]).await.unwrap();
    let found = read_by(&world, &live.link).await.unwrap();
    assert_eq!((found["a"].as_slice(), found.len()), (&b"changed"[..], 3));
    assert_eq!(read_by(&world, &frozen.link).await.unwrap(), expected(&[("a", b"a")]));
    assert_eq!(read_by(&world, &whole.link).await.unwrap().len(), 6);

    // Its snapshot may be forgotten, and what it shows packed anew: it stays.
    within(dataset.forget(&ForgetPolicy { last: 1, ..ForgetPolicy::default() })).await.unwrap();
    within(dataset.refresh_shares()).await.unwrap();
    let (_folder, client) = world.stranger();
    let single = within(client.snapshot(&frozen.link)).await.unwrap();
    assert_eq!(files_of(&single).await, expected(&[("a", b"a")]));

    let numbers = |shares: &[crate::vault::ShareInfo]| shares.iter().map(|share| share.number).collect::<Vec<_>>();
    let shares = dataset.shares().await.unwrap();
    assert_eq!(numbers(&shares), numbers(&[live.clone(), frozen.clone(), whole.clone()]));
    assert_eq!(*shares[0].link, *live.link);
    within(dataset.unshare(live.number)).await.unwrap();
    within(dataset.unshare(frozen.number)).await.unwrap();
    assert_eq!(dataset.unshare(live.number).await.unwrap_err().kind(), ErrorKind::NotFound);
    machine.put(&dataset, &[("open/later", b"l")]).await.unwrap();
    for ended in [&live.link, &frozen.link] {
        assert_eq!(read_by(&world, ended).await.unwrap(), Files::new());
    }
    assert_eq!(read_by(&world, &whole.link).await.unwrap().len(), 7);
    // What is shared and removed is not there any more.
    let gone = within(dataset.share(b"secret", None, &[])).await.unwrap();
    within(dataset.remove_path(b"secret", "")).await.unwrap();
    assert_eq!(read_by(&world, &gone.link).await.unwrap(), Files::new());
    assert_eq!(dataset.share(b"no/such", None, &[]).await.unwrap_err().kind(), ErrorKind::NotFound);
    within(dataset.refresh_shares()).await.unwrap();
    assert_eq!(read_by(&world, &whole.link).await.unwrap().len(), 5);
    assert!(machine.warnings().is_empty(), "{:?}", machine.warnings());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_link_shows_all_until_the_keys_change() {
    let (world, machine, dataset) = shared().await;
    let other = world.machine().await;
    let theirs = other.dataset("data").await;
    let old = dataset.read_link(&[]).await.unwrap();
    let view = within(dataset.share(b"open", None, &[])).await.unwrap();
    assert_eq!(read_by(&world, &old).await.unwrap().len(), 5);
    within(dataset.rekey()).await.unwrap();
    // A machine that knows nothing of it finds its way.
    other.put(&theirs, &[("later", b"l")]).await.unwrap();
    machine.put(&dataset, &[("open/later", b"l")]).await.unwrap();
    assert_eq!(files(&theirs, &Selector::Newest).await.len(), 7);
    assert_eq!(read_by(&world, &old).await.unwrap().len(), 5, "the old link shows what it showed");
    let new = theirs.read_link(&[]).await.unwrap();
    assert_ne!(*new, *old);
    assert_eq!(read_by(&world, &new).await.unwrap().len(), 7);
    assert_eq!(read_by(&world, &view.link).await.unwrap().len(), 3, "shares go on");
    within(theirs.rekey()).await.unwrap();
    machine.put(&dataset, &[("last", b"l")]).await.unwrap();
    assert_eq!(read_by(&world, &new).await.unwrap().len(), 7);
    let third = world.machine().await;
    let found = third.vault.datasets().await.unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!(files(&third.dataset("data").await, &Selector::Newest).await.len(), 8);
}
