//! The download of one range of a segment: which shards are asked of which nodes, what is raced, when it is over.
//!
//! Decides retries, other holders, and when further shards are fetched to rebuild those that are slow or gone. Never
//! touches bytes or checks them: an executor fetches the same range of each shard, checks it against the root, and
//! reports here; bytes that fail the check are [`Fault::Misbehaved`].

use core::time::Duration;
use std::collections::{BTreeSet, VecDeque};

use crate::attempt::{AttemptId, Fault, TransferClock, median};
use crate::ids::{NodeId, ShardIndex, Timestamp};
use crate::policy::Policy;
use crate::session::Session;

/// A shard that takes this share of the expected time is raced: 3/2.
const SLOW_NUMERATOR: u32 = 3;
const SLOW_DENOMINATOR: u32 = 2;
/// No shard is raced before this.
const SLOW_MIN: Duration = Duration::from_millis(30);
/// No shard is raced a second time before this: an expectation that was wrong once is trusted less.
const SLOW_AGAIN_MIN: Duration = Duration::from_millis(500);
/// After so many rounds of races the time before the next one stops doubling.
const RACE_ROUNDS_MAX: u32 = 6;
/// A node is silent when it takes this many times as long to reach as others did.
const SILENT_FACTOR: u32 = 3;
/// No node is silent before this.
pub const SILENT_MIN: Duration = Duration::from_millis(50);
/// Nobody waits longer than this for a node to be reached before others are asked too.
pub const SILENT_MAX: Duration = Duration::from_secs(1);
/// When a node is silent while nobody was reached yet.
pub const SILENT_FIRST: Duration = Duration::from_millis(250);

/// When a node counts as silent, given how long others usually take to be reached.
#[must_use]
pub fn silent_after(usual: Option<Duration>) -> Duration {
    usual.map_or(SILENT_FIRST, |usual| usual.saturating_mul(SILENT_FACTOR).clamp(SILENT_MIN, SILENT_MAX))
}

/// What a download starts from.
#[derive(Debug, Clone)]
pub struct DownloadPlan {
    /// The segment's code.
    pub policy: Policy,
    /// The data shards that the range lies in.
    pub wanted: Vec<ShardIndex>,
    /// The nodes that may hold each shard, in the order of the shards, best first.
    pub holders: Vec<Vec<NodeId>>,
    /// Nodes of these that never answered anything yet: where wanted shards do not come, others are asked before them, as each that is
    /// dead costs as long as it takes to find that out.
    pub unmet: BTreeSet<NodeId>,
    /// How long one shard's range is expected to take, from recent transfers.
    pub expected: Duration,
    /// How long a node takes to be reached before it counts as silent, by [`silent_after`].
    pub silent_after: Duration,
}

/// What can happen to a download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadEvent {
    /// There is no connection to the node yet: one is made, and the attempt begins, or waits for its turn, when there is.
    Seeks {
        /// The attempt.
        attempt: AttemptId,
    },
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
    /// So many bytes have come in all.
    Progress {
        /// The attempt.
        attempt: AttemptId,
        /// Bytes since the attempt began.
        bytes: u64,
    },
    /// The range of the shard is here and matches the root.
    Fetched {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The attempt is over without the bytes.
    Failed {
        /// The attempt.
        attempt: AttemptId,
        /// Why.
        fault: Fault,
    },
}

/// What a download can ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DownloadAction {
    /// Fetch the range of a shard from a node.
    Fetch {
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

/// What a download came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DownloadOutcome {
    /// All wanted shards are here, or `k` of any.
    Ready {
        /// The shards that are here, in order.
        shards: Vec<ShardIndex>,
    },
    /// So many shards are gone, by the word of all of their holders, that no retry brings the range back.
    Lost {
        /// Shards that may still exist.
        found: usize,
        /// Shards that any rebuilding needs.
        needed: usize,
    },
    /// Too few shards could be had now; a later try may find them.
    Unreachable {
        /// Shards that are here.
        fetched: usize,
        /// Shards that all holders say they do not have.
        gone: usize,
        /// Shards that any rebuilding needs.
        needed: usize,
    },
    /// This side failed.
    Local,
}

