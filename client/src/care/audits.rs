//! Audits and probes when they are due, and what they make of a node's standing.
//!
//! Decides when a node is asked for how much: 64 samples an hour for each 10^12 bytes, at least 8 a day; one block of every
//! document shard a day; a probe as often as an audit. Times are jittered, so that no node knows when it will be asked.

use std::sync::Arc;
use std::time::Duration;

use dolmen_proto::audit::{DrawKind, Outcome, SetShard, Transcript};
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::limits::{
    AUDIT_SAMPLES_MAX, AUDIT_SAMPLES_PER_DAY_MIN, AUDIT_SAMPLES_PER_HOUR_PER_TB, AUDIT_SLOT_LIFE,
};
use dolmen_proto::standing::{ChallengeKey, Observation, Standing};
use futures::StreamExt;

use super::dataset::Cared;
use super::look::record;
use super::receipts::DiskReceipts;
use super::set::DiskSet;
use super::state::{Contact, Due};
use crate::audit::{Asked, Audited, Auditor, Closed, ReceiptSource, SetSource, TranscriptFolder, probe};
use crate::error::ClientError;
use crate::network::Nodes;

/// Nodes that are audited at a time.
const NODES_AT_ONCE: usize = 4;
const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const TB: u64 = 1_000_000_000_000;
/// Fewest samples of one challenge: fewer are not worth the round trips.
const SAMPLES_MIN: u64 = 8;
/// Document shards of a node that are asked for a day, as many challenges as that takes.
const DOCUMENTS_MAX: usize = 64 * AUDIT_SAMPLES_MAX;

/// How to audit.
#[derive(Clone)]
pub(super) struct Audits {
    pub(super) auditor: Auditor,
    /// Who probes: nobody that nodes could tell from a reader.
    pub(super) readers: Nodes,
    pub(super) transcripts: TranscriptFolder,
    /// Samples of every node in every round, whatever the rate; `None`: by the rate.
    pub(super) samples: Option<u32>,
}

/// What a round of audits came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Round {
    pub(super) challenges: u64,
    pub(super) passed: u64,
    pub(super) samples: u64,
    pub(super) hard: u64,
    pub(super) refused: u64,
    pub(super) probes: u64,
    pub(super) not_served: u64,
}

impl Round {
    fn add(&mut self, other: Self) {
        self.challenges += other.challenges;
        self.passed += other.passed;
        self.samples += other.samples;
        self.hard += other.hard;
        self.refused += other.refused;
        self.probes += other.probes;
        self.not_served += other.not_served;
    }
}

/// Samples an hour of a node, in thousandths.
fn rate_thousandths(bytes: u64) -> u64 {
    let by_bytes = u128::from(bytes) * u128::from(AUDIT_SAMPLES_PER_HOUR_PER_TB) * 1000 / u128::from(TB);
    u64::try_from(by_bytes).unwrap_or(u64::MAX).max(AUDIT_SAMPLES_PER_DAY_MIN * 1000 / 24)
}

/// Samples of the next challenge of a node with so many bytes, and how long until the one after it, before jitter.
fn next_samples(bytes: u64, interval: Duration) -> (u32, u64) {
    let rate = rate_thousandths(bytes);
    let interval_ms = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
    let of_interval = (u128::from(rate) * u128::from(interval_ms)).div_ceil(u128::from(HOUR_MS) * 1000);
    let samples = u64::try_from(of_interval).unwrap_or(u64::MAX).clamp(SAMPLES_MIN, AUDIT_SAMPLES_MAX as u64);
    let until_next = samples.saturating_mul(HOUR_MS).saturating_mul(1000) / rate.max(1);
    (u32::try_from(samples).unwrap_or(u32::MAX), until_next)
}

/// A time around `in_ms` from now: three quarters to five quarters of it.
fn jittered(now: Timestamp, in_ms: u64) -> u64 {
    let mut draw = [0; 2];
    // Where there is no randomness a fixed time does.
    let _ = getrandom::fill(&mut draw);
    let draw = u64::from(u16::from_le_bytes(draw));
    now.as_unix_ms() + in_ms * 3 / 4 + in_ms / 2 * draw / u64::from(u16::MAX)
}

