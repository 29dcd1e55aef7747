//! How long a transfer from a node should take, learned from those that went before.
//!
//! Decides what is usual and which nodes are slow, so that a read does not wait for one of them. Never decides what to do
//! about it. Small transfers are measured by their time and large ones by their rate: what decides the one is the round
//! trip and the disk, the other the line.

use core::time::Duration;
use std::collections::BTreeMap;

use crate::download::silent_after;
use crate::ids::{NodeId, Timestamp};
use crate::limits::{MIB, PACE_NODES_MAX};

/// Up to here a transfer is small.
const SMALL_MAX_BYTES: u64 = 128 * 1024;
/// A new measurement moves an average by this share of the way, as TCP's round trip estimate does (RFC 6298).
const WEIGHT: f64 = 0.125;
/// The same for the deviation.
const DEVIATION_WEIGHT: f64 = 0.25;
/// Expected is the average and so many deviations.
const DEVIATIONS: f64 = 2.0;
/// A node is slow when it is expected to take this many times what is usual.
const SLOW_FACTOR: f64 = 3.0;
/// No node is slow that would take less than this longer than usual: going around it costs `k` times the bytes.
const SLOW_LEAST: Duration = Duration::from_millis(50);
/// After this long without a measurement nobody is held to be slow, or silent for the first time: nodes that are avoided are not measured.
const FORGIVEN_AFTER: Duration = Duration::from_mins(2);
/// A node that is silent again each time that it is tried is tried after twice as long each time, and after this long at the latest.
const FORGIVEN_AFTER_MAX: Duration = Duration::from_mins(32);
/// Nodes that must have been measured before one of them is compared with the others.
const NODES_LEAST: usize = 3;

/// An average of seconds with its mean deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Average {
    mean: f64,
    deviation: f64,
}

impl Average {
    const fn first(value: f64) -> Self {
        Self { mean: value, deviation: value / 2.0 }
    }

    fn add(&mut self, value: f64) {
        self.deviation += DEVIATION_WEIGHT * ((value - self.mean).abs() - self.deviation);
        self.mean += WEIGHT * (value - self.mean);
    }

    fn expected(self) -> f64 {
        self.mean + DEVIATIONS * self.deviation
    }
}

/// Seconds for a small transfer, or for each MiB of a large one.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
struct Averages {
    small: Option<Average>,
    per_mib: Option<Average>,
}

impl Averages {
    fn place(&mut self, bytes: u64) -> &mut Option<Average> {
        if bytes <= SMALL_MAX_BYTES { &mut self.small } else { &mut self.per_mib }
    }

    fn add(&mut self, bytes: u64, elapsed: Duration) {
        let value = elapsed.as_secs_f64() / unit(bytes);
        match self.place(bytes) {
            Some(average) => average.add(value),
            place => *place = Some(Average::first(value)),
        }
    }

    fn get(mut self, bytes: u64) -> Option<Average> {
        *self.place(bytes)
    }
}

/// What a measurement of so many bytes is divided by.
fn unit(bytes: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a transfer is far under 2^53 bytes")]
    let mib = bytes as f64 / MIB as f64;
    if bytes <= SMALL_MAX_BYTES { 1.0 } else { mib }
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct NodePace {
    averages: Averages,
    last: Timestamp,
}

/// That a node took much longer than others to be reached: it is asked last for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Silence {
    /// When it was found silent last.
    pub since: Timestamp,
    /// How often it was found silent after it had been forgiven, the first time included.
    pub times: u8,
}

impl Silence {
    /// That a node was found silent at `now`, of which `before` was known since it was reached last.
    #[must_use]
    pub fn found(before: Option<Self>, now: Timestamp) -> Self {
        let times = match before {
            None => 1,
            Some(before) if before.holds(now) => before.times,
            Some(before) => before.times.saturating_add(1),
        };
        Self { since: now, times }
    }

    /// Whether the node is still to be asked last. Not when it was found silent after `now`: one of the two clocks was wrong.
    #[must_use]
    pub fn holds(&self, now: Timestamp) -> bool {
        let doublings = u32::from(self.times.clamp(1, 16)) - 1;
        let forgiven_after = FORGIVEN_AFTER.saturating_mul(1 << doublings).min(FORGIVEN_AFTER_MAX);
        self.since <= now && now.since(self.since) < forgiven_after
    }
}

