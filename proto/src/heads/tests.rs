//! Both head sessions against a network of nodes that keep heads as nodes do.

use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::*;
use crate::attempt::{AttemptId, Fault};
use crate::ids::Timestamp;
use crate::limits::{HEAD_NAMED_PER_POINT, HEAD_NODES_PER_POINT};
use crate::session::Session;
use crate::virtual_driver::{Chance, run};

const START: Timestamp = Timestamp::from_unix_ms(1_000_000);
const ANSWER: Duration = Duration::from_millis(20);

fn node(number: usize) -> NodeId {
    NodeId::new([u8::try_from(number).expect("a small test"); 32])
}

fn version(sequence: u64, hash: u8) -> HeadVersion {
    HeadVersion { sequence, hash: HeadHash::new([hash; 32]) }
}

/// Point i lies on nodes 10 i to 10 i + `nodes` - 1.
fn places(nodes: usize) -> HeadPlaces {
    HeadPlaces((0..HEAD_POINTS).map(|point| (0..nodes).map(|place| node(10 * point + place)).collect()).collect())
}

/// What the nodes keep, and how some of them are.
#[derive(Default, Clone)]
struct Network {
    kept: BTreeMap<HeadPlace, HeadVersion>,
    silent: BTreeSet<NodeId>,
    refusing: BTreeSet<NodeId>,
    lying: BTreeSet<NodeId>,
}

impl Network {
    fn fault(&self, node: NodeId) -> Option<Fault> {
        let refuses = self.refusing.contains(&node).then_some(Fault::Refused);
        refuses.or_else(|| self.lying.contains(&node).then_some(Fault::Misbehaved))
    }

    fn write(&mut self, written: HeadVersion, places: HeadPlaces) -> (HeadWriteOutcome, Duration) {
        let session = HeadWriteSession::new(written, places, START).expect("eight points");
        run(session, START, |action, _| match action {
            HeadWriteAction::Put { node, .. } if self.silent.contains(&node) => Vec::new(),
            HeadWriteAction::Put { attempt, point, node } => {
                let event = if let Some(fault) = self.fault(node) {
                    HeadWriteEvent::Failed { attempt, fault }
                } else if let Some(kept) = self.kept.get(&(point, node)).filter(|kept| **kept >= written) {
                    HeadWriteEvent::Kept { attempt, version: *kept }
                } else {
                    let displaced = self.kept.insert((point, node), written);
                    HeadWriteEvent::Accepted { attempt, displaced }
                };
                vec![(ANSWER, event)]
            }
            HeadWriteAction::Cancel { .. } => Vec::new(),
        })
    }

    fn read(&self, seen: Option<HeadVersion>, places: HeadPlaces) -> (HeadReadOutcome, Duration) {
        let session = HeadReadSession::new(seen, places, START).expect("eight points");
        run(session, START, |action, _| match action {
            HeadReadAction::Get { node, .. } if self.silent.contains(&node) => Vec::new(),
            HeadReadAction::Get { attempt, point, node } => {
                let event = match (self.fault(node), self.kept.get(&(point, node))) {
                    (Some(fault), _) => HeadReadEvent::Failed { attempt, fault },
                    (None, Some(version)) => HeadReadEvent::Found { attempt, version: *version },
                    (None, None) => HeadReadEvent::Nothing { attempt },
                };
                vec![(ANSWER, event)]
            }
            HeadReadAction::Cancel { .. } => Vec::new(),
        })
    }

    fn keep(&mut self, point: usize, places: core::ops::Range<usize>, version: HeadVersion) {
        let number = u8::try_from(point).expect("eight points");
        self.kept.extend(places.map(|place| ((number, node(10 * point + place)), version)));
    }

    fn silence(&mut self, point: usize, places: core::ops::Range<usize>) {
        self.silent.extend(places.map(|place| node(10 * point + place)));
    }

    fn silence_points(&mut self, points: core::ops::Range<usize>) {
        self.silent.extend(points.flat_map(|point| (0..10).map(move |place| node(10 * point + place))));
    }
}

