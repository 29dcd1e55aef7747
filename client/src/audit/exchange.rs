//! One audit of one node over the network.
//!
//! Decides how often and how long a node is asked. Every way that an audit can end is an outcome; only this machine's own
//! troubles are errors.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dolmen_proto::attempt::Fault;
use dolmen_proto::audit::{
    Answer, Auditor as Judge, DrawKind, Drawn, Findings, Outcome, Transcript, judge, nonce_hash, open_set, times_fit,
};
use dolmen_proto::ids::{NodeId, Timestamp};
use dolmen_proto::limits::{AUDIT_ATTEMPTS_MAX, CLOCK_SKEW_MAX};
use dolmen_proto::standing::{ChallengeKey, Observation};
use dolmen_proto::wire::{
    Challenge, Close, CloseStep, KeptReceipt, Proof, ProveReply, ProveRequest, Reveal, RevealStep, Signed, Slot,
};
use ed25519_dalek::SigningKey;
use tokio::time::{Instant, timeout};

use super::sets::{ReceiptSource, SetSource, prune, top_of};
use crate::error::{ClientError, ErrorKind};
use crate::network::{CallFault, Nodes};

/// An answer is given up after this long, beside its deadline: it counts as none, and is asked for again.
const PATIENCE: Duration = Duration::from_secs(30);

/// Whoever audits: a key that transcripts name, and the nodes as they are known.
#[derive(Clone)]
pub(crate) struct Auditor {
    nodes: Nodes,
    key: Arc<SigningKey>,
}

/// What to ask of a node.
pub(crate) struct Asked {
    pub(crate) node: NodeId,
    pub(crate) shards: Arc<dyn SetSource>,
    pub(crate) draw: DrawKind,
    /// Samples; of [`DrawKind::Each`] as many as there are shards.
    pub(crate) samples: u32,
    /// Receipts of the node, against which "not held" is held.
    pub(crate) receipts: Arc<dyn ReceiptSource>,
}

/// How an audit ended.
#[derive(Debug)]
pub(crate) enum Audited {
    /// The node was not reached at all.
    Offline(String),
    /// It does not speak of audits, or answered nonsense before it could sign anything.
    Unable(String),
    /// There is nothing that it should hold.
    Nothing,
    /// It granted a slot and has not answered yet: the same draw is asked for again.
    Pending(Box<Transcript>),
    /// It is over.
    Closed(Box<Closed>),
}

/// An audit that is over, with all that was signed.
#[derive(Debug)]
pub(crate) struct Closed {
    pub(crate) outcome: Outcome,
    pub(crate) findings: Option<Findings>,
    /// Sound by [`Transcript::verify`].
    pub(crate) transcript: Transcript,
}

impl Closed {
    /// What the node's standing takes in. Of shards that the node says it does not hold only those count that its own receipt
    /// says it does.
    pub(crate) fn observation(&self) -> Observation {
        let challenge = ChallengeKey::new(self.transcript.slot.body_hash());
        let Some(findings) = &self.findings else {
            return match self.outcome {
                Outcome::Refused => Observation::Refused,
                _ => Observation::NoAnswer { challenge },
            };
        };
        let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        let wrong = count(findings.wrong.len());
        let not_held = count(findings.not_held.iter().filter(|shard| shard.receipt).count());
        let samples = findings.proven_blocks.saturating_add(wrong).saturating_add(not_held);
        match self.outcome {
            Outcome::Late => Observation::Late { challenge },
            // It proves a part and says of the rest, for the fourth time, that its disk cannot be read now: that is no answer, or
            // who has lost shards would say so of them for ever.
            Outcome::NoAnswer => Observation::NoAnswer { challenge },
            _ if samples == 0 => Observation::NoAnswer { challenge },
            _ => Observation::Answered { challenge, samples, wrong, not_held },
        }
    }
}

impl std::fmt::Debug for Auditor {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Auditor(..)")
    }
}

/// What a slot was granted for.
struct Granted {
    challenge: Signed<Challenge>,
    slot: Signed<Slot>,
    reveals: Vec<Signed<Reveal>>,
    set: Bytes,
    drawn: Vec<Drawn>,
    receipts: Arc<dyn ReceiptSource>,
    round_trip: Duration,
}

impl Auditor {
    pub(crate) fn new(nodes: Nodes, key: SigningKey) -> Self {
        Self { nodes, key: Arc::new(key) }
    }

