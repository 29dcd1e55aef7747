//! The base table of a dataset: its live segments, the roots of their shards and where the shards lie.
//!
//! Decides how the table is written and looked up in. Never decides where a shard goes or whether a segment is still
//! needed. A table of few rows is one blob; a larger one has its rows in a tree, of which a reader loads one path.

mod forward;
mod leaving;
mod node;
mod receipt;
mod root;
mod row;

pub use forward::{ForwardKey, ForwardRow};
pub use leaving::LeavingRow;
pub use node::NodeEntry;
pub use receipt::{ReceiptKey, StoredReceipt};
pub use root::{RowListBuilder, Rows, TableRoot};
pub use row::{RowKind, SegmentRow};

pub(crate) use row::{read_geometry, write_geometry};

/// One blob of a table's row tree: rows, or children by their first segment id.
pub type RowBlob = crate::tree::Node<SegmentRow>;
/// One blob of a table's tree of forwarding rows.
pub type ForwardBlob = crate::tree::Node<ForwardRow>;
/// One blob of a table's tree of leaving segments.
pub type LeavingBlob = crate::tree::Node<LeavingRow>;
/// One blob of a table's receipt tree.
pub type ReceiptBlob = crate::tree::Node<StoredReceipt>;

#[cfg(test)]
mod tests;
