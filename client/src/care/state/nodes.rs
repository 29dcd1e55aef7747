//! What is believed of nodes: standing, presence, and when each is asked next.

use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::standing::Standing;
use redb::{ReadableDatabase, ReadableTable, TableDefinition};

use super::{CareState, NODE_KEY_BYTES, Tag, failed, node_key, number};
use crate::error::ClientError;

/// Node to its standing.
pub(super) const NODES: TableDefinition<'static, &'static [u8; 32], &'static [u8]> = TableDefinition::new("nodes 1");
/// Node to since when it is not reached, when it goes away, and until when it was last proven; each 0: not.
pub(super) const CONTACTS: TableDefinition<'static, &'static [u8; 32], &'static [u8; 24]> =
    TableDefinition::new("contacts 1");
/// (dataset, node) to when it is asked next for samples, for documents and by a probe.
pub(super) const DUE: TableDefinition<'static, &'static [u8; NODE_KEY_BYTES], &'static [u8; 24]> =
    TableDefinition::new("due 1");

/// What a node's presence is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::care) struct Contact {
    pub(in crate::care) absent_since_ms: u64,
    pub(in crate::care) leaving_until_ms: u64,
    pub(in crate::care) proven_at_ms: u64,
}

/// When a node of a dataset is asked next, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::care) struct Due {
    pub(in crate::care) samples_ms: u64,
    pub(in crate::care) documents_ms: u64,
    pub(in crate::care) probe_ms: u64,
}

fn three(numbers: [u64; 3]) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (place, number) in bytes.chunks_exact_mut(8).zip(numbers) {
        place.copy_from_slice(&number.to_le_bytes());
    }
    bytes
}

impl CareState {
    /// A node's standing; a new one where nothing is known, or what is known is damaged.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn standing(&self, node: &NodeId, now: Timestamp) -> Result<Standing, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(NODES).map_err(failed)?;
        let known = table.get(node.as_bytes()).map_err(failed)?;
        Ok(known.and_then(|bytes| Standing::parse(bytes.value()).ok()).unwrap_or_else(|| Standing::new(now)))
    }

    /// All standings.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn standings(&self) -> Result<Vec<(NodeId, Standing)>, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(NODES).map_err(failed)?;
        let mut standings = Vec::new();
        for entry in table.iter().map_err(failed)? {
            let (node, bytes) = entry.map_err(failed)?;
            if let Ok(standing) = Standing::parse(bytes.value()) {
                standings.push((NodeId::new(*node.value()), standing));
            }
        }
        Ok(standings)
    }

    /// Keeps a node's standing and presence.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn keep_node(
        &self,
        node: &NodeId,
        standing: &Standing,
        contact: Contact,
    ) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let bytes = standing.to_bytes();
            write.open_table(NODES).map_err(failed)?.insert(node.as_bytes(), bytes.as_slice()).map_err(failed)?;
            let contact = three([contact.absent_since_ms, contact.leaving_until_ms, contact.proven_at_ms]);
            write.open_table(CONTACTS).map_err(failed)?.insert(node.as_bytes(), &contact).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }

    /// A node's presence.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn contact(&self, node: &NodeId) -> Result<Contact, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(CONTACTS).map_err(failed)?;
        let Some(bytes) = table.get(node.as_bytes()).map_err(failed)? else { return Ok(Contact::default()) };
        let bytes = bytes.value();
        Ok(Contact {
            absent_since_ms: number(&bytes[..8]),
            leaving_until_ms: number(&bytes[8..16]),
            proven_at_ms: number(&bytes[16..]),
        })
    }

    /// When a node is asked next.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn due(&self, tag: &Tag, node: &NodeId) -> Result<Due, ClientError> {
        let read = self.database.begin_read().map_err(failed)?;
        let table = read.open_table(DUE).map_err(failed)?;
        let Some(bytes) = table.get(&node_key(tag, node.as_bytes())).map_err(failed)? else {
            return Ok(Due::default());
        };
        let bytes = bytes.value();
        Ok(Due { samples_ms: number(&bytes[..8]), documents_ms: number(&bytes[8..16]), probe_ms: number(&bytes[16..]) })
    }

    /// Says when a node is asked next.
    ///
    /// # Errors
    /// `Local`.
    pub(in crate::care) fn set_due(&self, tag: &Tag, node: &NodeId, due: Due) -> Result<(), ClientError> {
        let write = self.database.begin_write().map_err(failed)?;
        {
            let bytes = three([due.samples_ms, due.documents_ms, due.probe_ms]);
            let mut table = write.open_table(DUE).map_err(failed)?;
            table.insert(&node_key(tag, node.as_bytes()), &bytes).map_err(failed)?;
        }
        write.commit().map_err(failed)
    }
}
