//! The upload of one segment: which shard goes to which node, what happens when one fails or dawdles, when it is over.
//!
//! Decides retries, replacements and races, and whether an upload is full, degraded or failed. Never touches bytes,
//! chooses candidates (see [`crate::placement`]) or checks receipts: an executor does, and reports here.

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use crate::attempt::{AttemptId, Fault, TransferClock, median};
use crate::ids::{NodeId, ShardIndex, Timestamp};
use crate::limits::PROGRESS_DEADLINE;
use crate::policy::Policy;
use crate::session::Session;

/// A shard that takes this many times the median of the finished ones is raced on a spare node.
const STRAGGLER_MEDIANS: u32 = 2;
/// No shard is raced before this.
const STRAGGLER_MIN: Duration = Duration::from_secs(2);
/// A shard that takes this many times the median, without a spare to race it, is left out if enough others are held.
const PATIENCE_MEDIANS: u32 = 10;
/// No shard is left out before this.
const PATIENCE_MIN: Duration = Duration::from_secs(60);

/// What an upload starts from.
#[derive(Debug, Clone)]
pub struct UploadPlan {
    /// The segment's code.
    pub policy: Policy,
    /// The node of each shard, in the order of the shards; shards beyond its end take spares.
    pub assigned: Vec<NodeId>,
    /// Nodes that may take the place of any that fail, best first.
    pub spares: Vec<NodeId>,
    /// Shards that are already held durably, with their nodes: an upload resumed.
    pub acknowledged: Vec<(ShardIndex, NodeId)>,
}

/// What can happen to an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadEvent {
    /// The attempt waits for its turn on this side; its time does not count until it begins.
    Waits {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt that waited begins.
    Begins {
        /// The attempt.
        attempt: AttemptId,
    },
    /// So many bytes of the shard have been sent in all.
    Progress {
        /// The attempt.
        attempt: AttemptId,
        /// Bytes since the attempt began.
        bytes: u64,
    },
    /// The node holds the shard durably; its receipt is checked.
    Acknowledged {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt is over without a receipt.
    Failed {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        fault: Fault,
    },
    /// More nodes that may be used, best first; those known already are ignored.
    MoreCandidates {
        /// The nodes.
        nodes: Vec<NodeId>,
    },
}

/// What an upload can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UploadAction {
    /// Send a shard to a node.
    Put {
        /// Names the attempt in events.
        attempt: AttemptId,
        /// The shard.
        shard: ShardIndex,
        /// The node.
        node: NodeId,
    },
    /// Give an attempt up; it may have ended.
    Cancel {
        /// The attempt.
        attempt: AttemptId,
    },
}

/// What an upload came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadOutcome {
    /// Every shard is held durably, each by another node.
    Full {
        /// The node of each shard, in the order of the shards.
        placed: Vec<NodeId>,
    },
    /// At least [`Policy::degraded_floor`] shards are held durably, not all.
    Degraded {
        /// What is held where, in the order of the shards.
        placed: Vec<(ShardIndex, NodeId)>,
        /// Shards that are not.
        missing: Vec<ShardIndex>,
    },
    /// Too few shards are held; what is held can be used by a later try.
    Failed {
        /// What is held where, in the order of the shards.
        placed: Vec<(ShardIndex, NodeId)>,
        /// Shards that had to be held.
        needed: usize,
        /// Why.
        why: UploadFailure,
    },
}

/// Why an upload failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UploadFailure {
    /// Too few nodes would hold a shard: how often each fault was met.
    #[error(
        "no more nodes to try: {unreachable} tries found nobody, {busy} a busy node, {refused} were refused, \
         {misbehaved} met a node that broke the protocol"
    )]
    OutOfNodes {
        /// Tries that ended as [`Fault::Unreachable`], stalled ones included.
        unreachable: u32,
        /// Tries that ended as [`Fault::Busy`].
        busy: u32,
        /// Tries that ended as [`Fault::Refused`] or [`Fault::NotHeld`].
        refused: u32,
        /// Tries that ended as [`Fault::Misbehaved`].
        misbehaved: u32,
    },
    /// This side failed.
    #[error("this side could not provide the shards")]
    Local,
}

