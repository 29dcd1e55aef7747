//! What can be typed to measure.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use dolmen_proto::size::ByteSize;

/// `dolmen bench`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen bench\n  dolmen bench --suite throughput,reads,faults,links --out results\n  dolmen bench --size 256MiB --nodes 12 --rounds 5 --json\n\nEverything runs on this machine, interleaved in one run: raw quinn and TCP between as many processes, the floor (what the\nparts cost without storage logic), Dolmen, and peers. Trust the ratios: machines that are shared swing by a factor of two."
)]
pub struct Bench {
    /// How much the large file holds.
    #[arg(long, default_value = "1GiB")]
    pub size: ByteSize,
    /// How many node processes to start.
    #[arg(long, default_value_t = 24, value_parser = clap::value_parser!(u16).range(4..=200))]
    pub nodes: u16,
    /// How often everything is measured, after one round that warms up.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub rounds: u64,
    /// What to measure.
    #[arg(long, value_delimiter = ',', default_value = "throughput,reads")]
    pub suite: Vec<Suite>,
    /// Measure only the lines whose names hold this text, such as "40 ms" (suite links).
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub line: String,
    /// How many files of 20 KiB the small files are.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub small_files: u32,
    /// Where results.csv (one row a run, appended) and plots go; none are written if not given.
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Compare with copying to this folder, synced (suite peers).
    #[arg(long, value_name = "DIR")]
    pub copy_to: Option<PathBuf>,
    /// Compare with an S3 endpoint, path style, with keys from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (suite peers).
    #[arg(long, value_name = "URL")]
    pub s3: Option<String>,
    /// Compare with a pair of commands: this stores; {source} and {name} are filled in (suite peers).
    #[arg(long, value_name = "COMMAND", requires = "cmd_get")]
    pub cmd_put: Option<String>,
    /// The command that fetches; {name} and {target} are filled in.
    #[arg(long, value_name = "COMMAND", requires = "cmd_put")]
    pub cmd_get: Option<String>,
    /// The command that removes; {name} is filled in.
    #[arg(long, value_name = "COMMAND", requires = "cmd_put")]
    pub cmd_remove: Option<String>,
    /// What results call the pair of commands.
    #[arg(long, default_value = "command", value_name = "NAME")]
    pub cmd_name: String,
    /// Processes of the peer's servers, whose CPU time counts; once for each.
    #[arg(long, value_name = "PID")]
    pub peer_pid: Vec<u32>,
    /// Store and fetch the small files at the peers too.
    #[arg(long)]
    pub peer_small_files: bool,
    /// Where the network and the files lie while it runs; a new temporary folder if not given. Needs eight times --size.
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Suite {
    /// Put and get of one large file beside raw quinn, TCP and the floor.
    Throughput,
    /// The same for smaller files, down to 1 MiB.
    Sizes,
    /// Ranges at random places cold and warm, small files, listing; at 1, 4 and 16 readers.
    Reads,
    /// Reading with dead, slow and lying nodes.
    Faults,
    /// Put, get and ranges over slower lines, through a shaper.
    Links,
    /// The same file at what people use today: --copy-to, --s3, --cmd-put and --cmd-get.
    Peers,
}

/// `dolmen bench-receiver`: the other end of the floor.
#[derive(Debug, Args)]
pub struct BenchReceiver {
    /// The file to write what comes to.
    pub file: PathBuf,
    /// Largest datagram that is tried.
    #[arg(long, default_value_t = 65_000)]
    pub datagram_bytes: u16,
}
