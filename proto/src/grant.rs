//! Grants as documents keep them: what a steward may do in an owner's name, node by node.
//!
//! Decides what a grant must say to be worth using. Never decides whether a node honours it: [`crate::wire`] has the rules.

use ed25519_dalek::SigningKey;

use crate::codec::{DocumentError, Reader, Writer, check_limit};
use crate::ids::{AccountId, NodeId, SegmentId};
use crate::keys::StewardKeys;
use crate::limits::GRANT_MAX_BYTES;
use crate::tree::{BlobKind, Node, TreeItem, TreeLabel};
use crate::wire::{Signed, StewardGrant, WireError};

/// One blob of a tree of grants: rows, or children by their first node.
pub type GrantBlob = Node<GrantRow>;

/// A steward's rights at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantRow {
    /// The node.
    pub node: NodeId,
    /// The dataset's account there, which signed the grant.
    pub account: AccountId,
    /// The public half of the owner's delete key there.
    pub delete_key: [u8; 32],
    /// The public half of the owner's renew key there.
    pub renew_key: [u8; 32],
    /// The signed grant, 1 to [`GRANT_MAX_BYTES`] bytes; see [`GrantRow::open`].
    pub signed: Vec<u8>,
}

impl GrantRow {
    /// The grant, if it is one of this row's account for this row's node and names this steward's key there.
    ///
    /// # Errors
    /// The owner's fault: the grant does not parse, says something else or is not signed by the account.
    pub fn open(&self, steward: &StewardKeys) -> Result<(Signed<StewardGrant>, SigningKey), WireError> {
        let key = steward.at(self.node);
        let signed = Signed::<StewardGrant>::decode(bytes::Bytes::copy_from_slice(&self.signed))?;
        let grant = signed.signed_by(self.account.as_bytes())?;
        let same =
            grant.node == self.node && grant.account == self.account && grant.steward == key.verifying_key().to_bytes();
        if same { Ok((signed, key)) } else { Err(WireError::malformed("the grant is another one than its row says")) }
    }
}

impl TreeItem for GrantRow {
    type Label = NodeId;
    const LEAF: BlobKind = BlobKind::GrantLeaf;
    const INNER: BlobKind = BlobKind::GrantInner;
    const PLURAL: &'static str = "grants";
    const MIN_BYTES: usize = 131;

    fn label(&self) -> NodeId {
        self.node
    }

    fn boundary(&self) -> blake3::Hash {
        blake3::hash(self.node.as_bytes())
    }

    fn check(&self) -> Result<(), DocumentError> {
        if self.signed.is_empty() {
            return Err(DocumentError::Empty { what: "a grant" });
        }
        Ok(check_limit(self.signed.len(), GRANT_MAX_BYTES, "a grant")?)
    }

    fn write(&self, writer: &mut Writer) {
        writer.raw(self.node.as_bytes());
        writer.raw(self.account.as_bytes());
        writer.raw(&self.delete_key);
        writer.raw(&self.renew_key);
        writer.bytes16(&self.signed);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self {
            node: NodeId::new(reader.array("a grant's node")?),
            account: AccountId::new(reader.array("a grant's account")?),
            delete_key: reader.array("a grant's delete key")?,
            renew_key: reader.array("a grant's renew key")?,
            signed: reader.bytes16(GRANT_MAX_BYTES, "a grant")?.to_vec(),
        })
    }

    fn visit_segments(&mut self, _visit: &mut dyn FnMut(&mut SegmentId)) {}
}

impl TreeLabel for NodeId {
    const MIN_BYTES: usize = 32;

    fn write(&self, writer: &mut Writer) {
        writer.raw(self.as_bytes());
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self::new(reader.array("a node's id")?))
    }

    fn join(self, _next: &Self) -> Option<Self> {
        Some(self)
    }

    fn precedes(&self, next: &Self) -> bool {
        self < next
    }
}

const _: () = assert!(Signed::<StewardGrant>::encoded_max_bytes() <= GRANT_MAX_BYTES, "every signed grant fits a row");

#[cfg(test)]
mod tests;
