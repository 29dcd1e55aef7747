//! Tests of repair: the formulas, what is planned for whom, what can never be planned, and the queue.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::limits::GIB;
use crate::placement::{Candidate, STANDING_FULL};

const NOW: Timestamp = Timestamp::from_unix_ms(1_790_000_000_000);
const DAY: Duration = Duration::from_secs(86_400);

fn policy(text: &str) -> Policy {
    text.parse().expect("a policy of the test")
}

fn node(number: usize) -> NodeId {
    NodeId::new([u8::try_from(number).expect("few nodes"); 32])
}

fn holder(number: usize, condition: Condition) -> Holder {
    Holder { node: node(number), condition, lease_until: NOW.after(400 * DAY) }
}

/// Shard i at node i; those named are in another condition.
fn state(text: &str, others: &[(usize, Condition)]) -> SegmentState {
    let policy = policy(text);
    let mut shards: Vec<Vec<Holder>> =
        (0..usize::from(policy.n())).map(|index| vec![holder(index, Condition::Alive)]).collect();
    for (index, condition) in others {
        shards[*index][0].condition = *condition;
    }
    SegmentState { segment: SegmentId::new([9; 32]), policy, shard_bytes: 1000, documents: false, shards }
}

fn all(condition: Condition, indices: core::ops::Range<usize>) -> Vec<(usize, Condition)> {
    indices.map(|index| (index, condition)).collect()
}

const FRESH: Condition = Condition::Silent { since: NOW };

fn indices(range: core::ops::Range<u8>) -> Vec<ShardIndex> {
    range.map(ShardIndex::new).collect()
}

fn planned(state: &SegmentState) -> Option<Plan> {
    plan(state, NOW).expect("a state that can be planned")
}

#[test]
fn trigger_floor_and_target_leave_room_for_a_domain() {
    for n in 1..=64 {
        for k in 1..=n {
            let policy = Policy::new(k, n).expect("legal");
            let (m, trigger, floor) = (policy.m(), trigger(policy), hard_floor(policy));
            assert_eq!(target(policy), n);
            assert!(floor >= k && floor <= n && trigger >= 1, "{policy}");
            if m == 0 {
                continue;
            }
            assert!(trigger <= m, "{policy} is repaired while it can be");
            assert!(n - trigger >= floor, "{policy} is triggered before its floor");
            // All but the last loss before the trigger, and the largest domain that placement allows, can be borne together.
            assert!(trigger - 1 + policy.domain_cap() <= m, "{policy}");
        }
    }
    let of = |text: &str| (trigger(policy(text)), hard_floor(policy(text)));
    assert_eq!([of("1/2"), of("2/4"), of("4/8"), of("7/16"), of("16/40")], [(1, 1), (1, 2), (2, 5), (3, 9), (8, 22)]);
}

#[test]
fn nothing_is_done_before_the_trigger_and_everything_at_it() {
    assert_eq!(planned(&state("7/16", &[])), None);
    assert_eq!(planned(&state("7/16", &all(Condition::Lost, 0..2))), None);
    let plan = planned(&state("7/16", &all(Condition::Lost, 0..3))).expect("three are the trigger");
    assert_eq!(plan.urgency, Urgency::Triggered { margin: 6, narrowness: 255 - 13 });
    let rebuild = plan.rebuild.as_ref().expect("they are gone");
    assert_eq!(rebuild.wanted, indices(0..3));
    assert_eq!(rebuild.sources.len(), 13);
    assert_eq!(plan.traffic_bytes(), 10_000, "seven fetched and three put");
    assert_eq!(plan.kept.len(), 13);
}

#[test]
fn silence_counts_after_its_grace_or_at_the_floor() {
    assert_eq!(planned(&state("7/16", &all(FRESH, 0..6))), None, "ten are certain, the floor is nine");
    let plan = planned(&state("7/16", &all(FRESH, 0..7))).expect("nine are certain");
    assert_eq!(plan.urgency, Urgency::Floor { margin: 2, narrowness: 255 - 9 });
    assert_eq!(plan.wanted(), indices(0..7));
    let long = Condition::Silent { since: NOW.before(SILENCE_GRACE) };
    assert_eq!(planned(&state("7/16", &all(long, 0..3))).map(|plan| plan.wanted()), Some(indices(0..3)));
    let almost = Condition::Silent { since: NOW.before(SILENCE_GRACE).after(Duration::from_millis(1)) };
    assert_eq!(planned(&state("7/16", &all(almost, 0..3))), None);
}

