//! The world of one run: nodes that come, fail and cheat, segments, three stewards of whom one colludes, and the truth.

use std::collections::{BTreeMap, BTreeSet};

use dolmen_proto::ids::{NodeId, OperatorId, SegmentId, ShardIndex};
use dolmen_proto::placement::{Candidate, Constraints, STANDING_UNKNOWN, choose};
use dolmen_proto::policy::Policy;
use dolmen_proto::region::Region;
use dolmen_proto::repair::hard_floor;
use dolmen_proto::standing::{Reason, Verdict};

use super::dice::Dice;
use super::node::{Kind, Node};
use super::steward::Steward;
use super::{CONTENT_BLOCKS, DOCUMENT_BLOCKS, Shard};

/// Regions of the world.
const REGIONS: [&str; 8] = ["eu-de", "eu-fr", "eu-se", "us-ny", "us-ca", "us-tx", "ap-jp", "ap-in"];
/// The steward who colludes with nodes that hold nothing.
const COLLUDER: u8 = 2;
/// Who wrote the rows of the base table.
const BASE: u8 = u8::MAX;
/// Cheaters who were there for less than two weeks are not judged at the end.
const JUDGED_AFTER_HOURS: u32 = 14 * 24;
/// Hours that an announced leave takes at most.
const LEAVE_HOURS: u32 = 7 * 24;

/// The region of a number.
#[must_use]
pub fn region(number: u8) -> Region {
    REGIONS[usize::from(number) % REGIONS.len()].parse().expect("a region of this world")
}

/// How large a run is and how much goes wrong.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Nodes at first; as many join as fail.
    pub nodes: usize,
    /// Segments.
    pub segments: u32,
    /// Days, after which ten follow in which nothing new fails.
    pub days: u32,
    /// The code of contents.
    pub policy: Policy,
    /// Cheaters of each kind.
    pub cheaters_of_a_kind: usize,
    /// Failures for good of a node a year.
    pub failures_per_year: f64,
}

/// A segment.
#[derive(Debug, Clone)]
pub struct Segment {
    /// Its id.
    pub id: SegmentId,
    /// Its code.
    pub policy: Policy,
    /// Whether it holds documents.
    pub documents: bool,
    /// For each shard who is said to hold it, and by whom: the base table first, then the stewards in their order.
    pub rows: Vec<Vec<(u8, usize)>>,
}

impl Segment {
    /// Blocks of each of its shards.
    #[must_use]
    pub const fn blocks(&self) -> u32 {
        if self.documents { DOCUMENT_BLOCKS } else { CONTENT_BLOCKS }
    }

    /// Adds a row of an overlay.
    pub fn add(&mut self, index: ShardIndex, steward: u8, node: usize) {
        let rows = &mut self.rows[index.get()];
        rows.push((steward, node));
        // The base's row has the highest author and comes first.
        rows.sort_by_key(|(author, _)| author.wrapping_add(1));
    }

    fn intact(&self, number: u32, nodes: &[Node], hour: u32) -> usize {
        let holds =
            |index: u8, rows: &Vec<(u8, usize)>| rows.iter().any(|(_, node)| nodes[*node].holds((number, index), hour));
        (0u8..).zip(&self.rows).filter(|(index, rows)| holds(*index, rows)).count()
    }
}

/// What became of one kind of cheaters.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Caught {
    /// Cheaters of the kind that lacked something they promised (or serve nothing) and were there for two weeks.
    pub cheaters: usize,
    /// Of them, those whom both honest stewards held for bad or suspect at some time.
    pub found: usize,
    /// Mean hours from the first shard to the first hard evidence, of those against whom there was any.
    pub mean_hours_to_evidence: f64,
    /// Mean hours from the first shard to a bad standing, of those who had one.
    pub mean_hours_to_bad: f64,
    /// Of them, those with a bad standing at some honest steward's.
    pub bad: usize,
    /// Challenges that were drawn for them while something was missing.
    pub challenges: u64,
    /// How many of these found something.
    pub hits: u64,
    /// How many the formula says, from what was missing each time.
    pub expected_hits: f64,
    /// By how many standard deviations the two differ.
    pub deviations: f64,
}

