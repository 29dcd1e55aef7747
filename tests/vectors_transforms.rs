//! Golden vectors of keys, chunks, segments and shards: what is written today must be what was written at first.
//!
//! `tests/vectors/transforms/` holds one JSON file a case; long byte strings lie beside it as `.bin`. Inputs named by
//! a seed are the first bytes of BLAKE3's extendable output over the seed as eight little-endian bytes. A file whose
//! name says what is wrong (`seal_flipped_tag`) must be refused for the recorded reason.
//!
//! Files are recorded once: `DOLMEN_BLESS=1 cargo test -p dolmen-tests --test vectors_transforms` writes those that are
//! missing and never changes one that is there. Deleting one on purpose is a change of format.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use data_encoding::HEXLOWER;
use dolmen_proto::chunk::Cutter;
use dolmen_proto::erasure::Code;
use dolmen_proto::ids::{ChunkId, NodeId, ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::keys::{
    self, DatasetKeys, DedupKey, MaskKey, MaskSecret, ReadKeys, TableKeys, VaultSecret, ViewKeys,
};
use dolmen_proto::mask::Mask;
use dolmen_proto::pack::Packer;
use dolmen_proto::policy::Policy;
use dolmen_proto::root::{self, RootHasher, SliceError};
use dolmen_proto::seal::{self, ChunkKey, Codec, OpenError};
use dolmen_proto::segment::{Geometry, Padding, SegmentError, SegmentNonce};
use serde_json::{Value, json};

/// Policies that `auto` may choose, and the edges.
const POLICIES: &[(u8, u8)] = &[
    (1, 1),
    (1, 2),
    (2, 3),
    (2, 4),
    (2, 5),
    (3, 3),
    (3, 6),
    (4, 8),
    (4, 10),
    (5, 12),
    (7, 16),
    (8, 20),
    (10, 24),
    (13, 32),
    (16, 40),
    (64, 64),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/transforms")
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn hex(bytes: impl AsRef<[u8]>) -> String {
    HEXLOWER.encode(bytes.as_ref())
}

fn hash(bytes: &[u8]) -> String {
    hex(blake3::hash(bytes).as_bytes())
}

fn policy(k: u8, n: u8) -> Policy {
    Policy::new(k, n).expect("a legal policy")
}

/// Files to be recorded: name to contents.
#[derive(Default)]
struct Recording(BTreeMap<String, Vec<u8>>);

impl Recording {
    fn json(&mut self, name: &str, value: &Value) {
        let mut text = serde_json::to_string_pretty(value).expect("a JSON value prints");
        text.push('\n');
        assert!(self.0.insert(format!("{name}.json"), text.into_bytes()).is_none(), "{name} is recorded twice");
    }

    fn binary(&mut self, name: &str, bytes: &[u8]) {
        assert!(self.0.insert(format!("{name}.bin"), bytes.to_vec()).is_none(), "{name} is recorded twice");
    }
}

fn record_keys(recording: &mut Recording) {
    let vault = VaultSecret::new([0x11; 32]);
    let node = NodeId::new([0x22; 32]);
    let keys = DatasetKeys::derive(&vault, 3);
    let (read, table) = (ReadKeys::derive(&keys.read), TableKeys::derive(&keys.table));
    let points = |locator| (0..8).map(|number| hex(keys::point(locator, number).as_bytes())).collect::<Vec<_>>();
    recording.json(
        "keys",
        &json!({
            "vault": hex(vault.expose()),
            "index": 3,
            "dedup": hex(keys.dedup.expose()),
            "mask": hex(keys.mask.expose()),
            "table": hex(keys.table.expose()),
            "chunker_seed": keys.chunker_seed.to_string(),
            "read_head_seed": hex(keys.read_head.to_bytes()),
            "read_head_public": hex(keys.read_head.verifying_key().to_bytes()),
            "table_head_seed": hex(keys.table_head.to_bytes()),
            "table_head_public": hex(keys.table_head.verifying_key().to_bytes()),
            "read_opening": hex(keys.read_opening.expose()),
            "read": hex(keys.read.expose()),
            "account": hex(keys.account.expose()),
            "delete": hex(keys.delete.expose()),
            "renew": hex(keys.renew.expose()),
            "snapshot_created_ms": 1_790_000_000_000_u64,
            "snapshot_salt": hex(keys.snapshot_salt(Timestamp::from_unix_ms(1_790_000_000_000))),
            "node": hex(node.as_bytes()),
            "account_key_seed": hex(keys::account_key(&keys.account, node).to_bytes()),
            "delete_key_seed": hex(keys::delete_key(&keys.delete, node).to_bytes()),
            "renew_key_seed": hex(keys::renew_key(&keys.renew, node).to_bytes()),
            "read_locator": hex(read.locator.expose()),
            "read_head_seal": hex(read.seal.expose()),
            "read_points": points(&read.locator),
            "table_locator": hex(table.locator.expose()),
            "table_head_seal": hex(table.seal.expose()),
            "table_points": points(&table.locator),
        }),
    );
}

fn record_resealed_keys(recording: &mut Recording) {
    let keys = DatasetKeys::derive_epoch(&VaultSecret::from_entropy(&[0x11; 32]), 3, 2);
    let sealing = [0, 1, 2].map(|epoch| {
        let keys = keys.sealing_as(epoch);
        let seed = keys.chunker_seed.to_string();
        json!({ "sealing": epoch, "dedup": hex(keys.dedup.expose()), "chunker_seed": seed, "mask": hex(keys.mask.expose()) })
    });
    recording
        .json("keys_of_a_resealed_dataset", &json!({ "entropy": hex([0x11; 32]), "index": 3, "sealing": sealing }));
}

fn record_vault_keys(recording: &mut Recording) {
    let vault = VaultSecret::from_entropy(&[0x11; 32]);
    let first = DatasetKeys::derive(&vault, 3);
    let created = Timestamp::from_unix_ms(1_790_000_000_000);
    let epochs = [0, 1, 2].map(|epoch| {
        let keys = DatasetKeys::derive_epoch(&vault, 3, epoch);
        json!({
            "epoch": epoch,
            "table": hex(keys.table.expose()),
            "read_head_seed": hex(keys.read_head.to_bytes()),
            "table_head_seed": hex(keys.table_head.to_bytes()),
            "read_opening": hex(keys.read_opening.expose()),
            "read": hex(keys.read.expose()),
            "dedup": hex(keys.dedup.expose()),
            "mask": hex(keys.mask.expose()),
        })
    });
    let views = [0, 77].map(|number| {
        let view = first.view(number);
        let led_to = ViewKeys::derive(&view.secret);
        json!({
            "number": number,
            "head_seed": hex(view.head.to_bytes()),
            "head_public": hex(view.head.verifying_key().to_bytes()),
            "opening": hex(view.opening.expose()),
            "secret": hex(view.secret.expose()),
            "salt": hex(first.view_salt(number, created)),
            "locator": hex(led_to.locator.expose()),
            "head_seal": hex(led_to.seal.expose()),
        })
    });
    recording.json(
        "keys_of_a_vault",
        &json!({
            "entropy": hex([0x11; 32]),
            "vault": hex(vault.expose()),
            "index": 3,
            "note": hex(first.note.expose()),
            "epochs": epochs,
            "views": views,
            "views_created_ms": created.as_unix_ms(),
            "mask_key_nonce": hex([0x44; 32]),
            "mask_key": hex(MaskKey::derive(&first.mask, &SegmentNonce::new([0x44; 32])).expose()),
        }),
    );
}

fn record_codecs(recording: &mut Recording) {
    let dedup = DedupKey::new([0x33; 32]);
    let chunks = [Codec::Plain, Codec::Zstd].map(|codec| {
        let key = seal::chunk_key(&dedup, codec, b"to be sealed");
        json!({"codec": codec.to_byte(), "chunk_key": hex(key.expose()), "chunk_id": key.id().to_string()})
    });
    recording.json("chunk_keys", &json!({"dedup": hex([0x33; 32]), "bytes": hex(b"to be sealed"), "chunks": chunks}));
}

fn record_chunking(recording: &mut Recording) {
    let cases: Vec<Value> = [
        (0u64, 1u64, 9_000_000usize),
        (77, 1, 9_000_000),
        (77, 2, 262_144),
        (77, 2, 262_145),
        (77, 2, 1),
    ]
    .into_iter()
    .map(|(cutter_seed, content_seed, length)| {
        let content = noise(content_seed, length);
        let (cutter, mut rest, mut lengths) = (Cutter::new(cutter_seed), &content[..], Vec::new());
        while let Some(length) = cutter.cut(rest, true) {
            lengths.push(length);
            rest = &rest[length..];
        }
        json!({ "chunker_seed": cutter_seed, "content_seed": content_seed, "length": length, "chunks": lengths })
    })
    .collect();
    recording.json("chunking", &json!({ "cases": cases }));
}

fn sealed(plain: &[u8]) -> (ChunkKey, Vec<u8>) {
    let key = seal::chunk_key(&DedupKey::new([0x33; 32]), Codec::Plain, plain);
    let mut out = vec![0; seal::sealed_len(plain.len())];
    seal::seal_into(&key, plain, &mut out).expect("a legal chunk");
    (key, out)
}

fn record_sealing(recording: &mut Recording) {
    let cases: Vec<Value> = [1usize, 100, 16_367, 16_368, 16_369, 32_736, 70_000, 4_194_304]
        .into_iter()
        .map(|length| {
            let (key, sealed) = sealed(&noise(5, length));
            json!({
                "content_seed": 5, "length": length, "codec": 0,
                "chunk_key": hex(key.expose()), "chunk_id": hex(key.id().as_bytes()),
                "sealed_length": sealed.len(), "sealed_blake3": hash(&sealed),
            })
        })
        .collect();
    recording.json("seal", &json!({ "dedup": hex([0x33; 32]), "cases": cases }));

    let (key, good) = sealed(&noise(6, 2 * 16_368));
    let mut flipped = good.clone();
    *flipped.last_mut().expect("not empty") ^= 1;
    let mut swapped = good.clone();
    let (first, second) = swapped.split_at_mut(16_384);
    first.swap_with_slice(second);
    let mut impossible = good[..16_384].to_vec();
    impossible.extend_from_slice(&[0; 16]);
    let broken = [
        ("seal_two_frames", hex(key.expose()), good.clone()),
        ("seal_flipped_tag", hex(key.expose()), flipped),
        ("seal_swapped_frames", hex(key.expose()), swapped),
        ("seal_truncated_last_frame", hex(key.expose()), good[..16_384].to_vec()),
        ("seal_empty_last_frame", hex(key.expose()), impossible),
        ("seal_other_chunks_key", hex([0x44; 32]), good),
    ];
    for (name, key, stored) in broken {
        let words = seal_verdict(&key, &stored);
        recording.json(name, &json!({ "chunk_key": key, "sealed": format!("{name}.bin"), "verdict": words }));
        recording.binary(name, &stored);
    }
}

/// What becomes of sealed bytes, in words that outlive error messages.
fn seal_verdict(key: &str, stored: &[u8]) -> String {
    let mut plain = Vec::new();
    match seal::open_into(&ChunkKey::new(bytes32(key)), stored, &mut plain) {
        Ok(()) => format!("opens to {}", hash(&plain)),
        Err(OpenError::Tag(frame)) => format!("refused: tag of frame {frame}"),
        Err(OpenError::ChunkLength(_)) => "refused: no chunk has this length".to_owned(),
        Err(error @ (OpenError::Frames | OpenError::OutputLength { .. })) => {
            panic!("not of the vector's making: {error}")
        }
    }
}

fn record_packing(recording: &mut Recording) {
    let lengths = [100usize, 65_535, 65_536, 17, 1_000_000, 40_000, 4_198_416];
    let mut packer = Packer::new(policy(4, 8));
    let offsets: Vec<_> = lengths.iter().map(|length| packer.push(*length)).collect();
    let gaps: Vec<_> = packer.gaps().iter().map(|gap| [gap.start, gap.end]).collect();
    let payload = packer.payload_bytes();
    recording.json("pack", &json!({ "sealed": lengths, "offsets": offsets, "gaps": gaps, "payload": payload }));
}

fn record_geometry(recording: &mut Recording) {
    let mut cases = Vec::new();
    for (k, n) in POLICIES {
        let policy = policy(*k, *n);
        let capacity = Geometry::capacity(policy);
        let shards: Vec<Value> = [1, 1_000, 65_537, 1_048_575, 1_048_576, 5_000_001, 20_000_000, capacity]
            .into_iter()
            .map(|payload| {
                let geometry = Geometry::for_payload(policy, payload).expect("fits");
                json!({ "payload": payload, "shard": geometry.shard_bytes() })
            })
            .collect();
        cases.push(json!({ "k": k, "n": n, "capacity": capacity, "shards": shards }));
    }
    recording.json("geometry", &json!({ "cases": cases }));
    for (name, payload, shard) in [
        ("geometry_not_padme", 20_000_000u32, 5_013_504u32),
        ("geometry_wrong_step", 1_060_000, 270_336),
        ("geometry_one_step_more", 1_000, 2048),
        ("geometry_no_payload", 0, 1024),
        ("geometry_payload_too_large", 33_554_433, 8_388_608),
        ("geometry_no_shard", 1_000, 0),
    ] {
        let words = geometry_verdict(payload, shard);
        recording.json(name, &json!({ "k": 4, "n": 8, "payload": payload, "shard": shard, "verdict": words }));
    }
}

fn geometry_verdict(payload: u32, shard: u32) -> String {
    match Geometry::from_parts(policy(4, 8), payload, shard) {
        Ok(_) => "accepted".to_owned(),
        Err(SegmentError::ShardLength { expected, .. }) => format!("refused: the shard length is {expected}"),
        Err(SegmentError::TooLarge { capacity, .. }) => format!("refused: the capacity is {capacity}"),
        Err(SegmentError::Empty) => "refused: no payload".to_owned(),
        Err(error) => panic!("not of the vector's making: {error}"),
    }
}

fn record_segment(recording: &mut Recording) {
    let dedup = DedupKey::new([0x33; 32]);
    let geometry = Geometry::for_payload(policy(2, 4), 70_100).expect("fits");
    let chunks = [(ChunkId::new([1; 32]), 0), (ChunkId::new([2; 32]), 100)];
    let nonce = SegmentNonce::derive(&dedup, &geometry, &chunks).expect("chunks");
    let roots: Vec<ShardRoot> = (1..=4).map(|byte| ShardRoot::new([byte; 32])).collect();
    let mut padding = [0; 96];
    Padding::new(&dedup, &nonce).fill(70_100, &mut padding);
    let mask = Mask::new(&MaskSecret::new([0x55; 32]), &nonce, policy(2, 4));
    let mut masks = Vec::new();
    for index in 0..4 {
        let mut stream = [0; 96];
        mask.apply(ShardIndex::new(index), 1_000, &mut stream);
        masks.push(hex(stream));
    }
    recording.json(
        "segment",
        &json!({
            "dedup": hex(dedup.expose()), "k": 2, "n": 4, "payload": 70_100, "shard": geometry.shard_bytes(),
            "chunks": chunks.map(|(id, offset)| json!({ "id": hex(id.as_bytes()), "offset": offset })),
            "nonce": hex(nonce.as_bytes()),
            "roots": roots.iter().map(|root| hex(root.as_bytes())).collect::<Vec<_>>(),
            "id": hex(geometry.segment_id(&nonce, &roots).expect("four roots").as_bytes()),
            "padding_from_70100": hex(padding),
            "mask_secret": hex([0x55; 32]),
            "masks_from_1000": masks,
        }),
    );
}

fn record_erasure(recording: &mut Recording) {
    let mut cases = Vec::new();
    for (k, n) in POLICIES {
        let code = Code::new(policy(*k, *n));
        let rows: Vec<_> = (*k..*n).map(|row| code.matrix_row(ShardIndex::new(row)).map(hex)).collect();
        let data: Vec<Vec<u8>> = (0..*k).map(|shard| noise(100 + u64::from(shard), 20_480)).collect();
        let mut parity = vec![vec![0; 20_480]; usize::from(*n - *k)];
        let data: Vec<&[u8]> = data.iter().map(Vec::as_slice).collect();
        code.encode(&data, &mut parity.iter_mut().map(Vec::as_mut_slice).collect::<Vec<_>>()).expect("slices fit");
        let hashes: Vec<_> = parity.iter().map(|shard| hash(shard)).collect();
        cases.push(json!({ "k": k, "n": n, "parity_rows": rows, "parity_blake3": hashes }));
    }
    recording.json("erasure", &json!({ "data": "shard i: seed 100 + i, 20480 bytes", "cases": cases }));
}

const SLICED_BYTES: u32 = 40_000;

fn record_roots(recording: &mut Recording) {
    let cases: Vec<Value> = [1usize, 1024, 16_384, 16_385, 32_768, 40_000, 81_920, 1_000_000]
        .into_iter()
        .map(|length| {
            let mut hasher = RootHasher::new();
            hasher.update(&noise(9, length));
            let (root, outboard) = hasher.finish();
            json!({ "content_seed": 9, "length": length, "root": hex(root.as_bytes()),
                    "outboard_length": outboard.len(), "outboard_blake3": hash(&outboard) })
        })
        .collect();
    recording.json("root", &json!({ "cases": cases }));

    let bytes = noise(9, SLICED_BYTES as usize);
    let mut hasher = RootHasher::new();
    hasher.update(&bytes);
    let (root, outboard) = hasher.finish();
    let good = root::encode_slice::<SliceError>(SLICED_BYTES, 20_000, 100, &outboard, |offset, buffer| {
        buffer.copy_from_slice(&bytes[offset as usize..][..buffer.len()]);
        Ok(())
    })
    .expect("inside");
    // The slice is: pair of the root, pair of its left child, group 1. The hash of group 0 stands in bytes 64..96.
    let edit = |place: usize| {
        let mut slice = good.clone();
        slice[place] ^= 0x80;
        slice
    };
    for (name, offset, slice) in [
        ("slice_one_group", 20_000, good.clone()),
        ("slice_flipped_byte", 20_000, edit(128 + 5_000)),
        ("slice_wrong_sibling", 20_000, edit(64)),
        ("slice_wrong_root_pair", 20_000, edit(40)),
        ("slice_truncated", 20_000, good[..good.len() - 1].to_vec()),
        ("slice_of_another_group", 10, good.clone()),
        ("slice_beyond_the_end", 39_950, good.clone()),
    ] {
        let words = slice_verdict(&hex(root.as_bytes()), offset, &slice);
        recording.json(
            name,
            &json!({ "root": hex(root.as_bytes()), "length": SLICED_BYTES, "offset": offset, "count": 100,
                     "slice": format!("{name}.bin"), "verdict": words }),
        );
        recording.binary(name, &slice);
    }
}

fn slice_verdict(root: &str, offset: u32, slice: &[u8]) -> String {
    match root::verify_slice(&ShardRoot::new(bytes32(root)), SLICED_BYTES, offset, 100, slice) {
        Ok(bytes) => format!("proves {}", hash(&bytes)),
        Err(SliceError::Mismatch(_)) => "refused: a hash does not match".to_owned(),
        Err(SliceError::SliceLength { expected, .. }) => format!("refused: the slice has {expected} bytes"),
        Err(SliceError::Range { .. }) => "refused: the range is not in the shard".to_owned(),
        Err(error) => panic!("not of the vector's making: {error}"),
    }
}

fn bytes32(text: &str) -> [u8; 32] {
    HEXLOWER.decode(text.as_bytes()).expect("hexadecimal").try_into().expect("32 bytes")
}

fn recording() -> Recording {
    let mut recording = Recording::default();
    record_keys(&mut recording);
    record_vault_keys(&mut recording);
    record_resealed_keys(&mut recording);
    record_codecs(&mut recording);
    record_chunking(&mut recording);
    record_sealing(&mut recording);
    record_packing(&mut recording);
    record_geometry(&mut recording);
    record_segment(&mut recording);
    record_erasure(&mut recording);
    record_roots(&mut recording);
    recording
}

fn recorded(name: &str) -> Value {
    let text = std::fs::read(folder().join(format!("{name}.json"))).expect("a recorded vector");
    serde_json::from_slice(&text).expect("a vector is JSON")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().expect("a text in a vector")
}

fn number(value: &Value, key: &str) -> u32 {
    value[key].as_u64().and_then(|number| number.try_into().ok()).expect("a number in a vector")
}

/// Names of the recorded vectors that start with `prefix` and an underscore.
fn names(prefix: &str) -> Vec<String> {
    today();
    let names: Vec<String> = std::fs::read_dir(folder())
        .expect("the vectors are there")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
        .filter(|name| name.starts_with(&format!("{prefix}_")))
        .collect();
    assert!(!names.is_empty(), "no vectors {prefix}_*");
    names
}

/// What the code writes today; on request, what is missing is recorded before any test reads it.
fn today() -> &'static BTreeMap<String, Vec<u8>> {
    static TODAY: OnceLock<BTreeMap<String, Vec<u8>>> = OnceLock::new();
    TODAY.get_or_init(|| {
        let recording = recording().0;
        if std::env::var_os("DOLMEN_BLESS").is_some() {
            std::fs::create_dir_all(folder()).expect("the folder of the vectors");
            for (name, contents) in &recording {
                if !folder().join(name).exists() {
                    std::fs::write(folder().join(name), contents).expect("a vector can be written");
                }
            }
        }
        recording
    })
}

#[test]
fn what_is_written_today_is_what_was_recorded() {
    let recording = today();
    for (name, contents) in recording {
        let recorded =
            std::fs::read(folder().join(name)).unwrap_or_else(|error| panic!("{name} is not recorded: {error}"));
        assert!(recorded == *contents, "{name} is not what was recorded: this is a change of format");
    }
    for entry in std::fs::read_dir(folder()).expect("the vectors are there") {
        let name = entry.expect("an entry").file_name().to_string_lossy().into_owned();
        assert!(recording.contains_key(&name), "{name} is recorded, but nothing here makes it");
    }
}

#[test]
fn recorded_sealed_chunks_open_or_are_refused() {
    for name in names("seal") {
        let vector = recorded(&name);
        let stored = std::fs::read(folder().join(text(&vector, "sealed"))).expect("the sealed bytes");
        let verdict = seal_verdict(text(&vector, "chunk_key"), &stored);
        assert_eq!(verdict, text(&vector, "verdict"), "{name}");
        let honest = format!("opens to {}", hash(&noise(6, 2 * 16_368)));
        assert_eq!(verdict == honest, name == "seal_two_frames", "{name}: {verdict}");
    }
}

#[test]
fn recorded_geometries_are_refused() {
    for name in names("geometry") {
        let vector = recorded(&name);
        let verdict = geometry_verdict(number(&vector, "payload"), number(&vector, "shard"));
        assert_ne!(verdict, "accepted", "{name}");
        assert_eq!(verdict, text(&vector, "verdict"), "{name}");
    }
}

#[test]
fn recorded_slices_prove_their_bytes_or_are_refused() {
    for name in names("slice") {
        let vector = recorded(&name);
        let slice = std::fs::read(folder().join(text(&vector, "slice"))).expect("the slice");
        let verdict = slice_verdict(text(&vector, "root"), number(&vector, "offset"), &slice);
        assert_eq!(verdict, text(&vector, "verdict"), "{name}");
        let honest = format!("proves {}", hash(&noise(9, SLICED_BYTES as usize)[20_000..20_100]));
        assert_eq!(verdict == honest, name == "slice_one_group", "{name}: {verdict}");
    }
}

#[test]
fn every_context_is_written_down_and_used_once() {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ lies in the workspace");
    let source = std::fs::read_to_string(workspace.join("proto/src/keys.rs")).expect("keys.rs");
    let page = std::fs::read_to_string(workspace.join("docs/format.md")).expect("docs/format.md");
    let contexts: Vec<&str> = source.split('"').filter(|text| text.starts_with("dolmen 2026 ")).collect();
    let rows: Vec<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `dolmen 2026 "))
        .filter_map(|row| row.split_once('`').map(|(context, _)| context))
        .collect();
    let expected: Vec<&str> = contexts.iter().filter_map(|context| context.strip_prefix("dolmen 2026 ")).collect();
    assert_eq!(sorted(&rows), sorted(&expected), "docs/format.md and keys.rs list different contexts");
    assert!(sorted(&contexts).windows(2).all(|pair| pair[0] != pair[1]), "a context stands twice");
}

fn sorted<'a>(list: &[&'a str]) -> Vec<&'a str> {
    let mut list = list.to_vec();
    list.sort_unstable();
    list
}
