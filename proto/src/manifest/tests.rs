//! Tests of manifests: round trips, damage, order and bounds.

use proptest::prelude::*;

use super::*;
use crate::codec::{DocumentError, Extensions, Needs, Reader, Writer};
use crate::ids::{SegmentId, SnapshotId, Timestamp};
use crate::limits::{EXTENTS_INLINE_MAX, MESSAGE_MAX_BYTES, XATTRS_MAX_BYTES};
use crate::seal::ChunkKey;
use crate::tree::testing::MemorySink;
use crate::tree::{BlobPointer, BuildError, SELF_SEGMENT, TreeItem};

const CONTENT: SegmentId = SegmentId::new([9; 32]);

fn name(text: &str) -> Name {
    Name::new(text).expect("a name")
}

fn chunk(number: u8) -> BlobPointer {
    BlobPointer { key: ChunkKey::new([number; 32]), segment: CONTENT, offset: 0, length: 1000 }
}

fn file(text: &str, size_bytes: u64, extents: ExtentList) -> Entry {
    Entry::new(name(text), 0o644, -1, EntryKind::File(FileEntry { size_bytes, hash: Some([7; 32]), extents }))
}

fn one_chunk(text: &str) -> Entry {
    file(text, 1000, ExtentList::Inline(vec![Extent::Chunk(chunk(1))]))
}

fn folder(text: &str, folder: FolderEntry) -> Entry {
    Entry::new(name(text), 0o755, 0, EntryKind::Folder(folder))
}

fn snapshot(root: FolderEntry) -> Snapshot {
    let parent = Some(Parent { id: SnapshotId::new([4; 32]), root: chunk(2) });
    let created = Timestamp::from_unix_ms(1_790_000_000_000);
    let extensions = Extensions::default();
    Snapshot { needs: Needs::NONE, created, message: "first".to_owned(), parent, salt: [5; 32], root, extensions }
}

fn walk_folder(sink: &MemorySink, folder: &FolderEntry) -> Result<Vec<Entry>, DocumentError> {
    let mut walk = FolderWalk::new(folder);
    let mut entries = Vec::new();
    while let Some(pointer) = walk.wanted().cloned() {
        entries.extend(walk.supply(sink.fetch(&pointer))?);
    }
    Ok(entries)
}

fn write_entry(entry: &Entry) -> Vec<u8> {
    let mut writer = Writer::new();
    entry.write(&mut writer);
    writer.into_bytes()
}

fn read_entry(bytes: &[u8]) -> Result<Entry, DocumentError> {
    let mut reader = Reader::new(bytes);
    let entry = Entry::read(&mut reader)?;
    entry.check()?;
    reader.finish()?;
    Ok(entry)
}

#[test]
fn a_tree_of_folders_reads_back_with_its_totals() {
    for segment_bytes in [1, 100_000, 32 << 20] {
        let mut sink = MemorySink::new(segment_bytes);
        let many: Vec<Entry> = (0..3000).map(|number| one_chunk(&format!("{number:05}"))).collect();
        let inside = build_folder(many.clone(), &mut sink).expect("sorted");
        let symlink = Entry::new(name("s"), 0o777, 0, EntryKind::Symlink { target: b"../elsewhere".to_vec() });
        let root = build_folder([one_chunk("a"), folder("in", inside), symlink], &mut sink).expect("sorted");
        assert_eq!(root.totals, Totals { files: 3001, folders: 1, symlinks: 1, bytes: 3_001_000 });
        let pointer = snapshot(root).put(&mut sink).expect("the sink takes everything");
        sink.close();

        let pointer = sink.settled(pointer);
        let read = Snapshot::parse(sink.fetch(&pointer), pointer.segment).expect("well formed");
        let entries = walk_folder(&sink, &read.root).expect("well formed");
        let EntryKind::Folder(inside) = &entries[1].kind else { panic!("the second is a folder") };
        assert_eq!(walk_folder(&sink, inside).expect("well formed"), many);
    }
}

#[test]
fn a_folder_that_does_not_come_to_its_totals_is_refused() {
    let mut sink = MemorySink::new(32 << 20);
    let built = build_folder([one_chunk("a"), one_chunk("b")], &mut sink).expect("sorted");
    sink.close();
    let tree = sink.settled(built.tree);
    for (files, bytes, good) in [(2, 2000, true), (1, 2000, false), (3, 2000, false), (2, 1999, false)] {
        let totals = Totals { files, bytes, ..Totals::default() };
        let result = walk_folder(&sink, &FolderEntry { totals, tree: tree.clone() });
        assert_eq!(result.is_ok(), good);
        assert!(good || result == Err(DocumentError::Totals));
    }
}

#[test]
fn a_folder_cannot_lie_below_itself() {
    let totals = Totals { folders: 1, ..Totals::default() };
    let looped = FolderEntry { totals, tree: chunk(3) };
    let blob = FolderBlob::Leaf(vec![folder("again", looped.clone())]).to_bytes();
    assert_eq!(FolderWalk::new(&looped).supply(&blob), Err(DocumentError::Totals), "1 folder is not 1 + 1 folders");
}

