//! The calls of one head session: three nodes a point at once, retries, stand-ins, stalls.
//!
//! Decides whom to call and when, and which points have had enough answers. Never what an answer means.

use core::time::Duration;
use std::collections::BTreeSet;

use super::{HeadPlace, HeadPlaces, HeadPlacesError};
use crate::attempt::{AttemptId, Fault, TransferClock, median};
use crate::ids::{NodeId, Timestamp};
use crate::limits::{HEAD_NAMED_PER_POINT, HEAD_NODES_PER_POINT, HEAD_POINTS};

/// Nobody is waited for longer than this many times the median answer once enough have answered, nor before a stand-in
/// is called as well.
const PATIENCE_MEDIANS: u32 = 3;

#[derive(Debug)]
struct Waiting {
    node: NodeId,
    tries: u8,
    not_before: Timestamp,
}

#[derive(Debug)]
struct Call {
    id: AttemptId,
    node: NodeId,
    tries: u8,
    clock: TransferClock,
}

#[derive(Debug, Default)]
struct PointCalls {
    /// Not asked at present, nearest first.
    waiting: Vec<Waiting>,
    live: Vec<Call>,
    answered: usize,
    /// So many are most of the nodes named for this point; one where none is.
    majority: usize,
}

impl PointCalls {
    /// Whether there is nobody more to hear: as many have answered as are to hold a head, or no others are left.
    fn exhausted(&self) -> bool {
        self.answered >= HEAD_NODES_PER_POINT || (self.live.is_empty() && self.waiting.is_empty())
    }

    fn heard(&self) -> bool {
        self.answered >= self.majority
    }

    /// Whether another node is to be called: as long as fewer have answered, or may do so soon, than are to hold a head.
    fn wants_call(&self, patience: Duration, now: Timestamp) -> bool {
        let hopeful = self.live.iter().filter(|call| call.clock.started().after(patience) > now).count();
        hopeful + self.answered < HEAD_NODES_PER_POINT
    }
}

/// What [`Calls::advance`] wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CallAction {
    Start { attempt: AttemptId, point: u8, node: NodeId },
    Cancel { attempt: AttemptId },
}

/// All calls of one session. A node is called at most three times a point and every call ends, so the calls end.
#[derive(Debug)]
pub(super) struct Calls {
    points: Vec<PointCalls>,
    started: Timestamp,
    patience_min: Duration,
    durations: Vec<Duration>,
    next_attempt: u64,
}

impl Calls {
    /// `patience_min`: once enough have answered the others are waited for that long since the start, at least, and a
    /// node that takes longer gets a stand-in.
    pub(super) fn new(places: HeadPlaces, patience_min: Duration, now: Timestamp) -> Result<Self, HeadPlacesError> {
        let HeadPlaces(points) = places;
        if points.len() != HEAD_POINTS {
            return Err(HeadPlacesError(points.len()));
        }
        let points = points.into_iter().map(|nodes| {
            let mut known = BTreeSet::new();
            let fresh = nodes.into_iter().filter(|node| known.insert(*node)).take(HEAD_NAMED_PER_POINT);
            let waiting: Vec<_> = fresh.map(|node| Waiting { node, tries: 0, not_before: now }).collect();
            let majority = waiting.len() / 2 + 1;
            PointCalls { waiting, majority, ..PointCalls::default() }
        });
        Ok(Self { points: points.collect(), started: now, patience_min, durations: Vec::new(), next_attempt: 0 })
    }

    /// The call has been answered; gives its place, unless it ended before.
    pub(super) fn answered(&mut self, id: AttemptId, now: Timestamp) -> Option<HeadPlace> {
        let (point, call) = self.take(id)?;
        self.points[usize::from(point)].answered += 1;
        self.durations.push(now.since(call.clock.started()));
        Some((point, call.node))
    }

    /// The call has failed; the node is tried again later where that may help. Tells whether it had not ended before.
    pub(super) fn failed(&mut self, id: AttemptId, fault: Fault, now: Timestamp) -> bool {
        let taken = self.take(id);
        if let Some((point, call)) = &taken {
            self.put_back(*point, call, fault, now);
        }
        taken.is_some()
    }

