//! The command line as clap sees it: names, flags, defaults, examples.
//!
//! Decides what can be typed. Never decides what a command does.

mod audit;
mod bench;
mod data;
mod durability;
mod network;
mod steward;
mod vault;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};

pub use self::audit::*;
pub use self::bench::*;
pub use self::data::*;
pub use self::durability::*;
pub use self::network::*;
pub use self::steward::*;
pub use self::vault::*;

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
  dolmen init                           makes a vault: 24 words, shown once
  dolmen put ~/photos photos            a new snapshot of the dataset \"photos\"
  dolmen ls photos@2f31:holidays        what a snapshot holds

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
    /// The vault's file (else DOLMEN_VAULT, else vault.json in the state folder).
    #[arg(long, global = true, env = "DOLMEN_VAULT", value_name = "FILE")]
    pub vault: Option<PathBuf>,
    /// A file whose first line is the vault's passphrase (else DOLMEN_PASSPHRASE, else the terminal is asked).
    #[arg(long, global = true, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
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
    /// Measure put and get on this machine, beside what their parts cost.
    Bench(Bench),
    /// The other end of the benchmark's floor.
    #[command(hide = true)]
    BenchReceiver(BenchReceiver),
    /// The benchmark's slow line.
    #[command(hide = true)]
    BenchShaper,
    /// Run and look after a storage node.
    #[command(subcommand)]
    Node(Node),
    /// List the nodes that the directory finds.
    Nodes(Nodes),
    /// Make a vault, or bring one back from its 24 words.
    Init(Init),
    /// Give the vault's file another passphrase.
    Passphrase(Passphrase),
    /// Store files or folders: as a new snapshot of a dataset, or without a vault.
    Put(Put),
    /// Read back what a link names; resumes, and skips files that are there already.
    Get(Get),
    /// List datasets, or what a dataset, snapshot or link holds, without fetching content.
    Ls(Ls),
    /// Write one file to standard output.
    Cat(Cat),
    /// Show segments, shards alive now and until when the nodes promised to keep them.
    Info(OneSource),
    /// Extend the leases of a dataset, or of an anonymous upload made from this machine.
    Renew(Renew),
    /// Take a path out of a dataset, or delete an anonymous upload made from this machine.
    Rm(Rm),
    /// Show how much lies in which folder, without fetching content.
    Du(Du),
    /// Find files by name, size or kind, without fetching content.
    Find(Find),
    /// Show the snapshots of a dataset.
    Log(OneSource),
    /// Show what differs between two snapshots.
    Diff(Diff),
    /// Give a snapshot a name.
    Tag(Tag),
    /// Drop snapshots that a policy does not keep; `gc` frees what only they needed.
    Forget(Forget),
    /// Free what no snapshot and no share needs, in two steps a week apart.
    Gc(Gc),
    /// Print a link that reads a dataset, a snapshot or a sub-folder, and nothing else.
    Share(Share),
    /// List the shares of a dataset.
    Shares(Shares),
    /// Stop publishing a share.
    Unshare(Unshare),
    /// Give a dataset new keys, so that old links read nothing that comes later.
    Rekey(Rekey),
    /// Ask every node of a dataset to prove what it should hold, or check transcripts of such audits.
    Audit(Audit),
    /// Print a link whose holder can audit, renew and repair a dataset, and never read it.
    StewardLink(StewardLink),
    /// Rebuild what nodes lost, and put it on other nodes.
    Repair(Repair),
    /// Look after stewards.
    #[command(subcommand)]
    Steward(Steward),
    /// Read back and check contents.
    Verify(Verify),
    /// Print the hash that names a snapshot's content in a paper.
    Root(OneSource),
    /// Check a folder on this machine against such a hash, offline.
    Check(Check),
    /// Say how likely loss is: computed from a stated model, and played.
    Durability(Durability),
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
