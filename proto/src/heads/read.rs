//! Reading a head.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::calls::{CallAction, Calls};
use super::{HEAD_READ_ENOUGH, HeadPlace, HeadPlaces, HeadPlacesError, HeadVersion};
use crate::attempt::{AttemptId, Fault};
use crate::ids::{NodeId, Timestamp};
use crate::session::Session;

/// Once the read is certain the others are waited for that long since the start, at least.
const LINGER_MIN: Duration = Duration::from_millis(250);
/// A head that can be used is given after that long, certain or not, once enough points have answered by any node.
const CERTAINTY_PATIENCE: Duration = Duration::from_secs(3);

/// What can happen to a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadReadEvent {
    /// The node has the head; its signature is checked, and it opens.
    Found {
        /// The attempt.
        attempt: AttemptId,
        /// The newest that it has.
        version: HeadVersion,
    },
    /// The node has no such head.
    Nothing {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt is over without an answer that can be used.
    Failed {
        /// The attempt.
        attempt: AttemptId,
        /// Why; [`Fault::Misbehaved`] for bytes that are no such head.
        fault: Fault,
    },
}

/// What a read can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadReadAction {
    /// Get the head at a point of a node.
    Get {
        /// Names the attempt in events.
        attempt: AttemptId,
        /// The number of the point.
        point: u8,
        /// The node.
        node: NodeId,
    },
    /// Give an attempt up; it may have ended.
    Cancel {
        /// The attempt.
        attempt: AttemptId,
    },
}

/// What a read came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadReadOutcome {
    /// The newest head that anybody has.
    Found {
        /// The one that wins over all others seen.
        newest: HeadVersion,
        /// Heads of the same sequence that lost: two writers knew nothing of each other.
        forks: Vec<HeadVersion>,
        /// Where the newest lies.
        places: Vec<HeadPlace>,
        /// Places that answered with an older one or none: it can be put there again.
        stale: Vec<HeadPlace>,
        /// Whether most of the nodes named for [`HEAD_READ_ENOUGH`] points answered: then no write that was certain
        /// before this read began has been missed, unless nodes lie. The argument stands in [`crate::heads`]. Not
        /// certain: this is the newest that was shown, and a newer one may lie with those that did not answer.
        certain: bool,
    },
    /// Enough points were heard to be certain, and every head there is is older than one that this client has seen:
    /// somebody hides the newer one, or it was never written to a quorum and is lost. Never a reason to take the older.
    RolledBack {
        /// The newest that is shown; `None`: none at all.
        newest: Option<HeadVersion>,
        /// What was seen before.
        seen: HeadVersion,
    },
    /// So many points deny it, by most of the nodes named for them, that a written head would have been found: there
    /// is none.
    NotFound,
    /// Too few points answered by most of the nodes named for them to tell, and no head was shown that can be used.
    Unreachable {
        /// Points of which most nodes answered.
        answered: usize,
        /// Points that had to.
        needed: usize,
    },
    /// This side failed.
    Local,
}

/// The read of one head.
#[derive(Debug)]
pub struct HeadReadSession {
    seen: Option<HeadVersion>,
    calls: Calls,
    answers: BTreeMap<HeadPlace, Option<HeadVersion>>,
    actions: VecDeque<HeadReadAction>,
    timeout: Option<Timestamp>,
    outcome: Option<HeadReadOutcome>,
}

impl HeadReadSession {
    /// Starts at `now`; the first actions are ready at once. `seen` is the newest head that this client has ever seen.
    ///
    /// # Errors
    /// The caller's fault: [`HeadPlacesError`].
    pub fn new(seen: Option<HeadVersion>, places: HeadPlaces, now: Timestamp) -> Result<Self, HeadPlacesError> {
        let mut session = Self {
            seen,
            calls: Calls::new(places, LINGER_MIN, now)?,
            answers: BTreeMap::new(),
            actions: VecDeque::new(),
            timeout: None,
            outcome: None,
        };
        session.advance(now);
        Ok(session)
    }

    fn newest(&self) -> Option<HeadVersion> {
        self.answers.values().flatten().max().copied()
    }

    fn ask(&mut self, actions: Vec<CallAction>) {
        self.actions.extend(actions.into_iter().map(|action| match action {
            CallAction::Start { attempt, point, node } => HeadReadAction::Get { attempt, point, node },
            CallAction::Cancel { attempt } => HeadReadAction::Cancel { attempt },
        }));
    }

