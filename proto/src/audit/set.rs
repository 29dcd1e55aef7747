//! The set of shards that a challenge draws from: a tree that commits to every root and length, and to their sum.
//!
//! Decides how a set is committed to and how the part of it that a draw touches is shown. Never decides which shards an
//! auditor believes a node to hold. The tree has the shape of RFC 6962; the layout stands in `docs/wire.md`, Prove.

use super::AuditError;
use super::draw::{Draw, Drawn};
use crate::codec::{Reader, Writer};
use crate::ids::ShardRoot;
use crate::keys::{context, derive};
use crate::limits::{AUDIT_SET_MAX, AUDIT_TREE_MAX_BYTES, SHARD_MAX_BYTES};

const PRUNED: u8 = 0;
const LEAF: u8 = 1;
const INNER: u8 = 2;

/// A shard that an auditor knows a node to hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SetShard {
    /// Its root.
    pub root: ShardRoot,
    /// Its length; 1 to [`SHARD_MAX_BYTES`].
    pub length_bytes: u32,
}

/// What commits to a set: stands in the challenge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SetTop {
    /// The hash over all roots, lengths and sums.
    pub hash: [u8; 32],
    /// The sum of all lengths.
    pub bytes: u64,
    /// How many shards there are; 1 to [`AUDIT_SET_MAX`].
    pub count: u64,
}

/// A part of the tree: its hash and the bytes below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    hash: [u8; 32],
    bytes: u64,
}

impl Part {
    fn leaf(shard: &SetShard) -> Self {
        let hash = derive(context::AUDIT_SET_LEAF, &[shard.root.as_bytes(), &shard.length_bytes.to_le_bytes()]);
        Self { hash, bytes: shard.length_bytes.into() }
    }

    fn join(left: &Self, right: &Self) -> Result<Self, AuditError> {
        let (left_bytes, right_bytes) = (left.bytes.to_le_bytes(), right.bytes.to_le_bytes());
        let hash = derive(context::AUDIT_SET_NODE, &[&left.hash, &left_bytes, &right.hash, &right_bytes]);
        Ok(Self {
            hash,
            bytes: left.bytes.checked_add(right.bytes).ok_or(AuditError::Set("more bytes than there can be"))?,
        })
    }
}

/// How many leaves the left part of a tree of `count` leaves has, `count` being at least 2.
const fn left_of(count: u64) -> u64 {
    1 << (count - 1).ilog2()
}

/// Commits to a set of which only one shard at a time is in memory.
#[derive(Debug, Default)]
pub struct SetBuilder {
    /// Full subtrees from the left, with the logarithm of their leaf count, falling.
    parts: Vec<(u32, Part)>,
    count: u64,
    last: Option<ShardRoot>,
}

impl SetBuilder {
    /// No shard yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next shard; roots ascend.
    ///
    /// # Errors
    /// [`AuditError::Set`] when it is out of order, has an impossible length, or is one too many: the caller's mistake.
    pub fn push(&mut self, shard: &SetShard) -> Result<(), AuditError> {
        if self.last.is_some_and(|last| last >= shard.root) {
            return Err(AuditError::Set("its shards are not in ascending order"));
        }
        if shard.length_bytes == 0 || shard.length_bytes as usize > SHARD_MAX_BYTES || self.count == AUDIT_SET_MAX {
            return Err(AuditError::Set("a shard of an impossible length, or too many"));
        }
        self.last = Some(shard.root);
        self.count += 1;
        let mut part = (0, Part::leaf(shard));
        while let Some((height, left)) = self.parts.last().filter(|(height, _)| *height == part.0) {
            part = (height + 1, Part::join(left, &part.1)?);
            self.parts.pop();
        }
        self.parts.push(part);
        Ok(())
    }

    /// What commits to all shards added.
    ///
    /// # Errors
    /// [`AuditError::Set`] when there are none.
    pub fn finish(self) -> Result<SetTop, AuditError> {
        let mut parts = self.parts.into_iter().rev().map(|(_, part)| part);
        let last = parts.next().ok_or(AuditError::Set("it is empty"))?;
        let top = parts.try_fold(last, |right, left| Part::join(&left, &right))?;
        Ok(SetTop { hash: top.hash, bytes: top.bytes, count: self.count })
    }
}

/// Shows the part of a set that a draw touches, from a second pass over the same shards, of which only one at a time is
/// in memory: the pruned set, and what was drawn.
///
/// # Errors
/// [`AuditError::Set`] when the shards are not those of `top`: the caller's mistake.
pub fn prune_set<E: From<AuditError>>(
    top: &SetTop,
    draw: &Draw,
    shards: &mut dyn Iterator<Item = Result<SetShard, E>>,
) -> Result<(Vec<u8>, Vec<Drawn>), E> {
    let mut pruner = Pruner { draw, shards, index: 0, offset: 0, drawn: Vec::new() };
    let (tree, part) = pruner.prune(top.count)?;
    if (Part { hash: top.hash, bytes: top.bytes }) != part {
        return Err(AuditError::Set("it changed between two passes").into());
    }
    Ok((tree, pruner.drawn))
}

