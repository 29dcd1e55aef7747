//! A driver for tests: virtual time, a seeded source of chance, and a watch over what sessions promise drivers.

use core::fmt::Debug;
use core::time::Duration;
use std::collections::BTreeMap;

use crate::attempt::AttemptId;
use crate::ids::{NodeId, ShardIndex, Timestamp};
use crate::session::Session;

/// A session that takes more steps than this never ends.
const STEPS_MAX: u32 = 200_000;

/// Chance from a seed (splitmix64).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound.max(1)
    }

    pub(crate) fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Watches that no shard is tried twice at one node at the same time, and that only what was started is cancelled.
#[derive(Default)]
pub(crate) struct LiveAttempts(BTreeMap<AttemptId, (ShardIndex, NodeId, Option<Timestamp>)>);

impl LiveAttempts {
    /// An attempt begins that ends by itself at `end`, if ever.
    pub(crate) fn start(
        &mut self,
        id: AttemptId,
        shard: ShardIndex,
        node: NodeId,
        now: Timestamp,
        end: Option<Timestamp>,
    ) {
        let live = |until: &Option<Timestamp>| until.is_none_or(|until| until > now);
        let twice = self.0.values().any(|(other, at, until)| (*other, *at) == (shard, node) && live(until));
        assert!(!twice, "shard {shard} is tried twice at once at {node}");
        assert!(self.0.insert(id, (shard, node, end)).is_none(), "an attempt starts once");
    }

    /// An attempt is cancelled at `now`.
    pub(crate) fn cancel(&mut self, id: AttemptId, now: Timestamp) {
        let (_, _, end) = self.0.get_mut(&id).expect("only what was started is cancelled");
        *end = Some(end.map_or(now, |end| end.min(now)));
    }
}

/// Runs a session to its end: `react` tells what follows an action and after how long. Gives the outcome and the time
/// it took.
///
/// # Panics
/// When the session waits for nothing, asks to be woken in the past again and again, or never ends.
pub(crate) fn run<S>(
    mut session: S,
    start: Timestamp,
    mut react: impl FnMut(S::Action, Timestamp) -> Vec<(Duration, S::Event)>,
) -> (S::Outcome, Duration)
where
    S: Session,
    S::Outcome: Clone + Debug,
{
    let mut now = start;
    let mut queue: BTreeMap<(Timestamp, u32), S::Event> = BTreeMap::new();
    let mut number = 0;
    for _ in 0..STEPS_MAX {
        while let Some(action) = session.poll_action(now) {
            for (delay, event) in react(action, now) {
                queue.insert((now.after(delay), number), event);
                number += 1;
            }
        }
        if let Some(outcome) = session.outcome() {
            let outcome = outcome.clone();
            // What comes late must be ignored.
            for (_, event) in core::mem::take(&mut queue) {
                session.handle(event, now);
                assert!(session.poll_action(now).is_none(), "something is asked for after the end");
            }
            return (outcome, now.since(start));
        }
        let timeout = session.poll_timeout();
        let next = queue.first_key_value().map(|((time, _), _)| *time);
        match (next, timeout) {
            (None, None) => panic!("the session waits for nothing"),
            (Some(time), timeout) if timeout.is_none_or(|timeout| time <= timeout) => {
                now = now.max(time);
                let (_, event) = queue.pop_first().expect("there is a next one");
                session.handle(event, now);
            }
            (_, Some(timeout)) => {
                now = now.max(timeout);
                session.wake(now);
                assert!(session.poll_timeout().is_none_or(|next| next > now), "woken at {now:?}, wants it again");
            }
            (Some(_), None) => unreachable!("taken by the second arm"),
        }
    }
    panic!("the session never ends");
}
