//! Virtual nodes: what they promise, what they hold, how they cheat.

use std::collections::{BTreeMap, BTreeSet};

use dolmen_proto::ids::NodeId;

use super::Shard;
use super::dice::{Dice, is_among};

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    /// It does what it can; disks rot, lines time out.
    Honest,
    /// It drops this share of all blocks and answers with made-up ones: rebuilding them from neighbours fails, parity is masked.
    Drops(f64),
    /// It drops documents.
    DropsDocuments,
    /// It drops this share and is silent exactly when it cannot answer.
    Silent(f64),
    /// It drops this share and says so when it is asked.
    Admits(f64),
    /// It proves everything and serves no reader.
    ServesNothing,
    /// It signs receipts and keeps nothing.
    HoldsNothing,
}

impl Kind {
    /// The kinds of cheaters, each with a name for reports.
    pub const CHEATERS: [(&'static str, Self); 11] = [
        ("drops 0.1 %", Self::Drops(0.001)),
        ("drops 1 %", Self::Drops(0.01)),
        ("drops 10 %", Self::Drops(0.1)),
        ("drops 50 %", Self::Drops(0.5)),
        ("drops documents", Self::DropsDocuments),
        ("silent, drops 1 %", Self::Silent(0.01)),
        ("silent, drops 10 %", Self::Silent(0.1)),
        ("admits 1 %", Self::Admits(0.01)),
        ("admits 10 %", Self::Admits(0.1)),
        ("serves nothing", Self::ServesNothing),
        ("holds nothing", Self::HoldsNothing),
    ];

    /// Whether it lacks a block.
    fn lacks(self, node: usize, shard: Shard, documents: bool, block: u32) -> bool {
        let share = match self {
            Self::Honest | Self::ServesNothing => 0.0,
            Self::Drops(share) | Self::Silent(share) | Self::Admits(share) => share,
            Self::DropsDocuments => f64::from(u8::from(documents)),
            Self::HoldsNothing => 1.0,
        };
        share > 0.0 && is_among(share, [node as u64, u64::from(shard.0) << 8 | u64::from(shard.1), u64::from(block)])
    }
}

/// A node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Its id.
    pub id: NodeId,
    /// Its place in the world.
    pub number: usize,
    /// Who runs it.
    pub operator: u8,
    /// Where it stands.
    pub region: u8,
    /// How it behaves.
    pub kind: Kind,
    /// The hour in which it is gone for good, once that is known to the world.
    pub dies: Option<u32>,
    /// Whether it has said that it leaves.
    pub leaving: bool,
    /// The hour in which it is back.
    pub offline_until: u32,
    /// What it signed receipts for, with how many blocks it lacks of each.
    pub receipts: BTreeMap<Shard, u32>,
    /// Shards with one damaged block, with the block.
    pub damaged: BTreeMap<Shard, u32>,
    /// Damaged shards that its scrub has found.
    pub found_damaged: BTreeSet<Shard>,
}

impl Node {
    /// A node that has nothing.
    #[must_use]
    pub fn new(number: usize, kind: Kind, dice: &mut Dice) -> Self {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&dice.bits().to_le_bytes());
        id[8..16].copy_from_slice(&(number as u64).to_le_bytes());
        Self {
            id: NodeId::new(id),
            number,
            operator: u8::try_from(dice.below(200)).unwrap_or(0),
            region: u8::try_from(dice.below(8)).unwrap_or(0),
            kind,
            dies: None,
            leaving: false,
            offline_until: 0,
            receipts: BTreeMap::new(),
            damaged: BTreeMap::new(),
            found_damaged: BTreeSet::new(),
        }
    }

    /// Signs a receipt, and keeps what it cares to keep.
    pub fn take(&mut self, shard: Shard, documents: bool, blocks: u32) {
        let lacks = (0..blocks).filter(|block| self.kind.lacks(self.number, shard, documents, *block)).count();
        self.receipts.insert(shard, u32::try_from(lacks).unwrap_or(u32::MAX));
        self.damaged.remove(&shard);
        self.found_damaged.remove(&shard);
    }

    /// Whether it is gone.
    #[must_use]
    pub fn is_dead(&self, hour: u32) -> bool {
        self.dies.is_some_and(|dies| dies <= hour)
    }

    /// Whether it can be reached.
    #[must_use]
    pub fn is_up(&self, hour: u32) -> bool {
        !self.is_dead(hour) && self.offline_until <= hour
    }

    /// Whether the whole shard is there: that decides about loss, also while the node is offline.
    #[must_use]
    pub fn holds(&self, shard: Shard, hour: u32) -> bool {
        !self.is_dead(hour) && self.receipts.get(&shard) == Some(&0) && !self.damaged.contains_key(&shard)
    }

    /// Whether a reader gets the shard.
    #[must_use]
    pub fn serves(&self, shard: Shard, hour: u32) -> bool {
        self.is_up(hour) && self.holds(shard, hour) && self.kind != Kind::ServesNothing
    }

    /// Whether it can prove a block.
    #[must_use]
    pub fn proves(&self, shard: Shard, documents: bool, block: u32) -> bool {
        let lacks = self.receipts.get(&shard).is_none_or(|lacks| *lacks > 0)
            && self.kind.lacks(self.number, shard, documents, block);
        !lacks && !self.found_damaged.contains(&shard) && self.damaged.get(&shard) != Some(&block)
    }

    /// Whether it lacks any block of what it signed for.
    #[must_use]
    pub fn lacks_something(&self) -> bool {
        self.receipts.values().any(|lacks| *lacks > 0)
    }

    /// Whether every block of everything can be proven: then nothing has to be drawn to know the outcome.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.damaged.is_empty() && matches!(self.kind, Kind::Honest | Kind::ServesNothing)
    }
}
