//! Tests of overlays: which receipts count, round trips, hostile bytes.

use ed25519_dalek::SigningKey;
use proptest::prelude::*;

use super::*;
use crate::ids::{AccountId, NodeId, ShardRoot};
use crate::limits::OVERLAY_RENEWAL_SHARDS_MAX;
use crate::tree::testing::MemorySink;
use crate::tree::{CountedTreeBuilder, SELF_SEGMENT};
use crate::wire::{Receipt, ReceiptError, RenewReceipt, Signed};

const NOW: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);
const UNTIL: Timestamp = Timestamp::from_unix_ms(1_790_000_000_001);

fn key(number: u8) -> SigningKey {
    SigningKey::from_bytes(&[number; 32])
}

fn node(number: u8) -> NodeId {
    NodeId::new(key(number).verifying_key().to_bytes())
}

fn root(number: u8) -> ShardRoot {
    ShardRoot::new([number; 32])
}

fn receipt(shard: u8) -> Receipt {
    Receipt {
        node: node(1),
        root: root(shard),
        length_bytes: 1 << 20,
        account: AccountId::new([4; 32]),
        until: UNTIL,
        issued_at: NOW,
    }
}

fn renewal(shards: u8) -> RenewReceipt {
    RenewReceipt {
        node: node(1),
        account: AccountId::new([4; 32]),
        until: UNTIL,
        issued_at: NOW,
        shards: (0..shards).map(|shard| (root(shard), 33_554_432)).collect(),
    }
}

fn row(segment: u8, shard: u8) -> OverlayRow {
    let addresses = ["192.0.2.1:7000".parse().expect("valid")];
    OverlayRow {
        segment: SegmentId::new([segment; 32]),
        shard: ShardIndex::new(shard),
        node: NodeEntry::new(node(1), addresses),
        receipt: KeptReceipt::of_put(&Signed::sign(receipt(shard), &key(1))),
    }
}

#[test]
fn a_receipt_counts_for_what_its_node_signed_and_until_it_ends() {
    let good = KeptReceipt::of_put(&Signed::sign(receipt(5), &key(1)));
    let holds = |kept: &KeptReceipt, of, shard, length, now| kept.holds(node(of), root(shard), length, now);
    assert_eq!(holds(&good, 1, 5, 1 << 20, NOW), Ok(UNTIL));
    assert_eq!(holds(&good, 1, 5, 1 << 20, UNTIL), Err(ReceiptError::Expired));
    assert_eq!(holds(&good, 2, 5, 1 << 20, NOW), Err(ReceiptError::OtherNode));
    assert_eq!(holds(&good, 1, 6, 1 << 20, NOW), Err(ReceiptError::OtherShard));
    assert_eq!(holds(&good, 1, 5, 1 << 19, NOW), Err(ReceiptError::OtherShard));
    let forged = KeptReceipt::of_put(&Signed::sign(receipt(5), &key(2)));
    assert!(matches!(holds(&forged, 1, 5, 1 << 20, NOW), Err(ReceiptError::Wire(_))));
    let other_kind = KeptReceipt::Renewal(good.bytes().clone());
    assert!(holds(&other_kind, 1, 5, 1 << 20, NOW).is_err());

    let many = KeptReceipt::of_renewal(&Signed::sign(renewal(3), &key(1)));
    for shard in 0..3 {
        assert_eq!(holds(&many, 1, shard, 33_554_432, NOW), Ok(UNTIL));
    }
    assert_eq!(holds(&many, 1, 3, 33_554_432, NOW), Err(ReceiptError::OtherShard));
    let forged = KeptReceipt::of_renewal(&Signed::sign(renewal(3), &key(2)));
    assert!(holds(&forged, 1, 1, 33_554_432, NOW).is_err());
    assert!(holds(&KeptReceipt::Put(many.bytes().clone()), 1, 1, 33_554_432, NOW).is_err());
}

#[test]
fn the_receipt_of_the_largest_renewal_fits_a_row() {
    let most = u8::try_from(OVERLAY_RENEWAL_SHARDS_MAX).expect("few");
    let receipt = RenewReceipt {
        until: Timestamp::from_unix_ms(u64::MAX),
        issued_at: Timestamp::from_unix_ms(u64::MAX),
        ..renewal(most)
    };
    let row = OverlayRow { receipt: KeptReceipt::of_renewal(&Signed::sign(receipt, &key(1))), ..row(1, 1) };
    row.check().expect("it fits");
}

#[test]
fn an_overlay_reads_back_and_its_rows_have_an_order() {
    let rows: Vec<OverlayRow> = (0..40).flat_map(|segment| [row(segment, 0), row(segment, 63)]).collect();
    let mut sink = MemorySink::new(1 << 20);
    let mut builder = CountedTreeBuilder::new();
    for row in &rows {
        builder.push(row.clone(), &mut sink).expect("in order");
    }
    let tree = builder.finish(&mut sink).expect("taken");
    let overlay = OverlayRoot { published: NOW, rows: tree, further: Vec::new(), extensions: Extensions::default() };
    let place = overlay.put(&mut sink).expect("taken");
    sink.close();
    let place = sink.settled(place);
    let read = OverlayRoot::parse(sink.fetch(&place), place.segment).expect("written by us");
    assert_eq!(sink.walk::<OverlayRow>(read.rows.expect("there are rows").root), Ok(rows));
    assert_eq!(
        OverlayBlob::Leaf(vec![row(1, 2), row(1, 1)]).to_bytes().len(),
        OverlayBlob::Leaf(vec![row(1, 1); 2]).to_bytes().len()
    );
    for wrong in [vec![row(1, 2), row(1, 1)], vec![row(1, 1), row(1, 1)], vec![row(2, 0), row(1, 1)]] {
        let found = OverlayBlob::parse(&OverlayBlob::Leaf(wrong).to_bytes(), SELF_SEGMENT);
        assert_eq!(found.map(drop), Err(DocumentError::Order { what: "overlay rows" }));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..700)) {
        let nominal = SELF_SEGMENT;
        for blob in [body.clone(), [&[1, 21, 1, 0, 0, 0][..], &body].concat(), [&[1, 22, 1, 1, 0, 0, 0][..], &body].concat()] {
            if let Ok(node) = OverlayBlob::parse(&blob, nominal) {
                prop_assert_eq!(node.to_bytes(), blob);
            }
        }
        for blob in [body.clone(), [&[1, 20, 0, 0, 0, 0, 0][..], &body].concat()] {
            if let Ok(root) = OverlayRoot::parse(&blob, nominal) {
                prop_assert_eq!(root.to_bytes(), Ok(blob));
            }
        }
        for kept in [KeptReceipt::Put(body.clone().into()), KeptReceipt::Renewal(body.into())] {
            prop_assert!(kept.holds(node(1), root(1), 1, NOW).is_err());
        }
    }

    #[test]
    fn a_damaged_leaf_has_one_encoding_or_none(place: prop::sample::Index, value: u8) {
        let mut blob = OverlayBlob::Leaf(vec![row(1, 2), row(3, 4)]).to_bytes();
        let place = place.index(blob.len());
        blob[place] = value;
        if let Ok(node) = OverlayBlob::parse(&blob, SELF_SEGMENT) {
            prop_assert_eq!(node.to_bytes(), blob);
        }
    }
}