struct Pruner<'a, E> {
    draw: &'a Draw,
    shards: &'a mut dyn Iterator<Item = Result<SetShard, E>>,
    index: u64,
    offset: u64,
    drawn: Vec<Drawn>,
}

impl<E: From<AuditError>> Pruner<'_, E> {
    /// Recursion is at most as deep as `count` has bits.
    fn prune(&mut self, count: u64) -> Result<(Vec<u8>, Part), E> {
        if count > 1 {
            let (mut tree, drawn) = (vec![INNER], self.drawn.len());
            let left_count = left_of(count);
            let (left_tree, left) = self.prune(left_count)?;
            let (right_tree, right) = self.prune(count - left_count)?;
            let part = Part::join(&left, &right)?;
            if self.drawn.len() == drawn {
                return Ok((pruned(&part), part));
            }
            tree.extend_from_slice(&left_tree);
            tree.extend_from_slice(&right_tree);
            return Ok((tree, part));
        }
        let shard = self.shards.next().ok_or(AuditError::Set("it has fewer shards than its top says"))??;
        let part = Part::leaf(&shard);
        let blocks = self.draw.blocks_of(self.index, self.offset, shard.length_bytes);
        self.index += 1;
        self.offset = self.offset.checked_add(part.bytes).ok_or(AuditError::Set("more bytes than there can be"))?;
        if blocks.is_empty() {
            return Ok((pruned(&part), part));
        }
        self.drawn.push(Drawn { shard, blocks });
        let mut writer = Writer::new();
        writer.u8(LEAF);
        writer.raw(shard.root.as_bytes());
        writer.u32(shard.length_bytes);
        Ok((writer.into_bytes(), part))
    }
}

fn pruned(part: &Part) -> Vec<u8> {
    let mut writer = Writer::new();
    writer.u8(PRUNED);
    writer.raw(&part.hash);
    writer.u64(part.bytes);
    writer.into_bytes()
}

/// Reads a pruned set and finds in it what a draw asks for: every drawn shard has to be there, and no other.
///
/// # Errors
/// [`AuditError::Set`]: the sender's fault.
pub fn open_set(top: &SetTop, draw: &Draw, tree: &[u8]) -> Result<Vec<Drawn>, AuditError> {
    if tree.len() > AUDIT_TREE_MAX_BYTES || top.count == 0 || top.count > AUDIT_SET_MAX {
        return Err(AuditError::Set("it is larger than any"));
    }
    let mut opener = Opener { draw, reader: Reader::new(tree), index: 0, offset: 0, drawn: Vec::new() };
    let part = opener.open(top.count)?;
    if opener.reader.remaining() > 0 || (Part { hash: top.hash, bytes: top.bytes }) != part {
        return Err(AuditError::Set("it is not the one of the challenge"));
    }
    Ok(opener.drawn)
}

struct Opener<'a> {
    draw: &'a Draw,
    reader: Reader<'a>,
    index: u64,
    offset: u64,
    drawn: Vec<Drawn>,
}

impl Opener<'_> {
    /// Recursion is at most as deep as `count` has bits.
    fn open(&mut self, count: u64) -> Result<Part, AuditError> {
        let cut = |_| AuditError::Set("it ends too soon");
        match (self.reader.u8("a part of a set").map_err(cut)?, count) {
            (PRUNED, _) => {
                let hash = self.reader.array("a part's hash").map_err(cut)?;
                let bytes = self.reader.u64("a part's bytes").map_err(cut)?;
                let end = self.offset.checked_add(bytes).ok_or(AuditError::Set("more bytes than there can be"))?;
                if self.draw.touches(self.index..self.index + count, self.offset..end) {
                    return Err(AuditError::Set("a shard that is drawn is left out"));
                }
                self.index += count;
                self.offset = end;
                Ok(Part { hash, bytes })
            }
            (LEAF, 1) => {
                let root = ShardRoot::new(self.reader.array("a root").map_err(cut)?);
                let length_bytes = self.reader.u32("a length").map_err(cut)?;
                if length_bytes == 0 || length_bytes as usize > SHARD_MAX_BYTES {
                    return Err(AuditError::Set("a shard of an impossible length"));
                }
                let shard = SetShard { root, length_bytes };
                let blocks = self.draw.blocks_of(self.index, self.offset, length_bytes);
                if blocks.is_empty() || self.drawn.last().is_some_and(|last| last.shard.root >= root) {
                    return Err(AuditError::Set("a shard that is not drawn, or out of order"));
                }
                let part = Part::leaf(&shard);
                self.index += 1;
                self.offset =
                    self.offset.checked_add(part.bytes).ok_or(AuditError::Set("more bytes than there can be"))?;
                self.drawn.push(Drawn { shard, blocks });
                Ok(part)
            }
            (INNER, 2..) => {
                let (left_count, drawn) = (left_of(count), self.drawn.len());
                let left = self.open(left_count)?;
                let right = self.open(count - left_count)?;
                if self.drawn.len() == drawn {
                    return Err(AuditError::Set("a part in which nothing is drawn is not left out"));
                }
                Part::join(&left, &right)
            }
            _ => Err(AuditError::Set("a part of an unknown kind")),
        }
    }
}
