//! Attempts: one try of one thing at one node, as all sessions count them, and how tries end badly.
//!
//! Decides what an error of the wire means for the next try, and when a transfer has stalled. Never decides
//! what to try next: each session does.

use core::time::Duration;

use crate::ids::Timestamp;
use crate::limits::{PACE_MIN_BYTES_PER_SECOND, PROGRESS_DEADLINE};
use crate::wire::{ErrorCode, WireError, WireFault};

/// How long to wait before a busy node is asked again when it does not say.
const BUSY_RETRY_DEFAULT: Duration = Duration::from_secs(1);
/// Longest that a session waits for a busy node, whatever the node says.
const BUSY_RETRY_MAX: Duration = Duration::from_secs(30);
/// Waiting time before the first repeated try at an unreachable node; doubled each time.
const UNREACHABLE_RETRY_FIRST: Duration = Duration::from_secs(1);
/// Tries at one node for one thing, the first included.
pub(crate) const TRIES_MAX: u8 = 3;

/// One try, unique in its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId(pub u64);

/// How an attempt failed, which decides what is tried next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// No connection, a broken one, or no byte for too long. Worth another try later.
    Unreachable,
    /// The node says "not now". Worth another try after the time it names.
    Busy {
        /// What the node says; `None`: nothing.
        retry_after: Option<Duration>,
    },
    /// The node understood and will not: quota, policy, a full disk, its own failure. Not asked again.
    Refused,
    /// The node says that it does not have it, or has it damaged. Not asked again.
    NotHeld,
    /// The node broke the protocol or sent bytes that do not match their root. Not asked again.
    Misbehaved,
    /// This side failed: its disk, its memory, its own files. Ends the session.
    Local,
}

impl Fault {
    /// How long to wait before the same node is worth another try, the first try being number 1; `None`: it is not.
    pub(crate) fn retry_after(self, tries: u8) -> Option<Duration> {
        if tries >= TRIES_MAX {
            return None;
        }
        match self {
            Self::Unreachable => Some(UNREACHABLE_RETRY_FIRST * (1 << tries.saturating_sub(1).min(8))),
            Self::Busy { retry_after } => {
                let least = Duration::from_millis(100);
                Some(retry_after.unwrap_or(BUSY_RETRY_DEFAULT).clamp(least, BUSY_RETRY_MAX))
            }
            Self::Refused | Self::NotHeld | Self::Misbehaved | Self::Local => None,
        }
    }
}

impl From<&WireError> for Fault {
    /// What a node's error reply means for the session that asked.
    fn from(error: &WireError) -> Self {
        match error.code() {
            ErrorCode::NotHeld | ErrorCode::Damaged => Self::NotHeld,
            ErrorCode::ShuttingDown => Self::Unreachable,
            code => match code.fault() {
                WireFault::Unreachable => Self::Busy { retry_after: error.retry_after() },
                WireFault::Peer | WireFault::Local | WireFault::Misuse | WireFault::Bug => Self::Refused,
            },
        }
    }
}

/// The clock of one transfer: when it started, when a byte last moved, when it is given up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TransferClock {
    started: Timestamp,
    moved: Timestamp,
    bytes: u64,
    /// Not begun: it waits for its turn on this side, which is nobody's slowness.
    waiting: bool,
}

/// A time that does not come.
const NEVER: Timestamp = Timestamp::from_unix_ms(u64::MAX);

impl TransferClock {
    pub(crate) const fn start(now: Timestamp) -> Self {
        Self { started: now, moved: now, bytes: 0, waiting: false }
    }

    /// Stops until [`TransferClock::start`] makes another.
    pub(crate) const fn wait(&mut self) {
        self.waiting = true;
    }

    /// When it will have taken so long.
    pub(crate) fn after(&self, patience: Duration) -> Timestamp {
        if self.waiting { NEVER } else { self.started.after(patience) }
    }

    pub(crate) const fn started(&self) -> Timestamp {
        self.started
    }

    /// Takes in that so many bytes have moved in all.
    pub(crate) fn progress(&mut self, bytes: u64, now: Timestamp) {
        if bytes > self.bytes {
            self.bytes = bytes;
            self.moved = now;
        }
    }

    /// When it counts as stalled unless bytes move before: none for [`PROGRESS_DEADLINE`], or, from twice that on,
    /// fewer than [`PACE_MIN_BYTES_PER_SECOND`] on average.
    pub(crate) fn deadline(&self) -> Timestamp {
        if self.waiting {
            return NEVER;
        }
        let paid_for = Duration::from_millis(self.bytes.saturating_mul(1000) / PACE_MIN_BYTES_PER_SECOND);
        self.moved.after(PROGRESS_DEADLINE).min(self.started.after(paid_for.max(PROGRESS_DEADLINE * 2)))
    }
}

/// The middle one of these durations, the longer of two; `None` of none.
pub(crate) fn median(durations: &[Duration]) -> Option<Duration> {
    let mut sorted = durations.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_unix_ms(seconds * 1000)
    }

    #[test]
    fn a_transfer_without_bytes_stalls_and_one_with_bytes_does_not() {
        let mut clock = TransferClock::start(at(0));
        assert_eq!(clock.deadline(), at(30));
        clock.progress(1_000_000, at(20));
        assert_eq!(clock.deadline(), at(50));
        clock.progress(1_000_000, at(40));
        assert_eq!(clock.deadline(), at(50), "the same bytes again are no progress");
    }

    #[test]
    fn a_trickle_is_given_up_however_regular() {
        let mut clock = TransferClock::start(at(0));
        for second in 1..=59 {
            clock.progress(second, at(second));
        }
        assert_eq!(clock.deadline(), at(60));
    }

    #[test]
    fn tries_at_one_node_are_bounded_and_its_waiting_time_is_too() {
        assert_eq!(Fault::Unreachable.retry_after(1), Some(Duration::from_secs(1)));
        assert_eq!(Fault::Unreachable.retry_after(2), Some(Duration::from_secs(2)));
        assert_eq!(Fault::Unreachable.retry_after(3), None);
        assert_eq!(Fault::Busy { retry_after: Some(Duration::MAX) }.retry_after(1), Some(BUSY_RETRY_MAX));
        assert_eq!(Fault::Busy { retry_after: Some(Duration::ZERO) }.retry_after(1), Some(Duration::from_millis(100)));
        assert_eq!(Fault::Misbehaved.retry_after(1), None);
    }

    #[test]
    fn errors_of_the_wire_become_faults() {
        let of = |code| Fault::from(&WireError::new(code, ""));
        assert_eq!(of(ErrorCode::NotHeld), Fault::NotHeld);
        assert_eq!(of(ErrorCode::Damaged), Fault::NotHeld);
        assert_eq!(of(ErrorCode::Busy), Fault::Busy { retry_after: None });
        assert_eq!(of(ErrorCode::Other(250)), Fault::Busy { retry_after: None });
        assert_eq!(of(ErrorCode::DiskFull), Fault::Refused);
        assert_eq!(of(ErrorCode::QuotaExceeded), Fault::Refused);
        assert_eq!(of(ErrorCode::Internal), Fault::Refused);
    }

    #[test]
    fn the_median_of_an_even_count_is_the_longer_one() {
        let of =
            |seconds: &[u64]| median(&seconds.iter().map(|second| Duration::from_secs(*second)).collect::<Vec<_>>());
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[3]), Some(Duration::from_secs(3)));
        assert_eq!(of(&[4, 1, 3, 2]), Some(Duration::from_secs(3)));
    }
}
