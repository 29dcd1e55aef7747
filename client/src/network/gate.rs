//! How many whole shards are on their way at a time: to and from all nodes, and to and from each.
//!
//! Decides who goes next when there is a place: whoever waited longest among those whose node has one. The numbers are
//! [`Goodput`]'s, fed with what moved and with what connections say of the way. Small reads do not pass here: they would
//! wait behind bulk.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use dolmen_net::PathReport;
use dolmen_net::driver::{Clock as _, MonotonicClock};
use dolmen_proto::goodput::{Goodput, LineReport};
use dolmen_proto::ids::{NodeId, Timestamp};
use tokio::sync::oneshot;

/// How often what moved is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// A transfer of which nothing moved for so many looks keeps nobody else waiting: dead nodes would hold all places until
/// their connections time out.
const LOOKS_OF_PATIENCE: u32 = 5;

/// Where bulk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    /// To nodes.
    Up,
    /// From nodes.
    Down,
}

/// Numbers of transfers that earlier runs ended with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub(crate) struct Transfers {
    pub(crate) up: Option<u32>,
    pub(crate) down: Option<u32>,
}

/// What connections are like now.
pub(crate) type Paths = Arc<dyn Fn() -> Vec<(NodeId, PathReport)> + Send + Sync>;

/// Lets transfers through. Clones share the places.
#[derive(Clone)]
pub(crate) struct Gate {
    up: Arc<Lane>,
    down: Arc<Lane>,
}

/// One direction.
struct Lane {
    direction: Direction,
    paths: Paths,
    clock: Clock,
    state: Mutex<State>,
}

type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

struct State {
    all: Goodput,
    nodes: BTreeMap<NodeId, Node>,
    waiting: VecDeque<Waiting>,
    running: Vec<Running>,
    next: u64,
    /// A task looks at what moved.
    watched: bool,
    seen: BTreeMap<NodeId, Seen>,
}

struct Waiting {
    node: NodeId,
    moved: Arc<AtomicU64>,
    turn: oneshot::Sender<Place>,
}

struct Node {
    goodput: Goodput,
    running: u32,
}

struct Running {
    number: u64,
    node: NodeId,
    moved: Arc<AtomicU64>,
    counted: u64,
    /// How often it was looked at since something moved.
    silent_looks: u32,
}

/// What a connection said last.
#[derive(Clone, Copy)]
struct Seen {
    /// The shortest round trip that there was.
    round_trip: Duration,
    sent_bytes: u64,
    sent: u64,
    lost: u64,
}

/// A transfer's place; given back when dropped.
pub(crate) struct Place {
    lane: Weak<Lane>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(lane) = self.lane.upgrade() {
            lane.leave(self.number);
        }
    }
}

/// What asking for a place comes to.
pub(crate) enum Turn {
    /// There is one.
    Now(Place),
    /// There will be one; an error means that the gate is gone, and nobody is to be held up by that.
    Later(oneshot::Receiver<Place>),
}

impl Gate {
    pub(crate) fn new(remembered: Transfers, paths: Paths) -> Self {
        let monotonic = MonotonicClock::start();
        Self::with_clock(remembered, paths, &(Arc::new(move || monotonic.now()) as Clock))
    }

    fn with_clock(remembered: Transfers, paths: Paths, clock: &Clock) -> Self {
        let lane = |direction, remembered| {
            Arc::new(Lane {
                direction,
                paths: Arc::clone(&paths),
                clock: Arc::clone(clock),
                state: Mutex::new(State {
                    all: Goodput::new(remembered, clock()),
                    nodes: BTreeMap::new(),
                    waiting: VecDeque::new(),
                    running: Vec::new(),
                    next: 0,
                    watched: false,
                    seen: BTreeMap::new(),
                }),
            })
        };
        Self { up: lane(Direction::Up, remembered.up), down: lane(Direction::Down, remembered.down) }
    }

    /// Asks for a place for a transfer with `node` whose bytes `moved` counts.
    pub(crate) fn enter(&self, direction: Direction, node: NodeId, moved: Arc<AtomicU64>) -> Turn {
        let lane = match direction {
            Direction::Up => &self.up,
            Direction::Down => &self.down,
        };
        lane.enter(node, moved)
    }

    /// What the next run should start from.
    pub(crate) fn transfers(&self) -> Transfers {
        let limit = |lane: &Lane| {
            let state = lane.lock();
            // A direction that was not used says nothing.
            (state.next > 0).then(|| state.all.limit())
        };
        Transfers { up: limit(&self.up), down: limit(&self.down) }
    }
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(self: &Arc<Self>, node: NodeId, moved: Arc<AtomicU64>) -> Turn {
        let mut state = self.lock();
        if !state.watched {
            state.watched = true;
            tokio::spawn(watch(Arc::downgrade(self)));
        }
        let now = (self.clock)();
        state.nodes.entry(node).or_insert_with(|| Node { goodput: Goodput::new(None, now), running: 0 });
        if state.has_place(node) {
            return Turn::Now(self.admit(&mut state, node, moved));
        }
        let (turn, receiver) = oneshot::channel();
        state.waiting.push_back(Waiting { node, moved, turn });
        Turn::Later(receiver)
    }

