//! How many transfers run at a time, found by what they bring.
//!
//! Decides the number from bytes that moved, from losses and from queues on the way, in one direction of one line. Starts
//! small, doubles while that moves more, stays where it stopped helping, tries a little more now and then, and gives way when
//! packets are lost or wait in somebody's router. Never decides which transfer is next. Time and measurements are passed in.
//!
//! Doubling as in slow start (RFC 5681); giving way to growing delay as in LEDBAT (RFC 6817), whose target is 100 ms: ours is
//! lower, as others share the line.

use core::time::Duration;

use crate::ids::Timestamp;
use crate::limits::{TRANSFERS_AT_ONCE_LEAST, TRANSFERS_AT_ONCE_MAX};

/// The shortest time over which what moved is judged.
const EPOCH_LEAST: Duration = Duration::from_millis(250);
/// The longest.
const EPOCH_MOST: Duration = Duration::from_secs(2);
/// An epoch lasts so many round trips where that is within the above.
const EPOCH_ROUND_TRIPS: u32 = 4;
/// While doubling, an epoch is this part of that: windows grow by themselves then, so more is nearly always better, and whoever
/// sends little has waited for nothing.
const DOUBLING_EPOCH_PART: u32 = 2;
/// The shortest epoch while doubling; those who look each 100 ms are not to miss it by a hair.
const DOUBLING_EPOCH_LEAST: Duration = Duration::from_millis(90);
/// Twice as many transfers are worth it when they bring this many times as much.
const DOUBLING_GAIN: f64 = 1.2;
/// A few more are when they bring this many times as much.
const PROBE_GAIN: f64 = 1.05;
/// So many epochs without change before a few more are tried.
const EPOCHS_BETWEEN_PROBES: u32 = 8;
/// With less than this share of the best the line is another one, and is learned anew.
const CHANGED_SHARE: f64 = 0.5;
/// A share of lost packets that is no accident.
const LOSS_MAX: f64 = 0.03;
/// Packets below which a share of losses means nothing.
const PACKETS_LEAST: u64 = 100;
/// Packets that wait on the way for longer than this wait in a queue that we fill.
const QUEUEING_MAX: Duration = Duration::from_millis(40);
/// A few less are when they bring at least this many times as much.
const FEWER_GAIN: f64 = 0.97;
/// Epochs after giving way in which nothing is tried.
const EPOCHS_OF_REST: u32 = 4;

/// What connections said of the way since they were asked last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineReport {
    /// The usual round trip while nothing waits.
    pub round_trip: Duration,
    /// How much longer it takes now.
    pub queueing: Duration,
    /// Packets that were sent.
    pub packets_sent: u64,
    /// Packets of these that were lost.
    pub packets_lost: u64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Phase {
    /// Doubling; what the number before brought, in bytes a second.
    Doubling { before: Option<f64> },
    /// Staying; for so many more epochs.
    Steady { epochs: u32 },
    /// A few more, to see whether they help, or a few less, to see whether they were missed: what there was before, and the
    /// number to go back to.
    Probing { before: f64, back: u32 },
}

/// The number of transfers at a time in one direction.
#[derive(Debug, Clone)]
pub struct Goodput {
    limit: u32,
    /// The next probe is of fewer: with probes of more alone, noise would raise the number without end.
    fewer_next: bool,
    phase: Phase,
    best: f64,
    began: Timestamp,
    moved_bytes: u64,
    /// Somebody waited for a place in this epoch: without, what moved says nothing about the number.
    wanted_more: bool,
    epoch: Duration,
    doubling_epoch: Duration,
    queueing: Duration,
    sent: u64,
    lost: u64,
}

