//! What the integration tests share: the simulator's world and the tools that start real processes.

pub mod processes;
pub mod shards;
