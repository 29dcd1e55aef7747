//! Cases that must be accepted, made from fixed values.

use std::convert::Infallible;

use dolmen_proto::head::{Head, HeadOrder, Holder, PlacedSegment, ReadBody, TableBody, TableLocation};
use dolmen_proto::ids::{HeadHash, NodeId, SegmentId, ShardRoot, SnapshotId, Timestamp};
use dolmen_proto::keys::{DatasetKeys, ReadSecret, VaultSecret};
use dolmen_proto::link::{Link, LinkSecret, StewardSecret, ViewSecret};
use dolmen_proto::manifest::{
    Entry, EntryKind, Extent, ExtentBlob, ExtentList, FileEntry, FolderBlob, FolderEntry, Name, Owner, Parent,
    Snapshot, Span, Totals,
};
use dolmen_proto::policy::Policy;
use dolmen_proto::seal::ChunkKey;
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::table::{
    NodeEntry, ReceiptBlob, ReceiptKey, RowBlob, RowKind, Rows, SegmentRow, StoredReceipt, TableRoot,
};
use dolmen_proto::tree::{BlobPointer, BlobSink, Child, ProvisionalIds, SELF_SEGMENT, TreeBuilder};
use serde_json::{Value, json};

use crate::{Cases, hex};

pub(crate) fn keys() -> DatasetKeys {
    DatasetKeys::derive(&VaultSecret::new([1; 32]), 0)
}

pub(crate) fn pointer(number: u8) -> BlobPointer {
    let length = 1000 + u32::from(number);
    BlobPointer { key: ChunkKey::new([number; 32]), segment: SegmentId::new([0xe0; 32]), offset: 16_384, length }
}

pub(crate) fn own(number: u8) -> BlobPointer {
    BlobPointer { segment: SELF_SEGMENT, ..pointer(number) }
}

pub(crate) fn entry(name: &str, kind: EntryKind) -> Entry {
    Entry::new(Name::new(name).expect("a name"), 0o644, 1_700_000_000_123_456_789, kind)
}

pub(crate) fn file(name: &str) -> Entry {
    let extents = ExtentList::Inline(vec![Extent::Chunk(pointer(1)), Extent::Hole { length_bytes: 4096 }]);
    entry(name, EntryKind::File(FileEntry { size_bytes: 5097, hash: Some([0xaa; 32]), extents }))
}

pub(crate) fn totals() -> Totals {
    Totals { files: 3, folders: 1, symlinks: 2, bytes: 70_000 }
}

fn full_folder() -> Vec<Entry> {
    let mut all = file("all");
    all.owner = Some(Owner { user: 1000, group: 100 });
    all.hard_link_group = Some(7);
    all.xattrs.insert(b"user.a".to_vec(), b"1".to_vec()).expect("small");
    all.xattrs.insert(b"user.b".to_vec(), Vec::new()).expect("small");
    all.extensions.insert(2, b"later".to_vec()).expect("even");
    let spilled = FileEntry { size_bytes: 1 << 40, hash: None, extents: ExtentList::Tree(own(2)) };
    let empty = FileEntry { size_bytes: 0, hash: None, extents: ExtentList::Inline(Vec::new()) };
    vec![
        all,
        entry("empty", EntryKind::File(empty)),
        entry("folder", EntryKind::Folder(FolderEntry { totals: totals(), tree: own(3) })),
        entry("huge", EntryKind::File(spilled)),
        entry("link", EntryKind::Symlink { target: b"../all".to_vec() }),
        entry("\u{e9}t\u{e9}", EntryKind::Folder(FolderEntry { totals: Totals::default(), tree: pointer(4) })),
    ]
}

pub(crate) fn snapshot() -> Snapshot {
    Snapshot {
        needs: Default::default(),
        created: Timestamp::from_unix_ms(1_790_000_000_000),
        message: "erste Fassung".to_owned(),
        parent: Some(Parent { id: SnapshotId::new([4; 32]), root: pointer(5) }),
        salt: [0x5a; 32],
        root: FolderEntry { totals: totals(), tree: own(6) },
        extensions: Default::default(),
    }
}

pub(crate) fn row(number: u8, kind: RowKind) -> SegmentRow {
    let geometry = Geometry::for_payload(Policy::new(2, 4).expect("legal"), 50_000).expect("fits");
    let roots = (0..4).map(|shard| ShardRoot::new([number * 16 + shard; 32])).collect();
    let nodes = vec![Some(0), Some(1), None, Some(0)];
    SegmentRow::new(kind, geometry, SegmentNonce::new([number; 32]), roots, nodes).expect("4 shards")
}