#[test]
fn extents_spill_into_a_tree_beyond_the_inline_limit() {
    for (count, is_tree) in [(0, false), (EXTENTS_INLINE_MAX, false), (EXTENTS_INLINE_MAX + 1, true)] {
        let mut sink = MemorySink::new(32 << 20);
        let mut builder = ExtentListBuilder::new();
        for _ in 0..count {
            builder.push(Extent::Hole { length_bytes: 2 }, &mut sink).expect("a hole");
        }
        let extents = builder.finish(&mut sink).expect("the sink takes everything");
        assert_eq!(matches!(extents, ExtentList::Tree(_)), is_tree);
        let size = u64::try_from(count * 2).expect("small");
        let root = build_folder([file("f", size, extents)], &mut sink).expect("one file");
        sink.close();
        let root = FolderEntry { tree: sink.settled(root.tree), ..root };
        let entries = walk_folder(&sink, &root).expect("well formed");
        let EntryKind::File(FileEntry { extents, .. }) = &entries[0].kind else { panic!("a file") };
        let ExtentList::Tree(tree) = extents else { continue };
        for (size, good) in [(size, true), (size + 1, false), (size - 1, false)] {
            let mut walk = ExtentWalk::new(tree.clone(), size);
            let mut result = Ok(Vec::new());
            while let (Some(pointer), true) = (walk.wanted().cloned(), result.is_ok()) {
                result = walk.supply(sink.fetch(&pointer));
            }
            assert_eq!(result.is_ok(), good);
            assert!(good || matches!(result, Err(DocumentError::Size { .. })));
        }
    }
}

#[test]
fn entries_that_break_a_rule_are_refused_by_writer_and_reader() {
    let mut sink = MemorySink::new(32 << 20);
    let mut mode = one_chunk("a");
    mode.mode = 0o10_0644;
    let size = file("a", 999, ExtentList::Inline(vec![Extent::Chunk(chunk(1))]));
    let overflow = vec![Extent::Hole { length_bytes: u64::MAX }, Extent::Hole { length_bytes: 2 }];
    let overflow = file("a", 1, ExtentList::Inline(overflow));
    let target = |target: &[u8]| Entry::new(name("a"), 0, 0, EntryKind::Symlink { target: target.to_vec() });
    let cases = [
        (mode, DocumentError::Mode { found: 0o10_0644 }),
        (size, DocumentError::Size { expected: 999, found: 1000 }),
        (overflow, DocumentError::Overflow { what: "extents" }),
        (target(b""), DocumentError::Empty { what: "a symbolic link's target" }),
    ];
    for (entry, expected) in cases {
        assert_eq!(read_entry(&write_entry(&entry)), Err(expected.clone()));
        match build_folder([entry], &mut sink) {
            Err(BuildError::Document(found)) => assert_eq!(found, expected),
            other => panic!("{other:?} instead of {expected}"),
        }
    }
    assert!(read_entry(&write_entry(&target(b"a\0b"))).is_err());
}

#[test]
fn a_chunk_in_the_open_document_segment_is_not_written_as_a_self_pointer() {
    let mut sink = MemorySink::new(32 << 20);
    let first = build_folder([], &mut sink).expect("empty");
    let mut stray = chunk(1);
    stray.segment = first.tree.segment;
    let entry = file("a", 1000, ExtentList::Inline(vec![Extent::Chunk(stray)]));
    let error = build_folder([entry], &mut sink).expect_err("an extent names its segment");
    assert!(matches!(error, BuildError::Document(DocumentError::SelfPointer { what: "an extent" })));
}

#[test]
fn attributes_are_bounded_together() {
    let mut attributes = Xattrs::default();
    attributes.insert(b"user.a".to_vec(), vec![0; XATTRS_MAX_BYTES - 6]).expect("as many as there may be");
    attributes.insert(b"user.a".to_vec(), vec![1; XATTRS_MAX_BYTES - 6]).expect("replaces the first");
    assert!(attributes.insert(b"b".to_vec(), Vec::new()).is_err());
    assert!(attributes.insert(Vec::new(), Vec::new()).is_err());
    assert_eq!(attributes.iter().count(), 1);
    let mut entry = one_chunk("a");
    entry.xattrs = attributes;
    assert_eq!(read_entry(&write_entry(&entry)), Ok(entry));
}

