//! `Prove`: what a node answers to an auditor.
//!
//! Decides whether a slot is granted, that each attempt is answered once, and what is kept of it. What a challenge means and
//! what is shown for it are `dolmen_proto::audit`'s.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::audit::{AuditClass, HeldShards, Outcome, SetShard, Transcript, show};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::{AUDIT_PAYLOAD_MAX_BYTES, AUDIT_SLOT_LIFE};
use dolmen_proto::wire::{
    Challenge, CloseStep, ErrorCode, Proof, ProveReply, ProveRequest, Refusal, Reply, RevealStep, Signed, Slot,
    WireError,
};

use super::{Service, code_of};
use crate::audits::{Asker, AuditBudget, AuditLog, LoggedAudit};
use crate::disk::Disk;
use crate::store::ShardState;
use crate::subnet::Subnet;

/// Attempts that are kept in mind, so that none is answered twice.
const ANSWERED_MAX: usize = 4096;
/// Answers of which the blocks are kept until the auditor says what it made of them.
const OPEN_MAX: usize = 8;
/// When an auditor may ask a node again that reads its disks.
const NOT_NOW: Duration = Duration::from_secs(60);

/// What a node has in mind of audits.
#[derive(Debug)]
pub(super) struct Audits {
    budget: AuditBudget,
    class: AuditClass,
    log: Option<AuditLog>,
    answered: Mutex<Answered>,
}

#[derive(Debug, Default)]
struct Answered {
    attempts: BTreeMap<([u8; 32], u32), ()>,
    order: VecDeque<([u8; 32], u32)>,
    open: VecDeque<Open>,
}

/// An answer that the auditor has not closed yet.
#[derive(Debug)]
struct Open {
    step: RevealStep,
    set: Bytes,
    proof: Signed<Proof>,
    payload: Bytes,
}

impl Audits {
    pub(super) fn new(samples_per_hour: u64, class: AuditClass, log: Option<AuditLog>) -> Self {
        Self { budget: AuditBudget::new(samples_per_hour), class, log, answered: Mutex::default() }
    }

    pub(super) const fn samples_per_hour(&self) -> u64 {
        self.budget.per_hour()
    }

    pub(super) const fn class(&self) -> AuditClass {
        self.class
    }
}

impl<D: Disk> Service<D> {
    /// Answers a step that has no payload: a challenge, or a close.
    ///
    /// # Errors
    /// What the auditor is told.
    pub(super) fn prove(
        &self,
        request: &ProveRequest,
        now: Timestamp,
        from: Option<Subnet>,
    ) -> Result<Reply, WireError> {
        match request {
            ProveRequest::Challenge(challenge) => {
                self.grant_slot(challenge, now, from).map(|slot| Reply::Prove(ProveReply::Slot(slot)))
            }
            ProveRequest::Close(step) => {
                self.note_close(step, now)?;
                Ok(Reply::Prove(ProveReply::Noted))
            }
            ProveRequest::Reveal(_) => {
                Err(WireError::new(ErrorCode::Internal, "a call with payload took the way of those without"))
            }
        }
    }

