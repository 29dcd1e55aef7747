//! The simulator: the project's own machines on a virtual network, in virtual time, from a seed.
//!
//! Real here: the sessions, the transforms, the documents, the wire's codec, placement, and on every node service and store.
//! Simulated: time, the network, disks, and who fails or lies. Nothing here reads a clock, draws a random number or opens a
//! file, so a seed is a run. `docs/testing.md` says how to replay one.

pub mod clock;
pub mod documents;
pub mod driver;
pub mod heads;
pub mod liar;
pub mod network;
pub mod node;
pub mod owner;
pub mod reader;
pub mod scenario;
pub mod segments;
pub mod transfer;
pub mod watch;
pub mod world;

pub use scenario::{NODES_MIN, Report, run};
