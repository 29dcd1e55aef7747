//! What is in a snapshot, without restoring it: sizes, names, differences, hashes.
//!
//! Decides what each report says. Contents are read only to be verified, the rest comes from the manifest alone. Hands
//! findings on one by one, so that memory does not grow with the number of files.

mod check;
mod diff;
mod find;
mod root;
mod usage;
mod verify;

pub use check::{CheckReport, check_folder};
pub use diff::{ChangeKind, DiffEntry, DiffReport};
pub use find::FindOptions;
pub use root::RootReport;
pub use usage::UsageEntry;
pub use verify::{VerifyOptions, VerifyReport};
