//! How many blocks a node proves in an hour, and how much of that one auditor may ask for.
//!
//! Decides whether a challenge is granted a slot. Never decides whether what is asked for is held: it is asked before
//! anything is said of that. Keys are free, so what strangers from one subnet ask for counts as one; a claim to have many
//! bytes here raises a share, never above what the node holds.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::AUDIT_SAMPLES_MAX;

use crate::subnet::Subnet;

/// Askers that are kept in mind; past that, the one heard of longest ago is forgotten.
const ASKERS_MAX: usize = 1024;
/// An asker that was not heard of for so long shares no more.
const ASKER_LIFE: Duration = Duration::from_secs(2 * 3600);
/// Samples that anybody may ask for in an hour, however little it has here.
const LEAST_PER_HOUR: u64 = 64;
const HOUR_MS: u64 = 3_600_000;
/// What one sample costs, in the budget's unit, so that slow rates need no fractions.
const SAMPLE: u64 = HOUR_MS;

/// Who counts as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Asker {
    /// All from one subnet.
    Subnet(Subnet),
    /// One key of a local network.
    Key([u8; 32]),
}

#[derive(Debug, Clone, Copy)]
struct Share {
    claimed_bytes: u64,
    /// What it has asked for and was not forgiven yet, in [`SAMPLE`]s.
    spent: u64,
    at: Timestamp,
}

#[derive(Debug)]
struct State {
    /// What is left, in [`SAMPLE`]s.
    left: u64,
    at: Option<Timestamp>,
    askers: BTreeMap<Asker, Share>,
}

/// The budget of one node.
#[derive(Debug)]
pub struct AuditBudget {
    per_hour: u64,
    state: Mutex<State>,
}

impl AuditBudget {
    /// A budget of so many samples an hour, at least one.
    #[must_use]
    pub fn new(per_hour: u64) -> Self {
        let per_hour = per_hour.max(1);
        let state = State { left: 0, at: None, askers: BTreeMap::new() };
        Self { per_hour, state: Mutex::new(state) }
    }

    /// Samples an hour, of all askers together.
    #[must_use]
    pub const fn per_hour(&self) -> u64 {
        self.per_hour
    }

    /// What may be saved up: an hour's worth, and no less than the largest challenges need.
    const fn most(&self) -> u64 {
        let largest = 2 * AUDIT_SAMPLES_MAX as u64;
        (if self.per_hour > largest { self.per_hour } else { largest }) * SAMPLE
    }

    /// Takes `samples` for an asker that says to have `claimed_bytes` here, of `held_bytes` that the node holds.
    ///
    /// An asker gets its share of an hour by bytes, and more while more than half of the budget is left over.
    ///
    /// # Errors
    /// How long to wait before it is granted.
    pub fn take(
        &self,
        asker: Asker,
        claimed_bytes: u64,
        held_bytes: u64,
        samples: u32,
        now: Timestamp,
    ) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = u64::from(samples) * SAMPLE;
        let before = state.at.replace(now);
        let gained = before.map_or(self.most(), |at| elapsed_ms(at, now).saturating_mul(self.per_hour));
        state.left = state.left.saturating_add(gained).min(self.most());
        let claimed_bytes = claimed_bytes.min(held_bytes).max(1);
        self.forget(&mut state, now);
        let known = state.askers.get(&asker).copied();
        let mut share = known.unwrap_or(Share { claimed_bytes, spent: 0, at: now });
        share.claimed_bytes = claimed_bytes.max(share.claimed_bytes.min(held_bytes));
        state.askers.insert(asker, share);
        let all: u128 = state.askers.values().map(|share| u128::from(share.claimed_bytes)).sum();
        let part = u128::from(self.per_hour) * u128::from(share.claimed_bytes) / all.max(1);
        let rate = u64::try_from(part).unwrap_or(u64::MAX).max(LEAST_PER_HOUR.min(self.per_hour));
        share.spent = share.spent.saturating_sub(elapsed_ms(share.at, now).saturating_mul(rate));
        share.at = now;
        // A single challenge larger than a share is granted when nothing is owed.
        let within = share.spent == 0 || share.spent + wanted <= rate * SAMPLE;
        let idle = state.left.saturating_sub(wanted) >= self.most() / 2;
        let granted = state.left >= wanted && (within || idle);
        if granted {
            share.spent = share.spent.saturating_add(wanted);
            state.left -= wanted;
        }
        state.askers.insert(asker, share);
        if granted {
            return Ok(());
        }
        let for_all = wanted.saturating_sub(state.left) / self.per_hour;
        let for_share =
            if within { 0 } else { (share.spent + wanted).saturating_sub(rate * SAMPLE).min(share.spent) / rate };
        Err(Duration::from_millis(for_all.max(for_share) + 1))
    }

    fn forget(&self, state: &mut State, now: Timestamp) {
        state.askers.retain(|_, share| now.since(share.at) < ASKER_LIFE);
        if state.askers.len() >= ASKERS_MAX {
            let oldest = state.askers.iter().min_by_key(|(_, share)| share.at).map(|(asker, _)| *asker);
            if let Some(oldest) = oldest {
                state.askers.remove(&oldest);
            }
        }
    }
}

