//! Dolmen over lines that are slower than loopback: a shaper of our own stands before every node.
//!
//! The network of this part is one of its own, whose nodes say that they are reached at the shaper's doors. Datagrams have the
//! size of the Internet's, so that the processor's share is what it would be there. The directory's packets, few and small,
//! do not go through the shaper.

use std::fs::File;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dolmen_benches::record::Circumstances;
use dolmen_benches::shaper::process::ShaperProcess;
use dolmen_benches::shaper::{Both, Link, ShaperOptions};
use dolmen_benches::usage::Usage;
use dolmen_proto::limits::{KIB, MIB};

use super::{Label, Timed, Workbench, failed, reads, source, throughput};
use crate::failure::Failure;
use crate::node_process::{LocalNetwork, this_program};

/// Datagrams of lines that are not this machine's own.
const LINE_DATAGRAM_BYTES: u16 = 1452;
/// Nodes that are slow in the part about slow nodes, in per cent.
const SLOW_PERCENT: usize = 10;
/// The round trip of all nodes in that part; slow ones have ten times as much.
const USUAL_ROUND_TRIP: Duration = Duration::from_millis(10);
/// What a node's own line carries in that part; slow ones have a tenth.
const USUAL_NODE_BITS: u64 = 1_000_000_000;

/// A line between the client and all nodes.
struct Line {
    name: &'static str,
    up_mbit_s: u64,
    down_mbit_s: u64,
    round_trip: Duration,
    loss: f64,
    /// How much is moved: a quarter of a minute's worth, or what was asked for where that is less.
    bytes: u64,
}

const LINES: [Line; 5] = [
    Line::new("1 Gbit/s, 1 ms", 1000, 1000, 1, 0.0, 512 * MIB),
    Line::new("1 Gbit/s, 40 ms", 1000, 1000, 40, 0.0, 512 * MIB),
    Line::new("100 Mbit/s, 100 ms", 100, 100, 100, 0.0, 128 * MIB),
    Line::new("home, 20 up 100 down, 20 ms", 20, 100, 20, 0.0, 24 * MIB),
    Line::new("1 Gbit/s, 10 ms, 1 % loss", 1000, 1000, 10, 0.01, 128 * MIB),
];

impl Line {
    const fn new(name: &'static str, up: u64, down: u64, round_trip_ms: u64, loss: f64, bytes: u64) -> Self {
        let round_trip = Duration::from_millis(round_trip_ms);
        Self { name, up_mbit_s: up, down_mbit_s: down, round_trip, loss, bytes }
    }

    fn links(&self) -> Both<Link> {
        let link = |mbit_s: u64| Link {
            rate_bits_per_second: Some(mbit_s * 1_000_000),
            one_way_delay: self.round_trip / 2,
            loss: self.loss,
            datagram_max_bytes: LINE_DATAGRAM_BYTES.into(),
            ..Link::default()
        };
        Both { up: link(self.up_mbit_s), down: link(self.down_mbit_s) }
    }

    fn circumstances(&self) -> Circumstances {
        Circumstances {
            fault: "none".to_owned(),
            link: self.name.to_owned(),
            rtt_ms: self.round_trip.as_secs_f64() * 1000.0,
            #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
            rate_mbit_s: self.down_mbit_s as f64,
            loss_percent: self.loss * 100.0,
            datagram_bytes: LINE_DATAGRAM_BYTES,
        }
    }
}

/// Measures all lines, one after the other.
pub(super) async fn lines(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let mut shaped = Shaped::start(bench, "lines", Some(LINE_DATAGRAM_BYTES)).await?;
    let outcome = each_line(bench, &mut shaped).await;
    shaped.stop(bench).await;
    outcome
}

async fn each_line(bench: &mut Workbench<'_>, shaped: &mut Shaped) -> Result<(), Failure> {
    for line in LINES.iter().filter(|line| line.name.contains(&bench.arguments.line)) {
        let bytes = line.bytes.min(bench.arguments.size.bytes());
        let path = bench.folder.join("line.bin");
        for round in 0..=bench.arguments.rounds {
            shaped.shaper.set_link(line.links()).map_err(|error| failed("setting a line", &error.into()))?;
            source::write_noise(&path, bytes, round)?;
            let client = bench.new_client().await?;
            let label =
                Label { circumstances: line.circumstances(), ..Label::plain("dolmen", "put over a line", bytes) };
            let link = throughput::put(bench, &client, &path, label, round).await?;
            tracing::debug!(line = line.name, counters = ?shaped.shaper.counters(), "what the shaper did");
            client.shut_down().await;
            let original = open(&path)?;
            // Another client, so that nothing is warm: how many round trips the first byte takes.
            let client = bench.new_client().await?;
            client.nodes(bench.network.count()).await?;
            let started = Instant::now();
            reads::first_read(bench, &client, &link, &original, 64 * KIB).await?;
            let seconds = started.elapsed().as_secs_f64();
            client.shut_down().await;
            let latencies_ms = vec![seconds * 1000.0];
            let took = Timed { seconds, usage: Usage::default(), bytes: 64 * KIB, latencies_ms };
            let label = Label::plain("dolmen", "first read over a line, known network", 64 * KIB);
            bench.record(Label { circumstances: line.circumstances(), ..label }, round, took);
            let client = bench.new_client().await?;
            let took = throughput::get_file(bench, &client, &link, &path).await?;
            tracing::debug!(line = line.name, counters = ?shaped.shaper.counters(), "what the shaper did");
            let label =
                Label { circumstances: line.circumstances(), ..Label::plain("dolmen", "get over a line", bytes) };
            bench.record(label, round, took);
            let snapshot = client.snapshot(&link).await?;
            let took = reads::random_reads(bench, &snapshot, &original, (64 * KIB, 16), 1).await?;
            let label = Label::plain("dolmen", "range over a line", 64 * KIB);
            bench.record(Label { circumstances: line.circumstances(), ..label }, round, took);
            // What follows is not part of the measurement.
            shaped.shaper.set_link(Both::default()).map_err(|error| failed("setting a line", &error.into()))?;
            client.shut_down().await;
        }
        std::fs::remove_file(&path).map_err(|error| Failure::local("could not remove the source", &error))?;
    }
    Ok(())
}

