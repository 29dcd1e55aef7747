//! What can be typed about stewards.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use dolmen_proto::size::ByteSize;

use super::duration;

/// `dolmen steward-link`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dolmen steward-link photos --quota 500GB > steward.link     hand it to whoever keeps the dataset alive"
)]
pub struct StewardLink {
    /// DATASET.
    #[arg(value_name = "DATASET")]
    pub source: String,
    /// The most that the steward may put at each node in your name.
    #[arg(long, value_name = "SIZE", default_value = "1TB")]
    pub quota: ByteSize,
    /// How long what you grant lasts; every change of the dataset extends it once half of that is over.
    #[arg(long, value_name = "N", default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..=800))]
    pub days: u32,
}

/// `dolmen steward`
#[derive(Debug, Subcommand)]
pub enum Steward {
    /// List the stewards of a dataset.
    List(StewardList),
    /// Have readers believe a steward no more, and tell him nothing new.
    Revoke(StewardRevoke),
    /// Look after datasets until Ctrl-C: audit, probe, renew, repair.
    Run(StewardRun),
    /// Show what a steward found and did.
    Status(StewardStatus),
}

/// `dolmen steward run`
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  dolmen steward run --state /var/lib/dolmen-steward --bandwidth 50MB @photos.link @scans.link\n\nThe state folder keeps what is believed of nodes, transcripts of audits that were not passed, status.json, and\nmetrics for Prometheus (dolmen_steward.prom, for a textfile collector)."
)]
pub struct StewardRun {
    /// Steward links: LINK, or @FILE with a link in it.
    #[arg(required = true, value_name = "LINK")]
    pub links: Vec<String>,
    /// Where what must not be forgotten is kept.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
    /// How long from one round to the next.
    #[arg(long, default_value = "1h", value_parser = duration, value_name = "DURATION")]
    pub interval: Duration,
    /// What repairs may move in a second on average, such as 50MB or 50MB/s.
    #[arg(long, default_value = "50MB", value_parser = bandwidth, value_name = "SIZE")]
    pub bandwidth: ByteSize,
    /// Samples of every node in every round; by the rate if not given: 64 an hour for each TB, at least 8 a day.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    pub samples: Option<u32>,
    /// How long a silent node is waited for before what it holds counts as lost.
    #[arg(long, default_value = "24h", value_parser = duration, value_name = "DURATION")]
    pub grace: Duration,
    /// End after so many rounds.
    #[arg(long, value_name = "N")]
    pub rounds: Option<u64>,
}

/// `dolmen steward status`
#[derive(Debug, Args)]
pub struct StewardStatus {
    /// The state folder of the steward.
    #[arg(long, value_name = "DIR")]
    pub state: PathBuf,
}

/// `dolmen repair`
#[derive(Debug, Args)]
pub struct Repair {
    /// DATASET, or a steward link: LINK, @FILE or -.
    #[arg(value_name = "SOURCE")]
    pub source: String,
    /// What may be moved in a second on average, such as 50MB or 50MB/s.
    #[arg(long, default_value = "1GB", value_parser = bandwidth, value_name = "SIZE")]
    pub bandwidth: ByteSize,
}

/// A size, with or without "/s" behind it.
fn bandwidth(text: &str) -> Result<ByteSize, String> {
    let size: ByteSize = text.strip_suffix("/s").unwrap_or(text).parse().map_err(|error| format!("{error}"))?;
    if size.bytes() == 0 { Err("at least a byte a second".to_owned()) } else { Ok(size) }
}

/// `dolmen steward list`
#[derive(Debug, Args)]
pub struct StewardList {
    /// DATASET.
    #[arg(value_name = "DATASET")]
    pub source: String,
}

/// `dolmen steward revoke`
#[derive(Debug, Args)]
pub struct StewardRevoke {
    /// DATASET.
    #[arg(value_name = "DATASET")]
    pub source: String,
    /// The number of the steward; `dolmen steward list` shows it.
    pub number: u32,
}
