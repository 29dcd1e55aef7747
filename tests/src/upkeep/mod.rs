//! A virtual network kept alive by stewards for months: what proofs, standing and repair achieve together.
//!
//! Real: sets and draws of challenges, standing, repair plans and queue, turns, placement. Simulated: time in hours, nodes and their faults, and
//! transfers (a source gives a shard or does not). What a node really holds is known here and to no steward.

pub mod dice;
pub mod node;
pub mod steward;
pub mod world;

pub use node::Kind;
pub use world::{Report, Scale, run};

use dolmen_proto::ids::Timestamp;

/// When the virtual world begins.
pub const START: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);
/// Blocks that a shard of content has, of 1 KiB each.
pub const CONTENT_BLOCKS: u32 = 1024;
/// Blocks that a shard of documents has.
pub const DOCUMENT_BLOCKS: u32 = 16;
/// Samples of one challenge.
pub const SAMPLES: u32 = 64;

/// A shard: its segment's place in the world and its index.
pub type Shard = (u32, u8);

/// A point in virtual time.
#[must_use]
pub fn at(hour: u32) -> Timestamp {
    Timestamp::from_unix_ms(START.as_unix_ms() + u64::from(hour) * 3_600_000)
}