#[test]
fn a_snapshot_has_one_encoding_and_is_refused_when_it_is_not_one() {
    let root = FolderEntry { totals: Totals::default(), tree: chunk(3) };
    let good = snapshot(root);
    let bytes = good.to_bytes().expect("well formed");
    assert_eq!(Snapshot::parse(&bytes, SELF_SEGMENT), Ok(good.clone()));
    for end in 0..bytes.len() {
        assert!(Snapshot::parse(&bytes[..end], SELF_SEGMENT).is_err(), "cut at {end}");
    }
    assert!(Snapshot::parse(&[&bytes[..], &[0]].concat(), SELF_SEGMENT).is_err());
    let long = Snapshot { message: "m".repeat(MESSAGE_MAX_BYTES + 1), ..good };
    assert!(long.to_bytes().is_err());
    assert!(matches!(long.put(&mut MemorySink::new(1)), Err(BuildError::Document(_))));
}

fn any_pointer() -> impl Strategy<Value = BlobPointer> {
    let segment = prop_oneof![Just([0; 32]), any::<[u8; 32]>()];
    (any::<[u8; 32]>(), segment, 0u32..20_000_000, 1u32..=4 << 20).prop_map(|(key, segment, offset, length)| {
        BlobPointer { key: ChunkKey::new(key), segment: SegmentId::new(segment), offset, length }
    })
}

fn any_extent() -> impl Strategy<Value = Extent> {
    prop_oneof![
        (1u64..1 << 40).prop_map(|length_bytes| Extent::Hole { length_bytes }),
        any_pointer().prop_map(|pointer| Extent::Chunk(pointer.resolve(CONTENT))),
        (any_pointer(), 1u32..=4 << 20).prop_map(|(pointer, plain_bytes)| {
            let length = pointer.length.min(plain_bytes - 1).max(1);
            Extent::Compressed {
                pointer: BlobPointer { length, ..pointer.resolve(CONTENT) },
                plain_bytes: plain_bytes.max(2),
            }
        }),
    ]
}

fn any_kind() -> impl Strategy<Value = EntryKind> {
    let inline = proptest::collection::vec(any_extent(), 0..5).prop_map(ExtentList::Inline);
    let extents = prop_oneof![inline, any_pointer().prop_map(ExtentList::Tree)];
    let file = (extents, any::<Option<[u8; 32]>>(), any::<u64>()).prop_map(|(extents, hash, size)| {
        let size_bytes = match &extents {
            ExtentList::Inline(extents) => extents.iter().map(Extent::length_bytes).sum(),
            ExtentList::Tree(_) => size,
        };
        EntryKind::File(FileEntry { size_bytes, hash, extents })
    });
    let folder = (any::<[u64; 4]>(), any_pointer()).prop_map(|([files, folders, symlinks, bytes], tree)| {
        EntryKind::Folder(FolderEntry { totals: Totals { files, folders, symlinks, bytes }, tree })
    });
    let symlink = proptest::collection::vec(1u8.., 1..50).prop_map(|target| EntryKind::Symlink { target });
    prop_oneof![file, folder, symlink]
}

prop_compose! {
    fn any_entry()(
        name in "[^/\0]{3,40}",
        mode in 0..=MODE_MASK,
        modified_ns: i64,
        kind in any_kind(),
        owner: Option<(u32, u32)>,
        hard_link_group: Option<u64>,
        xattrs in proptest::collection::btree_map(proptest::collection::vec(any::<u8>(), 1..20), any::<Vec<u8>>(), 0..3),
        extensions in proptest::collection::btree_map(0u16..1000, any::<Vec<u8>>(), 0..3),
    ) -> Entry {
        let mut entry = Entry::new(Name::new(name).expect("a name"), mode, modified_ns, kind);
        entry.owner = owner.map(|(user, group)| Owner { user, group });
        entry.hard_link_group = hard_link_group;
        xattrs.into_iter().for_each(|(name, value)| entry.xattrs.insert(name, value).expect("small"));
        extensions.into_iter().for_each(|(key, value)| entry.extensions.insert(key * 2, value).expect("small"));
        entry
    }
}

proptest! {
    #[test]
    fn entries_round_trip(entry in any_entry()) {
        let bytes = write_entry(&entry);
        prop_assert!(bytes.len() >= Entry::MIN_BYTES);
        prop_assert_eq!(read_entry(&bytes), Ok(entry));
    }

    #[test]
    fn damaged_entries_have_one_encoding_or_none(entry in any_entry(), place: prop::sample::Index, value: u8) {
        let mut bytes = write_entry(&entry);
        let place = place.index(bytes.len());
        bytes[place] = value;
        if let Ok(entry) = read_entry(&bytes) {
            prop_assert_eq!(write_entry(&entry), bytes);
        }
    }

    #[test]
    fn any_bytes_are_read_as_a_snapshot_without_panic(body in proptest::collection::vec(any::<u8>(), 0..600)) {
        let needs = [1, 1, 0, 0, 0, 0, 0];
        for blob in [body.clone(), [&needs[..], &body].concat()] {
            if let Ok(snapshot) = Snapshot::parse(&blob, SELF_SEGMENT) {
                prop_assert_eq!(snapshot.to_bytes().expect("was read"), blob);
            }
        }
    }
}