/// Asks every node of a dataset what it is due to be asked.
///
/// # Errors
/// `Local`.
pub(super) async fn round(cared: &Cared, audits: &Audits, interval: Duration) -> Result<Round, ClientError> {
    let mut sum = ask_again(cared, audits).await?;
    let nodes = cared.state.nodes_of(&cared.tag)?;
    let one = |node| ask(cared, audits, node, interval);
    let mut asked = futures::stream::iter(nodes.into_iter().map(one)).buffer_unordered(NODES_AT_ONCE);
    while let Some(round) = asked.next().await {
        sum.add(round?);
    }
    Ok(sum)
}

async fn ask(cared: &Cared, audits: &Audits, node: NodeId, interval: Duration) -> Result<Round, ClientError> {
    let mut sum = Round::default();
    let now = cared.steward.nodes().now();
    let contact = cared.state.contact(&node)?;
    let mut standing = cared.state.standing(&node, now)?;
    end_stale(&mut standing, now);
    // What was not answered is asked again before anything else is; whoever is absent is asked nothing.
    if contact.absent_since_ms != 0 || standing.repeats().any(|(challenge, _)| challenge.is_some()) {
        return Ok(sum);
    }
    let (mut bytes, mut count, mut documents) = (0u64, 0usize, Vec::new());
    let mut probed: Option<SetShard> = None;
    let mut pick = [0; 8];
    let _ = getrandom::fill(&mut pick);
    let mut pick = u64::from_le_bytes(pick);
    for known in cared.state.held_of(&cared.tag, &node)? {
        let known = known?;
        bytes += u64::from(known.shard.length_bytes);
        count += 1;
        // The n-th takes the place of the one before with a chance of one in n: each is as likely.
        pick = pick.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        if (pick >> 33) % count as u64 == 0 {
            probed = Some(known.shard);
        }
        if known.documents && documents.len() < DOCUMENTS_MAX {
            documents.push(known.shard);
        }
    }
    if count == 0 {
        return Ok(sum);
    }
    let mut due = cared.state.due(&cared.tag, &node)?;
    let mut node_state = NodeState { standing: &mut standing, contact };
    if audits.samples.is_some() || due.samples_ms <= now.as_unix_ms() {
        let (by_rate, until_next) = next_samples(bytes, interval);
        let samples = audits.samples.unwrap_or(by_rate);
        let shards: Arc<dyn SetSource> = Arc::new(DiskSet { state: cared.state.clone(), tag: cared.tag, node });
        sum.add(challenge(cared, audits, node, shards, (DrawKind::Mixed, samples), &mut node_state).await?);
        due.samples_ms = jittered(now, until_next);
    }
    if !documents.is_empty() && due.documents_ms <= now.as_unix_ms() {
        let mut all = true;
        for batch in documents.chunks(AUDIT_SAMPLES_MAX) {
            let samples = u32::try_from(batch.len()).unwrap_or(u32::MAX);
            let shards: Arc<dyn SetSource> = Arc::new(batch.to_vec());
            let before = sum.refused;
            sum.add(challenge(cared, audits, node, shards, (DrawKind::Each, samples), &mut node_state).await?);
            all &= sum.refused == before && node_state.standing.repeats().next().is_none();
            if !all {
                break;
            }
        }
        // Whoever refuses these, and no others, is asked for them in every round, until that counts as silence.
        if all {
            due.documents_ms = jittered(now, DAY_MS * 3 / 4);
        }
    }
    if let Some(shard) = probed.filter(|_| audits.samples.is_some() || due.probe_ms <= now.as_unix_ms()) {
        sum.add(read_from(cared, audits, node, &shard, pick, &mut node_state).await);
        due.probe_ms = jittered(now, next_samples(bytes, interval).1.min(DAY_MS));
    }
    let contact = node_state.contact;
    cared.state.keep_node(&node, &standing, contact)?;
    cared.state.set_due(&cared.tag, &node, Due { ..due })?;
    Ok(sum)
}

