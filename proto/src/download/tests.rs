//! Downloads in virtual time: what is asked of whom, and when it is over.

use super::*;
use crate::virtual_driver::{Chance, LiveAttempts, run};

const START: Timestamp = Timestamp::from_unix_ms(1_000_000);
const EXPECTED: Duration = Duration::from_millis(400);

fn node(number: u8) -> NodeId {
    NodeId::new([number; 32])
}

/// One holder a shard: node i holds shard i.
fn plan(policy: &str, wanted: impl IntoIterator<Item = u8>) -> DownloadPlan {
    let policy: Policy = policy.parse().expect("a policy of the test");
    DownloadPlan {
        policy,
        wanted: wanted.into_iter().map(ShardIndex::new).collect(),
        holders: (0..policy.n()).map(|shard| vec![node(shard)]).collect(),
        unmet: BTreeSet::new(),
        expected: EXPECTED,
        silent_after: silent_after(None),
    }
}

fn shards(indices: impl IntoIterator<Item = u8>) -> DownloadOutcome {
    DownloadOutcome::Ready { shards: indices.into_iter().map(ShardIndex::new).collect() }
}

/// Runs a download in which `answer` says what asking a node comes to; checks what holds for every download.
fn download(
    plan: DownloadPlan,
    mut answer: impl FnMut(ShardIndex, NodeId, AttemptId) -> Vec<(Duration, DownloadEvent)>,
) -> (DownloadOutcome, Duration, Vec<DownloadAction>) {
    let (policy, wanted) = (plan.policy, plan.wanted.clone());
    let session = DownloadSession::new(plan, START).expect("a plan of the test");
    let mut log = Vec::new();
    let mut live = LiveAttempts::default();
    let (outcome, took) = run(session, START, |action, now| {
        log.push(action);
        match action {
            DownloadAction::Fetch { attempt, shard, node } => {
                let events = answer(shard, node, attempt);
                let ends = |event: &DownloadEvent| {
                    matches!(event, DownloadEvent::Fetched { .. } | DownloadEvent::Failed { .. })
                };
                let last = events.iter().filter(|(_, event)| ends(event));
                live.start(attempt, shard, node, now, last.map(|(delay, _)| now.after(*delay)).min());
                events
            }
            DownloadAction::Cancel { attempt } => {
                live.cancel(attempt, now);
                Vec::new()
            }
        }
    });
    match &outcome {
        DownloadOutcome::Ready { shards } => {
            let all_wanted = wanted.iter().all(|shard| shards.contains(shard));
            assert!(all_wanted || shards.len() >= usize::from(policy.k()));
        }
        DownloadOutcome::Lost { found, needed } => assert!(found < needed),
        DownloadOutcome::Unreachable { fetched, needed, .. } => assert!(fetched < needed),
        DownloadOutcome::Local => {}
    }
    (outcome, took, log)
}

fn here(attempt: AttemptId, milliseconds: u64) -> (Duration, DownloadEvent) {
    (Duration::from_millis(milliseconds), DownloadEvent::Fetched { attempt })
}

fn fail(attempt: AttemptId, milliseconds: u64, fault: Fault) -> (Duration, DownloadEvent) {
    (Duration::from_millis(milliseconds), DownloadEvent::Failed { attempt, fault })
}

#[test]
fn only_the_wanted_shards_are_fetched_when_all_goes_well() {
    let (outcome, took, log) = download(plan("4/8", [1, 2]), |_, _, attempt| vec![here(attempt, 300)]);
    assert_eq!((outcome, took, log.len()), (shards([1, 2]), Duration::from_millis(300), 2));
}

#[test]
fn a_missing_shard_is_rebuilt_from_k_others() {
    let (outcome, took, _) = download(plan("4/8", 0..4), |shard, _, attempt| match shard.get() {
        1 => vec![fail(attempt, 10, Fault::NotHeld)],
        _ => vec![here(attempt, 300)],
    });
    assert_eq!((outcome, took), (shards([0, 2, 3, 4]), Duration::from_millis(310)));
}

#[test]
fn another_holder_of_a_slow_shard_is_asked_before_k_others_are() {
    let mut two = plan("4/8", [1]);
    two.holders[1].push(node(50));
    let (outcome, took, log) =
        download(two, |_, at, attempt| vec![here(attempt, if at == node(1) { 9000 } else { 100 })]);
    assert_eq!((outcome, took), (shards([1]), Duration::from_millis(700)));
    assert_eq!(log.len(), 3, "two fetches and a cancel: {log:?}");
}

#[test]
fn a_slow_shard_is_raced_at_one_and_a_half_times_the_expected_time() {
    let (outcome, took, log) = download(plan("4/8", 0..4), |shard, _, attempt| {
        vec![here(attempt, if shard.get() == 3 { 20_000 } else { 400 })]
    });
    assert_eq!((outcome, took), (shards([0, 1, 2, 4]), Duration::from_millis(600 + 400)));
    assert_eq!(log.last(), Some(&DownloadAction::Cancel { attempt: AttemptId(3) }));
}

