//! A virtual steward: asks, believes, plans and repairs, with what he can know and nothing else.

use std::collections::{BTreeMap, BTreeSet};

use dolmen_proto::audit::{Draw, DrawKind, DrawSeed, SetBuilder, SetShard};
use dolmen_proto::ids::{ShardIndex, ShardRoot, Timestamp};
use dolmen_proto::placement::Candidate;
use dolmen_proto::repair::{
    Budget, Condition, Holder, Plan, RepairError, RepairQueue, SegmentState, place, plan, still_wanted, turn_delay,
};
use dolmen_proto::standing::{ChallengeKey, Observation, Reason, Standing, Verdict};

use super::dice::Dice;
use super::node::{Kind, Node};
use super::world::{Segment, Tally};
use super::{SAMPLES, Shard, at};

/// Hours between two probes of a node.
const PROBE_EVERY: u32 = 6;
/// Timeouts of honest nodes, for each challenge.
const TIMEOUTS: f64 = 0.003;
/// Failed probes of honest nodes.
const PROBE_FAILURES: f64 = 0.01;

/// A challenge without an answer yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    challenge: ChallengeKey,
    can_be_answered: bool,
}

/// Shards made and placed, to be published when the hour has come.
#[derive(Debug, Clone)]
struct Job {
    segment: u32,
    made: Vec<(ShardIndex, usize)>,
}

/// A steward.
#[derive(Debug)]
pub struct Steward {
    /// His place among the stewards.
    pub number: u8,
    key: [u8; 32],
    standings: Vec<Option<Standing>>,
    silent_since: Vec<Option<Timestamp>>,
    pending: Vec<Option<Pending>>,
    classes: Vec<u8>,
    lost: BTreeSet<(Shard, usize)>,
    /// Segments to be planned again.
    pub dirty: BTreeSet<u32>,
    queue: RepairQueue,
    jobs: Vec<Job>,
    dice: Dice,
}

/// The root of a shard: here a hash of its name.
fn root((segment, index): Shard) -> ShardRoot {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&segment.to_le_bytes()).update(&[index]);
    ShardRoot::new(*hasher.finalize().as_bytes())
}

/// The stewards' public keys in this world.
#[must_use]
pub fn keys() -> Vec<[u8; 32]> {
    (1..=3).map(|number| [number; 32]).collect()
}

impl Steward {
    /// A steward who knows nobody yet.
    #[must_use]
    pub fn new(number: u8, seed: u64) -> Self {
        Self {
            number,
            key: [number + 1; 32],
            standings: Vec::new(),
            silent_since: Vec::new(),
            pending: Vec::new(),
            classes: Vec::new(),
            lost: BTreeSet::new(),
            dirty: BTreeSet::new(),
            queue: RepairQueue::new(Budget { concurrent: 8, bytes_per_second: 20_000_000 }, at(0)),
            jobs: Vec::new(),
            dice: Dice::new(seed ^ u64::from(number)),
        }
    }

    /// What he makes of a node.
    #[must_use]
    pub fn verdict(&self, node: usize, hour: u32) -> Option<Verdict> {
        self.standings.get(node)?.as_ref().map(|standing| standing.verdict(at(hour)))
    }

    /// An hour of asking: every node that holds something for him.
    pub fn ask(&mut self, nodes: &[Node], segments: &[Segment], hour: u32, tally: &mut Tally) {
        self.standings.resize(nodes.len(), None);
        self.silent_since.resize(nodes.len(), None);
        self.pending.resize(nodes.len(), None);
        self.classes.resize(nodes.len(), 0);
        for node in nodes.iter().filter(|node| !node.receipts.is_empty()) {
            let number = node.number;
            let now = at(hour);
            let standing = self.standings[number].get_or_insert_with(|| Standing::new(now));
            if standing.fall().is_none() {
                self.audit(node, segments, hour, tally);
                if (hour + u32::try_from(number).unwrap_or(0)).is_multiple_of(PROBE_EVERY) && node.is_up(hour) {
                    let fails = node.kind == Kind::ServesNothing || self.dice.happens(PROBE_FAILURES);
                    let outcome = if fails { Observation::NotServed } else { Observation::Served };
                    self.record(number, outcome, now);
                }
            } else if !node.is_up(hour) {
                self.silent_since[number].get_or_insert(now);
            }
            if let Some(verdict) = self.verdict(number, hour) {
                tally.judged(node, self.number, verdict, hour);
            }
            let class = self.class(node, hour);
            if class != self.classes[number] {
                self.classes[number] = class;
                self.dirty.extend(node.receipts.keys().map(|shard| shard.0));
            }
        }
    }

