//! Whether the node may believe its own clock enough to delete what has expired.
//!
//! Decides that a clock which jumped by more than a day is in doubt, and what ends the doubt: the operator's word,
//! or most of a few peers. Never reads a clock: the wall's and the steady one's times are passed in.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use dolmen_proto::ids::Timestamp;
use dolmen_proto::limits::{CLOCK_JUMP_MAX, CLOCK_SKEW_MAX};

/// Peers that must have answered before their time counts for anything.
pub const PEERS_MIN: usize = 3;

/// What the node believes of its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockState {
    /// Nothing speaks against it.
    Trusted,
    /// It jumped, or the node was away so long that a jump could not be told from a rest: nothing expires.
    Doubted {
        /// By how much the wall's time moved against the steady one's, in milliseconds.
        jump_ms: u64,
    },
}

#[derive(Debug)]
struct Inner {
    last: Option<(Timestamp, Duration)>,
    state: ClockState,
}

/// Watches one node's clock.
#[derive(Debug)]
pub struct ClockGuard {
    inner: Mutex<Inner>,
}

impl ClockGuard {
    /// A guard for a node that starts at `now` and was last seen alive at `last_seen`, if ever.
    ///
    /// A node that was away for more than a day cannot tell whether its clock is right, so it begins in doubt.
    #[must_use]
    pub fn new(now: Timestamp, steady: Duration, last_seen: Option<Timestamp>) -> Self {
        let away = last_seen.map_or(Duration::ZERO, |seen| difference(now, seen));
        let mut inner = Inner { last: Some((now, steady)), state: ClockState::Trusted };
        inner.judge(away);
        Self { inner: Mutex::new(inner) }
    }

    /// Takes in the wall's time and that of a steady clock which never jumps, both read together.
    pub fn observe(&self, now: Timestamp, steady: Duration) -> ClockState {
        let mut inner = self.lock();
        if let Some((last_now, last_steady)) = inner.last.replace((now, steady)) {
            let expected = last_now.after(steady.saturating_sub(last_steady));
            inner.judge(difference(now, expected));
        }
        inner.state
    }

    /// Takes in what peers say the time is, with the wall's own. Most of at least [`PEERS_MIN`] must agree.
    pub fn hear_peers(&self, now: Timestamp, peers: &[Timestamp]) -> ClockState {
        let mut sorted = peers.to_vec();
        sorted.sort_unstable();
        let mut inner = self.lock();
        if sorted.len() >= PEERS_MIN {
            let off = difference(now, sorted[sorted.len() / 2]);
            if off <= CLOCK_SKEW_MAX {
                inner.state = ClockState::Trusted;
            } else {
                inner.judge(off);
            }
        }
        inner.state
    }

    /// Takes in the operator's word that the clock is right.
    pub fn confirm(&self) {
        self.lock().state = ClockState::Trusted;
    }

    /// What the node believes now.
    #[must_use]
    pub fn state(&self) -> ClockState {
        self.lock().state
    }

    /// Whether leases may be found expired and shards deleted for it.
    #[must_use]
    pub fn may_expire(&self) -> bool {
        self.state() == ClockState::Trusted
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Inner {
    fn judge(&mut self, off: Duration) {
        if off > CLOCK_JUMP_MAX {
            self.state = ClockState::Doubted { jump_ms: u64::try_from(off.as_millis()).unwrap_or(u64::MAX) };
        }
    }
}

fn difference(one: Timestamp, other: Timestamp) -> Duration {
    one.since(other).max(other.since(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);
    const START: Timestamp = Timestamp::from_unix_ms(1_700_000_000_000);

    #[test]
    fn a_steady_clock_is_trusted_for_ever() {
        let guard = ClockGuard::new(START, Duration::ZERO, Some(START.before(DAY / 2)));
        for days in 1..1000 {
            assert_eq!(guard.observe(START.after(DAY * days), DAY * days), ClockState::Trusted);
        }
    }

    #[test]
    fn small_corrections_are_no_jump() {
        let guard = ClockGuard::new(START, Duration::ZERO, None);
        assert_eq!(guard.observe(START.after(DAY), Duration::ZERO), ClockState::Trusted);
        assert_eq!(guard.observe(START, Duration::ZERO), ClockState::Trusted);
    }

    #[test]
    fn a_jump_either_way_stays_in_doubt_until_the_operator_speaks() {
        for jumped in [START.after(DAY * 3), START.before(DAY * 3)] {
            let guard = ClockGuard::new(START, Duration::ZERO, None);
            let state = guard.observe(jumped, Duration::from_secs(1));
            assert!(matches!(state, ClockState::Doubted { .. }));
            guard.observe(jumped.after(DAY), DAY + Duration::from_secs(1));
            assert!(!guard.may_expire(), "time passing evenly afterwards proves nothing");
            guard.confirm();
            assert!(guard.may_expire());
        }
    }

    #[test]
    fn a_node_that_was_away_for_long_begins_in_doubt_and_one_that_is_new_does_not() {
        assert!(!ClockGuard::new(START, Duration::ZERO, Some(START.before(DAY * 2))).may_expire());
        assert!(!ClockGuard::new(START, Duration::ZERO, Some(START.after(DAY * 2))).may_expire());
        assert!(ClockGuard::new(START, Duration::ZERO, None).may_expire());
    }

    #[test]
    fn most_peers_end_the_doubt_and_a_few_liars_do_not() {
        let doubtful = || ClockGuard::new(START, Duration::ZERO, Some(START.before(DAY * 20)));
        let (right, wrong) = (START.after(Duration::from_secs(60)), START.before(DAY * 20));
        assert_eq!(doubtful().hear_peers(START, &[right, right, wrong]), ClockState::Trusted);
        assert_ne!(doubtful().hear_peers(START, &[right, wrong, wrong]), ClockState::Trusted);
        assert_ne!(doubtful().hear_peers(START, &[right, right]), ClockState::Trusted, "two are not enough");
        let trusted = ClockGuard::new(START, Duration::ZERO, None);
        assert_ne!(trusted.hear_peers(START, &[wrong; 3]), ClockState::Trusted, "peers also raise doubt");
        assert_eq!(trusted.hear_peers(START, &[]), trusted.state());
    }
}