/// What is believed of the node that is asked.
struct NodeState<'a> {
    standing: &'a mut Standing,
    contact: Contact,
}

async fn challenge(
    cared: &Cared,
    audits: &Audits,
    node: NodeId,
    shards: Arc<dyn SetSource>,
    (draw, samples): (DrawKind, u32),
    state: &mut NodeState<'_>,
) -> Result<Round, ClientError> {
    let asked = Asked { node, shards, draw, samples, receipts: receipts_of(cared) };
    let audited = audits.auditor.audit(asked).await?;
    settle(cared, audits, node, audited, state)
}

fn receipts_of(cared: &Cared) -> Arc<dyn ReceiptSource> {
    Arc::new(DiskReceipts { state: cared.state.clone(), tag: cared.tag })
}

/// Ends silences that nobody can ask about any more, because this steward was away when it was time or has lost what it had
/// asked: the node did not answer then, and was not given the repeats that it has a right to.
fn end_stale(standing: &mut Standing, now: Timestamp) {
    let over =
        |(challenge, due): (Option<ChallengeKey>, Timestamp)| challenge.filter(|_| now.since(due) > AUDIT_SLOT_LIFE);
    let stale: Vec<ChallengeKey> = standing.repeats().filter_map(over).collect();
    for challenge in stale {
        record(standing, Observation::Late { challenge }, now);
    }
}

async fn read_from(
    cared: &Cared,
    audits: &Audits,
    node: NodeId,
    shard: &SetShard,
    pick: u64,
    state: &mut NodeState<'_>,
) -> Round {
    let place = u32::try_from(pick >> 33).unwrap_or(0);
    let served = probe(&audits.readers, node, shard, place).await;
    let now = cared.steward.nodes().now();
    match served {
        Ok(_) => record(state.standing, Observation::Served, now),
        Err(fault) if fault.fault == dolmen_proto::attempt::Fault::Unreachable => {
            record(state.standing, Observation::Offline, now);
        }
        Err(fault) => {
            tracing::info!(node = %node.short(), %fault, "a node does not serve");
            record(state.standing, Observation::NotServed, now);
            return Round { probes: 1, not_served: 1, ..Round::default() };
        }
    }
    Round { probes: 1, ..Round::default() }
}

/// Asks again for what was not answered, when its time has come.
async fn ask_again(cared: &Cared, audits: &Audits) -> Result<Round, ClientError> {
    let mut sum = Round::default();
    for bytes in cared.state.pending(&cared.tag)? {
        let Ok(pending) = Transcript::parse(&bytes) else { continue };
        let (node, slot_hash) = (pending.challenge.claimed().node, pending.slot.body_hash());
        let now = cared.steward.nodes().now();
        let mut standing = cared.state.standing(&node, now)?;
        let key = ChallengeKey::new(slot_hash);
        let due = standing.repeats().find_map(|(challenge, due)| (challenge == Some(key)).then_some(due));
        if due.is_some_and(|due| due > now) {
            continue;
        }
        let contact = cared.state.contact(&node)?;
        if now > pending.slot.claimed().until {
            cared.state.set_pending(&cared.tag, &slot_hash, None)?;
            if due.is_some() {
                record(&mut standing, Observation::Late { challenge: key }, now);
                cared.state.keep_node(&node, &standing, contact)?;
            }
            continue;
        }
        let audited = audits.auditor.ask_again(pending, receipts_of(cared)).await?;
        cared.state.set_pending(&cared.tag, &slot_hash, None)?;
        let mut state = NodeState { standing: &mut standing, contact };
        let round = settle(cared, audits, node, audited, &mut state)?;
        let contact = state.contact;
        cared.state.keep_node(&node, &standing, contact)?;
        sum.add(round);
    }
    Ok(sum)
}

