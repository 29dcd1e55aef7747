//! What a node writes down beside a lease: the signed words that it rests on, and whom its bytes are charged to.
//!
//! Decides the form of that note, which the store keeps without reading it. Never decides whether a lease is
//! granted. A note that cannot be read costs no shard: its bytes are then charged to the account alone.

use dolmen_proto::ids::AccountId;

use crate::accounts::{Payer, StewardShare};
use crate::subnet::Subnet;

const VERSION: u8 = 1;
const NO_SUBNET: u8 = 0;
const SUBNET_V4: u8 = 4;
const SUBNET_V6: u8 = 6;

/// The note beside one lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseNote {
    /// Where the put came from; see [`Payer::subnet`].
    pub subnet: Option<Subnet>,
    /// The steward who put it, if one did.
    pub steward: Option<StewardShare>,
    /// The signed request as received, for the node's defence.
    pub signed: Vec<u8>,
}

impl LeaseNote {
    /// The note's bytes: version, subnet, steward, then the signed request up to the end.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        match self.subnet {
            None => bytes.push(NO_SUBNET),
            Some(Subnet::V4(prefix)) => {
                bytes.push(SUBNET_V4);
                bytes.extend_from_slice(&prefix);
            }
            Some(Subnet::V6(prefix)) => {
                bytes.push(SUBNET_V6);
                bytes.extend_from_slice(&prefix);
            }
        }
        bytes.push(u8::from(self.steward.is_some()));
        if let Some(share) = self.steward {
            bytes.extend_from_slice(&share.steward);
            bytes.extend_from_slice(&share.quota_bytes.to_le_bytes());
        }
        bytes.extend_from_slice(&self.signed);
        bytes
    }

    /// Reads a note; `None` when these bytes are not one of ours.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (&[version, subnet_kind], mut rest) = bytes.split_first_chunk()?;
        if version != VERSION {
            return None;
        }
        let subnet = match subnet_kind {
            NO_SUBNET => None,
            SUBNET_V4 => Some(Subnet::V4(take(&mut rest)?)),
            SUBNET_V6 => Some(Subnet::V6(take(&mut rest)?)),
            _ => return None,
        };
        let steward = match take(&mut rest)? {
            [0] => None,
            [1] => {
                let steward = take(&mut rest)?;
                Some(StewardShare { steward, quota_bytes: u64::from_le_bytes(take(&mut rest)?) })
            }
            _ => return None,
        };
        Some(Self { subnet, steward, signed: rest.to_vec() })
    }

    /// Whom a lease of `account` with this note is charged to.
    #[must_use]
    pub fn payer(&self, account: AccountId) -> Payer {
        Payer { account, subnet: self.subnet, steward: self.steward }
    }
}

/// Whom a lease is charged to by the note kept beside it, readable or not.
#[must_use]
pub fn payer_of(account: AccountId, note: &[u8]) -> Payer {
    LeaseNote::parse(note).map_or(Payer { account, subnet: None, steward: None }, |note| note.payer(account))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn note() -> impl Strategy<Value = LeaseNote> {
        let subnet = prop_oneof![
            Just(None),
            any::<[u8; 3]>().prop_map(|prefix| Some(Subnet::V4(prefix))),
            any::<[u8; 6]>().prop_map(|prefix| Some(Subnet::V6(prefix))),
        ];
        let steward = proptest::option::of((any::<[u8; 32]>(), any::<u64>()))
            .prop_map(|share| share.map(|(steward, quota_bytes)| StewardShare { steward, quota_bytes }));
        let signed = proptest::collection::vec(any::<u8>(), 0..300);
        (subnet, steward, signed).prop_map(|(subnet, steward, signed)| LeaseNote { subnet, steward, signed })
    }

    proptest! {
        #[test]
        fn a_note_reads_back(note in note()) {
            prop_assert_eq!(LeaseNote::parse(&note.to_bytes()), Some(note));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Some(note) = LeaseNote::parse(&bytes) {
                prop_assert_eq!(note.to_bytes(), bytes, "there is one way to write a note");
            }
        }
    }

    #[test]
    fn an_unreadable_note_still_charges_the_account() {
        let account = AccountId::new([5; 32]);
        assert_eq!(payer_of(account, b"rot"), Payer { account, subnet: None, steward: None });
    }
}
