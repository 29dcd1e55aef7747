//! Dolmen's client and Sia's, each alone with nodes in the memory of this process: 10 of 30, 90 nodes, 120 MiB, in turn.
//!
//! Both seal, code, mask or encrypt, hash and check everything; no byte passes a socket. Nodes of both take in a shard 3 ms
//! after they were asked and give one out at 10 Gbit/s, as `sia_storage`'s do. What comes back is compared with what was put.

use std::io::{self, Write};
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use dolmen_client::mock::{MockDelays, MockNetwork};
use dolmen_client::{Client, ClientConfig, PolicyChoice, Progress, PutOptions};
use rustix::time::{ClockId, clock_gettime};
use sia_storage::{AppKey, DownloadOptions, Object, Sdk, UploadOptions};
use tokio::io::AsyncWrite;

const MIB: usize = 1024 * 1024;
const BYTES: usize = 120 * MIB;
const NODES: u8 = 90;
const ROUNDS: usize = 7;
/// Slabs and chunks that Sia's client may have in memory where it has most; its own default is the other contestant.
const SIA_MUCH: usize = 90;

/// Compares what comes with what should; holds nothing.
struct Comparing {
    expected: Bytes,
    at: usize,
}

impl Comparing {
    fn take(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let end = self.at + bytes.len();
        if self.expected.get(self.at..end) != Some(bytes) {
            return Err(io::Error::other("other bytes came back than were put"));
        }
        self.at = end;
        Ok(bytes.len())
    }
}

impl Write for Comparing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.take(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncWrite for Comparing {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.get_mut().take(bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Time on the clock and of all threads of this process.
#[derive(Clone, Copy)]
struct Cost {
    elapsed: Duration,
    cpu: Duration,
}

struct Watch {
    begun: Instant,
    cpu: Duration,
}

impl Watch {
    fn start() -> Self {
        Self { begun: Instant::now(), cpu: process_time() }
    }

    fn stop(&self) -> Cost {
        Cost { elapsed: self.begun.elapsed(), cpu: process_time() - self.cpu }
    }
}

fn process_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.unsigned_abs(), u32::try_from(now.tv_nsec).expect("below a second"))
}

/// Costs of one contestant's rounds.
#[derive(Default)]
struct Lane {
    put: Vec<Cost>,
    get: Vec<Cost>,
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn rate(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| BYTES as f64 / MIB as f64 / cost.elapsed.as_secs_f64()).collect())
}

fn cpu_per_gib(costs: &[Cost]) -> f64 {
    median(costs.iter().map(|cost| cost.cpu.as_secs_f64() * (1024.0 / (BYTES / MIB) as f64)).collect())
}

async fn dolmen(client: &Client, network: &MockNetwork, source: &Path, input: &Bytes) -> Result<(Cost, Cost)> {
    let watch = Watch::start();
    let report = client.put_anonymous(&[source.to_path_buf()], &PutOptions::default()).await?;
    let put = watch.stop();
    ensure!(network.held_bytes() >= 3 * BYTES as u64, "three times the bytes are on nodes");
    let name = source.file_name().context("a file")?.to_string_lossy().into_owned();
    let watch = Watch::start();
    let writer = Comparing { expected: input.clone(), at: 0 };
    let bytes = client.cat(&report.link, name.as_bytes(), None, Box::new(writer)).await?;
    let get = watch.stop();
    ensure!(bytes == BYTES as u64, "all came back");
    network.clear();
    Ok((put, get))
}

async fn sia(sdk: &Sdk, network: &sia_storage::mock::MockNetwork, much: bool, input: &Bytes) -> Result<(Cost, Cost)> {
    let much = much.then_some(SIA_MUCH);
    let watch = Watch::start();
    let options = UploadOptions { max_buffered_slabs: much, ..Default::default() };
    let object = sdk.upload(Object::default(), io::Cursor::new(input.clone()), options).await?;
    let put = watch.stop();
    let watch = Watch::start();
    let options = DownloadOptions { max_buffered_chunks: much, ..Default::default() };
    let mut reader = sdk.download(&object, options)?;
    let mut writer = Comparing { expected: input.clone(), at: 0 };
    let bytes = tokio::io::copy(&mut reader, &mut writer).await?;
    let get = watch.stop();
    ensure!(bytes == BYTES as u64, "all came back");
    network.clear_sectors();
    Ok((put, get))
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
    let mut lanes = [Lane::default(), Lane::default(), Lane::default()];
    let names = ["Dolmen", "sia_storage", "sia_storage, 90 slabs"];

    let delays = MockDelays { put: Duration::from_millis(3), get_per_mib: Duration::from_nanos((MIB * 8 / 10) as u64) };
    let nodes = MockNetwork::new(NODES, delays);
    let policy = PolicyChoice::Fixed { k: 10, n: 30 };
    let config = ClientConfig { state_folder: folder.path().join("state"), policy, ..Default::default() };
    let client = nodes.client(config, Progress::none())?;
    let hosts = sia_storage::mock::MockNetwork::new();
    hosts.add_hosts(NODES.into());
    let sdk = hosts.sdk(AppKey::import([7; 32])).await?;

    // `dolmen-peer-sia dolmen` for a profile of Dolmen alone.
    let contestants = if std::env::args().nth(1).as_deref() == Some("dolmen") { 1 } else { names.len() };

    for round in 0..=ROUNDS {
        // Other bytes each time: nothing is found to be there already.
        let mut input = vec![0; BYTES];
        blake3::Hasher::new().update(&round.to_le_bytes()).finalize_xof().fill(&mut input);
        let input = Bytes::from(input);
        let source = folder.path().join(format!("input-{round}"));
        std::fs::write(&source, &input)?;
        for turn in 0..contestants {
            let lane = (turn + round) % contestants;
            let (put, get) = match lane {
                0 => dolmen(&client, &nodes, &source, &input).await?,
                lane => sia(&sdk, &hosts, lane == 2, &input).await?,
            };
            // The first round warms up.
            if round > 0 {
                lanes[lane].put.push(put);
                lanes[lane].get.push(get);
            }
        }
        std::fs::remove_file(&source)?;
    }

    println!("120 MiB, 10 of 30, {NODES} nodes in memory, medians of {ROUNDS} rounds\n");
    println!("{:<24} {:>10} {:>12} {:>10} {:>12}", "", "put MiB/s", "CPU s/GiB", "get MiB/s", "CPU s/GiB");
    for (name, lane) in names.iter().zip(&lanes).take(contestants) {
        let (put, get) = (rate(&lane.put), rate(&lane.get));
        let (put_cpu, get_cpu) = (cpu_per_gib(&lane.put), cpu_per_gib(&lane.get));
        println!("{name:<24} {put:>10.0} {put_cpu:>12.1} {get:>10.0} {get_cpu:>12.1}");
    }
    for (name, lane) in names.iter().zip(&lanes).take(contestants).skip(1) {
        let over = |mine: &[Cost], theirs: &[Cost]| {
            median(mine.iter().zip(theirs).map(|(mine, other)| other.elapsed.as_secs_f64() / mine.elapsed.as_secs_f64()).collect())
        };
        println!("Dolmen over {name}: put {:.1} times, get {:.1} times", over(&lanes[0].put, &lane.put), over(&lanes[0].get, &lane.get));
    }
    Ok(())
}
