//! What both ends of Dolmen share of the network: the data plane, the directory and the driver of sessions.
//!
//! One Ed25519 key ([`Identity`]) stands for a node on both planes. The *data plane* moves bytes: QUIC on a UDP port of
//! its own, one bidirectional stream for each request ([`DataClient`], [`DataServer`]). The *directory* finds nodes.
//! [`driver::run`] runs the sessions of `dolmen-proto` over both.
//!
//! Threading: everything runs on the caller's tokio runtime. quinn has one task for each socket and one for each
//! connection, a server one more for each connection and each request; none of ours blocks a thread.
//!
//! Never seen here: keys other than the node's, plaintext, what a shard means.

mod client;
mod courtesy;
mod datagram;
pub mod directory;
pub mod driver;
mod endpoint;
mod identity;
mod options;
mod pool;
mod raw;
mod resumption;
mod server;
mod shares;
mod stream;
#[cfg(test)]
mod tests;
mod tls;
mod windows;

pub use client::{CallError, ClientError, DataClient, LocalFault, NodeAddress, Payload, PeerFault, Response};
pub use datagram::{PathClass, PathReport};
pub use endpoint::SocketReport;
pub use identity::{Identity, IdentityError};
pub use options::{DataPlaneOptions, OptionsError};
pub use raw::{RawConnectionError, raw_connection};
pub use server::{DataServer, Handler, Peer, Replier, ServerError, ServerReport};
pub use shares::{PEER_SHARE_DIVISOR, Share, Sharer, Shares};
pub use stream::{PayloadReader, PayloadWriter, StreamError, code};
pub use tls::TlsError;
