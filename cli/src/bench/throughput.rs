//! One large file there and back, beside raw quinn, TCP and the floor.

use std::path::PathBuf;

use dolmen_benches::floor::Floor;
use dolmen_client::{Client, Destination, GetOptions, PutOptions};

use super::{BUFFERS_BYTES, Label, Timed, Workbench, failed, source, timed, timed_ready, wrong_bytes};
use crate::failure::Failure;

/// The smallest file of the sizes.
const SMALLEST_BYTES: u64 = 1024 * 1024;

/// Measures it, round by round.
pub(super) async fn measure(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let bytes = bench.arguments.size.bytes();
    let client = bench.new_client().await?;
    let file = bench.folder.join("source.bin");
    for round in 0..=bench.arguments.rounds {
        // New content every round: nothing may be there already.
        source::write_noise(&file, bytes, round)?;
        let floor = bench.new_floor().await?;
        transport(bench, &floor, round).await?;
        let servers = floor.pids();
        for (operation, synced) in [("put, synced", true), ("put", false)] {
            let store = async { floor.put(&file, synced).await.map_err(|error| failed("floor put", &error)) };
            let (_, mut took) = timed_ready(&servers, bench.stored_bytes(bytes), store).await?;
            took.bytes = bytes;
            bench.record(Label::plain("floor", operation, bytes), round, took);
        }
        let link = put(bench, &client, &file, Label::plain("dolmen", "put", bytes), round).await?;
        let target = bench.folder.join("floor-restored.bin");
        let get = async { floor.get(bytes, &target, &[]).await.map_err(|error| failed("floor get", &error)) };
        let (_, mut took) = timed_ready(&servers, bytes + BUFFERS_BYTES, get).await?;
        took.bytes = bytes;
        if !source::same(&file, &target)? {
            return Err(wrong_bytes("the floor"));
        }
        bench.record(Label::plain("floor", "get", bytes), round, took);
        remove(&target)?;
        floor.stop().await;
        let took = get_file(bench, &client, &link, &file).await?;
        // Nothing is removed: nodes would compact their volumes during the next round.
        bench.record(Label::plain("dolmen", "get", bytes), round, took);
    }
    client.shut_down().await;
    remove(&file)
}

/// Files of 1 MiB and of each four times more, up to the large one: Dolmen beside the floor.
pub(super) async fn sizes(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let most = bench.arguments.size.bytes();
    let client = bench.new_client().await?;
    let file = bench.folder.join("sized.bin");
    for round in 0..=bench.arguments.rounds {
        let floor = bench.new_floor().await?;
        let servers = floor.pids();
        let mut bytes = SMALLEST_BYTES;
        while bytes <= most {
            source::write_noise(&file, bytes, round)?;
            let store = async { floor.put(&file, false).await.map_err(|error| failed("floor put", &error)) };
            let (_, mut took) = timed_ready(&servers, bench.stored_bytes(bytes), store).await?;
            took.bytes = bytes;
            bench.record(Label::plain("floor", "put by size", bytes), round, took);
            let link = put(bench, &client, &file, Label::plain("dolmen", "put by size", bytes), round).await?;
            let target = bench.folder.join("floor-restored.bin");
            let get = async { floor.get(bytes, &target, &[]).await.map_err(|error| failed("floor get", &error)) };
            let (_, mut took) = timed_ready(&servers, bytes + BUFFERS_BYTES, get).await?;
            took.bytes = bytes;
            bench.record(Label::plain("floor", "get by size", bytes), round, took);
            remove(&target)?;
            let took = get_file(bench, &client, &link, &file).await?;
            bench.record(Label::plain("dolmen", "get by size", bytes), round, took);
            client.remove(&link).await?;
            bytes *= 4;
        }
        floor.stop().await;
    }
    client.shut_down().await;
    remove(&file)
}

/// Raw quinn and TCP with the same bytes.
async fn transport(bench: &mut Workbench<'_>, floor: &Floor, round: u64) -> Result<(), Failure> {
    let bytes = bench.arguments.size.bytes();
    let servers = floor.pids();
    let (_, mut took) = timed(&servers, async { floor.raw(bytes).await.map_err(|e| failed("raw quinn", &e)) }).await?;
    took.bytes = bytes;
    let mut label = Label::plain("raw quinn", "put", bytes);
    label.circumstances.datagram_bytes = floor.datagram_bytes();
    bench.record(label, round, took);
    let (_, mut took) = timed(&servers, async { floor.tcp(bytes).await.map_err(|e| failed("tcp", &e)) }).await?;
    took.bytes = bytes;
    let mut label = Label::plain("tcp", "put", bytes);
    label.circumstances.datagram_bytes = 0;
    bench.record(label, round, took);
    Ok(())
}

/// Stores a file or folder and gives its link.
pub(super) async fn put(
    bench: &mut Workbench<'_>,
    client: &Client,
    path: &PathBuf,
    mut label: Label<'_>,
    round: u64,
) -> Result<String, Failure> {
    let servers = bench.network.pids();
    let length = length_of(path)?;
    let put = async { Ok(client.put_anonymous(std::slice::from_ref(path), &PutOptions::default()).await?) };
    let (stored, mut took) = timed_ready(&servers, bench.stored_bytes(length), put).await?;
    if !stored.failed.is_empty() || stored.degraded {
        return Err(Failure::bug("a put of the benchmark was not whole", format!("{:?}", stored.failed)));
    }
    took.bytes = stored.bytes;
    let datagram_bytes = client.paths().iter().map(|path| path.datagram_bytes).max();
    label.circumstances.datagram_bytes = datagram_bytes.unwrap_or(label.circumstances.datagram_bytes);
    bench.record(label, round, took);
    Ok(stored.link)
}

/// Restores one file and compares it.
pub(super) async fn get_file(
    bench: &Workbench<'_>,
    client: &Client,
    link: &str,
    original: &std::path::Path,
) -> Result<Timed, Failure> {
    let target = bench.folder.join("restored");
    std::fs::create_dir_all(&target).map_err(|error| Failure::local("could not make a folder", &error))?;
    let servers = bench.network.pids();
    let length = length_of(original)?;
    let get = async { Ok(client.get(link, Destination::Path(target.clone()), &GetOptions::default()).await?) };
    let (restored, mut took) = timed_ready(&servers, length + BUFFERS_BYTES, get).await?;
    took.bytes = restored.bytes;
    let name = original.file_name().unwrap_or_default();
    if !restored.failed.is_empty() || !source::same(original, &target.join(name))? {
        return Err(wrong_bytes("a get"));
    }
    std::fs::remove_dir_all(&target).map_err(|error| Failure::local("could not remove a folder", &error))?;
    Ok(took)
}

fn length_of(path: &std::path::Path) -> Result<u64, Failure> {
    let metadata = path.metadata().map_err(|error| Failure::local("could not look at the source", &error))?;
    Ok(metadata.len())
}

fn remove(path: &std::path::Path) -> Result<(), Failure> {
    std::fs::remove_file(path).map_err(|error| Failure::local(format!("could not remove {}", path.display()), &error))
}
