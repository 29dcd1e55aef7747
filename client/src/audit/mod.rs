//! Auditing nodes: asking them to show what they hold, and keeping what both sides signed.
//!
//! Decides whom to ask for how much when somebody audits by hand. Never decides what an answer is worth: that is
//! `dolmen_proto::audit`'s; nor what follows for a node: that is its standing's business.

mod by_hand;
mod exchange;
mod probe;
mod sets;
mod transcripts;

pub(crate) use by_hand::audit;
pub use by_hand::{AuditOptions, AuditReport, AuditedNode};
pub(crate) use exchange::{Asked, Audited, Auditor, Closed};
pub(crate) use probe::probe;
pub(crate) use sets::{ReceiptSource, SetSource, Shards, prune, top_of};
pub(crate) use transcripts::TranscriptFolder;
pub use transcripts::{TranscriptView, check_transcript};