impl Goodput {
    /// Starts at `now` with the least, or with half of what an earlier run `remembered`.
    #[must_use]
    pub fn new(remembered: Option<u32>, now: Timestamp) -> Self {
        let limit = remembered.map_or(TRANSFERS_AT_ONCE_LEAST, |limit| limit / 2);
        Self {
            limit: limit.clamp(TRANSFERS_AT_ONCE_LEAST, TRANSFERS_AT_ONCE_MAX),
            fewer_next: false,
            phase: Phase::Doubling { before: None },
            best: 0.0,
            began: now,
            moved_bytes: 0,
            wanted_more: false,
            epoch: EPOCH_LEAST,
            doubling_epoch: DOUBLING_EPOCH_LEAST,
            queueing: Duration::ZERO,
            sent: 0,
            lost: 0,
        }
    }

    /// How many transfers may run now.
    #[must_use]
    pub const fn limit(&self) -> u32 {
        self.limit
    }

    /// Takes in that so many more bytes have moved.
    pub const fn moved(&mut self, bytes: u64) {
        self.moved_bytes = self.moved_bytes.saturating_add(bytes);
    }

    /// Takes in that a transfer waits for a place.
    pub const fn waits(&mut self) {
        self.wanted_more = true;
    }

    /// Takes in what the way is like.
    pub fn line(&mut self, report: LineReport) {
        let epoch = report.round_trip.saturating_mul(EPOCH_ROUND_TRIPS);
        self.epoch = epoch.clamp(EPOCH_LEAST, EPOCH_MOST);
        self.doubling_epoch = (epoch / DOUBLING_EPOCH_PART).clamp(DOUBLING_EPOCH_LEAST, EPOCH_MOST);
        self.queueing = self.queueing.max(report.queueing);
        self.sent = self.sent.saturating_add(report.packets_sent);
        self.lost = self.lost.saturating_add(report.packets_lost);
    }

    /// Judges the epoch if it is over; tells whether the number changed.
    pub fn advance(&mut self, now: Timestamp) -> bool {
        let elapsed = now.since(self.began);
        let epoch = match self.phase {
            Phase::Doubling { .. } => self.doubling_epoch,
            Phase::Steady { .. } | Phase::Probing { .. } => self.epoch,
        };
        if elapsed < epoch {
            return false;
        }
        let before = self.limit;
        #[expect(clippy::cast_precision_loss, reason = "an epoch moves far under 2^53 bytes")]
        let rate = self.moved_bytes as f64 / elapsed.as_secs_f64();
        if self.is_congested() {
            self.give_way(rate);
        } else if self.wanted_more && self.moved_bytes > 0 {
            self.judge(rate);
        }
        (self.began, self.moved_bytes, self.wanted_more) = (now, 0, false);
        (self.queueing, self.sent, self.lost) = (Duration::ZERO, 0, 0);
        self.limit != before
    }

