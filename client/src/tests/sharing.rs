//! Datasets whose table has changed since the head was written, and views: documents made by hand on top of a put.

use bytes::Bytes;
use dolmen_proto::codec::{Extensions, Needs};
use dolmen_proto::head::{Head, HeadOrder, Holder, NO_HEAD, PlacedSegment, TableBody, TableLocation, ViewBody};
use dolmen_proto::ids::{HeadHash, NodeId, SegmentId, ShardRoot};
use dolmen_proto::keys::{DatasetKeys, LocatorSecret, MaskKey, TableKeys, ViewKeys, point};
use dolmen_proto::link::{Link, LinkSecret};
use dolmen_proto::manifest::{self, EntryKind as Kind, Extent, ExtentList, FileEntry, snapshot_id};
use dolmen_proto::seal::{Codec, chunk_key, seal_into, sealed_len};
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::table::{ForwardRow, NodeEntry, RowKind, Rows, SegmentRow, TableRoot};
use dolmen_proto::tree::{BlobPointer, BlobSink, CountedTreeBuilder, ProvisionalIds};

use super::*;
use crate::read::{Dataset, Reading};
use crate::state::State;

/// A segment of one shard that is written by hand.
struct Bench {
    keys: DatasetKeys,
    ids: ProvisionalIds,
    payload: Vec<u8>,
}

impl BlobSink for Bench {
    type Error = std::convert::Infallible;

    fn make_room(&mut self, _length: usize) -> Result<(), Self::Error> {
        Ok(())
    }

    fn segment_now(&self, segment: SegmentId) -> SegmentId {
        self.ids.now(segment)
    }

    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Self::Error> {
        let key = chunk_key(&self.keys.dedup, Codec::Plain, &blob);
        let offset = self.payload.len();
        self.payload.resize(offset + sealed_len(blob.len()), 0);
        seal_into(&key, &blob, &mut self.payload[offset..]).unwrap();
        Ok(BlobPointer { key, segment: self.ids.open(), offset: offset as u32, length: blob.len() as u32 })
    }
}

/// A segment that lies at one node.
struct Made {
    geometry: Geometry,
    nonce: SegmentNonce,
    root: ShardRoot,
    node: NodeId,
}

impl Bench {
    fn new(keys: &DatasetKeys) -> Self {
        Self { keys: keys.in_epoch(0), ids: ProvisionalIds::new(), payload: Vec::new() }
    }

    /// Puts the segment to a node.
    fn close(&mut self, world: &World, node: NodeId) -> Made {
        let payload = std::mem::take(&mut self.payload);
        let geometry = Geometry::for_payload("1/1".parse().unwrap(), payload.len()).unwrap();
        let nonce = SegmentNonce::new(*blake3::hash(&payload).as_bytes());
        let mut data = payload;
        data.resize(geometry.data_bytes() as usize, 0);
        let root = world.network.plant_shard(node, Bytes::from(data));
        let made = Made { geometry, nonce, root, node };
        self.ids.close(made.placed().id());
        made
    }
}

impl Made {
    fn placed(&self) -> PlacedSegment {
        let holders = vec![Holder { root: self.root, node: Some(self.entry()) }];
        PlacedSegment::new(self.geometry, self.nonce, holders).unwrap()
    }

    fn entry(&self) -> NodeEntry {
        NodeEntry::new(self.node, [std::net::SocketAddr::from(([127, 0, 0, 1], 1))])
    }

    fn row(&self, kind: RowKind, node: u32) -> SegmentRow {
        SegmentRow::new(kind, self.geometry, self.nonce, vec![self.root], vec![Some(node)]).unwrap()
    }

    fn location(&self, root: BlobPointer) -> TableLocation {
        TableLocation { segment: self.placed(), key: root.key, offset: root.offset, length: root.length }
    }
}

fn owner(world: &World, link: &str) -> DatasetKeys {
    let link = Link::parse(link).unwrap();
    let state = State::open(&world.folder.path().join("state")).unwrap();
    DatasetKeys::derive(&state.secret(link.read_secret().unwrap().expose()).unwrap(), 0)
}

async fn dataset(world: &World, link: &str) -> Dataset {
    let reading: Reading = world.client().reading();
    within(Dataset::open(&reading, &Link::parse(link).unwrap(), false)).await.unwrap()
}

