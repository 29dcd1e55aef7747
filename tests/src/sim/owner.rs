//! An owner: puts snapshots as a client does, in the order that makes a cut-off put harmless: segments, documents, heads.
//!
//! Decides what is written when, and when a put is done. Never counts as stored what has no receipt.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use dolmen_proto::chunk::Cutter;
use dolmen_proto::head::{Head, HeadOrder, Holder, PlacedSegment, ReadBody, TableBody, TableLocation};
use dolmen_proto::heads::{HeadVersion, HeadWriteOutcome};
use dolmen_proto::ids::{ChunkId, NodeId, SegmentId};
use dolmen_proto::keys::{DatasetKeys, LocatorSecret, ReadKeys, TableKeys, VaultSecret};
use dolmen_proto::limits::TAG_BYTES;
use dolmen_proto::manifest::{
    Entry, EntryKind, Extent, ExtentList, FileEntry, Name, Snapshot, build_folder, snapshot_id,
};
use dolmen_proto::placement::{Constraints, choose};
use dolmen_proto::policy::Policy;
use dolmen_proto::segment::Geometry;
use dolmen_proto::table::{NodeEntry, RowKind, RowListBuilder, SegmentRow, TableRoot};
use dolmen_proto::tree::BlobPointer;
use dolmen_proto::upload::{UploadOutcome, UploadPlan};
use futures::future::join_all;

use super::documents::DocumentSink;
use super::heads::{REWRITE_AFTER, write_head};
use super::segments::{SealedSegment, SegmentBuilder, cut, key_of};
use super::transfer::{Receipts, placed_of, upload};
use super::world::World;
use crate::model::{Dataset, Files, StoredHead, StoredSegment};

/// How often an upload or a head that did not get through is taken up again.
const TRIES_MAX: u32 = 6;
/// Document segments are as large as their documents, up to this.
const DOCUMENT_SEGMENT_BYTES: usize = 512 * 1024;

/// Why a put was not done. It can be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutFailure {
    /// A segment found too few nodes.
    Segment,
    /// A head reached too few points; readers may see it all the same.
    Head,
}

/// A segment that lies somewhere.
#[derive(Debug, Clone)]
struct Placed {
    segment: SealedSegment,
    nodes: Vec<Option<NodeId>>,
}

/// One owner with one dataset.
pub struct Owner {
    /// The dataset's keys.
    pub keys: Rc<DatasetKeys>,
    /// What has been promised about it.
    pub dataset: Dataset,
    /// Uploads that ended short of all shards.
    pub degraded: u64,
    address: IpAddr,
    policy: Policy,
    segment_bytes: usize,
    spares_max: usize,
    extents: BTreeMap<Vec<u8>, (Vec<u8>, Vec<Extent>)>,
    chunks: BTreeMap<ChunkId, BlobPointer>,
    placed: BTreeMap<SegmentId, Placed>,
    table_head: Option<Head>,
    read_head: Option<Head>,
    segments_begun: u64,
}

impl Owner {
    /// An owner with nothing stored, who names at most `spares_max` nodes to stand in for those that fail an upload.
    #[must_use]
    pub fn new(vault: [u8; 32], address: IpAddr, policy: Policy, segment_bytes: usize, spares_max: usize) -> Self {
        Self {
            keys: Rc::new(DatasetKeys::derive(&VaultSecret::new(vault), 0)),
            dataset: Dataset::default(),
            degraded: 0,
            address,
            policy,
            segment_bytes,
            spares_max,
            extents: BTreeMap::new(),
            chunks: BTreeMap::new(),
            placed: BTreeMap::new(),
            table_head: None,
            read_head: None,
            segments_begun: 0,
        }
    }