    fn grant_slot(
        &self,
        challenge: &Signed<Challenge>,
        now: Timestamp,
        from: Option<Subnet>,
    ) -> Result<Signed<Slot>, WireError> {
        let asked = challenge.verify(&self.node, now)?;
        let asker = from.map_or(Asker::Key(asked.auditor), Asker::Subnet);
        let held = self.store.usage().live_bytes;
        let refused = if !self.has_books() {
            Some((Refusal::NotNow, NOT_NOW))
        } else {
            let taken = self.audits.budget.take(asker, asked.set.bytes, held, asked.samples, now);
            taken.err().map(|wait| (Refusal::Budget, wait))
        };
        let slot = Slot {
            node: self.node,
            challenge_hash: challenge.body_hash(),
            refused: refused.map(|(why, _)| why),
            class: self.audits.class,
            issued_at: now,
            until: now.after(AUDIT_SLOT_LIFE),
            retry_after_ms: refused.map_or(0, |(_, wait)| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
        };
        Ok(Signed::sign(slot, &self.key))
    }

    /// Answers a reveal; blocks on the disk. `clock` is read when the blocks are there.
    ///
    /// # Errors
    /// What the auditor is told.
    pub fn prove_reveal(
        &self,
        step: &RevealStep,
        set: Bytes,
        clock: impl Fn() -> Timestamp,
    ) -> Result<(Signed<Proof>, Bytes), WireError> {
        // A slot that this node signed once tells who may come here: nothing is read before it is checked.
        step.verify(&self.node, clock())?;
        self.answer_once(step)?;
        let shown = show(step, &set, &self.node, clock(), &mut Held(self))?;
        let proof = Signed::sign(shown.statement(step, clock()), &self.key);
        let payload = Bytes::from(shown.payload);
        if self.audits.log.is_some() {
            let mut answered = self.audits.answered.lock().unwrap_or_else(PoisonError::into_inner);
            if answered.open.len() >= OPEN_MAX {
                answered.open.pop_front();
            }
            let open = Open { step: step.clone(), set, proof: proof.clone(), payload: payload.clone() };
            answered.open.push_back(open);
        }
        Ok((proof, payload))
    }

    fn answer_once(&self, step: &RevealStep) -> Result<(), WireError> {
        let reveal = step.reveal.claimed();
        let attempt = (reveal.slot_hash, reveal.attempt);
        let mut answered = self.audits.answered.lock().unwrap_or_else(PoisonError::into_inner);
        if answered.attempts.insert(attempt, ()).is_some() {
            return Err(WireError::new(ErrorCode::TooMany, "this attempt was answered"));
        }
        answered.order.push_back(attempt);
        if answered.order.len() > ANSWERED_MAX
            && let Some(oldest) = answered.order.pop_front()
        {
            answered.attempts.remove(&oldest);
        }
        Ok(())
    }

    fn note_close(&self, step: &CloseStep, now: Timestamp) -> Result<(), WireError> {
        let unfit = || WireError::new(ErrorCode::Unauthorised, "what is closed is no audit of this node");
        let (challenge, close) = (step.challenge.claimed(), step.close.claimed());
        // An audit may be closed a day after it began, so the time of the challenge is not looked at.
        let slot = step.slot.verify(&step.challenge)?;
        step.challenge.signed_by(&challenge.auditor)?;
        step.close.signed_by(&challenge.auditor)?;
        if challenge.node != self.node || close.node != self.node || close.auditor != challenge.auditor {
            return Err(unfit());
        }
        if let Some(reveal) = &step.reveal {
            reveal.verify(&step.challenge, &step.slot)?;
        }
        if slot.refused.is_some() != (close.outcome == Outcome::Refused) {
            return Err(unfit());
        }
        let Some(log) = &self.audits.log else { return Ok(()) };
        let open = self.take_open(step);
        let transcript = open.filter(|_| close.outcome != Outcome::Passed).map(|open| Transcript {
            challenge: step.challenge.clone(),
            slot: step.slot.clone(),
            reveals: vec![open.step.reveal],
            set: open.set,
            answer: Some((open.proof, open.payload)),
            receipts: Vec::new(),
            round_trip_ms: 0,
            close: step.close.clone(),
        });
        let audit = LoggedAudit {
            at_ms: now.as_unix_ms(),
            auditor: data_encoding::HEXLOWER.encode(&challenge.auditor),
            outcome: outcome_name(close.outcome).to_owned(),
            samples: challenge.samples,
            shards: close.asked,
            failed: close.failed,
            set_bytes: challenge.set.bytes,
            set_shards: challenge.set.count,
            transcript: None,
        };
        if let Err(error) = log.note(audit, transcript.as_ref().map(Transcript::to_bytes).as_deref()) {
            tracing::warn!(%error, "an audit could not be noted");
        }
        Ok(())
    }

    /// The answer that a close is about.
    fn take_open(&self, step: &CloseStep) -> Option<Open> {
        let mut answered = self.audits.answered.lock().unwrap_or_else(PoisonError::into_inner);
        let slot_hash = step.slot.body_hash();
        let place = answered.open.iter().position(|open| open.step.reveal.claimed().slot_hash == slot_hash)?;
        answered.open.remove(place)
    }

    /// Memory that the answer to a reveal takes.
    #[must_use]
    pub fn prove_memory_bytes(step: &RevealStep) -> usize {
        let samples = usize::try_from(step.challenge.claimed().samples).unwrap_or(usize::MAX);
        let set = usize::try_from(step.set_bytes).unwrap_or(usize::MAX);
        set.saturating_add(samples.saturating_mul(2048).min(AUDIT_PAYLOAD_MAX_BYTES))
    }
}

/// An outcome as it stands in the log and in JSON.
const fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Passed => "passed",
        Outcome::Wrong => "wrong",
        Outcome::NotHeld => "not_held",
        Outcome::NoAnswer => "no_answer",
        Outcome::Late => "late",
        Outcome::Refused => "refused",
    }
}

/// The store as a proof reads it.
struct Held<'a, D: Disk>(&'a Service<D>);

impl<D: Disk> HeldShards for Held<'_, D> {
    fn outboard(&mut self, shard: &SetShard) -> Result<Vec<u8>, ErrorCode> {
        match self.0.store.find(&shard.root).map_err(|error| code_of(&error))? {
            None => Err(self.0.miss()),
            Some((_, ShardState::Damaged)) => Err(ErrorCode::Damaged),
            // A root says the length; an auditor that believes another one was lied to by somebody else.
            Some((length_bytes, _)) if length_bytes != shard.length_bytes => Err(ErrorCode::NotHeld),
            Some(_) => self.0.store.outboard(&shard.root).map_err(|error| code_of(&error)),
        }
    }

    fn read(&mut self, shard: &SetShard, offset: u32, buffer: &mut [u8]) -> Result<(), ErrorCode> {
        self.0.store.read(&shard.root, offset.into(), buffer).map_err(|error| code_of(&error))
    }
}