/// What a run came to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// Nodes there ever were.
    pub nodes: usize,
    /// Nodes that failed or left for good.
    pub gone: usize,
    /// Segments of which fewer than k shards were left at some time.
    pub lost_segments: usize,
    /// The fewest shards above k that any segment ever had.
    pub worst_margin: usize,
    /// The fewest shards above the hard floor (negative: below) that a segment had at the end.
    pub margin_over_floor_at_end: i64,
    /// Shards that were really lost.
    pub lost_shards: u64,
    /// Shards that stewards published anew.
    pub published: u64,
    /// Shards that were made although another steward was faster, or the node came back.
    pub dropped_before_publishing: u64,
    /// Repairs that decoded.
    pub rebuilds: u64,
    /// Bytes fetched and placed.
    pub traffic_bytes: u64,
    /// Bytes placed.
    pub placed_bytes: u64,
    /// Honest nodes that fell for good.
    pub wronged: usize,
    /// By kind of cheater.
    pub caught: BTreeMap<&'static str, Caught>,
}

/// What is counted while the world goes on. No steward reads the truth in it but the places of nodes and segments.
#[derive(Debug, Default)]
pub struct Tally {
    /// Places of segments.
    pub segments: BTreeMap<[u8; 32], u32>,
    /// Places of nodes.
    pub nodes: BTreeMap<[u8; 32], usize>,
    /// Segments whose truth has to be looked at.
    pub touched: BTreeSet<u32>,
    /// As in [`Report`].
    pub published: u64,
    /// As in [`Report`].
    pub dropped_before_publishing: u64,
    /// As in [`Report`].
    pub rebuilds: u64,
    /// As in [`Report`].
    pub traffic_bytes: u64,
    /// As in [`Report`].
    pub placed_bytes: u64,
    first_shard: BTreeMap<usize, u32>,
    first_evidence: BTreeMap<usize, u32>,
    first_bad: BTreeMap<usize, u32>,
    doubted: BTreeMap<usize, BTreeSet<u8>>,
    fallen: BTreeSet<usize>,
    /// By node: challenges, hits, expected hits, variance.
    draws: BTreeMap<usize, (u64, u64, f64, f64)>,
}

impl Tally {
    /// There is hard evidence against a node.
    pub fn evidence(&mut self, node: &Node, hour: u32) {
        self.first_evidence.entry(node.number).or_insert(hour);
    }

    /// A steward made up his mind.
    pub fn judged(&mut self, node: &Node, steward: u8, verdict: Verdict, hour: u32) {
        self.first_shard.entry(node.number).or_insert(hour);
        match verdict {
            Verdict::Bad(reason) => {
                self.first_bad.entry(node.number).or_insert(hour);
                self.doubted.entry(node.number).or_default().insert(steward);
                if matches!(reason, Reason::Wrong | Reason::NotHeld) {
                    self.fallen.insert(node.number);
                }
            }
            Verdict::Suspect(reason) if !matches!(reason, Reason::Silent | Reason::Offline) => {
                self.doubted.entry(node.number).or_default().insert(steward);
            }
            _ => {}
        }
    }

    /// A challenge was drawn over a set; compares with `1 - (1-f)^s` for what is really missing of it.
    #[allow(clippy::cast_precision_loss, reason = "counts of blocks")]
    pub fn drawn(&mut self, node: &Node, set: &[(Shard, u32)], hit: bool) {
        if node.kind == Kind::Honest {
            return;
        }
        let missing = |shard: &Shard| node.receipts.get(shard).copied().unwrap_or(0);
        let blocks: u64 = set.iter().map(|(_, blocks)| u64::from(*blocks)).sum();
        let lacking: u64 = set.iter().map(|(shard, _)| u64::from(missing(shard))).sum();
        let by_bytes = lacking as f64 / blocks as f64;
        let shares = set.iter().map(|(shard, blocks)| f64::from(missing(shard)) / f64::from(*blocks));
        let by_shards = shares.sum::<f64>() / set.len() as f64;
        let escapes = (1.0 - by_bytes).powi(48) * (1.0 - by_shards).powi(16);
        if lacking > 0 {
            let entry = self.draws.entry(node.number).or_default();
            entry.0 += 1;
            entry.1 += u64::from(hit);
            entry.2 += 1.0 - escapes;
            entry.3 += escapes * (1.0 - escapes);
        }
    }
}

