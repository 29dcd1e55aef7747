//! What one direction of a link is like, and when each datagram that enters it comes out.
//!
//! Decides delivery times and drops from the time and the chance that are passed in. Never reads a clock or a socket.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chance::Chance;

/// What IPv4 and UDP put before a datagram's payload; rates and queues count it, as a real line does.
pub const HEADER_BYTES: u64 = 28;
/// The largest payload of a UDP datagram, and the limit of a link that does not say otherwise.
pub const DATAGRAM_MAX_BYTES: usize = 65_507;
/// The shortest queue of a link whose queue is not given.
const QUEUE_LEAST_BYTES: u64 = 64 * 1024;
/// A datagram that is let past by others is held back for at least this.
const REORDER_HOLD_LEAST: Duration = Duration::from_millis(1);
/// Longest delay or jitter of a link: what is held must fit in memory.
const DELAY_MAX: Duration = Duration::from_secs(60);

/// One direction of a link. The default delays, drops and changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    /// Bits a second, headers of IP and UDP included; none is no limit, and no queue.
    pub rate_bits_per_second: Option<u64>,
    /// From the end of a datagram's transmission to its delivery.
    pub one_way_delay: Duration,
    /// Added to the delay, evenly drawn from nothing to this; order is kept, so later datagrams may wait for it.
    pub jitter: Duration,
    /// The fraction of datagrams that are lost on the line, after they took their time on it.
    pub loss: f64,
    /// The fraction of datagrams that others are let past: held back by a quarter of the delay, at least a millisecond.
    pub reorder: f64,
    /// Bytes that may wait to be transmitted; none takes what the line carries in a round trip, at least 64 KiB. A
    /// datagram that finds the line idle is always taken.
    pub queue_bytes: Option<u64>,
    /// Payload bytes over which datagrams vanish, as on a path with a smaller MTU.
    pub datagram_max_bytes: usize,
}

impl Default for Link {
    fn default() -> Self {
        Self {
            rate_bits_per_second: None,
            one_way_delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            reorder: 0.0,
            queue_bytes: None,
            datagram_max_bytes: DATAGRAM_MAX_BYTES,
        }
    }
}

/// Why a link makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum LinkError {
    /// A fraction outside of 0 to 1.
    #[error("{what} of a link is {value}: give a fraction between 0 and 1")]
    Fraction {
        /// `loss` or `reorder`.
        what: &'static str,
        /// What was given.
        value: f64,
    },
    /// A line that never transmits anything.
    #[error("the rate of a link is 0 bits a second: leave it out for no limit, or set loss to 1 to cut the link")]
    NoRate,
    /// A delay whose datagrams would not fit in memory.
    #[error("{what} of a link is {} s: at most {} s", value.as_secs(), DELAY_MAX.as_secs())]
    Delay {
        /// `one_way_delay` or `jitter`.
        what: &'static str,
        /// What was given.
        value: Duration,
    },
}

impl Link {
    /// A link of this rate and one-way delay that loses nothing.
    #[must_use]
    pub fn new(rate_bits_per_second: u64, one_way_delay: Duration) -> Self {
        Self { rate_bits_per_second: Some(rate_bits_per_second), one_way_delay, ..Self::default() }
    }

    /// Checks that fractions are fractions, that the rate is not zero and that delays are at most a minute.
    ///
    /// # Errors
    /// [`LinkError`] names the first field that is not.
    pub fn check(&self) -> Result<(), LinkError> {
        for (what, value) in [("loss", self.loss), ("reorder", self.reorder)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(LinkError::Fraction { what, value });
            }
        }
        if self.rate_bits_per_second == Some(0) {
            return Err(LinkError::NoRate);
        }
        for (what, value) in [("one_way_delay", self.one_way_delay), ("jitter", self.jitter)] {
            if value > DELAY_MAX {
                return Err(LinkError::Delay { what, value });
            }
        }
        Ok(())
    }

    /// Bytes that may wait on a line of `rate` bits a second.
    fn queue_limit_bytes(&self, rate: u64) -> u64 {
        self.queue_bytes.unwrap_or_else(|| carried_bytes(self.one_way_delay * 2, rate).max(QUEUE_LEAST_BYTES))
    }

    /// Whether datagrams that arrive by this link come out of it at once.
    pub(super) fn is_immediate(&self) -> bool {
        self.rate_bits_per_second.is_none() && self.one_way_delay.is_zero() && self.jitter.is_zero()
    }
}

