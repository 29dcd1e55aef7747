//! The rules of Dolmen without any IO: every type, format, limit and decision.
//!
//! Nothing in this crate opens a file or a socket, reads a clock or draws a random number; times and seeds are
//! passed in. `clippy.toml` beside this crate and `tests/tidy.rs` hold it to that.

pub mod attempt;
pub mod audit;
pub mod chunk;
pub mod codec;
pub mod collect;
pub mod dataset_root;
pub mod download;
pub mod durability;
pub mod erasure;
pub mod goodput;
pub mod grant;
pub mod head;
pub mod heads;
pub mod history;
pub mod ids;
pub mod keys;
pub mod ledger;
pub mod limits;
pub mod link;
pub mod manifest;
pub mod mask;
pub mod overlay;
pub mod pace;
pub mod pack;
pub mod placement;
pub mod policy;
pub mod region;
pub mod repair;
pub mod root;
pub mod seal;
mod secret;
pub mod segment;
pub mod session;
pub mod sign;
pub mod size;
pub mod standing;
pub mod table;
pub mod tree;
pub mod upload;
#[cfg(test)]
mod virtual_driver;
pub mod wire;

/// The wire's messages as prost generates them from `schema/dolmen.proto`; use [`wire`](crate) types at the borders.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod messages {
    include!(concat!(env!("OUT_DIR"), "/dolmen.v1.rs"));
}
