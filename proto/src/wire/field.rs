//! Checks of single fields, shared by all messages.

use bytes::Bytes;

use super::error::{ErrorCode, WireError};
use crate::ids::ShardRoot;
use crate::limits::{ROOTS_PER_CALL_MAX, SHARD_MAX_BYTES};
use crate::sign::SIGNATURE_BYTES;

pub(super) fn bytes32(what: &str, bytes: &[u8]) -> Result<[u8; 32], WireError> {
    bytes.try_into().map_err(|_| WireError::malformed(format!("{what} has {} bytes instead of 32", bytes.len())))
}

pub(super) fn optional_bytes32(what: &str, bytes: &[u8]) -> Result<Option<[u8; 32]>, WireError> {
    if bytes.is_empty() { Ok(None) } else { bytes32(what, bytes).map(Some) }
}

pub(super) fn signature(what: &str, bytes: &[u8]) -> Result<[u8; SIGNATURE_BYTES], WireError> {
    bytes
        .try_into()
        .map_err(|_| WireError::malformed(format!("{what} has {} bytes instead of {SIGNATURE_BYTES}", bytes.len())))
}

pub(super) fn present<T>(what: &str, field: Option<T>) -> Result<T, WireError> {
    field.ok_or_else(|| WireError::malformed(format!("{what} is missing")))
}

/// The length of a whole shard: not empty, at most the largest.
pub(super) fn shard_length(length_bytes: u64) -> Result<u64, WireError> {
    if length_bytes == 0 {
        return Err(WireError::malformed("a shard cannot be empty"));
    }
    if length_bytes > SHARD_MAX_BYTES as u64 {
        return Err(WireError::new(
            ErrorCode::TooLarge,
            format!("a shard of {length_bytes} bytes is over the maximum"),
        ));
    }
    Ok(length_bytes)
}

pub(super) fn count(what: &str, count: usize, max: usize) -> Result<(), WireError> {
    if count > max {
        return Err(WireError::new(ErrorCode::TooLarge, format!("{count} {what}, the most is {max}")));
    }
    Ok(())
}

/// The roots of one call: at least one, at most [`ROOTS_PER_CALL_MAX`].
pub(super) fn roots(roots: &[Bytes]) -> Result<Vec<ShardRoot>, WireError> {
    if roots.is_empty() {
        return Err(WireError::malformed("no root is named"));
    }
    count("roots", roots.len(), ROOTS_PER_CALL_MAX)?;
    roots.iter().map(|root| bytes32("a root", root).map(ShardRoot::new)).collect()
}

/// Text for people: bounded, printable ASCII, so that it can be shown as it is.
pub(super) fn text(what: &str, text: &str, max_bytes: usize) -> Result<(), WireError> {
    if text.len() > max_bytes {
        return Err(WireError::new(
            ErrorCode::TooLarge,
            format!("{what} has {} bytes, the most is {max_bytes}", text.len()),
        ));
    }
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(WireError::malformed(format!("{what} is not printable ASCII")));
    }
    Ok(())
}

pub(super) fn from32(bytes: &[u8; 32]) -> Bytes {
    Bytes::copy_from_slice(bytes)
}

/// A base-2 logarithm of a count of bytes.
pub(super) fn free_class(class: u32) -> Result<u8, WireError> {
    u8::try_from(class)
        .ok()
        .filter(|class| *class < 64)
        .ok_or_else(|| WireError::malformed("a class of free bytes is under 64"))
}
