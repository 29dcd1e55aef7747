//! Congestion control that fills lines and leaves queues short which others wait in, too.
//!
//! Decides how many bytes of a connection may be under way. What counts is what packets wait: by the shortest time of a round
//! trip, as in LEDBAT (RFC 6817), so that neither late acknowledgements nor jitter count, with a lower target than LEDBAT's 100 ms, since
//! people notice. Single losses are no sign of a full line; a share of them is, as short queues say nothing else. Begins as slow
//! start does (RFC 5681) and grows only by what is made use of (RFC 7661). Never decides what is sent.
//!
//! quinn's BBR, which it replaces, fills a home router's queue for seconds while several connections look for the line's rate, and
//! falls back to four datagrams at the end of each small exchange.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

/// Bytes before anything is known of the way: a range of 64 KiB with its proof goes out at once.
const FIRST_BYTES: u64 = 128 * 1024;
/// Datagrams that may be on their way however long the queue is.
const DATAGRAMS_LEAST: u64 = 2;
/// More is never under way: 10 Gbit/s over 50 ms.
const MOST_BYTES: u64 = 64 * 1024 * 1024;
/// With packets that all wait for longer than this, less is sent.
const QUEUEING_MAX: Duration = Duration::from_millis(60);
/// With packets that wait for longer than this, no more is.
const QUEUEING_ENOUGH: Duration = Duration::from_millis(30);
/// The most that one round trip with a long queue takes away.
const SHRINK_MOST: f64 = 0.5;
/// A share of lost bytes that is no accident.
const LOSS_MAX: f64 = 0.04;
/// Datagrams that must be lost in a round for their share to mean something.
const LOST_LEAST: u64 = 4;
/// What is left when too much was lost.
const LOSS_SHRINK: f64 = 0.75;
/// How far the window grows in a round trip at first. Doubling would put as much into a queue as the line carries, and again as much
/// before it is known, by every connection.
const GROWTH_FIRST: f64 = 0.5;
/// How far the window grows in a round trip, once there ever was a sign of a full line.
const GROWTH: f64 = 1.0 / 16.0;
/// Rounds of waiting with the least under way: then the queue is others', or the way has become longer.
const ROUNDS_IN_VAIN: u32 = 8;

/// After so long without a word the line is as unknown as at first.
const IDLE: Duration = Duration::from_secs(1);
/// Acknowledgements in a row that all came late end slow start, within the round.
const LATE_IN_A_ROW: u32 = 8;
/// What others saw of the queue is believed for so long.
const NEWS: Duration = Duration::from_secs(1);

/// Connections of this machine, which go out over one line.
static NEIGHBOURS: Neighbours = Neighbours(Mutex::new(BTreeMap::new()));
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// What each connection last saw packets wait, and when.
///
/// Whoever comes while there is a queue takes it for a part of the way, and adds to it (LEDBAT's late-comer); so they ask those who
/// were there before. What all wait for they wait for together.
struct Neighbours(Mutex<BTreeMap<u64, (Duration, Instant)>>);

impl Neighbours {
    fn tell(&self, number: u64, queueing: Duration, now: Instant) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(number, (queueing, now));
    }

    fn leave(&self, number: u64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
    }

    /// What packets of all connections wait for now.
    fn common(&self, now: Instant) -> Duration {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = told.values().filter(|(_, at)| now.saturating_duration_since(*at) <= NEWS);
        recent.map(|(queueing, _)| *queueing).min().unwrap_or_default()
    }
}

/// Makes [`Courteous`] controllers.
#[derive(Debug, Default)]
pub(crate) struct CourteousConfig;

impl ControllerFactory for CourteousConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Told::new(Courteous::new(now, current_mtu)))
    }
}

/// A controller among those of this machine.
struct Told {
    number: u64,
    own: Courteous,
}

impl Told {
    fn new(own: Courteous) -> Self {
        Self { number: NUMBER.fetch_add(1, Ordering::Relaxed), own }
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        NEIGHBOURS.leave(self.number);
    }
}

