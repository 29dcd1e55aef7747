//! The queue of repairs: bounded in length, concurrency and bandwidth, the most urgent first.
//!
//! Decides what is begun next and when. A repair that failed backs off and one that hangs is given up after a deadline, so neither
//! blocks the others. Never carries anything out.

use core::time::Duration;
use std::collections::BTreeMap;

use super::{Plan, Urgency};
use crate::ids::{SegmentId, Timestamp};

/// Most repairs that wait or run.
pub const REPAIR_QUEUE_MAX: usize = 65_536;
/// How long a failed repair waits at first, doubling with every failure.
const BACKOFF_FIRST: Duration = Duration::from_secs(60);
/// How long it waits at most.
const BACKOFF_MOST: Duration = Duration::from_secs(6 * 3600);
/// A repair that has run so long at the slowest pace that is taken has failed.
const RUN_MIN: Duration = Duration::from_secs(15 * 60);

/// What repairs may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Budget {
    /// Repairs at a time, at least 1.
    pub concurrent: usize,
    /// Bytes a second in both directions together, averaged; at least 1. A repair is begun while none are owed.
    pub bytes_per_second: u64,
}

/// Why a call makes no sense: the caller's mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// A repair was ended that does not run: it was never begun, was ended before, or has overrun its deadline.
    #[error("segment {} is not being repaired", .0.short())]
    NotRunning(SegmentId),
    /// The queue is full of what is more urgent.
    #[error("{REPAIR_QUEUE_MAX} more urgent repairs are waiting")]
    Full,
}

#[derive(Debug, Clone)]
struct Item {
    plan: Plan,
    failures: u32,
    not_before: Timestamp,
    /// Until when it may run, while it runs.
    running_until: Option<Timestamp>,
}

impl Item {
    fn order(&self) -> (Urgency, bool) {
        (self.plan.urgency, !self.plan.documents)
    }
}

/// Repairs that wait and run.
#[derive(Debug, Clone)]
pub struct RepairQueue {
    budget: Budget,
    items: BTreeMap<SegmentId, Item>,
    /// Bytes begun but not yet allowed for by time.
    owed_bytes: u64,
    refilled: Timestamp,
}

impl RepairQueue {
    /// An empty queue.
    #[must_use]
    pub const fn new(budget: Budget, now: Timestamp) -> Self {
        Self { budget, items: BTreeMap::new(), owed_bytes: 0, refilled: now }
    }

    /// Puts a plan in line, not to be begun before a time (see [`super::turn_delay`]); takes the place of the segment's plan before.
    /// The failures of that one stay counted, and so does the time that it was to wait for: but not when it has become more urgent.
    ///
    /// # Errors
    /// [`QueueError::Full`] when the queue is full of what is at least as urgent.
    pub fn offer(&mut self, plan: Plan, not_before: Timestamp) -> Result<(), QueueError> {
        if let Some(item) = self.items.get_mut(&plan.segment) {
            // What runs is left alone: its end is reported, and then the segment is looked at again.
            if item.running_until.is_none() {
                let more_urgent = plan.urgency < item.plan.urgency;
                item.not_before = if more_urgent { item.not_before.min(not_before) } else { item.not_before };
                item.plan = plan;
            }
            return Ok(());
        }
        let item = Item { plan, failures: 0, not_before, running_until: None };
        if self.items.len() >= REPAIR_QUEUE_MAX {
            let waiting = self.items.iter().filter(|(_, item)| item.running_until.is_none());
            let last = waiting.max_by_key(|(id, item)| (item.order(), **id)).map(|(id, item)| (*id, item.order()));
            match last {
                Some((id, order)) if item.order() < order => self.items.remove(&id),
                _ => return Err(QueueError::Full),
            };
        }
        self.items.insert(item.plan.segment, item);
        Ok(())
    }

    /// Takes a segment out of the line that needs nothing any more; what runs goes on.
    pub fn withdraw(&mut self, segment: SegmentId) {
        if self.items.get(&segment).is_some_and(|item| item.running_until.is_none()) {
            self.items.remove(&segment);
        }
    }