    /// Puts a snapshot of these files.
    ///
    /// # Errors
    /// [`PutFailure`]; the snapshot before is then still what is acknowledged, unless its heads may be half replaced.
    pub async fn put(&mut self, world: &Rc<World>, files: Files) -> Result<(), PutFailure> {
        let sequence = self.read_head.as_ref().map_or(0, Head::sequence) + 1;
        self.dataset.tried.insert(sequence, files.clone());
        let content = self.pack(&files);
        self.store(world, content).await?;
        let (snapshot, documents) = self.write_manifest(world, &files);
        self.store(world, documents).await?;
        let (pointer, mut table) = self.write_table();
        let table_id = table[0].id;
        assert_eq!(table.len(), 1, "the table's root lies alone");
        self.store(world, table.split_off(0)).await?;
        // The table does not list the segment that it lies in: the head does.
        let table_segment = self.placed.remove(&table_id).expect("it was stored just now");
        self.dataset.segments = self.placed.values().chain([&table_segment]).map(stored).collect();
        let location = TableLocation {
            segment: head_segment(world, &table_segment),
            key: pointer.key,
            offset: pointer.offset,
            length: pointer.length,
        };
        self.write_heads(world, location, snapshot).await
    }

    /// The content segments of what is not stored yet.
    fn pack(&mut self, files: &Files) -> Vec<SealedSegment> {
        let cutter = Cutter::new(self.keys.chunker_seed);
        let largest = Geometry::capacity_within(self.policy, self.segment_bytes) - TAG_BYTES;
        let fresh = || SegmentBuilder::new(self.policy, RowKind::Content, self.segment_bytes);
        let mut closed: Vec<SealedSegment> = Vec::new();
        let mut open = fresh();
        let mut pending: Vec<(ChunkId, BlobPointer)> = Vec::new();
        let mut layout: BTreeMap<Vec<u8>, Vec<(ChunkId, u32)>> = BTreeMap::new();
        for (name, bytes) in files {
            let mut list = Vec::new();
            for chunk in cut(&cutter, bytes, largest) {
                let key = key_of(&self.keys, chunk);
                let length = u32::try_from(chunk.len()).expect("a chunk is small");
                list.push((key.id(), length));
                if self.chunks.contains_key(&key.id()) || pending.iter().any(|(id, _)| *id == key.id()) {
                    continue;
                }
                if !open.fits(chunk.len()) {
                    let segment = std::mem::replace(&mut open, fresh()).close(&self.keys);
                    settle(&mut self.chunks, &mut pending, segment.id);
                    closed.push(segment);
                }
                let offset = open.push(&key, chunk);
                let segment = SegmentId::new([0; 32]);
                pending.push((key.id(), BlobPointer { key, segment, offset, length }));
            }
            layout.insert(name.clone(), list);
        }
        if !open.is_empty() {
            let segment = open.close(&self.keys);
            settle(&mut self.chunks, &mut pending, segment.id);
            closed.push(segment);
        }
        self.extents = layout
            .into_iter()
            .map(|(name, list)| {
                let extents = list.into_iter().map(|(id, _)| Extent::Chunk(self.chunks[&id].clone())).collect();
                (name.clone(), (files[&name].clone(), extents))
            })
            .collect();
        closed
    }

    /// Uploads segments side by side; those that are stored already are left out.
    async fn store(&mut self, world: &Rc<World>, segments: Vec<SealedSegment>) -> Result<(), PutFailure> {
        let mut uploads = Vec::new();
        for segment in segments {
            if self.placed.contains_key(&segment.id) {
                continue;
            }
            let number = self.segments_begun;
            self.segments_begun += 1;
            uploads.push(store_one(world.clone(), self.address, self.keys.clone(), segment, number, self.spares_max));
        }
        let mut result = Ok(());
        for upload in join_all(uploads).await {
            match upload {
                Some((placed, full)) => {
                    self.degraded += u64::from(!full);
                    self.placed.insert(placed.segment.id, placed);
                }
                None => result = Err(PutFailure::Segment),
            }
        }
        result
    }