fn seeks(attempt: AttemptId) -> (Duration, DownloadEvent) {
    (Duration::ZERO, DownloadEvent::Seeks { attempt })
}

fn begins(attempt: AttemptId, milliseconds: u64) -> (Duration, DownloadEvent) {
    (Duration::from_millis(milliseconds), DownloadEvent::Begins { attempt })
}

#[test]
fn silent_nodes_are_gone_around_as_soon_as_others_were_reached() {
    // Nodes 0 to 4 are dead: their dials end after five seconds.
    let (outcome, took, log) = download(plan("7/16", 0..7), |shard, _, attempt| match shard.get() {
        0..5 => vec![seeks(attempt), fail(attempt, 5_000, Fault::Unreachable)],
        _ => vec![seeks(attempt), begins(attempt, 10), here(attempt, 400)],
    });
    assert_eq!((outcome, took), (shards(5..12), Duration::from_millis(50 + 400)));
    assert_eq!(log.len(), 12 + 5, "twelve fetches, five given up: {log:?}");
}

#[test]
fn where_a_stranger_is_silent_those_who_were_met_are_asked_before_other_strangers() {
    // Nodes 0 to 3 were never met, and are dead.
    let plan = DownloadPlan { unmet: (0..4).map(node).collect(), ..plan("4/9", [0]) };
    let (outcome, took, log) = download(plan, |shard, _, attempt| match shard.get() {
        0..4 => vec![seeks(attempt), fail(attempt, 5_000, Fault::Unreachable)],
        _ => vec![here(attempt, 5)],
    });
    assert_eq!((outcome, took), (shards(4..8), Duration::from_millis(250 + 5)));
    assert_eq!(log.len(), 5 + 1, "one stranger in vain, and four that were met: {log:?}");
    // Where nobody else is left, strangers are as good as any.
    let plan = DownloadPlan { unmet: (0..9).map(node).collect(), ..self::plan("4/9", [0]) };
    let (outcome, _, _) = download(plan, |shard, _, attempt| match shard.get() {
        0 => vec![seeks(attempt), fail(attempt, 5_000, Fault::Unreachable)],
        _ => vec![seeks(attempt), begins(attempt, 10), here(attempt, 15)],
    });
    assert_eq!(outcome, shards(1..5));
}

#[test]
fn a_wrong_idea_of_silence_does_not_ask_everybody() {
    // Everybody is 700 ms away.
    let (_, took, log) =
        download(plan("4/20", 0..4), |_, _, attempt| vec![seeks(attempt), begins(attempt, 700), here(attempt, 1000)]);
    let fetches = log.iter().filter(|action| matches!(action, DownloadAction::Fetch { .. })).count();
    assert_eq!((took, fetches), (Duration::from_secs(1), 8), "silent at 250 ms, and not again before 750 ms");
}

#[test]
fn the_time_to_reach_a_node_is_not_counted_against_its_transfer() {
    let (_, took, log) = download(plan("2/4", 0..2), |shard, _, attempt| match shard.get() {
        0 => vec![seeks(attempt), begins(attempt, 200), here(attempt, 200 + 590)],
        _ => vec![seeks(attempt), begins(attempt, 200), here(attempt, 200 + 400)],
    });
    assert_eq!((took, log.len()), (Duration::from_millis(790), 2), "{log:?}");
}

#[test]
fn a_wrong_expectation_does_not_fetch_everything() {
    let mut hasty = plan("4/20", 0..4);
    hasty.expected = Duration::ZERO;
    let (_, took, log) = download(hasty, |_, _, attempt| vec![here(attempt, 1_400)]);
    let fetches = log.iter().filter(|action| matches!(action, DownloadAction::Fetch { .. })).count();
    assert_eq!((took, fetches), (Duration::from_millis(1_400), 12), "races at 30 and 530 ms, and no more");
}

#[test]
fn a_silent_node_is_given_up_and_asked_again_if_there_is_no_other() {
    let mut asked = 0;
    let (outcome, took, _) = download(plan("1/1", [0]), |_, _, attempt| {
        asked += 1;
        if asked == 2 { vec![here(attempt, 5)] } else { Vec::new() }
    });
    assert_eq!((outcome, took), (shards([0]), Duration::from_millis(30_000 + 1_000 + 5)));
}

#[test]
fn what_all_holders_deny_is_lost_and_what_cannot_be_reached_is_not() {
    let (outcome, _, _) = download(plan("4/8", 0..4), |shard, _, attempt| match shard.get() {
        0..5 => vec![fail(attempt, 10, if shard.get() == 2 { Fault::Misbehaved } else { Fault::NotHeld })],
        _ => vec![here(attempt, 5)],
    });
    assert_eq!(outcome, DownloadOutcome::Lost { found: 3, needed: 4 });
    let (outcome, _, _) = download(plan("4/8", 0..4), |shard, _, attempt| match shard.get() {
        0 => vec![fail(attempt, 10, Fault::Unreachable)],
        1..5 => vec![fail(attempt, 10, Fault::NotHeld)],
        _ => vec![here(attempt, 5)],
    });
    assert_eq!(outcome, DownloadOutcome::Unreachable { fetched: 3, gone: 4, needed: 4 });
}

