//! Attempts of sessions as work that can be watched and given up.
//!
//! Decides that an attempt runs on a task of its own, so that hashing and copying of several use several cores, and
//! that it ends with whoever watches it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dolmen_proto::attempt::{AttemptId, Fault};
use futures::future::{BoxFuture, FutureExt as _};
use futures::stream::{BoxStream, StreamExt};
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::CallFault;
use super::gate::{Place, Turn};

/// How often a session hears of bytes that moved; far below every deadline that depends on them.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// What an attempt tells a session.
pub(crate) enum Told<T> {
    /// There is no connection to its node yet.
    Seeks,
    /// It waits for its turn.
    Waits,
    /// Its turn has come.
    Begins,
    /// So many bytes have moved in all.
    Progress(u64),
    /// It is over.
    Done(Result<T, CallFault>),
}

struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What `begin` makes, once there is a connection: at once where there is one.
pub(crate) fn once_reached<T, E>(
    attempt: AttemptId,
    mut reach: BoxFuture<'static, Result<(), CallFault>>,
    begin: impl FnOnce() -> BoxStream<'static, E> + Send + 'static,
    event: impl Fn(AttemptId, Told<T>) -> E + Send + 'static,
) -> BoxStream<'static, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    match (&mut reach).now_or_never() {
        Some(Ok(())) => begin(),
        Some(Err(fault)) => futures::stream::iter([event(attempt, Told::Done(Err(fault)))]).boxed(),
        None => {
            let seeks = event(attempt, Told::Seeks);
            let mut task = Task(tokio::spawn(reach));
            let rest = async move {
                match (&mut task.0).await.unwrap_or_else(|error| Err(CallFault::new(Fault::Local, error))) {
                    Ok(()) => futures::stream::iter([event(attempt, Told::Begins)]).chain(begin()).boxed(),
                    Err(fault) => futures::stream::iter([event(attempt, Told::Done(Err(fault)))]).boxed(),
                }
            };
            futures::stream::iter([seeks]).chain(futures::stream::once(rest).flatten()).boxed()
        }
    }
}

/// As [`watched`], once it is its turn.
pub(crate) fn watched_in_turn<T, E>(
    turn: Turn,
    attempt: AttemptId,
    work: BoxFuture<'static, Result<T, CallFault>>,
    moved: Arc<AtomicU64>,
    event: impl Fn(AttemptId, Told<T>) -> E + Clone + Send + 'static,
) -> BoxStream<'static, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let holding = |place: Option<Place>| async move {
        let _place = place;
        work.await
    };
    match turn {
        Turn::Now(place) => watched(attempt, Box::pin(holding(Some(place))), moved, event),
        Turn::Later(turn) => {
            let (waits, begins) = (event(attempt, Told::Waits), event.clone());
            let begun = async move {
                // Without a gate there is nothing to wait for.
                let place = turn.await.ok();
                let first = begins(attempt, Told::Begins);
                futures::stream::iter([first]).chain(watched(attempt, Box::pin(holding(place)), moved, event))
            };
            futures::stream::iter([waits]).chain(futures::stream::once(begun).flatten()).boxed()
        }
    }
}

/// Runs `work` on a task of its own and tells `event` of its progress, as counted by `moved`, and of its end.
///
/// Dropping the stream gives the work up.
pub(crate) fn watched<T, E>(
    attempt: AttemptId,
    work: BoxFuture<'static, Result<T, CallFault>>,
    moved: Arc<AtomicU64>,
    event: impl Fn(AttemptId, Told<T>) -> E + Send + 'static,
) -> BoxStream<'static, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    let mut ticks = interval(PROGRESS_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let state = Some((Task(tokio::spawn(work)), ticks, 0));
    futures::stream::unfold((state, event), move |(state, event)| {
        let moved = Arc::clone(&moved);
        async move {
            let (mut task, mut ticks, mut told) = state?;
            loop {
                tokio::select! {
                    biased;
                    done = &mut task.0 => {
                        let done = done.unwrap_or_else(|error| Err(CallFault::new(Fault::Local, error)));
                        return Some((event(attempt, Told::Done(done)), (None, event)));
                    }
                    _ = ticks.tick() => {
                        let bytes = moved.load(Ordering::Relaxed);
                        if bytes > told {
                            told = bytes;
                            return Some((event(attempt, Told::Progress(bytes)), (Some((task, ticks, told)), event)));
                        }
                    }
                }
            }
        }
    })
    .boxed()
}