#[test]
fn the_order_of_heads_is_the_sequence_and_then_the_smaller_hash() {
    assert!(version(2, 9) > version(1, 0));
    assert!(version(2, 1) > version(2, 9));
    assert_eq!(version(2, 1).cmp(&version(2, 1)), core::cmp::Ordering::Equal);
}

#[test]
fn a_head_is_written_to_all_nodes_of_all_points_and_read_back() {
    let mut network = Network::default();
    let (outcome, took) = network.write(version(1, 1), places(5));
    let HeadWriteOutcome::Written { places: written, certain: true, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((written.len(), took), (HEAD_POINTS * HEAD_NODES_PER_POINT, ANSWER));
    let (outcome, took) = network.read(None, places(5));
    let newest = version(1, 1);
    let found = HeadReadOutcome::Found { newest, forks: vec![], places: written, stale: vec![], certain: true };
    assert_eq!((outcome, took), (found, ANSWER));
}

#[test]
fn five_points_are_enough_to_write_and_four_are_not() {
    let mut network = Network::default();
    network.silence_points(0..3);
    let (outcome, took) = network.write(version(1, 1), places(3));
    assert!(matches!(outcome, HeadWriteOutcome::Written { places, certain: true, .. } if places.len() == 15));
    assert_eq!(took, Duration::from_secs(1), "the silent are not waited for");

    let mut network = Network::default();
    network.silence_points(0..4);
    let (outcome, _) = network.write(version(1, 1), places(3));
    assert!(matches!(outcome, HeadWriteOutcome::TooFewPoints { reached: 4, needed: 5, places } if places.len() == 12));
}

#[test]
fn stand_ins_take_the_place_of_nodes_that_fail() {
    let mut network = Network::default();
    network.refusing.extend((0..HEAD_POINTS).map(|point| node(10 * point)));
    let (outcome, _) = network.write(version(1, 1), places(4));
    let HeadWriteOutcome::Written { places: written, .. } = outcome else { panic!("{outcome:?}") };
    assert!(written.contains(&(0, node(3))) && written.len() == 24);
}

#[test]
fn a_writer_that_comes_too_late_is_told_who_won() {
    let mut network = Network::default();
    network.kept.insert((3, node(31)), version(2, 1));
    let (outcome, _) = network.write(version(2, 5), places(3));
    assert!(matches!(outcome, HeadWriteOutcome::Superseded { by, .. } if by == version(2, 1)));
}

#[test]
fn a_head_that_is_there_already_counts_as_written() {
    let mut network = Network::default();
    network.write(version(1, 1), places(3));
    let (outcome, _) = network.write(version(1, 1), places(3));
    assert!(
        matches!(outcome, HeadWriteOutcome::Written { places, forks, .. } if places.len() == 24 && forks.is_empty())
    );
}

#[test]
fn the_newest_wins_wherever_it_lies_and_the_others_are_named() {
    let mut network = Network::default();
    network.write(version(6, 1), places(3));
    network.kept.insert((7, node(72)), version(7, 5));
    network.kept.insert((2, node(20)), version(7, 9));
    let (outcome, _) = network.read(Some(version(6, 1)), places(3));
    let HeadReadOutcome::Found { newest, forks, places, stale, certain } = outcome else { panic!("{outcome:?}") };
    assert_eq!((newest, forks, places), (version(7, 5), vec![version(7, 9)], vec![(7, node(72))]));
    assert_eq!((stale.len(), certain), (23, true));
}

#[test]
fn liars_and_the_dead_do_not_hide_a_head() {
    let mut network = Network::default();
    network.write(version(1, 1), places(3));
    network.lying.extend((0..4).flat_map(|point| (0..3).map(move |place| node(10 * point + place))));
    network.silence_points(4..7);
    let (outcome, took) = network.read(None, places(3));
    assert!(matches!(outcome, HeadReadOutcome::Found { certain: false, .. }), "one point is enough, if not to be sure");
    assert!(took > Duration::from_secs(30), "without enough points the silent are waited for");
}

#[test]
fn an_older_head_than_seen_is_never_taken() {
    let mut network = Network::default();
    network.write(version(3, 1), places(3));
    let seen = version(4, 1);
    let (outcome, _) = network.read(Some(seen), places(3));
    assert_eq!(outcome, HeadReadOutcome::RolledBack { newest: Some(version(3, 1)), seen });
    network.silence_points(3..8);
    let (outcome, _) = network.read(Some(seen), places(3));
    assert_eq!(outcome, HeadReadOutcome::Unreachable { answered: 3, needed: 4 }, "too few to accuse anybody");
}

#[test]
fn nothing_is_told_from_nobody() {
    let mut network = Network::default();
    assert_eq!(network.read(None, places(3)), (HeadReadOutcome::NotFound, ANSWER));
    network.silence_points(0..8);
    let (outcome, _) = network.read(None, places(3));
    assert_eq!(outcome, HeadReadOutcome::Unreachable { answered: 0, needed: 4 });
    let (outcome, took) = network.read(None, HeadPlaces(vec![Vec::new(); HEAD_POINTS]));
    assert_eq!((outcome, took), (HeadReadOutcome::Unreachable { answered: 0, needed: 4 }, Duration::ZERO));
    assert_eq!(HeadReadSession::new(None, HeadPlaces(Vec::new()), START).err(), Some(HeadPlacesError(0)));
}

#[test]
fn a_fault_of_this_side_ends_both_at_once_and_one_of_a_cancelled_attempt_does_not() {
    let mut session = HeadReadSession::new(None, places(3), START).expect("eight points");
    session.handle(HeadReadEvent::Failed { attempt: AttemptId(999), fault: Fault::Local }, START);
    while session.poll_action(START).is_some() {}
    assert_eq!(session.outcome(), None);
    session.handle(HeadReadEvent::Failed { attempt: AttemptId(0), fault: Fault::Local }, START);
    let cancels = core::iter::from_fn(|| session.poll_action(START)).count();
    assert_eq!((session.outcome(), cancels), (Some(&HeadReadOutcome::Local), 23));
}

#[test]
fn only_what_was_asked_for_is_cancelled() {
    // When patience ends with the failure of one call, its stand-in is due and not asked any more.
    let late = START.after(Duration::from_secs(5));
    let fault = Fault::Refused;
    let mut read = HeadReadSession::new(None, places(4), START).expect("eight points");
    let mut write = HeadWriteSession::new(version(1, 1), places(4), START).expect("eight points");
    assert_eq!(core::iter::from_fn(|| read.poll_action(START)).count(), 24);
    assert_eq!(core::iter::from_fn(|| write.poll_action(START)).count(), 24);
    for attempt in (1..23).map(AttemptId) {
        read.handle(HeadReadEvent::Found { attempt, version: version(1, 1) }, START.after(ANSWER));
        write.handle(HeadWriteEvent::Accepted { attempt, displaced: None }, START.after(ANSWER));
    }
    read.handle(HeadReadEvent::Failed { attempt: AttemptId(0), fault }, late);
    write.handle(HeadWriteEvent::Failed { attempt: AttemptId(0), fault }, late);
    let attempt = AttemptId(23);
    let left: Vec<_> = core::iter::from_fn(|| read.poll_action(late)).collect();
    assert_eq!(left, [HeadReadAction::Cancel { attempt }]);
    let left: Vec<_> = core::iter::from_fn(|| write.poll_action(late)).collect();
    assert_eq!(left, [HeadWriteAction::Cancel { attempt }]);
    assert!(read.outcome().is_some() && write.outcome().is_some());
}

#[test]
fn what_was_written_is_read_in_every_kind_of_weather() {
    let mut outcomes = [0; 2];
    for seed in 0..500 {
        let mut chance = Chance::new(seed);
        let mut network = Network::default();
        for number in 0..HEAD_POINTS * 10 {
            match chance.below(6) {
                0 => network.silent.insert(node(number)),
                1 => network.refusing.insert(node(number)),
                2 => network.lying.insert(node(number)),
                _ => continue,
            };
        }
        let nodes = 1 + usize::try_from(chance.below(5)).expect("below five");
        let (outcome, _) = network.write(version(5, 5), places(nodes));
        assert_eq!(network.clone().write(version(5, 5), places(nodes)).0, outcome, "written again, seed {seed}");
        match outcome {
            HeadWriteOutcome::Written { places: written, .. } => {
                outcomes[0] += 1;
                assert!(written.iter().map(|(point, _)| point).collect::<BTreeSet<_>>().len() >= HEAD_WRITE_QUORUM);
                // The same nodes are well or not as they were, then all are well: it is found both times.
                let (outcome, _) = network.read(None, places(nodes));
                assert!(matches!(outcome, HeadReadOutcome::Found { newest, .. } if newest == version(5, 5)), "{seed}");
                network.silent.clear();
                network.refusing.clear();
                network.lying.clear();
                let (outcome, _) = network.read(Some(version(5, 5)), places(nodes));
                assert!(matches!(outcome, HeadReadOutcome::Found { certain: true, .. }), "seed {seed}");
            }
            HeadWriteOutcome::TooFewPoints { reached, .. } => {
                outcomes[1] += 1;
                assert!(reached < HEAD_WRITE_QUORUM);
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(outcomes.iter().all(|count| *count > 20), "the weather is too good or too bad: {outcomes:?}");
}

#[test]
fn stand_ins_that_never_held_a_head_do_not_deny_it() {
    let mut network = Network::default();
    network.write(version(1, 1), places(5));
    for point in 0..HEAD_POINTS {
        network.silence(point, 0..3);
    }
    let (outcome, _) = network.read(None, places(5));
    assert_eq!(outcome, HeadReadOutcome::Unreachable { answered: 0, needed: 4 });
    let (outcome, _) = network.read(Some(version(1, 1)), places(5));
    assert_eq!(outcome, HeadReadOutcome::Unreachable { answered: 0, needed: 4 }, "nor do they roll it back");
}

#[test]
fn four_points_whose_holders_are_gone_are_not_made_up_for_by_points_that_were_never_written() {
    let mut network = Network::default();
    for point in 0..5 {
        network.keep(point, 0..3, version(1, 1));
        network.silence(point, 0..3);
    }
    let (outcome, _) = network.read(None, places(4));
    assert_eq!(outcome, HeadReadOutcome::Unreachable { answered: 3, needed: 4 });
}

#[test]
fn nodes_named_beyond_the_stand_ins_are_not_asked() {
    let mut network = Network::default();
    for point in 0..HEAD_POINTS {
        network.silence(point, 0..HEAD_NAMED_PER_POINT);
    }
    let (outcome, _) = network.read(None, places(10));
    assert_eq!(outcome, HeadReadOutcome::Unreachable { answered: 0, needed: 4 });
    let (outcome, _) = network.write(version(1, 1), places(10));
    assert!(matches!(outcome, HeadWriteOutcome::TooFewPoints { reached: 0, .. }));
}

#[test]
fn one_stale_answer_of_a_point_does_not_make_a_read_certain() {
    let (old, new) = (version(1, 1), version(2, 1));
    let mut network = Network::default();
    // The old head once found two stand-ins at the fourth point; of the new one all copies are silent.
    for point in 0..4 {
        network.keep(point, 0..5, old);
    }
    for point in 3..HEAD_POINTS {
        network.keep(point, 0..3, new);
        network.silence(point, 0..3);
    }
    let found = |outcome| match outcome {
        HeadReadOutcome::Found { newest, certain, .. } => (newest, certain),
        other => panic!("{other:?}"),
    };
    let (outcome, took) = network.read(None, places(5));
    assert_eq!((found(outcome), took), ((old, false), Duration::from_secs(3)), "certainty is waited for, not for long");
    let (outcome, _) = network.read(Some(new), places(5));
    assert_eq!(outcome, HeadReadOutcome::Unreachable { answered: 3, needed: 4 }, "never below what was seen");
    // One copy speaks.
    network.silent.remove(&node(32));
    assert_eq!(found(network.read(None, places(5)).0), (new, true));
}

#[test]
fn a_head_older_than_seen_is_rolled_back_whether_by_sequence_by_hash_or_by_silence_of_nobody() {
    for (shown, seen) in [(version(3, 1), version(4, 1)), (version(4, 9), version(4, 1))] {
        let mut network = Network::default();
        network.write(shown, places(5));
        let (outcome, _) = network.read(Some(seen), places(5));
        assert_eq!(outcome, HeadReadOutcome::RolledBack { newest: Some(shown), seen });
        // One node that has it is enough to take it.
        network.keep(7, 2..3, seen);
        let (outcome, _) = network.read(Some(seen), places(5));
        assert!(matches!(outcome, HeadReadOutcome::Found { newest, .. } if newest == seen), "{outcome:?}");
    }
    let seen = version(1, 1);
    let (outcome, _) = Network::default().read(Some(seen), places(5));
    assert_eq!(outcome, HeadReadOutcome::RolledBack { newest: None, seen });
}

#[test]
fn a_slow_node_gets_a_stand_in_before_it_counts_as_dead() {
    let mut network = Network::default();
    for point in 0..HEAD_POINTS {
        network.silence(point, 0..2);
    }
    let (outcome, took) = network.write(version(1, 1), places(5));
    assert!(matches!(outcome, HeadWriteOutcome::Written { certain: true, .. }));
    assert_eq!(took, Duration::from_secs(1) + ANSWER);
    let (outcome, took) = network.read(None, places(5));
    assert!(matches!(outcome, HeadReadOutcome::Found { certain: true, .. }));
    assert_eq!(took, Duration::from_millis(250) + ANSWER);
}

#[test]
fn single_copies_at_a_quorum_of_points_are_written_but_not_certain() {
    let mut network = Network::default();
    for point in 0..4 {
        network.silence(point, 0..2);
    }
    let (outcome, took) = network.write(version(1, 1), places(3));
    let HeadWriteOutcome::Written { places: written, certain, .. } = outcome else { panic!("{outcome:?}") };
    assert_eq!((written.len(), certain, took), (4 + 4 * 3, false, Duration::from_secs(5)));
    network.silent.remove(&node(0));
    let (outcome, took) = network.write(version(1, 1), places(3));
    assert!(matches!(outcome, HeadWriteOutcome::Written { certain: true, .. }));
    assert_eq!(took, Duration::from_secs(1));
}

#[test]
fn of_two_writers_of_one_sequence_at_least_one_is_told_of_the_other() {
    // The loser comes first and believes that it has written: the winner hears of it.
    let (winner, loser) = (version(2, 1), version(2, 9));
    let mut network = Network::default();
    network.write(version(1, 1), places(5));
    assert!(matches!(network.write(loser, places(5)).0, HeadWriteOutcome::Written { forks, .. } if forks.is_empty()));
    let (outcome, _) = network.write(winner, places(5));
    assert!(matches!(outcome, HeadWriteOutcome::Written { forks, certain: true, .. } if forks == [loser]));
    let (outcome, _) = network.write(loser, places(5));
    assert!(matches!(outcome, HeadWriteOutcome::Superseded { by, .. } if by == winner));
}

const OLD: HeadVersion = HeadVersion { sequence: 4, hash: HeadHash::new([1; 32]) };
const NEW: HeadVersion = HeadVersion { sequence: 5, hash: HeadHash::new([2; 32]) };

/// A point: nodes named for it; as bits by place, those that took the new head, kept the old one, say nothing.
#[derive(Debug, Clone)]
struct PointCase {
    named: usize,
    new: u8,
    old: u8,
    silent: u8,
    /// All that took the new head say nothing besides.
    new_silent: bool,
}

fn point_case() -> impl Strategy<Value = PointCase> {
    // The worst that silence can do is to strike just the new head's copies: seldom by chance, so chance is helped.
    let new = prop_oneof![Just(0), any::<u8>()];
    let silent = prop_oneof![2 => Just(0), 1 => any::<u8>()];
    (1..=7usize, new, any::<u8>(), silent, prop::bool::weighted(0.7))
        .prop_map(|(named, new, old, silent, new_silent)| PointCase { named, new, old, silent, new_silent })
}

/// A network in which the new head was certainly written: most of the nodes named for each of `quorum` took it, the
/// nearest where chance took too few. Elsewhere it lies wherever it lies.
fn written_network(points: &[PointCase], quorum: &[usize]) -> (Network, HeadPlaces) {
    let mut network = Network::default();
    let mut named = Vec::new();
    for (number, point) in points.iter().enumerate() {
        let counted = point.named.min(HEAD_NAMED_PER_POINT);
        let mut new: BTreeSet<usize> = (0..counted).filter(|place| (point.new >> place) & 1 == 1).collect();
        if quorum.contains(&number) {
            (0..counted).for_each(|place| {
                if new.len() <= counted / 2 {
                    new.insert(place);
                }
            });
        }
        for place in 0..point.named {
            if new.contains(&place) {
                network.keep(number, place..place + 1, NEW);
            } else if (point.old >> place) & 1 == 1 {
                network.keep(number, place..place + 1, OLD);
            }
            if (point.silent >> place) & 1 == 1 || (point.new_silent && new.contains(&place)) {
                network.silence(number, place..place + 1);
            }
        }
        named.push((0..point.named).map(|place| node(10 * number + place)).collect());
    }
    (network, HeadPlaces(named))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// However many are silent, and wherever the old head still lies: as long as nobody lies, a certain read gives the
    /// new one, and no read denies it.
    #[test]
    fn no_silence_makes_an_older_head_certain(
        points in prop::collection::vec(point_case(), HEAD_POINTS),
        quorum in subsequence((0..HEAD_POINTS).collect::<Vec<_>>(), HEAD_WRITE_QUORUM),
    ) {
        let (network, places) = written_network(&points, &quorum);
        match network.read(None, places.clone()).0 {
            HeadReadOutcome::Found { newest, certain, .. } => prop_assert!(newest == NEW || !certain),
            outcome => prop_assert!(matches!(outcome, HeadReadOutcome::Unreachable { .. }), "{outcome:?}"),
        }
        match network.read(Some(NEW), places).0 {
            HeadReadOutcome::Found { newest, .. } => prop_assert_eq!(newest, NEW),
            outcome => prop_assert!(matches!(outcome, HeadReadOutcome::Unreachable { .. }), "{outcome:?}"),
        }
    }

    /// Where nobody is silent, four copies that turn into the old head, as liars or disks restored from a backup
    /// show it, do not outvote the fifth: there is no vote.
    #[test]
    fn four_stale_nodes_hide_no_newer_head(
        points in prop::collection::vec(point_case(), HEAD_POINTS),
        quorum in subsequence((0..HEAD_POINTS).collect::<Vec<_>>(), HEAD_WRITE_QUORUM),
        stale in prop::collection::vec(any::<prop::sample::Index>(), 0..=4),
        seen in prop::option::of(Just(NEW)),
    ) {
        let (mut network, places) = written_network(&points, &quorum);
        network.silent.clear();
        let copies: Vec<HeadPlace> =
            network.kept.iter().filter(|(_, version)| **version == NEW).map(|(place, _)| *place).collect();
        for index in stale {
            network.kept.insert(*index.get(&copies), OLD);
        }
        let (outcome, _) = network.read(seen, places);
        prop_assert!(
            matches!(outcome, HeadReadOutcome::Found { newest: NEW, certain: true, .. }),
            "{outcome:?}"
        );
    }
}
