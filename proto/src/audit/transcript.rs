//! Transcripts: one audit as a file that anybody can check, without the network and without trust in who kept it.
//!
//! Decides what stands in a transcript, whether it is sound, and what it proves to whom. Never decides what follows for the
//! node. The format stands in `docs/format.md`, Transcript.

use bytes::Bytes;

use super::draw::{DrawKind, Drawn};
use super::exchange::{Answer, Auditor, Findings, Outcome, judge, times_fit};
use super::set::{SetTop, open_set};
use super::{AuditError, SCHEME};
use crate::codec::{CodecError, Reader, Writer};
use crate::ids::{NodeId, Timestamp};
use crate::limits::{
    AUDIT_ATTEMPTS_MAX, AUDIT_PAYLOAD_MAX_BYTES, AUDIT_TREE_MAX_BYTES, TRANSCRIPT_MAX_BYTES, TRANSCRIPT_RECEIPTS_MAX,
};
use crate::wire::{BeaconRound, Challenge, Close, KeptReceipt, Proof, Reveal, Signed, Slot, Statement, WireError};
use core::time::Duration;

const VERSION: u8 = 1;

/// Why a transcript proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// It is not one, or is cut off.
    #[error("not a transcript: {0}")]
    Encoding(#[from] CodecError),
    /// It is of a version or a scheme that this release does not know.
    #[error("a transcript of version {version} and scheme {scheme}; this release knows version 1 and scheme {SCHEME}")]
    Version {
        /// Its version.
        version: u8,
        /// Its scheme.
        scheme: u32,
    },
    /// A signed statement in it is forged, or does not belong to the others.
    #[error("its {statement} is not sound: {error}")]
    Statement {
        /// Which.
        statement: &'static str,
        /// What is wrong.
        error: WireError,
    },
    /// What is shown of the set is not what the challenge commits to.
    #[error("{0}")]
    Set(#[from] AuditError),
    /// The times in it cannot belong to one audit.
    #[error("its times do not fit each other: one side's clock was set otherwise, or a statement is from another time")]
    Times,
    /// The auditor says that something else came out than did.
    #[error("the auditor closes with {claimed:?}, but what both signed says {found:?}")]
    Outcome {
        /// What the auditor says.
        claimed: Outcome,
        /// What follows from the statements.
        found: Outcome,
    },
    /// Parts of it contradict each other.
    #[error("it contradicts itself: {0}")]
    Contradiction(&'static str),
}

/// One audit, with everything that both sides signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript {
    /// What was asked.
    pub challenge: Signed<Challenge>,
    /// What the node said to that.
    pub slot: Signed<Slot>,
    /// Every time that the draw was shown to the node; none when the slot was refused.
    pub reveals: Vec<Signed<Reveal>>,
    /// The pruned set; empty when nothing was revealed.
    pub set: Bytes,
    /// The node's answer with its blocks.
    pub answer: Option<(Signed<Proof>, Bytes)>,
    /// The node's receipts for shards that it says it does not hold.
    pub receipts: Vec<KeptReceipt>,
    /// The way there and back, as the auditor measured it, in milliseconds.
    pub round_trip_ms: u32,
    /// What the auditor made of it.
    pub close: Signed<Close>,
}

/// Whom one has to trust for the draw to have been fair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrawTrust {
    /// The auditor: it chose the nonce, and could have chosen one that suits the node.
    Auditor,
    /// A beacon, whose value of this round the reader has to compare with the one shown.
    Beacon(BeaconRound),
}

/// How much a passed audit says, by the arithmetic of independent samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Confidence {
    /// Samples that were drawn by bytes.
    pub byte_samples: u32,
}

impl Confidence {
    /// With which probability a node that lacks `fraction` of the bytes would have been found out.
    #[must_use]
    pub fn detection(&self, fraction: f64) -> f64 {
        1.0 - (1.0 - fraction.clamp(0.0, 1.0)).powf(f64::from(self.byte_samples))
    }

    /// The fraction of the bytes that a node may lack and still pass with a probability of 1 - `confidence`.
    #[must_use]
    pub fn undetected(&self, confidence: f64) -> f64 {
        if self.byte_samples == 0 {
            return 1.0;
        }
        1.0 - (1.0 - confidence.clamp(0.0, 1.0)).powf(1.0 / f64::from(self.byte_samples))
    }
}