    fn admit(self: &Arc<Self>, state: &mut State, node: NodeId, moved: Arc<AtomicU64>) -> Place {
        let number = state.next;
        state.next += 1;
        if let Some(node) = state.nodes.get_mut(&node) {
            node.running += 1;
        }
        let counted = moved.load(Ordering::Relaxed);
        state.running.push(Running { number, node, moved, counted, silent_looks: 0 });
        Place { lane: Arc::downgrade(self), number }
    }

    fn leave(self: &Arc<Self>, number: u64) {
        let mut state = self.lock();
        let Some(index) = state.running.iter().position(|running| running.number == number) else { return };
        let mut running = state.running.swap_remove(index);
        // Upwards the rest is in what its connection has sent.
        let counts = self.direction == Direction::Down || state.seen.is_empty();
        running.count(&mut state, counts);
        if let Some(node) = state.nodes.get_mut(&running.node) {
            node.running = node.running.saturating_sub(1);
        }
        let admitted = self.admit_waiting(&mut state);
        // A place that nobody takes any more comes back here.
        drop(state);
        for (turn, place) in admitted {
            let _ = turn.send(place);
        }
    }

    /// Gives places to those who waited longest.
    fn admit_waiting(self: &Arc<Self>, state: &mut State) -> Vec<(oneshot::Sender<Place>, Place)> {
        let mut admitted = Vec::new();
        while let Some(index) = state.waiting.iter().position(|waiting| state.has_place(waiting.node)) {
            let Some(Waiting { node, moved, turn }) = state.waiting.remove(index) else { break };
            if !turn.is_closed() {
                let place = self.admit(state, node, moved);
                admitted.push((turn, place));
            }
        }
        admitted
    }

    /// Looks at what moved; `None` when there is nothing to look at any more.
    fn look(self: &Arc<Self>) -> Option<Vec<(oneshot::Sender<Place>, Place)>> {
        // Asked before the lock is taken: it looks at every connection.
        let paths = (self.paths)();
        let now = (self.clock)();
        let mut state = self.lock();
        if state.running.is_empty() && state.waiting.is_empty() {
            state.watched = false;
            return None;
        }
        let sent_counts = state.take_in(self.direction, &paths);
        let mut running = std::mem::take(&mut state.running);
        for running in &mut running {
            let before = running.counted;
            running.count(&mut state, !sent_counts);
            running.silent_looks = if running.counted > before { 0 } else { running.silent_looks.saturating_add(1) };
        }
        state.running = running;
        let (all, waiting) = (state.all.limit(), state.waiting.iter().map(|waiting| waiting.node).collect::<Vec<_>>());
        if state.moving() >= all as usize && !waiting.is_empty() {
            state.all.waits();
        }
        for node in waiting {
            // Held up by the node's own number, not by that of all.
            if let Some(node) = state.nodes.get_mut(&node).filter(|node| node.running >= node.goodput.limit()) {
                node.goodput.waits();
            }
        }
        state.all.advance(now);
        for node in state.nodes.values_mut() {
            node.goodput.advance(now);
        }
        tracing::trace!(
            direction = ?self.direction,
            limit = state.all.limit(),
            running = state.running.len(),
            moving = state.moving(),
            waiting = state.waiting.len(),
            "looked at transfers"
        );
        Some(self.admit_waiting(&mut state))
    }
}

impl State {
    fn has_place(&self, node: NodeId) -> bool {
        let of_node = self.nodes.get(&node).is_none_or(|node| node.running < node.goodput.limit());
        of_node && self.moving() < self.all.limit() as usize
    }

    /// Transfers that something moves of, or that have only begun.
    fn moving(&self) -> usize {
        self.running.iter().filter(|running| running.silent_looks < LOOKS_OF_PATIENCE).count()
    }

