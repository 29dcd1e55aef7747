//! Names: one component of a path, as raw bytes.
//!
//! Decides what may stand in a manifest as a name. Never decides whether a file system can hold it, or can keep two of
//! them apart: that is known where files are restored.

use core::fmt;

use crate::codec::{DocumentError, Reader, Writer};
use crate::limits::NAME_MAX_BYTES;
use crate::tree::TreeLabel;

/// Why bytes are not a name: they could lead a reader out of the folder that it restores into, or mean nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// There is nothing in it.
    #[error("is empty")]
    Empty,
    /// It is longer than [`NAME_MAX_BYTES`].
    #[error("has {0} bytes, {NAME_MAX_BYTES} are allowed")]
    TooLong(usize),
    /// It has a `/` in it.
    #[error("contains a slash")]
    Slash,
    /// It has a zero byte in it.
    #[error("contains a zero byte")]
    Nul,
    /// It is `.` or `..`.
    #[error("is a dot or two, which stand for other folders")]
    Dots,
}

/// The name of an entry in its folder: bytes without `/` and NUL that are neither empty nor `.` nor `..`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u8>);

impl Name {
    /// Checks and takes over the bytes.
    ///
    /// # Errors
    /// [`NameError`]: which rule they break.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, NameError> {
        let bytes = bytes.into();
        match bytes.as_slice() {
            [] => Err(NameError::Empty),
            long if long.len() > NAME_MAX_BYTES => Err(NameError::TooLong(long.len())),
            b"." | b".." => Err(NameError::Dots),
            name if name.contains(&b'/') => Err(NameError::Slash),
            name if name.contains(&0) => Err(NameError::Nul),
            _ => Ok(Self(bytes)),
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Name(\"{}\")", self.0.escape_ascii())
    }
}

impl TreeLabel for Name {
    const MIN_BYTES: usize = 3;

    fn write(&self, writer: &mut Writer) {
        writer.bytes16(&self.0);
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DocumentError> {
        Ok(Self::new(reader.bytes16(NAME_MAX_BYTES, "a name")?)?)
    }

    fn join(self, _next: &Self) -> Option<Self> {
        Some(self)
    }

    fn precedes(&self, next: &Self) -> bool {
        self < next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        assert_eq!(Name::new(""), Err(NameError::Empty));
        assert_eq!(Name::new("."), Err(NameError::Dots));
        assert_eq!(Name::new(".."), Err(NameError::Dots));
        assert_eq!(Name::new("a/b"), Err(NameError::Slash));
        assert_eq!(Name::new("a\0b"), Err(NameError::Nul));
        assert_eq!(Name::new(vec![b'a'; NAME_MAX_BYTES + 1]), Err(NameError::TooLong(NAME_MAX_BYTES + 1)));
        assert!(Name::new("...").is_ok());
        assert!(Name::new(vec![0xff; NAME_MAX_BYTES]).is_ok(), "any other bytes are a name");
    }
}
