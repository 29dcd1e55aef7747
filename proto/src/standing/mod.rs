//! Standing: what an auditor believes of a node, from what came of challenges and probes.
//!
//! Decides how outcomes with their times become scores, a verdict with its reason and a weight in placement. Never asks a node anything,
//! reads no clock, and says nothing about a single shard: a shard that was not held is lost at once, whatever the node's standing.
//!
//! Hard evidence (wrong blocks, signed "not held") acts at once and a fall is for good: only a person lifts it, by starting
//! a new [`Standing`]. Silence gets its grace ([`REPEATS`], [`SILENCE_GRACE`]) and no more. Everything else is forgotten with time.

mod constants;
mod encoding;
mod score;

use core::time::Duration;

pub use constants::{
    AUDIT_SAMPLES_MAX, NO_ANSWER, NOT_HELD, NOT_SERVED, OFFLINE, OFFLINE_WINDOW, REFUSED, REPEATS, SILENCE_GRACE,
    SILENCES_MAX, STANDING_MAX_BYTES, VETTING_AGE, VETTING_SAMPLES, WRONG, WRONG_PER_AUDIT_MAX,
};
pub use score::{Score, ScoreRule};

use crate::ids::Timestamp;
use crate::placement::{STANDING_FULL, STANDING_UNKNOWN};

/// Names a challenge: the hash of the auditor's signed reveal, so that the same seed asked again has the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChallengeKey([u8; 32]);

impl ChallengeKey {
    /// Stands for slots that were refused: there is no seed yet.
    const REFUSALS: Self = Self([0; 32]);

    /// The hash of a reveal.
    #[must_use]
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What one attempt to audit or to probe a node showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Observation {
    /// A signed proof: of `samples` blocks drawn some were wrong, and of some shards the node says itself that it does not hold them although
    /// its own receipt has not expired. The rest is proven.
    Answered {
        /// The challenge.
        challenge: ChallengeKey,
        /// Blocks drawn, from 1 to [`AUDIT_SAMPLES_MAX`].
        samples: u32,
        /// Blocks that are not what their root covers. A proof that is not well formed is wrong as a whole.
        wrong: u32,
        /// Shards that the node says it does not hold, each counted once however many of its blocks were drawn, and never again: it
        /// is lost, and no longer in the set. (One rotten shard of four is a quarter of all samples, and still one rotten shard.)
        not_held: u32,
    },
    /// A slot was granted and no proof came in time, at first or when the same seed was asked again.
    NoAnswer {
        /// The challenge.
        challenge: ChallengeKey,
    },
    /// A proof that is right came after its deadline: it ends a silence, and else counts as no answer.
    Late {
        /// The challenge.
        challenge: ChallengeKey,
    },
    /// The node was reached and refused a slot.
    Refused,
    /// The node could not be reached, and owes no answer.
    Offline,
    /// A probe, an ordinary read at a random place, was served.
    Served,
    /// The node was reached and a probe was not served, or not with the right bytes.
    NotServed,
}

/// Why a standing is less than good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// It proved wrong blocks, or let the grace of a challenge end.
    #[error("it answered wrong, or not at all until the grace was over")]
    Wrong,
    /// It does not hold what its receipts say.
    #[error("it does not hold what its receipts say")]
    NotHeld,
    /// A challenge is unanswered; its grace is not over.
    #[error("a challenge is unanswered")]
    Silent,
    /// Too many slots end without a proof.
    #[error("too many challenges are answered late or never")]
    NoAnswer,
    /// It refuses more slots than one in ten.
    #[error("it refuses too many challenges")]
    Refusing,
    /// It cannot be reached too often.
    #[error("it is offline too much")]
    Offline,
    /// It proves, or at least answers, but does not serve reads.
    #[error("it does not serve reads")]
    NotServing,
}

/// What an auditor makes of a node. The order is from worst to best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Its shards are moved elsewhere and it gets no new ones.
    Bad(Reason),
    /// It gets no new shards; what it holds stays.
    Suspect(Reason),
    /// Nothing speaks against it, but not enough for it yet.
    Vetting {
        /// Samples that it has still to prove.
        samples_missing: u64,
        /// Time that it has still to be known.
        age_missing: Duration,
    },
    /// It has done its duty.
    Good,
}

/// A challenge that was not answered, in its grace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Silence {
    challenge: ChallengeKey,
    since: Timestamp,
    asked: Timestamp,
    repeats: u8,
}

impl Silence {
    /// When the same is to be asked again.
    fn due(&self) -> Timestamp {
        self.since.after(REPEATS[usize::from(self.repeats).min(REPEATS.len() - 1)])
    }
}

