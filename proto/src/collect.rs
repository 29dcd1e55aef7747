//! Garbage collection's decisions: what a dataset's segments still hold that is needed, and what to do with each.
//!
//! Decides which segments leave the table, which are packed anew, and where a moved chunk is looked for. Never reads a
//! document, moves a byte or deletes anything: it is shown what snapshots need and told where chunks went.
//!
//! A chunk is *named* by the segment that documents give, for good; it *lies* there or where a forwarding row says.

use std::collections::BTreeMap;

use crate::ids::SegmentId;

/// Where documents say that a chunk or blob is: its nominal segment and the offset there, in bytes.
pub type ChunkName = (SegmentId, u32);

/// A part of a segment that is packed anew when less than one part in so many of its payload is live.
const REPACK_BELOW_ONE_IN: u64 = 2;
/// A segment is small when its live bytes are under one part in so many of what a segment of its kind can hold.
const SMALL_BELOW_ONE_IN: u64 = 4;
/// Small segments are packed together once there are so many of a kind: fewer are not worth rewriting at every run.
const SMALL_TOGETHER: usize = 16;

/// A chunk that is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveChunk {
    /// What documents call it.
    pub name: ChunkName,
    /// Where it lies in the segment that holds it now, in bytes.
    pub offset: u32,
    /// Its sealed length in bytes.
    pub sealed_bytes: u32,
}

/// A segment of the table, as garbage collection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentShape {
    /// Bytes of its payload.
    pub payload_bytes: u32,
    /// Bytes of the largest payload that a new segment of this kind can have.
    pub capacity_bytes: u32,
    /// Whether it holds documents; contents and documents are never packed together.
    pub documents: bool,
}

/// What is to happen to segments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CollectPlan {
    /// Nothing in them is needed: they leave the table.
    pub leave: Vec<SegmentId>,
    /// What is needed of them is packed anew, in this order; then they leave the table. Contents first. The names of one chunk
    /// follow each other.
    pub repack: Vec<(SegmentId, Vec<LiveChunk>)>,
    /// Bytes of payload in `leave`.
    pub leaving_bytes: u64,
    /// Bytes of payload in `repack` that are not needed.
    pub dead_bytes: u64,
    /// Sealed bytes in `repack` that are needed.
    pub moving_bytes: u64,
}

/// What snapshots and shares need, gathered chunk by chunk.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// Sealed lengths by segment and offset: a few bytes a chunk, since there may be millions.
    needed: BTreeMap<SegmentId, BTreeMap<u32, u32>>,
    count: usize,
}