#[test]
fn a_living_node_that_leaves_is_copied_from_and_never_decoded_for() {
    let plan = planned(&state("7/16", &all(Condition::Leaving, 3..5))).expect("two leave");
    assert_eq!(plan.urgency, Urgency::Leave);
    assert_eq!(plan.rebuild, None);
    let copies: Vec<_> = plan.copies.iter().map(|copy| (copy.index.get(), copy.from)).collect();
    assert_eq!(copies, [(3, node(3)), (4, node(4))]);
    assert_eq!(plan.traffic_bytes(), 4000);
    let bad = planned(&state("7/16", &[(0, Condition::BadStanding), (1, Condition::Leaving)])).expect("both go");
    assert_eq!((bad.urgency, bad.copies.len()), (Urgency::Move, 2));
    // With k in hand anyway, what would be copied is rebuilt.
    let mut both = all(Condition::Lost, 0..3);
    both.push((8, Condition::Leaving));
    let plan = planned(&state("7/16", &both)).expect("triggered");
    assert_eq!(plan.copies, []);
    assert_eq!(plan.wanted(), [0, 1, 2, 8].map(ShardIndex::new));
    // More to copy than k: fetching k is less.
    assert_eq!(planned(&state("2/8", &all(Condition::Leaving, 0..3))).expect("three leave").copies, []);
}

#[test]
fn leases_that_end_are_moved_and_ended_ones_are_lost() {
    let mut ending = state("7/16", &[]);
    ending.shards[5][0].lease_until = NOW.after(LEASE_ENDING);
    assert_eq!(planned(&ending).map(|plan| plan.copies.len()), Some(1));
    for shard in &mut ending.shards[0..3] {
        shard[0].lease_until = NOW;
    }
    assert_eq!(planned(&ending).map(|plan| plan.wanted()), Some([0, 1, 2, 5].map(ShardIndex::new).to_vec()));
}

#[test]
fn a_shard_counts_for_its_best_node_and_the_others_are_let_go() {
    let mut twice = state("7/16", &all(Condition::Lost, 0..3));
    twice.shards[0].push(holder(40, Condition::Alive));
    twice.shards[1].push(holder(41, FRESH));
    assert_eq!(planned(&twice), None, "one is gone, one has been placed anew, one waits");
    twice.shards[3] = vec![holder(3, Condition::Lost)];
    twice.shards[4] = vec![holder(4, Condition::Lost)];
    let plan = planned(&twice).expect("three are gone");
    assert_eq!(plan.surplus, [(ShardIndex::new(0), node(0)), (ShardIndex::new(1), node(1))]);
    assert!(plan.holders.contains(&node(0)), "a node that lost a shard is not given another of the segment");
}

#[test]
fn a_node_counts_for_one_shard_of_a_segment() {
    let mut crowded = state("7/16", &[]);
    for shard in &mut crowded.shards[1..16] {
        *shard = vec![holder(0, Condition::Alive)];
    }
    let plan = planned(&crowded).expect("all on one node");
    assert!(matches!(plan.urgency, Urgency::Leave | Urgency::Floor { .. }), "{:?}", plan.urgency);
    assert_eq!(plan.wanted(), indices(1..16));
}

