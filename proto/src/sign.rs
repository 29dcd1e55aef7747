//! Signatures: Ed25519 over `dolmen/<kind>/v1`, a zero byte and the signed bytes, verified strictly.
//!
//! Decides which kinds of signatures exist and that one kind can never be taken for another. Never decides who
//! may sign what: that is the business of the documents and calls that carry signatures. Source: RFC 8032.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};

/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

/// What a signature says, so that no signature can be taken for one of another kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureKind {
    /// A node's record in the directory, by the node key.
    NodeRecord,
    /// An operator's claim of a node, by the operator key, over the node key.
    Operator,
    /// A node's next key, by that next key, over the present one.
    Successor,
    /// The terms of a lease, by the account.
    Lease,
    /// A node's statement that it holds a shard, by the node key.
    Receipt,
    /// A node's statement that it holds many shards until a later time, by the node key.
    RenewReceipt,
    /// An owner's certificate for a steward's key, by the account.
    Grant,
    /// A request to renew, by the renew key or a granted steward.
    Renew,
    /// A request to delete, by the delete key.
    Delete,
    /// A request to list an account's leases, by the account.
    List,
    /// A demand for proof of storage, by the auditor.
    Challenge,
    /// A node's leave to go on with a challenge, or its refusal, by the node key.
    Slot,
    /// What a challenge asks for, by the auditor.
    Reveal,
    /// A node's proof of storage, by the node key.
    Proof,
    /// What an auditor made of a challenge, by the auditor.
    Close,
    /// A head, by the head's key.
    Head,
}

impl SignatureKind {
    const fn context(self) -> &'static [u8] {
        match self {
            Self::NodeRecord => b"dolmen/node-record/v1\0",
            Self::Operator => b"dolmen/operator/v1\0",
            Self::Successor => b"dolmen/successor/v1\0",
            Self::Lease => b"dolmen/lease/v1\0",
            Self::Receipt => b"dolmen/receipt/v1\0",
            Self::RenewReceipt => b"dolmen/renew-receipt/v1\0",
            Self::Grant => b"dolmen/grant/v1\0",
            Self::Renew => b"dolmen/renew/v1\0",
            Self::Delete => b"dolmen/delete/v1\0",
            Self::List => b"dolmen/list/v1\0",
            Self::Challenge => b"dolmen/challenge/v1\0",
            Self::Slot => b"dolmen/slot/v1\0",
            Self::Reveal => b"dolmen/reveal/v1\0",
            Self::Proof => b"dolmen/proof/v1\0",
            Self::Close => b"dolmen/close/v1\0",
            Self::Head => b"dolmen/head/v1\0",
        }
    }

    fn message(self, body: &[u8]) -> Vec<u8> {
        [self.context(), body].concat()
    }
}

/// Why a signature was refused: always the signer's or the carrier's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// The public key is not a point of the curve.
    #[error("the public key is not a valid Ed25519 key")]
    Key,
    /// The signature does not have 64 bytes.
    #[error("a signature has 64 bytes, this one has {0}")]
    Length(usize),
    /// The signature is not one of this key over these bytes and this kind.
    #[error("the signature does not match")]
    Mismatch,
}

/// Signs `body` as a statement of `kind`.
#[must_use]
pub fn sign(kind: SignatureKind, key: &SigningKey, body: &[u8]) -> [u8; SIGNATURE_BYTES] {
    key.sign(&kind.message(body)).to_bytes()
}

/// Checks with the strict rules of ed25519-dalek that `signature` is `public_key`'s over `body` as `kind`.
///
/// # Errors
/// [`SignatureError`], which never tells more than that the statement cannot be believed.
pub fn verify(kind: SignatureKind, public_key: &[u8; 32], body: &[u8], signature: &[u8]) -> Result<(), SignatureError> {
    let key = VerifyingKey::from_bytes(public_key).map_err(|_| SignatureError::Key)?;
    let signature: &[u8; SIGNATURE_BYTES] =
        signature.try_into().map_err(|_| SignatureError::Length(signature.len()))?;
    key.verify_strict(&kind.message(body), &Signature::from_bytes(signature)).map_err(|_| SignatureError::Mismatch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_kind_key_and_bytes_only() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let public = key.verifying_key().to_bytes();
        let signature = sign(SignatureKind::Renew, &key, b"body");
        assert_eq!(verify(SignatureKind::Renew, &public, b"body", &signature), Ok(()));
        assert_eq!(verify(SignatureKind::Delete, &public, b"body", &signature), Err(SignatureError::Mismatch));
        assert_eq!(verify(SignatureKind::Renew, &public, b"bodz", &signature), Err(SignatureError::Mismatch));
        assert_eq!(verify(SignatureKind::Renew, &public, b"body", &signature[1..]), Err(SignatureError::Length(63)));
        let other = SigningKey::from_bytes(&[8; 32]).verifying_key().to_bytes();
        assert_eq!(verify(SignatureKind::Renew, &other, b"body", &signature), Err(SignatureError::Mismatch));
    }
}
