//! What travels between a client and a node: framing, requests, replies, signed statements, error numbers.
//!
//! Decides which bytes are a valid message and who may ask for what; a value of this module's types is within
//! every bound. Never touches a stream: `net` moves the bytes. The text is `docs/wire.md`, the prost messages
//! ([`crate::messages`]) are generated from `schema/dolmen.proto` and are used in this module alone.

pub mod audit;
pub mod error;
mod field;
pub mod frame;
mod kept;
pub mod lease;
pub mod receipt;
pub mod record;
pub mod reply;
pub mod request;
pub mod signed;
#[cfg(test)]
mod tests;

pub use audit::{
    BeaconRound, Challenge, Close, CloseStep, Proof, ProveReply, ProveRequest, Refusal, Reveal, RevealStep, Slot,
};
pub use error::{ErrorCode, WireError, WireFault};
pub use kept::{KeptReceipt, ReceiptClaim, ReceiptError};
pub use lease::{DeleteBody, GrantRights, LeaseTerms, ListBody, RenewBody, StewardGrant};
pub use receipt::{Receipt, RenewReceipt};
pub use record::{Accepting, NodeRecord, OperatorClaim, Successor};
pub use reply::{DescribeReply, GetReply, LeaseItem, ListReply, PutHeadReply, RenewReply, Reply, ShardStatus};
pub use request::{
    DeleteRequest, GetHeadRequest, GetRequest, ListRequest, PutHeadRequest, PutRequest, RenewRequest, Request,
};
pub use signed::{Signed, Statement};

/// The oldest version of the protocol that this release speaks.
pub const PROTOCOL_MIN: u32 = 1;
/// The newest version of the protocol that this release speaks, and the one that it writes.
pub const PROTOCOL_MAX: u32 = 1;
/// What the data plane's TLS names this protocol.
pub const ALPN: &[u8] = b"dolmen/1";
/// What the control plane names the protocol by which a peer's node record is asked for.
pub const RECORD_PROTOCOL: &str = "/dolmen/record/1";
/// The sealing and coding suites that this release knows.
pub const SUITES: &[u32] = &[1];