    fn record(&mut self, node: usize, outcome: Observation, now: Timestamp) {
        match outcome {
            Observation::Offline | Observation::NoAnswer { .. } => {
                self.silent_since[node].get_or_insert(now);
            }
            _ => self.silent_since[node] = None,
        }
        let standing = self.standings[node].as_mut().expect("made before it is asked");
        standing.record(outcome, now).expect("an outcome of this world is possible");
    }

    fn audit(&mut self, node: &Node, segments: &[Segment], hour: u32, tally: &mut Tally) {
        let (number, now) = (node.number, at(hour));
        if let Some(Pending { challenge, can_be_answered }) = self.pending[number] {
            let standing = self.standings[number].as_ref().expect("it was asked");
            let due = standing.repeats().map(|(_, due)| due).min();
            let Some(due) = due else {
                self.pending[number] = None;
                return;
            };
            if now < due {
                return;
            }
            if node.is_up(hour) && can_be_answered {
                self.pending[number] = None;
                let outcome = Observation::Answered { challenge, samples: SAMPLES, wrong: 0, not_held: 0 };
                self.record(number, outcome, now);
            } else {
                self.record(number, Observation::NoAnswer { challenge }, now);
            }
            return;
        }
        if !node.is_up(hour) {
            self.record(number, Observation::Offline, now);
            return;
        }
        let mut key = [self.number; 32];
        key[..8].copy_from_slice(&self.dice.bits().to_le_bytes());
        let challenge = ChallengeKey::new(key);
        let failed = if node.is_whole() {
            BTreeSet::new()
        } else {
            let daily = (hour + u32::from(self.number)).is_multiple_of(24);
            self.failed_samples(node, segments, daily, tally)
        };
        let samples = SAMPLES.max(u32::try_from(failed.len()).unwrap_or(u32::MAX));
        if failed.is_empty() {
            if self.dice.happens(TIMEOUTS) {
                self.pending[number] = Some(Pending { challenge, can_be_answered: true });
                self.record(number, Observation::NoAnswer { challenge }, now);
            } else {
                self.record(number, Observation::Answered { challenge, samples, wrong: 0, not_held: 0 }, now);
            }
            return;
        }
        if matches!(node.kind, Kind::Silent(_)) {
            self.pending[number] = Some(Pending { challenge, can_be_answered: false });
            self.record(number, Observation::NoAnswer { challenge }, now);
            return;
        }
        let count = u32::try_from(failed.len()).unwrap_or(u32::MAX);
        let admits = matches!(node.kind, Kind::Honest | Kind::ServesNothing | Kind::Admits(_));
        let shards: BTreeSet<Shard> = failed.iter().map(|(shard, _)| *shard).collect();
        let not_held = u32::try_from(shards.len()).unwrap_or(u32::MAX);
        let (wrong, not_held) = if admits { (0, not_held) } else { (count, 0) };
        tally.evidence(node, hour);
        self.record(number, Observation::Answered { challenge, samples, wrong, not_held }, now);
        for (shard, _) in failed {
            self.lose(shard, number);
        }
    }