#[test]
fn what_cannot_be_repaired_is_named_and_not_tried() {
    let mut hopeless = all(Condition::Lost, 0..8);
    hopeless.extend(all(FRESH, 8..12));
    assert_eq!(plan(&state("7/16", &hopeless), NOW), Err(RepairError::TooFewSources { reachable: 4, k: 7, silent: 4 }));
    assert_eq!(
        plan(&state("1/1", &[(0, Condition::Lost)]), NOW),
        Err(RepairError::TooFewSources { reachable: 0, k: 1, silent: 0 })
    );
    assert_eq!(planned(&state("1/1", &[(0, FRESH)])), None, "there is nothing to rebuild from, but it may come back");
    let mut short = state("7/16", &[]);
    short.shards.pop();
    assert_eq!(plan(&short, NOW), Err(RepairError::ShardCount { found: 15, n: 16 }));
    let mut long = state("7/16", &[]);
    long.shards[2] = vec![holder(1, Condition::Alive); HOLDERS_PER_SHARD_MAX + 1];
    let found = HOLDERS_PER_SHARD_MAX + 1;
    assert_eq!(plan(&long, NOW), Err(RepairError::Holders { index: ShardIndex::new(2), found }));
}

fn candidates(numbers: core::ops::Range<usize>) -> Vec<Candidate> {
    numbers
        .map(|number| Candidate {
            node: node(number),
            operator: None,
            addresses: vec![[127, 0, 0, 1].into()],
            region: None,
            standing: STANDING_FULL,
            free_bytes: GIB,
            proven_bytes: 0,
        })
        .collect()
}

#[test]
fn as_many_are_placed_as_there_are_nodes_for() {
    let plan = planned(&state("7/16", &all(Condition::Lost, 0..5))).expect("triggered");
    let none = BTreeSet::new();
    assert_eq!(place(&plan, &candidates(0..16), &[], &none, &[1; 32]), Err(RepairError::NoNode));
    let two = place(&plan, &candidates(0..18), &[], &none, &[1; 32]).expect("two are new");
    assert_eq!(two.iter().map(|(index, _)| index.get()).collect::<Vec<_>>(), [0, 1]);
    let failed = BTreeSet::from([node(16)]);
    let one = place(&plan, &candidates(0..18), &[], &failed, &[1; 32]).expect("one is left");
    assert_eq!(one, [(ShardIndex::new(0), node(17))]);
    assert_eq!(place(&plan, &candidates(0..60), &[], &none, &[1; 32]).map(|placed| placed.len()), Ok(5));
}

#[test]
fn before_publishing_what_others_did_meanwhile_is_dropped() {
    let mut later = state("7/16", &all(Condition::Lost, 0..3));
    later.shards[1].push(holder(50, Condition::Alive));
    later.shards[2][0].condition = Condition::Alive;
    let made: Vec<_> = (0..3).map(|index| (ShardIndex::new(index), node(60 + usize::from(index)))).collect();
    assert_eq!(still_wanted(&later, &made, NOW), Ok(vec![made[0]]));
    assert_eq!(still_wanted(&later, &[(ShardIndex::new(0), node(50))], NOW), Ok(vec![]), "that node got another shard");
}

#[test]
fn stewards_take_turns_that_all_of_them_know() {
    let stewards: Vec<[u8; 32]> = (0..5).map(|number| [number; 32]).collect();
    let mut firsts = BTreeMap::new();
    for segment in 0..=255u8 {
        let segment = SegmentId::new([segment; 32]);
        let delays: BTreeSet<_> =
            stewards.iter().map(|own| turn_delay(&stewards, own, segment, Urgency::Leave)).collect();
        assert_eq!(delays.len(), 5, "no two at a time");
        let first = stewards.iter().position(|own| turn_delay(&stewards, own, segment, Urgency::Leave).is_zero());
        *firsts.entry(first.expect("one begins at once")).or_insert(0) += 1;
        let stranger = turn_delay(&stewards, &[77; 32], segment, Urgency::Leave);
        assert!(delays.iter().all(|delay| *delay < stranger));
    }
    assert!(firsts.values().all(|count| *count > 25), "the work is shared: {firsts:?}");
}

fn plan_of(segment: u8, urgency: Urgency) -> Plan {
    let mut plan = planned(&state("7/16", &all(Condition::Lost, 0..3))).expect("triggered");
    plan.segment = SegmentId::new([segment; 32]);
    plan.urgency = urgency;
    plan
}

const fn floor(margin: u8) -> Urgency {
    Urgency::Floor { margin, narrowness: 0 }
}

const fn triggered(margin: u8) -> Urgency {
    Urgency::Triggered { margin, narrowness: 0 }
}

