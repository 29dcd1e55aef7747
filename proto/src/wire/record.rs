//! The node record: a node's signed statement of itself, the only thing in the directory.
//!
//! Decides what a record says, when it is believed and which of two is newer. Never decides where records are
//! kept or asked for: `net` speaks [`super::RECORD_PROTOCOL`] with the framing given here.

use core::net::SocketAddr;

use bytes::Bytes;
use ed25519_dalek::SigningKey;

use super::error::{ErrorCode, WireError};
use super::field;
use super::signed::{Signed, Statement};
use crate::ids::{NodeId, OperatorId, Timestamp};
use crate::limits::{
    CLOCK_SKEW_MAX, NODE_ADDRESSES_MAX, NODE_RECORD_LIFE_MAX, NODE_RECORD_MAX_BYTES, NODE_TEXT_MAX_BYTES,
};
use crate::messages;
use crate::region::Region;
use crate::sign::{self, SIGNATURE_BYTES, SignatureKind};

/// The version of the node record's format that this release writes and reads.
const RECORD_VERSION: u32 = 1;

/// The one message that [`super::RECORD_PROTOCOL`] is asked with: its version.
pub const RECORD_REQUEST: [u8; 1] = [1];

/// What a node takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accepting {
    /// New shards and renewals.
    All,
    /// Renewals only.
    RenewOnly,
    /// Neither; also what a word of a newer release is taken for.
    None,
}

impl Accepting {
    pub(super) const fn to_message(self) -> messages::Accepting {
        match self {
            Self::All => messages::Accepting::All,
            Self::RenewOnly => messages::Accepting::RenewOnly,
            Self::None => messages::Accepting::None,
        }
    }

    pub(super) const fn from_message(message: messages::Accepting) -> Self {
        match message {
            messages::Accepting::All => Self::All,
            messages::Accepting::RenewOnly => Self::RenewOnly,
            messages::Accepting::None | messages::Accepting::Unspecified => Self::None,
        }
    }
}

/// An operator's claim of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorClaim {
    /// The operator.
    pub operator: OperatorId,
    /// The operator's signature over the node's key.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl OperatorClaim {
    /// An operator claims a node.
    #[must_use]
    pub fn sign(operator: &SigningKey, node: &NodeId) -> Self {
        Self {
            operator: OperatorId::new(operator.verifying_key().to_bytes()),
            signature: sign::sign(SignatureKind::Operator, operator, node.as_bytes()),
        }
    }
}

/// The key that a node is going to use next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// The next key.
    pub node: NodeId,
    /// The next key's own signature over the present one.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Successor {
    /// The next key agrees to succeed `node`.
    #[must_use]
    pub fn sign(next: &SigningKey, node: &NodeId) -> Self {
        Self {
            node: NodeId::new(next.verifying_key().to_bytes()),
            signature: sign::sign(SignatureKind::Successor, next, node.as_bytes()),
        }
    }
}

/// A node's statement of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeRecord {
    /// The node, which signs.
    pub node: NodeId,
    /// Higher is newer.
    pub sequence: u64,
    /// Multiaddrs of the control plane: 0 to [`NODE_ADDRESSES_MAX`], printable, starting with `/`, not parsed here.
    pub control_addresses: Vec<String>,
    /// Addresses of the data plane: 0 to [`NODE_ADDRESSES_MAX`].
    pub data_addresses: Vec<SocketAddr>,
    /// Who runs it, if anybody says so.
    pub operator: Option<OperatorClaim>,
    /// Where it says that it stands.
    pub region: Option<Region>,
    /// What it takes.
    pub accepting: Accepting,
    /// Base-2 logarithm of its free bytes, rounded down.
    pub free_class: u8,
    /// Oldest protocol version spoken.
    pub protocol_min: u32,
    /// Newest protocol version spoken.
    pub protocol_max: u32,
    /// Name and version of the software: printable ASCII.
    pub software: String,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// When it is no longer believed; at most [`NODE_RECORD_LIFE_MAX`] later.
    pub expires_at: Timestamp,
    /// The key that it will use next.
    pub successor: Option<Successor>,
}

impl NodeRecord {
    /// Whether this record is to be taken in place of `other` of the same node.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        self.node == other.node && self.sequence > other.sequence
    }

    /// Who runs the node, if anybody says so.
    #[must_use]
    pub fn operator_id(&self) -> Option<OperatorId> {
        self.operator.as_ref().map(|claim| claim.operator)
    }

    /// Whether the node speaks a protocol version that this release speaks.
    #[must_use]
    pub const fn speaks_our_protocol(&self) -> bool {
        self.protocol_min <= super::PROTOCOL_MAX && self.protocol_max >= super::PROTOCOL_MIN
    }
}

impl Signed<NodeRecord> {
    /// Believes the record at `now`: the node signed it, it is in force, operator and successor signed what it says.
    ///
    /// # Errors
    /// The node's fault: [`ErrorCode::Unauthorised`] for a signature, [`ErrorCode::Expired`], [`ErrorCode::ClockSkew`]
    /// for one from the future, [`ErrorCode::Malformed`] for a life longer than [`NODE_RECORD_LIFE_MAX`].
    pub fn verify(&self, now: Timestamp) -> Result<&NodeRecord, WireError> {
        let record = self.claimed();
        let life = record.expires_at.since(record.issued_at);
        if life.is_zero() || life > NODE_RECORD_LIFE_MAX {
            return Err(WireError::malformed("a node record lives for at most an hour"));
        }
        if record.issued_at > now.after(CLOCK_SKEW_MAX) {
            return Err(WireError::new(ErrorCode::ClockSkew, "the node record comes from the future"));
        }
        if record.expires_at.after(CLOCK_SKEW_MAX) <= now {
            return Err(WireError::new(ErrorCode::Expired, "the node record has expired"));
        }
        let key = record.node.as_bytes();
        self.signed_by(key)?;
        if let Some(OperatorClaim { operator, signature }) = &record.operator {
            sign::verify(SignatureKind::Operator, operator.as_bytes(), key, signature)
                .map_err(|error| WireError::new(ErrorCode::Unauthorised, format!("the operator's claim: {error}")))?;
        }
        if let Some(Successor { node, signature }) = &record.successor {
            sign::verify(SignatureKind::Successor, node.as_bytes(), key, signature)
                .map_err(|error| WireError::new(ErrorCode::Unauthorised, format!("the successor's key: {error}")))?;
        }
        Ok(record)
    }
}

