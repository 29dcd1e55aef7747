//! `dolmen bench`: Dolmen beside what its parts cost, on this machine and in one run.
//!
//! Decides what is measured and in which order, so that everything that is compared was measured side by side: each round
//! goes through all subjects once. Asserts nothing about speed; bytes that come back are always compared.

mod faults;
mod links;
mod peers;
mod plots;
mod reads;
mod report;
mod source;
mod throughput;

use std::path::{Path, PathBuf};

use dolmen_benches::floor::{self, Floor, Shape};
use dolmen_benches::memory;
use dolmen_benches::record::{Circumstances, Run, Setting};
use dolmen_benches::usage::{Meter, Usage};
use dolmen_client::{Client, ClientConfig, Progress, Snapshot};
use dolmen_proto::policy::Policy;

use crate::arguments::{Bench, BenchReceiver, Suite};
use crate::context::Context;
use crate::devnet;
use crate::failure::{Exit, Failure};
use crate::interrupted;
use crate::node_process::{LocalNetwork, this_program};
use crate::terminal::Terminal;

/// Datagrams of the floor: what loopback carries, as Dolmen's data plane uses it.
const DATAGRAM_BYTES: u16 = 65_000;

/// Buffers that a piece of work needs beside what it writes.
const BUFFERS_BYTES: u64 = 512 * 1024 * 1024;

/// Runs the benchmark.
///
/// # Errors
/// [`Failure`] of whatever cannot be measured, or where other bytes came back; processes are ended and the temporary folder is
/// removed in any case.
pub async fn run(context: &Context, arguments: &Bench) -> Result<Exit, Failure> {
    let mut builder = tempfile::Builder::new();
    builder.prefix("dolmen-bench-");
    let folder = match &arguments.folder {
        Some(parent) => builder.tempdir_in(parent),
        None => builder.tempdir(),
    };
    let folder = folder.map_err(|error| Failure::local("could not make a temporary folder", &error))?;
    let mut bench = Workbench::prepare(context, arguments, folder.path())?;
    let outcome = tokio::select! {
        outcome = bench.measure() => outcome,
        () = interrupted() => Err(Failure::interrupted()),
    };
    bench.network.stop().await;
    // What was measured before something failed is worth as much.
    if outcome.is_ok() || !bench.runs.is_empty() {
        report::print(context.terminal(), arguments, &bench.setting, &bench.runs)?;
    }
    outcome.map(|()| Exit::Ok)
}

/// Runs the other end of the floor until its standard input ends.
///
/// # Errors
/// [`Failure`] where sockets or the file fail.
pub async fn receive(arguments: &BenchReceiver) -> Result<Exit, Failure> {
    floor::run_receiver(&arguments.file, arguments.datagram_bytes)
        .await
        .map_err(|error| failed("receiving", &error))?;
    Ok(Exit::Ok)
}

/// Runs a shaper that its standard input tells what to do, until that ends.
///
/// # Errors
/// [`Failure`] where the standard streams fail.
pub fn shape() -> Result<Exit, Failure> {
    let (input, output) = (std::io::stdin().lock(), std::io::stdout().lock());
    dolmen_benches::shaper::process::serve(input, output)
        .map_err(|error| Failure::local("the shaper's parent is gone", &error))?;
    Ok(Exit::Ok)
}

/// That a part of the measurement did not work.
fn failed(what: &str, error: &anyhow::Error) -> Failure {
    Failure::new(
        Exit::Local,
        format!("could not go on measuring ({what})"),
        format!("{error:#}"),
        "look at free disk space and open files, then run it again",
    )
}

/// That other bytes came back.
fn wrong_bytes(what: &str) -> Failure {
    Failure::bug(format!("{what} brought other bytes than were stored"), "a comparison failed".to_owned())
}

/// What measurements share: the network, the yardstick's shape, and the rows so far.
struct Workbench<'a> {
    context: &'a Context,
    arguments: &'a Bench,
    folder: PathBuf,
    network: LocalNetwork,
    shape: Shape,
    setting: Setting,
    runs: Vec<Run>,
}

/// One timed piece of work before it is given a name.
struct Timed {
    seconds: f64,
    usage: Usage,
    bytes: u64,
    latencies_ms: Vec<f64>,
}

/// What names a row.
struct Label<'a> {
    subject: &'a str,
    operation: &'a str,
    object_bytes: u64,
    readers: usize,
    circumstances: Circumstances,
}

impl<'a> Label<'a> {
    /// One object at a time over loopback, nothing wrong.
    fn plain(subject: &'a str, operation: &'a str, object_bytes: u64) -> Self {
        let circumstances = Circumstances::plain(DATAGRAM_BYTES);
        Self { subject, operation, object_bytes, readers: 1, circumstances }
    }
}

