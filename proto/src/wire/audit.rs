//! The signed statements of an audit: challenge, slot, reveal, proof, close.
//!
//! Decides what each says and its bounds. Never decides what a proof proves: see [`crate::audit`].

use super::error::{ErrorCode, WireError};
use super::field;
use super::lease::SMALL_BODY_MAX_BYTES;
use super::signed::{Signed, Statement};
use crate::audit::{AuditClass, DrawKind, Outcome, SCHEME, SetTop};
use crate::ids::{NodeId, Timestamp};
use crate::limits::{
    AUDIT_ATTEMPTS_MAX, AUDIT_BEACON_MAX_BYTES, AUDIT_PAYLOAD_MAX_BYTES, AUDIT_SAMPLES_MAX, AUDIT_SET_MAX,
    AUDIT_TREE_MAX_BYTES,
};
use crate::messages::{self, prove_reply, prove_request};
use crate::sign::SignatureKind;
use bytes::Bytes;

/// Most bytes of a proof's signed body: a code for every sample.
const PROOF_BODY_MAX_BYTES: usize = 4096;
const _: () = assert!(AUDIT_SAMPLES_MAX * 3 + 256 <= PROOF_BODY_MAX_BYTES, "a code for every sample fits");

/// A round of a public beacon that was not out when the challenge was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BeaconRound {
    /// Which beacon.
    pub beacon: [u8; 32],
    /// Which round.
    pub round: u64,
}

/// A demand for proof of storage; signed by the auditor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Who is to prove.
    pub node: NodeId,
    /// Who asks, an Ed25519 public key; signs.
    pub auditor: [u8; 32],
    /// How samples are spread.
    pub draw: DrawKind,
    /// How many; 1 to [`AUDIT_SAMPLES_MAX`].
    pub samples: u32,
    /// What is drawn from.
    pub set: SetTop,
    /// What commits to the nonce.
    pub nonce_hash: [u8; 32],
    /// When it was signed.
    pub issued_at: Timestamp,
    /// The beacon that takes part in the draw.
    pub beacon: Option<BeaconRound>,
}

impl Statement for Challenge {
    const KIND: SignatureKind = SignatureKind::Challenge;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::Challenge;

    fn to_message(&self) -> messages::Challenge {
        messages::Challenge {
            node: field::from32(self.node.as_bytes()),
            auditor: field::from32(&self.auditor),
            scheme: SCHEME,
            draw: self.draw.number(),
            samples: self.samples,
            set_hash: field::from32(&self.set.hash),
            set_bytes: self.set.bytes,
            set_count: self.set.count,
            nonce_hash: field::from32(&self.nonce_hash),
            issued_at_ms: self.issued_at.as_unix_ms(),
            beacon: self.beacon.map_or_else(Bytes::new, |beacon| field::from32(&beacon.beacon)),
            beacon_round: self.beacon.map_or(0, |beacon| beacon.round),
            needs: 0,
        }
    }

    fn from_message(message: messages::Challenge) -> Result<Self, WireError> {
        if message.scheme != SCHEME {
            let text = format!("scheme {} of proofs is not known here, {SCHEME} is", message.scheme);
            return Err(WireError::new(ErrorCode::Unsupported, text));
        }
        let draw =
            DrawKind::from_number(message.draw).ok_or_else(|| WireError::malformed("an unknown kind of draw"))?;
        let samples = usize::try_from(message.samples).unwrap_or(usize::MAX);
        if !(1..=AUDIT_SAMPLES_MAX).contains(&samples) {
            return Err(WireError::malformed("a challenge has 1 to 1,024 samples"));
        }
        let set = SetTop {
            hash: field::bytes32("a set's hash", &message.set_hash)?,
            bytes: message.set_bytes,
            count: message.set_count,
        };
        let fits = (1..=AUDIT_SET_MAX).contains(&set.count) && set.bytes >= set.count;
        if !fits || (draw == DrawKind::Each && set.count != u64::from(message.samples)) {
            return Err(WireError::malformed("a challenge over an impossible set"));
        }
        let beacon = field::optional_bytes32("a beacon", &message.beacon)?;
        Ok(Self {
            node: NodeId::new(field::bytes32("a challenge's node", &message.node)?),
            auditor: field::bytes32("an auditor", &message.auditor)?,
            draw,
            samples: message.samples,
            set,
            nonce_hash: field::bytes32("a nonce's hash", &message.nonce_hash)?,
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
            beacon: beacon.map(|beacon| BeaconRound { beacon, round: message.beacon_round }),
        })
    }

