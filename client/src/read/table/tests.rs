//! Tables whose chunks were moved, and tables of views: what is found, and what is not.

use std::convert::Infallible;
use std::sync::Arc;

use dolmen_proto::codec::Extensions;
use dolmen_proto::head::{Holder, PlacedSegment, TableLocation};
use dolmen_proto::ids::{SegmentId, ShardRoot};
use dolmen_proto::keys::MaskKey;
use dolmen_proto::policy::Policy;
use dolmen_proto::seal::{ChunkKey, sealed_len};
use dolmen_proto::segment::{Geometry, SegmentNonce};
use dolmen_proto::table::{ForwardRow, RowKind, RowListBuilder, SegmentRow, TableRoot};
use dolmen_proto::tree::{BlobPointer, BlobSink, CountedTreeBuilder};

use super::Table;
use crate::budget::Budget;
use crate::cores::Cores;
use crate::network::Nodes;
use crate::network::memory::{Handle, Memory};
use crate::read::documents::Documents;
use crate::read::fetch::Fetcher;

/// Blobs of one segment, unsealed.
struct Sink(SegmentId, Vec<(BlobPointer, Vec<u8>)>);

impl BlobSink for Sink {
    type Error = Infallible;

    fn make_room(&mut self, _length: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn segment_now(&self, segment: SegmentId) -> SegmentId {
        segment
    }

    fn put(&mut self, blob: Vec<u8>) -> Result<BlobPointer, Infallible> {
        let key = ChunkKey::new(*blake3::hash(&blob).as_bytes());
        let (offset, length) = (self.1.len() as u32, blob.len() as u32);
        let pointer = BlobPointer { key, segment: self.0, offset, length };
        self.1.push((pointer.clone(), blob));
        Ok(pointer)
    }
}

fn policy() -> Policy {
    "1/1".parse().unwrap()
}

fn row(number: u32) -> SegmentRow {
    let mut nonce = [0; 32];
    nonce[..4].copy_from_slice(&number.to_le_bytes());
    let geometry = Geometry::for_payload(policy(), 2_000_000).unwrap();
    let roots = vec![ShardRoot::new([7; 32])];
    SegmentRow::new(RowKind::Content, geometry, SegmentNonce::new(nonce), roots, vec![None]).unwrap()
}

/// A table of these rows and forwarding rows, all of whose blobs are in memory.
async fn table(mut rows: Vec<SegmentRow>, mut forwards: Vec<ForwardRow>) -> (Table, Documents) {
    let geometry = Geometry::for_payload(policy(), 4_000_000).unwrap();
    let holders = vec![Holder { root: ShardRoot::new([9; 32]), node: None }];
    let segment = PlacedSegment::new(geometry, SegmentNonce::new([9; 32]), holders).unwrap();
    let mut sink = Sink(segment.id(), Vec::new());
    rows.sort_by_key(SegmentRow::id);
    let mut builder = RowListBuilder::new();
    for row in rows {
        builder.push(row, &mut sink).unwrap();
    }
    let rows = builder.finish(&mut sink).unwrap();
    forwards.sort_by_key(|row| (row.segment, row.offset));
    let mut moved = CountedTreeBuilder::new();
    for row in forwards {
        moved.push(row, &mut sink).unwrap();
    }
    let root = TableRoot {
        policy: policy(),
        nodes: Vec::new(),
        stewards: Vec::new(),
        rows,
        further: Vec::new(),
        receipts: None,
        forwards: moved.finish(&mut sink).unwrap(),
        leaving: None,
        extensions: Extensions::default(),
    };
    let pointer = root.put(&mut sink).unwrap();
    let nodes = Nodes::new(Arc::new(Handle(Memory::new(1))), &Default::default());
    let fetcher = Fetcher::new(nodes.clone(), Cores::all(), Budget::new(1 << 20), None);
    let documents = Documents::new(fetcher, None, false);
    for (pointer, blob) in sink.1 {
        documents.keep(&pointer, blob);
    }
    let location = TableLocation { segment, key: pointer.key, offset: pointer.offset, length: pointer.length };
    (Table::open(&nodes, &documents, &location, None).await.unwrap(), documents)
}

fn chunk(segment: SegmentId, offset: u32, length: u32) -> BlobPointer {
    BlobPointer { key: ChunkKey::new([3; 32]), segment, offset, length }
}

#[tokio::test]
async fn a_moved_chunk_is_found_where_it_is_now_and_nothing_else_is() {
    // Enough of both for trees of several blobs.
    let live: Vec<SegmentRow> = (0..1_000).map(row).collect();
    let (gone, to) = (row(5_000).id(), live[3].id());
    let forward = |number: u32| ForwardRow {
        segment: gone,
        offset: number * 200,
        sealed_bytes: sealed_len(100) as u32,
        to_segment: if number == 77 { row(6_000).id() } else { to },
        to_offset: number * 116,
    };
    let (table, documents) = table(live.clone(), (0..3_000).map(forward).collect()).await;
    for number in [0, 1, 999, 2_999, 1] {
        let (place, offset) = table.locate(&documents, &chunk(gone, number * 200, 100)).await.unwrap().unwrap();
        assert_eq!((place.id, offset), (to, number * 116));
    }
    for row in [&live[0], &live[500]] {
        let (place, offset) = table.locate(&documents, &chunk(row.id(), 4, 100)).await.unwrap().unwrap();
        assert_eq!((place.id, offset), (row.id(), 4));
    }
    for (absent, why) in [
        (chunk(gone, 201, 100), "nothing began there"),
        (chunk(gone, 200, 99), "what began there was another chunk"),
        (chunk(gone, 77 * 200, 100), "it went to a segment without a row"),
        (chunk(row(5_001).id(), 200, 100), "nothing of that segment was kept"),
    ] {
        assert!(table.locate(&documents, &absent).await.unwrap().is_none(), "{why}");
    }
}

#[tokio::test]
async fn a_place_has_the_mask_key_that_its_row_says() {
    let (plain, own) = (row(1), row(2).with_mask_key(MaskKey::new([5; 32])));
    let (table, documents) = table(vec![plain.clone(), own.clone()], Vec::new()).await;
    assert!(table.root.forwards.is_none());
    let key = async |id| table.find(&documents, id).await.unwrap().unwrap().mask_key.clone();
    assert_eq!(key(plain.id()).await, None);
    assert_eq!(key(own.id()).await, Some(MaskKey::new([5; 32])));
}

#[tokio::test]
async fn places_come_in_the_order_of_ids_a_few_at_a_time_and_each_once() {
    let (table, documents) = table((0..1_000).map(row).collect(), Vec::new()).await;
    let mut expected = vec![table.place.id];
    expected.extend((0..1_000).map(|number| row(number).id()));
    expected.sort_unstable();
    for most_shards in [0, 1, 7, 400, 5_000] {
        let mut found = Vec::new();
        loop {
            let places = table.places_after(&documents, found.last().copied(), most_shards).await.unwrap();
            assert!(places.len() <= most_shards.max(1));
            found.extend(places.iter().map(|place| place.id));
            if places.is_empty() {
                break;
            }
        }
        assert!(found == expected, "{most_shards} at a time");
    }
}