/// Why an upload cannot start: the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UploadPlanError {
    /// More nodes are assigned than there are shards.
    #[error("more nodes are assigned than there are shards")]
    TooManyAssigned,
    /// A shard is named that the policy does not have, or one twice, or two on one node.
    #[error("shard {0} cannot have been acknowledged as the plan says")]
    Acknowledged(ShardIndex),
}

/// A node that may be tried.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    node: NodeId,
    /// Tries so far.
    tries: u8,
    not_before: Timestamp,
}

#[derive(Debug)]
struct Attempt {
    id: AttemptId,
    node: NodeId,
    /// This one included.
    tries: u8,
    clock: TransferClock,
}

#[derive(Debug, Default)]
struct Shard {
    held_by: Option<NodeId>,
    /// At most two: the first and one that races it.
    attempts: Vec<Attempt>,
}

/// The upload of one segment.
///
/// At most two attempts a shard run at once, one a node; a node is tried at most three times. So many nodes, so many
/// tries, and each of them ends: with an event, when it stalls, or when it is slow and a spare was faster.
#[derive(Debug)]
pub struct UploadSession {
    policy: Policy,
    shards: Vec<Shard>,
    /// Nodes that are neither tried at present nor hold a shard, best first.
    pool: Vec<Waiting>,
    /// Every node that was ever named, so that none is tried afresh.
    known: BTreeSet<NodeId>,
    /// How long the shards took that were acknowledged in this session.
    finished: Vec<Duration>,
    faults: [u32; 4],
    next_attempt: u64,
    actions: VecDeque<UploadAction>,
    timeout: Option<Timestamp>,
    outcome: Option<UploadOutcome>,
}

impl UploadSession {
    /// Starts at `now`; the first actions are ready at once.
    ///
    /// # Errors
    /// The caller's fault: [`UploadPlanError`].
    pub fn new(plan: UploadPlan, now: Timestamp) -> Result<Self, UploadPlanError> {
        let shards = usize::from(plan.policy.n());
        if plan.assigned.len() > shards {
            return Err(UploadPlanError::TooManyAssigned);
        }
        let mut session = Self {
            policy: plan.policy,
            shards: (0..shards).map(|_| Shard::default()).collect(),
            pool: Vec::new(),
            known: BTreeSet::new(),
            finished: Vec::new(),
            faults: [0; 4],
            next_attempt: 0,
            actions: VecDeque::new(),
            timeout: None,
            outcome: None,
        };
        for (shard, node) in plan.acknowledged {
            let place = session.shards.get_mut(shard.get()).ok_or(UploadPlanError::Acknowledged(shard))?;
            if place.held_by.replace(node).is_some() || !session.known.insert(node) {
                return Err(UploadPlanError::Acknowledged(shard));
            }
        }
        for (index, node) in plan.assigned.into_iter().enumerate() {
            if session.known.insert(node) {
                let waiting = Waiting { node, tries: 0, not_before: now };
                if session.shards[index].held_by.is_some() {
                    session.pool.push(waiting);
                } else {
                    session.start(index, waiting, now);
                }
            }
        }
        session.add_candidates(plan.spares, now);
        session.advance(now);
        Ok(session)
    }

    /// Shards that wait for a node to be tried on: above zero, [`UploadEvent::MoreCandidates`] would help.
    #[must_use]
    pub fn starved(&self) -> usize {
        self.shards.iter().filter(|shard| shard.held_by.is_none() && shard.attempts.is_empty()).count()
    }