    fn public(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// Asks a node once.
    ///
    /// # Errors
    /// This machine's own: the source of the set, randomness.
    pub(crate) async fn audit(&self, asked: Asked) -> Result<Audited, ClientError> {
        let source = Arc::clone(&asked.shards);
        let Some(top) = blocking(move || top_of(source.as_ref())).await? else { return Ok(Audited::Nothing) };
        let round_trip = match self.nodes.round_trip(asked.node).await {
            Ok((_, round_trip)) => round_trip,
            Err(fault) => return Ok(unasked(&fault)),
        };
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| {
            ClientError::new(ErrorKind::Local, "could not draw a challenge", error, "check this machine's randomness")
        })?;
        let challenge = Challenge {
            node: asked.node,
            auditor: self.public(),
            draw: asked.draw,
            samples: asked.samples,
            set: top,
            nonce_hash: nonce_hash(&nonce),
            issued_at: self.nodes.now(),
            beacon: None,
        };
        let challenge = Signed::sign(challenge, &self.key);
        let step = ProveRequest::Challenge(Box::new(challenge.clone()));
        let slot = match self.nodes.prove(asked.node, step, None).await {
            Ok((ProveReply::Slot(slot), _)) => slot,
            Ok(_) => return Ok(Audited::Unable("it answered another step".to_owned())),
            Err(fault) => return Ok(unasked(&fault)),
        };
        if let Err(error) = slot.verify(&challenge) {
            return Ok(Audited::Unable(format!("its slot is not sound: {error}")));
        }
        // Answers are judged by both clocks; a node whose clock is another could be condemned for it, or excuse itself by it.
        let (issued_at, now) = (slot.claimed().issued_at, self.nodes.now());
        if issued_at.after(CLOCK_SKEW_MAX) < challenge.claimed().issued_at || issued_at > now.after(CLOCK_SKEW_MAX) {
            return Ok(Audited::Unable("its clock is too far from ours".to_owned()));
        }
        if slot.claimed().refused.is_some() {
            return Ok(Audited::Closed(Box::new(self.refused(challenge, slot).await)));
        }
        let reveal = self.reveal(&slot, nonce, 0);
        let draw =
            reveal.verify(&challenge, &slot).map_err(|error| ClientError::bug("a challenge went wrong", error))?;
        let source = Arc::clone(&asked.shards);
        let (set, drawn) = blocking(move || prune(source.as_ref(), &top, &draw)).await?;
        let reveals = vec![reveal];
        let receipts = asked.receipts;
        let granted = Granted { challenge, slot, reveals, set: set.into(), drawn, receipts, round_trip };
        self.ask(granted).await
    }

    /// Asks again for what a node has not answered; the last time when it was asked often enough.
    ///
    /// # Errors
    /// What is pending is not of this auditor's making.
    pub(crate) async fn ask_again(
        &self,
        pending: Transcript,
        receipts: Arc<dyn ReceiptSource>,
    ) -> Result<Audited, ClientError> {
        let unsound = |why: String| ClientError::bug("what is pending is no audit", why);
        let last = pending.reveals.last().ok_or_else(|| unsound("nothing was asked".to_owned()))?;
        let (nonce, attempt) = (last.claimed().nonce, last.claimed().attempt + 1);
        let draw = last.verify(&pending.challenge, &pending.slot).map_err(|error| unsound(error.to_string()))?;
        let drawn = open_set(&pending.challenge.claimed().set, &draw, &pending.set)?;
        if attempt >= AUDIT_ATTEMPTS_MAX || self.nodes.now() > pending.slot.claimed().until {
            return Ok(self.given_up(pending, u32::try_from(drawn.len()).unwrap_or(u32::MAX)).await);
        }
        let round_trip = match self.nodes.round_trip(pending.challenge.claimed().node).await {
            Ok((_, round_trip)) => round_trip,
            // It is not there at all: that is asked for too, or silence would be for nothing.
            Err(_) => Duration::ZERO,
        };
        let mut reveals = pending.reveals;
        reveals.push(self.reveal(&pending.slot, nonce, attempt));
        let (challenge, slot, set) = (pending.challenge, pending.slot, pending.set);
        self.ask(Granted { challenge, slot, reveals, set, drawn, receipts, round_trip }).await
    }