impl Statement for NodeRecord {
    const KIND: SignatureKind = SignatureKind::NodeRecord;
    const BODY_MAX_BYTES: usize = NODE_RECORD_MAX_BYTES - SIGNATURE_BYTES - 16;
    type Message = messages::NodeRecord;

    fn to_message(&self) -> messages::NodeRecord {
        let (operator, operator_signature) = self.operator.as_ref().map_or_else(Default::default, |claim| {
            (field::from32(claim.operator.as_bytes()), Bytes::copy_from_slice(&claim.signature))
        });
        let (successor, successor_signature) = self.successor.as_ref().map_or_else(Default::default, |successor| {
            (field::from32(successor.node.as_bytes()), Bytes::copy_from_slice(&successor.signature))
        });
        messages::NodeRecord {
            version: RECORD_VERSION,
            node: field::from32(self.node.as_bytes()),
            sequence: self.sequence,
            control_addresses: self.control_addresses.clone(),
            data_addresses: self.data_addresses.iter().map(ToString::to_string).collect(),
            operator,
            operator_signature,
            region: self.region.as_ref().map(ToString::to_string).unwrap_or_default(),
            accepting: self.accepting.to_message().into(),
            free_class: u32::from(self.free_class),
            protocol_min: self.protocol_min,
            protocol_max: self.protocol_max,
            software: self.software.clone(),
            issued_at_ms: self.issued_at.as_unix_ms(),
            expires_at_ms: self.expires_at.as_unix_ms(),
            successor,
            successor_signature,
            needs: 0,
        }
    }

    fn from_message(message: messages::NodeRecord) -> Result<Self, WireError> {
        if message.version != RECORD_VERSION {
            let text = format!("a node record of version {}", message.version);
            return Err(WireError::new(ErrorCode::VersionNotSupported, text));
        }
        if message.protocol_min == 0 || message.protocol_min > message.protocol_max {
            return Err(WireError::malformed("the protocol versions are no range"));
        }
        field::text("the software's name", &message.software, NODE_TEXT_MAX_BYTES)?;
        field::count("control addresses", message.control_addresses.len(), NODE_ADDRESSES_MAX)?;
        field::count("data addresses", message.data_addresses.len(), NODE_ADDRESSES_MAX)?;
        for address in &message.control_addresses {
            field::text("a control address", address, NODE_TEXT_MAX_BYTES)?;
            if !address.starts_with('/') {
                return Err(WireError::malformed("a control address does not start with '/'"));
            }
        }
        let data_addresses = message.data_addresses.iter().map(|address| data_address(address));
        let accepting = Accepting::from_message(message.accepting());
        Ok(Self {
            node: NodeId::new(field::bytes32("a record's node", &message.node)?),
            sequence: message.sequence,
            data_addresses: data_addresses.collect::<Result<_, _>>()?,
            operator: optional_claim("operator", &message.operator, &message.operator_signature)?
                .map(|(key, signature)| OperatorClaim { operator: OperatorId::new(key), signature }),
            region: match message.region.as_str() {
                "" => None,
                text => Some(text.parse().map_err(|_| WireError::malformed("the region is none"))?),
            },
            accepting,
            free_class: field::free_class(message.free_class)?,
            protocol_min: message.protocol_min,
            protocol_max: message.protocol_max,
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
            expires_at: Timestamp::from_unix_ms(message.expires_at_ms),
            successor: optional_claim("successor", &message.successor, &message.successor_signature)?
                .map(|(key, signature)| Successor { node: NodeId::new(key), signature }),
            control_addresses: message.control_addresses,
            software: message.software,
        })
    }

    fn needs(message: &messages::NodeRecord) -> u64 {
        message.needs
    }
}

fn data_address(text: &str) -> Result<SocketAddr, WireError> {
    field::text("a data address", text, NODE_TEXT_MAX_BYTES)?;
    text.parse().map_err(|_| WireError::malformed("a data address is not an IP address and a port"))
}

type Claim = ([u8; 32], [u8; SIGNATURE_BYTES]);

fn optional_claim(what: &str, key: &[u8], signature: &[u8]) -> Result<Option<Claim>, WireError> {
    if key.is_empty() && signature.is_empty() {
        return Ok(None);
    }
    Ok(Some((field::bytes32(what, key)?, field::signature(what, signature)?)))
}

/// Reads a record from a reply of [`super::RECORD_PROTOCOL`] or a cache.
///
/// # Errors
/// The writer's fault.
pub fn decode_record(bytes: Bytes) -> Result<Signed<NodeRecord>, WireError> {
    Signed::decode(bytes)
}

const _: () = assert!(Signed::<NodeRecord>::encoded_max_bytes() == NODE_RECORD_MAX_BYTES);
