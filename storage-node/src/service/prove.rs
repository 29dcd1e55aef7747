//! `Prove`: what a node answers to an auditor.
//!
//! Decides whether a slot is granted, that each attempt is answered once, and what is kept of it. What a challenge means and
//! what is shown for it are `dolmen_proto::audit`'s.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::audit::{AuditClass, Draw, DrawKind, HeldShards, Outcome, SetShard, Transcript, show};
use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::{AUDIT_PAYLOAD_MAX_BYTES, AUDIT_SLOT_LIFE, REQUEST_LIFE};
use dolmen_proto::wire::{
    Challenge, CloseStep, ErrorCode, Proof, ProveReply, ProveRequest, Refusal, Reply, RevealStep, Signed, Slot,
    WireError,
};

use super::{Service, code_of};
use crate::admission::RateLimiter;
use crate::audits::{Asker, AuditBudget, AuditLog, LoggedAudit};
use crate::disk::Disk;
use crate::store::ShardState;
use crate::subnet::Subnet;

/// Slots that are kept in mind, so that no attempt is answered twice; what was asked before these counts as asked again.
const SLOTS_MAX: usize = 4096;
/// Answers of which the blocks are kept until the auditor says what it made of them.
const OPEN_MAX: usize = 8;
/// When an auditor may ask a node again that reads its disks.
const NOT_NOW: Duration = Duration::from_secs(60);
/// Closes that one subnet has noted at once, and a minute in the long run: more would push others out of the log.
const CLOSES_BURST: u32 = 256;
const CLOSES_PER_MINUTE: u32 = 4;

/// What a node has in mind of audits.
#[derive(Debug)]
pub(super) struct Audits {
    budget: AuditBudget,
    class: AuditClass,
    log: Option<AuditLog>,
    closes: RateLimiter,
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    known: BTreeMap<[u8; 32], Known>,
    order: VecDeque<[u8; 32]>,
    /// Of slots from before this time nothing is known: the node began then, or has forgotten some since.
    known_from: Option<Timestamp>,
    open: VecDeque<Open>,
}

/// What came of a slot.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    issued_at: Timestamp,
    /// A bit for each attempt that was asked.
    attempts: u32,
    closed: bool,
}

impl Slots {
    /// What is known of a slot; the oldest is forgotten when there are too many.
    fn of(&mut self, slot: &Signed<Slot>) -> &mut Known {
        let (hash, issued_at) = (slot.body_hash(), slot.claimed().issued_at);
        if !self.known.contains_key(&hash) {
            if self.order.len() >= SLOTS_MAX
                && let Some(oldest) = self.order.pop_front()
                && let Some(gone) = self.known.remove(&oldest)
            {
                let after = gone.issued_at.after(Duration::from_millis(1));
                self.known_from = Some(self.known_from.map_or(after, |from| from.max(after)));
            }
            self.order.push_back(hash);
        }
        self.known.entry(hash).or_insert(Known { issued_at, ..Known::default() })
    }
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
        let closes = RateLimiter::new(CLOSES_BURST, CLOSES_PER_MINUTE);
        Self { budget: AuditBudget::new(samples_per_hour), class, log, closes, slots: Mutex::default() }
    }

    pub(super) const fn samples_per_hour(&self) -> u64 {
        self.budget.per_hour()
    }

    fn slots(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
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
                self.note_close(step, now, from)?;
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
        let asker = asker_of(from, asked.auditor);
        self.audits.slots().known_from.get_or_insert(now);
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

    /// Whether a reveal is to be answered, before anything of its set is taken in; gives the draw. A slot is paid for once: for
    /// its first attempt soon after it was granted. Whatever comes later or again is paid for by who asks.
    ///
    /// # Errors
    /// What the auditor is told.
    pub fn admit_reveal(&self, step: &RevealStep, now: Timestamp, from: Option<Subnet>) -> Result<Draw, WireError> {
        let draw = step.verify(&self.node, now)?;
        let (reveal, challenge) = (step.reveal.claimed(), step.challenge.claimed());
        let bit = 1u32.checked_shl(reveal.attempt).unwrap_or(0);
        let mut slots = self.audits.slots();
        let known_from = *slots.known_from.get_or_insert(now);
        let known = slots.of(&step.slot);
        if known.attempts & bit != 0 {
            return Err(WireError::new(ErrorCode::TooMany, "this attempt was answered"));
        }
        let paid = known.attempts == 0 && known.issued_at >= known_from && now.since(known.issued_at) <= REQUEST_LIFE;
        if !paid {
            let asker = asker_of(from, challenge.auditor);
            self.audits
                .budget
                .take_again(asker, challenge.samples, now)
                .map_err(|wait| WireError::new(ErrorCode::Busy, "asked again too often").with_retry_after(wait))?;
        }
        known.attempts |= bit;
        Ok(draw)
    }

    /// Answers a reveal that was admitted; blocks on the disk. `clock` is read when the blocks are there.
    ///
    /// # Errors
    /// What the auditor is told.
    pub fn prove_reveal(
        &self,
        step: &RevealStep,
        draw: &Draw,
        set: Bytes,
        from: Option<Subnet>,
        clock: impl Fn() -> Timestamp,
    ) -> Result<(Signed<Proof>, Bytes), WireError> {
        let challenge = step.challenge.claimed();
        let shown = show(&challenge.set, draw, &set, &mut Held(self))?;
        if challenge.draw == DrawKind::Mixed {
            let proven = shown.codes.iter().all(Result::is_ok);
            self.audits.budget.proved(asker_of(from, challenge.auditor), proven);
        }
        let proof = Signed::sign(shown.statement(step, clock()), &self.key);
        let payload = Bytes::from(shown.payload);
        if self.audits.log.is_some() {
            let mut slots = self.audits.slots();
            let slot_hash = step.slot.body_hash();
            slots.open.retain(|open| open.step.reveal.claimed().slot_hash != slot_hash);
            if slots.open.len() >= OPEN_MAX {
                slots.open.pop_front();
            }
            let open = Open { step: step.clone(), set, proof: proof.clone(), payload: payload.clone() };
            slots.open.push_back(open);
        }
        Ok((proof, payload))
    }

    fn note_close(&self, step: &CloseStep, now: Timestamp, from: Option<Subnet>) -> Result<(), WireError> {
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
        // Refused slots are free and not kept in mind.
        let again = slot.refused.is_none() && std::mem::replace(&mut self.audits.slots().of(&step.slot).closed, true);
        if again || self.audits.closes.take(from, now).is_err() {
            return Ok(());
        }
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
            outcome: close.outcome.name().to_owned(),
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
        let mut slots = self.audits.slots();
        let slot_hash = step.slot.body_hash();
        let place = slots.open.iter().position(|open| open.step.reveal.claimed().slot_hash == slot_hash)?;
        slots.open.remove(place)
    }

    /// Memory that the answer to a reveal takes.
    #[must_use]
    pub fn prove_memory_bytes(step: &RevealStep) -> usize {
        let samples = usize::try_from(step.challenge.claimed().samples).unwrap_or(usize::MAX);
        let set = usize::try_from(step.set_bytes).unwrap_or(usize::MAX);
        set.saturating_add(samples.saturating_mul(2048).min(AUDIT_PAYLOAD_MAX_BYTES))
    }
}

/// Who counts as one.
fn asker_of(from: Option<Subnet>, auditor: [u8; 32]) -> Asker {
    from.map_or(Asker::Key(auditor), Asker::Subnet)
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
