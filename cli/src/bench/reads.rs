//! Ranges at random places, cold and warm, small files and listings, at several readers at a time.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use dolmen_client::{Client, Destination, GetOptions, Snapshot};
use dolmen_proto::limits::{KIB, MIB};
use futures::{StreamExt as _, TryStreamExt as _};

use super::{Label, Timed, Workbench, failed, source, throughput, timed, wrong_bytes};
use crate::failure::Failure;
use crate::tree_compare;

/// Ranges that are read, in bytes, and how many of them.
const RANGES: [(u64, usize); 3] = [(4 * KIB, 400), (64 * KIB, 400), (MIB, 96)];
/// Readers at a time.
const READERS: [usize; 3] = [1, 4, 16];
/// First reads by clients that know nothing.
const COLD_READS: usize = 8;
/// Bytes of a small file.
const SMALL_BYTES: usize = 20 * 1024;
/// Small files that are also read one request a file.
const ONE_BY_ONE: usize = 400;

/// Measures it, round by round.
pub(super) async fn measure(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    ranges(bench).await?;
    small_files(bench).await
}

async fn ranges(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let path = bench.folder.join("ranges.bin");
    source::write_noise(&path, bench.arguments.size.bytes(), 0)?;
    let client = bench.new_client().await?;
    let link =
        throughput::put(bench, &client, &path, Label::plain("dolmen", "put", bench.arguments.size.bytes()), 0).await?;
    let original = Arc::new(File::open(&path).map_err(|error| Failure::local("could not open the source", &error))?);
    let floor = bench.new_floor().await?;
    let snapshot = client.snapshot(&link).await?;
    for round in 0..=bench.arguments.rounds {
        cold(bench, &link, &original, round).await?;
        for readers in READERS {
            for (bytes, count) in RANGES {
                let servers = floor.pids();
                let floor = &floor;
                let request =
                    |number| async move { floor.request(number, bytes).await.map_err(|e| failed("a raw request", &e)) };
                let (latencies, mut took) = timed(&servers, many(readers, count, request)).await?;
                (took.bytes, took.latencies_ms) = (bytes * count as u64, latencies);
                let label = Label { readers, ..Label::plain("raw quinn", "range", bytes) };
                bench.record(label, round, took);
                let took = random_reads(bench, &snapshot, &original, (bytes, count), readers).await?;
                let label = Label { readers, ..Label::plain("dolmen", "range", bytes) };
                bench.record(label, round, took);
            }
        }
    }
    floor.stop().await;
    client.remove(&link).await?;
    client.shut_down().await;
    std::fs::remove_file(&path).map_err(|error| Failure::local("could not remove the source", &error))
}

/// `count` ranges at random places of the one file of a snapshot, compared with the original.
pub(super) async fn random_reads(
    bench: &Workbench<'_>,
    snapshot: &Snapshot,
    original: &Arc<File>,
    (bytes, count): (u64, usize),
    readers: usize,
) -> Result<Timed, Failure> {
    let name = bench.only_name(snapshot).await?;
    let file = snapshot.file(&name).await?;
    let size = file.size();
    let read = |_| async {
        let offset = fastrand(size - bytes);
        let started = Instant::now();
        let read = file.read_range(offset, bytes).await?;
        let took = started.elapsed();
        let length = usize::try_from(bytes).unwrap_or(usize::MAX);
        if read != source::range(original, offset, length)? {
            return Err(wrong_bytes("a range"));
        }
        Ok(took)
    };
    let servers = bench.network.pids();
    let (latencies, mut took) = timed(&servers, many(readers, count, read)).await?;
    (took.bytes, took.latencies_ms) = (bytes * count as u64, latencies);
    Ok(took)
}

/// First reads of 64 KiB: by a client that has never seen the network, and by one that has but does not know the dataset.
async fn cold(bench: &mut Workbench<'_>, link: &str, original: &Arc<File>, round: u64) -> Result<(), Failure> {
    let bytes = 64 * KIB;
    let (mut unknown, mut known) = (Vec::new(), Vec::new());
    for _ in 0..COLD_READS {
        let started = Instant::now();
        let client = bench.new_client().await?;
        first_read(bench, &client, link, original, bytes).await?;
        unknown.push(started.elapsed().as_secs_f64() * 1000.0);
        client.shut_down().await;
        // Its folder forgets the dataset's documents, the client keeps what it knows of nodes.
        let client = bench.new_client().await?;
        client.nodes(bench.network.count()).await?;
        let started = Instant::now();
        first_read(bench, &client, link, original, bytes).await?;
        known.push(started.elapsed().as_secs_f64() * 1000.0);
        client.shut_down().await;
    }
    for (operation, latencies_ms) in [("first read, new client", unknown), ("first read, known network", known)] {
        let seconds = latencies_ms.iter().sum::<f64>() / 1000.0;
        let took = Timed {
            seconds,
            usage: dolmen_benches::usage::Usage::default(),
            bytes: bytes * latencies_ms.len() as u64,
            latencies_ms,
        };
        bench.record(Label::plain("dolmen", operation, bytes), round, took);
    }
    Ok(())
}

