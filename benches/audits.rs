//! What proof of storage costs: `cargo bench -p dolmen-benches --bench audits`.
//!
//! Fills a real store on disk with shards of 2 MiB (`DOLMEN_BENCH_MIB`, default 2048), audits it through a node's service as
//! an auditor does, lets a hundred auditors ask for all they can beside a reader, and fills a steward's database with shard rows
//! (`DOLMEN_BENCH_CARE_SHARDS`, default 1,250,000: a tenth of 10 TB) in a process of its own, whose peak memory is looked at.
//! Prints one JSON line a part. CPU times are the thread's own (`/proc/thread-self/schedstat`), so a busy machine does not
//! count; ratios of readers are of wall time. Asserts nothing but that every block is proven and the budget holds.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use dolmen_client::CareLoad;
use dolmen_proto::audit::{
    AuditError, Draw, DrawKind, Outcome, SetBuilder, SetShard, SetTop, Transcript, groups_of, nonce_hash, open_set,
    prune_set,
};
use dolmen_proto::ids::{AccountId, NodeId, Timestamp};
use dolmen_proto::root::root_of;
use dolmen_proto::wire::{
    Challenge, Close, GetRequest, Proof, ProveReply, ProveRequest, Reply, Request, Reveal, RevealStep, Signed, Slot,
};
use dolmen_storage_node::clock::ClockGuard;
use dolmen_storage_node::disk::FileDisk;
use dolmen_storage_node::service::{Service, ServiceOptions};
use dolmen_storage_node::store::{DataFolder, IndexPlace, LeaseRecord, Store, StoreOptions, initialise};
use dolmen_storage_node::subnet::Subnet;
use ed25519_dalek::SigningKey;
use serde_json::json;

const SHARD_BYTES: usize = 2 * 1024 * 1024;
const SAMPLES: u32 = 64;
const ROUNDS: u64 = 100;
const AUDITORS: u8 = 100;
const TB: f64 = 1e12;
const NOW: Timestamp = Timestamp::from_unix_ms(1_900_000_000_000);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let done = match arguments.next().as_deref() {
        Some("care") => arguments.next().context("a folder").and_then(|folder| care(Path::new(&folder))),
        _ => measure(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "audits: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn report(part: &str, line: &serde_json::Value) -> Result<()> {
    let mut output = std::io::stdout().lock();
    writeln!(output, "{}", json!({ "part": part, "result": line }))?;
    Ok(output.flush()?)
}

/// Time that this thread was on a core.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0))
}

#[allow(clippy::cast_precision_loss)]
fn measure() -> Result<()> {
    let folder = tempfile::Builder::new().prefix("dolmen-audits-").tempdir()?;
    let shards = setting("DOLMEN_BENCH_MIB", 2048) * 1024 * 1024 / SHARD_BYTES as u64;
    let key = SigningKey::from_bytes(&[42; 32]);
    let node = NodeId::new(key.verifying_key().to_bytes());
    let disk = FileDisk::open(folder.path())?;
    initialise(&disk, node, [1; 32])?;
    drop(disk);
    let store = open(folder.path(), node)?;
    let mut set = Vec::new();
    let mut bytes = vec![0; SHARD_BYTES];
    for number in 0..shards {
        blake3::Hasher::new_derive_key("dolmen bench shards")
            .update(&number.to_le_bytes())
            .finalize_xof()
            .fill(&mut bytes);
        set.push(put(&store, &bytes)?);
    }
    set.sort_unstable();
    store.close()?;
    drop(store);
    costs(&service(open(folder.path(), node)?, &key, 1 << 40)?, &set)?;
    beside_readers(Arc::new(service(open(folder.path(), node)?, &key, 1800)?), &Arc::new(set))?;
    let state = tempfile::Builder::new().prefix("dolmen-care-").tempdir()?;
    let status = Command::new(std::env::current_exe()?).arg("care").arg(state.path()).status()?;
    if status.success() { Ok(()) } else { bail!("the steward's part ended with {status}") }
}

