//! Sizes, names, differences, verification, roots.

use super::*;
use crate::{ChangeKind, FindOptions, ListedEntry, Snapshot, VerifyOptions, check_folder};

async fn snapshot(world: &World, link: &str) -> Snapshot {
    within(world.client().snapshot(link)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn usage_comes_from_totals_and_find_from_names_sizes_and_kinds() {
    let world = World::new(4);
    furnish(&world);
    let report = world.put("2/4").await;
    let snapshot = snapshot(&world, &report.link).await;
    let mut told = Vec::new();
    let all = within(snapshot.usage(b"", 1, |entry| told.push((entry.path, entry.files, entry.bytes)))).await.unwrap();
    assert_eq!((all.files, all.folders, all.bytes), (7, 4, 18_170_013));
    assert_eq!(told, [("a".to_owned(), 2, 170_000)]);
    told.clear();
    within(snapshot.usage(b"a", 9, |entry| told.push((entry.path, entry.files, entry.bytes)))).await.unwrap();
    assert_eq!(told, [("a/b".into(), 2, 170_000), ("a/b/c".into(), 1, 100_000), ("a/empty folder".into(), 0, 0)]);
    assert_eq!(within(snapshot.usage(b"large", 3, |_| ())).await.unwrap().bytes, 9_000_000);
    assert_eq!(within(snapshot.usage(b"b", 0, |_| ())).await.unwrap_err().kind(), ErrorKind::NotFound);

    let find = async |path: &[u8], options: FindOptions| {
        let mut paths = Vec::new();
        let tell = |entry: ListedEntry| paths.push(entry.path);
        within(snapshot.find(path, &options, tell)).await.map(|count| (count, paths))
    };
    let names = |names: &[&str]| FindOptions {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..FindOptions::default()
    };
    assert_eq!(find(b"", names(&["*large*", "deep"])).await.unwrap().1, ["a/b/c/deep", "copy of large", "large"]);
    assert_eq!(find(b"a", names(&["b/*"])).await.unwrap().1, ["a/b/also", "a/b/c"]);
    let sized = FindOptions { least_bytes: Some(5), most_bytes: Some(99_999), ..FindOptions::default() };
    assert_eq!(find(b"", sized).await.unwrap().1, ["a/b/also", "small.txt", "\u{fffd}\u{fffd}\n"]);
    let links = FindOptions { kind: Some(EntryKind::Symlink), ..FindOptions::default() };
    assert_eq!(find(b"/", links).await.unwrap().1, ["a/link", "dangling"]);
    assert_eq!(find(b"large", names(&["l*"])).await.unwrap().0, 1);
    assert_eq!(find(b"", names(&["[z-a]"])).await.unwrap_err().kind(), ErrorKind::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diff_names_every_path_that_differs_and_no_other() {
    let world = World::new(4);
    furnish(&world);
    world.write("folder to file/x", b"1");
    world.write("gone/y", b"22");
    world.write("same/z", b"333");
    let before = snapshot(&world, &world.put("2/4").await.link).await;
    let source = world.source();
    world.write("a/b/also", b"other");
    fs::remove_dir_all(source.join("folder to file")).unwrap();
    world.write("folder to file", b"now a file");
    fs::remove_dir_all(source.join("gone")).unwrap();
    world.write("new/deep/er", b"4444");
    fs::set_permissions(source.join("same/z"), fs::Permissions::from_mode(0o600)).unwrap();
    fs::remove_file(source.join("dangling")).unwrap();
    symlink("elsewhere", source.join("dangling")).unwrap();
    let after = snapshot(&world, &world.put("2/4").await.link).await;
    use ChangeKind::{Added, Changed, Metadata, Removed};
    let mut told = Vec::new();
    let tell = |entry: crate::DiffEntry| {
        // Folders whose entries changed have another time.
        if (entry.change, entry.kind) != (Metadata, EntryKind::Folder) {
            told.push((entry.path, entry.change, entry.old_bytes, entry.new_bytes));
        }
    };
    let report = within(before.diff(&after, tell)).await.unwrap();
    let expected = [
        ("a/b/also", Changed, Some(70_000), Some(5)),
        ("dangling", Changed, None, None),
        ("folder to file", Removed, None, None),
        ("folder to file/x", Removed, Some(1), None),
        ("folder to file", Added, None, Some(10)),
        ("gone", Removed, None, None),
        ("gone/y", Removed, Some(2), None),
        ("new", Added, None, None),
        ("new/deep", Added, None, None),
        ("new/deep/er", Added, None, Some(4)),
        ("same/z", Metadata, Some(3), Some(3)),
    ];
    assert_eq!(told, expected.map(|(path, change, old, new)| (path.to_owned(), change, old, new)));
    assert_eq!((report.added_files, report.added_bytes, report.removed_files, report.removed_bytes), (2, 14, 2, 3));
    assert_eq!((report.changed_files, report.changed_bytes), (1, 5));
    let nothing = within(after.diff(&after, |entry| panic!("{entry:?}"))).await.unwrap();
    assert_eq!(nothing, crate::DiffReport::default());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verification_reads_everything_or_the_sample_that_a_seed_chooses() {
    let world = World::new(5);
    furnish(&world);
    for number in 0..400u32 {
        world.write(&format!("many/{number}"), &noise(number.into(), 3_000));
    }
    let report = world.put("2/5").await;
    let snapshot = snapshot(&world, &report.link).await;
    let all = within(snapshot.verify(&VerifyOptions::default())).await.unwrap();
    assert_eq!((all.files, all.verified, all.without_hash, all.failed.len()), (407, 407, 0, 0));
    assert_eq!(all.verified_bytes, 18_170_013 + 400 * 3_000);
    let sample = |seed, path: &[u8]| VerifyOptions { path: path.to_vec(), sample_percent: 25.0, seed };
    let first = within(snapshot.verify(&sample(1, b"many"))).await.unwrap();
    assert_eq!(first, within(snapshot.verify(&sample(1, b"many"))).await.unwrap());
    assert!((60..140).contains(&first.verified) && first.files == first.verified, "{first:?}");
    for seed in 0..4 {
        let one = VerifyOptions { sample_percent: 0.0001, seed, ..VerifyOptions::default() };
        assert_eq!(within(snapshot.verify(&one)).await.unwrap().verified, 1, "a sample is never empty");
    }
    let none = VerifyOptions { sample_percent: 0.0, ..VerifyOptions::default() };
    assert_eq!(within(snapshot.verify(&none)).await.unwrap().files, 0);
    let senseless = VerifyOptions { sample_percent: f64::NAN, ..VerifyOptions::default() };
    assert_eq!(within(snapshot.verify(&senseless)).await.unwrap_err().kind(), ErrorKind::Usage);
    world.network.behave(4, Manner::Forgetful);
    let broken = within(snapshot.verify(&VerifyOptions::default())).await.unwrap();
    assert_eq!((broken.verified, broken.failed.len()), (1, 406), "only the empty file is still there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_root_is_that_of_the_folder_and_of_no_other() {
    let world = World::new(4);
    furnish(&world);
    let report = world.put("2/4").await;
    let root = within(snapshot(&world, &report.link).await.root()).await.unwrap();
    assert_eq!((root.files, root.bytes, &root.snapshot), (7, 18_170_013, &report.snapshot));
    let check = |folder: &Path| check_folder(folder, &root.root).unwrap();
    assert!(check(&world.source()).matches);
    world.get(&report.link).await.unwrap();
    let restored = check(&world.target());
    assert!(restored.matches && restored.root == root.root && restored.files == 7);
    let target = world.target();
    type Spoil = fn(&Path);
    let spoils: [Spoil; 5] = [
        |target| File::options().write(true).open(target.join("large")).unwrap().write_all_at(b"x", 4_444_444).unwrap(),
        |target| fs::set_permissions(target.join("empty"), fs::Permissions::from_mode(0o611)).unwrap(),
        |target| fs::rename(target.join("a/b/also"), target.join("a/b/Also")).unwrap(),
        |target| fs::remove_dir(target.join("a/empty folder")).unwrap(),
        |target| fs::write(target.join("more"), "").unwrap(),
    ];
    for spoil in spoils {
        spoil(&target);
        let checked = check(&target);
        assert!(!checked.matches && checked.root != root.root);
        fs::remove_dir_all(&target).unwrap();
        world.get(&report.link).await.unwrap();
    }
    let again = world.put("2/4").await;
    let other = within(snapshot(&world, &again.link).await.root()).await.unwrap();
    assert_ne!(other.root, root.root, "another dataset has another salt");
    assert!(check_folder(&world.source(), &other.root).unwrap().matches);
    assert_eq!(check_folder(&world.source(), "dolmenroot1x").unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(check_folder(Path::new("/no/such"), &root.root).unwrap_err().kind(), ErrorKind::Local);

    world.write("alone", b"alone");
    let file = world.source().join("alone");
    let single = within(world.client().put_anonymous(std::slice::from_ref(&file), &options("1/2"))).await.unwrap();
    let root = within(snapshot(&world, &single.link).await.root()).await.unwrap();
    assert!(check_folder(&file, &root.root).unwrap().matches);
}
