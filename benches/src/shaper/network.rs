//! Several servers behind one line: which lanes a datagram passes, what is under way, what it came to.
//!
//! Decides when each datagram comes out and counts what does not. Never touches sockets or clocks; what it carries is of
//! any type, so that tests carry numbers.

use std::cmp::Ordering;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::chance::Chance;
use super::link::{Lane, Link, Verdict};

/// Payload bytes that may be under way at once; what comes on top is dropped as if the queue were full.
pub const HELD_MAX_BYTES: usize = 512 * 1024 * 1024;

/// Which way a datagram goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// From a client to a server.
    Up,
    /// From a server to a client.
    Down,
}

/// Something for each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Both<T> {
    /// From clients to servers.
    pub up: T,
    /// From servers to clients.
    pub down: T,
}

impl<T> Both<T> {
    fn of(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Up => &mut self.up,
            Direction::Down => &mut self.down,
        }
    }
}

/// A number of datagrams and their payload bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many.
    pub datagrams: u64,
    /// Their payload bytes.
    pub bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, bytes: usize) {
        self.datagrams += 1;
        self.bytes += bytes as u64;
    }
}

/// What became of the datagrams of one direction: `received` is the sum of the others and of what is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Came in.
    pub received: Tally,
    /// Went out.
    pub delivered: Tally,
    /// Found a queue full.
    pub queue_full: Tally,
    /// Were lost on a line.
    pub lost: Tally,
    /// Were larger than the path carries.
    pub too_large: Tally,
    /// Were refused by the system when they should have gone out, or came too late for a client that had gone.
    pub unsent: Tally,
    /// How long all that was not dropped waited in queues and for its turn on the line, in microseconds, together.
    pub waited_us: u64,
    /// The longest of these waits.
    pub longest_wait_us: u64,
}

/// A datagram at the end of its way.
#[derive(Debug)]
pub struct Released<P> {
    /// Which way it goes.
    pub direction: Direction,
    /// Its payload bytes.
    pub bytes: usize,
    /// What was given with it.
    pub payload: P,
}

/// A lane that a datagram can be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// The line that all share.
    Shared,
    /// Its server's own.
    Own,
}

#[derive(Debug)]
struct Held<P> {
    at: Duration,
    /// Of two at the same time, the one that entered first is first.
    order: u64,
    direction: Direction,
    door: usize,
    /// The lane that it is on.
    on: Place,
    bytes: usize,
    payload: P,
}

impl<P> PartialEq for Held<P> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<P> Eq for Held<P> {}

impl<P> PartialOrd for Held<P> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<P> Ord for Held<P> {
    // The heap's greatest is the one that comes out first.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// One line that all servers share, for instance a client's access, and perhaps a link of its own for each server.
///
/// Up, a datagram passes the shared lane and then its server's; down, the other way round.
#[derive(Debug)]
pub struct Network<P> {
    shared: Both<Lane>,
    doors: Vec<Option<Both<Lane>>>,
    chance: Chance,
    /// What is on the shared lanes, in its order.
    in_order: Both<VecDeque<Held<P>>>,
    /// All else: what others are let past, and what is on lanes of one server.
    others: BinaryHeap<Held<P>>,
    held_bytes: usize,
    order: u64,
    counters: Both<Counters>,
}

impl<P> Network<P> {
    /// A network of `doors` servers behind one link; `seed` decides what is lost.
    #[must_use]
    pub fn new(links: Both<Link>, doors: usize, seed: u64) -> Self {
        Self {
            shared: lanes(links),
            doors: (0..doors).map(|_| None).collect(),
            chance: Chance::new(seed),
            in_order: Both::default(),
            others: BinaryHeap::new(),
            held_bytes: 0,
            order: 0,
            counters: Both::default(),
        }
    }

    /// Changes the shared link; what is under way keeps its time.
    pub fn set_link(&mut self, links: Both<Link>) {
        self.shared.up.set_link(links.up);
        self.shared.down.set_link(links.down);
    }

    /// Gives a server a link of its own, or takes it away; false where there is no such server.
    pub fn set_door_link(&mut self, door: usize, links: Option<Both<Link>>) -> bool {
        let Some(own) = self.doors.get_mut(door) else { return false };
        match (own.as_mut(), links) {
            (Some(own), Some(links)) => {
                own.up.set_link(links.up);
                own.down.set_link(links.down);
            }
            (None, Some(links)) => *own = Some(lanes(links)),
            (_, None) => *own = None,
        }
        true
    }

    /// The shortest way that any datagram has, and whether any is delayed at all.
    pub(super) fn shortest_delay(&self) -> Option<Duration> {
        let shared = [self.shared.up.link(), self.shared.down.link()];
        let delayed = shared.iter().any(|link| !link.is_immediate()) || self.doors.iter().any(Option::is_some);
        delayed.then(|| shared.iter().map(|link| link.one_way_delay).min().unwrap_or_default())
    }

