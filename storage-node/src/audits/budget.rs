//! How many blocks a node proves in an hour, and how much of that one auditor may ask for.
//!
//! Decides whether a challenge is granted a slot. Never decides whether what is asked for is held: it is asked before
//! anything is said of that. Keys are free, so what strangers from one subnet ask for counts as one; a claim to have many
//! bytes here raises a share, never above what the node holds. Claims are free, too: a part of the budget is kept for those
//! whose last challenge this node could prove, so they have bytes here.

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
/// The same for one whose bytes were proven: it asks once a day at least.
const PROVEN_LIFE: Duration = Duration::from_secs(36 * 3600);
/// What one challenge counts as at least: signatures and a line in the log cost something without any sample, too.
const LEAST_PER_CHALLENGE: u32 = 8;
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
    /// Whether what it drew from was shown to be here.
    proven: bool,
}

#[derive(Debug)]
struct State {
    /// What is left, in [`SAMPLE`]s, above an hour's worth that only repeats may take.
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
    /// An asker gets its share of an hour by bytes, and more while more than half of the budget is left over. The last quarter
    /// is for those of whom [`AuditBudget::proved`] was said.
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
        let wanted = price(samples);
        self.gain(&mut state, now);
        let claimed_bytes = claimed_bytes.min(held_bytes).max(1);
        let (mut share, rate) = self.share(&mut state, asker, now, |before| claimed_bytes.max(before.min(held_bytes)));
        // A single challenge larger than a share is granted when nothing is owed.
        let within = share.spent == 0 || share.spent + wanted <= rate * SAMPLE;
        let kept = self.most() + if share.proven { 0 } else { self.most() / 4 };
        let idle = state.left.saturating_sub(wanted) >= self.most() + self.most() / 2;
        let granted = state.left >= wanted + kept && (within || idle);
        if granted {
            share.spent = share.spent.saturating_add(wanted);
            state.left -= wanted;
        }
        state.askers.insert(asker, share);
        if granted {
            return Ok(());
        }
        let for_all = (wanted + kept).saturating_sub(state.left) / self.per_hour;
        let for_share =
            if within { 0 } else { (share.spent + wanted).saturating_sub(rate * SAMPLE).min(share.spent) / rate };
        Err(Duration::from_millis(for_all.max(for_share) + 1))
    }

    /// Takes `samples` again for a slot that was paid for: asked again, or kept for later. It was promised an answer, so this
    /// takes of what new slots leave untouched; it counts as the asker's, who may owe two hours of his share that way.
    ///
    /// # Errors
    /// How long to wait before it is answered.
    pub fn take_again(&self, asker: Asker, samples: u32, now: Timestamp) -> Result<(), Duration> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = price(samples);
        self.gain(&mut state, now);
        let (mut share, rate) = self.share(&mut state, asker, now, |before| before.max(1));
        let within = share.spent == 0 || share.spent + wanted <= 2 * rate * SAMPLE;
        let granted = within && state.left >= wanted;
        if granted {
            share.spent = share.spent.saturating_add(wanted);
            state.left -= wanted;
        }
        state.askers.insert(asker, share);
        if granted {
            return Ok(());
        }
        let for_all = wanted.saturating_sub(state.left) / self.per_hour;
        let for_share = (share.spent + wanted).saturating_sub(2 * rate * SAMPLE).min(share.spent) / rate;
        Err(Duration::from_millis(for_all.max(for_share) + 1))
    }

    /// An asker's share now, with what it may ask for in an hour.
    fn share(&self, state: &mut State, asker: Asker, now: Timestamp, claimed: impl Fn(u64) -> u64) -> (Share, u64) {
        self.forget(state, now);
        let share = state.askers.entry(asker).or_insert(Share { claimed_bytes: 0, spent: 0, at: now, proven: false });
        share.claimed_bytes = claimed(share.claimed_bytes);
        let mut share = *share;
        let all: u128 = state.askers.values().map(|share| u128::from(share.claimed_bytes)).sum();
        let part = u128::from(self.per_hour) * u128::from(share.claimed_bytes) / all.max(1);
        let rate = u64::try_from(part).unwrap_or(u64::MAX).max(LEAST_PER_HOUR.min(self.per_hour));
        share.spent = share.spent.saturating_sub(elapsed_ms(share.at, now).saturating_mul(rate));
        share.at = now;
        (share, rate)
    }

    /// Notes whether what an asker drew from was here.
    pub fn proved(&self, asker: Asker, proven: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = state.askers.get_mut(&asker) {
            share.proven = proven;
        }
    }

    fn gain(&self, state: &mut State, now: Timestamp) {
        // Calls may come in another order than they read the clock; one that was set back by more is believed.
        let before = state.at.replace(state.at.filter(|at| at.since(now) < ASKER_LIFE).map_or(now, |at| at.max(now)));
        let gained = before.map_or(2 * self.most(), |at| elapsed_ms(at, now).saturating_mul(self.per_hour));
        state.left = state.left.saturating_add(gained).min(2 * self.most());
    }

    fn forget(&self, state: &mut State, now: Timestamp) {
        let life = |share: &Share| if share.proven { PROVEN_LIFE } else { ASKER_LIFE };
        state.askers.retain(|_, share| now.since(share.at) < life(share));
        if state.askers.len() >= ASKERS_MAX {
            let oldest = state.askers.iter().min_by_key(|(_, share)| (share.proven, share.at));
            let oldest = oldest.map(|(asker, _)| *asker);
            if let Some(oldest) = oldest {
                state.askers.remove(&oldest);
            }
        }
    }
}

