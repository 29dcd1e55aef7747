//! The storage node: keeps shards and heads on disks, serves them, and admits only what its operator allows.
//!
//! Never sees a key that opens content, never trusts a peer's word about a root, and never acknowledges what is
//! not on disk.

pub mod accounts;
pub mod admission;
mod announce;
pub mod audits;
pub mod bandwidth;
mod claims;
pub mod clock;
pub mod config;
pub mod disk;
mod error;
pub mod folders;
mod keeper;
pub mod lease;
pub mod leaving;
pub mod node;
pub mod piece;
pub mod serve;
pub mod service;
pub mod status;
pub mod store;
pub mod subnet;
mod tasks;

pub use config::{InitOptions, NodeConfig};
pub use error::NodeError;
pub use node::{Node, run};
pub use status::NodeStatus;
