//! What nodes that live in memory say of themselves: those of this crate's tests and those of the feature `mock`.
//!
//! Decides nothing: an honest node with room, that takes shards from everybody.

use std::net::SocketAddr;
use std::time::Duration;

use dolmen_proto::audit::AuditClass;
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::limits::SHARD_MAX_BYTES;
use dolmen_proto::wire::{Accepting, DescribeReply, NodeRecord};

const SOFTWARE: &str = "memory/0";
/// About 1 TB is free.
const FREE_CLASS: u8 = 40;

/// The record of a node, as the directory would give it.
pub(crate) fn record(node: NodeId, now: Timestamp) -> NodeRecord {
    NodeRecord {
        node,
        sequence: 1,
        control_addresses: Vec::new(),
        data_addresses: vec![SocketAddr::from(([127, 0, 0, 1], 1))],
        operator: None,
        region: None,
        accepting: Accepting::All,
        free_class: FREE_CLASS,
        protocol_min: 1,
        protocol_max: 1,
        software: SOFTWARE.to_owned(),
        issued_at: now,
        expires_at: now.after(Duration::from_secs(600)),
        successor: None,
    }
}

/// What a node whose clock says `now` answers to `Describe`. It takes no audits.
pub(crate) fn description(now: Timestamp) -> DescribeReply {
    DescribeReply {
        protocol_min: 1,
        protocol_max: 1,
        software: SOFTWARE.to_owned(),
        suites: vec![1],
        now,
        shard_max_bytes: SHARD_MAX_BYTES as u64,
        lease_max_ms: u64::MAX,
        free_class: FREE_CLASS,
        accepting: Accepting::All,
        record: None,
        audit_samples_per_hour: 0,
        audit_class: AuditClass::SolidState,
        leaving_until: None,
    }
}
