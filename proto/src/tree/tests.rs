//! Tests of trees of blobs: splitting, walking, bounds.

use proptest::prelude::*;

use super::testing::MemorySink;
use super::*;
use crate::codec::CodecError;
use crate::limits::{BLOB_TARGET_BYTES, SEGMENT_MAX_BYTES};
use crate::manifest::{Entry, EntryKind, Extent, ExtentBlob, ExtentWalk, FolderBlob, FolderEntry, Name, Span, Totals};
use crate::seal::ChunkKey;
use crate::table::{ReceiptBlob, RowBlob};

const ELSEWHERE: SegmentId = SegmentId::new([9; 32]);

fn pointer(number: u32) -> BlobPointer {
    let key = ChunkKey::new(*blake3::hash(&number.to_le_bytes()).as_bytes());
    BlobPointer { key, segment: ELSEWHERE, offset: 16_384, length: 1 + number % 1_000_000 }
}

fn extents(count: u32) -> Vec<Extent> {
    (0..count).map(|number| Extent::Chunk(pointer(number))).collect()
}

fn entry(name: &str) -> Entry {
    let folder = FolderEntry { totals: Totals::default(), tree: pointer(1) };
    Entry::new(Name::new(name).expect("a name"), 0o755, 7, EntryKind::Folder(folder))
}

/// Builds a tree in segments of this size; gives the sink with all segments closed, and the root.
fn build<T: TreeItem>(items: &[T], segment_bytes: usize) -> (MemorySink, BuiltTree<T::Label>) {
    let mut sink = MemorySink::new(segment_bytes);
    let mut builder = TreeBuilder::new();
    for item in items {
        builder.push(item.clone(), &mut sink).expect("in order");
    }
    let mut built = builder.finish(&mut sink).expect("the sink takes everything");
    sink.close();
    built.root = sink.settled(built.root);
    (sink, built)
}

#[test]
fn trees_of_any_length_and_over_any_segments_read_back() {
    for count in [0, 1, 2, 300, 20_000] {
        for segment_bytes in [1, 200_000, SEGMENT_MAX_BYTES] {
            let items = extents(count);
            let (sink, built) = build(&items, segment_bytes);
            assert_eq!(built.items, u64::from(count));
            assert_eq!(sink.walk::<Extent>(built.root).expect("well formed"), items, "{count} {segment_bytes}");
            for blob in sink.blobs() {
                assert!(blob.len() <= TREE_BLOB_MAX_BYTES);
                let node = ExtentBlob::parse(blob, SELF_SEGMENT).expect("well formed");
                assert_eq!(node.to_bytes(), blob, "one encoding");
            }
            if count == 20_000 && segment_bytes == 200_000 {
                assert!(sink.segments() > 3, "the tree was to spread over several segments");
            }
        }
    }
}

#[test]
fn nodes_have_about_the_target_size() {
    let (sink, _) = build(&extents(40_000), SEGMENT_MAX_BYTES);
    let (blobs, bytes) = sink.blobs().fold((0, 0), |(blobs, bytes), blob| (blobs + 1, bytes + blob.len()));
    let mean = bytes / blobs;
    assert!(mean > BLOB_TARGET_BYTES / 2 && mean < BLOB_TARGET_BYTES * 2, "mean {mean}");
}

#[test]
fn items_inserted_in_front_leave_most_blobs_as_they_were() {
    let mut items = extents(20_000);
    let (before, _) = build(&items, SEGMENT_MAX_BYTES);
    items.insert(3, Extent::Hole { length_bytes: 5 });
    let (after, _) = build(&items, SEGMENT_MAX_BYTES);
    let before: std::collections::BTreeSet<&[u8]> = before.blobs().collect();
    let (new, all) =
        after.blobs().fold((0, 0), |(new, all), blob| (new + usize::from(!before.contains(blob)), all + 1));
    assert!(all > 15 && new <= 4, "{new} of {all} blobs are new");
}

