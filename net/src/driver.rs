//! Runs any session of `dolmen-proto` on tokio: does its actions, feeds back events, arms one timer.
//!
//! Decides nothing about the protocol. The simulator drives the same sessions with virtual time instead.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dolmen_proto::ids::Timestamp;
use dolmen_proto::session::Session;
use futures::future::BoxFuture;
use futures::stream::{AbortHandle, Abortable, BoxStream, SelectAll, StreamExt};
use tokio::time::{Instant, sleep};

/// What an action comes to.
pub enum Step<E> {
    /// Work under an attempt's number, which tells events until it ends.
    Start {
        /// The attempt's number; a new attempt under the number of one that still runs replaces it.
        attempt: u64,
        /// Its events. Dropping it gives the work up.
        events: BoxStream<'static, E>,
    },
    /// Give an attempt up; it tells nothing more. One that ended is allowed.
    Cancel {
        /// The attempt's number.
        attempt: u64,
    },
    /// What the action came to is known at once.
    Event(E),
    /// Nothing comes of it.
    Nothing,
}

impl<E: 'static> Step<E> {
    /// Work that tells one event.
    pub fn once(attempt: u64, work: BoxFuture<'static, E>) -> Self {
        Self::Start { attempt, events: futures::stream::once(work).boxed() }
    }
}

/// Turns a session's actions into work.
///
/// Work is polled within the driver's own task: what computes for long belongs on a blocking thread.
pub trait Executor<S: Session> {
    /// What to do for `action`.
    fn execute(&mut self, action: S::Action) -> Step<S::Event>;
}

/// Where a driver has the time from.
pub trait Clock {
    /// The time now; never goes back.
    fn now(&self) -> Timestamp;
}

/// The system's time when it was made, running on without jumps.
#[derive(Debug, Clone, Copy)]
pub struct MonotonicClock {
    start: Timestamp,
    started: Instant,
}

impl MonotonicClock {
    /// A clock that starts at the system's time.
    #[must_use]
    pub fn start() -> Self {
        let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        Self { start: Timestamp::default().after(since_epoch), started: Instant::now() }
    }
}

impl Clock for MonotonicClock {
    fn now(&self) -> Timestamp {
        self.start.after(self.started.elapsed())
    }
}

/// Runs `session` to its end and gives what it came to. Dropping the future drops all work under way.
pub async fn run<S, X>(mut session: S, mut executor: X, clock: &(impl Clock + Sync)) -> S::Outcome
where
    S: Session,
    S::Event: Send + 'static,
    S::Outcome: Clone,
    X: Executor<S>,
{
    let mut work = SelectAll::new();
    let mut attempts: BTreeMap<u64, AbortHandle> = BTreeMap::new();
    loop {
        while let Some(action) = session.poll_action(clock.now()) {
            match executor.execute(action) {
                Step::Start { attempt, events } => {
                    let (handle, registration) = AbortHandle::new_pair();
                    if let Some(replaced) = attempts.insert(attempt, handle) {
                        replaced.abort();
                    }
                    work.push(Abortable::new(events, registration));
                }
                Step::Cancel { attempt } => {
                    if let Some(handle) = attempts.remove(&attempt) {
                        handle.abort();
                    }
                }
                Step::Event(event) => session.handle(event, clock.now()),
                Step::Nothing => {}
            }
        }
        if let Some(outcome) = session.outcome() {
            return outcome.clone();
        }
        let wake_at = session.poll_timeout();
        let wake_after = wake_at.map_or(Duration::MAX, |time| time.since(clock.now()));
        tokio::select! {
            biased;
            Some(event) = work.next(), if !work.is_empty() => session.handle(event, clock.now()),
            () = sleep(wake_after), if wake_at.is_some() => session.wake(clock.now()),
        }
    }
}
