//! Micro-benchmarks of the parts: `cargo bench --workspace --bench parts`.
//!
//! Throughput is of user data (before expansion) where a code is involved.

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use dolmen_proto::erasure::Code;
use dolmen_proto::ids::{AccountId, NodeId, ShardIndex, Timestamp};
use dolmen_proto::keys::{DedupKey, MaskSecret};
use dolmen_proto::limits::MIB;
use dolmen_proto::mask::Mask;
use dolmen_proto::policy::Policy;
use dolmen_proto::root::{RootHasher, root_of};
use dolmen_proto::seal::{Codec, chunk_key, open_into, seal_into, sealed_len};
use dolmen_proto::segment::SegmentNonce;
use dolmen_storage_node::disk::FileDisk;
use dolmen_storage_node::store::{DataFolder, IndexPlace, LeaseRecord, Store, StoreOptions, initialise};

const CHUNK_BYTES: usize = 1024 * 1024;
const SHARD_BYTES: usize = 1024 * 1024;

fn noise(length: usize, seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_keyed(&[seed; 32]).finalize_xof().fill(&mut bytes);
    bytes
}

fn policy(k: u8, n: u8) -> Policy {
    Policy::new(k, n).expect("a legal policy")
}

fn seal(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("seal");
    group.throughput(Throughput::Bytes(CHUNK_BYTES as u64));
    let (dedup, plain) = (DedupKey::new([1; 32]), noise(CHUNK_BYTES, 1));
    group.bench_function("chunk_key", |bencher| bencher.iter(|| chunk_key(&dedup, Codec::Plain, black_box(&plain))));
    let key = chunk_key(&dedup, Codec::Plain, &plain);
    let mut sealed = vec![0; sealed_len(plain.len())];
    group.bench_function("seal", |bencher| {
        bencher.iter(|| seal_into(&key, black_box(&plain), &mut sealed).expect("the right length"));
    });
    let mut opened = Vec::new();
    group.bench_function("open", |bencher| {
        bencher.iter(|| open_into(&key, black_box(&sealed), &mut opened).expect("untouched"));
    });
    group.finish();
}

fn erasure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("erasure");
    for (k, n) in [(4, 10), (10, 20), (10, 30), (16, 40)] {
        let policy = policy(k, n);
        let code = Code::new(policy);
        let data: Vec<Vec<u8>> = (0..k).map(|seed| noise(SHARD_BYTES, seed)).collect();
        let slices: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        let mut parity = vec![vec![0; SHARD_BYTES]; usize::from(n - k)];
        group.throughput(Throughput::Bytes((SHARD_BYTES * usize::from(k)) as u64));
        group.bench_with_input(BenchmarkId::new("encode", policy), &code, |bencher, code| {
            bencher.iter(|| {
                let mut outputs: Vec<&mut [u8]> = parity.iter_mut().map(Vec::as_mut_slice).collect();
                code.encode(black_box(&slices), &mut outputs).expect("equal lengths");
            });
        });
        let lost = (n - k).min(k);
        let present: Vec<(ShardIndex, &[u8])> = (lost..k)
            .map(|index| (ShardIndex::new(index), slices[usize::from(index)]))
            .chain((k..k + lost).map(|index| (ShardIndex::new(index), parity[usize::from(index - k)].as_slice())))
            .collect();
        let mut rebuilt = vec![vec![0; SHARD_BYTES]; usize::from(lost)];
        group.bench_with_input(BenchmarkId::new("rebuild", policy), &code, |bencher, code| {
            bencher.iter(|| {
                let mut wanted: Vec<(ShardIndex, &mut [u8])> =
                    (0..lost).map(ShardIndex::new).zip(rebuilt.iter_mut().map(Vec::as_mut_slice)).collect();
                code.rebuild(black_box(&present), &mut wanted).expect("k are present");
            });
        });
    }
    group.finish();
}

fn mask_and_root(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("shard");
    group.throughput(Throughput::Bytes(SHARD_BYTES as u64));
    let mask = Mask::new(&MaskSecret::new([2; 32]), &SegmentNonce::new([3; 32]), policy(7, 16));
    let mut shard = noise(SHARD_BYTES, 4);
    group.bench_function("mask", |bencher| bencher.iter(|| mask.apply(ShardIndex::new(9), 0, black_box(&mut shard))));
    group.bench_function("root", |bencher| bencher.iter(|| root_of(black_box(&shard))));
    group.bench_function("root_and_outboard", |bencher| {
        bencher.iter(|| {
            let mut hasher = RootHasher::new();
            for piece in black_box(&shard).chunks(64 * 1024) {
                hasher.update(piece);
            }
            hasher.finish()
        });
    });
    group.finish();
}

fn volume(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("volume");
    group.sample_size(10).measurement_time(Duration::from_secs(4)).throughput(Throughput::Bytes(SHARD_BYTES as u64));
    for synced in [false, true] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let node = NodeId::new([7; 32]);
        let disk = FileDisk::open(folder.path()).expect("a folder");
        initialise(&disk, node, [8; 32]).expect("an empty folder");
        let data = DataFolder {
            disk,
            name: "bench".to_owned(),
            index: IndexPlace::Sled(folder.path().join("index")),
            capacity_bytes: Some(64 * 1024 * MIB),
        };
        let (store, _) =
            Store::open_whole(vec![data], StoreOptions::new(node), Timestamp::from_unix_ms(1)).expect("a store");
        let mut number = 0_u64;
        let mut shard = noise(SHARD_BYTES, 5);
        group.bench_function(if synced { "append_fsync" } else { "append" }, |bencher| {
            bencher.iter(|| {
                number += 1;
                shard[..8].copy_from_slice(&number.to_le_bytes());
                let root = root_of(&shard);
                let length = u32::try_from(shard.len()).expect("a mebibyte");
                let mut writer = store.begin_put(root, length).expect("room");
                for piece in shard.chunks(128 * 1024) {
                    writer.write(piece).expect("written");
                }
                let lease = LeaseRecord {
                    account: AccountId::new([1; 32]),
                    delete_key: [2; 32],
                    renew_key: [3; 32],
                    until: Timestamp::from_unix_ms(u64::MAX / 2),
                    issued_at: Timestamp::from_unix_ms(1),
                    mark: [0; 16],
                    terms: Bytes::from_static(b"bench"),
                };
                let ticket = writer.finish(lease).expect("the root is right");
                if synced {
                    store.commit(ticket).expect("synced");
                }
            });
        });
        store.close().expect("closed");
    }
    group.finish();
}

criterion_group!(parts, seal, erasure, mask_and_root, volume);
criterion_main!(parts);
