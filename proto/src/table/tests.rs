//! Tests of base tables: round trips, damage, look-ups.

use core::net::SocketAddr;

use proptest::prelude::*;

use super::*;
use crate::codec::{DocumentError, Extensions};
use crate::ids::{NodeId, SegmentId, ShardIndex, ShardRoot, Timestamp};
use crate::keys::{MaskKey, MaskSecret};
use crate::limits::{TABLE_NODES_MAX, TABLE_ROWS_INLINE_MAX};
use crate::mask::Mask;
use crate::policy::Policy;
use crate::segment::{Geometry, SegmentNonce};
use crate::tree::testing::MemorySink;
use crate::tree::{BlobPointer, CountedTree, CountedTreeBuilder, SELF_SEGMENT, TreeItem, TreeWalk};

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

fn counted(count: u64) -> CountedTree {
    let key = crate::seal::ChunkKey::new([3; 32]);
    CountedTree { count, root: BlobPointer { key, segment: SELF_SEGMENT, offset: 0, length: 77 } }
}

fn forward(number: u32) -> ForwardRow {
    let (segment, to_segment) = (SegmentId::new([1; 32]), SegmentId::new([2; 32]));
    ForwardRow { segment, offset: number * 100, sealed_bytes: 100, to_segment, to_offset: number * 100 + 7 }
}

#[test]
fn forwards_and_leaving_segments_stand_in_the_root() {
    let good = TableRoot { forwards: Some(counted(3)), leaving: Some(counted(4)), ..table(Rows::Inline(rows(1))) };
    let bytes = good.to_bytes().expect("well formed");
    assert_eq!(TableRoot::parse(&bytes, SELF_SEGMENT), Ok(good.clone()));
    let elsewhere = SegmentId::new([7; 32]);
    let read = TableRoot::parse(&bytes, elsewhere).expect("the same bytes");
    for tree in [read.forwards, read.leaving] {
        assert_eq!(tree.expect("is there").root.segment, elsewhere, "self pointers are resolved");
    }
    let empty = TableRoot { forwards: Some(counted(0)), ..good.clone() };
    assert!(matches!(empty.to_bytes(), Err(DocumentError::Empty { .. })));
    let mut twice = good;
    twice.extensions.insert(2, Vec::new()).expect("even");
    assert_eq!(twice.to_bytes(), Err(DocumentError::ReservedExtension { key: 2 }));
}

#[test]
fn a_forwarded_chunk_is_found_in_the_tree_and_one_that_was_not_is_missed() {
    let mut sink = MemorySink::new(32 << 20);
    let mut builder = CountedTreeBuilder::new();
    (0..4000).for_each(|number| builder.push(forward(number), &mut sink).expect("in order"));
    let tree = builder.finish(&mut sink).expect("the sink takes everything").expect("there are rows");
    sink.close();
    let tree = CountedTree { root: sink.settled(tree.root), ..tree };
    let find = |offset| {
        let wanted = ForwardKey { segment: SegmentId::new([1; 32]), offset };
        let mut walk: TreeWalk<ForwardRow> = tree.walk();
        loop {
            walk.seek(&wanted);
            let rows = walk.supply(sink.fetch(walk.wanted()?)).expect("well formed");
            if !rows.is_empty() {
                return rows.into_iter().find(|row| row.label() == wanted);
            }
        }
    };
    assert_eq!(find(234_500), Some(forward(2345)));
    assert_eq!(find(234_501), None);
}

#[test]
fn forwards_that_move_nothing_or_past_a_segment_are_refused() {
    let good = forward(1);
    assert_eq!(good.check(), Ok(()));
    let max = u32::try_from(crate::limits::SEGMENT_MAX_BYTES).expect("fits");
    assert_eq!(ForwardRow { to_offset: max - 100, ..good }.check(), Ok(()));
    for bad in [
        ForwardRow { to_segment: good.segment, ..good },
        ForwardRow { segment: SELF_SEGMENT, ..good },
        ForwardRow { to_segment: SELF_SEGMENT, ..good },
        ForwardRow { sealed_bytes: 16, ..good },
        ForwardRow { sealed_bytes: u32::MAX, ..good },
        ForwardRow { offset: max - 99, ..good },
        ForwardRow { to_offset: u32::MAX, ..good },
    ] {
        assert_eq!(bad.check(), Err(DocumentError::Forward), "{bad:?}");
        let bytes = ForwardBlob::Leaf(vec![bad]).to_bytes();
        assert_eq!(ForwardBlob::parse(&bytes, SELF_SEGMENT), Err(DocumentError::Forward));
    }
    let bytes = ForwardBlob::Leaf(vec![forward(1), forward(1)]).to_bytes();
    assert_eq!(ForwardBlob::parse(&bytes, SELF_SEGMENT), Err(DocumentError::Order { what: "forwarding rows" }));
}

