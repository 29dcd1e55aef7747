//! A segment in the making: chunks sealed into their places, then padded, coded, masked and hashed.
//!
//! Decides which work runs on which core and who owns which part of the segment's memory; every byte is written once,
//! where it stays until it is sent. Never decides what goes into a segment: the packer and the order of chunks do, so
//! the same chunks in the same order are the same segment on every run.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use dolmen_proto::erasure::Code;
use dolmen_proto::ids::{ChunkId, SegmentId, ShardIndex, ShardRoot};
use dolmen_proto::keys::DatasetKeys;
use dolmen_proto::mask::Mask;
use dolmen_proto::pack::Packer;
use dolmen_proto::policy::Policy;
use dolmen_proto::root::root_of;
use dolmen_proto::seal::{ChunkKey, seal_into, sealed_len};
use dolmen_proto::segment::{Geometry, Padding, SegmentNonce};
use tokio::task::JoinHandle;

use crate::budget::{Budget, Pool};
use crate::cores::Cores;
use crate::error::ClientError;

/// Bytes that are masked, then hashed, while they are in the processor's cache.
const MASK_STEP_BYTES: usize = 64 * 1024;

/// A segment ready to be sent.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) geometry: Geometry,
    pub(crate) nonce: SegmentNonce,
    pub(crate) id: SegmentId,
    pub(crate) roots: Vec<ShardRoot>,
    /// Slices of one data and one parity buffer; memory comes back when the last is dropped.
    pub(crate) shards: Vec<Bytes>,
}

/// What all segments of one put have in common.
#[derive(Debug, Clone)]
pub(crate) struct Workshop {
    pub(crate) keys: Arc<DatasetKeys>,
    pub(crate) policy: Policy,
    /// Most bytes of one segment's data shards together.
    pub(crate) segment_bytes: usize,
    pub(crate) code: Arc<Code>,
    pub(crate) cores: Cores,
    pub(crate) budget: Budget,
    data_pool: Pool<BytesMut>,
    parity_pool: Pool<Vec<u8>>,
}

impl Workshop {
    pub(crate) fn new(
        keys: Arc<DatasetKeys>,
        policy: Policy,
        segment_bytes: usize,
        cores: Cores,
        budget: Budget,
    ) -> Self {
        let code = Arc::new(Code::new(policy));
        Self { keys, policy, segment_bytes, code, cores, budget, data_pool: Pool::new(), parity_pool: Pool::new() }
    }

    /// Memory that one segment takes from its first chunk until its last shard is sent.
    pub(crate) fn footprint_bytes(&self) -> u64 {
        self.capacity_bytes() as u64 * u64::from(self.policy.n()) / u64::from(self.policy.k())
    }

    /// Memory for the data shards of one segment, with whatever was in it: all of it is written before it is sent. It comes
    /// back when the segment's last shard is dropped.
    pub(crate) fn data_buffer(&self) -> BytesMut {
        let mut buffer = self.data_pool.get();
        if buffer.is_empty() {
            // Fresh memory is zeroed by the system page by page as it is touched.
            return BytesMut::zeroed(self.capacity_bytes());
        }
        buffer.resize(self.capacity_bytes(), 0);
        buffer
    }

    /// Most bytes of one segment's payload.
    pub(crate) fn capacity_bytes(&self) -> usize {
        Geometry::capacity_within(self.policy, self.segment_bytes)
    }
}

/// A chunk that has its place.
struct Waiting {
    at: usize,
    key: ChunkKey,
    bytes: Bytes,
}

/// Takes chunks for one segment.
pub(crate) struct Filling {
    packer: Packer,
    chunks: Vec<(ChunkId, u32)>,
    /// Memory of the segment from `taken` on.
    rest: BytesMut,
    taken: usize,
    /// Chunks that have a place beyond `taken` and are not being sealed yet.
    waiting: Vec<Waiting>,
    sealing: Vec<JoinHandle<Result<BytesMut, ClientError>>>,
    plain_bytes: u64,
    held: crate::budget::Held,
}

impl Filling {
    /// Waits for the memory of a whole segment, parity included, so that a segment once begun never waits again.
    pub(crate) async fn begin(workshop: &Workshop) -> Self {
        let held = workshop.budget.take(workshop.footprint_bytes()).await;
        let rest = workshop.data_buffer();
        Self {
            packer: Packer::with_segment_bytes(workshop.policy, workshop.segment_bytes),
            chunks: Vec::new(),
            rest,
            taken: 0,
            waiting: Vec::new(),
            sealing: Vec::new(),
            plain_bytes: 0,
            held,
        }
    }

