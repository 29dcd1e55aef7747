//! The signed statements by which owners and stewards ask: terms of leases, grants, renewals, deletes, listings.
//!
//! Decides what each statement says and its bounds. Never decides who may make it at a node: see
//! [`super::request`] for authorisation by signature, and the node for quotas and allow-lists. What nodes state in
//! return is in [`super::receipt`].

use core::time::Duration;

use bytes::Bytes;

use super::error::{ErrorCode, WireError};
use super::field;
use super::signed::Statement;
use crate::ids::{AccountId, NodeId, ShardRoot, Timestamp};
use crate::limits::{ROOTS_PER_CALL_MAX, SHARD_MAX_BYTES};
use crate::messages;
use crate::sign::SignatureKind;

/// Most bytes of a signed body that names no list.
pub(super) const SMALL_BODY_MAX_BYTES: usize = 512;
/// Most bytes of a signed body that names a full list of roots, with a length each.
pub(super) const ROOTS_BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES + ROOTS_PER_CALL_MAX * 40;

/// The terms of a lease as the account asks for them; signed by the account or by a steward that holds its grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseTerms {
    /// The node that they are meant for; no other takes them.
    pub node: NodeId,
    /// The shard.
    pub root: ShardRoot,
    /// The shard's length; 1 to [`SHARD_MAX_BYTES`].
    pub length_bytes: u64,
    /// Whose quota pays.
    pub account: AccountId,
    /// The Ed25519 public key that may delete.
    pub delete_key: [u8; 32],
    /// The Ed25519 public key that may renew.
    pub renew_key: [u8; 32],
    /// How long the node is to hold the shard.
    pub until: Timestamp,
    /// When these terms were signed.
    pub issued_at: Timestamp,
}

impl Statement for LeaseTerms {
    const KIND: SignatureKind = SignatureKind::Lease;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::LeaseTerms;

    fn to_message(&self) -> messages::LeaseTerms {
        messages::LeaseTerms {
            node: field::from32(self.node.as_bytes()),
            root: field::from32(self.root.as_bytes()),
            length_bytes: self.length_bytes,
            account: field::from32(self.account.as_bytes()),
            delete_key: field::from32(&self.delete_key),
            renew_key: field::from32(&self.renew_key),
            until_ms: self.until.as_unix_ms(),
            issued_at_ms: self.issued_at.as_unix_ms(),
            needs: 0,
        }
    }

    fn from_message(message: messages::LeaseTerms) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::new(field::bytes32("a lease's node", &message.node)?),
            root: ShardRoot::new(field::bytes32("a lease's root", &message.root)?),
            length_bytes: field::shard_length(message.length_bytes)?,
            account: AccountId::new(field::bytes32("a lease's account", &message.account)?),
            delete_key: field::bytes32("a lease's delete key", &message.delete_key)?,
            renew_key: field::bytes32("a lease's renew key", &message.renew_key)?,
            until: Timestamp::from_unix_ms(message.until_ms),
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
        })
    }

    fn needs(message: &messages::LeaseTerms) -> u64 {
        message.needs
    }
}

/// What a steward may do for an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantRights {
    /// May put shards that the owner's account pays for.
    pub put: bool,
    /// May renew the account's leases.
    pub renew: bool,
}

impl GrantRights {
    const PUT: u32 = 1;
    const RENEW: u32 = 2;

    const fn to_bits(self) -> u32 {
        (if self.put { Self::PUT } else { 0 }) | (if self.renew { Self::RENEW } else { 0 })
    }

    /// Bits of a newer release grant nothing here.
    const fn from_bits(bits: u32) -> Self {
        Self { put: bits & Self::PUT != 0, renew: bits & Self::RENEW != 0 }
    }
}

/// An owner's certificate for a steward's key at one node; signed by the account.
///
/// Accounts are derived from one dataset for one node, so a grant never reaches further than that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StewardGrant {
    /// The owner's account at this node, which signs.
    pub account: AccountId,
    /// The steward's Ed25519 public key.
    pub steward: [u8; 32],
    /// The node that it is meant for.
    pub node: NodeId,
    /// What the steward may do.
    pub rights: GrantRights,
    /// The most bytes that the steward may put under this grant.
    pub quota_bytes: u64,
    /// The end of the grant, and of every lease made or renewed by it.
    pub until: Timestamp,
}

impl Statement for StewardGrant {
    const KIND: SignatureKind = SignatureKind::Grant;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::StewardGrant;

    fn to_message(&self) -> messages::StewardGrant {
        messages::StewardGrant {
            account: field::from32(self.account.as_bytes()),
            steward: field::from32(&self.steward),
            node: field::from32(self.node.as_bytes()),
            rights: self.rights.to_bits(),
            quota_bytes: self.quota_bytes,
            until_ms: self.until.as_unix_ms(),
            needs: 0,
        }
    }

    fn from_message(message: messages::StewardGrant) -> Result<Self, WireError> {
        Ok(Self {
            account: AccountId::new(field::bytes32("a grant's account", &message.account)?),
            steward: field::bytes32("a grant's steward", &message.steward)?,
            node: NodeId::new(field::bytes32("a grant's node", &message.node)?),
            rights: GrantRights::from_bits(message.rights),
            quota_bytes: message.quota_bytes,
            until: Timestamp::from_unix_ms(message.until_ms),
        })
    }

    fn needs(message: &messages::StewardGrant) -> u64 {
        message.needs
    }
}

