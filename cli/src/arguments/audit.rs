//! What can be typed to audit.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `dolmen audit`
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "Examples:\n  dolmen audit photos --transcripts /tmp/evidence\n  dolmen audit verify /tmp/evidence/*.transcript"
)]
pub struct Audit {
    /// Check transcripts, offline.
    #[command(subcommand)]
    pub command: Option<AuditCommand>,
    /// DATASET, LINK (to read, or a steward's), @FILE or -: every node that should hold something of it is asked.
    #[arg(value_name = "SOURCE", required = true)]
    pub source: Option<String>,
    /// Blocks that each node has to show, beside one of every document shard.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024), value_name = "N")]
    pub samples: u32,
    /// Keep what both sides signed in this folder.
    #[arg(long, value_name = "DIR")]
    pub transcripts: Option<PathBuf>,
}

/// `dolmen audit verify`
#[derive(Debug, Subcommand)]
pub enum AuditCommand {
    /// Check transcripts, offline: what was proven, with what confidence, and whom one must trust for the draw.
    Verify {
        /// Files of transcripts.
        #[arg(required = true, value_name = "FILE")]
        files: Vec<PathBuf>,
    },
}
