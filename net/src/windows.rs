//! Receive and send windows of all connections out of one memory budget.
//!
//! Decides how much every connection may buffer. Each starts with the same small windows, paid for before its
//! handshake; a window grows while its connection moves payload that somebody reads, to an equal share of the budget
//! among the connections at work, or half of all open ones where those are more. Never decides whether a peer deserves service: bytes of refused requests are not
//! read, so they grow nothing.
//!
//! What a peer may still send after a window shrinks it keeps until it sent it (QUIC takes no credit back), so a
//! shrunk receive window is paid back only as its bytes are read, as quinn counts it too.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quinn::VarInt;
use tokio::sync::Notify;

use crate::options::DataPlaneOptions;

/// The memory that windows come out of.
#[derive(Debug)]
pub(crate) struct WindowBudget {
    total_bytes: u64,
    start_bytes: u64,
    max_bytes: u64,
    used_bytes: AtomicU64,
    /// Connections that there are.
    open: AtomicU64,
    /// Connections that work on a request now.
    active: AtomicU64,
    shortage: Notify,
}

impl WindowBudget {
    pub(crate) fn new(options: &DataPlaneOptions) -> Arc<Self> {
        Arc::new(Self {
            total_bytes: options.memory_budget_bytes,
            start_bytes: options.window_start_bytes,
            max_bytes: options.window_max_bytes,
            used_bytes: AtomicU64::new(0),
            open: AtomicU64::new(0),
            active: AtomicU64::new(0),
            shortage: Notify::new(),
        })
    }

    /// Pays for both windows of a new connection; `None` when the budget has not that much left.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<Admission> {
        let bytes = self.start_bytes * 2;
        if self.reserve(bytes, self.total_bytes) {
            self.open.fetch_add(1, Ordering::Relaxed);
            return Some(Admission { budget: Arc::clone(self), bytes });
        }
        self.shortage.notify_waiters();
        None
    }

    /// What all windows hold now, in bytes; never over the budget.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Relaxed)
    }

    /// Waits until there was no room for a new connection. Idle connections should be closed then; never for the sake of a window
    /// that would only be faster if it grew: its connection works, and the idle one would have to be made anew.
    pub(crate) async fn shortage(&self) {
        self.shortage.notified().await;
    }

    /// What grown windows may take together: a quarter stays for newcomers.
    fn growth_ceiling_bytes(&self) -> u64 {
        self.total_bytes / 4 * 3
    }

    /// What one window may grow to while this many connections are at work. What a connection was promised it keeps when it
    /// has nothing to do, so half of all count as well: then the receive windows of nearly all of them together fit.
    fn share_bytes(&self) -> u64 {
        let active = self.active.load(Ordering::Relaxed);
        let counted = active.max(self.open.load(Ordering::Relaxed).div_ceil(2)).max(1);
        (self.growth_ceiling_bytes() / 2 / counted).clamp(self.start_bytes, self.max_bytes)
    }

    fn reserve(&self, bytes: u64, ceiling_bytes: u64) -> bool {
        self.used_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(bytes).filter(|sum| *sum <= ceiling_bytes)
            })
            .is_ok()
    }

    fn release(&self, bytes: u64) {
        self.used_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of the budget that belong to one connection; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admission {
    budget: Arc<WindowBudget>,
    bytes: u64,
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.budget.open.fetch_sub(1, Ordering::Relaxed);
        self.budget.release(self.bytes);
    }
}

impl Admission {
    fn grow(&mut self, bytes: u64) -> bool {
        let granted = self.budget.reserve(bytes, self.budget.growth_ceiling_bytes());
        if granted {
            self.bytes += bytes;
        }
        granted
    }

    fn shrink(&mut self, bytes: u64) {
        self.bytes -= bytes;
        self.budget.release(bytes);
    }
}

/// What windows are set on: quinn's connection, or a model of it in tests.
pub(crate) trait Windowed {
    fn set_receive_window(&self, bytes: u64);
    fn set_send_window(&self, bytes: u64);
}

impl Windowed for quinn::Connection {
    fn set_receive_window(&self, bytes: u64) {
        Self::set_receive_window(self, VarInt::from_u64(bytes).unwrap_or(VarInt::MAX));
    }

    fn set_send_window(&self, bytes: u64) {
        Self::set_send_window(self, bytes);
    }
}

