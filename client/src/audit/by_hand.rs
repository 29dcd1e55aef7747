//! An audit now, by hand: every node of a dataset is asked once for samples of what it should hold, for one block of every
//! document shard, and for a window as a reader would ask.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::audit::{DrawKind, Outcome, SetShard, Transcript, byte_samples};
use dolmen_proto::ids::NodeId;
use dolmen_proto::limits::AUDIT_SAMPLES_MAX;
use dolmen_proto::standing::{ChallengeKey, Observation, Standing};
use ed25519_dalek::SigningKey;
use futures::StreamExt;
use serde::Serialize;

use super::exchange::{Asked, Audited, Auditor};
use super::probe::probe;
use super::sets::{ByNodeBuilder, NoReceipts, NodeShards, SetSource};
use super::transcripts::TranscriptFolder;
use crate::error::ClientError;
use crate::network::Nodes;
use crate::progress::Progress;
use crate::read::Place;
use crate::state::Standings;

/// Nodes that are audited at a time: few, since each is read from and timed.
const NODES_AT_ONCE: usize = 4;
/// Samples of every node where nobody says how many.
const SAMPLES_DEFAULT: u32 = 64;
/// How long a node that was silent is left alone before it is asked again, by hand.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// How often it is asked by hand; the rule's three times in a day are for those who have a day.
const ATTEMPTS: usize = 2;

/// How to audit by hand.
#[derive(Debug, Clone, Default)]
pub struct AuditOptions {
    /// Samples of every node, 1 to 1,024; 64 if not given.
    pub samples: Option<u32>,
    /// Where transcripts are kept; nowhere if not given.
    pub transcripts: Option<PathBuf>,
}

/// What a node came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditedNode {
    /// The node.
    pub node: String,
    /// Shards of the dataset that it should hold.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
    /// `passed`, `wrong`, `not_held`, `no_answer`, `late`, `refused`, `offline` or `unable`; the worst, where it was asked
    /// for several things.
    pub outcome: String,
    /// Why, where it did not pass.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Samples asked for.
    pub samples: u32,
    /// Blocks shown that are right.
    pub proven_blocks: u32,
    /// Shards that were drawn and not proven.
    pub failed_shards: u32,
    /// How long a reader waits for a window of 64 KiB, in milliseconds; absent where the node does not serve.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe_ms: Option<f64>,
    /// Files of its transcripts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub transcripts: Vec<PathBuf>,
    /// What its standing takes in.
    #[serde(skip)]
    observations: Vec<Observation>,
}

/// What an audit by hand came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AuditReport {
    /// Nodes that should hold something.
    pub nodes: u64,
    /// Of them, those that proved and served all they were asked for.
    pub passed: u64,
    /// Shards that the nodes should hold.
    pub shards: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Samples asked for.
    pub samples: u64,
    /// Blocks shown that are right.
    pub proven_blocks: u64,
    /// Probability that a node that lacks one hundredth of its bytes would have been found out, by the node with the
    /// fewest samples of those that passed.
    pub detects_one_percent: f64,
    /// Node by node, the worst first.
    pub each: Vec<AuditedNode>,
}

/// Shards by node of these places.
pub(crate) fn sets_of(places: &[Arc<Place>]) -> BTreeMap<NodeId, NodeShards> {
    let mut builder = ByNodeBuilder::default();
    for place in places {
        let length_bytes = place.geometry.shard_bytes();
        for (root, holder) in place.roots.iter().zip(&place.holders) {
            if let Some(node) = holder {
                builder.add(*node, SetShard { root: *root, length_bytes }, place.documents);
            }
        }
    }
    builder.finish()
}

