//! Two machines that write at once, and nodes that show them different things.

use super::*;

/// Two machines with one dataset that has some files.
async fn pair(world: &World) -> (Machine, Dataset, Machine, Dataset) {
    let one = world.machine().await;
    let dataset = one.create("shared").await;
    one.put(&dataset, &[("both", b"before"), ("dir/x", b"x"), ("dir/y", b"y")]).await.unwrap();
    let other = world.machine().await;
    let again = other.dataset("shared").await;
    (one, dataset, other, again)
}

fn conflicts(reports: &[&PutReport]) -> usize {
    reports.iter().map(|report| report.conflicts.len()).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_of_different_paths_at_once_are_both_in() {
    let world = World::new(8);
    let (one, a, other, b) = pair(&world).await;
    let files_of = |name: &'static str| [(name, name.as_bytes()), ("dir/x", b"x")];
    let (mine, theirs) = (files_of("mine"), files_of("dir/theirs"));
    let (first, second) = tokio::join!(one.put(&a, &mine), other.put(&b, &theirs));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(conflicts(&[&first, &second]), 0, "{first:?} {second:?}");
    let all: Vec<(&str, &[u8])> =
        vec![("both", b"before"), ("dir/theirs", b"dir/theirs"), ("dir/x", b"x"), ("dir/y", b"y"), ("mine", b"mine")];
    assert_eq!(files(&a, &Selector::Newest).await, expected(&all));
    assert_eq!(files(&b, &Selector::Newest).await, expected(&all));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn puts_of_one_path_at_once_keep_both_and_say_so() {
    let world = World::new(8);
    let (one, a, other, b) = pair(&world).await;
    let (first, second) =
        tokio::join!(one.put(&a, &[("both", b"of the first")]), other.put(&b, &[("both", b"of the second")]));
    let (first, second) = (first.unwrap(), second.unwrap());
    let found = files(&a, &Selector::Newest).await;
    let kept: BTreeSet<&[u8]> =
        found.iter().filter(|(path, _)| path.starts_with("both")).map(|(_, bytes)| bytes.as_slice()).collect();
    // One after the other is no conflict: the later one replaces the earlier.
    let log = a.log().await.unwrap();
    let merged = log.iter().any(|entry| entry.message.starts_with("Merge"));
    if merged {
        assert_eq!(kept, BTreeSet::from([&b"of the first"[..], b"of the second"]));
        assert_eq!(conflicts(&[&first, &second]), 1, "{first:?} {second:?}");
        assert!(found.keys().any(|path| path.starts_with("both (conflict ")), "{found:?}");
    }
    for report in [&first, &second] {
        let snapshot = files(&a, &named(&report.snapshot)).await;
        assert!(snapshot.contains_key("both"), "every snapshot that was told of is in the history");
    }
}

/// What both machines base their changes on is made the same by bringing the heads back between them.
async fn rivals(
    world: &World,
    first: impl Future<Output = ()>,
    second: impl Future<Output = ()>,
) -> BTreeMap<dolmen_proto::ids::NodeId, BTreeMap<(dolmen_proto::ids::Point, [u8; 32]), bytes::Bytes>> {
    let before = world.network.all_heads();
    first.await;
    let of_first = world.network.all_heads();
    world.network.set_heads(&before);
    second.await;
    of_first
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_whose_head_was_displaced_unseen_brings_his_change_back() {
    let world = World::new(8);
    let (one, a, other, b) = pair(&world).await;
    let mut put = String::new();
    rivals(&world, async { put = one.put(&a, &[("both", b"first"), ("mine", b"1")]).await.unwrap().snapshot }, async {
        drop(other.put(&b, &[("both", b"second")]).await.unwrap())
    })
    .await;
    assert!(!b.log().await.unwrap().iter().any(|entry| entry.snapshot == put), "nobody else knows of it");
    // The first machine's next look finds that its own head is not there. When its hash is the smaller one, that is an
    // older state than it has seen, and it says so instead.
    match a.log().await {
        Ok(log) => {
            assert!(log.iter().any(|entry| entry.snapshot == put), "it is in the history again");
            let found = files(&b, &Selector::Newest).await;
            assert_eq!(found["mine"], b"1");
            assert_eq!(found["both"], b"second");
            assert_eq!(found[&format!("both (conflict {})", &put[..8])], b"first");
            assert!(one.warnings().iter().any(|text| text.contains("merged")), "{:?}", one.warnings());
        }
        Err(error) => assert!(error.what().contains("older state"), "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forks_that_nodes_show_are_merged_by_whoever_sees_them() {
    let world = World::new(12);
    let (one, a, other, b) = pair(&world).await;
    let of_first =
        rivals(&world, async { drop(one.put(&a, &[("mine", b"1"), ("dir/x", b"changed")]).await.unwrap()) }, async {
            _ = within(b.remove_path(b"dir", "")).await.unwrap()
        })
        .await;
    // Half of the nodes were apart and have what the first wrote.
    let mut split = world.network.all_heads();
    for (node, heads) in of_first.into_iter().step_by(2) {
        split.insert(node, heads);
    }
    world.network.set_heads(&split);
    let third = world.machine().await;
    let dataset = third.dataset("shared").await;
    let all: Vec<(&str, &[u8])> = vec![("both", b"before"), ("dir/x", b"changed"), ("mine", b"1")];
    assert_eq!(files(&dataset, &Selector::Newest).await, expected(&all), "the change outlives the deletion");
    assert_eq!(dataset.log().await.unwrap().len(), 4, "the first put, both changes and the merge");
    assert!(third.warnings().iter().any(|text| text.contains("merged")));
    let before = dataset.log().await.unwrap();
    for again in [&a, &b] {
        assert_eq!(again.log().await.unwrap(), before, "merged once, and for all");
    }
    drop((one, other));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_was_seen_is_never_gone_below() {
    let world = World::new(8);
    let (one, a, other, b) = pair(&world).await;
    let before = world.network.all_heads();
    one.put(&a, &[("new", b"1")]).await.unwrap();
    world.network.set_heads(&before);
    for error in [
        a.log().await.unwrap_err(),
        one.put(&a, &[("more", b"2")]).await.unwrap_err(),
        a.tag(&Selector::Newest, "t").await.unwrap_err(),
    ] {
        assert_eq!((error.kind(), error.exit_code()), (ErrorKind::NotNow, 4));
        assert!(error.what().contains("older state"), "{error}");
    }
    // A machine that never saw it cannot know.
    assert_eq!(b.log().await.unwrap().len(), 1);
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_changes_at_once_all_get_through() {
    let world = World::new(8);
    let (one, a, other, b) = pair(&world).await;
    let tags = async |dataset: &Dataset, prefix: &str| {
        for number in 0..3 {
            within(dataset.tag(&Selector::Newest, &format!("{prefix}{number}"))).await.unwrap();
        }
    };
    let puts = async {
        for number in 0..3u8 {
            one.put(&a, &[(&format!("file{number}"), &[number])]).await.unwrap();
        }
    };
    tokio::join!(puts, tags(&b, "t"), tags(&b, "u"));
    let log = a.log().await.unwrap();
    let found: BTreeSet<&str> = log.iter().flat_map(|entry| &entry.tags).map(String::as_str).collect();
    assert_eq!(found, BTreeSet::from(["t0", "t1", "t2", "u0", "u1", "u2"]));
    assert_eq!(files(&a, &Selector::Newest).await.len(), 6);
    drop(other);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_datasets_made_at_once_get_a_place_each() {
    let world = World::new(8);
    let (one, other) = (world.machine().await, world.machine().await);
    let (a, b) = tokio::join!(one.create("a"), other.create("b"));
    assert_ne!(a.index(), b.index());
    one.put(&a, &[("x", b"a")]).await.unwrap();
    other.put(&b, &[("x", b"b")]).await.unwrap();
    let third = world.machine().await;
    let names: BTreeSet<String> =
        third.vault.datasets().await.unwrap().into_iter().map(|info| info.name.to_string()).collect();
    assert_eq!(names, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_head_of_the_first_epoch_hides_no_rekey_from_a_new_machine() {
    let world = World::new(8);
    let machine = world.machine().await;
    let dataset = machine.create("d").await;
    machine.put(&dataset, &[("a", b"1")]).await.unwrap();
    let before = world.network.all_heads();
    within(dataset.rekey()).await.unwrap();
    machine.put(&dataset, &[("b", b"2")]).await.unwrap();
    machine.put(&dataset, &[("c", b"3")]).await.unwrap();
    let mut shown = world.network.all_heads();
    for (node, heads) in before {
        shown.entry(node).or_default().extend(heads);
    }
    world.network.set_heads(&shown);
    let new = world.machine().await;
    assert_eq!(within(new.vault.datasets()).await.unwrap().len(), 1);
    let found = new.dataset("d").await;
    for _ in 0..2 {
        assert_eq!(files(&found, &Selector::Newest).await.len(), 3);
    }
    new.put(&found, &[("d", b"4")]).await.unwrap();
    assert_eq!(files(&found, &Selector::Newest).await.len(), 4);
}