fn price(samples: u32) -> u64 {
    u64::from(samples.max(LEAST_PER_CHALLENGE)) * SAMPLE
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
        assert!((LEAST_PER_HOUR * 8..=LEAST_PER_HOUR * 12 + 2048).contains(&granted), "{granted}");
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
    fn keys_that_claim_everything_leave_a_part_to_those_who_have_something_here() {
        let budget = AuditBudget::new(1800);
        assert_eq!(budget.take(key(7), TB / 2, TB, 64, START), Ok(()));
        budget.proved(key(7), true);
        let mut refused = 0;
        for minute in 1..600 {
            for liar in 100..400 {
                let _ = budget.take(key(liar), TB, TB, 64, minutes(minute));
            }
            if minute % 60 == 0 {
                refused += u32::from(budget.take(key(7), TB / 2, TB, 64, minutes(minute)).is_err());
            }
        }
        assert_eq!(refused, 0, "64 samples an hour beside 300 who claim everything");
        assert!(
            budget.take(key(8), TB / 2, TB, 64, minutes(599)).is_err(),
            "whoever has proven nothing waits with them"
        );
    }

    #[test]
    fn slots_kept_for_a_day_are_not_all_answered_at_once() {
        let budget = AuditBudget::new(1800);
        let (mut slots, mut answered) = (0, 0);
        for minute in 0..24 * 60 {
            slots += u64::from(budget.take(key(1), TB, TB, 64, minutes(minute)).is_ok());
        }
        for _ in 0..slots {
            answered += u64::from(budget.take_again(key(1), 64, minutes(24 * 60)).is_ok());
        }
        assert!(slots * 64 > 23 * 1800 && answered * 64 <= 2 * 1800, "{answered} of {slots}");
        // What others were promised is still answered.
        assert_eq!(budget.take_again(key(2), 64, minutes(24 * 60)), Ok(()));
    }

    #[test]
    fn repeats_take_of_what_new_slots_leave() {
        let budget = AuditBudget::new(60);
        while budget.take(key(1), TB, TB, 64, START).is_ok() {}
        assert_eq!(budget.take_again(key(2), 64, START), Ok(()));
        let again = (0..1000).filter(|number| budget.take_again(key(100 + number), 64, START).is_ok()).count();
        assert!((20..=48).contains(&again), "and no more than is kept for them: {again}");
    }

    #[test]
    fn a_clock_that_trembles_gains_nothing() {
        let budget = AuditBudget::new(3600);
        while budget.take(key(1), TB, TB, 8, START).is_ok() {}
        let before = budget.state.lock().expect("a lock").left;
        for round in 0..1000 {
            let now = START.after(Duration::from_millis(500 * (round % 2)));
            let _ = budget.take(key(1), TB, TB, 1024, now);
        }
        let gained = budget.state.lock().expect("a lock").left - before;
        assert!(gained <= SAMPLE, "half a second is half a sample: {gained}");
    }

    #[test]
    fn strangers_do_not_grow_the_memory_and_a_claim_is_no_more_than_is_held() {
        let budget = AuditBudget::new(1_000_000);
        for number in 0..3000 {
            let _ = budget.take(key(number), u64::MAX, TB, 1, START);
        }
        let state = budget.state.lock().expect("a lock");
        assert!(state.askers.len() <= ASKERS_MAX);
        assert!(state.askers.values().all(|share| share.claimed_bytes <= TB));
    }
}