    /// Takes a datagram at `now`, a time since any fixed start that never goes back.
    pub fn accept(&mut self, now: Duration, direction: Direction, door: usize, bytes: usize, payload: P) {
        self.counters.of(direction).received.add(bytes);
        if self.held_bytes + bytes > HELD_MAX_BYTES {
            self.counters.of(direction).queue_full.add(bytes);
            return;
        }
        self.held_bytes += bytes;
        let first = match direction {
            Direction::Down if self.has_own(door) => Place::Own,
            Direction::Up | Direction::Down => Place::Shared,
        };
        self.enter(now, first, direction, door, bytes, payload);
    }

    fn has_own(&self, door: usize) -> bool {
        self.doors.get(door).is_some_and(Option::is_some)
    }

    fn enter(&mut self, now: Duration, on: Place, direction: Direction, door: usize, bytes: usize, payload: P) {
        let own = self.doors.get_mut(door).and_then(Option::as_mut);
        let lane = match (on, own) {
            (Place::Own, Some(own)) => own.of(direction),
            (Place::Own, None) | (Place::Shared, _) => self.shared.of(direction),
        };
        let counters = self.counters.of(direction);
        let dropped = match lane.enqueue(now, bytes, &mut self.chance) {
            Verdict::Deliver(at) => {
                self.order += 1;
                let waited = at.saturating_sub(now + lane.link().one_way_delay);
                let waited_us = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
                counters.waited_us = counters.waited_us.saturating_add(waited_us);
                counters.longest_wait_us = counters.longest_wait_us.max(waited_us);
                let held = Held { at, order: self.order, direction, door, on, bytes, payload };
                let queue = self.in_order.of(direction);
                if on == Place::Shared && queue.back().is_none_or(|last| last.at <= at) {
                    queue.push_back(held);
                } else {
                    self.others.push(held);
                }
                return;
            }
            Verdict::TooLarge => &mut counters.too_large,
            Verdict::QueueFull => &mut counters.queue_full,
            Verdict::Lost => &mut counters.lost,
        };
        dropped.add(bytes);
        self.held_bytes -= bytes;
    }

    /// When [`Self::release`] has something to do next.
    #[must_use]
    pub fn next_release(&self) -> Option<Duration> {
        let fronts = [self.in_order.up.front(), self.in_order.down.front(), self.others.peek()];
        fronts.into_iter().flatten().map(|held| held.at).min()
    }

    /// Takes the first of all that come out until `now`.
    fn pop(&mut self, now: Duration) -> Option<Held<P>> {
        let due = |held: Option<&Held<P>>| held.filter(|held| held.at <= now).map(|held| (held.at, held.order));
        let (up, down) = (due(self.in_order.up.front()), due(self.in_order.down.front()));
        let other = due(self.others.peek());
        let first = [up, down, other].into_iter().flatten().min()?;
        if up == Some(first) {
            self.in_order.up.pop_front()
        } else if down == Some(first) {
            self.in_order.down.pop_front()
        } else {
            self.others.pop()
        }
    }

    /// Appends all that comes out until `now`, in its order, and counts it as delivered.
    pub fn release(&mut self, now: Duration, released: &mut Vec<Released<P>>) {
        while let Some(held) = self.pop(now) {
            let next = match (held.direction, held.on) {
                (Direction::Up, Place::Shared) if self.has_own(held.door) => Some(Place::Own),
                (Direction::Down, Place::Own) => Some(Place::Shared),
                (Direction::Up, _) | (Direction::Down, Place::Shared) => None,
            };
            if let Some(next) = next {
                // It enters the next lane when it came out of this one, not when somebody looked.
                self.enter(held.at, next, held.direction, held.door, held.bytes, held.payload);
                continue;
            }
            self.held_bytes -= held.bytes;
            self.counters.of(held.direction).delivered.add(held.bytes);
            released.push(Released { direction: held.direction, bytes: held.bytes, payload: held.payload });
        }
    }

    /// Counts a datagram that came out but could not be sent as that.
    pub fn unsent(&mut self, direction: Direction, bytes: usize) {
        let counters = self.counters.of(direction);
        counters.delivered.datagrams -= 1;
        counters.delivered.bytes -= bytes as u64;
        counters.unsent.add(bytes);
    }

    /// What became of all datagrams so far.
    #[must_use]
    pub fn counters(&self) -> Both<Counters> {
        self.counters
    }

    /// Datagrams that are under way.
    #[must_use]
    pub fn held(&self) -> usize {
        self.in_order.up.len() + self.in_order.down.len() + self.others.len()
    }
}

fn lanes(links: Both<Link>) -> Both<Lane> {
    Both { up: Lane::new(links.up), down: Lane::new(links.down) }
}