struct World {
    scale: Scale,
    dice: Dice,
    nodes: Vec<Node>,
    segments: Vec<Segment>,
    stewards: Vec<Steward>,
    tally: Tally,
    report: Report,
    lost: BTreeSet<u32>,
}

/// Runs a world.
///
/// # Panics
/// When a rule of the library says that what this world does is impossible.
#[must_use]
pub fn run(seed: u64, scale: Scale) -> Report {
    let mut world = World {
        scale,
        dice: Dice::new(seed),
        nodes: Vec::new(),
        segments: Vec::new(),
        stewards: (0..2).map(|number| Steward::new(number, seed)).collect(),
        tally: Tally::default(),
        report: Report { worst_margin: usize::MAX, ..Report::default() },
        lost: BTreeSet::new(),
    };
    world.settle();
    for hour in 0..(scale.days + 10) * 24 {
        world.hour(hour);
    }
    world.report()
}

impl World {
    fn join(&mut self, kind: Kind) {
        let node = Node::new(self.nodes.len(), kind, &mut self.dice);
        self.tally.nodes.insert(*node.id.as_bytes(), node.number);
        self.nodes.push(node);
    }

    /// The first nodes, and the owner's upload.
    fn settle(&mut self) {
        let cheaters = Kind::CHEATERS.iter().flat_map(|(_, kind)| vec![*kind; self.scale.cheaters_of_a_kind]);
        let mut kinds: Vec<Kind> = cheaters.collect();
        kinds.resize(self.scale.nodes, Kind::Honest);
        kinds.into_iter().for_each(|kind| self.join(kind));
        let candidates: Vec<Candidate> = self.nodes.iter().map(new_candidate).collect();
        for number in 0..self.scale.segments {
            let documents = number % 8 == 0;
            let policy = if documents { self.scale.policy.document_policy() } else { self.scale.policy };
            let mut id = [0; 32];
            id[..8].copy_from_slice(&self.dice.bits().to_le_bytes());
            id[8..12].copy_from_slice(&number.to_le_bytes());
            let chosen = choose(&candidates, policy, &Constraints::default(), &[5; 32], number.into());
            let mut segment = Segment { id: SegmentId::new(id), policy, documents, rows: Vec::new() };
            for (index, node) in (0u8..).zip(chosen.expect("the world is large enough").assigned) {
                let node = self.tally.nodes[node.as_bytes()];
                self.nodes[node].take((number, index), documents, segment.blocks());
                segment.rows.push(vec![(BASE, node)]);
            }
            self.tally.segments.insert(id, number);
            self.tally.touched.insert(number);
            self.segments.push(segment);
        }
    }

    fn hour(&mut self, hour: u32) {
        let quiet = hour >= self.scale.days * 24;
        if !quiet {
            self.fail_some(hour);
            match hour {
                hour if hour == self.scale.days * 24 / 3 => self.lose_a_region(hour),
                hour if hour == self.scale.days * 24 / 2 => self.strike_one_segment(hour),
                _ => {}
            }
            if hour.is_multiple_of(24) {
                self.collude();
            }
        }
        self.rot_and_scrub(hour, quiet);
        for number in 0..self.stewards.len() {
            let steward = &mut self.stewards[number];
            steward.ask(&self.nodes, &self.segments, hour, &mut self.tally);
            let numbers = self.tally.nodes.clone();
            steward.repair(&mut self.nodes, &mut self.segments, &numbers, hour, &mut self.tally);
            // What one publishes, the others see in his overlay.
            let published = self.tally.touched.clone();
            self.stewards.iter_mut().for_each(|steward| steward.dirty.extend(&published));
        }
        self.look_at_the_truth(hour);
    }

