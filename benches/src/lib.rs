//! What `dolmen bench` measures with and shows: the floor that results are compared with, links made slow on purpose,
//! adapters to what people use today, what processes cost, rows and plots.
//!
//! Knows nothing of Dolmen's own members, so that the yardstick owes them nothing; the benchmarks of this package, which
//! are built on top of everything, are separate programs.

pub mod floor;
pub mod memory;
pub mod peers;
pub mod plot;
pub mod record;
pub mod shaper;
pub mod usage;
