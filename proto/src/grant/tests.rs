//! Tests of grants: a row counts for its node and its steward alone; hostile bytes.

use proptest::prelude::*;

use super::*;
use crate::ids::Timestamp;
use crate::keys::{DatasetKeys, VaultSecret, account_key, delete_key, renew_key};
use crate::tree::TreeBuilder;
use crate::tree::testing::MemorySink;
use crate::wire::GrantRights;

fn keys() -> DatasetKeys {
    DatasetKeys::derive(&VaultSecret::new([1; 32]), 0)
}

fn row(node: NodeId, steward: &StewardKeys) -> GrantRow {
    let keys = keys();
    let account = account_key(&keys.account, node);
    let grant = StewardGrant {
        account: AccountId::new(account.verifying_key().to_bytes()),
        steward: steward.at(node).verifying_key().to_bytes(),
        node,
        rights: GrantRights { put: true, renew: true },
        quota_bytes: 1 << 40,
        until: Timestamp::from_unix_ms(1_800_000_000_000),
    };
    GrantRow {
        node,
        account: grant.account,
        delete_key: delete_key(&keys.delete, node).verifying_key().to_bytes(),
        renew_key: renew_key(&keys.renew, node).verifying_key().to_bytes(),
        signed: Signed::sign(grant, &account).encode(),
    }
}

#[test]
fn a_grant_opens_for_its_steward_at_its_node_and_for_nobody_else() {
    let (mine, other) = (keys().steward(1), keys().steward(2));
    let (mine, other) = (StewardKeys::derive(&mine.secret), StewardKeys::derive(&other.secret));
    let node = NodeId::new([3; 32]);
    let good = row(node, &mine);
    let (signed, key) = good.open(&mine).expect("his own");
    assert_eq!(signed.claimed().steward, key.verifying_key().to_bytes());
    assert!(good.open(&other).is_err());
    assert!(GrantRow { node: NodeId::new([4; 32]), ..good.clone() }.open(&mine).is_err());
    assert!(GrantRow { account: AccountId::new([4; 32]), ..good.clone() }.open(&mine).is_err());
    for place in 0..good.signed.len() {
        let mut bad = good.clone();
        bad.signed[place] ^= 1;
        assert!(bad.open(&mine).is_err(), "{place}");
    }
}

#[test]
fn a_tree_of_grants_reads_back_in_order() {
    let steward = StewardKeys::derive(&keys().steward(1).secret);
    let rows: Vec<GrantRow> = (0..60).map(|node| row(NodeId::new([node; 32]), &steward)).collect();
    let mut sink = MemorySink::new(1 << 20);
    let mut builder = TreeBuilder::new();
    for row in &rows {
        builder.push(row.clone(), &mut sink).expect("in order");
    }
    let root = builder.finish(&mut sink).expect("the sink takes everything").root;
    sink.close();
    assert_eq!(sink.walk::<GrantRow>(sink.settled(root)), Ok(rows));
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        for blob in [body.clone(), [&[1, 18, 1, 0, 0, 0][..], &body].concat()] {
            let nominal = crate::tree::SELF_SEGMENT;
            if let Ok(node) = GrantBlob::parse(&blob, nominal) {
                prop_assert_eq!(node.to_bytes(), blob);
            }
        }
        let steward = StewardKeys::derive(&keys().steward(1).secret);
        let row = GrantRow { signed: body, ..row(NodeId::new([1; 32]), &steward) };
        prop_assert!(row.open(&steward).is_err());
    }
}