#[test]
fn a_row_may_carry_its_mask_key() {
    let plain = row(1);
    let secret = MaskSecret::new([5; 32]);
    let key = MaskKey::derive(&secret, &plain.nonce());
    let with = plain.clone().with_mask_key(key.clone());
    assert_eq!((with.id(), with.kind(), with.mask_key()), (plain.id(), plain.kind(), Some(&key)));
    assert_eq!(plain.mask_key(), None);
    let bytes = RowBlob::Leaf(vec![with.clone()]).to_bytes();
    assert_eq!(RowBlob::parse(&bytes, SELF_SEGMENT), Ok(RowBlob::Leaf(vec![with])));
    assert_eq!(bytes.len(), RowBlob::Leaf(vec![plain.clone()]).to_bytes().len() + 32);
    assert!(RowBlob::parse(&bytes[..bytes.len() - 1], SELF_SEGMENT).is_err());
    let (mut one, mut other) = ([0; 100], [0; 100]);
    let policy = plain.geometry().policy();
    Mask::new(&secret, &plain.nonce(), policy).apply(ShardIndex::new(3), 5, &mut one);
    Mask::of_key(key, policy).apply(ShardIndex::new(3), 5, &mut other);
    assert_eq!(one, other);
}

#[test]
fn leaving_segments_keep_their_rows() {
    let mut leaving: Vec<LeavingRow> =
        rows(3).into_iter().map(|row| LeavingRow { left: Timestamp::from_unix_ms(5), row }).collect();
    let leaf = LeavingBlob::Leaf(leaving.clone());
    assert_eq!(LeavingBlob::parse(&leaf.to_bytes(), SELF_SEGMENT), Ok(leaf));
    leaving.reverse();
    let order = Err(DocumentError::Order { what: "leaving segments" });
    assert_eq!(LeavingBlob::parse(&LeavingBlob::Leaf(leaving).to_bytes(), SELF_SEGMENT), order);
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
        let good = TableRoot { forwards: Some(counted(3)), leaving: Some(counted(4)), ..table(Rows::Inline(rows(count))) };
        let mut blob = good.to_bytes().expect("well formed");
        let place = place.index(blob.len());
        blob[place] = value;
        if let Ok(table) = TableRoot::parse(&blob, SELF_SEGMENT) {
            prop_assert_eq!(table.to_bytes().expect("was read"), blob);
        }
    }

    #[test]
    fn forwards_round_trip(
        segment: [u8; 32], offset in 0u32..30_000_000, sealed in 17u32..16_384, to: [u8; 32], to_offset in 0u32..30_000_000,
    ) {
        let (segment, to_segment) = (SegmentId::new(segment), SegmentId::new(to));
        let leaf = ForwardBlob::Leaf(vec![ForwardRow { segment, offset, sealed_bytes: sealed, to_segment, to_offset }]);
        prop_assert_eq!(ForwardBlob::parse(&leaf.to_bytes(), SegmentId::new([1; 32])), Ok(leaf));
    }

    #[test]
    fn receipts_round_trip(root: [u8; 32], node: [u8; 32], signed in proptest::collection::vec(any::<u8>(), 1..1024)) {
        let receipt = StoredReceipt { root: ShardRoot::new(root), node: NodeId::new(node), signed };
        let leaf = ReceiptBlob::Leaf(vec![receipt]);
        prop_assert_eq!(ReceiptBlob::parse(&leaf.to_bytes(), SegmentId::new([1; 32])), Ok(leaf));
    }
}
