//! Tests of base tables: round trips, damage, look-ups.

use core::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::codec::{DocumentError, Extensions};
use crate::ids::{NodeId, SegmentId, ShardIndex, ShardRoot};
use crate::limits::{TABLE_NODES_MAX, TABLE_ROWS_INLINE_MAX};
use crate::policy::Policy;
use crate::segment::{Geometry, SegmentNonce};
use crate::tree::testing::MemorySink;
use crate::tree::{SELF_SEGMENT, TreeWalk};

fn row(number: u32) -> SegmentRow {
    let geometry = Geometry::for_payload(Policy::new(2, 4).expect("legal"), 5000).expect("fits");
    let nonce = SegmentNonce::new(*blake3::hash(&number.to_le_bytes()).as_bytes());
    let roots = (0..4).map(|shard| ShardRoot::new([shard; 32])).collect();
    SegmentRow::new(RowKind::Content, geometry, nonce, roots, vec![Some(0), Some(1), None, Some(2)]).expect("4 shards")
}

fn rows(count: u32) -> Vec<SegmentRow> {
    let mut rows: Vec<_> = (0..count).map(row).collect();
    rows.sort_by_key(SegmentRow::id);
    rows
}

fn nodes() -> Vec<NodeEntry> {
    let address: SocketAddr = "192.0.2.7:7000".parse().expect("valid");
    (0..3).map(|number| NodeEntry::new(NodeId::new([number; 32]), [address])).collect()
}

fn table(rows: Rows) -> TableRoot {
    TableRoot {
        policy: Policy::new(7, 16).expect("legal"),
        nodes: nodes(),
        stewards: vec![[1; 32], [2; 32]],
        rows,
        further: vec![row(1_000_000)],
        receipts: None,
        forwards: None,
        leaving: None,
        extensions: Extensions::default(),
    }
}

#[test]
fn a_table_of_any_length_reads_back() {
    for count in [0, 1, 64, 65, 3000] {
        let mut sink = MemorySink::new(300_000);
        let all = rows(count);
        let mut builder = RowListBuilder::new();
        for row in &all {
            builder.push(row.clone(), &mut sink).expect("ascending");
        }
        let rows = builder.finish(&mut sink).expect("the sink takes everything");
        assert_eq!(rows.count(), u64::from(count));
        let root = table(rows).put(&mut sink).expect("the sink takes everything");
        sink.close();
        let root = sink.settled(root);
        let read = TableRoot::parse(sink.fetch(&root), root.segment).expect("well formed");
        match &read.rows {
            Rows::Inline(found) => {
                assert!(found.len() <= TABLE_ROWS_INLINE_MAX);
                assert_eq!(*found, all);
                assert!(all.iter().all(|row| read.inline_row(row.id()) == Some(row)));
            }
            Rows::Tree { root, .. } => assert_eq!(sink.walk::<SegmentRow>(root.clone()).expect("well formed"), all),
        }
        assert!(read.inline_row(row(1_000_000).id()).is_some());
        assert_eq!(read.inline_row(SELF_SEGMENT), None);
    }
}

#[test]
fn a_row_is_found_in_a_tree_by_its_id() {
    let mut sink = MemorySink::new(32 << 20);
    let all = rows(3000);
    let mut builder = RowListBuilder::new();
    all.iter().for_each(|row| builder.push(row.clone(), &mut sink).expect("ascending"));
    let Rows::Tree { count, root } = builder.finish(&mut sink).expect("fits") else { panic!("3000 rows are a tree") };
    sink.close();
    let root = sink.settled(root);
    for wanted in [all[0].id(), all[1234].id(), all[2999].id()] {
        let mut walk = TreeWalk::<SegmentRow>::counted(root.clone(), count);
        let mut found = Vec::new();
        while found.is_empty() {
            walk.seek(&wanted);
            let pointer = walk.wanted().cloned().expect("the row is there");
            found = walk.supply(sink.fetch(&pointer)).expect("well formed");
        }
        assert!(found.iter().any(|row| row.id() == wanted));
    }
    let mut walk = TreeWalk::<SegmentRow>::counted(root, count + 1);
    let mut result = Ok(Vec::new());
    while let (Some(pointer), true) = (walk.wanted().cloned(), result.is_ok()) {
        result = walk.supply(sink.fetch(&pointer));
    }
    assert_eq!(result, Err(DocumentError::ItemCount { expected: 3001, found: 3000 }));
}