    fn write_manifest(&self, world: &World, files: &Files) -> (Snapshotted, Vec<SealedSegment>) {
        let mut sink = DocumentSink::new(&self.keys, self.policy.document_policy(), DOCUMENT_SEGMENT_BYTES);
        let entries = files.keys().map(|name| {
            let (bytes, extents) = &self.extents[name];
            let file = FileEntry {
                size_bytes: bytes.len() as u64,
                hash: Some(*blake3::hash(bytes).as_bytes()),
                extents: ExtentList::Inline(extents.clone()),
            };
            Entry::new(Name::new(name.clone()).expect("a name of the simulator"), 0o644, 7, EntryKind::File(file))
        });
        let root = build_folder(entries, &mut sink).expect("entries are legal and sorted");
        let created = world.clock.now();
        let snapshot = Snapshot {
            needs: dolmen_proto::codec::Needs::NONE,
            created,
            message: "simulated".to_owned(),
            parent: None,
            salt: self.keys.snapshot_salt(created),
            root,
            extensions: dolmen_proto::codec::Extensions::default(),
        };
        let pointer = snapshot.put(&mut sink).expect("the snapshot is legal");
        sink.close();
        let pointer = sink.settled(pointer);
        let holder = sink.closed.iter().find(|segment| segment.id == pointer.segment).expect("it was closed just now");
        let data: Vec<u8> = holder.shards[..usize::from(holder.geometry.policy().k())].concat();
        let sealed = &data[pointer.offset as usize..pointer.offset as usize + pointer.sealed_bytes()];
        let id = snapshot_id(sealed);
        (Snapshotted { pointer, id, created }, sink.closed)
    }

    fn write_table(&self) -> (BlobPointer, Vec<SealedSegment>) {
        let mut nodes: BTreeMap<NodeId, u32> = BTreeMap::new();
        for node in self.placed.values().flat_map(|placed| placed.nodes.iter().flatten()) {
            let next = u32::try_from(nodes.len()).expect("few nodes");
            nodes.entry(*node).or_insert(next);
        }
        let mut sink = DocumentSink::new(&self.keys, self.policy.document_policy(), DOCUMENT_SEGMENT_BYTES);
        let mut rows = RowListBuilder::new();
        for placed in self.placed.values() {
            let segment = &placed.segment;
            let places = placed.nodes.iter().map(|node| node.map(|node| nodes[&node])).collect();
            let row = SegmentRow::new(segment.kind, segment.geometry, segment.nonce, segment.roots.clone(), places);
            rows.push(row.expect("one root and one node a shard"), &mut sink).expect("rows come in order");
        }
        let mut list: Vec<(u32, NodeId)> = nodes.into_iter().map(|(node, place)| (place, node)).collect();
        list.sort_unstable();
        let root = TableRoot {
            policy: self.policy,
            nodes: list.into_iter().map(|(_, node)| NodeEntry::new(node, [])).collect(),
            stewards: Vec::new(),
            rows: rows.finish(&mut sink).expect("the sink takes everything"),
            further: Vec::new(),
            receipts: None,
            forwards: None,
            leaving: None,
            extensions: dolmen_proto::codec::Extensions::default(),
        };
        let pointer = root.put(&mut sink).expect("the table is legal");
        sink.close();
        (sink.settled(pointer), sink.closed)
    }

    async fn write_heads(
        &mut self,
        world: &Rc<World>,
        location: TableLocation,
        snapshot: Snapshotted,
    ) -> Result<(), PutFailure> {
        let keys = self.keys.clone();
        let extensions = dolmen_proto::codec::Extensions::default();
        let body = TableBody { location: location.clone(), extensions: extensions.clone() };
        let order = HeadOrder::after(self.table_head.as_ref());
        let table = Head::create_table(&keys.table, &keys.table_head, order, &body).expect("the body is legal");
        let body = ReadBody {
            read_opening: keys.read_opening.clone(),
            table_secret: keys.table.clone(),
            mask_secret: keys.mask.clone(),
            table_head_key: keys.table_head.verifying_key().to_bytes(),
            table: location,
            snapshot: snapshot.pointer,
            snapshot_id: snapshot.id,
            created: snapshot.created,
            history: None,
            owner_note: None,
            extensions,
        };
        let order = HeadOrder::after(self.read_head.as_ref());
        let read = Head::create_read(&keys.read, &keys.read_head, order, &body).expect("the body is legal");
        // From here on readers may see the new snapshot, and the old one is no more promised.
        self.dataset.acknowledged = None;
        let (table_locator, read_locator) =
            (TableKeys::derive(&keys.table).locator, ReadKeys::derive(&keys.read).locator);
        let table_places = self.write_one(world, &table_locator, &table).await?;
        self.table_head = Some(table);
        let read_places = self.write_one(world, &read_locator, &read).await?;
        self.dataset.heads = vec![table_places, read_places];
        self.dataset.acknowledged = Some(read.sequence());
        self.read_head = Some(read);
        Ok(())
    }