/// What a sound transcript says.
#[derive(Debug, Clone, PartialEq)]
pub struct TranscriptReport {
    /// Who was asked.
    pub node: NodeId,
    /// Who asked.
    pub auditor: [u8; 32],
    /// When the draw was shown last, or the slot refused, by the auditor's clock.
    pub asked_at: Timestamp,
    /// When the node answered, by its own clock.
    pub answered_at: Option<Timestamp>,
    /// What was drawn from.
    pub set: SetTop,
    /// How.
    pub draw: DrawKind,
    /// How many samples.
    pub samples: u32,
    /// What came out.
    pub outcome: Outcome,
    /// What the answer is worth; `None` when there is none.
    pub findings: Option<Findings>,
    /// What was drawn.
    pub drawn: Vec<Drawn>,
    /// Whom one has to trust for the draw.
    pub trust: DrawTrust,
    /// What a pass says.
    pub confidence: Confidence,
}

impl TranscriptReport {
    /// Whether it is evidence against the node that convinces anybody, whatever the draw was.
    #[must_use]
    pub fn is_hard_evidence(&self) -> bool {
        self.findings.as_ref().is_some_and(Findings::is_hard)
    }
}

/// Samples of a draw that are by bytes.
#[must_use]
pub const fn byte_samples(draw: DrawKind, samples: u32) -> u32 {
    match draw {
        DrawKind::Mixed => samples - samples / 4,
        DrawKind::Each => 0,
    }
}

