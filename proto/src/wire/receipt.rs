//! Receipts: what a node signs once it holds shards durably.
//!
//! Decides what a receipt says and when it is believed as the answer to a request. Never decides when one is due: the
//! node signs after its disk has synced.

use super::error::WireError;
use super::field;
use super::lease::{LeaseTerms, ROOTS_BODY_MAX_BYTES, RenewBody, SMALL_BODY_MAX_BYTES, near};
use super::signed::{Signed, Statement};
use crate::ids::{AccountId, NodeId, ShardRoot, Timestamp};
use crate::limits::CLOCK_SKEW_MAX;
#[cfg(doc)]
use crate::limits::ROOTS_PER_CALL_MAX;
use crate::messages;
use crate::sign::SignatureKind;

/// A node's statement that it holds a shard durably; signed by the node after fsync.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipt {
    /// The node, which signs.
    pub node: NodeId,
    /// The shard, whose root the node computed itself.
    pub root: ShardRoot,
    /// The shard's length.
    pub length_bytes: u64,
    /// Whose lease it is.
    pub account: AccountId,
    /// How long the node will hold it.
    pub until: Timestamp,
    /// When it was signed, by the node's clock.
    pub issued_at: Timestamp,
}

impl Statement for Receipt {
    const KIND: SignatureKind = SignatureKind::Receipt;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::Receipt;

    fn to_message(&self) -> messages::Receipt {
        messages::Receipt {
            node: field::from32(self.node.as_bytes()),
            root: field::from32(self.root.as_bytes()),
            length_bytes: self.length_bytes,
            account: field::from32(self.account.as_bytes()),
            until_ms: self.until.as_unix_ms(),
            issued_at_ms: self.issued_at.as_unix_ms(),
            needs: 0,
        }
    }

    fn from_message(message: messages::Receipt) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::new(field::bytes32("a receipt's node", &message.node)?),
            root: ShardRoot::new(field::bytes32("a receipt's root", &message.root)?),
            length_bytes: field::shard_length(message.length_bytes)?,
            account: AccountId::new(field::bytes32("a receipt's account", &message.account)?),
            until: Timestamp::from_unix_ms(message.until_ms),
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
        })
    }

    fn needs(message: &messages::Receipt) -> u64 {
        message.needs
    }
}

impl Receipt {
    /// What a node states once it holds what these terms ask for.
    #[must_use]
    pub fn for_terms(terms: &LeaseTerms, now: Timestamp) -> Self {
        Self {
            node: terms.node,
            root: terms.root,
            length_bytes: terms.length_bytes,
            account: terms.account,
            until: terms.until,
            issued_at: now,
        }
    }
}

impl Signed<Receipt> {
    /// Believes the receipt as the answer to these terms at `now`.
    ///
    /// # Errors
    /// The node's fault: not its signature, another shard, length or account, a shorter time than was asked for, or
    /// a clock more than [`CLOCK_SKEW_MAX`] away.
    pub fn verify(&self, terms: &LeaseTerms, now: Timestamp) -> Result<&Receipt, WireError> {
        let receipt = self.claimed();
        let same = receipt.node == terms.node
            && receipt.root == terms.root
            && receipt.length_bytes == terms.length_bytes
            && receipt.account == terms.account;
        if !same || receipt.until < terms.until {
            return Err(WireError::malformed("the receipt is not for the lease that was asked for"));
        }
        near(receipt.issued_at, now, CLOCK_SKEW_MAX)?;
        self.signed_by(terms.node.as_bytes())
    }

    /// Believes a kept receipt of a node, whatever the time; who uses it compares `until` with the present.
    ///
    /// # Errors
    /// The signature is not the named node's.
    pub fn verify_kept(&self) -> Result<&Receipt, WireError> {
        self.signed_by(self.claimed().node.as_bytes())
    }
}

/// A node's statement that it holds many shards durably until a later time; signed by the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewReceipt {
    /// The node, which signs.
    pub node: NodeId,
    /// Whose leases they are.
    pub account: AccountId,
    /// How long the node will hold them, at least.
    pub until: Timestamp,
    /// When it was signed, by the node's clock.
    pub issued_at: Timestamp,
    /// 1 to [`ROOTS_PER_CALL_MAX`] shards with their lengths.
    pub shards: Vec<(ShardRoot, u64)>,
}

impl Statement for RenewReceipt {
    const KIND: SignatureKind = SignatureKind::RenewReceipt;
    const BODY_MAX_BYTES: usize = ROOTS_BODY_MAX_BYTES;
    type Message = messages::RenewReceipt;

    fn to_message(&self) -> messages::RenewReceipt {
        messages::RenewReceipt {
            node: field::from32(self.node.as_bytes()),
            account: field::from32(self.account.as_bytes()),
            until_ms: self.until.as_unix_ms(),
            issued_at_ms: self.issued_at.as_unix_ms(),
            roots: self.shards.iter().map(|(root, _)| field::from32(root.as_bytes())).collect(),
            lengths_bytes: self.shards.iter().map(|(_, length)| *length).collect(),
            needs: 0,
        }
    }

    fn from_message(message: messages::RenewReceipt) -> Result<Self, WireError> {
        let roots = field::roots(&message.roots)?;
        if message.lengths_bytes.len() != roots.len() {
            return Err(WireError::malformed("a renewal's receipt does not have one length a root"));
        }
        let lengths = message.lengths_bytes.iter().map(|length| field::shard_length(*length));
        let shards = roots.into_iter().zip(lengths).map(|(root, length)| Ok((root, length?)));
        Ok(Self {
            node: NodeId::new(field::bytes32("a receipt's node", &message.node)?),
            account: AccountId::new(field::bytes32("a receipt's account", &message.account)?),
            until: Timestamp::from_unix_ms(message.until_ms),
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
            shards: shards.collect::<Result<_, WireError>>()?,
        })
    }

    fn needs(message: &messages::RenewReceipt) -> u64 {
        message.needs
    }
}

impl Signed<RenewReceipt> {
    /// Believes the receipt as the answer to this renewal at `now`; `renewed` are the roots answered with success.
    ///
    /// # Errors
    /// The node's fault: not its signature, other shards or account, a shorter time, or a clock too far away.
    pub fn verify(&self, asked: &RenewBody, renewed: &[ShardRoot], now: Timestamp) -> Result<&RenewReceipt, WireError> {
        let receipt = self.claimed();
        let same = receipt.node == asked.node
            && receipt.account == asked.account
            && receipt.shards.iter().map(|(root, _)| root).eq(renewed);
        if !same || receipt.until < asked.until {
            return Err(WireError::malformed("the receipt is not for the renewal that was asked for"));
        }
        near(receipt.issued_at, now, CLOCK_SKEW_MAX)?;
        self.signed_by(asked.node.as_bytes())
    }

    /// Believes a kept receipt of a node, whatever the time; who uses it compares `until` with the present.
    ///
    /// # Errors
    /// The signature is not the named node's.
    pub fn verify_kept(&self) -> Result<&RenewReceipt, WireError> {
        self.signed_by(self.claimed().node.as_bytes())
    }
}