/// Reads of 1 MiB while no node is slow, and while some answer ten times later at a tenth of the rate.
pub(super) async fn slow_nodes(bench: &mut Workbench<'_>) -> Result<(), Failure> {
    let mut shaped = Shaped::start(bench, "slow", None).await?;
    let outcome = with_and_without(bench, &mut shaped).await;
    shaped.stop(bench).await;
    outcome
}

async fn with_and_without(bench: &mut Workbench<'_>, shaped: &mut Shaped) -> Result<(), Failure> {
    let path = bench.folder.join("slow.bin");
    let bytes = bench.arguments.size.bytes().min(256 * MIB);
    source::write_noise(&path, bytes, 0)?;
    let client = bench.new_client().await?;
    let link = throughput::put(bench, &client, &path, Label::plain("dolmen", "put", bytes), 0).await?;
    client.shut_down().await;
    let original = open(&path)?;
    let nodes = bench.network.count();
    let door = |times: u32| {
        let link = Link {
            rate_bits_per_second: Some(USUAL_NODE_BITS / u64::from(times)),
            one_way_delay: USUAL_ROUND_TRIP / 2 * times,
            ..Link::default()
        };
        Some(Both { up: link, down: link })
    };
    let slow = (nodes * SLOW_PERCENT).div_ceil(100);
    for round in 0..=bench.arguments.rounds {
        for fault in ["none", "10 % of nodes slow"] {
            for number in 0..nodes {
                let times = if fault != "none" && number % nodes.div_ceil(slow) == 0 { 10 } else { 1 };
                shaped.shaper.set_door_link(number, door(times)).map_err(|e| failed("slowing a node", &e.into()))?;
            }
            let circumstances = Circumstances {
                fault: fault.to_owned(),
                rtt_ms: USUAL_ROUND_TRIP.as_secs_f64() * 1000.0,
                link: "nodes at 10 ms and 1 Gbit/s".to_owned(),
                ..Circumstances::plain(super::DATAGRAM_BYTES)
            };
            let client = bench.new_client().await?;
            let snapshot = client.snapshot(&link).await?;
            let took = reads::random_reads(bench, &snapshot, &original, (MIB, 200), 1).await?;
            let label = Label::plain("dolmen", "range beside slow nodes", MIB);
            bench.record(Label { circumstances: circumstances.clone(), ..label }, round, took);
            let took = throughput::get_file(bench, &client, &link, &path).await?;
            let label = Label::plain("dolmen", "get beside slow nodes", bytes);
            bench.record(Label { circumstances, ..label }, round, took);
            client.shut_down().await;
        }
    }
    std::fs::remove_file(&path).map_err(|error| Failure::local("could not remove the source", &error))
}

fn open(path: &Path) -> Result<Arc<File>, Failure> {
    File::open(path).map(Arc::new).map_err(|error| Failure::local("could not open the source", &error))
}

/// A network behind a shaper, in the place of the benchmark's own, which waits until this one is stopped.
struct Shaped {
    shaper: ShaperProcess,
    other: LocalNetwork,
}

impl Shaped {
    async fn start(bench: &mut Workbench<'_>, name: &str, datagram_bytes: Option<u16>) -> Result<Self, Failure> {
        let program = this_program()?;
        let mut shaper = None;
        let open = |servers: &[SocketAddr]| {
            let mut command = std::process::Command::new(&program);
            command.arg("bench-shaper");
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
            let options = ShaperOptions { servers: servers.to_vec(), links: Both::default(), seed: 1 };
            let started = ShaperProcess::start(command, options);
            let started = started.map_err(|error| failed("starting the shaper", &error.into()))?;
            let doors = started.doors().to_vec();
            shaper = Some(started);
            Ok(doors)
        };
        let folder = bench.folder.join(name);
        let mut network = LocalNetwork::prepare_behind(&folder, Some(bench.arguments.nodes), datagram_bytes, open)?;
        let shaper = shaper.ok_or_else(|| Failure::bug("the shaper was not started", "no node needed a door"))?;
        bench.network.stop().await;
        network.start().await?;
        let other = std::mem::replace(&mut bench.network, network);
        crate::devnet::wait_until_found(bench.context, &bench.network).await?;
        Ok(Self { shaper, other })
    }

    /// Brings the benchmark's own network back, stopped; whoever needs it starts it again.
    async fn stop(self, bench: &mut Workbench<'_>) {
        bench.network.stop().await;
        bench.network = self.other;
    }
}