/// A request to hold shards longer; signed by the leases' renew key or by a steward that holds the account's grant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenewBody {
    /// The node that it is meant for.
    pub node: NodeId,
    /// Whose leases.
    pub account: AccountId,
    /// The renew key or the steward's key, which signs.
    pub signer: [u8; 32],
    /// When it was signed.
    pub issued_at: Timestamp,
    /// How long the node is to hold the shards; a lease that ends later is left as it is.
    pub until: Timestamp,
    /// 1 to [`ROOTS_PER_CALL_MAX`] shards.
    pub roots: Vec<ShardRoot>,
}

impl Statement for RenewBody {
    const KIND: SignatureKind = SignatureKind::Renew;
    const BODY_MAX_BYTES: usize = ROOTS_BODY_MAX_BYTES;
    type Message = messages::RenewBody;

    fn to_message(&self) -> messages::RenewBody {
        messages::RenewBody {
            node: field::from32(self.node.as_bytes()),
            account: field::from32(self.account.as_bytes()),
            signer: field::from32(&self.signer),
            issued_at_ms: self.issued_at.as_unix_ms(),
            until_ms: self.until.as_unix_ms(),
            roots: roots_to_message(&self.roots),
            needs: 0,
        }
    }

    fn from_message(message: messages::RenewBody) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::new(field::bytes32("a renewal's node", &message.node)?),
            account: AccountId::new(field::bytes32("a renewal's account", &message.account)?),
            signer: field::bytes32("a renewal's signer", &message.signer)?,
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
            until: Timestamp::from_unix_ms(message.until_ms),
            roots: field::roots(&message.roots)?,
        })
    }

    fn needs(message: &messages::RenewBody) -> u64 {
        message.needs
    }
}

/// A request to give up leases; signed by their delete key. The node keeps it as its defence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteBody {
    /// The node that it is meant for.
    pub node: NodeId,
    /// Whose leases.
    pub account: AccountId,
    /// The delete key, which signs.
    pub signer: [u8; 32],
    /// When it was signed; leases issued later are not touched, so that an old delete cannot be played again.
    pub issued_at: Timestamp,
    /// 1 to [`ROOTS_PER_CALL_MAX`] shards.
    pub roots: Vec<ShardRoot>,
}

impl Statement for DeleteBody {
    const KIND: SignatureKind = SignatureKind::Delete;
    const BODY_MAX_BYTES: usize = ROOTS_BODY_MAX_BYTES;
    type Message = messages::DeleteBody;

    fn to_message(&self) -> messages::DeleteBody {
        messages::DeleteBody {
            node: field::from32(self.node.as_bytes()),
            account: field::from32(self.account.as_bytes()),
            signer: field::from32(&self.signer),
            issued_at_ms: self.issued_at.as_unix_ms(),
            roots: roots_to_message(&self.roots),
            needs: 0,
        }
    }

    fn from_message(message: messages::DeleteBody) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::new(field::bytes32("a delete's node", &message.node)?),
            account: AccountId::new(field::bytes32("a delete's account", &message.account)?),
            signer: field::bytes32("a delete's signer", &message.signer)?,
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
            roots: field::roots(&message.roots)?,
        })
    }

    fn needs(message: &messages::DeleteBody) -> u64 {
        message.needs
    }
}

/// A request to list an account's own leases; signed by the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListBody {
    /// The node that it is meant for.
    pub node: NodeId,
    /// Whose leases; signs.
    pub account: AccountId,
    /// When it was signed.
    pub issued_at: Timestamp,
    /// Where the last page ended; `None`: from the first, in the order of roots.
    pub after_root: Option<ShardRoot>,
}

impl Statement for ListBody {
    const KIND: SignatureKind = SignatureKind::List;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::ListBody;

    fn to_message(&self) -> messages::ListBody {
        messages::ListBody {
            node: field::from32(self.node.as_bytes()),
            account: field::from32(self.account.as_bytes()),
            issued_at_ms: self.issued_at.as_unix_ms(),
            after_root: self.after_root.map_or_else(Bytes::new, |root| field::from32(root.as_bytes())),
            needs: 0,
        }
    }

    fn from_message(message: messages::ListBody) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::new(field::bytes32("a listing's node", &message.node)?),
            account: AccountId::new(field::bytes32("a listing's account", &message.account)?),
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
            after_root: field::optional_bytes32("a listing's root", &message.after_root)?.map(ShardRoot::new),
        })
    }

    fn needs(message: &messages::ListBody) -> u64 {
        message.needs
    }
}

fn roots_to_message(roots: &[ShardRoot]) -> Vec<Bytes> {
    roots.iter().map(|root| field::from32(root.as_bytes())).collect()
}

/// Checks that two clocks' times are at most `most` apart.
pub(crate) fn near(there: Timestamp, here: Timestamp, most: Duration) -> Result<(), WireError> {
    let apart = there.since(here).max(here.since(there));
    if apart > most {
        let text = format!("the clocks are {} s apart, the most is {} s", apart.as_secs(), most.as_secs());
        return Err(WireError::new(ErrorCode::ClockSkew, text));
    }
    Ok(())
}

const _: () = {
    // A root takes 34 bytes, a shard's length at most 5 and its share of the packed list's tag.
    assert!(SHARD_MAX_BYTES < 1 << 35, "a shard's length is at most five bytes of varint");
    assert!(ROOTS_BODY_MAX_BYTES + ROOTS_PER_CALL_MAX * 3 + 1024 < crate::limits::WIRE_HEADER_MAX_BYTES);
};