    fn fail_some(&mut self, hour: u32) {
        let each_hour = self.scale.failures_per_year / 8766.0;
        let mut joining = 0;
        for number in 0..self.nodes.len() {
            if self.nodes[number].dies.is_some() {
                if self.nodes[number].dies == Some(hour) {
                    self.bury(number, hour);
                }
                continue;
            }
            if self.dice.happens(each_hour) {
                joining += 1;
                // One in three says so before, and stays until its shards are elsewhere or a week is over.
                if self.dice.happens(1.0 / 3.0) {
                    self.nodes[number].leaving = true;
                    self.nodes[number].dies = Some(hour + LEAVE_HOURS);
                } else {
                    self.bury(number, hour);
                }
            } else if self.dice.happens(1.0 / 360.0) && self.nodes[number].is_up(hour) {
                let length = (-6.0 * (1.0 - self.dice.unit()).ln()).clamp(1.0, 40.0);
                let hours = (1..40).find(|hours| f64::from(*hours) >= length).unwrap_or(40);
                self.nodes[number].offline_until = hour + hours;
            }
        }
        (0..joining).for_each(|_| self.join(Kind::Honest));
    }

    fn bury(&mut self, number: usize, hour: u32) {
        let node = &mut self.nodes[number];
        self.report.gone += 1;
        self.report.lost_shards +=
            node.receipts.keys().filter(|shard| node.holds(**shard, hour.saturating_sub(1))).count() as u64;
        node.dies = Some(hour);
        self.tally.touched.extend(node.receipts.keys().map(|shard| shard.0));
    }

    fn lose_a_region(&mut self, hour: u32) {
        let region = u8::try_from(self.dice.below(REGIONS.len())).unwrap_or(0);
        let gone: Vec<usize> = self
            .nodes
            .iter()
            .filter(|node| node.region == region && !node.is_dead(hour))
            .map(|node| node.number)
            .collect();
        gone.iter().for_each(|number| self.bury(*number, hour));
        gone.iter().for_each(|_| self.join(Kind::Honest));
    }

    /// Takes from one segment all that may be lost: exactly k shards are left.
    fn strike_one_segment(&mut self, hour: u32) {
        let number = self.scale.segments / 2 + 1;
        let segment = self.segments[number as usize].clone();
        let mut spare = segment.intact(number, &self.nodes, hour).saturating_sub(usize::from(segment.policy.k()));
        for (index, rows) in (0u8..).zip(&segment.rows) {
            let held = rows.iter().filter(|(_, node)| self.nodes[*node].holds((number, index), hour));
            let nodes: Vec<usize> = held.map(|(_, node)| *node).collect();
            if spare > 0 && !nodes.is_empty() {
                spare -= 1;
                nodes.into_iter().for_each(|node| self.bury(node, hour));
            }
        }
    }

    /// The third steward publishes rows for nodes that sign receipts and keep nothing.
    fn collude(&mut self) {
        let liars: Vec<usize> =
            self.nodes.iter().filter(|node| node.kind == Kind::HoldsNothing).map(|node| node.number).collect();
        for _ in 0..20 {
            let number = self.dice.below(self.segments.len());
            let segment = &mut self.segments[number];
            let index = self.dice.below(segment.rows.len());
            let Some(liar) = liars.get(self.dice.below(liars.len())).copied() else { return };
            let index = ShardIndex::new(u8::try_from(index).unwrap_or(0));
            let number = u32::try_from(number).unwrap_or(0);
            if segment.rows[index.get()].iter().all(|(author, node)| *author != COLLUDER && *node != liar) {
                self.nodes[liar].take((number, index.to_byte()), segment.documents, segment.blocks());
                segment.add(index, COLLUDER, liar);
                self.tally.touched.insert(number);
            }
        }
    }