    /// Gives a chunk its place; `None`: it does not fit any more. `plain_bytes` is what it is of a file.
    pub(crate) fn push(&mut self, key: &ChunkKey, id: ChunkId, bytes: Bytes, plain_bytes: u32) -> Option<u32> {
        let offset = self.packer.push(sealed_len(bytes.len()))?;
        self.chunks.push((id, offset));
        self.plain_bytes += u64::from(plain_bytes);
        self.waiting.push(Waiting { at: offset as usize, key: key.clone(), bytes });
        Some(offset)
    }

    /// Starts to seal the chunks pushed so far; called at the end of each block, so that blocks are freed.
    pub(crate) fn seal(&mut self, workshop: &Workshop) {
        if self.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.waiting);
        let start = self.taken;
        let mut part = self.rest.split_to(self.packer.payload_bytes() - start);
        self.taken = self.packer.payload_bytes();
        let cores = workshop.cores.clone();
        self.sealing.push(tokio::spawn(async move {
            cores
                .run(move || {
                    for chunk in waiting {
                        let at = chunk.at - start;
                        let out = &mut part[at..at + sealed_len(chunk.bytes.len())];
                        seal_into(&chunk.key, &chunk.bytes, out)
                            .map_err(|error| ClientError::bug("could not seal a chunk", error))?;
                    }
                    Ok(part)
                })
                .await?
        }));
    }

    /// Bytes of files that its chunks are.
    pub(crate) fn plain_bytes(&self) -> u64 {
        self.plain_bytes
    }

    /// Ends the segment: waits for the sealing, then pads, codes, masks and hashes.
    ///
    /// # Errors
    /// `Bug` only.
    pub(crate) async fn finish(mut self, workshop: &Workshop) -> Result<Encoded, ClientError> {
        self.seal(workshop);
        let mut data: Option<BytesMut> = None;
        for job in self.sealing {
            let part = job.await.map_err(|error| ClientError::bug("a computation failed", error))??;
            match &mut data {
                None => data = Some(part),
                Some(data) => data.unsplit(part),
            }
        }
        let mut data = data.unwrap_or_default();
        data.unsplit(self.rest);
        let (packer, chunks, held) = (self.packer, self.chunks, self.held);
        let shop = workshop.clone();
        workshop.cores.run(move || shop.encode(&packer, &chunks, data, held)).await?
    }
}

impl Workshop {
    /// Pads, codes, masks and hashes a segment whose chunks are sealed; computes on the calling thread.
    ///
    /// # Errors
    /// `Bug` only.
    pub(crate) fn encode(
        &self,
        packer: &Packer,
        chunks: &[(ChunkId, u32)],
        mut data: BytesMut,
        held: crate::budget::Held,
    ) -> Result<Encoded, ClientError> {
        let bug = |error: &dyn std::fmt::Display| ClientError::bug("could not code a segment", error);
        let geometry = packer.geometry().map_err(|error| bug(&error))?;
        let nonce = SegmentNonce::derive(&self.keys.dedup, &geometry, chunks).map_err(|error| bug(&error))?;
        let (data_bytes, shard_bytes) = (geometry.data_bytes() as usize, geometry.shard_bytes() as usize);
        data.truncate(data_bytes);
        let mut padding = Padding::new(&self.keys.dedup, &nonce);
        for gap in packer.gaps() {
            padding.fill(gap.start, &mut data[gap.start as usize..gap.end as usize]);
        }
        padding.fill(geometry.payload_bytes(), &mut data[geometry.payload_bytes() as usize..]);

        let mut parity = self.parity_pool.get();
        parity.resize(shard_bytes * usize::from(self.policy.m()), 0);
        let data_slices: Vec<&[u8]> = data.chunks(shard_bytes).collect();
        let mut roots: Vec<ShardRoot> = data_slices.iter().map(|shard| root_of(shard)).collect();
        if !parity.is_empty() {
            let mut parity_slices: Vec<&mut [u8]> = parity.chunks_mut(shard_bytes).collect();
            self.code.encode(&data_slices, &mut parity_slices).map_err(|error| bug(&error))?;
            let mask = Mask::new(&self.keys.mask, &nonce, self.policy);
            for (index, shard) in (self.policy.k()..).zip(parity_slices) {
                roots.push(mask_and_hash(&mask, ShardIndex::new(index), shard));
            }
        }
        let id = geometry.segment_id(&nonce, &roots).map_err(|error| bug(&error))?;
        let (data_held, parity_held) = held.split(data_bytes as u64);
        let data = self.data_pool.guard(data_held, data);
        let parity = self.parity_pool.guard(parity_held, parity);
        let slices = |bytes: &Bytes| {
            (0..bytes.len() / shard_bytes)
                .map(|i| bytes.slice(i * shard_bytes..(i + 1) * shard_bytes))
                .collect::<Vec<_>>()
        };
        let shards = [slices(&data), slices(&parity)].concat();
        Ok(Encoded { geometry, nonce, id, roots, shards })
    }
}