/// How many bytes may be under way, by what packets waited and how many were lost.
#[derive(Debug, Clone)]
struct Courteous {
    datagram_bytes: u64,
    window: u64,
    /// There was no sign of a full line yet.
    slow_start: bool,
    /// The shortest round trip: one without a queue.
    base: Duration,
    /// What was sent before this does not count against the window: it was made smaller for it.
    shrunk: Instant,
    rounds_in_vain: u32,
    late_in_a_row: u32,
    /// When something was last sent or acknowledged.
    heard: Instant,
    round: Round,
}

/// From one moment until something is acknowledged that was sent after it.
#[derive(Debug, Clone)]
struct Round {
    began: Instant,
    over: bool,
    shortest: Duration,
    /// The most that was under way.
    under_way: u64,
    /// Acknowledged since it was last said what is under way.
    acknowledged_now: u64,
    acknowledged: u64,
    lost: u64,
}

impl Round {
    fn begin(now: Instant, under_way: u64) -> Self {
        Self {
            began: now,
            over: false,
            shortest: Duration::MAX,
            under_way,
            acknowledged_now: 0,
            acknowledged: 0,
            lost: 0,
        }
    }
}

impl Courteous {
    fn new(now: Instant, datagram_bytes: u16) -> Self {
        Self {
            datagram_bytes: datagram_bytes.into(),
            window: FIRST_BYTES,
            slow_start: true,
            base: Duration::MAX,
            shrunk: now,
            rounds_in_vain: 0,
            late_in_a_row: 0,
            heard: now,
            round: Round::begin(now, 0),
        }
    }

    /// Takes in that something is sent.
    fn sends(&mut self, now: Instant) {
        if now.saturating_duration_since(self.heard) >= IDLE {
            // What was right beside twenty others that moved bulk is too little for a reader who waits.
            self.window = self.window.max(FIRST_BYTES);
        }
        self.heard = now;
    }

    /// Takes in that bytes sent at `sent` were acknowledged. `common`: what others wait for, asked for the first time.
    fn acknowledged(&mut self, now: Instant, sent: Instant, bytes: u64, common: impl FnOnce() -> Duration) {
        self.heard = now;
        let took = now.saturating_duration_since(sent);
        if self.base == Duration::MAX {
            self.base = took.saturating_sub(common());
        }
        self.base = self.base.min(took);
        let late = took > self.base + QUEUEING_ENOUGH;
        self.late_in_a_row = if late { self.late_in_a_row + 1 } else { 0 };
        self.slow_start &= self.late_in_a_row < LATE_IN_A_ROW;
        self.round.shortest = self.round.shortest.min(took);
        self.round.acknowledged_now += bytes;
        self.round.acknowledged += bytes;
        self.round.over |= sent >= self.round.began;
    }

    /// Takes in what is still under way after acknowledgements that came together; gives what packets waited when a round is over.
    fn left(&mut self, now: Instant, in_flight: u64) -> Option<Duration> {
        let acknowledged = std::mem::take(&mut self.round.acknowledged_now);
        self.round.under_way = self.round.under_way.max(in_flight.saturating_add(acknowledged));
        // What was not made use of says nothing about more.
        let used = self.round.under_way >= self.window / 2;
        if self.slow_start && used {
            self.window = self.window.saturating_add(scaled(acknowledged, GROWTH_FIRST)).min(MOST_BYTES);
        }
        if !self.round.over {
            return None;
        }
        let queueing = self.round.shortest.saturating_sub(self.base);
        self.slow_start &= queueing <= QUEUEING_ENOUGH;
        if queueing > QUEUEING_MAX {
            let fitting = (self.base + QUEUEING_MAX).div_duration_f64(self.round.shortest).max(SHRINK_MOST);
            self.shrink(now, fitting);
            self.wait_in_vain();
        } else {
            self.rounds_in_vain = 0;
            if self.loses_too_much() {
                self.shrink(now, LOSS_SHRINK);
            } else if used && !self.slow_start && queueing < QUEUEING_ENOUGH {
                let more = scaled(self.window, GROWTH).max(self.datagram_bytes);
                self.window = (self.window + more).min(MOST_BYTES);
            }
        }
        self.round = Round::begin(now, in_flight);
        Some(queueing)
    }

