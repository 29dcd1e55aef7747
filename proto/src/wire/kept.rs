//! Receipts as auditors, overlays, transcripts and nodes that go keep or show them: of a put or of a renewal, as received.
//!
//! Decides how a kept receipt is written and which shards it stands for. Never decides who keeps one.

use bytes::Bytes;

use super::error::WireError;
use super::receipt::{Receipt, RenewReceipt};
use super::signed::Signed;
use crate::ids::{NodeId, ShardRoot, Timestamp};

const OF_PUT: u8 = 1;
const OF_RENEWAL: u8 = 2;

/// A node's signed statement that it holds shards until a time, as it was received. Nothing of it is believed before
/// [`KeptReceipt::holds`] says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeptReceipt {
    /// The receipt of a put: one shard.
    Put(Bytes),
    /// The receipt of a renewal, which covers other shards too.
    Renewal(Bytes),
}

/// Why a receipt does not count; its node's fault or that of whoever shows it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// It does not parse or is not signed by the node.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// It is of another node than the one that is said to hold the shard.
    #[error("the receipt is of another node")]
    OtherNode,
    /// It does not cover the shard, or with another length.
    #[error("the receipt is for another shard")]
    OtherShard,
    /// It has run out.
    #[error("the receipt has run out")]
    Expired,
}

/// What a kept receipt claims; not checked against the signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptClaim {
    /// The node that is said to have signed.
    pub node: NodeId,
    /// The shards with their lengths, 1 to [`ROOTS_PER_CALL_MAX`](crate::limits::ROOTS_PER_CALL_MAX).
    pub shards: Vec<(ShardRoot, u64)>,
    /// Until when it holds them.
    pub until: Timestamp,
    /// When it signed, by its own clock.
    pub issued_at: Timestamp,
}

impl ReceiptClaim {
    /// Whether it says of a shard that the node held it at `at`, by the node's own clock; the signature is not looked at.
    #[must_use]
    pub fn covers(&self, root: &ShardRoot, length_bytes: u64, at: Timestamp) -> bool {
        self.is_of(at) && self.shards.contains(&(*root, length_bytes))
    }

    /// Whether it was signed by then, and had not run out.
    #[must_use]
    pub fn is_of(&self, at: Timestamp) -> bool {
        self.issued_at <= at && at < self.until
    }
}

impl From<&Receipt> for ReceiptClaim {
    fn from(said: &Receipt) -> Self {
        let shards = vec![(said.root, said.length_bytes)];
        Self { node: said.node, shards, until: said.until, issued_at: said.issued_at }
    }
}

impl From<&RenewReceipt> for ReceiptClaim {
    fn from(said: &RenewReceipt) -> Self {
        Self { node: said.node, shards: said.shards.clone(), until: said.until, issued_at: said.issued_at }
    }
}

impl KeptReceipt {
    /// A receipt of a put as it is kept.
    #[must_use]
    pub fn of_put(receipt: &Signed<Receipt>) -> Self {
        Self::Put(receipt.encode().into())
    }

    /// A receipt of a renewal as it is kept. One of more than
    /// [`OVERLAY_RENEWAL_SHARDS_MAX`](crate::limits::OVERLAY_RENEWAL_SHARDS_MAX) shards may be too long for an overlay's row.
    #[must_use]
    pub fn of_renewal(receipt: &Signed<RenewReceipt>) -> Self {
        Self::Renewal(receipt.encode().into())
    }

    /// The signed bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        match self {
            Self::Put(bytes) | Self::Renewal(bytes) => bytes,
        }
    }

    /// Until when `node` has promised to hold this shard of this length, if that is later than `now`.
    ///
    /// # Errors
    /// [`ReceiptError`]: the receipt says something else, was not signed by the node, or has run out.
    pub fn holds(
        &self,
        node: NodeId,
        root: ShardRoot,
        length_bytes: u64,
        now: Timestamp,
    ) -> Result<Timestamp, ReceiptError> {
        // Cheap comparisons come first: a signature is checked only where it would count.
        match self {
            Self::Put(bytes) => {
                let signed = Signed::<Receipt>::decode(bytes.clone())?;
                let said = signed.claimed();
                let covered = (said.root, said.length_bytes) == (root, length_bytes);
                let until = check_claim(said.node == node, covered, said.until, now)?;
                signed.signed_by(node.as_bytes())?;
                Ok(until)
            }
            Self::Renewal(bytes) => {
                let signed = Signed::<RenewReceipt>::decode(bytes.clone())?;
                let said = signed.claimed();
                let covered = said.shards.contains(&(root, length_bytes));
                let until = check_claim(said.node == node, covered, said.until, now)?;
                signed.signed_by(node.as_bytes())?;
                Ok(until)
            }
        }
    }

    /// What it claims; not checked against the signature.
    ///
    /// # Errors
    /// [`WireError`] when it does not parse.
    pub fn claim(&self) -> Result<ReceiptClaim, WireError> {
        match self {
            Self::Put(bytes) => Ok(Signed::<Receipt>::decode(bytes.clone())?.claimed().into()),
            Self::Renewal(bytes) => Ok(Signed::<RenewReceipt>::decode(bytes.clone())?.claimed().into()),
        }
    }

    /// Until when its node claims to hold what it names; not checked against the signature.
    ///
    /// # Errors
    /// [`WireError`] when it does not parse.
    pub fn claimed_until(&self) -> Result<Timestamp, WireError> {
        self.claim().map(|claim| claim.until)
    }

    /// Its claim, if the node that it names has signed it.
    ///
    /// # Errors
    /// [`WireError`] when it does not parse, [`ErrorCode::Unauthorised`](super::ErrorCode::Unauthorised) when the named node
    /// did not sign.
    pub fn verify(&self) -> Result<ReceiptClaim, WireError> {
        match self {
            Self::Put(bytes) => Ok(Signed::<Receipt>::decode(bytes.clone())?.verify_kept()?.into()),
            Self::Renewal(bytes) => Ok(Signed::<RenewReceipt>::decode(bytes.clone())?.verify_kept()?.into()),
        }
    }

    /// One byte that says which it is, then the signed statement: at most [`KeptReceipt::encoded_max_bytes`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, signed) = match self {
            Self::Put(bytes) => (OF_PUT, bytes),
            Self::Renewal(bytes) => (OF_RENEWAL, bytes),
        };
        [&[kind], signed.as_ref()].concat()
    }

    /// Reads what [`KeptReceipt::encode`] wrote; that it parses is checked, the signature is not looked at.
    ///
    /// # Errors
    /// The writer's fault: of no known kind, too large, not parsable.
    pub fn decode(bytes: &Bytes) -> Result<Self, WireError> {
        let receipt = match bytes.first() {
            Some(&OF_PUT) => Self::Put(bytes.slice(1..)),
            Some(&OF_RENEWAL) => Self::Renewal(bytes.slice(1..)),
            _ => return Err(WireError::malformed("a kept receipt of an unknown kind")),
        };
        receipt.claim().map(|_| receipt)
    }

    /// The most bytes that [`KeptReceipt::encode`] gives.
    #[must_use]
    pub const fn encoded_max_bytes() -> usize {
        1 + Signed::<RenewReceipt>::encoded_max_bytes()
    }
}

fn check_claim(same_node: bool, covered: bool, until: Timestamp, now: Timestamp) -> Result<Timestamp, ReceiptError> {
    match (same_node, covered, until > now) {
        (false, _, _) => Err(ReceiptError::OtherNode),
        (true, false, _) => Err(ReceiptError::OtherShard),
        (true, true, false) => Err(ReceiptError::Expired),
        (true, true, true) => Ok(until),
    }
}