    fn needs(message: &messages::Challenge) -> u64 {
        message.needs
    }
}

/// Why a node does not grant a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Its budget for proofs, or this auditor's share of it, is used up.
    Budget,
    /// It reads its disks, or is too busy.
    NotNow,
    /// It goes away.
    Leaving,
    /// A reason of a newer release.
    Other(u32),
}

impl Refusal {
    const fn number(self) -> u32 {
        match self {
            Self::Budget => 1,
            Self::NotNow => 2,
            Self::Leaving => 3,
            Self::Other(number) => number,
        }
    }

    const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Budget,
            2 => Self::NotNow,
            3 => Self::Leaving,
            other => Self::Other(other),
        }
    }
}

/// A node's answer to a challenge before it knows what is drawn; signed by the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// The node, which signs.
    pub node: NodeId,
    /// BLAKE3 of the challenge's signed body.
    pub challenge_hash: [u8; 32],
    /// Why not; `None`: granted.
    pub refused: Option<Refusal>,
    /// What its disks are.
    pub class: AuditClass,
    /// When it was signed, by the node's clock.
    pub issued_at: Timestamp,
    /// Up to when it answers a reveal.
    pub until: Timestamp,
    /// When to ask again after a refusal, in milliseconds.
    pub retry_after_ms: u64,
}

impl Statement for Slot {
    const KIND: SignatureKind = SignatureKind::Slot;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::Slot;

    fn to_message(&self) -> messages::Slot {
        messages::Slot {
            node: field::from32(self.node.as_bytes()),
            challenge_hash: field::from32(&self.challenge_hash),
            refused: self.refused.map_or(0, Refusal::number),
            class: self.class.number(),
            issued_at_ms: self.issued_at.as_unix_ms(),
            until_ms: self.until.as_unix_ms(),
            retry_after_ms: self.retry_after_ms,
            needs: 0,
        }
    }

    fn from_message(message: messages::Slot) -> Result<Self, WireError> {
        Ok(Self {
            node: NodeId::new(field::bytes32("a slot's node", &message.node)?),
            challenge_hash: field::bytes32("a challenge's hash", &message.challenge_hash)?,
            refused: (message.refused != 0).then(|| Refusal::from_number(message.refused)),
            class: AuditClass::from_number(message.class),
            issued_at: Timestamp::from_unix_ms(message.issued_at_ms),
            until: Timestamp::from_unix_ms(message.until_ms),
            retry_after_ms: message.retry_after_ms,
        })
    }

    fn needs(message: &messages::Slot) -> u64 {
        message.needs
    }
}

/// What a challenge asks for; signed by the auditor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reveal {
    /// Who is to prove.
    pub node: NodeId,
    /// Who asks; signs.
    pub auditor: [u8; 32],
    /// BLAKE3 of the slot's signed body.
    pub slot_hash: [u8; 32],
    /// What the challenge committed to.
    pub nonce: [u8; 32],
    /// What the beacon said; at most [`AUDIT_BEACON_MAX_BYTES`], empty without a beacon.
    pub beacon_value: Bytes,
    /// When it was signed.
    pub asked_at: Timestamp,
    /// How often it was asked before; below [`AUDIT_ATTEMPTS_MAX`].
    pub attempt: u32,
}

