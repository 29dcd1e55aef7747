//! Restores that are partial, cut off, or meet what is there already.

use std::os::unix::ffi::OsStringExt;

use super::*;
use crate::get::limit_room;

async fn get(world: &World, link: &str, how: GetOptions) -> Result<crate::GetReport, crate::ClientError> {
    within(world.client().get(link, Destination::Path(world.target()), &how)).await
}

/// All paths below a folder, sorted.
fn paths(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            let below = path.strip_prefix(folder).unwrap().as_os_str().to_owned();
            found.push(String::from_utf8_lossy(&below.into_vec()).into_owned());
            if fs::symlink_metadata(&path).unwrap().is_dir() {
                folders.push(path);
            }
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn patterns_choose_what_is_restored_and_make_only_the_folders_above_it() {
    let world = World::new(3);
    furnish(&world);
    world.write("a/b/c/picture.png", b"1");
    world.write("pictures/other.png", b"2");
    fs::set_permissions(world.source().join("a/b"), fs::Permissions::from_mode(0o750)).unwrap();
    let report = world.put("1/2").await;
    let cases: [(&[&str], &[&str]); 5] = [
        (&["*.png"], &["a", "a/b", "a/b/c", "a/b/c/picture.png", "pictures", "pictures/other.png"]),
        (&["a/b/*"], &["a", "a/b", "a/b/also", "a/b/c", "a/b/c/deep", "a/b/c/picture.png"]),
        (&["a/empty folder"], &["a", "a/empty folder"]),
        (&["dangling", "small*"], &["dangling", "small.txt"]),
        (&["nothing like it"], &[]),
    ];
    for (patterns, expected) in cases {
        let include = patterns.iter().map(|pattern| (*pattern).to_owned()).collect();
        let got = get(&world, &report.link, GetOptions { include, ..GetOptions::default() }).await.unwrap();
        assert_eq!((paths(&world.target()), got.failed.len()), (expected.iter().map(ToString::to_string).collect(), 0));
        if world.target().join("a/b").exists() {
            assert_eq!(fs::metadata(world.target().join("a/b")).unwrap().mode() & 0o777, 0o750);
            let times = ["source", "target"]
                .map(|side| fs::metadata(world.folder.path().join(side).join("a")).unwrap().mtime_nsec());
            assert_eq!(times[0], times[1]);
        }
        fs::remove_dir_all(world.target()).unwrap();
    }
    let below = GetOptions { path: b"a".to_vec(), include: vec!["b/also".to_owned()], ..GetOptions::default() };
    get(&world, &report.link, below).await.unwrap();
    assert_eq!(paths(&world.target()), ["b", "b/also"], "paths begin at the folder that is restored");
    let wrong = GetOptions { include: vec!["[".to_owned()], ..GetOptions::default() };
    assert_eq!(get(&world, &report.link, wrong).await.unwrap_err().kind(), ErrorKind::Usage);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_file_that_was_cut_off_is_gone_on_with() {
    let world = World::new(4);
    let bytes = noise(1, 160_000_000);
    world.write("large", &bytes);
    let report = world.put("2/4").await;
    let client = world.client();
    world.events.0.lock().unwrap().clear();
    let done = || {
        let bytes = |event: &ProgressEvent| if let ProgressEvent::Bytes(bytes) = event { *bytes } else { 0 };
        world.events.0.lock().unwrap().iter().map(bytes).sum::<u64>()
    };
    let how = GetOptions::default();
    let half = async {
        while done() < 60_000_000 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        got = client.get(&report.link, Destination::Path(world.target()), &how) => panic!("cut off before its end: {got:?}"),
        () = within(half) => {}
    }
    // What was being written when it was cut off comes to its end.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let left = paths(&world.target());
    assert_eq!(left.len(), 3, "a folder, the file and its notes: {left:?}");
    let part = left.iter().find(|path| path.contains("/part-")).unwrap();
    // A part that has changed since is not believed.
    File::options().write(true).open(world.target().join(part)).unwrap().write_all_at(&[0; 4096], 20_000_000).unwrap();
    world.network.take_gets();
    world.get(&report.link).await.unwrap();
    let fetched: u64 = world.network.take_gets().iter().map(|got| got.count_bytes).sum();
    assert!(fetched < 120_000_000, "{fetched} bytes were fetched again");
    assert!(fs::read(world.target().join("large")).unwrap() == bytes);
    assert_eq!(paths(&world.target()), ["large"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_named_and_nothing_half_written_is_left() {
    let world = World::new(4);
    for number in 0..20 {
        world.write(&format!("{number:02}"), &noise(number, 2_000_000));
    }
    world.write("large", &noise(99, 50_000_000));
    let report = world.put("2/4").await;
    limit_room(&world.target(), 30_000_000);
    let full = world.get(&report.link).await.unwrap_err();
    assert_eq!((full.kind(), full.exit_code()), (ErrorKind::Local, 9));
    assert!(full.what().contains("no room") && full.what().contains("target"), "{full}");
    for path in paths(&world.target()) {
        assert!(
            fs::read(world.target().join(&path)).unwrap() == fs::read(world.source().join(&path)).unwrap(),
            "{path}"
        );
    }
    limit_room(&world.target(), usize::MAX);
    let got = world.get(&report.link).await.unwrap();
    assert_eq!((got.files, got.failed.len()), (21, 0));
    world.assert_same();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_in_the_target_are_never_followed_and_what_they_hide_is_named() {
    let world = World::new(3);
    world.write("folder/inside", b"mine");
    world.write("file", b"also mine");
    let report = world.put("1/2").await;
    let outside = world.folder.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("inside"), "theirs").unwrap();
    fs::create_dir(world.target()).unwrap();
    symlink(&outside, world.target().join("folder")).unwrap();
    symlink(outside.join("new"), world.target().join("file")).unwrap();
    for overwrite in [false, true] {
        let got = get(&world, &report.link, GetOptions { overwrite, ..GetOptions::default() }).await.unwrap();
        assert_eq!(got.failed.len(), if overwrite { 1 } else { 2 }, "{:?}", got.failed);
        assert_eq!(fs::read(outside.join("inside")).unwrap(), b"theirs");
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
    }
    assert!(fs::symlink_metadata(world.target().join("file")).unwrap().is_file(), "the link itself was replaced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_file_never_stands_for_two_entries_of_a_snapshot() {
    let world = World::new(3);
    for name in ["a", "b"] {
        world.write(name, b"equal");
        let time = filetime::FileTime::from_unix_time(1_000_000, 0);
        filetime::set_file_mtime(world.source().join(name), time).unwrap();
    }
    let report = world.put("1/2").await;
    world.get(&report.link).await.unwrap();
    // Two names of one file are told from two files that look the same; hard links are the owner's own doing.
    let again = world.get(&report.link).await.unwrap();
    assert_eq!((again.skipped, again.failed.len()), (2, 0));
    fs::remove_file(world.target().join("b")).unwrap();
    fs::hard_link(world.target().join("a"), world.target().join("b")).unwrap();
    let linked = world.get(&report.link).await.unwrap();
    assert_eq!((linked.skipped, linked.failed.len()), (2, 0));
}
