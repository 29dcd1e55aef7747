//! What can be typed to run networks and nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dolmen_proto::size::ByteSize;

use super::duration;

/// `dolmen demo`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen demo\n  dolmen demo ~/photos --nodes 24 --kill 8\n  dolmen demo data --json"
)]
pub struct Demo {
    /// Folder or file to store; the current directory without .git and ignored files if not given.
    pub path: Option<PathBuf>,
    /// How many node processes to start.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(2..=200))]
    pub nodes: u16,
    /// How many of them to kill with SIGKILL; a third by default, never more than the policy survives.
    #[arg(long)]
    pub kill: Option<u16>,
    /// Do not ask before storing more than 2 GiB.
    #[arg(long)]
    pub yes: bool,
    /// Do not add the Rust toolchain's files to a folder under 64 MiB.
    #[arg(long)]
    pub no_fill: bool,
    /// Keep the network and the copy in this folder instead of a temporary one.
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// `dolmen devnet`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dolmen devnet --dir /tmp/net --nodes 12 &\n  DOLMEN_CONFIG=/tmp/net/client.toml dolmen nodes"
)]
pub struct Devnet {
    /// Where the network lives; the same folder brings the same network and data back.
    #[arg(long)]
    pub dir: PathBuf,
    /// How many nodes; what the folder has already if not given, else 12.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=200))]
    pub nodes: Option<u16>,
}

/// `dolmen node ...`
#[derive(Debug, Subcommand)]
pub enum Node {
    /// Write a commented node.toml and a key; never overwrites.
    Init(NodeInit),
    /// Run the node until Ctrl-C or SIGTERM.
    Run(NodeRun),
    /// Show what the node of this configuration is doing.
    Status,
    /// Have the shards of this node copied elsewhere, and show how far that is; it serves until you stop it.
    Leave(NodeLeave),
    /// Show what auditors asked of this node and made of its answers.
    Audits(NodeAudits),
    /// Throw the index away and rebuild it from the volumes; the node must not be running.
    Reindex,
    /// Add, remove or list data folders.
    #[command(subcommand)]
    Disk(Disk),
}

/// `dolmen node init`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dolmen node init --data /srv/disk1 --data /srv/disk2 --config node.toml --quota 500GB --region eu-de \\\n      --listen 0.0.0.0:4711 --announce node1.example.org --bootstrap /ip4/203.0.113.7/udp/4712/quic-v1/p2p/12D3..."
)]
pub struct NodeInit {
    /// A folder on a disk that the node may fill; once for each disk.
    #[arg(long, required = true, num_args = 1..)]
    pub data: Vec<PathBuf>,
    /// How much the node may hold over all folders, such as 500GB; all free space but a reserve if not given.
    #[arg(long)]
    pub quota: Option<ByteSize>,
    /// Where the node stands, from large to small, such as eu-de.
    #[arg(long, default_value = "")]
    pub region: String,
    /// Address of the data plane (UDP).
    #[arg(long, default_value = "0.0.0.0:4711", value_name = "ADDR:PORT")]
    pub listen: SocketAddr,
    /// Address of the control plane (UDP); the data port plus one if not given.
    #[arg(long, value_name = "ADDR:PORT")]
    pub control: Option<SocketAddr>,
    /// Name or address under which others reach this node.
    #[arg(long, value_name = "HOST[:PORT]")]
    pub announce: Option<String>,
}

/// `dolmen node run`
#[derive(Debug, Args)]
pub struct NodeRun {
    /// Stop when standard input ends: for programs that start nodes and must not leave them behind.
    #[arg(long, hide = true)]
    pub until_stdin_closes: bool,
    /// Believe this machine's clock even if it jumped by more than a day since the node last ran.
    #[arg(long)]
    pub trust_clock: bool,
}

/// `dolmen node leave`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dolmen node leave --within 30d --wait && systemctl stop dolmen-node\n\nThe node goes on serving, and takes renewals but nothing new. Those who look after its datasets copy the shards\nelsewhere and tell it. Once it is safe to stop, this command says so; nothing is stopped or deleted by itself."
)]
pub struct NodeLeave {
    /// How long the node will still serve; 30d if not given. Given again it changes the date.
    #[arg(long, value_parser = duration, value_name = "DURATION", conflicts_with = "cancel")]
    pub within: Option<Duration>,
    /// Stay after all.
    #[arg(long, conflicts_with = "wait")]
    pub cancel: bool,
    /// Wait until everything is elsewhere, or the date has come.
    #[arg(long)]
    pub wait: bool,
}

/// `dolmen node audits`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dolmen node audits --last 20\n  dolmen audit verify FILE        check the transcript of an audit that was not passed, offline"
)]
pub struct NodeAudits {
    /// How many, the newest ones.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub last: u32,
}

/// `dolmen node disk ...`
#[derive(Debug, Subcommand)]
pub enum Disk {
    /// Use one more folder from the next start on.
    Add(DiskFolder),
    /// Stop using an empty folder.
    Remove(DiskFolder),
    /// Show the folders and what is in them.
    List,
}

/// A data folder of a node.
#[derive(Debug, Args)]
pub struct DiskFolder {
    /// The folder.
    pub folder: PathBuf,
}

/// `dolmen nodes`
#[derive(Debug, Args)]
pub struct Nodes {
    /// Stop looking after this many.
    #[arg(long, default_value_t = 200)]
    pub sample: usize,
}
