//! The state machines in virtual time: rate, delay, loss, order and queue, whatever comes in.

use std::time::Duration;

use proptest::prelude::*;

use super::super::chance::Chance;
use super::super::link::{HEADER_BYTES, Lane, Link, Verdict};
use super::super::network::{Both, Direction, Network};

/// Datagrams as gaps in microseconds and sizes.
fn arrivals() -> impl Strategy<Value = Vec<(u64, usize)>> {
    prop::collection::vec((0_u64..3_000, 1_usize..9_000), 1..400)
}

fn rates() -> impl Strategy<Value = u64> {
    prop_oneof![Just(20_000_000), Just(100_000_000), Just(1_000_000_000), 10_000_u64..10_000_000_000]
}

/// Times of arrival and what became of each datagram.
fn play(lane: &mut Lane, chance: &mut Chance, arrivals: &[(u64, usize)]) -> Vec<(Duration, usize, Verdict)> {
    let mut now = Duration::from_secs(1);
    arrivals
        .iter()
        .map(|(gap, bytes)| {
            now += Duration::from_micros(*gap);
            (now, *bytes, lane.enqueue(now, *bytes, chance))
        })
        .collect()
}

fn line_seconds(bytes: usize, rate: u64) -> f64 {
    (bytes as u64 + HEADER_BYTES) as f64 * 8.0 / rate as f64
}

proptest! {
    /// Between any two deliveries the line carried no more than its rate, but for the first datagram.
    #[test]
    fn the_rate_is_kept_within_a_datagram(arrivals in arrivals(), rate in rates()) {
        let mut lane = Lane::new(Link::new(rate, Duration::from_millis(5)));
        let played = play(&mut lane, &mut Chance::new(1), &arrivals);
        let delivered: Vec<(Duration, usize)> = played
            .iter()
            .filter_map(|(_, bytes, verdict)| match verdict {
                Verdict::Deliver(at) => Some((*at, *bytes)),
                Verdict::TooLarge | Verdict::QueueFull | Verdict::Lost => None,
            })
            .collect();
        for from in 0..delivered.len() {
            let mut seconds = 0.0;
            for (at, bytes) in &delivered[from + 1..] {
                seconds += line_seconds(*bytes, rate);
                let passed = (*at - delivered[from].0).as_secs_f64();
                prop_assert!(passed >= seconds * (1.0 - 1e-9) - 1e-9, "{passed} s for {seconds} s of line");
            }
        }
    }

    /// An idle line delivers after the datagram's own time and the delay; a busy one never waits longer than its queue.
    #[test]
    fn the_delay_is_exact(arrivals in arrivals(), rate in rates(), delay_ms in 0_u64..200) {
        let delay = Duration::from_millis(delay_ms);
        let link = Link { queue_bytes: Some(1 << 40), ..Link::new(rate, delay) };
        let mut lane = Lane::new(link);
        let mut model_free = 0.0_f64;
        for (now, bytes, verdict) in play(&mut lane, &mut Chance::new(1), &arrivals) {
            let Verdict::Deliver(at) = verdict else { return Err(TestCaseError::fail("an endless queue is never full")) };
            model_free = model_free.max(now.as_secs_f64()) + line_seconds(bytes, rate);
            let expected = model_free + delay.as_secs_f64();
            // The lane rounds each datagram's time up to a nanosecond.
            prop_assert!((at.as_secs_f64() - expected).abs() < 1e-9 * (arrivals.len() as f64 + 2.0));
        }
    }

    /// What waits before the line, by adding up what was taken and not yet transmitted, never exceeds the queue by more
    /// than the datagram on the line; and nothing is refused while there is room.
    #[test]
    fn the_queue_keeps_its_bound(arrivals in arrivals(), rate in rates(), queue in 1_000_u64..200_000) {
        let link = Link { queue_bytes: Some(queue), ..Link::new(rate, Duration::ZERO) };
        let mut lane = Lane::new(link);
        let mut waiting: Vec<(Duration, u64)> = Vec::new();
        for (now, bytes, verdict) in play(&mut lane, &mut Chance::new(1), &arrivals) {
            waiting.retain(|(departure, _)| *departure > now);
            let line_bytes = bytes as u64 + HEADER_BYTES;
            let behind_first: u64 = waiting.iter().skip(1).map(|(_, bytes)| bytes).sum();
            match verdict {
                Verdict::Deliver(at) => {
                    waiting.push((at, line_bytes));
                    prop_assert!(waiting.len() == 1 || behind_first + line_bytes <= queue);
                }
                Verdict::QueueFull => {
                    let all: u64 = waiting.iter().map(|(_, bytes)| bytes).sum();
                    prop_assert!(all + line_bytes > queue, "{all} + {line_bytes} fits {queue}");
                }
                Verdict::TooLarge | Verdict::Lost => prop_assert!(false, "{verdict:?} on a perfect link"),
            }
        }
    }

    /// Without reordering, jitter never lets one datagram past another, and adds at most itself.
    #[test]
    fn order_is_kept_under_jitter(arrivals in arrivals(), jitter_ms in 1_u64..50, seed: u64) {
        let jitter = Duration::from_millis(jitter_ms);
        let delay = Duration::from_millis(10);
        let mut lane = Lane::new(Link { one_way_delay: delay, jitter, ..Link::default() });
        let mut last = Duration::ZERO;
        for (now, _, verdict) in play(&mut lane, &mut Chance::new(seed), &arrivals) {
            let Verdict::Deliver(at) = verdict else { return Err(TestCaseError::fail("nothing is lost")) };
            prop_assert!(at >= last && at >= now + delay && at <= now + delay + jitter);
            last = at;
        }
    }

    /// Everything that comes in comes out once, is counted as dropped, or is still under way.
    #[test]
    fn nothing_is_lost_uncounted(
        arrivals in arrivals(),
        loss in 0.0_f64..0.5,
        reorder in 0.0_f64..0.5,
        rate in rates(),
        slow_door in any::<bool>(),
        seed: u64,
    ) {
        let shared = Link {
            loss,
            reorder,
            datagram_max_bytes: 8_000,
            jitter: Duration::from_micros(300),
            ..Link::new(rate, Duration::from_millis(2))
        };
        let mut network = Network::new(Both { up: shared, down: shared }, 3, seed);
        if slow_door {
            let own = Link::new(rate / 10 + 1, Duration::from_millis(20));
            let known = network.set_door_link(1, Some(Both { up: own, down: own }));
            prop_assert!(known);
        }
        prop_assert!(!network.set_door_link(3, None));
        let mut released = Vec::new();
        let mut now = Duration::from_secs(1);
        for (index, (gap, bytes)) in arrivals.iter().enumerate() {
            now += Duration::from_micros(*gap);
            let direction = if index % 2 == 0 { Direction::Up } else { Direction::Down };
            network.release(now, &mut released);
            network.accept(now, direction, index % 3, *bytes, index);
        }
        let counters = network.counters();
        let counted: u64 = [counters.up, counters.down]
            .iter()
            .map(|one| {
                one.delivered.datagrams + one.queue_full.datagrams + one.lost.datagrams + one.too_large.datagrams
            })
            .sum();
        prop_assert_eq!(counted + network.held() as u64, arrivals.len() as u64);
        network.release(Duration::from_secs(1_000_000), &mut released);
        prop_assert_eq!(network.next_release(), None);
        let counters = network.counters();
        prop_assert_eq!(counters.up.delivered.datagrams + counters.down.delivered.datagrams, released.len() as u64);
        let mut indices: Vec<usize> = released.iter().map(|released| released.payload).collect();
        indices.sort_unstable();
        indices.dedup();
        prop_assert_eq!(indices.len(), released.len());
        for one in &released {
            prop_assert_eq!(one.bytes, arrivals[one.payload].1);
        }
    }
}