    /// Draws a challenge over all shards that are not known to be lost; gives the samples that cannot be proven.
    fn failed_samples(
        &mut self,
        node: &Node,
        segments: &[Segment],
        documents_daily: bool,
        tally: &mut Tally,
    ) -> BTreeSet<(Shard, u32)> {
        let known = node.receipts.keys().filter(|shard| !self.lost.contains(&(**shard, node.number)));
        let mut set: Vec<(ShardRoot, Shard, u32)> =
            known.map(|shard| (root(*shard), *shard, segments[shard.0 as usize].blocks())).collect();
        set.sort_unstable();
        let mut failed = BTreeSet::new();
        if set.is_empty() {
            return failed;
        }
        let mut builder = SetBuilder::new();
        for (root, _, blocks) in &set {
            builder.push(&SetShard { root: *root, length_bytes: blocks * 1024 }).expect("ascending");
        }
        let top = builder.finish().expect("not empty");
        let proves = |shard: Shard, block| node.proves(shard, segments[shard.0 as usize].documents, block);
        let mut nonce = [0; 32];
        nonce[..8].copy_from_slice(&self.dice.bits().to_le_bytes());
        let seed = DrawSeed { node: &node.id, auditor: &self.key, nonce: &nonce, beacon_value: &[] };
        let draw = Draw::new(DrawKind::Mixed, SAMPLES, &top, &seed).expect("a legal number of samples");
        let mut offset = 0;
        for (index, (_, shard, blocks)) in (0u64..).zip(&set) {
            let drawn = draw.blocks_of(index, offset, blocks * 1024);
            failed.extend(drawn.into_iter().filter(|block| !proves(*shard, *block)).map(|block| (*shard, block)));
            offset += u64::from(blocks * 1024);
        }
        let set: Vec<(Shard, u32)> = set.into_iter().map(|(_, shard, blocks)| (shard, blocks)).collect();
        tally.drawn(node, &set, !failed.is_empty());
        if documents_daily {
            for (shard, blocks) in set.iter().filter(|(shard, _)| segments[shard.0 as usize].documents) {
                let block = u32::try_from(self.dice.below(*blocks as usize)).unwrap_or(0);
                if !proves(*shard, block) {
                    failed.insert((*shard, block));
                }
            }
        }
        failed
    }

    fn lose(&mut self, shard: Shard, node: usize) {
        if self.lost.insert((shard, node)) {
            self.dirty.insert(shard.0);
        }
    }

    fn condition(&self, node: &Node, hour: u32) -> Condition {
        if let Some(since) = self.silent_since.get(node.number).copied().flatten() {
            return Condition::Silent { since };
        }
        match self.verdict(node.number, hour) {
            Some(Verdict::Bad(_)) => Condition::BadStanding,
            _ if node.leaving => Condition::Leaving,
            Some(Verdict::Suspect(reason)) if reason != Reason::Silent => Condition::Suspect,
            _ => Condition::Alive,
        }
    }

    /// Changes when something about a node changes that plans depend on.
    fn class(&self, node: &Node, hour: u32) -> u8 {
        match self.condition(node, hour) {
            Condition::Alive => 0,
            Condition::Suspect => 1,
            Condition::Silent { since } if at(hour).since(since) < dolmen_proto::standing::SILENCE_GRACE => 2,
            Condition::Silent { .. } => 3,
            Condition::Leaving => 4,
            Condition::BadStanding => 5,
            Condition::Lost => 6,
        }
    }

    fn state(&self, number: u32, nodes: &[Node], segment: &Segment, hour: u32) -> SegmentState {
        let holder = |index: u8, node: usize| {
            let condition = if self.lost.contains(&((number, index), node)) {
                Condition::Lost
            } else {
                self.condition(&nodes[node], hour)
            };
            Holder { node: nodes[node].id, condition, lease_until: at(u32::MAX) }
        };
        let shards = (0u8..).zip(&segment.rows);
        SegmentState {
            segment: segment.id,
            policy: segment.policy,
            shard_bytes: segment.blocks() * 1024,
            documents: segment.documents,
            shards: shards.map(|(index, rows)| rows.iter().map(|(_, node)| holder(index, *node)).collect()).collect(),
        }
    }