    /// What is held durably so far, in the order of the shards.
    #[must_use]
    pub fn placed(&self) -> Vec<(ShardIndex, NodeId)> {
        self.indices().zip(&self.shards).filter_map(|(index, shard)| Some((index, shard.held_by?))).collect()
    }

    fn indices(&self) -> impl Iterator<Item = ShardIndex> + use<> {
        (0..self.policy.n()).map(ShardIndex::new)
    }

    fn add_candidates(&mut self, nodes: Vec<NodeId>, now: Timestamp) {
        for node in nodes {
            if self.known.insert(node) {
                self.pool.push(Waiting { node, tries: 0, not_before: now });
            }
        }
    }

    fn start(&mut self, index: usize, waiting: Waiting, now: Timestamp) {
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let shard = ShardIndex::new(u8::try_from(index).expect("a policy has at most 64 shards"));
        let Waiting { node, tries, .. } = waiting;
        self.shards[index].attempts.push(Attempt {
            id: attempt,
            node,
            tries: tries + 1,
            clock: TransferClock::start(now),
        });
        self.actions.push_back(UploadAction::Put { attempt, shard, node });
    }

    /// Takes the attempt out, if it has not ended before.
    fn take(&mut self, id: AttemptId) -> Option<(usize, Attempt)> {
        self.shards.iter_mut().enumerate().find_map(|(index, shard)| {
            let place = shard.attempts.iter().position(|attempt| attempt.id == id)?;
            Some((index, shard.attempts.remove(place)))
        })
    }

    fn acknowledged(&mut self, id: AttemptId, now: Timestamp) {
        let Some((index, attempt)) = self.take(id) else { return };
        self.finished.push(now.since(attempt.clock.started()));
        self.shards[index].held_by = Some(attempt.node);
        for loser in core::mem::take(&mut self.shards[index].attempts) {
            self.actions.push_back(UploadAction::Cancel { attempt: loser.id });
            // It did no wrong and may serve another shard, after all fresh ones. Should it hold this one by now,
            // nobody renews that lease.
            self.pool.push(Waiting { node: loser.node, tries: loser.tries, not_before: now });
        }
    }

    fn failed(&mut self, attempt: &Attempt, fault: Fault, now: Timestamp) {
        let count = match fault {
            Fault::Unreachable => 0,
            Fault::Busy { .. } => 1,
            Fault::Refused | Fault::NotHeld | Fault::Local => 2,
            Fault::Misbehaved => 3,
        };
        self.faults[count] += 1;
        if let Some(wait) = fault.retry_after(attempt.tries) {
            self.pool.push(Waiting { node: attempt.node, tries: attempt.tries, not_before: now.after(wait) });
        }
    }

    /// The best node that may be tried now: fresh ones in their order, then those tried least.
    fn pick(&mut self, now: Timestamp, fresh_only: bool) -> Option<Waiting> {
        let ready = |waiting: &&Waiting| waiting.not_before <= now && !(fresh_only && waiting.tries > 0);
        let tries = self.pool.iter().filter(ready).map(|waiting| waiting.tries).min()?;
        let place = self.pool.iter().position(|waiting| waiting.tries == tries && ready(&waiting))?;
        Some(self.pool.remove(place))
    }

    /// Median time of the finished shards, once half of all are held.
    fn usual(&self) -> Option<Duration> {
        let held = self.shards.iter().filter(|shard| shard.held_by.is_some()).count();
        (held * 2 >= self.shards.len()).then(|| median(&self.finished).unwrap_or(PROGRESS_DEADLINE))
    }

    /// Does all that is due at `now`, sees whether it is over, and computes when to wake.
    fn advance(&mut self, now: Timestamp) {
        if self.outcome.is_some() {
            return;
        }
        // Feeding comes after whatever takes attempts away: a shard left without one while a node is ready would
        // wait for an event that may never come.
        self.give_up_stalled(now);
        self.leave_out_stragglers(now);
        self.feed_starved(now);
        self.race_stragglers(now);
        self.conclude();
        self.timeout = self.next_timeout(now);
    }

