//! The command line as clap sees it: names, flags, defaults, examples.
//!
//! Decides what can be typed. Never decides what a command does.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use dolmen_proto::policy::Policy;
use dolmen_proto::size::ByteSize;

/// Encrypted storage for datasets on disks that nobody has to trust.
#[derive(Debug, Parser)]
#[command(name = "dolmen", version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Arguments {
    /// Flags that every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const EXAMPLES: &str = "Examples:
  dolmen demo ~/photos                  the whole story on this machine, with nodes killed on the way
  dolmen devnet --dir /tmp/net          a network of real nodes on loopback, until Ctrl-C
  export DOLMEN_CONFIG=/tmp/net/client.toml
  dolmen put ~/photos                   prints a link
  dolmen get LINK /tmp/restored         reads it back

Exit codes: 0 ok, 1 our bug, 2 usage, 3 not found, 4 not now (retry), 5 gone or damaged, 6 refused,
7 some files failed, 8 conflict, 9 local trouble, 130 interrupted.";

/// Flags that every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// Configuration file: client.toml (else DOLMEN_CONFIG, else the per-user path); for `node` commands node.toml
    /// (else DOLMEN_NODE_CONFIG, else ./node.toml).
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of a node to find the others through; may be given several times, or be a comma-separated list.
    #[arg(long, global = true, env = "DOLMEN_BOOTSTRAP", value_name = "ADDR", value_delimiter = ',')]
    pub bootstrap: Vec<String>,
    /// Answer in JSON: the last line of standard output is one object.
    #[arg(long, global = true)]
    pub json: bool,
    /// Say nothing but results and failures.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Log what happens; twice for more.
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the whole story on this machine: start nodes, put a folder, kill nodes, get it back, compare.
    Demo(Demo),
    /// Run a network of real node processes on loopback until Ctrl-C.
    Devnet(Devnet),
    /// Run and look after a storage node.
    #[command(subcommand)]
    Node(Node),
    /// List the nodes that the directory finds.
    Nodes(Nodes),
    /// Store files or folders; the last line printed is the link that reads them.
    Put(Put),
    /// Read back what a link names; resumes, and skips files that are there already.
    Get(Get),
    /// List what a link names, without fetching content.
    Ls(Ls),
    /// Write one file to standard output.
    Cat(Cat),
    /// Show segments, shards alive now and until when the nodes promised to keep them.
    Info(OneLink),
    /// Extend the leases of an upload made from this machine.
    Renew(Renew),
    /// Delete an anonymous upload made from this machine.
    Rm(OneLink),
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder.
    Man {
        /// The folder.
        folder: PathBuf,
    },
}

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

/// `dolmen put`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen put ~/photos\n  dolmen put scan.dcm report.pdf --policy 4/10 --json\n\nAn interrupted put resumes when it is run again."
)]
pub struct Put {
    /// Files and folders to store.
    #[arg(required = true)]
    pub paths: Vec<PathBuf>,
    /// Store without a vault: only the printed link reads it. The only way for now.
    #[arg(long)]
    pub anonymous: bool,
    /// Shards needed and made of every segment, such as 7/16; by the number of nodes if not given.
    #[arg(long, value_name = "K/N")]
    pub policy: Option<Policy>,
    /// How long the nodes shall keep it, such as 400d.
    #[arg(long, default_value = "400d", value_parser = duration, value_name = "DURATION")]
    pub lease: Duration,
    /// Fail instead of accepting fewer than n shards of a segment.
    #[arg(long)]
    pub require_full: bool,
}

/// `dolmen get`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen get LINK /tmp/restored\n  dolmen get @link.txt:scans/a.dcm -   (one file to standard output)"
)]
pub struct Get {
    /// `LINK[:PATH]`, `@FILE[:PATH]` or - to read the link from standard input.
    #[arg(value_name = "LINK[:PATH]")]
    pub source: String,
    /// Folder or file to write; - for standard output.
    pub destination: PathBuf,
    /// Read files that are there already and compare their content, instead of trusting size and time.
    #[arg(long)]
    pub checksum: bool,
    /// Replace files that are there and differ, instead of listing them as failed.
    #[arg(long)]
    pub overwrite: bool,
}

/// `dolmen ls`
#[derive(Debug, Args)]
pub struct Ls {
    /// `LINK[:PATH]`, `@FILE[:PATH]` or -.
    #[arg(value_name = "LINK[:PATH]")]
    pub source: String,
    /// Show mode, size and time.
    #[arg(short = 'l', long)]
    pub long: bool,
    /// Show what is in folders too.
    #[arg(short = 'R', long)]
    pub recursive: bool,
}

/// `dolmen cat`
#[derive(Debug, Args)]
pub struct Cat {
    /// LINK:PATH, @FILE:PATH or a link to a single file.
    #[arg(value_name = "LINK[:PATH]")]
    pub source: String,
    /// Where to start, in bytes or such as 16MiB.
    #[arg(long, default_value = "0")]
    pub offset: ByteSize,
    /// How much to write; to the end if not given.
    #[arg(long)]
    pub length: Option<ByteSize>,
}

/// A command on one link.
#[derive(Debug, Args)]
pub struct OneLink {
    /// LINK, @FILE or -.
    #[arg(value_name = "LINK")]
    pub source: String,
}

/// `dolmen renew`
#[derive(Debug, Args)]
pub struct Renew {
    /// LINK, @FILE or -.
    #[arg(value_name = "LINK")]
    pub source: String,
    /// How long from now the nodes shall keep it.
    #[arg(long, default_value = "400d", value_parser = duration, value_name = "DURATION")]
    pub lease: Duration,
}

/// Reads `90s`, `15m`, `12h`, `400d`, `2w` or `1y` (365 days).
fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|character: char| !character.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        "y" => 365 * 86_400,
        _ => return Err("a duration is a number and s, m, h, d, w or y, such as 400d".to_owned()),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(seconds))
        .map(Duration::from_secs)
        .ok_or_else(|| "this duration is too long or has no number".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("400d"), Ok(Duration::from_secs(400 * 86_400)));
        assert!(duration("400").is_err());
        assert!(duration("d").is_err());
        assert!(duration("99999999999999999999y").is_err());
    }
}