impl Statement for Reveal {
    const KIND: SignatureKind = SignatureKind::Reveal;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::Reveal;

    fn to_message(&self) -> messages::Reveal {
        messages::Reveal {
            node: field::from32(self.node.as_bytes()),
            auditor: field::from32(&self.auditor),
            slot_hash: field::from32(&self.slot_hash),
            nonce: field::from32(&self.nonce),
            beacon_value: self.beacon_value.clone(),
            asked_at_ms: self.asked_at.as_unix_ms(),
            attempt: self.attempt,
            needs: 0,
        }
    }

    fn from_message(message: messages::Reveal) -> Result<Self, WireError> {
        field::count("bytes of a beacon's value", message.beacon_value.len(), AUDIT_BEACON_MAX_BYTES)?;
        if message.attempt >= AUDIT_ATTEMPTS_MAX {
            return Err(WireError::malformed("a reveal is asked four times at most"));
        }
        Ok(Self {
            node: NodeId::new(field::bytes32("a reveal's node", &message.node)?),
            auditor: field::bytes32("an auditor", &message.auditor)?,
            slot_hash: field::bytes32("a slot's hash", &message.slot_hash)?,
            nonce: field::bytes32("a nonce", &message.nonce)?,
            beacon_value: message.beacon_value,
            asked_at: Timestamp::from_unix_ms(message.asked_at_ms),
            attempt: message.attempt,
        })
    }

    fn needs(message: &messages::Reveal) -> u64 {
        message.needs
    }
}

/// A node's proof; signed by the node. The blocks follow as payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// The node, which signs.
    pub node: NodeId,
    /// BLAKE3 of the reveal's signed body.
    pub reveal_hash: [u8; 32],
    /// When it was signed, by the node's clock.
    pub answered_at: Timestamp,
    /// BLAKE3 of the payload.
    pub payload_hash: [u8; 32],
    /// Bytes of the payload; at most [`AUDIT_PAYLOAD_MAX_BYTES`].
    pub payload_bytes: u64,
    /// For each drawn shard in the order of the set: its blocks stand in the payload, or why not.
    pub codes: Vec<Result<(), ErrorCode>>,
}

impl Statement for Proof {
    const KIND: SignatureKind = SignatureKind::Proof;
    const BODY_MAX_BYTES: usize = PROOF_BODY_MAX_BYTES;
    type Message = messages::Proof;

    fn to_message(&self) -> messages::Proof {
        messages::Proof {
            node: field::from32(self.node.as_bytes()),
            reveal_hash: field::from32(&self.reveal_hash),
            answered_at_ms: self.answered_at.as_unix_ms(),
            payload_hash: field::from32(&self.payload_hash),
            payload_bytes: self.payload_bytes,
            codes: self.codes.iter().map(|code| code.map_or_else(ErrorCode::number, |()| 0)).collect(),
            needs: 0,
        }
    }

    fn from_message(message: messages::Proof) -> Result<Self, WireError> {
        field::count("codes", message.codes.len(), AUDIT_SAMPLES_MAX)?;
        if message.payload_bytes > AUDIT_PAYLOAD_MAX_BYTES as u64 {
            return Err(WireError::new(ErrorCode::TooLarge, "a proof larger than any"));
        }
        let code = |code: &u32| if *code == 0 { Ok(()) } else { Err(ErrorCode::from_number(*code)) };
        Ok(Self {
            node: NodeId::new(field::bytes32("a proof's node", &message.node)?),
            reveal_hash: field::bytes32("a reveal's hash", &message.reveal_hash)?,
            answered_at: Timestamp::from_unix_ms(message.answered_at_ms),
            payload_hash: field::bytes32("a payload's hash", &message.payload_hash)?,
            payload_bytes: message.payload_bytes,
            codes: message.codes.iter().map(code).collect(),
        })
    }

    fn needs(message: &messages::Proof) -> u64 {
        message.needs
    }
}