impl<'a> Workbench<'a> {
    fn prepare(context: &'a Context, arguments: &'a Bench, folder: &Path) -> Result<Self, Failure> {
        let network = LocalNetwork::prepare(&folder.join("network"), Some(arguments.nodes))?;
        let nodes = network.count();
        let policy = Policy::auto(nodes)
            .map_err(|error| Failure::bug("no policy for the benchmark's network", error.to_string()))?;
        let started = jiff::Timestamp::now().round(jiff::Unit::Second).unwrap_or_default().to_string();
        Ok(Self {
            context,
            arguments,
            folder: folder.to_path_buf(),
            network,
            shape: Shape { k: policy.k().into(), n: policy.n().into(), nodes, datagram_bytes: DATAGRAM_BYTES },
            setting: Setting::new(started, env!("CARGO_PKG_VERSION"), policy.k(), policy.n(), nodes),
            runs: Vec::new(),
        })
    }

    /// What storing so much writes on all nodes together, with room for buffers.
    fn stored_bytes(&self, bytes: u64) -> u64 {
        bytes.saturating_mul(self.shape.n as u64) / self.shape.k as u64 + BUFFERS_BYTES
    }

    fn terminal(&self) -> Terminal {
        self.context.terminal()
    }

    async fn measure(&mut self) -> Result<(), Failure> {
        self.terminal().story(&format!(
            "starting {} node processes; {} of data, code {}/{}, {} rounds after one that warms up",
            self.network.count(),
            self.arguments.size,
            self.shape.k,
            self.shape.n,
            self.arguments.rounds
        ));
        let mut suites = self.arguments.suite.clone();
        suites.sort_unstable();
        suites.dedup();
        for suite in suites {
            // Parts that bring networks of their own leave this one stopped.
            if self.network.pids().is_empty() {
                self.network.start().await?;
                devnet::wait_until_found(self.context, &self.network).await?;
            }
            match suite {
                Suite::Throughput => throughput::measure(self).await?,
                Suite::Sizes => throughput::sizes(self).await?,
                Suite::Reads => reads::measure(self).await?,
                Suite::Faults => {
                    faults::measure(self).await?;
                    links::slow_nodes(self).await?;
                }
                Suite::Links => links::lines(self).await?,
                Suite::Peers => peers::measure(self).await?,
            }
        }
        Ok(())
    }

    /// A client that has the network's addresses and nothing else, with a state folder of its own.
    async fn new_client(&self) -> Result<Client, Failure> {
        let mut config = ClientConfig::load(&self.network.client_config()).map_err(|error| {
            Failure::bug("the client configuration of the benchmark cannot be used", error.to_string())
        })?;
        let state = tempfile::Builder::new().prefix("state-").tempdir_in(&self.folder);
        // It goes with the benchmark's folder.
        config.state_folder = state.map_err(|error| Failure::local("could not make a state folder", &error))?.keep();
        Ok(Client::connect(config, Progress::none()).await?)
    }

    /// The floor's receivers, as processes of this very program.
    async fn new_floor(&self) -> Result<Floor, Failure> {
        let program = this_program()?;
        let command = |file: &Path, datagram_bytes: u16| {
            let mut command = tokio::process::Command::new(&program);
            command.arg("bench-receiver").arg(file).arg("--datagram-bytes").arg(datagram_bytes.to_string());
            command.process_group(0);
            command
        };
        Floor::start(self.shape, &self.folder, command).await.map_err(|error| failed("starting the floor", &error))
    }

    /// The name of the one file of a snapshot.
    async fn only_name(&self, snapshot: &Snapshot) -> Result<Vec<u8>, Failure> {
        let first = snapshot.list(b"", false).await?.next().await?;
        first
            .map(|entry| entry.path.into_bytes())
            .ok_or_else(|| Failure::bug("a snapshot of the benchmark is empty", ""))
    }

    /// Takes in what was measured; rounds from 1 on are kept and said.
    fn record(&mut self, label: Label<'_>, round: u64, timed: Timed) {
        let Label { subject, operation, object_bytes, readers, circumstances } = label;
        let Timed { seconds, usage, bytes, latencies_ms } = timed;
        let run = Run {
            subject: subject.to_owned(),
            operation: operation.to_owned(),
            round,
            bytes,
            object_bytes,
            readers,
            seconds,
            latencies_ms,
            first_byte_ms: None,
            usage,
            verified: true,
            circumstances,
        };
        if round > 0 {
            self.terminal().remark(&report::line(&run));
            self.runs.push(run);
        }
    }
}

/// Times a piece of work of this process and of `servers`.
async fn timed<T>(servers: &[u32], work: impl Future<Output = Result<T, Failure>>) -> Result<(T, Timed), Failure> {
    timed_ready(servers, 0, work).await
}

/// As [`timed`], for work that makes, or fills caches with, about so many bytes; see [`memory::make_ready`].
async fn timed_ready<T>(
    servers: &[u32],
    bytes: u64,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<(T, Timed), Failure> {
    // What was written before must not be flushed at the expense of what comes now.
    sync().await;
    let _ = tokio::task::spawn_blocking(move || memory::make_ready(bytes)).await;
    let meter = Meter::start(servers);
    let started = std::time::Instant::now();
    let done = work.await?;
    let seconds = started.elapsed().as_secs_f64();
    Ok((done, Timed { seconds, usage: meter.stop(), bytes: 0, latencies_ms: Vec::new() }))
}

async fn sync() {
    // A thread of its own: with much to write it takes seconds.
    let _ = tokio::task::spawn_blocking(rustix::fs::sync).await;
}