#[test]
fn a_look_up_reads_one_blob_a_level() {
    let items: Vec<Entry> = (0..20_000).map(|number| entry(&format!("{number:06}"))).collect();
    let (sink, built) = build(&items, SEGMENT_MAX_BYTES);
    let wanted = Name::new("013371").expect("a name");
    let mut walk = TreeWalk::<Entry>::new(built.root);
    let mut reads = 0;
    let found = loop {
        walk.seek(&wanted);
        let pointer = walk.wanted().cloned().expect("the entry is there");
        reads += 1;
        let entries = walk.supply(sink.fetch(&pointer)).expect("well formed");
        if let Some(found) = entries.into_iter().find(|entry| entry.name == wanted) {
            break found;
        }
    };
    assert_eq!(found, items[13_371]);
    assert_eq!(reads, 2);
    assert!(walk.skipped());
}

#[test]
fn a_range_of_a_file_reads_only_its_blobs() {
    let items = extents(20_000);
    let (sink, built) = build(&items, SEGMENT_MAX_BYTES);
    let Some(Span(size)) = built.label else { panic!("the file has extents") };
    let wanted = size / 3;
    let mut walk = ExtentWalk::new(built.root, size);
    let mut reads = 0;
    loop {
        walk.seek(wanted).expect("within the file");
        let pointer = walk.wanted().cloned().expect("the byte is there");
        reads += 1;
        let placed = walk.supply(sink.fetch(&pointer)).expect("well formed");
        let holds = |start: u64, length: u64| start <= wanted && wanted < start + length;
        if placed.iter().any(|found| holds(found.offset_bytes, found.extent.length_bytes())) {
            break;
        }
    }
    assert_eq!(reads, 2);
}

#[test]
fn items_out_of_order_are_refused_by_writer_and_reader() {
    let mut sink = MemorySink::new(SEGMENT_MAX_BYTES);
    let mut builder = TreeBuilder::new();
    builder.push(entry("b"), &mut sink).expect("first");
    for name in ["a", "b"] {
        let error = builder.push(entry(name), &mut sink).expect_err("not after b");
        assert!(matches!(error, BuildError::Document(DocumentError::Order { what: "entries" })));
    }
    let blob = FolderBlob::Leaf(vec![entry("b"), entry("a")]).to_bytes();
    assert_eq!(FolderBlob::parse(&blob, ELSEWHERE), Err(DocumentError::Order { what: "entries" }));
}

#[test]
fn self_pointers_become_the_segment_they_were_reached_by() {
    let mut own = entry("own");
    let EntryKind::Folder(folder) = &mut own.kind else { unreachable!() };
    folder.tree.segment = SELF_SEGMENT;
    let blob = FolderBlob::Leaf(vec![own]).to_bytes();
    let FolderBlob::Leaf(entries) = FolderBlob::parse(&blob, ELSEWHERE).expect("well formed") else { unreachable!() };
    let EntryKind::Folder(folder) = &entries[0].kind else { unreachable!() };
    assert_eq!(folder.tree.segment, ELSEWHERE);
    assert_eq!(folder.tree.clone().resolve(SegmentId::new([1; 32])).segment, ELSEWHERE, "only once");
}

#[test]
fn pointers_to_segments_that_the_sink_does_not_know_are_not_written() {
    let mut other = ProvisionalIds::new();
    (0..5).for_each(|_| other.close(ELSEWHERE));
    let mut stray = entry("stray");
    let EntryKind::Folder(folder) = &mut stray.kind else { unreachable!() };
    folder.tree.segment = other.open();
    let mut sink = MemorySink::new(SEGMENT_MAX_BYTES);
    let mut builder = TreeBuilder::new();
    builder.push(stray, &mut sink).expect("written later");
    let error = builder.finish(&mut sink).expect_err("nobody knows the segment");
    assert!(matches!(error, BuildError::Document(DocumentError::Unsettled)));
}

