//! What the integration tests share: the simulator's world and the tools that start real processes.

pub mod faulty_disk;
pub mod model;
pub mod network;
pub mod processes;
pub mod shards;
pub mod sim;
pub mod upkeep;