/// Why a download cannot start: the caller's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DownloadPlanError {
    /// There is not one list of holders a shard.
    #[error("there is not one list of holders for each shard")]
    Holders,
    /// Nothing is wanted, or a shard that is no data shard.
    #[error("the range lies in no data shard of this policy")]
    Wanted,
}

/// What is known of one holder of one shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum HolderState {
    /// Not tried, or worth another try from that time on.
    Ready(Timestamp),
    /// Being asked.
    Asked,
    /// It does not have the shard, or not its bytes.
    Gone,
    /// It may have the shard, but is not asked again.
    Failed,
}

#[derive(Debug)]
struct Holder {
    node: NodeId,
    tries: u8,
    state: HolderState,
}

#[derive(Debug)]
struct Attempt {
    id: AttemptId,
    holder: usize,
    clock: TransferClock,
    /// No connection to the node yet.
    seeking: bool,
}

#[derive(Debug)]
struct Shard {
    holders: Vec<Holder>,
    attempts: Vec<Attempt>,
    fetched: bool,
}

impl Shard {
    /// The best holder to ask now, and whether it would be the first time.
    fn ready(&self, now: Timestamp) -> Option<(usize, bool)> {
        let ready = |holder: &Holder| matches!(holder.state, HolderState::Ready(from) if from <= now);
        let tries = self.holders.iter().filter(|holder| ready(holder)).map(|holder| holder.tries).min()?;
        let place = self.holders.iter().position(|holder| holder.tries == tries && ready(holder))?;
        Some((place, tries == 0))
    }

    /// Whether the shard is here or may yet come.
    fn possible(&self) -> bool {
        let may_come = |holder: &Holder| matches!(holder.state, HolderState::Ready(_) | HolderState::Asked);
        self.fetched || self.holders.iter().any(may_come)
    }

    /// Whether the shard is not here and nobody has it.
    fn gone(&self) -> bool {
        !self.fetched && self.holders.iter().all(|holder| holder.state == HolderState::Gone)
    }
}

/// The download of one range of a segment.
///
/// The wanted shards are fetched first. When one of them fails or is slow, another holder of it is asked, and as many
/// other shards as make `k` with those that go well. A holder is asked at most three times, every attempt ends, by
/// an event or when it stalls, so the download ends.
#[derive(Debug)]
pub struct DownloadSession {
    policy: Policy,
    wanted: BTreeSet<usize>,
    unmet: BTreeSet<NodeId>,
    expected: Duration,
    silent_after: Duration,
    shards: Vec<Shard>,
    /// How long the shards took that came.
    finished: Vec<Duration>,
    /// How long nodes took to be reached.
    reached: Vec<Duration>,
    /// How often shards were fetched for slowness alone: each time patience doubles, so that a wrong expectation
    /// cannot fetch everything at once.
    race_rounds: u32,
    /// The same for silent nodes.
    silent_rounds: u32,
    next_attempt: u64,
    actions: VecDeque<DownloadAction>,
    timeout: Option<Timestamp>,
    outcome: Option<DownloadOutcome>,
}

impl DownloadSession {
    /// Starts at `now`; the first actions are ready at once.
    ///
    /// # Errors
    /// The caller's fault: [`DownloadPlanError`].
    pub fn new(plan: DownloadPlan, now: Timestamp) -> Result<Self, DownloadPlanError> {
        if plan.holders.len() != usize::from(plan.policy.n()) {
            return Err(DownloadPlanError::Holders);
        }
        let wanted: BTreeSet<usize> = plan.wanted.iter().map(|shard| shard.get()).collect();
        if wanted.last().is_none_or(|last| *last >= usize::from(plan.policy.k())) {
            return Err(DownloadPlanError::Wanted);
        }
        let shards = plan.holders.into_iter().map(|nodes| {
            let mut known = BTreeSet::new();
            let fresh = nodes.into_iter().filter(|node| known.insert(*node));
            let holders =
                fresh.map(|node| Holder { node, tries: 0, state: HolderState::Ready(now) }).collect::<Vec<_>>();
            Shard { holders, attempts: Vec::new(), fetched: false }
        });
        let mut session = Self {
            policy: plan.policy,
            wanted,
            unmet: plan.unmet,
            expected: plan.expected,
            silent_after: plan.silent_after,
            shards: shards.collect(),
            finished: Vec::new(),
            reached: Vec::new(),
            race_rounds: 0,
            silent_rounds: 0,
            next_attempt: 0,
            actions: VecDeque::new(),
            timeout: None,
            outcome: None,
        };
        session.advance(now);
        Ok(session)
    }

