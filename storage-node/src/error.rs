//! Why a node cannot run.

use std::io;

use dolmen_net::directory::DirectoryError;
use dolmen_net::{ClientError, IdentityError, ServerError};
use dolmen_proto::ids::NodeId;

use crate::folders::FolderError;
use crate::store::StoreError;

/// Why a node cannot run. Always the operator's or this machine's to mend.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The node's key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The operator's claim in node.toml is not over this node's key.
    #[error(
        "the operator's signature in node.toml is not over this node's key {node}\nhave the operator sign that key"
    )]
    OperatorClaim {
        /// The node's id.
        node: NodeId,
    },
    /// A bootstrap address cannot be parsed.
    #[error("`bootstrap`: {address:?} is not a multiaddress such as /ip4/203.0.113.7/udp/4712/quic-v1: {reason}")]
    Bootstrap {
        /// The address.
        address: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The data plane cannot be started.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The node cannot call other nodes.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The directory cannot be started.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A data folder cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refuses something basic.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}
