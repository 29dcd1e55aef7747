//! A stock of something scarce that peers share: memory of transfers, places for requests.
//!
//! Decides who gets some of it, and who waits for how long. One peer never gets more than a quarter of what is there,
//! less when others hold some too, and nobody who comes later goes before one who holds nothing. Never decides what the
//! stock is, nor how many peers there may be: many who hold a little each can still use it up.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dolmen_proto::ids::NodeId;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::server::Peer;

/// A peer that holds some gets more only while this many times what it then holds stays free: so one alone comes to a
/// quarter of the stock, two to a fifth each, and something is left for newcomers however many there are.
const FREE_PER_HELD: usize = 3;
/// What part of a stock one peer comes to when nobody else holds any.
pub const PEER_SHARE_DIVISOR: usize = FREE_PER_HELD + 1;

/// Who counts as one when a stock is shared out. Keys are free, so a key counts on this machine alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Sharer {
    /// A network by its first address: a /24 of IPv4, a /48 of IPv6; of a private network, one address.
    Network(IpAddr),
    /// A program on this machine, by its key.
    Key(NodeId),
}

impl Sharer {
    /// Whom a peer shares with.
    #[must_use]
    pub fn of(peer: &Peer) -> Self {
        match peer.address.ip().to_canonical() {
            ip if ip.is_loopback() => Self::Key(peer.id),
            IpAddr::V4(ip) if ip.is_private() || ip.is_link_local() => Self::Network(ip.into()),
            IpAddr::V4(ip) => Self::Network(IpAddr::from((ip.to_bits() >> 8 << 8).to_be_bytes())),
            IpAddr::V6(ip) if ip.is_unique_local() || ip.is_unicast_link_local() => Self::Network(ip.into()),
            IpAddr::V6(ip) => Self::Network(Ipv6Addr::from_bits(ip.to_bits() >> 80 << 80).into()),
        }
    }
}

/// A stock of so many units.
#[derive(Debug)]
pub struct Shares {
    units: usize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    free: usize,
    held: BTreeMap<Sharer, usize>,
    /// In the order of arrival.
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    sharer: Sharer,
    units: usize,
    granted: oneshot::Sender<Share>,
}

/// Units that somebody holds; given back when dropped.
#[derive(Debug)]
pub struct Share {
    stock: Arc<Shares>,
    sharer: Sharer,
    units: usize,
}

impl Shares {
    /// A stock of `units`, all free.
    #[must_use]
    pub fn new(units: usize) -> Arc<Self> {
        let state = State { free: units, held: BTreeMap::new(), waiting: VecDeque::new() };
        Arc::new(Self { units, state: Mutex::new(state) })
    }

    /// Units that there are.
    #[must_use]
    pub fn units(&self) -> usize {
        self.units
    }

    /// Units that nobody holds.
    #[must_use]
    pub fn free(&self) -> usize {
        self.lock().free
    }

