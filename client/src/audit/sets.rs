//! The shards that an auditor knows a node to hold, in the order of the set.

use std::sync::Arc;

use dolmen_proto::audit::{Draw, Drawn, SetBuilder, SetShard, SetTop, prune_set};
use dolmen_proto::ids::NodeId;
use dolmen_proto::wire::KeptReceipt;
use std::collections::BTreeMap;

use crate::error::ClientError;

/// The shards of a set, ascending by root, as often as they are asked for.
pub(crate) type Shards<'a> = Box<dyn Iterator<Item = Result<SetShard, ClientError>> + 'a>;

/// Where a set comes from: it is passed over twice, and never has to be in memory.
pub(crate) trait SetSource: Send + Sync + 'static {
    /// All shards, ascending by root, none twice.
    ///
    /// # Errors
    /// What the source says, also in the middle.
    fn shards(&self) -> Result<Shards<'_>, ClientError>;
}

/// Where the receipts are that "not held" is held against.
pub(crate) trait ReceiptSource: Send + Sync + 'static {
    /// Receipts of a node that may name these shards; others do no harm.
    ///
    /// # Errors
    /// What the source says.
    fn receipts(&self, node: &NodeId, shards: &[SetShard]) -> Result<Vec<KeptReceipt>, ClientError>;
}

/// Of somebody who has none.
pub(crate) struct NoReceipts;

impl ReceiptSource for NoReceipts {
    fn receipts(&self, _: &NodeId, _: &[SetShard]) -> Result<Vec<KeptReceipt>, ClientError> {
        Ok(Vec::new())
    }
}

impl SetSource for Vec<SetShard> {
    fn shards(&self) -> Result<Shards<'_>, ClientError> {
        Ok(Box::new(self.iter().map(|shard| Ok(*shard))))
    }
}

/// What commits to a set; `None` for an empty one.
///
/// # Errors
/// What the source says.
pub(crate) fn top_of(source: &dyn SetSource) -> Result<Option<SetTop>, ClientError> {
    let mut builder = SetBuilder::new();
    let mut any = false;
    for shard in source.shards()? {
        builder.push(&shard?)?;
        any = true;
    }
    if any { Ok(Some(builder.finish()?)) } else { Ok(None) }
}

/// The part of a set that a draw touches.
///
/// # Errors
/// What the source says.
pub(crate) fn prune(source: &dyn SetSource, top: &SetTop, draw: &Draw) -> Result<(Vec<u8>, Vec<Drawn>), ClientError> {
    prune_set(top, draw, &mut source.shards()?)
}

/// What one node holds of a dataset.
#[derive(Debug, Clone, Default)]
pub(crate) struct NodeShards {
    /// All shards, ascending by root.
    pub(crate) all: Arc<Vec<SetShard>>,
    /// Those of documents, ascending by root.
    pub(crate) documents: Arc<Vec<SetShard>>,
}

impl SetSource for Arc<Vec<SetShard>> {
    fn shards(&self) -> Result<Shards<'_>, ClientError> {
        self.as_ref().shards()
    }
}

/// Collects shards by node, in memory: for an audit by hand.
#[derive(Debug, Default)]
pub(crate) struct ByNodeBuilder(BTreeMap<NodeId, BTreeMap<SetShard, bool>>);

impl ByNodeBuilder {
    /// Adds a shard of a node.
    pub(crate) fn add(&mut self, node: NodeId, shard: SetShard, document: bool) {
        *self.0.entry(node).or_default().entry(shard).or_default() |= document;
    }

    pub(crate) fn finish(self) -> BTreeMap<NodeId, NodeShards> {
        let shards = |of: BTreeMap<SetShard, bool>| {
            let documents = of.iter().filter(|(_, document)| **document).map(|(shard, _)| *shard).collect();
            NodeShards { all: Arc::new(of.into_keys().collect()), documents: Arc::new(documents) }
        };
        self.0.into_iter().map(|(node, of)| (node, shards(of))).collect()
    }
}