async fn file(dataset: &Dataset, path: &[u8]) -> FileEntry {
    match within(dataset.entry(path)).await.unwrap().unwrap().kind {
        Kind::File(file) => file,
        Kind::Folder(_) | Kind::Symlink { .. } => panic!("{path:?} is no file"),
    }
}

fn chunks(file: &FileEntry) -> Vec<BlobPointer> {
    let ExtentList::Inline(extents) = &file.extents else { panic!("few extents stand in the entry") };
    extents.iter().filter_map(Extent::chunk).map(|(pointer, _)| pointer.clone()).collect()
}

fn publish(world: &World, locator: &LocatorSecret, head: &Head) {
    for number in 0..8 {
        for node in world.network.ids() {
            world.network.plant(node, point(locator, number), head);
        }
    }
}

fn inline(table: &TableRoot) -> Vec<SegmentRow> {
    match &table.rows {
        Rows::Inline(rows) => rows.clone(),
        Rows::Tree { .. } => panic!("a small table has its rows inline"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_follows_chunks_that_were_packed_anew() {
    let world = World::new(4);
    world.write("moved", &noise(1, 50_000));
    world.write("dropped", &noise(2, 60_000));
    let report = world.put("1/1").await;
    let keys = owner(&world, &report.link);
    let before = dataset(&world, &report.link).await;
    let snapshot = within(world.client().snapshot(&report.link)).await.unwrap();
    let open_before = snapshot.file(b"moved").await.unwrap();
    let [old] = chunks(&file(&before, b"moved").await).try_into().unwrap();
    let (place, _) = before.locate(&old).await.unwrap();

    // The sealed chunk is copied as it is; its segment leaves the table and the nodes.
    let sealed = world.network.shard(place.roots[0])[old.offset as usize..][..old.sealed_bytes()].to_vec();
    let nodes = world.network.ids();
    let mut bench = Bench::new(&keys);
    bench.payload = [vec![0; 777], sealed].concat();
    let made = bench.close(&world, nodes[0]);
    let mut table = before.table().clone();
    let mut rows = inline(&table);
    rows.retain(|row| row.id() != place.id);
    if !table.nodes.iter().any(|node| node.id() == made.node) {
        table.nodes.push(made.entry());
    }
    let number = table.nodes.iter().position(|node| node.id() == made.node).unwrap();
    rows.push(made.row(RowKind::Content, number as u32));
    rows.sort_by_key(SegmentRow::id);
    table.rows = Rows::Inline(rows);
    let mut forwards = CountedTreeBuilder::new();
    let forward = ForwardRow {
        segment: old.segment,
        offset: old.offset,
        sealed_bytes: old.sealed_bytes() as u32,
        to_segment: made.placed().id(),
        to_offset: 777,
    };
    forwards.push(forward, &mut bench).unwrap();
    table.forwards = forwards.finish(&mut bench).unwrap();
    let root = table.put(&mut bench).unwrap();
    let location = bench.close(&world, nodes[1]).location(root);
    let body = TableBody { location, extensions: Extensions::default() };
    let order = HeadOrder { sequence: 2, previous: HeadHash::new([1; 32]) };
    let head = Head::create_table(&keys.table, &keys.table_head, order, &body).unwrap();
    world.network.forget_shard(place.roots[0]);
    let lost = within(open_before.read_range(0, 10)).await.unwrap_err();
    assert_eq!(lost.kind(), ErrorKind::Damaged, "no newer table is published yet");

    publish(&world, &TableKeys::derive(&keys.table).locator, &head);
    // The read head still names the old table; whoever opens the dataset now finds the newer one when it is needed.
    let file = within(world.client().snapshot(&report.link)).await.unwrap().file(b"moved").await.unwrap();
    assert!(within(file.read_range(0, 50_000)).await.unwrap() == noise(1, 50_000));
    let got = world.get(&report.link).await.unwrap();
    assert_eq!((got.files, got.failed.len()), (1, 1), "the dropped file is gone, and named");
    assert!(fs::read(world.target().join("moved")).unwrap() == noise(1, 50_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_opens_what_it_shows_and_nothing_beside_it() {
    let world = World::new(5);
    world.write("shared/a", &noise(1, 40_000));
    world.write("shared/deep/b", &noise(2, 50_000));
    world.write("secret/large", &noise(3, 40_000_000));
    world.write("secret/small", b"small secret");
    let report = world.put("2/4").await;
    let keys = owner(&world, &report.link);
    let whole = dataset(&world, &report.link).await;
    let Kind::Folder(shared) = within(whole.entry(b"shared")).await.unwrap().unwrap().kind else { panic!("a folder") };

    // The segments that the shared folder touches, with their mask keys.
    let mut touched = vec![shared.tree.segment];
    for path in [&b"shared/a"[..], b"shared/deep/b"] {
        touched.extend(chunks(&file(&whole, path).await).iter().map(|chunk| chunk.segment));
    }
    let rows = inline(whole.table()).into_iter().filter(|row| touched.contains(&row.id()));
    let rows: Vec<_> = rows.map(|row| row.clone().with_mask_key(MaskKey::derive(&keys.mask, &row.nonce()))).collect();
    assert_eq!(rows.len(), 2, "the manifest and one segment of contents");
    let mut bench = Bench::new(&keys);
    let created = Timestamp::from_unix_ms(5);
    let snapshot = manifest::Snapshot {
        needs: Needs::NONE,
        created,
        message: String::new(),
        parent: None,
        salt: keys.view_salt(1, created),
        root: shared,
        extensions: Extensions::default(),
    };
    let root = snapshot.put(&mut bench).unwrap();
    let id = snapshot_id(&bench.payload);
    let table = TableRoot { rows: Rows::Inline(rows), forwards: None, further: Vec::new(), ..whole.table().clone() };
    let table = table.put(&mut bench).unwrap();
    let made = bench.close(&world, world.network.ids()[0]);
    let view = keys.view(1);
    let body = ViewBody {
        opening: view.opening.clone(),
        table_mask: MaskKey::derive(&keys.mask, &made.nonce),
        table: made.location(table),
        snapshot: BlobPointer { segment: made.placed().id(), ..root },
        snapshot_id: id,
        created,
        extensions: Extensions::default(),
    };
    let head =
        Head::create_view(&view.secret, &view.head, HeadOrder { sequence: 1, previous: NO_HEAD }, &body).unwrap();
    publish(&world, &ViewKeys::derive(&view.secret).locator, &head);
    let link = Link::new(LinkSecret::View(view.secret.clone()), Vec::new()).unwrap().to_text().to_string();

    let mut listing = within(world.client().list(&link, b"", true)).await.unwrap();
    let mut paths = Vec::new();
    while let Some(entry) = within(listing.next()).await.unwrap() {
        paths.push(entry.path);
    }
    assert_eq!(paths, ["a", "deep", "deep/b"]);
    // Data shards are gone: parity is unmasked with the keys of single segments.
    let holder = |row: &SegmentRow| whole.table().nodes[row.nodes()[0].unwrap() as usize].id();
    let dead: Vec<NodeId> =
        inline(whole.table()).iter().filter(|row| touched.contains(&row.id())).map(holder).collect();
    world.network.these_behave(dead.iter().copied().filter(|node| *node != made.node), Manner::Forgetful);
    fs::remove_dir_all(world.folder.path().join("state/blobs")).unwrap();
    let got = world.get(&link).await.unwrap();
    assert_eq!((got.files, got.bytes, got.failed.len()), (2, 90_000, 0));
    assert!(fs::read(world.target().join("deep/b")).unwrap() == noise(2, 50_000));
    world.network.all_behave(Manner::Honest);

    let mine = dataset(&world, &link).await;
    for path in [&b"secret"[..], b"secret/large", b"../secret", b"shared"] {
        assert_eq!(within(mine.entry(path)).await.unwrap_err().kind(), ErrorKind::NotFound);
    }
    for chunk in chunks(&file(&whole, b"secret/large").await) {
        if !touched.contains(&chunk.segment) {
            assert!(within(mine.locate(&chunk)).await.is_err(), "the view's table has no other segment");
        }
    }
    assert!(within(world.client().renew(&link, None)).await.is_err());
    let error = within(world.client().list(&report.link.replace("dolmen1", "dolmen2"), b"", false)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}