    fn reveal(&self, slot: &Signed<Slot>, nonce: [u8; 32], attempt: u32) -> Signed<Reveal> {
        let reveal = Reveal {
            node: slot.claimed().node,
            auditor: self.public(),
            slot_hash: slot.body_hash(),
            nonce,
            beacon_value: Bytes::new(),
            asked_at: self.nodes.now(),
            attempt,
        };
        Signed::sign(reveal, &self.key)
    }

    async fn ask(&self, granted: Granted) -> Result<Audited, ClientError> {
        let node = granted.challenge.claimed().node;
        let reveal = granted.reveals.last().cloned().expect("something is asked");
        let step = RevealStep {
            challenge: granted.challenge.clone(),
            slot: granted.slot.clone(),
            reveal: reveal.clone(),
            set_bytes: granted.set.len() as u64,
        };
        let step = ProveRequest::Reveal(Box::new(step));
        let class = granted.slot.claimed().class;
        let deadline = class.deadline(granted.challenge.claimed().samples) + granted.round_trip;
        let (asked_at, begun) = (reveal.claimed().asked_at, Instant::now());
        let call = self.nodes.prove(node, step, Some(granted.set.clone()));
        let answer = timeout(deadline.saturating_add(PATIENCE).min(CLOCK_SKEW_MAX), call).await;
        // By the steady clock, so that a clock that is set in between condemns nobody.
        let received_at = asked_at.after(begun.elapsed());
        match answer {
            Ok(Ok((ProveReply::Proof(proof), payload))) => {
                self.judged(granted, reveal, (*proof, payload), received_at).await
            }
            Ok(Ok(_)) => Ok(self.unanswered(granted, received_at).await),
            Ok(Err(fault)) => {
                tracing::debug!(node = %node.short(), %fault, "a node does not prove");
                Ok(self.unanswered(granted, received_at).await)
            }
            Err(_) => Ok(self.unanswered(granted, received_at).await),
        }
    }

    async fn judged(
        &self,
        granted: Granted,
        reveal: Signed<Reveal>,
        (proof, payload): (Signed<Proof>, Bytes),
        received_at: Timestamp,
    ) -> Result<Audited, ClientError> {
        // As the transcript writes it, or its reader could come to another outcome.
        let round_trip_ms = u32::try_from(granted.round_trip.as_millis()).unwrap_or(u32::MAX).saturating_add(1);
        let judged = |receipts: &[KeptReceipt]| {
            let Granted { challenge, slot, drawn, .. } = &granted;
            let judge_of = Judge { challenge, slot, reveal: &reveal, drawn, receipts };
            let round_trip = Duration::from_millis(round_trip_ms.into());
            judge(&judge_of, &Answer { proof: &proof, payload: &payload, received_at, round_trip })
        };
        let answered_at = proof.claimed().answered_at;
        // With a time of its own choosing a node could sign that it holds nothing after all of its receipts.
        let (challenge, slot) = (granted.challenge.claimed(), granted.slot.claimed());
        let in_time = times_fit(challenge, slot, reveal.claimed(), Some(answered_at), received_at);
        let mut findings = match judged(&[]) {
            Ok(findings) if in_time => findings,
            Ok(_) => return Ok(self.unanswered(granted, received_at).await),
            Err(error) => {
                tracing::debug!(node = %reveal.claimed().node.short(), %error, "what came is no proof");
                return Ok(self.unanswered(granted, received_at).await);
            }
        };
        let mut receipts = Vec::new();
        if !findings.not_held.is_empty() {
            let gone = |drawn: &&Drawn| findings.not_held.iter().any(|shard| shard.root == drawn.shard.root);
            let shards: Vec<_> = granted.drawn.iter().filter(gone).map(|drawn| drawn.shard).collect();
            let (source, node) = (Arc::clone(&granted.receipts), proof.claimed().node);
            receipts = blocking(move || source.receipts(&node, &shards)).await?;
            findings = judged(&receipts).unwrap_or(findings);
            // What convicts nobody needs not be shown.
            let hard: BTreeSet<_> =
                findings.not_held.iter().filter(|shard| shard.receipt).map(|shard| shard.root).collect();
            receipts.retain(|receipt| {
                let claim = receipt.claim().ok().filter(|claim| claim.is_of(answered_at));
                claim.is_some_and(|claim| claim.shards.iter().any(|(root, _)| hard.contains(root)))
            });
        }
        if findings.outcome == Outcome::NoAnswer && granted.reveals.len() < AUDIT_ATTEMPTS_MAX as usize {
            // A disk that cannot be read now may be read later.
            return Ok(self.unanswered(granted, received_at).await);
        }
        let close =
            self.close(proof.body_hash(), findings.outcome, received_at, &reveal, (findings.asked, findings.failed()));
        let transcript = Transcript {
            receipts,
            challenge: granted.challenge,
            slot: granted.slot,
            reveals: granted.reveals,
            set: granted.set,
            answer: Some((proof, payload)),
            round_trip_ms,
            close,
        };
        self.tell(&transcript).await;
        Ok(Audited::Closed(Box::new(Closed { outcome: findings.outcome, findings: Some(findings), transcript })))
    }