impl Transcript {
    /// The bytes of its file.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        writer.u8(VERSION);
        writer.u32(SCHEME);
        put(&mut writer, &self.challenge.encode());
        put(&mut writer, &self.slot.encode());
        writer.u8(u8::try_from(self.reveals.len()).unwrap_or(u8::MAX));
        for reveal in &self.reveals {
            put(&mut writer, &reveal.encode());
        }
        put(&mut writer, &self.set);
        writer.option(self.answer.as_ref(), |writer, (proof, payload)| {
            put(writer, &proof.encode());
            put(writer, payload);
        });
        writer.count32(self.receipts.len());
        for receipt in &self.receipts {
            put(&mut writer, &receipt.encode());
        }
        writer.u32(self.round_trip_ms);
        put(&mut writer, &self.close.encode());
        writer.into_bytes()
    }

    /// Reads a file; nothing is believed yet.
    ///
    /// # Errors
    /// [`TranscriptError::Encoding`], [`TranscriptError::Version`], [`TranscriptError::Statement`].
    pub fn parse(bytes: &[u8]) -> Result<Self, TranscriptError> {
        if bytes.len() > TRANSCRIPT_MAX_BYTES {
            let (limit, found) = (TRANSCRIPT_MAX_BYTES as u64, bytes.len() as u64);
            return Err(CodecError::TooMuch { what: "a transcript", limit, found }.into());
        }
        let mut reader = Reader::new(bytes);
        let (version, scheme) = (reader.u8("the version")?, reader.u32("the scheme")?);
        if version != VERSION || scheme != SCHEME {
            return Err(TranscriptError::Version { version, scheme });
        }
        let challenge = signed(&mut reader, "challenge")?;
        let slot = signed(&mut reader, "slot")?;
        let reveals = reader.u8("the number of reveals")?;
        if u32::from(reveals) > AUDIT_ATTEMPTS_MAX {
            let (limit, found) = (AUDIT_ATTEMPTS_MAX.into(), reveals.into());
            return Err(CodecError::TooMuch { what: "reveals", limit, found }.into());
        }
        let reveals = (0..reveals).map(|_| signed(&mut reader, "reveal")).collect::<Result<_, _>>()?;
        let set = Bytes::copy_from_slice(reader.bytes32(AUDIT_TREE_MAX_BYTES, "the set")?);
        let answer = reader.option("the answer", |reader| -> Result<_, TranscriptError> {
            let proof = signed(reader, "proof")?;
            Ok((proof, Bytes::copy_from_slice(reader.bytes32(AUDIT_PAYLOAD_MAX_BYTES, "the blocks")?)))
        })?;
        let receipts = reader.count32(TRANSCRIPT_RECEIPTS_MAX, 5, "receipts")?;
        let receipts = (0..receipts).map(|_| receipt(&mut reader)).collect::<Result<_, _>>()?;
        let round_trip_ms = reader.u32("the round trip")?;
        let close = signed(&mut reader, "close")?;
        reader.finish()?;
        Ok(Self { challenge, slot, reveals, set, answer, receipts, round_trip_ms, close })
    }

    /// Checks everything that can be checked and says what is proven.
    ///
    /// # Errors
    /// [`TranscriptError`]: it proves nothing.
    pub fn verify(&self) -> Result<TranscriptReport, TranscriptError> {
        let (challenge, close) = (self.challenge.claimed(), self.close.claimed());
        let of = |statement| move |error| TranscriptError::Statement { statement, error };
        self.challenge.signed_by(&challenge.auditor).map_err(of("challenge"))?;
        let slot = self.slot.verify(&self.challenge).map_err(of("slot"))?;
        self.close.signed_by(&challenge.auditor).map_err(of("close"))?;
        if close.node != challenge.node || close.auditor != challenge.auditor {
            return Err(TranscriptError::Contradiction("it is closed for another audit"));
        }
        let mut report = TranscriptReport {
            node: challenge.node,
            auditor: challenge.auditor,
            asked_at: challenge.issued_at,
            answered_at: None,
            set: challenge.set,
            draw: challenge.draw,
            samples: challenge.samples,
            outcome: Outcome::Refused,
            findings: None,
            drawn: Vec::new(),
            trust: challenge.beacon.map_or(DrawTrust::Auditor, DrawTrust::Beacon),
            confidence: Confidence { byte_samples: byte_samples(challenge.draw, challenge.samples) },
        };
        let mut last_hash = self.slot.body_hash();
        if slot.refused.is_some() != self.reveals.is_empty() || self.reveals.is_empty() != self.set.is_empty() {
            return Err(TranscriptError::Contradiction("a slot is either refused or gone on with"));
        }
        if self.reveals.is_empty() && self.answer.is_some() {
            return Err(TranscriptError::Contradiction("an answer to nothing"));
        }
        if let Some(last) = self.reveals.last() {
            self.check_reveals()?;
            let draw = last.verify(&self.challenge, &self.slot).map_err(of("reveal"))?;
            report.drawn = open_set(&challenge.set, &draw, &self.set)?;
            report.asked_at = last.claimed().asked_at;
            report.outcome = Outcome::NoAnswer;
            last_hash = last.body_hash();
            let answered_at = self.answer.as_ref().map(|(proof, _)| proof.claimed().answered_at);
            if !times_fit(challenge, slot, last.claimed(), answered_at, close.received_at) {
                return Err(TranscriptError::Times);
            }
            report.answered_at = answered_at;
            if let Some((proof, payload)) = &self.answer {
                let auditor = Auditor {
                    challenge: &self.challenge,
                    slot: &self.slot,
                    reveal: last,
                    drawn: &report.drawn,
                    receipts: &self.receipts,
                };
                let round_trip = Duration::from_millis(self.round_trip_ms.into());
                let answer = Answer { proof, payload, received_at: close.received_at, round_trip };
                let findings = judge(&auditor, &answer).map_err(of("proof"))?;
                report.outcome = findings.outcome;
                report.findings = Some(findings);
                last_hash = proof.body_hash();
            }
        }
        self.check_close(&report, last_hash)?;
        Ok(report)
    }

    fn check_reveals(&self) -> Result<(), TranscriptError> {
        for (attempt, reveal) in (0u32..).zip(&self.reveals) {
            let of = |error| TranscriptError::Statement { statement: "reveal", error };
            reveal.verify(&self.challenge, &self.slot).map_err(of)?;
            if reveal.claimed().attempt != attempt {
                return Err(TranscriptError::Contradiction("its reveals are not one after another"));
            }
        }
        let times = self.reveals.windows(2).all(|pair| pair[0].claimed().asked_at <= pair[1].claimed().asked_at);
        if times { Ok(()) } else { Err(TranscriptError::Times) }
    }

    fn check_close(&self, report: &TranscriptReport, last_hash: [u8; 32]) -> Result<(), TranscriptError> {
        let close = self.close.claimed();
        if close.last_hash != last_hash {
            return Err(TranscriptError::Contradiction("it is closed over another answer"));
        }
        if close.outcome != report.outcome {
            return Err(TranscriptError::Outcome { claimed: close.outcome, found: report.outcome });
        }
        let asked = u32::try_from(report.drawn.len()).unwrap_or(u32::MAX);
        let failed = match (&report.findings, report.outcome) {
            (Some(findings), _) => findings.failed(),
            (None, Outcome::NoAnswer) => asked,
            (None, _) => 0,
        };
        if (close.asked, close.failed) != (asked, failed) {
            return Err(TranscriptError::Contradiction("it counts other shards than were drawn"));
        }
        Ok(())
    }
}

fn put(writer: &mut Writer, bytes: &[u8]) {
    writer.count32(bytes.len());
    writer.raw(bytes);
}

fn signed<T: Statement>(reader: &mut Reader<'_>, statement: &'static str) -> Result<Signed<T>, TranscriptError> {
    let bytes = reader.bytes32(Signed::<T>::encoded_max_bytes(), statement)?;
    Signed::decode(Bytes::copy_from_slice(bytes)).map_err(|error| TranscriptError::Statement { statement, error })
}

fn receipt(reader: &mut Reader<'_>) -> Result<KeptReceipt, TranscriptError> {
    let bytes = Bytes::copy_from_slice(reader.bytes32(KeptReceipt::encoded_max_bytes(), "a receipt")?);
    KeptReceipt::decode(&bytes).map_err(|error| TranscriptError::Statement { statement: "receipt", error })
}