    /// What connections say, together and each. Tells whether that includes what moved: upwards a transfer counts bytes when its connection
    /// takes them, up to a window before they leave, and the first number tried would look many times as good as all that follow.
    fn take_in(&mut self, direction: Direction, paths: &[(NodeId, PathReport)]) -> bool {
        let mut together = LineReport::default();
        let mut queueing = Vec::new();
        for (node, path) in paths {
            // What a connection sent before it was looked at first was little, or belongs to what is judged now.
            let seen = self.seen.entry(*node).or_insert(Seen {
                round_trip: path.round_trip,
                sent_bytes: 0,
                sent: path.packets_sent,
                lost: path.packets_lost,
            });
            // A new connection counts from nothing.
            let sent = path.packets_sent.checked_sub(seen.sent).unwrap_or(path.packets_sent);
            let lost = path.packets_lost.checked_sub(seen.lost).unwrap_or(path.packets_lost);
            let sent_bytes = path.bytes_sent.checked_sub(seen.sent_bytes).unwrap_or(path.bytes_sent);
            *seen = Seen {
                round_trip: seen.round_trip.min(path.round_trip),
                sent_bytes: path.bytes_sent,
                sent: path.packets_sent,
                lost: path.packets_lost,
            };
            let round_trip = seen.round_trip;
            if direction == Direction::Up {
                self.all.moved(sent_bytes);
                if let Some(node) = self.nodes.get_mut(node) {
                    node.goodput.moved(sent_bytes);
                }
            }
            if !self.running.iter().any(|running| running.node == *node) {
                continue;
            }
            // On this machine nothing is between the ends but the processor's time.
            let own = path.address.ip().is_loopback() && !is_shaped(path.address.ip(), path.datagram_bytes);
            // What was lost on the way here the other end knows.
            let counts = direction == Direction::Up && !own;
            let report = LineReport {
                round_trip,
                queueing: if own { Duration::ZERO } else { path.round_trip.saturating_sub(round_trip) },
                packets_sent: if counts { sent } else { 0 },
                packets_lost: if counts { lost } else { 0 },
            };
            queueing.push(report.queueing);
            together.round_trip = together.round_trip.max(round_trip);
            together.packets_sent += report.packets_sent;
            together.packets_lost += report.packets_lost;
            if let Some(node) = self.nodes.get_mut(node) {
                node.goodput.line(report);
            }
        }
        // What most connections see is the line they share; what one sees is its node's.
        queueing.sort_unstable();
        together.queueing = queueing.get(queueing.len() / 2).copied().unwrap_or_default();
        self.all.line(together);
        direction == Direction::Up && !paths.is_empty()
    }
}

/// Loopback with the datagrams of other paths has a shaper on it: it is to be treated as what it plays.
fn is_shaped(address: IpAddr, datagram_bytes: u16) -> bool {
    address.is_loopback() && datagram_bytes <= 1500
}

impl Running {
    /// Counts what moved since it was looked at last, as goodput where nothing better says what that is.
    fn count(&mut self, state: &mut State, as_goodput: bool) {
        let moved = self.moved.load(Ordering::Relaxed);
        let more = moved.saturating_sub(self.counted);
        self.counted = moved;
        if !as_goodput {
            return;
        }
        state.all.moved(more);
        if let Some(node) = state.nodes.get_mut(&self.node) {
            node.goodput.moved(more);
        }
    }
}

