//! What can be typed to ask how likely loss is.

use clap::Args;
use dolmen_proto::policy::Policy;

/// `dolmen durability`
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  dolmen durability\n  dolmen durability --policy 7/16 --node-failure-rate 0.5 --repair-hours 72\n  dolmen durability --policy 4/8 --regions 1 --region-failure-rate 0.01   (everything in one building)"
)]
pub struct Durability {
    /// Shards needed and made of every segment.
    #[arg(long, default_value = "16/40", value_name = "K/N")]
    pub policy: Policy,
    /// How often a node is lost for good, a year.
    #[arg(long, default_value_t = 0.25, value_name = "R")]
    pub node_failure_rate: f64,
    /// Mean hours from the loss that makes a repair due to its end: 24 of grace, and a day to do it.
    #[arg(long, default_value_t = 48.0, value_name = "H")]
    pub repair_hours: f64,
    /// How many operators the shards are spread over; 0 for none that fail as a whole.
    #[arg(long, default_value_t = 20, value_name = "N")]
    pub operators: u32,
    /// How often an operator is lost with all nodes, a year.
    #[arg(long, default_value_t = 0.02, value_name = "R")]
    pub operator_failure_rate: f64,
    /// How many regions the shards are spread over; 0 for none that fail as a whole.
    #[arg(long, default_value_t = 8, value_name = "N")]
    pub regions: u32,
    /// How often a region is lost with all nodes, a year.
    #[arg(long, default_value_t = 0.002, value_name = "R")]
    pub region_failure_rate: f64,
    /// Over how many years.
    #[arg(long, default_value_t = 1.0)]
    pub years: f64,
    /// How many segments the dataset has, such as 30000 for 1 TB in segments of 32 MiB.
    #[arg(long, default_value_t = 30_000)]
    pub segments: u64,
    /// How often the model is played.
    #[arg(long, default_value_t = 100_000)]
    pub trials: u64,
    /// The seed of the dice.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}