/// Paces of nodes and of all of them together.
///
/// Remembers at most [`PACE_NODES_MAX`] nodes; who was measured longest ago is forgotten first.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    nodes: BTreeMap<NodeId, NodePace>,
    all: Averages,
    /// Seconds until there is a connection.
    reach: Option<Average>,
}

impl Pace {
    /// Takes in that `bytes` from `node` took so long.
    pub fn observe(&mut self, node: NodeId, bytes: u64, elapsed: Duration, now: Timestamp) {
        self.all.add(bytes, elapsed);
        self.entry(node, now).averages.add(bytes, elapsed);
    }

    /// Takes in how long it took until there was a connection to a node.
    pub fn observe_reached(&mut self, elapsed: Duration) {
        match &mut self.reach {
            Some(average) => average.add(elapsed.as_secs_f64()),
            place => *place = Some(Average::first(elapsed.as_secs_f64())),
        }
    }

    /// How long it usually takes until there is a connection; `None` before any was made.
    #[must_use]
    pub fn usual_reach(&self) -> Option<Duration> {
        self.reach.map(|average| seconds(average.mean))
    }

    /// How long a node may take to be reached before it counts as silent.
    #[must_use]
    pub fn silent_after(&self) -> Duration {
        silent_after(self.reach.map(|average| seconds(average.expected())))
    }

    /// Takes in that `bytes` from `node` had not all come after so long, when they were given up.
    pub fn observe_given_up(&mut self, node: NodeId, bytes: u64, elapsed: Duration, now: Timestamp) {
        let expected = self.expected_of(node, bytes).or(self.expected(bytes));
        if expected.is_none_or(|expected| elapsed > expected) {
            // At least twice as long would have been needed for all that is known; it is not counted as usual.
            self.entry(node, now).averages.add(bytes, elapsed * 2);
        }
    }

    fn entry(&mut self, node: NodeId, now: Timestamp) -> &mut NodePace {
        if !self.nodes.contains_key(&node)
            && self.nodes.len() >= PACE_NODES_MAX
            && let Some(oldest) = self.nodes.iter().min_by_key(|(_, pace)| pace.last).map(|(node, _)| *node)
        {
            self.nodes.remove(&oldest);
        }
        let pace = self.nodes.entry(node).or_insert(NodePace { averages: Averages::default(), last: now });
        pace.last = now;
        pace
    }

    /// How long `bytes` should take from any node; `None` before anything like it was measured.
    #[must_use]
    pub fn expected(&self, bytes: u64) -> Option<Duration> {
        self.all.get(bytes).map(|average| seconds(average.expected() * unit(bytes)))
    }

    fn expected_of(&self, node: NodeId, bytes: u64) -> Option<Duration> {
        let average = self.nodes.get(&node)?.averages.get(bytes)?;
        Some(seconds(average.expected() * unit(bytes)))
    }