    fn give_up_stalled(&mut self, now: Timestamp) {
        for index in 0..self.shards.len() {
            let stalled = self.shards[index].attempts.extract_if(.., |attempt| attempt.clock.deadline() <= now);
            for attempt in stalled.collect::<Vec<_>>() {
                self.actions.push_back(UploadAction::Cancel { attempt: attempt.id });
                self.failed(&attempt, Fault::Unreachable, now);
            }
        }
    }

    fn feed_starved(&mut self, now: Timestamp) {
        for index in 0..self.shards.len() {
            if self.shards[index].held_by.is_none() && self.shards[index].attempts.is_empty() {
                let Some(waiting) = self.pick(now, false) else { return };
                self.start(index, waiting, now);
            }
        }
    }

    fn race_stragglers(&mut self, now: Timestamp) {
        let Some(slow_after) = self.usual().map(|usual| (usual * STRAGGLER_MEDIANS).max(STRAGGLER_MIN)) else { return };
        for index in 0..self.shards.len() {
            if let [only] = self.shards[index].attempts.as_slice()
                && only.clock.after(slow_after) <= now
            {
                let Some(spare) = self.pick(now, true) else { return };
                self.start(index, spare, now);
            }
        }
    }

    /// Slow shards do not hold up an upload for ever when nothing can replace them and enough others are held.
    fn leave_out_stragglers(&mut self, now: Timestamp) {
        let Some(patience) = self.patience() else { return };
        for index in 0..self.shards.len() {
            let slow = |attempt: &Attempt| attempt.clock.after(patience) <= now;
            if self.shards[index].attempts.iter().all(slow) {
                for attempt in core::mem::take(&mut self.shards[index].attempts) {
                    self.actions.push_back(UploadAction::Cancel { attempt: attempt.id });
                    self.faults[0] += 1;
                }
            }
        }
    }

    /// How long to wait for the slowest; `None` while too few shards are held to do without them.
    fn patience(&self) -> Option<Duration> {
        let held = self.shards.iter().filter(|shard| shard.held_by.is_some()).count();
        let enough = held >= usize::from(self.policy.degraded_floor());
        self.usual().filter(|_| enough).map(|usual| (usual * PATIENCE_MEDIANS).max(PATIENCE_MIN))
    }

    fn conclude(&mut self) {
        let placed = self.placed();
        if placed.len() == self.shards.len() {
            self.outcome = Some(UploadOutcome::Full { placed: placed.into_iter().map(|(_, node)| node).collect() });
            return;
        }
        let trying = self.shards.iter().any(|shard| !shard.attempts.is_empty());
        if trying || !self.pool.is_empty() {
            return;
        }
        let needed = usize::from(self.policy.degraded_floor());
        let [unreachable, busy, refused, misbehaved] = self.faults;
        self.outcome = Some(if placed.len() >= needed {
            let missing = self.indices().filter(|index| self.shards[index.get()].held_by.is_none()).collect();
            UploadOutcome::Degraded { placed, missing }
        } else {
            let why = UploadFailure::OutOfNodes { unreachable, busy, refused, misbehaved };
            UploadOutcome::Failed { placed, needed, why }
        });
    }

    fn fail_locally(&mut self) {
        let attempts: Vec<_> = self.shards.iter_mut().flat_map(|shard| shard.attempts.drain(..)).collect();
        self.actions.retain(|action| matches!(action, UploadAction::Cancel { .. }));
        self.actions.extend(attempts.iter().map(|attempt| UploadAction::Cancel { attempt: attempt.id }));
        let needed = usize::from(self.policy.degraded_floor());
        self.outcome = Some(UploadOutcome::Failed { placed: self.placed(), needed, why: UploadFailure::Local });
    }

