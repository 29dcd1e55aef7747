//! What the benchmarks share: the floor that results are compared with, and loads.

pub mod floor;