    /// Takes so many units for a peer, waiting for them as long as `patience` allows; `None` when that was not long
    /// enough, or there never are so many. Whoever calls bounds how many wait.
    pub async fn take(self: &Arc<Self>, sharer: Sharer, units: usize, patience: Duration) -> Option<Share> {
        if units > self.units {
            return None;
        }
        let (granted, grant) = oneshot::channel();
        self.lock().waiting.push_back(Waiter { sharer, units, granted });
        self.grant();
        timeout(patience, grant).await.ok()?.ok()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives to those who wait what they may have now.
    fn grant(self: &Arc<Self>) {
        let granted = self.lock().grant();
        // Outside of the lock: a share that nobody waits for any more is dropped, which locks.
        for Waiter { sharer, units, granted } in granted {
            let _ = granted.send(Share { stock: Arc::clone(self), sharer, units });
        }
    }
}

impl State {
    fn grant(&mut self) -> Vec<Waiter> {
        let mut granted = Vec::new();
        let mut left = VecDeque::with_capacity(self.waiting.len());
        // Whether somebody who holds nothing finds too little free: then nobody goes before them.
        let mut short = false;
        for waiter in self.waiting.drain(..) {
            if waiter.granted.is_closed() {
                continue;
            }
            let held = self.held.get(&waiter.sharer).copied().unwrap_or(0);
            let fits = waiter.units <= self.free;
            let fair = held == 0 || (held + waiter.units) * FREE_PER_HELD <= self.free.saturating_sub(waiter.units);
            if fits && fair && !short {
                self.free -= waiter.units;
                self.held.insert(waiter.sharer, held + waiter.units);
                granted.push(waiter);
            } else {
                short |= held == 0 && !fits;
                left.push_back(waiter);
            }
        }
        self.waiting = left;
        granted
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        {
            let mut state = self.stock.lock();
            state.free += self.units;
            let left = state.held.get(&self.sharer).copied().unwrap_or(0).saturating_sub(self.units);
            if left == 0 {
                state.held.remove(&self.sharer);
            } else {
                state.held.insert(self.sharer, left);
            }
        }
        self.stock.grant();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const NO_PATIENCE: Duration = Duration::ZERO;
    const PATIENCE: Duration = Duration::from_secs(600);

    fn key(number: u8) -> Sharer {
        Sharer::Key(NodeId::new([number; 32]))
    }

    /// Takes single units until no more are given.
    async fn take_all(stock: &Arc<Shares>, sharer: Sharer) -> Vec<Share> {
        let mut held = Vec::new();
        while let Some(share) = stock.take(sharer, 1, NO_PATIENCE).await {
            held.push(share);
        }
        held
    }

    #[tokio::test]
    async fn a_peer_alone_comes_to_a_quarter_and_further_ones_to_less() {
        let stock = Shares::new(120);
        let mut all = Vec::new();
        for number in 0..40 {
            let held = take_all(&stock, key(number)).await;
            let found = stock.free() + held.len();
            assert_eq!(held.len(), (found / PEER_SHARE_DIVISOR).max(1), "peer {number} of {found}");
            all.push(held);
            if stock.free() == 0 {
                break;
            }
        }
        assert!(all.len() > 10, "{} peers found some", all.len());
        drop(all);
        assert_eq!(stock.free(), 120);
        assert!(stock.lock().held.is_empty() && stock.lock().waiting.is_empty());
    }

    #[tokio::test]
    async fn a_peer_that_holds_nothing_gets_what_it_needs_however_much_that_is() {
        let stock = Shares::new(12);
        let whole = stock.take(key(1), 12, NO_PATIENCE).await.expect("nobody else holds any");
        assert!(stock.take(key(2), 1, NO_PATIENCE).await.is_none());
        drop(whole);
        assert!(stock.take(key(2), 13, NO_PATIENCE).await.is_none(), "more than there is");
        assert!(stock.take(key(2), 1, NO_PATIENCE).await.is_some());
    }

    #[tokio::test]
    async fn who_holds_nothing_goes_before_those_who_want_more() {
        let stock = Shares::new(16);
        let mut greedy = vec![stock.take(key(1), 14, NO_PATIENCE).await.expect("all are free")];
        let small = stock.take(key(2), 1, NO_PATIENCE).await.expect("one is left");
        let mut more = Box::pin(stock.take(key(2), 4, PATIENCE));
        let mut newcomer = Box::pin(stock.take(key(3), 10, PATIENCE));
        let mut late = Box::pin(stock.take(key(4), 1, PATIENCE));
        assert!((&mut more).now_or_never().is_none() && (&mut newcomer).now_or_never().is_none());
        assert!((&mut late).now_or_never().is_none(), "or the newcomer would wait for ever");
        drop(greedy.pop());
        let newcomer = newcomer.now_or_never().flatten().expect("its turn");
        let late = late.now_or_never().flatten().expect("after the newcomer");
        assert!((&mut more).now_or_never().is_none(), "{} are free", stock.free());
        drop((newcomer, late, small));
        assert!(more.now_or_never().flatten().is_some());
    }

    #[tokio::test]
    async fn whoever_stops_waiting_takes_nothing_along() {
        let stock = Shares::new(4);
        let held = stock.take(key(1), 4, NO_PATIENCE).await.expect("all are free");
        let mut waiting: Vec<_> = (2..10).map(|number| Box::pin(stock.take(key(number), 1, PATIENCE))).collect();
        assert!(waiting.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        // Two go before they are served, and one after.
        drop(waiting.drain(..2));
        drop(held);
        drop(waiting.remove(0));
        let served: Vec<_> = waiting.into_iter().filter_map(|waiting| waiting.now_or_never().flatten()).collect();
        assert_eq!((served.len(), stock.free()), (4, 0));
        drop(served);
        assert_eq!(stock.free(), 4);
    }

    #[test]
    fn neighbours_share_and_programs_of_this_machine_do_not() {
        let of = |address: &str, id: u8| {
            Sharer::of(&Peer { id: NodeId::new([id; 32]), address: address.parse().expect("an address") })
        };
        assert_eq!(of("203.0.113.7:1", 1), of("203.0.113.250:2", 2));
        assert_eq!(of("203.0.113.7:1", 1), of("[::ffff:203.0.113.7]:1", 2));
        assert_ne!(of("203.0.113.7:1", 1), of("203.0.114.7:1", 1));
        assert_eq!(of("[2001:db8:1:2::3]:1", 1), of("[2001:db8:1:ffff::4]:1", 2));
        assert_ne!(of("[2001:db8:1::]:1", 1), of("[2001:db8:2::]:1", 1));
        assert_ne!(of("10.1.2.3:1", 1), of("10.1.2.4:1", 1));
        assert_eq!(of("10.1.2.3:1", 1), of("10.1.2.3:9", 2), "keys are free");
        for local in ["127.0.0.1:1", "[::1]:1"] {
            assert_ne!(of(local, 1), of(local, 2));
            assert_eq!(of(local, 1), Sharer::Key(NodeId::new([1; 32])));
        }
    }
}
