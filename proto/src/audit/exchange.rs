//! One audit from challenge to verdict: what a node checks before it answers, and what the answer is worth.
//!
//! Decides whether a reveal is one that a node has to answer, how long an answer may take, and what an answer proves. Never
//! decides when to audit or what follows from it. Both ends and the verifier of transcripts use these very functions.

use core::time::Duration;
use std::collections::BTreeMap;

use super::blocks::{blocks_len, verify_blocks};
use super::draw::{Draw, DrawSeed, Drawn};
use crate::ids::{NodeId, ShardRoot, Timestamp};
use crate::keys::{context, derive};
use crate::limits::{AUDIT_SLOT_LIFE, CLOCK_SKEW_MAX, REQUEST_LIFE};
use crate::wire::lease::near;
use crate::wire::{Challenge, ErrorCode, KeptReceipt, Proof, Reveal, RevealStep, Signed, Slot, WireError};

/// What a node's disks are; says how long an answer may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuditClass {
    /// Solid state.
    SolidState,
    /// Spinning disks, and whatever a node does not tell.
    Spinning,
}

impl AuditClass {
    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::SolidState => 1,
            Self::Spinning => 0,
        }
    }

    /// The class with this number; spinning when it is none.
    #[must_use]
    pub const fn from_number(number: u32) -> Self {
        if number == 1 { Self::SolidState } else { Self::Spinning }
    }

    /// How long an answer of so many samples may take, beside the round trip: two reads a sample, and once a disk's
    /// longest ordinary pause.
    #[must_use]
    pub const fn deadline(self, samples: u32) -> Duration {
        let (pause_ms, sample_ms) = match self {
            Self::SolidState => (700, 2),
            Self::Spinning => (3000, 25),
        };
        Duration::from_millis(pause_ms + sample_ms * samples as u64)
    }
}

/// What came out of a challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Every block that was drawn was shown in time.
    Passed,
    /// The node signed blocks that are not of the shard: hard evidence.
    Wrong,
    /// The node says that it does not hold a shard; hard evidence where its own receipt says otherwise.
    NotHeld,
    /// It granted the slot and did not answer.
    NoAnswer,
    /// It answered too late.
    Late,
    /// It did not grant the slot.
    Refused,
}

impl Outcome {
    /// What logs, tables and JSON call it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Wrong => "wrong",
            Self::NotHeld => "not_held",
            Self::NoAnswer => "no_answer",
            Self::Late => "late",
            Self::Refused => "refused",
        }
    }

    /// The number on the wire.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Passed => 1,
            Self::Wrong => 2,
            Self::NotHeld => 3,
            Self::NoAnswer => 4,
            Self::Late => 5,
            Self::Refused => 6,
        }
    }

    /// The outcome with this number.
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            1 => Self::Passed,
            2 => Self::Wrong,
            3 => Self::NotHeld,
            4 => Self::NoAnswer,
            5 => Self::Late,
            6 => Self::Refused,
            _ => return None,
        })
    }
}

/// What commits to a nonce in a challenge.
#[must_use]
pub fn nonce_hash(nonce: &[u8; 32]) -> [u8; 32] {
    derive(context::AUDIT_NONCE, &[nonce])
}

impl Signed<Challenge> {
    /// Whether `node` may be asked this now: for it, by the auditor, of this time.
    ///
    /// # Errors
    /// [`ErrorCode::Unauthorised`] or [`ErrorCode::ClockSkew`]: the auditor's fault.
    pub fn verify(&self, node: &NodeId, now: Timestamp) -> Result<&Challenge, WireError> {
        let challenge = self.claimed();
        named(&challenge.node, node)?;
        near(challenge.issued_at, now, REQUEST_LIFE)?;
        self.signed_by(&challenge.auditor)
    }
}

impl Signed<Slot> {
    /// Whether it is the node's answer to this challenge.
    ///
    /// # Errors
    /// The node's fault.
    pub fn verify(&self, challenge: &Signed<Challenge>) -> Result<&Slot, WireError> {
        let slot = self.claimed();
        named(&slot.node, &challenge.claimed().node)?;
        if slot.challenge_hash != challenge.body_hash() {
            return Err(unauthorised("the slot is for another challenge"));
        }
        if slot.refused.is_none() && slot.until < slot.issued_at.after(AUDIT_SLOT_LIFE) {
            return Err(WireError::malformed("the slot ends before a silent node may be asked again"));
        }
        self.signed_by(slot.node.as_bytes())
    }
}