pub(super) async fn first_read(
    bench: &Workbench<'_>,
    client: &Client,
    link: &str,
    original: &Arc<File>,
    bytes: u64,
) -> Result<(), Failure> {
    let snapshot = client.snapshot(link).await?;
    let file = snapshot.file(&bench.only_name(&snapshot).await?).await?;
    let offset = fastrand(file.size() - bytes);
    let read = file.read_range(offset, bytes).await?;
    if read != source::range(original, offset, usize::try_from(bytes).unwrap_or(usize::MAX))? {
        return Err(wrong_bytes("a first read"));
    }
    Ok(())
}

async fn small_files(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let folder = bench.folder.join("small");
    let client = bench.new_client().await?;
    for round in 0..=bench.arguments.rounds {
        let paths = source::write_small(&folder, bench.arguments.small_files, SMALL_BYTES, round)?;
        let link = throughput::put(
            bench,
            &client,
            &folder,
            Label::plain("dolmen", "put small files", SMALL_BYTES as u64),
            round,
        )
        .await?;
        let took = get_folder(bench, &client, &link, &folder).await?;
        bench.record(Label::plain("dolmen", "get small files", SMALL_BYTES as u64), round, took);
        let took = one_by_one(bench, &client, &link, &folder, &paths).await?;
        bench.record(Label::plain("dolmen", "small files, one request each", SMALL_BYTES as u64), round, took);
        let servers = bench.network.pids();
        let list = async {
            let mut listing = client.list(&link, b"", true).await?;
            let mut entries = 0u64;
            while listing.next().await?.is_some() {
                entries += 1;
            }
            Ok(entries)
        };
        let (entries, mut took) = timed(&servers, list).await?;
        if entries < paths.len() as u64 {
            return Err(wrong_bytes("a listing"));
        }
        took.bytes = entries * SMALL_BYTES as u64;
        bench.record(Label::plain("dolmen", "list", SMALL_BYTES as u64), round, took);
        client.remove(&link).await?;
        std::fs::remove_dir_all(&folder).map_err(|error| Failure::local("could not remove a folder", &error))?;
    }
    client.shut_down().await;
    Ok(())
}

async fn get_folder(
    bench: &Workbench<'_>,
    client: &Client,
    link: &str,
    original: &std::path::Path,
) -> Result<Timed, Failure> {
    let target = bench.folder.join("restored-small");
    std::fs::create_dir_all(&target).map_err(|error| Failure::local("could not make a folder", &error))?;
    let servers = bench.network.pids();
    let get = async { Ok(client.get(link, Destination::Path(target.clone()), &GetOptions::default()).await?) };
    let (restored, mut took) = timed(&servers, get).await?;
    took.bytes = restored.bytes;
    let copy = if target.join("0000").exists() { target.clone() } else { target.join("small") };
    let comparison = tree_compare::compare(original, &copy)
        .map_err(|error| Failure::local("could not compare what came back", &error))?;
    if !comparison.differences.is_empty() {
        return Err(wrong_bytes("a get of small files"));
    }
    std::fs::remove_dir_all(&target).map_err(|error| Failure::local("could not remove a folder", &error))?;
    Ok(took)
}

/// Some of the small files, one after the other, each asked for by name.
async fn one_by_one(
    bench: &Workbench<'_>,
    client: &Client,
    link: &str,
    folder: &std::path::Path,
    paths: &[PathBuf],
) -> Result<Timed, Failure> {
    let snapshot = client.snapshot(link).await?;
    let step = (paths.len() / ONE_BY_ONE).max(1);
    let some: Vec<&PathBuf> = paths.iter().step_by(step).collect();
    let servers = bench.network.pids();
    let read = async {
        let mut latencies = Vec::new();
        for path in &some {
            let started = Instant::now();
            let file = snapshot.file(path.to_string_lossy().as_bytes()).await?;
            let read = file.read_range(0, file.size()).await?;
            latencies.push(started.elapsed().as_secs_f64() * 1000.0);
            let original = std::fs::read(folder.join(path));
            if original.map_err(|error| Failure::local("could not compare what came back", &error))? != read {
                return Err(wrong_bytes("a small file"));
            }
        }
        Ok(latencies)
    };
    let (latencies, mut took) = timed(&servers, read).await?;
    (took.bytes, took.latencies_ms) = ((some.len() * SMALL_BYTES) as u64, latencies);
    Ok(took)
}

/// Does something `count` times, `readers` at a time, and gives how long each took in milliseconds.
async fn many<F: Future<Output = Result<std::time::Duration, Failure>>>(
    readers: usize,
    count: usize,
    work: impl Fn(usize) -> F,
) -> Result<Vec<f64>, Failure> {
    futures::stream::iter(0..count)
        .map(work)
        .buffer_unordered(readers)
        .map_ok(|took| took.as_secs_f64() * 1000.0)
        .try_collect()
        .await
}

/// A number under `below`, of no quality; 0 when there is none.
fn fastrand(below: u64) -> u64 {
    let mut bytes = [0; 8];
    // Without randomness all reads go to the beginning, which the figures show.
    let _ = getrandom::fill(&mut bytes);
    u64::from_le_bytes(bytes) % below.max(1)
}