    fn end(&mut self, outcome: HeadReadOutcome) {
        // What became due at the very end and was never asked for needs no cancelling.
        let mut unasked = BTreeSet::new();
        self.actions.retain(|action| match action {
            HeadReadAction::Get { attempt, .. } => {
                unasked.insert(*attempt);
                false
            }
            HeadReadAction::Cancel { .. } => true,
        });
        let mut cancels = self.calls.cancel_all();
        cancels.retain(|action| !matches!(action, CallAction::Cancel { attempt } if unasked.contains(attempt)));
        self.ask(cancels);
        self.timeout = None;
        self.outcome = Some(outcome);
    }

    fn answer(&mut self, attempt: AttemptId, version: Option<HeadVersion>, now: Timestamp) {
        if let Some(place) = self.calls.answered(attempt, now) {
            self.answers.insert(place, version);
        }
    }

    /// Until when the others are waited for; `None`: as long as there are any. With a head that is not older than one
    /// seen before it is courtesy once the read is certain, and limited once enough points have said anything at all.
    /// Without one, only points that are heard out deny it.
    fn patience_ends(&self) -> Option<Timestamp> {
        let fresh = self.newest().is_some_and(|newest| self.seen.is_none_or(|seen| newest >= seen));
        let certain = if fresh { self.calls.points_heard() } else { self.calls.points_heard_out() };
        if certain >= HEAD_READ_ENOUGH {
            Some(self.calls.linger_until())
        } else if fresh && self.calls.points_answered() >= HEAD_READ_ENOUGH {
            Some(self.calls.linger_at_least(CERTAINTY_PATIENCE))
        } else {
            None
        }
    }

    fn advance(&mut self, now: Timestamp) {
        let actions = self.calls.advance(now);
        self.ask(actions);
        let end = self.patience_ends();
        if self.calls.exhausted() || end.is_some_and(|end| end <= now) {
            let outcome = self.conclusion();
            self.end(outcome);
        } else {
            self.timeout = self.calls.next_timeout(end, now);
        }
    }

    fn conclusion(&self) -> HeadReadOutcome {
        let (answered, needed) = (self.calls.points_heard(), HEAD_READ_ENOUGH);
        let denied = self.calls.points_heard_out() >= needed;
        let newest = self.newest();
        match (newest, self.seen) {
            (None, None) if denied => HeadReadOutcome::NotFound,
            (newest, Some(seen)) if newest.is_none_or(|newest| newest < seen) && denied => {
                HeadReadOutcome::RolledBack { newest, seen }
            }
            (Some(newest), seen) if seen.is_none_or(|seen| newest >= seen) => {
                let rivals = self.answers.values().flatten().filter(|version| version.sequence == newest.sequence);
                let mut forks: Vec<_> = rivals.filter(|version| **version != newest).copied().collect();
                forks.sort_unstable();
                forks.dedup();
                let (places, stale): (BTreeSet<_>, BTreeSet<_>) =
                    self.answers.keys().partition(|place| self.answers[place] == Some(newest));
                HeadReadOutcome::Found {
                    newest,
                    forks,
                    places: places.into_iter().collect(),
                    stale: stale.into_iter().collect(),
                    certain: answered >= needed,
                }
            }
            (None | Some(_), _) => HeadReadOutcome::Unreachable { answered, needed },
        }
    }
}

impl Session for HeadReadSession {
    type Event = HeadReadEvent;
    type Action = HeadReadAction;
    type Outcome = HeadReadOutcome;

    fn handle(&mut self, event: HeadReadEvent, now: Timestamp) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            HeadReadEvent::Found { attempt, version } => self.answer(attempt, Some(version), now),
            HeadReadEvent::Nothing { attempt } => self.answer(attempt, None, now),
            HeadReadEvent::Failed { attempt, fault: Fault::NotHeld } => self.answer(attempt, None, now),
            HeadReadEvent::Failed { attempt, fault } => {
                if self.calls.failed(attempt, fault, now) && fault == Fault::Local {
                    return self.end(HeadReadOutcome::Local);
                }
            }
        }
        self.advance(now);
    }

    fn wake(&mut self, now: Timestamp) {
        if self.outcome.is_none() && self.timeout.is_some_and(|timeout| timeout <= now) {
            self.advance(now);
        }
    }

    fn poll_action(&mut self, _now: Timestamp) -> Option<HeadReadAction> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.timeout
    }

    fn outcome(&self) -> Option<&HeadReadOutcome> {
        self.outcome.as_ref().filter(|_| self.actions.is_empty())
    }
}