impl Signed<Reveal> {
    /// Whether it goes on with this challenge and slot; gives the draw.
    ///
    /// # Errors
    /// The auditor's fault: another slot, a nonce that the challenge does not commit to, a beacon that it does not name.
    pub fn verify(&self, challenge: &Signed<Challenge>, slot: &Signed<Slot>) -> Result<Draw, WireError> {
        let (reveal, asked) = (self.claimed(), challenge.claimed());
        named(&reveal.node, &asked.node)?;
        if reveal.auditor != asked.auditor || reveal.slot_hash != slot.body_hash() {
            return Err(unauthorised("the reveal is for another slot"));
        }
        if slot.claimed().refused.is_some() {
            return Err(unauthorised("the slot was refused"));
        }
        if nonce_hash(&reveal.nonce) != asked.nonce_hash || asked.beacon.is_some() == reveal.beacon_value.is_empty() {
            return Err(unauthorised("the reveal is not what the challenge commits to"));
        }
        self.signed_by(&reveal.auditor)?;
        let seed = DrawSeed {
            node: &reveal.node,
            auditor: &reveal.auditor,
            nonce: &reveal.nonce,
            beacon_value: &reveal.beacon_value,
        };
        Draw::new(asked.draw, asked.samples, &asked.set, &seed).map_err(|error| WireError::malformed(error.to_string()))
    }
}

impl RevealStep {
    /// Whether `node` has to answer this now: its own slot, not over, for this challenge; gives the draw.
    ///
    /// # Errors
    /// The auditor's fault.
    pub fn verify(&self, node: &NodeId, now: Timestamp) -> Result<Draw, WireError> {
        let challenge = self.challenge.claimed();
        named(&challenge.node, node)?;
        self.challenge.signed_by(&challenge.auditor)?;
        let slot = self.slot.verify(&self.challenge)?;
        if now > slot.until {
            return Err(WireError::new(ErrorCode::Expired, "the slot is over"));
        }
        near(self.reveal.claimed().asked_at, now, REQUEST_LIFE)?;
        self.reveal.verify(&self.challenge, &self.slot)
    }
}

/// Bytes of the payload that a proof with these codes has.
///
/// # Errors
/// [`super::AuditError`] when what was drawn is impossible.
pub fn payload_len(drawn: &[Drawn], codes: &[Result<(), ErrorCode>]) -> Result<usize, super::AuditError> {
    let shown = drawn.iter().zip(codes).filter(|(_, code)| code.is_ok());
    shown.map(|(drawn, _)| blocks_len(drawn.shard.length_bytes, &drawn.blocks)).sum()
}

/// What the answer to a reveal is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// What came out.
    pub outcome: Outcome,
    /// Distinct shards that were drawn.
    pub asked: u32,
    /// Blocks that were shown and are right.
    pub proven_blocks: u32,
    /// Shards of which blocks were signed that are not theirs; every one when the proof does not fit the draw at all.
    pub wrong: Vec<ShardRoot>,
    /// Shards that the node says it does not hold, or holds damaged.
    pub not_held: Vec<NotHeld>,
    /// Shards of which the node says that it cannot read them now.
    pub unread: Vec<ShardRoot>,
}

/// A shard that a node says it does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotHeld {
    /// The shard.
    pub root: ShardRoot,
    /// The node's own receipt says that it holds it: hard evidence.
    pub receipt: bool,
}

impl Findings {
    /// Shards that were not proven.
    #[must_use]
    pub fn failed(&self) -> u32 {
        u32::try_from(self.wrong.len() + self.not_held.len() + self.unread.len()).unwrap_or(u32::MAX)
    }

    /// Whether it is evidence that convinces anybody, and not only who asked.
    #[must_use]
    pub fn is_hard(&self) -> bool {
        !self.wrong.is_empty() || self.not_held.iter().any(|shard| shard.receipt)
    }
}

/// An answer, as it came.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// What the node signed.
    pub proof: &'a Signed<Proof>,
    /// The blocks.
    pub payload: &'a [u8],
    /// When it was there, by the auditor's clock.
    pub received_at: Timestamp,
    /// How long the way there and back takes, which is not the node's.
    pub round_trip: Duration,
}

/// Whoever asks or reads a transcript: judges an answer.
#[derive(Debug, Clone, Copy)]
pub struct Auditor<'a> {
    /// The challenge.
    pub challenge: &'a Signed<Challenge>,
    /// The node's slot.
    pub slot: &'a Signed<Slot>,
    /// What was asked last.
    pub reveal: &'a Signed<Reveal>,
    /// What was drawn.
    pub drawn: &'a [Drawn],
    /// Receipts of the node that the auditor has.
    pub receipts: &'a [KeptReceipt],
}