/// Takes in how an audit ended.
fn settle(
    cared: &Cared,
    audits: &Audits,
    node: NodeId,
    audited: Audited,
    state: &mut NodeState<'_>,
) -> Result<Round, ClientError> {
    let now = cared.steward.nodes().now();
    let mut sum = Round { challenges: 1, ..Round::default() };
    match audited {
        Audited::Nothing => return Ok(Round::default()),
        Audited::Offline(why) => {
            tracing::debug!(node = %node.short(), why, "a node is not there");
            record(state.standing, Observation::Offline, now);
        }
        Audited::Unable(why) => {
            tracing::info!(node = %node.short(), why, "a node does not prove");
            record(state.standing, Observation::Refused, now);
            sum.refused = 1;
        }
        Audited::Pending(pending) => {
            let slot_hash = pending.slot.body_hash();
            record(state.standing, Observation::NoAnswer { challenge: ChallengeKey::new(slot_hash) }, now);
            cared.state.set_pending(&cared.tag, &slot_hash, Some(&pending.to_bytes()))?;
        }
        Audited::Closed(closed) => {
            sum.samples = u64::from(closed.transcript.challenge.claimed().samples);
            sum.passed = u64::from(closed.outcome == Outcome::Passed);
            sum.refused = u64::from(closed.outcome == Outcome::Refused);
            take_in(cared, node, &closed, state, now)?;
            if closed.outcome != Outcome::Passed {
                let path = audits.transcripts.keep(&closed.transcript)?;
                let hard = closed.findings.as_ref().is_some_and(dolmen_proto::audit::Findings::is_hard);
                sum.hard = u64::from(hard);
                tracing::warn!(node = %node.short(), outcome = ?closed.outcome, hard, transcript = %path.display(), "a node did not pass");
            }
        }
    }
    Ok(sum)
}

fn take_in(
    cared: &Cared,
    node: NodeId,
    closed: &Closed,
    state: &mut NodeState<'_>,
    now: Timestamp,
) -> Result<(), ClientError> {
    record(state.standing, closed.observation(), now);
    let Some(findings) = &closed.findings else { return Ok(()) };
    if closed.outcome == Outcome::Passed {
        state.contact.proven_at_ms = now.as_unix_ms();
    }
    let lost: Vec<_> = findings.wrong.iter().copied().chain(findings.not_held.iter().map(|shard| shard.root)).collect();
    cared.state.set_lost_signed(&cared.tag, &node, &lost, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_follows_bytes_and_has_a_floor() {
        let hour = Duration::from_secs(3600);
        assert_eq!(next_samples(TB, hour), (64, HOUR_MS));
        let (samples, until_next) = next_samples(1000, hour);
        assert_eq!(samples, 8);
        assert!((DAY_MS - HOUR_MS..=DAY_MS + HOUR_MS).contains(&until_next), "eight a day: {until_next}");
        let (samples, until_next) = next_samples(TB, Duration::from_secs(60));
        assert_eq!(samples, 8, "a challenge of fewer is not worth it");
        assert_eq!(until_next, HOUR_MS / 8);
        assert_eq!(next_samples(1000 * TB, hour).0, 1024, "and none is larger than any");
    }

    #[test]
    fn a_silence_that_nobody_can_ask_about_ends_without_a_conviction() {
        let now = Timestamp::from_unix_ms(1_900_000_000_000);
        let mut standing = Standing::new(now);
        record(&mut standing, Observation::NoAnswer { challenge: ChallengeKey::new([1; 32]) }, now);
        end_stale(&mut standing, now.after(Duration::from_secs(24 * 3600)));
        assert_eq!(standing.repeats().count(), 1, "it may still be asked");
        let later = now.after(Duration::from_secs(3 * 24 * 3600));
        end_stale(&mut standing, later);
        assert_eq!(standing.repeats().count(), 0, "or the node would never be asked again");
        assert!(!matches!(standing.verdict(later), dolmen_proto::standing::Verdict::Bad(_)));
    }

    #[test]
    fn jitter_stays_around_what_was_meant() {
        let now = Timestamp::from_unix_ms(1_000_000);
        for _ in 0..100 {
            let at = jittered(now, 1000) - 1_000_000;
            assert!((750..=1250).contains(&at), "{at}");
        }
    }
}