fn queue(concurrent: usize, bytes_per_second: u64) -> RepairQueue {
    RepairQueue::new(Budget { concurrent, bytes_per_second }, NOW)
}

#[test]
fn the_most_urgent_goes_first() {
    let mut queue = queue(100, u64::MAX / 4);
    let order = [floor(0), floor(3), triggered(1), triggered(6), Urgency::Move, Urgency::Leave];
    for (segment, urgency) in (0u8..6).zip(order).rev() {
        queue.offer(plan_of(segment, urgency), NOW).expect("there is room");
    }
    let mut documents = plan_of(9, triggered(1));
    documents.documents = true;
    queue.offer(documents, NOW).expect("there is room");
    let mut now = NOW;
    let begun: Vec<u8> = core::iter::from_fn(|| {
        now = now.after(Duration::from_secs(1));
        queue.next(now).map(|plan| plan.segment.as_bytes()[0])
    })
    .collect();
    assert_eq!(begun, [0, 1, 9, 2, 3, 4, 5]);
}

#[test]
fn a_suspect_node_that_counts_for_another_shard_is_nothing_to_count_on() {
    let holder = |number, condition| Holder { condition, ..Holder::alive(node(number), NOW.after(300 * DAY)) };
    let state = SegmentState {
        segment: SegmentId::new([1; 32]),
        policy: policy("2/4"),
        shard_bytes: 4096,
        documents: false,
        shards: vec![
            vec![holder(0, Condition::Suspect)],
            vec![holder(1, Condition::Alive)],
            vec![holder(0, Condition::Suspect)],
            vec![holder(2, Condition::Alive)],
        ],
    };
    let planned = plan(&state, NOW).expect("it can be read").expect("two shards are certain, and no more are needed");
    assert!(matches!(planned.urgency, Urgency::Floor { .. }), "{:?}", planned.urgency);
}

#[test]
fn concurrency_and_bandwidth_are_bounded() {
    let mut queue = queue(2, 1000);
    for segment in 0..4 {
        queue.offer(plan_of(segment, triggered(3)), NOW).expect("there is room");
    }
    assert!(queue.next(NOW).is_some());
    assert!(queue.next(NOW).is_none(), "10,000 bytes are owed");
    assert_eq!(queue.wake_at(NOW), Some(NOW.after(Duration::from_secs(10))));
    let ten = NOW.after(Duration::from_secs(10));
    assert!(queue.next(NOW.after(Duration::from_secs(9))).is_none());
    assert!(queue.next(ten).is_some());
    assert!(queue.next(NOW.after(Duration::from_secs(100))).is_none(), "two run");
    assert_eq!(queue.lengths(), (2, 2));
    queue.finish(SegmentId::new([0; 32]), true, ten).expect("it runs");
    assert!(queue.next(NOW.after(Duration::from_secs(100))).is_some());
    assert_eq!(queue.finish(SegmentId::new([0; 32]), true, ten), Err(QueueError::NotRunning(SegmentId::new([0; 32]))));
}

#[test]
fn what_is_stuck_backs_off_and_blocks_nobody() {
    let mut queue = queue(1, u64::MAX / 4);
    queue.offer(plan_of(0, floor(0)), NOW).expect("there is room");
    queue.offer(plan_of(1, Urgency::Leave), NOW).expect("there is room");
    let stuck = SegmentId::new([0; 32]);
    let mut now = NOW;
    let mut waits = Vec::new();
    for _ in 0..12 {
        let wait = queue.wake_at(now).expect("something waits").since(now);
        waits.push(wait);
        now = now.after(wait).after(Duration::from_secs(1));
        let begun = queue.next(now).expect("its time has come");
        if begun.segment == stuck {
            queue.finish(stuck, false, now).expect("it runs");
        } else {
            queue.finish(begun.segment, true, now).expect("it runs");
        }
    }
    assert_eq!(queue.lengths(), (1, 0), "the other was done in between");
    assert!(waits[1..].iter().all(|wait| *wait <= Duration::from_secs(6 * 3600)), "{waits:?}");
    assert!(*waits.last().expect("twelve") >= Duration::from_secs(3 * 3600), "{waits:?}");
    // A repair that never ends loses its place, too.
    now = now.after(DAY);
    assert_eq!(queue.next(now).map(|plan| plan.segment), Some(stuck));
    queue.offer(plan_of(2, Urgency::Leave), now).expect("there is room");
    assert_eq!(queue.next(now), None);
    assert_eq!(queue.next(now.after(DAY)).map(|plan| plan.segment), Some(SegmentId::new([2; 32])));
    assert!(queue.finish(stuck, true, now).is_err(), "it was given up");
}