    /// An hour of repairing: what was made is published, what is due is begun.
    pub fn repair(
        &mut self,
        nodes: &mut [Node],
        segments: &mut [Segment],
        numbers: &BTreeMap<[u8; 32], usize>,
        hour: u32,
        tally: &mut Tally,
    ) {
        for job in core::mem::take(&mut self.jobs) {
            let segment = &segments[job.segment as usize];
            let state = self.state(job.segment, nodes, segment, hour);
            let made: Vec<_> = job.made.iter().map(|(index, node)| (*index, nodes[*node].id)).collect();
            let wanted = still_wanted(&state, &made, at(hour)).expect("a state of this world");
            tally.dropped_before_publishing += (made.len() - wanted.len()) as u64;
            for (index, node) in wanted {
                let node = numbers[node.as_bytes()];
                segments[job.segment as usize].add(index, self.number, node);
                tally.touched.insert(job.segment);
                tally.published += 1;
            }
            self.dirty.insert(job.segment);
        }
        let stewards = keys();
        for number in core::mem::take(&mut self.dirty) {
            let state = self.state(number, nodes, &segments[number as usize], hour);
            match plan(&state, at(hour)) {
                Ok(Some(plan)) => {
                    let begins = at(hour).after(turn_delay(&stewards, &self.key, plan.segment, plan.urgency));
                    self.queue.offer(plan, begins).expect("fewer segments than the queue holds");
                }
                Ok(None) => self.queue.withdraw(state.segment),
                Err(RepairError::TooFewSources { .. }) => {
                    self.queue.withdraw(state.segment);
                    self.dirty.insert(number);
                }
                Err(error) => panic!("{error}"),
            }
        }
        let mut now = at(hour);
        while let Some(wake) = self.queue.wake_at(now).filter(|wake| *wake < at(hour + 1)) {
            match self.queue.next(wake) {
                Some(plan) => {
                    // What was made is published in the next hour; what could be made only in part is planned anew then.
                    let some = self.carry_out(&plan, nodes, segments, hour, tally);
                    self.queue.finish(plan.segment, some, wake).expect("it was begun just now");
                    self.dirty.insert(tally.segments[plan.segment.as_bytes()]);
                }
                None => now = wake.after(core::time::Duration::from_secs(60)),
            }
            now = now.max(wake);
        }
    }

    fn candidates(&self, nodes: &[Node], hour: u32) -> Vec<Candidate> {
        let fit = nodes.iter().filter(|node| node.is_up(hour) && !node.leaving);
        fit.map(|node| Candidate {
            node: node.id,
            operator: Some(dolmen_proto::ids::OperatorId::new([node.operator; 32])),
            addresses: Vec::new(),
            region: Some(super::world::region(node.region)),
            standing: self
                .standings
                .get(node.number)
                .and_then(Option::as_ref)
                .map_or(dolmen_proto::placement::STANDING_UNKNOWN, |standing| standing.weight_per_mille(at(hour))),
            free_bytes: 1 << 30,
            proven_bytes: 0,
        })
        .collect()
    }

    fn carry_out(
        &mut self,
        plan: &Plan,
        nodes: &mut [Node],
        segments: &[Segment],
        hour: u32,
        tally: &mut Tally,
    ) -> bool {
        let number = tally.segments[plan.segment.as_bytes()];
        let segment = &segments[number as usize];
        let mut have = BTreeSet::new();
        let (mut fetched, k) = (0, usize::from(plan.policy.k()));
        let mut rebuilt = false;
        if let Some(rebuild) = &plan.rebuild {
            for (index, node) in &rebuild.sources {
                if fetched == k {
                    break;
                }
                fetched +=
                    usize::from(self.fetch((number, index.to_byte()), tally.nodes[node.as_bytes()], nodes, hour));
            }
            rebuilt = fetched == k;
            if rebuilt {
                have.extend(rebuild.wanted.iter().copied());
            }
        }
        for copy in &plan.copies {
            if self.fetch((number, copy.index.to_byte()), tally.nodes[copy.from.as_bytes()], nodes, hour) {
                have.insert(copy.index);
                fetched += 1;
            }
        }
        let placed = place(plan, &self.candidates(nodes, hour), &[], &BTreeSet::new(), &[7; 32]);
        let placed: Vec<_> = placed.unwrap_or_default().into_iter().filter(|(index, _)| have.contains(index)).collect();
        let shard_bytes = u64::from(plan.shard_bytes);
        tally.traffic_bytes += (fetched + placed.len()) as u64 * shard_bytes;
        let mut made = Vec::new();
        for (index, node) in placed {
            let node = tally.nodes[node.as_bytes()];
            nodes[node].take((number, index.to_byte()), segment.documents, segment.blocks());
            made.push((index, node));
        }
        if rebuilt {
            tally.rebuilds += 1;
        }
        tally.placed_bytes += made.len() as u64 * shard_bytes;
        let some = !made.is_empty();
        self.jobs.push(Job { segment: number, made });
        some
    }

    /// Fetches a whole shard; what is not served although the node is there, or has not its root, is lost to him.
    fn fetch(&mut self, shard: Shard, node: usize, nodes: &[Node], hour: u32) -> bool {
        let served = nodes[node].serves(shard, hour);
        if !served && nodes[node].is_up(hour) {
            self.lose(shard, node);
        }
        served
    }
}