    fn put_back(&mut self, point: u8, call: &Call, fault: Fault, now: Timestamp) {
        if let Some(wait) = fault.retry_after(call.tries) {
            let waiting = Waiting { node: call.node, tries: call.tries, not_before: now.after(wait) };
            self.points[usize::from(point)].waiting.push(waiting);
        }
    }

    fn take(&mut self, id: AttemptId) -> Option<(u8, Call)> {
        (0u8..).zip(&mut self.points).find_map(|(point, calls)| {
            let place = calls.live.iter().position(|call| call.id == id)?;
            Some((point, calls.live.remove(place)))
        })
    }

    /// Gives up what has stalled and starts what may be started.
    pub(super) fn advance(&mut self, now: Timestamp) -> Vec<CallAction> {
        let mut actions = Vec::new();
        let patience = self.patience();
        for point in 0..self.points.len() {
            let number = u8::try_from(point).expect("there are eight points");
            let stalled = self.points[point].live.extract_if(.., |call| call.clock.deadline() <= now);
            for call in stalled.collect::<Vec<_>>() {
                actions.push(CallAction::Cancel { attempt: call.id });
                self.put_back(number, &call, Fault::Unreachable, now);
            }
            let calls = &mut self.points[point];
            while calls.wants_call(patience, now) {
                let Some(place) = calls.waiting.iter().position(|waiting| waiting.not_before <= now) else { break };
                let Waiting { node, tries, .. } = calls.waiting.remove(place);
                let attempt = AttemptId(self.next_attempt);
                self.next_attempt += 1;
                calls.live.push(Call { id: attempt, node, tries: tries + 1, clock: TransferClock::start(now) });
                actions.push(CallAction::Start { attempt, point: number, node });
            }
        }
        actions
    }

    /// Gives up everything.
    pub(super) fn cancel_all(&mut self) -> Vec<CallAction> {
        let calls = self.points.iter_mut().flat_map(|point| {
            point.waiting.clear();
            point.live.drain(..)
        });
        calls.map(|call| CallAction::Cancel { attempt: call.id }).collect()
    }

    /// Whether there is nobody more to hear at any point.
    pub(super) fn exhausted(&self) -> bool {
        self.points.iter().all(PointCalls::exhausted)
    }

    /// Points of which at least one node has answered.
    pub(super) fn points_answered(&self) -> usize {
        self.points.iter().filter(|point| point.answered > 0).count()
    }

    /// Points of which most of the named nodes have answered.
    pub(super) fn points_heard(&self) -> usize {
        self.points.iter().filter(|point| point.heard()).count()
    }

    /// Points of which most of the named nodes have answered, and there is nobody more to hear.
    pub(super) fn points_heard_out(&self) -> usize {
        self.points.iter().filter(|point| point.heard() && point.exhausted()).count()
    }

    fn patience(&self) -> Duration {
        (median(&self.durations).unwrap_or_default() * PATIENCE_MEDIANS).max(self.patience_min)
    }

    /// Until when those that have not answered are waited for as a courtesy.
    pub(super) fn linger_until(&self) -> Timestamp {
        self.started.after(self.patience())
    }

    /// The same, but at least `patience` since the start: for what is worth more than courtesy.
    pub(super) fn linger_at_least(&self, patience: Duration) -> Timestamp {
        self.linger_until().max(self.started.after(patience))
    }

    /// The next time after `now` at which time alone changes something; at `end` the session does.
    pub(super) fn next_timeout(&self, end: Option<Timestamp>, now: Timestamp) -> Option<Timestamp> {
        let patience = self.patience();
        let stalls = self.points.iter().flat_map(|point| &point.live).map(|call| call.clock.deadline());
        let wanting = self.points.iter().filter(|point| !point.exhausted() && !point.waiting.is_empty());
        let calls = wanting.flat_map(|point| {
            let slow = point.live.iter().map(move |call| call.clock.started().after(patience));
            slow.chain(point.waiting.iter().map(|waiting| waiting.not_before))
        });
        stalls.chain(calls).chain(end).filter(|time| *time > now).min()
    }
}