#[test]
fn loss_and_reordering_are_as_frequent_as_said() {
    let datagrams = 100_000_u32;
    for fraction in [0.01, 0.1, 0.3] {
        let link =
            Link { loss: fraction, reorder: fraction, one_way_delay: Duration::from_millis(40), ..Link::default() };
        let mut lane = Lane::new(link);
        let mut chance = Chance::new(3);
        let (mut lost, mut late) = (0_u32, 0_u32);
        for index in 0..datagrams {
            let now = Duration::from_micros(u64::from(index) * 10);
            match lane.enqueue(now, 1200, &mut chance) {
                Verdict::Lost => lost += 1,
                Verdict::Deliver(at) if at == now + Duration::from_millis(50) => late += 1,
                Verdict::Deliver(at) => assert_eq!(at, now + Duration::from_millis(40)),
                Verdict::TooLarge | Verdict::QueueFull => panic!("an endless link drops nothing else"),
            }
        }
        // Five standard deviations of a binomial distribution.
        let error = 5.0 * (fraction * (1.0 - fraction) / f64::from(datagrams)).sqrt();
        let loss = f64::from(lost) / f64::from(datagrams);
        let reordered = f64::from(late) / f64::from(datagrams - lost);
        assert!((loss - fraction).abs() < error, "lost {loss}, not {fraction}");
        assert!((reordered - fraction).abs() < error * 1.2, "reordered {reordered}, not {fraction}");
    }
}

#[test]
fn a_datagram_over_the_largest_vanishes_and_takes_no_time() {
    let mut lane = Lane::new(Link { datagram_max_bytes: 1452, ..Link::new(1_000_000, Duration::ZERO) });
    let mut chance = Chance::new(1);
    assert_eq!(lane.enqueue(Duration::ZERO, 1453, &mut chance), Verdict::TooLarge);
    assert_eq!(lane.enqueue(Duration::ZERO, 1452, &mut chance), Verdict::Deliver(Duration::from_micros(1480 * 8)));
}

#[test]
fn doors_share_one_line_and_a_slow_one_holds_up_nobody_else() {
    // 1 ms a datagram of 972 + 28 bytes.
    let shared = Link::new(8_000_000, Duration::ZERO);
    let slow = Link::new(800_000, Duration::from_millis(100));
    let mut network = Network::new(Both { up: shared, down: shared }, 2, 1);
    assert!(network.set_door_link(0, Some(Both { up: slow, down: slow })));
    for index in 0..4_usize {
        network.accept(Duration::ZERO, Direction::Down, index % 2, 972, index);
    }
    let mut out = Vec::new();
    let mut times = Vec::new();
    while let Some(at) = network.next_release() {
        let before = out.len();
        network.release(at, &mut out);
        times.extend(out[before..].iter().map(|released| (released.payload, at.as_millis())));
    }
    // The fast door's two take turns on the shared line; the slow door's come 10 ms apart, 100 ms late, then pass it too.
    assert_eq!(times, [(1, 1), (3, 2), (0, 111), (2, 121)]);
    let mut up = Vec::new();
    let start = Duration::from_secs(1);
    for index in 0..4_usize {
        network.accept(start, Direction::Up, index % 2, 972, index);
    }
    while let Some(at) = network.next_release() {
        let mut now = Vec::new();
        network.release(at, &mut now);
        up.extend(now.iter().map(|released| (released.payload, (at - start).as_millis())));
    }
    // Up, all four pass the shared line first: 1 ms each in turn, so 2 waits for its own line until 11 ms.
    assert_eq!(up, [(1, 2), (3, 4), (0, 111), (2, 121)]);
}
