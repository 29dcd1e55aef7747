//! Lookups: who is there, where is this node, who is nearest to that point.
//!
//! Decides when to stop looking. Kademlia answers with at most 20 peers of one neighbourhood, so a sample asks for
//! random keys, several at a time, until two rounds in a row bring nobody new. Never decides who is any good.

use std::time::Duration;

use dolmen_proto::ids::{NodeId, Point};
use dolmen_proto::placement::lookup_key;
use futures::StreamExt;
use futures::future::{join, join_all};
use futures::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};

use super::address::peer_id_of;
use super::records::{BelievedRecord, now, sort_by_distance};
use super::task::Command;
use super::{Directory, NodeRecord};

/// A node that answered within this time is taken as there, without asking again.
pub(super) const FRESH: Duration = Duration::from_secs(120);
/// Random keys looked up at a time.
const KEYS_PER_ROUND: usize = 4;
/// Rounds in a row without anybody new after which everybody has been seen.
const QUIET_ROUNDS: usize = 2;
/// Lookups that bring nobody new for some handshakes' time are over, though some peers have not answered: dead ones
/// never will. The bounds of that time, and how many of the slowest handshakes it is.
const PATIENCE_MIN: Duration = Duration::from_millis(150);
const PATIENCE_MAX: Duration = Duration::from_millis(1500);
const PATIENCE_HANDSHAKES: u32 = 4;
/// No sample takes longer.
const SAMPLE_DEADLINE: Duration = Duration::from_secs(30);
/// Longest wait for a first peer of the network.
const CONTACT_DEADLINE: Duration = Duration::from_secs(6);
/// No other lookup takes longer.
const LOOKUP_DEADLINE: Duration = Duration::from_secs(12);
/// A node that could not be found is not looked up again for this long.
const ABSENT_FOR: Duration = Duration::from_secs(5);
/// Most nodes that are remembered as not to be found.
const ABSENT_MAX: usize = 1024;
/// Peers that one lookup asks for their records.
const ASKED_PER_LOOKUP_MAX: usize = 40;

impl Directory {
    /// Records of nodes that are there now: at least `want` where so many can be found, else all that were found,
    /// in order of their ids. Ask for `usize::MAX` to count a small network.
    ///
    /// Every record was received from the node itself within the last two minutes. Takes at most 30 s; an empty
    /// answer means that no node of the network was reached.
    pub async fn sample(&self, want: usize) -> Vec<NodeRecord> {
        let deadline = Instant::now() + SAMPLE_DEADLINE;
        let mut quiet = 0;
        let mut rounds = 0u32;
        if self.count_fresh() < want && self.wait_for_contact().await {
            while quiet < QUIET_ROUNDS && Instant::now() < deadline {
                let before = self.count_fresh();
                self.round(want).await;
                rounds += 1;
                let found = self.count_fresh();
                tracing::debug!(rounds, before, found, "looked up random keys");
                if found >= want {
                    break;
                }
                quiet = if found > before { 0 } else { quiet + 1 };
            }
            // A full channel means that the file is about to be written anyway.
            let _asked = self.commands.try_send(Command::Save);
        }
        self.shared.cache().fresh(FRESH, now()).map(|believed| believed.record.clone()).collect()
    }

    /// The node's own record: remembered, or looked up and asked from the node itself, or as the last resort what
    /// the directory keeps of it. `None` when nothing current was found, after at most 12 s, and at once for a while
    /// after that.
    pub async fn resolve(&self, node: NodeId) -> Option<NodeRecord> {
        if let Some(record) = self.remembered(node) {
            return Some(record);
        }
        if self.shared.absent().get(&node).is_some_and(|until| Instant::now() < *until) {
            return None;
        }
        let search = async {
            // Most nodes are where they were; that is asked while the others are asked where it is.
            let at_home = async {
                if self.shared.cache().known(node).is_some() {
                    self.ask(node).await;
                }
            };
            let by_others = async {
                self.wait_for_contact().await;
                self.look_up(peer_id_of(node).to_bytes()).await;
            };
            self.until(join(at_home, by_others), || self.remembered(node).is_some()).await;
            if self.remembered(node).is_none() {
                self.fetch_kept(node).await;
            }
        };
        if timeout(LOOKUP_DEADLINE, search).await.is_err() {
            tracing::debug!(node = %node.short(), "the lookup of a node took too long");
        }
        let found = self.remembered(node);
        if found.is_none() {
            self.note_absent(node);
        }
        found
    }