/// What an auditor made of a challenge; signed by the auditor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// Who was asked.
    pub node: NodeId,
    /// Who asked; signs.
    pub auditor: [u8; 32],
    /// BLAKE3 of the signed body of the last statement there is: proof, reveal, slot or challenge.
    pub last_hash: [u8; 32],
    /// What came out.
    pub outcome: Outcome,
    /// When the answer was there, or was given up, by the auditor's clock.
    pub received_at: Timestamp,
    /// Distinct shards that were drawn.
    pub asked: u32,
    /// How many of them were not proven.
    pub failed: u32,
}

impl Statement for Close {
    const KIND: SignatureKind = SignatureKind::Close;
    const BODY_MAX_BYTES: usize = SMALL_BODY_MAX_BYTES;
    type Message = messages::Close;

    fn to_message(&self) -> messages::Close {
        messages::Close {
            node: field::from32(self.node.as_bytes()),
            auditor: field::from32(&self.auditor),
            last_hash: field::from32(&self.last_hash),
            outcome: self.outcome.number(),
            received_at_ms: self.received_at.as_unix_ms(),
            asked: self.asked,
            failed: self.failed,
            needs: 0,
        }
    }

    fn from_message(message: messages::Close) -> Result<Self, WireError> {
        let outcome = Outcome::from_number(message.outcome);
        Ok(Self {
            node: NodeId::new(field::bytes32("a node", &message.node)?),
            auditor: field::bytes32("an auditor", &message.auditor)?,
            last_hash: field::bytes32("a statement's hash", &message.last_hash)?,
            outcome: outcome.ok_or_else(|| WireError::malformed("an unknown outcome"))?,
            received_at: Timestamp::from_unix_ms(message.received_at_ms),
            asked: message.asked,
            failed: message.failed,
        })
    }

    fn needs(message: &messages::Close) -> u64 {
        message.needs
    }
}

impl<T: Statement> Signed<T> {
    /// BLAKE3 of the signed body, by which the next statement of an audit names this one.
    #[must_use]
    pub fn body_hash(&self) -> [u8; 32] {
        *blake3::hash(self.body()).as_bytes()
    }
}

/// `Prove`: one step of an audit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProveRequest {
    /// Asks for a slot.
    Challenge(Box<Signed<Challenge>>),
    /// Says what is drawn; the pruned set follows.
    Reveal(Box<RevealStep>),
    /// Says what came of it.
    Close(Box<CloseStep>),
}

/// The second step of an audit, with what came before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RevealStep {
    /// The challenge.
    pub challenge: Signed<Challenge>,
    /// The slot that this node granted.
    pub slot: Signed<Slot>,
    /// What is asked for.
    pub reveal: Signed<Reveal>,
    /// Bytes of the pruned set; 1 to [`AUDIT_TREE_MAX_BYTES`].
    pub set_bytes: u64,
}

/// The last step of an audit, with what came before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloseStep {
    /// The challenge.
    pub challenge: Signed<Challenge>,
    /// The node's slot.
    pub slot: Signed<Slot>,
    /// The last reveal; `None` when the slot was refused.
    pub reveal: Option<Signed<Reveal>>,
    /// What the auditor made of it.
    pub close: Signed<Close>,
}

/// What a node answers to a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProveReply {
    /// To a challenge.
    Slot(Signed<Slot>),
    /// To a reveal; the blocks follow.
    Proof(Box<Signed<Proof>>),
    /// To a close.
    Noted,
}