    /// The plan to begin with now: of those whose time has come the most urgent. `None` while concurrency or bandwidth are used up.
    pub fn next(&mut self, now: Timestamp) -> Option<Plan> {
        self.give_up_overdue(now);
        self.refill(now);
        let running = self.items.values().filter(|item| item.running_until.is_some()).count();
        if running >= self.budget.concurrent.max(1) || self.owed_bytes > 0 {
            return None;
        }
        let ready = self.items.iter().filter(|(_, item)| item.running_until.is_none() && item.not_before <= now);
        let (id, _) = ready.min_by_key(|(id, item)| (item.order(), **id))?;
        let id = *id;
        let rate = self.budget.bytes_per_second.max(1);
        let item = self.items.get_mut(&id)?;
        let bytes = item.plan.traffic_bytes();
        item.running_until =
            Some(now.after(RUN_MIN.saturating_add(Duration::from_secs(bytes.saturating_mul(4) / rate))));
        self.owed_bytes = self.owed_bytes.saturating_add(bytes);
        Some(item.plan.clone())
    }

    /// Ends a repair: done and out of line, or failed and to be tried again later.
    ///
    /// # Errors
    /// [`QueueError::NotRunning`]; nothing has changed then.
    pub fn finish(&mut self, segment: SegmentId, done: bool, now: Timestamp) -> Result<(), QueueError> {
        let item = self.items.get_mut(&segment).filter(|item| item.running_until.is_some());
        let item = item.ok_or(QueueError::NotRunning(segment))?;
        if done {
            self.items.remove(&segment);
        } else {
            fail(item, now);
        }
        Ok(())
    }

    fn give_up_overdue(&mut self, now: Timestamp) {
        let overdue = |item: &&mut Item| item.running_until.is_some_and(|until| until <= now);
        self.items.values_mut().filter(overdue).for_each(|item| fail(item, now));
    }

    fn refill(&mut self, now: Timestamp) {
        let milliseconds = u64::try_from(now.since(self.refilled).as_millis()).unwrap_or(u64::MAX);
        let allowed = u128::from(milliseconds) * u128::from(self.budget.bytes_per_second.max(1)) / 1000;
        if allowed > 0 {
            self.owed_bytes = self.owed_bytes.saturating_sub(u64::try_from(allowed).unwrap_or(u64::MAX));
            self.refilled = now.max(self.refilled);
        }
    }

    /// When [`RepairQueue::next`] may give something, if nothing else happens before; `None` when nothing waits or runs.
    #[must_use]
    pub fn wake_at(&self, now: Timestamp) -> Option<Timestamp> {
        let ends = self.items.values().filter_map(|item| item.running_until).min();
        let running = self.items.values().filter(|item| item.running_until.is_some()).count();
        let waiting = self.items.values().filter(|item| item.running_until.is_none()).map(|item| item.not_before).min();
        let begins =
            waiting.filter(|_| running < self.budget.concurrent.max(1)).map(|first| first.max(self.paid_at(now)));
        [ends, begins].into_iter().flatten().min().map(|time| time.max(now))
    }

    /// When what was begun will have been allowed for by time, so that bandwidth does not keep the next from beginning.
    #[must_use]
    pub fn paid_at(&self, now: Timestamp) -> Timestamp {
        let owed_ms = self.owed_bytes.saturating_mul(1000).div_ceil(self.budget.bytes_per_second.max(1));
        self.refilled.after(Duration::from_millis(owed_ms)).max(now)
    }

    /// How many repairs wait, and how many run.
    #[must_use]
    pub fn lengths(&self) -> (usize, usize) {
        let running = self.items.values().filter(|item| item.running_until.is_some()).count();
        (self.items.len() - running, running)
    }
}

/// The wait differs from segment to segment and from time to time, so that what failed together is not tried together.
fn fail(item: &mut Item, now: Timestamp) {
    item.running_until = None;
    let doubled = BACKOFF_FIRST.saturating_mul(1u32.checked_shl(item.failures).unwrap_or(u32::MAX));
    item.failures = item.failures.saturating_add(1);
    let hash = blake3::Hasher::new()
        .update(b"dolmen repair backoff v1\0")
        .update(item.plan.segment.as_bytes())
        .update(&item.failures.to_le_bytes())
        .finalize();
    let jitter = u32::from(hash.as_bytes()[0]);
    let wait = doubled.min(BACKOFF_MOST);
    item.not_before = now.after(wait / 2 + wait / 512 * jitter);
}