/// Why an outcome cannot be one: the caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StandingError {
    /// The parts of an answer are more than the whole, or the whole is nothing or over the limit.
    #[error("{wrong} wrong and {not_held} not held of {samples} samples is no outcome of a challenge")]
    Counts {
        /// Blocks drawn.
        samples: u32,
        /// Blocks said to be wrong.
        wrong: u32,
        /// Shards said not to be held.
        not_held: u32,
    },
    /// New challenges were begun although [`SILENCES_MAX`] of this node are unanswered.
    #[error("{SILENCES_MAX} challenges of this node are unanswered: they come first")]
    TooManySilences,
}

/// What an auditor believes of one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    first_seen: Timestamp,
    last: Timestamp,
    /// When it was last reached, or found out of reach: what the next look says about the time between.
    last_contact: Timestamp,
    proven_samples: u64,
    wrong: Score,
    not_held: Score,
    no_answer: Score,
    refused: Score,
    offline: Score,
    not_served: Score,
    fall: Option<(Reason, Timestamp)>,
    silences: Vec<Silence>,
}

impl Standing {
    /// Of a node that is seen for the first time.
    #[must_use]
    pub const fn new(now: Timestamp) -> Self {
        let clean = Score::from_bad_micro(0);
        Self {
            first_seen: now,
            last: now,
            last_contact: now,
            proven_samples: 0,
            wrong: clean,
            not_held: clean,
            no_answer: clean,
            refused: clean,
            offline: clean,
            not_served: clean,
            fall: None,
            silences: Vec::new(),
        }
    }

    /// Takes in what came of an attempt. A time before the last one (a clock that was set back) counts as the last one.
    ///
    /// # Errors
    /// [`StandingError`]; nothing has changed then.
    pub fn record(&mut self, outcome: Observation, now: Timestamp) -> Result<(), StandingError> {
        let now = now.max(self.last);
        match outcome {
            Observation::Answered { challenge, samples, wrong, not_held } => {
                let parts = wrong.checked_add(not_held);
                if samples == 0 || samples > AUDIT_SAMPLES_MAX || parts.is_none_or(|parts| parts > samples) {
                    return Err(StandingError::Counts { samples, wrong, not_held });
                }
                self.contact(now, true);
                self.no_answer.observe(NO_ANSWER, 1, 0);
                self.refused.observe(REFUSED, 1, 0);
                let proven = samples - wrong - not_held;
                self.proven_samples = self.proven_samples.saturating_add(proven.into());
                self.wrong.observe(WRONG, u32::from(wrong == 0), wrong.min(WRONG_PER_AUDIT_MAX));
                self.not_held.observe(NOT_HELD, samples - not_held, not_held);
                self.end_silence(challenge);
            }
            Observation::Late { challenge } => {
                self.contact(now, true);
                self.no_answer.observe(NO_ANSWER, 0, 1);
                self.refused.observe(REFUSED, 1, 0);
                self.end_silence(challenge);
            }
            Observation::NoAnswer { challenge } => {
                self.silent(challenge, now)?;
                self.refused.observe(REFUSED, 1, 0);
            }
            Observation::Refused => {
                let mut refused = self.refused;
                refused.observe(REFUSED, 0, 1);
                if refused.is_suspect(REFUSED) {
                    self.silent(ChallengeKey::REFUSALS, now)?;
                }
                self.refused = refused;
                self.contact(now, true);
            }
            Observation::Offline => self.contact(now, false),
            Observation::Served | Observation::NotServed => {
                let bad = outcome == Observation::NotServed;
                self.contact(now, true);
                self.not_served.observe(NOT_SERVED, u32::from(!bad), u32::from(bad));
            }
        }
        self.last = now;
        self.fall = self.fall.or_else(|| {
            let fallen = [(self.wrong.is_bad(WRONG), Reason::Wrong), (self.not_held.is_bad(NOT_HELD), Reason::NotHeld)];
            fallen.into_iter().find_map(|(bad, reason)| bad.then_some((reason, now)))
        });
        Ok(())
    }

    /// The node was reached, or not: that says something about the time since the last look, up to [`OFFLINE_WINDOW`].
    fn contact(&mut self, now: Timestamp, reached: bool) {
        let between = now.since(self.last_contact).min(OFFLINE_WINDOW);
        let minutes = u32::try_from(between.as_secs() / 60).unwrap_or(u32::MAX);
        let (good, bad) = if reached { (minutes, 0) } else { (0, minutes) };
        self.offline.observe(OFFLINE, good, bad);
        // What is less than a minute is not lost to those who look often.
        if minutes > 0 {
            self.last_contact = now;
        }
    }

    fn end_silence(&mut self, challenge: ChallengeKey) {
        self.silences.retain(|silence| ![challenge, ChallengeKey::REFUSALS].contains(&silence.challenge));
    }