#[test]
fn a_wanted_shard_is_enough_even_when_the_segment_cannot_be_rebuilt() {
    let (outcome, _, _) = download(plan("4/8", [0]), |shard, _, attempt| match shard.get() {
        0 => vec![here(attempt, 5_000)],
        _ => vec![fail(attempt, 5, Fault::NotHeld)],
    });
    assert_eq!(outcome, shards([0]));
}

#[test]
fn a_shard_that_nobody_holds_is_known_to_be_missing_from_the_start() {
    let mut degraded = plan("2/4", 0..2);
    degraded.holders[0].clear();
    let (outcome, took, _) = download(degraded, |_, _, attempt| vec![here(attempt, 100)]);
    assert_eq!((outcome, took), (shards([1, 2]), Duration::from_millis(100)));
    let mut nothing = plan("2/4", 0..2);
    nothing.holders.iter_mut().for_each(Vec::clear);
    let (outcome, _, log) = download(nothing, |_, _, _| Vec::new());
    assert_eq!((outcome, log.len()), (DownloadOutcome::Lost { found: 0, needed: 2 }, 0));
}

#[test]
fn a_fault_of_this_side_ends_the_download_at_once() {
    let (outcome, took, log) = download(plan("2/4", 0..2), |shard, _, attempt| match shard.get() {
        0 => vec![fail(attempt, 5, Fault::Local)],
        _ => vec![here(attempt, 100)],
    });
    assert_eq!((outcome, took), (DownloadOutcome::Local, Duration::from_millis(5)));
    assert_eq!(log.last(), Some(&DownloadAction::Cancel { attempt: AttemptId(1) }));
}

#[test]
fn plans_that_make_no_sense_are_refused() {
    let refused = |plan| DownloadSession::new(plan, START).err();
    assert_eq!(refused(plan("2/4", [])), Some(DownloadPlanError::Wanted));
    assert_eq!(refused(plan("2/4", [2])), Some(DownloadPlanError::Wanted));
    let mut short = plan("2/4", [0]);
    short.holders.pop();
    assert_eq!(refused(short), Some(DownloadPlanError::Holders));
}

#[test]
fn downloads_end_in_every_kind_of_weather_and_the_same_way_for_a_seed() {
    let mut outcomes = [0; 3];
    for seed in 0..2000 {
        let mut chance = Chance::new(seed);
        let policy = ["1/1", "1/2", "2/4", "7/16", "16/40"][usize::try_from(chance.below(5)).expect("below five")];
        let mut plan = plan(policy, [0]);
        let k = plan.policy.k();
        plan.wanted = (0..k).filter(|shard| *shard == 0 || chance.percent(70)).map(ShardIndex::new).collect();
        for holders in &mut plan.holders {
            for _ in 0..chance.below(3) {
                holders.insert(0, node(100 + u8::try_from(chance.below(20)).expect("below twenty")));
            }
        }
        let run_once = || {
            let mut chance = Chance::new(seed);
            let bad = 30 + chance.below(60);
            download(plan.clone(), move |_, _, attempt| {
                let slow = if chance.percent(20) { 100_000 } else { 2_000 };
                let milliseconds = chance.below(slow);
                let progress = DownloadEvent::Progress { attempt, bytes: chance.below(1 << 20) };
                let mut events = vec![(Duration::from_millis(chance.below(60_000)), progress)];
                if chance.percent(30) {
                    events.push(seeks(attempt));
                    if chance.percent(70) {
                        events.push(begins(attempt, chance.below(slow / 10)));
                    }
                }
                if !chance.percent(bad) {
                    events.push(here(attempt, milliseconds));
                    return events;
                }
                events.push(match chance.below(6) {
                    0 => return events,
                    1 => fail(attempt, milliseconds, Fault::Refused),
                    2 => fail(attempt, milliseconds, Fault::Misbehaved),
                    3 => fail(attempt, milliseconds, Fault::Busy { retry_after: None }),
                    4 => fail(attempt, milliseconds, Fault::NotHeld),
                    _ => fail(attempt, milliseconds, Fault::Unreachable),
                });
                if chance.percent(10) {
                    events.push(here(AttemptId(attempt.0 + 1000), milliseconds + 1));
                }
                events
            })
        };
        let first = run_once();
        assert_eq!(first, run_once(), "seed {seed}");
        outcomes[match first.0 {
            DownloadOutcome::Ready { .. } => 0,
            DownloadOutcome::Unreachable { .. } => 1,
            DownloadOutcome::Lost { .. } => 2,
            DownloadOutcome::Local => panic!("nobody failed here"),
        }] += 1;
    }
    assert!(outcomes.iter().all(|count| *count > 20), "the weather is too good or too bad: {outcomes:?}");
}