pub(crate) fn rows() -> Vec<SegmentRow> {
    let mut rows = vec![row(1, RowKind::Content), row(2, RowKind::Documents), row(3, RowKind::Content)];
    rows.sort_by_key(SegmentRow::id);
    rows
}

pub(crate) fn node(number: u8) -> NodeEntry {
    let addresses = ["192.0.2.1:7000", "[2001:db8::1]:7001"].map(|text| text.parse().expect("an address"));
    NodeEntry::new(NodeId::new([number; 32]), addresses)
}

pub(crate) fn table(rows: Rows) -> TableRoot {
    TableRoot {
        policy: Policy::new(7, 16).expect("legal"),
        nodes: vec![node(9), NodeEntry::new(NodeId::new([8; 32]), [])],
        stewards: vec![[1; 32], [2; 32]],
        rows,
        further: vec![row(4, RowKind::Documents)],
        receipts: Some(own(7)),
        forwards: None,
        leaving: None,
        extensions: Default::default(),
    }
}

pub(crate) fn location() -> TableLocation {
    let holder = |shard: u8| Holder { root: ShardRoot::new([shard; 32]), node: (shard != 2).then(|| node(shard)) };
    let geometry = Geometry::for_payload(Policy::new(2, 4).expect("legal"), 9000).expect("fits");
    let segment = PlacedSegment::new(geometry, SegmentNonce::new([3; 32]), (0..4).map(holder).collect());
    TableLocation { segment: segment.expect("4 holders"), key: ChunkKey::new([4; 32]), offset: 0, length: 500 }
}

pub(crate) fn read_body() -> ReadBody {
    let keys = keys();
    ReadBody {
        table_head_key: keys.table_head.verifying_key().to_bytes(),
        read_opening: keys.read_opening,
        table_secret: keys.table,
        mask_secret: keys.mask,
        table: location(),
        snapshot: pointer(8),
        snapshot_id: SnapshotId::new([7; 32]),
        created: Timestamp::from_unix_ms(1_790_000_000_000),
        history: None,
        owner_note: None,
        extensions: Default::default(),
    }
}

pub(crate) fn read_head(order: HeadOrder) -> Head {
    let keys = keys();
    Head::create_read(&keys.read, &keys.read_head, order, &read_body()).expect("writable")
}

pub(crate) fn table_head(sequence: u64, previous: HeadHash, offset: u32) -> Head {
    let keys = keys();
    let location = TableLocation { offset, ..location() };
    let body = TableBody { location, extensions: Default::default() };
    Head::create_table(&keys.table, &keys.table_head, HeadOrder { sequence, previous }, &body).expect("writable")
}

pub(crate) fn link_text(secret: LinkSecret, bootstrap: &[&str]) -> String {
    let bootstrap = bootstrap.iter().map(|address| (*address).to_owned()).collect();
    Link::new(secret, bootstrap).expect("writable").to_text().to_string()
}

pub(crate) fn blob(reader: &str, bytes: &[u8]) -> Value {
    json!({"reader": reader, "bytes": hex(bytes)})
}

pub(crate) fn read_case(head: &Head) -> Value {
    json!({"reader": "head", "bytes": hex(head.bytes()), "read_secret": hex(keys().read.expose())})
}

pub(crate) fn table_case(head: &Head) -> Value {
    let key = keys().table_head.verifying_key().to_bytes();
    let secret = hex(keys().table.expose());
    json!({"reader": "head", "bytes": hex(head.bytes()), "table_secret": secret, "table_head_key": hex(key)})
}