#[test]
fn a_full_queue_keeps_what_is_more_urgent() {
    let mut queue = queue(1, 1);
    for number in 0..REPAIR_QUEUE_MAX {
        let mut plan = plan_of(0, triggered(5));
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.to_be_bytes());
        plan.segment = SegmentId::new(id);
        queue.offer(plan, NOW).expect("there is room");
    }
    assert_eq!(queue.offer(plan_of(200, triggered(5)), NOW), Err(QueueError::Full));
    queue.offer(plan_of(201, floor(0)), NOW).expect("it is more urgent");
    assert_eq!(queue.lengths().0, REPAIR_QUEUE_MAX);
    assert_eq!(queue.next(NOW).map(|plan| plan.segment), Some(SegmentId::new([201; 32])));
}

fn conditions() -> impl Strategy<Value = Condition> {
    prop_oneof![
        6 => Just(Condition::Alive),
        1 => Just(Condition::Suspect),
        2 => (0u64..48 * 3600).prop_map(|ago| Condition::Silent { since: NOW.before(Duration::from_secs(ago)) }),
        1 => Just(Condition::Leaving),
        1 => Just(Condition::BadStanding),
        3 => Just(Condition::Lost),
    ]
}

fn states() -> impl Strategy<Value = SegmentState> {
    let policies = prop_oneof![Just("1/2"), Just("2/4"), Just("4/8"), Just("7/16"), Just("16/40"), Just("1/1")];
    let holders =
        proptest::collection::vec(proptest::collection::vec((0usize..120, conditions(), -10i64..200), 0..3), 64);
    (policies, holders, any::<bool>(), any::<[u8; 32]>()).prop_map(|(text, holders, documents, segment)| {
        let policy = policy(text);
        let shards = holders.into_iter().take(policy.n().into());
        let shards = shards.map(|holders| {
            let holders = holders.into_iter().map(|(number, condition, days)| {
                let days = Duration::from_secs(days.unsigned_abs() * 86_400);
                Holder {
                    node: node(number),
                    condition,
                    lease_until: if days.is_zero() { NOW } else { NOW.after(days) },
                }
            });
            holders.collect()
        });
        let shards = shards.collect();
        SegmentState { segment: SegmentId::new(segment), policy, shard_bytes: 4096, documents, shards }
    })
}