    /// Which of `nodes` are not worth waiting for: measured lately, and several times slower than what is usual among
    /// those that were.
    #[must_use]
    pub fn slow(&self, nodes: impl IntoIterator<Item = NodeId>, bytes: u64, now: Timestamp) -> Vec<NodeId> {
        let mut means: Vec<f64> = self.nodes.values().filter_map(|pace| Some(pace.averages.get(bytes)?.mean)).collect();
        if means.len() < NODES_LEAST {
            return Vec::new();
        }
        means.sort_by(f64::total_cmp);
        let usual = means[means.len() / 2];
        let is_slow = |node: &NodeId| {
            self.nodes.get(node).is_some_and(|pace| {
                now.since(pace.last) < FORGIVEN_AFTER
                    && pace.averages.get(bytes).is_some_and(|average| {
                        average.mean > usual * SLOW_FACTOR
                            && (average.mean - usual) * unit(bytes) > SLOW_LEAST.as_secs_f64()
                    })
            })
        };
        nodes.into_iter().filter(is_slow).collect()
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::download::{SILENT_FIRST, SILENT_MAX, SILENT_MIN};

    const WINDOW: u64 = 64 * 1024;

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    fn at(second: u64) -> Timestamp {
        Timestamp::from_unix_ms(1_000_000 + second * 1000)
    }

    fn ms(value: u64) -> Duration {
        Duration::from_millis(value)
    }

    #[test]
    fn silence_is_told_by_how_long_others_took() {
        let mut pace = Pace::default();
        assert_eq!(pace.silent_after(), SILENT_FIRST);
        for _ in 0..40 {
            pace.observe_reached(Duration::from_millis(2));
        }
        assert_eq!(pace.silent_after(), SILENT_MIN, "near nodes");
        for _ in 0..40 {
            pace.observe_reached(Duration::from_millis(100));
        }
        assert!((300..400).contains(&pace.silent_after().as_millis()), "far ones: {:?}", pace.silent_after());
        for _ in 0..40 {
            pace.observe_reached(Duration::from_secs(4));
        }
        assert_eq!(pace.silent_after(), SILENT_MAX);
    }

    #[test]
    fn silence_is_forgiven_later_each_time() {
        let first = Silence::found(None, at(0));
        assert!(first.holds(at(0)) && first.holds(at(119)) && !first.holds(at(120)));
        assert!(!Silence::found(None, at(10)).holds(at(9)), "found in the future");
        let during = Silence::found(Some(first), at(60));
        assert!(during.holds(at(179)) && !during.holds(at(180)), "the same silence goes on");
        let mut again = during;
        let mut now = 180;
        for minutes in [4, 8, 16, 32, 32, 32] {
            again = Silence::found(Some(again), at(now));
            assert!(again.holds(at(now + minutes * 60 - 1)) && !again.holds(at(now + minutes * 60)), "{minutes}");
            now += minutes * 60;
        }
        let often = Silence { since: at(0), times: u8::MAX };
        assert!(Silence::found(Some(often), at(10_000)).holds(at(10_000)));
    }

    #[test]
    fn a_node_ten_times_slower_than_the_others_is_found_by_its_first_transfer_and_forgiven_later() {
        let mut pace = Pace::default();
        for round in 0..20 {
            for number in 0..5 {
                pace.observe(node(number), WINDOW, ms(4 + round % 3), at(0));
            }
        }
        assert!(pace.slow((0..5).map(node), WINDOW, at(1)).is_empty());
        pace.observe(node(8), WINDOW, ms(40), at(1));
        assert!(pace.slow([node(8)], WINDOW, at(1)).is_empty(), "so little is not worth k times the bytes");
        pace.observe(node(9), WINDOW, ms(70), at(1));
        assert_eq!(pace.slow((0..10).map(node), WINDOW, at(2)), [node(9)]);
        assert!(pace.slow([node(9)], 4 * MIB, at(2)).is_empty(), "nothing large was measured");
        assert!(pace.slow([node(9)], WINDOW, at(200)).is_empty(), "it may have become better");
    }

    #[test]
    fn what_is_expected_follows_what_was_measured() {
        let mut pace = Pace::default();
        assert_eq!(pace.expected(WINDOW), None);
        for _ in 0..100 {
            pace.observe(node(1), WINDOW, ms(10), at(0));
            pace.observe(node(1), 4 * MIB, ms(400), at(0));
        }
        let near = |bytes: u64, expected: u64| {
            let found = pace.expected(bytes).expect("measured");
            assert!(found >= ms(expected) && found < ms(expected + expected / 10 + 1), "{bytes}: {found:?}");
        };
        near(WINDOW, 10);
        near(WINDOW / 2, 10);
        near(4 * MIB, 400);
        near(MIB, 100);
    }

    #[test]
    fn who_is_given_up_is_slow_and_does_not_make_slowness_usual() {
        let mut pace = Pace::default();
        for number in 0..5 {
            pace.observe(node(number), WINDOW, ms(5), at(0));
        }
        let usual = pace.expected(WINDOW);
        pace.observe_given_up(node(7), WINDOW, ms(60), at(0));
        pace.observe_given_up(node(8), WINDOW, ms(1), at(0));
        assert_eq!(pace.expected(WINDOW), usual);
        assert_eq!(pace.slow([node(7), node(8)], WINDOW, at(1)), [node(7)], "the loser of a quick race is not slow");
    }

    #[test]
    fn no_more_nodes_are_remembered_than_the_limit() {
        let mut pace = Pace::default();
        for number in 0..PACE_NODES_MAX as u64 + 10 {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&number.to_le_bytes());
            pace.observe(NodeId::new(id), WINDOW, ms(5), at(number));
        }
        assert_eq!(pace.nodes.len(), PACE_NODES_MAX);
        assert!(!pace.nodes.contains_key(&node(0)), "the oldest is forgotten first");
    }
}