fn elapsed_ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::from_unix_ms(1_000_000_000);
    const TB: u64 = 1_000_000_000_000;

    fn key(number: u16) -> Asker {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&number.to_le_bytes());
        Asker::Key(key)
    }

    fn minutes(number: u64) -> Timestamp {
        START.after(Duration::from_secs(60 * number))
    }

    #[test]
    fn the_total_holds_whoever_asks() {
        let budget = AuditBudget::new(1800);
        let mut granted = 0;
        // A hundred auditors, each asking for everything all the time, for ten hours.
        for minute in 0..600 {
            for auditor in 0..100 {
                if budget.take(key(auditor), TB, TB, 64, minutes(minute)).is_ok() {
                    granted += 64;
                }
            }
        }
        assert!(granted <= 1800 * 10 + 2048, "{granted}");
        assert!(granted >= 1800 * 9, "and what there is is given: {granted}");
    }

    #[test]
    fn a_greedy_auditor_leaves_the_others_their_share_by_bytes() {
        let budget = AuditBudget::new(1800);
        let (mut greedy, mut modest, mut refused) = (0, 0, 0);
        for minute in 0..600 {
            for _ in 0..20 {
                greedy += u32::from(budget.take(key(1), TB, 2 * TB, 64, minutes(minute)).is_ok()) * 64;
            }
            if minute % 10 == 0 {
                // Half of the bytes are its own: it may ask for half, and asks for much less.
                match budget.take(key(2), TB, 2 * TB, 64, minutes(minute)) {
                    Ok(()) => modest += 64,
                    Err(_) => refused += 1,
                }
            }
        }
        assert_eq!((modest, refused), (60 * 64, 0), "while the greedy one got {greedy}");
    }

    #[test]
    fn one_who_has_little_is_heard_at_a_low_rate() {
        let budget = AuditBudget::new(1800);
        let granted = (0..600).filter(|minute| {
            let _ = budget.take(key(1), TB, TB, 1024, minutes(*minute));
            budget.take(key(2), 1000, TB, 8, minutes(*minute)).is_ok()
        });
        let granted = granted.count() as u64 * 8;
        assert!((LEAST_PER_HOUR * 8..=LEAST_PER_HOUR * 12 + 1800).contains(&granted), "{granted}");
    }

    #[test]
    fn whoever_waits_as_told_is_granted() {
        let budget = AuditBudget::new(60);
        let mut now = START;
        while budget.take(key(1), TB, TB, 64, now).is_ok() {}
        for _ in 0..50 {
            match budget.take(key(1), TB, TB, 64, now) {
                Ok(()) => {}
                Err(wait) => {
                    now = now.after(wait);
                    assert_eq!(budget.take(key(1), TB, TB, 64, now), Ok(()), "after {wait:?}");
                }
            }
        }
    }

    #[test]
    fn strangers_do_not_grow_the_memory_and_a_claim_is_no_more_than_is_held() {
        let budget = AuditBudget::new(1_000_000);
        for number in 0..3000 {
            let _ = budget.take(key(number), u64::MAX, TB, 1, START);
        }
        let state = budget.state.lock().unwrap();
        assert!(state.askers.len() <= ASKERS_MAX);
        assert!(state.askers.values().all(|share| share.claimed_bytes <= TB));
    }
}
