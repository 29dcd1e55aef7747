//! The storage node: keeps shards and heads on disks, serves them, and admits only what its operator allows.
//!
//! Never sees a key that opens content, never trusts a peer's word about a root, and never acknowledges what is
//! not on disk.

pub mod accounts;
pub mod admission;
pub mod clock;
pub mod config;
pub mod disk;
pub mod lease;
pub mod status;
pub mod store;
pub mod subnet;
