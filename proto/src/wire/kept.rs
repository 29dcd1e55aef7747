//! Receipts as auditors, overlays and transcripts keep them: of a put or of a renewal, as they were received.
//!
//! Decides how a kept receipt is written and which shards it stands for. Never decides who keeps one.

use bytes::Bytes;

use super::error::WireError;
use super::receipt::{Receipt, RenewReceipt};
use super::signed::Signed;
use crate::ids::{NodeId, ShardRoot, Timestamp};

const OF_PUT: u8 = 1;
const OF_RENEWAL: u8 = 2;

/// A node's signed statement that it holds a shard until a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptReceipt {
    /// Of a put: one shard.
    Put(Signed<Receipt>),
    /// Of a renewal: many.
    Renewal(Signed<RenewReceipt>),
}

impl KeptReceipt {
    /// The node that is said to have signed.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Put(receipt) => receipt.claimed().node,
            Self::Renewal(receipt) => receipt.claimed().node,
        }
    }

    /// Up to when the node holds what is named.
    #[must_use]
    pub const fn until(&self) -> Timestamp {
        match self {
            Self::Put(receipt) => receipt.claimed().until,
            Self::Renewal(receipt) => receipt.claimed().until,
        }
    }

    /// Whether it says that the node holds this shard at `now`; the signature is not looked at.
    #[must_use]
    pub fn claims(&self, root: &ShardRoot, length_bytes: u32, now: Timestamp) -> bool {
        let length_bytes = u64::from(length_bytes);
        let named = match self {
            Self::Put(receipt) => {
                let receipt = receipt.claimed();
                receipt.issued_at <= now && receipt.root == *root && receipt.length_bytes == length_bytes
            }
            Self::Renewal(receipt) => {
                let receipt = receipt.claimed();
                receipt.issued_at <= now && receipt.shards.contains(&(*root, length_bytes))
            }
        };
        named && now < self.until()
    }

    /// The shards with their lengths that it says the node holds at `now`; the signature is not looked at.
    pub fn claimed_at(&self, now: Timestamp) -> impl Iterator<Item = (ShardRoot, u64)> + '_ {
        let (one, many, from) = match self {
            Self::Put(receipt) => {
                let receipt = receipt.claimed();
                (Some((receipt.root, receipt.length_bytes)), None, receipt.issued_at)
            }
            Self::Renewal(receipt) => {
                (None, Some(receipt.claimed().shards.iter().copied()), receipt.claimed().issued_at)
            }
        };
        let counts = from <= now && now < self.until();
        one.into_iter().chain(many.into_iter().flatten()).filter(move |_| counts)
    }

    /// Whether the named node signed it.
    ///
    /// # Errors
    /// [`super::ErrorCode::Unauthorised`].
    pub fn verify(&self) -> Result<(), WireError> {
        match self {
            Self::Put(receipt) => receipt.verify_kept().map(|_| ()),
            Self::Renewal(receipt) => receipt.verify_kept().map(|_| ()),
        }
    }

    /// One byte that says which it is, then the signed statement.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, body) = match self {
            Self::Put(receipt) => (OF_PUT, receipt.encode()),
            Self::Renewal(receipt) => (OF_RENEWAL, receipt.encode()),
        };
        let mut bytes = Vec::with_capacity(1 + body.len());
        bytes.push(kind);
        bytes.extend_from_slice(&body);
        bytes
    }

    /// Reads what [`KeptReceipt::encode`] wrote; the signature is not looked at.
    ///
    /// # Errors
    /// The writer's fault: of no known kind, too large, not parsable.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        match bytes.first() {
            Some(&OF_PUT) => Ok(Self::Put(Signed::decode(bytes.slice(1..))?)),
            Some(&OF_RENEWAL) => Ok(Self::Renewal(Signed::decode(bytes.slice(1..))?)),
            _ => Err(WireError::malformed("a kept receipt of an unknown kind")),
        }
    }

    /// The most bytes that [`KeptReceipt::encode`] gives.
    #[must_use]
    pub const fn encoded_max_bytes() -> usize {
        1 + Signed::<RenewReceipt>::encoded_max_bytes()
    }
}