async fn watch(lane: Weak<Lane>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(lane) = lane.upgrade() else { return };
        let Some(admitted) = lane.look() else { return };
        for (turn, place) in admitted {
            let _ = turn.send(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dolmen_proto::limits::TRANSFERS_AT_ONCE_LEAST;

    fn node(number: u8) -> NodeId {
        NodeId::new([number; 32])
    }

    /// A gate whose time is `now`, in milliseconds, and that nobody looks at but the test.
    fn gate(remembered: Transfers, now: &Arc<AtomicU64>) -> Gate {
        let now = Arc::clone(now);
        let clock: Clock = Arc::new(move || Timestamp::from_unix_ms(now.load(Ordering::Relaxed)));
        let gate = Gate::with_clock(remembered, Arc::new(Vec::new), &clock);
        gate.up.lock().watched = true;
        gate
    }

    fn enter(gate: &Gate, number: u8, moved: &Arc<AtomicU64>) -> Turn {
        gate.enter(Direction::Up, node(number), Arc::clone(moved))
    }

    #[test]
    fn places_grow_while_more_moves_and_are_handed_on_in_order() {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let gate = gate(Transfers::default(), &now);
        let moved = Arc::new(AtomicU64::new(0));
        let (mut places, mut waiting) = (Vec::new(), VecDeque::new());
        for number in 0..40 {
            match enter(&gate, number, &moved) {
                Turn::Now(place) => places.push(place),
                Turn::Later(turn) => waiting.push_back(turn),
            }
        }
        assert_eq!(places.len(), TRANSFERS_AT_ONCE_LEAST as usize);
        // Each that runs moves as much, so more of them move more.
        for _ in 0..30 {
            moved.fetch_add(10_000, Ordering::Relaxed);
            now.fetch_add(100, Ordering::Relaxed);
            for (turn, place) in gate.up.look().expect("some run") {
                assert!(turn.send(place).is_ok(), "all wait");
            }
            while let Some(Ok(place)) = waiting.front_mut().map(oneshot::Receiver::try_recv) {
                places.push(place);
                waiting.pop_front();
            }
        }
        assert!(places.len() > 10, "only {} run", places.len());
        drop(places);
        for mut turn in waiting {
            assert!(turn.try_recv().is_ok(), "a place for everybody, one after the other");
        }
        assert!(gate.transfers().up.is_some_and(|limit| limit > 10));
        assert_eq!(gate.transfers().down, None, "nothing came down");
    }

    #[test]
    fn one_node_does_not_hold_up_the_others() {
        let gate = gate(Transfers { up: Some(64), down: None }, &Arc::default());
        let moved = Arc::new(AtomicU64::new(0));
        let turns: Vec<Turn> = (0..10).map(|_| enter(&gate, 1, &moved)).collect();
        let at_once = turns.iter().filter(|turn| matches!(turn, Turn::Now(_))).count();
        assert_eq!(at_once, TRANSFERS_AT_ONCE_LEAST as usize);
        assert!(matches!(enter(&gate, 2, &moved), Turn::Now(_)));
    }

    #[test]
    fn dead_nodes_do_not_hold_the_places_of_others() {
        let now = Arc::new(AtomicU64::new(1_000_000));
        let gate = gate(Transfers::default(), &now);
        let silence = Arc::new(AtomicU64::new(0));
        let _dead: Vec<Turn> = (0..2).map(|number| enter(&gate, number, &silence)).collect();
        let Turn::Later(mut turn) = enter(&gate, 9, &Arc::default()) else { panic!("there was a place") };
        let mut looks = 0;
        let _place = loop {
            if let Ok(place) = turn.try_recv() {
                break place;
            }
            now.fetch_add(100, Ordering::Relaxed);
            looks += 1;
            assert!(looks <= LOOKS_OF_PATIENCE, "the living wait for the dead");
            for (turn, place) in gate.up.look().expect("some run") {
                assert!(turn.send(place).is_ok(), "it waits");
            }
        };
    }

    #[tokio::test]
    async fn upwards_what_connections_sent_counts_and_not_what_they_took() {
        let (now, sent) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let clock: Clock = {
            let now = Arc::clone(&now);
            Arc::new(move || Timestamp::from_unix_ms(now.load(Ordering::Relaxed)))
        };
        let bytes = Arc::clone(&sent);
        let path = move || PathReport {
            address: "192.0.2.1:1".parse().expect("an address"),
            class: dolmen_net::PathClass::Internet,
            datagram_bytes: 1452,
            black_holes_detected: 0,
            round_trip: Duration::from_millis(20),
            packets_sent: 0,
            packets_lost: 0,
            bytes_sent: bytes.load(Ordering::Relaxed),
            bytes_received: 0,
            datagrams_per_100_sends: 100,
        };
        let gate = Gate::with_clock(Transfers::default(), Arc::new(move || vec![(node(0), path())]), &clock);
        let moved: Vec<_> = (0..40).map(|_| Arc::new(AtomicU64::new(0))).collect();
        let mut turns: Vec<_> = (0..40)
            .map(|number| gate.enter(Direction::Up, node(number), Arc::clone(&moved[usize::from(number)])))
            .collect();
        let mut limits = Vec::new();
        for look in 0..5 {
            // Windows take all at once, and the line carries more with each transfer.
            for (turn, moved) in turns.iter().zip(&moved) {
                if matches!(turn, Turn::Now(_)) {
                    moved.store(8_000_000, Ordering::Relaxed);
                }
            }
            now.fetch_add(100, Ordering::Relaxed);
            sent.fetch_add(100_000 << look, Ordering::Relaxed);
            for (turn, place) in gate.up.look().expect("some run") {
                let _ = turn.send(place);
            }
            for turn in &mut turns {
                if let Turn::Later(later) = turn
                    && let Ok(place) = later.try_recv()
                {
                    *turn = Turn::Now(place);
                }
            }
            limits.push(gate.transfers().up.expect("in use"));
        }
        assert_eq!(limits, [4, 8, 16, 32, 64], "doubled as long as more goes out");
    }

    #[test]
    fn who_stops_waiting_takes_no_place() {
        let gate = gate(Transfers::default(), &Arc::default());
        let moved = Arc::new(AtomicU64::new(0));
        let running: Vec<Turn> = (0..2).map(|number| enter(&gate, number, &moved)).collect();
        drop(enter(&gate, 5, &moved));
        let Turn::Later(mut last) = enter(&gate, 6, &moved) else { panic!("there was a place") };
        drop(running);
        assert!(last.try_recv().is_ok());
    }
}