    fn is_congested(&self) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "packets of an epoch")]
        let losses = self.sent >= PACKETS_LEAST && self.lost as f64 > self.sent as f64 * LOSS_MAX;
        losses || self.queueing > QUEUEING_MAX
    }

    fn give_way(&mut self, rate: f64) {
        self.limit = match self.phase {
            Phase::Probing { back, .. } => back,
            Phase::Doubling { .. } | Phase::Steady { .. } => self.limit - self.limit.div_ceil(4),
        }
        .max(TRANSFERS_AT_ONCE_LEAST);
        self.best = rate;
        self.phase = Phase::Steady { epochs: EPOCHS_BETWEEN_PROBES + EPOCHS_OF_REST };
    }

    fn judge(&mut self, rate: f64) {
        match self.phase {
            Phase::Doubling { before } => {
                if before.is_none_or(|before| rate >= before * DOUBLING_GAIN) {
                    self.best = rate;
                    if self.limit < TRANSFERS_AT_ONCE_MAX {
                        self.limit = (self.limit * 2).min(TRANSFERS_AT_ONCE_MAX);
                        self.phase = Phase::Doubling { before: Some(rate) };
                    } else {
                        self.phase = Phase::Steady { epochs: EPOCHS_BETWEEN_PROBES };
                    }
                } else {
                    self.limit = (self.limit / 2).max(TRANSFERS_AT_ONCE_LEAST);
                    self.phase = Phase::Steady { epochs: EPOCHS_BETWEEN_PROBES };
                }
            }
            Phase::Steady { .. } if rate < self.best * CHANGED_SHARE => {
                self.best = rate;
                self.phase = Phase::Doubling { before: Some(rate) };
                self.limit = (self.limit * 2).min(TRANSFERS_AT_ONCE_MAX);
            }
            Phase::Steady { epochs: 0 } => {
                self.best = rate;
                self.phase = Phase::Probing { before: rate, back: self.limit };
                let step = self.limit.div_ceil(4);
                self.limit = if self.fewer_next { self.limit - step } else { self.limit + step }
                    .clamp(TRANSFERS_AT_ONCE_LEAST, TRANSFERS_AT_ONCE_MAX);
                self.fewer_next = !self.fewer_next;
            }
            Phase::Steady { epochs } => {
                self.best = self.best.max(rate);
                self.phase = Phase::Steady { epochs: epochs.saturating_sub(1) };
            }
            Phase::Probing { before, back } => {
                let gain = if self.limit > back { PROBE_GAIN } else { FEWER_GAIN };
                if rate < before * gain {
                    self.limit = back;
                }
                self.phase = Phase::Steady { epochs: EPOCHS_BETWEEN_PROBES };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line that `limit` transfers share: each moves at most its window a round trip, all of them together the line's rate;
    /// what is more waits in the router's queue, and what does not fit there is lost.
    struct Line {
        rate: f64,
        round_trip: Duration,
        window: f64,
        queue: f64,
    }

    impl Line {
        /// Bytes a second, and what connections see, with so many transfers that each keep their window in flight.
        fn with(&self, transfers: u32) -> (f64, LineReport) {
            let in_flight = self.window * f64::from(transfers);
            let carried = self.rate * self.round_trip.as_secs_f64();
            let waiting = (in_flight - carried).max(0.0);
            let queued = waiting.min(self.queue);
            let round_trip = self.round_trip + Duration::from_secs_f64(queued / self.rate);
            let lost = if waiting > self.queue { 60 } else { 0 };
            let moved = (in_flight / round_trip.as_secs_f64()).min(self.rate);
            let queueing = round_trip.saturating_sub(self.round_trip);
            (moved, LineReport { round_trip: self.round_trip, queueing, packets_sent: 1000, packets_lost: lost })
        }

        /// Runs for a minute; the limit at every tenth of a second.
        fn run(&self, remembered: Option<u32>) -> Vec<u32> {
            let at = |tick: u64| Timestamp::from_unix_ms(1_000_000 + tick * 100);
            let mut goodput = Goodput::new(remembered, at(0));
            let mut limits = Vec::new();
            for tick in 1..600 {
                let (rate, mut report) = self.with(goodput.limit());
                report.packets_sent /= 10;
                report.packets_lost /= 10;
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a model")]
                goodput.moved((rate / 10.0) as u64);
                goodput.waits();
                goodput.line(report);
                goodput.advance(at(tick));
                limits.push(goodput.limit());
            }
            limits
        }

        fn share(&self, limit: u32) -> f64 {
            self.with(limit).0 / self.rate
        }
    }

    fn line(mbit_s: f64, round_trip_ms: u64, window_kib: f64, queue_kib: f64) -> Line {
        Line {
            rate: mbit_s * 1e6 / 8.0,
            round_trip: Duration::from_millis(round_trip_ms),
            window: window_kib * 1024.0,
            queue: queue_kib * 1024.0,
        }
    }

    #[test]
    fn a_fast_and_long_line_is_filled_within_seconds() {
        let line = line(10_000.0, 40, 2048.0, 8192.0);
        let limits = line.run(None);
        let filled = limits.iter().position(|limit| line.share(*limit) > 0.9).expect("filled");
        assert!(filled < 100, "after {filled} tenths of a second");
        let later = &limits[200..];
        let usual = later.iter().filter(|limit| line.share(**limit) > 0.85).count();
        assert!(usual * 10 >= later.len() * 9, "{usual} of {}: {later:?}", later.len());
    }

    #[test]
    fn a_home_uplink_is_not_choked() {
        // A router with half a second of queue, and connections that would fill it.
        let line = line(20.0, 20, 64.0, 1280.0);
        let limits = line.run(None);
        let queueing = |limit: &u32| line.with(*limit).1.queueing;
        let later = &limits[100..];
        assert!(later.iter().all(|limit| line.share(*limit) > 0.9), "{later:?}");
        let bad = later.iter().filter(|limit| queueing(limit) > QUEUEING_MAX * 2).count();
        assert!(bad * 20 <= later.len(), "{bad} of {} with long queues: {later:?}", later.len());
    }

    #[test]
    fn a_line_that_loses_when_it_is_full_is_not_overrun_for_long() {
        let line = line(100.0, 30, 64.0, 64.0);
        let limits = line.run(None);
        let lossy = limits[100..].iter().filter(|limit| line.with(**limit).1.packets_lost > 0).count();
        assert!(lossy * 10 <= limits.len() - 100, "{lossy}: {limits:?}");
    }

    #[test]
    fn what_an_earlier_run_found_is_where_the_next_one_begins() {
        let line = line(10_000.0, 40, 2048.0, 8192.0);
        let found = *line.run(None).last().expect("a limit");
        let again = line.run(Some(found));
        let filled = again.iter().position(|limit| line.share(*limit) > 0.9).expect("filled");
        assert!(filled < 10, "after {filled} tenths of a second");
        assert_eq!(Goodput::new(Some(u32::MAX), Timestamp::default()).limit(), TRANSFERS_AT_ONCE_MAX);
    }

    #[test]
    fn more_than_a_line_needs_is_given_back() {
        // Half as many bring as much: the line's rate is the bound, and nothing waits or is lost.
        let at = |tick: u64| Timestamp::from_unix_ms(1_000_000 + tick * 250);
        let mut goodput = Goodput::new(Some(128), at(0));
        for tick in 1..2000 {
            // As much as sixteen can move, give or take a tenth.
            goodput.moved(u64::from(goodput.limit().min(16)) * (95 + tick * 7 % 10) * 1000);
            goodput.waits();
            goodput.advance(at(tick));
        }
        assert!(goodput.limit() <= 32, "{}", goodput.limit());
    }

    #[test]
    fn without_demand_nothing_is_learned() {
        let at = |tick: u64| Timestamp::from_unix_ms(tick * 300);
        let mut goodput = Goodput::new(None, at(0));
        for tick in 1..100 {
            goodput.moved(1_000_000 * (tick % 3));
            assert!(!goodput.advance(at(tick)));
        }
        assert_eq!(goodput.limit(), TRANSFERS_AT_ONCE_LEAST);
    }

    #[test]
    fn a_line_that_became_slower_is_learned_anew() {
        let mut goodput = Goodput::new(None, Timestamp::default());
        let mut tick = 0;
        let mut epoch = |goodput: &mut Goodput, bytes: u64| {
            tick += 1;
            goodput.moved(bytes);
            goodput.waits();
            goodput.advance(Timestamp::from_unix_ms(tick * 300));
            goodput.limit()
        };
        let mut limit = goodput.limit();
        for _ in 0..6 {
            limit = epoch(&mut goodput, u64::from(limit.min(16)) * 100_000);
        }
        assert_eq!(limit, 16);
        assert_eq!(epoch(&mut goodput, 100_000), 32, "half as much a transfer: perhaps more of them help");
        assert_eq!(epoch(&mut goodput, 100_000), 16, "they do not");
    }
}
