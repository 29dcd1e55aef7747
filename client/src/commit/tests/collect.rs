//! Garbage collection: what is freed, when, and what never is.

use super::*;

const WEEK: Duration = Duration::from_secs(8 * 86_400);

fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

async fn only_the_newest(dataset: &Dataset) {
    let policy = ForgetPolicy { last: 1, ..ForgetPolicy::default() };
    within(dataset.forget(&policy)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nothing_needs_leaves_at_once_and_is_deleted_a_week_later() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let (large, small) = (noise(1, 3_000_000), noise(2, 200_000));
    machine.put(&dataset, &[("large", &large), ("small", &small), ("x/other", b"text")]).await.unwrap();
    let report = within(dataset.gc(false)).await.unwrap();
    assert_eq!((report.repacked_segments, report.freed_segments), (0, 0), "{report:?}");
    within(dataset.remove_path(b"large", "")).await.unwrap();
    let kept = within(dataset.gc(false)).await.unwrap();
    assert_eq!(kept.repacked_segments, 0, "an earlier snapshot needs it all: {kept:?}");

    only_the_newest(&dataset).await;
    let found = within(dataset.gc(true)).await.unwrap();
    let held = world.network.held();
    let report = within(dataset.gc(false)).await.unwrap();
    assert_eq!(report.moved_bytes, found.moved_bytes, "what was said before is what is done");
    assert!(report.repacked_segments >= 1 && report.leaving_bytes > 2_000_000, "{report:?}");
    assert_eq!(report.freed_segments, 0, "nothing left a week ago: {report:?}");
    assert!(world.network.held() >= held, "nothing is deleted yet");
    let left = [("small", small.as_slice()), ("x/other", b"text")];
    assert_eq!(files(&dataset, &Selector::Newest).await, expected(&left));

    world.network.pass(WEEK);
    let report = within(dataset.gc(false)).await.unwrap();
    assert!(report.freed_segments >= 1, "{report:?}");
    let freed = world.network.held();
    assert!(freed < held, "{freed} of {held} shards are left");
    let other = world.machine().await;
    let dataset = other.dataset("d").await;
    assert_eq!(files(&dataset, &Selector::Newest).await, expected(&left), "nothing needed is gone");
    let report = within(dataset.gc(false)).await.unwrap();
    assert_eq!(report.moved_bytes, 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_left_and_is_put_again_is_not_deleted() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let large = noise(3, 1_000_000);
    machine.put(&dataset, &[("keep", b"k")]).await.unwrap();
    machine.put(&dataset, &[("large", &large)]).await.unwrap();
    within(dataset.remove_path(b"large", "")).await.unwrap();
    only_the_newest(&dataset).await;
    let report = within(dataset.gc(false)).await.unwrap();
    assert!(report.leaving_segments >= 1, "{report:?}");
    machine.put(&dataset, &[("large", &large)]).await.unwrap();
    for _ in 0..3 {
        world.network.pass(WEEK);
        within(dataset.gc(false)).await.unwrap();
    }
    let expected = expected(&[("keep", b"k"), ("large", &large)]);
    assert_eq!(files(&dataset, &Selector::Newest).await, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shares_read_what_they_read_before_whatever_is_freed() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let (shown, beside) = (noise(4, 150_000), noise(5, 1_500_000));
    machine.put(&dataset, &[("shown/a", &shown), ("beside", &beside)]).await.unwrap();
    let live = within(dataset.share(b"shown", None, &[])).await.unwrap();
    let frozen = within(dataset.share(b"shown", Some(&Selector::Newest), &[])).await.unwrap();
    within(dataset.remove_path(b"beside", "")).await.unwrap();
    machine.put(&dataset, &[("shown/b", b"new")]).await.unwrap();
    only_the_newest(&dataset).await;
    for _ in 0..3 {
        within(dataset.gc(false)).await.unwrap();
        world.network.pass(WEEK);
    }
    let (_folder, stranger) = world.stranger();
    let read = async |link: &str| files_of(&within(stranger.snapshot(link)).await.unwrap()).await;
    assert_eq!(read(&live.link).await, expected(&[("a", &shown), ("b", b"new")]));
    assert_eq!(read(&frozen.link).await, expected(&[("a", &shown)]), "its snapshot is forgotten, the share is not");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_and_collections_of_two_machines_meet() {
    let world = World::new(4);
    let (one, other) = (world.machine().await, world.machine().await);
    let mine = one.create("d").await;
    one.put(&mine, &[("first", b"1")]).await.unwrap();
    let theirs = other.dataset("d").await;
    let mut all = vec![("first".to_owned(), b"1".to_vec())];
    for round in 0..4u8 {
        let (name, bytes) = (format!("file{round}"), noise(10 + round, 60_000));
        let old = format!("gone{round}");
        one.put(&mine, &[(old.as_str(), &noise(40 + round, 60_000))]).await.unwrap();
        within(mine.remove_path(old.as_bytes(), "")).await.unwrap();
        only_the_newest(&mine).await;
        let added = [(name.as_str(), bytes.as_slice())];
        let put = one.put(&mine, &added);
        let (put, collected) = futures::join!(put, within(theirs.gc(false)));
        put.unwrap();
        collected.unwrap();
        all.push((name, bytes));
        world.network.pass(WEEK);
    }
    within(theirs.gc(false)).await.unwrap();
    let all: Files = all.into_iter().collect();
    for dataset in [&mine, &theirs] {
        let found = files(dataset, &Selector::Newest).await;
        let names = (found.keys().collect::<Vec<_>>(), all.keys().collect::<Vec<_>>());
        assert_eq!(names.0, names.1, "{:?} {:?}", one.warnings(), other.warnings());
        assert!(found == all, "contents differ");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_freed_is_stored_again_when_it_is_put_again() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let large = noise(6, 1_000_000);
    machine.put(&dataset, &[("keep", b"k")]).await.unwrap();
    let first = machine.put(&dataset, &[("large", &large)]).await.unwrap();
    within(dataset.remove_path(b"large", "")).await.unwrap();
    only_the_newest(&dataset).await;
    within(dataset.gc(false)).await.unwrap();
    world.network.pass(WEEK);
    // Cut off where the segments are said to be deleted, and none of them is.
    let owner = dataset.owner();
    let options = crate::commit::CommitOptions {
        lease: Duration::from_secs(86_400 * 30),
        require_full: false,
        paths: Vec::new(),
        place: Vec::new(),
    };
    let mut collect = crate::collect::Collect::new(owner.clone(), false);
    within(crate::commit::commit(owner, &options, &mut collect)).await.map(drop).unwrap();
    assert!(!collect.deleting.is_empty());
    let refused = machine.put(&dataset, &[("large", &large)]).await.unwrap_err();
    assert_eq!((refused.kind(), refused.exit_code()), (ErrorKind::Conflict, 8), "{refused}");
    assert!(refused.to_string().contains("gc"), "{refused}");

    let freed = within(dataset.gc(false)).await.unwrap();
    assert!(freed.freed_segments >= 1, "{freed:?}");
    let again = machine.put(&dataset, &[("large", &large)]).await.unwrap();
    assert!(again.new_bytes >= first.new_bytes / 2, "the index of chunks does not count what is gone: {again:?}");
    for _ in 0..3 {
        world.network.pass(WEEK);
        within(dataset.gc(false)).await.unwrap();
    }
    assert_eq!(files(&dataset, &Selector::Newest).await, expected(&[("keep", b"k"), ("large", &large)]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_streamed_by_a_newer_table_when_what_it_lay_in_was_freed() {
    let world = World::new(4);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    let (large, small) = (noise(7, 3_000_000), noise(8, 200_000));
    machine.put(&dataset, &[("large", &large), ("small", &small)]).await.unwrap();
    let (_folder, reader) = world.stranger();
    let link = Link::parse(&dataset.read_link(&[]).await.unwrap()).unwrap();
    let old = within(crate::read::Dataset::open(&reader.reading(), &link, false)).await.unwrap();
    let Some(dolmen_proto::manifest::EntryKind::File(file)) =
        old.entry(b"small").await.unwrap().map(|entry| entry.kind)
    else {
        panic!("it is a file")
    };
    within(dataset.remove_path(b"large", "")).await.unwrap();
    only_the_newest(&dataset).await;
    assert!(within(dataset.gc(false)).await.unwrap().repacked_segments >= 1);
    world.network.pass(WEEK);
    assert!(within(dataset.gc(false)).await.unwrap().freed_segments >= 1);

    let out = tempfile::NamedTempFile::new().unwrap();
    let writer = Box::new(out.reopen().unwrap());
    let written = within(crate::get::write_file(&old, &file, Some(50_000..u64::MAX), writer, &Progress::none())).await;
    assert_eq!(written.unwrap(), 150_000);
    assert!(std::fs::read(out.path()).unwrap() == small[50_000..]);
}

/// The contents of a file: the segments and offsets that its snapshot names.
async fn named_places(dataset: &crate::read::Dataset, path: &[u8]) -> Vec<(dolmen_proto::ids::SegmentId, u32)> {
    use dolmen_proto::manifest::{EntryKind, ExtentList};
    let Some(EntryKind::File(file)) = dataset.entry(path).await.unwrap().map(|entry| entry.kind) else {
        panic!("it is a file")
    };
    let ExtentList::Inline(extents) = file.extents else { panic!("it is a small file") };
    extents.iter().filter_map(|extent| extent.chunk()).map(|(chunk, _)| (chunk.segment, chunk.offset)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_packed_anew_is_known_where_it_lies_now() {
    let world = World::new(4);
    let (one, other) = (world.machine().await, world.machine().await);
    let dataset = one.create("d").await;
    let stays = [noise(20, 400_000), noise(21, 400_000)];
    one.put(&dataset, &[("first", b"1")]).await.unwrap();
    let theirs = other.dataset("d").await;
    for (round, (collector, stays)) in [&dataset, &theirs].into_iter().zip(&stays).enumerate() {
        let gone = noise(30 + u8::try_from(round).unwrap(), 3_000_000);
        let name = format!("stays{round}");
        one.put(&dataset, &[("gone", &gone), (name.as_str(), stays)]).await.unwrap();
        within(dataset.remove_path(b"gone", "")).await.unwrap();
        only_the_newest(&dataset).await;
        let report = within(collector.gc(false)).await.unwrap();
        assert!(report.repacked_segments >= 1, "{report:?}");

        let owner = dataset.owner();
        let newest = within(dataset.reader(&Selector::Newest)).await.unwrap();
        let index = owner.client.state().index(&owner.name);
        let known = crate::put::ChunkIndex::open(&index, one.folder.path());
        assert!(known.is_complete(&newest.snapshot_id()), "no folder has to be read for it again");
        drop(known);

        world.network.take_gets();
        let name = format!("again{round}");
        let put = one.put(&dataset, &[(name.as_str(), stays)]).await.unwrap();
        assert_eq!(put.segments, 0, "its contents are there: {put:?}");
        let newest = within(dataset.reader(&Selector::Newest)).await.unwrap();
        let places = crate::info::places(&newest).await.unwrap();
        let contents: BTreeSet<_> =
            places.iter().filter(|place| !place.documents).flat_map(|place| place.roots.clone()).collect();
        let read = world.network.take_gets();
        assert!(read.iter().all(|got| !contents.contains(&got.root)), "no contents are read");
        let live: BTreeSet<_> = places.iter().map(|place| place.id).collect();
        for (segment, offset) in named_places(&newest, name.as_bytes()).await {
            assert!(live.contains(&segment), "{offset} is named where it lies, not where it lay");
        }
    }
    let all = expected(&[
        ("first", b"1"),
        ("stays0", &stays[0]),
        ("again0", &stays[0]),
        ("stays1", &stays[1]),
        ("again1", &stays[1]),
    ]);
    for _ in 0..3 {
        world.network.pass(WEEK);
        within(dataset.gc(false)).await.unwrap();
        assert!(files(&dataset, &Selector::Newest).await == all, "called by old names and by new ones");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_dataset_took_is_freed_and_nothing_else_can_be_done_with_it() {
    let world = World::new(4);
    let machine = world.machine().await;
    let (kept, gone) = (machine.create("kept").await, machine.create("gone").await);
    machine.put(&kept, &[("a", &noise(50, 300_000))]).await.unwrap();
    let before = world.network.held();
    machine.put(&gone, &[("b", &noise(51, 3_000_000)), ("c/d", b"text")]).await.unwrap();
    within(gone.share(b"c", None, &[])).await.unwrap();
    assert!(machine.vault.removed().await.unwrap().is_empty());
    within(gone.remove()).await.unwrap();
    let all = world.network.held();

    let other = world.machine().await;
    let removed = within(other.vault.removed()).await.unwrap();
    assert_eq!(removed.iter().map(|dataset| dataset.name().as_str()).collect::<Vec<_>>(), ["gone"]);
    let refused = within(removed[0].tag(&Selector::Newest, "v1")).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::NotFound, "{refused}");
    // What was shared a moment ago is kept for those who may be reading it.
    for _ in 0..8 {
        within(removed[0].gc(false)).await.unwrap();
        world.network.pass(WEEK);
    }
    let left = world.network.held();
    assert!(left < before + (all - before) / 2, "{before} before, {all} with it, {left} left");
    assert_eq!(files(&kept, &Selector::Newest).await.len(), 1);
    assert!(within(machine.vault.datasets()).await.unwrap().iter().all(|dataset| dataset.name.as_str() == "kept"));
}