    /// Takes in what was lost; nothing lost means that a router marked packets.
    fn lost(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        if is_persistent_congestion {
            // Nothing came through for long: the way is found out about anew.
            self.window = self.least();
            self.slow_start = true;
            self.shrunk = now;
        } else if sent >= self.shrunk {
            self.round.lost = self.round.lost.saturating_add(lost_bytes);
            if lost_bytes == 0 {
                // A router marked packets instead of dropping them (RFC 3168): it means the same without delay.
                self.shrink(now, LOSS_SHRINK);
            }
        }
    }

    fn loses_too_much(&self) -> bool {
        let Round { lost, acknowledged, .. } = self.round;
        lost >= LOST_LEAST * self.datagram_bytes && lost > scaled(lost.saturating_add(acknowledged), LOSS_MAX)
    }

    /// Leaves this part of what was under way, which may be far less than what might have been.
    fn shrink(&mut self, now: Instant, part: f64) {
        let left = scaled(self.window.min(self.round.under_way), part);
        self.window = left.max(self.least());
        self.slow_start = false;
        self.shrunk = now;
    }

    /// Where packets wait although next to nothing of ours is under way, that is what the way is like now.
    fn wait_in_vain(&mut self) {
        self.rounds_in_vain = if self.window == self.least() { self.rounds_in_vain + 1 } else { 0 };
        if self.rounds_in_vain >= ROUNDS_IN_VAIN {
            self.base = self.round.shortest;
            self.rounds_in_vain = 0;
        }
    }

    const fn least(&self) -> u64 {
        DATAGRAMS_LEAST * self.datagram_bytes
    }
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "windows are far under 2^53"
)]
fn scaled(bytes: u64, factor: f64) -> u64 {
    (bytes as f64 * factor) as u64
}

