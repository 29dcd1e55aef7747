//! The shards of a node out of the database, as an audit passes over them.

use dolmen_proto::ids::NodeId;

use super::state::{CareState, Tag};
use crate::audit::{SetSource, Shards};
use crate::error::ClientError;

/// What one node should hold of a dataset, but for what it has signed not to.
pub(super) struct DiskSet {
    pub(super) state: CareState,
    pub(super) tag: Tag,
    pub(super) node: NodeId,
}

impl SetSource for DiskSet {
    fn shards(&self) -> Result<Shards<'_>, ClientError> {
        let shards = self.state.held_of(&self.tag, &self.node)?;
        Ok(Box::new(shards.map(|known| known.map(|known| known.shard))))
    }
}
