//! Tests of histories: order, bounds, look-ups, damage.

use proptest::prelude::*;

use super::*;
use crate::seal::ChunkKey;
use crate::tree::testing::MemorySink;
use crate::tree::{BuildError, CountedTree, CountedTreeBuilder, SELF_SEGMENT, TreeWalk};

fn row(number: u64) -> HistoryRow {
    let hash = *blake3::hash(&number.to_le_bytes()).as_bytes();
    HistoryRow {
        created: Timestamp::from_unix_ms(1_790_000_000_000 + number),
        id: SnapshotId::new(hash),
        root: BlobPointer { key: ChunkKey::new(hash), segment: SegmentId::new([9; 32]), offset: 0, length: 300 },
        files: number,
        bytes: number * 1000,
        message: format!("snapshot {number}"),
        tags: if number.is_multiple_of(100) { vec!["a".to_owned(), "v1".to_owned()] } else { Vec::new() },
    }
}

fn build(count: u64) -> (MemorySink, Option<CountedTree>) {
    let mut sink = MemorySink::new(32 << 20);
    let mut builder = CountedTreeBuilder::new();
    (0..count).for_each(|number| builder.push(row(number), &mut sink).expect("in order"));
    let tree = builder.finish(&mut sink).expect("the sink takes everything");
    sink.close();
    let tree = tree.map(|tree| CountedTree { root: sink.settled(tree.root), ..tree });
    (sink, tree)
}

#[test]
fn a_history_of_any_length_reads_back_and_an_empty_one_is_not_written() {
    let (sink, tree) = build(0);
    assert_eq!((tree, sink.blobs().count()), (None, 0));
    for count in [1, 7, 4000] {
        let (sink, tree) = build(count);
        let tree = tree.expect("there are rows");
        assert_eq!(tree.count, count);
        let rows = sink.walk::<HistoryRow>(tree.root).expect("well formed");
        assert_eq!(rows, (0..count).map(row).collect::<Vec<_>>());
    }
}

#[test]
fn a_snapshot_is_found_by_its_time_and_a_wrong_count_is_refused() {
    let (sink, tree) = build(4000);
    let tree = tree.expect("there are rows");
    let mut walk: TreeWalk<HistoryRow> = tree.walk();
    let mut found = Vec::new();
    while found.is_empty() {
        walk.seek(&row(2345).label());
        found = walk.supply(sink.fetch(&walk.wanted().cloned().expect("it is there"))).expect("well formed");
    }
    assert!(found.contains(&row(2345)));
    let mut walk: TreeWalk<HistoryRow> = CountedTree { count: 3999, ..tree }.walk();
    let mut result = Ok(Vec::new());
    while let (Some(pointer), true) = (walk.wanted().cloned(), result.is_ok()) {
        result = walk.supply(sink.fetch(&pointer));
    }
    assert!(matches!(result, Err(DocumentError::ItemCount { expected: 3999, .. })));
}

#[test]
fn rows_out_of_order_or_over_a_limit_are_refused_by_writer_and_reader() {
    let tags = |tags: &[&str]| HistoryRow { tags: tags.iter().map(|tag| (*tag).to_owned()).collect(), ..row(1) };
    let long = HistoryRow { message: "m".repeat(HISTORY_MESSAGE_MAX_BYTES + 1), ..row(1) };
    let many: Vec<String> = (0..=TAGS_MAX).map(|number| format!("{number:02}")).collect();
    let many = HistoryRow { tags: many, ..row(1) };
    for bad in [long, many, tags(&[""]), tags(&["b", "a"]), tags(&["a", "a"]), tags(&[&"t".repeat(TAG_MAX_BYTES + 1)])]
    {
        let mut sink = MemorySink::new(1);
        let error = CountedTreeBuilder::new().push(bad.clone(), &mut sink).expect_err("against a rule");
        assert!(matches!(error, BuildError::Document(_)));
        if bad.tags.len() <= TAGS_MAX {
            assert!(HistoryBlob::parse(&HistoryBlob::Leaf(vec![bad]).to_bytes(), SELF_SEGMENT).is_err());
        }
    }
    let older = HistoryBlob::Leaf(vec![row(2), row(1)]).to_bytes();
    assert_eq!(HistoryBlob::parse(&older, SELF_SEGMENT), Err(DocumentError::Order { what: "snapshots" }));
}

#[test]
fn a_message_is_cut_between_characters() {
    assert_eq!(history_message("short"), "short");
    assert_eq!(history_message(""), "");
    let exact = "x".repeat(HISTORY_MESSAGE_MAX_BYTES);
    assert_eq!(history_message(&exact), exact);
    let wide = format!("{}\u{e9}", "x".repeat(HISTORY_MESSAGE_MAX_BYTES - 1));
    assert_eq!(history_message(&wide), "x".repeat(HISTORY_MESSAGE_MAX_BYTES - 1));
}

proptest! {
    #[test]
    fn rows_round_trip(
        created: u64, id: [u8; 32], own: bool, files: u64, bytes: u64, message in "\\PC{0,60}",
        tags in proptest::collection::btree_set("[a-z0-9.]{1,64}", 0..=16),
    ) {
        let segment = if own { SELF_SEGMENT } else { SegmentId::new([9; 32]) };
        let root = BlobPointer { key: ChunkKey::new(id), segment, offset: 16_384, length: 300 };
        let (created, id) = (Timestamp::from_unix_ms(created), SnapshotId::new(id));
        let message = history_message(&message).to_owned();
        let row = HistoryRow { created, id, root, files, bytes, message, tags: tags.into_iter().collect() };
        let leaf = HistoryBlob::Leaf(vec![row.clone()]);
        prop_assert!(leaf.to_bytes().len() >= 6 + HistoryRow::MIN_BYTES);
        prop_assert_eq!(HistoryBlob::parse(&leaf.to_bytes(), SELF_SEGMENT), Ok(leaf.clone()));
        let HistoryBlob::Leaf(rows) = HistoryBlob::parse(&leaf.to_bytes(), SegmentId::new([9; 32])).expect("the same") else {
            unreachable!("a leaf")
        };
        prop_assert!(!rows[0].root.is_self(), "the reader names the segment");
    }

    #[test]
    fn damaged_rows_have_one_encoding_or_none(number in 0u64..300, place: prop::sample::Index, value: u8) {
        let mut blob = HistoryBlob::Leaf(vec![row(number), row(number + 1)]).to_bytes();
        let place = place.index(blob.len());
        blob[place] = value;
        if let Ok(node) = HistoryBlob::parse(&blob, SELF_SEGMENT) {
            prop_assert_eq!(node.to_bytes(), blob);
        }
    }
}
