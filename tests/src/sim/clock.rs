//! Virtual time: a queue of what happens when, and a pool of tasks that wait for it.
//!
//! Decides the order of events: by time, then by when they were planned. Time jumps from one event to the next and stands
//! still while tasks run. Never looks at a real clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use dolmen_proto::ids::Timestamp;
use futures::channel::oneshot;
use futures::executor::LocalPool;
use futures::future::Future;
use futures::task::LocalSpawnExt;

/// Events that wait at once; more mean that somebody plans without end.
const EVENTS_WAITING_MAX: usize = 200_000;
/// Events of one run; more mean that it never ends.
const EVENTS_MAX: u64 = 5_000_000;

type Deed = Box<dyn FnOnce()>;

/// The time and what is to come; clones are one clock.
#[derive(Clone)]
pub struct Clock {
    inner: Rc<Inner>,
}

struct Inner {
    now: Cell<Timestamp>,
    next_number: Cell<u64>,
    queue: RefCell<BTreeMap<(Timestamp, u64), Deed>>,
}

impl Clock {
    /// A clock that shows `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        let inner = Inner { now: Cell::new(start), next_number: Cell::new(0), queue: RefCell::default() };
        Self { inner: Rc::new(inner) }
    }

    /// The time.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.inner.now.get()
    }

    /// Has something done after `delay`.
    pub fn after(&self, delay: Duration, deed: impl FnOnce() + 'static) {
        let number = self.inner.next_number.get();
        self.inner.next_number.set(number + 1);
        let mut queue = self.inner.queue.borrow_mut();
        queue.insert((self.now().after(delay), number), Box::new(deed));
        assert!(queue.len() <= EVENTS_WAITING_MAX, "too many events wait: memory is not bounded");
    }

    /// Waits for `delay`.
    pub fn sleep(&self, delay: Duration) -> impl Future<Output = ()> + 'static {
        let (over, wait) = oneshot::channel();
        self.after(delay, move || {
            // Whoever slept may be gone.
            let _ = over.send(());
        });
        async move {
            // The queue keeps the sender until it is due.
            let _ = wait.await;
        }
    }

    /// Forgets all that was to come: events hold on to the world, and the world to its clock.
    pub fn stop(&self) {
        loop {
            // Dropping events may plan more, so never while the queue is borrowed.
            let events = std::mem::take(&mut *self.inner.queue.borrow_mut());
            if events.is_empty() {
                return;
            }
        }
    }

    /// Runs a task and all that it spawned through `pool` until the task is done; gives its result.
    ///
    /// # Panics
    /// When everybody waits and nothing is to come, or when it never ends.
    pub fn run<T: 'static>(&self, pool: &mut LocalPool, task: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(RefCell::new(None));
        let place = result.clone();
        let spawned = pool.spawner().spawn_local(async move {
            let value = task.await;
            *place.borrow_mut() = Some(value);
        });
        spawned.expect("the pool is there");
        for _ in 0..EVENTS_MAX {
            pool.run_until_stalled();
            if let Some(value) = result.borrow_mut().take() {
                return value;
            }
            let due = self.inner.queue.borrow_mut().pop_first();
            let Some(((time, _), deed)) = due else { panic!("everybody waits and nothing is to come") };
            self.inner.now.set(time);
            deed();
        }
        panic!("the run never ends");
    }
}
