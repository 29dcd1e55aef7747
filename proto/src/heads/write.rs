//! Writing a head.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use super::calls::{CallAction, Calls};
use super::{HeadPlace, HeadPlaces, HeadPlacesError, HeadVersion};
use crate::attempt::{AttemptId, Fault};
use crate::ids::{NodeId, Timestamp};
use crate::limits::HEAD_WRITE_QUORUM;
use crate::session::Session;

/// Once the write is certain the other nodes are waited for that long since the start, at least: more copies are better.
const LINGER_MIN: Duration = Duration::from_secs(1);
/// A quorum of points with one copy each is enough after that long.
const CERTAINTY_PATIENCE: Duration = Duration::from_secs(5);

/// What can happen to a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadWriteEvent {
    /// The node keeps the head durably.
    Accepted {
        /// The attempt.
        attempt: AttemptId,
        /// The head of the same key that it kept until now, whose signature is checked, if it shows one.
        displaced: Option<HeadVersion>,
    },
    /// The node keeps another head of the same key instead, whose signature is checked.
    Kept {
        /// The attempt.
        attempt: AttemptId,
        /// The head that it keeps.
        version: HeadVersion,
    },
    /// The attempt is over without an answer that can be used.
    Failed {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        fault: Fault,
    },
}

/// What a write can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadWriteAction {
    /// Put the head at a point of a node.
    Put {
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

/// What a write came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadWriteOutcome {
    /// The head lies at a quorum of points.
    Written {
        /// Where, in the order of points.
        places: Vec<HeadPlace>,
        /// Whether it lies with most of the nodes named for a quorum of points: then no certain read that begins later
        /// misses it, and of two certain writes of one sequence one meets the other, unless nodes lie. The argument
        /// stands in [`crate::heads`]. Not certain: it is there, and fewer failures than usual hide it until nodes
        /// have put it again.
        certain: bool,
        /// Heads of the same sequence that it displaced: another writer knew nothing of this one, and may believe that
        /// the other was written.
        forks: Vec<HeadVersion>,
    },
    /// Somebody with the same key wrote a head that wins over this one: build on that one and write again.
    Superseded {
        /// The winner that was seen first.
        by: HeadVersion,
        /// Where the losing head lies all the same; nodes replace it by the winner.
        places: Vec<HeadPlace>,
    },
    /// Fewer points than the quorum could be reached. The head may be seen all the same: write the *same* head again.
    TooFewPoints {
        /// Where it lies.
        places: Vec<HeadPlace>,
        /// Points at which it lies.
        reached: usize,
        /// Points at which it was to lie.
        needed: usize,
    },
    /// This side failed. The head may be seen all the same.
    Local {
        /// Where it lies.
        places: Vec<HeadPlace>,
    },
}

/// The write of one head.
#[derive(Debug)]
pub struct HeadWriteSession {
    version: HeadVersion,
    calls: Calls,
    places: BTreeSet<HeadPlace>,
    forks: BTreeSet<HeadVersion>,
    actions: VecDeque<HeadWriteAction>,
    timeout: Option<Timestamp>,
    outcome: Option<HeadWriteOutcome>,
}

impl HeadWriteSession {
    /// Starts at `now`; the first actions are ready at once.
    ///
    /// # Errors
    /// The caller's fault: [`HeadPlacesError`].
    pub fn new(version: HeadVersion, places: HeadPlaces, now: Timestamp) -> Result<Self, HeadPlacesError> {
        let mut session = Self {
            version,
            calls: Calls::new(places, LINGER_MIN, now)?,
            places: BTreeSet::new(),
            forks: BTreeSet::new(),
            actions: VecDeque::new(),
            timeout: None,
            outcome: None,
        };
        session.advance(now);
        Ok(session)
    }

    fn ask(&mut self, actions: Vec<CallAction>) {
        self.actions.extend(actions.into_iter().map(|action| match action {
            CallAction::Start { attempt, point, node } => HeadWriteAction::Put { attempt, point, node },
            CallAction::Cancel { attempt } => HeadWriteAction::Cancel { attempt },
        }));
    }

    fn end(&mut self, outcome: HeadWriteOutcome) {
        // What became due at the very end and was never asked for needs no cancelling.
        let mut unasked = BTreeSet::new();
        self.actions.retain(|action| match action {
            HeadWriteAction::Put { attempt, .. } => {
                unasked.insert(*attempt);
                false
            }
            HeadWriteAction::Cancel { .. } => true,
        });
        let mut cancels = self.calls.cancel_all();
        cancels.retain(|action| !matches!(action, CallAction::Cancel { attempt } if unasked.contains(attempt)));
        self.ask(cancels);
        self.timeout = None;
        self.outcome = Some(outcome);
    }

    fn advance(&mut self, now: Timestamp) {
        let actions = self.calls.advance(now);
        self.ask(actions);
        let places = || self.places.iter().copied().collect();
        // The only answers that the calls count are copies.
        let (reached, needed) = (self.calls.points_answered(), HEAD_WRITE_QUORUM);
        let certain = self.calls.points_heard() >= needed;
        let end = if certain {
            Some(self.calls.linger_until())
        } else {
            (reached >= needed).then(|| self.calls.linger_at_least(CERTAINTY_PATIENCE))
        };
        let over = self.calls.exhausted() || end.is_some_and(|end| end <= now);
        if over && reached >= needed {
            self.end(HeadWriteOutcome::Written {
                places: places(),
                certain,
                forks: self.forks.iter().copied().collect(),
            });
        } else if over {
            self.end(HeadWriteOutcome::TooFewPoints { places: places(), reached, needed });
        } else {
            self.timeout = self.calls.next_timeout(end, now);
        }
    }
}

impl Session for HeadWriteSession {
    type Event = HeadWriteEvent;
    type Action = HeadWriteAction;
    type Outcome = HeadWriteOutcome;

    fn handle(&mut self, event: HeadWriteEvent, now: Timestamp) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            HeadWriteEvent::Accepted { attempt, displaced } => {
                let place = self.calls.answered(attempt, now);
                let rival = |other: &HeadVersion| other.sequence == self.version.sequence && *other != self.version;
                self.forks.extend(displaced.filter(|other| place.is_some() && rival(other)));
                self.places.extend(place);
            }
            HeadWriteEvent::Kept { attempt, version } if version > self.version => {
                if self.calls.answered(attempt, now).is_some() {
                    let places = self.places.iter().copied().collect();
                    return self.end(HeadWriteOutcome::Superseded { by: version, places });
                }
            }
            // It keeps this very head: an earlier try got through.
            HeadWriteEvent::Kept { attempt, version } if version == self.version => {
                self.places.extend(self.calls.answered(attempt, now));
            }
            // It keeps an older one and will not have ours: too far ahead of it, or no room.
            HeadWriteEvent::Kept { attempt, .. } => {
                self.calls.failed(attempt, Fault::Refused, now);
            }
            HeadWriteEvent::Failed { attempt, fault } => {
                if self.calls.failed(attempt, fault, now) && fault == Fault::Local {
                    let places = self.places.iter().copied().collect();
                    return self.end(HeadWriteOutcome::Local { places });
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

    fn poll_action(&mut self, _now: Timestamp) -> Option<HeadWriteAction> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.timeout
    }

    fn outcome(&self) -> Option<&HeadWriteOutcome> {
        self.outcome.as_ref().filter(|_| self.actions.is_empty())
    }
}