    /// One shard a node and year rots; every node reads all it has once in thirty days.
    fn rot_and_scrub(&mut self, hour: u32, quiet: bool) {
        for node in &mut self.nodes {
            if node.is_dead(hour) {
                continue;
            }
            if !quiet && self.dice.happens(1.0 / 8766.0) && !node.receipts.is_empty() {
                let place = self.dice.below(node.receipts.len());
                let shard = node.receipts.keys().nth(place).copied().expect("below the length");
                self.report.lost_shards += u64::from(node.holds(shard, hour));
                let block = self.dice.below(DOCUMENT_BLOCKS as usize);
                node.damaged.insert(shard, u32::try_from(block).unwrap_or(0));
                self.tally.touched.insert(shard.0);
            }
            if hour % 720 == u32::try_from(node.number % 720).unwrap_or(0) {
                node.found_damaged.extend(node.damaged.keys().copied());
            }
        }
    }

    fn look_at_the_truth(&mut self, hour: u32) {
        for number in core::mem::take(&mut self.tally.touched) {
            let segment = &self.segments[number as usize];
            let intact = segment.intact(number, &self.nodes, hour);
            let k = usize::from(segment.policy.k());
            self.report.worst_margin = self.report.worst_margin.min(intact.saturating_sub(k));
            if intact < k {
                self.lost.insert(number);
            }
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "means of hours")]
    fn report(mut self) -> Report {
        let end = (self.scale.days + 10) * 24;
        let margins = (0u32..).zip(&self.segments).map(|(number, segment)| {
            let intact = i64::try_from(segment.intact(number, &self.nodes, end)).unwrap_or(0);
            intact - i64::from(hard_floor(segment.policy))
        });
        self.report.margin_over_floor_at_end = margins.min().unwrap_or(0);
        let tally = &self.tally;
        for (name, kind) in Kind::CHEATERS {
            let of_kind: Vec<&Node> = self
                .nodes
                .iter()
                .filter(|node| node.kind == kind && (kind == Kind::ServesNothing || node.lacks_something()))
                .filter(|node| {
                    let first = tally.first_shard.get(&node.number);
                    first.is_some_and(|first| node.dies.unwrap_or(end).min(end) >= first + JUDGED_AFTER_HOURS)
                })
                .collect();
            let hours = |when: &BTreeMap<usize, u32>| {
                let all: Vec<u32> = of_kind
                    .iter()
                    .filter_map(|node| Some(when.get(&node.number)? - tally.first_shard.get(&node.number)?))
                    .collect();
                f64::from(all.iter().sum::<u32>()) / (all.len() as f64).max(1.0)
            };
            let draws = of_kind.iter().filter_map(|node| tally.draws.get(&node.number));
            let sum = draws
                .fold((0, 0, 0.0, 0.0), |sum, next| (sum.0 + next.0, sum.1 + next.1, sum.2 + next.2, sum.3 + next.3));
            let doubted = |node: &&&Node| tally.doubted.get(&node.number).is_some_and(|by| by.len() == 2);
            let caught = Caught {
                cheaters: of_kind.len(),
                found: of_kind.iter().filter(doubted).count(),
                mean_hours_to_evidence: hours(&tally.first_evidence),
                mean_hours_to_bad: hours(&tally.first_bad),
                bad: of_kind.iter().filter(|node| tally.first_bad.contains_key(&node.number)).count(),
                challenges: sum.0,
                hits: sum.1,
                expected_hits: sum.2,
                deviations: if sum.3 > 0.0 { (sum.1 as f64 - sum.2) / sum.3.sqrt() } else { 0.0 },
            };
            self.report.caught.insert(name, caught);
        }
        let honest = |number: &&usize| self.nodes[**number].kind == Kind::Honest;
        Report {
            nodes: self.nodes.len(),
            lost_segments: self.lost.len(),
            wronged: tally.fallen.iter().filter(honest).count(),
            published: tally.published,
            dropped_before_publishing: tally.dropped_before_publishing,
            rebuilds: tally.rebuilds,
            traffic_bytes: tally.traffic_bytes,
            placed_bytes: tally.placed_bytes,
            ..self.report
        }
    }
}

fn new_candidate(node: &Node) -> Candidate {
    Candidate {
        node: NodeId::new(*node.id.as_bytes()),
        operator: Some(OperatorId::new([node.operator; 32])),
        addresses: Vec::new(),
        region: Some(region(node.region)),
        standing: STANDING_UNKNOWN,
        free_bytes: 1 << 30,
        proven_bytes: 0,
    }
}
