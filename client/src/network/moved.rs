//! Telling a node that goes who holds its shards now.
//!
//! Decides nothing by what it answers but whether it has to be told again.

use dolmen_proto::ids::NodeId;
use dolmen_proto::wire::{ErrorCode, KeptReceipt, Reply, Request};

use super::{CallFault, Nodes};

impl Nodes {
    /// Shows a node the receipts of those who hold its shards now, at most
    /// [`MOVED_RECEIPTS_MAX`](dolmen_proto::limits::MOVED_RECEIPTS_MAX); gives what it says to each, in the same order.
    ///
    /// # Errors
    /// [`CallFault`].
    pub(crate) async fn show_moved(
        &self,
        node: NodeId,
        receipts: Vec<KeptReceipt>,
    ) -> Result<Vec<Result<(), ErrorCode>>, CallFault> {
        let shown = receipts.len();
        match self.ask(node, Request::Moved(receipts)).await? {
            Reply::Moved(codes) if codes.len() == shown => Ok(codes),
            _ => Err(CallFault::misbehaved(node, "it answered another call")),
        }
    }
}
