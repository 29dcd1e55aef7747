//! Files to segments to shards on nodes, and back.
//!
//! [`Client`] puts folders and files as anonymous uploads, reads them through links, and looks after their leases. A
//! [`vault::Vault`] has datasets that an owner names, changes, shares and brings back from words.
//! All rules of format, placement and sessions are `dolmen-proto`'s, all sockets `dolmen-net`'s; here are the
//! pipelines that own threads, files and the memory bound. Nothing here prints but a prompt for
//! a passphrase, and nothing here trusts a node.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::cast_possible_truncation))]

pub mod config;
pub mod error;
#[cfg(feature = "mock")]
pub mod mock;
pub mod options;
pub mod progress;
pub mod report;
pub mod vault;

mod audit;
mod budget;
mod care;
mod client;
mod collect;
mod commit;
mod cores;
mod file;
mod get;
mod glob;
mod heads;
mod info;
mod inspect;
mod lease;
mod listing;
mod network;
mod put;
mod read;
mod snapshot;
mod state;
#[allow(dead_code, unused_imports, reason = "what audits and repairs with it comes with a release of its own")]
mod steward;
#[cfg(test)]
mod tests;

pub use audit::{AuditOptions, AuditReport, AuditedNode, TranscriptView, check_transcript};
pub use care::{CareLoad, DatasetCare, NodeCare, RepairReport, StewardOptions, StewardRun, StewardStatus};
pub use client::Client;
pub use config::{ClientConfig, ConfigError, PolicyChoice};
pub use dolmen_net::PathReport;
pub use error::{ClientError, ErrorKind};
pub use file::File;
pub use inspect::{
    ChangeKind, CheckReport, DiffEntry, DiffReport, FindOptions, RootReport, UsageEntry, VerifyOptions, VerifyReport,
    check_folder,
};
pub use listing::Listing;
pub use options::{Compression, Destination, GetOptions, PutOptions};
pub use progress::{Progress, ProgressEvent, ProgressSink, Stage};
pub use report::{
    EntryKind, FailedFile, GcReport, GetReport, InfoReport, ListedEntry, LogEntry, NodeView, PutEstimate, PutReport,
    RemoveReport, RenewReport, ResealReport, SavedConflict,
};
pub use snapshot::Snapshot;
