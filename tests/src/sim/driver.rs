//! The simulator's driver of sessions: the same machines that `net::driver` runs on tokio, in virtual time.
//!
//! Decides nothing that a session decides. Watches what sessions promise their drivers: that they end, within bounded time,
//! with a bounded number of attempts, and cancel only what they started.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dolmen_proto::attempt::AttemptId;
use dolmen_proto::session::Session;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use futures::future::{AbortHandle, Abortable, LocalBoxFuture};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt, select_biased};

use super::world::World;

/// No session of a few kilobytes may take longer, whatever the network does.
const SESSION_MAX: Duration = Duration::from_secs(1800);

/// What an action of a session comes to.
pub enum Step<E> {
    /// Begin an attempt; the future gives the event that ends it.
    Start(AttemptId, LocalBoxFuture<'static, E>),
    /// Give an attempt up.
    Cancel(AttemptId),
}

/// Runs `session` to its end; `start` turns actions into steps and may send further events, such as progress.
///
/// # Panics
/// When the session breaks a promise; `attempts_max` is how many attempts it may make.
pub async fn drive<S: Session>(
    world: &Rc<World>,
    name: &'static str,
    mut session: S,
    attempts_max: usize,
    mut start: impl FnMut(S::Action, &UnboundedSender<S::Event>) -> Step<S::Event>,
) -> S::Outcome
where
    S::Outcome: Clone + std::fmt::Debug,
{
    let began = world.clock.now();
    let (sender, mut progress) = unbounded();
    let mut attempts = FuturesUnordered::new();
    let mut handles: BTreeMap<AttemptId, AbortHandle> = BTreeMap::new();
    loop {
        let now = world.clock.now();
        while let Some(action) = session.poll_action(now) {
            match start(action, &sender) {
                Step::Start(id, future) => {
                    let (handle, registration) = AbortHandle::new_pair();
                    assert!(handles.insert(id, handle).is_none(), "{name}: an attempt starts once");
                    assert!(handles.len() <= attempts_max, "{name}: more than {attempts_max} attempts");
                    attempts.push(Abortable::new(future, registration));
                }
                Step::Cancel(id) => handles.get(&id).expect("only what was started is cancelled").abort(),
            }
        }
        let took = now.since(began);
        assert!(took <= SESSION_MAX, "{name}: not over after {took:?} of virtual time");
        if let Some(outcome) = session.outcome() {
            world.trace(name, now.as_unix_ms() - began.as_unix_ms(), handles.len() as u64);
            return outcome.clone();
        }
        let timeout = session.poll_timeout();
        assert!(timeout.is_some() || !attempts.is_empty(), "{name}: waits for nothing");
        let due = timeout.map_or(SESSION_MAX, |timeout| timeout.since(now));
        let mut timer = world.clock.sleep(due).boxed_local().fuse();
        select_biased! {
            ended = attempts.select_next_some() => if let Ok(event) = ended {
                session.handle(event, world.clock.now());
            },
            event = progress.select_next_some() => session.handle(event, world.clock.now()),
            () = timer => {
                session.wake(world.clock.now());
                let next = session.poll_timeout();
                assert!(next.is_none_or(|next| next > world.clock.now()), "{name}: wants to be woken in the past");
            },
        }
    }
}
