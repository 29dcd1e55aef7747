//! Keeping datasets alive through steward links: audits, probes, renewals and repairs, once or for good.
//!
//! Decides when what is done, and keeps on disk what it must not forget. What an answer is worth, what a node's standing is and
//! what is to be repaired are `dolmen-proto`'s rules; how a steward reaches a dataset is [`crate::steward`]'s. Never opens
//! content, and cannot.

mod audits;
mod dataset;
mod leases;
mod load;
mod look;
mod mend;
mod moved;
mod receipts;
mod report;
mod run;
mod set;
mod state;

pub use load::CareLoad;
pub use report::{DatasetCare, NodeCare, RepairReport, StewardStatus};
pub use run::{StewardOptions, StewardRun};

pub(crate) use run::repair_once;