    fn start(&mut self, index: usize, holder: usize, now: Timestamp) {
        let attempt = AttemptId(self.next_attempt);
        self.next_attempt += 1;
        let shard = ShardIndex::new(u8::try_from(index).expect("a policy has at most 64 shards"));
        let place = &mut self.shards[index];
        place.holders[holder].tries += 1;
        place.holders[holder].state = HolderState::Asked;
        place.attempts.push(Attempt { id: attempt, holder, clock: TransferClock::start(now), seeking: false });
        self.actions.push_back(DownloadAction::Fetch { attempt, shard, node: place.holders[holder].node });
    }

    fn attempt(&mut self, id: AttemptId) -> Option<&mut Attempt> {
        self.shards.iter_mut().flat_map(|shard| &mut shard.attempts).find(|known| known.id == id)
    }

    /// Takes in that there is a connection to the attempt's node.
    fn reached(&mut self, id: AttemptId, now: Timestamp) {
        let Some(attempt) = self.attempt(id).filter(|attempt| attempt.seeking) else { return };
        attempt.seeking = false;
        let took = now.since(attempt.clock.started());
        self.reached.push(took);
    }

    /// Takes the attempt out, if it has not ended before.
    fn take(&mut self, id: AttemptId) -> Option<(usize, Attempt)> {
        self.shards.iter_mut().enumerate().find_map(|(index, shard)| {
            let place = shard.attempts.iter().position(|attempt| attempt.id == id)?;
            Some((index, shard.attempts.remove(place)))
        })
    }

    fn fetched(&mut self, id: AttemptId, now: Timestamp) {
        let Some((index, attempt)) = self.take(id) else { return };
        self.finished.push(now.since(attempt.clock.started()));
        let shard = &mut self.shards[index];
        shard.fetched = true;
        self.actions.extend(shard.attempts.drain(..).map(|loser| DownloadAction::Cancel { attempt: loser.id }));
    }

    fn failed(&mut self, index: usize, attempt: &Attempt, fault: Fault, now: Timestamp) {
        let holder = &mut self.shards[index].holders[attempt.holder];
        holder.state = match (fault, fault.retry_after(holder.tries)) {
            (_, Some(wait)) => HolderState::Ready(now.after(wait)),
            (Fault::NotHeld | Fault::Misbehaved, None) => HolderState::Gone,
            (Fault::Unreachable | Fault::Busy { .. } | Fault::Refused | Fault::Local, None) => HolderState::Failed,
        };
    }

    /// How long an attempt may take before it counts as slow.
    fn slow_after(&self) -> Duration {
        let usual = median(&self.finished).map_or(self.expected, |usual| usual.max(self.expected));
        let once = (usual.saturating_mul(SLOW_NUMERATOR) / SLOW_DENOMINATOR).max(SLOW_MIN);
        match self.race_rounds.min(RACE_ROUNDS_MAX) {
            0 => once,
            rounds => once.saturating_mul(1 << rounds).max(SLOW_AGAIN_MIN * (1 << (rounds - 1))),
        }
    }

    /// How long an attempt may go without a connection before its node counts as silent.
    fn silence(&self) -> Duration {
        let once = median(&self.reached).map_or(self.silent_after, |usual| silent_after(Some(usual)));
        once.saturating_mul(1 << self.silent_rounds.min(RACE_ROUNDS_MAX))
    }

    /// When an attempt does not go well any more.
    fn patience_ends(&self, attempt: &Attempt) -> Timestamp {
        attempt.clock.after(if attempt.seeking { self.silence() } else { self.slow_after() })
    }