#[test]
fn provisional_ids_turn_into_self_or_real_ones() {
    let mut ids = ProvisionalIds::new();
    let first = ids.open();
    assert_eq!(ids.now(first), SELF_SEGMENT);
    ids.close(ELSEWHERE);
    assert_eq!(ids.now(first), ELSEWHERE);
    assert_eq!(ids.now(ids.open()), SELF_SEGMENT);
    assert_eq!(ids.now(SegmentId::new([3; 32])), SegmentId::new([3; 32]));
}

/// Keeps what it is given in one segment, and knows the blobs of trees that were read.
struct Remembering {
    inner: MemorySink,
    known: std::collections::BTreeMap<Vec<u8>, BlobPointer>,
}

impl BlobSink for Remembering {
    type Error = std::convert::Infallible;

    fn make_room(&mut self, length: usize) -> Result<(), Self::Error> {
        self.inner.make_room(length)
    }

    fn segment_now(&self, segment: SegmentId) -> SegmentId {
        self.inner.segment_now(segment)
    }

    fn known(&self, resolved: &[u8]) -> Option<BlobPointer> {
        self.known.get(resolved).cloned()
    }

    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Self::Error> {
        self.inner.put(blob)
    }
}

/// Reads a tree of folders' blobs, noting each as it reads, self pointers resolved.
fn remember(sink: &MemorySink, root: &BlobPointer, known: &mut std::collections::BTreeMap<Vec<u8>, BlobPointer>) {
    let node = FolderBlob::parse(sink.fetch(root), root.segment).expect("well formed");
    known.insert(node.to_bytes(), root.clone());
    if let FolderBlob::Inner { children, .. } = node {
        children.iter().for_each(|child| remember(sink, &child.pointer, known));
    }
}

#[test]
fn a_tree_that_is_written_again_is_shared_whatever_form_its_pointers_had() {
    for segment_bytes in [1, 200_000, SEGMENT_MAX_BYTES] {
        let mut items: Vec<Entry> = (0..5000).map(|number| entry(&format!("{number:06}"))).collect();
        let (before, built) = build(&items, segment_bytes);
        let mut known = std::collections::BTreeMap::new();
        remember(&before, &built.root, &mut known);
        assert!(known.len() > 5, "the tree is one of many blobs");

        let again = |items: &[Entry]| {
            let inner = MemorySink::new(SEGMENT_MAX_BYTES);
            let mut sink = Remembering { inner, known: known.clone() };
            let mut builder = TreeBuilder::new();
            items.iter().for_each(|item| builder.push(item.clone(), &mut sink).expect("in order"));
            let root = builder.finish(&mut sink).expect("the sink takes everything").root;
            sink.inner.close();
            (sink.inner.settled(root), sink.inner.blobs().count())
        };
        assert_eq!(again(&items), (built.root.clone(), 0), "nothing is stored");
        items[2500].mode = 0o700;
        let (root, stored) = again(&items);
        assert_ne!(root, built.root);
        assert_eq!(stored, 2, "the leaf that changed and the root above it");
    }
}

#[test]
fn a_blob_with_a_pointer_into_the_open_segment_is_not_looked_up() {
    struct NeverAsked(MemorySink);
    impl BlobSink for NeverAsked {
        type Error = std::convert::Infallible;
        fn make_room(&mut self, length: usize) -> Result<(), Self::Error> {
            self.0.make_room(length)
        }
        fn segment_now(&self, segment: SegmentId) -> SegmentId {
            self.0.segment_now(segment)
        }
        fn known(&self, resolved: &[u8]) -> Option<BlobPointer> {
            let node = FolderBlob::parse(resolved, SELF_SEGMENT).expect("well formed");
            assert_eq!(node, FolderBlob::Leaf(Vec::new()), "only the empty folder names no open segment");
            None
        }
        fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Self::Error> {
            self.0.put(blob)
        }
    }
    let mut sink = NeverAsked(MemorySink::new(SEGMENT_MAX_BYTES));
    let inside = crate::manifest::build_folder([], &mut sink).expect("empty");
    let outer = Entry::new(Name::new("in").expect("a name"), 0o755, 7, EntryKind::Folder(inside));
    crate::manifest::build_folder([outer], &mut sink).expect("one entry");
    assert_eq!(sink.0.segments(), 0, "all in one segment");
}