fn mask_and_hash(mask: &Mask, index: ShardIndex, shard: &mut [u8]) -> ShardRoot {
    let mut hasher = blake3::Hasher::new();
    let mut offset = 0u32;
    for step in shard.chunks_mut(MASK_STEP_BYTES) {
        mask.apply(index, offset, step);
        hasher.update(step);
        offset += u32::try_from(step.len()).expect("a step is 64 KiB at most");
    }
    ShardRoot::new(*hasher.finalize().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::keys::VaultSecret;
    use dolmen_proto::limits::SEGMENT_MAX_BYTES;
    use dolmen_proto::seal::{Codec, chunk_key, open_into};

    fn workshop(policy: &str, budget_bytes: u64) -> Workshop {
        let keys = Arc::new(DatasetKeys::derive(&VaultSecret::new([3; 32]), 0));
        Workshop::new(keys, policy.parse().unwrap(), SEGMENT_MAX_BYTES, Cores::all(), Budget::new(budget_bytes))
    }

    async fn fill(shop: &Workshop, plains: &[Bytes]) -> (Encoded, Vec<u32>) {
        let mut filling = Filling::begin(shop).await;
        let mut offsets = Vec::new();
        for plain in plains {
            let key = chunk_key(&shop.keys.dedup, Codec::Plain, plain);
            offsets.push(filling.push(&key, key.id(), plain.clone(), plain.len() as u32).unwrap());
            filling.seal(shop);
        }
        (filling.finish(shop).await.unwrap(), offsets)
    }

    #[tokio::test]
    async fn what_was_pushed_lies_where_it_was_said_and_any_k_shards_hold_it() {
        let shop = workshop("3/7", 256 << 20);
        let plains: Vec<Bytes> = [1usize, 100, 70_000, 5, 2_000_000, 65_520]
            .iter()
            .map(|length| Bytes::from((0..*length).map(|i| (i * 7 % 251) as u8).collect::<Vec<_>>()))
            .collect();
        let (encoded, offsets) = fill(&shop, &plains).await;
        let data = encoded.shards[..3].concat();
        let mut out = Vec::new();
        for (plain, offset) in plains.iter().zip(&offsets) {
            let key = chunk_key(&shop.keys.dedup, Codec::Plain, plain);
            let at = *offset as usize;
            open_into(&key, &data[at..at + sealed_len(plain.len())], &mut out).unwrap();
            assert_eq!(out, plain.as_ref());
        }
        let mask = Mask::new(&shop.keys.mask, &encoded.nonce, shop.policy);
        let present: Vec<(ShardIndex, Vec<u8>)> = [1u8, 4, 6]
            .into_iter()
            .map(|index| {
                let mut bytes = encoded.shards[usize::from(index)].to_vec();
                assert_eq!(root_of(&bytes), encoded.roots[usize::from(index)]);
                mask.apply(ShardIndex::new(index), 0, &mut bytes);
                (ShardIndex::new(index), bytes)
            })
            .collect();
        let present: Vec<(ShardIndex, &[u8])> =
            present.iter().map(|(index, bytes)| (*index, bytes.as_slice())).collect();
        let mut rebuilt = vec![0; encoded.geometry.shard_bytes() as usize];
        shop.code.rebuild(&present, &mut [(ShardIndex::new(2), &mut rebuilt)]).unwrap();
        assert_eq!(rebuilt, encoded.shards[2]);
        let (again, _) = fill(&shop, &plains).await;
        assert_eq!(again.id, encoded.id, "nothing in the path is random, and used memory leaves no trace");
    }

    #[tokio::test]
    async fn memory_comes_back_when_the_shards_are_gone() {
        let shop = workshop("2/4", 64 << 20);
        let all = shop.budget.free_bytes();
        let (encoded, _) = fill(&shop, &[Bytes::from_static(b"x")]).await;
        drop(encoded);
        assert_eq!(shop.budget.free_bytes(), all);
    }
}