impl Controller for Told {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.own.sends(now);
    }

    fn on_ack(&mut self, now: Instant, sent: Instant, bytes: u64, _app_limited: bool, _rtt: &RttEstimator) {
        self.own.acknowledged(now, sent, bytes, || NEIGHBOURS.common(now));
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, _app_limited: bool, _largest: Option<u64>) {
        if let Some(queueing) = self.own.left(now, in_flight) {
            NEIGHBOURS.tell(self.number, queueing, now);
        }
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent_congestion: bool, lost_bytes: u64) {
        self.own.lost(now, sent, is_persistent_congestion, lost_bytes);
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.own.datagram_bytes = new_mtu.into();
        self.own.window = self.own.window.max(self.own.least());
    }

    fn window(&self) -> u64 {
        self.own.window
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self::new(self.own.clone()))
    }

    fn initial_window(&self) -> u64 {
        FIRST_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const DATAGRAM: u64 = 1452;

    /// A line that several connections send over as much as they may, in steps of a millisecond.
    struct Line {
        connections: usize,
        /// Bytes a second.
        rate: u64,
        round_trip: Duration,
        /// Bytes that may wait; what comes on top is lost.
        queue: u64,
        /// Each so many datagrams one is lost on the way.
        loses_each: u64,
    }

    /// What a line did: the queue's length in milliseconds after each step, and bytes that it delivered.
    struct Played {
        queues: Vec<f64>,
        delivered: u64,
        sent: u64,
        lost: u64,
    }

    impl Line {
        fn play(&self, steps: u32) -> Played {
            let begin = Instant::now();
            // Handshakes come before there is a queue.
            let mut shaken = Courteous::new(begin, 1452);
            shaken.acknowledged(begin + self.round_trip, begin, DATAGRAM, Duration::default);
            let _ = shaken.left(begin + self.round_trip, 0);
            let mut controllers = vec![shaken; self.connections];
            let mut under_way = vec![0_u64; self.connections];
            let mut line: VecDeque<(usize, Instant)> = VecDeque::new();
            let mut returning: VecDeque<(Instant, usize, Instant, bool)> = VecDeque::new();
            let mut played = Played { queues: Vec::new(), delivered: 0, sent: 0, lost: 0 };
            let mut budget = 0.0;
            for step in 0..steps {
                let now = begin + self.round_trip + Duration::from_millis(step.into());
                while let Some((_, connection, sent, lost)) = returning.pop_front_if(|(due, ..)| *due <= now) {
                    under_way[connection] -= DATAGRAM;
                    if lost {
                        controllers[connection].lost(now, sent, false, DATAGRAM);
                    } else {
                        controllers[connection].acknowledged(now, sent, DATAGRAM, Duration::default);
                        let _ = controllers[connection].left(now, under_way[connection]);
                    }
                }
                for (connection, controller) in controllers.iter().enumerate() {
                    // Pacing: no more than an eighth of the window at a time.
                    let mut burst = (controller.window / 8).max(DATAGRAM);
                    while under_way[connection] + DATAGRAM <= controller.window && burst >= DATAGRAM {
                        burst -= DATAGRAM;
                        under_way[connection] += DATAGRAM;
                        played.sent += 1;
                        let lost = played.sent.is_multiple_of(self.loses_each);
                        if lost || line.len() as u64 * DATAGRAM >= self.queue {
                            played.lost += 1;
                            returning.push_back((now + self.round_trip, connection, now, true));
                        } else {
                            line.push_back((connection, now));
                        }
                    }
                }
                budget = (budget + self.rate as f64 / 1000.0).min(self.rate as f64 / 100.0);
                while budget >= DATAGRAM as f64
                    && let Some((connection, sent)) = line.pop_front()
                {
                    budget -= DATAGRAM as f64;
                    played.delivered += DATAGRAM;
                    returning.push_back((now + self.round_trip, connection, sent, false));
                }
                played.queues.push((line.len() as u64 * DATAGRAM) as f64 / self.rate as f64 * 1000.0);
            }
            played
        }
    }

    #[test]
    fn a_home_uplink_is_full_and_its_router_is_not() {
        for connections in [1, 4, 12] {
            let line = Line {
                connections,
                rate: 2_500_000,
                round_trip: Duration::from_millis(20),
                queue: 1_250_000,
                loses_each: u64::MAX,
            };
            let played = line.play(20_000);
            let later = &played.queues[3_000..];
            let mean = later.iter().sum::<f64>() / later.len() as f64;
            assert!(mean < 70.0, "{connections} connections: {mean} ms in the mean");
            let most = later.iter().copied().fold(0.0, f64::max);
            assert!(most < 150.0, "{connections} connections: {most} ms at the most");
            assert!(played.delivered > 2_500_000 * 19, "{connections} connections: {} bytes", played.delivered);
        }
    }

    #[test]
    fn losses_that_mean_nothing_cost_nothing() {
        let line = Line {
            connections: 8,
            rate: 125_000_000,
            round_trip: Duration::from_millis(40),
            queue: 5_000_000,
            loses_each: 100,
        };
        let played = line.play(5_000);
        assert!(played.delivered > 125_000_000 * 4, "{} bytes", played.delivered);
    }

    #[test]
    fn a_line_with_a_short_queue_is_neither_empty_nor_overrun() {
        let line = Line {
            connections: 4,
            rate: 12_500_000,
            round_trip: Duration::from_millis(30),
            queue: 64 * 1024,
            loses_each: u64::MAX,
        };
        let played = line.play(20_000);
        assert!(played.delivered > 12_500_000 * 20 * 8 / 10, "{} bytes", played.delivered);
        assert!(played.lost * 20 < played.sent, "{} of {} lost", played.lost, played.sent);
    }

    #[test]
    fn jitter_is_no_queue() {
        let begin = Instant::now();
        let mut controller = Courteous::new(begin, 1452);
        for step in 1..200_u64 {
            // Acknowledgements that come late now and then, by more than any queue may be long.
            let jitter = if step % 7 == 0 { 90 } else { 0 };
            let sent = begin + Duration::from_millis(step * 5);
            let now = sent + Duration::from_millis(40 + jitter);
            controller.acknowledged(now, sent, DATAGRAM, Duration::default);
            let _ = controller.left(now, 1 << 20);
        }
        assert!(controller.window > FIRST_BYTES + 80 * DATAGRAM && controller.slow_start, "{controller:?}");
    }

    #[test]
    fn what_is_not_made_use_of_neither_grows_nor_shrinks() {
        let begin = Instant::now();
        let mut controller = Courteous::new(begin, 1452);
        for step in 1..200_u64 {
            let sent = begin + Duration::from_millis(step * 50);
            controller.acknowledged(sent + Duration::from_millis(40), sent, 5_000, Duration::default);
            let _ = controller.left(sent + Duration::from_millis(40), 0);
        }
        assert_eq!(controller.window, FIRST_BYTES);
    }

    #[test]
    fn a_longer_way_is_believed_in_the_end() {
        let mut now = Instant::now();
        let mut controller = Courteous::new(now, 1452);
        for (round_trip_ms, rounds) in [(20, 5), (300, 40)] {
            for _ in 0..rounds {
                let sent = now;
                now += Duration::from_millis(round_trip_ms);
                let bytes = controller.window;
                controller.acknowledged(now, sent, bytes, Duration::default);
                let _ = controller.left(now, 0);
            }
        }
        assert!(
            controller.base > Duration::from_millis(200) && controller.window > controller.least(),
            "{controller:?}"
        );
    }

    #[test]
    fn a_way_that_was_lost_is_found_again() {
        let mut now = Instant::now();
        let mut controller = Courteous::new(now, 1452);
        controller.lost(now, now, true, 1 << 20);
        assert_eq!(controller.window, 2 * DATAGRAM);
        for _ in 0..10 {
            let sent = now;
            now += Duration::from_millis(50);
            let bytes = controller.window;
            controller.acknowledged(now, sent, bytes, Duration::default);
            let _ = controller.left(now, 0);
        }
        assert!(controller.window > FIRST_BYTES, "{controller:?}");
    }

    #[test]
    fn who_comes_late_knows_the_queue_from_others() {
        let neighbours = Neighbours(Mutex::default());
        let begin = Instant::now();
        let later = begin + Duration::from_millis(300);
        assert_eq!(neighbours.common(begin), Duration::ZERO);
        neighbours.tell(1, Duration::from_millis(250), begin);
        neighbours.tell(2, Duration::from_millis(200), begin);
        let mut controller = Courteous::new(begin, 1452);
        controller.acknowledged(begin + Duration::from_millis(220), begin, DATAGRAM, || neighbours.common(later));
        assert_eq!(controller.base, Duration::from_millis(20));
        assert_eq!(neighbours.common(begin + Duration::from_secs(2)), Duration::ZERO, "that was long ago");
        neighbours.leave(2);
        assert_eq!(neighbours.common(later), Duration::from_millis(250));
    }

    #[test]
    fn a_reader_who_comes_back_does_not_pay_for_bulk() {
        let begin = Instant::now();
        let mut controller = Courteous::new(begin, 1452);
        controller.lost(begin, begin, true, 1 << 20);
        let at = |ms: u64| begin + Duration::from_millis(ms);
        controller.sends(at(500));
        controller.acknowledged(at(900), at(500), DATAGRAM, Duration::default);
        controller.sends(at(1800));
        assert_eq!(controller.window, 2 * DATAGRAM, "it was never silent for long");
        controller.sends(at(2900));
        assert_eq!(controller.window, FIRST_BYTES);
    }
}
