//! Dolmen against its floor, in one run: `cargo bench -p dolmen-benches --bench end_to_end`.
//!
//! Starts a network of real node processes on loopback, then in every round measures raw quinn, the floor's put and
//! get, and Dolmen's put and get of the same bytes, interleaved. Prints medians and ratios; asserts nothing but that
//! the bytes came back. Size in MiB, nodes and rounds: `DOLMEN_BENCH_MIB`, `DOLMEN_BENCH_NODES`, `DOLMEN_BENCH_ROUNDS`.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use dolmen_benches::floor::{Floor, Shape};
use dolmen_cli::node_process::LocalNetwork;
use dolmen_client::{Client, ClientConfig, Destination, GetOptions, Progress, PutOptions};
use dolmen_proto::policy::Policy;

const DATAGRAM_BYTES: u16 = 65_000;

fn main() -> ExitCode {
    // The nodes of the network are this very program.
    let first = std::env::args().nth(1).unwrap_or_default();
    if first == "node" {
        return dolmen_cli::main();
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "end_to_end: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn run() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<()> {
    let mib = setting("DOLMEN_BENCH_MIB", 1024);
    let nodes = u16::try_from(setting("DOLMEN_BENCH_NODES", 24))?;
    let rounds = setting("DOLMEN_BENCH_ROUNDS", 3);
    let folder = tempfile::Builder::new().prefix("dolmen-bench-").tempdir()?;
    let source = folder.path().join("source.bin");
    let mut network = LocalNetwork::prepare(&folder.path().join("network"), Some(nodes)).map_err(anyhow::Error::msg)?;
    network.start().await.map_err(anyhow::Error::msg)?;
    let outcome = rounds_of(&network, folder.path(), &source, mib, usize::from(nodes), rounds).await;
    network.stop().await;
    outcome
}

async fn rounds_of(
    network: &LocalNetwork,
    folder: &Path,
    source: &Path,
    mib: u64,
    nodes: usize,
    rounds: u64,
) -> Result<()> {
    let policy = Policy::auto(nodes).context("a policy")?;
    let shape = Shape { k: policy.k().into(), n: policy.n().into(), nodes, datagram_bytes: DATAGRAM_BYTES };
    let client = Client::connect(ClientConfig::load(&network.client_config())?, Progress::none()).await?;
    let bytes = mib << 20;
    let rate = |seconds: f64| mib as f64 / seconds;
    let (mut raw, mut floor_put, mut put, mut floor_get, mut get) = (vec![], vec![], vec![], vec![], vec![]);
    let mut datagram_bytes = 0;
    for round in 0..=rounds {
        // New content every round: nothing may be there already. Round 0 warms up and is not counted.
        write_noise(source, bytes, round)?;
        let floor = Floor::start(shape, folder).await?;
        let raw_seconds = floor.raw(bytes).await?;
        // What one part wrote must not be flushed at the expense of the next.
        rustix::fs::sync();
        let floor_put_seconds = floor.put(source).await?;
        rustix::fs::sync();
        let started = Instant::now();
        let stored = client.put_anonymous(&[source.to_path_buf()], &PutOptions::default()).await?;
        let put_seconds = started.elapsed().as_secs_f64();
        ensure!(stored.failed.is_empty() && !stored.degraded, "the put was not whole: {stored:?}");
        rustix::fs::sync();
        let floor_target = folder.join(format!("floor-{round}.bin"));
        let floor_get_seconds = floor.get(bytes, &floor_target).await?;
        let target = folder.join(format!("restored-{round}"));
        std::fs::create_dir(&target)?;
        rustix::fs::sync();
        let started = Instant::now();
        let restored = client.get(&stored.link, Destination::Path(target.clone()), &GetOptions::default()).await?;
        let get_seconds = started.elapsed().as_secs_f64();
        ensure!(restored.failed.is_empty() && restored.bytes == bytes, "the get was not whole: {restored:?}");
        ensure!(same(source, &target.join("source.bin"))?, "other bytes came back");
        datagram_bytes = floor.datagram_bytes();
        floor.stop();
        let removed = client.remove(&stored.link).await?;
        ensure!(removed.removed_shards == removed.shards, "not everything was removed: {removed:?}");
        std::fs::remove_dir_all(&target)?;
        std::fs::remove_file(&floor_target)?;
        if round > 0 {
            raw.push(rate(raw_seconds));
            floor_put.push(rate(floor_put_seconds));
            put.push(rate(put_seconds));
            floor_get.push(rate(floor_get_seconds));
            get.push(rate(get_seconds));
        }
        let mut output = std::io::stdout().lock();
        writeln!(
            output,
            "round {round}: raw {:.0}, floor put {:.0}, put {:.0}, floor get {:.0}, get {:.0} MiB/s",
            rate(raw_seconds),
            rate(floor_put_seconds),
            rate(put_seconds),
            rate(floor_get_seconds),
            rate(get_seconds)
        )?;
    }
    let (raw, floor_put, put, floor_get, get) =
        (median(raw), median(floor_put), median(put), median(floor_get), median(get));
    client.shut_down().await;
    writeln!(
        std::io::stdout().lock(),
        "{}",
        serde_json::json!({
            "mib": mib, "nodes": nodes, "k": policy.k(), "n": policy.n(), "rounds": rounds, "datagram_bytes": datagram_bytes,
            "raw_mib_s": raw, "floor_put_mib_s": floor_put, "put_mib_s": put, "floor_get_mib_s": floor_get, "get_mib_s": get,
            "put_over_floor": put / floor_put, "get_over_floor": get / floor_get,
        })
    )?;
    Ok(())
}

fn write_noise(path: &Path, bytes: u64, seed: u64) -> Result<()> {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    getrandom::fill(&mut key[8..]).ok().context("random bytes")?;
    let mut noise = blake3::Hasher::new_keyed(&key).finalize_xof();
    let mut file = std::fs::File::create(path)?;
    let mut buffer = vec![0; 1 << 20];
    let mut left = bytes;
    while left > 0 {
        let count = usize::try_from(left.min(buffer.len() as u64))?;
        noise.fill(&mut buffer[..count]);
        file.write_all(&buffer[..count])?;
        left -= count as u64;
    }
    Ok(())
}

fn same(left: &Path, right: &Path) -> Result<bool> {
    let (mut left, mut right) = (std::fs::File::open(left)?, std::fs::File::open(right)?);
    let (mut one, mut two) = (vec![0; 1 << 20], vec![0; 1 << 20]);
    loop {
        let count = left.read(&mut one)?;
        if count == 0 {
            return Ok(right.read(&mut two)? == 0);
        }
        right.read_exact(&mut two[..count])?;
        if one[..count] != two[..count] {
            return Ok(false);
        }
    }
}