    /// Whether the shard is here or on its way, neither slow nor from a silent node.
    fn goes_well(&self, index: usize, now: Timestamp) -> bool {
        let shard = &self.shards[index];
        shard.fetched || shard.attempts.iter().any(|attempt| self.patience_ends(attempt) > now)
    }

    /// Whether there are attempts whose patience has ended: at nodes that are silent, and at nodes that are slow.
    fn dawdlers(&self, now: Timestamp) -> (bool, bool) {
        let open = self.shards.iter().filter(|shard| !shard.fetched).flat_map(|shard| &shard.attempts);
        let late: Vec<_> = open.filter(|attempt| self.patience_ends(attempt) <= now).collect();
        (late.iter().any(|attempt| attempt.seeking), late.iter().any(|attempt| !attempt.seeking))
    }

    /// Does all that is due at `now`, sees whether it is over, and computes when to wake.
    fn advance(&mut self, now: Timestamp) {
        if self.outcome.is_some() {
            return;
        }
        self.give_up_stalled(now);
        if let Some(outcome) = self.conclusion() {
            return self.end(outcome);
        }
        let (silent, slow) = self.dawdlers(now);
        let raced_wanted = self.ask_for_wanted(now);
        let raced_others = self.ask_for_others(now);
        if raced_wanted || raced_others {
            self.silent_rounds += u32::from(silent);
            self.race_rounds += u32::from(slow);
        }
        self.timeout = self.next_timeout(now);
    }

    fn end(&mut self, outcome: DownloadOutcome) {
        let attempts = self.shards.iter_mut().flat_map(|shard| shard.attempts.drain(..));
        self.actions.retain(|action| matches!(action, DownloadAction::Cancel { .. }));
        self.actions.extend(attempts.map(|attempt| DownloadAction::Cancel { attempt: attempt.id }));
        self.timeout = None;
        self.outcome = Some(outcome);
    }

    fn give_up_stalled(&mut self, now: Timestamp) {
        for index in 0..self.shards.len() {
            let stalled = self.shards[index].attempts.extract_if(.., |attempt| attempt.clock.deadline() <= now);
            for attempt in stalled.collect::<Vec<_>>() {
                self.actions.push_back(DownloadAction::Cancel { attempt: attempt.id });
                self.failed(index, &attempt, Fault::Unreachable, now);
            }
        }
    }

    /// What it has come to, if it is over.
    fn conclusion(&self) -> Option<DownloadOutcome> {
        let needed = usize::from(self.policy.k());
        let count = |test: fn(&Shard) -> bool| self.shards.iter().filter(|shard| test(shard)).count();
        let fetched = count(|shard| shard.fetched);
        if fetched >= needed || self.wanted.iter().all(|index| self.shards[*index].fetched) {
            let here = (0..self.policy.n()).map(ShardIndex::new).filter(|shard| self.shards[shard.get()].fetched);
            return Some(DownloadOutcome::Ready { shards: here.collect() });
        }
        let possible = count(Shard::possible);
        if possible >= needed || self.wanted.iter().all(|index| self.shards[*index].possible()) {
            return None;
        }
        let gone = count(Shard::gone);
        let found = self.shards.len() - gone;
        // Gone for good only if no path is left: some wanted shard is gone, and too few of all may still exist.
        if found < needed && self.wanted.iter().any(|index| self.shards[*index].gone()) {
            return Some(DownloadOutcome::Lost { found, needed });
        }
        Some(DownloadOutcome::Unreachable { fetched, gone, needed })
    }

    /// Asks one holder of each wanted shard that is neither here nor on its way, and another one where that is slow.
    /// Tells whether anything was asked for slowness alone.
    fn ask_for_wanted(&mut self, now: Timestamp) -> bool {
        let mut raced = false;
        for index in self.wanted.clone() {
            if self.goes_well(index, now) {
                continue;
            }
            let Some((holder, fresh)) = self.shards[index].ready(now) else { continue };
            let slow = !self.shards[index].attempts.is_empty();
            if fresh || !slow {
                self.start(index, holder, now);
                raced |= slow;
            }
        }
        raced
    }