/// Audits every node of these places; `readers` are for probes.
///
/// # Errors
/// This machine's own: randomness, the folder of transcripts.
pub(crate) async fn audit(
    nodes: &Nodes,
    readers: &Nodes,
    places: &[Arc<Place>],
    options: &AuditOptions,
    standings: &Standings,
    progress: &Progress,
) -> Result<AuditReport, ClientError> {
    let folder = options.transcripts.as_deref().map(TranscriptFolder::open).transpose()?;
    let auditor = Auditor::new(nodes.clone(), fresh_key()?);
    let samples = options.samples.unwrap_or(SAMPLES_DEFAULT);
    let sets = sets_of(places);
    progress.event(crate::progress::ProgressEvent::Total { files: sets.len() as u64, bytes: 0 });
    let one = |(node, shards): (NodeId, NodeShards)| {
        let (auditor, readers, folder) = (auditor.clone(), readers.clone(), folder.clone());
        async move {
            let report = audit_node(&auditor, &readers, node, &shards, samples, folder.as_ref()).await;
            progress.event(crate::progress::ProgressEvent::Files(1));
            report
        }
    };
    let mut audits = futures::stream::iter(sets.into_iter().map(one)).buffer_unordered(NODES_AT_ONCE);
    let mut each = Vec::new();
    while let Some(report) = audits.next().await {
        each.push(report?);
    }
    believe(nodes, standings, &mut each)?;
    each.sort_by(|a, b| (a.outcome == "passed", &a.node).cmp(&(b.outcome == "passed", &b.node)));
    let passed: Vec<&AuditedNode> = each.iter().filter(|node| node.outcome == "passed").collect();
    let detects = |node: &&AuditedNode| {
        let confidence =
            dolmen_proto::audit::Confidence { byte_samples: byte_samples(DrawKind::Mixed, node.samples.min(samples)) };
        confidence.detection(0.01)
    };
    Ok(AuditReport {
        nodes: each.len() as u64,
        passed: passed.len() as u64,
        shards: each.iter().map(|node| node.shards).sum(),
        bytes: each.iter().map(|node| node.bytes).sum(),
        samples: each.iter().map(|node| u64::from(node.samples)).sum(),
        proven_blocks: each.iter().map(|node| u64::from(node.proven_blocks)).sum(),
        detects_one_percent: passed.iter().map(detects).reduce(f64::min).unwrap_or(0.0),
        each,
    })
}

/// Takes what was found into what this client believes of the nodes.
fn believe(nodes: &Nodes, standings: &Standings, each: &mut [AuditedNode]) -> Result<(), ClientError> {
    let (mut known, now) = (standings.load()?, nodes.now());
    let mut newer = Vec::with_capacity(each.len());
    for report in each {
        let Ok(node) = report.node.parse::<NodeId>() else { continue };
        let mut standing = known.remove(&node).unwrap_or_else(|| Standing::new(now));
        for observation in std::mem::take(&mut report.observations) {
            if let Err(error) = standing.record(observation, now) {
                tracing::debug!(%error, "an observation does not count");
            }
        }
        newer.push((node, standing));
    }
    standings.keep(newer)
}

/// A key for one audit by hand, so that nodes cannot join up who asks.
fn fresh_key() -> Result<SigningKey, ClientError> {
    let mut seed = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(seed.as_mut()).map_err(|error| {
        let advice = "check this machine's randomness";
        ClientError::new(crate::error::ErrorKind::Local, "could not make a key", error, advice)
    })?;
    Ok(SigningKey::from_bytes(&seed))
}

