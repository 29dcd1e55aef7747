//! What a node writes down beside a lease: whom its bytes are charged to, in sixteen bytes, and the signed request.
//!
//! Decides the form of both, which the store keeps without reading them. Never decides whether a
//! lease is granted. A mark that cannot be read costs no shard: its bytes are then charged to the account alone.

use bytes::Bytes;
use dolmen_proto::ids::AccountId;
use dolmen_proto::wire::{LeaseTerms, PutRequest, Signed, StewardGrant};

use crate::accounts::Payer;
use crate::store::LEASE_TERMS_MAX_BYTES;
use crate::subnet::Subnet;

const VERSION_AND_NO_SUBNET: u8 = 0x10;
const VERSION_AND_SUBNET_V4: u8 = 0x14;
const VERSION_AND_SUBNET_V6: u8 = 0x16;

/// A steward as the books know it: the first eight bytes of the hash of its key; never 0.
///
/// Two stewards whose tags meet would share one grant of the same account: a nuisance to that account alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StewardTag(u64);

impl StewardTag {
    /// The tag of a steward's public key.
    #[must_use]
    pub fn of(steward: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *blake3::hash(steward).as_bytes();
        Self(u64::from_le_bytes([a, b, c, d, e, f, g, h]).max(1))
    }
}

/// The mark of a lease that `payer` is charged for: version and kind of subnet, six bytes of it, one of zero, the
/// steward's tag or zero.
#[must_use]
pub fn mark_of(payer: &Payer) -> [u8; 16] {
    let mut mark = [0; 16];
    match payer.subnet {
        None => mark[0] = VERSION_AND_NO_SUBNET,
        Some(Subnet::V4(prefix)) => {
            mark[0] = VERSION_AND_SUBNET_V4;
            mark[1..4].copy_from_slice(&prefix);
        }
        Some(Subnet::V6(prefix)) => {
            mark[0] = VERSION_AND_SUBNET_V6;
            mark[1..7].copy_from_slice(&prefix);
        }
    }
    mark[8..].copy_from_slice(&payer.steward.map_or(0, |StewardTag(tag)| tag).to_le_bytes());
    mark
}

/// What is kept of a put as the node's defence: the length of the signed lease (u16, little endian), the signed lease,
/// then the signed grant up to the end if a steward put.
#[must_use]
pub fn terms_of(request: &PutRequest) -> Bytes {
    let lease = request.lease.encode();
    let length = u16::try_from(lease.len()).expect("signed terms are bounded far below 64 KiB");
    let grant = request.grant.as_ref().map(Signed::encode).unwrap_or_default();
    Bytes::from([&length.to_le_bytes()[..], &lease, &grant].concat())
}

/// Whom a lease of `account` with this mark is charged to.
#[must_use]
pub fn payer_of(account: AccountId, mark: &[u8; 16]) -> Payer {
    let [kind, a, b, c, d, e, f, _, tag @ ..] = *mark;
    let subnet = match kind {
        VERSION_AND_SUBNET_V4 => Some(Subnet::V4([a, b, c])),
        VERSION_AND_SUBNET_V6 => Some(Subnet::V6([a, b, c, d, e, f])),
        VERSION_AND_NO_SUBNET => None,
        _ => return Payer { account, subnet: None, steward: None },
    };
    let steward = match u64::from_le_bytes(tag) {
        0 => None,
        tag => Some(StewardTag(tag)),
    };
    Payer { account, subnet, steward }
}

const _: () = {
    let most = 2 + Signed::<LeaseTerms>::encoded_max_bytes() + Signed::<StewardGrant>::encoded_max_bytes();
    assert!(most <= LEASE_TERMS_MAX_BYTES, "what is kept of any put fits a lease's record");
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_mark_reads_back(subnet in 0u8..3, prefix: [u8; 6], steward: Option<[u8; 32]>) {
            let subnet = match subnet {
                0 => None,
                1 => Some(Subnet::V4([prefix[0], prefix[1], prefix[2]])),
                _ => Some(Subnet::V6(prefix)),
            };
            let account = AccountId::new([5; 32]);
            let payer = Payer { account, subnet, steward: steward.as_ref().map(StewardTag::of) };
            prop_assert_eq!(payer_of(account, &mark_of(&payer)), payer);
        }

        #[test]
        fn any_mark_charges_the_account(mark: [u8; 16]) {
            let account = AccountId::new([5; 32]);
            let payer = payer_of(account, &mark);
            prop_assert_eq!(payer.account, account);
            prop_assert_eq!(payer_of(account, &mark_of(&payer)), payer, "reading and writing agree on what it says");
        }
    }
}