fn inner(level: u8, spans: &[u64]) -> Vec<u8> {
    let child = |span: &u64| Child { label: Span(*span), pointer: pointer(7) };
    ExtentBlob::Inner { level, children: spans.iter().map(child).collect() }.to_bytes()
}

fn hole(length_bytes: u64) -> Vec<u8> {
    ExtentBlob::Leaf(vec![Extent::Hole { length_bytes }]).to_bytes()
}

fn supply_all(blobs: &[Vec<u8>]) -> Result<(), DocumentError> {
    let mut walk = TreeWalk::<Extent>::new(pointer(1));
    blobs.iter().try_for_each(|blob| walk.supply(blob).map(drop))
}

#[test]
fn a_blob_that_is_not_what_its_parent_says_is_refused() {
    assert_eq!(supply_all(&[inner(1, &[5, 6]), hole(5), hole(6)]), Ok(()));
    assert_eq!(supply_all(&[inner(1, &[5, 6]), hole(5), hole(7)]), Err(DocumentError::Label));
    let found = supply_all(&[inner(2, &[5]), hole(5)]);
    assert_eq!(found, Err(DocumentError::Level { expected: 1, found: 0 }));
    assert_eq!(supply_all(&[inner(2, &[5]), inner(2, &[5])]), Err(DocumentError::Level { expected: 1, found: 2 }));
    let empty = ExtentBlob::Leaf(Vec::new()).to_bytes();
    assert_eq!(supply_all(&[inner(1, &[5]), empty]), Err(DocumentError::Empty { what: "extents" }));
    assert_eq!(supply_all(&[inner(1, &[u64::MAX, 1])]), Err(DocumentError::Overflow { what: "labels" }));
}

#[test]
fn trees_that_are_too_deep_or_turn_in_circles_end() {
    assert_eq!(ExtentBlob::parse(&inner(16, &[5]), ELSEWHERE), Err(DocumentError::TooDeep { level: 16 }));
    assert_eq!(ExtentBlob::parse(&inner(0, &[5]), ELSEWHERE), Err(DocumentError::Level { expected: 1, found: 0 }));
    assert_eq!(ExtentBlob::parse(&inner(1, &[]), ELSEWHERE), Err(DocumentError::Empty { what: "an inner node" }));
    let looped = vec![inner(15, &[5]); 16];
    assert_eq!(supply_all(&looped), Err(DocumentError::Level { expected: 14, found: 15 }));
}

#[test]
fn a_tree_with_more_or_fewer_items_than_stated_is_refused() {
    for (stated, expected) in [(2, Ok(())), (1, Err(2)), (3, Err(2))] {
        let mut walk = TreeWalk::<Extent>::counted(pointer(1), stated);
        let blobs = [inner(1, &[5, 6]), hole(5), hole(6)];
        let result = blobs.iter().try_for_each(|blob| walk.supply(blob).map(drop));
        let expected = expected.map_err(|found| DocumentError::ItemCount { expected: stated, found });
        assert_eq!(result, expected);
    }
}

#[test]
fn after_an_error_a_walk_is_over() {
    let mut walk = TreeWalk::<Extent>::new(pointer(1));
    assert!(walk.supply(b"").is_err());
    assert_eq!(walk.wanted(), None);
}