/// The windows of one connection.
#[derive(Debug)]
pub(crate) struct ConnectionWindows<C: Windowed = quinn::Connection> {
    connection: C,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    admission: Admission,
    calls: usize,
    receive: Window,
    send_bytes: u64,
    sent_since_growth: u64,
}

#[derive(Debug)]
struct Window {
    /// What quinn was told.
    target_bytes: u64,
    /// What the peer may have us buffer: the target, and what it was promised before a shrink.
    held_bytes: u64,
    read_since_growth: u64,
}

impl<C: Windowed> ConnectionWindows<C> {
    /// The windows of a connection that was configured with the start sizes that `admission` paid for.
    pub(crate) fn new(connection: C, admission: Admission) -> Self {
        let start_bytes = admission.budget.start_bytes;
        Self {
            connection,
            state: Mutex::new(State {
                admission,
                calls: 0,
                receive: Window { target_bytes: start_bytes, held_bytes: start_bytes, read_since_growth: 0 },
                send_bytes: start_bytes,
                sent_since_growth: 0,
            }),
        }
    }

    pub(crate) fn connection(&self) -> &C {
        &self.connection
    }

    /// Requests that this connection works on now.
    pub(crate) fn calls(&self) -> usize {
        self.lock().calls
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin_call(&self) {
        let mut state = self.lock();
        state.calls += 1;
        if state.calls == 1 {
            state.admission.budget.active.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// An idle connection keeps no more than it started with, but for what its peer may still send.
    fn end_call(&self) {
        let mut state = self.lock();
        state.calls -= 1;
        if state.calls == 0 {
            let budget = Arc::clone(&state.admission.budget);
            budget.active.fetch_sub(1, Ordering::Relaxed);
            self.set_receive_target(&mut state, budget.start_bytes);
            self.set_send(&mut state, budget.start_bytes);
        }
    }

    /// Says that a payload of this many bytes is welcome, so that its sender need not wait for the window to grow.
    pub(crate) fn expect_receive(&self, bytes: u64) {
        let mut state = self.lock();
        let wanted = bytes.min(state.admission.budget.share_bytes());
        self.grow_receive(&mut state, wanted);
    }

    /// Says that a payload of this many bytes will be sent.
    pub(crate) fn expect_send(&self, bytes: u64) {
        let mut state = self.lock();
        let wanted = bytes.min(state.admission.budget.share_bytes());
        if wanted > state.send_bytes {
            self.set_send(&mut state, wanted);
        }
    }

    /// Counts payload that somebody read: pays back what a shrink left over, grows a window that is in full use.
    pub(crate) fn consumed(&self, bytes: u64) {
        let mut state = self.lock();
        let receive = &mut state.receive;
        let paid_back = bytes.min(receive.held_bytes - receive.target_bytes);
        receive.held_bytes -= paid_back;
        receive.read_since_growth += bytes;
        let (target, read) = (receive.target_bytes, receive.read_since_growth);
        state.admission.shrink(paid_back);
        let share = state.admission.budget.share_bytes();
        if target > share {
            self.set_receive_target(&mut state, share);
        } else if read >= target * 2 && target < share {
            state.receive.read_since_growth = 0;
            let wanted = (target * 2).min(share);
            self.grow_receive(&mut state, wanted);
        }
    }

    /// Counts payload that was written, and grows a send window that is in full use.
    pub(crate) fn produced(&self, bytes: u64) {
        let mut state = self.lock();
        state.sent_since_growth += bytes;
        let share = state.admission.budget.share_bytes();
        if state.send_bytes > share {
            self.set_send(&mut state, share);
        } else if state.sent_since_growth >= state.send_bytes * 2 && state.send_bytes < share {
            state.sent_since_growth = 0;
            let wanted = (state.send_bytes * 2).min(share);
            self.set_send(&mut state, wanted);
        }
    }

    /// Lets the peer have `wanted` bytes under way, counting what it was promised before.
    fn grow_receive(&self, state: &mut State, wanted: u64) {
        let more = wanted.saturating_sub(state.receive.held_bytes);
        if more > 0 && state.admission.grow(more) {
            state.receive.held_bytes += more;
            state.receive.target_bytes += more;
            self.connection.set_receive_window(state.receive.target_bytes);
        }
    }

    /// Shrinks the target; what is held falls as the peer's bytes are read.
    fn set_receive_target(&self, state: &mut State, bytes: u64) {
        if state.receive.target_bytes > bytes {
            state.receive.target_bytes = bytes;
            state.receive.read_since_growth = 0;
            self.connection.set_receive_window(bytes);
        }
    }

    fn set_send(&self, state: &mut State, bytes: u64) {
        let before = state.send_bytes;
        if bytes > before && !state.admission.grow(bytes - before) {
            return;
        }
        if bytes < before {
            state.admission.shrink(before - bytes);
        }
        if bytes != before {
            state.send_bytes = bytes;
            state.sent_since_growth = 0;
            self.connection.set_send_window(bytes);
        }
    }
}

/// One request's hold on its connection: while any lives, the connection is at work.
#[derive(Debug)]
pub(crate) struct CallGuard<C: Windowed = quinn::Connection> {
    windows: Arc<ConnectionWindows<C>>,
    /// Told when this request ends.
    ended: Arc<Notify>,
}

impl<C: Windowed> CallGuard<C> {
    pub(crate) fn new(windows: Arc<ConnectionWindows<C>>, ended: Arc<Notify>) -> Self {
        windows.begin_call();
        Self { windows, ended }
    }

    pub(crate) fn windows(&self) -> &ConnectionWindows<C> {
        &self.windows
    }
}

impl<C: Windowed> Drop for CallGuard<C> {
    fn drop(&mut self) {
        self.windows.end_call();
        self.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    const START: u64 = 64 * 1024;

    /// What quinn does with windows: the receive window as credit that reading renews, less the debt of a shrink.
    #[derive(Debug)]
    struct Model(Mutex<ModelState>);

    #[derive(Debug)]
    struct ModelState {
        window: u64,
        credit: u64,
        debt: u64,
        read: u64,
        send: u64,
    }

    impl Model {
        fn new() -> Self {
            Self(Mutex::new(ModelState { window: START, credit: START, debt: 0, read: 0, send: START }))
        }

        fn state(&self) -> MutexGuard<'_, ModelState> {
            self.0.lock().expect("no panic")
        }

        fn read(&self, bytes: u64) {
            let mut state = self.state();
            let absorbed = bytes.min(state.debt);
            state.read += bytes;
            state.debt -= absorbed;
            state.credit += bytes - absorbed;
        }

        fn outstanding(&self) -> u64 {
            let state = self.state();
            state.credit - state.read
        }

        fn window(&self) -> u64 {
            self.state().window
        }

        fn send(&self) -> u64 {
            self.state().send
        }
    }

    impl Windowed for Model {
        fn set_receive_window(&self, bytes: u64) {
            let mut state = self.state();
            let before = std::mem::replace(&mut state.window, bytes);
            state.credit += bytes.saturating_sub(before);
            state.debt += before.saturating_sub(bytes);
        }

        fn set_send_window(&self, bytes: u64) {
            self.state().send = bytes;
        }
    }

    fn options(budget: u64) -> DataPlaneOptions {
        DataPlaneOptions {
            memory_budget_bytes: budget,
            window_start_bytes: START,
            window_max_bytes: 1024 * 1024,
            ..Default::default()
        }
    }

    fn windows(budget: &Arc<WindowBudget>) -> Arc<ConnectionWindows<Model>> {
        Arc::new(ConnectionWindows::new(Model::new(), budget.admit().expect("room")))
    }

    fn call(connection: &Arc<ConnectionWindows<Model>>) -> CallGuard<Model> {
        CallGuard::new(Arc::clone(connection), Arc::default())
    }

    /// What all these connections could be made to buffer.
    fn promised(connections: &[Arc<ConnectionWindows<Model>>]) -> u64 {
        connections.iter().map(|c| c.connection.outstanding() + c.connection.send()).sum()
    }

    #[test]
    fn what_is_promised_is_paid_for_whatever_happens() {
        let budget = WindowBudget::new(&options(4 * 1024 * 1024));
        let connections: Vec<_> = (0..12).map(|_| windows(&budget)).collect();
        let mut guards: Vec<Option<CallGuard<Model>>> = connections.iter().map(|_| None).collect();
        let mut random = 1u64;
        for step in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let index = usize::try_from(random >> 33).expect("31 bits") % connections.len();
            let connection = &connections[index];
            let bytes = (random >> 20) % 300_000;
            match (random >> 10) % 6 {
                0 => guards[index] = Some(call(connection)),
                1 => guards[index] = None,
                2 if guards[index].is_some() => connection.expect_receive(bytes),
                3 if guards[index].is_some() => connection.expect_send(bytes),
                4 => connection.produced(bytes),
                _ => {
                    let bytes = bytes.min(connection.connection.outstanding());
                    connection.connection.read(bytes);
                    connection.consumed(bytes);
                }
            }
            assert_eq!(promised(&connections), budget.used_bytes(), "step {step}");
            assert!(budget.used_bytes() <= 4 * 1024 * 1024, "step {step}");
        }
        guards.clear();
        assert_eq!(budget.active.load(Ordering::Relaxed), 0);
        drop(connections);
        assert_eq!(budget.used_bytes(), 0, "everything is given back");
    }

    #[test]
    fn a_window_in_use_grows_and_an_idle_one_shrinks() {
        let budget = WindowBudget::new(&options(64 * 1024 * 1024));
        let connection = windows(&budget);
        let guard = call(&connection);
        for _ in 0..200 {
            connection.connection.read(START);
            connection.consumed(START);
            connection.produced(START);
        }
        assert_eq!(connection.connection.window(), 1024 * 1024);
        assert_eq!(connection.connection.send(), 1024 * 1024);
        drop(guard);
        assert_eq!(connection.connection.window(), START);
        assert_eq!(connection.connection.send(), START);
        assert_eq!(
            connection.lock().admission.bytes,
            1024 * 1024 + START,
            "the peer keeps its credit until it is used"
        );
    }

    #[test]
    fn a_known_length_grows_the_window_at_once() {
        let budget = WindowBudget::new(&options(64 * 1024 * 1024));
        let connection = windows(&budget);
        let _guard = call(&connection);
        connection.expect_receive(500_000);
        assert_eq!(connection.connection.window(), 500_000);
        connection.expect_receive(400_000);
        assert_eq!(connection.connection.window(), 500_000, "it is promised already");
        connection.expect_send(300_000);
        assert_eq!(connection.connection.send(), 300_000);
    }

    #[test]
    fn many_connections_share_and_newcomers_find_room() {
        let budget = WindowBudget::new(&options(4 * 1024 * 1024));
        let connections: Vec<_> = (0..8).map(|_| windows(&budget)).collect();
        let _guards: Vec<_> = connections.iter().map(call).collect();
        for connection in &connections {
            connection.expect_receive(1024 * 1024);
            connection.expect_send(1024 * 1024);
        }
        let share = budget.share_bytes();
        assert_eq!(share, 3 * 1024 * 1024 / 2 / 8);
        assert!(connections.iter().all(|c| c.connection.window() == share));
        assert!(budget.used_bytes() <= 3 * 1024 * 1024);
        let newcomers: Vec<_> = std::iter::from_fn(|| budget.admit()).collect();
        assert_eq!(newcomers.len(), 8, "a quarter of the budget admits 8 connections");
    }

    #[tokio::test]
    async fn a_window_that_cannot_grow_costs_nobody_a_connection() {
        let budget = WindowBudget::new(&options(4 * 1024 * 1024));
        let connections: Vec<_> = (0..8).map(|_| windows(&budget)).collect();
        let told = budget.shortage.notified();
        // One after the other: each is idle when the next begins, and keeps what its peer was promised.
        for connection in &connections {
            let _guard = call(connection);
            connection.expect_receive(1024 * 1024);
        }
        let grown = connections.iter().filter(|c| c.connection.outstanding() == 3 * 1024 * 1024 / 2 / 4).count();
        assert_eq!(grown, 6, "the last two find what may grow used up, and work with what they started with");
        assert!(told.now_or_never().is_none(), "nobody was asked to make room");
    }

    #[tokio::test]
    async fn a_shortage_is_told() {
        let budget = WindowBudget::new(&options(4 * START));
        let _one = budget.admit().expect("room for two");
        let _two = budget.admit().expect("room for two");
        let told = budget.shortage.notified();
        assert!(budget.admit().is_none());
        told.await;
    }
}
