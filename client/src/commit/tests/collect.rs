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
    assert_eq!(files(&mine, &Selector::Newest).await, all);
    assert_eq!(files(&theirs, &Selector::Newest).await, all);
}