impl ProveRequest {
    /// How many payload bytes follow.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        match self {
            Self::Reveal(step) => step.set_bytes,
            Self::Challenge(_) | Self::Close(_) => 0,
        }
    }

    /// Whether a reply answers this step.
    #[must_use]
    pub const fn fits(&self, reply: &ProveReply) -> bool {
        matches!(
            (self, reply),
            (Self::Challenge(_), ProveReply::Slot(_))
                | (Self::Reveal(_), ProveReply::Proof(_))
                | (Self::Close(_), ProveReply::Noted)
        )
    }

    pub(super) fn to_message(&self) -> messages::ProveRequest {
        let of = match self {
            Self::Challenge(challenge) => prove_request::Of::Challenge(challenge.to_message()),
            Self::Reveal(step) => prove_request::Of::Reveal(messages::RevealStep {
                challenge: Some(step.challenge.to_message()),
                slot: Some(step.slot.to_message()),
                reveal: Some(step.reveal.to_message()),
                set_bytes: step.set_bytes,
            }),
            Self::Close(step) => prove_request::Of::Close(messages::CloseStep {
                challenge: Some(step.challenge.to_message()),
                slot: Some(step.slot.to_message()),
                reveal: step.reveal.as_ref().map(Signed::to_message),
                close: Some(step.close.to_message()),
            }),
        };
        messages::ProveRequest { of: Some(of) }
    }

    pub(super) fn from_message(message: messages::ProveRequest) -> Result<Self, WireError> {
        Ok(match field::present("the step of a proof", message.of)? {
            prove_request::Of::Challenge(challenge) => Self::Challenge(Box::new(Signed::from_message(challenge)?)),
            prove_request::Of::Reveal(step) => {
                if step.set_bytes == 0 {
                    return Err(WireError::malformed("a reveal without a set"));
                }
                if step.set_bytes > AUDIT_TREE_MAX_BYTES as u64 {
                    return Err(WireError::new(ErrorCode::TooLarge, "a pruned set larger than any"));
                }
                Self::Reveal(Box::new(RevealStep {
                    challenge: Signed::from_message(field::present("the challenge", step.challenge)?)?,
                    slot: Signed::from_message(field::present("the slot", step.slot)?)?,
                    reveal: Signed::from_message(field::present("the reveal", step.reveal)?)?,
                    set_bytes: step.set_bytes,
                }))
            }
            prove_request::Of::Close(step) => Self::Close(Box::new(CloseStep {
                challenge: Signed::from_message(field::present("the challenge", step.challenge)?)?,
                slot: Signed::from_message(field::present("the slot", step.slot)?)?,
                reveal: step.reveal.map(Signed::from_message).transpose()?,
                close: Signed::from_message(field::present("the close", step.close)?)?,
            })),
        })
    }
}

impl ProveReply {
    /// How many payload bytes follow.
    #[must_use]
    pub const fn payload_bytes(&self) -> u64 {
        match self {
            Self::Proof(proof) => proof.claimed().payload_bytes,
            Self::Slot(_) | Self::Noted => 0,
        }
    }

    pub(super) fn to_message(&self) -> messages::ProveReply {
        let of = match self {
            Self::Slot(slot) => prove_reply::Of::Slot(slot.to_message()),
            Self::Proof(proof) => prove_reply::Of::Proof(messages::ProofStep {
                proof: Some(proof.to_message()),
                payload_bytes: proof.claimed().payload_bytes,
            }),
            Self::Noted => prove_reply::Of::Noted(messages::Noted {}),
        };
        messages::ProveReply { of: Some(of) }
    }

    pub(super) fn from_message(message: messages::ProveReply) -> Result<Self, WireError> {
        Ok(match field::present("the step of a proof", message.of)? {
            prove_reply::Of::Slot(slot) => Self::Slot(Signed::from_message(slot)?),
            prove_reply::Of::Proof(step) => {
                let proof: Signed<Proof> = Signed::from_message(field::present("the proof", step.proof)?)?;
                if proof.claimed().payload_bytes != step.payload_bytes {
                    return Err(WireError::malformed("a proof of two lengths"));
                }
                Self::Proof(Box::new(proof))
            }
            prove_reply::Of::Noted(messages::Noted {}) => Self::Noted,
        })
    }
}
