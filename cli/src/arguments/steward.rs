//! What can be typed about stewards.

use clap::{Args, Subcommand};
use dolmen_proto::size::ByteSize;

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