    /// The next time at which time alone changes something. What is due already waits for an event instead.
    fn next_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        if self.outcome.is_some() {
            return None;
        }
        let attempts = || self.shards.iter().flat_map(|shard| &shard.attempts);
        let stalls = attempts().map(|attempt| attempt.clock.deadline());
        let slow_after = self.usual().map(|usual| (usual * STRAGGLER_MEDIANS).max(STRAGGLER_MIN));
        let slow = [slow_after, self.patience()].into_iter().flatten();
        let slow = slow.flat_map(|after| attempts().map(move |attempt| attempt.clock.after(after)));
        let retries = self.pool.iter().map(|waiting| waiting.not_before);
        stalls.chain(slow).chain(retries).filter(|time| *time > now).min()
    }
}

impl Session for UploadSession {
    type Event = UploadEvent;
    type Action = UploadAction;
    type Outcome = UploadOutcome;

    fn handle(&mut self, event: UploadEvent, now: Timestamp) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            UploadEvent::Waits { attempt } => {
                let mut attempts = self.shards.iter_mut().flat_map(|shard| &mut shard.attempts);
                if let Some(attempt) = attempts.find(|known| known.id == attempt) {
                    attempt.clock.wait();
                }
            }
            UploadEvent::Begins { attempt } => {
                let mut attempts = self.shards.iter_mut().flat_map(|shard| &mut shard.attempts);
                if let Some(attempt) = attempts.find(|known| known.id == attempt) {
                    attempt.clock = TransferClock::start(now);
                }
            }
            UploadEvent::Progress { attempt, bytes } => {
                let attempts = self.shards.iter_mut().flat_map(|shard| &mut shard.attempts);
                if let Some(attempt) = attempts.into_iter().find(|known| known.id == attempt) {
                    attempt.clock.progress(bytes, now);
                }
                // Progress only moves deadlines away, and there is much of it.
                return self.wake(now);
            }
            UploadEvent::Acknowledged { attempt } => self.acknowledged(attempt, now),
            UploadEvent::Failed { attempt, fault } => {
                if let Some((_, attempt)) = self.take(attempt) {
                    self.failed(&attempt, fault, now);
                    if fault == Fault::Local {
                        self.fail_locally();
                    }
                }
            }
            UploadEvent::MoreCandidates { nodes } => self.add_candidates(nodes, now),
        }
        self.advance(now);
    }

    fn wake(&mut self, now: Timestamp) {
        if self.timeout.is_some_and(|timeout| timeout <= now) {
            self.advance(now);
        }
    }

    fn poll_action(&mut self, _now: Timestamp) -> Option<UploadAction> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.timeout
    }

    fn outcome(&self) -> Option<&UploadOutcome> {
        self.outcome.as_ref().filter(|_| self.actions.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::virtual_driver::{Chance, LiveAttempts, run};

    const START: Timestamp = Timestamp::from_unix_ms(1_000_000);

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    fn plan(policy: &str, spares: u8) -> UploadPlan {
        let policy: Policy = policy.parse().expect("a policy of the test");
        UploadPlan {
            policy,
            assigned: (0..policy.n()).map(node).collect(),
            spares: (policy.n()..policy.n() + spares).map(node).collect(),
            acknowledged: Vec::new(),
        }
    }

    /// Runs an upload in which `answer` says what a try at a node comes to; checks what holds for every upload.
    fn upload(
        plan: UploadPlan,
        mut answer: impl FnMut(ShardIndex, NodeId, AttemptId) -> Vec<(Duration, UploadEvent)>,
    ) -> (UploadOutcome, Duration, Vec<UploadAction>) {
        let policy = plan.policy;
        let session = UploadSession::new(plan, START).expect("a plan of the test");
        let mut log = Vec::new();
        let mut live = LiveAttempts::default();
        let (outcome, took) = run(session, START, |action, now| {
            log.push(action);
            match action {
                UploadAction::Put { attempt, shard, node } => {
                    let events = answer(shard, node, attempt);
                    let last = events.iter().filter(|(_, event)| {
                        !matches!(event, UploadEvent::Progress { .. } | UploadEvent::MoreCandidates { .. })
                    });
                    live.start(attempt, shard, node, now, last.map(|(delay, _)| now.after(*delay)).min());
                    events
                }
                UploadAction::Cancel { attempt } => {
                    live.cancel(attempt, now);
                    Vec::new()
                }
            }
        });
        let held: Vec<NodeId> = match &outcome {
            UploadOutcome::Full { placed } => {
                assert_eq!(placed.len(), usize::from(policy.n()));
                placed.clone()
            }
            UploadOutcome::Degraded { placed, missing } => {
                assert!(placed.len() >= usize::from(policy.degraded_floor()));
                assert_eq!(placed.len() + missing.len(), usize::from(policy.n()));
                placed.iter().map(|(_, node)| *node).collect()
            }
            UploadOutcome::Failed { placed, needed, .. } => {
                assert_eq!(*needed, usize::from(policy.degraded_floor()));
                placed.iter().map(|(_, node)| *node).collect()
            }
        };
        assert_eq!(held.iter().collect::<BTreeSet<_>>().len(), held.len(), "two shards on one node");
        (outcome, took, log)
    }

    fn ack(attempt: AttemptId, milliseconds: u64) -> (Duration, UploadEvent) {
        (Duration::from_millis(milliseconds), UploadEvent::Acknowledged { attempt })
    }

    fn fail(attempt: AttemptId, milliseconds: u64, fault: Fault) -> (Duration, UploadEvent) {
        (Duration::from_millis(milliseconds), UploadEvent::Failed { attempt, fault })
    }

    #[test]
    fn every_node_does_its_duty() {
        let (outcome, took, log) = upload(plan("7/16", 4), |_, _, attempt| vec![ack(attempt, 300)]);
        assert_eq!(outcome, UploadOutcome::Full { placed: (0..16).map(node).collect() });
        assert_eq!((took, log.len()), (Duration::from_millis(300), 16));
    }

    #[test]
    fn a_node_that_fails_is_replaced_by_the_best_spare() {
        for fault in [Fault::Unreachable, Fault::Refused, Fault::Misbehaved, Fault::Busy { retry_after: None }] {
            let (outcome, _, _) = upload(plan("2/4", 2), |_, at, attempt| {
                if at == node(1) { vec![fail(attempt, 5, fault)] } else { vec![ack(attempt, 300)] }
            });
            assert_eq!(outcome, UploadOutcome::Full { placed: vec![node(0), node(4), node(2), node(3)] }, "{fault:?}");
        }
    }

    #[test]
    fn a_busy_node_is_asked_again_when_it_says_if_there_is_no_other() {
        let mut tries = 0;
        let (outcome, took, _) = upload(plan("1/2", 0), |_, at, attempt| {
            if at == node(0) {
                tries += 1;
            }
            if at == node(0) && tries < 3 {
                return vec![fail(attempt, 0, Fault::Busy { retry_after: Some(Duration::from_secs(7)) })];
            }
            vec![ack(attempt, 0)]
        });
        assert_eq!(outcome, UploadOutcome::Full { placed: vec![node(0), node(1)] });
        assert_eq!((tries, took), (3, Duration::from_secs(14)));
    }

    #[test]
    fn a_straggler_is_raced_and_the_loser_is_cancelled() {
        let (outcome, took, log) =
            upload(plan("2/4", 1), |_, at, attempt| vec![ack(attempt, if at == node(2) { 25_000 } else { 1_500 })]);
        assert_eq!(outcome, UploadOutcome::Full { placed: vec![node(0), node(1), node(4), node(3)] });
        assert_eq!(took, Duration::from_millis(3_000 + 1_500), "raced at twice the median");
        assert_eq!(log.last(), Some(&UploadAction::Cancel { attempt: AttemptId(2) }));
    }

    #[test]
    fn nothing_is_raced_before_half_of_the_shards_are_held() {
        let (outcome, took, log) = upload(plan("2/4", 3), |_, at, attempt| {
            vec![ack(attempt, if at == node(0) { 100 } else { 19_000 + u64::from(at.as_bytes()[0]) })]
        });
        assert!(matches!(outcome, UploadOutcome::Full { .. }));
        assert_eq!((took, log.len()), (Duration::from_millis(19_003), 4));
    }

    #[test]
    fn a_node_without_progress_is_given_up_and_one_with_progress_is_not() {
        let (outcome, took, _) = upload(plan("1/2", 1), |_, at, attempt| {
            let steps = (1..100).map(|step| {
                let event = UploadEvent::Progress { attempt, bytes: step * 100_000 };
                (Duration::from_secs(20 * step), event)
            });
            if at == node(0) { Vec::new() } else { steps.chain([ack(attempt, 2_000_000)]).collect() }
        });
        assert_eq!(outcome, UploadOutcome::Full { placed: vec![node(2), node(1)] });
        assert_eq!(took, Duration::from_secs(2_030), "given up after 30 s without a byte; the spare took its time");
    }

    #[test]
    fn a_slow_node_that_nobody_can_replace_does_not_hold_up_the_rest_for_ever() {
        let (outcome, took, _) = upload(plan("2/4", 0), |_, at, attempt| {
            let steps = (1..10_000).map(|step| {
                let event = UploadEvent::Progress { attempt, bytes: step * 1000 };
                (Duration::from_secs(step), event)
            });
            if at == node(3) { steps.collect() } else { vec![ack(attempt, 500)] }
        });
        let placed = (0..3u8).map(|index| (ShardIndex::new(index), node(index))).collect();
        assert_eq!(outcome, UploadOutcome::Degraded { placed, missing: vec![ShardIndex::new(3)] });
        assert_eq!(took, PATIENCE_MIN);
    }

    #[test]
    fn too_few_nodes_fail_and_say_why_and_keep_what_is_held() {
        let (outcome, took, _) = upload(plan("2/4", 1), |_, at, attempt| {
            if at <= node(1) { vec![ack(attempt, 5)] } else { vec![fail(attempt, 5, Fault::Unreachable)] }
        });
        let why = UploadFailure::OutOfNodes { unreachable: 9, busy: 0, refused: 0, misbehaved: 0 };
        let placed = vec![(ShardIndex::new(0), node(0)), (ShardIndex::new(1), node(1))];
        assert_eq!(outcome, UploadOutcome::Failed { placed, needed: 3, why });
        assert_eq!(took, Duration::from_millis(4 * 5 + 1000 + 2000));
    }

    #[test]
    fn a_fault_of_this_side_ends_the_upload_at_once() {
        let (outcome, _, log) = upload(plan("2/4", 4), |shard, _, attempt| match shard.get() {
            1 => vec![fail(attempt, 5, Fault::Local)],
            _ => vec![ack(attempt, 500)],
        });
        assert!(matches!(outcome, UploadOutcome::Failed { why: UploadFailure::Local, .. }));
        assert_eq!(log.iter().filter(|action| matches!(action, UploadAction::Cancel { .. })).count(), 3);
    }

    #[test]
    fn what_was_acknowledged_before_is_not_sent_again_and_its_node_gets_nothing_else() {
        let mut resumed = plan("2/4", 1);
        resumed.acknowledged = vec![(ShardIndex::new(0), node(0)), (ShardIndex::new(1), node(2))];
        let (outcome, _, log) = upload(resumed, |_, _, attempt| vec![ack(attempt, 5)]);
        // Node 2 was to have shard 2, and node 1, which shard 1 no longer needs, is the first to take its place.
        assert_eq!(outcome, UploadOutcome::Full { placed: vec![node(0), node(2), node(1), node(3)] });
        assert_eq!(log.len(), 2);
        let mut wrong = plan("2/4", 0);
        wrong.acknowledged = vec![(ShardIndex::new(0), node(9)), (ShardIndex::new(1), node(9))];
        assert_eq!(UploadSession::new(wrong, START).err(), Some(UploadPlanError::Acknowledged(ShardIndex::new(1))));
    }

    #[test]
    fn more_candidates_help_a_starved_upload() {
        let mut asked = plan("1/2", 0);
        asked.assigned.truncate(1);
        let mut session = UploadSession::new(asked, START).expect("a plan of the test");
        assert_eq!(session.starved(), 1);
        session.handle(UploadEvent::MoreCandidates { nodes: vec![node(0), node(7)] }, START);
        assert_eq!(session.starved(), 0);
        let puts: Vec<_> = core::iter::from_fn(|| session.poll_action(START)).collect();
        assert_eq!(puts[1], UploadAction::Put { attempt: AttemptId(1), shard: ShardIndex::new(1), node: node(7) });
    }

    /// One try in a network in which anything happens.
    fn anything(chance: &mut Chance, at: NodeId, attempt: AttemptId) -> Vec<(Duration, UploadEvent)> {
        let mut events: Vec<_> = (0..chance.below(4))
            .map(|_| {
                let event = UploadEvent::Progress { attempt, bytes: chance.below(1 << 20) };
                (Duration::from_millis(chance.below(90_000)), event)
            })
            .collect();
        let slow = if chance.percent(20) { 100_000 } else { 2_000 };
        let milliseconds = chance.below(slow);
        let dead = at.as_bytes()[0].is_multiple_of(7);
        match chance.below(if dead { 60 } else { 100 }) {
            0..10 => {}
            10..20 => events.push(fail(attempt, milliseconds, Fault::Refused)),
            20..30 => events.push(fail(attempt, milliseconds, Fault::Misbehaved)),
            30..40 => {
                let retry_after = chance.percent(50).then(|| Duration::from_millis(chance.below(1 << 40)));
                events.push(fail(attempt, milliseconds, Fault::Busy { retry_after }));
            }
            40..60 => events.push(fail(attempt, milliseconds, Fault::Unreachable)),
            _ => events.push(ack(attempt, milliseconds)),
        }
        if chance.percent(5) {
            // A fault of the executor: the attempt ends twice, or one that never was ends.
            let other = AttemptId(attempt.0 + 1000 * chance.below(2));
            events.push(fail(other, milliseconds + 1, Fault::Unreachable));
        }
        events
    }

    #[test]
    fn uploads_end_in_every_kind_of_weather_and_the_same_way_for_a_seed() {
        let mut outcomes = [0; 3];
        for seed in 0..2000 {
            let mut chance = Chance::new(seed);
            let policy = ["1/1", "1/2", "2/4", "7/16", "16/40"][usize::try_from(chance.below(5)).expect("below five")];
            let spares = u8::try_from(chance.below(12)).expect("below twelve");
            let run_once = || {
                let mut chance = Chance::new(seed);
                let mut live: BTreeMap<(ShardIndex, NodeId), u32> = BTreeMap::new();
                upload(plan(policy, spares), move |shard, at, attempt| {
                    let tries = live.entry((shard, at)).or_default();
                    *tries += 1;
                    assert!(*tries <= 4, "one shard at one node is tried without end");
                    anything(&mut chance, at, attempt)
                })
            };
            let first = run_once();
            assert_eq!(first, run_once(), "seed {seed}");
            outcomes[match first.0 {
                UploadOutcome::Full { .. } => 0,
                UploadOutcome::Degraded { .. } => 1,
                UploadOutcome::Failed { .. } => 2,
            }] += 1;
        }
        assert!(outcomes.iter().all(|count| *count > 20), "the weather is too good or too bad: {outcomes:?}");
    }
}
