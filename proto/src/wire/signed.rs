//! A signed statement as it was received: the bytes, what they say, and the signature.
//!
//! Decides how statements are carried and that their signature is over the received bytes. Never decides whose
//! signature is wanted: the statements in [`super::lease`] and [`super::record`] do.

use bytes::Bytes;
use ed25519_dalek::SigningKey;
use prost::Message;

use super::error::{ErrorCode, WireError};
use super::field;
use crate::messages;
use crate::sign::{self, SIGNATURE_BYTES, SignatureKind};

/// Feature bits that this release knows; a statement that needs another one is refused.
pub const KNOWN_NEEDS: u64 = 0;

/// Something that can be signed and carried.
pub trait Statement: Sized {
    /// The kind that its signature is made for.
    const KIND: SignatureKind;
    /// The most bytes that its encoding may have.
    const BODY_MAX_BYTES: usize;
    /// Its shape on the wire.
    type Message: Message + Default;

    /// As it is written.
    fn to_message(&self) -> Self::Message;

    /// Reads and checks every bound.
    ///
    /// # Errors
    /// The sender's fault: [`WireError`] names the field.
    fn from_message(message: Self::Message) -> Result<Self, WireError>;

    /// The feature bits that the message says a reader must know.
    fn needs(message: &Self::Message) -> u64;
}

/// A statement with its signature: read and bounded, but believed only after one of the `verify` functions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signed<T> {
    statement: T,
    body: Bytes,
    signature: [u8; SIGNATURE_BYTES],
}

impl<T: Statement> Signed<T> {
    /// Signs a statement.
    #[must_use]
    pub fn sign(statement: T, key: &SigningKey) -> Self {
        let body = Bytes::from(statement.to_message().encode_to_vec());
        let signature = sign::sign(T::KIND, key, &body);
        Self { statement, body, signature }
    }

    /// What the statement claims, whether or not the signature is good.
    #[must_use]
    pub const fn claimed(&self) -> &T {
        &self.statement
    }

    /// The signed bytes as they were received.
    #[must_use]
    pub const fn body(&self) -> &Bytes {
        &self.body
    }

    /// The signature as it was received.
    #[must_use]
    pub const fn signature(&self) -> &[u8; SIGNATURE_BYTES] {
        &self.signature
    }

    /// The statement, if `public_key` signed it.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorised`] when the signature is not that key's over these bytes as this kind.
    pub fn signed_by(&self, public_key: &[u8; 32]) -> Result<&T, WireError> {
        sign::verify(T::KIND, public_key, &self.body, &self.signature)
            .map_err(|error| WireError::new(ErrorCode::Unauthorised, error.to_string()))?;
        Ok(&self.statement)
    }

    /// Body and signature as one message, for keeping and for the directory.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        self.to_message().encode_to_vec()
    }

    /// Reads what [`Signed::encode`] wrote.
    ///
    /// # Errors
    /// The writer's fault: too large, not parsable, out of bounds, or in need of features not known here.
    pub fn decode(bytes: Bytes) -> Result<Self, WireError> {
        if bytes.len() > Self::encoded_max_bytes() {
            return Err(WireError::new(ErrorCode::TooLarge, "the signed statement is over its maximum"));
        }
        let message = messages::Signed::decode(bytes)
            .map_err(|error| WireError::malformed(format!("not a signed statement: {error}")))?;
        Self::from_message(message)
    }

    /// The most bytes that [`Signed::encode`] gives: the body, the signature, and what protobuf adds.
    #[must_use]
    pub const fn encoded_max_bytes() -> usize {
        T::BODY_MAX_BYTES + SIGNATURE_BYTES + 16
    }

    pub(super) fn to_message(&self) -> messages::Signed {
        messages::Signed { body: self.body.clone(), signature: Bytes::copy_from_slice(&self.signature) }
    }

    pub(super) fn from_message(message: messages::Signed) -> Result<Self, WireError> {
        let messages::Signed { body, signature } = message;
        let signature = field::signature("a signature", &signature)?;
        if body.len() > T::BODY_MAX_BYTES {
            return Err(WireError::new(ErrorCode::TooLarge, format!("a signed body of {} bytes", body.len())));
        }
        let message = T::Message::decode(body.clone())
            .map_err(|error| WireError::malformed(format!("the signed body does not parse: {error}")))?;
        let unknown = T::needs(&message) & !KNOWN_NEEDS;
        if unknown != 0 {
            let text = format!("the statement needs features {unknown:#x} of a newer release");
            return Err(WireError::new(ErrorCode::Unsupported, text));
        }
        Ok(Self { statement: T::from_message(message)?, body, signature })
    }
}
