//! Reading at any offset and listing, by what they ask of nodes.

use std::io::SeekFrom;

use dolmen_proto::ids::NodeId;
use futures::TryStreamExt;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::*;
use crate::Snapshot;
use crate::network::memory::Got;

async fn snapshot(world: &World, link: &str) -> Snapshot {
    within(world.client().snapshot(link)).await.unwrap()
}

/// What nodes were asked for by `work`.
async fn asked<T>(world: &World, work: impl Future<Output = T>) -> (T, Vec<Got>) {
    world.network.take_gets();
    let value = within(work).await;
    (value, world.network.take_gets())
}

fn bytes_of(gets: &[Got]) -> u64 {
    gets.iter().map(|got| got.count_bytes).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_range_asks_one_node_for_the_windows_that_hold_it() {
    let world = World::new(12);
    let bytes = noise(7, 70_000_000);
    world.write("large", &bytes);
    let report = world.put("4/8").await;
    let file = snapshot(&world, &report.link).await.file(b"large").await.unwrap();
    let (mut single, mut place) = (0, 12_345_678u64);
    for _ in 0..30 {
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let offset = place % (70_000_000 - 65_536);
        let (read, gets) = asked(&world, file.read_range(offset, 65_536)).await;
        assert!(read.unwrap() == bytes[offset as usize..offset as usize + 65_536]);
        assert!(gets.len() <= 2 && bytes_of(&gets) <= 4 * 65_536, "{gets:?}");
        assert!(gets.iter().all(|got| got.proof && got.count_bytes.is_multiple_of(16_384)), "{gets:?}");
        single += usize::from(gets.len() == 1);
    }
    assert!(single >= 25, "only {single} of 30 asked one node");
    let (read, gets) = asked(&world, file.read_range(69_999_990, 1_000)).await;
    assert_eq!((read.unwrap().as_ref(), gets.len()), (&bytes[69_999_990..], 1));
    let (read, gets) = asked(&world, file.read_range(70_000_000, 5)).await;
    assert!(read.unwrap().is_empty() && gets.is_empty());
    let too_much = file.read_range(0, u64::MAX).await;
    assert_eq!(too_much.unwrap_err().kind(), ErrorKind::Usage, "64 MiB are the budget");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_on_a_bad_node_is_rebuilt_from_k_others() {
    let world = World::new(10);
    let bytes = noise(8, 20_000_000);
    world.write("large", &bytes);
    let report = world.put("3/7").await;
    for manner in [Manner::Dead, Manner::Slow(60_000), Manner::Lying, Manner::Forgetful] {
        let file = snapshot(&world, &report.link).await.file(b"large").await.unwrap();
        let offset = 3_000_000;
        let (read, gets) = asked(&world, file.read_range(offset, 10_000)).await;
        assert!(read.unwrap() == bytes[3_000_000..3_010_000]);
        let [only] = gets.as_slice() else { panic!("{gets:?}") };
        world.network.these_behave([only.node], manner);
        let (read, gets) = asked(&world, file.read_range(offset, 10_000)).await;
        assert!(read.unwrap() == bytes[3_000_000..3_010_000], "{manner:?}");
        let others: std::collections::BTreeSet<NodeId> =
            gets.iter().map(|got| got.node).filter(|node| *node != only.node).collect();
        assert!(others.len() >= 3, "{manner:?}: {gets:?}");
        assert!(gets.iter().all(|got| got.count_bytes <= 2 * 65_536), "the same range of each: {gets:?}");
        world.network.all_behave(Manner::Honest);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seek_in_a_large_file_reads_little_of_its_extents() {
    let world = World::new(5);
    let sparse = File::create(world.source().join("sparse")).unwrap();
    sparse.set_len(10 << 30).unwrap();
    for number in 0..8_000u64 {
        sparse.write_all_at(&noise(number, 4096), number * (1 << 20)).unwrap();
    }
    drop(sparse);
    let report = world.put("2/4").await;
    let snapshot = snapshot(&world, &report.link).await;
    let file = snapshot.file(b"sparse").await.unwrap();
    let offset = 6_543 * (1 << 20);
    let (read, gets) = asked(&world, file.read_range(offset - 100, 4096 + 200)).await;
    let read = read.unwrap();
    assert!(read[100..4196] == noise(6_543, 4096) && read[..100] == [0; 100] && read[4196..] == [0; 100]);
    assert!(bytes_of(&gets) < 600_000, "of a tree of over 500 KiB and 32 MiB of content: {gets:?}");
    let (_, gets) = asked(&world, file.read_range(offset + (1 << 20), 100)).await;
    assert_eq!(gets.len(), 1, "what was read of the tree is remembered: {gets:?}");
    let mut out = vec![0; 4096];
    let mut file = file;
    within(async {
        file.seek(SeekFrom::Start(7_999 << 20)).await.unwrap();
        file.read_exact(&mut out).await.unwrap();
    })
    .await;
    assert!(out == noise(7_999, 4096));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_is_read_ahead_of_and_reads_here_and_there_are_not() {
    let world = World::new(6);
    let bytes = noise(9, 30_000_000);
    world.write("one", &bytes);
    let report = world.put("2/4").await;
    let mut file = snapshot(&world, &report.link).await.file(b"one").await.unwrap();
    for (offset, length) in [(25_000_000usize, 5_000usize), (3_000_000, 65_536), (9_000_001, 1)] {
        let mut out = vec![0; length];
        let (_, gets) = asked(&world, async {
            file.seek(SeekFrom::Start(offset as u64)).await.unwrap();
            file.read_exact(&mut out).await.unwrap();
        })
        .await;
        assert!(out == bytes[offset..offset + length]);
        assert!(gets.len() <= 2 && bytes_of(&gets) <= 3 * 65_536, "{gets:?}");
    }
    let mut out = Vec::new();
    let (read, gets) = asked(&world, async {
        file.rewind().await.unwrap();
        file.read_to_end(&mut out).await
    })
    .await;
    assert_eq!(read.unwrap(), 30_000_000);
    assert!(out == bytes);
    assert!(gets.len() < 60, "{} calls for 29 MiB", gets.len());
    assert!(bytes_of(&gets) < 36_000_000, "{} bytes", bytes_of(&gets));
    assert_eq!(file.seek(SeekFrom::End(-3)).await.unwrap(), 29_999_997);
    out.clear();
    within(file.read_to_end(&mut out)).await.unwrap();
    assert!(out == bytes[29_999_997..]);
    assert!(file.seek(SeekFrom::Current(-40_000_000)).await.is_err());
    assert_eq!(file.seek(SeekFrom::Start(u64::MAX)).await.unwrap(), u64::MAX);
    assert_eq!(file.read(&mut [0; 4]).await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_is_given_up_or_fails_loses_nothing() {
    let world = World::new(4);
    let bytes = noise(10, 5_000_000);
    world.write("one", &bytes);
    let report = world.put("2/4").await;
    let mut file = snapshot(&world, &report.link).await.file(b"one").await.unwrap();
    let mut out = vec![0; 1_000_000];
    world.network.all_behave(Manner::Slow(300));
    for _ in 0..3 {
        let given_up = tokio::time::timeout(Duration::from_millis(50), file.read(&mut out)).await;
        assert!(given_up.is_err());
    }
    world.network.all_behave(Manner::Honest);
    within(file.read_exact(&mut out)).await.unwrap();
    assert!(out == bytes[..1_000_000]);
    world.network.all_behave(Manner::Forgetful);
    file.seek(SeekFrom::Start(4_000_000)).await.unwrap();
    let failed = within(file.read_exact(&mut out)).await.unwrap_err();
    let source = failed.get_ref().and_then(|error| error.downcast_ref::<crate::ClientError>()).unwrap();
    assert_eq!((failed.kind(), source.kind()), (std::io::ErrorKind::InvalidData, ErrorKind::Damaged));
    world.network.all_behave(Manner::Honest);
    within(file.read_exact(&mut out)).await.unwrap();
    assert!(out == bytes[4_000_000..]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_among_many_is_listed_with_few_small_reads_and_again_with_none() {
    let world = World::new(6);
    for number in 0..1_000u32 {
        world.write(&format!("m/wanted/{number:04}.jpeg"), &number.to_le_bytes());
    }
    for number in 0..19_000u32 {
        world.write(&format!("{:02}/{:02}/{number:06}.jpeg", number % 20, number / 20 % 40), &number.to_le_bytes());
    }
    let report = world.put("2/4").await;
    assert_eq!(report.files, 20_000);
    let list = async |client: &Client| {
        let listing = client.list(&report.link, b"m/wanted", false).await.unwrap();
        let names: Vec<String> = listing.into_stream().map_ok(|entry| entry.path).try_collect().await.unwrap();
        assert_eq!((names.len(), names[999].as_str()), (1_000, "m/wanted/0999.jpeg"));
    };
    fs::remove_dir_all(world.folder.path().join("state/blobs")).ok();
    let (_, gets) = asked(&world, list(&world.client())).await;
    assert!(gets.len() < 20 && bytes_of(&gets) < 1 << 20, "{} calls, {} bytes", gets.len(), bytes_of(&gets));
    let (_, gets) = asked(&world, list(&world.client())).await;
    assert!(gets.is_empty(), "another client knows the blobs from disk: {gets:?}");

    let blobs = world.folder.path().join("state/blobs");
    let files: Vec<PathBuf> = fs::read_dir(&blobs)
        .unwrap()
        .flat_map(|folder| fs::read_dir(folder.unwrap().path()).unwrap())
        .map(|file| file.unwrap().path())
        .collect();
    for path in files {
        let file = File::options().write(true).open(path).unwrap();
        file.write_all_at(b"damaged!", 20).unwrap();
    }
    let (_, gets) = asked(&world, list(&world.client())).await;
    assert!(!gets.is_empty(), "what is damaged on disk is fetched again");
    let (_, gets) = asked(&world, list(&world.client())).await;
    assert!(gets.is_empty(), "and mended: {gets:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deep_listing_reads_no_segment_twice() {
    let world = World::new(5);
    for number in 0..6_000u32 {
        world.write(&format!("top/{:04}/{number}", number / 3), &number.to_le_bytes());
    }
    world.write("other", b"x");
    let report = world.put("2/4").await;
    let snapshot = snapshot(&world, &report.link).await;
    let (count, gets) = asked(&world, async {
        snapshot
            .list(b"top", true)
            .await
            .unwrap()
            .into_stream()
            .try_fold(0, |count, _| async move { Ok(count + 1) })
            .await
    })
    .await;
    assert_eq!(count.unwrap(), 8_000);
    assert!(bytes_of(&gets) < 4 << 20, "{} calls, {} bytes", gets.len(), bytes_of(&gets));
}
