//! The real transforms, put together as a client does: cut, seal, pack, pad, encode, mask, root, and back.
//!
//! Decides nothing. Segments are small, so that thousands of them fit a run.

use bytes::Bytes;
use dolmen_proto::chunk::Cutter;
use dolmen_proto::erasure::Code;
use dolmen_proto::ids::{ChunkId, SegmentId, ShardIndex, ShardRoot};
use dolmen_proto::keys::{DatasetKeys, MaskSecret};
use dolmen_proto::mask::Mask;
use dolmen_proto::pack::Packer;
use dolmen_proto::policy::Policy;
use dolmen_proto::root::root_of;
use dolmen_proto::seal::{ChunkKey, Codec, chunk_key, seal_into, sealed_len};
use dolmen_proto::segment::{Geometry, Padding, SegmentNonce};
use dolmen_proto::table::RowKind;

/// A segment ready to be uploaded.
#[derive(Debug, Clone)]
pub struct SealedSegment {
    /// Its id.
    pub id: SegmentId,
    /// Content or documents.
    pub kind: RowKind,
    /// Its code and lengths.
    pub geometry: Geometry,
    /// Its nonce.
    pub nonce: SegmentNonce,
    /// The roots of its shards.
    pub roots: Vec<ShardRoot>,
    /// Its shards as they are stored.
    pub shards: Vec<Bytes>,
}

/// A segment that is being filled.
#[derive(Debug)]
pub struct SegmentBuilder {
    policy: Policy,
    kind: RowKind,
    packer: Packer,
    chunks: Vec<(ChunkId, u32)>,
    payload: Vec<u8>,
}

impl SegmentBuilder {
    /// An empty segment whose data shards together have at most `segment_bytes`.
    #[must_use]
    pub fn new(policy: Policy, kind: RowKind, segment_bytes: usize) -> Self {
        let packer = Packer::with_segment_bytes(policy, segment_bytes);
        Self { policy, kind, packer, chunks: Vec::new(), payload: Vec::new() }
    }

    /// Whether a chunk of so many bytes before sealing fits.
    #[must_use]
    pub fn fits(&self, plain_bytes: usize) -> bool {
        self.packer.clone().push(sealed_len(plain_bytes)).is_some()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Seals a chunk and packs it; gives its offset.
    ///
    /// # Panics
    /// When it does not fit.
    pub fn push(&mut self, key: &ChunkKey, plain: &[u8]) -> u32 {
        let offset = self.packer.push(sealed_len(plain.len())).expect("the caller asked whether it fits");
        self.payload.resize(self.packer.payload_bytes(), 0);
        seal_into(key, plain, &mut self.payload[offset as usize..]).expect("the chunk is legal");
        self.chunks.push((key.id(), offset));
        offset
    }

    /// Pads, encodes, masks and names the segment.
    ///
    /// # Panics
    /// When it is empty.
    #[must_use]
    pub fn close(self, keys: &DatasetKeys) -> SealedSegment {
        let geometry = Geometry::for_payload(self.policy, self.packer.payload_bytes()).expect("it is not empty");
        let nonce = SegmentNonce::derive(&keys.dedup, &geometry, &self.chunks).expect("it has chunks");
        let mut padding = Padding::new(&keys.dedup, &nonce);
        let mut data = self.payload;
        let end = data.len();
        data.resize(geometry.data_bytes() as usize, 0);
        for gap in self.packer.gaps() {
            padding.fill(gap.start, &mut data[gap.start as usize..gap.end as usize]);
        }
        padding.fill(geometry.payload_bytes(), &mut data[end..]);
        let data: Vec<&[u8]> = data.chunks_exact(geometry.shard_bytes() as usize).collect();
        let mut parity = vec![vec![0; geometry.shard_bytes() as usize]; usize::from(self.policy.m())];
        let mut slices: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
        Code::new(self.policy).encode(&data, &mut slices).expect("the counts are the policy's");
        let mask = Mask::new(&keys.mask, &nonce, self.policy);
        for (index, shard) in (self.policy.k()..).zip(&mut parity) {
            mask.apply(ShardIndex::new(index), 0, shard);
        }
        let data = data.into_iter().map(Bytes::copy_from_slice);
        let shards: Vec<Bytes> = data.chain(parity.into_iter().map(Bytes::from)).collect();
        let roots: Vec<ShardRoot> = shards.iter().map(|shard| root_of(shard)).collect();
        let id = geometry.segment_id(&nonce, &roots).expect("one root a shard");
        SealedSegment { id, kind: self.kind, geometry, nonce, roots, shards }
    }
}

/// The chunks of a file: where the cutter cuts, and again where a chunk is larger than a small segment takes.
#[must_use]
pub fn cut<'a>(cutter: &Cutter, mut file: &'a [u8], largest: usize) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    while let Some(length) = cutter.cut(file, true) {
        let (chunk, rest) = file.split_at(length);
        chunks.extend(chunk.chunks(largest));
        file = rest;
    }
    chunks
}

/// The key of a chunk of this dataset.
#[must_use]
pub fn key_of(keys: &DatasetKeys, plain: &[u8]) -> ChunkKey {
    chunk_key(&keys.dedup, Codec::Plain, plain)
}

/// Rebuilds the same range of the wanted data shards out of `k` or more stored ranges that start at `offset` of their shards.
#[must_use]
pub fn rebuild(
    policy: Policy,
    nonce: &SegmentNonce,
    mask: &MaskSecret,
    offset: u32,
    stored: &[(ShardIndex, Vec<u8>)],
    wanted: &[ShardIndex],
) -> Vec<(ShardIndex, Vec<u8>)> {
    let mask = Mask::new(mask, nonce, policy);
    let mut present = stored.to_vec();
    for (shard, bytes) in &mut present {
        mask.apply(*shard, offset, bytes);
    }
    let length = present.first().map_or(0, |(_, bytes)| bytes.len());
    let present: Vec<(ShardIndex, &[u8])> = present.iter().map(|(shard, bytes)| (*shard, bytes.as_slice())).collect();
    let mut rebuilt: Vec<(ShardIndex, Vec<u8>)> = wanted.iter().map(|shard| (*shard, vec![0; length])).collect();
    let mut slices: Vec<(ShardIndex, &mut [u8])> =
        rebuilt.iter_mut().map(|(shard, bytes)| (*shard, bytes.as_mut_slice())).collect();
    Code::new(policy).rebuild(&present, &mut slices).expect("k shards of one length are here");
    rebuilt
}
