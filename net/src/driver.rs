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

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::FutureExt;

    use super::*;

    /// Asks for the attempts 1 to 3, cancels 2 when 1 told, and gives up on 3 after a while.
    struct Toy {
        patience: Duration,
        actions: Vec<Action>,
        told: Vec<u64>,
        give_up_at: Option<Timestamp>,
        outcome: Option<Vec<u64>>,
        started: bool,
    }

    impl Toy {
        fn new(patience: Duration) -> Self {
            Self { patience, actions: vec![], told: vec![], give_up_at: None, outcome: None, started: false }
        }
    }

    enum Action {
        Start(u64),
        Cancel(u64),
        Know(u64),
    }

    impl Session for Toy {
        type Event = u64;
        type Action = Action;
        type Outcome = Vec<u64>;

        fn handle(&mut self, event: u64, _: Timestamp) {
            if event == 1 {
                self.actions.extend([Action::Cancel(2), Action::Know(7)]);
            }
            self.told.push(event);
        }

        fn wake(&mut self, now: Timestamp) {
            if self.give_up_at.is_some_and(|at| now >= at) {
                self.outcome = Some(self.told.clone());
            }
        }

        fn poll_action(&mut self, now: Timestamp) -> Option<Action> {
            if !self.started {
                self.started = true;
                self.give_up_at = Some(now.after(self.patience));
                self.actions.extend([Action::Start(3), Action::Start(2), Action::Start(1)]);
            }
            self.actions.pop()
        }

        fn poll_timeout(&self) -> Option<Timestamp> {
            self.give_up_at
        }

        fn outcome(&self) -> Option<&Vec<u64>> {
            self.outcome.as_ref()
        }
    }

    /// Counts itself down when it is dropped.
    struct Alive(Arc<AtomicUsize>);

    impl Drop for Alive {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    struct Works(Arc<AtomicUsize>);

    impl Executor<Toy> for Works {
        fn execute(&mut self, action: Action) -> Step<u64> {
            match action {
                Action::Know(event) => Step::Event(event),
                Action::Cancel(attempt) => Step::Cancel { attempt },
                Action::Start(attempt) => {
                    self.0.fetch_add(1, Ordering::Relaxed);
                    let alive = Alive(Arc::clone(&self.0));
                    let work = async move {
                        let _alive = alive;
                        if attempt > 1 {
                            std::future::pending::<()>().await;
                        }
                        attempt
                    };
                    Step::once(attempt, work.boxed())
                }
            }
        }
    }

    #[tokio::test]
    async fn events_come_back_attempts_are_cancelled_and_time_passes() {
        let alive = Arc::new(AtomicUsize::new(0));
        let clock = MonotonicClock::start();
        let began = clock.now();
        let patience = Duration::from_millis(20);
        let told = run(Toy::new(patience), Works(Arc::clone(&alive)), &clock).await;
        assert_eq!(told, [1, 7]);
        assert!(clock.now().since(began) >= patience);
        assert_eq!(alive.load(Ordering::Relaxed), 0, "the work that was left is dropped");
    }

    #[tokio::test]
    async fn dropping_a_run_drops_its_work() {
        let alive = Arc::new(AtomicUsize::new(0));
        let clock = MonotonicClock::start();
        let mut running = Box::pin(run(Toy::new(Duration::from_secs(3600)), Works(Arc::clone(&alive)), &clock));
        while alive.load(Ordering::Relaxed) != 1 {
            // 1 ends and 2 is cancelled; 3 works on.
            assert!(futures::poll!(&mut running).is_pending(), "over too soon");
            tokio::task::yield_now().await;
        }
        drop(running);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
}
