//! Reading while nodes are dead or lie.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use dolmen_benches::record::Circumstances;
use dolmen_proto::limits::MIB;

use super::{BUFFERS_BYTES, DATAGRAM_BYTES, Label, Workbench, failed, reads, source, throughput, timed_ready};
use crate::failure::Failure;

/// Shares of all nodes that are dead, in per cent.
const DEAD_PERCENT: [usize; 3] = [0, 10, 30];
/// Ranges of 1 MiB that are read in every round of a fault.
const RANGE_READS: usize = 64;

/// Measures it: dead nodes first, as they come back whole; the node that lies is the last, as it stays broken.
pub(super) async fn measure(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let bytes = bench.arguments.size.bytes();
    let path = bench.folder.join("faults.bin");
    source::write_noise(&path, bytes, 0)?;
    let original = Arc::new(File::open(&path).map_err(|error| Failure::local("could not open the source", &error))?);
    let client = bench.new_client().await?;
    let link = throughput::put(bench, &client, &path, Label::plain("dolmen", "put", bytes), 0).await?;
    client.shut_down().await;
    let floor = bench.new_floor().await?;
    floor.put(&path, false).await.map_err(|error| failed("floor put", &error))?;
    let nodes = bench.network.count();
    let mut dead = Vec::new();
    for percent in DEAD_PERCENT {
        // Spread over the network, as shards are.
        let count = (nodes * percent).div_ceil(100);
        for number in 0..count {
            let victim = number * nodes / count;
            if !dead.contains(&victim) {
                bench.network.kill(victim).await?;
                dead.push(victim);
            }
        }
        let fault = if percent == 0 { "none".to_owned() } else { format!("{percent} % of nodes dead") };
        for round in 0..=bench.arguments.rounds {
            let target = bench.folder.join("floor-restored.bin");
            let get = async { floor.get(bytes, &target, &dead).await.map_err(|e| failed("floor get", &e)) };
            let (_, mut took) = timed_ready(&floor.pids(), bytes + BUFFERS_BYTES, get).await?;
            took.bytes = bytes;
            bench.record(with_fault("floor", "get under faults", bytes, &fault), round, took);
            std::fs::remove_file(&target).map_err(|error| Failure::local("could not remove a file", &error))?;
            get_and_ranges(bench, &link, &path, &original, &fault, round).await?;
        }
    }
    floor.stop().await;
    for number in dead {
        bench.network.revive(number).await?;
    }
    let liar = nodes / 2;
    bench.network.halt(liar).await?;
    overwrite_shards(&bench.folder.join(format!("network/nodes/{liar:02}/data")))?;
    bench.network.revive(liar).await?;
    for round in 0..=bench.arguments.rounds {
        get_and_ranges(bench, &link, &path, &original, "1 node lies", round).await?;
    }
    std::fs::remove_file(&path).map_err(|error| Failure::local("could not remove the source", &error))
}

/// A get of the whole file and reads of ranges, each by a client that does not know yet what is wrong.
async fn get_and_ranges(
    bench: &mut Workbench<'_>,
    link: &str,
    path: &Path,
    original: &Arc<File>,
    fault: &str,
    round: u64,
) -> Result<(), Failure> {
    let bytes = bench.arguments.size.bytes();
    let client = bench.new_client().await?;
    let took = throughput::get_file(bench, &client, link, path).await?;
    client.shut_down().await;
    bench.record(with_fault("dolmen", "get under faults", bytes, fault), round, took);
    let client = bench.new_client().await?;
    let snapshot = client.snapshot(link).await?;
    let took = reads::random_reads(bench, &snapshot, original, (MIB, RANGE_READS), 1).await?;
    client.shut_down().await;
    bench.record(with_fault("dolmen", "range under faults", MIB, fault), round, took);
    Ok(())
}

fn with_fault<'a>(subject: &'a str, operation: &'a str, object_bytes: u64, fault: &str) -> Label<'a> {
    let circumstances = Circumstances { fault: fault.to_owned(), ..Circumstances::plain(DATAGRAM_BYTES) };
    Label { circumstances, ..Label::plain(subject, operation, object_bytes) }
}

/// Overwrites most of what lies in a node's volumes, so that it answers with bytes that nobody stored there.
fn overwrite_shards(data: &Path) -> Result<(), Failure> {
    let trouble = |error| Failure::local("could not damage a node's volumes", &error);
    for volume in volumes(data).map_err(trouble)? {
        let file = File::options().write(true).open(&volume).map_err(trouble)?;
        let length = file.metadata().map_err(trouble)?.len();
        // A byte in every 16 KiB is enough for no window to be whole; headers of records mostly survive.
        for at in (8 * 1024..length).step_by(16 * 1024) {
            file.write_all_at(b"lies", at.min(length.saturating_sub(4))).map_err(trouble)?;
        }
    }
    Ok(())
}

fn volumes(folder: &Path) -> std::io::Result<Vec<std::path::PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(volumes(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "volume") {
            found.push(path);
        }
    }
    Ok(found)
}