    /// Counts a time that was asked for nothing: the first begins a grace, the third repeat ends it.
    fn silent(&mut self, challenge: ChallengeKey, now: Timestamp) -> Result<(), StandingError> {
        match self.silences.binary_search_by_key(&challenge, |silence| silence.challenge) {
            Err(place) => {
                if self.silences.len() >= SILENCES_MAX {
                    return Err(StandingError::TooManySilences);
                }
                self.silences.insert(place, Silence { challenge, since: now, asked: now, repeats: 0 });
                self.no_answer.observe(NO_ANSWER, 0, 1);
            }
            // Asking more often than the schedule says does not shorten the grace.
            Ok(place) if now >= self.silences[place].due() => {
                let silence = &mut self.silences[place];
                silence.asked = now;
                silence.repeats += 1;
                if usize::from(silence.repeats) == REPEATS.len() {
                    self.silences.remove(place);
                    self.wrong.observe(WRONG, 0, 1);
                }
                self.no_answer.observe(NO_ANSWER, 0, 1);
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// The challenges that are to be asked again, with the times at which; no other challenge of this node is begun before. `None` stands
    /// for a new slot: it was slots that were refused.
    pub fn repeats(&self) -> impl Iterator<Item = (Option<ChallengeKey>, Timestamp)> {
        self.silences.iter().map(|silence| {
            let challenge = (silence.challenge != ChallengeKey::REFUSALS).then_some(silence.challenge);
            (challenge, silence.due())
        })
    }

    /// Since when the oldest unanswered challenge is.
    #[must_use]
    pub fn silent_since(&self) -> Option<Timestamp> {
        self.silences.iter().map(|silence| silence.since).min()
    }

    /// What to make of the node at this time.
    #[must_use]
    pub fn verdict(&self, now: Timestamp) -> Verdict {
        if let Some((reason, _)) = self.fall {
            return Verdict::Bad(reason);
        }
        let soft = [
            (self.no_answer, NO_ANSWER, Reason::NoAnswer),
            (self.not_served, NOT_SERVED, Reason::NotServing),
            (self.offline, OFFLINE, Reason::Offline),
        ];
        if let Some((.., reason)) = soft.iter().find(|(score, rule, _)| score.is_bad(*rule)) {
            return Verdict::Bad(*reason);
        }
        let hard = [(self.wrong, WRONG, Reason::Wrong), (self.not_held, NOT_HELD, Reason::NotHeld)];
        let refused = [(self.refused, REFUSED, Reason::Refusing)];
        let suspect = hard.iter().chain(&soft).chain(&refused).find(|(score, rule, _)| score.is_suspect(*rule));
        if let Some((.., reason)) = suspect {
            return Verdict::Suspect(*reason);
        }
        if !self.silences.is_empty() {
            return Verdict::Suspect(Reason::Silent);
        }
        let samples_missing = VETTING_SAMPLES.saturating_sub(self.proven_samples);
        let age_missing = VETTING_AGE.saturating_sub(now.max(self.last).since(self.first_seen));
        if samples_missing == 0 && age_missing.is_zero() {
            Verdict::Good
        } else {
            Verdict::Vetting { samples_missing, age_missing }
        }
    }

    /// The standing as placement takes it, 0 to [`STANDING_FULL`]: nothing for bad and suspect nodes; for the others the worst of the
    /// scores that forget, of [`STANDING_FULL`] or, in vetting, of [`STANDING_UNKNOWN`].
    #[must_use]
    pub fn weight_per_mille(&self, now: Timestamp) -> u16 {
        let most = match self.verdict(now) {
            Verdict::Bad(_) | Verdict::Suspect(_) => return 0,
            Verdict::Vetting { .. } => STANDING_UNKNOWN,
            Verdict::Good => STANDING_FULL,
        };
        let scores = [
            self.no_answer.per_mille(NO_ANSWER),
            self.not_served.per_mille(NOT_SERVED),
            self.offline.per_mille(OFFLINE),
        ];
        let worst = scores.into_iter().min().unwrap_or(1000);
        u16::try_from(u32::from(most) * u32::from(worst) / 1000).unwrap_or(most)
    }

    /// The scores with the rule of each, for those who print them: wrong, not held, no answer, refused, offline, not served.
    #[must_use]
    pub const fn scores(&self) -> [(&'static str, Score, ScoreRule); 6] {
        [
            ("wrong", self.wrong, WRONG),
            ("not held", self.not_held, NOT_HELD),
            ("no answer", self.no_answer, NO_ANSWER),
            ("refused", self.refused, REFUSED),
            ("offline", self.offline, OFFLINE),
            ("not served", self.not_served, NOT_SERVED),
        ]
    }

    /// Samples that it has proven, ever.
    #[must_use]
    pub const fn proven_samples(&self) -> u64 {
        self.proven_samples
    }

    /// When it fell for good, and why.
    #[must_use]
    pub const fn fall(&self) -> Option<(Reason, Timestamp)> {
        self.fall
    }

    /// When it was seen first.
    #[must_use]
    pub const fn first_seen(&self) -> Timestamp {
        self.first_seen
    }
}

#[cfg(test)]
mod tests;