impl Marks {
    /// Nothing is needed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { needed: BTreeMap::new(), count: 0 }
    }

    /// Notes that a chunk is needed; false when that was known, so that whoever walks shared trees need not go on.
    pub fn need(&mut self, name: ChunkName, sealed_bytes: u32) -> bool {
        let new = self.needed.entry(name.0).or_default().insert(name.1, sealed_bytes).is_none();
        self.count += usize::from(new);
        new
    }

    /// Whether a chunk is needed.
    #[must_use]
    pub fn is_needed(&self, name: ChunkName) -> bool {
        self.needed.get(&name.0).is_some_and(|chunks| chunks.contains_key(&name.1))
    }

    /// How many chunks are needed.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether nothing is needed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Decides what becomes of each of the table's `segments`, given where moved chunks lie (`forwards`, by name).
    ///
    /// Segments that are not in `segments` are nobody's to decide about here: what lies in them is left alone.
    #[must_use]
    pub fn plan(
        &self,
        segments: &BTreeMap<SegmentId, SegmentShape>,
        forwards: &BTreeMap<ChunkName, ChunkName>,
    ) -> CollectPlan {
        let mut held: BTreeMap<SegmentId, Vec<LiveChunk>> = BTreeMap::new();
        for (named, chunks) in &self.needed {
            // What a segment in the table is said to hold lies in it; only what left the table is forwarded.
            let present = segments.contains_key(named);
            for (offset, sealed_bytes) in chunks {
                let name = (*named, *offset);
                let (segment, offset) = if present { name } else { forwards.get(&name).copied().unwrap_or(name) };
                held.entry(segment).or_default().push(LiveChunk { name, offset, sealed_bytes: *sealed_bytes });
            }
        }
        for chunks in held.values_mut() {
            chunks.sort_by_key(|chunk| (chunk.offset, chunk.name));
        }
        let mut plan = CollectPlan::default();
        let mut small: BTreeMap<bool, Vec<SegmentId>> = BTreeMap::new();
        let mut repack: Vec<SegmentId> = Vec::new();
        for (id, shape) in segments {
            let live = held.get(id).map_or(0, |chunks| live_bytes(chunks));
            let payload = u64::from(shape.payload_bytes);
            if live == 0 {
                plan.leave.push(*id);
                plan.leaving_bytes += payload;
            } else if live * REPACK_BELOW_ONE_IN < payload {
                repack.push(*id);
            } else if live * SMALL_BELOW_ONE_IN < u64::from(shape.capacity_bytes) {
                small.entry(shape.documents).or_default().push(*id);
            }
        }
        for together in small.into_values().filter(|together| together.len() >= SMALL_TOGETHER) {
            repack.extend(together);
        }
        repack.sort_by_key(|id| (segments.get(id).is_some_and(|shape| shape.documents), *id));
        for id in repack {
            let chunks = held.remove(&id).unwrap_or_default();
            let live = live_bytes(&chunks);
            plan.moving_bytes += live;
            let payload = segments.get(&id).map_or(0, |shape| u64::from(shape.payload_bytes));
            plan.dead_bytes += payload.saturating_sub(live);
            plan.repack.push((id, chunks));
        }
        plan
    }

    /// The forwarding rows that are needed once chunks in `moved` lie elsewhere, by name: old rows of chunks that nobody
    /// needs end, and chains become one step.
    #[must_use]
    pub fn forwards_after(
        &self,
        forwards: &BTreeMap<ChunkName, ChunkName>,
        moved: &BTreeMap<ChunkName, ChunkName>,
    ) -> BTreeMap<ChunkName, ChunkName> {
        let mut after: BTreeMap<ChunkName, ChunkName> =
            forwards.iter().filter(|(name, _)| self.is_needed(**name)).map(|(name, to)| (*name, *to)).collect();
        after.extend(moved.iter().filter(|(name, _)| self.is_needed(**name)).map(|(name, to)| (*name, *to)));
        after
    }
}