    /// While a wanted shard does not go well, sees to it that `k` of all do: data shards first, as they need no
    /// unmasking, nodes that were met before strangers, and fresh holders before those that failed. Tells whether anything was asked while others dawdle.
    fn ask_for_others(&mut self, now: Timestamp) -> bool {
        if self.wanted.iter().all(|index| self.goes_well(*index, now)) {
            return false;
        }
        let well = (0..self.shards.len()).filter(|index| self.goes_well(*index, now)).count();
        let mut lacking = usize::from(self.policy.k()).saturating_sub(well);
        let slow = |index: usize| !self.shards[index].attempts.is_empty() && !self.goes_well(index, now);
        let any_slow = (0..self.shards.len()).any(slow);
        let mut asked = false;
        for (fresh_only, met_only) in [(true, true), (true, false), (false, false)] {
            for index in 0..self.shards.len() {
                let shard = &self.shards[index];
                if lacking > 0
                    && !shard.fetched
                    && shard.attempts.is_empty()
                    && let Some((holder, fresh)) = shard.ready(now)
                    && (fresh || !fresh_only)
                    && !(met_only && self.unmet.contains(&shard.holders[holder].node))
                {
                    self.start(index, holder, now);
                    lacking -= 1;
                    asked = true;
                }
            }
        }
        asked && any_slow
    }

    /// The next time at which time alone changes something. What is due already waits for an event instead.
    fn next_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let attempts = self.shards.iter().flat_map(|shard| &shard.attempts);
        let due = attempts.flat_map(|attempt| [attempt.clock.deadline(), self.patience_ends(attempt)]);
        let holders = self.shards.iter().filter(|shard| !shard.fetched).flat_map(|shard| &shard.holders);
        let retries = holders.filter_map(|holder| match holder.state {
            HolderState::Ready(from) => Some(from),
            HolderState::Asked | HolderState::Gone | HolderState::Failed => None,
        });
        due.chain(retries).filter(|time| *time > now).min()
    }
}

impl Session for DownloadSession {
    type Event = DownloadEvent;
    type Action = DownloadAction;
    type Outcome = DownloadOutcome;

    fn handle(&mut self, event: DownloadEvent, now: Timestamp) {
        if self.outcome.is_some() {
            return;
        }
        match event {
            DownloadEvent::Seeks { attempt } => {
                if let Some(attempt) = self.attempt(attempt) {
                    attempt.seeking = true;
                }
            }
            DownloadEvent::Waits { attempt } => {
                self.reached(attempt, now);
                if let Some(attempt) = self.attempt(attempt) {
                    attempt.clock.wait();
                }
            }
            DownloadEvent::Begins { attempt } => {
                self.reached(attempt, now);
                if let Some(attempt) = self.attempt(attempt) {
                    attempt.clock = TransferClock::start(now);
                }
            }
            DownloadEvent::Progress { attempt, bytes } => {
                if let Some(attempt) = self.attempt(attempt) {
                    attempt.clock.progress(bytes, now);
                }
                // Progress only moves deadlines away, and there is much of it.
                return self.wake(now);
            }
            DownloadEvent::Fetched { attempt } => self.fetched(attempt, now),
            DownloadEvent::Failed { attempt, fault } => {
                if let Some((index, attempt)) = self.take(attempt) {
                    self.failed(index, &attempt, fault, now);
                    if fault == Fault::Local {
                        return self.end(DownloadOutcome::Local);
                    }
                }
            }
        }
        self.advance(now);
    }

    fn wake(&mut self, now: Timestamp) {
        if self.timeout.is_some_and(|timeout| timeout <= now) {
            self.advance(now);
        }
    }

    fn poll_action(&mut self, _now: Timestamp) -> Option<DownloadAction> {
        self.actions.pop_front()
    }

    fn poll_timeout(&self) -> Option<Timestamp> {
        self.timeout
    }

    fn outcome(&self) -> Option<&DownloadOutcome> {
        self.outcome.as_ref().filter(|_| self.actions.is_empty())
    }
}

#[cfg(test)]
mod tests;