#[test]
fn a_row_s_nodes_are_looked_up_and_bounded() {
    let table = table(Rows::Inline(Vec::new()));
    let mut row = row(1);
    let holders = table.holders(&row).expect("all in the list");
    assert_eq!(holders, [Some(&table.nodes[0]), Some(&table.nodes[1]), None, Some(&table.nodes[2])]);
    row.place(ShardIndex::new(2), Some(3)).expect("shard 2 of 4");
    assert_eq!(table.holders(&row), Err(DocumentError::NodeIndex { index: 3, nodes: 3 }));
    assert!(row.place(ShardIndex::new(4), None).is_err());
    assert!(row.place(ShardIndex::new(0), Some(u32::MAX)).is_err());
}

#[test]
fn rows_with_too_few_shards_or_other_lengths_are_refused() {
    let good = row(1);
    let roots = good.roots()[..3].to_vec();
    let short = SegmentRow::new(RowKind::Content, good.geometry(), good.nonce(), roots, good.nodes().to_vec());
    assert_eq!(short, Err(DocumentError::ShardCount { expected: 4, found: 3 }));
    let bytes = RowBlob::Leaf(vec![good]).to_bytes();
    let first = 6;
    for (place, value, expected) in [
        (first + 43, 3, DocumentError::ShardCount { expected: 4, found: 3 }),
        (first + 1, 0, DocumentError::Geometry),
        (first + 2, 1, DocumentError::Geometry),
        (first + 7, 1, DocumentError::Geometry),
    ] {
        let mut bytes = bytes.clone();
        bytes[place] = value;
        assert_eq!(RowBlob::parse(&bytes, SELF_SEGMENT), Err(expected), "{place}");
    }
}

#[test]
fn lists_of_a_table_that_are_double_or_out_of_order_are_refused() {
    let good = table(Rows::Inline(rows(3)));
    assert!(good.to_bytes().is_ok());
    let mut bad = good.clone();
    bad.nodes.push(bad.nodes[0].clone());
    assert_eq!(bad.to_bytes(), Err(DocumentError::NodeEntry));
    let mut bad = good.clone();
    bad.stewards.swap(0, 1);
    assert_eq!(bad.to_bytes(), Err(DocumentError::Order { what: "stewards" }));
    let mut bad = good.clone();
    bad.further.push(bad.further[0].clone());
    assert_eq!(bad.to_bytes(), Err(DocumentError::Order { what: "further table segments" }));
    let mut bad = good;
    bad.rows = Rows::Inline(rows(3).into_iter().rev().collect());
    assert_eq!(bad.to_bytes(), Err(DocumentError::Order { what: "segment rows" }));
}

#[test]
fn a_full_node_list_fits_the_root() {
    let mut full = table(Rows::Inline(rows(64)));
    let address = |number: u16| SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, number], 7000));
    full.nodes = (0..TABLE_NODES_MAX)
        .map(|number| NodeEntry::new(NodeId::new(*blake3::hash(&number.to_le_bytes()).as_bytes()), (0..8).map(address)))
        .collect();
    let bytes = full.to_bytes().expect("fits a blob");
    assert_eq!(TableRoot::parse(&bytes, SELF_SEGMENT), Ok(full));
}

proptest! {
    #[test]
    fn any_bytes_are_read_as_a_table_without_panic(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        let needs = [1, 6, 0, 0, 0, 0, 0];
        for blob in [body.clone(), [&needs[..], &body].concat()] {
            if let Ok(table) = TableRoot::parse(&blob, SELF_SEGMENT) {
                prop_assert_eq!(table.to_bytes().expect("was read"), blob);
            }
        }
    }

    #[test]
    fn damaged_tables_have_one_encoding_or_none(place: prop::sample::Index, value: u8, count in 0u32..4) {
        let mut blob = table(Rows::Inline(rows(count))).to_bytes().expect("well formed");
        let place = place.index(blob.len());
        blob[place] = value;
        if let Ok(table) = TableRoot::parse(&blob, SELF_SEGMENT) {
            prop_assert_eq!(table.to_bytes().expect("was read"), blob);
        }
    }

    #[test]
    fn receipts_round_trip(root: [u8; 32], node: [u8; 32], signed in proptest::collection::vec(any::<u8>(), 1..1024)) {
        let receipt = StoredReceipt { root: ShardRoot::new(root), node: NodeId::new(node), signed };
        let leaf = ReceiptBlob::Leaf(vec![receipt]);
        prop_assert_eq!(ReceiptBlob::parse(&leaf.to_bytes(), SegmentId::new([1; 32])), Ok(leaf));
    }
}