    /// What is to be asked again, or is over when it was asked often enough.
    async fn unanswered(&self, granted: Granted, received_at: Timestamp) -> Audited {
        let reveal = granted.reveals.last().cloned().expect("something was asked");
        let asked = u32::try_from(granted.drawn.len()).unwrap_or(u32::MAX);
        let transcript = Transcript {
            close: self.close(reveal.body_hash(), Outcome::NoAnswer, received_at, &reveal, (asked, asked)),
            challenge: granted.challenge,
            slot: granted.slot,
            reveals: granted.reveals,
            set: granted.set,
            answer: None,
            receipts: Vec::new(),
            round_trip_ms: 0,
        };
        if transcript.reveals.len() < AUDIT_ATTEMPTS_MAX as usize {
            return Audited::Pending(Box::new(transcript));
        }
        self.given_up(transcript, asked).await
    }

    /// Closes what a node was asked for in vain often enough.
    async fn given_up(&self, mut pending: Transcript, asked: u32) -> Audited {
        if let Some(reveal) = pending.reveals.last() {
            let received_at = pending.close.claimed().received_at;
            pending.close = self.close(reveal.body_hash(), Outcome::NoAnswer, received_at, reveal, (asked, asked));
        }
        pending.receipts.clear();
        self.tell(&pending).await;
        Audited::Closed(Box::new(Closed { outcome: Outcome::NoAnswer, findings: None, transcript: pending }))
    }

    async fn refused(&self, challenge: Signed<Challenge>, slot: Signed<Slot>) -> Closed {
        let close = Close {
            node: challenge.claimed().node,
            auditor: self.public(),
            last_hash: slot.body_hash(),
            outcome: Outcome::Refused,
            received_at: self.nodes.now(),
            asked: 0,
            failed: 0,
        };
        let transcript = Transcript {
            close: Signed::sign(close, &self.key),
            challenge,
            slot,
            reveals: Vec::new(),
            set: Bytes::new(),
            answer: None,
            receipts: Vec::new(),
            round_trip_ms: 0,
        };
        self.tell(&transcript).await;
        Closed { outcome: Outcome::Refused, findings: None, transcript }
    }

    fn close(
        &self,
        last_hash: [u8; 32],
        outcome: Outcome,
        received_at: Timestamp,
        reveal: &Signed<Reveal>,
        (asked, failed): (u32, u32),
    ) -> Signed<Close> {
        let reveal = reveal.claimed();
        let close =
            Close { node: reveal.node, auditor: reveal.auditor, last_hash, outcome, received_at, asked, failed };
        Signed::sign(close, &self.key)
    }

    /// Tells the node what was made of it. That it does not listen is its own loss.
    async fn tell(&self, transcript: &Transcript) {
        let step = CloseStep {
            challenge: transcript.challenge.clone(),
            slot: transcript.slot.clone(),
            reveal: transcript.reveals.last().cloned(),
            close: transcript.close.clone(),
        };
        let node = transcript.challenge.claimed().node;
        let step = ProveRequest::Close(Box::new(step));
        match timeout(PATIENCE, self.nodes.prove(node, step, None)).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => tracing::debug!(node = %node.short(), %fault, "a node was not told of its audit"),
            Err(_) => tracing::debug!(node = %node.short(), "a node was not told of its audit"),
        }
    }
}

fn unasked(fault: &CallFault) -> Audited {
    match fault.fault {
        Fault::Unreachable | Fault::Local => Audited::Offline(fault.reason.clone()),
        _ => Audited::Unable(fault.reason.clone()),
    }
}

/// Runs what reads a set off the threads that serve sockets.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ClientError> + Send + 'static,
) -> Result<T, ClientError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ClientError::bug("an audit broke down", error))?
}
