//! Secrets as types: 32 bytes each, wiped when dropped, never printed, never taken for one another.
//!
//! Decides how a secret is held. Never decides what it is derived from or good for: see [`crate::keys`] and
//! [`crate::seal`]. Secrets are cloned on purpose only, and compared only where documents are.

/// Defines a secret of 32 bytes as a type of its own.
macro_rules! secret {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes 32 secret bytes over; the caller wipes its own copy.
            #[must_use]
            pub const fn new(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// The 32 secret bytes, for deriving and for sealed documents.
            #[must_use]
            pub const fn expose(&self) -> &[u8; 32] {
                &self.0
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                formatter.write_str(concat!(stringify!($name), "(..)"))
            }
        }
    };
}

pub(crate) use secret;

#[cfg(test)]
mod tests {
    use crate::keys::VaultSecret;

    #[test]
    fn a_secret_does_not_print_its_bytes() {
        assert_eq!(format!("{:?}", VaultSecret::new([0xab; 32])), "VaultSecret(..)");
    }
}