/// Sealed bytes of chunks in the order of their offsets. A chunk that has several names, since documents that came before it was
/// moved and later ones need it, counts once.
fn live_bytes(chunks: &[LiveChunk]) -> u64 {
    let places = chunks.chunk_by(|chunk, next| chunk.offset == next.offset);
    places.filter_map(|names| names.first()).map(|chunk| u64::from(chunk.sealed_bytes)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn id(byte: u8) -> SegmentId {
        SegmentId::new([byte; 32])
    }

    fn shape(payload_bytes: u32) -> SegmentShape {
        SegmentShape { payload_bytes, capacity_bytes: 100, documents: false }
    }

    fn segments(list: &[(u8, u32)]) -> BTreeMap<SegmentId, SegmentShape> {
        list.iter().map(|(byte, payload)| (id(*byte), shape(*payload))).collect()
    }

    #[test]
    fn a_segment_that_nobody_needs_leaves_and_one_under_half_is_packed_anew() {
        let mut marks = Marks::new();
        assert!(marks.need((id(2), 0), 49));
        assert!(!marks.need((id(2), 0), 49), "known");
        assert!(marks.need((id(3), 0), 50));
        let plan = marks.plan(&segments(&[(1, 100), (2, 100), (3, 100)]), &BTreeMap::new());
        assert_eq!(plan.leave, [id(1)]);
        let chunk = LiveChunk { name: (id(2), 0), offset: 0, sealed_bytes: 49 };
        assert_eq!(plan.repack, [(id(2), vec![chunk])]);
        assert_eq!((plan.leaving_bytes, plan.dead_bytes, plan.moving_bytes), (100, 51, 49));
    }

    #[test]
    fn what_was_moved_before_is_live_where_it_lies_and_keeps_its_name() {
        let mut marks = Marks::new();
        marks.need((id(9), 7), 10);
        let forwards = BTreeMap::from([((id(9), 7), (id(1), 30)), ((id(9), 8), (id(1), 60))]);
        let plan = marks.plan(&segments(&[(1, 100)]), &forwards);
        assert_eq!(plan.repack, [(id(1), vec![LiveChunk { name: (id(9), 7), offset: 30, sealed_bytes: 10 }])]);
        let moved = BTreeMap::from([((id(9), 7), (id(2), 0))]);
        let after = marks.forwards_after(&forwards, &moved);
        assert_eq!(after, moved, "one step from the name, and what nobody needs is not kept");
    }

    #[test]
    fn a_chunk_that_is_called_by_its_old_and_its_new_name_is_one() {
        let mut marks = Marks::new();
        marks.need((id(9), 7), 40);
        marks.need((id(1), 30), 40);
        let forwards = BTreeMap::from([((id(9), 7), (id(1), 30))]);
        let plan = marks.plan(&segments(&[(1, 100)]), &forwards);
        let chunk = |name| LiveChunk { name, offset: 30, sealed_bytes: 40 };
        assert_eq!(plan.repack, [(id(1), vec![chunk((id(1), 30)), chunk((id(9), 7))])], "it is under half");
        assert_eq!((plan.moving_bytes, plan.dead_bytes), (40, 60));
    }

    #[test]
    fn many_small_segments_of_a_kind_are_packed_together_and_few_are_left_alone() {
        let few = (0..15).map(|byte| (byte, 20)).collect::<Vec<_>>();
        let many = (0..16).map(|byte| (byte, 20)).collect::<Vec<_>>();
        for (list, repacked) in [(few, 0), (many, 16)] {
            let mut marks = Marks::new();
            for (byte, _) in &list {
                marks.need((id(*byte), 0), 20);
            }
            assert_eq!(marks.plan(&segments(&list), &BTreeMap::new()).repack.len(), repacked);
        }
    }

    proptest! {
        #[test]
        fn nothing_needed_is_lost_and_every_name_is_found_in_one_step(
            chunks in proptest::collection::btree_map((0u8..6, 0u32..10), any::<bool>(), 0..60),
            rounds in 1usize..5,
        ) {
            // Every chunk is 10 bytes; segments are full. Each round runs a plan, as a caller would.
            let mut table = segments(&[(0, 100), (1, 100), (2, 100), (3, 100), (4, 100), (5, 100)]);
            let mut content: BTreeMap<(SegmentId, u32), ChunkName> = BTreeMap::new();
            for segment in 0..6u8 {
                for place in 0..10u32 {
                    content.insert((id(segment), place * 10), (id(segment), place * 10));
                }
            }
            let mut marks = Marks::new();
            for ((segment, place), needed) in &chunks {
                if *needed {
                    marks.need((id(*segment), place * 10), 10);
                }
            }
            let mut forwards = BTreeMap::new();
            for round in 0..rounds {
                let plan = marks.plan(&table, &forwards);
                let mut moved = BTreeMap::new();
                let new = id(100 + u8::try_from(round).expect("few rounds"));
                let mut end = 0;
                for (from, live) in &plan.repack {
                    for chunk in live {
                        prop_assert_eq!(content.get(&(*from, chunk.offset)), Some(&chunk.name));
                        content.insert((new, end), chunk.name);
                        moved.insert(chunk.name, (new, end));
                        end += chunk.sealed_bytes;
                    }
                }
                for gone in plan.leave.iter().chain(plan.repack.iter().map(|(id, _)| id)) {
                    table.remove(gone);
                    content.retain(|(segment, _), _| segment != gone);
                }
                if end > 0 {
                    table.insert(new, shape(end));
                }
                forwards = marks.forwards_after(&forwards, &moved);
            }
            for ((segment, place), needed) in &chunks {
                if *needed {
                    let name = (id(*segment), place * 10);
                    let at = if table.contains_key(&name.0) { name } else { forwards[&name] };
                    prop_assert_eq!(content.get(&at), Some(&name));
                }
            }
        }
    }
}