/// How long `bytes` take on a line of `rate` bits a second, rounded up so that the rate is never exceeded.
fn transmission_time(bytes: u64, rate: u64) -> Duration {
    let nanoseconds = (u128::from(bytes) * 8 * 1_000_000_000).div_ceil(u128::from(rate));
    Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
}

/// Bytes that a line of `rate` bits a second carries in `time`.
fn carried_bytes(time: Duration, rate: u64) -> u64 {
    u64::try_from(time.as_nanos() * u128::from(rate) / 8_000_000_000).unwrap_or(u64::MAX)
}

/// What becomes of a datagram that enters a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It comes out at this time.
    Deliver(Duration),
    /// Larger than the path carries.
    TooLarge,
    /// The queue before the line is full.
    QueueFull,
    /// Lost on the line.
    Lost,
}

/// One direction of a link with what is on it: a FIFO queue before a line of a fixed rate, and the way after it.
#[derive(Debug, Clone)]
pub struct Lane {
    link: Link,
    /// When the line has transmitted all that it took.
    busy_until: Duration,
    /// The latest delivery of all that keep their order.
    last_delivery: Duration,
}

impl Lane {
    /// An idle lane.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self { link, busy_until: Duration::ZERO, last_delivery: Duration::ZERO }
    }

    /// Changes the link; what is on it already keeps its time, and what follows comes after it.
    pub fn set_link(&mut self, link: Link) {
        self.link = link;
    }

    /// The link as it is now.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Takes a datagram of so many payload bytes at `now`, a time since any fixed start that never goes back.
    pub fn enqueue(&mut self, now: Duration, bytes: usize, chance: &mut Chance) -> Verdict {
        if bytes > self.link.datagram_max_bytes {
            return Verdict::TooLarge;
        }
        let mut at = now;
        if let Some(rate) = self.link.rate_bits_per_second {
            let line_bytes = bytes as u64 + HEADER_BYTES;
            let start = self.busy_until.max(now);
            let waiting_bytes = carried_bytes(start - now, rate);
            if start > now && waiting_bytes + line_bytes > self.link.queue_limit_bytes(rate) {
                return Verdict::QueueFull;
            }
            at = start + transmission_time(line_bytes, rate);
            self.busy_until = at;
        }
        if chance.happens(self.link.loss) {
            return Verdict::Lost;
        }
        at += self.link.one_way_delay;
        if !self.link.jitter.is_zero() {
            at += self.link.jitter.mul_f64(chance.fraction());
        }
        if chance.happens(self.link.reorder) {
            return Verdict::Deliver(at + (self.link.one_way_delay / 4).max(REORDER_HOLD_LEAST));
        }
        at = at.max(self.last_delivery);
        self.last_delivery = at;
        Verdict::Deliver(at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_make_no_sense_are_refused() {
        assert_eq!(Link::default().check(), Ok(()));
        for loss in [-0.1, 1.1, f64::NAN] {
            assert!(matches!(Link { loss, ..Link::default() }.check(), Err(LinkError::Fraction { what: "loss", .. })));
        }
        assert_eq!(Link::new(0, Duration::ZERO).check(), Err(LinkError::NoRate));
        let delay = Duration::from_secs(61);
        assert_eq!(Link::new(1, delay).check(), Err(LinkError::Delay { what: "one_way_delay", value: delay }));
    }

    #[test]
    fn a_queue_that_is_not_given_holds_a_round_trip_of_the_line_and_at_least_64_kib() {
        let gigabit = Link::new(1_000_000_000, Duration::from_millis(20));
        assert_eq!(gigabit.queue_limit_bytes(1_000_000_000), 5_000_000);
        assert_eq!(Link::new(1_000_000, Duration::from_millis(1)).queue_limit_bytes(1_000_000), 65_536);
    }

    #[test]
    fn a_changed_link_lets_nothing_past_what_was_on_it() {
        let mut chance = Chance::new(1);
        let mut lane = Lane::new(Link { one_way_delay: Duration::from_millis(100), ..Link::default() });
        assert_eq!(lane.enqueue(Duration::ZERO, 1000, &mut chance), Verdict::Deliver(Duration::from_millis(100)));
        lane.set_link(Link { one_way_delay: Duration::from_millis(10), ..Link::default() });
        let now = Duration::from_millis(1);
        assert_eq!(lane.enqueue(now, 1000, &mut chance), Verdict::Deliver(Duration::from_millis(100)));
    }
}
