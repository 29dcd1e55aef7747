//! Names of things: 32-byte identifiers, shard positions and points in time, each a type of its own.
//!
//! Decides how an identifier is parsed, printed and compared. Never decides what an identifier is derived
//! from: see [`crate::keys`], [`crate::segment`] and [`crate::root`].

use core::fmt;
use core::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;

/// Why a piece of text or a byte string is not an identifier.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// The byte string does not have 32 bytes.
    #[error("an identifier has 32 bytes, this one has {0}")]
    Length(usize),
    /// The text is not 64 hexadecimal digits.
    #[error("an identifier is 64 hexadecimal digits")]
    Text,
}

macro_rules! identifier {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Wraps 32 bytes; every value is a possible identifier.
            #[must_use]
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// The first eight hexadecimal digits, for logs and tables.
            #[must_use]
            pub fn short(&self) -> String {
                HEXLOWER_PERMISSIVE.encode(&self.0[..4])
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;

            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                <[u8; 32]>::try_from(bytes).map(Self).map_err(|_| IdError::Length(bytes.len()))
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let bytes = HEXLOWER_PERMISSIVE.decode(text.as_bytes()).map_err(|_| IdError::Text)?;
                Self::try_from(bytes.as_slice()).map_err(|_| IdError::Text)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&HEXLOWER_PERMISSIVE.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(formatter, "{}({})", stringify!($name), self.short())
            }
        }
    };
}

identifier! {
    /// A storage node: the bytes of its Ed25519 public key. Not checked to be a valid curve point until a signature is.
    NodeId
}
identifier! {
    /// The key that a node's quota and allow-list see: the bytes of an Ed25519 public key, another one at every node.
    AccountId
}
identifier! {
    /// Whoever runs nodes: the bytes of an Ed25519 public key that signs node keys.
    OperatorId
}
identifier! {
    /// A shard: the BLAKE3 hash of its stored bytes. Always carried together with the length; not a secret.
    ShardRoot
}
identifier! {
    /// A segment: the hash of its format, code, lengths, nonce and ordered shard roots.
    SegmentId
}
identifier! {
    /// A sealed chunk, derived from its chunk key; equal chunks of one dataset have equal ids.
    ChunkId
}
identifier! {
    /// A snapshot: the hash of its root blob's sealed bytes.
    SnapshotId
}
identifier! {
    /// A place of a head in the directory's key space: `derive_key(locator secret, i)`. Secret outside of link holders.
    Point
}
identifier! {
    /// The BLAKE3 hash of a head's signed bytes; all zero where there is no head before.
    HeadHash
}

/// The position of a shard in its segment: data shards are `0..k`, parity shards `k..n`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ShardIndex(u8);

impl ShardIndex {
    /// A position; whether it lies inside of a segment's `n` is the segment's to check.
    #[must_use]
    pub const fn new(index: u8) -> Self {
        Self(index)
    }

    /// The position as a number for indexing.
    #[must_use]
    pub const fn get(self) -> usize {
        self.0 as usize
    }

    /// The position as it is written in formats.
    #[must_use]
    pub const fn to_byte(self) -> u8 {
        self.0
    }
}

impl fmt::Display for ShardIndex {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// A point in time: milliseconds since 1970-01-01 00:00 UTC. Always passed in, never read from a clock in this crate.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(u64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_unix_ms(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_unix_ms(self) -> u64 {
        self.0
    }

    /// This much later; saturates at the end of time.
    #[must_use]
    pub fn after(self, duration: core::time::Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This much earlier; saturates at the epoch.
    #[must_use]
    pub fn before(self, duration: core::time::Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero when it is not after.
    #[must_use]
    pub const fn since(self, earlier: Self) -> core::time::Duration {
        core::time::Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_round_trip_through_text() {
        let id = NodeId::new([0xab; 32]);
        assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        assert_eq!(format!("{id:?}"), "NodeId(abababab)");
        assert_eq!("abc".parse::<NodeId>(), Err(IdError::Text));
        assert_eq!(NodeId::try_from(&[0u8; 31][..]), Err(IdError::Length(31)));
    }

    #[test]
    fn time_saturates_instead_of_wrapping() {
        let end = Timestamp::from_unix_ms(u64::MAX);
        assert_eq!(end.after(core::time::Duration::from_secs(1)), end);
        assert_eq!(Timestamp::default().before(core::time::Duration::from_secs(1)), Timestamp::default());
    }
}