proptest! {
    #[test]
    fn no_plan_gives_a_node_a_second_shard(state in states(), known in 0usize..200, seed: [u8; 32]) {
        let Ok(Some(plan)) = plan(&state, NOW) else { return Ok(()) };
        let known = candidates(0..known.min(200));
        let Ok(placed) = place(&plan, &known, &[], &BTreeSet::new(), &seed) else { return Ok(()) };
        prop_assert_eq!(&place(&plan, &known, &[], &BTreeSet::new(), &seed), &Ok(placed.clone()), "deterministic");
        let mut reversed = known.clone();
        reversed.reverse();
        prop_assert_eq!(place(&plan, &reversed, &[], &BTreeSet::new(), &seed), Ok(placed.clone()));
        let wanted = plan.wanted();
        let mut used: BTreeSet<NodeId> = state.shards.iter().flatten().map(|holder| holder.node).collect();
        for (index, node) in &placed {
            prop_assert!(wanted.contains(index));
            prop_assert!(used.insert(*node), "node {:?} holds one already", node);
            prop_assert!(known.iter().any(|candidate| candidate.node == *node));
        }
    }

    #[test]
    fn plans_keep_their_rules(state in states()) {
        let again = plan(&state, NOW);
        prop_assert_eq!(&again, &plan(&state, NOW), "deterministic");
        let Ok(Some(plan)) = again else { return Ok(()) };
        let wanted = plan.wanted();
        let once: BTreeSet<_> = wanted.iter().copied().collect();
        prop_assert_eq!(once.len(), wanted.len(), "no shard twice");
        prop_assert!(!wanted.is_empty() && wanted.iter().all(|index| index.get() < usize::from(state.policy.n())));
        prop_assert!(plan.kept.keys().all(|index| !once.contains(index)), "what stays is not moved");
        if let Some(rebuild) = &plan.rebuild {
            prop_assert!(rebuild.sources.len() >= usize::from(state.policy.k()));
            for (index, node) in &rebuild.sources {
                let readable = state.shards[index.get()].iter().any(|holder| {
                    let silent = matches!(holder.condition, Condition::Silent { .. });
                    holder.node == *node && holder.condition != Condition::Lost && !silent
                });
                prop_assert!(readable, "shard {} cannot be read there", index);
            }
        }
        // Below the floor it is first in the queue, whatever else is there.
        let sound = |holders: &Vec<Holder>| holders.iter().any(|holder| {
            matches!(holder.condition, Condition::Alive | Condition::Leaving) && holder.lease_until > NOW
        });
        let certain = state.shards.iter().filter(|holders| sound(holders)).count();
        if certain <= usize::from(hard_floor(state.policy)) && state.policy.m() > 0 {
            prop_assert!(matches!(plan.urgency, Urgency::Floor { .. }), "{} certain, {:?}", certain, plan.urgency);
            let mut queue = queue(1, 1);
            for (segment, urgency) in (0u8..).zip([triggered(0), Urgency::Move, Urgency::Leave]) {
                queue.offer(plan_of(segment, urgency), NOW).expect("there is room");
            }
            queue.offer(plan.clone(), NOW).expect("there is room");
            prop_assert_eq!(queue.next(NOW), Some(plan));
        }
    }

    #[test]
    fn losing_more_is_never_less_urgent(state in states(), place: prop::sample::Index) {
        let Ok(before) = plan(&state, NOW) else { return Ok(()) };
        let mut worse = state.clone();
        for holder in &mut worse.shards[place.index(state.shards.len())] {
            holder.condition = Condition::Lost;
        }
        match plan(&worse, NOW) {
            Err(RepairError::TooFewSources { .. }) => {}
            Err(other) => prop_assert!(false, "{other}"),
            Ok(after) => {
                let level = |plan: &Option<Plan>| plan.as_ref().map_or(3, |plan| match plan.urgency {
                    Urgency::Floor { .. } => 0,
                    Urgency::Triggered { .. } => 1,
                    Urgency::Move | Urgency::Leave => 2,
                });
                // A shard that was only to be moved is gone instead: then there may be nothing to do before the trigger.
                prop_assert!(level(&after) <= level(&before) || level(&before) == 2);
            }
        }
    }

    #[test]
    fn the_queue_never_exceeds_its_bounds(
        steps in proptest::collection::vec((0u8..12, 0u8..6, 0u64..4000, 0u8..4), 1..120), concurrent in 1usize..4,
    ) {
        let mut queue = queue(concurrent, 50);
        let mut now = NOW;
        let mut begun_bytes = 0u64;
        let mut largest = 0u64;
        for (segment, urgency, seconds, what) in steps {
            now = now.after(Duration::from_secs(seconds));
            match what {
                0 => queue.offer(plan_of(segment, triggered(urgency)), now).expect("there is room"),
                1 => drop(queue.finish(SegmentId::new([segment; 32]), urgency < 3, now)),
                2 => queue.withdraw(SegmentId::new([segment; 32])),
                _ => if let Some(plan) = queue.next(now) {
                    begun_bytes += plan.traffic_bytes();
                    largest = largest.max(plan.traffic_bytes());
                },
            }
            prop_assert!(queue.lengths().1 <= concurrent);
            prop_assert!(begun_bytes <= 50 * now.since(NOW).as_secs() + largest, "{begun_bytes} bytes");
            prop_assert!(queue.wake_at(now).is_none_or(|wake| wake >= now));
        }
    }
}