#[test]
fn impossible_pointers_and_extents_are_refused() {
    let refused = |offset, length| {
        let mut impossible = pointer(1);
        (impossible.offset, impossible.length) = (offset, length);
        let blob = ExtentBlob::Leaf(vec![Extent::Chunk(impossible)]).to_bytes();
        assert_eq!(ExtentBlob::parse(&blob, ELSEWHERE), Err(DocumentError::Pointer { length, offset }));
    };
    refused(0, 0);
    refused(0, 4 * 1024 * 1024 + 1);
    refused(32 * 1024 * 1024 - 16, 1);
    refused(u32::MAX, 1);
    let mut own = pointer(1);
    own.segment = SELF_SEGMENT;
    let blob = ExtentBlob::Leaf(vec![Extent::Chunk(own)]).to_bytes();
    assert_eq!(ExtentBlob::parse(&blob, ELSEWHERE), Err(DocumentError::SelfPointer { what: "an extent" }));
    assert_eq!(ExtentBlob::parse(&hole(0), ELSEWHERE), Err(DocumentError::Empty { what: "a hole" }));
    let compressed = |compressed_bytes, plain_bytes| {
        let pointer = BlobPointer { offset: 0, length: compressed_bytes, ..pointer(1) };
        ExtentBlob::parse(&ExtentBlob::Leaf(vec![Extent::Compressed { pointer, plain_bytes }]).to_bytes(), ELSEWHERE)
    };
    assert!(compressed(1, 2).is_ok() && compressed(1, 4 << 20).is_ok());
    for (compressed_bytes, plain_bytes) in [(1, 0), (1, 1), (5, 4), (1, (4 << 20) + 1), (1, u32::MAX)] {
        let error = DocumentError::PlainLength { plain_bytes, compressed_bytes };
        assert_eq!(compressed(compressed_bytes, plain_bytes), Err(error));
    }
}

#[test]
fn blobs_of_another_kind_version_or_size_are_refused() {
    let mut blob = hole(1);
    assert_eq!(FolderBlob::parse(&blob, ELSEWHERE), Err(DocumentError::Kind { expected: "entries", found: 4 }));
    blob[0] = 2;
    assert_eq!(ExtentBlob::parse(&blob, ELSEWHERE), Err(DocumentError::Version { found: 2 }));
    let huge = vec![1; TREE_BLOB_MAX_BYTES + 1];
    let error = ExtentBlob::parse(&huge, ELSEWHERE).expect_err("over the limit");
    assert!(matches!(error, DocumentError::Codec(CodecError::TooMuch { .. })));
}

/// What every reader of blobs promises for any bytes: no panic, and one encoding for what it accepts.
fn is_canonical<T: TreeItem>(blob: &[u8]) -> bool {
    Node::<T>::parse(blob, SELF_SEGMENT).map_or(true, |node| node.to_bytes() == blob)
}

fn is_canonical_everywhere(blob: &[u8]) -> bool {
    is_canonical::<Extent>(blob)
        && is_canonical::<Entry>(blob)
        && is_canonical::<crate::table::SegmentRow>(blob)
        && is_canonical::<crate::table::StoredReceipt>(blob)
        && is_canonical::<crate::table::ForwardRow>(blob)
        && is_canonical::<crate::table::LeavingRow>(blob)
        && is_canonical::<crate::history::HistoryRow>(blob)
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(kind in 0u8..20, body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let blob = [&[1, kind][..], &body].concat();
        prop_assert!(is_canonical_everywhere(&blob));
        prop_assert!(is_canonical_everywhere(&body));
        let _ = (RowBlob::parse(&blob, ELSEWHERE), ReceiptBlob::parse(&blob, ELSEWHERE));
    }

    #[test]
    fn damaged_blobs_are_read_without_panic(
        names in proptest::collection::btree_set("[a-z]{1,9}", 0..9),
        damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in any::<prop::sample::Index>(),
    ) {
        let leaf = FolderBlob::Leaf(names.iter().map(|name| entry(name)).collect());
        let mut blob = leaf.to_bytes();
        prop_assert_eq!(FolderBlob::parse(&blob, SELF_SEGMENT), Ok(leaf));
        for (place, value) in damage {
            let place = place.index(blob.len());
            blob[place] = value;
        }
        prop_assert!(is_canonical_everywhere(&blob));
        prop_assert!(is_canonical_everywhere(&blob[..cut.index(blob.len())]));
    }
}