/// What an answer is worth. An answer that the node did not sign, or whose payload is not the one that it signed, is none.
///
/// # Errors
/// [`WireError`]: what came is not the node's answer to this reveal; it counts as no answer.
pub fn judge(auditor: &Auditor<'_>, answer: &Answer<'_>) -> Result<Findings, WireError> {
    let (reveal, proof) = (auditor.reveal.claimed(), answer.proof.claimed());
    named(&proof.node, &reveal.node)?;
    if proof.reveal_hash != auditor.reveal.body_hash() {
        return Err(unauthorised("the proof is for another reveal"));
    }
    answer.proof.signed_by(reveal.node.as_bytes())?;
    if proof.payload_bytes != answer.payload.len() as u64
        || proof.payload_hash != *blake3::hash(answer.payload).as_bytes()
    {
        return Err(WireError::malformed("the blocks are not those that the node signed"));
    }
    let asked = u32::try_from(auditor.drawn.len()).unwrap_or(u32::MAX);
    let mut findings = Findings {
        outcome: Outcome::Passed,
        asked,
        proven_blocks: 0,
        wrong: Vec::new(),
        not_held: Vec::new(),
        unread: Vec::new(),
    };
    let fits = proof.codes.len() == auditor.drawn.len()
        && payload_len(auditor.drawn, &proof.codes).is_ok_and(|bytes| bytes == answer.payload.len());
    if !fits {
        findings.outcome = Outcome::Wrong;
        findings.wrong = auditor.drawn.iter().map(|drawn| drawn.shard.root).collect();
        return Ok(findings);
    }
    let mut rest = answer.payload;
    for (drawn, code) in auditor.drawn.iter().zip(&proof.codes) {
        let (root, length) = (drawn.shard.root, drawn.shard.length_bytes);
        match code {
            Ok(()) => {
                let bytes = blocks_len(length, &drawn.blocks).unwrap_or(0).min(rest.len());
                let (shown, later) = rest.split_at(bytes);
                rest = later;
                match verify_blocks(&root, length, &drawn.blocks, shown) {
                    Ok(()) => findings.proven_blocks += u32::try_from(drawn.blocks.len()).unwrap_or(0),
                    Err(_) => findings.wrong.push(root),
                }
            }
            Err(ErrorCode::NotHeld | ErrorCode::Damaged) => findings.not_held.push(NotHeld { root, receipt: false }),
            Err(_) => findings.unread.push(root),
        }
    }
    hold_against(auditor, proof, &mut findings.not_held);
    let allowed = auditor.slot.claimed().class.deadline(auditor.challenge.claimed().samples) + answer.round_trip;
    findings.outcome = if !findings.wrong.is_empty() {
        Outcome::Wrong
    } else if !findings.not_held.is_empty() {
        Outcome::NotHeld
    } else if !findings.unread.is_empty() {
        Outcome::NoAnswer
    } else if answer.received_at.since(reveal.asked_at) > allowed {
        Outcome::Late
    } else {
        Outcome::Passed
    };
    Ok(findings)
}

/// Marks the shards that the node's own receipts say it holds. Each receipt is passed over once and its signature checked once
/// at most, whatever a transcript's keeper has heaped up.
fn hold_against(auditor: &Auditor<'_>, proof: &Proof, not_held: &mut [NotHeld]) {
    let lengths: BTreeMap<ShardRoot, u32> =
        auditor.drawn.iter().map(|drawn| (drawn.shard.root, drawn.shard.length_bytes)).collect();
    let mut open: BTreeMap<ShardRoot, (u64, &mut NotHeld)> = not_held
        .iter_mut()
        .filter_map(|shard| Some((shard.root, (u64::from(*lengths.get(&shard.root)?), shard))))
        .collect();
    for receipt in auditor.receipts {
        if open.is_empty() {
            return;
        }
        let Ok(claim) = receipt.claim() else { continue };
        if claim.node != proof.node || !claim.is_of(proof.answered_at) {
            continue;
        }
        let claimed: Vec<ShardRoot> = claim
            .shards
            .into_iter()
            .filter(|(root, length)| open.get(root).is_some_and(|(known, _)| known == length))
            .map(|(root, _)| root)
            .collect();
        if claimed.is_empty() || receipt.verify().is_err() {
            continue;
        }
        for root in claimed {
            if let Some((_, shard)) = open.remove(&root) {
                shard.receipt = true;
            }
        }
    }
}

/// Whether the times of two clocks can belong to one audit: each clock goes forward, and they are not further apart than
/// clocks may be. Inside of that bound nobody can tell which of two clocks is right. An answer that is under way for longer
/// than that again is given up, so a transcript has none.
#[must_use]
pub fn times_fit(
    challenge: &Challenge,
    slot: &Slot,
    reveal: &Reveal,
    answered_at: Option<Timestamp>,
    received_at: Timestamp,
) -> bool {
    let near = |there: Timestamp, from: Timestamp, to: Timestamp| {
        there.after(CLOCK_SKEW_MAX) >= from && there <= to.after(CLOCK_SKEW_MAX)
    };
    let auditor = challenge.issued_at <= reveal.asked_at && reveal.asked_at <= received_at;
    let node = answered_at.is_none_or(|answered| slot.issued_at <= answered && answered <= slot.until);
    let both = near(slot.issued_at, challenge.issued_at, reveal.asked_at)
        && answered_at.is_none_or(|answered| {
            near(answered, reveal.asked_at, received_at) && received_at.since(answered) <= CLOCK_SKEW_MAX * 2
        });
    auditor && node && both
}

fn named(named: &NodeId, here: &NodeId) -> Result<(), WireError> {
    if named == here { Ok(()) } else { Err(unauthorised("the statement is for another node")) }
}

fn unauthorised(text: &str) -> WireError {
    WireError::new(ErrorCode::Unauthorised, text)
}