fn open(folder: &Path, node: NodeId) -> Result<Store<FileDisk>> {
    let data = DataFolder {
        disk: FileDisk::open(folder)?,
        name: "bench".to_owned(),
        index: IndexPlace::Sled(folder.join("index")),
        capacity_bytes: None,
    };
    let options = StoreOptions { reserve_bytes: 0, ..StoreOptions::new(node) };
    Ok(Store::open_whole(vec![data], options, NOW)?.0)
}

fn put(store: &Store<FileDisk>, bytes: &[u8]) -> Result<SetShard> {
    let shard = SetShard { root: root_of(bytes), length_bytes: u32::try_from(bytes.len())? };
    let mut writer = store.begin_put(shard.root, shard.length_bytes)?;
    for piece in bytes.chunks(256 * 1024) {
        writer.write(piece)?;
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
    store.commit(writer.finish(lease)?)?;
    Ok(shard)
}

fn service(store: Store<FileDisk>, key: &SigningKey, samples_per_hour: u64) -> Result<Service<FileDisk>> {
    let options = ServiceOptions { audit_samples_per_hour: samples_per_hour, ..ServiceOptions::default() };
    Ok(Service::open(store, key.clone(), ClockGuard::new(NOW, Duration::ZERO, None), options)?)
}

/// Somebody who asks.
struct Auditor {
    key: SigningKey,
    from: Subnet,
    top: SetTop,
}

/// One audit as far as it came.
struct Asked {
    step: RevealStep,
    set: Bytes,
    proof: Signed<Proof>,
    blocks: Bytes,
    groups: usize,
    shards: usize,
}

impl Auditor {
    fn new(number: u8, set: &[SetShard]) -> Result<Self> {
        let mut builder = SetBuilder::new();
        set.iter().try_for_each(|shard| builder.push(shard))?;
        let key = SigningKey::from_bytes(&[number; 32]);
        Ok(Self { key, from: Subnet::V4([203, 0, number]), top: builder.finish()? })
    }

    fn slot(
        &self,
        service: &Service<FileDisk>,
        round: u64,
        now: Timestamp,
    ) -> Result<(Signed<Challenge>, Signed<Slot>)> {
        let challenge = Challenge {
            node: service.node(),
            auditor: self.key.verifying_key().to_bytes(),
            draw: DrawKind::Mixed,
            samples: SAMPLES,
            set: self.top,
            nonce_hash: nonce_hash(&nonce(round)),
            issued_at: now,
            beacon: None,
        };
        let challenge = Signed::sign(challenge, &self.key);
        let request = Request::Prove(Box::new(ProveRequest::Challenge(Box::new(challenge.clone()))));
        match service.answer(&request, now, Some(self.from)) {
            Reply::Prove(ProveReply::Slot(slot)) => Ok((challenge, slot)),
            other => bail!("not a slot: {other:?}"),
        }
    }

    fn reveal(&self, (challenge, slot): (Signed<Challenge>, Signed<Slot>), round: u64, now: Timestamp) -> RevealStep {
        let reveal = Reveal {
            node: slot.claimed().node,
            auditor: self.key.verifying_key().to_bytes(),
            slot_hash: slot.body_hash(),
            nonce: nonce(round),
            beacon_value: Bytes::new(),
            asked_at: now,
            attempt: 0,
        };
        RevealStep { challenge, slot, reveal: Signed::sign(reveal, &self.key), set_bytes: 1 }
    }

    /// The rest of an audit whose slot was granted; adds the node's CPU time.
    fn ask(
        &self,
        service: &Service<FileDisk>,
        step: RevealStep,
        shards: &[SetShard],
        node_cpu: &mut Duration,
    ) -> Result<Asked> {
        let begun = cpu();
        let draw: Draw = service.admit_reveal(&step, NOW, Some(self.from))?;
        *node_cpu += cpu() - begun;
        let mut shards = shards.iter().map(|shard| Ok::<_, AuditError>(*shard));
        let (set, drawn) = prune_set(&self.top, &draw, &mut shards)?;
        let set = Bytes::from(set);
        let begun = cpu();
        let (proof, blocks) = service.prove_reveal(&step, &draw, set.clone(), Some(self.from), || NOW)?;
        *node_cpu += cpu() - begun;
        let groups = drawn.iter().map(|drawn| groups_of(&drawn.blocks).len()).sum();
        Ok(Asked { step, set, proof, blocks, groups, shards: drawn.len() })
    }
}

fn nonce(round: u64) -> [u8; 32] {
    *blake3::hash(&round.to_le_bytes()).as_bytes()
}

#[allow(clippy::cast_precision_loss)]
fn costs(service: &Service<FileDisk>, set: &[SetShard]) -> Result<()> {
    let auditor = Auditor::new(7, set)?;
    let (mut node_cpu, mut verifier_cpu, mut open_cpu) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut block_bytes, mut proof_bytes, mut set_bytes, mut outboards, mut groups) = (0, 0, 0, 0, 0);
    for round in 0..ROUNDS {
        let begun = cpu();
        let granted = auditor.slot(service, round, NOW)?;
        node_cpu += cpu() - begun;
        ensure!(granted.1.claimed().refused.is_none(), "the budget is far larger");
        let asked = auditor.ask(service, auditor.reveal(granted, round, NOW), set, &mut node_cpu)?;
        block_bytes += asked.blocks.len();
        proof_bytes += asked.proof.encode().len();
        set_bytes += asked.set.len();
        (outboards, groups) = (outboards + asked.shards, groups + asked.groups);
        let close = Close {
            node: service.node(),
            auditor: auditor.key.verifying_key().to_bytes(),
            last_hash: asked.proof.body_hash(),
            outcome: Outcome::Passed,
            received_at: NOW,
            asked: u32::try_from(asked.shards)?,
            failed: 0,
        };
        let draw = asked.step.verify(&service.node(), NOW)?;
        let begun = cpu();
        open_set(&auditor.top, &draw, &asked.set)?;
        open_cpu += cpu() - begun;
        let transcript = Transcript {
            challenge: asked.step.challenge,
            slot: asked.step.slot,
            reveals: vec![asked.step.reveal],
            set: asked.set,
            answer: Some((asked.proof, asked.blocks)),
            receipts: Vec::new(),
            round_trip_ms: 0,
            close: Signed::sign(close, &auditor.key),
        };
        let begun = cpu();
        let verified = transcript.verify()?;
        verifier_cpu += cpu() - begun;
        ensure!(verified.outcome == Outcome::Passed, "every block is proven");
    }
    let samples = (ROUNDS * u64::from(SAMPLES)) as f64;
    let per = |total: usize| total as f64 / samples;
    let micros = |time: Duration| time.as_secs_f64() * 1e6 / samples;
    let a_day = 64.0 * 24.0;
    let wire = per(block_bytes + proof_bytes + set_bytes);
    report(
        "a sample",
        &json!({
            "shards": set.len(), "bytes": auditor.top.bytes, "samples": samples,
            "block_and_path_bytes": per(block_bytes), "signed_proof_bytes": per(proof_bytes),
            "pruned_set_bytes": per(set_bytes), "all_bytes": wire,
            "outboard_reads": per(outboards), "data_reads": per(groups),
            "node_cpu_us": micros(node_cpu), "verifier_cpu_us": micros(verifier_cpu), "of_that_set_us": micros(open_cpu),
        }),
    )?;
    // A terabyte of the same shards has a set that is so many levels deeper: 41 bytes a level and sample at most.
    let levels = (TB / auditor.top.bytes as f64).log2().ceil();
    report(
        "a day of a terabyte at 64 samples an hour, extrapolated",
        &json!({
            "samples": a_day, "deeper_by": levels, "bytes_at_most": a_day * (wire + levels * 41.0),
            "reads": a_day * per(outboards + groups), "node_cpu_ms": a_day * micros(node_cpu) / 1000.0,
        }),
    )
}