    /// Records of the `count` nodes nearest to a point, by kad's own distance, nearest first; at most 20 or so
    /// where the network is large, fewer than `count` where it is small. A server is not in
    /// its own answers. Takes at most 12 s.
    pub async fn nearest(&self, point: Point, count: usize) -> Vec<NodeRecord> {
        let target = lookup_key(&point).to_vec();
        let search = async {
            self.wait_for_contact().await;
            self.while_it_brings_news(self.look_up(target.clone()), usize::MAX).await;
        };
        if timeout(LOOKUP_DEADLINE, search).await.is_err() {
            tracing::debug!("the lookup of a point took too long");
        }
        let mut fresh: Vec<BelievedRecord> = self.shared.cache().fresh(FRESH, now()).cloned().collect();
        sort_by_distance(&mut fresh, &target);
        fresh.into_iter().take(count).map(|believed| believed.record).collect()
    }

    /// One round of a sample: several random keys at once.
    async fn round(&self, want: usize) {
        let mut keys = Vec::with_capacity(KEYS_PER_ROUND);
        for _ in 0..KEYS_PER_ROUND {
            let mut key = [0; 32];
            if let Err(error) = getrandom::fill(&mut key) {
                tracing::error!(%error, "the operating system gives no random bytes");
                return;
            }
            keys.push(key.to_vec());
        }
        self.while_it_brings_news(join_all(keys.into_iter().map(|key| self.look_up(key))), want).await;
    }

    /// Waits for lookups until they end, until so many nodes are known to be there, or until they have brought
    /// nobody new for a while: then only dead peers are being waited for.
    async fn while_it_brings_news(&self, lookups: impl Future, want: usize) {
        let mut learned = self.shared.learned.subscribe();
        tokio::pin!(lookups);
        let mut count = self.count_fresh();
        let mut patience = Instant::now() + self.patience();
        while count < want {
            tokio::select! {
                _ = &mut lookups => return,
                () = sleep_until(patience) => return,
                changed = learned.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let found = self.count_fresh();
                    if found > count {
                        patience = Instant::now() + self.patience();
                    }
                    count = found;
                }
            }
        }
    }

    /// Waits for lookups until they end, or until `enough` holds after something was learned.
    async fn until(&self, lookups: impl Future, enough: impl Fn() -> bool) {
        let mut learned = self.shared.learned.subscribe();
        tokio::pin!(lookups);
        loop {
            tokio::select! {
                _ = &mut lookups => return,
                changed = learned.changed() => {
                    if changed.is_err() || enough() {
                        return;
                    }
                }
            }
        }
    }

    /// Looks up the peers nearest to a key and asks each for its own record.
    async fn look_up(&self, key: Vec<u8>) {
        let Ok(_permit) = self.shared.lookups.acquire().await else { return };
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Closest { key, reply }).await.is_err() {
            return;
        }
        let mut nodes = answer.await.unwrap_or_default();
        nodes.truncate(ASKED_PER_LOOKUP_MAX);
        let mut asked: FuturesUnordered<_> = nodes.into_iter().map(|node| self.ask(node)).collect();
        while asked.next().await.is_some() {}
    }

    /// Asks a node for its own record, unless it has just given it.
    async fn ask(&self, node: NodeId) {
        if node == self.shared.own || self.shared.cache().is_fresh(node, FRESH, now()) {
            return;
        }
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Ask { node, reply }).await.is_ok() {
            // The answer is in the cache, or there is none.
            let _answered = answer.await;
        }
    }

    /// Asks the directory for what it keeps of a node; how many peers kept something to be believed.
    pub(super) async fn fetch_kept(&self, node: NodeId) -> usize {
        let Ok(_permit) = self.shared.lookups.acquire().await else { return 0 };
        let (reply, answer) = oneshot::channel();
        if self.commands.send(Command::Kept { node, reply }).await.is_err() {
            return 0;
        }
        answer.await.unwrap_or(0)
    }

    /// Waits for the first peer in the routing table; whether there is one.
    pub(super) async fn wait_for_contact(&self) -> bool {
        let mut listed = self.shared.listed.subscribe();
        let deadline = Instant::now() + CONTACT_DEADLINE;
        matches!(timeout_at(deadline, listed.wait_for(|listed| *listed > 0)).await, Ok(Ok(_)))
    }

    fn patience(&self) -> Duration {
        let slowest = self.shared.slowest_handshake().unwrap_or(PATIENCE_MAX);
        slowest.saturating_mul(PATIENCE_HANDSHAKES).clamp(PATIENCE_MIN, PATIENCE_MAX)
    }

    fn note_absent(&self, node: NodeId) {
        let now = Instant::now();
        let mut absent = self.shared.absent();
        absent.retain(|_, until| now < *until);
        if absent.len() < ABSENT_MAX {
            absent.insert(node, now + ABSENT_FOR);
        }
    }

    fn count_fresh(&self) -> usize {
        self.shared.cache().fresh(FRESH, now()).count()
    }

    pub(super) fn remembered(&self, node: NodeId) -> Option<NodeRecord> {
        self.shared.cache().current(node, now()).map(|believed| believed.record.clone())
    }
}