    async fn write_one(
        &self,
        world: &Rc<World>,
        locator: &LocatorSecret,
        head: &Head,
    ) -> Result<StoredHead, PutFailure> {
        for _ in 0..TRIES_MAX {
            match write_head(world, self.address, locator, head).await {
                HeadWriteOutcome::Written { places, .. } => {
                    return Ok(StoredHead { version: HeadVersion::from(head), places });
                }
                HeadWriteOutcome::TooFewPoints { .. } => world.clock.sleep(REWRITE_AFTER).await,
                other => panic!("there is one writer, and nothing fails locally: {other:?}"),
            }
        }
        Err(PutFailure::Head)
    }
}

/// A snapshot's root as a head names it.
#[derive(Debug, Clone)]
struct Snapshotted {
    pointer: BlobPointer,
    id: dolmen_proto::ids::SnapshotId,
    created: dolmen_proto::ids::Timestamp,
}

fn settle(chunks: &mut BTreeMap<ChunkId, BlobPointer>, pending: &mut Vec<(ChunkId, BlobPointer)>, segment: SegmentId) {
    chunks.extend(pending.drain(..).map(|(id, pointer)| (id, BlobPointer { segment, ..pointer })));
}

fn stored(placed: &Placed) -> StoredSegment {
    let roots = placed.segment.roots.iter().copied();
    StoredSegment {
        id: placed.segment.id,
        k: usize::from(placed.segment.geometry.policy().k()),
        shards: roots.zip(placed.nodes.iter().copied()).collect(),
    }
}

fn head_segment(world: &World, placed: &Placed) -> PlacedSegment {
    let segment = &placed.segment;
    let holders = segment.roots.iter().zip(&placed.nodes).map(|(root, node)| Holder {
        root: *root,
        node: node.map(|node| NodeEntry::new(node, [world.node(node).borrow().address])),
    });
    PlacedSegment::new(segment.geometry, segment.nonce, holders.collect()).expect("a document segment fits a head")
}

/// Uploads one segment, taking it up again where it failed; tells whether all shards are held.
async fn store_one(
    world: Rc<World>,
    address: IpAddr,
    keys: Rc<DatasetKeys>,
    segment: SealedSegment,
    number: u64,
    spares_max: usize,
) -> Option<(Placed, bool)> {
    let policy = segment.geometry.policy();
    let receipts = Rc::new(RefCell::new(Receipts::new()));
    let mut acknowledged = Vec::new();
    for _ in 0..TRIES_MAX {
        let constraints =
            Constraints { fixed: acknowledged.iter().copied().collect(), spares_max, ..Constraints::default() };
        let seed = *keys.account.expose();
        let chosen = choose(&world.candidates(), policy, &constraints, &seed, number).expect("there are nodes enough");
        let plan = UploadPlan { policy, assigned: chosen.assigned, spares: chosen.spares, acknowledged };
        let outcome = upload(&world, address, &keys, &segment, plan, &receipts).await;
        let full = matches!(outcome, UploadOutcome::Full { .. });
        acknowledged = placed_of(&outcome);
        if full || matches!(outcome, UploadOutcome::Degraded { .. }) {
            let mut nodes = vec![None; usize::from(policy.n())];
            acknowledged.iter().for_each(|(shard, node)| nodes[shard.get()] = Some(*node));
            return Some((Placed { segment, nodes }, full));
        }
        world.clock.sleep(Duration::from_secs(30)).await;
    }
    None
}