/// A reader alone, and the same reader while a hundred auditors take all that they get, in turns.
#[allow(clippy::cast_precision_loss)]
fn beside_readers(service: Arc<Service<FileDisk>>, set: &Arc<Vec<SetShard>>) -> Result<()> {
    let auditors = (0..AUDITORS).map(|number| Auditor::new(number, set)).collect::<Result<Vec<_>>>()?;
    let (mut alone, mut beside, mut granted, mut refused) = (Vec::new(), Vec::new(), 0u64, 0u64);
    let mut node_cpu = Duration::ZERO;
    for round in 0..6 {
        let (stop, read) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let reader = {
            let (service, set, stop, read) =
                (Arc::clone(&service), Arc::clone(set), Arc::clone(&stop), Arc::clone(&read));
            std::thread::spawn(move || read_all(&service, &set, &stop, &read))
        };
        let begun = Instant::now();
        let mut asked = 0;
        while begun.elapsed() < Duration::from_secs(3) {
            if round % 2 == 0 {
                std::thread::sleep(Duration::from_millis(50));
                continue;
            }
            // As fast as one core asks; all at one time, so that the budget of an hour is all that there is.
            let auditor = &auditors[asked % auditors.len()];
            let number = round * 1_000_000 + asked as u64;
            let slot = auditor.slot(&service, number, NOW)?;
            asked += 1;
            if slot.1.claimed().refused.is_some() {
                refused += 1;
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            auditor.ask(&service, auditor.reveal(slot, number, NOW), set, &mut node_cpu)?;
            granted += u64::from(SAMPLES);
        }
        let seconds = begun.elapsed().as_secs_f64();
        stop.store(true, Ordering::Relaxed);
        reader.join().map_err(|_| anyhow::anyhow!("the reader broke down"))??;
        let rate = read.load(Ordering::Relaxed) as f64 / seconds;
        if round % 2 == 0 { alone.push(rate) } else { beside.push(rate) }
    }
    ensure!(granted <= 2048, "the budget of an hour is 1,800 samples, and 2,048 may be saved up: {granted}");
    let sum = |rates: &[f64]| rates.iter().sum::<f64>() / rates.len() as f64 / 1e6;
    report(
        "a hundred auditors of one node",
        &json!({
            "samples_granted": granted, "slots_refused": refused, "budget_an_hour": 1800,
            "reader_mb_s_alone": sum(&alone), "reader_mb_s_beside": sum(&beside),
            "reader_ratio": sum(&beside) / sum(&alone), "node_cpu_ms": node_cpu.as_secs_f64() * 1000.0,
        }),
    )
}

fn read_all(service: &Service<FileDisk>, set: &[SetShard], stop: &AtomicBool, read: &AtomicU64) -> Result<()> {
    loop {
        for shard in set {
            let length_bytes = u64::from(shard.length_bytes);
            let request =
                GetRequest { root: shard.root, length_bytes, offset_bytes: 0, count_bytes: length_bytes, proof: false };
            let mut plan = service.begin_get(&request)?;
            while let Some(piece) = service.read_piece(&mut plan)? {
                read.fetch_add(piece.len() as u64, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        }
    }
}

/// A steward's database, in a process of its own.
fn care(folder: &Path) -> Result<()> {
    let (shards, nodes) = (setting("DOLMEN_BENCH_CARE_SHARDS", 1_250_000), 40);
    let load = CareLoad::open(folder)?;
    let step = |name: &str, work: &mut dyn FnMut() -> Result<u64>| -> Result<()> {
        let (begun, on_core) = (Instant::now(), cpu());
        let count = work()?;
        let line = json!({
            "shards": shards, "nodes": nodes, "count": count, "seconds": begun.elapsed().as_secs_f64(),
            "cpu_seconds": (cpu() - on_core).as_secs_f64(), "peak_mib_so_far": high_water_mib(),
            "file_mib": std::fs::metadata(folder.join("steward.redb")).map_or(0, |file| file.len() >> 20),
        });
        report(&format!("a steward: {name}"), &line)
    };
    step("empty", &mut || Ok(0))?;
    step("first look at the table", &mut || Ok(load.survey(shards, nodes, 1)?))?;
    step("receipts of everything", &mut || Ok(load.receipts(shards, nodes)?))?;
    step("second look at the table", &mut || Ok(load.survey(shards, nodes, 2)?))?;
    step("top and pruned set of 64 samples, one node", &mut || Ok(load.challenge(0)?))?;
    step("the same of all nodes", &mut || (0..nodes).try_fold(0, |sum, node| Ok(sum + load.challenge(node)?)))
}

fn high_water_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).unwrap_or(0) / 1024
}