async fn audit_node(
    auditor: &Auditor,
    readers: &Nodes,
    node: NodeId,
    shards: &NodeShards,
    samples: u32,
    folder: Option<&TranscriptFolder>,
) -> Result<AuditedNode, ClientError> {
    let mut report = AuditedNode {
        node: node.to_string(),
        shards: shards.all.len() as u64,
        bytes: shards.all.iter().map(|shard| u64::from(shard.length_bytes)).sum(),
        outcome: "passed".to_owned(),
        reason: String::new(),
        samples: 0,
        proven_blocks: 0,
        failed_shards: 0,
        probe_ms: None,
        transcripts: Vec::new(),
        observations: Vec::new(),
    };
    let ask = |shards: Arc<dyn SetSource>, draw, samples| {
        let asked = Asked { node, shards, draw, samples, receipts: Arc::new(NoReceipts) };
        auditor.audit(asked)
    };
    let audited = ask(Arc::new(Arc::clone(&shards.all)), DrawKind::Mixed, samples).await?;
    let goes_on = note(&mut report, finish(auditor, audited).await?, samples, folder)?;
    for batch in shards.documents.chunks(AUDIT_SAMPLES_MAX) {
        if !goes_on {
            break;
        }
        let count = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        let audited = ask(Arc::new(batch.to_vec()), DrawKind::Each, count).await?;
        note(&mut report, finish(auditor, audited).await?, count, folder)?;
    }
    if goes_on && let Some(shard) = shards.all.get(usize::from(node.as_bytes()[0]) % shards.all.len().max(1)) {
        let place = u32::from_le_bytes([node.as_bytes()[1], node.as_bytes()[2], node.as_bytes()[3], 0]);
        match probe(readers, node, shard, place).await {
            Ok((elapsed, _)) => {
                report.probe_ms = Some(elapsed.as_secs_f64() * 1000.0);
                report.observations.push(Observation::Served);
            }
            Err(fault) => {
                report.observations.push(Observation::NotServed);
                if report.outcome == "passed" {
                    report.outcome = "does_not_serve".to_owned();
                    report.reason = fault.reason;
                }
            }
        }
    }
    Ok(report)
}

/// The first thing that was found wrong is what is said of a node.
fn worse(report: &mut AuditedNode, outcome: &str, reason: String) {
    if report.outcome == "passed" {
        (report.outcome, report.reason) = (outcome.to_owned(), reason);
    }
}

/// Asks again what was not answered, as often as somebody waits for.
async fn finish(auditor: &Auditor, mut audited: Audited) -> Result<Audited, ClientError> {
    for _ in 1..ATTEMPTS {
        let Audited::Pending(pending) = audited else { break };
        tokio::time::sleep(AGAIN_AFTER).await;
        audited = auditor.ask_again(*pending, Arc::new(NoReceipts)).await?;
    }
    Ok(audited)
}

/// Adds what came out; says whether the node is there to be asked for more.
fn note(
    report: &mut AuditedNode,
    audited: Audited,
    samples: u32,
    folder: Option<&TranscriptFolder>,
) -> Result<bool, ClientError> {
    let (transcript, goes_on): (Option<Transcript>, bool) = match audited {
        Audited::Nothing => (None, true),
        Audited::Offline(why) => {
            report.observations.push(Observation::Offline);
            worse(report, "offline", why);
            (None, false)
        }
        Audited::Unable(why) => {
            report.observations.push(Observation::Refused);
            worse(report, "unable", why);
            (None, false)
        }
        Audited::Pending(pending) => {
            let challenge = ChallengeKey::new(pending.slot.body_hash());
            report.observations.push(Observation::NoAnswer { challenge });
            worse(report, "no_answer", "it granted a slot and did not answer".to_owned());
            report.samples += samples;
            (Some(*pending), true)
        }
        Audited::Closed(closed) => {
            let outcome = closed.outcome;
            report.observations.push(closed.observation());
            if outcome != Outcome::Passed {
                worse(report, outcome.name(), reason_of(outcome).to_owned());
            }
            report.samples += if outcome == Outcome::Refused { 0 } else { samples };
            if let Some(findings) = &closed.findings {
                report.proven_blocks += findings.proven_blocks;
                report.failed_shards += findings.failed();
            }
            (Some(closed.transcript), true)
        }
    };
    if let (Some(folder), Some(transcript)) = (folder, transcript) {
        report.transcripts.push(folder.keep(&transcript)?);
    }
    Ok(goes_on)
}

const fn reason_of(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "",
        Outcome::Wrong => "it signed blocks that are not of the shards",
        Outcome::NotHeld => "it says that it does not hold what it should",
        Outcome::NoAnswer => "it granted a slot and did not answer",
        Outcome::Late => "it answered too late",
        Outcome::Refused => "it granted no slot",
    }
}