pub(crate) fn cases() -> Cases {
    let mut cases = Cases::new();
    let mut add = |name: &str, case: Value| assert!(cases.insert(name.to_owned(), case).is_none(), "{name} twice");
    let link = |secret, bootstrap: &[&str]| json!({"reader": "link", "text": link_text(secret, bootstrap)});
    let secret = [0x5a; 32];
    add("link_read_live", link(LinkSecret::ReadLive(ReadSecret::new(secret)), &[]));
    add("link_read_frozen", link(LinkSecret::ReadFrozen(ReadSecret::new(secret)), &[]));
    add("link_view", link(LinkSecret::View(ViewSecret::new(secret)), &[]));
    add("link_steward", link(LinkSecret::Steward(StewardSecret::new(secret)), &[]));
    let addresses = ["/ip4/192.0.2.1/udp/7001/quic-v1", "/dns/node.example/udp/7001/quic-v1"];
    add("link_with_bootstrap", link(LinkSecret::ReadFrozen(ReadSecret::new(secret)), &addresses));

    let first = read_head(HeadOrder::after(None));
    add("head_read_first", read_case(&first));
    add("head_read_second", read_case(&read_head(HeadOrder::after(Some(&first)))));
    let table_first = table_head(1, dolmen_proto::head::NO_HEAD, 0);
    add("head_table", table_case(&table_first));
    let [second, rival] = [0, 16].map(|offset| table_head(2, table_first.hash(), offset));
    let far = table_head(1003, second.hash(), 0);
    let heads: Vec<String> = [&table_first, &second, &rival, &far].map(|head| hex(head.bytes())).to_vec();
    add("head_order", json!({"reader": "heads in order", "blobs": heads}));

    add("manifest_snapshot", blob("snapshot", &snapshot().to_bytes().expect("writable")));
    add("manifest_folder_leaf", blob("folder blob", &FolderBlob::Leaf(full_folder()).to_bytes()));
    add("manifest_folder_empty", blob("folder blob", &FolderBlob::Leaf(Vec::new()).to_bytes()));
    let child = |name: &str, number| Child { label: Name::new(name).expect("a name"), pointer: own(number) };
    let inner = FolderBlob::Inner { level: 1, children: vec![child("a", 1), child("m", 2)] };
    add("manifest_folder_inner", blob("folder blob", &inner.to_bytes()));
    let leaf = ExtentBlob::Leaf(vec![Extent::Chunk(pointer(1)), Extent::Hole { length_bytes: 1 << 40 }]);
    add("manifest_extent_leaf", blob("extent blob", &leaf.to_bytes()));
    let inner = ExtentBlob::Inner { level: 15, children: vec![Child { label: Span(77), pointer: own(1) }] };
    add("manifest_extent_inner", blob("extent blob", &inner.to_bytes()));

    add("table_inline", blob("table", &table(Rows::Inline(rows())).to_bytes().expect("writable")));
    let tree = Rows::Tree { count: 100_000, root: own(1) };
    add("table_tree", blob("table", &table(tree).to_bytes().expect("writable")));
    add("table_row_leaf", blob("row blob", &RowBlob::Leaf(rows()).to_bytes()));
    let children = rows().iter().map(|row| Child { label: row.id(), pointer: own(1) }).collect();
    add("table_row_inner", blob("row blob", &RowBlob::Inner { level: 2, children }.to_bytes()));
    let (root, node) = (ShardRoot::new([1; 32]), NodeId::new([2; 32]));
    let receipt = StoredReceipt { root, node, signed: b"a signed receipt".to_vec() };
    add("table_receipt_leaf", blob("receipt blob", &ReceiptBlob::Leaf(vec![receipt]).to_bytes()));
    let children = vec![Child { label: ReceiptKey { root, node }, pointer: own(1) }];
    add("table_receipt_inner", blob("receipt blob", &ReceiptBlob::Inner { level: 1, children }.to_bytes()));

    add("tree_split", split());
    cases.extend(crate::vaults::valid());
    cases.extend(crate::stewards::valid());
    cases.extend(crate::lineage::valid());
    cases.extend(crate::standing::valid());
    cases
}

/// A sink with one segment that only notes what it was given, in order.
#[derive(Default)]
struct Notes(ProvisionalIds, Vec<Vec<u8>>);

impl BlobSink for Notes {
    type Error = Infallible;

    fn make_room(&mut self, _length: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn segment_now(&self, segment: SegmentId) -> SegmentId {
        self.0.now(segment)
    }

    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Infallible> {
        let key = ChunkKey::new(*blake3::hash(&blob).as_bytes());
        let length = u32::try_from(blob.len()).expect("a blob is short");
        self.1.push(blob);
        Ok(BlobPointer { key, segment: self.0.open(), offset: 0, length })
    }
}

/// Where a writer splits: the lengths of the blobs of a tree of 5,000 extents, whose chunk `i` has BLAKE3(`i` as u32) as its
/// key, and the whole tree's root, which the keys of its children pin.
fn split() -> Value {
    let mut sink = Notes::default();
    let mut builder = TreeBuilder::new();
    for number in 0..5000u32 {
        let key = ChunkKey::new(*blake3::hash(&number.to_le_bytes()).as_bytes());
        builder.push(Extent::Chunk(BlobPointer { key, ..pointer(0) }), &mut sink).expect("in order");
    }
    builder.finish(&mut sink).expect("nothing fails");
    let lengths: Vec<usize> = sink.1.iter().map(Vec::len).collect();
    let root = sink.1.last().expect("there is a root");
    json!({"reader": "extent blob", "bytes": hex(root), "blob_lengths": lengths})
}
